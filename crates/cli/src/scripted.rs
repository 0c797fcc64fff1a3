//! A small server that follows a script, over real sockets, to test the client commands.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex},
};

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt as _};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tonic::{Request, Response, Status, Streaming, transport::Server};
use tonic_health::ServingStatus;

use tidemill_wire::{
    rpc,
    v1::{
        BatchCost, Batching, BatchingVerdict, Datatype, FeedRequest, FeedResponse, Framing, GetModelRequest, GetModelResponse,
        GetStatusRequest, GetStatusResponse, ItemResult, ListModelsRequest, ListModelsResponse, ModelDetail, ModelState,
        ModelSummary, Opened, Outputs, Padding, PayloadDigest, PayloadKind, PredictRequest, PredictResponse, ProveModelRequest,
        ProveModelResponse, ScanRequest, ScanResponse, Segment, SegmentStarted, Skipped, StreamConfig, StreamLimits, Summary,
        Tensor, TensorSpec, Timing, UploadRequest, UploadResponse, WindowPosition, feed_request, feed_response,
        inference_service_server::{InferenceService, InferenceServiceServer},
        item_result,
        model_service_server::{ModelService, ModelServiceServer},
        predict_request, scan_request, scan_response, upload_request,
    },
};

pub(super) const WINDOW_SAMPLES: usize = 512;
const WINDOW_BYTES: usize = WINDOW_SAMPLES * 2;

/// How the server behaves.
#[derive(Clone)]
pub(super) struct Script {
    /// Answer every call for a model with this.
    pub(super) refusal: Option<Status>,
    /// Answer this item with an error.
    pub(super) bad_item: Option<u64>,
    /// Before the end of a feed, say that these results are missing.
    pub(super) skipped: Option<Skipped>,
    /// End a feed with this after the first chunk.
    pub(super) break_off: Option<Status>,
    /// Largest message.
    pub(super) max_message_bytes: u64,
    /// Wrong checksum in the answer to an upload.
    pub(super) garble: bool,
    /// What the health service says about the model.
    pub(super) health: ServingStatus,
    /// Cancelled when the first chunk of a feed or upload has come.
    pub(super) first_chunk: CancellationToken,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            refusal: None,
            bad_item: None,
            break_off: None,
            skipped: None,
            max_message_bytes: 4 * 1024 * 1024,
            garble: false,
            health: ServingStatus::Serving,
            first_chunk: CancellationToken::new(),
        }
    }
}

/// The requests that the server received.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) config: Option<StreamConfig>,
    pub(super) audio: Vec<u8>,
    pub(super) chunk_lengths: Vec<usize>,
    pub(super) digest: Option<PayloadDigest>,
    pub(super) predict: Option<PredictRequest>,
}

/// A running server; dropping it stops it.
pub(super) struct ScriptedServer {
    pub(super) address: SocketAddr,
    pub(super) seen: Arc<Mutex<Seen>>,
    _serving: AbortOnDropHandle<()>,
}

impl ScriptedServer {
    pub(super) async fn start(script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (reporter, health) = tonic_health::server::health_reporter();
        reporter.set_service_status("silero-vad", script.health).await;
        let service = Scripted { script, seen: Arc::clone(&seen) };
        let serving = tokio::spawn(async move {
            let router = Server::builder()
                .add_service(InferenceServiceServer::new(service.clone()))
                .add_service(ModelServiceServer::new(service))
                .add_service(health);
            router.serve_with_incoming(TcpListenerStream::new(listener)).await.expect("served");
        });
        Self { address, seen, _serving: AbortOnDropHandle::new(serving) }
    }

    pub(super) fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().expect("no test panics while it holds this")
    }
}

#[derive(Clone)]
struct Scripted {
    script: Script,
    seen: Arc<Mutex<Seen>>,
}

