//! A thin HTTP client, and a user of the management API. It knows addresses and JSON only, not
//! our types: a change of the API that breaks users breaks the tests.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode,
    header::{AUTHORIZATION, CONTENT_TYPE, COOKIE, SET_COOKIE},
};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::{Value, json};

use crate::process::random_hex;

/// The pooled client below [`Http`] and [`crate::Sender`].
pub(crate) type RawClient = Client<HttpConnector, Full<Bytes>>;

/// Makes a client; `retry` says whether a request may be sent again on a fresh connection when
/// the pooled one turned out to be closed.
pub(crate) fn raw_client(retry: bool) -> RawClient {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(Duration::from_secs(5)));
    Client::builder(TokioExecutor::new()).retry_canceled_requests(retry).build(connector)
}

/// An HTTP client with a base address and headers that go with each request.
#[derive(Debug, Clone)]
pub struct Http {
    client: RawClient,
    base: String,
    headers: HeaderMap,
    timeout: Duration,
}

impl Http {
    /// A client for `http://host:port`, with a time limit of 10 s.
    pub fn new(base: impl Into<String>) -> Self {
        Self {
            client: raw_client(true),
            base: base.into(),
            headers: HeaderMap::new(),
            timeout: Duration::from_secs(10),
        }
    }

    /// The same client for another address.
    pub fn at(&self, base: impl Into<String>) -> Self {
        Self { base: base.into(), ..self.clone() }
    }

    /// The same client with one more header; it replaces an earlier one of that name.
    pub fn header(&self, name: &str, value: &str) -> anyhow::Result<Self> {
        let mut changed = self.clone();
        changed.headers.insert(HeaderName::try_from(name)?, HeaderValue::try_from(value)?);
        Ok(changed)
    }

    /// The same client without a header.
    pub fn without(&self, name: &str) -> Self {
        let mut changed = self.clone();
        changed.headers.remove(name);
        changed
    }

    /// The same client with another time limit.
    pub fn timeout(&self, timeout: Duration) -> Self {
        Self { timeout, ..self.clone() }
    }

    /// GET.
    pub async fn get(&self, path: &str) -> anyhow::Result<Reply> {
        self.send(Method::GET, path, HeaderMap::new(), Bytes::new()).await
    }

    /// POST of JSON.
    pub async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Reply> {
        self.json(Method::POST, path, body).await
    }

    /// PATCH of JSON.
    pub async fn patch(&self, path: &str, body: &Value) -> anyhow::Result<Reply> {
        self.json(Method::PATCH, path, body).await
    }

    /// PUT of JSON.
    pub async fn put(&self, path: &str, body: &Value) -> anyhow::Result<Reply> {
        self.json(Method::PUT, path, body).await
    }

    /// DELETE.
    pub async fn delete(&self, path: &str) -> anyhow::Result<Reply> {
        self.send(Method::DELETE, path, HeaderMap::new(), Bytes::new()).await
    }

    /// Any request. `path` may be a whole address, which then wins over the base; `headers` win
    /// over those of the client.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: impl Into<Bytes>,
    ) -> anyhow::Result<Reply> {
        let address = if path.starts_with("http://") { path.to_owned() } else { format!("{}{path}", self.base) };
        let what = format!("{method} {address}");
        let mut request = Request::builder().method(method).uri(address).body(Full::new(body.into()))?;
        *request.headers_mut() = self.headers.clone();
        // Replaces what the client always sends, and keeps several lines of one name.
        request.headers_mut().extend(headers);
        exchange(&self.client, request, self.timeout).await.context(what)
    }

    async fn json(&self, method: Method, path: &str, body: &Value) -> anyhow::Result<Reply> {
        let json = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
        self.send(method, path, json, body.to_string()).await
    }
}

