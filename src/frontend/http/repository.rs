//! `POST /v2/repository/…`: which models there are, and loading and unloading them.

use axum::{extract::State, http::StatusCode, response::Response};
use serde::Deserialize;

use super::{
    api::{Api, Target, document},
    body::{Arrived, Sent},
    error::Refusal,
    request::{Named, parse},
};
use crate::side::INLINE_BYTES_MAX;

pub(super) async fn index(State(api): State<Api>, sent: Sent) -> Result<Response, Refusal> {
    let IndexRequest { ready } = read(&api, sent).await?;
    document(&api.open_inference.repository_index(ready.unwrap_or_default()).await?)
}

pub(super) async fn load(State(api): State<Api>, target: Target, sent: Sent) -> Result<StatusCode, Refusal> {
    let ControlRequest { parameters } = read(&api, sent).await?;
    let Named(parameters) = parameters.unwrap_or_default();
    api.open_inference.load_model(&target.model, parameters.keys().map(String::as_str)).await?;
    Ok(StatusCode::OK)
}

pub(super) async fn unload(State(api): State<Api>, target: Target, sent: Sent) -> Result<StatusCode, Refusal> {
    let ControlRequest { .. } = read(&api, sent).await?;
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
pub(super) async fn read<T>(api: &Api, sent: Sent) -> Result<T, Refusal>
where
    T: Default + for<'de> Deserialize<'de> + Send + 'static,
{
    let Arrived { body, charge: _charge, .. } = sent.read(api).await?;
    if body.is_empty() {
        return Ok(T::default());
    }
    Ok(api.bounds.side.run_long(body.len(), INLINE_BYTES_MAX, move || parse(&body)).await?)
}
