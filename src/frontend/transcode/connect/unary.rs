//! One message there, one back.

use futures::stream;
use http::{HeaderValue, Response, Version, header, request::Parts};
use prost_reflect::MethodDescriptor;
use tonic::{Status, body::Body};

use super::{
    codec::{Codec, Form, encoding},
    ended,
    error::add_trailers,
    query::Asked,
};
use crate::{
    domain::Fault,
    frontend::{
        body::NotRead,
        grpc_status::{status_of, status_with},
        transcode::{call::Call, connection::Connection, frames::Charged, outgoing},
    },
};

/// Where the message is.
pub(super) enum Sent {
    Query(Asked),
    Body(Parts, Body),
}

/// The answer to a unary call.
pub(super) async fn answer(
    connection: &Connection,
    method: &MethodDescriptor,
    codec: Codec,
    call: Call,
    sent: Sent,
) -> Response<Body> {
    let message = match read(connection, sent).await {
        Ok(message) => message,
        Err(response) => return response,
    };
    match made(connection, method, codec, call, message).await {
        Ok(response) => response,
        Err(status) => ended(connection, &status),
    }
}

/// # Errors
/// The answer to a message that cannot be read.
async fn read(connection: &Connection, sent: Sent) -> Result<Charged, Response<Body>> {
    let refuse = |fault: &Fault| ended(connection, &status_of(fault));
    match sent {
        Sent::Query(Asked { message: bytes, compressed, .. }) => {
            let mut charge = connection.account.charge();
            charge.grow(bytes.len()).map_err(|fault| refuse(&fault))?;
            let message = Charged { bytes, charge };
            match compressed {
                Some(encoding) => connection.inflated(encoding, message).await.map_err(|fault| refuse(&fault)),
                None => Ok(message),
            }
        }
        Sent::Body(head, body) => {
            let name = head.headers.get(header::CONTENT_ENCODING).map_or(&b""[..], HeaderValue::as_bytes);
            let encoding = encoding(name).map_err(|fault| refuse(&fault))?;
            connection.whole(encoding, &head.headers, body).await.map_err(|not_read| {
                // The rest of the request is not read.
                let closes = matches!(not_read, NotRead::Unfinished(_)) && head.version < Version::HTTP_2;
                let mut response = refuse(&not_read.into_fault());
                if closes {
                    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
                }
                response
            })
        }
    }
}

async fn made(
    connection: &Connection,
    method: &MethodDescriptor,
    codec: Codec,
    call: Call,
    message: Charged,
) -> Result<Response<Body>, Status> {
    let message = codec.read(connection, method.input(), message).await.map_err(status_with)?;
    let mut answer = call.send(connection, stream::iter([Ok(message)])).await;
    let (message, status) = answer.only().await?;
    let message = codec.write(connection, method.output(), message).await.map_err(status_with)?;
    let mut response = Response::new(outgoing::whole(message));
    *response.headers_mut() = answer.metadata;
    response.headers_mut().insert(header::CONTENT_TYPE, Form::Unary(codec).content_type());
    add_trailers(response.headers_mut(), &status);
    Ok(response)
}
