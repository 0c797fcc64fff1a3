//! Encrypted ports, with clients that know whom they talk to, and others.

use std::{fs, net::SocketAddr, path::PathBuf, process::Command};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::{
    Request, Version,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, date_time_ymd};
use tempfile::TempDir;
use tidemill_client::{Address, Client, Settings, Tls};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use tidemill::{
    config::{ClientAuth, Config, PortTls},
    proto::v1::feed_request::Message,
};

use crate::serving::{self, DOUBLER, Feed, bare_config, item, metric, outcome, patiently, serve, tensors_of, until};

/// An authority, and a folder for what it issues.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    folder: TempDir,
}

impl Authority {
    fn new() -> Self {
        Self::named("authority")
    }

    fn named(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("a certificate").pem();
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("ca.pem"), &pem).expect("a file");
        Self { issuer: Issuer::new(params, key), pem, folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A certificate for this host that expires at the beginning of that year, and its key.
    fn issue_until(&self, host: &str, year: i32) -> (String, String) {
        let mut params = CertificateParams::new(vec![host.to_owned()]).expect("a host");
        params.not_before = date_time_ymd(2000, 1, 1);
        params.not_after = date_time_ymd(year, 1, 1);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().expect("a key");
        (params.signed_by(&key, &self.issuer).expect("a certificate").pem(), key.serialize_pem())
    }

    fn issue(&self, host: &str) -> (String, String) {
        self.issue_until(host, 4000)
    }

    /// Writes `NAME.pem` and `NAME.key`.
    fn write(&self, name: &str, (cert, key): &(String, String)) {
        fs::write(self.path(&format!("{name}.pem")), cert).expect("a file");
        fs::write(self.path(&format!("{name}.key")), key).expect("a file");
    }

    /// Settings with this pair.
    fn config(&self, pair: &(String, String)) -> Config {
        self.write("server", pair);
        let mut config = bare_config();
        config.tls.cert = vec![self.path("server.pem")];
        config.tls.key = vec![self.path("server.key")];
        config
    }

    /// A client that trusts this authority.
    fn trusted(&self) -> Tls {
        Tls { authorities: Some(self.pem.clone().into_bytes()), ..Tls::default() }
    }

    /// And shows a certificate of its own.
    fn known(&self) -> Tls {
        let (cert, key) = self.issue("client");
        Tls { identity: Some((cert.into_bytes(), key.into_bytes())), ..self.trusted() }
    }
}

async fn connect(address: SocketAddr, tls: Tls) -> Result<Client, tidemill_client::Error> {
    let address = Address::try_from(address).expect("an address");
    patiently(Client::connect_with(&address, &Settings { tls: Some(tls), ..Settings::default() })).await
}

/// The same connection, as the other tests use one.
fn grpc(client: &Client) -> serving::Client {
    serving::Client::new(client.channel().without_credential().clone())
}

/// Has the model double a number.
async fn doubles(client: &Client) {
    let (mut feed, _) = Feed::open(&mut grpc(client), tensors_of("m")).await;
    feed.send(Message::Item(item("", &[4.0; 4]))).await;
    assert_eq!(outcome(&feed.next_result().await), Ok(vec![8.0; 4]));
}

/// Status and body of a page, over HTTP/2 if that is agreed.
async fn page(address: SocketAddr, path: &str, tls: &Tls, protocols: &[&str]) -> std::io::Result<(u16, String)> {
    let connector = tls.connector(protocols).expect("sound settings");
    let stream = connector.connect("127.0.0.1", TcpStream::connect(address).await?).await?;
    let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let io = TokioIo::new(stream);
    let request = |target: &str| Request::get(target).body(Empty::<Bytes>::new()).expect("a request");
    let (response, connection) = if is_http2 {
        let handshake = http2::handshake(TokioExecutor::new(), io).await;
        let (mut sender, connection) = handshake.map_err(std::io::Error::other)?;
        let connection = tokio::spawn(async { drop(connection.await) });
        (patiently(sender.send_request(request(&format!("https://localhost{path}")))).await, connection)
    } else {
        let (mut sender, connection) = http1::handshake(io).await.map_err(std::io::Error::other)?;
        let connection = tokio::spawn(async { drop(connection.await) });
        let mut request = request(path);
        request.headers_mut().insert("host", "localhost".parse().expect("a name"));
        (patiently(sender.send_request(request)).await, connection)
    };
    let response = response.map_err(std::io::Error::other)?;
    assert_eq!(response.version() == Version::HTTP_2, is_http2);
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.map_err(std::io::Error::other)?.to_bytes();
    connection.abort();
    Ok((status, String::from_utf8(body.to_vec()).expect("text")))
}

const READY: &str = "/v2/health/ready";

#[tokio::test]
async fn every_port_speaks_both_protocols_as_agreed_and_the_admin_port_is_encrypted_too() {
    let authority = Authority::new();
    let server = serve(authority.config(&authority.issue("127.0.0.1")), &[("m", DOUBLER)]).await;
    let tls = authority.trusted();
    for address in [server.grpc_addr(), server.http_addr()] {
        doubles(&connect(address, tls.clone()).await.expect("it trusts the server")).await;
        for protocols in [&["http/1.1"][..], &["h2"], &["http/1.1", "h2"], &[]] {
            let (status, body) = page(address, READY, &tls, protocols).await.expect("an answer");
            assert_eq!((status, &*body), (200, r#"{"ready":true}"#), "{protocols:?}");
            let (status, body) = page(address, "/v2/models/none", &tls, protocols).await.expect("an answer");
            assert!(status == 404 && body.contains("'none'"), "{protocols:?}: {status} {body}");
        }
    }
    for protocols in [&["http/1.1"][..], &[]] {
        let (status, _) = page(server.admin_addr(), "/livez", &tls, protocols).await.expect("an answer");
        assert_eq!(status, 200, "{protocols:?}");
    }
    let (status, metrics) = page(server.admin_addr(), "/metrics", &tls, &["h2", "http/1.1"]).await.expect("an answer");
    assert_eq!(status, 200);
    assert!(metric(&metrics, "tidemill_tls_certificate_expires_in_seconds", "") > 365_000.0 * 86_400.0);
    assert!(metric(&metrics, "tidemill_tls_handshakes_total", "outcome=\"ok\"") >= 7.0);
    let mut plain = TcpStream::connect(server.http_addr()).await.expect("it accepts");
    plain.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").await.expect("it fits");
    let mut answer = Vec::new();
    patiently(plain.read_to_end(&mut answer)).await.expect("it closes in order");
    assert_eq!(answer.first(), Some(&21), "an alert of TLS, which says what is spoken here");
    let address = Address::try_from(server.grpc_addr()).expect("an address");
    let plain = patiently(Client::connect(&address)).await.expect("it accepts");
    let lost = patiently(plain.health("")).await.expect_err("it does not speak TLS");
    let explained = patiently(Client::explained(lost, &address)).await.to_string();
    assert!(explained.contains("its connections are encrypted: use https://"), "{explained}");
    server.drain().await;
}

#[tokio::test]
async fn clients_refuse_what_has_expired_is_for_another_host_or_from_nobody_they_trust() {
    let authority = Authority::new();
    let pairs = [
        authority.issue_until("127.0.0.1", 2020),
        authority.issue("other.example"),
        Authority::named("another").issue("127.0.0.1"),
    ];
    for (pair, says) in pairs.iter().zip(["certificate expired", "not valid for name", "UnknownIssuer"]) {
        let server = serve(authority.config(pair), &[("m", DOUBLER)]).await;
        let error = connect(server.grpc_addr(), authority.trusted()).await.expect_err("no server to trust").to_string();
        assert!(error.contains(says), "{error}");
        let anyone = Tls { insecure: true, ..Tls::default() };
        doubles(&connect(server.grpc_addr(), anyone).await.expect("it trusts anyone")).await;
        until("all are counted", || metric(&server.metrics(), "tidemill_tls_handshakes_total", "outcome=\"failed\"") == 1.0)
            .await;
        server.drain().await;
    }
}

#[tokio::test]
async fn clients_show_who_they_are_where_they_must() {
    let authority = Authority::new();
    let mut config = authority.config(&authority.issue("127.0.0.1"));
    config.tls.client_ca = Some(authority.path("ca.pem"));
    config.tls.client_auth = ClientAuth::Required;
    config.tls.http = PortTls::Optional;
    config.tls.admin = PortTls::Plain;
    let server = serve(config, &[("m", DOUBLER)]).await;
    doubles(&connect(server.grpc_addr(), authority.known()).await.expect("it is known")).await;
    let stranger = Tls { identity: Authority::named("another").known().identity, ..authority.trusted() };
    for refused in [authority.trusted(), stranger.clone()] {
        // Over TLS 1.3 the client has its connection before the server has seen the certificate; the first call shows.
        if let Ok(client) = connect(server.grpc_addr(), refused).await {
            patiently(client.health("")).await.expect_err("it is not known");
        }
    }
    assert_eq!(page(server.http_addr(), READY, &authority.trusted(), &["http/1.1"]).await.expect("none is needed").0, 200);
    assert_eq!(page(server.http_addr(), READY, &authority.known(), &["http/1.1"]).await.expect("a sound one").0, 200);
    page(server.http_addr(), READY, &stranger, &["http/1.1"]).await.expect_err("one that is shown must be sound");
    assert_eq!(serving::page(server.admin_addr(), "/readyz").await.0, 200);
    server.drain().await;
}

#[tokio::test]
async fn each_host_gets_its_own_certificate() {
    let authority = Authority::new();
    let mut config = authority.config(&authority.issue("127.0.0.1"));
    authority.write("other", &authority.issue("other.example"));
    config.tls.cert.push(authority.path("other.pem"));
    config.tls.key.push(authority.path("other.key"));
    let server = serve(config, &[]).await;
    let connector = authority.trusted().connector(&["h2"]).expect("sound settings");
    for host in ["127.0.0.1", "other.example"] {
        let stream = TcpStream::connect(server.grpc_addr()).await.expect("it accepts");
        patiently(connector.connect(host, stream)).await.expect("a certificate for that host");
    }
    let stream = TcpStream::connect(server.grpc_addr()).await.expect("it accepts");
    patiently(connector.connect("third.example", stream)).await.expect_err("there is none");
    server.drain().await;
}

/// The first bytes of a client's greeting: a record of TLS that announces more than ever comes.
const HALF_A_HELLO: &[u8] = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";

#[tokio::test]
async fn a_handshake_that_stops_halfway_ends_when_its_time_is_up() {
    let authority = Authority::new();
    let mut config = authority.config(&authority.issue("127.0.0.1"));
    config.tls.handshake_timeout_s = 1;
    let server = serve(config, &[]).await;
    for address in [server.grpc_addr(), server.http_addr(), server.admin_addr()] {
        let mut half = TcpStream::connect(address).await.expect("it accepts");
        half.write_all(HALF_A_HELLO).await.expect("it fits");
        let mut heard = Vec::new();
        // Closed with bytes unread, so it may look like a reset.
        let _ = patiently(half.read_to_end(&mut heard)).await;
        assert_eq!(heard, b"");
    }
    until("all are counted", || metric(&server.metrics(), "tidemill_tls_handshakes_total", "outcome=\"late\"") == 3.0).await;
    assert_eq!(metric(&server.metrics(), "tidemill_tls_handshakes_open", ""), 0.0);
    server.drain().await;
}

#[tokio::test]
async fn two_thousand_half_handshakes_keep_nobody_out_and_disturb_no_stream() {
    let authority = Authority::new();
    let mut config = authority.config(&authority.issue("127.0.0.1"));
    (config.tls.max_handshakes, config.tls.handshake_timeout_s) = (512, 600);
    let server = serve(config, &[("m", DOUBLER)]).await;
    let client = connect(server.grpc_addr(), authority.trusted()).await.expect("it trusts the server");
    let (mut feed, _) = Feed::open(&mut grpc(&client), tensors_of("m")).await;
    let mut halves = Vec::new();
    for round in 0..20 {
        for _ in 0..100 {
            let mut half = patiently(TcpStream::connect(server.grpc_addr())).await.expect("it accepts");
            half.write_all(HALF_A_HELLO).await.expect("it fits");
            halves.push(half);
        }
        feed.send(Message::Item(item("", &[round as f32; 4]))).await;
        assert_eq!(outcome(&feed.next_result().await), Ok(vec![2.0 * round as f32; 4]));
    }
    doubles(&connect(server.grpc_addr(), authority.trusted()).await.expect("its turn comes")).await;
    assert!(metric(&server.metrics(), "tidemill_tls_handshakes_total", "outcome=\"refused\"") >= 512.0);
    drop(halves);
    until("none is left", || metric(&server.metrics(), "tidemill_tls_handshakes_open", "") == 0.0).await;
    server.drain().await;
}

#[tokio::test]
async fn certificates_change_a_hundred_times_under_two_hundred_streams() {
    let authority = Authority::new();
    let server = serve(authority.config(&authority.issue("127.0.0.1")), &[("m", DOUBLER)]).await;
    let mut feeds = Vec::new();
    for _ in 0..20 {
        let client = connect(server.grpc_addr(), authority.trusted()).await.expect("it trusts the server");
        for _ in 0..10 {
            feeds.push(Feed::open(&mut grpc(&client), tensors_of("m")).await.0);
        }
    }
    for round in 0..100_u16 {
        authority.write("server", &authority.issue("127.0.0.1"));
        server.refresh_certificates();
        let reloaded = || metric(&server.metrics(), "tidemill_tls_reloads_total", "outcome=\"ok\"") > f64::from(round);
        until("the new pair is there", reloaded).await;
        let number = f32::from(round);
        for feed in &feeds {
            feed.send(Message::Item(item("", &[number; 4]))).await;
        }
        for feed in &mut feeds {
            assert_eq!(outcome(&feed.next_result().await), Ok(vec![2.0 * number; 4]));
        }
    }
    assert_eq!(metric(&server.metrics(), "tidemill_tls_reloads_total", "outcome=\"failed\""), 0.0);
    doubles(&connect(server.grpc_addr(), authority.trusted()).await.expect("with the newest")).await;
    server.drain().await;
}

/// With two providers in the tree, each use of rustls, in libraries too, would have to name one.
#[test]
fn aws_lc_is_the_only_provider_of_cryptography() {
    let users = |of: &str| {
        let arguments = ["tree", "--workspace", "--locked", "--offline", "--edges", "normal,build,dev", "--invert", of];
        let output = Command::new(env!("CARGO")).args(arguments).output().expect("cargo runs");
        String::from_utf8(output.stdout).expect("text")
    };
    assert!(users("aws-lc-rs").contains("rustls"), "the question is asked as it should be");
    assert_eq!(users("ring"), "");
}
