//! Folders of models as people, tools and systems leave them: what is served, and what is said about the rest.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use tempfile::TempDir;
use tonic::transport::Endpoint;

use tidemill::{
    app::Server,
    config::Config,
    proto::health::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient},
};

use crate::{
    binary::Binary,
    serving::{DOUBLER, bare_config, folder_of, page, patiently, write},
    startup::one_operator,
};

/// A folder called "models" with these files: the model of an operator if the name ends in `.onnx`, otherwise the text.
fn laid_out(files: &[(&str, &str)]) -> (TempDir, PathBuf) {
    let root = tempfile::tempdir().expect("a temporary folder");
    let models = root.path().join("models");
    fs::create_dir(&models).expect("a folder");
    for (file, content) in files {
        match *content {
            "/" => fs::create_dir_all(models.join(file)).expect("a folder"),
            operator if file.ends_with("model.onnx") && !operator.contains(' ') => write(&models, file, &one_operator(operator)),
            text => write(&models, file, text.as_bytes()),
        }
    }
    (root, models)
}

/// What the binary says about such a folder: its exit code, the versions that are ready, and all lines.
struct Told {
    code: i32,
    ready: Vec<String>,
    log: String,
}

impl Told {
    /// Serves only this folder until it listens or gives up.
    fn of(models: &Path, flags: &[&str]) -> Self {
        let models = models.to_str().expect("a name in Unicode");
        let alone = ["--models", models, "--set", "models.embedded=false", "--set", "models.example=false"];
        let mut binary = Binary::serve(&[&alone, flags].concat());
        if !binary.line_of(&["listening", "could not start"]).contains("could not") {
            binary.terminate();
        }
        let code = binary.end();
        let log = binary.log.clone();
        assert!(!log.contains("panicked"), "{log}");
        let word = |line: &str, key: &str| -> String {
            let (_, rest) = line.split_once(key).unwrap_or_else(|| panic!("no {key} in {line:?}"));
            rest.split([' ', '"']).find(|word| !word.is_empty()).unwrap_or_default().to_owned()
        };
        let ready = log.lines().filter(|line| line.contains("model is ready"));
        let ready = ready.map(|line| format!("{} {}", word(line, "model="), word(line, "version="))).collect();
        Self { code, ready, log }
    }

    fn warnings(&self) -> Vec<&str> {
        self.log.lines().filter_map(|line| Some(line.split_once(" WARN ")?.1)).collect()
    }
}

const RULE: &str = "is passed over: versions are whole numbers from 1 without leading zeros; rename it to";

#[test]
fn folders_without_a_model_stop_no_other_and_are_named_once() {
    let (_root, models) = laid_out(&[
        ("m/1/model.onnx", "Neg"),
        ("lost+found", "/"),
        ("@eaDir", "/"),
        ("__MACOSX/1/._model.onnx", "a shadow of a file"),
        ("System Volume Information", "/"),
        ("docs/v1/index.html", "a manual"),
    ]);
    let told = Told::of(&models, &["--watch"]);
    assert_eq!((told.code, told.ready.as_slice()), (0, ["m 1".to_owned()].as_slice()), "{}", told.log);
    let warnings = told.warnings();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].ends_with(": @eaDir, System Volume Information, __MACOSX, docs, lost+found"), "{warnings:?}");
}

#[test]
fn versions_with_other_names_are_reported_with_the_rule() {
    for (name, number) in [("01", 1), ("0", 1), ("v1", 1), ("+1", 1), ("Version 3", 3)] {
        let (_root, models) = laid_out(&[(&format!("m/{name}/model.onnx"), "Neg")]);
        let told = Told::of(&models, &[]);
        assert_eq!(told.code, 2, "{}", told.log);
        assert!(
            told.log.contains("/m: has no version") && told.log.contains(&format!("'{name}' {RULE} {number}")),
            "{}",
            told.log
        );
    }
    let (_root, models) =
        laid_out(&[("m/1/model.onnx", "Neg"), ("m/02/model.onnx", "Neg"), ("n/model.toml", DOUBLER), ("n/v5", "/")]);
    let told = Told::of(&models, &[]);
    assert_eq!((told.code, told.ready.as_slice()), (0, ["m 1", "n 1"].map(str::to_owned).as_slice()), "{}", told.log);
    let warnings = told.warnings();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings[0].ends_with(&format!("models/m: '02' {RULE} 2")), "{warnings:?}");
    assert!(warnings[1].ends_with(&format!("models/n: 'v5' {RULE} 5")), "{warnings:?}");
}

