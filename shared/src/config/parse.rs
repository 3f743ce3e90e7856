//! From text to [`Config`], with every mistake named where it stands.

use std::collections::BTreeMap;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;
use secrecy::SecretString;

use super::{Config, ConfigError, LogFormat, MAX_BODY, MAX_BODY_RABBIT, Profile, Registration, SETTINGS, Setting};

const ENV_PREFIX: &str = "HOOKYARD_";

/// Names in the environment that belong to the command line and to tests, not to the server.
const FOREIGN: &[&str] = &["API_KEY", "API_KEY_FILE", "URL", "CONFIG"];

/// A value and where it was given.
struct Given {
    value: String,
    place: String,
}

#[derive(Default)]
struct Values(BTreeMap<&'static str, Given>);

pub(super) fn load(
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
    flags: &[(String, String)],
) -> Result<Config, ConfigError> {
    Values::read(file, environment, flags)?.config()
}

pub(super) fn describe(
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
    flags: &[(String, String)],
) -> Result<Vec<(&'static Setting, String, String)>, ConfigError> {
    let values = Values::read(file, environment, flags)?;
    let row = |setting: &'static Setting| match values.0.get(setting.name) {
        Some(given) => (setting, shown(setting.name, &given.value).to_owned(), given.place.clone()),
        None => (setting, setting.default.to_owned(), "default".to_owned()),
    };
    let rows = SETTINGS.iter().map(row).collect();
    values.config()?;
    Ok(rows)
}

fn find(name: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.name == name)
}

fn unknown(name: &str, place: &str, write: impl Fn(&Setting) -> String) -> ConfigError {
    let nearest = SETTINGS
        .iter()
        .max_by(|a, b| strsim::jaro_winkler(a.name, name).total_cmp(&strsim::jaro_winkler(b.name, name)));
    let hint = nearest.map(|setting| format!("; did you mean {}?", write(setting))).unwrap_or_default();
    ConfigError(format!("{place}: there is no such setting{hint}"))
}

impl Values {
    fn read(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
        flags: &[(String, String)],
    ) -> Result<Self, ConfigError> {
        let mut values = Self::default();
        if let Some(path) = file {
            values.read_file(path)?;
        }
        values.read_environment(environment)?;
        for (name, value) in flags {
            let place = format!("--set {name}");
            let setting = find(name).ok_or_else(|| unknown(name, &place, |s| s.name.to_owned()))?;
            values.0.insert(setting.name, Given { value: value.clone(), place });
        }
        Ok(values)
    }

