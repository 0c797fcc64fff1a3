//! What a client says on a feed, from JSON or protobuf.
//!
//! JSON is that of proto3: both spellings of a field, 64-bit integers also as text, bytes in base64, enums by name or number, `null` for what
//! is not set. A field that there is not is an error. It is read straight into what the session takes.

use std::{fmt, marker::PhantomData};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD_PAD_INDIFFERENT, URL_SAFE_PAD_INDIFFERENT},
};
use bytes::Bytes;
use prost::Message as _;
use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, SeqAccess, Visitor},
};

use crate::{
    domain::{Fault, NamedTensor},
    frontend::messages::{
        convert, feed,
        wire::{self, DIMS_MAX, TENSORS_MAX},
    },
    native,
    proto::v1,
    session::{Inbound, ItemRequest},
};

/// A message of a client.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Said {
    /// It opens the stream.
    Open(Box<v1::StreamConfig>),
    /// It says this on the open stream; `None` if it is the last.
    More(Option<Inbound>),
}

impl Said {
    /// What it opens the stream with, if it does.
    pub(super) fn into_open(self) -> Option<v1::StreamConfig> {
        match self {
            Self::Open(config) => Some(*config),
            Self::More(_) => None,
        }
    }

    /// What it says on a stream that is open.
    ///
    /// # Errors
    /// [`FaultKind::Invalid`](crate::domain::FaultKind::Invalid) if it opens one.
    pub(super) fn into_more(self) -> Result<Option<Inbound>, Fault> {
        match self {
            Self::More(inbound) => Ok(inbound),
            Self::Open(_) => Err(native::open_twice()),
        }
    }
}

/// # Errors
/// [`FaultKind::Invalid`](crate::domain::FaultKind::Invalid) if it is not a `FeedRequest`.
pub(super) fn from_proto(message: Bytes) -> Result<Said, Fault> {
    let request = wire::FeedRequest::decode(message)
        .map_err(|error| Fault::invalid("message", format!("the message is not a FeedRequest in protobuf: {error}")))?;
    match request.message {
        Some(wire::feed_request::Message::Open(config)) => Ok(Said::Open(Box::new(config))),
        message => feed::inbound(wire::FeedRequest { message }).map(Said::More),
    }
}

/// # Errors
/// [`FaultKind::Invalid`](crate::domain::FaultKind::Invalid) if it is not a `FeedRequest`.
pub(super) fn from_json(text: &str) -> Result<Said, Fault> {
    let request = serde_json::from_str(text)
        .map_err(|error| Fault::invalid("message", format!("the message is not a FeedRequest in JSON: {error}")))?;
    let Request { open, item, chunk, flush, keepalive, finish } = request;
    let flush = flush.map(|flush| native::check_id("flush.id", flush.id.unwrap_or_default()).map(Inbound::Flush)).transpose()?;
    let said = [
        open.map(|config| Said::Open(Box::new(config.into()))),
        item.map(|item| Said::More(Some(Inbound::Item(item.into())))),
        chunk.map(|Base64(chunk)| Said::More(Some(Inbound::Chunk(chunk)))),
        flush.map(|flush| Said::More(Some(flush))),
        keepalive.map(|Nothing {}| Said::More(Some(Inbound::KeepAlive))),
        finish.map(|Nothing {}| Said::More(None)),
    ];
    let mut said = said.into_iter().flatten();
    match (said.next(), said.next()) {
        (Some(said), None) => Ok(said),
        (None, _) => Err(feed::empty()),
        (Some(_), Some(_)) => Err(Fault::invalid("message", "the message says more than one thing; send one after the other")),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    open: Option<Config>,
    item: Option<Item>,
    chunk: Option<Base64>,
    flush: Option<Flush>,
    keepalive: Option<Nothing>,
    finish: Option<Nothing>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Flush {
    id: Option<String>,
}

/// `StreamConfig`.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Config {
    model: Option<String>,
    version: Option<String>,
    payload: Option<Named<v1::PayloadKind>>,
    order: Option<Named<v1::ResultOrder>>,
    #[serde(alias = "window_items")]
    window_items: Option<Whole<u32>>,
    #[serde(alias = "default_deadline")]
    default_deadline: Option<Span>,
    overflow: Option<Named<v1::OverflowPolicy>>,
    #[serde(alias = "max_age")]
    max_age: Option<Span>,
    unread: Option<Named<v1::UnreadPolicy>>,
    priority: Option<Named<v1::Priority>>,
    #[serde(alias = "sample_rate_hz")]
    sample_rate_hz: Option<Whole<u32>>,
    #[serde(alias = "audio_format")]
    audio_format: Option<Named<v1::AudioFormat>>,
    #[serde(alias = "accept_container_bytes")]
    accept_container_bytes: Option<bool>,
}

impl From<Config> for v1::StreamConfig {
    fn from(config: Config) -> Self {
        Self {
            model: config.model.unwrap_or_default(),
            version: config.version.unwrap_or_default(),
            payload: number(config.payload),
            order: number(config.order),
            window_items: config.window_items.map_or(0, |Whole(items)| items),
            default_deadline: config.default_deadline.map(|Span(span)| span),
            overflow: number(config.overflow),
            max_age: config.max_age.map(|Span(span)| span),
            unread: number(config.unread),
            priority: number(config.priority),
            sample_rate_hz: config.sample_rate_hz.map_or(0, |Whole(rate)| rate),
            audio_format: number(config.audio_format),
            accept_container_bytes: config.accept_container_bytes.unwrap_or_default(),
        }
    }
}

/// `Item`.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Item {
    id: Option<String>,
    inputs: Option<Capped<Tensor, TENSORS_MAX>>,
    deadline: Option<Span>,
}

