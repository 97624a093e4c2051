//! `holdfast grants`: SQL for the roles that Holdfast needs, to be read and run by a database administrator.

use super::Failure;
use crate::{
    postgres::quote::{ident, literal},
    report,
};

/// Print SQL that makes a dump role and a restore administrator.
///
/// Run it as a superuser in every database that holds tenants, and again when tenants get new owners: a restore gives objects back
/// only to owners that its role is a member of. Nothing is connected to here. With neither option, both roles are printed with their
/// default names. A project has one URL: give one name to both options, unless it is only ever backed up.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  holdfast grants | psql \"$ADMIN_URL\"
  holdfast grants --dump-role backup > dump-role.sql
  holdfast grants --dump-role holdfast --restore-role holdfast       one role for both")]
pub struct Args {
    /// Reads every tenant [default: holdfast_dump].
    #[arg(long, value_name = "ROLE")]
    dump_role: Option<String>,
    /// Restores tenants [default: holdfast_restore].
    #[arg(long, value_name = "ROLE")]
    restore_role: Option<String>,
}

pub fn run(args: Args) -> anyhow::Result<()> {
    for role in [&args.dump_role, &args.restore_role].into_iter().flatten() {
        // Braces and the dollar quote would end what they are put into.
        if role.is_empty() || role.len() > 63 || role.contains(['{', '}', '$', '\0']) {
            let message = format!("{:?} is not taken as the name of a role", role.chars().take(80).collect::<String>());
            return Err(Failure::refused("usage", message)
                .hint("Use at most 63 bytes without braces and dollar signs.")
                .into());
        }
    }
    report::print(&sql(&args))
}

fn sql(args: &Args) -> String {
    let (dump, restore) = match (&args.dump_role, &args.restore_role) {
        (None, None) => (Some("holdfast_dump"), Some("holdfast_restore")),
        (dump, restore) => (dump.as_deref(), restore.as_deref()),
    };
    let mut sql = HEAD.to_owned();
    for (role, part) in [(dump, DUMP), (restore, RESTORE)] {
        if let Some(role) = role {
            let filled = [MAKE, part].concat();
            sql.push_str(&filled.replace("{role}", &ident(role)).replace("{role_text}", literal(role).trim()));
        }
    }
    sql
}

const HEAD: &str = "\
-- Roles for Holdfast. Run as a superuser in every database that holds tenants, and again when tenants get new owners.
-- The roles have no password yet: set one with \\password, or let pg_hba.conf admit them otherwise.
-- The role in Holdfast's DATABASE_URL also owns the schema control_plane: it needs CREATE on that database once.
";

const MAKE: &str = "
DO $holdfast$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = {role_text}) THEN
        CREATE ROLE {role} LOGIN;
    END IF;
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO %I', current_database(), {role_text});
END $holdfast$;
";

/// `pg_read_all_data` is SELECT on every table and sequence and USAGE on every schema, from PostgreSQL 14 on; it does not cover
/// row-level security (postgresql.org/docs/current/predefined-roles.html).
const DUMP: &str = "
-- Dump role: reads everything, and is not kept from rows by row-level security. It can change nothing.
GRANT pg_read_all_data TO {role};
ALTER ROLE {role} BYPASSRLS;
";

/// `ALTER SCHEMA … RENAME` needs ownership of the schema and CREATE on the database; giving objects to an owner needs membership in
/// that role (postgresql.org/docs/current/sql-alterschema.html, sql-altertable.html). From PostgreSQL 16 on a membership says what it
/// is good for, and one that is there keeps what it said unless told otherwise (sql-grant.html). A whole database is restored, and a backup is
/// tried out, in a database made for it (sql-createdatabase.html).
const RESTORE: &str = "
-- Restore administrator: makes a restricted role and a new schema for each restore, renames the tenant's schema away, and gives
-- the restored objects back to their owners. So it must be a member of those owners, but never of a superuser. It makes a database
-- to try a backup out (verify --depth restore) and to restore a whole one.
ALTER ROLE {role} CREATEROLE CREATEDB;
DO $holdfast$
DECLARE
    owner_name text;
    owner_is_superuser boolean;
BEGIN
    EXECUTE format('GRANT CREATE ON DATABASE %I TO %I', current_database(), {role_text});
    FOR owner_name, owner_is_superuser IN
        SELECT r.rolname, r.rolsuper
        FROM pg_catalog.pg_roles r
        WHERE r.rolname <> {role_text} AND r.rolname !~ '^pg_' AND r.oid IN (
            SELECT n.nspowner FROM pg_catalog.pg_namespace n WHERE n.nspname ~ '^tenant_'
            UNION SELECT c.relowner FROM pg_catalog.pg_class c
                JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname ~ '^tenant_'
            UNION SELECT p.proowner FROM pg_catalog.pg_proc p
                JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname ~ '^tenant_'
            UNION SELECT t.typowner FROM pg_catalog.pg_type t
                JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace WHERE n.nspname ~ '^tenant_')
        ORDER BY 1
    LOOP
        IF owner_is_superuser THEN
            RAISE WARNING 'superuser % owns objects of tenants: they can be given back only by a superuser', owner_name;
        ELSIF current_setting('server_version_num')::int >= 160000 THEN
            EXECUTE format('GRANT %I TO %I WITH INHERIT TRUE, SET TRUE', owner_name, {role_text});
        ELSE
            EXECUTE format('GRANT %I TO %I', owner_name, {role_text});
        END IF;
    END LOOP;
END $holdfast$;
-- Tenants whose schema is not named tenant_…: GRANT their owners too, as in  GRANT owner TO {role};
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn role_names_are_quoted() {
        let args = Args { dump_role: Some("o'r\"x".to_owned()), restore_role: None };
        let sql = sql(&args);
        assert!(sql.contains("CREATE ROLE \"o'r\"\"x\" LOGIN") && sql.contains("'o''r\"x'"), "{sql}");
        assert!(!sql.contains("CREATEROLE"));
    }
}
