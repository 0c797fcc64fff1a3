//! What the wires of one connection share: the services to call, the limits, and how messages change their form.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use http::HeaderMap;
use memchr::memchr_iter;
use prost_reflect::MessageDescriptor;
use tonic::body::Body;

use super::{
    frames::{Charged, FrameLimits},
    schema::{Schema, to_json, to_protobuf},
};
use crate::{
    config::GrpcConfig,
    domain::{Fault, Peer},
    frontend::{
        Bounds,
        ahead::{Grpc, GrpcCalls},
        body::{BodyLimits, NotRead, inflate_wherever, read},
        inflate::{Encoding, InflateLimits},
        web::WebCheck,
    },
    memory::Memory,
    transport::Account,
};

/// Messages of up to this length change their form where they are; longer ones where nobody has to wait for them.
const CHANGED_HERE_MAX: usize = 16 << 10;

/// What a member of a list takes up in memory while JSON is read. It may be two characters of the text.
const MEMBER_BYTES: usize = 64;

const BYTES_KEY: &str = "grpc.max_message_bytes";
const TIMEOUT_KEY: &str = "grpc.body_timeout_s";

/// What the wires of all connections share.
pub(super) struct Shared {
    pub(super) schema: Schema,
    pub(super) bounds: Bounds,
    pub(super) memory: Memory,
    pub(super) config: GrpcConfig,
    pub(super) calls: GrpcCalls,
}

/// One connection.
pub(super) struct Connection {
    pub(super) shared: Arc<Shared>,
    pub(super) account: Account,
    client: (Peer, WebCheck),
    /// Made when it is first needed: most connections never need it.
    grpc: OnceLock<Grpc>,
}

impl Connection {
    pub(super) const fn new(shared: Arc<Shared>, account: Account, peer: Peer, web: WebCheck) -> Self {
        Self { shared, account, client: (peer, web), grpc: OnceLock::new() }
    }

    /// The gRPC services.
    pub(super) fn grpc(&self) -> Grpc {
        let make = || {
            let (peer, web) = &self.client;
            self.shared.calls.connection(*peer, web.clone())
        };
        self.grpc.get_or_init(make).clone()
    }

    pub(super) fn schema(&self) -> &Schema {
        &self.shared.schema
    }

    /// What is allowed of the frames of a request.
    pub(super) fn frame_limits(&self) -> FrameLimits {
        let config = &self.shared.config;
        FrameLimits {
            bytes_max: config.max_message_bytes,
            bytes_key: BYTES_KEY,
            timeout: Some((config.body_timeout(), TIMEOUT_KEY)),
        }
    }

    /// A body that is one message, read whole, within what is allowed of a message.
    ///
    /// # Errors
    /// Those of [`read`].
    pub(super) async fn whole(&self, encoding: Option<Encoding>, headers: &HeaderMap, body: Body) -> Result<Charged, NotRead> {
        let Shared { bounds, memory, config, .. } = &*self.shared;
        let limits = BodyLimits {
            bytes_max: config.max_message_bytes,
            bytes_key: BYTES_KEY,
            timeout: config.body_timeout(),
            timeout_key: TIMEOUT_KEY,
        };
        let (bytes, charge) = read(encoding, (headers, body), &self.account, &limits, (bounds, memory)).await?;
        Ok(Charged { bytes, charge })
    }

    /// What a compressed message holds.
    ///
    /// # Errors
    /// [`FaultKind::TooLarge`](crate::domain::FaultKind::TooLarge) over the limits, `Invalid` if it cannot be inflated.
    pub(super) async fn inflated(&self, encoding: Encoding, message: Charged) -> Result<Charged, Fault> {
        let limits = InflateLimits {
            what: "message",
            bytes_max: self.shared.config.max_message_bytes,
            bytes_key: BYTES_KEY,
            ratio_max: self.shared.bounds.message.max_inflate_ratio,
        };
        let Charged { bytes, charge } = message;
        let (bytes, charge) = inflate_wherever(encoding, (bytes, charge), &limits, &self.account, &self.shared.bounds).await?;
        Ok(Charged { bytes, charge })
    }

    /// A message in JSON, in protobuf.
    ///
    /// # Errors
    /// Those of [`to_protobuf`]; [`Overloaded`](crate::domain::FaultKind::Overloaded) if there is no room for what it holds.
    pub(super) async fn to_protobuf(&self, message: MessageDescriptor, json: Charged) -> Result<Charged, Fault> {
        let Charged { bytes, mut charge } = json;
        let length = bytes.len();
        let mut members = self.account.charge();
        let work = move || {
            members.grow(memchr_iter(b',', &bytes).count().saturating_mul(MEMBER_BYTES))?;
            let protobuf = to_protobuf(&message, &bytes)?;
            charge.grow(protobuf.len().saturating_sub(charge.bytes()))?;
            charge.shrink_to(protobuf.len());
            Ok(Charged { bytes: protobuf, charge })
        };
        self.shared.bounds.side.run_long(length, CHANGED_HERE_MAX, work).await
    }

    /// A message in protobuf, in JSON.
    ///
    /// # Errors
    /// Those of [`to_json`]; [`Overloaded`](crate::domain::FaultKind::Overloaded) if there is no room for it.
    pub(super) async fn to_json(&self, message: MessageDescriptor, protobuf: Charged) -> Result<Charged, Fault> {
        let Charged { bytes, mut charge } = protobuf;
        let length = bytes.len();
        let work = move || {
            let json: Bytes = to_json(&message, &bytes)?.into();
            charge.grow(json.len().saturating_sub(charge.bytes()))?;
            charge.shrink_to(json.len());
            Ok(Charged { bytes: json, charge })
        };
        self.shared.bounds.side.run_long(length, CHANGED_HERE_MAX, work).await
    }
}

#[cfg(test)]
mod tests {
    use prost_reflect::Value;

    use super::*;

    #[test]
    fn a_member_is_charged_for_all_that_it_takes_up() {
        assert!(size_of::<Value>() <= MEMBER_BYTES, "{} bytes", size_of::<Value>());
    }
}
