//! What an endpoint shows and whom it trusts, as TLS configurations.

use super::certificate::{fingerprint, peer_identity, public_key};
use super::seal::Seal;
use super::{Identity, Revocations, Role, TrustError, Verifier, files};
use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::DecodePrivateKey;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature};
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use std::path::Path;
use std::sync::Arc;
use topology::NodeName;

/// The application protocol of every connection (RFC 7301).
pub const ALPN: &[u8] = b"anabranch/1";

/// What an endpoint shows and whom it trusts: the authority's certificate and, where it has one, its own certificate and key.
#[derive(Clone, Debug)]
pub struct Credentials {
    authority: CertificateDer<'static>,
    identity: Option<Identity>,
    revocations: Revocations,
}

impl Credentials {
    pub(super) fn new(
        authority: CertificateDer<'static>,
        identity: Option<&Identity>,
    ) -> Result<Credentials, TrustError> {
        let revocations = Revocations::none(public_key(&authority)?);
        Ok(Credentials { authority, identity: identity.cloned(), revocations })
    }

    /// Reads `authority.crt`, `revoked.list` if there is one, and, where a name is given, `NAME.crt` and `NAME.key` from `directory`.
    pub fn load(directory: &Path, name: Option<&NodeName>) -> Result<Credentials, TrustError> {
        let authority = files::certificate(&directory.join("authority.crt"))?;
        let identity = name.map(|name| Identity::load(directory, name)).transpose()?;
        let mut credentials = Credentials::new(authority, identity.as_ref())?;
        credentials.revocations = Revocations::read(directory, public_key(&credentials.authority)?)?;
        Ok(credentials)
    }

    /// The list of what is no longer believed; shared with every verifier and seal made from these credentials.
    pub fn revocations(&self) -> &Revocations {
        &self.revocations
    }

    /// Name and role in its own certificate, where it has one.
    pub fn identity(&self) -> Option<(&NodeName, Role)> {
        self.identity.as_ref().map(|identity| (&identity.name, identity.role))
    }

    /// SHA-256 of its own certificate, where it has one: by this it is revoked.
    pub fn fingerprint(&self) -> Option<[u8; 32]> {
        self.identity.as_ref().map(|identity| fingerprint(&identity.certificate))
    }

    /// What checks the peers that dial this node.
    pub fn verifier(&self) -> Result<Verifier, TrustError> {
        Ok(Verifier::new(public_key(&self.authority)?, self.revocations.clone()))
    }

    /// What signs this node's statements and checks those of others; `None` for who has no key.
    pub fn seal(&self) -> Result<Option<Seal>, TrustError> {
        let Some(identity) = &self.identity else { return Ok(None) };
        let key = SigningKey::from_pkcs8_der(identity.key.secret_der()).map_err(library)?;
        let (certificate, authority) = (identity.certificate.to_vec(), public_key(&self.authority)?);
        Ok(Some(Seal::new(key, certificate, authority, self.revocations.clone())))
    }

    /// For dialling: the server must show a relay's certificate of this overlay, by whatever address it was reached.
    pub fn client_tls(&self) -> Result<ClientConfig, TrustError> {
        let provider = Arc::new(provider());
        let verifier = RelayVerifier { roots: self.roots()?, provider: provider.clone() };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(library)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match &self.identity {
            Some(Identity { certificate, key, .. }) => {
                builder.with_client_auth_cert(vec![certificate.clone()], key.clone_key()).map_err(library)?
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(config)
    }

    /// For answering: a client may show a certificate of this overlay, or none and come with a token.
    pub fn server_tls(&self) -> Result<ServerConfig, TrustError> {
        let Some(Identity { certificate, key, role: Role::Relay, .. }) = &self.identity else {
            return Err(TrustError::Library("only a relay with its certificate and key can be dialled".to_owned()));
        };
        let provider = Arc::new(provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(self.roots()?), provider.clone())
            .allow_unauthenticated()
            .build()
            .map_err(library)?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(library)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![certificate.clone()], key.clone_key())
            .map_err(library)?;
        // A resumed session would show no certificate anew: one that has expired since would go on being good.
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(config)
    }

    /// A secret of this node for one purpose, the same in every run: derived from its private key (HKDF, RFC 5869).
    /// `None` for who has none.
    pub(crate) fn derived_secret(&self, purpose: &str) -> Option<[u8; 32]> {
        let key = &self.identity.as_ref()?.key;
        let suite = aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256.tls13()?;
        let expander = suite.hkdf_provider.extract_from_secret(Some(b"anabranch"), key.secret_der());
        let mut secret = [0; 32];
        expander.expand_slice(&[purpose.as_bytes()], &mut secret).ok()?;
        Some(secret)
    }

    fn roots(&self) -> Result<RootCertStore, TrustError> {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.clone()).map_err(library)?;
        Ok(roots)
    }
}

/// AES-128-GCM first: the cheapest per packet wherever there are AES instructions, and QUIC's initial cipher anyway.
fn provider() -> CryptoProvider {
    CryptoProvider {
        cipher_suites: vec![
            aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
            aws_lc_rs::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
            aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384,
        ],
        ..aws_lc_rs::default_provider()
    }
}

/// Accepts whoever is a relay of the overlay. The name in the certificate is not held against the address dialled: relays
/// are reached by addresses that change; who it was is known after the handshake.
#[derive(Debug)]
struct RelayVerifier {
    roots: RootCertStore,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for RelayVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let algorithms = self.provider.signature_verification_algorithms.all;
        let parsed = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, intermediates, now, algorithms)?;
        match peer_identity(end_entity) {
            Ok((_, Role::Relay)) => Ok(ServerCertVerified::assertion()),
            _ => Err(CertificateError::ApplicationVerificationFailure.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("QUIC needs TLS 1.3".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn library(error: impl ToString) -> TrustError {
    TrustError::Library(error.to_string())
}
