//! Copies between BYTES tensors and onnxruntime's strings, which live in its own memory.
//!
//! Any bytes pass through, even those that are not text. An operator that needs text, such as one that changes its case, may fail on them;
//! to others they are just bytes.

use std::{ptr, slice};

use ort::{
    AsPointer,
    session::Session,
    sys,
    value::{DynTensor, DynValue, TensorElementType},
};
use tidemill_domain::{ByteElements, LENGTH_BYTES, push_element};

use crate::TensorView;

/// The elements of `view` as a separate value, or why onnxruntime refuses.
pub(super) fn make(view: &TensorView<'_>, dims: &[i64], session: &Session) -> Result<DynValue, String> {
    let tensor = DynTensor::new(session.allocator(), TensorElementType::String, dims);
    let mut tensor = tensor.map_err(|error| error.to_string())?;
    for (index, element) in ByteElements::new(view.data).enumerate() {
        fill(&mut tensor, index, element)?;
    }
    Ok(tensor.into_dyn())
}

#[expect(unsafe_code, reason = "`ort` has no way to strings but the library's C functions")]
fn fill(tensor: &mut DynTensor, index: usize, element: &[u8]) -> Result<(), String> {
    let mut place = ptr::null_mut();
    // SAFETY: the tensor is valid and holds strings, and nothing else uses it. onnxruntime checks the index.
    checked(unsafe { (ort::api().GetResizedStringTensorElementBuffer)(tensor.ptr_mut(), index, element.len(), &mut place) })?;
    if !place.is_null() {
        // SAFETY: onnxruntime has made room for this many bytes there, which the tensor owns and no other element shares.
        unsafe { slice::from_raw_parts_mut(place.cast(), element.len()) }.copy_from_slice(element);
    }
    Ok(())
}

/// The elements of a tensor of strings in the form of BYTES data; or why it cannot be read.
#[expect(unsafe_code, reason = "`ort` reads strings one by one and only if they are text")]
pub(super) fn read(tensor: &DynTensor) -> Result<Vec<u8>, String> {
    let count = tensor.shape().num_elements();
    let mut bytes = 0;
    // SAFETY: the tensor is valid and holds strings.
    checked(unsafe { (ort::api().GetStringTensorDataLength)(tensor.ptr(), &mut bytes) })?;
    let (mut content, mut starts) = (vec![0_u8; bytes], vec![0; count]);
    // SAFETY: the tensor is valid and holds strings, and the lengths are those of the buffers.
    let status = unsafe {
        let (content, starts) = (content.as_mut_ptr().cast(), starts.as_mut_ptr());
        (ort::api().GetStringTensorContent)(tensor.ptr(), content, bytes, starts, count)
    };
    checked(status)?;
    let mut data = Vec::with_capacity(bytes + count * LENGTH_BYTES);
    let ends = starts.iter().skip(1).chain([&bytes]);
    for (start, end) in starts.iter().zip(ends) {
        let element = content.get(*start..*end).ok_or("its strings are not where onnxruntime says they are")?;
        push_element(&mut data, element).map_err(|error| error.to_string())?;
    }
    Ok(data)
}

#[expect(unsafe_code, reason = "a status of the C functions is a pointer that must be freed once")]
fn checked(status: sys::OrtStatusPtr) -> Result<(), String> {
    // SAFETY: each caller passes on a status that the API has just returned, once.
    unsafe { ort::Error::result_from_status(status) }.map_err(|error| error.to_string())
}
