//! A live feed over WebSocket, at the lowest cost per item that the client can have: no channel and no task.

use std::{
    future::poll_fn,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use anyhow::{Context as _, bail};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures::{Sink as _, Stream as _};
use prost::Message as _;
use serde::Deserialize;
use tidemill_client::wire::v1::{self, feed_request::Message as Request, feed_response::Event};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{Message, client::IntoClientRequest as _, http::HeaderValue, protocol::WebSocketConfig},
};

use crate::feed::Valve;

/// As small as a client with many connections would choose.
const READ_BUFFER_BYTES: usize = 4 << 10;

/// The form of the messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// Both directions in protobuf.
    Protobuf,
    /// Audio as it is, answers in JSON.
    RawAndJson,
    /// Both directions in JSON, audio in base64.
    Json,
}

/// An open feed. Dropping it ends it.
pub(crate) struct SocketFeed {
    socket: WebSocketStream<TcpStream>,
    form: Form,
    chunk: Bytes,
    sent: u64,
    finished: bool,
    valve: Arc<Valve>,
}

/// An answer in JSON, as far as it is looked at.
#[derive(Debug, Deserialize)]
struct Answer {
    result: Option<AnsweredItem>,
    error: Option<serde_json::Value>,
}

#[derive(Debug, Deserialize)]
struct AnsweredItem {
    /// A 64-bit integer, which proto3 JSON writes as a string; left out for the first item.
    #[serde(default)]
    seq: String,
    outputs: Option<serde::de::IgnoredAny>,
}

impl SocketFeed {
    /// Opens a feed of raw audio, in which each item is this chunk.
    pub(crate) async fn open(address: SocketAddr, model: &str, chunk: Bytes, form: Form) -> anyhow::Result<Self> {
        let mut request = format!("ws://{address}/tidemill/v1/models/{model}/feed").into_client_request()?;
        if form == Form::Protobuf {
            request.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static("tidemill.v1.proto"));
        }
        let stream = TcpStream::connect(address).await.context("no connection")?;
        stream.set_nodelay(true)?;
        let config = WebSocketConfig::default().read_buffer_size(READ_BUFFER_BYTES);
        let (socket, _) = client_async_with_config(request, stream, Some(config)).await.context("no WebSocket")?;
        let mut feed = Self { socket, form, chunk, sent: 0, finished: false, valve: Arc::default() };
        let open = v1::StreamConfig { payload: v1::PayloadKind::PcmS16le.into(), ..v1::StreamConfig::default() };
        let open = match form {
            Form::Protobuf => protobuf(Request::Open(open)),
            Form::RawAndJson | Form::Json => Message::text(r#"{"open":{"payload":"PAYLOAD_KIND_PCM_S16LE"}}"#),
        };
        poll_fn(|cx| Pin::new(&mut feed.socket).poll_ready(cx)).await?;
        Pin::new(&mut feed.socket).start_send(open)?;
        poll_fn(|cx| Pin::new(&mut feed.socket).poll_flush(cx)).await?;
        // The first message says `opened`.
        poll_fn(|cx| Pin::new(&mut feed.socket).poll_next(cx)).await.context("a stream was not opened")??;
        Ok(feed)
    }

    pub(crate) const fn valve(&self) -> &Arc<Valve> {
        &self.valve
    }

    /// Waits for the next answer and returns its number, and sends what the valve lets through. `None` once all are answered
    /// and the stream has ended.
    pub(crate) async fn answer(&mut self) -> anyhow::Result<Option<u64>> {
        loop {
            let message = poll_fn(|cx| {
                let sending = self.poll_send(cx);
                if let Poll::Ready(Err(error)) = sending {
                    return Poll::Ready(Err(error));
                }
                Pin::new(&mut self.socket).poll_next(cx).map(|next| next.transpose().map_err(anyhow::Error::from))
            });
            match message.await? {
                None | Some(Message::Close(_)) => return Ok(None),
                Some(message) => {
                    if let Some(seq) = number(&message)? {
                        self.valve.note_answer();
                        return Ok(Some(seq));
                    }
                }
            }
        }
    }

    /// Sends what may go. Never ready, unless it fails.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<anyhow::Result<()>> {
        while !self.finished {
            let Poll::Ready(may_send) = self.valve.poll_may_send(self.sent, cx) else { break };
            let Poll::Ready(ready) = Pin::new(&mut self.socket).poll_ready(cx) else { break };
            ready?;
            self.finished = !may_send;
            let message = if may_send { self.item() } else { self.finish() };
            Pin::new(&mut self.socket).start_send(message)?;
            if may_send {
                self.sent += 1;
                self.valve.note_sent(self.sent);
            }
        }
        ready!(Pin::new(&mut self.socket).poll_flush(cx))?;
        Poll::Pending
    }

    fn item(&self) -> Message {
        match self.form {
            Form::Protobuf => protobuf(Request::Chunk(self.chunk.clone())),
            Form::RawAndJson => Message::Binary(self.chunk.clone()),
            Form::Json => Message::text(format!(r#"{{"chunk":"{}"}}"#, STANDARD.encode(&self.chunk))),
        }
    }

    fn finish(&self) -> Message {
        match self.form {
            Form::Protobuf => protobuf(Request::Finish(v1::Finish {})),
            Form::RawAndJson | Form::Json => Message::text(r#"{"finish":{}}"#),
        }
    }
}

impl Drop for SocketFeed {
    fn drop(&mut self) {
        self.valve.close();
    }
}

fn protobuf(message: Request) -> Message {
    Message::Binary(v1::FeedRequest { message: Some(message) }.encode_to_vec().into())
}

/// The number of the item that this answers; `None` for any other message.
fn number(message: &Message) -> anyhow::Result<Option<u64>> {
    match message {
        Message::Binary(bytes) => match v1::FeedResponse::decode(bytes.clone())?.event {
            Some(Event::Result(result)) => {
                tidemill_client::outputs(&result).map_err(|error| anyhow::anyhow!("an item has no outputs: {error}"))?;
                Ok(Some(result.seq))
            }
            _ => Ok(None),
        },
        Message::Text(text) => {
            let Answer { result, error } = serde_json::from_str(text)?;
            if let Some(error) = error {
                bail!("the stream ended: {error}");
            }
            let Some(AnsweredItem { seq, outputs }) = result else { return Ok(None) };
            outputs.context("an item has no outputs")?;
            Ok(Some(if seq.is_empty() { 0 } else { seq.parse()? }))
        }
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_numbered_in_both_forms() {
        let answer = |text: &str| number(&Message::text(text)).expect("it is an answer");
        assert_eq!(answer(r#"{"result":{"outputs":{"tensors":[]},"last":true}}"#), Some(0));
        assert_eq!(answer(r#"{"result":{"seq":"12","outputs":{},"timing":{"batchSize":3}}}"#), Some(12));
        assert_eq!(answer(r#"{"segmentStarted":{"startMs":"96"}}"#), None);
        assert!(number(&Message::text(r#"{"result":{"seq":"12","error":{"code":3}}}"#)).is_err());
        assert!(number(&Message::text(r#"{"error":{"code":14}}"#)).is_err());
        let result = v1::ItemResult {
            seq: 7,
            outcome: Some(v1::item_result::Outcome::Outputs(v1::Outputs::default())),
            ..v1::ItemResult::default()
        };
        let bytes = v1::FeedResponse { event: Some(Event::Result(result)) }.encode_to_vec();
        assert_eq!(number(&Message::Binary(bytes.into())).expect("it is an answer"), Some(7));
    }
}
