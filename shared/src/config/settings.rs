//! The table of settings: the one list that parsing, `config print` and the documentation come from.

/// One setting.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// Name in the file; upper-cased behind `HOOKYARD_` in the environment.
    pub name: &'static str,
    /// Default as a person would write it; empty when unset.
    pub default: &'static str,
    /// What it means.
    pub help: &'static str,
    /// Hidden by `config print`, and also read from the file that `HOOKYARD_<NAME>_FILE` names.
    pub secret: bool,
}

const fn plain(name: &'static str, default: &'static str, help: &'static str) -> Setting {
    Setting { name, default, help, secret: false }
}

const fn secret(name: &'static str, help: &'static str) -> Setting {
    Setting { name, default: "", help, secret: true }
}

/// Every setting there is.
pub const SETTINGS: &[Setting] = &[
    plain("listen", "127.0.0.1:8080", "address of the HTTP server; port 0 takes a free one"),
    plain("admin_listen", "", "a separate address for pages and API"),
    plain(
        "ops_listen",
        "",
        "a separate address for /metrics, /healthz and /readyz, open to every peer that reaches it",
    ),
    plain("public_url", "", "how senders and browsers reach the server"),
    plain("data_dir", "./data", "embedded store, queue and key file"),
    secret("database_url", "postgres://… for the distributed profile"),
    secret("amqp_url", "amqp://… for the distributed profile"),
    secret("encryption_key", "32 bytes in base64; the embedded profile makes its own"),
    plain("registration", "", "open, invite or closed; open by default on loopback only"),
    plain("egress_allow", "", "private address ranges that destinations may reach, comma separated"),
    secret("egress_proxy", "http://user:password@host:port of a proxy that webhooks go out through by CONNECT"),
    plain(
        "trusted_proxies",
        "",
        "address ranges of proxies whose X-Forwarded-For, -Proto and -Host are believed, comma separated",
    ),
    plain("log", "info", "log filter, for example info or hookyard_worker=debug"),
    plain("log_format", "", "text or json; text on a terminal"),
    plain("queue_prefix", "hookyard", "first part of every queue's name on the broker"),
    plain("partitions", "1", "number of event queues (1 to 64)"),
    plain("max_body", "", "largest body that a source may be set to take; 25MiB, or 10MiB on RabbitMQ"),
    plain("confirm_timeout", "2s", "how long the door waits for the queue's confirm"),
    plain("worker_lease", "20s", "how long a worker's lease lasts without a renewal"),
    plain("retention", "30d", "age at which events, deliveries and attempts are removed"),
    plain("retention_rejections", "7d", "age at which rejections are removed"),
    plain("min_free_disk", "256MiB", "free space in the data directory below which the door answers 503"),
    plain("source_rate", "20000", "requests a second that one source may send before it gets 429"),
    plain("drain_timeout", "25s", "how long draining may take after SIGTERM"),
    plain("startup_timeout", "60s", "how long a start waits for the store"),
];
