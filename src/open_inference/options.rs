//! The options in a request's parameters.

use std::{fmt, time::Duration};

use super::request::{Parameter, Parameters};
use crate::{
    domain::{Fault, Priority},
    registry::Model,
    service::{Caller, OpenRequest},
    session::{Order, OverflowPolicy, PayloadKind, PcmOptions, Unread},
};

/// Longest id of a sequence: ids are kept for as long as it lives.
const SEQUENCE_ID_BYTES_MAX: usize = 256;

/// Prefix of the parameters that the protocol keeps for itself.
const RESERVED_PREFIX: &str = "triton_";

/// Asks for the last response to a request to be marked as the last.
pub const ENABLE_FINAL_RESPONSE: &str = "triton_enable_empty_final_response";

/// The options in a request's parameters.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Options {
    /// The request's step in a sequence; `None` if it belongs to none.
    pub(super) step: Option<SequenceStep>,
    /// How urgent it is.
    pub(super) priority: Priority,
    /// Time from its arrival within which its result must be computed.
    pub(super) timeout: Option<Duration>,
}

/// One step of a sequence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SequenceStep {
    pub(super) id: SequenceId,
    /// The first: it begins with fresh state.
    pub(super) starts: bool,
    /// The last: the state is freed once it is answered.
    pub(super) ends: bool,
}

/// A client's id for a sequence.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum SequenceId {
    Number(u64),
    Text(String),
}

impl fmt::Display for SequenceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Text(text) => write!(f, "'{text}'"),
        }
    }
}

impl Options {
    /// The options of a session for `items` items of a request.
    pub(super) fn open_request(&self, model: &Model, version: String, caller: Caller, items: usize) -> OpenRequest {
        OpenRequest {
            model: String::from(&*model.loaded.name),
            version,
            payload: PayloadKind::Tensors,
            pcm: PcmOptions::default(),
            order: Order::InOrder,
            window_items: u32::try_from(items).unwrap_or(u32::MAX),
            unread: Unread::Block,
            default_deadline: None,
            overflow: OverflowPolicy::Block,
            max_age: None,
            priority: self.priority,
            caller,
        }
    }

    /// # Errors
    /// [`FaultKind::Invalid`](crate::domain::FaultKind::Invalid) with the parameter's name: a value of the wrong kind, or a
    /// reserved name that means nothing here. Other names are the client's own, and are ignored.
    pub(super) fn of(parameters: &Parameters) -> Result<Self, Fault> {
        let mut options = Self::default();
        let (mut id, mut starts, mut ends) = (None, false, false);
        for (name, value) in parameters {
            match name.as_str() {
                "sequence_id" => id = sequence_id(value)?,
                "sequence_start" => starts = flag(name, value)?,
                "sequence_end" => ends = flag(name, value)?,
                "priority" => options.priority = priority(count(name, value, "a priority")?),
                "timeout" => options.timeout = timeout(count(name, value, "microseconds")?),
                ENABLE_FINAL_RESPONSE => {
                    flag(name, value)?;
                }
                name if name.starts_with(RESERVED_PREFIX) => {
                    let message = format!("'{name}' is not a parameter; names that begin with {RESERVED_PREFIX} are reserved");
                    return Err(Fault::invalid(format!("parameters.{name}"), message));
                }
                _ => {}
            }
        }
        options.step = id.map(|id| SequenceStep { id, starts, ends });
        Ok(options)
    }
}

/// Triton's numbers: 1 is the most urgent, and 0 means the default.
const fn priority(number: u64) -> Priority {
    match number {
        0 | 2 => Priority::Normal,
        1 => Priority::High,
        3.. => Priority::Low,
    }
}

/// 0 means none.
fn timeout(micros: u64) -> Option<Duration> {
    (micros > 0).then_some(Duration::from_micros(micros))
}

