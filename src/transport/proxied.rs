//! What a proxy says first on a connection that it makes for a client: the header of the PROXY protocol, version 1 or 2.
//!
//! It comes before everything else, the handshake of TLS included, and is read in the connection's own task, to its last byte and
//! not beyond. Only connections from the proxies that the operator names have one; what anybody else sends in its place is just
//! what that connection says.

use std::{io, net::IpAddr, time::Duration};

use proxy_header::{ParseConfig, ProxyHeader};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    time::timeout,
};

use super::{clients::Client, io::Io, shutdown::Shutdown};
use crate::connections::note_peer;

/// How version 1 begins.
const FIRST_START: &[u8] = b"PROXY ";

/// How version 2 begins. No header of version 1 is shorter.
const SECOND_START: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// Longest header of version 1.
const FIRST_BYTES_MAX: usize = 107;

/// Longest header of version 2 that is taken. Its fields beyond the addresses are not looked at.
const SECOND_BYTES_MAX: usize = 4 << 10;

/// What follows the beginning of version 2: its command, its family, and the length of the rest.
const SECOND_HEAD_BYTES: usize = SECOND_START.len() + 4;

/// Learns from a proxy whose connection this is. Returns whether it may go on.
pub(super) async fn introduced<I: Io>(io: &mut I, client: &mut Client, limit: Duration, shutdown: &Shutdown) -> bool {
    let Some(carrier) = io.carrier() else { return true };
    let read = tokio::select! {
        biased;
        read = timeout(limit, source(carrier)) => read.unwrap_or_else(|_| Err(late(limit))),
        _ = client.connection.asked_to_leave(None) => return false,
        () = shutdown.aborted().cancelled() => return false,
    };
    match read {
        Ok(None) => true,
        Ok(Some(ip)) => client.connection.come_from(ip).map(note_peer).is_ok(),
        Err(error) => {
            client.connection.note_bad_header();
            tracing::debug!(%error, "a connection from a proxy ended before it began");
            false
        }
    }
}

/// The client's address, from the header. `None` if the proxy speaks for itself, or does not know.
async fn source(carrier: &mut (dyn AsyncRead + Unpin + Send)) -> io::Result<Option<IpAddr>> {
    let mut read = vec![0; SECOND_START.len()];
    carrier.read_exact(&mut read).await?;
    if read == SECOND_START {
        read_more(carrier, &mut read, SECOND_HEAD_BYTES - SECOND_START.len()).await?;
        let length = usize::from(u16::from_be_bytes([read[SECOND_HEAD_BYTES - 2], read[SECOND_HEAD_BYTES - 1]]));
        if length > SECOND_BYTES_MAX - SECOND_HEAD_BYTES {
            return Err(wrong(format!("its header has {length} bytes more; {SECOND_BYTES_MAX} are allowed in all")));
        }
        read_more(carrier, &mut read, length).await?;
    } else if read.starts_with(FIRST_START) {
        while !read.ends_with(b"\r\n") {
            // No more than must be missing: what follows is not for us.
            let missing = if read.ends_with(b"\r") { 1 } else { 2 };
            if read.len() + missing > FIRST_BYTES_MAX {
                return Err(wrong(format!("its header does not end within {FIRST_BYTES_MAX} bytes")));
            }
            read_more(carrier, &mut read, missing).await?;
        }
    } else {
        return Err(wrong("it does not begin with a header of the PROXY protocol".to_owned()));
    }
    let config = ParseConfig { include_tlvs: false, allow_v1: true, allow_v2: true };
    match ProxyHeader::parse(&read, config) {
        Ok((header, length)) if length == read.len() => Ok(header.proxied_address().map(|proxied| proxied.source.ip())),
        Ok(_) => Err(wrong("its header does not end where it should".to_owned())),
        Err(error) => Err(wrong(error.to_string())),
    }
}

async fn read_more(carrier: &mut (dyn AsyncRead + Unpin + Send), read: &mut Vec<u8>, more: usize) -> io::Result<()> {
    let begun = read.len();
    read.resize(begun + more, 0);
    carrier.read_exact(&mut read[begun..]).await?;
    Ok(())
}

