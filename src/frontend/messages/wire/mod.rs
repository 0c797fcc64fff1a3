//! The native service as the server serves it: tensors are read from the wire into the domain, and written from the domain.
//!
//! The generated messages of [`proto`](crate::proto) hold a tensor's name, shape and data in separate structs, which would be
//! filled, taken apart and dropped for each item; that was a quarter of what an item without a model cost. Here [`ItemMessage`]
//! replaces `Item` and [`ResultMessage`] replaces `ItemResult`. The messages around the two are generated; all others are those
//! of [`proto`](crate::proto). Nothing differs on the wire, and tests compare both with the generated form.
//!
//! Requests that are slow to decode come as bytes, and responses that are slow to encode are encoded beforehand, so that both
//! happen where nobody else has to wait; the services with such messages are generated again, too.

mod encoded;
mod item;
mod items;
mod result;
mod writer;

#[allow(
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::pedantic,
    clippy::semicolon_if_nothing_returned,
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    reason = "generated code"
)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/serving/tidemill.v1.rs"));

    /// The Open Inference Protocol.
    pub mod open_inference {
        include!(concat!(env!("OUT_DIR"), "/serving/inference.rs"));
    }

    /// Plain numbers.
    pub mod plain {
        include!(concat!(env!("OUT_DIR"), "/serving/model.rs"));
    }
}

pub use encoded::{Encoded, upload_response};
pub use generated::*;
pub use item::{DIMS_MAX, ItemMessage, TENSORS_MAX, too_many_dims, too_many_tensors};
pub use items::{ItemListMessage, ScanItems};
pub use result::ResultMessage;

use crate::proto::{codec::Raw, inference, model, v1};

