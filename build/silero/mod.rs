//! Rewrites Silero VAD's file, which holds the models of both sampling rates behind an `If`, into a file for each rate that computes the
//! same numbers several times faster.
//!
//! Engines run a convolution item by item, and the file's last ones have only one to four places to slide over: no batch helps.
//! Products of matrices over all frames of all items do, so everything that holds weights becomes one:
//!
//! - **The spectrum.** Frames are windowed symmetrically, cosines are even about the middle of a frame and sines odd. So each frame is
//!   folded at its middle: the sums of mirrored samples go through the cosines, their differences through the sines, with half the
//!   products.
//! - **The convolutions** have as many frames as the window gives, always the same. Each becomes a matrix over the frames that it sees; taps
//!   that would see nothing but padding are left out.
//! - **The recurrent cell** becomes one matrix over its input and state, with the three gates that share a function side by side.
//!
//! After the first convolution, values are kept as their distance from those of silence, which are far from 0 and would cost the
//! next layer's long sums digits.
//!
//! A file keeps the inputs of the original. A call whose `sr` is not the file's own fails at an operator whose name says so.

mod graph;
mod onnx;

use prost::Message as _;

use self::{
    graph::{Matrix, Writer, float_value, int, long_value, text},
    onnx::{Entry, FLOAT, Model, Tensor},
};
use crate::BuildResult;

/// Frames of a window.
const FRAMES: usize = 4;
/// Values of a frame between the layers: after the first convolution, and after the second and third.
const WIDE: usize = 128;
const NARROW: usize = 64;
/// Elements of each half of the state.
const STATE: usize = 128;
/// How far numbers that should mirror each other may be apart.
const MIRROR_TOLERANCE: f64 = 1e-6;

/// A sampling rate, and where the original keeps its model.
pub(crate) struct Rate {
    pub(crate) hz: u32,
    branch: &'static str,
}

pub(crate) const RATES: [Rate; 2] = [Rate { hz: 16_000, branch: "then_branch" }, Rate { hz: 8_000, branch: "else_branch" }];

/// The file for one rate. `origin` says where the original comes from, and `notice` is its licence.
pub(crate) fn rewritten(file: &[u8], rate: &Rate, origin: &str, notice: &str) -> BuildResult<Vec<u8>> {
    let weights = Weights::of(&Model::decode(file)?, rate)?;
    let mut writer = Writer::default();
    write(&mut writer, &weights, rate)?;
    let samples = weights.hop() * FRAMES + weights.hop() / 2;
    let state = |name: &str| float_value(name, &[Some(2), None, Some(STATE as i64)]);
    let inputs = vec![float_value("input", &[None, Some(samples as i64)]), state("state"), long_value("sr")];
    let outputs = vec![float_value("output", &[None, Some(1)]), state("stateN")];
    let description = format!(
        "Silero VAD 6 for audio of {} Hz: the official model's weights in another graph, which gives the same numbers up to rounding \
         and takes several times less time. Changed from {origin}.",
        rate.hz
    );
    let facts = [("description", &*description), ("derived_from", origin), ("license", "MIT"), ("license_notice", notice)];
    let metadata = facts.map(|(key, value)| Entry { key: key.to_owned(), value: value.to_owned() }).to_vec();
    Ok(writer.model(&format!("silero_vad_{}_hz", rate.hz), inputs, outputs, metadata).encode_to_vec())
}

/// A convolution's or a cell's weights.
struct Layer {
    dims: Vec<usize>,
    numbers: Vec<f64>,
}

impl Layer {
    /// Of a convolution: what an input channel counts for an output channel at a tap.
    fn tap(&self, output: usize, input: usize, tap: usize) -> f64 {
        self.numbers[(output * self.dims[1] + input) * self.dims[2] + tap]
    }
}

/// The model of one rate.
struct Weights {
    /// Cosines, then sines, of each frequency, under the window.
    basis: Layer,
    convolutions: [(Layer, Vec<f64>); 4],
    cell_input: Layer,
    cell_state: Layer,
    cell_bias: Vec<f64>,
    last: Vec<f64>,
    last_bias: f64,
}

