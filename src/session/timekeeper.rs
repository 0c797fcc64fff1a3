//! The one timer, which answers expired items while all lanes are busy and ends what holds batches back.

use std::sync::Arc;

use crate::{clock, scheduler::Handoff};

/// Run it as one task for as long as the server lives. It sleeps until the earliest deadline of all queued items, or until a lane
/// may have what was held back, and is woken when something earlier comes up.
pub async fn keep_time(handoff: Arc<Handoff>) {
    loop {
        let now = clock::now();
        match handoff.expire(now) {
            Some(next) => {
                tokio::select! {
                    () = tokio::time::sleep(next.since(now)) => {}
                    () = handoff.rearmed() => {}
                }
            }
            None => handoff.rearmed().await,
        }
    }
}
