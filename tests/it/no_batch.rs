//! Models whose calls are not batches: whole shapes over every protocol; and what a manifest says about outputs that have no batch, are
//! declared wrongly or cannot be served, of inputs with a default, and of tensors without elements.

use rten_onnx::onnx::{
    AttributeProto, AttributeType, DataType, Dimension, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto,
    TensorShapeProto, TypeProto, TypeProtoSequence, TypeProtoTensor, ValueInfoProto,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tidemill::{
    app::Server,
    domain::{ByteElements, push_element},
    proto::{
        inference::{
            InferTensorContents, ModelConfigRequest, ModelInferRequest, ModelInferResponse, ModelMetadataRequest,
            model_infer_request::InferInputTensor,
        },
        v1::{
            Datatype, GetModelRequest, Item, PredictRequest, Tensor, feed_request::Message,
            model_service_client::ModelServiceClient, predict_request::Payload,
        },
    },
};
use tonic::{Code, Status};

use crate::{
    engines::{LIBRARY_VARIABLE, library},
    http_client::Http,
    infer::{infer_client, request},
    serving::{
        Client, Feed, bare_config, chunks, connect, first_values, folder_of, item, outcome, patiently, pcm_of, serve, tensors_of,
        values, write,
    },
};

// ---- Files ------------------------------------------------------------------------------------------------------------------

pub(crate) fn value(name: &str, datatype: DataType, dims: &[i64]) -> ValueInfoProto {
    let dim =
        |size: &i64| Dimension { dim_value: (*size >= 0).then_some(*size), dim_param: (*size < 0).then(|| "any".to_owned()) };
    let shape = TensorShapeProto { dim: dims.iter().map(dim).collect() };
    let tensor = TypeProtoTensor { elem_type: Some(datatype), shape: Some(shape) };
    ValueInfoProto { name: Some(name.to_owned()), r#type: Some(TypeProto { tensor_type: Some(tensor), sequence: None }) }
}

pub(crate) fn node(operator: &str, inputs: &[&str], output: &str) -> NodeProto {
    NodeProto {
        op_type: Some(operator.to_owned()),
        input: inputs.iter().map(|name| (*name).to_owned()).collect(),
        output: vec![output.to_owned()],
        ..NodeProto::default()
    }
}

pub(crate) fn keeping_no_dims(mut node: NodeProto) -> NodeProto {
    node.attribute.push(AttributeProto {
        name: Some("keepdims".to_owned()),
        r#type: Some(AttributeType::INT),
        i: Some(0),
        ..AttributeProto::default()
    });
    node
}

pub(crate) fn floats(name: &str, dims: &[i64], values: &[f32]) -> TensorProto {
    TensorProto {
        name: Some(name.to_owned()),
        dims: dims.to_vec(),
        data_type: Some(DataType::FLOAT),
        float_data: values.to_vec(),
        ..TensorProto::default()
    }
}

pub(crate) fn axis(name: &str, axis: i64) -> TensorProto {
    TensorProto {
        name: Some(name.to_owned()),
        dims: vec![1],
        data_type: Some(DataType::INT64),
        int64_data: vec![axis],
        ..TensorProto::default()
    }
}

pub(crate) fn file(graph: GraphProto) -> Vec<u8> {
    let opset = OperatorSetIdProto { domain: Some(String::new()), version: Some(17) };
    let model = ModelProto { ir_version: Some(8), graph: Some(graph), opset_import: vec![opset], ..ModelProto::default() };
    model.write_buf().expect("a model can be written to memory")
}

/// Time along its only dimension: each sample minus the mean of all.
pub(crate) fn wave() -> Vec<u8> {
    file(GraphProto {
        node: vec![node("ReduceMean", &["x"], "mean"), node("Sub", &["x", "mean"], "y")],
        input: vec![value("x", DataType::FLOAT, &[-1])],
        output: vec![value("y", DataType::FLOAT, &[-1])],
        ..GraphProto::default()
    })
}

/// A detector: the positions of all pixels above a half, and the sum of the image.
fn hits() -> Vec<u8> {
    file(GraphProto {
        node: vec![
            node("Greater", &["x", "half"], "bright"),
            node("NonZero", &["bright"], "positions"),
            node("Transpose", &["positions"], "found"),
            keeping_no_dims(node("ReduceSum", &["x"], "sum")),
        ],
        initializer: vec![floats("half", &[], &[0.5])],
        input: vec![value("x", DataType::FLOAT, &[1, -1])],
        output: vec![value("found", DataType::INT64, &[-1, 2]), value("sum", DataType::FLOAT, &[])],
        ..GraphProto::default()
    })
}

/// Rows with a batch, a table of anchors, a scalar, and the sums of the rows, whose declared shape is wrong.
fn anchors() -> Vec<u8> {
    file(GraphProto {
        node: vec![
            node("Add", &["x", "x"], "y"),
            node("Identity", &["table"], "anchors"),
            keeping_no_dims(node("ReduceSum", &["x"], "total")),
            keeping_no_dims(node("ReduceSum", &["x", "last"], "label")),
        ],
        initializer: vec![floats("table", &[3, 4], &[0.5; 12]), axis("last", 1)],
        input: vec![value("x", DataType::FLOAT, &[-1, 4])],
        output: vec![
            value("y", DataType::FLOAT, &[-1, 4]),
            value("anchors", DataType::FLOAT, &[3, 4]),
            value("total", DataType::FLOAT, &[]),
            value("label", DataType::FLOAT, &[1]),
        ],
        ..GraphProto::default()
    })
}

/// Rows doubled, and something that no protocol has a tensor for: a sequence of rows.
fn sequence() -> Vec<u8> {
    let ValueInfoProto { r#type: element, .. } = value("", DataType::FLOAT, &[-1, 2]);
    let kind = TypeProto { tensor_type: None, sequence: Some(Box::new(TypeProtoSequence { elem_type: element })) };
    file(GraphProto {
        node: vec![node("Add", &["x", "x"], "y"), node("SequenceConstruct", &["x", "y"], "both")],
        input: vec![value("x", DataType::FLOAT, &[-1, 2])],
        output: vec![ValueInfoProto { name: Some("both".to_owned()), r#type: Some(kind) }, value("y", DataType::FLOAT, &[-1, 2])],
        ..GraphProto::default()
    })
}

/// Rows times a factor that the file sets to 2.
fn scaled(dims: &[i64], default: TensorProto) -> Vec<u8> {
    file(GraphProto {
        node: vec![node("Mul", &["x", "factor"], "y")],
        initializer: vec![default],
        input: vec![value("x", DataType::FLOAT, &[-1, 2]), value("factor", DataType::FLOAT, dims)],
        output: vec![value("y", DataType::FLOAT, &[-1, 2])],
        ..GraphProto::default()
    })
}

pub(crate) fn folder(models: &[(&str, &str, &[u8])]) -> TempDir {
    let folder = folder_of(&[]);
    for (name, manifest, file) in models {
        write(folder.path(), &format!("{name}/model.toml"), manifest.as_bytes());
        write(folder.path(), &format!("{name}/1/model.onnx"), file);
    }
    folder
}

async fn serve_files(models: &[(&str, &str, &[u8])]) -> Server {
    let folder = folder(models);
    let mut config = bare_config();
    config.models.dir = Some(folder.path().to_owned());
    Server::start(config).await.unwrap_or_else(|error| panic!("{error}"))
}

/// Why a server with this model does not start.
async fn refused(manifest: &str, file: &[u8]) -> String {
    let folder = folder(&[("m", manifest, file)]);
    let mut config = bare_config();
    config.models.dir = Some(folder.path().to_owned());
    Server::start(config).await.err().expect("it must be refused").to_string()
}

// ---- Requests ---------------------------------------------------------------------------------------------------------------

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// One item over the native API, of FP32 inputs.
pub(crate) async fn predict(client: &mut Client, model: &str, inputs: &[(&str, &[i64], &[f32])]) -> Result<Vec<Tensor>, Status> {
    let tensor = |(name, shape, values): &(&str, &[i64], &[f32])| Tensor {
        name: (*name).to_owned(),
        datatype: Datatype::Fp32.into(),
        shape: shape.to_vec(),
        data: bytes(values).into(),
    };
    let payload = Some(Payload::Item(Item { inputs: inputs.iter().map(tensor).collect(), ..Item::default() }));
    let request = PredictRequest { model: model.to_owned(), payload, ..PredictRequest::default() };
    patiently(client.predict(request)).await.map(|response| response.into_inner().outputs.expect("outputs").tensors)
}

fn shapes(response: &ModelInferResponse) -> Vec<(&str, &[i64])> {
    response.outputs.iter().map(|output| (output.name.as_str(), output.shape.as_slice())).collect()
}

/// A request whose one FP32 input has its elements typed.
fn typed(model: &str, input: &str, shape: &[i64], values: &[f32]) -> ModelInferRequest {
    let contents = InferTensorContents { fp32_contents: values.to_vec(), ..InferTensorContents::default() };
    let tensor = InferInputTensor {
        name: input.to_owned(),
        datatype: "FP32".to_owned(),
        shape: shape.to_vec(),
        contents: Some(contents),
        ..InferInputTensor::default()
    };
    ModelInferRequest { model_name: model.to_owned(), inputs: vec![tensor], ..ModelInferRequest::default() }
}

fn json_request(input: &str, shape: &[i64], data: impl Into<Value>) -> String {
    json!({"inputs": [{"name": input, "datatype": "FP32", "shape": shape, "data": data.into()}]}).to_string()
}

const LOOSE: &str = "batch = false\n";

// ---- Whole shapes -----------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shape_along_time_comes_whole_over_every_protocol() {
    let server = serve_files(&[("wave", LOOSE, &wave())]).await;
    let samples: Vec<f32> = (0..1000_u16).map(|at| f32::from(at % 10)).collect();
    let right: Vec<f32> = samples.iter().map(|sample| sample - 4.5).collect();
    let close =
        |found: &[f32]| found.len() == 1000 && found.iter().zip(&right).all(|(found, right)| (found - right).abs() < 1e-4);
    let outputs = predict(&mut connect(&server).await, "wave", &[("x", &[1000], &samples)]).await.expect("one item");
    assert!(close(&values(&outputs)) && outputs[0].shape == [1000], "{outputs:?}");
    let mut client = infer_client(&server).await;
    for request in [request("wave", "x", &[1000], &samples), typed("wave", "x", &[1000], &samples)] {
        let response = patiently(client.model_infer(request)).await.expect("one item").into_inner();
        assert_eq!(shapes(&response), [("y", &[1000][..])]);
        assert!(close(&crate::infer::numbers(&response)));
    }
    let mut http = Http::connect(&server).await;
    let (status, answer) = http.post("/v2/models/wave/infer", json_request("x", &[1000], samples.clone())).await.json();
    let found: Vec<f32> = serde_json::from_value(answer["outputs"][0]["data"].clone()).expect("numbers");
    assert!((status, &answer["outputs"][0]["shape"]) == (200, &json!([1000])) && close(&found), "{answer}");
    let (_, answer) = http.post("/v2/models/wave/generate", json!({"x": samples}).to_string()).await.json();
    assert!(close(&serde_json::from_value::<Vec<f32>>(answer["y"].clone()).expect("numbers")), "{answer}");
    let raw = http.send("POST", "/v2/models/wave/infer", &[("Inference-Header-Content-Length", "0")], bytes(&samples)).await;
    let json_bytes: usize = raw.header("inference-header-content-length").parse().expect("a number");
    let found: Vec<f32> =
        raw.body[json_bytes..].chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().expect("four"))).collect();
    assert!(close(&found), "{found:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_detector_gives_as_many_rows_as_it_finds_even_none() {
    let server = serve_files(&[("hits", LOOSE, &hits())]).await;
    let mut native = connect(&server).await;
    let mut client = infer_client(&server).await;
    let mut http = Http::connect(&server).await;
    for (pixels, found) in [(vec![0.0, 0.9, 0.1, 0.8], vec![1_i64, 3]), (vec![0.25, 0.25], vec![]), (vec![], vec![])] {
        let (shape, sum) = ([1, pixels.len() as i64], pixels.iter().sum::<f32>() + 0.0);
        let rows: Vec<u8> = found.iter().flat_map(|column| [0_i64.to_le_bytes(), column.to_le_bytes()].concat()).collect();
        let count = found.len() as i64;
        let outputs = predict(&mut native, "hits", &[("x", &shape, &pixels)]).await.expect("one image");
        assert_eq!((outputs[0].shape.as_slice(), &outputs[0].data[..]), (&[count, 2][..], &rows[..]));
        assert_eq!((outputs[1].shape.as_slice(), values(&outputs[1..])), (&[][..], vec![sum]));
        for request in [request("hits", "x", &shape, &pixels), typed("hits", "x", &shape, &pixels)] {
            let is_typed = request.inputs[0].contents.is_some();
            let response = patiently(client.model_infer(request)).await.expect("one image").into_inner();
            assert_eq!(shapes(&response), [("found", &[count, 2][..]), ("sum", &[])]);
            assert_eq!(response.raw_output_contents[..], [rows.clone(), sum.to_le_bytes().to_vec()]);
            let contents = response.outputs[0].contents.as_ref().map(|contents| contents.int64_contents.len());
            assert_eq!(contents, is_typed.then_some(2 * found.len()));
        }
        let body = json_request("x", &shape, pixels.clone());
        let (status, answer) = http.post("/v2/models/hits/infer", body.clone()).await.json();
        let flat: Vec<i64> = found.iter().flat_map(|column| [0, *column]).collect();
        assert_eq!(
            (status, &answer["outputs"][0]["shape"], &answer["outputs"][0]["data"]),
            (200, &json!([count, 2]), &json!(flat))
        );
        let binary = body.replacen('{', "{\"parameters\":{\"binary_data_output\":true},", 1);
        let reply = http.post("/v2/models/hits/infer", binary).await;
        let json_bytes: usize = reply.header("inference-header-content-length").parse().expect("a number");
        assert_eq!(reply.body[json_bytes..], [rows, sum.to_le_bytes().to_vec()].concat());
        let (_, answer) = http.post("/v2/models/hits/generate", json!({"x": [pixels]}).to_string()).await.json();
        let nested: Vec<[i64; 2]> = found.iter().map(|column| [0, *column]).collect();
        assert_eq!(answer["found"], json!(nested));
    }
    let error = predict(&mut native, "hits", &[("x", &[4], &[0.0; 4])]).await.expect_err("the 1 is the model's own");
    assert_eq!(error.code(), Code::InvalidArgument);
    let expected = "shape [4] does not fit the model's [1, -1] (-1: dynamic; the model has no batch dimension)";
    assert!(error.message().contains(expected), "{error}");
    let error = patiently(client.model_infer(request("hits", "x", &[2, 1, 2], &[0.0; 4]))).await.expect_err("no batch in front");
    assert!(error.message().contains("shape [2, 1, 2] does not fit the model's [1, -1]"), "{error}");
}

#[tokio::test]
async fn a_detector_with_a_batch_in_front_is_refused_with_what_is_wrong() {
    let manifest = "[[inputs]]\nname='x'\ndims=[1, -1]\nbatch_axis=1\n[[outputs]]\nname='sum'\nomit=true";
    let refusal = refused(manifest, &hits()).await;
    let expected = "its dimension 0 is taken for the batch, so it must be 1: a model whose outputs have no batch is served with batch = \
                    false in its manifest, one item a call";
    assert!(refusal.contains(expected), "{refusal}");
}

#[tokio::test]
async fn the_documents_show_whole_shapes() {
    let server = serve_files(&[("hits", LOOSE, &hits())]).await;
    let mut client = infer_client(&server).await;
    let named = || ModelMetadataRequest { name: "hits".to_owned(), ..ModelMetadataRequest::default() };
    let metadata = patiently(client.model_metadata(named())).await.expect("metadata").into_inner();
    let shape = |tensors: &[tidemill::proto::inference::model_metadata_response::TensorMetadata]| -> Vec<Vec<i64>> {
        tensors.iter().map(|tensor| tensor.shape.clone()).collect()
    };
    assert_eq!((shape(&metadata.inputs), shape(&metadata.outputs)), (vec![vec![1, -1]], vec![vec![-1, 2], vec![]]));
    let config = ModelConfigRequest { name: "hits".to_owned(), ..ModelConfigRequest::default() };
    let config = patiently(client.model_config(config)).await.expect("a configuration").into_inner().config.expect("one");
    assert_eq!((config.max_batch_size, config.scheduling_choice, &config.input[0].dims[..]), (0, None, &[1, -1][..]));
    let (_, config) = Http::connect(&server).await.get("/v2/models/hits/config").await.json();
    assert_eq!((&config["max_batch_size"], &config["dynamic_batching"]), (&json!(0), &Value::Null));
    let address = format!("http://{}", server.grpc_addr());
    let mut models = ModelServiceClient::connect(address).await.expect("the server accepts");
    let asked = GetModelRequest { name: "hits".to_owned(), ..GetModelRequest::default() };
    let detail = patiently(models.get_model(asked)).await.expect("a model").into_inner().model.expect("one");
    assert_eq!((detail.no_batch, detail.batch_cap, &detail.inputs[0].shape[..]), (true, 1, &[1, -1][..]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_without_a_batch_is_each_streams_own() {
    let manifest = "
        engine = 'synthetic'
        batch = false
        inputs = [{ name = 'x', datatype = 'FP32', dims = [1, 2] }, { name = 'sum', datatype = 'FP32', dims = [3] }]
        outputs = [{ name = 'y', datatype = 'FP32', dims = [1, 2] }, { name = 'next', datatype = 'FP32', dims = [3] }]
        states = [{ input = 'sum', output = 'next' }]
        [synthetic]
        kind = 'identity'";
    let server = serve(bare_config(), &[("counter", manifest)]).await;
    let mut client = connect(&server).await;
    let (first, _) = &mut Feed::open(&mut client, tensors_of("counter")).await;
    let (second, _) = &mut Feed::open(&mut client, tensors_of("counter")).await;
    for round in 1..=3_u8 {
        for (feed, value) in [(&mut *first, 1.0_f32), (second, 10.0)] {
            feed.send(Message::Item(item("", &[value, 0.0]))).await;
            let sum = value * f32::from(round);
            assert_eq!(outcome(&feed.next_result().await), Ok(vec![value + sum, sum]));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn audio_is_cut_into_windows_of_the_models_own_shape() {
    let manifest = |batch: &str, dims: &str| {
        format!(
            "engine = 'synthetic'\n{batch}\ninputs = [{{ name = 'x', datatype = 'FP32', dims = {dims} }}]\n\
             outputs = [{{ name = 'y', datatype = 'FP32', dims = {dims} }}]\n\
             [framing]\nkind = 'pcm_s16le'\nsample_rate_hz = 16000\nwindow_samples = 3\ncontext_samples = 1\n[synthetic]\nkind = 'identity'"
        )
    };
    let models = [
        ("flat", manifest("batch = false", "[4]")),
        ("row", manifest("batch = false", "[1, 4]")),
        ("column", manifest("", "['batch', 4, 1]")),
    ];
    let models: Vec<_> = models.iter().map(|(name, manifest)| (*name, manifest.as_str())).collect();
    let server = serve(bare_config(), &models).await;
    let mut client = connect(&server).await;
    let pcm: Vec<u8> = [0_i16, 16_384, 8_192, 4_096, 0, 0].iter().flat_map(|sample| sample.to_le_bytes()).collect();
    for (model, shape) in [("flat", &[4][..]), ("row", &[1, 4]), ("column", &[4, 1])] {
        let said = Feed::run(&mut client, pcm_of(model), chunks(&pcm.clone().into(), &[5])).await;
        let found: Vec<_> = said.results.iter().map(|result| outcome(result).expect("a window")).collect();
        assert_eq!(found, [vec![0.0, 0.0, 0.5, 0.25], vec![0.25, 0.125, 0.0, 0.0]], "{model}");
        let outputs = crate::serving::outputs(&said.results[0]).expect("a window");
        assert_eq!(outputs[0].shape, shape, "{model}");
        assert_eq!(first_values(&said.results), [0.0, 0.25]);
    }
}

#[tokio::test]
async fn items_of_strings_may_be_empty() {
    let echo = |batch: &str, dims: &str| {
        format!(
            "engine = 'synthetic'\n{batch}\ninputs = [{{ name = 'x', datatype = 'BYTES', dims = {dims} }}]\n\
             outputs = [{{ name = 'y', datatype = 'BYTES', dims = {dims} }}]\n[synthetic]\nkind = 'identity'"
        )
    };
    let (rows, whole) = (echo("", "['batch', -1]"), echo("batch = false", "[-1, 2]"));
    let server = serve(bare_config(), &[("rows", rows.as_str()), ("whole", whole.as_str())]).await;
    let mut client = connect(&server).await;
    for (model, shape, elements) in
        [("rows", vec![0], 0), ("rows", vec![2], 2), ("whole", vec![0, 2], 0), ("whole", vec![1, 2], 2)]
    {
        let mut data = Vec::new();
        (0..elements).for_each(|_| push_element(&mut data, b"text").expect("short"));
        let tensor = Tensor { name: "x".to_owned(), datatype: Datatype::Bytes.into(), shape: shape.clone(), data: data.into() };
        let payload = Some(Payload::Item(Item { inputs: vec![tensor], ..Item::default() }));
        let request = PredictRequest { model: model.to_owned(), payload, ..PredictRequest::default() };
        let outputs = patiently(client.predict(request)).await.expect("an item").into_inner().outputs.expect("outputs").tensors;
        assert_eq!((&outputs[0].shape, ByteElements::new(&outputs[0].data).count()), (&shape, elements), "{model}");
    }
    let mut http = Http::connect(&server).await;
    let body = json!({"inputs": [{"name": "x", "datatype": "BYTES", "shape": [2, 0], "data": [[], []]}]}).to_string();
    let (status, answer) = http.post("/v2/models/rows/infer", body).await.json();
    assert_eq!((status, &answer["outputs"][0]["shape"], &answer["outputs"][0]["data"]), (200, &json!([2, 0]), &json!([])));
    let body = json!({"inputs": [{"name": "x", "datatype": "BYTES", "shape": [0, 3], "data": []}]}).to_string();
    let (status, error) = http.post("/v2/models/rows/infer", body).await.error();
    assert_eq!((status, error.as_str()), (400, "input 'x': shape [0, 3] holds 0 items; a request holds at least 1"));
}

// ---- Outputs ----------------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outputs_without_a_batch_are_left_out_and_wrong_shapes_corrected() {
    let manifest = "
        [[outputs]]
        name = 'anchors'
        omit = true
        [[outputs]]
        name = 'total'
        omit = true
        [[outputs]]
        name = 'label'
        dims = ['batch']";
    let server = serve_files(&[("anchors", manifest, &anchors())]).await;
    let outputs = predict(&mut connect(&server).await, "anchors", &[("x", &[4], &[1.0, 2.0, 3.0, 4.0])]).await.expect("a row");
    let found: Vec<_> = outputs.iter().map(|output| (output.name.as_str(), output.shape.as_slice())).collect();
    assert_eq!(found, [("y", &[4][..]), ("label", &[])]);
    assert_eq!((values(&outputs), values(&outputs[1..])), (vec![2.0, 4.0, 6.0, 8.0], vec![10.0]));
    let mut client = infer_client(&server).await;
    let rows = request("anchors", "x", &[2, 4], &[1.0; 8]);
    let response = patiently(client.model_infer(rows)).await.expect("two rows").into_inner();
    assert_eq!(shapes(&response), [("y", &[2, 4][..]), ("label", &[2])]);
    let (status, error) = Http::connect(&server)
        .await
        .post(
            "/v2/models/anchors/infer",
            json!({"inputs": [{"name": "x", "datatype": "FP32", "shape": [4], "data": [1, 2, 3, 4]}], "outputs": [{"name": "total"}]})
                .to_string(),
        )
        .await
        .error();
    assert_eq!((status, error.as_str()), (400, "the model has no output 'total'; its outputs are 'y', 'label'"));
    let refusal = refused(LOOSE, &anchors()).await;
    let expected = "for 1 item, but is declared as FP32 [1] (-1: dynamic; the model has no batch dimension); if the file declares it \
                    wrongly, give its dims in [[outputs]]";
    assert!(refusal.contains(expected), "{refusal}");
}

#[tokio::test]
async fn what_is_not_a_tensor_is_left_out_and_the_rest_is_served() {
    let refusal = refused("", &sequence()).await;
    let expected = "outputs: output 'both' has a type that cannot be served, such as a sequence or a map, which a classifier with ZipMap \
                    gives: export the model with zipmap = False, or leave the output out (omit = true in [[outputs]])";
    assert!(refusal.contains(expected) && refusal.lines().count() == 2, "{refusal}");
    let server = serve_files(&[("m", "[[outputs]]\nname = 'both'\nomit = true", &sequence())]).await;
    let outputs = predict(&mut connect(&server).await, "m", &[("x", &[2], &[1.5, -1.0])]).await.expect("a row");
    assert_eq!((outputs.len(), outputs[0].name.as_str(), values(&outputs)), (1, "y", vec![3.0, -2.0]));
}

#[tokio::test]
async fn each_output_that_has_no_batch_is_one_fault_with_the_ways_out() {
    let refusal = refused("", &anchors()).await;
    let lines: Vec<&str> = refusal.lines().skip(1).collect();
    assert_eq!(lines.len(), 3, "{refusal}");
    for (line, expected) in lines.iter().zip([
        "output 'anchors' has 3 as its first dimension, which is not the batch: leave the output out (omit = true",
        "output 'total' is a scalar, so it has no batch dimension: leave the output out (omit = true",
        "output 'label' has 1 as its first dimension, which is not the batch: leave the output out",
    ]) {
        assert!(line.contains(expected), "{line}");
    }
}

// ---- Defaults ---------------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_default_applies_where_no_request_sets_it_and_rten_says_that_it_cannot_replace_it() {
    let file = scaled(&[], floats("factor", &[], &[2.0]));
    let server = serve_files(&[("scaled", "", &file)]).await;
    let mut client = connect(&server).await;
    let outputs = predict(&mut client, "scaled", &[("x", &[2], &[1.0, 2.0])]).await.expect("a row");
    assert_eq!(values(&outputs), [2.0, 4.0]);
    let error =
        predict(&mut client, "scaled", &[("x", &[2], &[1.0, 2.0]), ("factor", &[], &[5.0])]).await.expect_err("not taken");
    let expected = "input 'factor' has a default in the model file and is not sent by clients, unless [[inputs]] in the model's \
                    manifest names it";
    assert!(error.message().contains(expected), "{error}");
    let refusal = refused("engine = 'rten'\n[[inputs]]\nname = 'factor'\nshared = 5", &file).await;
    let expected = "rten: input 'factor' has a default in the model file, which rten makes part of the model and cannot replace; leave it \
                    out of the manifest, or use the engine onnxruntime, which can";
    assert!(refusal.contains(expected), "{refusal}");
}

/// Says so and checks nothing if no library is named; CI names one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn onnxruntime_takes_a_value_other_than_the_default_and_serves_what_is_not_a_batch() {
    let Some(library) = library() else {
        eprintln!("{LIBRARY_VARIABLE} names no library of onnxruntime; no default was replaced");
        return;
    };
    let (scalar, rows) = (scaled(&[], floats("factor", &[], &[2.0])), scaled(&[-1, 1], floats("factor", &[1, 1], &[2.0])));
    let folder = folder(&[
        ("hidden", "", &scalar),
        ("shared", "[[inputs]]\nname = 'factor'\nshared = 5", &scalar),
        ("sent", "[[inputs]]\nname = 'factor'", &rows),
        ("whole", "batch = false\n[[inputs]]\nname = 'factor'", &scalar),
        ("hits", LOOSE, &hits()),
    ]);
    let mut config = bare_config();
    config.models.dir = Some(folder.path().to_owned());
    config.engine.onnxruntime = Some(library);
    let server = Server::start(config).await.unwrap_or_else(|error| panic!("{error}"));
    assert!(server.registry().list().iter().all(|model| model.engine == "onnxruntime"));
    let mut client = connect(&server).await;
    let row = ("x", &[2][..], &[1.0, 2.0][..]);
    for (model, inputs, right) in [
        ("hidden", vec![row], [2.0, 4.0]),
        ("shared", vec![row], [5.0, 10.0]),
        ("sent", vec![row, ("factor", &[1], &[7.0])], [7.0, 14.0]),
        ("whole", vec![("x", &[1, 2], &[1.0, 2.0]), ("factor", &[], &[3.0])], [3.0, 6.0]),
    ] {
        let outputs = predict(&mut client, model, &inputs).await.expect("a row");
        assert_eq!(values(&outputs), right, "{model}");
    }
    let error = predict(&mut client, "sent", &[row]).await.expect_err("clients send it now");
    assert!(error.message().contains("input 'factor' is missing"), "{error}");
    for (pixels, found) in [(vec![0.0, 0.9, 0.1, 0.8], 2), (vec![0.25], 0), (vec![], 0)] {
        let outputs = predict(&mut client, "hits", &[("x", &[1, pixels.len() as i64], &pixels)]).await.expect("one image");
        assert_eq!((outputs[0].shape.as_slice(), outputs[0].data.len()), (&[found, 2][..], 16 * found as usize));
    }
}
