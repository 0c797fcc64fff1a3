//! The ready streams of one model: by priority, then fairly by owner, level by level, then fairly by stream.
//!
//! The levels are those of a [`Path`]: address, connection, tenant. Each is a group in a [`FairQueue`]; its members are either
//! all groups or all streams. A group claims what its first stream claims. A tenant's group has the weight that the stream that came
//! to it last asks for.

use std::collections::BTreeMap;

use slotmap::{Key as _, KeyData, SecondaryMap, SlotMap};
use tidemill_domain::{Priority, Timestamp};
use tidemill_shares::{Owner, Path};

use super::{
    fair::{Claim, FairQueue, Flow, Work},
    keys::StreamKey,
};

/// The fewest groups a model remembers, so that leaving and coming back does not clear a debt. Beyond this, groups without a
/// ready stream are forgotten whenever there are twice as many groups as were left the last time.
const GROUPS_KEPT: usize = 1024;

/// Groups of one level that one pass looks at if none of those claiming to have something has it. Bounds its time.
const GROUPS_LOOKED_AT: usize = 512;

/// The owner of streams that belong to no one in particular.
const NOBODY: Owner = Owner::Tenant(0);

slotmap::new_key_type! {
    /// A group of ready streams.
    struct GroupKey;
}

/// Ready streams of all priorities.
#[derive(Debug, Default)]
pub(super) struct ReadyStreams {
    classes: [Class; Priority::ALL.len()],
    streams: usize,
}

/// Identifies a stream among the ready ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seat {
    pub(super) stream: StreamKey,
    pub(super) priority: Priority,
}

/// A stream's account, and where it belongs. It stays with the stream even while the stream has nothing to run.
#[derive(Debug)]
pub(super) struct Standing {
    flow: Flow,
    path: Path,
    /// Of its tenant, next to others.
    weight: u32,
    /// The group it was in last.
    group: GroupKey,
}

impl Standing {
    pub(super) fn new(path: Path, weight: u32) -> Self {
        Self { flow: Flow::default(), path, weight, group: GroupKey::null() }
    }

    /// Call for a stream that [`ReadyStreams::pop`] has handed out.
    pub(super) const fn set_out(&mut self) {
        self.flow.set_out();
    }

    /// The outermost owner it belongs to.
    #[inline]
    pub(super) fn owner(&self) -> Owner {
        self.path.outermost().unwrap_or(NOBODY)
    }
}

/// Ready streams of one priority.
#[derive(Debug)]
struct Class {
    groups: SlotMap<GroupKey, Group>,
    /// The accounts of the groups, kept apart so that a group and its members can be borrowed together.
    flows: SecondaryMap<GroupKey, Flow>,
    names: BTreeMap<(GroupKey, Owner, bool), GroupKey>,
    /// The group around all others.
    all: GroupKey,
    /// At this many groups, idle ones are forgotten.
    tidy_at: usize,
}

#[derive(Debug)]
struct Group {
    /// Null for the group around all.
    above: GroupKey,
    owner: Owner,
    /// Whether its members are streams rather than groups.
    is_innermost: bool,
    members: FairQueue<Member>,
}

/// The key of a member: a stream's in an innermost group, a group's in others. One word, because queues compare it again and
/// again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Member(KeyData);

impl ReadyStreams {
    pub(super) const fn len(&self) -> usize {
        self.streams
    }

    /// Adds a stream that had nothing to run. Returns whether its priority's first stream, or that stream's claim, may have
    /// changed.
    #[inline]
    pub(super) fn enter(&mut self, standing: &mut Standing, seat: Seat, claim: Claim, slack: Work) -> bool {
        self.put(standing, seat, claim, slack, true)
    }

    /// Puts a stream back, or moves it, according to what its head claims now. Returns the same.
    #[inline]
    pub(super) fn place(&mut self, standing: &mut Standing, seat: Seat, claim: Claim, slack: Work) -> bool {
        self.put(standing, seat, claim, slack, false)
    }

