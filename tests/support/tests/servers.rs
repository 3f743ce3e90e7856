//! The harness tests itself: servers that survive `kill -9`, a sink that does what it is told, a
//! sender and a checker that agree with it.

use std::time::{Duration, Instant};

use hookyard_testkit::{
    Answer, Check, Http, Nemesis, Postgres, Rabbit, Scheme, Script, Sender, Sink, rabbit::SETTLE_BEFORE_KILL,
    wait_until,
};
use lapin::{
    BasicProperties, Confirmation, Connection, ConnectionProperties,
    options::{BasicAckOptions, BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable},
};
use serde_json::json;
use sqlx::{Connection as _, PgConnection};

#[tokio::test]
async fn what_postgres_has_committed_survives_kill_9() -> anyhow::Result<()> {
    let mut postgres = Postgres::start().await?;
    let url = postgres.create_database("kept").await?;
    let mut connection = PgConnection::connect(&url).await?;
    sqlx::query("CREATE TABLE thing (n BIGINT)").execute(&mut connection).await?;
    sqlx::query("INSERT INTO thing VALUES (7)").execute(&mut connection).await?;

    postgres.freeze()?;
    let frozen = sqlx::query("SELECT 1").execute(&mut connection);
    assert!(tokio::time::timeout(Duration::from_millis(300), frozen).await.is_err());
    postgres.thaw()?;

    for stop in ["kill", "immediate", "fast"] {
        match stop {
            "kill" => postgres.kill9().await?,
            "immediate" => postgres.stop_immediate().await?,
            _ => postgres.stop_fast().await?,
        }
        assert!(PgConnection::connect(&url).await.is_err(), "gone after {stop}");
        postgres.restart().await?;
        let mut connection = PgConnection::connect(&url).await?;
        let n: i64 = sqlx::query_scalar("SELECT n FROM thing").fetch_one(&mut connection).await?;
        assert_eq!(n, 7, "after {stop}");
    }
    Ok(())
}

