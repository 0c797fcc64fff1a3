//! A server in a process of its own, and what the kernel says of a process.

use std::{collections::BTreeMap, ffi::OsString, net::SocketAddr, path::Path, process::Stdio, time::Duration};

use anyhow::{Context as _, bail};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, BufReader},
    process::{Child, Command},
};

/// How long a server may take to start.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// A `tidemill serve` that ends with this value.
pub(crate) struct ServerProcess {
    pub(crate) address: SocketAddr,
    pub(crate) pid: u32,
    _child: Child,
}

impl ServerProcess {
    /// Starts `binary` on free ports, with room for `streams` streams and further `settings`, and waits until it listens.
    pub(crate) async fn start(binary: &Path, streams: usize, settings: &[String]) -> anyhow::Result<Self> {
        let mut child = Command::new(binary)
            .args(["serve", "--set", "log.format=json", "--grpc-addr", "127.0.0.1:0"])
            .args(["--http-addr", "127.0.0.1:0", "--admin-addr", "127.0.0.1:0"])
            .args(["--set", &format!("session.max_streams={}", streams + 100)])
            .args(settings.iter().flat_map(|setting| ["--set", setting]))
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", binary.display()))?;
        let pid = child.id().context("the server ended at once")?;
        let log = child.stderr.take().context("the server has no log")?;
        let address =
            tokio::time::timeout(START_TIMEOUT, find_address(log)).await.context("the server did not start in time")??;
        Ok(Self { address, pid, _child: child })
    }
}

/// Reads the log for the line that names the ports; the rest is read on and dropped, so that the server never waits for it.
async fn find_address(log: impl AsyncRead + Unpin + Send + 'static) -> anyhow::Result<SocketAddr> {
    let mut lines = BufReader::new(log).lines();
    let mut seen = Vec::new();
    while let Some(line) = lines.next_line().await? {
        if let Some(address) = line.split("grpc=").nth(1).and_then(|rest| rest.split_whitespace().next()) {
            let address = address.parse().with_context(|| format!("no address in the log line {line:?}"))?;
            tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
            return Ok(address);
        }
        seen.push(line);
    }
    bail!("the server ended before it listened:\n{}", seen.join("\n"))
}

/// What a process has used, thread by thread: a thread that ends takes its counts with it.
#[derive(Debug, Clone)]
pub(crate) struct Usage {
    pub(crate) resident_bytes: u64,
    threads: BTreeMap<OsString, Spent>,
}

/// What one thread, or several, have used.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Spent {
    /// Time on a core.
    pub(crate) cpu: Duration,
    /// Voluntary and forced.
    pub(crate) context_switches: u64,
}

impl Usage {
    pub(crate) fn of(pid: u32) -> anyhow::Result<Self> {
        let folder = format!("/proc/{pid}");
        let read = |path: String| std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"));
        let resident_bytes = field(&read(format!("{folder}/status"))?, "VmRSS:")? * 1024;
        let mut threads = BTreeMap::new();
        for thread in std::fs::read_dir(format!("{folder}/task"))? {
            let thread = thread?;
            let path = thread.path();
            let path = path.display();
            let schedule = read(format!("{path}/schedstat"))?;
            let on_cpu = schedule.split_whitespace().next().and_then(|nanos| nanos.parse().ok());
            let status = read(format!("{path}/status"))?;
            let spent = Spent {
                cpu: Duration::from_nanos(on_cpu.with_context(|| format!("no time in {path}/schedstat"))?),
                context_switches: field(&status, "voluntary_ctxt_switches:")? + field(&status, "nonvoluntary_ctxt_switches:")?,
            };
            threads.insert(thread.file_name(), spent);
        }
        Ok(Self { resident_bytes, threads })
    }

    /// What the threads that live now have used since `earlier`.
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