fn wrong(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

fn late(limit: Duration) -> io::Error {
    let why = format!("its header did not arrive within {limit:?} (tls.handshake_timeout_s)");
    io::Error::new(io::ErrorKind::TimedOut, why)
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};
    use tokio::io::{AsyncWriteExt as _, duplex};

    use super::*;

    /// What is understood of these bytes, and what is left of them. The writer closes behind them.
    async fn read(bytes: &[u8]) -> (io::Result<Option<IpAddr>>, Vec<u8>) {
        let (mut proxy, mut server) = duplex(bytes.len().max(1));
        proxy.write_all(bytes).await.expect("it fits");
        drop(proxy);
        let found = source(&mut server).await;
        let mut rest = Vec::new();
        server.read_to_end(&mut rest).await.expect("it was closed in order");
        (found, rest)
    }

    fn second(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).expect("short").to_be_bytes();
        [&SECOND_START[..], &[command, family], &length, rest].concat()
    }

    const FOUR: [u8; 12] = [192, 0, 2, 1, 10, 0, 0, 1, 0x30, 0x39, 0, 80];

    #[tokio::test]
    async fn both_versions_say_who_the_client_is_and_nothing_behind_them_is_read() {
        let client: IpAddr = "192.0.2.1".parse().expect("an address");
        let six: IpAddr = "2001:db8::1".parse().expect("an address");
        let long = [&FOUR[..], &[0xea, 0, 100], &[7; 100]].concat();
        for (header, expected) in [
            (b"PROXY TCP4 192.0.2.1 10.0.0.1 12345 80\r\n".to_vec(), Some(client)),
            (b"PROXY TCP6 2001:db8::1 ::1 12345 80\r\n".to_vec(), Some(six)),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN and whatever else\r\n".to_vec(), None),
            (second(0x21, 0x11, &FOUR), Some(client)),
            (second(0x21, 0x11, &long), Some(client)),
            (second(0x20, 0x11, &FOUR), None),
            (second(0x20, 0, &[]), None),
        ] {
            let (found, rest) = read(&[&header[..], b"\r\nwhat follows"].concat()).await;
            assert_eq!(found.expect("a sound header"), expected, "{header:?}");
            assert_eq!(rest, b"\r\nwhat follows", "{header:?}");
        }
    }

    #[tokio::test]
    async fn what_is_wrong_or_too_long_is_refused() {
        let endless = [b"PROXY UNKNOWN ".to_vec(), vec![b'x'; 200]].concat();
        for header in [
            b"GET / HTTP/1.1\r\nhost: a\r\n\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 10.0.0.1 12345\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.256 10.0.0.1 1 80\r\n".to_vec(),
            b"PROXY \r\nGET / HTTP/1.1\r\n".to_vec(),
            b"PROXY UNK".to_vec(),
            endless,
            second(0x21, 0x11, &FOUR[..11]),
            second(0x22, 0x11, &FOUR),
            second(0x21, 0x11, &[0; 4_081]),
            second(0x21, 0x11, &FOUR)[..20].to_vec(),
        ] {
            let (found, _) = read(&header).await;
            assert!(found.is_err(), "{header:?}: {found:?}");
        }
    }

    #[tokio::test]
    async fn a_header_may_come_in_pieces() {
        let (mut proxy, mut server) = duplex(64);
        let header = b"PROXY TCP4 192.0.2.1 10.0.0.1 12345 80\r\n";
        let (found, ()) = tokio::join!(source(&mut server), async {
            for byte in header {
                proxy.write_all(&[*byte]).await.expect("it fits");
                tokio::task::yield_now().await;
            }
        });
        assert_eq!(found.expect("a sound header"), Some("192.0.2.1".parse().expect("an address")));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(start in 0..3_usize, bytes in vec(any::<u8>(), 0..200)) {
            let start = [&b""[..], &b"PROXY TCP"[..], &SECOND_START[..]][start];
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            let said = [start, &bytes[..]].concat();
            let (found, _) = runtime.block_on(read(&said));
            prop_assert!(found.is_err() || said.starts_with(FIRST_START) || said.starts_with(&SECOND_START), "{found:?}");
        }
    }
}
