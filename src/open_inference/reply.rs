//! What a request wants back, and the response made of its items' outputs.

use std::sync::Arc;

use super::{
    classes::{self, classify, wanted_classes},
    items,
    placement::Placement,
    request::RequestedOutput,
    response::{InferResponse, OutputData},
    shared_memory::SharedMemory,
};
use crate::{
    domain::{Fault, ItemOutputs, Signature, data_bytes},
    registry::Model,
};

/// Turns items' outputs into a response.
#[derive(Debug, Clone)]
pub(super) struct ReplyPlan {
    pub(super) model: Arc<Model>,
    id: String,
    batched: bool,
    wanted: Vec<Wanted>,
}

/// An output of the response.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    /// Its position in the signature.
    position: usize,
    /// Where it goes if it is not in the response.
    place: Option<Placement>,
    /// How many classes of each item are wanted in place of the tensor.
    classes: Option<usize>,
}

impl ReplyPlan {
    /// The response with `wanted` to a request of this id, whose inputs may have had a batch dimension.
    pub(super) const fn new(model: Arc<Model>, id: String, batched: bool, wanted: Vec<Wanted>) -> Self {
        Self { model, id, batched, wanted }
    }

    /// Whether any output goes to shared memory.
    pub(super) fn has_places(&self) -> bool {
        self.wanted.iter().any(|wanted| wanted.place.is_some())
    }

    /// How much work a response is, as a number of bytes that could be copied in that time.
    pub(super) fn work_bytes(&self, outputs: &[ItemOutputs]) -> usize {
        let bytes: usize = outputs.iter().map(|outputs| data_bytes(outputs)).sum();
        let classifies = self.wanted.iter().any(|wanted| wanted.classes.is_some());
        if classifies { bytes.saturating_mul(classes::COPIES_PER_BYTE) } else { bytes }
    }

    /// # Errors
    /// Those of [`items::join`] and [`classify`], and of writing to shared memory.
    pub(super) fn response(self, outputs: &[ItemOutputs]) -> Result<InferResponse, Fault> {
        let Self { model, id, batched, wanted } = self;
        let output = |Wanted { position, place, classes }: Wanted| {
            let mut output = items::join(outputs, batched, position, &model.signature().outputs[position])?;
            if let Some(top) = classes {
                output = classify(output, outputs.len(), batched, top, model.labels(position))?;
            }
            if let (Some(place), OutputData::Here(data)) = (place, &output.data) {
                output.data = place.put(&output.name, data)?;
            }
            Ok(output)
        };
        let outputs = wanted.into_iter().map(output).collect::<Result<_, Fault>>()?;
        let (name, version) = (Arc::clone(&model.loaded.name), Arc::clone(&model.loaded.version));
        Ok(InferResponse { model: name, version, id, outputs })
    }
}

/// The outputs that are asked for.
///
/// # Errors
/// [`FaultKind::Invalid`](crate::domain::FaultKind::Invalid) with the field at fault.
pub(super) fn wanted(outputs: &[RequestedOutput], signature: &Signature, memory: &SharedMemory) -> Result<Vec<Wanted>, Fault> {
    if outputs.is_empty() {
        let whole = |position| Wanted { position, place: None, classes: None };
        return Ok((0..signature.outputs.len()).map(whole).collect());
    }
    let mut wanted: Vec<Wanted> = Vec::with_capacity(outputs.len());
    for (index, output) in outputs.iter().enumerate() {
        let position = signature.find_output(&output.name, index)?;
        if wanted.iter().any(|earlier| earlier.position == position) {
            let message = format!("output '{}' is asked for twice", output.name);
            return Err(Fault::invalid(format!("outputs[{index}].name"), message));
        }
        let (classes, place) = if output.parameters.is_empty() {
            (None, None)
        } else {
            let field = format!("outputs[{index}]");
            let classes = wanted_classes(&output.parameters, &field, &signature.outputs[position])?;
            (classes, Placement::of(&output.parameters, &field, memory)?)
        };
        wanted.push(Wanted { position, place, classes });
    }
    Ok(wanted)
}
