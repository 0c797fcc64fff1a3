//! A server inside this process, with models made for one scenario, and the account that must balance at the end.

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use anyhow::{Context as _, anyhow, bail};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tidemill::{
    app::Server, config::Config, device::QueueStatus, domain::Outcome, engine::synthetic::SyntheticControl, registry::Model,
};
use tidemill_client::wire::v1::inference_service_client::InferenceServiceClient;
use tonic::body::Body;

use crate::{cut::CutConnection, target::connect};

/// How long a server may take to come to rest once nothing is sent.
const PATIENCE: Duration = Duration::from_secs(30);

/// Gauges that are zero when there are no clients.
const GAUGES: [&str; 4] =
    ["tidemill_items_queued", "tidemill_items_in_flight", "tidemill_streams_open", "tidemill_streams_stalled"];

/// A model that waits instead of computing, unless `computes` is set, so that lanes do not take the cores from clients and server.
#[derive(Debug, Clone)]
pub(crate) struct Blocker {
    pub(crate) name: &'static str,
    /// FP32 values of an item; `None` for any number.
    pub(crate) values: Option<usize>,
    pub(crate) stateful: bool,
    pub(crate) max_batch: usize,
    pub(crate) per_call: Duration,
    pub(crate) per_item: Duration,
    pub(crate) per_element_ns: u64,
    pub(crate) wide_speedup: Option<f64>,
    pub(crate) computes: bool,
}

impl Default for Blocker {
    fn default() -> Self {
        Self {
            name: "blocker",
            values: Some(4),
            stateful: false,
            max_batch: 8,
            per_call: Duration::from_millis(4),
            per_item: Duration::from_micros(500),
            per_element_ns: 0,
            wide_speedup: None,
            computes: false,
        }
    }
}

impl Blocker {
    /// The time of a call with `items` items, not counting the cost of elements.
    pub(crate) fn call(&self, items: usize) -> Duration {
        self.per_call + self.per_item * u32::try_from(items).unwrap_or(u32::MAX)
    }

    fn manifest(&self) -> String {
        let tensor = |kind: &str, name: &str, values: i64| {
            format!("[[{kind}]]\nname = '{name}'\ndatatype = 'FP32'\ndims = ['batch', {values}]\n")
        };
        let values = self.values.map_or(-1, |values| values as i64);
        let mut tensors = tensor("inputs", "x", values) + &tensor("outputs", "y", values);
        if self.stateful {
            tensors += &(tensor("inputs", "sum", 1) + &tensor("outputs", "next", 1));
            tensors += "[[states]]\ninput = 'sum'\noutput = 'next'\n";
        }
        let speedup = self.wide_speedup.map(|speedup| format!("wide_speedup = {speedup:.3}\n")).unwrap_or_default();
        format!(
            "engine = 'synthetic'\nmax_batch = {}\n{tensors}[synthetic]\nkind = 'identity'\ncost_mode = '{}'\n\
             cost_per_call_us = {}\ncost_per_item_us = {}\ncost_per_element_ns = {}\n{speedup}",
            self.max_batch,
            if self.computes { "busy" } else { "blocked" },
            self.per_call.as_micros(),
            self.per_item.as_micros(),
            self.per_element_ns,
        )
    }
}

/// A client that sends `grpc-timeout` and does not act on it.
pub(crate) type PatientClient = InferenceServiceClient<Client<HttpConnector, Body>>;

/// The server.
pub(crate) struct Stage {
    server: Server,
    _models: tempfile::TempDir,
}

