//! What an answer says.

use tidemill_wire::{
    code_name, rpc,
    v1::{Framing, ItemResult, Tensor, item_result},
};
use tonic::Code;

use crate::error::Error;

/// Why an item has no outputs.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum ItemError<'a> {
    /// The server answered it with an error; [`Refusal::from`](crate::Refusal) reads its details.
    #[error("{}: {}", code_name(Code::from(.0.code)), .0.message)]
    Answered(&'a rpc::Status),
    /// The answer holds neither outputs nor an error, which no server should send.
    #[error("the answer is empty")]
    Empty,
}

/// The outputs of an item.
///
/// # Errors
/// Why it has none.
#[inline]
pub fn outputs(result: &ItemResult) -> Result<&[Tensor], ItemError<'_>> {
    match &result.outcome {
        Some(item_result::Outcome::Outputs(outputs)) => Ok(&outputs.tensors),
        Some(item_result::Outcome::Error(status)) => Err(ItemError::Answered(status)),
        None => Err(ItemError::Empty),
    }
}

/// The framing of a model that takes raw audio, as [`Opened`](tidemill_wire::v1::Opened) or
/// [`ModelDetail`](tidemill_wire::v1::ModelDetail) has it.
///
/// # Errors
/// [`Error::NoAudio`] if the model takes only tensors, [`Error::UnexpectedAnswer`] for a rate or window of zero.
pub fn audio_framing(framing: Option<Framing>, model: &str) -> Result<Framing, Error> {
    match framing {
        Some(framing) if framing.sample_rate_hz > 0 && framing.window_samples > 0 => Ok(framing),
        Some(_) => Err(Error::UnexpectedAnswer(format!("the framing of model '{model}' has no rate or no window"))),
        None => Err(Error::NoAudio { model: model.to_owned() }),
    }
}
