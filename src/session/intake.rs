//! From messages to items: tensors are checked, raw payloads are framed.

use std::{
    collections::hash_map::DefaultHasher,
    hash::{Hash as _, Hasher as _},
    sync::Arc,
};

use bytes::Bytes;

use super::event::ItemRequest;
use crate::{
    codec::{PcmFramer, WindowPosition},
    domain::{Fault, FaultKind, ItemInputs, NamedTensor, Signature},
    registry::Model,
    scheduler::ShapeKey,
};

/// How a stream's items are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PayloadKind {
    /// Named tensors.
    Tensors,
    /// Mono 16-bit little-endian samples in chunks of any size.
    PcmS16le,
}

/// One item, ready to be queued or refused.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) id: String,
    pub(super) window: Option<WindowPosition>,
    pub(super) inputs: Result<ItemInputs, Fault>,
    pub(super) deadline: Option<std::time::Duration>,
}

/// Makes items for one stream.
#[derive(Debug)]
pub(super) struct Intake {
    signature: Arc<Signature>,
    framer: Option<PcmFramer>,
    fixed_shapes: bool,
    max_item_bytes: usize,
}

impl Intake {
    /// # Errors
    /// [`FaultKind::Invalid`] if the model has no framing for this kind of payload.
    pub(super) fn new(model: &Model, payload: PayloadKind, max_item_bytes: usize) -> Result<Self, Fault> {
        let framer = match payload {
            PayloadKind::Tensors => None,
            PayloadKind::PcmS16le => {
                let rule = model.loaded.framing.ok_or_else(|| {
                    let message =
                        format!("model '{}' takes tensors only; its manifest has no [framing] for pcm_s16le", model.loaded.name);
                    Fault::invalid("payload", message)
                })?;
                Some(PcmFramer::new(rule))
            }
        };
        let signature = Arc::clone(model.loaded.executable.signature());
        Ok(Self { fixed_shapes: signature.has_fixed_shapes(), signature, framer, max_item_bytes })
    }

    /// Samples taken in so far.
    pub(super) fn samples(&self) -> u64 {
        self.framer.as_ref().map_or(0, PcmFramer::samples)
    }

    /// An item; what is wrong with its tensors becomes its answer.
    ///
    /// # Errors
    /// [`FaultKind::Invalid`] if the stream was opened for raw chunks; ends the stream, as its client mixes up two contracts.
    pub(super) fn item(&self, request: ItemRequest) -> Result<Arrival, Fault> {
        if self.framer.is_some() {
            return Err(Fault::invalid("item", "the stream was opened for raw chunks; an item of tensors does not belong in it"));
        }
        let ItemRequest { id, tensors, deadline } = request;
        let checked = |tensors: Vec<NamedTensor>| {
            self.within_limit(&tensors)?;
            self.signature.check(tensors)
        };
        Ok(Arrival { id, window: None, inputs: tensors.and_then(checked), deadline })
    }

    /// # Errors
    /// [`FaultKind::Invalid`] if the stream was opened for tensors; ends the stream, because a lost chunk cannot be answered.
    pub(super) fn chunk(&mut self, chunk: Bytes) -> Result<(), Fault> {
        let framer = self.framer.as_mut().ok_or_else(|| {
            Fault::invalid(
                "chunk",
                "the stream was opened for tensors; open it with the payload kind pcm_s16le to send raw chunks",
            )
        })?;
        framer.push(chunk);
        Ok(())
    }

    /// A full window, if there is one.
    pub(super) fn next_window(&mut self) -> Option<Arrival> {
        self.framer.as_mut()?.next_window().map(window_arrival)
    }

    /// The rest, padded, if there is one.
    pub(super) fn flush(&mut self) -> Option<Arrival> {
        self.framer.as_mut()?.flush().map(window_arrival)
    }

    /// # Errors
    /// [`FaultKind::Invalid`] if half a sample is left over.
    pub(super) fn finish(&self) -> Result<(), Fault> {
        self.framer.as_ref().map_or(Ok(()), PcmFramer::finish)
    }

    pub(super) fn shape_key(&self, inputs: &ItemInputs) -> ShapeKey {
        if self.fixed_shapes {
            return ShapeKey::default();
        }
        let mut hasher = DefaultHasher::new();
        for input in inputs {
            input.shape().hash(&mut hasher);
        }
        ShapeKey(hasher.finish())
    }

    fn within_limit(&self, tensors: &[NamedTensor]) -> Result<(), Fault> {
        let bytes: usize = tensors.iter().map(|tensor| tensor.data.len()).sum();
        if bytes <= self.max_item_bytes {
            return Ok(());
        }
        let message =
            format!("the item has {bytes} bytes, more than the {} that session.max_item_bytes allows", self.max_item_bytes);
        Err(Fault::new(FaultKind::TooLarge, message)
            .with_field("inputs")
            .with_limit("session.max_item_bytes", self.max_item_bytes as u64))
    }
}

/// Input bytes of an item.
pub(super) fn item_bytes(inputs: &ItemInputs) -> usize {
    inputs.iter().map(|input| input.data().len()).sum()
}

fn window_arrival(window: crate::codec::Window) -> Arrival {
    let mut inputs = ItemInputs::new();
    inputs.push(window.tensor);
    Arrival { id: String::new(), window: Some(window.position), inputs: Ok(inputs), deadline: None }
}
