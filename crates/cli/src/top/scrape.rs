//! Asks a server's admin port for its metrics, over HTTP/1.1.
//!
//! Bounds how long it waits and how much it reads; does not know what the metrics mean, except that a Tidemill server names itself.

use std::{error::Error, fmt, io, path::PathBuf, pin::pin, str::FromStr, time::Duration};

use bytes::Bytes;
use http::{Request, Uri, header};
use http_body_util::{BodyExt as _, Empty, LengthLimitError, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tidemill_client::{Credential, InvalidTls, Tls, TlsConnector, names_this_machine, socket_path};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    select,
    time::{Instant, timeout},
};

use super::{change::Scrape, exposition::Exposition};

/// For connecting, asking and reading together.
const SCRAPE_TIMEOUT: Duration = Duration::from_secs(5);

/// A thousand models take about 10 MiB.
const BODY_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What an address looks like.
const FORMS: &str = "HOST:PORT, http://HOST:PORT, https://HOST:PORT or unix:/PATH";

/// The metric by which a Tidemill server is recognised.
const BUILD_INFO: &str = "tidemill_build_info";

/// Where a server's admin port is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AdminAddress {
    /// HOST:PORT; of a Unix socket, the host that requests name.
    authority: String,
    is_encrypted: bool,
    /// The file of a Unix socket.
    socket: Option<PathBuf>,
}

/// An admin port, and how to connect to it.
pub(super) struct AdminPort {
    address: AdminAddress,
    connector: Option<TlsConnector>,
    credential: Option<Credential>,
}

/// Why there are no metrics.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum ScrapeFault {
    /// Nobody answered in time.
    #[error("{0}")]
    NoAnswer(String),
    /// Somebody answered something else.
    #[error("{0}")]
    UnexpectedAnswer(String),
}

impl FromStr for AdminAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = socket_path(text).map_err(|error| error.to_string())? {
            return Ok(Self { authority: "localhost".to_owned(), is_encrypted: false, socket: Some(path) });
        }
        let (is_encrypted, authority) = match text.strip_prefix("https://") {
            Some(authority) => (true, authority),
            None => (false, text.strip_prefix("http://").unwrap_or(text)),
        };
        let authority = authority.strip_suffix('/').unwrap_or(authority);
        let uri: Uri =
            format!("http://{authority}/metrics").parse().map_err(|error| format!("'{text}' is not {FORMS}: {error}"))?;
        match uri.authority().filter(|found| found.as_str() == authority && !authority.contains('@')) {
            Some(found) if found.port_u16().is_some() => Ok(Self { authority: authority.to_owned(), is_encrypted, socket: None }),
            Some(_) => Err(format!("'{text}' names no port; the server's default is 9464")),
            None => Err(format!("'{text}' is not {FORMS}")),
        }
    }
}

impl AdminAddress {
    fn host(&self) -> &str {
        let host = self.authority.rsplit_once(':').map_or(self.authority.as_str(), |(host, _)| host);
        host.trim_matches(['[', ']'])
    }

    fn is_local(&self) -> bool {
        self.socket.is_some() || names_this_machine(self.host())
    }
}

impl fmt::Display for AdminAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.socket {
            Some(path) => write!(f, "unix:{}", path.display()),
            None => f.write_str(&self.authority),
        }
    }
}

impl fmt::Display for AdminPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)
    }
}

impl AdminPort {
    /// The port at this address, and the key to show there; without `tls`, the address says whether it is encrypted.
    ///
    /// # Errors
    /// If `tls` cannot be used, or others could read the key, in words.
    pub(super) fn new(address: AdminAddress, tls: Option<Tls>, credential: Option<Credential>) -> Result<Self, String> {
        let tls = tls.or_else(|| address.is_encrypted.then(Tls::default));
        if tls.is_some() && address.socket.is_some() {
            return Err(format!("{address} is a Unix socket, which is never encrypted; connect without TLS"));
        }
        if credential.is_some() && tls.is_none() && !address.is_local() {
            return Err(format!(
                "the key is not sent to {address}: the connection is not encrypted, and whoever can read it would have the key; use \
                 https:// in the address"
            ));
        }
        let connector = tls.map(|tls| tls.connector(&["http/1.1"])).transpose();
        let connector = connector.map_err(|error: InvalidTls| error.to_string())?;
        Ok(Self { address, connector, credential })
    }

