//! FLAC, MP3, AAC, Vorbis: the formats that symphonia decodes.
//!
//! Adds what keeps times right: damaged packets are replaced by silence, and the encoder's own samples are left out at both ends, if the
//! file or the codec says how many there are.

use std::{collections::VecDeque, fs::File, io};

use symphonia::{
    core::{
        codecs::audio::{
            AudioCodecId, AudioCodecParameters, AudioDecoder, AudioDecoderOptions,
            well_known::{
                CODEC_ID_AAC, CODEC_ID_ALAC, CODEC_ID_FLAC, CODEC_ID_MP3, CODEC_ID_OPUS, CODEC_ID_SPEEX, CODEC_ID_VORBIS,
            },
        },
        errors::Error,
        formats::{FormatOptions, FormatReader, Track, TrackType},
        io::{MediaSource, MediaSourceStream, ReadOnlySource},
        packet::Packet,
    },
    default::{
        formats::{AdtsReader, CafReader, FlacReader, IsoMp4Reader, MpaReader, OggReader},
        get_codecs,
    },
};

use super::{
    Flaw, RecordingError, aac,
    mp4::{self, Edit},
    samples::mix_interleaved,
    source::Source,
};

/// Samples from an MP3 decoder before which no encoder can have put its first one: 528 + 1 from the decoder, 528 from the encoder.
const MP3_DELAY_LEAST: u64 = 1_057;

/// The first frame of AAC has nothing to overlap with, so its samples are not those that were encoded.
const AAC_FRAME: u64 = 1_024;

/// Longest silence in place of one damaged packet, in samples.
const SILENCE_MAX: u64 = 65_536;

/// Damaged packets in a row that end a recording.
const DAMAGED_IN_A_ROW_MAX: u32 = 256;

/// AAC packets that are examined for what the header does not say, before any is decoded.
const AAC_PACKETS_AHEAD: usize = 8;

/// A recording that is decoded packet by packet.
pub(super) struct Compressed {
    format: Box<dyn FormatReader>,
    decoder: Box<dyn AudioDecoder>,
    track: u32,
    rate_hz: u32,
    channels: usize,
    codec: &'static str,
    trim: Trim,
    interleaved: Vec<f32>,
    damaged: u64,
    damaged_in_a_row: u32,
    /// Read ahead of need.
    ahead: VecDeque<Packet>,
    flaw: Option<Flaw>,
    ended: bool,
}

/// Which of the decoded samples are the recording's.
#[derive(Debug, Default)]
struct Trim {
    /// Decoded samples still to be left out at the beginning.
    skip: u64,
    /// Samples still to be given out, if known.
    left: Option<u64>,
    /// How many at the end are the encoder's, if exactly `total` are decoded.
    padding: usize,
    total: Option<u64>,
    decoded: u64,
    /// The last samples, which may be padding.
    held: Vec<f32>,
}

impl Trim {
    /// Takes decoded samples, and appends those that are certainly the recording's.
    fn push(&mut self, mut samples: &[f32], mono: &mut Vec<f32>) {
        self.decoded += samples.len() as u64;
        let skipped = usize::try_from(self.skip).unwrap_or(usize::MAX).min(samples.len());
        self.skip -= skipped as u64;
        samples = &samples[skipped..];
        if let Some(left) = &mut self.left {
            samples = &samples[..usize::try_from(*left).unwrap_or(usize::MAX).min(samples.len())];
            *left -= samples.len() as u64;
        }
        if self.padding == 0 {
            mono.extend_from_slice(samples);
            return;
        }
        self.held.extend_from_slice(samples);
        let certain = self.held.len().saturating_sub(self.padding);
        mono.extend(self.held.drain(..certain));
    }

    /// Appends what was held back, unless it is padding.
    fn finish(&mut self, mono: &mut Vec<f32>) {
        if self.total != Some(self.decoded) {
            mono.append(&mut self.held);
        }
        self.held.clear();
    }

