//! Stands in for what the other branches bring.

use futures::{Stream, stream};
use serde_json::{Value, json};

use crate::{
    domain::Fault,
    open_inference::{InferRequest, InferResponse, OpenInference},
    service::{Caller, Service},
    telemetry::Method,
};

pub(super) trait Shim {
    fn infer_each(
        &self,
        method: Method,
        request: InferRequest,
        caller: Caller,
    ) -> Result<impl Stream<Item = Result<InferResponse, Fault>> + Send + 'static, Fault>;
    fn server_metadata(&self) -> Value {
        json!({})
    }
    fn is_ready(&self) -> bool {
        true
    }
    fn is_model_ready(&self, _: &str, _: &str) -> Result<bool, Fault> {
        Ok(true)
    }
    fn model_metadata(&self, _: &str, _: &str) -> Result<Value, Fault> {
        Ok(json!({}))
    }
    fn model_config(&self, _: &str, _: &str) -> Result<Value, Fault> {
        Ok(json!({}))
    }
    fn statistics(&self, _: &str, _: &str) -> Result<Value, Fault> {
        Ok(json!({}))
    }
    fn shared_memory(&self) -> SharedMemory {
        SharedMemory
    }
}

impl Shim for OpenInference {
    fn infer_each(
        &self,
        method: Method,
        request: InferRequest,
        caller: Caller,
    ) -> Result<impl Stream<Item = Result<InferResponse, Fault>> + Send + 'static, Fault> {
        let this = self.clone();
        Ok(stream::once(async move { this.infer(method, request, caller).await }))
    }
}

pub(super) struct SharedMemory;

impl SharedMemory {
    pub(super) fn status(&self, _: &str) -> Result<Value, Fault> {
        Ok(json!([]))
    }
    pub(super) fn register(&self, _: &str, _: &str, _: u64, _: u64) -> Result<(), Fault> {
        Ok(())
    }
    pub(super) fn unregister(&self, _: &str) -> Result<(), Fault> {
        Ok(())
    }
    pub(super) fn unregister_all(&self) {}
}

pub(super) trait RepositoryShim {
    fn repository(&self) -> Repository {
        Repository
    }
}

impl RepositoryShim for Service {}

pub(super) struct Repository;

impl Repository {
    pub(super) fn index(&self, _: bool) -> Vec<Value> {
        Vec::new()
    }
    pub(super) async fn load(&self, _: &str) -> Result<(), Fault> {
        Ok(())
    }
    pub(super) async fn unload(&self, _: &str) -> Result<(), Fault> {
        Ok(())
    }
}
