//! A request's body as an [`InferRequest`].
//!
//! ```text
//! ┌──────────────── body ────────────────┐
//! │ JSON             │ input 0 │ input 2 │   inputs 1 and 3 have their elements in the JSON
//! └──────────────────┴─────────┴─────────┘
//!  ◄─ Inference-Header-Content-Length ─►
//! ```
//! Binary parts stay slices of the body. Elements in the JSON are located first and read later, once the datatype is known,
//! wherever in the object that is.

use std::{borrow::Cow, collections::BTreeMap, fmt};

use bytes::Bytes;
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{
    from_json::{self, Layout},
    limited::Limited,
};
use crate::{
    domain::{Datatype, Fault},
    open_inference::{InferRequest, InputTensor, Parameter, Parameters, RequestedOutput},
};

/// Says where the JSON ends and the binary parts begin.
pub(super) const HEADER_LENGTH: &str = "inference-header-content-length";

/// Parameters of a request, an input or an output; each costs far more memory than its text.
const PARAMETERS_MAX: usize = 256;
/// Inputs of a request, and outputs that it names; a model has a few.
const TENSORS_MAX: usize = 1_024;
/// Dimensions of an input.
const DIMS_MAX: usize = 64;

/// Parameter of a request: all outputs as binary data.
const BINARY_OUTPUTS: &str = "binary_data_output";
/// Parameter of an output: this one as binary data, or not.
const BINARY_OUTPUT: &str = "binary_data";
/// Parameter of an input: how many bytes of the binary part are its own.
const BINARY_SIZE: &str = "binary_data_size";

/// A request, and the form in which its outputs are wanted.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Decoded {
    pub(super) request: InferRequest,
    pub(super) binary: BinaryOutputs,
}

/// Which outputs are wanted as binary data.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct BinaryOutputs {
    /// Those that are not named here.
    pub(super) all: bool,
    pub(super) named: BTreeMap<String, bool>,
}

impl BinaryOutputs {
    pub(super) fn wants(&self, name: &str) -> bool {
        self.named.get(name).copied().unwrap_or(self.all)
    }
}

/// For messages: what is missing if nothing says where the JSON ends.
const HEADER_LENGTH_HINT: &str =
    "the header Inference-Header-Content-Length, which says how many bytes of the body are JSON, is missing";

/// Decodes a body whose first `json_length` bytes are JSON; all of it if there is no such number. Model and version are left
/// empty: they are in the path.
///
/// # Errors
/// [`FaultKind::Invalid`](crate::domain::FaultKind::Invalid) with the field at fault.
pub(super) fn decode(body: &Bytes, json_length: Option<usize>) -> Result<Decoded, Fault> {
    let has_length = json_length.is_some();
    let json_length = json_length.unwrap_or(body.len());
    if json_length > body.len() {
        let message = format!("{HEADER_LENGTH} is {json_length}, but the body has {} bytes", body.len());
        return Err(Fault::invalid(HEADER_LENGTH, message));
    }
    let json: RequestJson<'_> = parse(&body[..json_length]).map_err(|fault| {
        // A client that sends bytes after the JSON says so in the JSON.
        let follows = fault.message().contains(TRAILING) && says(body, BINARY_SIZE);
        if has_length || !follows {
            fault
        } else {
            Fault::invalid(HEADER_LENGTH, format!("an input has {BINARY_SIZE}, but {HEADER_LENGTH_HINT}"))
        }
    })?;
    let RequestJson { id, parameters, inputs, outputs } = json;
    let mut parameters = parameters.unwrap_or_default().0;
    let mut binary = BinaryOutputs {
        all: take_flag(&mut parameters, BINARY_OUTPUTS, "parameters")?.unwrap_or_default(),
        named: BTreeMap::new(),
    };
    let mut rest = body.slice(json_length..);
    let inputs: Vec<InputTensor> = inputs
        .0
        .into_iter()
        .enumerate()
        .map(|(position, input)| input_tensor(position, input, &mut rest, has_length))
        .collect::<Result<_, _>>()?;
    if !rest.is_empty() {
        let message = format!(
            "{} bytes follow what the inputs' binary_data_size and {HEADER_LENGTH} account for; the body has {} bytes",
            rest.len(),
            body.len()
        );
        return Err(Fault::invalid("body", message));
    }
    let Limited(outputs) = outputs.unwrap_or_default();
    let mut wanted = Vec::with_capacity(outputs.len());
    for (position, OutputJson { name, parameters }) in outputs.into_iter().enumerate() {
        let mut parameters = parameters.unwrap_or_default().0;
        if let Some(is_binary) = take_flag(&mut parameters, BINARY_OUTPUT, &format!("outputs[{position}].parameters"))? {
            binary.named.insert(name.clone(), is_binary);
        }
        wanted.push(RequestedOutput { name, parameters });
    }
    let id = id.unwrap_or_default();
    let request = InferRequest { id, parameters, inputs, outputs: wanted, ..InferRequest::default() };
    Ok(Decoded { request, binary })
}

