//! Path templates as `google.api.http` has them: `/v1/models/{model}/versions/{version}`, `/v1/{name=models/*}`, `/v1/{path=**}:verb`.
//!
//! Pure: text in, captures out. Knows no messages.

use std::fmt::Write as _;

use percent_encoding::percent_decode_str;

use crate::domain::Fault;

/// A template that has been read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Template {
    segments: Vec<Segment>,
    /// What follows the last segment after a colon; empty if nothing does.
    verb: String,
    variables: Vec<Variable>,
}

/// One part of a path between two slashes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Segment {
    Literal(String),
    /// Any one, not empty.
    One,
    /// All that follow, perhaps none. Always the last.
    Rest,
}

/// A field that some of the segments hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Variable {
    /// The field's path in the request, such as `config.model`.
    pub(super) field: String,
    first: usize,
    /// One past its last segment.
    end: usize,
    /// Whether it is what stands between two slashes, and so may have encoded slashes of its own.
    is_segment: bool,
}

/// A template that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the path template '{template}' is wrong: {reason}")]
pub struct BadTemplate {
    template: String,
    reason: &'static str,
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// [`BadTemplate`] if it is not one.
    pub(super) fn parse(text: &str) -> Result<Self, BadTemplate> {
        let bad = |reason| BadTemplate { template: text.to_owned(), reason };
        let rest = text.strip_prefix('/').ok_or_else(|| bad("it does not begin with a slash"))?;
        let mut template = Self { segments: Vec::new(), verb: String::new(), variables: Vec::new() };
        let (path, verb) = match rest.rsplit_once(':') {
            Some((path, verb)) if !verb.contains(['/', '}']) => (path, verb),
            _ => (rest, ""),
        };
        verb.clone_into(&mut template.verb);
        if rest.ends_with(':') {
            return Err(bad("nothing follows its colon"));
        }
        for part in parts(path) {
            template.push_part(part).map_err(bad)?;
        }
        let rests = template.segments.iter().position(|segment| *segment == Segment::Rest);
        if rests.is_some_and(|at| at + 1 < template.segments.len()) {
            return Err(bad("`**` is not its last segment"));
        }
        Ok(template)
    }

