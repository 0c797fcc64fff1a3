//! The base64 of gRPC-Web's text form, decoded as it comes: in groups of four characters, any of which may end with padding, because
//! each piece that a client writes may have been encoded by itself.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame};
use memchr::memchr;
use tonic::{Status, body::Body};

use crate::{domain::Fault, frontend::grpc_status::status_with};

const GROUP: usize = 4;

/// What a body in base64 holds.
pub(super) fn decoded(body: Body) -> Body {
    Body::new(Decoded { body, decoder: Decoder::default(), is_over: false })
}

/// The base64 of a piece, with its own padding, so that nothing of it has to wait for the next.
pub(super) fn encoded(piece: &[u8]) -> Bytes {
    STANDARD.encode(piece).into()
}

#[derive(Default)]
struct Decoder {
    /// A group that has begun.
    begun: Vec<u8>,
}

impl Decoder {
    /// What can be decoded now.
    fn take(&mut self, data: &[u8]) -> Result<Vec<u8>, Fault> {
        let mut found = Vec::with_capacity((self.begun.len() + data.len()) / GROUP * 3);
        let mut rest = data;
        if !self.begun.is_empty() {
            let missing = (GROUP - self.begun.len()).min(rest.len());
            let (some, later) = rest.split_at(missing);
            self.begun.extend_from_slice(some);
            rest = later;
            if self.begun.len() < GROUP {
                return Ok(found);
            }
            decode(&self.begun, &mut found)?;
            self.begun.clear();
        }
        let (groups, later) = rest.split_at(rest.len() / GROUP * GROUP);
        decode(groups, &mut found)?;
        self.begun.extend_from_slice(later);
        Ok(found)
    }

    fn end(&self) -> Result<(), Fault> {
        if self.begun.is_empty() {
            return Ok(());
        }
        Err(Fault::invalid("body", "the base64 of the body ends within a group of four characters"))
    }
}

/// Decodes whole groups.
fn decode(mut groups: &[u8], found: &mut Vec<u8>) -> Result<(), Fault> {
    while !groups.is_empty() {
        // Up to the next padding, which ends what was encoded in one go.
        let end = memchr(b'=', groups).map_or(groups.len(), |at| (at / GROUP + 1) * GROUP);
        let (one, later) = groups.split_at(end);
        STANDARD.decode_vec(one, found).map_err(|error| Fault::invalid("body", format!("the body is not base64: {error}")))?;
        groups = later;
    }
    Ok(())
}

struct Decoded {
    body: Body,
    decoder: Decoder,
    is_over: bool,
}

impl HttpBody for Decoded {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Self { body, decoder, is_over } = self.get_mut();
        while !*is_over {
            let decoded = match ready!(Pin::new(&mut *body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => decoder.take(&data),
                    // Trailers of a request say nothing here.
                    Err(_) => continue,
                },
                Some(Err(status)) => {
                    *is_over = true;
                    return Poll::Ready(Some(Err(status)));
                }
                None => {
                    *is_over = true;
                    decoder.end().map(|()| Vec::new())
                }
            };
            match decoded {
                Ok(data) if data.is_empty() => {}
                Ok(data) => return Poll::Ready(Some(Ok(Frame::data(data.into())))),
                Err(fault) => {
                    *is_over = true;
                    return Poll::Ready(Some(Err(status_with(fault))));
                }
            }
        }
        Poll::Ready(None)
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn all(pieces: &[&[u8]]) -> Result<Vec<u8>, Fault> {
        let mut decoder = Decoder::default();
        let mut found = Vec::new();
        for piece in pieces {
            found.extend(decoder.take(piece)?);
        }
        decoder.end().map(|()| found)
    }

    #[test]
    fn padding_may_be_in_the_middle() {
        assert_eq!(all(&[b"YQ==YmM=ZGVm"]).as_deref(), Ok(&b"abcdef"[..]));
        assert_eq!(all(&[b"YQ", b"=", b"=YmM=Z", b"GVm"]).as_deref(), Ok(&b"abcdef"[..]));
        for broken in [&b"YQ="[..], b"Y", b"=YQ=", b"Y=Q=", b"YQ==\n", b"Y-_="] {
            assert!(all(&[broken]).is_err(), "{broken:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_was_encoded_comes_out_however_it_is_cut(
            pieces in vec(vec(any::<u8>(), 0..40), 0..6),
            lengths in vec(1_usize..20, 1..5),
        ) {
            let text: Vec<u8> = pieces.iter().flat_map(|piece| encoded(piece)).collect();
            let mut cuts = Vec::new();
            let mut rest = &text[..];
            for length in lengths.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (one, later) = rest.split_at(rest.len().min(*length));
                cuts.push(one);
                rest = later;
            }
            prop_assert_eq!(all(&cuts), Ok(pieces.concat()));
        }

        #[test]
        fn no_bytes_panic(pieces in vec(vec(any::<u8>(), 0..20), 0..6)) {
            let pieces: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
            let _ = all(&pieces);
        }
    }
}
