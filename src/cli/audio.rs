//! Where the audio comes from: a file or standard input, read piece by piece as mono signed 16-bit samples.
//!
//! Knows raw PCM and WAV; does not resample, and does not know what the samples are for.

use std::{
    fs::File,
    io::BufReader,
    path::{Path, PathBuf},
};

use bytes::{Bytes, BytesMut};
use hound::{SampleFormat, WavReader, WavSpec};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::status::Failure;

/// Bytes of one sample on the wire.
pub(super) const SAMPLE_BYTES: usize = 2;

/// Largest number of channels that are mixed into one.
const CHANNELS_MAX: u16 = 64;

/// Names of formats that would be noise if they were read as raw samples.
const FOREIGN_EXTENSIONS: [&str; 11] = ["mp3", "flac", "ogg", "opus", "m4a", "mp4", "aac", "aiff", "aif", "webm", "wma"];

/// A recording or a live feed, read in order and once.
pub(super) struct AudioSource {
    path: PathBuf,
    reader: Reader,
    samples_total: Option<u64>,
    bytes_read: u64,
}

enum Reader {
    Raw(Box<dyn AsyncRead + Send + Unpin>),
    /// `None` while a piece is being read on another thread.
    Wav(Option<WavReader<BufReader<File>>>, WavSpec),
}

impl AudioSource {
    /// Opens `path`; `-` is standard input. A name that ends in `.wav` is read as WAV, anything else as raw samples.
    ///
    /// # Errors
    /// [`Failure::BadInput`] if the file cannot be opened, or is in a format that cannot be read.
    pub(super) async fn open(path: &Path) -> Result<Self, Failure> {
        let extension = path.extension().map(|extension| extension.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
        if path == Path::new("-") {
            return Ok(Self::raw(path, Box::new(tokio::io::stdin()), None));
        }
        if FOREIGN_EXTENSIONS.contains(&extension.as_str()) {
            return Err(bad(path, &format!("cannot read .{extension} audio; convert it: {}", convert_command(path, None))));
        }
        if extension == "wav" { Self::open_wav(path).await } else { Self::open_raw(path).await }
    }

    async fn open_raw(path: &Path) -> Result<Self, Failure> {
        let file = tokio::fs::File::open(path).await.map_err(|error| bad(path, &error))?;
        let metadata = file.metadata().await.map_err(|error| bad(path, &error))?;
        if metadata.is_dir() {
            return Err(bad(path, &"is a folder, not a recording"));
        }
        let samples_total = metadata.is_file().then_some(metadata.len() / SAMPLE_BYTES as u64);
        if metadata.is_file() && metadata.len() % SAMPLE_BYTES as u64 != 0 {
            return Err(odd_length(path, metadata.len()));
        }
        Ok(Self::raw(path, Box::new(file), samples_total))
    }

    async fn open_wav(path: &Path) -> Result<Self, Failure> {
        let name = path.to_owned();
        let wav = blocking(move || WavReader::open(&name)).await?.map_err(|error| bad(path, &error))?;
        let spec = wav.spec();
        let readable = match spec.sample_format {
            SampleFormat::Int => matches!(spec.bits_per_sample, 8 | 16 | 24 | 32),
            SampleFormat::Float => spec.bits_per_sample == 32,
        };
        if !readable || spec.channels == 0 || spec.channels > CHANNELS_MAX {
            let WavSpec { channels, bits_per_sample, .. } = spec;
            let found = format!("{channels} channels of {bits_per_sample}-bit samples cannot be read");
            return Err(bad(path, &format!("{found}; convert it: {}", convert_command(path, None))));
        }
        let samples_total = Some(u64::from(wav.duration()));
        Ok(Self { path: path.to_owned(), reader: Reader::Wav(Some(wav), spec), samples_total, bytes_read: 0 })
    }

    fn raw(path: &Path, reader: Box<dyn AsyncRead + Send + Unpin>, samples_total: Option<u64>) -> Self {
        Self { path: path.to_owned(), reader: Reader::Raw(reader), samples_total, bytes_read: 0 }
    }

    /// A source that reads raw samples from any reader.
    #[cfg(test)]
    pub(super) fn from_reader(reader: impl AsyncRead + Send + Unpin + 'static) -> Self {
        Self::raw(Path::new("-"), Box::new(reader), None)
    }

    /// How many samples there are, where that is known beforehand.
    pub(super) const fn samples_total(&self) -> Option<u64> {
        self.samples_total
    }

    /// Checks that the recording has the model's rate, as far as it says.
    ///
    /// # Errors
    /// [`Failure::BadInput`] with the command that converts it.
    pub(super) fn check_rate(&self, rate_hz: u32) -> Result<(), Failure> {
        match &self.reader {
            Reader::Wav(_, spec) if spec.sample_rate != rate_hz => {
                let found = format!("has {} samples a second, but the model takes {rate_hz}", spec.sample_rate);
                Err(bad(&self.path, &format!("{found}; convert it: {}", convert_command(&self.path, Some(rate_hz)))))
            }
            Reader::Wav(..) | Reader::Raw(_) => Ok(()),
        }
    }

    /// Reads the next `samples` samples, fewer only at the end, as little-endian bytes; `None` after the last.
    ///
    /// # Errors
    /// [`Failure::BadInput`] if reading fails, or the input ends in the middle of a sample.
    pub(super) async fn next_chunk(&mut self, samples: usize) -> Result<Option<Bytes>, Failure> {
        let chunk = match &mut self.reader {
            Reader::Raw(reader) => fill(reader, samples * SAMPLE_BYTES).await.map_err(|error| bad(&self.path, &error))?,
            Reader::Wav(slot, spec) => {
                let Some(mut wav) = slot.take() else { return Ok(None) };
                let spec = *spec;
                let (wav, chunk) = blocking(move || {
                    let chunk = read_mono(&mut wav, spec, samples);
                    (wav, chunk)
                })
                .await?;
                *slot = Some(wav);
                chunk.map_err(|error| bad(&self.path, &format!("ends before its header says, or is damaged: {error}")))?
            }
        };
        let is_raw = matches!(self.reader, Reader::Raw(_));
        if is_raw && self.bytes_read == 0 && chunk.starts_with(b"RIFF") {
            return Err(bad(&self.path, &"begins like a WAV file; pass it as a file whose name ends in .wav"));
        }
        self.bytes_read += chunk.len() as u64;
        if chunk.len() % SAMPLE_BYTES != 0 {
            return Err(odd_length(&self.path, self.bytes_read));
        }
        Ok((!chunk.is_empty()).then_some(chunk))
    }

    /// Reads past `samples` samples.
    ///
    /// # Errors
    /// [`Failure::BadInput`] if the input has no more than that, or cannot be read.
    pub(super) async fn skip(&mut self, samples: u64) -> Result<(), Failure> {
        const STEP_SAMPLES: u64 = 32 * 1024;
        let mut left = samples;
        while left > 0 {
            let step = usize::try_from(left.min(STEP_SAMPLES)).unwrap_or(usize::MAX);
            let Some(chunk) = self.next_chunk(step).await? else {
                return Err(bad(&self.path, &format!("has only {} samples, and {samples} were to be skipped", samples - left)));
            };
            left -= (chunk.len() / SAMPLE_BYTES) as u64;
        }
        Ok(())
    }
}

/// The file name and what is wrong with it.
fn bad(path: &Path, reason: &dyn std::fmt::Display) -> Failure {
    Failure::BadInput(format!("{}: {reason}", path.display()))
}

fn odd_length(path: &Path, bytes: u64) -> Failure {
    bad(path, &format!("{bytes} bytes are no whole number of 16-bit samples; is it raw signed 16-bit mono audio?"))
}

/// The command that makes a file which can be read; the rate is unknown before a model has been asked.
fn convert_command(path: &Path, rate_hz: Option<u32>) -> String {
    let rate = rate_hz.map(|rate_hz| format!("-r {rate_hz} ")).unwrap_or_default();
    format!("sox '{}' {rate}-c 1 -b 16 -e signed-integer converted.wav", path.display())
}

/// Runs file work off the runtime's threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Failure::BadInput(format!("reading audio failed: {error}")))
}

