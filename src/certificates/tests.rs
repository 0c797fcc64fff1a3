//! Certificates that change while a server runs.

use std::{fs, path::Path};

use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use tempfile::TempDir;
use tokio::time::sleep;

use super::*;

/// A certificate for this host that expires at the beginning of that year, and its key, in PEM.
fn pair(host: &str, year: i32) -> (String, String) {
    let mut params = CertificateParams::new(vec![host.to_owned()]).expect("a name");
    params.not_before = date_time_ymd(2000, 1, 1);
    params.not_after = date_time_ymd(year, 1, 1);
    let key = KeyPair::generate().expect("a key");
    (params.self_signed(&key).expect("a certificate").pem(), key.serialize_pem())
}

fn write(folder: &Path, (cert, key): &(String, String)) {
    fs::write(folder.join("cert.pem"), cert).expect("a file");
    fs::write(folder.join("key.pem"), key).expect("a file");
}

fn loaded(pair: &(String, String)) -> (Certificates, Telemetry, TempDir) {
    let folder = tempfile::tempdir().expect("a folder");
    write(folder.path(), pair);
    let (cert, key) = (vec![folder.path().join("cert.pem")], vec![folder.path().join("key.pem")]);
    let telemetry = Telemetry::new();
    let config = TlsConfig { cert, key, ..TlsConfig::default() };
    let certificates = Certificates::load(&config, &telemetry).expect("sound files").expect("there are certificates");
    (certificates, telemetry, folder)
}

fn reloads(telemetry: &Telemetry) -> [bool; 3] {
    let page = telemetry.render();
    let counted = |outcome, times| page.contains(&format!("tidemill_tls_reloads_total{{outcome=\"{outcome}\"}} {times}\n"));
    [counted("ok", 1), counted("failed", 1), counted("failed", 2)]
}

#[test]
fn a_pair_that_does_not_fit_changes_nothing_and_the_next_one_that_does_is_taken() {
    let (certificates, telemetry, folder) = loaded(&pair("a.example", 4000));
    let before = certificates.inner.current.lock().loaded.expires_at();
    let new = pair("a.example", 4001);
    fs::write(folder.path().join("cert.pem"), &new.0).expect("a file");
    certificates.reload();
    assert_eq!(certificates.inner.current.lock().loaded.expires_at(), before);
    assert_eq!(reloads(&telemetry), [false, true, false]);
    write(folder.path(), &new);
    certificates.reload();
    assert!(certificates.inner.current.lock().loaded.expires_at() > before);
    assert_eq!(reloads(&telemetry), [true, true, false]);
    write(folder.path(), &pair("a.example", 2001));
    certificates.reload();
    assert!(certificates.days() > 0.0, "one that has expired replaces none that has not");
    assert_eq!(reloads(&telemetry), [true, false, true]);
}

#[tokio::test(start_paused = true)]
async fn a_change_is_noticed_once_the_files_rest() {
    let (certificates, telemetry, folder) = loaded(&pair("a.example", 4000));
    write(folder.path(), &pair("b.example", 4002));
    let noticed = async {
        while !reloads(&telemetry)[0] {
            sleep(REST).await;
        }
    };
    tokio::select! {
        () = certificates.keep_fresh() => {}
        () = noticed => {}
    }
    assert_eq!(reloads(&telemetry), [true, false, false]);
}

#[test]
fn what_is_wrong_with_a_file_is_said_with_its_name() {
    let (certificates, _, folder) = loaded(&pair("a.example", 4000));
    let config = certificates.inner.config.clone();
    let told = || Loaded::read(&config).expect_err("a fault").to_string();
    let other = pair("a.example", 4000);
    fs::write(folder.path().join("key.pem"), &other.1).expect("a file");
    assert!(
        told().contains("cert.pem (tls.cert): does not go with the key in") && told().contains("key.pem (tls.key)"),
        "{}",
        told()
    );
    fs::write(folder.path().join("key.pem"), "no key").expect("a file");
    assert!(told().contains("key.pem (tls.key): holds no private key in PEM"), "{}", told());
    fs::write(folder.path().join("cert.pem"), "").expect("a file");
    assert!(told().contains("cert.pem (tls.cert): holds no certificate in PEM"), "{}", told());
    fs::remove_file(folder.path().join("cert.pem")).expect("it is there");
    assert!(told().contains("cert.pem (tls.cert): cannot be read: No such file"), "{}", told());
}
