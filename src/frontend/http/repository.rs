//! `POST /v2/repository/…`: which models there are, and loading and unloading them.

use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::Response,
};
use serde::Deserialize;

use super::{
    body,
    error::Refusal,
    request::{Named, parse},
    routes::{Api, Target, document},
};

pub(super) async fn index(State(api): State<Api>, headers: HeaderMap, body: Body) -> Result<Response, Refusal> {
    let IndexRequest { ready } = read(&api, &headers, body).await?;
    document(&api.open_inference.repository_index(ready.unwrap_or_default()).await)
}

pub(super) async fn load(State(api): State<Api>, target: Target, headers: HeaderMap, body: Body) -> Result<StatusCode, Refusal> {
    let ControlRequest { parameters } = read(&api, &headers, body).await?;
    let Named(parameters) = parameters.unwrap_or_default();
    api.open_inference.load_model(&target.model, parameters.keys().map(String::as_str)).await?;
    Ok(StatusCode::OK)
}

pub(super) async fn unload(
    State(api): State<Api>,
    target: Target,
    headers: HeaderMap,
    body: Body,
) -> Result<StatusCode, Refusal> {
    let ControlRequest { .. } = read(&api, &headers, body).await?;
    api.open_inference.unload_model(&target.model).await?;
    Ok(StatusCode::OK)
}

#[derive(Default, Deserialize)]
struct IndexRequest {
    ready: Option<bool>,
}

#[derive(Default, Deserialize)]
struct ControlRequest {
    parameters: Option<Named>,
}

/// A body of JSON, which may be left out.
async fn read<T>(api: &Api, headers: &HeaderMap, body: Body) -> Result<T, Refusal>
where
    T: Default + for<'de> Deserialize<'de>,
{
    let body = body::read(headers, body, &api.config).await?;
    if body.is_empty() { Ok(T::default()) } else { Ok(parse(&body)?) }
}
