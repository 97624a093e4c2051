//! Logging in and out with a local user's name and password, and who one is.

use axum::{
    extract::State,
    http::{
        HeaderMap, StatusCode,
        header::{RETRY_AFTER, SET_COOKIE, WWW_AUTHENTICATE},
    },
    response::{IntoResponse, Response},
};
use chrono::{DateTime, Duration, Utc};
use serde::{Deserialize, Serialize};
use serde_json::json;
use uuid::Uuid;

use crate::{
    auth::jwt,
    config::Secret,
    db,
    history::{self, PeopleEvent},
    http::{
        Api,
        answer::{Data, created},
        cookie,
        error::Problem,
        extract::{Body, CallFrom, Signed, Via},
        idempotency::HoldsSecret,
        witness,
    },
    people::{self, Attempt, NewUser, PeopleError, User},
    tenant::{Caller, Permission, Role},
};

/// A name and its password.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Login {
    #[schema(max_length = 255)]
    pub name: String,
    #[schema(value_type = String, format = Password)]
    pub password: Secret,
    /// Keep the token in an HttpOnly cookie instead of giving it in the answer.
    #[serde(default)]
    pub cookie: bool,
}

/// A session that began.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct LoggedIn {
    /// For `Authorization: Bearer`. Not there when a cookie keeps it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    pub expires_at: DateTime<Utc>,
    pub user: User,
}

/// Log in
///
/// Begins a session of a local user. Too many attempts on one account, or from one address, are answered with 429.
#[utoipa::path(
    post, path = "/auth/login", operation_id = "login", tag = "auth",
    request_body(content = Login, example = json!({ "name": "alice@example.com", "password": "correct horse battery" })),
    responses((status = 200, description = "The session's token, or its cookie.", body = Data<LoggedIn>)),
)]
pub async fn login(
    State(api): State<Api>,
    CallFrom(address): CallFrom,
    headers: HeaderMap,
    body: Result<Body<Login>, Problem>,
) -> Result<Response, Problem> {
    let Body(login) = body?;
    cookie::refuse_other_sites(&headers)?;
    require_own_tokens(&api)?;
    if login.name.is_empty() || login.name.chars().count() > 255 {
        return Err(Problem::invalid("request.name", "the name must have 1 to 255 characters"));
    }
    let (pool, auth, now) = (&api.app.pool, &api.app.config.auth, api.app.clock.now());
    let limits = (auth.login_attempts_per_account, auth.login_attempts_per_address);
    throttle(people::try_login(pool, &login.name, address, limits, now).await?)?;
    let (user, hash) = people::login_user(pool, &login.name).await?.unzip();
    let is_right = api.passwords.is_right(login.password, hash.flatten()).await?;
    let known = user.clone().filter(|_| is_right).and_then(|user| Some((user.caller()?, user)));
    let Some((mut caller, user)) = known else {
        return Err(failed_login(&api, user, address).await);
    };
    caller.address = address;
    begin(&api, &headers, &caller, user, login.cookie, now).await
}

/// 429 for an attempt that is one too many.
fn throttle(attempt: Attempt) -> Result<(), Problem> {
    match attempt {
        Attempt::Allowed => Ok(()),
        Attempt::Refused { retry_after_seconds } => {
            Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, "auth.throttled", "too many attempts to log in")
                .hint("Wait as long as Retry-After says.")
                .header(RETRY_AFTER, &retry_after_seconds.to_string()))
        }
    }
}

/// Writes a failed login down, and gives the one answer to all of them. When there are too many, they are counted instead.
async fn failed_login(api: &Api, user: Option<User>, address: Option<std::net::IpAddr>) -> Problem {
    let caller = nobody(user.as_ref().map(|user| user.name.as_str()), address);
    let event = PeopleEvent {
        event: "login_failed",
        caller: &caller,
        organization_id: user.as_ref().and_then(|user| user.organization_id.as_deref()),
        outcome: "failed",
        detail: json!({ "user_id": user.as_ref().map(|user| user.id), "disabled": user.as_ref().map(|user| user.disabled) }),
    };
    if api.refusals.admit_login(address, api.app.clock.now()) {
        witness::is_told();
        if let Err(error) = write(api, &event).await {
            tracing::error!(detail = error.detail, "a failed login could not be written into the history");
        }
    }
    refused("auth.login_failed", "the name or the password is wrong")
}

