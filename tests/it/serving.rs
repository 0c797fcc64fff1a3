//! A server in this process, models made for the tests, and a client that speaks all four modes.

use std::time::Duration;

use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::mpsc,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Code, Request, Status, Streaming,
    transport::{Channel, Endpoint},
};
use tonic_types::StatusExt as _;

use tidemill::{
    app::Server,
    config::Config,
    device::{Devices, QueueStatus},
    proto::v1::{
        FeedRequest, FeedResponse, Item, ItemResult, Opened, PayloadKind, StreamConfig, Summary, Tensor, feed_request::Message,
        feed_response::Event, inference_service_client::InferenceServiceClient, item_result::Outcome,
    },
    scheduler::{Ledger, ModelKey},
};

pub(crate) use crate::start::{bare_config, folder_of, serve, write};

pub(crate) type Client = InferenceServiceClient<Channel>;

/// Long enough for any machine; only a broken test waits for it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Items that are sent together share a call sooner or later; this many rounds without that are a fault.
pub(crate) const ROUNDS_MAX: usize = 1_000;

/// Doubles four numbers. A leading -1 makes the call fail.
pub(crate) const DOUBLER: &str = "
engine = 'synthetic'
[[inputs]]
name = 'x'
datatype = 'FP32'
dims = ['batch', 4]
[[outputs]]
name = 'y'
datatype = 'FP32'
dims = ['batch', 4]
[synthetic]
fail_value = -1.0
";

/// The same model with little time for its trial calls, which leave the cores to anyone with work until that time is over: for tests that
/// load a model often while all cores are busy.
pub(crate) fn tried_briefly(manifest: &str) -> String {
    format!("{manifest}\n[trial]\nseconds = 0.05\n")
}

/// Adds to a number all numbers that its stream has sent so far, including itself.
pub(crate) const COUNTER: &str = "
engine = 'synthetic'
[[inputs]]
name = 'x'
datatype = 'FP32'
dims = ['batch', 1]
[[inputs]]
name = 'sum'
datatype = 'FP32'
dims = ['batch', 1]
[[outputs]]
name = 'y'
datatype = 'FP32'
dims = ['batch', 1]
[[outputs]]
name = 'next'
datatype = 'FP32'
dims = ['batch', 1]
[[states]]
input = 'sum'
output = 'next'
[synthetic]
kind = 'identity'
";

/// A doubler of one item a call, each of which takes a lane for `call_us` microseconds.
pub(crate) fn slow_doubler(call_us: u64) -> String {
    format!("max_batch = 1\n{DOUBLER}cost_per_call_us = {call_us}\ncost_mode = 'blocked'\n")
}

/// [`bare_config`] with the speech model.
pub(crate) fn speech_config() -> Config {
    let mut config = bare_config();
    config.models.embedded = true;
    config
}

/// A separate connection.
pub(crate) async fn connect(server: &Server) -> Client {
    connect_with(server, |endpoint| endpoint).await
}

/// A separate connection with these settings.
pub(crate) async fn connect_with(server: &Server, settings: impl FnOnce(Endpoint) -> Endpoint) -> Client {
    let endpoint = Endpoint::from_shared(format!("http://{}", server.grpc_addr())).expect("an address");
    Client::new(settings(endpoint).connect().await.expect("the server accepts"))
}

/// Fails a test that hangs.
pub(crate) async fn patiently<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("an end within the test's patience")
}

/// Waits until `condition` holds. What the server says about itself can only be asked for, so this asks again and again.
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let asking = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    if tokio::time::timeout(PATIENCE, asking).await.is_err() {
        panic!("never came true: {what}");
    }
}

/// One model's account of items; outlives its server.
pub(crate) struct Account {
    devices: Devices,
    key: ModelKey,
}

impl Account {
    pub(crate) fn of(server: &Server, model: &str) -> Self {
        let key = server.registry().get(model, None).expect("the model serves").key;
        Self { devices: server.devices().clone(), key }
    }

    pub(crate) fn status(&self) -> QueueStatus {
        self.devices.status(self.key).expect("the model is there")
    }

