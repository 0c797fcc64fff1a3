//! One call of a gRPC service in this process: messages go in, messages and the call's status come out, one by one.
//!
//! # CANCELLATION
//! The call runs in whatever polls it; dropping the answer cancels it, as a client that resets its stream does.

use std::{convert::Infallible, time::Duration};

use futures::{Stream, StreamExt as _, stream};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri, Version, header};
use http_body_util::StreamBody;
use hyper::body::Frame as HttpFrame;
use tonic::{Code, Status, body::Body};
use tower::Service as _;

use super::{
    connection::Connection,
    frames::{Charged, FrameLimits, FrameReader, framed},
};
use crate::{frontend::grpc_status::status_with, side::SideThreads};

const GRPC_TYPE: HeaderValue = HeaderValue::from_static("application/grpc");
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
const GRPC_ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");
const TRAILERS: HeaderValue = HeaderValue::from_static("trailers");

/// Headers that concern the connection or the other wire, and so not the call. Those that begin with one of [`OF_WIRES`] do not either.
const OF_HTTP: [HeaderName; 11] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::EXPECT,
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("x-grpc-web"),
];
const OF_WIRES: [&str; 5] = ["content-", "accept", "connect-", "grpc-", "access-control-"];

/// What comes out of a call.
pub(super) enum Piece {
    /// A message in protobuf.
    Message(Charged),
    /// How the call ended: `Ok` too is a status. Its metadata are the call's trailers.
    End(Status),
}

/// A call that is about to be made.
pub(super) struct Call {
    request: Request<()>,
}

impl Call {
    /// A call of the method at `path`, with those of a request's headers that concern it: credentials, metadata, and where it comes from.
    pub(super) fn new(path: &str, headers: &HeaderMap) -> Self {
        let mut request = Request::new(());
        *request.method_mut() = Method::POST;
        // As gRPC's own calls are; the checks of hosts and pages go by the headers that are passed on.
        *request.version_mut() = Version::HTTP_2;
        *request.uri_mut() = Uri::try_from(path).unwrap_or_default();
        let passed = request.headers_mut();
        for (name, value) in headers.iter().filter(|(name, _)| is_of_call(name)) {
            passed.append(name.clone(), value.clone());
        }
        passed.insert(header::CONTENT_TYPE, GRPC_TYPE);
        passed.insert(header::TE, TRAILERS);
        Self { request }
    }

    /// The same with a header that the wire has in a form of its own.
    pub(super) fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.request.headers_mut().insert(name, value);
        self
    }

    /// The same, which may take this long.
    pub(super) fn with_timeout(self, timeout: Duration) -> Self {
        match HeaderValue::try_from(timeout_text(timeout)) {
            Ok(value) => self.with_header(GRPC_TIMEOUT, value),
            Err(_) => self,
        }
    }

    /// Makes the call with these messages in protobuf. An error among them breaks the call off with that status.
    pub(super) async fn send<S>(self, connection: &Connection, messages: S) -> Answer
    where
        S: Stream<Item = Result<Charged, Status>> + Send + 'static,
    {
        let frames = messages.flat_map(|message| match message {
            // The charge goes with the last piece.
            Ok(Charged { bytes, charge }) => stream::iter(framed(0, bytes).map(Ok).collect::<Vec<_>>())
                .inspect(move |_| {
                    let _held = &charge;
                })
                .left_stream(),
            Err(status) => stream::iter([Err(status)]).right_stream(),
        });
        let body = Body::new(StreamBody::new(frames.map(|piece| piece.map(HttpFrame::data))));
        let response = self.send_framed(connection, body).await;
        Answer::new(response, connection)
    }

    /// Makes the call with a body that is framed as gRPC's already, and returns the answer as gRPC has it.
    pub(super) async fn send_framed(self, connection: &Connection, body: Body) -> Response<Body> {
        let mut grpc = connection.grpc();
        let ready = std::future::poll_fn(|cx| grpc.poll_ready(cx)).await;
        let answered = match ready {
            Ok(()) => grpc.call(self.request.map(|()| body)).await,
            Err(never) => Err(never),
        };
        answered.unwrap_or_else(|never: Infallible| match never {})
    }
}

/// Whether a header of a request concerns the call.
fn is_of_call(name: &HeaderName) -> bool {
    !OF_HTTP.contains(name) && !OF_WIRES.iter().any(|start| name.as_str().starts_with(start))
}

/// gRPC's form: at most eight digits and a unit. Rounded up, so that a call is not cut short.
fn timeout_text(timeout: Duration) -> String {
    const DIGITS_MAX: u128 = 99_999_999;
    for (count, unit) in
        [(timeout.as_nanos(), 'n'), (timeout.as_nanos().div_ceil(1_000), 'u'), (timeout.as_nanos().div_ceil(1_000_000), 'm')]
    {
        if count <= DIGITS_MAX {
            return format!("{count}{unit}");
        }
    }
    let seconds = timeout.as_nanos().div_ceil(1_000_000_000);
    format!("{}S", seconds.min(DIGITS_MAX))
}

