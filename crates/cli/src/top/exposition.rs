//! The Prometheus text format, version 0.0.4: a scrape's text as numbers by name and labels.
//!
//! Knows the grammar; does not know which metrics there are. Help and types are skipped: the code that asks for a metric knows them.

use std::collections::{BTreeMap, HashMap};

/// The labels of one series, by name.
pub(super) type Labels = BTreeMap<String, String>;

/// Characters of a faulty line that an error quotes.
const QUOTED_CHARS_MAX: usize = 60;

/// All series of one scrape.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Exposition {
    metrics: HashMap<String, BTreeMap<Labels, f64>>,
}

/// A line that the format does not allow.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line} is not a sample in the Prometheus text format: {text:?}")]
pub(super) struct SyntaxFault {
    line: usize,
    text: String,
}

impl Exposition {
    /// Reads a scrape's text. Samples whose value is not a finite number are left out: they say nothing that could be shown.
    ///
    /// # Errors
    /// The first line that is neither a sample, a comment nor blank.
    pub(super) fn parse(text: &str) -> Result<Self, SyntaxFault> {
        let mut exposition = Self::default();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (name, labels, value) = sample(line)
                .ok_or_else(|| SyntaxFault { line: index + 1, text: line.chars().take(QUOTED_CHARS_MAX).collect() })?;
            if value.is_finite() {
                exposition.metrics.entry(name.to_owned()).or_default().insert(labels, value);
            }
        }
        Ok(exposition)
    }

    /// All series of a metric, in the order of their labels.
    pub(super) fn series(&self, name: &str) -> impl Iterator<Item = (&Labels, f64)> {
        self.metrics.get(name).into_iter().flatten().map(|(labels, value)| (labels, *value))
    }

    /// The value of one series.
    pub(super) fn value(&self, name: &str, labels: &Labels) -> Option<f64> {
        self.metrics.get(name)?.get(labels).copied()
    }
}

/// `name{label="value"} number`, and perhaps a timestamp.
fn sample(line: &str) -> Option<(&str, Labels, f64)> {
    let name_end = line.find(|character: char| character == '{' || character.is_ascii_whitespace())?;
    let (name, rest) = line.split_at(name_end);
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(inside) => labels(inside)?,
        None => (Labels::new(), rest),
    };
    let mut words = rest.split_ascii_whitespace();
    let value = words.next()?.parse().ok()?;
    let timestamp_is_whole = words.next().is_none_or(|timestamp| timestamp.parse::<i64>().is_ok());
    (!name.is_empty() && timestamp_is_whole && words.next().is_none()).then_some((name, labels, value))
}

/// The labels after an opening brace, and what follows the closing one.
fn labels(mut rest: &str) -> Option<(Labels, &str)> {
    let mut labels = Labels::new();
    loop {
        rest = rest.trim_start();
        if let Some(after) = rest.strip_prefix('}') {
            return Some((labels, after));
        }
        let (name, after) = rest.split_once('=')?;
        let (value, after) = unquoted(after.trim_start().strip_prefix('"')?)?;
        labels.insert(name.trim().to_owned(), value);
        rest = after.trim_start();
        if !rest.starts_with('}') {
            rest = rest.strip_prefix(',')?;
        }
    }
}

/// The text up to the closing quote, and what follows it. Control characters are replaced, because a terminal would obey them.
fn unquoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    loop {
        let character = match characters.next()? {
            (at, '"') => return Some((value, &text[at + 1..])),
            (_, '\\') => match characters.next()?.1 {
                'n' => '\n',
                escaped => escaped,
            },
            (_, character) => character,
        };
        value.push(if character.is_control() { char::REPLACEMENT_CHARACTER } else { character });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels_of(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    #[test]
    fn reads_samples_with_and_without_labels_timestamps_and_blanks() {
        let text = "# HELP a Help.\n# TYPE a counter\na 1\n\nb{} 2.5 1700000000000\nc{x=\"1\", y = \"2\",} +3e-5\n  d\t4\n";
        let read = Exposition::parse(text).expect("it is well-formed");
        assert_eq!(read.value("a", &Labels::new()), Some(1.0));
        assert_eq!(read.value("b", &Labels::new()), Some(2.5));
        assert_eq!(read.value("c", &labels_of(&[("x", "1"), ("y", "2")])), Some(3e-5));
        assert_eq!(read.value("d", &Labels::new()), Some(4.0));
        assert_eq!(read.series("e").count(), 0);
    }

    #[test]
    fn a_label_may_hold_anything_that_is_escaped() {
        let read = Exposition::parse(r#"a{x="q\"b\\c} 1,y=",z="d"} 7"#).expect("it is well-formed");
        assert_eq!(read.value("a", &labels_of(&[("x", r#"q"b\c} 1,y="#), ("z", "d")])), Some(7.0));
    }

    #[test]
    fn control_characters_of_a_label_do_not_reach_the_terminal() {
        let read = Exposition::parse("a{x=\"1\u{1b}[2J\\n\"} 7").expect("it is well-formed");
        assert_eq!(read.value("a", &labels_of(&[("x", "1\u{fffd}[2J\u{fffd}")])), Some(7.0));
    }

    #[test]
    fn values_that_are_not_numbers_are_left_out() {
        let read = Exposition::parse("a{x=\"1\"} NaN\na{x=\"2\"} +Inf\na{x=\"3\"} 3").expect("it is well-formed");
        assert_eq!(read.series("a").map(|(_, value)| value).collect::<Vec<_>>(), [3.0]);
    }

    #[test]
    fn a_line_that_is_not_a_sample_is_named() {
        for line in
            ["a", "a b", "{x=\"1\"} 1", "a{x=1} 1", "a{x=\"1} 1", "a{x=\"1\" y=\"2\"} 1", "a{x=\"1\"", "a 1 now", "a 1 2 3", "é"]
        {
            let fault = Exposition::parse(&format!("# page\n{line}\n")).expect_err(line);
            assert_eq!(fault, SyntaxFault { line: 2, text: line.to_owned() });
        }
        let page = format!("<html>{}", "x".repeat(1000));
        assert!(Exposition::parse(&page).expect_err("a page").to_string().len() < 200);
    }
}
