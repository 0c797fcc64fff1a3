//! Where a server is.

use std::{fmt, net::SocketAddr, str::FromStr};

use tonic::transport::Uri;

/// The address of a server's gRPC port: `HOST:PORT`, `http://HOST:PORT`, or `https://HOST:PORT` if the port is encrypted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address(Uri);

/// A text that is no [`Address`]; says what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidAddress(String);

impl Address {
    pub(crate) const fn uri(&self) -> &Uri {
        &self.0
    }

    /// Host and port, as the system resolves them.
    pub(crate) fn host_and_port(&self) -> Option<(&str, u16)> {
        Some((self.0.host()?.trim_matches(['[', ']']), self.0.port_u16()?))
    }

    /// Whether it says that the port is encrypted.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        self.0.scheme_str() == Some("https")
    }

    /// The same place, said to be encrypted.
    #[must_use]
    pub fn encrypted(&self) -> Self {
        let authority = self.0.authority().map(ToString::to_string).unwrap_or_default();
        format!("https://{authority}").parse().map_or_else(|_| self.clone(), Self)
    }
}

impl FromStr for Address {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        let with_scheme = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let uri: Uri = with_scheme.parse().map_err(|error| {
            InvalidAddress(format!("'{text}' is not HOST:PORT, http://HOST:PORT or https://HOST:PORT: {error}"))
        })?;
        match uri.scheme_str() {
            Some("http" | "https") if uri.port_u16().is_some() => Ok(Self(uri)),
            Some("http" | "https") => Err(InvalidAddress(format!("'{text}' names no port; the server's default is 50051"))),
            _ => Err(InvalidAddress(format!("'{text}' must begin with http:// or https://"))),
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
        self.0.fmt(f)
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
    fn an_address_of_ipv6_is_resolved_without_its_brackets() {
        let address = Address::try_from(SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], 1234))).expect("an address");
        assert_eq!(address.host_and_port(), Some(("::1", 1234)));
        assert_eq!(address.to_string(), "http://[::1]:1234/");
    }
}