    /// Puts back a stream that [`ReadyStreams::pop`] handed out, according to what its head claims now.
    #[inline]
    pub(super) fn put_back(&mut self, standing: &mut Standing, seat: Seat, claim: Claim, slack: Work) {
        self.streams += 1;
        let class = &mut self.classes[seat.priority as usize];
        let group = class.group_of(standing);
        let members = &mut class.groups[group].members;
        members.set_slack(slack);
        members.place(&mut standing.flow, Member(seat.stream.data()), claim);
        class.rise(group, Some(slack), false);
    }

    /// Notes that a stream handed out comes back later, and must not be looked at until then.
    #[inline]
    pub(super) fn pass_over(&mut self, standing: &Standing, seat: Seat) {
        self.classes[seat.priority as usize].rise(standing.group, None, false);
    }

    fn put(&mut self, standing: &mut Standing, seat: Seat, claim: Claim, slack: Work, enters: bool) -> bool {
        self.streams += usize::from(!standing.flow.is_placed());
        let class = &mut self.classes[seat.priority as usize];
        let group = class.group_of(standing);
        let members = &mut class.groups[group].members;
        let group_enters = enters && members.is_empty();
        let member = Member(seat.stream.data());
        let led = standing.flow.is_placed() && members.leads(member);
        members.set_slack(slack);
        if enters {
            members.enter(&mut standing.flow, member, claim);
        } else {
            members.place(&mut standing.flow, member, claim);
        }
        // A group claims what its first stream claims; so while another stream is first and does not change, nothing around the
        // group moves.
        let moves = led || members.leads(member);
        if moves {
            class.rise(group, Some(slack), group_enters);
        }
        moves
    }

    /// Notes that a stream handed out has nothing that may run.
    #[inline]
    pub(super) fn depart(&mut self, standing: &mut Standing, seat: Seat) {
        let class = &mut self.classes[seat.priority as usize];
        let mut at = standing.group;
        let Some(group) = class.groups.get_mut(at) else { return };
        group.members.depart(&mut standing.flow, Member(seat.stream.data()));
        class.rise(at, None, false);
        while class.groups[at].members.is_empty()
            && let above = class.groups[at].above
            && let (Some(around), Some(flow)) = (class.groups.get_mut(above), class.flows.get_mut(at))
        {
            around.members.depart(flow, Member(at.data()));
            at = above;
        }
    }

    #[inline]
    pub(super) fn leave(&mut self, standing: &mut Standing, seat: Seat) {
        self.streams -= usize::from(standing.flow.is_placed());
        let class = &mut self.classes[seat.priority as usize];
        if let Some(group) = class.groups.get_mut(standing.group) {
            group.members.leave(&mut standing.flow);
            class.rise(standing.group, None, false);
        }
    }

    /// Notes that a stream, which is not among the ready ones, will not come back.
    #[inline]
    pub(super) fn forget(&mut self, standing: &mut Standing, seat: Seat) {
        if let Some(group) = self.classes[seat.priority as usize].groups.get_mut(standing.group) {
            group.members.forget(&mut standing.flow, Member(seat.stream.data()));
        }
    }

    /// Hands out the next stream in turn of this priority, passing over those whose head is due before `not_before`. The caller
    /// then calls [`Standing::set_out`] and gives the stream to [`ReadyStreams::put_back`], [`ReadyStreams::depart`] or
    /// [`ReadyStreams::pass_over`] before taking the next one: what its group claims depends on it.
    #[inline]
    pub(super) fn pop(&mut self, priority: Priority, not_before: Timestamp) -> Option<StreamKey> {
        let class = &mut self.classes[priority as usize];
        let stream = class.pop(class.all, not_before)?;
        self.streams -= 1;
        Some(stream)
    }

