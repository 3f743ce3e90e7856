//! `hookyard doctor`: what is wrong with this installation, and the cure, a line each.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Instant;

use hookyard_shared::config::{Config, Profile};
use hookyard_shared::queue::rabbit;
use hookyard_shared::startup::{self, Exit};
use hookyard_shared::store::{Db, Store};
use hookyard_shared::{clock::Clock, disk};
use serde_json::json;

use crate::say;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Ok,
    Warn,
    Fail,
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "FAIL",
        }
    }
}

#[derive(Default)]
struct Report(Vec<(Verdict, &'static str, String)>);

impl Report {
    fn add(&mut self, verdict: Verdict, name: &'static str, detail: impl Into<String>) {
        self.0.push((verdict, name, detail.into()));
    }

    /// `Ok` passes; an error fails with its cure.
    fn check(&mut self, name: &'static str, outcome: Result<String, String>) {
        match outcome {
            Ok(detail) => self.add(Verdict::Ok, name, detail),
            Err(detail) => self.add(Verdict::Fail, name, detail),
        }
    }
}

/// Runs every check there is; fails if one of them does.
pub(crate) async fn run(config: Result<Config, Exit>, as_json: bool) -> anyhow::Result<()> {
    let mut report = Report::default();
    match config {
        Ok(config) => check_all(&config, &mut report).await,
        Err(error) => report.add(Verdict::Fail, "config", error.message),
    }
    if as_json {
        let checks: Vec<_> = report
            .0
            .iter()
            .map(|(v, name, detail)| json!({"check": name, "status": v.word().to_lowercase(), "detail": detail}))
            .collect();
        say(&json!({ "checks": checks }).to_string());
    } else {
        for (verdict, name, detail) in &report.0 {
            say(&format!("{:<5} {name:<12} {detail}", verdict.word()));
        }
    }
    let failed = report.0.iter().filter(|(verdict, ..)| *verdict == Verdict::Fail).count();
    anyhow::ensure!(failed == 0, "{failed} checks failed");
    Ok(())
}

async fn check_all(config: &Config, report: &mut Report) {
    let profile = match config.profile {
        Profile::Embedded => "embedded profile (SQLite and the embedded queue)",
        Profile::Distributed { .. } => "distributed profile (Postgres and RabbitMQ)",
    };
    report.add(Verdict::Ok, "config", profile);
    if config.database_url.is_none() {
        check_data_dir(config, report);
    }
    match Store::open(&config.store_location(), Clock::default()).await {
        Ok(store) => check_store(config, &store, report).await,
        Err(error) => {
            report.add(Verdict::Fail, "store", format!("{error}; check HOOKYARD_DATABASE_URL and that Postgres runs"))
        }
    }
    if let Some(rabbit) = startup::rabbit_config(config) {
        check_broker(&rabbit, report).await;
    }
    if let Some(proxy) = &config.egress_proxy {
        report.add(Verdict::Ok, "egress proxy", format!("destinations are reached through {proxy}"));
    }
    let ranges: Vec<String> = config.egress_allow.iter().map(ToString::to_string).collect();
    match ranges.as_slice() {
        [] => report.add(Verdict::Ok, "egress", "destinations reach public addresses only"),
        some => report.add(
            Verdict::Warn,
            "egress",
            format!("destinations may also reach {}; that is HOOKYARD_EGRESS_ALLOW", some.join(", ")),
        ),
    }
    match &config.public_url {
        Some(url) if url.starts_with("https://") => report.add(Verdict::Ok, "public url", url.clone()),
        Some(url) => {
            report.add(Verdict::Warn, "public url", format!("{url} is not https: session cookies travel in clear"))
        }
        None if config.listen.ip().is_loopback() => {
            report.add(Verdict::Ok, "public url", "this machine only; set HOOKYARD_PUBLIC_URL to receive from others")
        }
        None => report.add(
            Verdict::Warn,
            "public url",
            "unset although the server listens beyond this machine; set HOOKYARD_PUBLIC_URL",
        ),
    }
}

fn check_data_dir(config: &Config, report: &mut Report) {
    let dir = &config.data_dir;
    if let Err(error) = std::fs::create_dir_all(dir) {
        report.add(
            Verdict::Fail,
            "data dir",
            format!("{}: {error}; set HOOKYARD_DATA_DIR to a directory that can be written", dir.display()),
        );
        return;
    }
    report.check(
        "disk",
        disk::free_bytes(dir).map_err(|e| e.to_string()).and_then(|free| {
            let words = format!("{} MiB free, {} MiB is the watermark", free >> 20, config.min_free_disk >> 20);
            if free < config.min_free_disk { Err(format!("{words}: senders get 503; free space")) } else { Ok(words) }
        }),
    );
    report
        .check("fsync", fsync_ms(dir).map(|ms| format!("{ms:.1} ms for one durable write")).map_err(|e| e.to_string()));
    let key = dir.join("key");
    match std::fs::metadata(&key).map(|m| m.permissions().mode() & 0o077) {
        Ok(0) => report.add(Verdict::Ok, "key file", key.display().to_string()),
        Ok(_) => report.add(Verdict::Fail, "key file", format!("others can read it; run: chmod 600 {}", key.display())),
        Err(_) if config.encryption_key.is_some() => report.add(Verdict::Ok, "key file", "the key is configured"),
        Err(_) => report.add(Verdict::Ok, "key file", "made at the first start"),
    }
}

fn fsync_ms(dir: &std::path::Path) -> std::io::Result<f64> {
    let path = dir.join(".doctor");
    let started = Instant::now();
    std::fs::write(&path, [0; 4096])?;
    std::fs::File::open(&path)?.sync_all()?;
    let ms = started.elapsed().as_secs_f64() * 1000.0;
    std::fs::remove_file(&path)?;
    Ok(ms)
}

async fn check_store(config: &Config, store: &Store, report: &mut Report) {
    match store.pending_migrations().await {
        Ok(0) => report.add(Verdict::Ok, "schema", "up to date"),
        Ok(n) => report.add(
            Verdict::Warn,
            "schema",
            format!("{n} migrations wait; the next start, or `hookyard migrate`, applies them"),
        ),
        Err(error) => report.add(Verdict::Fail, "schema", error.to_string()),
    }
    match &store.db {
        Db::Sqlite(pools) => {
            let version: Result<(String,), _> = sqlx::query_as("SELECT sqlite_version()").fetch_one(&pools.read).await;
            report.check(
                "store",
                version.map(|(v,)| format!("SQLite {v} in {}", config.data_dir.display())).map_err(|e| e.to_string()),
            );
        }
        Db::Pg(pool) => {
            let version: Result<(String,), _> = sqlx::query_as("SHOW server_version").fetch_one(pool).await;
            report.check("store", version.map(|(v,)| format!("Postgres {v}")).map_err(|e| e.to_string()));
            if let Ok(theirs) = store.store_now_ms().await {
                let skew = (theirs - store.now_ms()).abs();
                let words = format!("{skew} ms between this machine and Postgres");
                let verdict = if skew > 60_000 {
                    Verdict::Fail
                } else if skew > 2_000 {
                    Verdict::Warn
                } else {
                    Verdict::Ok
                };
                report.add(
                    verdict,
                    "clock",
                    if verdict == Verdict::Ok { words } else { format!("{words}; run a time service on both") },
                );
            }
        }
    }
    if store.pending_migrations().await.is_ok_and(|n| n == 0)
        && let Ok(vault) = startup::open_vault(config)
    {
        report.check(
            "key",
            vault.check(store).await.map(|()| "opens this store's secrets".to_owned()).map_err(|e| e.to_string()),
        );
    }
}

async fn check_broker(config: &rabbit::RabbitConfig, report: &mut Report) {
    match rabbit::inspect(config).await {
        Ok(found) => {
            let ready: u32 = found.ready.iter().map(|(_, n)| n).sum();
            report.add(Verdict::Ok, "broker", format!("{} queues, {ready} messages ready", found.ready.len()));
            if let Some((name, n)) = found.ready.iter().find(|(name, n)| name.ends_with(".dead") && *n > 0) {
                report.add(Verdict::Warn, "dead letters", format!("{n} in {name}; a running worker takes them up again"));
            }
        }
        Err(error) => report.add(Verdict::Fail, "broker", format!("{error}; check HOOKYARD_AMQP_URL, that RabbitMQ 3.10 or newer runs, and that its queues were not declared otherwise")),
    }
}
