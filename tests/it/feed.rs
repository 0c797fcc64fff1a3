//! Feeds: how they open, how they end, and what a client can make the server keep.

use futures::future::join_all;
use tonic::Code;

use tidemill::{
    domain::Outcome,
    proto::v1::{Flush, ItemResult, KeepAlive, ResultOrder, StreamConfig, feed_request::Message, feed_response::Event},
};

use crate::serving::{
    Account, DOUBLER, Feed, bare_config, connect, connect_with, fields, item, metric, outcome, patiently, pcm_of, serve,
    slow_doubler, speech_config, tensors_of, until,
};

#[tokio::test]
async fn headers_come_before_the_first_message_is_sent() {
    let server = serve(bare_config(), &[("m", DOUBLER)]).await;
    let mut client = connect(&server).await;
    // If headers came only with the first response, the two sides would wait for each other for ever.
    let mut feed = patiently(Feed::call(&mut client)).await;
    feed.send(Message::Open(tensors_of("m"))).await;
    assert!(matches!(feed.next().await, Ok(Some(Event::Opened(_)))));
}

#[tokio::test]
async fn opened_names_the_model_and_the_limits_of_the_configuration() {
    let mut config = speech_config();
    config.session.window_items = 7;
    config.session.window_items_max = 9;
    config.session.window_bytes = 70_000;
    config.session.max_item_bytes = 5_000;
    config.session.idle_timeout_s = 11;
    config.grpc.max_message_bytes = 100_000;
    let server = serve(config, &[]).await;
    let mut client = connect(&server).await;
    for (wanted, granted) in [(0, 7), (1, 1), (9, 9), (10, 9), (u32::MAX, 9)] {
        let (_feed, opened) = Feed::open(&mut client, StreamConfig { window_items: wanted, ..pcm_of("silero-vad") }).await;
        assert_eq!((opened.model.as_str(), opened.version.as_str()), ("silero-vad", "6"));
        let limits = opened.limits.expect("limits");
        assert_eq!(limits.window_items, granted, "{wanted} wanted");
        assert_eq!((limits.window_bytes, limits.max_item_bytes, limits.max_message_bytes), (70_000, 5_000, 100_000));
        assert_eq!(limits.idle_timeout.expect("a timeout").seconds, 11);
        let framing = opened.framing.expect("framing");
        assert_eq!((framing.sample_rate_hz, framing.window_samples, framing.context_samples), (16_000, 512, 64));
    }
}

#[tokio::test]
async fn a_second_open_ends_the_stream_and_what_came_before_it_is_counted() {
    let server = serve(bare_config(), &[("m", DOUBLER)]).await;
    let account = Account::of(&server, "m");
    let mut client = connect(&server).await;
    let (mut feed, _) = Feed::open(&mut client, tensors_of("m")).await;
    feed.send(Message::Item(item("a", &[1.0; 4]))).await;
    assert_eq!(outcome(&feed.next_result().await), Ok(vec![2.0; 4]));
    feed.send(Message::Open(tensors_of("m"))).await;
    let error = feed.rest().await.error.expect("the stream ends");
    assert_eq!((error.code(), fields(&error)), (Code::InvalidArgument, vec!["open".to_owned()]));
    assert_eq!(account.settled().await.outcome(Outcome::Ok), 1);
}

#[tokio::test]
async fn as_ready_gives_each_item_one_answer_and_echoes_its_id() {
    let server = serve(bare_config(), &[("m", DOUBLER)]).await;
    let mut client = connect(&server).await;
    let config = StreamConfig { order: ResultOrder::AsReady.into(), ..tensors_of("m") };
    let messages = (0..200_u16).map(|number| {
        let first = if number % 10 == 3 { -1.0 } else { f32::from(number) };
        Message::Item(item(&number.to_string(), &[first, 0.0, 0.0, 0.0]))
    });
    let mut said = Feed::run(&mut client, config, messages.collect()).await;
    let summary = said.completed.expect("it completed");
    assert_eq!((summary.items, summary.ok, summary.errors, summary.payload_bytes), (200, 180, 20, 200 * 16));
    said.results.sort_by_key(|result| result.seq);
    for (number, result) in said.results.iter().enumerate() {
        assert_eq!((result.seq, result.id.as_str()), (number as u64, number.to_string().as_str()));
        let expected = if number % 10 == 3 { Err(Code::Internal) } else { Ok(vec![number as f32 * 2.0, 0.0, 0.0, 0.0]) };
        assert_eq!(outcome(result), expected);
    }
    assert_eq!(said.results.len(), 200);
}

