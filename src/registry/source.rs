//! Where models come from, and the models of the binary itself.
//!
//! Knows names, versions and bytes, but not what is in the bytes.

use std::{
    borrow::Cow,
    fs::File,
    io::{ErrorKind, Read as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustix::fs::OFlags;

use super::layout::exists;

/// Name of the model inside the binary that is served by default.
pub const EMBEDDED_NAME: &str = Embedded::SILERO_VAD.name;
/// Version of the models inside the binary: the major version of Silero VAD that they are made of.
pub const EMBEDDED_VERSION: u64 = 6;

/// Name of the model that needs no file.
pub const EXAMPLE_NAME: &str = "example_model";

const EXAMPLE_MANIFEST: &str = include_str!("example-model.toml");
const MANIFEST_BYTES_MAX: u64 = 1 << 20;
/// The most that protobuf, and so ONNX, allows in one file.
pub(super) const MODEL_BYTES_MAX: u64 = 2 << 30;

/// A place that holds models.
pub trait ModelSource: Send + Sync {
    /// All that is there. What cannot be used is reported with it, not left out.
    fn scan(&self) -> Scan;

    /// The same source, for users that may outlive this one.
    fn shared(&self) -> Arc<dyn ModelSource>;

    /// The model file of a version that [`ModelSource::scan`] found.
    ///
    /// # Errors
    /// Why it cannot be read.
    fn read(&self, version: &FoundVersion) -> Result<Cow<'static, [u8]>, String>;

    /// A file next to that model file, by the name that it has there: never one from elsewhere.
    ///
    /// # Errors
    /// Why it is not opened, worded to follow its name.
    fn open_beside(&self, version: &FoundVersion, name: &str) -> Result<File, String> {
        Err(format!("is not there, as version {} is not a folder ('{name}')", version.number))
    }
}

/// The contents of a source.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Scan {
    /// Its models.
    pub models: Vec<FoundModel>,
    /// Paths that are not models but should be, each with the reason.
    pub unusable: Vec<(PathBuf, String)>,
    /// Remarks about the folder.
    pub remarks: Vec<Remark>,
}

/// Something about a folder that prevents nothing from being served, but that its owner may not expect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remark {
    /// The folder.
    pub folder: PathBuf,
    /// The remark.
    pub text: String,
    /// Whether something in it is not served. If not, all is as it should be, but it may still be news.
    pub warns: bool,
}

/// A model, not loaded yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundModel {
    /// Name that clients open streams with.
    pub name: Arc<str>,
    /// The folder, for error messages.
    pub folder: PathBuf,
    /// Text of its manifest, empty if it has none; or why it cannot be read.
    pub manifest: Result<Cow<'static, str>, String>,
    /// Versions in rising order.
    pub versions: Vec<FoundVersion>,
    /// Anything in its folder that seems meant to be served and is not, and what to do; empty if there is none.
    pub passed_over: String,
}

/// A version, not loaded yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundVersion {
    /// Its number.
    pub number: u64,
    /// The model file.
    pub file: PathBuf,
}

/// A model inside the binary, made of Silero VAD's file when the binary was built.
#[derive(Clone, Copy)]
pub struct Embedded {
    name: &'static str,
    manifest: &'static str,
    file: &'static [u8],
}

impl Embedded {
    /// Of 16 kHz audio.
    pub const SILERO_VAD: Self = Self {
        name: "silero-vad",
        manifest: include_str!("silero-vad.toml"),
        file: include_bytes!(env!("TIDEMILL_SILERO_16000")),
    };
    /// Of 8 kHz audio, as telephones have it.
    pub const SILERO_VAD_8K: Self = Self {
        name: "silero-vad-8k",
        manifest: include_str!("silero-vad-8k.toml"),
        file: include_bytes!(env!("TIDEMILL_SILERO_8000")),
    };
    /// All of them.
    pub const ALL: [Self; 2] = [Self::SILERO_VAD, Self::SILERO_VAD_8K];

    /// Name that clients open streams with.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// Which part of the file is served, and how.
    #[must_use]
    pub const fn manifest(&self) -> &'static str {
        self.manifest
    }

    /// The ONNX file.
    #[must_use]
    pub const fn file(&self) -> &'static [u8] {
        self.file
    }
}

impl ModelSource for Embedded {
    fn scan(&self) -> Scan {
        let folder = PathBuf::from(format!("(embedded)/{}", self.name));
        let file = folder.join(EMBEDDED_VERSION.to_string()).join("model.onnx");
        let model = FoundModel {
            name: self.name.into(),
            folder,
            manifest: Ok(self.manifest.into()),
            versions: vec![FoundVersion { number: EMBEDDED_VERSION, file }],
            passed_over: String::new(),
        };
        Scan { models: vec![model], ..Scan::default() }
    }

    fn shared(&self) -> Arc<dyn ModelSource> {
        Arc::new(*self)
    }

