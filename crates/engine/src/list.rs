//! The engines that this server has. Another one takes a line here and its own module.

use std::sync::Arc;

use super::{EngineFactory, LaneHost, LaneThreads, Runs, onnxruntime, rten, synthetic};

/// All engines, in the order in which messages name them.
pub static ENGINES: [&dyn EngineFactory; 3] = [&rten::Factory, &onnxruntime::Factory, &synthetic::Factory];

/// Those that run model files.
pub(super) fn file_engines() -> impl Iterator<Item = &'static dyn EngineFactory> {
    ENGINES.into_iter().filter(|engine| matches!(engine.runs(), Runs::Files(_)))
}

/// The engine with this name.
#[must_use]
pub fn engine_named(name: &str) -> Option<&'static dyn EngineFactory> {
    ENGINES.into_iter().find(|engine| engine.name() == name)
}

impl LaneThreads {
    /// Threads for a device of one lane.
    #[must_use]
    pub fn new() -> Self {
        Self::device(1).swap_remove(0)
    }

    /// Threads for each of the `lanes` lanes of one device.
    #[must_use]
    pub fn device(lanes: usize) -> Vec<Self> {
        Self::device_with_long_lanes(lanes, 0)
    }

    /// The same, followed by those of long lanes.
    #[must_use]
    pub fn device_with_long_lanes(lanes: usize, long_lanes: usize) -> Vec<Self> {
        let mut hosts: Vec<Vec<Arc<dyn LaneHost>>> = vec![Vec::new(); lanes + long_lanes];
        for engine in ENGINES {
            hosts.iter_mut().zip(engine.lane_hosts(lanes, long_lanes)).for_each(|(lane, host)| lane.push(host));
        }
        hosts.into_iter().enumerate().map(|(lane, hosts)| Self::within(hosts, lane >= lanes)).collect()
    }
}

impl Default for LaneThreads {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_one_engine_that_runs_files_is_always_there() {
        let names: BTreeSet<&str> = ENGINES.iter().map(|engine| engine.name()).collect();
        assert_eq!(names.len(), ENGINES.len());
        assert!(!names.contains("auto"), "that is the server's choice");
        assert!(file_engines().any(|engine| engine.library().is_none()));
        assert!(engine_named("rten").is_some() && engine_named("tract").is_none());
    }

    #[test]
    fn long_lanes_come_last() {
        let lanes = LaneThreads::device_with_long_lanes(2, 1);
        assert_eq!(lanes.iter().map(LaneThreads::is_long_lane).collect::<Vec<_>>(), [false, false, true]);
    }
}
