//! Loading from folders, and what the registry answers.

use std::{fs, path::Path};

use slotmap::SlotMap;

use super::*;
use crate::engine::{EngineChoice, LaneThreads, engine_named};

const DOUBLER: &str = "
description = 'doubles'
engine = 'synthetic'
[[inputs]]
name = 'x'
datatype = 'FP32'
dims = ['batch', 4]
[[outputs]]
name = 'y'
datatype = 'FP32'
dims = ['batch', 4]
[synthetic]
";

/// A folder with these files; a text of none makes a folder.
fn models(files: &[(&str, Option<&str>)]) -> tempfile::TempDir {
    let root = tempfile::tempdir().expect("a temporary folder");
    for (path, content) in files {
        let path = root.path().join(path);
        match content {
            Some(content) => {
                fs::create_dir_all(path.parent().expect("below the root")).expect("a folder");
                fs::write(path, content).expect("a file");
            }
            None => fs::create_dir_all(path).expect("a folder"),
        }
    }
    root
}

fn load(sources: &[&dyn ModelSource], keep_going: bool) -> Result<Registry, LoadFaults> {
    let keys = Mutex::new(SlotMap::with_key());
    let lanes = [LaneThreads::new()];
    load_all(
        sources,
        &LoadOptions::new(EngineChoice::Auto, &lanes, keep_going),
        &Unproven(|_: &LoadedModel| Ok(keys.lock().insert(()))),
    )
}

fn load_folder(root: &Path, keep_going: bool) -> Result<Registry, LoadFaults> {
    load(&[&Folder::new(root.to_owned())], keep_going)
}

/// The faults, without the temporary folder's name.
fn faults(files: &[(&str, Option<&str>)]) -> Vec<String> {
    let root = models(files);
    let prefix = format!("{}/", root.path().display());
    let faults = load_folder(root.path(), false).err().expect("must be refused");
    faults.faults().iter().map(|fault| fault.to_string().replace(&prefix, "")).collect()
}

#[test]
fn the_embedded_model_loads() {
    let registry = load(&[&Embedded::SILERO_VAD], false).expect("it is checked at build time");
    assert!(registry.all_ready());
    let model = registry.get("silero-vad", None).expect("ready");
    assert_eq!((&*model.loaded.version, model.engine_name(), model.is_stateful()), ("6", "rten", true));
    assert!(model.loaded.framing.is_some() && model.loaded.segments.is_some());
}

#[test]
fn a_synthetic_model_needs_no_version_folder_and_may_have_some() {
    let root = models(&[("one/model.toml", Some(DOUBLER)), ("two/model.toml", Some(DOUBLER)), ("two/2", None), ("two/10", None)]);
    let registry = load_folder(root.path(), false).expect("all good");
    let list: Vec<String> = registry.list().iter().map(|status| format!("{} {}", status.name, status.version)).collect();
    assert_eq!(list, ["one 1", "two 2", "two 10"]);
    let status = &registry.list()[0];
    assert_eq!(
        (status.state, status.engine, &*status.description, status.stateful),
        (ModelState::Ready, "synthetic", "doubles", false)
    );
}

#[test]
fn the_newest_version_is_the_default_and_the_others_are_there_by_number() {
    let root = models(&[("m/model.toml", Some(DOUBLER)), ("m/9", None), ("m/10", None)]);
    let registry = load_folder(root.path(), false).expect("all good");
    let version = |wanted| registry.get("m", wanted).expect("ready").loaded.version.to_string();
    assert_eq!([version(None), version(Some("")), version(Some("9"))], ["10", "10", "9"]);
}

#[test]
fn unknown_names_and_versions_are_answered_with_those_there_are() {
    let root = models(&[("a/model.toml", Some(DOUBLER)), ("b/model.toml", Some(DOUBLER))]);
    let registry = load_folder(root.path(), false).expect("all good");
    let fault = registry.get("c", None).expect_err("not there");
    assert_eq!((fault.kind(), fault.message()), (FaultKind::NotFound, "there is no model 'c'; the models are: 'a', 'b'"));
    let fault = registry.get("a", Some("2")).expect_err("not there");
    assert_eq!((fault.kind(), fault.message()), (FaultKind::NotFound, "model 'a' has no version '2'; its versions are: '1'"));
    let fault = registry.get(&"x".repeat(100_000), Some("1")).expect_err("not there");
    assert!(fault.message().len() < 1_000, "a message fits into a header");
}

