//! Proofs kept in a folder, so that a model that has not changed need not be proven at each start.
//!
//! A forged or outdated proof means wrong numbers, so nothing in the folder is believed except what this user wrote, whole, for exactly
//! this model: the folder must belong to the user and be closed to all others, each file carries a checksum, and its name is the digest of
//! everything that the proof depends on. A proof that cannot be trusted is treated as missing.
//!
//! # Two servers
//! A file is written under another name and then renamed, so that no reader sees half of it, and the last of two writers wins.

use std::{
    fmt::Write as _,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::LazyLock,
    time::{Duration, SystemTime},
};

use rustix::{fs::OFlags, process};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{PROOF_VERSION, Proof};
use crate::domain::{Batching, Verdict};

/// How many proofs are kept; beyond that the oldest go.
const PROOFS_MAX: usize = 1_024;
/// Bytes of a proof; a larger file is not one.
const PROOF_BYTES_MAX: u64 = 64 << 10;
/// Half-written files of servers that died are removed after this long.
const PART_AGE_MAX: Duration = Duration::from_secs(3_600);

/// A SHA-256.
pub type Fingerprint = [u8; 32];

/// What a proof depends on besides the processor and the version of the proof.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// Digest of the model's file and of everything that it refers to.
    pub model: Fingerprint,
    /// The engine that runs it.
    pub engine: &'static str,
    /// The engine's version.
    pub engine_version: String,
    /// The text of the model's manifest, and of the trial items that it refers to.
    pub manifest: String,
    /// Lanes that compute at the same time.
    pub lanes: usize,
}

/// A folder of proofs, or none.
#[derive(Debug, Clone, Default)]
pub struct Store {
    folder: Option<PathBuf>,
}

/// The measurements and the proof, in the form in which they are kept.
#[derive(Debug, Clone, PartialEq)]
pub struct Kept {
    /// The proof.
    pub proof: Proof,
    /// The time of a call on all threads, divided by that on one.
    pub wide: Option<f64>,
    /// Whether this is for the model with packed weights.
    pub packs_weights: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    verdict: String,
    shares_calls: bool,
    detail: String,
    proven_batch: usize,
    seed: u64,
    medians_ns: Vec<u64>,
    item_bytes: usize,
    wide: Option<f64>,
    packs_weights: bool,
}

impl Store {
    /// Keeps nothing.
    #[must_use]
    pub const fn none() -> Self {
        Self { folder: None }
    }

    /// Opens the folder at `path`, and creates it if it is not there.
    ///
    /// # Errors
    /// The reason why nothing in it can be believed, or nothing can be written to it.
    pub fn open(path: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        let found = fs::symlink_metadata(path)?;
        let refuse = |reason: String| Err(io::Error::new(io::ErrorKind::PermissionDenied, reason));
        if !found.is_dir() {
            return refuse("it is not a folder".to_owned());
        }
        let user = process::geteuid().as_raw();
        if found.uid() != user {
            return refuse(format!("it belongs to user {}, but the server runs as user {user}", found.uid()));
        }
        if found.mode() & 0o077 != 0 {
            return refuse(format!("its mode is {:o}, so that others could forge proofs; set it to 700", found.mode() & 0o777));
        }
        let store = Self { folder: Some(path.to_owned()) };
        store.probe(path)?;
        store.prune(path);
        Ok(store)
    }

    /// Where proofs are kept.
    #[must_use]
    pub fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    /// The proof of `subject`; `None` if there is none that can be believed.
    #[must_use]
    pub fn get(&self, subject: &Subject) -> Option<Kept> {
        let name = name_of(subject);
        read(&self.folder.as_ref()?.join(&name), &name)
    }

    /// Keeps a proof.
    ///
    /// # Errors
    /// The system's.
    pub fn put(&self, subject: &Subject, kept: &Kept) -> io::Result<()> {
        let Some(folder) = &self.folder else { return Ok(()) };
        let name = name_of(subject);
        let text = serde_json::to_string(&Stored::from(kept)).map_err(io::Error::other)?;
        let part = folder.join(format!("{name}.{}.part", process::getpid().as_raw_nonzero()));
        let written = write(&part, &format!("{}\n{text}\n", checksum(&name, &text)));
        let placed = written.and_then(|()| fs::rename(&part, folder.join(&name)));
        if placed.is_err() {
            // It may never have existed.
            let _ = fs::remove_file(&part);
        }
        placed
    }

    /// Whether a file can be written.
    fn probe(&self, folder: &Path) -> io::Result<()> {
        let path = folder.join(format!("probe.{}.part", process::getpid().as_raw_nonzero()));
        write(&path, "")?;
        fs::remove_file(path)
    }

