//! Which server a command talks to, and how Ctrl-C ends the wait for it.
//!
//! Knows flags; `tidemill_client` knows how to connect.

use std::{
    convert::Infallible,
    fmt,
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
    str::FromStr,
};

use clap::Args;
use tidemill_client::{Address, Client, Credential, Settings, Tls};
use tokio_util::sync::CancellationToken;

use super::status::Failure;

/// The longest file that a key is read from.
const KEY_FILE_BYTES_MAX: u64 = 4_096;

/// Which server to talk to, and in which form to print; the same for all client commands.
#[derive(Debug, Args)]
pub(super) struct ConnectionArgs {
    /// Server to connect to: HOST:PORT, http://HOST:PORT, https://HOST:PORT if the port is encrypted, or unix:/PATH
    #[arg(long, value_name = "ADDRESS", env = "TIDEMILL_ADDR", default_value = "http://127.0.0.1:50051")]
    pub(super) addr: Address,

    /// Print one JSON object per line on standard output, errors included
    #[arg(long)]
    pub(super) json: bool,

    #[command(flatten)]
    tls: TlsArgs,

    #[command(flatten)]
    credential: KeyArgs,
}

/// How to connect to an encrypted port.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct TlsArgs {
    /// Encrypt the connection; an address with https://, --ca, --cert and --insecure say so too
    #[arg(long)]
    tls: bool,

    /// Trust the authorities in this file, in PEM, and no others [default: those that the system trusts]
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,

    /// Show the server the certificate in this file, in PEM
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,

    /// File of its key, in PEM
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,

    /// Talk to whoever is there, without asking whether the server's certificate can be trusted
    #[arg(long, conflicts_with = "ca")]
    insecure: bool,
}

impl TlsArgs {
    /// What the flags say; `None` if they say nothing, so that it depends on the address.
    ///
    /// # Errors
    /// If a file cannot be read, in words.
    pub fn read(&self) -> Result<Option<Tls>, String> {
        if *self == Self::default() {
            return Ok(None);
        }
        let read = |path: &PathBuf| fs::read(path).map_err(|error| format!("cannot read '{}': {error}", path.display()));
        let authorities = self.ca.as_ref().map(read).transpose()?;
        let identity = match (&self.cert, &self.key) {
            (Some(cert), Some(key)) => Some((read(cert)?, read(key)?)),
            _ => None,
        };
        Ok(Some(Tls { authorities, identity, insecure: self.insecure, host: None }))
    }
}

/// The key to show the server.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct KeyArgs {
    /// Key to show the server; other users may see a command line, but not the variable, nor what is in a file
    #[arg(long, value_name = "KEY", env = "TIDEMILL_API_KEY", hide_env_values = true)]
    api_key: Option<Unshown>,

    /// Show the key in this file, whatever --api-key says
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
}

/// Text that no message quotes. Any text will do, so that no complaint about a flag shows it.
#[derive(Clone, PartialEq, Eq)]
struct Unshown(String);

impl FromStr for Unshown {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Debug for Unshown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

impl KeyArgs {
    /// The key, if there is one. An empty variable is none.
    ///
    /// # Errors
    /// If the file cannot be read, or the text is no key, in words that do not quote it.
    pub fn read(&self) -> Result<Option<Credential>, String> {
        if let Some(path) = &self.api_key_file {
            let text = read_key(path).map_err(|error| format!("cannot read '{}': {error}", path.display()))?;
            let key =
                text.parse::<Credential>().map_err(|error| format!("what '{}' holds is no key: {error}", path.display()))?;
            return Ok(Some(key));
        }
        match &self.api_key {
            Some(Unshown(text)) if !text.is_empty() => {
                text.parse::<Credential>().map(Some).map_err(|error| format!("--api-key or TIDEMILL_API_KEY: {error}"))
            }
            _ => Ok(None),
        }
    }
}

fn read_key(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(KEY_FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > KEY_FILE_BYTES_MAX {
        return Err(io::Error::other(format!("it is longer than the {KEY_FILE_BYTES_MAX} bytes of a file with a key")));
    }
    Ok(text)
}

impl ConnectionArgs {
    /// Explains a connection that was lost, if it can.
    pub(super) async fn explained(&self, failure: Failure) -> Failure {
        match failure {
            Failure::Server(error) => Client::explained(error, &self.addr).await.into(),
            failure => failure,
        }
    }

    /// Connects.
    ///
    /// # Errors
    /// [`Failure::Server`] with what the operating system said, [`Failure::BadInput`] with a file that cannot be read or a text that is
    /// no key.
    pub(super) async fn connect(&self) -> Result<Client, Failure> {
        let user_agent = concat!("tidemill-cli/", env!("CARGO_PKG_VERSION")).to_owned();
        let tls = self.tls.read().map_err(Failure::BadInput)?;
        let credential = self.credential.read().map_err(Failure::BadInput)?;
        Ok(Client::connect_with(&self.addr, &Settings { user_agent, tls, credential, ..Settings::default() }).await?)
    }
}

/// Waits for `work`, or for Ctrl-C, which abandons it.
///
/// # Errors
/// [`Failure::Interrupted`] on Ctrl-C, otherwise those of `work`.
pub(super) async fn unless_interrupted<T>(
    interrupt: &CancellationToken,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    interrupt.run_until_cancelled(work).await.unwrap_or(Err(Failure::Interrupted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_comes_from_the_flag_or_a_file_and_is_never_shown() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("key");
        let args = |key: &str, file: Option<PathBuf>| KeyArgs { api_key: Some(Unshown(key.to_owned())), api_key_file: file };
        let header = |args: &KeyArgs| {
            let credential = args.read().expect("sound").expect("a key");
            credential.header().to_str().expect("text").to_owned()
        };
        assert_eq!(header(&args("tm_flag", None)), "Bearer tm_flag");
        fs::write(&file, "tm_file\n").expect("written");
        assert_eq!(header(&args("tm_flag", Some(file.clone()))), "Bearer tm_file");
        assert_eq!((args("", None).read(), KeyArgs::default().read()), (Ok(None), Ok(None)));
        assert!(!format!("{:?}", args("tm_flag", None)).contains("tm_flag"));

        let refused = |args: KeyArgs| args.read().expect_err("no key");
        let complaint = refused(args("two words", None));
        assert_eq!(complaint, "--api-key or TIDEMILL_API_KEY: a key must be one word of visible ASCII characters");
        fs::write(&file, "two words").expect("written");
        let complaint = refused(args("", Some(file.clone())));
        assert!(complaint.contains("key' holds is no key") && !complaint.contains("words"), "{complaint}");
        fs::write(&file, "k".repeat(4_097)).expect("written");
        assert!(refused(args("", Some(file))).contains("longer than the 4096 bytes"));
        assert!(refused(args("", Some("/nowhere/key".into()))).starts_with("cannot read '/nowhere/key': "));
    }
}
