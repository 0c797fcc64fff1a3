//! Outputs as classes: `classification` over gRPC, on streams and over REST, with labels and without.

use serde_json::{Value, json};
use tidemill::{
    app::Server,
    domain::ByteElements,
    proto::inference::{
        InferParameter, ModelConfigRequest, ModelInferRequest, ModelInferResponse, infer_parameter::ParameterChoice,
        model_infer_request::InferRequestedOutputTensor,
    },
};
use tonic::Code;

use crate::{
    http_client::Http,
    infer::{InferStream, infer_client, request},
    serving::{DOUBLER, bare_config, fields, folder_of, patiently, serve, until, write},
};

/// The doubler with names for the elements of its output.
fn labelled(labels: &str) -> String {
    DOUBLER.replace("name = 'y'\n", &format!("name = 'y'\nlabels = {labels}\n"))
}

const TEXTS: &str = "
engine = 'synthetic'
inputs = [{ name = 'x', datatype = 'BYTES', dims = ['batch', -1] }]
outputs = [{ name = 'y', datatype = 'BYTES', dims = ['batch', -1] }]
[synthetic]
kind = 'identity'
";

/// Many numbers, whose classes take long to find.
const ROWS: &str = "
engine = 'synthetic'
inputs = [{ name = 'x', datatype = 'FP32', dims = ['batch', -1] }]
outputs = [{ name = 'y', datatype = 'FP32', dims = ['batch', -1] }]
[synthetic]
kind = 'identity'
";

/// The request, for this many classes of its output.
fn classes(mut request: ModelInferRequest, count: i64) -> ModelInferRequest {
    let wanted = InferParameter { parameter_choice: Some(ParameterChoice::Int64Param(count)) };
    let output = InferRequestedOutputTensor { name: "y".to_owned(), parameters: [("classification".to_owned(), wanted)].into() };
    request.outputs = vec![output];
    request
}

fn four() -> ModelInferRequest {
    request("m", "x", &[2, 4], &[1.0, 4.0, 2.0, 4.0, 0.5, 0.25, -3.0, 0.0])
}

/// What is on the wire of the only output.
fn told(response: &ModelInferResponse) -> (String, Vec<i64>, Vec<String>) {
    let [output] = response.outputs.as_slice() else { panic!("one output is asked for") };
    let texts = ByteElements::new(&response.raw_output_contents[0]);
    let texts = texts.map(|text| String::from_utf8(text.to_vec()).expect("text")).collect();
    (output.datatype.clone(), output.shape.clone(), texts)
}

const BEST_TWO: [&str; 4] = ["8.000000:1:b", "8.000000:3:d", "1.000000:0:a", "0.500000:1:b"];

