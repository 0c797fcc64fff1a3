//! `tidemill feed`: sends audio over a live stream and prints what comes back while it is sent.
//!
//! Knows pacing, keepalives and half-closing; does not know what the events mean.

use std::{pin::pin, time::Duration};

use clap::{Args, ValueEnum};
use futures::future::{Either, select};
use tidemill_client::{Error, Feed, FeedSender, audio_framing, keepalive_interval};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{
    AudioInput, StreamArgs,
    audio::{AudioSource, SAMPLE_BYTES},
    connection::{ConnectionArgs, unless_interrupted},
    events::{Tally, print_events, print_opened, stream_config},
    output::Printer,
    status::{Ending, Failure},
};
use tidemill_wire::v1::{Framing, Opened, OverflowPolicy, StreamConfig, UnreadPolicy};

/// Room that a message's other fields take besides its chunk.
const MESSAGE_OVERHEAD_BYTES: u64 = 64;

const HELP: &str = help!(
    "\
Examples:
  tidemill feed --sample              a clip that the program makes: no file needed
  tidemill feed talk.mp3              speech in a recording, at full speed
  tidemill feed talk.mp3 --realtime   the same at the speed of a microphone
  tidemill feed talk.mp3 --results    and the probability of every window
  tidemill feed talk.mp3 --json | jq .segment.end_ms
  ffmpeg -i talk.webm -f wav - | tidemill feed -
  arecord -f S16_LE -r 16000 | tidemill feed -
  tidemill feed talk.pcm --raw --rate 8000"
);

/// Send audio over a live stream and print results while it is sent
///
/// A file, or standard input (-), is what its first bytes say, not what its name says: WAV, RF64, BW64, Wave64, AIFF, CAF, AU, FLAC, MP3,
/// Ogg Vorbis, or AAC, in M4A or in frames. Channels are mixed into one, and a sample rate other than the model's is resampled. Anything
/// else is taken as raw signed 16-bit little-endian mono.
///
/// Ctrl-C stops sending; what has been sent is still answered. A second Ctrl-C exits at once.
#[derive(Debug, Args)]
#[command(after_long_help = HELP)]
pub struct FeedArgs {
    #[command(flatten)]
    input: AudioInput,

    #[command(flatten)]
    stream: StreamArgs,

    /// Send at the speed of the audio itself: each chunk when its last sample would have been recorded
    #[arg(long)]
    realtime: bool,

    /// What to give up when audio comes faster than the model runs
    #[arg(long, value_enum, default_value_t)]
    overflow: OverflowArg,

    /// What to give up when results come faster than they are read; gaps are printed as `skipped`
    #[arg(long, value_enum, default_value_t)]
    unread: UnreadArg,

    /// Audio in one message, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    chunk_ms: u32,

    #[command(flatten)]
    pub(super) connection: ConnectionArgs,
}

/// What to give up when audio comes faster than the model runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum OverflowArg {
    /// Nothing: sending waits
    #[default]
    Block,
    /// The oldest waiting window of audio
    DropOldest,
    /// All waiting windows but the newest
    Latest,
}

impl OverflowArg {
    const fn wire(self) -> OverflowPolicy {
        match self {
            Self::Block => OverflowPolicy::Block,
            Self::DropOldest => OverflowPolicy::DropOldest,
            Self::Latest => OverflowPolicy::Latest,
        }
    }
}

/// What to give up when results come faster than they are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum UnreadArg {
    /// Nothing: the server waits, and reads no more audio
    #[default]
    Block,
    /// The oldest result, once a window of them waits
    DropOldest,
    /// All waiting results but the newest
    Latest,
    /// The stream, once a window of results waits
    Disconnect,
}

impl UnreadArg {
    const fn wire(self) -> UnreadPolicy {
        match self {
            Self::Block => UnreadPolicy::Block,
            Self::DropOldest => UnreadPolicy::DropOldest,
            Self::Latest => UnreadPolicy::Latest,
            Self::Disconnect => UnreadPolicy::Disconnect,
        }
    }
}

pub(super) async fn run(args: &FeedArgs, printer: &mut Printer, interrupt: &CancellationToken) -> Result<Ending, Failure> {
    let mut source = AudioSource::of(&args.input).await?;
    let opening = async {
        let client = args.connection.connect().await?;
        let (overflow, unread) = (args.overflow.wire().into(), args.unread.wire().into());
        let feed = client.feed(StreamConfig { overflow, unread, ..stream_config(&args.stream) }).await?;
        let framing = audio_framing(feed.opened.framing, &feed.opened.model)?;
        Ok((feed, framing))
    };
    let (Feed { opened, sender, mut events }, framing) = unless_interrupted(interrupt, opening).await?;
    source.set_rate(framing.sample_rate_hz, printer).await?;
    let plan = SendPlan::new(args, &opened, framing)?;
    print_opened(&opened, printer)?;
    let mut tally = Tally::new(framing.sample_rate_hz, source.samples_total(), args.stream.results);
    printer.start_progress(source.samples_total());

    let outcome = {
        let sending = pin!(send(&mut source, sender, plan, interrupt));
        let receiving = pin!(print_events(&mut events, printer, &mut tally));
        // An answer that ends the stream ends the sending too, even while that waits for a microphone.
        match select(sending, receiving).await {
            Either::Left((sent, receiving)) => receiving.await.and(sent),
            Either::Right((received, _)) => received
                .and(Err(Error::UnexpectedAnswer("the server completed the stream before all audio was sent".to_owned()).into())),
        }
    };
    tally.finish(outcome, interrupt.is_cancelled(), printer).map(|ending| source.ending(ending, printer))
}

