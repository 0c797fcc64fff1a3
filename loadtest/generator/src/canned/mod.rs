//! `canned`: the limit of what any server can do with a client that it does not choose.
//!
//! It speaks the Open Inference Protocol for one model, and answers each inference at once with an answer made in advance. What a client
//! such as perf_analyzer gets out of this is the most that it can get out of any server on these cores; only differences below that
//! are due to the servers. Everything that clients ask about the model is passed on to a real server inside this process, which has
//! nothing else to do. Knows no queue, no session and no engine.

mod answer;
mod grpc;
mod http;

use std::{
    io::{self, Write as _},
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
};

use anyhow::Context as _;
use tidemill::{app::Server, config::Config};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    task::AbortHandle,
};

use crate::target::connect;
use answer::Answer;

/// Answer every request at once with the same answer: the limit of what a client can show of any server
///
/// Speaks the Open Inference Protocol over gRPC and answers any POST over HTTP, for one model, without running it. Prints
/// `ready pid=… grpc=… http=… version=…` once it listens, and ends on SIGTERM or SIGINT.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Port for gRPC on 127.0.0.1, with HTTP one above; 0 takes any free ones
    #[arg(long)]
    port: u16,

    /// The model to answer for
    #[arg(long, default_value = "silero-vad")]
    model: String,

    /// Folder of models, like the server's own --models; without this, the model inside the binary
    #[arg(long, value_name = "DIR")]
    models: Option<PathBuf>,

    /// Library of ONNX Runtime, to load models that need it
    #[arg(long, value_name = "FILE")]
    onnxruntime: Option<PathBuf>,

    /// Elements of an answer in each dimension that the model leaves open
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..))]
    length: u16,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let (mut terminated, mut interrupted) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let canned = Canned::start(args).await?;
    let ready = format!(
        "ready pid={} grpc={} http={} version={}\n",
        std::process::id(),
        canned.grpc,
        canned.http,
        env!("CARGO_PKG_VERSION")
    );
    io::stdout().write_all(ready.as_bytes()).context("standard output")?;
    tokio::select! {
        _ = terminated.recv() => {}
        _ = interrupted.recv() => {}
    }
    Ok(ExitCode::SUCCESS)
}

/// A running server of canned answers; it ends with this value.
struct Canned {
    grpc: SocketAddr,
    http: SocketAddr,
    tasks: [AbortHandle; 2],
    _original: Server,
}

impl Canned {
    /// # Errors
    /// If a port is taken, or the model cannot be loaded or does not take the request that its answer is made from.
    async fn start(args: Args) -> anyhow::Result<Self> {
        let above = if args.port == 0 { 0 } else { args.port.checked_add(1).context("--port 65535 has no port above it")? };
        let (grpc, http) = (bind(args.port).await?, bind(above).await?);
        let mut config = Config::default();
        for address in [&mut config.server.grpc_addr, &mut config.server.http_addr, &mut config.server.admin_addr] {
            *address = (Ipv4Addr::LOCALHOST, 0).into();
        }
        config.models.embedded = args.models.is_none();
        config.models.example = false;
        config.models.dir = args.models;
        config.engine.onnxruntime = args.onnxruntime;
        let original = Server::start(config).await?;
        let client = connect(original.grpc_addr(), 1).await?.pop().context("there is no connection")?;
        let answer = Answer::of(&client, &args.model, args.length.into()).await;
        let answer = Arc::new(answer.with_context(|| format!("model '{}'", args.model))?);
        let (grpc_address, http_address) = (grpc.local_addr()?, http.local_addr()?);
        let tasks = [
            tokio::spawn(http::serve(http, answer.data())).abort_handle(),
            tokio::spawn(grpc::serve(grpc, answer, client.channel().without_credential().clone())).abort_handle(),
        ];
        Ok(Self { grpc: grpc_address, http: http_address, tasks, _original: original })
    }
}

impl Drop for Canned {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

async fn bind(port: u16) -> anyhow::Result<TcpListener> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))
}

#[cfg(test)]
mod tests;
