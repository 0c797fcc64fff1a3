//! The key that a client shows, and the transport that shows it with every call.

use std::{
    fmt,
    str::FromStr,
    task::{Context, Poll},
};

use http::{HeaderValue, Request, Response, header::AUTHORIZATION};
use tonic::{
    body::Body,
    transport::{self, Channel},
};
use tower::Service;

/// A key, sent as `authorization: Bearer KEY`. Nothing shows it, `Debug` included.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential(HeaderValue);

/// Why a text is no [`Credential`]. Does not show the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a key must be one word of visible ASCII characters")]
pub struct InvalidCredential;

impl Credential {
    /// What the header `authorization` says.
    #[must_use]
    pub const fn header(&self) -> &HeaderValue {
        &self.0
    }
}

impl FromStr for Credential {
    type Err = InvalidCredential;

    /// Reads a key; white space around it does not belong to it.
    fn from_str(text: &str) -> Result<Self, InvalidCredential> {
        let key = text.trim();
        if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(InvalidCredential);
        }
        let mut value = HeaderValue::try_from(format!("Bearer {key}")).map_err(|_| InvalidCredential)?;
        value.set_sensitive(true);
        Ok(Self(value))
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credential(hidden)")
    }
}

/// A connection that shows a key with every call, if there is one. A call that brings its own `authorization` keeps it.
#[derive(Debug, Clone)]
pub struct Transport {
    channel: Channel,
    credential: Option<Credential>,
}

impl Transport {
    pub(crate) const fn new(channel: Channel, credential: Option<Credential>) -> Self {
        Self { channel, credential }
    }

    /// The connection alone, whose calls show no key.
    #[must_use]
    pub const fn without_credential(&self) -> &Channel {
        &self.channel
    }
}

impl Service<Request<Body>> for Transport {
    type Response = Response<Body>;
    type Error = transport::Error;
    type Future = <Channel as Service<Request<Body>>>::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), transport::Error>> {
        Service::<Request<Body>>::poll_ready(&mut self.channel, cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        if let Some(Credential(value)) = &self.credential {
            request.headers_mut().entry(AUTHORIZATION).or_insert_with(|| value.clone());
        }
        self.channel.call(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_one_word_and_is_not_shown() {
        let credential: Credential = " tm_secret\n".parse().expect("a key");
        assert_eq!(credential.header(), "Bearer tm_secret");
        assert!(!format!("{credential:?} {:?}", credential.header()).contains("secret"));
        for bad in ["", " ", "two words", "two\nlines", "caf\u{e9}", "\u{7f}"] {
            assert_eq!(bad.parse::<Credential>(), Err(InvalidCredential), "{bad:?}");
        }
    }
}
