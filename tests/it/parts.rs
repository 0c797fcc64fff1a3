//! Models that give an item several answers, from the engine to the wire.

use tidemill::{
    domain::Outcome,
    proto::{
        inference::{ModelConfigRequest, ModelStreamInferResponse, infer_parameter::ParameterChoice},
        v1::{ItemResult, PredictRequest, ResultOrder, StreamConfig, UnreadPolicy, feed_request::Message, predict_request},
    },
};
use tonic::Code;

use crate::{
    http_client::{Http, infer_json},
    infer::{InferStream, infer_client, numbers, request},
    serving::{Account, DOUBLER, Feed, bare_config, connect, fields, item, outcome, patiently, serve, tensors_of, until},
};

/// A doubler that gives `parts` answers to an item, each after `answer_us` microseconds.
fn parts(parts: u32, answer_us: u64) -> String {
    format!("{DOUBLER}parts = {parts}\ncost_per_call_us = {answer_us}\ncost_mode = 'blocked'\n")
}

fn numbered(results: &[ItemResult]) -> Vec<(u64, u32, bool)> {
    results.iter().map(|result| (result.seq, result.part, result.last)).collect()
}

fn items(count: u8) -> Vec<Message> {
    (0..count).map(|number| Message::Item(item(&number.to_string(), &[f32::from(number); 4]))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_item_gets_its_answers_in_order_and_the_last_says_that_it_is() {
    let server = serve(bare_config(), &[("m", &parts(3, 0))]).await;
    let account = Account::of(&server, "m");
    let mut client = connect(&server).await;
    let said = Feed::run(&mut client, tensors_of("m"), items(20)).await;
    let expected: Vec<_> = (0..20).flat_map(|seq| [(seq, 0, false), (seq, 1, false), (seq, 2, true)]).collect();
    assert_eq!(numbered(&said.results), expected);
    for result in &said.results {
        assert_eq!(result.id, result.seq.to_string());
        assert_eq!(outcome(result), Ok(vec![2.0 * result.seq as f32; 4]));
    }
    let summary = said.completed.expect("it ended well");
    assert_eq!((summary.items, summary.ok, summary.errors), (20, 20, 0));
    let ledger = account.settled().await;
    assert_eq!((ledger.received(), ledger.outcome(Outcome::Ok)), (20, 20), "each item ends once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn as_they_are_ready_the_answers_of_one_item_stay_in_their_order() {
    let server = serve(bare_config(), &[("m", &parts(4, 500))]).await;
    let mut client = connect(&server).await;
    let config = StreamConfig { order: ResultOrder::AsReady.into(), ..tensors_of("m") };
    let said = Feed::run(&mut client, config, items(30)).await;
    assert_eq!(said.results.len(), 120);
    for seq in 0..30 {
        let of_item: Vec<_> = said.results.iter().filter(|result| result.seq == seq).cloned().collect();
        assert_eq!(numbered(&of_item), [(seq, 0, false), (seq, 1, false), (seq, 2, false), (seq, 3, true)]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadline_ends_an_item_after_the_answers_that_it_has_had() {
    let server = serve(bare_config(), &[("m", &parts(60_000, 1_000))]).await;
    let account = Account::of(&server, "m");
    let mut client = connect(&server).await;
    let (mut feed, _) = Feed::open(&mut client, tensors_of("m")).await;
    let deadline = Some(prost_types::Duration { seconds: 0, nanos: 300_000_000 });
    feed.send(Message::Item(tidemill::proto::v1::Item { deadline, ..item("late", &[1.0; 4]) })).await;
    feed.finish_sending();
    let said = feed.rest().await;
    let (last, before) = said.results.split_last().expect("an answer");
    assert!(before.iter().all(|result| !result.last && outcome(result).is_ok()), "{before:?}");
    assert!(!before.is_empty(), "the model gives an answer each millisecond");
    assert_eq!((outcome(last), last.last, last.part as usize), (Err(Code::DeadlineExceeded), true, before.len()));
    let ledger = account.settled().await;
    assert_eq!((ledger.received(), ledger.outcome(Outcome::Expired)), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_goes_away_ends_the_call_that_runs_for_it() {
    let mut config = bare_config();
    config.scheduler.lanes = 1;
    let server = serve(config, &[("m", &parts(60_000, 1_000))]).await;
    let account = Account::of(&server, "m");
    let mut client = connect(&server).await;
    let (mut feed, _) = Feed::open(&mut client, tensors_of("m")).await;
    feed.send(Message::Item(item("a", &[1.0; 4]))).await;
    assert!(!feed.next_result().await.last);
    drop(feed);
    // A minute of answers is left to a client that is gone.
    let ledger = account.settled().await;
    assert_eq!((ledger.received(), ledger.outcome(Outcome::Cancelled)), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_nobody_reads_end_their_item_within_a_limit() {
    let server = serve(bare_config(), &[("m", &parts(60_000, 0))]).await;
    let account = Account::of(&server, "m");
    let mut client = connect(&server).await;
    let (mut feed, _) = Feed::open(&mut client, tensors_of("m")).await;
    feed.send(Message::Item(item("a", &[1.0; 4]))).await;
    until("the item has ended", || account.ledger().outcome(Outcome::Refused) == 1).await;
    feed.finish_sending();
    let said = feed.rest().await;
    let (last, before) = said.results.split_last().expect("an answer");
    assert_eq!((outcome(last), last.last), (Err(Code::ResourceExhausted), true));
    let parts: Vec<_> = before.iter().map(|result| result.part as usize).collect();
    assert_eq!(parts, (0..before.len()).collect::<Vec<_>>(), "none is missing");
    assert!(before.len() < 60_000 && before.len() >= 16_384, "{} answers", before.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_wants_the_latest_alone_hears_what_was_skipped() {
    let server = serve(bare_config(), &[("m", &parts(50, 0))]).await;
    let mut client = connect(&server).await;
    let config = StreamConfig { unread: UnreadPolicy::Latest.into(), ..tensors_of("m") };
    let said = Feed::run(&mut client, config, items(40)).await;
    let last = said.results.last().expect("the latest");
    assert_eq!((last.seq, last.part, last.last), (39, 49, true));
    assert_eq!(said.completed.expect("it ended well").items, 40);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_with_room_for_one_answer_refuse_such_a_model_with_what_to_use() {
    let server = serve(bare_config(), &[("m", &parts(2, 0))]).await;
    let mut client = connect(&server).await;
    let payload = Some(predict_request::Payload::Item(item("", &[1.0; 4])));
    let refused = client.predict(PredictRequest { model: "m".to_owned(), payload, ..PredictRequest::default() }).await;
    let refused = refused.expect_err("one answer");
    assert_eq!((refused.code(), fields(&refused)), (Code::Unimplemented, vec!["model".to_owned()]));
    assert!(refused.message().contains("Feed"), "{refused}");
    let mut client = infer_client(&server).await;
    let refused = client.model_infer(request("m", "x", &[1, 4], &[1.0; 4])).await.expect_err("one answer");
    assert_eq!((refused.code(), fields(&refused)), (Code::Unimplemented, vec!["model_name".to_owned()]));
    let mut http = Http::connect(&server).await;
    let body = infer_json(&[1, 4], &[1.0; 4]);
    assert_eq!(http.post("/v2/models/m/infer", body).await.error().0, 501);
    assert_eq!(http.post("/v2/models/m/generate", r#"{"x": [1, 2, 3, 4]}"#).await.error().0, 501);
}

fn is_final(message: &ModelStreamInferResponse) -> Option<bool> {
    let response = message.infer_response.as_ref().expect("a response");
    match response.parameters.get("triton_final_response")?.parameter_choice {
        Some(ParameterChoice::BoolParam(is_final)) => Some(is_final),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_of_requests_say_which_response_is_the_last() {
    let server = serve(bare_config(), &[("m", &parts(3, 0)), ("one", DOUBLER)]).await;
    let mut client = infer_client(&server).await;
    let config = client.model_config(ModelConfigRequest { name: "m".to_owned(), version: String::new() }).await;
    let config = config.expect("a configuration").into_inner().config.expect("one");
    assert!(config.model_transaction_policy.expect("it is always there").decoupled);
    let mut stream = InferStream::open(&mut client).await;
    stream.send(request("m", "x", &[1, 4], &[1.0; 4]));
    stream.send(request("one", "x", &[1, 4], &[5.0; 4]));
    stream.send(request("m", "x", &[2, 4], &[1.0; 8]));
    let mut found = Vec::new();
    for _ in 0..4 {
        let message = stream.message().await.expect("it goes on").expect("it goes on");
        assert_eq!(message.error_message, "");
        let first = numbers(message.infer_response.as_ref().expect("a response"))[0];
        found.push((first, is_final(&message)));
    }
    assert_eq!(found, [(2.0, Some(false)), (2.0, Some(false)), (2.0, Some(true)), (10.0, None)]);
    let refused = stream.next().await.expect_err("two items in one request");
    assert!(refused.contains("send one at a time"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_of_events_has_one_for_each_answer() {
    let server = serve(bare_config(), &[("m", &parts(3, 0))]).await;
    let mut http = Http::connect(&server).await;
    let reply = http.post("/v2/models/m/generate_stream", r#"{"x": [1, 2, 3, 4]}"#).await;
    assert_eq!(reply.status, 200);
    let text = String::from_utf8(reply.body.to_vec()).expect("text");
    assert_eq!(text.matches("data: ").count(), 3, "{text}");
    let nothing_left = patiently(Account::of(&server, "m").settled()).await;
    assert_eq!(nothing_left.outcome(Outcome::Ok), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_answer_does_not_wait_for_the_last() {
    let server = serve(bare_config(), &[("m", &parts(60_000, 10_000))]).await;
    let account = Account::of(&server, "m");
    let mut client = connect(&server).await;
    let (mut feed, _) = Feed::open(&mut client, tensors_of("m")).await;
    feed.send(Message::Item(item("a", &[1.0; 4]))).await;
    let first = feed.next_result().await;
    assert_eq!((first.part, first.last), (0, false));
    assert_eq!(account.ledger().open(), 1, "the whole takes ten minutes");
}
