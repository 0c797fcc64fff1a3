//! `POST /v1/realtime/client_secrets` and `…/transcription_sessions`: a key that lasts for minutes, for a client that should not have a better one.
//!
//! The secret is a token that the server lends, as `POST /v1/tokens` does, behind `ek_`. It lets its holder run models and do nothing else.
//! Where the server knows no callers, everybody may do that: there the secret is a random text that nobody looks at.
//!
//! The session that is asked for is checked and sent back. It is not kept: the client sends it again when it has connected, as all do.

use axum::{
    body::HttpBody as _,
    extract::Request,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use serde_json::{Map, Value, json};

use super::{
    driver::Host,
    settings::{Identity, Settings},
    update,
    wrong::Wrong,
};
use crate::{
    clock,
    domain::{Fault, FaultKind},
    frontend::{refusal::Refusal, web::refuse_forms, websocket::handshake::Sockets},
    service::{LentToken, TokenRequest},
};

/// What a secret begins with; clients know by it that they may show the key in a browser.
const PREFIX: &str = "ek_";

/// How long a secret lasts, in seconds.
const LIFE_DEFAULT_S: u64 = 600;
const LIFE_S: std::ops::RangeInclusive<u64> = 10..=7_200;

/// Largest body.
const BODY_BYTES_MAX: usize = 64 << 10;

/// The shape of a request and its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    General,
    Beta,
}

struct Wanted {
    life_s: u64,
    settings: Settings,
}

/// Answers a request for a secret.
///
/// # Errors
/// 400 for what does not fit; otherwise those of [`Service::lend_token`](crate::service::Service::lend_token).
pub(super) async fn lend(host: &Host, sockets: &Sockets, request: Request, shape: Shape) -> Result<Response, Refusal> {
    let refused = |fault: Fault| Refusal::from(host.method.refuse(fault));
    refuse_forms(request.headers())
        .map_err(|fault| Refusal::with_status(host.method.refuse(fault), StatusCode::UNSUPPORTED_MEDIA_TYPE))?;
    let body = body(sockets, request).await.map_err(refused)?;
    let Wanted { life_s, settings } = wanted(&body, shape).map_err(|wrong| {
        let fault = Fault::new(FaultKind::Invalid, wrong.message);
        refused(if let Some(param) = wrong.param { fault.with_field(param) } else { fault })
    })?;
    let (value, life_s) = secret(host, life_s).map_err(refused)?;
    let now_s = clock::since_epoch(clock::now()).as_secs();
    let expires_s = now_s + life_s;
    let identity = Identity { seed: format!("{:016x}", fastrand::u64(..)), created_s: now_s, expires_s };
    let answer = match shape {
        Shape::General => json!({ "value": value, "expires_at": expires_s, "session": settings.json(&identity) }),
        Shape::Beta => {
            let mut session = settings.beta_json(&identity);
            session["client_secret"] = json!({ "value": value, "expires_at": expires_s });
            session
        }
    };
    let mut response = ([(header::CONTENT_TYPE, "application/json")], answer.to_string()).into_response();
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// A secret for the caller, and how many seconds it lasts.
fn secret(host: &Host, life_s: u64) -> Result<(String, u64), Fault> {
    let service = host.native.service();
    if !service.knows_callers() {
        let mut bytes = [0; 16];
        let none =
            |error: getrandom::Error| Fault::new(FaultKind::Failed, format!("the system gives no random numbers: {error}"));
        getrandom::fill(&mut bytes).map_err(none)?;
        return Ok((format!("{PREFIX}{:032x}", u128::from_be_bytes(bytes)), life_s));
    }
    let request = TokenRequest { scopes: Some(vec!["infer".to_owned()]), models: None, expires_in_s: Some(life_s) };
    let LentToken { token, expires_in_s, .. } = service.lend_token(request)?;
    Ok((format!("{PREFIX}{token}"), expires_in_s))
}

fn wanted(body: &[u8], shape: Shape) -> Result<Wanted, Wrong> {
    let fields = if body.is_empty() {
        Map::new()
    } else {
        let found = serde_json::from_slice(body);
        found.map_err(|error| Wrong::new("invalid_json", format!("the body is no object of JSON: {error}")))?
    };
    let given = |fields: &Map<String, Value>, name: &str| fields.get(name).filter(|value| !value.is_null()).cloned();
    let (life, settings) = match shape {
        Shape::General => {
            let session = given(&fields, "session").unwrap_or_else(|| json!({}));
            (given(&fields, "expires_after"), update::merge(&Settings::default(), &session)?)
        }
        Shape::Beta => {
            let secret = given(&fields, "client_secret");
            let life = secret.and_then(|secret| given(secret.as_object()?, "expires_after"));
            (life, update::merge_beta(&Settings::default(), &Value::Object(fields))?)
        }
    };
    let seconds = life.as_ref().and_then(|life| life.get("seconds")).filter(|seconds| !seconds.is_null());
    let life_s = match seconds {
        None => LIFE_DEFAULT_S,
        Some(seconds) => seconds.as_u64().filter(|seconds| LIFE_S.contains(seconds)).ok_or_else(|| {
            let (least, most) = (LIFE_S.start(), LIFE_S.end());
            Wrong::value("expires_after.seconds", &format!("is not a whole number from {least} to {most}"))
        })?,
    };
    Ok(Wanted { life_s, settings })
}

/// The body, which is small.
async fn body(sockets: &Sockets, request: Request) -> Result<Bytes, Fault> {
    let is_encoded = |encoding: &&HeaderValue| !encoding.as_bytes().eq_ignore_ascii_case(b"identity");
    if request.headers().get_all(header::CONTENT_ENCODING).iter().any(|encoding| is_encoded(&encoding)) {
        return Err(Fault::invalid("content-encoding", "the body is encoded, which such a small one need not be"));
    }
    let mut charge = sockets.account(&request).charge();
    let mut body = request.into_body();
    if body.size_hint().lower() > BODY_BYTES_MAX as u64 {
        return Err(too_large());
    }
    charge.grow(BODY_BYTES_MAX)?;
    let reading = async {
        let mut bytes = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| Fault::invalid("body", "the body broke off"))?;
            let Ok(data) = frame.into_data() else { continue };
            if bytes.len() + data.len() > BODY_BYTES_MAX {
                return Err(too_large());
            }
            bytes.extend_from_slice(&data);
        }
        Ok(bytes.freeze())
    };
    let limit = sockets.message_timeout();
    tokio::time::timeout(limit, reading).await.unwrap_or_else(|_| {
        let message = format!("the body did not arrive within {limit:?} (http.body_timeout_s)");
        Err(Fault::new(FaultKind::Expired, message).with_limit("http.body_timeout_s", limit.as_secs()))
    })
}

