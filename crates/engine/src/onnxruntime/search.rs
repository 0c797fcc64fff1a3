//! Finds the library where the Python package `onnxruntime`, or a system package, has put it. Runs nothing.

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
};

use super::library::REMEDY;
use crate::EngineError;

const FILE_NAME: &str = "libonnxruntime.so";
/// The system's library folders.
const LIBRARY_FOLDERS: [&str; 6] =
    ["usr/local/lib", "usr/lib/x86_64-linux-gnu", "usr/lib/aarch64-linux-gnu", "usr/lib64", "usr/lib", "opt/onnxruntime/lib"];
/// How many folders an error names at most.
const NAMED_MAX: usize = 24;

/// The library to load, below `root`: the one that `ORT_DYLIB_PATH` names, otherwise the newest one found. `variable` looks things up in
/// the process's environment.
pub(super) fn find(root: &Path, variable: &dyn Fn(&str) -> Option<OsString>) -> Result<PathBuf, EngineError> {
    let path_in = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(named) = path_in("ORT_DYLIB_PATH") {
        return Ok(named);
    }
    let mut folders = Vec::new();
    for prefix in prefixes(root, variable, &path_in) {
        packages_of(&prefix, &mut folders);
    }
    folders.extend(LIBRARY_FOLDERS.iter().map(|folder| root.join(folder)));
    let mut looked_in: Vec<&PathBuf> = Vec::new();
    folders.iter().for_each(|folder| {
        if !looked_in.contains(&folder) {
            looked_in.push(folder);
        }
    });
    let mut newest: Option<(Vec<u64>, PathBuf)> = None;
    for (version, file) in looked_in.iter().flat_map(|folder| libraries_in(folder)) {
        if newest.as_ref().is_none_or(|(known, _)| version > *known) {
            newest = Some((version, file));
        }
    }
    newest.map(|(_, file)| file).ok_or_else(|| {
        let more = looked_in.len().saturating_sub(NAMED_MAX);
        let mut places: Vec<String> = looked_in.iter().take(NAMED_MAX).map(|folder| folder.display().to_string()).collect();
        if more > 0 {
            places.push(format!("{more} more"));
        }
        let places = places.join(", ");
        EngineError::Library(format!("no library of onnxruntime was found; looked for {FILE_NAME}* in {places}; {REMEDY}"))
    })
}

/// Where Python may be installed: what the environment names, what `PATH` leads to, and the usual places.
fn prefixes(root: &Path, variable: &dyn Fn(&str) -> Option<OsString>, path_in: &dyn Fn(&str) -> Option<PathBuf>) -> Vec<PathBuf> {
    let mut prefixes: Vec<PathBuf> = ["VIRTUAL_ENV", "CONDA_PREFIX"].into_iter().filter_map(path_in).collect();
    let path = variable("PATH").unwrap_or_default();
    for folder in env::split_paths(&path).filter(|folder| folder.is_absolute()) {
        for program in ["python3", "python"].map(|name| folder.join(name)).into_iter().filter(|program| program.is_file()) {
            // The prefix of a virtual environment is where its link to Python is; that of an installation is where the link leads.
            let real = program.canonicalize().ok();
            let of = |program: &Path| Some(program.parent()?.parent()?.to_owned());
            prefixes.extend([of(&program), real.as_deref().and_then(of)].into_iter().flatten());
        }
    }
    let home = path_in("HOME");
    // With pyenv, `python3` on `PATH` is a script, not a link.
    let pyenv = path_in("PYENV_ROOT").or_else(|| home.as_ref().map(|home| home.join(".pyenv")));
    prefixes.extend(pyenv.iter().flat_map(|pyenv| entries(&pyenv.join("versions"), "")));
    prefixes.extend(home.map(|home| home.join(".local")));
    prefixes.extend(["usr/local", "usr", "opt/conda"].map(|place| root.join(place)));
    prefixes
}

/// The folders of the package in a Python installation, whether or not they exist.
fn packages_of(prefix: &Path, folders: &mut Vec<PathBuf>) {
    for library in ["lib", "lib64"] {
        for python in entries(&prefix.join(library), "python3") {
            let places = ["site-packages", "dist-packages"].map(|name| python.join(name)).into_iter();
            folders.extend(places.filter(|place| place.is_dir()).map(|place| place.join("onnxruntime/capi")));
        }
    }
}

/// Entries of `folder` whose names begin with `start`, by name.
fn entries(folder: &Path, start: &str) -> Vec<PathBuf> {
    let found = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> =
        found.filter(|entry| entry.file_name().to_string_lossy().starts_with(start)).map(|entry| entry.path()).collect();
    found.sort();
    found
}