impl Weights {
    fn of(model: &Model, rate: &Rate) -> BuildResult<Self> {
        let nodes = model.graph.iter().flat_map(|graph| &graph.nodes);
        let mut branches = nodes.filter(|node| node.operator == "If").flat_map(|node| &node.attributes);
        let branch = branches.find(|attribute| attribute.name == rate.branch).and_then(|attribute| attribute.graph.as_ref());
        let branch = branch.ok_or_else(|| format!("there is no {}", rate.branch))?;
        let find = |name: &str, dims: &[usize]| -> BuildResult<Layer> {
            let constants = branch.nodes.iter().filter(|node| node.operator == "Constant");
            let mut named = constants.filter(|node| node.outputs.iter().any(|output| output.ends_with(&format!("__{name}"))));
            let tensor = named.next().and_then(|node| node.attributes.first()).and_then(|value| value.tensor.as_ref());
            layer(tensor.ok_or_else(|| format!("there are no weights '{name}'"))?, dims)
                .map_err(|error| format!("'{name}' {error}").into())
        };
        let list = |name: &str, length| find(name, &[length]).map(|layer| layer.numbers);
        let hop = rate.hz as usize / 125;
        let shapes = [(WIDE, hop + 1), (NARROW, WIDE), (NARROW, NARROW), (STATE, NARROW)];
        let convolution = |at: usize| -> BuildResult<(Layer, Vec<f64>)> {
            let (outputs, inputs) = shapes[at];
            let part = |part: &str| format!("encoder.{at}.reparam_conv.{part}");
            Ok((find(&part("weight"), &[outputs, inputs, 3])?, list(&part("bias"), outputs)?))
        };
        let biases = (list("decoder.rnn.bias_ih", 4 * STATE)?, list("decoder.rnn.bias_hh", 4 * STATE)?);
        Ok(Self {
            basis: find("stft.forward_basis_buffer", &[2 * (hop + 1), 1, 2 * hop])?,
            convolutions: [convolution(0)?, convolution(1)?, convolution(2)?, convolution(3)?],
            cell_input: find("decoder.rnn.weight_ih", &[4 * STATE, STATE])?,
            cell_state: find("decoder.rnn.weight_hh", &[4 * STATE, STATE])?,
            cell_bias: biases.0.iter().zip(&biases.1).map(|(input, state)| input + state).collect(),
            last: find("decoder.decoder.2.weight", &[1, STATE, 1])?.numbers,
            last_bias: list("decoder.decoder.2.bias", 1)?[0],
        })
    }

    /// Samples from one frame to the next: half a frame.
    fn hop(&self) -> usize {
        self.basis.dims[2] / 2
    }
}

fn layer(tensor: &Tensor, dims: &[usize]) -> Result<Layer, String> {
    let found: Vec<usize> = tensor.dims.iter().map(|size| *size as usize).collect();
    if found != dims || tensor.datatype != FLOAT || tensor.raw.len() != 4 * dims.iter().product::<usize>() {
        return Err(format!(
            "has datatype {}, shape {found:?} and {} bytes, not FP32 of {dims:?}",
            tensor.datatype,
            tensor.raw.len()
        ));
    }
    let number = |bytes: &[u8]| f64::from(f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]));
    Ok(Layer { dims: found, numbers: tensor.raw.chunks_exact(4).map(number).collect() })
}

fn write(writer: &mut Writer, weights: &Weights, rate: &Rate) -> BuildResult<()> {
    let spectrum = write_spectrum(writer, weights)?;
    let encoded = write_convolutions(writer, weights, &spectrum);
    let hidden = write_cell(writer, weights, &encoded);
    let fired = writer.op("fired", "Relu", &[&hidden]);
    let product = writer.product("last", &fired, &Matrix { columns: 1, numbers: weights.last.clone() });
    let bias = write_checked_bias(writer, weights.last_bias, rate);
    let logit = writer.op("logit", "Add", &[&product, &bias]);
    writer.op("output", "Sigmoid", &[&logit]);
    Ok(())
}

