//! What rules do, and what is said of it; expected texts are those of redis-server 7.0.15 for the same rules.

use super::*;
use proptest::prelude::*;

fn user_of(rules: &str) -> std::result::Result<User, RuleError> {
    let mut user = User::new(b"x");
    let words = merge(rules.split(' ').map(str::as_bytes)).unwrap();
    for rule in words {
        apply(&mut user, &rule)?;
    }
    Ok(user)
}

fn described(rules: &str) -> String {
    let user = user_of(rules).unwrap_or_else(|error| panic!("{rules}: {error:?}"));
    String::from_utf8(describe(&user)).unwrap()
}

#[test]
fn the_normal_form_is_that_of_redis() {
    for (rules, form) in [
        ("", "user x off resetchannels -@all"),
        ("reset", "user x off sanitize-payload resetchannels -@all"),
        ("on nopass ~* &* +@all", "user x on nopass ~* &* +@all"),
        (
            "ON skip-sanitize-payload AllKeys AllChannels ALLCOMMANDS",
            "user x on skip-sanitize-payload ~* &* +@all",
        ),
        ("%R~a %w~b %RW~c ~d %R~d &x +get", "user x off %R~a %W~b ~c ~d resetchannels &x -@all +get"),
        ("%RW~* ~b", "user x off %RW~* ~b resetchannels -@all"),
        ("%R", "user x off %R~ resetchannels -@all"),
        ("~ &", "user x off ~ resetchannels & -@all"),
        ("~a ~* resetkeys ~b &a &* resetchannels &c", "user x off ~b resetchannels &c -@all"),
        (
            ">abc",
            "user x off #ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad resetchannels -@all",
        ),
        (">abc >abc <abc", "user x off resetchannels -@all"),
        (">abc nopass", "user x off nopass resetchannels -@all"),
        (">abc nopass resetpass", "user x off resetchannels -@all"),
        ("+GET|Foo +get|foo +get|bar", "user x off resetchannels -@all +get|Foo +get|bar"),
        ("+get|foo +get", "user x off resetchannels -@all +get"),
        ("+get|foo -@read", "user x off resetchannels -@all"),
        ("+get|foo +@all -get", "user x off resetchannels +@all -get"),
        ("+@all -get +get|foo", "user x off resetchannels +@all -get +get|foo"),
        ("+config", "user x off resetchannels -@all +config"),
        ("+config|get", "user x off resetchannels -@all +config|get"),
        ("+config -config|set", "user x off resetchannels -@all +config -config|set"),
        ("+@all -config|set", "user x off resetchannels +@all -config|set"),
        (
            "( +get ) (~a +@read -get)",
            "user x off resetchannels -@all (resetchannels -@all +get) (~a resetchannels -@all +@read -get)",
        ),
        ("(+get) clearselectors", "user x off resetchannels -@all"),
        ("()", "user x off resetchannels -@all (resetchannels -@all)"),
        // Of an unfinished selector that another one follows, nothing is left.
        ("(~a (+get )", "user x off resetchannels -@all (resetchannels -@all +get)"),
        // A list of words whose quotes do not close has no words.
        ("(~a \"+get)", "user x off resetchannels -@all (resetchannels -@all)"),
    ] {
        assert_eq!(described(rules), form, "{rules}");
    }
}

