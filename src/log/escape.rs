//! What a line may contain: nothing that a terminal obeys, that begins another line, or that shows text in another order than it has.
//!
//! `tracing` escapes most of it already. This is the last step before a line waits to be written, so it holds for all fields,
//! whoever has written them and however.

use std::{borrow::Cow, fmt::Write as _};

/// Continues a message after a line feed in it. Whatever a file's name or a client's text contains, nothing in it looks like the
/// beginning of another message.
const CONTINUATION: &str = "\n    | ";

/// The longest sequence that sets a colour; ours have a few numbers.
const COLOUR_BYTES_MAX: usize = 16;

/// Whether a character is never written as it is.
pub(super) fn is_harmful(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{ad}'
                | '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

/// A line of text, with or without the line feed at its end. `is_coloured` leaves the colours that `tracing` has put in; it escapes those
/// in values.
pub(super) fn text(bytes: &[u8], is_coloured: bool) -> Vec<u8> {
    let (line, end) = split(bytes);
    if is_plain(line) {
        return bytes.to_vec();
    }
    let line = String::from_utf8_lossy(line);
    let mut written = String::with_capacity(line.len() + line.len() / 8);
    let mut rest: &str = &line;
    while let Some(character) = rest.chars().next() {
        let colour = if is_coloured { colour_bytes(rest) } else { 0 };
        let (taken, after) = rest.split_at(colour.max(character.len_utf8()));
        rest = after;
        if character == '\n' {
            written.push_str(CONTINUATION);
        } else if colour == 0 && is_harmful(character) {
            written.extend(character.escape_default());
        } else {
            written.push_str(taken);
        }
    }
    [written.as_bytes(), end].concat()
}

/// A line of JSON, with or without the line feed at its end. What is escaped can only be within a string.
pub(super) fn json(bytes: &[u8]) -> Vec<u8> {
    let (line, end) = split(bytes);
    if is_plain(line) {
        return bytes.to_vec();
    }
    let line: Cow<'_, str> = String::from_utf8_lossy(line);
    let mut written = String::with_capacity(line.len() + line.len() / 8);
    for character in line.chars() {
        if is_harmful(character) {
            for unit in character.encode_utf16(&mut [0; 2]) {
                // Writing to a string cannot fail.
                let _ = write!(written, "\\u{unit:04x}");
            }
        } else {
            written.push(character);
        }
    }
    [written.as_bytes(), end].concat()
}

/// The line, and the line feed that ends it.
fn split(bytes: &[u8]) -> (&[u8], &'static [u8]) {
    bytes.strip_suffix(b"\n").map_or((bytes, &b""[..]), |line| (line, &b"\n"[..]))
}

/// Whether a line has nothing to look at.
fn is_plain(line: &[u8]) -> bool {
    line.iter().all(|byte| matches!(byte, b' '..=b'~'))
}

/// The length of the sequence that begins here, if it sets a colour and does nothing else; else 0.
fn colour_bytes(text: &str) -> usize {
    let Some(numbers) = text.strip_prefix("\u{1b}[") else { return 0 };
    let end = numbers.bytes().take(COLOUR_BYTES_MAX).position(|byte| !matches!(byte, b'0'..=b'9' | b';'));
    match end {
        Some(end) if numbers.as_bytes()[end] == b'm' => "\u{1b}[".len() + end + 1,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text_of(bytes: &[u8], is_coloured: bool) -> String {
        String::from_utf8(text(bytes, is_coloured)).expect("text")
    }

    #[test]
    fn what_a_terminal_obeys_is_written_out() {
        let cases: [(&[u8], &str); 8] = [
            (b"plain\n", "plain\n"),
            (b"no end", "no end"),
            (b"a\tb\rc\x07\x7f\n", "a\\tb\\rc\\u{7}\\u{7f}\n"),
            (b"\x1b[2J\x1b]0;title\n", "\\u{1b}[2J\\u{1b}]0;title\n"),
            ("\u{9b}2J \u{202e}txt.exe \u{2066}\n".as_bytes(), "\\u{9b}2J \\u{202e}txt.exe \\u{2066}\n"),
            (b"not \xff text\n", "not \u{fffd} text\n"),
            ("na\u{ef}ve \u{4f60}\u{597d} \u{1f642}\n".as_bytes(), "na\u{ef}ve \u{4f60}\u{597d} \u{1f642}\n"),
            (b"one\n2026-01-01 ERROR two\n", "one\n    | 2026-01-01 ERROR two\n"),
        ];
        for (bytes, written) in cases {
            assert_eq!(text_of(bytes, false), written);
        }
    }

    #[test]
    fn only_colours_stay_and_only_where_there_are_any() {
        let line = b"\x1b[2m10:00\x1b[0m \x1b[1;31mERROR\x1b[0m \x1b[2J\x1b[31\n";
        let escaped = "\x1b[2m10:00\x1b[0m \x1b[1;31mERROR\x1b[0m \\u{1b}[2J\\u{1b}[31\n";
        assert_eq!(text_of(line, true), escaped);
        assert!(!text_of(line, false).contains('\u{1b}'));
        let long = format!("\x1b[{}m", "1;".repeat(COLOUR_BYTES_MAX));
        assert!(!text_of(long.as_bytes(), true).contains('\u{1b}'), "a sequence without an end in sight");
    }

    #[test]
    fn json_stays_json_and_says_the_same() {
        let said = "a\u{202e}b\u{9b}c\u{e0041}d\u{2028}e\u{7f}\u{4f60}";
        let line = format!("{}\n", serde_json::json!({ "said": said }));
        let written = String::from_utf8(json(line.as_bytes())).expect("text");
        assert!(!written.trim_end().chars().any(is_harmful), "{written}");
        let read: serde_json::Value = serde_json::from_str(&written).expect("JSON");
        assert_eq!(read["said"], said);
    }

    proptest! {
        #[test]
        fn nothing_harmful_is_left_of_any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let written = text_of(&bytes, false);
            let whole = written.strip_suffix('\n').unwrap_or(&written);
            for line in whole.split(CONTINUATION) {
                prop_assert!(!line.chars().any(is_harmful), "{written:?}");
            }
            let written = String::from_utf8(json(&bytes)).expect("text");
            let whole = written.strip_suffix('\n').unwrap_or(&written);
            prop_assert!(!whole.chars().any(is_harmful), "{written:?}");
        }
    }
}
