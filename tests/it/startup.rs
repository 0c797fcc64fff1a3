//! Faults that keep the server from starting, and what it then says.

use std::{fs, net::TcpListener};

use rten_onnx::onnx::{
    DataType, Dimension, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorShapeProto, TypeProto, TypeProtoTensor,
    ValueInfoProto,
};
use tonic::Code;

use tidemill::{
    app::{Server, StartError},
    proto::v1::{PredictRequest, predict_request::Payload},
};

use crate::{
    binary::Binary,
    serving::{DOUBLER, bare_config, connect, folder_of, item, page, patiently, write},
};

/// Exit code of a server that could not start.
const EXIT_START: i32 = 2;

/// Starts the binary with `flags`, which must keep it from serving, and returns what it says.
fn refused(flags: &[&str]) -> String {
    let mut binary = Binary::serve(flags);
    let code = binary.end();
    assert_eq!(code, EXIT_START, "{}", binary.log);
    assert!(!binary.log.contains("panicked"), "{}", binary.log);
    binary.log.clone()
}

fn assert_says(log: &str, fragments: &[&str]) {
    for fragment in fragments {
        assert!(log.contains(fragment), "no {fragment:?} in:\n{log}");
    }
}

/// An ONNX file with one operator from `x` to `y`, both FP32 of shape [n, 4].
pub(crate) fn one_operator(operator: &str) -> Vec<u8> {
    let value = |name: &str| {
        let dims = [(None, Some("n".to_owned())), (Some(4), None)];
        let dim = dims.into_iter().map(|(dim_value, dim_param)| Dimension { dim_value, dim_param }).collect();
        let tensor = TypeProtoTensor { elem_type: Some(DataType::FLOAT), shape: Some(TensorShapeProto { dim }) };
        ValueInfoProto { name: Some(name.to_owned()), r#type: Some(TypeProto { tensor_type: Some(tensor), sequence: None }) }
    };
    let node = NodeProto {
        op_type: Some(operator.to_owned()),
        input: vec!["x".to_owned()],
        output: vec!["y".to_owned()],
        ..NodeProto::default()
    };
    let graph = GraphProto { node: vec![node], input: vec![value("x")], output: vec![value("y")], ..GraphProto::default() };
    let model = ModelProto {
        ir_version: Some(8),
        graph: Some(graph),
        opset_import: vec![OperatorSetIdProto { domain: Some(String::new()), version: Some(17) }],
        ..ModelProto::default()
    };
    model.write_buf().expect("a model can be written to memory")
}

#[tokio::test]
async fn a_port_in_use_is_named_with_its_key_and_nothing_is_left_running() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("it is bound");
    for key in ["server.grpc_addr", "server.http_addr", "server.admin_addr"] {
        let mut config = bare_config();
        let server = &mut config.server;
        *match key {
            "server.grpc_addr" => &mut server.grpc_addr,
            "server.http_addr" => &mut server.http_addr,
            _ => &mut server.admin_addr,
        } = address.into();
        let error = Server::start(config).await.err().expect("the port is taken");
        assert!(matches!(&error, StartError::Bind { key: found, .. } if *found == key), "{error}");
        assert_says(&error.to_string(), &[&address.to_string(), key, "Port 0"]);
    }
}

#[test]
fn the_binary_ends_with_2_and_a_reason_when_a_port_is_taken() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("it is bound").to_string();
    let mut binary = Binary::serve_at(&["127.0.0.1:0", &address], &[]);
    assert_eq!(binary.end(), EXIT_START);
    assert_says(&binary.log, &["server.admin_addr", &address, "is another server running there?"]);
}

#[test]
fn all_faults_of_the_settings_come_at_once() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("settings.toml");
    fs::write(&path, "[session]\nwindow_itms = 3\nwindow_bytes = 'many'\n[shed]\ncolour = 1\n").expect("a file");
    let path = path.to_str().expect("a name in Unicode");
    let log = refused(&["--config", path, "--set", "scheduler.lanes=5000", "--set", "drain.dedline_s=1"]);
    let fragments = [
        path,
        "session.window_itms",
        "session.window_items",
        "session.window_bytes",
        "shed",
        "scheduler.lanes",
        "0 to 1024",
        "drain.dedline_s",
    ];
    assert_says(&log, &fragments);
    assert_says(&refused(&["--config", "/nowhere/settings.toml"]), &["/nowhere/settings.toml"]);
}

