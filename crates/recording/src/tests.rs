//! Recordings as programs write them, whole and cut, and how they fare after random changes.

use std::io::{Cursor, Seek as _, Write as _};

use proptest::prelude::*;

use super::*;

/// The samples of all recordings here.
fn speech() -> Vec<i16> {
    (0..4_000_i32).map(|at| (at * 37 % 20_011 - 10_005) as i16).collect()
}

fn bytes_of(samples: &[i16]) -> Vec<u8> {
    samples.iter().flat_map(|sample| sample.to_le_bytes()).collect()
}

fn chunk(id: &[u8; 4], content: &[u8]) -> Vec<u8> {
    stated(id, content, content.len() as u32)
}

/// A chunk that states a length other than its own.
fn stated(id: &[u8; 4], content: &[u8], length: u32) -> Vec<u8> {
    let padding = &[0][..content.len() % 2];
    [id, &length.to_le_bytes()[..], content, padding].concat()
}

fn format(tag: u16, channels: u16, rate_hz: u32, bits: u16, extra: &[u8]) -> Vec<u8> {
    let frame_bytes = channels * bits.div_ceil(8);
    let numbers = [
        &tag.to_le_bytes()[..],
        &channels.to_le_bytes(),
        &rate_hz.to_le_bytes(),
        &(rate_hz * u32::from(frame_bytes)).to_le_bytes(),
    ];
    chunk(b"fmt ", &[&numbers.concat()[..], &frame_bytes.to_le_bytes(), &bits.to_le_bytes(), extra].concat())
}

fn plain() -> Vec<u8> {
    format(1, 1, 16_000, 16, &[])
}

fn extensible(tag: u16, bits: u16, valid: u16) -> Vec<u8> {
    let guid = [&tag.to_le_bytes()[..], b"\0\0\0\0\x10\0\x80\0\0\xaa\0\x38\x9b\x71"].concat();
    format(0xfffe, 1, 16_000, bits, &[&22_u16.to_le_bytes()[..], &valid.to_le_bytes(), &4_u32.to_le_bytes(), &guid].concat())
}

fn riff(chunks: &[Vec<u8>]) -> Vec<u8> {
    let content = [b"WAVE".to_vec(), chunks.concat()].concat();
    chunk(b"RIFF", &content)
}

fn pipe(bytes: Vec<u8>) -> Input {
    Input::Memory(Cursor::new(bytes))
}

fn file(bytes: &[u8]) -> Input {
    let mut file = tempfile::tempfile().expect("a file");
    file.write_all(bytes).and_then(|()| file.rewind()).expect("written");
    Input::of(file).expect("its kind")
}

/// All samples of a recording, and what was wrong with it.
fn read(input: Input, rate_hz: u32) -> Result<(Vec<i16>, Option<Flaw>), RecordingError> {
    let mut recording = match open(input)? {
        Opened::Recording(recording) => recording,
        Opened::Unknown(beginning, input) => Box::new(Recording::raw(&beginning, input, rate_hz)),
    };
    recording.at_rate(rate_hz)?;
    let mut bytes = Vec::new();
    loop {
        let chunk = recording.next_chunk(1_000)?;
        if chunk.is_empty() {
            break;
        }
        bytes.extend(chunk);
    }
    let samples = bytes.chunks_exact(2).map(|sample| i16::from_le_bytes([sample[0], sample[1]])).collect();
    Ok((samples, recording.flaw()))
}

fn mu_law(sample: i16) -> u8 {
    let (sign, magnitude) = if sample < 0 { (0x80, -i32::from(sample)) } else { (0, i32::from(sample)) };
    let biased = magnitude.min(32_635) + 132;
    let exponent = (24 - biased.leading_zeros()) as u8;
    !(sign | exponent << 4 | (biased >> (exponent + 3) & 0x0f) as u8)
}

