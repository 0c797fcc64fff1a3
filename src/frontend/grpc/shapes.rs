//! Counts what a message holds, on the wire, before any of it is decoded.
//!
//! A member of a message can take two bytes on the wire and a hundred times as many in memory. So messages are walked over first, as
//! their descriptors say, and each kind of member is counted against its own limit. Anything that is not such a message is left for
//! the decoder to refuse: it stops at the same byte, having seen no more than was counted.
//!
//! ```text
//! ScanRequest ── items ──► ItemList ── items ──► Item ── inputs ──► Tensor ── shape: dimensions, name: text
//!                                       │         └── counted afresh for each Item, as one is decoded at a time; its dimensions
//!                                       │             are not, as its reader keeps no more than may be
//!                                       └── items
//! ```

use std::collections::HashMap;

use foldhash::fast::RandomState;
use prost::{
    DecodeError, Message as _,
    encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field},
};
use prost_types::{
    DescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet,
    field_descriptor_proto::{Label, Type},
};

use crate::{
    config::MessageConfig,
    domain::{Fault, FaultKind},
};

/// Messages of up to this many bytes hold less of anything than any limit allows, and are not walked over.
pub(super) const UNCOUNTED_BYTES_MAX: usize = 4 << 10;

/// How deep nested messages are walked into.
const DEPTH_MAX: usize = 8;

/// The one message that is decoded by itself, whatever holds it.
const ITEM: &str = ".tidemill.v1.Item";

/// The messages of all services, and which methods take which.
#[derive(Debug)]
pub(super) struct Shapes {
    methods: HashMap<String, MethodShape, RandomState>,
    messages: Vec<Shape>,
}

/// A method, as far as its requests go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MethodShape {
    /// Index of the message that it takes.
    pub(super) input: usize,
    pub(super) client_streams: bool,
    pub(super) server_streams: bool,
}

/// A message: what its fields are, by number.
#[derive(Debug, Default)]
struct Shape {
    fields: Vec<Field>,
    is_item: bool,
}

/// The kind of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Field {
    /// Not a field of this message, or a single number.
    #[default]
    Other,
    /// A string.
    Text,
    /// One of several strings.
    Texts,
    /// Bytes that occur once and cost nothing, as they are not copied.
    Bytes,
    /// One of several of these.
    ManyBytes,
    /// A message, by its index.
    Message(usize),
    /// Sizes of dimensions.
    Dimensions,
    /// Numbers of this many bytes each, 0 for varints.
    Numbers(u8),
}

impl Shapes {
    /// The messages of an encoded `FileDescriptorSet`.
    ///
    /// # Errors
    /// If it is not one.
    pub(super) fn new(descriptors: &[u8]) -> Result<Self, DecodeError> {
        let files = FileDescriptorSet::decode(descriptors)?.file;
        let mut names = HashMap::new();
        let mut found = Vec::new();
        for file in &files {
            for message in &file.message_type {
                collect(&format!("{}.{}", prefix(file), message.name()), message, &mut names, &mut found);
            }
        }
        let messages = found.iter().map(|(name, message)| shape(name, message, &names)).collect();
        let methods = files.iter().flat_map(|file| methods(file, &names)).collect();
        Ok(Self { methods, messages })
    }

    /// The method of this path, such as `/package.Service/Method`.
    pub(super) fn method(&self, path: &str) -> Option<MethodShape> {
        self.methods.get(path).copied()
    }

    /// Counts what a message of a method holds.
    ///
    /// # Errors
    /// [`FaultKind::TooLarge`] with the limit that it exceeds.
    pub(super) fn count(&self, input: usize, message: &[u8], limits: &MessageConfig) -> Result<(), Fault> {
        if message.len() <= UNCOUNTED_BYTES_MAX {
            return Ok(());
        }
        let mut counts = Counts { limits, items: 0, in_item: false, held: Held::default() };
        match self.walk(input, message, &mut counts, 0) {
            Ok(()) | Err(Stop::Broken) => Ok(()),
            Err(Stop::TooMany(fault)) => Err(fault),
        }
    }

