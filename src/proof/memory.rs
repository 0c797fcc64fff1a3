//! How much memory is available, according to the system.

use std::fs;

use rustix::process::{Resource, getrlimit};

/// Bytes that may still be allocated, going by the machine, the limits of this process's cgroup, and its own; `None` if the system does not
/// say.
#[must_use]
pub fn available_memory() -> Option<u64> {
    let machine = bytes_of(&read("/proc/meminfo")?, "MemAvailable")?;
    let left = [group_left("/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"), own_left()];
    let legacy = group_left("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file");
    left.into_iter().chain([legacy]).flatten().chain([machine]).min()
}

/// The memory that the cgroup at `folder` may still use. Pages of files that nobody uses count as free.
fn group_left(folder: &str, limit: &str, usage: &str, unused: &str) -> Option<u64> {
    let number = |file: &str| read(&format!("{folder}/{file}"))?.trim().parse::<u64>().ok();
    let limit = number(limit)?;
    let cached = read(&format!("{folder}/memory.stat")).and_then(|text| number_after(&text, unused)).unwrap_or_default();
    Some(limit.saturating_sub(number(usage)?.saturating_sub(cached)))
}

/// The memory that the limit on this process's own address space leaves.
fn own_left() -> Option<u64> {
    let limit = getrlimit(Resource::As).current?;
    Some(limit.saturating_sub(bytes_of(&read("/proc/self/status")?, "VmSize")?))
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok()
}

/// The number of a line such as `MemAvailable:    1234 kB`.
fn bytes_of(text: &str, key: &str) -> Option<u64> {
    Some(number_after(text, &format!("{key}:"))? << 10)
}

fn number_after(text: &str, key: &str) -> Option<u64> {
    let mut lines = text.lines().map(str::split_ascii_whitespace);
    lines.find_map(|mut words| if words.next() == Some(key) { words.next()?.parse().ok() } else { None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_by_their_names() {
        let text = "MemTotal:       16332624 kB\nMemAvailable:      2048 kB\ninactive_file 77\n";
        assert_eq!(bytes_of(text, "MemAvailable"), Some(2 << 20));
        assert_eq!(number_after(text, "inactive_file"), Some(77));
        assert_eq!(bytes_of(text, "Mem"), None);
    }

    #[test]
    fn a_groups_limit_less_what_it_uses_is_left() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().to_str().expect("Unicode");
        let left = || group_left(path, "memory.max", "memory.current", "inactive_file");
        assert_eq!(left(), None, "no group");
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).expect("a file");
        write("memory.max", "max\n");
        write("memory.current", "700\n");
        assert_eq!(left(), None, "no limit");
        write("memory.max", "1000\n");
        assert_eq!(left(), Some(300));
        write("memory.stat", "anon 600\ninactive_file 100\n");
        assert_eq!(left(), Some(400));
        write("memory.current", "5000\n");
        assert_eq!(left(), Some(0));
    }

    #[test]
    fn some_memory_is_left_for_this_test() {
        assert!(available_memory().is_some_and(|bytes| bytes > 1 << 20));
    }
}
