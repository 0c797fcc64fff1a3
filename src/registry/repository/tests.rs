//! Folders that change, and a host that keeps count.

use std::{collections::BTreeSet, fs, path::Path, sync::Weak};

use slotmap::SlotMap;
use tempfile::TempDir;

use super::*;
use crate::{
    engine::Executable,
    registry::{Embedded, Folder, Measured, Place},
};

const DOUBLER: &str = "
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

/// Runs nothing. A model whose description is "cannot run" is not installed.
#[derive(Clone, Default)]
struct Ledger {
    inner: Arc<Mutex<Inside>>,
}

#[derive(Default)]
struct Inside {
    keys: SlotMap<ModelKey, (String, Weak<Executable>)>,
    installed: Vec<String>,
    retired: Vec<String>,
    /// Whose models still have streams after they were retired.
    busy: BTreeSet<String>,
    loads: Vec<(String, bool, bool)>,
    registry: Option<Arc<Registry>>,
}

impl Installer for Ledger {
    fn prove(&self, _: &mut LoadedModel, _: Place<'_>) -> Result<Measured, Fault> {
        Ok(Measured::nothing())
    }

    fn wide_gain(&self, _: &LoadedModel) -> Option<f64> {
        None
    }

    fn install(&self, model: &LoadedModel, _: &Measured) -> Result<ModelKey, Fault> {
        if &*model.description == "cannot run" {
            return Err(Fault::new(FaultKind::Failed, "a trial call failed"));
        }
        let mut inside = self.inner.lock();
        let label = format!("{} {}", model.name, model.version);
        inside.installed.push(label.clone());
        Ok(inside.keys.insert((label, Arc::downgrade(&model.executable))))
    }
}

impl Host for Ledger {
    fn retire(&self, key: ModelKey) {
        let mut inside = self.inner.lock();
        let (label, _) = inside.keys[key].clone();
        let registry = inside.registry.clone().expect("the fixture sets it");
        let (name, version) = label.split_once(' ').expect("two words");
        let found = registry.get(name, Some(version));
        assert_ne!(found.ok().map(|model| model.key), Some(key), "no new stream may find what is retired");
        if !inside.busy.contains(name) {
            inside.keys.remove(key);
        }
        inside.retired.push(label);
    }

    fn holds(&self, key: ModelKey) -> bool {
        self.inner.lock().keys.contains_key(key)
    }

    fn count_load(&self, name: &str, version: &str, loaded: bool, serves: bool) {
        self.inner.lock().loads.push((format!("{name} {version}"), loaded, serves));
    }
}

struct Fixture {
    root: TempDir,
    ledger: Ledger,
    repository: Repository,
}

impl Fixture {
    /// A repository of a folder with these files, loaded; a text of none makes a folder.
    async fn new(files: &[(&str, Option<&str>)]) -> Self {
        Self::of(files, Vec::new()).await
    }

    async fn of(files: &[(&str, Option<&str>)], mut sources: Vec<Box<dyn ModelSource>>) -> Self {
        let root = tempfile::tempdir().expect("a temporary folder");
        for (path, content) in files {
            put(root.path(), path, *content);
        }
        let ledger = Ledger::default();
        sources.push(Box::new(Folder::new(root.path().to_owned())));
        let host = Box::new(ledger.clone());
        let repository = Repository::new(sources, EngineChoice::Auto, vec![LaneThreads::new()], host, Store::none());
        ledger.inner.lock().registry = Some(Arc::clone(repository.registry()));
        let starting = repository.clone();
        let started = tokio::task::spawn_blocking(move || starting.start(true)).await.expect("no panic");
        assert_eq!(started, Ok(()));
        Self { root, ledger, repository }
    }

    fn put(&self, path: &str, content: Option<&str>) {
        put(self.root.path(), path, content);
    }

    fn remove(&self, path: &str) {
        fs::remove_dir_all(self.root.path().join(path)).expect("a folder");
    }

