//! Fair shares by virtual time, and among flows within their share, the earliest due first.
//!
//! A flow (a stream, a tenant, a model) carries a tag: the lane time it has had. The queue's clock is the lane time that a flow
//! with a fair share has had. Flows at or behind the clock are *eligible* and go by their due time; the others are *ahead*, and
//! go when no eligible flow is left, least served first, so that no lane is kept idle for fairness. This is weighted fair
//! queueing with deadlines inside (as in EEVDF) rather than plain deficit round robin, which has no place for deadlines.
//!
//! A flow whose head has a deadline counts as eligible while it is ahead by no more than the slack: a short burst is served in
//! time, a lasting flood only at its fair share.
//!
//! A *strict* flow has no slack; but while it briefly has nothing to run, what it lacks of its share is remembered, up to the
//! slack. A stream that drops is strict while its items have no deadlines of their own: they are replaced before they run, or run
//! before the next one arrives, so the stream keeps leaving and coming back, and which one is due first depends only on when
//! items arrive and when lanes become free. With slack and without memory, the same streams would lose every time.
//!
//! # Weights
//! A flow with weight w is charged a w-th of the lane time that it has, so it has w times the lane time of one with weight 1
//! while both have work. Its tag and the clock then count lane time for each unit of weight: the clock advances by what is given
//! out, divided by the weights of all flows that share. These are counted as the flows themselves are: those that are present, and
//! those that departed ahead. A flow that was handed out counts until it comes back or departs. With weights of 1 nothing is
//! counted, and all is as it would be without weights. A weight that changes applies to what is charged from then on, and to the
//! clock once the flow is placed again. Slack is in units of the clock too, so a flow with weight w may be ahead by w times as much.

use tidemill_domain::Timestamp;

use super::front::FrontMap;

/// Lane time, in nanoseconds.
pub(super) type Work = u64;

/// Flows ahead of their share that one pass looks at. Bounds its time.
const AHEAD_LOOKED_AT: usize = 512;

/// What the head of a flow asks for, most urgent first. No two heads of a queue make the same claim, because arrivals differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Claim {
    /// When the head should run at the latest.
    pub(super) due: Timestamp,
    /// Order of arrival at the scheduler.
    pub(super) arrival: u64,
    /// Whether the head has a deadline of its own.
    pub(super) urgent: bool,
    /// Whether its flow is held to its share; see the module's text.
    pub(super) strict: bool,
}

/// A flow's account. It stays with the flow's owner even while the flow has nothing to run.
#[derive(Debug, Default)]
pub(super) struct Flow {
    /// Lane time it has had, on its queue's clock.
    tag: Work,
    place: Option<Place>,
    /// The tag it is listed under among the flows that departed ahead.
    departed: Option<Work>,
    /// Whether it is held to its share; see the module's text.
    strict: bool,
    /// How far a strict flow was behind the clock when it last had nothing to run.
    owed: Work,
    /// Its weight beyond 1.
    extra: u32,
    /// How much of it its queue counts.
    counted: u32,
}

#[derive(Debug, Clone, Copy)]
enum Place {
    Eligible(Claim),
    Ahead(Work, Claim),
}

impl Claim {
    /// Sorts no later than any claim due at `due`.
    const fn earliest(due: Timestamp) -> Self {
        Self { due, arrival: 0, urgent: false, strict: false }
    }
}

impl Flow {
    /// How far ahead it may be.
    const fn slack_of(&self, slack: Work, claim: Claim) -> Work {
        if claim.urgent && !self.strict { slack } else { 0 }
    }

    /// Gives it this weight from now on.
    pub(super) const fn set_weight(&mut self, weight: u32) {
        self.extra = weight.saturating_sub(1);
    }

    /// Books lane time.
    #[inline]
    fn add(&mut self, work: Work) {
        self.tag += if self.extra == 0 { work } else { work / (Work::from(self.extra) + 1) };
    }

    pub(super) const fn is_placed(&self) -> bool {
        self.place.is_some()
    }

    /// Call for a flow that [`FairQueue::pop_first`] has handed out.
    pub(super) const fn set_out(&mut self) {
        self.place = None;
    }

    const fn claim(&self) -> Option<Claim> {
        match self.place {
            Some(Place::Eligible(claim) | Place::Ahead(_, claim)) => Some(claim),
            None => None,
        }
    }
}

