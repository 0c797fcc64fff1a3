//! The native API: `feed`, `predict`, `scan` and `upload`.

use std::{borrow::Cow, sync::Arc, time::Duration};

use futures::{FutureExt as _, future::BoxFuture, stream};
use tidemill::proto::{
    code_name, duration_to_wire,
    v1::{
        self, feed_request, feed_response, inference_service_client::InferenceServiceClient, item_result, predict_request,
        scan_request, scan_response, upload_request,
    },
};
use tonic::{Code, Status, Streaming, transport::Channel};

use super::{
    call::Caller,
    file::{Load, Protocol},
    grpc::{ANSWER_BYTES_MAX, ENDED_EARLY, Outbound, Source, end},
    line::Line,
    payload::Payload,
    recorder::{Answer, End, Timing},
};

/// What the streams and callers of a load send.
pub(crate) struct Template {
    config: v1::StreamConfig,
    tensors: Vec<v1::Tensor>,
    payload: Payload,
    batch: usize,
    deadline: Option<prost_types::Duration>,
}

impl Template {
    pub(crate) fn new(load: &Load, seed: u64) -> Self {
        let tensor = |input: &super::file::Input| v1::Tensor {
            name: input.name.clone(),
            datatype: v1::Datatype::from(input.datatype).into(),
            shape: input.shape.iter().map(|axis| *axis as i64).collect(),
            ..v1::Tensor::default()
        };
        let config = v1::StreamConfig {
            model: load.model.clone(),
            window_items: load.in_flight,
            default_deadline: load.deadline().map(duration_to_wire),
            ..v1::StreamConfig::default()
        };
        Self {
            config,
            tensors: load.inputs.iter().map(tensor).collect(),
            payload: Payload::new(&load.inputs, 1, seed),
            batch: load.batch,
            deadline: load.deadline().map(duration_to_wire),
        }
    }

    /// Item number `seq` of a stream.
    pub(crate) fn item(&self, seq: u64) -> v1::Item {
        let mut inputs = self.tensors.clone();
        for (tensor, data) in inputs.iter_mut().zip(self.payload.of(seq)) {
            tensor.data = data.clone();
        }
        v1::Item { inputs, ..v1::Item::default() }
    }

    /// The items of call number `seq`.
    fn items(&self, seq: u64) -> impl Iterator<Item = v1::Item> + use<'_> {
        (0..self.batch as u64).map(move |place| self.item(seq * self.batch as u64 + place))
    }

    /// Streams within a call, whose window is the server's business.
    fn call_config(&self) -> v1::StreamConfig {
        v1::StreamConfig { window_items: 0, ..self.config.clone() }
    }
}

fn client(channel: Channel) -> InferenceServiceClient<Channel> {
    InferenceServiceClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX)
}

/// The items of one stream.
struct Items(Arc<Template>);

impl Source for Items {
    type Message = v1::FeedRequest;

    fn item(&self, seq: u64) -> v1::FeedRequest {
        v1::FeedRequest { message: Some(feed_request::Message::Item(self.0.item(seq))) }
    }
}

/// An open feed; dropping it cancels it.
pub(crate) struct Feed {
    inbound: Streaming<v1::FeedResponse>,
    line: Arc<Line>,
}

impl Feed {
    /// Opens a stream and waits until the server has acknowledged it.
    ///
    /// # Errors
    /// The status that the server refuses it with.
    pub(crate) async fn open(channel: Channel, template: Arc<Template>, line: Arc<Line>) -> Result<Self, Status> {
        let open = feed_request::Message::Open(template.config.clone());
        let first = Some(v1::FeedRequest { message: Some(open) });
        let outbound = Outbound::new(first, Items(template), Arc::clone(&line));
        let mut inbound = client(channel).feed(outbound).await?.into_inner();
        match inbound.message().await? {
            Some(v1::FeedResponse { event: Some(feed_response::Event::Opened(_)) }) => Ok(Self { inbound, line }),
            _ => Err(Status::internal("the first message of a stream is not `opened`")),
        }
    }

    /// Hears it to its end.
    pub(crate) async fn listen(mut self) {
        loop {
            match self.inbound.message().await {
                Ok(Some(v1::FeedResponse { event: Some(feed_response::Event::Result(result)) })) => {
                    self.line.answered(&answer_of(result));
                }
                Ok(Some(_)) => {}
                Ok(None) => return end(&self.line, None),
                Err(status) => return end(&self.line, Some(status)),
            }
        }
    }
}

fn answer_of(result: v1::ItemResult) -> Answer {
    Answer { seq: result.seq, end: end_of(result.outcome.as_ref()), timing: result.timing.map(timing_of), items: 1 }
}

