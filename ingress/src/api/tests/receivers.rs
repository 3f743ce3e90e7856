//! To whom a destination's secrets belong: what has to be given again, and where none may be sent.

use serde_json::json;

use super::App;
use super::resources::{User, pointers, text};

const URL: &str = "https://93.184.215.14/hook";

#[tokio::test]
async fn no_secret_follows_to_another_origin() {
    let app = App::new(&[]).await;
    let user = User { app: &app, cookie: app.user("ada").await };
    let bearer = json!({"kind": "bearer", "token": "t0p"});
    let header = json!({"name": "x-token", "value": "s3cret", "secret": true});
    let made =
        user.create("/destinations", json!({"name": "a", "url": URL, "auth": bearer, "headers": [header]})).await;
    let path = format!("/destinations/{}", text(&made["id"]));
    for elsewhere in ["https://93.184.215.15/hook", "https://93.184.215.14:8443/hook", "http://93.184.215.14/hook"] {
        let moved = user.patch(&path, json!({"url": elsewhere})).await;
        assert_eq!(pointers(&moved), ["/auth/token", "/headers/0/value"], "{elsewhere}");
        assert!(moved.text.contains("needed"), "{}", moved.text);
        let half = json!({"url": elsewhere, "auth": bearer, "headers": [{"name": "x-token", "secret": true}]});
        assert_eq!(pointers(&user.patch(&path, half).await), ["/headers/0/value"], "{elsewhere}");
    }
    let seen = user.get(&path).await.json();
    assert_eq!((text(&seen["url"]), &seen["auth"]["secret_set"]), (URL, &json!(true)), "nothing was changed");

    for same in ["https://93.184.215.14/other", "https://93.184.215.14:443/hook?x=1"] {
        let changed = user.patch(&path, json!({"url": same})).await.json();
        assert_eq!(changed["auth"]["secret_set"], json!(true), "{same}: {changed}");
    }
    let whole = json!({"url": "https://93.184.215.15/", "auth": bearer, "headers": [header]});
    assert_eq!(text(&user.patch(&path, whole).await.json()["url"]), "https://93.184.215.15/");
    let none = json!({"url": URL, "auth": null, "headers": null});
    assert_eq!(user.patch(&path, none).await.json()["auth"], json!({"kind": "none"}));
    assert_eq!(text(&user.patch(&path, json!({"url": "https://93.184.215.15/"})).await.json()["name"]), "a");
}

#[tokio::test]
async fn the_key_of_our_certificate_follows_to_no_other_origin() {
    let app = App::new(&[]).await;
    let user = User { app: &app, cookie: app.user("ada").await };
    let own = rcgen::generate_simple_self_signed(vec!["relay.example".to_owned()]).unwrap();
    let tls = json!({"certificate": own.cert.pem(), "key": own.signing_key.serialize_pem()});
    let made = user.create("/destinations", json!({"name": "a", "url": URL, "tls": tls})).await;
    let path = format!("/destinations/{}", text(&made["id"]));
    let moved = json!({"url": "https://93.184.215.15/"});
    assert_eq!(pointers(&user.patch(&path, moved).await), ["/tls/key"]);
    let moved = json!({"url": "https://93.184.215.15/", "tls": tls});
    assert_eq!(user.patch(&path, moved).await.json()["tls"]["key_set"], json!(true));
}

#[tokio::test]
async fn a_brokers_password_follows_to_no_other_broker_nor_out_of_tls() {
    let app = App::new(&[]).await;
    let user = User { app: &app, cookie: app.user("ada").await };
    for (url, kept) in [
        ("amqps://relay@93.184.215.14/other", true),
        ("amqps://relay@93.184.215.14:5671/v", true),
        ("amqp://relay@93.184.215.14:5671/v", false),
        ("amqps://other@93.184.215.14/v", false),
        ("amqps://relay@93.184.215.15/v", false),
        ("amqps://relay@93.184.215.14:5673/v", false),
    ] {
        let body = json!({"name": "a", "kind": "rabbitmq", "url": "amqps://relay:t0p@93.184.215.14/v",
            "rabbitmq": {"routing_key": "q"}});
        let made = user.create("/destinations", body).await;
        assert_eq!(made["rabbitmq"]["password_set"], json!(true));
        let path = format!("/destinations/{}", text(&made["id"]));
        let changed = user.patch(&path, json!({"url": url})).await.json();
        assert_eq!(changed["rabbitmq"]["password_set"], json!(kept), "{url}: {changed}");
    }
}

#[tokio::test]
async fn a_clients_secret_is_not_sent_in_the_clear() {
    let app = App::new(&[("egress_allow", "127.0.0.0/8")]).await;
    let user = User { app: &app, cookie: app.user("ada").await };
    let with = |token_url: &str| {
        let auth = json!({"kind": "oauth2", "token_url": token_url, "client_id": "c", "client_secret": "s"});
        json!({"name": "a", "url": URL, "auth": auth})
    };
    user.create("/destinations", with("https://93.184.215.14/token")).await;
    user.create("/destinations", with("http://127.0.0.1:9000/token")).await;
    let refused = user.post("/destinations", with("http://93.184.215.14/token")).await;
    assert_eq!(pointers(&refused), ["/auth/token_url"]);
    assert!(refused.text.contains("https://"), "{}", refused.text);
}

#[tokio::test]
async fn an_endless_list_of_statuses_is_refused() {
    let app = App::new(&[]).await;
    let user = User { app: &app, cookie: app.user("ada").await };
    let long = vec!["500"; 10_000].join(",");
    let refused = user.post("/destinations", json!({"name": "a", "url": URL, "retry_on": long})).await;
    assert_eq!(pointers(&refused), ["/retry_on"]);
    assert!(refused.text.contains("256 bytes") && refused.text.len() < 1000, "{}", refused.text);
}
