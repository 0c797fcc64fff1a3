//! Calls over HTTP/1.1: `http_infer` in the REST form of the Open Inference Protocol, and `http_post` to any path of any server.
//!
//! `body` makes the bodies once, and a call takes a reference to one. Connections are kept alive and each carries one call at a time, so
//! there are as many as there are calls at once. Knows nothing about when calls are due.

mod body;
mod connection;

use std::{net::SocketAddr, sync::Arc};

use anyhow::Context as _;
use bytes::Bytes;
use futures::{FutureExt as _, future::BoxFuture};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::Full;

use super::{
    call::{Caller, Callers},
    file::{HttpBody, HttpPost, Load},
    payload::Payload,
    recorder::{Answer, End},
};
use crate::target::Means;
use connection::{Fault, Pool};

/// Opens `count` callers of a load, with one connection for the first call.
///
/// # Errors
/// If the server cannot be reached, or if the load's path or content type cannot be used in a request.
pub(crate) async fn open(
    load: &Load,
    address: SocketAddr,
    means: Option<&Means>,
    count: usize,
    seed: u64,
) -> anyhow::Result<Callers> {
    let mut template = Template::new(load, address, seed)?;
    if let Some(credential) = means.and_then(|means| means.credential.as_ref()) {
        template.headers.insert(header::AUTHORIZATION, credential.header().clone());
    }
    let template = Arc::new(template);
    let tls = means.and_then(|means| means.tls.as_ref());
    let connector = tls.map(|tls| tls.connector(&["http/1.1"])).transpose()?;
    let pool = Pool::open(address, connector).await.with_context(|| format!("cannot connect to {address}"))?;
    let pool = Arc::new(pool);
    let caller = || -> Box<dyn Caller> { Box::new(HttpCaller { pool: Arc::clone(&pool), template: Arc::clone(&template) }) };
    Ok((0..count).map(|_| caller()).collect())
}

/// All requests of a load, apart from which body each has.
struct Template {
    uri: Uri,
    headers: HeaderMap,
    bodies: Vec<Bytes>,
    items: u32,
}

impl Template {
    fn new(load: &Load, address: SocketAddr, seed: u64) -> anyhow::Result<Self> {
        let payload = Payload::new(&load.inputs, load.batch, seed);
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_str(&address.to_string())?);
        let (path, bodies, content_type) = match &load.http {
            None => {
                // All variants of an item have one size.
                let head = body::infer_head(load, payload.of(0))?;
                headers.insert("inference-header-content-length", HeaderValue::from(head.len()));
                let bodies = payload.variants().iter().map(|tensors| body::infer(&head, tensors)).collect();
                (format!("/v2/models/{}/infer", percent_encoded(&load.model)), bodies, "application/octet-stream")
            }
            Some(HttpPost { path, body, content_type }) => {
                let (make, usual): (fn(&_, &[Bytes]) -> Bytes, _) = match body {
                    HttpBody::Binary => (|_, tensors| body::binary(tensors), "application/octet-stream"),
                    HttpBody::Json => (body::json, "application/json"),
                };
                let bodies = payload.variants().iter().map(|tensors| make(&load.inputs, tensors)).collect();
                (path.clone(), bodies, content_type.as_deref().unwrap_or(usual))
            }
        };
        let value = HeaderValue::from_str(content_type);
        headers.insert(header::CONTENT_TYPE, value.with_context(|| format!("content type {content_type:?}"))?);
        let uri = path.parse().with_context(|| format!("the path {path:?} cannot be used in a request"))?;
        Ok(Self { uri, headers, bodies, items: u32::try_from(load.batch).unwrap_or(u32::MAX) })
    }

    fn request(&self, seq: u64) -> Request<Full<Bytes>> {
        let body = self.bodies[(seq % self.bodies.len() as u64) as usize].clone();
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        request
    }
}

/// One of a load's independent callers. They are all alike, and share connections.
struct HttpCaller {
    pool: Arc<Pool>,
    template: Arc<Template>,
}

impl Caller for HttpCaller {
    fn call(&self, seq: u64) -> BoxFuture<'static, Answer> {
        let (pool, request, items) = (Arc::clone(&self.pool), self.template.request(seq), self.template.items);
        async move { Answer { seq, end: end(pool.exchange(request).await), timing: None, items } }.boxed()
    }
}

/// Statuses are counted by number; failures before a status, by what failed.
fn end(status: Result<StatusCode, Fault>) -> End {
    match status {
        Ok(status) if status.is_success() => End::Outputs,
        Ok(status) => End::Error(format!("HTTP {}", status.as_u16()).into()),
        Err(Fault::NotConnected) => End::Error("HTTP not connected".into()),
        Err(Fault::BrokenOff) => End::Error("HTTP broken off".into()),
    }
}

/// `text` as one part of a path.
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(char::from(byte)),
            other => encoded.push_str(&format!("%{other:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests;
