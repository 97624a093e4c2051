//! API keys: `hfk_ID_SECRET`. The secret is random and shown once; its SHA-256 is kept.

use chrono::{DateTime, Duration, Utc};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use sqlx::{PgConnection, PgExecutor, PgPool};
use uuid::Uuid;

use super::{PeopleError, random_secret, sha256, users::check_organization};
use crate::{
    ids::ProjectId,
    tenant::{Caller, Permission, Role},
};

/// What every key begins with, so that scanners for lost secrets know it.
const PREFIX: &str = "hfk_";

/// How exactly the last use is kept.
const USE_WITHIN: Duration = Duration::minutes(1);

/// Keys that one maker can have at a time: neither revoked nor expired.
const MAX_KEYS: i64 = 100;

/// A key as its owner sends it, with the secret's hash in the place of the secret.
#[derive(Clone, Copy)]
pub struct KeyToken {
    id: Uuid,
    sha256: [u8; 32],
}

impl KeyToken {
    /// Whether a bearer token means to be one.
    pub fn is_meant(token: &str) -> bool {
        token.starts_with(PREFIX)
    }

    pub fn parse(token: &str) -> Option<Self> {
        let (id, secret) = token.strip_prefix(PREFIX)?.split_once('_')?;
        let is_hex = |text: &str| text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if id.len() != 32 || secret.len() != 64 || !is_hex(id) || !is_hex(secret) {
            return None;
        }
        Some(Self { id: Uuid::try_parse(id).ok()?, sha256: sha256(secret.as_bytes()) })
    }
}

/// What a key may do.
#[derive(Clone, Debug)]
pub struct KeyRights {
    pub role: Role,
    pub permissions: Vec<Permission>,
    pub project_ids: Vec<ProjectId>,
    pub organization_id: Option<String>,
}

/// A key as it is made.
#[derive(Clone, Debug)]
pub struct NewKey<'a> {
    pub name: &'a str,
    pub rights: &'a KeyRights,
    /// Who makes it, as in the history, and the local user behind, if any.
    pub created_by: &'a str,
    pub user_id: Option<Uuid>,
    pub now: DateTime<Utc>,
    pub expires_at: DateTime<Utc>,
}

/// A key without its secret.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct ApiKey {
    pub id: Uuid,
    pub name: String,
    /// `member`, `org_admin` or `operator`.
    pub role: String,
    pub permissions: Vec<String>,
    pub project_ids: Vec<String>,
    pub organization_id: Option<String>,
    pub created_by: String,
    pub created_at: DateTime<Utc>,
    pub expires_at: DateTime<Utc>,
    /// To the minute.
    pub last_used_at: Option<DateTime<Utc>>,
    pub revoked_at: Option<DateTime<Utc>>,
}

