//! A recording that is decoded as it arrives: whenever enough of it is there, a step of it, on a side thread.
//!
//! No step waits for the client. Where a decoder asks for more than is there, an opening is tried again once twice as much has come, from
//! bytes that are still held; later, it is an error, as the bytes before are gone.

use crate::{
    domain::{Fault, FaultKind},
    side::SideThreads,
};
use bytes::Bytes;
use tidemill_recording::{self as recording, Input, Opened, Recording, RecordingError};

use super::fed::Fed;

/// Samples of a step, in bytes.
pub(super) const STEP_BYTES: usize = 64 << 10;

/// How the bytes of a body are to be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    /// As whatever they begin like; as raw samples of this rate if they begin like nothing known.
    Sniffed(Option<u32>),
    /// As raw samples of this rate.
    Raw(u32),
}

/// A recording on its way.
pub(super) struct Decoder {
    /// `None` while a step runs.
    recording: Option<Box<Recording>>,
    fed: Fed,
    look_ahead: usize,
}

/// What a step gave.
#[derive(Debug, Default)]
pub(super) struct Step {
    /// Little-endian.
    pub(super) samples: Vec<u8>,
    /// No step follows.
    pub(super) is_last: bool,
    /// What was wrong with a recording that could still be read.
    pub(super) flaw: Option<String>,
}

/// Begins a recording of which `pieces` have arrived; `None` if it takes more to know what it is.
///
/// # Errors
/// [`FaultKind::Invalid`] if it cannot be read, or not at this rate.
pub(super) async fn open(
    side: &SideThreads,
    pieces: &[Bytes],
    has_ended: bool,
    taken: Taken,
    rate_hz: u32,
) -> Result<Option<Decoder>, Fault> {
    let fed = Fed::of(pieces, has_ended);
    let reader = fed.clone();
    let (recording, fed) = side
        .run(move || {
            let opened = begin(reader, taken, rate_hz);
            if fed.is_starved() { Ok((None, fed)) } else { opened.map(|recording| (Some(recording), fed)) }
        })
        .await?;
    Ok(recording.map(|recording| {
        let look_ahead = recording.look_ahead_bytes();
        Decoder { recording: Some(recording), fed, look_ahead }
    }))
}

fn begin(reader: Fed, taken: Taken, rate_hz: u32) -> Result<Box<Recording>, Fault> {
    let input = Input::from_reader(reader);
    let mut recording = match taken {
        Taken::Raw(own_hz) => Box::new(Recording::raw(&[], input, own_hz)),
        Taken::Sniffed(stated_hz) => match recording::open(input).map_err(unread)? {
            Opened::Recording(recording) => {
                agree(&recording, stated_hz)?;
                recording
            }
            Opened::Unknown(beginning, input) => {
                let own_hz = stated_hz.ok_or_else(unknown)?;
                Box::new(Recording::raw(&beginning, input, own_hz))
            }
        },
    };
    recording.at_rate(rate_hz).map_err(unread)?;
    Ok(recording)
}

/// A rate that is stated must be that of a recording that states its own.
fn agree(recording: &Recording, stated_hz: Option<u32>) -> Result<(), Fault> {
    let own_hz = recording.rate_hz();
    match stated_hz {
        Some(stated_hz) if stated_hz != own_hz => {
            let message = format!(
                "sample_rate_hz is {stated_hz}, but the recording says {own_hz} ({}); leave it out, it is for raw samples",
                recording.describe()
            );
            Err(Fault::invalid("sample_rate_hz", message))
        }
        _ => Ok(()),
    }
}

impl Decoder {
    /// Where its bytes go.
    pub(super) const fn fed(&self) -> &Fed {
        &self.fed
    }

    /// Whether enough has arrived for a step.
    pub(super) fn is_ready(&self) -> bool {
        self.fed.has(self.look_ahead)
    }

    /// Decodes what may be decoded now, at most about [`STEP_BYTES`].
    ///
    /// # Errors
    /// [`FaultKind::Invalid`] if the recording is broken.
    pub(super) async fn step(&mut self, side: &SideThreads) -> Result<Step, Fault> {
        let Some(recording) = self.recording.take() else { return Ok(Step { is_last: true, ..Step::default() }) };
        let (fed, look_ahead) = (self.fed.clone(), self.look_ahead);
        let (recording, step) = side.run(move || advance(recording, &fed, look_ahead)).await?;
        self.recording = Some(recording);
        Ok(step)
    }
}

fn advance(mut recording: Box<Recording>, fed: &Fed, look_ahead: usize) -> Result<(Box<Recording>, Step), Fault> {
    let mut step = Step::default();
    while step.samples.len() < STEP_BYTES && fed.has(look_ahead) {
        let piece = recording.next_piece();
        if fed.is_starved() {
            if recording.is_complete() {
                // What follows is a picture or the like.
                step.is_last = true;
                break;
            }
            return Err(too_far_apart(look_ahead));
        }
        match piece.map_err(unread)? {
            Some(piece) if step.samples.is_empty() => step.samples = piece,
            Some(piece) => step.samples.extend_from_slice(&piece),
            None => {
                step.is_last = true;
                step.flaw = recording.flaw().map(|flaw| format!("the recording {flaw}"));
                break;
            }
        }
    }
    Ok((recording, step))
}

