//! How large the head of a request is, where HTTP/2 has packed it.

use http::{
    Request, StatusCode,
    uri::{Authority, PathAndQuery},
};

use super::refusal::Refusal;
use crate::domain::{Fault, FaultKind};

/// What a header takes up on top of its name and value, as HTTP/2 counts (RFC 9113, section 6.5.2).
pub(super) const FIELD_BYTES: usize = 32;

/// The length of a request's list of headers, as HTTP/2 counts it.
pub(super) fn header_bytes<B>(request: &Request<B>) -> usize {
    let uri = request.uri();
    let pseudo = [
        (":method", request.method().as_str()),
        (":scheme", uri.scheme_str().unwrap_or_default()),
        (":authority", uri.authority().map_or("", Authority::as_str)),
        (":path", uri.path_and_query().map_or("", PathAndQuery::as_str)),
    ];
    let pseudo = pseudo.into_iter().map(|(name, value)| name.len() + value.len() + FIELD_BYTES);
    let fields = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + FIELD_BYTES);
    pseudo.sum::<usize>() + fields.sum::<usize>()
}

/// The answer to a request whose head is larger than `http.max_header_bytes`.
pub(super) fn too_large(bytes_max: usize) -> Refusal {
    let message = format!("the head of the request is larger than the {bytes_max} bytes that http.max_header_bytes allows");
    let fault = Fault::new(FaultKind::TooLarge, message).with_limit("http.max_header_bytes", bytes_max as u64);
    Refusal::with_status(fault, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_header_counts_with_its_name_its_value_and_32_bytes() {
        let request =
            Request::post("http://a:1/b").header("te", "trailers").header("x", "").header("x", "yy").body(()).expect("sound");
        let pseudo = [(":method", "POST"), (":scheme", "http"), (":authority", "a:1"), (":path", "/b")];
        let fields = [("te", "trailers"), ("x", ""), ("x", "yy")];
        let expected: usize = pseudo.iter().chain(&fields).map(|(name, value)| name.len() + value.len() + 32).sum();
        assert_eq!(header_bytes(&request), expected);
    }
}