/// Flows that share one resource.
#[derive(Debug)]
pub(super) struct FairQueue<K> {
    /// Eligible flows whose head has a deadline.
    urgent: FrontMap<Claim, K>,
    /// Eligible flows whose head has no deadline.
    patient: FrontMap<Claim, K>,
    ahead: FrontMap<(Work, Claim), K>,
    /// Flows that have nothing to run and have had more than their share. They count as sharing until the clock has caught up;
    /// otherwise it would run too fast whenever many flows are in service.
    /// With each, how much of its weight is counted.
    departed: FrontMap<(Work, K), u32>,
    /// Weights beyond 1 of the flows that share.
    extra: Work,
    clock: Work,
    /// Work too small for one step of the clock for each flow.
    carry: Work,
    slack: Work,
}

impl<K> Default for FairQueue<K> {
    fn default() -> Self {
        Self {
            urgent: FrontMap::new(),
            patient: FrontMap::new(),
            ahead: FrontMap::new(),
            departed: FrontMap::new(),
            extra: 0,
            clock: 0,
            carry: 0,
            slack: 0,
        }
    }
}

impl<K: Ord + Copy> FairQueue<K> {
    /// Sets how far ahead a flow may be when its head has a deadline.
    pub(super) const fn set_slack(&mut self, slack: Work) {
        self.slack = slack;
    }

    pub(super) fn len(&self) -> usize {
        self.urgent.len() + self.patient.len() + self.ahead.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.nobody_is_eligible() && self.ahead.is_empty()
    }

    fn nobody_is_eligible(&self) -> bool {
        self.urgent.is_empty() && self.patient.is_empty()
    }

    const fn eligible(&mut self, claim: Claim) -> &mut FrontMap<Claim, K> {
        if claim.urgent { &mut self.urgent } else { &mut self.patient }
    }

    /// Places a flow that had nothing to run. What it left unused of its share in that time is lost.
    pub(super) fn enter(&mut self, flow: &mut Flow, key: K, claim: Claim) {
        flow.tag = flow.tag.max(self.clock.saturating_sub(flow.owed));
        self.place(flow, key, claim);
    }

    /// Places a flow, or moves it, according to what its head claims now.
    pub(super) fn place(&mut self, flow: &mut Flow, key: K, claim: Claim) {
        flow.strict = claim.strict;
        if flow.is_placed() {
            if flow.claim() == Some(claim) {
                return;
            }
            self.take_out(flow);
        }
        if let Some(tag) = flow.departed.take()
            && self.departed.remove(&(tag, key)).is_none()
        {
            // The clock has caught up with it, and its weight went with it.
            flow.counted = 0;
        }
        self.count(flow);
        let from = flow.tag.saturating_sub(flow.slack_of(self.slack, claim));
        flow.place = Some(if from <= self.clock {
            self.eligible(claim).insert(claim, key);
            Place::Eligible(claim)
        } else {
            self.ahead.insert((from, claim), key);
            Place::Ahead(from, claim)
        });
    }

    /// Counts a flow's weight among those that share.
    #[inline]
    fn count(&mut self, flow: &mut Flow) {
        if flow.counted != flow.extra {
            self.extra = (self.extra + Work::from(flow.extra)).saturating_sub(Work::from(flow.counted));
            flow.counted = flow.extra;
        }
    }

    /// Counts it no longer, unless it goes on sharing although it has departed.
    #[inline]
    fn discount(&mut self, flow: &mut Flow) {
        if flow.counted != 0 && flow.departed.is_none() {
            self.extra = self.extra.saturating_sub(Work::from(flow.counted));
            flow.counted = 0;
        }
    }

    /// Notes that a flow has nothing to run, wherever it stood.
    pub(super) fn leave(&mut self, flow: &mut Flow) {
        self.take_out(flow);
        self.note_owed(flow);
        self.discount(flow);
    }

    fn note_owed(&self, flow: &mut Flow) {
        if flow.strict {
            flow.owed = self.clock.saturating_sub(flow.tag).min(self.slack);
        } else {
            flow.owed = 0;
        }
    }

    fn take_out(&mut self, flow: &mut Flow) {
        match flow.place.take() {
            // A flow that was placed ahead becomes eligible as the clock advances, without its own account being updated.
            Some(Place::Ahead(from, claim)) if self.ahead.remove(&(from, claim)).is_some() => {}
            Some(Place::Ahead(_, claim) | Place::Eligible(claim)) => {
                self.eligible(claim).remove(&claim);
            }
            None => {}
        }
    }