    fn read(&self, _version: &FoundVersion) -> Result<Cow<'static, [u8]>, String> {
        Ok(self.file.into())
    }
}

/// A model that doubles numbers, without a file, to try clients on.
#[derive(Debug, Clone, Copy, Default)]
pub struct Example;

impl ModelSource for Example {
    fn scan(&self) -> Scan {
        let model = FoundModel {
            name: EXAMPLE_NAME.into(),
            folder: PathBuf::from(format!("(embedded)/{EXAMPLE_NAME}")),
            manifest: Ok(EXAMPLE_MANIFEST.into()),
            versions: Vec::new(),
            passed_over: String::new(),
        };
        Scan { models: vec![model], ..Scan::default() }
    }

    fn shared(&self) -> Arc<dyn ModelSource> {
        Arc::new(*self)
    }

    fn read(&self, version: &FoundVersion) -> Result<Cow<'static, [u8]>, String> {
        Err(format!("version {} of the example has no file", version.number))
    }
}

/// Placeholders for files that were not fetched, and how to fetch them.
pub(super) fn placeholder(bytes: &[u8]) -> Option<&'static str> {
    const LFS: &str = "is a Git LFS pointer, not the file itself; run `git lfs pull` in the repository that it comes from";
    let beginnings = [
        ("version https://git-lfs.github.com/spec/", LFS),
        ("version https://hawser.github.com/spec/", LFS),
        (
            "/annex/objects/",
            "is a git-annex pointer, not the file itself; run `git annex get` in the repository that it comes from",
        ),
        ("<!DOCTYPE", "is a web page, not the file itself; download the file, not the page that shows it"),
        ("<html", "is a web page, not the file itself; download the file, not the page that shows it"),
    ];
    let begins = |text: &str| bytes.get(..text.len()).is_some_and(|start| start.eq_ignore_ascii_case(text.as_bytes()));
    beginnings.into_iter().find(|(text, _)| begins(text)).map(|(_, reason)| reason)
}

/// The text of the manifest at `file`, empty if there is none.
pub(super) fn read_manifest(file: &Path) -> Result<Cow<'static, str>, String> {
    match read_limited(file, MANIFEST_BYTES_MAX) {
        Ok(bytes) => match placeholder(&bytes) {
            Some(reason) => Err(reason.to_owned()),
            None => String::from_utf8(bytes).map(Cow::Owned).map_err(|_| "is not UTF-8 text".to_owned()),
        },
        // A link to nothing does not mean that the manifest was left out.
        Err(error) if error.kind() == ErrorKind::NotFound && !exists(file) => Ok(Cow::Borrowed("")),
        Err(error) => Err(error.to_string()),
    }
}

