//! Which requests a port answers, as far as web pages are concerned: a browser on this machine, or on one that reaches it, sends
//! whatever any page asks it to, from inside the firewall and with saved passwords.
//!
//! Knows headers, but neither paths nor protocols. [`WebRules`] holds what was configured, a [`WebCheck`] is the same for one
//! connection, and [`Guarded`] puts it in front of a service. The check is pure: headers in, a fault or nothing out. What answers
//! say to browsers is in [`dress`](super::dress).
//!
//! # What is refused
//! - Another site's page: `origin` is neither the server's own nor one of `server.allowed_origins`, or `sec-fetch-site` is neither
//!   `same-origin` nor `none` and no allowed origin vouches for it. Programs send neither header.
//! - A page whose own name was made to lead here (DNS rebinding), which looks like the server's own: the host that it names is not
//!   one of the server's. Only the owner of a name can make it lead elsewhere, so addresses, `localhost` and the machine's own name
//!   are safe. Checked on connections over loopback, and on all of them once `server.allowed_hosts` lists names: elsewhere a server
//!   cannot know the names that proxies and services call it by. Not checked on Unix sockets, which no page can lead to: there, the
//!   name is whatever a client makes up.
//! - A host that is missing where HTTP requires one, given twice, or malformed.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    sync::{Arc, OnceLock},
    task::{Context, Poll},
};

use axum::{
    body::Body,
    response::{IntoResponse as _, Response},
};
use futures::future::Either;
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, Uri, Version, header};
use tower::Service;

use super::dress::{Asker, Dress, Dressed};
use crate::{
    clock,
    config::{Authority, HostPattern, OriginPattern, PageOrigin, ServerConfig, is_loopback},
    connections,
    domain::{Fault, FaultKind},
    telemetry::Seldom,
    transport::Io,
};

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The media types that an HTML form can send to any site without its permission.
const FORM_TYPES: [&str; 3] = ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"];

/// How the user agent of Triton's C++ client begins. It leaves the content type of its JSON to libcurl, which says that of a form.
/// No page can make a browser send this user agent.
const TRITON_AGENT: &[u8] = b"libcurl-agent/";

/// How many bytes of a header a refusal quotes.
const SHOWN_BYTES_MAX: usize = 100;

/// Which requests the ports answer. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct WebRules {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    hosts: Vec<HostPattern>,
    origins: Vec<OriginPattern>,
    /// The machine's own name; empty if it has none.
    own_name: String,
    refusals: Seldom,
}

impl WebRules {
    /// The rules from these settings.
    #[must_use]
    pub fn new(config: &ServerConfig) -> Self {
        let own_name = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Self::of(config, own_name)
    }

    fn of(config: &ServerConfig, own_name: String) -> Self {
        let (hosts, origins) = (config.allowed_hosts.clone(), config.allowed_origins.clone());
        Self { inner: Arc::new(Inner { hosts, origins, own_name, refusals: Seldom::default() }) }
    }

    /// The rules for a connection.
    pub(super) fn on(&self, io: &impl Io) -> WebCheck {
        if io.is_unix_socket() {
            return self.checked(false);
        }
        // A connection without an address comes from this machine, or has already ended.
        self.over(io.local_ip().is_none_or(is_loopback))
    }

    fn over(&self, loopback: bool) -> WebCheck {
        self.checked(loopback || !self.inner.hosts.is_empty())
    }

    fn checked(&self, checks_host: bool) -> WebCheck {
        WebCheck { rules: Arc::clone(&self.inner), checks_host, known_host: Arc::default() }
    }
}

/// The rules for one connection.
#[derive(Debug, Clone)]
pub(super) struct WebCheck {
    rules: Arc<Inner>,
    checks_host: bool,
    /// The host of the connection's first accepted request: nearly always the others name the same.
    known_host: Arc<OnceLock<Box<[u8]>>>,
}

impl WebCheck {
    /// Whether the request is to be answered.
    ///
    /// # Errors
    /// [`FaultKind::Invalid`] if it does not say once and clearly which host it is for; [`FaultKind::Denied`] with the header's
    /// name if it comes from a web page that has no business here.
    pub(super) fn check<B>(&self, request: &Request<B>) -> Result<(), Fault> {
        let checked = self.check_head(request.version(), request.uri(), request.headers());
        if let Err(fault) = &checked
            && let Some(left_out) = self.rules.refusals.due(clock::now())
        {
            // Only the header's name: text that clients choose does not belong in the log.
            tracing::info!(header = fault.field(), left_out, "a request was refused for its host or origin");
        }
        checked
    }