    /// Decoded samples that were promised but did not come, beyond what encoders may count differently.
    fn missing(&self) -> Option<u64> {
        const TOLERANCE: u64 = 2 * 1_152;
        self.total?.checked_sub(self.decoded).filter(|missing| *missing > TOLERANCE)
    }
}

fn stream(media: Box<dyn MediaSource>) -> MediaSourceStream<'static> {
    MediaSourceStream::new(media, Default::default())
}

/// Reads only forwards: given a seekable source, readers guess lengths and cut what is beyond them.
fn forwards(source: Source) -> MediaSourceStream<'static> {
    stream(Box::new(ReadOnlySource::new(source)))
}

/// Opens a FLAC file.
pub(super) fn open_flac(source: Source) -> Result<Compressed, RecordingError> {
    let format = FlacReader::try_new(forwards(source), FormatOptions::default()).map_err(RecordingError::from)?;
    Compressed::new(Box::new(format), |track| Trim { total: track.num_frames, ..Trim::default() })
}

/// Opens Vorbis or FLAC in Ogg.
pub(super) fn open_ogg(source: Source) -> Result<Compressed, RecordingError> {
    let format = OggReader::try_new(forwards(source), FormatOptions::default()).map_err(RecordingError::from)?;
    Compressed::new(Box::new(format), |_| Trim::default())
}

/// Opens MP3.
pub(super) fn open_mp3(source: Source) -> Result<Compressed, RecordingError> {
    let format = MpaReader::try_new(forwards(source), FormatOptions::default()).map_err(|error| match error {
        Error::IoError(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            RecordingError::damaged("no frames of MP3 follow its beginning")
        }
        error => error.into(),
    })?;
    Compressed::new(Box::new(format), |track| {
        let (delay, padding) = (track.delay.map_or(0, u64::from), track.padding.unwrap_or(0));
        let total = track.num_frames.map(|frames| frames + delay + u64::from(padding));
        let skip = if delay == 0 { MP3_DELAY_LEAST } else { delay };
        Trim { skip, padding: padding as usize, total, ..Trim::default() }
    })
}

/// Opens AAC in frames.
pub(super) fn open_adts(source: Source) -> Result<Compressed, RecordingError> {
    let format = AdtsReader::try_new(forwards(source), FormatOptions::default()).map_err(RecordingError::from)?;
    Compressed::new(Box::new(format), |_| Trim { skip: AAC_FRAME, ..Trim::default() })
}

/// Opens an MP4 or M4A file.
pub(super) fn open_mp4(source: Source) -> Result<Compressed, RecordingError> {
    let mp4::Mp4 { media, track } = mp4::prepare(source)?;
    if let Some(name) = unread_codec(&track.codec) {
        return Err(RecordingError::unread(format!("{name} in an MP4 file")));
    }
    let format = IsoMp4Reader::try_new(stream(media), FormatOptions::default()).map_err(RecordingError::from)?;
    Compressed::of_track(Box::new(format), Some(track.id), |found| match (track.edit, rate_of(found)) {
        (Some(edit), Some(rate_hz)) => of_edit(edit, rate_hz),
        _ if is_aac(found) => Trim { skip: AAC_FRAME, ..Trim::default() },
        _ => Trim::default(),
    })
}

/// Opens a CAF file whose samples are packets of a codec. Their table may come last.
pub(super) fn open_caf(mut source: Source, codec: [u8; 4]) -> Result<Compressed, RecordingError> {
    if codec != *b"aac " {
        let name = unread_codec(&codec).map_or_else(|| format!("'{}'", codec.escape_ascii()), str::to_owned);
        return Err(RecordingError::unread(format!("{name} in a CAF file")));
    }
    let media: Box<dyn MediaSource> = match source.rewound()? {
        Some(file) => Box::<File>::new(file),
        None => Box::new(io::Cursor::new(source.into_memory(mp4::PIPE_BYTES_MAX)?)),
    };
    let format = CafReader::try_new(stream(media), FormatOptions::default()).map_err(RecordingError::from)?;
    Compressed::new(Box::new(format), |track| Trim {
        skip: track.delay.map_or(0, u64::from),
        left: track.num_frames,
        ..Trim::default()
    })
}