/// The libraries in `folder`, with their version numbers.
fn libraries_in(folder: &Path) -> Vec<(Vec<u64>, PathBuf)> {
    let version = |file: PathBuf| {
        // The file that a link leads to has the full version in its name.
        let real = file.canonicalize().ok().filter(|real| real.is_file())?;
        let name = real.file_name()?.to_string_lossy().into_owned();
        let numbers = name.strip_prefix(FILE_NAME)?.split('.').filter_map(|part| part.parse().ok()).collect();
        Some((numbers, file))
    };
    entries(folder, FILE_NAME).into_iter().filter_map(version).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// What is found in a tree with these files, given these variables, whose values are places below it.
    fn found(files: &[&str], variables: &[(&str, &str)]) -> Result<String, String> {
        let root = tempfile::tempdir().expect("a temporary folder");
        for file in files {
            let path = root.path().join(file);
            fs::create_dir_all(path.parent().expect("a folder")).expect("it can be made");
            fs::write(path, "").expect("it can be written");
        }
        let value = |value: &str| root.path().join(value).into_os_string();
        let variable = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, found)| value(found));
        let found = find(root.path(), &variable).map_err(|error| error.to_string())?;
        Ok(found.strip_prefix(root.path()).expect("below the tree").display().to_string())
    }

    const OLD: &str = "venv/lib/python3.11/site-packages/onnxruntime/capi/libonnxruntime.so.1.9.0";
    const NEW: &str = "usr/lib/python3/dist-packages/onnxruntime/capi/libonnxruntime.so.1.31.1";

    #[test]
    fn the_newest_library_is_taken_wherever_it_is() {
        let beside = "usr/lib/python3/dist-packages/onnxruntime/capi/libonnxruntime_providers_shared.so";
        assert_eq!(found(&[OLD, NEW, beside], &[("VIRTUAL_ENV", "venv")]), Ok(NEW.to_owned()));
        assert_eq!(found(&[OLD], &[("VIRTUAL_ENV", "venv")]), Ok(OLD.to_owned()));
        assert_eq!(found(&[OLD], &[("CONDA_PREFIX", "venv")]), Ok(OLD.to_owned()));
        let of_home = "home/.local/lib/python3.12/site-packages/onnxruntime/capi/libonnxruntime.so.1.24.0";
        assert_eq!(found(&[of_home], &[("HOME", "home")]), Ok(of_home.to_owned()));
        let of_system = "usr/lib/x86_64-linux-gnu/libonnxruntime.so.1.21";
        assert_eq!(found(&[of_system, OLD], &[("VIRTUAL_ENV", "venv")]), Ok(of_system.to_owned()));
        let of_pyenv = "home/.pyenv/versions/3.13.1/lib/python3.13/site-packages/onnxruntime/capi/libonnxruntime.so.1.25.0";
        assert_eq!(found(&[of_pyenv], &[("HOME", "home")]), Ok(of_pyenv.to_owned()));
    }

    #[test]
    fn a_python_that_would_be_started_leads_to_its_packages() {
        assert_eq!(found(&["venv/bin/python3", OLD], &[("PATH", "venv/bin")]), Ok(OLD.to_owned()));
        assert!(found(&["venv/bin/ruby", OLD], &[("PATH", "venv/bin")]).is_err());
    }

    #[test]
    fn a_link_without_a_version_is_as_new_as_what_it_leads_to() {
        let root = tempfile::tempdir().expect("a temporary folder");
        let folder = root.path().join("usr/local/lib");
        fs::create_dir_all(&folder).expect("it can be made");
        fs::write(folder.join("libonnxruntime.so.1.24.1"), "").expect("it can be written");
        symlink("libonnxruntime.so.1.24.1", folder.join("libonnxruntime.so")).expect("a link");
        symlink("nowhere", folder.join("libonnxruntime.so.9")).expect("a link");
        assert_eq!(find(root.path(), &|_| None), Ok(folder.join("libonnxruntime.so")));
    }

    #[test]
    fn what_is_named_comes_first_and_finding_nothing_says_where_it_was_searched_for() {
        assert_eq!(found(&[NEW], &[("ORT_DYLIB_PATH", "mine.so")]), Ok("mine.so".to_owned()));
        let error = found(&["venv/lib/python3.11/site-packages/numpy/x"], &[("VIRTUAL_ENV", "venv")]).expect_err("nothing");
        for part in ["venv/lib/python3.11/site-packages/onnxruntime/capi", "usr/local/lib", "pip install onnxruntime"] {
            assert!(error.contains(part), "{error} lacks {part}");
        }
    }
}
