//! Requests designed to cost far more than their length.

use std::{fs::File, future::poll_fn, process};

use bytes::Bytes;
use futures::future::join_all;
use rustix::{fs::Mode, shm};
use tonic::Code;

use tidemill::{
    app::Server,
    config::{SequenceConfig, SessionConfig, SharedMemoryConfig},
    domain::{Address, Datatype, Fault, Peer, Timestamp},
    drain::Drain,
    open_inference::{Conversation, InferRequest, InputTensor, OpenInference, Parameter, Parameters, SHARED_MEMORY_REGION},
    proto::inference::{InferParameter, model_infer_request::InferInputTensor},
    scheduler::TenantKey,
    service::{Caller, Principal, Service, Terms},
    session::OnDrain,
    telemetry::Telemetry,
};

use crate::{
    infer::{InferStream, infer_client, request},
    serving::{Account, COUNTER, DOUBLER, bare_config, patiently, serve},
};

const CALLER: Caller = Caller {
    principal: Principal { peer: Peer { connection: 0, address: Address::Local }, tenant: TenantKey(0), is_proven: false },
    ends_at: Timestamp::NEVER,
};

/// The protocol over what `server` serves, with a window of 8 items and 1,000 bytes.
fn door(server: &Server) -> OpenInference {
    door_with(server, SessionConfig { window_items_max: 8, window_bytes: 1_000, ..SessionConfig::default() })
}

fn door_with(server: &Server, config: SessionConfig) -> OpenInference {
    let drain = Drain::new();
    drain.serve();
    let (repository, devices) = (server.repository().clone(), server.devices().clone());
    let service = Service::new(repository, devices, config, drain, &Telemetry::new());
    OpenInference::new(service, SequenceConfig::default(), SharedMemoryConfig::default())
}

fn conversation(door: &OpenInference) -> Conversation<()> {
    let terms = Terms { on_drain: OnDrain::ReadToEnd, opens_within_memory: false, ..Terms::stream("conversation") };
    Conversation::new(door.clone(), door.service().method(terms), CALLER)
}

/// A request to the doubler with one item for each row, or one whose data is in shared memory.
fn doubled(rows: &[[f32; 4]]) -> InferRequest {
    let data: Vec<u8> = rows.as_flattened().iter().flat_map(|value| value.to_le_bytes()).collect();
    let input = InputTensor {
        name: "x".to_owned(),
        datatype: Datatype::Fp32,
        shape: vec![rows.len() as i64, 4],
        parameters: Parameters::new(),
        data: Some(Bytes::from(data)),
    };
    InferRequest { model: "doubler".to_owned(), inputs: vec![input], ..InferRequest::default() }
}

fn in_shared_memory(mut request: InferRequest, region: &str) -> InferRequest {
    let input = &mut request.inputs[0];
    let bytes = input.data.take().expect("the data").len() as u64;
    input.parameters.insert(SHARED_MEMORY_REGION.to_owned(), Parameter::String(region.to_owned()));
    input.parameters.insert("shared_memory_byte_size".to_owned(), Parameter::Uint64(bytes));
    request
}

/// A shared memory object that is registered under `region` and removed after the test.
struct Object {
    key: String,
    file: File,
}

impl Object {
    fn registered(door: &OpenInference, region: &str, bytes: u64) -> Self {
        let key = format!("/tidemill-test-{}-{region}", process::id());
        let flags = shm::OFlags::CREATE | shm::OFlags::EXCL | shm::OFlags::RDWR;
        let file = File::from(shm::open(&key, flags, Mode::RUSR | Mode::WUSR).expect("an object"));
        file.set_len(bytes).expect("memory");
        door.shared_memory().expect("anybody may").register(region, &key, 0, bytes).expect("it is within the object");
        Self { key, file }
    }
}

impl Drop for Object {
    fn drop(&mut self) {
        let _ = shm::unlink(&self.key);
    }
}

