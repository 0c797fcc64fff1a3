//! What conversion does to sound, measured by sines.

use std::f64::consts::TAU;

use proptest::prelude::*;

use super::*;

/// The pairs that clients use most.
const PAIRS: [(u32, u32); 5] = [(24_000, 16_000), (48_000, 16_000), (44_100, 16_000), (8_000, 16_000), (22_050, 16_000)];

fn s16le(rate_hz: u32) -> Sound {
    Sound { format: SampleFormat::S16le, rate_hz }
}

fn bytes_of(samples: &[i16]) -> Vec<u8> {
    samples.iter().flat_map(|sample| sample.to_le_bytes()).collect()
}

fn samples_of(bytes: &[u8]) -> Vec<i16> {
    bytes.as_chunks().0.iter().map(|sample| i16::from_le_bytes(*sample)).collect()
}

/// All of `bytes`, in chunks of these sizes in turn.
fn converted_in(from: Sound, to_hz: u32, bytes: &[u8], sizes: &[usize]) -> Vec<u8> {
    let mut converter = Converter::new(from, to_hz).expect("rates that can be converted");
    let (mut rest, mut output) = (bytes, Vec::new());
    for size in sizes.iter().cycle() {
        let (chunk, later) = rest.split_at((*size).min(rest.len()));
        output.extend_from_slice(&converter.push(chunk).expect("sound"));
        rest = later;
        if rest.is_empty() {
            break;
        }
    }
    output.extend_from_slice(&converter.flush());
    output
}

fn converted(from_hz: u32, to_hz: u32, samples: &[i16]) -> Vec<i16> {
    samples_of(&converted_in(s16le(from_hz), to_hz, &bytes_of(samples), &[1 << 20]))
}

/// A sine at 0.9 of full scale, in steps of 16 bits.
fn sine(frequency_hz: f64, rate_hz: u32, samples: usize) -> Vec<f64> {
    (0..samples).map(|at| (TAU * frequency_hz * at as f64 / f64::from(rate_hz)).sin() * 0.9 * 32_768.0).collect()
}

fn rounded(samples: &[f64]) -> Vec<i16> {
    samples.iter().map(|sample| sample.round() as i16).collect()
}

/// A quarter of a second of a sine after conversion, without the ends, where it begins and breaks off.
fn converted_sine(frequency_hz: f64, from_hz: u32, to_hz: u32) -> Vec<f64> {
    let samples = rounded(&sine(frequency_hz, from_hz, from_hz as usize / 4));
    let output = converted(from_hz, to_hz, &samples);
    let edge = to_hz as usize / 40;
    output[edge..output.len() - edge].iter().map(|sample| f64::from(*sample)).collect()
}

fn power(samples: &[f64]) -> f64 {
    samples.iter().map(|sample| sample * sample).sum::<f64>() / samples.len() as f64
}

fn decibels(ratio: f64) -> f64 {
    10.0 * ratio.log10()
}

/// The sine of this frequency in `samples`, by least squares, and what else there is: two powers.
fn split(samples: &[f64], frequency_hz: f64, rate_hz: u32) -> (f64, f64) {
    let angle = |at: usize| TAU * frequency_hz * at as f64 / f64::from(rate_hz);
    let (mut ss, mut sc, mut cc, mut ys, mut yc) = (0.0, 0.0, 0.0, 0.0, 0.0);
    for (at, sample) in samples.iter().enumerate() {
        let (sine, cosine) = angle(at).sin_cos();
        ss += sine * sine;
        sc += sine * cosine;
        cc += cosine * cosine;
        ys += sample * sine;
        yc += sample * cosine;
    }
    let determinant = ss * cc - sc * sc;
    let (a, b) = ((ys * cc - yc * sc) / determinant, (yc * ss - ys * sc) / determinant);
    let fitted: Vec<f64> = (0..samples.len()).map(|at| a * angle(at).sin() + b * angle(at).cos()).collect();
    let rest: Vec<f64> = samples.iter().zip(&fitted).map(|(sample, fitted)| sample - fitted).collect();
    (power(&fitted), power(&rest))
}

