//! `tidemill tls`: certificates for trying out encryption. Needs no server.

use std::{
    fmt::{self, Write as _},
    fs::{self, File, OpenOptions},
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use serde::Serialize;
use time::OffsetDateTime;

use super::{output::Printer, printed::Record, status::Failure};

const HELP: &str = help!(
    "\
Examples:
  tidemill tls self-signed ./tls                       for this machine alone
  tidemill tls self-signed ./tls --host models.lan     and for clients that call it models.lan
  tidemill serve --set tls.cert=tls/server.pem --set tls.key=tls/server.key
  tidemill health --addr https://localhost:50051 --ca tls/ca.pem"
);

const DAY_SECONDS: i64 = 86_400;

/// The longest that common platforms accept for a server.
const DAYS_MAX: u16 = 825;

/// Make certificates for trying out encryption
#[derive(Debug, Args)]
pub struct TlsCommandArgs {
    #[command(subcommand)]
    command: TlsCommand,
}

#[derive(Debug, Subcommand)]
enum TlsCommand {
    SelfSigned(SelfSignedArgs),
}

/// Make an authority, and certificates of a server and a client
///
/// Writes ca.pem, server.pem, server.key, client.pem and client.key, for development and tests. The authority's own key is kept nowhere,
/// so nobody can ever issue another certificate that clients of ca.pem would trust. Nothing is overwritten.
#[derive(Debug, Args)]
#[command(after_long_help = HELP)]
struct SelfSignedArgs {
    /// Folder to write to; it is made if it is not there
    #[arg(value_name = "DIR")]
    folder: PathBuf,

    /// Name or address by which clients call the server, besides localhost, 127.0.0.1 and ::1; may be given several times
    #[arg(long, value_name = "HOST")]
    host: Vec<String>,

    /// Days until all of them expire
    #[arg(long, value_name = "DAYS", default_value_t = 365, value_parser = clap::value_parser!(u16).range(1..=i64::from(DAYS_MAX)))]
    days: u16,

    /// Print one JSON object on standard output, errors included
    #[arg(long)]
    json: bool,
}

/// What was made: `{"certificates":{..}}`.
#[derive(Debug, Serialize)]
struct CertificatesRecord {
    folder: String,
    files: Vec<&'static str>,
    hosts: Vec<String>,
    days: u16,
}

impl TlsCommandArgs {
    pub(super) const fn wants_json(&self) -> bool {
        let TlsCommand::SelfSigned(args) = &self.command;
        args.json
    }
}

pub(super) fn run(args: &TlsCommandArgs, printer: &mut Printer) -> Result<(), Failure> {
    let TlsCommand::SelfSigned(SelfSignedArgs { folder, host, days, .. }) = &args.command;
    let hosts: Vec<String> =
        ["localhost", "127.0.0.1", "::1"].map(str::to_owned).into_iter().chain(host.iter().cloned()).collect();
    let now = i64::try_from(tidemill_clock::since_epoch(tidemill_clock::now()).as_secs()).unwrap_or_default();
    let made = certificates(&hosts, now, *days).map_err(|error| Failure::BadInput(format!("no certificates: {error}")))?;
    write_all(folder, &made)?;
    let files = made.iter().map(|file| file.name).collect();
    printer.print(&CertificatesRecord { folder: folder.display().to_string(), files, hosts, days: *days })
}

/// A file that is to be written.
struct Made {
    name: &'static str,
    text: String,
    is_secret: bool,
}

fn certificates(hosts: &[String], now: i64, days: u16) -> Result<[Made; 5], rcgen::Error> {
    let moment = |seconds| OffsetDateTime::from_unix_timestamp(seconds).map_err(|_| rcgen::Error::Time);
    // A day back, as clocks differ.
    let (begins, ends) = (moment(now - DAY_SECONDS)?, moment(now + i64::from(days) * DAY_SECONDS)?);
    let params = |hosts: &[String], name: &str| -> Result<CertificateParams, rcgen::Error> {
        let mut params = CertificateParams::new(hosts)?;
        (params.not_before, params.not_after) = (begins, ends);
        params.distinguished_name.push(DnType::CommonName, name);
        Ok(params)
    };
    let mut authority = params(&[], "Tidemill development authority")?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate()?;
    let ca = authority.self_signed(&key)?.pem();
    let issuer = Issuer::new(authority, key);
    let issue = |hosts: &[String], name: &str, purpose| -> Result<(String, String), rcgen::Error> {
        let mut params = params(hosts, name)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![purpose];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        Ok((params.signed_by(&key, &issuer)?.pem(), key.serialize_pem()))
    };
    let (server, server_key) = issue(hosts, "Tidemill development server", ExtendedKeyUsagePurpose::ServerAuth)?;
    let (client, client_key) = issue(&["client".to_owned()], "Tidemill development client", ExtendedKeyUsagePurpose::ClientAuth)?;
    let public = |name, text| Made { name, text, is_secret: false };
    let secret = |name, text| Made { name, text, is_secret: true };
    Ok([
        public("ca.pem", ca),
        public("server.pem", server),
        secret("server.key", server_key),
        public("client.pem", client),
        secret("client.key", client_key),
    ])
}

/// Writes all files, or says which is in the way before it writes any.
fn write_all(folder: &Path, made: &[Made]) -> Result<(), Failure> {
    let cannot = |path: &Path, error: &dyn fmt::Display| Failure::BadInput(format!("cannot write '{}': {error}", path.display()));
    fs::create_dir_all(folder).map_err(|error| cannot(folder, &error))?;
    for Made { name, .. } in made {
        let path = folder.join(name);
        if path.symlink_metadata().is_ok() {
            return Err(cannot(&path, &"it is there already, and nothing is overwritten; name another folder"));
        }
    }
    for Made { name, text, is_secret } in made {
        let path = folder.join(name);
        let mode = if *is_secret { 0o600 } else { 0o644 };
        let create = || OpenOptions::new().write(true).create_new(true).mode(mode).open(&path);
        let write = |mut file: File| file.write_all(text.as_bytes());
        create().and_then(write).map_err(|error| cannot(&path, &error))?;
    }
    Ok(())
}

impl fmt::Display for CertificatesRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { folder, files, hosts, days } = self;
        let mut list = String::new();
        for name in files {
            let _ = write!(list, "\n  {folder}/{name}");
        }
        write!(f, "for {}, for {days} days, for development only:{list}", hosts.join(", "))
    }
}