#[test]
fn a_long_list_of_names_is_cut() {
    let names: Vec<String> = (0..25).map(|number| format!("m{number:02}")).collect();
    let text = listed(names.iter().map(String::as_str));
    assert!(text.ends_with("'m19' and 5 more"), "{text}");
    assert_eq!(listed(std::iter::empty()), "none");
}

#[test]
fn every_fault_of_every_model_comes_at_once() {
    let found = faults(&[
        ("bad name/1", None),
        ("garbage/1/model.onnx", Some("not a model")),
        ("keys/model.toml", Some("max_bach = 1\nengine = 'tract'")),
        ("keys/1/model.onnx", Some("not read")),
        ("keys/2/model.onnx", Some("not read")),
        ("missing/3", None),
        ("noversion/v1", None),
        ("synthetic/model.toml", Some("engine = 'synthetic'\n[synthetic]")),
        ("fine/model.toml", Some(DOUBLER)),
    ]);
    let expected = [
        "bad name: its name holds ' '",
        "garbage/1/model.onnx: ",
        "keys/model.toml: engine: unknown variant `tract`",
        "keys/model.toml: max_bach: unknown field `max_bach`",
        "missing/3/model.onnx: cannot be read: ",
        "noversion: has no version: a folder named by a number",
        "synthetic/model.toml: inputs: is missing",
        "synthetic/model.toml: outputs: is missing",
    ];
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.starts_with(expected), "{found} is not {expected}");
    }
}

#[test]
fn a_broken_manifest_of_a_model_that_needs_no_version_is_the_only_fault() {
    let found = faults(&[("m/model.toml", Some("engine = 'synthetic'\nmax_batch = 0\n[synthetic]"))]);
    assert_eq!(found, ["m/model.toml: max_batch: is 0; accepted are 1 to 64 items"]);
    let found = faults(&[("m/model.toml", Some("engine = 'rten'\nmax_batch = 0"))]);
    assert_eq!(found.len(), 2, "{found:?}");
}

#[test]
fn only_the_versions_that_the_manifest_wants_are_loaded_and_those_it_misses_are_named() {
    let with = |versions: &str| format!("versions = {versions}\n{DOUBLER}");
    let served = |versions: &str| -> Vec<String> {
        let root = models(&[("m/model.toml", Some(&with(versions))), ("m/1", None), ("m/2", None), ("m/10", None)]);
        let registry = load_folder(root.path(), true).expect("asked to keep going");
        let ready = registry.list().into_iter().filter(|status| status.state == ModelState::Ready);
        ready.map(|status| status.version.to_string()).collect()
    };
    assert_eq!(served("'latest'"), ["10"]);
    assert_eq!(served("{ latest = 2 }"), ["2", "10"]);
    assert_eq!(served("[1, 10]"), ["1", "10"]);
    assert_eq!(served("[1, 3]"), ["1"]);
    let found = faults(&[("m/model.toml", Some(&with("[1, 3]"))), ("m/1", None)]);
    assert_eq!(found, ["m/model.toml: versions: lists version 3, but there is no folder 3"]);
    let found = faults(&[("m/model.toml", Some(&with("[2]")))]);
    assert_eq!(found, ["m/model.toml: versions: lists version 2, but there is no folder 2"]);
}

#[test]
fn the_report_is_a_list() {
    let root = models(&[("m/1", None)]);
    let report = load_folder(root.path(), false).err().expect("no model file").to_string();
    assert!(report.starts_with("the models have 1 fault(s):\n  "), "{report}");
    assert!(report.contains("m/1/model.onnx: cannot be read: "), "{report}");
}

