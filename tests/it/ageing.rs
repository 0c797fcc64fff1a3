//! Connections that grow old, limits for each address, proxies in front, and pages of listed sites.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    sync::mpsc,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Streaming};

use tidemill::{
    app::Server,
    config::{Config, ProxyProtocol},
    proto::v1::{FeedRequest, FeedResponse, feed_request::Message, feed_response::Event},
};

use crate::{
    http_client::{Http, exchange, infer_json, read_to_end},
    serving::{
        Client, DOUBLER, Feed, bare_config, connect, first_values, item, message, metric, outcome, patiently, serve, tensors_of,
        until,
    },
};

const GET: &str = "GET /v2/health/live HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
const STAYS: &str = "GET /v2/health/live HTTP/1.1\r\nhost: localhost\r\n\r\n";
const OK: &str = "HTTP/1.1 200 ";

/// How many connections the server has closed for this reason.
fn closed(server: &Server, reason: &str) -> f64 {
    metric(&server.metrics(), "tidemill_connections_closed_total", &format!("reason=\"{reason}\""))
}

/// A connection to the HTTP port from this address of this machine.
async fn connect_from(server: &Server, from: [u8; 4]) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(SocketAddr::from((Ipv4Addr::from(from), 0))).expect("an address of this machine");
    patiently(socket.connect(server.http_addr())).await.expect("the HTTP port accepts")
}

/// What is heard when these bytes are sent from this address.
async fn say_from(server: &Server, from: [u8; 4], bytes: &[u8]) -> String {
    let mut stream = connect_from(server, from).await;
    // The server may close while this is still writing.
    let _ = patiently(stream.write_all(bytes)).await;
    read_to_end(&mut stream).await
}

/// A connection that is open and has been answered; `None` if the server closes it at once.
async fn answered(mut stream: TcpStream) -> Option<TcpStream> {
    let _ = patiently(stream.write_all(STAYS.as_bytes())).await;
    let mut heard = [0; 13];
    let read = patiently(stream.read_exact(&mut heard)).await;
    (read.is_ok() && heard == OK.as_bytes()).then_some(stream)
}

// ---- Age --------------------------------------------------------------------------------------------------------------------

