//! The console: one page for browsers, with what it needs, all of it inside the binary.
//!
//! Knows files and their types, and nothing of the server: whatever the page shows or sends, its scripts ask for by the same calls as any
//! other client, with a key that its reader types in. So the files are for everybody.
//!
//! Nothing is built and nothing comes from elsewhere: the files are served as they lie in the folder `console`, and the policy that goes
//! with them lets a browser load and call nothing else.

use axum::{
    Router,
    body::Body,
    response::{IntoResponse as _, Response},
    routing::get,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use tidemill_recording::sample_wav;

use crate::side::SideThreads;

/// Where its files are.
const FOLDER: &str = "/console/";

/// What the page may do in a browser: run its own scripts, and call the server that it came from.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; worker-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Headers of each file besides its type and its tag.
const HEADERS: [(HeaderName, &str); 5] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    // Asked for again each time, and answered by its tag if it is the same.
    (header::CACHE_CONTROL, "no-cache"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("permissions-policy"), "camera=(), geolocation=(), microphone=(self)"),
];

/// A file of the page.
#[derive(Debug, Clone, Copy)]
struct Asset {
    name: &'static str,
    text: &'static str,
}

macro_rules! assets {
    ($($name:literal),+ $(,)?) => { [$(Asset { name: $name, text: include_str!(concat!("console/", $name)) }),+] };
}

/// The page itself comes first.
static ASSETS: [Asset; 13] = assets![
    "index.html",
    "console.css",
    "icon.svg",
    "capture.js",
    "code.js",
    "console.js",
    "dom.js",
    "feed.js",
    "live.js",
    "plot.js",
    "scope.js",
    "server.js",
    "sound.js",
];

/// Serves the files below `/console/`.
pub(super) fn router<S: Clone + Send + Sync + 'static>(side: SideThreads) -> Router<S> {
    let clip = move |headers: HeaderMap| async move { sample_clip(&side, &headers).await };
    let router = Router::new().route(&format!("{FOLDER}sample.wav"), get(clip));
    ASSETS.iter().fold(router, |router, asset| {
        router.route(&format!("{FOLDER}{}", asset.name), get(move |headers: HeaderMap| async move { asset.answer(&headers) }))
    })
}

/// The page itself.
pub(super) fn page(headers: &HeaderMap) -> Response {
    ASSETS[0].answer(headers)
}

/// Whether a path is the console's. What is there is no secret.
pub(super) fn has_path(path: &str) -> bool {
    path == "/" || path.starts_with(FOLDER)
}

/// Whether a request is a browser's that wants a page to show.
pub(super) fn wants_page(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(header::ACCEPT).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    accepted.map(media_type).any(|accepted| accepted.eq_ignore_ascii_case(b"text/html"))
}

/// A media type without its parameters.
fn media_type(text: &[u8]) -> &[u8] {
    text.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii()
}

impl Asset {
    fn media_type(&self) -> &'static str {
        match self.name.rsplit_once('.') {
            Some((_, "html")) => "text/html; charset=utf-8",
            Some((_, "css")) => "text/css; charset=utf-8",
            Some((_, "svg")) => "image/svg+xml",
            _ => "text/javascript; charset=utf-8",
        }
    }

    /// Weak, because the answer may be compressed.
    fn tag(&self) -> String {
        format!("W/\"{:016x}\"", fingerprint(self.text.as_bytes()))
    }

    fn answer(&self, headers: &HeaderMap) -> Response {
        file(headers, self.media_type(), &self.tag(), || Body::from(self.text))
    }
}

