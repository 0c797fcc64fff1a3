//! `/v2/systemsharedmemory/…`: regions of the clients' shared memory.

use axum::{extract::State, http::StatusCode, response::Response};
use serde::Deserialize;

use super::{
    api::{Api, Name, document},
    body::{Arrived, Sent},
    error::Refusal,
    request::parse,
};
use crate::side::INLINE_BYTES_MAX;

pub(super) async fn status(State(api): State<Api>, Name(region): Name) -> Result<Response, Refusal> {
    document(&api.open_inference.shared_memory()?.status(&region)?)
}

pub(super) async fn status_of_all(State(api): State<Api>) -> Result<Response, Refusal> {
    document(&api.open_inference.shared_memory()?.status("")?)
}

pub(super) async fn register(State(api): State<Api>, Name(region): Name, sent: Sent) -> Result<StatusCode, Refusal> {
    let Arrived { body, charge: _charge, .. } = sent.read(&api).await?;
    let Region { key, offset, byte_size } = api.bounds.side.run_long(body.len(), INLINE_BYTES_MAX, move || parse(&body)).await?;
    api.open_inference.register_memory(&region, &key, offset.unwrap_or_default(), byte_size)?;
    Ok(StatusCode::OK)
}

pub(super) async fn unregister(State(api): State<Api>, Name(region): Name) -> Result<StatusCode, Refusal> {
    api.open_inference.unregister_memory(&region)?;
    Ok(StatusCode::OK)
}

pub(super) async fn unregister_all(State(api): State<Api>) -> Result<StatusCode, Refusal> {
    api.open_inference.unregister_memory("")?;
    Ok(StatusCode::OK)
}

#[derive(Deserialize)]
struct Region {
    key: String,
    offset: Option<u64>,
    byte_size: u64,
}
