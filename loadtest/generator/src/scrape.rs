//! Reads another process's metrics from its admin port, and checks that its account balances.

use std::net::SocketAddr;

use anyhow::{Context as _, bail};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::stage::{series, sum_of};

/// Gauges that are zero when there are no clients.
const GAUGES: [&str; 6] = [
    "tidemill_items_queued",
    "tidemill_items_in_flight",
    "tidemill_streams_open",
    "tidemill_streams_stalled",
    "tidemill_streams_unread",
    "tidemill_connections_open",
];

/// One look at `/metrics`.
#[derive(Debug)]
pub(crate) struct Scrape(String);

impl Scrape {
    pub(crate) async fn of(admin: SocketAddr) -> anyhow::Result<Self> {
        let mut stream = TcpStream::connect(admin).await.with_context(|| format!("cannot connect to {admin}"))?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        if !answer.starts_with("HTTP/1.1 200 ") {
            bail!("{admin} does not give its metrics: {}", answer.lines().next().unwrap_or_default());
        }
        Ok(Self(answer))
    }

    /// The sum over all series of a metric.
    pub(crate) fn sum(&self, name: &str) -> f64 {
        sum_of(&self.0, name)
    }

    /// The same over the series that have this label, such as `outcome="ok"`.
    pub(crate) fn sum_where(&self, name: &str, label: &str) -> f64 {
        series(&self.0, name).filter(|(labels, _)| labels.contains(label)).map(|(_, value)| value).sum()
    }

    /// Items that came and have not ended; negative if some ended twice.
    pub(crate) fn items_open(&self) -> f64 {
        self.sum("tidemill_items_received_total") - self.sum("tidemill_items_ended_total")
    }

    /// In words, anything that is left although no client is.
    pub(crate) fn unrest(&self) -> Vec<String> {
        let gauges = GAUGES.into_iter().map(|gauge| (gauge, self.sum(gauge)));
        let open = ("items received but not ended", self.items_open());
        gauges.chain([open]).filter(|(_, left)| *left != 0.0).map(|(what, left)| format!("{what}: {left}")).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_named_and_what_balances_is_not() {
        let text = "tidemill_items_received_total{model=\"a\"} 5\ntidemill_items_ended_total{model=\"a\",outcome=\"ok\"} 3\n\
                    tidemill_items_ended_total{model=\"a\",outcome=\"cancelled\"} 2\ntidemill_streams_open{method=\"feed\"} 1\n";
        let scrape = Scrape(text.to_owned());
        assert_eq!(scrape.unrest(), ["tidemill_streams_open: 1"]);
        assert!((scrape.sum_where("tidemill_items_ended_total", "outcome=\"ok\"") - 3.0).abs() < 1e-12);
    }
}
