//! One connection, from its first byte to its last.

use std::{convert::Infallible, error::Error, future::poll_fn, pin::Pin, sync::Arc, task::Poll, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use hyper::{
    body::{Body, Incoming},
    server::conn::http1,
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{io::AsyncWriteExt as _, time::timeout};
use tower::{Service, ServiceExt as _};

use super::{
    body::RequestBody,
    limits::{Breach, Limits},
    progress::{Progress, Reader},
    socket::Watched,
    takeover::Taken,
    wait::Wait,
};
use crate::{
    connections::Connection,
    transport::{clients::Client, ending::EndingBody, io::Io, shutdown::Shutdown},
};

/// How long sending a refusal may take; the connection's buffer takes it at once, unless the client has not read for a while.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);

/// What a front end answers, and how long its clients may keep it waiting.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plug {
    pub(crate) limits: Limits,
    /// The answer to a breach, in full: the connection no longer has an HTTP server behind it.
    pub(crate) refusal: fn(Breach, &Limits) -> Vec<u8>,
}

/// Serves the requests of a connection until either side ends it.
pub(crate) async fn converse<I, S, B>(io: I, place: Client, service: S, plug: Plug, shutdown: Shutdown)
where
    I: Io,
    S: Service<Request<RequestBody>, Response = Response<B>, Error = Infallible> + Clone,
    B: Body<Error: Into<Box<dyn Error + Send + Sync>>> + Unpin + 'static,
{
    if let Err(error) = io.set_up() {
        tracing::debug!(%error, "a connection ended before it began");
        return;
    }
    let Plug { limits, refusal } = plug;
    let place = &place.connection;
    let (progress, taken) = (Arc::new(Progress::new(&limits, place.calls())), Taken::new(place.calls()));
    let (begins, ends, takes) = (Arc::clone(&progress), Arc::clone(&progress), taken.clone());
    let service = service
        .map_request(move |mut request: Request<Incoming>| {
            begins.note_request(request.body().is_end_stream());
            request.extensions_mut().insert(Reader::new(Arc::clone(&begins)));
            request.map(|body| RequestBody::new(body, Arc::clone(&begins)))
        })
        .map_response(move |response: Response<B>| {
            takes.note(&response);
            let progress = Arc::clone(&ends);
            // Dropping the body starts the wait for another request.
            response.map(|body| EndingBody::new(body, move || progress.note_response_over()))
        });
    let socket = TokioIo::new(Watched::new(io, Arc::clone(&progress)));
    let mut connection = builder(&limits).serve_connection(socket, TowerToHyperService::new(service));
    let mut wait = Wait::new(limits);
    let go_away = shutdown.go_away();
    let mut leaves = false;
    let lapsed = loop {
        let polled = poll_fn(|cx| match Pin::new(&mut connection).poll(cx) {
            Poll::Ready(ended) => Poll::Ready(Err(ended)),
            Poll::Pending => wait.poll_lapse(&progress, cx).map(Ok),
        });
        tokio::select! {
            lapsed = polled => break lapsed,
            () = shutdown.aborted().cancelled() => return,
            () = go_away.cancelled(), if !leaves => {}
            // Without a request in hand there is nothing to say.
            _ = place.asked_to_leave(None), if !leaves => if place.is_idle() { return },
            () = place.outlived(), if leaves => return,
        }
        leaves = true;
        Pin::new(&mut connection).graceful_shutdown();
    };
    match lapsed {
        Ok(lapse) => {
            if let Some(breach) = lapse.breach() {
                refuse(connection.into_parts().io.into_inner(), &refusal(breach, &limits)).await;
            }
        }
        Err(Err(error)) => tracing::debug!(%error, "a connection broke off"),
        Err(Ok(())) => {
            let parts = connection.into_parts();
            Box::pin(go_on(parts.io.into_inner(), parts.read_buf, &taken, place, &shutdown)).await;
        }
    }
}

/// What is left of a connection once hyper is done with it.
async fn go_on<I: Io>(mut socket: Watched<I>, read: Bytes, taken: &Taken, place: &Connection, shutdown: &Shutdown) {
    let Some((takeover, _call)) = taken.take() else {
        // hyper leaves that out if the client has asked for another protocol, whatever the answer was.
        let _ = timeout(REFUSAL_TIMEOUT, socket.shutdown()).await;
        return;
    };
    let carrier = Box::new(socket.unwatched(&read));
    drop(read);
    let Some(rest) = takeover.run(carrier) else { return };
    tokio::select! {
        () = rest => {}
        () = shutdown.aborted().cancelled() => {}
        () = place.outlived() => {}
    }
}

/// hyper's part, with limits loose enough that ours apply first.
fn builder(limits: &Limits) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(None)
        .max_header_size(limits.header_bytes_max + 1)
        .max_buf_size(limits.buffer_bytes());
    builder
}

/// Says why and closes. No response has begun, so nothing needs to be said first.
async fn refuse<I: Io>(mut socket: Watched<I>, refusal: &[u8]) {
    let saying = async {
        socket.write_all(refusal).await?;
        socket.shutdown().await
    };
    if let Ok(Err(error)) = timeout(REFUSAL_TIMEOUT, saying).await {
        tracing::debug!(%error, "a connection broke off");
    }
}
