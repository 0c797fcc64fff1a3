//! Both engines behind one server give the same results.

use std::{env, path::PathBuf};

use futures::future::join_all;

use tidemill::{app::Server, domain::Verdict, proto::v1::scan_request::Payload};

use crate::{
    audio::{bytes, sound},
    modes::scan,
    serving::{Feed, assert_close, bare_config, chunks, connect, first_values, folder_of, patiently, pcm_of, write},
};

/// Names the library of onnxruntime.
pub(crate) const LIBRARY_VARIABLE: &str = "TIDEMILL_TEST_ONNXRUNTIME";

/// The engines compute in different orders; a probability may differ by a little more than rounding.
const TOLERANCE: f32 = 1e-4;

const WEIGHTS: &[u8] = include_bytes!(env!("TIDEMILL_SILERO_ONNX"));
const MANIFEST: &str = include_str!("../../src/registry/silero-vad.toml");

pub(crate) fn library() -> Option<PathBuf> {
    let named = env::var_os(LIBRARY_VARIABLE).map(PathBuf::from);
    assert!(named.is_some() || env::var_os("CI").is_none_or(|ci| ci != "true"), "{LIBRARY_VARIABLE} must be set where CI=true");
    named
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_models_inside_the_binary_share_calls_and_say_what_the_official_file_says() {
    let embedded = [("silero-vad", MANIFEST), ("silero-vad-8k", include_str!("../../src/registry/silero-vad-8k.toml"))];
    let folder = folder_of(&[]);
    for (name, manifest) in embedded {
        write(folder.path(), &format!("official-{name}/model.toml"), manifest.as_bytes());
        write(folder.path(), &format!("official-{name}/1/model.onnx"), WEIGHTS);
    }
    let mut config = bare_config();
    config.models.dir = Some(folder.path().to_owned());
    (config.models.embedded, config.models.embedded_8khz) = (true, true);
    let server = Server::start(config).await.unwrap_or_else(|error| panic!("{error}"));
    let mut client = connect(&server).await;
    for (name, _) in embedded {
        let model = server.registry().get(name, None).expect("it is served");
        let batching = &model.loaded.batching;
        assert_eq!((batching.verdict, batching.proven_batch), (Verdict::Independent, 64), "{batching:?}");
        let sound = bytes(&sound(40 * 512, 3));
        let found = scan(&mut client, pcm_of(name), Payload::PcmS16le(sound.clone())).await;
        let wanted = scan(&mut client, pcm_of(&format!("official-{name}")), Payload::PcmS16le(sound)).await;
        assert_eq!(found.len(), if name == "silero-vad" { 40 } else { 80 });
        assert!(found.iter().any(|value| *value > 0.005), "the sound moves the model: {found:?}");
        assert_close(&found, &wanted, TOLERANCE);
    }
    patiently(server.drain()).await;
}

/// Says so and checks nothing if no library is named; CI names one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn onnxruntime_and_rten_agree_through_the_whole_server() {
    const WINDOWS: usize = 12;
    let Some(library) = library() else {
        eprintln!("{LIBRARY_VARIABLE} names no library of onnxruntime; it was not compared with rten");
        return;
    };
    let folder = folder_of(&[]);
    for (name, engine) in [("speech-rten", "rten"), ("speech-onnxruntime", "onnxruntime"), ("speech-auto", "auto")] {
        write(folder.path(), &format!("{name}/model.toml"), format!("engine = '{engine}'\n{MANIFEST}").as_bytes());
        write(folder.path(), &format!("{name}/1/model.onnx"), WEIGHTS);
    }
    let mut config = bare_config();
    config.models.dir = Some(folder.path().to_owned());
    config.engine.onnxruntime = Some(library);
    let server = Server::start(config).await.unwrap_or_else(|error| panic!("{error}"));
    let engines: Vec<_> = server.registry().list().iter().map(|model| (model.name.to_string(), model.engine)).collect();
    let expected = [("speech-auto", "onnxruntime"), ("speech-onnxruntime", "onnxruntime"), ("speech-rten", "rten")];
    assert_eq!(engines, expected.map(|(name, engine)| (name.to_owned(), engine)));
    let mut client = connect(&server).await;
    let long = bytes(&sound(60 * 512, 0));
    let reference = scan(&mut client, pcm_of("speech-rten"), Payload::PcmS16le(long.clone())).await;
    assert!(reference.iter().any(|value| *value > 0.02), "the sound moves the model: {reference:?}");
    for model in ["speech-onnxruntime", "speech-auto"] {
        assert_close(&scan(&mut client, pcm_of(model), Payload::PcmS16le(long.clone())).await, &reference, TOLERANCE);
    }
    let feeds = (0..64).map(|stream| {
        let (mut client, pcm) = (client.clone(), bytes(&sound(WINDOWS * 512, stream)));
        async move {
            let mut of = async |model| first_values(&Feed::run(&mut client, pcm_of(model), chunks(&pcm, &[1_024])).await.results);
            let (rten, onnxruntime) = (of("speech-rten").await, of("speech-onnxruntime").await);
            assert_eq!(rten.len(), WINDOWS);
            assert_close(&rten, &onnxruntime, TOLERANCE);
        }
    });
    join_all(feeds).await;
    patiently(server.drain()).await;
}