type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Scripted {
    fn note(&self, note: impl FnOnce(&mut Seen)) {
        note(&mut self.seen.lock().expect("no test panics while it holds this"));
    }

    fn note_chunk(&self, chunk: &Bytes) {
        self.note(|seen| {
            seen.audio.extend_from_slice(chunk);
            seen.chunk_lengths.push(chunk.len());
        });
        self.script.first_chunk.cancel();
    }

    fn check(&self, model: &str) -> Result<(), Status> {
        let unknown = || Status::not_found(format!("no model '{model}'; there are: silero-vad"));
        self.script.refusal.clone().map_or(Ok(()), Err)?;
        if model == "silero-vad" { Ok(()) } else { Err(unknown()) }
    }

    fn limits(&self) -> StreamLimits {
        StreamLimits { window_items: 64, max_message_bytes: self.script.max_message_bytes, ..StreamLimits::default() }
    }

    fn opened(&self) -> Opened {
        let framing = Framing { sample_rate_hz: 16_000, window_samples: 512, context_samples: 64 };
        Opened { model: "silero-vad".into(), version: "1".into(), limits: Some(self.limits()), framing: Some(framing) }
    }

    fn result(&self, seq: u64, end_sample: u64) -> ItemResult {
        let start_sample = seq * WINDOW_SAMPLES as u64;
        let outcome = if self.script.bad_item == Some(seq) {
            item_result::Outcome::Error(rpc::Status { code: 4, message: "too late".into(), details: Vec::new() })
        } else {
            item_result::Outcome::Outputs(Outputs { tensors: vec![probability(seq as f32 / 4.0)] })
        };
        ItemResult {
            seq,
            id: String::new(),
            window: Some(WindowPosition { index: seq, start_sample, end_sample }),
            outcome: Some(outcome),
            timing: None,
            part: 0,
            last: true,
        }
    }

    fn results(&self, audio_bytes: usize) -> Vec<ItemResult> {
        let windows = audio_bytes.div_ceil(WINDOW_BYTES);
        (0..windows).map(|seq| self.result(seq as u64, ((seq + 1) * WINDOW_SAMPLES).min(audio_bytes / 2) as u64)).collect()
    }

    fn summary(&self, audio_bytes: usize) -> Summary {
        let results = self.results(audio_bytes);
        let errors = results.iter().filter(|result| matches!(result.outcome, Some(item_result::Outcome::Error(_)))).count();
        Summary {
            items: results.len() as u64,
            ok: (results.len() - errors) as u64,
            errors: errors as u64,
            samples: audio_bytes as u64 / 2,
            payload_bytes: audio_bytes as u64,
            elapsed: Some(prost_types::Duration { seconds: 0, nanos: 5_000_000 }),
            queue_ns: 1_000,
            compute_ns: 2_000,
        }
    }
}

fn probability(value: f32) -> Tensor {
    let data = Bytes::copy_from_slice(&value.to_le_bytes());
    Tensor { name: "output".into(), datatype: Datatype::Fp32.into(), shape: vec![1], data }
}

/// The only segment, over the first two windows.
const SEGMENT: Segment = Segment { index: 0, start_sample: 0, end_sample: 1_024, start_ms: 0, end_ms: 64 };

#[tonic::async_trait]
impl InferenceService for Scripted {
    type ScanStream = Responses<ScanResponse>;
    type FeedStream = Responses<FeedResponse>;

    async fn predict(&self, request: Request<PredictRequest>) -> Result<Response<PredictResponse>, Status> {
        let request = request.into_inner();
        self.check(&request.model)?;
        if let Some(predict_request::Payload::PcmS16le(audio)) = &request.payload {
            self.note_chunk(audio);
        }
        self.note(|seen| seen.predict = Some(request));
        Ok(Response::new(PredictResponse {
            model: "silero-vad".into(),
            version: "1".into(),
            id: String::new(),
            outputs: Some(Outputs { tensors: vec![probability(0.75)] }),
            timing: Some(Timing { queue_ns: 10, compute_ns: 20, age_ns: 30, batch_size: 1 }),
        }))
    }

    async fn scan(&self, request: Request<ScanRequest>) -> Result<Response<Self::ScanStream>, Status> {
        let request = request.into_inner();
        self.note(|seen| seen.config = request.config);
        let Some(scan_request::Payload::PcmS16le(audio)) = request.payload else {
            return Err(Status::invalid_argument("payload: no audio"));
        };
        self.note_chunk(&audio);
        let opened = scan_response::Event::Opened(self.opened());
        let results = self.results(audio.len()).into_iter().map(scan_response::Event::Result);
        let end = [scan_response::Event::Segment(SEGMENT), scan_response::Event::Completed(self.summary(audio.len()))];
        let events = std::iter::once(opened).chain(results).chain(end);
        let responses: Vec<_> = events.map(|event| Ok(ScanResponse { event: Some(event) })).collect();
        Ok(Response::new(futures::stream::iter(responses).boxed()))
    }

    async fn upload(&self, request: Request<Streaming<UploadRequest>>) -> Result<Response<UploadResponse>, Status> {
        let mut parts = request.into_inner();
        let (mut bytes, mut crc32c, mut include_results, mut sha256) = (0, 0, false, Bytes::new());
        while let Some(part) = parts.message().await? {
            match part.part {
                Some(upload_request::Part::Open(config)) => {
                    include_results = config.include_results;
                    self.note(|seen| seen.config = config.stream);
                }
                Some(upload_request::Part::Chunk(chunk)) => {
                    bytes += chunk.len();
                    crc32c = crc32c::crc32c_append(crc32c, &chunk);
                    self.note_chunk(&chunk);
                }
                Some(upload_request::Part::Finish(digest)) => {
                    sha256 = digest.sha256.clone();
                    self.note(|seen| seen.digest = Some(digest));
                }
                Some(upload_request::Part::Item(_)) | None => return Err(Status::invalid_argument("part: no audio")),
            }
        }
        let results = self.results(bytes);
        let is_error = |result: &&ItemResult| matches!(result.outcome, Some(item_result::Outcome::Error(_)));
        Ok(Response::new(UploadResponse {
            model: "silero-vad".into(),
            version: "1".into(),
            segments: vec![SEGMENT],
            summary: Some(self.summary(bytes)),
            received: Some(PayloadDigest {
                total_bytes: Some(bytes as u64),
                crc32c: Some(crc32c ^ u32::from(self.script.garble)),
                sha256,
            }),
            errors: results.iter().filter(is_error).cloned().collect(),
            results: if include_results { results } else { Vec::new() },
        }))
    }

