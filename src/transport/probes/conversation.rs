//! One connection, from its first request to its last.

use std::{
    convert::Infallible,
    error::Error,
    future::poll_fn,
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use hyper::{
    body::{Body, Incoming},
    server::conn::{http1, http2},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    select,
    time::{sleep, timeout},
};
use tower::{Service, ServiceExt as _};

use super::{
    note::{Note, Noted},
    places::Place,
};
use crate::{
    connections::{Calls, note_protection},
    patience::Patience,
    transport::{
        ending::EndingBody,
        http2::{Reading, StreamExecutor, Together},
        io::{Agreed, Io, Protocol},
        shutdown::Shutdown,
    },
};

/// How long a connection may last, so that one that reads slowly does not hold its place for ever.
const LIFETIME: Duration = Duration::from_secs(300);

/// How long a connection that has to close may take to finish its response.
const GRACE: Duration = Duration::from_secs(2);

/// Requests of one connection of HTTP/2 that may be answered at once.
const STREAMS_MAX: u32 = 8;

/// What is received of them at once; there are no bodies that anybody reads.
const WINDOW_BYTES: u32 = 64 << 10;

/// How long a client of HTTP/2 may leave one of its answers unread.
const UNREAD_TIMEOUT: Duration = Duration::from_secs(10);

/// Serves the requests of a connection, with heads of at most `header_bytes_max`, until either side ends it.
pub(crate) async fn converse<I, S, B>(mut io: I, place: Place, service: S, header_bytes_max: usize, shutdown: Shutdown)
where
    I: Io,
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible, Future: Send> + Clone + Send + 'static,
    B: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Unpin + Send + 'static,
{
    let agreed = select! {
        biased;
        agreed = io.agree() => agreed,
        () = place.told_to_leave() => return,
        () = shutdown.closed().cancelled() => return,
    };
    let protocol = match agreed {
        Ok(Agreed { protection, protocol }) => {
            note_protection(protection);
            protocol
        }
        Err(error) => return tracing::debug!(%error, "a connection of the admin port ended before it began"),
    };
    let note = place.note();
    let (begins, ends) = (Arc::clone(&note), Arc::clone(&note));
    let service = service
        .map_request(move |request: Request<Incoming>| {
            begins.answers();
            request
        })
        .map_response(move |response: Response<B>| {
            let note = Arc::clone(&ends);
            // Dropping the body starts the wait for another request.
            response.map(|body| EndingBody::new(body, move || note.answered()))
        });
    let socket = TokioIo::new(Noted::new(io, Arc::clone(&note)));
    let service = TowerToHyperService::new(service);
    let ended = if protocol == Some(Protocol::Http2) {
        let streams = StreamExecutor::<Reading>::new(UNREAD_TIMEOUT, Calls::default());
        let connection = http2(streams.clone(), header_bytes_max).serve_connection(socket, service);
        let connection = pin!(Together::new(connection, &streams));
        let leave = |connection: Pin<&mut Together<_>>| connection.change(http2::Connection::graceful_shutdown);
        Box::pin(attend(connection, leave, &note, &place, &shutdown)).await
    } else {
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(None).max_buf_size(header_bytes_max);
        let connection = pin!(builder.serve_connection(socket, service));
        attend(connection, http1::Connection::graceful_shutdown, &note, &place, &shutdown).await
    };
    if let Some(Err(error)) = ended {
        tracing::debug!(%error, "a connection of the admin port broke off");
    }
}

/// hyper's part of HTTP/2.
fn http2(streams: StreamExecutor<Reading>, header_bytes_max: usize) -> http2::Builder<StreamExecutor<Reading>> {
    let mut builder = http2::Builder::new(streams);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(u32::try_from(header_bytes_max).unwrap_or(u32::MAX))
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES);
    builder
}

/// Runs a connection until either side ends it, or its time is up. `leave` asks it to end once it has answered.
async fn attend<C: Future<Output = hyper::Result<()>>>(
    mut connection: Pin<&mut C>,
    leave: impl FnOnce(Pin<&mut C>),
    note: &Note,
    place: &Place,
    shutdown: &Shutdown,
) -> Option<hyper::Result<()>> {
    let mut patience = Patience::new();
    let lapse = poll_fn(|cx| match connection.as_mut().poll(cx) {
        Poll::Ready(ended) => Poll::Ready(Some(ended)),
        Poll::Pending => note.poll_lapse(&mut patience, cx).map(|()| None),
    });
    let go_away = shutdown.go_away();
    select! {
        ended = lapse => ended,
        () = place.told_to_leave() => None,
        () = async { select! { () = go_away.cancelled() => {}, () = sleep(LIFETIME) => {} } } => {
            leave(connection.as_mut());
            timeout(GRACE, connection).await.ok()
        }
    }
}
