//! Rules that the compiler does not enforce.
//!
//! Imports, attributes and threads are searched for in tokens, so comments and strings do not count, but macro bodies do. Each rule is a
//! function from a file to its complaints, and is tested on a file that breaks it.

#![expect(clippy::panic, reason = "a panic is how a test complains, in its helpers too")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use proc_macro2::{Delimiter, Group, Spacing, TokenStream, TokenTree};

const FILE_LINES_MAX: usize = 600;
/// What the names of the crates below `crates` begin with.
const PARTS_PREFIX: &str = "tidemill_";

/// A source file, by its path from the root of the repository.
pub(crate) struct Source {
    pub(crate) path: String,
    text: String,
    tokens: TokenStream,
}

impl Source {
    fn new(path: &str, text: &str) -> Self {
        let tokens = text.parse().unwrap_or_else(|error| panic!("{path}: {error}"));
        Self { path: path.to_owned(), text: text.to_owned(), tokens }
    }

    /// The crate that the file is a part of, as the server calls it; `None` for the server's own.
    fn part(&self) -> Option<&str> {
        Some(self.path.strip_prefix("crates/")?.split_once("/src/")?.0)
    }

    /// The names of the modules from the server's root down to this file; none for its `lib.rs`, `["main"]` for `main.rs`. A crate below
    /// `crates` counts as a module of its name.
    fn module(&self) -> Vec<&str> {
        let path = self.path.split_once("src/").map_or(self.path.as_str(), |(_, path)| path);
        let mut names: Vec<_> = path.strip_suffix(".rs").unwrap_or(path).split('/').collect();
        names.pop_if(|last| *last == "mod" || *last == "lib");
        self.part().into_iter().chain(names).collect()
    }

    /// Whether all of the file is a test module.
    fn is_tests(&self) -> bool {
        self.path.ends_with("/tests.rs") || self.path.contains("/tests/")
    }

    /// The text before the test module at the end.
    pub(crate) fn without_tests(&self) -> &str {
        let tests = self.text.rfind("\n#[cfg(test)]\nmod ").filter(|start| {
            let tests = &self.text[*start..];
            tests.find("\n}\n").is_none_or(|end| end + 3 == tests.len())
        });
        tests.map_or(&self.text, |start| &self.text[..=start])
    }
}

pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// All Rust files under `folder`.
pub(crate) fn sources(folder: &str) -> Vec<Source> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(&root().join(folder), &mut found);
    found.sort();
    let sources: Vec<_> = found
        .iter()
        .map(|path| path.strip_prefix(root()).expect("a path below the root").to_str().expect("a name in Unicode"))
        .map(|path| Source::new(path, &read(path)))
        .collect();
    assert!(!sources.is_empty(), "{folder} holds no Rust file");
    sources
}

/// The folders below `crates`, each of which is a crate.
fn parts() -> Vec<String> {
    let entries = fs::read_dir(root().join("crates")).expect("the folder of the crates");
    let names = entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("a name in Unicode"));
    let names: Vec<_> = names.collect();
    assert!(!names.is_empty(), "the crates were not found");
    names
}

/// All files of the server and of the crates that it is made of.
fn product() -> Vec<Source> {
    let folders = parts().into_iter().map(|part| format!("crates/{part}/src"));
    folders.chain(["src".to_owned()]).flat_map(|folder| sources(&folder)).collect()
}

pub(crate) fn assert_none(complaints: impl IntoIterator<Item = String>) {
    let complaints: Vec<_> = complaints.into_iter().collect();
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

/// The text between the comments `<!-- name -->` and `<!-- /name -->`.
fn marked<'a>(text: &'a str, name: &str) -> &'a str {
    let (_, rest) = text.split_once(&format!("<!-- {name} -->\n")).unwrap_or_else(|| panic!("<!-- {name} --> is missing"));
    rest.split_once(&format!("<!-- /{name} -->")).unwrap_or_else(|| panic!("<!-- /{name} --> is missing")).0
}

// ---- Tokens -----------------------------------------------------------------------------------------------------------------

/// A path as written: its segments, and the line where it begins. A group in a `use` gives one path for each leaf.
#[derive(Debug, Clone)]
struct Written {
    segments: Vec<String>,
    line: usize,
    /// How many inline modules of the file surround it.
    inline_modules: usize,
    in_tests: bool,
}

/// All paths of two or more segments.
fn paths(source: &Source) -> Vec<Written> {
    let mut found = Vec::new();
    collect_paths(&source.tokens, 0, source.is_tests(), &mut found);
    found
}

fn collect_paths(tokens: &TokenStream, inline_modules: usize, in_tests: bool, found: &mut Vec<Written>) {
    let tokens: Vec<_> = tokens.clone().into_iter().collect();
    let (mut at, mut test_item) = (0, false);
    while at < tokens.len() {
        match &tokens[at] {
            TokenTree::Ident(ident) if ident == "mod" && opens_module(&tokens[at..]) => {
                let TokenTree::Group(body) = &tokens[at + 2] else { unreachable!("opens_module has seen it") };
                collect_paths(&body.stream(), inline_modules + 1, in_tests || test_item, found);
                test_item = false;
                at += 3;
            }
            TokenTree::Ident(ident) => {
                let line = ident.span().start().line;
                let mut leaves = Vec::new();
                let length = leaves_of(&tokens[at..], &mut Vec::new(), &mut leaves);
                let leaves = leaves.into_iter().filter(|segments| segments.len() > 1);
                found.extend(leaves.map(|segments| Written { segments, line, inline_modules, in_tests: in_tests || test_item }));
                at += length;
            }
            TokenTree::Group(group) => {
                if group.delimiter() == Delimiter::Bracket {
                    test_item |= group.stream().to_string().replace(' ', "") == "cfg(test)";
                }
                collect_paths(&group.stream(), inline_modules, in_tests || test_item, found);
                test_item &= group.delimiter() != Delimiter::Brace;
                at += 1;
            }
            TokenTree::Punct(punct) => {
                test_item &= punct.as_char() != ';';
                at += 1;
            }
            TokenTree::Literal(_) => at += 1,
        }
    }
}

/// `mod name { .. }`
fn opens_module(tokens: &[TokenTree]) -> bool {
    matches!(tokens, [_, TokenTree::Ident(_), TokenTree::Group(body), ..] if body.delimiter() == Delimiter::Brace)
}

