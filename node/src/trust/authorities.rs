//! The authorities that a node believes: one, and both while an overlay moves from one to the next.

use super::TrustError;
use super::certificate::{public_key, signed_by};
use super::files::{self, content};
use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use std::path::Path;

/// Most of them in a file: an old one, its successor, and one that was not taken out in time.
const MOST: usize = 8;

/// Certificates of authorities, the newest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Authorities {
    certificates: Vec<CertificateDer<'static>>,
    keys: Vec<[u8; 32]>,
}

impl Authorities {
    /// These, of which there is at least one.
    pub(super) fn new(certificates: Vec<CertificateDer<'static>>) -> Result<Authorities, TrustError> {
        let keys = certificates.iter().map(public_key).collect::<Result<_, _>>()?;
        Ok(Authorities { certificates, keys })
    }

    /// Those of an `authority.crt`: one certificate after the other.
    pub(super) fn load(path: &Path) -> Result<Authorities, TrustError> {
        let certificates = files::certificates(path)?;
        if certificates.len() > MOST {
            let reason = format!("it holds {}", certificates.len());
            return Err(content(path, "the certificates of at most 8 authorities", reason));
        }
        Authorities::new(certificates)
    }

    /// Their certificates, the newest first.
    pub(super) fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.certificates
    }

    /// Their public keys, in the same order.
    pub(super) fn keys(&self) -> &[[u8; 32]] {
        &self.keys
    }

    /// What TLS is to trust.
    pub(super) fn roots(&self) -> Result<RootCertStore, TrustError> {
        let mut roots = RootCertStore::empty();
        for certificate in &self.certificates {
            roots.add(certificate.clone()).map_err(|error| TrustError::Library(error.to_string()))?;
        }
        Ok(roots)
    }

    /// Whether one of them signed a certificate.
    pub(super) fn have_signed(&self, certificate: &CertificateDer<'_>) -> Result<bool, TrustError> {
        for key in &self.keys {
            if signed_by(certificate, key)? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
