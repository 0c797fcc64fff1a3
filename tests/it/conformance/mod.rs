//! The same fault has the same code and the same words on every protocol.

mod doors;
mod scenarios;
mod web;

use std::{collections::BTreeSet, net::SocketAddr};

use tidemill::{app::Server, config::Switch, domain::FaultKind, proto::v1::feed_request::Message};
use tonic::Code;

use self::{
    doors::{ask_grpc, ask_native, ask_rest},
    scenarios::{ANY, PAIR, PLANES, ROWS, scenarios},
    web::{ask_connect, ask_grpc_web, ask_json, ask_socket},
};
use crate::serving::{
    COUNTER, DOUBLER, Feed, bare_config, connect, folder_of, item, patiently, serve, slow_doubler, tensors_of, until,
};

/// A way to ask for one result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Door {
    /// The native API, over gRPC.
    Native,
    Json,
    GrpcWeb,
    Connect,
    Socket,
    /// The Open Inference Protocol, over gRPC.
    Grpc,
    Rest,
}

/// The servers' addresses.
#[derive(Debug, Clone, Copy)]
struct Doors {
    grpc: SocketAddr,
    http: SocketAddr,
}

impl Doors {
    fn of(server: &Server) -> Self {
        Self { grpc: server.grpc_addr(), http: server.http_addr() }
    }

    fn url(self) -> String {
        format!("http://{}", self.grpc)
    }
}

const ALL: &[Door] = &[Door::Native, Door::Json, Door::GrpcWeb, Door::Connect, Door::Socket, Door::Grpc, Door::Rest];
/// Those that answer a call. A stream waits where they refuse, and its messages have a limit of their own.
const CALLS: &[Door] = &[Door::Native, Door::Json, Door::GrpcWeb, Door::Connect, Door::Grpc, Door::Rest];
/// Those of the native API.
const NATIVE: &[Door] = &[Door::Native, Door::Json, Door::GrpcWeb, Door::Connect, Door::Socket];
/// The parameter that asks to go ahead of all others.
const HIGH: Option<(&str, i64)> = Some(("priority", 1));
/// The two forms of the Open Inference Protocol.
const OPEN: &[Door] = &[Door::Grpc, Door::Rest];

/// A question, whatever the protocol.
#[derive(Debug, Clone, Default)]
struct Ask {
    model: &'static str,
    version: &'static str,
    id: String,
    inputs: Vec<Input>,
    outputs: Vec<&'static str>,
    timeout_us: Option<i64>,
    /// Sequence, START and END.
    step: Option<(i64, bool, bool)>,
    /// A parameter of the request.
    parameter: Option<(&'static str, i64)>,
    /// The region that holds the first input.
    region: Option<&'static str>,
    /// Whether no classes of the outputs are asked for, which means nothing.
    classification: bool,
}

#[derive(Debug, Clone)]
struct Input {
    name: &'static str,
    datatype: &'static str,
    shape: Vec<i64>,
    data: Vec<u8>,
}

fn tensor(name: &'static str, shape: &[i64], values: &[f32]) -> Input {
    let data = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    Input { name, datatype: "FP32", shape: shape.to_vec(), data }
}

fn ask(model: &'static str, inputs: Vec<Input>) -> Ask {
    Ask { model, inputs, ..Ask::default() }
}

/// A sound item of the doubler.
fn four() -> Input {
    tensor("x", &[4], &[1.0; 4])
}

/// The outcome of an ask: the code as each protocol gives it, and the sentence.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Told {
    code: String,
    message: String,
}

/// A fault, and the doors that must report it.
struct Scenario {
    what: &'static str,
    ask: Ask,
    doors: &'static [Door],
    kind: FaultKind,
    /// A part of the sentence.
    says: &'static str,
    /// Whether the sentences differ, because they contain times or the protocol's own names.
    own_words: bool,
}

fn scenario(what: &'static str, ask: Ask, kind: FaultKind, says: &'static str) -> Scenario {
    Scenario { what, ask, doors: ALL, kind, says, own_words: false }
}

impl Scenario {
    fn at(self, doors: &'static [Door]) -> Self {
        Self { doors, ..self }
    }

    fn in_own_words(self) -> Self {
        Self { own_words: true, ..self }
    }
}

/// The code of a kind of fault at a door: what clients of each protocol act on. `None` for kinds that a single result never fails with: a
/// digest is sent with an upload, items are dropped only on streams, and nobody is left to see a cancelled call's answer.
fn code_of(door: Door, kind: FaultKind) -> Option<String> {
    let (grpc, http) = match kind {
        FaultKind::Invalid => (Code::InvalidArgument, 400),
        FaultKind::NotFound => (Code::NotFound, 404),
        FaultKind::TooLarge => (Code::ResourceExhausted, 413),
        FaultKind::Overloaded => (Code::ResourceExhausted, 429),
        FaultKind::Expired => (Code::DeadlineExceeded, 504),
        FaultKind::Unavailable => (Code::Unavailable, 503),
        FaultKind::Unauthenticated => (Code::Unauthenticated, 401),
        FaultKind::Denied => (Code::PermissionDenied, 403),
        FaultKind::Unsupported => (Code::Unimplemented, 501),
        FaultKind::Failed => (Code::Internal, 500),
        FaultKind::DataLoss | FaultKind::Dropped | FaultKind::Cancelled => return None,
    };
    Some(match door {
        Door::Rest => http.to_string(),
        Door::Json => format!("{http} {grpc:?}"),
        // The table of the protocol, by the code alone.
        Door::Connect => {
            let http = if kind == FaultKind::TooLarge { 429 } else { http };
            format!("{http} {}", snake_case(&format!("{grpc:?}")))
        }
        Door::Native | Door::GrpcWeb | Door::Socket | Door::Grpc => format!("{grpc:?}"),
    })
}