/// `inference.ModelInferRequest`, not decoded yet.
pub type InferRequestBytes = Raw<inference::ModelInferRequest>;
/// `inference.ModelInferResponse`.
pub type EncodedInferResponse = Encoded<inference::ModelInferResponse>;
/// `model.PredictRequest`, not decoded yet.
pub type NumbersRequestBytes = Raw<model::PredictRequest>;
/// `tidemill.v1.UploadResponse`.
pub type EncodedUploadResponse = Encoded<v1::UploadResponse>;

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use proptest::{collection::vec, option, prelude::*};
    use prost::Message;

    use super::*;
    use crate::{
        codec::WindowPosition,
        domain::{AnswerPart, Datatype, Fault, ItemTiming, NamedTensor, Signature, Tensor, TensorSpec, Timestamp},
        frontend::messages::status::item_status_of,
        proto::{parcel, v1},
        session::{Inbound, ItemRequest, ItemResult},
    };

    prop_compose! {
        /// Also with numbers that are not a datatype.
        fn tensor()(
            name in "[a-z]{0,3}",
            datatype in -1_i32..17,
            shape in vec(any::<i64>(), 0..4),
            data in vec(any::<u8>(), 0..300),
        ) -> v1::Tensor {
            v1::Tensor { name, datatype, shape, data: data.into() }
        }
    }

    prop_compose! {
        fn item()(
            id in "[a-z]{0,3}",
            inputs in vec(tensor(), 0..4),
            deadline in option::of((0_i64..1_000, 0_i32..1_000_000_000)),
        ) -> v1::Item {
            v1::Item { id, inputs, deadline: deadline.map(|(seconds, nanos)| prost_types::Duration { seconds, nanos }) }
        }
    }

    fn feed_request(item: v1::Item) -> v1::FeedRequest {
        v1::FeedRequest { message: Some(v1::feed_request::Message::Item(item)) }
    }

    /// The item, read from its generated form.
    fn expected(item: v1::Item) -> ItemRequest {
        let known = |tensor: &v1::Tensor| v1::Datatype::try_from(tensor.datatype).ok();
        let unknown = item.inputs.iter().enumerate().find(|(_, tensor)| known(tensor).is_none());
        let fault = unknown.map(|(index, tensor)| {
            let message = format!("{} is not a value of the enum Datatype", tensor.datatype);
            Fault::invalid(format!("inputs[{index}].datatype"), message)
        });
        let tensors = item.inputs.into_iter().map(|tensor| {
            let name = known(&tensor).and_then(|datatype| datatype.as_str_name().strip_prefix("DATATYPE_"));
            let datatype = name.and_then(|name| name.parse::<Datatype>().ok());
            NamedTensor { name: tensor.name, datatype, shape: tensor.shape, data: tensor.data }
        });
        let tensors = fault.map_or_else(|| Ok(tensors.collect()), Err);
        let deadline = item.deadline.map(|deadline| Duration::new(deadline.seconds as u64, deadline.nanos as u32));
        ItemRequest { id: item.id, tensors, deadline }
    }

    fn read(bytes: &[u8]) -> Option<FeedRequest> {
        FeedRequest::decode(bytes).ok()
    }

    fn item_of(request: Option<FeedRequest>) -> Option<ItemRequest> {
        match request?.message? {
            feed_request::Message::Item(item) => Some(item.into_request()),
            _ => None,
        }
    }

    #[test]
    fn parts_of_one_item_in_several_fields_are_merged_and_the_last_of_a_kind_holds() {
        let parts = |id: &str, name: &str| {
            let input = v1::Tensor { name: name.to_owned(), ..v1::Tensor::default() };
            feed_request(v1::Item { id: id.to_owned(), inputs: vec![input], deadline: None }).encode_to_vec()
        };
        let bytes = [parts("first", "a"), parts("second", "b")].concat();
        let generated = match v1::FeedRequest::decode(&*bytes).expect("sound").message {
            Some(v1::feed_request::Message::Item(item)) => item,
            other => unreachable!("{other:?}"),
        };
        assert_eq!((&*generated.id, generated.inputs.len()), ("second", 2));
        assert_eq!(item_of(read(&bytes)), Some(expected(generated)));
    }

    #[test]
    fn fields_of_a_later_version_are_passed_over() {
        let known = feed_request(v1::Item { id: "7".to_owned(), ..v1::Item::default() }).encode_to_vec();
        let mut item = vec![0xa2, 0x06, 2, 1, 2];
        item.extend([0x0a, 1, b'7', 0x12, 3, 0xf8, 0x07, 5]);
        let mut bytes = vec![0x12, u8::try_from(item.len()).expect("short")];
        bytes.extend(item);
        let later = item_of(read(&bytes)).expect("an item");
        assert_eq!(later.id, item_of(read(&known)).expect("an item").id);
        assert_eq!(later.tensors.expect("one without anything known"), [NamedTensor::default()]);
    }

    #[test]
    fn an_item_of_very_many_tensors_is_refused_and_not_kept() {
        let item = |tensors| v1::Item { inputs: vec![v1::Tensor::default(); tensors], ..v1::Item::default() };
        let tensors = |count| item_of(read(&feed_request(item(count)).encode_to_vec())).expect("an item").tensors;
        assert_eq!(tensors(1024).expect("as many as may be").len(), 1024);
        let fault = tensors(1025).expect_err("one more");
        assert_eq!((fault.field(), fault.message()), (Some("inputs"), "the item has more than 1024 tensors"));
    }

    #[test]
    fn a_tensor_of_very_many_dimensions_is_refused_and_not_kept() {
        let item = |dims: usize| {
            let input = v1::Tensor { shape: vec![1; dims], ..v1::Tensor::default() };
            feed_request(v1::Item { inputs: vec![input], ..v1::Item::default() }).encode_to_vec()
        };
        let tensors = |dims| item_of(read(&item(dims))).expect("an item").tensors;
        assert_eq!(tensors(64).expect("as many as may be")[0].shape.len(), 64);
        for dims in [65, 1_000, 100_000] {
            let fault = tensors(dims).expect_err("too many");
            assert_eq!(fault.field(), Some("inputs[0].shape"), "{fault}");
            assert!(fault.message().contains("more than 64 dimensions"), "{fault}");
        }
        // The same, each in a separate field.
        let single = [0x18, 1].repeat(65);
        let tensor = [&[0x12, u8::try_from(single.len()).expect("short, but of two bytes") | 0x80, 1][..], &single].concat();
        let bytes = [&[0x12, u8::try_from(tensor.len() - 128).expect("short") | 0x80, 1][..], &tensor].concat();
        assert!(item_of(read(&bytes)).expect("an item").tensors.expect_err("too many").message().contains("64 dimensions"));
    }

    fn scanned(bytes: &[u8], items_max: usize) -> Result<Vec<Result<ItemRequest, Fault>>, Fault> {
        let Some(scan_request::Payload::Items(list)) = ScanRequest::decode(bytes).expect("sound").payload else {
            unreachable!("there are items")
        };
        let items = ScanItems::new(list, items_max)?;
        let item = |inbound: Result<Inbound, Fault>| match inbound {
            Ok(Inbound::Item(item)) => Ok(item),
            Ok(other) => unreachable!("{other:?}"),
            Err(fault) => Err(fault),
        };
        Ok(items.map(item).collect())
    }

    fn scan_request_of(items: Vec<v1::Item>) -> Vec<u8> {
        let payload = Some(v1::scan_request::Payload::Items(v1::ItemList { items }));
        v1::ScanRequest { config: None, payload }.encode_to_vec()
    }

    #[test]
    fn lists_in_several_fields_are_one_list() {
        let named = |id: &str| v1::Item { id: id.to_owned(), ..v1::Item::default() };
        let bytes = [scan_request_of(vec![named("a"), named("b")]), scan_request_of(vec![named("c")])].concat();
        let ids: Vec<_> = scanned(&bytes, 3).expect("few").into_iter().map(|item| item.expect("sound").id).collect();
        assert_eq!(ids, ["a", "b", "c"]);
        let fault = scanned(&bytes, 2).expect_err("one more");
        assert_eq!(fault.limit().map(|limit| (limit.name, limit.value)), Some(("message.max_items", 2)));
    }

    #[test]
    fn an_item_that_is_broken_ends_a_scan_where_it_lies() {
        let mut bytes = scan_request_of(vec![v1::Item { id: "ab".to_owned(), ..v1::Item::default() }; 2]);
        // The length of the second id.
        let at = bytes.len() - 3;
        bytes[at] = 9;
        let found = scanned(&bytes, 2).expect("few");
        assert!(found[0].is_ok());
        let fault = found[1].as_ref().expect_err("broken");
        assert_eq!(fault.field(), Some("items[1]"), "{fault}");
    }

    #[test]
    fn what_is_encoded_already_goes_as_a_parcel() {
        let already = EncodedUploadResponse::Already(bytes::Bytes::from_static(b"encoded"));
        let ticket = already.encode_to_vec();
        assert_eq!((ticket.len(), already.encoded_len()), (parcel::TICKET_BYTES, parcel::TICKET_BYTES));
        assert_eq!(parcel::receive(&ticket).as_deref(), Some(&b"encoded"[..]));
        let here = EncodedUploadResponse::Here(v1::UploadResponse { model: "m".to_owned(), ..v1::UploadResponse::default() });
        assert_eq!(v1::UploadResponse::decode(&*here.encode_to_vec()).expect("sound").model, "m");
    }

    prop_compose! {
        fn result()(
            seq in any::<u64>(),
            id in "[a-z]{0,200}",
            window in option::of((any::<u64>(), any::<u64>(), any::<u64>())),
            outputs in vec(vec(1_usize..4, 0..4), 0..4),
            failed in any::<bool>(),
            (arrived, waited, took) in (0_u64..1 << 40, 0_u64..1 << 40, 0_u64..1 << 40),
            batch_size in 0_u32..300,
            (part, last) in (0_u32..300, any::<bool>()),
        ) -> ItemResult {
            let outputs = outputs.into_iter().enumerate().map(|(index, shape)| {
                let data = vec![index as u8; shape.iter().product::<usize>() * 4];
                Tensor::new(Datatype::Fp32, shape.into(), data.into()).expect("as long as it must be")
            });
            let outcome = if failed { Err(Fault::invalid("inputs[0].name", "unknown")) } else { Ok(outputs.collect()) };
            let at = Timestamp::from_nanos;
            let timing =
                ItemTiming { arrived: at(arrived), started: at(arrived + waited), finished: at(arrived + waited + took), batch_size };
            let window = window.map(|(index, start_sample, end_sample)| WindowPosition { index, start_sample, end_sample });
            ItemResult { seq, part: AnswerPart { number: part, last }, id, window, outcome, timing, age: Duration::from_nanos(waited + took) }
        }
    }

    fn signature() -> Arc<Signature> {
        let spec = |name: &str| TensorSpec { name: name.into(), datatype: Datatype::Fp32, dims: Vec::new(), batch_axis: Some(0) };
        let long = "n".repeat(200);
        Arc::new(Signature { outputs: ["", "y", &long].map(spec).to_vec(), ..Signature::default() })
    }

    /// The result in its generated form.
    fn expected_result(result: &ItemResult) -> v1::ItemResult {
        use v1::item_result::Outcome;
        let names = signature();
        let outcome = match &result.outcome {
            Err(fault) => Outcome::Error(item_status_of(fault)),
            Ok(outputs) => {
                let tensors = outputs.iter().zip(&names.outputs).map(|(tensor, spec)| v1::Tensor {
                    name: spec.name.to_string(),
                    datatype: v1::Datatype::Fp32.into(),
                    shape: tensor.shape().iter().map(|size| *size as i64).collect(),
                    data: tensor.data().clone(),
                });
                Outcome::Outputs(v1::Outputs { tensors: tensors.collect() })
            }
        };
        let timing = &result.timing;
        let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).expect("small");
        v1::ItemResult {
            seq: result.seq,
            id: result.id.clone(),
            window: result.window.map(|WindowPosition { index, start_sample, end_sample }| v1::WindowPosition {
                index,
                start_sample,
                end_sample,
            }),
            outcome: Some(outcome),
            timing: (timing.batch_size > 0).then(|| v1::Timing {
                queue_ns: nanos(timing.started.since(timing.arrived)),
                compute_ns: nanos(timing.finished.since(timing.started)),
                age_ns: nanos(result.age),
                batch_size: timing.batch_size,
            }),
            part: result.part.number,
            last: result.part.last,
        }
    }

    proptest! {
        #[test]
        fn items_are_read_as_their_generated_form_reads_them(item in item()) {
            let bytes = feed_request(item.clone()).encode_to_vec();
            prop_assert_eq!(item_of(read(&bytes)), Some(expected(item)));
        }

        #[test]
        fn broken_bytes_are_refused_where_the_generated_form_refuses_them(item in item(), at in any::<usize>(), byte in any::<u8>()) {
            let mut bytes = feed_request(item).encode_to_vec();
            let at = at % bytes.len();
            bytes[at] = byte;
            prop_assert_eq!(read(&bytes).is_some(), v1::FeedRequest::decode(&*bytes).is_ok());
            prop_assert_eq!(read(&bytes[..at]).is_some(), v1::FeedRequest::decode(&bytes[..at]).is_ok());
        }

        #[test]
        fn items_of_a_list_are_read_as_their_generated_form_reads_them(items in vec(item(), 0..5)) {
            let found = scanned(&scan_request_of(items.clone()), 5).expect("few");
            let expected: Vec<_> = items.into_iter().map(|item| Ok(expected(item))).collect();
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn responses_with_lists_are_written_as_their_generated_form_is(results in vec(result(), 0..4), errors in vec(result(), 0..2)) {
            let head = v1::UploadResponse { model: "m".to_owned(), version: "1".to_owned(), ..v1::UploadResponse::default() };
            let list = |results: &[ItemResult]| results.iter().map(expected_result).collect();
            let expected = v1::UploadResponse { results: list(&results), errors: list(&errors), ..head.clone() };
            let messages = |results: Vec<ItemResult>| results.into_iter().map(|result| ResultMessage::new(result, &signature())).collect::<Vec<_>>();
            let written = upload_response(&head, &messages(results), &messages(errors));
            prop_assert_eq!(written.len(), expected.encoded_len());
            prop_assert_eq!(v1::UploadResponse::decode(written), Ok(expected));
        }

        #[test]
        fn results_are_written_as_their_generated_form_is(result in result()) {
            let expected = v1::ScanResponse { event: Some(v1::scan_response::Event::Result(expected_result(&result))) };
            let message = ResultMessage::new(result, &signature());
            let written = ScanResponse { event: Some(scan_response::Event::Result(message)) };
            prop_assert_eq!(written.encoded_len(), expected.encoded_len());
            prop_assert_eq!(v1::ScanResponse::decode(&*written.encode_to_vec()), Ok(expected));
        }
    }
}
