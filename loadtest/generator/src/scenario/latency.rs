//! What the server adds to a lone item: its round trip, minus the model call and a bare echo round trip of the same messages.

use std::{sync::Arc, time::Duration};

use tidemill::clock;
use tidemill_client::wire::v1;

use crate::{
    engine::BareEngine,
    feed::Feed,
    limit::Reply,
    report::{Cell, Report},
    stats::{Durations, Rounds},
    subject::{EngineArgs, Subject},
    target::{Place, Target},
    workload::Workload,
};

/// Items before counting begins.
const WARM_UP: usize = 50;

/// Measure what the server adds to one item at a time of a speech model
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    place: Place,

    #[command(flatten)]
    engine: EngineArgs,

    /// Rounds of all arms in turn; medians are reported
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,

    /// Items in each arm of a round
    #[arg(long, default_value_t = 2_000)]
    items: usize,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<Report> {
    let workload = Workload::silero();
    let subject = Subject::silero(args.engine);
    let engine = BareEngine::load(&subject, 1)?;
    let encryption = args.place.encryption();
    let echo = Target::echo(1, Reply::Bytes(workload.output_bytes), encryption.as_ref()).await?;
    let least = Target::echo(1, Reply::Model(Arc::new(engine.clone())), encryption.as_ref()).await?;
    let server = Target::tidemill(&args.place, |config| subject.configure(config)).await?;
    let [mut engine_us, mut echo_us, mut least_us, mut feed_us, mut added_us, mut queue_us, mut call_us, mut after_us] =
        std::array::from_fn(|_| [Rounds::default(), Rounds::default()]);
    for _ in 0..args.rounds {
        let call = engine.single_calls(args.items).await?;
        let bare = one_at_a_time(&echo, &workload, args.items).await?;
        let handler = one_at_a_time(&least, &workload, args.items).await?;
        let feed = one_at_a_time(&server, &workload, args.items).await?;
        let floor_us = call.quantile_us(0.5) + bare.whole.quantile_us(0.5);
        for (index, quantile) in [0.5, 0.99].into_iter().enumerate() {
            engine_us[index].push(call.quantile_us(quantile));
            echo_us[index].push(bare.whole.quantile_us(quantile));
            least_us[index].push(handler.whole.quantile_us(quantile));
            feed_us[index].push(feed.whole.quantile_us(quantile));
            added_us[index].push(feed.whole.quantile_us(quantile) - floor_us);
            queue_us[index].push(feed.queue.quantile_us(quantile));
            call_us[index].push(feed.call.quantile_us(quantile));
            after_us[index].push(feed.after.quantile_us(quantile));
        }
    }
    let mut report = Report::new(&["arm", "p50_us", "p99_us"]);
    let figures = |[p50, p99]: &[Rounds; 2]| [Cell::Figure(p50.median(), 1), Cell::Figure(p99.median(), 1)];
    for (arm, rounds) in [
        ("engine, batch of 1, bare", &engine_us),
        ("echo of the same messages, bare", &echo_us),
        ("feed", &feed_us),
        ("feed above p50 of engine + echo", &added_us),
        ("bare handler that calls the engine", &least_us),
        ("of the feed, on the server, until the call", &queue_us),
        ("the call", &call_us),
        ("from the call to the connection", &after_us),
    ] {
        let [p50, p99] = figures(rounds);
        report.row(vec![arm.into(), p50, p99]);
    }
    Ok(report)
}

/// Round trips, and what the server reports about its part in them.
struct Trips {
    whole: Durations,
    queue: Durations,
    call: Durations,
    after: Durations,
}

async fn one_at_a_time(target: &Target, workload: &Workload, items: usize) -> anyhow::Result<Trips> {
    let mut feed = Feed::open(target.channel(0), workload, 1, None).await?;
    let [whole, queue, call, after] = [Durations::new()?, Durations::new()?, Durations::new()?, Durations::new()?];
    let mut trips = Trips { whole, queue, call, after };
    for item in 0..WARM_UP + items {
        let start = clock::now();
        feed.valve().let_through(1);
        let result = feed.checked_result().await?;
        if item < WARM_UP {
            continue;
        }
        trips.whole.record(clock::now().since(start));
        if let Some(v1::Timing { queue_ns, compute_ns, age_ns, .. }) = result.and_then(|result| result.timing) {
            trips.queue.record(Duration::from_nanos(queue_ns));
            trips.call.record(Duration::from_nanos(compute_ns));
            trips.after.record(Duration::from_nanos(age_ns.saturating_sub(queue_ns + compute_ns)));
        }
    }
    feed.valve().close();
    while feed.answer().await?.is_some() {}
    Ok(trips)
}
