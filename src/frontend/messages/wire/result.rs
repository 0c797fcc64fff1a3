//! `ItemResult` on its way out.

use std::sync::Arc;

use bytes::{Buf, BufMut};
use prost::{
    DecodeError, Message,
    encoding::{DecodeContext, WireType, encoded_len_varint, skip_field},
};

use super::writer::{KEY_BYTES, Writer};
use crate::{
    codec::WindowPosition,
    domain::{Signature, Tensor, TensorSpec},
    frontend::messages::{convert, status::item_status_of},
    proto::{rpc, v1},
    session::ItemResult,
};

/// `tidemill.v1.ItemResult`, written from the domain: outputs are slices of the batch and go straight into the frame. A
/// server never reads one: a received one is skipped.
///
/// Boxed, as it is moved half a dozen times on its way into the frame.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ResultMessage(Option<Box<Answered>>);

#[derive(Debug, Clone, PartialEq)]
struct Answered {
    result: ItemResult,
    /// Has the names of the outputs.
    signature: Arc<Signature>,
    /// The fault as it is sent, if there is one.
    error: Option<Box<rpc::Status>>,
    /// Body of the field `outputs`, in bytes.
    outputs_bytes: usize,
    /// The message, in bytes. Kept, because each message around this one asks for it.
    message_bytes: usize,
}

impl ResultMessage {
    /// An item's answer; the signature is that of its model.
    #[must_use]
    pub fn new(result: ItemResult, signature: &Arc<Signature>) -> Self {
        let error = result.outcome.as_ref().err().map(|fault| Box::new(item_status_of(fault)));
        let signature = Arc::clone(signature);
        let mut answered = Box::new(Answered { result, signature, error, outputs_bytes: 0, message_bytes: 0 });
        answered.outputs_bytes = answered.outputs().map(|(tensor, spec)| framed_bytes(tensor_bytes(tensor, spec))).sum();
        answered.message_bytes = answered.count_bytes();
        Self(Some(answered))
    }
}

impl Answered {
    fn outputs(&self) -> impl Iterator<Item = (&Tensor, &TensorSpec)> {
        self.result.outcome.iter().flatten().zip(&self.signature.outputs)
    }

    fn window(&self) -> Option<[u64; 3]> {
        self.result.window.map(|WindowPosition { index, start_sample, end_sample }| [index, start_sample, end_sample])
    }

    /// The timing of the model's call, if there was one.
    fn timing(&self) -> Option<[u64; 4]> {
        (self.result.timing.batch_size > 0).then(|| {
            let v1::Timing { queue_ns, compute_ns, age_ns, batch_size } = convert::timing(&self.result);
            [queue_ns, compute_ns, age_ns, batch_size.into()]
        })
    }

    fn count_bytes(&self) -> usize {
        let outcome_bytes = self.error.as_deref().map_or(self.outputs_bytes, Message::encoded_len);
        numbers_bytes(&[self.result.seq])
            + text_bytes(self.result.id.len())
            + self.window().map_or(0, |window| framed_bytes(numbers_bytes(&window)))
            + framed_bytes(outcome_bytes)
            + self.timing().map_or(0, |timing| framed_bytes(numbers_bytes(&timing)))
            + number_bytes(self.result.part.number.into())
            + flag_bytes(self.result.part.last)
    }

    fn write(&self, to: &mut Writer<'_, impl BufMut>) {
        to.numbers(1, &[self.result.seq]);
        to.text(2, self.result.id.as_bytes());
        if let Some(window) = self.window() {
            to.frame(3, numbers_bytes(&window));
            to.numbers(1, &window);
        }
        match &self.error {
            None => {
                to.frame(4, self.outputs_bytes);
                self.outputs().for_each(|(tensor, spec)| write_tensor(tensor, spec, to));
            }
            Some(error) => {
                to.frame(5, error.encoded_len());
                to.message(&**error);
            }
        }
        if let Some(timing) = self.timing() {
            to.frame(6, numbers_bytes(&timing));
            to.numbers(1, &timing);
        }
        if self.result.part.number > 0 {
            to.numbers(7, &[self.result.part.number.into()]);
        }
        to.flag(8, self.result.part.last);
    }
}

impl Message for ResultMessage {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        if let Some(answered) = &self.0 {
            let mut writer = Writer::new(buf);
            answered.write(&mut writer);
            writer.flush();
        }
    }

    fn encoded_len(&self) -> usize {
        self.0.as_ref().map_or(0, |answered| answered.message_bytes)
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        skip_field(wire_type, tag, buf, context)
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
}

/// `tidemill.v1.Tensor`, as a field 1.
fn write_tensor(tensor: &Tensor, spec: &TensorSpec, to: &mut Writer<'_, impl BufMut>) {
    to.frame(1, tensor_bytes(tensor, spec));
    to.text(1, spec.name.as_bytes());
    to.number(2, datatype(tensor));
    if !tensor.shape().is_empty() {
        to.frame(3, sizes_bytes(tensor.shape()));
        tensor.shape().iter().for_each(|size| to.varint(*size as u64));
    }
    to.text(4, tensor.data());
}

fn datatype(tensor: &Tensor) -> u64 {
    convert::to_wire_datatype(tensor.datatype()) as u64
}

fn tensor_bytes(tensor: &Tensor, spec: &TensorSpec) -> usize {
    let shape = if tensor.shape().is_empty() { 0 } else { framed_bytes(sizes_bytes(tensor.shape())) };
    text_bytes(spec.name.len()) + number_bytes(datatype(tensor)) + shape + text_bytes(tensor.data().len())
}

fn sizes_bytes(shape: &[usize]) -> usize {
    shape.iter().map(|size| encoded_len_varint(*size as u64)).sum()
}

/// Of a field that holds a message of this many bytes.
const fn framed_bytes(bytes: usize) -> usize {
    KEY_BYTES + encoded_len_varint(bytes as u64) + bytes
}

/// Of a field of text or bytes; an empty one is left out.
const fn text_bytes(bytes: usize) -> usize {
    if bytes == 0 { 0 } else { framed_bytes(bytes) }
}

/// Of a field that is a number; zero is left out.
const fn number_bytes(number: u64) -> usize {
    if number == 0 { 0 } else { KEY_BYTES + encoded_len_varint(number) }
}

/// Of a field that is a flag; one that is not set is left out.
const fn flag_bytes(flag: bool) -> usize {
    if flag { KEY_BYTES + 1 } else { 0 }
}

fn numbers_bytes(numbers: &[u64]) -> usize {
    numbers.iter().map(|number| number_bytes(*number)).sum()
}
