//! The message of a request: what its path and query say, and its body in JSON.

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method as Verb, StatusCode, header, request::Parts};
use serde_json::Value;
use tonic::body::Body;

use super::{
    super::{connection::Connection, frames::Charged, schema::to_protobuf},
    query,
    refusal::Refusal,
    routes::Route,
};
use crate::{
    domain::{Fault, FaultKind},
    frontend::{body::NotRead, inflate::Encoding, web::refuse_forms},
};

/// Media types of JSON, and those that programs send where nobody has set one.
const TYPES: [&str; 5] = ["", "application/json", "text/json", "text/plain", "application/x-www-form-urlencoded"];

/// The request in protobuf.
///
/// # Errors
/// Those of reading the body; [`FaultKind::Invalid`] about a parameter or a body that is not of the RPC's request.
pub(super) async fn message(
    connection: &Connection,
    head: &Parts,
    body: Body,
    route: &Route,
    values: &[String],
) -> Result<Charged, Refusal> {
    let input = route.rpc.input();
    let parameters = query::parameters(head.uri.query().unwrap_or_default())?;
    if route.has_body
        && let Some((name, _)) = parameters.first()
    {
        let message = format!("there is no parameter '{name}': all but what the path says is in the body");
        return Err(Fault::invalid(name.clone(), message).into());
    }
    let bound = route.template.variables().iter().map(|variable| variable.field.as_str());
    let bound = bound.zip(values.iter().map(String::as_str));
    let stated = parameters.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let fields = query::fields(&input, bound.chain(stated))?;
    let fields = to_protobuf(&input, Value::Object(fields).to_string().as_bytes())?;
    if !route.has_body {
        return Ok(Charged { bytes: fields, charge: connection.account.charge() });
    }
    let body = in_body(connection, head, body, route).await?;
    Ok(match body {
        Some(Charged { bytes, mut charge }) => {
            charge.grow(fields.len())?;
            Charged { bytes: joined(&bytes, &fields), charge }
        }
        None => Charged { bytes: fields, charge: connection.account.charge() },
    })
}

/// What the body says; `None` for an empty one.
async fn in_body(connection: &Connection, head: &Parts, body: Body, route: &Route) -> Result<Option<Charged>, Refusal> {
    if changes(route) {
        let refused = |fault| Refusal::with_status(&fault, StatusCode::UNSUPPORTED_MEDIA_TYPE).closing();
        refuse_forms(&head.headers).map_err(refused)?;
    }
    check_type(&head.headers)?;
    let json = connection.whole(encoding(&head.headers)?, &head.headers, body).await.map_err(not_read)?;
    if json.bytes.is_empty() {
        return Ok(None);
    }
    Ok(Some(connection.to_protobuf(route.rpc.input(), json).await?))
}

/// One message after another of the same type is one: fields of the later one win, and messages in it are merged likewise.
fn joined(first: &Bytes, second: &Bytes) -> Bytes {
    let mut joined = BytesMut::with_capacity(first.len() + second.len());
    joined.extend_from_slice(first);
    joined.extend_from_slice(second);
    joined.freeze()
}

/// Whether an RPC changes the server, so that no web page may ask for it by a form.
fn changes(route: &Route) -> bool {
    route.verb != Verb::GET && route.rpc.parent_service().name() == "ModelService"
}

/// Why a body was not read, as HTTP says it.
pub(super) fn not_read(why: NotRead) -> Refusal {
    match why {
        NotRead::Unfinished(fault) if fault.kind() == FaultKind::Expired => {
            Refusal::with_status(&fault, StatusCode::REQUEST_TIMEOUT).closing()
        }
        NotRead::Unfinished(fault) => Refusal::from(fault).closing(),
        NotRead::Unusable(fault) => fault.into(),
    }
}

fn check_type(headers: &HeaderMap) -> Result<(), Refusal> {
    let text = headers.get(header::CONTENT_TYPE).map_or("", |value| value.to_str().unwrap_or("?"));
    let name = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if TYPES.contains(&name.as_str()) || name.ends_with("+json") {
        return Ok(());
    }
    let fault = Fault::invalid("content-type", format!("the body is of type '{name}'; send application/json"));
    Err(Refusal::with_status(&fault, StatusCode::UNSUPPORTED_MEDIA_TYPE).closing())
}

fn encoding(headers: &HeaderMap) -> Result<Option<Encoding>, Refusal> {
    let Some(encoding) = headers.get(header::CONTENT_ENCODING) else { return Ok(None) };
    match encoding.as_bytes().to_ascii_lowercase().as_slice() {
        b"identity" => Ok(None),
        b"gzip" => Ok(Some(Encoding::Gzip)),
        b"deflate" => Ok(Some(Encoding::Deflate)),
        b"zstd" => Ok(Some(Encoding::Zstd)),
        _ => {
            let message = format!("the body is encoded as {encoding:?}; send gzip, deflate, zstd or identity");
            let fault = Fault::invalid("content-encoding", message);
            Err(Refusal::with_status(&fault, StatusCode::UNSUPPORTED_MEDIA_TYPE).closing())
        }
    }
}
