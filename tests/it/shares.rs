//! One client that takes all it can, and others that are served all the same. Attackers come from 127.0.0.2 and up, bystanders from
//! 127.0.0.1.

use std::net::{IpAddr, Ipv4Addr};

use futures::future::join_all;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    task::JoinHandle,
};
use tonic::{Code, Status};

use tidemill::{
    app::Server,
    domain::Outcome,
    proto::v1::{PredictRequest, Priority, StreamConfig, feed_request::Message, predict_request::Payload},
};

use crate::{
    http_client::{Http, infer_json},
    infer::{InferClient, numbers, request, step},
    serving::{
        Account, COUNTER, Client, DOUBLER, Feed, bare_config, connect, connect_with, item, limits, metric, patiently, serve,
        slow_doubler, tensors_of, until,
    },
};

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// An address of this machine other than [`HERE`].
fn attacker(number: u8) -> IpAddr {
    Ipv4Addr::new(127, 0, 0, number).into()
}

async fn connect_from(server: &Server, ip: IpAddr) -> Client {
    connect_with(server, |endpoint| endpoint.local_address(Some(ip))).await
}

async fn predict(client: &mut Client, model: &str) -> Result<(), Status> {
    let payload = Some(Payload::Item(item("", &[1.0; 4])));
    let request = PredictRequest { model: model.to_owned(), payload, ..PredictRequest::default() };
    patiently(client.predict(request)).await.map(drop)
}

/// A client that sends as much as the server takes on each of its feeds, and reads the answers.
struct Flood {
    tasks: Vec<JoinHandle<()>>,
}

