//! G.711: what each code of mu-law and A-law stands for, at the scale of 16 bits.
//!
//! A code is a sign, three bits of exponent and four of mantissa. Mu-law is sent with all bits inverted, A-law with every other bit.

/// The value of each mu-law code.
pub(super) static MULAW: [i16; 256] = {
    let mut values = [0; 256];
    let mut code = 0;
    while code < 256 {
        values[code] = mulaw(code as u8);
        code += 1;
    }
    values
};

/// The value of each A-law code.
pub(super) static ALAW: [i16; 256] = {
    let mut values = [0; 256];
    let mut code = 0;
    while code < 256 {
        values[code] = alaw(code as u8);
        code += 1;
    }
    values
};

/// What is added before the logarithm, so that it has no pole at zero: 33 at the scale of 14 bits.
const MULAW_BIAS: i16 = 33 << 2;

const fn mulaw(code: u8) -> i16 {
    let code = !code;
    let biased = (((code & 0x0f) as i16) << 3) + MULAW_BIAS;
    let magnitude = (biased << ((code >> 4) & 0x07)) - MULAW_BIAS;
    if code & 0x80 == 0 { magnitude } else { -magnitude }
}

const fn alaw(code: u8) -> i16 {
    let code = code ^ 0x55;
    // The middle of the step.
    let linear = (((code & 0x0f) as i16) << 4) + 8;
    let magnitude = match (code >> 4) & 0x07 {
        0 => linear,
        exponent => (linear + 0x100) << (exponent - 1),
    };
    if code & 0x80 == 0 { -magnitude } else { magnitude }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition, in whole steps of mu-law's 14 bits: `2^e (2 m + 33) - 33`.
    fn defined_mulaw(code: u8) -> i32 {
        let sent = 255 - i32::from(code);
        let (sign, exponent, mantissa) = (sent / 128, sent / 16 % 8, sent % 16);
        let magnitude = 2_i32.pow(exponent.unsigned_abs()) * (2 * mantissa + 33) - 33;
        4 * if sign == 1 { -magnitude } else { magnitude }
    }

    /// The definition, in whole steps of A-law's 13 bits: `2 m + 1` in the first segment, then `2^(e - 1) (2 m + 33)`.
    fn defined_alaw(code: u8) -> i32 {
        let sent = i32::from(code ^ 0b0101_0101);
        let (sign, exponent, mantissa) = (sent / 128, sent / 16 % 8, sent % 16);
        let magnitude =
            if exponent == 0 { 2 * mantissa + 1 } else { 2_i32.pow(exponent.unsigned_abs() - 1) * (2 * mantissa + 33) };
        8 * if sign == 1 { magnitude } else { -magnitude }
    }

    #[test]
    fn every_code_stands_for_what_the_definition_says() {
        for code in 0..=u8::MAX {
            assert_eq!(i32::from(MULAW[usize::from(code)]), defined_mulaw(code), "mu-law {code:#04x}");
            assert_eq!(i32::from(ALAW[usize::from(code)]), defined_alaw(code), "A-law {code:#04x}");
        }
    }

    #[test]
    fn the_ends_and_the_middle_are_those_of_the_standard() {
        assert_eq!([0x00, 0x7f, 0x80, 0xff].map(|code: usize| MULAW[code]), [-32_124, 0, 32_124, 0]);
        assert_eq!([0x2a, 0x55, 0xaa, 0xd5].map(|code: usize| ALAW[code]), [-32_256, -8, 32_256, 8]);
    }
}
