//! The ready streams of one model: by priority, then fairly by tenant, then fairly by stream.

use std::collections::BTreeMap;

use crate::domain::{Priority, Timestamp};

use super::{
    StreamKey, TenantKey,
    fair::{Claim, FairQueue, Flow, Work},
};

/// Tenants without a ready stream that a model remembers, so that leaving and coming back pays off no debt.
const IDLE_TENANTS_MAX: usize = 1024;

/// Ready streams of all priorities.
#[derive(Debug, Default)]
pub(super) struct ReadyStreams {
    classes: [Class; Priority::ALL.len()],
    streams: usize,
}

/// Ready streams of one priority.
#[derive(Debug, Default)]
struct Class {
    tenants: BTreeMap<TenantKey, Tenant>,
    queue: FairQueue<TenantKey>,
}

#[derive(Debug, Default)]
struct Tenant {
    flow: Flow,
    streams: FairQueue<StreamKey>,
}

/// Where a stream stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seat {
    pub(super) stream: StreamKey,
    pub(super) tenant: TenantKey,
    pub(super) priority: Priority,
}

impl ReadyStreams {
    pub(super) const fn len(&self) -> usize {
        self.streams
    }

    /// Puts a stream in that had nothing to run.
    pub(super) fn enter(&mut self, flow: &mut Flow, seat: Seat, claim: Claim, slack: Work) {
        self.put(flow, seat, claim, slack, true);
    }

    /// Puts a stream back, or moves it, by what its head claims now.
    pub(super) fn place(&mut self, flow: &mut Flow, seat: Seat, claim: Claim, slack: Work) {
        self.put(flow, seat, claim, slack, false);
    }

    fn put(&mut self, flow: &mut Flow, seat: Seat, claim: Claim, slack: Work, enters: bool) {
        self.streams += usize::from(!flow.is_placed());
        let class = &mut self.classes[seat.priority as usize];
        class.welcome(seat.tenant);
        let tenant = class.tenants.entry(seat.tenant).or_default();
        let tenant_enters = enters && tenant.streams.is_empty();
        tenant.streams.set_slack(slack);
        class.queue.set_slack(slack);
        if enters {
            tenant.streams.enter(flow, seat.stream, claim);
        } else {
            tenant.streams.place(flow, seat.stream, claim);
        }
        if tenant_enters {
            class.queue.enter(&mut tenant.flow, seat.tenant, claim);
        } else if class.queue.len() > 1 || !tenant.flow.is_placed() {
            class.follow(seat.tenant);
        }
    }

    /// Notes that a stream which was taken out has nothing that may run.
    pub(super) fn depart(&mut self, flow: &mut Flow, seat: Seat) {
        let class = &mut self.classes[seat.priority as usize];
        if let Some(tenant) = class.tenants.get_mut(&seat.tenant) {
            tenant.streams.depart(flow, seat.stream);
            if tenant.streams.is_empty() {
                class.queue.depart(&mut tenant.flow, seat.tenant);
            }
        }
    }

    pub(super) fn leave(&mut self, flow: &mut Flow, seat: Seat) {
        self.streams -= usize::from(flow.is_placed());
        let class = &mut self.classes[seat.priority as usize];
        if let Some(tenant) = class.tenants.get_mut(&seat.tenant) {
            tenant.streams.leave(flow);
            class.follow(seat.tenant);
        }
    }

    /// Notes that a stream, which is not among the ready ones, does not come back.
    pub(super) fn forget(&mut self, flow: &mut Flow, seat: Seat) {
        if let Some(tenant) = self.classes[seat.priority as usize].tenants.get_mut(&seat.tenant) {
            tenant.streams.forget(flow, seat.stream);
        }
    }

    /// The stream of this priority whose turn it is, taken out; those whose head is due before `not_before` are passed over. The
    /// caller tells its flow by [`Flow::set_out`].
    pub(super) fn pop(&mut self, priority: Priority, not_before: Timestamp) -> Option<StreamKey> {
        let Class { tenants, queue } = &mut self.classes[priority as usize];
        let mut popped = queue.iter().filter_map(|(_, key)| {
            let tenant = tenants.get_mut(&key)?;
            let stream = tenant.streams.pop_first(not_before)?;
            Some((key, stream, tenant.streams.is_empty()))
        });
        let (key, stream, was_last) = popped.next()?;
        drop(popped);
        self.streams -= 1;
        if was_last || queue.len() > 1 {
            self.classes[priority as usize].follow(key);
        }
        Some(stream)
    }

    /// Books lane time on a stream that is taken out, and on its tenant.
    pub(super) fn charge(&mut self, flow: &mut Flow, seat: Seat, work: Work) {
        let class = &mut self.classes[seat.priority as usize];
        if let Some(tenant) = class.tenants.get_mut(&seat.tenant) {
            tenant.streams.charge(flow, seat.stream, work);
            if class.queue.len() > 1 {
                class.queue.charge(&mut tenant.flow, seat.tenant, work);
            } else {
                class.queue.charge_alone(&mut tenant.flow, work);
            }
        }
    }

    /// What the first stream of this priority claims.
    pub(super) fn first(&self, priority: Priority) -> Option<(Claim, StreamKey)> {
        let class = &self.classes[priority as usize];
        let (_, key) = class.queue.first()?;
        class.tenants.get(&key)?.streams.first()
    }

    /// All ready streams, tenant by tenant; within a tenant in the order of their turns.
    pub(super) fn iter(&self) -> impl Iterator<Item = StreamKey> + '_ {
        self.tenants().flat_map(|tenant| tenant.streams.iter().map(|(_, stream)| stream))
    }

    /// Streams whose head has no deadline or one that is not before `due`.
    pub(super) fn not_due_before(&self, due: Timestamp) -> impl Iterator<Item = StreamKey> + '_ {
        self.tenants().flat_map(move |tenant| tenant.streams.not_due_before(due))
    }

    fn tenants(&self) -> impl Iterator<Item = &Tenant> {
        self.classes.iter().flat_map(|class| class.queue.iter().filter_map(|(_, key)| class.tenants.get(&key)))
    }
}

impl Class {
    /// Makes sure that a tenant has an account. A tenant that is alone is not moved with its streams; before another joins it, it
    /// is put where it belongs.
    fn welcome(&mut self, key: TenantKey) {
        if self.queue.len() == 1
            && let Some((_, alone)) = self.queue.first()
            && alone != key
            && let Some(tenant) = self.tenants.get_mut(&alone)
            && let Some((first, _)) = tenant.streams.first()
        {
            self.queue.replace(&mut tenant.flow, alone, first);
        }
        if self.tenants.len() > IDLE_TENANTS_MAX {
            self.tenants.retain(|other, tenant| !tenant.streams.is_empty() || *other == key);
        }
    }

    /// Moves a tenant to where its first stream belongs.
    fn follow(&mut self, key: TenantKey) {
        let Some(tenant) = self.tenants.get_mut(&key) else { return };
        match tenant.streams.first() {
            Some((first, _)) => self.queue.place(&mut tenant.flow, key, first),
            None => self.queue.leave(&mut tenant.flow),
        }
    }
}
