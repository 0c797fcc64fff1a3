//! Lets a request reach a service if it is a gRPC call, has headers within the limit, was not sent by a foreign web page, and
//! comes from a caller who may call.
//!
//! Knows headers, but neither methods nor messages. hyper limits headers too, for a whole connection: it answers what is over its
//! limit without giving a reason, and what is far over it ends the connection with all its calls. So its limit is far above ours.

use std::{
    future::{Ready, ready},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures::future::Either;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Frame;
use pin_project_lite::pin_project;
use tonic::{Code, Status, body::Body};
use tower::{Layer, Service};

use super::status::status_of;
use crate::{
    domain::{Fault, FaultKind},
    frontend::{
        acting::{Acting, ActingBody, Gate},
        heads::{FIELD_BYTES, header_bytes},
        web::WebCheck,
    },
    service::Holder,
};

/// The fewest bytes of headers that the transport is set to take. Four times what it takes end the connection.
const TRANSPORT_HEADER_BYTES_MIN: u32 = 256 << 10;

const GRPC_TYPE: &[u8] = b"application/grpc";

/// Whether this is a gRPC call, if perhaps in a form that is not spoken here.
pub(super) fn is_call<B>(request: &Request<B>) -> bool {
    request.headers().get(header::CONTENT_TYPE).is_some_and(|value| begins_grpc(value.as_bytes()).is_some())
}

/// The gate of the port.
pub(super) fn gate(service: &crate::service::Service) -> Option<Gate> {
    Gate::of(service, is_open)
}

/// The transport's own limit on headers, given ours.
pub(super) const fn transport_header_bytes(header_bytes_max: u32) -> u32 {
    let twice = header_bytes_max.saturating_mul(2);
    if twice < TRANSPORT_HEADER_BYTES_MIN { TRANSPORT_HEADER_BYTES_MIN } else { twice }
}

/// Wraps the services; see the module's text.
#[derive(Clone)]
pub(super) struct Entrance {
    pub(super) header_bytes_max: u32,
    pub(super) web: WebCheck,
    /// Absent if no caller is known.
    pub(super) gate: Option<Gate>,
}

impl Entrance {
    /// The answer to a request that may not come in.
    fn refusal<B>(&self, request: &Request<B>) -> Option<Response<Body>> {
        if request.method() != Method::POST {
            let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "gRPC calls are made with POST\n");
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
            return Some(response);
        }
        let content_type = request.headers().get(header::CONTENT_TYPE);
        if !content_type.is_some_and(|value| is_grpc(value.as_bytes())) {
            return Some(plain(StatusCode::UNSUPPORTED_MEDIA_TYPE, "this port speaks gRPC with protobuf: application/grpc\n"));
        }
        let allowed = self.check_size(request).and_then(|()| self.web.check(request));
        allowed.err().map(|fault| status_of(&fault).into_http())
    }

    /// The caller, if there is one to find.
    fn caller<B>(&self, request: &Request<B>) -> Result<Option<Arc<Holder>>, Fault> {
        match &self.gate {
            Some(gate) => gate.find(request.uri().path(), request.headers()),
            None => Ok(None),
        }
    }

    fn check_size<B>(&self, request: &Request<B>) -> Result<(), Fault> {
        let (bytes, bytes_max) = (header_bytes(request), self.header_bytes_max);
        if bytes <= bytes_max as usize {
            return Ok(());
        }
        let message = format!(
            "the headers of the call, its metadata among them, take up {bytes} bytes with {FIELD_BYTES} for each; \
             grpc.max_header_bytes allows {bytes_max}"
        );
        Err(Fault::new(FaultKind::TooLarge, message).with_limit("grpc.max_header_bytes", bytes_max.into()))
    }
}

/// The subtype of gRPC that a body of this type has, if it is gRPC's: empty, or beginning with a plus sign.
fn begins_grpc(content_type: &[u8]) -> Option<&[u8]> {
    let (start, rest) = content_type.split_at_checked(GRPC_TYPE.len())?;
    let subtype = rest.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    (start.eq_ignore_ascii_case(GRPC_TYPE) && (subtype.is_empty() || subtype.starts_with(b"+"))).then_some(subtype)
}

/// Whether a body of this type is gRPC's, with messages in protobuf.
fn is_grpc(content_type: &[u8]) -> bool {
    begins_grpc(content_type).is_some_and(|subtype| subtype.is_empty() || subtype.eq_ignore_ascii_case(b"+proto"))
}

fn plain(status: StatusCode, text: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::new(Full::new(Bytes::from_static(text.as_bytes()))));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

impl<S> Layer<S> for Entrance {
    type Service = Entered<S>;

