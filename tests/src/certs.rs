//! Certificates for tests, in a directory of their own: an authority, and who it vouches for.

use client::Reply;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use transport::tcp::frame::Token;

/// Signs certificates.
#[derive(Debug)]
pub struct Authority {
    dir: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its key, as files in PEM.
#[derive(Clone, Debug)]
pub struct Pair {
    cert: PathBuf,
    key: PathBuf,
}

impl Pair {
    /// The certificate's file.
    pub fn cert(&self) -> String {
        self.cert.display().to_string()
    }

    /// The key's file.
    pub fn key(&self) -> String {
        self.key.display().to_string()
    }
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()]).expect("names");
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

impl Authority {
    /// An authority of this name; its own certificate is `NAME.pem` in its directory.
    ///
    /// # Panics
    /// If there is no room for it.
    pub fn new(name: &str) -> Self {
        let dir = TempDir::with_prefix("mooncake-certs-").expect("a directory for the test");
        let mut own = params(name);
        own.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(own, KeyPair::generate().expect("a key")).expect("signed by itself");
        std::fs::write(dir.path().join(format!("{name}.pem")), issuer.pem()).expect("a file for the test");
        Self { dir, issuer }
    }

    /// Where its files are.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A certificate for a server on 127.0.0.1.
    pub fn server(&self, name: &str) -> Pair {
        self.sign(name, params(name))
    }

    /// A certificate for a client.
    pub fn client(&self, name: &str) -> Pair {
        self.sign(name, params(name))
    }

    /// One that was good until 2001.
    pub fn expired(&self, name: &str) -> Pair {
        let mut params = params(name);
        params.not_before = rcgen::date_time_ymd(2000, 1, 1);
        params.not_after = rcgen::date_time_ymd(2001, 1, 1);
        self.sign(name, params)
    }

    fn sign(&self, name: &str, params: CertificateParams) -> Pair {
        let key = KeyPair::generate().expect("a key");
        let cert = params.signed_by(&key, &self.issuer).expect("signed");
        let pair = Pair {
            cert: self.dir.path().join(format!("{name}.cert.pem")),
            key: self.dir.path().join(format!("{name}.key.pem")),
        };
        std::fs::write(&pair.cert, cert.pem()).expect("a file for the test");
        std::fs::write(&pair.key, key.serialize_pem()).expect("a file for the test");
        pair
    }
}

/// What `ATTACH TCP` answered.
pub fn token_and_port(reply: &Reply) -> Option<(Token, u16)> {
    let Reply::Array(fields) = reply else { return None };
    let field = |name: &[u8]| Some(&fields.chunks_exact(2).find(|pair| pair[0].as_bytes() == Some(name))?[1]);
    let token = Token::parse_hex(field(b"token")?.as_bytes()?)?;
    Some((token, u16::try_from(field(b"port")?.as_integer()?).ok()?))
}
