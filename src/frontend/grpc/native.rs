//! The service `tidemill.v1.InferenceService`.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures::{Stream, stream};
use tonic::{Request, Response, Status, Streaming};

use super::{
    convert,
    reader::Reader,
    responses::{Opened, Responses},
    status::{fault_of, status_of},
    wire::{self, Encoded, EncodedUploadResponse, ResultMessage, ScanItems, inference_service_server::InferenceService},
};
use crate::{
    domain::{Fault, FaultKind, Timestamp},
    frontend::Bounds,
    proto::v1,
    registry::Model,
    service::{Caller, Method, PredictInput, Service, Terms},
    session::{Inbound, ItemResult, OnDrain, Upload, UploadOptions, UploadPart, UploadParts, collect_upload},
};

const PREDICT: Terms = Terms::unary("predict");
/// All of a scan's input is there when it opens.
const SCAN: Terms = Terms { on_drain: OnDrain::ReadToEnd, ..Terms::stream("scan") };
const UPLOAD: Terms = Terms::stream("upload");
const FEED: Terms = Terms::live("feed");

/// The native API over the one door.
#[derive(Clone)]
pub(super) struct Native {
    service: Service,
    predict: Method,
    scan: Method,
    upload: Method,
    feed: Method,
    max_message_bytes: usize,
    bounds: Bounds,
}

impl Native {
    pub(super) fn new(service: Service, max_message_bytes: usize, bounds: Bounds) -> Self {
        let [predict, scan, upload, feed] = [PREDICT, SCAN, UPLOAD, FEED].map(|terms| service.method(terms));
        Self { service, predict, scan, upload, feed, max_message_bytes, bounds }
    }

    fn open<I>(&self, method: &Method, config: v1::StreamConfig, caller: Caller, inbound: I) -> Result<Opened<I>, Fault>
    where
        I: Stream<Item = Result<Inbound, Fault>> + Unpin,
    {
        let request = convert::open_request(config, caller).map_err(|fault| method.refuse(fault))?;
        let stream = self.service.open(method, request)?;
        let message = convert::opened(&stream, self.max_message_bytes);
        let unread = stream.unread();
        let model = Arc::clone(stream.model());
        let session = stream.session(inbound).map_err(|fault| method.refuse(fault))?;
        Ok(Opened { message, model, session, unread })
    }

    /// What the call's metadata say, and who reads its response.
    fn begin<M>(&self, method: &Method, request: &Request<M>) -> (Caller, Arc<Reader>) {
        let (caller, reader) = (convert::caller(request.metadata(), &self.service), Reader::current());
        reader.begin_call(method.metrics(), caller.ends_at);
        (caller, reader)
    }

    /// Waits for a stream's first message, for no longer than the limits allow.
    async fn first_message<M>(&self, method: &Method, ends_at: Timestamp, messages: &mut Streaming<M>) -> Result<M, Fault> {
        let limit = self.service.config().open_timeout();
        let left = ends_at.since(crate::clock::now());
        let fault = tokio::select! {
            message = messages.message() => match message {
                Ok(Some(message)) => return Ok(message),
                Ok(None) => Fault::invalid("open", "the stream ended before its first message, which must be `open`"),
                Err(status) => fault_of(&status, self.max_message_bytes),
            },
            () = tokio::time::sleep(limit.min(left)) => {
                let message = format!("no `open` message within {limit:?} (session.open_timeout_s)");
                Fault::new(FaultKind::Expired, message).with_limit("session.open_timeout_s", limit.as_secs())
            }
            () = self.service.drain().token().cancelled() => {
                crate::service::draining()
            }
        };
        Err(method.refuse(fault))
    }
}

#[tonic::async_trait]
impl InferenceService for Native {
    async fn predict(&self, request: Request<wire::PredictRequest>) -> Result<Response<v1::PredictResponse>, Status> {
        let (caller, _) = self.begin(&self.predict, &request);
        let wire::PredictRequest { model, version, payload, priority, sample_rate_hz, accept_container_bytes } =
            request.into_inner();
        let input = match payload {
            Some(wire::predict_request::Payload::Item(item)) => PredictInput::Item(item.into_request()),
            Some(wire::predict_request::Payload::PcmS16le(samples)) => PredictInput::Pcm(samples),
            None => {
                let fault = Fault::invalid("payload", "the payload is missing: neither `item` nor `pcm_s16le` is set");
                return Err(status_of(&self.predict.refuse(fault)));
            }
        };
        let audio = v1::StreamConfig { sample_rate_hz, accept_container_bytes, ..v1::StreamConfig::default() };
        let config = v1::StreamConfig { model, version, priority, ..audio };
        let request = convert::open_request(config, caller).map_err(|fault| status_of(&self.predict.refuse(fault)))?;
        let (model, result) = self.service.predict(&self.predict, request, input).await.map_err(|fault| status_of(&fault))?;
        let timing = Some(convert::timing(&result));
        let outputs = result.outcome.map_err(|fault| status_of(&fault))?;
        Ok(Response::new(v1::PredictResponse {
            model: model.loaded.name.to_string(),
            version: model.loaded.version.to_string(),
            id: result.id,
            outputs: Some(convert::wire_outputs(outputs, &model)),
            timing,
        }))
    }

