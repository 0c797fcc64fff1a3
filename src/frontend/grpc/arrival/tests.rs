//! Requests as clients send them, in whatever DATA frames, and what tonic gets of them.

use std::{convert::Infallible, io::Write as _};

use proptest::{collection::vec, prelude::*};
use prost::Message as _;
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};

use super::*;
use crate::{
    config::Config,
    domain::FaultKind,
    frontend::grpc::status::fault_of,
    proto::v1::{FeedRequest, Item, ItemList, ScanRequest, feed_request, scan_request},
    telemetry::Telemetry,
};

const FEED: &str = "/tidemill.v1.InferenceService/Feed";
const SCAN: &str = "/tidemill.v1.InferenceService/Scan";
const CHECK: &str = "/grpc.health.v1.Health/Check";
const REFLECTION: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";

/// DATA frames as a test sends them.
struct Frames(mpsc::Receiver<Bytes>);

impl HttpBody for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|data| data.map(|data| Ok(Frame::data(data))))
    }
}

/// One call: what its client sends, and what tonic gets.
struct Bench {
    frames: Option<mpsc::Sender<Bytes>>,
    body: ArrivingBody<Frames>,
    reader: Arc<Reader>,
    arrivals: Arrivals,
    /// What tonic has of a message that is not complete yet.
    read: BytesMut,
}

fn config() -> Config {
    let mut config = Config::default();
    config.grpc.max_message_bytes = 1 << 20;
    config.memory.transfer_bytes = 16 << 20;
    config
}

impl Bench {
    fn new(path: &str, headers: &[(&'static str, &'static str)]) -> Self {
        Self::with(&config(), path, headers)
    }

    fn with(config: &Config, path: &str, headers: &[(&'static str, &'static str)]) -> Self {
        let bounds = Bounds::new(config, Telemetry::off().server());
        let arrivals = Arrivals::new(&config.grpc, bounds).expect("our own descriptors");
        let layer = arrivals.connection(Peer::default());
        let mut request = Request::post(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(()).expect("a request");
        let reader = Arc::<Reader>::default();
        let call = layer.admit(&request, Arc::clone(&reader)).expect("the first");
        let (frames, receiver) = mpsc::channel(10_000);
        Self { frames: Some(frames), body: ArrivingBody::new(Frames(receiver), call), reader, arrivals, read: BytesMut::new() }
    }

    fn send(&self, data: impl Into<Bytes>) {
        self.frames.as_ref().expect("not closed").try_send(data.into()).expect("room");
    }

    fn close(&mut self) {
        self.frames = None;
    }

    fn charged(&self) -> usize {
        self.arrivals.shared.bounds.transfer.bytes()
    }

    async fn frame(&mut self) -> Option<Result<Bytes, Fault>> {
        let frame = std::future::poll_fn(|cx| Pin::new(&mut self.body).poll_frame(cx)).await?;
        Some(frame.map(|frame| frame.into_data().expect("data")).map_err(|status| fault_of(&status, 0)))
    }

    /// The next messages, as tonic and the codec behind it read them.
    async fn messages(&mut self) -> Option<Result<Vec<Bytes>, Fault>> {
        let mut messages = Vec::new();
        while messages.is_empty() {
            match self.frame().await? {
                Ok(frame) => self.read.extend_from_slice(&frame),
                Err(fault) => return Some(Err(fault)),
            }
            while let Some(([flag, length @ ..], rest)) = self.read.split_first_chunk::<PREFIX_BYTES>() {
                assert_eq!(*flag, 0, "nothing compressed is left");
                let length = u32::from_be_bytes(*length) as usize;
                if rest.len() < length {
                    break;
                }
                let message = self.read.split_to(PREFIX_BYTES + length).freeze().slice(PREFIX_BYTES..);
                let parcel = (message.len() == parcel::TICKET_BYTES).then(|| parcel::receive(&message)).flatten();
                messages.push(parcel.unwrap_or(message));
            }
        }
        Some(Ok(messages))
    }

    async fn all(&mut self) -> Result<Vec<Bytes>, Fault> {
        let mut all = Vec::new();
        while let Some(messages) = self.messages().await {
            all.extend(messages?);
        }
        Ok(all)
    }

    /// The fault that all of it ends with.
    async fn fault(&mut self) -> Fault {
        let fault = self.all().await.expect_err("it is refused");
        assert!(self.frame().await.is_none(), "nothing comes after that");
        fault
    }

    async fn is_silent_for(&mut self, seconds: u64) -> bool {
        timeout(Duration::from_secs(seconds), self.messages()).await.is_err()
    }
}

fn prefixed(flag: u8, message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).expect("short");
    [&[flag][..], &length.to_be_bytes(), message].concat()
}