    fn read_file(&mut self, path: &Path) -> Result<(), ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| ConfigError(format!("{}: cannot be read: {error}", path.display())))?;
        let table: toml::Table =
            text.parse().map_err(|error: toml::de::Error| ConfigError(format!("{}: {error}", path.display())))?;
        for (name, value) in table {
            let line = 1 + text.lines().position(|line| line.trim_start().starts_with(&name)).unwrap_or(0);
            let place = format!("{}:{line}: {name}", path.display());
            let setting = find(&name).ok_or_else(|| unknown(&name, &place, |s| s.name.to_owned()))?;
            let value = match value {
                toml::Value::String(text) => text,
                toml::Value::Integer(number) => number.to_string(),
                toml::Value::Boolean(flag) => flag.to_string(),
                toml::Value::Array(items) => {
                    items.iter().map(|item| item.as_str().unwrap_or_default()).collect::<Vec<_>>().join(",")
                }
                _ => return Err(ConfigError(format!("{place}: must be a text, a number or a list of texts"))),
            };
            self.0.insert(setting.name, Given { value, place });
        }
        Ok(())
    }

    fn read_environment(&mut self, environment: impl IntoIterator<Item = (String, String)>) -> Result<(), ConfigError> {
        for (variable, value) in environment {
            let Some(rest) = variable.strip_prefix(ENV_PREFIX) else { continue };
            if FOREIGN.contains(&rest) || rest.starts_with("TEST_") || value.is_empty() {
                continue;
            }
            let name = rest.to_ascii_lowercase();
            if let Some(setting) = name.strip_suffix("_file").and_then(find).filter(|setting| setting.secret) {
                let text = std::fs::read_to_string(&value)
                    .map_err(|error| ConfigError(format!("{variable}: {value} cannot be read: {error}")))?;
                self.0.insert(setting.name, Given { value: text.trim().to_owned(), place: variable });
                continue;
            }
            let setting = find(&name)
                .ok_or_else(|| unknown(&name, &variable, |s| format!("{ENV_PREFIX}{}", s.name.to_ascii_uppercase())))?;
            self.0.insert(setting.name, Given { value, place: variable });
        }
        Ok(())
    }

    fn parse<T>(&self, name: &'static str, read: impl Fn(&str) -> Result<T, String>) -> Result<T, ConfigError> {
        let default = find(name).map_or("", |setting| setting.default);
        let (value, place) = self.0.get(name).map_or((default, name), |given| (&given.value, &given.place));
        read(value).map_err(|why| ConfigError(format!("{place}: `{}` {why}", shown(name, value))))
    }

    fn optional<T>(
        &self,
        name: &'static str,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<T>, ConfigError> {
        self.parse(name, |text| if text.is_empty() { Ok(None) } else { read(text).map(Some) })
    }

    fn secret(&self, name: &'static str) -> Option<SecretString> {
        self.0.get(name).map(|given| SecretString::from(given.value.clone()))
    }

    fn config(self) -> Result<Config, ConfigError> {
        let database_url = self.secret("database_url");
        let amqp_url = self.secret("amqp_url");
        let encryption_key = self.secret("encryption_key");
        let profile = match (&database_url, amqp_url) {
            (None, None) => Profile::Embedded,
            (Some(_), Some(amqp_url)) if encryption_key.is_some() => Profile::Distributed { amqp_url },
            (Some(_), Some(_)) => {
                return Err(ConfigError(
                    "HOOKYARD_ENCRYPTION_KEY is missing: the distributed profile needs one key on every machine (make one with: openssl rand -base64 32)".into(),
                ));
            }
            (Some(_), None) => {
                return Err(ConfigError(
                    "HOOKYARD_AMQP_URL is missing: HOOKYARD_DATABASE_URL alone is no profile. Set both (Postgres and RabbitMQ), or neither for the embedded profile".into(),
                ));
            }
            (None, Some(_)) => {
                return Err(ConfigError(
                    "HOOKYARD_DATABASE_URL is missing: HOOKYARD_AMQP_URL alone is no profile. Set both (Postgres and RabbitMQ), or neither for the embedded profile".into(),
                ));
            }
        };
        let most = match profile {
            Profile::Embedded => MAX_BODY,
            Profile::Distributed { .. } => MAX_BODY_RABBIT,
        };
        Ok(Config {
            listen: self.parse("listen", address)?,
            admin_listen: self.optional("admin_listen", address)?,
            ops_listen: self.optional("ops_listen", address)?,
            public_url: self.optional("public_url", public_url)?,
            data_dir: self.parse("data_dir", |text| Ok(text.into()))?,
            profile,
            database_url,
            encryption_key,
            registration: self.optional("registration", |text| match text {
                "open" => Ok(Registration::Open),
                "invite" => Ok(Registration::Invite),
                "closed" => Ok(Registration::Closed),
                _ => Err("must be open, invite or closed".into()),
            })?,
            egress_allow: self.parse("egress_allow", ranges)?,
            egress_proxy: self.optional("egress_proxy", |text| {
                text.parse().map_err(|error: crate::egress::ProxyError| error.to_string())
            })?,
            trusted_proxies: self.parse("trusted_proxies", ranges)?,
            log: self.parse("log", |text| Ok(text.to_owned()))?,
            log_format: self.optional("log_format", |text| match text {
                "text" => Ok(LogFormat::Text),
                "json" => Ok(LogFormat::Json),
                _ => Err("must be text or json".into()),
            })?,
            queue_prefix: self.parse("queue_prefix", |text| {
                let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
                if !text.is_empty() && text.len() <= 64 && text.chars().all(plain) {
                    Ok(text.to_owned())
                } else {
                    Err("must be 1 to 64 letters, digits, dots, dashes or underscores".into())
                }
            })?,
            partitions: self.parse("partitions", |text| between(text, 1, 64))?,
            max_body: self.optional("max_body", body_size)?.unwrap_or(most),
            confirm_timeout: self.parse("confirm_timeout", |text| match duration(text)? {
                d if d > Duration::from_millis(2200) => {
                    Err("must be 2200ms or less: a sender is answered within 2.5 s".into())
                }
                d => Ok(d),
            })?,
            worker_lease: self.parse("worker_lease", |text| match duration(text)? {
                d if d < Duration::from_secs(2) => Err("must be 2s or more".into()),
                d => Ok(d),
            })?,
            retention: self.parse("retention", duration)?,
            retention_rejections: self.parse("retention_rejections", duration)?,
            min_free_disk: self.parse("min_free_disk", size)?,
            source_rate: self.parse("source_rate", |text| between(text, 1, 10_000_000))?,
            drain_timeout: self.parse("drain_timeout", duration)?,
            startup_timeout: self.parse("startup_timeout", duration)?,
        })
    }
}

