//! Answers that are kept, and given again to requests that are the same.
//!
//! Knows models by the scheduler's names, so that a version that is loaded again begins with none. What an answer is known by is
//! everything that it depends on: the model, and the tensors of its items. Each tenant has its own, so that nobody can find out by the
//! time of an answer what another has asked.
//!
//! Nothing waits here: two equal requests that come at once are both run, and the later answer replaces the earlier.

use std::{collections::HashMap, sync::Arc, time::Duration};

use lru::LruCache;
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};

use super::items::SplitItem;
use crate::{
    config::CacheConfig,
    domain::{ItemInputs, ItemOutputs, data_bytes},
    scheduler::{ModelKey, TenantKey},
    telemetry::{Counter, ServerMetrics, Telemetry},
};

/// What an answer takes besides its data: its key, its places in the list and the table, and the allocations of its tensors.
const ENTRY_BYTES: usize = 512;
/// The same of each tensor.
const TENSOR_BYTES: usize = 128;

/// Answers that are kept. Clones share them.
#[derive(Clone, Default)]
pub struct AnswerCache {
    /// `None` if none are kept.
    inner: Option<Arc<Inner>>,
}

struct Inner {
    config: CacheConfig,
    telemetry: Telemetry,
    metrics: ServerMetrics,
    store: Mutex<Store>,
}

/// What a request is known by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct RequestKey {
    model: ModelKey,
    tenant: TenantKey,
    digest: [u8; 32],
}

/// How often a model version was asked for what was kept, and the time that it took. Counts are of items.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct CacheCounts {
    pub(super) hits: u64,
    pub(super) hit_time: Duration,
    pub(super) misses: u64,
    /// Looking up and keeping.
    pub(super) miss_time: Duration,
}

struct Store {
    answers: LruCache<RequestKey, Kept>,
    bytes: usize,
    models: HashMap<ModelKey, Counted>,
}

struct Kept {
    outputs: Vec<ItemOutputs>,
    bytes: usize,
}

struct Counted {
    counts: CacheCounts,
    hits: Counter,
    misses: Counter,
}

impl RequestKey {
    /// The key of a request for these items; `None` if one of them cannot be run.
    pub(super) fn of(model: ModelKey, tenant: TenantKey, items: &[SplitItem]) -> Option<Self> {
        let mut digest = Sha256::new();
        digest.update((items.len() as u64).to_le_bytes());
        for item in items {
            add_item(&mut digest, item.as_ref().ok()?);
        }
        Some(Self { model, tenant, digest: digest.finalize().into() })
    }
}

/// Everything is preceded by its length, so that no two lists of tensors are written alike.
fn add_item(digest: &mut Sha256, item: &ItemInputs) {
    digest.update((item.len() as u64).to_le_bytes());
    for tensor in item {
        digest.update([tensor.datatype() as u8]);
        digest.update((tensor.shape().len() as u64).to_le_bytes());
        for size in tensor.shape() {
            digest.update((*size as u64).to_le_bytes());
        }
        digest.update((tensor.data().len() as u64).to_le_bytes());
        digest.update(tensor.data());
    }
}

impl AnswerCache {
    /// None yet, within these limits.
    #[must_use]
    pub fn new(config: &CacheConfig, telemetry: &Telemetry) -> Self {
        if config.bytes == 0 {
            return Self::default();
        }
        let store = Store { answers: LruCache::unbounded(), bytes: 0, models: HashMap::new() };
        let (telemetry, metrics) = (telemetry.clone(), telemetry.server());
        Self { inner: Some(Arc::new(Inner { config: config.clone(), telemetry, metrics, store: Mutex::new(store) })) }
    }

    /// Whether any may be kept.
    #[must_use]
    pub const fn is_on(&self) -> bool {
        self.inner.is_some()
    }

    /// The answer to the same request.
    pub(super) fn find(&self, key: &RequestKey) -> Option<Vec<ItemOutputs>> {
        self.inner.as_ref()?.store.lock().answers.get(key).map(|kept| kept.outputs.clone())
    }

