//! Messages of the Open Inference Protocol, for tests.

use tidemill::proto::inference::{
    InferParameter, ModelInferRequest, ModelInferResponse, ModelStreamInferResponse,
    grpc_inference_service_client::GrpcInferenceServiceClient, infer_parameter::ParameterChoice,
    model_infer_request::InferInputTensor,
};
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status, Streaming, transport::Channel};

use tidemill::app::Server;

use crate::serving::patiently;

pub(crate) type InferClient = GrpcInferenceServiceClient<Channel>;

pub(crate) async fn infer_client(server: &Server) -> InferClient {
    InferClient::connect(format!("http://{}", server.grpc_addr())).await.expect("the server accepts")
}

/// A request with one FP32 input of this shape.
pub(crate) fn request(model: &str, input: &str, shape: &[i64], values: &[f32]) -> ModelInferRequest {
    let tensor = InferInputTensor {
        name: input.to_owned(),
        datatype: "FP32".to_owned(),
        shape: shape.to_vec(),
        ..InferInputTensor::default()
    };
    let raw: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    ModelInferRequest {
        model_name: model.to_owned(),
        inputs: vec![tensor],
        raw_input_contents: vec![raw.into()],
        ..ModelInferRequest::default()
    }
}

pub(crate) fn with_parameter(mut request: ModelInferRequest, name: &str, value: ParameterChoice) -> ModelInferRequest {
    request.parameters.insert(name.to_owned(), InferParameter { parameter_choice: Some(value) });
    request
}

/// A step of a sequence.
pub(crate) fn step(request: ModelInferRequest, id: i64, starts: bool, ends: bool) -> ModelInferRequest {
    let flags = [("sequence_start", starts), ("sequence_end", ends)];
    let request = with_parameter(request, "sequence_id", ParameterChoice::Int64Param(id));
    flags.into_iter().fold(request, |request, (name, flag)| with_parameter(request, name, ParameterChoice::BoolParam(flag)))
}

/// The numbers of the first output.
pub(crate) fn numbers(response: &ModelInferResponse) -> Vec<f32> {
    response.raw_output_contents[0]
        .chunks_exact(4)
        .map(|bytes| f32::from_le_bytes(bytes.try_into().expect("four bytes")))
        .collect()
}

/// How many requests may be on their way to the connection.
const REQUESTS_MAX: usize = 10_000;

/// A client's end of a `ModelStreamInfer`.
pub(crate) struct InferStream {
    requests: Option<mpsc::Sender<ModelInferRequest>>,
    responses: Streaming<ModelStreamInferResponse>,
}

impl InferStream {
    pub(crate) async fn open(client: &mut InferClient) -> Self {
        Self::open_with(client, |_| {}).await
    }

    /// The same, with `change` applied to the call first.
    pub(crate) async fn open_with(
        client: &mut InferClient,
        change: impl FnOnce(&mut Request<ReceiverStream<ModelInferRequest>>),
    ) -> Self {
        let (requests, receiver) = mpsc::channel(REQUESTS_MAX);
        let mut call = Request::new(ReceiverStream::new(receiver));
        change(&mut call);
        let responses = patiently(client.model_stream_infer(call)).await.expect("headers").into_inner();
        Self { requests: Some(requests), responses }
    }

    /// Sends a request; it is lost if the stream has ended.
    pub(crate) fn send(&self, request: ModelInferRequest) {
        let sent = self.requests.as_ref().expect("the sending side is open").try_send(request);
        assert!(!matches!(sent, Err(TrySendError::Full(_))), "no test sends so much ahead");
    }

    pub(crate) fn finish_sending(&mut self) {
        self.requests = None;
    }

    /// The next message; `None` at the end of a stream that ended well.
    pub(crate) async fn message(&mut self) -> Result<Option<ModelStreamInferResponse>, Status> {
        patiently(self.responses.message()).await
    }

    /// The numbers of the next response, or its error.
    pub(crate) async fn next(&mut self) -> Result<Vec<f32>, String> {
        let message = self.message().await.expect("the stream goes on").expect("the stream goes on");
        if message.error_message.is_empty() {
            Ok(numbers(&message.infer_response.expect("a response")))
        } else {
            Err(message.error_message)
        }
    }
}