/// A 401, which must say how one could be known (RFC 9110 section 15.5.2).
fn refused(code: &'static str, detail: &str) -> Problem {
    Problem::new(StatusCode::UNAUTHORIZED, code, detail).header(WWW_AUTHENTICATE, r#"Bearer realm="holdfast""#)
}

/// Someone who is not known, or not yet, as the history names it.
fn nobody(name: Option<&str>, address: Option<std::net::IpAddr>) -> Caller {
    Caller {
        subject: name.map_or_else(|| "nobody".to_owned(), |name| format!("user:{name}")),
        role: Role::Member,
        permissions: Vec::new(),
        project_ids: Vec::new(),
        organization_id: None,
        address,
    }
}

async fn write(api: &Api, event: &PeopleEvent<'_>) -> Result<(), Problem> {
    let mut transaction = db::begin(&api.app.pool).await?;
    history::record_people(&mut transaction, event).await?;
    Ok(transaction.commit().await?)
}

/// Without HS256 no token of ours would be taken.
fn require_own_tokens(api: &Api) -> Result<(), Problem> {
    if api.app.config.auth.signs() {
        return Ok(());
    }
    Err(Problem::new(
        StatusCode::CONFLICT,
        "auth.no_local_users",
        "tokens come from elsewhere: there are no local users",
    )
    .hint("The setting `auth.algorithms` does not have HS256."))
}

async fn begin(
    api: &Api,
    headers: &HeaderMap,
    caller: &Caller,
    user: User,
    in_cookie: bool,
    now: DateTime<Utc>,
) -> Result<Response, Problem> {
    let auth = &api.app.config.auth;
    let lasts = Duration::hours(i64::from(auth.session_hours));
    let expires_at = now + lasts;
    let mut transaction = db::begin(&api.app.pool).await?;
    let session = people::insert_session(&mut transaction, user.id, now, expires_at).await?;
    people::forget_account(&mut transaction, &user.name).await?;
    let event = PeopleEvent {
        event: "logged_in",
        caller,
        organization_id: user.organization_id.as_deref(),
        outcome: "ok",
        detail: json!({ "user_id": user.id }),
    };
    history::record_people(&mut transaction, &event).await?;
    transaction.commit().await?;
    let ttl = lasts.to_std().unwrap_or_default();
    let token = jwt::issue_session(&api.app.keys.jwt_secret, auth, &caller.subject, session, now, ttl)?;
    let cookie = if in_cookie { cookie::set(headers, auth, &token, lasts.num_seconds()) } else { None };
    let user = User { last_login_at: Some(now), ..user };
    let token = if in_cookie { None } else { Some(token) };
    let mut answer = Data { data: LoggedIn { token, expires_at, user } }.into_response();
    answer.extensions_mut().insert(HoldsSecret);
    if let Some(cookie) = cookie {
        answer.headers_mut().insert(SET_COOKIE, cookie);
    }
    Ok(answer)
}

/// Log out
///
/// Ends the session of this token or cookie. Other tokens end by themselves, and API keys are revoked: for those it is a 409.
#[utoipa::path(
    post, path = "/auth/logout", operation_id = "logout", tag = "auth",
    responses((status = 204, description = "The session has ended.")),
    security(("bearer" = [])),
)]
pub async fn logout(State(api): State<Api>, caller: Signed, headers: HeaderMap) -> Result<Response, Problem> {
    let Via::Session { id, user_id } = caller.1 else {
        return Err(Problem::new(StatusCode::CONFLICT, "auth.no_session", "this token belongs to no session")
            .hint("Tokens end by themselves; an API key is revoked with `DELETE /api/keys/{id}`."));
    };
    let mut transaction = db::begin(&api.app.pool).await?;
    people::delete_session(&mut *transaction, id).await?;
    let event = PeopleEvent {
        event: "logged_out",
        caller: &caller.0,
        organization_id: caller.0.organization_id.as_deref(),
        outcome: "ok",
        detail: json!({ "user_id": user_id }),
    };
    history::record_people(&mut transaction, &event).await?;
    transaction.commit().await?;
    let mut answer = StatusCode::NO_CONTENT.into_response();
    if let Some(cookie) = cookie::set(&headers, &api.app.config.auth, "", 0) {
        answer.headers_mut().insert(SET_COOKIE, cookie);
    }
    Ok(answer)
}

/// A new password for oneself.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewPassword {
    /// The one of now: an open session alone must not be enough to keep its owner out.
    #[schema(value_type = String, format = Password)]
    pub current_password: Secret,
    #[schema(value_type = String, format = Password, min_length = 12)]
    pub new_password: Secret,
}

