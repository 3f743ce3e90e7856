//! What concerns a program by itself: settings, several processes, connections, and the command line.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_seen_by_every_ingress_within_a_second() {
    let stack = Stack::builder(Profile::Distributed).ingresses(2).start().await.unwrap();
    let account = stack.account().await.unwrap();
    let source = account.create_source("none", None, json!({})).await.unwrap();
    let other = stranger(&stack).at(stack.base_url(1));
    let path = format!("/in/{}", source.url.rsplit('/').next().unwrap());
    assert_eq!(other.post(&path, &json!({})).await.unwrap().status, 200);
    account
        .http
        .patch(&format!("/api/v1/sources/{}", source.id), &json!({"enabled": false}))
        .await
        .unwrap()
        .ok()
        .unwrap();
    settle().await;
    assert_eq!(other.post(&path, &json!({})).await.unwrap().status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_captured_request_is_judged_offline_and_a_refusal_explained() {
    let dir = tempfile::tempdir().unwrap();
    let body = "{\"id\": \"evt_1\"}";
    let headers = Scheme::Stripe.headers("whsec_0123", "1", 1_700_000_000, body.as_bytes());
    let signature = headers["stripe-signature"].to_str().unwrap();
    let length = body.len();
    let head = format!("POST /in/k HTTP/1.1\nHost: h\nStripe-Signature: {signature}\nContent-Length: {length}\n\n");
    let file = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    file("request", &format!("{head}{body}\n"));
    file(
        "rewritten",
        &format!("{}{{\"id\":\"evt_1\"}}", head.replace(&format!("{length}"), &format!("{}", length - 1))),
    );
    file("secret", "whsec_0123\n");
    file("short", "0123");
    let at = "2023-11-14T22:13:30Z";
    for (args, code, words) in [
        (["--secret-file", "secret", "--at", at, "request"], 0, "accepted: verified by the secret `secret`"),
        (["--secret-file", "short", "--at", at, "request"], 1, "lacks the `whsec_` in front"),
        (["--secret-file", "secret", "--at", at, "rewritten"], 1, "a space after commas and colons"),
        (["--secret-file", "secret", "--at", "2023-11-15T00:00:00Z", "request"], 1, "only its time is not"),
        (["--secret-file", "secret", "--at", "noon", "request"], 2, "write a time as in"),
        (["--secret-file", "secret", "--at", at, "nowhere"], 2, "nowhere"),
    ] {
        let args = [["verify", "--provider", "stripe"].as_slice(), &args].concat();
        let (status, output) = Program::run(Kind::Hookyard, &args, &[], dir.path()).await.unwrap();
        assert_eq!(status.code(), Some(code), "{output}");
        assert!(output.contains(words), "{output}");
        assert!(!output.contains("whsec_0123"), "no secret is printed: {output}");
    }
    let args = ["verify", "--provider", "stripe", "--secret-file", "short", "--at", at, "--json", "request"];
    let (_, output) = Program::run(Kind::Hookyard, &args, &[], dir.path()).await.unwrap();
    let line: Value = serde_json::from_str(output.lines().find(|line| line.starts_with('{')).unwrap()).unwrap();
    assert_eq!((line["code"].as_str(), line["accepted"].as_bool()), (Some("signature_mismatch"), Some(false)));
    assert_eq!(line["diagnosis"]["code"], "altered_secret");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_settings_end_with_78_and_the_cure() {
    use hookyard_testkit::{Kind, Program};
    let dir = tempfile::tempdir().unwrap();
    for (kind, args, envs, words) in [
        (Kind::Ingress, &[][..], vec![], "HOOKYARD_DATABASE_URL"),
        (Kind::Worker, &[], vec![], "HOOKYARD_AMQP_URL"),
        (Kind::Hookyard, &[], vec![("HOOKYARD_LISTNE", "x")], "did you mean"),
        (Kind::Hookyard, &["config", "check"], vec![("HOOKYARD_RETENTION", "soon")], "must be a number and a unit"),
        (Kind::Hookyard, &[], vec![("HOOKYARD_AMQP_URL", "amqp://x")], "HOOKYARD_DATABASE_URL is missing"),
        (Kind::Hookyard, &[], vec![("HOOKYARD_ENCRYPTION_KEY", "short")], "openssl rand -base64 32"),
    ] {
        let (status, output) = Program::run(kind, args, &envs, dir.path()).await.unwrap();
        assert_eq!(status.code(), Some(78), "{output}");
        assert!(output.contains(words), "`{words}` is missing in\n{output}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_is_held_by_one_process_and_its_key_is_remembered() {
    use hookyard_testkit::{Kind, Program};
    let mut stack = Stack::start(Profile::Embedded).await.unwrap();
    let data = stack.dir().join("data").display().to_string();
    let envs = [("HOOKYARD_DATA_DIR", data.as_str())];
    let (status, output) = Program::run(Kind::Hookyard, &[], &envs, stack.dir()).await.unwrap();
    assert_eq!(status.code(), Some(78), "{output}");
    assert!(output.contains("in use by another hookyard"), "{output}");

    stack.stop(Duration::from_secs(20)).await.unwrap();
    let other_key = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    let envs = [envs[0], ("HOOKYARD_ENCRYPTION_KEY", other_key)];
    let (status, output) = Program::run(Kind::Hookyard, &[], &envs, stack.dir()).await.unwrap();
    assert_eq!(status.code(), Some(78), "{output}");
    assert!(output.contains("encrypted with another key"), "{output}");
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_and_dripping_connections_are_closed() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let stack = Stack::start(Profile::Embedded).await.unwrap();
    let address = stack.base_url(0).trim_start_matches("http://").to_owned();
    let mut connections = Vec::new();
    for said in ["", "P", "PRI * HTTP/2", "POST /in/x HTTP/1.1\r\nhost: x\r\nx-slow: "] {
        let mut stream = tokio::net::TcpStream::connect(&address).await.unwrap();
        stream.write_all(said.as_bytes()).await.unwrap();
        connections.push((said, stream));
    }
    for (said, mut stream) in connections {
        let mut rest = Vec::new();
        let closed = tokio::time::timeout(Duration::from_secs(15), stream.read_to_end(&mut rest)).await;
        assert!(closed.is_ok(), "the connection that said {said:?} is still open");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_says_nothing_does_not_hold_up_an_orderly_end() {
    let mut stack = Stack::start(Profile::Embedded).await.unwrap();
    let address = stack.base_url(0).trim_start_matches("http://").to_owned();
    let _silent = tokio::net::TcpStream::connect(&address).await.unwrap();
    stranger(&stack).get("/healthz").await.unwrap();
    // Less than the ten seconds within which a silent connection is closed anyway.
    stack.stop(Duration::from_secs(8)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_consume_partitions_that_an_ingress_adds_while_they_run() {
    let builder = Stack::builder(Profile::Distributed).env("HOOKYARD_PARTITIONS", "2");
    let mut stack = builder.start().await.unwrap();
    let sink = Sink::start().await.unwrap();
    let account = stack.account().await.unwrap();
    let relay = connect(&account, Scheme::Github, &sink.url("/sink"), settings()).await;
    stack.set("HOOKYARD_PARTITIONS", "4");
    stack.restart_ingress(0).await.unwrap();
    // Partitions follow from the source's id: of so many, some are in the new ones.
    let mut sources = Vec::new();
    for _ in 0..16 {
        let source = account.create_source("github", Some(&Scheme::Github.new_secret()), json!({})).await.unwrap();
        account.create_subscription(&source.id, relay.destination_id(), json!({})).await.unwrap();
        sources.push(source);
    }
    settle().await;
    for source in &sources {
        Sender::new(&source.url, Scheme::Github, &source.secret).send(3).await;
    }
    sink.wait_for("/sink", 48, SOON).await.unwrap();
}
