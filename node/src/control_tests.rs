use super::*;
use proptest::prelude::*;

fn name(text: &str) -> NodeName {
    text.parse().unwrap()
}

fn stream() -> impl Strategy<Value = StreamName> {
    "[a-z]{1,8}/[A-Za-z0-9_.-]{1,20}".prop_map(|text| text.parse().unwrap())
}

fn edge() -> impl Strategy<Value = Edge> {
    ("[a-z0-9]{1,12}", "[a-z0-9]{1,12}", any::<u32>(), any::<u32>()).prop_map(|(from, to, rest_min_us, rest_max_us)| {
        Edge { from: name(&from), to: name(&to).into(), rest_min_us, rest_max_us }
    })
}

fn message() -> impl Strategy<Value = Control> {
    let module = prop::collection::vec(edge(), 0..5).prop_map(|edges| Module { edges });
    prop_oneof![
        (stream(), any::<(u64, u64, i64, u64)>(), prop::collection::vec(any::<(u32, u16)>(), 0..9)).prop_map(
            |(name, (on_time, late, missing, overflow), missed)| Control::Receipt(Receipt {
                name,
                incarnation: Incarnation(7),
                on_time,
                late,
                missing,
                overflow,
                ages: missed.iter().map(|(_, count)| ((count % 30) as u8, u32::from(*count))).collect(),
                missed,
            })
        ),
        (any::<(u32, u16, u8)>(), prop::collection::vec(any::<(u32, u16)>(), 0..9))
            .prop_map(|((id, handle, hops), missing)| Control::Whence(Whence { id, handle, missing, hops })),
        (any::<u32>(), prop::option::of(edge())).prop_map(|(id, edge)| {
            let hop = edge.map(|edge| (edge.from, edge.to));
            Control::Lost(Lost { id, missing: vec![(1, 2)], hop })
        }),
        (any::<u16>(), any::<u16>(), any::<u64>(), prop::collection::vec(".{0,40}", 0..4)).prop_map(
            |(major, minor, features, tokens)| Control::Hello(Hello {
                version: Version { major, minor },
                features,
                role: Role::Sink,
                tokens,
                agent: "test".to_owned(),
                link: (features % 2 == 1).then(|| "fibre".parse().expect("valid")),
            })
        ),
        (stream(), any::<u64>(), any::<u16>(), prop::collection::vec(module, 0..4)).prop_map(
            |(stream, incarnation, epoch, modules)| Control::Install(Install {
                sealed: epoch % 2 == 1,
                name: stream,
                incarnation: Incarnation(incarnation),
                ingress: name("a"),
                boot: 7,
                epoch,
                deadline_us: 200_000,
                content: Content::Ts,
                modules,
                reserve: Reserve { modules: epoch, ..Reserve::default() },
                target_ppb: 100,
            })
        ),
        (stream(), ".{0,60}").prop_map(|(name, reason)| Control::StreamRefused {
            name,
            refusal: Refusal { code: CloseCode::Forbidden, reason }
        }),
        (any::<u16>(), any::<bool>()).prop_map(|(handle, ended)| Control::StreamClose { handle, ended }),
    ]
}

fn encoded(message: &Control) -> Vec<u8> {
    let mut out = Vec::new();
    encode(message, &mut out).unwrap();
    out
}

proptest! {
    #[test]
    fn a_message_survives_the_wire(message in message()) {
        let bytes = encoded(&message);
        prop_assert_eq!(bytes.len(), encoded_size(&message).unwrap());
        prop_assert_eq!(body_size(bytes[..LENGTH].try_into().unwrap()).unwrap(), bytes.len() - LENGTH);
        prop_assert_eq!(decode(&bytes[LENGTH..]).unwrap(), message);
    }

    #[test]
    fn any_bytes_decode_or_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        if let Ok(message) = decode(&bytes) {
            prop_assert_eq!(decode(&encoded(&message)[LENGTH..]).unwrap(), message);
        }
    }

    #[test]
    fn a_message_cut_short_or_changed_does_no_harm(message in message(), at in any::<prop::sample::Index>(), bit in 0..8u8) {
        let bytes = encoded(&message);
        let mut body = bytes[LENGTH..].to_vec();
        let at = at.index(body.len());
        let _ = decode(&body[..at]);
        body[at] ^= 1u8 << bit;
        let _ = decode(&body);
    }
}

#[test]
fn what_a_newer_minor_version_appends_is_ignored() {
    let message = Control::StreamClose { handle: 3, ended: true };
    let mut body = encoded(&message)[LENGTH..].to_vec();
    body.extend_from_slice(b"a field of version 1.1");
    assert_eq!(decode(&body).unwrap(), message);
}

