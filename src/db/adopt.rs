//! Compares the tables that a platform already has with what our queries need, before anything is changed. Each misfit comes as
//! the statement that mends it.

use sqlx::PgPool;

/// What our queries need of a column that they share with a platform. `ADD COLUMN IF NOT EXISTS` takes care of columns that are
/// missing; this is about columns that are there with another type.
struct Column {
    table: &'static str,
    name: &'static str,
    /// The type the migration would give it.
    wanted: &'static str,
    /// Types, as `format_type` names them without length, that serve as well.
    accepted: &'static [&'static str],
}

const TEXT: &[&str] = &["text", "character varying", "character"];

const fn text(table: &'static str, name: &'static str) -> Column {
    Column { table, name, wanted: "text", accepted: TEXT }
}

const fn exactly(table: &'static str, name: &'static str, accepted: &'static [&'static str]) -> Column {
    Column { table, name, wanted: accepted[0], accepted }
}

const TIME: &[&str] = &["timestamp with time zone"];
const JSON: &[&str] = &["jsonb"];
const BIG: &[&str] = &["bigint"];
const INT: &[&str] = &["integer"];
const UUID: &[&str] = &["uuid"];
const DOUBLE: &[&str] = &["double precision"];
const BOOL: &[&str] = &["boolean"];
const TEXTS: &[&str] = &["text[]"];
const BYTES: &[&str] = &["bytea"];

const COLUMNS: &[Column] = &[
    text("organizations", "id"),
    text("organizations", "name"),
    text("projects", "id"),
    text("projects", "name"),
    text("projects", "slug"),
    text("projects", "organization_id"),
    text("projects", "status"),
    text("projects", "schema_name"),
    text("projects", "database_name"),
    text("projects", "backup_scope"),
    exactly("projects", "settings", JSON),
    exactly("projects", "created_at", TIME),
    exactly("projects", "updated_at", TIME),
    text("project_logs", "project_id"),
    text("project_logs", "level"),
    text("project_logs", "message"),
    exactly("project_logs", "metadata", JSON),
    exactly("project_logs", "created_at", TIME),
    exactly("backups", "id", UUID),
    text("backups", "project_id"),
    text("backups", "type"),
    text("backups", "file_id"),
    exactly("backups", "size", BIG),
    exactly("backups", "created_at", TIME),
    exactly("backups", "expires_at", TIME),
    text("backups", "status"),
    text("backups", "file_name"),
    text("backups", "format"),
    text("backups", "compression"),
    text("backups", "encryption"),
    text("backups", "backup_type"),
    exactly("backups", "number", INT),
    text("backups", "external_id"),
    exactly("backups", "content_size", BIG),
    text("backups", "storage"),
    text("backups", "s3_url"),
    text("backups", "s3_region"),
    text("backups", "s3_bucket"),
    text("backups", "message"),
    text("backups", "created_by"),
    exactly("backups", "job_id", UUID),
    text("backups", "sha256"),
    exactly("backups", "table_count", BIG),
    exactly("backups", "row_count", BIG),
    exactly("backups", "proved_at", TIME),
    exactly("backups", "recovery_seconds", DOUBLE),
    exactly("backups", "differences", JSON),
    exactly("backups", "tried_at", TIME),
    text("backups", "pg_version"),
    exactly("backups", "verified_at", TIME),
    exactly("backups", "pinned", BOOL),
    exactly("backups", "required_copies", INT),
    exactly("backups", "manifest", JSON),
    exactly("jobs", "id", UUID),
    text("jobs", "type"),
    text("jobs", "status"),
    text("jobs", "project_id"),
    exactly("jobs", "payload", JSON),
    exactly("jobs", "result", JSON),
    exactly("jobs", "progress", JSON),
    exactly("jobs", "attempts", INT),
    exactly("jobs", "max_attempts", INT),
    exactly("jobs", "run_at", TIME),
    exactly("jobs", "priority", INT),
    text("jobs", "idempotency_key"),
    text("jobs", "error_message"),
    text("jobs", "created_by"),
    exactly("jobs", "created_at", TIME),
    exactly("jobs", "updated_at", TIME),
    exactly("jobs", "started_at", TIME),
    exactly("jobs", "finished_at", TIME),
    exactly("schedules", "id", UUID),
    text("schedules", "name"),
    text("schedules", "project_id"),
    text("schedules", "organization_id"),
    text("schedules", "type"),
    text("schedules", "cron"),
    text("schedules", "zone"),
    exactly("schedules", "retention", JSON),
    exactly("schedules", "enabled", BOOL),
    exactly("schedules", "created_at", TIME),
    text("schedules", "name_pattern"),
    text("schedules", "format"),
    text("schedules", "compression"),
    exactly("schedules", "storages", TEXTS),
    exactly("schedules", "jitter_minutes", INT),
    exactly("schedules", "next_slot", TIME),
    text("schedules", "created_by"),
    exactly("schedules", "updated_at", TIME),
    exactly("schedules", "removed_at", TIME),
    exactly("schedules", "holdfast", BOOL),
    text("storages", "name"),
    text("storages", "kind"),
    text("storages", "settings_sealed"),
    exactly("storages", "revision", BIG),
    exactly("channels", "id", UUID),
    text("channels", "name"),
    text("channels", "kind"),
    text("channels", "project_id"),
    text("channels", "organization_id"),
    exactly("channels", "events", TEXTS),
    exactly("channels", "enabled", BOOL),
    text("channels", "settings_sealed"),
    exactly("channels", "tested_at", TIME),
    exactly("users", "id", UUID),
    text("users", "name"),
    text("users", "password_hash"),
    text("users", "role"),
    exactly("users", "permissions", TEXTS),
    text("users", "organization_id"),
    exactly("users", "disabled", BOOL),
    exactly("users", "created_at", TIME),
    exactly("users", "last_login_at", TIME),
    exactly("users", "enrolled_at", TIME),
    exactly("memberships", "user_id", UUID),
    text("memberships", "project_id"),
    exactly("sessions", "id", UUID),
    exactly("sessions", "user_id", UUID),
    exactly("sessions", "created_at", TIME),
    exactly("sessions", "expires_at", TIME),
    exactly("api_keys", "id", UUID),
    text("api_keys", "name"),
    exactly("api_keys", "secret_sha256", BYTES),
    exactly("api_keys", "user_id", UUID),
    text("api_keys", "created_by"),
    text("api_keys", "role"),
    exactly("api_keys", "permissions", TEXTS),
    exactly("api_keys", "project_ids", TEXTS),
    text("api_keys", "organization_id"),
    exactly("api_keys", "created_at", TIME),
    exactly("api_keys", "expires_at", TIME),
    exactly("api_keys", "last_used_at", TIME),
    exactly("api_keys", "revoked_at", TIME),
];

