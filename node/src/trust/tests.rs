use super::*;
use crate::control::{CloseCode, Control};
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
    authority.credentials(None).unwrap().verifier()
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
    assert_eq!(credentials.identity(), Some((name("fra1"), Role::Relay)));
    let server = credentials.server_tls().unwrap();
    assert!(server.send_tls13_tickets == 0 && !server.session_storage.can_cache(), "no session is resumed");
    credentials.client_tls().unwrap();
    assert!(matches!(init(&keys, "acme", NOW, DAY), Err(TrustError::Exists(_))));
    assert!(matches!(issue_node(&keys, &name("fra1"), Role::Relay, NOW, DAY), Err(TrustError::Exists(_))));
    let text = issue_token(&keys, &claims(Direction::Publish)).unwrap();
    credentials.verifier().token(&text, NOW).unwrap();
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

#[test]
fn what_is_revoked_is_believed_no_more_and_the_list_cannot_be_shortened() {
    let directory = tempfile::tempdir().unwrap();
    let keys = directory.path();
    init(keys, "acme", NOW, DAY).unwrap();
    for node in ["a", "b"] {
        issue_node(keys, &name(node), Role::Relay, NOW, DAY).unwrap();
    }
    let running = Credentials::load(keys, Some(&name("a"))).unwrap();
    let of_b = Credentials::load(keys, Some(&name("b"))).unwrap();
    let certificate = Identity::load(keys, &name("b")).unwrap().certificate;
    let text = issue_token(keys, &claims(Direction::Publish)).unwrap();
    let (verifier, seal) = (running.verifier(), running.seal().unwrap().unwrap());
    let statement = of_b.seal().unwrap().unwrap().sign(&Control::Goodbye { reason: String::new() }).unwrap();
    assert!(verifier.token(&text, NOW).is_ok() && seal.open(&statement, NOW).is_ok());

    let list = revoke(keys, &[Revoked::File(keys.join("b.crt")), Revoked::Token("t-1".to_owned())]).unwrap();
    assert_eq!((list.number, list.certificates.len(), list.tokens.len()), (1, 1, 1));
    let first = std::fs::read_to_string(keys.join(REVOCATIONS)).unwrap();
    running.set_revocations(&first).unwrap();
    assert_eq!(verifier.token(&text, NOW).unwrap_err().to_string(), "the token \"t-1\" was revoked");
    let refused = verifier.identify(Some(&certificate), Role::Relay, &[], NOW).unwrap_err();
    assert_eq!(
        (refused.code, refused.reason.as_str()),
        (CloseCode::Unauthenticated, "the certificate of relay b was revoked")
    );
    assert!(matches!(seal.open(&statement, NOW), Err(TrustError::Revoked(_))), "what it said before it was revoked");
    assert!(Credentials::load(keys, None).unwrap().verifier().token(&text, NOW).is_err(), "read at start");

    // A node can have a new certificate under its old name.
    let issued = Authority::load(keys).unwrap().issue(&name("b"), Role::Relay, NOW, DAY).unwrap();
    assert!(verifier.identify(Some(&issued.certificate), Role::Relay, &[], NOW).is_ok());

    let second = revoke(keys, &[Revoked::Token("t-2".to_owned())]).unwrap();
    assert_eq!((second.number, second.tokens.len()), (2, 2), "it only grows");
    running.set_revocations(&std::fs::read_to_string(keys.join(REVOCATIONS)).unwrap()).unwrap();
    let older = running.set_revocations(&first).unwrap_err().to_string();
    assert!(older.contains("issue 1, older than issue 2"), "{older}");
    let foreign = Authority::trial(NOW).unwrap().sign_revocations(&RevocationList { number: 9, ..second }).unwrap();
    assert!(matches!(running.set_revocations(&foreign), Err(TrustError::Foreign(_))));
}

#[test]
fn no_changed_character_of_a_list_of_revocations_goes_unnoticed() {
    let authority = Authority::trial(NOW).unwrap();
    let list = RevocationList { number: 1, tokens: ["t".to_owned()].into(), ..RevocationList::default() };
    let text = authority.sign_revocations(&list).unwrap();
    let node = authority.credentials(None).unwrap();
    for i in 0..text.trim().len() {
        let mut bytes = text.clone().into_bytes();
        bytes[i] = if bytes[i] == b'A' { b'B' } else { b'A' };
        assert!(node.set_revocations(&String::from_utf8(bytes).unwrap()).is_err(), "character {i} changed");
        assert!(node.set_revocations(&text[..i]).is_err(), "cut at {i}");
    }
    node.set_revocations(&text).unwrap();
}

