//! Requests whose members are a model's inputs, and responses whose members are its outputs: tensors in JSON, without datatypes.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error as _, MapAccess, Visitor},
    ser::SerializeMap as _,
};
use serde_json::value::RawValue;

use super::{
    from_json::{self, Layout},
    request::{Named, parse},
    to_json::{JsonElements, JsonTensor},
};
use crate::{
    domain::{Fault, FaultKind, Signature, TensorSpec, quoted_list},
    open_inference::{InferRequest, InferResponse, InputTensor, OutputData, Parameters},
};

/// Members of a request; a model has a few inputs.
const MEMBERS_MAX: usize = 1_024;

/// Decodes a request for a model of this signature; model and version are left empty, because they are in the path.
///
/// # Errors
/// [`FaultKind::Invalid`] with the member at fault: one that is not an input, or elements that are not of the input's
/// datatype.
pub(super) fn decode(body: &[u8], signature: &Signature) -> Result<InferRequest, Fault> {
    let Members(members) = parse(body)?;
    let mut request = InferRequest::default();
    for (name, value) in members {
        if let Some(spec) = signature.inputs.iter().find(|spec| *spec.name == *name) {
            request.inputs.push(input_tensor(spec, value)?);
        } else if name == "id" {
            request.id = member(&name, value)?;
        } else if name == "parameters" {
            let Named(parameters) = member(&name, value)?;
            request.parameters = parameters;
        } else {
            let known = quoted_list(signature.inputs.iter().map(|spec| &*spec.name));
            let message =
                format!("the model has no input '{name}'; its inputs are {known}, and 'id' and 'parameters' are allowed too");
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
        // No request of this form can ask for it.
        OutputData::Shared(_) => None,
    });
    let answer = Answer { response, outputs: outputs.collect::<Result<_, _>>()? };
    serde_json::to_string(&answer)
        .map_err(|error| Fault::new(FaultKind::Failed, format!("the response cannot be written: {error}")))
}