/// Reads until `bytes` are there or the input ends. Pipes hand out less than asked for.
async fn fill(reader: &mut (dyn AsyncRead + Send + Unpin), bytes: usize) -> std::io::Result<Bytes> {
    let mut chunk = BytesMut::with_capacity(bytes);
    let mut limited = reader.take(bytes as u64);
    while limited.limit() > 0 && limited.read_buf(&mut chunk).await? > 0 {}
    Ok(chunk.freeze())
}

/// Reads up to `frames` frames and mixes each into one sample.
fn read_mono<R: std::io::Read>(wav: &mut WavReader<R>, spec: WavSpec, frames: usize) -> hound::Result<Bytes> {
    let channels = usize::from(spec.channels);
    let values = frames * channels;
    let shift = u32::from(spec.bits_per_sample.max(16) - 16);
    let samples: Vec<i32> = match spec.sample_format {
        SampleFormat::Float => {
            wav.samples::<f32>().take(values).map(|sample| sample.map(sample_from_f32)).collect::<hound::Result<_>>()?
        }
        SampleFormat::Int if spec.bits_per_sample == 8 => {
            wav.samples::<i32>().take(values).map(|sample| sample.map(|value| value << 8)).collect::<hound::Result<_>>()?
        }
        SampleFormat::Int => {
            wav.samples::<i32>().take(values).map(|sample| sample.map(|value| value >> shift)).collect::<hound::Result<_>>()?
        }
    };
    Ok(samples.chunks_exact(channels).flat_map(|frame| mix(frame).to_le_bytes()).collect())
}

/// Full scale is 1.0; what lies beyond is clipped.
fn sample_from_f32(value: f32) -> i32 {
    (value * 32_768.0).round().clamp(-32_768.0, 32_767.0) as i32
}