    fn push_part(&mut self, part: &str) -> Result<(), &'static str> {
        let Some(variable) = part.strip_prefix('{') else {
            self.segments.push(segment(part)?);
            return Ok(());
        };
        let inner = variable.strip_suffix('}').ok_or("a brace is not closed, or is not alone in its segment")?;
        let (field, pattern) = inner.split_once('=').unwrap_or((inner, "*"));
        let is_name = |name: &str| {
            name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
                && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        };
        if !field.split('.').all(is_name) {
            return Err("what stands in its braces is not the path of a field");
        }
        if self.variables.iter().any(|known| known.field == field) {
            return Err("it names a field twice");
        }
        let first = self.segments.len();
        for part in pattern.split('/') {
            self.segments.push(segment(part)?);
        }
        let end = self.segments.len();
        self.variables.push(Variable { field: field.to_owned(), first, end, is_segment: pattern == "*" });
        Ok(())
    }

    /// The fields that it holds, in its order.
    pub(super) fn variables(&self) -> &[Variable] {
        &self.variables
    }

    /// Whether a path is of this form.
    pub(super) fn matches(&self, path: &str) -> bool {
        self.split(path).is_some()
    }

    /// The values of its variables, in its order, if the path is of this form.
    ///
    /// # Errors
    /// [`FaultKind::Invalid`](crate::domain::FaultKind::Invalid) about a field whose value is not percent-encoded UTF-8.
    pub(super) fn capture(&self, path: &str) -> Result<Option<Vec<String>>, Fault> {
        let Some(parts) = self.split(path) else { return Ok(None) };
        let value = |variable: &Variable| {
            // `**` may stand for none.
            let end = if self.segments.get(variable.end - 1) == Some(&Segment::Rest) { parts.len() } else { variable.end };
            let raw = parts.get(variable.first..end).unwrap_or_default().join("/");
            // In a value of several segments, an encoded slash is not one that separates them, so it stays encoded.
            let decoded = if variable.is_segment { decoded(&raw) } else { decoded_but_slashes(&raw) };
            decoded.ok_or_else(|| {
                let message = format!("`{}` in the path is not percent-encoded UTF-8", variable.field);
                Fault::invalid(variable.field.clone(), message)
            })
        };
        self.variables.iter().map(value).collect::<Result<_, _>>().map(Some)
    }

    /// The path's segments, if they are those of the template.
    fn split<'a>(&self, path: &'a str) -> Option<Vec<&'a str>> {
        let path = path.strip_prefix('/')?;
        let path = if self.verb.is_empty() { path } else { path.strip_suffix(self.verb.as_str())?.strip_suffix(':')? };
        let parts: Vec<&str> = path.split('/').collect();
        let fixed = self.segments.len() - usize::from(self.segments.last() == Some(&Segment::Rest));
        let is_long_enough = if fixed == self.segments.len() { parts.len() == fixed } else { parts.len() >= fixed };
        let agree = |(segment, part): (&Segment, &&str)| match segment {
            Segment::Literal(literal) => literal == part,
            Segment::One => !part.is_empty(),
            Segment::Rest => true,
        };
        (is_long_enough && self.segments.iter().zip(&parts).all(agree)).then_some(parts)
    }

    /// Whether some path is of both forms.
    pub(super) fn meets(&self, other: &Self) -> bool {
        let (mut left, mut right) = (self.segments.iter(), other.segments.iter());
        loop {
            return match (left.next(), right.next()) {
                (Some(Segment::Rest), _) | (_, Some(Segment::Rest)) | (None, None) => true,
                (None, _) | (_, None) => false,
                (Some(Segment::Literal(one)), Some(Segment::Literal(two))) if one != two => false,
                _ => continue,
            } && (self.verb == other.verb || self.verb.is_empty() || other.verb.is_empty());
        }
    }

    /// The same as other routers and OpenAPI write it: each variable by a name without dots.
    pub(super) fn plain(&self) -> String {
        let mut text = String::new();
        let mut at = 0;
        while at < self.segments.len() {
            if let Some(variable) = self.variables.iter().find(|variable| variable.first == at) {
                let _ = write!(text, "/{{{}}}", variable.name());
                at = variable.end;
                continue;
            }
            let _ = match &self.segments[at] {
                Segment::Literal(literal) => write!(text, "/{literal}"),
                Segment::One => write!(text, "/{{segment{at}}}"),
                Segment::Rest => write!(text, "/{{rest}}"),
            };
            at += 1;
        }
        if !self.verb.is_empty() {
            let _ = write!(text, ":{}", self.verb);
        }
        text
    }
}

impl Variable {
    /// The last name of the field's path.
    pub(super) fn name(&self) -> &str {
        self.field.rsplit('.').next().unwrap_or_default()
    }
}