    /// Scrapes `/metrics`.
    ///
    /// # Errors
    /// If nobody answers within five seconds, or the answer is not a Tidemill server's metrics of at most 16 MiB.
    pub(super) async fn scrape(&self) -> Result<Scrape, ScrapeFault> {
        let late = |_| ScrapeFault::NoAnswer(format!("nothing within {} s", SCRAPE_TIMEOUT.as_secs()));
        timeout(SCRAPE_TIMEOUT, Box::pin(self.fetch())).await.map_err(late)?
    }

    async fn fetch(&self) -> Result<Scrape, ScrapeFault> {
        let failed = |error: io::Error| ScrapeFault::NoAnswer(error.to_string());
        if let Some(path) = &self.address.socket {
            return self.ask(UnixStream::connect(path).await.map_err(failed)?).await;
        }
        let stream = TcpStream::connect(&self.address.authority).await.map_err(failed)?;
        let Some(connector) = &self.connector else { return self.ask(stream).await };
        self.ask(connector.connect(self.address.host(), stream).await.map_err(failed)?).await
    }

    async fn ask(&self, stream: impl AsyncRead + AsyncWrite + Unpin + Send) -> Result<Scrape, ScrapeFault> {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| no_answer(&error))?;
        let asking = async {
            let mut request = Request::get("/metrics")
                .header(header::HOST, &self.address.authority)
                .header(header::CONNECTION, "close")
                .header(header::USER_AGENT, concat!("tidemill-cli/", env!("CARGO_PKG_VERSION")));
            if let Some(credential) = &self.credential {
                request = request.header(header::AUTHORIZATION, credential.header().clone());
            }
            let request = request.body(Empty::<Bytes>::new()).map_err(|error| no_answer(&error))?;
            let response = sender.send_request(request).await.map_err(|error| no_answer(&error))?;
            let taken = Instant::now();
            if !response.status().is_success() {
                return Err(ScrapeFault::UnexpectedAnswer(format!("/metrics is answered with {}", response.status())));
            }
            let date = response.headers().get(header::DATE).and_then(|date| date.to_str().ok());
            let server_time = date.and_then(|date| httpdate::parse_http_date(date).ok());
            let body = Limited::new(response.into_body(), BODY_BYTES_MAX).collect().await.map_err(|error| body_fault(&*error))?;
            Ok(Scrape { exposition: read(&body.to_bytes())?, taken, server_time })
        };
        let mut connection = pin!(connection);
        let mut asking = pin!(asking);
        select! {
            biased;
            scrape = &mut asking => scrape,
            // `asking` knows better why it ended, and whatever came before the end is still to be read.
            _ = &mut connection => asking.await,
        }
    }
}

/// The innermost error says what the operating system or the peer said.
fn no_answer(error: &dyn Error) -> ScrapeFault {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    ScrapeFault::NoAnswer(innermost.to_string())
}

