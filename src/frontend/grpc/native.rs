//! The service `tidemill.v1.InferenceService`.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use futures::{Stream, StreamExt as _, stream};
use tonic::{Request, Response, Status, Streaming};

use super::{
    caller, convert,
    reader::Reader,
    responses::Responses,
    status::{fault_of, status_of},
    wire::{self, Encoded, EncodedUploadResponse, ResultMessage, ScanItems, inference_service_server::InferenceService},
};
use crate::{
    domain::Fault,
    frontend::{
        Bounds,
        messages::feed::{self, FeedInput},
    },
    native::{self, Native, Opened},
    proto::v1,
    registry::Model,
    service::{Caller, Method, OpenRequest, PredictInput, Service, Terms},
    session::{Inbound, ItemResult, OnDrain, PayloadKind, Upload, UploadOptions, UploadPart, UploadParts, collect_upload},
    side::INLINE_BYTES_MAX,
};

const PREDICT: Terms = Terms::unary("predict");
/// All of a scan's input is there when it opens.
const SCAN: Terms = Terms { on_drain: OnDrain::ReadToEnd, ..Terms::stream("scan") };
const UPLOAD: Terms = Terms::stream("upload");
const FEED: Terms = Terms::live("feed");

/// The service over the native API.
#[derive(Clone)]
pub(super) struct NativeGrpc {
    native: Native,
    predict: Method,
    scan: Method,
    upload: Method,
    feed: Method,
    max_message_bytes: usize,
    bounds: Bounds,
}

impl NativeGrpc {
    pub(super) fn new(service: Service, max_message_bytes: usize, bounds: Bounds) -> Self {
        let [predict, scan, upload, feed] = [PREDICT, SCAN, UPLOAD, FEED].map(|terms| service.method(terms));
        Self { native: Native::new(service, max_message_bytes), predict, scan, upload, feed, max_message_bytes, bounds }
    }

    /// What the call's metadata say, and the reader of its response.
    fn begin<M>(&self, method: &Method, request: &Request<M>) -> (Caller, Arc<Reader>) {
        let (caller, reader) = (caller::caller(request.metadata(), self.native.service()), Reader::current());
        reader.begin_call(method.metrics(), caller.ends_at);
        (caller, reader)
    }

    async fn predicted(&self, caller: Caller, request: wire::PredictRequest) -> Result<v1::PredictResponse, Fault> {
        let wire::PredictRequest { model, version, payload, priority, sample_rate_hz, accept_container_bytes, audio_format } =
            request;
        let input = match payload {
            Some(wire::predict_request::Payload::Item(item)) => PredictInput::Item(item.into_request()),
            Some(wire::predict_request::Payload::PcmS16le(samples)) => PredictInput::Pcm(samples),
            None => {
                let fault = Fault::invalid("payload", "the payload is missing: neither `item` nor `pcm_s16le` is set");
                return Err(self.predict.refuse(fault));
            }
        };
        let config = v1::StreamConfig {
            model,
            version,
            priority,
            sample_rate_hz,
            accept_container_bytes,
            audio_format,
            ..v1::StreamConfig::default()
        };
        let request = convert::open_request(config, caller).map_err(|fault| self.predict.refuse(fault))?;
        let (model, result) = self.native.service().predict(&self.predict, request, input).await?;
        let timing = Some(convert::timing(&result));
        let outputs = result.outcome?;
        Ok(v1::PredictResponse {
            model: model.loaded.name.to_string(),
            version: model.loaded.version.to_string(),
            id: result.id,
            outputs: Some(convert::wire_outputs(outputs, &model)),
            timing,
        })
    }

    /// What opens a scan, and what it runs over.
    fn scanned(&self, caller: Caller, request: wire::ScanRequest) -> Result<(OpenRequest, ScanInput), Fault> {
        let wire::ScanRequest { config, payload } = request;
        let config = convert::stream_config("config", config)?;
        let (held, input) = match payload {
            Some(wire::scan_request::Payload::Items(list)) => {
                (PayloadKind::Tensors, ScanInput::Items(ScanItems::new(list, self.bounds.message.max_items)?))
            }
            Some(wire::scan_request::Payload::PcmS16le(samples)) => (PayloadKind::PcmS16le, ScanInput::Pcm(Some(samples))),
            None => return Err(Fault::invalid("payload", "the payload is missing: neither `items` nor `pcm_s16le` is set")),
        };
        let stated = convert::payload("config.payload", config.payload)?;
        let payload = native::payload("config.payload", stated, held)?;
        Ok((OpenRequest { payload, ..convert::open_request(config, caller)? }, input))
    }

