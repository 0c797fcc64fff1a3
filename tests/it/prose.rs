//! The words of comments, messages, help and pages: turns of phrase that a native reader stumbles on.
//!
//! Comments and strings are read as words, so that a line break hides nothing, and names in code do not count; nor does anything
//! between backquotes.

use std::{collections::HashMap, fs, path::Path};

use crate::tidy::{assert_none, root};

/// Turns to avoid, and what to write instead. A turn is a sequence of words: `a|b` is either of two, `*` any one, `!a` none or
/// any other than `a`, and `^` the beginning of a sentence.
const TURNS: [(&str, &str); 37] = [
    ("hold|holds|held|holding against", "check against, compare with"),
    ("hold|holds|held|holding * against", "check against, compare with"),
    ("hold|holds|held|holding * * against", "check against, compare with"),
    ("is|are|was|were|be|been|being told !to", "is given, learns, gets"),
    ("as * told !to", "as * learns, as * is told to"),
    ("tell|tells|told of", "report, say about"),
    ("told apart", "distinguished"),
    ("tell|tells|telling * apart", "distinguish"),
    ("anew", "again, afresh, or a verb with re-"),
    ("beside", "next to, alongside, as well as, compared with"),
    ("an own", "its own, a separate"),
    ("meanwhile", "in the meantime, since then, or nothing"),
    ("belong|belongs|belonging|belonged into", "belong in"),
    ("as good as", "practically, as well as, like"),
    ("come|comes|came|coming upon", "meet, find"),
    ("^ who", "the caller that, which clients, whoever"),
    ("for|by|from|than|to|with who", "for whoever, for the caller that"),
    ("those can|could|may|must|will|would|are|have * who", "those who can"),
    ("client|clients|caller|callers|who hear|hears|heard", "learn, get"),
    ("hear|hears|heard of", "learn about, notice"),
    ("of|with|for|than|within|after|least|most|brings|takes so many", "this many, up to N"),
    ("for|after|within so long", "for this long"),
    ("say|says|said|saying of", "say about"),
    ("that|which|what|to take|takes long", "be slow, take a while"),
    ("to be had", "available"),
    ("comes to be", "is made"),
    ("to|for whom that", "whoever"),
    ("be it", "even, whether"),
    ("lest", "so that … not"),
    ("reckon|reckons|reckoned", "count, compute"),
    ("gainsay|forthwith|thereof|whereof|therein|wherein", "plain words"),
    ("all|everything|nothing what", "all that, whatever"),
    ("depend|depends|depending from", "depend on"),
    ("same like", "same as"),
    ("other as", "other than"),
    ("also not", "not either, nor"),
    ("informations|feedbacks|softwares", "the singular"),
];

/// Where a turn is right after all. Few, so that the list above stays the rule.
const ALLOWED: [(&str, &str); 5] = [
    (".github/ISSUE_TEMPLATE/feature.yml", "^ who"), // It asks who does what.
    ("loadtest/start_up", "beside"),                 // The name of a part of the measurement.
    ("crates/recording/src/sniff.rs", "^ who"),      // "who knows what"
    ("crates/shares/src/lib.rs", "^ who"),           // The questions that the module answers.
    ("crates/shares/src/turns.rs", "^ who"),         // The same.
];

const ALLOWED_MAX: usize = 20;

const FOLDERS: [&str; 11] =
    ["src", "crates", "tests", "loadtest", "proto", "build", "benches", "fuzz", "examples", "docs", ".github"];

/// Folders of things that are not written by hand, and this file, which quotes what it refuses.
const SKIPPED: [&str; 7] =
    ["target", "corpus", "node_modules", "__pycache__", "proptest-regressions", ".pytest_cache", "prose.rs"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Rust,
    /// Comments after `//`.
    Slashes,
    /// Comments after `#`.
    Hash,
    /// The same, and strings between three quotes.
    Python,
    /// All of it is text.
    Page,
}

