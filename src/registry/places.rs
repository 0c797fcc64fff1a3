//! Where a folder of models really lies, with all links on the way to it and in it followed: what must be watched to learn when
//! something else lies there.
//!
//! A link is swapped in the folder that holds it. The system reports that to watchers of that folder, not of the place that the link
//! leads to.

use std::{
    collections::{BTreeSet, VecDeque},
    ffi::OsString,
    fs,
    path::{Component, Path, PathBuf, absolute},
};

use super::layout::{ENTRIES_MAX, version_number};

/// How many links one path may lead through; Linux follows no more.
const LINKS_MAX: usize = 40;

/// The places to watch.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Places {
    /// Folders in which any change matters, and in those below. No link leads to them.
    pub(super) trees: BTreeSet<PathBuf>,
    /// Links, and what they lead to: what matters is whether something else takes their place. No link leads to them.
    pub(super) names: BTreeSet<PathBuf>,
}

impl Places {
    /// The places to watch for the models in `folder`. If there is no such folder, the place is watched where it
    /// would be.
    pub(super) fn of(folder: &Path) -> Self {
        let mut places = Self::default();
        if let Some(root) = absolute(folder).ok().and_then(|path| places.follow(&path)) {
            let mut entries_left = ENTRIES_MAX;
            places.trees.insert(root.clone());
            places.look_into(&root, Depth::Root, &mut entries_left);
        }
        places
    }

    /// The folders that hold the names, unless all changes in them matter anyway.
    pub(super) fn parents(&self) -> BTreeSet<&Path> {
        self.names.iter().filter_map(|name| name.parent()).filter(|parent| !self.is_in_tree(parent)).collect()
    }

    /// Whether something else may lie at a place once this path has changed.
    pub(super) fn concern(&self, changed: &Path) -> bool {
        self.is_in_tree(changed) || self.names.contains(changed) || self.parents().contains(changed)
    }

    fn is_in_tree(&self, path: &Path) -> bool {
        self.trees.iter().any(|tree| path.starts_with(tree))
    }

    /// Where an absolute path leads. Notes the links on the way, and the end or the first thing that is missing.
    fn follow(&mut self, path: &Path) -> Option<PathBuf> {
        let mut ahead: VecDeque<OsString> = path.components().map(|part| part.as_os_str().to_owned()).collect();
        let mut here = PathBuf::new();
        let mut links = 0;
        while let Some(part) = ahead.pop_front() {
            match Path::new(&part).components().next() {
                Some(Component::Normal(name)) => here.push(name),
                Some(Component::ParentDir) => {
                    here.pop();
                    continue;
                }
                Some(Component::RootDir) => {
                    here = PathBuf::from("/");
                    continue;
                }
                _ => continue,
            }
            let Ok(found) = fs::symlink_metadata(&here) else {
                self.names.insert(here);
                return None;
            };
            if found.is_symlink() {
                links += 1;
                let target = fs::read_link(&here).ok().filter(|_| links <= LINKS_MAX);
                self.names.insert(here.clone());
                here.pop();
                for part in target?.components().rev() {
                    ahead.push_front(part.as_os_str().to_owned());
                }
            }
        }
        self.names.insert(here.clone());
        Some(here)
    }

    /// Follows those links in a folder through which the models' files may be reached.
    fn look_into(&mut self, folder: &Path, depth: Depth, entries_left: &mut usize) {
        // A folder that cannot be listed holds no model either.
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let Ok(kind) = entry.file_type() else { continue };
            if !kind.is_dir() && !kind.is_symlink() {
                continue;
            }
            let Some(left) = entries_left.checked_sub(1) else { return };
            *entries_left = left;
            let name = entry.file_name().to_string_lossy().into_owned();
            let leads_on = match depth {
                Depth::Root => true,
                Depth::Model => version_number(&name).is_some(),
                Depth::Version => false,
            };
            if name.starts_with('.') {
                continue;
            }
            if kind.is_dir() && leads_on {
                self.look_into(&entry.path(), depth.next(), entries_left);
            }
            if !kind.is_symlink() {
                continue;
            }
            let Some(real) = self.follow(&folder.join(&name)) else { continue };
            if leads_on && real.is_dir() {
                if !self.is_in_tree(&real) {
                    self.trees.insert(real.clone());
                }
                self.look_into(&real, depth.next(), entries_left);
            }
        }
    }
}

