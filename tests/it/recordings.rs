//! Raw audio that is not what it claims to be: headers of files and wrong rates are refused, in every mode alike. And the clip that is made
//! here: speech is found in it.

use bytes::Bytes;
use tokio_stream::iter;
use tonic::{Code, Status};

use tidemill::proto::v1::{
    PredictRequest, ScanRequest, Segment, StreamConfig, UploadConfig, UploadRequest, feed_request::Message, feed_response::Event,
    predict_request, scan_request, upload_request::Part,
};
use tidemill_recording::Recording;

use crate::serving::{Client, DOUBLER, Feed, connect, fields, patiently, pcm_of, serve, speech_config, tensors_of};

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
async fn a_rate_that_is_stated_must_be_the_models() {
    let server = serve(speech_config(), &[("m", DOUBLER)]).await;
    let mut client = connect(&server).await;
    let audio = [Bytes::from_static(&[0; 64])];
    let stated = |sample_rate_hz| StreamConfig { sample_rate_hz, ..pcm_of(MODEL) };
    for (mode, outcome) in in_every_mode(&mut client, &stated(16_000), &audio).await {
        assert!(outcome.is_ok(), "{mode}: {outcome:?}");
    }
    for wrong in [1, 8_000, 44_100, u32::MAX] {
        for (mode, outcome) in in_every_mode(&mut client, &stated(wrong), &audio).await {
            let error = outcome.expect_err("another rate");
            assert_eq!(
                (error.code(), fields(&error)),
                (Code::InvalidArgument, vec!["sample_rate_hz".to_owned()]),
                "{mode}: {error}"
            );
            let expected =
                format!("sample_rate_hz is {wrong}, but model 'silero-vad' takes 16000; resample the audio before sending it");
            assert_eq!(error.message(), expected, "{mode}");
        }
    }
    let of_tensors = StreamConfig { sample_rate_hz: 16_000, ..tensors_of("m") };
    let mut feed = Feed::call(&mut client).await;
    feed.send(Message::Open(of_tensors)).await;
    let error = feed.next().await.expect_err("tensors have no rate");
    assert_eq!((error.code(), fields(&error)), (Code::InvalidArgument, vec!["sample_rate_hz".to_owned()]), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn speech_is_found_in_the_clip_that_is_made_here() {
    let server = serve(speech_config(), &[]).await;
    let mut clip = Recording::sample_clip();
    assert_eq!(clip.at_rate(16_000).expect("its own rate"), None);
    let mut chunks = Vec::new();
    while let Ok(chunk) = clip.next_chunk(1_600)
        && !chunk.is_empty()
    {
        chunks.push(Message::Chunk(chunk.into()));
    }
    let said = Feed::run(&mut connect(&server).await, pcm_of(MODEL), chunks).await;
    let segments: Vec<&Segment> =
        said.events.iter().filter_map(|event| if let Event::Segment(segment) = event { Some(segment) } else { None }).collect();
    // Two utterances, from 0.4 s to 1.3 s and from 2.0 s to 3.1 s.
    let near = |ms: u64, expected_ms: u64| ms.abs_diff(expected_ms) <= 150;
    let ends: Vec<(u64, u64)> = segments.iter().map(|segment| (segment.start_ms, segment.end_ms)).collect();
    let [(first_start, first_end), (second_start, second_end)] = ends[..] else { panic!("not two segments: {ends:?}") };
    assert!(near(first_start, 400) && near(first_end, 1_300) && near(second_start, 2_000) && near(second_end, 3_100), "{ends:?}");
    assert_eq!(said.completed.expect("it completed").samples, 57_600);
}
