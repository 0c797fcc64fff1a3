//! `POST /v1/tokens`: a short-lived token for a caller that is known, to be handed to a client that should not have its key.

use axum::{
    extract::State,
    http::{HeaderValue, header},
    response::Response,
};
use serde::{Deserialize, Serialize};

use super::{
    api::{Api, document},
    body::Sent,
    error::Refusal,
    repository::read,
};
use crate::service::TokenRequest;

/// What may be asked of a token; everything may be left out.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    /// What it should grant; all that the caller may do if left out.
    scopes: Option<Vec<String>>,
    /// With which models; with all of the caller's if left out.
    models: Option<Vec<String>>,
    /// How long it should last, 10 to 7,200 s; 600 if left out.
    expires_in_s: Option<u64>,
}

#[derive(Serialize)]
struct Lent {
    token: String,
    token_type: &'static str,
    expires_in_s: u64,
    scopes: Vec<&'static str>,
}

pub(super) async fn lend(State(api): State<Api>, sent: Sent) -> Result<Response, Refusal> {
    let Asked { scopes, models, expires_in_s } = read(&api, sent).await?;
    let lent = api.open_inference.service().lend_token(TokenRequest { scopes, models, expires_in_s })?;
    let mut response =
        document(&Lent { token: lent.token, token_type: "Bearer", expires_in_s: lent.expires_in_s, scopes: lent.scopes })?;
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}