    /// Removes the oldest proofs beyond the limit, and what servers that died left half-written.
    fn prune(&self, folder: &Path) {
        let Ok(entries) = fs::read_dir(folder) else { return };
        let mut proofs: Vec<(SystemTime, PathBuf)> = Vec::new();
        for entry in entries.flatten() {
            let Some(modified) = entry.metadata().ok().filter(fs::Metadata::is_file).and_then(|found| found.modified().ok())
            else {
                continue;
            };
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.ends_with(".part") {
                if modified.elapsed().is_ok_and(|age| age > PART_AGE_MAX) {
                    let _ = fs::remove_file(entry.path());
                }
            } else if name.ends_with(SUFFIX) {
                proofs.push((modified, entry.path()));
            }
        }
        proofs.sort();
        for (_, path) in proofs.iter().take(proofs.len().saturating_sub(PROOFS_MAX)) {
            // Another server may have been faster.
            let _ = fs::remove_file(path);
        }
    }
}

const SUFFIX: &str = ".proof";

fn write(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).custom_flags(no_links()).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn read(path: &Path, name: &str) -> Option<Kept> {
    let file = File::options().read(true).custom_flags(no_links()).open(path).ok()?;
    let found = file.metadata().ok()?;
    let is_ours = found.is_file() && found.uid() == process::geteuid().as_raw() && found.mode() & 0o022 == 0;
    if !is_ours || found.len() > PROOF_BYTES_MAX {
        return None;
    }
    let mut text = String::new();
    file.take(PROOF_BYTES_MAX).read_to_string(&mut text).ok()?;
    let (sum, rest) = text.split_once('\n')?;
    let stored = rest.strip_suffix('\n')?;
    if checksum(name, stored) != sum {
        return None;
    }
    Kept::try_from(serde_json::from_str::<Stored>(stored).ok()?).ok()
}