    fn walk(&self, index: usize, mut message: &[u8], counts: &mut Counts<'_>, depth: usize) -> Result<(), Stop> {
        let Some(shape) = self.messages.get(index) else { return Ok(()) };
        let mut dimensions = 0;
        while !message.is_empty() {
            let (tag, wire_type) = decode_key(&mut message)?;
            let field = shape.fields.get(tag as usize).copied().unwrap_or_default();
            if wire_type != WireType::LengthDelimited {
                counts.number(field, 1, &mut dimensions)?;
                // A group has no length, so what is in it is counted as if it lay outside.
                if !matches!(wire_type, WireType::StartGroup | WireType::EndGroup) {
                    skip_field(wire_type, tag, &mut message, DecodeContext::default())?;
                }
                continue;
            }
            let length = usize::try_from(decode_varint(&mut message)?).map_err(|_| Stop::Broken)?;
            let (value, rest) = message.split_at_checked(length).ok_or(Stop::Broken)?;
            message = rest;
            match field {
                Field::Message(inner) if depth < DEPTH_MAX => {
                    let is_item = self.messages.get(inner).is_some_and(|shape| shape.is_item);
                    let outside = counts.enter(is_item)?;
                    self.walk(inner, value, counts, depth + 1)?;
                    counts.leave(outside);
                }
                Field::Message(_) | Field::Other => counts.members(1)?,
                Field::Text | Field::Texts => counts.text(field == Field::Texts, length)?,
                Field::Bytes => counts.members(1)?,
                Field::ManyBytes => counts.strings(1)?,
                Field::Dimensions | Field::Numbers(_) => counts.number(field, numbers(field, value, counts), &mut dimensions)?,
            }
        }
        Ok(())
    }
}

/// How many numbers a packed field holds; if more than can ever be allowed, some number above that.
fn numbers(field: Field, packed: &[u8], counts: &Counts<'_>) -> usize {
    let bytes = match field {
        Field::Numbers(bytes) => usize::from(bytes),
        _ => 0,
    };
    if bytes > 0 {
        return packed.len().div_ceil(bytes);
    }
    // A varint has at most ten bytes, and only the last is below 128.
    let enough = counts.most(field).saturating_add(1).saturating_mul(10);
    packed[..packed.len().min(enough)].iter().filter(|byte| **byte < 0x80).count()
}

/// Why the walk ends before the message does.
enum Stop {
    /// It is not a message.
    Broken,
    TooMany(Fault),
}

impl From<DecodeError> for Stop {
    fn from(_: DecodeError) -> Self {
        Self::Broken
    }
}

struct Counts<'a> {
    limits: &'a MessageConfig,
    items: usize,
    /// Whether what is counted belongs to an item.
    in_item: bool,
    held: Held,
}

/// The contents of a message, or of one item of several.
#[derive(Debug, Clone, Copy, Default)]
struct Held {
    members: usize,
    strings: usize,
    elements: usize,
}

impl Counts<'_> {
    /// Goes into a member; returns what to continue with after it.
    fn enter(&mut self, is_item: bool) -> Result<Option<Held>, Stop> {
        if !is_item {
            self.members(1)?;
            return Ok(None);
        }
        self.items += 1;
        if self.items > self.limits.max_items {
            return Err(too_many("items", "message.max_items", self.limits.max_items));
        }
        self.in_item = true;
        Ok(Some(std::mem::take(&mut self.held)))
    }

    fn leave(&mut self, outside: Option<Held>) {
        if let Some(held) = outside {
            self.in_item = false;
            self.held = held;
        }
    }

    fn members(&mut self, count: usize) -> Result<(), Stop> {
        self.held.members += count;
        if self.held.members > self.limits.max_members {
            return Err(too_many("tensors, parameters and other members", "message.max_members", self.limits.max_members));
        }
        Ok(())
    }

    fn strings(&mut self, count: usize) -> Result<(), Stop> {
        self.held.strings += count;
        if self.held.strings > self.limits.max_strings {
            return Err(too_many("strings in its lists", "message.max_strings", self.limits.max_strings));
        }
        Ok(())
    }

    fn text(&mut self, is_one_of_many: bool, bytes: usize) -> Result<(), Stop> {
        let limit = self.limits.max_text_bytes;
        if bytes > limit {
            let message = format!(
                "the message has a name, an id or another text of {bytes} bytes, more than the {limit} that message.max_text_bytes allows"
            );
            return Err(Stop::TooMany(
                Fault::new(FaultKind::TooLarge, message).with_limit("message.max_text_bytes", limit as u64),
            ));
        }
        if is_one_of_many { self.strings(1) } else { self.members(1) }
    }

    /// Numbers of a field; `dimensions` are those of its message so far.
    fn number(&mut self, field: Field, count: usize, dimensions: &mut usize) -> Result<(), Stop> {
        let limits = self.limits;
        match field {
            // An item is read with its own limit, and one that exceeds it is answered by itself.
            Field::Dimensions if self.in_item => Ok(()),
            Field::Dimensions => {
                *dimensions += count;
                if *dimensions > limits.max_dims {
                    return Err(too_many("dimensions in one shape", "message.max_dims", limits.max_dims));
                }
                Ok(())
            }
            Field::Numbers(_) => {
                self.held.elements += count;
                if self.held.elements > limits.max_elements {
                    return Err(too_many("numbers in its lists", "message.max_elements", limits.max_elements));
                }
                Ok(())
            }
            _ => self.members(count),
        }
    }

    const fn most(&self, field: Field) -> usize {
        match field {
            Field::Dimensions => self.limits.max_dims,
            _ => self.limits.max_elements,
        }
    }
}