/// Reads JSON; an error says where it is broken.
///
/// # Errors
/// [`FaultKind::Invalid`](crate::domain::FaultKind::Invalid).
pub(super) fn parse<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Result<T, Fault> {
    serde_json::from_slice(json).map_err(|error| {
        if let Some(cause) = no_json(json) {
            return Fault::invalid("body", format!("the request is not the JSON that is expected here: {cause}"));
        }
        let hint = if error.is_syntax() && (says(json, "NaN") || says(json, "Infinity")) {
            "; JSON has neither NaN nor Infinity: send such a tensor as binary data (binary_data_size)"
        } else {
            ""
        };
        Fault::invalid("body", format!("the request is not the JSON that is expected here: {error}{hint}"))
    })
}

/// How serde_json's message begins if there is more than one value.
const TRAILING: &str = "trailing characters";

fn says(text: &[u8], word: &str) -> bool {
    text.windows(word.len()).any(|found| found == word.as_bytes())
}

/// What a body that is not JSON seems to be, from its first bytes.
fn no_json(body: &[u8]) -> Option<&'static str> {
    let begins = |bytes: &[u8]| body.starts_with(bytes);
    if body.trim_ascii().is_empty() {
        Some("the body is empty")
    } else if begins(b"\xef\xbb\xbf") {
        Some("it begins with a byte order mark, which JSON does not have; send UTF-8 without one")
    } else if begins(b"\xff\xfe") || begins(b"\xfe\xff") {
        Some("it begins with the byte order mark of UTF-16; send UTF-8 without one")
    } else if begins(b"--") {
        Some("it is a multipart form; send the JSON alone as the body, as curl --data-binary @FILE does and --form does not")
    } else if begins(b"\x1f\x8b") {
        Some("it is compressed with gzip; say so with the header Content-Encoding: gzip")
    } else {
        None
    }
}

/// Optional members may also be null; unknown ones are ignored, as the protocol's extensions require.
#[derive(Deserialize)]
struct RequestJson<'a> {
    id: Option<String>,
    parameters: Option<Named>,
    #[serde(borrow)]
    inputs: Limited<InputJson<'a>, TENSORS_MAX>,
    outputs: Option<Limited<OutputJson, TENSORS_MAX>>,
}

#[derive(Deserialize)]
struct InputJson<'a> {
    name: String,
    #[serde(borrow)]
    datatype: Cow<'a, str>,
    shape: Limited<i64, DIMS_MAX>,
    parameters: Option<Named>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct OutputJson {
    name: String,
    parameters: Option<Named>,
}

fn input_tensor(position: usize, input: InputJson<'_>, rest: &mut Bytes, has_length: bool) -> Result<InputTensor, Fault> {
    let InputJson { name, datatype, shape: Limited(shape), parameters, data } = input;
    let mut parameters = parameters.unwrap_or_default().0;
    let at = |part: &str| format!("inputs[{position}].{part}");
    let datatype: Datatype =
        datatype.parse().map_err(|error| Fault::invalid(at("datatype"), format!("input '{name}': {error}")))?;
    let data = match (take_size(&mut parameters, &at("parameters"))?, data) {
        (Some(_), Some(_)) => {
            let message = format!("input '{name}' has both data and {BINARY_SIZE}; send one of the two");
            return Err(Fault::invalid(at("data"), message));
        }
        (Some(size), None) => {
            if size > rest.len() {
                let cause =
                    if has_length { format!("{} bytes are left in the body", rest.len()) } else { HEADER_LENGTH_HINT.to_owned() };
                let message = format!("input '{name}' has a {BINARY_SIZE} of {size}, but {cause}");
                return Err(Fault::invalid(at("parameters.binary_data_size"), message));
            }
            Some(rest.split_to(size))
        }
        (None, Some(data)) => {
            let elements = from_json::read(data.get(), datatype, Layout::Of(&shape));
            Some(elements.map_err(|message| Fault::invalid(at("data"), format!("input '{name}': {message}")))?.data)
        }
        // In shared memory, or an error that both forms of the protocol report.
        (None, None) => None,
    };
    Ok(InputTensor { name, datatype, shape, parameters, data })
}

