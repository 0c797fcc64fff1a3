//! Until the real ones are there.
#![allow(missing_docs, clippy::unused_self, clippy::missing_errors_doc, dead_code, reason = "goes away with the merge")]
use futures::{Stream, stream};
use serde_json::{Value, json};

use crate::{
    domain::Fault,
    open_inference::{InferRequest, InferResponse, OpenInference, OutputData, OutputTensor},
    service::{Caller, OpenRequest, PredictInput, Service},
    telemetry::Method,
};

pub(super) trait Shim {
    async fn infer(&self, method: Method, request: InferRequest, caller: Caller) -> Result<InferResponse, Fault>;
}