fn too_many(what: &str, key: &'static str, limit: usize) -> Stop {
    let message = format!("the message has more than {limit} {what}, which {key} does not allow; send it in several messages");
    Stop::TooMany(Fault::new(FaultKind::TooLarge, message).with_limit(key, limit as u64))
}

fn prefix(file: &FileDescriptorProto) -> String {
    if file.package().is_empty() { String::new() } else { format!(".{}", file.package()) }
}

fn collect<'a>(
    name: &str,
    message: &'a DescriptorProto,
    names: &mut HashMap<String, usize>,
    found: &mut Vec<(String, &'a DescriptorProto)>,
) {
    names.insert(name.to_owned(), found.len());
    found.push((name.to_owned(), message));
    for nested in &message.nested_type {
        collect(&format!("{name}.{}", nested.name()), nested, names, found);
    }
}

fn shape(name: &str, message: &DescriptorProto, names: &HashMap<String, usize>) -> Shape {
    let mut fields = Vec::new();
    for descriptor in &message.field {
        // No message here numbers its fields with large gaps.
        let Ok(number @ 0..=1_000) = usize::try_from(descriptor.number()) else { continue };
        if fields.len() <= number {
            fields.resize(number + 1, Field::Other);
        }
        fields[number] = field(descriptor, names);
    }
    Shape { fields, is_item: name == ITEM }
}

fn field(descriptor: &FieldDescriptorProto, names: &HashMap<String, usize>) -> Field {
    let is_repeated = descriptor.label() == Label::Repeated;
    let of_bytes = |bytes| if is_repeated { Field::Numbers(bytes) } else { Field::Other };
    match descriptor.r#type() {
        Type::String if is_repeated => Field::Texts,
        Type::String => Field::Text,
        Type::Bytes if is_repeated => Field::ManyBytes,
        Type::Bytes => Field::Bytes,
        Type::Message | Type::Group => names.get(descriptor.type_name()).map_or(Field::Other, |index| Field::Message(*index)),
        _ if is_repeated && descriptor.name() == "shape" => Field::Dimensions,
        Type::Double | Type::Fixed64 | Type::Sfixed64 => of_bytes(8),
        Type::Float | Type::Fixed32 | Type::Sfixed32 => of_bytes(4),
        Type::Bool | Type::Enum | Type::Int32 | Type::Int64 | Type::Uint32 | Type::Uint64 | Type::Sint32 | Type::Sint64 => {
            of_bytes(0)
        }
    }
}

