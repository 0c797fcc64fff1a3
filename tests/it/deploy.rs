//! What is in `deploy/`: each setting that is named there exists and takes its value, and lets nobody in who is not known.

use std::{fs, io::ErrorKind, path::PathBuf, process::Command};

use tidemill::config::Config;

use crate::tidy::root;

fn text(name: &str) -> String {
    fs::read_to_string(root().join("deploy").join(name)).unwrap_or_else(|error| panic!("deploy/{name}: {error}"))
}

/// The variables of a file in YAML: `NAME: "value"`, or `name: NAME` with `value: "…"` on the next line.
fn variables(text: &str) -> Vec<(String, String)> {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let Some(begin) = line.find("TIDEMILL_") else { continue };
        let rest = &line[begin..];
        let end = rest.find(|letter: char| !letter.is_ascii_uppercase() && letter != '_').unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        let next = lines.get(at + 1).copied().unwrap_or_default();
        let value = after.strip_prefix(": ").or_else(|| next.strip_prefix("value: "));
        let value = value.unwrap_or_else(|| panic!("{name} has no value"));
        found.push((name.to_owned(), value.trim_matches('"').to_owned()));
    }
    found
}

/// The settings after `--set`.
fn flags(text: &str) -> Vec<(String, String)> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let given = words.windows(2).filter(|pair| pair[0] == "--set");
    given
        .map(|pair| {
            let (key, value) = pair[1].split_once('=').unwrap_or_else(|| panic!("{} has no value", pair[1]));
            (key.to_owned(), value.to_owned())
        })
        .collect()
}

/// That other machines may call, and only who is known, and nobody can listen.
fn assert_guarded(config: &Config, what: &str) {
    assert!(!config.server.grpc_addr.is_local(), "{what}: other machines call");
    assert!(config.unguarded().is_empty() && config.knows_callers(), "{what}: callers are known");
    assert!(config.tls.is_on(), "{what}: connections are encrypted");
}

#[test]
fn containers_and_pods_are_given_settings_that_exist() {
    for name in ["compose.yaml", "kubernetes.yaml"] {
        let variables = variables(&text(name));
        assert!(variables.len() > 4, "{name}: {variables:?}");
        let config = Config::resolve(None, variables.into_iter(), Vec::new()).unwrap_or_else(|faults| panic!("{name}: {faults}"));
        assert_guarded(&config, name);
    }
}

#[test]
fn the_service_is_given_settings_that_exist() {
    let unit = text("tidemill.service");
    let flags = flags(&unit);
    assert_eq!(flags.len(), 2, "{flags:?}");
    let file = root().join("deploy/tidemill.toml");
    let config = Config::resolve(Some(file.as_path()), std::iter::empty(), flags).unwrap_or_else(|faults| panic!("{faults}"));
    assert_guarded(&config, "tidemill.service");
    assert_eq!(config.tls.key, [PathBuf::from("%d/server.key")]);
    // The credentials that the flags name are those that the unit loads.
    for name in ["server.key", "keys.toml"] {
        assert!(unit.contains(&format!("LoadCredential={name}:/etc/tidemill/{name}\n")), "{name}");
        assert!(unit.contains(&format!("=%d/{name}")), "{name}");
    }
}

#[test]
fn five_lines_are_enough_for_the_internet_and_are_those_of_the_page() {
    let file = text("tidemill.toml");
    assert_eq!(file.lines().count(), 5);
    let path = root().join("deploy/tidemill.toml");
    let config =
        Config::resolve(Some(path.as_path()), std::iter::empty(), Vec::new()).unwrap_or_else(|faults| panic!("{faults}"));
    assert_guarded(&config, "tidemill.toml");
    for addr in [config.server.http_addr, config.server.admin_addr] {
        assert!(addr.is_local(), "{addr} is for this machine alone");
    }
    let page = fs::read_to_string(root().join("docs/security.md")).expect("the page");
    assert!(page.contains(&format!("```toml\n{file}```")), "docs/security.md shows other lines than deploy/tidemill.toml");
}

/// Says so and checks nothing if `systemd-analyze` is not installed.
#[test]
fn systemd_finds_nothing_to_complain_about() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("tidemill.service");
    let unit = text("tidemill.service").replace("/usr/local/bin/tidemill", env!("CARGO_BIN_EXE_tidemill"));
    fs::write(&path, unit).expect("room");
    let analyze = |arguments: &[&str]| Command::new("systemd-analyze").args(arguments).arg(&path).output();
    let verified = match analyze(&["verify", "--man=no"]) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            eprintln!("systemd-analyze is not installed; the unit was not checked with it");
            return;
        }
        done => done.expect("systemd-analyze starts"),
    };
    let complaints = String::from_utf8_lossy(&verified.stderr);
    assert!(verified.status.success() && !complaints.contains("tidemill.service"), "{complaints}");
    // In tenths: at most 2.0 of 10.
    let rated = analyze(&["security", "--offline=true", "--threshold=20"]).expect("systemd-analyze starts");
    assert!(rated.status.success(), "{}", String::from_utf8_lossy(&rated.stdout));
}