/// A link could lead to something that others can write, and a pipe would make us wait.
fn no_links() -> i32 {
    (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed()
}

fn name_of(subject: &Subject) -> String {
    let Subject { model, engine, engine_version, manifest, lanes } = subject;
    let mut digest = Sha256::new();
    let lanes = lanes.to_string();
    let proof = format!("{PROOF_VERSION} {}", env!("CARGO_PKG_VERSION"));
    for part in
        [&model[..], engine.as_bytes(), engine_version.as_bytes(), manifest.as_bytes(), lanes.as_bytes(), proof.as_bytes()]
    {
        digest.update((part.len() as u64).to_le_bytes());
        digest.update(part);
    }
    digest.update(PROCESSOR.as_bytes());
    hex(&digest.finalize()) + SUFFIX
}

/// The system's description of the processor: its model and its features, on which kernels, and so results, depend.
static PROCESSOR: LazyLock<String> = LazyLock::new(|| {
    let mut described = std::env::consts::ARCH.to_owned();
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let first = text.split("\n\n").next().unwrap_or_default();
    let telling =
        |line: &&str| ["vendor_id", "model", "stepping", "flags", "Features", "CPU "].iter().any(|key| line.starts_with(key));
    first.lines().filter(telling).for_each(|line| {
        described.push('\n');
        described.push_str(line);
    });
    described
});

fn checksum(name: &str, text: &str) -> String {
    let mut digest = Sha256::new();
    digest.update(name);
    digest.update(text);
    hex(&digest.finalize())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

impl From<&Kept> for Stored {
    fn from(kept: &Kept) -> Self {
        let Proof { batching, medians, item_bytes } = &kept.proof;
        let nanos = |median: &Duration| u64::try_from(median.as_nanos()).unwrap_or(u64::MAX);
        Self {
            verdict: batching.verdict.label().to_owned(),
            shares_calls: batching.shares_calls,
            detail: batching.detail.to_string(),
            proven_batch: batching.proven_batch,
            seed: batching.seed,
            medians_ns: medians.iter().map(nanos).collect(),
            item_bytes: *item_bytes,
            wide: kept.wide,
            packs_weights: kept.packs_weights,
        }
    }
}

impl TryFrom<Stored> for Kept {
    type Error = ();

    fn try_from(stored: Stored) -> Result<Self, ()> {
        let verdict = Verdict::ALL.into_iter().find(|verdict| verdict.label() == stored.verdict).ok_or(())?;
        if stored.medians_ns.is_empty() || stored.medians_ns.len() > 64 {
            return Err(());
        }
        let batching = Batching {
            verdict,
            shares_calls: stored.shares_calls,
            detail: stored.detail.into(),
            proven_batch: stored.proven_batch,
            seed: stored.seed,
        };
        let medians = stored.medians_ns.into_iter().map(Duration::from_nanos).collect();
        let proof = Proof { batching, medians, item_bytes: stored.item_bytes };
        Ok(Self { proof, wide: stored.wide, packs_weights: stored.packs_weights })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn subject(manifest: &str) -> Subject {
        let engine_version = "0.27".to_owned();
        Subject { model: [7; 32], engine: "rten", engine_version, manifest: manifest.to_owned(), lanes: 2 }
    }

    fn kept(detail: &str) -> Kept {
        let batching =
            Batching { verdict: Verdict::Independent, shares_calls: true, detail: detail.into(), proven_batch: 64, seed: 9 };
        let medians = [100, 150].map(Duration::from_micros).to_vec();
        Kept { proof: Proof { batching, medians, item_bytes: 2_304 }, wide: Some(0.6), packs_weights: true }
    }

    fn opened() -> (tempfile::TempDir, PathBuf, Store) {
        let root = tempfile::tempdir().expect("a temporary folder");
        let folder = root.path().join("cache/tidemill");
        let store = Store::open(&folder).expect("a new folder");
        (root, folder, store)
    }

    fn only_file(folder: &Path) -> PathBuf {
        let files: Vec<_> = fs::read_dir(folder).expect("it is there").map(|entry| entry.expect("an entry").path()).collect();
        assert_eq!(files.len(), 1, "{files:?}");
        files[0].clone()
    }

    #[test]
    fn a_proof_is_found_again_for_exactly_what_it_is_about() {
        let (_root, folder, store) = opened();
        assert_eq!(fs::metadata(&folder).expect("made").permissions().mode() & 0o777, 0o700);
        assert_eq!(store.get(&subject("a")), None);
        store.put(&subject("a"), &kept("first")).expect("room on the disk");
        assert_eq!(Store::open(&folder).expect("ours").get(&subject("a")), Some(kept("first")));
        let others = [
            subject("b"),
            Subject { model: [8; 32], ..subject("a") },
            Subject { engine: "onnxruntime", ..subject("a") },
            Subject { engine_version: "0.28".to_owned(), ..subject("a") },
            Subject { lanes: 1, ..subject("a") },
        ];
        for other in others {
            assert_eq!(store.get(&other), None, "{other:?}");
        }
        store.put(&subject("a"), &kept("second")).expect("room on the disk");
        assert_eq!(store.get(&subject("a")), Some(kept("second")));
        only_file(&folder);
    }

    #[test]
    fn what_is_half_written_changed_or_renamed_is_not_believed() {
        let (_root, folder, store) = opened();
        store.put(&subject("a"), &kept("dependent on nothing")).expect("room on the disk");
        let file = only_file(&folder);
        let whole = fs::read(&file).expect("text");
        for end in [0, 10, 65, whole.len() - 1] {
            fs::write(&file, &whole[..end]).expect("it is ours");
            assert_eq!(store.get(&subject("a")), None, "cut at {end}");
        }
        let forged = String::from_utf8(whole.clone()).expect("text").replace("independent", "padding_leaks");
        fs::write(&file, forged).expect("it is ours");
        assert_eq!(store.get(&subject("a")), None);
        fs::write(&file, &whole).expect("it is ours");
        assert!(store.get(&subject("a")).is_some());
        fs::rename(&file, folder.join(name_of(&subject("b")))).expect("it is ours");
        assert_eq!(store.get(&subject("b")), None, "the name is part of what is summed");
    }

    #[test]
    fn files_that_others_can_write_and_links_are_not_believed() {
        let (root, folder, store) = opened();
        store.put(&subject("a"), &kept("")).expect("room on the disk");
        let file = only_file(&folder);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o622)).expect("it is ours");
        assert_eq!(store.get(&subject("a")), None);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("it is ours");
        let elsewhere = root.path().join("elsewhere");
        fs::rename(&file, &elsewhere).expect("it is ours");
        std::os::unix::fs::symlink(&elsewhere, &file).expect("it is ours");
        assert_eq!(store.get(&subject("a")), None);
    }

    #[test]
    fn a_folder_that_others_can_enter_is_refused_with_its_mode() {
        let (_root, folder, _) = opened();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).expect("it is ours");
        let error = Store::open(&folder).expect_err("others could forge proofs");
        assert!(error.to_string().contains("its mode is 755"), "{error}");
    }

    #[test]
    fn the_oldest_proofs_go_when_there_are_too_many() {
        let (_root, folder, store) = opened();
        for number in 0..PROOFS_MAX + 3 {
            fs::write(folder.join(format!("{number}{SUFFIX}")), "").expect("it is ours");
        }
        store.put(&subject("a"), &kept("the newest")).expect("room on the disk");
        let store = Store::open(&folder).expect("ours");
        assert_eq!(fs::read_dir(&folder).expect("it is there").count(), PROOFS_MAX);
        assert_eq!(store.get(&subject("a")), Some(kept("the newest")));
    }

    #[test]
    fn two_writers_leave_one_whole_proof() {
        let (_root, folder, store) = opened();
        std::thread::scope(|scope| {
            for writer in 0..2 {
                let store = &store;
                scope.spawn(move || {
                    for _ in 0..20 {
                        // Within one process, both use the same temporary name: the slower one fails, and leaves what is there.
                        let _ = store.put(&subject("a"), &kept(&writer.to_string()));
                        assert!(store.get(&subject("a")).is_none_or(|kept| kept.wide == Some(0.6)));
                    }
                });
            }
        });
        store.put(&subject("a"), &kept("")).expect("nobody else writes");
        assert!(only_file(&folder).to_string_lossy().ends_with(SUFFIX));
    }

    #[test]
    fn a_store_without_a_folder_keeps_nothing() {
        let store = Store::none();
        store.put(&subject("a"), &kept("")).expect("nothing to do");
        assert_eq!(store.get(&subject("a")), None);
    }
}