fn input_tensor(spec: &TensorSpec, value: &RawValue) -> Result<InputTensor, Fault> {
    let name = spec.name.to_string();
    let elements = from_json::read(value.get(), spec.datatype, Layout::Any)
        .map_err(|message| Fault::invalid(name.clone(), format!("input '{name}': {message}")))?;
    // A lone value is one element, in as many dimensions of one as the model has.
    let lone = || spec.fixed_shape().filter(|shape| shape.iter().product::<usize>() == 1).map_or(1, |shape| shape.len());
    let mut shape = if elements.shape.is_empty() { vec![1; lone()] } else { elements.shape };
    // An empty list ends the nesting, whatever the shape has inside it.
    if shape.last() == Some(&0) {
        let inner = spec.dims.iter().skip(shape.len()).map(|dim| dim.map_or(0, |size| i64::try_from(size).unwrap_or(i64::MAX)));
        shape.extend(inner);
    }
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

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::{
        domain::Datatype,
        open_inference::{OutputTensor, Parameter},
    };

    fn signature() -> Signature {
        let spec = |name: &str, datatype, dims: &[Option<usize>]| TensorSpec {
            name: name.into(),
            datatype,
            dims: dims.to_vec(),
            batch_axis: Some(0),
        };
        let inputs = vec![
            spec("count", Datatype::Uint8, &[Some(1), Some(1)]),
            spec("free", Datatype::Int32, &[None]),
            spec("grid", Datatype::Bool, &[Some(2), Some(2)]),
        ];
        Signature { inputs, ..Signature::default() }
    }

    fn decoded(json: &str) -> Result<InferRequest, Fault> {
        decode(json.as_bytes(), &signature())
    }

    #[test]
    fn members_are_inputs_of_their_own_shape_and_a_lone_value_is_one_element() {
        let request = decoded(
            r#"{"grid":[[true,false],[false,true]],"id":"7","free":-5,"count":[[[3]],[[4]]],"parameters":{"priority":1}}"#,
        );
        let request = request.expect("a request");
        let inputs: Vec<_> = request.inputs.iter().map(|input| (&*input.name, &input.shape[..], input.data.as_deref())).collect();
        let expected = [
            ("grid", &[2, 2][..], Some(&[1, 0, 0, 1][..])),
            ("free", &[1], Some(&[0xfb, 0xff, 0xff, 0xff])),
            ("count", &[2, 1, 1], Some(&[3, 4])),
        ];
        assert_eq!(inputs, expected);
        assert_eq!((request.id.as_str(), &request.parameters["priority"]), ("7", &Parameter::Uint64(1)));
        assert_eq!(decoded(r#"{"count":9}"#).expect("a request").inputs[0].shape, [1, 1]);
    }

    #[test]
    fn an_empty_list_is_empty_in_the_first_dimension_that_may_be() {
        let spec = |name: &str, dims: &[Option<usize>]| TensorSpec {
            name: name.into(),
            datatype: Datatype::Fp32,
            dims: dims.to_vec(),
            batch_axis: Some(0),
        };
        let signature =
            Signature { inputs: vec![spec("boxes", &[None, Some(4)]), spec("text", &[None])], ..Signature::default() };
        let request = decode(br#"{"boxes":[],"text":[]}"#, &signature).expect("a request");
        let shapes: Vec<_> = request.inputs.iter().map(|input| &input.shape[..]).collect();
        assert_eq!(shapes, [&[0, 4][..], &[0]]);
    }

    #[test]
    fn each_fault_names_its_member() {
        for (json, field, message) in [
            (r#"{"colour":1}"#, "colour", "the model has no input 'colour'; its inputs are 'count', 'free', 'grid', and 'id'"),
            (r#"{"count":256}"#, "count", "input 'count': element 0 is 256"),
            (r#"{"free":[[1],[2,3]]}"#, "free", "input 'free': the list"),
            (r#"{"id":7}"#, "id", "'id': invalid type: integer `7`, expected a string"),
            (r#"{"parameters":[]}"#, "parameters", "'parameters': invalid type"),
            ("[]", "body", "an object of inputs"),
            ("{", "body", "EOF"),
            ("", "body", "the body is empty"),
        ] {
            let fault = decoded(json).expect_err(json);
            assert_eq!(fault.field(), Some(field), "{fault}");
            assert!(fault.message().contains(message), "{fault}");
        }
        let many: Vec<String> = (0..2_000).map(|index| format!("\"m{index}\":1")).collect();
        assert!(decoded(&format!("{{{}}}", many.join(","))).expect_err("too many").message().contains("more than 1024 members"));
    }

    #[test]
    fn outputs_are_members_in_their_own_shape() {
        let output = |name: &str, shape: &[i64], data: &'static [u8]| OutputTensor {
            name: name.into(),
            datatype: Datatype::Uint8,
            shape: shape.to_vec(),
            data: OutputData::Here(Bytes::from_static(data)),
        };
        let outputs = vec![output("one", &[1, 1], &[7]), output("grid", &[2, 1, 2], &[1, 2, 3, 4])];
        let mut response = InferResponse { model: "m".into(), version: "1".into(), id: String::new(), outputs };
        assert_eq!(
            encode(&response).expect("JSON"),
            r#"{"model_name":"m","model_version":"1","one":7,"grid":[[[1,2]],[[3,4]]]}"#
        );
        response.id = "a".to_owned();
        response.outputs.clear();
        assert_eq!(encode(&response).expect("JSON"), r#"{"id":"a","model_name":"m","model_version":"1"}"#);
    }

    proptest! {
        #[test]
        fn any_text_is_a_request_or_a_fault(text in "\\{(\"(count|free|grid|id|parameters|x)\":(-?[0-9]{1,4}|\\[{0,3}[0-9,true]{0,6}\\]{0,3}|\"a\"|\\{\\}),?){0,4}\\}?") {
            let _ = decoded(&text);
        }
    }
}