/// Follows `a::b::{c, d::e}` from its first name, and returns how many tokens it takes up.
fn leaves_of(tokens: &[TokenTree], before: &mut Vec<String>, leaves: &mut Vec<Vec<String>>) -> usize {
    let depth = before.len();
    let mut at = 0;
    while let Some(TokenTree::Ident(name)) = tokens.get(at) {
        before.push(name.to_string());
        at += 1;
        if !is_path_separator(&tokens[at..]) {
            break;
        }
        match tokens.get(at + 2) {
            Some(TokenTree::Ident(_)) => at += 2,
            Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => {
                leaves_of_group(group, before, leaves);
                before.truncate(depth);
                return at + 3;
            }
            Some(TokenTree::Punct(punct)) if punct.as_char() == '*' => {
                before.push("*".to_owned());
                at += 3;
                break;
            }
            // The generics of a call.
            _ => break,
        }
    }
    leaves.push(before.clone());
    before.truncate(depth);
    at.max(1)
}

fn leaves_of_group(group: &Group, before: &mut Vec<String>, leaves: &mut Vec<Vec<String>>) {
    let tokens: Vec<_> = group.stream().into_iter().collect();
    let is_comma = |token: &TokenTree| matches!(token, TokenTree::Punct(punct) if punct.as_char() == ',');
    for leaf in tokens.split(is_comma).filter(|leaf| !leaf.is_empty()) {
        leaves_of(leaf, before, leaves);
    }
}

fn is_path_separator(tokens: &[TokenTree]) -> bool {
    matches!(tokens, [TokenTree::Punct(one), TokenTree::Punct(two), ..]
        if one.as_char() == ':' && one.spacing() == Spacing::Joint && two.as_char() == ':')
}

/// The path from the server's root, if it leads there.
fn from_root(source: &Source, written: &Written) -> Option<Vec<String>> {
    let segments = &written.segments;
    let ups = segments.iter().take_while(|segment| *segment == "super").count();
    let is_main = source.module() == ["main"];
    let (part, below) = match segments[0].as_str() {
        // `main.rs` is a separate crate that sees the library from outside.
        "tidemill" if is_main => (None, &segments[1..]),
        "crate" if !is_main => (source.part(), &segments[1..]),
        "super" if !is_main && ups >= source.module().len() + written.inline_modules => (None, &segments[ups..]),
        name => (Some(name.strip_prefix(PARTS_PREFIX)?), &segments[1..]),
    };
    let path: Vec<_> = part.map(str::to_owned).into_iter().chain(below.iter().cloned()).collect();
    (!path.is_empty()).then_some(path)
}

// ---- Layers -----------------------------------------------------------------------------------------------------------------

/// The rows of the table: a module or a folder of one, and what it may use; `None` is everything.
type Layers = BTreeMap<String, Option<BTreeSet<String>>>;

/// A table of two columns, of which the second is a list.
fn table<'a>(page: &'a str, name: &str) -> Vec<(&'a str, Vec<&'a str>)> {
    let rows = marked(page, name).lines().skip(2);
    let rows = rows.map(|row| row.trim_matches('|').split_once('|').unwrap_or_else(|| panic!("not a row of two: {row}")));
    rows.map(|(name, list)| (name.trim(), list.trim().split(", ").collect())).collect()
}

fn layers(page: &str) -> Layers {
    let groups: BTreeMap<_, _> = table(page, "groups").into_iter().collect();
    let rows = table(page, "layers").into_iter();
    rows.map(|(module, used)| {
        let used = match used[..] {
            ["all"] => None,
            ["nothing"] => Some(BTreeSet::new()),
            _ => {
                let names = used.iter().flat_map(|name| groups.get(name).cloned().unwrap_or_else(|| vec![name]));
                Some(names.map(str::to_owned).collect())
            }
        };
        (module.to_owned(), used)
    })
    .collect()
}

/// The row for a module: its own, or that of the nearest folder around it which has one.
fn row_of<'a>(module: &[impl AsRef<str>], layers: &'a Layers) -> Option<(&'a String, &'a Option<BTreeSet<String>>)> {
    let names: Vec<&str> = module.iter().map(AsRef::as_ref).collect();
    (1..=names.len()).rev().find_map(|depth| layers.get_key_value(&names[..depth].join("::")))
}

/// Whether the list has this path, or something that the path is inside of.
fn is_listed(path: &[String], used: &BTreeSet<String>) -> bool {
    (1..=path.len()).any(|depth| used.contains(&path[..depth].join("::")))
}

fn layer_complaints(source: &Source, layers: &Layers, library: &Library<'_>) -> Vec<String> {
    let path = &source.path;
    let module = source.module();
    // The root declares the modules and uses none.
    let Some(from) = module.first() else { return Vec::new() };
    let Some((row, used)) = row_of(&module, layers) else {
        return vec![format!("{path}: the layer table of docs/architecture.md has no row for `{from}`")];
    };
    let Some(used) = used else { return Vec::new() };
    // A folder may use what the folders around it share.
    let is_own = |import: &[String]| match row_of(import, layers) {
        Some((other, _)) => other == row || row.starts_with(&format!("{other}::")),
        None => import[0] == *from,
    };
    let paths = paths(source);
    let imports = paths.iter().filter_map(|written| Some((written.line, from_root(source, written)?)));
    let foreign = imports.filter_map(|(line, import)| {
        if !is_own(&import) && !is_listed(&import, used) {
            return Some((line, import.join("::"), String::new()));
        }
        // What a module passes on is still of the module that defines it.
        let (definer, item) = library.origin(import.clone())?;
        let origin: Vec<String> = definer.first().cloned().into_iter().chain(item).collect();
        let is_allowed = definer.first() == import.first() || is_own(&definer) || is_listed(&origin, used);
        (!is_allowed).then(|| (line, import.join("::"), format!(", which is `{}`", origin.join("::"))))
    });
    foreign.map(|(line, import, origin)| format!("{path}:{line}: `{row}` may not use `{import}`{origin}")).collect()
}

#[test]
fn modules_use_only_what_the_layer_table_allows() {
    let layers = layers(&read("docs/architecture.md"));
    let sources = product();
    let library = Library::new(&sources);
    assert_none(sources.iter().flat_map(|source| layer_complaints(source, &layers, &library)));
}

#[test]
fn the_layer_table_names_only_modules_that_have_a_row() {
    let layers = layers(&read("docs/architecture.md"));
    let used = layers.values().flatten().flatten().map(|used| used.split("::").next().unwrap_or(used));
    assert_none(used.filter(|used| !layers.contains_key(*used)).map(|used| format!("`{used}` has no row")));
}

#[test]
fn what_a_front_end_may_use_is_said_in_six_words() {
    let page = read("docs/architecture.md");
    let rows = table(&page, "layers").into_iter().filter(|(module, _)| module.starts_with("frontend"));
    let long: Vec<_> = rows.filter(|(_, used)| used.len() > 6).map(|(module, used)| format!("{module}: {used:?}")).collect();
    assert_none(long);
}

