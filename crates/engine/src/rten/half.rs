//! FP16 to FP32 and back, for models that rten runs in FP32.

/// The value of the half float with these bits; exact.
pub(super) fn to_f32(bits: u16) -> f32 {
    let sign = u32::from(bits & 0x8000) << 16;
    let exponent = u32::from(bits >> 10 & 0x1f);
    let fraction = u32::from(bits & 0x3ff);
    match exponent {
        // Zero and subnormals are multiples of 2^-24.
        0 => f32::from_bits(sign | (f32::from(bits & 0x3ff) * 2_f32.powi(-24)).to_bits()),
        31 => f32::from_bits(sign | 0x7f80_0000 | fraction << 13),
        _ => f32::from_bits(sign | (exponent + 112) << 23 | fraction << 13),
    }
}

/// The bits of the half float nearest to `value`, ties to even; what is too large becomes infinite.
pub(super) fn from_f32(value: f32) -> u16 {
    let bits = value.to_bits();
    let sign = (bits >> 16 & 0x8000) as u16;
    let magnitude = f32::from_bits(bits & 0x7fff_ffff);
    if magnitude.is_nan() {
        return sign | 0x7e00;
    }
    if magnitude >= 65520.0 {
        return sign | 0x7c00;
    }
    if magnitude < 2_f32.powi(-14) {
        // Adding 0.5 leaves exactly the multiples of 2^-24 in the fraction, rounded by the processor.
        return sign | ((magnitude + 0.5).to_bits() - 0.5_f32.to_bits()) as u16;
    }
    let rebased = magnitude.to_bits() - (112 << 23);
    let rounded = rebased + 0xfff + (rebased >> 13 & 1);
    sign | (rounded >> 13) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_float_survives_the_round_trip() {
        for bits in 0..=u16::MAX {
            let value = to_f32(bits);
            if value.is_nan() {
                assert_eq!(from_f32(value), bits & 0x8000 | 0x7e00);
            } else {
                assert_eq!(from_f32(value), bits, "{value}");
            }
        }
    }

    #[test]
    fn known_values() {
        let cases = [(0x3c00, 1.0), (0xc000, -2.0), (0x7bff, 65504.0), (0x0400, 6.103_515_6e-5), (0x0001, 5.960_464_5e-8)];
        for (bits, value) in cases {
            assert_eq!(to_f32(bits), value);
        }
    }

    #[test]
    fn values_between_two_halves_go_to_the_nearer_and_ties_to_the_even_one() {
        for bits in (0..0x7bff_u16).step_by(7) {
            let (below, above) = (to_f32(bits), to_f32(bits + 1));
            let middle = f32::midpoint(below, above);
            assert_eq!(from_f32(middle), if bits % 2 == 0 { bits } else { bits + 1 });
            assert_eq!(from_f32(middle.next_down()), bits);
            assert_eq!(from_f32(middle.next_up()), bits + 1);
        }
        assert_eq!(from_f32(65519.99), 0x7bff);
        assert_eq!(from_f32(-65520.0), 0xfc00);
    }
}
