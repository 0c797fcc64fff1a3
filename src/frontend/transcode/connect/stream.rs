//! Messages in frames, both ways, each as it comes. The last frame of the answer says how the stream ended.

use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use futures::{Stream, StreamExt as _, stream};
use http::{HeaderMap, HeaderName, HeaderValue, Response, header};
use prost_reflect::{MessageDescriptor, MethodDescriptor};
use tonic::{Status, body::Body};

use super::{
    codec::{Codec, Form, encoding},
    error::end_of_stream,
};
use crate::{
    domain::Fault,
    frontend::{
        grpc_status::{status_of, status_with},
        inflate::Encoding,
        transcode::{
            call::{Answer, Call, Piece},
            connection::Connection,
            frames::{CHUNK_BYTES_MAX, COMPRESSED, Charged, FrameReader, PREFIX_BYTES},
            outgoing,
        },
    },
};

/// The flag of the last frame of an answer.
const END: u8 = 2;

const CONTENT_ENCODING: HeaderName = HeaderName::from_static("connect-content-encoding");

/// The answer to a stream: always 200, whatever becomes of the call.
pub(super) async fn answer(
    connection: Arc<Connection>,
    method: &MethodDescriptor,
    codec: Codec,
    call: Result<Call, Fault>,
    (headers, body): (&HeaderMap, Body),
) -> Response<Body> {
    let name = headers.get(CONTENT_ENCODING).map_or(&b""[..], HeaderValue::as_bytes);
    let called = call.and_then(|call| Ok((call, encoding(name)?)));
    let (metadata, pieces) = match called {
        Ok((call, encoding)) => {
            let reading = Reading {
                frames: FrameReader::new(body, connection.account.clone(), connection.frame_limits()),
                connection: Arc::clone(&connection),
                message: method.input(),
                codec,
                encoding,
            };
            let mut answer = call.send(&connection, reading.messages()).await;
            let metadata = std::mem::take(&mut answer.metadata);
            (metadata, pieces(connection, method.output(), codec, answer).boxed())
        }
        Err(fault) => (HeaderMap::new(), stream::iter([ending(&connection, &status_of(&fault))]).boxed()),
    };
    let mut response = Response::new(outgoing::streamed(pieces));
    *response.headers_mut() = metadata;
    response.headers_mut().insert(header::CONTENT_TYPE, Form::Stream(codec).content_type());
    response
}

/// The messages of a client.
struct Reading {
    connection: Arc<Connection>,
    frames: FrameReader<Body>,
    message: MessageDescriptor,
    codec: Codec,
    encoding: Option<Encoding>,
}

impl Reading {
    /// Each of them in protobuf. After an error nothing follows.
    fn messages(self) -> impl Stream<Item = Result<Charged, Status>> + Send {
        stream::unfold(Some(self), |reading| async move {
            let mut reading = reading?;
            match reading.next().await {
                Ok(message) => Some((Ok(message?), Some(reading))),
                Err(status) => Some((Err(status), None)),
            }
        })
    }

    async fn next(&mut self) -> Result<Option<Charged>, Status> {
        let Some(frame) = self.frames.next().await? else { return Ok(None) };
        let flags = frame.flags;
        let message = frame.message(&self.connection.shared.bounds.side).await.map_err(status_with)?;
        self.decoded(flags, message).await.map(Some).map_err(status_with)
    }

    async fn decoded(&mut self, flags: u8, message: Charged) -> Result<Charged, Fault> {
        let message = match (flags, self.encoding) {
            (0, _) => message,
            (COMPRESSED, Some(encoding)) => self.connection.inflated(encoding, message).await?,
            (COMPRESSED, None) => {
                let says = "a message is compressed, and connect-content-encoding does not say how";
                return Err(Fault::invalid("message", says));
            }
            _ => return Err(Fault::invalid("message", format!("a message has the flags {flags}, which a client does not send"))),
        };
        self.codec.read(&self.connection, self.message.clone(), message).await
    }
}

/// The frames of the answer.
fn pieces(
    connection: Arc<Connection>,
    message: MessageDescriptor,
    codec: Codec,
    answer: Answer,
) -> impl Stream<Item = Charged> + Send {
    let pieces = stream::unfold(Some(answer), move |answer| {
        let (connection, message) = (Arc::clone(&connection), message.clone());
        async move {
            let mut answer = answer?;
            let status = match answer.next().await {
                Piece::Message(found) => match codec.write(&connection, message, found).await {
                    Ok(written) => return Some((framed(&connection, written), Some(answer))),
                    Err(fault) => status_of(&fault),
                },
                Piece::End(status) => status,
            };
            Some(([Some(ending(&connection, &status)), None], None))
        }
    });
    pieces.flat_map(|pieces| stream::iter(pieces.into_iter().flatten()))
}

/// A message with its prefix: short ones in one piece, long ones uncopied.
fn framed(connection: &Connection, message: Charged) -> [Option<Charged>; 2] {
    let Charged { bytes, charge } = message;
    if bytes.len() > CHUNK_BYTES_MAX {
        let prefix = Charged { bytes: prefixed(0, bytes.len(), &[]), charge: connection.account.charge() };
        return [Some(prefix), Some(Charged { bytes, charge })];
    }
    [Some(Charged { bytes: prefixed(0, bytes.len(), &bytes), charge }), None]
}

/// The last frame.
fn ending(connection: &Connection, status: &Status) -> Charged {
    let end = end_of_stream(connection.schema(), status);
    Charged { bytes: prefixed(END, end.len(), &end), charge: connection.account.charge() }
}

fn prefixed(flags: u8, length: usize, bytes: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(PREFIX_BYTES + bytes.len());
    frame.put_u8(flags);
    frame.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    frame.put_slice(bytes);
    frame.freeze()
}
