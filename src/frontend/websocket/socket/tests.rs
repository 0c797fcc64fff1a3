//! Sockets over a pipe in memory, with a clock that stands still unless everybody waits.

use futures::{SinkExt as _, StreamExt as _};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex},
    task::JoinHandle,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        protocol::{Role, WebSocketConfig as ClientConfig},
    },
};

use super::*;
use crate::{
    config::WebSocketConfig,
    domain::Peer,
    frontend::websocket::{frame::NORMAL, line::Rules},
    patience::Moment,
    telemetry::Gauge,
    transport::Transfer,
};

const MINUTE: Duration = Duration::from_secs(60);

fn config() -> WebSocketConfig {
    WebSocketConfig { max_message_bytes: 1 << 20, max_frame_bytes: 1 << 20, max_fragments: 8, ..WebSocketConfig::default() }
}

/// A socket with this wire: the client's end, and its task.
fn run_over<F>(room: usize, wire: impl FnOnce(Socket) -> F + Send + 'static) -> (DuplexStream, JoinHandle<()>)
where
    F: Future<Output = ()> + Send + 'static,
{
    let (client, server) = duplex(room);
    let rules = Rules {
        config: config(),
        message_timeout: MINUTE,
        message_timeout_key: "http.body_timeout_s",
        unread_timeout: 5 * MINUTE,
    };
    let account = Transfer::new(16 << 20, Gauge::noop()).connection(Peer::default());
    let line = Line::new(Box::new(server), Arc::new(rules), account);
    (client, tokio::spawn(async move { run(line, None, wire).await }))
}

/// Says back what it hears, and says why where it is refused.
async fn echo(mut socket: Socket) {
    while let Some(heard) = socket.next().await {
        let said = match heard {
            Ok(Frame::Close { .. }) | Err(SocketError::Broken) => return,
            Ok(frame) => frame,
            Err(SocketError::Refused(fault)) => Frame::refusing(&fault, "REFUSED"),
        };
        if socket.send(said).await.is_err() {
            return;
        }
    }
}

async fn client(stream: DuplexStream) -> WebSocketStream<DuplexStream> {
    WebSocketStream::from_raw_socket(stream, Role::Client, Some(ClientConfig::default())).await
}

/// A frame of a client, with a mask that changes nothing.
fn frame(first: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match u16::try_from(content.len()) {
        Ok(length) if length < 126 => bytes.push(0x80 | length as u8),
        Ok(length) => {
            bytes.push(0x80 | 126);
            bytes.extend(length.to_be_bytes());
        }
        Err(_) => {
            bytes.push(0x80 | 127);
            bytes.extend((content.len() as u64).to_be_bytes());
        }
    }
    bytes.extend([0; 4]);
    bytes.extend(content);
    bytes
}

/// Everything that the server says to these bytes, until it closes.
async fn said_to(bytes: &[u8]) -> Vec<u8> {
    let (mut stream, task) = run_over(1 << 16, echo);
    stream.write_all(bytes).await.expect("it is taken");
    let mut said = Vec::new();
    stream.read_to_end(&mut said).await.expect("an end");
    task.await.expect("no panic");
    said
}

/// The code of the close with which the server answers these bytes.
async fn code(bytes: &[u8]) -> u16 {
    let said = said_to(bytes).await;
    let at = said.iter().position(|byte| *byte == 0x88).expect("a close");
    u16::from_be_bytes([said[at + 2], said[at + 3]])
}

#[tokio::test(start_paused = true)]
async fn messages_of_every_length_come_back_whole() {
    let (stream, task) = run_over(1 << 12, echo);
    let mut client = client(stream).await;
    for length in [0, 1, 125, 126, 4_000, 20_000, 65_535, 65_536, 1 << 20] {
        for message in [Message::binary(vec![7; length]), Message::text("é".repeat(length / 2))] {
            let (mut sink, mut stream) = (&mut client).split();
            let (sent, heard) = tokio::join!(sink.send(message.clone()), stream.next());
            sent.expect("it is taken");
            assert_eq!(heard.expect("an answer").expect("sound"), message);
        }
    }
    client.close(None).await.expect("closed");
    while client.next().await.is_some() {}
    task.await.expect("no panic");
}

#[tokio::test(start_paused = true)]
async fn fragments_with_pings_between_are_one_message() {
    let bytes =
        [frame(0x01, b"a"), frame(0x89, b"1"), frame(0x89, b"2"), frame(0x80, b"b"), frame(0x88, &1000_u16.to_be_bytes())];
    let said = said_to(&bytes.concat()).await;
    // One pong, to the latest ping, before or after the message; then the same close.
    assert!(said.ends_with(&[0x88, 2, 0x03, 0xe8]), "{said:?}");
    assert!(said.windows(4).any(|four| four == [0x81, 2, b'a', b'b']), "{said:?}");
    assert!(!said.windows(3).any(|three| three == [0x8a, 1, b'1']), "{said:?}");
}

#[tokio::test(start_paused = true)]
async fn each_breach_closes_with_its_code() {
    assert_eq!(code(&[0x81, 1, b'a']).await, 1002, "no mask");
    assert_eq!(code(&frame(0x81, &[0xc3])).await, 1007);
    assert_eq!(code(&frame(0x82, &vec![0; (1 << 20) + 1])[..14]).await, 1009);
    let fragments: Vec<u8> = [frame(0x01, b"")].into_iter().chain((0..8).map(|_| frame(0x00, b""))).flatten().collect();
    assert_eq!(code(&fragments).await, 1008);
    assert_eq!(code(&frame(0x89, b"").repeat(21)).await, 1008, "a flood of pings");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_answers_pings_stays_and_one_that_does_not_goes() {
    let begun = Moment::now();
    let (mut stream, task) = run_over(1 << 12, echo);
    for _ in 0..10 {
        let mut ping = [0; 2];
        stream.read_exact(&mut ping).await.expect("a ping");
        assert_eq!(ping, [0x89, 0]);
        stream.write_all(&frame(0x8a, b"")).await.expect("it is taken");
    }
    assert_eq!(Moment::now().since(begun).as_secs(), 300);
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.expect("an end");
    assert_eq!((&rest[..2], u16::from_be_bytes([rest[4], rest[5]])), (&[0x89, 0][..], 1001), "{rest:?}");
    drop(stream);
    task.await.expect("no panic");
    assert_eq!(Moment::now().since(begun).as_secs() / 10, 35);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_trickles_in_has_its_time_only_once() {
    let (mut stream, task) = run_over(1 << 12, echo);
    let begun = Moment::now();
    let message = frame(0x82, &[0; 100]);
    let (mut reader, mut writer) = tokio::io::split(&mut stream);
    let trickling = async {
        for byte in message {
            if writer.write_all(&[byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
    };
    let mut said = Vec::new();
    let reading = async { reader.read_to_end(&mut said).await };
    tokio::select! {
        () = trickling => panic!("it took all of it"),
        read = reading => drop(read.expect("an end")),
    }
    assert_eq!((said[0], u16::from_be_bytes([said[2], said[3]])), (0x88, 1008), "{said:?}");
    assert!((60..65).contains(&Moment::now().since(begun).as_secs()));
    drop(stream);
    task.await.expect("no panic");
}

/// Says more than there is room for, and returns why it could not go on.
async fn talk(mut socket: Socket, why: Arc<Mutex<Option<SocketError>>>) {
    let frame = Frame::Binary(vec![7; 10_000].into());
    loop {
        if let Err(error) = socket.feed(frame.clone()).await {
            *why.lock() = Some(error);
            return;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_holds_its_wire_back_and_is_given_up() {
    let why = Arc::new(Mutex::new(None));
    let told = Arc::clone(&why);
    let (mut stream, task) = run_over(1 << 12, |socket| talk(socket, told));
    let begun = Moment::now();
    // It reads now and then, for longer than a client has that takes nothing.
    for _ in 0..3 {
        tokio::time::sleep(4 * MINUTE).await;
        stream.read_exact(&mut [0; 1_000]).await.expect("more");
    }
    task.await.expect("no panic");
    assert_eq!(Moment::now().since(begun).as_secs(), 17 * 60);
    let why = why.lock().take().expect("an end");
    let SocketError::Refused(fault) = why else { panic!("not refused: {why}") };
    assert_eq!(fault.limit().map(|limit| limit.name), Some("session.unread_timeout_s"));
}

#[tokio::test(start_paused = true)]
async fn a_wire_that_does_not_read_is_dropped_when_its_client_goes() {
    for farewell in [Vec::new(), frame(0x88, &1000_u16.to_be_bytes())] {
        let (mut stream, task) = run_over(1 << 12, |_socket| std::future::pending());
        stream.write_all(&farewell).await.expect("it is taken");
        let begun = Moment::now();
        drop(stream);
        task.await.expect("no panic");
        assert!(Moment::now().since(begun).as_secs() <= 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_wire_that_does_not_read_still_answers_pings_and_takes_no_more_than_a_little() {
    let (mut stream, _task) = run_over(1 << 16, |_socket| std::future::pending());
    stream.write_all(&frame(0x89, b"!")).await.expect("it is taken");
    let mut pong = [0; 3];
    stream.read_exact(&mut pong).await.expect("a pong");
    assert_eq!(pong, [0x8a, 1, b'!']);
    let message = frame(0x82, &[0; 60_000]);
    stream.write_all(&message).await.expect("the pipe has room");
    // The pipe is as large as what is sent, less what was read from it.
    let more = timeout(MINUTE, stream.write_all(&[0; 20_000])).await;
    assert!(more.is_err(), "nothing takes that");
}

#[tokio::test(start_paused = true)]
async fn a_wire_that_ends_without_a_word_closes_as_usual() {
    let (stream, task) = run_over(1 << 12, |_socket| std::future::ready(()));
    let mut client = client(stream).await;
    let Some(Ok(Message::Close(Some(close)))) = client.next().await else { panic!("a close") };
    assert_eq!(u16::from(close.code), NORMAL);
    drop(client);
    task.await.expect("no panic");
}

#[tokio::test(start_paused = true)]
async fn the_connection_stays_until_the_client_has_closed_too_or_a_moment_has_passed() {
    for (answers, millis) in [(true, 300), (false, 1_000)] {
        let (mut stream, task) = run_over(1 << 12, |_socket| std::future::ready(()));
        let begun = Moment::now();
        let mut close = [0; 4];
        stream.read_exact(&mut close).await.expect("a close");
        assert_eq!(close, [0x88, 2, 0x03, 0xe8]);
        if answers {
            tokio::time::sleep(Duration::from_millis(300)).await;
            let answer = [frame(0x82, b"still on its way"), frame(0x88, &1000_u16.to_be_bytes())];
            stream.write_all(&answer.concat()).await.expect("it is taken");
        }
        assert_eq!(stream.read(&mut close).await.expect("no error"), 0, "the end");
        assert_eq!(Moment::now().since(begun).as_millis(), millis);
        task.await.expect("no panic");
    }
}

#[test]
fn a_socket_that_waits_is_small() {
    assert!(size_of::<Line>() <= 1_024, "{} bytes", size_of::<Line>());
}