fn too_large() -> Fault {
    Fault::new(FaultKind::TooLarge, format!("the body is larger than the {BODY_BYTES_MAX} bytes that a session takes"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn life_s(body: &str, shape: Shape) -> Result<u64, Option<String>> {
        wanted(body.as_bytes(), shape).map(|wanted| wanted.life_s).map_err(|wrong| wrong.param)
    }

    #[test]
    fn a_secret_lasts_ten_minutes_unless_another_time_is_asked_for() {
        assert_eq!(life_s("", Shape::General), Ok(600));
        assert_eq!(life_s("{}", Shape::Beta), Ok(600));
        assert_eq!(life_s(r#"{"expires_after":{"anchor":"created_at","seconds":10}}"#, Shape::General), Ok(10));
        assert_eq!(life_s(r#"{"client_secret":{"expires_after":{"seconds":7200}}}"#, Shape::Beta), Ok(7_200));
        for seconds in ["9", "7201", "-1", "1.5", "\"60\""] {
            let body = format!(r#"{{"expires_after":{{"seconds":{seconds}}}}}"#);
            assert_eq!(life_s(&body, Shape::General), Err(Some("expires_after.seconds".to_owned())), "{seconds}");
        }
    }

    #[test]
    fn the_session_is_checked() {
        let body = r#"{"session":{"type":"transcription","audio":{"input":{"transcription":{"model":"m"}}}}}"#;
        assert_eq!(wanted(body.as_bytes(), Shape::General).expect("sound").settings.model.as_deref(), Some("m"));
        let body = r#"{"input_audio_format":"g711_ulaw"}"#;
        assert!(wanted(body.as_bytes(), Shape::Beta).is_ok());
        assert_eq!(life_s(r#"{"session":{"type":"realtime"}}"#, Shape::General), Err(Some("session.type".to_owned())));
        assert_eq!(life_s(r#"{"input_audio_format":"mp3"}"#, Shape::Beta), Err(Some("session.input_audio_format".to_owned())));
        assert_eq!(life_s("[]", Shape::General), Err(None));
    }

    proptest! {
        #[test]
        fn no_body_panics(body in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = wanted(&body, Shape::General);
            let _ = wanted(&body, Shape::Beta);
        }
    }
}