async fn reply(conversation: &mut Conversation<()>) -> Result<usize, Fault> {
    let reply = patiently(poll_fn(|cx| conversation.poll_reply(cx))).await.expect("a reply is owed");
    reply.result.map(|response| response.outputs.len())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_window_of_a_stream_counts_items_and_all_bytes_that_a_request_keeps() {
    let server = serve(bare_config(), &[("doubler", DOUBLER)]).await;
    let door = door(&server);
    let _object = Object::registered(&door, "window", 1_000);
    let mut stream = conversation(&door);
    let one = || doubled(&[[1.0; 4]]);
    for (what, bytes, request) in [
        ("many items", 10, Ok(doubled(&[[1.0; 4]; 8]))),
        ("a long id", 1_000, Ok(one())),
        ("a long message that cannot be read", 1_000, Err(Fault::invalid("id", "too long"))),
        ("much shared memory", 950, Ok(in_shared_memory(doubled(&[[1.0; 4]; 4]), "window"))),
    ] {
        assert!(stream.has_room());
        stream.push((), 10, Ok(one()));
        assert!(stream.has_room(), "{what}");
        stream.push((), bytes, request);
        assert!(!stream.has_room(), "{what}");
        for _ in 0..2 {
            let _ = reply(&mut stream).await;
        }
    }
    assert!(stream.has_room());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_fails_takes_its_room_until_all_its_items_are_over() {
    let server = serve(bare_config(), &[("doubler", DOUBLER)]).await;
    let (mut stream, account) = (conversation(&door(&server)), Account::of(&server, "doubler"));
    let rows = [[-1.0, 1.0, 1.0, 1.0], [1.0; 4], [1.0; 4], [1.0; 4]];
    stream.push((), 0, Ok(doubled(&rows)));
    let fault = reply(&mut stream).await.expect_err("the model fails on the first");
    assert!(fault.message().starts_with("item 0: "), "{fault}");
    let ledger = account.ledger();
    assert_eq!((ledger.received(), ledger.open()), (4, 0));
}

/// On one thread, so that no step is taken up before all have arrived.
#[tokio::test]
async fn steps_of_a_sequence_wait_within_a_limit_of_bytes() {
    let server = serve(bare_config(), &[("counter", COUNTER)]).await;
    let door = door_with(&server, SessionConfig { window_bytes: 8, ..SessionConfig::default() });
    let infer = door.service().method(Terms::unary("infer"));
    let step = |starts| {
        let mut request = doubled(&[[1.0; 4]]);
        (request.model, request.inputs[0].shape) = ("counter".to_owned(), vec![1, 1]);
        request.inputs[0].data = Some(Bytes::from_static(&[0; 4]));
        request.parameters.insert("sequence_id".to_owned(), Parameter::Int64(7));
        request.parameters.insert("sequence_start".to_owned(), Parameter::Bool(starts));
        door.infer(&infer, request, CALLER)
    };
    let mut answers = patiently(join_all([true, false, false, false].map(step))).await;
    let refused = answers.split_off(2);
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    for fault in refused {
        let fault = fault.expect_err("8 bytes wait");
        assert_eq!(fault.limit().map(|limit| limit.name), Some("session.window_bytes"), "{fault}");
    }
    patiently(step(false)).await.expect("nothing waits any more");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_input_that_is_named_often_is_not_read_often() {
    let server = serve(bare_config(), &[("doubler", DOUBLER)]).await;
    let door = door(&server);
    let object = Object::registered(&door, "often", 16);
    object.file.set_len(0).expect("shorter");
    let infer = door.service().method(Terms::unary("infer"));
    let mut often = in_shared_memory(doubled(&[[1.0; 4]]), "often");
    let read = door.infer(&infer, often.clone(), CALLER).await.expect_err("the object is gone");
    assert!(read.message().contains("made shorter"), "{read}");
    often.inputs.push(often.inputs[0].clone());
    let fault = door.infer(&infer, often, CALLER).await.expect_err("it is there twice");
    assert_eq!((fault.field(), fault.message()), (Some("inputs[1].name"), "input 'x' is given twice"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_of_countless_tensors_is_refused_before_it_is_decoded() {
    let server = serve(bare_config(), &[("doubler", DOUBLER)]).await;
    let mut client = infer_client(&server).await;
    let mut countless = request("doubler", "x", &[1, 4], &[1.0; 4]);
    countless.inputs = vec![InferInputTensor::default(); 70_000];
    let status = patiently(client.model_infer(countless)).await.expect_err("too many");
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert!(status.message().contains("more than 4096 tensors") && status.message().contains("message.max_members"), "{status}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fault_about_a_long_name_fits_into_the_headers_of_an_answer() {
    let server = serve(bare_config(), &[("doubler", DOUBLER)]).await;
    let mut client = infer_client(&server).await;
    let mut named = request("doubler", "x", &[1, 4], &[1.0; 4]);
    named.parameters.insert("n".repeat(60_000), InferParameter::default());
    let status = patiently(client.model_infer(named)).await.expect_err("a parameter without a value");
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    assert!(status.message().starts_with("parameter 'nnn"), "{status}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_without_requests_counts_as_a_stream() {
    let mut config = bare_config();
    config.session.max_streams = 1;
    let server = serve(config, &[("doubler", DOUBLER)]).await;
    let mut client = infer_client(&server).await;
    let _first = InferStream::open(&mut client).await;
    let second = patiently(client.model_stream_infer(tokio_stream::pending())).await;
    let status = second.expect_err("one too many");
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert!(status.message().contains("session.max_streams"), "{status}");
}