const FULL_POWER: f64 = 0.9 * 0.9 * 32_768.0 * 32_768.0 / 2.0;

#[test]
fn the_passband_is_flat_up_to_nine_tenths_of_the_lower_half() {
    for (from_hz, to_hz) in PAIRS.into_iter().chain([(16_000, 8_000), (44_099, 16_000), (8_001, 16_000), (16_000, 24_000)]) {
        // Where rates are not usual, the edge may be lower by a step of the stretch.
        let edge = if from_hz % 100 == 99 { 0.86 } else { 0.9 };
        for share in [0.01, 0.1, 0.3, 0.5, 0.7, 0.8, edge] {
            let frequency_hz = share * f64::from(from_hz.min(to_hz)) / 2.0;
            let (signal, _) = split(&converted_sine(frequency_hz, from_hz, to_hz), frequency_hz, to_hz);
            let gain = decibels(signal / FULL_POWER);
            assert!(gain.abs() < 0.02, "{from_hz} to {to_hz}: {gain:.4} dB at {frequency_hz} Hz");
        }
    }
}

#[test]
fn what_the_lower_rate_cannot_hold_is_90_decibels_down() {
    for (from_hz, to_hz) in PAIRS.into_iter().chain([(192_000, 8_000), (16_000, 8_000), (44_099, 16_000)]) {
        if from_hz < to_hz {
            continue;
        }
        let half = f64::from(to_hz) / 2.0;
        let highest = f64::from(from_hz) / 2.0;
        for share in [0.002, 0.02, 0.1, 0.3, 0.6, 0.9] {
            let frequency_hz = half + share * (highest - half);
            let loss = decibels(power(&converted_sine(frequency_hz, from_hz, to_hz)).max(1e-6) / FULL_POWER);
            assert!(loss < -90.0, "{from_hz} to {to_hz}: {loss:.1} dB of {frequency_hz} Hz are left");
        }
    }
}

#[test]
fn images_above_the_lower_half_are_90_decibels_down() {
    // All that is not the sine, which includes its images around 8 kHz and its rounding to 16 bits.
    for frequency_hz in [100.0, 1_000.0, 2_900.0, 3_600.0] {
        let (signal, rest) = split(&converted_sine(frequency_hz, 8_000, 16_000), frequency_hz, 16_000);
        let ratio = decibels(signal / rest);
        assert!(ratio > 90.0, "{ratio:.1} dB at {frequency_hz} Hz");
    }
}

#[test]
fn a_tone_of_1_khz_is_90_decibels_above_all_else() {
    for (from_hz, to_hz) in PAIRS.into_iter().chain([(16_000, 8_000), (44_099, 16_000), (8_001, 16_000), (11_025, 16_000)]) {
        // Not a divisor of any rate, so that rounding is noise.
        let (signal, rest) = split(&converted_sine(997.0, from_hz, to_hz), 997.0, to_hz);
        let ratio = decibels(signal / rest);
        assert!(ratio > 90.0, "{from_hz} to {to_hz}: {ratio:.1} dB");
    }
}

#[test]
fn sound_stays_where_it_is() {
    for (from_hz, to_hz) in PAIRS.into_iter().chain([(192_000, 8_000), (8_000, 48_000), (44_099, 16_000)]) {
        let from = rounded(&sine(440.0, from_hz, from_hz as usize / 4));
        let output = converted(from_hz, to_hz, &from);
        let expected = sine(440.0, to_hz, to_hz as usize / 4);
        assert_eq!(output.len(), expected.len(), "{from_hz} to {to_hz}");
        let edge = to_hz as usize / 40;
        for at in edge..output.len() - edge {
            assert!((f64::from(output[at]) - expected[at]).abs() < 4.0, "{from_hz} to {to_hz}, sample {at}");
        }
    }
}

