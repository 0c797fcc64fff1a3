//! Everything at once, for a long time: well-behaved clients in all modes alongside misbehaving ones, and whether they leave any trace.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context as _, bail, ensure};
use futures::future::try_join_all;
use tidemill::clock;
use tidemill_client::Client;
use tokio::time::sleep;
use tonic::Code;

use super::{beside_this_one, live_plan};
use crate::{
    feed::Feed,
    findings::{Findings, Wanted},
    load::chaos::{Chaos, ChaosPlan, ChaosResult, Place},
    mix::{self, Heard, Mode},
    patience::within,
    process::{Footprint, ServerProcess},
    report::Report,
    scrape::Scrape,
    stats::Rounds,
    target::connect,
    workload::Workload,
};

/// Streams that the server lets in.
const STREAMS_MAX: usize = 10_000;
/// Small, so that there can be many items beyond the limit, so that what the allocator keeps of them does not hide a leak, and so that
/// clients that never read are soon held up. Without kept proofs, trial calls start all threads that the model will use before any are
/// counted.
const SETTINGS: [&str; 3] = ["session.max_item_bytes=262144", "grpc.max_send_buffer_bytes=16384", "models.cache_dir="];
const GIANT_BYTES: usize = 384 * 1024;
/// How long the server may take to come to rest once nothing is sent. Its runtime lets go of threads that it does not need after 10 s.
const PATIENCE: Duration = Duration::from_secs(30);
/// Streams that are open when the server is asked to stop, and items that each has sent.
const STREAMS_AT_STOP: usize = 4;
const ITEMS_AT_STOP: u64 = 8;
/// How often memory is looked at.
const SAMPLE_EVERY: Duration = Duration::from_millis(500);
/// Growth that is allowed from the middle third to the last: a share, but never less than some bytes. The allocator keeps what a burst took
/// and reuses it, in pages of up to 4 MiB, so memory goes up and down by one or two of them; a leak only goes up. If thirds last only some
/// seconds, a single burst decides; if they are longer, the median is over many.
const GROWTH_SHARE: f64 = 0.02;
const GROWTH_MIB: f64 = 4.0;
const GROWTH_MIB_SHORT: f64 = 8.0;
/// Below this, a run is short.
const SHORT: Duration = Duration::from_secs(300);

/// Run all modes, churn and misbehaving clients for a long time, and fail if they leave anything in the server
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Seconds of load
    #[arg(long, default_value_t = 60.0, value_parser = soak_seconds)]
    seconds: f64,

    /// The server's binary; by default the `tidemill` next to this one
    #[arg(long, value_name = "PATH")]
    server: Option<PathBuf>,

    /// How often clients come, as a multiple of the usual
    #[arg(long, default_value_t = 1.0, value_parser = pace)]
    pace: f64,

    /// Seed for everything random
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn soak_seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|error| format!("{error}"))?;
    if (5.0..=604_800.0).contains(&seconds) { Ok(seconds) } else { Err("between 5 and 604800".to_owned()) }
}

fn pace(text: &str) -> Result<f64, String> {
    let pace: f64 = text.parse().map_err(|error| format!("{error}"))?;
    if (0.01..=100.0).contains(&pace) { Ok(pace) } else { Err("between 0.01 and 100".to_owned()) }
}

/// A little of everything.
fn chaos_plan(pace: f64) -> ChaosPlan {
    ChaosPlan {
        slow_readers: 4,
        slow_reader_ms: 200,
        never_readers: 4,
        resets_hz: 4.0 * pace,
        cuts_hz: pace,
        churn_hz: 4.0 * pace,
        giants_hz: 2.0 * pace,
        giant_bytes: GIANT_BYTES,
        garbage_hz: 4.0 * pace,
        idle_streams: 16,
    }
}

