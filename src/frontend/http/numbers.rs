//! The bytes of tensors as JSON: flat lists, nested ones, lone values.

use serde::{Serialize, Serializer, ser::SerializeSeq as _};

use crate::domain::{Datatype, Fault};

/// The elements of an output, known to have a form in JSON.
#[derive(Debug, Clone, Copy)]
pub(super) struct JsonElements<'a> {
    datatype: Datatype,
    data: &'a [u8],
}

impl<'a> JsonElements<'a> {
    /// The elements of the output `name`.
    ///
    /// # Errors
    /// [`FaultKind::Invalid`](crate::domain::FaultKind::Invalid) for what JSON cannot hold: FP16, BF16, numbers that are not finite.
    pub(super) fn new(name: &str, datatype: Datatype, data: &'a [u8]) -> Result<Self, Fault> {
        let refuse = |what: String| {
            let message = format!("output '{name}' {what}; ask for it as binary data (binary_data, binary_data_output)");
            Err(Fault::invalid("outputs", message))
        };
        let strange = match datatype {
            Datatype::Fp16 | Datatype::Bf16 | Datatype::Bytes => {
                return refuse(format!("is {datatype}, which has no form in JSON"));
            }
            Datatype::Fp32 => not_finite(numbers(data, f32::from_le_bytes).map(f64::from)),
            Datatype::Fp64 => not_finite(numbers(data, f64::from_le_bytes)),
            Datatype::Bool
            | Datatype::Uint8
            | Datatype::Uint16
            | Datatype::Uint32
            | Datatype::Uint64
            | Datatype::Int8
            | Datatype::Int16
            | Datatype::Int32
            | Datatype::Int64 => None,
        };
        match strange {
            Some((index, value)) => refuse(format!("has {value} as element {index}, which JSON cannot hold")),
            None => Ok(Self { datatype, data }),
        }
    }

    /// All of them in one list.
    pub(super) const fn flat(self) -> JsonTensor<'a> {
        JsonTensor { elements: self, form: Form::Flat }
    }

    /// In lists nested as `shape` says; a lone value if there is but one.
    pub(super) fn nested(self, shape: &'a [i64]) -> JsonTensor<'a> {
        let form = if self.len() == 1 { Form::Nested(&[]) } else { Form::Nested(shape) };
        JsonTensor { elements: self, form }
    }

    fn len(&self) -> usize {
        self.data.len() / self.datatype.least_size()
    }

    /// As many equal parts.
    fn parts(self, count: usize) -> impl Iterator<Item = Self> {
        let bytes = self.data.len() / count.max(1);
        let part = move |index: usize| Self { data: &self.data[index * bytes..(index + 1) * bytes], ..self };
        (0..count).map(part)
    }
}

/// A tensor in the form that it is to have in JSON.
#[derive(Debug, Clone, Copy)]
pub(super) struct JsonTensor<'a> {
    elements: JsonElements<'a>,
    form: Form<'a>,
}

#[derive(Debug, Clone, Copy)]
enum Form<'a> {
    Flat,
    /// Lists of these lengths; none is a lone value.
    Nested(&'a [i64]),
}

impl Serialize for JsonTensor<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if let Form::Nested([length, rest @ ..]) = self.form
            && !rest.is_empty()
        {
            let count = usize::try_from(*length).unwrap_or_default();
            let mut list = serializer.serialize_seq(Some(count))?;
            for elements in self.elements.parts(count) {
                list.serialize_element(&JsonTensor { elements, form: Form::Nested(rest) })?;
            }
            return list.end();
        }
        let lone = matches!(self.form, Form::Nested([]));
        let data = self.elements.data;
        match self.elements.datatype {
            Datatype::Bool => write(serializer, lone, data.iter().map(|byte| *byte != 0)),
            Datatype::Uint8 => write(serializer, lone, data.iter()),
            Datatype::Uint16 => write(serializer, lone, numbers(data, u16::from_le_bytes)),
            Datatype::Uint32 => write(serializer, lone, numbers(data, u32::from_le_bytes)),
            Datatype::Uint64 => write(serializer, lone, numbers(data, u64::from_le_bytes)),
            Datatype::Int8 => write(serializer, lone, numbers(data, i8::from_le_bytes)),
            Datatype::Int16 => write(serializer, lone, numbers(data, i16::from_le_bytes)),
            Datatype::Int32 => write(serializer, lone, numbers(data, i32::from_le_bytes)),
            Datatype::Int64 => write(serializer, lone, numbers(data, i64::from_le_bytes)),
            Datatype::Fp32 => write(serializer, lone, numbers(data, f32::from_le_bytes)),
            Datatype::Fp64 => write(serializer, lone, numbers(data, f64::from_le_bytes)),
            // Refused before.
            Datatype::Fp16 | Datatype::Bf16 | Datatype::Bytes => serializer.serialize_none(),
        }
    }
}

fn write<S: Serializer, T: Serialize>(serializer: S, lone: bool, mut values: impl Iterator<Item = T>) -> Result<S::Ok, S::Error> {
    if lone { values.next().serialize(serializer) } else { serializer.collect_seq(values) }
}

fn numbers<T, const N: usize>(data: &[u8], from_le_bytes: fn([u8; N]) -> T) -> impl Iterator<Item = T> {
    data.as_chunks().0.iter().map(move |bytes| from_le_bytes(*bytes))
}

fn not_finite(values: impl Iterator<Item = f64>) -> Option<(usize, f64)> {
    values.enumerate().find(|(_, value)| !value.is_finite())
}