/// The part of a track that an edit list leaves.
fn of_edit(edit: Edit, rate_hz: u32) -> Trim {
    let samples = |time: u64, scale: u32| u128::from(time) * u128::from(rate_hz) / u128::from(scale.max(1));
    let skip = u64::try_from(samples(edit.start, edit.scale)).unwrap_or(u64::MAX);
    // Durations are rounded to the movie's time scale, which may be milliseconds: add one, so that no sample is lost.
    let left = (edit.duration > 0)
        .then(|| u64::try_from(samples(edit.duration.saturating_add(1), edit.movie_scale)).unwrap_or(u64::MAX));
    Trim { skip, left, ..Trim::default() }
}

fn audio_of(track: &Track) -> Option<&AudioCodecParameters> {
    track.codec_params.as_ref()?.audio()
}

fn rate_of(track: &Track) -> Option<u32> {
    audio_of(track)?.sample_rate
}

fn is_aac(track: &Track) -> bool {
    audio_of(track).is_some_and(|params| params.codec == CODEC_ID_AAC)
}

/// Codecs, by their names in files, that are known but cannot be read.
const fn unread_codec(code: &[u8; 4]) -> Option<&'static str> {
    Some(match code {
        b"Opus" | b"opus" => "Opus",
        b"alac" => "Apple Lossless (ALAC)",
        b"ac-3" => "Dolby AC-3",
        b"ec-3" => "Dolby E-AC-3",
        b"ac-4" => "Dolby AC-4",
        b"samr" => "AMR",
        b"sawb" => "AMR-WB",
        b"ima4" => "IMA ADPCM",
        b"agsm" => "GSM 6.10",
        b"Qclp" => "QCELP",
        b"QDMC" | b"QDM2" => "QDesign",
        b"MAC3" | b"MAC6" => "MACE",
        b"dtsc" | b"dtsh" | b"dtsl" | b"dtse" => "DTS",
        b"enca" => "encrypted audio",
        _ => return None,
    })
}

/// The usual name of a codec.
const fn codec_name(codec: AudioCodecId) -> &'static str {
    match codec {
        CODEC_ID_AAC => "AAC",
        CODEC_ID_ALAC => "Apple Lossless (ALAC)",
        CODEC_ID_FLAC => "FLAC",
        CODEC_ID_MP3 => "MP3",
        CODEC_ID_OPUS => "Opus",
        CODEC_ID_SPEEX => "Speex",
        CODEC_ID_VORBIS => "Vorbis",
        _ => "samples",
    }
}

impl Compressed {
    fn new(format: Box<dyn FormatReader>, trim: impl Fn(&Track) -> Trim) -> Result<Self, RecordingError> {
        Self::of_track(format, None, trim)
    }

    /// Decodes the track with this number, or the first one.
    fn of_track(
        format: Box<dyn FormatReader>,
        track: Option<u32>,
        trim: impl Fn(&Track) -> Trim,
    ) -> Result<Self, RecordingError> {
        let found = match track {
            Some(id) => format.tracks().iter().find(|track| track.id == id),
            None => format.default_track(TrackType::Audio),
        };
        let found = found.ok_or_else(|| RecordingError::unread("a file without sound of a known kind"))?;
        let (track, trim) = (found.id, trim(found));
        let params = audio_of(found).ok_or_else(|| RecordingError::unread("a file with an unknown codec"))?;
        let codec = codec_name(params.codec);
        let decoder = decoder_of(params, codec)?;
        let described = decoder.codec_params();
        let (Some(rate_hz), Some(channels)) =
            (described.sample_rate, described.channels.as_ref().map(symphonia::core::audio::Channels::count))
        else {
            return Err(RecordingError::damaged("it does not say its rate and channels"));
        };
        if channels == 0 {
            return Err(RecordingError::damaged("it has no channels"));
        }
        let (ahead, interleaved, damaged, damaged_in_a_row, flaw, ended) = (VecDeque::new(), Vec::new(), 0, 0, None, false);
        let mut compressed = Self {
            format,
            decoder,
            track,
            rate_hz,
            channels,
            codec,
            trim,
            ahead,
            interleaved,
            damaged,
            damaged_in_a_row,
            flaw,
            ended,
        };
        if codec == "AAC" {
            compressed.look_ahead()?;
        }
        Ok(compressed)
    }

