//! Secrets, and the keys derived from them.

use aws_lc_rs::aead::{AES_256_GCM_SIV, LessSafeKey, UnboundKey};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use topology::StreamName;
use topology::lsdb::Incarnation;
use zeroize::Zeroizing;

/// Names the purpose of a derived key, so that no key of another purpose is ever the same.
const PURPOSE: &[u8] = b"anabranch payload key v1\0";

/// 32 random bytes of one epoch. Wiped when dropped; never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<[u8; 32]>);

impl Secret {
    /// These bytes.
    pub fn new(bytes: [u8; 32]) -> Secret {
        Secret(Zeroizing::new(bytes))
    }

    pub(crate) fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// What a key is for.
pub(super) struct Context<'a> {
    pub(super) stream: &'a StreamName,
    pub(super) incarnation: Incarnation,
    pub(super) epoch: u8,
    pub(super) turn: u8,
}

/// The key of one life, epoch and turn of a stream (HKDF, RFC 5869). All parts of the info but the last have a fixed length, so that no two
/// contexts read alike.
pub(super) fn derive(secret: &Secret, context: &Context<'_>) -> Result<LessSafeKey, Unspecified> {
    let incarnation = context.incarnation.0.to_be_bytes();
    let info = [PURPOSE, &[context.epoch, context.turn], &incarnation, context.stream.as_str().as_bytes()];
    let prk = Salt::new(HKDF_SHA256, &[]).extract(secret.bytes());
    Ok(LessSafeKey::new(UnboundKey::from(prk.expand(&info, &AES_256_GCM_SIV)?)))
}
