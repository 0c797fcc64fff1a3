use super::*;

const MINIMAL: &str = "version = 1\nname = 'x'\nduration_s = 1\n[[loads]]\nname = 'a'\nprotocol = 'feed'\nmodel = 'm'\nstreams = 4\n\
                       arrivals = { process = 'poisson', rate_hz = 5 }\n\
                       inputs = [{ name = 'x', datatype = 'FP32', shape = [4] }]\n";

fn complaint(changes: &[&str]) -> String {
    let changes: Vec<_> = changes.iter().map(|change| (*change).to_owned()).collect();
    format!("{:#}", Scenario::parse(MINIMAL, &changes).expect_err("a fault"))
}

#[test]
fn what_is_not_said_has_a_default() {
    let scenario = Scenario::parse(MINIMAL, &[]).expect("sound");
    assert_eq!((scenario.seed, scenario.connections, scenario.addr.as_str()), (1, 8, "127.0.0.1:50051"));
    assert_eq!(scenario.slo(), Duration::from_millis(50));
    let load = &scenario.loads[0];
    assert_eq!((load.in_flight, load.batch, load.sequence, load.deadline()), (8, 1, false, None));
    assert_eq!((load.inputs[0].fill, load.inputs[0].elements()), (Fill::Noise, 4));
}

#[test]
fn a_change_wins_over_the_file() {
    let scenario = Scenario::parse(MINIMAL, &["loads.0.streams=256".to_owned(), "loads.0.deadline_ms=2.5".to_owned()]);
    let load = &scenario.expect("sound").loads[0];
    assert_eq!((load.streams, load.deadline()), (256, Some(Duration::from_micros(2_500))));
}

#[test]
fn each_fault_names_the_key_and_what_is_allowed() {
    for (change, complaints) in [
        ("version=2", ["version = 2", "reads version 1"]),
        ("name=", ["name", "must not be empty"]),
        ("duration_s=0", ["duration_s = 0", "0.01 to"]),
        ("duration_s=nan", ["duration_s = NaN", "0.01 to"]),
        ("drain_s=-1", ["drain_s = -1", "0 to"]),
        ("connections=0", ["connections = 0", "1 to 4096"]),
        ("loads=[]", ["the number of loads = 0", "1 to 64"]),
        ("loads.0.streams=0", ["loads.0.streams = 0", "1 to 1000000"]),
        ("loads.0.batch=2", ["loads.0.batch = 2", "feed sends one item"]),
        ("loads.0.sequence=true", ["loads.0.sequence", "infer_stream"]),
        ("loads.0.inputs.0.datatype=F32", ["\"F32\"", "FP32"]),
        ("loads.0.inputs.0.shape=[100000, 100000, 1000000, 10000000]", ["loads.0.inputs.0.shape", "at most"]),
        ("loads.0.inputs=[]", ["the number of loads.0.inputs = 0", "1 to 64"]),
        ("loads.0.http={path='/x'}", ["loads.0.http", "http_post"]),
        ("loads.0.protocol=grpc", ["unknown variant `grpc`", "infer_stream"]),
        ("ramp={of='streams', factors=[0]}", ["ramp.factors = 0", "to 1000000"]),
        ("search={of='streams', p99_ms_max=5, from=2, to=1}", ["search.to = 1", "2 to"]),
        ("chaos.resets_hz=-1", ["chaos.resets_hz = -1", "0 to 1000"]),
        ("expect.goodput_min=2", ["expect.goodput_min = 2", "0 to 1"]),
        ("expect.goodput=2", ["unknown field `goodput`", "goodput_min"]),
        ("loads.0.stream=2", ["unknown field `stream`", "streams"]),
    ] {
        let found = complaint(&[change]);
        for part in complaints {
            assert!(found.contains(part), "{change}: {found}");
        }
    }
}

#[test]
fn a_deadline_that_nobody_would_learn_of_is_refused() {
    let post = ["loads.0.protocol=http_post", "loads.0.http={path='/x'}", "loads.0.deadline_ms=20"];
    let found = complaint(&post);
    assert!(found.contains("loads.0.deadline_ms = 20") && found.contains("http_post"), "{found}");
    let without = [post[0], post[1], "loads.0.deadline_ms=0"].map(str::to_owned);
    assert_eq!(Scenario::parse(MINIMAL, &without).expect("sound").loads[0].deadline(), None);
}

