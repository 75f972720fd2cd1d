//! What relays say to all others, signed by the key of their certificate, so that who passes it on can forge nothing.

use super::certificate::{expires, fingerprint, peer_identity, public_key};
use super::credentials::Loaded;
use super::{Credentials, Role, TrustError};
use crate::control::{CodecError, Control, LENGTH, Signed, decode, encode};
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use rustls_pki_types::CertificateDer;
use std::cell::{RefCell, RefMut};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use topology::NodeName;

/// What is signed begins with it, so that no signature of another purpose can be taken for one of these.
const CONTEXT: &[u8] = b"anabranch relay statement v1\0";

/// Certificates whose check is remembered; of more, all are checked again.
const REMEMBERED: usize = 2_048;

/// Larger ones are none of ours.
const MOST_CERTIFICATE: usize = 4_096;

/// A relay's key with its certificate, and the authorities by which those of others are judged: as they are at the moment.
pub struct Seal {
    credentials: Credentials,
    state: RefCell<State>,
}

/// What follows from the credentials as they were last seen.
struct State {
    of: Arc<Loaded>,
    key: SigningKey,
    certificate: Vec<u8>,
    /// Certificates that were checked.
    known: BTreeMap<Vec<u8>, Known>,
}

#[derive(Clone)]
struct Known {
    name: NodeName,
    key: VerifyingKey,
    expires: u64,
    fingerprint: [u8; 32],
}

impl Seal {
    pub(super) fn new(credentials: Credentials) -> Result<Seal, TrustError> {
        let state = State::new(credentials.loaded())?;
        Ok(Seal { credentials, state: RefCell::new(state) })
    }

    /// The state that belongs to the credentials in force. Those that have no key that can be read leave the one before.
    fn state(&self) -> RefMut<'_, State> {
        let (loaded, mut state) = (self.credentials.loaded(), self.state.borrow_mut());
        if !Arc::ptr_eq(&loaded, &state.of)
            && let Ok(new) = State::new(loaded)
        {
            *state = new;
        }
        state
    }

    /// Signs a message.
    pub fn sign(&self, message: &Control) -> Result<Signed, CodecError> {
        let mut encoded = Vec::new();
        encode(message, &mut encoded)?;
        let body = encoded.split_off(LENGTH);
        let state = self.state();
        let signature = state.key.sign(&[CONTEXT, &body].concat()).to_bytes().to_vec();
        Ok(Signed { body, certificate: state.certificate.clone(), signature })
    }

    /// The message, and the relay that signed it. `unix` is the time in seconds since 1970.
    pub fn open(&self, signed: &Signed, unix: u64) -> Result<(NodeName, Control), TrustError> {
        let signer = self.state().signer(&signed.certificate)?;
        if signer.expires <= unix {
            return Err(TrustError::Expired { what: "certificate of a relay", at: signer.expires });
        }
        self.credentials.revocations().certificate(&signer.fingerprint, &format!("relay {}", signer.name))?;
        let forged = |_| malformed("the signature is not that of its certificate's key");
        let signature = Signature::from_slice(&signed.signature).map_err(forged)?;
        signer.key.verify_strict(&[CONTEXT, &signed.body].concat(), &signature).map_err(forged)?;
        let message = decode(&signed.body).map_err(|error| malformed(&error.to_string()))?;
        Ok((signer.name, message))
    }
}

impl State {
    fn new(of: Arc<Loaded>) -> Result<State, TrustError> {
        let Some(identity) = &of.identity else {
            return Err(TrustError::Library("who has no key signs nothing".to_owned()));
        };
        let (key, certificate) = (identity.signing_key()?, identity.certificate.to_vec());
        Ok(State { of, key, certificate, known: BTreeMap::new() })
    }

    fn signer(&mut self, certificate: &[u8]) -> Result<Known, TrustError> {
        if let Some(known) = self.known.get(certificate) {
            return Ok(known.clone());
        }
        if certificate.len() > MOST_CERTIFICATE {
            return Err(malformed("its certificate is too large"));
        }
        let der = CertificateDer::from(certificate);
        if !self.of.authorities.have_signed(&der)? {
            return Err(TrustError::Foreign("certificate of a relay"));
        }
        let (name, role) = peer_identity(&der)?;
        if role != Role::Relay {
            return Err(malformed("its certificate is not that of a relay"));
        }
        let key = VerifyingKey::from_bytes(&public_key(&der)?).map_err(|error| malformed(&error.to_string()))?;
        let known = Known { name, key, expires: expires(&der)?, fingerprint: fingerprint(&der) };
        if self.known.len() >= REMEMBERED {
            self.known.clear();
        }
        self.known.insert(certificate.to_vec(), known.clone());
        Ok(known)
    }
}

fn malformed(reason: &str) -> TrustError {
    TrustError::Malformed { what: "signed statement", reason: reason.to_owned() }
}

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seal").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::Authority;
    use std::time::Duration;

    const NOW: u64 = 1_800_000_000;

    fn seal(authority: &Authority, name: &str, role: Role) -> Seal {
        let name: NodeName = name.parse().expect("valid");
        let identity = authority.issue(&name, role, NOW, Duration::from_secs(3600)).expect("issued");
        let credentials = authority.credentials(Some(&identity)).expect("made");
        credentials.seal().expect("readable").expect("there is an identity")
    }

    #[test]
    fn a_statement_is_believed_of_its_signer_alone() {
        let authority = Authority::trial(NOW).expect("made");
        let (a, b) = (seal(&authority, "a", Role::Relay), seal(&authority, "b", Role::Relay));
        let message = Control::Goodbye { reason: "x".into() };
        let signed = a.sign(&message).expect("signed");
        assert_eq!(b.open(&signed, NOW).expect("believed"), ("a".parse().expect("valid"), message.clone()));
        assert!(b.open(&signed, NOW + 4000).is_err(), "its certificate has expired");
        let mut other = signed.clone();
        other.body[1] ^= 1;
        assert!(b.open(&other, NOW).is_err());
        let swapped = Signed { certificate: b.sign(&message).expect("signed").certificate, ..signed.clone() };
        assert!(b.open(&swapped, NOW).is_err());
        for end in 0..signed.certificate.len() {
            let cut = Signed { certificate: signed.certificate[..end].to_vec(), ..signed.clone() };
            assert!(b.open(&cut, NOW).is_err());
        }
    }

    #[test]
    fn another_overlay_or_role_is_not_believed() {
        let (ours, theirs) = (Authority::trial(NOW).expect("made"), Authority::trial(NOW).expect("made"));
        let judge = seal(&ours, "a", Role::Relay);
        let message = Control::Goodbye { reason: "x".into() };
        for stranger in [seal(&theirs, "b", Role::Relay), seal(&ours, "s", Role::Source)] {
            assert!(judge.open(&stranger.sign(&message).expect("signed"), NOW).is_err());
        }
    }
}