fn ageing(grace_s: u64) -> Config {
    let mut config = bare_config();
    (config.server.connection_max_age_s, config.server.connection_grace_s) = (1, grace_s);
    config
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_feed_is_warned_before_its_old_connection_is_closed() {
    let server = serve(ageing(3), &[("m", DOUBLER)]).await;
    let mut client = connect(&server).await;
    let (mut feed, _) = Feed::open(&mut client, tensors_of("m")).await;
    let warning = feed.next().await;
    let Ok(Some(Event::ReconnectAdvised(advised))) = &warning else { panic!("no warning: {warning:?}") };
    let remaining = advised.remaining.expect("it says how long");
    assert!((0..=3).contains(&remaining.seconds), "{remaining:?}");

    // It goes on until then, and another connection does, too.
    feed.send(Message::Item(item("", &[4.0; 4]))).await;
    assert_eq!(outcome(&feed.next_result().await), Ok(vec![8.0; 4]));
    let mut other = connect(&server).await;
    let said = Feed::run(&mut other, tensors_of("m"), vec![Message::Item(item("", &[2.0; 4]))]).await;
    assert_eq!((first_values(&said.results), said.error.map(|error| error.code())), (vec![4.0], None));

    let said = feed.rest().await;
    assert!(said.events.is_empty(), "one warning is enough: {:?}", said.events);
    let error = said.error.expect("its time is up");
    assert_eq!(error.code(), Code::Unavailable, "{error}");
    assert!(error.message().contains("server.connection_max_age_s"), "{error}");
    assert!(closed(&server, "age") >= 1.0);
    server.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_feed_that_its_client_finishes_in_time_ends_well() {
    let server = serve(ageing(60), &[("m", DOUBLER)]).await;
    let mut client = connect(&server).await;
    let (mut feed, _) = Feed::open(&mut client, tensors_of("m")).await;
    assert!(matches!(feed.next().await, Ok(Some(Event::ReconnectAdvised(_)))));
    feed.send(Message::Item(item("", &[4.0; 4]))).await;
    feed.finish_sending();
    let said = feed.rest().await;
    assert_eq!((first_values(&said.results), said.completed.map(|summary| summary.ok)), (vec![8.0], Some(1)));
    until("the connection has gone", || metric(&server.metrics(), "tidemill_connections_open", "") == 0.0).await;
    server.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_connection_without_a_request_is_closed_over_http_too() {
    let server = serve(ageing(60), &[("m", DOUBLER)]).await;
    let mut stream = answered(connect_from(&server, [127, 0, 0, 1]).await).await.expect("an answer");
    assert!(read_to_end(&mut stream).await.ends_with("{\"live\":true}"), "the rest of the answer, and the end");
    assert_eq!((closed(&server, "age"), closed(&server, "idle")), (1.0, 0.0));
    server.drain().await;
}

// ---- Limits for each address ------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_has_no_more_connections_than_it_may() {
    let mut config = bare_config();
    config.server.max_connections_per_peer = 2;
    let server = serve(config, &[("m", DOUBLER)]).await;
    let crowd = [127, 0, 0, 2];
    let first = answered(connect_from(&server, crowd).await).await.expect("a place");
    let _second = answered(connect_from(&server, crowd).await).await.expect("a place");
    assert!(answered(connect_from(&server, crowd).await).await.is_none(), "one too many");
    assert_eq!(closed(&server, "peer"), 1.0);
    let _other = answered(connect_from(&server, [127, 0, 0, 3]).await).await.expect("others have their own");
    let mut local = Vec::new();
    for _ in 0..5 {
        local.push(answered(connect_from(&server, [127, 0, 0, 1]).await).await.expect("this machine is not limited"));
    }
    drop(first);
    let again = async {
        while answered(connect_from(&server, crowd).await).await.is_none() {
            tokio::task::yield_now().await;
        }
    };
    patiently(again).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_makes_connections_no_faster_than_it_may() {
    let mut config = bare_config();
    config.server.new_connections_per_peer_per_s = 2;
    let server = serve(config, &[("m", DOUBLER)]).await;
    let mut served = 0;
    for _ in 0..200 {
        served += usize::from(answered(connect_from(&server, [127, 0, 0, 2]).await).await.is_some());
    }
    let refused = closed(&server, "rate");
    assert!(served >= 2 && refused > 0.0, "{served} served, {refused} refused");
    assert_eq!(served as f64 + refused, 200.0, "each is one or the other");
    let others = say_from(&server, [127, 0, 0, 3], GET.as_bytes()).await;
    assert!(others.starts_with(OK), "{others}");
}

// ---- The PROXY protocol -----------------------------------------------------------------------------------------------------

const FIRST: &str = "PROXY TCP4 192.0.2.1 10.0.0.1 12345 80\r\n";

/// A header of version 2 for the client with this last byte of its address.
fn second(last: u8) -> Vec<u8> {
    let addresses = [192, 0, 2, last, 10, 0, 0, 1, 0x30, 0x39, 0, 80];
    [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"[..], &addresses].concat()
}

/// A server behind a proxy on this machine that says whose connections it makes.
fn proxied() -> Config {
    let mut config = bare_config();
    config.server.proxies = vec![IpAddr::V4(Ipv4Addr::LOCALHOST)];
    config.server.proxy_protocol = ProxyProtocol::On;
    config
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_of_a_proxy_begin_with_its_header_and_no_others_do() {
    let server = serve(proxied(), &[("m", DOUBLER)]).await;
    for header in [FIRST.as_bytes().to_vec(), b"PROXY UNKNOWN\r\n".to_vec(), second(1)] {
        let heard = exchange(&server, [&header[..], GET.as_bytes()].concat()).await;
        assert!(heard.starts_with(OK), "{header:?}: {heard}");
    }
    let endless = format!("PROXY UNKNOWN {}", "x".repeat(200));
    let huge = [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff"[..], &[0; 100]].concat();
    let wrong: [&[u8]; 5] = [GET.as_bytes(), b"PROXY TCP4 192.0.2.1\r\n\r\n", endless.as_bytes(), &huge, b"PROXY"];
    for header in wrong {
        let mut stream = TcpStream::connect(server.http_addr()).await.expect("the HTTP port accepts");
        let _ = patiently(stream.write_all(header)).await;
        let _ = stream.shutdown().await;
        assert_eq!(read_to_end(&mut stream).await, "", "{header:?}");
    }
    until("each is counted", || closed(&server, "header") == 5.0).await;

    let stranger = [127, 0, 0, 2];
    let heard = say_from(&server, stranger, [FIRST, GET].concat().as_bytes()).await;
    assert!(heard.starts_with("HTTP/1.1 400 "), "{heard}");
    assert!(say_from(&server, stranger, GET.as_bytes()).await.starts_with(OK));
    assert_eq!(closed(&server, "header"), 5.0, "strangers have no header");
    server.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_header_may_come_in_two_packets_but_not_forever() {
    let mut config = proxied();
    config.tls.handshake_timeout_s = 1;
    let server = serve(config, &[("m", DOUBLER)]).await;
    for header in [FIRST.as_bytes().to_vec(), second(1)] {
        let mut stream = TcpStream::connect(server.http_addr()).await.expect("the HTTP port accepts");
        stream.set_nodelay(true).expect("open");
        let (before, after) = header.split_at(13);
        stream.write_all(before).await.expect("taken");
        // Another connection is served in the meantime.
        assert!(exchange(&server, [FIRST, GET].concat()).await.starts_with(OK));
        stream.write_all(&[after, GET.as_bytes()].concat()).await.expect("taken");
        let heard = read_to_end(&mut stream).await;
        assert!(heard.starts_with(OK), "{heard}");
    }
    let mut slow = TcpStream::connect(server.http_addr()).await.expect("the HTTP port accepts");
    slow.write_all(b"PROXY TCP4 ").await.expect("taken");
    assert_eq!(read_to_end(&mut slow).await, "");
    assert_eq!(closed(&server, "header"), 1.0);
    server.drain().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_client_behind_a_proxy_is_limited_and_not_the_proxy() {
    let mut config = proxied();
    config.server.max_connections_per_peer = 1;
    let server = serve(config, &[("m", DOUBLER)]).await;
    let behind = async |last: u8| {
        let mut stream = TcpStream::connect(server.http_addr()).await.expect("the HTTP port accepts");
        let _ = stream.write_all(&second(last)).await;
        answered(stream).await
    };
    let first = behind(1).await;
    let others = [behind(2).await, behind(3).await];
    assert!(first.is_some() && others.iter().all(Option::is_some));
    assert!(behind(1).await.is_none(), "it has one already");
    assert_eq!(closed(&server, "peer"), 1.0);
    drop(first);
    let again = async {
        while behind(1).await.is_none() {
            tokio::task::yield_now().await;
        }
    };
    patiently(again).await;
}

// ---- Forwarded requests -----------------------------------------------------------------------------------------------------

/// A feed that says for whom it is made; the code with which it is refused, if it is.
async fn feed_for(client: &mut Client, sender: &str) -> Result<(mpsc::Sender<FeedRequest>, Streaming<FeedResponse>), Code> {
    let (requests, receiver) = mpsc::channel(4);
    requests.send(message(Message::Open(tensors_of("m")))).await.expect("room");
    let mut request = Request::new(ReceiverStream::new(receiver));
    request.metadata_mut().insert("x-forwarded-for", sender.parse().expect("ASCII"));
    let mut responses = client.feed(request).await.expect("headers").into_inner();
    match patiently(responses.message()).await {
        Ok(_) => Ok((requests, responses)),
        Err(status) => Err(status.code()),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whom_a_request_is_for_is_a_proxys_word_and_nobody_elses() {
    for (proxies, may_have_all) in [(vec![IpAddr::V4(Ipv4Addr::LOCALHOST)], true), (Vec::new(), false)] {
        let mut config = bare_config();
        config.server.proxies = proxies;
        config.session.max_streams = 8;
        let server = serve(config, &[("m", DOUBLER)]).await;
        let mut client = connect(&server).await;
        let mut open = Vec::new();
        for number in 0..7 {
            open.push(feed_for(&mut client, &format!("192.0.2.{}", number % 2)).await.expect("room"));
        }
        // One alone may have seven of eight; two may have four each.
        let last = feed_for(&mut client, "192.0.2.1").await;
        assert_eq!(last.err(), (!may_have_all).then_some(Code::ResourceExhausted));
    }
}

// ---- Pages ------------------------------------------------------------------------------------------------------------------

const INFER: &str = "/v2/models/m/infer";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scripts_of_listed_pages_may_read_answers_and_no_others() {
    let mut config = bare_config();
    config.server.allowed_origins = vec!["https://app.example".parse().expect("an origin")];
    let server = serve(config, &[("m", DOUBLER)]).await;
    let mut http = Http::connect(&server).await;
    let asks = [("access-control-request-method", "POST"), ("access-control-request-headers", "content-type, x-api-key")];
    let (listed, other) = (("origin", "https://app.example"), ("origin", "https://evil.example"));

    let preflight = http.send("OPTIONS", INFER, &[listed, asks[0], asks[1]], "").await;
    assert_eq!(preflight.status, 204);
    assert_eq!(preflight.header("access-control-allow-origin"), "https://app.example");
    assert_eq!(preflight.header("access-control-allow-headers"), "content-type, x-api-key");
    assert_eq!(preflight.header("access-control-allow-credentials"), "");
    let answer = http.send("POST", INFER, &[listed], infer_json(&[4], &[1.0; 4])).await;
    assert_eq!((answer.status.as_u16(), answer.header("access-control-allow-origin")), (200, "https://app.example"));
    assert_eq!((answer.header("cache-control"), answer.header("x-content-type-options")), ("no-store", "nosniff"));
    assert!(answer.headers.get_all("vary").iter().any(|value| value == "origin"), "{:?}", answer.headers);

    let refused = http.send("OPTIONS", INFER, &[other, asks[0], asks[1]], "").await;
    assert_eq!((refused.status.as_u16(), refused.header("access-control-allow-origin")), (403, ""));
    let program = http.send("POST", INFER, &[], infer_json(&[4], &[1.0; 4])).await;
    assert_eq!((program.status.as_u16(), program.header("access-control-allow-origin")), (200, ""));
    assert_eq!(program.header("strict-transport-security"), "", "it is not encrypted");
}