pub(crate) async fn run(args: Args) -> anyhow::Result<Report> {
    let binary = args.server.clone().map_or_else(beside_this_one, Ok)?;
    let server = ServerProcess::start(&binary, STREAMS_MAX, &SETTINGS).await?;
    let (grpc, http, workload) = (server.address, server.http_address, Workload::silero());
    let before = Footprint::of(server.pid)?;
    let place = Place { grpc, http: Some(http), model: workload.model.clone(), item: workload.item.clone() };
    let duration = Duration::from_secs_f64(args.seconds);

    let chaos = Chaos::start(&chaos_plan(args.pace), place, args.seed).await?;
    let watch = tokio::spawn(watch(server.pid, duration));
    let heard = mix::run(grpc, http, duration, args.pace, args.seed).await?;
    let chaos = chaos.finish().await?;
    let Watched { resident_mib, standstill_s } = watch.await??;

    let mut reasons = Vec::new();
    let mut findings = Findings::new();
    report_clients(&mut findings, &mut reasons, &heard, &chaos);
    report_memory(&mut findings, &resident_mib, duration);
    // The machine's own pauses, which explain a smaller load than usual.
    findings.add("machine", "longest_standstill_s", standstill_s, Wanted::Anything);
    let (scrape, after) = rest(&server, before).await?;
    reasons.extend(scrape.unrest());
    findings.add("account", "items_received", scrape.sum("tidemill_items_received_total"), Wanted::AtLeast(1.0));
    findings.add("account", "items_received_and_not_ended", scrape.items_open().abs(), Wanted::AtMost(0.0));
    let failed = scrape.sum_where("tidemill_items_ended_total", "outcome=\"failed\"");
    findings.add("account", "items_failed", failed, Wanted::AtMost(0.0));
    let calls =
        |part: &str| scrape.sum_where(&format!("tidemill_model_call_seconds_{part}"), &format!("model=\"{}\"", workload.model));
    findings.add("account", "model_call_mean_ms", 1e3 * calls("sum") / calls("count"), Wanted::Anything);
    findings.add("account", "streams_opened", scrape.sum("tidemill_streams_opened_total"), Wanted::AtLeast(1.0));
    findings.add("account", "connections", scrape.sum("tidemill_connections_total"), Wanted::AtLeast(1.0));
    findings.add("account", "things_left", scrape.unrest().len() as f64, Wanted::AtMost(0.0));
    findings.add("process", "descriptors_at_rest", after.descriptors as f64, Wanted::AtMost(before.descriptors as f64));
    findings.add("process", "threads_at_rest", after.threads as f64, Wanted::AtMost(before.threads as f64));

    let channels = connect(grpc, 1).await?;
    let Stopped { drain_s, code, complaints } = stop(server, &channels[0], &workload.model).await?;
    findings.add("stop", "drain_s", drain_s, Wanted::Anything);
    findings.add("stop", "exit_code", code.map_or(f64::NAN, f64::from), Wanted::AtMost(0.0));
    findings.add("log", "warnings_and_errors", complaints.count as f64, Wanted::AtMost(0.0));
    reasons.extend(complaints.first.into_iter().map(|line| format!("log: {line}")));
    Ok(findings.strict_report(reasons))
}

fn report_clients(findings: &mut Findings, reasons: &mut Vec<String>, heard: &BTreeMap<Mode, Heard>, chaos: &ChaosResult) {
    for (mode, heard) in heard {
        let label = mode.label();
        findings.add(label, "items_ok", heard.items as f64, Wanted::AtLeast(1.0));
        findings.add(label, "conversations_failed", heard.failed as f64, Wanted::AtMost(0.0));
        reasons.extend(heard.complaints.iter().map(|complaint| format!("{label}: {complaint}")));
    }
    for (kind, result) in &chaos.kinds {
        let arm = format!("chaos: {}", kind.label());
        findings.add(&arm, "done", result.done as f64, Wanted::Anything);
        findings.add(&arm, "refused", result.refused as f64, Wanted::Anything);
    }
    findings.add("chaos", "unexpected", chaos.unexpected() as f64, Wanted::AtMost(0.0));
    reasons.extend(chaos.surprises());
}

fn report_memory(findings: &mut Findings, resident_mib: &[f64], duration: Duration) {
    let [first, middle, last] = thirds(resident_mib);
    let steps = if duration < SHORT { GROWTH_MIB_SHORT } else { GROWTH_MIB };
    let most = middle + (middle * GROWTH_SHARE).max(steps);
    findings.add("memory", "resident_first_third_mib", first, Wanted::Anything);
    findings.add("memory", "resident_middle_third_mib", middle, Wanted::Anything);
    findings.add("memory", "resident_last_third_mib", last, Wanted::AtMost(most));
}

