//! The queue as a device fills it: owners of streams are mailboxes, and payloads are tensors.

use std::sync::Arc;

use super::mailbox::Mailbox;
use crate::{
    domain::ItemInputs,
    scheduler::{Batch, Ended, Entry, Queue},
};

pub(super) type LiveQueue = Queue<Arc<Mailbox>, ItemInputs>;
pub(super) type LiveBatch = Batch<Arc<Mailbox>, ItemInputs>;
pub(super) type LiveEntry = Entry<Arc<Mailbox>, ItemInputs>;
pub(super) type LiveEnded = Ended<Arc<Mailbox>, ItemInputs>;
