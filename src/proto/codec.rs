//! A protobuf codec with small buffers.
//!
//! tonic's own takes two 8 KiB buffers for each call, which is most of what an idle stream costs. Buffers grow on demand, so a
//! stream of large messages loses nothing.

use std::marker::PhantomData;

use prost::Message;
use tonic::codec::{BufferSettings, Codec};
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
    type Decoder = <ProstCodec<Encode, Decode> as Codec>::Decoder;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<Encode, Decode>::raw_encoder(BufferSettings::new(BUFFER_BYTES, YIELD_BYTES))
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<Encode, Decode>::raw_decoder(BufferSettings::new(BUFFER_BYTES, YIELD_BYTES))
    }
}
