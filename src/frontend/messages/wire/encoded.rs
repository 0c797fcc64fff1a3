//! Responses that are encoded before they are given to tonic.

use bytes::{Buf, BufMut, Bytes};
use prost::{
    DecodeError, Message,
    encoding::{self, DecodeContext, WireType, encoded_len_varint},
};

use super::ResultMessage;
use crate::proto::{parcel, v1};

/// A unary response: as it is, or already encoded, because encoding it would keep the others on its thread waiting too
/// long.
///
/// An encoded response goes past tonic's buffers, as a [parcel]: to tonic it is a message of a ticket's length. It
/// must not be used in a stream of responses, as tonic gathers several of those.
#[derive(Debug, Clone, PartialEq)]
pub enum Encoded<M> {
    /// To be encoded as it is sent.
    Here(M),
    /// Its bytes.
    Already(Bytes),
}

impl<M: Default> Default for Encoded<M> {
    fn default() -> Self {
        Self::Here(M::default())
    }
}

impl<M: Message + Default> Message for Encoded<M> {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        match self {
            Self::Here(message) => message.encode_raw(buf),
            Self::Already(bytes) => buf.put_slice(&parcel::send(bytes.clone())),
        }
    }

    fn encoded_len(&self) -> usize {
        match self {
            Self::Here(message) => message.encoded_len(),
            Self::Already(_) => parcel::TICKET_BYTES,
        }
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        match self {
            Self::Here(message) => message.merge_field(tag, wire_type, buf, context),
            Self::Already(_) => encoding::skip_field(wire_type, tag, buf, context),
        }
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
}

/// Fields of `UploadResponse` that are lists of results.
const RESULTS_FIELD: u32 = 6;
const ERRORS_FIELD: u32 = 7;

/// `UploadResponse`; `head` is all of it but the lists of results.
#[must_use]
pub fn upload_response(head: &v1::UploadResponse, results: &[ResultMessage], errors: &[ResultMessage]) -> Bytes {
    let list_bytes = |list: &[ResultMessage]| {
        // A key of one byte, a length, the result.
        let bytes = list.iter().map(Message::encoded_len);
        bytes.map(|bytes| 1 + encoded_len_varint(bytes as u64) + bytes).sum::<usize>()
    };
    let mut bytes = Vec::with_capacity(head.encoded_len() + list_bytes(results) + list_bytes(errors));
    head.encode_raw(&mut bytes);
    results.iter().for_each(|result| encoding::message::encode(RESULTS_FIELD, result, &mut bytes));
    errors.iter().for_each(|result| encoding::message::encode(ERRORS_FIELD, result, &mut bytes));
    bytes.into()
}
