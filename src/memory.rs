//! How much memory the process may have, and whether so much is taken that no new work is let in.
//!
//! The kernel kills a process that goes beyond its cgroup's limit, and an allocation that does not fit into the address space
//! ends it. So above [`SHARE_MAX`] of the limit, clients that bring a lot are asked to come back later; open streams go on, and
//! so do small calls.
//!
//! Nothing watches: [`Memory::admit`] looks when it is called, at most once every [`LOOK_EVERY`].

use std::{
    fs::{self, File},
    os::unix::fs::FileExt as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use rustix::{
    param::page_size,
    process::{Resource, getrlimit},
};

use crate::{
    clock,
    domain::{Fault, FaultKind, Timestamp},
    telemetry::{Seldom, ServerMetrics},
};

/// The configuration key that names the limit.
const LIMIT_KEY: &str = "memory.limit_bytes";
/// Fraction of the limit, in per cent, beyond which no new work is let in.
const SHARE_MAX: u64 = 90;
/// Shortest time between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// When to try again.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// What a unary call may always bring.
const SMALL_BYTES: usize = 256 << 10;

/// Where a limit comes from, and so what counts towards it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Setting,
    Cgroup,
    /// `RLIMIT_AS`: all of the address space counts, used or not.
    AddressSpace,
    Machine,
}