#[test]
fn constants_come_out_as_they_are_and_overshoot_is_cut_off() {
    for (from_hz, to_hz) in PAIRS {
        let output = converted(from_hz, to_hz, &vec![12_345; from_hz as usize / 10]);
        let edge = to_hz as usize / 40;
        assert!(output[edge..output.len() - edge].iter().all(|sample| *sample == 12_345), "{from_hz} to {to_hz}");
    }
    // A square wave overshoots by some 9 %.
    let square: Vec<i16> = (0..4_800).map(|at| if at / 240 % 2 == 0 { i16::MAX } else { i16::MIN }).collect();
    let output = converted(48_000, 16_000, &square);
    assert!(output.contains(&i16::MAX) && output.contains(&i16::MIN));
    for (at, sample) in output.iter().enumerate() {
        let (half_wave, within) = (at * 3 / 240, at * 3 % 240);
        // Were it to wrap around, its sign would change between the edges.
        assert!(!(12..228).contains(&within) || (*sample > 0) == (half_wave % 2 == 0), "sample {at}: {sample}");
    }
}

#[test]
fn equal_rates_change_the_format_alone() {
    let samples = [i16::MIN, -1, 0, 1, 12_345, i16::MAX];
    assert_eq!(converted(16_000, 16_000, &samples), samples);
    let floats: Vec<u8> = samples.iter().flat_map(|sample| (f32::from(*sample) / 32_768.0).to_le_bytes()).collect();
    let from = Sound { format: SampleFormat::F32le, rate_hz: 16_000 };
    assert_eq!(samples_of(&converted_in(from, 16_000, &floats, &[5])), samples);
    let law = Sound { format: SampleFormat::Mulaw, rate_hz: 8_000 };
    assert_eq!(samples_of(&converted_in(law, 8_000, &[0x00, 0xff, 0x80], &[1])), [-32_124, 0, 32_124]);
    assert!(s16le(16_000).is_s16le_at(16_000));
    assert!(!s16le(8_000).is_s16le_at(16_000) && !law.is_s16le_at(8_000));
    // A float may be as loud as full scale.
    let loud: Vec<u8> = [1.0_f32, -1.0].iter().flat_map(|sample| sample.to_le_bytes()).collect();
    assert_eq!(samples_of(&converted_in(from, 16_000, &loud, &[8])), [i16::MAX, i16::MIN]);
}

#[test]
fn rates_out_of_range_are_refused_with_what_would_do() {
    for (from_hz, to_hz, said) in [
        (7_999, 16_000, "sample_rate_hz is 7999; it must be 8000 to 192000, and the model's own rate is 16000"),
        (0, 16_000, "sample_rate_hz is 0; it must be 8000 to 192000, and the model's own rate is 16000"),
        (u32::MAX, 16_000, "sample_rate_hz is 4294967295; it must be 8000 to 192000, and the model's own rate is 16000"),
        (
            16_000,
            4_000,
            "sample_rate_hz is 16000, but the model takes 4000, and the server resamples only between 8000 and 192000; send audio at \
             4000 Hz",
        ),
    ] {
        let fault = Converter::new(s16le(from_hz), to_hz).expect_err("out of range");
        assert_eq!((fault.field(), fault.message()), (Some("sample_rate_hz"), said));
    }
    // At the model's own rate nothing is resampled.
    assert!(Converter::new(s16le(400_000), 400_000).is_ok());
}

