//! `model.toml`.

use tidemill::registry::Manifest;

pub(crate) fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match Manifest::parse(text) {
        Ok(manifest) => assert!(manifest.max_batch() >= 1),
        Err(faults) => assert!(faults.iter().all(|fault| !fault.reason.is_empty()) && !faults.is_empty()),
    }
}