/// The parts between slashes; those inside braces do not separate.
fn parts(path: &str) -> Vec<&str> {
    let (mut parts, mut start, mut is_inside) = (Vec::new(), 0, false);
    for (at, byte) in path.bytes().enumerate() {
        match byte {
            b'{' => is_inside = true,
            b'}' => is_inside = false,
            b'/' if !is_inside => {
                parts.push(&path[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&path[start..]);
    parts
}

fn segment(part: &str) -> Result<Segment, &'static str> {
    match part {
        "" => Err("a segment is empty"),
        "*" => Ok(Segment::One),
        "**" => Ok(Segment::Rest),
        literal if literal.contains(['*', '{', '}']) => Err("a segment mixes text with a star or a brace"),
        literal => Ok(Segment::Literal(literal.to_owned())),
    }
}

/// Text without its percent-encoding; `None` if that is not UTF-8.
pub(super) fn decoded(text: &str) -> Option<String> {
    Some(percent_decode_str(text).decode_utf8().ok()?.into_owned())
}

fn decoded_but_slashes(text: &str) -> Option<String> {
    decoded(&text.replace("%2F", "%252F").replace("%2f", "%252f"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn captured(template: &str, path: &str) -> Option<Vec<String>> {
        Template::parse(template).expect("a template").capture(path).expect("UTF-8")
    }

    #[test]
    fn a_variable_is_one_segment_unless_it_says_more() {
        let versioned = "/v1/models/{config.model}/versions/{config.version}/scan";
        assert_eq!(captured(versioned, "/v1/models/a%20b/versions/1/scan"), Some(vec!["a b".to_owned(), "1".to_owned()]));
        for other in
            ["/v1/models/a/scan", "/v1/models//versions/1/scan", "/v1/models/a/versions/1/scan/", "/v1/models/a/versions/1"]
        {
            assert_eq!(captured(versioned, other), None, "{other}");
        }
        assert_eq!(captured("/v1/{name=models/*}", "/v1/models/x"), Some(vec!["models/x".to_owned()]));
        assert_eq!(captured("/v1/{name=models/*}", "/v1/other/x"), None);
        assert_eq!(captured("/v1/{rest=**}", "/v1"), Some(vec![String::new()]));
        assert_eq!(captured("/v1/{rest=**}", "/v1/a/b"), Some(vec!["a/b".to_owned()]));
        assert_eq!(captured("/v1/*/x", "/v1/anything/x"), Some(vec![]));
        assert_eq!(captured("/v1/{name}:go", "/v1/a:go"), Some(vec!["a".to_owned()]));
        assert_eq!(captured("/v1/{name}:go", "/v1/a"), None);
    }

    #[test]
    fn an_encoded_slash_separates_nothing() {
        assert_eq!(captured("/v1/{name}", "/v1/a%2Fb"), Some(vec!["a/b".to_owned()]));
        assert_eq!(captured("/v1/{name=a/*}", "/v1/a/b%2Fc"), Some(vec!["a/b%2Fc".to_owned()]));
        assert!(Template::parse("/v1/{name}").expect("a template").capture("/v1/%ff").is_err());
    }

    #[test]
    fn what_is_no_template_is_refused() {
        for text in
            ["", "v1", "/", "/v1//x", "/v1/{a", "/v1/{a}b", "/v1/{}", "/v1/{a}/{a}", "/v1/**/x", "/v1/x*", "/v1/x:", "/{1a}"]
        {
            assert!(Template::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn paths_that_two_templates_share_are_found() {
        let meet = |one: &str, two: &str| {
            let template = |text| Template::parse(text).expect("a template");
            (template(one).meets(&template(two)), template(two).meets(&template(one)))
        };
        assert_eq!(meet("/v1/{a}", "/v1/b"), (true, true));
        assert_eq!(meet("/v1/{a}/c", "/v1/b/c"), (true, true));
        assert_eq!(meet("/v1/{a}/c", "/v1/b/d"), (false, false));
        assert_eq!(meet("/v1/{a}", "/v1/b/c"), (false, false));
        assert_eq!(meet("/v1/{a=**}", "/v1/b/c"), (true, true));
        assert_eq!(meet("/v1/{a}:x", "/v1/{a}:y"), (false, false));
    }

    #[test]
    fn other_routers_get_names_without_dots() {
        let plain = |text| Template::parse(text).expect("a template").plain();
        assert_eq!(plain("/v1/models/{open.stream.model}/upload"), "/v1/models/{model}/upload");
        assert_eq!(plain("/v1/{name=models/*}/x:go"), "/v1/{name}/x:go");
    }

    proptest! {
        #[test]
        fn no_text_breaks_it(template in ".{0,40}", path in ".{0,40}") {
            if let Ok(template) = Template::parse(&template) {
                let _ = (template.capture(&path), template.plain(), template.meets(&template));
            }
        }

        #[test]
        fn no_path_breaks_a_template(path in "(/|%|[a-z0-9]|é){0,30}") {
            for text in ["/{a}", "/a/{b=**}", "/{a=x/*}/{b}", "/{a}:b"] {
                let template = Template::parse(text).expect("a template");
                let captured = template.capture(&path);
                prop_assert!(captured.is_err() || captured.expect("read").is_some() == template.matches(&path));
            }
        }

        #[test]
        fn what_is_encoded_comes_out_as_it_was(name in "[^\\p{Cc}]{1,20}") {
            let encoded = percent_encoding::utf8_percent_encode(&name, percent_encoding::NON_ALPHANUMERIC).to_string();
            prop_assert_eq!(captured("/m/{name}/x", &format!("/m/{encoded}/x")), Some(vec![name]));
        }
    }
}
