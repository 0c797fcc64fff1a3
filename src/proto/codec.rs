//! A protobuf codec with small buffers, and with an error that says whose fault a broken message is.
//!
//! tonic's own takes two 8 KiB buffers for each call, which is most of what an idle stream costs. Buffers grow on demand, so a
//! stream of large messages loses nothing.

use std::marker::PhantomData;

use prost::Message;
use tonic::{
    Status,
    codec::{BufferSettings, Codec, DecodeBuf, Decoder},
};
use tonic_prost::ProstCodec;

/// First allocation of a stream's encode and decode buffers, in bytes.
const BUFFER_BYTES: usize = 512;

/// Messages gathered into one write before the encoder yields, in bytes.
const YIELD_BYTES: usize = 32 * 1024;

/// The codec of all generated services and clients.
#[derive(Debug, Clone)]
pub struct SmallBufferCodec<Encode, Decode>(PhantomData<(Encode, Decode)>);

impl<Encode, Decode> Default for SmallBufferCodec<Encode, Decode> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<Encode, Decode> Codec for SmallBufferCodec<Encode, Decode>
where
    Encode: Message + Send + 'static,
    Decode: Message + Default + Send + 'static,
{
    type Encode = Encode;
    type Decode = Decode;
    type Encoder = <ProstCodec<Encode, Decode> as Codec>::Encoder;
    type Decoder = SmallBufferDecoder<Decode>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<Encode, Decode>::raw_encoder(BufferSettings::new(BUFFER_BYTES, YIELD_BYTES))
    }

    fn decoder(&mut self) -> Self::Decoder {
        SmallBufferDecoder(PhantomData)
    }
}

/// Decodes one message. Bytes that are not one are the sender's fault: INVALID_ARGUMENT, with the field that broke.
#[derive(Debug, Clone)]
pub struct SmallBufferDecoder<Decode>(PhantomData<Decode>);

impl<Decode: Message + Default> Decoder for SmallBufferDecoder<Decode> {
    type Item = Decode;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Decode>, Status> {
        Decode::decode(buffer).map(Some).map_err(|error| Status::invalid_argument(error.to_string()))
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(BUFFER_BYTES, YIELD_BYTES)
    }
}
