//! When a connection is told to go away, and how long it has for that.
//!
//! The server sends GOAWAY; the connection ends once its client has answered the ping that goes with it and all calls have ended.
//! A client that answers nothing would keep its place until its pings are overdue, so one without a call gets little time.

use std::{future::pending, time::Duration};

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::connections::{Connection, Leave};

/// Time for a client without a call to learn that it was idle too long.
const IDLE_GRACE: Duration = Duration::from_secs(1);

/// The same when another connection is waiting for its place.
const ROOM_GRACE: Duration = Duration::from_millis(100);

/// Why a connection is told to go away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leaves {
    /// All of them are; calls have the time that a drain gives them.
    WithAll,
    /// It has no call, or is old.
    Alone(Leave),
}

/// Waits until a connection should leave: when `all` should, when it has had no call for `idle_timeout`, when its place is wanted,
/// or when it is old.
pub(super) async fn told_to_leave(place: &Connection, idle_timeout: Duration, all: &CancellationToken) -> Leaves {
    tokio::select! {
        () = all.cancelled() => Leaves::WithAll,
        leave = place.asked_to_leave(Some(idle_timeout)) => Leaves::Alone(leave),
    }
}

/// Waits until a connection that was told to leave has used its time. One with a call has all the time the call takes, but no
/// more than its age allows.
pub(super) async fn has_left(place: &Connection, leaves: Leaves) {
    let without_calls = async {
        match leaves {
            Leaves::WithAll => pending().await,
            Leaves::Alone(Leave::Idle | Leave::Age) => sleep(IDLE_GRACE).await,
            Leaves::Alone(Leave::Room) => sleep(ROOM_GRACE).await,
        }
        if !place.is_idle() {
            pending::<()>().await;
        }
    };
    tokio::select! {
        () = without_calls => {}
        () = place.outlived() => {}
    }
}