fn body_fault(error: &(dyn Error + 'static)) -> ScrapeFault {
    if error.is::<LengthLimitError>() {
        ScrapeFault::UnexpectedAnswer(format!("/metrics has more than {} MiB", BODY_BYTES_MAX >> 20))
    } else {
        no_answer(error)
    }
}

fn read(body: &[u8]) -> Result<Exposition, ScrapeFault> {
    let unexpected = |reason: &dyn fmt::Display| ScrapeFault::UnexpectedAnswer(format!("/metrics cannot be read: {reason}"));
    let text = str::from_utf8(body).map_err(|error| unexpected(&error))?;
    let exposition = Exposition::parse(text).map_err(|error| unexpected(&error))?;
    if exposition.series(BUILD_INFO).next().is_none() {
        return Err(unexpected(&format_args!("there is no {BUILD_INFO}, so this is not a Tidemill server")));
    }
    Ok(exposition)
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    /// The result for an answer with these bytes.
    async fn scrape_of(answer: Vec<u8>) -> Result<Scrape, ScrapeFault> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
        let address: AdminAddress = listener.local_addr().expect("bound").to_string().parse().expect("an address");
        let answering = async {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(stream.read_u8().await.expect("a request"));
            }
            // A client that has read enough may have gone.
            let _ = stream.write_all(&answer).await;
            String::from_utf8(request).expect("text")
        };
        let port = AdminPort::new(address, None, None).expect("no TLS");
        let (request, scraped) = tokio::join!(answering, port.scrape());
        assert!(request.starts_with("GET /metrics HTTP/1.1\r\n"), "{request}");
        scraped
    }

    fn page(status: &str, body: &str) -> Vec<u8> {
        let date = "date: Thu, 01 Jan 1970 00:16:40 GMT";
        format!("HTTP/1.1 {status}\r\n{date}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes()
    }

    #[tokio::test]
    async fn metrics_come_with_the_servers_time() {
        let text = "tidemill_build_info{version=\"1\"} 1\nprocess_start_time_seconds 995\n";
        let scrape = scrape_of(page("200 OK", text)).await.expect("metrics");
        assert_eq!(scrape.exposition.series(BUILD_INFO).count(), 1);
        assert_eq!(scrape.uptime(), Some(Duration::from_secs(5)));
    }

    #[tokio::test]
    async fn an_answer_that_ends_with_its_connection_is_read_to_the_end() {
        let answer = "HTTP/1.0 200 OK\r\n\r\ntidemill_build_info 1\n";
        assert!(scrape_of(answer.into()).await.is_ok());
    }

    #[tokio::test]
    async fn what_is_not_a_servers_metrics_is_named() {
        let cases = [
            (page("404 Not Found", ""), "/metrics is answered with 404 Not Found"),
            (page("200 OK", "up 1\n"), "no tidemill_build_info"),
            (page("200 OK", "<html>\n"), "line 1 is not a sample"),
            (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n\xff\n".to_vec(), "invalid utf-8"),
        ];
        for (answer, reason) in cases {
            let fault = scrape_of(answer).await.expect_err(reason);
            assert!(matches!(&fault, ScrapeFault::UnexpectedAnswer(text) if text.contains(reason)), "{fault:?}");
        }
    }

    #[tokio::test]
    async fn an_endless_answer_is_not_read_to_the_end() {
        let body = "#".repeat(BODY_BYTES_MAX + 1);
        let fault = scrape_of(page("200 OK", &body)).await.expect_err("too much");
        assert_eq!(fault, ScrapeFault::UnexpectedAnswer("/metrics has more than 16 MiB".to_owned()));
    }

    #[tokio::test]
    async fn a_connection_that_breaks_off_is_no_answer() {
        for answer in [&b""[..], b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf"] {
            let fault = scrape_of(answer.to_vec()).await.expect_err("too little");
            assert!(matches!(&fault, ScrapeFault::NoAnswer(_)), "{fault:?}");
        }
    }

    #[test]
    fn an_address_needs_a_port_and_nothing_more() {
        for good in
            ["127.0.0.1:9464", "[::1]:9464", "localhost:1", "http://localhost:1", "https://localhost:1/", "unix:/a", "unix:///a"]
        {
            assert!(good.parse::<AdminAddress>().is_ok(), "{good}");
        }
        for bad in ["", "localhost", "ftp://localhost:1", "http://localhost:1/metrics", "a b:1", "me@host:1", ":1x", "unix:a"] {
            assert!(bad.parse::<AdminAddress>().is_err(), "{bad}");
        }
        let key = || Some("tm_key".parse::<Credential>().expect("a key"));
        let port = |text: &str, tls: Option<Tls>| AdminPort::new(text.parse().expect("an address"), tls, key());
        let anyone = || Some(Tls { insecure: true, ..Tls::default() });
        assert!(port("localhost:1", None).is_ok() && port("unix:/a", None).is_ok() && port("10.0.0.1:1", anyone()).is_ok());
        for (text, tls) in [("10.0.0.1:1", None), ("unix:/a", anyone())] {
            assert!(port(text, tls).is_err(), "{text}");
        }
        assert!("localhost".parse::<AdminAddress>().expect_err("no port").contains("names no port"));
    }
}
