//! How a folder of models is laid out: what lies in a folder, which names are versions, and which only look like them.
//!
//! Reads names, and opens no file.

use std::{
    collections::BTreeSet,
    fs::{self, DirEntry, FileType},
    io,
    path::{Path, PathBuf},
};

/// The manifest.
pub(super) const MANIFEST_FILE: &str = "model.toml";
/// The model itself.
pub(super) const MODEL_FILE: &str = "model.onnx";

/// Entries that are looked at in one folder. Far more than a model has versions, and few enough to be looked through at each change.
pub(super) const ENTRIES_MAX: usize = 65_536;
/// Names in a message.
const NAMED_MAX: usize = 20;

/// Folders that systems and tools leave anywhere. They hold no model even if what is in them looks like one, such as the shadow of a
/// folder that macOS packs into archives, or a model that was deleted.
const LITTER: [&str; 9] = [
    "lost+found",
    "System Volume Information",
    "$RECYCLE.BIN",
    "__MACOSX",
    "@eaDir",
    "@Recycle",
    "@Recently-Snapshot",
    "#recycle",
    "#snapshot",
];

/// The contents of a folder, apart from hidden entries.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// The folders, and links to folders, by name.
    pub(super) folders: Vec<(String, PathBuf)>,
    /// Links that cannot be followed, each with the reason.
    pub(super) broken: Vec<(String, PathBuf, String)>,
    /// Whether there is something called [`MANIFEST_FILE`].
    pub(super) has_manifest: bool,
    /// Whether there is something called [`MODEL_FILE`].
    pub(super) has_model: bool,
    /// Other files whose names end in `.onnx`.
    pub(super) onnx_files: Vec<String>,
    /// Whether nothing lies in it.
    is_empty: bool,
    /// Whether this is all; false if there are more entries than are looked at.
    pub(super) is_whole: bool,
}

impl Listing {
    /// The contents of `folder`.
    ///
    /// # Errors
    /// Why it cannot be listed.
    pub(super) fn of(folder: &Path) -> Result<Self, String> {
        Self::of_at_most(ENTRIES_MAX, folder)
    }

    fn of_at_most(entries_max: usize, folder: &Path) -> Result<Self, String> {
        let cannot = |error: io::Error| format!("cannot be listed: {error}");
        let mut listing = Self { is_empty: true, is_whole: true, ..Self::default() };
        for (index, entry) in fs::read_dir(folder).map_err(cannot)?.enumerate() {
            if index == entries_max {
                // Which entries come first is chance, so the two that matter most are asked for by name.
                listing.has_manifest |= exists(&folder.join(MANIFEST_FILE));
                listing.has_model |= exists(&folder.join(MODEL_FILE));
                listing.is_whole = false;
                break;
            }
            listing.enter(&entry.map_err(cannot)?);
        }
        listing.folders.sort();
        listing.broken.sort();
        listing.onnx_files.sort();
        Ok(listing)
    }

    fn enter(&mut self, entry: &DirEntry) {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with('.') {
            return;
        }
        self.is_empty = false;
        let path = entry.path();
        match name.as_str() {
            MANIFEST_FILE => self.has_manifest = true,
            MODEL_FILE => self.has_model = true,
            _ => match kind_of(entry) {
                Ok(kind) if kind.is_dir() => self.folders.push((name, path)),
                Ok(_) if name.to_ascii_lowercase().ends_with(".onnx") => self.onnx_files.push(name),
                Ok(_) => {}
                Err(error) => self.broken.push((name, path, format!("a link that cannot be followed: {error}"))),
            },
        }
    }

    /// The folders that are versions, by number. A link that cannot be followed is one too, so that loading it reports the reason.
    pub(super) fn versions(&self) -> Vec<(u64, PathBuf)> {
        let broken = self.broken.iter().map(|(name, path, _)| (name, path));
        let folders = self.folders.iter().map(|(name, path)| (name, path)).chain(broken);
        let mut versions: Vec<(u64, PathBuf)> =
            folders.filter_map(|(name, path)| Some((version_number(name)?, path.clone()))).collect();
        versions.sort();
        versions
    }

