//! The first words on a connection and what each end makes of them, and which may follow. Pure: [`crate::endpoint`] carries the bytes.
//!
//! The dialling end says [`Hello`]; the other answers [`Welcome`], or [`Control::Refused`] and closes. What a peer says before that is read up to
//! [`MAX_FIRST`] bytes, and nothing is kept of it.

use crate::control::{
    self, CloseCode, Control, Hello, LENGTH, NAMED_LINKS, RECEIPTS, Refusal, SURVEYS, TOKENS, VERSION, Version, Welcome,
};
use crate::trust::{Direction, Grant, Identified, Role, Verifier};
use rustls_pki_types::CertificateDer;
use topology::LinkName;

/// Optional features of this build, by bit.
pub const FEATURES: u64 = RECEIPTS | SURVEYS | TOKENS | NAMED_LINKS;

/// Largest first message: it is read before its sender is known.
pub const MAX_FIRST: usize = 32 * 1024;

/// Why a relay that was dialled is no neighbour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unwelcome {
    /// It refuses us.
    Refused(Refusal),
    /// What it said is not acceptable.
    Unacceptable(Refusal),
}

/// The size of a first message, from the bytes before it.
pub fn first_size(length: [u8; LENGTH]) -> Result<usize, Refusal> {
    let size = control::body_size(length).unwrap_or(usize::MAX);
    if size > MAX_FIRST {
        let reason = format!("a first message of {} bytes; at most {MAX_FIRST} are read", u32::from_be_bytes(length));
        return Err(breach(reason));
    }
    Ok(size)
}

/// A first message. One of another major version may not decode further than its version, and is refused for that.
pub fn first(body: &[u8]) -> Result<Control, Refusal> {
    match (control::decode(body), control::peek_version(body)) {
        (_, Some(version)) if version.major != VERSION.major => Err(wrong_version(version)),
        (Ok(message), _) => Ok(message),
        (Err(error), _) => Err(breach(error.to_string())),
    }
}

/// The first message of who dialled.
pub fn hello(message: Control) -> Result<Hello, Refusal> {
    let Control::Hello(hello) = message else {
        return Err(breach("expected a hello as the first message".to_owned()));
    };
    if hello.version.major != VERSION.major { Err(wrong_version(hello.version)) } else { Ok(hello) }
}

/// Who comes with this hello and, where TLS has accepted one, this certificate. `nth` counts the peers of the endpoint.
pub fn caller(
    hello: &Hello,
    certificate: Option<&CertificateDer<'_>>,
    verifier: &Verifier,
    nth: u64,
    unix: u64,
) -> Result<Identified, Refusal> {
    let mut caller = verifier.identify(certificate, hello.role, &hello.tokens, unix)?;
    if certificate.is_none() {
        token_alone(&mut caller, nth)?;
    }
    Ok(caller)
}

/// The first message of who was dialled.
pub fn welcome(message: Control) -> Result<Welcome, Unwelcome> {
    match message {
        Control::Welcome(welcome) if welcome.version.major == VERSION.major => Ok(welcome),
        Control::Welcome(welcome) => Err(Unwelcome::Unacceptable(wrong_version(welcome.version))),
        Control::Refused(refusal) => Err(Unwelcome::Refused(Refusal { reason: printable(&refusal.reason), ..refusal })),
        _ => Err(Unwelcome::Unacceptable(breach("it answered with something else than a welcome".to_owned()))),
    }
}

/// Which of the links between two relays one is that was dialled with `hello`, given the features of both ends.
pub fn link(hello: &Hello, features: u64) -> Result<Option<LinkName>, Refusal> {
    match &hello.link {
        Some(link) if features & NAMED_LINKS == 0 => Err(breach(format!(
            "it keeps one link to each relay, and this is to be another, {link}: it must speak 1.4"
        ))),
        link => Ok(link.clone()),
    }
}

