//! Sequences of the Open Inference Protocol: each has its own state for as long as it lives.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use futures::future::join_all;
use proptest::{prelude::*, test_runner::TestRunner};
use tidemill::{app::Server, proto::inference::ModelInferRequest};
use tonic::Code;

use crate::{
    infer::{InferClient, InferStream, infer_client, numbers, request, step},
    serving::{COUNTER, DOUBLER, bare_config, folder_of, limits, patiently, serve, tried_briefly, until},
};

/// Clients with one stream each; the scope after theirs is that of unary calls.
const STREAMS: usize = 3;

#[derive(Debug, Clone)]
enum Deed {
    /// A step of sequence `id`; over a unary call where `scope` is [`STREAMS`].
    Step { scope: usize, id: i64, starts: bool, ends: bool, value: u8 },
    /// The client goes away mid-stream and comes back.
    Cancel { scope: usize },
    /// The client says that it is done, reads to the end and comes back.
    Close { scope: usize },
}

fn deeds() -> impl Strategy<Value = Vec<Deed>> {
    let stepped = (0..=STREAMS, 1..4_i64, prop::bool::weighted(0.25), prop::bool::weighted(0.15), 1..100_u8)
        .prop_map(|(scope, id, starts, ends, value)| Deed::Step { scope, id, starts, ends, value });
    let cancelled = (0..STREAMS).prop_map(|scope| Deed::Cancel { scope });
    let closed = (0..STREAMS).prop_map(|scope| Deed::Close { scope });
    prop::collection::vec(prop_oneof![20 => stepped, 1 => cancelled, 1 => closed], 1..120)
}

/// What each sequence must have summed up, one step after another, if there were no others.
#[derive(Default)]
struct Reference(HashMap<(usize, i64), f32>);

impl Reference {
    /// The step's result; `None` if the sequence is not alive.
    fn step(&mut self, scope: usize, id: i64, starts: bool, ends: bool, value: f32) -> Option<f32> {
        if starts {
            self.0.insert((scope, id), 0.0);
        }
        let sum = self.0.get_mut(&(scope, id))?;
        *sum += value;
        let expected = *sum + value;
        if ends {
            self.0.remove(&(scope, id));
        }
        Some(expected)
    }

    fn forget(&mut self, scope: usize) {
        self.0.retain(|(known, _), _| *known != scope);
    }
}

fn counted(id: i64, starts: bool, ends: bool, value: f32) -> ModelInferRequest {
    step(request("counter", "x", &[1, 1], &[value]), id, starts, ends)
}

/// A client's stream, and what is still to come on it.
struct Scope {
    stream: InferStream,
    expected: Vec<Option<f32>>,
}

impl Scope {
    async fn open(client: &mut InferClient) -> Self {
        Self { stream: InferStream::open(client).await, expected: Vec::new() }
    }

    async fn read_all(&mut self) {
        for expected in self.expected.drain(..) {
            match (self.stream.next().await, expected) {
                (Ok(found), Some(expected)) => assert_eq!(found, [expected]),
                (Err(error), None) => assert!(error.contains("sequence_start"), "{error}"),
                (found, expected) => panic!("expected {expected:?}, got {found:?}"),
            }
        }
    }
}

async fn play(server: &Server, deeds: Vec<Deed>) {
    let mut reference = Reference::default();
    let mut clients = Vec::new();
    let mut scopes = Vec::new();
    for _ in 0..STREAMS {
        let mut client = infer_client(server).await;
        scopes.push(Scope::open(&mut client).await);
        clients.push(client);
    }
    let mut unary = clients[0].clone();
    for deed in deeds {
        match deed {
            Deed::Step { scope, id, starts, ends, value } => {
                let expected = reference.step(scope, id, starts, ends, f32::from(value));
                let request = counted(id, starts, ends, f32::from(value));
                if let Some(scope) = scopes.get_mut(scope) {
                    scope.stream.send(request);
                    scope.expected.push(expected);
                    continue;
                }
                match (patiently(unary.model_infer(request)).await, expected) {
                    (Ok(response), Some(expected)) => assert_eq!(numbers(response.get_ref()), [expected]),
                    (Err(status), None) => assert_eq!(status.code(), Code::InvalidArgument, "{status}"),
                    (found, expected) => panic!("expected {expected:?}, got {found:?}"),
                }
            }
            Deed::Cancel { scope } => {
                scopes[scope] = Scope::open(&mut clients[scope]).await;
                reference.forget(scope);
            }
            Deed::Close { scope } => {
                scopes[scope].stream.finish_sending();
                scopes[scope].read_all().await;
                assert!(matches!(scopes[scope].stream.message().await, Ok(None)), "the stream ends well");
                scopes[scope] = Scope::open(&mut clients[scope]).await;
                reference.forget(scope);
            }
        }
    }
    for scope in &mut scopes {
        scope.read_all().await;
    }
    drop(scopes);
    // Sequences over unary calls outlive the case, and the next one would meet them.
    for ((_, id), _) in reference.0.into_iter().filter(|((scope, _), _)| *scope == STREAMS) {
        patiently(unary.model_infer(counted(id, false, true, 1.0))).await.expect("it is alive");
    }
    until("all states are freed", || server.devices().streams() == 0).await;
}

