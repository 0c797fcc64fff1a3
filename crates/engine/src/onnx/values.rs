//! Facts about a value in a graph that has not run yet: its type, its bounds, and whether an engine that has only 32-bit integers
//! and FP32 can hold it.

use rten_onnx::onnx::DataType;

/// How many elements a dimension is assumed to have at most.
pub(super) const LENGTH_MAX: f64 = (1_u64 << 24) as f64;
/// How many elements a tensor is assumed to have at most, and so the largest product of sizes.
pub(super) const ELEMENTS_MAX: f64 = (1_u64 << 28) as f64;

const I32_MIN: f64 = i32::MIN as f64;
const I32_MAX: f64 = i32::MAX as f64;

/// Where a value comes from; of two origins, the later one prevails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Origin {
    /// Only from the file.
    Constant,
    /// From sizes of tensors, and constants.
    Shape,
    /// Also from what clients send.
    Data,
}

/// Whether 32 bits hold a whole number; of two answers, the later one prevails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fit {
    /// They do.
    Held,
    /// It is a constant beyond them, which the engine replaces with the nearest number.
    Saturated,
    /// Arithmetic went beyond them, or began with a number that was beyond.
    Wrapped,
}

/// A value of a graph.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Value {
    pub(super) datatype: DataType,
    /// It is never less than this.
    pub(super) low: f64,
    /// It is never more than this.
    pub(super) high: f64,
    /// Whether it is a whole number, if its type has fractions.
    pub(super) whole: bool,
    pub(super) fit: Fit,
    pub(super) origin: Origin,
    /// For FP64: whether FP32 has the same number.
    pub(super) exact: bool,
}

impl Value {
    /// A value between these.
    pub(super) fn between(datatype: DataType, low: f64, high: f64) -> Self {
        Self { datatype, low, high, whole: is_integer(datatype), fit: Fit::Held, origin: Origin::Data, exact: true }
    }

    /// Any value of the datatype, or any that a 32-bit engine can be given for it.
    pub(super) fn any(datatype: DataType) -> Self {
        let (low, high) = held(datatype).or_else(|| native(datatype)).unwrap_or((f64::NEG_INFINITY, f64::INFINITY));
        Self { exact: datatype != DataType::DOUBLE, ..Self::between(datatype, low, high) }
    }

    /// Constants.
    pub(super) fn constant(datatype: DataType, numbers: impl IntoIterator<Item = f64>) -> Self {
        let (mut low, mut high, mut whole, mut exact) = (f64::INFINITY, f64::NEG_INFINITY, true, true);
        for number in numbers {
            (low, high) = (low.min(number), high.max(number));
            whole &= number.fract() == 0.0;
            exact &= number.is_nan() || f64::from(number as f32) == number;
        }
        if low > high {
            (low, high) = (0.0, 0.0);
        }
        let exact = exact || datatype != DataType::DOUBLE;
        let found = Self { whole, exact, origin: Origin::Constant, ..Self::between(datatype, low, high) };
        Self { fit: if found.is_outside() { Fit::Saturated } else { Fit::Held }, ..found }
    }

    /// The index of an element, or a count.
    pub(super) fn index() -> Self {
        Self::between(DataType::INT64, 0.0, LENGTH_MAX)
    }

    pub(super) fn truth() -> Self {
        Self::between(DataType::BOOL, 0.0, 1.0)
    }

    pub(super) fn from(self, origin: Origin) -> Self {
        Self { origin, ..self }
    }

    /// One or the other.
    pub(super) fn or(self, other: Self) -> Self {
        Self {
            datatype: self.datatype,
            low: self.low.min(other.low),
            high: self.high.max(other.high),
            whole: self.whole && other.whole,
            fit: self.fit.max(other.fit),
            origin: self.origin.max(other.origin),
            exact: self.exact && other.exact,
        }
    }

    /// What is computed from `operands` and lies between these bounds; it has the type of the first.
    pub(super) fn computed(operands: &[Self], low: f64, high: f64) -> Self {
        let first = operands.first().copied().unwrap_or_else(|| Self::any(DataType::FLOAT));
        let all = operands.iter().fold(first, |all, operand| all.or(*operand));
        // A bound that is not a number, such as infinity minus infinity, is no bound.
        let low = if low.is_nan() { f64::NEG_INFINITY } else { low };
        let high = if high.is_nan() { f64::INFINITY } else { high };
        let fit = if all.fit == Fit::Held { Fit::Held } else { Fit::Wrapped };
        Self { low, high, fit, ..all }
    }

    /// The largest absolute value.
    pub(super) fn magnitude(&self) -> f64 {
        self.low.abs().max(self.high.abs())
    }

