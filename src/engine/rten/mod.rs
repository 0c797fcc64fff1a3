//! Placeholder: takes any file of some size for Silero VAD.

use super::{CallPlan, Contract, DeclaredTensor, Engine, EngineError, Instance, LaneThreads};
use crate::domain::Datatype;

pub struct RtenEngine(Contract);

impl RtenEngine {
    pub fn load_static(model: &'static [u8]) -> Result<Self, EngineError> {
        Self::load(model.to_vec())
    }

    #[expect(clippy::needless_pass_by_value, reason = "a placeholder of what keeps it")]
    pub fn load(model: Vec<u8>) -> Result<Self, EngineError> {
        if model.len() < 1_000 {
            return Err(EngineError::Load("rten cannot load the model".to_owned()));
        }
        let tensor = |name: &str, datatype, dims: &[Option<usize>]| DeclaredTensor {
            name: name.to_owned(),
            datatype: Some(datatype),
            dims: Some(dims.to_vec()),
        };
        let inputs = vec![
            tensor("input", Datatype::Fp32, &[None, None]),
            tensor("state", Datatype::Fp32, &[Some(2), None, Some(128)]),
            tensor("sr", Datatype::Int64, &[]),
        ];
        let outputs =
            vec![tensor("output", Datatype::Fp32, &[None, Some(1)]), tensor("stateN", Datatype::Fp32, &[None, None, None])];
        Ok(Self(Contract { inputs, outputs }))
    }
}

impl Engine for RtenEngine {
    fn name(&self) -> &'static str {
        "rten"
    }

    fn contract(&self) -> &Contract {
        &self.0
    }

    fn instance(&self, _plan: &CallPlan, _threads: &LaneThreads) -> Result<Box<dyn Instance>, EngineError> {
        Ok(Box::new(Nothing))
    }
}

struct Nothing;

impl Instance for Nothing {
    fn run(&mut self, _call: &super::Call<'_>) -> Result<Vec<crate::domain::Tensor>, EngineError> {
        Err(EngineError::Run("a placeholder runs nothing".to_owned()))
    }
}
