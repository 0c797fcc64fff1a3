//! The server's certificates: read at the start, and again whenever a file has changed or somebody asks.
//!
//! Knows files and what rustls needs, and no connection. Each encrypted port has a [`Gate`], which gets a new configuration when
//! the files give one; open connections keep theirs. Files that do not fit together change nothing.

mod files;
mod names;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use rustls::ServerConfig;

use self::files::{Loaded, Stamp};
use crate::{
    audit, clock,
    config::{ClientAuth, PortTls, TlsConfig},
    telemetry::{Telemetry, TlsMetrics},
    threads,
    transport::{Gate, GateLimits},
    watched::Watch,
};

pub use self::files::CertificateFault;

/// How long files that have changed are left alone: a pair is two of them.
const REST: Duration = Duration::from_secs(1);
/// And after this long they are read however often they change.
const REST_WAIT_MAX: Duration = Duration::from_secs(30);

const DAY_SECONDS: f64 = 86_400.0;

/// A certificate that expires this soon is worth a warning.
const SOON_DAYS: f64 = 7.0;

/// The certificates of a server. Clones share them.
#[derive(Clone)]
pub struct Certificates {
    inner: Arc<Inner>,
}

struct Inner {
    config: TlsConfig,
    metrics: TlsMetrics,
    limits: GateLimits,
    current: Mutex<Current>,
    watch: Watch,
}

struct Current {
    loaded: Loaded,
    /// What the files looked like when they were read last, with success or without.
    read: Stamp,
    gates: Vec<(ClientAuth, Gate)>,
}

impl Certificates {
    /// Reads the files; `None` if the settings name none.
    ///
    /// # Errors
    /// [`CertificateFault`] with the file and what is wrong with it.
    pub fn load(config: &TlsConfig, telemetry: &Telemetry) -> Result<Option<Self>, CertificateFault> {
        // There are metrics of TLS even without it: at zero, they say so.
        let metrics = telemetry.tls();
        if !config.is_on() {
            return Ok(None);
        }
        // Watched before they are read, so that no change is missed.
        let watch = Watch::new(&files_of(config)).map_err(|reason| CertificateFault::unwatched(config, reason))?;
        let read = Stamp::of(config);
        let loaded = Loaded::read(config)?;
        let limits = GateLimits::new(config.max_handshakes, config.handshake_timeout(), metrics.clone());
        let current = Mutex::new(Current { loaded, read, gates: Vec::new() });
        let inner = Inner { config: config.clone(), metrics, limits, current, watch };
        let certificates = Self { inner: Arc::new(inner) };
        certificates.warn_of_expiry();
        Ok(Some(certificates))
    }

    /// The gate of a port; `None` if it is not encrypted.
    ///
    /// # Errors
    /// [`CertificateFault`] if rustls cannot work with what was read.
    pub fn gate(&self, port: PortTls) -> Result<Option<Gate>, CertificateFault> {
        let Some(auth) = self.inner.config.port(port) else { return Ok(None) };
        let mut current = self.inner.current.lock();
        let gate = Gate::new(current.loaded.server(auth)?, self.inner.limits.clone());
        current.gates.push((auth, gate.clone()));
        Ok(Some(gate))
    }

    /// Reads the files again, changed or not. What can be used replaces what there was; of anything else only the log and the
    /// metrics tell. Blocks.
    pub fn reload(&self) {
        let Inner { config, metrics, current, .. } = &*self.inner;
        let read = Stamp::of(config);
        let outcome = Loaded::read(config).and_then(|loaded| {
            let mut current = current.lock();
            if loaded.expires_at() <= now_seconds() && current.loaded.expires_at() > now_seconds() {
                return Err(CertificateFault::expired(config));
            }
            let configs: Result<Vec<ServerConfig>, _> = current.gates.iter().map(|(auth, _)| loaded.server(*auth)).collect();
            for ((_, gate), config) in current.gates.iter().zip(configs?) {
                gate.replace(config);
            }
            current.loaded = loaded;
            Ok(())
        });
        self.inner.current.lock().read = read;
        match outcome {
            Ok(()) => {
                metrics.reloads.ok.increment(1);
                tracing::info!(expire_in_days = self.days().floor(), "new connections get the certificates as they are now");
                audit::certificates_read(None);
                self.warn_of_expiry();
            }
            Err(fault) => {
                metrics.reloads.failed.increment(1);
                tracing::error!("the certificates stay as they were: {fault}");
                audit::certificates_read(Some(&fault.to_string()));
            }
        }
    }

    /// Reads the files again once they have changed and come to rest. Never returns.
    pub async fn keep_fresh(&self) {
        loop {
            self.inner.watch.rested(REST, REST_WAIT_MAX).await;
            let this = self.clone();
            // Without a thread, the next change will do.
            let _no_thread = threads::aside(move || {
                if Stamp::of(&this.inner.config) != this.inner.current.lock().read {
                    this.reload();
                }
            })
            .await;
        }
    }

    /// Brings the metric of their expiry up to date.
    pub fn publish(&self) {
        self.inner.metrics.expires_in.set(self.days() * DAY_SECONDS);
    }

    /// Days until the first certificate expires.
    fn days(&self) -> f64 {
        (self.inner.current.lock().loaded.expires_at() - now_seconds()) as f64 / DAY_SECONDS
    }

    fn warn_of_expiry(&self) {
        let days = self.days();
        if days < SOON_DAYS {
            tracing::warn!("a certificate of tls.cert expires in {days:.1} days; clients refuse it from then on");
        }
        self.publish();
    }
}

/// All files of the settings.
fn files_of(config: &TlsConfig) -> Vec<&Path> {
    config.cert.iter().chain(&config.key).chain(&config.client_ca).map(PathBuf::as_path).collect()
}

/// The time of day, in seconds since 1970.
fn now_seconds() -> i64 {
    i64::try_from(clock::since_epoch(clock::now()).as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