/// How the audio is sent.
#[derive(Debug, Clone, Copy)]
struct SendPlan {
    chunk_samples: usize,
    /// Samples per second to send at; unset to send as fast as the server reads.
    pace_hz: Option<u32>,
    keepalive_interval: Duration,
}

impl SendPlan {
    fn new(args: &FeedArgs, opened: &Opened, framing: Framing) -> Result<Self, Failure> {
        let rate_hz = framing.sample_rate_hz;
        let chunk_samples = (u64::from(rate_hz) * u64::from(args.chunk_ms) / 1_000).max(1);
        let limits = opened.limits.unwrap_or_default();
        let message_bytes = chunk_samples * SAMPLE_BYTES as u64 + MESSAGE_OVERHEAD_BYTES;
        if limits.max_message_bytes > 0 && message_bytes > limits.max_message_bytes {
            let (chunk_ms, limit) = (args.chunk_ms, limits.max_message_bytes);
            let reason = format!("makes messages of {message_bytes} bytes, but the server takes {limit} at most");
            return Err(Failure::BadInput(format!("--chunk-ms {chunk_ms} {reason}")));
        }
        Ok(Self {
            chunk_samples: usize::try_from(chunk_samples).unwrap_or(usize::MAX / SAMPLE_BYTES),
            pace_hz: args.realtime.then_some(rate_hz),
            keepalive_interval: keepalive_interval(opened),
        })
    }
}

/// Sends the whole source, then half-closes by dropping `requests`; Ctrl-C makes it do so earlier. A lost server ends it too: the
/// receiving half knows why.
async fn send(
    source: &mut AudioSource,
    sender: FeedSender,
    plan: SendPlan,
    interrupt: &CancellationToken,
) -> Result<(), Failure> {
    let start = Instant::now();
    let mut samples_sent = 0;
    loop {
        let next = async {
            let Some(chunk) = source.next_chunk(plan.chunk_samples).await? else { return Ok::<_, Failure>(None) };
            samples_sent += (chunk.len() / SAMPLE_BYTES) as u64;
            if let Some(pace_hz) = plan.pace_hz {
                // Counted from the start, so that late timers do not add up.
                sleep_until(start + duration_of(samples_sent, pace_hz)).await;
            }
            Ok(Some(chunk))
        };
        let sending_next = async {
            let mut next = pin!(next);
            let chunk = loop {
                tokio::select! {
                    biased;
                    chunk = &mut next => break chunk?,
                    () = sleep(plan.keepalive_interval) => drop(sender.keep_alive().await),
                }
            };
            let Some(chunk) = chunk else { return Ok(false) };
            Ok(sender.send_chunk(chunk).await.is_ok())
        };
        match interrupt.run_until_cancelled(sending_next).await {
            Some(Ok(true)) => {}
            Some(Ok(false)) | None => return Ok(()),
            Some(Err(failure)) => return Err(failure),
        }
    }
}

/// How long this many samples take to record.
fn duration_of(samples: u64, rate_hz: u32) -> Duration {
    let rest_ns = samples % u64::from(rate_hz) * 1_000_000_000 / u64::from(rate_hz);
    Duration::from_secs(samples / u64::from(rate_hz)) + Duration::from_nanos(rest_ns)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use tokio::sync::mpsc;

    use super::*;
    use tidemill_wire::v1::{FeedRequest, KeepAlive, feed_request::Message};

    const PLAN: SendPlan = SendPlan { chunk_samples: 1_600, pace_hz: Some(16_000), keepalive_interval: Duration::from_secs(5) };

    #[tokio::test(start_paused = true)]
    async fn chunks_leave_on_a_schedule_that_is_fixed_from_the_start() {
        let (requests, mut receiver) = mpsc::channel(1);
        let mut source = AudioSource::from_reader(Cursor::new(vec![0; 2 * 4_000]));
        let start = Instant::now();
        let interrupt = CancellationToken::new();
        let receiving = async {
            let mut seen = Vec::new();
            while let Some(FeedRequest { message: Some(Message::Chunk(chunk)) }) = receiver.recv().await {
                seen.push((chunk.len(), start.elapsed()));
                // A slow consumer must not delay what follows.
                sleep(Duration::from_millis(30)).await;
            }
            seen
        };
        let (sent, seen) = tokio::join!(send(&mut source, FeedSender::new(requests), PLAN, &interrupt), receiving);
        sent.expect("all sent");
        let due = [(3_200, 100), (3_200, 200), (1_600, 250)].map(|(bytes, due_ms)| (bytes, Duration::from_millis(due_ms)));
        assert_eq!(seen, due);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_microphone_is_kept_alive_and_its_half_chunk_is_not_lost() {
        let (requests, mut receiver) = mpsc::channel(1);
        let (mut microphone, reader) = tokio::io::duplex(8_000);
        let mut source = AudioSource::from_reader(reader);
        let interrupt = CancellationToken::new();
        let receiving = async {
            tokio::io::AsyncWriteExt::write_all(&mut microphone, &[1; 1_000]).await.expect("open");
            for _ in 0..2 {
                let kept_alive = receiver.recv().await.and_then(|request: FeedRequest| request.message);
                assert_eq!(kept_alive, Some(Message::Keepalive(KeepAlive {})));
            }
            drop(microphone);
            receiver.recv().await.and_then(|request: FeedRequest| request.message)
        };
        let (sent, last) = tokio::join!(send(&mut source, FeedSender::new(requests), PLAN, &interrupt), receiving);
        sent.expect("all sent");
        assert_eq!(last, Some(Message::Chunk(vec![1; 1_000].into())));
    }

    #[test]
    fn a_day_of_samples_takes_a_day() {
        assert_eq!(duration_of(44_100 * 86_400 + 441, 44_100), Duration::from_secs(86_400) + Duration::from_millis(10));
    }
}
