//! The HTTP port: JSON of `infer` and `generate`, tensors as binary data, and whole requests.

use crate::serving::Serving;

/// The status of an answer that came.
fn status(answer: &[u8]) -> u16 {
    let line = answer.get(9..12).and_then(|digits| std::str::from_utf8(digits).ok()).and_then(|digits| digits.parse().ok());
    line.unwrap_or_else(|| panic!("not an answer: {:?}", String::from_utf8_lossy(answer)))
}

fn post(path: &str, headers: &str, body: &[u8]) {
    let length = body.len();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n"
    );
    let answer = Serving::get().http(&[head.as_bytes(), body].concat(), false);
    let status = status(&answer);
    assert!(status != 500, "{}", String::from_utf8_lossy(&answer));
}

pub(crate) fn infer(data: &[u8]) {
    post("/v2/models/everything/infer", "", data);
}

/// First byte: the model, and whether answers are events.
pub(crate) fn generate(data: &[u8]) {
    let [form, body @ ..] = data else { return };
    let model = ["everything", "example_model"][usize::from(form & 1)];
    let kind = ["generate", "generate_stream"][usize::from(form >> 1 & 1)];
    post(&format!("/v2/models/{model}/{kind}"), "", body);
}

/// First two bytes: how long the JSON is, in the header.
pub(crate) fn binary(data: &[u8]) {
    let [high, low, body @ ..] = data else { return };
    let length = u16::from_be_bytes([*high, *low]);
    post("/v2/models/everything/infer", &format!("inference-header-content-length: {length}\r\n"), body);
}

/// Anything at all, on a connection that is half-closed after it.
pub(crate) fn raw(data: &[u8]) {
    Serving::get().http(data, true);
}
