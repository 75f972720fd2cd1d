//! What is no longer believed: certificates by their fingerprint, tokens by their id.
//!
//! An authority signs the whole list (ed25519, RFC 8032, over a text that names its purpose) and numbers its issues; nobody else can shorten
//! it, and a node that runs goes back to no earlier one. While two authorities are believed, each has a list, a line each in the file, and
//! what stands on either is revoked. A node reads `revoked.list` in its key directory at start, and again within [`super::LOOK_EVERY`] of a
//! change: whoever stands on it then is told so and cut off.

use super::authorities::Authorities;
use super::files::{self, content};
use super::{TrustError, hex};
use crate::control::{CloseCode, Refusal};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::{Signature, VerifyingKey};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;

/// The name of the list in a key directory.
pub const FILE: &str = "revoked.list";

pub(super) const PREFIX: &str = "abr1.";
const CONTEXT: &[u8] = b"anabranch revocations v1\0";

/// What an authority has revoked so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevocationList {
    /// Counts the issues of the list; a higher one replaces a lower.
    pub number: u64,
    /// SHA-256 of each revoked certificate in DER.
    pub certificates: BTreeSet<[u8; 32]>,
    /// The id of each revoked token.
    pub tokens: BTreeSet<String>,
}

/// The list of each authority, by its public key.
pub(super) type Lists = BTreeMap<[u8; 32], RevocationList>;

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

    fn is_signed_by(&self, authority: &[u8; 32]) -> bool {
        let signature = Signature::from_slice(&self.signature);
        let (Ok(key), Ok(signature)) = (VerifyingKey::from_bytes(authority), signature) else { return false };
        key.verify_strict(&message(&self.list), &signature).is_ok()
    }

    fn list(&self) -> Result<RevocationList, TrustError> {
        postcard::from_bytes(&self.list).map_err(|_| malformed(CUT))
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
        Sealed::read(text)?.list()
    }
}

/// The lists in `text`, a line each, of those who are believed. Others are left out, for an authority that is believed no more may still have
/// its line; but where there is none but such, something is wrong. Never panics, whatever the text.
pub(super) fn open(text: &str, authorities: &Authorities) -> Result<Lists, TrustError> {
    let mut lists = Lists::new();
    let mut foreign = false;
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    if lines.is_empty() {
        return Err(malformed("it is empty"));
    }
    for line in lines {
        let sealed = Sealed::read(line)?;
        match authorities.keys().iter().find(|key| sealed.is_signed_by(key)) {
            Some(key) => drop(lists.insert(*key, sealed.list()?)),
            None => foreign = true,
        }
    }
    if lists.is_empty() && foreign { Err(TrustError::Foreign("list of revocations")) } else { Ok(lists) }
}

/// Reads the lists in a key directory; none where there is no file.
pub(super) fn load(directory: &Path, authorities: &Authorities) -> Result<Lists, TrustError> {
    let path = directory.join(FILE);
    match files::read(&path) {
        Err(TrustError::File { cause, .. }) if cause.kind() == std::io::ErrorKind::NotFound => Ok(Lists::new()),
        Err(error) => Err(error),
        Ok(text) => open(&text, authorities)
            .map_err(|error| content(&path, "the list that `keys revoke` writes", error.to_string())),
    }
}

/// The lists in force at a node; clones share them.
#[derive(Clone, Debug)]
pub(super) struct Revocations(Arc<watch::Sender<Lists>>);

impl Revocations {
    pub(super) fn new(lists: Lists) -> Revocations {
        Revocations(Arc::new(watch::Sender::new(lists)))
    }

    /// Puts these in force, and says whether they are others than before; the list of an authority that is still believed and has none among
    /// them stays. An error where one is older than the one in force of the same authority; then all stay.
    pub(super) fn replace(&self, mut new: Lists, believed: &Authorities) -> Result<bool, TrustError> {
        let mut result = Ok(());
        let changed = self.0.send_if_modified(|lists| {
            let older = new.iter().find_map(|(key, new)| {
                let known = lists.get(key).filter(|known| new.number < known.number)?;
                Some((new.number, known.number))
            });
            if let Some((new, known)) = older {
                let reason = format!("it is issue {new}, older than issue {known} in force");
                result = Err(malformed(reason));
                return false;
            }
            for (key, list) in lists.iter().filter(|(key, _)| believed.keys().contains(*key)) {
                new.entry(*key).or_insert_with(|| list.clone());
            }
            let changed = *lists != new;
            *lists = std::mem::take(&mut new);
            changed
        });
        result.map(|()| changed)
    }

    /// The number of the newest issue in force.
    pub(super) fn number(&self) -> u64 {
        self.0.borrow().values().map(|list| list.number).max().unwrap_or(0)
    }

    /// An error where the certificate of this fingerprint, which is that of `whose`, was revoked.
    pub(super) fn certificate(&self, print: &[u8; 32], whose: &str) -> Result<(), TrustError> {
        match self.0.borrow().values().any(|list| list.certificates.contains(print)) {
            true => Err(TrustError::Revoked(format!("certificate of {whose}"))),
            false => Ok(()),
        }
    }

    /// An error where the token of this id was revoked.
    pub(super) fn token(&self, id: &str) -> Result<(), TrustError> {
        match self.0.borrow().values().any(|list| list.tokens.contains(id)) {
            true => Err(TrustError::Revoked(format!("token {id:?}"))),
            false => Ok(()),
        }
    }
}

/// By what a peer came, so that it can be cut off when that is revoked. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Standing {
    revocations: Revocations,
    /// Its fingerprint, and whose it is.
    certificate: Option<([u8; 32], String)>,
    tokens: Arc<Mutex<Vec<String>>>,
}

impl Standing {
    pub(super) fn new(
        revocations: Revocations,
        certificate: Option<([u8; 32], String)>,
        tokens: Vec<String>,
    ) -> Standing {
        Standing { revocations, certificate, tokens: Arc::new(Mutex::new(tokens)) }
    }

    /// From now on the peer stands by tokens of these ids.
    pub(crate) fn renew(&self, tokens: Vec<String>) {
        *self.tokens.lock().unwrap_or_else(PoisonError::into_inner) = tokens;
    }

    /// A refusal where any of it is revoked.
    pub(crate) fn check(&self) -> Result<(), Refusal> {
        let certificate = self.certificate.as_ref();
        let held = certificate.map_or(Ok(()), |(print, whose)| self.revocations.certificate(print, whose));
        let tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        held.and_then(|()| tokens.iter().try_for_each(|id| self.revocations.token(id)))
            .map_err(|error| Refusal { code: CloseCode::Unauthenticated, reason: error.to_string() })
    }

    /// Returns when any of it is revoked, with the reason.
    pub(crate) async fn revoked(&self) -> Refusal {
        let mut changes = self.revocations.0.subscribe();
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

/// In words, for `keys inspect`. The signatures are not checked.
pub(super) fn describe(text: &str) -> Result<String, TrustError> {
    let mut said = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let list = RevocationList::peek(line)?;
        said.push(format!("list of revocations, issue {} (signature not checked)", list.number));
        said.extend(list.certificates.iter().map(|print| format!("certificate sha256:{}", hex(print))));
        said.extend(list.tokens.iter().map(|id| format!("token {id:?}")));
    }
    Ok(said.join("\n"))
}

fn message(list: &[u8]) -> Vec<u8> {
    [CONTEXT, list].concat()
}

fn malformed(reason: impl Into<String>) -> TrustError {
    TrustError::Malformed { what: "list of revocations", reason: reason.into() }
}
