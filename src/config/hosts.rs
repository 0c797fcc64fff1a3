//! Names of hosts and origins, as listed in settings and as they come with requests.
//!
//! Pure: looks nothing up. Names are compared without regard to case, and a trailing dot is ignored.

use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// Longest host name.
const NAME_BYTES_MAX: usize = 253;

/// An authority: a host, and a port if it names one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Authority<'a> {
    /// A name or an address, without brackets and without a dot at the end.
    pub host: &'a str,
    /// The port, if one is named.
    pub port: Option<u16>,
    is_address: bool,
}

impl<'a> Authority<'a> {
    /// Reads `host`, `host:port`, `[address]` or `[address]:port`. `None` if the text is none of these.
    #[must_use]
    pub fn parse(text: &'a str) -> Option<Self> {
        let (host, rest, is_address) = match text.strip_prefix('[') {
            Some(bracketed) => {
                let (host, rest) = bracketed.split_once(']')?;
                host.parse::<Ipv6Addr>().ok()?;
                (host, rest, true)
            }
            None => {
                let (host, rest) = text.split_at(text.find(':').unwrap_or(text.len()));
                let host = host.strip_suffix('.').unwrap_or(host);
                if !is_name(host) {
                    return None;
                }
                (host, rest, host.parse::<Ipv4Addr>().is_ok())
            }
        };
        let port = match rest.strip_prefix(':') {
            Some("") => None,
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => Some(digits.parse().ok()?),
            None if rest.is_empty() => None,
            Some(_) | None => return None,
        };
        Some(Self { host, port, is_address })
    }

    /// Whether the host is an address, so that no name had to be looked up.
    #[must_use]
    pub const fn is_address(&self) -> bool {
        self.is_address
    }

    /// Whether the host is this machine by the name that always means it.
    #[must_use]
    pub fn is_localhost(&self) -> bool {
        let localhost = "localhost";
        self.host.eq_ignore_ascii_case(localhost) || is_below(self.host, localhost)
    }
}

/// Which hosts a setting names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostPattern {
    /// `*`: any.
    Any,
    /// `*.example.com`: those below it, at any depth.
    Below(String),
    /// `example.com`: this one.
    Exactly(String),
}

impl HostPattern {
    /// Whether it names `host`, which has neither port nor brackets.
    #[must_use]
    pub fn matches(&self, host: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Below(name) => is_below(host, name),
            Self::Exactly(name) => host.eq_ignore_ascii_case(name),
        }
    }
}

impl FromStr for HostPattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "*" {
            return Ok(Self::Any);
        }
        let (below, name) = text.strip_prefix("*.").map_or((false, text), |name| (true, name));
        let name = name.strip_suffix('.').unwrap_or(name);
        if !is_name(name) {
            return Err(format!("'{text}' is not a host name, such as example.com or *.example.com, without a port"));
        }
        Ok(if below { Self::Below(name.to_owned()) } else { Self::Exactly(name.to_owned()) })
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Below(name) => write!(f, "*.{name}"),
            Self::Exactly(name) => f.write_str(name),
        }
    }
}

/// Which origins of web pages a setting names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OriginPattern {
    /// `*`: any.
    Any,
    /// `https://example.com`, `https://*.example.com:8443`.
    Site {
        /// In lower case.
        scheme: String,
        /// The host.
        host: HostPattern,
        /// The port; that of the scheme if none is named.
        port: Option<u16>,
    },
}

impl OriginPattern {
    /// Whether it names this origin.
    #[must_use]
    pub fn matches(&self, origin: &PageOrigin<'_>) -> bool {
        match self {
            Self::Any => true,
            Self::Site { scheme, host, port } => {
                let wanted = port.or_else(|| default_port(scheme));
                origin.scheme.eq_ignore_ascii_case(scheme) && host.matches(origin.authority.host) && origin.port() == wanted
            }
        }
    }
}

impl FromStr for OriginPattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "*" {
            return Ok(Self::Any);
        }
        let refused =
            || format!("'{text}' is not an origin, such as https://example.com or https://*.example.com:8443, without a path");
        let (scheme, authority) = text.split_once("://").filter(|(scheme, _)| is_scheme(scheme)).ok_or_else(refused)?;
        let (below, name) = authority.strip_prefix("*.").map_or((false, authority), |name| (true, name));
        let Authority { host, port, is_address } = Authority::parse(name).ok_or_else(refused)?;
        let host = match below {
            true if is_address => return Err(refused()),
            true => HostPattern::Below(host.to_owned()),
            false => HostPattern::Exactly(host.to_owned()),
        };
        Ok(Self::Site { scheme: scheme.to_ascii_lowercase(), host, port })
    }
}

impl fmt::Display for OriginPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Site { scheme, host, port } = self else { return f.write_str("*") };
        match host {
            HostPattern::Exactly(host) if host.contains(':') => write!(f, "{scheme}://[{host}]")?,
            host => write!(f, "{scheme}://{host}")?,
        }
        port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

