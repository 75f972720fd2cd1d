//! The authority of an overlay, and what it issues.

use super::certificate::{common_name, identity_uri, peer_identity, public_key};
use super::files::{self, content};
use super::token::TokenIssuer;
use super::{Credentials, RevocationList, Role, TrustError};
use ed25519_dalek::pkcs8::DecodePrivateKey;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, SigningKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use std::fmt;
use std::path::Path;
use std::time::Duration;
use topology::NodeName;

/// Signed this long into the past, for nodes whose clocks lag.
const BACKDATED: Duration = Duration::from_secs(3600);

/// The file of an authority's key.
pub(super) const KEY: &str = "authority.key";

/// The file of the next authority's key, until it takes the place of [`KEY`].
pub(super) const NEXT_KEY: &str = "authority.next.key";

/// The one that vouches for everything in an overlay: an ed25519 key and its self-signed certificate.
pub struct Authority {
    certificate: CertificateDer<'static>,
    key: KeyPair,
    overlay: String,
}

/// Certificate and key of a node.
pub struct Identity {
    /// The node's name.
    pub name: NodeName,
    /// The node's role.
    pub role: Role,
    pub(super) certificate: CertificateDer<'static>,
    pub(super) key: PrivateKeyDer<'static>,
}

impl Authority {
    /// A new authority for the overlay named `overlay`, valid for `lifetime` from `now` (seconds since 1970, UTC).
    pub fn create(overlay: &str, now: u64, lifetime: Duration) -> Result<Authority, TrustError> {
        let key = KeyPair::generate_for(&rcgen::PKCS_ED25519).map_err(library)?;
        let mut params = parameters(overlay, now, lifetime)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).map_err(library)?.der().clone();
        Ok(Authority { certificate, key, overlay: overlay.to_owned() })
    }

    /// The authority of a trial on one machine: in memory, for a day.
    pub fn trial(now: u64) -> Result<Authority, TrustError> {
        Authority::create("trial", now, Duration::from_secs(86_400))
    }

    /// The authority whose `authority.crt` and `authority.key` lie in `directory`.
    pub fn load(directory: &Path) -> Result<Authority, TrustError> {
        let loaded = Authority::load_with(directory, KEY);
        if loaded.is_err() && Authority::load_with(directory, NEXT_KEY).is_ok() {
            let reason = format!("{NEXT_KEY} is: a rotation was interrupted; `keys rotate authority` again ends it");
            return Err(content(&directory.join(KEY), "the key of authority.crt beside it", reason));
        }
        loaded
    }

    /// As [`Authority::load`], with its key in a file of this name.
    pub(super) fn load_with(directory: &Path, key: &str) -> Result<Authority, TrustError> {
        let certificate = files::certificate(&directory.join("authority.crt"))?;
        let key_path = directory.join(key);
        let key = KeyPair::from_pem(&files::read(&key_path)?)
            .map_err(|reason| content(&key_path, "an ed25519 key in PEM", reason.to_string()))?;
        if public_key(&certificate)?.as_slice() != key.public_key_raw() {
            return Err(content(&key_path, "the key of authority.crt beside it", "it is another one"));
        }
        let overlay = common_name(&certificate)?;
        Ok(Authority { certificate, key, overlay })
    }

    /// Writes `authority.crt` and `authority.key`; never over what is there.
    pub fn save(&self, directory: &Path) -> Result<(), TrustError> {
        files::write_new(&directory.join(KEY), &self.key_pem(), true)?;
        files::write_new(&directory.join("authority.crt"), &self.certificate_pem(), false)
    }

    pub(super) fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    pub(super) fn certificate_pem(&self) -> String {
        pem("CERTIFICATE", &self.certificate)
    }

    pub(super) fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }

    /// The name of the overlay.
    pub fn overlay(&self) -> &str {
        &self.overlay
    }

    /// A certificate and a new key for a node.
    pub fn issue(&self, name: &NodeName, role: Role, now: u64, lifetime: Duration) -> Result<Identity, TrustError> {
        let key = KeyPair::generate_for(&rcgen::PKCS_ED25519).map_err(library)?;
        let mut params = parameters(name.as_str(), now, lifetime)?;
        let dns = name.as_str().try_into().map_err(library)?;
        let uri = identity_uri(role, name).as_str().try_into().map_err(library)?;
        params.subject_alt_names = vec![SanType::DnsName(dns), SanType::URI(uri)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = match role {
            Role::Relay => vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
            Role::Source | Role::Sink => vec![ExtendedKeyUsagePurpose::ClientAuth],
        };
        params.use_authority_key_identifier_extension = true;
        let issuer = Issuer::from_ca_cert_der(&self.certificate, &self.key).map_err(library)?;
        let certificate = params.signed_by(&key, &issuer).map_err(library)?.der().clone();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        Ok(Identity { name: name.clone(), role, certificate, key })
    }

    /// What a node with this identity shows and trusts; without one, what a holder of a token alone does.
    pub fn credentials(&self, identity: Option<&Identity>) -> Result<Credentials, TrustError> {
        Credentials::new(self.certificate.clone(), identity)
    }

    /// The text of a list of revocations, signed; see [`Credentials::set_revocations`].
    pub fn sign_revocations(&self, list: &RevocationList) -> Result<String, TrustError> {
        list.seal(|message| self.sign(message))
    }

    /// Its public key.
    pub(super) fn public_key(&self) -> Result<[u8; 32], TrustError> {
        public_key(&self.certificate)
    }

    fn sign(&self, message: &[u8]) -> Result<[u8; 64], TrustError> {
        let signature = self.key.sign(message).map_err(library)?;
        <[u8; 64]>::try_from(signature.as_slice()).map_err(library)
    }

    /// A new key for signing tokens, valid for `lifetime` from `now`.
    pub fn token_issuer(&self, now: u64, lifetime: Duration) -> Result<TokenIssuer, TrustError> {
        TokenIssuer::create(now.saturating_add(lifetime.as_secs()), |message| self.sign(message))
    }
}

