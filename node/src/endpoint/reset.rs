//! What a node that was killed owes its peers: the news that it has lost their connections.
//!
//! A restarted node answers packets of connections it no longer knows with a stateless reset (RFC 9000 section 10.3), so that its
//! peers come again at once instead of waiting for their idle timeout. The proof in it is made with a key that survives the
//! restart: derived from the node's private key and the address it is bound to. An address of its own, because whoever may ask
//! one endpoint about the connection ids of another could close that one's connections.

use super::steer::Division;
use quinn::crypto::{CryptoError, HmacKey};
use quinn::{ConnectionId, ConnectionIdGenerator, EndpointConfig};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
use rustls::crypto::tls13::OkmBlock;
use std::sync::Arc;
use std::time::Duration;

/// Resets are sent no closer together: a thousand peers of a restarted relay hear of it within a second, while whoever
/// asks for them with forged packets gets few.
const BETWEEN: Duration = Duration::from_millis(1);

/// Bytes of a connection id, as quinn's own generators have it.
const ID_BYTES: usize = 8;

/// Has an endpoint send resets that its peers believe, whichever run of the node they are of; and, where it is one place of several,
/// give out ids that name it.
pub(super) fn configure(config: &mut EndpointConfig, secret: [u8; 32], of: Option<(Division, usize)>) {
    config
        .reset_key(Arc::new(ResetKey(secret)))
        .min_reset_interval(BETWEEN)
        // quinn's default takes no id for one of ours that another run has made.
        .cid_generator(move || {
            let mut seed = [0; 32];
            getrandom::fill(&mut seed).expect("the system's randomness, without which there is no TLS either");
            Box::new(RandomIds { random: StdRng::from_seed(seed), of })
        });
}

struct ResetKey([u8; 32]);

/// HMAC with SHA-256 (RFC 2104).
impl HmacKey for ResetKey {
    fn sign(&self, data: &[u8], signature_out: &mut [u8]) {
        let suite = TLS13_AES_128_GCM_SHA256.tls13().expect("it is a suite of TLS 1.3 by its name");
        signature_out.copy_from_slice(suite.hkdf_provider.hmac_sign(&OkmBlock::new(&self.0), data).as_ref());
    }

    fn signature_len(&self) -> usize {
        32
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        let mut expected = [0; 32];
        self.sign(data, &mut expected);
        // quinn never asks for it: tokens of resets are compared by who receives them.
        if expected == signature { Ok(()) } else { Err(CryptoError) }
    }
}

struct RandomIds {
    random: StdRng,
    /// The place among several that they name.
    of: Option<(Division, usize)>,
}

impl ConnectionIdGenerator for RandomIds {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut id = [0; ID_BYTES];
        loop {
            self.random.fill_bytes(&mut id);
            // Every place has some of the 256 first bytes.
            if self.of.is_none_or(|(division, place)| division.place(id[0]) == place) {
                return ConnectionId::new(&id);
            }
        }
    }

    fn cid_len(&self) -> usize {
        ID_BYTES
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}
