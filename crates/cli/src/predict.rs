//! `tidemill predict`: one item, one answer.
//!
//! Knows how to make an item from flags or from a stretch of audio; does not know what the outputs mean.

use std::{fmt, path::PathBuf, time::Duration};

use bytes::Bytes;
use clap::Args;
use serde::Serialize;
use tidemill_client::audio_framing;
use tokio_util::sync::CancellationToken;

use super::{
    AudioInput, PriorityArg, RawArgs,
    audio::AudioSource,
    connection::{ConnectionArgs, unless_interrupted},
    output::Printer,
    printed::Record,
    records::TimingRecord,
    status::{Ending, Failure},
    tensors::{TensorArgument, TensorRecord, describe_spec},
};
use tidemill_wire::v1::{Item, ModelDetail, PredictRequest, PredictResponse, predict_request::Payload};

/// Largest start of a window, in seconds: a year.
const AT_SECONDS_MAX: f64 = 366.0 * 86_400.0;

const HELP: &str = help!(
    "\
Examples:
  tidemill predict talk.mp3 --at 1.5                          the window of audio that begins at 1.5 s
  tidemill predict --sample --at 0.6                          one of a clip that the program makes
  tidemill predict --model iris --tensor x=5.1,3.5,1.4,0.2    typed numbers
  tidemill predict --model image --tensor pixels=cat.raw      a file of little-endian elements
  tidemill predict --model text --tensor ids:1x4=1,2,3,4      a shape, where the model leaves it open
  tidemill predict --model mood --tensor text='Good morning'  a text, for an input of BYTES; @FILE is that file's content
  tidemill models iris                                        says what a model takes"
);

/// Run a model once, on tensors or on one window of audio
///
/// A stateful model starts from its zero state. A value of --tensor is numbers separated by commas, or the name of a file; write a file
/// whose name is a number with its folder, as in ./7. For an input of BYTES the value is a text, or several separated by commas where an
/// item takes several, and @FILE stands for the content of a file.
#[derive(Debug, Args)]
#[command(after_long_help = HELP)]
pub struct PredictArgs {
    /// Audio to take one window from: a recording in any format that `feed` takes, or - for standard input
    #[arg(value_name = "FILE", required_unless_present_any = ["tensors", "sample"], conflicts_with = "tensors")]
    file: Option<PathBuf>,

    /// Instead of from a file, take the window from a short clip of speech-like sound that the program makes itself
    #[arg(long, conflicts_with_all = ["file", "raw", "tensors"])]
    sample: bool,

    #[command(flatten)]
    raw: RawArgs,

    /// Name of the model
    #[arg(long, value_name = "NAME", default_value = "silero-vad")]
    model: String,

    /// Version of the model [default: the newest that is ready]
    #[arg(long, value_name = "VERSION", default_value = "", hide_default_value = true)]
    model_version: String,

    /// An input: NAME=1,2,3 or NAME=FILE, optionally with a shape as in NAME:2x3=FILE; may be repeated
    #[arg(long = "tensor", id = "tensors", value_name = "NAME=VALUE")]
    tensors: Vec<TensorArgument>,

    /// Where the window begins, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 0.0, value_parser = parse_seconds, conflicts_with = "tensors")]
    at: f64,

    /// Time within which the answer must come, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 30_000, value_parser = clap::value_parser!(u32).range(1..))]
    deadline_ms: u32,

    /// How urgent the call is
    #[arg(long, value_enum, default_value_t)]
    priority: PriorityArg,

    #[command(flatten)]
    pub(super) connection: ConnectionArgs,
}

fn parse_seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|error| format!("{error}"))?;
    let is_usable = (0.0..=AT_SECONDS_MAX).contains(&seconds);
    if is_usable { Ok(seconds) } else { Err(format!("{seconds} is not between 0 and {AT_SECONDS_MAX}")) }
}

pub(super) async fn run(args: &PredictArgs, printer: &mut Printer, interrupt: &CancellationToken) -> Result<Ending, Failure> {
    let asking = async {
        let input = AudioInput { file: args.file.clone(), sample: args.sample, raw: args.raw };
        let source = if input.file.is_some() || input.sample { Some(AudioSource::of(&input).await?) } else { None };
        let client = args.connection.connect().await?;
        let detail = client.model(&args.model, &args.model_version).await?;
        let payload = match source {
            Some(source) => Payload::PcmS16le(window(args, source, &detail, printer).await?),
            None => Payload::Item(item(args, &detail).await?),
        };
        let request = PredictRequest {
            model: args.model.clone(),
            version: args.model_version.clone(),
            payload: Some(payload),
            priority: args.priority.wire().into(),
            accept_container_bytes: true,
            ..PredictRequest::default()
        };
        Ok(client.predict(request, Duration::from_millis(args.deadline_ms.into())).await?)
    };
    let response = unless_interrupted(interrupt, asking).await?;
    printer.print(&PredictionRecord::from(&response))?;
    Ok(Ending::Ok)
}

/// The window of audio that begins at `--at`; shorter at the end of the recording.
async fn window(
    args: &PredictArgs,
    mut source: AudioSource,
    detail: &ModelDetail,
    printer: &mut Printer,
) -> Result<Bytes, Failure> {
    let framing = audio_framing(detail.framing, &args.model)?;
    source.set_rate(framing.sample_rate_hz, printer).await?;
    source.skip((args.at * f64::from(framing.sample_rate_hz)).round() as u64).await?;
    let samples = usize::try_from(framing.window_samples).unwrap_or(usize::MAX);
    let window = source.next_chunk(samples).await?;
    window.ok_or_else(|| Failure::BadInput(format!("there is no audio at {} s", args.at)))
}

/// The item that `--tensor` describes.
async fn item(args: &PredictArgs, detail: &ModelDetail) -> Result<Item, Failure> {
    let mut inputs = Vec::with_capacity(args.tensors.len());
    for argument in &args.tensors {
        inputs.push(argument.resolve(&detail.inputs, !detail.no_batch).await?);
    }
    // If the mask is left out, the server makes one that is all ones.
    let mask = detail.padding.as_ref().map_or("", |padding| padding.mask.as_str());
    let missing = detail.inputs.iter().filter(|spec| spec.name != mask && inputs.iter().all(|input| input.name != spec.name));
    let missing: Vec<String> = missing.map(describe_spec).collect();
    if !missing.is_empty() {
        let model = &args.model;
        return Err(Failure::BadInput(format!("model '{model}' also takes {}; add a --tensor for each", missing.join(", "))));
    }
    Ok(Item { id: String::new(), inputs, deadline: None })
}

/// The answer: `{"prediction":{"model":..,"outputs":[..]}}`.
#[derive(Debug, Serialize)]
struct PredictionRecord {
    model: String,
    version: String,
    outputs: Vec<TensorRecord>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timing: Option<TimingRecord>,
}

impl From<&PredictResponse> for PredictionRecord {
    fn from(response: &PredictResponse) -> Self {
        Self {
            model: response.model.clone(),
            version: response.version.clone(),
            outputs: response.outputs.iter().flat_map(|outputs| &outputs.tensors).map(TensorRecord::from).collect(),
            timing: response.timing.as_ref().map(TimingRecord::from),
        }
    }
}

impl fmt::Display for PredictionRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.outputs.iter().map(ToString::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl Record for PredictionRecord {
    const KIND: &'static str = "prediction";
}