#[test]
fn the_manifest_chooses_versions_before_they_are_counted() {
    let names: Vec<String> = (1..=66).map(|version| format!("m/{version}/model.onnx")).collect();
    let mut files: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "Neg")).collect();
    files.push(("m/model.toml", "versions = 'latest'"));
    let (_root, models) = laid_out(&files);
    let told = Told::of(&models, &[]);
    assert_eq!((told.code, told.ready.as_slice()), (0, ["m 66".to_owned()].as_slice()), "{}", told.log);
    assert!(told.warnings().is_empty(), "{}", told.log);
    write(&models, "m/model.toml", b"");
    let told = Told::of(&models, &[]);
    assert!(told.code == 2 && told.log.contains("m/model.toml: versions: chooses 66 versions, but at most 64"), "{}", told.log);
}

#[test]
fn the_folder_of_one_model_is_served_under_its_name_or_the_one_that_it_is_given() {
    for files in [[("model.onnx", "Neg"), ("lost+found", "/")], [("1/model.onnx", "Neg"), ("model.toml", "max_batch = 8")]] {
        let (_root, models) = laid_out(&files);
        let told = Told::of(&models, &[]);
        assert_eq!((told.code, told.ready.as_slice()), (0, ["models 1".to_owned()].as_slice()), "{}", told.log);
        assert!(told.warnings().is_empty() && told.log.contains("models.name (--model-name) gives it another"), "{}", told.log);
        let told = Told::of(&models, &["--model-name", "mine"]);
        assert_eq!((told.code, told.ready.as_slice()), (0, ["mine 1".to_owned()].as_slice()), "{}", told.log);
    }
    let (_root, models) = laid_out(&[("model.onnx", "Neg"), ("m/1/model.onnx", "Neg")]);
    let told = Told::of(&models, &[]);
    assert!(told.code == 2 && told.log.contains("and folders of models: m; move model.onnx into its own folder"), "{}", told.log);
    let (_root, models) = laid_out(&[("m/model.onnx", "Neg")]);
    let told = Told::of(&models, &[]);
    assert_eq!((told.code, told.ready.as_slice()), (0, ["m 1".to_owned()].as_slice()), "{}", told.log);
    let told = Told::of(&models, &["--model-name", "mine"]);
    assert!(told.code == 2 && told.log.contains("models.name cannot name it 'mine'"), "{}", told.log);
}

#[test]
fn a_pointer_in_place_of_a_file_is_known_whatever_the_engine() {
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n";
    for engine in ["rten", "onnxruntime"] {
        let manifest = format!("engine = '{engine}'");
        let (_root, models) = laid_out(&[("m/1/model.onnx", pointer), ("m/model.toml", &manifest)]);
        let told = Told::of(&models, &[]);
        assert_eq!(told.code, 2, "{}", told.log);
        assert!(
            told.log.contains("m/1/model.onnx: is a Git LFS pointer, not the file itself; run `git lfs pull`"),
            "{}",
            told.log
        );
    }
}

/// Whether the server is ready, according to HTTP and gRPC.
async fn health(server: &Server) -> (u16, ServingStatus) {
    let (status, _) = patiently(page(server.http_addr(), "/v2/health/ready")).await;
    let endpoint = Endpoint::from_shared(format!("http://{}", server.grpc_addr())).expect("an address");
    let mut client = HealthClient::new(endpoint.connect().await.expect("it accepts"));
    let expected = if status == 200 { ServingStatus::Serving } else { ServingStatus::NotServing };
    // A task keeps the health service in step, so the change may come a moment later.
    let mut watched = patiently(client.watch(HealthCheckRequest::default())).await.expect("it can be watched").into_inner();
    loop {
        let told = patiently(watched.message()).await.expect("no error").expect("the server lives").status();
        if told == expected {
            return (status, told);
        }
    }
}

