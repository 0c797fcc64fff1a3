//! A stream of messages as lines of JSON or as server-sent events, each as soon as it comes.

use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use http::{HeaderValue, Response, header};
use prost_reflect::MessageDescriptor;
use tonic::{Code, body::Body};

use super::{
    super::{
        call::{Answer, Piece},
        connection::Connection,
        frames::Charged,
        outgoing,
    },
    accept::Form,
    refusal::status_json,
};
use crate::frontend::grpc_status::status_of;

/// What is copied to be one piece; longer messages are pieces of their own.
const COPIED_BYTES_MAX: usize = 16 << 10;

/// What is left of an answer.
struct Rest {
    connection: Arc<Connection>,
    message: MessageDescriptor,
    form: Form,
    /// A message that has already come.
    first: Option<Charged>,
    answer: Answer,
    has_ended: bool,
}

/// The answer that begins with `first`.
pub(super) fn response(
    connection: Arc<Connection>,
    message: MessageDescriptor,
    form: Form,
    first: Option<Charged>,
    answer: Answer,
) -> Response<Body> {
    let has_ended = first.is_none();
    let rest = Rest { connection, message, form, first, answer, has_ended };
    let pieces = stream::unfold(rest, |mut rest| async {
        let pieces = rest.next().await?;
        Some((stream::iter(pieces), rest))
    });
    let mut response = Response::new(outgoing::streamed(pieces.flatten()));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(form.media_type()));
    // A proxy that collects answers would hold messages back.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

impl Rest {
    /// The next message, in pieces of the body; `None` at its end.
    async fn next(&mut self) -> Option<Vec<Charged>> {
        if self.has_ended {
            return None;
        }
        let next = match self.first.take() {
            Some(message) => Piece::Message(message),
            None => self.answer.next().await,
        };
        let converted = match next {
            Piece::End(status) if status.code() == Code::Ok => return None,
            Piece::End(status) => Err(status),
            Piece::Message(message) => {
                let connection = Arc::clone(&self.connection);
                connection.to_json(self.message.clone(), message).await.map_err(|fault| status_of(&fault))
            }
        };
        let uncharged = |bytes| Charged { bytes, charge: self.connection.account.charge() };
        let (json, is_error) = match converted {
            Ok(json) => (json, false),
            Err(status) => (uncharged(status_json(self.connection.schema(), &status).into()), true),
        };
        self.has_ended = is_error;
        let Charged { bytes, charge } = json;
        let mut pieces: Vec<_> = pieces(self.form, bytes, is_error).into_iter().map(uncharged).collect();
        // That of the message goes with the longest, which is all of it or the one in the middle.
        if let Some(longest) = pieces.iter_mut().max_by_key(|piece| piece.bytes.len()) {
            longest.charge = charge;
        }
        Some(pieces)
    }
}

/// One message, or the error that is the last one. JSON as it is written here has no line breaks.
fn pieces(form: Form, json: Bytes, is_error: bool) -> Vec<Bytes> {
    let (before, after): (&'static [u8], &'static [u8]) = match (form, is_error) {
        (Form::Lines, false) => (b"", b"\n"),
        (Form::Lines, true) => (b"{\"error\":", b"}\n"),
        (Form::Events, false) => (b"data: ", b"\n\n"),
        (Form::Events, true) => (b"event: error\ndata: ", b"\n\n"),
    };
    if json.len() <= COPIED_BYTES_MAX {
        return vec![[before, &json, after].concat().into()];
    }
    let pieces = [Bytes::from_static(before), json, Bytes::from_static(after)];
    pieces.into_iter().filter(|piece| !piece.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_told_from_a_message_and_a_long_one_is_not_copied() {
        let text = |form, is_error| String::from_utf8(pieces(form, "{}".into(), is_error).concat()).expect("text");
        assert_eq!(text(Form::Lines, false), "{}\n");
        assert_eq!(text(Form::Lines, true), "{\"error\":{}}\n");
        assert_eq!(text(Form::Events, false), "data: {}\n\n");
        assert_eq!(text(Form::Events, true), "event: error\ndata: {}\n\n");
        let long = Bytes::from(vec![b'x'; COPIED_BYTES_MAX + 1]);
        let sent = pieces(Form::Lines, long.clone(), false);
        assert_eq!((sent.len(), sent[0].as_ptr()), (2, long.as_ptr()));
    }
}
