//! Sessions: a row for each login, looked at with its user on every call.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgExecutor, PgPool};
use uuid::Uuid;

use super::{PeopleError, User};

/// Begins a session and notes the login. Sessions that have ended by themselves are swept on the way.
pub async fn insert_session(
    connection: &mut PgConnection,
    user: Uuid,
    now: DateTime<Utc>,
    expires_at: DateTime<Utc>,
) -> Result<Uuid, PeopleError> {
    let id = Uuid::new_v4();
    sqlx::query!("DELETE FROM control_plane.sessions WHERE expires_at <= $1", now).execute(&mut *connection).await?;
    sqlx::query!(
        "INSERT INTO control_plane.sessions (id, user_id, created_at, expires_at) VALUES ($1, $2, $3, $4)",
        id,
        user,
        now,
        expires_at,
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!("UPDATE control_plane.users SET last_login_at = $2 WHERE id = $1", user, now)
        .execute(connection)
        .await?;
    Ok(id)
}

/// The user of a session that goes on.
pub async fn session_user(pool: &PgPool, session: Uuid, now: DateTime<Utc>) -> Result<Option<User>, PeopleError> {
    Ok(sqlx::query_as!(
        User,
        r#"SELECT u.id, name AS "name!", role, permissions, organization_id, disabled, u.created_at, last_login_at,
                ARRAY(SELECT project_id FROM control_plane.memberships m WHERE m.user_id = u.id ORDER BY 1) AS "project_ids!",
                0::bigint AS "projects_elsewhere!"
         FROM control_plane.sessions s JOIN control_plane.users u ON u.id = s.user_id
         WHERE s.id = $1 AND s.expires_at > $2 AND u.enrolled_at IS NOT NULL AND NOT u.disabled"#,
        session,
        now,
    )
    .fetch_optional(pool)
    .await?)
}

/// Ends a session. Ending one that is gone is success.
pub async fn delete_session(executor: impl PgExecutor<'_>, session: Uuid) -> Result<(), PeopleError> {
    sqlx::query!("DELETE FROM control_plane.sessions WHERE id = $1", session).execute(executor).await?;
    Ok(())
}

/// Ends every session of a user.
pub async fn delete_sessions_of(executor: impl PgExecutor<'_>, user: Uuid) -> Result<(), PeopleError> {
    sqlx::query!("DELETE FROM control_plane.sessions WHERE user_id = $1", user).execute(executor).await?;
    Ok(())
}
