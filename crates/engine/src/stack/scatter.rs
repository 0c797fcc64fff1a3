//! Hands a call's outputs to its items.

use std::fmt::Display;

use bytes::Bytes;
use smallvec::SmallVec;
use tidemill_domain::{ItemOutputs, Shape, Tensor, TensorSpec};

use super::Executable;
use crate::{ItemCall, RunError, byte_strings, checks::check_output, crop::Crop, layout::layout, lengths::Lengths};

impl Executable {
    /// Checks all outputs, cuts them into items, and only then writes the states.
    pub(super) fn scatter(
        &self,
        items: &[ItemCall<'_>],
        lengths: Option<&Lengths>,
        tensors: &[Tensor],
    ) -> Result<Vec<ItemOutputs>, RunError> {
        let results = self.item_outputs(items, lengths, tensors)?;
        let state_positions = &self.output_positions[self.signature.outputs.len()..];
        for (spec, position) in self.next_states.iter().zip(state_positions) {
            check_output(spec, &tensors[*position], items.len())?;
        }
        if !state_positions.is_empty() {
            let next: SmallVec<[&Tensor; 2]> = state_positions.iter().map(|position| &tensors[*position]).collect();
            self.states.scatter(items, &next)?;
        }
        Ok(results)
    }

    /// Checks the signature's outputs, and cuts them into items.
    pub(super) fn item_outputs(
        &self,
        items: &[ItemCall<'_>],
        lengths: Option<&Lengths>,
        tensors: &[Tensor],
    ) -> Result<Vec<ItemOutputs>, RunError> {
        let signature = &self.signature;
        let expected = self.instances.outputs();
        if tensors.len() != expected {
            return Err(RunError::WrongOutput(format!("{} outputs came, not {expected}", tensors.len())));
        }
        let output_positions = &self.output_positions[..signature.outputs.len()];
        for (spec, position) in signature.outputs.iter().zip(output_positions) {
            check_output(spec, &tensors[*position], items.len())?;
            if let Some(lengths) = lengths {
                lengths.check(spec, &tensors[*position])?;
            }
        }
        let mut results: Vec<ItemOutputs> = items.iter().map(|_| ItemOutputs::with_capacity(signature.outputs.len())).collect();
        for (spec, position) in signature.outputs.iter().zip(output_positions) {
            let tensor = &tensors[*position];
            match spec.datatype.fixed_size() {
                Some(element_bytes) => self.cut(spec, tensor, element_bytes, lengths, &mut results)?,
                None => byte_strings::split(spec, tensor, &mut results).map_err(|error| wrong_output(spec, &error))?,
            }
        }
        Ok(results)
    }

    /// Cuts one output into items: slices of it if the items' bytes lie together, of a rearranged copy if not.
    fn cut(
        &self,
        spec: &TensorSpec,
        tensor: &Tensor,
        element_bytes: usize,
        lengths: Option<&Lengths>,
        results: &mut [ItemOutputs],
    ) -> Result<(), RunError> {
        let mut dims = Shape::from_slice(tensor.shape());
        if let Some(axis) = spec.batch_axis {
            dims.remove(axis);
        }
        let strips = layout(&spec.name, &dims, spec.batch_axis, element_bytes, results.len())?;
        let data = if strips.are_contiguous() {
            tensor.data().clone()
        } else {
            let mut buffer = self.pool.take(strips.batch_bytes());
            for strip in (0..results.len()).flat_map(|index| strips.strips(tensor.data(), index)) {
                buffer.extend_from_slice(strip);
            }
            buffer.freeze()
        };
        for (index, result) in results.iter_mut().enumerate() {
            let start = index * strips.item_bytes();
            let item = data.slice(start..start + strips.item_bytes());
            let (dims, item) = match lengths {
                Some(lengths) if lengths.is_shorter(index) => {
                    let own = lengths.own_dims(index, spec, &dims);
                    let crop = Crop::new(&own, &dims, element_bytes).ok_or_else(|| wrong_output(spec, &"it is too large"))?;
                    let item = self.cropped(&crop, item);
                    (own, item)
                }
                _ => (dims.clone(), item),
            };
            result.push(Tensor::new(spec.datatype, dims, item).map_err(|error| wrong_output(spec, &error))?);
        }
        Ok(())
    }

    /// An item without its padding: a slice if its bytes lie together, a copy if not.
    fn cropped(&self, crop: &Crop<'_>, item: Bytes) -> Bytes {
        if crop.is_prefix() {
            return item.slice(..crop.own_bytes());
        }
        let mut buffer = self.pool.take(crop.own_bytes());
        for start in crop.starts() {
            buffer.extend_from_slice(&item[start..start + crop.run_bytes()]);
        }
        buffer.freeze()
    }
}

fn wrong_output(spec: &TensorSpec, cause: &dyn Display) -> RunError {
    RunError::WrongOutput(format!("output '{}': {cause}", spec.name))
}