#[test]
fn no_state_leaks_from_one_sequence_to_another_whatever_clients_do() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let server = runtime.block_on(serve(bare_config(), &[("counter", COUNTER)]));
    let config = ProptestConfig { cases: 64, source_file: Some(file!()), ..ProptestConfig::default() };
    let result = TestRunner::new(config).run(&deeds(), |deeds| {
        runtime.block_on(play(&server, deeds));
        Ok(())
    });
    assert!(result.is_ok(), "{}", result.expect_err("checked"));
    runtime.block_on(server.drain());
}

#[tokio::test]
async fn the_end_of_a_stream_frees_its_sequences_at_once_and_those_of_others_stay() {
    let server = serve(bare_config(), &[("counter", COUNTER)]).await;
    let mut client = infer_client(&server).await;
    let (mut leaves, mut stays) = (InferStream::open(&mut client).await, InferStream::open(&mut client).await);
    for id in 1..=50 {
        leaves.send(counted(id, true, false, 1.0));
        assert_eq!(leaves.next().await, Ok(vec![2.0]));
    }
    stays.send(counted(1, true, false, 5.0));
    assert_eq!(stays.next().await, Ok(vec![10.0]));
    assert_eq!(server.devices().streams(), 51);
    drop(leaves);
    until("only the other's sequence is left", || server.devices().streams() == 1).await;
    stays.send(counted(1, false, false, 5.0));
    assert_eq!(stays.next().await, Ok(vec![15.0]));
    let mut comes_back = InferStream::open(&mut client).await;
    comes_back.send(counted(1, false, false, 1.0));
    let error = comes_back.next().await.expect_err("it is gone");
    assert!(error.contains("has not begun on this stream"), "{error}");
}

#[tokio::test]
async fn an_idle_sequence_is_freed_and_its_next_request_hears_why() {
    let mut config = bare_config();
    config.sequence.idle_timeout_s = 1;
    let server = serve(config, &[("counter", COUNTER)]).await;
    let mut client = infer_client(&server).await;
    let mut stream = InferStream::open(&mut client).await;
    stream.send(counted(1, true, false, 1.0));
    stream.next().await.expect("it began");
    patiently(client.model_infer(counted(1, true, false, 1.0))).await.expect("it began");
    until("both are freed", || server.devices().streams() == 0).await;
    stream.send(counted(1, false, false, 1.0));
    let error = stream.next().await.expect_err("it is gone");
    assert!(error.contains("was freed after 1s without a request (sequence.idle_timeout_s)"), "{error}");
    let status = patiently(client.model_infer(counted(1, false, false, 1.0))).await.expect_err("it is gone");
    assert_eq!((status.code(), limits(&status)), (Code::InvalidArgument, vec!["sequence.idle_timeout_s".to_owned()]));
    stream.send(counted(1, true, true, 3.0));
    assert_eq!(stream.next().await, Ok(vec![6.0]), "a new START begins afresh");
}

#[tokio::test]
async fn the_sequences_of_a_stream_are_limited_and_it_says_so() {
    let mut config = bare_config();
    config.sequence.max_per_stream = 2;
    let server = serve(config, &[("counter", COUNTER)]).await;
    let mut stream = InferStream::open(&mut infer_client(&server).await).await;
    for id in 1..=3 {
        stream.send(counted(id, true, false, 1.0));
    }
    assert!(stream.next().await.is_ok() && stream.next().await.is_ok());
    let error = stream.next().await.expect_err("one too many");
    assert!(error.contains("2 sequences are open on this stream, as many as sequence.max_per_stream allows"), "{error}");
    stream.send(counted(1, false, true, 1.0));
    stream.send(counted(3, true, false, 1.0));
    assert!(stream.next().await.is_ok() && stream.next().await.is_ok(), "an end makes room");
}

