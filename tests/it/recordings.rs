//! Raw audio that is not what it claims to be: headers of files, rates out of range and broken samples are refused, in every mode alike. And
//! the clip that is made here: speech is found in it, at any rate and in any format.

use bytes::Bytes;
use tokio_stream::iter;
use tonic::{Code, Status};

use tidemill::proto::v1::{
    AudioFormat, Flush, PredictRequest, ScanRequest, StreamConfig, Summary, UploadConfig, UploadRequest, feed_request::Message,
    feed_response::Event, predict_request, scan_request, upload_request::Part,
};
use tidemill_recording::Recording;

use crate::{
    audio::bytes,
    serving::{Client, DOUBLER, Feed, connect, fields, patiently, pcm_of, serve, speech_config, tensors_of},
};

const MODEL: &str = "silero-vad";

/// The outcome for this audio, cut into these chunks, in each of the four modes.
async fn in_every_mode(client: &mut Client, config: &StreamConfig, chunks: &[Bytes]) -> Vec<(&'static str, Result<(), Status>)> {
    let whole = Bytes::from(chunks.concat());
    let mut feed = Feed::call(client).await;
    feed.send(Message::Open(config.clone())).await;
    for chunk in chunks {
        feed.send(Message::Chunk(chunk.clone())).await;
    }
    feed.finish_sending();
    let feed = feed.rest().await;
    let parts = chunks.iter().cloned().map(Part::Chunk);
    let open = Part::Open(UploadConfig { stream: Some(config.clone()), ..UploadConfig::default() });
    let requests: Vec<_> = std::iter::once(open).chain(parts).map(|part| UploadRequest { part: Some(part) }).collect();
    let upload = patiently(client.upload(iter(requests))).await.map(drop);
    let scan = ScanRequest { config: Some(config.clone()), payload: Some(scan_request::Payload::PcmS16le(whole.clone())) };
    let scan = match patiently(client.scan(scan)).await {
        Ok(responses) => {
            let mut responses = responses.into_inner();
            loop {
                match patiently(responses.message()).await {
                    Ok(Some(_)) => {}
                    Ok(None) => break Ok(()),
                    Err(error) => break Err(error),
                }
            }
        }
        Err(error) => Err(error),
    };
    let predict = PredictRequest {
        model: config.model.clone(),
        payload: Some(predict_request::Payload::PcmS16le(whole)),
        sample_rate_hz: config.sample_rate_hz,
        accept_container_bytes: config.accept_container_bytes,
        audio_format: config.audio_format,
        ..PredictRequest::default()
    };
    let predict = patiently(client.predict(predict)).await.map(drop);
    vec![("feed", feed.error.map_or(Ok(()), Err)), ("upload", upload), ("scan", scan), ("predict", predict)]
}