    /// The same service, which gets only what the rules let through; anything else is answered with the error as
    /// JSON.
    pub(super) fn guard<S>(self, service: S) -> Guarded<S> {
        Guarded { service, check: self, has_cors: false }
    }

    /// The same, and scripts of listed pages may read the answers.
    pub(super) fn guard_with_cors<S>(self, service: S) -> Guarded<S> {
        let has_cors = !self.rules.origins.is_empty();
        Guarded { service, check: self, has_cors }
    }

    /// The page that has sent a request.
    fn asker(&self, headers: &HeaderMap) -> Asker {
        let mut origins = headers.get_all(header::ORIGIN).iter();
        match (origins.next(), origins.next()) {
            (Some(origin), None) if self.is_listed(origin) => Asker::Listed(origin.clone()),
            _ => Asker::Unlisted,
        }
    }

    fn is_listed(&self, value: &HeaderValue) -> bool {
        let origin = value.to_str().ok().and_then(PageOrigin::parse);
        self.rules.origins.iter().any(|pattern| match &origin {
            Some(origin) => pattern.matches(origin),
            None => *pattern == OriginPattern::Any,
        })
    }

    fn check_head(&self, version: Version, uri: &Uri, headers: &HeaderMap) -> Result<(), Fault> {
        let host = self.host(version, uri, headers)?;
        // The quick way for programs, which set neither.
        if !headers.keys().any(|name| *name == header::ORIGIN || *name == SEC_FETCH_SITE) {
            return Ok(());
        }
        let vouched = self.check_origins(headers, host)?;
        if vouched {
            return Ok(());
        }
        let is_own = |site: &&HeaderValue| matches!(site.as_bytes(), b"same-origin" | b"none");
        match headers.get_all(SEC_FETCH_SITE).iter().find(|site| !is_own(site)) {
            Some(site) => Err(foreign(&SEC_FETCH_SITE, site)),
            None => Ok(()),
        }
    }

    /// The name that the client uses for the server, if it gives one.
    fn host<'a>(&self, version: Version, uri: &'a Uri, headers: &'a HeaderMap) -> Result<Option<&'a [u8]>, Fault> {
        let mut named = headers.get_all(header::HOST).iter();
        let in_header = named.next();
        if named.next().is_some() {
            return Err(Fault::invalid("host", "the request has more than one `host` header"));
        }
        if version == Version::HTTP_11 && in_header.is_none() {
            return Err(Fault::invalid("host", "the request has no `host` header, which HTTP/1.1 requires"));
        }
        // The host in the request line takes precedence over the header.
        let in_uri = uri.authority().map(|authority| authority.as_str().as_bytes());
        let mut host = None;
        for text in in_uri.into_iter().chain(in_header.map(HeaderValue::as_bytes)) {
            self.check_host(text)?;
            host.get_or_insert(text);
        }
        Ok(host)
    }

    fn check_host(&self, text: &[u8]) -> Result<(), Fault> {
        if self.known_host.get().is_some_and(|known| **known == *text) {
            return Ok(());
        }
        let authority = authority(text).ok_or_else(|| {
            Fault::invalid("host", format!("the request is for the host {}, which is not a host and port", Shown(text)))
        })?;
        let Inner { hosts, own_name, .. } = &*self.rules;
        let is_ours = || {
            authority.is_address()
                || authority.is_localhost()
                || authority.host.eq_ignore_ascii_case(own_name)
                || hosts.iter().any(|pattern| pattern.matches(authority.host))
        };
        if !self.checks_host || is_ours() {
            self.known_host.get_or_init(|| text.into());
            return Ok(());
        }
        let message = format!(
            "the request is for the host {}, which is not a name of this server: \
             it answers to addresses, localhost, the machine's own name and the names of server.allowed_hosts",
            Shown(text)
        );
        Err(Fault::new(FaultKind::Denied, message).with_field("host"))
    }

    /// Whether an allowed page vouches for the request.
    fn check_origins(&self, headers: &HeaderMap, host: Option<&[u8]>) -> Result<bool, Fault> {
        let mut vouched = false;
        for value in headers.get_all(header::ORIGIN) {
            let origin = value.to_str().ok().and_then(PageOrigin::parse);
            let listed = self.is_listed(value);
            let own = || origin.is_some_and(|origin| host.and_then(authority).is_some_and(|host| origin.is_of(&host)));
            if !listed && !own() {
                return Err(foreign(&header::ORIGIN, value));
            }
            vouched |= listed;
        }
        Ok(vouched)
    }
}