#[test]
fn all_faults_of_all_models_come_at_once() {
    let folder = folder_of(&[("good", DOUBLER), ("keys", "colour = 'red'\nengine = 'tract'")]);
    write(folder.path(), "keys/1/model.onnx", b"never read");
    write(folder.path(), "garbage/1/model.onnx", b"this is no model");
    write(folder.path(), "nothing/1/model.onnx", b"");
    write(folder.path(), "exotic/1/model.onnx", &one_operator("Frobnicate"));
    fs::create_dir_all(folder.path().join("missing/1")).expect("a folder");
    let log = refused(&["--models", folder.path().to_str().expect("a name in Unicode")]);
    let fragments = [
        "keys/model.toml: colour",
        "keys/model.toml: engine",
        "garbage/1/model.onnx: ",
        "nothing/1/model.onnx: ",
        "exotic/1/model.onnx: ",
        "Frobnicate",
        "missing/1/model.onnx: cannot be read",
    ];
    assert_says(&log, &fragments);
    assert!(!log.contains("good/"), "{log}");
}

#[test]
fn a_missing_folder_is_named() {
    assert_says(&refused(&["--models", "/nowhere/models"]), &["/nowhere/models"]);
}

#[test]
fn a_wrong_path_to_onnxruntime_says_how_to_get_the_library() {
    let hints = ["cannot load the onnxruntime library", "pip install onnxruntime", "--onnxruntime PATH", "ORT_DYLIB_PATH"];
    assert_says(&refused(&["--onnxruntime", "/nowhere/libonnxruntime.so"]), &hints);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("text.so");
    fs::write(&path, "no library").expect("a file");
    assert_says(&refused(&["--onnxruntime", path.to_str().expect("a name in Unicode")]), &hints);
}

#[test]
fn a_model_for_onnxruntime_without_the_library_is_a_fault_of_the_model() {
    let folder = folder_of(&[("m", "engine = 'onnxruntime'")]);
    write(folder.path(), "m/1/model.onnx", &one_operator("Relu"));
    let log = refused(&["--models", folder.path().to_str().expect("a name in Unicode")]);
    assert_says(&log, &["m/1/model.onnx: ", "--onnxruntime PATH"]);
}

#[tokio::test]
async fn if_allowed_it_serves_what_it_can_and_says_what_it_cannot() {
    let folder = folder_of(&[("good", DOUBLER)]);
    write(folder.path(), "exotic/1/model.onnx", &one_operator("Frobnicate"));
    write(folder.path(), "plain/1/model.onnx", &one_operator("Relu"));
    let mut config = bare_config();
    config.models.dir = Some(folder.path().to_owned());
    config.models.allow_partial = true;
    let server = patiently(Server::start(config)).await.expect("two of three models load");
    let mut client = connect(&server).await;
    let mut predict = async |model: &str| {
        let payload = Some(Payload::Item(item("", &[1.0; 4])));
        let request = PredictRequest { model: model.to_owned(), payload, ..PredictRequest::default() };
        patiently(client.predict(request)).await
    };
    assert!(predict("good").await.is_ok() && predict("plain").await.is_ok());
    let error = predict("exotic").await.expect_err("it failed to load");
    assert_eq!(error.code(), Code::Unavailable);
    assert_says(error.message(), &["exotic", "Frobnicate"]);
    let (status, body) = patiently(page(server.admin_addr(), "/readyz")).await;
    assert_eq!(status, 200, "if allowed, it is ready without the model that failed: {body}");
}

#[test]
fn it_may_open_as_many_files_as_the_system_allows() {
    let mut server = Binary::serve_with_files(128, &["--set", "models.embedded=false"]);
    server.addresses();
    let (soft, hard) = server.file_limits();
    assert!(soft == hard && soft != "128", "{soft} of {hard}");
}
