//! Opens a file next to a model's own, by a name from the model's file, which is not to be trusted.
//!
//! A file that is opened lies below the model's folder, or a link there leads to it inside the folder of all models: Kubernetes
//! shows the files of a volume as links into another folder of it. No name leads out of that, not even through a link that is
//! swapped at the same time, and only plain files are opened.

use std::{
    fs::{self, File},
    os::fd::AsRawFd,
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2},
    io::Errno,
};

/// Longest name.
const NAME_BYTES_MAX: usize = 1_024;

/// Opens `name` in the folder of `model_file`, which is somewhere below `root`; or why not.
pub(super) fn open(root: &Path, model_file: &Path, name: &str) -> Result<File, String> {
    check_name(name)?;
    let folder = model_file.parent().ok_or("is in no folder")?;
    let cannot = |error: Errno| match error {
        Errno::NOENT => format!("is not there (looked for in '{}')", folder.display()),
        error => format!("cannot be opened: {error}"),
    };
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let folder_handle = openat(CWD, folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map_err(cannot)?;
    // First only as a place, because opening some files has side effects.
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let place = match openat2(&folder_handle, name, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve) {
        Ok(place) => place,
        // A link leads out of the folder, or the system lacks this call: then the place that was found is checked.
        Err(Errno::XDEV | Errno::NOSYS | Errno::PERM | Errno::AGAIN | Errno::INVAL) => {
            let place = openat(&folder_handle, name, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(cannot)?;
            check_place(root, &path_of(&place)?)?;
            place
        }
        Err(error) => return Err(cannot(error)),
    };
    let status = rustix::fs::fstat(&place).map_err(cannot)?;
    if !rustix::fs::FileType::from_raw_mode(status.st_mode).is_file() {
        return Err("is not a file".to_owned());
    }
    let file = openat(CWD, link_of(&place), flags, Mode::empty()).map_err(cannot)?;
    Ok(File::from(file))
}

fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX {
        return Err(format!("is a name of {} bytes; accepted are 1 to {NAME_BYTES_MAX}", name.len()));
    }
    if name.contains('\0') {
        return Err("is not a file name".to_owned());
    }
    let is_below = |part: Component<'_>| matches!(part, Component::Normal(_) | Component::CurDir);
    if Path::new(name).components().all(is_below) {
        Ok(())
    } else {
        Err("leads out of the model's folder, which is not followed".to_owned())
    }
}

/// The system's own link to an open file.
fn link_of(place: &impl AsRawFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", place.as_raw_fd()))
}

fn path_of(place: &impl AsRawFd) -> Result<PathBuf, String> {
    fs::read_link(link_of(place)).map_err(|error| format!("cannot be followed without /proc: {error}"))
}

fn check_place(root: &Path, path: &Path) -> Result<(), String> {
    let root = root.canonicalize().map_err(|error| format!("cannot be found below '{}': {error}", root.display()))?;
    if path.starts_with(&root) {
        return Ok(());
    }
    Err(format!("is a link to '{}', outside of '{}', which is not followed", path.display(), root.display()))
}

#[cfg(test)]
mod tests {
    use std::{io::Read as _, os::unix::fs::symlink};

    use super::*;

    /// The folder of all models, and a model's file in it.
    fn models() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let outer = tempfile::tempdir().expect("a temporary folder");
        let root = outer.path().join("models");
        fs::create_dir_all(root.join("m/1/parts")).expect("folders");
        fs::write(outer.path().join("secret"), "secret").expect("a file");
        fs::write(root.join("m/1/parts/weights"), "parts").expect("a file");
        fs::write(root.join("m/1/weights"), "weights").expect("a file");
        let model_file = root.join("m/1/model.onnx");
        (outer, root, model_file)
    }

    fn content(root: &Path, model_file: &Path, name: &str) -> Result<String, String> {
        let mut text = String::new();
        open(root, model_file, name)?.read_to_string(&mut text).map_err(|error| error.to_string())?;
        Ok(text)
    }

    #[test]
    fn files_below_the_folder_are_opened() {
        let (_outer, root, model_file) = models();
        assert_eq!(content(&root, &model_file, "weights"), Ok("weights".to_owned()));
        assert_eq!(content(&root, &model_file, "./parts//weights"), Ok("parts".to_owned()));
    }

    #[test]
    fn links_are_followed_inside_of_the_models_folder_as_kubernetes_makes_them() {
        let (_outer, root, model_file) = models();
        fs::create_dir_all(root.join("..2026/m")).expect("a folder");
        fs::write(root.join("..2026/m/far"), "far").expect("a file");
        symlink("..2026", root.join("..data")).expect("a link");
        symlink("../../..data/m/far", root.join("m/1/far")).expect("a link");
        symlink("parts/weights", root.join("m/1/near")).expect("a link");
        assert_eq!(content(&root, &model_file, "far"), Ok("far".to_owned()));
        assert_eq!(content(&root, &model_file, "near"), Ok("parts".to_owned()));
        // The folder of all models may be a link too, and the model's.
        let by_link = root.with_file_name("current");
        symlink(&root, &by_link).expect("a link");
        symlink("..data/m", root.join("linked")).expect("a link");
        fs::write(root.join("..2026/m/weights"), "linked").expect("a file");
        assert_eq!(content(&by_link, &by_link.join("m/1/model.onnx"), "far"), Ok("far".to_owned()));
        assert_eq!(content(&by_link, &by_link.join("linked/model.onnx"), "weights"), Ok("linked".to_owned()));
    }

    #[test]
    fn nothing_outside_is_opened_and_nothing_but_files() {
        let (outer, root, model_file) = models();
        let secret = outer.path().join("secret");
        symlink(&secret, root.join("m/1/absolute")).expect("a link");
        symlink("../../../secret", root.join("m/1/relative")).expect("a link");
        symlink("/proc/self/environ", root.join("m/1/magic")).expect("a link");
        symlink("itself", root.join("m/1/itself")).expect("a link");
        let access = Mode::RUSR | Mode::WUSR;
        rustix::fs::mknodat(CWD, root.join("m/1/pipe"), rustix::fs::FileType::Fifo, access, 0).expect("a pipe");
        let long = "x".repeat(1_025);
        let cases = [
            (secret.to_str().expect("UTF-8"), "leads out of the model's folder"),
            ("../../../secret", "leads out of the model's folder"),
            ("parts/../weights", "leads out of the model's folder"),
            ("", "is a name of 0 bytes"),
            (&long, "is a name of 1025 bytes"),
            ("a\0b", "is not a file name"),
            ("absolute", "is a link to '"),
            ("relative", "is a link to '"),
            ("magic", "is a link to '"),
            ("itself", "cannot be opened: "),
            ("missing", "is not there (looked for in '"),
            ("weights/inside", "cannot be opened: "),
            ("parts", "is not a file"),
            ("pipe", "is not a file"),
        ];
        for (name, expected) in cases {
            let found = open(&root, &model_file, name).map(|_| ());
            assert!(found.as_ref().is_err_and(|cause| cause.starts_with(expected)), "{name:?}: {found:?}");
        }
    }
}
