//! The bytes of tensors as JSON: flat lists, nested ones, lone values.

use serde::{Serialize, Serializer, ser::SerializeSeq as _};

use crate::domain::{ByteElements, Datatype, Fault, match_datatype};

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
    /// [`FaultKind::Invalid`](crate::domain::FaultKind::Invalid) for what JSON cannot hold: FP16, BF16, numbers that are not
    /// finite, BYTES that are not UTF-8.
    pub(super) fn new(name: &str, datatype: Datatype, data: &'a [u8]) -> Result<Self, Fault> {
        let refuse = |what: String| {
            let message = format!("output '{name}' {what}; ask for it as binary data (binary_data, binary_data_output)");
            Err(Fault::invalid("outputs", message))
        };
        let strange = match datatype {
            Datatype::Fp16 | Datatype::Bf16 => return refuse(format!("is {datatype}, which has no form in JSON")),
            Datatype::Fp32 => not_finite(numbers(data, f32::from_le_bytes).map(f64::from)),
            Datatype::Fp64 => not_finite(numbers(data, f64::from_le_bytes)),
            Datatype::Bytes => ByteElements::new(data)
                .position(|element| str::from_utf8(element).is_err())
                .map(|index| (index, "bytes that are not UTF-8".to_owned())),
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

    /// In lists nested as `shape` says; a lone value if there is only one.
    pub(super) fn nested(self, shape: &'a [i64]) -> JsonTensor<'a> {
        let form = if self.len() == 1 { Form::Nested(&[]) } else { Form::Nested(shape) };
        JsonTensor { elements: self, form }
    }

    fn len(&self) -> usize {
        match self.datatype.fixed_size() {
            Some(size) => self.data.len() / size,
            None => ByteElements::new(self.data).count(),
        }
    }

    /// That many parts, with equal numbers of elements.
    fn parts(self, count: usize) -> impl Iterator<Item = Self> {
        let elements = self.len() / count.max(1);
        let mut rest = self.data;
        (0..count).map(move |_| {
            let data = match self.datatype.fixed_size() {
                Some(size) => rest.split_off(..elements * size).unwrap_or_default(),
                None => split_off_elements(&mut rest, elements),
            };
            Self { data, ..self }
        })
    }
}

/// Takes the first `count` elements off BYTES data.
fn split_off_elements<'a>(rest: &mut &'a [u8], count: usize) -> &'a [u8] {
    let mut elements = ByteElements::new(rest);
    elements.by_ref().take(count).for_each(drop);
    let (taken, left) = rest.split_at(rest.len() - elements.rest().len());
    *rest = left;
    taken
}

/// A tensor in the form that it gets in JSON.
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
        match_datatype!(self.elements.datatype, {
            Int => write(serializer, lone, numbers(data, Int::from_le_bytes)),
            Datatype::Bool => write(serializer, lone, data.iter().map(|byte| *byte != 0)),
            Datatype::Fp32 => write(serializer, lone, numbers(data, f32::from_le_bytes)),
            Datatype::Fp64 => write(serializer, lone, numbers(data, f64::from_le_bytes)),
            Datatype::Bytes => write(serializer, lone, strings(data)),
            // Refused before.
            Datatype::Fp16 | Datatype::Bf16 => serializer.serialize_none(),
        })
    }
}

fn write<S: Serializer, T: Serialize>(serializer: S, lone: bool, mut values: impl Iterator<Item = T>) -> Result<S::Ok, S::Error> {
    if lone { values.next().serialize(serializer) } else { serializer.collect_seq(values) }
}

fn numbers<T, const N: usize>(data: &[u8], from_le_bytes: fn([u8; N]) -> T) -> impl Iterator<Item = T> {
    data.as_chunks().0.iter().map(move |bytes| from_le_bytes(*bytes))
}

fn not_finite(values: impl Iterator<Item = f64>) -> Option<(usize, String)> {
    let (index, value) = values.enumerate().find(|(_, value)| !value.is_finite())?;
    Some((index, value.to_string()))
}