    async fn feed(&self, request: Request<Streaming<FeedRequest>>) -> Result<Response<Self::FeedStream>, Status> {
        let mut requests = request.into_inner();
        let scripted = self.clone();
        let events = async_stream::try_stream! {
            let mut bytes = BytesMut::new();
            let mut answered = 0;
            while let Some(request) = requests.message().await? {
                match request.message {
                    Some(feed_request::Message::Open(config)) => {
                        scripted.check(&config.model)?;
                        scripted.note(|seen| seen.config = Some(config));
                        yield feed_response::Event::Opened(scripted.opened());
                        let started = SegmentStarted { index: 0, start_sample: 0, start_ms: 0 };
                        yield feed_response::Event::SegmentStarted(started);
                    }
                    Some(feed_request::Message::Chunk(chunk)) => {
                        scripted.note_chunk(&chunk);
                        scripted.script.break_off.clone().map_or(Ok(()), Err)?;
                        bytes.extend_from_slice(&chunk);
                        while (answered + 1) * WINDOW_BYTES <= bytes.len() {
                            yield feed_response::Event::Result(
                                scripted.result(answered as u64, ((answered + 1) * WINDOW_SAMPLES) as u64),
                            );
                            answered += 1;
                        }
                    }
                    _ => {}
                }
            }
            for result in scripted.results(bytes.len()).split_off(answered) {
                yield feed_response::Event::Result(result);
            }
            if let Some(skipped) = scripted.script.skipped {
                yield feed_response::Event::Skipped(skipped);
            }
            yield feed_response::Event::Segment(SEGMENT);
            yield feed_response::Event::Completed(scripted.summary(bytes.len()));
        };
        Ok(Response::new(events.map(|event: Result<_, Status>| Ok(FeedResponse { event: Some(event?) })).boxed()))
    }
}

#[tonic::async_trait]
impl ModelService for Scripted {
    async fn list_models(&self, _: Request<ListModelsRequest>) -> Result<Response<ListModelsResponse>, Status> {
        let failed = ModelSummary {
            name: "broken".into(),
            version: "2".into(),
            state: ModelState::Failed.into(),
            reason: "no such file".into(),
            ..ModelSummary::default()
        };
        Ok(Response::new(ListModelsResponse { models: vec![failed, summary()] }))
    }

    async fn get_model(&self, request: Request<GetModelRequest>) -> Result<Response<GetModelResponse>, Status> {
        self.check(&request.into_inner().name)?;
        let duration = Some(prost_types::Duration { seconds: 0, nanos: 400_000 });
        let model = ModelDetail {
            summary: Some(summary()),
            inputs: vec![
                TensorSpec { name: "input".into(), datatype: Datatype::Fp32.into(), shape: vec![-1, 4] },
                TensorSpec { name: "sr".into(), datatype: Datatype::Int64.into(), shape: vec![] },
                // Clients may leave it out.
                TensorSpec { name: "mask".into(), datatype: Datatype::Int64.into(), shape: vec![-1, -1] },
            ],
            outputs: vec![TensorSpec { name: "output".into(), datatype: Datatype::Fp32.into(), shape: vec![-1, 1] }],
            framing: self.opened().framing,
            payloads: vec![PayloadKind::Tensors.into(), PayloadKind::PcmS16le.into()],
            batch_costs: vec![BatchCost { batch_size: 4, duration }],
            batch_cap: 16,
            default_limits: Some(self.limits()),
            padding: Some(Padding { mask: "mask".into(), ..Padding::default() }),
            ..ModelDetail::default()
        };
        Ok(Response::new(GetModelResponse { model: Some(model) }))
    }

    async fn get_status(&self, _: Request<GetStatusRequest>) -> Result<Response<GetStatusResponse>, Status> {
        Ok(Response::new(GetStatusResponse { lanes: 2, ..GetStatusResponse::default() }))
    }

    async fn prove_model(&self, request: Request<ProveModelRequest>) -> Result<Response<ProveModelResponse>, Status> {
        let ProveModelRequest { name, seed } = request.into_inner();
        self.check(&name)?;
        let batching = Some(Batching { seed, ..batching() });
        Ok(Response::new(ProveModelResponse { models: vec![ModelSummary { batching, ..summary() }] }))
    }
}

fn batching() -> Batching {
    Batching {
        verdict: BatchingVerdict::Dependent.into(),
        shares_calls: false,
        detail: "others changed output 'output'".into(),
        proven_batch: 1,
        seed: 7,
    }
}

fn summary() -> ModelSummary {
    ModelSummary {
        name: "silero-vad".into(),
        version: "1".into(),
        state: ModelState::Ready.into(),
        reason: String::new(),
        engine: "rten".into(),
        description: "Finds speech.".into(),
        stateful: true,
        batching: Some(batching()),
    }
}