#[test]
fn wav_files_are_read_to_their_last_sample_however_they_were_written() {
    let (samples, pcm) = (speech(), bytes_of(&speech()));
    let data = || chunk(b"data", &pcm);
    let odd = || chunk(b"LIST", b"INFOICMT\x03\0\0\0abc");
    let (first, second) = pcm.split_at(pcm.len() / 4 * 2);
    let ds64 = |bytes: u64| chunk(b"ds64", &[&bytes.wrapping_add(72).to_le_bytes()[..], &bytes.to_le_bytes(), &[0; 12]].concat());
    let long =
        |id: &[u8; 4], ds64: Vec<u8>| [id, &[0xff; 4][..], b"WAVE", &ds64, &plain(), b"data\xff\xff\xff\xff", &pcm].concat();
    let wide = |bytes: usize| -> Vec<u8> {
        samples.iter().flat_map(|sample| (i64::from(*sample) << 48).to_le_bytes()[8 - bytes..].to_vec()).collect()
    };
    let stereo: Vec<u8> = samples.iter().flat_map(|sample| [sample.to_le_bytes(), sample.to_le_bytes()].concat()).collect();
    let singles: Vec<u8> = samples.iter().flat_map(|sample| (f32::from(*sample) / 32_768.0).to_le_bytes()).collect();
    let doubles: Vec<u8> = samples.iter().flat_map(|sample| (f64::from(*sample) / 32_768.0).to_le_bytes()).collect();
    let wave64 = |length: u64| {
        let guid = |id: &[u8; 4]| [id, &b"\xf3\xac\xd3\x11\x8c\xd1\0\xc0\x4f\x8e\xdb\x8a"[..]].concat();
        let format = [guid(b"fmt "), 40_u64.to_le_bytes().to_vec(), plain()[8..].to_vec()].concat();
        let odd = [guid(b"junk"), 27_u64.to_le_bytes().to_vec(), vec![7; 3 + 5]].concat();
        let riff = [&b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\0\0"[..], &[0; 8], &guid(b"wave")].concat();
        [riff, format, odd, guid(b"data"), length.to_le_bytes().to_vec(), pcm.clone()].concat()
    };
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("as it should be", riff(&[plain(), data()])),
        ("ffmpeg to a pipe", riff(&[plain(), chunk(b"LIST", b"INFOISFT\x04\0\0\0Lavf"), stated(b"data", &pcm, u32::MAX)])),
        ("sox to a pipe", riff(&[plain(), stated(b"data", &pcm, 0x7fff_f000)])),
        ("arecord to a pipe", riff(&[plain(), stated(b"data", &pcm, 0x8000_0000)])),
        ("a length of 0", riff(&[plain(), stated(b"data", &pcm, 0)])),
        ("the form's length is 0", stated(b"RIFF", &riff(&[plain(), data()])[8..], 0)),
        ("an odd byte after the samples", riff(&[plain(), chunk(b"data", &[&pcm[..], &[1]].concat())])),
        ("an odd chunk before", riff(&[odd(), plain(), odd(), data()])),
        ("an odd chunk without its padding", riff(&[plain(), odd()[..odd().len() - 1].to_vec(), data()])),
        ("an odd chunk after", riff(&[plain(), data(), odd()])),
        (
            "junk, bext and fact",
            riff(&[chunk(b"JUNK", &[0; 28]), chunk(b"bext", &[0; 603]), plain(), chunk(b"fact", &[0; 4]), data()]),
        ),
        ("two chunks of samples", riff(&[plain(), chunk(b"data", first), odd(), chunk(b"data", second)])),
        ("rubbish after", [riff(&[plain(), data()]), vec![b'x'; 100]].concat()),
        ("a format of 18 bytes", riff(&[format(1, 1, 16_000, 16, &[0; 2]), data()])),
        ("a format of 20 bytes", riff(&[format(1, 1, 16_000, 16, &[0; 4]), data()])),
        ("a format of 40 bytes", riff(&[format(1, 1, 16_000, 16, &[0; 24]), data()])),
        ("a format of 1001 bytes", riff(&[format(1, 1, 16_000, 16, &[0; 985]), data()])),
        ("extensible", riff(&[extensible(1, 16, 16), data()])),
        ("24 bits", riff(&[format(1, 1, 16_000, 24, &[]), chunk(b"data", &wide(3))])),
        ("24 bits of which 20 are valid", riff(&[extensible(1, 24, 20), chunk(b"data", &wide(3))])),
        ("20 bits in 24", riff(&[format(1, 1, 16_000, 20, &[]), chunk(b"data", &wide(3))])),
        ("24 bits in 32", riff(&[extensible(1, 32, 24), chunk(b"data", &wide(4))])),
        ("32 bits", riff(&[format(1, 1, 16_000, 32, &[]), chunk(b"data", &wide(4))])),
        ("64 bits", riff(&[format(1, 1, 16_000, 64, &[]), chunk(b"data", &wide(8))])),
        ("32-bit floats", riff(&[format(3, 1, 16_000, 32, &[0; 2]), chunk(b"data", &singles)])),
        ("extensible floats", riff(&[extensible(3, 32, 32), chunk(b"data", &singles)])),
        ("64-bit floats", riff(&[format(3, 1, 16_000, 64, &[]), chunk(b"data", &doubles)])),
        ("stereo", riff(&[format(1, 2, 16_000, 16, &[]), chunk(b"data", &stereo)])),
        ("RF64", long(b"RF64", ds64(pcm.len() as u64))),
        ("BW64", long(b"BW64", ds64(pcm.len() as u64))),
        ("RF64 to a pipe", long(b"RF64", ds64(0))),
        ("RF64 of an unknown length", long(b"RF64", ds64(u64::MAX))),
        ("RF64 without lengths", long(b"RF64", Vec::new())),
        ("Wave64", wave64(24 + pcm.len() as u64)),
        ("Wave64 to a pipe", wave64(24)),
        ("Wave64 of an unknown length", wave64(i64::MAX as u64)),
    ];
    for (name, bytes) in cases {
        for (way, input) in [("pipe", pipe(bytes.clone())), ("file", file(&bytes))] {
            let (read, flaw) = read(input, 16_000).unwrap_or_else(|error| panic!("{name}, {way}: {error}"));
            assert!(read == samples, "{name}, {way}: {} samples of {}", read.len(), samples.len());
            assert_eq!(flaw, None, "{name}, {way}");
        }
    }
}

