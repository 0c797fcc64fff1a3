//! The doors of the native API and of the Open Inference Protocol over gRPC, and of the latter's REST.

use std::net::SocketAddr;

use bytes::Bytes;
use serde_json::{Value, json};
use tidemill::proto::{
    inference::{
        InferParameter, ModelInferRequest,
        infer_parameter::ParameterChoice,
        model_infer_request::{InferInputTensor, InferRequestedOutputTensor},
    },
    v1::{Datatype, Item, PredictRequest, Priority, Tensor, predict_request::Payload},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tonic::Status;

use super::{Ask, Doors, HIGH, Input, Told};
use crate::{
    infer::{InferClient, step, with_parameter},
    serving::{Client, patiently},
};

/// The request of the native API.
pub(super) fn predict_request(ask: &Ask) -> PredictRequest {
    let tensor = |input: &Input| Tensor {
        name: input.name.to_owned(),
        datatype: Datatype::from_str_name(&format!("DATATYPE_{}", input.datatype)).map_or(99, i32::from),
        shape: input.shape.clone(),
        data: input.data.clone().into(),
    };
    let deadline =
        ask.timeout_us.map(|micros| prost_types::Duration { seconds: 0, nanos: i32::try_from(micros * 1_000).expect("short") });
    let item = Item { id: ask.id.clone(), inputs: ask.inputs.iter().map(tensor).collect(), deadline };
    PredictRequest {
        model: ask.model.to_owned(),
        version: ask.version.to_owned(),
        payload: Some(Payload::Item(item)),
        priority: if ask.parameter == HIGH { Priority::High.into() } else { Priority::Unspecified.into() },
        ..PredictRequest::default()
    }
}

pub(super) async fn ask_native(doors: Doors, ask: &Ask) -> Told {
    let mut client = Client::connect(doors.url()).await.expect("the gRPC port accepts");
    told(patiently(client.predict(predict_request(ask))).await.map(drop))
}

pub(super) async fn ask_grpc(doors: Doors, ask: &Ask) -> Told {
    let value = |choice| InferParameter { parameter_choice: Some(choice) };
    let tensor = |input: &Input| InferInputTensor {
        name: input.name.to_owned(),
        datatype: input.datatype.to_owned(),
        shape: input.shape.clone(),
        ..InferInputTensor::default()
    };
    let mut request = ModelInferRequest {
        model_name: ask.model.to_owned(),
        model_version: ask.version.to_owned(),
        id: ask.id.clone(),
        inputs: ask.inputs.iter().map(tensor).collect(),
        outputs: ask
            .outputs
            .iter()
            .map(|name| InferRequestedOutputTensor {
                name: (*name).to_owned(),
                parameters: ask
                    .classification
                    .then(|| ("classification".to_owned(), value(ParameterChoice::Int64Param(0))))
                    .into_iter()
                    .collect(),
            })
            .collect(),
        raw_input_contents: ask.inputs.iter().map(|input| Bytes::from(input.data.clone())).collect(),
        ..ModelInferRequest::default()
    };
    if let Some((id, starts, ends)) = ask.step {
        request = step(request, id, starts, ends);
    }
    for (name, value) in ask.timeout_us.map(|micros| ("timeout", micros)).into_iter().chain(ask.parameter) {
        request = with_parameter(request, name, ParameterChoice::Int64Param(value));
    }
    if let Some(region) = ask.region {
        request.raw_input_contents.remove(0);
        let parameters = &mut request.inputs[0].parameters;
        parameters.insert("shared_memory_region".to_owned(), value(ParameterChoice::StringParam(region.to_owned())));
        parameters.insert("shared_memory_byte_size".to_owned(), value(ParameterChoice::Int64Param(16)));
    }
    let mut client = InferClient::connect(doors.url()).await.expect("the gRPC port accepts");
    told(patiently(client.model_infer(request)).await.map(drop))
}

fn told(answer: Result<(), Status>) -> Told {
    let status = answer.expect_err("it must be refused");
    Told { code: format!("{:?}", status.code()), message: status.message().to_owned() }
}

pub(super) async fn ask_rest(doors: Doors, ask: &Ask) -> Told {
    let mut binary = Vec::new();
    let inputs: Vec<Value> = ask
        .inputs
        .iter()
        .enumerate()
        .map(|(index, input)| {
            let parameters = match ask.region {
                Some(region) if index == 0 => json!({ "shared_memory_region": region, "shared_memory_byte_size": 16 }),
                _ => {
                    binary.extend_from_slice(&input.data);
                    json!({ "binary_data_size": input.data.len() })
                }
            };
            json!({ "name": input.name, "datatype": input.datatype, "shape": input.shape, "parameters": parameters })
        })
        .collect();
    let mut parameters = serde_json::Map::new();
    if let Some((id, starts, ends)) = ask.step {
        parameters.extend([
            ("sequence_id".to_owned(), json!(id)),
            ("sequence_start".to_owned(), json!(starts)),
            ("sequence_end".to_owned(), json!(ends)),
        ]);
    }
    for (name, value) in ask.timeout_us.map(|micros| ("timeout", micros)).into_iter().chain(ask.parameter) {
        parameters.insert(name.to_owned(), json!(value));
    }
    let wanted = if ask.classification { json!({ "classification": 0 }) } else { json!({}) };
    let outputs: Vec<Value> = ask.outputs.iter().map(|name| json!({ "name": name, "parameters": wanted })).collect();
    let mut body = json!({ "id": ask.id, "inputs": inputs, "parameters": parameters });
    if !outputs.is_empty() {
        body["outputs"] = json!(outputs);
    }
    let head = body.to_string();
    let version = if ask.version.is_empty() { String::new() } else { format!("/versions/{}", ask.version) };
    let path = format!("/v2/models/{}{version}/infer", ask.model);
    let json_length = head.len();
    let body = [head.into_bytes(), binary].concat();
    let fields = format!("Inference-Header-Content-Length: {json_length}\r\n");
    let (status, text) = patiently(post(doors.http, &path, &fields, &body)).await;
    let text = String::from_utf8(text).expect("text");
    let answer: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    Told {
        code: status.to_string(),
        message: answer["error"].as_str().unwrap_or_else(|| panic!("no error in {text}")).to_owned(),
    }
}

/// Status and body. The server may answer, and close, before it has read everything.
pub(super) async fn post(address: SocketAddr, path: &str, fields: &str, body: &[u8]) -> (u16, Vec<u8>) {
    let mut connection = TcpStream::connect(address).await.expect("the HTTP port accepts");
    let head =
        format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{fields}Content-Length: {}\r\n\r\n", body.len());
    connection.write_all(head.as_bytes()).await.expect("a request is taken");
    let _ = connection.write_all(body).await;
    let mut response = Vec::new();
    connection.read_to_end(&mut response).await.expect("an answer");
    let length = memchr::memmem::find(&response, b"\r\n\r\n").expect("a head and a body");
    let body = response.split_off(length + 4);
    let head = String::from_utf8(response).expect("text");
    let is_chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    let body = if is_chunked { whole(&body) } else { body };
    (head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status"), body)
}

/// A body that came in chunks.
fn whole(mut chunks: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let line = memchr::memmem::find(chunks, b"\r\n").expect("a length");
        let length = usize::from_str_radix(str::from_utf8(&chunks[..line]).expect("text"), 16).expect("a number");
        if length == 0 {
            return body;
        }
        let begin = line + 2;
        body.extend_from_slice(&chunks[begin..begin + length]);
        chunks = &chunks[begin + length + 2..];
    }
}
