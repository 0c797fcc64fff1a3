//! WebSocket: live feeds for clients that have no gRPC, browsers first of all.

mod frame;