/// The last bias, looked up in a list of one: at 0, or beyond the list's end if the rate is wrong.
fn write_checked_bias(writer: &mut Writer, bias: f64, rate: &Rate) -> String {
    let [right, zero, one] = [rate.hz.into(), 0, 1].map(|number| writer.int(number));
    let is_right = writer.op("sr_is_right", "Equal", &["sr", &right]);
    let index = writer.op("sr_index", "Where", &[&is_right, &zero, &one]);
    let bias = writer.floats("last/bias", &[1], [bias]);
    writer.op(&format!("sr_must_be_{}", rate.hz), "Gather", &[&bias, &index])
}

/// The loudness of each frequency in each frame, as `[batch, frame, frequency]`.
fn write_spectrum(writer: &mut Writer, weights: &Weights) -> BuildResult<String> {
    let (basis, hop) = (&weights.basis, weights.hop());
    let (middle, frequencies) = (hop, hop + 1);
    // Sample 0 of a frame mirrors none, but the window is 0 there; the one in the middle is its own mirror.
    for frequency in 0..frequencies {
        let (cosine, sine) = (|at: usize| basis.tap(frequency, 0, at), |at: usize| basis.tap(frequencies + frequency, 0, at));
        let is_even = (1..hop).all(|at| (cosine(at) - cosine(2 * hop - at)).abs() < MIRROR_TOLERANCE);
        let is_odd = (1..=hop).all(|at| (sine(at) + sine(2 * hop - at)).abs() < MIRROR_TOLERANCE);
        if !is_even || !is_odd || cosine(0) != 0.0 || sine(0) != 0.0 {
            return Err(format!("frequency {frequency} of the spectrum is not symmetric").into());
        }
    }
    let (hop, frames) = (hop as i64, FRAMES as i64);
    let ends = writer.ints(&[0, 0, 0, hop / 2]);
    let samples = writer.op_with("samples", "Pad", &["input", &ends], vec![text("mode", "reflect")]);
    let first = writer.slice("first_halves/samples", &samples, 1, frames * hop + 1, 1, 1);
    let first = writer.reshape("first_halves", &first, &[0, frames, hop]);
    let second = writer.slice("second_halves/samples", &samples, hop, (frames + 1) * hop, 1, 1);
    let second = writer.reshape("second_halves", &second, &[0, frames, hop]);
    let second = writer.slice("mirrored", &second, -1, -hop - 1, 2, -1);
    let sums = writer.op("sums", "Add", &[&first, &second]);
    let differences = writer.op("differences", "Sub", &[&first, &second]);
    let cosines = Matrix::of(middle, frequencies, |row, frequency| {
        basis.tap(frequency, 0, row + 1) * if row + 1 == middle { 0.5 } else { 1.0 }
    });
    let sines = Matrix::of(middle, frequencies, |row, frequency| basis.tap(frequencies + frequency, 0, row + 1));
    let cosines = writer.product("cosines", &sums, &cosines);
    let sines = writer.product("sines", &differences, &sines);
    let squares =
        [("cosines/squared", &cosines), ("sines/squared", &sines)].map(|(name, part)| writer.op(name, "Mul", &[part, part]));
    let power = writer.op("power", "Add", &[&squares[0], &squares[1]]);
    Ok(writer.op("spectrum", "Sqrt", &[&power]))
}

