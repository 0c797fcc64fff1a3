//! HTTP/1.1: whatever is posted, wherever, is read to its end and answered with the outputs' bytes.

use std::convert::Infallible;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, task::JoinSet};

/// Serves until it is dropped, and its connections with it.
pub(super) async fn serve(listener: TcpListener, data: Bytes) {
    let mut connections = JoinSet::new();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => return eprintln!("error: HTTP ended: {error}"),
        };
        // The connection works without it too.
        let _ = stream.set_nodelay(true);
        while connections.try_join_next().is_some() {}
        let data = data.clone();
        connections.spawn(async move {
            let service = service_fn(|request| answered(request, data.clone()));
            // A connection that breaks is seen by its client.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answered(request: Request<Incoming>, data: Bytes) -> Result<Response<Full<Bytes>>, Infallible> {
    let is_post = request.method() == Method::POST;
    let mut body = request.into_body();
    while let Some(Ok(_)) = body.frame().await {}
    let mut response = Response::new(Full::new(data));
    if !is_post {
        *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
    }
    Ok(response)
}
