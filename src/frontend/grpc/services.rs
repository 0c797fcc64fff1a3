//! Which service a call goes to.

use std::{
    convert::Infallible,
    task::{Context, Poll},
};

use futures::future::Either;
use http::{Request, Response};
use tonic::{body::Body, codegen::BoxFuture, server::NamedService, service::Routes};
use tower::Service;

use super::{
    native::NativeGrpc,
    open_inference::OpenInferenceGrpc,
    wire::{
        inference_service_server::InferenceServiceServer,
        open_inference::grpc_inference_service_server::GrpcInferenceServiceServer,
    },
};

/// The services of the gRPC port.
///
/// Those that serve inference are found by their names alone: tonic's router boxes the request, its future and the response again, which
/// is ten allocations a call.
#[derive(Clone)]
pub(super) struct Services {
    pub(super) native: InferenceServiceServer<NativeGrpc>,
    pub(super) open_inference: GrpcInferenceServiceServer<OpenInferenceGrpc>,
    /// The others, and the answer to calls of services that there are not.
    pub(super) others: Routes,
}

impl Service<Request<Body>> for Services {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<BoxFuture<Response<Body>, Infallible>, <Routes as Service<Request<Body>>>::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // The two others are always ready.
        Service::<Request<Body>>::poll_ready(&mut self.others, cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if is_of(&self.native, &request) {
            Either::Left(self.native.call(request))
        } else if is_of(&self.open_inference, &request) {
            Either::Left(self.open_inference.call(request))
        } else {
            Either::Right(self.others.call(request))
        }
    }
}

/// Whether a request calls a method of `service`: the path of a call is `/service/method`.
fn is_of<S: NamedService>(_service: &S, request: &Request<Body>) -> bool {
    let method = request.uri().path().strip_prefix('/').and_then(|path| path.strip_prefix(S::NAME));
    method.is_some_and(|method| method.starts_with('/'))
}
