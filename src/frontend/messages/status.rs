//! Faults as statuses inside a stream, and the faults behind statuses. How a call ends with a fault is in
//! [`grpc_status`](crate::frontend::grpc_status).

use std::error::Error as _;

use prost::Message as _;
use tonic::{Code, Status};

pub(in crate::frontend) use crate::frontend::grpc_status::{ERROR_DOMAIN, code, status_of, status_with};
use crate::{
    domain::{Fault, FaultKind},
    proto::rpc,
};

/// The status of a fault as an answer inside a stream.
pub(in crate::frontend) fn item_status_of(fault: &Fault) -> rpc::Status {
    let status = status_of(fault);
    rpc::Status::decode(status.details()).unwrap_or_else(|_| rpc::Status {
        code: status.code().into(),
        message: status.message().to_owned(),
        details: Vec::new(),
    })
}

/// The fault behind a status that tonic gives while it reads a request stream.
pub(in crate::frontend) fn fault_of(status: &Status, max_message_bytes: usize) -> Fault {
    // Beneath the errors of the layers that the body came through.
    let mut source = status.source();
    while let Some(error) = source {
        if let Some(fault) = error.downcast_ref::<Fault>() {
            return fault.clone();
        }
        source = error.source();
    }
    match status.code() {
        Code::InvalidArgument => Fault::invalid("message", status.message().to_owned()),
        Code::OutOfRange => too_large(max_message_bytes, status.message()),
        Code::Unimplemented => Fault::new(FaultKind::Unsupported, status.message().to_owned()),
        Code::Internal => Fault::invalid("message", format!("the message frame is broken: {}", status.message())),
        _ => Fault::new(FaultKind::Cancelled, format!("the client's side of the stream broke off: {}", status.message())),
    }
}

/// A message over the limit; `found` is the library's sentence, which states its length.
pub(in crate::frontend) fn too_large(max_message_bytes: usize, found: &str) -> Fault {
    let message =
        format!("the message is larger than the {max_message_bytes} bytes that grpc.max_message_bytes allows ({found})");
    Fault::new(FaultKind::TooLarge, message).with_limit("grpc.max_message_bytes", max_message_bytes as u64)
}

/// A message that announces more than the setting `key` allows.
pub(in crate::frontend) fn announced_too_large(bytes: usize, bytes_max: usize, key: &'static str) -> Fault {
    let message = format!("the message is larger than the {bytes_max} bytes that {key} allows: it has {bytes} bytes");
    Fault::new(FaultKind::TooLarge, message).with_limit(key, bytes_max as u64)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_fault_survives_being_a_status() {
        let fault = announced_too_large(9, 8, "grpc.max_message_bytes").with_retry_after(Duration::from_secs(2));
        assert_eq!(fault_of(&status_with(fault.clone()), 1), fault);
        assert_eq!(fault_of(&status_of(&fault), 1).kind(), FaultKind::Cancelled, "without it there is the code alone");
    }

    #[test]
    fn an_answer_inside_a_stream_carries_the_same_details() {
        let status = item_status_of(&Fault::invalid("inputs[0].shape", "wrong"));
        assert_eq!((status.code, status.message.as_str()), (3, "wrong"));
        assert_eq!(status.details.len(), 2);
    }
}
