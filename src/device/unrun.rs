//! What is answered for an item that ended without a model call.

use crate::{
    domain::{Answer, AnswerPart, DropReason, Fault, FaultKind, ItemInputs, ItemTiming, Timestamp},
    scheduler::{EndReason, Item},
};

/// The answer to an item that ended for this reason.
pub(super) fn unrun_answer(item: &Item<ItemInputs>, reason: EndReason, now: Timestamp) -> Answer {
    Answer {
        seq: item.ticket,
        part: AnswerPart::ONLY,
        outcome: Err(fault_of(item, reason, now)),
        timing: ItemTiming { arrived: item.arrived, started: now, finished: now, batch_size: 0 },
    }
}

fn fault_of(item: &Item<ItemInputs>, reason: EndReason, now: Timestamp) -> Fault {
    let waited = now.since(item.arrived);
    match reason {
        EndReason::Expired => {
            let allowed = item.deadline.since(item.arrived);
            let message = format!(
                "after {waited:.1?} the item could no longer meet its deadline of {allowed:.1?}; the model did not run on it"
            );
            Fault::new(FaultKind::Expired, message)
        }
        EndReason::Dropped(DropReason::MaxAge) => {
            let allowed = item.stale_at.since(item.arrived);
            let message = format!(
                "after {waited:.1?} the item's result could no longer arrive within the stream's max_age of {allowed:.1?}; the model did not run on it"
            );
            Fault::new(FaultKind::Dropped, message)
        }
        EndReason::Dropped(reason) => {
            let why = match reason {
                DropReason::Late => "it was too late for the model's next call, and a newer item of the stream was not",
                _ => "newer items of the stream took its place, as its overflow policy asks",
            };
            Fault::new(FaultKind::Dropped, format!("the item was dropped after {waited:.1?}: {why}; the model did not run on it"))
        }
    }
}
