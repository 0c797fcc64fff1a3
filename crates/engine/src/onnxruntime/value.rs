//! Converts between our bytes and onnxruntime's values, without copies; `strings` does so for strings.

use std::{ops::Range, ptr, slice, sync::Arc};

use bytes::Bytes;
use ort::{
    AsPointer,
    memory::MemoryInfo,
    session::{Session, SharedSessionInner},
    sys,
    value::{DynTensor, DynTensorValueType, DynValue, TensorElementType},
};
use smallvec::SmallVec;
use tidemill_domain::{Datatype, Shape, Tensor};

use super::strings;
use crate::TensorView;

/// A value over the memory of `view`, or with its own memory if it holds strings, or why onnxruntime refuses.
///
/// # Safety
/// The value must be dropped before the memory of `view` is freed or written to.
#[expect(unsafe_code, reason = "`ort` borrows no memory that is not its own in a type known at run time")]
pub(super) unsafe fn borrow(view: &TensorView<'_>, memory: &MemoryInfo<'_>, session: &Session) -> Result<DynValue, String> {
    let dims = view.shape.iter().map(|size| i64::try_from(*size));
    let dims: SmallVec<[i64; 4]> = dims.collect::<Result<_, _>>().map_err(|error| error.to_string())?;
    if view.datatype == Datatype::Bytes {
        return strings::make(view, &dims, session);
    }
    let mut value = ptr::null_mut();
    // SAFETY: the pointers are valid for the call, and the lengths are theirs. onnxruntime checks that the data holds as much as the
    // dimensions say. It takes a mutable pointer, but does not write to the inputs of a run.
    let status = unsafe {
        (ort::api().CreateTensorWithDataAsOrtValue)(
            memory.ptr(),
            view.data.as_ptr().cast_mut().cast(),
            view.data.len(),
            dims.as_ptr(),
            dims.len(),
            element_type(view.datatype).into(),
            &mut value,
        )
    };
    // SAFETY: the status was just returned by the API and is used once.
    unsafe { ort::Error::result_from_status(status) }.map_err(|error| error.to_string())?;
    let value: ptr::NonNull<sys::OrtValue> = ptr::NonNull::new(value).ok_or("it made no value")?;
    // SAFETY: the value is valid and has no other owner. It frees none of our memory when it is dropped.
    Ok(unsafe { DynValue::from_ptr(value, Some(session.allocator())) })
}

/// An output as a tensor over onnxruntime's own memory, or as a copy if it holds strings, or why it is not a tensor.
///
/// An output that shares memory with one of `inputs`, as may happen if a model passes an input through, is copied: those buffers are
/// overwritten by the next call.
pub(super) fn take(value: DynValue, session: &Arc<SharedSessionInner>, inputs: &[TensorView<'_>]) -> Result<Tensor, String> {
    let tensor: DynTensor = value.downcast::<DynTensorValueType>().map_err(|error| error.to_string())?;
    let datatype = datatype_of(*tensor.data_type()).ok_or_else(|| format!("it is of type {}", tensor.data_type()))?;
    if !tensor.memory_info().is_cpu_accessible() {
        return Err("it is not in the memory of the processor".to_owned());
    }
    let shape: Shape = tensor.shape().iter().map(|size| usize::try_from(*size).unwrap_or(0)).collect();
    if datatype == Datatype::Bytes {
        return Tensor::new(datatype, shape, strings::read(&tensor)?.into()).map_err(|error| error.to_string());
    }
    let bytes = tensor.size().ok_or("it has no size")?;
    let start = tensor.data_ptr().cast::<u8>();
    let owner = OutputMemory { start, bytes, _tensor: tensor, _session: Arc::clone(session) };
    let data = if inputs.iter().any(|input| overlap(input.data.as_ptr_range(), owner.range())) {
        Bytes::copy_from_slice(owner.as_ref())
    } else {
        Bytes::from_owner(owner)
    };
    Tensor::new(datatype, shape, data).map_err(|error| error.to_string())
}

/// Keeps an output's memory: the value that owns it, and the session, for an output that is one of the model's weights.
struct OutputMemory {
    start: *const u8,
    bytes: usize,
    _tensor: DynTensor,
    _session: Arc<SharedSessionInner>,
}

#[expect(unsafe_code, reason = "an output goes to whichever session its item came from, on any thread")]
// SAFETY: the memory is read only, and both owners may be dropped on any thread: onnxruntime's allocators lock.
unsafe impl Send for OutputMemory {}

impl OutputMemory {
    fn range(&self) -> Range<*const u8> {
        self.as_ref().as_ptr_range()
    }
}

impl AsRef<[u8]> for OutputMemory {
    #[expect(unsafe_code, reason = "outputs are passed on where the library wrote them")]
    fn as_ref(&self) -> &[u8] {
        if self.bytes == 0 || self.start.is_null() {
            return &[];
        }
        // SAFETY: onnxruntime says that the tensor holds this many bytes from here on. They are initialised, nothing writes to an output
        // after the run, and the tensor lives as long as `self`.
        unsafe { slice::from_raw_parts(self.start, self.bytes) }
    }
}

fn overlap(left: Range<*const u8>, right: Range<*const u8>) -> bool {
    left.start < right.end && right.start < left.end
}

/// onnxruntime's name for a datatype.
pub(super) const fn element_type(datatype: Datatype) -> TensorElementType {
    match datatype {
        Datatype::Bool => TensorElementType::Bool,
        Datatype::Uint8 => TensorElementType::Uint8,
        Datatype::Uint16 => TensorElementType::Uint16,
        Datatype::Uint32 => TensorElementType::Uint32,
        Datatype::Uint64 => TensorElementType::Uint64,
        Datatype::Int8 => TensorElementType::Int8,
        Datatype::Int16 => TensorElementType::Int16,
        Datatype::Int32 => TensorElementType::Int32,
        Datatype::Int64 => TensorElementType::Int64,
        Datatype::Fp16 => TensorElementType::Float16,
        Datatype::Fp32 => TensorElementType::Float32,
        Datatype::Fp64 => TensorElementType::Float64,
        Datatype::Bf16 => TensorElementType::Bfloat16,
        Datatype::Bytes => TensorElementType::String,
    }
}

/// The datatype of this name; `None` for INT4, complex numbers and the like.
pub(super) fn datatype_of(element: TensorElementType) -> Option<Datatype> {
    Datatype::ALL.into_iter().find(|datatype| element_type(*datatype) == element)
}