impl Record for CertificatesRecord {
    const KIND: &'static str = "certificates";
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use tidemill_client::Tls;

    use super::*;

    #[test]
    fn what_is_made_fits_together_is_written_once_and_keys_are_for_their_owner() {
        let folder = tempfile::tempdir().expect("a folder");
        let made = certificates(&["localhost".to_owned(), "::1".to_owned()], 1_700_000_000, 30).expect("certificates");
        let folder = folder.path().join("new");
        write_all(&folder, &made).expect("an empty folder");
        let read = |name: &str| fs::read(folder.join(name)).expect("a file");
        for name in ["server", "client"] {
            let identity = Some((read(&format!("{name}.pem")), read(&format!("{name}.key"))));
            let tls = Tls { authorities: Some(read("ca.pem")), identity, ..Tls::default() };
            assert!(tls.connector(&["h2"]).is_ok());
            let mode = fs::metadata(folder.join(format!("{name}.key"))).expect("a file").permissions().mode();
            assert_eq!(mode & 0o077, 0, "nobody else may read a key");
        }
        let refused = write_all(&folder, &made).expect_err("they are there").to_string();
        assert!(refused.contains("ca.pem': it is there already"), "{refused}");
    }

    #[test]
    fn a_host_that_is_none_is_refused() {
        assert!(certificates(&["not a host \u{e9}".to_owned()], 1_700_000_000, 30).is_err());
    }
}