    async fn uploaded(&self, caller: Caller, messages: Streaming<wire::UploadRequest>) -> Result<EncodedUploadResponse, Fault> {
        let mut messages = Messages { messages, max_message_bytes: self.max_message_bytes };
        let opens = |message: wire::UploadRequest| match message.part {
            Some(wire::upload_request::Part::Open(config)) => Some(config),
            _ => None,
        };
        let config = self.native.first(&self.upload, caller.ends_at, &mut messages, opens).await?;
        let (request, options) = self.upload_options(config, caller).map_err(|fault| self.upload.refuse(fault))?;
        let parts = UploadParts::new(messages.map(|message| message.and_then(upload_part)), &options);
        let Opened { model, session, .. } = self.native.open(&self.upload, request, parts)?;
        let upload = collect_upload(session, &options).await?;
        // A result costs as much as another KiB would.
        let work = upload.result_bytes + ((upload.results.len() + upload.segments.len()) << 10);
        let encoded = self.bounds.side.run_long(work, INLINE_BYTES_MAX, move || Ok(encode_upload(upload, &model))).await;
        encoded.map_err(|fault| self.upload.refuse(fault))
    }

    fn upload_options(&self, open: v1::UploadConfig, caller: Caller) -> Result<(OpenRequest, UploadOptions), Fault> {
        let limits = self.native.service().config();
        let options = UploadOptions {
            expect: convert::expectation(open.expect.unwrap_or_default())?,
            include_results: open.include_results,
            max_results: limits.upload_max_results,
            max_result_bytes: limits.upload_max_result_bytes,
            max_bytes: limits.upload_max_bytes,
        };
        Ok((convert::open_request(convert::stream_config("open.stream", open.stream)?, caller)?, options))
    }
}

#[tonic::async_trait]
impl InferenceService for NativeGrpc {
    async fn predict(&self, request: Request<wire::PredictRequest>) -> Result<Response<v1::PredictResponse>, Status> {
        let (caller, _) = self.begin(&self.predict, &request);
        self.predicted(caller, request.into_inner()).await.map(Response::new).map_err(|fault| status_of(&fault))
    }

    type ScanStream = Responses<wire::ScanResponse, stream::Iter<ScanInput>>;

    async fn scan(&self, request: Request<wire::ScanRequest>) -> Result<Response<Self::ScanStream>, Status> {
        let (caller, reader) = self.begin(&self.scan, &request);
        let scanned = self.scanned(caller, request.into_inner()).map_err(|fault| self.scan.refuse(fault));
        let opened = scanned.and_then(|(request, input)| self.native.open(&self.scan, request, stream::iter(input)));
        let opened = opened.map_err(|fault| status_of(&fault))?;
        Ok(Response::new(Responses::new(reader, std::future::ready(Ok(opened)))))
    }

    async fn upload(&self, request: Request<Streaming<wire::UploadRequest>>) -> Result<Response<EncodedUploadResponse>, Status> {
        let (caller, _) = self.begin(&self.upload, &request);
        self.uploaded(caller, request.into_inner()).await.map(Response::new).map_err(|fault| status_of(&fault))
    }

    type FeedStream = Responses<wire::FeedResponse, Feed>;

    async fn feed(&self, request: Request<Streaming<wire::FeedRequest>>) -> Result<Response<Self::FeedStream>, Status> {
        let (caller, reader) = self.begin(&self.feed, &request);
        let mut messages = Messages { messages: request.into_inner(), max_message_bytes: self.max_message_bytes };
        let (native, method) = (self.native.clone(), self.feed.clone());
        let opening = async move {
            let opens = |message: wire::FeedRequest| match message.message {
                Some(wire::feed_request::Message::Open(config)) => Some(config),
                _ => None,
            };
            let config = native.first(&method, caller.ends_at, &mut messages, opens).await?;
            let request = convert::open_request(config, caller).map_err(|fault| method.refuse(fault))?;
            native.open(&method, request, feed_input(messages))
        };
        Ok(Response::new(Responses::new(reader, opening)))
    }
}

/// The status of an upload, its fields in the proto's order.
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

/// A client's messages, with faults instead of statuses.
pub(super) struct Messages<M> {
    messages: Streaming<M>,
    max_message_bytes: usize,
}

impl<M> Stream for Messages<M> {
    type Item = Result<M, Fault>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        let next = ready!(Pin::new(&mut this.messages).poll_next(cx));
        Poll::Ready(next.map(|message| message.map_err(|status| fault_of(&status, this.max_message_bytes))))
    }
}

/// What a message after the first of a `Feed` says.
type Said = Result<Option<Inbound>, Fault>;

/// The input of a `Feed` after its first message.
type Feed = FeedInput<stream::Map<Messages<wire::FeedRequest>, fn(Result<wire::FeedRequest, Fault>) -> Said>>;

fn feed_input(messages: Messages<wire::FeedRequest>) -> Feed {
    let said: fn(_) -> Said = |message: Result<wire::FeedRequest, Fault>| message.and_then(feed::inbound);
    FeedInput::new(messages.map(said))
}

fn upload_part(request: wire::UploadRequest) -> Result<UploadPart, Fault> {
    use wire::upload_request::Part;
    match request.part {
        Some(Part::Chunk(chunk)) => Ok(UploadPart::Chunk(chunk)),
        Some(Part::Item(item)) => Ok(UploadPart::Item(item.into_request())),
        Some(Part::Finish(digest)) => convert::expectation(digest).map(UploadPart::Finish),
        Some(Part::Open(_)) => Err(native::open_twice()),
        None => Err(Fault::invalid("part", "the message holds no part, or one of a kind that this server does not know")),
    }
}
