//! `tidemill upload`: sends a recording of any length in chunks and prints one answer for the whole.
//!
//! Knows checksums; does not know how the audio is stored or what the answer means.

use std::pin::pin;

use clap::Args;
use futures::future::{Either, select};
use sha2::{Digest as _, Sha256};
use tidemill_client::{Client, Error, audio_framing};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use super::{
    AudioInput, StreamArgs,
    audio::{AudioSource, SAMPLE_BYTES},
    connection::{ConnectionArgs, unless_interrupted},
    events::{Tally, stream_config},
    output::Printer,
    records::DigestRecord,
    status::{Ending, Failure},
};
use tidemill_wire::v1::{PayloadDigest, UploadConfig, UploadRequest, UploadResponse, upload_request::Part};

/// Largest chunk, in samples; a server with a lower limit on messages gets smaller ones.
const CHUNK_SAMPLES_MAX: u64 = 32 * 1024;

/// Room that a message's other fields take besides its chunk.
const MESSAGE_OVERHEAD_BYTES: u64 = 64;

const QUEUED_REQUESTS: usize = 4;

const HELP: &str = help!(
    "\
Examples:
  tidemill upload --sample                          a clip that the program makes: no file needed
  tidemill upload interview.mp3                     speech in a recording of any length
  tidemill upload interview.mp3 --sha256 --json     with a second checksum, as JSON lines
  tidemill upload interview.mp3 --results           with the probability of every window"
);

/// Send a recording of any length in chunks and print one answer for the whole
///
/// Length and CRC-32C are computed while sending and declared at the end: if something else arrived, the server refuses it with DATA_LOSS.
/// Files are read as by `feed`. Ctrl-C stops sending; what has been sent is still answered.
#[derive(Debug, Args)]
#[command(after_long_help = HELP)]
pub struct UploadArgs {
    #[command(flatten)]
    input: AudioInput,

    #[command(flatten)]
    stream: StreamArgs,

    /// Declare the SHA-256 as well
    #[arg(long)]
    sha256: bool,

    #[command(flatten)]
    pub(super) connection: ConnectionArgs,
}

pub(super) async fn run(args: &UploadArgs, printer: &mut Printer, interrupt: &CancellationToken) -> Result<Ending, Failure> {
    let mut source = AudioSource::of(&args.input).await?;
    let asking = async {
        let client = args.connection.connect().await?;
        let detail = client.model(&args.stream.model, &args.stream.model_version).await?;
        Ok((client, detail))
    };
    let (client, detail) = unless_interrupted(interrupt, asking).await?;
    let framing = audio_framing(detail.framing, &args.stream.model)?;
    source.set_rate(framing.sample_rate_hz, printer).await?;
    let message_bytes_max = detail.default_limits.map_or(0, |limits| limits.max_message_bytes);
    printer.start_progress(source.samples_total());
    let mut tally = Tally::new(framing.sample_rate_hz, None, args.stream.results);
    let exchanged = exchange(args, &client, &mut source, chunk_samples(message_bytes_max), printer, interrupt).await;
    printer.end_progress();
    let (declared, response) = exchanged?;
    let outcome = print_response(&response, &mut tally, printer).and_then(|()| verify(&declared, &response));
    tally.finish(outcome, interrupt.is_cancelled(), printer).map(|ending| source.ending(ending, printer))
}

/// Sends everything and waits for the answer. If the source fails, the call is abandoned, so that the server does not take half a recording
/// for a whole one.
async fn exchange(
    args: &UploadArgs,
    client: &Client,
    source: &mut AudioSource,
    chunk_samples: usize,
    printer: &Printer,
    interrupt: &CancellationToken,
) -> Result<(PayloadDigest, UploadResponse), Failure> {
    let (requests, receiver) = mpsc::channel(QUEUED_REQUESTS);
    let config = UploadConfig { stream: Some(stream_config(&args.stream)), expect: None, include_results: args.stream.results };
    let sha256 = args.sha256.then(Sha256::new);
    let answering = pin!(client.upload(ReceiverStream::new(receiver)));
    let sending = pin!(send(source, requests, config, chunk_samples, sha256, printer, interrupt));
    match select(sending, answering).await {
        Either::Left((sent, answering)) => {
            let declared = sent?;
            Ok((declared, answering.await?))
        }
        Either::Right((Err(error), _)) => Err(error.into()),
        Either::Right((Ok(_), _)) => {
            Err(Error::UnexpectedAnswer("the answer came before the upload had ended".to_owned()).into())
        }
    }
}