/// What the manifest of a crate says that the product of it needs of the others.
fn manifest_edges(manifest: &str) -> BTreeSet<String> {
    let section = manifest.split("\n[").find(|section| section.starts_with("dependencies]")).unwrap_or("");
    let names = section.lines().filter_map(|line| line.strip_prefix("tidemill-")?.split(['.', ' ', '=']).next());
    names.map(str::to_owned).collect()
}

#[test]
fn crates_depend_on_what_the_layer_table_says() {
    let layers = layers(&read("docs/architecture.md"));
    assert_none(parts().iter().filter_map(|part| {
        let needed = manifest_edges(&read(&format!("crates/{part}/Cargo.toml")));
        let said = layers.get(part).cloned().flatten().unwrap_or_default();
        (needed != said).then(|| format!("crates/{part}/Cargo.toml has {needed:?}, and docs/architecture.md {said:?}"))
    }));
}

#[test]
fn the_edges_of_a_manifest_are_those_of_its_product() {
    let manifest = "[package]\nname = \"x\"\n\n[dependencies]\nbytes = \"1\"\ntidemill-one.workspace = true\n\
                    tidemill-two = { path = \"../two\" }\n\n[dev-dependencies]\ntidemill-three.workspace = true\n";
    assert_eq!(manifest_edges(manifest), BTreeSet::from(["one", "two"].map(str::to_owned)));
}

#[test]
fn a_forbidden_import_is_found_however_it_is_written() {
    let layers = layers(
        "<!-- groups -->\n| g | m |\n|---|---|\n| ground | base, mid::Allowed |\n<!-- /groups -->\n\
         <!-- layers -->\n| a | b |\n|---|---|\n| low | ground |\n| front | base |\n| front::one | mid |\n| main | app |\n<!-- /layers -->",
    );
    let complaints = |path: &str, text: &str| {
        let passes_on = "pub use crate::high::Thing;\npub use self::part::Part;\npub use tidemill_base::Basic;";
        let files = [
            ("crates/base/src/lib.rs", "pub use kept::Kept;"),
            ("crates/base/src/kept.rs", "pub struct Kept;"),
            ("src/mid/mod.rs", passes_on),
            ("src/mid/part.rs", ""),
            ("src/high.rs", ""),
        ];
        let mut sources: Vec<_> = files.iter().map(|(path, text)| Source::new(path, text)).collect();
        sources.retain(|source| source.path != path);
        sources.push(Source::new(path, text));
        layer_complaints(sources.last().expect("it was put there"), &layers, &Library::new(&sources)).len()
    };
    for allowed in [
        "use crate::base::Thing;",
        "use crate::{base, mid::Allowed, low::own};",
        "use crate::mid::{Allowed};",
        "fn f() -> crate::base::T { crate::base::f::<u8>() }",
        "use super::mid::Thing;",
        "use crate::base::*;",
        "use tidemill_base::{Kept, part::Other};",
        "pub(in super::super) struct Thing;",
        "// crate::high\nconst TEXT: &str = \"crate::high::x\";",
    ] {
        assert_eq!(complaints("src/low/part.rs", allowed), 0, "{allowed}");
    }
    for forbidden in [
        "use crate::high;",
        "use crate::high::Thing;",
        "use crate::{base::Thing, high::{One}};",
        "use crate::mid::Other;",
        "use crate::mid::{Allowed, Other};",
        "use crate::mid::*;",
        "use crate::*;",
        "use tidemill_high::Thing;",
        "use super::super::high::Thing;",
        "fn f() { let _ = vec![crate::high::f()]; }",
        "mod inner { use super::super::super::high; }",
        "impl crate::high::Trait for Thing {}",
        "#[cfg(test)]\nmod tests { use crate::high::Thing; }",
    ] {
        assert_eq!(complaints("src/low/part.rs", forbidden), 1, "{forbidden}");
    }
    assert_eq!(complaints("src/low/mod.rs", "use super::high::Thing;"), 1);
    assert_eq!(complaints("src/main.rs", "use tidemill::{app, high};"), 1);
    assert_eq!(complaints("src/unlisted.rs", ""), 1);
    assert_eq!(complaints("src/lib.rs", "pub mod low;"), 0);
    assert_eq!(complaints("crates/low/src/part.rs", "use crate::own::Thing;\nuse tidemill_base::Thing;"), 0);
    assert_eq!(complaints("crates/low/src/part.rs", "use tidemill_high::Thing;"), 1);
    // A folder with a row of its own.
    assert_eq!(complaints("src/front/one/part.rs", "use crate::{front::shared, mid::{Part, Other}};"), 0);
    assert_eq!(complaints("src/front/one/part.rs", "use crate::base::Thing;"), 1);
    assert_eq!(complaints("src/front/shared.rs", "use crate::{front::one, mid::Part};"), 2);
    // What `mid` passes on.
    assert_eq!(complaints("src/front/one/part.rs", "use crate::mid::{Basic, Thing};"), 2);
}

// ---- Circles ----------------------------------------------------------------------------------------------------------------

/// A module, by the names from the crate's root down to it.
type Module = Vec<String>;

/// The files of the library, by the modules that they are.
struct Library<'a> {
    files: BTreeMap<Module, &'a Source>,
    /// By module: the names that it passes on with `pub use`, and where each is from.
    passed_on: BTreeMap<Module, BTreeMap<String, Module>>,
}

impl<'a> Library<'a> {
    fn new(sources: &'a [Source]) -> Self {
        let of_library = sources.iter().filter(|source| source.module() != ["main"]);
        let files = of_library.map(|source| (source.module().into_iter().map(str::to_owned).collect(), source)).collect();
        let mut library = Self { files, passed_on: BTreeMap::new() };
        let mut passed_on = BTreeMap::new();
        for (module, source) in &library.files {
            let (leaves, _) = without_reexports(&source.tokens);
            let leaves = leaves.into_iter().filter_map(|leaf| library.absolute(module, leaf, 0));
            let named = leaves.filter_map(|leaf| Some((leaf.last()?.clone(), leaf)));
            passed_on.insert(module.clone(), named.collect());
        }
        library.passed_on = passed_on;
        library
    }

    /// The path from the crate's root of one that is written in `module`, if it leads into this crate.
    fn absolute(&self, module: &[String], mut segments: Vec<String>, inline_modules: usize) -> Option<Module> {
        let from = |ups: usize, rest: &[String]| Some([module.get(..module.len().checked_sub(ups)?)?, rest].concat());
        segments.pop_if(|last| *last == "self" || *last == "*");
        match segments.first()?.as_str() {
            "crate" => {
                let part = self.files.get(module).and_then(|source| source.part());
                Some(part.map(str::to_owned).into_iter().chain(segments[1..].iter().cloned()).collect())
            }
            "self" => from(0, &segments[1..]),
            "super" => {
                let ups = segments.iter().take_while(|segment| *segment == "super").count();
                from(ups.checked_sub(inline_modules)?, &segments[ups..])
            }
            name if name.starts_with(PARTS_PREFIX) => {
                segments[0] = name[PARTS_PREFIX.len()..].to_owned();
                Some(segments)
            }
            _ => from(0, &segments).filter(|below| self.files.contains_key(&below[..=module.len()])),
        }
    }

