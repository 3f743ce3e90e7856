//! What handlers of the API are given: the body, a page of a list, an id of the path, a version; and, from
//! `principal`, who asks.
//!
//! Each extractor answers with a problem when it fails, so handlers see only what is well formed.

use axum::Json;
use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, RawPathParams, Request};
use axum::http::header::{CONTENT_TYPE, IF_MATCH};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::error::{ApiError, ApiResult};
pub use super::principal::{PageUser, Principal, WORKSPACE_HEADER};

/// A JSON body. What cannot be accepted is named by its JSON pointer.
#[derive(Debug)]
pub struct ApiJson<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for ApiJson<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        if !is_json(request.headers()) {
            return Err(ApiError::UnsupportedMediaType);
        }
        let body = Bytes::from_request(request, state).await.map_err(|rejection| {
            if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
                ApiError::PayloadTooLarge
            } else {
                ApiError::bad_request("unreadable_body", "the body could not be read to its end")
            }
        })?;
        parse_json(&body).map(Self)
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()) else { return false };
    let essence = value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
}

/// Reads a body, or says where it is wrong.
pub(crate) fn parse_json<T: DeserializeOwned>(body: &[u8]) -> ApiResult<T> {
    let malformed = |error: &serde_json::Error| {
        ApiError::bad_request(
            "malformed_json",
            format!("the body is not JSON: line {}, column {}", error.line(), error.column()),
        )
    };
    let mut reader = serde_json::Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        if error.inner().classify() != serde_json::error::Category::Data {
            return malformed(error.inner());
        }
        let mut pointer: String = error
            .path()
            .iter()
            .filter_map(|segment| match segment {
                serde_path_to_error::Segment::Seq { index } => Some(format!("/{index}")),
                serde_path_to_error::Segment::Map { key } => Some(format!("/{}", escape_pointer(key))),
                serde_path_to_error::Segment::Enum { .. } | serde_path_to_error::Segment::Unknown => None,
            })
            .collect();
        let text = error.inner().to_string();
        let text = text.split(" at line ").next().unwrap_or_default();
        // serde gives a missing or unknown field's name only in the text. It refines the pointer; nothing else
        // hangs on it.
        if let Some(name) = ["missing field `", "unknown field `"]
            .iter()
            .find_map(|start| text.strip_prefix(start))
            .and_then(|rest| rest.split('`').next())
        {
            let last = format!("/{}", escape_pointer(name));
            if !pointer.ends_with(&last) {
                pointer.push_str(&last);
            }
        }
        ApiError::field(pointer, text)
    })?;
    reader.end().map_err(|error| malformed(&error))?;
    Ok(value)
}

fn escape_pointer(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

/// Tells `null` from absent in a PATCH: `#[serde(default, deserialize_with = "present")] x: Option<Option<T>>`.
///
/// # Errors
/// When the value is not a `T`.
pub fn present<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<T>>, D::Error> {
    Option::<T>::deserialize(deserializer).map(Some)
}

/// Which part of a list is wanted: `?cursor=&limit=`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageQuery {
    /// The id of the last row of the page before.
    pub cursor: Option<Uuid>,
    /// Rows on a page.
    pub limit: i64,
}

impl<S: Send + Sync> FromRequestParts<S> for PageQuery {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        Self::parse(parts.uri.query().unwrap_or_default())
    }
}

impl PageQuery {
    /// Rows on a page unless the request says otherwise.
    pub const DEFAULT_LIMIT: i64 = 50;
    /// The most rows on a page.
    pub const MAX_LIMIT: i64 = 200;

    fn parse(query: &str) -> ApiResult<Self> {
        let mut page = Self { cursor: None, limit: Self::DEFAULT_LIMIT };
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            match name.as_ref() {
                "cursor" if !value.is_empty() => {
                    let bad = || {
                        ApiError::bad_request(
                            "bad_cursor",
                            "the cursor is not one that a list gave; start again without it",
                        )
                    };
                    let bytes = URL_SAFE_NO_PAD.decode(value.as_bytes()).map_err(|_| bad())?;
                    page.cursor = Some(Uuid::from_slice(&bytes).map_err(|_| bad())?);
                }
                "limit" => {
                    page.limit = value
                        .parse()
                        .ok()
                        .filter(|limit| (1..=Self::MAX_LIMIT).contains(limit))
                        .ok_or_else(|| ApiError::bad_request("bad_limit", "the limit is a number from 1 to 200"))?;
                }
                _ => {}
            }
        }
        Ok(page)
    }
}

/// A page of a list.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Listing<T> {
    /// The rows, newest first unless the list says otherwise.
    pub data: Vec<T>,
    /// Give this as `cursor` for the next page; null on the last one.
    pub next_cursor: Option<String>,
}

impl<T> Listing<T> {
    /// A page of `limit` rows out of `rows`, which were fetched with one more to see whether there is a next page.
    pub fn new(mut rows: Vec<T>, limit: i64, id: impl Fn(&T) -> Uuid) -> Self {
        let limit = usize::try_from(limit).unwrap_or(0);
        let more = rows.len() > limit;
        rows.truncate(limit);
        let next_cursor = rows.last().filter(|_| more).map(|last| URL_SAFE_NO_PAD.encode(id(last).as_bytes()));
        Self { data: rows, next_cursor }
    }

