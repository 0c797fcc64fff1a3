//! Converts between the messages of a `ModelInfer` and the protocol's own types.

use bytes::Bytes;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

use super::{super::status::fault_of, contents};
use crate::{
    domain::{Datatype, Fault},
    frontend::grpc::wire::InferRequestBytes,
    open_inference::{
        ENABLE_FINAL_RESPONSE, InferRequest, InferResponse, InputTensor, OutputData, OutputTensor, Parameter, Parameters,
        RequestedOutput, SHARED_MEMORY_BYTE_SIZE, SHARED_MEMORY_OFFSET, SHARED_MEMORY_REGION,
    },
    proto::inference::{
        InferParameter, ModelInferRequest, ModelInferResponse,
        infer_parameter::ParameterChoice,
        model_infer_request::{InferInputTensor, InferRequestedOutputTensor},
        model_infer_response::InferOutputTensor,
    },
    side::INLINE_BYTES_MAX,
};

/// Marks a response as the last to its request.
const FINAL_RESPONSE: &str = "triton_final_response";

/// How a request wants to be answered.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct ReplyForm {
    /// Echoed, also with an error.
    pub(super) id: String,
    /// Its tensors came as typed contents. Clients that send those read either form, so the response has both.
    typed: bool,
    wants_final: bool,
}

/// Number of the field that holds the inputs, and with them their typed contents.
const INPUTS_FIELD: u32 = 5;

/// How many bytes of a request are read number by number: its typed contents. Raw contents stay where they are. A request too short to
/// keep others waiting counts as zero.
pub(super) fn long_bytes(request: &InferRequestBytes) -> usize {
    let mut message = &request.bytes()[..];
    if message.len() <= INLINE_BYTES_MAX {
        return 0;
    }
    let mut inputs_bytes: usize = 0;
    while !message.is_empty() && inputs_bytes <= INLINE_BYTES_MAX {
        // Broken messages are found out soon.
        let Ok((tag, wire_type)) = decode_key(&mut message) else { return 0 };
        let mut length = message;
        if tag == INPUTS_FIELD && wire_type == WireType::LengthDelimited {
            let length = decode_varint(&mut length).map_or(0, |length| usize::try_from(length).unwrap_or(usize::MAX));
            inputs_bytes = inputs_bytes.saturating_add(length);
        }
        if skip_field(wire_type, tag, &mut message, DecodeContext::default()).is_err() {
            return 0;
        }
    }
    inputs_bytes
}

/// How much of a response there is to encode.
pub(super) fn response_bytes(response: &InferResponse, form: &ReplyForm) -> usize {
    let bytes = |output: &OutputTensor| match &output.data {
        OutputData::Here(data) if form.typed => data.len() * 2,
        // Raw bytes are only copied, so many more of them can be done at once.
        OutputData::Here(data) => data.len() / 16,
        OutputData::Shared(_) => 0,
    };
    response.outputs.iter().map(bytes).sum()
}

/// A decoded message: how to answer it, and its request, or what is wrong with it.
pub(super) type DecodedRequest = (ReplyForm, Result<InferRequest, Fault>);

/// Decodes a message.
///
/// # Errors
/// [`FaultKind::Invalid`](crate::domain::FaultKind::Invalid) if its bytes are not a message.
pub(super) fn decode(request: InferRequestBytes) -> Result<DecodedRequest, Fault> {
    request.decode().map(decoded).map_err(|status| fault_of(&status, 0))
}

/// A request, or what is wrong with it, and how to answer either.
fn decoded(request: ModelInferRequest) -> DecodedRequest {
    let typed = request.inputs.iter().any(|input| input.contents.is_some());
    let wants_final = request.parameters.get(ENABLE_FINAL_RESPONSE).and_then(|wanted| wanted.parameter_choice.as_ref())
        == Some(&ParameterChoice::BoolParam(true));
    let form = ReplyForm { id: request.id.clone(), typed, wants_final };
    (form, infer_request(request))
}