#[test]
fn asked_to_keep_going_it_serves_what_it_can_and_says_why_not_the_rest() {
    let root = models(&[
        ("bad/model.toml", Some("colour = 'red'")),
        ("bad/1", None),
        ("empty/model.toml", Some("")),
        ("good/model.toml", Some(DOUBLER)),
    ]);
    let registry = load_folder(root.path(), true).expect("asked to keep going");
    assert!(registry.get("good", None).is_ok());
    assert!(!registry.all_ready());
    let fault = registry.get("bad", None).expect_err("failed");
    assert_eq!(fault.kind(), FaultKind::Unavailable);
    assert!(fault.message().contains("could not be loaded") && fault.message().contains("colour"), "{fault}");
    let states: Vec<ModelState> = registry.list().iter().map(|status| status.state).collect();
    assert_eq!(states, [ModelState::Failed, ModelState::Failed, ModelState::Ready]);
    assert!(registry.list()[1].reason.contains("has no version"));
    assert_eq!(registry.get("empty", None).expect_err("failed").kind(), FaultKind::Unavailable);
}

#[test]
fn the_limit_of_versions_counts_those_that_are_to_be_served() {
    let with = |versions: &str, count: usize| {
        let manifest = format!("versions = {versions}\n{DOUBLER}");
        let folders: Vec<String> = (1..=count).map(|version| format!("m/{version}")).collect();
        let mut files: Vec<(&str, Option<&str>)> = folders.iter().map(|folder| (folder.as_str(), None)).collect();
        files.push(("m/model.toml", Some(&manifest)));
        models(&files)
    };
    let serving = |versions: &str, count: usize| {
        let registry = load_folder(with(versions, count).path(), false).unwrap_or_else(|faults| panic!("{faults}"));
        registry.list().len()
    };
    assert_eq!(serving("'latest'", 66), 1);
    assert_eq!(serving("[1, 66]", 66), 2);
    assert_eq!(serving("{ latest = 64 }", 66), 64);
    assert_eq!(serving("'all'", 64), 64);
    let faults = load_folder(with("'all'", 66).path(), false).err().expect("too many");
    assert_eq!(faults.faults().len(), 1, "{faults}");
    let fault = &faults.faults()[0];
    assert_eq!(fault.key, "versions");
    assert!(fault.reason.starts_with("chooses 66 versions, but at most 64 of a model are served; "), "{fault}");
}

#[test]
fn a_version_that_is_none_by_its_name_is_named_with_the_rule_where_there_is_no_other() {
    let found = faults(&[("m/01/model.onnx", Some("")), ("n/model.toml", Some(""))]);
    let none = "has no version: a folder named by a number, such as 1, with the file model.onnx";
    let rule = "'01' is passed over: versions are whole numbers from 1 without leading zeros; rename it to 1";
    assert_eq!(found, [format!("m: {none}; {rule}"), format!("n: {none}")]);
}

#[test]
fn the_newest_ready_version_stands_in_for_a_newer_that_failed() {
    let root = models(&[("m/model.toml", Some(DOUBLER)), ("m/1", None), ("m/2", None)]);
    let keys = Mutex::new(SlotMap::with_key());
    let install = Unproven(|model: &LoadedModel| match &*model.version {
        "2" => Err(Fault::new(FaultKind::Failed, "warm-up failed")),
        _ => Ok(keys.lock().insert(())),
    });
    let options = LoadOptions::new(EngineChoice::Auto, &[], true);
    let folder = Folder::new(root.path().to_owned());
    let registry = load_all(&[&folder], &options, &install).expect("asked to keep going");
    assert_eq!(&*registry.get("m", None).expect("version 1").loaded.version, "1");
    let fault = registry.get("m", Some("2")).expect_err("failed");
    assert!(fault.message().contains("warm-up failed"), "{fault}");
    let strict = LoadOptions { keep_going: false, ..options };
    let faults = load_all(&[&folder], &strict, &install).err().expect("one cannot be installed");
    assert!(faults.to_string().ends_with("m: warm-up failed"), "{faults}");
}

#[test]
fn nothing_is_installed_when_a_model_cannot_be_loaded() {
    let root = models(&[("bad/1", None), ("good/model.toml", Some(DOUBLER))]);
    let options = LoadOptions::new(EngineChoice::Auto, &[], false);
    let installed = Mutex::new(0);
    let install = Unproven(|_: &LoadedModel| {
        *installed.lock() += 1;
        Ok(ModelKey::default())
    });
    let loaded = load_all(&[&Folder::new(root.path().to_owned())], &options, &install);
    assert!(loaded.is_err());
    assert_eq!(*installed.lock(), 0);
}