#[test]
fn audio_takes_the_place_of_inputs_where_chunks_are_taken() {
    let audio = "loads.0.pcm={sound='tone', chunk_ms=20}";
    let scenario = Scenario::parse(MINIMAL, &[audio, "loads.0.inputs=[]"].map(str::to_owned)).expect("sound");
    assert_eq!(scenario.loads[0].pcm.expect("it is there").chunk_bytes(), 640);
    for (changes, part) in [
        (&[audio][..], "only one of them"),
        (&[audio, "loads.0.inputs=[]", "loads.0.protocol=predict"], "feed, scan and upload"),
        (&[audio, "loads.0.inputs=[]", "loads.0.pcm.chunk_bytes=640"], "one of them is needed"),
        (&["loads.0.pcm={}", "loads.0.inputs=[]"], "one of them is needed"),
        (&["loads.0.pcm={chunk_ms=nan}", "loads.0.inputs=[]"], "a chunk has 0 bytes"),
        (&["loads.0.pcm={chunk_bytes=5000000}", "loads.0.inputs=[]"], "1 to 4194304"),
        (&[audio, "loads.0.inputs=[]", "loads.0.pcm.sample_rate_hz=0"], "sample_rate_hz = 0"),
        (
            &["loads.0.pcm={chunk_bytes=4000}", "loads.0.inputs=[]", "loads.0.protocol=scan", "loads.0.batch=65536"],
            "with the batch",
        ),
        (&[audio, "loads.0.inputs=[]", "chaos.churn_hz=1"], "with inputs"),
    ] {
        let found = complaint(changes);
        assert!(found.contains(part), "{changes:?}: {found}");
    }
}

#[test]
fn faults_are_reported_all_at_once() {
    let found = complaint(&["connections=0", "loads.0.streams=0", "slo_ms=0"]);
    assert_eq!(found.matches("is allowed").count(), 3, "{found}");
}

#[test]
fn a_fault_of_an_unchanged_file_comes_with_its_line() {
    let found = format!("{:#}", Scenario::parse(&format!("{MINIMAL}sequnce = true\n"), &[]).expect_err("unknown"));
    assert!(found.contains("line 11") && found.contains("sequnce"), "{found}");
}

#[test]
fn ramp_and_search_exclude_each_other_and_closed_loops_have_no_rate() {
    let ramp = "ramp={of='rate', factors=[1, 2]}";
    let search = "search={of='streams', p99_ms_max=5, to=4}";
    assert!(complaint(&[ramp, search]).contains("a file has only one of them"));
    assert!(complaint(&[ramp, "loads.0.arrivals={process='closed'}"]).contains("has no rate"));
}

#[test]
fn chaos_needs_a_native_load() {
    let found = complaint(&["chaos.churn_hz=1", "loads.0.protocol=infer"]);
    assert!(found.contains("native API"), "{found}");
}

#[test]
fn calls_of_a_sequence_go_one_after_another() {
    let found = complaint(&["loads.0.protocol=infer", "loads.0.sequence=true"]);
    assert!(found.contains("needs 1"), "{found}");
    let changes = ["loads.0.protocol=infer", "loads.0.sequence=true", "loads.0.in_flight=1"].map(str::to_owned);
    assert!(Scenario::parse(MINIMAL, &changes).expect("sound").loads[0].sequence);
}

#[test]
fn every_scenario_of_the_repository_can_be_read() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scenarios");
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(&folder).expect("the folder is there") {
        let path = entry.expect("an entry").path();
        let scenario = Scenario::read(&path, &[]).unwrap_or_else(|error| panic!("{error:#}"));
        assert_eq!(path.file_stem().and_then(|name| name.to_str()), Some(scenario.name.as_str()), "files bear their names");
        assert!(!scenario.description.is_empty(), "{}", path.display());
        names.insert(scenario.name);
    }
    assert!(names.contains("live-speech"), "{names:?}");
}
