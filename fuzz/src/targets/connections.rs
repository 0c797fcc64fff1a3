//! What comes before any request: the header of a proxy, the first message of TLS, the frames of HTTP/2.

use proxy_header::{ParseConfig, ProxyHeader};

use crate::serving::Serving;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// An empty SETTINGS frame.
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
const HANDSHAKE: u8 = 22;
/// The longest record of TLS that is not encrypted.
const RECORD_BYTES_MAX: usize = 1 << 14;

/// A header of the PROXY protocol. What follows it must not matter.
pub(crate) fn proxy_header(data: &[u8]) {
    let Ok((header, length)) = ProxyHeader::parse(data, ParseConfig::default()) else { return };
    assert!((1..=data.len()).contains(&length), "{length} bytes of {}", data.len());
    let _ = header.proxied_address().map(|address| (address.source, address.destination));
    let _ = header.tlvs().count();
    let (alone, length_alone) = ProxyHeader::parse(&data[..length], ParseConfig::default()).expect("a header is whole by itself");
    assert!(length_alone == length && alone == header, "what follows a header has changed it");
}

/// The beginning of a handshake on an encrypted port. First byte: whether the rest are records, or the content of one handshake record.
pub(crate) fn tls_hello(data: &[u8]) {
    let [form, rest @ ..] = data else { return };
    let serving = Serving::get();
    let sent = if form % 2 == 0 {
        rest.to_vec()
    } else {
        let content = &rest[..rest.len().min(RECORD_BYTES_MAX)];
        let [.., high, low] = content.len().to_be_bytes();
        [&[HANDSHAKE, 3, 1, high, low][..], content].concat()
    };
    let _ = serving.exchange(serving.encrypted_addr(), &sent, true);
}

/// Frames on the gRPC port. First byte: whether the preface and the settings are put in front.
pub(crate) fn http2(data: &[u8]) {
    let [form, rest @ ..] = data else { return };
    let serving = Serving::get();
    let sent = if form % 2 == 0 { rest.to_vec() } else { [PREFACE, SETTINGS, rest].concat() };
    let _ = serving.exchange(serving.grpc_addr(), &sent, true);
}
