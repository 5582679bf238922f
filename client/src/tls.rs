//! TLS as a client speaks it: whom it trusts, and what it shows of itself.

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use transport::tcp::channel::{Channel, Wrap, Wrapped};

/// How to speak TLS with a server. Files are read anew for each connection, so renewed ones count at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// Certificates in PEM of the authorities that may have signed the server's.
    pub ca: PathBuf,
    /// Our own certificate and key in PEM, for a server that asks for them.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// The name that the server's certificate must have, if not the host that is connected to.
    pub name: Option<String>,
}

impl Tls {
    /// Trusts servers whose certificates the authorities in this file have signed.
    pub fn trusting(ca: impl Into<PathBuf>) -> Self {
        Self { ca: ca.into(), identity: None, name: None }
    }

    /// A connection to `addr` of whatever is spoken there, encrypted. Every read and write blocks for `limit` at most.
    ///
    /// # Errors
    /// As the connection or the handshake fails.
    pub fn connect(&self, addr: SocketAddr, limit: Duration) -> io::Result<Channel> {
        let socket = TcpStream::connect_timeout(&addr, limit)?;
        Channel::open(socket, Some(&*self.ready(&addr.ip().to_string())?), limit)
    }

    /// Ready to shake hands with `host`.
    pub(crate) fn ready(&self, host: &str) -> io::Result<Arc<dyn Wrap>> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&self.ca)? {
            roots.add(certificate).map_err(|error| of_file(&self.ca, error))?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_root_certificates(roots);
        let config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some((cert, key)) => {
                let key_der = PrivateKeyDer::from_pem_file(key).map_err(|error| of_file(key, error))?;
                builder.with_client_auth_cert(certificates(cert)?, key_der).map_err(|error| of_file(cert, error))?
            }
        };
        let name = self.name.as_deref().unwrap_or(host).to_owned();
        let name = ServerName::try_from(name).map_err(io::Error::other)?;
        Ok(Arc::new(Handshake { config: Arc::new(config), name }))
    }
}

fn of_file(path: &Path, error: impl fmt::Display) -> io::Error {
    io::Error::other(format!("{}: {error}", path.display()))
}

fn certificates(path: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_file_iter(path).and_then(Iterator::collect).map_err(|error| of_file(path, error))
}

struct Handshake {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl fmt::Debug for Handshake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handshake").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Wrap for Handshake {
    fn wrap(&self, mut socket: TcpStream) -> io::Result<Box<dyn Wrapped>> {
        let mut connection =
            ClientConnection::new(Arc::clone(&self.config), self.name.clone()).map_err(io::Error::other)?;
        while connection.is_handshaking() {
            connection.complete_io(&mut socket)?;
        }
        Ok(Box::new(StreamOwned::new(connection, socket)))
    }
}
