//! What `anabranch-relay keys` does: a key directory made, and looked into, in one step each.

use super::certificate::{common_name, expires, peer_identity};
use super::token::peek;
use super::{Authority, Claims, Role, TokenIssuer, TrustError, files};
use std::path::Path;
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

/// Says in words what a certificate file, or a token (its text, or a file that holds it), is; dates in seconds since 1970, UTC. Shows no secret.
pub fn inspect(what: &str) -> Result<String, TrustError> {
    if what.starts_with("abt1.") {
        return describe_token(what);
    }
    let path = Path::new(what);
    let text = files::read(path)?;
    if text.trim_start().starts_with("abt1.") {
        return describe_token(text.trim());
    }
    let certificate = files::certificate(path)?;
    let until = expires(&certificate)?;
    Ok(match peer_identity(&certificate) {
        Ok((name, role)) => format!("certificate of {role} {name}, expires {until}"),
        Err(_) => format!("certificate of the authority of overlay {:?}, expires {until}", common_name(&certificate)?),
    })
}

fn describe_token(text: &str) -> Result<String, TrustError> {
    let Claims { id, streams, direction, max_rate, expires } = peek(text)?;
    let rate = max_rate.map_or_else(|| "any rate".to_owned(), |rate| format!("at most {} bit/s", rate.as_bps()));
    let verb = match direction {
        super::Direction::Publish => "publish",
        super::Direction::Subscribe => "subscribe to",
    };
    Ok(format!("token {id:?}: may {verb} {streams}, {rate}, expires {expires} (signature not checked)"))
}
