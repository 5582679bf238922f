//! TLS by rustls: what the server shows of itself, whom it trusts, and the handshake of one connection.
//!
//! Role: RESP connections of `tls-listen`, bulk connections that begin with a handshake, and the metrics port if it is to.
//! Certificates are read at start, at SIGHUP and when `CONFIG SET` names a file; connections that are there keep theirs.
//!
//! Invariants:
//! - A connection is served only after its handshake, which takes [`Config::progress_ms`] at most.
//! - What cannot be read or does not fit together changes nothing: the certificates before stay in use.
//! - Keys are never logged.

use crate::config::{Config, TlsClients};
use crate::node::Node;
use anyhow::Context as _;
use parking_lot::{Mutex, RwLock};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// First byte of every TLS connection: a record of the handshake.
pub(crate) const HANDSHAKE: u8 = 0x16;
/// Pause between two lines about handshakes that failed, which strangers cause.
const COMPLAIN_EVERY: Duration = Duration::from_secs(1);

/// See the module's text.
#[derive(Default)]
pub(crate) struct Tls {
    /// What new connections get; `None` without a certificate.
    current: RwLock<Option<Arc<ServerConfig>>>,
    /// When a failed handshake was last told, and how many were not told since.
    said: Mutex<(Option<Instant>, u64)>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("has_certificate", &self.has_certificate()).finish_non_exhaustive()
    }
}

/// What these settings come to; `None` without a certificate.
fn load(config: &Config) -> anyhow::Result<Option<Arc<ServerConfig>>> {
    let (Some(cert), Some(key)) = (&config.tls_cert_file, &config.tls_key_file) else { return Ok(None) };
    let chain = certificates(cert).context("`tls-cert-file`")?;
    let key = PrivateKeyDer::from_pem_file(key)
        .with_context(|| format!("`tls-key-file`: {} has no private key in PEM", key.display()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let builder = match (config.tls_auth_clients, &config.tls_ca_cert_file) {
        (TlsClients::No, _) => builder.with_no_client_auth(),
        (TlsClients::Yes | TlsClients::Optional, None) => anyhow::bail!(
            "`tls-auth-clients = {}` needs `tls-ca-cert-file`: whose certificates clients must have",
            crate::config::Value::render(&config.tls_auth_clients)
        ),
        (auth, Some(path)) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(path).context("`tls-ca-cert-file`")? {
                roots.add(certificate).with_context(|| format!("`tls-ca-cert-file`: {}", path.display()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            let verifier = if auth == TlsClients::Optional { verifier.allow_unauthenticated() } else { verifier };
            builder.with_client_cert_verifier(verifier.build().context("`tls-ca-cert-file`")?)
        }
    };
    let made = builder.with_single_cert(chain, key).context("`tls-cert-file` and `tls-key-file`")?;
    Ok(Some(Arc::new(made)))
}

fn certificates(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let found: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .with_context(|| format!("{} cannot be read as PEM", path.display()))?;
    anyhow::ensure!(!found.is_empty(), "{} has no certificate in PEM", path.display());
    Ok(found)
}

/// What became of a socket that should begin with a handshake.
pub(crate) type Secured = TlsStream<TcpStream>;

impl Tls {
    /// What was made ready for these settings, to be put in use.
    ///
    /// # Errors
    /// What is wrong, and with which setting.
    pub(crate) fn prepare(config: &Config) -> anyhow::Result<Ready> {
        load(config).map(Ready)
    }

    pub(crate) fn put(&self, ready: Ready) {
        *self.current.write() = ready.0;
    }

    pub(crate) fn has_certificate(&self) -> bool {
        self.current.read().is_some()
    }

    /// Shakes hands, or says in the log why not.
    pub(crate) async fn accept(&self, node: &Node, socket: TcpStream, limit: Duration) -> Option<Secured> {
        let current = self.current.read().clone()?;
        let addr = socket.peer_addr().map(|addr| addr.to_string()).unwrap_or_default();
        let failed = match tokio::time::timeout(limit, TlsAcceptor::from(current).accept(socket)).await {
            Ok(Ok(stream)) => return Some(stream),
            Ok(Err(error)) => why(&error),
            Err(_) => format!("not done within {limit:?}"),
        };
        node.stats.tls_failed.add(1);
        self.complain(&addr, &failed);
        None
    }

    fn complain(&self, addr: &str, failed: &str) {
        let mut said = self.said.lock();
        if said.0.is_some_and(|then| then.elapsed() < COMPLAIN_EVERY) {
            said.1 += 1;
            return;
        }
        let untold = std::mem::take(&mut said.1);
        said.0 = Some(Instant::now());
        tracing::warn!(addr, untold, "a TLS handshake failed: {failed}");
    }
}

/// See [`Tls::prepare`].
pub(crate) struct Ready(Option<Arc<ServerConfig>>);

fn why(error: &io::Error) -> String {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidMessage(_)) => {
            "the client did not speak TLS; plain text goes to the port of `listen`".to_owned()
        }
        Some(rustls::Error::NoCertificatesPresented) => {
            "the client has no certificate, which `tls-auth-clients` asks for".to_owned()
        }
        Some(error) => error.to_string(),
        None => error.to_string(),
    }
}

impl Node {
    /// Changes settings of the running node: all of them and everything that follows from them, or nothing.
    ///
    /// # Errors
    /// Why not, for people.
    pub(crate) fn set_config(&self, pairs: &[(&str, &str)]) -> Result<(), String> {
        let mut config = self.config.write();
        let mut next = config.clone();
        next.set_all(pairs).map_err(|error| error.to_string())?;
        let ready = if pairs.iter().any(|(name, _)| name.to_ascii_lowercase().starts_with("tls-")) {
            Some(Tls::prepare(&next).map_err(|error| format!("CONFIG SET failed - {error:#}"))?)
        } else {
            None
        };
        *config = next;
        drop(config);
        if let Some(ready) = ready {
            self.tls.put(ready);
        }
        self.apply_config();
        Ok(())
    }

    /// Reads file, environment and flags again, and the certificates. What is wrong is told, and changes nothing.
    pub(crate) fn reload(&self) {
        let Some(surroundings) = self.surroundings.get() else { return };
        let fresh = match (surroundings.reload)() {
            Ok(fresh) => fresh,
            Err(error) => return tracing::error!("SIGHUP: nothing was changed: {error}"),
        };
        let (live, fixed) = self.config.read().differing(&fresh);
        let pairs: Vec<(&str, &str)> = live.iter().map(|(name, value)| (*name, value.as_str())).collect();
        if let Err(error) = self.set_config(&pairs) {
            return tracing::error!("SIGHUP: nothing was changed: {error}");
        }
        let config = {
            let mut config = self.config.write();
            pairs.iter().for_each(|(name, _)| config.note_origin(name, &fresh));
            config.clone()
        };
        // Their names may be what they were, and what they hold not.
        match Tls::prepare(&config) {
            Ok(ready) => self.tls.put(ready),
            Err(error) => tracing::error!("SIGHUP: the certificates before stay in use: {error:#}"),
        }
        let names: Vec<&str> = pairs.iter().map(|(name, _)| *name).collect();
        tracing::info!(
            "SIGHUP: read again; changed: {}",
            if names.is_empty() { "nothing".into() } else { names.join(", ") }
        );
        if !fixed.is_empty() {
            tracing::warn!("SIGHUP: these are as they were until the next start: {}", fixed.join(", "));
        }
    }
}
