//! The wire decoders of the messages, on their own: the hand-written ones for the native API, and the generated ones.

use prost::Message;
use tidemill::{
    frontend::grpc::wire::{self, ItemMessage, ScanItems, feed_request, predict_request, scan_request, upload_request},
    proto::{inference, model, v1},
    session::Inbound,
};

/// First byte: which message. What the hand-written reader accepts, the generated one accepts too.
pub(crate) fn native(data: &[u8]) {
    let [kind, bytes @ ..] = data else { return };
    match kind % 8 {
        0 => alike::<wire::FeedRequest, v1::FeedRequest>(bytes, |request| match request.message {
            Some(feed_request::Message::Item(item)) => is_whole(item),
            _ => true,
        }),
        1 => alike::<wire::UploadRequest, v1::UploadRequest>(bytes, |request| match request.part {
            Some(upload_request::Part::Item(item)) => is_whole(item),
            _ => true,
        }),
        2 => alike::<wire::ScanRequest, v1::ScanRequest>(bytes, |request| match request.payload {
            Some(scan_request::Payload::Items(list)) => {
                ScanItems::new(list, usize::MAX).is_ok_and(|mut items| items.all(is_read))
            }
            // There may have been items before, which nothing reads.
            Some(_) => false,
            None => true,
        }),
        3 => alike::<wire::PredictRequest, v1::PredictRequest>(bytes, |request| match request.payload {
            Some(predict_request::Payload::Item(item)) => is_whole(item),
            _ => true,
        }),
        4 => decoded::<v1::FeedResponse>(bytes),
        5 => decoded::<v1::UploadResponse>(bytes),
        6 => decoded::<v1::GetModelResponse>(bytes),
        _ => decoded::<model::PredictRequest>(bytes),
    }
}

/// First byte: which message.
pub(crate) fn open_inference(data: &[u8]) {
    let [kind, bytes @ ..] = data else { return };
    match kind % 6 {
        0 => decoded::<inference::ModelInferRequest>(bytes),
        1 => decoded::<inference::ModelInferResponse>(bytes),
        2 => decoded::<inference::ModelStreamInferResponse>(bytes),
        3 => decoded::<inference::RepositoryModelLoadRequest>(bytes),
        4 => decoded::<inference::ModelConfigResponse>(bytes),
        _ => decoded::<inference::SystemSharedMemoryRegisterRequest>(bytes),
    }
}

/// `is_taken` looks at what the hand-written reader leaves for later, or ignores.
fn alike<ByHand: Message + Default, Generated: Message + Default>(bytes: &[u8], is_taken: impl FnOnce(ByHand) -> bool) {
    let by_hand = ByHand::decode(bytes).is_ok_and(is_taken);
    assert!(!by_hand || Generated::decode(bytes).is_ok(), "only the hand-written reader accepts it");
}

/// If a tensor has too many dimensions, not all of its bytes are read.
fn is_whole(item: ItemMessage) -> bool {
    item.into_request().tensors.is_ok()
}

fn is_read<E>(inbound: Result<Inbound, E>) -> bool {
    matches!(inbound, Ok(Inbound::Item(item)) if item.tensors.is_ok())
}

/// A decoded message can be encoded and decoded again. Only lengths are compared: maps have no order, and NaN is not
/// itself.
fn decoded<M: Message + Default>(bytes: &[u8]) {
    let Ok(message) = M::decode(bytes) else { return };
    let again = M::decode(&*message.encode_to_vec()).map(|decoded| decoded.encoded_len());
    assert_eq!(again, Ok(message.encoded_len()), "encoded and decoded, it has a different length");
}
