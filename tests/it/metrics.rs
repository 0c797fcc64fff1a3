//! The contents of a scrape: every documented metric, with bounded labels and the right numbers.

use std::collections::BTreeSet;

use futures::future::join_all;

use tidemill::{
    app::Server,
    proto::v1::{
        PayloadDigest, PredictRequest, StreamConfig, UploadConfig, UploadRequest, feed_request::Message,
        predict_request::Payload, upload_request::Part,
    },
    telemetry::{Kind, METRICS},
};

use crate::serving::{Account, DOUBLER, Feed, bare_config, connect, item, metric, page, patiently, serve, tensors_of, until};

async fn scrape(server: &Server) -> String {
    let (status, text) = patiently(page(server.admin_addr(), "/metrics")).await;
    assert_eq!(status, 200, "{text}");
    text
}

/// Names and labels, without values.
fn series(text: &str) -> BTreeSet<String> {
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    lines.map(|line| line.rsplit_once(' ').expect("a name and a value").0.to_owned()).collect()
}

#[tokio::test]
async fn a_scrape_has_every_documented_metric_with_type_and_help_and_no_other() {
    let mut config = bare_config();
    config.metrics.tenants = vec!["acme".to_owned()];
    let server = serve(config, &[("m", DOUBLER)]).await;
    let text = scrape(&server).await;
    for row in METRICS {
        let (name, kind, help) = (row.name, row.kind.label(), row.help);
        assert!(text.contains(&format!("# TYPE {name} {kind}\n")), "no TYPE of {name} in\n{text}");
        assert!(text.contains(&format!("# HELP {name} {help}\n")), "no HELP of {name} in\n{text}");
    }
    let documented: BTreeSet<String> = METRICS
        .iter()
        .flat_map(|row| match row.kind {
            Kind::Histogram => ["_bucket", "_sum", "_count"].map(|suffix| format!("{}{suffix}", row.name)).to_vec(),
            Kind::Counter | Kind::Gauge => vec![row.name.to_owned()],
        })
        .collect();
    let found: BTreeSet<String> =
        series(&text).iter().map(|series| series.split('{').next().expect("a first part").to_owned()).collect();
    assert_eq!(found, documented);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_streams_that_call_themselves_what_they_like_add_no_series() {
    let server = serve(bare_config(), &[("m", DOUBLER)]).await;
    let account = Account::of(&server, "m");
    let before = series(&scrape(&server).await);
    let client = connect(&server).await;
    let streams = (0..100).map(|stream| {
        let mut client = client.clone();
        async move {
            let messages = (0..3).map(|number| Message::Item(item(&format!("id-{stream}-{number}"), &[1.0; 4]))).collect();
            let said = Feed::run(&mut client, tensors_of("m"), messages).await;
            assert_eq!(said.results.len(), 3);
            // Names of models that do not exist are also made up by clients.
            let unknown = StreamConfig { version: stream.to_string(), ..tensors_of(&format!("model-{stream}")) };
            let feed = Feed::call(&mut client).await;
            feed.send(Message::Open(unknown)).await;
            let mut feed = feed;
            assert!(feed.rest().await.error.is_some());
        }
    });
    join_all(streams).await;
    account.settled().await;
    let after = series(&scrape(&server).await);
    assert_eq!(after, before, "{:?}", after.symmetric_difference(&before).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_numbers_are_those_of_the_traffic() {
    let server = serve(bare_config(), &[("m", DOUBLER)]).await;
    let account = Account::of(&server, "m");
    let mut client = connect(&server).await;
    // Ten good items, two whose call fails, one that is refused: 12 times 16 bytes arrive, 10 times 16 bytes are sent.
    let good = std::iter::repeat_n(item("", &[1.0; 4]), 10);
    let bad = [item("", &[-1.0; 4]), item("", &[-1.0; 4]), item("", &[1.0; 3])];
    let messages = good.chain(bad).map(Message::Item).collect();
    let said = Feed::run(&mut client, tensors_of("m"), messages).await;
    assert_eq!((said.results.len(), said.error.is_none()), (13, true));
    let payload = Some(Payload::Item(item("", &[1.0; 4])));
    let request = PredictRequest { model: "m".to_owned(), payload, ..PredictRequest::default() };
    patiently(client.predict(request)).await.expect("a result");
    let unknown =
        PredictRequest { model: "nobody".to_owned(), payload: Some(Payload::Item(item("", &[]))), ..Default::default() };
    patiently(client.predict(unknown)).await.expect_err("no such model");
    let (open, _) = Feed::open(&mut client, tensors_of("m")).await;
    until("the first streams have ended", || server.devices().streams() == 1 && account.ledger().open() == 0).await;

    let text = scrape(&server).await;
    let expected = [
        ("tidemill_items_received_total", "model=\"m\"", 14.0),
        ("tidemill_items_ended_total", "outcome=\"ok\"", 11.0),
        ("tidemill_items_ended_total", "outcome=\"failed\"", 2.0),
        ("tidemill_items_ended_total", "outcome=\"refused\"", 1.0),
        ("tidemill_items_ended_total", "", 14.0),
        ("tidemill_items_queued", "", 0.0),
        ("tidemill_items_in_flight", "", 0.0),
        ("tidemill_item_seconds_count", "", 14.0),
        ("tidemill_model_ready", "", 1.0),
        ("tidemill_streams_opened_total", "method=\"feed\"", 2.0),
        ("tidemill_streams_open", "method=\"feed\"", 1.0),
        ("tidemill_streams_ended_total", "method=\"feed\",reason=\"finished\"", 1.0),
        ("tidemill_streams_opened_total", "method=\"predict\"", 1.0),
        ("tidemill_streams_ended_total", "method=\"predict\",reason=\"finished\"", 1.0),
        ("tidemill_streams_ended_total", "reason=\"cancelled\"", 0.0),
        ("tidemill_received_bytes_total", "method=\"feed\"", 192.0),
        ("tidemill_sent_bytes_total", "method=\"feed\"", 160.0),
        ("tidemill_faults_total", "method=\"feed\",reason=\"failed\"", 2.0),
        ("tidemill_faults_total", "method=\"feed\",reason=\"invalid\"", 1.0),
        ("tidemill_faults_total", "method=\"predict\",reason=\"not_found\"", 1.0),
        ("tidemill_connections_total", "", 1.0),
        ("tidemill_connections_open", "", 1.0),
        ("tidemill_build_info", "", 1.0),
    ];
    for (name, labels, value) in expected {
        assert_eq!(metric(&text, name, labels), value, "{name} {labels} in\n{text}");
    }
    let calls = metric(&text, "tidemill_model_call_seconds_count", "");
    assert_eq!(metric(&text, "tidemill_batches_total", ""), calls, "each call has one reason");
    assert_eq!(metric(&text, "tidemill_batch_size_count", ""), calls);
    let waits = metric(&text, "tidemill_item_queue_seconds_count", "");
    let ended = |outcome| metric(&text, "tidemill_items_ended_total", outcome);
    assert_eq!(ended("outcome=\"ok\"") + ended("outcome=\"failed\""), waits, "each item that ran has waited once");
    drop(open);
    account.settled().await;
    // As finished or as cancelled: the client closes the sending side and leaves so close together that either may be seen first.
    until("the stream is counted as ended", || {
        metric(&server.metrics(), "tidemill_streams_ended_total", "method=\"feed\"") == 2.0
    })
    .await;
    assert_eq!(metric(&server.metrics(), "tidemill_streams_open", ""), 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_error_that_a_client_is_sent_is_counted_once() {
    let mut config = bare_config();
    config.session.upload_max_results = 1;
    let server = serve(config, &[("m", DOUBLER)]).await;
    let account = Account::of(&server, "m");
    let mut client = connect(&server).await;
    let faults = |method: &str, reason: &str| {
        let labels = format!("method=\"{method}\",reason=\"{reason}\"");
        metric(&server.metrics(), "tidemill_faults_total", &labels)
    };
    for (values, reason) in [([-1.0; 4].as_slice(), "failed"), (&[1.0; 3], "invalid")] {
        let payload = Some(Payload::Item(item("", values)));
        let request = PredictRequest { model: "m".to_owned(), payload, ..PredictRequest::default() };
        patiently(client.predict(request)).await.expect_err("it is refused");
        assert_eq!(faults("predict", reason), 1.0, "{reason}");
    }
    let expect = Some(PayloadDigest { total_bytes: Some(1_000), ..PayloadDigest::default() });
    let short = UploadConfig { stream: Some(tensors_of("m")), expect, ..UploadConfig::default() };
    let long = UploadConfig { stream: Some(tensors_of("m")), include_results: true, ..UploadConfig::default() };
    for (open, reason) in [(short, "data_loss"), (long, "too_large")] {
        let parts = [Part::Open(open), Part::Item(item("", &[1.0; 4])), Part::Item(item("", &[1.0; 4]))];
        let parts = parts.map(|part| UploadRequest { part: Some(part) });
        patiently(client.upload(tokio_stream::iter(parts))).await.expect_err("it is refused");
        assert_eq!(faults("upload", reason), 1.0, "{reason}");
    }
    account.settled().await;
    assert_eq!(metric(&server.metrics(), "tidemill_faults_total", ""), 4.0);
    assert_eq!(metric(&server.metrics(), "tidemill_streams_ended_total", "method=\"upload\",reason=\"refused\""), 2.0);
    assert_eq!(metric(&server.metrics(), "tidemill_streams_ended_total", "reason=\"cancelled\""), 0.0);
}