    /// Takes a flow out wherever it stands, whatever its account says. Looks at all flows.
    pub(super) fn expel(&mut self, flow: &mut Flow, key: K) {
        flow.place = None;
        self.discount(flow);
        self.urgent.retain(|other| other != key);
        self.patient.retain(|other| other != key);
        self.ahead.retain(|other| other != key);
    }

    /// Notes that a flow handed out has nothing to run.
    pub(super) fn depart(&mut self, flow: &mut Flow, key: K) {
        self.note_owed(flow);
        // A flow held to its share usually comes back at once.
        let until = if flow.strict { flow.tag.max(self.clock) + self.slack } else { flow.tag };
        if flow.departed.is_some() {
            return;
        }
        if until > self.clock {
            self.count(flow);
            flow.departed = Some(until);
            self.departed.insert((until, key), flow.counted);
        } else {
            self.discount(flow);
        }
    }

    /// Forgets a flow that will not come back.
    pub(super) fn forget(&mut self, flow: &mut Flow, key: K) {
        self.leave(flow);
        if let Some(until) = flow.departed.take() {
            let counted = self.departed.remove(&(until, key)).unwrap_or(0);
            self.extra = self.extra.saturating_sub(Work::from(counted));
            flow.counted = 0;
        }
    }

    /// Takes out the flow next in turn, passing over flows whose head is due before `not_before`. The caller then calls
    /// [`Flow::set_out`] on it.
    pub(super) fn pop_first(&mut self, not_before: Timestamp) -> Option<K> {
        let urgent = self.urgent.first_from(Claim::earliest(not_before)).map(|(claim, _)| claim);
        match (urgent, self.patient.first()) {
            (Some(urgent), patient) if patient.is_none_or(|(patient, _)| urgent < patient) => return self.urgent.remove(&urgent),
            (_, Some(_)) => return self.patient.pop_first().map(|(_, key)| key),
            (_, None) => {}
        }
        let makes_it = |claim: &Claim| !claim.urgent || claim.due >= not_before;
        let (place, key) = self.ahead.iter().take(AHEAD_LOOKED_AT).find(|((_, claim), _)| makes_it(claim))?;
        self.ahead.remove(&place);
        if self.nobody_is_eligible() {
            // All those left are at least as far ahead as the first was.
            self.advance_to(self.ahead.first().map_or(place.0, |((from, _), _)| place.0.min(from)));
        }
        Some(key)
    }