    pub(crate) fn ledger(&self) -> Ledger {
        self.status().ledger
    }

    /// Waits until no stream is open and no item is left, and returns the account.
    pub(crate) async fn settled(&self) -> Ledger {
        until("no stream and no item is left", || self.devices.streams() == 0 && self.ledger().open() == 0).await;
        self.ledger()
    }
}

/// Sums up all series of a metric whose labels contain `labels`.
pub(crate) fn metric(text: &str, name: &str, labels: &str) -> f64 {
    let values: Vec<f64> = text
        .lines()
        .filter_map(|line| line.strip_prefix(name)?.rsplit_once(' '))
        .filter(|(found, _)| (found.is_empty() || found.starts_with('{')) && found.contains(labels))
        .map(|(_, value)| value.parse().expect("a number"))
        .collect();
    assert!(!values.is_empty(), "no series {name} with {labels:?} in\n{text}");
    values.iter().sum()
}

/// Status and body of a page of the admin port.
pub(crate) async fn page(address: std::net::SocketAddr, path: &str) -> (u16, String) {
    let mut connection = TcpStream::connect(address).await.expect("the admin port accepts");
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    connection.write_all(request.as_bytes()).await.expect("a request is taken");
    let mut response = String::new();
    connection.read_to_string(&mut response).await.expect("an answer in text");
    let (head, body) = response.split_once("\r\n\r\n").expect("a head and a body");
    (head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status"), body.to_owned())
}

// ---- Messages ---------------------------------------------------------------------------------------------------------------

pub(crate) fn tensors_of(model: &str) -> StreamConfig {
    StreamConfig { model: model.to_owned(), payload: PayloadKind::Tensors.into(), ..StreamConfig::default() }
}

pub(crate) fn pcm_of(model: &str) -> StreamConfig {
    StreamConfig { model: model.to_owned(), payload: PayloadKind::PcmS16le.into(), ..StreamConfig::default() }
}

/// An item of one FP32 tensor of the model's own shape.
pub(crate) fn item(id: &str, values: &[f32]) -> Item {
    let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    Item { id: id.to_owned(), inputs: vec![Tensor { data: data.into(), ..Tensor::default() }], deadline: None }
}

pub(crate) fn message(message: Message) -> FeedRequest {
    FeedRequest { message: Some(message) }
}

/// The first output's numbers.
pub(crate) fn values(tensors: &[Tensor]) -> Vec<f32> {
    tensors[0].data.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().expect("four bytes"))).collect()
}

/// The outputs of a result, or the code of its error.
pub(crate) fn outputs(result: &ItemResult) -> Result<&[Tensor], Code> {
    match result.outcome.as_ref().expect("an outcome") {
        Outcome::Outputs(outputs) => Ok(&outputs.tensors),
        Outcome::Error(status) => Err(Code::from(status.code)),
    }
}

/// The numbers of a result, or the code of its error.
pub(crate) fn outcome(result: &ItemResult) -> Result<Vec<f32>, Code> {
    outputs(result).map(values)
}

/// The first number of each result, all of which must be there and in order.
pub(crate) fn first_values(results: &[ItemResult]) -> Vec<f32> {
    for (index, result) in results.iter().enumerate() {
        assert_eq!(result.seq, index as u64, "results come in order and without gaps");
    }
    results.iter().map(|result| outcome(result).expect("outputs")[0]).collect()
}

pub(crate) fn assert_close(left: &[f32], right: &[f32], tolerance: f32) {
    assert_eq!(left.len(), right.len());
    for (index, (left, right)) in left.iter().zip(right).enumerate() {
        assert!((left - right).abs() <= tolerance, "number {index}: {left} and {right} differ by more than {tolerance}");
    }
}

/// Field names of a status's BadRequest details.
pub(crate) fn fields(status: &Status) -> Vec<String> {
    let violations = status.get_details_bad_request().map(|details| details.field_violations).unwrap_or_default();
    violations.into_iter().map(|violation| violation.field).collect()
}

