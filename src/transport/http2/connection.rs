//! One connection, from its greeting to its last stream.
//!
//! # SHUTDOWN
//! As [`Shutdown`] describes; going away means GOAWAY here, and open calls go on.

use std::{convert::Infallible, error::Error, pin::pin, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use hyper::{
    body::{Body, Incoming},
    server::conn::http2,
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tower::Service;

use super::{
    exchange::Exchange,
    leaving::{has_left, told_to_leave},
    together::{StreamExecutor, Together},
};
use crate::transport::{clients::Client, first::greeting, io::Io, linger::Lingering, shutdown::Shutdown};

/// What a front end answers, and the limits of its clients.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plug {
    /// Bytes of one stream that may be in flight.
    pub(crate) stream_window_bytes: u32,
    /// Bytes of all streams of a connection that may be in flight.
    pub(crate) connection_window_bytes: u32,
    /// Bytes of a stream that may wait to be sent before its body is polled again.
    pub(crate) send_buffer_bytes: usize,
    /// Streams of a connection.
    pub(crate) streams_max: u32,
    /// Bytes of a request's headers.
    pub(crate) header_bytes_max: u32,
    /// For the client's first bytes.
    pub(crate) greeting_timeout: Duration,
    /// For the next call.
    pub(crate) idle_timeout: Duration,
    /// To take anything of a stream.
    pub(crate) unread_timeout: Duration,
    /// Pause between pings; `None` for no pings.
    pub(crate) keepalive_interval: Option<Duration>,
    /// For the answer to a ping.
    pub(crate) keepalive_timeout: Duration,
}

impl Plug {
    fn builder<X: Exchange>(&self, streams: StreamExecutor<X>) -> http2::Builder<StreamExecutor<X>> {
        let mut builder = http2::Builder::new(streams);
        builder
            .timer(TokioTimer::new())
            .initial_stream_window_size(self.stream_window_bytes)
            .initial_connection_window_size(self.connection_window_bytes)
            .max_send_buf_size(self.send_buffer_bytes)
            .max_concurrent_streams(self.streams_max)
            .max_header_list_size(self.header_bytes_max)
            .keep_alive_interval(self.keepalive_interval)
            .keep_alive_timeout(self.keepalive_timeout);
        builder
    }
}

/// Serves the streams of a connection until either side ends it. The front end finds its `X` in whatever it runs for each stream.
pub(crate) async fn converse<X, I, S, B>(mut io: I, place: Client, service: S, plug: Plug, shutdown: Shutdown)
where
    X: Exchange,
    I: Io,
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
    B: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static,
{
    if let Err(error) = io.set_up() {
        tracing::debug!(%error, "a connection ended before it began");
        return;
    }
    let place = &place.connection;
    let read = tokio::select! {
        read = greeting(&mut io, plug.greeting_timeout) => read,
        _ = place.asked_to_leave(None) => return,
    };
    let Some(read) = read else { return };
    let streams = StreamExecutor::<X>::new(plug.unread_timeout, place.calls());
    let go_away = shutdown.go_away();
    let socket = TokioIo::new(Lingering::after(read, io));
    let connection = plug.builder(streams.clone()).serve_connection(socket, TowerToHyperService::new(service));
    let mut connection = pin!(Together::new(connection, &streams));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.aborted().cancelled() => return,
        leaves = told_to_leave(place, plug.idle_timeout, go_away) => {
            connection.as_mut().change(http2::Connection::graceful_shutdown);
            tokio::select! {
                ended = connection.as_mut() => ended,
                () = shutdown.aborted().cancelled() => return,
                () = has_left(place, leaves) => return,
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection broke off");
    }
}
