//! TLS towards clients and other members: certificates from files, read again when they change, and checks of who calls.
//!
//! etcd reads its certificate at every handshake, so that renewing one needs no restart. Here the files' stamps are looked at
//! for every handshake, and the files are read when a stamp has changed; what cannot be read leaves the last good
//! certificate in place and is said once. Nothing outside this module knows rustls.

mod automatic;
mod connect;
mod files;
mod identity;
mod origin;
mod server;
mod suites;
mod verify;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;
use rustls::{ClientConfig, ServerConfig};

pub use self::automatic::self_signed;
pub use self::connect::SecureTcp;
pub use self::server::{Accepted, Doorman, OverTls};
use crate::config::tls::TlsSettings;

/// Why TLS cannot be set up: a sentence that names the file or the flag.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct TlsError(String);

impl TlsError {
    fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }

    fn file(path: &Path, error: impl std::fmt::Display) -> Self {
        Self(format!("{}: {error}", path.display()))
    }
}

/// What tells that a file is not the one that was read.
type Stamp = (PathBuf, Option<(SystemTime, u64)>);

#[derive(Clone)]
struct Loaded {
    stamps: Vec<Stamp>,
    server: Arc<ServerConfig>,
    client: Option<Arc<ClientConfig>>,
    /// The last attempt at newer files failed, and that was said.
    is_stale: bool,
}

/// One side's certificates, as they are now.
pub struct Certificates {
    settings: TlsSettings,
    loaded: Mutex<Loaded>,
}

impl Certificates {
    /// Reads the files that `settings` name.
    ///
    /// # Errors
    /// A file that is missing or holds something else, or settings that leave nothing to agree on.
    pub fn load(settings: TlsSettings) -> Result<Arc<Self>, TlsError> {
        let loaded = Mutex::new(load(&settings)?);
        Ok(Arc::new(Self { settings, loaded }))
    }

    fn server(&self) -> Arc<ServerConfig> {
        self.current(|loaded| loaded.server.clone())
    }

    /// How this side calls others; it trusts the same authorities.
    fn client(&self) -> Option<Arc<ClientConfig>> {
        self.current(|loaded| loaded.client.clone())
    }

    fn current<T>(&self, of: impl FnOnce(&Loaded) -> T) -> T {
        let mut loaded = self.loaded.lock();
        let stamps = stamps(&self.settings);
        if stamps != loaded.stamps {
            match load(&self.settings) {
                Ok(newer) => {
                    tracing::info!("the TLS files have changed and are in use");
                    *loaded = newer;
                }
                // They may be half-way through a change: the next handshake looks again.
                Err(error) if !loaded.is_stale => {
                    tracing::warn!(%error, "the TLS files have changed and cannot be used; the last good ones stay");
                    loaded.is_stale = true;
                }
                Err(_) => {}
            }
        }
        of(&loaded)
    }
}

fn load(settings: &TlsSettings) -> Result<Loaded, TlsError> {
    // Before reading: a change in between is then seen the next time.
    let stamps = stamps(settings);
    let server = Arc::new(server::config(settings)?);
    let client = connect::config(settings)?.map(Arc::new);
    Ok(Loaded { stamps, server, client, is_stale: false })
}

fn stamps(settings: &TlsSettings) -> Vec<Stamp> {
    let TlsSettings { cert_file, key_file, trusted_ca_file, client_cert_file, client_key_file, crl_file, .. } =
        settings;
    let files = [cert_file, key_file, trusted_ca_file, client_cert_file, client_key_file, crl_file];
    let stamp = |path: &PathBuf| {
        let meta = fs::metadata(path).ok().and_then(|meta| Some((meta.modified().ok()?, meta.len())));
        (path.clone(), meta)
    };
    files.into_iter().flatten().map(stamp).collect()
}
