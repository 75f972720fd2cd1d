//! What `anabranch-relay keys` does: a key directory made, and looked into, in one step each.

use super::certificate::{common_name, expires, fingerprint, peer_identity};
use super::files::{self, content};
use super::revocation::{self, RevocationList};
use super::stream_keys::{self, StreamKeys};
use super::token::peek;
use super::{Authority, Claims, Role, TokenIssuer, TrustError, hex};
use std::path::{Path, PathBuf};
use std::time::Duration;
use topology::NodeName;

/// Makes the authority of a new overlay, and the key that signs its tokens, in `directory`.
pub fn init(directory: &Path, overlay: &str, now: u64, lifetime: Duration) -> Result<(), TrustError> {
    files::make_directory(directory)?;
    let authority = Authority::create(overlay, now, lifetime)?;
    authority.save(directory)?;
    authority.token_issuer(now, lifetime)?.save(directory)
}

/// Issues certificate and key of a node into `directory`, by the authority that lies there.
pub fn issue_node(
    directory: &Path,
    name: &NodeName,
    role: Role,
    now: u64,
    lifetime: Duration,
) -> Result<(), TrustError> {
    Authority::load(directory)?.issue(name, role, now, lifetime)?.save(directory)
}

/// Signs a token with the token key that lies in `directory`; returns its text.
pub fn issue_token(directory: &Path, claims: &Claims) -> Result<String, TrustError> {
    TokenIssuer::load(directory)?.issue(claims)
}

/// What is to be revoked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Revoked {
    /// A certificate, or a token, in a file.
    File(PathBuf),
    /// A token, by its id.
    Token(String),
}

/// Adds to the list of revocations in `directory`, signed by the authority that lies there; returns the list as it is now.
///
/// Certificates are revoked one by one, so that a node can have a new one under the same name. Tokens are revoked by id: every token of that id.
pub fn revoke(directory: &Path, what: &[Revoked]) -> Result<RevocationList, TrustError> {
    let authority = Authority::load(directory)?;
    let mut list = RevocationList::load(directory, &authority.public_key()?)?;
    for revoked in what {
        match revoked {
            Revoked::Token(id) => drop(list.tokens.insert(id.clone())),
            Revoked::File(path) => {
                let text = files::read(path)?;
                if text.trim_start().starts_with("abt1.") {
                    list.tokens.insert(peek(&text)?.id);
                    continue;
                }
                let certificate = files::certificate(path)?;
                if peer_identity(&certificate).is_err() {
                    return Err(content(path, "the certificate of a node, or a token", "it names no node"));
                }
                list.certificates.insert(fingerprint(&certificate));
            }
        }
    }
    list.number += 1;
    files::replace(&directory.join(revocation::FILE), &authority.sign_revocations(&list)?, false)?;
    Ok(list)
}

/// Says in words what a file of a key directory, or a token (its text, or a file that holds it), is: name, role, expiry (UTC), and the
/// SHA-256 fingerprint of a certificate. Shows no secret; of a private key it says what it is for, and whether others can read it.
pub fn inspect(what: &str) -> Result<String, TrustError> {
    if what.starts_with("abt1.") {
        return describe_token(what);
    }
    let path = Path::new(what);
    let text = files::read(path)?;
    if text.trim_start().starts_with("abt1.") {
        return describe_token(text.trim());
    }
    if text.trim_start().starts_with(revocation::PREFIX) {
        return revocation::describe(&text);
    }
    if stream_keys::is_file_of_keys(&text) {
        let warning = if files::open_to_others(path) { "; OTHERS CAN READ IT: chmod 600" } else { "" };
        return Ok(StreamKeys::parse(&text)?.describe() + warning);
    }
    if path.extension().is_some_and(|extension| extension == "key") {
        return describe_key(path);
    }
    let certificate = files::certificate(path)?;
    let (until, print) = (date(expires(&certificate)?), hex(&fingerprint(&certificate)));
    let whose = match peer_identity(&certificate) {
        Ok((name, role)) => format!("{role} {name}"),
        Err(_) => format!("the authority of overlay {:?}", common_name(&certificate)?),
    };
    Ok(format!("certificate of {whose}, expires {until}, sha256:{print}"))
}

/// A private key is told by what lies beside it: by itself it says neither whose it is nor until when.
fn describe_key(path: &Path) -> Result<String, TrustError> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let said = if path.file_name().is_some_and(|name| name == "token.key") {
        format!("key that signs tokens, expires {}", date(TokenIssuer::load(directory)?.expires()))
    } else {
        files::private_key(path)?;
        match path.with_extension("crt") {
            beside if beside.exists() => format!("private key of the {}", inspect(&beside.to_string_lossy())?),
            _ => "private key; its certificate is not beside it".to_owned(),
        }
    };
    let warning = if files::open_to_others(path) { "; OTHERS CAN READ IT: chmod 600" } else { "" };
    Ok(said + warning)
}

fn describe_token(text: &str) -> Result<String, TrustError> {
    let Claims { id, streams, direction, max_rate, expires } = peek(text)?;
    let rate = max_rate.map_or_else(|| "any rate".to_owned(), |rate| format!("at most {} bit/s", rate.as_bps()));
    let verb = match direction {
        super::Direction::Publish => "publish",
        super::Direction::Subscribe => "subscribe to",
    };
    let until = date(expires);
    Ok(format!("token {id:?}: may {verb} {streams}, {rate}, expires {until} (signature not checked)"))
}

/// Seconds since 1970 as a date (RFC 3339).
fn date(unix: u64) -> String {
    let date = i64::try_from(unix).ok().and_then(|unix| time::OffsetDateTime::from_unix_timestamp(unix).ok());
    let text = date.and_then(|date| date.format(&time::format_description::well_known::Rfc3339).ok());
    text.unwrap_or_else(|| format!("{unix} s after 1970"))
}