/// The clip that `tidemill feed --sample` sends, made when it is asked for: it takes milliseconds.
async fn sample_clip(side: &SideThreads, headers: &HeaderMap) -> Response {
    match side.run(|| Ok(sample_wav())).await {
        Ok(clip) => file(headers, "audio/wav", &format!("W/\"{:016x}\"", fingerprint(&clip)), || Body::from(clip)),
        Err(_) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

/// A file, or word that the browser has it already.
fn file(headers: &HeaderMap, media_type: &'static str, tag: &str, body: impl FnOnce() -> Body) -> Response {
    let mut response = if is_known(headers, tag) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        ([(header::CONTENT_TYPE, HeaderValue::from_static(media_type))], body()).into_response()
    };
    let answer = response.headers_mut();
    answer.extend(HEADERS.map(|(name, value)| (name, HeaderValue::from_static(value))));
    if let Ok(tag) = HeaderValue::from_str(tag) {
        answer.insert(header::ETAG, tag);
    }
    response
}

/// Whether a browser says that it has what this tag stands for.
fn is_known(headers: &HeaderMap, tag: &str) -> bool {
    let opaque = |tag: &[u8]| tag.strip_prefix(b"W/").unwrap_or(tag).to_vec();
    let tags = headers.get_all(header::IF_NONE_MATCH).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    let wanted = opaque(tag.as_bytes());
    tags.map(<[u8]>::trim_ascii).any(|known| known == b"*" || opaque(known) == wanted)
}

/// FNV-1a: differs from build to build if the file does, which is all that a tag is for.
fn fingerprint(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use http::Request;
    use http_body_util::BodyExt as _;
    use tower::ServiceExt as _;

    use super::*;

    async fn ask(path: &str, tag: Option<&str>) -> (StatusCode, HeaderMap, Vec<u8>) {
        let mut request = Request::get(path);
        if let Some(tag) = tag {
            request = request.header(header::IF_NONE_MATCH, tag);
        }
        let request = request.body(Body::empty()).expect("a request");
        let (parts, body) = router::<()>(SideThreads::default()).oneshot(request).await.expect("an answer").into_parts();
        let body = body.collect().await.expect("a body").to_bytes();
        (parts.status, parts.headers, body.to_vec())
    }

    #[tokio::test]
    async fn each_file_has_its_type_its_tag_and_the_policy() {
        for asset in &ASSETS {
            let path = format!("{FOLDER}{}", asset.name);
            let (status, headers, body) = ask(&path, None).await;
            assert_eq!((status, body.as_slice()), (StatusCode::OK, asset.text.as_bytes()), "{path}");
            assert_eq!(headers[header::CONTENT_TYPE], asset.media_type(), "{path}");
            assert_eq!(headers[header::CONTENT_SECURITY_POLICY], POLICY, "{path}");
            let tag = headers[header::ETAG].to_str().expect("text").to_owned();
            for known in [tag.as_str(), tag.trim_start_matches("W/"), "*", &format!("\"x\", {tag}")] {
                let (status, headers, body) = ask(&path, Some(known)).await;
                assert_eq!((status, body.len()), (StatusCode::NOT_MODIFIED, 0), "{path} {known}");
                assert!(headers.contains_key(header::ETAG) && headers.contains_key(header::CACHE_CONTROL), "{path}");
            }
            assert_eq!(ask(&path, Some("W/\"0\"")).await.0, StatusCode::OK, "{path}");
        }
    }

    #[test]
    fn tags_differ_from_file_to_file() {
        let tags: std::collections::BTreeSet<String> = ASSETS.iter().map(Asset::tag).collect();
        assert_eq!(tags.len(), ASSETS.len());
    }

    #[tokio::test]
    async fn the_clip_is_a_recording() {
        let (status, headers, body) = ask("/console/sample.wav", None).await;
        assert_eq!((status, &headers[header::CONTENT_TYPE]), (StatusCode::OK, &HeaderValue::from_static("audio/wav")));
        assert_eq!((&body[..4], &body[8..12], body.len()), (b"RIFF".as_slice(), b"WAVE".as_slice(), 44 + 2 * 57_600));
        let tag = headers[header::ETAG].to_str().expect("text");
        assert_eq!(ask("/console/sample.wav", Some(tag)).await.0, StatusCode::NOT_MODIFIED);
    }

    #[tokio::test]
    async fn nothing_else_is_there() {
        for path in ["/", "/console/", "/console/mod.rs", "/console/../console/index.html", "/console/index.html/"] {
            assert_eq!(ask(path, None).await.0, StatusCode::NOT_FOUND, "{path}");
        }
    }

    /// What the policy refuses would only show in a browser.
    #[test]
    fn nothing_is_inline_or_from_elsewhere() {
        let page = ASSETS[0].text;
        for forbidden in ["<style", " style=", "<base", "javascript:", " onclick=", " onload=", "//"] {
            let found = page.find(forbidden).map(|at| &page[at..(at + 60).min(page.len())]);
            assert_eq!(found, None, "{forbidden}");
        }
        assert_eq!(page.matches("<script").count(), page.matches("<script type=\"module\" src=\"/console/").count());
        for asset in &ASSETS {
            for forbidden in [
                "eval(",
                "new Function",
                "innerHTML",
                "insertAdjacentHTML",
                "document.write",
                "@import",
                "localStorage",
                "sessionStorage",
                "document.cookie",
            ] {
                assert!(!asset.text.contains(forbidden), "{}: {forbidden}", asset.name);
            }
        }
    }

    #[test]
    fn what_the_page_and_its_scripts_load_is_there() {
        let names: Vec<&str> = ASSETS.iter().map(|asset| asset.name).chain(["sample.wav"]).collect();
        for asset in &ASSETS {
            let loaded =
                asset.text.split(['"', '\'', '`']).filter_map(|text| text.strip_prefix(FOLDER).or(text.strip_prefix("./")));
            for name in loaded {
                assert!(names.contains(&name), "{} loads {name}", asset.name);
            }
        }
    }

    #[test]
    fn browsers_want_a_page_and_programs_do_not() {
        let wants = |accept: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, HeaderValue::from_str(accept).expect("text"));
            wants_page(&headers)
        };
        assert!(wants("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8") && wants("*/*, TEXT/HTML;q=0.5"));
        assert!(!wants("*/*") && !wants("application/json") && !wants("text/htmlx") && !wants_page(&HeaderMap::new()));
    }

    #[test]
    fn its_paths_are_known() {
        assert!(has_path("/") && has_path("/console/console.js"));
        assert!(!has_path("/v2") && !has_path("/console") && !has_path("//") && !has_path("/tidemill/v1/models"));
    }
}
