//! Other wires for the gRPC services: gRPC-Web, Connect, and JSON at the paths that the proto gives.
//!
//! Each turns a request into a gRPC call in this process, and what that answers into its own form, message by message as it comes. So
//! limits, deadlines, keys, codes and counts are gRPC's own, and a stream is never collected. What crosses here is the bytes of
//! messages: nothing is decoded that need not be read in JSON.

mod call;
mod connect;
mod connection;
mod frames;
mod grpc_web;
mod outgoing;
mod plain;
mod rest;
mod schema;

use std::sync::Arc;

use futures::{FutureExt as _, future::BoxFuture};
use http::{Request, Response, request::Parts};
use prost_reflect::DescriptorError;
use tonic::body::Body;

use self::{
    connection::{Connection, Shared},
    rest::{BadRoute, Rest},
    schema::Schema,
};
use crate::{
    config::GrpcConfig,
    frontend::{
        Bounds,
        ahead::{Ahead, Front, GrpcCalls},
    },
    memory::Memory,
};

/// Descriptors that cannot be served by. A build with a sound `proto/` never has them.
#[derive(Debug, thiserror::Error)]
pub enum BadProto {
    /// They are broken.
    #[error(transparent)]
    Descriptors(#[from] DescriptorError),
    /// One of the options `google.api.http` is no route.
    #[error(transparent)]
    Route(#[from] BadRoute),
}

/// Makes the transcoder of each connection, in front of the services that `calls` makes.
///
/// # Errors
/// [`BadProto`].
pub fn front(calls: GrpcCalls, config: GrpcConfig, bounds: Bounds, memory: Memory) -> Result<Front, BadProto> {
    let schema = Schema::new()?;
    let rest = Rest::new(&schema)?;
    let shared = Arc::new(Shared { schema, bounds, memory, config, calls });
    Ok(Front::new(move |peer, web, account| {
        let connection = Arc::new(Connection::new(Arc::clone(&shared), account, peer, web));
        Arc::new(Transcoder { connection, rest: rest.clone() })
    }))
}

/// The other wires of one connection.
struct Transcoder {
    connection: Arc<Connection>,
    rest: Rest,
}

impl Ahead for Transcoder {
    fn takes(&self, head: &Parts) -> bool {
        self.rest.takes(head) || grpc_web::takes(&head.headers) || connect::takes(self.connection.schema(), head)
    }

    fn answer(self: Arc<Self>, request: Request<Body>) -> BoxFuture<'static, Response<Body>> {
        let connection = Arc::clone(&self.connection);
        let (head, body) = request.into_parts();
        if self.rest.takes(&head) {
            return async move { self.rest.answer(&connection, head, body).await }.boxed();
        }
        let request = Request::from_parts(head, body);
        if grpc_web::takes(request.headers()) {
            grpc_web::answer(connection, request).boxed()
        } else {
            connect::answer(connection, request).boxed()
        }
    }
}
