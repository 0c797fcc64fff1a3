//! The native API: `feed`, `predict`, `scan` and `upload`.

use std::{borrow::Cow, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{FutureExt as _, TryFutureExt as _, future::BoxFuture, stream};
use tidemill_client::{
    Client, Error, Event, Events, ItemError, audio_framing, outputs,
    wire::{
        code_name, duration_to_wire,
        v1::{self, feed_request, predict_request, scan_request, upload_request},
    },
};
use tonic::{Code, Status};

use super::{
    call::Caller,
    file::{Load, Protocol},
    grpc::{ENDED_EARLY, Outbound, Source, end},
    line::Line,
    payload::Payload,
    pcm::{Chunks, Pcm},
    recorder::{Answer, End, Timing},
};

/// The messages that the streams and callers of a load send.
pub(crate) struct Template {
    config: v1::StreamConfig,
    tensors: Vec<v1::Tensor>,
    payload: Payload,
    /// Chunks of audio, instead of items.
    pcm: Option<(Pcm, Vec<Bytes>)>,
    batch: usize,
    in_flight: u32,
    deadline: Option<prost_types::Duration>,
}

impl Template {
    pub(crate) fn new(load: &Load, seed: u64) -> Self {
        let tensor = |input: &super::file::Input| v1::Tensor {
            name: input.name.clone(),
            datatype: v1::Datatype::from_str_name(&format!("DATATYPE_{}", input.datatype)).unwrap_or_default().into(),
            shape: input.shape.iter().map(|axis| *axis as i64).collect(),
            ..v1::Tensor::default()
        };
        let config = v1::StreamConfig {
            model: load.model.clone(),
            payload: load.pcm.map_or(v1::PayloadKind::Tensors, |_| v1::PayloadKind::PcmS16le).into(),
            // Chunks are not items.
            window_items: if load.pcm.is_some() { 0 } else { load.in_flight },
            default_deadline: load.deadline().map(duration_to_wire),
            ..v1::StreamConfig::default()
        };
        Self {
            config,
            tensors: load.inputs.iter().map(tensor).collect(),
            payload: Payload::new(&load.inputs, 1, seed),
            pcm: load.pcm.map(|pcm| (pcm, pcm.chunks(seed))),
            batch: load.batch,
            in_flight: load.in_flight,
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

    /// The numbers of the items or chunks of call number `seq`.
    fn of_call(&self, seq: u64) -> impl Iterator<Item = u64> + use<> {
        let batch = self.batch as u64;
        (0..batch).map(move |place| seq * batch + place)
    }

    /// Chunk number `seq` of a stream, if it is a stream of audio.
    fn chunk(&self, seq: u64) -> Option<Bytes> {
        let (_, chunks) = self.pcm.as_ref()?;
        Some(chunks[(seq % chunks.len() as u64) as usize].clone())
    }

    /// Streams within a call, whose window is the server's business.
    fn call_config(&self) -> v1::StreamConfig {
        v1::StreamConfig { window_items: 0, ..self.config.clone() }
    }
}

/// The items or chunks of one stream.
struct Items(Arc<Template>);

impl Source for Items {
    type Message = v1::FeedRequest;

    fn item(&self, seq: u64) -> v1::FeedRequest {
        let chunk = self.0.chunk(seq).map(feed_request::Message::Chunk);
        v1::FeedRequest { message: Some(chunk.unwrap_or_else(|| feed_request::Message::Item(self.0.item(seq)))) }
    }
}

/// An open feed; dropping it cancels it.
pub(crate) struct Feed {
    events: Events,
    line: Arc<Line>,
    /// For a stream of audio.
    chunks: Option<Chunks>,
}

impl Feed {
    /// Opens a stream and waits until the server has acknowledged it.
    ///
    /// # Errors
    /// Why the server refuses it; `FAILED_PRECONDITION` if its audio does not suit the model.
    pub(crate) async fn open(client: Client, template: Arc<Template>, line: Arc<Line>) -> Result<Self, Error> {
        let open = feed_request::Message::Open(template.config.clone());
        let (pcm, in_flight) = (template.pcm.as_ref().map(|(pcm, _)| *pcm), template.in_flight);
        let first = Some(v1::FeedRequest { message: Some(open) });
        let outbound = Outbound::new(first, Items(template), Arc::clone(&line));
        let (opened, events) = client.feed_from(outbound).await?;
        let chunks = pcm.map(|pcm| chunks_of(&pcm, in_flight, &opened)).transpose()?;
        Ok(Self { events, line, chunks })
    }

    /// Reads it to its end.
    pub(crate) async fn listen(mut self) {
        loop {
            match self.events.next().await {
                Ok(Some(Event::Result(result))) => {
                    let answer = answer_of(&result);
                    let Some(chunks) = &mut self.chunks else {
                        self.line.answered(&answer);
                        continue;
                    };
                    let answers = chunks.answered(answer.seq, self.line.sent(), answer.end, answer.timing);
                    answers.iter().for_each(|answer| self.line.answered(answer));
                }
                Ok(Some(Event::Completed(_))) => {
                    let left = self.chunks.as_mut().map(|chunks| chunks.completed(self.line.sent()));
                    left.iter().flatten().for_each(|answer| self.line.answered(answer));
                }
                Ok(Some(_)) => {}
                Ok(None) | Err(Error::EndedEarly) => return end(&self.line, None),
                Err(error) => return end(&self.line, Some(error.code())),
            }
        }
    }
}

/// # Errors
/// `FAILED_PRECONDITION` if the model takes another rate, or if no window could be completed with that many chunks in flight.
fn chunks_of(pcm: &Pcm, in_flight: u32, opened: &v1::Opened) -> Result<Chunks, Error> {
    let framing = audio_framing(opened.framing, &opened.model)?;
    if framing.sample_rate_hz != pcm.sample_rate_hz {
        let (model, load) = (framing.sample_rate_hz, pcm.sample_rate_hz);
        return Err(Status::failed_precondition(format!("pcm.sample_rate_hz = {load}: the model takes {model}")).into());
    }
    let chunks = Chunks::new(pcm.chunk_bytes(), u64::from(framing.window_samples) * 2);
    if chunks.in_flight_min() > in_flight.into() {
        let least = chunks.in_flight_min();
        return Err(
            Status::failed_precondition(format!("in_flight = {in_flight}: a window of the model is {least} chunks")).into()
        );
    }
    Ok(chunks)
}

fn answer_of(result: &v1::ItemResult) -> Answer {
    Answer { seq: result.seq, end: end_of(result), timing: result.timing.map(timing_of), items: 1 }
}

fn end_of(result: &v1::ItemResult) -> End {
    match outputs(result) {
        Ok(_) => End::Outputs,
        Err(ItemError::Answered(status)) => End::Error(Cow::Borrowed(code_name(Code::from_i32(status.code)))),
        Err(ItemError::Empty) => End::Error(Cow::Borrowed("EMPTY_ANSWER")),
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
    client: Client,
    template: Arc<Template>,
}

impl NativeCaller {
    pub(crate) const fn new(protocol: Protocol, client: Client, template: Arc<Template>) -> Self {
        Self { protocol, client, template }
    }
}

impl Caller for NativeCaller {
    fn call(&self, seq: u64) -> BoxFuture<'static, Answer> {
        let (client, template) = (self.client.clone(), Arc::clone(&self.template));
        match self.protocol {
            Protocol::Scan => answered(seq, scan(client, template, seq).map_err(|error| error.code())).boxed(),
            Protocol::Upload => answered(seq, upload(client, template, seq).map_err(|error| error.code())).boxed(),
            _ => answered(seq, predict(client, template, seq)).boxed(),
        }
    }
}

/// The outcome of a call; [`answered`] fills in its number.
struct Went {
    end: End,
    timing: Option<Timing>,
    items: u32,
}

async fn answered(seq: u64, call: impl Future<Output = Result<Went, Code>>) -> Answer {
    match call.await {
        Ok(Went { end, timing, items }) => Answer { seq, end, timing, items },
        Err(code) => Answer { seq, end: End::Error(code_name(code).into()), timing: None, items: 1 },
    }
}

async fn predict(client: Client, template: Arc<Template>, seq: u64) -> Result<Went, Code> {
    let item = v1::Item { deadline: template.deadline, ..template.item(seq) };
    let request = v1::PredictRequest {
        model: template.config.model.clone(),
        payload: Some(predict_request::Payload::Item(item)),
        ..v1::PredictRequest::default()
    };
    // Of a refusal, only the code is wanted: reading the rest would take time from the load.
    let response = client.inference().predict(request).await.map_err(|status| status.code())?.into_inner();
    Ok(Went { end: End::Outputs, timing: response.timing.map(timing_of), items: 1 })
}

/// Reports the times of the last item to be answered.
async fn scan(client: Client, template: Arc<Template>, seq: u64) -> Result<Went, Error> {
    let audio: Option<Vec<_>> = template.of_call(seq).map(|seq| template.chunk(seq)).collect();
    let payload = match audio {
        Some(chunks) => scan_request::Payload::PcmS16le(chunks.concat().into()),
        None => {
            scan_request::Payload::Items(v1::ItemList { items: template.of_call(seq).map(|seq| template.item(seq)).collect() })
        }
    };
    let request = v1::ScanRequest { config: Some(template.call_config()), payload: Some(payload) };
    let (_, mut events) = client.scan(request).await?;
    let mut went = Went { end: End::Error(ENDED_EARLY.into()), timing: None, items: 0 };
    let mut first_error = None;
    while let Some(event) = events.next().await? {
        match event {
            Event::Result(result) => match end_of(&result) {
                End::Outputs => {
                    went.items += 1;
                    went.timing = result.timing.map(timing_of);
                }
                error @ End::Error(_) => {
                    first_error.get_or_insert(error);
                }
            },
            Event::Completed(_) => went.end = first_error.take().unwrap_or(End::Outputs),
            _ => {}
        }
    }
    Ok(went)
}

async fn upload(client: Client, template: Arc<Template>, seq: u64) -> Result<Went, Error> {
    let open = v1::UploadConfig { stream: Some(template.call_config()), ..v1::UploadConfig::default() };
    let part = |part| v1::UploadRequest { part: Some(part) };
    let mut parts = vec![part(upload_request::Part::Open(open))];
    parts.extend(template.of_call(seq).map(|seq| {
        let chunk = template.chunk(seq).map(upload_request::Part::Chunk);
        part(chunk.unwrap_or_else(|| upload_request::Part::Item(template.item(seq))))
    }));
    let response = client.upload(stream::iter(parts)).await?;
    let ok = response.summary.map_or(0, |summary| summary.ok);
    let end = response.errors.first().map_or(End::Outputs, end_of);
    Ok(Went { end, timing: None, items: u32::try_from(ok).unwrap_or(u32::MAX) })
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tidemill::{app::Server, config::Config};

    use super::super::{file::Scenario, plan, progress::Progress, results::LoadResult};
    use crate::target::Means;

    const AUDIO: &str = "version = 1\nname = 'x'\nduration_s = 0.5\nwarm_up_s = 0\nconnections = 1\n[[loads]]\nname = 'a'\n\
                         model = 'silero-vad'\nstreams = 1\n";

    /// The result of a load on the model inside the server.
    async fn run(load: &str) -> anyhow::Result<LoadResult> {
        let mut config = Config::default();
        for address in [&mut config.server.grpc_addr, &mut config.server.http_addr, &mut config.server.admin_addr] {
            *address = (Ipv4Addr::LOCALHOST, 0).into();
        }
        config.models.example = false;
        let server = Server::start(config).await.expect("it starts");
        let mut scenario = Scenario::parse(&format!("{AUDIO}{load}"), &[]).expect("a sound scenario");
        scenario.addr = server.grpc_addr().to_string();
        let mut run = plan::run(&scenario, None, Means::default(), &mut Progress::new(true)).await?;
        Ok(run.steps.remove(0).total)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn every_chunk_of_a_live_stream_is_answered_and_every_window_counted() {
        let load =
            "protocol = 'feed'\narrivals = { process = 'constant', rate_hz = 100 }\npcm = { sound = 'tone', chunk_ms = 20 }\n";
        let found = run(load).await.expect("it runs");
        let chunks = found.offered;
        assert!(chunks > 10, "{found:?}");
        assert_eq!((found.ok, found.unanswered, found.errors_total()), (chunks, 0, 0), "{found:?}");
        // The padded last window belongs to the last chunk, unless that has already completed one.
        let whole = |chunks: u64| chunks * 640 / 1024;
        let windows = if whole(chunks) > whole(chunks - 1) { whole(chunks) } else { (chunks * 640).div_ceil(1024) };
        assert_eq!(found.ok_items, windows, "{found:?}");
        let latencies = found.latency_us.expect("windows have latencies").count;
        assert!(latencies < chunks && latencies <= windows, "{latencies}: chunks without a window have none");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn calls_of_chunks_are_answered_with_their_windows() {
        for protocol in ["scan", "upload"] {
            let load = format!(
                "protocol = '{protocol}'\narrivals = {{ process = 'closed' }}\nbatch = 4\npcm = {{ chunk_bytes = 1024 }}\n"
            );
            let found = run(&load).await.expect("it runs");
            assert!(found.ok > 0 && found.errors_total() == 0, "{protocol}: {found:?}");
            assert_eq!(found.ok_items, found.ok * 4, "{protocol}");
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn audio_that_the_model_cannot_hear_is_refused() {
        for (pcm, in_flight, part) in [
            ("{ chunk_ms = 20, sample_rate_hz = 8000 }", 8, "the model takes 16000"),
            ("{ chunk_bytes = 100 }", 8, "a window of the model is 11 chunks"),
        ] {
            let arrivals = "{ process = 'closed' }";
            let load = format!("protocol = 'feed'\nin_flight = {in_flight}\narrivals = {arrivals}\npcm = {pcm}\n");
            let error = format!("{:#}", run(&load).await.expect_err("it cannot be heard"));
            assert!(error.contains(part), "{error}");
        }
    }
}
