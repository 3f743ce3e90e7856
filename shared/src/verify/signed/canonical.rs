//! Messages that a sender builds by rules of its own, which no template tells.

use std::borrow::Cow;
use std::collections::BTreeMap;

use http::HeaderName;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use sha2::{Digest as _, Sha256};

use super::super::Received;
use super::super::handshake::Form;
use super::super::place::Place;
use super::super::refusal::{Part, Refusal};
use super::super::template::Canonical;

/// Builds the message of one of these senders. `time` is the time of sending as it was written.
pub(super) fn message(sender: Canonical, request: &Received<'_>, time: &str) -> Result<Vec<u8>, Refusal> {
    match sender {
        Canonical::AwsSns => aws_sns(request),
        Canonical::Braintree => braintree(request),
        Canonical::Contentful => contentful(request),
        Canonical::Hygraph => hygraph(request, time),
        Canonical::MercadoPago => mercado_pago(request, time),
        Canonical::PaddleClassic => paddle_classic(request.body),
        Canonical::Plivo => plivo(request),
        Canonical::Twilio => twilio(request),
    }
}

fn header(name: &'static str) -> Place {
    Place::Header(HeaderName::from_static(name))
}

fn is_form(request: &Received<'_>) -> bool {
    let content_type = request.headers.get(http::header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    content_type.is_some_and(|text| {
        text.split(';').next().is_some_and(|t| t.trim().eq_ignore_ascii_case("application/x-www-form-urlencoded"))
    })
}

/// The fields of a form by name, the values of one name sorted and each but once.
fn fields(form: &[u8]) -> BTreeMap<Cow<'_, str>, Vec<Cow<'_, str>>> {
    let mut fields: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (name, value) in url::form_urlencoded::parse(form) {
        fields.entry(name).or_default().push(value);
    }
    for values in fields.values_mut() {
        values.sort();
        values.dedup();
    }
    fields
}

/// Each field's name and values without separators, sorted by name: what Twilio and Mandrill sign of a form.
pub(super) fn form_sorted(form: &[u8]) -> Vec<u8> {
    let mut message = String::new();
    for (name, values) in fields(form) {
        for value in values {
            message.push_str(&name);
            message.push_str(&value);
        }
    }
    message.into_bytes()
}

/// Twilio signs the address and the fields of a form; of any other body its address holds the SHA-256 as
/// `bodySHA256` (twilio.com, "Webhooks security").
fn twilio(request: &Received<'_>) -> Result<Vec<u8>, Refusal> {
    let mut message = request.url().into_bytes();
    if is_form(request) {
        message.extend(form_sorted(request.body));
    } else if !request.body.is_empty() {
        let place = Place::Query("bodySHA256".into());
        let claimed = place.require(request, Part::Signed)?;
        if !claimed.eq_ignore_ascii_case(&hex::encode(Sha256::digest(request.body))) {
            return Err(Refusal::OtherBody { place });
        }
    }
    Ok(message)
}

/// Name and value of each field below each other, by kind of message (AWS, "Verifying the signatures of Amazon SNS messages").
fn aws_sns(request: &Received<'_>) -> Result<Vec<u8>, Refusal> {
    const NOTIFICATION: &[&str] = &["Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type"];
    const CONFIRMATION: &[&str] = &["Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"];
    let place = |name: &str| format!("$.{name}").parse::<Place>();
    let read = |name: &str| match place(name) {
        Ok(place) => place.read_unlimited(request),
        Err(_) => Ok(None),
    };
    let kind = read("Type")?.unwrap_or_default();
    let names = if kind == "Notification" { NOTIFICATION } else { CONFIRMATION };
    let mut message = String::new();
    for name in names {
        if let Some(value) = read(name)? {
            message.push_str(&format!("{name}\n{value}\n"));
        }
    }
    Ok(message.into_bytes())
}

/// The payload, which is base64 and never looks like a challenge: the answer to a challenge would be its signature
/// (Braintree's libraries, `WebhookNotification`).
fn braintree(request: &Received<'_>) -> Result<Vec<u8>, Refusal> {
    let place = Place::Form("bt_payload".into());
    let payload = place.require(request, Part::Signed)?;
    let base64 = |b: u8| b.is_ascii_alphanumeric() || b"+/=\n".contains(&b);
    if !payload.bytes().all(base64) || Form::ShortHex.fits(&payload) {
        return Err(Refusal::BadEncoding { part: Part::Signed, place, expected: "a payload in base64".into() });
    }
    Ok(payload.into_owned().into_bytes())
}

/// What JavaScript's `encodeURI` leaves as it is, which is how Contentful's library writes the path.
const ENCODE_URI: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b';')
    .remove(b',')
    .remove(b'/')
    .remove(b'?')
    .remove(b':')
    .remove(b'@')
    .remove(b'&')
    .remove(b'=')
    .remove(b'+')
    .remove(b'$')
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'!')
    .remove(b'~')
    .remove(b'*')
    .remove(b'\'')
    .remove(b'(')
    .remove(b')')
    .remove(b'#');

/// What JavaScript's `encodeURIComponent` leaves as it is.
const ENCODE_COMPONENT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'!')
    .remove(b'~')
    .remove(b'*')
    .remove(b'\'')
    .remove(b'(')
    .remove(b')');

