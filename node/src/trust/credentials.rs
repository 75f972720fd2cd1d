//! What an endpoint shows and whom it trusts, as TLS configurations.

use super::authorities::Authorities;
use super::certificate::{self, fingerprint, peer_identity, public_key};
use super::files::{FileState, content};
use super::revocation::{self, Lists, Revocations};
use super::seal::Seal;
use super::{Identity, Role, TrustError, Verifier};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature};
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use topology::NodeName;

/// The application protocol of every connection (RFC 7301).
pub const ALPN: &[u8] = b"anabranch/1";

/// How often a node looks whether the files of its keys have changed.
pub const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What an endpoint shows and whom it trusts: the certificates of the authorities and, where it has one, its own certificate and key.
/// Clones share it. Where it comes from a key directory, what changes there comes to be in force ([`Credentials::reload`]): for every
/// handshake from then on, and for what is signed; connections stand.
#[derive(Clone, Debug)]
pub struct Credentials {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    loaded: watch::Sender<Arc<Loaded>>,
    revocations: Revocations,
    /// Where it is read from, and whose it is; `None` where a program that embeds the node gave it.
    directory: Option<(PathBuf, Option<NodeName>)>,
    /// What its files were like before they were first read.
    first: Vec<Option<FileState>>,
    followed: AtomicBool,
}

/// What was read at once.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) authorities: Authorities,
    pub(super) identity: Option<Identity>,
}

impl Loaded {
    /// Reads `authority.crt` and, where a name is given, `NAME.crt` and `NAME.key`, which must belong together and to an authority.
    fn read(directory: &Path, name: Option<&NodeName>) -> Result<Loaded, TrustError> {
        let authorities = Authorities::load(&directory.join("authority.crt"))?;
        let identity = name.map(|name| Identity::load(directory, name)).transpose()?;
        if let Some(identity) = &identity {
            if !authorities.have_signed(&identity.certificate)? {
                let path = directory.join(format!("{}.crt", identity.name));
                let reason = "none of the authorities in authority.crt beside it has signed it";
                return Err(content(&path, "a certificate of this overlay", reason));
            }
            if identity.signing_key()?.verifying_key().to_bytes() != public_key(&identity.certificate)? {
                let path = directory.join(format!("{}.key", identity.name));
                return Err(content(&path, "the key of the certificate beside it", "it is another one"));
            }
        }
        Ok(Loaded { authorities, identity })
    }

    fn is_as(&self, other: &Loaded) -> bool {
        let shown = |loaded: &Loaded| loaded.identity.as_ref().map(|identity| identity.certificate.clone());
        self.authorities == other.authorities && shown(self) == shown(other)
    }
}

impl Credentials {
    pub(super) fn new(
        authority: CertificateDer<'static>,
        identity: Option<&Identity>,
    ) -> Result<Credentials, TrustError> {
        let authorities = Authorities::new(vec![authority])?;
        Ok(Credentials::over(Loaded { authorities, identity: identity.cloned() }, Lists::new(), None, Vec::new()))
    }

    /// Reads `authority.crt`, `revoked.list` if there is one, and, where a name is given, `NAME.crt` and `NAME.key` from `directory`.
    pub fn load(directory: &Path, name: Option<&NodeName>) -> Result<Credentials, TrustError> {
        let first = states(directory, name);
        let loaded = Loaded::read(directory, name)?;
        let lists = revocation::load(directory, &loaded.authorities)?;
        Ok(Credentials::over(loaded, lists, Some((directory.to_owned(), name.cloned())), first))
    }

    fn over(
        loaded: Loaded,
        lists: Lists,
        directory: Option<(PathBuf, Option<NodeName>)>,
        first: Vec<Option<FileState>>,
    ) -> Credentials {
        let (loaded, revocations) = (watch::Sender::new(Arc::new(loaded)), Revocations::new(lists));
        let followed = AtomicBool::new(false);
        Credentials { shared: Arc::new(Shared { loaded, revocations, directory, first, followed }) }
    }

