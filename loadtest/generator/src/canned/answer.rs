//! The only answer: a real server's answer to an item of zeros.

use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use tidemill::domain::Datatype;
use tidemill_client::{
    Client,
    wire::inference::{
        InferStatistics, ModelInferRequest, ModelInferResponse, ModelMetadataRequest, ModelStatistics, StatisticDuration,
        model_infer_request::InferInputTensor, model_metadata_response::TensorMetadata,
    },
};
use tonic::Status;

use crate::load::{
    file::{Fill, Input},
    payload::Payload,
};

/// The most items in a request, as in the server.
const ITEMS_MAX: usize = 1_024;

/// An answer of one item, and how many items it has been given to.
pub(super) struct Answer {
    response: ModelInferResponse,
    items: AtomicU64,
}

impl Answer {
    /// Asks a real server behind `channel`; dimensions that the model leaves open have `length` elements.
    ///
    /// # Errors
    /// If it does not have the model, or refuses the item.
    pub(super) async fn of(client: &Client, model: &str, length: usize) -> anyhow::Result<Self> {
        let mut client = client.open_inference();
        let about = ModelMetadataRequest { name: model.to_owned(), ..ModelMetadataRequest::default() };
        let metadata = client.model_metadata(about).await?.into_inner();
        let inputs: Vec<_> = metadata.inputs.iter().map(|input| described(input, length)).collect::<anyhow::Result<_>>()?;
        let tensor = |input: &Input| InferInputTensor {
            name: input.name.clone(),
            datatype: input.datatype.name().to_owned(),
            shape: [1].into_iter().chain(input.shape.iter().map(|size| *size as i64)).collect(),
            ..InferInputTensor::default()
        };
        let request = ModelInferRequest {
            model_name: model.to_owned(),
            inputs: inputs.iter().map(tensor).collect(),
            raw_input_contents: Payload::new(&inputs, 1, 0).of(0).to_vec(),
            ..ModelInferRequest::default()
        };
        Ok(Self { response: client.model_infer(request).await?.into_inner(), items: AtomicU64::new(0) })
    }

    /// The outputs' data, one after another, as servers without a protocol give it.
    pub(super) fn data(&self) -> Bytes {
        self.response.raw_output_contents.concat().into()
    }

    /// The answer to `request`: as many items as it brings, under its id.
    ///
    /// # Errors
    /// `NOT_FOUND` for another model, `INVALID_ARGUMENT` for more than [`ITEMS_MAX`] items.
    pub(super) fn to(&self, request: ModelInferRequest) -> Result<ModelInferResponse, Status> {
        if request.model_name != self.response.model_name {
            return Err(Status::not_found(format!("the answers are those of model '{}'", self.response.model_name)));
        }
        let items = request.inputs.first().and_then(|input| input.shape.first()).map_or(1, |items| *items);
        let mut response = ModelInferResponse { id: request.id, ..self.response.clone() };
        if items == 1 {
            self.items.fetch_add(1, Ordering::Relaxed);
            return Ok(response);
        }
        let count = usize::try_from(items).ok().filter(|items| (1..=ITEMS_MAX).contains(items));
        let count = count.ok_or_else(|| {
            Status::invalid_argument(format!("the request has {items} items, which is not between 1 and {ITEMS_MAX}"))
        })?;
        self.items.fetch_add(count as u64, Ordering::Relaxed);
        for output in &mut response.outputs {
            if let Some(first) = output.shape.first_mut() {
                *first = items;
            }
        }
        for data in &mut response.raw_output_contents {
            *data = data.repeat(count).into();
        }
        Ok(response)
    }

    /// Each item is a separate call that takes no time. Clients use these counts to find out which version answers them.
    pub(super) fn statistics(&self) -> ModelStatistics {
        let count = self.items.load(Ordering::Relaxed);
        let calls = Some(StatisticDuration { count, ns: 0 });
        let inference_stats = InferStatistics {
            success: calls,
            queue: calls,
            compute_input: calls,
            compute_infer: calls,
            compute_output: calls,
            ..InferStatistics::default()
        };
        ModelStatistics {
            name: self.response.model_name.clone(),
            version: self.response.model_version.clone(),
            inference_count: count,
            execution_count: count,
            inference_stats: Some(inference_stats),
            ..ModelStatistics::default()
        }
    }
}

fn described(input: &TensorMetadata, length: usize) -> anyhow::Result<Input> {
    let TensorMetadata { name, datatype, shape } = input;
    let Some(datatype) = Datatype::ALL.into_iter().find(|known| known.name() == datatype) else {
        bail!("input '{name}' has the unknown datatype {datatype}");
    };
    let (_items, shape) = shape.split_first().with_context(|| format!("input '{name}' has no shape"))?;
    // Negative means open.
    let shape = shape.iter().map(|size| usize::try_from(*size).unwrap_or(length)).collect();
    Ok(Input { name: name.clone(), datatype, shape, fill: Fill::Zeros })
}