/// `Tensor`.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Tensor {
    name: Option<String>,
    datatype: Option<Named<v1::Datatype>>,
    shape: Option<Capped<Whole<i64>, DIMS_MAX>>,
    data: Option<Base64>,
}

impl From<Item> for ItemRequest {
    /// As items in protobuf become requests: what is wrong with one becomes its answer.
    fn from(item: Item) -> Self {
        let failed = |id, fault| Self { id, tensors: Err(fault), deadline: None };
        let Item { id, inputs, deadline } = item;
        let id = match native::check_id("id", id.unwrap_or_default()) {
            Ok(id) => id,
            Err(fault) => return failed(String::new(), fault),
        };
        match deadline.map(|Span(span)| convert::duration("deadline", span)).transpose() {
            Ok(deadline) => Self { id, tensors: tensors(inputs.unwrap_or_default()), deadline },
            Err(fault) => failed(id, fault),
        }
    }
}

fn tensors(inputs: Capped<Tensor, TENSORS_MAX>) -> Result<Vec<NamedTensor>, Fault> {
    let Capped { list, has_more } = inputs;
    let tensors = list.into_iter().enumerate().map(|(index, Tensor { name, datatype, shape, data })| {
        let Capped { list: shape, has_more } = shape.unwrap_or_default();
        if has_more {
            return Err(wire::too_many_dims(index));
        }
        let number = number(datatype);
        let datatype = v1::Datatype::try_from(number)
            .map_err(|_| convert::unknown_enum(format!("inputs[{index}].datatype"), "Datatype", number))?;
        Ok(NamedTensor {
            name: name.unwrap_or_default(),
            datatype: convert::from_wire_datatype(datatype),
            shape: shape.into_iter().map(|Whole(size)| size).collect(),
            data: data.map(|Base64(data)| data).unwrap_or_default(),
        })
    });
    let tensors: Result<Vec<_>, Fault> = tensors.collect();
    if has_more && tensors.is_ok() { Err(wire::too_many_tensors()) } else { tensors }
}

/// Bytes in base64, of either alphabet, with padding or without.
struct Base64(Bytes);

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Base64;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes in base64")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Base64, E> {
                let decoded = match STANDARD_PAD_INDIFFERENT.decode(text) {
                    Err(_) if text.contains(['-', '_']) => URL_SAFE_PAD_INDIFFERENT.decode(text),
                    decoded => decoded,
                };
                decoded.map(|bytes| Base64(bytes.into())).map_err(|error| E::custom(format_args!("not base64: {error}")))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