/// Limits that a status's QuotaFailure details name.
pub(crate) fn limits(status: &Status) -> Vec<String> {
    let violations = status.get_details_quota_failure().map(|details| details.violations).unwrap_or_default();
    violations.into_iter().map(|violation| violation.subject).collect()
}

// ---- Feeds ------------------------------------------------------------------------------------------------------------------

/// A client's end of a feed.
pub(crate) struct Feed {
    requests: Option<mpsc::Sender<FeedRequest>>,
    responses: Streaming<FeedResponse>,
}

/// Everything that a feed said before it ended.
#[derive(Debug, Default)]
pub(crate) struct Said {
    pub(crate) results: Vec<ItemResult>,
    pub(crate) events: Vec<Event>,
    pub(crate) completed: Option<Summary>,
    pub(crate) error: Option<Status>,
}

impl Feed {
    /// Calls the method and sends nothing.
    pub(crate) async fn call(client: &mut Client) -> Self {
        Self::call_within(client, None).await
    }

    /// The same with a `grpc-timeout`, which this client leaves to the server.
    pub(crate) async fn call_within(client: &mut Client, limit: Option<Duration>) -> Self {
        let (sender, receiver) = mpsc::channel(4);
        let mut request = Request::new(ReceiverStream::new(receiver));
        if let Some(limit) = limit {
            request.set_timeout(limit);
        }
        let responses = client.feed(request).await.expect("headers").into_inner();
        Self { requests: Some(sender), responses }
    }

    pub(crate) async fn open(client: &mut Client, config: StreamConfig) -> (Self, Opened) {
        let mut feed = Self::call(client).await;
        feed.send(Message::Open(config)).await;
        let Some(Event::Opened(opened)) = feed.next().await.expect("the stream opens") else { panic!("no `opened`") };
        (feed, opened)
    }

    /// Sends a message, and waits while the server holds the sender back. A message to a stream that has ended is lost.
    pub(crate) async fn send(&self, content: Message) {
        let requests = self.requests.as_ref().expect("the sending side is open");
        let _ = requests.send(message(content)).await;
    }

    /// A sender that can be moved to a task.
    pub(crate) fn sender(&self) -> mpsc::Sender<FeedRequest> {
        self.requests.clone().expect("the sending side is open")
    }

    pub(crate) fn finish_sending(&mut self) {
        self.requests = None;
    }

    /// The next event; `None` at the end of a stream that ended well.
    pub(crate) async fn next(&mut self) -> Result<Option<Event>, Status> {
        patiently(self.responses.message()).await.map(|response| response.map(|response| response.event.expect("an event")))
    }

    pub(crate) async fn next_result(&mut self) -> ItemResult {
        match self.next().await {
            Ok(Some(Event::Result(result))) => result,
            other => panic!("expected a result, got {other:?}"),
        }
    }

    /// Reads to the end.
    pub(crate) async fn rest(&mut self) -> Said {
        let mut said = Said::default();
        loop {
            match self.next().await {
                Ok(Some(Event::Result(result))) => said.results.push(result),
                Ok(Some(Event::Completed(summary))) => said.completed = Some(summary),
                Ok(Some(event)) => said.events.push(event),
                Ok(None) => return said,
                Err(status) => {
                    said.error = Some(status);
                    return said;
                }
            }
        }
    }

    /// Sends all of `messages` and closes, while reading to the end.
    pub(crate) async fn run(client: &mut Client, config: StreamConfig, messages: Vec<Message>) -> Said {
        let (mut feed, _) = Self::open(client, config).await;
        let sender = feed.sender();
        feed.finish_sending();
        let sending = tokio::spawn(async move {
            for content in messages {
                if sender.send(message(content)).await.is_err() {
                    return;
                }
            }
        });
        let said = feed.rest().await;
        sending.abort();
        said
    }
}

/// Cuts bytes into chunks of these sizes, again and again.
pub(crate) fn chunks(bytes: &Bytes, sizes: &[usize]) -> Vec<Message> {
    let mut rest = bytes.clone();
    let mut chunks = Vec::new();
    for size in sizes.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        chunks.push(Message::Chunk(rest.split_to((*size).min(rest.len()))));
    }
    chunks
}