    /// The module whose file defines what the path leads to.
    fn definer(&self, path: Module) -> Option<Module> {
        self.origin(path).map(|(definer, _)| definer)
    }

    /// The module whose file defines what the path leads to, and the name of that in it.
    fn origin(&self, mut path: Module) -> Option<(Module, Option<String>)> {
        for _ in 0..8 {
            let depth = (1..=path.len()).rev().find(|depth| self.files.contains_key(&path[..*depth]))?;
            let passed_on = self.passed_on.get(&path[..depth]).zip(path.get(depth)).and_then(|(names, name)| names.get(name));
            match passed_on {
                Some(origin) => path = [origin.as_slice(), &path[depth + 1..]].concat(),
                None => return Some((path[..depth].to_vec(), path.get(depth).cloned())),
            }
        }
        None
    }

    /// For each file, the files that it imports something from; a file may look to the modules that it is a part of.
    fn imports(&self) -> BTreeMap<&'a str, BTreeSet<&'a str>> {
        let imports_of = |module: &Module, source: &Source| -> BTreeSet<&'a str> {
            let (_, tokens) = without_reexports(&source.tokens);
            let mut paths = Vec::new();
            collect_paths(&tokens, 0, source.is_tests(), &mut paths);
            let used = paths.into_iter().filter(|path| !path.in_tests);
            let used = used.filter_map(|path| self.definer(self.absolute(module, path.segments, path.inline_modules)?));
            used.filter(|used| !module.starts_with(used)).map(|used| self.files[&used].path.as_str()).collect()
        };
        self.files.iter().map(|(module, source)| (source.path.as_str(), imports_of(module, source))).collect()
    }
}

/// The paths that statements `pub use` name, and the tokens without those statements: to pass something on is not to use it.
fn without_reexports(tokens: &TokenStream) -> (Vec<Vec<String>>, TokenStream) {
    let tokens: Vec<_> = tokens.clone().into_iter().collect();
    let (mut leaves, mut others, mut at) = (Vec::new(), Vec::new(), 0);
    while at < tokens.len() {
        let start = match &tokens[at..] {
            [TokenTree::Ident(shown), TokenTree::Ident(used), ..] if shown == "pub" && used == "use" => at + 2,
            [TokenTree::Ident(shown), TokenTree::Group(_), TokenTree::Ident(used), ..] if shown == "pub" && used == "use" => {
                at + 3
            }
            _ => {
                others.push(tokens[at].clone());
                at += 1;
                continue;
            }
        };
        leaves_of(&tokens[start..], &mut Vec::new(), &mut leaves);
        let is_end = |token: &TokenTree| matches!(token, TokenTree::Punct(punct) if punct.as_char() == ';');
        at = tokens[start..].iter().position(is_end).map_or(tokens.len(), |end| start + end + 1);
    }
    (leaves, others.into_iter().collect())
}

/// The files that are reached from this one along imports; it is among them only if they lead back.
fn reached<'a>(from: &'a str, imports: &BTreeMap<&'a str, BTreeSet<&'a str>>) -> BTreeSet<&'a str> {
    let (mut found, mut open) = (BTreeSet::new(), vec![from]);
    while let Some(file) = open.pop() {
        open.extend(imports.get(file).into_iter().flatten().filter(|next| found.insert(**next)));
    }
    found
}

/// The groups of files each of which is reached from every other.
fn circles(sources: &[Source]) -> BTreeSet<Vec<String>> {
    let library = Library::new(sources);
    let imports = library.imports();
    let reached: BTreeMap<&str, BTreeSet<&str>> = imports.keys().map(|file| (*file, reached(file, &imports))).collect();
    let group = |file: &str| -> Vec<String> {
        let leads_back = reached[file].iter().filter(|other| reached[**other].contains(file));
        leads_back.map(|other| (*other).to_owned()).collect()
    };
    reached.keys().map(|file| group(file)).filter(|group| !group.is_empty()).collect()
}

#[test]
fn no_files_import_each_other() {
    let found = circles(&product()).into_iter();
    assert_none(found.map(|files| format!("{} import each other: what they share belongs in a separate file", files.join(", "))));
}

#[test]
fn a_circle_is_found_however_it_is_written() {
    let root = "mod one;\nmod two;\npub use one::One;\npub(crate) use two::{self, Two};";
    let found = |one: &str, two: &str| {
        let files = [("src/a/mod.rs", root), ("src/a/one.rs", one), ("src/a/two.rs", two), ("src/lib.rs", "pub mod a;")];
        circles(&files.map(|(path, text)| Source::new(path, text)))
    };
    let circle = BTreeSet::from([["src/a/one.rs", "src/a/two.rs"].map(str::to_owned).to_vec()]);
    for back in [
        "use super::one::One;",
        "use super::One;",
        "use crate::a::{One};",
        "use super::{one};",
        "use crate::a::one::{self, other};",
        "fn f() { let _ = vec![super::one::f()]; }",
        "impl crate::a::One {}",
        "use super::one::*;",
        "mod inner { use super::super::one::One; }",
    ] {
        assert_eq!(found("use super::two::Two;", back), circle, "{back}");
        assert_eq!(found("use crate::a::Two;", back), circle, "{back}");
    }
    for harmless in [
        "",
        "use super::Own;",
        "use crate::a::two::Two;",
        "#[cfg(test)]\nmod tests { use crate::a::One; }",
        "pub use super::one::One;",
        "// super::one\nconst TEXT: &str = \"super::one\";",
    ] {
        assert_eq!(found("use super::two::Two;", harmless), BTreeSet::new(), "{harmless}");
    }
    let parts = [("src/a/mod.rs", "mod one;\nuse one::One;\npub struct Own;"), ("src/a/one.rs", "use super::Own;")];
    assert_eq!(circles(&parts.map(|(path, text)| Source::new(path, text))), BTreeSet::new(), "a part looks to its whole");
}

// ---- Front ends and transport -----------------------------------------------------------------------------------------------

/// The path from the crate's root, wherever it leads; `None` if it does not say where it begins.
fn absolute(source: &Source, written: &Written) -> Option<Vec<String>> {
    let (segments, module) = (&written.segments, source.module());
    let ups = segments.iter().take_while(|segment| *segment == "super").count();
    match segments[0].as_str() {
        "crate" => Some(segments[1..].to_vec()),
        "self" | "super" => {
            // Inline modules come first.
            let kept = (module.len() + written.inline_modules).checked_sub(ups)?;
            let above = module.into_iter().take(kept).map(str::to_owned);
            Some(above.chain(segments[ups.max(1)..].iter().cloned()).collect())
        }
        _ => None,
    }
}

