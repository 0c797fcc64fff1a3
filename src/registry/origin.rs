//! The outside of a version's files, so that a change shows without reading them.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

/// The files of a version, apart from the manifest. Differs if the file, or one next to it, was written or replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Origin {
    file: PathBuf,
    /// `None` if there is no such file.
    stamp: Option<Stamp>,
    /// Of the files next to it, which may hold its weights, and of those with its trial items and labels.
    beside: BTreeMap<PathBuf, Stamp>,
}

/// Most files next to a model's own that are looked at; further ones may change unnoticed.
const BESIDE_MAX: usize = 1_024;
/// How deep folders next to it are looked into.
const BESIDE_DEPTH_MAX: usize = 4;

/// What the system says about a file without reading it. Moments are seconds and nanoseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Origin {
    pub(super) fn of(file: &Path) -> Self {
        let stamp = Stamp::of(file);
        let mut beside = BTreeMap::new();
        if let (Some(_), Some(folder)) = (&stamp, file.parent()) {
            look_beside(folder, BESIDE_DEPTH_MAX, &mut beside);
        }
        Self { file: file.to_owned(), stamp, beside }
    }

    /// Counts another file among those that it is made of, if it is there.
    pub(super) fn add(&mut self, file: PathBuf) {
        if let Some(stamp) = Stamp::of(&file) {
            self.beside.insert(file, stamp);
        }
    }

    /// The size of all its files.
    pub(super) fn bytes(&self) -> u64 {
        self.stamp.iter().chain(self.beside.values()).map(|stamp| stamp.bytes).sum()
    }
}

impl Stamp {
    /// `None` if it is not a file.
    fn of(file: &Path) -> Option<Self> {
        let found = fs::metadata(file).ok().filter(fs::Metadata::is_file)?;
        Some(Self {
            device: found.dev(),
            inode: found.ino(),
            bytes: found.size(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        })
    }
}

/// Hidden files are left out, since a file is often written under such a name first.
fn look_beside(folder: &Path, depth: usize, found: &mut BTreeMap<PathBuf, Stamp>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten().filter(|entry| !entry.file_name().as_encoded_bytes().starts_with(b".")) {
        if found.len() == BESIDE_MAX {
            return;
        }
        let path = entry.path();
        match Stamp::of(&path) {
            Some(stamp) => drop(found.insert(path, stamp)),
            None if depth > 1 && entry.file_type().is_ok_and(|kind| kind.is_dir()) => look_beside(&path, depth - 1, found),
            None => {}
        }
    }
}
