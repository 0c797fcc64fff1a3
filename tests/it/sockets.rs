//! A client of WebSockets for the tests of what is spoken over them.

use futures::{SinkExt as _, StreamExt as _};
use serde_json::Value;
use tidemill::app::Server;
use tokio::net::TcpStream;
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Error, Message, client::IntoClientRequest as _, http},
};

use crate::serving::patiently;

pub(crate) type Socket = WebSocketStream<TcpStream>;

/// A socket at this path, or the status of the answer and what it says.
pub(crate) async fn try_open(
    server: &Server,
    path: &str,
    headers: &[(&'static str, &str)],
) -> Result<(Socket, http::HeaderMap), (u16, String)> {
    let stream = TcpStream::connect(server.http_addr()).await.expect("the HTTP port accepts");
    let mut request = format!("ws://localhost{path}").into_client_request().expect("a request");
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().expect("a value"));
    }
    match patiently(client_async(request, stream)).await {
        Ok((socket, response)) => Ok((socket, response.headers().clone())),
        Err(Error::Http(response)) => {
            let body = response.body().as_deref().map(String::from_utf8_lossy).unwrap_or_default().into_owned();
            Err((response.status().as_u16(), body))
        }
        Err(error) => panic!("no answer: {error}"),
    }
}

pub(crate) async fn say(socket: &mut Socket, json: Value) {
    patiently(socket.send(Message::text(json.to_string()))).await.expect("it is taken");
}

/// The next message, or the code and the reason of the close.
pub(crate) async fn hear(socket: &mut Socket) -> Result<Value, (u16, String)> {
    loop {
        match patiently(socket.next()).await {
            Some(Ok(Message::Text(text))) => return Ok(serde_json::from_str(&text).expect("JSON")),
            Some(Ok(Message::Close(Some(close)))) => return Err((close.code.into(), close.reason.to_string())),
            Some(Ok(Message::Ping(_))) => {}
            other => panic!("neither a message nor a close: {other:?}"),
        }
    }
}