    /// Flows whose head has no deadline or is due at `due` or later, in no particular order, as far as one pass looks.
    pub(super) fn not_due_before(&self, due: Timestamp) -> impl Iterator<Item = K> + '_ {
        let urgent = self.urgent.iter_from(Claim::earliest(due)).rev();
        let ahead = self.ahead.iter().take(AHEAD_LOOKED_AT);
        let ahead = ahead.filter(move |((_, claim), _)| !claim.urgent || claim.due >= due);
        self.patient.iter().chain(urgent).map(|(_, key)| key).chain(ahead.map(|(_, key)| key))
    }

    /// The first flow whose head has no deadline or is due at `not_before` or later; it stays where it is.
    pub(super) fn first_not_before(&self, not_before: Timestamp) -> Option<K> {
        let urgent = self.urgent.first_from(Claim::earliest(not_before));
        let eligible = urgent.into_iter().chain(self.patient.first()).min_by_key(|(claim, _)| *claim);
        let makes_it = |claim: &Claim| !claim.urgent || claim.due >= not_before;
        let ahead = || self.ahead.iter().take(AHEAD_LOOKED_AT).find(|((_, claim), _)| makes_it(claim)).map(|(_, key)| key);
        eligible.map(|(_, key)| key).or_else(ahead)
    }

    /// The flow next in turn, and what it claims.
    pub(super) fn first(&self) -> Option<(Claim, K)> {
        let first = match (self.urgent.first(), self.patient.first()) {
            (Some(urgent), Some(patient)) => Some(if urgent.0 < patient.0 { urgent } else { patient }),
            (urgent, patient) => urgent.or(patient),
        };
        first.or_else(|| self.ahead.first().map(|((_, claim), key)| (claim, key)))
    }

    /// Whether this flow is next in turn.
    pub(super) fn leads(&self, key: K) -> bool {
        self.first().is_some_and(|(_, first)| first == key)
    }

    /// All flows in turn, as things stand.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Claim, K)> + '_ {
        let (mut urgent, mut patient) = (self.urgent.iter().peekable(), self.patient.iter().peekable());
        let eligible = std::iter::from_fn(move || {
            let urgent_first = match (urgent.peek(), patient.peek()) {
                (Some((urgent, _)), Some((patient, _))) => urgent < patient,
                (first, _) => first.is_some(),
            };
            if urgent_first { urgent.next() } else { patient.next() }
        });
        eligible.chain(self.ahead.iter().map(|((_, claim), key)| (claim, key)))
    }

    /// Books lane time given to the only flow. It keeps its place even if it is no longer ahead: [`FairQueue::replace`] moves it
    /// once it is no longer alone.
    pub(super) fn charge_alone(&mut self, flow: &mut Flow, work: Work) {
        self.clock = self.clock.max(flow.tag);
        self.forget_caught_up();
        flow.add(work);
    }

    /// Places a flow again, whatever it claimed before.
    pub(super) fn replace(&mut self, flow: &mut Flow, key: K, claim: Claim) {
        self.take_out(flow);
        self.place(flow, key, claim);
    }

    /// Books lane time given to a flow.
    pub(super) fn charge(&mut self, flow: &mut Flow, key: K, work: Work) {
        let claim = flow.claim();
        self.take_charged(flow, work);
        if let Some(claim) = claim {
            self.place(flow, key, claim);
        }
    }

    /// Takes a flow out, wherever it stands, and books the lane time it is given.
    pub(super) fn take_charged(&mut self, flow: &mut Flow, work: Work) {
        if let Some(Place::Ahead(from, _)) = flow.place
            && self.nobody_is_eligible()
        {
            self.advance_to(from);
        }
        self.take_out(flow);
        flow.add(work);
        // A flow that is alone gains on the clock, so that it is still ahead of one that arrives later.
        let flows = ((self.len() + self.departed.len()) as Work + 1).max(2) + self.extra;
        self.carry += work;
        self.advance_to(self.clock + self.carry / flows);
        self.carry %= flows;
    }

    fn advance_to(&mut self, clock: Work) {
        self.clock = self.clock.max(clock);
        while let Some(((from, claim), key)) = self.ahead.first()
            && from <= self.clock
        {
            self.ahead.pop_first();
            self.eligible(claim).insert(claim, key);
        }
        self.forget_caught_up();
    }

    /// Forgets flows that have nothing to run and are no longer ahead.
    fn forget_caught_up(&mut self) {
        while let Some(((tag, _), counted)) = self.departed.first()
            && tag <= self.clock
        {
            self.departed.pop_first();
            self.extra = self.extra.saturating_sub(Work::from(counted));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn claim(due: u64) -> Claim {
        Claim { due: Timestamp::from_nanos(due), arrival: due, urgent: false, strict: false }
    }

    /// Serves the flow next in turn, `work` each time, and counts how often each was served.
    fn serve(queue: &mut FairQueue<usize>, flows: &mut [Flow], claims: &[Claim], works: &[Work], turns: usize) -> Vec<Work> {
        let mut had = vec![0; flows.len()];
        for _ in 0..turns {
            let key = queue.pop_first(Timestamp::ZERO).expect("all flows always have work");
            flows[key].set_out();
            queue.charge(&mut flows[key], key, works[key]);
            had[key] += works[key];
            queue.place(&mut flows[key], key, claims[key]);
        }
        had
    }

    #[test]
    fn flows_with_calls_of_any_length_have_equal_lane_time() {
        let mut queue = FairQueue::default();
        let mut flows: Vec<Flow> = (0..4).map(|_| Flow::default()).collect();
        let claims = [claim(1), claim(2), claim(3), claim(4)];
        for (key, flow) in flows.iter_mut().enumerate() {
            queue.enter(flow, key, claims[key]);
        }
        let had = serve(&mut queue, &mut flows, &claims, &[100, 1, 10, 37], 20_000);
        let (least, most) = (had.iter().min().expect("four"), had.iter().max().expect("four"));
        assert!(most - least <= 200, "{had:?}");
    }

    #[test]
    fn flows_have_lane_time_in_proportion_to_their_weights() {
        let mut queue = FairQueue::default();
        let mut flows: Vec<Flow> = (0..3).map(|_| Flow::default()).collect();
        let claims = [claim(1), claim(2), claim(3)];
        for (key, weight) in [5, 1, 2].into_iter().enumerate() {
            flows[key].set_weight(weight);
            queue.enter(&mut flows[key], key, claims[key]);
        }
        let had = serve(&mut queue, &mut flows, &claims, &[100, 300, 70], 20_000);
        let unit = had.iter().sum::<Work>() / 8;
        for (had, weight) in had.iter().zip([5, 1, 2]) {
            assert!(had.abs_diff(weight * unit) <= 2_000, "{had} of weight {weight}, where a unit is {unit}");
        }
        // The clock is what a flow of weight 1 has had.
        assert!(queue.clock.abs_diff(unit) <= 1_000, "{} where a unit is {unit}", queue.clock);
    }

    #[test]
    fn weights_are_counted_for_as_long_as_their_flows_share() {
        let mut queue = FairQueue::default();
        let mut flows = [Flow::default(), Flow::default()];
        flows[0].set_weight(4);
        queue.enter(&mut flows[0], 0, claim(1));
        queue.enter(&mut flows[1], 1, claim(2));
        assert_eq!(queue.extra, 3);
        flows[0].set_weight(3);
        queue.place(&mut flows[0], 0, claim(3));
        assert_eq!(queue.extra, 2);
        // Handed out, and then departed ahead of its share: it still counts.
        assert_eq!(queue.pop_first(Timestamp::from_nanos(3)), Some(1));
        flows[1].set_out();
        assert_eq!(queue.pop_first(Timestamp::ZERO), Some(0));
        flows[0].set_out();
        queue.charge(&mut flows[0], 0, 3_000);
        queue.depart(&mut flows[0], 0);
        assert_eq!(queue.extra, 2);
        // Until the clock has caught up.
        queue.charge(&mut flows[1], 1, 1_000_000);
        assert_eq!(queue.extra, 0);
        queue.enter(&mut flows[0], 0, claim(4));
        assert_eq!(queue.extra, 2);
        queue.leave(&mut flows[0]);
        assert_eq!(queue.extra, 0);
        queue.forget(&mut flows[0], 0);
        assert_eq!(queue.extra, 0);
    }

    #[test]
    fn among_those_within_their_share_the_earliest_due_goes_first() {
        let mut queue = FairQueue::default();
        let (mut a, mut b) = (Flow::default(), Flow::default());
        queue.enter(&mut a, 0, claim(20));
        queue.enter(&mut b, 1, claim(10));
        assert_eq!(queue.first().map(|(_, key)| key), Some(1));
        queue.place(&mut a, 0, claim(5));
        assert_eq!(queue.first().map(|(_, key)| key), Some(0));
    }

    #[test]
    fn a_newcomer_goes_before_a_flow_that_has_flooded() {
        let mut queue = FairQueue::default();
        let mut flows = [Flow::default(), Flow::default()];
        queue.enter(&mut flows[0], 0, claim(1));
        serve(&mut queue, &mut flows, &[claim(1), claim(1)], &[50, 0], 100);
        queue.enter(&mut flows[1], 1, claim(1_000_000));
        assert_eq!(queue.pop_first(Timestamp::ZERO), Some(1), "though the flood is due earlier");
    }

    #[test]
    fn idle_time_earns_nothing() {
        let mut queue = FairQueue::default();
        let mut flows = [Flow::default(), Flow::default()];
        let claims = [claim(1), claim(2)];
        queue.enter(&mut flows[0], 0, claims[0]);
        serve(&mut queue, &mut flows, &claims, &[10, 10], 1000);
        queue.enter(&mut flows[1], 1, claims[1]);
        let had = serve(&mut queue, &mut flows, &claims, &[10, 10], 100);
        assert!(had[0].abs_diff(had[1]) <= 20, "{had:?}");
    }

    #[test]
    fn slack_lets_a_burst_with_deadlines_go_first_but_not_a_flood() {
        let mut queue = FairQueue::default();
        queue.set_slack(100);
        let mut flows = [Flow::default(), Flow::default()];
        let claims = [Claim { urgent: true, ..claim(1) }, Claim { urgent: true, ..claim(2) }];
        for (key, flow) in flows.iter_mut().enumerate() {
            queue.enter(flow, key, claims[key]);
        }
        assert_eq!(serve(&mut queue, &mut flows, &claims, &[10, 10], 5), [50, 0], "a burst");
        let had = serve(&mut queue, &mut flows, &claims, &[10, 10], 1000);
        assert!((had[0] + 50).abs_diff(had[1]) <= 300, "{had:?}");
    }

    #[test]
    fn an_endless_stream_of_new_flows_does_not_starve_one_that_is_ahead() {
        let mut queue = FairQueue::default();
        let mut old = Flow::default();
        queue.enter(&mut old, 0, claim(0));
        queue.charge(&mut old, 0, 1000);
        let (mut newcomers, mut turns) = (1, 0);
        let mut flows: Vec<Flow> = Vec::new();
        loop {
            let mut flow = Flow::default();
            queue.enter(&mut flow, newcomers, claim(newcomers as u64));
            flows.push(flow);
            newcomers += 1;
            let key = queue.pop_first(Timestamp::ZERO).expect("one has just come");
            if key == 0 {
                break;
            }
            flows[key - 1].set_out();
            queue.charge(&mut flows[key - 1], key, 10);
            turns += 1;
            assert!(turns <= 1000, "starved");
        }
    }

    #[test]
    fn flows_due_too_early_are_passed_over_and_not_counted() {
        let mut queue = FairQueue::default();
        let mut flows: Vec<Flow> = (0..5).map(|_| Flow::default()).collect();
        for (key, flow) in flows.iter_mut().enumerate() {
            let due = 10 * (key as u64 + 1);
            queue.enter(flow, key, Claim { urgent: key != 2, ..claim(due) });
        }
        let later: BTreeSet<usize> = queue.not_due_before(Timestamp::from_nanos(40)).collect();
        assert_eq!(later, BTreeSet::from([2, 3, 4]), "the third can wait");
        let order: Vec<_> = std::iter::from_fn(|| queue.pop_first(Timestamp::from_nanos(40))).collect();
        assert_eq!(order, [2, 3, 4]);
        assert_eq!(queue.pop_first(Timestamp::ZERO), Some(0));
    }

    #[test]
    fn flows_that_are_briefly_idle_get_no_more_than_their_share() {
        // Ten flows bring one item each, one after another, twice as fast as they are served: those of the first half are served
        // before the second half arrives, and would be so for ever if only waiting flows counted.
        let mut queue = FairQueue::default();
        queue.set_slack(100);
        let mut flows: Vec<Flow> = (0..10).map(|_| Flow::default()).collect();
        let (mut had, mut due) = ([0; 10], 0);
        for _ in 0..200 {
            for (key, flow) in flows.iter_mut().enumerate() {
                due += 1;
                let claim = Claim { urgent: true, ..claim(due) };
                if flow.is_placed() {
                    queue.place(flow, key, claim);
                } else {
                    queue.enter(flow, key, claim);
                }
            }
            for _ in 0..5 {
                let key = queue.pop_first(Timestamp::ZERO).expect("ten have come");
                flows[key].set_out();
                queue.charge(&mut flows[key], key, 10);
                queue.depart(&mut flows[key], key);
                had[key] += 10;
            }
        }
        let (least, most) = (had.iter().min().expect("ten"), had.iter().max().expect("ten"));
        assert!(most - least <= 350, "{had:?}");
    }

    proptest::proptest! {
        /// Nothing is lost, whatever the order of calls.
        #[test]
        fn holds_exactly_what_was_placed(steps in proptest::collection::vec((0_usize..5, 0_u8..4, 0_u64..50), 0..200)) {
            let mut queue = FairQueue::default();
            queue.set_slack(30);
            let mut flows: Vec<Flow> = (0..5).map(|_| Flow::default()).collect();
            let mut placed = BTreeSet::new();
            for (arrival, (key, what, amount)) in (1..).zip(steps) {
                let claim = Claim { urgent: amount % 2 == 0, arrival, ..claim(amount) };
                match what {
                    0 if !flows[key].is_placed() => {
                        queue.enter(&mut flows[key], key, claim);
                        placed.insert(key);
                    }
                    0 => queue.place(&mut flows[key], key, claim),
                    1 => {
                        queue.leave(&mut flows[key]);
                        placed.remove(&key);
                    }
                    2 => queue.charge(&mut flows[key], key, amount),
                    _ => {
                        let popped = queue.pop_first(Timestamp::ZERO);
                        proptest::prop_assert_eq!(popped.is_some(), !placed.is_empty());
                        if let Some(key) = popped {
                            proptest::prop_assert!(placed.remove(&key));
                            flows[key].set_out();
                        }
                    }
                }
                let held: BTreeSet<_> = queue.iter().map(|(_, key)| key).collect();
                proptest::prop_assert_eq!(&held, &placed);
                proptest::prop_assert_eq!(queue.len(), placed.len());
            }
        }
    }
}
