//! Placeholder: never loaded.

use super::{CallPlan, Contract, Engine, EngineError, Instance, LaneThreads};

pub struct OnnxRuntimeEngine(Contract);

impl OnnxRuntimeEngine {
    pub fn load(_model: Vec<u8>) -> Result<Self, EngineError> {
        Err(EngineError::Library("onnxruntime is not loaded: set engine.onnxruntime".to_owned()))
    }
}

impl Engine for OnnxRuntimeEngine {
    fn name(&self) -> &'static str {
        "onnxruntime"
    }

    fn contract(&self) -> &Contract {
        &self.0
    }

    fn instance(&self, _plan: &CallPlan, _threads: &LaneThreads) -> Result<Box<dyn Instance>, EngineError> {
        Err(EngineError::Library("onnxruntime is not loaded".to_owned()))
    }
}

#[must_use]
pub fn is_loaded() -> bool {
    false
}

pub fn load_library(path: &std::path::Path) -> Result<(), EngineError> {
    Err(EngineError::Library(format!("{}: not built in yet", path.display())))
}