#[test]
fn rules_that_are_none_are_refused_as_in_redis() {
    use RuleError::{
        AllChannels, AllKeys, FirstArgumentOfSubcommand, NoDigest, NoPassword, Syntax, TooMuch, Unknown,
    };
    let long = format!("~{}", "k".repeat(PATTERN_BYTES_MAX + 1));
    for (rules, error) in [
        ("bogus", Syntax),
        ("%RR~a", Syntax),
        ("%X~a", Syntax),
        ("%~a", Syntax),
        ("%", Syntax),
        ("~* ~a", AllKeys),
        ("~* %R~a", AllKeys),
        ("&* &a", AllChannels),
        ("+", Unknown),
        ("-", Unknown),
        ("+@", Unknown),
        ("+nosuch", Unknown),
        ("-nosuch", Unknown),
        ("+@nosuch", Unknown),
        ("+config|nosuch", Unknown),
        ("+nosuch|get", Unknown),
        ("+config|get|x", FirstArgumentOfSubcommand),
        ("+config|", Syntax),
        ("-get|x", Unknown),
        ("#abc", NoDigest),
        ("!abc", NoDigest),
        ("#BA7816BF8F01CFEA414140DE5DAE2223B00361A396177A9CB410FF61F20015AD", NoDigest),
        ("<abc", NoPassword),
        ("(on)", Syntax),
        ("(+nosuch)", Unknown),
        ("((+get))", Syntax),
        ("(~\"a)\")", Syntax),
        ("(~\"a\\\"b\")", Syntax),
        (&long, TooMuch),
    ] {
        assert_eq!(user_of(rules).unwrap_err(), error, "{rules}");
    }
    assert_eq!(apply(&mut User::new(b"x"), b"~a b"), Err(Syntax));
    assert_eq!(apply(&mut User::new(b"x"), b"&a\0"), Err(Syntax));
    // Written to a file, that would be a rule of its own.
    assert_eq!(apply(&mut User::new(b"x"), b"+get|a +@all"), Err(Syntax));
    assert_eq!(merge([&b"on"[..], b"(~a", b"+get"].into_iter()), Err(1));
}

#[test]
fn what_a_user_takes_is_bounded() {
    let mut user = User::new(b"x");
    let refused = (0..RULES_MAX).map(|number| apply(&mut user, format!("~key{number}").as_bytes()));
    assert!(refused.into_iter().any(|result| result == Err(RuleError::TooMuch)));
    let mut user = User::new(b"x");
    let refused = (0..RULES_MAX).map(|_| apply(&mut user, b"(+get)"));
    assert!(refused.into_iter().any(|result| result == Err(RuleError::TooMuch)));
    assert_eq!(apply(&mut User::new(b"x"), &vec![b'~'; USER_BYTES_MAX + 1]), Err(RuleError::TooMuch));
}

/// Rules of any kind, and words that are none.
fn any_rule() -> impl Strategy<Value = String> {
    let command = prop_oneof![
        Just("get"),
        Just("set"),
        Just("config"),
        Just("config|get"),
        Just("client|list"),
        Just("lpush"),
        Just("acl"),
        Just("select|0"),
        Just("xgroup"),
        Just("debug"),
    ];
    let category = prop::sample::select(rights::categories().map(|(name, _)| name).collect::<Vec<_>>());
    prop_oneof![
        (prop_oneof![Just('+'), Just('-')], command).prop_map(|(sign, name)| format!("{sign}{name}")),
        (prop_oneof![Just("+@"), Just("-@")], category).prop_map(|(sign, name)| format!("{sign}{name}")),
        prop::sample::select(vec![
            "on",
            "off",
            "nopass",
            "resetpass",
            ">a",
            "<a",
            "allkeys",
            "resetkeys",
            "allchannels",
            "resetchannels",
            "+@all",
            "-@all",
            "reset",
            "clearselectors",
            "sanitize-payload",
            "skip-sanitize-payload",
        ])
        .prop_map(str::to_owned),
        "[~&][a-c*?]{0,3}",
        "%[RWrw]{1,2}~[a-c*]{0,2}",
        "\\((~[ab]|%R~[ab]|\\+@read|\\+get| ){0,4}\\)",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]
    /// The normal form leads to the same user, and says the same of it.
    #[test]
    fn the_normal_form_is_read_back(rules in prop::collection::vec(any_rule(), 0..12)) {
        let mut user = User::new(b"x");
        for rule in &rules {
            let before = user.clone();
            if apply(&mut user, rule.as_bytes()).is_err() {
                user = before;
            }
        }
        let text = describe(&user);
        let words = text.split(|byte| *byte == b' ').skip(2);
        let mut again = User::new(b"x");
        for rule in merge(words).unwrap() {
            prop_assert_eq!(apply(&mut again, &rule), Ok(()), "{}", String::from_utf8_lossy(&rule));
        }
        prop_assert_eq!(describe(&again), text);
        prop_assert_eq!(again, user);
    }

    #[test]
    fn any_bytes(rules in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 0..8)) {
        let mut user = User::new(b"x");
        for rule in merge(rules.iter().map(Vec::as_slice)).unwrap_or_default() {
            let _ = apply(&mut user, &rule);
        }
        describe(&user);
    }
}
