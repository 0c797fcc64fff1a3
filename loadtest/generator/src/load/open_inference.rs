//! The Open Inference Protocol over gRPC: `infer` and `infer_stream`, to any server that speaks it.
//!
//! Tensors go as raw bytes, in shapes that begin with the batch. Nothing is sent that only one server would understand.

use std::{collections::BTreeMap, sync::Arc};

use futures::{FutureExt as _, future::BoxFuture};
use tidemill_client::{
    Client, Transport,
    wire::{
        code_name,
        inference::{
            InferParameter, ModelInferRequest, ModelStreamInferResponse,
            grpc_inference_service_client::GrpcInferenceServiceClient, infer_parameter::ParameterChoice,
            model_infer_request::InferInputTensor,
        },
    },
};
use tonic::{Status, Streaming};

use super::{
    call::Caller,
    file::{Input, Load},
    grpc::{Outbound, Source, end},
    line::Line,
    payload::Payload,
    recorder::{Answer, End},
};

/// How an error inside a stream is counted: it has a text but no code.
const ERROR_IN_STREAM: &str = "ERROR_MESSAGE";

/// Bits of a sequence's number that count the streams of a load.
const STREAM_BITS: u32 = 24;

/// Bits of it that count the loads of a file.
const LOAD_BITS: u32 = 8;

/// The requests that the streams and callers of a load send.
pub(crate) struct Template {
    request: ModelInferRequest,
    payload: Payload,
    items: u32,
    /// The number of the first stream's sequence.
    first_sequence: Option<i64>,
}

impl Template {
    /// `place` is the load's place in its file.
    pub(crate) fn new(load: &Load, place: usize, seed: u64) -> Self {
        let tensor = |input: &Input| InferInputTensor {
            name: input.name.clone(),
            datatype: input.datatype.name().to_owned(),
            shape: std::iter::once(load.batch).chain(input.shape.iter().copied()).map(|axis| axis as i64).collect(),
            ..InferInputTensor::default()
        };
        let mut request = ModelInferRequest {
            model_name: load.model.clone(),
            inputs: load.inputs.iter().map(tensor).collect(),
            ..ModelInferRequest::default()
        };
        if let Some(deadline) = load.deadline() {
            let micros = ParameterChoice::Int64Param(deadline.as_micros() as i64);
            request.parameters.insert("timeout".to_owned(), parameter(micros));
        }
        // Runs of this tool at the same time must not share sequences.
        let process = i64::from(std::process::id()) << (STREAM_BITS + LOAD_BITS);
        let first_sequence = load.sequence.then(|| (process | (place as i64) << STREAM_BITS) + 1);
        Self { request, payload: Payload::new(&load.inputs, load.batch, seed), items: load.batch as u32, first_sequence }
    }

    /// Request number `seq` of stream number `stream`.
    fn request(&self, stream: usize, seq: u64) -> ModelInferRequest {
        let mut request =
            ModelInferRequest { id: seq.to_string(), raw_input_contents: self.payload.of(seq).to_vec(), ..self.request.clone() };
        self.mark(&mut request.parameters, stream, seq == 0, false);
        request
    }

    /// The request that ends a sequence; a sequence's last step is not known when it is sent.
    fn last(&self, stream: usize, sent: u64) -> Option<ModelInferRequest> {
        if self.first_sequence.is_none() || sent == 0 {
            return None;
        }
        let mut request = self.request(stream, sent);
        self.mark(&mut request.parameters, stream, false, true);
        Some(request)
    }

    fn mark(&self, parameters: &mut BTreeMap<String, InferParameter>, stream: usize, is_first: bool, is_last: bool) {
        let Some(first_sequence) = self.first_sequence else { return };
        let mut set = |name: &str, choice| parameters.insert(name.to_owned(), parameter(choice));
        set("sequence_id", ParameterChoice::Int64Param(first_sequence + stream as i64));
        set("sequence_start", ParameterChoice::BoolParam(is_first));
        set("sequence_end", ParameterChoice::BoolParam(is_last));
    }
}

const fn parameter(choice: ParameterChoice) -> InferParameter {
    InferParameter { parameter_choice: Some(choice) }
}

/// A caller of `ModelInfer`.
pub(crate) struct InferCaller {
    client: GrpcInferenceServiceClient<Transport>,
    template: Arc<Template>,
    number: usize,
}

impl InferCaller {
    /// Caller `number` of its load.
    pub(crate) fn new(client: &Client, template: Arc<Template>, number: usize) -> Self {
        Self { client: client.open_inference(), template, number }
    }
}

impl Caller for InferCaller {
    fn call(&self, seq: u64) -> BoxFuture<'static, Answer> {
        let mut client = self.client.clone();
        let (request, items) = (self.template.request(self.number, seq), self.template.items);
        async move {
            let end = match client.model_infer(request).await {
                Ok(_) => End::Outputs,
                Err(status) => End::Error(code_name(status.code()).into()),
            };
            Answer { seq, end, timing: None, items }
        }
        .boxed()
    }

    fn finish(&self, sent: u64) -> Option<BoxFuture<'static, ()>> {
        let request = self.template.last(self.number, sent)?;
        let mut client = self.client.clone();
        Some(async move { drop(client.model_infer(request).await) }.boxed())
    }
}

/// Makes the requests of one stream.
struct Requests {
    template: Arc<Template>,
    stream: usize,
}

impl Source for Requests {
    type Message = ModelInferRequest;

    fn item(&self, seq: u64) -> ModelInferRequest {
        self.template.request(self.stream, seq)
    }

    fn last(&self, sent: u64) -> Option<ModelInferRequest> {
        self.template.last(self.stream, sent)
    }
}

/// An open `ModelStreamInfer`; dropping it cancels it.
pub(crate) struct InferStream {
    inbound: Streaming<ModelStreamInferResponse>,
    line: Arc<Line>,
    items: u32,
}

impl InferStream {
    /// Opens stream `number` of its load.
    ///
    /// # Errors
    /// The status that the server refuses it with.
    pub(crate) async fn open(client: Client, template: Arc<Template>, number: usize, line: Arc<Line>) -> Result<Self, Status> {
        let items = template.items;
        let requests = Requests { template, stream: number };
        let outbound = Outbound::new(None, requests, Arc::clone(&line));
        let inbound = client.open_inference().model_stream_infer(outbound).await?.into_inner();
        Ok(Self { inbound, line, items })
    }

    /// Reads it to its end. The answer to a sequence's last request has no item's number, and is ignored.
    pub(crate) async fn listen(mut self) {
        // Servers usually answer in order; an answer without an id is taken for the next one.
        let mut next = 0;
        loop {
            match self.inbound.message().await {
                Ok(Some(response)) => {
                    let id = response.infer_response.as_ref().map(|response| response.id.as_str());
                    let seq = id.and_then(|id| id.parse().ok()).unwrap_or(next);
                    next = seq + 1;
                    let end = if response.error_message.is_empty() { End::Outputs } else { End::Error(ERROR_IN_STREAM.into()) };
                    self.line.answered(&Answer { seq, end, timing: None, items: self.items });
                }
                Ok(None) => return end(&self.line, None),
                Err(status) => return end(&self.line, Some(status.code())),
            }
        }
    }
}