impl Stage {
    /// Starts a server with `lanes` lanes and these models; `adjust` changes its settings first.
    pub(crate) async fn start(lanes: usize, models: &[Blocker], adjust: impl FnOnce(&mut Config)) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        for model in models {
            let path = folder.path().join(model.name);
            std::fs::create_dir(&path).with_context(|| format!("cannot make the folder {}", path.display()))?;
            std::fs::write(path.join("model.toml"), model.manifest())?;
        }
        let mut config = Config::default();
        config.server.grpc_addr = (Ipv4Addr::LOCALHOST, 0).into();
        config.server.http_addr = (Ipv4Addr::LOCALHOST, 0).into();
        config.server.admin_addr = (Ipv4Addr::LOCALHOST, 0).into();
        config.scheduler.lanes = lanes;
        config.models.embedded = false;
        config.models.example = false;
        config.models.dir = Some(folder.path().to_owned());
        adjust(&mut config);
        Ok(Self { server: Server::start(config).await?, _models: folder })
    }

    pub(crate) async fn connect(&self, connections: u16) -> anyhow::Result<Vec<tidemill_client::Client>> {
        connect(self.server.grpc_addr(), connections.into()).await
    }

    #[cfg(test)]
    pub(crate) const fn grpc_addr(&self) -> std::net::SocketAddr {
        self.server.grpc_addr()
    }

    #[cfg(test)]
    pub(crate) const fn http_addr(&self) -> std::net::SocketAddr {
        self.server.http_addr()
    }

    /// A connection that can be cut.
    pub(crate) async fn connect_to_cut(&self) -> anyhow::Result<CutConnection> {
        CutConnection::open(self.server.grpc_addr()).await
    }

    /// A client that leaves deadlines to the server. The usual one ends a call on its own when its `grpc-timeout` has passed.
    pub(crate) fn patient_client(&self) -> anyhow::Result<PatientClient> {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new()).http2_only(true).build(connector);
        Ok(InferenceServiceClient::with_origin(client, format!("http://{}", self.server.grpc_addr()).parse()?))
    }

    pub(crate) fn model(&self, name: &str) -> anyhow::Result<Arc<Model>> {
        self.server.registry().get(name, None).map_err(|fault| anyhow!("{fault}"))
    }

    /// The control of one of this stage's models.
    pub(crate) fn control(&self, name: &str) -> anyhow::Result<Arc<SyntheticControl>> {
        let model = self.model(name)?;
        SyntheticControl::of(model.signature()).with_context(|| format!("model '{name}' is not synthetic"))
    }

    /// A model's queue.
    pub(crate) fn status(&self, name: &str) -> anyhow::Result<QueueStatus> {
        let key = self.model(name)?.key;
        self.server.devices().status(key).with_context(|| format!("model '{name}' has no queue"))
    }

    /// The metrics as a scrape gives them.
    pub(crate) fn metrics(&self) -> String {
        self.server.metrics()
    }

    /// Waits until no client is left, and checks the account.
    ///
    /// # Errors
    /// If streams or items are left over, a gauge is not zero, or the ledger does not balance: then the figures are worthless.
    pub(crate) async fn finish(self) -> anyhow::Result<()> {
        self.rest().await?;
        self.server.drain().await;
        Ok(())
    }

    /// The same, with the server left running.
    ///
    /// # Errors
    /// As for [`Stage::finish`].
    pub(crate) async fn rest(&self) -> anyhow::Result<()> {
        let resting = tokio::time::timeout(PATIENCE, async {
            while self.unrest()?.is_some() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            anyhow::Ok(())
        });
        match resting.await {
            Ok(rested) => rested,
            Err(_) => bail!("the server does not come to rest: {}", self.unrest()?.unwrap_or_default()),
        }
    }

    /// In words, anything that is left.
    fn unrest(&self) -> anyhow::Result<Option<String>> {
        let streams = self.server.devices().streams();
        if streams > 0 {
            return Ok(Some(format!("{streams} streams are open")));
        }
        for model in self.server.registry().list() {
            let ledger = self.status(&model.name)?.ledger;
            let ended: u64 = Outcome::ALL.iter().map(|outcome| ledger.outcome(*outcome)).sum();
            if ledger.received() != ended {
                return Ok(Some(format!("of model {}, {} items came and {ended} ended", model.name, ledger.received())));
            }
        }
        let metrics = self.metrics();
        let left = GAUGES.into_iter().map(|gauge| (gauge, sum_of(&metrics, gauge))).find(|(_, sum)| *sum != 0.0);
        Ok(left.map(|(gauge, sum)| format!("{gauge} is {sum}")))
    }
}

/// The labels and values of all series of a metric.
pub(crate) fn series<'a>(metrics: &'a str, name: &'a str) -> impl Iterator<Item = (&'a str, f64)> + 'a {
    metrics.lines().filter_map(move |line| {
        let (labels, value) = line.strip_prefix(name)?.rsplit_once(' ')?;
        (labels.is_empty() || labels.starts_with('{')).then_some((labels, value.parse().ok()?))
    })
}

/// The sum over all series of a metric.
pub(crate) fn sum_of(metrics: &str, name: &str) -> f64 {
    series(metrics, name).map(|(_, value)| value).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_of_a_name_are_not_those_of_a_longer_one() {
        let text = "# HELP a b\na{x=\"1\"} 2\na{x=\"2\"} 3\na_sum{x=\"1\"} 10\nab 7\n";
        assert_eq!(series(text, "a").collect::<Vec<_>>(), [("{x=\"1\"}", 2.0), ("{x=\"2\"}", 3.0)]);
        assert!((sum_of(text, "a") - 5.0).abs() < 1e-12);
        assert!(sum_of(text, "b").abs() < 1e-12);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_stage_that_nobody_used_is_at_rest() {
        let model = Blocker { max_batch: 1, per_call: Duration::ZERO, stateful: true, ..Blocker::default() };
        let stage = Stage::start(1, std::slice::from_ref(&model), |_| {}).await.expect("it starts");
        assert!(stage.control(model.name).expect("it is synthetic").calls() > 0, "it was measured");
        stage.finish().await.expect("at rest");
    }
}
