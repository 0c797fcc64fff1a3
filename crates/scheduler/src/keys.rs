//! By what the models, streams and shapes of a queue are known.

slotmap::new_key_type! {
    /// A model version that has a queue.
    pub struct ModelKey;
    /// An open stream.
    pub struct StreamKey;
}

/// Marks items of a model that may meet in a batch: equal keys mean equal shapes of all inputs, or one bucket of a padded model.
///
/// The queue compares keys and never shapes. Whatever makes them numbers the shapes of a model, and never gives two of them one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct ShapeKey(pub u64);
