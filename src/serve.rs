//! Ingress and worker in one process.

use std::sync::Arc;

use hookyard_ingress::{AppState, Listeners, Parts};
use hookyard_shared::config::Config;
use hookyard_shared::disk::Ballast;
use hookyard_shared::queue::embedded::EmbeddedQueue;
use hookyard_shared::queue::{self, Consumers, Health, Publisher, rabbit};
use hookyard_shared::startup::{self, Base, Exit};
use hookyard_shared::store::Store;
use hookyard_shared::{auth, telemetry};
use tokio_util::sync::CancellationToken;

/// Serves until SIGTERM or SIGINT.
pub(crate) async fn run(config: Arc<Config>) -> anyhow::Result<()> {
    telemetry::init_logging(&config);
    let listeners = Listeners::bind(&config).await?;
    let base = startup::open_base(config.clone(), telemetry::init_metrics()?).await?;
    let (publisher, consumers) = open_queue(&base).await?;
    let bound = listeners.main.local_addr()?;
    // Pages have an address of their own if one is set.
    let pages = listeners.admin.as_ref().map(|l| l.local_addr().map(|a| format!("http://{a}"))).transpose()?;
    greet(&base, pages.unwrap_or_else(|| config.public_url(bound))).await?;
    let state = AppState::new(Parts { base: base.clone(), publisher: publisher.clone(), bound });
    let shutdown = startup::shutdown_signal();

    if config.database_url.is_none() {
        tokio::spawn(Ballast::new(&config.data_dir, config.min_free_disk).keep());
    }
    let disk = tokio::spawn(watch_disk(publisher, base.store.clone(), shutdown.clone()));
    // The worker goes on while the last requests are answered; what they accept is safe in the queue either way.
    let worker = tokio::spawn({
        // However the worker ends, the ingress does not go on without it.
        let end = shutdown.clone().drop_guard();
        let work = hookyard_worker::run(base, consumers, shutdown.clone());
        async move {
            let _end = end;
            work.await
        }
    });
    let served = hookyard_ingress::run(state, listeners, shutdown.clone()).await;
    shutdown.cancel();
    let worked = worker.await;
    // A failed disk is why the others failed.
    disk.await??;
    served.and(worked?)
}

/// The two ends of the configured queue.
async fn open_queue(base: &Base) -> anyhow::Result<(Arc<dyn Publisher>, Consumers)> {
    if let Some(rabbit) = startup::rabbit_config(&base.config) {
        let consumers = rabbit::consumers(&base.store, &rabbit).await?;
        return Ok((Arc::new(rabbit::RabbitPublisher::start(rabbit)), consumers));
    }
    let path = base.config.data_dir.join("queue.db");
    let queue = EmbeddedQueue::open(&path, base.config.confirm_timeout).await.map_err(|error| {
        Exit::new(startup::EXIT_DISK, format!("{}: the embedded queue cannot be opened: {error}", path.display()))
    })?;
    let consumer = queue.consumer();
    Ok((Arc::new(queue), queue::only(consumer)))
}

/// One line with the address; and, while there is no user, the link that makes the first owner.
async fn greet(base: &Base, url: String) -> anyhow::Result<()> {
    use std::io::Write as _;
    let line = match auth::setup::issue(&base.store).await? {
        Some(token) => format!("hookyard is at {url} · set it up within 15 minutes: {url}/register?setup={token}"),
        None => format!("hookyard is at {url}"),
    };
    // Not through the log: the link must be seen whatever the log's filter and format.
    writeln!(std::io::stdout(), "{line}")?;
    Ok(())
}

/// Ends the process when the disk of queue or store failed: after a failed fsync nothing says what is on disk.
async fn watch_disk(publisher: Arc<dyn Publisher>, store: Store, shutdown: CancellationToken) -> anyhow::Result<()> {
    let mut tick = tokio::time::interval(std::time::Duration::from_millis(250));
    loop {
        tokio::select! { _ = tick.tick() => {}, () = shutdown.cancelled() => return Ok(()) }
        if publisher.health() == Health::Failed || store.disk_failed() {
            shutdown.cancel();
            let words = "the disk under the data directory failed; nothing was acknowledged that is not on disk. Check the disk, then start again";
            return Err(Exit::new(startup::EXIT_DISK, words).into());
        }
    }
}
