//! A request's body as an [`InferRequest`].
//!
//! ```text
//! ┌──────────────── body ────────────────┐
//! │ JSON             │ input 0 │ input 2 │   inputs 1 and 3 have their elements in the JSON
//! └──────────────────┴─────────┴─────────┘
//!  ◄─ Inference-Header-Content-Length ─►
//! ```
//! Binary parts stay slices of the body. Elements in the JSON are found first and read second, when the datatype is known, wherever
//! in the object it stands.

use std::{borrow::Cow, collections::BTreeMap, fmt};

use bytes::Bytes;
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, Visitor},
};
use serde_json::value::RawValue;

use super::tensors::{self, Layout};
use crate::{
    domain::{Datatype, Fault},
    open_inference::{InferRequest, InputTensor, Parameter, Parameters, RequestedOutput},
};

/// Tells where the JSON ends and the binary parts begin.
pub(super) const HEADER_LENGTH: &str = "inference-header-content-length";

/// Parameters of a request, an input or an output; each costs far more memory than its text.
const PARAMETERS_MAX: usize = 256;

/// Parameter of a request: all outputs as binary data.
const BINARY_OUTPUTS: &str = "binary_data_output";
/// Parameter of an output: this one as binary data, or not.
const BINARY_OUTPUT: &str = "binary_data";
/// Parameter of an input: bytes that it has in the binary part.
const BINARY_SIZE: &str = "binary_data_size";

/// A request, and in which form its outputs are wanted.
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

/// Decodes a body whose first `json_length` bytes are JSON; all of it if there is no such number. Model and version are left open:
/// they stand in the path.
///
/// # Errors
/// [`FaultKind::Invalid`](crate::domain::FaultKind::Invalid) with the field at fault.
pub(super) fn decode(body: &Bytes, json_length: Option<usize>) -> Result<Decoded, Fault> {
    let json_length = json_length.unwrap_or(body.len());
    if json_length > body.len() {
        let message = format!("{HEADER_LENGTH} is {json_length}, but the body has {} bytes", body.len());
        return Err(Fault::invalid(HEADER_LENGTH, message));
    }
    let json: RequestJson<'_> = parse(&body[..json_length])?;
    let RequestJson { id, parameters, inputs, outputs } = json;
    let mut parameters = parameters.unwrap_or_default().0;
    let mut binary = BinaryOutputs {
        all: take_flag(&mut parameters, BINARY_OUTPUTS, "parameters")?.unwrap_or_default(),
        named: BTreeMap::new(),
    };
    let mut rest = body.slice(json_length..);
    let inputs: Vec<InputTensor> = inputs
        .into_iter()
        .enumerate()
        .map(|(position, input)| input_tensor(position, input, &mut rest))
        .collect::<Result<_, _>>()?;
    if !rest.is_empty() {
        let message = format!(
            "{} bytes follow what the inputs' binary_data_size and {HEADER_LENGTH} account for; the body has {} bytes",
            rest.len(),
            body.len()
        );
        return Err(Fault::invalid("body", message));
    }
    let outputs = outputs.unwrap_or_default();
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

/// Reads JSON, and says where it is broken if it is.
///
/// # Errors
/// [`FaultKind::Invalid`](crate::domain::FaultKind::Invalid).
pub(super) fn parse<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Result<T, Fault> {
    serde_json::from_slice(json).map_err(|error| {
        let says = |word: &[u8]| json.windows(word.len()).any(|found| found == word);
        let hint = if error.is_syntax() && (says(b"NaN") || says(b"Infinity")) {
            "; JSON has neither NaN nor Infinity: send such a tensor as binary data (binary_data_size)"
        } else {
            ""
        };
        Fault::invalid("body", format!("the request is not the JSON that is expected here: {error}{hint}"))
    })
}

/// What may be left out may also be null; what is not known is passed over, as the protocol's extensions want it.
#[derive(Deserialize)]
struct RequestJson<'a> {
    id: Option<String>,
    parameters: Option<Named>,
    #[serde(borrow)]
    inputs: Vec<InputJson<'a>>,
    outputs: Option<Vec<OutputJson>>,
}

#[derive(Deserialize)]
struct InputJson<'a> {
    name: String,
    #[serde(borrow)]
    datatype: Cow<'a, str>,
    shape: Vec<i64>,
    parameters: Option<Named>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct OutputJson {
    name: String,
    parameters: Option<Named>,
}

fn input_tensor(position: usize, input: InputJson<'_>, rest: &mut Bytes) -> Result<InputTensor, Fault> {
    let InputJson { name, datatype, shape, parameters, data } = input;
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
                let message =
                    format!("input '{name}' has a {BINARY_SIZE} of {size}, but {} bytes are left in the body", rest.len());
                return Err(Fault::invalid(at("parameters.binary_data_size"), message));
            }
            Some(rest.split_to(size))
        }
        (None, Some(data)) => {
            let elements = tensors::read(data.get(), datatype, Layout::Of(&shape));
            Some(elements.map_err(|message| Fault::invalid(at("data"), format!("input '{name}': {message}")))?.data)
        }
        // In shared memory, or an error that both forms of the protocol share.
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
