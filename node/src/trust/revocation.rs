//! What is no longer believed: certificates by their fingerprint, tokens by their id.
//!
//! The authority signs the whole list (ed25519, RFC 8032, over a text that names its purpose) and numbers its issues; nobody else can shorten
//! it, and a node that runs goes back to no earlier one. A node reads `revoked.list` in its key directory at start, and again within
//! [`LOOK_EVERY`] of a change: whoever stands on it then is told so and cut off.

use super::files::{self, content};
use super::{TrustError, hex};
use crate::control::{CloseCode, Refusal};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::{Signature, VerifyingKey};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};
use tokio::sync::watch;

/// The name of the list in a key directory.
pub const FILE: &str = "revoked.list";

/// How often a node looks whether its list has changed.
pub const LOOK_EVERY: Duration = Duration::from_secs(1);

pub(super) const PREFIX: &str = "abr1.";
const CONTEXT: &[u8] = b"anabranch revocations v1\0";

/// What the authority has revoked so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevocationList {
    /// Counts the issues of the list; a higher one replaces a lower.
    pub number: u64,
    /// SHA-256 of each revoked certificate in DER.
    pub certificates: BTreeSet<[u8; 32]>,
    /// The id of each revoked token.
    pub tokens: BTreeSet<String>,
}

#[derive(Serialize, Deserialize)]
struct Sealed {
    list: Vec<u8>,
    signature: Vec<u8>,
}

const CUT: &str = "it does not decode: cut off while copying?";

impl Sealed {
    fn read(text: &str) -> Result<Sealed, TrustError> {
        let body = text.trim().strip_prefix(PREFIX).ok_or_else(|| malformed("it does not begin with abr1."))?;
        let bytes =
            URL_SAFE_NO_PAD.decode(body).map_err(|_| malformed("it is no base64url: cut off while copying?"))?;
        postcard::from_bytes(&bytes).map_err(|_| malformed(CUT))
    }
}

impl RevocationList {
    /// The text of the file, signed by `authority`, which is given the message and returns its ed25519 signature.
    pub(super) fn seal(
        &self,
        authority: impl FnOnce(&[u8]) -> Result<[u8; 64], TrustError>,
    ) -> Result<String, TrustError> {
        let list = postcard::to_allocvec(self).map_err(|error| malformed(error.to_string()))?;
        let signature = authority(&message(&list))?.to_vec();
        let bytes = postcard::to_allocvec(&Sealed { list, signature }).map_err(|error| malformed(error.to_string()))?;
        Ok(format!("{PREFIX}{}\n", URL_SAFE_NO_PAD.encode(bytes)))
    }

    /// The list in `text` as it stands there: *who* signed it is not asked. For showing it; never to be believed. Never panics, whatever the text.
    pub fn peek(text: &str) -> Result<RevocationList, TrustError> {
        postcard::from_bytes(&Sealed::read(text)?.list).map_err(|_| malformed(CUT))
    }

    /// The list in `text`, if the holder of the key `authority` signed it. Never panics, whatever the text.
    pub(super) fn open(text: &str, authority: &[u8; 32]) -> Result<RevocationList, TrustError> {
        let sealed = Sealed::read(text)?;
        let foreign = |_| TrustError::Foreign("list of revocations");
        let key = VerifyingKey::from_bytes(authority).map_err(foreign)?;
        let signature = Signature::from_slice(&sealed.signature).map_err(foreign)?;
        key.verify_strict(&message(&sealed.list), &signature).map_err(foreign)?;
        postcard::from_bytes(&sealed.list).map_err(|_| malformed(CUT))
    }

    /// Reads the list in a key directory; an empty one where there is no file.
    pub(super) fn load(directory: &Path, authority: &[u8; 32]) -> Result<RevocationList, TrustError> {
        let path = directory.join(FILE);
        match files::read(&path) {
            Err(TrustError::File { cause, .. }) if cause.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error),
            Ok(text) => RevocationList::open(&text, authority)
                .map_err(|error| content(&path, "the list that `keys revoke` writes", error.to_string())),
        }
    }
}

/// The list in force at a node; clones share it.
#[derive(Clone, Debug)]
pub struct Revocations {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    list: watch::Sender<RevocationList>,
    /// Where it is read from; `None` where a program that embeds the node sets it.
    directory: Option<PathBuf>,
    authority: [u8; 32],
    watched: AtomicBool,
}

impl Revocations {
    /// An empty list, for nodes whose keys do not come from a directory.
    pub(super) fn none(authority: [u8; 32]) -> Revocations {
        Revocations::over(RevocationList::default(), None, authority)
    }

    /// The list in a key directory.
    pub(super) fn read(directory: &Path, authority: [u8; 32]) -> Result<Revocations, TrustError> {
        let list = RevocationList::load(directory, &authority)?;
        Ok(Revocations::over(list, Some(directory.to_owned()), authority))
    }