/// Sends a request and reads the whole answer.
pub(crate) async fn exchange(
    client: &RawClient,
    request: Request<Full<Bytes>>,
    timeout: Duration,
) -> anyhow::Result<Reply> {
    let answer = async {
        let (parts, body) = client.request(request).await?.into_parts();
        let body = body.collect().await?.to_bytes();
        anyhow::Ok(Reply { status: parts.status, headers: parts.headers, body })
    };
    tokio::time::timeout(timeout, answer).await.context("no answer in time")?
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Reply {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

impl Reply {
    /// The body as JSON, whatever the status.
    pub fn json(&self) -> anyhow::Result<Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("not JSON: {self}"))
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON if the status is 2xx, else an error that shows the answer. An empty body
    /// is `null`.
    pub fn ok(self) -> anyhow::Result<Value> {
        if !self.status.is_success() {
            bail!("{self}");
        }
        if self.body.is_empty() { Ok(Value::Null) } else { self.json() }
    }

    /// A header as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

impl std::fmt::Display for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.status, self.text().chars().take(2_000).collect::<String>())
    }
}

/// A registered user with an API key.
#[derive(Debug, Clone)]
pub struct Account {
    /// The client, with the API key as `Authorization`.
    pub http: Http,
    /// The client of the browser session: a cookie, and `Sec-Fetch-Site: same-origin`.
    pub browser: Http,
    /// The user's address.
    pub email: String,
    /// The user's name.
    pub username: String,
    /// The user's password.
    pub password: String,
    /// The API key.
    pub key: String,
}

impl Account {
    /// Registers a new user with random names and makes an API key of every scope.
    pub async fn register(base: &str) -> anyhow::Result<Self> {
        let username = format!("user{}", random_hex(6));
        let email = format!("{username}@example.com");
        let password = format!("correct-horse-{}", random_hex(8));
        let anonymous = Http::new(base).header("sec-fetch-site", "same-origin")?;
        let body = json!({ "email": email, "username": username, "password": password });
        let reply = anonymous.post("/api/v1/auth/register", &body).await?;
        let cookies = session_cookies(&reply);
        reply.ok().context("cannot register")?;
        let cookies = cookies.context("registering set no session cookie")?;
        let browser = anonymous.header(COOKIE.as_str(), &cookies)?;

        let wanted = json!({ "name": "tests", "scopes": ["admin"] });
        let made = browser.post("/api/v1/api-keys", &wanted).await?.ok().context("cannot make a key")?;
        let key = text(&made, "key")?;
        let http = Http::new(base).header(AUTHORIZATION.as_str(), &format!("Bearer {key}"))?;
        Ok(Self { http, browser, email, username, password, key })
    }

    /// Makes a source. `extra` is merged into the request; a `null` secret is left out.
    pub async fn create_source(&self, provider: &str, secret: Option<&str>, extra: Value) -> anyhow::Result<Source> {
        let name = format!("{provider}-{}", random_hex(4));
        let mut body = json!({ "name": name, "provider": provider });
        if let Some(secret) = secret {
            body["secret"] = secret.into();
        }
        let json = self.create("/api/v1/sources", merged(body, extra)).await?;
        let secret = secret.unwrap_or_default().to_owned();
        Ok(Source { id: text(&json, "id")?, url: text(&json, "url")?, secret, json })
    }

    /// Makes a destination (`{name, url, …}`; a missing name is made up) and returns the answer.
    pub async fn create_destination(&self, body: Value) -> anyhow::Result<Value> {
        let name = json!({ "name": format!("destination-{}", random_hex(4)) });
        self.create("/api/v1/destinations", merged(name, body)).await
    }

    /// Makes a destination for `url` and returns its id.
    pub async fn destination_to(&self, url: &str) -> anyhow::Result<String> {
        text(&self.create_destination(json!({ "url": url })).await?, "id")
    }

