//! The first bytes of a connection, and what they say about the rest.
//!
//! A client that speaks HTTP/2 begins with a greeting that is no request of HTTP/1.1, so a port can speak both. Neither hyper nor h2
//! limits the time that a client takes for it, and a client that stops halfway would keep its place for as long as it likes.

use std::{
    io::{self, IoSlice},
    net::IpAddr,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf},
    time::timeout,
};

use super::io::{Io, Protocol};

/// RFC 9113, section 3.4.
const GREETING: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What was read of the greeting: all of it, or enough to see that it is something else. `None` if the client has closed, or has
/// taken longer than `patience`.
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

/// The protocol that begins like this, if one does. Requests of HTTP/1.1 begin with a verb in capitals.
pub(super) fn protocol(read: &[u8]) -> Option<Protocol> {
    match read {
        _ if read == GREETING => Some(Protocol::Http2),
        [first, ..] if first.is_ascii_uppercase() => Some(Protocol::Http1),
        _ => None,
    }
}

/// A connection of which a few bytes have been read already, and are read once more.
pub(super) struct Rewound<I> {
    read: Bytes,
    io: I,
}

impl<I> Rewound<I> {
    pub(super) const fn new(read: Bytes, io: I) -> Self {
        Self { read, io }
    }
}

impl<I: Io> Io for Rewound<I> {
    fn local_ip(&self) -> Option<IpAddr> {
        self.io.local_ip()
    }

    fn is_unix_socket(&self) -> bool {
        self.io.is_unix_socket()
    }

    fn set_up(&self) -> io::Result<()> {
        self.io.set_up()
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Rewound<I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.read.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buffer);
        }
        let length = self.read.len().min(buffer.remaining());
        buffer.put_slice(&self.read.split_to(length));
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Rewound<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
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
        for request in [&b"GET / HTTP/1.1\r\nhost: x\r\n"[..], b"POST /v2/models/m/infer H", b"PU", b"PRI /x", b"PRI * HTTP/1"] {
            assert_eq!(protocol(request), Some(Protocol::Http1), "{request:?}");
        }
        for noise in [&b"\x16\x03\x01\x02\0"[..], b"get / HTTP/1.1", b"", b" / HTTP/1.1"] {
            assert_eq!(protocol(noise), None, "{noise:?}");
        }
        assert_eq!(protocol(GREETING), Some(Protocol::Http2));
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

    proptest! {
        #[test]
        fn what_was_read_is_read_once_more_and_then_the_rest(bytes in proptest::collection::vec(any::<u8>(), 0..60), at in 0_usize..60) {
            let at = at.min(bytes.len());
            let (read, rest) = bytes.split_at(at);
            let mut rewound = Rewound::new(Bytes::copy_from_slice(read), rest);
            let mut all = Vec::new();
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            runtime.block_on(rewound.read_to_end(&mut all)).expect("no fault");
            prop_assert_eq!(all, bytes);
        }
    }
}
