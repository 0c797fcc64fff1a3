//! The bytes that an HTTP/2 client sends first, awaited with a deadline.
//!
//! hyper pings a connection only after its handshake, and gives the client all the time it wants for that: a client that stops
//! halfway would keep its place for as long as it likes. Knows nothing of what is said afterwards.

use std::time::Duration;

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    time::timeout,
};

const GREETING: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What was read of the greeting: all of it, or enough to see that it is something else. hyper answers the latter, unless
/// [`is_http1`] says that it could not. `None` if the client has closed, or has taken longer than `patience`.
pub(super) async fn greeting(stream: &mut (impl AsyncRead + Unpin), patience: Duration) -> Option<Bytes> {
    let mut read = [0; GREETING.len()];
    let reading = async {
        let mut length = 0;
        while length < read.len() && read[..length] == GREETING[..length] {
            match stream.read(&mut read[length..]).await {
                Ok(0) | Err(_) => return None,
                Ok(more) => length += more,
            }
        }
        Some(length)
    };
    let length = timeout(patience, reading).await.ok()??;
    Some(Bytes::copy_from_slice(&read[..length]))
}

/// Whether what was read in place of a greeting begins an HTTP/1 request: a verb in capitals, then a path.
pub(super) fn is_http1(read: &[u8]) -> bool {
    let verb = read.iter().take_while(|byte| byte.is_ascii_uppercase()).count();
    verb > 0 && read[verb..].starts_with(b" ") && read != GREETING
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncWriteExt as _, duplex};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn a_greeting_is_read_whole_and_no_byte_more() {
        let (mut client, mut server) = duplex(64);
        client.write_all(&GREETING[..5]).await.expect("it fits");
        let (greeted, ()) = tokio::join!(greeting(&mut server, PATIENCE), async {
            client.write_all(&GREETING[5..]).await.expect("it fits");
            client.write_all(b"frames").await.expect("it fits");
        });
        assert_eq!(greeted.as_deref(), Some(GREETING.as_slice()));
        let mut rest = [0; 6];
        server.read_exact(&mut rest).await.expect("it is there");
        assert_eq!(&rest, b"frames");
    }

    #[tokio::test(start_paused = true)]
    async fn a_wrong_greeting_is_recognised_at_once() {
        let (mut client, mut server) = duplex(64);
        client.write_all(b"GET / HTTP/1.1\r\n").await.expect("it fits");
        assert_eq!(greeting(&mut server, PATIENCE).await.as_deref(), Some(b"GET / HTTP/1.1\r\n".as_slice()));
    }

    #[test]
    fn a_request_of_http1_is_distinguished_from_a_greeting_and_from_noise() {
        for request in [&b"GET / HTTP/1.1\r\nhost: x\r\n"[..], b"POST /v2/models/m/infer H", b"PUT /", b"PRI /x"] {
            assert!(is_http1(request), "{request:?}");
        }
        for other in [&GREETING[..], b"\x16\x03\x01\x02\0", b"GET", b"", b" / HTTP/1.1"] {
            assert!(!is_http1(other), "{other:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn half_a_greeting_holds_a_connection_only_briefly() {
        let (mut client, mut server) = duplex(64);
        client.write_all(&GREETING[..9]).await.expect("it fits");
        assert_eq!(greeting(&mut server, PATIENCE).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_closes_has_not_greeted() {
        let (client, mut server) = duplex(64);
        drop(client);
        assert_eq!(greeting(&mut server, PATIENCE).await, None);
    }
}
