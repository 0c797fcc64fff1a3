//! The server's and this process's use of the machine, second by second.
//!
//! A server may be many processes: those that it has started count too, and so on. Knows nothing about what the server is.

use std::{collections::BTreeMap, time::Duration};

use crate::process::Usage;

/// How many processes of a server are counted.
const PROCESSES_MAX: usize = 1_000;

/// The use by a process, and by those that it has started, since the last look.
pub(crate) struct Meter {
    root: u32,
    last: BTreeMap<u32, Usage>,
}

/// From one look to the next.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Used {
    pub(crate) cpu: Duration,
    /// At the second look.
    pub(crate) resident_bytes: u64,
}

impl Meter {
    /// # Errors
    /// If there is no such process, or it is not this user's.
    pub(crate) fn new(root: u32) -> anyhow::Result<Self> {
        let usage = Usage::of(root)?;
        let mut meter = Self { root, last: BTreeMap::from([(root, usage)]) };
        meter.look();
        Ok(meter)
    }

    /// If a process has ended since the last look, what it used since then is lost.
    pub(crate) fn look(&mut self) -> Used {
        let mut used = Used::default();
        let mut now = BTreeMap::new();
        for process in family(self.root) {
            let Ok(usage) = Usage::of(process) else { continue };
            if let Some(last) = self.last.get(&process) {
                used.cpu += usage.since(last).cpu;
            }
            used.resident_bytes += usage.resident_bytes;
            now.insert(process, usage);
        }
        self.last = now;
        used
    }
}

/// A process and all its descendants.
fn family(root: u32) -> Vec<u32> {
    let mut family = vec![root];
    let mut looked_at = 0;
    while let Some(process) = family.get(looked_at).copied() {
        looked_at += 1;
        for child in children(process) {
            if family.len() < PROCESSES_MAX && !family.contains(&child) {
                family.push(child);
            }
        }
    }
    family
}

/// None if the process has ended.
fn children(process: u32) -> Vec<u32> {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{process}/task")) else { return Vec::new() };
    let of_thread = |thread: std::fs::DirEntry| std::fs::read_to_string(thread.path().join("children")).unwrap_or_default();
    let texts = threads.filter_map(Result::ok).map(of_thread);
    texts.flat_map(|text| text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_seen_and_a_missing_one_is_reported() {
        let mut meter = Meter::new(std::process::id()).expect("this process is there");
        assert!(meter.look().resident_bytes > 0);
        assert!(Meter::new(u32::MAX).is_err());
    }

    #[test]
    fn processes_that_were_started_belong_to_the_family() {
        let mut child = std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().expect("cat is there");
        let family = family(std::process::id());
        drop(child.stdin.take());
        child.wait().expect("it ends with its input");
        assert_eq!(family[0], std::process::id());
        assert!(family.contains(&child.id()), "{family:?}");
    }
}