    fn layer(&self, inner: S) -> Entered<S> {
        Entered { inner, entrance: self.clone() }
    }
}

/// A service behind an [`Entrance`].
#[derive(Clone)]
pub(super) struct Entered<S> {
    inner: S,
    entrance: Entrance,
}

impl<S, B> Service<Request<B>> for Entered<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Either<Ready<Result<Response<Body>, S::Error>>, Either<S::Future, Known<S::Future>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        if let Some(response) = self.entrance.refusal(&request) {
            return Either::Left(ready(Ok(response)));
        }
        match self.entrance.caller(&request) {
            Ok(None) => Either::Right(Either::Left(self.inner.call(request))),
            Ok(Some(holder)) => Either::Right(Either::Right(Known::new(holder, self.inner.call(request)))),
            Err(fault) => Either::Left(ready(Ok(status_of(&fault).into_http()))),
        }
    }
}

/// Services that tell whether the server is up, or what its API is: they need no credential.
fn is_open(path: &str) -> bool {
    const SERVICES: [&str; 3] =
        ["/grpc.health.v1.Health/", "/grpc.reflection.v1.ServerReflection/", "/grpc.reflection.v1alpha.ServerReflection/"];
    const METHODS: [&str; 2] = ["/inference.GRPCInferenceService/ServerLive", "/inference.GRPCInferenceService/ServerReady"];
    SERVICES.iter().any(|service| path.starts_with(service)) || METHODS.contains(&path)
}

pin_project! {
    /// A call of a known caller.
    pub(super) struct Known<F> {
        #[pin]
        call: Acting<F>,
        holder: Arc<Holder>,
    }
}

impl<F> Known<F> {
    fn new(holder: Arc<Holder>, call: F) -> Self {
        Self { call: Acting::new(Arc::clone(&holder), call), holder }
    }
}

impl<F: Future<Output = Result<Response<Body>, E>>, E> Future for Known<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let answered = std::task::ready!(this.call.poll(cx));
        Poll::Ready(match answered {
            Ok(response) => response.map(|response| {
                response.map(|body| Body::new(ActingBody::new(Arc::clone(this.holder), body, |fault| Ok(trailers(&fault)))))
            }),
            Err(fault) => Ok(status_of(&fault).into_http()),
        })
    }
}

/// How a stream ends with a fault.
fn trailers(fault: &Fault) -> Frame<Bytes> {
    let mut trailers = HeaderMap::new();
    if status_of(fault).add_header(&mut trailers).is_err() {
        // Not for a status of ours; the code alone always fits.
        trailers.insert(Status::GRPC_STATUS, HeaderValue::from(i32::from(Code::Unauthenticated)));
    }
    Frame::trailers(trailers)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_probes_and_reflection_are_for_everybody() {
        for open in ["/grpc.health.v1.Health/Watch", "/inference.GRPCInferenceService/ServerReady"] {
            assert!(is_open(open), "{open}");
        }
        for closed in [
            "/grpc.health.v1.Health",
            "/inference.GRPCInferenceService/ModelReady",
            "/inference.GRPCInferenceService/ServerLiveX",
        ] {
            assert!(!is_open(closed), "{closed}");
        }
    }

    #[test]
    fn the_transport_takes_far_more_headers_than_a_call_may_have() {
        assert_eq!(transport_header_bytes(16 << 10), 256 << 10);
        assert_eq!(transport_header_bytes(128 << 10), 256 << 10);
        assert_eq!(transport_header_bytes(1 << 20), 2 << 20);
    }

    #[test]
    fn only_protobuf_in_grpc_is_grpc() {
        for grpc in
            ["application/grpc", "application/grpc+proto", "Application/GRPC; charset=utf-8", "application/grpc+proto;x=y"]
        {
            assert!(is_grpc(grpc.as_bytes()), "{grpc}");
        }
        for other in [
            "",
            "application/json",
            "application/grp",
            "application/grpc-web",
            "application/grpc-web+proto",
            "application/grpc+json",
            "application/grpcs",
            "text/plain",
        ] {
            assert!(!is_grpc(other.as_bytes()), "{other}");
        }
    }

    proptest! {
        #[test]
        fn a_type_that_only_begins_like_grpc_is_another(
            bytes in proptest::collection::vec(any::<u8>(), 0..40),
            rest in "([a-z-]|\\+[a-o]|\\+proto[a-z])[ -~]{0,12}",
        ) {
            let _ = is_grpc(&bytes);
            prop_assert!(!is_grpc(&[GRPC_TYPE, rest.as_bytes()].concat()), "{rest:?}");
        }
    }
}