#[tokio::test]
async fn what_rabbit_has_confirmed_survives_kill_9() -> anyhow::Result<()> {
    const COUNT: usize = 20;
    let mut rabbit = Rabbit::start().await?;
    let connection = Connection::connect(&rabbit.url(), ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    channel.confirm_select(ConfirmSelectOptions::default()).await?;
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
    channel.queue_declare("kept".into(), QueueDeclareOptions::durable(), arguments).await?;
    let declared = Instant::now();
    for n in 0..COUNT {
        let confirm = channel
            .basic_publish(
                "".into(),
                "kept".into(),
                BasicPublishOptions { mandatory: true, ..Default::default() },
                n.to_string().as_bytes(),
                BasicProperties::default().with_delivery_mode(2),
            )
            .await?
            .await?;
        assert!(matches!(confirm, Confirmation::Ack(None)), "{confirm:?}");
    }
    assert!(rabbit.ctl(&["status"]).await?.contains("RabbitMQ"));

    rabbit.freeze()?;
    let url = rabbit.url();
    let frozen = Connection::connect(&url, ConnectionProperties::default());
    assert!(tokio::time::timeout(Duration::from_millis(500), frozen).await.is_err());
    rabbit.thaw()?;

    tokio::time::sleep_until((declared + SETTLE_BEFORE_KILL).into()).await;
    rabbit.kill9().await?;
    rabbit.restart().await?;

    let connection = Connection::connect(&rabbit.url(), ConnectionProperties::default()).await?;
    let channel = connection.create_channel().await?;
    let mut found = Vec::new();
    let until = Instant::now() + Duration::from_secs(20);
    while found.len() < COUNT && Instant::now() < until {
        // A queue without its leader yet answers with nothing.
        match channel.basic_get("kept".into(), BasicGetOptions::default()).await? {
            Some(message) => {
                found.push(String::from_utf8_lossy(&message.data).into_owned());
                message.ack(BasicAckOptions::default()).await?;
            }
            None => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
    let expected: Vec<String> = (0..COUNT).map(|n| n.to_string()).collect();
    assert_eq!(found, expected);
    Ok(())
}

#[tokio::test]
async fn a_sink_does_what_its_script_says() -> anyhow::Result<()> {
    let mut sink = Sink::start().await?;
    let http = Http::new(sink.url("")).timeout(Duration::from_millis(500));
    let post = async |path: &str| http.post(path, &json!({})).await;

    sink.script("/fails-twice", Script::first(2, Answer::Status(503)));
    let mut statuses = Vec::new();
    for _ in 0..4 {
        statuses.push(post("/fails-twice").await?.status.as_u16());
    }
    assert_eq!(statuses, [503, 503, 200, 200]);
    assert_eq!((sink.count("/fails-twice"), sink.accepted("/fails-twice")), (4, 2));

    sink.script("/never", Answer::Never);
    assert!(post("/never").await.is_err());
    assert_eq!(sink.received("/never")[0].status, 0);

    sink.script("/reset", Answer::ResetAfter(10));
    let error = format!("{:?}", post("/reset").await.expect_err("it is cut off"));
    assert!(error.contains("reset"), "{error}");

    sink.script("/drip", Answer::Drip { chunk: 3, every: Duration::from_millis(5), total: 10 });
    assert_eq!(post("/drip").await?.body.len(), 10);

    sink.script("/moved", Answer::redirect(302, "http://127.0.0.1:1/"));
    assert_eq!(post("/moved").await?.header("location"), Some("http://127.0.0.1:1/"));

    sink.script("/slow", Answer::After(Duration::from_millis(100), 200));
    futures::future::try_join_all((0..5).map(|_| post("/slow"))).await?;
    assert_eq!(sink.max_concurrent("/slow"), 5);

    sink.stop();
    wait_until("refused", Duration::from_secs(2), async || post("/any").await.is_err()).await?;
    sink.resume().await?;
    wait_until("back", Duration::from_secs(2), async || post("/any").await.is_ok()).await?;
    Ok(())
}

#[tokio::test]
async fn sender_sink_and_checker_agree_when_the_sink_is_the_product() -> anyhow::Result<()> {
    let sink = Sink::start().await?.quiet();
    sink.script("/in", Script::first(5, Answer::Status(503)));
    for scheme in Scheme::ALL {
        let sender = Sender::new(sink.url("/in"), scheme, scheme.new_secret())
            .concurrency(4)
            .retry(20, Duration::from_millis(5));
        sender.send(50).await;
        sender.send(50).await;
        let ledger = sender.ledger();
        assert_eq!((ledger.len(), ledger.acknowledged()), (100, 100), "{scheme:?}");
        let seed = Nemesis::with_seed(1).seed();
        // Senders have ids of their own, so bodies of one scheme never match another's.
        let own: Vec<_> = sink.received("/in");
        Check::of("agree", ledger.sent(), own).seed(seed).report().assert_ok();
        sink.forget("/in");
    }
    Ok(())
}

#[tokio::test]
async fn a_sender_keeps_its_rate_and_knows_what_was_never_sent() -> anyhow::Result<()> {
    let mut sink = Sink::start().await?;
    let sender = Sender::new(sink.url("/in"), Scheme::Github, "secret").rate(100.0);
    let started = Instant::now();
    sender.send(30).await;
    assert!(started.elapsed() >= Duration::from_millis(280), "{:?}", started.elapsed());

    sink.stop();
    wait_until("refused", Duration::from_secs(2), async || Http::new(sink.url("")).get("/").await.is_err()).await?;
    let sender = sender.retry(1, Duration::ZERO).with_ledger(Default::default());
    sender.send(5).await;
    assert!(sender.ledger().sent().iter().all(|sent| sent.possible == 0));
    Ok(())
}

#[tokio::test]
async fn the_seed_repeats_every_choice() {
    let choices = |mut nemesis: Nemesis| {
        let times = nemesis.kill_times(5, Duration::from_secs(10));
        (times, nemesis.pick(100), nemesis.pause(Duration::ZERO..Duration::from_secs(1)))
    };
    assert_eq!(choices(Nemesis::with_seed(7)), choices(Nemesis::with_seed(7)));
    assert_ne!(choices(Nemesis::with_seed(7)), choices(Nemesis::with_seed(8)));
}
