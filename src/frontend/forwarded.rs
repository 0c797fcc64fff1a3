//! For whom a proxy makes a request, as `x-forwarded-for` says.
//!
//! Each proxy adds the address that it was called from at the end, and passes on what stood before, which a client can have made up.
//! So the list is read from its end, only on connections of proxies that the operator names, and only past addresses of such proxies.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName};

use crate::{
    connections::Connections,
    domain::{Address, Peer},
};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// How many proxies there may be, one behind another.
const HOPS_MAX: usize = 16;

/// Whose request it is that came over the connection of `peer`, as far as shares are concerned.
pub(super) fn sender(peer: Peer, headers: &HeaderMap, connections: &Connections) -> Peer {
    if peer.address != Address::Proxy {
        return peer;
    }
    let client = client(headers, |ip| connections.address_of(ip));
    Peer { address: client.unwrap_or(peer.address), ..peer }
}

/// The last address in the list that is no proxy's. `None` if there is none, or if it is no address of a client.
fn client(headers: &HeaderMap, address_of: impl Fn(IpAddr) -> Address) -> Option<Address> {
    let lines = headers.get_all(FORWARDED_FOR).iter().rev();
    let hops = lines.flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b','));
    for hop in hops.take(HOPS_MAX) {
        match address_of(ip(hop)?) {
            Address::Proxy => {}
            Address::Local => return None,
            address => return Some(address),
        }
    }
    None
}

/// An address, perhaps with a port.
fn ip(text: &[u8]) -> Option<IpAddr> {
    let text = str::from_utf8(text).ok()?.trim();
    text.parse().ok().or_else(|| text.parse().ok().map(|address: SocketAddr| address.ip()))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::{collection::vec, prelude::*};

    use super::*;

    const PROXY: &str = "10.0.0.9";

    fn found_in(lines: &[&[u8]]) -> Option<Address> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(FORWARDED_FOR, HeaderValue::from_bytes(line).expect("a value"));
        }
        let proxies: [IpAddr; 1] = [PROXY.parse().expect("an address")];
        client(&headers, |ip| Address::of(ip, &proxies))
    }

    fn found(lines: &[&str]) -> Option<Address> {
        let lines: Vec<&[u8]> = lines.iter().map(|line| line.as_bytes()).collect();
        found_in(&lines)
    }

    #[test]
    fn the_last_address_that_is_no_proxys_counts() {
        let (one, two) = (Some(Address::V4(0xc000_0201)), Some(Address::V4(0xc000_0202)));
        let six = Some(Address::V6(0x2001_0db8_0000_0000));
        for (lines, expected) in [
            (&["192.0.2.1"][..], one),
            (&["192.0.2.2, 192.0.2.1"], one),
            (&["192.0.2.1, 10.0.0.9"], one),
            (&["192.0.2.1:4711,10.0.0.9,  10.0.0.9 "], one),
            // Lines are one list, in their order.
            (&["192.0.2.1", "192.0.2.2"], two),
            (&["[2001:db8::1]:80"], six),
            (&["2001:db8::1"], six),
        ] {
            assert_eq!(found(lines), expected, "{lines:?}");
        }
    }

    #[test]
    fn what_is_no_address_of_a_client_says_nothing() {
        let behind = format!("192.0.2.1,{}", vec![PROXY; HOPS_MAX].join(","));
        for line in ["", "unknown", "192.0.2.1, unknown", "192.0.2.1,", "192.0.2.1, 127.0.0.1", PROXY, behind.as_str()] {
            assert_eq!(found(&[line]), None, "{line}");
        }
        assert_eq!((found(&[]), found_in(&[b"\xff"])), (None, None));
    }

    #[test]
    fn only_a_proxys_word_counts() {
        let mut headers = HeaderMap::new();
        headers.insert(FORWARDED_FOR, HeaderValue::from_static("192.0.2.1"));
        let connections = Connections::default();
        for address in [Address::Local, Address::V4(7), Address::V6(7)] {
            let peer = Peer { connection: 3, address };
            assert_eq!(sender(peer, &headers, &connections), peer);
        }
        let proxy = Peer { connection: 3, address: Address::Proxy };
        assert_eq!(sender(proxy, &headers, &connections), Peer { connection: 3, address: Address::V4(0xc000_0201) });
        assert_eq!(sender(proxy, &HeaderMap::new(), &connections), proxy);
    }

    proptest! {
        #[test]
        fn whatever_stands_before_the_last_address_changes_nothing(before in "[0-9a-z.:, ]{0,40}") {
            let line = format!("{before},192.0.2.1");
            prop_assert_eq!(found(&[line.as_str()]), Some(Address::V4(0xc000_0201)));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in vec(0x20..=0x7e_u8, 0..60)) {
            let address = found_in(&[&bytes[..]]);
            prop_assert!(!matches!(address, Some(Address::Local | Address::Proxy)), "{:?}", address);
        }
    }
}
