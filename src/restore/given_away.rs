//! What a dump has made outside its target, and who else has a hold on what it made inside. Both are refused before anything is compared: whoever
//! has such a hold can change what was loaded afterwards, and it would come to its recorded owner.
//!
//! The restore's role is a member of nothing. But whoever may grant a role can grant it to that one from another session while the dump is
//! loaded; the dump makes something as that role, and the grant is taken back. Before PostgreSQL 16 everybody may grant his own role so.

use sqlx::PgConnection;

use super::{
    RestoreError,
    new_database::revoke_all,
    role::{end_sessions, roll_back_prepared_by},
};

/// Where a dump was loaded.
#[derive(Clone, Copy, Debug)]
pub(super) enum Inside {
    /// The schema with this oid, in the connection's database.
    Schema(u32),
    /// The connection's database, which was made for it.
    Database,
}

/// Refuses what has anything outside of its target, or anything in it that is not the role's alone. The role is shut out already.
pub(super) async fn refuse(c: &mut PgConnection, role: u32, inside: Inside) -> Result<(), RestoreError> {
    refuse_members(c, role).await?;
    refuse_others(c, role, inside).await?;
    match inside {
        Inside::Schema(schema) => {
            refuse_outside(c, role, schema).await?;
            refuse_rights(c, role, schema).await
        }
        Inside::Database => Ok(()),
    }
}

/// Keeps everybody but administrators out of a database that was made for a restore, and ends the sessions of those whom the dump has let in.
pub(super) async fn shut(c: &mut PgConnection, database: &str) -> Result<(), RestoreError> {
    revoke_all(c, database).await?;
    let strangers = "datname = $1 AND pid <> pg_backend_pid() \
                     AND usesysid IN (SELECT r.oid FROM pg_catalog.pg_roles r WHERE NOT r.rolsuper AND r.rolname <> current_user)";
    end_sessions(c, strangers, database).await?;
    roll_back_prepared_by(c, None).await
}

/// Refuses what a dump has loaded that has others as members of its role, or its role as a member of theirs.
async fn refuse_members(c: &mut PgConnection, role: u32) -> Result<(), RestoreError> {
    let others: Vec<String> = sqlx::query_scalar(
        "SELECT quote_ident(m.rolname) FROM pg_catalog.pg_auth_members a \
         JOIN pg_catalog.pg_roles m ON m.oid = CASE WHEN a.roleid = $1::int8::oid THEN a.member ELSE a.roleid END \
         WHERE $1::int8::oid IN (a.roleid, a.member) AND m.rolname <> current_user ORDER BY 1",
    )
    .bind(i64::from(role))
    .fetch_all(c)
    .await?;
    refuse_if_any("others are members of the restore's role, or it is one of theirs", others)
}

/// Refuses what others own of what was loaded.
async fn refuse_others(c: &mut PgConnection, role: u32, inside: Inside) -> Result<(), RestoreError> {
    let schema = match inside {
        Inside::Schema(schema) => Some(i64::from(schema)),
        Inside::Database => None,
    };
    let others: Vec<String> = sqlx::query_scalar(
        "SELECT i.type || ' ' || i.identity || ' of ' || quote_ident(pg_get_userbyid(s.refobjid)) \
         FROM pg_catalog.pg_shdepend s CROSS JOIN LATERAL pg_identify_object(s.classid, s.objid, 0) i \
         WHERE s.refclassid = 'pg_catalog.pg_authid'::regclass AND s.deptype = 'o' AND s.refobjid <> $1::int8::oid \
         AND s.refobjid <> (SELECT oid FROM pg_catalog.pg_roles WHERE rolname = current_user) \
         AND s.dbid = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()) \
         AND ($2::int8 IS NULL OR EXISTS ( \
             SELECT FROM pg_catalog.pg_depend d WHERE d.classid = s.classid AND d.objid = s.objid \
             AND d.refclassid = 'pg_catalog.pg_namespace'::regclass AND d.refobjid = $2::int8::oid)) \
         AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = s.classid AND d.objid = s.objid AND d.deptype = 'e') \
         ORDER BY 1 LIMIT 20",
    )
    .bind(i64::from(role))
    .bind(schema)
    .fetch_all(c)
    .await?;
    refuse_if_any("others own what the dump made", others)
}

/// Refuses objects of the role in other schemas (where everybody may create), and large objects.
async fn refuse_outside(c: &mut PgConnection, role: u32, schema: u32) -> Result<(), RestoreError> {
    let outside: Vec<String> = sqlx::query_scalar(
        "SELECT i.type || ' ' || i.identity FROM pg_catalog.pg_shdepend d \
         CROSS JOIN LATERAL pg_identify_object(d.classid, d.objid, 0) i \
         WHERE d.refclassid = 'pg_catalog.pg_authid'::regclass AND d.refobjid = $1::int8::oid AND d.deptype = 'o' \
         AND d.dbid = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()) \
         AND NOT (d.classid = 'pg_catalog.pg_namespace'::regclass AND d.objid = $2::int8::oid) \
         AND (d.classid = 'pg_catalog.pg_namespace'::regclass OR i.schema IS DISTINCT FROM \
              (SELECT quote_ident(nspname) FROM pg_catalog.pg_namespace WHERE oid = $2::int8::oid)) \
         ORDER BY 1 LIMIT 20",
    )
    .bind(i64::from(role))
    .bind(i64::from(schema))
    .fetch_all(c)
    .await?;
    refuse_if_any("the dump made objects outside its schema", outside)
}

/// Refuses rights to the schema itself: no dump of ours gives any (`--no-acl`), and without them nobody comes at what is in it.
async fn refuse_rights(c: &mut PgConnection, role: u32, schema: u32) -> Result<(), RestoreError> {
    let rights: Vec<String> = sqlx::query_scalar(
        "SELECT DISTINCT a.privilege_type || ' for ' || \
             CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END \
         FROM pg_catalog.pg_namespace n CROSS JOIN LATERAL aclexplode(n.nspacl) a \
         WHERE n.oid = $2::int8::oid AND a.grantee <> $1::int8::oid ORDER BY 1",
    )
    .bind(i64::from(role))
    .bind(i64::from(schema))
    .fetch_all(c)
    .await?;
    refuse_if_any("the dump gave rights to its schema", rights)
}

fn refuse_if_any(what: &str, found: Vec<String>) -> Result<(), RestoreError> {
    if found.is_empty() {
        return Ok(());
    }
    Err(RestoreError::new("restore.outside", format!("{what}: {}", found.join(", "))))
}
