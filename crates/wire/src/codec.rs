//! A protobuf codec with small buffers, and with errors that say whose fault a broken message is.
//!
//! tonic's own takes two 8 KiB buffers for each call, which is most of what an idle stream costs. Buffers grow on demand, so a
//! stream of large messages loses nothing.
//!
//! A client of the Open Inference Protocol counts what it receives before decoding it. An empty tensor takes two bytes on the wire
//! and some 300 in memory, so an answer of a few megabytes could take gigabytes. A server counts messages before they come here,
//! with a limit for each kind of member.
//!
//! A large message bypasses tonic's buffers, as a [parcel].

use std::marker::PhantomData;

use bytes::{Buf, Bytes};
use prost::{
    DecodeError, Message,
    encoding::{DecodeContext, WireType, decode_key, skip_field},
};
use tonic::{
    Status,
    codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
};

use crate::parcel;

/// First allocation of a stream's encode and decode buffers, in bytes.
const BUFFER_BYTES: usize = 512;

/// Messages gathered into one write before the encoder yields, in bytes.
const YIELD_BYTES: usize = 32 * 1024;

/// Tensors, parameters and the like that a message of the Open Inference Protocol may have in all; as many as the largest number of
/// shared memory regions, whose list is one message.
const FEW_FIELDS_MAX: usize = 65_536;

/// A codec for messages that have at most `FIELDS_MAX` members that are messages, strings or bytes.
#[derive(Debug, Clone)]
pub struct BoundedCodec<Encode, Decode, const FIELDS_MAX: usize>(PhantomData<(Encode, Decode)>);

/// The codec for messages that have been counted, or come from one of our own servers.
pub type SmallBufferCodec<Encode, Decode> = BoundedCodec<Encode, Decode, { usize::MAX }>;

/// The codec for clients of the Open Inference Protocol.
pub type FewFieldsCodec<Encode, Decode> = BoundedCodec<Encode, Decode, FEW_FIELDS_MAX>;

/// What can be read from the bytes of a message.
pub trait FromWire: Sized {
    /// Reads all of `buffer`.
    ///
    /// # Errors
    /// If the bytes are not such a message.
    fn from_wire(buffer: impl Buf) -> Result<Self, DecodeError>;
}

impl<M: Message + Default> FromWire for M {
    fn from_wire(buffer: impl Buf) -> Result<Self, DecodeError> {
        M::decode(buffer)
    }
}

/// A message that has arrived, to be decoded where that does not keep others waiting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Raw<M> {
    bytes: Bytes,
    message: PhantomData<fn() -> M>,
}

impl<M: Message + Default> Raw<M> {
    /// Its bytes.
    #[must_use]
    pub const fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Decodes it. Fields of bytes are slices of it.
    ///
    /// # Errors
    /// INVALID_ARGUMENT with the field that is broken.
    pub fn decode(self) -> Result<M, Status> {
        M::decode(self.bytes).map_err(|error| broken(&error))
    }
}

impl<M> FromWire for Raw<M> {
    fn from_wire(mut buffer: impl Buf) -> Result<Self, DecodeError> {
        let bytes = buffer.copy_to_bytes(buffer.remaining());
        Ok(Self { bytes, message: PhantomData })
    }
}

fn broken(error: &DecodeError) -> Status {
    Status::invalid_argument(error.to_string())
}

impl<Encode, Decode, const FIELDS_MAX: usize> Default for BoundedCodec<Encode, Decode, FIELDS_MAX> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<Encode, Decode, const FIELDS_MAX: usize> Codec for BoundedCodec<Encode, Decode, FIELDS_MAX>
where
    Encode: Message + Send + 'static,
    Decode: FromWire + Send + 'static,
{
    type Encode = Encode;
    type Decode = Decode;
    type Encoder = RoomyEncoder<Encode>;
    type Decoder = BoundedDecoder<Decode, FIELDS_MAX>;

    fn encoder(&mut self) -> Self::Encoder {
        RoomyEncoder(PhantomData)
    }

    fn decoder(&mut self) -> Self::Decoder {
        BoundedDecoder(PhantomData)
    }
}

/// Encodes one message, reserving room beforehand.
#[derive(Debug, Clone)]
pub struct RoomyEncoder<Encode>(PhantomData<Encode>);

impl<Encode: Message> Encoder for RoomyEncoder<Encode> {
    type Item = Encode;
    type Error = Status;

    fn encode(&mut self, message: Encode, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.reserve(message.encoded_len());
        message.encode_raw(buffer);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(BUFFER_BYTES, YIELD_BYTES)
    }
}

/// Decodes one message. Bytes that are not one are the sender's fault: INVALID_ARGUMENT, with the field that broke.
#[derive(Debug, Clone)]
pub struct BoundedDecoder<Decode, const FIELDS_MAX: usize>(PhantomData<Decode>);

impl<Decode: FromWire, const FIELDS_MAX: usize> Decoder for BoundedDecoder<Decode, FIELDS_MAX> {
    type Item = Decode;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Decode>, Status> {
        if buffer.remaining() == parcel::TICKET_BYTES
            && let Some(message) = parcel::receive(buffer.chunk())
        {
            buffer.advance(parcel::TICKET_BYTES);
            return read::<Decode, FIELDS_MAX>(message);
        }
        read::<Decode, FIELDS_MAX>(buffer)
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(BUFFER_BYTES, YIELD_BYTES)
    }
}

/// `buffer` is in one piece; otherwise only the first piece would be counted.
fn read<Decode: FromWire, const FIELDS_MAX: usize>(buffer: impl Buf) -> Result<Option<Decode>, Status> {
    if FIELDS_MAX < usize::MAX && has_more_fields(buffer.chunk(), FIELDS_MAX) {
        return Err(Status::invalid_argument(format!("the message has more than {FIELDS_MAX} tensors, parameters and the like")));
    }
    Decode::from_wire(buffer).map(Some).map_err(|error| broken(&error))
}

/// Whether the message has more length-delimited members than that, as far as it can be read.
fn has_more_fields(mut message: &[u8], fields_max: usize) -> bool {
    let mut fields = 0;
    while !message.is_empty() {
        let Ok((tag, wire_type)) = decode_key(&mut message) else { return false };
        fields += usize::from(wire_type == WireType::LengthDelimited);
        if fields > fields_max {
            return true;
        }
        if skip_field(wire_type, tag, &mut message, DecodeContext::default()).is_err() {
            return false;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::inference::{ModelInferRequest, model_infer_request::InferInputTensor};

    #[test]
    fn members_of_a_message_are_counted_and_not_what_is_in_them() {
        let tensor = InferInputTensor { name: "x".to_owned(), shape: vec![1; 100], ..InferInputTensor::default() };
        let message = ModelInferRequest { inputs: vec![tensor; 3], id: "7".to_owned(), ..ModelInferRequest::default() };
        let bytes = message.encode_to_vec();
        assert!(has_more_fields(&bytes, 3) && !has_more_fields(&bytes, 4));
        assert!(!has_more_fields(&[], 0));
    }

    #[test]
    fn what_is_no_message_is_for_the_decoder_to_refuse() {
        for broken in [&[0xff_u8; 20][..], &[0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f], &[0], &[0x0a]] {
            assert!(!has_more_fields(broken, 1));
            ModelInferRequest::decode(broken).expect_err("no message");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            has_more_fields(&bytes, 5);
        }
    }
}