fn infer_request(request: ModelInferRequest) -> Result<InferRequest, Fault> {
    let ModelInferRequest { model_name, model_version, id, parameters, inputs, outputs, raw_input_contents } = request;
    if model_name.is_empty() {
        return Err(Fault::invalid("model_name", "the name of the model is missing"));
    }
    let parameters = self::parameters("parameters", parameters)?;
    let mut raw = RawContents::new(raw_input_contents, &inputs)?;
    let inputs =
        inputs.into_iter().enumerate().map(|(index, input)| input_tensor(index, input, &mut raw)).collect::<Result<_, _>>()?;
    let outputs = outputs.into_iter().enumerate().map(requested_output).collect::<Result<_, _>>()?;
    Ok(InferRequest { model: model_name, version: model_version, id, parameters, inputs, outputs })
}

/// The raw data of a request's tensors, in the order of those that are not in shared memory.
struct RawContents {
    tensors: std::vec::IntoIter<Bytes>,
    present: bool,
}

impl RawContents {
    fn new(tensors: Vec<Bytes>, inputs: &[InferInputTensor]) -> Result<Self, Fault> {
        let present = !tensors.is_empty();
        let wanted = inputs.iter().filter(|input| !is_shared(input)).count();
        if present && tensors.len() != wanted {
            let message = format!(
                "raw_input_contents holds {} tensors, but {wanted} inputs are sent: one entry for each that is not in shared memory",
                tensors.len()
            );
            return Err(Fault::invalid("raw_input_contents", message));
        }
        Ok(Self { tensors: tensors.into_iter(), present })
    }
}

fn is_shared(input: &InferInputTensor) -> bool {
    input.parameters.contains_key(SHARED_MEMORY_REGION)
}

fn input_tensor(index: usize, input: InferInputTensor, raw: &mut RawContents) -> Result<InputTensor, Fault> {
    let shared = is_shared(&input);
    let InferInputTensor { name, datatype, shape, parameters, contents } = input;
    let datatype: Datatype = datatype
        .parse()
        .map_err(|error| Fault::invalid(format!("inputs[{index}].datatype"), format!("input '{name}': {error}")))?;
    if contents.is_some() && (raw.present || shared) {
        let message = format!("input '{name}' has typed contents and is sent in another form as well; send it once");
        return Err(Fault::invalid(format!("inputs[{index}].contents"), message));
    }
    let data = match contents {
        _ if shared => None,
        Some(contents) => Some(
            contents::to_raw(datatype, contents)
                .map_err(|message| Fault::invalid(format!("inputs[{index}].contents"), format!("input '{name}'{message}")))?,
        ),
        None => raw.tensors.next(),
    };
    let parameters = self::parameters(&format!("inputs[{index}].parameters"), parameters)?;
    Ok(InputTensor { name, datatype, shape, parameters, data })
}

fn requested_output((index, output): (usize, InferRequestedOutputTensor)) -> Result<RequestedOutput, Fault> {
    let InferRequestedOutputTensor { name, parameters } = output;
    let parameters = self::parameters(&format!("outputs[{index}].parameters"), parameters)?;
    Ok(RequestedOutput { name, parameters })
}

fn parameters(field: &str, wire: impl IntoIterator<Item = (String, InferParameter)>) -> Result<Parameters, Fault> {
    let parameter = |(name, parameter): (String, InferParameter)| {
        let value = match parameter.parameter_choice {
            Some(ParameterChoice::BoolParam(value)) => Parameter::Bool(value),
            Some(ParameterChoice::Int64Param(value)) => Parameter::Int64(value),
            Some(ParameterChoice::Uint64Param(value)) => Parameter::Uint64(value),
            Some(ParameterChoice::DoubleParam(value)) => Parameter::Double(value),
            Some(ParameterChoice::StringParam(value)) => Parameter::String(value),
            None => return Err(Fault::invalid(format!("{field}.{name}"), format!("parameter '{name}' has no value"))),
        };
        Ok((name, value))
    };
    wire.into_iter().map(parameter).collect()
}

