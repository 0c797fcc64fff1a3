//! `Item` on its way in.

use bytes::{Buf, BufMut, Bytes};
use prost::{
    DecodeError, Message,
    encoding::{self, DecodeContext, WireType, decode_varint},
};
use prost_types::Duration;

use crate::{
    domain::{Fault, NamedTensor},
    frontend::messages::convert,
    native,
    proto::v1,
    session::ItemRequest,
};

/// How many tensors of an item are read: an empty one takes two bytes on the wire and some ninety in memory.
pub const TENSORS_MAX: usize = 1024;

/// How many dimensions of a tensor are read: each takes a byte on the wire and eight in memory.
pub const DIMS_MAX: usize = 64;

/// Why a message that is only read refuses to be written: prost wants every part of a message to be able to, and the bytes would be those of
/// an empty one.
pub(super) const ONLY_READ: &str = "the server only reads this message: written, it would lose what is in it";

/// Longest number on the wire, in bytes.
const VARINT_BYTES_MAX: u64 = 10;

/// `tidemill.v1.Item`, read into the domain. A server never sends one: encoded, it is empty.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ItemMessage {
    id: String,
    tensors: Vec<NamedTensor>,
    /// What is wrong with the tensors, if they could be read at all.
    fault: Option<Fault>,
    deadline: Option<Duration>,
}

/// The fault of an item with more than [`TENSORS_MAX`] tensors.
#[must_use]
pub fn too_many_tensors() -> Fault {
    Fault::invalid("inputs", format!("the item has more than {TENSORS_MAX} tensors"))
}

/// The fault of an item whose tensor at `index` has more than [`DIMS_MAX`] dimensions.
#[must_use]
pub fn too_many_dims(index: usize) -> Fault {
    Fault::invalid(format!("inputs[{index}].shape"), format!("the tensor has more than {DIMS_MAX} dimensions"))
}

impl ItemMessage {
    /// The item; anything wrong with it, short of broken bytes, becomes its answer.
    #[must_use]
    pub fn into_request(self) -> ItemRequest {
        let Self { id, tensors, fault, deadline } = self;
        let id = match native::check_id("id", id) {
            Ok(id) => id,
            Err(fault) => return ItemRequest { id: String::new(), tensors: Err(fault), deadline: None },
        };
        match deadline.map(|deadline| convert::duration("deadline", deadline)).transpose() {
            Ok(deadline) => ItemRequest { id, tensors: fault.map_or(Ok(tensors), Err), deadline },
            Err(fault) => ItemRequest { id, tensors: Err(fault), deadline: None },
        }
    }

    fn merge_tensor(&mut self, message: Bytes, context: &DecodeContext) -> Result<(), DecodeError> {
        let index = self.tensors.len();
        if index == TENSORS_MAX {
            self.fault.get_or_insert_with(too_many_tensors);
            return Ok(());
        }
        let Read { tensor, datatype, has_all_dims } = read_tensor(message, context)?;
        if !has_all_dims {
            self.fault.get_or_insert_with(|| too_many_dims(index));
        }
        let datatype = match v1::Datatype::try_from(datatype) {
            Ok(datatype) => convert::from_wire_datatype(datatype),
            Err(_) => {
                self.fault
                    .get_or_insert_with(|| convert::unknown_enum(format!("inputs[{index}].datatype"), "Datatype", datatype));
                None
            }
        };
        self.tensors.push(NamedTensor { datatype, ..tensor });
        Ok(())
    }
}

impl Message for ItemMessage {
    fn encode_raw(&self, _buf: &mut impl BufMut) {
        debug_assert!(false, "{ONLY_READ}");
    }

    fn encoded_len(&self) -> usize {
        debug_assert!(false, "{ONLY_READ}");
        0
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        match tag {
            1 => encoding::string::merge(wire_type, &mut self.id, buf, context).map_err(in_field("Item", "id")),
            2 => {
                let mut message = Bytes::new();
                encoding::bytes::merge(wire_type, &mut message, buf, context.clone())
                    .and_then(|()| self.merge_tensor(message, &context))
                    .map_err(in_field("Item", "inputs"))
            }
            3 => {
                let deadline = self.deadline.get_or_insert_default();
                encoding::message::merge(wire_type, deadline, buf, context).map_err(in_field("Item", "deadline"))
            }
            _ => encoding::skip_field(wire_type, tag, buf, context),
        }
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
}

/// A tensor as it was read.
struct Read {
    tensor: NamedTensor,
    /// Its number.
    datatype: i32,
    /// `false` if there are more than are read.
    has_all_dims: bool,
}

/// `tidemill.v1.Tensor`, in one piece.
fn read_tensor(mut message: Bytes, context: &DecodeContext) -> Result<Read, DecodeError> {
    let (mut tensor, mut datatype, mut has_all_dims) = (NamedTensor::default(), 0, true);
    while message.has_remaining() {
        let (tag, wire_type) = encoding::decode_key(&mut message)?;
        let (buf, context) = (&mut message, context.clone());
        match tag {
            1 => encoding::string::merge(wire_type, &mut tensor.name, buf, context).map_err(in_field("Tensor", "name"))?,
            2 => encoding::int32::merge(wire_type, &mut datatype, buf, context).map_err(in_field("Tensor", "datatype"))?,
            3 if has_room(wire_type, buf, tensor.shape.len()) => {
                encoding::int64::merge_repeated(wire_type, &mut tensor.shape, buf, context)
                    .map_err(in_field("Tensor", "shape"))?;
                has_all_dims &= tensor.shape.len() <= DIMS_MAX;
            }
            3 => {
                has_all_dims = false;
                encoding::skip_field(wire_type, tag, buf, context).map_err(in_field("Tensor", "shape"))?;
            }
            4 => encoding::bytes::merge(wire_type, &mut tensor.data, buf, context).map_err(in_field("Tensor", "data"))?,
            _ => encoding::skip_field(wire_type, tag, buf, context)?,
        }
    }
    Ok(Read { tensor, datatype, has_all_dims })
}

/// Whether a field of dimensions can be read after `known` others: there may be too many of them, but not far too
/// many.
fn has_room(wire_type: WireType, mut field: &[u8], known: usize) -> bool {
    let bytes_max = VARINT_BYTES_MAX * DIMS_MAX as u64;
    known <= DIMS_MAX
        && (wire_type != WireType::LengthDelimited || decode_varint(&mut field).is_ok_and(|length| length <= bytes_max))
}

/// Says where the bytes are broken, as generated messages do.
pub(super) fn in_field(message: &'static str, field: &'static str) -> impl Fn(DecodeError) -> DecodeError {
    move |mut error| {
        error.push(message, field);
        error
    }
}