    /// Subscribes a destination to a source; `extra` is merged into the request.
    pub async fn create_subscription(&self, source: &str, destination: &str, extra: Value) -> anyhow::Result<Value> {
        let name = format!("subscription-{}", random_hex(4));
        let body = json!({ "name": name, "source_id": source, "destination_id": destination });
        self.create("/api/v1/subscriptions", merged(body, extra)).await
    }

    /// All deliveries that a filter (`status=failed&source_id=…`, or nothing) selects.
    pub async fn deliveries(&self, filter: &str) -> anyhow::Result<Vec<Value>> {
        self.list("/api/v1/deliveries", filter).await
    }

    /// One delivery, with its attempts.
    pub async fn delivery(&self, id: &str) -> anyhow::Result<Value> {
        self.http.get(&format!("/api/v1/deliveries/{id}")).await?.ok()
    }

    /// All events that a filter selects.
    pub async fn events(&self, filter: &str) -> anyhow::Result<Vec<Value>> {
        self.list("/api/v1/events", filter).await
    }

    /// One event.
    pub async fn event(&self, id: &str) -> anyhow::Result<Value> {
        self.http.get(&format!("/api/v1/events/{id}")).await?.ok()
    }

    /// Every row of a list, page by page.
    pub async fn list(&self, path: &str, filter: &str) -> anyhow::Result<Vec<Value>> {
        let mut rows = Vec::new();
        let mut cursor = String::new();
        loop {
            let page = self.http.get(&format!("{path}?limit=100&{filter}{cursor}")).await?.ok()?;
            let data = page["data"].as_array().context("a list without `data`")?;
            rows.extend(data.iter().cloned());
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return Ok(rows),
            }
        }
    }

    async fn create(&self, path: &str, body: Value) -> anyhow::Result<Value> {
        self.http.post(path, &body).await?.ok()
    }
}

/// A source that was made by [`Account::create_source`].
#[derive(Debug, Clone)]
pub struct Source {
    /// Its id.
    pub id: String,
    /// Where senders POST to.
    pub url: String,
    /// The secret given when making it; empty if there was none.
    pub secret: String,
    /// The whole answer.
    pub json: Value,
}

impl Source {
    /// Its address on another ingress (`http://host:port`).
    pub fn url_at(&self, base: &str) -> String {
        let path = self.url.split_once("://").and_then(|(_, rest)| rest.split_once('/'));
        format!("{base}/{}", path.map_or("", |(_, path)| path))
    }
}

/// Asks again until the answer is yes; an error says what was awaited.
pub async fn wait_until(
    what: &str,
    deadline: Duration,
    mut condition: impl AsyncFnMut() -> bool,
) -> anyhow::Result<()> {
    wait_for(what, deadline, async || condition().await.then_some(())).await
}

/// Asks again until there is an answer; an error says what was awaited.
pub async fn wait_for<T>(
    what: &str,
    deadline: Duration,
    mut question: impl AsyncFnMut() -> Option<T>,
) -> anyhow::Result<T> {
    let until = Instant::now() + deadline;
    let mut pause = Duration::from_millis(5);
    loop {
        if let Some(answer) = question().await {
            return Ok(answer);
        }
        if Instant::now() > until {
            bail!("waited {deadline:?} in vain: {what}");
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(200));
    }
}

/// A text member of a JSON object.
pub(crate) fn text(json: &Value, name: &str) -> anyhow::Result<String> {
    json[name].as_str().map(str::to_owned).with_context(|| format!("no `{name}` in {json}"))
}

fn merged(mut base: Value, extra: Value) -> Value {
    if let (Value::Object(base), Value::Object(extra)) = (&mut base, extra) {
        base.extend(extra);
    }
    base
}

fn session_cookies(reply: &Reply) -> Option<String> {
    let pairs: Vec<&str> =
        reply.headers.get_all(SET_COOKIE).iter().filter_map(|cookie| cookie.to_str().ok()?.split(';').next()).collect();
    (!pairs.is_empty()).then(|| pairs.join("; "))
}