/// Both ways: what 1.2 appends is ignored by 1.1 (the test above), and what 1.1 does not send is taken for what it means.
#[test]
fn what_an_older_minor_version_leaves_out_is_not_sealed() {
    let name: StreamName = "a/b".parse().unwrap();
    let (incarnation, ingress, deadline_us, content) =
        (Incarnation(1), NodeName::clone(&self::name("a")), 9, Content::Ts);
    let messages = |sealed| {
        let (name, ingress, mode) = (name.clone(), ingress.clone(), Dissemination::Auto);
        let (wants, reserve) = (Wants::default(), Reserve::default());
        let publish =
            Publish { name: name.clone(), incarnation, deadline_us, high_priority: true, mode, content, sealed, wants };
        let open = StreamOpen {
            handle: 3,
            name: name.clone(),
            incarnation,
            ingress: ingress.clone(),
            deadline_us,
            content,
            sealed,
            target_ppb: 0,
        };
        let (boot, epoch, modules) = (1, 2, vec![Module { edges: Vec::new() }]);
        let install = Install {
            name,
            incarnation,
            ingress,
            boot,
            epoch,
            deadline_us,
            content,
            modules,
            sealed,
            reserve,
            target_ppb: 0,
        };
        [Control::Publish(publish), Control::StreamOpen(open), Control::Install(install)]
    };
    // Beyond that mark they say what is asked of links; since 1.3.
    for ((clear, sealed), beyond) in messages(false).into_iter().zip(messages(true)).zip([3, 1, 4]) {
        let mut body = encoded(&sealed)[LENGTH..].to_vec();
        assert_eq!(decode(&body).unwrap(), sealed);
        body.truncate(body.len() - beyond);
        assert_eq!(decode(&body).unwrap(), sealed, "as 1.2 sends it");
        assert_eq!(body.pop(), Some(1));
        assert_eq!(decode(&body).unwrap(), clear);
    }
}

#[test]
fn a_length_that_lies_is_refused() {
    let bytes = [u8::MAX; 12];
    assert!(matches!(decode(&bytes), Err(CodecError::Malformed(_))));
    assert!(matches!(body_size([1, 0, 0, 0]), Err(CodecError::TooLarge { size: 0x0100_0000 })));
    // A vector of 2^60 modules in a message of 30 bytes.
    let install = Control::Install(Install {
        name: "a/b".parse().unwrap(),
        incarnation: Incarnation(1),
        ingress: name("a"),
        boot: 1,
        epoch: 1,
        deadline_us: 1,
        content: Content::Ts,
        modules: Vec::new(),
        sealed: false,
        reserve: Reserve::default(),
        target_ppb: 0,
    });
    let mut body = encoded(&install)[LENGTH..].to_vec();
    // The target, what is reserved, the mark, and the number of modules.
    assert_eq!(body.split_off(body.len() - 6), [0; 6]);
    body.extend_from_slice(&[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x10]);
    assert!(matches!(decode(&body), Err(CodecError::Malformed(_))));
}

#[test]
fn a_message_too_large_is_not_begun() {
    let message = Control::Goodbye { reason: "x".repeat(MAX_MESSAGE) };
    let mut out = vec![1, 2, 3];
    assert!(matches!(encode(&message, &mut out), Err(CodecError::TooLarge { .. })));
    assert_eq!(out, [1, 2, 3]);
    assert!(encoded_size(&message).is_err());
}

#[test]
fn a_link_whose_name_cannot_be_read_is_not_the_one_without_a_name() {
    let hello = |link: Option<&str>| {
        let (version, role, tokens) = (VERSION, Role::Relay, Vec::new());
        let link = link.map(|link| link.parse().expect("valid"));
        encoded(&Control::Hello(Hello { version, features: 0, role, tokens, agent: String::new(), link }))
    };
    let mut named = hello(Some("fibre"))[LENGTH..].to_vec();
    let last = named.len() - 1;
    assert!(decode(&named).is_ok());
    named[last] = b'~';
    assert!(decode(&named).is_err());
    // Of a relay that knows of no names nothing is there.
    let without = hello(None);
    let older = decode(&without[LENGTH..without.len() - 1]);
    assert!(matches!(older, Ok(Control::Hello(Hello { link: None, .. }))), "{older:?}");
}

#[test]
fn the_version_is_read_whatever_follows_it() {
    let hello = Hello {
        version: Version { major: 7, minor: 300 },
        features: 0,
        role: Role::Relay,
        tokens: Vec::new(),
        agent: String::new(),
        link: None,
    };
    let mut body = encoded(&Control::Hello(hello))[LENGTH..].to_vec();
    body.truncate(4);
    body.extend_from_slice(&[0xff; 20]);
    assert!(decode(&body).is_err());
    assert_eq!(peek_version(&body), Some(Version { major: 7, minor: 300 }));
    assert_eq!(peek_version(&encoded(&Control::Goodbye { reason: "bye".to_owned() })[LENGTH..]), None);
}

#[test]
fn every_close_code_has_a_number_of_its_own() {
    for (code, number) in CloseCode::NUMBERS {
        assert_eq!(CloseCode::from_wire(u64::from(number)), code);
        assert_eq!(code.to_wire(), number);
    }
    assert_eq!(CloseCode::from_wire(4711), CloseCode::Protocol);
}

/// A sink of 1.2 does not tell how old packets were.
#[test]
fn a_receipt_without_ages_is_a_receipt() {
    let receipt = |ages| {
        let (name, incarnation, missed) = ("a/b".parse().unwrap(), Incarnation(1), vec![(7, 2)]);
        Control::Receipt(Receipt { name, incarnation, on_time: 9, late: 1, missing: -1, overflow: 0, missed, ages })
    };
    let with = receipt(vec![(3, 9)]);
    let mut body = encoded(&with)[LENGTH..].to_vec();
    assert_eq!(decode(&body).unwrap(), with);
    body.truncate(body.len() - 3);
    assert_eq!(decode(&body).unwrap(), receipt(Vec::new()));
}