    /// Reads the files of the key directory again; whether anything but the list of revocations has changed. An error where one of them is
    /// not as it should be, or makes this node another one: then of keys and certificates, or of the list, whichever it is, what was in force
    /// stays, and the other comes to be in force all the same.
    pub fn reload(&self) -> Result<bool, TrustError> {
        match self.read_again() {
            (Err(keys), Err(list)) => Err(TrustError::Both(Box::new(keys), Box::new(list))),
            (Err(one), _) | (_, Err(one)) => Err(one),
            (Ok(changed), Ok(_)) => Ok(changed),
        }
    }

    /// Of the keys and certificates, and of the list of revocations, whether what is in force has changed. What is wrong with the one must not keep
    /// back the other: least of all half a key pair what was revoked. The list comes second, for it may be signed by a new authority.
    fn read_again(&self) -> (Result<bool, TrustError>, Result<bool, TrustError>) {
        let Some((directory, name)) = &self.shared.directory else { return (Ok(false), Ok(false)) };
        let keys = self.read_keys(directory, name.as_ref());
        let believed = &self.loaded().authorities;
        let lists = revocation::load(directory, believed);
        (keys, lists.and_then(|lists| self.shared.revocations.replace(lists, believed)))
    }

    fn read_keys(&self, directory: &Path, name: Option<&NodeName>) -> Result<bool, TrustError> {
        let new = Loaded::read(directory, name)?;
        let old = self.loaded();
        if let (Some(new), Some(old)) = (&new.identity, &old.identity)
            && new.role != old.role
        {
            let path = directory.join(format!("{}.crt", new.name));
            let expected = "a certificate of the same role as before";
            return Err(content(&path, expected, format!("it is that of a {}, and this is a {}", new.role, old.role)));
        }
        let changed = !new.is_as(&old);
        if changed {
            self.shared.loaded.send_replace(Arc::new(new));
        }
        Ok(changed)
    }

    /// Follows the files for as long as anybody holds the credentials; once for all clones. Must be called inside a runtime.
    pub(crate) fn follow(&self) {
        if self.shared.directory.is_none() || self.shared.followed.swap(true, Ordering::Relaxed) {
            return;
        }
        let weak = Arc::downgrade(&self.shared);
        tokio::spawn(async move {
            let mut seen = weak.upgrade().map(|shared| shared.first.clone());
            loop {
                tokio::time::sleep(LOOK_EVERY).await;
                let Some(shared) = weak.upgrade() else { return };
                Credentials { shared }.look(&mut seen);
            }
        });
    }

    /// Reads the files where one has changed since `seen`. What is wrong with them is logged once; what is in force stays.
    fn look(&self, seen: &mut Option<Vec<Option<FileState>>>) {
        let Some((directory, name)) = &self.shared.directory else { return };
        let state = states(directory, name.as_ref());
        if seen.as_ref() == Some(&state) {
            return;
        }
        *seen = Some(state);
        let (keys, list) = self.read_again();
        for error in [keys.as_ref().err(), list.as_ref().err()].into_iter().flatten() {
            tracing::error!(%error, "the keys are not read again: those in force stay");
        }
        if let Ok(true) = keys {
            tracing::info!("the keys have changed: the new ones are in force for every handshake from now on");
        }
        if let Ok(true) = list {
            tracing::info!(number = self.shared.revocations.number(), "list of revocations in force");
        }
    }

    /// Tells of every change of what is shown and who is believed.
    pub fn changes(&self) -> KeyChanges {
        KeyChanges(self.shared.loaded.subscribe())
    }

    /// Puts the list of revocations in `text` in force. An error where it is not signed by an authority or is older than the one in force;
    /// that one stays.
    pub fn set_revocations(&self, text: &str) -> Result<(), TrustError> {
        let loaded = self.loaded();
        self.shared.revocations.replace(revocation::open(text, &loaded.authorities)?, &loaded.authorities).map(drop)
    }

