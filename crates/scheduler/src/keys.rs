//! The keys of a queue's models, streams and shapes.

slotmap::new_key_type! {
    /// A model version that has a queue.
    pub struct ModelKey;
    /// An open stream.
    pub struct StreamKey;
}

/// Says which items of a model may share a batch: equal keys mean equal shapes of all inputs, or one bucket of a padded model.
///
/// The queue compares keys, never shapes. The maker of the keys numbers the shapes of a model and never gives two of them the
/// same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct ShapeKey(pub u64);
