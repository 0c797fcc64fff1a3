//! Calls that are long compared to others, on their own lanes.

use tidemill::{app::Server, proto::v1::feed_request::Message};

use crate::serving::{Feed, bare_config, connect, item, metric, outcome, serve, slow_doubler, tensors_of};

/// A server with one lane, a model whose calls take 1 ms, and one whose calls take 300 ms.
async fn server(long_lanes: bool) -> Server {
    let mut config = bare_config();
    config.scheduler.lanes = 1;
    config.scheduler.long_lanes = long_lanes;
    serve(config, &[("short", &slow_doubler(1_000)), ("long", &slow_doubler(300_000))]).await
}

/// Asks for a short call, a long one, and short ones until the long one is answered; returns how many of those were answered first.
async fn round(server: &Server) -> usize {
    let mut client = connect(server).await;
    let mut short = Feed::open(&mut client, tensors_of("short")).await.0;
    let mut long = Feed::open(&mut client, tensors_of("long")).await.0;
    let ask = || Message::Item(item("", &[1.0; 4]));
    short.send(ask()).await;
    assert_eq!(outcome(&short.next_result().await), Ok(vec![2.0; 4]));
    long.send(ask()).await;
    let mut passed = 0;
    loop {
        short.send(ask()).await;
        tokio::select! {
            biased;
            result = long.next_result() => {
                assert_eq!(outcome(&result), Ok(vec![2.0; 4]));
                return passed;
            }
            result = short.next_result() => assert_eq!(outcome(&result), Ok(vec![2.0; 4])),
        }
        passed += 1;
    }
}

/// On a busy machine, a long item may come when the last short one has been forgotten.
const ROUNDS: usize = 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn short_items_pass_a_long_call_even_with_one_lane() {
    let server = server(true).await;
    let on_long_lane = || metric(&server.metrics(), "tidemill_lane_busy_seconds_count", "lane=\"long-0\"");
    for _ in 0..ROUNDS {
        let passed = round(&server).await;
        if passed > 10 && on_long_lane() > 0.0 {
            return;
        }
    }
    panic!("{} long calls had the long lane", on_long_lane());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_long_lanes_short_items_wait_for_the_lane() {
    let server = server(false).await;
    // One may have arrived before the long one.
    assert!(round(&server).await <= 1);
    assert!(!server.metrics().contains("lane=\"long-0\""));
}
