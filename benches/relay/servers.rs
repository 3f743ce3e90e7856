//! The private Postgres and RabbitMQ of the distributed profile: real ones, durable as in production.

use std::time::Duration;

use anyhow::Context as _;
use hookyard_testkit::{Postgres, Rabbit};
use sqlx::{Connection as _, PgConnection};

use crate::usage::Watched;

/// Both servers; gone with the value.
#[derive(Debug)]
pub(crate) struct Servers {
    /// Every measurement has a database of its own.
    pub(crate) postgres: Postgres,
    /// Every measurement has queues of its own.
    pub(crate) rabbit: Rabbit,
}

impl Servers {
    /// Starts both.
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let (postgres, rabbit) = tokio::try_join!(Postgres::start(), Rabbit::start())?;
        Ok(Self { postgres, rabbit })
    }

    /// For measuring them.
    pub(crate) fn watched(&self, postgres: bool) -> Vec<Watched> {
        let postgres = self.postgres.pid().filter(|_| postgres).map(|pid| Watched::tree("postgres", pid));
        let rabbit = self.rabbit.pid().map(|pid| Watched::one("rabbitmq", pid));
        postgres.into_iter().chain(rabbit).collect()
    }

    /// Lets them finish what earlier phases left: a checkpoint in one measurement and none in the other would be chance.
    pub(crate) async fn settle(&self) -> anyhow::Result<()> {
        let mut connection = PgConnection::connect(&self.postgres.url("postgres")).await?;
        sqlx::query("CHECKPOINT").execute(&mut connection).await.context("checkpoint")?;
        connection.close().await?;
        tokio::time::sleep(Duration::from_millis(500)).await;
        Ok(())
    }
}
