//! What the wires of one connection share: the services to call, the limits, and how messages change their form.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use http::HeaderMap;
use memchr::memchr2_iter;
use prost_reflect::{MessageDescriptor, Value};
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

/// What a member of a list takes up in memory while JSON is read, with room to grow. It may be two characters of the text.
const MEMBER_BYTES: usize = 2 * size_of::<Value>();

/// The same for a message with a field: its fields have room for eleven. It may be a few characters, too.
const MESSAGE_BYTES: usize = 12 * size_of::<Value>() + 128;

/// For each byte of a long message in protobuf, what it takes up while it is written as JSON.
const TIMES_IN_MEMORY: usize = 8;

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
            members.grow(bytes_in_memory(&bytes))?;
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
        let mut fields = self.account.charge();
        if length > CHANGED_HERE_MAX {
            fields.grow(length.saturating_mul(TIMES_IN_MEMORY))?;
        }
        let work = move || {
            let _held = &fields;
            let json: Bytes = to_json(&message, &bytes)?.into();
            charge.grow(json.len().saturating_sub(charge.bytes()))?;
            charge.shrink_to(json.len());
            Ok(Charged { bytes: json, charge })
        };
        self.shared.bounds.side.run_long(length, CHANGED_HERE_MAX, work).await
    }
}

/// What is in memory at most once this JSON has been read. Characters of strings count as well, which does no harm: data has none of
/// these.
fn bytes_in_memory(json: &[u8]) -> usize {
    let each = |byte| if json[byte] == b'{' { MESSAGE_BYTES } else { MEMBER_BYTES };
    memchr2_iter(b',', b'{', json).map(each).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_dense_in_text_is_charged_for_what_it_takes_up() {
        assert_eq!(bytes_in_memory(b"[1,2,3]"), 2 * MEMBER_BYTES);
        assert_eq!(bytes_in_memory(br#"[{"a":1},{"a":1}]"#), 2 * MESSAGE_BYTES + MEMBER_BYTES);
        assert_eq!(bytes_in_memory(b""), 0);
    }
}
