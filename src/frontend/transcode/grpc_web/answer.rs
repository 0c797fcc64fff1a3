//! A gRPC answer as gRPC-Web writes it: the trailers are the last frame of the body.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, Response, StatusCode, header};
use hyper::body::{Body as HttpBody, Frame};
use tonic::{Code, Status, body::Body};

use super::{Form, text};
use crate::frontend::transcode::{call::clean, frames::PREFIX_BYTES};

/// The flag of the frame of trailers.
const TRAILERS: u8 = 0x80;

/// The answer in this form.
pub(super) fn of(form: Form, answer: Response<Body>) -> Response<Body> {
    let (mut head, body) = answer.into_parts();
    head.status = StatusCode::OK;
    clean(&mut head.headers);
    // A call that ends before its first message says how in its headers, and nothing else.
    let only = head.headers.contains_key(Status::GRPC_STATUS).then(|| std::mem::take(&mut head.headers));
    head.headers.insert(header::CONTENT_TYPE, form.content_type());
    Response::from_parts(head, Body::new(Trailing { form, state: only.map_or(State::Body(body), State::Trailers) }))
}

struct Trailing {
    form: Form,
    state: State,
}

enum State {
    Body(Body),
    Trailers(HeaderMap),
    Over,
}

impl HttpBody for Trailing {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        let trailers = match &mut this.state {
            State::Over => return Poll::Ready(None),
            State::Trailers(trailers) => std::mem::take(trailers),
            State::Body(body) => match ready!(Pin::new(body).poll_frame(cx)).map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(data))) => {
                    let data = match this.form {
                        Form::Binary => data,
                        Form::Text => text::encoded(&data),
                    };
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Ok(Err(other))) => other.into_trailers().unwrap_or_default(),
                Some(Err(status)) => trailers_of(&status),
                None => trailers_of(&Status::new(Code::Unknown, "the answer ended without a status")),
            },
        };
        this.state = State::Over;
        let frame = framed(&trailers);
        Poll::Ready(Some(Ok(Frame::data(match this.form {
            Form::Binary => frame,
            Form::Text => text::encoded(&frame),
        }))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.state, State::Over)
    }
}

fn trailers_of(status: &Status) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    if status.add_header(&mut trailers).is_err() {
        trailers.insert(Status::GRPC_STATUS, i32::from(Code::Unknown).into());
    }
    trailers
}

/// Trailers as the last frame.
fn framed(trailers: &HeaderMap) -> Bytes {
    let mut frame = BytesMut::from(&[TRAILERS, 0, 0, 0, 0][..]);
    for (name, value) in trailers {
        frame.put_slice(name.as_str().as_bytes());
        frame.put_slice(b": ");
        frame.put_slice(value.as_bytes());
        frame.put_slice(b"\r\n");
    }
    let length = u32::try_from(frame.len() - PREFIX_BYTES).unwrap_or(u32::MAX);
    frame[1..PREFIX_BYTES].copy_from_slice(&length.to_be_bytes());
    frame.freeze()
}

#[cfg(test)]
mod tests {
    use futures::stream;
    use http_body_util::{BodyExt as _, StreamBody};

    use super::*;

    async fn written(form: Form, answer: Response<Body>) -> (HeaderMap, Bytes) {
        let (head, body) = of(form, answer).into_parts();
        assert_eq!(head.status, StatusCode::OK);
        (head.headers, body.collect().await.expect("no error").to_bytes())
    }

    fn streamed(frames: Vec<Result<Frame<Bytes>, Status>>) -> Response<Body> {
        let mut response = Response::new(Body::new(StreamBody::new(stream::iter(frames))));
        response.headers_mut().insert("content-type", "application/grpc".parse().expect("a value"));
        response.headers_mut().insert("x-model", "m".parse().expect("a value"));
        response
    }

    #[tokio::test]
    async fn trailers_are_the_last_frame() {
        let trailers = HeaderMap::from_iter([("grpc-status".parse().expect("a name"), "0".parse().expect("a value"))]);
        let frames = || vec![Ok(Frame::data(Bytes::from_static(b"\0\0\0\0\x01a"))), Ok(Frame::trailers(trailers.clone()))];
        let (headers, body) = written(Form::Binary, streamed(frames())).await;
        assert_eq!(
            (&headers["content-type"], &headers["x-model"]),
            (&Form::Binary.content_type(), &"m".parse().expect("a value"))
        );
        assert_eq!(body, &b"\0\0\0\0\x01a\x80\0\0\0\x10grpc-status: 0\r\n"[..]);
        let (headers, text) = written(Form::Text, streamed(frames())).await;
        assert_eq!(headers["content-type"], "application/grpc-web-text+proto");
        assert_eq!(text, format!("{}{}", "AAAAAAFh", "gAAAABBncnBjLXN0YXR1czogMA0K"));
    }

    #[tokio::test]
    async fn a_call_that_ends_at_once_and_one_that_breaks_off_have_a_status_too() {
        let (headers, body) = written(Form::Binary, Status::not_found("no 50% model").into_http()).await;
        assert!(!headers.contains_key("grpc-status"));
        let text = String::from_utf8_lossy(&body[PREFIX_BYTES..]).into_owned();
        assert!(body[0] == TRAILERS && text.contains("grpc-status: 5\r\n"), "{text}");
        assert!(text.contains("grpc-message: no%2050%25%20model\r\n"), "{text}");
        for frames in [vec![Err(Status::data_loss("gone"))], Vec::new()] {
            let code = if frames.is_empty() { 2 } else { 15 };
            let (_, body) = written(Form::Binary, streamed(frames)).await;
            assert!(String::from_utf8_lossy(&body).contains(&format!("grpc-status: {code}\r\n")), "{body:?}");
        }
    }
}
