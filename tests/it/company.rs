//! Models whose items may change each other's answers: what the server finds out before they serve, where it reports that, how they are
//! then served, and what it keeps.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use rten_onnx::onnx::{AttributeProto, AttributeType, DataType, GraphProto, NodeProto, TensorProto};
use tempfile::TempDir;
use tokio::{sync::watch, task::JoinHandle};
use tonic::Code;

use tidemill::{
    app::Server,
    config::Config,
    proto::{
        inference::RepositoryIndexRequest,
        v1::{
            Batching, BatchingVerdict, GetModelRequest, Item, ItemResult, ListModelsRequest, ModelDetail, ModelState,
            ModelSummary, ProveModelRequest, Tensor, feed_request::Message, model_service_client::ModelServiceClient,
        },
    },
    registry::IndexState,
};

use crate::{
    binary::Binary,
    engines::{LIBRARY_VARIABLE, library},
    http_client::Http,
    infer::infer_client,
    no_batch::{axis, file, floats, folder, keeping_no_dims, node, predict, value, wave},
    serving::{
        Account, Client, Feed, assert_close, bare_config, connect, fields, item, metric, outcome, outputs, page, patiently,
        tensors_of, values, write,
    },
    startup::one_operator,
};

// ---- Files ------------------------------------------------------------------------------------------------------------------

/// Enough time for the trial calls of any of these models on a busy machine.
const PATIENT: &str = "[trial]\nseconds = 60\n";

fn with_attribute(mut node: NodeProto, attribute: AttributeProto) -> NodeProto {
    node.attribute.push(attribute);
    node
}

