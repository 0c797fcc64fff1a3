//! Giving back memory that is no longer of use.

use std::{sync::Arc, time::Duration};

use crate::{memory::Memory, open_inference::AnswerCache, registry::Registry};

/// Time in which a model that gets large calls gets another, usually.
const TRIM_EVERY: Duration = Duration::from_secs(10);

/// What a model keeps for calls beyond the usual size goes once there are no more of them.
pub(super) async fn trim_models(registry: Arc<Registry>) -> Option<()> {
    loop {
        tokio::time::sleep(TRIM_EVERY).await;
        registry.trim();
    }
}

/// Answers of models that serve no longer are forgotten, and all of them while memory is short.
pub(super) async fn tend_cache(cache: AnswerCache, registry: Arc<Registry>, memory: Memory) -> Option<()> {
    let mut changes = registry.changes();
    loop {
        let serving = registry.serving();
        cache.forget_models(|model| serving.contains(&model));
        if memory.is_short() {
            cache.clear();
        }
        if let Ok(changed) = tokio::time::timeout(TRIM_EVERY, changes.changed()).await {
            changed.ok()?;
        }
    }
}