/// The mean of the channels.
fn mix(frame: &[i32]) -> i16 {
    let sum: i64 = frame.iter().map(|sample| i64::from(*sample)).sum();
    let mean = sum / i64::try_from(frame.len().max(1)).unwrap_or(1);
    i16::try_from(mean.clamp(i64::from(i16::MIN), i64::from(i16::MAX))).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use tokio::io::AsyncWriteExt as _;

    use super::*;

    fn wav_bytes(spec: WavSpec, write: impl FnOnce(&mut hound::WavWriter<&mut Cursor<Vec<u8>>>)) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        let mut writer = hound::WavWriter::new(&mut bytes, spec).expect("a header");
        write(&mut writer);
        writer.finalize().expect("complete");
        bytes.into_inner()
    }

    fn mono_of(bytes: Vec<u8>, frames: usize) -> Vec<i16> {
        let mut wav = WavReader::new(Cursor::new(bytes)).expect("a wav");
        let spec = wav.spec();
        let mono = read_mono(&mut wav, spec, frames).expect("readable");
        mono.chunks_exact(2).map(|pair| i16::from_le_bytes([pair[0], pair[1]])).collect()
    }

    const fn spec(channels: u16, bits_per_sample: u16, sample_format: SampleFormat) -> WavSpec {
        WavSpec { channels, sample_rate: 16_000, bits_per_sample, sample_format }
    }

    #[test]
    fn stereo_is_mixed_into_the_mean_of_its_channels() {
        let bytes = wav_bytes(spec(2, 16, SampleFormat::Int), |wav| {
            [100_i16, 300, -32_768, -32_768, 7, -7].into_iter().for_each(|sample| wav.write_sample(sample).expect("written"));
        });
        assert_eq!(mono_of(bytes, 3), [200, -32_768, 0]);
    }

    #[test]
    fn wide_and_narrow_integers_are_brought_to_16_bits() {
        let wide = wav_bytes(spec(1, 24, SampleFormat::Int), |wav| {
            [256_i32, -256, 8_388_607].into_iter().for_each(|sample| wav.write_sample(sample).expect("written"));
        });
        assert_eq!(mono_of(wide, 3), [1, -1, 32_767]);
        let narrow = wav_bytes(spec(1, 8, SampleFormat::Int), |wav| {
            [1_i8, -128].into_iter().for_each(|sample| wav.write_sample(sample).expect("written"));
        });
        assert_eq!(mono_of(narrow, 2), [256, -32_768]);
    }

    #[test]
    fn floats_are_scaled_and_clipped() {
        let bytes = wav_bytes(spec(1, 32, SampleFormat::Float), |wav| {
            [0.5_f32, -1.0, 1.5, f32::NAN].into_iter().for_each(|sample| wav.write_sample(sample).expect("written"));
        });
        assert_eq!(mono_of(bytes, 4), [16_384, -32_768, 32_767, 0]);
    }

    #[tokio::test]
    async fn a_pipe_that_hands_out_single_bytes_still_gives_whole_chunks() {
        let bytes: Vec<u8> = (0..10).collect();
        let (mut writer, reader) = tokio::io::duplex(1);
        let written = bytes.clone();
        let writing = tokio::spawn(async move { writer.write_all(&written).await });
        let mut source = AudioSource::from_reader(reader);
        assert_eq!(source.next_chunk(4).await.expect("read"), Some(Bytes::copy_from_slice(&bytes[..8])));
        assert_eq!(source.next_chunk(4).await.expect("read"), Some(Bytes::copy_from_slice(&bytes[8..])));
        assert_eq!(source.next_chunk(4).await.expect("read"), None);
        writing.await.expect("no panic").expect("all written");
    }

    #[tokio::test]
    async fn half_a_sample_at_the_end_is_an_error_that_says_how_long_the_input_was() {
        let mut source = AudioSource::from_reader(&[0_u8; 5][..]);
        assert!(source.next_chunk(2).await.expect("whole samples").is_some());
        let error = source.next_chunk(2).await.expect_err("one byte over");
        assert!(error.to_string().starts_with("-: 5 bytes are no whole number of 16-bit samples"), "{error}");
    }

    #[tokio::test]
    async fn a_wav_piped_in_is_recognised_instead_of_played_as_noise() {
        let bytes = wav_bytes(spec(1, 16, SampleFormat::Int), |wav| wav.write_sample(1_i16).expect("written"));
        let error = AudioSource::from_reader(Cursor::new(bytes)).next_chunk(100).await.expect_err("a wav");
        assert!(error.to_string().contains("begins like a WAV file"), "{error}");
    }

    #[tokio::test]
    async fn skipping_past_the_end_says_how_much_there_is() {
        let mut source = AudioSource::from_reader(&[0_u8; 6][..]);
        let error = source.skip(5).await.expect_err("three samples");
        assert_eq!(error.to_string(), "-: has only 3 samples, and 5 were to be skipped");
    }

    #[tokio::test]
    async fn a_compressed_file_is_refused_with_the_command_that_converts_it() {
        let error = AudioSource::open(Path::new("talk.mp3")).await.err().expect("refused");
        assert_eq!(
            error.to_string(),
            "talk.mp3: cannot read .mp3 audio; convert it: sox 'talk.mp3' -c 1 -b 16 -e signed-integer converted.wav"
        );
    }
}