    type ScanStream = Responses<wire::ScanResponse, stream::Iter<ScanInput>>;

    async fn scan(&self, request: Request<wire::ScanRequest>) -> Result<Response<Self::ScanStream>, Status> {
        let (caller, reader) = self.begin(&self.scan, &request);
        let wire::ScanRequest { config, payload } = request.into_inner();
        let mut config = convert::stream_config("config", config).map_err(|fault| status_of(&self.scan.refuse(fault)))?;
        let (kind, input) = match payload {
            Some(wire::scan_request::Payload::Items(list)) => {
                let items = ScanItems::new(list, self.bounds.message.max_items);
                let items = items.map_err(|fault| status_of(&self.scan.refuse(fault)))?;
                (v1::PayloadKind::Tensors, ScanInput::Items(items))
            }
            Some(wire::scan_request::Payload::PcmS16le(samples)) => (v1::PayloadKind::PcmS16le, ScanInput::Pcm(Some(samples))),
            None => {
                let fault = Fault::invalid("payload", "the payload is missing: neither `items` nor `pcm_s16le` is set");
                return Err(status_of(&self.scan.refuse(fault)));
            }
        };
        if config.payload != v1::PayloadKind::Unspecified as i32 && config.payload != kind as i32 {
            let given = v1::PayloadKind::try_from(config.payload).map_or("unknown", |kind| kind.as_str_name());
            let sent = if kind == v1::PayloadKind::Tensors { "items" } else { "pcm_s16le" };
            let message =
                format!("config.payload is {} ({given}), but the request holds {sent}; leave it unspecified", config.payload);
            let fault = Fault::invalid("config.payload", message);
            return Err(status_of(&self.scan.refuse(fault)));
        }
        config.payload = kind.into();
        let opened = self.open(&self.scan, config, caller, stream::iter(input)).map_err(|fault| status_of(&fault))?;
        Ok(Response::new(Responses::new(reader, std::future::ready(Ok(opened)))))
    }

    async fn upload(&self, request: Request<Streaming<wire::UploadRequest>>) -> Result<Response<EncodedUploadResponse>, Status> {
        let (caller, _) = self.begin(&self.upload, &request);
        let mut messages = request.into_inner();
        let first = self.first_message(&self.upload, caller.ends_at, &mut messages).await.map_err(|fault| status_of(&fault))?;
        let Some(wire::upload_request::Part::Open(config)) = first.part else {
            let fault = Fault::invalid("open", "the first message must be `open`");
            return Err(status_of(&self.upload.refuse(fault)));
        };
        let expect =
            convert::expectation(config.expect.unwrap_or_default()).map_err(|fault| status_of(&self.upload.refuse(fault)))?;
        let limits = self.service.config();
        let options = UploadOptions {
            expect,
            include_results: config.include_results,
            max_results: limits.upload_max_results,
            max_result_bytes: limits.upload_max_result_bytes,
            max_bytes: limits.upload_max_bytes,
        };
        let parts = UploadParts::new(UploadMessages { messages, max_message_bytes: self.max_message_bytes }, &options);
        let stream =
            convert::stream_config("open.stream", config.stream).map_err(|fault| status_of(&self.upload.refuse(fault)))?;
        let Opened { model, session, .. } = self.open(&self.upload, stream, caller, parts).map_err(|fault| status_of(&fault))?;
        let upload = collect_upload(session, &options).await.map_err(|fault| status_of(&fault))?;
        // A result costs as much as a KiB more would.
        let work = upload.result_bytes + ((upload.results.len() + upload.segments.len()) << 10);
        let encoded = self.bounds.side.run_long(work, move || Ok(encode_upload(upload, &model))).await;
        encoded.map(Response::new).map_err(|fault| status_of(&self.upload.refuse(fault)))
    }