/// Folders among those of the front ends that are none: what several of them need.
const SHARED_BY_FRONT_ENDS: [&str; 1] = ["messages"];

/// Which front end a path below the crate's root belongs to.
fn front_end<'a>(path: &'a [impl AsRef<str>], all: &BTreeSet<String>) -> Option<&'a str> {
    let [frontend, name, ..] = path else { return None };
    (frontend.as_ref() == "frontend" && all.contains(name.as_ref())).then(|| name.as_ref())
}

fn front_end_complaints(source: &Source, all: &BTreeSet<String>) -> Vec<String> {
    let module = source.module();
    if module.first() != Some(&"frontend") {
        return Vec::new();
    }
    let own = front_end(&module, all);
    let imports = paths(source).into_iter().filter_map(|written| Some((written.line, absolute(source, &written)?)));
    let foreign = imports.filter(|(_, import)| front_end(import, all).is_some_and(|other| Some(other) != own));
    foreign.map(|(line, import)| format!("{}:{line}: uses the front end `{}`", source.path, import.join("::"))).collect()
}

#[test]
fn front_ends_know_nothing_of_one_another() {
    let sources = sources("src/frontend");
    let folder = |source: &Source| Some(source.path.strip_prefix("src/frontend/")?.split_once('/')?.0.to_owned());
    let mut all: BTreeSet<_> = sources.iter().filter_map(folder).collect();
    assert!(SHARED_BY_FRONT_ENDS.iter().all(|shared| all.remove(*shared)), "there is no folder of that name: {all:?}");
    assert!(all.len() > 2, "the front ends were not found: {all:?}");
    assert_none(sources.iter().flat_map(|source| front_end_complaints(source, &all)));
}

#[test]
fn a_front_end_that_uses_another_is_found() {
    let all = BTreeSet::from(["one", "two"].map(str::to_owned));
    let complaints = |path: &str, text: &str| front_end_complaints(&Source::new(path, text), &all).len();
    for allowed in ["use super::super::shared;", "use crate::frontend::{Shared, one::Thing};", "use super::two;"] {
        assert_eq!(complaints("src/frontend/one/part.rs", allowed), 0, "{allowed}");
    }
    for forbidden in [
        "use crate::frontend::two::Thing;",
        "use super::super::two::Thing;",
        "use crate::frontend::{Shared, two};",
        "mod inner { use super::super::super::two::Thing; }",
    ] {
        assert_eq!(complaints("src/frontend/one/part.rs", forbidden), 1, "{forbidden}");
    }
    assert_eq!(complaints("src/frontend/one/mod.rs", "use super::two::Thing;"), 1);
    assert_eq!(complaints("src/frontend/shared.rs", "use super::two::Thing;"), 1, "what is shared knows no front end either");
    assert_eq!(complaints("src/app.rs", "use crate::frontend::{one, two};"), 0);
}

// ---- Clocks -----------------------------------------------------------------------------------------------------------------

/// Files that may read the runtime's clock: tests, which pause it, and a client's screen.
fn may_read_the_runtimes_clock(path: &str) -> bool {
    path == "src/patience.rs" || path.starts_with("crates/cli/") || path.ends_with("/tests.rs")
}

fn clock_complaints(source: &Source) -> Vec<String> {
    if may_read_the_runtimes_clock(&source.path) {
        return Vec::new();
    }
    let is_runtimes = |written: &Written| {
        let segments: Vec<_> = written.segments.iter().map(String::as_str).collect();
        matches!(segments[..], ["tokio", "time", "Instant", ..] | ["time", "Instant", ..])
    };
    let found = paths(source).into_iter().filter(|written| !written.in_tests && is_runtimes(written));
    found
        .map(|written| format!("{}:{}: reads the runtime's clock; see `patience::Patience`", source.path, written.line))
        .collect()
}

#[test]
fn the_clock_of_the_runtime_is_read_in_one_place() {
    assert_none(product().iter().flat_map(clock_complaints));
}

#[test]
fn a_second_reader_of_the_runtimes_clock_is_found() {
    let found = |path: &str, text: &str| clock_complaints(&Source::new(path, text)).len();
    for reader in [
        "use tokio::time::{Instant, sleep};",
        "fn f() { tokio::time::Instant::now(); }",
        "use tokio::time; fn f(at: time::Instant) {}",
    ] {
        assert_eq!(found("src/session/stream.rs", reader), 1, "{reader}");
        assert_eq!(found("src/patience.rs", reader), 0, "{reader}");
    }
    assert_eq!(found("src/a.rs", "use tokio::time::sleep;\n#[cfg(test)]\nmod tests { use tokio::time::Instant; }"), 0);
}

// ---- Files ------------------------------------------------------------------------------------------------------------------

fn length_complaint(source: &Source) -> Option<String> {
    let lines = source.without_tests().lines().count();
    (lines > FILE_LINES_MAX).then(|| format!("{}: {lines} lines without tests, {FILE_LINES_MAX} allowed", source.path))
}

#[test]
fn files_are_short() {
    assert_none(product().iter().filter_map(length_complaint));
}

#[test]
fn a_long_file_is_found_and_its_tests_do_not_count() {
    let lines = |count: usize| "fn f() {}\n".repeat(count);
    let tests = format!("\n#[cfg(test)]\nmod tests {{\n{}}}\n", "    fn f() {}\n".repeat(900));
    let complaint = |text: String| length_complaint(&Source::new("src/a.rs", &text));
    assert!(complaint(lines(FILE_LINES_MAX + 1)).is_some());
    assert!(complaint(lines(FILE_LINES_MAX - 1) + &tests).is_none());
    assert!(complaint(lines(FILE_LINES_MAX + 1) + &tests).is_some());
    assert!(complaint(tests + &lines(FILE_LINES_MAX)).is_some(), "a test module that is not last counts");
}

/// Folders whose functions are short.
const SHORT_FUNCTIONS: [&str; 3] = ["src", "crates", "loadtest"];

const FUNCTION_LINES_MAX: usize = 60;

/// Functions that are too long, with their signatures; those of the tests at the end of a file do not count.
fn function_complaints(source: &Source) -> Vec<String> {
    if source.is_tests() {
        return Vec::new();
    }
    let mut found = Vec::new();
    collect_functions(&Source::new(&source.path, source.without_tests()).tokens, &mut found);
    found.retain(|(_, lines)| *lines > FUNCTION_LINES_MAX);
    let complaint = |(name, lines)| format!("{}: `{name}` has {lines} lines, {FUNCTION_LINES_MAX} allowed", source.path);
    found.into_iter().map(complaint).collect()
}