fn shown<'a>(name: &str, value: &'a str) -> &'a str {
    if find(name).is_some_and(|setting| setting.secret) { "(hidden)" } else { value }
}

fn address(text: &str) -> Result<std::net::SocketAddr, String> {
    text.parse().map_err(|_| "must be an address and a port, like 127.0.0.1:8080".to_owned())
}

fn public_url(text: &str) -> Result<String, String> {
    let url = url::Url::parse(text).map_err(|_| "must be a URL like https://hooks.example.com".to_owned())?;
    match url.scheme() {
        "http" | "https" if url.host().is_some() && url.query().is_none() => Ok(text.trim_end_matches('/').to_owned()),
        _ => Err("must begin with http:// or https:// and have a host and no query".into()),
    }
}

fn ranges(text: &str) -> Result<Vec<IpNet>, String> {
    text.split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .map(|part| {
            IpNet::from_str(part)
                .or_else(|_| part.parse::<std::net::IpAddr>().map(IpNet::from))
                .map_err(|_| format!("has `{part}`, which is not a range like 10.0.0.0/8"))
        })
        .collect()
}

fn between<T: FromStr + PartialOrd + std::fmt::Display>(text: &str, low: T, high: T) -> Result<T, String> {
    match text.parse::<T>() {
        Ok(number) if number >= low && number <= high => Ok(number),
        _ => Err(format!("must be a number from {low} to {high}")),
    }
}

/// A number and a unit: `250ms`, `2s`, `5m`, `1h`, `30d`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || "must be a number and a unit, like 500ms, 2s, 5m, 1h or 30d".to_owned();
    let split = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let number: u64 = text[..split].parse().map_err(|_| wrong())?;
    let unit_ms = match &text[split..] {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(wrong()),
    };
    number.checked_mul(unit_ms).map(Duration::from_millis).ok_or_else(wrong)
}

/// A number and a unit: `512KiB`, `10MiB`, `2GiB`, or plain bytes.
fn size(text: &str) -> Result<u64, String> {
    let wrong = || "must be a number and a unit, like 512KiB, 10MiB or 2GiB".to_owned();
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..split].parse().map_err(|_| wrong())?;
    let shift = match text[split..].trim() {
        "" | "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        _ => return Err(wrong()),
    };
    number.checked_mul(1 << shift).ok_or_else(wrong)
}

