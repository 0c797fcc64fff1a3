//! Where a port is: an address of IP, or a Unix socket. Knows how that is written, and nothing about sockets.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::unix::ffi::OsStrExt as _,
    path::PathBuf,
    str::FromStr,
};

/// The longest path that the system takes for a socket.
const PATH_BYTES_MAX: usize = 107;

/// Where to listen: `ip:port`, `localhost:port`, `:port` for all addresses of the machine, or `unix:/path`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BindAddress {
    /// An address of IP and a port; port 0 stands for any free one.
    Ip(SocketAddr),
    /// A socket with this path, which only this machine reaches.
    Unix(PathBuf),
}

/// Whether only this machine reaches an address.
#[must_use]
pub fn is_loopback(address: IpAddr) -> bool {
    // An IPv6 socket has IPv4's addresses in its own form.
    address.to_canonical().is_loopback()
}

impl BindAddress {
    /// Whether only this machine reaches it.
    #[must_use]
    pub fn is_local(&self) -> bool {
        match self {
            Self::Ip(address) => is_loopback(address.ip()),
            Self::Unix(_) => true,
        }
    }

    /// The address of IP. A Unix socket has none: `0.0.0.0:0`, where nothing ever listens, stands for that.
    #[must_use]
    pub const fn over_ip(&self) -> SocketAddr {
        match self {
            Self::Ip(address) => *address,
            Self::Unix(_) => SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
        }
    }

    /// Puts the port on another address of IP.
    pub fn set_ip(&mut self, ip: IpAddr) {
        *self = Self::Ip(SocketAddr::new(ip, self.over_ip().port()));
    }

    /// Takes another port of the same address. A Unix socket has no ports and stays what it is.
    pub fn set_port(&mut self, port: u16) {
        if let Self::Ip(address) = self {
            address.set_port(port);
        }
    }
}

impl FromStr for BindAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(rest) = text.strip_prefix("unix:") {
            return socket(rest).map(Self::Unix);
        }
        let address = match text.rsplit_once(':') {
            Some(("localhost", port)) => format!("127.0.0.1:{port}"),
            Some(("", port)) => format!("0.0.0.0:{port}"),
            _ => text.to_owned(),
        };
        address.parse().map(Self::Ip).map_err(|error: std::net::AddrParseError| error.to_string())
    }
}

/// The path of a socket, from what follows `unix:`.
fn socket(rest: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(rest.strip_prefix("//").unwrap_or(rest));
    let bytes = path.as_os_str().as_bytes();
    if !path.is_absolute() || bytes.ends_with(b"/") {
        return Err("a Unix socket needs an absolute path, such as unix:/run/tidemill/grpc.sock".to_owned());
    }
    if bytes.contains(&0) {
        return Err("the path of a Unix socket has a NUL in it".to_owned());
    }
    if bytes.len() > PATH_BYTES_MAX {
        return Err(format!(
            "the path of a Unix socket is {} bytes long; the system takes at most {PATH_BYTES_MAX}",
            bytes.len()
        ));
    }
    Ok(path)
}

impl fmt::Display for BindAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl From<SocketAddr> for BindAddress {
    fn from(address: SocketAddr) -> Self {
        Self::Ip(address)
    }
}

impl<I: Into<IpAddr>> From<(I, u16)> for BindAddress {
    fn from(ip_and_port: (I, u16)) -> Self {
        Self::Ip(ip_and_port.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> BindAddress {
        text.parse().expect(text)
    }

    #[test]
    fn an_address_is_of_ip_or_a_socket_with_an_absolute_path() {
        for (text, shown) in [
            ("127.0.0.1:1", "127.0.0.1:1"),
            ("localhost:50051", "127.0.0.1:50051"),
            (":50051", "0.0.0.0:50051"),
            ("[::1]:0", "[::1]:0"),
            ("unix:/run/a.sock", "unix:/run/a.sock"),
            ("unix:///run/a.sock", "unix:/run/a.sock"),
        ] {
            assert_eq!(parsed(text).to_string(), shown, "{text}");
            assert_eq!(parsed(shown), parsed(text));
        }
        let long = format!("unix:/{}", "a".repeat(PATH_BYTES_MAX));
        for (text, why) in [
            ("localhost", "invalid socket address syntax"),
            ("localhost:", "invalid socket address syntax"),
            (":65536", "invalid socket address syntax"),
            ("unix:", "needs an absolute path"),
            ("unix:a.sock", "needs an absolute path"),
            ("unix://run/a.sock", "needs an absolute path"),
            ("unix:/run/", "needs an absolute path"),
            ("unix:@abstract", "needs an absolute path"),
            ("unix:/a\0b", "has a NUL in it"),
            (long.as_str(), "is 108 bytes long; the system takes at most 107"),
        ] {
            let error = text.parse::<BindAddress>().expect_err(text);
            assert!(error.contains(why), "{text}: {error}");
        }
        assert!(long[..long.len() - 1].parse::<BindAddress>().is_ok());
    }

    #[test]
    fn a_socket_is_local_and_has_no_address_of_ip() {
        let mut socket = parsed("unix:/a");
        assert!(socket.is_local() && parsed("localhost:1").is_local() && !parsed(":1").is_local());
        socket.set_port(7);
        assert_eq!((socket.to_string().as_str(), socket.over_ip().to_string().as_str()), ("unix:/a", "0.0.0.0:0"));
        let mut address = parsed("127.0.0.1:0");
        address.set_port(7);
        address.set_ip(Ipv4Addr::UNSPECIFIED.into());
        assert_eq!(address, BindAddress::from((Ipv4Addr::UNSPECIFIED, 7)));
    }
}
