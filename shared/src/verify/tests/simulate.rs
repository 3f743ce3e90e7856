//! Requests made here pass the check that real ones pass, and none passes that was made wrongly.

use super::super::simulate::{Draft, SimulateError, identify, set_member, sign};
use super::super::{Provider, sample, samples_of};
use super::*;

fn draft(slug: &str, event: Option<&str>) -> (Draft, String) {
    let sample = sample(slug, event).unwrap();
    let mut headers = HeaderMap::new();
    headers.insert("content-type", sample.content_type.parse().unwrap());
    let draft = Draft {
        method: "POST".into(),
        origin: "https://hooks.example.com".into(),
        path: "/in/abc".into(),
        query: None,
        headers,
        body: sample.body.into_bytes(),
        at: NOW,
    };
    (draft, sample.event)
}

fn made(provider: &Provider, key: &str, event: Option<&str>) -> Result<Draft, SimulateError> {
    let (mut draft, event) = draft(&provider.slug, event);
    identify(&mut draft, provider, &event);
    sign(provider.scheme.as_ref().unwrap(), key, &mut draft)?;
    Ok(draft)
}

#[test]
fn a_test_event_of_every_sender_passes_as_its_own_and_under_no_other_secret() {
    let providers = Providers::embedded().unwrap();
    let mut by_sender_only = Vec::new();
    for vector in vectors::all() {
        let provider = providers.get(vector.slug).unwrap();
        let draft = match made(provider, &vector.key, None) {
            Ok(draft) => draft,
            Err(SimulateError::OnlyTheSender) => {
                by_sender_only.push(vector.slug);
                continue;
            }
            Err(error) => panic!("{}: {error}", vector.slug),
        };
        assert!(samples_of(vector.slug).next().is_some(), "{} has no sample of its own", vector.slug);
        let judge = |key: &str, received: &Received<'_>| {
            let verifier = verifier(provider.scheme.as_ref().unwrap(), key);
            verifier.verify(received).map_or_else(|refusal| refusal.code(), |_| "accepted")
        };
        let text = String::from_utf8_lossy(&draft.body);
        assert_eq!(judge(&vector.key, &draft.received()), "accepted", "{}: {:?} {text}", vector.slug, draft.headers);
        assert_ne!(judge(&vector.other, &draft.received()), "accepted", "{}", vector.slug);
    }
    assert_eq!(
        by_sender_only,
        [
            "discord",
            "telnyx",
            "standard-webhooks-ed25519",
            "sendgrid",
            "wise",
            "postal",
            "kick",
            "paddle-classic",
            "google-pubsub",
            "plaid",
            "plaid-sandbox",
            "aws-sns",
            "aws-sns-v1",
            "paypal",
        ]
    );
}

#[test]
fn a_test_event_says_what_it_is_and_every_one_has_its_own_id() {
    let providers = Providers::embedded().unwrap();
    for slug in ["stripe", "github", "slack", "shopify", "standard-webhooks", "hubspot", "pagerduty", "line"] {
        let provider = providers.get(slug).unwrap();
        let key = vectors::all().into_iter().find(|vector| vector.slug == slug).unwrap().key;
        let names: Vec<&str> = samples_of(slug).map(|sample| sample.event.as_str()).collect();
        for name in names {
            let [first, second] = [0, 1].map(|_| {
                let draft = made(provider, &key, Some(name)).unwrap();
                provider.facts.facts(&draft.headers, &draft.body)
            });
            assert_eq!(first.event_type.as_deref(), Some(name), "{slug}");
            assert!(first.provider_event_id.is_some(), "{slug} {name}");
            // HubSpot counts; two within a millisecond have the same number.
            assert!(slug == "hubspot" || first.provider_event_id != second.provider_event_id, "{slug} {name}");
        }
    }
}

#[test]
fn members_are_set_where_they_are_wanted() {
    let set = |body: &str, path: &str, value: serde_json::Value| {
        set_member(body.as_bytes(), &path.parse().unwrap(), value).map(|body| String::from_utf8(body).unwrap())
    };
    assert_eq!(set(r#"{"a":{"b":1}}"#, "$.a.b", 2.into()).unwrap(), r#"{"a":{"b":2}}"#);
    assert_eq!(set("{}", "$.a.b", "x".into()).unwrap(), r#"{"a":{"b":"x"}}"#);
    assert_eq!(set(r#"[{"a":1},{"a":2}]"#, "$[*].a", 3.into()).unwrap(), r#"[{"a":3},{"a":3}]"#);
    assert_eq!(set("{}", "$.v[*].s", "x".into()).unwrap(), r#"{"v":[{"s":"x"}]}"#);
    for (body, path) in [("x", "$.a"), (r#"{"a":1}"#, "$.a.b"), ("{}", "$[*].a"), ("[1]", "$[*].a")] {
        assert!(set(body, path, 1.into()).is_err(), "{body} {path}");
    }
}
