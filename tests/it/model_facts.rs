//! The Open Inference Protocol's descriptions of the server, its models and their statistics.

use futures::future::join_all;
use serde_json::{Value, json};

use tidemill::{
    app::Server,
    config::{SequenceConfig, SessionConfig, SharedMemoryConfig, Switch},
    domain::{FaultKind, Outcome},
    drain::Drain,
    open_inference::{InferStatistics, ModelStatistics, OpenInference, StatisticDuration},
    proto::v1::{Item, feed_request::Message},
    service::Service,
    telemetry::Telemetry,
};

use crate::serving::{
    Account, COUNTER, Client, DOUBLER, Feed, bare_config, connect, folder_of, item, patiently, serve, speech_config, tensors_of,
    write,
};

/// Rows with the batch last, and a mask that may be left out.
const COLUMNS: &str = "
description = 'columns'
engine = 'synthetic'
max_batch = 4
max_delay_us = 250
[[inputs]]
name = 'x'
datatype = 'INT64'
dims = [-1, 'batch']
[[inputs]]
name = 'mask'
datatype = 'UINT8'
dims = ['batch', -1]
[[outputs]]
name = 'y'
datatype = 'INT64'
dims = [-1, 'batch']
[[outputs]]
name = 'marked'
datatype = 'UINT8'
dims = ['batch', -1]
[padding]
mask = 'mask'
[synthetic]
kind = 'identity'
";

/// The protocol over what `server` serves, and what stops it from serving.
fn door(server: &Server) -> (OpenInference, Drain) {
    let (repository, devices) = (server.repository().clone(), server.devices().clone());
    let drain = Drain::new();
    drain.serve();
    let service = Service::new(repository, devices, SessionConfig::default(), drain.clone(), &Telemetry::new());
    (OpenInference::new(service, SequenceConfig::default(), SharedMemoryConfig::default()), drain)
}

fn in_json(value: &impl serde::Serialize) -> Value {
    serde_json::to_value(value).expect("plain data")
}

#[tokio::test]
async fn only_what_works_is_advertised() {
    let server = serve(bare_config(), &[("doubler", DOUBLER)]).await;
    let (door, _) = door(&server);
    let metadata = in_json(&door.server_metadata());
    assert_eq!((&metadata["name"], &metadata["version"]), (&json!("tidemill"), &json!(env!("CARGO_PKG_VERSION"))));
    let extensions = metadata["extensions"].as_array().expect("a list");
    for works in ["classification", "statistics", "model_configuration", "sequence", "binary_tensor_data", "system_shared_memory"]
    {
        assert!(extensions.contains(&json!(works)), "{extensions:?}");
    }
    for missing in ["cuda_shared_memory", "trace", "logging"] {
        assert!(!extensions.contains(&json!(missing)), "{extensions:?}");
    }
    let off = SharedMemoryConfig { enabled: Switch::Off, ..SharedMemoryConfig::default() };
    let without = OpenInference::new(door.service().clone(), SequenceConfig::default(), off).server_metadata();
    assert!(!without.extensions.contains(&"system_shared_memory"));
}

#[tokio::test]
async fn a_server_and_its_models_are_ready_until_it_drains() {
    let folder = folder_of(&[("doubler", DOUBLER)]);
    write(folder.path(), "broken/model.toml", b"engine = 'steam'");
    let mut config = bare_config();
    config.models.dir = Some(folder.path().to_owned());
    config.models.allow_partial = true;
    let server = Server::start(config).await.expect("a server without the broken model");
    let (door, drain) = door(&server);
    assert!(door.is_ready(), "the server may run without the broken model");
    let models = [("doubler", ""), ("doubler", "1"), ("doubler", "2"), ("tripler", ""), ("broken", ""), ("", "")];
    assert_eq!(models.map(|(name, version)| door.is_model_ready(name, version)), [true, true, false, false, false, false]);
    door.unload_model("doubler").await.expect("it is there");
    assert!(door.is_ready() && !door.is_model_ready("doubler", ""), "what is unloaded by hand hinders nobody");
    door.load_model("doubler", std::iter::empty()).await.expect("it is sound");
    drain.begin();
    assert!(!door.is_ready() && !door.is_model_ready("doubler", ""));
}