fn config_of(models: &Path) -> Config {
    let mut config = bare_config();
    config.models.dir = Some(models.to_owned());
    config
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_any_model_is_not_ready_and_says_why() {
    for files in [[].as_slice(), &[("docs", "/")], &[("yolo.onnx", "Neg")]] {
        let (_root, models) = laid_out(files);
        let told = Told::of(&models, &[]);
        assert_eq!(told.code, 0, "{}", told.log);
        assert!(
            told.warnings().last().is_some_and(|line| line.contains("/models: no model is found here; looked for ")),
            "{}",
            told.log
        );
        let server = patiently(Server::start(config_of(&models))).await.expect("models may come later");
        let (status, body) = patiently(page(server.admin_addr(), "/readyz")).await;
        assert_eq!((status, body.trim()), (503, r#"{"status":"no_model"}"#));
        assert_eq!(health(&server).await, (503, ServingStatus::NotServing));
        write(&models, "m/1/model.onnx", &one_operator("Neg"));
        patiently(server.repository().load("m")).await.expect("nothing is wrong with it");
        assert_eq!(patiently(page(server.admin_addr(), "/readyz")).await.0, 200);
        assert_eq!(health(&server).await, (200, ServingStatus::Serving));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_whose_models_all_failed_is_not_ready_even_if_it_may_go_on_without_them() {
    let (_root, models) = laid_out(&[("m/1/model.onnx", "no model at all")]);
    let mut config = config_of(&models);
    config.models.allow_partial = true;
    let server = patiently(Server::start(config)).await.expect("it may go on without them");
    let (status, body) = patiently(page(server.admin_addr(), "/readyz")).await;
    assert!(status == 503 && body.contains(r#""status":"failed","model":"m""#), "{status} {body}");
    assert_eq!(health(&server).await, (503, ServingStatus::NotServing));
    write(&models, "m/1/model.onnx", &one_operator("Neg"));
    patiently(server.repository().refresh()).await.expect("no panic");
    assert_eq!(patiently(page(server.admin_addr(), "/readyz")).await.0, 200);
    assert_eq!(health(&server).await, (200, ServingStatus::Serving));
    patiently(server.repository().unload("m")).await.expect("it serves");
    assert_eq!(health(&server).await, (200, ServingStatus::Serving), "it was asked to unload it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_ignored_is_named_again_when_it_changes() {
    let (root, models) = laid_out(&[("m/model.toml", DOUBLER), ("docs", "/")]);
    let path = models.to_str().expect("a name in Unicode").to_owned();
    let mut binary = Binary::serve(&["--models", &path]);
    let warnings = tokio::task::spawn_blocking(move || {
        binary.addresses();
        let looked_through = |binary: &mut Binary| {
            binary.hang_up();
            binary.line("looked through the models");
        };
        looked_through(&mut binary);
        fs::create_dir(models.join("photos")).expect("a folder");
        looked_through(&mut binary);
        looked_through(&mut binary);
        fs::create_dir(models.join("m/01")).expect("a folder");
        looked_through(&mut binary);
        looked_through(&mut binary);
        binary.terminate();
        assert_eq!(binary.end(), 0);
        drop(root);
        let lines = binary.log.lines().filter_map(|line| Some(line.split_once(" WARN ")?.1.to_owned()));
        lines.collect::<Vec<String>>()
    });
    let warnings = warnings.await.expect("no panic");
    let ends = [": docs", ": docs, photos", "rename it to 1"];
    assert_eq!(warnings.len(), ends.len(), "{warnings:?}");
    for (line, end) in warnings.iter().zip(ends) {
        assert!(line.ends_with(end), "{line} does not end with {end}");
    }
}

/// Points the link elsewhere, in one step.
fn swap(link: &Path, target: &str) {
    let next = link.with_file_name(".next");
    symlink(target, &next).expect("a link");
    fs::rename(next, link).expect("it takes the place of the old link");
}

/// Waits until the models are these, `name description` each; every change of them wakes it.
async fn until_served(server: &Server, expected: &[&str]) {
    let mut changes = server.registry().changes();
    let served = || -> Vec<String> {
        let list = server.registry().list().into_iter();
        let ready = list.filter_map(|model| server.registry().get(&model.name, None).ok());
        ready.map(|model| format!("{} {}", model.loaded.name, model.loaded.description)).collect()
    };
    patiently(async {
        while served() != expected {
            changes.changed().await.expect("the registry lives");
        }
    })
    .await;
}

fn described(description: &str) -> String {
    format!("description = '{description}'\n{DOUBLER}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_to_the_folder_may_be_swapped_any_number_of_times() {
    let releases = folder_of(&[]);
    for release in ["v1", "v2", "v3"] {
        write(releases.path(), &format!("{release}/m/model.toml"), described(release).as_bytes());
    }
    // In the second half it is not the link itself that is swapped, but one that it leads through.
    let (current, through) = (releases.path().join("current"), releases.path().join("through"));
    symlink("v1", &current).expect("a link");
    symlink("current", &through).expect("a link");
    let mut config = config_of(&through);
    config.models.watch = true;
    let server = patiently(Server::start(config)).await.expect("nothing is wrong with it");
    until_served(&server, &["m v1"]).await;
    for release in ["v2", "v3", "v1", "v3"] {
        swap(&current, release);
        until_served(&server, &[&format!("m {release}")]).await;
    }
    swap(&through, "v2");
    until_served(&server, &["m v2"]).await;
    swap(&current, "v1");
    swap(&through, "current");
    until_served(&server, &["m v1"]).await;
    write(releases.path(), "v1/m/model.toml", described("written in place").as_bytes());
    until_served(&server, &["m written in place"]).await;
    fs::remove_file(&current).expect("a link");
    symlink("v3", &current).expect("a link");
    until_served(&server, &["m v3"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn links_in_the_folder_may_be_swapped_as_kubernetes_does() {
    let folder = folder_of(&[]);
    let models = folder.path().join("models");
    for release in ["1", "2", "3"] {
        write(&models, &format!("..2024_{release}/m/model.toml"), described(release).as_bytes());
        write(folder.path(), &format!("store/n{release}/model.toml"), described(release).as_bytes());
    }
    symlink("..2024_1", models.join("..data")).expect("a link");
    symlink("..data/m", models.join("m")).expect("a link");
    // A link in the folder that leads out of it, through one that is swapped outside.
    symlink("n1", folder.path().join("store/current")).expect("a link");
    symlink("../store/current", models.join("n")).expect("a link");
    let mut config = config_of(&models);
    config.models.watch = true;
    let server = patiently(Server::start(config)).await.expect("nothing is wrong with it");
    until_served(&server, &["m 1", "n 1"]).await;
    for (release, before) in [("2", "1"), ("3", "2"), ("1", "3")] {
        swap(&models.join("..data"), &format!("..2024_{release}"));
        until_served(&server, &[&format!("m {release}"), &format!("n {before}")]).await;
        swap(&folder.path().join("store/current"), &format!("n{release}"));
        until_served(&server, &[&format!("m {release}"), &format!("n {release}")]).await;
    }
    // The volume is cleaned up: the old folder goes once nothing points there.
    fs::remove_dir_all(models.join("..2024_3")).expect("a folder");
    write(&models, "..2024_1/m/model.toml", described("4").as_bytes());
    until_served(&server, &["m 4", "n 1"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_watch_each_call_follows_the_link_again() {
    let releases = folder_of(&[]);
    for release in ["v1", "v2", "v3"] {
        write(releases.path(), &format!("{release}/model.toml"), described(release).as_bytes());
    }
    let current = releases.path().join("current");
    symlink("v1", &current).expect("a link");
    let server = patiently(Server::start(config_of(&current))).await.expect("nothing is wrong with it");
    until_served(&server, &["current v1"]).await;
    for (release, by_call) in [("v2", false), ("v3", true), ("v1", false)] {
        swap(&current, release);
        if by_call {
            patiently(server.repository().load("current")).await.expect("nothing is wrong with it");
        } else {
            patiently(server.repository().refresh()).await.expect("no panic");
        }
        until_served(&server, &[&format!("current {release}")]).await;
    }
}