fn body_size(text: &str) -> Result<usize, String> {
    match usize::try_from(size(text)?) {
        Ok(bytes) if (1024..=MAX_BODY).contains(&bytes) => Ok(bytes),
        _ => Err("must be from 1KiB to 25MiB".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load_env(pairs: &[(&str, &str)]) -> Result<Config, ConfigError> {
        load(None, pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())), &[])
    }

    #[test]
    fn nothing_needs_to_be_set() {
        let config = load_env(&[]).unwrap();
        assert!(matches!(config.profile, Profile::Embedded));
        assert_eq!(config.registration(config.listen), Registration::Open);
        assert_eq!(config.registration("0.0.0.0:80".parse().unwrap()), Registration::Invite);
    }

    #[test]
    fn a_mistake_is_named_with_its_place_and_its_cure() {
        for (pairs, expected) in [
            (&[("HOOKYARD_LISTN", "x")][..], "HOOKYARD_LISTN: there is no such setting; did you mean HOOKYARD_LISTEN?"),
            (
                &[("HOOKYARD_LISTEN", "8080")],
                "HOOKYARD_LISTEN: `8080` must be an address and a port, like 127.0.0.1:8080",
            ),
            (
                &[("HOOKYARD_RETENTION", "30")],
                "HOOKYARD_RETENTION: `30` must be a number and a unit, like 500ms, 2s, 5m, 1h or 30d",
            ),
            (&[("HOOKYARD_MAX_BODY", "1GiB")], "HOOKYARD_MAX_BODY: `1GiB` must be from 1KiB to 25MiB"),
            (&[("HOOKYARD_CONFIRM_TIMEOUT", "3s")], "HOOKYARD_CONFIRM_TIMEOUT: `3s` must be 2200ms or less"),
            (&[("HOOKYARD_DATABASE_URL", "postgres://a")], "HOOKYARD_AMQP_URL is missing"),
            (&[("HOOKYARD_AMQP_URL", "amqp://a")], "HOOKYARD_DATABASE_URL is missing"),
            (
                &[("HOOKYARD_AMQP_URL", "amqp://a"), ("HOOKYARD_DATABASE_URL", "postgres://a")],
                "HOOKYARD_ENCRYPTION_KEY is missing",
            ),
            (
                &[("HOOKYARD_EGRESS_PROXY", "https://u:canary@p:1")],
                "HOOKYARD_EGRESS_PROXY: `(hidden)` must be a proxy like",
            ),
            (&[("HOOKYARD_EGRESS_ALLOW", "10.0.0.0/8, x")], "has `x`, which is not a range"),
        ] {
            let error = load_env(pairs).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}\n  should contain\n{expected}");
        }
    }

    #[test]
    fn bodies_on_rabbitmq_stay_below_what_it_takes_unless_the_operator_says_otherwise() {
        let distributed = [
            ("HOOKYARD_AMQP_URL", "amqp://a"),
            ("HOOKYARD_DATABASE_URL", "postgres://a"),
            ("HOOKYARD_ENCRYPTION_KEY", "k"),
        ];
        assert_eq!(load_env(&[]).unwrap().max_body, 25 << 20);
        assert_eq!(load_env(&distributed).unwrap().max_body, 10 << 20);
        let said = [&distributed[..], &[("HOOKYARD_MAX_BODY", "24MiB")]].concat();
        assert_eq!(load_env(&said).unwrap().max_body, 24 << 20);
    }

    #[test]
    fn the_file_yields_to_the_environment_and_the_environment_to_flags() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hookyard.toml");
        std::fs::write(&path, "listen = \"127.0.0.1:1\"\npartitions = 4\nretention = \"1d\"\n").unwrap();
        let env = [
            ("HOOKYARD_LISTEN".to_owned(), "127.0.0.1:2".to_owned()),
            ("HOOKYARD_PARTITIONS".to_owned(), "5".to_owned()),
        ];
        let config = load(Some(&path), env, &[("partitions".into(), "6".into())]).unwrap();
        assert_eq!((config.listen.port(), config.partitions, config.retention), (2, 6, Duration::from_secs(86_400)));

        std::fs::write(&path, "\nlisten = \"127.0.0.1:1\"\npartition = 4\n").unwrap();
        let error = load(Some(&path), [], &[]).unwrap_err().to_string();
        assert!(
            error.contains("hookyard.toml:3: partition: there is no such setting; did you mean partitions?"),
            "{error}"
        );
    }
}