/// Cut after every `each` bytes.
fn cut(bytes: &[u8], each: usize) -> Vec<Bytes> {
    bytes.chunks(each).map(Bytes::copy_from_slice).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn raw_audio_that_begins_like_a_file_is_refused_by_name_however_it_is_cut() {
    let server = serve(speech_config(), &[]).await;
    let mut client = connect(&server).await;
    for (beginning, name) in [
        (&b"RIFF\x24\x08\0\0WAVEfmt \x10\0\0\0"[..], "a WAV file"),
        (b"RF64\xff\xff\xff\xffWAVEds64", "an RF64 file"),
        (b"fLaC\0\0\0\x22\x10\0\x10\0", "a FLAC file"),
        (b"OggS\0\x02\0\0\0\0\0\0\0\0", "an Ogg file"),
        (b"ID3\x04\0\0\0\0\0\x02\xff\xfb\x90\x64", "an MP3 file (ID3)"),
        (b"\0\0\0\x20ftypM4A \0\0\0\0", "an MP4 or M4A file"),
        (b"FORM\0\0\0\x2eAIFFCOMM", "an AIFF file"),
    ] {
        let audio = [beginning, &[0; 200]].concat();
        for each in [1, 3, 11, 1_000] {
            for (mode, outcome) in in_every_mode(&mut client, &pcm_of(MODEL), &cut(&audio, each)).await {
                let error = outcome.expect_err("a header is no audio");
                assert_eq!(
                    (error.code(), fields(&error)),
                    (Code::InvalidArgument, vec!["chunk".to_owned()]),
                    "{mode}, {each}: {error}"
                );
                let expected = format!("the raw audio begins like {name}: send only its samples");
                assert!(error.message().starts_with(&expected), "{mode}: {error}");
                assert!(error.message().contains("accept_container_bytes"), "{mode}: {error}");
            }
        }
        let meant = StreamConfig { accept_container_bytes: true, ..pcm_of(MODEL) };
        for (mode, outcome) in in_every_mode(&mut client, &meant, &cut(&audio, 7)).await {
            assert!(outcome.is_ok(), "{mode}, meant: {outcome:?}");
        }
        // Only the beginning of a stream is checked.
        let later = [&[0; 12], &audio[..]].concat();
        for (mode, outcome) in in_every_mode(&mut client, &pcm_of(MODEL), &cut(&later, 12)).await {
            assert!(outcome.is_ok(), "{mode}, later: {outcome:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rate_may_be_any_usual_one_and_others_are_refused_in_every_mode() {
    let server = serve(speech_config(), &[("m", DOUBLER)]).await;
    let mut client = connect(&server).await;
    let audio = [Bytes::from_static(&[0; 64])];
    let stated = |sample_rate_hz| StreamConfig { sample_rate_hz, ..pcm_of(MODEL) };
    for usual in [8_000, 16_000, 24_000, 44_100, 192_000] {
        for (mode, outcome) in in_every_mode(&mut client, &stated(usual), &audio).await {
            assert!(outcome.is_ok(), "{mode}: {outcome:?}");
        }
    }
    for wrong in [1, 7_999, 192_001, u32::MAX] {
        for (mode, outcome) in in_every_mode(&mut client, &stated(wrong), &audio).await {
            let error = outcome.expect_err("out of range");
            assert_eq!(
                (error.code(), fields(&error)),
                (Code::InvalidArgument, vec!["sample_rate_hz".to_owned()]),
                "{mode}: {error}"
            );
            let expected = format!("sample_rate_hz is {wrong}; it must be 8000 to 192000, and the model's own rate is 16000");
            assert_eq!(error.message(), expected, "{mode}");
        }
    }
    let of_tensors = [
        (StreamConfig { sample_rate_hz: 16_000, ..tensors_of("m") }, "sample_rate_hz"),
        (StreamConfig { audio_format: AudioFormat::Mulaw.into(), ..tensors_of("m") }, "audio_format"),
        (StreamConfig { audio_format: 5, ..pcm_of(MODEL) }, "audio_format"),
    ];
    for (config, field) in of_tensors {
        let mut feed = Feed::call(&mut client).await;
        feed.send(Message::Open(config)).await;
        let error = feed.next().await.expect_err("tensors are no audio, and there is no fifth format");
        assert_eq!((error.code(), fields(&error)), (Code::InvalidArgument, vec![field.to_owned()]), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_window_for_predict_is_counted_at_the_models_rate() {
    let server = serve(speech_config(), &[]).await;
    let mut client = connect(&server).await;
    let mut predicted = async |samples: usize, sample_rate_hz, format: AudioFormat, each| {
        let request = PredictRequest {
            model: MODEL.to_owned(),
            payload: Some(predict_request::Payload::PcmS16le(vec![0; samples * each].into())),
            sample_rate_hz,
            audio_format: format.into(),
            ..PredictRequest::default()
        };
        patiently(client.predict(request)).await.map(drop).map_err(|error| error.message().to_owned())
    };
    assert_eq!(predicted(1_536, 48_000, AudioFormat::PcmS16le, 2).await, Ok(()));
    assert_eq!(predicted(256, 0, AudioFormat::Mulaw, 1).await, Ok(()));
    assert_eq!(predicted(512, 0, AudioFormat::PcmF32le, 4).await, Ok(()));
    for (outcome, said) in [
        (predicted(1_538, 48_000, AudioFormat::PcmS16le, 2).await, "1538 samples, at 48000 Hz, are more than the window of 512"),
        (predicted(257, 0, AudioFormat::Alaw, 1).await, "257 samples, at 8000 Hz, are more than the window of 512"),
        (predicted(513, 0, AudioFormat::PcmS16le, 2).await, "513 samples are more than the window of 512"),
        (predicted(1, 48_000, AudioFormat::PcmS16le, 2).await, "1 samples, at 48000 Hz, make none at the model's 16000 Hz"),
        (predicted(3, 0, AudioFormat::PcmF32le, 1).await, "3 bytes are no whole samples, which take 4 each"),
    ] {
        assert!(outcome.as_ref().is_err_and(|message| message.starts_with(said)), "{outcome:?}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_float_that_is_no_sample_ends_every_mode_with_its_number() {
    let server = serve(speech_config(), &[]).await;
    let mut client = connect(&server).await;
    let config = StreamConfig { audio_format: AudioFormat::PcmF32le.into(), ..pcm_of(MODEL) };
    let audio = |value: f32| [Bytes::from([0.5, 1.0, value, -1.0].map(f32::to_le_bytes).concat())];
    for (value, said) in [(f32::NAN, "sample 2 of the audio is NaN"), (1.5, "sample 2 of the audio is 1.5, beyond full scale")] {
        for (mode, outcome) in in_every_mode(&mut client, &config, &audio(value)).await {
            let error = outcome.expect_err("no sample");
            assert_eq!((error.code(), fields(&error)), (Code::InvalidArgument, vec!["chunk".to_owned()]), "{mode}: {error}");
            assert!(error.message().starts_with(said), "{mode}: {error}");
        }
    }
    for (mode, outcome) in in_every_mode(&mut client, &config, &audio(-0.25)).await {
        assert!(outcome.is_ok(), "{mode}: {outcome:?}");
    }
}

/// All samples of the clip that the commands have, at 16 kHz.
fn clip() -> Vec<i16> {
    let mut clip = Recording::sample_clip();
    assert_eq!(clip.at_rate(16_000).expect("its own rate"), None);
    let bytes = clip.next_chunk(usize::MAX).expect("all of it");
    bytes.as_chunks().0.iter().map(|sample| i16::from_le_bytes(*sample)).collect()
}

/// Straight lines from sample to sample: no good filter, but no relative of the server's.
fn drawn_through(samples: &[i16], from_hz: u32, to_hz: u32) -> Vec<f32> {
    let count = samples.len() as u64 * u64::from(to_hz) / u64::from(from_hz);
    let at = |index: usize| f32::from(samples[index.min(samples.len() - 1)]);
    let values = (0..count).map(|number| {
        let (place, rest) = (number * u64::from(from_hz) / u64::from(to_hz), number * u64::from(from_hz) % u64::from(to_hz));
        let share = rest as f32 / to_hz as f32;
        at(place as usize) * (1.0 - share) + at(place as usize + 1) * share
    });
    values.collect()
}

/// The nearest code of mu-law, found by its definition.
fn mulaw(sample: f32) -> u8 {
    let magnitude = sample.abs().min(32_635.0) as i32 / 4 + 33;
    let exponent = (0..8).rev().find(|exponent| magnitude >= 33 << exponent).unwrap_or(0);
    let mantissa = (magnitude >> (exponent + 1)) & 0x0f;
    !((u8::from(sample < 0.0) << 7) | (exponent << 4) | u8::try_from(mantissa).expect("four bits"))
}

/// Starts and ends of the segments, and what the stream counted.
async fn segments_of(client: &mut Client, config: StreamConfig, bytes: &[u8], each: usize) -> (Vec<(u64, u64)>, Summary) {
    let chunks = cut(bytes, each).into_iter().map(Message::Chunk).collect();
    let said = Feed::run(client, config, chunks).await;
    let ends = said.events.iter().filter_map(|event| match event {
        Event::Segment(segment) => Some((segment.start_ms, segment.end_ms)),
        _ => None,
    });
    (ends.collect(), said.completed.expect("it completed"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_speech_is_found_at_any_rate_and_in_any_format() {
    let server = serve(speech_config(), &[]).await;
    let mut client = connect(&server).await;
    let clip = clip();
    let (expected, summary) = segments_of(&mut client, pcm_of(MODEL), &bytes(&clip), 3_200).await;
    assert_eq!((expected.len(), summary.samples), (2, clip.len() as u64));
    for (rate_hz, format) in [
        (24_000, AudioFormat::PcmS16le),
        (48_000, AudioFormat::PcmF32le),
        (8_000, AudioFormat::PcmS16le),
        (8_000, AudioFormat::Mulaw),
        (44_100, AudioFormat::Unspecified),
        (44_099, AudioFormat::Unspecified),
    ] {
        let sound = drawn_through(&clip, 16_000, rate_hz);
        let sent: Vec<u8> = match format {
            AudioFormat::PcmF32le => sound.iter().flat_map(|sample| (sample / 32_768.0).to_le_bytes()).collect(),
            AudioFormat::Mulaw => sound.iter().map(|sample| mulaw(*sample)).collect(),
            _ => sound.iter().flat_map(|sample| (*sample as i16).to_le_bytes()).collect(),
        };
        let config = StreamConfig { sample_rate_hz: rate_hz, audio_format: format.into(), ..pcm_of(MODEL) };
        let (whole, _) = segments_of(&mut client, config.clone(), &sent, sent.len()).await;
        // An odd number, so that no chunk but the first begins with a sample.
        let (found, summary) = segments_of(&mut client, config, &sent, 4_799).await;
        assert_eq!(found, whole, "{rate_hz} {format:?}");
        assert_eq!(summary.payload_bytes, sent.len() as u64, "{rate_hz} {format:?}");
        let samples = (sound.len() as f64 * 16_000.0 / f64::from(rate_hz)).round() as u64;
        assert_eq!(summary.samples, samples, "{rate_hz} {format:?}");
        assert_eq!(found.len(), expected.len(), "{rate_hz} {format:?}: {found:?}");
        for ((start, end), (expected_start, expected_end)) in found.iter().zip(&expected) {
            let near = |ms: u64, expected_ms: u64| ms.abs_diff(expected_ms) <= 32;
            assert!(
                near(*start, *expected_start) && near(*end, *expected_end),
                "{rate_hz} {format:?}: {found:?}, not {expected:?}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flush_gives_all_sound_before_it_at_another_rate() {
    let server = serve(speech_config(), &[]).await;
    let mut client = connect(&server).await;
    let config = StreamConfig { sample_rate_hz: 48_000, ..pcm_of(MODEL) };
    let flush = |id: &str| Message::Flush(Flush { id: id.to_owned() });
    let chunk = |samples: usize| Message::Chunk(vec![0; 2 * samples].into());
    // 1,000 samples at the model's rate: one window, and most of another. Then no more than the filter waits for.
    let said = Feed::run(&mut client, config, vec![chunk(3_000), flush("one"), chunk(100), flush("two"), flush("three")]).await;
    let ends: Vec<u64> = said.results.iter().map(|result| result.window.expect("a window").end_sample).collect();
    assert_eq!(ends, [512, 1_000, 1_033]);
    let flushed: Vec<u64> = said
        .events
        .iter()
        .filter_map(|event| if let Event::Flushed(flushed) = event { Some(flushed.items) } else { None })
        .collect();
    assert_eq!((flushed, said.completed.expect("it completed").samples), (vec![2, 3, 3], 1_033));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn speech_is_found_in_the_clip_that_is_made_here() {
    let server = serve(speech_config(), &[]).await;
    let (ends, summary) = segments_of(&mut connect(&server).await, pcm_of(MODEL), &bytes(&clip()), 3_200).await;
    // Two utterances, from 0.4 s to 1.3 s and from 2.0 s to 3.1 s.
    let near = |ms: u64, expected_ms: u64| ms.abs_diff(expected_ms) <= 150;
    let [(first_start, first_end), (second_start, second_end)] = ends[..] else { panic!("not two segments: {ends:?}") };
    assert!(near(first_start, 400) && near(first_end, 1_300) && near(second_start, 2_000) && near(second_end, 3_100), "{ends:?}");
    assert_eq!(summary.samples, 57_600);
}
