//! A server in its own process, and what the kernel says about a process.

use std::{collections::BTreeMap, ffi::OsString, io::ErrorKind, net::SocketAddr, path::Path, process::Stdio, time::Duration};

use anyhow::{Context as _, bail};
use rustix::{
    io::Errno,
    process::{Pid, Signal, kill_process},
};
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt as _, BufReader, Lines},
    process::{Child, Command},
    task::JoinHandle,
};

/// How long a server may take to start.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// A `tidemill serve` that ends with this value.
pub(crate) struct ServerProcess {
    pub(crate) address: SocketAddr,
    pub(crate) http_address: SocketAddr,
    pub(crate) admin_address: SocketAddr,
    pub(crate) pid: u32,
    child: Child,
    log: JoinHandle<Complaints>,
}

impl ServerProcess {
    /// Starts `binary` on free ports, with room for `streams` streams, however few connections they share, and with these settings, each
    /// `KEY=VALUE`. Waits until it listens.
    pub(crate) async fn start(binary: &Path, streams: usize, settings: &[impl AsRef<str> + Sync]) -> anyhow::Result<Self> {
        let mut child = Command::new(binary)
            .args(["serve", "--set", "log.format=json", "--grpc-addr", "127.0.0.1:0"])
            .args(["--http-addr", "127.0.0.1:0", "--admin-addr", "127.0.0.1:0"])
            .args(["--set", &format!("session.max_streams={}", streams + streams / 4 + 100)])
            .args(settings.iter().flat_map(|setting| ["--set", setting.as_ref()]))
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", binary.display()))?;
        let pid = child.id().context("the server ended at once")?;
        let mut lines = BufReader::new(child.stderr.take().context("the server has no log")?).lines();
        let mut complaints = Complaints::default();
        let starting = tokio::time::timeout(START_TIMEOUT, find_addresses(&mut lines, &mut complaints)).await;
        let [address, http_address, admin_address] = starting.context("the server did not start in time")??;
        // Reading goes on, so that the server never waits for us.
        let log = tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                complaints.hear(line);
            }
            complaints
        });
        Ok(Self { address, http_address, admin_address, pid, child, log })
    }

    /// Asks it to drain (SIGTERM).
    pub(crate) fn terminate(&self) -> anyhow::Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.pid)?).context("no process has this number")?;
        kill_process(pid, Signal::TERM).context("the server cannot be asked to stop")
    }

    /// Waits at most `patience` for it to end; returns its exit code, unless a signal ended it, and what its log complained about.
    pub(crate) async fn ended(mut self, patience: Duration) -> anyhow::Result<(Option<i32>, Complaints)> {
        let status = tokio::time::timeout(patience, self.child.wait()).await.context("the server does not end")??;
        Ok((status.code(), self.log.await?))
    }
}

/// Lines of a JSON log that need attention.
#[derive(Debug, Default)]
pub(crate) struct Complaints {
    /// Those of level WARN or ERROR, or that are not objects at all, like a panic's.
    pub(crate) count: u64,
    /// The first of them.
    pub(crate) first: Vec<String>,
}

impl Complaints {
    const KEPT: usize = 20;

    fn hear(&mut self, line: String) {
        let object = serde_json::from_str::<serde_json::Value>(&line).unwrap_or_default();
        if !matches!(object["level"].as_str(), None | Some("WARN" | "ERROR")) {
            return;
        }
        self.count += 1;
        if self.first.len() < Self::KEPT {
            self.first.push(line);
        }
    }
}

/// Reads the log up to the line that names the ports for gRPC, HTTP and administration.
async fn find_addresses(
    lines: &mut Lines<impl AsyncBufRead + Unpin>,
    complaints: &mut Complaints,
) -> anyhow::Result<[SocketAddr; 3]> {
    let mut seen = Vec::new();
    while let Some(line) = lines.next_line().await? {
        if line.contains("grpc=") {
            let address = |key: &str| -> anyhow::Result<SocketAddr> {
                let rest = line.split(key).nth(1).unwrap_or_default();
                let end = rest.find(|letter: char| letter.is_whitespace() || letter == '"').unwrap_or(rest.len());
                rest[..end].parse().with_context(|| format!("no address {key} in the log line {line:?}"))
            };
            return Ok([address("grpc=")?, address("http=")?, address("admin=")?]);
        }
        seen.push(line.clone());
        complaints.hear(line);
    }
    bail!("the server ended before it listened:\n{}", seen.join("\n"))
}

/// The resources that a process holds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Footprint {
    pub(crate) resident_bytes: u64,
    pub(crate) descriptors: usize,
    pub(crate) threads: usize,
}

