//! Reads a protobuf file from memory and trusts none of its lengths.
//!
//! rten's own reader allocates what a length says before it checks whether the file is that long, spins on an endless number, and takes a
//! file that is cut short for a smaller one. A file that this reader has read to the end is safe to pass on.

use rten_onnx::protobuf::{ErrorKind, Fields, ProtobufError, ReadValue};

use super::{
    proto::{self, Model},
    slices::Slices,
};

/// Bytes that hold 64 bits in groups of 7.
const VARINT_BYTES_MAX: usize = 10;

/// Decodes the model that `file` holds.
pub(super) fn decode(file: &[u8]) -> Result<Model<'_>, ProtobufError> {
    let mut reader = BoundedReader::new(file);
    let message = proto::model(Fields::new(&mut reader, Some("ModelProto")))?;
    // The outermost message ends with the file; an inner one that does so too was meant to be longer.
    if reader.ends > 1 {
        return Err(ProtobufError::new(ErrorKind::Eof));
    }
    Ok(message)
}

/// Reads no further than its slice.
pub(super) struct BoundedReader<'a> {
    file: &'a [u8],
    position: usize,
    /// How many messages ended where the file does.
    ends: usize,
}

impl<'a> BoundedReader<'a> {
    pub(super) const fn new(file: &'a [u8]) -> Self {
        Self { file, position: 0, ends: 0 }
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], ProtobufError> {
        let rest = &self.file[self.position..];
        let taken = rest.get(..len).ok_or_else(|| ProtobufError::new(ErrorKind::Eof))?;
        self.position += len;
        Ok(taken)
    }

    fn take_array<const N: usize>(&mut self) -> Result<[u8; N], ProtobufError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }
}

impl<'a> ReadValue for BoundedReader<'a> {
    type Types = Slices<'a>;

    fn read_i32(&mut self) -> Result<i32, ProtobufError> {
        self.take_array().map(i32::from_le_bytes)
    }

    fn read_i64(&mut self) -> Result<i64, ProtobufError> {
        self.take_array().map(i64::from_le_bytes)
    }

    fn read_varint(&mut self) -> Result<u64, ProtobufError> {
        if self.position == self.file.len() {
            self.ends += 1;
            return Err(ProtobufError::new(ErrorKind::Eof));
        }
        let mut value = 0_u64;
        for index in 0..VARINT_BYTES_MAX {
            let [byte] = self.take_array().map_err(|_| ProtobufError::new(ErrorKind::InvalidVarint))?;
            value |= u64::from(byte & 0x7f) << (7 * index);
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(ProtobufError::new(ErrorKind::InvalidVarint))
    }

    fn read_bytes(&mut self, len: usize) -> Result<&'a [u8], ProtobufError> {
        self.take(len)
    }

    fn read_string(&mut self, len: usize) -> Result<&'a str, ProtobufError> {
        str::from_utf8(self.take(len)?).map_err(|_| ProtobufError::new(ErrorKind::InvalidUtf8))
    }

    fn skip(&mut self, len: usize) -> Result<(), ProtobufError> {
        self.take(len).map(|_| ())
    }

    fn position(&self) -> u64 {
        self.position as u64
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rten_onnx::onnx::DataType;

    use super::*;
    use crate::test_models;

    #[test]
    fn lies_about_lengths_are_found_out() {
        let cases: [(&str, &[u8]); 5] = [
            ("a number without an end", &[0xff; 1000]),
            ("a string longer than memory", &[0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, b'x']),
            ("a skipped field of negative length", &[0x7a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]),
            ("a graph that the file cuts short", &[0x3a, 0x10, 0x0a, 0x00]),
            ("a number that the file cuts short", &[0x08, 0x80]),
        ];
        for (name, file) in cases {
            let outcome = std::panic::catch_unwind(|| decode(file).is_err());
            // Lengths that overflow may panic inside the decoder, which the loader catches.
            assert!(outcome.unwrap_or(true), "{name}");
        }
    }

    #[test]
    fn a_file_cut_anywhere_inside_its_graph_is_refused() {
        let file = test_models::one_operator("Identity", DataType::FLOAT, &[None]);
        let whole = decode(&file).expect("it is whole");
        assert_eq!(whole.operator_sets.len(), 1);
        let graph_start = file.iter().position(|byte| *byte == 0x3a).expect("the graph's tag");
        let graph_end = graph_start + 2 + usize::from(file[graph_start + 1]);
        for end in graph_start + 1..graph_end {
            assert!(decode(&file[..end]).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn endlessly_nested_graphs_are_refused_before_the_stack_is_used_up() {
        let mut file = Vec::new();
        for level in 0..10_000 {
            // A graph's node, its attribute, and the attribute's graph, around what there is.
            for tag in [0x32, 0x2a, 0x0a] {
                let mut outer = vec![if level == 9_999 && tag == 0x0a { 0x0a } else { tag }];
                let mut len = file.len();
                while len >= 0x80 {
                    outer.push(0x80 | (len & 0x7f) as u8);
                    len >>= 7;
                }
                outer.push(len as u8);
                outer.append(&mut file);
                file = outer;
            }
        }
        let mut model = vec![0x3a];
        let mut len = file.len();
        while len >= 0x80 {
            model.push(0x80 | (len & 0x7f) as u8);
            len >>= 7;
        }
        model.push(len as u8);
        model.append(&mut file);
        let error = decode(&model).expect_err("too deep");
        assert!(error.to_string().contains("more than 32 deep"), "{error}");
    }

    proptest! {
        #[test]
        fn no_bytes_hang_it(file in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = std::panic::catch_unwind(|| decode(&file).is_ok());
        }
    }
}
