//! A user's own change of password.

use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use super::PeopleError;

/// What a user's own change of password needs to know of it.
#[derive(Debug)]
pub struct OwnPassword {
    pub name: String,
    pub organization_id: Option<String>,
    pub hash: Option<String>,
}

/// The password of the user of a session that was looked at.
pub async fn own_password(pool: &PgPool, user: Uuid) -> Result<Option<OwnPassword>, PeopleError> {
    Ok(sqlx::query_as!(
        OwnPassword,
        r#"SELECT name AS "name!", organization_id, password_hash AS hash FROM control_plane.users
           WHERE id = $1 AND enrolled_at IS NOT NULL AND NOT disabled"#,
        user,
    )
    .fetch_optional(pool)
    .await?)
}

/// Gives a user that may log in a new password and ends every session but this one. False when the user is gone, or disabled, meanwhile.
pub async fn change_own_password(
    connection: &mut PgConnection,
    user: Uuid,
    password_hash: &str,
    session: Uuid,
) -> Result<bool, PeopleError> {
    let changed = sqlx::query!(
        "UPDATE control_plane.users SET password_hash = $2 WHERE id = $1 AND enrolled_at IS NOT NULL AND NOT disabled",
        user,
        password_hash,
    )
    .execute(&mut *connection)
    .await?;
    if changed.rows_affected() == 0 {
        return Ok(false);
    }
    sqlx::query!("DELETE FROM control_plane.sessions WHERE user_id = $1 AND id <> $2", user, session)
        .execute(connection)
        .await?;
    Ok(true)
}
