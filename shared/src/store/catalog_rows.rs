//! What the catalog reads: the configuration of every workspace, whole or one row at a time.

use uuid::Uuid;

use super::Store;
use crate::{q, row};

row! {
    /// A source.
    pub struct SourceRow {
        /// Its id.
        source_id: Uuid,
        /// The owner.
        workspace_id: Uuid,
        /// For people.
        name: String,
        /// The last part of its address.
        source_key: String,
        /// The preset's slug.
        provider: String,
        /// The scheme, as JSON.
        scheme: String,
        /// Allowed methods, separated by spaces.
        methods: String,
        /// Whether it takes anything.
        enabled: bool,
        /// Whether its deliveries are held.
        paused: bool,
        /// The largest body.
        max_body_bytes: i64,
        /// The status of an accepting answer.
        response_status: i64,
        /// Its body, if not the event's id.
        response_body: Option<String>,
        /// Its own rule for repeats, as JSON, if it has one.
        repeat_rule: Option<String>,
        /// The address ranges that it takes requests from, separated by spaces; any unless set.
        allowed_ips: Option<String>,
    }
}

row! {
    /// A secret of a source.
    pub struct SecretRow {
        /// Its id.
        secret_id: Uuid,
        /// The source.
        source_id: Uuid,
        /// For people.
        label: String,
        /// Sealed by the vault.
        ciphertext: Vec<u8>,
        /// Its end, if it has one.
        not_after_ms: Option<i64>,
        /// `signing` or `handshake`.
        purpose: String,
    }
}

row! {
    /// A destination.
    pub struct DestinationRow {
        /// Its id.
        destination_id: Uuid,
        /// The owner.
        workspace_id: Uuid,
        /// `http` or `inspector`.
        kind: String,
        /// Where to, for `http`.
        url: Option<String>,
        /// Whether deliveries go out.
        enabled: bool,
        /// Requests at once, over all workers.
        concurrency: i64,
        /// Requests begun in each period, over all workers; unlimited unless set.
        rate_limit: Option<i64>,
        /// The period: `second`, `minute` or `hour`.
        rate_per: String,
        /// Whether a circuit breaker spares it while it fails.
        breaker: bool,
        /// The delivery policy of its subscriptions that have none of their own, as JSON.
        policy: Option<String>,
        /// How it is connected to, as JSON.
        connection: Option<String>,
        /// The secrets that prove us there, as JSON, sealed.
        credentials: Option<Vec<u8>>,
        /// How long an attempt may take.
        timeout_ms: i64,
        /// Sealed by the vault.
        signing_secret: Vec<u8>,
        /// The secret before, sealed, which signs beside the current one for a while.
        previous_secret: Option<Vec<u8>>,
        /// Until when.
        previous_until_ms: Option<i64>,
        /// What an inspector answers.
        inspector_status: i64,
        /// After how long.
        inspector_delay_ms: i64,
    }
}

row! {
    /// A subscription with its current rules.
    pub struct SubscriptionRow {
        /// Its id.
        subscription_id: Uuid,
        /// The owner.
        workspace_id: Uuid,
        /// From.
        source_id: Uuid,
        /// To.
        destination_id: Uuid,
        /// Whether it makes deliveries.
        enabled: bool,
        /// Whether its deliveries are held.
        paused: bool,
        /// The current revision.
        revision: i64,
        /// Its own delivery policy, as JSON, if it has one.
        policy: Option<String>,
        /// The order that it keeps, as JSON, if it keeps one.
        ordering: Option<String>,
    }
}

impl Store {
    /// All sources, or the one with this id.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn source_rows(&self, only: impl Into<Option<Uuid>>) -> sqlx::Result<Vec<SourceRow>> {
        q!(
            &self.db,
            fetch_all as SourceRow,
            "SELECT source_id, workspace_id, name, source_key, provider, scheme, methods, enabled, paused, max_body_bytes,
                    response_status, response_body, repeat_rule, allowed_ips
             FROM source WHERE $1 IS NULL OR source_id = $1",
            only.into()
        )
    }

    /// The source with this key, if there is one.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn source_row_by_key(&self, key: &str) -> sqlx::Result<Option<SourceRow>> {
        q!(
            &self.db,
            fetch_optional as SourceRow,
            "SELECT source_id, workspace_id, name, source_key, provider, scheme, methods, enabled, paused, max_body_bytes,
                    response_status, response_body, repeat_rule, allowed_ips
             FROM source WHERE source_key = $1",
            key
        )
    }

    /// The secrets of all sources, or of the one with this id.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn secret_rows(&self, only: impl Into<Option<Uuid>>) -> sqlx::Result<Vec<SecretRow>> {
        q!(
            &self.db,
            fetch_all as SecretRow,
            "SELECT secret_id, source_id, label, ciphertext, not_after_ms, purpose FROM source_secret
             WHERE $1 IS NULL OR source_id = $1 ORDER BY secret_id",
            only.into()
        )
    }

    /// All destinations, or the one with this id.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn destination_rows(&self, only: impl Into<Option<Uuid>>) -> sqlx::Result<Vec<DestinationRow>> {
        q!(
            &self.db,
            fetch_all as DestinationRow,
            "SELECT destination_id, workspace_id, kind, url, enabled, concurrency, rate_limit, rate_per, breaker, policy, timeout_ms,
                    connection, credentials, signing_secret,
                    previous_secret, previous_until_ms, inspector_status, inspector_delay_ms
             FROM destination WHERE $1 IS NULL OR destination_id = $1",
            only.into()
        )
    }

    /// All subscriptions, or the one with this id.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn subscription_rows(&self, only: impl Into<Option<Uuid>>) -> sqlx::Result<Vec<SubscriptionRow>> {
        q!(
            &self.db,
            fetch_all as SubscriptionRow,
            "SELECT s.subscription_id, s.workspace_id, s.source_id, s.destination_id, s.enabled, s.paused, s.revision,
                    r.policy, r.ordering
             FROM subscription AS s
             LEFT JOIN subscription_revision AS r ON r.subscription_id = s.subscription_id AND r.revision = s.revision
             WHERE $1 IS NULL OR s.subscription_id = $1",
            only.into()
        )
    }

    /// Notes that a secret verified an event.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn touch_secret(&self, secret: Uuid, at: i64) -> sqlx::Result<()> {
        q!(
            &self.db,
            execute,
            "UPDATE source_secret SET last_used_ms = $2 WHERE secret_id = $1 AND (last_used_ms IS NULL OR last_used_ms < $2)",
            secret,
            at
        )
        .map(|_| ())
    }
}
