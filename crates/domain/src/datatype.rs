//! The element types of tensors, and what can be wrong with a tensor.

use std::{fmt, str::FromStr};

/// Bytes of the length that precedes each element of BYTES.
pub const LENGTH_BYTES: usize = 4;

/// A `match` over a datatype whose first arm stands for all integers, with a name for the type of their elements. The arms after
/// it are for the other datatypes.
#[macro_export]
macro_rules! match_datatype {
    ($datatype:expr, { $Int:ident => $integer:expr, $($others:tt)* }) => {
        $crate::match_datatype!(@match $datatype, $Int, $integer, [
            Uint8 u8, Uint16 u16, Uint32 u32, Uint64 u64, Int8 i8, Int16 i16, Int32 i32, Int64 i64
        ], { $($others)* })
    };
    (@match $datatype:expr, $Int:ident, $integer:expr, [$($variant:ident $element:ty),*], { $($others:tt)* }) => {
        $crate::match_datatype!(@arms $datatype, {
            $($crate::Datatype::$variant => { type $Int = $element; $integer })*
            $($others)*
        })
    };
    (@arms $datatype:expr, { $($arms:tt)* }) => {
        match $datatype { $($arms)* }
    };
}

/// Element type of a tensor, named as in the Open Inference Protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Datatype {
    Bool,
    Uint8,
    Uint16,
    Uint32,
    Uint64,
    Int8,
    Int16,
    Int32,
    Int64,
    Fp16,
    Fp32,
    Fp64,
    Bf16,
    /// Strings of bytes, each of any length.
    Bytes,
}

impl Datatype {
    /// All of them, in the order of the protocol's table.
    pub const ALL: [Self; 14] = [
        Self::Bool,
        Self::Uint8,
        Self::Uint16,
        Self::Uint32,
        Self::Uint64,
        Self::Int8,
        Self::Int16,
        Self::Int32,
        Self::Int64,
        Self::Fp16,
        Self::Fp32,
        Self::Fp64,
        Self::Bf16,
        Self::Bytes,
    ];

    /// Bytes of one element; `None` for [`Datatype::Bytes`], whose elements vary in length.
    #[must_use]
    pub const fn fixed_size(self) -> Option<usize> {
        match self {
            Self::Bool | Self::Uint8 | Self::Int8 => Some(1),
            Self::Uint16 | Self::Int16 | Self::Fp16 | Self::Bf16 => Some(2),
            Self::Uint32 | Self::Int32 | Self::Fp32 => Some(4),
            Self::Uint64 | Self::Int64 | Self::Fp64 => Some(8),
            Self::Bytes => None,
        }
    }

    /// The fewest bytes one element takes: its size, or the length of an empty one.
    #[must_use]
    pub const fn least_size(self) -> usize {
        match self.fixed_size() {
            Some(bytes) => bytes,
            None => LENGTH_BYTES,
        }
    }

    /// The number one, or true, as little-endian bytes; `None` for [`Datatype::Bytes`], which has no numbers.
    #[must_use]
    pub const fn one(self) -> Option<&'static [u8]> {
        Some(match self {
            Self::Bool | Self::Uint8 | Self::Int8 => &[1],
            Self::Uint16 | Self::Int16 => &[1, 0],
            Self::Uint32 | Self::Int32 => &[1, 0, 0, 0],
            Self::Uint64 | Self::Int64 => &[1, 0, 0, 0, 0, 0, 0, 0],
            Self::Fp16 => &[0, 0x3c],
            Self::Bf16 => &[0x80, 0x3f],
            Self::Fp32 => &[0, 0, 0x80, 0x3f],
            Self::Fp64 => &[0, 0, 0, 0, 0, 0, 0xf0, 0x3f],
            Self::Bytes => return None,
        })
    }

    /// The protocol's name, such as `FP32`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bool => "BOOL",
            Self::Uint8 => "UINT8",
            Self::Uint16 => "UINT16",
            Self::Uint32 => "UINT32",
            Self::Uint64 => "UINT64",
            Self::Int8 => "INT8",
            Self::Int16 => "INT16",
            Self::Int32 => "INT32",
            Self::Int64 => "INT64",
            Self::Fp16 => "FP16",
            Self::Fp32 => "FP32",
            Self::Fp64 => "FP64",
            Self::Bf16 => "BF16",
            Self::Bytes => "BYTES",
        }
    }
}

impl fmt::Display for Datatype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Datatype {
    type Err = TensorError;

    fn from_str(name: &str) -> Result<Self, TensorError> {
        Self::ALL
            .into_iter()
            .find(|datatype| datatype.name() == name)
            .ok_or_else(|| TensorError::UnknownDatatype(name.to_owned()))
    }
}

/// Why data do not make a tensor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TensorError {
    /// The name is not in the table of [`Datatype`].
    #[error("unknown datatype '{0}'; known are BOOL, UINT8..UINT64, INT8..INT64, FP16, FP32, FP64, BF16 and BYTES")]
    UnknownDatatype(String),
    /// The shape's product does not fit the address space.
    #[error("shape {0:?} has more elements than can be addressed")]
    TooManyElements(Vec<i64>),
    /// The data are not as long as shape and datatype require.
    #[error("{bytes} bytes of data, but shape {shape:?} of {datatype} takes {expected}")]
    WrongLength { bytes: usize, shape: Vec<usize>, datatype: Datatype, expected: usize },
    /// BYTES data hold fewer elements than the shape takes.
    #[error("the data hold {elements} of the {expected} elements that the shape takes")]
    TooFewElements { elements: usize, expected: usize },
    /// BYTES data go on after the last element.
    #[error("{bytes} bytes are left over after the last element; the shape takes {elements}")]
    ExcessBytes { elements: usize, bytes: usize },
    /// BYTES data end inside an element's length.
    #[error("element {element} has {bytes} bytes left for its length, which takes 4")]
    CutLength { element: usize, bytes: usize },
    /// BYTES data end inside an element.
    #[error("element {element} claims to have {length} bytes, but {bytes} are left")]
    CutElement { element: usize, length: u32, bytes: usize },
    /// An element is longer than BYTES data can express.
    #[error("an element has {bytes} bytes; at most {} are allowed", u32::MAX)]
    LongElement { bytes: usize },
}