/// The response as the request's `form` wants it.
pub(super) fn encode(response: InferResponse, form: &ReplyForm) -> ModelInferResponse {
    let InferResponse { model, version, id, outputs } = response;
    let mut raw = Vec::with_capacity(outputs.len());
    let outputs = outputs.into_iter().map(|output| output_tensor(output, form, &mut raw)).collect();
    let mut message = ModelInferResponse {
        model_name: String::from(&*model),
        model_version: String::from(&*version),
        id,
        outputs,
        raw_output_contents: raw,
        ..ModelInferResponse::default()
    };
    if form.wants_final {
        set_final(&mut message, true);
    }
    message
}

/// Says whether a response is the last to its request.
pub(super) fn set_final(message: &mut ModelInferResponse, last: bool) {
    message.parameters.insert(FINAL_RESPONSE.to_owned(), choice(ParameterChoice::BoolParam(last)));
}

fn output_tensor(output: OutputTensor, form: &ReplyForm, raw: &mut Vec<Bytes>) -> InferOutputTensor {
    let OutputTensor { name, datatype, shape, data } = output;
    let mut message = InferOutputTensor {
        name: String::from(&*name),
        datatype: datatype.name().to_owned(),
        shape,
        ..InferOutputTensor::default()
    };
    match data {
        OutputData::Here(data) => {
            message.contents = form.typed.then(|| contents::of_raw(datatype, &data)).flatten();
            raw.push(data);
        }
        OutputData::Shared(shared) => {
            let parameters = [
                (SHARED_MEMORY_REGION, ParameterChoice::StringParam(shared.region)),
                (SHARED_MEMORY_BYTE_SIZE, ParameterChoice::Uint64Param(shared.bytes)),
                (SHARED_MEMORY_OFFSET, ParameterChoice::Uint64Param(shared.offset)),
            ];
            let entry = |(name, value): (&str, _)| (name.to_owned(), choice(value));
            message.parameters = parameters.into_iter().map(entry).collect();
            // Clients find an output's data by its position among all outputs.
            raw.push(Bytes::new());
        }
    }
    message
}