    /// `name version state`, and the reason if there is one.
    async fn index(&self) -> Vec<String> {
        self.repository.index(false).await.into_iter().map(|entry| self.line(&entry)).collect()
    }

    fn line(&self, IndexEntry { name, version, state, reason }: &IndexEntry) -> String {
        let reason = reason.replace(&format!("{}/", self.root.path().display()), "");
        format!("{name} {version} {state:?} {reason}").trim().to_owned()
    }

    /// The versions that serve.
    fn serving(&self) -> Vec<String> {
        let list = self.repository.registry().list().into_iter();
        list.filter(|status| status.state == ModelState::Ready)
            .map(|status| format!("{} {}", status.name, status.version))
            .collect()
    }

    /// What was installed and retired since it was last asked.
    fn done(&self) -> (Vec<String>, Vec<String>) {
        let mut inside = self.ledger.inner.lock();
        (std::mem::take(&mut inside.installed), std::mem::take(&mut inside.retired))
    }

    fn key(&self, name: &str) -> ModelKey {
        self.repository.registry().get(name, None).expect("it serves").key
    }

    async fn refresh(&self) -> (usize, usize, usize) {
        let Refreshed { loaded, failed, retired } = self.repository.refresh().await.expect("no panic");
        (loaded, failed, retired)
    }
}

fn put(root: &Path, path: &str, content: Option<&str>) {
    let path = root.join(path);
    match content {
        Some(content) => {
            fs::create_dir_all(path.parent().expect("below the root")).expect("a folder");
            fs::write(path, content).expect("a file");
        }
        None => fs::create_dir_all(path).expect("a folder"),
    }
}

/// What a fixture did: installed, retired.
fn done(installed: &[&str], retired: &[&str]) -> (Vec<String>, Vec<String>) {
    let owned = |labels: &[&str]| labels.iter().map(|label| (*label).to_owned()).collect();
    (owned(installed), owned(retired))
}

fn doubler(more: &str) -> String {
    format!("{more}\n{DOUBLER}")
}

#[tokio::test]
async fn a_model_is_loaded_beside_itself_and_replaced_in_one_change() {
    let fixture = Fixture::new(&[("m/model.toml", Some(DOUBLER)), ("m/1", None), ("m/2", None)]).await;
    let (old, _) = (fixture.repository.registry().get("m", None).expect("it serves"), fixture.done());
    let executable = Arc::downgrade(&old.loaded.executable);
    let mut changes = fixture.repository.registry().changes();
    changes.mark_unchanged();
    fixture.repository.load("m").await.expect("all good");
    assert!(changes.has_changed().expect("the registry lives"));
    assert_ne!(fixture.key("m"), old.key);
    assert_eq!(fixture.done(), done(&["m 1", "m 2"], &["m 1", "m 2"]));
    assert_eq!(executable.strong_count(), 1, "only the stream that opened it holds the old copy");
    drop(old);
    assert_eq!(executable.strong_count(), 0);
    assert_eq!(fixture.ledger.inner.lock().keys.len(), 2);
}