impl Kind {
    fn of(path: &Path, text: &str) -> Option<Self> {
        Some(match path.extension().and_then(|extension| extension.to_str()) {
            Some("rs") => Self::Rust,
            Some("proto" | "go" | "java" | "ts" | "cjs") => Self::Slashes,
            Some("toml" | "sh") => Self::Hash,
            Some("py") => Self::Python,
            Some("md" | "yml" | "yaml") => Self::Page,
            None if text.starts_with("#!") => {
                let first = text.lines().next().unwrap_or_default();
                if first.contains("python") { Self::Python } else { Self::Hash }
            }
            _ => return None,
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Word {
    text: String,
    line: usize,
    /// Whether a sentence begins with it.
    begins: bool,
}

/// The words of a text, in order.
#[derive(Debug, Default)]
struct Words {
    found: Vec<Word>,
    current: String,
    line: usize,
    begins: bool,
    in_code: bool,
}

impl Words {
    fn push(&mut self, character: char) {
        match character {
            '`' => {
                self.end_word();
                self.in_code = !self.in_code;
                if self.in_code {
                    // Code stands for a word, so that the words around it are not next to each other.
                    self.current.push(character);
                    self.end_word();
                }
            }
            _ if self.in_code => {}
            '\'' | '-' if !self.current.is_empty() => self.current.push(character),
            _ if character.is_alphanumeric() || character == '_' => self.current.extend(character.to_lowercase()),
            _ => {
                self.end_word();
                self.begins |= ['.', ':', ';', '!', '?', '|'].contains(&character);
            }
        }
        if character == '\n' {
            self.line += 1;
        }
    }

    fn end_word(&mut self) {
        let text = std::mem::take(&mut self.current);
        if !text.is_empty() {
            self.found.push(Word { text, line: self.line, begins: std::mem::replace(&mut self.begins, false) });
        }
    }

    /// Begins a text that has nothing to do with the one before.
    fn end_text(&mut self) {
        self.end_word();
        self.begins = true;
        self.in_code = false;
    }
}

/// The words of a page, less what is shown as code.
fn words_of_page(text: &str) -> Vec<Word> {
    let mut words = Words { line: 1, begins: true, ..Words::default() };
    let mut in_block = false;
    for line in text.lines() {
        let is_fence = line.trim_start().starts_with("```");
        in_block ^= is_fence;
        if line.trim().is_empty() || is_fence {
            words.end_text();
        }
        let shown = if in_block || is_fence { "" } else { line };
        shown.chars().chain(['\n']).for_each(|character| words.push(character));
    }
    words.end_word();
    words.found
}

/// The words of the comments and strings of a program. Strings of one word are names.
fn words_of_program(kind: Kind, text: &str) -> Vec<Word> {
    let marker = if matches!(kind, Kind::Rust | Kind::Slashes) { "//" } else { "#" };
    let mut words = Words { line: 1, begins: true, ..Words::default() };
    let mut rest = text;
    let mut before = '\n';
    // Whether only blanks have come since the last comment.
    let mut goes_on = false;
    while let Some(character) = rest.chars().next() {
        let is_comment = rest.starts_with(marker) && (marker == "//" || before.is_whitespace());
        let (string, length) = if is_comment { (None, 0) } else { string_at(kind, rest, before) };
        if is_comment {
            let line = rest.split('\n').next().unwrap_or_default();
            let inside = line.trim_start_matches(['/', '#', '!']);
            if !goes_on || inside.trim().is_empty() {
                words.end_text();
            }
            inside.chars().for_each(|character| words.push(character));
            words.end_word();
            (rest, before, goes_on) = (&rest[line.len()..], ' ', true);
        } else if let Some(string) = string {
            words.end_text();
            let is_name = !string.trim().contains(' ');
            push_string(&mut words, string, is_name);
            words.end_text();
            // Quotes that were not part of the string hold no line break.
            (rest, before, goes_on) = (&rest[length..], '"', false);
        } else {
            words.line += usize::from(character == '\n');
            goes_on &= character.is_whitespace();
            rest = &rest[length.max(character.len_utf8())..];
            before = character;
        }
    }
    words.end_word();
    words.found
}

/// The words of a string, less placeholders and escapes.
fn push_string(words: &mut Words, string: &str, is_name: bool) {
    let mut depth = 0_usize;
    let mut characters = string.chars();
    while let Some(character) = characters.next() {
        match character {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        let shown = match character {
            '\\' => {
                words.push(' ');
                characters.next().filter(|escaped| *escaped == '\n')
            }
            '\n' => Some('\n'),
            _ => (depth == 0 && !is_name && character != '}').then_some(character),
        };
        shown.into_iter().for_each(|character| words.push(character));
    }
}

/// The string that `rest` begins with, and how long it is with its quotes; `None` and a length for something else to skip.
fn string_at(kind: Kind, rest: &str, before: char) -> (Option<&str>, usize) {
    let ends_at = |from: usize, end: &str| rest[from..].find(end).map(|at| (Some(&rest[from..from + at]), from + at + end.len()));
    if kind == Kind::Rust && rest.starts_with('r') && !(before.is_alphanumeric() || before == '_') || rest.starts_with("br") {
        let from = rest.find('r').map_or(0, |at| at + 1);
        let hashes = rest[from..].bytes().take_while(|byte| *byte == b'#').count();
        if rest[from + hashes..].starts_with('"') {
            let end = format!("\"{}", "#".repeat(hashes));
            return ends_at(from + hashes + 1, &end).unwrap_or((None, 0));
        }
    }
    if kind == Kind::Python && (rest.starts_with("\"\"\"") || rest.starts_with("'''")) {
        return ends_at(3, &rest[..3]).unwrap_or((None, 0));
    }
    let quote = match (kind, rest.chars().next()) {
        (_, Some('"')) => '"',
        (Kind::Rust, Some('\'')) => {
            let inside: Vec<char> = rest.chars().skip(1).take(2).collect();
            return match inside[..] {
                ['\\', escaped] => (None, rest[2 + escaped.len_utf8()..].find('\'').map_or(1, |at| at + 3 + escaped.len_utf8())),
                [character, '\''] => (None, 2 + character.len_utf8()),
                _ => (None, 1),
            };
        }
        (_, Some('\'')) if !before.is_alphanumeric() => '\'',
        _ => return (None, 0),
    };
    let mut is_escaped = false;
    for (at, character) in rest.char_indices().skip(1) {
        if character == quote && !is_escaped {
            return (Some(&rest[1..at]), at + 1);
        }
        // Only Rust's strings and the shell's go on over line breaks.
        if character == '\n' && matches!(kind, Kind::Python | Kind::Slashes) {
            break;
        }
        is_escaped = character == '\\' && !is_escaped;
    }
    (None, 1)
}

/// The turns by the word that they begin with.
fn turns_by_word() -> HashMap<&'static str, Vec<(&'static str, &'static str)>> {
    let mut by_word: HashMap<_, Vec<_>> = HashMap::new();
    for (turn, better) in TURNS {
        let first = turn.trim_start_matches("^ ").split(' ').next().unwrap_or_default();
        first.split('|').for_each(|word| by_word.entry(word).or_default().push((turn, better)));
    }
    by_word
}

/// How many words from the first of `words` on are this turn, if they are.
fn turn_at(turn: &str, words: &[Word]) -> Option<usize> {
    let mut at = 0;
    for element in turn.split(' ') {
        let word = words.get(at).filter(|word| at == 0 || !word.begins);
        match element {
            "^" => {
                word.filter(|word| word.begins)?;
            }
            _ if element.starts_with('!') => {
                if word.is_some_and(|word| word.text == element[1..]) {
                    return None;
                }
            }
            _ => {
                word.filter(|word| element == "*" || element.split('|').any(|one| one == word.text))?;
                at += 1;
            }
        }
    }
    Some(at)
}

/// The turns in a file: its path, the turn, and the complaint.
fn turns_in(path: &str, kind: Kind, text: &str) -> Vec<(&'static str, String)> {
    let words = if kind == Kind::Page { words_of_page(text) } else { words_of_program(kind, text) };
    let turns = turns_by_word();
    let mut found = Vec::new();
    for (at, word) in words.iter().enumerate() {
        for &(turn, better) in turns.get(&*word.text).into_iter().flatten() {
            if let Some(length) = turn_at(turn, &words[at..]) {
                let said: Vec<&str> = words[at..at + length].iter().map(|word| &*word.text).collect();
                found.push((turn, format!("{path}:{}: \"{}\"; write: {better}", word.line, said.join(" "))));
            }
        }
    }
    found
}

/// All complaints about `files`, and about exceptions that are not needed.
fn complaints<'a>(files: impl IntoIterator<Item = (&'a str, Kind, &'a str)>, allowed: &[(&str, &str)]) -> Vec<String> {
    let mut used = vec![false; allowed.len()];
    let mut found = Vec::new();
    for (path, kind, text) in files {
        for (turn, complaint) in turns_in(path, kind, text) {
            match allowed.iter().position(|exception| *exception == (path, turn)) {
                Some(exception) => used[exception] = true,
                None => found.push(complaint),
            }
        }
    }
    let stale = allowed.iter().zip(used).filter(|(_, used)| !used);
    found.extend(
        stale.map(|((path, turn), _)| format!("{path}: \"{turn}\" is allowed, but does not occur: take it off the list")),
    );
    found
}

fn walk(folder: &Path, deep: bool, found: &mut Vec<(String, Kind, String)>) {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    for path in paths {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if SKIPPED.contains(&name) || path.is_symlink() {
            continue;
        }
        if path.is_dir() {
            if deep {
                walk(&path, deep, found);
            }
        } else if let Ok(text) = fs::read_to_string(&path)
            && let Some(kind) = Kind::of(&path, &text)
        {
            let path = path.strip_prefix(root()).expect("a path below the root").to_str().expect("a name in Unicode");
            found.push((path.to_owned(), kind, text));
        }
    }
}

#[test]
fn a_native_reader_does_not_stumble() {
    let mut files = Vec::new();
    walk(&root(), false, &mut files);
    for folder in FOLDERS {
        walk(&root().join(folder), true, &mut files);
    }
    for known in ["README.md", "Cargo.toml", "src/lib.rs", "tests/run", "loadtest/compare", "proto/tidemill/v1/inference.proto"] {
        assert!(files.iter().any(|(path, ..)| path == known), "{known} was not read");
    }
    assert!(ALLOWED.len() <= ALLOWED_MAX, "{} exceptions, {ALLOWED_MAX} allowed", ALLOWED.len());
    assert_none(complaints(files.iter().map(|(path, kind, text)| (&**path, *kind, &**text)), &ALLOWED));
}

#[test]
fn turns_are_found_in_comments_strings_and_pages() {
    let found = |kind: Kind, text: &str| turns_in("a", kind, text).len();
    for (kind, text) in [
        (Kind::Rust, "/// Who asks gets it.\nfn f() {}"),
        (Kind::Rust, "// It is held\n    // against its model.\n"),
        (Kind::Rust, "//! Knows it. Who\n//! asks is let in."),
        (Kind::Rust, "fn f() { g('\"'); h(\"loaded anew, at once\"); }"),
        (Kind::Rust, "fn f() { g(\"the client is \\\n    told it\"); }"),
        (Kind::Rust, "const A: &str = r#\"a \"file\" beside it\"#;"),
        (Kind::Rust, "fn f<'a>(x: &'a str) {} // with an own loop"),
        (Kind::Slashes, "  // What gives way meanwhile.\n  string a = 1;"),
        (Kind::Python, "def f():\n    \"\"\"All who wait\n    are told.\"\"\"\n"),
        (Kind::Python, "x = 1  # as good as nothing\n"),
        (Kind::Hash, "a = 1\n# Belongs into the table.\n"),
        (Kind::Page, "# A page\n\nOne lane comes\nupon another.\n"),
    ] {
        assert_eq!(found(kind, text), 1, "{text}");
    }
    for (kind, text) in [
        (Kind::Rust, "fn anew(beside: u8) { meanwhile(beside) }"),
        (Kind::Rust, "mod beside; // see `beside`, and [`anew`]"),
        (Kind::Rust, "const KEYS: [&str; 2] = [\"beside\", \"anew\"];"),
        (Kind::Rust, "// It is held.\n\n// Against that, nothing helps.\n"),
        (Kind::Rust, "// The port was told to close, by the client who asked.\n"),
        (Kind::Rust, "fn f() { g(\"it is held\"); h(\"against it\"); }"),
        (Kind::Rust, "fn f() { g(\"{beside} ms {anew:?}\\nwith it\"); }"),
        (Kind::Python, "print(f\"{beside['p99_ms']} ms of all\")\n"),
        (Kind::Page, "Run `anew`:\n\n```\ntidemill beside\n```\n"),
    ] {
        assert_eq!(found(kind, text), 0, "{text}");
    }
}

#[test]
fn every_turn_can_be_found() {
    for (turn, _) in TURNS {
        let plain = turn.split(' ').filter(|element| *element != "^" && !element.starts_with('!'));
        let plain: Vec<_> = plain.map(|element| element.split('|').next().unwrap_or_default().replace('*', "thing")).collect();
        let found = turns_in("a", Kind::Rust, &format!("// {}\n", plain.join(" ")));
        assert!(found.iter().any(|(one, _)| *one == turn), "{turn}: {plain:?}");
    }
}

#[test]
fn complaints_name_the_line_and_exceptions_must_be_used() {
    let text = "fn f() {}\n\n/// The same,\n/// made anew.\n";
    let files = [("src/a.rs", Kind::Rust, text)];
    assert_eq!(complaints(files, &[]), ["src/a.rs:4: \"anew\"; write: again, afresh, or a verb with re-"]);
    assert_eq!(complaints(files, &[("src/a.rs", "anew")]), Vec::<String>::new());
    let stale = complaints(files, &[("src/a.rs", "anew"), ("src/b.rs", "anew")]);
    assert_eq!(stale, ["src/b.rs: \"anew\" is allowed, but does not occur: take it off the list"]);
}