    /// # Errors
    /// [`RecordingError::Unread`] if the packets are not what the header claims.
    fn look_ahead(&mut self) -> Result<(), RecordingError> {
        while self.ahead.len() < AAC_PACKETS_AHEAD
            && let Ok(Some(packet)) = self.format.next_packet()
        {
            if packet.track_id == self.track {
                self.ahead.push_back(packet);
            }
        }
        let is_extended = aac::are_extended(self.ahead.iter().map(|packet| &*packet.data));
        if is_extended { Err(RecordingError::unread("HE-AAC (AAC with spectral band replication)")) } else { Ok(()) }
    }

    fn next_packet(&mut self) -> Result<Option<Packet>, Error> {
        self.ahead.pop_front().map_or_else(|| self.format.next_packet(), |packet| Ok(Some(packet)))
    }

    pub(super) const fn rate_hz(&self) -> u32 {
        self.rate_hz
    }

    pub(super) const fn channels(&self) -> usize {
        self.channels
    }

    pub(super) const fn codec(&self) -> &'static str {
        self.codec
    }

    /// How many samples there are, if known.
    pub(super) fn frames_total(&self) -> Option<u64> {
        let Trim { skip, left, padding, total, .. } = &self.trim;
        left.or_else(|| total.map(|total| total.saturating_sub(skip + *padding as u64)))
    }

    /// The flaw that was found, once everything has been read.
    pub(super) fn flaw(&self) -> Option<Flaw> {
        let missing = |frames: u64| std::time::Duration::from_secs_f64(frames as f64 / f64::from(self.rate_hz));
        self.flaw
            .clone()
            .or_else(|| self.trim.missing().map(|frames| Flaw::CutOff { missing: Some(missing(frames)) }))
            .or_else(|| (self.damaged > 0).then_some(Flaw::Damaged { packets: self.damaged }))
    }

    /// Appends the next samples, mixed into one channel; nothing at the end.
    ///
    /// # Errors
    /// [`RecordingError`] if the file cannot be read, or turns out to be of a kind that cannot be.
    pub(super) fn read(&mut self, mono: &mut Vec<f32>) -> Result<(), RecordingError> {
        let before = mono.len();
        while !self.ended && mono.len() == before {
            match self.next_packet() {
                Ok(Some(packet)) if packet.track_id != self.track => {}
                Ok(Some(packet)) => match self.decoder.decode(&packet) {
                    Ok(buffer) => {
                        self.damaged_in_a_row = 0;
                        let (rate_hz, channels) = (buffer.spec().rate(), buffer.spec().channels().count());
                        if rate_hz != self.rate_hz {
                            self.end(Some(Flaw::OtherRate { from_hz: self.rate_hz, to_hz: rate_hz }));
                            break;
                        }
                        buffer.copy_to_vec_interleaved(&mut self.interleaved);
                        let mut samples = Vec::with_capacity(buffer.frames());
                        mix_interleaved(&self.interleaved, channels.max(1), &mut samples);
                        self.trim.push(&samples, mono);
                    }
                    Err(Error::DecodeError(_) | Error::IoError(_)) => {
                        let silence = packet.block_dur().get().min(SILENCE_MAX) as usize;
                        self.trim.push(&vec![0.0; silence], mono);
                        self.note_damage();
                    }
                    Err(error) => return Err(error.into()),
                },
                Ok(None) => self.end(None),
                // Another recording follows in the same file, as in the Ogg streams of radio stations.
                Err(Error::ResetRequired) => self.begin_again()?,
                Err(Error::IoError(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    self.end(Some(Flaw::CutOff { missing: None }));
                }
                Err(Error::IoError(error)) => return Err(error.into()),
                Err(_) => self.note_damage(),
            }
        }
        if self.ended {
            self.trim.finish(mono);
        }
        Ok(())
    }

    fn end(&mut self, flaw: Option<Flaw>) {
        self.ended = true;
        self.flaw = flaw;
    }

    fn note_damage(&mut self) {
        self.damaged += 1;
        self.damaged_in_a_row += 1;
        if self.damaged_in_a_row >= DAMAGED_IN_A_ROW_MAX {
            self.end(None);
        }
    }

    fn begin_again(&mut self) -> Result<(), RecordingError> {
        let track = self.format.default_track(TrackType::Audio);
        let Some((track, params)) = track.and_then(|track| audio_of(track).map(|params| (track.id, params))) else {
            self.end(None);
            return Ok(());
        };
        self.decoder = decoder_of(params, codec_name(params.codec))?;
        self.track = track;
        // Nothing has said how long what follows is.
        self.trim = Trim::default();
        Ok(())
    }
}