#[tokio::test]
async fn only_what_has_changed_is_loaded_when_the_folder_is_looked_through() {
    let file = "engine = 'rten'";
    let fixture = Fixture::new(&[
        ("m/model.toml", Some(DOUBLER)),
        ("m/1/model.onnx", Some("not read")),
        ("m/2/model.onnx", Some("not read")),
        ("bad/model.toml", Some(file)),
        ("bad/1/model.onnx", Some("half")),
    ])
    .await;
    fixture.done();
    assert_eq!(fixture.refresh().await, (0, 0, 0), "what failed is tried again when it has changed");
    fixture.put("m/2/model.onnx", Some("another"));
    assert_eq!(fixture.refresh().await, (1, 0, 1));
    assert_eq!(fixture.done(), done(&["m 2"], &["m 2"]));
    fixture.put("m/3", None);
    assert_eq!(fixture.refresh().await, (1, 0, 0));
    fixture.put("m/model.toml", Some(&doubler("max_batch = 2")));
    assert_eq!(fixture.refresh().await, (3, 0, 3));
    fixture.put("bad/1/model.onnx", Some("another half"));
    assert_eq!(fixture.refresh().await, (0, 1, 0));
    fixture.put("new/model.toml", Some(DOUBLER));
    fixture.remove("m/1");
    assert_eq!(fixture.refresh().await, (1, 0, 1));
    assert_eq!(fixture.serving(), ["m 2", "m 3", "new 1"]);
    fixture.put("new/trial.json", Some(r#"[{"x": [1, 2, 3, 4]}]"#));
    fixture.put("new/model.toml", Some(&doubler("trial.file = 'trial.json'")));
    assert_eq!(fixture.refresh().await, (1, 0, 1));
    fixture.put("new/trial.json", Some(r#"[{"x": [1, 2, 3, 4]}, {"x": [9, 9, 9, 9]}]"#));
    assert_eq!(fixture.refresh().await, (1, 0, 1), "trial items are part of a model");
    assert_eq!(fixture.refresh().await, (0, 0, 0));
    fixture.remove("m");
    fixture.remove("bad");
    assert_eq!(fixture.refresh().await, (0, 0, 2));
    assert_eq!(fixture.index().await, ["new 1 Ready"]);
    let fault = fixture.repository.registry().get("m", None).expect_err("it is gone");
    assert_eq!(fault.kind(), FaultKind::NotFound);
}

#[tokio::test]
async fn a_version_that_cannot_be_loaded_leaves_the_old_one_serving_and_says_why() {
    let fixture = Fixture::new(&[("m/model.toml", Some(DOUBLER))]).await;
    let key = fixture.key("m");
    fixture.put("m/model.toml", Some("max_batch = 0"));
    for _ in 0..2 {
        let fault = fixture.repository.load("m").await.expect_err("a broken manifest");
        assert_eq!(fault.kind(), FaultKind::Failed);
        assert!(fault.message().contains("model.toml: max_batch: is 0"), "{fault}");
    }
    assert_eq!(fixture.key("m"), key);
    assert!(fixture.index().await.contains(&"m 1 Ready".to_owned()), "nothing is known of its versions");
    fixture.put("m/model.toml", Some(&doubler("description = 'cannot run'")));
    assert!(fixture.repository.load("m").await.is_err());
    assert_eq!((fixture.key("m"), fixture.index().await), (key, vec!["m 1 Ready m: a trial call failed".to_owned()]));
    fixture.put("m/model.toml", Some(DOUBLER));
    assert_eq!(fixture.refresh().await, (1, 0, 1));
    assert_eq!(fixture.index().await, ["m 1 Ready"]);
    let loads = std::mem::take(&mut fixture.ledger.inner.lock().loads);
    let of_version = loads.into_iter().filter(|(label, ..)| label == "m 1").map(|(_, loaded, serves)| (loaded, serves));
    assert_eq!(of_version.collect::<Vec<_>>(), [(true, true), (false, true), (true, true)]);
}

#[tokio::test]
async fn a_version_goes_only_when_those_that_take_its_place_serve() {
    let latest = doubler("versions = 'latest'");
    let fixture = Fixture::new(&[("m/model.toml", Some(&latest)), ("m/1", None)]).await;
    fixture.put("m/2", None);
    fixture.put("m/model.toml", Some(&format!("description = 'cannot run'\n{latest}")));
    assert_eq!(fixture.refresh().await, (0, 1, 0));
    assert_eq!(fixture.index().await, ["m 1 Ready", "m 2 Failed m: a trial call failed"]);
    fixture.remove("m/1");
    assert_eq!(fixture.refresh().await, (0, 0, 0), "its files are gone, but nothing else serves");
    assert_eq!(fixture.serving(), ["m 1"]);
    fixture.put("m/model.toml", Some(&latest));
    assert_eq!(fixture.refresh().await, (1, 0, 1));
    assert_eq!(fixture.index().await, ["m 2 Ready"]);
    fixture.put("m/model.toml", Some(&doubler("versions = [2, 3]")));
    fixture.put("m/1", None);
    assert_eq!(fixture.refresh().await, (1, 1, 1));
    let index = fixture.index().await;
    assert_eq!(index[0], "m 1 Unloaded is in the folder but is left out by the manifest's versions");
    assert!(index[2].starts_with("m 3 Failed m/model.toml: versions: lists version 3"), "{index:?}");
    fixture.put("m/3", None);
    assert_eq!(fixture.refresh().await, (1, 0, 0), "it was missing and has come");
}

#[tokio::test]
async fn what_is_unloaded_stays_so_until_it_is_loaded_by_hand() {
    let fixture = Fixture::new(&[("m/model.toml", Some(DOUBLER)), ("n/model.toml", Some(DOUBLER))]).await;
    fixture.repository.unload("m").await.expect("it is there");
    fixture.repository.unload("m").await.expect("once more does nothing");
    assert_eq!(fixture.done().1, ["m 1"]);
    let fault = fixture.repository.registry().get("m", None).expect_err("unloaded");
    assert_eq!((fault.kind(), fault.message()), (FaultKind::Unavailable, "model 'm' was unloaded; load it again"));
    fixture.put("m/2", None);
    assert_eq!(fixture.refresh().await, (0, 0, 0));
    assert_eq!(fixture.index().await, ["m 1 Unloaded unloaded", "m 2 Unloaded is in the folder but was not loaded", "n 1 Ready"]);
    let ready: Vec<String> = fixture.repository.index(true).await.iter().map(|entry| fixture.line(entry)).collect();
    assert_eq!(ready, ["n 1 Ready"]);
    fixture.repository.load("m").await.expect("its folder is there");
    assert_eq!(fixture.index().await, ["m 2 Ready", "n 1 Ready"], "version 1 never had a folder");
    fixture.repository.unload("m").await.expect("it is there");
    fixture.remove("m");
    assert_eq!(fixture.refresh().await, (0, 0, 0));
    assert_eq!(fixture.index().await, ["n 1 Ready"], "what is gone is not even unloaded");
}

#[tokio::test]
async fn a_model_that_still_has_streams_is_unloading() {
    let fixture = Fixture::new(&[("m/model.toml", Some(DOUBLER)), ("n/model.toml", Some(DOUBLER))]).await;
    fixture.ledger.inner.lock().busy.extend(["m".to_owned(), "n".to_owned()]);
    fixture.repository.unload("m").await.expect("it is there");
    fixture.remove("n");
    fixture.refresh().await;
    let open = "Unloading its last streams are open";
    assert_eq!(fixture.index().await, [format!("m 1 {open}"), format!("n 1 {open}")]);
    fixture.ledger.inner.lock().keys.clear();
    assert_eq!(fixture.index().await, ["m 1 Unloaded unloaded"]);
}

#[tokio::test]
async fn what_no_source_has_cannot_be_loaded_or_unloaded() {
    let fixture = Fixture::new(&[("m/model.toml", Some(DOUBLER)), ("bad name/1", None)]).await;
    let fault = fixture.repository.load("x").await.expect_err("nobody has it");
    assert_eq!(fault.kind(), FaultKind::NotFound);
    assert_eq!(fixture.repository.unload("x").await.expect_err("nobody has it").kind(), FaultKind::NotFound);
    let fault = fixture.repository.load("bad name").await.expect_err("no model has such a name");
    assert!(fault.kind() == FaultKind::Failed && fault.message().contains("its name holds ' '"), "{fault}");
    fixture.remove("m");
    assert_eq!(fixture.repository.load("m").await.expect_err("it is gone").kind(), FaultKind::NotFound);
    assert_eq!(fixture.serving(), ["m 1"], "a load that fails takes nothing out of service");
}

#[tokio::test]
async fn models_stay_when_their_folder_cannot_be_looked_through() {
    let fixture = Fixture::new(&[("m/model.toml", Some(DOUBLER)), ("n/model.toml", Some(DOUBLER))]).await;
    for version in 1..=65 {
        fixture.put(&format!("m/{version}"), None);
    }
    let reason = "m/model.toml: versions: chooses 65 versions, but at most 64 of a model are served; \
                  choose fewer, for example with versions = { latest = 64 }";
    assert_eq!(fixture.refresh().await, (0, 1, 0));
    let listed = fixture.index().await;
    assert_eq!((listed.len(), &listed[..2]), (67, [format!("m  Failed {reason}"), "m 1 Ready".to_owned()].as_slice()));
    assert_eq!(fixture.refresh().await, (0, 0, 0), "it is not tried again before it has changed");
    let fault = fixture.repository.load("m").await.expect_err("too many");
    assert!(fault.message().contains("chooses 65 versions"), "{fault}");
    for version in 2..=65 {
        fixture.remove(&format!("m/{version}"));
    }
    assert_eq!(fixture.refresh().await, (1, 0, 1));
    assert_eq!(fixture.index().await, ["m 1 Ready", "n 1 Ready"]);
    fs::rename(fixture.root.path(), fixture.root.path().with_extension("away")).expect("it can be moved");
    assert_eq!(fixture.refresh().await, (0, 0, 0));
    assert!(fixture.repository.load("n").await.expect_err("it cannot be seen").message().contains("cannot be listed"));
    assert_eq!(fixture.index().await, ["m 1 Ready", "n 1 Ready"]);
    fs::rename(fixture.root.path().with_extension("away"), fixture.root.path()).expect("it can be moved back");
    assert_eq!(fixture.refresh().await, (0, 0, 0), "nothing has changed");
}

#[tokio::test]
async fn the_model_inside_the_binary_takes_over_when_the_folder_has_none_of_its_name() {
    let folder = [("silero-vad/model.toml", Some(DOUBLER))];
    let fixture = Fixture::of(&folder, vec![Box::new(Embedded::SILERO_VAD)]).await;
    assert_eq!(fixture.serving(), ["silero-vad 1"]);
    fixture.remove("silero-vad");
    assert_eq!(fixture.refresh().await, (1, 0, 1));
    assert_eq!(fixture.serving(), ["silero-vad 6"]);
    assert_eq!(fixture.refresh().await, (0, 0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_come_one_at_a_time_and_are_made_though_nobody_waits_for_them() {
    let fixture = Fixture::new(&[("m/model.toml", Some(DOUBLER)), ("n/model.toml", Some(DOUBLER))]).await;
    fixture.done();
    let changes = (0..20).map(|number| {
        let repository = fixture.repository.clone();
        tokio::spawn(async move {
            match number % 4 {
                0 => repository.unload("m").await,
                1 => repository.refresh().await.map(|_| ()),
                _ => repository.load("m").await,
            }
        })
    });
    for change in changes.collect::<Vec<_>>() {
        change.await.expect("no panic").expect("each can be made, whatever came before");
    }
    fixture.repository.load("m").await.expect("all good");
    let mut seen = fixture.repository.registry().changes();
    seen.mark_unchanged();
    {
        let unload = fixture.repository.unload("m");
        tokio::pin!(unload);
        // On a busy machine it may have ended by now; if not, nobody waits for it.
        let _ = futures::poll!(unload.as_mut());
    }
    seen.changed().await.expect("the registry lives");
    assert_eq!(fixture.serving(), ["n 1"]);
    fixture.refresh().await;
    let inside = fixture.ledger.inner.lock();
    let first = 1;
    assert_eq!((inside.keys.len(), inside.installed.len() + first), (1, inside.retired.len()));
}