fn with_int(node: NodeProto, name: &str, int: i64) -> NodeProto {
    let (name, i) = (Some(name.to_owned()), Some(int));
    with_attribute(node, AttributeProto { name, r#type: Some(AttributeType::INT), i, ..AttributeProto::default() })
}

fn with_graph(node: NodeProto, name: &str, graph: GraphProto) -> NodeProto {
    let (name, g) = (Some(name.to_owned()), Some(graph));
    with_attribute(node, AttributeProto { name, r#type: Some(AttributeType::GRAPH), g, ..AttributeProto::default() })
}

fn over_the_call(mut node: NodeProto) -> NodeProto {
    node.attribute.push(AttributeProto {
        name: Some("axes".to_owned()),
        r#type: Some(AttributeType::INTS),
        ints: vec![0],
        ..AttributeProto::default()
    });
    node
}

/// A file from FP32 `x` [batch, 4] to FP32 `y` [batch, 4].
fn rows(nodes: Vec<NodeProto>, weights: Vec<TensorProto>) -> Vec<u8> {
    file(GraphProto {
        node: nodes,
        initializer: weights,
        input: vec![value("x", DataType::FLOAT, &[-1, 4])],
        output: vec![value("y", DataType::FLOAT, &[-1, 4])],
        ..GraphProto::default()
    })
}

/// An item plus the mean of all items of its call.
fn mean() -> Vec<u8> {
    rows(vec![over_the_call(node("ReduceMean", &["x"], "mean")), node("Add", &["x", "mean"], "y")], vec![])
}

/// An item doubled if the sum of all items of its call is above 0, otherwise negated.
fn branch() -> Vec<u8> {
    let way = |operator: NodeProto, output: &str| GraphProto {
        node: vec![operator],
        output: vec![value(output, DataType::FLOAT, &[-1, 4])],
        ..GraphProto::default()
    };
    let choice = with_graph(node("If", &["is_positive"], "y"), "then_branch", way(node("Add", &["x", "x"], "double"), "double"));
    let choice = with_graph(choice, "else_branch", way(node("Neg", &["x"], "negative"), "negative"));
    let nodes = vec![keeping_no_dims(node("ReduceSum", &["x"], "sum")), node("Greater", &["sum", "zero"], "is_positive"), choice];
    rows(nodes, vec![floats("zero", &[], &[0.0])])
}

/// The same without branches in the graph.
fn choice() -> Vec<u8> {
    let nodes = vec![
        keeping_no_dims(node("ReduceSum", &["x"], "sum")),
        node("Greater", &["sum", "zero"], "is_positive"),
        node("Add", &["x", "x"], "double"),
        node("Neg", &["x"], "negative"),
        node("Where", &["is_positive", "double", "negative"], "y"),
    ];
    rows(nodes, vec![floats("zero", &[], &[0.0])])
}

/// Four numbers in reverse, by a product with an 8-bit matrix, as `quantize_dynamic` makes it: the numbers of all items of a call get one
/// scale.
fn dynamic() -> Vec<u8> {
    let reverse = TensorProto {
        name: Some("reverse".to_owned()),
        dims: vec![4, 4],
        data_type: Some(DataType::INT8),
        int32_data: (0..16).map(|at| i32::from(at % 3 == 0 && at != 0 && at != 15)).collect(),
        ..TensorProto::default()
    };
    let quantize = node("DynamicQuantizeLinear", &["x"], "q");
    let nodes = vec![
        NodeProto { output: ["q", "scale", "zero"].map(str::to_owned).to_vec(), ..quantize },
        node("MatMulInteger", &["q", "reverse", "zero"], "product"),
        with_int(node("Cast", &["product"], "number"), "to", i64::from(DataType::FLOAT.0)),
        node("Mul", &["number", "scale"], "y"),
    ];
    rows(nodes, vec![reverse])
}

/// After some work, the larger of each number and a billion, which no made-up item reaches.
fn constant() -> Vec<u8> {
    const WIDTH: i64 = 256;
    const LAYERS: usize = 8;
    // Each layer gives the mean of what comes in as every one of its numbers.
    let layer = |name: &str, dims: [i64; 2]| {
        let (from, to) = (dims[0] as usize, dims[1] as usize);
        floats(name, &dims, &vec![1.0 / from as f32; from * to])
    };
    let mut nodes = vec![node("Max", &["x", "billion"], "large"), node("MatMul", &["large", "spread"], "h0")];
    for at in 0..LAYERS {
        nodes.push(node("MatMul", &[&format!("h{at}"), "mix"], &format!("h{}", at + 1)));
    }
    nodes.push(node("MatMul", &[&format!("h{LAYERS}"), "gather"], "y"));
    let weights = vec![
        floats("billion", &[], &[1e9]),
        layer("spread", [4, WIDTH]),
        layer("mix", [WIDTH, WIDTH]),
        layer("gather", [WIDTH, 4]),
    ];
    rows(nodes, weights)
}

/// Rows of any length: the mean of the elements that a mask marks, and the sum of all elements, padding included.
fn leaking() -> Vec<u8> {
    file(GraphProto {
        node: vec![
            node("Mul", &["x", "mask"], "marked"),
            node("ReduceSum", &["marked", "last"], "marked_sum"),
            node("ReduceSum", &["mask", "last"], "marks"),
            node("Div", &["marked_sum", "marks"], "mean"),
            node("ReduceSum", &["x", "last"], "sum"),
        ],
        initializer: vec![axis("last", 1)],
        input: vec![value("x", DataType::FLOAT, &[-1, -1]), value("mask", DataType::FLOAT, &[-1, -1])],
        output: vec![value("mean", DataType::FLOAT, &[-1, 1]), value("sum", DataType::FLOAT, &[-1, 1])],
        ..GraphProto::default()
    })
}

// ---- Servers ----------------------------------------------------------------------------------------------------------------

/// A server with the models of a folder, and perhaps with proofs from earlier starts and onnxruntime.
#[derive(Default)]
struct Setting {
    cache: Option<PathBuf>,
    library: Option<PathBuf>,
    allow_partial: bool,
    lanes: Option<usize>,
}

impl Setting {
    fn config(&self, models: &Path) -> Config {
        let mut config = bare_config();
        config.models.dir = Some(models.to_owned());
        config.models.cache_dir.clone_from(&self.cache);
        config.models.allow_partial = self.allow_partial;
        config.engine.onnxruntime.clone_from(&self.library);
        config.scheduler.lanes = self.lanes.unwrap_or(config.scheduler.lanes);
        config
    }

    async fn serve(&self, models: &Path) -> Server {
        patiently(Server::start(self.config(models))).await.unwrap_or_else(|error| panic!("{error}"))
    }

    async fn refused(&self, models: &Path) -> String {
        patiently(Server::start(self.config(models))).await.err().expect("it must be refused").to_string()
    }
}

/// A server with these models, which are read once.
async fn serve(models: &[(&str, &str, &[u8])]) -> Server {
    Setting::default().serve(folder(models).path()).await
}

async fn model_client(server: &Server) -> ModelServiceClient<tonic::transport::Channel> {
    ModelServiceClient::connect(format!("http://{}", server.grpc_addr())).await.expect("the server accepts")
}

async fn detail(server: &Server, model: &str) -> ModelDetail {
    let request = GetModelRequest { name: model.to_owned(), ..GetModelRequest::default() };
    let response = patiently(model_client(server).await.get_model(request)).await.expect("the model serves").into_inner();
    response.model.expect("a model")
}

async fn batching(server: &Server, model: &str) -> Batching {
    detail(server, model).await.summary.expect("a summary").batching.expect("it serves")
}

async fn list(server: &Server) -> Vec<ModelSummary> {
    patiently(model_client(server).await.list_models(ListModelsRequest {})).await.expect("a list").into_inner().models
}

/// What the index of the Open Inference Protocol says about a model, over gRPC; the states are given by name.
async fn index(server: &Server, model: &str) -> (String, String) {
    let request = RepositoryIndexRequest::default();
    let response = patiently(infer_client(server).await.repository_index(request)).await.expect("an index").into_inner();
    let entry = response.models.into_iter().find(|entry| entry.name == model).expect("it is there");
    (entry.state, entry.reason)
}

async fn prove(server: &Server, model: &str, seed: u64) -> Vec<ModelSummary> {
    let request = ProveModelRequest { name: model.to_owned(), seed };
    patiently(model_client(server).await.prove_model(request)).await.expect("it loads").into_inner().models
}

fn verdict_metric(server: &Server, model: &str, verdict: &str) -> f64 {
    let text = server.metrics();
    let series: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with("tidemill_model_batching{") && line.contains(&format!("model=\"{model}\"")))
        .collect();
    let series = series.join("\n");
    metric(&series, "tidemill_model_batching", &format!("verdict=\"{verdict}\""))
}

// ---- Clients ----------------------------------------------------------------------------------------------------------------

/// Several streams that send the same items until they are ended.
struct Crowd {
    stop: Arc<AtomicBool>,
    feeds: Vec<JoinHandle<Vec<ItemResult>>>,
    progress: watch::Receiver<Progress>,
}

/// What all streams of a crowd have received.
#[derive(Debug, Clone, Copy, Default)]
struct Progress {
    results: usize,
    /// Items in the largest call.
    largest: u32,
}

impl Crowd {
    async fn gather(client: &Client, model: &str, feeds: usize, item: impl Fn(usize) -> Item) -> Self {
        const IN_FLIGHT: usize = 4;
        let stop = Arc::new(AtomicBool::new(false));
        let (told, progress) = watch::channel(Progress::default());
        let told = Arc::new(told);
        let mut gathered = Vec::new();
        for feed in 0..feeds {
            let (item, stop, told) = (item(feed), Arc::clone(&stop), Arc::clone(&told));
            let (mut feed, _) = Feed::open(&mut client.clone(), tensors_of(model)).await;
            gathered.push(tokio::spawn(async move {
                let mut results = Vec::new();
                for _ in 0..IN_FLIGHT {
                    feed.send(Message::Item(item.clone())).await;
                }
                while !stop.load(Ordering::Relaxed) {
                    let result = feed.next_result().await;
                    told.send_modify(|progress| {
                        progress.results += 1;
                        progress.largest = progress.largest.max(batch_size(&result));
                    });
                    results.push(result);
                    feed.send(Message::Item(item.clone())).await;
                }
                feed.finish_sending();
                let said = feed.rest().await;
                assert!(said.completed.is_some(), "the feed broke off: {:?}", said.error);
                results.extend(said.results);
                results
            }));
        }
        Self { stop, feeds: gathered, progress }
    }

    /// Returns once the streams have received what is wanted.
    async fn until(&mut self, wanted: impl FnMut(&Progress) -> bool) {
        patiently(self.progress.wait_for(wanted)).await.expect("the streams go on until they are ended");
    }

    /// Ends the streams, and returns what each received.
    async fn leave(self) -> Vec<Vec<ItemResult>> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        for feed in self.feeds {
            all.push(patiently(feed).await.expect("no panic"));
        }
        all
    }
}

fn batch_size(result: &ItemResult) -> u32 {
    result.timing.expect("each result is timed").batch_size
}

fn numbers(result: &ItemResult) -> Vec<f32> {
    outcome(result).expect("outputs")
}

/// The engines that are available, and the library of the second one.
fn engines() -> (Vec<&'static str>, Option<PathBuf>) {
    let library = library();
    if library.is_none() {
        eprintln!("{LIBRARY_VARIABLE} names no library of onnxruntime; only rten is tested");
    }
    (if library.is_some() { vec!["rten", "onnxruntime"] } else { vec!["rten"] }, library)
}

// ---- Items that change each other -------------------------------------------------------------------------------------------

const QUIET: [f32; 4] = [1.0, 2.0, -0.5, 0.25];
/// Its sum is below 0, and all of its numbers are far from those of [`QUIET`].
const LOUD: [f32; 4] = [-4_000.0, 1_000.0, -2_000.0, 500.0];

/// The answer to an item alone, and how far off 8 bits may be.
fn alone(model: &str, item: [f32; 4]) -> (Vec<f32>, f32) {
    let largest = item.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
    match model {
        "mean" => (item.map(|value| 2.0 * value).to_vec(), 0.0),
        "branch" | "choice" => {
            (item.map(|value| if item.iter().sum::<f32>() > 0.0 { 2.0 * value } else { -value }).to_vec(), 0.0)
        }
        _ => ([item[3], item[2], item[1], item[0]].to_vec(), largest / 100.0),
    }
}

/// Names, files, and what is suspected.
fn coupled() -> [(&'static str, Vec<u8>, &'static str); 4] {
    [
        ("mean", mean(), "ReduceMean over axis 0"),
        ("branch", branch(), "ReduceSum over all axes, If"),
        ("choice", choice(), "ReduceSum over all axes"),
        ("dynamic", dynamic(), "DynamicQuantizeLinear"),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn items_that_change_each_other_get_what_they_get_alone_among_loud_ones() {
    const QUESTIONS: usize = 20;
    const LOUD_ANSWERS: u64 = 200;
    let (engines, library) = engines();
    let coupled = coupled();
    let on = |engine: &'static str| coupled.iter().map(move |(name, file, _)| (*name, format!("{name}-{engine}"), engine, file));
    // onnxruntime requires names for the graphs of branches, which these files do not have.
    let models: Vec<_> =
        engines.iter().flat_map(|engine| on(engine)).filter(|(_, name, ..)| name != "branch-onnxruntime").collect();
    let manifests: Vec<String> = models.iter().map(|(.., engine, _)| format!("engine = '{engine}'\n{PATIENT}")).collect();
    let laid: Vec<_> =
        models.iter().zip(&manifests).map(|((_, name, _, file), manifest)| (&**name, &**manifest, file.as_slice())).collect();
    let server = Setting { library, ..Setting::default() }.serve(folder(&laid).path()).await;
    let client = connect(&server).await;
    for (kind, name, ..) in models {
        let (mut feed, _) = Feed::open(&mut client.clone(), tensors_of(&name)).await;
        let mut ask = async || {
            feed.send(Message::Item(item("", &QUIET))).await;
            let result = feed.next_result().await;
            (numbers(&result), batch_size(&result))
        };
        let (first, _) = ask().await;
        let (right, tolerance) = alone(kind, QUIET);
        assert_close(&first, &right, tolerance);
        let account = Account::of(&server, &name);
        let crowd = Crowd::gather(&client, &name, 6, |_| item("", &LOUD)).await;
        let mut questions = 0;
        patiently(async {
            while questions < QUESTIONS || account.ledger().ended() < LOUD_ANSWERS {
                assert_eq!(ask().await, (first.clone(), 1), "{name}: question {questions} among loud items");
                questions += 1;
            }
        })
        .await;
        let (right, tolerance) = alone(kind, LOUD);
        for result in crowd.leave().await.into_iter().flatten() {
            assert_close(&numbers(&result), &right, tolerance);
            assert_eq!(batch_size(&result), 1, "{name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn how_a_models_items_are_served_is_reported_everywhere() {
    let apart = one_operator("Neg");
    let server = serve(&[("mean", PATIENT, &mean()), ("neg", PATIENT, &apart)]).await;
    let dependent = detail(&server, "mean").await;
    let summary = dependent.summary.expect("a summary");
    let found = summary.batching.clone().expect("it serves");
    assert_eq!((found.verdict(), found.shares_calls, found.proven_batch), (BatchingVerdict::Dependent, false, 1));
    assert!(found.seed != 0 && found.detail.starts_with("other items in a call of "), "{found:?}");
    assert_eq!((dependent.batch_cap, dependent.batch_costs.len()), (1, 1));
    let independent = detail(&server, "neg").await;
    let other = independent.summary.expect("a summary").batching.expect("it serves");
    assert_eq!((other.verdict(), other.shares_calls, other.proven_batch), (BatchingVerdict::Independent, true, 64));
    assert_eq!(independent.batch_costs.len(), 7);

    let listed: Vec<_> = list(&server).await.into_iter().map(|model| (model.name, model.batching)).collect();
    assert_eq!(listed, [("mean".to_owned(), Some(found.clone())), ("neg".to_owned(), Some(other))]);
    assert_eq!(index(&server, "mean").await, ("READY".to_owned(), format!("one item a call, dependent: {}", found.detail)));
    assert_eq!(index(&server, "neg").await, ("READY".to_owned(), String::new()));
    let (status, documents) = Http::connect(&server).await.post("/v2/repository/index", "{}").await.json();
    assert_eq!((status, &documents[0]["reason"]), (200, &format!("one item a call, dependent: {}", found.detail).into()));
    for (model, found, call_max) in [("mean", "dependent", 1), ("neg", "independent", 64)] {
        let (_, config) = Http::connect(&server).await.get(&format!("/v2/models/{model}/config")).await.json();
        assert_eq!(config["max_batch_size"], call_max, "{model}: what clients may rely on is not the cap of the moment");
        assert_eq!(config["parameters"]["batching"]["string_value"], found);
        for verdict in ["independent", "dependent", "not_a_batch", "padding_leaks", "random", "unproven", "off"] {
            assert_eq!(verdict_metric(&server, model, verdict), f64::from(verdict == found), "{model} {verdict}");
        }
    }
}

/// The log of the binary with these models, from its start to its end; it must get as far as listening.
fn log_of(models: &Path, flags: &[&str]) -> String {
    let path = models.to_str().expect("a name in Unicode");
    let alone = ["--models", path, "--set", "models.embedded=false", "--set", "models.example=false"];
    let mut binary = Binary::serve(&[&alone, flags].concat());
    binary.addresses();
    binary.terminate();
    assert_eq!(binary.end(), 0, "{}", binary.log);
    binary.log.clone()
}

fn lines<'a>(log: &'a str, part: &str) -> Vec<&'a str> {
    log.lines().filter(|line| line.contains(part)).collect()
}

#[test]
fn each_dependent_model_is_one_warning_with_the_output_the_size_the_difference_and_what_is_suspected() {
    let coupled = coupled();
    let laid: Vec<_> = coupled.iter().map(|(name, file, _)| (*name, PATIENT, file.as_slice())).collect();
    let models = folder(&[laid.as_slice(), &[("neg", PATIENT, &one_operator("Neg"))]].concat());
    let log = log_of(models.path(), &[]);
    let warnings = lines(&log, " WARN ");
    assert_eq!(warnings.len(), coupled.len(), "{log}");
    for (name, _, suspected) in &coupled {
        let found: Vec<_> = warnings.iter().filter(|line| line.contains(&format!("model={name} "))).collect();
        assert_eq!(found.len(), 1, "{log}");
        for part in [
            "it runs one item a call",
            "verdict=dependent",
            "other items in a call of ",
            " changed output 'y' by ",
            " times its size; suspected: ",
            suspected,
            "seed=",
        ] {
            assert!(found[0].contains(part), "no {part:?} in {}", found[0]);
        }
    }
    let independent = lines(&log, "no dependence was found");
    assert!(independent.len() == 1 && independent[0].contains("model=neg ") && independent[0].contains(" INFO "), "{log}");
}

// ---- What is not a batch -------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_a_batch_is_refused_with_the_ways_out_while_others_serve() {
    let models = folder(&[("wave", PATIENT, &wave()), ("neg", PATIENT, &one_operator("Neg"))]);
    let refusal = Setting::default().refused(models.path()).await;
    let told = [
        "wave: its first dimension is not a batch: ",
        "output 'y'",
        "while every item alone gets the same answer",
        "set batch = false in the manifest",
        "or batching = \"off\"",
    ];
    told.iter().for_each(|part| assert!(refusal.contains(part), "no {part:?} in {refusal}"));
    let server = Setting { allow_partial: true, ..Setting::default() }.serve(models.path()).await;
    let listed = list(&server).await;
    assert_eq!((listed[1].name.as_str(), listed[1].state(), listed[1].batching.as_ref()), ("wave", ModelState::Failed, None));
    told.iter().for_each(|part| assert!(listed[1].reason.contains(part), "no {part:?} in {}", listed[1].reason));
    let (state, reason) = index(&server, "wave").await;
    assert_eq!((state.as_str(), reason), ("UNAVAILABLE", listed[1].reason.clone()));
    assert_eq!(patiently(page(server.admin_addr(), "/readyz")).await.0, 200);
    let mut client = connect(&server).await;
    let error = predict(&mut client, "wave", &[("x", &[1], &[1.0])]).await.expect_err("it does not serve");
    assert!(error.code() == Code::Unavailable && error.message().contains("set batch = false"), "{error}");
    let outputs = predict(&mut client, "neg", &[("x", &[4], &QUIET)]).await.expect("it serves");
    assert_eq!(values(&outputs), QUIET.map(|value| -value));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_a_batch_serves_whole_or_as_its_manifest_insists() {
    let server = serve(&[("whole", "batch = false", &wave()), ("single", "batching = 'off'", &wave())]).await;
    let mut client = connect(&server).await;
    let outputs = predict(&mut client, "whole", &[("x", &[4], &[1.0, 2.0, 3.0, 6.0])]).await.expect("a wave");
    assert_eq!(values(&outputs), [-2.0, -1.0, 0.0, 3.0]);
    // A sample is its own mean.
    let outputs = predict(&mut client, "single", &[("x", &[], &[5.0])]).await.expect("a sample");
    assert_eq!(values(&outputs), [0.0]);
    for model in ["whole", "single"] {
        let found = batching(&server, model).await;
        assert_eq!((found.verdict(), found.shares_calls, found.proven_batch), (BatchingVerdict::Off, false, 1), "{model}");
        assert_eq!(index(&server, model).await, ("READY".to_owned(), String::new()), "what was asked for is no remark");
    }
}

// ---- What cannot be proven --------------------------------------------------------------------------------------------------

/// Says so and checks nothing if no library is named; CI names one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_random_model_runs_one_item_a_call_unless_its_manifest_assumes_otherwise() {
    let Some(library) = library() else {
        eprintln!("{LIBRARY_VARIABLE} names no library of onnxruntime; no random model was served, for rten has none");
        return;
    };
    let random = rows(vec![node("RandomNormalLike", &["x"], "noise"), node("Add", &["x", "noise"], "y")], vec![]);
    let assumed = format!("batching = 'assumed'\n{PATIENT}");
    let models = folder(&[("random", PATIENT, &random), ("assumed", &assumed, &random)]);
    let server = Setting { library: Some(library), ..Setting::default() }.serve(models.path()).await;
    for (model, shares_calls) in [("random", false), ("assumed", true)] {
        let found = batching(&server, model).await;
        assert_eq!(
            (found.verdict(), found.shares_calls, found.proven_batch),
            (BatchingVerdict::Random, shares_calls, 1),
            "{model}"
        );
        assert!(found.detail.contains("the same item gets a different answer each time"), "{}", found.detail);
        assert_eq!(verdict_metric(&server, model, "random"), 1.0);
    }
    assert!(index(&server, "random").await.1.starts_with("one item a call, random: "));
    assert!(index(&server, "assumed").await.1.starts_with("items share calls, random: "));
}

/// Sends to the constant model from several streams until items have met or each stream has sent `items`; returns the largest call.
async fn largest_call(server: &Server, model: &str, items: usize) -> u32 {
    const STREAMS: usize = 6;
    let client = connect(server).await;
    let number = |stream: usize| (stream + 2) as f32 * 1e9;
    let mut crowd = Crowd::gather(&client, model, STREAMS, |stream| item("", &[number(stream); 4])).await;
    crowd.until(|progress| progress.largest > 1 || progress.results >= STREAMS * items).await;
    let mut largest = 0;
    for (stream, results) in crowd.leave().await.into_iter().enumerate() {
        for result in results {
            assert_close(&numbers(&result), &[number(stream); 4], number(stream) * 1e-4);
            largest = largest.max(batch_size(&result));
        }
    }
    largest
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn equal_answers_prove_nothing_and_the_manifest_may_assume_what_cannot_be_proven() {
    const ITEMS: usize = 200;
    const ITEMS_MAX: usize = 1_000_000;
    let assumed = format!("batching = 'assumed'\n{PATIENT}");
    let models = folder(&[("plain", PATIENT, &constant()), ("assumed", &assumed, &constant())]);
    let server = Setting { lanes: Some(1), ..Setting::default() }.serve(models.path()).await;
    for (model, shares_calls) in [("plain", false), ("assumed", true)] {
        let found = batching(&server, model).await;
        assert_eq!((found.verdict(), found.shares_calls, found.proven_batch), (BatchingVerdict::Unproven, shares_calls, 1));
        assert!(found.detail.contains("all made-up items got the same answer") && found.detail.contains("[trial]"), "{found:?}");
        let how = if shares_calls { "items share calls, unproven: " } else { "one item a call, unproven: " };
        assert_eq!(index(&server, model).await.1, format!("{how}{}", found.detail));
    }
    assert_eq!(largest_call(&server, "plain", ITEMS).await, 1);
    assert!(largest_call(&server, "assumed", ITEMS_MAX).await > 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_assumed_yields_to_what_was_found() {
    let assumed = format!("batching = 'assumed'\n{PATIENT}");
    let server = serve(&[("mean", &assumed, &mean())]).await;
    let found = batching(&server, "mean").await;
    assert_eq!((found.verdict(), found.shares_calls), (BatchingVerdict::Dependent, false));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn items_of_the_manifest_or_of_a_file_next_to_it_prove_what_made_up_ones_cannot() {
    let item = "{ x = [2e9, 1.0, 3e9, 4e9] }, { x = [5e9, 6e9, 7e9, 8e9] }";
    let inline = format!("{PATIENT}items = [{item}]");
    let beside = format!("{PATIENT}file = 'items.json'");
    let models = folder(&[("inline", &inline, &constant()), ("beside", &beside, &constant())]);
    write(models.path(), "beside/items.json", br#"[{"x": [2e9, 1.0, 3e9, 4e9]}, {"x": [5e9, 6e9, 7e9, 8e9]}]"#);
    let server = Setting::default().serve(models.path()).await;
    for model in ["inline", "beside"] {
        let found = batching(&server, model).await;
        assert_eq!(
            (found.verdict(), found.shares_calls, found.proven_batch),
            (BatchingVerdict::Independent, true, 64),
            "{found:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_whose_time_for_trial_calls_is_too_short_is_unproven_and_the_key_is_named() {
    let models = folder(&[("hasty", "[trial]\nseconds = 0.000001", &constant())]);
    let (_root, cache) = cache();
    let server = Setting { cache: Some(cache.clone()), ..Setting::default() }.serve(models.path()).await;
    let found = batching(&server, "hasty").await;
    assert_eq!((found.verdict(), found.shares_calls), (BatchingVerdict::Unproven, false));
    assert!(found.detail.contains("raise trial.seconds in the manifest"), "{}", found.detail);
    assert_eq!(proofs_in(&cache), [""; 0].map(PathBuf::from), "the next start tries again");
}

#[tokio::test]
async fn faults_in_how_a_model_is_tried_name_their_key() {
    let long = format!("[trial]\nitems = [{}]", "{ x = [1, 2, 3, 4] },".repeat(65));
    let refusals: [(&str, &[&str]); 12] = [
        ("batching = 'maybe'", &["batching", "'maybe'", "\"proven\", \"assumed\" and \"off\""]),
        ("[trial]\nseconds = 0", &["trial.seconds", "is 0", "more than 0 to 600"]),
        ("[trial]\nseconds = 601.0", &["trial.seconds", "601", "600"]),
        ("[trial]\nseconds = nan", &["trial.seconds", "NaN", "600"]),
        ("[trial]\nsecond = 1", &["trial.second", "seconds"]),
        (&long, &["trial.items", "65 items", "at most 64"]),
        (
            "[trial]\nitems = [{ x = [1, 2, 3, 4] }, { y = [1, 2, 3, 4] }]",
            &["trial.items[1].y", "no input 'y'", "trial.items[1].x"],
        ),
        ("[trial]\nitems = [{ x = [1, 2, 3] }]", &["trial.items[0].x"]),
        ("[trial]\nitems = [{ x = ['a', 'b', 'c', 'd'] }]", &["trial.items[0].x"]),
        ("[trial]\nfile = '../items.json'", &["trial.file", "'../items.json'", "without a path"]),
        ("[trial]\nfile = 'missing.json'", &["trial.file", "'missing.json'", "cannot be read"]),
        ("[trial]\nfile = 'model.toml'", &["trial.file", "is not a JSON list"]),
    ];
    for (manifest, parts) in refusals {
        let refusal = Setting::default().refused(folder(&[("m", manifest, &one_operator("Neg"))]).path()).await;
        for part in ["m/model.toml", parts[0]].iter().chain(parts) {
            assert!(refusal.contains(part), "no {part:?} for {manifest:?} in {refusal}");
        }
    }
}

// ---- Padding ----------------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_padding_changes_answers_only_equal_lengths_meet() {
    let manifest = format!(
        "max_delay_us = 1000000\nmax_batch = 3\n[padding]\nmask = 'mask'\nwaste_max = 0.9\nvalues = {{ x = 5.0 }}\n{PATIENT}"
    );
    let models = folder(&[("leaking", &manifest, &leaking())]);
    let server = Setting { lanes: Some(1), ..Setting::default() }.serve(models.path()).await;
    let summary = detail(&server, "leaking").await;
    let found = summary.summary.expect("a summary").batching.expect("it serves");
    assert_eq!((found.verdict(), found.shares_calls, found.proven_batch), (BatchingVerdict::PaddingLeaks, true, 2));
    assert!(found.detail.contains("padding changed output 'sum'"), "{}", found.detail);
    assert_eq!(summary.padding.expect("it pads").waste_max, 0.0);
    assert!(index(&server, "leaking").await.1.starts_with("items share calls, padding_leaks: padding changed output 'sum'"));

    let client = connect(&server).await;
    let row = |stream: usize| {
        let shape = vec![[3, 5, 5, 8][stream % 4]];
        let Item { id, inputs, deadline } = item("", &vec![1.0 + stream as f32; shape[0] as usize]);
        Item {
            id,
            inputs: inputs.into_iter().map(|tensor| Tensor { name: "x".to_owned(), shape: shape.clone(), ..tensor }).collect(),
            deadline,
        }
    };
    let mut crowd = Crowd::gather(&client, "leaking", 8, row).await;
    crowd.until(|progress| progress.results >= 500).await;
    let mut largest = 0;
    for (stream, results) in crowd.leave().await.into_iter().enumerate() {
        let (number, length) = (1.0 + stream as f32, [3.0, 5.0, 5.0, 8.0][stream % 4]);
        for result in results {
            let tensors = outputs(&result).expect("outputs");
            assert_eq!((values(tensors), values(&tensors[1..])), (vec![number], vec![number * length]), "stream {stream}");
            largest = largest.max(batch_size(&result));
        }
    }
    assert!(largest > 1, "streams with items of one length share calls");
    assert_eq!(metric(&server.metrics(), "tidemill_padding_elements_total", "model=\"leaking\""), 0.0);
}

// ---- Proofs that are kept ---------------------------------------------------------------------------------------------------

/// A seed that no start would use: a server that reports it has looked up the proof.
const SEED: u64 = 99;

/// A folder for proofs, inside a temporary one.
fn cache() -> (TempDir, PathBuf) {
    let root = tempfile::tempdir().expect("a temporary folder");
    let path = root.path().join("proofs");
    (root, path)
}

fn proofs_in(cache: &Path) -> Vec<PathBuf> {
    fs::read_dir(cache).expect("it is there").map(|entry| entry.expect("an entry").path()).collect()
}

/// Proves the model `m` of this folder with [`SEED`], and keeps the proof in `cache`.
async fn prove_and_keep(models: &Path, cache: &Path) {
    let server = Setting { cache: Some(cache.to_owned()), ..Setting::default() }.serve(models).await;
    assert_eq!(prove(&server, "m", SEED).await[0].batching.as_ref().map(|found| found.seed), Some(SEED));
    patiently(server.drain()).await;
}

/// Whether a server with this cache looks up what it says about `m`.
async fn remembers(models: &Path, cache: &Path) -> bool {
    let server = Setting { cache: Some(cache.to_owned()), ..Setting::default() }.serve(models).await;
    let found = batching(&server, "m").await;
    assert_eq!(found.verdict(), BatchingVerdict::Dependent, "{found:?}");
    patiently(server.drain()).await;
    found.seed == SEED
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proof_is_kept_for_the_same_model_and_for_no_other() {
    let manifest = format!("{PATIENT}file = 'items.json'");
    let models = folder(&[("m", &manifest, &mean())]);
    write(models.path(), "m/items.json", br#"[{"x": [1, 2, 3, 4]}]"#);
    let (_root, cache) = cache();
    let mut changes: Vec<(&str, Vec<u8>)> = vec![
        ("m/model.toml", format!("# changed\n{manifest}").into_bytes()),
        ("m/items.json", br#"[{"x": [1, 2, 3, 5]}]"#.to_vec()),
        ("m/1/model.onnx", branch()),
    ];
    prove_and_keep(models.path(), &cache).await;
    assert!(remembers(models.path(), &cache).await, "nothing has changed");
    for (file, content) in changes.drain(..) {
        write(models.path(), file, &content);
        assert!(!remembers(models.path(), &cache).await, "{file} has changed");
        prove_and_keep(models.path(), &cache).await;
        assert!(remembers(models.path(), &cache).await, "nothing has changed since");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proofs_that_are_damaged_or_open_to_others_are_not_believed() {
    let models = folder(&[("m", PATIENT, &mean())]);
    let (_root, cache) = cache();
    type Damage = (&'static str, fn(&Path));
    let damage: [Damage; 5] = [
        ("cut off", |file| fs::write(file, &fs::read(file).expect("it is there")[..100]).expect("it is ours")),
        ("forged", |file| {
            let text = fs::read_to_string(file).expect("it is there");
            fs::write(file, text.replace("\"dependent\"", "\"independent\"")).expect("it is ours");
        }),
        ("empty", |file| fs::write(file, "").expect("it is ours")),
        ("a folder", |file| {
            fs::remove_file(file).expect("it is ours");
            fs::create_dir(file).expect("it is ours");
        }),
        ("writable by all", |file| fs::set_permissions(file, fs::Permissions::from_mode(0o666)).expect("it is ours")),
    ];
    for (what, damage) in damage {
        if cache.exists() {
            fs::remove_dir_all(&cache).expect("it is ours");
        }
        prove_and_keep(models.path(), &cache).await;
        let files = proofs_in(&cache);
        assert_eq!(files.len(), 1, "{files:?}");
        damage(&files[0]);
        assert!(!remembers(models.path(), &cache).await, "{what}");
    }
    fs::remove_dir_all(&cache).expect("it is ours");
    prove_and_keep(models.path(), &cache).await;
    fs::set_permissions(&cache, fs::Permissions::from_mode(0o755)).expect("it is ours");
    assert!(!remembers(models.path(), &cache).await, "others can enter the folder");
    fs::set_permissions(&cache, fs::Permissions::from_mode(0o700)).expect("it is ours");
    assert!(remembers(models.path(), &cache).await, "nobody has touched it");
}

#[test]
fn the_second_start_measures_nothing_that_the_first_has_measured() {
    let models = folder(&[("mean", PATIENT, &mean()), ("neg", PATIENT, &one_operator("Neg"))]);
    let (_root, cache) = cache();
    let cache = format!("models.cache_dir={}", cache.display());
    let [first, second] = [(); 2].map(|()| log_of(models.path(), &["--set", &cache]));
    let costs = |log: &str, how: &str| -> Vec<String> {
        let told = lines(log, "; a call takes ").into_iter().filter(|line| line.contains(&format!("{how}; a call takes ")));
        told.filter_map(|line| Some(line.split_once("a call takes ")?.1.split(" model=").next()?.to_owned())).collect()
    };
    assert_eq!((costs(&first, " measured").len(), costs(&first, "measured at an earlier start").len()), (2, 0), "{first}");
    // Nor are its costs measured again: they are the same to the last digit.
    assert_eq!(costs(&second, "measured at an earlier start"), costs(&first, " measured"), "{second}");
    for log in [&first, &second] {
        let told = lines(log, " WARN ");
        assert!(told.len() == 1 && told[0].contains("model=mean ") && told[0].contains("verdict=dependent"), "{log}");
    }
}

#[test]
fn a_folder_that_cannot_hold_proofs_costs_one_log_line_and_nothing_else() {
    let models = folder(&[("neg", PATIENT, &one_operator("Neg"))]);
    let (root, cache) = cache();
    fs::write(root.path().join("file"), "").expect("a file");
    fs::create_dir(&cache).expect("a folder");
    fs::set_permissions(&cache, fs::Permissions::from_mode(0o755)).expect("it is ours");
    for (path, cause) in [(root.path().join("file/proofs"), "Not a directory"), (cache, "its mode is 755")] {
        let log = log_of(models.path(), &["--set", &format!("models.cache_dir={}", path.display())]);
        let told = lines(&log, "set models.cache_dir to another folder");
        assert_eq!(told.len(), 1, "{log}");
        assert!(told[0].contains(" INFO ") && told[0].contains(cause) && told[0].contains(path.to_str().expect("text")), "{log}");
        assert!(log.contains("model is ready") && lines(&log, " WARN ").is_empty() && lines(&log, " ERROR ").is_empty(), "{log}");
    }
}

// ---- While the server runs --------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_is_proven_again_while_its_streams_go_on() {
    let models = folder(&[("neg", PATIENT, &one_operator("Neg"))]);
    let server = Setting::default().serve(models.path()).await;
    let client = connect(&server).await;
    let crowd = Crowd::gather(&client, "neg", 3, |stream| item("", &[stream as f32; 4])).await;
    let usual = batching(&server, "neg").await.seed;
    for (seed, shown) in [(7, 7), (8, 8), (0, usual)] {
        let proven = prove(&server, "neg", seed).await;
        assert_eq!(proven.len(), 1);
        let found = proven[0].batching.as_ref().expect("it serves");
        assert_eq!((found.verdict(), found.seed), (BatchingVerdict::Independent, shown));
        assert_eq!(batching(&server, "neg").await, *found);
    }
    for (stream, results) in crowd.leave().await.into_iter().enumerate() {
        assert!(!results.is_empty());
        for (at, result) in results.iter().enumerate() {
            assert_eq!((result.seq, numbers(result)), (at as u64, vec![-(stream as f32); 4]));
        }
    }
    let unknown = ProveModelRequest { name: "other".to_owned(), seed: 0 };
    let error = patiently(model_client(&server).await.prove_model(unknown)).await.expect_err("there is none");
    assert_eq!(error.code(), Code::NotFound);
    let unnamed = ProveModelRequest::default();
    let error = patiently(model_client(&server).await.prove_model(unnamed)).await.expect_err("a name is missing");
    assert_eq!((error.code(), fields(&error)), (Code::InvalidArgument, vec!["name".to_owned()]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_that_is_dependent_takes_over_with_one_item_a_call() {
    let models = folder(&[("m", PATIENT, &one_operator("Neg"))]);
    let server = Setting::default().serve(models.path()).await;
    let client = connect(&server).await;
    let old = Crowd::gather(&client, "m", 3, |_| item("", &LOUD)).await;
    write(models.path(), "m/1/model.onnx", &mean());
    patiently(server.repository().load("m")).await.expect("it serves, if one item a call");
    let found = batching(&server, "m").await;
    assert_eq!((found.verdict(), found.shares_calls), (BatchingVerdict::Dependent, false));
    let mut new = Crowd::gather(&client, "m", 3, |stream| item("", &[stream as f32; 4])).await;
    new.until(|progress| progress.results >= 300).await;
    for (stream, results) in new.leave().await.into_iter().enumerate() {
        for result in results {
            assert_eq!((numbers(&result), batch_size(&result)), (vec![2.0 * stream as f32; 4], 1));
        }
    }
    let kept: Vec<ItemResult> = old.leave().await.into_iter().flatten().collect();
    assert!(!kept.is_empty() && kept.iter().all(|result| numbers(result) == LOUD.map(|value| -value)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_that_has_no_batch_replaces_nothing() {
    let models = folder(&[("m", PATIENT, &one_operator("Neg"))]);
    let server = Setting::default().serve(models.path()).await;
    // The same tensors, whose first dimension is time: without the mean of all steps.
    let centred = rows(vec![over_the_call(node("ReduceMean", &["x"], "mean")), node("Sub", &["x", "mean"], "y")], vec![]);
    write(models.path(), "m/1/model.onnx", &centred);
    let error = patiently(server.repository().load("m")).await.expect_err("it has no batch");
    assert!(error.message().contains("its first dimension is not a batch"), "{error}");
    let outputs = predict(&mut connect(&server).await, "m", &[("x", &[4], &QUIET)]).await.expect("the old one serves");
    assert_eq!(values(&outputs), QUIET.map(|value| -value));
    let entry = patiently(server.repository().index(true)).await.remove(0);
    assert_eq!(entry.state, IndexState::Ready);
    assert!(entry.reason.contains("its first dimension is not a batch"), "{}", entry.reason);
    assert_eq!(batching(&server, "m").await.verdict(), BatchingVerdict::Independent);
}
