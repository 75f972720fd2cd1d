//! Stream tokens: signed rights, checked offline against the authority's certificate alone.
//!
//! A token is `abt1.` and the base64url of a postcard encoding of its [`Claims`], their signature, and the *delegation*: the public key
//! of the issuer with its expiry, signed by the authority. So the authority's own key stays offline while tokens are issued, and whoever
//! checks needs nothing but `authority.crt`. Both signatures are ed25519 (RFC 8032) over a text that names their purpose.

use super::files::{self, content};
use super::{Direction, Grant, TrustError};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use link::Bitrate;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::Path;
use topology::StreamPattern;

const PREFIX: &str = "abt1.";
/// Longer texts are no tokens.
const MAX_TEXT: usize = 4096;
/// Bytes of an id.
const MAX_ID: usize = 64;
const CLAIMS_CONTEXT: &[u8] = b"anabranch token claims v1\0";
const DELEGATION_CONTEXT: &[u8] = b"anabranch token issuer v1\0";

/// What a token says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// Names the token in logs; unique within the overlay.
    pub id: String,
    /// Which streams it is for.
    pub streams: StreamPattern,
    /// To publish or to watch.
    pub direction: Direction,
    /// The highest rate of a published stream.
    pub max_rate: Option<Bitrate>,
    /// Until when: seconds since 1970, UTC.
    pub expires: u64,
}

#[derive(Clone, Serialize, Deserialize)]
struct Delegation {
    key: [u8; 32],
    expires: u64,
    #[serde(with = "signature_bytes")]
    signature: [u8; 64],
}

#[derive(Serialize, Deserialize)]
struct Token {
    claims: Vec<u8>,
    #[serde(with = "signature_bytes")]
    signature: [u8; 64],
    delegation: Delegation,
}

/// Who signs tokens: a key, and the authority's word for it.
pub struct TokenIssuer {
    key: SigningKey,
    delegation: Delegation,
}

impl TokenIssuer {
    /// A new key, which `authority` signs.
    pub(super) fn create(
        expires: u64,
        authority: impl FnOnce(&[u8]) -> Result<[u8; 64], TrustError>,
    ) -> Result<TokenIssuer, TrustError> {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret).map_err(|error| TrustError::Library(error.to_string()))?;
        let key = SigningKey::from_bytes(&secret);
        let public = key.verifying_key().to_bytes();
        let signature = authority(&delegation_message(&public, expires))?;
        Ok(TokenIssuer { key, delegation: Delegation { key: public, expires, signature } })
    }

    /// Signs a token; returns its text. An error where no relay would take it.
    pub fn issue(&self, claims: &Claims) -> Result<String, TrustError> {
        check_id(&claims.id)?;
        let claims = postcard::to_allocvec(claims).map_err(|error| malformed(error.to_string()))?;
        let signature = self.key.sign(&[CLAIMS_CONTEXT, &claims].concat()).to_bytes();
        let token = Token { claims, signature, delegation: self.delegation.clone() };
        let bytes = postcard::to_allocvec(&token).map_err(|error| malformed(error.to_string()))?;
        Ok(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes)))
    }

    /// Until when the authority lets it sign: seconds since 1970, UTC.
    pub(super) fn expires(&self) -> u64 {
        self.delegation.expires
    }

    /// Reads `token.key` in `directory`.
    pub fn load(directory: &Path) -> Result<TokenIssuer, TrustError> {
        let path = directory.join("token.key");
        let wrong = |reason: &str| content(&path, "a token key as `keys init` writes it", reason);
        let bytes = URL_SAFE_NO_PAD.decode(files::read(&path)?.trim()).map_err(|_| wrong("it is no base64url"))?;
        let (secret, delegation): ([u8; 32], Delegation) =
            postcard::from_bytes(&bytes).map_err(|_| wrong("it does not decode"))?;
        Ok(TokenIssuer { key: SigningKey::from_bytes(&secret), delegation })
    }

    /// Writes `token.key`; never over what is there.
    pub fn save(&self, directory: &Path) -> Result<(), TrustError> {
        files::write_new(&directory.join("token.key"), &self.text()?, true)
    }

    /// Writes `token.key` in the place of the one that is there.
    pub(super) fn replace(&self, directory: &Path) -> Result<(), TrustError> {
        files::replace(&directory.join("token.key"), &self.text()?, true)
    }

    fn text(&self) -> Result<String, TrustError> {
        let bytes = postcard::to_allocvec(&(self.key.to_bytes(), &self.delegation))
            .map_err(|error| TrustError::Library(error.to_string()))?;
        Ok(URL_SAFE_NO_PAD.encode(bytes) + "\n")
    }
}

