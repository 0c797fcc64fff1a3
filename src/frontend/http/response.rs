//! An [`InferResponse`] as an HTTP response: JSON, followed by the outputs that are wanted as binary data.

use std::{
    collections::VecDeque,
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use axum::{
    body::Body,
    http::{HeaderName, HeaderValue, header},
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use serde::Serialize;

use super::{
    request::{BinaryOutputs, HEADER_LENGTH},
    to_json::{JsonElements, JsonTensor},
};
use crate::{
    domain::{Fault, FaultKind},
    open_inference::{InferResponse, OutputData, OutputTensor},
};

/// Encodes a response. Binary data are not copied.
///
/// # Errors
/// [`FaultKind::Invalid`] if an output has no form in JSON and is not wanted as binary data.
pub(super) fn encode(response: &InferResponse, binary: &BinaryOutputs) -> Result<Response, Fault> {
    let InferResponse { model, version, id, outputs } = response;
    let mut parts = VecDeque::from([Bytes::new()]);
    let outputs = outputs.iter().map(|output| output_json(output, binary, &mut parts)).collect::<Result<_, _>>()?;
    let json = to_json(&ResponseJson { id, model_name: model, model_version: version, outputs })?;
    if parts.len() == 1 {
        return Ok(([(header::CONTENT_TYPE, "application/json")], json).into_response());
    }
    let length = HeaderValue::from(json.len());
    if let Some(first) = parts.front_mut() {
        *first = json;
    }
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")),
        (HeaderName::from_static(HEADER_LENGTH), length),
    ];
    Ok((headers, Body::new(Parts(parts))).into_response())
}

/// Rough length of a response's JSON.
pub(super) fn json_bytes(response: &InferResponse, binary: &BinaryOutputs) -> usize {
    let bytes = |output: &OutputTensor| match &output.data {
        OutputData::Here(data) if !binary.wants(&output.name) => data.len() * 2,
        OutputData::Here(_) | OutputData::Shared(_) => 0,
    };
    response.outputs.iter().map(bytes).sum()
}

/// # Errors
/// [`FaultKind::Failed`], which no value made here causes.
pub(super) fn to_json(value: &impl Serialize) -> Result<Bytes, Fault> {
    let json = serde_json::to_vec(value);
    json.map(Bytes::from).map_err(|error| Fault::new(FaultKind::Failed, format!("the response cannot be written: {error}")))
}

#[derive(Serialize)]
struct ResponseJson<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    id: &'a str,
    model_name: &'a str,
    model_version: &'a str,
    outputs: Vec<OutputJson<'a>>,
}

#[derive(Serialize)]
struct OutputJson<'a> {
    name: &'a str,
    datatype: &'static str,
    shape: &'a [i64],
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<OutputParameters<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<JsonTensor<'a>>,
}

/// Where the elements are, if not here.
#[derive(Serialize)]
#[serde(untagged)]
enum OutputParameters<'a> {
    Binary { binary_data_size: usize },
    Shared { shared_memory_region: &'a str, shared_memory_offset: u64, shared_memory_byte_size: u64 },
}

fn output_json<'a>(
    output: &'a OutputTensor,
    binary: &BinaryOutputs,
    parts: &mut VecDeque<Bytes>,
) -> Result<OutputJson<'a>, Fault> {
    let OutputTensor { name, datatype, shape, data } = output;
    let (parameters, data) = match data {
        OutputData::Here(data) if binary.wants(name) => {
            parts.push_back(data.clone());
            (Some(OutputParameters::Binary { binary_data_size: data.len() }), None)
        }
        OutputData::Here(data) => (None, Some(JsonElements::new(name, *datatype, data)?.flat())),
        OutputData::Shared(shared) => {
            let parameters = OutputParameters::Shared {
                shared_memory_region: &shared.region,
                shared_memory_offset: shared.offset,
                shared_memory_byte_size: shared.bytes,
            };
            (Some(parameters), None)
        }
    };
    Ok(OutputJson { name, datatype: datatype.name(), shape, parameters, data })
}

