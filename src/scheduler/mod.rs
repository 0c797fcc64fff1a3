//! Placeholder.

slotmap::new_key_type! {
    /// A model that the scheduler knows.
    pub struct ModelKey;
}
