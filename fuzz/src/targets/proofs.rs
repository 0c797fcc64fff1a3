//! Kept proofs. First byte: whether the rest is the whole file, or what follows a matching checksum.

use std::{fs, path::PathBuf, sync::OnceLock, time::Duration};

use sha2::{Digest as _, Sha256};
use tempfile::TempDir;
use tidemill::{
    domain::Batching,
    proof::{Kept, Proof, Store, Subject},
};

struct Place {
    _folder: TempDir,
    store: Store,
    subject: Subject,
    /// Where the store looks for the subject's proof.
    file: PathBuf,
}

pub(crate) fn run(data: &[u8]) {
    let [form, content @ ..] = data else { return };
    let place = place();
    let bytes = if form & 1 == 0 { content.to_vec() } else { signed(place, content) };
    fs::write(&place.file, bytes).expect("room");
    if let Some(kept) = place.store.get(&place.subject) {
        // A proof that is accepted can be kept, and comes back the same.
        place.store.put(&place.subject, &kept).expect("room");
        let again = place.store.get(&place.subject).expect("just kept");
        assert_eq!(format!("{again:?}"), format!("{kept:?}"));
    }
}

fn signed(place: &Place, text: &[u8]) -> Vec<u8> {
    let name = place.file.file_name().expect("a name").to_string_lossy();
    let digest = Sha256::new().chain_update(name.as_bytes()).chain_update(text).finalize();
    let sum: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    [sum.as_bytes(), b"\n", text, b"\n"].concat()
}

fn place() -> &'static Place {
    static PLACE: OnceLock<Place> = OnceLock::new();
    PLACE.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("proofs");
        let store = Store::open(&path).expect("a store");
        let subject =
            Subject { model: [7; 32], engine: "rten", engine_version: "0".to_owned(), manifest: String::new(), lanes: 1 };
        let proof = Proof { batching: Batching::off("none"), medians: vec![Duration::from_millis(1)], item_bytes: 4 };
        store.put(&subject, &Kept { proof, wide: None, packs_weights: false }).expect("room");
        let file = fs::read_dir(&path).expect("a folder").next().expect("the proof").expect("readable").path();
        Place { _folder: folder, store, subject, file }
    })
}
