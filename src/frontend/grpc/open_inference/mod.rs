//! The service `inference.GRPCInferenceService`: the Open Inference Protocol with Triton's extensions.

mod contents;
mod documents;
mod stream;
mod wire;

use prost::Message as _;
use tonic::{Request, Response, Status, Streaming};

use super::{
    caller,
    reader::Reader,
    status::status_of,
    wire::{
        Encoded, EncodedInferResponse, InferRequestBytes, open_inference::grpc_inference_service_server::GrpcInferenceService,
    },
};
use crate::{
    domain::{Fault, FaultKind},
    frontend::Bounds,
    open_inference::{OpenInference, RegionStatus, RepositoryEntry, ServerMetadata},
    proto::inference::{self, repository_index_response, system_shared_memory_status_response},
    service::{Caller, Method, Terms},
    session::OnDrain,
    side::INLINE_BYTES_MAX,
};
use stream::{InferStream, StreamRules};

/// Metadata with which a client asks that a fault ends its stream with a status.
const GRPC_ERROR_METADATA: &str = "triton_grpc_error";

const INFER: Terms = Terms::unary("model_infer");
/// The stream itself ends its items' sessions, and asks for the memory of each request.
const STREAM_INFER: Terms =
    Terms { on_drain: OnDrain::ReadToEnd, opens_within_memory: false, ..Terms::stream("model_stream_infer") };

/// The protocol over its shared core.
pub(super) struct OpenInferenceGrpc {
    door: OpenInference,
    infer: Method,
    stream_infer: Method,
    max_message_bytes: usize,
    bounds: Bounds,
}

type Reply<M> = Result<Response<M>, Status>;

impl OpenInferenceGrpc {
    pub(super) fn new(door: OpenInference, max_message_bytes: usize, bounds: Bounds) -> Self {
        let [infer, stream_infer] = [INFER, STREAM_INFER].map(|terms| door.service().method(terms));
        Self { door, infer, stream_infer, max_message_bytes, bounds }
    }

    fn caller<M>(&self, request: &Request<M>) -> Caller {
        caller::caller(request.metadata(), self.door.service())
    }
}

#[tonic::async_trait]
impl GrpcInferenceService for OpenInferenceGrpc {
    async fn model_infer(&self, request: Request<InferRequestBytes>) -> Reply<EncodedInferResponse> {
        let caller = self.caller(&request);
        let side = &self.bounds.side;
        let refused = |fault: Fault| status_of(&self.infer.refuse(fault));
        let request = request.into_inner();
        let long_bytes = wire::long_bytes(&request);
        let decoded = side.run_long(long_bytes, INLINE_BYTES_MAX, move || wire::decode(request)).await;
        let (form, request) = decoded.map_err(refused)?;
        let request = request.map_err(refused)?;
        let response = self.door.infer(&self.infer, request, caller).await.map_err(|fault| status_of(&fault))?;
        let bytes = wire::response_bytes(&response, &form);
        if bytes <= INLINE_BYTES_MAX {
            return Ok(Response::new(Encoded::Here(wire::encode(response, &form))));
        }
        let encoded = side.run(move || Ok(Encoded::Already(wire::encode(response, &form).encode_to_vec().into()))).await;
        encoded.map(Response::new).map_err(refused)
    }

    type ModelStreamInferStream = InferStream;

    async fn model_stream_infer(&self, request: Request<Streaming<InferRequestBytes>>) -> Reply<Self::ModelStreamInferStream> {
        let (caller, reader) = (self.caller(&request), Reader::current());
        reader.begin_call(self.stream_infer.metrics(), caller.ends_at);
        let ends_on_fault = request.metadata().get(GRPC_ERROR_METADATA).is_some_and(|value| value == "true");
        let messages = request.into_inner();
        let rules = StreamRules { side: self.bounds.side.clone(), max_message_bytes: self.max_message_bytes, ends_on_fault };
        let opened = InferStream::open(&self.door, &self.stream_infer, caller, reader, messages, rules);
        opened.map(Response::new).map_err(|fault| status_of(&self.stream_infer.refuse(fault)))
    }

    async fn server_live(&self, _: Request<inference::ServerLiveRequest>) -> Reply<inference::ServerLiveResponse> {
        Ok(Response::new(inference::ServerLiveResponse { live: true }))
    }

    async fn server_ready(&self, _: Request<inference::ServerReadyRequest>) -> Reply<inference::ServerReadyResponse> {
        Ok(Response::new(inference::ServerReadyResponse { ready: self.door.is_ready() }))
    }

    async fn model_ready(&self, request: Request<inference::ModelReadyRequest>) -> Reply<inference::ModelReadyResponse> {
        let inference::ModelReadyRequest { name, version } = request.get_ref();
        Ok(Response::new(inference::ModelReadyResponse { ready: self.door.is_model_ready(name, version) }))
    }

    async fn server_metadata(&self, _: Request<inference::ServerMetadataRequest>) -> Reply<inference::ServerMetadataResponse> {
        let ServerMetadata { name, version, extensions } = self.door.server_metadata();
        let extensions = extensions.into_iter().map(str::to_owned).collect();
        Ok(Response::new(inference::ServerMetadataResponse { name: name.to_owned(), version: version.to_owned(), extensions }))
    }

    async fn model_metadata(&self, request: Request<inference::ModelMetadataRequest>) -> Reply<inference::ModelMetadataResponse> {
        let inference::ModelMetadataRequest { name, version } = request.get_ref();
        let metadata = self.door.model_metadata(name, version).map_err(|fault| status_of(&fault))?;
        Ok(Response::new(documents::metadata(metadata)))
    }

