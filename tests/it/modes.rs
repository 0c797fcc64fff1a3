//! The four ways to send the same sound give the same answers, whatever else runs at the time and however many items a call has.

use futures::future::join_all;
use tokio_stream::iter;

use tidemill::{
    app::Server,
    proto::v1::{
        ItemList, PredictRequest, ScanRequest, StreamConfig, UploadConfig, UploadRequest, feed_request::Message, predict_request,
        scan_request, scan_response, upload_request::Part,
    },
};

use crate::{
    audio::{bytes, sound, windows},
    serving::{
        Client, Feed, assert_close, bare_config, chunks, connect, first_values, folder_of, patiently, pcm_of, tensors_of, values,
        write,
    },
};

const TOLERANCE: f32 = 1e-5;
/// Forty windows and a half.
const SAMPLES: usize = 40 * 512 + 256;
const STREAMS: usize = 64;

/// The speech model three times, with calls of at most 1, 5 and 64 items.
const BATCHES: [usize; 3] = [1, 5, 64];

const WEIGHTS: &[u8] = include_bytes!(env!("TIDEMILL_SILERO_ONNX"));
const MANIFEST: &str = include_str!("../../src/registry/silero-vad.toml");

async fn speech_in_three_batch_sizes() -> Server {
    let folder = folder_of(&[]);
    for batch in BATCHES {
        write(folder.path(), &format!("speech-{batch}/model.toml"), format!("max_batch = {batch}\n{MANIFEST}").as_bytes());
        write(folder.path(), &format!("speech-{batch}/1/model.onnx"), WEIGHTS);
    }
    let mut config = bare_config();
    config.models.dir = Some(folder.path().to_owned());
    Server::start(config).await.expect("the speech model loads")
}

/// All results of a scan.
pub(crate) async fn scan(client: &mut Client, config: StreamConfig, payload: scan_request::Payload) -> Vec<f32> {
    let request = ScanRequest { config: Some(config), payload: Some(payload) };
    let mut responses = patiently(client.scan(request)).await.expect("the stream opens").into_inner();
    let mut results = Vec::new();
    while let Some(response) = patiently(responses.message()).await.expect("no fault") {
        if let Some(scan_response::Event::Result(result)) = response.event {
            results.push(result);
        }
    }
    first_values(&results)
}

async fn upload(client: &mut Client, config: StreamConfig, parts: Vec<Part>) -> Vec<f32> {
    let open = UploadConfig { stream: Some(config), include_results: true, ..UploadConfig::default() };
    let parts = std::iter::once(Part::Open(open)).chain(parts).map(|part| UploadRequest { part: Some(part) });
    let response = patiently(client.upload(iter(parts.collect::<Vec<_>>()))).await.expect("an answer").into_inner();
    first_values(&response.results)
}

async fn feed(client: &mut Client, config: StreamConfig, messages: Vec<Message>) -> Vec<f32> {
    let said = Feed::run(client, config, messages).await;
    let summary = said.completed.expect("it completed");
    assert_eq!((summary.items, summary.ok, summary.errors), (said.results.len() as u64, said.results.len() as u64, 0));
    first_values(&said.results)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_mode_and_payload_gives_the_same_results() {
    let server = speech_in_three_batch_sizes().await;
    let mut client = connect(&server).await;
    let samples = sound(SAMPLES, 0);
    let (pcm, items) = (bytes(&samples), windows(&samples));
    let expected = scan(&mut client, pcm_of("speech-1"), scan_request::Payload::PcmS16le(pcm.clone())).await;
    assert_eq!(expected.len(), SAMPLES.div_ceil(512));
    assert!(expected.iter().any(|value| *value > 0.02), "the sound moves the model: {expected:?}");
    for batch in BATCHES {
        let name = format!("speech-{batch}");
        let raw: Vec<Part> = pcm.chunks(4_001).map(|chunk| Part::Chunk(pcm.slice_ref(chunk))).collect();
        let scanned = scan_request::Payload::Items(ItemList { items: items.clone() });
        let listed = [
            scan(&mut client, pcm_of(&name), scan_request::Payload::PcmS16le(pcm.clone())).await,
            scan(&mut client, tensors_of(&name), scanned).await,
            upload(&mut client, pcm_of(&name), raw).await,
            upload(&mut client, tensors_of(&name), items.iter().cloned().map(Part::Item).collect()).await,
            feed(&mut client, pcm_of(&name), chunks(&pcm, &[1, 2, 999, 1_024, 5_001])).await,
            feed(&mut client, tensors_of(&name), items.iter().cloned().map(Message::Item).collect()).await,
        ];
        for results in &listed {
            assert_close(results, &expected, TOLERANCE);
        }
        for payload in [predict_request::Payload::Item(items[0].clone()), predict_request::Payload::PcmS16le(pcm.slice(..1_024))]
        {
            let request = PredictRequest { model: name.clone(), payload: Some(payload), ..PredictRequest::default() };
            let response = patiently(client.predict(request)).await.expect("a result").into_inner();
            assert_close(&values(&response.outputs.expect("outputs").tensors), &expected[..1], TOLERANCE);
        }
    }
    patiently(server.drain()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_feeds_at_once_get_what_each_gets_alone() {
    const WINDOWS: usize = 12;
    let server = speech_in_three_batch_sizes().await;
    let client = connect(&server).await;
    let mut alone = Vec::new();
    for stream in 0..STREAMS {
        let pcm = bytes(&sound(WINDOWS * 512, stream));
        let expected = scan(&mut client.clone(), pcm_of("speech-1"), scan_request::Payload::PcmS16le(pcm)).await;
        alone.push(expected);
    }
    for batch in BATCHES {
        let name = format!("speech-{batch}");
        let together = (0..STREAMS).map(|stream| {
            let (mut client, samples) = (client.clone(), sound(WINDOWS * 512, stream));
            let config = if stream % 2 == 0 { pcm_of(&name) } else { tensors_of(&name) };
            async move {
                let messages = match stream % 2 {
                    0 => chunks(&bytes(&samples), &[333 + stream, 1_024]),
                    _ => windows(&samples).into_iter().map(Message::Item).collect(),
                };
                feed(&mut client, config, messages).await
            }
        });
        for (results, expected) in join_all(together).await.iter().zip(&alone) {
            assert_close(results, expected, TOLERANCE);
        }
    }
    patiently(server.drain()).await;
}