#[tokio::test]
async fn without_a_sequence_nothing_is_remembered_and_without_state_sequences_mean_nothing() {
    let server = serve(bare_config(), &[("counter", COUNTER), ("doubler", DOUBLER)]).await;
    let mut client = infer_client(&server).await;
    let mut stream = InferStream::open(&mut client).await;
    for _ in 0..2 {
        // Correlation id 0; three items, each from zero.
        let rows = step(request("counter", "x", &[3, 1], &[1.0, 2.0, 3.0]), 0, false, false);
        assert_eq!(numbers(patiently(client.model_infer(rows.clone())).await.expect("a result").get_ref()), [2.0, 4.0, 6.0]);
        stream.send(rows);
        assert_eq!(stream.next().await, Ok(vec![2.0, 4.0, 6.0]));
    }
    let rows = step(request("doubler", "x", &[2, 4], &[1.0; 8]), 7, false, false);
    assert_eq!(numbers(patiently(client.model_infer(rows.clone())).await.expect("a result").get_ref()), [2.0; 8]);
    stream.send(rows);
    assert_eq!(stream.next().await, Ok(vec![2.0; 8]));
    let two_steps = step(request("counter", "x", &[2, 1], &[1.0, 2.0]), 7, true, false);
    let status = patiently(client.model_infer(two_steps)).await.expect_err("one step at a time");
    assert!(status.message().contains("one step of it, but this one holds 2 items"), "{status}");
}

#[tokio::test]
async fn a_draining_server_answers_the_steps_it_has_and_ends_streams_and_sequences() {
    let server = serve(bare_config(), &[("counter", COUNTER)]).await;
    let mut client = infer_client(&server).await;
    let mut stream = InferStream::open(&mut client).await;
    stream.send(counted(1, true, false, 1.0));
    stream.next().await.expect("it began");
    patiently(client.model_infer(counted(2, true, false, 1.0))).await.expect("it began");
    let draining = tokio::spawn(server.drain());
    let status = stream.message().await.expect_err("the stream ends");
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    patiently(draining).await.expect("no sequence holds the drain up");
}

/// Sends requests one after another until `stop` is set, and checks each answer against `expected`, given how many came before.
async fn keep_asking(
    mut stream: InferStream,
    stop: Arc<AtomicBool>,
    ask: impl Fn(usize) -> ModelInferRequest,
    expected: impl Fn(usize) -> f32,
) -> usize {
    let mut asked = 0;
    while !stop.load(Ordering::Relaxed) {
        stream.send(ask(asked));
        assert_eq!(stream.next().await.expect("no reload is an error")[0], expected(asked));
        asked += 1;
    }
    asked
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reloads_under_load_are_not_errors_and_sequences_finish_on_the_copy_that_they_began_on() {
    const RELOADS: usize = 50;
    let folder = folder_of(&[("counter", &tried_briefly(COUNTER)), ("doubler", &tried_briefly(DOUBLER))]);
    let mut config = bare_config();
    config.models.dir = Some(folder.path().to_owned());
    let server = Server::start(config).await.unwrap_or_else(|error| panic!("{error}"));
    let mut client = infer_client(&server).await;
    let stop = Arc::<AtomicBool>::default();
    let mut asking = Vec::new();
    for _ in 0..4 {
        let sequence = InferStream::open(&mut client).await;
        let ask = |asked| counted(7, asked == 0, false, 1.0);
        asking.push(tokio::spawn(keep_asking(sequence, Arc::clone(&stop), ask, |asked| asked as f32 + 2.0)));
        let stateless = InferStream::open(&mut client).await;
        let ask = |_| request("doubler", "x", &[1, 4], &[1.0; 4]);
        asking.push(tokio::spawn(keep_asking(stateless, Arc::clone(&stop), ask, |_| 2.0)));
    }
    // Over unary calls, too, a sequence lives on through all the reloads.
    patiently(client.model_infer(counted(9, true, false, 1.0))).await.expect("it begins");
    for reload in 0..RELOADS {
        for model in ["counter", "doubler"] {
            server.repository().load(model).await.expect("nothing is wrong with it");
        }
        let step = patiently(client.model_infer(counted(9, false, false, 1.0))).await.expect("it is alive");
        assert_eq!(numbers(step.get_ref()), [reload as f32 + 3.0]);
        let single = patiently(client.model_infer(request("doubler", "x", &[1, 4], &[3.0; 4]))).await.expect("a result");
        assert_eq!(numbers(single.get_ref()), [6.0; 4]);
    }
    stop.store(true, Ordering::Relaxed);
    for asked in join_all(asking).await {
        assert!(asked.expect("no error and no wrong sum") > 0);
    }
    patiently(client.model_infer(counted(9, false, true, 1.0))).await.expect("it ends");
    until("only the newest copies are left", || server.devices().streams() == 0 && server.devices().models() == 2).await;
}