fn gzip(message: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
    encoder.write_all(message).expect("into memory");
    encoder.finish().expect("into memory")
}

fn chunk(bytes: usize) -> Vec<u8> {
    FeedRequest { message: Some(feed_request::Message::Chunk(vec![7; bytes].into())) }.encode_to_vec()
}

fn limit(fault: &Fault) -> Option<&'static str> {
    fault.limit().map(|limit| limit.name)
}

#[tokio::test]
async fn whole_messages_pass_as_they_came() {
    let mut bench = Bench::new(FEED, &[]);
    let frame = Bytes::from([prefixed(0, &chunk(10)), prefixed(0, b""), prefixed(0, &chunk(2_000))].concat());
    bench.send(frame.clone());
    let passed = bench.frame().await.expect("a frame").expect("no fault");
    assert_eq!((passed.as_ptr(), passed.len(), bench.charged()), (frame.as_ptr(), frame.len(), 0));
}

#[tokio::test]
async fn whole_messages_do_not_wait_for_the_one_behind_them() {
    let mut bench = Bench::new(FEED, &[]);
    let (first, second) = (prefixed(0, &chunk(10)), prefixed(0, &chunk(300)));
    bench.send([&first[..], &second[..100]].concat());
    assert_eq!(bench.messages().await, Some(Ok(vec![chunk(10).into()])));
    assert!(futures::poll!(Box::pin(bench.messages())).is_pending());
    bench.send(second[100..].to_vec());
    assert_eq!(bench.messages().await, Some(Ok(vec![chunk(300).into()])));
}

#[tokio::test]
async fn small_messages_pass_in_pieces_if_the_room_for_them_is_in_proportion() {
    for (bytes, came, passes) in [(2_000, 0, true), (4_000, 0, false), (4_000, 300, true), (5_000, 4_000, false)] {
        let mut bench = Bench::new(FEED, &[]);
        let message = prefixed(0, &vec![7; bytes]);
        let (begins, rest) = message.split_at(PREFIX_BYTES + came);
        for whole in [true, false] {
            // With its prefix in one piece, and in two.
            if whole {
                bench.send(begins.to_vec());
            } else {
                bench.send(begins[..3].to_vec());
                bench.send(begins[3..].to_vec());
            }
            let comes_at_once = futures::poll!(Box::pin(bench.messages())).is_pending() && !bench.read.is_empty();
            assert_eq!(comes_at_once, passes, "{came} of {bytes} bytes");
            bench.send(rest.to_vec());
            assert_eq!(bench.messages().await, Some(Ok(vec![vec![7; bytes].into()])));
            assert_eq!(bench.charged() > 0, !passes);
            bench.send(prefixed(0, b""));
            assert_eq!(bench.messages().await, Some(Ok(vec![Bytes::new()])));
        }
    }
}

#[tokio::test]
async fn what_is_announced_costs_nothing_and_what_comes_is_charged_until_the_next_is_asked_for() {
    let mut bench = Bench::new(FEED, &[]);
    bench.send([&prefixed(0, &chunk(900_000))[..6]].concat());
    assert!(futures::poll!(Box::pin(bench.frame())).is_pending());
    assert!(bench.charged() <= 2 << 10, "{} bytes", bench.charged());
    bench.send(prefixed(0, &chunk(900_000))[6..].to_vec());
    assert_eq!(bench.messages().await.expect("it is there").expect("no fault"), [Bytes::from(chunk(900_000))]);
    assert!((900_000..1_900_000).contains(&bench.charged()), "{} bytes", bench.charged());
    bench.send(prefixed(0, b""));
    bench.messages().await.expect("another").expect("no fault");
    assert_eq!(bench.charged(), 0);
}

