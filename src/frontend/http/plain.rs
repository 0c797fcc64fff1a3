//! Requests whose members are a model's inputs, and responses whose members are its outputs: tensors in JSON, without datatypes.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error as _, MapAccess, Visitor},
    ser::SerializeMap as _,
};
use serde_json::value::RawValue;

use super::{
    numbers::{JsonElements, JsonTensor},
    request::{Named, parse},
    tensors::{self, Layout},
};
use crate::{
    domain::{Fault, FaultKind, Signature, TensorSpec},
    open_inference::{InferRequest, InferResponse, InputTensor, OutputData, Parameters},
    registry::LoadedModel,
};

/// Members of a request; a model has a few inputs.
const MEMBERS_MAX: usize = 1_024;

/// Decodes a request for `model`, and pins it to that version.
///
/// # Errors
/// [`FaultKind::Invalid`] with the member at fault: one that is no input, or elements that are not of the input's datatype.
pub(super) fn decode(body: &[u8], model: &LoadedModel, signature: &Signature) -> Result<InferRequest, Fault> {
    let Members(members) = parse(body)?;
    let mut request =
        InferRequest { model: model.name.to_string(), version: model.version.to_string(), ..InferRequest::default() };
    for (name, value) in members {
        if let Some(spec) = signature.inputs.iter().find(|spec| *spec.name == *name) {
            request.inputs.push(input_tensor(spec, value)?);
        } else if name == "id" {
            request.id = member(&name, value)?;
        } else if name == "parameters" {
            let Named(parameters) = member(&name, value)?;
            request.parameters = parameters;
        } else {
            let known: Vec<String> = signature.inputs.iter().map(|spec| format!("'{}'", spec.name)).collect();
            let (model, known) = (&model.name, known.join(", "));
            let message = format!(
                "model '{model}' has no input '{name}'; its inputs are {known}, beside them there are 'id' and 'parameters'"
            );
            return Err(Fault::invalid(name.into_owned(), message));
        }
    }
    Ok(request)
}

/// Encodes a response: a lone element as itself, others in lists nested as the output's shape says.
///
/// # Errors
/// [`FaultKind::Invalid`] if an output has no form in JSON.
pub(super) fn encode(response: &InferResponse) -> Result<String, Fault> {
    let outputs = response.outputs.iter().filter_map(|output| match &output.data {
        OutputData::Here(data) => {
            let elements = JsonElements::new(&output.name, output.datatype, data);
            Some(elements.map(|elements| (&*output.name, elements.nested(&output.shape))))
        }
        // Nobody can ask for it here.
        OutputData::Shared(_) => None,
    });
    let answer = Answer { response, outputs: outputs.collect::<Result<_, _>>()? };
    serde_json::to_string(&answer)
        .map_err(|error| Fault::new(FaultKind::Failed, format!("the response cannot be written: {error}")))
}

fn input_tensor(spec: &TensorSpec, value: &RawValue) -> Result<InputTensor, Fault> {
    let name = spec.name.to_string();
    let elements = tensors::read(value.get(), spec.datatype, Layout::Any)
        .map_err(|message| Fault::invalid(name.clone(), format!("input '{name}': {message}")))?;
    // A lone value is one element, in as many dimensions of one as the model has.
    let lone = || spec.fixed_shape().filter(|shape| shape.iter().product::<usize>() == 1).map_or(1, |shape| shape.len());
    let shape = if elements.shape.is_empty() { vec![1; lone()] } else { elements.shape };
    Ok(InputTensor { name, datatype: spec.datatype, shape, parameters: Parameters::new(), data: Some(elements.data) })
}

fn member<'a, T: Deserialize<'a>>(name: &str, value: &'a RawValue) -> Result<T, Fault> {
    serde_json::from_str(value.get()).map_err(|error| Fault::invalid(name.to_owned(), format!("'{name}': {error}")))
}

/// Members of an object, their values yet to be read.
struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MembersVisitor).map(Self)
    }
}

struct MembersVisitor;

impl<'de> Visitor<'de> for MembersVisitor {
    type Value = Vec<(Cow<'de, str>, &'de RawValue)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of inputs")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::new();
        while let Some((name, value)) = map.next_entry()? {
            if members.len() == MEMBERS_MAX {
                return Err(A::Error::custom(format_args!("there are more than {MEMBERS_MAX} members")));
            }
            members.push((name, value));
        }
        Ok(members)
    }
}

struct Answer<'a> {
    response: &'a InferResponse,
    outputs: Vec<(&'a str, JsonTensor<'a>)>,
}

impl Serialize for Answer<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let InferResponse { model, version, id, .. } = self.response;
        let mut map = serializer.serialize_map(None)?;
        if !id.is_empty() {
            map.serialize_entry("id", id)?;
        }
        map.serialize_entry("model_name", &**model)?;
        map.serialize_entry("model_version", &**version)?;
        for (name, tensor) in &self.outputs {
            map.serialize_entry(name, tensor)?;
        }
        map.end()
    }
}