/// Without the key.
impl fmt::Debug for TokenIssuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenIssuer").field("expires", &self.delegation.expires).finish_non_exhaustive()
    }
}

/// Checks a token's text against the public keys of the authorities at `now` (seconds since 1970, UTC). Never panics, whatever the text.
pub(super) fn verify(text: &str, authorities: &[[u8; 32]], now: u64) -> Result<Grant, TrustError> {
    let (token, claims) = decode(text)?;
    let delegation = &token.delegation;
    let message = delegation_message(&delegation.key, delegation.expires);
    if !authorities.iter().any(|authority| check(authority, &message, &delegation.signature).is_ok()) {
        return Err(TrustError::Foreign("token"));
    }
    check(&delegation.key, &[CLAIMS_CONTEXT, &token.claims].concat(), &token.signature)?;
    if delegation.expires <= now {
        return Err(TrustError::Expired { what: "key that signed the token", at: delegation.expires });
    }
    if claims.expires <= now {
        return Err(TrustError::Expired { what: "token", at: claims.expires });
    }
    let Claims { id, streams, direction, max_rate, expires } = claims;
    Ok(Grant { id, streams, direction, max_rate, expires })
}

/// What a token claims, unchecked.
pub(super) fn peek(text: &str) -> Result<Claims, TrustError> {
    decode(text).map(|(_, claims)| claims)
}

fn decode(text: &str) -> Result<(Token, Claims), TrustError> {
    let body = text.trim().strip_prefix(PREFIX).ok_or_else(|| malformed("it does not begin with abt1."))?;
    if body.len() > MAX_TEXT {
        return Err(malformed("it is too long"));
    }
    let bytes = URL_SAFE_NO_PAD.decode(body).map_err(|_| malformed("it is no base64url: cut off while copying?"))?;
    let token: Token =
        postcard::from_bytes(&bytes).map_err(|_| malformed("it does not decode: cut off while copying?"))?;
    let claims: Claims = postcard::from_bytes(&token.claims).map_err(|_| malformed("its claims do not decode"))?;
    check_id(&claims.id)?;
    Ok((token, claims))
}

/// It stands in logs, and is compared often.
fn check_id(id: &str) -> Result<(), TrustError> {
    if id.len() > MAX_ID || id.chars().any(char::is_control) {
        return Err(malformed(format!("its id {id:?}: expected at most {MAX_ID} bytes, without control characters")));
    }
    Ok(())
}

fn check(key: &[u8; 32], message: &[u8], signature: &[u8; 64]) -> Result<(), TrustError> {
    let key = VerifyingKey::from_bytes(key).map_err(|_| TrustError::Foreign("token"))?;
    key.verify_strict(message, &Signature::from_bytes(signature)).map_err(|_| TrustError::Foreign("token"))
}

fn delegation_message(key: &[u8; 32], expires: u64) -> Vec<u8> {
    [DELEGATION_CONTEXT, key, &expires.to_be_bytes()].concat()
}

fn malformed(reason: impl Into<String>) -> TrustError {
    TrustError::Malformed { what: "token", reason: reason.into() }
}

/// Serde knows arrays up to 32 only.
mod signature_bytes {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8; 64], serializer: S) -> Result<S::Ok, S::Error> {
        let (left, right) = bytes.split_at(32);
        (<[u8; 32]>::try_from(left).unwrap_or_default(), <[u8; 32]>::try_from(right).unwrap_or_default())
            .serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[u8; 64], D::Error> {
        let (left, right) = <([u8; 32], [u8; 32])>::deserialize(deserializer)?;
        let mut bytes = [0; 64];
        bytes[..32].copy_from_slice(&left);
        bytes[32..].copy_from_slice(&right);
        Ok(bytes)
    }
}