#[test]
fn every_file_of_a_key_directory_is_told_and_no_secret_shown() {
    let directory = tempfile::tempdir().unwrap();
    let keys = directory.path();
    init(keys, "acme", NOW, DAY).unwrap();
    issue_node(keys, &name("fra"), Role::Relay, NOW, DAY).unwrap();
    revoke(keys, &[Revoked::Token("t-1".to_owned())]).unwrap();
    for (file, words) in [
        ("fra.crt", "certificate of relay fra, expires 2027-01-16T08:00:00Z, sha256:"),
        ("fra.key", "private key of the certificate of relay fra, expires"),
        ("authority.key", "private key of the certificate of the authority of overlay \"acme\""),
        ("token.key", "key that signs tokens, expires 2027-01-16T08:00:00Z"),
        (REVOCATIONS, "list of revocations, issue 1 (signature not checked)\ntoken \"t-1\""),
    ] {
        let path = keys.join(file);
        let said = inspect(path.to_str().unwrap()).unwrap();
        assert!(said.starts_with(words) && !said.contains("CAN READ"), "{said}");
        let text = std::fs::read_to_string(&path).unwrap();
        let secret = text.lines().find(|line| !line.starts_with("-----")).unwrap();
        assert!(!said.contains(secret), "{said}");
    }
    // The group is that of the service.
    for (mode, warned) in [(0o600, false), (0o640, false), (0o660, true), (0o644, true), (0o602, true), (0o604, true)] {
        std::fs::set_permissions(keys.join("fra.key"), std::fs::Permissions::from_mode(mode)).unwrap();
        let said = inspect(keys.join("fra.key").to_str().unwrap()).unwrap();
        assert_eq!(said.contains("OTHERS CAN READ IT"), warned, "{mode:o}: {said}");
    }
}

#[test]
fn keys_and_the_list_of_revocations_come_to_be_in_force_each_without_the_other() {
    let directory = tempfile::tempdir().unwrap();
    let keys = directory.path();
    init(keys, "acme", NOW, DAY).unwrap();
    issue_node(keys, &name("a"), Role::Relay, NOW, DAY).unwrap();
    let token = issue_token(keys, &claims(Direction::Publish)).unwrap();
    let node = Credentials::load(keys, Some(&name("a"))).unwrap();
    let (first, key) = (node.fingerprint(), std::fs::read(keys.join("a.key")).unwrap());

    // Half of a pair was copied, and then a token is revoked.
    rotate_node(keys, &name("a"), NOW, DAY).unwrap();
    std::fs::write(keys.join("a.key"), key).unwrap();
    revoke(keys, &[Revoked::Token("t-1".to_owned())]).unwrap();
    let older = std::fs::read(keys.join(REVOCATIONS)).unwrap();
    let error = node.reload().unwrap_err().to_string();
    assert!(error.contains("a.key: expected the key of the certificate beside it"), "{error}");
    assert!(matches!(node.verifier().token(&token, NOW), Err(TrustError::Revoked(_))), "the list is in force");
    assert_eq!(node.fingerprint(), first, "the keys are not");

    // An older list lies beside a new pair.
    revoke(keys, &[Revoked::Token("t-2".to_owned())]).unwrap();
    assert!(node.reload().is_err());
    std::fs::write(keys.join(REVOCATIONS), older).unwrap();
    rotate_node(keys, &name("a"), NOW, DAY).unwrap();
    let error = node.reload().unwrap_err().to_string();
    assert!(error.contains("older than issue 2"), "{error}");
    assert_ne!(node.fingerprint(), first, "the keys are in force");

    std::fs::write(keys.join("a.key"), "rubbish").unwrap();
    let error = node.reload().unwrap_err().to_string();
    assert!(error.contains("a.key") && error.contains("older than issue 2"), "both are told: {error}");
}

#[test]
fn a_rotation_of_the_authority_that_was_interrupted_loses_no_key_and_is_ended_by_the_next_one() {
    let (before, after) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let copy = |from: &std::path::Path, file: &str, to: &std::path::Path, name: &str| {
        std::fs::copy(from.join(file), to.join(name)).unwrap();
    };
    init(before.path(), "acme", NOW, DAY).unwrap();
    for file in ["authority.crt", "authority.key", "token.key"] {
        copy(before.path(), file, after.path(), file);
    }
    rotate_authority(after.path(), NOW, DAY).unwrap();
    assert!(!after.path().join("authority.next.key").exists());

    // The new certificate counts, and the new key has not taken its place.
    let cut = tempfile::tempdir().unwrap();
    for file in ["authority.crt", "authority.old.key", "token.old.key"] {
        copy(after.path(), file, cut.path(), file);
    }
    for file in ["authority.key", "token.key"] {
        copy(before.path(), file, cut.path(), file);
    }
    copy(after.path(), "authority.key", cut.path(), "authority.next.key");
    let error = issue_node(cut.path(), &name("a"), Role::Relay, NOW, DAY).unwrap_err().to_string();
    assert!(error.contains("authority.key") && error.contains("`keys rotate authority` again"), "{error}");
    rotate_authority(cut.path(), NOW, DAY).unwrap();
    let read = |folder: &tempfile::TempDir, file: &str| std::fs::read(folder.path().join(file)).unwrap();
    assert_eq!(read(&cut, "authority.key"), read(&after, "authority.key"));
    let token = issue_token(cut.path(), &claims(Direction::Publish)).unwrap();
    finish_authority(cut.path()).unwrap();
    assert!(Credentials::load(cut.path(), None).unwrap().verifier().token(&token, NOW).is_ok(), "by the new one");

    // Only the old keys were kept: it begins again.
    copy(before.path(), "authority.key", before.path(), "authority.old.key");
    rotate_authority(before.path(), NOW, DAY).unwrap();
    issue_node(before.path(), &name("a"), Role::Relay, NOW, DAY).unwrap();
}