    /// Books lane time on a stream that is taken out, and on everything it belongs to.
    #[inline]
    pub(super) fn charge(&mut self, standing: &mut Standing, seat: Seat, work: Work) {
        let class = &mut self.classes[seat.priority as usize];
        let mut at = standing.group;
        let Some(group) = class.groups.get_mut(at) else { return };
        group.members.charge(&mut standing.flow, Member(seat.stream.data()), work);
        let mut above = group.above;
        while let (Some(around), Some(flow)) = (class.groups.get_mut(above), class.flows.get_mut(at)) {
            if around.members.len() > 1 {
                around.members.charge(flow, Member(at.data()), work);
            } else {
                around.members.charge_alone(flow, work);
            }
            (at, above) = (above, around.above);
        }
    }

    /// What the first stream of this priority claims.
    #[inline]
    pub(super) fn first(&self, priority: Priority) -> Option<(Claim, StreamKey)> {
        let class = &self.classes[priority as usize];
        class.first(class.all)
    }

    /// Whether streams of this priority are ready that belong to someone other than `owner`.
    #[inline]
    pub(super) fn has_others(&self, priority: Priority, owner: Owner) -> bool {
        let class = &self.classes[priority as usize];
        class.groups[class.all].groups().any(|group| class.groups[group].owner != owner)
    }

    /// All ready streams, group by group; in turn within a group.
    pub(super) fn iter(&self) -> impl Iterator<Item = StreamKey> + '_ {
        self.innermost().flat_map(|group| group.members.iter().map(|(_, member)| member.stream()))
    }

    /// Streams whose head has no deadline or is due at `due` or later.
    pub(super) fn not_due_before(&self, due: Timestamp) -> impl Iterator<Item = StreamKey> + '_ {
        self.innermost().flat_map(move |group| group.members.not_due_before(due).map(Member::stream))
    }

    /// The groups that hold streams, in turn. A path has at most three levels.
    fn innermost(&self) -> impl Iterator<Item = &Group> + '_ {
        self.classes.iter().flat_map(|class| {
            let outermost = class.opened(&class.groups[class.all]);
            outermost.flat_map(|group| class.opened(group)).flat_map(|group| class.opened(group))
        })
    }
}

impl Member {
    fn stream(self) -> StreamKey {
        self.0.into()
    }

    fn group(self) -> GroupKey {
        self.0.into()
    }
}

impl Group {
    fn new(above: GroupKey, owner: Owner, is_innermost: bool) -> Self {
        Self { above, owner, is_innermost, members: FairQueue::default() }
    }

    /// The groups in it, in turn.
    fn groups(&self) -> impl Iterator<Item = GroupKey> + '_ {
        self.members.iter().take(if self.is_innermost { 0 } else { usize::MAX }).map(|(_, member)| member.group())
    }
}

impl Default for Class {
    #[inline]
    fn default() -> Self {
        let mut groups = SlotMap::with_key();
        let all = groups.insert(Group::new(GroupKey::null(), NOBODY, false));
        Self { groups, flows: SecondaryMap::new(), names: BTreeMap::new(), all, tidy_at: GROUPS_KEPT }
    }
}

impl Class {
    /// The group that a stream stands in, created if it is gone.
    fn group_of(&mut self, standing: &mut Standing) -> GroupKey {
        if self.groups.contains_key(standing.group) {
            return standing.group;
        }
        if self.groups.len() > self.tidy_at {
            self.tidy();
        }
        let mut owners = standing.path.owners();
        let mut at = self.all;
        let mut next = owners.next().unwrap_or(NOBODY);
        loop {
            let inner = owners.next();
            // A group of streams and a group of groups with the same name are different groups.
            let name = (at, next, inner.is_none());
            at = *self.names.entry(name).or_insert_with(|| {
                let made = self.groups.insert(Group::new(at, next, inner.is_none()));
                self.flows.insert(made, Flow::default());
                made
            });
            if let (Owner::Tenant(_), Some(flow)) = (next, self.flows.get_mut(at)) {
                flow.set_weight(standing.weight);
            }
            let Some(inner) = inner else { break };
            next = inner;
        }
        standing.group = at;
        at
    }