/// Columns that our queries read as never null, so an adopted one must say so.
const NEVER_NULL: &[(&str, &[&str])] = &[
    ("projects", &["id", "name", "status", "settings", "created_at", "updated_at"]),
    ("project_logs", &["level", "message", "metadata", "created_at"]),
    ("users", &["role", "disabled", "created_at"]),
    ("memberships", &["user_id", "project_id"]),
    ("backups", &["id", "project_id", "type", "size", "created_at", "status", "number", "backup_type", "pinned"]),
    (
        "jobs",
        &[
            "id",
            "type",
            "status",
            "payload",
            "attempts",
            "max_attempts",
            "run_at",
            "priority",
            "created_at",
            "updated_at",
        ],
    ),
];

/// Columns into which we write NULL, so an adopted one must allow it.
const SOMETIMES_NULL: &[(&str, &[&str])] = &[
    (
        "schedules",
        &[
            "project_id",
            "organization_id",
            "name_pattern",
            "format",
            "compression",
            "retention",
            "jitter_minutes",
            "next_slot",
            "created_by",
            "removed_at",
        ],
    ),
    ("channels", &["project_id", "organization_id"]),
];

/// Tables whose every row is read as ours, with the columns for which there is no default: the first is the key. Rows without them are nothing
/// that a migration could complete.
const WHOLLY_OURS: &[(&str, &[&str])] =
    &[("storages", &["name", "kind", "settings_sealed"]), ("channels", &["id", "name", "kind", "settings_sealed"])];

/// Tables that we insert into: a column of the platform's that insists on a value would refuse our rows.
const INSERTED: &[&str] = &[
    "backups",
    "jobs",
    "project_logs",
    "projects",
    "organizations",
    "users",
    "memberships",
    "sessions",
    "api_keys",
    "storages",
    "channels",
    "schedules",
];