#[tokio::test]
async fn a_request_is_charged_for_as_long_as_its_call_lasts() {
    let mut bench = Bench::new(SCAN, &[]);
    let request = ScanRequest { config: None, payload: Some(scan_request::Payload::PcmS16le(vec![1; 100_000].into())) };
    let bytes = prefixed(0, &request.encode_to_vec());
    for part in bytes.chunks(16_384) {
        bench.send(part.to_vec());
    }
    bench.close();
    assert_eq!(bench.all().await.expect("whole"), [Bytes::from(request.encode_to_vec())]);
    assert!(bench.charged() >= 100_000);
    let Bench { body, reader, arrivals, .. } = bench;
    drop(body);
    assert!(arrivals.shared.bounds.transfer.bytes() >= 100_000, "its handler has it");
    drop(reader);
    assert_eq!(arrivals.shared.bounds.transfer.bytes(), 0);
}

#[tokio::test]
async fn a_message_over_the_limit_is_refused_at_its_prefix() {
    for flag in [0, 1] {
        let mut bench = Bench::new(FEED, &[("grpc-encoding", "gzip")]);
        bench.send([&[flag][..], &(1_u32 << 20).wrapping_add(1).to_be_bytes()].concat());
        let fault = bench.fault().await;
        assert_eq!((fault.kind(), limit(&fault)), (FaultKind::TooLarge, Some("grpc.max_message_bytes")));
        assert!(fault.message().contains("1048577 bytes"), "{fault}");
    }
    let mut bench = Bench::new(CHECK, &[]);
    bench.send(prefixed(0, &[0; 70_000])[..20].to_vec());
    assert_eq!(limit(&bench.fault().await), Some("grpc.max_small_message_bytes"));
}

#[tokio::test]
async fn compressed_messages_are_inflated_within_the_limits() {
    for bytes in [0, 10, 100_000, 700_000, (1 << 20) - 20] {
        let mut bench = Bench::new(FEED, &[("grpc-encoding", "gzip")]);
        bench.send(prefixed(1, &gzip(&chunk(bytes))));
        bench.send(prefixed(0, b""));
        bench.close();
        assert_eq!(bench.all().await.expect("within the limits"), [chunk(bytes).into(), Bytes::new()]);
    }
    let mut bench = Bench::new(FEED, &[("grpc-encoding", "gzip")]);
    bench.send(prefixed(1, &gzip(&vec![0; (1 << 20) + 1])));
    assert_eq!(limit(&bench.fault().await), Some("grpc.max_message_bytes"));
    let mut larger = config();
    larger.grpc.max_message_bytes = 8 << 20;
    let mut bench = Bench::with(&larger, FEED, &[("grpc-encoding", "gzip")]);
    bench.send(prefixed(1, &gzip(&vec![0; 4 << 20])));
    assert_eq!(limit(&bench.fault().await), Some("message.max_inflate_ratio"));
    assert_eq!(bench.charged(), 0);
}

#[tokio::test]
async fn what_a_message_holds_is_counted_however_it_comes() {
    let mut few = config();
    few.message.max_items = 2_100;
    let items = |count| {
        let list = ItemList { items: vec![Item::default(); count] };
        ScanRequest { config: None, payload: Some(scan_request::Payload::Items(list)) }.encode_to_vec()
    };
    for (flag, encode) in [(0, <[u8]>::to_vec as fn(&[u8]) -> Vec<u8>), (1, gzip as fn(&[u8]) -> Vec<u8>)] {
        for part_bytes in [1_000, 1_000_000] {
            for (count, refused) in [(2_100, None), (2_101, Some("message.max_items")), (400_000, Some("message.max_items"))] {
                let mut bench = Bench::with(&few, SCAN, &[("grpc-encoding", "gzip")]);
                for part in prefixed(flag, &encode(&items(count))).chunks(part_bytes) {
                    bench.send(part.to_vec());
                }
                bench.close();
                let found = bench.all().await;
                assert_eq!(found.as_ref().err().and_then(limit), refused, "{count} items");
                assert_eq!(found.map_or(1, |messages| messages.len()), 1);
            }
        }
    }
}

