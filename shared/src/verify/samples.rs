//! Sample events of senders, for trying a source out: `samples.toml`, checked by a test.

use std::sync::LazyLock;

use serde::Deserialize;

/// One sample event.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sample {
    /// The sender's slug.
    pub provider: String,
    /// The type of the event, as the sender names it.
    pub event: String,
    /// The type of the body.
    #[serde(default = "json")]
    pub content_type: String,
    /// The body.
    pub body: String,
}

fn json() -> String {
    "application/json".into()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    sample: Vec<Sample>,
}

static SAMPLES: LazyLock<Vec<Sample>> = LazyLock::new(|| {
    let file: Result<File, _> = toml::from_str(include_str!("samples.toml"));
    // The file is compiled in, and a test reads it.
    file.map(|file| file.sample).unwrap_or_default()
});

/// The samples of a sender, the commonest first.
pub fn samples_of(provider: &str) -> impl Iterator<Item = &'static Sample> {
    SAMPLES.iter().filter(move |sample| sample.provider == provider)
}

/// The sample of this event; without a name the commonest one. For a sender without samples of its own it is a plain JSON
/// object, whatever the event is called.
///
/// # Errors
/// The events that there are, if this is none of them.
pub fn sample(provider: &str, event: Option<&str>) -> Result<Sample, Vec<&'static str>> {
    let mut all = samples_of(provider).peekable();
    if all.peek().is_none() {
        return Ok(Sample {
            provider: provider.to_owned(),
            event: event.unwrap_or("test").to_owned(),
            content_type: json(),
            body: r#"{"message":"A test event","test":true}"#.to_owned(),
        });
    }
    let found = all.find(|sample| event.is_none_or(|event| sample.event == event));
    found.cloned().ok_or_else(|| samples_of(provider).map(|sample| sample.event.as_str()).collect())
}

#[cfg(test)]
mod tests {
    use super::super::Providers;
    use super::*;

    #[test]
    fn the_file_can_be_read_and_names_senders_that_there_are() {
        let file: File = toml::from_str(include_str!("samples.toml")).unwrap();
        let providers = Providers::embedded().unwrap();
        for sample in &file.sample {
            assert!(providers.get(&sample.provider).is_some(), "{}", sample.provider);
            if sample.content_type == "application/json" {
                serde_json::from_str::<serde_json::Value>(&sample.body)
                    .unwrap_or_else(|error| panic!("{}: {error}", sample.event));
            }
        }
        for (provider, least) in [("stripe", 5), ("github", 5), ("slack", 5), ("shopify", 5)] {
            assert!(samples_of(provider).count() >= least, "{provider}");
        }
        assert_eq!(sample("stripe", None).unwrap().event, "checkout.session.completed");
        assert_eq!(sample("stripe", Some("invoice.paid")).unwrap().event, "invoice.paid");
        assert_eq!(sample("stripe", Some("nothing")).unwrap_err().len(), 5);
        assert_eq!(sample("hmac", Some("video.ready")).unwrap().event, "video.ready");
    }
}