fn strings(data: &[u8]) -> impl Iterator<Item = &str> {
    // Checked to be UTF-8 before.
    ByteElements::new(data).map(|element| str::from_utf8(element).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        domain::push_element,
        frontend::http::from_json::{self, Layout},
    };

    fn flat(datatype: Datatype, data: &[u8]) -> String {
        serde_json::to_string(&JsonElements::new("y", datatype, data).expect("a form in JSON").flat()).expect("JSON")
    }

    fn nested(data: &[u8], shape: &[i64]) -> String {
        let elements = JsonElements::new("y", Datatype::Uint8, data).expect("a form in JSON");
        serde_json::to_string(&elements.nested(shape)).expect("JSON")
    }

    #[test]
    fn numbers_are_written_as_short_as_they_can_be_read_back() {
        let floats: Vec<u8> = [0.1_f32, 16_777_216.0, -0.0, 1e-45].iter().flat_map(|value| value.to_le_bytes()).collect();
        assert_eq!(flat(Datatype::Fp32, &floats), "[0.1,16777216.0,-0.0,1e-45]");
        assert_eq!(flat(Datatype::Uint64, &u64::MAX.to_le_bytes()), "[18446744073709551615]");
        assert_eq!(flat(Datatype::Bool, &[0, 1, 2]), "[false,true,true]");
        assert_eq!(flat(Datatype::Int8, &[]), "[]");
    }

    #[test]
    fn lists_are_nested_as_the_shape_and_a_lone_value_stands_alone() {
        assert_eq!(nested(&[1, 2, 3, 4, 5, 6], &[2, 3]), "[[1,2,3],[4,5,6]]");
        assert_eq!(nested(&[1, 2], &[2, 1, 1]), "[[[1]],[[2]]]");
        assert_eq!(nested(&[1, 2], &[2]), "[1,2]");
        assert_eq!(nested(&[7], &[1, 1]), "7");
        assert_eq!(nested(&[7], &[]), "7");
        assert_eq!(nested(&[], &[0, 3]), "[]");
    }

    #[test]
    fn strings_are_written_with_their_escapes() {
        let mut data = Vec::new();
        for element in ["a\"\n", "", "né", "4"] {
            push_element(&mut data, element.as_bytes()).expect("it is short");
        }
        assert_eq!(flat(Datatype::Bytes, &data), r#"["a\"\n","","né","4"]"#);
        let elements = JsonElements::new("y", Datatype::Bytes, &data).expect("text");
        let json = serde_json::to_string(&elements.nested(&[2, 2])).expect("JSON");
        assert_eq!(json, r#"[["a\"\n",""],["né","4"]]"#);
        let lone = JsonElements::new("y", Datatype::Bytes, &data[..7]).expect("text");
        assert_eq!(serde_json::to_string(&lone.nested(&[1, 1])).expect("JSON"), r#""a\"\n""#);
    }

    #[test]
    fn what_json_cannot_hold_is_named_with_what_to_do() {
        let infinite: Vec<u8> = [1.0_f64, f64::NEG_INFINITY].iter().flat_map(|value| value.to_le_bytes()).collect();
        let nan = f32::NAN.to_le_bytes();
        for (datatype, data, what) in [
            (
                Datatype::Fp64,
                &infinite[..],
                "output 'y' has -inf as element 1, which JSON cannot hold; ask for it as binary data",
            ),
            (Datatype::Fp32, &nan, "output 'y' has NaN as element 0"),
            (Datatype::Fp16, &[0, 0], "output 'y' is FP16, which has no form in JSON"),
            (Datatype::Bf16, &[0, 0], "output 'y' is BF16"),
            (Datatype::Bytes, b"\x01\0\0\0a\x01\0\0\0\xff", "output 'y' has bytes that are not UTF-8 as element 1"),
        ] {
            let fault = JsonElements::new("y", datatype, data).expect_err("no form in JSON");
            assert!(fault.message().starts_with(what), "{fault}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            for datatype in Datatype::ALL {
                // BYTES data may be cut anywhere: what the last element lacks is simply missing.
                let data = &bytes[..bytes.len() / datatype.least_size() * datatype.least_size()];
                let Ok(elements) = JsonElements::new("y", datatype, data) else { continue };
                let json = serde_json::to_string(&elements.flat()).expect("JSON");
                let back = from_json::read(&json, datatype, Layout::Any).expect("it was written so").data;
                if datatype == Datatype::Bytes {
                    prop_assert!(ByteElements::new(&back).eq(ByteElements::new(data)));
                } else if datatype == Datatype::Bool {
                    prop_assert!(back.iter().zip(data).all(|(back, sent)| (*back != 0) == (*sent != 0)));
                } else {
                    prop_assert_eq!(&back[..], data);
                }
            }
        }
    }
}