/// Sends the recording and its digest, then half-closes by dropping `requests`. A lost server ends it too: the answer says
/// why.
async fn send(
    source: &mut AudioSource,
    requests: mpsc::Sender<UploadRequest>,
    config: UploadConfig,
    chunk_samples: usize,
    mut sha256: Option<Sha256>,
    printer: &Printer,
    interrupt: &CancellationToken,
) -> Result<PayloadDigest, Failure> {
    let (mut total_bytes, mut crc32c) = (0_u64, 0_u32);
    let mut is_open = requests.send(part(Part::Open(config))).await.is_ok();
    while is_open && let Some(read) = interrupt.run_until_cancelled(source.next_chunk(chunk_samples)).await {
        let Some(chunk) = read? else { break };
        total_bytes += chunk.len() as u64;
        crc32c = crc32c::crc32c_append(crc32c, &chunk);
        if let Some(sha256) = &mut sha256 {
            sha256.update(&chunk);
        }
        is_open = requests.send(part(Part::Chunk(chunk))).await.is_ok();
        printer.bar().set_position(total_bytes / SAMPLE_BYTES as u64);
        printer.bar().set_message(format!("{:.1} MB sent", total_bytes as f64 / 1e6));
    }
    let digest = PayloadDigest {
        total_bytes: Some(total_bytes),
        crc32c: Some(crc32c),
        sha256: sha256.map(|sha256| sha256.finalize().to_vec()).unwrap_or_default().into(),
    };
    requests.send(part(Part::Finish(digest.clone()))).await.ok();
    Ok(digest)
}

const fn part(part: Part) -> UploadRequest {
    UploadRequest { part: Some(part) }
}

fn chunk_samples(message_bytes_max: u64) -> usize {
    let bytes_max = if message_bytes_max == 0 { u64::MAX } else { message_bytes_max.saturating_sub(MESSAGE_OVERHEAD_BYTES) };
    let samples = (bytes_max / SAMPLE_BYTES as u64).clamp(1, CHUNK_SAMPLES_MAX);
    usize::try_from(samples).unwrap_or(1)
}

fn print_response(response: &UploadResponse, tally: &mut Tally, printer: &mut Printer) -> Result<(), Failure> {
    response.segments.iter().try_for_each(|segment| tally.take_segment(segment, printer))?;
    let answers = if response.results.is_empty() { &response.errors } else { &response.results };
    answers.iter().try_for_each(|result| tally.take_result(result, printer))?;
    let summary = tally.summary_mut();
    if let Some(counts) = &response.summary {
        summary.complete(counts);
    }
    summary.received = response.received.as_ref().map(|received| DigestRecord {
        total_bytes: received.total_bytes.unwrap_or_default(),
        crc32c: format!("{:08x}", received.crc32c.unwrap_or_default()),
        sha256: (!received.sha256.is_empty()).then(|| received.sha256.iter().map(|byte| format!("{byte:02x}")).collect()),
    });
    Ok(())
}

/// Compares what was sent with what the server says it received; the server should have refused, but checking costs nothing.
fn verify(declared: &PayloadDigest, response: &UploadResponse) -> Result<(), Failure> {
    let differs = response.received.as_ref().is_none_or(|received| {
        received.total_bytes != declared.total_bytes
            || received.crc32c != declared.crc32c
            || (!declared.sha256.is_empty() && received.sha256 != declared.sha256)
    });
    let complaint = || Error::UnexpectedAnswer("the server did not receive the bytes that were sent".to_owned());
    if differs { Err(complaint().into()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_whole_samples_that_fit_the_servers_messages() {
        assert_eq!(chunk_samples(0), 32 * 1024);
        assert_eq!(chunk_samples(4 * 1024 * 1024), 32 * 1024);
        assert_eq!(chunk_samples(1_067), 501);
        assert_eq!(chunk_samples(1), 1);
    }
}