#[tokio::test]
async fn a_flush_is_answered_after_all_that_was_sent_before_it() {
    let server = serve(bare_config(), &[("m", DOUBLER)]).await;
    let mut client = connect(&server).await;
    let (mut feed, _) = Feed::open(&mut client, tensors_of("m")).await;
    for _ in 0..3 {
        feed.send(Message::Item(item("", &[0.5; 4]))).await;
    }
    feed.send(Message::Keepalive(KeepAlive {})).await;
    feed.send(Message::Flush(Flush { id: "now".to_owned() })).await;
    for _ in 0..3 {
        feed.next_result().await;
    }
    let Ok(Some(Event::Flushed(flushed))) = feed.next().await else { panic!("no `flushed`") };
    assert_eq!((flushed.id.as_str(), flushed.items), ("now", 3));
}

/// A row so long that a few results fill all buffers between server and client.
const LONG_ROW: usize = 16 * 1024;

fn long_rows(call_us: u64) -> String {
    slow_doubler(call_us).replace("'batch', 4", &format!("'batch', {LONG_ROW}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_never_reads_costs_no_more_than_its_window() {
    const WINDOW: u32 = 8;
    const ITEMS: usize = 1_000;
    /// Results that the transport holds: the client's HTTP/2 window, and two frames on their way to it.
    const ON_THE_WAY: u64 = 4;
    let server = serve(bare_config(), &[("m", &long_rows(0)), ("other", DOUBLER)]).await;
    let account = Account::of(&server, "m");
    let mut client =
        connect_with(&server, |endpoint| endpoint.initial_stream_window_size(65_535).initial_connection_window_size(1 << 20))
            .await;
    let (mut feed, _) = Feed::open(&mut client, StreamConfig { window_items: WINDOW, ..tensors_of("m") }).await;
    let (sender, sent) = (feed.sender(), item("", &vec![1.0; LONG_ROW]));
    feed.finish_sending();
    let sending = tokio::spawn(async move {
        for _ in 0..ITEMS {
            sender.send(crate::serving::message(Message::Item(sent.clone()))).await.expect("the stream is open");
        }
    });
    let bound = u64::from(WINDOW) + ON_THE_WAY;
    let within = |read: u64| {
        let received = account.ledger().received();
        assert!(received <= read + bound, "{received} items were taken in from a client that has read {read}");
    };
    until("the first items are taken in", || account.ledger().received() > 0).await;
    // Others are served all the while, so only the window holds this client back.
    let mut other = connect(&server).await;
    for _ in 0..5 {
        let messages = (0..200).map(|_| Message::Item(item("", &[1.0; 4]))).collect();
        assert_eq!(Feed::run(&mut other, tensors_of("other"), messages).await.results.len(), 200);
        within(0);
    }
    assert!(!sending.is_finished(), "the sender is held back");
    for read in 0..ITEMS as u64 {
        within(read);
        assert_eq!(feed.next_result().await.seq, read);
    }
    patiently(sending).await.expect("all is sent");
    assert_eq!(feed.rest().await.completed.expect("it completed").ok, ITEMS as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_window_stalls_the_stream_and_is_counted() {
    const WINDOW: u32 = 8;
    let server = serve(bare_config(), &[("slow", &slow_doubler(20_000))]).await;
    let account = Account::of(&server, "slow");
    let mut client = connect(&server).await;
    let (mut feed, _) = Feed::open(&mut client, StreamConfig { window_items: WINDOW, ..tensors_of("slow") }).await;
    let sender = feed.sender();
    feed.finish_sending();
    let sending = tokio::spawn(async move {
        for _ in 0..40 {
            sender.send(crate::serving::message(Message::Item(item("", &[1.0; 4])))).await.expect("the stream is open");
        }
    });
    for read in 0..40 {
        feed.next_result().await;
        let ledger = account.ledger();
        assert!(ledger.open() <= u64::from(WINDOW), "{ledger:?} after {read} results");
    }
    patiently(sending).await.expect("all is sent");
    assert!(feed.rest().await.completed.is_some());
    let metrics = server.metrics();
    assert!(metric(&metrics, "tidemill_stream_stalls_total", "feed") >= 1.0);
    assert_eq!(metric(&metrics, "tidemill_streams_stalled", "feed"), 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_window_in_bytes_holds_for_all_but_the_first_item() {
    let mut config = bare_config();
    // Less than one item, so that items go one at a time.
    config.session.window_bytes = 1_024;
    let server = serve(config, &[("m", &long_rows(0))]).await;
    let account = Account::of(&server, "m");
    let client = connect(&server).await;
    let feeds = (0..4).map(|_| {
        let mut client = client.clone();
        let messages = (0..20).map(|_| Message::Item(item("", &vec![1.0; LONG_ROW]))).collect();
        async move { Feed::run(&mut client, tensors_of("m"), messages).await }
    });
    let watched = async {
        until("all items are answered", || {
            let ledger = account.ledger();
            assert!(ledger.open() <= 4, "one item of each stream at a time: {ledger:?}");
            ledger.ended() == 80
        })
        .await;
    };
    let (said, ()) = tokio::join!(join_all(feeds), watched);
    for said in said {
        let batches: Vec<u32> = said.results.iter().filter_map(|result: &ItemResult| Some(result.timing?.batch_size)).collect();
        assert_eq!(batches, [1; 20]);
    }
}
