//! Clients of the canned answers for the model inside the binary.

use tidemill_client::{
    Transport,
    wire::inference::{
        ModelInferRequest, ModelMetadataRequest, ModelStatisticsRequest,
        grpc_inference_service_client::GrpcInferenceServiceClient, model_infer_request::InferInputTensor,
    },
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tonic::Code;

use super::*;

async fn start() -> Canned {
    let args = Args { port: 0, model: "silero-vad".to_owned(), models: None, onnxruntime: None, length: 1 };
    Canned::start(args).await.expect("it starts")
}

async fn client(canned: &Canned) -> GrpcInferenceServiceClient<Transport> {
    connect(canned.grpc, 1).await.expect("it listens").remove(0).open_inference()
}

fn request(id: &str, items: i64) -> ModelInferRequest {
    ModelInferRequest {
        id: id.to_owned(),
        model_name: "silero-vad".to_owned(),
        inputs: vec![InferInputTensor { shape: vec![items, 576], ..InferInputTensor::default() }],
        ..ModelInferRequest::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_request_gets_as_many_items_as_it_has_under_its_id() {
    let canned = start().await;
    let mut client = client(&canned).await;
    for items in [1, 3] {
        let answer = client.model_infer(request("mine", items)).await.expect("an answer").into_inner();
        assert_eq!((answer.id.as_str(), answer.outputs[0].shape.as_slice()), ("mine", &[items, 1][..]));
        assert_eq!(answer.raw_output_contents[0].len(), 4 * items as usize);
    }
    let query = ModelMetadataRequest { name: "silero-vad".to_owned(), ..ModelMetadataRequest::default() };
    let versions = client.model_metadata(query).await.expect("it is there").into_inner().versions;
    let query = ModelStatisticsRequest::default();
    let statistics = client.model_statistics(query).await.expect("statistics").into_inner().model_stats.remove(0);
    assert_eq!((statistics.inference_count, vec![statistics.version]), (4, versions));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_no_answer_of_the_right_shape_is_refused() {
    let canned = start().await;
    let mut client = client(&canned).await;
    for items in [i64::MIN, 0, 1_025, i64::MAX] {
        let refused = client.model_infer(request("", items)).await.expect_err("no such number of items");
        assert_eq!(refused.code(), Code::InvalidArgument, "{items}");
    }
    let other = ModelInferRequest { model_name: "other".to_owned(), ..request("", 1) };
    assert_eq!(client.model_infer(other).await.expect_err("not its model").code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_about_the_model_is_answered_by_a_server() {
    let canned = start().await;
    let mut client = client(&canned).await;
    let query = |name: &str| ModelMetadataRequest { name: name.to_owned(), ..ModelMetadataRequest::default() };
    let metadata = client.model_metadata(query("silero-vad")).await.expect("it is there").into_inner();
    assert_eq!((metadata.inputs[0].name.as_str(), metadata.inputs[0].shape.as_slice()), ("input", &[-1, 576][..]));
    assert_eq!(client.model_metadata(query("other")).await.expect_err("it is not there").code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_gets_an_answer_for_each_request() {
    let canned = start().await;
    let requests = ["one", "two", "three"].map(|id| request(id, 1));
    let answers = client(&canned).await.model_stream_infer(futures::stream::iter(requests)).await;
    let mut answers = answers.expect("it begins").into_inner();
    let mut ids = Vec::new();
    while let Some(answer) = answers.message().await.expect("no fault") {
        ids.push(answer.infer_response.expect("an answer").id);
    }
    assert_eq!(ids, ["one", "two", "three"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_posted_gets_the_outputs_bytes() {
    let canned = start().await;
    let mut connection = TcpStream::connect(canned.http).await.expect("it listens");
    let posts = "POST /any HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc\
                 GET /any HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    connection.write_all(posts.as_bytes()).await.expect("it reads");
    let mut answers = Vec::new();
    connection.read_to_end(&mut answers).await.expect("it answers");
    let answers = String::from_utf8_lossy(&answers);
    assert!(answers.starts_with("HTTP/1.1 200") && answers.contains("content-length: 4\r\n"), "{answers}");
    assert!(answers.contains("HTTP/1.1 405"), "{answers}");
}

#[tokio::test]
async fn a_model_that_is_not_there_is_named() {
    let args = Args { port: 0, model: "nobody".to_owned(), models: None, onnxruntime: None, length: 1 };
    let error = Canned::start(args).await.err().expect("there is no such model");
    assert!(format!("{error:#}").contains("nobody"), "{error:#}");
}
