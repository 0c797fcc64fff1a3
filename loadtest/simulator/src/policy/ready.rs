//! Items that may run, ordered by a key: all those that have arrived, or one of each stateful stream.

use std::{cmp::Reverse, collections::BinaryHeap};

use crate::workload::Workload;

/// The order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    Arrival,
    Deadline,
}

/// The ready items of one model.
pub(crate) struct Ready<'a> {
    workload: &'a Workload,
    order: Order,
    stateful: bool,
    heap: BinaryHeap<Reverse<(u64, u32)>>,
    /// By stream: whether one of its items is ready or running. Only stateful streams are looked at.
    engaged: Vec<bool>,
}

impl<'a> Ready<'a> {
    pub(crate) fn new(workload: &'a Workload, model: usize, order: Order) -> Self {
        let stateful = workload.models[model].stateful;
        let engaged = vec![false; if stateful { workload.streams.len() } else { 0 }];
        Self { workload, order, stateful, heap: BinaryHeap::new(), engaged }
    }

    pub(crate) fn len(&self) -> usize {
        self.heap.len()
    }

    pub(crate) fn arrive(&mut self, item: u32) {
        if self.stateful {
            let stream = self.workload.item(item).stream as usize;
            if std::mem::replace(&mut self.engaged[stream], true) {
                return;
            }
        }
        self.insert(item);
    }

    fn insert(&mut self, item: u32) {
        let key = match self.order {
            Order::Arrival => 0,
            Order::Deadline => self.workload.item(item).deadline,
        };
        self.heap.push(Reverse((key, item)));
    }

    pub(crate) fn first(&self) -> Option<u32> {
        self.heap.peek().map(|Reverse((_, item))| *item)
    }

    pub(crate) fn take_first(&mut self) -> Option<u32> {
        self.heap.pop().map(|Reverse((_, item))| item)
    }

    /// An item that was taken is done; the first `arrived` of the workload have arrived. Its stream's next one may run.
    pub(crate) fn done(&mut self, item: u32, arrived: u32) {
        if !self.stateful {
            return;
        }
        match self.workload.next_of(item) {
            Some(next) if next < arrived => self.insert(next),
            _ => self.engaged[self.workload.item(item).stream as usize] = false,
        }
    }
}