    fn has_versions(&self) -> bool {
        let broken = self.broken.iter().map(|(name, ..)| name);
        self.folders.iter().map(|(name, _)| name).chain(broken).any(|name| version_number(name).is_some())
    }

    /// The folders whose names look like versions but are not.
    fn misnamed(&self) -> impl Iterator<Item = &(String, PathBuf)> {
        self.folders.iter().filter(|(name, _)| looks_like_version(name))
    }

    /// Whether this is a model's folder.
    pub(super) fn is_model(&self) -> bool {
        let holds_misnamed =
            || self.misnamed().any(|(_, path)| Self::of(path).is_ok_and(|listing| listing.is_meant_as_version()));
        self.has_manifest || self.has_model || self.has_versions() || holds_misnamed()
    }

    /// Whether this, in a folder whose name is a number, is a version, and not a model that has versions itself.
    pub(super) fn is_version(&self) -> bool {
        !self.has_manifest && !self.has_versions()
    }

    /// Whether this, in a folder whose name only looks like a version, was meant to be one. If it is full of other things, it is a
    /// version of something else, such as of a manual.
    pub(super) fn is_meant_as_version(&self) -> bool {
        self.is_version() && (self.is_empty || self.has_model || !self.onnx_files.is_empty())
    }

    /// What is passed over in a model's folder although it seems meant to be served, and what to do; empty if nothing is.
    pub(super) fn passed_over(&self) -> String {
        let mut reasons = Vec::new();
        let versions = self.versions();
        if self.has_model && !versions.is_empty() {
            reasons.push(format!(
                "'{MODEL_FILE}' is passed over because there are folders of versions; move it into its own folder"
            ));
        }
        let mut taken: BTreeSet<u64> = versions.into_iter().map(|(number, _)| number).collect();
        for (index, (name, _)) in self.misnamed().take(NAMED_MAX).enumerate() {
            let cure = match meant_version(name) {
                Some(number) if taken.insert(number) => format!("rename it to {number}"),
                Some(number) => format!("rename it to a number that is not taken, unlike {number}"),
                None => "rename it to such a number".to_owned(),
            };
            reasons.push(match index {
                0 => format!("'{name}' is passed over: versions are whole numbers from 1 without leading zeros; {cure}"),
                _ => format!("so is '{name}'; {cure}"),
            });
        }
        let more = self.misnamed().count().saturating_sub(NAMED_MAX);
        if more > 0 {
            reasons.push(format!("and so are {more} more"));
        }
        if let Some(files) = self.other_files() {
            reasons.push(files);
        }
        reasons.join("; ")
    }

    /// Files that would be models under another name, if there is none under the right one.
    pub(super) fn other_files(&self) -> Option<String> {
        let first = self.onnx_files.first().filter(|_| !self.has_model && !self.has_versions())?;
        Some(format!("'{first}' is passed over: a model's file is called {MODEL_FILE}"))
    }
}

/// The kind of an entry, or of the link's target if it is a link.
fn kind_of(entry: &DirEntry) -> io::Result<FileType> {
    let kind = entry.file_type()?;
    if kind.is_symlink() { Ok(fs::metadata(entry.path())?.file_type()) } else { Ok(kind) }
}

/// Whether there is anything under this name, even a dangling link.
pub(super) fn exists(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

/// Whether a system or a tool has left this folder.
pub(super) fn is_litter(name: &str) -> bool {
    LITTER.iter().any(|litter| litter.eq_ignore_ascii_case(name))
}

/// The version that a folder of this name is.
pub(super) fn version_number(name: &str) -> Option<u64> {
    let number: u64 = name.parse().ok()?;
    // "+1" and "01" would be second names of the same version.
    (number > 0 && number.to_string() == name).then_some(number)
}

/// `01`, `0`, `+1`, `v1`, `version-2`, `1.0`, `2024-05-01`: not versions, but perhaps meant to be.
pub(super) fn looks_like_version(name: &str) -> bool {
    let digits = without_prefix(name);
    let is_part = |letter: char| letter.is_ascii_digit() || matches!(letter, '.' | '-' | '_');
    version_number(name).is_none() && digits.starts_with(|first: char| first.is_ascii_digit()) && digits.chars().all(is_part)
}

/// The number that such a name was probably meant to be.
fn meant_version(name: &str) -> Option<u64> {
    let number = without_prefix(name).parse().ok()?;
    Some(u64::max(number, 1))
}

fn without_prefix(name: &str) -> &str {
    let words = ["version", "ver", "v", ""];
    let word = words.into_iter().find(|word| name.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word)));
    name[word.map_or(0, str::len)..].trim_start_matches(['-', '_', '.', '+', ' ']).trim_end()
}

