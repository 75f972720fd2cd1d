use super::*;
use crate::control::CloseCode;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;
use topology::NodeName;

const NOW: u64 = 1_800_000_000;
const DAY: Duration = Duration::from_secs(86_400);

fn claims(direction: Direction) -> Claims {
    Claims {
        id: "t-1".to_owned(),
        streams: "news/*".parse().unwrap(),
        direction,
        max_rate: Some(Bitrate::mbps(20)),
        expires: NOW + 60,
    }
}

fn name(text: &str) -> NodeName {
    text.parse().unwrap()
}

fn verifier(authority: &Authority) -> Verifier {
    authority.credentials(None).unwrap().verifier().unwrap()
}

#[test]
fn a_token_is_believed_until_it_expires() {
    let authority = Authority::trial(NOW).unwrap();
    let text = authority.token_issuer(NOW, DAY).unwrap().issue(&claims(Direction::Publish)).unwrap();
    let verifier = verifier(&authority);
    let grant = verifier.token(&text, NOW).unwrap();
    assert_eq!((grant.id.as_str(), grant.direction), ("t-1", Direction::Publish));
    assert!(matches!(verifier.token(&text, NOW + 60), Err(TrustError::Expired { what: "token", .. })));
}

#[test]
fn a_token_dies_with_the_key_that_signed_it() {
    let authority = Authority::trial(NOW).unwrap();
    let long = Claims { expires: NOW + 10 * 86_400, ..claims(Direction::Publish) };
    let text = authority.token_issuer(NOW, DAY).unwrap().issue(&long).unwrap();
    assert!(verifier(&authority).token(&text, NOW).is_ok());
    assert!(matches!(verifier(&authority).token(&text, NOW + 86_400), Err(TrustError::Expired { .. })));
}

#[test]
fn a_token_of_another_overlay_is_refused() {
    let (ours, theirs) = (Authority::trial(NOW).unwrap(), Authority::trial(NOW).unwrap());
    let text = theirs.token_issuer(NOW, DAY).unwrap().issue(&claims(Direction::Subscribe)).unwrap();
    assert!(matches!(verifier(&ours).token(&text, NOW), Err(TrustError::Foreign("token"))));
}

#[test]
fn no_changed_character_of_a_token_goes_unnoticed() {
    let authority = Authority::trial(NOW).unwrap();
    let text = authority.token_issuer(NOW, DAY).unwrap().issue(&claims(Direction::Publish)).unwrap();
    let verifier = verifier(&authority);
    for i in 0..text.len() {
        let mut bytes = text.clone().into_bytes();
        bytes[i] = if bytes[i] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(bytes).unwrap();
        assert!(verifier.token(&changed, NOW).is_err(), "character {i} changed");
        assert!(verifier.token(&text[..i], NOW).is_err(), "cut at {i}");
    }
}

#[test]
fn roles_come_from_certificates() {
    let authority = Authority::trial(NOW).unwrap();
    let verifier = verifier(&authority);
    let identity = authority.issue(&name("studio"), Role::Source, NOW, DAY).unwrap();
    let certificate = Some(&identity.certificate);
    let identified = verifier.identify(certificate, Role::Source, &[], NOW).unwrap();
    assert_eq!((identified.name, identified.role), (name("studio"), Role::Source));
    let refused = verifier.identify(certificate, Role::Relay, &[], NOW).unwrap_err();
    assert_eq!(refused.code, CloseCode::Forbidden);
    assert_eq!(refused.reason, "studio comes as a relay, but its certificate is that of a source");
}

#[test]
fn a_token_alone_admits_sources_and_sinks_but_no_relay() {
    let authority = Authority::trial(NOW).unwrap();
    let verifier = verifier(&authority);
    let tokens = [authority.token_issuer(NOW, DAY).unwrap().issue(&claims(Direction::Subscribe)).unwrap()];
    let identified = verifier.identify(None, Role::Sink, &tokens, NOW).unwrap();
    assert_eq!(identified.name, name("token-t-1"));
    assert_eq!(verifier.identify(None, Role::Relay, &tokens, NOW).unwrap_err().code, CloseCode::Unauthenticated);
    assert_eq!(verifier.identify(None, Role::Sink, &[], NOW).unwrap_err().code, CloseCode::Unauthenticated);
    assert_eq!(verifier.identify(None, Role::Sink, &tokens, NOW + 61).unwrap_err().code, CloseCode::Expired);
}

#[test]
fn a_key_directory_is_made_read_and_never_overwritten() {
    let directory = tempfile::tempdir().unwrap();
    let keys = directory.path().join("keys");
    init(&keys, "acme", NOW, DAY).unwrap();
    issue_node(&keys, &name("fra1"), Role::Relay, NOW, DAY).unwrap();
    for secret in ["authority.key", "token.key", "fra1.key"] {
        let mode = std::fs::metadata(keys.join(secret)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{secret}");
    }
    let credentials = Credentials::load(&keys, Some(&name("fra1"))).unwrap();
    assert_eq!(credentials.identity(), Some((&name("fra1"), Role::Relay)));
    credentials.server_tls().unwrap();
    credentials.client_tls().unwrap();
    assert!(matches!(init(&keys, "acme", NOW, DAY), Err(TrustError::Exists(_))));
    assert!(matches!(issue_node(&keys, &name("fra1"), Role::Relay, NOW, DAY), Err(TrustError::Exists(_))));
    let text = issue_token(&keys, &claims(Direction::Publish)).unwrap();
    credentials.verifier().unwrap().token(&text, NOW).unwrap();
    let said = inspect(&text).unwrap();
    assert!(said.starts_with("token \"t-1\": may publish news/*, at most 20000000 bit/s"), "{said}");
    let said = inspect(keys.join("fra1.crt").to_str().unwrap()).unwrap();
    assert!(said.starts_with("certificate of relay fra1"), "{said}");
    let said = inspect(keys.join("authority.crt").to_str().unwrap()).unwrap();
    assert!(said.starts_with("certificate of the authority of overlay \"acme\""), "{said}");
}

#[test]
fn what_is_missing_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let error = Credentials::load(directory.path(), None).unwrap_err().to_string();
    assert!(error.contains("authority.crt"), "{error}");
    std::fs::write(directory.path().join("authority.crt"), "rubbish").unwrap();
    let error = Credentials::load(directory.path(), None).unwrap_err().to_string();
    assert!(error.contains("authority.crt: expected a certificate in PEM"), "{error}");
}

#[test]
fn debug_output_holds_no_key() {
    let authority = Authority::trial(NOW).unwrap();
    let identity = authority.issue(&name("a"), Role::Relay, NOW, DAY).unwrap();
    let credentials = authority.credentials(Some(&identity)).unwrap();
    let secret = format!("{:?}", identity.key.secret_der());
    let shown = format!("{authority:?} {identity:?} {credentials:?} {:?}", authority.token_issuer(NOW, DAY).unwrap());
    assert!(!shown.contains(&secret[1..40]), "{shown}");
}