#[test]
fn narrow_samples_are_as_near_as_they_can_be() {
    let samples = speech();
    let eight: Vec<u8> = samples.iter().map(|sample| ((sample >> 8) + 128) as u8).collect();
    let companded: Vec<u8> = samples.iter().map(|sample| mu_law(*sample)).collect();
    for (name, format, data, off_by_most) in
        [("8 bits", format(1, 1, 16_000, 8, &[]), eight, 255), ("mu-law", format(7, 1, 16_000, 8, &[0; 2]), companded, 256)]
    {
        let (read, flaw) = read(pipe(riff(&[format, chunk(b"data", &data)])), 16_000).expect("read");
        let off_by = read.iter().zip(&samples).map(|(read, sample)| (i32::from(*read) - i32::from(*sample)).abs()).max();
        assert!(off_by <= Some(off_by_most), "{name}: off by {off_by:?}");
        assert_eq!((read.len(), flaw), (samples.len(), None), "{name}");
    }
}

#[test]
fn a_recording_that_is_cut_off_is_read_as_far_as_it_goes() {
    let (samples, pcm) = (speech(), bytes_of(&speech()));
    let whole = riff(&[plain(), chunk(b"data", &pcm)]);
    for odd in [0, 1] {
        let cut = whole[..44 + 2_000 + odd].to_vec();
        let expected = (samples[..1_000].to_vec(), Some(Flaw::CutOff { missing: Some(Duration::from_micros(187_500)) }));
        assert_eq!(read(file(&cut), 16_000).expect("read"), expected);
        assert_eq!(read(pipe(cut), 16_000).expect("read"), expected);
    }
    let (read_raw, flaw) = read(pipe([&pcm[..], &[1]].concat()), 16_000).expect("read");
    assert_eq!((read_raw, flaw), (samples.clone(), Some(Flaw::HalfSample { bytes: 1, frame_bytes: 2, frames: 4_000 })));
    // 24-bit stereo to a pipe, cut in the middle of a frame.
    let stereo = riff(&[format(1, 2, 16_000, 24, &[]), stated(b"data", &[0; 6 * 10 + 4], u32::MAX)]);
    let (read, flaw) = read(pipe(stereo), 16_000).expect("read");
    assert_eq!((read.len(), flaw), (10, Some(Flaw::HalfSample { bytes: 4, frame_bytes: 6, frames: 10 })));
}