/// Medians of the three thirds. The first one is the warm-up: buffers reach their sizes, and clients that never read fill theirs.
fn thirds(samples: &[f64]) -> [f64; 3] {
    let third = samples.len() / 3;
    [0, 1, 2].map(|number| {
        let mut rounds = Rounds::default();
        samples[number * third..(number + 1) * third].iter().for_each(|sample| rounds.push(*sample));
        rounds.median()
    })
}

/// Observations of a process over time.
struct Watched {
    resident_mib: Vec<f64>,
    /// How much longer than intended a pause between two looks was: for that long, this process did not run either.
    standstill_s: f64,
}

async fn watch(pid: u32, duration: Duration) -> anyhow::Result<Watched> {
    let mut last = clock::now();
    let end = last + duration;
    let mut watched = Watched { resident_mib: Vec::new(), standstill_s: 0.0 };
    while last < end {
        sleep(SAMPLE_EVERY).await;
        let now = clock::now();
        watched.standstill_s = watched.standstill_s.max(now.since(last + SAMPLE_EVERY).as_secs_f64());
        watched.resident_mib.push(Footprint::of(pid)?.resident_bytes as f64 / f64::from(1 << 20));
        last = now;
    }
    Ok(watched)
}

/// Waits, at most [`PATIENCE`], until nothing of the clients is left, and returns the last look.
async fn rest(server: &ServerProcess, before: Footprint) -> anyhow::Result<(Scrape, Footprint)> {
    let deadline = clock::now() + PATIENCE;
    loop {
        let (scrape, now) = (Scrape::of(server.admin_address).await?, Footprint::of(server.pid)?);
        let at_rest = scrape.unrest().is_empty() && now.descriptors <= before.descriptors && now.threads <= before.threads;
        if at_rest || clock::now() >= deadline {
            return Ok((scrape, now));
        }
        sleep(SAMPLE_EVERY).await;
    }
}

/// How the server ended.
struct Stopped {
    drain_s: f64,
    code: Option<i32>,
    complaints: crate::process::Complaints,
}

/// Stops the server under streams with items in flight, which must learn that it is draining.
async fn stop(server: ServerProcess, channel: &Client, model: &str) -> anyhow::Result<Stopped> {
    let workload = Workload::silero();
    let opening = (0..STREAMS_AT_STOP).map(|_| Feed::start(channel.clone(), live_plan(model, workload.item.clone()), None));
    let mut feeds = try_join_all(opening).await?;
    for feed in &mut feeds {
        Arc::clone(feed.valve()).let_through(ITEMS_AT_STOP);
        ensure!(feed.result().await?.is_some(), "a stream ended before the server was stopped");
    }
    let begun = clock::now();
    server.terminate()?;
    for feed in feeds {
        within(PATIENCE, hear_of_drain(feed)).await.context("a stream outlives the server's drain")??;
    }
    let (code, complaints) = server.ended(PATIENCE).await?;
    Ok(Stopped { drain_s: clock::now().since(begun).as_secs_f64(), code, complaints })
}

async fn hear_of_drain(mut feed: Feed) -> anyhow::Result<()> {
    loop {
        match feed.result().await {
            Ok(Some(_)) => {}
            Ok(None) => bail!("a stream that nobody closed ended without a status when the server was stopped"),
            Err(status) if status.code() == Code::Unavailable => return Ok(()),
            Err(status) => bail!("a stream ended with {status} when the server was stopped"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leak_shows_between_the_thirds_and_a_step_at_the_start_does_not() {
        let unmet = |samples: &[f64]| {
            let mut findings = Findings::new();
            report_memory(&mut findings, samples, SHORT);
            findings.strict_report(Vec::new()).reasons.len()
        };
        let step: Vec<f64> = (0..90).map(|number| if number < 20 { 50.0 } else { 100.0 }).collect();
        let leak: Vec<f64> = (0..90).map(|number| 50.0 + f64::from(number)).collect();
        assert_eq!((unmet(&step), unmet(&leak)), (0, 1));
    }

    #[test]
    fn the_plan_has_no_fault_at_any_pace() {
        for pace in [0.01, 1.0, 100.0] {
            assert_eq!(chaos_plan(pace).faults(), Vec::<String>::new());
        }
    }
}
