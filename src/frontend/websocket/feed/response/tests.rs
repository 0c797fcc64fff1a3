//! What is written in JSON, compared with how another library writes the same message.

use std::time::Duration;

use proptest::{collection::vec, option, prelude::*};
use prost_reflect::{DescriptorPool, DynamicMessage};
use serde_json::Value;

use super::*;
use crate::{
    codec,
    domain::{AnswerPart, Datatype, ItemTiming, Timestamp},
    proto::DESCRIPTORS,
    session,
};

const RATE: u32 = 16_000;

fn schema() -> &'static DescriptorPool {
    static POOL: std::sync::LazyLock<DescriptorPool> =
        std::sync::LazyLock::new(|| DescriptorPool::decode(DESCRIPTORS).expect("sound descriptors"));
    &POOL
}

/// The message in JSON, as another library writes it.
fn canonical(message: &wire::FeedResponse) -> Value {
    let descriptor = schema().get_message_by_name("tidemill.v1.FeedResponse").expect("it is there");
    let message = DynamicMessage::decode(descriptor, &*message.encode_to_vec()).expect("sound");
    serde_json::to_value(message).expect("into memory")
}

fn signature() -> std::sync::Arc<Signature> {
    let spec = |name: &str| TensorSpec { name: name.into(), datatype: Datatype::Fp32, dims: Vec::new(), batch_axis: Some(0) };
    std::sync::Arc::new(Signature { outputs: ["", "y", "é\"\n"].map(spec).to_vec(), ..Signature::default() })
}

fn fault() -> impl Strategy<Value = Fault> {
    let kind = proptest::sample::select(FaultKind::ALL.to_vec());
    (kind, "[a-zé\"]{0,9}", option::of("[a-z]{0,5}"), any::<bool>(), option::of(0_u64..100_000)).prop_map(
        |(kind, message, field, limit, retry)| {
            let fault = Fault::new(kind, message);
            let fault = field.into_iter().fold(fault, Fault::with_field);
            let fault = if limit { fault.with_limit("session.max_streams", 7) } else { fault };
            retry.into_iter().fold(fault, |fault, millis| fault.with_retry_after(Duration::from_millis(millis)))
        },
    )
}

prop_compose! {
    fn result()(
        seq in any::<u64>(),
        id in "[a-zé]{0,9}",
        window in option::of((0_u64..3, any::<u64>(), any::<u64>())),
        outputs in vec(vec(0_usize..4, 0..4), 0..4),
        fault in option::of(fault()),
        (waited, took, batch_size) in (0_u64..1 << 40, 0_u64..1 << 40, 0_u32..3),
        (part, last) in (0_u32..3, any::<bool>()),
    ) -> Event {
        let outputs = outputs.into_iter().enumerate().map(|(index, shape)| {
            let data = vec![index as u8; shape.iter().product::<usize>() * 4];
            Tensor::new(Datatype::Fp32, shape.into(), data.into()).expect("as long as it must be")
        });
        let at = Timestamp::from_nanos;
        Event::Result(ItemResult {
            seq,
            part: AnswerPart { number: part, last },
            id,
            window: window.map(|(index, start_sample, end_sample)| WindowPosition { index, start_sample, end_sample }),
            outcome: fault.map_or_else(|| Ok(outputs.collect()), Err),
            timing: ItemTiming { arrived: at(1), started: at(1 + waited), finished: at(1 + waited + took), batch_size },
            age: Duration::from_nanos(waited),
        })
    }
}

fn any_event() -> impl Strategy<Value = Event> {
    let number = || prop_oneof![Just(0), any::<u64>()];
    prop_oneof![
        result(),
        (number(), 0_u64..1 << 40).prop_map(|(index, start_sample)| Event::SegmentStarted { index, start_sample }),
        (number(), 0_u64..1 << 40, 0_u64..1 << 40).prop_map(|(index, start_sample, end_sample)| Event::Segment(codec::Segment {
            index,
            start_sample,
            end_sample
        })),
        (number(), number()).prop_map(|(first_seq, results)| Event::Skipped { first_seq, results }),
        ("[a-z]{0,3}", number()).prop_map(|(id, items)| Event::Flushed { id, items }),
        (0_u64..1 << 40).prop_map(|nanos| Event::ReconnectAdvised { remaining: Duration::from_nanos(nanos) }),
        (number(), number(), number(), 0_u64..1 << 40).prop_map(|(items, ok, samples, nanos)| Event::Completed(
            session::Summary { items, ok, samples, elapsed: Duration::from_nanos(nanos), ..session::Summary::default() }
        )),
    ]
}

/// The same event in its generated form.
fn message(event: Event) -> wire::FeedResponse {
    feed::response_of(event, &signature(), RATE)
}

proptest! {
    #[test]
    fn events_are_written_as_another_library_writes_them(event in any_event()) {
        let written = serde_json::to_value(said(&event, &signature(), RATE)).expect("into memory");
        prop_assert_eq!(written, canonical(&message(event)));
    }

    #[test]
    fn so_is_the_first_message(
        (model, version) in ("[a-zé]{0,4}", "[0-9]{0,2}"),
        limits in option::of((any::<u32>(), any::<u64>(), 0_u64..2, 0_u64..2, option::of(0_u64..1 << 40))),
        framing in option::of((any::<u32>(), 0_u32..2, 0_u32..2)),
    ) {
        let limits = limits.map(|(window_items, window_bytes, max_item_bytes, max_message_bytes, idle)| v1::StreamLimits {
            window_items,
            window_bytes,
            max_item_bytes,
            max_message_bytes,
            idle_timeout: idle.map(|nanos| duration_to_wire(Duration::from_nanos(nanos))),
        });
        let framing = framing.map(|(sample_rate_hz, window_samples, context_samples)| v1::Framing { sample_rate_hz, window_samples, context_samples });
        let opened = v1::Opened { model, version, limits, framing };
        let written = serde_json::to_value(Said::Opened(Opened(&opened))).expect("into memory");
        let message = wire::FeedResponse { event: Some(wire::feed_response::Event::Opened(opened)) };
        prop_assert_eq!(written, canonical(&message));
    }
}

#[test]
fn a_fault_is_the_last_message_in_json_and_the_close_alone_in_protobuf() {
    let fault = Fault::invalid("open", "wrong");
    let Some(Frame::Text(text)) = error(&fault, Form::Json) else { panic!("no message") };
    assert_eq!(
        serde_json::from_str::<Value>(&text).expect("JSON"),
        serde_json::json!({ "error": { "code": 3, "message": "wrong", "details": [
            { "@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "INVALID", "domain": "tidemill" },
            { "@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": [{ "field": "open", "description": "wrong" }] },
        ] } })
    );
    assert_eq!(error(&fault, Form::Proto), None);
}

#[test]
fn each_kind_has_the_name_of_its_code() {
    for kind in FaultKind::ALL {
        let name = format!("{:?}", code(kind));
        let screaming: String = name
            .char_indices()
            .flat_map(|(at, letter)| [(at > 0 && letter.is_uppercase()).then_some('_'), Some(letter.to_ascii_uppercase())])
            .flatten()
            .collect();
        let screaming = if screaming == "CANCELED" { "CANCELLED".to_owned() } else { screaming };
        assert_eq!(code_name(kind), screaming);
    }
}