impl Identity {
    /// Certificate and key from `NAME.crt` and `NAME.key` in `directory`.
    pub fn load(directory: &Path, name: &NodeName) -> Result<Identity, TrustError> {
        let path = directory.join(format!("{name}.crt"));
        let certificate = files::certificate(&path)?;
        let (found, role) = peer_identity(&certificate)?;
        if found != *name {
            return Err(content(
                &path,
                "the certificate of the node it is named for",
                format!("it is that of {found}"),
            ));
        }
        let key = files::private_key(&directory.join(format!("{name}.key")))?;
        Ok(Identity { name: found, role, certificate, key })
    }

    /// What it shows to others.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The key, to sign with.
    pub(super) fn signing_key(&self) -> Result<ed25519_dalek::SigningKey, TrustError> {
        ed25519_dalek::SigningKey::from_pkcs8_der(self.key.secret_der()).map_err(library)
    }

    /// Writes `NAME.crt` and `NAME.key` in the place of those that are there. A node that looks between the two sees that they do not
    /// belong together, and looks again.
    pub fn replace(&self, directory: &Path) -> Result<(), TrustError> {
        let key = pem("PRIVATE KEY", self.key.secret_der());
        files::replace(&directory.join(format!("{}.key", self.name)), &key, true)?;
        files::replace(&directory.join(format!("{}.crt", self.name)), &pem("CERTIFICATE", &self.certificate), false)
    }

    /// Writes `NAME.crt` and `NAME.key`; never over what is there.
    pub fn save(&self, directory: &Path) -> Result<(), TrustError> {
        let key = pem("PRIVATE KEY", self.key.secret_der());
        files::write_new(&directory.join(format!("{}.key", self.name)), &key, true)?;
        files::write_new(&directory.join(format!("{}.crt", self.name)), &pem("CERTIFICATE", &self.certificate), false)
    }
}

impl Clone for Identity {
    fn clone(&self) -> Identity {
        Identity {
            name: self.name.clone(),
            role: self.role,
            certificate: self.certificate.clone(),
            key: self.key.clone_key(),
        }
    }
}

/// Without the key.
impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("overlay", &self.overlay).finish_non_exhaustive()
    }
}

/// Without the key.
impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("name", &self.name).field("role", &self.role).finish_non_exhaustive()
    }
}

fn parameters(common_name: &str, now: u64, lifetime: Duration) -> Result<CertificateParams, TrustError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.not_before = date(now.saturating_sub(BACKDATED.as_secs()))?;
    params.not_after = date(now.saturating_add(lifetime.as_secs()))?;
    Ok(params)
}

fn date(unix: u64) -> Result<time::OffsetDateTime, TrustError> {
    i64::try_from(unix)
        .ok()
        .and_then(|unix| time::OffsetDateTime::from_unix_timestamp(unix).ok())
        .ok_or_else(|| TrustError::Malformed { what: "date", reason: "it lies beyond the year 9999".to_owned() })
}

/// PEM (RFC 7468).
pub(super) fn pem(label: &str, der: &[u8]) -> String {
    use base64::Engine;
    let body = base64::engine::general_purpose::STANDARD.encode(der);
    let mut text = format!("-----BEGIN {label}-----\n");
    for line in body.as_bytes().chunks(64) {
        text.extend(line.iter().map(|byte| char::from(*byte)));
        text.push('\n');
    }
    text + "-----END " + label + "-----\n"
}

fn library(error: impl ToString) -> TrustError {
    TrustError::Library(error.to_string())
}