#[test]
fn a_chunk_after_no_samples_is_no_samples() {
    let odd = chunk(b"LIST", b"INFOICMT\x03\0\0\0abc");
    let empty = riff(&[plain(), chunk(b"data", &[]), odd]);
    assert_eq!(read(pipe(empty), 16_000).expect("read"), (Vec::new(), None));
}

#[test]
fn what_cannot_be_read_is_named() {
    let refusal = |bytes: Vec<u8>| read(pipe(bytes), 16_000).expect_err("refused").to_string();
    let pcm = bytes_of(&speech());
    for (bytes, expected) in [
        (Vec::new(), "is empty"),
        (
            riff(&[plain(), chunk(b"data", &pcm)])[..30].to_vec(),
            "cannot be read as WAV: it ends after 30 bytes, in its format (`fmt `)",
        ),
        (riff(&[plain()]), "cannot be read as WAV: it ends after 36 bytes, before its samples (`data`)"),
        (riff(&[chunk(b"data", &pcm)]), "cannot be read as WAV: its samples come before its format (`fmt `)"),
        (riff(&[chunk(b"fmt ", &[0; 14])]), "cannot be read as WAV: its format (`fmt `) has 14 bytes, but needs at least 16"),
        (riff(&[format(0x11, 1, 16_000, 4, &[])]), "is a WAV file of IMA ADPCM (format 0x0011), which cannot be read"),
        (riff(&[format(0x55, 1, 16_000, 0, &[])]), "is a WAV file of MP3 (format 0x0055), which cannot be read"),
        (
            riff(&[format(3, 1, 16_000, 16, &[])]),
            "is a WAV file of 16-bit float samples in 2 bytes a frame, which cannot be read",
        ),
        (riff(&[format(1, 0, 16_000, 16, &[])]), "is a WAV file of 0 channels (none, or more than 256), which cannot be read"),
        (b"RIFX\0\0\0\0WAVEfmt ".to_vec(), "is a big-endian WAV file (RIFX), which cannot be read"),
        (b"#!AMR\n\0\0\0\0\0\0".to_vec(), "is an AMR file, which cannot be read"),
        (b"fLaC\0\0\0\x22".to_vec(), "cannot be read as FLAC: it ends in its header"),
        (
            b"ID3\x04\0\0\0\0\0\0\xff\xfb\x90\x64 and no more".to_vec(),
            "cannot be read as MP3: no frames of MP3 follow its beginning",
        ),
        (
            b"\0\0\0\x18ftypM4A \0\0\0\0M4A isom".to_vec(),
            "cannot be read as MP4: it has no index (`moov`): was it written to the end?",
        ),
    ] {
        assert_eq!(refusal(bytes), expected);
    }
    let slow = riff(&[format(1, 1, 999, 16, &[]), chunk(b"data", &pcm)]);
    let expected = "has 999 samples a second, which cannot be resampled to 16000: only 1000 to 768000 can";
    assert_eq!(refusal(slow.clone()), expected);
    assert_eq!(read(pipe(slow), 999).expect("it is as wanted").0.len(), 4_000);
}