fn snake_case(name: &str) -> String {
    let mut words = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() && !words.is_empty() {
            words.push('_');
        }
        words.extend(letter.to_lowercase());
    }
    words
}

/// Asks at each of the scenario's doors, and compares.
async fn check(at: Doors, scenario: &Scenario) {
    let Scenario { what, ask, doors, kind, says, own_words } = scenario;
    let mut sentences = BTreeSet::new();
    for door in *doors {
        let Told { code, message } = match door {
            Door::Native => ask_native(at, ask).await,
            Door::Json => ask_json(at, ask).await,
            Door::GrpcWeb => ask_grpc_web(at, ask).await,
            Door::Connect => ask_connect(at, ask).await,
            Door::Socket => ask_socket(at, ask).await,
            Door::Grpc => ask_grpc(at, ask).await,
            Door::Rest => ask_rest(at, ask).await,
        };
        assert_eq!(Some(code), code_of(*door, *kind), "{what} at {door:?}: {message}");
        assert!(message.contains(says), "{what} at {door:?}: {message:?} does not say {says:?}");
        sentences.insert(message);
    }
    assert!(*own_words || sentences.len() <= 1, "{what} is reported in different words: {sentences:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_fault_has_one_code_and_one_sentence_at_every_door() {
    let mut config = bare_config();
    config.models.allow_partial = true;
    config.control.priority_high = Switch::Off;
    config.session.max_item_bytes = 1_024;
    config.grpc.max_message_bytes = 16_384;
    config.http.max_body_bytes = 16_384;
    let bomb = DOUBLER.replace("fail_value", "panic_value");
    let answers = format!("{DOUBLER}parts = 2\n");
    let models = [
        ("doubler", DOUBLER),
        ("counter", COUNTER),
        ("pair", PAIR),
        ("rows", ROWS),
        ("any", ANY),
        ("planes", PLANES),
        ("bomb", &bomb),
        ("answers", &answers),
        ("broken", "engine = 'synthetic'"),
    ];
    let folder = folder_of(&models);
    config.models.dir = Some(folder.path().to_owned());
    let server = Server::start(config).await.unwrap_or_else(|error| panic!("{error}"));
    let scenarios = scenarios();
    for scenario in &scenarios {
        check(Doors::of(&server), scenario).await;
    }
    for door in ALL {
        let told = |kind: &FaultKind| scenarios.iter().any(|scenario| scenario.kind == *kind && scenario.doors.contains(door));
        // Overload needs a server that is full, in the next test, and credentials one that knows callers, in `keys`; a stream of the
        // native API cannot ask for anything that is not offered.
        let elsewhere = |kind: &FaultKind| {
            matches!(kind, FaultKind::Overloaded | FaultKind::Unauthenticated)
                || (*kind, *door) == (FaultKind::Unsupported, Door::Socket)
        };
        let untold: Vec<_> = FaultKind::ALL
            .into_iter()
            .filter(|kind| code_of(*door, *kind).is_some() && !told(kind) && !elsewhere(kind))
            .collect();
        assert_eq!(untold, [], "at {door:?} no scenario has a fault of these kinds");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_and_a_draining_server_say_the_same_at_every_door() {
    let mut config = bare_config();
    config.scheduler.lanes = 1;
    config.scheduler.max_queued_items = 1;
    config.session.max_streams = 3;
    let folder = folder_of(&[("doubler", &slow_doubler(2_000_000))]);
    config.models.dir = Some(folder.path().to_owned());
    let server = Server::start(config).await.unwrap_or_else(|error| panic!("{error}"));
    let mut client = connect(&server).await;
    let (mut feed, _) = Feed::open(&mut client, tensors_of("doubler")).await;
    // One runs, one waits in the queue, and one for the queue.
    for _ in 0..3 {
        feed.send(Message::Item(item("", &[1.0; 4]))).await;
    }
    let key = server.registry().get("doubler", None).expect("it serves").key;
    until("the queue is full", || server.devices().status(key).is_some_and(|status| status.queued == 1 && status.running == 1))
        .await;
    let at = Doors::of(&server);
    let good = || ask("doubler", vec![four()]);
    let full = scenario("a full queue", good(), FaultKind::Overloaded, "scheduler.max_queued_items = 1").at(CALLS);
    check(at, &full).await;
    let mut others = Vec::new();
    for _ in 0..2 {
        others.push(Feed::open(&mut client, tensors_of("doubler")).await);
    }
    let words = "3 streams are open, as many as session.max_streams allows";
    check(at, &scenario("too many streams", good(), FaultKind::Overloaded, words)).await;
    drop(others);
    let phase = server.phase();
    let draining = tokio::spawn(server.drain());
    until("the server drains", || phase.is_draining()).await;
    let words = "the server is draining before it shuts down";
    check(at, &scenario("a draining server", good(), FaultKind::Unavailable, words)).await;
    feed.rest().await;
    patiently(draining).await.expect("no panic");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_that_was_unloaded_says_the_same_at_every_door() {
    let server = serve(bare_config(), &[("doubler", DOUBLER)]).await;
    server.repository().unload("doubler").await.expect("it was loaded");
    let gone = scenario("an unloaded model", ask("doubler", vec![four()]), FaultKind::Unavailable, "'doubler' was unloaded");
    check(Doors::of(&server), &gone).await;
}