fn methods<'a>(
    file: &'a FileDescriptorProto,
    names: &'a HashMap<String, usize>,
) -> impl Iterator<Item = (String, MethodShape)> + 'a {
    file.service.iter().flat_map(move |service| {
        let path = format!("/{}.{}/", file.package(), service.name());
        service.method.iter().filter_map(move |method| {
            let shape = MethodShape {
                input: *names.get(method.input_type())?,
                client_streams: method.client_streaming(),
                server_streams: method.server_streaming(),
            };
            Some((format!("{path}{}", method.name()), shape))
        })
    })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::{collection::vec, prelude::*};
    use prost::Message;

    use super::*;
    use crate::proto::{
        DESCRIPTORS,
        inference::{InferParameter, InferTensorContents, ModelInferRequest, model_infer_request::InferInputTensor},
        model,
        v1::{FeedRequest, Item, ItemList, PredictRequest, ScanRequest, Tensor, feed_request, predict_request, scan_request},
    };

    const SCAN: &str = "/tidemill.v1.InferenceService/Scan";
    const PREDICT: &str = "/tidemill.v1.InferenceService/Predict";
    const FEED: &str = "/tidemill.v1.InferenceService/Feed";
    const INFER: &str = "/inference.GRPCInferenceService/ModelInfer";

    fn shapes() -> Shapes {
        Shapes::new(DESCRIPTORS).expect("our own descriptors")
    }

    fn limits() -> MessageConfig {
        MessageConfig {
            max_items: 1_100,
            max_members: 1_200,
            max_dims: 8,
            max_strings: 1_300,
            max_elements: 5_000,
            max_text_bytes: 5_000,
            ..MessageConfig::default()
        }
    }

    /// The limit that a message runs into.
    fn refused(path: &str, message: &impl Message) -> Option<&'static str> {
        let shapes = shapes();
        let method = shapes.method(path).expect("a method");
        let fault = shapes.count(method.input, &message.encode_to_vec(), &limits()).err()?;
        assert_eq!(fault.kind(), FaultKind::TooLarge);
        let name = fault.limit().expect("a limit").name;
        assert!(fault.message().contains(name), "{fault}");
        Some(name)
    }

    fn scan(items: Vec<Item>) -> ScanRequest {
        ScanRequest { config: None, payload: Some(scan_request::Payload::Items(ItemList { items })) }
    }

    fn tensor(dims: usize) -> Tensor {
        Tensor { name: "x".to_owned(), shape: vec![1; dims], data: Bytes::from(vec![0; 5_000]), ..Tensor::default() }
    }

    fn predict(inputs: Vec<Tensor>) -> PredictRequest {
        let item = Item { inputs, ..Item::default() };
        PredictRequest { payload: Some(predict_request::Payload::Item(item)), ..PredictRequest::default() }
    }

    fn infer(input: InferInputTensor) -> ModelInferRequest {
        ModelInferRequest { inputs: vec![input], raw_input_contents: vec![vec![0; 5_000].into()], ..ModelInferRequest::default() }
    }

    #[test]
    fn methods_say_whether_their_clients_stream() {
        let shapes = shapes();
        let streams = |path| shapes.method(path).map(|method| (method.client_streams, method.server_streams));
        assert_eq!(streams(SCAN), Some((false, true)));
        assert_eq!(streams(FEED), Some((true, true)));
        assert_eq!(streams(INFER), Some((false, false)));
        assert_eq!(streams("/grpc.health.v1.Health/Watch"), Some((false, true)));
        assert_eq!(streams("/nothing.Here/Method"), None);
    }

    #[test]
    fn items_are_counted_and_what_is_in_them_is_counted_for_each() {
        let item = || Item { inputs: vec![Tensor::default(); 2], ..Item::default() };
        assert_eq!(refused(SCAN, &scan(vec![item(); 1_100])), None, "2,200 tensors, two at a time");
        assert_eq!(refused(SCAN, &scan(vec![item(); 1_101])), Some("message.max_items"));
        assert_eq!(refused(SCAN, &scan(vec![Item::default(); 5_000])), Some("message.max_items"));
        let crowded = Item { inputs: vec![Tensor::default(); 3_000], ..Item::default() };
        assert_eq!(refused(SCAN, &scan(vec![item(), crowded])), Some("message.max_members"));
    }

    #[test]
    fn tensors_dimensions_and_texts_have_limits_of_their_own() {
        assert_eq!(refused(PREDICT, &predict(vec![Tensor::default(); 3_000])), Some("message.max_members"));
        let shaped = |dims: &[usize]| {
            let inputs = dims.iter().map(|dims| InferInputTensor { shape: vec![1; *dims], ..InferInputTensor::default() });
            ModelInferRequest { inputs: inputs.collect(), ..infer(InferInputTensor::default()) }
        };
        assert_eq!(refused(INFER, &shaped(&[8, 8])), None, "each has its own dimensions");
        assert_eq!(refused(INFER, &shaped(&[9])), Some("message.max_dims"));
        assert_eq!(refused(INFER, &shaped(&[8, 5_000])), Some("message.max_dims"));
        assert_eq!(refused(PREDICT, &predict(vec![tensor(5_000)])), None, "the item alone is refused");
        let named = |bytes| Tensor { name: "n".repeat(bytes), ..Tensor::default() };
        assert_eq!(refused(PREDICT, &predict(vec![named(5_000)])), None);
        assert_eq!(refused(PREDICT, &predict(vec![named(5_001)])), Some("message.max_text_bytes"));
        let unnamed = PredictRequest { model: "m".repeat(5_001), ..PredictRequest::default() };
        assert_eq!(refused(PREDICT, &unnamed), Some("message.max_text_bytes"));
    }

    #[test]
    fn typed_contents_are_counted_by_element() {
        let input = |contents| infer(InferInputTensor { contents: Some(contents), ..InferInputTensor::default() });
        let numbers = |count| InferTensorContents { bool_contents: vec![true; count], ..InferTensorContents::default() };
        assert_eq!(refused(INFER, &input(numbers(5_000))), None);
        assert_eq!(refused(INFER, &input(numbers(5_001))), Some("message.max_elements"));
        let singles = InferTensorContents { fp32_contents: vec![0.0; 5_001], ..InferTensorContents::default() };
        assert_eq!(refused(INFER, &input(singles)), Some("message.max_elements"));
        let long = InferTensorContents { int64_contents: vec![-1; 4_999], ..InferTensorContents::default() };
        assert_eq!(refused(INFER, &input(long)), None, "of ten bytes each");
        let strings = |count| InferTensorContents { bytes_contents: vec![Bytes::new(); count], ..InferTensorContents::default() };
        assert_eq!(refused(INFER, &input(strings(1_299))), None, "with the raw contents, as many as are allowed");
        assert_eq!(refused(INFER, &input(strings(1_300))), Some("message.max_strings"));
        assert_eq!(refused(INFER, &input(strings(3_000))), Some("message.max_strings"));
        let mut parameters = infer(InferInputTensor::default());
        parameters.parameters = (0..1_300).map(|number| (number.to_string(), InferParameter::default())).collect();
        assert_eq!(refused(INFER, &parameters), Some("message.max_members"));
        let doubles = model::PredictRequest { model_id: String::new(), inputs: vec![0.0; 5_001] };
        assert_eq!(refused("/model.ModelInference/Predict", &doubles), Some("message.max_elements"));
    }

    #[test]
    fn data_cost_nothing_however_long() {
        let chunk = FeedRequest { message: Some(feed_request::Message::Chunk(vec![0; 1 << 20].into())) };
        assert_eq!(refused(FEED, &chunk), None);
        assert_eq!(refused(PREDICT, &predict(vec![tensor(2); 100])), None);
    }

    #[test]
    fn fields_that_are_sent_again_and_again_or_belong_to_nobody_are_counted() {
        let shapes = shapes();
        let input = shapes.method(PREDICT).expect("a method").input;
        let refused = |field: &[u8]| {
            shapes.count(input, &field.repeat(3_000), &limits()).map_err(|fault| fault.limit().map(|limit| limit.name))
        };
        // `priority` = 0; field 100 as a varint, as bytes, and as the beginning of a group.
        for field in [&[0x28, 0][..], &[0xa0, 0x06, 0], &[0xa2, 0x06, 0], &[0xa3, 0x06]] {
            assert_eq!(refused(field), Err(Some("message.max_members")), "{field:?}");
        }
    }

    #[test]
    fn what_is_broken_is_left_to_the_decoder() {
        let shapes = shapes();
        let input = shapes.method(SCAN).expect("a method").input;
        for broken in [&[0xff_u8; 5_000][..], &[&[0x12, 0xff, 0xff, 0xff, 0xff, 0x0f][..], &[0; 5_000]].concat()] {
            shapes.count(input, broken, &limits()).expect("not too much of anything");
            ScanRequest::decode(broken).expect_err("no message");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in vec(any::<u8>(), 4_097..6_000), small in vec(0_u8..40, 4_097..6_000)) {
            let shapes = shapes();
            for input in 0..shapes.messages.len() {
                for message in [&bytes, &small] {
                    let _ = shapes.count(input, message, &limits());
                }
            }
        }

        /// Everything that is decoded has been counted.
        #[test]
        fn no_more_is_decoded_than_was_counted(pairs in vec((0_u8..64, 0_u8..4), 2_100..3_000)) {
            let bytes: Vec<u8> = pairs.into_iter().flat_map(|(key, value)| [key, value]).collect();
            let shapes = shapes();
            let input = shapes.method(INFER).expect("a method").input;
            if shapes.count(input, &bytes, &limits()).is_ok()
                && let Ok(request) = ModelInferRequest::decode(&*bytes)
            {
                prop_assert!(request.inputs.len() + request.outputs.len() + request.parameters.len() <= limits().max_members);
                prop_assert!(request.raw_input_contents.len() <= limits().max_strings);
            }
        }
    }
}