#[test]
fn a_flush_gives_all_there_is_and_what_comes_next_follows_without_a_gap() {
    let samples = rounded(&sine(440.0, 44_100, 44_100 / 4));
    let whole = converted(44_100, 16_000, &samples);
    let mut converter = Converter::new(s16le(44_100), 16_000).expect("usual rates");
    let (mut output, mut flushed, mut taken) = (Vec::new(), Vec::new(), 0);
    for part in samples.chunks(3_001) {
        output.extend(samples_of(&converter.push(&bytes_of(part)).expect("sound")));
        output.extend(samples_of(&converter.flush()));
        assert!(converter.flush().is_empty());
        taken += part.len() as u64;
        assert_eq!(output.len() as u64, s16le(44_100).samples_at(16_000, taken));
        flushed.push(output.len());
    }
    assert_eq!(output.len(), whole.len());
    // Only just before a flush is anything different: there the filter heard silence to come.
    for (at, (sample, expected)) in output.iter().zip(&whole).enumerate() {
        let next_flush = flushed.iter().find(|flush| **flush > at).expect("one at the end");
        assert!(sample == expected || next_flush - at <= 65, "sample {at}");
    }
}

#[test]
fn a_converter_keeps_little_and_its_slices_are_alike() {
    let slow = Sound { format: SampleFormat::Mulaw, rate_hz: 8_000 };
    let sizes = |from: Sound, to_hz| Converter::new(from, to_hz).expect("in range").bytes_of(4_096);
    assert_eq!([sizes(slow, 16_000), sizes(slow, 192_000), sizes(s16le(48_000), 16_000)], [2_048, 170, 8_192]);
    assert_eq!(sizes(Sound { format: SampleFormat::F32le, rate_hz: 16_000 }, 16_000), 16_384);
}

fn any_sound() -> impl Strategy<Value = (Sound, u32)> {
    let rate = || prop_oneof![4 => prop::sample::select(vec![8_000, 16_000, 24_000, 44_100]), 1 => 8_000_u32..=192_000];
    (prop::sample::select(SampleFormat::ALL.to_vec()), rate(), prop::sample::select(vec![8_000, 16_000, 48_000]))
        .prop_map(|(format, rate_hz, to_hz)| (Sound { format, rate_hz }, to_hz))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_chunking_gives_the_same_bits_and_the_length_of_the_input(
        (sound, to_hz) in any_sound(),
        samples in prop::collection::vec(-1.0_f32..=1.0, 0..3_000),
        sizes in prop::collection::vec(prop_oneof![1_usize..5, 1_usize..5_000], 1..20),
    ) {
        let bytes: Vec<u8> = match sound.format {
            SampleFormat::F32le => samples.iter().flat_map(|sample| sample.to_le_bytes()).collect(),
            _ => samples.iter().flat_map(|sample| ((sample * 32_767.0) as i16).to_le_bytes()).collect(),
        };
        let whole = converted_in(sound, to_hz, &bytes, &[1 << 20]);
        prop_assert_eq!(&converted_in(sound, to_hz, &bytes, &sizes), &whole);
        let taken = bytes.len() / sound.format.sample_bytes();
        prop_assert_eq!(whole.len() as u64, 2 * sound.samples_at(to_hz, taken as u64));
    }

    #[test]
    fn no_bytes_panic_and_flushes_anywhere_keep_the_length(
        (sound, to_hz) in any_sound(),
        chunks in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..300), any::<bool>()), 0..20),
    ) {
        let mut converter = Converter::new(sound, to_hz).expect("in range");
        let (mut taken, mut given) = (0, 0);
        for (chunk, flush) in chunks {
            let Ok(output) = converter.push(&chunk) else { return Ok(()) };
            taken += chunk.len();
            given += output.len();
            let samples = taken / sound.format.sample_bytes();
            prop_assert!(given as u64 <= 2 * sound.samples_at(to_hz, samples as u64));
            if flush {
                given += converter.flush().len();
                prop_assert_eq!(given as u64, 2 * sound.samples_at(to_hz, samples as u64));
            }
            prop_assert_eq!(converter.check_end().is_ok(), taken.is_multiple_of(sound.format.sample_bytes()));
        }
    }
}
