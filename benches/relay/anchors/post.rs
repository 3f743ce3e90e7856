//! The bare POST loop: hyper-util's client, 64 requests in flight, nothing on record.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::try_join_all;
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::json;

use crate::child::say;
use crate::usage::own_cpu;
use crate::webhook::BODY;

/// Requests in flight.
const IN_FLIGHT: usize = 64;

/// A pooled client.
pub(crate) type PostClient = Client<HttpConnector, Full<Bytes>>;

/// A client as the product's: pooled, Nagle off.
pub(crate) fn client() -> PostClient {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    Client::builder(TokioExecutor::new()).build(connector)
}

/// The child: posts for `window`, then says how much.
pub(crate) async fn run(to: SocketAddr, window: Duration) -> anyhow::Result<()> {
    let client = client();
    let cpu = own_cpu();
    let started = Instant::now();
    let loops = (0..IN_FLIGHT).map(|number| tokio::spawn(post(client.clone(), to, number, started + window)));
    let mut posted = 0;
    for one in try_join_all(loops).await? {
        posted += one?;
    }
    let seconds = started.elapsed().as_secs_f64();
    say(&json!({ "events": posted, "seconds": seconds, "cpu": own_cpu() - cpu }))
}

async fn post(client: PostClient, to: SocketAddr, number: usize, until: Instant) -> anyhow::Result<u64> {
    let uri: hyper::Uri = format!("http://{to}/destination/{}", number % 10).parse()?;
    let body = Bytes::from(vec![b'x'; BODY]);
    let mut posted = 0;
    while Instant::now() < until {
        let request =
            Request::post(uri.clone()).header("content-type", "application/json").body(Full::new(body.clone()))?;
        let answer = client.request(request).await?;
        anyhow::ensure!(answer.status().is_success(), "the sink answers {}", answer.status());
        answer.into_body().collect().await?;
        posted += 1;
    }
    Ok(posted)
}
