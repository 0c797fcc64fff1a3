//! From messages to items: tensors are checked, raw payloads are framed.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    event::{CheckedItem, ItemRequest},
    payload::{PayloadKind, PcmOptions},
    raw::{Framed, RawPayload},
};
use crate::{
    codec::{Window, WindowPosition},
    domain::{Fault, FaultKind, ItemInputs, NamedTensor, Shape, Signature, TensorSpec, data_bytes},
    registry::Model,
};

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
    raw: Option<RawPayload>,
    /// The shape of a window, if the model takes windows in more than one dimension.
    window_shape: Option<Shape>,
    fixed_shapes: bool,
    max_item_bytes: usize,
}

impl Intake {
    /// # Errors
    /// [`FaultKind::Invalid`] if the model has no framing for this kind of payload, or its rate cannot be had from the client's.
    pub(super) fn new(model: &Model, payload: PayloadKind, pcm: PcmOptions, max_item_bytes: usize) -> Result<Self, Fault> {
        let raw = match payload {
            PayloadKind::Tensors if pcm.sample_rate_hz.is_some() => {
                return Err(Fault::invalid("sample_rate_hz", "tensors have no sample rate; leave it out, or send raw audio"));
            }
            PayloadKind::Tensors if pcm.format.is_some() => {
                return Err(Fault::invalid("audio_format", "tensors are not audio; leave it out, or send raw audio"));
            }
            PayloadKind::Tensors => None,
            PayloadKind::PcmS16le => {
                let rule = model.loaded.framing.ok_or_else(|| {
                    let message =
                        format!("model '{}' takes tensors only; its manifest has no [framing] for pcm_s16le", model.loaded.name);
                    Fault::invalid("payload", message)
                })?;
                Some(RawPayload::new(rule, pcm)?)
            }
        };
        let signature = Arc::clone(model.loaded.executable.signature());
        let input = signature.inputs.first().filter(|input| raw.is_some() && input.dims.len() > 1);
        let window_shape = input.and_then(TensorSpec::fixed_shape);
        Ok(Self { window_shape, fixed_shapes: signature.has_fixed_shapes(), signature, raw, max_item_bytes })
    }

    /// Samples taken in so far, at the model's rate.
    pub(super) fn samples(&self) -> u64 {
        self.raw.as_ref().map_or(0, RawPayload::samples)
    }

    /// Takes an item; if its tensors are wrong, that becomes its answer.
    ///
    /// # Errors
    /// [`FaultKind::Invalid`] if the stream was opened for raw chunks; this ends the stream, because its client mixes up two
    /// contracts.
    pub(super) fn item(&self, request: ItemRequest) -> Result<Arrival, Fault> {
        self.takes_tensors()?;
        let ItemRequest { id, tensors, deadline } = request;
        let checked = |tensors: Vec<NamedTensor>| {
            self.within_limit(tensors.iter().map(|tensor| tensor.data.len()).sum())?;
            self.signature.check(tensors)
        };
        Ok(Arrival { id, window: None, inputs: tensors.and_then(checked), deadline })
    }

    /// The same, for tensors that already fit.
    ///
    /// # Errors
    /// As [`Intake::item`].
    pub(super) fn checked(&self, item: CheckedItem) -> Result<Arrival, Fault> {
        self.takes_tensors()?;
        let CheckedItem { inputs, deadline } = item;
        let within = |inputs: ItemInputs| self.within_limit(data_bytes(&inputs)).map(|()| inputs);
        Ok(Arrival { id: String::new(), window: None, inputs: inputs.and_then(within), deadline })
    }

    fn takes_tensors(&self) -> Result<(), Fault> {
        if self.raw.is_none() {
            return Ok(());
        }
        Err(Fault::invalid("item", "the stream was opened for raw chunks; an item of tensors does not belong in it"))
    }

    /// # Errors
    /// [`FaultKind::Invalid`] if the stream was opened for tensors, or begins like a file; this ends the stream, because a lost
    /// chunk cannot be answered.
    pub(super) fn chunk(&mut self, chunk: Bytes) -> Result<(), Fault> {
        let raw = self.raw.as_mut().ok_or_else(|| {
            Fault::invalid(
                "chunk",
                "the stream was opened for tensors; open it with the payload kind pcm_s16le to send raw chunks",
            )
        })?;
        raw.push(chunk)
    }

    /// A full window, or a step on the way to one.
    ///
    /// # Errors
    /// [`FaultKind::Invalid`] for bytes that are no samples; this ends the stream.
    pub(super) fn next_window(&mut self) -> Result<Framed<Arrival>, Fault> {
        let Some(raw) = &mut self.raw else { return Ok(Framed::Nothing) };
        Ok(match raw.next()? {
            Framed::Window(window) => Framed::Window(self.window_arrival(window)),
            Framed::Converted => Framed::Converted,
            Framed::Nothing => Framed::Nothing,
        })
    }