impl Flood {
    async fn start(clients: &[Client], feeds: usize, config: StreamConfig) -> Self {
        let mut tasks = Vec::new();
        for client in clients.iter().cycle().take(feeds) {
            let (mut feed, _) = Feed::open(&mut client.clone(), config.clone()).await;
            let sender = feed.sender();
            tasks.push(tokio::spawn(async move {
                let item = || crate::serving::message(Message::Item(item("", &[1.0; 4])));
                while sender.send(item()).await.is_ok() {}
            }));
            tasks.push(tokio::spawn(async move { while let Ok(Some(_)) = feed.next().await {} }));
        }
        Self { tasks }
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

// ---- The queue --------------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn feeds_that_fill_the_queue_leave_room_for_the_calls_of_others_whatever_their_priority() {
    let mut config = bare_config();
    config.scheduler.max_queued_items = 800;
    config.scheduler.max_queued_items_per_model = 800;
    let server = serve(config, &[("slow", &slow_doubler(1_000)), ("other", DOUBLER)]).await;
    let slow = Account::of(&server, "slow");
    for priority in [Priority::Low, Priority::Normal, Priority::High] {
        let flooding = connect_from(&server, attacker(2)).await;
        let feed = StreamConfig { window_items: 64, priority: priority.into(), ..tensors_of("slow") };
        let flood = Flood::start(std::slice::from_ref(&flooding), 40, feed).await;
        until("the flood has its share", || slow.status().queued > 600).await;
        let mut bystander = connect(&server).await;
        for _ in 0..25 {
            for model in ["slow", "other"] {
                predict(&mut bystander, model).await.unwrap_or_else(|status| panic!("{priority:?}, {model}: {status}"));
            }
        }
        assert!(slow.status().queued < 800, "{priority:?}: something is left");
        // One that comes just when an item has left is served.
        let refused = loop {
            if let Err(refused) = predict(&mut flooding.clone(), "slow").await {
                break refused;
            }
        };
        assert_eq!((refused.code(), limits(&refused)), (Code::ResourceExhausted, vec!["scheduler.max_queued_items".to_owned()]));
        assert!(refused.message().contains("this client has used up its share of the 800"), "{refused}");
        drop(flood);
        slow.settled().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_with_many_feeds_gets_no_more_than_one_with_a_single_feed() {
    let server = serve(bare_config(), &[("slow", &slow_doubler(2_000))]).await;
    let crowd = connect(&server).await;
    let flood = Flood::start(&[crowd], 32, StreamConfig { window_items: 16, ..tensors_of("slow") }).await;
    let account = Account::of(&server, "slow");
    until("the crowd waits", || account.status().queued > 300).await;
    let before = account.ledger().outcome(Outcome::Ok);
    let mut single = connect(&server).await;
    let messages = (0..200).map(|_| Message::Item(item("", &[1.0; 4]))).collect();
    let said = Feed::run(&mut single, StreamConfig { window_items: 64, ..tensors_of("slow") }, messages).await;
    assert_eq!(said.results.len(), 200);
    let ran = account.ledger().outcome(Outcome::Ok) - before;
    drop(flood);
    // If shares went by stream, it would have been 200 of 6,600.
    assert!(ran < 200 * 4, "{ran} items ran while the single feed had its 200");
}

// ---- Streams ----------------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_address_cannot_take_all_streams_however_many_connections_it_opens() {
    let mut config = bare_config();
    config.session.max_streams = 80;
    let server = serve(config, &[("m", DOUBLER)]).await;
    let crowd = join_all((0..4).map(|_| connect_from(&server, attacker(2)))).await;
    let (mut held, mut refused) = (Vec::new(), 0);
    for client in crowd.iter().cycle().take(100) {
        let mut feed = Feed::call(&mut client.clone()).await;
        feed.send(Message::Open(tensors_of("m"))).await;
        match feed.next().await {
            Ok(_) => held.push(feed),
            Err(status) => {
                assert_eq!((status.code(), limits(&status)), (Code::ResourceExhausted, vec!["session.max_streams".to_owned()]));
                refused += 1;
            }
        }
    }
    assert!((60..=70).contains(&held.len()) && held.len() + refused == 100, "{} of 80", held.len());
    let mut others = vec![connect(&server).await, connect_from(&server, attacker(3)).await];
    for other in &mut others {
        let (_feed, _) = Feed::open(other, tensors_of("m")).await;
        predict(other, "m").await.expect("it is served");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tenants_that_a_client_makes_up_gain_it_nothing() {
    let mut config = bare_config();
    config.session.max_streams = 80;
    config.session.tenant_metadata = "x-tenant".to_owned();
    let server = serve(config, &[("m", DOUBLER)]).await;
    let mut client = connect(&server).await;
    let mut held = Vec::new();
    for tenant in 0..100 {
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        let mut call = tonic::Request::new(tokio_stream::wrappers::ReceiverStream::new(receiver));
        call.metadata_mut().insert("x-tenant", format!("t{tenant}").parse().expect("text"));
        sender.send(crate::serving::message(Message::Open(tensors_of("m")))).await.expect("there is room");
        let mut responses = patiently(client.feed(call)).await.expect("headers").into_inner();
        if patiently(responses.message()).await.is_ok() {
            held.push((sender, responses));
        }
    }
    assert!(held.len() <= 70, "{} of 80", held.len());
    predict(&mut connect(&server).await, "m").await.expect("another connection is served");
}

// ---- Sequences --------------------------------------------------------------------------------------------------------------

async fn infer_client_from(server: &Server, ip: IpAddr) -> InferClient {
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", server.grpc_addr())).expect("an address");
    InferClient::new(endpoint.local_address(Some(ip)).connect().await.expect("the server accepts"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sequences_of_one_client_leave_streams_for_others_and_end_when_it_has_gone() {
    let mut config = bare_config();
    config.session.max_streams = 80;
    config.sequence.grace_s = 0;
    let server = serve(config, &[("counter", COUNTER)]).await;
    let mut client = infer_client_from(&server, attacker(2)).await;
    let mut begun = 0;
    for id in 1..=100 {
        let start = step(request("counter", "x", &[1, 1], &[1.0]), id, true, false);
        match patiently(client.model_infer(start)).await {
            Ok(_) => begun += 1,
            Err(status) => assert_eq!(limits(&status), ["session.max_streams"], "{status}"),
        }
    }
    assert!((60..=70).contains(&begun), "{begun} of 80");
    let mut other = infer_client_from(&server, HERE).await;
    let start = step(request("counter", "x", &[1, 1], &[1.0]), 1_000, true, true);
    patiently(other.model_infer(start)).await.expect("others are served");
    drop(client);
    until("they have ended with their client", || server.devices().streams() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sequence_may_use_a_connection_for_each_step() {
    let server = serve(bare_config(), &[("counter", COUNTER)]).await;
    for (value, expected) in [(1.0, 2.0), (2.0, 5.0), (3.0, 9.0)] {
        let mut client = infer_client_from(&server, HERE).await;
        let next = step(request("counter", "x", &[1, 1], &[value]), 7, value == 1.0, value == 3.0);
        let response = patiently(client.model_infer(next)).await.expect("the sequence goes on");
        assert_eq!(numbers(response.get_ref()), [expected]);
        drop(client);
        until("the connection is closed", || metric(&server.metrics(), "tidemill_connections_open", "") == 0.0).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sequence_whose_client_has_gone_says_so_to_the_next_client() {
    let mut config = bare_config();
    config.sequence.grace_s = 0;
    let server = serve(config, &[("counter", COUNTER)]).await;
    let mut client = infer_client_from(&server, HERE).await;
    patiently(client.model_infer(step(request("counter", "x", &[1, 1], &[1.0]), 7, true, false))).await.expect("it begins");
    drop(client);
    until("it has ended", || server.devices().streams() == 0).await;
    let mut late = infer_client_from(&server, HERE).await;
    let status = patiently(late.model_infer(step(request("counter", "x", &[1, 1], &[1.0]), 7, false, false))).await;
    let status = status.expect_err("it has ended");
    assert_eq!((status.code(), limits(&status)), (Code::InvalidArgument, vec!["sequence.grace_s".to_owned()]), "{status}");
}

// ---- Connections ------------------------------------------------------------------------------------------------------------

async fn socket_from(ip: IpAddr, to: std::net::SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind((ip, 0).into()).expect("a local address");
    socket.connect(to).await.expect("the backlog takes it")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_make_room_on_either_port() {
    let mut config = bare_config();
    config.grpc.max_connections = 8;
    config.http.max_connections = 8;
    let server = serve(config, &[("m", DOUBLER)]).await;
    let mut idle = Vec::new();
    for _ in 0..8 {
        let mut client = connect(&server).await;
        predict(&mut client, "m").await.expect("it is served");
        let mut http = Http::connect(&server).await;
        assert_eq!(http.get("/v2/health/live").await.status, 200);
        idle.push((client, http));
    }
    for _ in 0..4 {
        predict(&mut connect(&server).await, "m").await.expect("an idle one has made room");
        assert_eq!(Http::connect(&server).await.post("/v2/models/m/infer", infer_json(&[4], &[1.0; 4])).await.status, 200);
    }
    let closed = |reason: &str| metric(&server.metrics(), "tidemill_connections_closed_total", &format!("reason=\"{reason}\""));
    assert!(closed("room") >= 2.0);
    assert_eq!(closed("share"), 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_holds_all_it_may_is_not_let_in_and_others_are() {
    let mut config = bare_config();
    config.http.max_connections = 16;
    config.scheduler.lanes = 1;
    let server = serve(config, &[("m", DOUBLER)]).await;
    let begun = b"POST /v2/models/m/infer HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\ncontent-length: 100\r\n\r\n";
    let mut crowd = Vec::new();
    for _ in 0..14 {
        let mut stream = socket_from(attacker(2), server.http_addr()).await;
        stream.write_all(begun).await.expect("sent");
        // A request whose body does not come keeps the connection busy.
        let mut heard = [0; 12];
        patiently(stream.read_exact(&mut heard)).await.expect("the body is awaited");
        assert_eq!(&heard, b"HTTP/1.1 100");
        crowd.push(stream);
    }
    let mut refused = socket_from(attacker(2), server.http_addr()).await;
    let heard = patiently(refused.read(&mut [0])).await;
    assert!(matches!(heard, Ok(0) | Err(_)), "it is closed");
    let mut other = Http::connect(&server).await;
    assert_eq!(other.get("/v2/health/live").await.status, 200);
    assert_eq!(metric(&server.metrics(), "tidemill_connections_closed_total", "reason=\"share\""), 1.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_without_a_call_is_closed_and_one_with_a_call_is_not() {
    let mut config = bare_config();
    config.grpc.idle_timeout_s = 1;
    let server = serve(config, &[("m", DOUBLER)]).await;
    let mut busy = connect(&server).await;
    let (mut feed, _) = Feed::open(&mut busy, tensors_of("m")).await;
    let mut idle = connect(&server).await;
    predict(&mut idle, "m").await.expect("it is served");
    let closed = || metric(&server.metrics(), "tidemill_connections_closed_total", "reason=\"idle\"");
    until("the idle one is closed", || closed() == 1.0).await;
    until("only the other is open", || metric(&server.metrics(), "tidemill_connections_open", "") == 1.0).await;
    feed.send(Message::Item(item("", &[1.0; 4]))).await;
    feed.next_result().await;
    predict(&mut idle, "m").await.expect("a client connects again");
}
