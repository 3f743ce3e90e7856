//! Registration, log-in and log-out: for programs here, and for the pages by the functions below.
//!
//! Whether an account exists is not to be learnt from a log-in: the reply, and the time it takes, are the same for
//! an unknown user and for a wrong password.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::header::{LOCATION, SET_COOKIE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use hookyard_shared::auth::{Email, Hasher, Subject, Username, check_password, setup};
use hookyard_shared::config::Registration;
use hookyard_shared::id::{UserId, WorkspaceId};
use hookyard_shared::store::users::{NewUser, Registered, User};
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::error::{ApiError, ApiResult, FieldError};
use super::extract::ApiJson;
use super::me::{Me, describe};
use super::protect::{Client, set_session_cookie};
use crate::state::AppState;

/// No password that was ever accepted is longer, in bytes.
const LONGEST_PASSWORD: usize = 1024;

/// The routes of this resource.
pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::new().routes(routes!(register)).routes(routes!(login)).routes(routes!(logout))
}

/// What a registration needs.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewAccount {
    /// Where to reach the user.
    #[schema(example = "ada@example.com")]
    pub email: String,
    /// 3 to 40 letters, digits, `.`, `_` and `-`.
    #[schema(example = "ada")]
    pub username: String,
    /// 8 to 128 characters, none of the commonest.
    #[schema(format = "password")]
    pub password: String,
    /// The set-up token of the server's log, for the first owner of a server that is not open.
    #[serde(default)]
    pub setup_token: Option<String>,
}

/// What a log-in needs.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Credentials {
    /// The e-mail address or the user name.
    #[schema(example = "ada")]
    pub login: String,
    /// The password.
    #[schema(format = "password")]
    pub password: String,
}

/// A session that begins.
pub(crate) struct Begun {
    /// Whose.
    pub(crate) user_id: UserId,
    /// For which workspace.
    pub(crate) workspace_id: WorkspaceId,
    /// `Set-Cookie`.
    pub(crate) cookie: HeaderValue,
}

/// Makes an account with a workspace of its own, and logs in.
#[utoipa::path(post, path = "/auth/register", tag = "auth", security(()), request_body = NewAccount,
    responses((status = 201, description = "The account; the session is in the cookie", body = Me)))]
async fn register(
    State(state): State<AppState>,
    client: Client,
    ApiJson(account): ApiJson<NewAccount>,
) -> ApiResult<Response> {
    let begun = create_account(&state, &client, &account).await?;
    let me = describe(&state, begun.user_id, begun.workspace_id).await?;
    let location = HeaderValue::from_static("/api/v1/me");
    Ok((StatusCode::CREATED, [(SET_COOKIE, begun.cookie), (LOCATION, location)], Json(me)).into_response())
}

/// Logs in.
#[utoipa::path(post, path = "/auth/login", tag = "auth", security(()), request_body = Credentials,
    responses((status = 200, description = "Who logged in; the session is in the cookie", body = Me)))]
async fn login(
    State(state): State<AppState>,
    client: Client,
    ApiJson(credentials): ApiJson<Credentials>,
) -> ApiResult<Response> {
    let begun = begin_session(&state, &client, &credentials).await?;
    let me = describe(&state, begun.user_id, begun.workspace_id).await?;
    Ok(([(SET_COOKIE, begun.cookie)], Json(me)).into_response())
}

/// Ends the session; the cookie is worth nothing from now on.
#[utoipa::path(post, path = "/auth/logout", tag = "auth", responses((status = 204, description = "Logged out, or nobody was logged in")))]
async fn logout(State(state): State<AppState>, client: Client) -> ApiResult<Response> {
    Ok((StatusCode::NO_CONTENT, [(SET_COOKIE, end_session(&state, &client).await?)]).into_response())
}

/// Ends the session that the client showed, if it is one. Gives the cookie that clears the client's.
pub(crate) async fn end_session(state: &AppState, client: &Client) -> ApiResult<HeaderValue> {
    if let Some(token) = &client.token
        && let Some(session) = state.store.session_by_token(&token.hash(), state.store.now_ms()).await?
    {
        state.store.end_session(session.user_id, session.session_id).await?;
    }
    Ok(set_session_cookie(None, &state.public_url))
}

/// Registers a user by the rules of the installation, and begins a session.
pub(crate) async fn create_account(state: &AppState, client: &Client, account: &NewAccount) -> ApiResult<Begun> {
    let first_only = may_register(state, account.setup_token.as_deref()).await?;
    let (email, username) = validate(account)?;
    let address = Subject::address("register", client.address);
    refuse_if_blocked(state, &address).await?;
    // Hashed before anybody looks whether the account exists, so that both answers take the same time.
    let password_hash = state.hasher.hash(&account.password).await?;
    let new = NewUser { email: &email, username: &username, password_hash: &password_hash, first_only };
    match state.store.register(new).await? {
        Registered::New(user_id, workspace_id) => {
            tracing::info!(user.id = %user_id, workspace.id = %workspace_id, "{user_id} registered");
            open(state, client, user_id, workspace_id).await
        }
        Registered::Taken => {
            // Counted, so that nobody tries a list of addresses here.
            state.store.count_try(&[address]).await?;
            Err(ApiError::conflict("account_exists", "that e-mail address or user name cannot be used"))
        }
        Registered::NotFirst => Err(invitation_required()),
    }
}

fn invitation_required() -> ApiError {
    ApiError::forbidden("invitation_required", "this server has an owner; new users need an invitation")
}

