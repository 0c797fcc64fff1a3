//! The embedded models give the same results as the file that they are made from, on every engine.

use std::{f32::consts::TAU, sync::Arc};

use super::{Manifest, fit, source::Embedded};
use crate::{
    domain::Tensor,
    engine::{CallThreads, Engine, Executable, ItemCall, LaneThreads, StreamState, Wishes, engine_named, test_models::loaded},
};

const OFFICIAL: &[u8] = include_bytes!(env!("TIDEMILL_SILERO_ONNX"));

/// How far a probability and a state may be from the official file's.
const PROBABILITY_TOLERANCE: f32 = 1e-4;
const STATE_TOLERANCE: f32 = 5e-4;
const STEPS: usize = 120;
const STREAMS: usize = 64;

/// An engine, by the name of its results.
type Loaded = (&'static str, Arc<dyn Engine>);

fn packed(pack_weights: bool) -> Wishes {
    Wishes { pack_weights, ..Wishes::default() }
}

/// A file on all engines.
fn on_all_engines(file: &'static [u8]) -> Vec<Loaded> {
    let rten = |packs| loaded("rten", file, packed(packs)).expect("rten runs Silero");
    let mut engines: Vec<Loaded> = vec![("rten", rten(false)), ("rten, packed", rten(true))];
    if let Some(library) = option_env!("TIDEMILL_TEST_ONNXRUNTIME") {
        let needed = engine_named("onnxruntime").and_then(|engine| engine.library()).expect("it runs on a library");
        needed.load(library.as_ref()).expect("TIDEMILL_TEST_ONNXRUNTIME names a library");
        engines.push(("onnxruntime", loaded("onnxruntime", file, packed(false)).expect("onnxruntime runs Silero")));
    }
    engines
}

/// A model as it is served, but with streams that the test keeps.
struct Model {
    executable: Executable,
    states: Vec<StreamState>,
}

impl Model {
    fn new(embedded: Embedded, engine: Arc<dyn Engine>) -> Self {
        let manifest = Manifest::parse(embedded.manifest()).expect("sound");
        let signature = fit(&manifest, engine.contract()).expect("they are a pair").signature;
        let executable = Executable::new(engine, signature, &[LaneThreads::new()]).expect("it has all that the manifest names");
        Self { executable, states: (0..STREAMS).map(|_| StreamState::default()).collect() }
    }

    /// Runs the next step of some streams as one call.
    fn step(&self, streams: &[usize], windows: &[Tensor]) -> Vec<f32> {
        let inputs: Vec<[Tensor; 1]> = streams.iter().map(|stream| [windows[*stream].clone()]).collect();
        let pairs = streams.iter().zip(&inputs);
        let items: Vec<_> = pairs.map(|(stream, inputs)| ItemCall { inputs, state: Some(&self.states[*stream]) }).collect();
        let ran = self.executable.run(0, &items, CallThreads::One).expect("it runs");
        ran.outputs.iter().flat_map(|outputs| outputs[0].iter_f32().expect("FP32")).collect()
    }

    fn state(&self, stream: usize) -> Vec<f32> {
        self.executable.state_tensors(&self.states[stream]).expect("it has run")[0].iter_f32().expect("FP32").collect()
    }
}

/// Sound at a sampling rate: voices of different pitch that speak and pause, noise, a hum, silence, and what no microphone gives.
struct Sound {
    rate: f32,
    noise: u32,
    /// Of each formant: the last two values.
    formants: [[f32; 2]; 3],
    at: usize,
    kind: usize,
}

impl Sound {
    fn new(rate: u32, kind: usize) -> Self {
        Self { rate: rate as f32, noise: kind as u32 + 1, formants: [[0.0; 2]; 3], at: 0, kind }
    }

    /// Between -1 and 1.
    fn random(&mut self) -> f32 {
        self.noise = self.noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (self.noise >> 8) as f32 / (1 << 23) as f32 - 1.0
    }

    /// Pulses of a voice through three resonances, with a vowel for each syllable, and a pause after some of them.
    fn voice(&mut self, pitch: f32) -> f32 {
        const VOWELS: [[f32; 3]; 4] =
            [[730.0, 1090.0, 2440.0], [270.0, 2290.0, 3010.0], [300.0, 870.0, 2240.0], [530.0, 1840.0, 2480.0]];
        let time = self.at as f32 / self.rate;
        let (syllable, within) = ((time * 5.0) as usize, (time * 5.0).fract());
        let loudness = if syllable % 9 > 5 { 0.0 } else { (within * TAU / 2.0).sin() };
        let glide = pitch * (1.0 + 0.1 * (time * 3.0).sin());
        let pulses = (time * glide).fract() < glide / self.rate;
        let mut value = if pulses { loudness } else { 0.02 * loudness * self.random() };
        for (formant, memory) in VOWELS[syllable % 4].into_iter().zip(&mut self.formants) {
            let radius = (-TAU / 2.0 * 90.0 / self.rate).exp();
            let next = value + 2.0 * radius * (TAU * formant / self.rate).cos() * memory[0] - radius * radius * memory[1];
            *memory = [next, memory[0]];
            value = next * 0.12;
        }
        (4.0 * value).clamp(-1.0, 1.0)
    }

    fn sample(&mut self) -> f32 {
        let pitch = 90.0 + 12.0 * (self.kind % 13) as f32;
        let time = self.at as f32 / self.rate;
        let value = match self.kind % 8 {
            0 | 4 => self.voice(pitch),
            1 => 0.7 * self.voice(pitch) + 0.1 * self.random(),
            2 => 0.01 * self.voice(pitch),
            3 => self.random(),
            5 if time < 1.0 => 0.0,
            5 => 0.5 * self.voice(pitch) + 0.02 * (time * 50.0 * TAU).sin(),
            6 => (time * 440.0 * TAU).sin().signum(),
            _ => 1e-4 * self.random(),
        };
        self.at += 1;
        value
    }

    /// The next window, in front of it the last samples of the one before.
    fn window(&mut self, before: &mut Vec<f32>, samples: usize, context: usize) -> Tensor {
        let mut window = before.split_off(before.len() - context);
        window.extend((0..samples).map(|_| self.sample()));
        before.clone_from(&window);
        Tensor::from_f32(&window)
    }
}

/// Windows of several streams, by step and then by stream.
fn windows(rate: u32, streams: usize, steps: usize) -> Vec<Vec<Tensor>> {
    let samples = rate as usize * 32 / 1_000;
    let mut sounds: Vec<_> = (0..streams).map(|kind| (Sound::new(rate, kind), vec![0.0; samples])).collect();
    let mut next = || sounds.iter_mut().map(|(sound, before)| sound.window(before, samples, samples / 8)).collect();
    (0..steps).map(|_| next()).collect()
}

fn assert_close(left: &[f32], right: &[f32], tolerance: f32, what: &dyn Fn() -> String) {
    assert_eq!(left.len(), right.len());
    for (left, right) in left.iter().zip(right) {
        assert!((left - right).abs() <= tolerance, "{}: {left} and {right}", what());
    }
}

/// Every engine with the official file, compared with every engine with the rewritten one; in calls of every size, with different
/// neighbours in each step.
fn check_all_sizes(embedded: Embedded, rate: u32) {
    let windows = windows(rate, STREAMS, STEPS);
    let order = |step: usize| (0..STREAMS).map(|at| (at * 5 + step * 3) % STREAMS).collect::<Vec<_>>();
    for (name, engine) in on_all_engines(OFFICIAL).into_iter().filter(|(name, _)| *name != "rten, packed") {
        let official = Model::new(embedded, engine);
        let wanted: Vec<_> = windows.iter().enumerate().map(|(step, windows)| official.step(&order(step), windows)).collect();
        for (other, engine) in on_all_engines(embedded.file()) {
            let rewritten = Model::new(embedded, engine);
            let mut highest = 0.0_f32;
            for (step, (windows, wanted)) in windows.iter().zip(&wanted).enumerate() {
                let size = step % STREAMS + 1;
                for (streams, wanted) in order(step).chunks(size).zip(wanted.chunks(size)) {
                    let found = rewritten.step(streams, windows);
                    let what = || format!("{rate} Hz, {name} and {other}, step {step}, streams {streams:?}");
                    assert_close(&found, wanted, PROBABILITY_TOLERANCE, &what);
                    highest = found.into_iter().fold(highest, f32::max);
                }
            }
            assert!(highest > 0.9, "{rate} Hz, {other}: the model hears a voice: {highest}");
            for stream in 0..STREAMS {
                let what = || format!("{rate} Hz, {name} and {other}, state of stream {stream}");
                assert_close(&rewritten.state(stream), &official.state(stream), STATE_TOLERANCE, &what);
            }
        }
    }
}

#[test]
fn calls_of_any_size_give_what_the_official_model_gives_at_16_khz() {
    check_all_sizes(Embedded::SILERO_VAD, 16_000);
}

#[test]
fn calls_of_any_size_give_what_the_official_model_gives_at_8_khz() {
    check_all_sizes(Embedded::SILERO_VAD_8K, 8_000);
}

/// `tests/silero_equality.py` does so for an hour, on both engines.
#[test]
fn a_stream_of_minutes_never_comes_to_another_decision() {
    const STEPS: usize = 4_000;
    for (embedded, rate) in [(Embedded::SILERO_VAD, 16_000), (Embedded::SILERO_VAD_8K, 8_000)] {
        let rten =
            |file: &'static [u8], packs| Model::new(embedded, loaded("rten", file, packed(packs)).expect("rten runs Silero"));
        let (official, rewritten) = (rten(OFFICIAL, false), rten(embedded.file(), true));
        let mut heard = 0;
        for (step, window) in windows(rate, 1, STEPS).iter().enumerate() {
            let (wanted, found) = (official.step(&[0], window)[0], rewritten.step(&[0], window)[0]);
            assert_close(&[found], &[wanted], PROBABILITY_TOLERANCE, &|| format!("{rate} Hz, step {step}"));
            assert_eq!(found > 0.5, wanted > 0.5, "{rate} Hz, step {step}: {found} and {wanted}");
            heard += usize::from(found > 0.5);
        }
        assert!((STEPS / 10..STEPS * 9 / 10).contains(&heard), "it speaks and pauses: {heard}");
        assert_close(&rewritten.state(0), &official.state(0), STATE_TOLERANCE, &|| format!("{rate} Hz, state"));
    }
}

/// A file made for other programs must not compute with the weights of another rate.
#[test]
fn another_rate_than_the_files_own_fails_by_name() {
    for (embedded, rate, other) in [(Embedded::SILERO_VAD, 16_000, 8_000), (Embedded::SILERO_VAD_8K, 8_000, 16_000)] {
        for (name, engine) in on_all_engines(embedded.file()) {
            let text = embedded.manifest().replace(&format!("shared = {rate}"), &format!("shared = {other}"));
            let manifest = Manifest::parse(&text).expect("sound");
            let signature = fit(&manifest, engine.contract()).expect("they are a pair").signature;
            let model = Executable::new(engine, signature, &[LaneThreads::new()]).expect("it has all that the manifest names");
            let window = [windows(rate, 1, 1).swap_remove(0).swap_remove(0)];
            let error = model.run(0, &[ItemCall { inputs: &window, state: None }], CallThreads::One).expect_err("another rate");
            assert!(error.to_string().contains(&format!("sr_must_be_{rate}")), "{name}: {error}");
        }
    }
}
