//! Where a server is.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    str::FromStr,
};

use tonic::transport::Uri;

/// What an address looks like.
const FORMS: &str = "HOST:PORT, http://HOST:PORT, https://HOST:PORT or unix:/PATH";

/// The address of a server's gRPC port: `HOST:PORT`, `http://HOST:PORT`, `https://HOST:PORT` if the port is encrypted, or `unix:/PATH` if
/// it is a Unix socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address(Place);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Ip(Uri),
    Unix(PathBuf),
}

/// A text that is no [`Address`]; says what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidAddress(String);

impl Address {
    /// What requests are for. Over a Unix socket, where there is no host, they are for `localhost`.
    pub(crate) fn uri(&self) -> Uri {
        match &self.0 {
            Place::Ip(uri) => uri.clone(),
            Place::Unix(_) => Uri::from_static("http://localhost"),
        }
    }

    /// Host and port, as the system resolves them; a Unix socket has none.
    pub(crate) fn host_and_port(&self) -> Option<(&str, u16)> {
        match &self.0 {
            Place::Ip(uri) => Some((uri.host()?.trim_matches(['[', ']']), uri.port_u16()?)),
            Place::Unix(_) => None,
        }
    }

    /// The file of a Unix socket.
    #[must_use]
    pub fn socket(&self) -> Option<&Path> {
        match &self.0 {
            Place::Ip(_) => None,
            Place::Unix(path) => Some(path),
        }
    }

    /// Whether it says that the port is encrypted.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        matches!(&self.0, Place::Ip(uri) if uri.scheme_str() == Some("https"))
    }

    /// Whether it says that the server is on this machine, so that nobody else can read what is sent there.
    #[must_use]
    pub fn is_local(&self) -> bool {
        self.host_and_port().is_none_or(|(host, _)| names_this_machine(host))
    }

    /// The same place, said to be encrypted; a Unix socket never is.
    #[must_use]
    pub fn encrypted(&self) -> Self {
        let Place::Ip(uri) = &self.0 else { return self.clone() };
        let authority = uri.authority().map(ToString::to_string).unwrap_or_default();
        format!("https://{authority}").parse().map_or_else(|_| self.clone(), |uri| Self(Place::Ip(uri)))
    }
}

/// Whether a host is this machine: `localhost`, or a loopback address, in brackets or not.
#[must_use]
pub fn names_this_machine(host: &str) -> bool {
    let host = host.trim_matches(['[', ']']);
    let is_loopback = |ip: IpAddr| ip.to_canonical().is_loopback();
    host.eq_ignore_ascii_case("localhost") || host.parse().is_ok_and(is_loopback)
}

/// The file of a Unix socket, if the text is `unix:/PATH` or `unix:///PATH`.
///
/// # Errors
/// [`InvalidAddress`] if what follows `unix:` is no absolute path.
pub fn socket_path(text: &str) -> Result<Option<PathBuf>, InvalidAddress> {
    let Some(rest) = text.strip_prefix("unix:") else { return Ok(None) };
    let path = PathBuf::from(rest.strip_prefix("//").unwrap_or(rest));
    if path.is_absolute() {
        Ok(Some(path))
    } else {
        Err(InvalidAddress(format!("'{text}' names no absolute path; a Unix socket is unix:/PATH")))
    }
}

impl FromStr for Address {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        if let Some(path) = socket_path(text)? {
            return Ok(Self(Place::Unix(path)));
        }
        let with_scheme = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let uri: Uri = with_scheme.parse().map_err(|error| InvalidAddress(format!("'{text}' is not {FORMS}: {error}")))?;
        match uri.scheme_str() {
            Some("http" | "https") if uri.port_u16().is_some() => Ok(Self(Place::Ip(uri))),
            Some("http" | "https") => Err(InvalidAddress(format!("'{text}' names no port; the server's default is 50051"))),
            _ => Err(InvalidAddress(format!("'{text}' must begin with http://, https:// or unix:/"))),
        }
    }
}

impl TryFrom<SocketAddr> for Address {
    type Error = InvalidAddress;

    fn try_from(address: SocketAddr) -> Result<Self, InvalidAddress> {
        address.to_string().parse()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Place::Ip(uri) => uri.fmt(f),
            Place::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_needs_no_scheme_but_a_port() {
        let plain: Address = "localhost:1234".parse().expect("host and port");
        assert_eq!(Ok(plain.clone()), "http://localhost:1234".parse());
        let complaint = |text: &str| text.parse::<Address>().expect_err("no address").to_string();
        assert!(complaint("localhost").contains("names no port"));
        assert!(complaint("ftp://localhost:1").contains("must begin with http://"));
        let encrypted: Address = "https://localhost:1234".parse().expect("host and port");
        assert!(encrypted.is_encrypted() && !plain.is_encrypted());
        assert_eq!(plain.encrypted(), encrypted);
        assert!(complaint("a b:1").contains("is not HOST:PORT"));
    }

    #[test]
    fn a_unix_socket_is_a_file_of_this_machine() {
        let socket: Address = "unix:/run/a.sock".parse().expect("a path");
        assert_eq!(Ok(socket.clone()), "unix:///run/a.sock".parse());
        assert_eq!((socket.socket(), socket.host_and_port()), (Some(Path::new("/run/a.sock")), None));
        assert!(socket.is_local() && !socket.encrypted().is_encrypted());
        assert_eq!(socket.to_string(), "unix:/run/a.sock");
        for bad in ["unix:", "unix:a.sock", "unix://a.sock"] {
            let complaint = bad.parse::<Address>().expect_err(bad).to_string();
            assert!(complaint.contains("names no absolute path"), "{complaint}");
        }
    }

    #[test]
    fn an_address_says_whether_it_is_of_this_machine() {
        let is_local = |text: &str| text.parse::<Address>().expect(text).is_local();
        for local in ["localhost:1", "LOCALHOST:1", "127.0.0.1:1", "https://127.9.9.9:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
            assert!(is_local(local), "{local}");
        }
        for other in ["example.com:1", "10.0.0.1:1", "0.0.0.0:1", "[fe80::1]:1", "localhost.example.com:1"] {
            assert!(!is_local(other), "{other}");
        }
    }

    #[test]
    fn an_address_of_ipv6_is_resolved_without_its_brackets() {
        let address = Address::try_from(SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], 1234))).expect("an address");
        assert_eq!(address.host_and_port(), Some(("::1", 1234)));
        assert_eq!(address.to_string(), "http://[::1]:1234/");
    }
}
