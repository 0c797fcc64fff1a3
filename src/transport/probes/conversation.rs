//! One connection, from its first request to its last.

use std::{convert::Infallible, error::Error, future::poll_fn, pin::Pin, sync::Arc, task::Poll, time::Duration};

use http::{Request, Response};
use hyper::{
    body::{Body, Incoming},
    server::conn::http1,
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

use super::{note::Noted, places::Place};
use crate::{
    connections::note_protection,
    patience::Patience,
    transport::{
        ending::EndingBody,
        io::{Agreed, Io},
        shutdown::Shutdown,
    },
};

/// How long a connection may last, so that one that reads slowly does not hold its place for ever.
const LIFETIME: Duration = Duration::from_secs(300);

/// How long a connection that has to close may take to finish its response.
const GRACE: Duration = Duration::from_secs(2);

/// Serves the requests of a connection, with heads of at most `header_bytes_max`, until either side ends it.
pub(crate) async fn converse<I, S, B>(mut io: I, place: Place, service: S, header_bytes_max: usize, shutdown: Shutdown)
where
    I: Io,
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone,
    B: Body<Error: Into<Box<dyn Error + Send + Sync>>> + Unpin + 'static,
{
    let agreed = select! {
        biased;
        agreed = io.agree() => agreed,
        () = place.told_to_leave() => return,
        () = shutdown.closed().cancelled() => return,
    };
    match agreed {
        Ok(Agreed { protection, .. }) => note_protection(protection),
        Err(error) => return tracing::debug!(%error, "a connection of the admin port ended before it began"),
    }
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
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(None).max_buf_size(header_bytes_max);
    let socket = TokioIo::new(Noted::new(io, Arc::clone(&note)));
    let mut connection = builder.serve_connection(socket, TowerToHyperService::new(service));
    let mut patience = Patience::new();
    let lapse = poll_fn(|cx| match Pin::new(&mut connection).poll(cx) {
        Poll::Ready(ended) => Poll::Ready(Some(ended)),
        Poll::Pending => note.poll_lapse(&mut patience, cx).map(|()| None),
    });
    let go_away = shutdown.go_away();
    let ended = select! {
        ended = lapse => ended,
        () = place.told_to_leave() => None,
        () = async { select! { () = go_away.cancelled() => {}, () = sleep(LIFETIME) => {} } } => {
            Pin::new(&mut connection).graceful_shutdown();
            timeout(GRACE, connection).await.ok()
        }
    };
    if let Some(Err(error)) = ended {
        tracing::debug!(%error, "a connection of the admin port broke off");
    }
}
