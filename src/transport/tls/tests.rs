//! What a service learns about a client that has shown a certificate.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::client::conn;
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName},
    server::WebPkiClientVerifier,
};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tower::service_fn;

use super::{Gate, GateLimits, Socket};
use crate::{
    connections::{self, Connections},
    domain::AlternativeName,
    telemetry::Telemetry,
    transport::{Client, Io, Listener, Protocol, Shutdown, Talk, http1},
    vitals::Part,
};

const TEN_SECONDS: Duration = Duration::from_secs(10);

/// Answers with what is known of the client.
#[derive(Clone)]
struct WhoAmI;

impl Talk for WhoAmI {
    const PROTOCOL: Protocol = Protocol::Http1;

    fn first_within(&self) -> Duration {
        TEN_SECONDS
    }

    fn talk<I: Io>(&self, io: I, client: Client, shutdown: Shutdown) -> impl Future<Output = ()> + Send + 'static {
        let limits = http1::Limits {
            header_bytes_max: 1 << 10,
            header_timeout: TEN_SECONDS,
            idle_timeout: TEN_SECONDS,
            unread_timeout: TEN_SECONDS,
        };
        let plug = http1::Plug { limits, refusal: |breach, _| format!("{breach:?}").into_bytes() };
        let answer = |_: Request<http1::RequestBody>| async {
            let shown = connections::protection().certificate;
            let text = shown.map_or_else(|| "nobody".to_owned(), |shown| format!("{:?} {:?}", shown.common_name, shown.names));
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(text))))
        };
        http1::converse(io, client, service_fn(answer), plug, shutdown)
    }
}

type Pair = (CertificateDer<'static>, PrivateKeyDer<'static>);

fn pair(host: &str, name: &str, issuer: &Issuer<'_, KeyPair>) -> Pair {
    let mut params = CertificateParams::new(vec![host.to_owned()]).expect("a host");
    params.distinguished_name.push(DnType::CommonName, name);
    let key = KeyPair::generate().expect("a key");
    let certificate = params.signed_by(&key, issuer).expect("a certificate");
    (certificate.der().clone(), PrivateKeyDer::try_from(key.serialize_der()).expect("a key"))
}

#[tokio::test]
async fn a_service_knows_the_certificate_that_the_client_has_shown() {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("a key");
    let mut roots = RootCertStore::empty();
    roots.add(params.self_signed(&key).expect("a certificate").der().clone()).expect("an authority");
    let (roots, issuer) = (Arc::new(roots), Issuer::new(params, key));
    let provider = Arc::new(aws_lc_rs::default_provider());

    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider));
    let verifier = verifier.allow_unauthenticated().build().expect("an authority");
    let (certificate, key) = pair("server.example", "server", &issuer);
    let config = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
    let config = config.expect("versions").with_client_cert_verifier(verifier).with_single_cert(vec![certificate], key);
    let limits = GateLimits::new(8, TEN_SECONDS, Telemetry::off().tls());
    let gate = Gate::new(config.expect("a pair"), limits);

    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let (shutdown, metrics) = (Shutdown::default(), Telemetry::off().server());
    let port = Connections::default().port(8, metrics.clone());
    let listener = Listener::for_clients(Socket::new(listener, Some(gate)), Part::HttpPort, port, metrics, shutdown.clone());
    let serving = tokio::spawn(listener.talk(WhoAmI, None::<WhoAmI>));

    let ask = async |identity: Option<Pair>| {
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
        let builder = builder.expect("versions").with_root_certificates(Arc::clone(&roots));
        let config = match identity {
            Some((certificate, key)) => builder.with_client_auth_cert(vec![certificate], key).expect("a pair"),
            None => builder.with_no_client_auth(),
        };
        let name = ServerName::try_from("server.example").expect("a name");
        let stream = TcpStream::connect(address).await.expect("it accepts");
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.expect("it trusts the server");
        let (mut sender, connection) = conn::http1::handshake(TokioIo::new(stream)).await.expect("a connection");
        let connection = tokio::spawn(connection);
        let request = Request::get("/").header("host", "here").body(Empty::<Bytes>::new()).expect("sound");
        let body = sender.send_request(request).await.expect("an answer").into_body().collect().await.expect("a whole body");
        drop(sender);
        let _closed = connection.await.expect("no panic");
        String::from_utf8(body.to_bytes().to_vec()).expect("text")
    };
    assert_eq!(ask(None).await, "nobody");
    let names = [AlternativeName::Dns("robot.example".to_owned())];
    assert_eq!(ask(Some(pair("robot.example", "robot", &issuer))).await, format!("{:?} {names:?}", Some("robot")));
    shutdown.close();
    serving.await.expect("no panic");
}