/// What a call answers, as it comes.
pub(super) struct Answer {
    /// What came before the first message.
    pub(super) metadata: HeaderMap,
    state: State,
    side: SideThreads,
}

enum State {
    /// Messages may come.
    Reading(Box<FrameReader<Body>>),
    /// Only the status is left.
    Ending(Status),
}

impl Answer {
    fn new(response: Response<Body>, connection: &Connection) -> Self {
        let (head, body) = response.into_parts();
        let side = connection.shared.bounds.side.clone();
        let mut metadata = head.headers;
        clean(&mut metadata);
        let state = match Status::from_header_map(&metadata) {
            Some(status) => State::Ending(status),
            None if !head.status.is_success() => {
                State::Ending(Status::new(Code::Internal, format!("the service answered {}", head.status)))
            }
            None => State::Reading(Box::new(FrameReader::new(body, connection.account.clone(), FrameLimits::OWN))),
        };
        if matches!(state, State::Ending(_)) {
            metadata = HeaderMap::new();
        }
        Self { metadata, state, side }
    }

    /// What comes next: messages, and then the end, which is repeated if asked for again. Dropping the future loses no message that
    /// was short.
    pub(super) async fn next(&mut self) -> Piece {
        let reader = match &mut self.state {
            State::Ending(status) => return Piece::End(status.clone()),
            State::Reading(reader) => reader,
        };
        let found = match reader.next().await {
            Ok(Some(frame)) if frame.flags == 0 => frame.message(&self.side).await.map_err(status_with),
            Ok(Some(frame)) => {
                Err(Status::new(Code::Internal, format!("the service answered a frame with the flags {}", frame.flags)))
            }
            Ok(None) => {
                let ended = reader.trailers().as_ref().and_then(Status::from_header_map);
                Err(ended.unwrap_or_else(|| Status::new(Code::Unknown, "the answer ended without a status")))
            }
            Err(status) => Err(status),
        };
        match found {
            Ok(message) => Piece::Message(message),
            Err(status) => {
                self.state = State::Ending(status.clone());
                Piece::End(status)
            }
        }
    }

    /// The one message of a unary call, and its trailers.
    ///
    /// # Errors
    /// The status that it ended with.
    pub(super) async fn only(&mut self) -> Result<(Charged, Status), Status> {
        let message = match self.next().await {
            Piece::Message(message) => message,
            Piece::End(status) if status.code() == Code::Ok => {
                return Err(Status::new(Code::Internal, "the call ended without a message"));
            }
            Piece::End(status) => return Err(status),
        };
        match self.next().await {
            Piece::End(status) if status.code() == Code::Ok => Ok((message, status)),
            Piece::End(status) => Err(status),
            Piece::Message(_) => Err(Status::new(Code::Internal, "the call answered more than one message")),
        }
    }
}

/// Leaves what a service has said, without what gRPC or HTTP says.
pub(super) fn clean(metadata: &mut HeaderMap) {
    for name in [header::CONTENT_TYPE, header::DATE, GRPC_ENCODING, GRPC_ACCEPT_ENCODING] {
        metadata.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_what_concerns_the_call_is_passed_on() {
        let fields = [
            ("host", true),
            ("origin", true),
            ("authorization", true),
            ("x-api-key", true),
            ("x-forwarded-for", true),
            ("x-model", true),
            ("connection", false),
            ("content-length", false),
            ("content-type", false),
            ("accept-encoding", false),
            ("connect-timeout-ms", false),
            ("grpc-timeout", false),
            ("x-grpc-web", false),
            ("te", false),
        ];
        let headers = fields.iter().map(|(name, _)| (HeaderName::from_static(name), HeaderValue::from_static("1")));
        let call = Call::new("/a.B/C", &headers.collect());
        for (name, is_passed) in fields {
            assert_eq!(call.request.headers().get(name).is_some_and(|value| value == "1"), is_passed, "{name}");
        }
        assert_eq!((call.request.uri().path(), call.request.method()), ("/a.B/C", &Method::POST));
        assert_eq!((&call.request.headers()["content-type"], &call.request.headers()["te"]), (&GRPC_TYPE, &TRAILERS));
    }

    #[test]
    fn a_timeout_is_written_in_eight_digits() {
        for (timeout, text) in [
            (Duration::ZERO, "0n"),
            (Duration::from_millis(1), "1000000n"),
            (Duration::from_secs(1), "1000000u"),
            (Duration::from_millis(100_001), "100001m"),
            (Duration::from_millis(9_999_999_999), "10000000S"),
            (Duration::MAX, "99999999S"),
        ] {
            assert_eq!(timeout_text(timeout), text);
        }
    }

    proptest! {
        #[test]
        fn a_timeout_of_up_to_three_years_is_never_cut_short(nanos in 0_u64..99_999_999_000_000_000) {
            let text = timeout_text(Duration::from_nanos(nanos));
            let (digits, unit) = text.split_at(text.len() - 1);
            let nanos_of = match unit { "n" => 1, "u" => 1_000, "m" => 1_000_000, _ => 1_000_000_000_u128 };
            prop_assert!(digits.len() <= 8 && digits.parse::<u128>().expect("a number") * nanos_of >= u128::from(nanos));
        }
    }
}