#[tokio::test]
async fn shapes_begin_with_the_items_wherever_the_model_has_its_batch() {
    let folder = folder_of(&[("columns", COLUMNS), ("counter", COUNTER)]);
    for version in ["2", "10"] {
        std::fs::create_dir_all(folder.path().join("counter").join(version)).expect("a folder");
    }
    let mut config = bare_config();
    config.models.dir = Some(folder.path().to_owned());
    let server = Server::start(config).await.expect("sound models");
    let (door, _) = door(&server);
    let columns = door.model_metadata("columns", "1").expect("ready");
    assert_eq!(
        in_json(&columns),
        json!({
            "name": "columns",
            "versions": ["1"],
            "platform": "synthetic",
            "inputs": [
                {"name": "x", "datatype": "INT64", "shape": [-1, -1]},
                {"name": "mask", "datatype": "UINT8", "shape": [-1, -1]},
            ],
            "outputs": [
                {"name": "y", "datatype": "INT64", "shape": [-1, -1]},
                {"name": "marked", "datatype": "UINT8", "shape": [-1, -1]},
            ],
        })
    );
    let counter = in_json(&door.model_metadata("counter", "").expect("ready"));
    assert_eq!(counter["versions"], json!(["2", "10"]));
    assert_eq!(counter["inputs"], json!([{"name": "x", "datatype": "FP32", "shape": [-1, 1]}]), "state is the server's own");
    assert_eq!(counter["outputs"], json!([{"name": "y", "datatype": "FP32", "shape": [-1, 1]}]));
    for (name, version) in [("tripler", ""), ("counter", "3")] {
        assert_eq!(door.model_metadata(name, version).expect_err("there is none").kind(), FaultKind::NotFound);
        assert_eq!(door.model_config(name, version).expect_err("there is none").kind(), FaultKind::NotFound);
        assert_eq!(door.statistics(name, version).expect_err("there is none").kind(), FaultKind::NotFound);
    }
}

#[tokio::test]
async fn the_configuration_of_a_model_without_state() {
    let server = serve(bare_config(), &[("columns", COLUMNS)]).await;
    let (door, _) = door(&server);
    let config = in_json(&door.model_config("columns", "").expect("ready"));
    assert_eq!(
        config,
        json!({
            "name": "columns",
            "platform": "synthetic",
            "backend": "synthetic",
            "version_policy": {"all": {}},
            "max_batch_size": 4,
            "input": [
                {
                    "name": "x", "data_type": "TYPE_INT64", "format": "FORMAT_NONE", "dims": [-1],
                    "is_shape_tensor": false, "allow_ragged_batch": true, "optional": false,
                },
                {
                    "name": "mask", "data_type": "TYPE_UINT8", "format": "FORMAT_NONE", "dims": [-1],
                    "is_shape_tensor": false, "allow_ragged_batch": true, "optional": true,
                },
            ],
            "output": [
                {"name": "y", "data_type": "TYPE_INT64", "dims": [-1], "label_filename": "", "is_shape_tensor": false},
                {"name": "marked", "data_type": "TYPE_UINT8", "dims": [-1], "label_filename": "", "is_shape_tensor": false},
            ],
            "instance_group": [{"name": "lanes", "kind": "KIND_CPU", "count": 2}],
            "default_model_filename": "",
            "parameters": {
                "batching": {"string_value": "independent"},
                "description": {"string_value": "columns"},
                "max_batch": {"string_value": "4"},
                "padding.waste_max": {"string_value": "0.5"},
            },
            "model_transaction_policy": {"decoupled": false},
            "response_cache": {"enable": false},
            "dynamic_batching": {
                "max_queue_delay_microseconds": 250,
                "preserve_ordering": false,
                "priority_levels": 3,
                "default_priority_level": 2,
                "default_queue_policy": {
                    "timeout_action": "REJECT",
                    "default_timeout_microseconds": 0,
                    "allow_timeout_override": true,
                    "max_queue_size": 65_536,
                },
            },
        })
    );
}

#[tokio::test]
async fn the_configuration_of_a_model_with_state() {
    let server = patiently(serve(speech_config(), &[])).await;
    let (door, _) = door(&server);
    let config = in_json(&door.model_config("silero-vad", "").expect("ready"));
    assert_eq!((&config["platform"], &config["backend"]), (&json!("rten_onnx"), &json!("rten")));
    assert_eq!(config["default_model_filename"], "model.onnx");
    assert_eq!(config["input"][0]["dims"], json!([576]));
    assert_eq!(config["input"].as_array().map(Vec::len), Some(1), "the sample rate is the manifest's");
    assert!(config.get("dynamic_batching").is_none());
    assert_eq!(
        config["sequence_batching"],
        json!({
            "max_sequence_idle_microseconds": 60_000_000,
            "oldest": {"max_candidate_sequences": 20_000, "max_queue_delay_microseconds": 0, "preserve_ordering": false},
            "state": [{
                "input_name": "state", "output_name": "stateN", "data_type": "TYPE_FP32", "dims": [2, 128],
                "initial_state": [{"name": "zeros", "data_type": "TYPE_FP32", "dims": [2, 128], "zero_data": true}],
            }],
        })
    );
    let parameters = &config["parameters"];
    assert_eq!(parameters["framing.kind"], json!({"string_value": "pcm_s16le"}));
    assert_eq!(parameters["framing.sample_rate_hz"], json!({"string_value": "16000"}));
}

// ---- Statistics -------------------------------------------------------------------------------------------------------------

