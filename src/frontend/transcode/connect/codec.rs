//! How the messages of a Connect request are written, and which kind of call it is.

use http::{HeaderMap, HeaderValue, header};
use prost_reflect::MessageDescriptor;

use crate::{
    domain::Fault,
    frontend::{
        inflate::Encoding,
        transcode::{connection::Connection, frames::Charged},
    },
};

/// How a message is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Codec {
    Json,
    Proto,
}

impl Codec {
    /// By the name that it has in content types and queries.
    pub(super) fn of(name: &[u8]) -> Option<Self> {
        match name {
            b"json" => Some(Self::Json),
            b"proto" => Some(Self::Proto),
            _ => None,
        }
    }

    /// A message from the client, in protobuf.
    ///
    /// # Errors
    /// If it is not of its type, or there is no room for it.
    pub(super) async fn read(self, connection: &Connection, of: MessageDescriptor, message: Charged) -> Result<Charged, Fault> {
        match self {
            Self::Json => connection.to_protobuf(of, message).await,
            Self::Proto => Ok(message),
        }
    }

    /// A message to the client, from protobuf.
    ///
    /// # Errors
    /// If there is no room for it.
    pub(super) async fn write(self, connection: &Connection, of: MessageDescriptor, message: Charged) -> Result<Charged, Fault> {
        match self {
            Self::Json => connection.to_json(of, message).await,
            Self::Proto => Ok(message),
        }
    }
}

/// What the content type says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// One message, without a frame.
    Unary(Codec),
    /// Messages in frames.
    Stream(Codec),
}

impl Form {
    /// The form of a request; `None` if it is none of Connect's.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        Self::of_type(headers.get(header::CONTENT_TYPE)?.as_bytes())
    }

    fn of_type(content_type: &[u8]) -> Option<Self> {
        let media_type = content_type.split(|byte| *byte == b';').next()?.trim_ascii().to_ascii_lowercase();
        let subtype = media_type.strip_prefix(b"application/")?;
        match subtype.strip_prefix(b"connect+") {
            Some(codec) => Codec::of(codec).map(Self::Stream),
            None => Codec::of(subtype).map(Self::Unary),
        }
    }

    pub(super) const fn content_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Unary(Codec::Json) => "application/json",
            Self::Unary(Codec::Proto) => "application/proto",
            Self::Stream(Codec::Json) => "application/connect+json",
            Self::Stream(Codec::Proto) => "application/connect+proto",
        })
    }
}

/// How something is compressed; `None` if it is not.
///
/// # Errors
/// [`FaultKind::Unsupported`](crate::domain::FaultKind::Unsupported), with what is supported.
pub(super) fn encoding(name: &[u8]) -> Result<Option<Encoding>, Fault> {
    match name.to_ascii_lowercase().as_slice() {
        b"" | b"identity" => Ok(None),
        b"gzip" => Ok(Some(Encoding::Gzip)),
        b"deflate" => Ok(Some(Encoding::Deflate)),
        b"zstd" => Ok(Some(Encoding::Zstd)),
        other => {
            let shown = other[..other.len().min(40)].escape_ascii();
            let message = format!("the request is compressed as \"{shown}\"; send gzip, zstd, deflate or identity");
            Err(Fault::new(crate::domain::FaultKind::Unsupported, message))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn types_say_which_kind_of_call_it_is() {
        for (text, form) in [
            ("application/json", Some(Form::Unary(Codec::Json))),
            ("Application/JSON; charset=utf-8", Some(Form::Unary(Codec::Json))),
            ("application/proto", Some(Form::Unary(Codec::Proto))),
            ("application/connect+json", Some(Form::Stream(Codec::Json))),
            ("application/connect+proto ;a=b", Some(Form::Stream(Codec::Proto))),
            ("application/grpc", None),
            ("application/connect+xml", None),
            ("application/x-protobuf", None),
            ("text/json", None),
            ("", None),
        ] {
            assert_eq!(Form::of_type(text.as_bytes()), form, "{text}");
            if let Some(form) = form {
                assert_eq!(Form::of_type(form.content_type().as_bytes()), Some(form));
            }
        }
    }

    #[test]
    fn an_encoding_that_is_not_known_is_refused_with_those_that_are() {
        assert_eq!(encoding(b"GZIP"), Ok(Some(Encoding::Gzip)));
        assert_eq!((encoding(b"identity"), encoding(b"")), (Ok(None), Ok(None)));
        let fault = encoding(b"br").expect_err("not known");
        assert!(fault.message().contains("\"br\"; send gzip"), "{fault}");
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = (Form::of_type(&bytes), encoding(&bytes));
        }
    }
}
