//! The reference for the delivering side, in as little code as can be: consume with prefetch 1024, persist events and
//! deliveries of a batch with one statement, acknowledge the batch, POST with 128 in flight, record outcomes in batches.
//! The product does the same and, on top, routes by subscription, signs, guards addresses, keeps lanes, slots and leases,
//! and fences every outcome.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use clap::Args;
use futures::{FutureExt as _, StreamExt as _};
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{Connection, ConnectionProperties};
use serde_json::json;
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use tokio::sync::{Semaphore, mpsc};
use uuid::Uuid;

use super::post::{PostClient, client};
use crate::child::say;

/// Unacknowledged messages.
const PREFETCH: u16 = 1024;
/// Rows per statement.
const BATCH: usize = 500;
/// How long the first of a batch waits for company.
const LINGER: Duration = Duration::from_millis(3);
/// Requests in flight.
const IN_FLIGHT: usize = 128;
/// Destinations that the events are spread over.
const DESTINATIONS: usize = 10;
/// As long as the header block of an event in the product.
const HEADERS: &[u8] = &[b'h'; 300];

/// Where everything is.
#[derive(Debug, Args)]
pub(crate) struct Settings {
    /// The broker.
    #[arg(long)]
    amqp: String,
    /// The queue.
    #[arg(long)]
    queue: String,
    /// The database, with the tables made.
    #[arg(long)]
    database: String,
    /// The sink's address.
    #[arg(long)]
    sink: String,
}

/// A delivery to be made.
struct Job {
    delivery: Uuid,
    destination: usize,
    body: Bytes,
}

/// A delivery that was made.
struct Outcome {
    delivery: Uuid,
    started_ms: i64,
    finished_ms: i64,
    status: i64,
    headers: Vec<u8>,
    body: Vec<u8>,
}

/// The child: works until it is killed.
pub(crate) async fn run(settings: Settings) -> anyhow::Result<()> {
    let pool = PgPoolOptions::new().max_connections(4).connect(&settings.database).await?;
    let (jobs, inbox) = mpsc::channel(2 * BATCH);
    let (outcomes, done) = mpsc::channel(4096);
    tokio::try_join!(consume(&settings, &pool, jobs), deliver(&settings, inbox, outcomes), async {
        record(&pool, done).await
    })?;
    Ok(())
}

async fn consume(settings: &Settings, pool: &PgPool, jobs: mpsc::Sender<Job>) -> anyhow::Result<()> {
    let connection = Connection::connect(&settings.amqp, ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    channel.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
    let queue = settings.queue.as_str().into();
    let mut messages =
        channel.basic_consume(queue, "".into(), BasicConsumeOptions::default(), FieldTable::default()).await?;
    say(&json!({ "consuming": settings.queue }))?;
    while let Some(first) = messages.next().await {
        let mut batch = vec![first?];
        let mut lingered = false;
        while batch.len() < BATCH {
            match messages.next().now_or_never() {
                Some(Some(message)) => batch.push(message?),
                Some(None) => break,
                None if lingered => break,
                None => {
                    lingered = true;
                    tokio::time::sleep(LINGER).await;
                }
            }
        }
        let tag = batch.last().map_or(0, |last| last.delivery_tag);
        let made = persist(pool, batch).await?;
        channel.basic_ack(tag, BasicAckOptions { multiple: true }).await?;
        for job in made {
            jobs.send(job).await?;
        }
    }
    anyhow::bail!("the broker ended the consumer")
}

async fn persist(pool: &PgPool, batch: Vec<Delivery>) -> anyhow::Result<Vec<Job>> {
    let now = now_ms();
    let workspace = Uuid::nil();
    let events: Vec<Uuid> = batch.iter().map(|_| Uuid::now_v7()).collect();
    let jobs: Vec<Job> = batch
        .into_iter()
        .enumerate()
        .map(|(n, message)| Job { delivery: Uuid::now_v7(), destination: n % DESTINATIONS, body: message.data.into() })
        .collect();
    let destinations: Vec<Uuid> = jobs.iter().map(|job| Uuid::from_u128(job.destination as u128)).collect();
    sqlx::query(
        "WITH e AS (
            INSERT INTO event (event_id, workspace_id, source_id, received_ms, method, path, headers, body)
            SELECT event_id, $1, source_id, $2, 'POST', '/', $3, body
            FROM UNNEST($4::uuid[], $5::uuid[], $6::bytea[]) AS u (event_id, source_id, body)
            ON CONFLICT (event_id) DO NOTHING
        )
        INSERT INTO delivery (delivery_id, workspace_id, event_id, subscription_id, destination_id, status, attempts,
                              lease_owner, created_ms)
        SELECT delivery_id, $1, event_id, destination_id, destination_id, 'leased', 1, $1, $2
        FROM UNNEST($7::uuid[], $4::uuid[], $5::uuid[]) AS u (delivery_id, event_id, destination_id)",
    )
    .bind(workspace)
    .bind(now)
    .bind(HEADERS)
    .bind(&events)
    .bind(&destinations)
    .bind(jobs.iter().map(|job| &job.body[..]).collect::<Vec<_>>())
    .bind(jobs.iter().map(|job| job.delivery).collect::<Vec<_>>())
    .execute(pool)
    .await?;
    Ok(jobs)
}

