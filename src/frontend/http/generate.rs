//! `POST …/generate` and `…/generate_stream`: plain JSON in, plain JSON out, at once or as it is computed.

use std::{convert::Infallible, future};

use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, header},
    response::{IntoResponse as _, Response, Sse, sse::Event},
};
use futures::{Stream, StreamExt as _, stream};

use super::{
    aside::aside,
    body,
    error::{Refusal, error_json},
    plain,
    request::BinaryOutputs,
    response::json_bytes,
    routes::{Api, Target},
};
use crate::{domain::Fault, open_inference::InferRequest, telemetry::Method};

pub(super) async fn generate(
    State(api): State<Api>,
    target: Target,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let request = request(&api, &target, &headers, body).await?;
    let response = api.open_inference.infer(Method::HttpGenerate, request, api.caller(&headers)).await?;
    let length = json_bytes(&response, &BinaryOutputs::default());
    let json = aside(length, move || plain::encode(&response)).await;
    let json = json.map_err(|fault| api.counted(Method::HttpGenerate, fault))?;
    Ok(([(header::CONTENT_TYPE, "application/json")], json).into_response())
}

/// Until there is a first response, an error is the status. Afterwards the status is out, and an error is the last event.
pub(super) async fn generate_stream(
    State(api): State<Api>,
    target: Target,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let request = request(&api, &target, &headers, body).await?;
    let responses = api.open_inference.infer_each(Method::HttpGenerate, request, api.caller(&headers))?;
    let counting = api.clone();
    let mut answers = Box::pin(responses.map(move |response| {
        plain::encode(&response?).inspect_err(|fault| counting.open_inference.service().count_fault(Method::HttpGenerate, fault))
    }));
    let first = answers.next().await.unwrap_or_else(|| Err(Fault::invalid("inputs", "the request holds no item")))?;
    let answers = stream::once(future::ready(Ok(first))).chain(answers);
    Ok(Sse::new(to_first_error(answers)).into_response())
}

fn to_first_error(answers: impl Stream<Item = Result<String, Fault>>) -> impl Stream<Item = Result<Event, Infallible>> {
    answers.scan(false, |failed, answer| {
        let goes_on = !std::mem::replace(failed, answer.is_err());
        let event = || Event::default().data(answer.unwrap_or_else(|fault| error_json(fault.message())));
        future::ready(goes_on.then(event).map(Ok))
    })
}

async fn request(api: &Api, target: &Target, headers: &HeaderMap, body: Body) -> Result<InferRequest, Refusal> {
    let count = |fault| api.counted(Method::HttpGenerate, fault);
    body::admit(headers, api.open_inference.service().memory()).map_err(|refusal| api.counted(Method::HttpGenerate, refusal))?;
    let body = body::read(headers, body, &api.config).await;
    let body = body.map_err(|refusal| api.counted(Method::HttpGenerate, refusal))?;
    let model = api.open_inference.service().find(&target.model, &target.version).map_err(count)?;
    // The version that it was read for, whatever becomes the newest meanwhile.
    let (name, version) = (model.loaded.name.to_string(), model.loaded.version.to_string());
    let decoded = aside(body.len(), move || plain::decode(&body, model.signature())).await.map_err(count)?;
    Ok(InferRequest { model: name, version, ..decoded })
}
