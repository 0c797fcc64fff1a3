//! The server under load, the connections to it, and how it is kept busy.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use anyhow::anyhow;
use futures::future::try_join_all;
use tidemill::{
    app::Server,
    clock,
    config::{Config, GrpcConfig},
};
use tidemill_cli::{KeyArgs, TlsArgs};
use tidemill_client::{Address, Client, Credential, Settings, Tls};

use crate::{
    encryption::Encryption,
    feed::Feed,
    limit::{EchoServer, Reply},
    workload::Workload,
};

/// Largest message accepted from a server.
pub(crate) const ANSWER_BYTES_MAX: usize = 256 << 20;

/// The least load before counting begins.
const WARM_UP_MIN: Duration = Duration::from_millis(300);

/// Where the load goes.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Place {
    /// A running server, such as 127.0.0.1:50051 or unix:/run/grpc.sock; without this, one is started inside this process
    #[arg(long, value_name = "ADDR")]
    pub(crate) addr: Option<Address>,

    /// Connections that the streams are spread over
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) connections: u16,

    /// Encrypt a server in this process, and the bare echo, with the files that `tidemill tls self-signed DIR` has written
    #[arg(long, value_name = "DIR", conflicts_with = "addr")]
    pub(crate) encrypted: Option<PathBuf>,

    #[command(flatten)]
    pub(crate) tls: TlsArgs,

    #[command(flatten)]
    pub(crate) credential: KeyArgs,
}

impl Place {
    /// How a server in this process, and the bare echo, are encrypted, if they are.
    pub(crate) fn encryption(&self) -> Option<Encryption> {
        self.encrypted.clone().map(Encryption::of)
    }
}

/// How to connect: encrypted or not, and with which key.
#[derive(Debug, Clone, Default)]
pub(crate) struct Means {
    pub(crate) tls: Option<Tls>,
    pub(crate) credential: Option<Credential>,
}

impl Means {
    /// What the flags say.
    ///
    /// # Errors
    /// If a file cannot be read, or a text is no key.
    pub(crate) fn read(tls: &TlsArgs, credential: &KeyArgs) -> anyhow::Result<Self> {
        let tls = tls.read().map_err(|error| anyhow!(error))?;
        Ok(Self { tls, credential: credential.read().map_err(|error| anyhow!(error))? })
    }
}

/// A server, wherever it runs, until this value is dropped.
pub(crate) struct Target {
    channels: Vec<Client>,
    _host: Host,
}

/// What keeps a server in this process alive.
enum Host {
    Remote,
    Server { _server: Box<Server> },
    Echo { _server: EchoServer },
}

impl Target {
    /// The server at `place`. For one inside this process, `adjust` changes its settings first.
    pub(crate) async fn tidemill(place: &Place, adjust: impl FnOnce(&mut Config)) -> anyhow::Result<Self> {
        if let Some(address) = &place.addr {
            let means = Means::read(&place.tls, &place.credential)?;
            let channels = connect_with(address, place.connections.into(), &means).await?;
            return Ok(Self { channels, _host: Host::Remote });
        }
        let mut config = Config::default();
        config.server.grpc_addr = (Ipv4Addr::LOCALHOST, 0).into();
        config.server.http_addr = (Ipv4Addr::LOCALHOST, 0).into();
        config.server.admin_addr = (Ipv4Addr::LOCALHOST, 0).into();
        adjust(&mut config);
        let encryption = place.encryption();
        if let Some(encryption) = &encryption {
            encryption.configure(&mut config);
        }
        let server = Server::start(config).await?;
        let channels = connect_as(server.grpc_addr(), place.connections, encryption.as_ref()).await?;
        Ok(Self { channels, _host: Host::Server { _server: Box::new(server) } })
    }

    /// The bare echo, always inside this process.
    pub(crate) async fn echo(connections: u16, reply: Reply, encryption: Option<&Encryption>) -> anyhow::Result<Self> {
        let server = EchoServer::start(reply, encryption).await?;
        let channels = connect_as(server.address, connections, encryption).await?;
        Ok(Self { channels, _host: Host::Echo { _server: server } })
    }

    /// The connection of stream number `stream`.
    pub(crate) fn channel(&self, stream: usize) -> Client {
        self.channels[stream % self.channels.len()].clone()
    }

    /// Items per second with each of `streams` streams keeping `window` items in flight.
    pub(crate) async fn closed_loop(
        &self,
        workload: &Workload,
        streams: usize,
        window: u32,
        duration: Duration,
    ) -> anyhow::Result<f64> {
        let opening = (0..streams).map(|stream| Feed::open(self.channel(stream), workload, window, None));
        let feeds = try_join_all(opening).await?;
        let valves: Vec<_> = feeds.iter().map(|feed| feed.valve().clone()).collect();
        let answered = || valves.iter().map(|valve| valve.answered()).sum::<u64>();
        let tasks: Vec<_> = feeds.into_iter().map(|feed| tokio::spawn(keep_full(feed, window))).collect();
        // The first batches of a heavy model do not come from a full queue.
        tokio::time::sleep(WARM_UP_MIN.max(duration / 4)).await;
        let (start, before) = (clock::now(), answered());
        tokio::time::sleep(duration).await;
        let (end, after) = (clock::now(), answered());
        for valve in &valves {
            valve.close();
        }
        for ended in try_join_all(tasks).await? {
            ended?;
        }
        Ok((after - before) as f64 / end.since(start).as_secs_f64())
    }
}

/// Sends an item for each one that is answered, until the valve is closed and all are answered.
async fn keep_full(mut feed: Feed, window: u32) -> anyhow::Result<()> {
    feed.valve().let_through(window.into());
    while feed.answer().await?.is_some() {
        feed.valve().let_through(1);
    }
    Ok(())
}

/// Opens connections that do not hold the server back.
pub(crate) async fn connect(address: SocketAddr, connections: usize) -> anyhow::Result<Vec<Client>> {
    connect_with(&Address::try_from(address)?, connections, &Means::default()).await
}

/// The same to a server that is perhaps encrypted.
async fn connect_as(address: SocketAddr, connections: u16, encryption: Option<&Encryption>) -> anyhow::Result<Vec<Client>> {
    let means = Means { tls: encryption.map(Encryption::tls).transpose()?, ..Means::default() };
    connect_with(&Address::try_from(address)?, connections.into(), &means).await
}

/// The same by other means.
pub(crate) async fn connect_with(address: &Address, connections: usize, means: &Means) -> anyhow::Result<Vec<Client>> {
    let config = GrpcConfig::default();
    let Means { tls, credential } = means.clone();
    let settings = Settings {
        keepalive: None,
        stream_window_bytes: config.stream_window_bytes,
        connection_window_bytes: config.connection_window_bytes,
        message_bytes_max: ANSWER_BYTES_MAX,
        tls,
        credential,
        ..Settings::default()
    };
    let connecting = (0..connections).map(|_| Client::connect_with(address, &settings));
    Ok(try_join_all(connecting).await?)
}