    /// The same page with every row turned into something else.
    pub fn map<U>(self, turn: impl FnMut(T) -> U) -> Listing<U> {
        Listing { data: self.data.into_iter().map(turn).collect(), next_cursor: self.next_cursor }
    }
}

impl<T: Serialize> IntoResponse for Listing<T> {
    fn into_response(self) -> Response {
        Json(self).into_response()
    }
}

/// The one id in the path. What is not an id of the wanted kind is as absent as an id that nobody gave out.
#[derive(Debug, Clone, Copy)]
pub struct PathId<T>(pub T);

impl<T: std::str::FromStr, S: Send + Sync> FromRequestParts<S> for PathId<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let values = path_values(parts, state).await?;
        values.first().and_then(|text| text.parse().ok()).map(Self).ok_or(ApiError::NotFound)
    }
}

/// Two ids in the path, outer first.
#[derive(Debug, Clone, Copy)]
pub struct PathIds<A, B>(pub A, pub B);

impl<A: std::str::FromStr, B: std::str::FromStr, S: Send + Sync> FromRequestParts<S> for PathIds<A, B> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let values = path_values(parts, state).await?;
        let [outer, inner] = values.as_slice() else { return Err(ApiError::NotFound) };
        match (outer.parse(), inner.parse()) {
            (Ok(outer), Ok(inner)) => Ok(Self(outer, inner)),
            _ => Err(ApiError::NotFound),
        }
    }
}

async fn path_values<S: Send + Sync>(parts: &mut Parts, state: &S) -> ApiResult<Vec<String>> {
    let params = RawPathParams::from_request_parts(parts, state).await.map_err(|_| ApiError::NotFound)?;
    Ok(params.iter().map(|(_, value)| value.to_owned()).collect())
}

/// The entity tag of an object's version.
pub fn etag(version: i64) -> HeaderValue {
    HeaderValue::try_from(format!("\"{version}\"")).unwrap_or(HeaderValue::from_static("\"\""))
}

/// The version in `If-Match`; none when the header is absent or `*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IfMatch(pub Option<i64>);

impl<S: Send + Sync> FromRequestParts<S> for IfMatch {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let Some(value) = parts.headers.get(IF_MATCH) else { return Ok(Self(None)) };
        let text = value.to_str().unwrap_or_default().trim();
        if text == "*" {
            return Ok(Self(None));
        }
        // What is no tag of ours matches no version.
        let version = text.strip_prefix("W/").unwrap_or(text).trim_matches('"').parse();
        version.map(|version| Self(Some(version))).map_err(|_| ApiError::PreconditionFailed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Body {
        #[expect(dead_code, reason = "only its reading is tested")]
        name: String,
        #[serde(default)]
        inner: Vec<Inner>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        #[expect(dead_code, reason = "only its reading is tested")]
        n: u8,
    }

    #[test]
    fn a_wrong_field_is_named_by_its_pointer() {
        for (body, pointer) in [
            (r#"{"name": 1}"#, "/name"),
            (r"{}", "/name"),
            (r#"{"name": "a", "extra/ly": 1}"#, "/extra~1ly"),
            (r#"{"name": "a", "inner": [{"n": 1}, {"n": 300}]}"#, "/inner/1/n"),
            (r#"{"name": "a", "inner": [{}]}"#, "/inner/0/n"),
            (r#""text""#, ""),
        ] {
            match parse_json::<Body>(body.as_bytes()) {
                Err(ApiError::Validation(fields)) => assert_eq!(fields[0].pointer, pointer, "{body}"),
                other => panic!("{body}: {other:?}"),
            }
        }
        assert_eq!(parse_json::<Body>(br#"{"name": "a"}"#).unwrap().inner.len(), 0);
    }

    #[test]
    fn malformed_json_is_told_by_line_and_column() {
        for body in ["", "{", "{\"name\": \"a\"} x", "{\"name\":\n oops}"] {
            assert!(
                matches!(parse_json::<Body>(body.as_bytes()), Err(ApiError::BadRequest { code: "malformed_json", .. })),
                "{body}"
            );
        }
    }

    #[test]
    fn pages_have_bounds_and_cursors_come_back() {
        let ids: Vec<Uuid> = (0..3).map(|_| Uuid::now_v7()).collect();
        let page = Listing::new(ids.clone(), 2, |id| *id);
        let cursor = page.next_cursor.unwrap();
        assert_eq!(page.data, ids[..2]);
        assert_eq!(
            PageQuery::parse(&format!("cursor={cursor}&limit=200&x=y")).unwrap(),
            PageQuery { cursor: Some(ids[1]), limit: 200 }
        );
        assert_eq!(Listing::new(ids, 3, |id| *id).next_cursor, None);
        for bad in ["cursor=zz", "cursor=%00", "limit=0", "limit=201", "limit=x"] {
            assert!(matches!(PageQuery::parse(bad), Err(ApiError::BadRequest { .. })), "{bad}");
        }
    }
}
