//! Ids and types of events, from headers and bodies.

use super::*;

fn rules(id: &[&str], kind: &[&str]) -> FactRules {
    let places = |list: &[&str]| OneOrMany(list.iter().map(|text| text.parse().unwrap()).collect());
    let rules = FactRules { event_id: places(id), event_type: places(kind), ..FactRules::default() };
    rules.check().unwrap();
    rules
}

#[test]
fn each_preset_finds_its_facts() {
    let providers = Providers::embedded().unwrap();
    let slack = br#"{"type":"event_callback","event":{"channel":"C","type":"message"},"event_id":"Ev1"}"#;
    for (slug, headers, body, id, kind) in [
        (
            "github",
            [("x-github-delivery", "d-1"), ("x-github-event", "push")].as_slice(),
            BODY,
            Some("d-1"),
            Some("push"),
        ),
        ("stripe", &[], BODY, Some("evt_1"), Some("order.paid")),
        ("slack", &[], slack, Some("Ev1"), Some("message")),
        ("slack", &[], br#"{"type":"url_verification","challenge":"x"}"#, None, Some("url_verification")),
        ("slack", &[], b"command=%2Fx&type=y", None, None),
        (
            "shopify",
            &[("x-shopify-event-id", "e-1"), ("x-shopify-topic", "orders/paid")],
            b"",
            Some("e-1"),
            Some("orders/paid"),
        ),
        ("standard-webhooks", &[("webhook-id", "msg_1")], BODY, Some("msg_1"), Some("order.paid")),
        ("hmac", &[], BODY, None, None),
    ] {
        let facts = providers.get(slug).unwrap().facts.facts(&Sent::new(headers, b"").headers, body);
        assert_eq!((facts.provider_event_id.as_deref(), facts.event_type.as_deref()), (id, kind), "{slug}");
    }
}

#[test]
fn bodies_are_searched_by_member_and_odd_ones_yield_nothing() {
    let rules = rules(&["$.data.id", "$.id"], &["$.type"]);
    for (body, id, kind) in [
        (r#"{"id":"outer","data":{"id":"inner"},"type":"t"}"#, Some("inner"), Some("t")),
        (r#" {"type":"t","id":42,"data":[{"id":"no"}]}"#, Some("42"), Some("t")),
        (r#"{"type":null,"id":-7,"data":{"id":{"x":1}}}"#, Some("-7"), None),
        (r#"{"ty\u0070e":"a\nb","data":{"i\u0064":"caf\u00e9"}}"#, Some("café"), None),
        (r#"{"data":{"id":"a"},"data":{"id":"b"},"type":"t"}"#, Some("a"), Some("t")),
        (r#"{"data":{"id":"a"},"type":"t", broken"#, Some("a"), Some("t")),
        (r#"{"data":{"id":""},"type":1.5}"#, None, None),
        (r#"[{"id":"a","type":"t"}]"#, None, None),
        ("id=1", None, None),
        ("", None, None),
    ] {
        let facts = rules.facts(&HeaderMap::new(), body.as_bytes());
        assert_eq!((facts.provider_event_id.as_deref(), facts.event_type.as_deref()), (id, kind), "{body}");
    }
}

#[test]
fn what_is_too_large_is_not_read() {
    let rules = rules(&["$.id"], &["header:x-type"]);
    let long = format!(r#"{{"id":"{}"}}"#, "a".repeat(256));
    assert_eq!(rules.facts(&HeaderMap::new(), long.as_bytes()), Facts::default());
    let large = format!(r#"{{"id":"a","filler":"{}"}}"#, "a".repeat(1024 * 1024));
    assert_eq!(rules.facts(&HeaderMap::new(), large.as_bytes()), Facts::default());
    let deep = format!(r#"{{"deep":{}"#, "[".repeat(100_000));
    assert_eq!(rules.facts(&HeaderMap::new(), deep.as_bytes()), Facts::default());
}

#[test]
fn an_earlier_place_wins_over_a_later_one() {
    let headers = Sent::new(&[("x-id", "header")], b"").headers;
    let body = br#"{"id":"body"}"#;
    for (places, expected) in
        [(["header:x-id", "$.id"], "header"), (["$.id", "header:x-id"], "body"), (["$.none", "header:x-id"], "header")]
    {
        let facts = rules(&places, &[]).facts(&headers, body);
        assert_eq!(facts.provider_event_id.as_deref(), Some(expected), "{places:?}");
    }
}
