//! Clients that leave whenever they like: nothing of theirs remains, and those that stay do not notice.

use futures::future::join_all;
use tonic::transport::Channel;

use tidemill::proto::v1::{
    StreamConfig, feed_request::Message, feed_response::Event, inference_service_client::InferenceServiceClient,
};

use crate::serving::{Account, COUNTER, Feed, bare_config, connect, item, metric, outcome, patiently, serve, tensors_of, until};

/// Numbers that look random but are the same in each run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// Opens a feed, sends a few items, reads a few results, and leaves in one of several ways.
async fn visit(mut client: InferenceServiceClient<Channel>, seed: u64) {
    let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let config = StreamConfig { window_items: 1 + dice.below(6) as u32, ..tensors_of("counter") };
    if dice.below(10) == 0 {
        // Leaves before the server has answered.
        drop(Feed::call(&mut client).await);
        return;
    }
    let mut feed = Feed::call(&mut client).await;
    feed.send(Message::Open(config)).await;
    let items = dice.below(12);
    for _ in 0..items {
        feed.send(Message::Item(item("", &[1_000.0]))).await;
    }
    // `opened`, and as many results as there are items: no more would ever come.
    for _ in 0..dice.below(items + 2) {
        assert!(matches!(feed.next().await, Ok(Some(Event::Opened(_) | Event::Result(_)))), "the stream is open");
    }
    if dice.below(3) == 0 {
        feed.finish_sending();
    }
}

/// Sends ones and checks each result against the sum of what this stream alone has sent.
async fn stay(mut client: InferenceServiceClient<Channel>, items: usize) {
    let (mut feed, _) = Feed::open(&mut client, tensors_of("counter")).await;
    for index in 0..items {
        feed.send(Message::Item(item("", &[1.0]))).await;
        let result = feed.next_result().await;
        assert_eq!((result.seq, outcome(&result)), (index as u64, Ok(vec![index as f32 + 2.0])));
    }
    feed.finish_sending();
    assert_eq!(feed.rest().await.completed.expect("it completed").ok, items as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_that_leave_at_any_moment_leave_nothing_behind() {
    const ROUNDS: u64 = 40;
    const VISITORS: u64 = 50;
    let server = serve(bare_config(), &[("counter", COUNTER)]).await;
    let account = Account::of(&server, "counter");
    let residents = connect(&server).await;
    let staying: Vec<_> = (0..16).map(|_| tokio::spawn(stay(residents.clone(), 200))).collect();
    for round in 0..ROUNDS {
        let shared = connect(&server).await;
        let visits = (0..VISITORS).map(|visitor| tokio::spawn(visit(shared.clone(), round * VISITORS + visitor)));
        let visits: Vec<_> = visits.collect();
        if round % 4 == 0 {
            // The whole connection closes, with everything open on it, as soon as anything is.
            until("somebody is served", || account.ledger().received() > 0).await;
            visits.iter().for_each(tokio::task::JoinHandle::abort);
            drop(shared);
        }
        for visit in join_all(visits).await {
            assert!(visit.is_ok() || visit.is_err_and(|error| error.is_cancelled()), "a visitor panicked");
        }
    }
    for staying in staying {
        patiently(staying).await.expect("its results are its own");
    }
    let ledger = account.settled().await;
    assert_eq!(ledger.received(), ledger.ended());
    drop(residents);
    until("all gauges are zero", || {
        let text = server.metrics();
        ["tidemill_streams_open", "tidemill_streams_stalled", "tidemill_items_queued", "tidemill_items_in_flight"]
            .iter()
            .all(|name| metric(&text, name, "") == 0.0)
            && metric(&text, "tidemill_connections_open", "") == 0.0
    })
    .await;
    let text = server.metrics();
    let (opened, ended) = (metric(&text, "tidemill_streams_opened_total", ""), metric(&text, "tidemill_streams_ended_total", ""));
    assert_eq!(opened, ended, "each stream that opened has ended in one way");
    stay(connect(&server).await, 20).await;
}