/// Every misfit as the statement that mends it. Empty when the migration can go ahead.
pub async fn misfits(pool: &PgPool) -> Result<Vec<String>, sqlx::Error> {
    // Runtime queries: they read PostgreSQL's own catalog, before our schema exists.
    let found: Vec<(String, String, String, bool, bool)> = sqlx::query_as(
        "SELECT c.relname::text, a.attname::text, pg_catalog.format_type(a.atttypid, NULL), a.attnotnull, \
                (a.atthasdef OR a.attidentity <> '' OR a.attgenerated <> '') \
         FROM pg_catalog.pg_class c \
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped \
         WHERE n.nspname = 'control_plane' AND c.relkind IN ('r', 'p') ORDER BY 1, a.attnum",
    )
    .fetch_all(pool)
    .await?;
    let already_ours: bool = sqlx::query_scalar("SELECT to_regclass('control_plane.holdfast_migrations') IS NOT NULL")
        .fetch_one(pool)
        .await?;
    let mut misfits = Vec::new();
    let mut foreign = Vec::new();
    for (table, needed) in WHOLLY_OURS {
        let columns: Vec<&str> = found.iter().filter(|row| row.0 == *table).map(|row| row.1.as_str()).collect();
        let missing: Vec<&str> = needed.iter().copied().filter(|column| !columns.contains(column)).collect();
        if columns.is_empty() || missing.is_empty() {
            continue;
        }
        // A key is made with the table alone; the others can be added while there are no rows.
        if missing.contains(&needed[0]) || has_rows(pool, table).await? {
            foreign.push(*table);
            misfits.push(format!(
                "ALTER TABLE control_plane.{table} RENAME TO platform_{table}; -- it is another program's: it has no {}",
                missing.join(", ")
            ));
        }
    }
    for (table, column, found_type, not_null, has_default) in
        found.iter().filter(|row| !foreign.contains(&row.0.as_str()))
    {
        let at = format!("control_plane.{table}");
        let wanted = COLUMNS.iter().find(|c| c.table == table && c.name == column);
        match wanted {
            Some(wanted) if !wanted.accepted.contains(&found_type.as_str()) => {
                misfits.push(mend_type(&at, column, found_type, wanted.wanted))
            }
            Some(_) => {
                let is_among = |list: &[(&str, &[&str])]| {
                    list.iter().any(|(t, columns)| t == table && columns.contains(&column.as_str()))
                };
                if is_among(NEVER_NULL) && !not_null {
                    misfits.push(format!("ALTER TABLE {at} ALTER COLUMN {column} SET NOT NULL;"));
                }
                if is_among(SOMETIMES_NULL) && *not_null {
                    misfits.push(format!(
                        "ALTER TABLE {at} ALTER COLUMN {column} DROP NOT NULL; -- Holdfast inserts rows without it"
                    ));
                }
            }
            // Once we have migrated, a column that we do not list here is our own.
            None if !already_ours
                && INSERTED.contains(&table.as_str())
                && *not_null
                && !has_default
                && column != "id" =>
            {
                let quoted = crate::postgres::quote::ident(column);
                misfits.push(format!(
                    "ALTER TABLE {at} ALTER COLUMN {quoted} DROP NOT NULL; -- Holdfast inserts rows without it"
                ));
            }
            None => {}
        }
    }
    misfits.extend(narrow_checks(pool).await?);
    Ok(misfits)
}

async fn has_rows(pool: &PgPool, table: &str) -> Result<bool, sqlx::Error> {
    let sql = format!("SELECT EXISTS (SELECT 1 FROM control_plane.{})", crate::postgres::quote::ident(table));
    sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_one(pool).await
}

fn mend_type(table: &str, column: &str, found: &str, wanted: &str) -> String {
    let using = match (found, wanted) {
        ("timestamp without time zone", "timestamp with time zone") => format!("{column} AT TIME ZONE 'UTC'"),
        _ => format!("{column}::{wanted}"),
    };
    format!("ALTER TABLE {table} ALTER COLUMN {column} TYPE {wanted} USING {using}; -- it is {found}")
}

/// CHECK constraints on the columns of words that we write (`status`, `type`): they may not know our words.
async fn narrow_checks(pool: &PgPool) -> Result<Vec<String>, sqlx::Error> {
    let checks: Vec<(String, String, String, Vec<String>)> = sqlx::query_as(
        "SELECT c.relname::text, k.conname::text, pg_catalog.pg_get_constraintdef(k.oid), \
                ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attnum = ANY(k.conkey)) \
         FROM pg_catalog.pg_constraint k \
         JOIN pg_catalog.pg_class c ON c.oid = k.conrelid \
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         WHERE n.nspname = 'control_plane' AND k.contype = 'c' AND c.relname IN ('backups', 'jobs', 'users', 'api_keys', 'schedules') ORDER BY 1, 2",
    )
    .fetch_all(pool)
    .await?;
    let mut misfits = Vec::new();
    for (table, name, definition, columns) in checks {
        for column in columns {
            let words: &[&str] = match (table.as_str(), column.as_str()) {
                ("jobs", "status") => &["pending", "in_progress", "completed", "failed", "cancelled"],
                ("jobs", "type") => crate::job_type::KNOWN_TYPES,
                ("backups", "status") => {
                    &["pending", "in_progress", "completed", "failed", "cancelled", "expired", "deleted", "damaged"]
                }
                ("users" | "api_keys", "role") => &["member", "org_admin", "operator"],
                ("backups" | "schedules", "type") => &["database", "storage", "logs"],
                _ => continue,
            };
            let unknown: Vec<&str> =
                words.iter().copied().filter(|word| !definition.contains(&format!("'{word}'"))).collect();
            if !unknown.is_empty() {
                let quoted = crate::postgres::quote::ident(&name);
                misfits.push(format!(
                    "ALTER TABLE control_plane.{table} DROP CONSTRAINT {quoted}; -- it does not allow {column} {}",
                    unknown.join(", ")
                ));
            }
        }
    }
    Ok(misfits)
}
