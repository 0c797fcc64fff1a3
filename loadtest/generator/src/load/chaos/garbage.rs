//! Connections that do not speak the protocol: rubbish, broken frames, half a preface, the wrong protocol, messages that cannot be read.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::{Crew, PATIENCE, result::Notes};
use crate::patience::within;

/// How long the server may take to hang up before the client does.
const LISTEN: Duration = Duration::from_millis(500);
const RUBBISH_BYTES_MAX: usize = 16 * 1024;

/// The beginning of every HTTP/2 connection, and an empty settings frame.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// Types and flags of HTTP/2 frames.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const END_HEADERS: u8 = 4;

/// Connects, sends rubbish of some kind, and listens until the server hangs up or [`LISTEN`] has passed.
pub(super) async fn throw(crew: Crew, mut random: fastrand::Rng, notes: Notes) {
    let address = match crew.place.http {
        Some(http) if random.bool() => http,
        _ => crew.place.grpc,
    };
    let Some(Ok(mut stream)) = within(PATIENCE, TcpStream::connect(address)).await else {
        return notes.unexpected("no connection");
    };
    let rubbish = rubbish(&mut random);
    let mut answer = Vec::new();
    let talk = async {
        stream.write_all(&rubbish).await?;
        (&mut stream).take(1 << 20).read_to_end(&mut answer).await
    };
    match timeout(LISTEN, talk).await {
        // It hung up, in good order or not.
        Ok(_) => notes.refused(),
        // It is waiting for more, or has answered within the connection.
        Err(_) => notes.done(),
    }
}

/// Bytes that follow no protocol, of one of seven kinds.
fn rubbish(random: &mut fastrand::Rng) -> Vec<u8> {
    let length = random.usize(1..=RUBBISH_BYTES_MAX);
    let noise: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(length).collect();
    let begun = |rest: &[u8]| [PREFACE, rest].concat();
    match random.u8(0..7) {
        0 => noise,
        // Half a preface.
        1 => PREFACE[..random.usize(1..PREFACE.len())].to_vec(),
        // A frame of some type, with a made-up length and fewer bytes than that.
        2 => {
            let (kind, flags, stream) = (random.u8(..), random.u8(..), random.u32(..));
            begun(&frame(kind, flags, stream, &noise)[..random.usize(1..9 + length)])
        }
        // Headers that are not compressed in the way they claim.
        3 => begun(&frame(HEADERS, END_HEADERS, 1, &noise)),
        // A call whose message is noise.
        4 => begun(&[frame(HEADERS, END_HEADERS, 1, &call()), frame(DATA, 0, 1, &message(&noise))].concat()),
        // A call that sends nothing, from a client that is gone.
        5 => begun(&frame(HEADERS, END_HEADERS, 1, &call())),
        // HTTP/1.1, with an invalid head or body.
        _ => [b"POST /v2/models/x/infer HTTP/1.1\r\nhost: localhost\r\ncontent-length: ".as_slice(), &noise].concat(),
    }
}

/// A frame with this payload, cut to the longest that a peer must take.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let payload = &payload[..payload.len().min(16_384)];
    let length = (payload.len() as u32).to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// The headers of a `Feed` call, uncompressed except for indices into the static table.
fn call() -> Vec<u8> {
    const METHOD_POST: u8 = 0x83;
    const SCHEME_HTTP: u8 = 0x86;
    const PATH: u8 = 0x04;
    const AUTHORITY: u8 = 0x01;
    let literal = |text: &str| [&[text.len() as u8], text.as_bytes()].concat();
    let mut headers = vec![METHOD_POST, SCHEME_HTTP, PATH];
    headers.extend(literal("/tidemill.v1.InferenceService/Feed"));
    headers.push(AUTHORITY);
    headers.extend(literal("localhost"));
    for (name, value) in [("content-type", "application/grpc"), ("te", "trailers")] {
        headers.push(0);
        headers.extend(literal(name));
        headers.extend(literal(value));
    }
    headers
}

/// In gRPC's framing: not compressed, and a length.
fn message(bytes: &[u8]) -> Vec<u8> {
    let bytes = &bytes[..bytes.len().min(16_000)];
    [&[0][..], &(bytes.len() as u32).to_be_bytes(), bytes].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rubbish_is_the_same_for_the_same_seed_and_not_for_another() {
        let thrown = |seed| rubbish(&mut fastrand::Rng::with_seed(seed));
        assert!((0..50).all(|seed| thrown(seed) == thrown(seed) && !thrown(seed).is_empty()));
        assert!((0..50).any(|seed| thrown(seed) != thrown(seed + 1)));
    }

    #[test]
    fn a_frame_says_its_length() {
        let frame = frame(DATA, 1, 3, &[7; 300]);
        assert_eq!(frame[..9], [0, 1, 44, DATA, 1, 0, 0, 0, 3]);
        assert_eq!(frame.len(), 309);
    }
}