    async fn model_config(&self, request: Request<inference::ModelConfigRequest>) -> Reply<inference::ModelConfigResponse> {
        let inference::ModelConfigRequest { name, version } = request.get_ref();
        let config = self.door.model_config(name, version).map_err(|fault| status_of(&fault))?;
        Ok(Response::new(inference::ModelConfigResponse { config: Some(documents::config(config)) }))
    }

    async fn model_statistics(
        &self,
        request: Request<inference::ModelStatisticsRequest>,
    ) -> Reply<inference::ModelStatisticsResponse> {
        let inference::ModelStatisticsRequest { name, version } = request.get_ref();
        let statistics = self.door.statistics(name, version).map_err(|fault| status_of(&fault))?;
        let model_stats = statistics.into_iter().map(documents::statistics).collect();
        Ok(Response::new(inference::ModelStatisticsResponse { model_stats }))
    }

    async fn repository_index(
        &self,
        request: Request<inference::RepositoryIndexRequest>,
    ) -> Reply<inference::RepositoryIndexResponse> {
        let entry = |RepositoryEntry { name, version, state, reason }: RepositoryEntry| repository_index_response::ModelIndex {
            name,
            version,
            state: state.to_owned(),
            reason,
        };
        let models = self.door.repository_index(request.get_ref().ready).await.map_err(|fault| status_of(&fault))?;
        let models = models.into_iter().map(entry).collect();
        Ok(Response::new(inference::RepositoryIndexResponse { models }))
    }

    async fn repository_model_load(
        &self,
        request: Request<inference::RepositoryModelLoadRequest>,
    ) -> Reply<inference::RepositoryModelLoadResponse> {
        let inference::RepositoryModelLoadRequest { model_name, parameters, .. } = request.get_ref();
        let loaded = self.door.load_model(model_name, parameters.keys().map(String::as_str)).await;
        loaded.map_err(|fault| status_of(&fault))?;
        Ok(Response::new(inference::RepositoryModelLoadResponse {}))
    }

    async fn repository_model_unload(
        &self,
        request: Request<inference::RepositoryModelUnloadRequest>,
    ) -> Reply<inference::RepositoryModelUnloadResponse> {
        self.door.unload_model(&request.get_ref().model_name).await.map_err(|fault| status_of(&fault))?;
        Ok(Response::new(inference::RepositoryModelUnloadResponse {}))
    }

    async fn system_shared_memory_status(
        &self,
        request: Request<inference::SystemSharedMemoryStatusRequest>,
    ) -> Reply<inference::SystemSharedMemoryStatusResponse> {
        let memory = self.door.shared_memory().map_err(|fault| status_of(&fault))?;
        let regions = memory.status(&request.get_ref().name).map_err(|fault| status_of(&fault))?;
        let region = |RegionStatus { name, key, offset, byte_size }: RegionStatus| {
            (name.clone(), system_shared_memory_status_response::RegionStatus { name, key, offset, byte_size })
        };
        let regions = regions.into_iter().map(region).collect();
        Ok(Response::new(inference::SystemSharedMemoryStatusResponse { regions }))
    }

    async fn system_shared_memory_register(
        &self,
        request: Request<inference::SystemSharedMemoryRegisterRequest>,
    ) -> Reply<inference::SystemSharedMemoryRegisterResponse> {
        let inference::SystemSharedMemoryRegisterRequest { name, key, offset, byte_size } = request.into_inner();
        self.door.register_memory(&name, &key, offset, byte_size).map_err(|fault| status_of(&fault))?;
        Ok(Response::new(inference::SystemSharedMemoryRegisterResponse {}))
    }

    async fn system_shared_memory_unregister(
        &self,
        request: Request<inference::SystemSharedMemoryUnregisterRequest>,
    ) -> Reply<inference::SystemSharedMemoryUnregisterResponse> {
        self.door.unregister_memory(&request.get_ref().name).map_err(|fault| status_of(&fault))?;
        Ok(Response::new(inference::SystemSharedMemoryUnregisterResponse {}))
    }

    async fn cuda_shared_memory_status(
        &self,
        _: Request<inference::CudaSharedMemoryStatusRequest>,
    ) -> Reply<inference::CudaSharedMemoryStatusResponse> {
        Err(unsupported("CUDA shared memory; register system shared memory instead"))
    }

    async fn cuda_shared_memory_register(
        &self,
        _: Request<inference::CudaSharedMemoryRegisterRequest>,
    ) -> Reply<inference::CudaSharedMemoryRegisterResponse> {
        Err(unsupported("CUDA shared memory; register system shared memory instead"))
    }

    async fn cuda_shared_memory_unregister(
        &self,
        _: Request<inference::CudaSharedMemoryUnregisterRequest>,
    ) -> Reply<inference::CudaSharedMemoryUnregisterResponse> {
        // No region can be registered, so all are unregistered: clients clean up by this call whatever they have used.
        Ok(Response::new(inference::CudaSharedMemoryUnregisterResponse {}))
    }

    async fn trace_setting(&self, _: Request<inference::TraceSettingRequest>) -> Reply<inference::TraceSettingResponse> {
        Err(unsupported("tracing by settings"))
    }

    async fn log_settings(&self, _: Request<inference::LogSettingsRequest>) -> Reply<inference::LogSettingsResponse> {
        Err(unsupported("changing the log; set log.filter when the server starts"))
    }
}

fn unsupported(what: &str) -> Status {
    status_of(&Fault::new(FaultKind::Unsupported, format!("this server does not offer {what}")))
}