/// Change one's own password
///
/// For local users who have logged in. Every other session of the user ends; this one goes on. Attempts are counted with those to log in.
#[utoipa::path(
    post, path = "/auth/password", operation_id = "change_password", tag = "auth",
    request_body(content = NewPassword, example = json!({ "current_password": "correct horse battery", "new_password": "a better one that is long" })),
    responses((status = 204, description = "The new password holds.")),
    security(("bearer" = [])),
)]
pub async fn password(
    State(api): State<Api>,
    caller: Signed,
    body: Result<Body<NewPassword>, Problem>,
) -> Result<StatusCode, Problem> {
    let Body(body) = body?;
    let Via::Session { id: session, user_id } = caller.1 else {
        return Err(Problem::new(StatusCode::CONFLICT, "auth.no_session", "this token belongs to no session")
            .hint("Log in first. The passwords of a platform's users are changed there."));
    };
    let Signed(caller, _) = &caller;
    let (pool, auth, now) = (&api.app.pool, &api.app.config.auth, api.app.clock.now());
    let ended = || Problem::unauthenticated("auth.token_invalid", "the session has ended");
    let user = people::own_password(pool, user_id).await?.ok_or_else(ended)?;
    let limits = (auth.login_attempts_per_account, auth.login_attempts_per_address);
    throttle(people::try_login(pool, &user.name, caller.address, limits, now).await?)?;
    if !api.passwords.is_right(body.current_password, user.hash).await? {
        return Err(Problem::new(StatusCode::FORBIDDEN, "auth.current_password", "the current password is wrong"));
    }
    let hash = api.passwords.hash(body.new_password).await?;
    let mut transaction = db::begin(pool).await?;
    if !people::change_own_password(&mut transaction, user_id, &hash, session).await? {
        return Err(ended());
    }
    people::forget_account(&mut transaction, &user.name).await?;
    let event = PeopleEvent {
        event: "password_changed",
        caller,
        organization_id: user.organization_id.as_deref(),
        outcome: "ok",
        detail: json!({ "user_id": user_id }),
    };
    history::record_people(&mut transaction, &event).await?;
    transaction.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Who calls, and what it may do.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct Me {
    /// As it is written into the history.
    pub subject: String,
    pub role: Role,
    pub permissions: Vec<Permission>,
    pub project_ids: Vec<String>,
    pub organization_id: Option<String>,
    /// `token`, `session` or `key`.
    pub via: &'static str,
    /// The local user, if it is one.
    pub user_id: Option<Uuid>,
}

/// Who am I
///
/// What this token, session or API key may do now.
#[utoipa::path(
    get, path = "/auth/me", operation_id = "me", tag = "auth",
    responses((status = 200, description = "Who calls.", body = Data<Me>)),
    security(("bearer" = [])),
)]
pub async fn me(signed: Signed) -> Data<Me> {
    let user_id = signed.user_id();
    let Signed(caller, via) = signed;
    let via = match via {
        Via::Token => "token",
        Via::Session { .. } => "session",
        Via::Key => "key",
    };
    let project_ids = caller.project_ids.iter().map(ToString::to_string).collect();
    let Caller { subject, role, permissions, organization_id, .. } = caller;
    Data { data: Me { subject, role, permissions, project_ids, organization_id, via, user_id } }
}

/// The first operator.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Setup {
    /// As `holdfast serve` printed it.
    #[schema(value_type = String, format = Password)]
    pub token: Secret,
    #[schema(max_length = 200)]
    pub name: String,
    #[schema(value_type = String, format = Password, min_length = 12)]
    pub password: Secret,
}

/// Make the first operator
///
/// With the token that `holdfast serve` prints when there is no operator yet. It is good for an hour, and once.
#[utoipa::path(
    post, path = "/auth/setup", operation_id = "setup", tag = "auth",
    request_body(content = Setup, example = json!({ "token": "0f3a…", "name": "alice@example.com", "password": "correct horse battery" })),
    responses((status = 201, description = "The operator, who can log in now.", body = Data<User>)),
)]
pub async fn setup(
    State(api): State<Api>,
    CallFrom(address): CallFrom,
    headers: HeaderMap,
    body: Result<Body<Setup>, Problem>,
) -> Result<Response, Problem> {
    let Body(setup) = body?;
    cookie::refuse_other_sites(&headers)?;
    require_own_tokens(&api)?;
    let mut transaction = db::begin(&api.app.pool).await?;
    let token = setup.token.expose(); // hashed and looked up
    // Rolled back with everything else when the name or the password is not taken: the link stays good.
    if !people::take_setup_token(&mut transaction, token, api.app.clock.now()).await? {
        return Err(Problem::new(
            StatusCode::UNAUTHORIZED,
            "auth.setup_token",
            "the set-up link is not good, or was used",
        )
        .hint("Start `holdfast serve` again for a new one, or use `holdfast user add --role operator`."));
    }
    if people::has_operator(&mut *transaction).await? {
        return Err(Problem::new(StatusCode::CONFLICT, "auth.set_up", "there is an operator already"));
    }
    let new = NewUser {
        name: setup.name,
        password_hash: api.passwords.hash(setup.password).await?,
        role: Role::Operator,
        permissions: Permission::ALL.to_vec(),
        project_ids: Vec::new(),
        organization_id: None,
    };
    let user = people::insert_user(&mut transaction, &new).await.map_err(|error: PeopleError| Problem::from(error))?;
    let event = PeopleEvent {
        event: "user_added",
        caller: &nobody(Some(&user.name), address),
        organization_id: None,
        outcome: "ok",
        detail: json!({ "user_id": user.id, "name": user.name, "role": user.role, "by": "set-up link" }),
    };
    history::record_people(&mut transaction, &event).await?;
    transaction.commit().await?;
    Ok(created(user))
}
