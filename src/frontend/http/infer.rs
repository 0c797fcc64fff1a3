//! `POST …/infer`.

use axum::{
    extract::State,
    http::HeaderMap,
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;

use super::{
    api::{Api, Target},
    body::{Arrived, Sent},
    error::Refusal,
    request::{self, BinaryOutputs, Decoded, HEADER_LENGTH},
    response,
};
use crate::{
    domain::{Fault, TensorSpec},
    open_inference::{InferRequest, InputTensor, Parameters},
    side::INLINE_BYTES_MAX,
};

pub(super) async fn infer(State(api): State<Api>, target: Target, sent: Sent) -> Response {
    match answer(&api, target, sent).await {
        Ok(response) => response,
        Err(refusal) => refusal.into_response(),
    }
}

async fn answer(api: &Api, target: Target, sent: Sent) -> Result<Response, Refusal> {
    let count = |fault| api.infer.refuse(fault);
    let side = &api.bounds.side;
    let arrived = sent.to(&api.infer).read(api).await.inspect_err(|refusal| api.infer.count_fault(&refusal.fault))?;
    // The request keeps it until it is answered.
    let Arrived { headers, body, charge: _charge } = arrived;
    let json_length = json_length(&headers).map_err(count)?;
    let decoded = match json_length {
        Some(0) => raw(api, &target, body),
        length => side.run_long(length.unwrap_or(body.len()), INLINE_BYTES_MAX, move || request::decode(&body, length)).await,
    };
    let Decoded { mut request, binary } = decoded.map_err(count)?;
    request.model = target.model;
    request.version = target.version;
    let response = api.open_inference.infer(&api.infer, request, api.caller(&headers)).await?;
    let json_bytes = response::json_bytes(&response, &binary);
    side.run_long(json_bytes, INLINE_BYTES_MAX, move || response::encode(&response, &binary))
        .await
        .map_err(|fault| count(fault).into())
}

/// Length of the JSON at the beginning of the body, if the client says that something follows it.
fn json_length(headers: &HeaderMap) -> Result<Option<usize>, Fault> {
    let Some(value) = headers.get(HEADER_LENGTH) else { return Ok(None) };
    let length = value.to_str().ok().and_then(|text| text.parse().ok());
    length
        .map(Some)
        .ok_or_else(|| Fault::invalid(HEADER_LENGTH, format!("{HEADER_LENGTH} is {value:?}, which is not a number of bytes")))
}

/// A request without JSON: the body is the model's only input, for one item, and all outputs are wanted as binary data.
fn raw(api: &Api, target: &Target, body: Bytes) -> Result<Decoded, Fault> {
    let model = api.open_inference.service().find(&target.model, &target.version)?;
    let [input] = model.signature().inputs.as_slice() else {
        let count = model.signature().inputs.len();
        let message = format!("a body without JSON is for models of one input, but '{}' has {count}", target.model);
        return Err(Fault::invalid(HEADER_LENGTH, message));
    };
    let shape = raw_shape(input, body.len()).map_err(|message| Fault::invalid("body", message))?;
    let (name, datatype) = (input.name.to_string(), input.datatype);
    let input = InputTensor { name, datatype, shape, parameters: Parameters::new(), data: Some(body) };
    let request = InferRequest { inputs: vec![input], ..InferRequest::default() };
    Ok(Decoded { request, binary: BinaryOutputs { all: true, ..BinaryOutputs::default() } })
}

/// The shape of one item of this many bytes, with a batch dimension in front if the model has one.
fn raw_shape(input: &TensorSpec, bytes: usize) -> Result<Vec<i64>, String> {
    let known: usize = input.dims.iter().flatten().product();
    let dynamic = input.dims.iter().filter(|dim| dim.is_none()).count();
    if dynamic > 1 {
        return Err(format!("the shape of input '{}' does not follow from the length of the body; send JSON", input.name));
    }
    let size = known.saturating_mul(input.datatype.least_size()).max(1);
    let dims = input.dims.iter().map(|dim| i64::try_from(dim.unwrap_or(bytes / size)).unwrap_or(i64::MAX));
    Ok(input.batch_axis.map(|_| 1).into_iter().chain(dims).collect())
}
