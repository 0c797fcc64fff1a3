//! Shutting down under load: every stream ends with a reason, and every item that was taken in is accounted for.

use futures::future::join_all;
use tonic::Code;

use tidemill::{
    domain::Outcome,
    proto::v1::{PredictRequest, StreamConfig, feed_request::Message, predict_request::Payload},
};

use crate::{
    binary::Binary,
    serving::{
        Account, COUNTER, Client, Feed, Said, bare_config, connect, connect_with, item, message, metric, outcome, page,
        patiently, serve, slow_doubler, speech_config, tensors_of, until, write,
    },
};

/// Sends ones for as long as the server takes them, and reads to the end.
async fn endless_feed(mut client: Client, config: StreamConfig) -> Said {
    let (mut feed, _) = Feed::open(&mut client, config).await;
    let sender = feed.sender();
    feed.finish_sending();
    let sending = tokio::spawn(async move { while sender.send(message(Message::Item(item("", &[1.0])))).await.is_ok() {} });
    let said = feed.rest().await;
    sending.abort();
    said
}

fn check_end(said: &Said) {
    for (index, result) in said.results.iter().enumerate() {
        assert_eq!((result.seq, outcome(result)), (index as u64, Ok(vec![index as f32 + 2.0])));
    }
    match (&said.completed, &said.error) {
        (Some(summary), None) => assert_eq!(summary.ok, said.results.len() as u64),
        (None, Some(error)) => {
            assert_eq!(error.code(), Code::Unavailable, "{error}");
            assert!(error.message().contains("the server is draining"), "{error}");
        }
        _ => panic!("a stream ends in one way: {:?}, {:?}", said.completed, said.error),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_load_every_stream_ends_with_a_reason_and_every_item_is_accounted_for() {
    const FEEDS: usize = 200;
    let server = serve(bare_config(), &[("counter", COUNTER)]).await;
    let account = Account::of(&server, "counter");
    let devices = server.devices().clone();
    let mut connections = Vec::new();
    for _ in 0..8 {
        connections.push(connect(&server).await);
    }
    let feeds: Vec<_> =
        (0..FEEDS).map(|feed| tokio::spawn(endless_feed(connections[feed % 8].clone(), tensors_of("counter")))).collect();
    until("all feeds are open and busy", || devices.streams() == FEEDS && account.ledger().ended() > 2_000).await;
    patiently(server.drain()).await;
    let said: Vec<Said> = patiently(join_all(feeds)).await.into_iter().map(|feed| feed.expect("no panic")).collect();
    said.iter().for_each(check_end);
    assert!(said.iter().all(|said| said.error.is_some()), "none of them had ended on its own");
    let ledger = account.settled().await;
    assert_eq!(ledger.received(), ledger.outcome(Outcome::Ok), "an ordered drain answers all that was taken in");
    assert_eq!(ledger.received(), said.iter().map(|said| said.results.len() as u64).sum::<u64>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_draining_server_refuses_new_clients_and_closes_its_ports_at_the_end() {
    let server = serve(bare_config(), &[("slow", &slow_doubler(20_000))]).await;
    let mut client = connect(&server).await;
    let (grpc, admin) = (server.grpc_addr(), server.admin_addr());
    let (mut feed, _) = Feed::open(&mut client, tensors_of("slow")).await;
    for _ in 0..50 {
        feed.send(Message::Item(item("", &[1.0; 4]))).await;
    }
    feed.next_result().await;
    let address = format!("http://{grpc}");
    let draining = tokio::spawn(server.drain());
    // The feed has a second of work in flight; until it is done, every newcomer is refused.
    let told = patiently(async {
        loop {
            let mut newcomer = Client::connect(address.clone()).await.expect("the port is open while the feed lives");
            let payload = Some(Payload::Item(item("", &[1.0; 4])));
            let request = PredictRequest { model: "slow".to_owned(), payload, ..PredictRequest::default() };
            // If a newcomer's connection runs into the GOAWAY, its own library reports that the connection is gone.
            match newcomer.predict(request).await {
                Err(status) if status.code() == Code::Unavailable => break status,
                Ok(_) | Err(_) => {}
            }
        }
    })
    .await;
    assert_eq!(told.code(), Code::Unavailable, "{told}");
    assert!(told.message().contains("draining"), "{told}");
    let error = feed.rest().await.error.expect("the stream is ended");
    assert_eq!(error.code(), Code::Unavailable, "{error}");
    patiently(draining).await.expect("no panic");
    for address in [grpc, admin] {
        assert!(tokio::net::TcpStream::connect(address).await.is_err(), "{address} still listens");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_hard_deadline_cuts_off_a_client_that_does_not_read() {
    for deadline_s in [0, 1] {
        let mut config = bare_config();
        config.drain.deadline_s = deadline_s;
        let server = serve(config, &[("counter", COUNTER)]).await;
        let account = Account::of(&server, "counter");
        // The window is so small that the server cannot even send all of `opened`.
        let mut client = connect_with(&server, |endpoint| endpoint.initial_stream_window_size(1)).await;
        let feed = Feed::call(&mut client).await;
        feed.send(Message::Open(tensors_of("counter"))).await;
        for _ in 0..100 {
            feed.send(Message::Item(item("", &[1.0]))).await;
        }
        until("the stream is open", || server.devices().streams() == 1).await;
        patiently(server.drain()).await;
        let ledger = account.settled().await;
        assert_eq!(ledger.received(), ledger.ended(), "{ledger:?}");
        drop(feed);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_hard_deadline_cancels_what_lanes_have_not_begun() {
    let mut config = bare_config();
    config.drain.deadline_s = 0;
    let server = serve(config, &[("slow", &slow_doubler(50_000))]).await;
    let account = Account::of(&server, "slow");
    let mut client = connect(&server).await;
    let (feed, _) = Feed::open(&mut client, StreamConfig { window_items: 1_000, ..tensors_of("slow") }).await;
    let sender = feed.sender();
    let sending = tokio::spawn(async move { while sender.send(message(Message::Item(item("", &[1.0; 4])))).await.is_ok() {} });
    until("a backlog of many seconds is queued", || account.ledger().open() >= 900).await;
    patiently(server.drain()).await;
    let ledger = account.settled().await;
    assert!(ledger.outcome(Outcome::Cancelled) > 0, "{ledger:?}");
    sending.abort();
}

// ---- The process ------------------------------------------------------------------------------------------------------------

/// The binary with a slow model, a client connected to it, and more in the queue than it can work off while a test runs.
async fn busy_binary(flags: &[&str]) -> (Binary, [std::net::SocketAddr; 2], Feed, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    write(folder.path(), "slow/model.toml", slow_doubler(100_000).as_bytes());
    let models = folder.path().to_str().expect("a name in Unicode").to_owned();
    let mut all = vec!["--models", &models, "--set", "models.embedded=false", "--set", "scheduler.lanes=1"];
    all.extend(flags);
    let mut binary = Binary::serve(&all);
    let addresses = binary.addresses();
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{}", addresses[0])).expect("an address");
    let mut client = Client::new(channel.connect().await.expect("it accepts"));
    let (mut feed, _) = Feed::open(&mut client, StreamConfig { window_items: 1_000, ..tensors_of("slow") }).await;
    for _ in 0..800 {
        feed.send(Message::Item(item("", &[1.0; 4]))).await;
    }
    feed.next_result().await;
    (binary, addresses, feed, folder)
}

async fn await_draining(admin: std::net::SocketAddr) {
    patiently(async { while page(admin, "/readyz").await.0 != 503 {} }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_ends_the_process_at_once_although_a_lane_is_busy() {
    let (mut binary, [_, admin], _feed, _folder) = busy_binary(&[]).await;
    let (_, text) = patiently(page(admin, "/metrics")).await;
    assert!(metric(&text, "tidemill_items_queued", "slow") > 100.0, "a backlog of many seconds");
    binary.terminate();
    await_draining(admin).await;
    assert!(binary.is_running());
    binary.terminate();
    assert_eq!(tokio::task::spawn_blocking(move || binary.end()).await.expect("no panic"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_signal_ends_the_process_with_0_at_its_hard_deadline() {
    let (mut binary, _, mut feed, _folder) = busy_binary(&["--drain-deadline", "0"]).await;
    binary.terminate();
    let error = feed.rest().await.error.expect("the stream is cut off");
    assert!([Code::Unavailable, Code::Unknown, Code::Internal, Code::Cancelled].contains(&error.code()), "{error}");
    let (code, log) = tokio::task::spawn_blocking(move || (binary.end(), binary.log.clone())).await.expect("no panic");
    assert_eq!(code, 0, "{log}");
    assert!(log.contains("1 sessions were still open"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_while_models_load_ends_the_process_with_0() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    // Trial calls of a minute: the process would load for longer than the test waits.
    write(folder.path(), "slow/model.toml", slow_doubler(60_000_000).as_bytes());
    let mut binary = Binary::serve(&["--models", folder.path().to_str().expect("a name in Unicode")]);
    binary.line("silero-vad");
    binary.terminate();
    assert_eq!(tokio::task::spawn_blocking(move || binary.end()).await.expect("no panic"), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_server_drains_at_once_and_its_metrics_say_that_nothing_is_left() {
    let server = serve(speech_config(), &[("counter", COUNTER)]).await;
    let mut client = connect(&server).await;
    let said = Feed::run(&mut client, tensors_of("counter"), vec![Message::Item(item("", &[1.0]))]).await;
    check_end(&said);
    let text = server.metrics();
    assert_eq!(metric(&text, "tidemill_streams_open", ""), 0.0);
    patiently(server.drain()).await;
}
