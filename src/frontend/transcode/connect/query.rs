//! A call as the query of a GET: `?connect=v1&encoding=json&message=…`, with `base64=1` and `compression=gzip` if need be.

use std::borrow::Cow;

use base64::{
    Engine as _,
    alphabet::URL_SAFE,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use bytes::Bytes;
use http::Uri;
use percent_encoding::percent_decode;

use super::codec::{Codec, encoding};
use crate::{domain::Fault, frontend::inflate::Encoding};

/// With or without padding.
const BASE64: GeneralPurpose =
    GeneralPurpose::new(&URL_SAFE, GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent));

/// What a query asks.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) codec: Codec,
    pub(super) message: Bytes,
    pub(super) compressed: Option<Encoding>,
}

/// What the query asks. Parameters that are not Connect's are left alone; of two of the same name the first counts.
///
/// # Errors
/// [`FaultKind::Invalid`](crate::domain::FaultKind::Invalid) with the parameter that is missing or wrong.
pub(super) fn read(uri: &Uri) -> Result<Asked, Fault> {
    let query = uri.query().unwrap_or_default();
    if let Some(version) = parameter(query, b"connect")
        && *version != *b"v1"
    {
        return Err(Fault::invalid(
            "connect",
            "the query's `connect` is not v1, the only version of the protocol that is spoken here",
        ));
    }
    let missing = |name: &'static str| move || Fault::invalid(name, format!("the query has no `{name}`"));
    let codec = parameter(query, b"encoding").ok_or_else(missing("encoding"))?;
    let codec =
        Codec::of(&codec).ok_or_else(|| Fault::invalid("encoding", "the query's `encoding` is neither json nor proto"))?;
    let message = parameter(query, b"message").ok_or_else(missing("message"))?;
    let message = match parameter(query, b"base64").as_deref() {
        None | Some(b"0") => message.into_owned(),
        Some(b"1") => BASE64
            .decode(&*message)
            .map_err(|error| Fault::invalid("message", format!("the query's `message` is not base64: {error}")))?,
        Some(_) => return Err(Fault::invalid("base64", "the query's `base64` is neither 1 nor 0")),
    };
    let compressed = parameter(query, b"compression").map_or(Ok(None), |name| encoding(&name))?;
    Ok(Asked { codec, message: message.into(), compressed })
}

/// The value of the first parameter with this name.
fn parameter<'a>(query: &'a str, name: &[u8]) -> Option<Cow<'a, [u8]>> {
    let pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.map(|(found, value)| (decoded(found), value)).find(|(found, _)| **found == *name).map(|(_, value)| decoded(value))
}

/// As forms encode it: a plus is a space.
fn decoded(text: &str) -> Cow<'_, [u8]> {
    if text.contains('+') {
        let spaced = text.replace('+', " ");
        return Cow::Owned(percent_decode(spaced.as_bytes()).collect());
    }
    percent_decode(text.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn asked(query: &str) -> Result<Asked, Fault> {
        read(&format!("/a.B/C?{query}").parse().expect("a URI"))
    }

    #[test]
    fn a_message_comes_as_text_or_in_base64() {
        let json =
            |text: &str| Ok(Asked { codec: Codec::Json, message: Bytes::copy_from_slice(text.as_bytes()), compressed: None });
        assert_eq!(asked("encoding=json&message=%7B%22a%22%3A+%221%2B1%22%7D"), json(r#"{"a": "1+1"}"#));
        assert_eq!(asked("connect=v1&encoding=json&message=%7B%7D&base64=0&x=y&message=no"), json("{}"));
        for message in ["-_8", "-_8=", "-_8%3D"] {
            let found = asked(&format!("message={message}&base64=1&encoding=proto&compression=gzip")).expect("sound");
            assert_eq!(
                found,
                Asked { codec: Codec::Proto, message: Bytes::from_static(&[251, 255]), compressed: Some(Encoding::Gzip) }
            );
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (query, field) in [
            ("", "encoding"),
            ("encoding=json", "message"),
            ("encoding=xml&message=", "encoding"),
            ("connect=v2&encoding=json&message=%7B%7D", "connect"),
            ("encoding=proto&message=%20&base64=1", "message"),
            ("encoding=proto&message=&base64=yes", "base64"),
        ] {
            assert_eq!(asked(query).expect_err("it must be refused").field(), Some(field), "{query}");
        }
        assert!(asked("encoding=proto&message=&compression=br").is_err());
    }

    proptest! {
        #[test]
        fn no_query_panics(query in "[ -~&&[^#<>\" ]]{0,80}") {
            if let Ok(uri) = format!("/a.B/C?{query}").parse() {
                let _ = read(&uri);
            }
        }
    }
}