#[test]
fn a_model_of_a_folder_replaces_the_embedded_one_of_its_name() {
    let root = models(&[("silero-vad/model.toml", Some(DOUBLER))]);
    let registry = load(&[&Embedded::SILERO_VAD, &Folder::new(root.path().to_owned())], false).expect("all good");
    let list = registry.list();
    assert_eq!((list.len(), list[0].engine, &*list[0].version), (1, "synthetic", "1"));
}

#[test]
fn versions_are_loading_until_they_are_settled() {
    let root = models(&[("m/model.toml", Some(DOUBLER))]);
    let registry = Registry::default();
    assert!(!registry.all_ready(), "an empty registry serves nothing");
    let options = LoadOptions::new(EngineChoice::Auto, &[], false);
    let seen = Mutex::new(None);
    let install = Unproven(|_: &LoadedModel| {
        *seen.lock() = Some((registry.list(), registry.get("m", None)));
        Ok(ModelKey::default())
    });
    load_into(&registry, &[&Folder::new(root.path().to_owned())], &options, &install).expect("all good");
    let (list, found) = seen.lock().take().expect("one model was installed");
    assert_eq!((list[0].state, &*list[0].description, list[0].engine), (ModelState::Loading, "doubles", ""));
    let fault = found.expect_err("still loading");
    assert_eq!((fault.kind(), fault.retry_after()), (FaultKind::Unavailable, Some(Duration::from_secs(1))));
    assert!(registry.all_ready());
}

#[test]
fn what_serves_goes_on_while_it_is_loaded_anew_and_a_stream_keeps_it_when_it_is_unloaded() {
    let root = models(&[("m/model.toml", Some(DOUBLER))]);
    let registry = load_folder(root.path(), false).expect("all good");
    let held = registry.get("m", None).expect("ready");
    registry.begin(&"m".into(), [(1, "", false)].into_iter());
    assert!(registry.get("m", None).is_ok() && registry.all_ready());
    let left = registry.unload("m", &"by hand".into()).expect("it is there");
    assert_eq!(left.len(), 1);
    let fault = registry.get("m", None).expect_err("unloaded");
    assert_eq!((fault.kind(), fault.message()), (FaultKind::Unavailable, "model 'm' was unloaded; load it again"));
    assert_eq!((registry.list()[0].state, &*registry.list()[0].reason), (ModelState::Unloaded, "by hand"));
    assert_eq!(held.signature().inputs.len(), 1);
}

#[test]
fn a_model_that_is_replaced_while_it_is_looked_up_is_looked_up_again() {
    let root = models(&[("m/model.toml", Some(DOUBLER))]);
    let registry = load_folder(root.path(), false).expect("all good");
    let mut keys: SlotMap<ModelKey, ()> = SlotMap::with_key();
    assert_eq!(keys.insert(()), registry.get("m", None).expect("ready").key, "the first key is taken");
    let mut asked = Vec::new();
    let (model, answer) = registry
        .get_with("m", None, |model| {
            asked.push(model.key);
            let next = Model { key: keys.insert(()), ..model.clone() };
            let replaced = asked.len() < 4;
            if replaced {
                registry.finish("m", vec![(1, Ok(Arc::new(next)))], |_, _, _| false);
            }
            (!replaced).then_some("an answer")
        })
        .expect("the last copy has an answer");
    assert_eq!((answer, asked.len(), model.key), ("an answer", 4, asked[3]));
    let fault = registry.get_with("m", None, |_| None::<()>).expect_err("it is not replaced");
    assert_eq!(fault.kind(), FaultKind::Unavailable);
}

#[test]
fn an_engine_that_is_not_there_is_named() {
    let manifest = "engine = 'onnxruntime'";
    let found = faults(&[("m/model.toml", Some(manifest)), ("m/1/model.onnx", Some("x"))]);
    // Where another test has loaded a library into this process, the engine is there, and the file is at fault.
    let library = engine_named("onnxruntime").expect("an engine").library().expect("it has one");
    let expected = if library.check().is_ok() { "not an ONNX model" } else { "the onnxruntime engine needs its library" };
    assert!(found[0].starts_with("m/1/model.onnx: ") && found[0].contains(expected), "{found:?}");
}