    pub(super) fn loaded(&self) -> Arc<Loaded> {
        self.shared.loaded.borrow().clone()
    }

    pub(super) fn revocations(&self) -> &Revocations {
        &self.shared.revocations
    }

    /// Name and role in its own certificate, where it has one.
    pub fn identity(&self) -> Option<(NodeName, Role)> {
        self.loaded().identity.as_ref().map(|identity| (identity.name.clone(), identity.role))
    }

    /// SHA-256 of its own certificate, where it has one: by this it is revoked.
    pub fn fingerprint(&self) -> Option<[u8; 32]> {
        self.loaded().identity.as_ref().map(|identity| fingerprint(&identity.certificate))
    }

    /// When its own certificate expires, where it has one, and the newest authority that it believes: seconds since 1970, UTC.
    pub fn expiry(&self) -> (Option<u64>, Option<u64>) {
        let loaded = self.loaded();
        let of = |certificate| certificate::expires(certificate).ok();
        let own = loaded.identity.as_ref().and_then(|identity| of(&identity.certificate));
        (own, loaded.authorities.certificates().first().and_then(of))
    }

    /// What checks the peers that dial this node, and the relays that it dials.
    pub fn verifier(&self) -> Verifier {
        Verifier::new(self.clone())
    }

    /// What signs this node's statements and checks those of others; `None` for who has no key.
    pub fn seal(&self) -> Result<Option<Seal>, TrustError> {
        if self.loaded().identity.is_none() { Ok(None) } else { Seal::new(self.clone()).map(Some) }
    }

    /// For dialling: the server must show a relay's certificate of this overlay, by whatever address it was reached.
    pub fn client_tls(&self) -> Result<ClientConfig, TrustError> {
        let provider = Arc::new(provider());
        let loaded = self.loaded();
        let verifier = RelayVerifier { roots: loaded.authorities.roots()?, provider: provider.clone() };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(library)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match &loaded.identity {
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
        let loaded = self.loaded();
        let Some(Identity { certificate, key, role: Role::Relay, .. }) = &loaded.identity else {
            return Err(TrustError::Library("only a relay with its certificate and key can be dialled".to_owned()));
        };
        let provider = Arc::new(provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(loaded.authorities.roots()?), provider.clone())
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
        let loaded = self.loaded();
        let key = &loaded.identity.as_ref()?.key;
        let suite = aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256.tls13()?;
        let expander = suite.hkdf_provider.extract_from_secret(Some(b"anabranch"), key.secret_der());
        let mut secret = [0; 32];
        expander.expand_slice(&[purpose.as_bytes()], &mut secret).ok()?;
        Some(secret)
    }
}

/// Of each file that is followed, where it is there.
fn states(directory: &Path, name: Option<&NodeName>) -> Vec<Option<FileState>> {
    let own = name.iter().flat_map(|name| [format!("{name}.crt"), format!("{name}.key")]).collect::<Vec<_>>();
    let files = ["authority.crt".to_owned(), revocation::FILE.to_owned()].into_iter().chain(own);
    files.map(|file| FileState::of(&directory.join(file))).collect()
}

/// Tells of changes of [`Credentials`].
#[derive(Debug)]
pub struct KeyChanges(watch::Receiver<Arc<Loaded>>);

impl KeyChanges {
    /// Returns at the next change; `false` when there will be none any more.
    pub async fn next(&mut self) -> bool {
        self.0.changed().await.is_ok()
    }

    /// Whether there has been one since this was last asked.
    pub fn has_changed(&mut self) -> bool {
        let changed = self.0.has_changed().unwrap_or(false);
        self.0.mark_unchanged();
        changed
    }
}

/// AES-128-GCM first: the cheapest per packet wherever there are AES instructions, and QUIC's initial cipher anyway.
pub(super) fn provider() -> CryptoProvider {
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

pub(super) fn library(error: impl ToString) -> TrustError {
    TrustError::Library(error.to_string())
}
