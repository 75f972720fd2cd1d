//! Checks what a dialling peer brings, once TLS has checked its certificate's signature.

use super::{Credentials, Grant, Role, Standing, TrustError, certificate, hex, token};
use crate::control::{CloseCode, Refusal};
use aws_lc_rs::digest::{SHA256, digest};
use rustls_pki_types::CertificateDer;
use std::collections::BTreeSet;
use topology::NodeName;

/// Most tokens of one peer.
const MAX_TOKENS: usize = 64;

/// Knows the authorities of an overlay, and what they have revoked, as they are at the moment. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Verifier {
    credentials: Credentials,
}

/// A peer whose claims hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identified {
    /// From the certificate; without one, made from the first token's id.
    pub name: NodeName,
    /// From the certificate; without one, what the peer said and its tokens allow.
    pub role: Role,
    /// What its tokens allow.
    pub grants: Vec<Grant>,
}

impl Verifier {
    pub(super) fn new(credentials: Credentials) -> Verifier {
        Verifier { credentials }
    }

    /// Checks one token at `now` (seconds since 1970, UTC).
    pub fn token(&self, text: &str, now: u64) -> Result<Grant, TrustError> {
        let grant = token::verify(text, self.credentials.loaded().authorities.keys(), now)?;
        self.credentials.revocations().token(&grant.id)?;
        Ok(grant)
    }

    /// What tokens allow, every one of which must hold.
    pub fn grants(&self, tokens: &[String], now: u64) -> Result<Vec<Grant>, Refusal> {
        if tokens.len() > MAX_TOKENS {
            return Err(refusal(CloseCode::Overload, format!("{} tokens; at most {MAX_TOKENS}", tokens.len())));
        }
        // Each costs two signatures to check, the same one again none.
        let mut seen = BTreeSet::new();
        let different = tokens.iter().filter(|text| seen.insert(*text));
        different.map(|text| self.token(text, now)).collect::<Result<_, _>>().map_err(of_token)
    }

    /// By what a peer that was identified stands.
    pub(crate) fn standing(&self, certificate: Option<&CertificateDer<'_>>, who: &Identified) -> Standing {
        let certificate = certificate.map(|der| (certificate::fingerprint(der), format!("{} {}", who.role, who.name)));
        let tokens = who.grants.iter().map(|grant| grant.id.clone()).collect();
        Standing::new(self.credentials.revocations().clone(), certificate, tokens)
    }

    /// Who a peer is, from the certificate that TLS accepted (if it showed one), the role it claims and the tokens it brings.
    ///
    /// A relay needs a certificate that says so. A source or a sink needs a certificate of its role, or at least one token;
    /// every token it brings must hold.
    pub fn identify(
        &self,
        certificate: Option<&CertificateDer<'_>>,
        claimed: Role,
        tokens: &[String],
        now: u64,
    ) -> Result<Identified, Refusal> {
        let grants = self.grants(tokens, now)?;
        if let Some(certificate) = certificate {
            let (name, role) = certificate::peer_identity(certificate)
                .map_err(|error| refusal(CloseCode::Unauthenticated, error.to_string()))?;
            self.credentials
                .revocations()
                .certificate(&certificate::fingerprint(certificate), &format!("{role} {name}"))
                .map_err(|error| refusal(CloseCode::Unauthenticated, error.to_string()))?;
            if role != claimed {
                let reason = format!("{name} comes as a {claimed}, but its certificate is that of a {role}");
                return Err(refusal(CloseCode::Forbidden, reason));
            }
            return Ok(Identified { name, role, grants });
        }
        if claimed == Role::Relay {
            return Err(refusal(CloseCode::Unauthenticated, "a relay needs a certificate of this overlay".to_owned()));
        }
        let Some(first) = grants.first() else {
            let reason = format!("a {claimed} needs a certificate of this overlay or a token");
            return Err(refusal(CloseCode::Unauthenticated, reason));
        };
        Ok(Identified { name: name_of_token(&first.id), role: claimed, grants })
    }
}

/// `token-` and the id; where not all of that may stand in a node name, what of it may, and by what it differs from others: who has a name is told by it.
fn name_of_token(id: &str) -> NodeName {
    if let Ok(name) = format!("token-{id}").parse() {
        return name;
    }
    let allowed = |c: &char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
    let kept: String = id.to_ascii_lowercase().chars().filter(allowed).take(40).collect();
    let mark = hex(&digest(&SHA256, id.as_bytes()).as_ref()[..6]);
    format!("token-{kept}-{mark}").parse().expect("the characters were filtered, and there are 19 to 59 of them")
}

fn of_token(error: TrustError) -> Refusal {
    let code = match error {
        TrustError::Expired { .. } => CloseCode::Expired,
        _ => CloseCode::Unauthenticated,
    };
    refusal(code, error.to_string())
}

fn refusal(code: CloseCode, reason: String) -> Refusal {
    Refusal { code, reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_of_different_ids_are_different_publishers() {
        let ids = ["cam1", "Cam1", "Cam_1", "cam_1", "камера", "カメラ", "", &"x".repeat(80), &"x".repeat(81)];
        let names: std::collections::BTreeSet<NodeName> = ids.iter().map(|id| name_of_token(id)).collect();
        assert_eq!(names.len(), ids.len(), "{names:?}");
        assert_eq!(name_of_token("cam1").as_str(), "token-cam1");
        assert!(name_of_token("Cam_1").as_str().starts_with("token-cam1-"));
    }
}
