//! The building blocks of a file's messages: strings and bytes as slices of it.

use std::marker::PhantomData;

use rten_onnx::protobuf::FieldTypes;

/// Strings and bytes as slices of the file.
pub(super) struct Slices<'a>(PhantomData<&'a ()>);

impl<'a> FieldTypes for Slices<'a> {
    type String = &'a str;
    type Bytes = &'a [u8];
}
