//! `tidemill scan`: sends a whole recording in one request and prints each result as it is computed.
//!
//! Knows that a request has a largest size; does not know what the events mean.

use bytes::{Bytes, BytesMut};
use clap::Args;
use tidemill_client::audio_framing;
use tokio_util::sync::CancellationToken;

use super::{
    AudioInput, StreamArgs,
    audio::{AudioSource, SAMPLE_BYTES},
    connection::{ConnectionArgs, unless_interrupted},
    events::{Tally, print_events, print_opened, stream_config},
    output::Printer,
    status::{Ending, Failure},
};
use tidemill_wire::v1::{ScanRequest, scan_request::Payload};

/// Room that a request's other fields take besides the recording.
const REQUEST_OVERHEAD_BYTES: u64 = 1_024;

/// Largest recording sent to a server that names no limit: gRPC's usual limit on a message.
const RECORDING_BYTES_DEFAULT: u64 = 4 * 1024 * 1024 - REQUEST_OVERHEAD_BYTES;

/// Samples read at a time.
const READ_SAMPLES: usize = 32 * 1024;

const HELP: &str = help!(
    "\
Examples:
  tidemill scan --sample                       a clip that the program makes: no file needed
  tidemill scan talk.mp3                       speech in a short recording
  tidemill scan talk.mp3 --results             and the probability of every window
  tidemill scan - --raw --json < talk.pcm      raw samples in, JSON lines out"
);

/// Send a short recording in one request and print results as they are computed
///
/// The request is one message, so its size is limited by the server; use `upload` or `feed` for longer recordings. Files are
/// read as by `feed`. Ctrl-C abandons the scan.
#[derive(Debug, Args)]
#[command(after_long_help = HELP)]
pub struct ScanArgs {
    #[command(flatten)]
    input: AudioInput,

    #[command(flatten)]
    stream: StreamArgs,

    #[command(flatten)]
    pub(super) connection: ConnectionArgs,
}

pub(super) async fn run(args: &ScanArgs, printer: &mut Printer, interrupt: &CancellationToken) -> Result<Ending, Failure> {
    let mut source = AudioSource::of(&args.input).await?;
    let opening = async {
        let client = args.connection.connect().await?;
        let detail = client.model(&args.stream.model, &args.stream.model_version).await?;
        let framing = audio_framing(detail.framing, &args.stream.model)?;
        source.set_rate(framing.sample_rate_hz, printer).await?;
        let message_limit = detail.default_limits.map(|limits| limits.max_message_bytes).filter(|limit| *limit > 0);
        let bytes_max = message_limit.map_or(RECORDING_BYTES_DEFAULT, |limit| limit.saturating_sub(REQUEST_OVERHEAD_BYTES));
        let recording = read_whole(&mut source, bytes_max, args).await?;
        let samples = (recording.len() / SAMPLE_BYTES) as u64;
        let request = ScanRequest { config: Some(stream_config(&args.stream)), payload: Some(Payload::PcmS16le(recording)) };
        let (opened, events) = client.scan(request).await?;
        let framing = audio_framing(opened.framing, &opened.model)?;
        Ok((events, opened, framing, samples))
    };
    let (mut events, opened, framing, samples) = unless_interrupted(interrupt, opening).await?;
    print_opened(&opened, printer)?;
    let mut tally = Tally::new(framing.sample_rate_hz, Some(samples), args.stream.results);
    printer.start_progress(Some(samples));
    // There is nothing left to send, so an interrupt can only give up on the answers.
    let outcome = interrupt.run_until_cancelled(print_events(&mut events, printer, &mut tally)).await;
    let interrupted = outcome.is_none();
    tally.finish(outcome.unwrap_or(Ok(())), interrupted, printer).map(|ending| source.ending(ending, printer))
}

/// Reads a recording whole if it fits into a message, and no further if it does not.
async fn read_whole(source: &mut AudioSource, bytes_max: u64, args: &ScanArgs) -> Result<Bytes, Failure> {
    let too_long = || {
        let file = args.input.name();
        Failure::BadInput(format!(
            "{}: a scan is one message, and the server takes at most {bytes_max} bytes of samples; \
             use: tidemill upload {file}, or: tidemill feed {file}",
            file.trim_matches('\'')
        ))
    };
    if source.samples_total().is_some_and(|samples| samples.saturating_mul(SAMPLE_BYTES as u64) > bytes_max) {
        return Err(too_long());
    }
    let mut recording = BytesMut::new();
    while let Some(chunk) = source.next_chunk(READ_SAMPLES).await? {
        if (recording.len() + chunk.len()) as u64 > bytes_max {
            return Err(too_long());
        }
        recording.extend_from_slice(&chunk);
    }
    Ok(recording.freeze())
}
