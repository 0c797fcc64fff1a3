//! Headers of answers over HTTP that browsers go by: which pages may read an answer (CORS), and what else may be done with it.
//!
//! Programs pass over all of them. Knows headers, but no path and no setting: whether a page is listed is decided in
//! [`web`](super::web).
//!
//! Pages never send passwords or certificates of their own accord here: `access-control-allow-credentials` is never set. A page that
//! has a key sends it in a header, which a preflight asks for.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use axum::{
    body::Body,
    response::{IntoResponse as _, Response},
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, header};
use pin_project_lite::pin_project;

const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// What scripts of a listed page may send.
const METHODS: &str = "GET, POST";

/// What they may read besides the body and the usual headers.
const EXPOSED: &str = "inference-header-content-length, retry-after, www-authenticate, grpc-status, grpc-message, \
     grpc-status-details-bin, trailer-grpc-retry-pushback-ms";

/// Seconds for which a browser may remember the answer to a preflight.
const PREFLIGHT_AGE: &str = "600";

/// A year.
const STRICT: &str = "max-age=31536000";

/// Which page has asked.
#[derive(Debug, Clone)]
pub(super) enum Asker {
    /// It does not matter: none is listed.
    Any,
    /// None that is listed.
    Unlisted,
    /// One that is, by its origin.
    Listed(HeaderValue),
}

/// What the headers of an answer depend on.
#[derive(Debug, Clone)]
pub(super) struct Dress {
    asker: Asker,
    /// Whether the answer is for its caller alone.
    is_private: bool,
    /// Whether a browser might show it.
    is_shown: bool,
    /// Whether the server is reached by a name, and over TLS.
    is_strict: bool,
}

impl Dress {
    /// For the answer to this request.
    pub(super) fn of<B>(request: &Request<B>, asker: Asker, is_strict: bool) -> Self {
        let (is_get, headers) = (request.method() == Method::GET, request.headers());
        let has_credential = || headers.contains_key(header::AUTHORIZATION) || headers.contains_key(API_KEY);
        Self { asker, is_private: !is_get || has_credential(), is_shown: is_get, is_strict }
    }

    /// The answer to a page that asks what its scripts may send; `None` if this is not such a question of a listed page.
    pub(super) fn preflight<B>(&self, request: &Request<B>) -> Option<Response> {
        let headers = request.headers();
        let asks = request.method() == Method::OPTIONS && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
        if !asks || !matches!(self.asker, Asker::Listed(_)) {
            return None;
        }
        let mut response = StatusCode::NO_CONTENT.into_response();
        let answer = response.headers_mut();
        answer.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(METHODS));
        answer.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static(PREFLIGHT_AGE));
        // A listed page may send any header that a program may.
        if let Some(wanted) = headers.get(header::ACCESS_CONTROL_REQUEST_HEADERS) {
            answer.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, wanted.clone());
        }
        Some(response)
    }

    /// Adds the headers to those of an answer.
    pub(super) fn put_on(self, headers: &mut HeaderMap) {
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        if self.is_private {
            headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
        }
        if self.is_shown {
            let policy = HeaderValue::from_static("frame-ancestors 'none'");
            headers.entry(header::CONTENT_SECURITY_POLICY).or_insert(policy);
        }
        if self.is_strict {
            headers.insert(header::STRICT_TRANSPORT_SECURITY, HeaderValue::from_static(STRICT));
        }
        if !matches!(self.asker, Asker::Any) {
            headers.append(header::VARY, HeaderValue::from_static("origin"));
        }
        if let Asker::Listed(page) = self.asker {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, page);
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
        }
    }
}

pin_project! {
    /// The future of an answer that gets these headers.
    pub(super) struct Dressed<F> {
        #[pin]
        call: F,
        dress: Option<Dress>,
    }
}

impl<F> Dressed<F> {
    pub(super) const fn new(call: F, dress: Dress) -> Self {
        Self { call, dress: Some(dress) }
    }
}

impl<F: Future<Output = Result<Response<Body>, E>>, E> Future for Dressed<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let mut answered = ready!(this.call.poll(cx));
        if let Ok(response) = &mut answered
            // With that answer, the browser's rules for answers end.
            && response.status() != StatusCode::SWITCHING_PROTOCOLS
            && let Some(dress) = this.dress.take()
        {
            dress.put_on(response.headers_mut());
        }
        Poll::Ready(answered)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dressed(request: http::request::Builder, page: Option<&'static str>) -> (Option<u16>, Vec<String>) {
        let request = request.body(()).expect("a request");
        let asker = page.map_or(Asker::Any, |page| Asker::Listed(HeaderValue::from_static(page)));
        let dress = Dress::of(&request, asker, false);
        let preflight = dress.preflight(&request);
        let status = preflight.as_ref().map(|response| response.status().as_u16());
        let mut headers = preflight.map(|response| response.headers().clone()).unwrap_or_default();
        dress.put_on(&mut headers);
        let mut found: Vec<_> =
            headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().expect("text"))).collect();
        found.sort();
        (status, found)
    }

    #[test]
    fn an_answer_is_not_guessed_at_nor_framed_nor_kept() {
        let (_, get) = dressed(Request::get("/v2"), None);
        assert_eq!(get, ["content-security-policy: frame-ancestors 'none'", "x-content-type-options: nosniff"]);
        let (_, post) = dressed(Request::post("/v2"), None);
        assert_eq!(post, ["cache-control: no-store", "x-content-type-options: nosniff"]);
        for name in ["authorization", "x-api-key"] {
            let (_, known) = dressed(Request::get("/v2").header(name, "K"), None);
            assert!(known.contains(&"cache-control: no-store".to_owned()), "{known:?}");
        }
    }

    #[test]
    fn only_a_listed_page_that_asks_is_answered_in_advance() {
        let asks = || {
            Request::options("/v2")
                .header("access-control-request-method", "POST")
                .header("access-control-request-headers", "x-api-key, content-type")
        };
        let (status, found) = dressed(asks(), Some("https://app.example"));
        assert_eq!(status, Some(204));
        for header in [
            "access-control-allow-headers: x-api-key, content-type",
            "access-control-allow-methods: GET, POST",
            "access-control-allow-origin: https://app.example",
            "vary: origin",
        ] {
            assert!(found.contains(&header.to_owned()), "{header}: {found:?}");
        }
        assert_eq!(dressed(asks(), None).0, None);
        assert_eq!(dressed(Request::options("/v2"), Some("https://app.example")).0, None);
        assert_eq!(dressed(Request::post("/v2"), Some("https://app.example")).0, None);
    }

    #[test]
    fn what_a_page_says_about_itself_stays() {
        let request = Request::get("/").body(()).expect("a request");
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'none'"));
        Dress::of(&request, Asker::Any, false).put_on(&mut headers);
        assert_eq!(headers["content-security-policy"], "default-src 'none'");
    }

    #[test]
    fn what_an_answer_says_about_caches_itself_stays() {
        let request = Request::post("/v2").body(()).expect("a request");
        let mut headers = HeaderMap::new();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
        Dress::of(&request, Asker::Unlisted, true).put_on(&mut headers);
        assert_eq!(
            (&headers["cache-control"], headers.get_all("vary").iter().count()),
            (&HeaderValue::from_static("no-cache"), 2)
        );
        assert_eq!(headers["strict-transport-security"], STRICT);
    }
}
