//! The client commands from their flags to their exit codes, against a scripted server.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use clap::{CommandFactory as _, Parser};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
use tonic_health::ServingStatus;
use tonic_types::{ErrorDetails, StatusExt as _};

use super::{
    ClientCommand, ModelFile,
    output::Printer,
    run_with,
    scripted::{Script, ScriptedServer, WINDOW_SAMPLES},
};
use tidemill_wire::v1::{Skipped, UnreadPolicy, predict_request::Payload};

/// What the binary holds, as far as these tests know.
const FILES: [ModelFile; 2] =
    [ModelFile { name: "silero-vad", bytes: b"for 16 kHz" }, ModelFile { name: "silero-vad-8k", bytes: b"for 8 kHz" }];

#[derive(Parser)]
struct CommandLine {
    #[command(subcommand)]
    command: ClientCommand,
}

/// The output of a command, and its exit code.
#[derive(Debug, PartialEq)]
struct Ended {
    exit_code: u8,
    results: String,
    notes: String,
}

/// A writer whose text the test can read.
#[derive(Clone, Default)]
struct Page(Arc<Mutex<Vec<u8>>>);

impl Page {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().expect("unpoisoned").clone()).expect("text")
    }
}

impl Write for Page {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("unpoisoned").write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A pipe whose reader has gone.
struct ClosedPipe;

impl Write for ClosedPipe {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Err(io::ErrorKind::BrokenPipe.into())
    }
}

fn parse(server: &str, arguments: &[&str]) -> ClientCommand {
    let mut all = vec!["tidemill"];
    all.extend(arguments);
    all.extend(["--addr", server]);
    CommandLine::try_parse_from(all).expect("well-formed flags").command
}

async fn run_at(server: &str, arguments: &[&str], interrupt: &CancellationToken) -> Ended {
    ended(&parse(server, arguments), interrupt).await
}

async fn ended(command: &ClientCommand, interrupt: &CancellationToken) -> Ended {
    let (results, notes) = (Page::default(), Page::default());
    let mut printer = Printer::new(command.wants_json(), Box::new(results.clone()), Box::new(notes.clone()), false);
    let exit_code = run_with(command, &FILES, &mut printer, interrupt).await;
    Ended { exit_code, results: results.text(), notes: notes.text() }
}

async fn run(server: &ScriptedServer, arguments: &[&str]) -> Ended {
    run_at(&server.address.to_string(), arguments, &CancellationToken::new()).await
}

fn samples(count: usize) -> Vec<i16> {
    (0..count).map(|index| index as i16).collect()
}

fn bytes_of(samples: &[i16]) -> Vec<u8> {
    samples.iter().flat_map(|sample| sample.to_le_bytes()).collect()
}

fn wav_file(folder: &TempDir, sample_rate: u32, samples: &[i16]) -> PathBuf {
    let file = folder.path().join("talk.wav");
    let spec = hound::WavSpec { channels: 1, sample_rate, bits_per_sample: 16, sample_format: hound::SampleFormat::Int };
    let mut writer = hound::WavWriter::create(&file, spec).expect("created");
    samples.iter().for_each(|sample| writer.write_sample(*sample).expect("written"));
    writer.finalize().expect("complete");
    file
}

