//! The targets: each is a function that takes any bytes and must return. A panic on any thread, a hang or too much memory is a finding.

mod calls;
mod configuration;
mod connections;
mod credentials;
mod exposition;
mod manifest;
mod messages;
mod onnx;
mod pcm;
mod proofs;
mod recording;
mod requests;
mod sound;

/// By the names of their folders in `corpus`.
pub(crate) const ALL: &[(&str, fn(&[u8]))] = &[
    ("calls", calls::run),
    ("configuration", configuration::run),
    ("exposition", exposition::run),
    ("http2", connections::http2),
    ("http_binary", requests::binary),
    ("http_generate", requests::generate),
    ("http_infer", requests::infer),
    ("http_raw", requests::raw),
    ("keys", credentials::keys),
    ("manifest", manifest::run),
    ("native_messages", messages::native),
    ("onnx", onnx::run),
    ("open_inference_messages", messages::open_inference),
    ("pcm", pcm::run),
    ("proofs", proofs::run),
    ("proxy_header", connections::proxy_header),
    ("recording", recording::run),
    ("sound", sound::run),
    ("tls_hello", connections::tls_hello),
    ("tokens", credentials::tokens),
];