async fn deliver(
    settings: &Settings,
    mut jobs: mpsc::Receiver<Job>,
    outcomes: mpsc::Sender<Outcome>,
) -> anyhow::Result<()> {
    let client = client();
    let free = Arc::new(Semaphore::new(IN_FLIGHT));
    let uris = (0..DESTINATIONS)
        .map(|number| format!("http://{}/destination/{number}", settings.sink).parse())
        .collect::<Result<Vec<hyper::Uri>, _>>()?;
    while let Some(job) = jobs.recv().await {
        let permit = free.clone().acquire_owned().await?;
        let (client, uri, outcomes) = (client.clone(), uris[job.destination].clone(), outcomes.clone());
        tokio::spawn(async move {
            // What fails is never recorded, and the run does not balance.
            if let Ok(outcome) = post(client, uri, job).await {
                outcomes.send(outcome).await.ok();
            }
            drop(permit);
        });
    }
    anyhow::bail!("the consumer has ended")
}

async fn post(client: PostClient, uri: hyper::Uri, job: Job) -> anyhow::Result<Outcome> {
    let started_ms = now_ms();
    let request = Request::post(uri)
        .header("content-type", "application/json")
        .header("webhook-id", format!("msg_{}", job.delivery.simple()))
        .body(Full::new(job.body))?;
    let (parts, body) = client.request(request).await?.into_parts();
    let body = body.collect().await?.to_bytes().to_vec();
    anyhow::ensure!(parts.status.is_success(), "the sink answers {}", parts.status);
    let headers =
        parts.headers.iter().flat_map(|(name, value)| [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\n"]);
    Ok(Outcome {
        delivery: job.delivery,
        started_ms,
        finished_ms: now_ms(),
        status: parts.status.as_u16().into(),
        headers: headers.collect::<Vec<_>>().concat(),
        body,
    })
}

async fn record(pool: &PgPool, mut outcomes: mpsc::Receiver<Outcome>) -> anyhow::Result<()> {
    let mut batch: Vec<Outcome> = Vec::with_capacity(BATCH);
    while outcomes.recv_many(&mut batch, BATCH).await > 0 {
        if batch.len() < BATCH / 4 {
            tokio::time::sleep(LINGER).await;
            while batch.len() < BATCH {
                let Ok(outcome) = outcomes.try_recv() else { break };
                batch.push(outcome);
            }
        }
        sqlx::query(
            "WITH o AS (
                SELECT * FROM UNNEST($1::uuid[], $2::uuid[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bytea[], $7::bytea[])
                    AS o (delivery_id, attempt_id, started_ms, finished_ms, status_code, headers, body)
            ), d AS (
                UPDATE delivery SET status = 'delivered', lease_owner = NULL, finished_ms = o.finished_ms,
                                    last_status = o.status_code
                FROM o WHERE delivery.delivery_id = o.delivery_id
            )
            INSERT INTO attempt (delivery_id, number, attempt_id, started_ms, finished_ms, state, status_code, timings,
                                 response_headers, response_body)
            SELECT delivery_id, 1, attempt_id, started_ms, finished_ms, 'succeeded', status_code, '{\"total\":1}', headers, body
            FROM o",
        )
        .bind(batch.iter().map(|o| o.delivery).collect::<Vec<_>>())
        .bind(batch.iter().map(|_| Uuid::now_v7()).collect::<Vec<_>>())
        .bind(batch.iter().map(|o| o.started_ms).collect::<Vec<_>>())
        .bind(batch.iter().map(|o| o.finished_ms).collect::<Vec<_>>())
        .bind(batch.iter().map(|o| o.status).collect::<Vec<_>>())
        .bind(batch.iter().map(|o| &o.headers[..]).collect::<Vec<_>>())
        .bind(batch.iter().map(|o| &o.body[..]).collect::<Vec<_>>())
        .execute(pool)
        .await?;
        batch.clear();
    }
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "a reference has no clock to move")]
fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
