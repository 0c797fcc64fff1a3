//! Clients that do not read: what their streams keep, what they lose, and that nobody else notices.

use std::time::Duration;

use futures::future::join_all;
use tokio::task::JoinHandle;
use tonic::{Code, transport::Endpoint};

use tidemill::{
    app::Server,
    domain::Outcome,
    proto::v1::{
        Flush, Item, ItemList, ScanRequest, StreamConfig, UnreadPolicy, UploadConfig, UploadRequest, feed_request::Message,
        feed_response::Event, scan_request::Payload, upload_request::Part,
    },
};

use crate::serving::{
    Account, Client, DOUBLER, Feed, bare_config, connect, connect_with, fields, item, message, metric, outcome, patiently, serve,
    slow_doubler, tensors_of, until,
};

/// The numbers in a row that fills the HTTP/2 window of these clients.
const LONG_ROW: usize = 16 * 1024;
const LONG_ROW_BYTES: f64 = 4.0 * LONG_ROW as f64;
const WINDOW: u32 = 8;

fn long_rows() -> String {
    slow_doubler(0).replace("'batch', 4", &format!("'batch', {LONG_ROW}"))
}

fn long_item(id: &str) -> Item {
    item(id, &vec![1.0; LONG_ROW])
}

fn config_of(unread: UnreadPolicy) -> StreamConfig {
    StreamConfig { window_items: WINDOW, unread: unread.into(), ..tensors_of("m") }
}

/// HTTP/2 windows as small as allowed, so that one result fills the stream's window.
fn small_windows(endpoint: Endpoint) -> Endpoint {
    endpoint.initial_stream_window_size(65_535).initial_connection_window_size(1 << 20)
}

async fn connect_narrow(server: &Server) -> Client {
    connect_with(server, small_windows).await
}

/// Sends items from a separate task, as a server that does not read holds the sender back, and then half-closes.
fn send_long_items(feed: &mut Feed, count: usize) -> JoinHandle<()> {
    let sender = feed.sender();
    feed.finish_sending();
    tokio::spawn(async move {
        let sent = long_item("");
        for _ in 0..count {
            if sender.send(message(Message::Item(sent.clone()))).await.is_err() {
                return;
            }
        }
    })
}

fn unread(server: &Server, method: &str) -> f64 {
    metric(&server.metrics(), "tidemill_streams_unread", method)
}

fn skipped(server: &Server) -> f64 {
    metric(&server.metrics(), "tidemill_results_skipped_total", "feed")
}

fn ended(server: &Server, reason: &str) -> f64 {
    metric(&server.metrics(), "tidemill_streams_ended_total", &format!("method=\"feed\",reason=\"{reason}\""))
}

