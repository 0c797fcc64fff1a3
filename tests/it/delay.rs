//! Models whose manifest lets a free lane wait for a fuller batch.

use futures::future::join_all;

use tidemill::proto::v1::feed_request::Message;

use crate::serving::{DOUBLER, Feed, bare_config, connect, item, outcome, serve, tensors_of};

/// Something that is lost once in a while would be lost within this many rounds.
const ROUNDS: usize = 100;

/// A doubler whose calls gain from each additional item, up to four.
fn patient_doubler(delay_us: u32) -> String {
    format!("max_batch = 4\nmax_delay_us = {delay_us}\n{DOUBLER}cost_per_call_us = 1000\n")
}

/// Sends `items` items a round, each once the previous one has left, and waits for all of them. Returns the sizes of their batches.
async fn run_rounds(feed: &mut Feed, items: usize) -> Vec<u32> {
    let mut sizes = Vec::with_capacity(ROUNDS * items);
    for _ in 0..ROUNDS {
        for _ in 0..items {
            feed.send(Message::Item(item("", &[1.0; 4]))).await;
        }
        for _ in 0..items {
            let result = feed.next_result().await;
            assert_eq!(outcome(&result), Ok(vec![2.0; 4]));
            sizes.push(result.timing.expect("a timing").batch_size);
        }
    }
    sizes
}

/// Nothing else could wake a lane: each round is answered because a batch is full or because the delay is over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_round_is_answered_whether_it_fills_a_batch_or_waits_for_the_delay() {
    let (long, short) = (patient_doubler(1_000_000), patient_doubler(1_000));
    let server = serve(bare_config(), &[("long", &long), ("short", &short)]).await;
    let mut client = connect(&server).await;
    let (mut full, _) = Feed::open(&mut client, tensors_of("long")).await;
    let sizes = run_rounds(&mut full, 4).await;
    let whole = sizes.iter().filter(|size| **size == 4).count();
    assert!(whole > 0, "of {} items none was in a full batch, only in {sizes:?}", sizes.len());
    let mut feeds = Vec::new();
    for _ in 0..3 {
        feeds.push(Feed::open(&mut client, tensors_of("short")).await.0);
    }
    join_all(feeds.iter_mut().map(|feed| run_rounds(feed, 2))).await;
}
