//! The servers that many tests share: those of `with-servers` when there are any, else private
//! ones of this process. Tests keep apart on them by a database and a queue prefix of their own.

use tokio::sync::OnceCell;

use crate::{Postgres, Rabbit, postgres};

/// Where `with-servers` says which Postgres to use: no database, user `postgres`.
pub const POSTGRES_URL: &str = "HOOKYARD_TEST_POSTGRES_URL";
/// Where `with-servers` says which RabbitMQ to use.
pub const AMQP_URL: &str = "HOOKYARD_TEST_AMQP_URL";

/// A Postgres that other tests use too.
#[derive(Debug)]
pub struct SharedPostgres {
    server_url: String,
    _own: Option<Postgres>,
}

impl SharedPostgres {
    /// The address of one database.
    pub fn url(&self, database: &str) -> String {
        format!("{}/{database}", self.server_url)
    }

    /// The address of the server, without a database.
    pub fn server_url(&self) -> &str {
        &self.server_url
    }

    /// Makes a database and returns its address.
    pub async fn create_database(&self, name: &str) -> anyhow::Result<String> {
        postgres::create_database(&self.server_url, name).await
    }

    /// Removes a database, whoever uses it.
    pub async fn drop_database(&self, name: &str) -> anyhow::Result<()> {
        postgres::drop_database(&self.server_url, name).await
    }
}

/// A RabbitMQ that other tests use too: choose queue names nobody else has.
#[derive(Debug)]
pub struct SharedRabbit {
    url: String,
    _own: Option<Rabbit>,
}

impl SharedRabbit {
    /// The address of the broker.
    pub fn url(&self) -> String {
        self.url.clone()
    }
}

/// The shared Postgres; started now if `with-servers` did not.
pub async fn shared_postgres() -> anyhow::Result<&'static SharedPostgres> {
    static SHARED: OnceCell<SharedPostgres> = OnceCell::const_new();
    let start = async || {
        if let Ok(url) = std::env::var(POSTGRES_URL) {
            return Ok(SharedPostgres { server_url: url.trim_end_matches('/').to_owned(), _own: None });
        }
        let own = Postgres::start().await?;
        anyhow::Ok(SharedPostgres { server_url: own.server_url(), _own: Some(own) })
    };
    SHARED.get_or_try_init(start).await
}

/// The shared RabbitMQ; started now if `with-servers` did not.
pub async fn shared_rabbit() -> anyhow::Result<&'static SharedRabbit> {
    static SHARED: OnceCell<SharedRabbit> = OnceCell::const_new();
    let start = async || {
        if let Ok(url) = std::env::var(AMQP_URL) {
            return Ok(SharedRabbit { url, _own: None });
        }
        let own = Rabbit::start().await?;
        anyhow::Ok(SharedRabbit { url: own.url(), _own: Some(own) })
    };
    SHARED.get_or_try_init(start).await
}
