//! Conversations over the Open Inference Protocol: calls, streams, sequences, and REST.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use futures::stream;
use tidemill_client::wire::inference::{self, infer_parameter::ParameterChoice, model_infer_request::InferInputTensor};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
};

use super::Site;
use crate::workload::SILERO_VALUES;

/// Requests on a stream, or on a connection.
const REQUESTS: usize = 12;

/// A request with one to four items.
pub(super) async fn infer(site: &Site, random: &mut fastrand::Rng) -> anyhow::Result<u64> {
    let items = random.usize(1..=4);
    let request = request(site, items, BTreeMap::new());
    let response = site.client.open_inference().model_infer(request).await?.into_inner();
    check(&response, items)?;
    Ok(items as u64)
}

/// Requests on a stream; with an id, all of them are one sequence.
pub(super) async fn infer_stream(site: &Site, sequence: Option<i64>) -> anyhow::Result<u64> {
    let requests: Vec<_> = (0..REQUESTS)
        .map(|number| {
            let parameters = sequence.map(|id| place_in_sequence(id, number)).unwrap_or_default();
            inference::ModelInferRequest { id: number.to_string(), ..request(site, 1, parameters) }
        })
        .collect();
    let mut inbound = site.client.open_inference().model_stream_infer(stream::iter(requests)).await?.into_inner();
    let mut answered = 0;
    while let Some(response) = inbound.message().await? {
        ensure!(response.error_message.is_empty(), "request {answered} failed: {}", response.error_message);
        let response = response.infer_response.context("an empty answer")?;
        ensure!(response.id == answered.to_string(), "the answer to '{}' instead of {answered}", response.id);
        check(&response, 1)?;
        answered += 1;
    }
    ensure!(answered == REQUESTS, "{answered} answers to {REQUESTS} requests");
    Ok(answered as u64)
}

/// Requests one after another on their own connection.
pub(super) async fn http_infer(site: &Site, random: &mut fastrand::Rng) -> anyhow::Result<u64> {
    let data: Vec<f32> = std::iter::repeat_with(|| random.f32() - 0.5).take(SILERO_VALUES).collect();
    let input = serde_json::json!({"name": "input", "datatype": "FP32", "shape": [1, SILERO_VALUES], "data": data});
    let body = serde_json::json!({"inputs": [input]}).to_string();
    let path = format!("/v2/models/{}/infer", site.workload.model);
    let mut stream = BufReader::new(TcpStream::connect(site.http).await?);
    for _ in 0..REQUESTS {
        let (status, answer) = post(&mut stream, &path, &body).await?;
        ensure!(status == 200, "status {status}: {answer}");
        let answer: serde_json::Value = serde_json::from_str(&answer)?;
        ensure!(answer["outputs"][0]["data"][0].is_number(), "no outputs in {answer}");
    }
    Ok(REQUESTS as u64)
}

fn request(site: &Site, items: usize, parameters: BTreeMap<String, inference::InferParameter>) -> inference::ModelInferRequest {
    let shape = vec![items as i64, SILERO_VALUES as i64];
    let input = InferInputTensor { name: "input".to_owned(), datatype: "FP32".to_owned(), shape, ..Default::default() };
    inference::ModelInferRequest {
        model_name: site.workload.model.clone(),
        parameters,
        inputs: vec![input],
        raw_input_contents: vec![site.workload.data().repeat(items).into()],
        ..Default::default()
    }
}

fn place_in_sequence(id: i64, number: usize) -> BTreeMap<String, inference::InferParameter> {
    let parameter = |choice| inference::InferParameter { parameter_choice: Some(choice) };
    BTreeMap::from([
        ("sequence_id".to_owned(), parameter(ParameterChoice::Int64Param(id))),
        ("sequence_start".to_owned(), parameter(ParameterChoice::BoolParam(number == 0))),
        ("sequence_end".to_owned(), parameter(ParameterChoice::BoolParam(number + 1 == REQUESTS))),
    ])
}

fn check(response: &inference::ModelInferResponse, items: usize) -> anyhow::Result<()> {
    let bytes: usize = response.raw_output_contents.iter().map(Bytes::len).sum();
    ensure!(bytes == items * 4, "{items} items answered with {bytes} bytes");
    Ok(())
}

/// One request and its answer: status and body.
async fn post(stream: &mut BufReader<TcpStream>, path: &str, body: &str) -> anyhow::Result<(u16, String)> {
    let length = body.len();
    let head =
        format!("POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n");
    stream.write_all((head + body).as_bytes()).await?;
    let (mut status, mut length) = (None, 0);
    loop {
        let mut line = String::new();
        ensure!(stream.read_line(&mut line).await? > 0, "the connection was closed instead of an answer");
        let line = line.trim_end().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse()?;
        }
        status = status.or_else(|| line.strip_prefix("http/1.1 ")?.split(' ').next()?.parse().ok());
    }
    let mut answer = vec![0; length];
    stream.read_exact(&mut answer).await?;
    Ok((status.context("an answer without a status")?, String::from_utf8(answer)?))
}
