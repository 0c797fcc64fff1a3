//! What is read from JSON, compared with what is read from protobuf.

use proptest::{collection::vec, option, prelude::*, sample::select};
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};

use super::*;
use crate::proto::DESCRIPTORS;

fn schema() -> &'static DescriptorPool {
    static POOL: std::sync::LazyLock<DescriptorPool> =
        std::sync::LazyLock::new(|| DescriptorPool::decode(DESCRIPTORS).expect("sound descriptors"));
    &POOL
}

/// The message in JSON, as another library writes it.
fn to_json(request: &v1::FeedRequest, options: &SerializeOptions) -> String {
    let descriptor = schema().get_message_by_name("tidemill.v1.FeedRequest").expect("it is there");
    let message = DynamicMessage::decode(descriptor, &*request.encode_to_vec()).expect("sound");
    let mut bytes = Vec::new();
    message.serialize_with_options(&mut serde_json::Serializer::new(&mut bytes), options).expect("into memory");
    String::from_utf8(bytes).expect("text")
}

fn duration() -> impl Strategy<Value = prost_types::Duration> {
    (0_i64..400_000_000, select(vec![0, 1, 500_000_000, 999_999_999]))
        .prop_map(|(seconds, nanos)| prost_types::Duration { seconds, nanos })
}

prop_compose! {
    fn config()(
        (model, version) in ("[a-zé\"]{0,4}", "[0-9]{0,2}"),
        (payload, order, overflow, unread, priority, audio_format) in (0_i32..4, 0_i32..4, 0_i32..5, 0_i32..6, 0_i32..5, 0_i32..6),
        (window_items, sample_rate_hz) in (any::<u32>(), any::<u32>()),
        default_deadline in option::of(duration()),
        max_age in option::of(duration()),
        accept_container_bytes in any::<bool>(),
    ) -> v1::StreamConfig {
        v1::StreamConfig {
            model, version, payload, order, window_items, default_deadline, overflow, max_age, unread, priority, sample_rate_hz,
            audio_format, accept_container_bytes,
        }
    }
}

prop_compose! {
    fn item()(
        id in "[a-zé]{0,4}",
        inputs in vec(("[a-z]{0,3}", 0_i32..16, vec(any::<i64>(), 0..4), vec(any::<u8>(), 0..40)), 0..4),
        deadline in option::of(duration()),
    ) -> v1::Item {
        let tensor = |(name, datatype, shape, data): (String, i32, Vec<i64>, Vec<u8>)| {
            v1::Tensor { name, datatype, shape, data: data.into() }
        };
        v1::Item { id, inputs: inputs.into_iter().map(tensor).collect(), deadline }
    }
}

fn message() -> impl Strategy<Value = v1::feed_request::Message> {
    use v1::feed_request::Message;
    prop_oneof![
        config().prop_map(Message::Open),
        item().prop_map(Message::Item),
        vec(any::<u8>(), 0..50).prop_map(|chunk| Message::Chunk(chunk.into())),
        "[a-z]{0,3}".prop_map(|id| Message::Flush(v1::Flush { id })),
        Just(Message::Keepalive(v1::KeepAlive {})),
        Just(Message::Finish(v1::Finish {})),
    ]
}

proptest! {
    #[test]
    fn json_says_what_protobuf_says(message in message(), proto_names in any::<bool>(), defaults in any::<bool>(), text in any::<bool>()) {
        let request = v1::FeedRequest { message: Some(message) };
        let options = SerializeOptions::new()
            .use_proto_field_name(proto_names)
            .skip_default_fields(!defaults)
            .stringify_64_bit_integers(text);
        let json = to_json(&request, &options);
        prop_assert_eq!(from_json(&json), from_proto(request.encode_to_vec().into()), "{}", json);
    }

    #[test]
    fn no_text_panics(text in "\\PC{0,60}") {
        let _ = from_json(&text);
    }

    #[test]
    fn no_json_panics(
        field in select(vec!["open", "item", "chunk", "flush", "keepalive", "finish"]),
        inner in select(vec!["model", "inputs", "deadline", "windowItems", "payload", "id", "shape"]),
        value in select(vec!["null", "1", "-1.5", "1e400", "\"\"", "\"1s\"", "[]", "[[]]", "{}", "[{\"shape\":[\"x\"]}]", "true", "\"ü\""]),
    ) {
        let _ = from_json(&format!("{{\"{field}\":{value}}}"));
        let _ = from_json(&format!("{{\"{field}\":{{\"{inner}\":{value}}}}}"));
    }

    #[test]
    fn no_bytes_panic(bytes in vec(any::<u8>(), 0..60)) {
        let _ = from_proto(bytes.into());
    }
}