fn unread(error: RecordingError) -> Fault {
    match error {
        RecordingError::TooLongForAPipe { limit_bytes } => {
            let message = format!("the recording {error}");
            let limit = u64::try_from(limit_bytes).unwrap_or(u64::MAX);
            Fault::new(FaultKind::TooLarge, message).with_field("body").with_limit("recording", limit)
        }
        error => Fault::invalid("body", format!("the recording {error}")),
    }
}

fn unknown() -> Fault {
    Fault::invalid(
        "body",
        "the body is in no format that is known here (WAV, FLAC, MP3, AAC, MP4, Ogg Vorbis, AIFF, CAF, AU); for raw 16-bit little-endian \
         mono samples, state their rate with sample_rate_hz",
    )
}

fn too_far_apart(look_ahead: usize) -> Fault {
    let message = format!(
        "the recording has more than {look_ahead} bytes between two of its parts, which is more than is held while it arrives; send \
         another format, or use `tidemill upload`"
    );
    Fault::invalid("body", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE_HZ: u32 = 16_000;

    /// A WAV file of this many samples.
    fn wav(samples: u32) -> Vec<u8> {
        let data: Vec<u8> = (0..samples).flat_map(|at| ((at % 1_000) as i16).to_le_bytes()).collect();
        let mut file = b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0\x01\0\x01\0\x80\x3e\0\0\0\x7d\0\0\x02\0\x10\0data".to_vec();
        file.extend_from_slice(&(data.len() as u32).to_le_bytes());
        file.extend_from_slice(&data);
        file
    }

    async fn all(pieces: &[Bytes], taken: Taken) -> Result<Vec<u8>, Fault> {
        let side = SideThreads::new(1);
        let mut decoder = open(&side, pieces, true, taken, RATE_HZ).await?.expect("all of it is there");
        let mut samples = Vec::new();
        loop {
            let step = decoder.step(&side).await?;
            assert!(step.samples.len() <= STEP_BYTES + (256 << 10));
            samples.extend(step.samples);
            if step.is_last {
                return Ok(samples);
            }
        }
    }

    #[tokio::test]
    async fn a_file_gives_its_samples_however_it_is_cut() {
        let file = Bytes::from(wav(100_000));
        let expected = file.slice(44..);
        for size in [1_000, 70_001, 1 << 20] {
            let pieces: Vec<Bytes> = file.chunks(size).map(Bytes::copy_from_slice).collect();
            assert_eq!(all(&pieces, Taken::Sniffed(None)).await.expect("samples"), expected);
        }
    }

    #[tokio::test]
    async fn a_beginning_that_is_too_short_is_no_error_until_it_ends() {
        let side = SideThreads::new(1);
        let beginning = [Bytes::from(wav(10)).slice(..20)];
        assert!(open(&side, &beginning, false, Taken::Sniffed(None), RATE_HZ).await.expect("no error").is_none());
        let fault = open(&side, &beginning, true, Taken::Sniffed(None), RATE_HZ).await.err().expect("it is cut off");
        assert_eq!((fault.kind(), fault.field()), (FaultKind::Invalid, Some("body")), "{fault}");
    }

    #[tokio::test]
    async fn a_step_takes_only_what_has_arrived() {
        let side = SideThreads::new(1);
        let file = Bytes::from(wav(400_000));
        let mut decoder = open(&side, &[file.slice(..300_000)], false, Taken::Sniffed(None), RATE_HZ)
            .await
            .expect("no error")
            .expect("a WAV file");
        let mut samples = 0;
        while decoder.is_ready() {
            samples += decoder.step(&side).await.expect("samples").samples.len();
        }
        assert!(samples > 0 && decoder.fed().available() < decoder.look_ahead);
        decoder.fed().push(file.slice(300_000..));
        decoder.fed().end();
        loop {
            let step = decoder.step(&side).await.expect("samples");
            samples += step.samples.len();
            if step.is_last {
                break;
            }
        }
        assert_eq!(samples, 800_000);
    }

    #[tokio::test]
    async fn raw_samples_need_a_rate_and_a_rate_must_be_true() {
        let raw = [Bytes::from_static(&[1, 0, 2, 0])];
        assert_eq!(all(&raw, Taken::Sniffed(Some(RATE_HZ))).await.expect("samples"), [1, 0, 2, 0]);
        assert_eq!(all(&raw, Taken::Raw(RATE_HZ)).await.expect("samples"), [1, 0, 2, 0]);
        let field = |fault: Fault| fault.field().map(str::to_owned);
        assert_eq!(field(all(&raw, Taken::Sniffed(None)).await.expect_err("no rate")).as_deref(), Some("body"));
        let file = [Bytes::from(wav(10))];
        assert_eq!(
            field(all(&file, Taken::Sniffed(Some(8_000))).await.expect_err("not its rate")).as_deref(),
            Some("sample_rate_hz")
        );
        assert_eq!(all(&file, Taken::Raw(RATE_HZ)).await.expect("meant as samples").len(), 44 + 20);
    }
}
