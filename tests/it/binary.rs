//! The server as a separate process: what it says on standard error, how it ends, and signals to it.

use std::{
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, sync_channel},
    thread,
};

use crate::serving::PATIENCE;

/// Lines that may wait to be read; more would hold the process back, but no test comes near that.
const LINES_MAX: usize = 10_000;

/// Variables that are settings but do not look like it.
const VARIABLES: [&str; 4] = ["ORT_DYLIB_PATH", "CACHE_DIRECTORY", "XDG_CACHE_HOME", "HOME"];

/// `tidemill serve` on free ports. Killed when dropped.
pub(crate) struct Binary {
    child: Child,
    lines: Receiver<String>,
    pub(crate) log: String,
}

impl Binary {
    /// Starts it with flags in addition to those for the ports.
    pub(crate) fn serve(flags: &[&str]) -> Self {
        Self::serve_at(&["127.0.0.1:0"; 2], flags)
    }

    /// Starts it with these addresses for gRPC clients and for operators.
    pub(crate) fn serve_at(addresses: &[&str; 2], flags: &[&str]) -> Self {
        Self::start(Command::new(env!("CARGO_BIN_EXE_tidemill")), addresses, flags)
    }

    /// Starts it with this soft limit on open files.
    pub(crate) fn serve_with_files(files: u32, flags: &[&str]) -> Self {
        let mut shell = Command::new("sh");
        shell.args(["-c", "ulimit -S -n \"$1\" && shift && exec \"$@\"", "sh", &files.to_string()]);
        shell.arg(env!("CARGO_BIN_EXE_tidemill"));
        Self::start(shell, &["127.0.0.1:0"; 2], flags)
    }

    /// Starts it with this limit on open files, as its hard limit too.
    pub(crate) fn serve_with_no_more_files(files: u32, flags: &[&str]) -> Self {
        let mut shell = Command::new("sh");
        shell.args(["-c", "ulimit -n \"$1\" && shift && exec \"$@\"", "sh", &files.to_string()]);
        shell.arg(env!("CARGO_BIN_EXE_tidemill"));
        Self::start(shell, &["127.0.0.1:0"; 2], flags)
    }

    /// Starts it with these variables added to its environment.
    pub(crate) fn serve_with_variables(variables: &[(&str, &str)], flags: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidemill"));
        command.envs(variables.iter().copied());
        Self::start(command, &["127.0.0.1:0"; 2], flags)
    }

    /// The soft and the hard limit on its open files, as the system reports them.
    pub(crate) fn file_limits(&self) -> (String, String) {
        let limits = std::fs::read_to_string(format!("/proc/{}/limits", self.child.id())).expect("it runs");
        let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).expect("a limit of open files");
        let mut words = line.split_whitespace().map(str::to_owned);
        (words.next().expect("the soft limit"), words.next().expect("the hard limit"))
    }

    fn start(command: Command, addresses: &[&str; 2], flags: &[&str]) -> Self {
        let mut command = serving(command, addresses, flags);
        let mut child = command.stderr(Stdio::piped()).spawn().expect("the binary starts");
        let stderr = child.stderr.take().expect("it is piped");
        let (sender, lines) = sync_channel(LINES_MAX);
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines() {
                let Ok(line) = line else { return };
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, lines, log: String::new() }
    }

    /// Reads the log up to a line with this text, and returns that line.
    pub(crate) fn line(&mut self, text: &str) -> String {
        self.line_of(&[text])
    }

    /// The same for a line with any of these texts.
    pub(crate) fn line_of(&mut self, texts: &[&str]) -> String {
        loop {
            let Ok(line) = self.lines.recv_timeout(PATIENCE) else { panic!("no line with {texts:?} in:\n{}", self.log) };
            self.log.push_str(&line);
            self.log.push('\n');
            if texts.iter().any(|text| line.contains(text)) {
                return line;
            }
        }
    }

    /// The addresses for gRPC clients and for operators, once it listens.
    pub(crate) fn addresses(&mut self) -> [SocketAddr; 2] {
        let line = self.line("listening");
        ["grpc=", "admin="].map(|key| {
            let (_, rest) = line.split_once(key).unwrap_or_else(|| panic!("no {key} in {line:?}"));
            rest.split(' ').next().and_then(|address| address.parse().ok()).unwrap_or_else(|| panic!("no address in {line:?}"))
        })
    }

    /// The address for HTTP clients; it must be listening.
    pub(crate) fn http_address(&self) -> SocketAddr {
        let (_, rest) = self.log.split_once("http=").expect("it listens");
        rest.split(' ').next().and_then(|address| address.parse().ok()).expect("an address")
    }

    pub(crate) fn terminate(&self) {
        self.signal("-TERM");
    }

    pub(crate) fn hang_up(&self) {
        self.signal("-HUP");
    }

    pub(crate) fn signal(&self, signal: &str) {
        let id = self.child.id().to_string();
        let killed = Command::new("kill").args([signal, &id]).status().expect("kill runs");
        assert!(killed.success());
    }

    /// Reads the log to its end and returns the exit code.
    pub(crate) fn end(&mut self) -> i32 {
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => {
                    self.log.push_str(&line);
                    self.log.push('\n');
                }
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("the process does not end; it said:\n{}", self.log),
            }
        }
        self.child.wait().expect("it can be waited for").code().expect("no signal ended it")
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("it can be asked").is_none()
    }
}

/// `command` as a server with these addresses for gRPC clients and for operators.
pub(crate) fn serving(mut command: Command, addresses: &[&str; 2], flags: &[&str]) -> Command {
    let ports = ["serve", "--grpc-addr", addresses[0], "--http-addr", "127.0.0.1:0", "--admin-addr", addresses[1]];
    // Settings come only from flags; the server would refuse variables of these tests that look like settings. Nor does it keep proofs of
    // these models in the user's own folder.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if VARIABLES.contains(&&*text) || text.starts_with("TIDEMILL_") {
            command.env_remove(name);
        }
    }
    command.args(ports).args(flags).stdin(Stdio::null()).stdout(Stdio::null());
    command
}

impl Drop for Binary {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