pub(super) fn read_limited(file: &Path, bytes_max: u64) -> std::io::Result<Vec<u8>> {
    let explain = |error: std::io::Error| std::io::Error::new(error.kind(), format!("cannot be read: {error}"));
    let mut bytes = Vec::new();
    // Opening or reading a pipe would wait for its other end, and hold up all changes of models.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let opened = File::options().read(true).custom_flags(flags).open(file).map_err(explain)?;
    let metadata = opened.metadata().map_err(explain)?;
    if !metadata.is_file() {
        return Err(explain(std::io::Error::new(ErrorKind::InvalidInput, "it is not a file")));
    }
    // A known size saves the vector from growing; it is not a promise, hence the limit on the reader too.
    let size = metadata.len();
    if size <= bytes_max {
        bytes.reserve_exact(usize::try_from(size).unwrap_or(0));
        opened.take(bytes_max + 1).read_to_end(&mut bytes).map_err(explain)?;
    }
    if size > bytes_max || bytes.len() as u64 > bytes_max {
        return Err(std::io::Error::new(ErrorKind::FileTooLarge, format!("is larger than {bytes_max} bytes")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::registry::Folder;

    fn folder_with(folders: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a temporary folder");
        for folder in folders {
            fs::create_dir_all(root.path().join(folder)).expect("a folder in it");
        }
        root
    }

    #[test]
    fn versions_are_numbers_in_numeric_order_and_other_folders_are_not_versions() {
        let root = folder_with(&["m/10", "m/9", "m/assets", "m/01", "m/+2", "m/0", "m/.1", "m/99999999999999999999999"]);
        let scan = Folder::new(root.path().to_owned()).scan();
        let numbers: Vec<u64> = scan.models[0].versions.iter().map(|version| version.number).collect();
        assert_eq!(numbers, [9, 10]);
        assert!(scan.models[0].versions[0].file.ends_with("m/9/model.onnx"));
    }

    #[test]
    fn hidden_folders_and_plain_files_are_passed_over_and_bad_names_reported() {
        let root = folder_with(&[".hidden/1", "good/1", "bad name/1", &format!("{}/1", "x".repeat(129))]);
        fs::write(root.path().join("README"), "about").expect("a file");
        let scan = Folder::new(root.path().to_owned()).scan();
        let names: Vec<&str> = scan.models.iter().map(|model| &*model.name).collect();
        assert_eq!(names, ["good"]);
        let reasons: Vec<&str> = scan.unusable.iter().map(|(_, reason)| reason.as_str()).collect();
        assert!(reasons[0].contains("its name holds ' '"), "{reasons:?}");
        assert!(reasons[1].contains("its name has 129 bytes"), "{reasons:?}");
    }

    #[test]
    fn a_pipe_is_not_waited_for() {
        let root = folder_with(&["m/1"]);
        let pipe = root.path().join("m/model.toml");
        let access = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, pipe, rustix::fs::FileType::Fifo, access, 0).expect("a pipe");
        let scan = Folder::new(root.path().to_owned()).scan();
        assert_eq!(scan.models[0].manifest, Err("cannot be read: it is not a file".to_owned()));
    }

    #[test]
    fn a_manifest_may_be_absent_but_not_unreadable() {
        let root = folder_with(&["absent/1", "odd/1", "folder/model.toml", "large/1"]);
        fs::write(root.path().join("odd/model.toml"), [0xff, 0xfe]).expect("a file");
        fs::write(root.path().join("large/model.toml"), vec![b'#'; (1 << 20) + 1]).expect("a file");
        let scan = Folder::new(root.path().to_owned()).scan();
        let manifest = |name: &str| {
            let model = scan.models.iter().find(|model| &*model.name == name).expect("found");
            model.manifest.clone().map_err(|reason| reason.split(':').next().map(str::to_owned).unwrap_or_default())
        };
        assert_eq!(manifest("absent"), Ok("".into()));
        assert_eq!(manifest("odd"), Err("is not UTF-8 text".to_owned()));
        assert_eq!(manifest("folder"), Err("cannot be read".to_owned()));
        assert_eq!(manifest("large"), Err("is larger than 1048576 bytes".to_owned()));
    }

    #[test]
    fn what_stands_in_for_a_file_is_told_from_the_file() {
        let root = folder_with(&["m/1", "n/1"]);
        let folder = Folder::new(root.path().to_owned());
        let said = |content: &str| {
            fs::write(root.path().join("m/1/model.onnx"), content).expect("a file");
            fs::write(root.path().join("m/model.toml"), content).expect("a file");
            let model = folder.scan().models.swap_remove(0);
            let said = folder.read(&model.versions[0]).map(|bytes| bytes.len());
            assert_eq!(model.manifest.as_ref().err(), said.as_ref().err(), "manifests are fetched the same way");
            said
        };
        let fault = said("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n").expect_err("a pointer");
        assert!(fault.contains("is a Git LFS pointer") && fault.contains("`git lfs pull`"), "{fault}");
        assert!(said("version https://hawser.github.com/spec/v1\n").is_err_and(|fault| fault.contains("Git LFS pointer")));
        assert!(said("/annex/objects/SHA256E-s1--00.onnx\n").is_err_and(|fault| fault.contains("`git annex get`")));
        assert!(said("<!doctype html>\n<html>").is_err_and(|fault| fault.contains("is a web page")));
        assert_eq!(said("version https://git-lfs"), Ok(23));
        assert_eq!(said(""), Ok(0));
    }

    #[test]
    fn a_manifest_that_is_a_link_to_nothing_is_not_left_out() {
        let root = folder_with(&["m/1"]);
        std::os::unix::fs::symlink("/nowhere/model.toml", root.path().join("m/model.toml")).expect("a link");
        let manifest = Folder::new(root.path().to_owned()).scan().models.swap_remove(0).manifest;
        assert!(manifest.as_ref().is_err_and(|reason| reason.starts_with("cannot be read: No such file")), "{manifest:?}");
    }

    #[test]
    fn a_missing_folder_is_reported() {
        let scan = Folder::new("/nowhere/models".into()).scan();
        assert_eq!(scan.unusable[0].0, Path::new("/nowhere/models"));
        assert!(scan.unusable[0].1.starts_with("cannot be listed: "));
    }

    #[test]
    fn the_embedded_models_are_there() {
        let found = Embedded::ALL.map(|embedded| {
            let model = embedded.scan().models.swap_remove(0);
            let file = embedded.read(&model.versions[0]).expect("it is in the binary");
            assert_eq!(file, embedded.file());
            (model.name.to_string(), model.versions[0].number)
        });
        assert_eq!(found, [("silero-vad".to_owned(), 6), ("silero-vad-8k".to_owned(), 6)]);
    }

    #[test]
    fn the_files_of_embedded_models_say_what_they_are_made_of_and_carry_the_licence() {
        for embedded in Embedded::ALL {
            let text = String::from_utf8_lossy(embedded.file());
            for part in
                ["Silero VAD 6.2", "1a153a22f4509e292a94e67d6f9b85e8deb25b4988682b7e174c65279d8788e3", "Permission is hereby"]
            {
                assert!(text.contains(part), "{}: {part}", embedded.name());
            }
        }
    }
}
