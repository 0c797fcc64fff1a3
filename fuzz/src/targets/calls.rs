//! The gRPC port: the reader of message frames, decompression, all services, and what happens to their messages behind it.
//!
//! First byte: the method. Second: the encoding in its low bits, and whether the rest is the message (framed here) or the frames
//! themselves. Third: how long the DATA frames are. A call that its client has ended must be answered.

use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use h2::client::SendRequest;
use http::Request;
use tokio::time::timeout;

use crate::serving::{PATIENCE, Serving, connect};

const METHODS: [&str; 20] = [
    "/tidemill.v1.InferenceService/Predict",
    "/tidemill.v1.InferenceService/Scan",
    "/tidemill.v1.InferenceService/Upload",
    "/tidemill.v1.InferenceService/Feed",
    "/tidemill.v1.ModelService/ListModels",
    "/tidemill.v1.ModelService/GetModel",
    "/model.ModelInference/Predict",
    "/inference.GRPCInferenceService/ModelInfer",
    "/inference.GRPCInferenceService/ModelStreamInfer",
    "/inference.GRPCInferenceService/ModelReady",
    "/inference.GRPCInferenceService/ModelMetadata",
    "/inference.GRPCInferenceService/ModelConfig",
    "/inference.GRPCInferenceService/ModelStatistics",
    "/inference.GRPCInferenceService/RepositoryIndex",
    "/inference.GRPCInferenceService/SystemSharedMemoryStatus",
    "/inference.GRPCInferenceService/SystemSharedMemoryRegister",
    "/inference.GRPCInferenceService/TraceSetting",
    "/inference.GRPCInferenceService/LogSettings",
    "/grpc.health.v1.Health/Check",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
];
const ENCODINGS: [Option<&str>; 4] = [None, Some("gzip"), Some("zstd"), Some("deflate")];
const FRAMED: u8 = 4;
const COMPRESSED: u8 = 8;

static CONNECTION: Mutex<Option<SendRequest<Bytes>>> = Mutex::new(None);

pub(crate) fn run(data: &[u8]) {
    let [method, form, size, rest @ ..] = data else { return };
    let path = METHODS[usize::from(*method) % METHODS.len()];
    let encoding = ENCODINGS[usize::from(form & 3)];
    let body = if form & FRAMED == 0 { rest.to_vec() } else { framed(rest, form & COMPRESSED != 0) };
    let serving = Serving::get();
    let mut held = CONNECTION.lock().unwrap_or_else(PoisonError::into_inner);
    let calling = async {
        // The server may end a connection because of what was sent on it; the next call gets a new one.
        for _ in 0..2 {
            let Some(sender) = ready(&mut held, serving).await else { continue };
            if call(sender, path, encoding, &body, usize::from(*size) + 1).await.is_some() {
                return;
            }
            *held = None;
        }
    };
    serving.runtime.block_on(async { timeout(PATIENCE, calling).await }).expect("an answer in time");
}

fn framed(message: &[u8], compressed: bool) -> Vec<u8> {
    let length = u32::try_from(message.len()).expect("short");
    [&[u8::from(compressed)][..], &length.to_be_bytes(), message].concat()
}

async fn ready<'a>(held: &'a mut Option<SendRequest<Bytes>>, serving: &Serving) -> Option<&'a mut SendRequest<Bytes>> {
    if held.is_none() {
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(1 << 24).initial_connection_window_size(1 << 28);
        let (sender, connection) = builder.handshake(connect(serving.grpc_addr()).await).await.ok()?;
        tokio::spawn(connection);
        *held = Some(sender);
    }
    // This returns the same connection, if it can still be used.
    *held = held.take()?.ready().await.ok();
    held.as_mut()
}

/// `None` if the connection broke. A stream that is reset has been answered.
async fn call(sender: &mut SendRequest<Bytes>, path: &str, encoding: Option<&str>, body: &[u8], size: usize) -> Option<()> {
    let mut request =
        Request::post(format!("http://localhost{path}")).header("content-type", "application/grpc").header("te", "trailers");
    if let Some(encoding) = encoding {
        request = request.header("grpc-encoding", encoding);
    }
    let (response, mut stream) = sender.send_request(request.body(()).expect("a request"), false).ok()?;
    // Small frames are kept few, so that no budget for them is used up.
    let size = size.max(body.len() / 64 + 1);
    let mut pieces = body.chunks(size).peekable();
    if pieces.peek().is_none() {
        stream.send_data(Bytes::new(), true).ok()?;
    }
    while let Some(piece) = pieces.next() {
        // A stream that has been answered takes no more.
        if stream.send_data(Bytes::copy_from_slice(piece), pieces.peek().is_none()).is_err() {
            break;
        }
    }
    let response = match response.await {
        Ok(response) => response,
        Err(error) => return error.is_reset().then_some(()),
    };
    let mut answer = response.into_body();
    while let Some(piece) = answer.data().await {
        let Ok(piece) = piece else { return Some(()) };
        let _ = answer.flow_control().release_capacity(piece.len());
    }
    let _ = answer.trailers().await;
    Some(())
}
