//! The description of the API (OpenAPI 3.1), made from the handlers themselves.

use axum::Router;
use axum::body::Bytes;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::routing::get;
use utoipa::OpenApi;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{Content, Ref, RefOr, ResponseBuilder};

use super::error::{FieldError, Problem};
use crate::state::AppState;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Hookyard",
        version = "1",
        description = "The management API of Hookyard, a webhook relay. Errors are RFC 9457 problems with a stable `code`. Lists are paginated by cursor. A POST that creates something honours `Idempotency-Key`. Times are RFC 3339 in UTC.",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    servers((url = "/", description = "this server")),
    components(schemas(Problem, FieldError)),
    security(("api_key" = []), ("session" = []))
)]
struct Base;

/// What the description starts from: everything but the paths.
pub(super) fn base() -> utoipa::openapi::OpenApi {
    let mut doc = Base::openapi();
    let bearer = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .bearer_format("hky_[0-9A-Za-z]{36}")
        .description(Some("An API key. It is bound to one workspace and to its scopes."))
        .build();
    let cookie = ApiKeyValue::with_description("__Host-hky", "The session of a browser (named `hky` on plain http).");
    let components = doc.components.get_or_insert_default();
    components.add_security_scheme("api_key", SecurityScheme::Http(bearer));
    components.add_security_scheme("session", SecurityScheme::ApiKey(ApiKey::Cookie(cookie)));
    doc
}

/// Adds what holds for every operation.
fn finish(mut doc: utoipa::openapi::OpenApi) -> utoipa::openapi::OpenApi {
    for item in doc.paths.paths.values_mut() {
        let operations = [&mut item.get, &mut item.post, &mut item.put, &mut item.patch, &mut item.delete]
            .into_iter()
            .filter_map(Option::as_mut);
        for operation in operations {
            let problem = ResponseBuilder::new()
                .description("Anything else is a problem")
                .content("application/problem+json", Content::new(Some(RefOr::Ref(Ref::from_schema_name("Problem")))))
                .build();
            operation.responses.responses.entry("default".to_owned()).or_insert(RefOr::T(problem));
        }
    }
    doc
}

/// Serves the description at `openapi.json`; it is written once.
pub(super) fn route(doc: utoipa::openapi::OpenApi) -> Router<AppState> {
    let json = Bytes::from(finish(doc).to_json().unwrap_or_else(|error| {
        tracing::error!(error = %error, "the description of the API cannot be written");
        "{}".to_owned()
    }));
    Router::new().route(
        "/openapi.json",
        get(move || {
            let json = json.clone();
            async move { ([(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-cache")], json) }
        }),
    )
}