/// `a, b (why) and 3 more`
pub(super) fn named(names: &[String]) -> String {
    let shown = names[..names.len().min(NAMED_MAX)].join(", ");
    match names.len().saturating_sub(NAMED_MAX) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing(files: &[&str]) -> Listing {
        let root = tempfile::tempdir().expect("a temporary folder");
        for file in files {
            fs::create_dir_all(root.path().join(file)).expect("a folder in it");
        }
        Listing::of(root.path()).expect("it can be listed")
    }

    #[test]
    fn versions_are_whole_numbers_from_1_and_what_looks_like_one_is_told_from_what_does_not() {
        for (name, number) in [("1", 1), ("10", 10), ("18446744073709551615", u64::MAX)] {
            assert_eq!((version_number(name), looks_like_version(name)), (Some(number), false), "{name}");
        }
        let slips = [
            ("01", Some(1)),
            ("0", Some(1)),
            ("+3", Some(3)),
            ("-2", Some(2)),
            ("v1", Some(1)),
            ("V02", Some(2)),
            ("version_7", Some(7)),
            ("Version 7", Some(7)),
            ("ver.7", Some(7)),
            ("1 ", Some(1)),
            ("1.0", None),
            ("v1.2.3", None),
            ("2024-05-01", None),
            ("18446744073709551616", None),
        ];
        for (name, meant) in slips {
            assert_eq!((version_number(name), looks_like_version(name)), (None, true), "{name}");
            assert_eq!(meant_version(name), meant, "{name}");
        }
        for name in ["assets", "v", "", "+", "1.tmp", "2 new", "1st", "vad1", "version", "é1", "versión1"] {
            assert_eq!((version_number(name), looks_like_version(name)), (None, false), "{name}");
        }
    }

    #[test]
    fn each_slip_is_named_with_the_rule_and_a_number_that_is_free() {
        let rule = "is passed over: versions are whole numbers from 1 without leading zeros; rename it to";
        let passed_over = |folders: &[&str]| listing(folders).passed_over();
        assert_eq!(passed_over(&["01"]), format!("'01' {rule} 1"));
        assert_eq!(passed_over(&["2", "02"]), format!("'02' {rule} a number that is not taken, unlike 2"));
        assert_eq!(passed_over(&["1", "2.0"]), format!("'2.0' {rule} such a number"));
        let both = format!("'03' {rule} 3; so is 'v3'; rename it to a number that is not taken, unlike 3");
        assert_eq!(passed_over(&["1", "v3", "03", "assets", "2.tmp"]), both);
        assert_eq!(passed_over(&["1", "assets"]), "");
        let many: Vec<String> = (1..=25).map(|number| format!("v{number:02}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert!(passed_over(&many).ends_with("; so is 'v20'; rename it to 20; and so are 5 more"), "{}", passed_over(&many));
    }

    #[test]
    fn a_folder_that_is_too_full_is_looked_at_in_part_and_says_so() {
        let root = tempfile::tempdir().expect("a temporary folder");
        for file in ["a", "b", "c", MANIFEST_FILE, MODEL_FILE] {
            fs::write(root.path().join(file), "").expect("a file in it");
        }
        for (entries_max, is_whole) in [(1, false), (4, false), (5, true)] {
            let listing = Listing::of_at_most(entries_max, root.path()).expect("it can be listed");
            assert_eq!((listing.is_whole, listing.has_manifest, listing.has_model), (is_whole, true, true), "{entries_max}");
        }
    }
}