async fn labelled_server() -> Server {
    serve(bare_config(), &[("m", &labelled("['a', 'b', '', 'd']")), ("plain", DOUBLER), ("texts", TEXTS), ("rows", ROWS)]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_and_a_stream_get_the_best_classes_of_each_item() {
    let server = labelled_server().await;
    let mut client = infer_client(&server).await;
    let response = patiently(client.model_infer(classes(four(), 2))).await.expect("an answer").into_inner();
    assert_eq!(told(&response), ("BYTES".to_owned(), vec![2, 2], BEST_TWO.map(str::to_owned).to_vec()));

    let lone = classes(request("m", "x", &[4], &[0.0, 1.0, 2.0, 3.0]), 100);
    let response = patiently(client.model_infer(lone)).await.expect("an answer").into_inner();
    let texts = ["6.000000:3:d", "4.000000:2", "2.000000:1:b", "0.000000:0:a"];
    assert_eq!(told(&response), ("BYTES".to_owned(), vec![4], texts.map(str::to_owned).to_vec()));

    let mut stream = InferStream::open(&mut client).await;
    stream.send(classes(four(), 2));
    let message = stream.message().await.expect("it goes on").expect("it goes on");
    assert_eq!(told(&message.infer_response.expect("a response")).2, BEST_TWO);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn typed_contents_are_answered_by_typed_contents() {
    let server = labelled_server().await;
    let mut client = infer_client(&server).await;
    let mut typed = classes(four(), 1);
    typed.raw_input_contents.clear();
    let contents = tidemill::proto::inference::InferTensorContents {
        fp32_contents: vec![1.0; 8],
        ..tidemill::proto::inference::InferTensorContents::default()
    };
    typed.inputs[0].contents = Some(contents);
    let response = patiently(client.model_infer(typed)).await.expect("an answer").into_inner();
    let contents = response.outputs[0].contents.as_ref().expect("typed");
    assert_eq!(contents.bytes_contents, [&b"2.000000:0:a"[..], b"2.000000:0:a"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn classes_that_take_long_are_found_while_the_stream_goes_on() {
    const LENGTH: usize = 100_000;
    let server = labelled_server().await;
    let mut client = infer_client(&server).await;
    let values: Vec<f32> = (0..LENGTH).map(|value| value as f32).collect();
    let mut stream = InferStream::open(&mut client).await;
    stream.send(classes(request("rows", "x", &[1, LENGTH as i64], &values), 2));
    stream.send(classes(four(), 2));
    let mut found = Vec::new();
    for _ in 0..2 {
        let message = stream.message().await.expect("it goes on").expect("it goes on");
        found.push(told(&message.infer_response.expect("a response")).2);
    }
    assert_eq!(found[0], ["99999.000000:99999", "99998.000000:99998"]);
    assert_eq!(found[1], BEST_TWO);
    stream.send(classes(request("rows", "x", &[1, LENGTH as i64], &values), 1));
    stream.finish_sending();
    let last = stream.message().await.expect("it is answered before the end").expect("a message");
    assert_eq!(told(&last.infer_response.expect("a response")).2, ["99999.000000:99999"]);
    assert!(stream.message().await.expect("it ends well").is_none());
}

/// A request in JSON, with these parameters of its output.
fn in_json(parameters: &Value) -> String {
    json!({
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [2, 4], "data": [1.0, 4.0, 2.0, 4.0, 0.5, 0.25, -3.0, 0.0]}],
        "outputs": [{"name": "y", "parameters": parameters}],
    })
    .to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rest_has_them_as_strings_and_as_binary_data() {
    let server = labelled_server().await;
    let mut http = Http::connect(&server).await;
    let path = "/v2/models/m/infer";
    let (status, found) = http.post(path, in_json(&json!({"classification": 2}))).await.json();
    assert_eq!(status, 200, "{found}");
    assert_eq!(found["outputs"], json!([{"name": "y", "datatype": "BYTES", "shape": [2, 2], "data": BEST_TWO}]));

    let reply = http.post(path, in_json(&json!({"classification": 2, "binary_data": true}))).await;
    let length: usize = reply.header("inference-header-content-length").parse().expect("a number");
    let (head, binary) = reply.body.split_at(length);
    let head: Value = serde_json::from_slice(head).expect("JSON");
    assert_eq!(head["outputs"][0]["parameters"]["binary_data_size"], json!(binary.len()));
    assert!(ByteElements::new(binary).eq(BEST_TWO.map(str::as_bytes)), "{binary:?}");

    let (status, found) = http.post("/v2/models/plain/infer", in_json(&json!({"classification": 1}))).await.json();
    assert_eq!((status, &found["outputs"][0]["data"]), (200, &json!(["8.000000:1", "1.000000:0"])));
    for wrong in [json!(0), json!(-1), json!(1.5), json!("2"), json!(true)] {
        let (status, message) = http.post(path, in_json(&json!({"classification": wrong}))).await.error();
        assert!(status == 400 && message.contains("must be a number of classes from 1"), "{wrong}: {status} {message}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn texts_have_no_classes() {
    let server = labelled_server().await;
    let mut client = infer_client(&server).await;
    let mut wrong = classes(request("texts", "x", &[1, 1], &[]), 2);
    wrong.inputs[0].datatype = "BYTES".to_owned();
    wrong.raw_input_contents = vec![b"\x01\0\0\0a".to_vec().into()];
    let status = patiently(client.model_infer(wrong)).await.expect_err("texts have no order");
    assert_eq!(
        (status.code(), fields(&status)),
        (Code::InvalidArgument, vec!["outputs[0].parameters.classification".to_owned()])
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn labels_are_read_from_the_file_that_the_manifest_names_and_again_when_it_changes() {
    let folder = folder_of(&[("m", &labelled("'labels.txt'"))]);
    write(folder.path(), "m/labels.txt", b"ant\r\nbee\r\ncow\r\ndog\r\n");
    let mut config = bare_config();
    config.models.dir = Some(folder.path().to_owned());
    let server = Server::start(config).await.unwrap_or_else(|error| panic!("{error}"));
    let mut client = infer_client(&server).await;
    let answer = patiently(client.model_infer(classes(four(), 1))).await.expect("an answer").into_inner();
    assert_eq!(told(&answer).2, ["8.000000:1:bee", "1.000000:0:ant"]);
    let config = ModelConfigRequest { name: "m".to_owned(), version: String::new() };
    let config = client.model_config(config).await.expect("a configuration").into_inner().config.expect("one");
    assert_eq!(config.output[0].label_filename, "labels.txt");

    write(folder.path(), "m/labels.txt", b"elk\nfox\ngnu\nhen\n");
    server.refresh_models();
    let mut found = Vec::new();
    while found != ["8.000000:1:fox", "1.000000:0:elk"] {
        found = told(&patiently(client.model_infer(classes(four(), 1))).await.expect("an answer").into_inner()).2;
        tokio::task::yield_now().await;
    }

    write(folder.path(), "m/labels.txt", b"elk\nfox\n");
    server.refresh_models();
    let listed = || server.registry().list()[0].reason.to_string();
    until("the fault is reported", || !listed().is_empty()).await;
    let words = "m/model.toml: outputs[0].labels: has 2 labels, but output 'y' has 4 elements an item (version 1)";
    assert!(listed().contains(words), "{}", listed());
    let answer = patiently(client.model_infer(classes(four(), 1))).await.expect("what served goes on").into_inner();
    assert_eq!(told(&answer).2, ["8.000000:1:fox", "1.000000:0:elk"]);
}
