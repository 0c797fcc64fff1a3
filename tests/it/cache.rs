//! Answers that are kept: what is the same request, what is counted, and when answers are forgotten.

use serde_json::json;
use tidemill::{
    app::Server,
    domain::Outcome,
    proto::inference::{
        InferStatistics, ModelConfigRequest, ModelInferRequest, ModelStatistics, ModelStatisticsRequest,
        infer_parameter::ParameterChoice,
    },
};
use tonic::{Code, Request, metadata::AsciiMetadataValue};

use crate::{
    http_client::Http,
    infer::{InferClient, InferStream, infer_client, numbers, request, with_parameter},
    keys::{ALL, key, known},
    serving::{Account, COUNTER, DOUBLER, bare_config, folder_of, limits, metric, patiently, serve, until, write},
};

/// A doubler whose answers are kept.
fn cached() -> String {
    format!("cache = true\n{DOUBLER}")
}

fn ask(value: f32) -> ModelInferRequest {
    request("m", "x", &[1, 4], &[value; 4])
}

async fn infer(client: &mut InferClient, request: ModelInferRequest) -> Vec<f32> {
    numbers(&patiently(client.model_infer(request)).await.expect("an answer").into_inner())
}

async fn statistics(client: &mut InferClient) -> ModelStatistics {
    let asked = ModelStatisticsRequest { name: "m".to_owned(), version: String::new() };
    let answer = patiently(client.model_statistics(asked)).await.expect("an answer").into_inner();
    answer.model_stats.into_iter().next().expect("one model")
}

/// Counts of hits and misses.
async fn counted(client: &mut InferClient) -> (u64, u64) {
    let InferStatistics { cache_hit, cache_miss, .. } = statistics(client).await.inference_stats.expect("they are always there");
    (cache_hit.expect("a number").count, cache_miss.expect("a number").count)
}

