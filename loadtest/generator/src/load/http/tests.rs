//! Calls to a real server from this project, and to one that misbehaves as a test wants.

use std::{
    net::Ipv4Addr,
    sync::atomic::{AtomicUsize, Ordering},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::*;
use crate::{
    load::file::Scenario,
    stage::{Blocker, Stage},
};

/// A load as a file gives it.
fn load(rest: &str) -> Load {
    let text = format!(
        "version = 1\nname = 'x'\nduration_s = 1.0\n[[loads]]\nname = 'x'\nstreams = 1\n\
         arrivals = {{ process = 'closed' }}\n{rest}"
    );
    Scenario::parse(&text, &[]).expect("a sound file").loads.remove(0)
}

fn infer(model: &str, values: usize) -> Load {
    load(&format!(
        "protocol = 'http_infer'\nmodel = '{model}'\nbatch = 3\ndeadline_ms = 60000\n\
         inputs = [ {{ name = 'x', datatype = 'FP32', shape = [{values}] }} ]"
    ))
}

fn post(http: &str) -> Load {
    load(&format!(
        "protocol = 'http_post'\ninputs = [ {{ name = 'x', datatype = 'UINT8', shape = [2], fill = 'counter' }} ]\nhttp = {http}"
    ))
}

fn error(name: &'static str) -> End {
    End::Error(name.into())
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_of_the_open_inference_protocol_are_answered() {
    let stage = Stage::start(1, &[Blocker::default()], |_| {}).await.expect("it starts");
    let address = stage.http_addr();
    let callers = open(&infer("blocker", 4), address, None, 2, 1).await.expect("it opens");
    for seq in 0..20 {
        let answer = callers[(seq % 2) as usize].call(seq).await;
        assert_eq!(answer, Answer { seq, end: End::Outputs, timing: None, items: 3 });
    }
    let of = async |load| open(&load, address, None, 1, 1).await.expect("it opens").remove(0).call(0).await.end;
    assert_eq!(of(infer("no such/model", 4)).await, error("HTTP 404"));
    assert_eq!(of(infer("blocker", 5)).await, error("HTTP 400"));
    assert_eq!(of(post("{ path = '/nowhere' }")).await, error("HTTP 404"));
    drop(callers);
    stage.finish().await.expect("every item has its end");
}

#[tokio::test]
async fn one_connection_serves_calls_in_turn_and_more_serve_those_at_once() {
    let server = Rude::start(|_| Some("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")).await;
    let template = Arc::new(Template::new(&post("{ path = '/' }"), server.address, 1).expect("sound"));
    let caller = HttpCaller { pool: Arc::new(Pool::open(server.address, None).await.expect("it opens")), template };
    for seq in 0..5 {
        assert_eq!(caller.call(seq).await.end, End::Outputs);
    }
    assert_eq!((caller.pool.idle(), server.connections()), (1, 1));
    let answers = futures::future::join_all((0..3).map(|seq| caller.call(seq))).await;
    assert!(answers.iter().all(|answer| answer.end == End::Outputs), "{answers:?}");
    assert_eq!((caller.pool.idle(), server.connections()), (3, 3));
}

#[tokio::test]
async fn a_connection_that_the_server_closes_is_replaced() {
    let server = Rude::start(|_| Some("HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n")).await;
    let callers = open(&post("{ path = '/' }"), server.address, None, 1, 1).await.expect("it opens");
    for seq in 0..3 {
        assert_eq!(callers[0].call(seq).await.end, End::Outputs);
    }
    assert_eq!(server.connections(), 3);
}

#[tokio::test]
async fn what_goes_wrong_is_an_answer() {
    let server =
        Rude::start(
            |request| {
                if request.contains("/busy") { Some("HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n") } else { None }
            },
        )
        .await;
    let busy = open(&post("{ path = '/busy' }"), server.address, None, 1, 1).await.expect("it opens");
    assert_eq!(busy[0].call(0).await.end, error("HTTP 503"));
    let broken = open(&post("{ path = '/gone' }"), server.address, None, 1, 1).await.expect("it opens");
    assert_eq!(broken[0].call(0).await.end, error("HTTP broken off"));
    let address = server.address;
    server.stop().await;
    assert_eq!(broken[0].call(1).await.end, error("HTTP not connected"));
    let Err(refused) = open(&post("{ path = '/' }"), address, None, 1, 1).await else { panic!("nobody listens") };
    assert!(refused.to_string().contains(&address.to_string()), "{refused:#}");
}

#[tokio::test]
async fn bodies_are_as_the_file_says() {
    let server = Rude::start(|request| {
        let is_json = request.starts_with("POST /json HTTP/1.1\r\n")
            && request.contains("content-type: application/json\r\n")
            && request.ends_with(r#"{"inputs":{"x":[0,1]}}"#);
        let is_binary = request.starts_with("POST /binary?a=b HTTP/1.1\r\n")
            && request.contains("content-type: audio/raw\r\n")
            && request.ends_with("\r\n\r\n\u{0}\u{1}");
        Some(if is_json || is_binary {
            "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
        } else {
            "HTTP/1.1 400 No\r\ncontent-length: 0\r\n\r\n"
        })
    })
    .await;
    for http in ["{ path = '/json', body = 'json' }", "{ path = '/binary?a=b', content_type = 'audio/raw' }"] {
        let callers = open(&post(http), server.address, None, 1, 1).await.expect("it opens");
        assert_eq!(callers[0].call(0).await.end, End::Outputs, "{http}");
    }
}

#[test]
fn what_cannot_be_used_in_a_request_is_named() {
    let address = (Ipv4Addr::LOCALHOST, 1).into();
    for (http, named) in [("{ path = '/a b' }", "/a b"), (r#"{ path = '/', content_type = "a\nb" }"#, "content type")] {
        let Err(error) = Template::new(&post(http), address, 1) else { panic!("{http} is not a request") };
        assert!(error.to_string().contains(named), "{error}");
    }
    assert_eq!(percent_encoded("a b/c-1.0_~é"), "a%20b%2Fc-1.0_~%C3%A9");
}

/// A server that answers each request with whatever `answer` gives, and closes the connection at `None`.
struct Rude {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Rude {
    async fn start(answer: fn(&str) -> Option<&'static str>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let address = listener.local_addr().expect("it has one");
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        let task = tokio::spawn(async move {
            let mut serving = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                serving.spawn(serve(stream, answer, Arc::clone(&count)));
            }
        });
        Self { address, connections, task }
    }

    /// How many connections have carried a request.
    fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    async fn stop(self) {
        self.task.abort();
        drop(self.task.await);
    }
}

async fn serve(mut stream: TcpStream, answer: fn(&str) -> Option<&'static str>, connections: Arc<AtomicUsize>) {
    let mut is_first = true;
    while let Some(request) = read(&mut stream).await {
        connections.fetch_add(usize::from(std::mem::take(&mut is_first)), Ordering::Relaxed);
        let Some(text) = answer(&request) else { return };
        if stream.write_all(text.as_bytes()).await.is_err() || text.contains("connection: close") {
            return;
        }
    }
}

/// A request with its body; `None` when there is no more.
async fn read(stream: &mut TcpStream) -> Option<String> {
    let mut text = Vec::new();
    loop {
        let mut byte = [0];
        stream.read_exact(&mut byte).await.ok()?;
        text.extend(byte);
        if text.ends_with(b"\r\n\r\n") {
            break;
        }
    }
    let head = String::from_utf8(text.clone()).expect("a head is text");
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "))?.parse().expect("a length");
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    text.extend(body);
    Some(String::from_utf8(text).expect("text"))
}
