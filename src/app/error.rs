//! Why the server did not start.

use std::{io, net::SocketAddr, path::PathBuf};

use crate::{certificates::CertificateFault, descriptors::TooFew, engine, registry};

/// What to do about ports that anybody could call.
const GUARD: &str = "say who may call with security.keys (`tidemill keys new NAME --file keys.toml` makes a file) or \
                     tls.client_auth = required, or let everybody ask for results with security.allow_anonymous = true";

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A port cannot be bound.
    #[error("cannot listen on {address} ({key}): {error}; is another server running there? Port 0 takes any free one")]
    Bind {
        /// The configuration key.
        key: &'static str,
        /// The address.
        address: SocketAddr,
        /// The system's error.
        error: io::Error,
    },
    /// A Unix socket cannot be made.
    #[error("cannot listen on unix:{path} ({key}): {error}")]
    Socket {
        /// The configuration key.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What is in the way, or the system's error.
        error: io::Error,
    },
    /// Anybody could call it.
    #[error("{0}; {GUARD}")]
    Unguarded(String),
    /// The callers cannot be read.
    #[error("cannot read the callers in {path} (security.keys): {reason}")]
    Keys {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The keys of an issuer of tokens cannot be read.
    #[error("cannot read the keys in {place} (security.jwks): {reason}")]
    Issuer {
        /// The file or URL.
        place: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The file to record in cannot be created.
    #[error("cannot record in {path} (scheduler.record): {error}")]
    Record {
        /// The file.
        path: PathBuf,
        /// The system's error.
        error: io::Error,
    },
    /// What should be recorded in is not a regular file.
    #[error(
        "cannot record in {path} (scheduler.record): it is {kind}, which may take nothing or block the writer; name a regular file"
    )]
    RecordKind {
        /// What is there.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// Certificates cannot be used.
    #[error("{0}")]
    Certificates(#[from] CertificateFault),
    /// The system lets the process open too few files.
    #[error(transparent)]
    Descriptors(#[from] TooFew),
    /// The engine's library cannot be loaded.
    #[error(transparent)]
    Engine(#[from] engine::EngineError),
    /// Models cannot be loaded.
    #[error(transparent)]
    Models(#[from] registry::LoadFaults),
    /// The models' folder cannot be watched.
    #[error("cannot watch {path} (models.watch): {error}")]
    Watch {
        /// The folder.
        path: PathBuf,
        /// Why it cannot be watched.
        error: registry::WatchError,
    },
    /// There is no folder to watch.
    #[error("models.watch is set, but models.dir names no folder to watch")]
    NoFolder,
    /// The system refuses a thread or a socket.
    #[error("the system refuses a thread or socket: {0}")]
    System(#[from] io::Error),
    /// Reflection cannot be set up.
    #[error("reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The services cannot be called in other forms.
    #[error("the services in other forms: {0}")]
    Proto(#[from] crate::frontend::transcode::BadProto),
}
