//! Pages that change something: what they show, and that only their owner gets it.

use super::*;

#[tokio::test]
async fn the_page_of_a_source_adds_shows_and_removes_secrets() {
    let app = App::new(&[("registration", "open")]).await;
    let (ada, eve) = (app.user("ada").await, app.user("eve").await);
    let own = [("cookie", ada.as_str()), SAME];
    let new = json!({"name": "Messenger", "provider": "facebook", "secret": "app-secret-0123456789"});
    let made = app.post("/api/v1/sources", &own, new).await.json();
    let page = format!("/sources/{}", made["id"].as_str().unwrap());
    let shown = app.get(&page, &own).await;
    assert_eq!(shown.status, StatusCode::OK, "{}", shown.text);
    for words in ["Facebook", "verify token compared", "••6789", "for handshakes", "implementations by others"] {
        assert!(shown.text.contains(words), "{words}: {}", shown.text);
    }
    assert!(!shown.text.contains("app-secret"), "a secret is never shown again");

    // Given one is kept, and with nothing given one is made and shown once.
    let secrets = format!("{page}/secrets");
    let given = app.form(&secrets, &own, "secret=another-secret-987654&label=next&purpose=signing").await;
    assert_eq!((given.status, &given.headers["location"]), (StatusCode::SEE_OTHER, &page.parse().unwrap()));
    let token = app.form(&secrets, &own, "secret=&label=&purpose=handshake").await;
    assert!(token.text.contains("shown this once"), "{}", token.text);
    let missing = app.form(&secrets, &own, "secret=&purpose=signing").await;
    assert_eq!(missing.status, StatusCode::UNPROCESSABLE_ENTITY, "{}", missing.text);
    let listed = app.get(&format!("/api/v1{page}"), &own).await.json()["secrets"].as_array().unwrap().clone();
    assert_eq!(listed.len(), 4);
    let first = format!("{secrets}/{}", listed[0]["id"].as_str().unwrap());
    let reveal = app.form(&format!("{first}/reveal"), &own, "").await;
    assert_eq!(reveal.status, StatusCode::NOT_FOUND, "it was entered by hand");
    assert_eq!(app.form(&format!("{first}/remove"), &own, "").await.status, StatusCode::SEE_OTHER);
    assert_eq!(app.get(&format!("/api/v1{page}"), &own).await.json()["secrets"].as_array().unwrap().len(), 3);

    let others = [("cookie", eve.as_str()), SAME];
    for path in [secrets.clone(), format!("{first}/remove"), format!("{page}/test-event")] {
        let reply = app.form(&path, &others, "secret=x&label=y").await;
        assert_eq!(reply.status, StatusCode::NOT_FOUND, "{path}: {}", reply.text);
    }
    assert_eq!(app.get(&page, &others).await.status, StatusCode::NOT_FOUND);
    let cross = [("cookie", ada.as_str()), ("sec-fetch-site", "cross-site")];
    assert_eq!(app.form(&secrets, &cross, "secret=x").await.status, StatusCode::FORBIDDEN, "another site's form");
}

#[tokio::test]
async fn the_overview_changes_a_signing_secret_once_and_not_by_a_second_click() {
    let app = App::new(&[("registration", "open")]).await;
    let ada = app.user("ada").await;
    let own = [("cookie", ada.as_str()), SAME];
    let made = app.post("/api/v1/destinations", &own, json!({"name": "Inspector", "kind": "inspector"})).await.json();
    let rotate = format!("/destinations/{}/rotate-secret", made["id"].as_str().unwrap());
    assert!(app.get("/", &own).await.text.contains(&rotate));
    let first = app.form(&rotate, &own, "").await;
    assert!(first.status == StatusCode::OK && first.text.contains("whsec_"), "{}", first.text);
    let second = app.form(&rotate, &own, "").await;
    assert_eq!(second.status, StatusCode::CONFLICT, "{}", second.text);
    assert!(app.get("/", &own).await.text.contains("old and new sign until"));
}
