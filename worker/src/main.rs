//! The `worker` program: takes events from RabbitMQ, persists them in Postgres, relays and records.

use std::process::ExitCode;
use std::sync::Arc;

use hookyard_shared::startup::{self, Exit};
use hookyard_shared::{queue, telemetry};

fn main() -> ExitCode {
    startup::main(async {
        let config = Arc::new(startup::load_config(&[])?);
        telemetry::init_logging(&config);
        startup::require_distributed(&config, "worker")?;
        let base = startup::open_base(config.clone(), telemetry::init_metrics()?).await?;
        let rabbit = startup::rabbit_config(&config)
            .ok_or_else(|| Exit::new(startup::EXIT_CONFIG, "HOOKYARD_AMQP_URL is missing"))?;
        let consumers = queue::rabbit::consumers(&base.store, &rabbit).await?;
        let shutdown = startup::shutdown_signal();
        if let Some(address) = config.ops_listen {
            let listener = startup::bind("HOOKYARD_OPS_LISTEN", address).await?;
            tokio::spawn(hookyard_worker::operations::serve(base.clone(), listener, shutdown.clone()));
        }
        hookyard_worker::run(base, consumers, shutdown).await
    })
}