fn decoder_of(params: &AudioCodecParameters, codec: &'static str) -> Result<Box<dyn AudioDecoder>, RecordingError> {
    if params.codec == CODEC_ID_AAC
        && let Some(config) = &params.extra_data
        && let Some(kind) = aac::unread_kind(config)
    {
        return Err(RecordingError::unread(kind));
    }
    // What an MP3's tag says is applied here, so that a wrong tag cuts nothing.
    let options = AudioDecoderOptions::default().gapless(params.codec != CODEC_ID_MP3);
    get_codecs().make_audio_decoder(params, &options).map_err(|error| match error {
        Error::Unsupported(_) if params.codec == CODEC_ID_AAC => {
            let channels = params.channels.as_ref().map_or(0, symphonia::core::audio::Channels::count);
            RecordingError::unread(format!("AAC of {channels} channels (none, or more than 2)"))
        }
        Error::Unsupported(_) => RecordingError::unread(codec),
        error => error.into(),
    })
}

impl From<Error> for RecordingError {
    fn from(error: Error) -> Self {
        match error {
            Error::IoError(error) if error.kind() == io::ErrorKind::UnexpectedEof => Self::damaged("it ends in its header"),
            Error::IoError(error) => Self::Io(error),
            Error::Unsupported(what) => Self::damaged(format!("it uses something that is not supported: {what}")),
            Error::DecodeError(what) => Self::damaged(what),
            error => Self::damaged(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trimmed(mut trim: Trim, samples: &[f32], piece: usize) -> Vec<f32> {
        let mut mono = Vec::new();
        samples.chunks(piece).for_each(|piece| trim.push(piece, &mut mono));
        trim.finish(&mut mono);
        mono
    }

    #[test]
    fn the_encoders_samples_are_left_out_at_both_ends_if_the_end_is_where_it_was_said() {
        let samples: Vec<f32> = (0..20_u8).map(f32::from).collect();
        for piece in [1, 3, 20] {
            let trim = |total| Trim { skip: 4, padding: 5, total: Some(total), ..Trim::default() };
            assert_eq!(trimmed(trim(20), &samples, piece), samples[4..15]);
            assert_eq!(trimmed(trim(19), &samples, piece), samples[4..], "a different end: nothing is padding");
            let trim = Trim { skip: 4, left: Some(6), ..Trim::default() };
            assert_eq!(trimmed(trim, &samples, piece), samples[4..10]);
        }
    }

    #[test]
    fn an_edit_of_milliseconds_loses_no_sample() {
        let edit = Edit { start: 1_024, scale: 44_100, duration: 2_990, movie_scale: 1_000 };
        let trim = of_edit(edit, 44_100);
        assert_eq!((trim.skip, trim.left), (1_024, Some(131_903)));
        let to_the_end = of_edit(Edit { duration: 0, ..edit }, 44_100);
        assert_eq!((to_the_end.skip, to_the_end.left), (1_024, None));
        let endless = of_edit(Edit { start: u64::MAX, duration: u64::MAX, scale: 1, movie_scale: 1 }, 44_100);
        assert_eq!((endless.skip, endless.left), (u64::MAX, Some(u64::MAX)));
    }
}
