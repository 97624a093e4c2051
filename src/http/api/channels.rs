//! Notice channels: operators manage all, organisation admins those of their organisation and its projects.

use axum::{extract::State, http::StatusCode, response::Response};
use serde::Deserialize;

use super::page_size;
use crate::{
    catalog::{NoticeEvent, Settings},
    http::{
        Api,
        answer::{Cursor, Data, Page, created},
        error::Problem,
        extract::{Body, Params, Signed},
        named::Named,
    },
    manage::{
        Mode,
        channels::{self, ChannelChanges, ChannelTest, NewChannel, ShownChannel},
        require_admin,
    },
    tenant::Permission,
};

/// Which channels.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListParams {
    /// Those of this project alone.
    pub project_id: Option<String>,
    /// Rows on a page. Default: 50.
    #[param(minimum = 1, maximum = 200)]
    pub limit: Option<u32>,
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
}

/// List channels
///
/// Newest first: all for an operator, those of its organisation and its projects for an organisation admin. Secrets are never told:
/// `{"set": true}` stands in their place.
#[utoipa::path(
    get, path = "/api/channels", operation_id = "list_channels", tag = "channels",
    params(ListParams),
    responses((status = 200, description = "One page.", body = Page<ShownChannel>)),
    security(("bearer" = ["backup:read"])),
)]
pub async fn list(
    State(api): State<Api>,
    caller: Signed,
    params: Result<Params<ListParams>, Problem>,
) -> Result<Page<ShownChannel>, Problem> {
    require_admin(&caller.0, Permission::Read)?;
    let Params(params) = params?;
    let limit = page_size(params.limit)?;
    let after = Cursor::read(params.cursor.as_deref())?;
    let rows = channels::list(&api.app, &caller.0, params.project_id.as_deref(), after, limit + 1).await?;
    Ok(Page::of(rows, limit, |channel| Cursor { at: channel.created_at, id: channel.id }))
}

/// Look at a channel
///
/// One channel within reach.
#[utoipa::path(
    get, path = "/api/channels/{id}", operation_id = "show_channel", tag = "channels",
    params(("id" = Uuid, Path, description = "The channel's id.")),
    responses((status = 200, description = "The channel.", body = Data<ShownChannel>)),
    security(("bearer" = ["backup:read"])),
)]
pub async fn show(State(api): State<Api>, caller: Signed, Named(id): Named) -> Result<Data<ShownChannel>, Problem> {
    require_admin(&caller.0, Permission::Read)?;
    Ok(Data { data: channels::show(&api.app, &caller.0, channels::id_of(&id)?).await? })
}

const fn yes() -> bool {
    true
}

/// A new channel.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddChannelBody {
    #[schema(min_length = 1, max_length = 200)]
    pub name: String,
    /// It hears of this project alone.
    pub project_id: Option<String>,
    /// It hears of this organisation's projects. With neither: of every project, or for an organisation admin of its own organisation's.
    pub organization_id: Option<String>,
    /// What it hears of. Default: everything.
    #[serde(default)]
    #[schema(inline)]
    pub events: Vec<NoticeEvent>,
    /// Default: `true`.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// `email` with `to`; `webhook` with `url` and `secret`, which signs each request; `telegram` with `bot_token`, `chat_id` and, for a
    /// Bot API server of one's own, `base_url`.
    pub settings: Settings,
}

/// Add a channel
///
/// Settings and secrets are encrypted in the database. A URL that an organisation admin gives must be `https` and lead to a public address,
/// or one that the setting `outgoing.allow` allows.
#[utoipa::path(
    post, path = "/api/channels", operation_id = "add_channel", tag = "channels",
    request_body(content = AddChannelBody, example = json!({ "name": "on-call", "project_id": "acme", "events": ["failed", "stale"], "settings": {
        "type": "webhook", "url": "https://hooks.example.com/backups", "secret": "a-secret-of-16-to-256-characters" } })),
    responses((status = 201, description = "The channel.", body = Data<ShownChannel>)),
    security(("bearer" = ["backup:write"])),
)]
pub async fn add(
    State(api): State<Api>,
    caller: Signed,
    body: Result<Body<AddChannelBody>, Problem>,
) -> Result<Response, Problem> {
    require_admin(&caller.0, Permission::Write)?;
    let Body(AddChannelBody { name, project_id, organization_id, events, enabled, settings }) = body?;
    let new = NewChannel { name, project_id, organization_id, events, enabled, settings };
    let data = channels::add(&api.app, &caller.0, new).await?;
    Ok(created(data))
}

/// What is to be different. What is left out stays.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangeChannelBody {
    #[schema(min_length = 1, max_length = 200)]
    pub name: Option<String>,
    #[schema(inline)]
    pub events: Option<Vec<NoticeEvent>>,
    pub enabled: Option<bool>,
    /// What is left out stays, `null` takes it out. Whoever names another address gives the secret again. The `type` stays.
    #[schema(value_type = Option<Object>)]
    pub settings: Option<Settings>,
}

/// Change a channel
///
/// What it hears of (a project, an organisation, all) stays.
#[utoipa::path(
    patch, path = "/api/channels/{id}", operation_id = "change_channel", tag = "channels",
    params(("id" = Uuid, Path, description = "The channel's id.")),
    request_body(content = ChangeChannelBody, example = json!({ "events": ["failed"], "enabled": true })),
    responses((status = 200, description = "The channel as it is now.", body = Data<ShownChannel>)),
    security(("bearer" = ["backup:write"])),
)]
pub async fn change(
    State(api): State<Api>,
    caller: Signed,
    Named(id): Named,
    body: Result<Body<ChangeChannelBody>, Problem>,
) -> Result<Data<ShownChannel>, Problem> {
    require_admin(&caller.0, Permission::Write)?;
    let id = channels::id_of(&id)?;
    let Body(ChangeChannelBody { name, events, enabled, settings }) = body?;
    let changes = ChannelChanges { name, events, enabled, settings };
    Ok(Data { data: channels::change(&api.app, &caller.0, id, changes).await? })
}

/// Remove a channel
///
/// Nothing is sent there any more.
#[utoipa::path(
    delete, path = "/api/channels/{id}", operation_id = "delete_channel", tag = "channels",
    params(("id" = Uuid, Path, description = "The channel's id.")),
    responses((status = 204, description = "The channel is gone.")),
    security(("bearer" = ["backup:write"])),
)]
pub async fn delete(State(api): State<Api>, caller: Signed, Named(id): Named) -> Result<StatusCode, Problem> {
    require_admin(&caller.0, Permission::Write)?;
    channels::delete(&api.app, &caller.0, channels::id_of(&id)?, Mode::Real).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Test a channel
///
/// Sends a message that says that it is a test, at once, and whether the channel is switched on or not; within 25 seconds. That it was not
/// taken is an answer too: `good` is `false`, with a `problem`.
#[utoipa::path(
    post, path = "/api/channels/{id}/test", operation_id = "test_channel", tag = "channels",
    params(("id" = Uuid, Path, description = "The channel's id.")),
    responses((status = 200, description = "What became of it.", body = Data<ChannelTest>)),
    security(("bearer" = ["backup:write"])),
)]
pub async fn test(State(api): State<Api>, caller: Signed, Named(id): Named) -> Result<Data<ChannelTest>, Problem> {
    require_admin(&caller.0, Permission::Write)?;
    Ok(Data { data: channels::test(&api.app, &caller.0, channels::id_of(&id)?).await? })
}