fn end_of(outcome: Option<&item_result::Outcome>) -> End {
    match outcome {
        Some(item_result::Outcome::Outputs(_)) => End::Outputs,
        Some(item_result::Outcome::Error(status)) => End::Error(Cow::Borrowed(code_name(Code::from_i32(status.code)))),
        None => End::Error(Cow::Borrowed("EMPTY_ANSWER")),
    }
}

fn timing_of(timing: v1::Timing) -> Timing {
    Timing {
        queue: Duration::from_nanos(timing.queue_ns),
        compute: Duration::from_nanos(timing.compute_ns),
        age: Duration::from_nanos(timing.age_ns),
        batch_size: timing.batch_size,
    }
}

/// A caller of `predict`, `scan` or `upload`.
pub(crate) struct NativeCaller {
    protocol: Protocol,
    client: InferenceServiceClient<Channel>,
    template: Arc<Template>,
}

impl NativeCaller {
    pub(crate) fn new(protocol: Protocol, channel: Channel, template: Arc<Template>) -> Self {
        Self { protocol, client: client(channel), template }
    }
}

impl Caller for NativeCaller {
    fn call(&self, seq: u64) -> BoxFuture<'static, Answer> {
        let (client, template) = (self.client.clone(), Arc::clone(&self.template));
        match self.protocol {
            Protocol::Scan => answered(seq, scan(client, template, seq)).boxed(),
            Protocol::Upload => answered(seq, upload(client, template, seq)).boxed(),
            _ => answered(seq, predict(client, template, seq)).boxed(),
        }
    }
}

/// How a call went; its number is put in by [`answered`].
struct Went {
    end: End,
    timing: Option<Timing>,
    items: u32,
}

async fn answered(seq: u64, call: impl Future<Output = Result<Went, Status>>) -> Answer {
    match call.await {
        Ok(Went { end, timing, items }) => Answer { seq, end, timing, items },
        Err(status) => Answer { seq, end: End::Error(code_name(status.code()).into()), timing: None, items: 1 },
    }
}

async fn predict(mut client: InferenceServiceClient<Channel>, template: Arc<Template>, seq: u64) -> Result<Went, Status> {
    let item = v1::Item { deadline: template.deadline, ..template.item(seq) };
    let request = v1::PredictRequest {
        model: template.config.model.clone(),
        payload: Some(predict_request::Payload::Item(item)),
        ..v1::PredictRequest::default()
    };
    let response = client.predict(request).await?.into_inner();
    Ok(Went { end: End::Outputs, timing: response.timing.map(timing_of), items: 1 })
}

/// Of the times of its items, those of the last to be answered are told.
async fn scan(mut client: InferenceServiceClient<Channel>, template: Arc<Template>, seq: u64) -> Result<Went, Status> {
    let items = v1::ItemList { items: template.items(seq).collect() };
    let request = v1::ScanRequest { config: Some(template.call_config()), payload: Some(scan_request::Payload::Items(items)) };
    let mut events = client.scan(request).await?.into_inner();
    let mut went = Went { end: End::Error(ENDED_EARLY.into()), timing: None, items: 0 };
    let mut first_error = None;
    while let Some(response) = events.message().await? {
        match response.event {
            Some(scan_response::Event::Result(result)) => match end_of(result.outcome.as_ref()) {
                End::Outputs => {
                    went.items += 1;
                    went.timing = result.timing.map(timing_of);
                }
                error @ End::Error(_) => {
                    first_error.get_or_insert(error);
                }
            },
            Some(scan_response::Event::Completed(_)) => went.end = first_error.take().unwrap_or(End::Outputs),
            _ => {}
        }
    }
    Ok(went)
}

async fn upload(mut client: InferenceServiceClient<Channel>, template: Arc<Template>, seq: u64) -> Result<Went, Status> {
    let open = v1::UploadConfig { stream: Some(template.call_config()), ..v1::UploadConfig::default() };
    let part = |part| v1::UploadRequest { part: Some(part) };
    let mut parts = vec![part(upload_request::Part::Open(open))];
    parts.extend(template.items(seq).map(|item| part(upload_request::Part::Item(item))));
    let response = client.upload(stream::iter(parts)).await?.into_inner();
    let ok = response.summary.map_or(0, |summary| summary.ok);
    let end = match response.errors.first() {
        Some(error) => end_of(error.outcome.as_ref()),
        None => End::Outputs,
    };
    Ok(Went { end, timing: None, items: u32::try_from(ok).unwrap_or(u32::MAX) })
}
