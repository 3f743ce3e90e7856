//! Random damage: whatever is changed, a request passes only if the independent signer would have
//! signed it just so.

use std::sync::LazyLock;

use proptest::prelude::*;

use super::*;

/// The verifiers, made once: making them is not what is tested here.
static VERIFIERS: LazyLock<[Verifier; 5]> = LazyLock::new(|| Sender::ALL.map(Sender::verifier));

#[derive(Debug, Clone)]
enum Damage {
    Body { at: usize, to: u8 },
    BodyLonger(u8),
    BodyShorter,
    Signature { at: usize, to: char },
    SignatureShorter(usize),
    Time { digit: usize, to: char },
    Id(String),
    Nothing,
}

/// 4000 cases, or as many as `PROPTEST_CASES` says.
fn config() -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(4000);
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

fn damage() -> impl Strategy<Value = Damage> {
    let character = prop::sample::select("0123456789abcdefABCDEF+/=-_, v.".chars().collect::<Vec<_>>());
    prop_oneof![
        (any::<usize>(), any::<u8>()).prop_map(|(at, to)| Damage::Body { at, to }),
        any::<u8>().prop_map(Damage::BodyLonger),
        Just(Damage::BodyShorter),
        (any::<usize>(), character).prop_map(|(at, to)| Damage::Signature { at, to }),
        any::<usize>().prop_map(Damage::SignatureShorter),
        (0..10usize, prop::char::range('0', '9')).prop_map(|(digit, to)| Damage::Time { digit, to }),
        "[a-z_0-9]{1,6}".prop_map(Damage::Id),
        Just(Damage::Nothing),
    ]
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn damage_is_never_accepted_unless_the_signer_agrees(
        sender in prop::sample::select(Sender::ALL.to_vec()),
        body in prop::collection::vec(any::<u8>(), 1..64),
        damages in prop::collection::vec(damage(), 1..3),
    ) {
        let mut time = NOW_S.to_string();
        let mut signature = sender.signature(sender.secret(), &time, &body);
        let mut id = "msg_1".to_owned();
        let mut damaged = body.clone();
        for damage in damages {
            match damage {
                Damage::Body { at, to } if !damaged.is_empty() => { let len = damaged.len(); damaged[at % len] = to; }
                Damage::Body { to, .. } | Damage::BodyLonger(to) => damaged.push(to),
                Damage::BodyShorter => _ = damaged.pop(),
                Damage::Signature { at, to } if !signature.is_empty() => {
                    let at = at % signature.len();
                    signature.replace_range(at..=at, &to.to_string());
                }
                Damage::Signature { .. } => {}
                Damage::SignatureShorter(len) => signature.truncate(len % (signature.len() + 1)),
                Damage::Time { digit, to } => time.replace_range(digit..=digit, &to.to_string()),
                Damage::Id(other) => id = other,
                Damage::Nothing => {}
            }
        }
        let mut sent = sender.with_header(&time, &sender.dress(&time, &signature), &damaged);
        if sender == Sender::Standard {
            sent.set("webhook-id", &id);
        }

        let right = sender.signature(sender.secret(), &time, &damaged);
        let in_hex = matches!(sender, Sender::GitHub | Sender::Stripe | Sender::Slack);
        // What surrounds a listed signature (white space, further items) is no part of it.
        let listed = matches!(sender, Sender::Stripe | Sender::Standard);
        let received = if listed { signature.trim() } else { signature.as_str() };
        let same = if in_hex { right.eq_ignore_ascii_case(received) } else { right == received };
        let timely = !Sender::TIMED.contains(&sender) || time.parse::<i64>().unwrap().abs_diff(NOW_S) <= 300;
        let same_id = sender != Sender::Standard || id == "msg_1";
        let accepted = VERIFIERS[sender as usize].verify(&sent.received()).is_ok();
        prop_assert_eq!(accepted, same && timely && same_id, "{:?}", sent);
    }
}