/// 0 and the empty text mean that the request belongs to no sequence.
fn sequence_id(value: &Parameter) -> Result<Option<SequenceId>, Fault> {
    match value {
        Parameter::String(text) if text.is_empty() => Ok(None),
        Parameter::String(text) if text.len() > SEQUENCE_ID_BYTES_MAX => Err(Fault::invalid(
            "parameters.sequence_id",
            format!("the sequence id has {} bytes; at most {SEQUENCE_ID_BYTES_MAX} are allowed", text.len()),
        )),
        Parameter::String(text) => Ok(Some(SequenceId::Text(text.clone()))),
        // Clients of the protocol know ids as unsigned, and send them as signed.
        Parameter::Int64(number) => Ok((*number != 0).then_some(SequenceId::Number(number.cast_unsigned()))),
        Parameter::Uint64(number) => Ok((*number != 0).then_some(SequenceId::Number(*number))),
        Parameter::Bool(_) | Parameter::Double(_) => Err(wrong_kind("sequence_id", value, "an integer or a string")),
    }
}

pub(super) fn flag(name: &str, value: &Parameter) -> Result<bool, Fault> {
    if let Parameter::Bool(flag) = value { Ok(*flag) } else { Err(wrong_kind(name, value, "true or false")) }
}

fn count(name: &str, value: &Parameter, unit: &str) -> Result<u64, Fault> {
    match value {
        Parameter::Uint64(number) => Ok(*number),
        Parameter::Int64(number) => u64::try_from(*number).map_err(|_| wrong_kind(name, value, &format!("{unit} from 0"))),
        _ => Err(wrong_kind(name, value, &format!("an integer, {unit}"))),
    }
}

fn wrong_kind(name: &str, value: &Parameter, wanted: &str) -> Fault {
    Fault::invalid(format!("parameters.{name}"), format!("parameter '{name}' is {value}, but must be {wanted}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(parameters: &[(&str, Parameter)]) -> Result<Options, Fault> {
        Options::of(&parameters.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect())
    }

    #[test]
    fn a_request_without_an_id_belongs_to_no_sequence() {
        for none in [Parameter::Int64(0), Parameter::Uint64(0), Parameter::String(String::new())] {
            let found = options(&[("sequence_id", none), ("sequence_start", Parameter::Bool(true))]).expect("sound");
            assert_eq!(found.step, None);
        }
    }

    #[test]
    fn ids_are_numbers_or_texts_and_the_two_never_meet() {
        let id = |value| options(&[("sequence_id", value)]).expect("sound").step.expect("a step").id;
        assert_eq!(id(Parameter::Int64(7)), id(Parameter::Uint64(7)));
        assert_eq!(id(Parameter::Int64(-1)), SequenceId::Number(u64::MAX));
        assert_ne!(id(Parameter::Int64(7)), id(Parameter::String("7".to_owned())));
    }

    #[test]
    fn the_protocols_priorities_are_mapped() {
        let priority = |number| options(&[("priority", Parameter::Uint64(number))]).expect("sound").priority;
        let found: Vec<_> = [0, 1, 2, 3, u64::MAX].map(priority).into();
        assert_eq!(found, [Priority::Normal, Priority::High, Priority::Normal, Priority::Low, Priority::Low]);
    }

    #[test]
    fn a_timeout_is_in_microseconds_and_zero_is_none() {
        let timeout = |micros| options(&[("timeout", Parameter::Int64(micros))]).map(|options| options.timeout);
        assert_eq!(timeout(0), Ok(None));
        assert_eq!(timeout(1_500), Ok(Some(Duration::from_micros(1_500))));
        assert!(timeout(-1).expect_err("negative").message().contains("is -1, but must be microseconds from 0"));
    }

    #[test]
    fn a_value_of_the_wrong_kind_is_named() {
        let cases = [
            ("sequence_id", Parameter::Bool(true)),
            ("sequence_start", Parameter::Int64(1)),
            ("priority", Parameter::String("high".to_owned())),
            ("timeout", Parameter::Double(1.0)),
            ("triton_magic", Parameter::Bool(true)),
        ];
        for (name, value) in cases {
            let fault = options(&[(name, value)]).expect_err("the wrong kind");
            assert_eq!(fault.field(), Some(format!("parameters.{name}").as_str()), "{fault}");
        }
        assert!(options(&[("my_own", Parameter::Bool(true)), (ENABLE_FINAL_RESPONSE, Parameter::Bool(true))]).is_ok());
    }
}
