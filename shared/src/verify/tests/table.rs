//! `docs/providers.md` is made from the file of providers, and must be what that file makes now.

use std::fmt::Write as _;
use std::path::Path;

use super::*;

/// Set to write the document anew.
const WRITE: &str = "HOOKYARD_WRITE_DOCS";

const HEAD: &str = "# Providers

The senders that a source can be made for by name. This page is made from
[`providers.toml`](../shared/src/verify/providers.toml); after a change of that file run
`HOOKYARD_WRITE_DOCS=1 cargo test -p hookyard-shared --lib the_providers_page`.

- **Proof** is how the sender proves itself, **covers** what a passed check covers. What does not cover the body proves who
  sent it, not that it is unaltered.
- **Repeats** says where all repeats of an event say the same; *on request* means that this sender repeats only when a
  person asks for it ([verification.md](verification.md#repeats)).
- **The sender's clock** is how long it waits for an answer and how it repeats, where that is known; Hookyard answers once the
  event is durable, in milliseconds.
- **Rests on** is the evidence for the entry. *Unconfirmed* ones come from one list only: try them with a real webhook
  before you rely on them.
- **Handshake** is what the sender asks when the address is entered with it, and what Hookyard does about it
  ([verification.md](verification.md#handshakes)).

Any signature over raw body, headers, address or fields can be described by hand with `hmac`,
`digest`, `ed25519`, `ecdsa-p256` or `rsa-pkcs1`.

| `provider` | sender | proof | covers | id of the event | repeats | handshake | the sender's clock | rests on |
|---|---|---|---|---|---|---|---|---|
";

fn places(places: &Places) -> String {
    let words: Vec<String> = places.0.iter().map(|place| format!("`{}`", String::from(place.clone()))).collect();
    if words.is_empty() { "—".into() } else { words.join(", ") }
}

fn page(providers: &Providers) -> String {
    let mut page = HEAD.to_owned();
    for p in providers.iter().filter(|provider| !provider.generic) {
        let repeats = match &p.repeat {
            None => "not recognised".into(),
            Some(rule) if rule.in_force().is_none() => format!("{}, on request", places(&rule.key)),
            Some(rule) => places(&rule.key),
        };
        let evidence = p.evidence.map_or("", Evidence::words);
        let handshakes: Vec<String> = p.handshakes.iter().map(|h| format!("{}: {}", h.method(), h.words())).collect();
        let handshakes = if handshakes.is_empty() { "—".into() } else { handshakes.join(", ") };
        let clock = p.clock.as_ref().map_or_else(|| "—".into(), SenderClock::words);
        let (proof, covers, ids) = (p.scheme_label(), p.covers(), places(&p.facts.event_id));
        writeln!(
            page,
            "| `{}` | {} | {proof} | {covers} | {ids} | {repeats} | {handshakes} | {clock} | {evidence} |",
            p.slug, p.name
        )
        .unwrap();
    }
    page
}

#[test]
fn the_providers_page_is_what_the_file_of_providers_makes() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/providers.md");
    let made = page(&Providers::embedded().unwrap());
    if std::env::var_os(WRITE).is_some() {
        std::fs::write(&file, &made).unwrap();
    }
    let kept = std::fs::read_to_string(&file).unwrap();
    assert!(kept == made, "docs/providers.md is out of date: write it anew with {WRITE}=1");
}