const fn choice(value: ParameterChoice) -> InferParameter {
    InferParameter { parameter_choice: Some(value) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;
    use crate::{
        open_inference::SharedOutput,
        proto::{codec::FromWire as _, inference::InferTensorContents},
    };

    fn input(name: &str) -> InferInputTensor {
        InferInputTensor { name: name.to_owned(), datatype: "UINT8".to_owned(), shape: vec![1], ..InferInputTensor::default() }
    }

    fn typed(name: &str) -> InferInputTensor {
        let contents = InferTensorContents { uint_contents: vec![7], ..InferTensorContents::default() };
        InferInputTensor { contents: Some(contents), ..input(name) }
    }

    fn in_shared_memory(name: &str) -> InferInputTensor {
        let region = choice(ParameterChoice::StringParam("region".to_owned()));
        InferInputTensor { parameters: [(SHARED_MEMORY_REGION.to_owned(), region)].into(), ..input(name) }
    }

    fn request(inputs: Vec<InferInputTensor>, raw: &[&'static [u8]]) -> ModelInferRequest {
        ModelInferRequest {
            model_name: "m".to_owned(),
            id: "7".to_owned(),
            inputs,
            raw_input_contents: raw.iter().map(|raw| Bytes::from_static(raw)).collect(),
            ..ModelInferRequest::default()
        }
    }

    #[test]
    fn raw_data_belong_to_the_inputs_that_are_not_in_shared_memory() {
        let (form, decoded) = decoded(request(vec![input("a"), in_shared_memory("b"), input("c")], &[b"1", b"2"]));
        let data: Vec<_> = decoded.expect("sound").inputs.into_iter().map(|input| input.data).collect();
        assert_eq!(data, [Some(Bytes::from_static(b"1")), None, Some(Bytes::from_static(b"2"))]);
        assert_eq!(form, ReplyForm { id: "7".to_owned(), typed: false, wants_final: false });
    }

    #[test]
    fn typed_contents_are_taken_and_answered_in_both_forms() {
        let (form, decoded) = decoded(request(vec![typed("a")], &[]));
        assert_eq!(decoded.expect("sound").inputs[0].data.as_deref(), Some(&[7][..]));
        let data = OutputData::Here(Bytes::from_static(&[8]));
        let output = OutputTensor { name: "y".into(), datatype: Datatype::Uint8, shape: vec![1], data };
        let response = InferResponse { model: "m".into(), version: "1".into(), id: "7".to_owned(), outputs: vec![output] };
        let message = encode(response.clone(), &form);
        assert_eq!(message.outputs[0].contents.as_ref().expect("typed").uint_contents, [8]);
        assert_eq!(message.raw_output_contents, [&[8][..]]);
        assert_eq!(encode(response, &ReplyForm::default()).outputs[0].contents, None);
    }

    #[test]
    fn an_output_in_shared_memory_keeps_its_place_among_the_raw_ones() {
        let shared = SharedOutput { region: "r".to_owned(), offset: 4, bytes: 1 };
        let output = |data| OutputTensor { name: "y".into(), datatype: Datatype::Uint8, shape: vec![1], data };
        let outputs = vec![output(OutputData::Shared(shared)), output(OutputData::Here(Bytes::from_static(&[9])))];
        let response = InferResponse { model: "m".into(), version: "1".into(), id: String::new(), outputs };
        let message = encode(response, &ReplyForm { wants_final: true, ..ReplyForm::default() });
        assert_eq!(message.raw_output_contents, [&[][..], &[9]]);
        assert_eq!(message.outputs[0].parameters["shared_memory_offset"], choice(ParameterChoice::Uint64Param(4)));
        assert_eq!(message.parameters[FINAL_RESPONSE], choice(ParameterChoice::BoolParam(true)));
    }

    #[test]
    fn each_fault_names_its_field() {
        let fault = |request| decoded(request).1.expect_err("must be refused");
        let unknown = InferInputTensor { datatype: "FP13".to_owned(), ..input("a") };
        let nameless = ModelInferRequest { model_name: String::new(), ..request(vec![input("a")], &[b"1"]) };
        let mut valueless = request(vec![input("a")], &[b"1"]);
        valueless.parameters.insert("priority".to_owned(), InferParameter::default());
        let cases = [
            (nameless, "model_name", "is missing"),
            (request(vec![unknown], &[b"1"]), "inputs[0].datatype", "unknown datatype 'FP13'"),
            (request(vec![input("a"), input("b")], &[b"1"]), "raw_input_contents", "holds 1 tensors, but 2 inputs"),
            (request(vec![typed("a")], &[b"1"]), "inputs[0].contents", "in another form as well"),
            (valueless, "parameters.priority", "has no value"),
        ];
        for (request, field, message) in cases {
            let fault = fault(request);
            assert_eq!(fault.field(), Some(field), "{fault}");
            assert!(fault.message().contains(message), "{fault}");
        }
    }

    #[test]
    fn long_typed_contents_are_decoded_elsewhere_and_raw_ones_here() {
        let raw = |request: ModelInferRequest| {
            InferRequestBytes::from_wire(&*request.encode_to_vec()).expect("bytes are taken as they come")
        };
        let raw_contents =
            ModelInferRequest { raw_input_contents: vec![vec![0; 1 << 20].into()], ..request(vec![input("a")], &[]) };
        assert!(long_bytes(&raw(raw_contents)) <= INLINE_BYTES_MAX);
        let typed_contents = |count| {
            let contents = InferTensorContents { fp32_contents: vec![0.0; count], ..InferTensorContents::default() };
            request(vec![InferInputTensor { contents: Some(contents), ..input("a") }], &[])
        };
        assert!(long_bytes(&raw(typed_contents(10_000))) <= INLINE_BYTES_MAX);
        assert!(long_bytes(&raw(typed_contents(20_000))) > INLINE_BYTES_MAX);
        let broken = InferRequestBytes::from_wire(&[0xff; 100_000][..]).expect("bytes are taken as they come");
        assert_eq!(long_bytes(&broken), 0);
        assert_eq!(decode(broken).expect_err("no message").kind(), crate::domain::FaultKind::Invalid);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(message) = ModelInferRequest::decode(&*bytes) {
                let _ = decoded(message);
            }
        }
    }
}