    type FeedStream = Responses<wire::FeedResponse, FeedMessages>;

    async fn feed(&self, request: Request<Streaming<wire::FeedRequest>>) -> Result<Response<Self::FeedStream>, Status> {
        let (caller, reader) = self.begin(&self.feed, &request);
        let mut messages = request.into_inner();
        let native = self.clone();
        let opening = async move {
            let first = native.first_message(&native.feed, caller.ends_at, &mut messages).await?;
            let Some(wire::feed_request::Message::Open(config)) = first.message else {
                return Err(native.feed.refuse(Fault::invalid("open", "the first message must be `open`")));
            };
            let inbound = FeedMessages { messages, max_message_bytes: native.max_message_bytes };
            native.open(&native.feed, config, caller, inbound)
        };
        Ok(Response::new(Responses::new(reader, opening)))
    }
}

/// All that is known of an upload, in the order of the proto.
fn encode_upload(upload: Upload, model: &Model) -> EncodedUploadResponse {
    let sample_rate_hz = model.loaded.framing.map_or(1, |framing| framing.sample_rate_hz);
    let signature = model.loaded.executable.signature();
    let head = v1::UploadResponse {
        model: model.loaded.name.to_string(),
        version: model.loaded.version.to_string(),
        segments: upload.segments.iter().map(|segment| convert::segment(segment, sample_rate_hz)).collect(),
        summary: Some(convert::summary(&upload.summary)),
        received: Some(convert::wire_digest(&upload.received)),
        ..v1::UploadResponse::default()
    };
    let results = |results: Vec<ItemResult>| -> Vec<_> {
        results.into_iter().map(|result| ResultMessage::new(result, signature)).collect()
    };
    Encoded::Already(wire::upload_response(&head, &results(upload.results), &results(upload.errors)))
}

/// What a `Scan` runs over, decoded as the session asks for it.
pub(super) enum ScanInput {
    Items(ScanItems),
    Pcm(Option<bytes::Bytes>),
}

impl Iterator for ScanInput {
    type Item = Result<Inbound, Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::Items(items) => items.next(),
            Self::Pcm(samples) => Some(Ok(Inbound::Chunk(samples.take()?))),
        }
    }
}

/// The messages of a `Feed` after its first.
pub(super) struct FeedMessages {
    messages: Streaming<wire::FeedRequest>,
    max_message_bytes: usize,
}

impl Stream for FeedMessages {
    type Item = Result<Inbound, Fault>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        use wire::feed_request::Message;
        let this = self.get_mut();
        Pin::new(&mut this.messages).poll_next(cx).map(|next| {
            let message = match next? {
                Ok(request) => request.message,
                Err(status) => return Some(Err(fault_of(&status, this.max_message_bytes))),
            };
            Some(match message {
                Some(Message::Item(item)) => Ok(Inbound::Item(item.into_request())),
                Some(Message::Chunk(chunk)) => Ok(Inbound::Chunk(chunk)),
                Some(Message::Flush(flush)) => convert::id("flush.id", flush.id).map(Inbound::Flush),
                Some(Message::Keepalive(_)) => Ok(Inbound::KeepAlive),
                Some(Message::Open(_)) => Err(second_open()),
                None => Err(Fault::invalid("message", "the message is empty, or of a kind that this server does not know")),
            })
        })
    }
}

/// The messages of an `Upload` after its first.
pub(super) struct UploadMessages {
    messages: Streaming<wire::UploadRequest>,
    max_message_bytes: usize,
}

impl Stream for UploadMessages {
    type Item = Result<UploadPart, Fault>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        use wire::upload_request::Part;
        let this = self.get_mut();
        Pin::new(&mut this.messages).poll_next(cx).map(|next| {
            let part = match next? {
                Ok(request) => request.part,
                Err(status) => return Some(Err(fault_of(&status, this.max_message_bytes))),
            };
            Some(match part {
                Some(Part::Chunk(chunk)) => Ok(UploadPart::Chunk(chunk)),
                Some(Part::Item(item)) => Ok(UploadPart::Item(item.into_request())),
                Some(Part::Finish(digest)) => convert::expectation(digest).map(UploadPart::Finish),
                Some(Part::Open(_)) => Err(second_open()),
                None => Err(Fault::invalid("part", "the message holds no part, or one of a kind that this server does not know")),
            })
        })
    }
}

fn second_open() -> Fault {
    Fault::invalid("open", "the stream is open already; `open` is for the first message only")
}