/// # Errors
/// [`FaultKind::Invalid`] if the body is of a type that a form on any web page can send, and not of JSON's: for requests that change the
/// server. A request without a type comes from a program; browsers give one, or say where the request comes from.
pub(super) fn refuse_forms(headers: &HeaderMap) -> Result<(), Fault> {
    let is_form = |value: &&HeaderValue| {
        let types = value.as_bytes().split(|byte| *byte == b',');
        types.map(media_type).any(|found| FORM_TYPES.iter().any(|form| found.eq_ignore_ascii_case(form.as_bytes())))
    };
    let Some(form) = headers.get_all(header::CONTENT_TYPE).iter().find(is_form) else { return Ok(()) };
    let is_tritons = headers.get(header::USER_AGENT).is_some_and(|agent| agent.as_bytes().starts_with(TRITON_AGENT));
    if is_tritons && form == "application/x-www-form-urlencoded" {
        return Ok(());
    }
    let message = format!(
        "`content-type` is {}, which a form on any web page can send; what changes the server is asked for with \
         'content-type: application/json', or without one",
        Shown(form.as_bytes())
    );
    Err(Fault::invalid("content-type", message))
}

fn authority(text: &[u8]) -> Option<Authority<'_>> {
    str::from_utf8(text).ok().and_then(Authority::parse)
}

/// A media type without its parameters.
fn media_type(value: &[u8]) -> &[u8] {
    value.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii()
}

fn foreign(name: &HeaderName, value: &HeaderValue) -> Fault {
    let message = format!(
        "the request comes from a web page of another site, as its header `{name}` says: {}; \
         server.allowed_origins lists the sites whose pages may send requests",
        Shown(value.as_bytes())
    );
    Fault::new(FaultKind::Denied, message).with_field(name.as_str().to_owned())
}

/// The beginning of what a client sent, quoted, without anything that a terminal or a page would interpret.
struct Shown<'a>(&'a [u8]);

impl std::fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown = &self.0[..self.0.len().min(SHOWN_BYTES_MAX)];
        let rest = if shown.len() < self.0.len() { "…" } else { "" };
        write!(f, "\"{}{rest}\"", shown.escape_ascii())
    }
}

