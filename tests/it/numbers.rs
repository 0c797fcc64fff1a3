//! 64-bit numbers on a 32-bit engine: a correct answer, or a refusal that says what to do.

use rten_onnx::onnx::{
    DataType, Dimension, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorShapeProto, TypeProto, TypeProtoTensor,
    ValueInfoProto,
};
use tonic::Code;

use tidemill::{
    app::Server,
    domain::Outcome,
    proto::v1::{Datatype, Item, Tensor, feed_request::Message},
};

use crate::{
    engines::{LIBRARY_VARIABLE, library},
    http_client::Http,
    serving::{Account, Feed, bare_config, connect, folder_of, outputs, tensors_of, write},
};

/// A file whose `y` is an operator applied to `x` and `x`, both of INT64.
fn of_itself(operator: &str) -> Vec<u8> {
    let value = |name: &str| {
        let dims = [(None, Some("batch".to_owned())), (Some(1), None)];
        let dim = dims.into_iter().map(|(dim_value, dim_param)| Dimension { dim_value, dim_param }).collect();
        let tensor = TypeProtoTensor { elem_type: Some(DataType::INT64), shape: Some(TensorShapeProto { dim }) };
        ValueInfoProto { name: Some(name.to_owned()), r#type: Some(TypeProto { tensor_type: Some(tensor), sequence: None }) }
    };
    let node = NodeProto {
        name: Some("self".to_owned()),
        op_type: Some(operator.to_owned()),
        input: vec!["x".to_owned(), "x".to_owned()],
        output: vec!["y".to_owned()],
        ..NodeProto::default()
    };
    let graph = GraphProto { node: vec![node], input: vec![value("x")], output: vec![value("y")], ..GraphProto::default() };
    let opset = OperatorSetIdProto { domain: Some(String::new()), version: Some(17) };
    let model = ModelProto { ir_version: Some(8), graph: Some(graph), opset_import: vec![opset], ..ModelProto::default() };
    model.write_buf().expect("a model can be written to memory")
}

fn item(number: i64) -> Message {
    let data = number.to_le_bytes().to_vec().into();
    let tensor = Tensor { name: "x".to_owned(), datatype: Datatype::Int64.into(), shape: vec![1], data };
    Message::Item(Item { inputs: vec![tensor], ..Item::default() })
}

/// A model's results for these numbers, through a feed.
async fn answers(server: &Server, model: &str, numbers: &[i64]) -> Vec<Result<i64, Code>> {
    let mut client = connect(server).await;
    let said = Feed::run(&mut client, tensors_of(model), numbers.iter().copied().map(item).collect()).await;
    let number = |data: &[u8]| i64::from_le_bytes(data.try_into().expect("one number"));
    said.results.iter().map(|result| outputs(result).map(|tensors| number(&tensors[0].data))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_exceeds_32_bits_is_the_callers_fault_and_its_neighbours_are_right() {
    let folder = folder_of(&[("twice", "engine = 'rten'")]);
    write(folder.path(), "twice/1/model.onnx", &of_itself("Add"));
    let mut config = bare_config();
    config.models.dir = Some(folder.path().to_owned());
    let server = Server::start(config).await.unwrap_or_else(|error| panic!("{error}"));
    let account = Account::of(&server, "twice");
    let largest = (1 << 30) - 1;
    let found = answers(&server, "twice", &[1, 2_000_000_000, -5, largest, 5_000_000_000, -largest]).await;
    let refused = Err(Code::InvalidArgument);
    assert_eq!(found, [Ok(2), refused, Ok(-10), Ok(2 * largest), refused, Ok(-2 * largest)]);
    let ledger = account.settled().await;
    assert_eq!((ledger.outcome(Outcome::Ok), ledger.outcome(Outcome::Refused)), (4, 2));

    let body = |number: i64| format!(r#"{{"inputs":[{{"name":"x","datatype":"INT64","shape":[1,1],"data":[{number}]}}]}}"#);
    let mut http = Http::connect(&server).await;
    let reply = http.post("/v2/models/twice/infer", body(21)).await;
    assert_eq!(reply.json().1["outputs"][0]["data"][0], 42);
    let (status, message) = http.post("/v2/models/twice/infer", body(2_000_000_000)).await.error();
    assert_eq!(status, 400);
    for part in ["input 'x'", "element 0 is 2000000000", "up to 1073741823", "onnxruntime takes all of INT64"] {
        assert!(message.contains(part), "{message} lacks {part}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_whose_results_can_be_wrong_is_refused_unless_its_manifest_allows_it() {
    let start = async |manifest: &str| {
        let folder = folder_of(&[("square", manifest)]);
        write(folder.path(), "square/1/model.onnx", &of_itself("Mul"));
        let mut config = bare_config();
        config.models.dir = Some(folder.path().to_owned());
        Server::start(config).await
    };
    for manifest in ["", "engine = 'rten'"] {
        // If another test has loaded the library into this process, a model that names no engine may run on it.
        let Err(error) = start(manifest).await else {
            assert!(library().is_some() && manifest.is_empty(), "{manifest}");
            continue;
        };
        let text = error.to_string();
        for part in
            ["operator Mul ('self') computes INT64", "--onnxruntime auto", "pip install onnxruntime", "allow_narrowing = true"]
        {
            assert!(text.contains(part), "{manifest}: {text} lacks {part}");
        }
    }
    let server = start("engine = 'rten'\nallow_narrowing = true").await.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(answers(&server, "square", &[-3, 46_340]).await, [Ok(9), Ok(46_340 * 46_340)]);
}

/// Says so and checks nothing if no library is named; CI names one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_that_leaves_the_engine_open_computes_in_64_bits_where_onnxruntime_is_there() {
    let Some(library) = library() else {
        eprintln!("{LIBRARY_VARIABLE} names no library of onnxruntime; nothing has computed in 64 bits");
        return;
    };
    let folder = folder_of(&[]);
    write(folder.path(), "square/1/model.onnx", &of_itself("Mul"));
    write(folder.path(), "twice/1/model.onnx", &of_itself("Add"));
    let mut config = bare_config();
    config.models.dir = Some(folder.path().to_owned());
    config.engine.onnxruntime = Some(library);
    // Even where others run on rten.
    config.engine.default = "rten".parse().expect("an engine");
    let server = Server::start(config).await.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(answers(&server, "square", &[100_000, -1]).await, [Ok(10_000_000_000), Ok(1)]);
    assert_eq!(answers(&server, "twice", &[2_000_000_000, 5_000_000_000]).await, [Ok(4_000_000_000), Ok(10_000_000_000)]);
}