/// The four convolutions: 4 frames, 4, 2 and 1, as `[batch, value]`.
fn write_convolutions(writer: &mut Writer, weights: &Weights, spectrum: &str) -> String {
    let [(first, first_bias), (second, second_bias), (third, third_bias), (fourth, fourth_bias)] = &weights.convolutions;
    let (frames, inputs) = (FRAMES as i64, first.dims[1]);
    let ends = writer.ints(&[0, 1, 0, 0, 1, 0]);
    let padded = writer.op("conv0/padded", "Pad", &[spectrum, &ends]);
    let seen = [0, 1, 2].map(|tap| writer.slice(&format!("conv0/tap{tap}"), &padded, tap, tap + frames, 1, 1));
    let seen = writer.concat("conv0/seen", &[&seen[0], &seen[1], &seen[2]], 2);
    let seen = writer.reshape("conv0/rows", &seen, &[-1, 3 * inputs as i64]);
    let taps = Matrix::of(3 * inputs, WIDE, |row, output| first.tap(output, row % inputs, row / inputs));
    // Silence gives max(bias, 0). max(sum + bias, 0), less that, is the larger of sum + min(bias, 0) and -max(bias, 0).
    let silence: Vec<f64> = first_bias.iter().map(|bias| bias.max(0.0)).collect();
    let sum = writer.linear("conv0/sum", &seen, &taps, first_bias.iter().map(|bias| bias.min(0.0)));
    let floor = writer.floats("conv0/silence", &[WIDE], silence.iter().map(|value| -value));
    let values = writer.op("conv0", "Max", &[&sum, &floor]);

    // Steps of two: the first place is in front of frames 0 and 1, the second in front of 1, 2 and 3.
    let values = writer.reshape("conv1/rows", &values, &[-1, (FRAMES * WIDE) as i64]);
    let places = Matrix::of(FRAMES * WIDE, 2 * NARROW, |row, column| {
        let (frame, place) = (row / WIDE, column / NARROW);
        let tap = (frame + 1).checked_sub(2 * place).filter(|tap| *tap < 3);
        tap.map_or(0.0, |tap| second.tap(column % NARROW, row % WIDE, tap))
    });
    let offsets = places.times(&silence.repeat(FRAMES));
    let bias = second_bias.repeat(2).into_iter().zip(offsets).map(|(bias, offset)| bias + offset);
    let values = write_layer(writer, "conv1", &values, &places, bias);
    let places = Matrix::of(2 * NARROW, NARROW, |row, output| third.tap(output, row % NARROW, row / NARROW + 1));
    let values = write_layer(writer, "conv2", &values, &places, third_bias.iter().copied());
    let place = Matrix::of(NARROW, STATE, |row, output| fourth.tap(output, row, 1));
    write_layer(writer, "conv3", &values, &place, fourth_bias.iter().copied())
}

fn write_layer(writer: &mut Writer, name: &str, rows: &str, matrix: &Matrix, bias: impl IntoIterator<Item = f64>) -> String {
    let sum = writer.linear(&format!("{name}/sum"), rows, matrix, bias);
    writer.op(name, "Relu", &[&sum])
}

/// The recurrent cell; writes `stateN`, and gives its first half.
fn write_cell(writer: &mut Writer, weights: &Weights, encoded: &str) -> String {
    const INPUT_GATE: usize = 0;
    const FORGET_GATE: usize = 1;
    const CANDIDATE: usize = 2;
    const OUTPUT_GATE: usize = 3;
    let state = STATE as i64;
    let halves = writer.split("state/halves", "state", 0, [1, 1]);
    let [hidden, kept] =
        [("hidden/before", &halves[0]), ("kept/before", &halves[1])].map(|(name, half)| writer.reshape(name, half, &[-1, state]));
    let seen = writer.concat("cell/seen", &[encoded, &hidden], 1);
    let order = [INPUT_GATE, FORGET_GATE, OUTPUT_GATE, CANDIDATE];
    let from = |column: usize| order[column / STATE] * STATE + column % STATE;
    let matrix = Matrix::of(2 * STATE, 4 * STATE, |row, column| {
        let (layer, input) = if row < STATE { (&weights.cell_input, row) } else { (&weights.cell_state, row - STATE) };
        layer.numbers[from(column) * STATE + input]
    });
    let sums = writer.linear("cell/sums", &seen, &matrix, (0..4 * STATE).map(|column| weights.cell_bias[from(column)]));
    let [gates, candidate] = writer.split("cell/parts", &sums, 1, [3 * state, state]);
    let gates = writer.op("cell/gates", "Sigmoid", &[&gates]);
    let [input, forget, output] = writer.split("cell/gate", &gates, 1, [state; 3]);
    let candidate = writer.op("cell/candidate", "Tanh", &[&candidate]);
    let old = writer.op("kept/old", "Mul", &[&forget, &kept]);
    let new = writer.op("kept/new", "Mul", &[&input, &candidate]);
    let kept = writer.op("kept", "Add", &[&old, &new]);
    let loud = writer.op("kept/bounded", "Tanh", &[&kept]);
    let hidden = writer.op("hidden", "Mul", &[&output, &loud]);
    let both = writer.op_with("state/both", "Concat", &[&hidden, &kept], vec![int("axis", 0)]);
    writer.reshape("stateN", &both, &[2, -1, state]);
    hidden
}
