//! Name and role inside a certificate: a subject alternative name `anabranch://ROLE/NAME` (a URI, RFC 5280 §4.2.1.6).

use super::{Role, TrustError};
use ed25519_dalek::{Signature, VerifyingKey};
use rustls::crypto::aws_lc_rs;
use rustls_pki_types::CertificateDer;
use topology::NodeName;
use x509_parser::oid_registry::OID_SIG_ED25519;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

const SCHEME: &str = "anabranch://";

/// The URI that carries name and role.
pub(super) fn identity_uri(role: Role, name: &NodeName) -> String {
    format!("{SCHEME}{role}/{name}")
}

/// Name and role in a certificate. Says nothing of who signed it: TLS has checked that.
pub fn peer_identity(certificate: &CertificateDer<'_>) -> Result<(NodeName, Role), TrustError> {
    let parsed = parse(certificate)?;
    let names = parsed.subject_alternative_name().map_err(malformed)?;
    let uri = names.iter().flat_map(|extension| &extension.value.general_names).find_map(|name| match name {
        GeneralName::URI(uri) => uri.strip_prefix(SCHEME),
        _ => None,
    });
    let (role, name) = uri
        .and_then(|rest| rest.split_once('/'))
        .ok_or_else(|| malformed("it names no role (anabranch://ROLE/NAME)"))?;
    let name = name.parse().map_err(malformed)?;
    Ok((name, role.parse()?))
}

/// The ed25519 public key in a certificate.
pub(super) fn public_key(certificate: &CertificateDer<'_>) -> Result<[u8; 32], TrustError> {
    let parsed = parse(certificate)?;
    <[u8; 32]>::try_from(parsed.public_key().subject_public_key.data.as_ref())
        .map_err(|_| malformed("its key is no ed25519 key"))
}

/// The common name of the subject: of an authority's certificate, the name of the overlay.
pub(super) fn common_name(certificate: &CertificateDer<'_>) -> Result<String, TrustError> {
    let parsed = parse(certificate)?;
    let name = parsed.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
    Ok(name.unwrap_or_default().to_owned())
}

/// Whether the holder of this ed25519 key signed a certificate.
pub(super) fn signed_by(certificate: &CertificateDer<'_>, key: &[u8; 32]) -> Result<bool, TrustError> {
    let parsed = parse(certificate)?;
    let key = VerifyingKey::from_bytes(key).map_err(malformed)?;
    let is_ed25519 = parsed.signature_algorithm.algorithm == OID_SIG_ED25519;
    let signature = Signature::from_slice(&parsed.signature_value.data);
    let verified =
        signature.is_ok_and(|signature| key.verify_strict(parsed.tbs_certificate.as_ref(), &signature).is_ok());
    Ok(is_ed25519 && verified)
}

/// When a certificate's time is over: seconds since 1970, UTC.
pub(super) fn expires(certificate: &CertificateDer<'_>) -> Result<u64, TrustError> {
    Ok(u64::try_from(parse(certificate)?.validity().not_after.timestamp()).unwrap_or(0))
}

/// SHA-256 of a certificate in DER.
pub(super) fn fingerprint(certificate: &CertificateDer<'_>) -> [u8; 32] {
    let mut print = [0; 32];
    let suite = aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256.tls13().expect("it is a suite of TLS 1.3");
    print.copy_from_slice(suite.common.hash_provider.hash(certificate).as_ref());
    print
}

/// A certificate in the one form that what is signed in it has. In any other it would be the same to who checks the signature, and another to who
/// looks for its [`fingerprint`] among those that are revoked.
fn parse<'a>(certificate: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, TrustError> {
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(malformed)?;
    let algorithm = [0x30, 5, 6, 3, 0x2B, 0x65, 0x70];
    let signature = element(3, &[&[0], &*parsed.signature_value.data]);
    if element(0x30, &[parsed.tbs_certificate.as_ref(), &algorithm, &signature]) != certificate.as_ref() {
        return Err(malformed("it is not in the form that ed25519 certificates have in DER"));
    }
    Ok(parsed)
}

/// An element in DER (ITU-T X.690) with this content.
fn element(tag: u8, content: &[&[u8]]) -> Vec<u8> {
    let size: usize = content.iter().map(|part| part.len()).sum();
    let bytes: Vec<u8> = size.to_be_bytes().into_iter().skip_while(|byte| *byte == 0).collect();
    let mut element = vec![tag];
    if size < 0x80 {
        element.push(size as u8);
    } else {
        // At most eight bytes.
        element.push(0x80 | bytes.len() as u8);
        element.extend(bytes);
    }
    element.extend(content.concat());
    element
}

fn malformed(reason: impl ToString) -> TrustError {
    TrustError::Malformed { what: "certificate of a node", reason: reason.to_string() }
}