/// The answer to a request that is refused.
fn refusal(fault: &Fault) -> Response {
    let status = if fault.kind() == FaultKind::Denied { StatusCode::FORBIDDEN } else { StatusCode::BAD_REQUEST };
    let body = serde_json::json!({ "error": fault.message() }).to_string();
    let mut response = (status, [(header::CONTENT_TYPE, "application/json")], body).into_response();
    if status == StatusCode::BAD_REQUEST {
        // Nor can such a client be trusted about where its next request begins.
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// A service behind a [`WebCheck`].
#[derive(Debug, Clone)]
pub(super) struct Guarded<S> {
    service: S,
    check: WebCheck,
    /// Whether pages are listed whose scripts may read answers.
    has_cors: bool,
}

/// Whether the server is reached by a name and over TLS, so that a browser may insist on that. For `localhost` it must not: other
/// servers have that name too.
fn is_strict(headers: &HeaderMap) -> bool {
    let host = || headers.get(header::HOST).and_then(|host| authority(host.as_bytes()));
    connections::is_encrypted() && host().is_some_and(|host| !host.is_address() && !host.is_localhost())
}

impl<S, B> Service<Request<B>> for Guarded<S>
where
    S: Service<Request<B>, Response = Response<Body>, Error = Infallible>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<Ready<Result<Response<Body>, Infallible>>, Dressed<S::Future>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let checked = self.check.check(&request);
        let asker = match &checked {
            _ if !self.has_cors => Asker::Any,
            Ok(()) => self.check.asker(request.headers()),
            Err(_) => Asker::Unlisted,
        };
        let dress = Dress::of(&request, asker, is_strict(request.headers()));
        let early = match checked {
            Ok(()) => dress.preflight(&request),
            Err(fault) => Some(refusal(&fault)),
        };
        match early {
            Some(mut answer) => {
                dress.put_on(answer.headers_mut());
                Either::Left(ready(Ok(answer)))
            }
            None => Either::Right(Dressed::new(self.service.call(request), dress)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*, sample::select};

    use super::*;

    /// Rules with these hosts and origins, on a machine called `Box`.
    fn rules(hosts: &[&str], origins: &[&str]) -> WebRules {
        let config = ServerConfig {
            allowed_hosts: hosts.iter().map(|text| text.parse().expect("a pattern")).collect(),
            allowed_origins: origins.iter().map(|text| text.parse().expect("a pattern")).collect(),
            ..ServerConfig::default()
        };
        WebRules::of(&config, "Box".to_owned())
    }

    fn headers(fields: &[(&str, &str)]) -> HeaderMap {
        let field = |(name, value): &(&str, &str)| {
            let value = HeaderValue::from_bytes(value.as_bytes()).expect("a value");
            (HeaderName::from_bytes(name.as_bytes()).expect("a name"), value)
        };
        let mut map = HeaderMap::new();
        for (name, value) in fields.iter().map(field) {
            map.append(name, value);
        }
        map
    }

    fn check(rules: &WebRules, fields: &[(&str, &str)]) -> Result<(), Fault> {
        rules.over(true).check_head(Version::HTTP_11, &Uri::from_static("/v2"), &headers(fields))
    }

    /// The header that a refusal names.
    fn denied(result: Result<(), Fault>) -> String {
        let fault = result.expect_err("it must be refused");
        assert_eq!(fault.kind(), FaultKind::Denied, "{fault}");
        fault.field().expect("a header").to_owned()
    }

    const LOCAL: (&str, &str) = ("host", "localhost:8080");

    #[test]
    fn a_program_is_served_under_every_name_that_the_server_has() {
        let rules = rules(&[], &[]);
        for host in ["localhost", "LocalHost.:1", "a.localhost", "127.0.0.1:8080", "[::1]:8080", "10.1.2.3", "box:8080", "BOX."] {
            assert_eq!(check(&rules, &[("host", host)]), Ok(()), "{host}");
        }
    }

    #[test]
    fn another_name_is_refused_over_loopback_and_wherever_names_are_listed() {
        let evil = [("host", "evil.example:8080")];
        let elsewhere =
            |rules: &WebRules| rules.over(false).check_head(Version::HTTP_11, &Uri::from_static("/"), &headers(&evil));
        let unlisted = rules(&[], &[]);
        let fault = check(&unlisted, &evil).expect_err("it must be refused");
        assert!(fault.message().contains("\"evil.example:8080\"") && fault.message().contains("server.allowed_hosts"), "{fault}");
        assert_eq!(denied(Err(fault)), "host");
        assert_eq!(elsewhere(&unlisted), Ok(()));
        let listed = rules(&["models.example", "*.internal"], &[]);
        assert_eq!(denied(check(&listed, &evil)), "host");
        assert_eq!(denied(elsewhere(&listed)), "host");
        for host in ["models.example", "a.internal:80", "localhost"] {
            assert_eq!(check(&listed, &[("host", host)]), Ok(()), "{host}");
        }
        let any = rules(&["*"], &[]);
        assert_eq!((check(&any, &evil), elsewhere(&any)), (Ok(()), Ok(())));
    }

    #[test]
    fn a_host_is_named_once_and_well() {
        let rules = rules(&["*"], &[]);
        for (fields, says) in [
            (&[][..], "no `host` header"),
            (&[LOCAL, LOCAL], "more than one"),
            (&[("host", "")], "\"\", which is not a host and port"),
            (&[("host", "a b")], "\"a b\""),
            (&[("host", "user@localhost")], "\"user@localhost\""),
            (&[("host", "é")], "\\xc3\\xa9"),
        ] {
            let fault = check(&rules, fields).expect_err("it must be refused");
            assert_eq!((fault.kind(), fault.field()), (FaultKind::Invalid, Some("host")));
            assert!(fault.message().contains(says), "{fault}");
        }
        let bare = |version| rules.over(true).check_head(version, &Uri::from_static("/"), &HeaderMap::new());
        assert_eq!((bare(Version::HTTP_10), bare(Version::HTTP_2)), (Ok(()), Ok(())), "neither has to name one");
    }

    #[test]
    fn the_host_of_the_first_line_counts_as_the_header_does() {
        let rules = rules(&[], &[]);
        let to = |uri: &'static str, fields: &[(&str, &str)]| {
            rules.over(true).check_head(Version::HTTP_2, &Uri::from_static(uri), &headers(fields))
        };
        assert_eq!(to("http://127.0.0.1:50051/a", &[]), Ok(()));
        assert_eq!(denied(to("http://evil.example/a", &[])), "host");
        assert_eq!(denied(to("http://evil.example/a", &[LOCAL])), "host");
        assert_eq!(denied(to("http://localhost/a", &[("host", "evil.example")])), "host");
        assert_eq!(to("http://localhost:1/a", &[LOCAL, ("origin", "http://localhost:1")]), Ok(()));
        assert_eq!(denied(to("http://localhost:1/a", &[LOCAL, ("origin", "http://localhost:8080")])), "origin");
    }

    #[test]
    fn only_the_servers_own_pages_and_listed_ones_may_ask() {
        let listed = rules(&[], &["https://app.example", "http://*.dev:3000"]);
        let from = |fields: &[(&str, &str)]| check(&listed, &[&[LOCAL][..], fields].concat());
        for allowed in [
            &[("origin", "http://localhost:8080")][..],
            &[("origin", "http://localhost:8080"), ("sec-fetch-site", "same-origin")],
            &[("sec-fetch-site", "same-origin")],
            &[("sec-fetch-site", "none")],
            &[("origin", "https://app.example")],
            &[("origin", "https://app.example"), ("sec-fetch-site", "cross-site")],
            &[("origin", "http://a.dev:3000"), ("sec-fetch-site", "same-site")],
        ] {
            assert_eq!(from(allowed), Ok(()), "{allowed:?}");
        }
        for (refused, header) in [
            (&[("origin", "http://evil.example")][..], "origin"),
            (&[("origin", "http://localhost:3000")], "origin"),
            (&[("origin", "http://127.0.0.1:8080")], "origin"),
            (&[("origin", "null")], "origin"),
            (&[("origin", "")], "origin"),
            (&[("origin", "https://app.example:444")], "origin"),
            (&[("origin", "https://app.example"), ("origin", "http://evil.example")], "origin"),
            (&[("origin", "https://app.example, http://evil.example")], "origin"),
            (&[("sec-fetch-site", "cross-site")], "sec-fetch-site"),
            (&[("sec-fetch-site", "same-site")], "sec-fetch-site"),
            (&[("sec-fetch-site", "Same-Origin")], "sec-fetch-site"),
            (&[("sec-fetch-site", "none"), ("sec-fetch-site", "cross-site")], "sec-fetch-site"),
            (&[("origin", "http://localhost:8080"), ("sec-fetch-site", "cross-site")], "sec-fetch-site"),
        ] {
            let fault = from(refused).expect_err("it must be refused");
            assert!(fault.message().contains("server.allowed_origins"), "{fault}");
            assert_eq!(denied(Err(fault)), header, "{refused:?}");
        }
        let any = rules(&[], &["*"]);
        for origin in ["null", "http://evil.example"] {
            assert_eq!(check(&any, &[LOCAL, ("origin", origin), ("sec-fetch-site", "cross-site")]), Ok(()), "{origin}");
        }
    }

    #[test]
    fn a_refusal_shows_little_of_the_header_and_nothing_of_it_raw() {
        let long = format!("http://{}", "e".repeat(10_000));
        let fault = check(&rules(&[], &[]), &[LOCAL, ("origin", &long)]).expect_err("it must be refused");
        assert!(fault.message().len() < 400 && fault.message().contains("eee…\""), "{fault}");
        let fault = check(&rules(&[], &[]), &[LOCAL, ("origin", "\"<é>")]).expect_err("it must be refused");
        assert!(fault.message().contains(r#""\"<\xc3\xa9>""#), "{fault}");
    }

    #[test]
    fn what_a_form_can_send_changes_nothing() {
        for form in [
            "text/plain",
            "TEXT/PLAIN; charset=utf-8",
            "text/plain;application/json",
            "application/x-www-form-urlencoded",
            " multipart/form-data; boundary=x",
            "application/json, text/plain",
        ] {
            let fault = refuse_forms(&headers(&[("content-type", form)])).expect_err("it must be refused");
            assert_eq!((fault.kind(), fault.field()), (FaultKind::Invalid, Some("content-type")), "{form}");
        }
        assert!(refuse_forms(&headers(&[("content-type", "application/json"), ("content-type", "text/plain")])).is_err());
        for other in ["application/json", "application/json; x=text/plain", "application/octet-stream", "text/plainer", ""] {
            assert_eq!(refuse_forms(&headers(&[("content-type", other)])), Ok(()), "{other}");
        }
        assert_eq!(refuse_forms(&HeaderMap::new()), Ok(()));
    }

    #[test]
    fn tritons_client_is_known_by_its_name() {
        let sent = |agent, form| refuse_forms(&headers(&[("user-agent", agent), ("content-type", form)]));
        let urlencoded = "application/x-www-form-urlencoded";
        assert_eq!(sent("libcurl-agent/1.0", urlencoded), Ok(()));
        for (agent, form) in [
            ("libcurl-agent/1.0", "text/plain"),
            ("curl/8.5.0", urlencoded),
            ("Mozilla/5.0 libcurl-agent/1.0", urlencoded),
            ("", urlencoded),
        ] {
            assert!(sent(agent, form).is_err(), "{agent} {form}");
        }
    }

    #[tokio::test]
    async fn a_guarded_service_is_not_asked_what_is_refused() {
        let service = tower::service_fn(|_: Request<()>| ready(Ok::<_, Infallible>(Response::new(Body::from("served")))));
        let mut guarded = rules(&[], &[]).over(true).guard(service);
        let mut ask = async |fields: &[(&str, &str)]| {
            let mut request = Request::new(());
            *request.headers_mut() = headers(fields);
            let (head, body) = guarded.call(request).await.expect("infallible").into_parts();
            let body = axum::body::to_bytes(body, 10_000).await.expect("a short body");
            let close = head.headers.get(header::CONNECTION).is_some_and(|value| value == "close");
            (head.status.as_u16(), String::from_utf8_lossy(&body).into_owned(), close)
        };
        assert_eq!(ask(&[LOCAL]).await, (200, "served".to_owned(), false));
        let (status, body, close) = ask(&[LOCAL, ("origin", "null")]).await;
        assert_eq!((status, close), (403, false));
        let body: serde_json::Value = serde_json::from_str(&body).expect("JSON");
        assert!(body["error"].as_str().is_some_and(|message| message.contains("`origin` says: \"null\"")), "{body}");
        let (status, _, close) = ask(&[]).await;
        assert_eq!((status, close), (400, true));
    }

    proptest! {
        #[test]
        fn a_foreign_page_is_refused_whatever_else_it_says(
            others in vec((select(vec!["host", "origin", "sec-fetch-site", "content-type", "x"]), "[a-z:/.*-]{0,20}"), 0..5),
            page in "https?://[a-z]{1,8}\\.example(:[0-9]{1,4})?",
        ) {
            let others: Vec<(&str, &str)> = others.iter().map(|(name, value)| (*name, value.as_str())).collect();
            let fields = [&[LOCAL, ("origin", page.as_str())][..], others.as_slice()].concat();
            prop_assert!(check(&rules(&[], &[]), &fields).is_err());
        }

        #[test]
        fn a_host_that_is_served_is_one_of_ours(
            host in "(localhost|box|[a-z]{1,4}|127\\.0\\.0\\.1|\\[::1\\]|[ -~é]{0,9})(\\.[a-z]{0,9}){0,2}\\.?(:[0-9]{0,6})?",
        ) {
            if check(&rules(&[], &[]), &[("host", &host)]).is_ok() {
                let authority = Authority::parse(&host).expect("a host");
                let is_ours = authority.is_address() || authority.is_localhost() || authority.host.eq_ignore_ascii_case("box");
                prop_assert!(is_ours, "{authority:?}");
            }
        }

        #[test]
        fn bytes_that_are_no_text_are_refused_and_nothing_panics(
            bytes in vec(select((0x20..=0x7e).chain(0x80..=0xff).collect::<Vec<u8>>()), 0..60),
        ) {
            let value = HeaderValue::from_bytes(&bytes).expect("a value");
            let listed = rules(&[], &["https://app.example"]).over(false);
            for name in [header::HOST, header::ORIGIN, SEC_FETCH_SITE, header::CONTENT_TYPE] {
                let mut fields = headers(&[LOCAL]);
                fields.insert(name, value.clone());
                let checked = listed.check_head(Version::HTTP_11, &Uri::from_static("/"), &fields);
                prop_assert!(value.to_str().is_ok() || checked.is_err() || fields.contains_key(header::CONTENT_TYPE));
                let _ = refuse_forms(&fields);
            }
        }

        #[test]
        fn a_form_is_known_in_every_case_and_with_every_parameter(
            form in select(FORM_TYPES.to_vec()),
            upper in vec(any::<bool>(), 40),
            parameters in "( ?;[ -~]{0,20})?",
        ) {
            let mixed: String = form
                .chars()
                .zip(upper)
                .map(|(letter, upper)| if upper { letter.to_ascii_uppercase() } else { letter })
                .collect();
            let value = format!("{mixed}{parameters}");
            prop_assert!(refuse_forms(&headers(&[("content-type", &value)])).is_err());
        }
    }
}