#[tokio::test]
async fn without_room_a_message_is_refused_and_gives_back_what_it_has() {
    let mut small = config();
    small.memory.transfer_bytes = 1 << 20;
    let mut bench = Bench::with(&small, FEED, &[]);
    for part in prefixed(0, &chunk(900_000)).chunks(16_384) {
        bench.send(part.to_vec());
    }
    let fault = bench.fault().await;
    assert_eq!((fault.kind(), limit(&fault)), (FaultKind::Overloaded, Some("memory.transfer_bytes")));
    assert_eq!(bench.charged(), 0);
}

#[tokio::test]
async fn broken_prefixes_are_left_to_tonic() {
    for (flag, headers) in [(2, &[][..]), (1, &[]), (1, &[("grpc-encoding", "identity")]), (7, &[("grpc-encoding", "gzip")])] {
        let mut bench = Bench::new(FEED, headers);
        bench.send(prefixed(flag, b"abc"));
        assert_eq!(bench.frame().await, Some(Ok(prefixed(flag, b"abc")[..5].to_vec().into())));
        assert_eq!(bench.frame().await, None);
    }
}

#[tokio::test]
async fn a_message_that_breaks_off_is_the_clients_fault() {
    for (bytes, said) in [(3, "breaks off before its length"), (5, "after 0 of its 102 bytes"), (50, "after 45 of its 102 bytes")]
    {
        let mut bench = Bench::new(FEED, &[]);
        bench.send(prefixed(0, &chunk(100))[..bytes].to_vec());
        bench.close();
        let fault = bench.fault().await;
        assert!(fault.kind() == FaultKind::Invalid && fault.message().contains(said), "{fault}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_never_comes_ends_after_its_time() {
    for (path, sent) in [(SCAN, 0), (SCAN, 3), (SCAN, 50), (CHECK, 0), (REFLECTION, 0)] {
        let mut bench = Bench::new(path, &[]);
        bench.send(prefixed(0, &[0; 100])[..sent].to_vec());
        let begun = Instant::now();
        let fault = bench.fault().await;
        assert_eq!(
            (fault.kind(), limit(&fault), begun.elapsed().as_secs()),
            (FaultKind::Expired, Some("grpc.body_timeout_s"), 60),
            "{path}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_whole_but_never_ends_has_no_more_time() {
    let mut bench = Bench::new(SCAN, &[]);
    assert!(bench.is_silent_for(40).await);
    bench.send(prefixed(0, b""));
    assert_eq!(bench.messages().await, Some(Ok(vec![Bytes::new()])));
    let begun = Instant::now();
    assert_eq!((limit(&bench.fault().await), begun.elapsed().as_secs()), (Some("grpc.body_timeout_s"), 20));
}

#[tokio::test(start_paused = true)]
async fn the_deadline_of_a_call_ends_the_wait_for_its_request() {
    for (timeout, seconds, message) in [("1S", 1, "grpc-timeout"), ("90S", 60, "grpc.body_timeout_s")] {
        let mut bench = Bench::new(SCAN, &[("grpc-timeout", timeout)]);
        let begun = Instant::now();
        let fault = bench.fault().await;
        assert_eq!((fault.kind(), begun.elapsed().as_secs()), (FaultKind::Expired, seconds));
        assert!(fault.message().contains(message), "{fault}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_may_be_silent_between_messages_and_not_within_one() {
    let mut bench = Bench::new(FEED, &[]);
    let message = prefixed(0, &chunk(200));
    for _ in 0..3 {
        assert!(bench.is_silent_for(10_000).await);
        bench.send(message[..100].to_vec());
        assert!(bench.is_silent_for(50).await);
        bench.send(message[100..].to_vec());
        assert_eq!(bench.messages().await, Some(Ok(vec![chunk(200).into()])), "each has all its time");
    }
    let begun = Instant::now();
    bench.send(message[..2].to_vec());
    for at in [2, 3, 4, 5, 6] {
        assert!(bench.is_silent_for(11).await);
        bench.send(message[at..=at].to_vec());
    }
    let fault = bench.fault().await;
    assert_eq!(
        (limit(&fault), begun.elapsed().as_secs()),
        (Some("grpc.body_timeout_s"), 60),
        "sending a byte now and then does not help"
    );
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_was_not_read_for_long_is_not_blamed_for_it() {
    let mut bench = Bench::new(FEED, &[]);
    let message = prefixed(0, &chunk(200));
    bench.send(message[..100].to_vec());
    assert!(bench.is_silent_for(1).await);
    // The session does not ask for more: its window is full.
    sleep(Duration::from_secs(500)).await;
    bench.send(message[100..150].to_vec());
    assert!(bench.is_silent_for(50).await);
    bench.send(message[150..].to_vec());
    assert_eq!(bench.messages().await, Some(Ok(vec![chunk(200).into()])));
}

#[tokio::test(start_paused = true)]
async fn questions_to_reflection_each_have_their_time() {
    let mut bench = Bench::new(REFLECTION, &[]);
    for _ in 0..3 {
        assert!(bench.is_silent_for(50).await);
        bench.send(prefixed(0, b"question"));
        assert_eq!(bench.messages().await, Some(Ok(vec![Bytes::from_static(b"question")])));
    }
    assert_eq!(limit(&bench.fault().await), Some("grpc.body_timeout_s"));
}

#[tokio::test]
async fn messages_that_tonic_decodes_itself_come_without_a_ticket() {
    let mut bench = Bench::new(REFLECTION, &[]);
    let message = prefixed(0, &[7; 20_000]);
    bench.send(message[..10_000].to_vec());
    bench.send(message[10_000..].to_vec());
    assert_eq!(bench.frame().await, Some(Ok(message.into())));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the DATA frames, the messages are those that were sent.
    #[test]
    fn messages_come_as_they_were_sent(
        messages in vec((prop_oneof![Just(0_usize), 0..20_usize, 0..3_000_usize, 60_000..140_000_usize, 260_000..300_000_usize], any::<bool>()), 0..8),
        cuts in vec(prop_oneof![1..8_usize, 1..20_000_usize], 1..40),
    ) {
        let messages: Vec<(Vec<u8>, bool)> = messages.into_iter().map(|(bytes, compressed)| (chunk(bytes), compressed)).collect();
        let wire: Vec<u8> = messages.iter().flat_map(|(message, compressed)| {
            if *compressed { prefixed(1, &gzip(message)) } else { prefixed(0, message) }
        }).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        let found = runtime.block_on(async {
            let mut bench = Bench::new(FEED, &[("grpc-encoding", "gzip")]);
            let mut cuts = cuts.iter().cycle();
            let mut rest = &wire[..];
            while !rest.is_empty() {
                let (now, later) = rest.split_at(rest.len().min(*cuts.next().expect("without end")));
                // Small cuts of a long message are many frames.
                if bench.frames.as_ref().expect("open").capacity() == 1 {
                    bench.send(rest.to_vec());
                    break;
                }
                bench.send(now.to_vec());
                rest = later;
            }
            bench.close();
            let all = bench.all().await;
            assert_eq!(bench.charged(), 0);
            all
        });
        let sent: Vec<Bytes> = messages.into_iter().map(|(message, _)| message.into()).collect();
        prop_assert_eq!(found.expect("sound"), sent);
    }

    #[test]
    fn no_bytes_panic(frames in vec(vec(prop_oneof![Just(0_u8), Just(1), any::<u8>()], 0..40), 0..10)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        runtime.block_on(async {
            let mut bench = Bench::new(FEED, &[("grpc-encoding", "gzip")]);
            for frame in frames {
                bench.send(frame);
            }
            bench.close();
            while let Some(Ok(_)) = bench.frame().await {}
        });
    }
}