    fn over(list: RevocationList, directory: Option<PathBuf>, authority: [u8; 32]) -> Revocations {
        let (list, watched) = (watch::Sender::new(list), AtomicBool::new(false));
        Revocations { shared: Arc::new(Shared { list, directory, authority, watched }) }
    }

    /// Puts the list in `text` in force. An error where it is not signed by the authority or is older than the one in force; that one stays.
    pub fn set(&self, text: &str) -> Result<(), TrustError> {
        self.replace(RevocationList::open(text, &self.shared.authority)?)
    }

    fn replace(&self, new: RevocationList) -> Result<(), TrustError> {
        let mut result = Ok(());
        self.shared.list.send_if_modified(|list| {
            if new.number < list.number {
                let reason = format!("it is issue {}, older than issue {} in force", new.number, list.number);
                result = Err(malformed(reason));
                return false;
            }
            let changed = *list != new;
            *list = new;
            changed
        });
        result
    }

    /// An error where the certificate of this fingerprint, which is that of `whose`, was revoked.
    pub(super) fn certificate(&self, print: &[u8; 32], whose: &str) -> Result<(), TrustError> {
        match self.shared.list.borrow().certificates.contains(print) {
            true => Err(TrustError::Revoked(format!("certificate of {whose}"))),
            false => Ok(()),
        }
    }

    /// An error where the token of this id was revoked.
    pub(super) fn token(&self, id: &str) -> Result<(), TrustError> {
        match self.shared.list.borrow().tokens.contains(id) {
            true => Err(TrustError::Revoked(format!("token {id:?}"))),
            false => Ok(()),
        }
    }

    /// Follows the file for as long as anybody holds the list; once for all clones. Must be called inside a runtime.
    pub(crate) fn follow(&self) {
        if self.shared.directory.is_none() || self.shared.watched.swap(true, Ordering::Relaxed) {
            return;
        }
        let weak = Arc::downgrade(&self.shared);
        tokio::spawn(async move {
            let mut seen = None;
            loop {
                let Some(shared) = weak.upgrade() else { return };
                Revocations { shared }.look(&mut seen);
                tokio::time::sleep(LOOK_EVERY).await;
            }
        });
    }

    /// Reads the file where it has changed since `seen`. What is wrong with it is logged once; the list in force stays.
    fn look(&self, seen: &mut Option<(SystemTime, u64)>) {
        let Some(directory) = &self.shared.directory else { return };
        let state = std::fs::metadata(directory.join(FILE)).ok().and_then(|m| Some((m.modified().ok()?, m.len())));
        if state == *seen {
            return;
        }
        *seen = state;
        let read = RevocationList::load(directory, &self.shared.authority).and_then(|list| {
            let number = list.number;
            self.replace(list).map(|()| number)
        });
        match read {
            Ok(number) => tracing::info!(number, "list of revocations in force"),
            Err(error) => tracing::error!(%error, "the list of revocations is not read: the one in force stays"),
        }
    }
}

/// By what a peer came, so that it can be cut off when that is revoked.
#[derive(Clone, Debug)]
pub(crate) struct Standing {
    revocations: Revocations,
    /// Its fingerprint, and whose it is.
    certificate: Option<([u8; 32], String)>,
    tokens: Vec<String>,
}

impl Standing {
    pub(crate) fn new(
        revocations: Revocations,
        certificate: Option<([u8; 32], String)>,
        tokens: Vec<String>,
    ) -> Standing {
        Standing { revocations, certificate, tokens }
    }

    /// A refusal where any of it is revoked.
    pub(crate) fn check(&self) -> Result<(), Refusal> {
        let certificate = self.certificate.as_ref();
        let held = certificate.map_or(Ok(()), |(print, whose)| self.revocations.certificate(print, whose));
        held.and_then(|()| self.tokens.iter().try_for_each(|id| self.revocations.token(id)))
            .map_err(|error| Refusal { code: CloseCode::Unauthenticated, reason: error.to_string() })
    }

    /// Returns when any of it is revoked, with the reason.
    pub(crate) async fn revoked(&self) -> Refusal {
        let mut changes = self.revocations.shared.list.subscribe();
        loop {
            // Only what comes after the subscription is waited for: look first.
            if let Err(refusal) = self.check() {
                return refusal;
            }
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

/// In words, for `keys inspect`. The signature is not checked.
pub(super) fn describe(text: &str) -> Result<String, TrustError> {
    let list = RevocationList::peek(text)?;
    let mut said = format!("list of revocations, issue {} (signature not checked)", list.number);
    for print in &list.certificates {
        said += &format!("\ncertificate sha256:{}", hex(print));
    }
    for id in &list.tokens {
        said += &format!("\ntoken {id:?}");
    }
    Ok(said)
}

fn message(list: &[u8]) -> Vec<u8> {
    [CONTEXT, list].concat()
}

fn malformed(reason: impl Into<String>) -> TrustError {
    TrustError::Malformed { what: "list of revocations", reason: reason.into() }
}
