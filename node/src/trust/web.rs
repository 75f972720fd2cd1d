//! TLS of operations ports. Who comes there are browsers, Prometheus and `ctl`, which know a public authority or the operator's own: its
//! certificates have nothing to do with those of the overlay, and are made by other tools.

use super::TrustError;
use super::credentials::{library, provider};
use super::files::{self, content};
use aws_lc_rs::digest::{Context, SHA256};
use rustls::client::Resumption;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// What is spoken within.
const HTTP: &[u8] = b"http/1.1";

/// What an operations port shows, and whose certificates it takes. Equal where the files say the same.
#[derive(Clone)]
pub struct WebServer {
    config: Arc<ServerConfig>,
    takes_certificates: bool,
    digest: [u8; 32],
}

impl WebServer {
    /// Reads the port's certificate (and those between it and its authority), its key, which its owner alone may read, and the authorities
    /// whose certificates clients may show, where they may.
    pub fn load(certificate: &Path, key: &Path, clients: Option<&Path>) -> Result<WebServer, TrustError> {
        let provider = Arc::new(provider());
        let (chain, secret) = identity(certificate, key)?;
        let mut digest = Context::new(&SHA256);
        digest.update(secret.secret_der());
        chain.iter().for_each(|one| digest.update(one));
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(library)?;
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let authorities = files::certificates(path)?;
                // What follows is of clients.
                digest.update(b"clients");
                authorities.iter().for_each(|one| digest.update(one));
                let roots = Arc::new(roots(path, authorities)?);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider)
                    // Probes of health come without, and who has the token may.
                    .allow_unauthenticated()
                    .build()
                    .map_err(library)?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut config = builder.with_single_cert(chain, secret).map_err(|error| mismatch(key, certificate, &error))?;
        // A resumed session would show no certificate anew.
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.alpn_protocols = vec![HTTP.to_vec()];
        let mut seen = [0; 32];
        seen.copy_from_slice(digest.finish().as_ref());
        Ok(WebServer { config: Arc::new(config), takes_certificates: clients.is_some(), digest: seen })
    }

    /// For the library.
    pub fn config(&self) -> Arc<ServerConfig> {
        self.config.clone()
    }

    /// Whether a client may show a certificate.
    pub fn takes_certificates(&self) -> bool {
        self.takes_certificates
    }
}

impl fmt::Debug for WebServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebServer").field("takes_certificates", &self.takes_certificates).finish_non_exhaustive()
    }
}

impl PartialEq for WebServer {
    fn eq(&self, other: &WebServer) -> bool {
        self.digest == other.digest
    }
}

/// What a client of an operations port is to have: whom it believes, and its own certificate and key, where it shows one.
pub fn web_client(authority: &Path, own: Option<(&Path, &Path)>) -> Result<ClientConfig, TrustError> {
    let roots = roots(authority, files::certificates(authority)?)?;
    let builder = ClientConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(library)?
        .with_root_certificates(roots);
    let mut config = match own {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let (chain, secret) = identity(certificate, key)?;
            builder.with_client_auth_cert(chain, secret).map_err(|error| mismatch(key, certificate, &error))?
        }
    };
    config.resumption = Resumption::disabled();
    config.alpn_protocols = vec![HTTP.to_vec()];
    Ok(config)
}

type Shown = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn identity(certificate: &Path, key: &Path) -> Result<Shown, TrustError> {
    if files::open_to_others(key) {
        let reason = "others can read or write it: chmod 600, and think of it as known to them";
        return Err(content(key, "a private key that its owner alone can read", reason));
    }
    Ok((files::certificates(certificate)?, files::private_key(key)?))
}

fn roots(path: &Path, certificates: Vec<CertificateDer<'static>>) -> Result<RootCertStore, TrustError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots.add(certificate).map_err(|error| content(path, "certificates of authorities", error.to_string()))?;
    }
    Ok(roots)
}

fn mismatch(key: &Path, certificate: &Path, error: &rustls::Error) -> TrustError {
    content(key, "the private key of a certificate", format!("it does not go with {}: {error}", certificate.display()))
}