/// What is wrong with a message after the first, where it is of those that belong to a connection and not to its end system. Who dialled takes no
/// tokens.
pub fn out_of_place(message: &Control, takes_tokens: bool) -> Option<&'static str> {
    match message {
        Control::Hello(_) | Control::Welcome(_) => Some("a second handshake"),
        Control::Tokens { .. } if !takes_tokens => Some("tokens from a relay"),
        Control::Renewed { .. } if takes_tokens => Some("an answer to tokens, and none were shown"),
        _ => None,
    }
}

/// Checks tokens in place of those that a peer came with.
#[derive(Debug)]
pub struct Renewal {
    verifier: Verifier,
    role: Role,
    /// It has no certificate: without a token for what it came for it has no place here.
    by_token_alone: bool,
}

impl Renewal {
    /// For a peer of this role.
    pub fn new(verifier: Verifier, role: Role, by_token_alone: bool) -> Renewal {
        Renewal { verifier, role, by_token_alone }
    }

    /// What the tokens allow, where each holds.
    pub fn check(&self, tokens: &[String], unix: u64) -> Result<Vec<Grant>, Refusal> {
        let grants = self.verifier.grants(tokens, unix)?;
        if self.by_token_alone {
            allows_to_come(self.role, &grants)?;
        }
        Ok(grants)
    }
}

/// What a peer says goes to logs and terminals: no control characters, and not without end.
pub fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(300).collect()
}

/// A peer without certificate needs a token for what it came for. A source keeps the name of its token, so that it is known
/// again when it restarts; sinks are numbered, because many may share a token.
fn token_alone(caller: &mut Identified, nth: u64) -> Result<(), Refusal> {
    allows_to_come(caller.role, &caller.grants)?;
    if caller.role == Role::Sink {
        let number = format!(".{nth}");
        let kept: String = caller.name.as_str().chars().take(63 - number.len()).collect();
        caller.name =
            (kept + &number).parse().map_err(|error| breach(format!("the token's id makes no name: {error}")))?;
    }
    Ok(())
}

/// Whether there is a token for what a peer without certificate comes for.
fn allows_to_come(role: Role, grants: &[Grant]) -> Result<(), Refusal> {
    let wanted = if role == Role::Sink { Direction::Subscribe } else { Direction::Publish };
    if grants.iter().any(|grant| grant.direction == wanted) {
        return Ok(());
    }
    let verb = if wanted == Direction::Publish { "publish" } else { "subscribe" };
    let reason = format!("a {role} without certificate needs a token to {verb}; it brought none");
    Err(Refusal { code: CloseCode::Forbidden, reason })
}

fn breach(reason: String) -> Refusal {
    Refusal { code: CloseCode::Protocol, reason }
}

fn wrong_version(theirs: Version) -> Refusal {
    let reason = format!("it speaks protocol {theirs}; expected {}.x", VERSION.major);
    Refusal { code: CloseCode::Version, reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_shown_by_who_dials_and_answered_by_the_other_end() {
        let (shown, answered) = (Control::Tokens { tokens: Vec::new() }, Control::Renewed { refusal: None });
        for answers in [true, false] {
            assert_eq!(out_of_place(&shown, answers).is_none(), answers);
            assert_eq!(out_of_place(&answered, answers).is_none(), !answers);
        }
    }

    #[test]
    fn a_link_with_a_name_needs_both_ends_to_know_of_names() {
        let hello = |link: Option<&str>| Hello {
            version: VERSION,
            features: FEATURES,
            role: Role::Relay,
            tokens: Vec::new(),
            agent: String::new(),
            link: link.map(|link| link.parse().expect("valid")),
        };
        let older = FEATURES & !NAMED_LINKS;
        assert_eq!(link(&hello(None), older), Ok(None));
        assert_eq!(link(&hello(Some("sat")), FEATURES), Ok(hello(Some("sat")).link));
        assert!(link(&hello(Some("sat")), older).is_err_and(|refusal| refusal.reason.contains("sat")));
    }
}