/// Where a web page comes from, as a browser states it with each request that the page makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageOrigin<'a> {
    /// In upper or lower case, as it came.
    pub scheme: &'a str,
    /// Host and port.
    pub authority: Authority<'a>,
}

impl<'a> PageOrigin<'a> {
    /// Reads `scheme://host[:port]`. `None` for anything else, such as `null`, with which browsers hide where a page comes from.
    #[must_use]
    pub fn parse(text: &'a str) -> Option<Self> {
        let (scheme, authority) = text.split_once("://").filter(|(scheme, _)| is_scheme(scheme))?;
        Some(Self { scheme, authority: Authority::parse(authority)? })
    }

    /// The port, which is left out where it is that of the scheme.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        self.authority.port.or_else(|| default_port(self.scheme))
    }

    /// Whether a page from here is the server's own, if `server` is what the client calls it.
    #[must_use]
    pub fn is_of(&self, server: &Authority<'_>) -> bool {
        let port = server.port.or_else(|| default_port(self.scheme));
        self.authority.host.eq_ignore_ascii_case(server.host) && self.port() == port && port.is_some()
    }
}

fn default_port(scheme: &str) -> Option<u16> {
    if scheme.eq_ignore_ascii_case("http") {
        Some(80)
    } else if scheme.eq_ignore_ascii_case("https") {
        Some(443)
    } else {
        None
    }
}

fn is_scheme(text: &str) -> bool {
    let rest = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
    text.starts_with(|first: char| first.is_ascii_alphabetic()) && text.bytes().all(rest)
}

/// Labels of letters, digits, `-` and `_`, separated by single dots. Other alphabets are encoded in ASCII there.
fn is_name(text: &str) -> bool {
    let is_label =
        |label: &str| !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    text.len() <= NAME_BYTES_MAX && text.split('.').all(is_label)
}

/// Whether `host` is `name` with labels in front of it.
fn is_below(host: &str, name: &str) -> bool {
    let (host, name) = (host.as_bytes(), name.as_bytes());
    host.len() > name.len() + 1
        && host[host.len() - name.len() - 1] == b'.'
        && host[host.len() - name.len()..].eq_ignore_ascii_case(name)
}

/// Settings hold patterns as text.
macro_rules! as_text {
    ($pattern:ty) => {
        impl Serialize for $pattern {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $pattern {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
            }
        }
    };
}

