//! Other wires for the gRPC services: gRPC-Web and Connect.
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
mod schema;

use std::sync::Arc;

use futures::{FutureExt as _, future::BoxFuture};
use http::{Request, Response, request::Parts};
use prost_reflect::DescriptorError;
use tonic::body::Body;

use self::{
    connection::{Connection, Shared},
    schema::Schema,
};
use crate::{
    config::GrpcConfig,
    domain::Peer,
    frontend::{
        Bounds,
        ahead::{Ahead, Front, GrpcCalls},
        web::WebCheck,
    },
    memory::Memory,
    transport::Account,
};

/// Makes the transcoder of each connection, in front of the services that `calls` makes.
///
/// # Errors
/// If the descriptors of the services are broken, which a build with a sound `proto/` never has.
pub fn front(calls: GrpcCalls, config: GrpcConfig, bounds: Bounds, memory: Memory) -> Result<Front, DescriptorError> {
    let shared = Arc::new(Shared { schema: Schema::new()?, bounds, memory, config, calls });
    Ok(Front::new(move |peer, web, account| Arc::new(Transcoder::new(Arc::clone(&shared), account, peer, web))))
}

/// The other wires of one connection.
struct Transcoder {
    connection: Arc<Connection>,
}

impl Transcoder {
    fn new(shared: Arc<Shared>, account: Account, peer: Peer, web: WebCheck) -> Self {
        Self { connection: Arc::new(Connection::new(shared, account, peer, web)) }
    }
}

impl Ahead for Transcoder {
    fn takes(&self, head: &Parts) -> bool {
        grpc_web::takes(&head.headers) || connect::takes(self.connection.schema(), head)
    }

    fn answer(self: Arc<Self>, request: Request<Body>) -> BoxFuture<'static, Response<Body>> {
        let connection = Arc::clone(&self.connection);
        if grpc_web::takes(request.headers()) {
            grpc_web::answer(connection, request).boxed()
        } else {
            connect::answer(connection, request).boxed()
        }
    }
}