    /// Forgets the groups without a ready stream.
    fn tidy(&mut self) {
        let all = self.all;
        self.groups.retain(|key, group| key == all || !group.members.is_empty());
        self.flows.retain(|key, _| self.groups.contains_key(key));
        self.names.retain(|_, key| self.groups.contains_key(*key));
        self.tidy_at = GROUPS_KEPT.max(2 * self.groups.len());
    }

    /// Moves a group, and those around it, to where their first streams belong.
    ///
    /// A group that is alone in the group around it does not move with its streams; before another joins it, it is put where it
    /// belongs.
    fn rise(&mut self, group: GroupKey, slack: Option<Work>, enters: bool) {
        let (mut at, mut enters) = (group, enters);
        loop {
            let above = self.groups[at].above;
            if above.is_null() {
                return;
            }
            let (is_empty, is_placed) = (self.groups[at].members.is_empty(), self.flows[at].is_placed());
            let around = &mut self.groups[above].members;
            if let Some(slack) = slack {
                around.set_slack(slack);
            }
            if is_placed && !is_empty && around.len() == 1 {
                (at, enters) = (above, false);
                continue;
            }
            if !is_empty && !is_placed {
                self.settle_alone(above);
            }
            let first = self.first(at).map(|(claim, _)| claim);
            let (around, flow) = (&mut self.groups[above].members, &mut self.flows[at]);
            let was_empty = around.is_empty();
            match first {
                Some(claim) if enters => around.enter(flow, Member(at.data()), claim),
                Some(claim) => around.place(flow, Member(at.data()), claim),
                None => around.leave(flow),
            }
            enters &= was_empty;
            at = above;
        }
    }

    /// The group itself if it holds streams, otherwise the groups it holds.
    #[inline]
    fn opened<'a>(&'a self, group: &'a Group) -> impl Iterator<Item = &'a Group> + 'a {
        let inner = group.groups().filter_map(|inner| self.groups.get(inner));
        group.is_innermost.then_some(group).into_iter().chain(inner)
    }

    /// Puts the only member of a group where it belongs.
    fn settle_alone(&mut self, group: GroupKey) {
        let members = &self.groups[group].members;
        if members.len() == 1
            && let Some((_, alone)) = members.first()
            && let Some((claim, _)) = self.first(alone.group())
        {
            self.groups[group].members.replace(&mut self.flows[alone.group()], alone, claim);
        }
    }

    /// The first stream of a group.
    #[inline]
    fn first(&self, group: GroupKey) -> Option<(Claim, StreamKey)> {
        let mut at = group;
        loop {
            let group = self.groups.get(at)?;
            let (claim, first) = group.members.first()?;
            if group.is_innermost {
                return Some((claim, first.stream()));
            }
            at = first.group();
        }
    }

    /// Takes out the first stream of a group whose head is not due before `not_before`.
    #[inline]
    fn pop(&mut self, group: GroupKey, not_before: Timestamp) -> Option<StreamKey> {
        let Group { is_innermost, members, .. } = &mut self.groups[group];
        if *is_innermost {
            return members.pop_first(not_before).map(Member::stream);
        }
        let (_, first) = members.first()?;
        if let Some(found) = self.pop(first.group(), not_before) {
            return Some(found);
        }
        // What a group claims is its first stream's claim; a group whose first is due too early may have others that are not.
        let second = self.groups[group].members.first_not_before(not_before);
        if let Some(second) = second.filter(|second| *second != first)
            && let Some(found) = self.pop(second.group(), not_before)
        {
            return Some(found);
        }
        let others: Vec<GroupKey> = self.groups[group].groups().take(GROUPS_LOOKED_AT).collect();
        others.into_iter().find_map(|other| self.pop(other, not_before))
    }
}