/// A body in parts, whose length is known.
struct Parts(VecDeque<Bytes>);

impl hyper::body::Body for Parts {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop_front().map(|part| Ok(Frame::data(part))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.iter().map(|part| part.len() as u64).sum())
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderMap;

    use super::*;
    use crate::{domain::Datatype, open_inference::SharedOutput};

    fn output(name: &str, data: OutputData) -> OutputTensor {
        OutputTensor { name: name.into(), datatype: Datatype::Uint8, shape: vec![1, 2], data }
    }

    fn response(outputs: Vec<OutputTensor>) -> InferResponse {
        InferResponse { model: "m".into(), version: "1".into(), id: String::new(), outputs }
    }

    async fn parts(response: Response) -> (HeaderMap, Bytes) {
        let (parts, body) = response.into_parts();
        (parts.headers, axum::body::to_bytes(body, 1 << 20).await.expect("a short body"))
    }

    #[tokio::test]
    async fn without_binary_outputs_all_of_it_is_json() {
        let shared = SharedOutput { region: "r".to_owned(), offset: 8, bytes: 2 };
        let outputs = vec![output("y", OutputData::Here(Bytes::from_static(&[1, 2]))), output("z", OutputData::Shared(shared))];
        let response = InferResponse { id: "7".to_owned(), ..response(outputs) };
        let (headers, body) = parts(encode(&response, &BinaryOutputs::default()).expect("a response")).await;
        assert_eq!(headers[header::CONTENT_TYPE], "application/json");
        assert!(!headers.contains_key(HEADER_LENGTH));
        let expected = concat!(
            r#"{"id":"7","model_name":"m","model_version":"1","outputs":[{"name":"y","datatype":"UINT8","shape":[1,2],"data":[1,2]},"#,
            r#"{"name":"z","datatype":"UINT8","shape":[1,2],"parameters":{"shared_memory_region":"r","shared_memory_offset":8,"#,
            r#""shared_memory_byte_size":2}}]}"#,
        );
        assert_eq!(body, expected);
    }

    #[tokio::test]
    async fn binary_outputs_follow_the_json_in_their_order() {
        let here = |bytes: &'static [u8]| OutputData::Here(Bytes::from_static(bytes));
        let response = response(vec![output("a", here(&[1, 2])), output("b", here(&[3, 4])), output("c", here(&[5, 6]))]);
        let binary = BinaryOutputs { all: true, named: [("b".to_owned(), false)].into() };
        let encoded = encode(&response, &binary).expect("a response");
        let announced = hyper::body::Body::size_hint(encoded.body()).exact().expect("a length");
        let (headers, body) = parts(encoded).await;
        assert_eq!(announced, body.len() as u64);
        assert_eq!(headers[header::CONTENT_TYPE], "application/octet-stream");
        let length: usize = headers[HEADER_LENGTH].to_str().expect("text").parse().expect("a number");
        let (json, binary) = body.split_at(length);
        assert_eq!(binary, [1, 2, 5, 6]);
        let json: serde_json::Value = serde_json::from_slice(json).expect("JSON");
        assert_eq!(json["outputs"][0]["parameters"]["binary_data_size"], 2);
        assert_eq!(json["outputs"][1]["data"], serde_json::json!([3, 4]));
        assert_eq!(json["outputs"][2]["data"], serde_json::Value::Null);
    }

    #[test]
    fn an_output_without_a_form_in_json_is_refused_unless_it_is_binary() {
        let half = OutputTensor { datatype: Datatype::Fp16, ..output("h", OutputData::Here(Bytes::from_static(&[0; 4]))) };
        let response = response(vec![half]);
        assert!(encode(&response, &BinaryOutputs::default()).is_err());
        assert!(encode(&response, &BinaryOutputs { all: true, ..BinaryOutputs::default() }).is_ok());
    }
}
