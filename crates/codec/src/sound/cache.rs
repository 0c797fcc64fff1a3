//! Filters that all streams of the process share.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use super::filter::{Design, Filter};

/// Filters that are kept although no stream uses them, so that calls which come one after the other make none.
const RECENT_MAX: usize = 8;

static CACHE: Mutex<Cache> = Mutex::new(Cache { made: Vec::new(), recent: VecDeque::new() });

/// The filter of this design; made if no stream uses it and it was not used lately, which takes a millisecond or two.
pub(super) fn filter(design: Design) -> Arc<Filter> {
    let found = with_cache(|cache| cache.find(design));
    found.unwrap_or_else(|| {
        let filter = Arc::new(Filter::new(design));
        with_cache(|cache| cache.keep(design, filter))
    })
}

fn with_cache<T>(look: impl FnOnce(&mut Cache) -> T) -> T {
    // Each step leaves it whole.
    look(&mut CACHE.lock().unwrap_or_else(PoisonError::into_inner))
}

struct Cache {
    /// All that are in use, and perhaps some that were.
    made: Vec<(Design, Weak<Filter>)>,
    /// Those used last.
    recent: VecDeque<Arc<Filter>>,
}

impl Cache {
    fn find(&mut self, design: Design) -> Option<Arc<Filter>> {
        let filter = self.made.iter().find(|(other, _)| *other == design)?.1.upgrade()?;
        self.use_now(&filter);
        Some(filter)
    }

    /// Keeps a new filter, unless somebody else has made the same.
    fn keep(&mut self, design: Design, filter: Arc<Filter>) -> Arc<Filter> {
        if let Some(other) = self.find(design) {
            return other;
        }
        self.made.retain(|(_, made)| made.strong_count() > 0);
        self.made.push((design, Arc::downgrade(&filter)));
        self.use_now(&filter);
        filter
    }

    fn use_now(&mut self, filter: &Arc<Filter>) {
        self.recent.retain(|recent| !Arc::ptr_eq(recent, filter));
        self.recent.push_back(Arc::clone(filter));
        if self.recent.len() > RECENT_MAX {
            self.recent.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_share_a_filter_and_unused_ones_go_except_the_last() {
        let mut cache = Cache { made: Vec::new(), recent: VecDeque::new() };
        let design = |number: u32| Design::Between(number % 16);
        let mut get = |number| {
            let found = cache.find(design(number));
            found.unwrap_or_else(|| cache.keep(design(number), Arc::new(Filter::new(design(number)))))
        };
        let (first, again) = (get(0), get(0));
        assert!(Arc::ptr_eq(&first, &again));
        for number in 1..=12 {
            get(number);
        }
        assert!(Arc::ptr_eq(&first, &get(0)), "a stream still uses it");
        let last = Arc::downgrade(&get(12));
        let made_meanwhile = Arc::new(Filter::new(design(12)));
        assert!(Arc::ptr_eq(&cache.keep(design(12), made_meanwhile), &last.upgrade().expect("kept")));
        assert_eq!(cache.recent.len(), RECENT_MAX);
        assert!(cache.made.len() <= RECENT_MAX + 2, "{}", cache.made.len());
    }
}
