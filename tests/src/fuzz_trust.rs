//! The first words on a connection, what may follow them, and certificates: whatever is shown and said, nobody is taken for another, and nothing is
//! allowed that no genuine token allows.

use crate::fuzz_drawn::{Reader, UNIX};
use node::control::{self, CloseCode, Control, Hello, LENGTH, Refusal, Signed, VERSION, Version};
use node::greeting::{self, Renewal, Unwelcome};
use node::trust::{Authority, Claims, Direction, Identity, Role, Seal, TrustError, Verifier, peer_identity};
use rustls_pki_types::CertificateDer;
use std::collections::{BTreeSet, HashMap};
use std::sync::OnceLock;
use std::time::Duration;

const DAY: Duration = Duration::from_secs(86_400);

/// An overlay with a relay, a source and a sink, and another one that is none of ours.
struct Overlay {
    verifier: Verifier,
    identities: Vec<Identity>,
    /// By the number that fuzzed messages have for them; some expired, some of the other overlay.
    tokens: Vec<String>,
    /// What the genuine ones allow, and until when.
    genuine: HashMap<String, (Direction, u64)>,
}

impl Overlay {
    fn get() -> &'static Overlay {
        static OVERLAY: OnceLock<Overlay> = OnceLock::new();
        OVERLAY.get_or_init(|| Overlay::make().expect("keys can be made"))
    }

    fn make() -> Result<Overlay, TrustError> {
        let (ours, theirs) = (Authority::trial(UNIX)?, Authority::trial(UNIX)?);
        let identity = |name: &str, role| ours.issue(&name.parse().expect("a name"), role, UNIX, DAY);
        let identities =
            vec![identity("lon", Role::Relay)?, identity("studio", Role::Source)?, identity("viewer", Role::Sink)?];
        let (mut tokens, mut genuine) = (Vec::new(), HashMap::new());
        for direction in [Direction::Publish, Direction::Subscribe] {
            for lasts in [3_600, 30] {
                let (id, expires) = (format!("Token {}", tokens.len()), UNIX + lasts);
                let streams = "**".parse().expect("a pattern");
                let token =
                    ours.token_issuer(UNIX, DAY)?.issue(&Claims { id, streams, direction, max_rate: None, expires })?;
                genuine.insert(token.clone(), (direction, expires));
                tokens.push(token);
            }
            let streams = "**".parse().expect("a pattern");
            let claims = Claims { id: "theirs".to_owned(), streams, direction, max_rate: None, expires: UNIX + 3_600 };
            tokens.push(theirs.token_issuer(UNIX, DAY)?.issue(&claims)?);
        }
        let verifier = ours.credentials(None)?.verifier();
        Ok(Overlay { verifier, identities, tokens, genuine })
    }

    /// Some of the tokens, and what else the fuzzer writes in their place, changed or not.
    fn some_tokens(&self, data: &mut Reader<'_>) -> Vec<String> {
        let count = data.u8() % 4;
        let one = |data: &mut Reader<'_>| {
            let pick = data.u8();
            if pick >= 200 {
                let size = usize::from(data.u8());
                return String::from_utf8_lossy(data.bytes(size)).into_owned();
            }
            let mut token = self.tokens[usize::from(pick) % self.tokens.len()].clone().into_bytes();
            if pick >= 100 {
                let at = usize::from(data.u8()) % token.len();
                token[at] ^= 1 << (data.u8() % 7);
            }
            String::from_utf8_lossy(&token).into_owned()
        };
        (0..count).map(|_| one(data)).collect()
    }

    /// Each of the tokens is genuine and holds at `unix`.
    fn hold(&self, tokens: &[String], unix: u64) -> bool {
        tokens.iter().all(|token| self.genuine.get(token).is_some_and(|(_, expires)| *expires > unix))
    }

    fn allow(&self, tokens: &[String], direction: Direction) -> bool {
        tokens.iter().any(|token| self.genuine.get(token).is_some_and(|(allowed, _)| *allowed == direction))
    }
}

/// A connection from its first byte: a hello of the fuzzer's, whatever it shows beside it; then messages in any state; and what a relay answers.
pub fn handshake(data: &[u8]) {
    let overlay = Overlay::get();
    let mut data = Reader(data);
    let unix = UNIX + u64::from(data.u8());
    let shown = overlay.identities.get(usize::from(data.u8() % 5));
    let Some(body) = first_body(overlay, &mut data) else { return };
    let length = u32::try_from(body.len()).expect("it is short").to_be_bytes();
    let fits = greeting::first_size(length).is_ok();
    assert_eq!(fits, body.len() <= greeting::MAX_FIRST);
    let Ok(first) = greeting::first(&body) else { return };
    if let Err(Unwelcome::Refused(Refusal { reason, .. })) = greeting::welcome(first.clone()) {
        assert!(!reason.contains(|c: char| c.is_control()) && reason.chars().count() <= 300);
    }
    let Ok(hello) = greeting::hello(first) else { return };
    let certificate = shown.map(Identity::certificate);
    let nth = u64::from(data.u32());
    match greeting::caller(&hello, certificate, &overlay.verifier, nth, unix) {
        Ok(caller) => {
            assert!(overlay.hold(&hello.tokens, unix), "a token that does not hold");
            assert_eq!(caller.role, hello.role);
            assert_eq!(caller.grants.len(), different(&hello.tokens));
            match shown {
                Some(identity) => assert!(identity.name == caller.name && identity.role == caller.role),
                None => {
                    let wanted = if caller.role == Role::Sink { Direction::Subscribe } else { Direction::Publish };
                    assert!(caller.role != Role::Relay && overlay.allow(&hello.tokens, wanted));
                    assert!(caller.name.as_str().starts_with("token-"), "a name that a certificate may have");
                }
            }
            later(overlay, &mut data, hello.role, certificate.is_none(), unix);
        }
        Err(refusal) => assert!(refusal.code != CloseCode::Done && !refusal.reason.is_empty()),
    }
}