    /// Counts a request of `items` items that was answered so after `time`. The name and version are the model's.
    pub(super) fn count_hit(&self, key: &RequestKey, name: &str, version: &str, items: usize, time: Duration) {
        self.count(key.model, name, version, |counted| {
            counted.counts.hits += items as u64;
            counted.counts.hit_time += time;
            counted.hits.increment(items as u64);
        });
    }

    /// The same for one that was not found.
    pub(super) fn count_miss(&self, key: &RequestKey, name: &str, version: &str, items: usize, time: Duration) {
        self.count(key.model, name, version, |counted| {
            counted.counts.misses += items as u64;
            counted.counts.miss_time += time;
            counted.misses.increment(items as u64);
        });
    }

    fn count(&self, model: ModelKey, name: &str, version: &str, change: impl FnOnce(&mut Counted)) {
        let Some(inner) = &self.inner else { return };
        change(inner.store.lock().models.entry(model).or_insert_with(|| {
            let metrics = inner.telemetry.model(name, version);
            Counted { counts: CacheCounts::default(), hits: metrics.cache_hits, misses: metrics.cache_misses }
        }));
    }

    /// Keeps an answer, unless it is too large. Its data are copied: they are slices of whole calls' outputs.
    pub(super) fn keep(&self, key: RequestKey, outputs: &[ItemOutputs]) {
        let Some(inner) = &self.inner else { return };
        let tensors: usize = outputs.iter().flatten().count();
        let data: usize = outputs.iter().map(|outputs| data_bytes(outputs)).sum();
        let bytes = data + tensors * TENSOR_BYTES + ENTRY_BYTES;
        if bytes > inner.config.max_entry_bytes.min(inner.config.bytes) {
            return;
        }
        let kept = Kept { outputs: outputs.iter().map(copied).collect(), bytes };
        let mut store = inner.store.lock();
        let mut evicted = 0;
        store.bytes += bytes;
        if let Some(replaced) = store.answers.put(key, kept) {
            store.bytes -= replaced.bytes;
        }
        while store.bytes > inner.config.bytes
            && let Some((_, oldest)) = store.answers.pop_lru()
        {
            store.bytes -= oldest.bytes;
            evicted += 1;
        }
        inner.show(&store, evicted);
    }

    /// Counts the time that keeping an answer took.
    pub(super) fn count_keeping(&self, key: &RequestKey, time: Duration) {
        let Some(inner) = &self.inner else { return };
        if let Some(counted) = inner.store.lock().models.get_mut(&key.model) {
            counted.counts.miss_time += time;
        }
    }

    /// What was counted for a model version.
    pub(super) fn counts(&self, model: ModelKey) -> CacheCounts {
        let Some(inner) = &self.inner else { return CacheCounts::default() };
        inner.store.lock().models.get(&model).map(|counted| counted.counts).unwrap_or_default()
    }

    /// Forgets the answers of all models but those that `serves` is true for.
    pub fn forget_models(&self, serves: impl Fn(ModelKey) -> bool) {
        let Some(inner) = &self.inner else { return };
        let mut store = inner.store.lock();
        let gone: Vec<RequestKey> = store.answers.iter().map(|(key, _)| *key).filter(|key| !serves(key.model)).collect();
        for key in gone {
            if let Some(kept) = store.answers.pop(&key) {
                store.bytes -= kept.bytes;
            }
        }
        store.models.retain(|model, _| serves(*model));
        inner.show(&store, 0);
    }

    /// Gives up all answers, because memory is short.
    pub fn clear(&self) {
        let Some(inner) = &self.inner else { return };
        let mut store = inner.store.lock();
        let evicted = store.answers.len();
        store.answers.clear();
        store.bytes = 0;
        inner.show(&store, evicted);
    }
}

impl Inner {
    fn show(&self, store: &Store, evicted: usize) {
        self.metrics.cache_bytes.set(store.bytes as f64);
        self.metrics.cache_evictions.increment(evicted as u64);
    }
}

