//! Descriptions of the server and of its models' tensors.
//!
//! The structs here and in the neighbouring files serialize to the JSON of the protocol's REST form; its gRPC form has the same
//! fields.

use serde::Serialize;

use super::OpenInference;
use crate::{
    domain::{Fault, TensorSpec},
    registry::ModelState,
};

/// Extensions that work, but for shared memory, which can be turned off.
const EXTENSIONS: [&str; 9] = [
    "classification",
    "sequence",
    "statistics",
    "model_configuration",
    "model_repository",
    "schedule_policy",
    "binary_tensor_data",
    "parameters",
    "generate",
];

/// The server's description.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ServerMetadata {
    /// `tidemill`.
    pub name: &'static str,
    /// Its version.
    pub version: &'static str,
    /// The protocol's extensions that it has.
    pub extensions: Vec<&'static str>,
}

/// A model's inputs and outputs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ModelMetadata {
    /// Its name.
    pub name: String,
    /// Its versions that are ready, lowest first.
    pub versions: Vec<String>,
    /// The engine of the version that was asked for, and the model's format.
    pub platform: &'static str,
    /// The tensors of a request.
    pub inputs: Vec<TensorMetadata>,
    /// The tensors of a response.
    pub outputs: Vec<TensorMetadata>,
}

/// An input or output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TensorMetadata {
    /// The model's name for it.
    pub name: String,
    /// Element type, such as `FP32`.
    pub datatype: &'static str,
    /// -1 for the items of a request, which lie along the first dimension wherever the model has its batch, if it has one; then the
    /// dimensions of one item, -1 where they may differ.
    pub shape: Vec<i64>,
}

impl OpenInference {
    /// The server's description.
    #[must_use]
    pub fn server_metadata(&self) -> ServerMetadata {
        let mut extensions = EXTENSIONS.to_vec();
        if self.shared_memory.is_enabled() {
            extensions.push("system_shared_memory");
        }
        ServerMetadata { name: env!("CARGO_PKG_NAME"), version: env!("CARGO_PKG_VERSION"), extensions }
    }

    /// Whether the server takes calls, some model could be loaded, and none has lost its engine. Models that are being loaded, could not
    /// be loaded or were unloaded do not make it unready for the others, or a change of one would take the server out of service.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let registry = self.service().repository().registry();
        self.service().is_serving() && !registry.serves_nothing() && registry.first_lost().is_none()
    }

    /// Whether a model takes calls; no version means any version. A model that does not exist is not ready: clients wait for a
    /// model by asking this.
    #[must_use]
    pub fn is_model_ready(&self, name: &str, version: &str) -> bool {
        self.service().is_serving() && self.service().find(name, version).is_ok()
    }

    /// A model's inputs and outputs; no version means the newest that is ready. State, and inputs that the manifest fixes, are
    /// the server's own and are left out.
    ///
    /// # Errors
    /// [`FaultKind::NotFound`](crate::domain::FaultKind::NotFound) or
    /// [`FaultKind::Unavailable`](crate::domain::FaultKind::Unavailable).
    pub fn model_metadata(&self, name: &str, version: &str) -> Result<ModelMetadata, Fault> {
        let model = self.service().find(name, version)?;
        let signature = model.signature();
        Ok(ModelMetadata {
            name: name.to_owned(),
            versions: self.ready_versions(name),
            platform: platform(model.engine_name()),
            inputs: signature.inputs.iter().map(tensor).collect(),
            outputs: signature.outputs.iter().map(tensor).collect(),
        })
    }

    /// The versions of a model that are ready, lowest first.
    pub(super) fn ready_versions(&self, name: &str) -> Vec<String> {
        let models = self.service().models().into_iter();
        let versions = models.filter(|model| *model.name == *name && model.state == ModelState::Ready);
        versions.map(|model| model.version.to_string()).collect()
    }
}

fn tensor(spec: &TensorSpec) -> TensorMetadata {
    TensorMetadata { name: spec.name.to_string(), datatype: spec.datatype.name(), shape: leading_batch(spec) }
}

/// The shape of a request's or response's tensor: -1 for its items, if the model has a batch dimension; then the dimensions of one,
/// -1 where they may differ.
pub(super) fn leading_batch(spec: &TensorSpec) -> Vec<i64> {
    spec.batch_axis.map(|_| -1).into_iter().chain(item_dims(&spec.dims)).collect()
}

/// Dimensions of one item, -1 where they may differ.
pub(super) fn item_dims(dims: &[Option<usize>]) -> impl Iterator<Item = i64> {
    dims.iter().map(|dim| dim.map_or(-1, |size| i64::try_from(size).unwrap_or(i64::MAX)))
}

/// The protocol's word for an engine and the format of its models.
pub(super) fn platform(engine: &'static str) -> &'static str {
    match engine {
        "onnxruntime" => "onnxruntime_onnx",
        "rten" => "rten_onnx",
        other => other,
    }
}