fn take_flag(parameters: &mut Parameters, name: &str, place: &str) -> Result<Option<bool>, Fault> {
    match parameters.remove(name) {
        None => Ok(None),
        Some(Parameter::Bool(flag)) => Ok(Some(flag)),
        Some(value) => {
            let message = format!("parameter '{name}' is {value}, but must be true or false");
            Err(Fault::invalid(format!("{place}.{name}"), message))
        }
    }
}

fn take_size(parameters: &mut Parameters, place: &str) -> Result<Option<usize>, Fault> {
    let size = match parameters.remove(BINARY_SIZE) {
        None => return Ok(None),
        Some(Parameter::Uint64(size)) => usize::try_from(size).map_err(|_| Parameter::Uint64(size)),
        Some(value) => Err(value),
    };
    size.map(Some).map_err(|value| {
        let message = format!("parameter '{BINARY_SIZE}' is {value}, but must be a number of bytes");
        Fault::invalid(format!("{place}.{BINARY_SIZE}"), message)
    })
}

/// Parameters as JSON has them.
#[derive(Default)]
pub(super) struct Named(pub(super) Parameters);

impl<'de> Deserialize<'de> for Named {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(NamedVisitor)
    }
}

struct NamedVisitor;

impl<'de> Visitor<'de> for NamedVisitor {
    type Value = Named;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of parameters")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Named, A::Error> {
        let mut parameters = Parameters::new();
        while let Some((name, value)) = map.next_entry::<String, Option<Scalar>>()? {
            if parameters.len() == PARAMETERS_MAX {
                return Err(A::Error::custom(format_args!("there are more than {PARAMETERS_MAX} parameters")));
            }
            if let Some(Scalar(value)) = value {
                parameters.insert(name, value);
            }
        }
        Ok(Named(parameters))
    }
}

/// A parameter's value as JSON has it.
struct Scalar(Parameter);

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ScalarVisitor).map(Self)
    }
}

struct ScalarVisitor;