/// The names of all functions, and how many lines each has.
fn collect_functions(tokens: &TokenStream, found: &mut Vec<(String, usize)>) {
    let tokens: Vec<_> = tokens.clone().into_iter().collect();
    for (at, token) in tokens.iter().enumerate() {
        if let (TokenTree::Ident(word), Some(TokenTree::Ident(name))) = (token, tokens.get(at + 1))
            && word == "fn"
        {
            let body = tokens[at..].iter().find_map(|token| match token {
                TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => Some(Some(group)),
                TokenTree::Punct(punct) if punct.as_char() == ';' => Some(None),
                _ => None,
            });
            if let Some(Some(body)) = body {
                found.push((name.to_string(), body.span_close().end().line - word.span().start().line + 1));
            }
        }
        if let TokenTree::Group(group) = token {
            collect_functions(&group.stream(), found);
        }
    }
}

#[test]
fn functions_are_short() {
    assert_none(SHORT_FUNCTIONS.iter().flat_map(|folder| sources(folder)).flat_map(|source| function_complaints(&source)));
}

#[test]
fn a_long_function_is_found_wherever_it_is() {
    let function = |lines: usize| format!("fn f(a: [u8; 3]) -> u8 {{\n{}}}\n", "g();\n".repeat(lines - 2));
    let found = |text: &str| function_complaints(&Source::new("src/a.rs", text)).len();
    assert_eq!(found(&function(FUNCTION_LINES_MAX)), 0);
    assert_eq!(found(&function(FUNCTION_LINES_MAX + 1)), 1);
    assert_eq!(found(&format!("impl A {{\nfn b(&self);\n{}}}\n", function(FUNCTION_LINES_MAX + 1))), 1);
    assert_eq!(found(&format!("fn f() {{}}\n\n#[cfg(test)]\nmod tests {{\n{}}}\n", function(100).replace('\n', "\n    "))), 0);
}

/// Files that are a module of which the parts lie in a folder next to them.
fn beside_their_folders(paths: &[&str]) -> Vec<String> {
    let folder_of = |path: &str| path.strip_suffix(".rs").map(|module| format!("{module}/"));
    let has_folder = |path: &str| folder_of(path).is_some_and(|folder| paths.iter().any(|other| other.starts_with(&folder)));
    let beside = paths.iter().filter(|path| has_folder(path));
    beside.map(|path| format!("{path}: belongs in its folder, as mod.rs")).collect()
}

#[test]
fn a_module_with_a_folder_is_its_mod_rs() {
    let sources = product();
    let paths: Vec<_> = sources.iter().map(|source| source.path.as_str()).collect();
    assert_none(beside_their_folders(&paths));
}

#[test]
fn a_module_next_to_its_folder_is_found() {
    let paths = ["src/lib.rs", "src/a.rs", "src/a/b.rs", "src/ab.rs", "src/c/mod.rs", "src/c/d.rs"];
    assert_eq!(beside_their_folders(&paths), ["src/a.rs: belongs in its folder, as mod.rs"]);
}

fn opening_complaint(source: &Source) -> Option<String> {
    (!source.text.starts_with("//! ")).then(|| format!("{}: does not open with a `//!` doc", source.path))
}

#[test]
fn files_open_with_a_doc() {
    assert_none(product().iter().filter_map(opening_complaint));
}

#[test]
fn a_file_without_a_doc_is_found() {
    assert!(opening_complaint(&Source::new("src/a.rs", "fn f() {}\n//! late\n")).is_some());
    assert!(opening_complaint(&Source::new("src/a.rs", "//! What it is.\n")).is_none());
}

// ---- Loose ends -------------------------------------------------------------------------------------------------------------

fn loose_ends(source: &Source) -> Vec<String> {
    // Put together here, so that this file can be searched as well.
    let words = [["TO", "DO"], ["FIX", "ME"], ["X", "XX"], ["to", "do!"], ["unimple", "mented!"]].map(|halves| halves.concat());
    let is_part = |character: char| character.is_alphanumeric() || character == '_';
    let holds = |line: &str, word: &str| {
        line.match_indices(word).any(|(start, _)| {
            !line[..start].ends_with(is_part) && (word.ends_with('!') || !line[start + word.len()..].starts_with(is_part))
        })
    };
    let lines = source.text.lines().enumerate();
    lines
        .flat_map(|(index, line)| words.iter().filter(move |word| holds(line, word)).map(move |word| (index + 1, word)))
        .map(|(line, word)| format!("{}:{line}: `{word}`: do it, or write down as a fact what is absent", source.path))
        .collect()
}

#[test]
fn nothing_is_left_for_later() {
    let others = ["tests", "loadtest"].into_iter().flat_map(sources);
    assert_none(product().into_iter().chain(others).flat_map(|source| loose_ends(&source)));
}

#[test]
fn loose_ends_are_found() {
    let found = |text: &str| loose_ends(&Source::new("src/a.rs", text)).len();
    assert_eq!(found(&format!("// {}{}: later\nfn f() {{}}\n", "TO", "DO")), 1);
    assert_eq!(found(&format!("/// {}{}\nfn f() {{ {}{}() }}\n", "FIX", "ME", "to", "do!")), 2);
    assert_eq!(found("const MASTODON: u8 = 0; // XXXL\n"), 0);
}

/// Lines of lint exceptions in `tokens` that give no reason.
fn bare_exceptions(tokens: &TokenStream, in_attribute: bool, lines: &mut Vec<usize>) {
    let tokens: Vec<_> = tokens.clone().into_iter().collect();
    for (at, token) in tokens.iter().enumerate() {
        let TokenTree::Group(group) = token else { continue };
        let before = at.checked_sub(1).map(|before| &tokens[before]);
        match before {
            Some(TokenTree::Ident(name)) if in_attribute && (name == "allow" || name == "expect") => {
                let reason = |token| matches!(token, TokenTree::Ident(name) if name == "reason");
                if !group.stream().into_iter().any(reason) {
                    lines.push(name.span().start().line);
                }
            }
            _ if group.delimiter() == Delimiter::Bracket && follows_hash(&tokens[..at]) => {
                bare_exceptions(&group.stream(), true, lines);
            }
            _ => bare_exceptions(&group.stream(), in_attribute, lines),
        }
    }
}

/// Whether `#` or `#!` comes last; `vec![..]` is not an attribute.
fn follows_hash(before: &[TokenTree]) -> bool {
    let is = |token: &TokenTree, character| matches!(token, TokenTree::Punct(punct) if punct.as_char() == character);
    match before {
        [.., hash, bang] if is(bang, '!') => is(hash, '#'),
        [.., hash] => is(hash, '#'),
        [] => false,
    }
}

