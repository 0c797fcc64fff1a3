//! Distinguishes a folder of models from the folder of one model, and models from whatever else lies next to them.
//!
//! Nothing in a folder that may have been meant to be served is passed over silently, and nothing that cannot be a model keeps
//! models from being served.

use std::{
    borrow::Cow,
    fs::{self, File},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    beside,
    layout::{ENTRIES_MAX, Listing, MANIFEST_FILE, MODEL_FILE, is_litter, looks_like_version, named, version_number},
    source::{FoundModel, FoundVersion, MODEL_BYTES_MAX, ModelSource, Remark, Scan, placeholder, read_limited, read_manifest},
};

const NAME_BYTES_MAX: usize = 128;
const MODELS_MAX: usize = 1_024;

/// A folder of models, `<name>/model.toml` and `<name>/<version>/model.onnx`, or the folder of one model.
#[derive(Debug, Clone)]
pub struct Folder {
    path: PathBuf,
    /// Name of the model, if this is the folder of one; empty for the folder's name.
    name: String,
}

impl Folder {
    /// The folder at `path`, which is read later.
    #[must_use]
    pub const fn new(path: PathBuf) -> Self {
        Self { path, name: String::new() }
    }

    /// The same, with a name for the model whose own folder it is; empty for the folder's.
    #[must_use]
    pub const fn of_model(path: PathBuf, name: String) -> Self {
        Self { path, name }
    }
}

impl ModelSource for Folder {
    fn scan(&self) -> Scan {
        scan(&self.path, &self.name)
    }

    fn shared(&self) -> Arc<dyn ModelSource> {
        Arc::new(self.clone())
    }

    fn read(&self, version: &FoundVersion) -> Result<Cow<'static, [u8]>, String> {
        let bytes = read_limited(&version.file, MODEL_BYTES_MAX).map_err(|error| error.to_string())?;
        match placeholder(&bytes) {
            Some(reason) => Err(reason.to_owned()),
            None => Ok(Cow::Owned(bytes)),
        }
    }

    fn open_beside(&self, version: &FoundVersion, name: &str) -> Result<File, String> {
        beside::open(&self.path, &version.file, name)
    }
}

/// What is in the folder at `path`. If it is the folder of one model, its name is `name`, or the folder's if `name` is empty.
fn scan(path: &Path, name: &str) -> Scan {
    look(path, name).unwrap_or_else(|reason| Scan { unusable: vec![(path.to_owned(), reason)], ..Scan::default() })
}

fn look(path: &Path, name: &str) -> Result<Scan, String> {
    let listing = Listing::of(path)?;
    if !listing.is_whole {
        return Err(too_many());
    }
    let sound = listing.folders.iter().filter(|(name, _)| !is_litter(name));
    let inside: Vec<Inside<'_>> = sound.map(|(name, path)| Inside { name, path, held: Listing::of(path) }).collect();
    let has = |role| inside.iter().any(|inside| inside.role() == role);
    let holds_its_model = listing.has_model || inside.iter().any(Inside::is_sound_version);
    let holds_versions_alone = !has(Role::Model) && (has(Role::Version) || has(Role::MeantAsVersion));
    if listing.has_manifest || holds_its_model || holds_versions_alone {
        one_model(path, name, &listing, &inside)
    } else {
        many_models(path, name, &listing, &inside)
    }
}

/// A folder in the folder.
struct Inside<'a> {
    name: &'a str,
    path: &'a Path,
    /// What is in it, or why it cannot be listed.
    held: Result<Listing, String>,
}

/// The possible roles of a folder in the folder.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    /// A version of the model whose own folder is looked at.
    Version,
    /// The same, but for its name.
    MeantAsVersion,
    Model,
    NoModel,
    Unseen,
}

impl Inside<'_> {
    fn role(&self) -> Role {
        match &self.held {
            Err(_) => Role::Unseen,
            Ok(held) if version_number(self.name).is_some() && held.is_version() => Role::Version,
            Ok(held) if looks_like_version(self.name) && held.is_meant_as_version() => Role::MeantAsVersion,
            Ok(held) if held.is_model() => Role::Model,
            Ok(_) => Role::NoModel,
        }
    }

    fn is_sound_version(&self) -> bool {
        self.role() == Role::Version && self.held.as_ref().is_ok_and(|held| held.has_model)
    }
}