impl Source {
    const fn label(self) -> &'static str {
        match self {
            Self::Setting => LIMIT_KEY,
            Self::Cgroup => "the cgroup's limit",
            Self::AddressSpace => "the limit of the address space, ulimit -v",
            Self::Machine => "the machine's memory",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Limit {
    bytes: u64,
    source: Source,
}

/// The memory of this process. Clones share what was last seen of it.
#[derive(Debug, Clone)]
pub struct Memory {
    /// `None` if there is no limit.
    inner: Option<Arc<Inner>>,
}

#[derive(Debug)]
struct Inner {
    limit: Limit,
    /// Sizes of this process, in pages.
    sizes: Option<File>,
    looked_at: AtomicU64,
    is_short: AtomicBool,
    metrics: ServerMetrics,
    refusals: Seldom,
}

impl Memory {
    /// Memory without a limit.
    #[must_use]
    pub const fn unlimited() -> Self {
        Self { inner: None }
    }

    /// Memory limited to `limit_bytes`; if 0, to what the cgroup, the address space or the machine allows.
    #[must_use]
    pub fn within(limit_bytes: u64, metrics: &ServerMetrics) -> Self {
        let set = (limit_bytes > 0).then_some(Limit { bytes: limit_bytes, source: Source::Setting });
        let Some(limit) = set.or_else(limit_of_system) else { return Self::unlimited() };
        metrics.memory_limit.set(limit.bytes as f64);
        tracing::debug!(bytes = limit.bytes, "memory is limited by {}", limit.source.label());
        let inner = Inner {
            limit,
            sizes: File::open("/proc/self/statm").ok(),
            looked_at: AtomicU64::new(0),
            is_short: AtomicBool::new(false),
            metrics: metrics.clone(),
            refusals: Seldom::default(),
        };
        Self { inner: Some(Arc::new(inner)) }
    }

    /// Whether new work that may come to hold a lot can begin: a stream, an upload.
    ///
    /// # Errors
    /// [`FaultKind::Overloaded`] while memory is short.
    pub fn admit(&self) -> Result<(), Fault> {
        match &self.inner {
            Some(inner) => inner.admit(clock::now()),
            None => Ok(()),
        }
    }

    /// Whether memory is short, for those that can give some back.
    #[must_use]
    pub fn is_short(&self) -> bool {
        self.inner.as_ref().is_some_and(|inner| inner.is_short(clock::now()))
    }

    /// Whether a call that brings this many bytes may begin.
    ///
    /// # Errors
    /// [`FaultKind::Overloaded`] while memory is short, unless there are few.
    pub fn admit_bytes(&self, bytes: usize) -> Result<(), Fault> {
        if bytes <= SMALL_BYTES { Ok(()) } else { self.admit() }
    }
}

impl Inner {
    fn admit(&self, now: Timestamp) -> Result<(), Fault> {
        if !self.is_short(now) {
            return Ok(());
        }
        self.metrics.memory_refusals.increment(1);
        let Limit { bytes, source } = self.limit;
        if let Some(left_out) = self.refusals.due(now) {
            tracing::warn!(
                limit = bytes,
                left_out,
                "memory is running out: more than {SHARE_MAX} % of {LIMIT_KEY} ({}) is taken; new streams, uploads and large calls are refused",
                source.label()
            );
        }
        let message = format!(
            "the server is running out of memory: more than {SHARE_MAX} % of the {bytes} bytes that {LIMIT_KEY} ({}) allows is taken; \
             open streams go on; try again later with a new one",
            source.label()
        );
        Err(Fault::new(FaultKind::Overloaded, message).with_limit(LIMIT_KEY, bytes).with_retry_after(RETRY_AFTER))
    }

    fn is_short(&self, now: Timestamp) -> bool {
        let looked_at = self.looked_at.load(Ordering::Relaxed);
        let is_recent = now.since(Timestamp::from_nanos(looked_at)) < LOOK_EVERY && looked_at > 0;
        // One caller looks; the others use what was last seen.
        if !is_recent
            && self.looked_at.compare_exchange(looked_at, now.as_nanos(), Ordering::Relaxed, Ordering::Relaxed).is_ok()
            && let Some(taken) = self.taken()
        {
            self.is_short.store(taken > self.limit.bytes / 100 * SHARE_MAX, Ordering::Relaxed);
        }
        self.is_short.load(Ordering::Relaxed)
    }

    /// Bytes that count towards the limit. `None` if the system does not say.
    fn taken(&self) -> Option<u64> {
        let mut text = [0; 128];
        let length = self.sizes.as_ref()?.read_at(&mut text, 0).ok()?;
        taken_of(std::str::from_utf8(&text[..length]).ok()?, self.limit.source)
    }
}

/// The bytes in a line of sizes in pages: of the address space, of what is resident, and more.
fn taken_of(sizes: &str, source: Source) -> Option<u64> {
    let position = usize::from(source != Source::AddressSpace);
    let pages: u64 = sizes.split_whitespace().nth(position)?.parse().ok()?;
    Some(pages * page_size() as u64)
}

/// What the system allows the process.
fn limit_of_system() -> Option<Limit> {
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| machine_bytes(&text));
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    // A limit larger than the machine is no limit.
    let cgroup =
        cgroup_bytes(&groups, Path::new("/sys/fs/cgroup")).filter(|bytes| machine.is_none_or(|machine| *bytes < machine));
    let limit = |source| move |bytes| Limit { bytes, source };
    cgroup
        .map(limit(Source::Cgroup))
        .or_else(|| getrlimit(Resource::As).current.map(limit(Source::AddressSpace)))
        .or_else(|| machine.map(limit(Source::Machine)))
}

/// The smallest limit of the groups named in `groups` (`/proc/self/cgroup`), and of those around them; `root` is where they are
/// mounted.
fn cgroup_bytes(groups: &str, root: &Path) -> Option<u64> {
    let limits = groups.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        let (folder, file) = match controllers {
            "" => (root.to_owned(), "memory.max"),
            list if list.split(',').any(|controller| controller == "memory") => (root.join("memory"), "memory.limit_in_bytes"),
            _ => return None,
        };
        // In a container the path may be the host's, of which only the root is visible.
        let groups = Path::new(path.trim_start_matches('/')).ancestors();
        // A group without a limit says `max`.
        groups.filter_map(|group| fs::read_to_string(folder.join(group).join(file)).ok()?.trim().parse::<u64>().ok()).min()
    });
    limits.min()
}

