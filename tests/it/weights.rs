//! Weights in a file next to the model's own.

use std::{fs, os::unix::fs::symlink, path::Path};

use rten_onnx::onnx::{
    DataLocation, DataType, Dimension, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, StringStringEntryProto,
    TensorProto, TensorShapeProto, TypeProto, TypeProtoTensor, ValueInfoProto,
};

use tidemill::app::{Server, StartError};

use crate::{
    engines::library,
    serving::{Feed, bare_config, connect, first_values, folder_of, item, tensors_of, write},
};
use tidemill::proto::v1::feed_request::Message;

/// A file whose `y` is `x` times one FP32 number stored at `location`.
fn scaled(location: &str) -> Vec<u8> {
    let value = |name: &str| {
        let dims = [(None, Some("batch".to_owned())), (Some(1), None)];
        let dim = dims.into_iter().map(|(dim_value, dim_param)| Dimension { dim_value, dim_param }).collect();
        let tensor = TypeProtoTensor { elem_type: Some(DataType::FLOAT), shape: Some(TensorShapeProto { dim }) };
        ValueInfoProto { name: Some(name.to_owned()), r#type: Some(TypeProto { tensor_type: Some(tensor), sequence: None }) }
    };
    let entry = |key: &str, value: &str| StringStringEntryProto { key: Some(key.to_owned()), value: Some(value.to_owned()) };
    let weight = TensorProto {
        name: Some("w".to_owned()),
        dims: vec![1],
        data_type: Some(DataType::FLOAT),
        data_location: Some(DataLocation::EXTERNAL),
        external_data: vec![entry("location", location), entry("offset", "0"), entry("length", "4")],
        ..TensorProto::default()
    };
    let node = NodeProto {
        op_type: Some("Mul".to_owned()),
        input: vec!["x".to_owned(), "w".to_owned()],
        output: vec!["y".to_owned()],
        ..NodeProto::default()
    };
    let graph = GraphProto {
        node: vec![node],
        initializer: vec![weight],
        input: vec![value("x")],
        output: vec![value("y")],
        ..GraphProto::default()
    };
    let opset = OperatorSetIdProto { domain: Some(String::new()), version: Some(17) };
    let model = ModelProto { ir_version: Some(8), graph: Some(graph), opset_import: vec![opset], ..ModelProto::default() };
    model.write_buf().expect("a model can be written to memory")
}

/// A server with the models in `folder`, and with onnxruntime if it is there.
async fn start(folder: &Path) -> Result<Server, StartError> {
    let mut config = bare_config();
    config.models.dir = Some(folder.to_owned());
    config.engine.onnxruntime = library();
    Server::start(config).await
}

/// A model's result for 3.
async fn thrice(server: &Server, model: &str) -> f32 {
    let mut client = connect(server).await;
    let said = Feed::run(&mut client, tensors_of(model), vec![Message::Item(item("", &[3.0]))]).await;
    first_values(&said.results)[0]
}

/// The engines that are available here.
fn engines() -> Vec<&'static str> {
    let mut engines = vec!["rten"];
    engines.extend(library().map(|_| "onnxruntime"));
    engines
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn weights_come_from_the_models_own_folder_and_a_change_of_them_alone_is_seen() {
    for engine in engines() {
        let folder = folder_of(&[("m", &format!("engine = '{engine}'"))]);
        write(folder.path(), "m/1/model.onnx", &scaled("model.onnx.data"));
        write(folder.path(), "m/1/model.onnx.data", &2.0_f32.to_le_bytes());
        let server = start(folder.path()).await.unwrap_or_else(|error| panic!("{engine}: {error}"));
        assert_eq!(thrice(&server, "m").await, 6.0, "{engine}");
        assert_eq!(server.repository().refresh().await.expect("it looks").loaded, 0, "nothing has changed");
        // A new file in its place, as a careful tool would write it.
        write(folder.path(), "m/1/.new", &5.0_f32.to_le_bytes());
        fs::rename(folder.path().join("m/1/.new"), folder.path().join("m/1/model.onnx.data")).expect("it can be moved");
        assert_eq!(server.repository().refresh().await.expect("it looks").loaded, 1, "{engine}");
        assert_eq!(thrice(&server, "m").await, 15.0, "{engine}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tree_of_links_as_kubernetes_makes_it_is_served() {
    for engine in engines() {
        let folder = folder_of(&[]);
        write(folder.path(), "..2026_01/m/model.toml", format!("engine = '{engine}'").as_bytes());
        write(folder.path(), "..2026_01/m/1/model.onnx", &scaled("model.onnx.data"));
        write(folder.path(), "..2026_01/m/1/model.onnx.data", &2.0_f32.to_le_bytes());
        symlink("..2026_01", folder.path().join("..data")).expect("a link");
        symlink("..data/m", folder.path().join("whole")).expect("a link");
        // Or link by link.
        write(folder.path(), "single/model.toml", format!("engine = '{engine}'").as_bytes());
        fs::create_dir(folder.path().join("single/1")).expect("a folder");
        for name in ["model.onnx", "model.onnx.data"] {
            let target = format!("../../..data/m/1/{name}");
            symlink(target, folder.path().join("single/1").join(name)).expect("a link");
        }
        let server = start(folder.path()).await.unwrap_or_else(|error| panic!("{engine}: {error}"));
        assert_eq!((thrice(&server, "whole").await, thrice(&server, "single").await), (6.0, 6.0), "{engine}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_weights_keep_the_model_from_being_served_and_it_says_what_to_do() {
    for engine in engines() {
        let outside = tempfile::tempdir().expect("a temporary folder");
        write(outside.path(), "weights", &2.0_f32.to_le_bytes());
        let absolute = outside.path().join("weights");
        let manifest = format!("engine = '{engine}'");
        let names = ["missing", "short", "absolute", "climbing", "linked", "folder"];
        let models: Vec<_> = names.iter().map(|name| (*name, manifest.as_str())).collect();
        let folder = folder_of(&models);
        let put = |model: &str, location: &str| write(folder.path(), &format!("{model}/1/model.onnx"), &scaled(location));
        put("missing", "model.onnx.data");
        put("short", "model.onnx.data");
        write(folder.path(), "short/1/model.onnx.data", &[0; 3]);
        put("absolute", absolute.to_str().expect("UTF-8"));
        put("climbing", "../../short/1/model.onnx.data");
        put("linked", "model.onnx.data");
        symlink(&absolute, folder.path().join("linked/1/model.onnx.data")).expect("a link");
        put("folder", "model.onnx.data");
        write(folder.path(), "folder/1/model.onnx.data/file", b"");
        let error = start(folder.path()).await.err().expect("none of them can be served").to_string();
        let expected = [
            ("missing", "tensor 'w' is in 'model.onnx.data', which is not there (looked for in '"),
            ("short", "tensor 'w' takes 4 bytes from byte 0 of 'model.onnx.data', which has 3 bytes"),
            ("absolute", "/weights', which leads out of the model's folder, which is not followed"),
            ("climbing", "'../../short/1/model.onnx.data', which leads out of the model's folder"),
            ("linked", "'model.onnx.data', which is a link to '"),
            ("folder", "'model.onnx.data', which is not a file"),
        ];
        for (model, part) in expected {
            let line = error.lines().find(|line| line.contains(&format!("/{model}/1/model.onnx: ")));
            assert!(line.is_some_and(|line| line.contains(part)), "{engine}: {error} lacks {part} for {model}");
        }
    }
}
