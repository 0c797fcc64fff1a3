//! A client of the HTTP port: one connection, built on hyper; and bare bytes, for what no client would send.

use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{
    Request, StatusCode,
    body::Incoming,
    client::conn::http1::{SendRequest, handshake},
    header::{HeaderMap, HeaderName},
};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use tidemill::app::Server;

use crate::serving::patiently;

/// A connection.
pub(crate) struct Http {
    sender: SendRequest<Full<Bytes>>,
}

/// A response, read to its end.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Http {
    pub(crate) async fn connect(server: &Server) -> Self {
        Self::connect_to(server.http_addr()).await
    }

    pub(crate) async fn connect_to(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("the HTTP port accepts");
        let (sender, connection) = handshake(TokioIo::new(stream)).await.expect("a connection");
        tokio::spawn(connection);
        Self { sender }
    }

    /// Sends a request, and returns the response as soon as its head is there.
    pub(crate) async fn begin(
        &mut self,
        verb: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> hyper::Result<hyper::Response<Incoming>> {
        let mut request = Request::builder().method(verb).uri(path).header("host", "localhost");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into())).expect("a request");
        patiently(self.sender.ready()).await?;
        patiently(self.sender.send_request(request)).await
    }

    pub(crate) async fn send(&mut self, verb: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Reply {
        let response = self.begin(verb, path, headers, body).await.expect("a response");
        let (head, body) = response.into_parts();
        let body = patiently(body.collect()).await.expect("a whole body").to_bytes();
        Reply { status: head.status, headers: head.headers, body }
    }

    pub(crate) async fn get(&mut self, path: &str) -> Reply {
        self.send("GET", path, &[], "").await
    }

    pub(crate) async fn post(&mut self, path: &str, body: impl Into<Bytes>) -> Reply {
        self.send("POST", path, &[], body).await
    }
}

impl Reply {
    /// The body as JSON, with its status.
    pub(crate) fn json(&self) -> (u16, Value) {
        let found = String::from_utf8_lossy(&self.body);
        let json = serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {found:?}"));
        (self.status.as_u16(), json)
    }

    /// The message of an error, with its status.
    pub(crate) fn error(&self) -> (u16, String) {
        let (status, json) = self.json();
        assert_eq!(self.header("content-type"), "application/json");
        (status, json["error"].as_str().unwrap_or_else(|| panic!("no error in {json}")).to_owned())
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        let name: HeaderName = name.parse().expect("a name");
        self.headers.get(name).map_or("", |value| value.to_str().expect("text"))
    }
}

/// Sends these bytes on their own connection, and reads what comes until the server closes it.
pub(crate) async fn exchange(server: &Server, bytes: impl AsRef<[u8]>) -> String {
    let mut stream = TcpStream::connect(server.http_addr()).await.expect("the HTTP port accepts");
    // The server may close while this is still writing.
    let _ = patiently(stream.write_all(bytes.as_ref())).await;
    read_to_end(&mut stream).await
}

/// Reads until the server closes the connection.
pub(crate) async fn read_to_end(stream: &mut TcpStream) -> String {
    let mut heard = Vec::new();
    let _ = patiently(stream.read_to_end(&mut heard)).await;
    String::from_utf8_lossy(&heard).into_owned()
}

/// A request with one FP32 input `x`, in JSON.
pub(crate) fn infer_json(shape: &[usize], values: &[f32]) -> String {
    serde_json::json!({"inputs": [{"name": "x", "datatype": "FP32", "shape": shape, "data": values}]}).to_string()
}
