//! The `ingress` program: receives webhooks into RabbitMQ; serves the management API and pages from Postgres.

use std::process::ExitCode;
use std::sync::Arc;

use hookyard_ingress::{AppState, Listeners, Parts};
use hookyard_shared::queue::rabbit::{RabbitPublisher, partitions_ever};
use hookyard_shared::startup::{self, Exit};
use hookyard_shared::{auth, telemetry};

fn main() -> ExitCode {
    startup::main(async {
        let config = Arc::new(startup::load_config(&[])?);
        telemetry::init_logging(&config);
        startup::require_distributed(&config, "ingress")?;
        let listeners = Listeners::bind(&config).await?;
        let base = startup::open_base(config.clone(), telemetry::init_metrics()?).await?;
        let rabbit = startup::rabbit_config(&config)
            .ok_or_else(|| Exit::new(startup::EXIT_CONFIG, "HOOKYARD_AMQP_URL is missing"))?;
        // Before anything is published to a new partition: workers that run already begin to consume it.
        partitions_ever(&base.store, rabbit.partitions).await?;
        let publisher = RabbitPublisher::start(rabbit);
        let bound = listeners.main.local_addr()?;
        if let Some(token) = auth::setup::issue(&base.store).await? {
            tracing::info!("first owner: open {}/register?setup={token} within 15 minutes", config.public_url(bound));
        }
        let state = AppState::new(Parts { base, publisher: Arc::new(publisher), bound });
        hookyard_ingress::run(state, listeners, startup::shutdown_signal()).await
    })
}