fn one_model(path: &Path, name: &str, listing: &Listing, inside: &[Inside<'_>]) -> Result<Scan, String> {
    let others: Vec<String> =
        inside.iter().filter(|inside| inside.role() == Role::Model).map(|inside| inside.name.to_owned()).collect();
    if !others.is_empty() {
        let sign = match listing {
            Listing { has_model: true, .. } => MODEL_FILE.to_owned(),
            Listing { has_manifest: true, .. } => MANIFEST_FILE.to_owned(),
            _ => listing.versions().first().map(|(number, _)| format!("{number}/{MODEL_FILE}")).unwrap_or_default(),
        };
        return Err(format!(
            "holds {sign}, as the folder of one model does, and folders of models: {}; move {sign} into its own folder",
            named(&others)
        ));
    }
    let model_name = own_name(path, name)?;
    let mut scan = Scan::default();
    if name.is_empty() {
        let text = format!(
            "this is the folder of one model, which is served under the folder's name, '{model_name}'; models.name (--model-name) gives it another"
        );
        scan.remarks.push(Remark { folder: path.to_owned(), text, warns: false });
    }
    scan.models.push(found_model(&model_name, path, listing));
    Ok(scan)
}

fn many_models(path: &Path, name: &str, listing: &Listing, inside: &[Inside<'_>]) -> Result<Scan, String> {
    let mut scan = Scan::default();
    let litter = listing.folders.iter().map(|(name, _)| name).filter(|name| is_litter(name)).cloned();
    let broken = listing.broken.iter().map(|(name, _, reason)| format!("{name} ({reason})"));
    let files =
        listing.onnx_files.iter().map(|file| format!("{file} (a model's file is called {MODEL_FILE}, in its own folder)"));
    let mut passed_over: Vec<String> = litter.chain(broken).chain(files).collect();
    for Inside { name, path, held } in inside {
        let unusable = match held {
            Ok(held) if !held.is_model() => {
                let why = if held.is_whole { held.other_files() } else { Some(too_many()) };
                passed_over.push(why.map_or_else(|| (*name).to_owned(), |why| format!("{name} ({why})")));
                continue;
            }
            Ok(held) => match check_name(name) {
                Ok(()) if held.is_whole => {
                    scan.models.push(found_model(name, path, held));
                    continue;
                }
                Ok(()) => too_many(),
                Err(reason) => reason,
            },
            // It may be a model that should be served, unless no model has such a name.
            Err(reason) if check_name(name).is_ok() => {
                format!("{reason}; let the server's user read it or, if it is no model, begin its name with a dot")
            }
            Err(reason) => {
                passed_over.push(format!("{name} ({reason})"));
                continue;
            }
        };
        scan.unusable.push((path.to_path_buf(), unusable));
    }
    if scan.models.len() > MODELS_MAX {
        return Err(format!("holds more than {MODELS_MAX} models"));
    }
    if let (Some(FoundModel { name: one, .. }), false) = (scan.models.first(), name.is_empty()) {
        return Err(format!(
            "is not the folder of one model, so models.name cannot name it '{name}': it holds models named by their own folders, such as '{one}'; \
             leave models.name out, or set models.dir to the folder of that one"
        ));
    }
    passed_over.sort();
    let mut remark = |text| scan.remarks.push(Remark { folder: path.to_owned(), text, warns: true });
    if !passed_over.is_empty() {
        let list = named(&passed_over);
        remark(format!(
            "these are passed over, as they hold neither {MANIFEST_FILE}, {MODEL_FILE} nor a folder named by a version, such as 1: {list}"
        ));
    }
    if scan.models.is_empty() && scan.unusable.is_empty() {
        remark(format!(
            "no model is found here; looked for NAME/{MANIFEST_FILE}, NAME/{MODEL_FILE} and NAME/1/{MODEL_FILE}, where each model has a folder, \
             and for {MANIFEST_FILE}, {MODEL_FILE} and 1/{MODEL_FILE}, where this is the folder of one model"
        ));
    }
    Ok(scan)
}

fn found_model(name: &str, folder: &Path, listing: &Listing) -> FoundModel {
    let mut versions: Vec<FoundVersion> =
        listing.versions().into_iter().map(|(number, path)| FoundVersion { number, file: path.join(MODEL_FILE) }).collect();
    if versions.is_empty() && listing.has_model {
        versions.push(FoundVersion { number: 1, file: folder.join(MODEL_FILE) });
    }
    FoundModel {
        name: name.into(),
        folder: folder.to_owned(),
        manifest: read_manifest(&folder.join(MANIFEST_FILE)),
        versions,
        passed_over: listing.passed_over(),
    }
}

/// The name of the model whose own folder is at `path`.
fn own_name(path: &Path, given: &str) -> Result<String, String> {
    if !given.is_empty() {
        return check_name(given)
            .map(|()| given.to_owned())
            .map_err(|reason| format!("is called '{given}' by models.name, but {reason}"));
    }
    // "." and ".." have a name only where they lead.
    let name = path.file_name().map(PathBuf::from).or_else(|| Some(fs::canonicalize(path).ok()?.file_name()?.into()));
    let name = name.unwrap_or_default().to_string_lossy().into_owned();
    let cure = "name the model by models.name (--model-name)";
    if name.is_empty() {
        return Err(format!("is the folder of one model, but has no name that it could be served under; {cure}"));
    }
    if version_number(&name).is_some() {
        return Err(format!(
            "is the folder of a version, as its name is a number; set models.dir to the model's folder, or {cure}"
        ));
    }
    check_name(&name).map_err(|reason| format!("is the folder of one model, but {reason}; {cure}"))?;
    Ok(name)
}

fn check_name(name: &str) -> Result<(), String> {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '_' | '-');
    if name.len() > NAME_BYTES_MAX {
        return Err(format!("its name has {} bytes; a model's name has at most {NAME_BYTES_MAX}", name.len()));
    }
    match name.chars().find(|letter| !is_plain(*letter)) {
        Some(letter) => Err(format!("its name holds {letter:?}; a model's name is made of A-Z, a-z, 0-9, '.', '_' and '-'")),
        None => Ok(()),
    }
}

fn too_many() -> String {
    format!("holds more than {ENTRIES_MAX} entries")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder called "models" with these files in it; a name that ends in a slash is a folder.
    fn folder_with(files: &[&str]) -> (tempfile::TempDir, PathBuf) {
        let root = tempfile::tempdir().expect("a temporary folder");
        let models = root.path().join("models");
        fs::create_dir(&models).expect("a folder in it");
        for file in files {
            let path = models.join(file);
            if file.ends_with('/') {
                fs::create_dir_all(path).expect("a folder in it");
            } else {
                fs::create_dir_all(path.parent().expect("it is below")).expect("a folder in it");
                fs::write(path, "").expect("a file in it");
            }
        }
        (root, models)
    }

    /// What is found in such a folder: `name: file of each version`, faults and remarks, with paths from the folder on.
    struct Seen {
        models: Vec<String>,
        faults: Vec<String>,
        warnings: Vec<String>,
        news: Vec<String>,
    }

    fn seen_as(files: &[&str], name: &str) -> Seen {
        let (_root, models) = folder_with(files);
        of(&models, scan(&models, name))
    }

    fn seen(files: &[&str]) -> Seen {
        seen_as(files, "")
    }

    fn of(root: &Path, scan: Scan) -> Seen {
        let short = |path: &Path| path.strip_prefix(root).expect("it is below").display().to_string();
        let versions = |model: &FoundModel| -> Vec<String> {
            model.versions.iter().map(|version| format!(" {}={}", version.number, short(&version.file))).collect()
        };
        let (warnings, news): (Vec<Remark>, Vec<Remark>) = scan.remarks.into_iter().partition(|remark| remark.warns);
        let passed_over = scan.models.iter().map(|model| model.passed_over.clone()).filter(|text| !text.is_empty());
        Seen {
            warnings: warnings.into_iter().map(|remark| remark.text).chain(passed_over).collect(),
            models: scan.models.iter().map(|model| format!("{}:{}", model.name, versions(model).concat())).collect(),
            faults: scan.unusable.iter().map(|(path, reason)| format!("{}: {reason}", short(path))).collect(),
            news: news.into_iter().map(|remark| remark.text).collect(),
        }
    }

    const PASSED_OVER: &str =
        "these are passed over, as they hold neither model.toml, model.onnx nor a folder named by a version, such as 1: ";

    #[test]
    fn what_holds_no_model_is_passed_over_in_one_remark() {
        let litter = [
            "lost+found/#123/1/model.onnx",
            "System Volume Information/",
            "$RECYCLE.BIN/1/model.onnx",
            "__MACOSX/1/._model.onnx",
            "__MACOSX/._model.toml",
            "@eaDir/m@SynoEAStream",
            "docs/v1/index.html",
            "docs/page.md",
            "empty/",
            "my notes/today.md",
            "wrong/yolo.onnx",
            ".git/1/model.onnx",
            "README.md",
        ];
        let found = seen(&[litter.as_slice(), &["m/1/model.onnx"]].concat());
        assert_eq!((found.models.as_slice(), found.faults.len()), (["m: 1=m/1/model.onnx".to_owned()].as_slice(), 0));
        let list = "$RECYCLE.BIN, @eaDir, System Volume Information, __MACOSX, docs, empty, lost+found, my notes, \
                    wrong ('yolo.onnx' is passed over: a model's file is called model.onnx)";
        assert_eq!(found.warnings, [format!("{PASSED_OVER}{list}")]);
    }

    #[test]
    fn a_folder_of_a_bad_name_that_holds_a_model_is_a_fault() {
        for file in
            ["bad name/1/model.onnx", "bad name/1/", "bad name/model.toml", "bad name/model.onnx", "bad name/v1/model.onnx"]
        {
            let found = seen(&[file, "m/1/model.onnx"]);
            assert_eq!(found.faults.len(), 1, "{file}");
            assert!(found.faults[0].starts_with("bad name: its name holds ' '; "), "{:?}", found.faults);
        }
    }

    #[test]
    fn what_cannot_be_listed_is_a_fault_if_it_may_be_a_model() {
        let (_root, models) = folder_with(&["m/1/model.onnx"]);
        let denied = || Err("cannot be listed: Permission denied (os error 13)".to_owned());
        let (secret, private) = (models.join("secret"), models.join("@private"));
        let inside = [
            Inside { name: "@private", path: &private, held: denied() },
            Inside { name: "secret", path: &secret, held: denied() },
        ];
        let found = of(&models, many_models(&models, "", &Listing::default(), &inside).expect("no fault of the whole"));
        let cure = "let the server's user read it or, if it is no model, begin its name with a dot";
        assert_eq!(found.faults, [format!("secret: cannot be listed: Permission denied (os error 13); {cure}")]);
        assert_eq!(found.warnings, [format!("{PASSED_OVER}@private (cannot be listed: Permission denied (os error 13))")]);
    }

    #[test]
    fn a_link_to_nothing_is_named_and_one_that_is_a_version_is_a_version() {
        let (_root, models) = folder_with(&["m/1/model.onnx"]);
        for (link, target) in [("gone", "/nowhere/gone"), ("m/2", "/nowhere/2"), ("m/3", "1")] {
            std::os::unix::fs::symlink(target, models.join(link)).expect("a link");
        }
        let found = of(&models, scan(&models, ""));
        assert_eq!(found.models, ["m: 1=m/1/model.onnx 2=m/2/model.onnx 3=m/3/model.onnx"]);
        let expected = format!("{PASSED_OVER}gone (a link that cannot be followed: No such file or directory (os error 2))");
        assert_eq!(found.warnings, [expected]);
    }

    #[test]
    fn a_model_without_folders_of_versions_is_version_1() {
        let found = seen(&["m/model.onnx", "n/model.onnx", "n/model.toml"]);
        assert_eq!(found.models, ["m: 1=m/model.onnx", "n: 1=n/model.onnx"]);
        assert!(found.faults.is_empty() && found.warnings.is_empty() && found.news.is_empty());
        let found = seen(&["m/model.onnx", "m/3/model.onnx"]);
        assert_eq!(found.models, ["m: 3=m/3/model.onnx"]);
        assert_eq!(
            found.warnings,
            ["'model.onnx' is passed over because there are folders of versions; move it into its own folder"]
        );
    }

    #[test]
    fn the_folder_of_one_model_is_known_by_what_it_holds() {
        let cases: [(&[&str], &str); 9] = [
            (&["model.onnx"], "models: 1=model.onnx"),
            (&["model.onnx", "lost+found/", "docs/v1/page", "config.pbtxt"], "models: 1=model.onnx"),
            (&["model.toml"], "models:"),
            (&["1/model.onnx"], "models: 1=1/model.onnx"),
            (&["1/model.onnx", "12/model.onnx", "model.toml"], "models: 1=1/model.onnx 12=12/model.onnx"),
            (&["4/"], "models: 4=4/model.onnx"),
            (&["model.toml", "v1/model.onnx"], "models:"),
            (&["01/model.onnx"], "models:"),
            (&["v1/model.onnx", "v2/model.onnx"], "models:"),
        ];
        for (files, model) in cases {
            let found = seen(files);
            assert_eq!(
                (found.models.as_slice(), found.faults.as_slice()),
                ([model.to_owned()].as_slice(), [].as_slice()),
                "{files:?}"
            );
            assert!(
                found.news[0].contains("is served under the folder's name, 'models'; models.name (--model-name)"),
                "{files:?}"
            );
            let found = seen_as(files, "named");
            assert_eq!(found.models, [model.replace("models", "named")], "{files:?}");
            assert!(found.news.is_empty(), "{files:?}");
        }
    }

    #[test]
    fn a_folder_of_models_may_hold_models_whose_names_look_like_versions() {
        let found = seen(&["7/1/model.onnx", "8/model.toml", "v2/model.onnx", "m/2/model.onnx", "9/"]);
        let expected = ["7: 1=7/1/model.onnx", "8:", "m: 2=m/2/model.onnx", "v2: 1=v2/model.onnx"];
        assert_eq!((found.models.as_slice(), found.faults.len()), (expected.map(str::to_owned).as_slice(), 0));
        assert_eq!(found.warnings, [format!("{PASSED_OVER}9")]);
    }

    #[test]
    fn one_model_and_folders_of_models_are_not_both_served_by_guess() {
        for (file, sign) in [("model.onnx", "model.onnx"), ("model.toml", "model.toml"), ("2/model.onnx", "2/model.onnx")] {
            let found = seen(&[file, "a/1/model.onnx", "b/model.onnx"]);
            let expected = format!(
                ": holds {sign}, as the folder of one model does, and folders of models: a, b; move {sign} into its own folder"
            );
            assert_eq!((found.faults, found.models.len()), (vec![expected], 0));
        }
    }

    #[test]
    fn the_folder_of_one_model_needs_a_name_that_a_model_can_have() {
        let (root, models) = folder_with(&["model.onnx"]);
        let fault = |folder: &str, name: &str| {
            let path = root.path().join(folder);
            fs::rename(&models, &path).expect("it can be moved");
            let found = of(&path, scan(&path, name));
            fs::rename(&path, &models).expect("it can be moved");
            assert!(found.models.is_empty());
            found.faults.concat()
        };
        assert!(fault("my model", "").contains("its name holds ' '; ") && fault("my model", "").contains("--model-name"));
        assert!(
            fault("3", "").contains("is the folder of a version, as its name is a number; set models.dir to the model's folder")
        );
        assert!(fault("fine", "a b").starts_with(": is called 'a b' by models.name, but its name holds ' '; "));
        let dotted = of(&models, scan(&models.join("."), ""));
        assert_eq!(dotted.models, ["models: 1=model.onnx"]);
        fs::create_dir(models.join("sub")).expect("a folder");
        assert_eq!(own_name(&models.join("sub/.."), ""), Ok("models".to_owned()));
        assert!(own_name(Path::new("/"), "").is_err_and(|fault| fault.contains("has no name that it could be served under")));
        assert_eq!(own_name(Path::new("/"), "m"), Ok("m".to_owned()));
    }

    #[test]
    fn a_name_for_one_model_is_a_fault_where_there_are_several() {
        let found = seen_as(&["a/1/model.onnx", "b/1/model.onnx"], "mine");
        assert_eq!(found.models.len(), 0);
        assert!(found.faults[0].contains("models.name cannot name it 'mine'") && found.faults[0].contains("such as 'a'"));
    }

    #[test]
    fn a_folder_without_any_model_says_what_was_looked_for() {
        for files in [[].as_slice(), &["docs/"], &["yolo.onnx"], &["group/m/1/model.onnx"]] {
            let found = seen(files);
            assert_eq!((found.models.len(), found.faults.len()), (0, 0), "{files:?}");
            assert!(
                found
                    .warnings
                    .last()
                    .is_some_and(|text| text.starts_with("no model is found here; looked for NAME/model.toml, "))
            );
            assert_eq!(found.warnings.len(), 1 + usize::from(!files.is_empty()), "{files:?}");
        }
        let found = seen(&["yolo.onnx"]);
        let list = "yolo.onnx (a model's file is called model.onnx, in its own folder)";
        assert_eq!(found.warnings[0], format!("{PASSED_OVER}{list}"));
    }
}