/// The same outputs with data of their own.
fn copied(outputs: &ItemOutputs) -> ItemOutputs {
    outputs.iter().map(|tensor| tensor.clone().detached()).collect()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;
    use slotmap::SlotMap;

    use super::*;
    use crate::domain::{Datatype, Fault, Shape, Tensor};

    fn tensor(shape: &[usize], bytes: &[u8]) -> Tensor {
        Tensor::new(Datatype::Uint8, Shape::from_slice(shape), Bytes::copy_from_slice(bytes)).expect("as long as it must be")
    }

    fn item(bytes: &[u8]) -> SplitItem {
        Ok(ItemInputs::from_iter([tensor(&[bytes.len()], bytes)]))
    }

    fn answer(byte: u8, length: usize) -> Vec<ItemOutputs> {
        vec![ItemOutputs::from_iter([tensor(&[length], &vec![byte; length])])]
    }

    fn models() -> [ModelKey; 2] {
        let mut keys: SlotMap<ModelKey, ()> = SlotMap::with_key();
        [keys.insert(()), keys.insert(())]
    }

    fn cache(bytes: usize, max_entry_bytes: usize) -> (AnswerCache, Telemetry) {
        let telemetry = Telemetry::new();
        (AnswerCache::new(&CacheConfig { bytes, max_entry_bytes }, &telemetry), telemetry)
    }

    fn shown(telemetry: &Telemetry, name: &str) -> f64 {
        let text = telemetry.render();
        let line = text.lines().find_map(|line| line.strip_prefix(name)).expect("it is there");
        line.trim().parse().expect("a number")
    }

    fn key(model: ModelKey, tenant: u64, bytes: &[u8]) -> RequestKey {
        RequestKey::of(model, TenantKey(tenant), &[item(bytes)]).expect("sound")
    }

    #[test]
    fn an_answer_is_known_by_model_tenant_and_tensors() {
        let [one, other] = models();
        let keys = [
            key(one, 0, b"ab"),
            key(other, 0, b"ab"),
            key(one, 1, b"ab"),
            key(one, 0, b"ac"),
            RequestKey::of(one, TenantKey(0), &[item(b"a"), item(b"b")]).expect("sound"),
            RequestKey::of(one, TenantKey(0), &[Ok(ItemInputs::from_iter([tensor(&[1, 2], b"ab")]))]).expect("sound"),
            RequestKey::of(one, TenantKey(0), &[Ok(ItemInputs::from_iter([tensor(&[1], b"a"), tensor(&[1], b"b")]))])
                .expect("sound"),
        ];
        let different: std::collections::HashSet<_> = keys.iter().collect();
        assert_eq!(different.len(), keys.len());
        assert_eq!(key(one, 0, b"ab"), keys[0]);
        assert_eq!(RequestKey::of(one, TenantKey(0), &[item(b"a"), Err(Fault::invalid("x", "bad"))]), None);
    }

    #[test]
    fn the_answer_that_was_not_asked_for_the_longest_makes_room() {
        let ([model, _], size) = (models(), 100 + TENSOR_BYTES + ENTRY_BYTES);
        let (cache, telemetry) = cache(2 * size, size);
        let keys = [b"a", b"b", b"c"].map(|bytes| key(model, 0, bytes));
        cache.keep(keys[0], &answer(1, 100));
        cache.keep(keys[1], &answer(2, 100));
        assert!(cache.find(&keys[0]).is_some());
        cache.keep(keys[2], &answer(3, 100));
        assert_eq!(keys.map(|key| cache.find(&key).is_some()), [true, false, true]);
        assert_eq!(shown(&telemetry, "tidemill_cache_evictions_total"), 1.0);
        assert_eq!(shown(&telemetry, "tidemill_cache_bytes"), 2.0 * size as f64);
        cache.keep(keys[1], &answer(4, 101));
        assert_eq!(cache.find(&keys[1]), None, "it is larger than one may be");
        cache.clear();
        assert_eq!(keys.map(|key| cache.find(&key)), [None, None, None]);
        assert_eq!(shown(&telemetry, "tidemill_cache_bytes"), 0.0);
    }

    #[test]
    fn what_is_kept_does_not_keep_the_rest_of_its_call() {
        let ([model, _], (cache, _)) = (models(), cache(1 << 20, 1 << 20));
        let call = Bytes::from(vec![7; 1 << 10]);
        let slice = Tensor::new(Datatype::Uint8, Shape::from_slice(&[4]), call.slice(8..12)).expect("four bytes");
        cache.keep(key(model, 0, b"a"), &[ItemOutputs::from_iter([slice])]);
        let found = cache.find(&key(model, 0, b"a")).expect("it is kept");
        let range = call.as_ptr_range();
        assert!(!range.contains(&found[0][0].data().as_ptr()));
        assert_eq!(&found[0][0].data()[..], [7; 4]);
    }

    #[test]
    fn a_model_that_is_gone_leaves_nothing() {
        let ([gone, stays], (cache, telemetry)) = (models(), cache(1 << 20, 1 << 20));
        let keys = [gone, stays].map(|model| key(model, 0, b"a"));
        for key in &keys {
            cache.keep(*key, &answer(1, 10));
            cache.count_hit(key, "m", "1", 2, Duration::from_millis(3));
            cache.count_miss(key, "m", "1", 1, Duration::from_millis(4));
            cache.count_keeping(key, Duration::from_millis(5));
        }
        cache.forget_models(|model| model == stays);
        assert_eq!(keys.map(|key| cache.find(&key).is_some()), [false, true]);
        assert_eq!(cache.counts(gone), CacheCounts::default());
        let millis = Duration::from_millis;
        assert_eq!(cache.counts(stays), CacheCounts { hits: 2, hit_time: millis(3), misses: 1, miss_time: millis(9) });
        assert_eq!(shown(&telemetry, "tidemill_cache_evictions_total"), 0.0);
    }

    #[test]
    fn without_room_nothing_is_kept() {
        let ([model, _], (cache, _)) = (models(), cache(0, 1 << 20));
        cache.keep(key(model, 0, b"a"), &answer(1, 1));
        assert!(!cache.is_on() && cache.find(&key(model, 0, b"a")).is_none());
        cache.clear();
        cache.forget_models(|_| false);
    }

    proptest! {
        /// Whatever is kept, found and forgotten: an answer that is found is the last that was kept under its key, and what is kept has room.
        #[test]
        fn an_answer_is_always_that_of_its_own_request(
            steps in proptest::collection::vec((0_u8..4, 0_usize..2, 0_u64..2, proptest::collection::vec(0_u8..2, 0..3), any::<u8>()), 0..60),
            room in 1_usize..6,
        ) {
            let limit = room * (ENTRY_BYTES + TENSOR_BYTES + 4);
            let (keys, (cache, telemetry)) = (models(), cache(limit, limit));
            let mut model: HashMap<(usize, u64, Vec<u8>), u8> = HashMap::new();
            for (what, which, tenant, bytes, value) in steps {
                let key = key(keys[which], tenant, &bytes);
                match what {
                    0 | 1 => {
                        cache.keep(key, &answer(value, 4));
                        model.insert((which, tenant, bytes), value);
                    }
                    2 => {
                        if let Some(found) = cache.find(&key) {
                            let kept = model.get(&(which, tenant, bytes)).copied();
                            prop_assert_eq!(kept.map(|byte| answer(byte, 4)), Some(found));
                        }
                    }
                    _ => {
                        cache.forget_models(|known| known != keys[which]);
                        model.retain(|(known, ..), _| *known != which);
                        prop_assert!(cache.find(&key).is_none());
                    }
                }
                prop_assert!(shown(&telemetry, "tidemill_cache_bytes") <= limit as f64);
            }
        }

        /// What distinguishes requests are their tensors, and nothing else.
        #[test]
        fn only_equal_requests_have_equal_keys(
            one in proptest::collection::vec(proptest::collection::vec(0_u8..2, 0..3), 0..3),
            other in proptest::collection::vec(proptest::collection::vec(0_u8..2, 0..3), 0..3),
        ) {
            let [model, _] = models();
            let keys = [&one, &other].map(|items| {
                let items: Vec<_> = items.iter().map(|bytes| item(bytes)).collect();
                RequestKey::of(model, TenantKey(0), &items)
            });
            prop_assert_eq!(one == other, keys[0] == keys[1]);
        }
    }
}