/// Makes a key. The text is all there is to see of it, this once.
pub async fn insert_key(connection: &mut PgConnection, new: &NewKey<'_>) -> Result<(Uuid, SecretString), PeopleError> {
    check_organization(new.rights.organization_id.as_deref())?;
    let id = Uuid::new_v4();
    let (secret, digest) = random_secret()?;
    let permissions: Vec<String> = new.rights.permissions.iter().map(ToString::to_string).collect();
    let project_ids: Vec<String> = new.rights.project_ids.iter().map(ToString::to_string).collect();
    sqlx::query!(
        "INSERT INTO control_plane.api_keys
             (id, name, secret_sha256, user_id, created_by, role, permissions, project_ids, organization_id, created_at, expires_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
        id,
        new.name,
        &digest[..],
        new.user_id,
        new.created_by,
        new.rights.role.as_str(),
        &permissions,
        &project_ids,
        new.rights.organization_id,
        new.now,
        new.expires_at,
    )
    .execute(connection)
    .await?;
    // The one place where it is whole, on its way to its owner.
    Ok((id, format!("{PREFIX}{}_{}", id.simple(), secret.expose_secret()).into()))
}

/// Keys that were made by this caller, or all for an operator; newest first.
pub async fn keys(
    pool: &PgPool,
    caller: &Caller,
    user_id: Option<Uuid>,
    before: Option<(DateTime<Utc>, Uuid)>,
    limit: i64,
) -> Result<Vec<ApiKey>, PeopleError> {
    let which = Which { all: caller.role == Role::Operator, before, limit, ..Which::default() };
    made_by(pool, caller, user_id, which).await
}

/// Which keys are looked for.
#[derive(Clone, Copy, Debug, Default)]
struct Which {
    /// Everybody's, and not the caller's own alone.
    all: bool,
    id: Option<Uuid>,
    /// Good at this time.
    good_at: Option<DateTime<Utc>>,
    /// Older than this one.
    before: Option<(DateTime<Utc>, Uuid)>,
    limit: i64,
}

/// A local user's keys are those of its id. A platform's subject may be somebody else in another tenant: of what was made under its name,
/// a caller's own are the keys that reach something that it reaches. One may reach more, when its maker has lost a project or a role since, and
/// is its maker's to revoke all the same; it is told with the projects that its maker still reaches.
async fn made_by(
    executor: impl PgExecutor<'_>,
    caller: &Caller,
    user_id: Option<Uuid>,
    which: Which,
) -> Result<Vec<ApiKey>, PeopleError> {
    let scope = caller.scope();
    Ok(sqlx::query_as!(
        ApiKey,
        r#"SELECT id, name AS "name!", role, permissions, organization_id, created_by AS "created_by!", created_at,
                expires_at AS "expires_at!", last_used_at, revoked_at,
                ARRAY(SELECT named.id FROM unnest(k.project_ids) WITH ORDINALITY AS named (id, place)
                    WHERE $3::uuid IS NOT NULL
                       OR (($4::text[] IS NULL OR named.id = ANY($4::text[]))
                           AND ($5::text IS NULL OR EXISTS (
                               SELECT FROM control_plane.projects p WHERE p.id = named.id AND p.organization_id = $5::text)))
                    ORDER BY named.place) AS "project_ids!"
         FROM control_plane.api_keys k
         WHERE secret_sha256 IS NOT NULL
           AND ($1 OR (created_by = $2 AND user_id IS NOT DISTINCT FROM $3::uuid AND ($3::uuid IS NOT NULL OR CASE
               WHEN $4::text[] IS NOT NULL THEN (role = 'member' AND project_ids && $4::text[]) OR (role = 'org_admin' AND EXISTS (
                   SELECT FROM control_plane.projects p WHERE p.id = ANY($4::text[]) AND p.organization_id = k.organization_id))
               WHEN $5::text IS NOT NULL THEN (role <> 'operator' AND organization_id = $5::text) OR (role = 'member' AND EXISTS (
                   SELECT FROM control_plane.projects p WHERE p.id = ANY(k.project_ids) AND p.organization_id = $5::text))
               ELSE true
           END)))
           AND ($6::uuid IS NULL OR id = $6::uuid)
           AND ($7::timestamptz IS NULL OR (revoked_at IS NULL AND expires_at > $7::timestamptz))
           AND ($8::timestamptz IS NULL OR (created_at, id) < ($8::timestamptz, $9::uuid))
         ORDER BY created_at DESC, id DESC LIMIT $10"#,
        which.all,
        caller.subject,
        user_id,
        scope.project_ids(),
        scope.organization_id(),
        which.id,
        which.good_at,
        which.before.map(|(at, _)| at),
        which.before.map(|(_, id)| id),
        which.limit,
    )
    .fetch_all(executor)
    .await?)
}

/// Refuses this caller one key too many, one call after the other. To be followed by [`insert_key`] in the same transaction.
///
/// # Errors
/// [`PeopleError::TooManyKeys`].
pub async fn refuse_too_many_keys(
    connection: &mut PgConnection,
    caller: &Caller,
    user_id: Option<Uuid>,
    now: DateTime<Utc>,
) -> Result<(), PeopleError> {
    sqlx::query!(
        "SELECT pg_advisory_xact_lock(hashtextextended('holdfast keys of ' || $1::text, 0))::text AS locked",
        caller.subject,
    )
    .fetch_one(&mut *connection)
    .await?;
    let which = Which { good_at: Some(now), limit: MAX_KEYS, ..Which::default() };
    let good = made_by(connection, caller, user_id, which).await?;
    if (good.len() as i64) < MAX_KEYS { Ok(()) } else { Err(PeopleError::TooManyKeys(MAX_KEYS)) }
}

/// Revokes a key of this caller, or any for an operator. A key that was revoked before is as good.
pub async fn revoke_key(
    connection: &mut PgConnection,
    caller: &Caller,
    user_id: Option<Uuid>,
    id: Uuid,
    now: DateTime<Utc>,
) -> Result<(), PeopleError> {
    let which = Which { all: caller.role == Role::Operator, id: Some(id), limit: 1, ..Which::default() };
    if made_by(&mut *connection, caller, user_id, which).await?.is_empty() {
        return Err(PeopleError::NotFound { what: "key", id: id.to_string() });
    }
    sqlx::query!("UPDATE control_plane.api_keys SET revoked_at = coalesce(revoked_at, $2) WHERE id = $1", id, now)
        .execute(connection)
        .await?;
    Ok(())
}

/// Whom a key speaks for now: what it was given, and no more than its user has left. `None` for one that is not good.
///
/// The secret's hash is compared by the database; how long that takes tells nothing about a random secret.
pub async fn find_key(
    pool: &PgPool,
    token: KeyToken,
    now: DateTime<Utc>,
) -> Result<Option<(Uuid, Caller)>, PeopleError> {
    let row = sqlx::query!(
        r#"SELECT k.id, k.name AS "name!", k.role, k.permissions, k.organization_id, k.user_id,
                u.role AS "user_role?", u.permissions AS "user_permissions?", u.organization_id AS "user_organization?",
                CASE
                    WHEN u.role = 'member' THEN ARRAY(
                        SELECT project_id FROM control_plane.memberships m WHERE m.user_id = u.id AND project_id = ANY(k.project_ids))
                    WHEN u.role = 'org_admin' THEN ARRAY(
                        SELECT p.id FROM control_plane.projects p WHERE p.id = ANY(k.project_ids) AND p.organization_id = u.organization_id)
                    ELSE k.project_ids
                END AS "project_ids!"
         FROM control_plane.api_keys k
         LEFT JOIN control_plane.users u ON u.id = k.user_id AND u.enrolled_at IS NOT NULL AND NOT u.disabled
         WHERE k.id = $1 AND k.secret_sha256 = $2 AND k.revoked_at IS NULL AND k.expires_at > $3"#,
        token.id,
        &token.sha256[..],
        now,
    )
    .fetch_optional(pool)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let Ok(role) = row.role.parse::<Role>() else { return Ok(None) };
    let parse = |words: &[String]| -> Vec<Permission> { words.iter().filter_map(|word| word.parse().ok()).collect() };
    let mut permissions = parse(&row.permissions);
    match (row.user_id, row.user_role.as_deref().map(str::parse::<Role>)) {
        (None, _) => {}
        // The user is gone, or disabled.
        (Some(_), None | Some(Err(_))) => return Ok(None),
        (Some(_), Some(Ok(user_role))) => {
            let still_has = match role {
                Role::Member => true,
                Role::OrgAdmin => {
                    user_role == Role::Operator
                        || (user_role == Role::OrgAdmin && row.user_organization == row.organization_id)
                }
                Role::Operator => user_role == Role::Operator,
            };
            if !still_has {
                return Ok(None);
            }
            let left = parse(row.user_permissions.as_deref().unwrap_or_default());
            permissions.retain(|permission| left.contains(permission));
        }
    }
    let caller = Caller {
        subject: format!("key:{} ({})", row.id, row.name),
        role,
        permissions,
        project_ids: row.project_ids.iter().filter_map(|id| id.parse().ok()).collect(),
        organization_id: row.organization_id,
        address: None,
    };
    Ok(Some((row.id, caller)))
}

/// Notes that a key is used, at most once a minute.
pub async fn touch_key(executor: impl PgExecutor<'_>, id: Uuid, now: DateTime<Utc>) -> Result<(), PeopleError> {
    sqlx::query!(
        "UPDATE control_plane.api_keys SET last_used_at = $2 WHERE id = $1 AND (last_used_at IS NULL OR last_used_at <= $3)",
        id,
        now,
        now - USE_WITHIN,
    )
    .execute(executor)
    .await?;
    Ok(())
}