#[test]
fn aiff_caf_and_au_are_read_with_any_length_that_they_state() {
    let samples = speech();
    let big: Vec<u8> = samples.iter().flat_map(|sample| sample.to_be_bytes()).collect();
    let be =
        |id: &[u8; 4], content: &[u8], length: u32| [id, &length.to_be_bytes()[..], content, &[0][..content.len() % 2]].concat();
    // 16000 as an 80-bit float.
    let rate = b"\x40\x0c\xfa\0\0\0\0\0\0\0";
    let aiff = |form: &[u8; 4], compression: &[u8], data: &[u8], length: u32| {
        let common = [&b"\0\x01\0\0\x0f\xa0\0\x10"[..], rate, compression].concat();
        let sound = [&[0; 8][..], data].concat();
        let chunks = [be(b"NAME", b"odd", 3), be(b"COMM", &common, common.len() as u32), be(b"SSND", &sound, length)];
        be(b"FORM", &[form.to_vec(), chunks.concat()].concat(), 0)
    };
    let caf = |flags: u32, data: &[u8], length: i64| {
        let numbers = [flags, 2, 1, 1, 16].map(u32::to_be_bytes).concat();
        let description = [&16_000_f64.to_be_bytes()[..], b"lpcm", &numbers].concat();
        let chunk = |id: &[u8; 4], content: &[u8], length: i64| [id, &length.to_be_bytes()[..], content].concat();
        let chunks =
            [chunk(b"desc", &description, 32), chunk(b"free", &[0; 5], 5), chunk(b"data", &[&[0; 4][..], data].concat(), length)];
        [b"caff\0\x01\0\0".to_vec(), chunks.concat()].concat()
    };
    let au = |length: u32| [&b".snd"[..], &[28, length, 3, 16_000, 1, 0].map(u32::to_be_bytes).concat(), &big].concat();
    let (little, bytes) = (bytes_of(&samples), big.len() as u32);
    for (name, recording) in [
        ("AIFF", aiff(b"AIFF", b"", &big, bytes + 8)),
        ("AIFF to a pipe", aiff(b"AIFF", b"", &big, 0)),
        ("AIFF by sox to a pipe", aiff(b"AIFF", b"", &big, 0x7f00_0008)),
        ("AIFF-C", aiff(b"AIFC", b"NONE\0\0", &big, bytes + 8)),
        ("AIFF-C, little-endian", aiff(b"AIFC", b"sowt\0\0", &little, bytes + 8)),
        ("CAF", caf(0, &big, i64::from(bytes) + 4)),
        ("CAF, little-endian", caf(2, &little, i64::from(bytes) + 4)),
        ("CAF to a pipe", caf(0, &big, -1)),
        ("AU", au(bytes)),
        ("AU to a pipe", au(u32::MAX)),
    ] {
        let (read, flaw) = read(pipe(recording), 16_000).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(read == samples, "{name}: {} samples", read.len());
        assert_eq!(flaw, None, "{name}");
    }
    let cut = |mut recording: Vec<u8>| {
        recording.truncate(recording.len() - 2_000);
        recording
    };
    for recording in [cut(aiff(b"AIFF", b"", &big, bytes + 8)), cut(caf(0, &big, i64::from(bytes) + 4)), cut(au(bytes))] {
        let expected = (samples[..3_000].to_vec(), Some(Flaw::CutOff { missing: Some(Duration::from_micros(62_500)) }));
        assert_eq!(read(pipe(recording), 16_000).expect("read"), expected);
    }
}

#[test]
fn a_recording_says_what_it_is_and_how_long() {
    let pcm = bytes_of(&speech());
    let described = |input: Input| {
        let Ok(Opened::Recording(mut recording)) = open(input) else { panic!("a recording") };
        let done = recording.at_rate(16_000).expect("a usual rate");
        (done, recording.samples_total())
    };
    let mono = riff(&[plain(), chunk(b"data", &pcm)]);
    assert_eq!(described(pipe(mono.clone())), (None, Some(4_000)));
    let stereo = riff(&[format(1, 2, 44_100, 16, &[]), chunk(b"data", &pcm)]);
    let done = "WAV 16-bit, 44100 Hz, 2 channels: mixed to mono and resampled to 16000 Hz";
    assert_eq!(described(pipe(stereo)), (Some(done.to_owned()), Some(725)));
    // The actual length counts, not the stated one.
    assert_eq!(described(file(&mono[..44 + 200])), (None, Some(100)));
    let unknown = riff(&[plain(), stated(b"data", &pcm, u32::MAX)]);
    assert_eq!(described(file(&unknown)), (None, Some(4_000)));
}