impl Visitor<'_> for ScalarVisitor {
    type Value = Parameter;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a parameter: true, false, a number or a string")
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<Parameter, E> {
        Ok(Parameter::Bool(value))
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Parameter, E> {
        Ok(Parameter::Int64(value))
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Parameter, E> {
        Ok(Parameter::Uint64(value))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Parameter, E> {
        Ok(Parameter::Double(value))
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Parameter, E> {
        Ok(Parameter::String(value.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decoded(json: &str, binary: &[u8]) -> Result<Decoded, Fault> {
        let body: Vec<u8> = [json.as_bytes(), binary].concat();
        decode(&body.into(), Some(json.len()))
    }

    #[test]
    fn a_request_is_read_whatever_the_order_of_its_members() {
        let json = r#"{"outputs":[{"name":"y"}],"inputs":[{"data":[[9007199254740993],[2]],"shape":[2,1],"datatype":"INT64","name":"x"}],
            "id":"7","unknown":{"a":[1,{}]},"parameters":{"priority":1,"temperature":0.5,"sequence_id":"s","sequence_start":true,"n":-1}}"#;
        let Decoded { request, binary } = decode(&Bytes::from_static(json.as_bytes()), None).expect("a request");
        assert_eq!(binary, BinaryOutputs::default());
        assert_eq!(request.id, "7");
        let input = &request.inputs[0];
        assert_eq!((&*input.name, input.datatype, &input.shape[..]), ("x", Datatype::Int64, &[2, 1][..]));
        let expected = [9_007_199_254_740_993_i64.to_le_bytes(), 2_i64.to_le_bytes()].concat();
        assert_eq!(input.data.as_deref(), Some(&expected[..]));
        assert_eq!(request.outputs, [RequestedOutput { name: "y".to_owned(), ..RequestedOutput::default() }]);
        let parameters: Vec<_> = request.parameters.into_iter().collect();
        let expected = [
            ("n", Parameter::Int64(-1)),
            ("priority", Parameter::Uint64(1)),
            ("sequence_id", Parameter::String("s".to_owned())),
            ("sequence_start", Parameter::Bool(true)),
            ("temperature", Parameter::Double(0.5)),
        ];
        assert_eq!(parameters, expected.map(|(name, value)| (name.to_owned(), value)));
    }

    #[test]
    fn what_may_be_left_out_may_be_null() {
        let json = r#"{"id":null,"parameters":null,"outputs":null,"inputs":[
            {"name":"x","datatype":"BOOL","shape":[1],"parameters":{"content_type":null},"data":[true]}]}"#;
        let Decoded { request, .. } = decode(&Bytes::from_static(json.as_bytes()), None).expect("a request");
        assert_eq!((request.id.as_str(), request.inputs[0].parameters.len()), ("", 0));
    }

    #[test]
    fn binary_parts_follow_in_the_order_of_the_inputs_and_are_not_copied() {
        let json = r#"{"inputs":[
            {"name":"a","datatype":"UINT8","shape":[2],"parameters":{"binary_data_size":2,"other":1}},
            {"name":"b","datatype":"UINT8","shape":[1],"data":[9]},
            {"name":"c","datatype":"FP16","shape":[1],"parameters":{"binary_data_size":2}}]}"#;
        let body: Bytes = [json.as_bytes(), &[1, 2, 3, 4]].concat().into();
        let Decoded { request, .. } = decode(&body, Some(json.len())).expect("a request");
        let data: Vec<_> = request.inputs.iter().map(|input| input.data.clone().expect("data")).collect();
        assert_eq!(data, [&[1, 2][..], &[9], &[3, 4]]);
        assert_eq!(data[2].as_ptr(), body[json.len() + 2..].as_ptr());
        assert_eq!(request.inputs[0].parameters.keys().collect::<Vec<_>>(), ["other"]);
    }

    #[test]
    fn each_output_says_whether_it_is_wanted_as_binary_data() {
        let json = r#"{"inputs":[],"parameters":{"binary_data_output":true},"outputs":[
            {"name":"a"},{"name":"b","parameters":{"binary_data":false}},{"name":"c","parameters":{"binary_data":true,"classification":2}}]}"#;
        let Decoded { request, binary } = decoded(json, &[]).expect("a request");
        assert_eq!(["a", "b", "c"].map(|name| binary.wants(name)), [true, false, true]);
        assert!(request.parameters.is_empty());
        assert_eq!(request.outputs[2].parameters.len(), 1, "parameters that both forms share are passed on");
    }

    #[test]
    fn data_in_shared_memory_are_left_to_the_protocol() {
        let json = r#"{"inputs":[{"name":"a","datatype":"FP32","shape":[1],"parameters":{"shared_memory_region":"r","shared_memory_byte_size":4}}]}"#;
        let Decoded { request, .. } = decoded(json, &[]).expect("a request");
        assert_eq!((&request.inputs[0].data, request.inputs[0].parameters.len()), (&None, 2));
    }

    #[test]
    fn each_fault_names_its_field() {
        let input = |rest: &str| format!(r#"{{"inputs":[{{"name":"x","datatype":"UINT8","shape":[2]{rest}}}]}}"#);
        let many: Vec<String> = (0..300).map(|index| format!("\"p{index}\":1")).collect();
        let many = format!(r#"{{"inputs":[],"parameters":{{{}}}}}"#, many.join(","));
        let binary = |size: &str| input(&format!(r#","parameters":{{"binary_data_size":{size}}}"#));
        let dims = format!(r#"{{"inputs":[{{"name":"x","datatype":"UINT8","shape":[{}]}}]}}"#, vec!["1"; 65].join(","));
        let inputs = vec![r#"{"name":"x","datatype":"UINT8","shape":[]}"#; 1_025].join(",");
        let inputs = format!(r#"{{"inputs":[{inputs}]}}"#);
        let cases: [(&str, &[u8], &str, &str); 16] = [
            (&dims, &[], "body", "the list has more than 64 members"),
            (&inputs, &[], "body", "the list has more than 1024 members"),
            ("", &[], "body", "the body is empty"),
            ("[1]", &[], "body", "invalid type"),
            (r#"{"inputs":[{"name":"x","data":[NaN]}]}"#, &[], "body", "JSON has neither NaN nor Infinity"),
            (r#"{"id":"7"}"#, &[], "body", "missing field `inputs`"),
            (
                r#"{"inputs":[{"name":"x","datatype":"UINT7","shape":[1]}]}"#,
                &[],
                "inputs[0].datatype",
                "unknown datatype 'UINT7'",
            ),
            (r#"{"inputs":[],"parameters":{"a":[1]}}"#, &[], "body", "a parameter: true, false, a number or a string"),
            (
                r#"{"inputs":[],"parameters":{"binary_data_output":1}}"#,
                &[],
                "parameters.binary_data_output",
                "is 1, but must be true or false",
            ),
            (&many, &[], "body", "more than 256 parameters"),
            (&input(r#","data":[1,256]"#), &[], "inputs[0].data", "input 'x': element 1 is 256"),
            (&binary("2"), &[1], "inputs[0].parameters.binary_data_size", "binary_data_size of 2, but 1 bytes are left"),
            (&binary("2"), &[1, 2, 3], "body", "1 bytes follow"),
            (&binary("-2"), &[1, 2], "inputs[0].parameters.binary_data_size", "is -2, but must be a number of bytes"),
            (&binary("18446744073709551615"), &[1, 2], "inputs[0].parameters.binary_data_size", "2 bytes are left"),
            (
                &input(r#","parameters":{"binary_data_size":2},"data":[1,2]"#),
                &[1, 2],
                "inputs[0].data",
                "both data and binary_data_size",
            ),
        ];
        for (json, binary, field, message) in cases {
            let fault = decoded(json, binary).expect_err(json);
            assert_eq!(fault.field(), Some(field), "{json}: {fault}");
            assert!(fault.message().contains(message), "{json}: {fault}");
        }
        let fault = decode(&Bytes::from_static(b"{}"), Some(3)).expect_err("longer than the body");
        assert_eq!(
            (fault.field(), fault.message()),
            (Some(HEADER_LENGTH), "inference-header-content-length is 3, but the body has 2 bytes")
        );
    }

    #[test]
    fn what_is_sent_in_place_of_json_is_named() {
        let said = |body: &[u8]| decode(&Bytes::copy_from_slice(body), None).expect_err("no JSON").to_string();
        let json = r#"{"inputs":[{"name":"x","datatype":"FP32","shape":[1],"parameters":{"binary_data_size":4}}]}"#;
        let missing = "the header Inference-Header-Content-Length, which says how many bytes of the body are JSON, is missing";
        let cases: [(&[u8], &str); 9] = [
            (b"", "the body is empty"),
            (b" \r\n", "the body is empty"),
            (&[b"\xef\xbb\xbf", json.as_bytes()].concat(), "begins with a byte order mark, which JSON does not have; send UTF-8"),
            (b"\xff\xfe{\0", "the byte order mark of UTF-16"),
            (b"--------7d3\r\nContent-Disposition: form-data", "it is a multipart form; send the JSON alone"),
            (b"\x1f\x8b\x08\0", "it is compressed with gzip; say so with the header Content-Encoding: gzip"),
            (&[json.as_bytes(), &1.5_f32.to_le_bytes()].concat(), missing),
            // A JSON parser takes these four bytes for white space.
            (&[json.as_bytes(), b"    "].concat(), missing),
            (&[json.as_bytes(), b"{}"].concat(), missing),
        ];
        for (body, expected) in cases {
            assert!(said(body).contains(expected), "{}", said(body));
        }
        assert!(said(br#"{"inputs":[]} {}"#).contains("trailing characters"), "nothing was to follow");
    }

    #[test]
    fn an_input_may_be_empty_in_either_form() {
        let json = r#"{"inputs":[{"name":"a","datatype":"FP32","shape":[0,4],"parameters":{"binary_data_size":0}},
            {"name":"b","datatype":"BYTES","shape":[1,0],"data":[[]]}]}"#;
        let Decoded { request, .. } = decoded(json, &[]).expect("a request");
        let inputs: Vec<_> = request.inputs.iter().map(|input| (&input.shape[..], input.data.as_deref())).collect();
        assert_eq!(inputs, [(&[0, 4][..], Some(&[][..])), (&[1, 0], Some(&[]))]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_request_or_a_fault(bytes in proptest::collection::vec(any::<u8>(), 0..100), length in proptest::option::of(0_usize..120)) {
            let _ = decode(&bytes.into(), length);
        }

        #[test]
        fn a_request_with_one_byte_changed_is_a_request_or_a_fault(at in 0_usize..300, byte in any::<u8>(), length in 0_usize..300) {
            let json = r#"{"id":"1","parameters":{"binary_data_output":true},"inputs":[
                {"name":"a","datatype":"INT16","shape":[1,2],"data":[[1,-2]]},
                {"name":"b","datatype":"FP32","shape":[1],"parameters":{"binary_data_size":4}}],"outputs":[{"name":"y"}]}    "#;
            let mut bytes = json.as_bytes().to_vec();
            let index = at % bytes.len();
            bytes[index] = byte;
            let length = length % (bytes.len() + 8);
            let body: Bytes = bytes.into();
            let _ = decode(&body, Some(length));
            let _ = decode(&body, Some(body.len() - 4));
        }
    }
}