fn count(duration: StatisticDuration) -> u64 {
    duration.count
}

fn assert_adds_up(statistics: &ModelStatistics) {
    let ModelStatistics { inference_count, execution_count, inference_stats, batch_stats, .. } = statistics;
    let InferStatistics { success, queue, compute_input, compute_infer, compute_output, cache_hit, cache_miss, .. } =
        *inference_stats;
    let parts = [queue, compute_input, compute_infer, compute_output];
    assert_eq!(parts.map(count), [*inference_count; 4]);
    assert_eq!(success.count, *inference_count);
    assert_eq!(success.ns, parts.iter().map(|part| part.ns).sum::<u64>());
    assert_eq!((cache_hit, cache_miss), Default::default());
    let batches = || batch_stats.iter();
    assert_eq!(batches().map(|batch| batch.compute_infer.count).sum::<u64>(), *execution_count);
    assert_eq!(batches().map(|batch| batch.batch_size * batch.compute_infer.count).sum::<u64>(), *inference_count);
    for batch in batches() {
        let counts = [batch.compute_input, batch.compute_infer, batch.compute_output].map(count);
        assert_eq!(counts, [batch.compute_infer.count; 3]);
    }
    let each = |part: fn(&tidemill::open_inference::BatchStatistics) -> u64| -> u64 {
        batches().map(|batch| batch.batch_size * part(batch)).sum()
    };
    assert_eq!(compute_input.ns, each(|batch| batch.compute_input.ns));
    assert_eq!(compute_infer.ns, each(|batch| batch.compute_infer.ns));
    assert_eq!(compute_output.ns, each(|batch| batch.compute_output.ns));
}

/// The item of this number: one that fails, one that is refused, one that expires, or a good one.
fn mixed(number: usize) -> Item {
    match number % 8 {
        1 => item("", &[-1.0, 0.0, 0.0, 0.0]),
        3 => item("", &[1.0]),
        5 => Item { deadline: Some(prost_types::Duration { seconds: 0, nanos: 1 }), ..item("", &[1.0; 4]) },
        _ => item("", &[2.0; 4]),
    }
}

/// Sends mixed items; with `reads` it reads to the end, otherwise it leaves while they run.
async fn feed(mut client: Client, items: usize, reads: bool) {
    let (mut feed, _) = Feed::open(&mut client, tensors_of("doubler")).await;
    for number in 0..items {
        feed.send(Message::Item(mixed(number))).await;
    }
    if reads {
        feed.finish_sending();
        assert_eq!(feed.rest().await.results.len(), items);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statistics_add_up_however_items_end() {
    let slow = format!("{DOUBLER}cost_per_call_us = 300\ncost_mode = 'blocked'\n");
    let server = serve(bare_config(), &[("doubler", &slow)]).await;
    let (door, _) = door(&server);
    let account = Account::of(&server, "doubler");
    let first = &door.statistics("doubler", "").expect("ready")[0];
    assert_eq!((first.inference_count, first.execution_count, first.last_inference), (0, 0, 0));
    assert_adds_up(first);
    assert_eq!(in_json(first)["response_stats"], json!({}));

    let client = connect(&server).await;
    patiently(join_all((0..8).map(|_| feed(client.clone(), 80, true)))).await;
    let ledger = account.settled().await;
    let statistics = &door.statistics("", "").expect("nothing is named")[0];
    assert_adds_up(statistics);
    let ended = |outcomes: &[Outcome]| outcomes.iter().map(|outcome| ledger.outcome(*outcome)).sum::<u64>();
    assert_eq!((statistics.inference_count, ended(&[Outcome::Ok])), (400, 400));
    assert_eq!(statistics.inference_stats.fail.count, 240);
    assert_eq!(ended(&[Outcome::Refused, Outcome::Expired, Outcome::Dropped, Outcome::Failed]), 240);
    let InferStatistics { fail, compute_infer, .. } = statistics.inference_stats;
    assert!(fail.ns >= 80 * 300_000, "80 items fail after a call each: {fail:?}");
    assert!(compute_infer.ns >= 400 * 300_000, "each item has all of its call's time: {compute_infer:?}");
    assert!(statistics.last_inference > 1_500_000_000_000, "milliseconds of this century");

    patiently(join_all((0..8).map(|feeds| feed(client.clone(), 80, feeds % 2 == 0)))).await;
    let ledger = account.settled().await;
    let statistics = &door.statistics("doubler", "1").expect("ready")[0];
    assert_adds_up(statistics);
    let (ran, failed) = (statistics.inference_count, statistics.inference_stats.fail.count);
    let (done, left) = (ledger.outcome(Outcome::Ok), ledger.outcome(Outcome::Cancelled));
    assert!((done..=done + left).contains(&ran), "{done} {left} {ran}");
    assert!((ledger.ended() - left..=ledger.ended()).contains(&(ran + failed)), "{ledger:?} {ran} {failed}");
}
