//! What a front end keeps for a stream.

use std::sync::Arc;

use super::reading::Reading;

/// A request and its response, as the front end knows them: one per stream, created when the stream opens.
pub(crate) trait Exchange: Default + Send + Sync + 'static {
    /// The future of a stream, inside which the front end finds this.
    type Within<F: Future<Output = ()> + Send + 'static>: Future<Output = ()> + Send + 'static;

    /// Wraps the future of its stream in it.
    fn around<F: Future<Output = ()> + Send + 'static>(self: Arc<Self>, stream: F) -> Self::Within<F>;

    /// Whether the client reads; the response body records it here.
    fn reading(&self) -> &Reading;
}

/// For front ends that need nothing else.
impl Exchange for Reading {
    type Within<F: Future<Output = ()> + Send + 'static> = F;

    fn around<F: Future<Output = ()> + Send + 'static>(self: Arc<Self>, stream: F) -> F {
        stream
    }

    fn reading(&self) -> &Reading {
        self
    }
}
