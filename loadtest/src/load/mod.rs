//! Load that a plan describes, and clients that misbehave beside it.

pub(crate) mod chaos;