/// Method, path, the headers that the request lists, and the body, one below the other (as in Contentful's
/// `node-apps-toolkit`). The list must name itself and the time.
fn contentful(request: &Received<'_>) -> Result<Vec<u8>, Refusal> {
    const LIST: &str = "x-contentful-signed-headers";
    let list = header(LIST).require(request, Part::Signed)?;
    let mut names: Vec<String> = list.split(',').map(|name| name.trim().to_ascii_lowercase()).collect();
    names.sort();
    for needed in [LIST, "x-contentful-timestamp"] {
        if !names.iter().any(|name| name == needed) {
            return Err(Refusal::NoSuchTag { place: header(LIST), tag: needed.into() });
        }
    }
    let mut lines = Vec::with_capacity(names.len());
    for name in names {
        let place = name.parse().map(Place::Header).map_err(|_| Refusal::BadEncoding {
            part: Part::Signed,
            place: header(LIST),
            expected: "names of headers".into(),
        })?;
        lines.push(format!("{name}:{}", place.require(request, Part::Signed)?.trim()));
    }
    let path = match request.query {
        Some(query) => format!("{}?{}", request.path, utf8_percent_encode(query, ENCODE_COMPONENT)),
        None => request.path.to_owned(),
    };
    let path = utf8_percent_encode(&path, ENCODE_URI);
    let mut message = format!("{}\n{path}\n{}\n", request.method, lines.join(";")).into_bytes();
    message.extend_from_slice(request.body);
    Ok(message)
}

/// A JSON object with the body as a text in it, as JavaScript writes it (Hygraph's `@hygraph/utils`). The environment is named
/// beside the signature.
fn hygraph(request: &Received<'_>, time: &str) -> Result<Vec<u8>, Refusal> {
    let place = header("gcms-signature");
    let bad = |expected: &str| Refusal::BadEncoding {
        part: Part::Signed,
        place: place.clone(),
        expected: expected.to_owned(),
    };
    let text = place.require(request, Part::Signed)?;
    let mut environments = text.split(',').filter_map(|pair| pair.trim().strip_prefix("env="));
    let (Some(environment), None) = (environments.next(), environments.next()) else {
        return Err(bad("one environment, after `env=`"));
    };
    let body = std::str::from_utf8(request.body).map_err(|_| bad("the signature of a body that is text"))?;
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let (body, environment) = (quoted(body), quoted(environment));
    Ok(format!("{{\"Body\":{body},\"EnvironmentName\":{environment},\"TimeStamp\":{time}}}").into_bytes())
}

/// `id:…;request-id:…;ts:…;`, what is absent left out (mercadopago.com, "Webhooks", validating the origin).
fn mercado_pago(request: &Received<'_>, time: &str) -> Result<Vec<u8>, Refusal> {
    let mut message = String::new();
    if let Some(id) = Place::Query("data.id".into()).read(request, Part::Signed)? {
        message.push_str(&format!("id:{};", id.to_lowercase()));
    }
    if let Some(id) = header("x-request-id").read(request, Part::Signed)? {
        message.push_str(&format!("request-id:{id};"));
    }
    message.push_str(&format!("ts:{time};"));
    Ok(message.into_bytes())
}

/// All fields but the signature, sorted, as PHP's `serialize` writes an array of texts (Paddle Classic, "Verifying
/// webhooks"). PHP keeps the last of several fields of one name; a receiver that takes the first would read what is not
/// signed, so such a form is refused.
fn paddle_classic(form: &[u8]) -> Result<Vec<u8>, Refusal> {
    let mut fields = BTreeMap::new();
    for (name, value) in url::form_urlencoded::parse(form).filter(|(name, _)| name != "p_signature") {
        if let Some((name, _)) = fields.remove_entry(&name) {
            return Err(Refusal::Duplicate { part: Part::Signed, place: Place::Form(Cow::into_owned(name)) });
        }
        fields.insert(name, value);
    }
    let mut message = format!("a:{}:{{", fields.len());
    for (name, value) in &fields {
        message.push_str(&format!("s:{}:\"{name}\";s:{}:\"{value}\";", name.len(), value.len()));
    }
    message.push('}');
    Ok(message.into_bytes())
}

/// The address, the sorted query, the sorted fields of a form and the nonce (Plivo's libraries, signature V3).
fn plivo(request: &Received<'_>) -> Result<Vec<u8>, Refusal> {
    let nonce = header("x-plivo-signature-v3-nonce").require(request, Part::Signed)?;
    let mut message = format!("{}{}", request.origin, request.path);
    let query = request.query.filter(|query| !query.is_empty());
    let form = if is_form(request) { fields(request.body) } else { BTreeMap::new() };
    if query.is_some() || !form.is_empty() {
        message.push('?');
    }
    if let Some(query) = query {
        let pairs = fields(query.as_bytes());
        let pairs = pairs.iter().flat_map(|(name, values)| values.iter().map(move |value| format!("{name}={value}")));
        message.push_str(&pairs.collect::<Vec<_>>().join("&"));
        if !form.is_empty() {
            message.push('.');
        }
    }
    for (name, values) in form {
        for value in values {
            message.push_str(&name);
            message.push_str(&value);
        }
    }
    message.push('.');
    message.push_str(&nonce);
    Ok(message.into_bytes())
}