fn bytes(server: &Server) -> f64 {
    metric(&server.metrics(), "tidemill_cache_bytes", "")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_asked_again_is_answered_without_a_call_whatever_is_said_about_it() {
    let server = serve(bare_config(), &[("m", &cached())]).await;
    let account = Account::of(&server, "m");
    let mut client = infer_client(&server).await;
    assert_eq!(infer(&mut client, ask(1.0)).await, [2.0; 4]);
    assert_eq!(infer(&mut client, ask(2.0)).await, [4.0; 4]);
    assert_eq!(counted(&mut client).await, (0, 2));

    let named = ModelInferRequest { id: "another".to_owned(), model_version: "1".to_owned(), ..ask(1.0) };
    let response = patiently(client.model_infer(named.clone())).await.expect("an answer").into_inner();
    assert_eq!((response.id.as_str(), numbers(&response)), ("another", vec![2.0; 4]));
    let urgent = with_parameter(ask(2.0), "priority", ParameterChoice::Int64Param(3));
    assert_eq!(infer(&mut client, urgent).await, [4.0; 4]);
    let hurried = with_parameter(ask(1.0), "timeout", ParameterChoice::Int64Param(60_000_000));
    assert_eq!(infer(&mut client, hurried).await, [2.0; 4]);
    // Without a batch dimension it is the same item.
    let lone = patiently(client.model_infer(request("m", "x", &[4], &[1.0; 4]))).await.expect("an answer").into_inner();
    assert_eq!((lone.outputs[0].shape.clone(), numbers(&lone)), (vec![4], vec![2.0; 4]));
    assert_eq!(counted(&mut client).await, (4, 2));

    let mut http = Http::connect(&server).await;
    let (status, found) = http.post("/v2/models/m/generate", r#"{"x": [2, 2, 2, 2]}"#).await.json();
    assert_eq!((status, &found["y"]), (200, &json!([4.0, 4.0, 4.0, 4.0])));
    assert_eq!(counted(&mut client).await, (5, 2));

    let ledger = account.settled().await;
    assert_eq!((ledger.received(), ledger.outcome(Outcome::Ok)), (2, 2), "hits are neither received nor ended");
    let text = server.metrics();
    assert_eq!(metric(&text, "tidemill_cache_hits_total", "model=\"m\""), 5.0);
    assert_eq!(metric(&text, "tidemill_cache_misses_total", "model=\"m\""), 2.0);
    assert_eq!(metric(&text, "tidemill_streams_ended_total", "method=\"model_infer\",reason=\"finished\""), 6.0);
    assert_eq!(metric(&text, "tidemill_received_bytes_total", "method=\"model_infer\""), 6.0 * 16.0);
    assert!(bytes(&server) > 32.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statistics_count_hits_as_successes_that_no_call_has_made() {
    let server = serve(bare_config(), &[("m", &cached())]).await;
    let mut client = infer_client(&server).await;
    let three = || request("m", "x", &[3, 4], &[1.0; 12]);
    for _ in 0..4 {
        assert_eq!(infer(&mut client, three()).await, [2.0; 12]);
    }
    let found = statistics(&mut client).await;
    let stats = found.inference_stats.expect("they are always there");
    let count = |duration: &Option<tidemill::proto::inference::StatisticDuration>| duration.as_ref().expect("a number").count;
    let nanos = |duration: &Option<tidemill::proto::inference::StatisticDuration>| duration.as_ref().expect("a number").ns;
    assert_eq!((found.inference_count, count(&stats.compute_infer), count(&stats.compute_output)), (3, 3, 3));
    assert!(found.execution_count <= 3);
    assert_eq!((count(&stats.cache_hit), count(&stats.cache_miss)), (9, 3), "items, as everywhere here");
    assert_eq!((count(&stats.success), count(&stats.queue), count(&stats.fail)), (12, 12, 0));
    assert!(nanos(&stats.cache_hit) > 0 && nanos(&stats.cache_miss) > 0);
    let parts = [&stats.queue, &stats.compute_input, &stats.compute_infer, &stats.compute_output, &stats.cache_hit];
    assert_eq!(nanos(&stats.success), parts.map(nanos).iter().sum::<u64>());
    let config = ModelConfigRequest { name: "m".to_owned(), version: String::new() };
    let config = client.model_config(config).await.expect("a configuration").into_inner().config.expect("one");
    assert!(config.response_cache.expect("it is always there").enable);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_streams_and_models_that_do_not_ask_for_it_are_not_kept() {
    let server = serve(bare_config(), &[("m", &cached()), ("plain", DOUBLER)]).await;
    let mut client = infer_client(&server).await;
    for _ in 0..2 {
        let status = patiently(client.model_infer(ask(-1.0))).await.expect_err("the call fails");
        assert_eq!(status.code(), Code::Internal);
    }
    assert_eq!(counted(&mut client).await, (0, 2));
    let mut stream = InferStream::open(&mut client).await;
    for _ in 0..3 {
        stream.send(ask(5.0));
        assert_eq!(stream.next().await, Ok(vec![10.0; 4]));
    }
    let mut http = Http::connect(&server).await;
    for _ in 0..2 {
        assert_eq!(http.post("/v2/models/m/generate_stream", r#"{"x": [5, 5, 5, 5]}"#).await.status, 200);
    }
    assert_eq!(counted(&mut client).await, (0, 2), "streams are not asked for from the cache");
    for _ in 0..2 {
        assert_eq!(infer(&mut client, ModelInferRequest { model_name: "plain".to_owned(), ..ask(1.0) }).await, [2.0; 4]);
    }
    assert_eq!(metric(&server.metrics(), "tidemill_cache_misses_total", "model=\"plain\""), 0.0);
    assert_eq!(bytes(&server), 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_that_is_loaded_again_or_unloaded_leaves_no_answers() {
    let folder = folder_of(&[("m", &cached())]);
    let mut config = bare_config();
    config.models.dir = Some(folder.path().to_owned());
    let server = Server::start(config).await.unwrap_or_else(|error| panic!("{error}"));
    let mut client = infer_client(&server).await;
    for _ in 0..2 {
        assert_eq!(infer(&mut client, ask(3.0)).await, [6.0; 4]);
    }
    assert_eq!(counted(&mut client).await, (1, 1));
    let copies = format!("{}kind = 'identity'\n", cached());
    write(folder.path(), "m/model.toml", copies.as_bytes());
    server.repository().load("m").await.expect("it is sound");
    assert_eq!(infer(&mut client, ask(3.0)).await, [3.0; 4]);
    assert_eq!(counted(&mut client).await, (0, 1), "what was counted begins again with the version");
    server.repository().unload("m").await.expect("it is there");
    until("nothing is left of it", || bytes(&server) == 0.0).await;
    assert_eq!(metric(&server.metrics(), "tidemill_cache_evictions_total", ""), 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_make_room_for_others_and_large_ones_are_not_kept() {
    let mut config = bare_config();
    config.cache.bytes = 2_000;
    config.cache.max_entry_bytes = 1_000;
    let server = serve(config, &[("m", &cached())]).await;
    let mut client = infer_client(&server).await;
    for value in [1.0, 2.0, 3.0, 4.0] {
        infer(&mut client, ask(value)).await;
        assert!(bytes(&server) <= 2_000.0);
    }
    assert_eq!(metric(&server.metrics(), "tidemill_cache_evictions_total", ""), 1.0);
    infer(&mut client, ask(4.0)).await;
    infer(&mut client, ask(1.0)).await;
    assert_eq!(counted(&mut client).await, (1, 5));
    for _ in 0..2 {
        infer(&mut client, request("m", "x", &[30, 4], &[1.0; 120])).await;
    }
    assert_eq!(counted(&mut client).await, (1, 65));

    let mut config = bare_config();
    config.cache.bytes = 0;
    let off = serve(config, &[("m", &cached())]).await;
    let mut client = infer_client(&off).await;
    infer(&mut client, ask(1.0)).await;
    infer(&mut client, ask(1.0)).await;
    assert_eq!(counted(&mut client).await, (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_requests_are_known_again_too() {
    const LENGTH: usize = 60_000;
    let rows = cached().replace("'batch', 4", "'batch', -1");
    let mut config = bare_config();
    config.cache.max_entry_bytes = 8 << 20;
    let server = serve(config, &[("m", &rows)]).await;
    let mut client = infer_client(&server).await;
    for _ in 0..3 {
        let found = infer(&mut client, request("m", "x", &[1, LENGTH as i64], &vec![1.5; LENGTH])).await;
        assert!(found.len() == LENGTH && found.iter().all(|value| *value == 3.0));
    }
    assert_eq!(counted(&mut client).await, (2, 1));
}

/// A request with the key of these bytes, on behalf of whoever that is.
fn with_key(request: ModelInferRequest, byte: u8) -> Request<ModelInferRequest> {
    let mut request = Request::new(request);
    let value: AsciiMetadataValue = format!("Bearer {}", key(byte)).parse().expect("text");
    request.metadata_mut().insert("authorization", value);
    request
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_tenant_has_its_own_answers_and_pays_for_them() {
    let slow = format!("{ALL}\ntenant = 'slow'\nquotas = {{ items_per_s = 3 }}");
    let others = format!("{ALL}\ntenant = 'other'");
    let (mut config, _keys) = known(&[("one", 1, &others), ("two", 2, &slow), ("three", 3, "scopes = ['models:read']")]);
    let folder = folder_of(&[("m", &cached().replace("'batch', 4", "'batch', -1"))]);
    config.models.dir = Some(folder.path().to_owned());
    let server = Server::start(config).await.unwrap_or_else(|error| panic!("{error}"));
    let mut client = infer_client(&server).await;
    let hits = || metric(&server.metrics(), "tidemill_cache_hits_total", "model=\"m\"");
    for (byte, expected) in [(1, 0.0), (1, 1.0), (2, 1.0), (2, 2.0)] {
        patiently(client.model_infer(with_key(ask(1.0), byte))).await.expect("it may");
        assert_eq!(hits(), expected, "key {byte}");
    }
    let mut refused = None;
    for _ in 0..10 {
        if let Err(status) = patiently(client.model_infer(with_key(ask(1.0), 2))).await {
            refused = Some(status);
            break;
        }
    }
    let refused = refused.expect("three a second are its quota");
    assert_eq!((refused.code(), limits(&refused)), (Code::ResourceExhausted, vec!["quota.items_per_s".to_owned()]));
    let denied = patiently(client.model_infer(with_key(ask(1.0), 3))).await.expect_err("it may not infer");
    assert_eq!(denied.code(), Code::PermissionDenied);
    // Other threads look at a long one, on behalf of the same caller.
    let long = || with_key(request("m", "x", &[1, 60_000], &[1.0; 60_000]), 1);
    let known = hits();
    for _ in 0..2 {
        patiently(client.model_infer(long())).await.expect("it may");
    }
    assert_eq!(hits(), known + 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_draining_server_does_not_answer_from_the_cache_either() {
    let server = serve(bare_config(), &[("m", &cached())]).await;
    let mut client = infer_client(&server).await;
    let mut stream = InferStream::open(&mut client).await;
    infer(&mut client, ask(1.0)).await;
    infer(&mut client, ask(1.0)).await;
    stream.send(ask(1.0));
    stream.next().await.expect("an answer");
    server.phase().begin();
    let status = patiently(client.model_infer(ask(1.0))).await.expect_err("it drains");
    assert_eq!(status.code(), Code::Unavailable);
    drop(stream);
    patiently(server.drain()).await;
}

#[tokio::test]
async fn models_whose_answers_depend_on_more_than_the_request_are_refused_by_their_key() {
    let refused = async |manifest: String| {
        let folder = folder_of(&[("m", &manifest)]);
        let mut config = bare_config();
        config.models.dir = Some(folder.path().to_owned());
        match Server::start(config).await {
            Ok(_) => panic!("it must be refused"),
            Err(error) => error.to_string(),
        }
    };
    let stateful = refused(format!("cache = true\n{COUNTER}")).await;
    assert!(
        stateful.contains("m/model.toml: cache: keeps answers for equal requests, but those of a model with states"),
        "{stateful}"
    );
    let decoupled = refused(format!("{}parts = 2\n", cached())).await;
    assert!(
        decoupled.contains("m/model.toml: cache: keeps one answer to a request, but this model gives several"),
        "{decoupled}"
    );
}