fn raw_file(folder: &TempDir, samples: &[i16]) -> PathBuf {
    let file = folder.path().join("talk.pcm");
    std::fs::write(&file, bytes_of(samples)).expect("written");
    file
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a temporary path in UTF-8")
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

#[test]
fn the_flags_are_consistent() {
    CommandLine::command().debug_assert();
}

#[tokio::test]
async fn feed_sends_the_samples_of_a_wav_and_prints_segments_for_people() {
    let (server, folder) = (ScriptedServer::start(Script::default()).await, folder());
    let sent = samples(3 * WINDOW_SAMPLES + 100);
    let file = wav_file(&folder, 16_000, &sent);
    let ended = run(&server, &["feed", text(&file), "--chunk-ms", "50", "--window", "7", "--deadline-ms", "1500"]).await;
    assert_eq!(ended.results, "speech  0.00 s –  0.06 s\n");
    assert_eq!(ended.exit_code, 0);
    assert!(ended.notes.starts_with("0.10 s of audio, 4 windows: 4 ok, 0 errors; 1 segment; 0.01 s taken"), "{}", ended.notes);
    let seen = server.seen();
    assert_eq!(seen.audio, bytes_of(&sent));
    assert_eq!(seen.chunk_lengths, [1_600, 1_600, 72]);
    let config = seen.config.clone().expect("opened");
    assert_eq!((config.model.as_str(), config.window_items), ("silero-vad", 7));
    assert_eq!(config.default_deadline, Some(prost_types::Duration { seconds: 1, nanos: 500_000_000 }));
}

#[tokio::test]
async fn feed_prints_documented_json_lines_and_an_item_error_makes_exit_code_1() {
    let script = Script { bad_item: Some(1), ..Script::default() };
    let (server, folder) = (ScriptedServer::start(script).await, folder());
    let file = raw_file(&folder, &samples(2 * WINDOW_SAMPLES));
    let ended = run(&server, &["feed", text(&file), "--raw", "--json", "--results"]).await;
    let expected = concat!(
        r#"{"opened":{"model":"silero-vad","version":"1","sample_rate_hz":16000,"window_samples":512,"window_items":64,"window_bytes":0,"max_message_bytes":4194304}}"#,
        "\n",
        r#"{"segment_started":{"index":0,"start_sample":0,"start_ms":0}}"#,
        "\n",
        r#"{"result":{"seq":0,"start_sample":0,"end_sample":512,"outputs":[{"name":"output","datatype":"FP32","shape":[1],"data":[0.0]}]}}"#,
        "\n",
        r#"{"result":{"seq":1,"start_sample":512,"end_sample":1024,"error":{"code":"DEADLINE_EXCEEDED","message":"too late"}}}"#,
        "\n",
        r#"{"segment":{"index":0,"start_sample":0,"end_sample":1024,"start_ms":0,"end_ms":64}}"#,
        "\n",
        r#"{"summary":{"completed":true,"interrupted":false,"items":2,"ok":1,"errors":1,"segments":1,"samples":1024,"payload_bytes":2048,"elapsed_ms":5,"queue_ns":1000,"compute_ns":2000}}"#,
        "\n",
    );
    assert_eq!(ended, Ended { exit_code: 1, results: expected.to_owned(), notes: String::new() });
}

#[tokio::test]
async fn results_that_nobody_read_are_reported_and_counted() {
    let script = Script { skipped: Some(Skipped { first_seq: 1, results: 41 }), ..Script::default() };
    let (server, folder) = (ScriptedServer::start(script).await, folder());
    let file = raw_file(&folder, &samples(WINDOW_SAMPLES));
    let ended = run(&server, &["feed", text(&file), "--raw", "--unread", "drop-oldest"]).await;
    assert!(ended.notes.starts_with("item      1  41 results skipped, because nobody read them\n"), "{}", ended.notes);
    assert!(ended.notes.contains("; 41 results skipped; "), "{}", ended.notes);
    assert_eq!(ended.exit_code, 0);
    assert_eq!(server.seen().config.clone().expect("opened").unread(), UnreadPolicy::DropOldest);
    let ended = run(&server, &["feed", text(&file), "--json"]).await;
    assert!(ended.results.contains(r#"{"skipped":{"first_seq":1,"results":41}}"#), "{}", ended.results);
    assert!(ended.results.contains(r#""skipped":41,"segments""#), "{}", ended.results);
    assert_eq!(server.seen().config.clone().expect("opened").unread(), UnreadPolicy::Block);
}

#[tokio::test]
async fn without_results_people_still_see_item_errors() {
    let script = Script { bad_item: Some(0), ..Script::default() };
    let (server, folder) = (ScriptedServer::start(script).await, folder());
    let file = raw_file(&folder, &samples(WINDOW_SAMPLES));
    let ended = run(&server, &["feed", text(&file), "--raw"]).await;
    assert!(ended.notes.starts_with("item      0  0.000 s – 0.032 s  DEADLINE_EXCEEDED: too late\n"), "{}", ended.notes);
    assert_eq!(ended.exit_code, 1);
}

#[tokio::test]
async fn a_recording_of_another_rate_is_resampled_with_a_line_that_says_so() {
    let (server, folder) = (ScriptedServer::start(Script::default()).await, folder());
    let file = wav_file(&folder, 44_100, &samples(44_100));
    for (command, sent) in [("feed", 16_000), ("scan", 16_000), ("upload", 16_000), ("predict", WINDOW_SAMPLES)] {
        server.seen().audio.clear();
        let ended = run(&server, &[command, text(&file)]).await;
        let note = format!("{}: WAV 16-bit, 44100 Hz, mono: resampled to 16000 Hz\n", file.display());
        assert!(ended.notes.starts_with(&note), "{command}: {}", ended.notes);
        assert_eq!((ended.exit_code, server.seen().audio.len()), (0, 2 * sent), "{command}");
    }
}

#[tokio::test]
async fn an_unknown_format_is_raw_samples_whose_rate_can_be_given() {
    let (server, folder) = (ScriptedServer::start(Script::default()).await, folder());
    let file = raw_file(&folder, &samples(800));
    let ended = run(&server, &["feed", text(&file)]).await;
    let hint =
        "not a known format, so taken as raw signed 16-bit little-endian mono samples at 16000 Hz; --raw says so in advance\n";
    assert!(ended.notes.starts_with(&format!("{}: {hint}", file.display())), "{}", ended.notes);
    assert_eq!(server.seen().audio, bytes_of(&samples(800)));
    server.seen().audio.clear();
    let ended = run(&server, &["feed", text(&file), "--raw", "--rate", "8000"]).await;
    assert!(ended.notes.starts_with(&format!("{}: raw 16-bit, 8000 Hz, mono: resampled", file.display())), "{}", ended.notes);
    assert_eq!(server.seen().audio.len(), 2 * 1_600);
    // A file in a known format, header and all.
    let wav = wav_file(&folder, 16_000, &samples(100));
    server.seen().audio.clear();
    assert_eq!(run(&server, &["feed", text(&wav), "--raw"]).await.exit_code, 0);
    assert_eq!(server.seen().audio, std::fs::read(&wav).expect("it is there"));
    assert!(server.seen().config.as_ref().expect("opened").accept_container_bytes);
}

#[tokio::test]
async fn a_recording_that_is_cut_off_is_sent_as_far_as_it_goes_and_the_exit_code_is_1() {
    let (server, folder) = (ScriptedServer::start(Script::default()).await, folder());
    let file = wav_file(&folder, 16_000, &samples(16_000));
    std::fs::OpenOptions::new().write(true).open(&file).and_then(|file| file.set_len(44 + 2 * 4_000 + 1)).expect("cut");
    for command in ["feed", "scan", "upload"] {
        server.seen().audio.clear();
        let ended = run(&server, &[command, text(&file)]).await;
        let warning = format!(
            "warning: {}: is cut off 0.75 s before the end that its header states; everything up to there was sent\n",
            file.display()
        );
        assert!(ended.notes.ends_with(&warning), "{command}: {}", ended.notes);
        assert_eq!((ended.exit_code, server.seen().audio.len()), (1, 2 * 4_000), "{command}");
    }
    let raw = folder.path().join("odd.pcm");
    std::fs::write(&raw, [1; 7]).expect("written");
    server.seen().audio.clear();
    let ended = run(&server, &["feed", text(&raw), "--raw"]).await;
    assert!(ended.notes.contains("ends with 1 of the 2 bytes of a sample"), "{}", ended.notes);
    assert_eq!((ended.exit_code, server.seen().audio.len()), (1, 6));
}

#[tokio::test]
async fn a_known_format_that_cannot_be_read_is_named_with_a_command_before_anything_is_asked() {
    let folder = folder();
    let file = folder.path().join("talk.wav");
    std::fs::write(&file, b"\x1a\x45\xdf\xa3\x01\x00\x00\x00\x00\x00\x00\x1f").expect("written");
    for command in ["feed", "scan", "upload", "predict"] {
        let ended = run_at("127.0.0.1:1", &[command, text(&file)], &CancellationToken::new()).await;
        let expected = format!("error: {}: is a Matroska or WebM file, which cannot be read; convert it: ", file.display());
        assert!(ended.notes.starts_with(&expected), "{command}: {}", ended.notes);
        assert_eq!(ended.exit_code, 2, "{command}");
    }
    std::fs::write(&file, b"").expect("written");
    let ended = run_at("127.0.0.1:1", &["feed", text(&file)], &CancellationToken::new()).await;
    assert_eq!((ended.exit_code, ended.notes), (2, format!("error: {}: is empty\n", file.display())));
    let ended = run_at("127.0.0.1:1", &["feed", text(folder.path())], &CancellationToken::new()).await;
    assert_eq!(
        (ended.exit_code, ended.notes),
        (2, format!("error: {}: is a folder, not a recording\n", folder.path().display()))
    );
}

#[tokio::test]
async fn the_sample_clip_needs_no_file() {
    let server = ScriptedServer::start(Script::default()).await;
    for command in ["feed", "scan", "upload"] {
        server.seen().audio.clear();
        let ended = run(&server, &[command, "--sample"]).await;
        assert_eq!((ended.exit_code, server.seen().audio.len()), (0, 2 * 57_600), "{command}: {}", ended.notes);
    }
    assert_eq!(run(&server, &["predict", "--sample", "--at", "0.6"]).await.exit_code, 0);
    for wrong in [
        &["feed"][..],
        &["feed", "--sample", "talk.wav"],
        &["feed", "--sample", "--raw"],
        &["feed", "talk.wav", "--rate", "8000"],
    ] {
        assert!(CommandLine::try_parse_from([&["tidemill"], wrong].concat()).is_err(), "{wrong:?}");
    }
}

#[tokio::test]
async fn an_interrupt_ends_the_sending_and_what_was_sent_is_answered() {
    let (script, folder) = (Script::default(), folder());
    let interrupt = script.first_chunk.clone();
    let server = ScriptedServer::start(script).await;
    // Ten hours at the speed of a microphone: without the interrupt this test would not end.
    let file = folder.path().join("day.pcm");
    std::fs::File::create(&file).and_then(|file| file.set_len(10 * 3_600 * 32_000)).expect("a sparse file");
    let arguments = ["feed", text(&file), "--json", "--realtime", "--chunk-ms", "32"];
    let ended = run_at(&server.address.to_string(), &arguments, &interrupt).await;
    assert_eq!(ended.exit_code, 130);
    let summary = ended.results.lines().last().expect("a summary");
    assert!(summary.starts_with(r#"{"summary":{"completed":true,"interrupted":true,"items":"#), "{summary}");
    assert!(!server.seen().audio.is_empty());
}

#[tokio::test]
async fn an_interrupted_upload_declares_what_it_has_sent() {
    let (script, folder) = (Script::default(), folder());
    let interrupt = script.first_chunk.clone();
    let server = ScriptedServer::start(script).await;
    let file = folder.path().join("day.pcm");
    std::fs::File::create(&file).and_then(|file| file.set_len(1 << 40)).expect("a sparse file");
    let ended = run_at(&server.address.to_string(), &["upload", text(&file)], &interrupt).await;
    assert_eq!(ended.exit_code, 130, "{}", ended.notes);
    let seen = server.seen();
    assert_eq!(seen.digest.as_ref().and_then(|digest| digest.total_bytes), Some(seen.audio.len() as u64));
}

#[tokio::test]
async fn a_command_that_is_interrupted_before_it_is_connected_ends_silently() {
    let interrupt = CancellationToken::new();
    interrupt.cancel();
    let server = ScriptedServer::start(Script::default()).await;
    let ended = run_at(&server.address.to_string(), &["models"], &interrupt).await;
    assert_eq!(ended, Ended { exit_code: 130, results: String::new(), notes: String::new() });
}

#[tokio::test]
async fn a_closed_pipe_ends_a_command_quietly() {
    let (server, folder) = (ScriptedServer::start(Script::default()).await, folder());
    let file = raw_file(&folder, &samples(10 * WINDOW_SAMPLES));
    for command in ["feed", "scan", "upload"] {
        let command = parse(&server.address.to_string(), &[command, text(&file), "--raw", "--results"]);
        let notes = Page::default();
        let mut printer = Printer::new(false, Box::new(ClosedPipe), Box::new(notes.clone()), false);
        let exit_code = run_with(&command, &FILES, &mut printer, &CancellationToken::new()).await;
        assert_eq!((exit_code, notes.text()), (0, String::new()), "{command:?}");
    }
}

#[tokio::test]
async fn a_refusal_is_printed_with_its_details_and_makes_exit_code_4() {
    let mut details = ErrorDetails::new();
    details.add_quota_failure_violation("streams", "8 of 8 are open");
    let refusal = Status::with_error_details(Code::ResourceExhausted, "too many streams", details);
    let (server, folder) = (ScriptedServer::start(Script { refusal: Some(refusal), ..Script::default() }).await, folder());
    let file = raw_file(&folder, &samples(WINDOW_SAMPLES));
    for command in ["feed", "scan", "upload", "predict"] {
        let ended = run(&server, &[command, text(&file)]).await;
        let expected = "error: RESOURCE_EXHAUSTED: too many streams\n  limit streams: 8 of 8 are open\n";
        assert_eq!((ended.exit_code, ended.notes.as_str()), (4, expected), "{command}");
    }
    let ended = run(&server, &["feed", text(&file), "--json"]).await;
    let expected = r#"{"error":{"code":"RESOURCE_EXHAUSTED","message":"too many streams","limits":[{"subject":"streams","description":"8 of 8 are open"}]}}"#;
    assert_eq!(ended.results.trim_end(), expected);
}

#[tokio::test]
async fn a_feed_that_the_server_cuts_short_still_reports_what_was_done() {
    let script = Script { break_off: Some(Status::unavailable("draining")), ..Script::default() };
    let (server, folder) = (ScriptedServer::start(script).await, folder());
    let file = raw_file(&folder, &samples(10 * WINDOW_SAMPLES));
    let ended = run(&server, &["feed", text(&file), "--raw"]).await;
    let expected = "0.00 s of audio, 0 windows: 0 ok, 0 errors; 0 segments; cut short\nerror: UNAVAILABLE: draining\n";
    assert_eq!((ended.exit_code, ended.notes.as_str()), (4, expected));
}

#[tokio::test]
async fn a_server_that_is_not_there_makes_exit_code_3() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
    let ended = run_at(&closed.to_string(), &["models", "--json"], &CancellationToken::new()).await;
    assert_eq!(ended.exit_code, 3);
    let expected = format!(r#"{{"error":{{"code":"CANNOT_CONNECT","message":"cannot connect to http://{closed}/: "#);
    assert!(ended.results.starts_with(&expected), "{}", ended.results);
}

#[tokio::test]
async fn a_port_that_speaks_http1_is_distinguished_from_a_connection_that_broke() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("it is bound");
    let server = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut read = [0; 3];
            let asked = stream.read_exact(&mut read).await.is_ok() && read == *b"GET";
            if asked && stream.write_all(b"HTTP/1.1 404 Not Found\r\n\r\n").await.is_err() {
                break;
            }
        }
    });
    let ended = run_at(&address.to_string(), &["models"], &CancellationToken::new()).await;
    server.abort();
    let expected = format!(
        "error: http://{address}/ speaks HTTP/1 and not gRPC, so it may be the server's HTTP or admin port; its gRPC port is 50051 by \
         default (--addr or TIDEMILL_ADDR names another)\n"
    );
    assert_eq!((ended.exit_code, ended.notes), (3, expected));
}

#[tokio::test]
async fn a_file_that_is_not_there_makes_exit_code_2_before_anything_is_asked() {
    let ended = run_at("127.0.0.1:1", &["feed", "/nowhere/talk.wav"], &CancellationToken::new()).await;
    assert_eq!(ended.exit_code, 2);
    assert!(ended.notes.starts_with("error: /nowhere/talk.wav: "), "{}", ended.notes);
}

#[tokio::test]
async fn a_scan_prints_every_result_and_refuses_what_no_message_can_hold() {
    let script = Script { max_message_bytes: 8_000, ..Script::default() };
    let (server, folder) = (ScriptedServer::start(script).await, folder());
    let file = wav_file(&folder, 16_000, &samples(2 * WINDOW_SAMPLES));
    let ended = run(&server, &["scan", text(&file), "--results"]).await;
    let expected = "item      0  0.000 s – 0.032 s  output 0.0000\n\
                    item      1  0.032 s – 0.064 s  output 0.2500\n\
                    speech  0.00 s –  0.06 s\n";
    assert_eq!((ended.exit_code, ended.results.as_str()), (0, expected));
    let file = wav_file(&folder, 16_000, &samples(4_000));
    let ended = run(&server, &["scan", text(&file)]).await;
    let expected = format!(
        "error: {file}: a scan is one message, and the server takes at most 6976 bytes of samples; \
         use: tidemill upload '{file}', or: tidemill feed '{file}'\n",
        file = file.display()
    );
    assert_eq!((ended.exit_code, ended.notes), (2, expected));
}

#[tokio::test]
async fn an_upload_declares_length_and_checksums_of_what_it_sent() {
    let (server, folder) = (ScriptedServer::start(Script::default()).await, folder());
    let sent = bytes_of(&samples(70_000));
    let file = raw_file(&folder, &samples(70_000));
    let ended = run(&server, &["upload", text(&file), "--sha256", "--json"]).await;
    assert_eq!(ended.exit_code, 0, "{}", ended.notes);
    assert!(ended.results.starts_with(r#"{"segment":{"index":0,"#), "{}", ended.results);
    let crc32c = crc32c::crc32c(&sent);
    assert!(ended.results.contains(&format!(r#""received":{{"total_bytes":140000,"crc32c":"{crc32c:08x}","sha256":""#)));
    let seen = server.seen();
    let digest = seen.digest.as_ref().expect("declared");
    assert_eq!((digest.total_bytes, digest.crc32c), (Some(140_000), Some(crc32c)));
    assert_eq!(digest.sha256, <sha2::Sha256 as sha2::Digest>::digest(&sent).to_vec());
    assert_eq!(seen.chunk_lengths, [65_536, 65_536, 8_928]);
}

#[tokio::test]
async fn an_upload_notices_a_server_that_received_something_else() {
    let script = Script { garble: true, ..Script::default() };
    let (server, folder) = (ScriptedServer::start(script).await, folder());
    let file = raw_file(&folder, &samples(WINDOW_SAMPLES));
    let ended = run(&server, &["upload", text(&file)]).await;
    assert_eq!(ended.exit_code, 4);
    let complaint = "error: unexpected answer: the server did not receive the bytes that were sent\n";
    assert!(ended.notes.ends_with(complaint), "{}", ended.notes);
}

#[tokio::test]
async fn predict_sends_the_window_that_begins_at_a_moment() {
    let (server, folder) = (ScriptedServer::start(Script::default()).await, folder());
    let all = samples(16_000);
    let file = wav_file(&folder, 16_000, &all);
    let ended = run(&server, &["predict", text(&file), "--at", "0.5"]).await;
    assert_eq!((ended.exit_code, ended.results.as_str()), (0, "output 0.7500\n"));
    assert_eq!(server.seen().audio, bytes_of(&all[8_000..8_000 + WINDOW_SAMPLES]));
    let ended = run(&server, &["predict", text(&file), "--at", "1"]).await;
    assert_eq!((ended.exit_code, ended.notes.as_str()), (2, "error: there is no audio at 1 s\n"));
}

#[tokio::test]
async fn predict_sends_typed_tensors_and_says_which_are_missing() {
    let server = ScriptedServer::start(Script::default()).await;
    let ended = run(&server, &["predict", "--tensor", "input=1,2,3,4", "--tensor", "sr=16000", "--json"]).await;
    let expected = r#"{"prediction":{"model":"silero-vad","version":"1","outputs":[{"name":"output","datatype":"FP32","shape":[1],"data":[0.75]}],"timing":{"queue_ns":10,"compute_ns":20,"age_ns":30,"batch_size":1}}}"#;
    assert_eq!((ended.exit_code, ended.results.trim_end()), (0, expected));
    let Some(Payload::Item(item)) = server.seen().predict.take().and_then(|request| request.payload) else {
        panic!("no tensors were sent");
    };
    assert_eq!(item.inputs[0].shape, [4]);
    assert_eq!(item.inputs[1].data[..], 16_000_i64.to_le_bytes());
    let ended = run(&server, &["predict", "--tensor", "input=1,2,3,4"]).await;
    let expected = "error: model 'silero-vad' also takes sr INT64 []; add a --tensor for each\n";
    assert_eq!((ended.exit_code, ended.notes.as_str()), (2, expected));
}

#[tokio::test]
async fn models_lists_all_and_shows_one_with_its_cost() {
    let server = ScriptedServer::start(Script::default()).await;
    let ended = run(&server, &["models"]).await;
    let expected = "NAME        VERSION  STATE   ENGINE  STATE KEPT  BATCHING   DESCRIPTION\n\
                    broken      2        failed          none                   no such file\n\
                    silero-vad  1        ready   rten    per stream  dependent  Finds speech.\n";
    assert_eq!((ended.exit_code, ended.results.as_str()), (0, expected));
    let ended = run(&server, &["models", "--json"]).await;
    assert_eq!(
        ended.results.lines().last(),
        Some(
            r#"{"model":{"name":"silero-vad","version":"1","state":"ready","engine":"rten","description":"Finds speech.","stateful":true,"batching":{"verdict":"dependent","shares_calls":false,"detail":"others changed output 'output'","proven_batch":1,"seed":7}}}"#
        )
    );
    let ended = run(&server, &["models", "silero-vad"]).await;
    assert!(ended.results.contains("cost       batch of   4:    400.0µs a call,    100.0µs an item\n"), "{}", ended.results);
    assert!(
        ended.results.contains("batching   one item a call, dependent: others changed output 'output'\n"),
        "{}",
        ended.results
    );
    let ended = run(&server, &["models", "prove", "silero-vad", "--seed", "9", "--json"]).await;
    assert!(ended.results.contains("\"seed\":9"), "{}", ended.results);
    assert_eq!(run(&server, &["models", "prove", "nothing"]).await.exit_code, 4);
    let ended = run(&server, &["models", "nothing"]).await;
    let expected = "error: NOT_FOUND: no model 'nothing'; there are: silero-vad\n";
    assert_eq!((ended.exit_code, ended.notes.as_str()), (4, expected));
}

#[tokio::test]
async fn export_writes_a_model_of_the_binary_and_replaces_no_file_unasked() {
    let folder = folder();
    let file = folder.path().join("vad.onnx");
    let export = async |arguments: &[&str]| {
        let line = ["tidemill", "models", "export"].iter().chain(arguments);
        let command = CommandLine::try_parse_from(line).expect("sound flags").command;
        ended(&command, &CancellationToken::new()).await
    };
    let written = export(&["silero-vad", text(&file)]).await;
    let bytes = std::fs::read(&file).expect("it was written");
    assert_eq!(bytes, FILES[0].bytes);
    let expected = format!("silero-vad: {} bytes written to {}, sha256 ", bytes.len(), file.display());
    assert!(written.exit_code == 0 && written.results.starts_with(&expected), "{written:?}");

    let refused = export(&["silero-vad-8k", text(&file)]).await;
    let expected = format!("error: {}: it already exists; --force replaces it\n", file.display());
    assert_eq!((refused.exit_code, refused.notes), (2, expected));
    assert_eq!(std::fs::read(&file).expect("untouched"), bytes);
    let replaced = export(&["silero-vad-8k", text(&file), "--force", "--json"]).await;
    assert_eq!(std::fs::read(&file).expect("replaced"), FILES[1].bytes);
    assert!(replaced.results.starts_with(r#"{"exported":{"model":"silero-vad-8k","file":""#), "{replaced:?}");
    let others: Vec<_> =
        std::fs::read_dir(folder.path()).expect("it is there").flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(others, ["vad.onnx"], "nothing else is left");

    let full = export(&["silero-vad", "/dev/full", "--force"]).await;
    assert!(full.exit_code == 2 && full.notes.starts_with("error: /dev/full: cannot be written: No space"), "{full:?}");
    let unknown = export(&["example_model", text(&file)]).await;
    let expected = "error: there is no model file 'example_model' inside this binary, which holds silero-vad and silero-vad-8k; a \
                    model in a folder has its file there, as example_model/VERSION/model.onnx\n";
    assert_eq!((unknown.exit_code, unknown.notes.as_str()), (2, expected));
    let nowhere = export(&["silero-vad", "/nowhere/vad.onnx"]).await;
    assert!(nowhere.exit_code == 2 && nowhere.notes.starts_with("error: /nowhere/vad.onnx: cannot be created: No such file"));
}

#[tokio::test]
async fn the_exit_code_of_health_tells_whether_it_is_serving() {
    let server = ScriptedServer::start(Script::default()).await;
    let ended = run(&server, &["health", "silero-vad", "--json"]).await;
    let expected = r#"{"health":{"model":"silero-vad","status":"SERVING"}}"#;
    assert_eq!((ended.exit_code, ended.results.trim_end()), (0, expected));
    let script = Script { health: ServingStatus::NotServing, ..Script::default() };
    let ended = run(&ScriptedServer::start(script).await, &["health", "silero-vad"]).await;
    assert_eq!((ended.exit_code, ended.results.as_str()), (1, "NOT_SERVING\n"));
    assert_eq!(run(&server, &["health", "nothing"]).await.exit_code, 4);
}