impl Footprint {
    pub(crate) fn of(pid: u32) -> anyhow::Result<Self> {
        let folder = format!("/proc/{pid}");
        let status = std::fs::read_to_string(format!("{folder}/status")).with_context(|| format!("cannot read {folder}"))?;
        let descriptors = std::fs::read_dir(format!("{folder}/fd"))?.count();
        let threads = std::fs::read_dir(format!("{folder}/task"))?.count();
        Ok(Self { resident_bytes: field(&status, "VmRSS:")? * 1024, descriptors, threads })
    }
}

/// The use by a process, thread by thread: a thread that ends takes its counts with it.
#[derive(Debug, Clone)]
pub(crate) struct Usage {
    pub(crate) resident_bytes: u64,
    threads: BTreeMap<OsString, Spent>,
}

/// The use by one thread, or by several.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Spent {
    /// Time on a core.
    pub(crate) cpu: Duration,
    /// Voluntary and forced.
    pub(crate) context_switches: u64,
}

impl Spent {
    /// `None` for a thread that has ended: its folder is gone, or its files are there but cannot be read any more.
    fn of(thread: &Path) -> anyhow::Result<Option<Self>> {
        let read = |name: &str| match std::fs::read_to_string(thread.join(name)) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(Errno::SRCH.raw_os_error()) => {
                Ok(None)
            }
            Err(error) => Err(error).with_context(|| format!("cannot read {}", thread.join(name).display())),
        };
        let (Some(schedule), Some(status)) = (read("schedstat")?, read("status")?) else { return Ok(None) };
        let on_cpu = schedule.split_whitespace().next().and_then(|nanos| nanos.parse().ok());
        let on_cpu = on_cpu.with_context(|| format!("no time in {}/schedstat", thread.display()))?;
        let context_switches = field(&status, "voluntary_ctxt_switches:")? + field(&status, "nonvoluntary_ctxt_switches:")?;
        Ok(Some(Self { cpu: Duration::from_nanos(on_cpu), context_switches }))
    }
}

impl Usage {
    pub(crate) fn of(pid: u32) -> anyhow::Result<Self> {
        let folder = format!("/proc/{pid}");
        let read = |path: String| std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"));
        let resident_bytes = field(&read(format!("{folder}/status"))?, "VmRSS:")? * 1024;
        let mut threads = BTreeMap::new();
        for thread in std::fs::read_dir(format!("{folder}/task"))? {
            let thread = thread?;
            // A thread may have ended since the listing.
            if let Some(spent) = Spent::of(&thread.path())? {
                threads.insert(thread.file_name(), spent);
            }
        }
        Ok(Self { resident_bytes, threads })
    }

    /// The use since `earlier` by the threads that are alive now.
    pub(crate) fn since(&self, earlier: &Self) -> Spent {
        let mut sum = Spent::default();
        for (thread, now) in &self.threads {
            let then = earlier.threads.get(thread).copied().unwrap_or_default();
            sum.cpu += now.cpu.saturating_sub(then.cpu);
            sum.context_switches += now.context_switches.saturating_sub(then.context_switches);
        }
        sum
    }
}

/// The number after a name at the start of a line.
fn field(text: &str, name: &str) -> anyhow::Result<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("no {name} in the status"))?;
    let number = line.split_whitespace().next().with_context(|| format!("no number after {name}"))?;
    Ok(number.parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_complains_in_warnings_errors_and_what_is_not_an_object() {
        let mut complaints = Complaints::default();
        for line in [r#"{"level":"INFO"}"#, r#"{"level":"WARN"}"#, r#"{"level":"ERROR"}"#, "thread 'main' panicked"] {
            complaints.hear(line.to_owned());
        }
        assert_eq!((complaints.count, complaints.first.len()), (3, 3));
    }

    #[test]
    fn a_thread_that_has_ended_is_ignored() {
        let alive = Spent::of(Path::new("/proc/thread-self")).expect("it can be read");
        assert!(alive.is_some());
        let ended = Spent::of(Path::new("/proc/self/task/0")).expect("that is no fault");
        assert!(ended.is_none(), "{ended:?}");
    }

    #[tokio::test]
    async fn the_ports_are_found_in_the_log() {
        let log = b"{\"level\":\"WARN\"}\n{\"message\":\"listening grpc=127.0.0.1:1 http=127.0.0.1:2 admin=127.0.0.1:3\"}\n";
        let mut complaints = Complaints::default();
        let ports = find_addresses(&mut log.lines(), &mut complaints).await.expect("they are there");
        assert_eq!((ports.map(|address| address.port()), complaints.count), ([1, 2, 3], 1));
    }
}