    /// Takes what has come as all there is for now. Says whether windows may have become full by it.
    pub(super) fn end_sound(&mut self) -> bool {
        self.raw.as_mut().is_some_and(RawPayload::end_sound)
    }

    /// The rest, padded, if anything is left.
    pub(super) fn flush(&mut self) -> Option<Arrival> {
        let window = self.raw.as_mut()?.flush()?;
        Some(self.window_arrival(window))
    }

    /// # Errors
    /// [`FaultKind::Invalid`] if a part of a sample is left over.
    pub(super) fn finish(&self) -> Result<(), Fault> {
        self.raw.as_ref().map_or(Ok(()), RawPayload::finish)
    }

    /// What must be equal among items that share a batch: their shapes or, along the padded dimension, their bucket. `None` if
    /// all items of the model are alike.
    pub(super) fn batch_sizes(&self, inputs: &ItemInputs) -> Option<Shape> {
        if self.fixed_shapes {
            return None;
        }
        let padding = self.signature.padding.as_ref();
        let bucket = padding.and_then(|rule| rule.bucket(rule.length(inputs)));
        // Each input has as many dimensions as the signature says, so two items have the same list only if they match.
        let mut batch_sizes = Shape::from_slice(&[bucket.map_or(0, |bucket| bucket + 1)]);
        for (position, input) in inputs.iter().enumerate() {
            let padded_axis = padding.and_then(|rule| rule.input(position)).map(|padded| padded.axis);
            let sizes = input.shape().iter().enumerate();
            batch_sizes.extend(sizes.filter(|(axis, _)| Some(*axis) != padded_axis).map(|(_, size)| *size));
        }
        Some(batch_sizes)
    }

    /// The item's elements along the padded dimension; 0 where nothing is padded.
    pub(super) fn length(&self, inputs: &ItemInputs) -> u32 {
        self.signature.padding.as_ref().map_or(0, |rule| u32::try_from(rule.length(inputs)).unwrap_or(u32::MAX))
    }

    fn window_arrival(&self, Window { tensor, position }: Window) -> Arrival {
        let shaped = match &self.window_shape {
            None => Ok(tensor),
            Some(shape) => {
                tensor.reshaped(shape).map_err(|error| Fault::invalid("inputs", format!("a window is not an item: {error}")))
            }
        };
        let inputs = shaped.map(|tensor| ItemInputs::from_buf([tensor]));
        Arrival { id: String::new(), window: Some(position), inputs, deadline: None }
    }

    fn within_limit(&self, bytes: usize) -> Result<(), Fault> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Datatype, ElementBytes, PaddedInput, PaddingRule, Shape, Tensor, TensorSpec};

    /// Frames with any number of features, padded in the first dimension if there are `buckets`.
    fn intake(buckets: Option<&[usize]>) -> Intake {
        let spec = TensorSpec { name: "x".into(), datatype: Datatype::Uint8, dims: vec![None, None], batch_axis: Some(0) };
        let padding = buckets.map(|buckets| PaddingRule {
            inputs: vec![PaddedInput { position: 0, axis: 0, value: ElementBytes::from_elem(0, 1) }],
            mask: None,
            buckets: buckets.to_vec(),
            pad_to_bucket: false,
        });
        let signature = Arc::new(Signature { inputs: vec![spec], padding, ..Signature::default() });
        Intake { fixed_shapes: signature.has_fixed_shapes(), signature, raw: None, window_shape: None, max_item_bytes: 100 }
    }

    fn item(length: usize, features: usize) -> ItemInputs {
        let shape = Shape::from_slice(&[length, features]);
        let tensor = Tensor::new(Datatype::Uint8, shape, vec![0; length * features].into()).expect("as long as it must be");
        ItemInputs::from_iter([tensor])
    }

    #[test]
    fn without_padding_equal_shapes_meet() {
        let intake = intake(None);
        let key = |length, features| intake.batch_sizes(&item(length, features));
        assert_eq!(key(3, 2), key(3, 2));
        assert_ne!(key(3, 2), key(4, 2));
        assert_ne!(key(3, 2), key(2, 3));
        assert_eq!(intake.length(&item(3, 2)), 0);
    }

    #[test]
    fn with_padding_items_of_a_bucket_meet_if_the_rest_of_their_shapes_is_equal() {
        let bucketed = intake(Some(&[4, 8]));
        let key = |length, features| bucketed.batch_sizes(&item(length, features));
        assert_eq!(key(1, 2), key(4, 2));
        assert_ne!(key(4, 2), key(5, 2));
        assert_ne!(key(4, 2), key(4, 3));
        assert_eq!(bucketed.length(&item(3, 2)), 3);
        let all_meet = intake(Some(&[]));
        assert_eq!(all_meet.batch_sizes(&item(1, 2)), all_meet.batch_sizes(&item(1_000, 2)));
    }
}