#[test]
fn a_list_of_revocations_that_nobody_would_read_is_not_written() {
    let directory = tempfile::tempdir().unwrap();
    let keys = directory.path();
    init(keys, "acme", NOW, DAY).unwrap();
    let tokens = |count: usize| (0..count).map(|nth| Revoked::Token(format!("{nth:064}"))).collect::<Vec<_>>();
    revoke(keys, &tokens(10_000)).unwrap();
    let before = std::fs::read(keys.join(REVOCATIONS)).unwrap();
    let error = revoke(keys, &tokens(13_000)).map(|list| list.number).unwrap_err().to_string();
    assert!(error.contains("revoked.list: expected a list of at most 1 MiB"), "{error}");
    assert_eq!(std::fs::read(keys.join(REVOCATIONS)).unwrap(), before);
    // With the list of the new authority it would be twice as large.
    let error = rotate_authority(keys, NOW, DAY).unwrap_err().to_string();
    assert!(error.contains("at most 1 MiB"), "{error}");
    issue_node(keys, &name("a"), Role::Relay, NOW, DAY).unwrap();
    Credentials::load(keys, None).unwrap();
}

#[test]
fn what_was_revoked_stays_so_when_the_file_goes_or_the_authority_is_another() {
    let directory = tempfile::tempdir().unwrap();
    let keys = directory.path();
    init(keys, "acme", NOW, DAY).unwrap();
    let token = issue_token(keys, &claims(Direction::Publish)).unwrap();
    let node = Credentials::load(keys, None).unwrap();
    let refused = |node: &Credentials| matches!(node.verifier().token(&token, NOW), Err(TrustError::Revoked(_)));
    assert!(node.verifier().token(&token, NOW).is_ok());
    revoke(keys, &[Revoked::Token("t-1".to_owned())]).unwrap();
    assert!(!node.reload().unwrap() && refused(&node), "no other keys, and the list in force");
    let list = std::fs::read(keys.join(REVOCATIONS)).unwrap();
    std::fs::remove_file(keys.join(REVOCATIONS)).unwrap();
    node.reload().unwrap();
    assert!(refused(&node), "a list that is gone");
    std::fs::write(keys.join(REVOCATIONS), list).unwrap();

    rotate_authority(keys, NOW, DAY).unwrap();
    assert!(node.reload().unwrap() && refused(&node), "both are believed");
    assert!(rotate_authority(keys, NOW, DAY).unwrap_err().to_string().contains("--finish"));
    assert!(refused(&Credentials::load(keys, None).unwrap()));
    finish_authority(keys).unwrap();
    assert!(node.reload().unwrap());
    assert!(matches!(node.verifier().token(&token, NOW), Err(TrustError::Foreign(_))), "of the old one");
    let of_new = issue_token(keys, &claims(Direction::Publish)).unwrap();
    assert!(
        matches!(node.verifier().token(&of_new, NOW), Err(TrustError::Revoked(_))),
        "the new one has revoked it, too"
    );
    assert!(finish_authority(keys).unwrap_err().to_string().contains("no rotation is under way"));
}

#[test]
fn a_revoked_certificate_does_not_come_back_in_another_form() {
    let directory = tempfile::tempdir().unwrap();
    let keys = directory.path();
    init(keys, "acme", NOW, DAY).unwrap();
    for node in ["a", "b"] {
        issue_node(keys, &name(node), Role::Relay, NOW, DAY).unwrap();
    }
    let running = Credentials::load(keys, Some(&name("a"))).unwrap();
    let of_b = Credentials::load(keys, Some(&name("b"))).unwrap();
    let seal = running.seal().unwrap().unwrap();
    let statement = of_b.seal().unwrap().unwrap().sign(&Control::Goodbye { reason: String::new() }).unwrap();
    let mut trailing = statement.certificate.clone();
    trailing.push(0);
    // The same length in three bytes more than it takes, which DER forbids and lenient readers pass over.
    let mut padded = vec![0x30, 0x84, 0, 0];
    padded.extend(&statement.certificate[2..]);
    assert_eq!(statement.certificate[1], 0x82, "the length of a certificate takes two bytes");
    revoke(keys, &[Revoked::File(keys.join("b.crt"))]).unwrap();
    running.set_revocations(&std::fs::read_to_string(keys.join(REVOCATIONS)).unwrap()).unwrap();
    for certificate in [statement.certificate.clone(), trailing, padded] {
        let der = rustls_pki_types::CertificateDer::from(certificate.clone());
        assert!(running.verifier().identify(Some(&der), Role::Relay, &[], NOW).is_err());
        let again = crate::control::Signed { certificate, ..statement.clone() };
        assert!(seal.open(&again, NOW).is_err(), "{} bytes", again.certificate.len());
    }
}