/// Whether the new user must be the first one.
async fn may_register(state: &AppState, setup_token: Option<&str>) -> ApiResult<bool> {
    match state.registration {
        Registration::Open => Ok(false),
        Registration::Closed => Err(ApiError::forbidden("registration_closed", "this server takes no new users")),
        Registration::Invite => {
            if state.store.any_user().await? {
                return Err(invitation_required());
            }
            if !setup::is_valid(&state.store, setup_token.unwrap_or_default()).await? {
                return Err(ApiError::forbidden(
                    "setup_token_required",
                    "the first owner needs the set-up token from the server's log; a token is good for 15 minutes, a restart makes a new one",
                ));
            }
            Ok(true)
        }
    }
}

fn validate(account: &NewAccount) -> ApiResult<(Email, Username)> {
    let (email, username) = (Email::parse(&account.email), Username::parse(&account.username));
    let mut errors = Vec::new();
    let mut wrong = |pointer: &str, detail: String| errors.push(FieldError { pointer: pointer.to_owned(), detail });
    if email.is_none() {
        wrong("/email", "write an e-mail address, such as ada@example.com".to_owned());
    }
    if username.is_none() {
        wrong("/username", "use 3 to 40 letters, digits, `.`, `_` or `-`".to_owned());
    }
    if let Err(weak) = check_new_password(&account.password, email.as_ref(), username.as_ref()) {
        wrong("/password", weak.to_string());
    }
    match (email, username) {
        (Some(email), Some(username)) if errors.is_empty() => Ok((email, username)),
        _ => Err(ApiError::Validation(errors)),
    }
}

/// The password rule, with the user's own names.
pub(crate) fn check_new_password(
    password: &str,
    email: Option<&Email>,
    username: Option<&Username>,
) -> Result<(), hookyard_shared::auth::WeakPassword> {
    let own = [email.map(Email::local_part), email.map(|e| e.key.as_str()), username.map(|u| u.key.as_str())];
    let own: Vec<&str> = own.into_iter().flatten().collect();
    check_password(password, &own)
}

/// Logs in, or refuses: too often, or wrong.
pub(crate) async fn begin_session(state: &AppState, client: &Client, credentials: &Credentials) -> ApiResult<Begun> {
    let (account, address) = (Subject::account(&credentials.login), Subject::address("login", client.address));
    let user = state.store.user_by_login(&credentials.login).await?;
    refuse_if_blocked(state, &address).await?;
    // Whoever has a session of this account is not kept out by strangers who guess at it.
    if !is_known_client(state, client, user.as_ref()).await?
        && let Some(wait) = state.store.count_try(std::slice::from_ref(&account)).await?
    {
        return Err(too_many(wait));
    }
    let Some(user) = verify(state, user, &credentials.password).await? else {
        state.store.count_try(&[address]).await?;
        metrics::counter!("hookyard_login_total", "outcome" => "refused").increment(1);
        return Err(ApiError::WrongCredentials);
    };
    state.store.forget_tries(&account).await?;
    if Hasher::needs_rehash(&user.password_hash) {
        let hash = state.hasher.hash(&credentials.password).await?;
        state.store.set_password(user.user_id, &hash).await?;
    }
    let workspace = state.store.memberships(user.user_id).await?.into_iter().next();
    let workspace = workspace
        .ok_or_else(|| ApiError::forbidden("no_workspace", "this account belongs to no workspace any more"))?;
    metrics::counter!("hookyard_login_total", "outcome" => "accepted").increment(1);
    open(state, client, user.user_id, workspace.workspace_id).await
}

/// The user, if the password is right and the account is not disabled. One password is verified in every case.
async fn verify(state: &AppState, user: Option<User>, password: &str) -> ApiResult<Option<User>> {
    let password = if password.len() > LONGEST_PASSWORD { "" } else { password };
    let Some(user) = user else {
        state.hasher.verify_nobody(password).await?;
        return Ok(None);
    };
    let right = state.hasher.verify(password, &user.password_hash).await?;
    Ok(Some(user).filter(|user| right && user.active))
}

async fn is_known_client(state: &AppState, client: &Client, user: Option<&User>) -> ApiResult<bool> {
    let (Some(token), Some(user)) = (&client.token, user) else { return Ok(false) };
    let session = state.store.session_by_token(&token.hash(), state.store.now_ms()).await?;
    Ok(session.is_some_and(|session| session.user_id == user.user_id))
}

async fn refuse_if_blocked(state: &AppState, subject: &Subject) -> ApiResult<()> {
    match state.store.wait_of(subject).await? {
        Some(wait) => Err(too_many(wait)),
        None => Ok(()),
    }
}

fn too_many(wait_ms: i64) -> ApiError {
    metrics::counter!("hookyard_login_total", "outcome" => "throttled").increment(1);
    ApiError::TooMany { retry_after: Duration::from_millis(wait_ms.unsigned_abs()) }
}

/// Begins a session with a fresh token; the one that the client came with is over.
pub(crate) async fn open(
    state: &AppState,
    client: &Client,
    user_id: UserId,
    workspace_id: WorkspaceId,
) -> ApiResult<Begun> {
    end_session(state, client).await?;
    let (_, token) = state.store.start_session(user_id, workspace_id, &client.user_agent).await?;
    Ok(Begun { user_id, workspace_id, cookie: set_session_cookie(Some(&token), &state.public_url) })
}

/// Checks the current password before something that matters; wrong ones count as failed log-ins.
pub(crate) async fn confirm_password(state: &AppState, user: &User, password: &str) -> ApiResult<()> {
    let account = Subject::account(&user.username);
    if let Some(wait) = state.store.count_try(std::slice::from_ref(&account)).await? {
        return Err(too_many(wait));
    }
    if verify(state, Some(user.clone()), password).await?.is_none() {
        return Err(ApiError::field("/current_password", "this is not your current password"));
    }
    state.store.forget_tries(&account).await?;
    Ok(())
}