as_text!(HostPattern);
as_text!(OriginPattern);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn authority(text: &str) -> Option<(&str, Option<u16>)> {
        Authority::parse(text).map(|authority| (authority.host, authority.port))
    }

    #[test]
    fn an_authority_is_a_host_and_perhaps_a_port() {
        for (text, found) in [
            ("localhost", Some(("localhost", None))),
            ("localhost:8080", Some(("localhost", Some(8080)))),
            ("localhost.:8080", Some(("localhost", Some(8080)))),
            ("a.b-c_d:", Some(("a.b-c_d", None))),
            ("127.0.0.1:1", Some(("127.0.0.1", Some(1)))),
            ("[::1]", Some(("::1", None))),
            ("[::ffff:127.0.0.1]:80", Some(("::ffff:127.0.0.1", Some(80)))),
            ("", None),
            (".", None),
            (":80", None),
            ("a..b", None),
            ("a:b", None),
            ("a:-1", None),
            ("a:+1", None),
            ("a:65536", None),
            ("a:1:2", None),
            ("::1", None),
            ("[::1", None),
            ("[::1]80", None),
            ("[localhost]", None),
            ("user@localhost", None),
            ("localhost/x", None),
            ("local host", None),
            ("é", None),
        ] {
            assert_eq!(authority(text), found, "{text:?}");
        }
        assert!(authority(&"a".repeat(253)).is_some());
        assert!(authority(&"a".repeat(254)).is_none());
    }

    #[test]
    fn addresses_and_localhost_are_known_from_names_that_look_like_them() {
        let parsed = |text: &'static str| Authority::parse(text).expect("an authority");
        for address in ["127.0.0.1", "10.0.0.1:80", "[::1]:80"] {
            assert!(parsed(address).is_address(), "{address}");
        }
        for name in ["127.0.0.1.evil.example", "127.0.0", "1.2.3.4.5", "0x7f000001", "localhost"] {
            assert!(!parsed(name).is_address(), "{name}");
        }
        for local in ["localhost", "LOCALHOST:1", "localhost.", "a.localhost", "a.b.LocalHost:80"] {
            assert!(parsed(local).is_localhost(), "{local}");
        }
        for other in ["localhost.evil.example", "notlocalhost", "localhos", "evil.example"] {
            assert!(!parsed(other).is_localhost(), "{other}");
        }
    }

    #[test]
    fn a_pattern_names_one_host_or_all_below_it_or_any() {
        let matches = |pattern: &str, host: &str| pattern.parse::<HostPattern>().expect("a pattern").matches(host);
        for (pattern, host, expected) in [
            ("example.com", "EXAMPLE.com", true),
            ("example.com.", "example.com", true),
            ("example.com", "a.example.com", false),
            ("*.example.com", "a.example.com", true),
            ("*.example.com", "a.B.Example.com", true),
            ("*.example.com", "example.com", false),
            ("*.example.com", ".example.com", false),
            ("*.example.com", "evilexample.com", false),
            ("*", "anything", true),
        ] {
            assert_eq!(matches(pattern, host), expected, "{pattern} {host}");
        }
        for broken in ["", "*.", "**", "a.*", "*.*.com", "example.com:80", "http://a", "a b", "[::1]", "é.com"] {
            let error = broken.parse::<HostPattern>().expect_err("no pattern");
            assert!(error.contains(&format!("'{broken}'")), "{error}");
        }
    }

    #[test]
    fn an_origin_is_compared_with_the_port_of_its_scheme() {
        let matches = |pattern: &str, origin: &str| {
            pattern.parse::<OriginPattern>().expect("a pattern").matches(&PageOrigin::parse(origin).expect("an origin"))
        };
        for (pattern, origin, expected) in [
            ("https://example.com", "https://example.com", true),
            ("https://example.com", "HTTPS://Example.COM:443", true),
            ("https://example.com:443", "https://example.com", true),
            ("https://example.com", "http://example.com", false),
            ("https://example.com", "https://example.com:8443", false),
            ("https://*.example.com:8443", "https://a.example.com:8443", true),
            ("https://*.example.com", "https://example.com", false),
            ("http://[::1]:3000", "http://[::1]:3000", true),
            ("chrome-extension://abc", "chrome-extension://abc", true),
            ("*", "http://evil.example", true),
        ] {
            assert_eq!(matches(pattern, origin), expected, "{pattern} {origin}");
        }
        for broken in
            ["", "null", "example.com", "https://", "https://example.com/", "://a", "1http://a", "https://*.1.2.3.4", "https://*"]
        {
            assert!(broken.parse::<OriginPattern>().is_err(), "{broken}");
        }
    }

    #[test]
    fn a_page_is_the_servers_own_if_host_and_port_are() {
        let own = |origin: &'static str, server: &'static str| {
            PageOrigin::parse(origin).expect("an origin").is_of(&Authority::parse(server).expect("an authority"))
        };
        for (origin, server) in [
            ("http://localhost:8080", "localhost:8080"),
            ("http://LOCALHOST:8080", "localhost.:8080"),
            ("https://models.example", "models.example"),
            ("https://models.example", "models.example:443"),
            ("http://[::1]:8080", "[::1]:8080"),
        ] {
            assert!(own(origin, server), "{origin} {server}");
        }
        for (origin, server) in [
            ("http://localhost:3000", "localhost:8080"),
            ("http://localhost", "localhost:8080"),
            ("http://evil.example:8080", "localhost:8080"),
            ("http://127.0.0.1:8080", "localhost:8080"),
            ("https://models.example", "models.example:80"),
            ("chrome-extension://models", "models"),
        ] {
            assert!(!own(origin, server), "{origin} {server}");
        }
        for none in ["null", "", "file://", "about:blank", "http://a/b", "http://a b", "http://a, http://b"] {
            assert_eq!(PageOrigin::parse(none), None, "{none}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics_and_what_is_read_is_in_it(text in ".{0,40}|[a-z.*:\\[\\]/0-9@]{0,30}", other in "[a-z.*:/]{0,20}") {
            if let Some(authority) = Authority::parse(&text) {
                prop_assert!(text.contains(authority.host));
                prop_assert!(!authority.host.is_empty() && !authority.host.ends_with('.'));
            }
            let _ = PageOrigin::parse(&text).map(|origin| origin.port());
            if let Ok(pattern) = text.parse::<HostPattern>() {
                let _ = pattern.matches(&other);
            }
        }

        #[test]
        fn patterns_survive_being_written(host in "(\\*\\.)?[a-z0-9-]{1,9}(\\.[a-z0-9-]{1,9}){0,3}|\\*", port in proptest::option::of(any::<u16>())) {
            let pattern: HostPattern = host.parse().expect("a pattern");
            prop_assert_eq!(pattern.to_string().parse::<HostPattern>(), Ok(pattern));
            let port = port.map_or_else(String::new, |port| format!(":{port}"));
            if let Ok(origin) = format!("https://{host}{port}").parse::<OriginPattern>() {
                prop_assert_eq!(origin.to_string().parse::<OriginPattern>(), Ok(origin));
            }
        }

        #[test]
        fn a_host_below_a_name_ends_with_it(labels in "[a-z]{1,5}(\\.[a-z]{1,5}){0,3}", name in "[a-z]{1,5}(\\.[a-z]{1,5}){0,2}") {
            let below: HostPattern = format!("*.{name}").parse().expect("a pattern");
            let host = format!("{labels}.{name}");
            prop_assert!(below.matches(&host));
            prop_assert!(!below.matches(&name));
            let joined = format!("{labels}{name}");
            prop_assert_eq!(below.matches(&joined), joined.ends_with(&format!(".{name}")));
        }
    }
}