fn chunk(json: &str) -> Vec<u8> {
    match from_json(json) {
        Ok(Said::More(Some(Inbound::Chunk(chunk)))) => chunk.to_vec(),
        other => panic!("not a chunk: {other:?}"),
    }
}

#[test]
fn bytes_have_two_alphabets_and_need_no_padding() {
    for text in ["+/8=", "-_8=", "+/8", "-_8", "\\u002b/8="] {
        assert_eq!(chunk(&format!("{{\"chunk\":\"{text}\"}}")), [0xfb, 0xff], "{text}");
    }
    assert_eq!(chunk("{\"chunk\":\"\",\"open\":null}"), Vec::<u8>::new());
}

#[test]
fn what_is_no_request_says_what_is_wrong() {
    for (json, says) in [
        ("", "EOF"),
        ("[]", "expected"),
        ("{}", "empty"),
        ("{\"open\":null}", "empty"),
        ("{\"opened\":{}}", "opened"),
        ("{\"open\":{\"window\":1}}", "window"),
        ("{\"open\":{\"payload\":\"PCM\"}}", "PayloadKind"),
        ("{\"open\":{\"windowItems\":-1}}", "-1"),
        ("{\"open\":{\"windowItems\":1.5}}", "1.5"),
        ("{\"open\":{\"maxAge\":\"soon\"}}", "soon"),
        ("{\"open\":{\"windowItems\":1,\"window_items\":1}}", "duplicate"),
        ("{\"chunk\":\"*\"}", "base64"),
        ("{\"chunk\":\"\",\"keepalive\":{}}", "more than one thing"),
        ("{\"keepalive\":{\"id\":1}}", "id"),
        ("{\"keepalive\":{}} x", "trailing"),
    ] {
        let fault = from_json(json).expect_err("no request");
        assert!(fault.message().contains(says), "{json}: {fault}");
        assert_eq!(fault.field(), Some("message"), "{json}");
    }
    assert_eq!(
        from_json(&format!("{{\"flush\":{{\"id\":\"{}\"}}}}", "i".repeat(257))).expect_err("long").field(),
        Some("flush.id")
    );
}

#[test]
fn what_is_wrong_with_an_item_is_its_answer() {
    let tensors = |json: &str| match from_json(json) {
        Ok(Said::More(Some(Inbound::Item(item)))) => item.tensors,
        other => panic!("not an item: {other:?}"),
    };
    let many = |count| format!("{{\"item\":{{\"inputs\":[{}]}}}}", vec!["{}"; count].join(","));
    assert_eq!(tensors(&many(TENSORS_MAX)).expect("as many as may be").len(), TENSORS_MAX);
    assert_eq!(tensors(&many(TENSORS_MAX + 1)).expect_err("one more").field(), Some("inputs"));
    let dims = |count| format!("{{\"item\":{{\"inputs\":[{{\"shape\":[{}]}}]}}}}", vec!["\"1\""; count].join(","));
    assert_eq!(tensors(&dims(DIMS_MAX)).expect("as many as may be")[0].shape.len(), DIMS_MAX);
    assert_eq!(tensors(&dims(DIMS_MAX + 1)).expect_err("one more").field(), Some("inputs[0].shape"));
    assert_eq!(tensors("{\"item\":{\"deadline\":\"-1s\"}}").expect_err("negative").field(), Some("deadline"));
    assert_eq!(tensors("{\"item\":{\"inputs\":[{\"datatype\":99}]}}").expect_err("none").field(), Some("inputs[0].datatype"));
}
