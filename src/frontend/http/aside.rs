//! Work that is too long to be done where connections are waited for.

use crate::{
    domain::{Fault, FaultKind},
    threads::{self, AsideError},
};

/// JSON of this length takes a good part of a millisecond to read or to write. Live feeds would wait for what takes longer.
const INLINE_JSON_BYTES_MAX: usize = 64 << 10;

/// Does `work` on JSON of `json_bytes`: here, or on a thread for such work if it is long.
///
/// # Errors
/// Those of `work`.
pub(super) async fn aside<T, F>(json_bytes: usize, work: F) -> Result<T, Fault>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, Fault> + Send + 'static,
{
    if json_bytes <= INLINE_JSON_BYTES_MAX {
        return work();
    }
    threads::aside(work).await.unwrap_or_else(|error| Err(fault_of(&error)))
}

/// A thread may be had later.
fn fault_of(error: &AsideError) -> Fault {
    let kind = match error {
        AsideError::Refused => FaultKind::Overloaded,
        AsideError::Panicked => FaultKind::Failed,
    };
    Fault::new(kind, format!("the request could not be worked on: {error}"))
}
