//! What `anabranch-relay keys` does: a key directory made, and looked into, in one step each.

use super::authorities::Authorities;
use super::authority::{KEY, NEXT_KEY, pem};
use super::certificate::{common_name, expires, fingerprint, peer_identity};
use super::files::{self, content};
use super::revocation::{self, RevocationList};
use super::stream_keys::{self, StreamKeys};
use super::token::peek;
use super::{Authority, Claims, Identity, Role, TokenIssuer, TrustError, hex};
use rustls_pki_types::CertificateDer;
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
    let mut lists = revocation::load(directory, &authorities(directory)?)?;
    let mut list = lists.remove(&authority.public_key()?).unwrap_or_default();
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
    write_revocations(directory, &authority, &list)?;
    Ok(list)
}

/// Puts a new authority above the one in `directory`, and a new key that signs tokens: from now on it issues everything, and who has the new
/// `authority.crt`, which holds both, believes both. What the old one has revoked the new one revokes, too. The keys of the old one are
/// moved to `authority.old.key` and `token.old.key`.
///
/// The new key is there before its certificate counts, and takes the place of the old one last. Where that is interrupted, the next call ends it.
pub fn rotate_authority(directory: &Path, now: u64, lifetime: Duration) -> Result<(), TrustError> {
    let old = match Authority::load_with(directory, KEY) {
        Ok(old) => old,
        Err(error) => {
            let Ok(new) = Authority::load_with(directory, NEXT_KEY) else { return Err(error) };
            return hand_over(directory, &new, now, lifetime);
        }
    };
    let path = directory.join("authority.crt");
    let believed = Authorities::load(&path)?;
    if believed.certificates().len() > 1 {
        let reason = "it holds another one already: end that rotation first (keys rotate authority --finish)";
        return Err(content(&path, "one authority", reason));
    }
    let new = Authority::create(old.overlay(), now, lifetime)?;
    let lists = revocation::load(directory, &believed)?;
    let revoked = lists.values().next().map(|list| text_of_revocations(directory, &new, list)).transpose()?;
    for (file, kept) in [(KEY, "authority.old.key"), ("token.key", "token.old.key")] {
        keep(&directory.join(file), &directory.join(kept))?;
    }
    files::write_new(&directory.join(NEXT_KEY), &new.key_pem(), true)?;
    if let Some(text) = revoked {
        files::replace(&directory.join(revocation::FILE), &text, false)?;
    }
    files::replace(&path, &(new.certificate_pem() + &old.certificate_pem()), false)?;
    hand_over(directory, &new, now, lifetime)
}

/// Copies a key that something else will take the place of. One that is there already, from a rotation that was interrupted, is as good.
fn keep(file: &Path, kept: &Path) -> Result<(), TrustError> {
    if !file.exists() {
        return Ok(());
    }
    let text = files::read(file)?;
    match files::write_new(kept, &text, true) {
        Err(TrustError::Exists(_)) if files::read(kept)? == text => Ok(()),
        written => written,
    }
}

/// The new authority, whose certificate counts and whose key lies beside the old one, takes over.
fn hand_over(directory: &Path, new: &Authority, now: u64, lifetime: Duration) -> Result<(), TrustError> {
    new.token_issuer(now, lifetime)?.replace(directory)?;
    files::rename(&directory.join(NEXT_KEY), &directory.join(KEY))
}

/// Ends a rotation: from now on who has the new `authority.crt` believes the new authority alone.
pub fn finish_authority(directory: &Path) -> Result<(), TrustError> {
    let path = directory.join("authority.crt");
    let believed = Authorities::load(&path)?;
    let [newest, _, ..] = believed.certificates() else {
        return Err(content(&path, "two authorities", "it holds one: no rotation is under way"));
    };
    let alone = Authorities::new(vec![newest.clone()])?;
    let authority = Authority::load(directory)?;
    if let Some(list) = revocation::load(directory, &alone)?.values().next() {
        files::replace(&directory.join(revocation::FILE), &authority.sign_revocations(list)?, false)?;
    }
    files::replace(&path, &pem("CERTIFICATE", newest), false)
}

/// Issues a new certificate and key to the node that has `NAME.crt` in `directory`, of the same role, in the place of the old ones.
pub fn rotate_node(directory: &Path, name: &NodeName, now: u64, lifetime: Duration) -> Result<Role, TrustError> {
    let Identity { role, .. } = Identity::load(directory, name)?;
    Authority::load(directory)?.issue(name, role, now, lifetime)?.replace(directory)?;
    Ok(role)
}

/// Makes a new key that signs tokens in the place of the old one. Tokens that the old one has signed stay good.
pub fn rotate_token_key(directory: &Path, now: u64, lifetime: Duration) -> Result<(), TrustError> {
    Authority::load(directory)?.token_issuer(now, lifetime)?.replace(directory)
}

fn authorities(directory: &Path) -> Result<Authorities, TrustError> {
    Authorities::load(&directory.join("authority.crt"))
}

/// Puts the list of an authority first in the file. The lines of the others stay.
fn write_revocations(directory: &Path, authority: &Authority, list: &RevocationList) -> Result<(), TrustError> {
    files::replace(&directory.join(revocation::FILE), &text_of_revocations(directory, authority, list)?, false)
}

/// What that file is to hold then. An error where nobody would read it.
fn text_of_revocations(directory: &Path, authority: &Authority, list: &RevocationList) -> Result<String, TrustError> {
    let path = directory.join(revocation::FILE);
    let mut text = authority.sign_revocations(list)?;
    let own = Authorities::new(vec![authority.certificate().clone()])?;
    if path.exists() {
        for line in files::read(&path)?.lines().filter(|line| revocation::open(line, &own).is_err()) {
            text += line;
            text.push('\n');
        }
    }
    if text.len() as u64 > files::MAX_FILE {
        let reason = format!(
            "it would be {} bytes, which no node reads, and was left as it is: end a rotation of the authority that is under way \
             (keys rotate authority --finish), or revoke by making a new overlay",
            text.len()
        );
        return Err(content(&path, "a list of at most 1 MiB", reason));
    }
    Ok(text)
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
    let described: Result<Vec<String>, TrustError> =
        files::certificates(path)?.iter().map(describe_certificate).collect();
    Ok(described?.join("\n"))
}

fn describe_certificate(certificate: &CertificateDer<'static>) -> Result<String, TrustError> {
    let (until, print) = (date(expires(certificate)?), hex(&fingerprint(certificate)));
    let whose = match peer_identity(certificate) {
        Ok((name, role)) => format!("{role} {name}"),
        Err(_) => format!("the authority of overlay {:?}", common_name(certificate)?),
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
    let warning = if files::open_beyond_group(path) { "; OTHERS CAN READ IT: chmod 600, or 640" } else { "" };
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