fn exception_complaints(source: &Source) -> Vec<String> {
    let mut lines = Vec::new();
    bare_exceptions(&source.tokens, false, &mut lines);
    lines.iter().map(|line| format!("{}:{line}: a lint is switched off without a reason", source.path)).collect()
}

#[test]
fn lint_exceptions_give_a_reason() {
    assert_none(product().iter().flat_map(exception_complaints));
}

#[test]
fn a_lint_exception_without_a_reason_is_found() {
    let found = |text: &str| exception_complaints(&Source::new("src/a.rs", text)).len();
    assert_eq!(found("#![allow(dead_code)]"), 1);
    assert_eq!(found("mod a { #[allow(dead_code)] fn f() {} }"), 1);
    assert_eq!(found("#[cfg_attr(test, expect(dead_code))] fn f() {}"), 1);
    assert_eq!(found("#[allow(dead_code, reason = \"it is\")] fn f() { x.expect(\"y\"); allow(z); }"), 0);
    assert_eq!(found("fn f() { let _ = vec![x.expect(\"y\")]; }"), 0);
}

// ---- Threads ----------------------------------------------------------------------------------------------------------------

/// The names that start a thread; asking how many there may be, or parking the current one, does not.
const STARTERS: [&str; 4] = ["spawn", "Builder", "scope", "*"];

/// Whether a path starts a thread: in full (`std::thread::spawn`), imported (`use std::thread::spawn`), or through the imported
/// module (`thread::spawn`).
fn starts_thread(segments: &[String]) -> bool {
    let below = match segments {
        [std, thread, below @ ..] if std == "std" && thread == "thread" => below,
        [thread, below @ ..] if thread == "thread" => below,
        _ => return false,
    };
    below.first().is_some_and(|name| STARTERS.contains(&name.as_str()))
}

fn thread_complaints(source: &Source) -> Vec<String> {
    let starters = ["src/frontend/admin/mod.rs", "src/log/mod.rs", "src/main.rs"];
    if source.path.starts_with("src/device/") || starters.contains(&source.path.as_str()) {
        return Vec::new();
    }
    let paths = paths(source);
    let threads = paths.iter().filter(|path| !path.in_tests && starts_thread(&path.segments));
    threads
        .map(|path| format!("{}:{}: only `device`, the admin server, the log and `main` start threads", source.path, path.line))
        .collect()
}

#[test]
fn threads_are_started_by_the_device_the_admin_server_the_log_and_main_alone() {
    assert_none(product().iter().flat_map(thread_complaints));
}

#[test]
fn a_stray_thread_is_found() {
    let found = |path: &str, text: &str| thread_complaints(&Source::new(path, text)).len();
    for stray in [
        "fn f() { std::thread::spawn(|| {}); }",
        "use std::thread::spawn;",
        "use std::thread::*;",
        "use std::{sync::Arc, thread::{self, Builder}};",
        "use std::thread; fn f() { thread::scope(|scope| {}); }",
        "#[cfg(test)]\nmod tests {}\nuse std::thread::Builder;",
    ] {
        assert_eq!(found("src/a.rs", stray), 1, "{stray}");
        for starter in ["src/device/lane.rs", "src/frontend/admin/mod.rs", "src/log/mod.rs"] {
            assert_eq!(found(starter, stray), 0, "{stray}");
        }
    }
    for harmless in [
        "use std::{sync::Arc, thread};",
        "use std::thread::available_parallelism;",
        "fn f() { std::thread::park_timeout(left); }",
        "fn f() { tokio::spawn(work()); pool.spawn(work); }",
        "#[cfg(test)]\nmod tests { fn f() { std::thread::spawn(|| {}); } }",
    ] {
        assert_eq!(found("src/a.rs", harmless), 0, "{harmless}");
    }
    assert_eq!(found("src/a/tests.rs", "fn f() { std::thread::spawn(|| {}); }"), 0, "all of the file is tests");
}

// ---- Queue and device -------------------------------------------------------------------------------------------------------

/// Paths that the queue, which is given `now` and returns what is to be done, has no use for.
const WAITING: [&str; 6] = ["tokio", "futures", "parking_lot", "thread", "sync", "time::Instant"];

fn impurity_complaints(source: &Source) -> Vec<String> {
    let paths = paths(source);
    let waits = |segments: &[String]| {
        let path = segments.strip_prefix(&["std".to_owned()]).unwrap_or(segments).join("::");
        WAITING.iter().any(|word| path == *word || path.starts_with(&format!("{word}::")))
    };
    let waiting = paths.iter().filter(|path| !path.in_tests && waits(&path.segments));
    waiting.map(|path| format!("{}:{}: `scheduler` waits for nothing", source.path, path.line)).collect()
}

#[test]
fn the_queue_has_no_thread_lock_task_or_clock() {
    assert_none(sources("crates/scheduler/src").iter().flat_map(impurity_complaints));
}

#[test]
fn an_impure_queue_is_found() {
    let found = |text: &str| impurity_complaints(&Source::new("crates/scheduler/src/a.rs", text)).len();
    for impure in [
        "use parking_lot::Mutex;",
        "use std::sync::Arc;",
        "use std::{collections::HashMap, thread::sleep};",
        "use std::time::Instant;",
        "fn f() { tokio::spawn(g()); }",
    ] {
        assert_eq!(found(impure), 1, "{impure}");
    }
    assert_eq!(found("use std::{collections::HashMap, time::Duration}; use crate::domain::Timestamp;"), 0);
    assert_eq!(found("#[cfg(test)]\nmod tests { use std::sync::Arc; }"), 0);
}

// ---- Property tests ---------------------------------------------------------------------------------------------------------

#[test]
fn cases_that_a_property_test_failed_on_stay_in_the_tree() {
    let ignored = read(".gitignore");
    assert!(
        !ignored.contains("proptest-regressions"),
        ".gitignore: failed cases are committed, so that they are tried first from then on"
    );
    let files = product().into_iter().chain(["tests/it", "loadtest"].into_iter().flat_map(sources));
    let forgetful: Vec<_> = files.filter(|source| has_ident(&source.tokens, PERSISTENCE)).map(|source| source.path).collect();
    assert_eq!(
        forgetful,
        Vec::<String>::new(),
        "these files set {PERSISTENCE}: leave it, so that cases are kept next to the sources"
    );
}

#[test]
fn a_property_test_that_keeps_no_cases_is_found() {
    let found = |text: &str| has_ident(&Source::new("src/a.rs", text).tokens, PERSISTENCE);
    assert!(found("fn f() { run(Config { failure_persistence: None, ..Config::default() }); }"));
    assert!(!found("// failure_persistence\nfn f() { run(Config { source_file: Some(file!()), ..Config::default() }); }"));
}

