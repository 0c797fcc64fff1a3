//! Models that are loaded, replaced and unloaded while clients use them.

use std::{
    fs,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use futures::future::join_all;
use tempfile::TempDir;
use tonic::{
    Code, Request,
    transport::{Channel, Endpoint},
};

use tidemill::{
    app::Server,
    config::Config,
    domain::FaultKind,
    engine::Executable,
    proto::health::{HealthCheckRequest, HealthListRequest, health_check_response::ServingStatus, health_client::HealthClient},
    proto::v1::{
        ListModelsRequest, ModelState, ModelSummary, PredictRequest, PredictResponse, StreamConfig, feed_request::Message,
        model_service_client::ModelServiceClient, predict_request::Payload,
    },
    registry::IndexState,
};

use crate::{
    binary::Binary,
    serving::{
        COUNTER, Client, DOUBLER, Feed, bare_config, connect, folder_of, item, message, metric, outcome, page, patiently,
        speech_config, tensors_of, tried_briefly, until, values, write,
    },
    startup::one_operator,
};

/// A server with these models, and their folder, which stays.
async fn serve(mut config: Config, models: &[(&str, &str)]) -> (Server, TempDir) {
    let folder = folder_of(models);
    config.models.dir = Some(folder.path().to_owned());
    (Server::start(config).await.unwrap_or_else(|error| panic!("{error}")), folder)
}

async fn predict(client: &mut Client, model: &str, values: &[f32]) -> Result<PredictResponse, tonic::Status> {
    let payload = Some(Payload::Item(item("", values)));
    let request = PredictRequest { model: model.to_owned(), payload, ..PredictRequest::default() };
    patiently(client.predict(request)).await.map(tonic::Response::into_inner)
}

/// A model's result for four ones.
async fn made_of_ones(client: &mut Client, model: &str) -> f32 {
    let response = predict(client, model, &[1.0; 4]).await.expect("the model serves");
    values(&response.outputs.expect("outputs").tensors)[0]
}

async fn models(server: &Server) -> Vec<ModelSummary> {
    let address = format!("http://{}", server.grpc_addr());
    let mut client = ModelServiceClient::connect(address).await.expect("it accepts");
    patiently(client.list_models(ListModelsRequest {})).await.expect("a list").into_inner().models
}

fn executable(server: &Server, model: &str) -> Weak<Executable> {
    Arc::downgrade(&server.registry().get(model, None).expect("it serves").loaded.executable)
}

/// `name version state`
async fn index(server: &Server) -> Vec<String> {
    let entries = patiently(server.repository().index(false)).await.into_iter();
    entries.map(|entry| format!("{} {} {}", entry.name, entry.version, entry.state.label())).collect()
}

/// Waits until the models are as they should be; every change of them wakes it.
async fn until_models(server: &Server, condition: impl Fn(&Server) -> bool) {
    let mut changes = server.registry().changes();
    patiently(async {
        while !condition(server) {
            changes.changed().await.expect("the registry lives");
        }
    })
    .await;
}

fn version(server: &Server, model: &str) -> String {
    server.registry().get(model, None).map(|model| model.loaded.version.to_string()).unwrap_or_default()
}

/// Sends ones until asked to stop, and checks each result. Returns how many there were.
async fn endless_feed(mut client: Client, config: StreamConfig, stop: Arc<AtomicBool>, counts: bool) -> u64 {
    let (mut feed, _) = Feed::open(&mut client, config).await;
    let sender = feed.sender();
    feed.finish_sending();
    let values: &[f32] = if counts { &[1.0] } else { &[1.0; 4] };
    let sending = tokio::spawn(async move {
        while !stop.load(Ordering::Relaxed) && sender.send(message(Message::Item(item("", values)))).await.is_ok() {}
    });
    let said = feed.rest().await;
    sending.await.expect("no panic");
    for (index, result) in said.results.iter().enumerate() {
        let expected = if counts { vec![index as f32 + 2.0] } else { vec![2.0; 4] };
        assert_eq!((result.seq, outcome(result)), (index as u64, Ok(expected)));
    }
    let summary = said.completed.unwrap_or_else(|| panic!("the feed broke off: {:?}", said.error));
    assert_eq!(summary.ok, said.results.len() as u64);
    summary.ok
}

/// Opens one short feed after another.
async fn short_feeds(mut client: Client, stop: Arc<AtomicBool>) -> u64 {
    let mut items = 0;
    while !stop.load(Ordering::Relaxed) {
        let messages = (0..3).map(|_| Message::Item(item("", &[1.0]))).collect();
        let said = Feed::run(&mut client, tensors_of("counter"), messages).await;
        assert!(said.error.is_none(), "{:?}", said.error);
        assert_eq!(said.results.iter().map(outcome).collect::<Vec<_>>(), [2.0, 3.0, 4.0].map(|value| Ok(vec![value])));
        items += 3;
    }
    items
}

async fn predictions(mut client: Client, stop: Arc<AtomicBool>, made: Arc<AtomicU64>) -> u64 {
    let mut items = 0;
    while !stop.load(Ordering::Relaxed) {
        assert_eq!(made_of_ones(&mut client, "double").await, 2.0);
        items += 1;
        made.fetch_add(1, Ordering::Relaxed);
    }
    items
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_reloads_under_load_break_no_stream_lose_no_item_and_leave_no_copy_behind() {
    const RELOADS: usize = 100;
    let models = [("double", &*tried_briefly(DOUBLER)), ("counter", &*tried_briefly(COUNTER))];
    let (server, _folder) = serve(bare_config(), &models).await;
    let stop = Arc::new(AtomicBool::new(false));
    let made = Arc::new(AtomicU64::new(0));
    let mut load = Vec::new();
    for _ in 0..3 {
        let client = connect(&server).await;
        load.push(tokio::spawn(endless_feed(client.clone(), tensors_of("double"), Arc::clone(&stop), false)));
        load.push(tokio::spawn(endless_feed(client.clone(), tensors_of("counter"), Arc::clone(&stop), true)));
        load.push(tokio::spawn(short_feeds(client.clone(), Arc::clone(&stop))));
        load.push(tokio::spawn(predictions(client, Arc::clone(&stop), Arc::clone(&made))));
    }
    until("the load has begun", || made.load(Ordering::Relaxed) > 0 && server.devices().streams() >= 6).await;
    let mut copies = vec![executable(&server, "double"), executable(&server, "counter")];
    for reload in 0..RELOADS {
        let model = ["double", "counter"][reload % 2];
        patiently(server.repository().load(model)).await.expect("nothing is wrong with it");
        copies.push(executable(&server, model));
    }
    let before = made.load(Ordering::Relaxed);
    until("the last copy is used", || made.load(Ordering::Relaxed) > before + 10).await;
    stop.store(true, Ordering::Relaxed);
    let items: u64 = patiently(join_all(load)).await.into_iter().map(|part| part.expect("no error")).sum();

    until("all streams have ended", || server.devices().streams() == 0).await;
    assert_eq!(server.devices().models(), 2, "the queue holds those that serve, and no other");
    let alive = || copies.iter().filter(|copy| copy.strong_count() > 0).count();
    until("old copies are freed", || alive() == 2).await;
    assert!(copies[RELOADS..].iter().all(|copy| copy.strong_count() > 0), "the newest serve");
    let text = server.metrics();
    for (name, labels, value) in [
        ("tidemill_items_received_total", "", items as f64),
        ("tidemill_items_ended_total", "outcome=\"ok\"", items as f64),
        ("tidemill_items_ended_total", "", items as f64),
        ("tidemill_items_queued", "", 0.0),
        ("tidemill_items_in_flight", "", 0.0),
        ("tidemill_model_ready", "", 2.0),
        ("tidemill_model_loads_total", "outcome=\"ok\"", 2.0 + RELOADS as f64),
        ("tidemill_model_loads_total", "outcome=\"failed\"", 0.0),
        ("tidemill_faults_total", "", 0.0),
    ] {
        assert_eq!(metric(&text, name, labels), value, "{name} {labels}");
    }
    assert_eq!(index(&server).await, ["counter 1 ready", "double 1 ready"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_finishes_on_the_copy_that_it_opened() {
    let (server, folder) = serve(bare_config(), &[("m", DOUBLER)]).await;
    let mut client = connect(&server).await;
    let (mut feed, _) = Feed::open(&mut client, tensors_of("m")).await;
    let old = executable(&server, "m");
    write(folder.path(), "m/model.toml", format!("{DOUBLER}\nkind = 'identity'\n").as_bytes());
    patiently(server.repository().load("m")).await.expect("nothing is wrong with it");
    assert_eq!(made_of_ones(&mut client, "m").await, 1.0, "new calls get the new copy");
    feed.send(Message::Item(item("", &[1.0; 4]))).await;
    assert_eq!(outcome(&feed.next_result().await), Ok(vec![2.0; 4]), "the stream keeps its own");
    assert_eq!((old.strong_count() > 0, server.devices().models()), (true, 2));
    feed.finish_sending();
    assert!(feed.rest().await.completed.is_some());
    until("the old copy is freed", || old.strong_count() == 0 && server.devices().models() == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_version_leaves_the_old_one_serving_and_the_list_says_why() {
    let (server, folder) = {
        let mut config = bare_config();
        let folder = folder_of(&[]);
        write(folder.path(), "m/1/model.onnx", &one_operator("Neg"));
        config.models.dir = Some(folder.path().to_owned());
        (Server::start(config).await.unwrap_or_else(|error| panic!("{error}")), folder)
    };
    let mut client = connect(&server).await;
    write(folder.path(), "m/2/model.onnx", b"not a model");
    let fault = patiently(server.repository().load("m")).await.expect_err("version 2 is no model");
    assert_eq!(fault.kind(), FaultKind::Failed);
    assert!(fault.message().contains("m/2/model.onnx: "), "{fault}");
    assert_eq!((version(&server, "m"), made_of_ones(&mut client, "m").await), ("1".to_owned(), -1.0));
    let list = models(&server).await;
    assert_eq!((list[0].state(), list[0].reason.as_str(), list[1].state()), (ModelState::Ready, "", ModelState::Failed));
    assert!(list[1].reason.contains("2/model.onnx"), "{list:?}");
    assert_eq!(patiently(page(server.admin_addr(), "/readyz")).await.0, 200, "a version that is tried next to it does no harm");

    write(folder.path(), "m/2/model.onnx", &one_operator("Abs"));
    patiently(server.repository().load("m")).await.expect("both are sound");
    assert_eq!((version(&server, "m"), made_of_ones(&mut client, "m").await), ("2".to_owned(), 1.0));
    write(folder.path(), "m/2/model.onnx", b"not a model any more");
    patiently(server.repository().load("m")).await.expect_err("version 2 is no model");
    assert_eq!(made_of_ones(&mut client, "m").await, 1.0);
    let list = models(&server).await;
    assert_eq!((list[1].state(), list[1].reason.contains("2/model.onnx")), (ModelState::Ready, true));
    let loads = |outcome| metric(&server.metrics(), "tidemill_model_loads_total", &format!("model=\"m\",outcome=\"{outcome}\""));
    assert_eq!((loads("ok"), loads("failed")), (5.0, 2.0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_model_inside_the_binary_is_loaded_again_while_lanes_compute() {
    let (server, _folder) = serve(speech_config(), &[("busy", &format!("{DOUBLER}\ncost_per_call_us = 20000\n"))]).await;
    let stop = Arc::new(AtomicBool::new(false));
    let feed = tokio::spawn(endless_feed(connect(&server).await, tensors_of("busy"), Arc::clone(&stop), false));
    until("a lane is busy", || metric(&server.metrics(), "tidemill_items_in_flight", "busy") > 0.0).await;
    let before = server.registry().get("silero-vad", None).expect("it serves").key;
    patiently(server.repository().load("silero-vad")).await.expect("it is checked at build time");
    assert_ne!(server.registry().get("silero-vad", None).expect("it serves").key, before);
    stop.store(true, Ordering::Relaxed);
    patiently(feed).await.expect("no error");
}

async fn health(server: &Server) -> HealthClient<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{}", server.grpc_addr())).expect("an address");
    HealthClient::new(endpoint.connect().await.expect("it accepts"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unloaded_model_is_reported_to_all_that_ask_and_comes_back_when_it_is_loaded() {
    let (server, folder) = serve(bare_config(), &[("m", DOUBLER), ("n", DOUBLER)]).await;
    let mut client = connect(&server).await;
    let mut health = health(&server).await;
    let mut asking = health.clone();
    let asked = Request::new(HealthCheckRequest { service: "m".to_owned() });
    let mut watched = health.watch(asked).await.expect("health can be watched").into_inner();
    let mut told = async || patiently(watched.message()).await.expect("no error").map(|told| told.status());
    assert_eq!(told().await, Some(ServingStatus::Serving));

    let (mut feed, _) = Feed::open(&mut client, tensors_of("m")).await;
    patiently(server.repository().unload("m")).await.expect("it is there");
    assert_eq!(told().await, Some(ServingStatus::NotServing));
    let error = predict(&mut client, "m", &[1.0; 4]).await.expect_err("it is unloaded");
    assert_eq!((error.code(), error.message()), (Code::Unavailable, "model 'm' was unloaded; load it again"));
    assert_eq!(index(&server).await, ["m 1 unloading", "n 1 ready"]);
    feed.send(Message::Item(item("", &[1.0; 4]))).await;
    assert_eq!(outcome(&feed.next_result().await), Ok(vec![2.0; 4]), "open streams go on");
    feed.finish_sending();
    assert!(feed.rest().await.completed.is_some());
    until("the model is freed", || server.devices().models() == 1).await;
    assert_eq!(index(&server).await, ["m 1 unloaded", "n 1 ready"]);
    let list = models(&server).await;
    assert_eq!((list[0].state(), list[0].reason.as_str()), (ModelState::Unloaded, "unloaded"));
    assert_eq!(patiently(page(server.admin_addr(), "/readyz")).await.0, 200);
    for gauge in ["tidemill_model_ready", "tidemill_model_batch_cap", "tidemill_model_cost_seconds"] {
        assert_eq!(metric(&server.metrics(), gauge, "model=\"m\""), 0.0, "{gauge}");
    }

    patiently(server.repository().load("m")).await.expect("its folder is there");
    assert_eq!(told().await, Some(ServingStatus::Serving));
    assert_eq!(made_of_ones(&mut client, "m").await, 2.0);

    fs::remove_dir_all(folder.path().join("m")).expect("a folder");
    let refreshed = patiently(server.repository().refresh()).await.expect("no panic");
    assert_eq!((refreshed.loaded, refreshed.failed, refreshed.retired), (0, 0, 1));
    assert_eq!(told().await, Some(ServingStatus::ServiceUnknown), "a model that is gone has no health until it comes back");
    let listed = patiently(asking.list(HealthListRequest {})).await.expect("a list").into_inner().statuses;
    assert!(
        !listed.contains_key("m")
            && listed["n"].status() == ServingStatus::Serving
            && listed[""].status() == ServingStatus::Serving
    );
    assert_eq!(predict(&mut client, "m", &[1.0; 4]).await.expect_err("it is gone").code(), Code::NotFound);
    let ready: Vec<_> = patiently(server.repository().index(true)).await;
    assert_eq!((ready.len(), &*ready[0].name, ready[0].state), (1, "n", IndexState::Ready));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watched_folder_is_followed() {
    let mut config = bare_config();
    config.models.watch = true;
    let (server, folder) = serve(config, &[]).await;
    let mut client = connect(&server).await;
    // Half a file first, as by a slow copy.
    let file = one_operator("Neg");
    write(folder.path(), "m/1/model.onnx", &file[..file.len() / 2]);
    until_models(&server, |server| server.registry().list().iter().any(|model| !model.reason.is_empty())).await;
    write(folder.path(), "m/1/model.onnx", &file);
    until_models(&server, |server| version(server, "m") == "1").await;
    assert_eq!(made_of_ones(&mut client, "m").await, -1.0);

    write(folder.path(), "m/2/model.onnx", &one_operator("Abs"));
    until_models(&server, |server| version(server, "m") == "2").await;
    assert_eq!(made_of_ones(&mut client, "m").await, 1.0);

    write(folder.path(), "m/2/model.onnx", b"garbage over a version that serves");
    until_models(&server, |server| server.registry().list().iter().any(|model| !model.reason.is_empty())).await;
    assert_eq!((version(&server, "m"), made_of_ones(&mut client, "m").await), ("2".to_owned(), 1.0));

    fs::remove_dir_all(folder.path().join("m/2")).expect("a folder");
    until_models(&server, |server| version(server, "m") == "1").await;
    fs::remove_dir_all(folder.path().join("m")).expect("a folder");
    until_models(&server, |server| server.registry().list().is_empty()).await;

    // Another folder takes the place of the one that is watched.
    let (next, away) = (folder_of(&[("n", DOUBLER)]), folder.path().with_extension("away"));
    fs::rename(folder.path(), &away).expect("it can be moved");
    fs::rename(next.path(), folder.path()).expect("it can be moved");
    until_models(&server, |server| version(server, "n") == "1").await;
    write(folder.path(), "o/model.toml", DOUBLER.as_bytes());
    until_models(&server, |server| version(server, "o") == "1").await;
    fs::remove_dir_all(away).expect("a folder");
}

#[tokio::test]
async fn a_folder_that_cannot_be_watched_keeps_the_server_from_starting() {
    let mut config = bare_config();
    config.models.watch = true;
    let error = Server::start(config.clone()).await.err().expect("there is no folder");
    assert!(error.to_string().contains("models.dir names no folder"), "{error}");
    config.models.dir = Some("/nowhere/models".into());
    let error = Server::start(config).await.err().expect("there is no such folder");
    assert!(error.to_string().starts_with("cannot watch /nowhere/models (models.watch): "), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hangup_makes_the_models_what_their_folder_holds() {
    let folder = folder_of(&[("m", DOUBLER)]);
    let mut binary = Binary::serve(&["--models", folder.path().to_str().expect("a name in Unicode")]);
    let ended = tokio::task::spawn_blocking(move || {
        binary.addresses();
        write(folder.path(), "new/model.toml", DOUBLER.as_bytes());
        binary.hang_up();
        let line = binary.line("looked through the models");
        assert!(line.contains("loaded=1") && line.contains("failed=0"), "{line}");
        binary.terminate();
        binary.end()
    });
    assert_eq!(ended.await.expect("no panic"), 0);
}