/// How far below the folder of models a folder is. In the folder of one model, all is one step nearer.
#[derive(Clone, Copy)]
enum Depth {
    Root,
    Model,
    Version,
}

impl Depth {
    const fn next(self) -> Self {
        match self {
            Self::Root => Self::Model,
            Self::Model | Self::Version => Self::Version,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A folder with these folders and links in it, and where it really is.
    fn laid_out(folders: &[&str], links: &[(&str, &str)]) -> (tempfile::TempDir, PathBuf) {
        let root = tempfile::tempdir().expect("a temporary folder");
        for folder in folders {
            fs::create_dir_all(root.path().join(folder)).expect("a folder in it");
        }
        for (name, target) in links {
            symlink(target, root.path().join(name)).expect("a link in it");
        }
        let real = root.path().canonicalize().expect("it is there");
        (root, real)
    }

    fn below(root: &Path, paths: &BTreeSet<PathBuf>) -> Vec<String> {
        paths.iter().map(|path| path.strip_prefix(root).expect("it is below").display().to_string()).collect()
    }

    #[test]
    fn a_plain_folder_is_a_tree_whose_own_name_matters() {
        let (_root, real) = laid_out(&["models/m/1"], &[]);
        let places = Places::of(&real.join("models"));
        assert_eq!(
            (below(&real, &places.trees), below(&real, &places.names)),
            (vec!["models".to_owned()], vec!["models".to_owned()])
        );
        assert_eq!(places.parents(), BTreeSet::from([real.as_path()]));
        for (path, matters) in
            [("models", true), ("models/m/1/model.onnx", true), ("other", false), ("models2/m", false), ("", true)]
        {
            assert_eq!(places.concern(&real.join(path)), matters, "{path}");
        }
    }

    #[test]
    fn each_link_on_the_way_matters_where_it_lies() {
        let links = [("current", "releases/latest"), ("releases/latest", "../store/./v1"), ("store/v1/m", "/nowhere/m")];
        let (_root, real) = laid_out(&["store/v1", "releases"], &links);
        let places = Places::of(&real.join("current"));
        assert_eq!(below(&real, &places.trees), ["store/v1"]);
        let mut names = places.names.clone();
        assert!(names.remove(Path::new("/nowhere")), "where the first missing thing would be");
        assert_eq!(below(&real, &names), ["current", "releases/latest", "store/v1", "store/v1/m"]);
        let parents = [Path::new("/"), &real, &real.join("releases"), &real.join("store")];
        assert_eq!(places.parents(), parents.into_iter().collect());
    }

    #[test]
    fn links_in_the_folder_are_followed_as_far_as_models_lie_in_it() {
        let links = [
            ("models/..data", "..2024"),
            ("models/m", "..data/m"),
            ("models/n", "../store/n"),
            ("store/n/2", "../n2"),
            ("store/n/docs", "../../manual"),
            ("store/n2/model.onnx", "../../blobs/abc"),
        ];
        let (_root, real) = laid_out(&["models/..2024/m/1", "store/n", "store/n2", "blobs/abc", "manual"], &links);
        let places = Places::of(&real.join("models"));
        assert_eq!(below(&real, &places.trees), ["models", "store/n", "store/n2"]);
        for name in ["models/..data", "models/m", "models/n", "store/n/2", "store/n2/model.onnx", "blobs/abc"] {
            assert!(places.concern(&real.join(name)), "{name}: {places:?}");
        }
        assert!(!places.concern(&real.join("blobs/other")) && !places.concern(&real.join("manual/page")));
    }

    #[test]
    fn links_in_a_circle_lead_nowhere() {
        let (_root, real) = laid_out(&[], &[("a", "b"), ("b", "a")]);
        let places = Places::of(&real.join("a"));
        assert!(places.trees.is_empty());
        assert_eq!(below(&real, &places.names), ["a", "b"]);
    }
}