/// The same token again allows nothing more.
fn different(tokens: &[String]) -> usize {
    tokens.iter().collect::<BTreeSet<_>>().len()
}

fn first_body(overlay: &Overlay, data: &mut Reader<'_>) -> Option<Vec<u8>> {
    let choice = data.u8();
    if choice & 1 != 0 {
        return Some(data.0.to_vec());
    }
    let hello = Hello {
        version: Version { major: VERSION.major + u16::from(choice & 2 != 0), minor: data.u8().into() },
        features: data.u32().into(),
        role: [Role::Relay, Role::Source, Role::Sink][usize::from(data.u8() % 3)],
        tokens: overlay.some_tokens(data),
        agent: "fuzz".to_owned(),
        link: (choice & 4 != 0).then(|| "fibre".parse().expect("valid")),
    };
    let mut encoded = Vec::new();
    control::encode(&Control::Hello(hello), &mut encoded).ok()?;
    Some(encoded.split_off(LENGTH))
}

/// What comes after the handshake: other tokens, and messages that do not belong there.
fn later(overlay: &Overlay, data: &mut Reader<'_>, role: Role, by_token_alone: bool, mut unix: u64) {
    let renewal = Renewal::new(overlay.verifier.clone(), role, by_token_alone);
    while !data.is_empty() {
        let takes_tokens = data.u8() & 1 == 0;
        unix += u64::from(data.u8());
        let tokens = overlay.some_tokens(data);
        let message = Control::Tokens { tokens: tokens.clone() };
        assert_eq!(greeting::out_of_place(&message, takes_tokens).is_none(), takes_tokens);
        if let Ok(grants) = renewal.check(&tokens, unix) {
            assert!(overlay.hold(&tokens, unix) && grants.len() == different(&tokens));
            let wanted = if role == Role::Sink { Direction::Subscribe } else { Direction::Publish };
            assert!(!by_token_alone || overlay.allow(&tokens, wanted), "it has no right to be here any more");
        }
        let size = usize::from(data.u8());
        if let Ok(message) = control::decode(data.bytes(size)) {
            let again = matches!(message, Control::Hello(_) | Control::Welcome(_));
            assert!(!again || greeting::out_of_place(&message, takes_tokens).is_some());
        }
    }
}

/// Certificates that a relay's statement comes with, and statements: what nobody of this overlay signed is not believed, whatever it looks like. The first
/// byte says which part of a genuine one stands in the place of the fuzzer's.
pub fn certificate(data: &[u8]) {
    thread_local!(static SEALED: (Seal, Signed) = sealed().expect("keys can be made"));
    if let Some((choice, rest)) = data.split_first() {
        SEALED.with(|(seal, genuine)| statement(*choice, rest, seal, genuine));
    }
}

fn statement(choice: u8, rest: &[u8], seal: &Seal, genuine: &Signed) {
    if let Ok((name, _)) = peer_identity(&CertificateDer::from(rest)) {
        assert!(!name.as_str().is_empty());
    }
    let part = |bit: u8, genuine: &[u8]| if choice & bit != 0 { genuine.to_vec() } else { rest.to_vec() };
    let mut signed = Signed {
        body: part(1, &genuine.body),
        certificate: part(2, &genuine.certificate),
        signature: part(4, &genuine.signature),
    };
    if choice & 8 != 0 {
        // One changed bit in a genuine one.
        let mut data = Reader(rest);
        let (which, at, bit) = (data.u8(), usize::from(data.u16()), data.u8() % 8);
        signed = genuine.clone();
        let field = match which % 3 {
            0 => &mut signed.body,
            1 => &mut signed.certificate,
            _ => &mut signed.signature,
        };
        let at = at % field.len();
        field[at] ^= 1 << bit;
    }
    let believed = seal.open(&signed, UNIX).is_ok();
    assert_eq!(believed, signed == *genuine, "believed, though not as it was signed");
}

fn sealed() -> Result<(Seal, Signed), TrustError> {
    let authority = Authority::trial(UNIX)?;
    let identity = authority.issue(&"lon".parse().expect("a name"), Role::Relay, UNIX, DAY)?;
    let seal = authority.credentials(Some(&identity))?.seal()?.expect("it has a key");
    let message = Control::Goodbye { reason: "stopping".to_owned() };
    let signed = seal.sign(&message).expect("it can be encoded");
    Ok((seal, signed))
}
