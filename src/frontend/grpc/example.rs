//! The service `model.ModelInference`: a list of numbers in, a list of numbers out, for clients that know nothing about
//! tensors.

use tonic::{Request, Response, Status};

use super::{
    caller, convert, numbers,
    reader::Reader,
    status::{fault_of, status_of},
    wire::{NumbersRequestBytes, plain::model_inference_server::ModelInference},
};
use crate::{
    domain::{Fault, FaultKind, NamedTensor, TensorSpec},
    proto::{
        model::{PredictRequest, PredictResponse},
        v1,
    },
    registry::Model,
    service::{Caller, Method, PredictInput, Service, Terms},
    session::ItemRequest,
    side::{INLINE_BYTES_MAX, SideThreads},
};

const PREDICT: Terms = Terms::unary("model_inference_predict");

/// The contract over the one door.
#[derive(Clone)]
pub(super) struct Example {
    service: Service,
    predict: Method,
    side: SideThreads,
}

/// A request as the model takes it.
struct Read {
    model: String,
    /// The version that it was read for.
    version: String,
    item: ItemRequest,
}

impl Example {
    pub(super) fn new(service: Service, side: SideThreads) -> Self {
        let predict = service.method(PREDICT);
        Self { service, predict, side }
    }

    async fn run(&self, caller: Caller, request: NumbersRequestBytes) -> Result<PredictResponse, Fault> {
        let (bytes, door) = (request.bytes().len(), self.clone());
        let read = self.side.run_long(bytes, INLINE_BYTES_MAX, move || door.read(request)).await;
        let Read { model, version, item } = read.map_err(|fault| self.predict.refuse(fault))?;
        let config = v1::StreamConfig { model, version, ..v1::StreamConfig::default() };
        let open = convert::open_request(config, caller)?;
        let (_, result) = self.service.predict(&self.predict, open, PredictInput::Item(item)).await?;
        let outputs = result.outcome?;
        let bytes = outputs.first().map_or(0, |tensor| tensor.data().len());
        // A number of any size becomes eight bytes.
        let convert = move || {
            let strings = || Fault::new(FaultKind::Unsupported, "the model's first output holds strings (BYTES), not numbers");
            Ok(PredictResponse { outputs: outputs.first().and_then(numbers::from_elements).ok_or_else(strings)? })
        };
        self.side.run_long(bytes, INLINE_BYTES_MAX / 8, convert).await
    }

    /// Decodes a request, and converts its numbers.
    fn read(&self, request: NumbersRequestBytes) -> Result<Read, Fault> {
        let request = request.decode().map_err(|status| fault_of(&status, 0))?;
        let (version, item) = self.item(&request)?;
        Ok(Read { model: request.model_id, version, item })
    }

    /// The numbers as the model's one tensor, and the version that they were checked against.
    fn item(&self, request: &PredictRequest) -> Result<(String, ItemRequest), Fault> {
        let PredictRequest { model_id, inputs } = request;
        if model_id.is_empty() {
            return Err(Fault::invalid("model_id", "the name of the model is missing, such as 'example_model'"));
        }
        let model = self.service.find(model_id, "").map_err(|fault| match fault.field() {
            Some(_) => fault.with_field("model_id"),
            None => fault,
        })?;
        let spec = only_input(&model)?;
        if inputs.is_empty() {
            let message = format!("there are no numbers; model '{model_id}' takes shape {:?}", spec.shape_with_batch());
            return Err(Fault::invalid("inputs", message));
        }
        let shape = item_shape(spec, inputs.len())?;
        let data = numbers::to_elements(spec.datatype, inputs).map_err(|position| {
            let (number, datatype) = (inputs[position], spec.datatype);
            let message =
                format!("number {position} is {number:?}; the model takes {datatype}, which are {}", numbers::range(datatype));
            Fault::invalid(format!("inputs[{position}]"), message)
        })?;
        let tensor = NamedTensor { name: String::new(), datatype: None, shape, data };
        let version = model.loaded.version.to_string();
        Ok((version, ItemRequest { id: String::new(), tensors: Ok(vec![tensor]), deadline: None }))
    }
}

#[tonic::async_trait]
impl ModelInference for Example {
    async fn predict(&self, request: Request<NumbersRequestBytes>) -> Result<Response<PredictResponse>, Status> {
        let caller = caller::caller(request.metadata(), &self.service);
        Reader::current().begin_call(self.predict.metrics(), caller.ends_at);
        self.run(caller, request.into_inner()).await.map(Response::new).map_err(|fault| status_of(&fault))
    }
}

fn only_input(model: &Model) -> Result<&TensorSpec, Fault> {
    let inputs = model.signature().inputs.as_slice();
    let [input] = inputs else {
        let (name, count) = (&model.loaded.name, inputs.len());
        let message = format!(
            "model '{name}' takes {count} tensors, and a list of numbers can only be one; use tidemill.v1.InferenceService"
        );
        return Err(Fault::invalid("model_id", message));
    };
    Ok(input)
}

/// The shape of an item of `count` numbers: the one dynamic dimension, if any, takes whatever size is left.
fn item_shape(spec: &TensorSpec, count: usize) -> Result<Vec<i64>, Fault> {
    let fixed = spec.dims.iter().flatten().try_fold(1_usize, |product, size| product.checked_mul(*size)).unwrap_or(usize::MAX);
    let dynamic = spec.dims.iter().filter(|dim| dim.is_none()).count();
    let left = match dynamic {
        0 if count == fixed => 1,
        1 if fixed > 0 && count.is_multiple_of(fixed) => count / fixed,
        _ => {
            let shape = spec.shape_with_batch();
            let wanted = match dynamic {
                0 => format!("takes {fixed}"),
                1 => format!("takes a multiple of {fixed}"),
                _ => "has several dynamic dimensions, among which a list cannot be shared out; use tidemill.v1.InferenceService"
                    .to_owned(),
            };
            return Err(Fault::invalid("inputs", format!("there are {count} numbers; the model's shape {shape:?} {wanted}")));
        }
    };
    Ok(spec.dims.iter().map(|dim| i64::try_from(dim.unwrap_or(left)).unwrap_or(i64::MAX)).collect())
}
