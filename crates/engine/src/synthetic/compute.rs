//! The arithmetic of the synthetic engine, over batches of any datatype.

use bytemuck::{Pod, PodCastError};
use tidemill_domain::{Datatype, match_datatype};

use crate::TensorView;

/// Writes `data` doubled to `out`, which has the same length: floats by IEEE rules, integers saturating, booleans unchanged.
///
/// Both start on a 64-byte boundary. FP16, BF16 and BYTES are refused when the engine is made; here they are copied.
pub(super) fn double(datatype: Datatype, data: &[u8], out: &mut [u8]) -> Result<(), PodCastError> {
    match_datatype!(datatype, {
        Int => map(data, out, |x: Int| x.saturating_mul(2)),
        Datatype::Bool | Datatype::Fp16 | Datatype::Bf16 | Datatype::Bytes => {
            out.copy_from_slice(data);
            Ok(())
        }
        Datatype::Fp32 => map(data, out, |x: f32| x * 2.0),
        Datatype::Fp64 => map(data, out, |x: f64| x * 2.0),
    })
}

fn map<T: Pod>(data: &[u8], out: &mut [u8], f: impl Fn(T) -> T) -> Result<(), PodCastError> {
    let from: &[T] = bytemuck::try_cast_slice(data)?;
    let to: &mut [T] = bytemuck::try_cast_slice_mut(out)?;
    for (to, from) in to.iter_mut().zip(from) {
        *to = f(*from);
    }
    Ok(())
}

/// The number that `bytes`, which are one element, hold; `None` for FP16, BF16 and BYTES.
#[expect(clippy::cast_precision_loss, reason = "planned values are small whole numbers")]
pub(super) fn element_as_f64(datatype: Datatype, bytes: &[u8]) -> Option<f64> {
    fn read<T: Pod>(bytes: &[u8]) -> Option<T> {
        bytemuck::try_pod_read_unaligned(bytes).ok()
    }
    match_datatype!(datatype, {
        Int => read::<Int>(bytes).map(|x| x as f64),
        Datatype::Bool => read::<u8>(bytes).map(f64::from),
        Datatype::Fp32 => read::<f32>(bytes).map(f64::from),
        Datatype::Fp64 => read::<f64>(bytes),
        Datatype::Fp16 | Datatype::Bf16 | Datatype::Bytes => None,
    })
}

/// The FP32 elements of a call's tensor, each with the number of the item that it belongs to. Without a batch axis there is one item.
pub(super) fn elements_by_item<'a>(
    view: &TensorView<'a>,
    batch_axis: Option<usize>,
) -> impl Iterator<Item = (usize, f32)> + use<'a> {
    let batch_size = batch_axis.and_then(|axis| view.shape.get(axis)).copied().unwrap_or(1).max(1);
    let after: usize = view.shape.iter().skip(batch_axis.map_or(0, |axis| axis + 1)).product();
    let elements = view.data.chunks_exact(4).map(|bytes| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]));
    elements.enumerate().map(move |(index, value)| (index / after.max(1) % batch_size, value))
}
