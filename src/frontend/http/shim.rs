//! Stands in for what the other branches bring.

use serde_json::{Value, json};

use crate::{domain::Fault, open_inference::OpenInference, service::Service};

pub(super) trait Shim {
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
}

impl Shim for OpenInference {}

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
