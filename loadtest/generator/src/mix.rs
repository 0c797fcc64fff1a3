//! Well-behaved clients, using every mode of the server at once: everything each of them sends is answered, or it complains.
//!
//! A client talks, pauses for a random time and talks again, so the load is moderate and follows the server's pace: the purpose is to find
//! what is wrong or left behind, not what is slow. Knows the model inside the server's binary, and nothing about the inside of the server.

mod native;
mod open_inference;

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use anyhow::Context as _;
use bytes::Bytes;
use tidemill::{clock, domain::Timestamp};
use tidemill_client::Client;
use tokio::{task::JoinSet, time::sleep};

use crate::{patience::within, target::connect, workload::Workload};

/// Connections that the clients of gRPC share.
const CONNECTIONS: usize = 4;
/// Longest wait for a conversation to end, on a machine that has other work to do.
const PATIENCE: Duration = Duration::from_secs(120);
/// How many different complaints are kept for one mode.
const COMPLAINTS_MAX: usize = 8;

/// A way to use the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Mode {
    FeedTensors,
    FeedPcm,
    Predict,
    Scan,
    Upload,
    Infer,
    InferStream,
    InferSequence,
    HttpInfer,
}

/// Each mode with its clients and the mean pause of each, so that none makes up more than about a fifth of the work.
const MIX: [(Mode, u32, Duration); 9] = [
    (Mode::FeedTensors, 4, Duration::from_millis(400)),
    (Mode::FeedPcm, 4, Duration::from_millis(400)),
    (Mode::Predict, 2, Duration::from_millis(100)),
    (Mode::Scan, 1, Duration::from_millis(1_000)),
    (Mode::Upload, 1, Duration::from_millis(1_000)),
    (Mode::Infer, 2, Duration::from_millis(200)),
    (Mode::InferStream, 1, Duration::from_millis(500)),
    (Mode::InferSequence, 2, Duration::from_millis(500)),
    (Mode::HttpInfer, 2, Duration::from_millis(400)),
];

impl Mode {
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::FeedTensors => "feed of tensors",
            Self::FeedPcm => "feed of audio",
            Self::Predict => "predict",
            Self::Scan => "scan",
            Self::Upload => "upload",
            Self::Infer => "infer",
            Self::InferStream => "infer stream",
            Self::InferSequence => "infer sequences",
            Self::HttpInfer => "http infer",
        }
    }
}

/// The results of one mode's clients.
#[derive(Debug, Clone, Default)]
pub(crate) struct Heard {
    pub(crate) conversations: u64,
    /// Items answered with outputs.
    pub(crate) items: u64,
    /// Conversations that went wrong.
    pub(crate) failed: u64,
    /// Why: the first few different reasons.
    pub(crate) complaints: Vec<String>,
}

impl Heard {
    fn note(&mut self, ended: anyhow::Result<u64>) {
        self.conversations += 1;
        match ended {
            Ok(items) => self.items += items,
            Err(error) => {
                self.failed += 1;
                let complaint = format!("{error:#}");
                if self.complaints.len() < COMPLAINTS_MAX && !self.complaints.contains(&complaint) {
                    self.complaints.push(complaint);
                }
            }
        }
    }

    fn add(&mut self, other: Self) {
        self.conversations += other.conversations;
        self.items += other.items;
        self.failed += other.failed;
        self.complaints.extend(other.complaints);
        self.complaints.truncate(COMPLAINTS_MAX);
    }
}

/// Where clients connect, and what they send.
#[derive(Debug, Clone)]
struct Site {
    client: Client,
    http: SocketAddr,
    workload: Workload,
    /// A second of it.
    audio: Bytes,
}

/// Runs all clients for as long as wanted, `pace` times as often as usual.
///
/// # Errors
/// If nothing listens. What goes wrong later is noted by the clients.
pub(crate) async fn run(
    grpc: SocketAddr,
    http: SocketAddr,
    duration: Duration,
    pace: f64,
    seed: u64,
) -> anyhow::Result<BTreeMap<Mode, Heard>> {
    let channels = connect(grpc, CONNECTIONS).await?;
    let mut random = fastrand::Rng::with_seed(seed);
    let audio: Vec<u8> = std::iter::repeat_with(|| random.i16(-2_000..2_000).to_le_bytes()).take(16_000).flatten().collect();
    let audio = Bytes::from(audio);
    let end = clock::now() + duration;
    let mut clients = JoinSet::new();
    for (mode, count, pause) in MIX {
        for _ in 0..count {
            let channel = channels[clients.len() % channels.len()].clone();
            let site = Site { client: channel, http, workload: Workload::silero(), audio: audio.clone() };
            let (pause, own) = (pause.div_f64(pace), fastrand::Rng::with_seed(random.u64(..)));
            clients.spawn(async move { (mode, client(site, mode, pause, own, end).await) });
        }
    }
    let mut heard: BTreeMap<Mode, Heard> = BTreeMap::new();
    while let Some(client) = clients.join_next().await {
        let (mode, own) = client?;
        heard.entry(mode).or_default().add(own);
    }
    Ok(heard)
}

async fn client(site: Site, mode: Mode, pause: Duration, mut random: fastrand::Rng, end: Timestamp) -> Heard {
    let mut heard = Heard::default();
    loop {
        sleep(pause.mul_f64(2.0 * random.f64())).await;
        if clock::now() >= end {
            return heard;
        }
        let talk = Box::pin(talk(&site, mode, &mut random));
        let ended = within(PATIENCE, talk).await.context("a conversation does not end").and_then(|ended| ended);
        heard.note(ended);
    }
}

/// One conversation; returns the number of items that were answered with outputs.
async fn talk(site: &Site, mode: Mode, random: &mut fastrand::Rng) -> anyhow::Result<u64> {
    match mode {
        Mode::FeedTensors => native::feed_tensors(site, random).await,
        Mode::FeedPcm => native::feed_pcm(site, random).await,
        Mode::Predict => native::predict(site, random).await,
        Mode::Scan => native::scan(site).await,
        Mode::Upload => native::upload(site, random).await,
        Mode::Infer => open_inference::infer(site, random).await,
        Mode::InferStream => open_inference::infer_stream(site, None).await,
        Mode::InferSequence => open_inference::infer_stream(site, Some(random.i64(1..))).await,
        Mode::HttpInfer => open_inference::http_infer(site, random).await,
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn complaints_are_counted_and_each_is_kept_once() {
        let mut heard = Heard::default();
        for number in 0..20 {
            heard.note(Err(anyhow!("complaint {}", number % 2)));
        }
        heard.note(Ok(7));
        assert_eq!((heard.conversations, heard.failed, heard.items), (21, 20, 7));
        assert_eq!(heard.complaints, ["complaint 0", "complaint 1"]);
    }
}
