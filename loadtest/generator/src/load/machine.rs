//! The machine that generates the load, as its kernel describes it.

use std::{fs, thread};

use super::results::Machine;

impl Machine {
    /// This machine; what the kernel does not report is left empty or zero.
    pub(crate) fn here() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        Self {
            cpu_model: value(&read("/proc/cpuinfo"), "model name").unwrap_or_default().to_owned(),
            cores: thread::available_parallelism().map_or(0, |cores| u32::try_from(cores.get()).unwrap_or(u32::MAX)),
            memory_bytes: value(&read("/proc/meminfo"), "MemTotal").and_then(kibibytes).unwrap_or(0),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        }
    }
}

/// The text after `name` and a colon at the start of a line.
fn value<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix(':')).map(str::trim)
}

/// `16 kB` in bytes.
fn kibibytes(text: &str) -> Option<u64> {
    text.strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_by_their_whole_name() {
        let text = "model\t\t: 5\nmodel name\t: Some CPU @ 2:1\nMemTotal:       16 kB\n";
        assert_eq!(value(text, "model name"), Some("Some CPU @ 2:1"));
        assert_eq!(value(text, "model"), Some("5"));
        assert_eq!(value(text, "MemTotal").and_then(kibibytes), Some(16 * 1024));
        assert_eq!(value(text, "MemFree"), None);
        assert_eq!(kibibytes("many kB"), None);
    }

    #[test]
    fn this_machine_has_memory_and_cores() {
        let machine = Machine::here();
        assert!(machine.cores > 0 && machine.memory_bytes > 0 && !machine.kernel.is_empty(), "{machine:?}");
    }
}