    /// Whether it can be a number that the engine does not have.
    pub(super) fn is_outside(&self) -> bool {
        held(self.datatype).is_some_and(|(low, high)| self.low < low || self.high > high)
    }

    /// Whether the engine uses 32-bit integers in place of its type.
    pub(super) fn is_narrowed(&self) -> bool {
        held(self.datatype).is_some()
    }

    /// Whether FP32 numbers between these bounds leave 32 bits as whole numbers.
    pub(super) fn overflows_as_integer(&self) -> bool {
        !(f64::from(self.low as f32) >= I32_MIN && f64::from(self.high as f32) <= I32_MAX)
    }

    /// As near as its type allows.
    pub(super) fn clamped(self) -> Self {
        match held(self.datatype).or_else(|| native(self.datatype)) {
            Some((low, high)) if self.low < low || self.high > high => {
                // A value that wraps can be anything.
                Self { low, high, ..self }
            }
            _ => self,
        }
    }
}

/// The numbers that a type has in common with the 32-bit integers that the engine uses for it. `None` for a type that the engine itself
/// has.
fn held(datatype: DataType) -> Option<(f64, f64)> {
    Some(match datatype {
        DataType::INT64 => (I32_MIN, I32_MAX),
        DataType::UINT64 | DataType::UINT32 => (0.0, I32_MAX),
        DataType::INT16 => (i16::MIN.into(), i16::MAX.into()),
        DataType::UINT16 => (0.0, u16::MAX.into()),
        _ => return None,
    })
}

/// The numbers of an integer type that the engine itself has; there they wrap as they should.
fn native(datatype: DataType) -> Option<(f64, f64)> {
    Some(match datatype {
        DataType::INT32 => (I32_MIN, I32_MAX),
        DataType::INT8 => (i8::MIN.into(), i8::MAX.into()),
        DataType::UINT8 => (0.0, u8::MAX.into()),
        DataType::BOOL => (0.0, 1.0),
        _ => return None,
    })
}

/// Whether the type has no fractions.
pub(super) fn is_integer(datatype: DataType) -> bool {
    held(datatype).or_else(|| native(datatype)).is_some()
}

/// A product of bounds; zero times infinity is zero.
fn times(left: f64, right: f64) -> f64 {
    if left == 0.0 || right == 0.0 { 0.0 } else { left * right }
}

/// The smallest and the largest of these.
fn extremes(numbers: [f64; 4]) -> (f64, f64) {
    let any_nan = numbers.iter().any(|number| number.is_nan());
    let low = numbers.iter().copied().fold(f64::INFINITY, f64::min);
    let high = numbers.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if any_nan { (f64::NEG_INFINITY, f64::INFINITY) } else { (low, high) }
}

/// Bounds of a product.
pub(super) fn product(left: Value, right: Value) -> (f64, f64) {
    let (a, b, c, d) = (left.low, left.high, right.low, right.high);
    extremes([times(a, c), times(a, d), times(b, c), times(b, d)])
}

/// Bounds of a quotient.
pub(super) fn quotient(left: Value, right: Value) -> (f64, f64) {
    // Nothing is divided by 0, except by a fraction that happens to be 0; sizes are not.
    let is_none = right.whole && right.low == 0.0 && (is_integer(right.datatype) || right.origin < Origin::Data);
    let right_low = if is_none { 1.0 } else { right.low };
    if right_low > 0.0 {
        let (a, b, c, d) = (left.low, left.high, right_low, right.high.max(right_low));
        return extremes([a / c, a / d, b / c, b / d]);
    }
    if is_integer(left.datatype) {
        return (-left.magnitude(), left.magnitude());
    }
    (f64::NEG_INFINITY, f64::INFINITY)
}

/// Bounds of a remainder.
pub(super) fn remainder(left: Value, right: Value) -> (f64, f64) {
    let most = if right.whole { right.magnitude() - 1.0 } else { right.magnitude() }.max(0.0);
    // It has the sign of one of the two; an attribute says which.
    let low = if left.low >= 0.0 && right.low >= 0.0 { 0.0 } else { -most };
    let high = if left.high <= 0.0 && right.high <= 0.0 { 0.0 } else { most };
    (low, high)
}

/// Bounds of a power.
pub(super) fn power(base: Value, exponent: Value) -> (f64, f64) {
    if exponent.low < 0.0 || exponent.low != exponent.high || !exponent.whole {
        return (f64::NEG_INFINITY, f64::INFINITY);
    }
    let most = base.magnitude().powf(exponent.high);
    let is_positive = base.low >= 0.0 || exponent.high % 2.0 == 0.0;
    (if is_positive { 0.0 } else { -most }, most)
}