fn machine_bytes(meminfo: &str) -> Option<u64> {
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kilobytes: u64 = total.split_whitespace().next()?.parse().ok()?;
    Some(kilobytes << 10)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Telemetry;

    fn write(folder: &Path, path: &str, text: &str) {
        let path = folder.join(path);
        fs::create_dir_all(path.parent().expect("below the folder")).expect("a folder");
        fs::write(path, text).expect("a file");
    }

    #[test]
    fn the_smallest_limit_of_a_group_and_those_around_it_counts() {
        let root = tempfile::tempdir().expect("a temporary folder");
        write(root.path(), "memory.max", "max\n");
        write(root.path(), "pods/memory.max", "3000\n");
        write(root.path(), "pods/one/memory.max", "5000\n");
        assert_eq!(cgroup_bytes("0::/pods/one\n", root.path()), Some(3_000));
        assert_eq!(cgroup_bytes("0::/\n", root.path()), None);
        write(root.path(), "memory.max", "2000\n");
        assert_eq!(cgroup_bytes("0::/the/path/of/the/host\n", root.path()), Some(2_000));
    }

    #[test]
    fn limits_of_cgroups_version_one_are_read_too() {
        let root = tempfile::tempdir().expect("a temporary folder");
        write(root.path(), "memory/memory.limit_in_bytes", "9223372036854771712\n");
        write(root.path(), "memory/pod/memory.limit_in_bytes", "1000\n");
        write(root.path(), "cpu/pod/memory.limit_in_bytes", "1\n");
        let groups = "12:cpu,cpuacct:/pod\n3:hugetlb,memory:/pod\n0::/\n";
        assert_eq!(cgroup_bytes(groups, root.path()), Some(1_000));
        assert_eq!(cgroup_bytes("", root.path()), None);
    }

    #[test]
    fn resident_memory_counts_or_the_address_space_where_that_is_limited() {
        let page = page_size() as u64;
        let sizes = "1000 20 3 4 0 5 0\n";
        assert_eq!(taken_of(sizes, Source::Cgroup), Some(20 * page));
        assert_eq!(taken_of(sizes, Source::AddressSpace), Some(1_000 * page));
        assert_eq!(taken_of("", Source::Cgroup), None);
        assert_eq!(machine_bytes("MemTotal:       16 kB\nMemFree: 1 kB\n"), Some(16 << 10));
    }

    #[test]
    fn new_work_is_refused_by_name_while_memory_is_short_and_small_calls_are_not() {
        let telemetry = Telemetry::new();
        let short = Memory::within(1 << 20, &telemetry.server());
        let fault = short.admit().expect_err("a process has more than a megabyte");
        assert_eq!(fault.limit().map(|limit| (limit.name, limit.value)), Some(("memory.limit_bytes", 1 << 20)));
        assert_eq!((fault.kind(), fault.retry_after()), (FaultKind::Overloaded, Some(RETRY_AFTER)));
        assert!(short.is_short() && !Memory::unlimited().is_short());
        assert!(short.admit_bytes(SMALL_BYTES + 1).is_err() && short.admit_bytes(SMALL_BYTES).is_ok());
        let text = telemetry.render();
        assert!(text.contains("tidemill_memory_refusals_total 2\n") && text.contains("tidemill_memory_limit_bytes 1048576\n"));
        let ample = Memory::within(1 << 45, &telemetry.server());
        assert!(ample.admit().is_ok() && Memory::unlimited().admit().is_ok());
    }

    #[test]
    fn what_was_seen_holds_for_a_while() {
        let memory = Memory::within(1 << 45, &Telemetry::new().server());
        let inner = memory.inner.expect("it has a limit");
        let now = Timestamp::from_nanos(1_000_000_000);
        assert!(!inner.is_short(now));
        inner.is_short.store(true, Ordering::Relaxed);
        assert!(inner.is_short(now + Duration::from_millis(49)));
        assert!(!inner.is_short(now + LOOK_EVERY));
    }
}
