//! What a client can make a line of the log look like.

use proptest::prelude::*;
use tracing::subscriber::with_default;

use super::{escape::is_harmful, queue::Job, *};

const TEXT: Form = Form { format: LogFormat::Text, is_coloured: false };
const JSON: Form = Form { format: LogFormat::Json, is_coloured: false };

/// The next line of a queue that is not empty.
fn next_line(queue: &Queue) -> String {
    let Job { line, .. } = queue.take(false);
    String::from_utf8(line.expect("a line")).expect("text")
}

/// The line of an event that has this text wherever an event may have any.
fn logged(form: Form, text: &str) -> String {
    let queue = Arc::new(Queue::default());
    let error = io::Error::other(text.to_owned());
    with_default(tracing_subscriber::registry().with(layer::<Registry>(form, &queue)), || {
        tracing::warn!(text, shown = %text, listed = ?[text], %error, "said: {text}");
    });
    let line = next_line(&queue);
    queue.push(b"end".to_vec());
    assert_eq!(next_line(&queue), "end", "one event is one line");
    line
}

fn has_no_harm(text: &str) -> bool {
    !text.chars().any(is_harmful)
}

/// Texts of what does harm somewhere, and of anything.
fn texts() -> impl Strategy<Value = String> {
    let pieces = vec![
        "\n",
        "\r\n",
        "\u{1b}[2J",
        "\u{1b}]0;x\u{7}",
        "\u{9b}31m",
        "\u{202e}",
        "\u{2066}",
        "\u{2028}",
        "\u{feff}",
        "\0",
        "\"",
        "\\",
        "a",
        " ERROR ",
        "2026-01-01T00:00:00Z",
    ];
    let harmful = proptest::collection::vec(proptest::sample::select(pieces), 0..20).prop_map(|pieces| pieces.concat());
    prop_oneof![harmful, any::<String>()]
}

proptest! {
    #[test]
    fn no_field_brings_anything_harmful_into_a_line_of_text(text in texts()) {
        let line = logged(TEXT, &text);
        let whole = line.strip_suffix('\n').expect("a line ends");
        let mut parts = whole.split("\n    | ");
        prop_assert!(parts.all(has_no_harm), "{line:?}");
    }

    #[test]
    fn a_line_of_json_is_one_object_that_says_what_was_said(text in texts()) {
        let line = logged(JSON, &text);
        let whole = line.strip_suffix('\n').expect("a line ends");
        prop_assert!(has_no_harm(whole), "{line:?}");
        let read: serde_json::Value = serde_json::from_str(whole).expect("JSON");
        prop_assert_eq!(read["fields"]["text"].as_str(), Some(text.as_str()));
        prop_assert_eq!(read["level"].as_str(), Some("WARN"));
    }
}

fn traced() -> EnvFilter {
    filter(&LogConfig { filter: "trace".to_owned(), ..LogConfig::default() })
}

fn say_both() {
    tracing::info!(target: AUDIT, caller = "alice", "control");
    tracing::info!("ordinary");
}

#[test]
fn the_audit_log_has_its_own_events_and_no_others() {
    let (ordinary, audit) = (Arc::new(Queue::default()), Arc::new(Queue::default()));
    let lines = layer::<Registry>(TEXT, &ordinary).with_filter(traced());
    with_default(tracing_subscriber::registry().with(lines).with(audit_layer(&audit)), say_both);
    for queue in [&ordinary, &audit] {
        queue.push(b"end".to_vec());
    }
    assert!(next_line(&ordinary).ends_with("INFO ordinary\n"));
    assert_eq!(next_line(&ordinary), "end");
    let event: serde_json::Value = serde_json::from_str(&next_line(&audit)).expect("JSON");
    assert_eq!((event["target"].as_str(), event["fields"]["caller"].as_str()), (Some(AUDIT), Some("alice")));
    assert_eq!(next_line(&audit), "end");
}

#[test]
fn without_a_file_the_events_of_the_audit_log_are_written_nowhere() {
    let queue = Arc::new(Queue::default());
    with_default(tracing_subscriber::registry().with(layer::<Registry>(TEXT, &queue)).with(traced()), say_both);
    queue.push(b"end".to_vec());
    assert!(next_line(&queue).ends_with("INFO ordinary\n"));
    assert_eq!(next_line(&queue), "end");
}