/// Something that begins like a recording, in every format that is read here.
fn beginning() -> impl Strategy<Value = Vec<u8>> {
    let pcm = bytes_of(&speech()[..50]);
    let wave = riff(&[plain(), chunk(b"LIST", b"INFOICMT\x03\0\0\0abc"), chunk(b"data", &pcm)]);
    let long = [&b"RF64\xff\xff\xff\xffWAVE"[..], &chunk(b"ds64", &[0; 28]), &plain(), b"data\xff\xff\xff\xff", &pcm].concat();
    let w64 = [&b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\0\0"[..], &[0; 24], &[1; 60]].concat();
    let aiff = b"FORM\0\0\0\0AIFCCOMM\0\0\0\x16\0\x01\0\0\x0f\xa0\0\x10\x40\x0c\xfa\0\0\0\0\0\0\0NONESSND\0\0\0\x10\0\0\0\0\0\0\0\0abcdefgh".to_vec();
    let caf = [
        &b"caff\0\x01\0\0desc\0\0\0\0\0\0\0\x20\x40\xcf\x40\0\0\0\0\0lpcm\0\0\0\0\0\0\0\x02\0\0\0\x01\0\0\0\x01\0\0\0\x10"[..],
        &[0xff; 12],
        &pcm,
    ]
    .concat();
    let au = [&b".snd\0\0\0\x18\xff\xff\xff\xff\0\0\0\x03\0\0\x3e\x80\0\0\0\x01"[..], &pcm].concat();
    let flac = b"fLaC\0\0\0\x22\x10\0\x10\0\0\0\0\0\0\0\x03\xe8\0\xf0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\xff\xf8".to_vec();
    let ogg = b"OggS\0\x02\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\x01\x1e\x01vorbis\0\0\0\0\x01\x80\x3e\0\0".to_vec();
    let mp3 = [b"\xff\xfb\x90\x64".to_vec(), vec![0; 413]].concat().repeat(3);
    let adts = [b"\xff\xf1\x60\x40\x06\x3f\xfc".to_vec(), vec![0x21; 42]].concat().repeat(12);
    let mp4 = b"\0\0\0\x10ftypM4A \0\0\0\0\0\0\0\x30moov\0\0\0\x28trak\0\0\0\x20mdia\0\0\0\x18hdlr\0\0\0\0\0\0\0\0soun\0\0\0\0"
        .to_vec();
    prop::sample::select(vec![wave, long, w64, aiff, caf, au, flac, ogg, mp3, adts, mp4])
}

/// All samples of a recording that some reader gives, piece by piece.
fn read_in_pieces(bytes: &[u8], rate_hz: u32) -> Result<Vec<u8>, RecordingError> {
    let mut recording = match open(Input::from_reader(Cursor::new(bytes.to_vec())))? {
        Opened::Recording(recording) => recording,
        Opened::Unknown(beginning, input) => Box::new(Recording::raw(&beginning, input, rate_hz)),
    };
    recording.at_rate(rate_hz)?;
    let mut read = Vec::new();
    while let Some(piece) = recording.next_piece()? {
        read.extend(piece);
    }
    Ok(read)
}

#[test]
fn pieces_are_the_same_samples() {
    let wave = riff(&[plain(), chunk(b"data", &bytes_of(&speech())), chunk(b"LIST", &[0; 99])]);
    for rate_hz in [16_000, 44_100] {
        let whole = read(pipe(wave.clone()), rate_hz).expect("a recording").0;
        assert_eq!(read_in_pieces(&wave, rate_hz).expect("a recording"), bytes_of(&whole), "{rate_hz}");
    }
    assert_eq!(read_in_pieces(&[1, 0, 2, 0], 16_000).expect("raw samples"), [1, 0, 2, 0]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// No panic, and no more samples than the bytes can hold: one for each eight bits, or a packet of silence for each damaged one.
    #[test]
    fn any_bytes_are_a_recording_or_an_error(
        beginning in prop_oneof![1 => Just(Vec::new()), 9 => beginning()],
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
        cut in any::<prop::sample::Index>(),
        rest in prop::collection::vec(any::<u8>(), 0..200),
        rate_hz in prop::sample::select(vec![8_000_u32, 16_000, 44_100]),
    ) {
        let mut bytes = [beginning, rest].concat();
        for (at, byte) in changes {
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
        }
        if cut.index(3) == 0 {
            bytes.truncate(cut.index(bytes.len() + 1));
        }
        let length = bytes.len();
        if let Ok((samples, _)) = read(pipe(bytes), rate_hz) {
            prop_assert!(samples.len() <= (length + 1) * 70_000, "{} samples of {length} bytes", samples.len());
        }
    }
}
