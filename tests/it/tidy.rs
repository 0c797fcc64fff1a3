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

/// A source file, by its path from the root of the repository.
struct Source {
    path: String,
    text: String,
    tokens: TokenStream,
}

impl Source {
    fn new(path: &str, text: &str) -> Self {
        let tokens = text.parse().unwrap_or_else(|error| panic!("{path}: {error}"));
        Self { path: path.to_owned(), text: text.to_owned(), tokens }
    }

    /// The names of the modules from the crate's root down to this file; none for `lib.rs`, `["main"]` for `main.rs`.
    fn module(&self) -> Vec<&str> {
        let path = self.path.strip_prefix("src/").unwrap_or(&self.path);
        let mut names: Vec<_> = path.strip_suffix(".rs").unwrap_or(path).split('/').collect();
        names.pop_if(|last| *last == "mod" || *last == "lib");
        names
    }

    /// What comes before the test module at the end.
    fn without_tests(&self) -> &str {
        let tests = self.text.rfind("\n#[cfg(test)]\nmod ").filter(|start| {
            let tests = &self.text[*start..];
            tests.find("\n}\n").is_none_or(|end| end + 3 == tests.len())
        });
        tests.map_or(&self.text, |start| &self.text[..=start])
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// All Rust files under `folder`.
fn sources(folder: &str) -> Vec<Source> {
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

fn assert_none(complaints: impl IntoIterator<Item = String>) {
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
    collect_paths(&source.tokens, 0, false, &mut found);
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

/// The path from the crate's root, if it leads there.
fn from_root(source: &Source, written: &Written) -> Option<Vec<String>> {
    let segments = &written.segments;
    let ups = segments.iter().take_while(|segment| *segment == "super").count();
    let is_main = source.module() == ["main"];
    let below = match segments[0].as_str() {
        // `main.rs` is a separate crate that sees the library from outside.
        "tidemill" if is_main => &segments[1..],
        "crate" if !is_main => &segments[1..],
        "super" if !is_main && ups >= source.module().len() + written.inline_modules => &segments[ups..],
        _ => return None,
    };
    (!below.is_empty()).then(|| below.to_vec())
}

// ---- Layers -----------------------------------------------------------------------------------------------------------------

/// The rows of the table: a module, and what it may use; `None` is everything.
type Layers = BTreeMap<String, Option<BTreeSet<String>>>;

fn layers(page: &str) -> Layers {
    let rows = marked(page, "layers").lines().skip(2);
    let rows = rows.map(|row| row.trim_matches('|').split_once('|').unwrap_or_else(|| panic!("not a row of two: {row}")));
    rows.map(|(module, used)| {
        let used = match used.trim() {
            "all" => None,
            "nothing" => Some(BTreeSet::new()),
            list => Some(list.split(", ").map(str::to_owned).collect()),
        };
        (module.trim().to_owned(), used)
    })
    .collect()
}

fn layer_complaints(source: &Source, layers: &Layers) -> Vec<String> {
    let path = &source.path;
    let module = source.module();
    // The root declares the modules and uses none.
    let Some(from) = module.first() else { return Vec::new() };
    let Some(used) = layers.get(*from) else {
        return vec![format!("{path}: the layer table of docs/architecture.md has no row for `{from}`")];
    };
    let Some(used) = used else { return Vec::new() };
    let paths = paths(source);
    let imports = paths.iter().filter_map(|written| Some((written.line, from_root(source, written)?)));
    let foreign = imports.filter(|(_, import)| {
        let item = import.iter().take(2).map(String::as_str).collect::<Vec<_>>().join("::");
        import[0] != *from && !used.contains(&import[0]) && !used.contains(&item)
    });
    foreign.map(|(line, import)| format!("{path}:{line}: `{from}` may not use `{}`", import.join("::"))).collect()
}

#[test]
fn modules_use_only_what_the_layer_table_allows() {
    let layers = layers(&read("docs/architecture.md"));
    assert_none(sources("src").iter().flat_map(|source| layer_complaints(source, &layers)));
}

#[test]
fn the_layer_table_names_only_modules_that_have_a_row() {
    let layers = layers(&read("docs/architecture.md"));
    let used = layers.values().flatten().flatten().map(|used| used.split("::").next().unwrap_or(used));
    assert_none(used.filter(|used| !layers.contains_key(*used)).map(|used| format!("`{used}` has no row")));
}

#[test]
fn a_forbidden_import_is_found_however_it_is_written() {
    let layers = layers("<!-- layers -->\n| a | b |\n|---|---|\n| low | base, mid::Allowed |\n| main | app |\n<!-- /layers -->");
    let complaints = |path: &str, text: &str| layer_complaints(&Source::new(path, text), &layers).len();
    for allowed in [
        "use crate::base::Thing;",
        "use crate::{base, mid::Allowed, low::own};",
        "use crate::mid::{Allowed};",
        "fn f() -> crate::base::T { crate::base::f::<u8>() }",
        "use super::mid::Thing;",
        "use crate::base::*;",
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
}

// ---- Files ------------------------------------------------------------------------------------------------------------------

fn length_complaint(source: &Source) -> Option<String> {
    let lines = source.without_tests().lines().count();
    (lines > FILE_LINES_MAX).then(|| format!("{}: {lines} lines without tests, {FILE_LINES_MAX} allowed", source.path))
}

#[test]
fn files_are_short() {
    assert_none(sources("src").iter().filter_map(length_complaint));
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

fn opening_complaint(source: &Source) -> Option<String> {
    (!source.text.starts_with("//! ")).then(|| format!("{}: does not open with a `//!` doc", source.path))
}

#[test]
fn files_open_with_a_doc() {
    assert_none(sources("src").iter().filter_map(opening_complaint));
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
    let folders = ["src", "tests", "loadtest/src"];
    assert_none(folders.into_iter().flat_map(sources).flat_map(|source| loose_ends(&source)));
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
    assert_none(sources("src").iter().flat_map(exception_complaints));
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

/// What starts a thread; asking how many there may be, or parking the current one, does not.
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
    if source.path.starts_with("src/scheduler/") || ["src/frontend/admin.rs", "src/log.rs"].contains(&source.path.as_str()) {
        return Vec::new();
    }
    let paths = paths(source);
    let threads = paths.iter().filter(|path| !path.in_tests && starts_thread(&path.segments));
    threads
        .map(|path| format!("{}:{}: only `scheduler`, the admin server and the log start threads", source.path, path.line))
        .collect()
}

#[test]
fn only_the_scheduler_the_admin_server_and_the_log_start_threads() {
    assert_none(sources("src").iter().flat_map(thread_complaints));
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
        for starter in ["src/scheduler/lane.rs", "src/frontend/admin.rs", "src/log.rs"] {
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
}

// ---- Property tests ---------------------------------------------------------------------------------------------------------

#[test]
fn cases_that_a_property_test_failed_on_stay_in_the_tree() {
    let ignored = read(".gitignore");
    assert!(
        !ignored.contains("proptest-regressions"),
        ".gitignore: failed cases are committed, so that they are tried first from then on"
    );
    let files = ["src", "tests/it", "loadtest/src"].iter().flat_map(|folder| sources(folder));
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

#[test]
fn the_readme_lists_the_metrics_as_they_are() {
    let wanted = tidemill::telemetry::markdown();
    let readme = read("README.md");
    assert!(marked(&readme, "metrics").trim() == wanted.trim(), "README.md, between the `metrics` marks, should say:\n{wanted}");
}