const PERSISTENCE: &str = "failure_persistence";

fn has_ident(tokens: &TokenStream, name: &str) -> bool {
    tokens.clone().into_iter().any(|token| match token {
        TokenTree::Ident(ident) => ident == name,
        TokenTree::Group(group) => has_ident(&group.stream(), name),
        TokenTree::Punct(_) | TokenTree::Literal(_) => false,
    })
}

// ---- Documents --------------------------------------------------------------------------------------------------------------

const README_LINES_MAX: usize = 180;

/// All pages, but those that tests and tools write.
fn pages() -> Vec<(String, String)> {
    let folders =
        ["", "docs", "docs/simulation", "examples", "tests/interop", "tests/hostile", "fuzz", "loadtest/peers", ".github"];
    let mut found = Vec::new();
    for folder in folders {
        let entries = fs::read_dir(root().join(folder)).unwrap_or_else(|error| panic!("{folder}: {error}"));
        for entry in entries {
            let path = entry.expect("an entry").path();
            if path.extension().is_some_and(|extension| extension == "md") {
                let path =
                    path.strip_prefix(root()).expect("a path below the root").to_str().expect("a name in Unicode").to_owned();
                let text = read(&path);
                found.push((path, text));
            }
        }
    }
    found.sort();
    found
}

/// The lines of a page that are no code.
fn prose(page: &str) -> impl Iterator<Item = &str> {
    let mut in_code = false;
    page.lines().filter(move |line| {
        let is_fence = line.starts_with("```");
        in_code ^= is_fence;
        !in_code && !is_fence
    })
}

/// The anchor of a heading: its words in lower case, with hyphens between them.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().to_lowercase();
    let kept = kept.chars().filter(|character| character.is_alphanumeric() || [' ', '-', '_'].contains(character));
    kept.map(|character| if character == ' ' { '-' } else { character }).collect()
}

fn anchors(page: &str) -> BTreeSet<String> {
    prose(page).filter(|line| line.starts_with('#')).map(|line| anchor(line.trim_start_matches('#'))).collect()
}

/// Where the links of a page lead, those to other sites left out.
fn links(page: &str) -> Vec<&str> {
    let text = prose(page).flat_map(|line| line.split("](").skip(1)).filter_map(|rest| rest.split_once(')'));
    text.map(|(target, _)| target).filter(|target| !target.contains("://")).collect()
}

/// `target`, as the page at `from` names it, from the repository's root.
fn resolved(from: &str, target: &str) -> String {
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            ".." => {
                parts.pop();
            }
            "." => {}
            part => parts.push(part),
        }
    }
    parts.join("/")
}

fn link_complaints(path: &str, text: &str, exists: impl Fn(&str) -> bool, text_of: impl Fn(&str) -> String) -> Vec<String> {
    let broken = links(text).into_iter().filter(|link| {
        let (target, heading) = link.split_once('#').unwrap_or((link, ""));
        let target = if target.is_empty() { path.to_owned() } else { resolved(path, target) };
        !exists(&target) || (!heading.is_empty() && !anchors(&text_of(&target)).contains(heading))
    });
    broken.map(|link| format!("{path}: `{link}` leads nowhere")).collect()
}

#[test]
fn links_lead_somewhere() {
    let exists = |path: &str| root().join(path).exists();
    assert_none(pages().iter().flat_map(|(path, text)| link_complaints(path, text, exists, read)));
}

#[test]
fn a_link_that_leads_nowhere_is_found() {
    let page = "# One\n## What `a.b`, c\n```\n# Code\n[x](none.md)\n```\n";
    let complaints = |links: &str| {
        let text = format!("{page}{links}\n");
        let exists = |path: &str| ["docs/here.md", "README.md"].contains(&path);
        link_complaints("docs/here.md", &text, exists, |_| text.clone()).len()
    };
    for sound in ["[a](#one)", "[a](here.md#what-ab-c)", "[a](../README.md)", "[a](https://example.com/#x) [b](./here.md)"] {
        assert_eq!(complaints(sound), 0, "{sound}");
    }
    for broken in ["[a](#two)", "[a](#code)", "[a](gone.md)", "[a](README.md)", "[a](here.md) and [b](../gone.md#one)"] {
        assert_eq!(complaints(broken), 1, "{broken}");
    }
}

#[test]
fn the_metrics_page_lists_the_metrics_as_they_are() {
    let wanted = tidemill::telemetry::markdown();
    let page = read("docs/metrics.md");
    assert!(
        marked(&page, "metrics").trim() == wanted.trim(),
        "docs/metrics.md, between the `metrics` marks, should say:\n{wanted}"
    );
}

#[test]
fn the_readme_is_short() {
    let lines = read("README.md").lines().count();
    assert!(lines <= README_LINES_MAX, "README.md: {lines} lines, {README_LINES_MAX} allowed; details belong in docs/");
}

/// The README states one measurement. Benchmarks are written by a program, so that what it wrote last is what the README must say.
#[test]
fn the_figure_of_the_readme_is_that_of_the_benchmarks() {
    let benchmarks = read("docs/benchmarks.md");
    let (_, section) = benchmarks.split_once("\n### realtime\n").expect("a section of that name");
    let figures = section.trim_start().lines().next().expect("a line of figures").split(", ");
    let figures: BTreeMap<&str, &str> = figures.filter_map(|figure| figure.split_once(' ')).collect();
    let streams: u32 = figures["streams"].parse().expect("a number");
    let streams = if streams < 1_000 { streams.to_string() } else { format!("{},{:03}", streams / 1_000, streams % 1_000) };
    let readme = read("README.md");
    let (_, sentence) = readme.split_once("**One figure.**").expect("the figure");
    let sentence = sentence.split("\n\n").next().expect("a paragraph");
    for figure in [streams.as_str(), figures["p99_ms"], figures["ratio_to_composed_limit"]] {
        assert!(sentence.contains(figure), "README.md does not say {figure}, as docs/benchmarks.md does");
    }
}

/// The programs that docs/clients.md shows, each between comments with its path.
const PROGRAMS: [&str; 5] = [
    "examples/feed.rs",
    "examples/go/main.go",
    "examples/java/Feed.java",
    "examples/python/feed.py",
    "examples/typescript/feed.ts",
];

#[test]
fn the_programs_on_the_page_are_those_of_the_examples() {
    let page = read("docs/clients.md");
    for path in PROGRAMS {
        let shown = marked(&page, path).trim();
        let code =
            shown.split_once('\n').and_then(|(fence, code)| (fence.starts_with("```")).then_some(code)?.strip_suffix("```"));
        assert!(code == Some(read(path).as_str()), "docs/clients.md does not show {path} as it is");
    }
}
