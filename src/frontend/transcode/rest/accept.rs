//! The form that a client wants a stream of messages in, from its header `accept`.

use http::{HeaderMap, header};

/// How messages follow one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// One line of JSON each.
    Lines,
    /// Server-sent events.
    Events,
}

impl Form {
    pub(super) const fn media_type(self) -> &'static str {
        match self {
            Self::Lines => "application/x-ndjson",
            Self::Events => "text/event-stream",
        }
    }
}

/// How well a form suits, in thousandths.
type Quality = u16;

/// The best form; lines if both suit alike, `None` if neither does.
pub(super) fn form(headers: &HeaderMap) -> Option<Form> {
    let texts = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let ranges: Vec<(&str, Quality)> =
        texts.flat_map(|text| text.split(',')).map(range).filter(|(range, _)| !range.is_empty()).collect();
    if ranges.is_empty() {
        return Some(Form::Lines);
    }
    let lines = ["application/x-ndjson", "application/ndjson", "application/jsonl"].map(|name| quality(&ranges, name));
    let lines = lines.into_iter().max().unwrap_or_default();
    let events = quality(&ranges, "text/event-stream");
    match (lines, events) {
        (0, 0) => None,
        (lines, events) if events > lines => Some(Form::Events),
        // A client that names events, and takes anything besides, wants events.
        (lines, events)
            if events == lines && is_named(&ranges, "text/event-stream") && !is_named(&ranges, "application/x-ndjson") =>
        {
            Some(Form::Events)
        }
        _ => Some(Form::Lines),
    }
}

fn is_named(ranges: &[(&str, Quality)], name: &str) -> bool {
    ranges.iter().any(|(range, _)| range.eq_ignore_ascii_case(name))
}

/// A range of media types and its quality: 1,000 if it states none.
fn range(text: &str) -> (&str, Quality) {
    let mut parts = text.split(';').map(str::trim);
    let range = parts.next().unwrap_or_default();
    let stated = parts.find_map(|part| {
        let (name, value) = part.split_once('=')?;
        name.trim().eq_ignore_ascii_case("q").then(|| value.trim().parse::<f32>().unwrap_or(0.0))
    });
    (range, stated.map_or(1_000, |quality| (quality.clamp(0.0, 1.0) * 1_000.0) as Quality))
}

/// The quality that the most exact range gives a media type.
fn quality(ranges: &[(&str, Quality)], name: &str) -> Quality {
    let kind = name.split('/').next().unwrap_or_default();
    let of = |wanted: &dyn Fn(&str) -> bool| ranges.iter().find(|(range, _)| wanted(range)).map(|(_, quality)| *quality);
    let of_kind = |range: &str| range.strip_suffix("/*").is_some_and(|found| found.eq_ignore_ascii_case(kind));
    of(&|range| range.eq_ignore_ascii_case(name)).or_else(|| of(&of_kind)).or_else(|| of(&|range| range == "*/*")).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(accept: &str) -> Option<Form> {
        form(&HeaderMap::from_iter([(header::ACCEPT, accept.parse().expect("a value"))]))
    }

    #[test]
    fn lines_are_the_default_and_events_are_for_those_that_name_them() {
        assert_eq!(form(&HeaderMap::new()), Some(Form::Lines));
        for lines in [
            "",
            "*/*",
            "application/x-ndjson",
            "application/jsonl",
            "application/*",
            "text/event-stream;q=0.5, */*",
            "application/x-ndjson, text/event-stream",
        ] {
            assert_eq!(of(lines), Some(Form::Lines), "{lines}");
        }
        for events in [
            "text/event-stream",
            "Text/Event-Stream; charset=utf-8",
            "text/*",
            "text/event-stream, */*",
            "text/event-stream, */*;q=0.1",
        ] {
            assert_eq!(of(events), Some(Form::Events), "{events}");
        }
        for neither in ["application/json", "text/html", "*/*;q=0", "text/event-stream;q=x"] {
            assert_eq!(of(neither), None, "{neither}");
        }
    }

    proptest! {
        #[test]
        fn no_header_breaks_it(accept in "[ -~]{0,60}") {
            let _ = of(&accept);
        }
    }
}