/// A duration as text, such as `1.5s`.
struct Span(prost_types::Duration);

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Span;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a duration in seconds, such as \"1.5s\"")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Span, E> {
                let is_short = text.len() <= 32;
                let duration = text.parse().ok().filter(|_| is_short);
                duration.map(Span).ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

/// An integer, also as text, or as a number with nothing behind its point.
struct Whole<N>(N);

impl<'de, N: TryFrom<i64>> Deserialize<'de> for Whole<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Number<N>(PhantomData<N>);
        impl<N: TryFrom<i64>> Visitor<'_> for Number<N> {
            type Value = Whole<N>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "an integer of the type {}", std::any::type_name::<N>())
            }

            fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Whole<N>, E> {
                let fits = N::try_from(number).ok().map(Whole);
                fits.ok_or_else(|| E::invalid_value(serde::de::Unexpected::Signed(number), &self))
            }

            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Whole<N>, E> {
                let fits = i64::try_from(number).ok().and_then(|number| N::try_from(number).ok()).map(Whole);
                fits.ok_or_else(|| E::invalid_value(serde::de::Unexpected::Unsigned(number), &self))
            }

            fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<Whole<N>, E> {
                // Whole numbers up to 2^53 are exact.
                let is_whole = number.trunc() == number && number.abs() <= 9_007_199_254_740_992.0;
                if is_whole {
                    return self.visit_i64(number as i64);
                }
                Err(E::invalid_value(serde::de::Unexpected::Float(number), &self))
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Whole<N>, E> {
                let number = text.parse::<i64>().ok().and_then(|number| N::try_from(number).ok());
                number.map(Whole).ok_or_else(|| E::invalid_value(serde::de::Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_any(Number(PhantomData))
    }
}

/// An enum of the proto files.
trait Enumeration {
    const NAME: &'static str;

    /// The number of the value with this name.
    fn number(name: &str) -> Option<i32>;
}

macro_rules! enumerations {
    ($($name:ident)*) => {$(
        impl Enumeration for v1::$name {
            const NAME: &'static str = stringify!($name);

            fn number(name: &str) -> Option<i32> {
                Self::from_str_name(name).map(i32::from)
            }
        }
    )*};
}

enumerations! { PayloadKind ResultOrder OverflowPolicy UnreadPolicy Priority Datatype AudioFormat }

/// A value of the enum `E`, by its name or its number; which numbers there are is checked later.
struct Named<E>(i32, PhantomData<fn() -> E>);

fn number<E>(named: Option<Named<E>>) -> i32 {
    named.map_or(0, |Named(number, _)| number)
}

impl<'de, E: Enumeration> Deserialize<'de> for Named<E> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Value<E>(PhantomData<E>);
        impl<E: Enumeration> Visitor<'_> for Value<E> {
            type Value = Named<E>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a value of the enum {}", E::NAME)
            }

            fn visit_i64<F: serde::de::Error>(self, number: i64) -> Result<Named<E>, F> {
                let number = i32::try_from(number).map_err(|_| F::invalid_value(serde::de::Unexpected::Signed(number), &self))?;
                Ok(Named(number, PhantomData))
            }

            fn visit_u64<F: serde::de::Error>(self, number: u64) -> Result<Named<E>, F> {
                self.visit_i64(i64::try_from(number).unwrap_or(i64::MAX))
            }

            fn visit_str<F: serde::de::Error>(self, name: &str) -> Result<Named<E>, F> {
                let number = E::number(name).ok_or_else(|| F::invalid_value(serde::de::Unexpected::Str(name), &self))?;
                Ok(Named(number, PhantomData))
            }
        }
        deserializer.deserialize_any(Value(PhantomData))
    }
}

/// A list of which at most `MAX` members are kept: an empty one takes two bytes on the wire and some hundred in memory.
struct Capped<T, const MAX: usize> {
    list: Vec<T>,
    has_more: bool,
}

impl<T, const MAX: usize> Default for Capped<T, MAX> {
    fn default() -> Self {
        Self { list: Vec::new(), has_more: false }
    }
}

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for Capped<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members<T, const MAX: usize>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for Members<T, MAX> {
            type Value = Capped<T, MAX>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut members: A) -> Result<Capped<T, MAX>, A::Error> {
                let mut list = Vec::new();
                while list.len() < MAX {
                    let Some(member) = members.next_element()? else { return Ok(Capped { list, has_more: false }) };
                    list.push(member);
                }
                let mut has_more = false;
                while members.next_element::<IgnoredAny>()?.is_some() {
                    has_more = true;
                }
                Ok(Capped { list, has_more })
            }
        }
        deserializer.deserialize_seq(Members(PhantomData))
    }
}

#[cfg(test)]
mod tests;
