//! Gathers items into one call.

use tidemill_domain::Shape;

use super::{Executable, Gathered, Shapes};
use crate::{
    ItemCall, PaddingCount, RunError,
    buffer::AlignedBuffer,
    byte_strings,
    checks::padded_input,
    layout::{layout, with_batch},
    lengths::Lengths,
};

impl Executable {
    /// Copies the items' inputs and states into `scratch`.
    pub(super) fn gather(
        &self,
        items: &[ItemCall<'_>],
        lengths: Option<&Lengths>,
        scratch: &mut [AlignedBuffer],
    ) -> Result<Gathered, RunError> {
        let (input_buffers, state_buffers) = scratch.split_at_mut(self.signature.inputs.len());
        let mut shapes = Shapes::with_capacity(input_buffers.len() + state_buffers.len());
        let mut padding = PaddingCount::default();
        for (position, buffer) in input_buffers.iter_mut().enumerate() {
            shapes.push(self.gather_input(position, items, lengths, buffer, &mut padding)?);
        }
        if !state_buffers.is_empty() {
            let states = self.signature.states.iter();
            shapes.extend(states.map(|spec| with_batch(&spec.dims, spec.batch_axis, items.len())));
            self.states.gather(items, state_buffers)?;
        }
        Ok(Gathered { shapes, padding })
    }

    /// Copies one input of the items into `buffer`, and returns its batch shape.
    fn gather_input(
        &self,
        position: usize,
        items: &[ItemCall<'_>],
        lengths: Option<&Lengths>,
        buffer: &mut AlignedBuffer,
        padding: &mut PaddingCount,
    ) -> Result<Shape, RunError> {
        let spec = &self.signature.inputs[position];
        let mut dims = Shape::from_slice(items[0].inputs[position].shape());
        let Some(element_bytes) = spec.datatype.fixed_size() else {
            byte_strings::gather(items.iter().map(|item| item.inputs[position].data()), buffer);
            return Ok(with_batch(&dims, spec.batch_axis, items.len()));
        };
        let padded = padded_input(&self.signature, position).zip(lengths);
        if let Some((input, lengths)) = padded {
            dims[input.axis] = lengths.padded();
        }
        let strips = layout(&spec.name, &dims, spec.batch_axis, element_bytes, items.len())?;
        let batch = buffer.overwrite(strips.batch_bytes());
        for (index, item) in items.iter().enumerate() {
            let data = item.inputs[position].data();
            match padded {
                Some((input, lengths)) if lengths.is_shorter(index) => {
                    strips.put_padded(batch, index, data, &lengths.rows(index, input, &dims, element_bytes));
                    padding.padded += (strips.item_bytes() - data.len()) / element_bytes;
                }
                _ => strips.put(batch, index, data),
            }
        }
        if padded.is_some() {
            padding.elements += strips.batch_bytes() / element_bytes;
        }
        Ok(with_batch(&dims, spec.batch_axis, items.len()))
    }
}