/// Waits until nothing is left of the stream and it has ended for this reason.
async fn is_gone(server: &Server, account: &Account, reason: &str) {
    let ledger = account.settled().await;
    assert_eq!(ledger.received(), ledger.ended());
    until("the stream is counted", || ended(server, reason) == 1.0).await;
    for gauge in ["tidemill_streams_open", "tidemill_streams_stalled", "tidemill_streams_unread"] {
        until(gauge, || metric(&server.metrics(), gauge, "") == 0.0).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blocking_stream_waits_for_its_reader_and_loses_nothing() {
    const ITEMS: usize = 100;
    let server = serve(bare_config(), &[("m", &long_rows())]).await;
    let account = Account::of(&server, "m");
    let (mut feed, _) = Feed::open(&mut connect_narrow(&server).await, config_of(UnreadPolicy::Block)).await;
    let sending = send_long_items(&mut feed, ITEMS);
    until("the client is seen not to read", || unread(&server, "feed") == 1.0).await;
    assert!(account.ledger().received() < ITEMS as u64, "the server reads no more than it may keep");
    let said = feed.rest().await;
    patiently(sending).await.expect("all is sent");
    assert!(said.results.iter().map(|result| result.seq).eq(0..ITEMS as u64));
    assert!(said.events.is_empty(), "{:?}", said.events);
    let summary = said.completed.expect("it completed");
    assert_eq!((summary.items, summary.ok), (ITEMS as u64, ITEMS as u64));
    is_gone(&server, &account, "finished").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_never_reads_is_given_up_whatever_its_policy() {
    for policy in [UnreadPolicy::Block, UnreadPolicy::DropOldest, UnreadPolicy::Latest] {
        let mut config = bare_config();
        config.session.unread_timeout_s = 1;
        let server = serve(config, &[("m", &long_rows())]).await;
        let account = Account::of(&server, "m");
        let (mut feed, _) = Feed::open(&mut connect_narrow(&server).await, config_of(policy)).await;
        let sending = send_long_items(&mut feed, 50);
        until("items are taken in", || account.ledger().received() > 0).await;
        is_gone(&server, &account, "unread").await;
        patiently(sending).await.expect("no panic");
        let error = feed.rest().await.error.expect("the stream is reset");
        assert_eq!(error.code(), Code::Cancelled, "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scan_that_is_not_read_is_given_up_too() {
    let mut config = bare_config();
    config.session.unread_timeout_s = 1;
    let server = serve(config, &[("m", &long_rows())]).await;
    let account = Account::of(&server, "m");
    let mut client = connect_narrow(&server).await;
    let payload = Some(Payload::Items(ItemList { items: (0..40).map(|_| long_item("")).collect() }));
    let request = ScanRequest { config: Some(config_of(UnreadPolicy::Unspecified)), payload };
    let _responses = patiently(client.scan(request)).await.expect("headers").into_inner();
    until("the client is seen not to read", || unread(&server, "scan") == 1.0).await;
    account.settled().await;
    let is_counted = || metric(&server.metrics(), "tidemill_streams_ended_total", "method=\"scan\",reason=\"unread\"") == 1.0;
    until("it is given up", is_counted).await;
    until("it is not counted any more", || unread(&server, "") == 0.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_deadline_of_a_call_holds_while_its_client_does_not_read() {
    for policy in [UnreadPolicy::Block, UnreadPolicy::DropOldest] {
        let server = serve(bare_config(), &[("m", &long_rows())]).await;
        let account = Account::of(&server, "m");
        let mut client = connect_narrow(&server).await;
        let mut feed = Feed::call_within(&mut client, Some(Duration::from_secs(2))).await;
        feed.send(Message::Open(config_of(policy))).await;
        let _sending = send_long_items(&mut feed, 1_000);
        until("the stream opens", || metric(&server.metrics(), "tidemill_streams_opened_total", "feed") == 1.0).await;
        is_gone(&server, &account, "expired").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_asks_for_it_is_reset_when_a_window_of_results_waits() {
    let server = serve(bare_config(), &[("m", &long_rows())]).await;
    let account = Account::of(&server, "m");
    let (mut feed, _) = Feed::open(&mut connect_narrow(&server).await, config_of(UnreadPolicy::Disconnect)).await;
    let sending = send_long_items(&mut feed, 1_000);
    is_gone(&server, &account, "unread").await;
    patiently(sending).await.expect("no panic");
    assert!(account.ledger().received() >= u64::from(WINDOW), "not before");
    assert_eq!(skipped(&server), 0.0);
    let error = feed.rest().await.error.expect("the stream is reset");
    assert_eq!(error.code(), Code::Cancelled, "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_asks_to_be_reset_is_served_like_any_other_while_it_reads() {
    let server = serve(bare_config(), &[("m", DOUBLER)]).await;
    let messages = (0..500).map(|_| Message::Item(item("", &[1.0; 4]))).collect();
    let config = StreamConfig { window_items: 4, ..config_of(UnreadPolicy::Disconnect) };
    let said = Feed::run(&mut connect(&server).await, config, messages).await;
    assert_eq!(said.completed.expect("it completed").ok, 500);
    assert!(said.results.iter().map(|result| result.seq).eq(0..500));
}

/// Sends `ITEMS` items for a client that does not read until the server has nothing more to do, and returns what it then gets: how
/// many results came before the gap, the gap, and how many after it.
async fn results_around_a_gap(policy: UnreadPolicy, kept: u32) -> (u64, (u64, u64), u64) {
    const ITEMS: usize = 100;
    let server = serve(bare_config(), &[("m", &long_rows())]).await;
    let account = Account::of(&server, "m");
    let (mut feed, _) = Feed::open(&mut connect_narrow(&server).await, config_of(policy)).await;
    let sending = send_long_items(&mut feed, ITEMS);
    until("all results are sent, kept or skipped", || {
        let sent = metric(&server.metrics(), "tidemill_sent_bytes_total", "feed") / LONG_ROW_BYTES;
        sent + skipped(&server) + f64::from(kept) == ITEMS as f64
    })
    .await;
    patiently(sending).await.expect("the server reads on although its client does not");
    let ledger = account.ledger();
    assert_eq!((ledger.received(), ledger.outcome(Outcome::Ok)), (ITEMS as u64, ITEMS as u64), "the model runs on all");
    assert_eq!(unread(&server, "feed"), 1.0);

    let said = feed.rest().await;
    let [Event::Skipped(gap)] = said.events.as_slice() else { panic!("one gap, but {:?}", said.events) };
    assert_eq!(skipped(&server), gap.results as f64);
    let (before, after): (Vec<u64>, Vec<u64>) =
        said.results.iter().map(|result| result.seq).partition(|seq| *seq < gap.first_seq);
    assert!(before.iter().copied().eq(0..gap.first_seq));
    assert!(after.iter().copied().eq(gap.first_seq + gap.results..ITEMS as u64));
    let summary = said.completed.expect("it completed");
    let given = said.results.len() as u64;
    assert_eq!((summary.items, summary.ok, summary.errors), (ITEMS as u64, given, 0), "skipped results were not given");
    is_gone(&server, &account, "finished").await;
    (before.len() as u64, (gap.first_seq, gap.results), after.len() as u64)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_oldest_results_make_room_and_the_gap_is_reported_where_it_is() {
    let (before, gap, after) = results_around_a_gap(UnreadPolicy::DropOldest, WINDOW).await;
    assert!(before >= 1, "what the transport had taken is not taken back");
    assert_eq!((gap.0, after), (before, u64::from(WINDOW)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_newest_result_waits_for_a_client_that_wants_the_latest() {
    let (before, gap, after) = results_around_a_gap(UnreadPolicy::Latest, 1).await;
    assert_eq!((gap.0, after), (before, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flushes_are_confirmed_in_their_place_even_if_results_before_them_are_skipped() {
    const ROUNDS: u64 = 5;
    const ITEMS: u64 = 10;
    let server = serve(bare_config(), &[("m", &long_rows())]).await;
    let (mut feed, _) = Feed::open(&mut connect_narrow(&server).await, config_of(UnreadPolicy::Latest)).await;
    for round in 0..ROUNDS {
        for _ in 0..ITEMS {
            patiently(feed.send(Message::Item(long_item("")))).await;
        }
        patiently(feed.send(Message::Flush(Flush { id: round.to_string() }))).await;
    }
    until("all but the last result make room", || {
        let sent = metric(&server.metrics(), "tidemill_sent_bytes_total", "feed") / LONG_ROW_BYTES;
        sent + skipped(&server) + 1.0 == (ROUNDS * ITEMS) as f64
    })
    .await;
    feed.finish_sending();
    let (mut next, mut flushes) = (0, 0);
    loop {
        match feed.next().await.expect("the stream is not broken off") {
            Some(Event::Result(result)) => {
                assert_eq!((result.seq, outcome(&result).is_ok()), (next, true));
                next += 1;
            }
            Some(Event::Skipped(gap)) => {
                assert_eq!(gap.first_seq, next);
                next += gap.results;
            }
            Some(Event::Flushed(flushed)) => {
                flushes += 1;
                assert_eq!((flushed.items, next), (flushes * ITEMS, flushes * ITEMS));
            }
            Some(Event::Completed(_)) => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((next, flushes), (ROUNDS * ITEMS, ROUNDS));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_stalled_stream_does_not_stall_the_others() {
    const SIBLINGS: usize = 31;
    let server = serve(bare_config(), &[("m", &long_rows())]).await;
    let mut client = connect_narrow(&server).await;
    let (mut stalled, _) = Feed::open(&mut client, config_of(UnreadPolicy::Block)).await;
    let sending = send_long_items(&mut stalled, 100);
    until("the client is seen not to read", || unread(&server, "feed") >= 1.0).await;
    let siblings = (0..SIBLINGS).map(|_| {
        let mut client = client.clone();
        let messages = (0..20).map(|_| Message::Item(long_item(""))).collect();
        async move { Feed::run(&mut client, config_of(UnreadPolicy::Block), messages).await }
    });
    for said in patiently(join_all(siblings)).await {
        assert_eq!(said.completed.expect("it completed").ok, 20);
    }
    until("it alone is left", || unread(&server, "feed") == 1.0 && server.devices().streams() == 1).await;
    assert_eq!(stalled.rest().await.results.len(), 100);
    patiently(sending).await.expect("all is sent");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_feeds_may_give_up_results() {
    let server = serve(bare_config(), &[("m", DOUBLER)]).await;
    let mut client = connect(&server).await;
    for policy in [UnreadPolicy::DropOldest, UnreadPolicy::Latest, UnreadPolicy::Disconnect] {
        let payload = Some(Payload::Items(ItemList { items: vec![item("", &[1.0; 4])] }));
        let request = ScanRequest { config: Some(config_of(policy)), payload };
        let error = patiently(client.scan(request)).await.expect_err("it is refused");
        assert_eq!((error.code(), fields(&error)), (Code::InvalidArgument, vec!["unread".to_owned()]));
        let open = UploadConfig { stream: Some(config_of(policy)), ..UploadConfig::default() };
        let parts = [UploadRequest { part: Some(Part::Open(open)) }];
        let error = patiently(client.upload(futures::stream::iter(parts))).await.expect_err("it is refused");
        assert_eq!((error.code(), fields(&error)), (Code::InvalidArgument, vec!["unread".to_owned()]));
    }
    let mut feed = Feed::call(&mut client).await;
    feed.send(Message::Open(StreamConfig { unread: 5, ..tensors_of("m") })).await;
    let error = feed.rest().await.error.expect("it is refused");
    assert_eq!((error.code(), fields(&error)), (Code::InvalidArgument, vec!["unread".to_owned()]));
}
