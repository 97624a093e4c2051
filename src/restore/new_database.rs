//! A whole database is restored only into a new one; swapping names is somebody else's decision.
//!
//! While the restore is unfinished the new database belongs to the restore's role: that is how [`roll_back`] knows it as ours.

use std::collections::BTreeSet;

use secrecy::SecretString;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use super::{
    RestoreError, Session, Target, Way, altered,
    given_away::{self, Inside},
    in_place::{Finished, Recovery, rename},
    role::{self, execute},
    script::LeaveOut,
    stage::{self, Stage},
};
use crate::{
    manifest::{DatabaseContent, DumpScope},
    postgres::{
        ownership,
        quote::{ident, literal},
    },
    proof::{self, Surroundings},
};

/// What a database is that nothing was said of.
const AS_MADE: &str = "IS_TEMPLATE false ALLOW_CONNECTIONS true CONNECTION LIMIT -1";

/// A database in the catalog.
pub(super) struct Database {
    pub oid: u32,
    pub owner: u32,
}

pub(super) async fn find(c: &mut PgConnection, database: &str) -> Result<Option<Database>, RestoreError> {
    let row: Option<(i64, i64)> =
        sqlx::query_as("SELECT oid::int8, datdba::int8 FROM pg_catalog.pg_database WHERE datname = $1")
            .bind(database)
            .fetch_optional(c)
            .await?;
    let oid = |number: i64| u32::try_from(number).unwrap_or_default();
    Ok(row.map(|(number, owner)| Database { oid: oid(number), owner: oid(owner) }))
}

pub(super) async fn refuse_existing(c: &mut PgConnection, database: &str) -> Result<(), RestoreError> {
    match find(c, database).await? {
        None => Ok(()),
        Some(_) => Err(RestoreError::new("restore.name_taken", format!("there already is a database {database:?}"))),
    }
}

/// A schema's dump refers to nothing outside it that a new database would not have.
fn refuse_outside_objects(content: &DatabaseContent) -> Result<(), RestoreError> {
    match (&content.scope, content.requirements.objects.first()) {
        (DumpScope::Schema { .. }, Some(needed)) => Err(RestoreError::new(
            "restore.requirement_missing",
            format!(
                "the schema cannot be restored alone: it refers to {} {} and perhaps others",
                needed.kind, needed.identity
            ),
        )),
        _ => Ok(()),
    }
}

/// Makes the role, the database with the encoding and locale of the one that we are connected to, and its extensions.
pub(super) async fn prepare(
    session: &mut Session,
    database: &str,
    content: &DatabaseContent,
    password: &SecretString,
    lifetime_seconds: u64,
) -> Result<LeaveOut, RestoreError> {
    let c = &mut session.c;
    refuse_existing(c, database).await?;
    refuse_outside_objects(content)?;
    let mut tx = c.begin().await?;
    role::create(&mut tx, &session.plan.role, password, lifetime_seconds).await?;
    tx.commit().await?;
    let locale = locale_options(c).await?;
    let role = &session.plan.role;
    execute(c, format!("CREATE DATABASE {} TEMPLATE template0 OWNER {}{locale}", ident(database), ident(role))).await?;
    execute(c, format!("REVOKE ALL ON DATABASE {} FROM PUBLIC", ident(database))).await?;

    let mut target = session.target_connect().connect().await?;
    // `public` comes with every database; the dump of a schema of that name makes its own.
    if let DumpScope::Schema { schema } = &content.scope {
        execute(&mut target, format!("DROP SCHEMA IF EXISTS {} RESTRICT", ident(schema))).await?;
    }
    let mut schemas = BTreeSet::new();
    for extension in &content.requirements.extensions {
        let there: bool = sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = $1)")
            .bind(&extension.schema)
            .fetch_one(&mut target)
            .await?;
        if !there {
            execute(&mut target, format!("CREATE SCHEMA {} AUTHORIZATION {}", ident(&extension.schema), ident(role)))
                .await?;
            schemas.insert(extension.schema.clone());
        }
        let available: Option<bool> = sqlx::query_scalar(
            "SELECT EXISTS (SELECT FROM pg_catalog.pg_available_extension_versions v WHERE v.name = a.name AND v.version = $2) \
             FROM pg_catalog.pg_available_extensions a WHERE a.name = $1",
        )
        .bind(&extension.name)
        .bind(&extension.version)
        .fetch_optional(&mut target)
        .await?;
        let Some(same_version) = available else {
            return Err(RestoreError::new(
                "restore.requirement_missing",
                format!("the backup needs the extension {:?}, which this server does not have", extension.name),
            ));
        };
        // A server without the recorded version gives its own default one, as a plain pg_dump's CREATE EXTENSION would.
        let version = if same_version { format!(" VERSION {}", literal(&extension.version)) } else { String::new() };
        execute(
            &mut target,
            format!(
                "CREATE EXTENSION IF NOT EXISTS {} WITH SCHEMA {}{version} CASCADE",
                ident(&extension.name),
                ident(&extension.schema)
            ),
        )
        .await?;
    }
    _ = target.close().await;
    Ok(LeaveOut {
        schemas,
        extension_comments: true,
        transaction_timeout: session.server_version < 170_000,
        only_tables: None,
    })
}

/// The encoding and locale of the present database as options of `CREATE DATABASE`. The columns that name the provider's locale
/// differ between PostgreSQL 14, 15, 16 and 17.
async fn locale_options(c: &mut PgConnection) -> Result<String, RestoreError> {
    let (encoding, collate, ctype, row): (String, String, String, sqlx::types::Json<serde_json::Value>) =
        sqlx::query_as(
            "SELECT pg_encoding_to_char(encoding)::text, datcollate::text, datctype::text, to_json(d) \
         FROM pg_catalog.pg_database d WHERE datname = current_database()",
        )
        .fetch_one(c)
        .await?;
    let mut options =
        format!(" ENCODING {} LC_COLLATE {} LC_CTYPE {}", literal(&encoding), literal(&collate), literal(&ctype));
    let text = |name: &str| row.0.get(name).and_then(|v| v.as_str()).map(literal);
    let locale = text("datlocale").or_else(|| text("daticulocale"));
    match (row.0.get("datlocprovider").and_then(|v| v.as_str()), locale) {
        (Some("i"), Some(locale)) => options.push_str(&format!(" LOCALE_PROVIDER icu ICU_LOCALE {locale}")),
        (Some("b"), Some(locale)) => options.push_str(&format!(" LOCALE_PROVIDER builtin BUILTIN_LOCALE {locale}")),
        _ => {}
    }
    Ok(options)
}

pub(super) async fn finish(
    session: &mut Session,
    database: &str,
    content: &DatabaseContent,
) -> Result<Finished, RestoreError> {
    let role = session.plan.role.clone();
    let scope = DumpScope::Database { database: database.to_owned() };
    let mut target = shut_target(session, database).await?;
    // Of a schema's backup nothing else in the database was recorded.
    let (owned, surroundings) = match &content.scope {
        schema @ DumpScope::Schema { .. } => (schema, Surroundings::Ignored),
        DumpScope::Database { .. } => (&scope, Surroundings::Compared),
    };
    let found = proof::differences(&mut target, owned, content, surroundings).await;
    altered::refuse_definitions(&mut target, content, session.server_version, &found).await?;
    let mut differences = proof::in_words(found);
    if session.way != Way::OneTransaction {
        let (owners, recorded_on) = (&content.ownership, content.server_version);
        let bodies_pass = altered::bodies_pass(content, session.server_version);
        ownership::apply_in_parts(&mut target, owned, owners, recorded_on, bodies_pass, None).await?;
    }
    let mut tx = target.begin().await?;
    let applied = ownership::apply(&mut tx, owned, &content.ownership, content.server_version).await?;
    altered::refuse_code(content, session.server_version, &applied)?;
    differences.extend(altered::told(content, session.server_version, applied));
    // What nobody could be named for, and the database itself, are ours.
    execute(&mut tx, format!("REASSIGN OWNED BY {} TO CURRENT_USER", ident(&role))).await?;
    execute(&mut tx, format!("DROP OWNED BY {} RESTRICT", ident(&role))).await?;
    forget_what_was_said_of_it(&mut tx, database).await?;
    let everybodys = rights_of_everybody(&mut session.c).await?;
    if !everybodys.is_empty() {
        let rights = everybodys.join(", ");
        execute(&mut tx, format!("GRANT {rights} ON DATABASE {} TO PUBLIC", ident(database))).await?;
    }
    if let (DumpScope::Schema { schema }, Some(becomes)) = (&content.scope, &session.plan.schema_becomes) {
        rename(&mut tx, schema, becomes).await?;
    }
    execute(&mut tx, format!("DROP ROLE {}", ident(&role))).await?;
    let live: String = sqlx::query_scalar("SELECT current_database()::text").fetch_one(&mut session.c).await?;
    let warnings = kept_out(&mut tx, &live, database, &content.requirements.roles).await?.into_iter().collect();
    stage::reached(Stage::Swapping).await;
    tx.commit().await?;
    _ = target.close().await;
    Ok(Finished { schema_oid: None, differences, warnings })
}

/// Who was let into the live database by name, has something to do with what was restored, and has no way into the new one, in words with the
/// remedy: rights to a database are in no dump, and a new one gives them to nobody by name. `concerned`: the roles that the backup names; whoever
/// else may connect may be another tenant's.
async fn kept_out(
    c: &mut PgConnection,
    live: &str,
    database: &str,
    concerned: &[String],
) -> Result<Option<String>, RestoreError> {
    let roles: Vec<String> = sqlx::query_scalar(
        "SELECT DISTINCT r.rolname::text FROM pg_catalog.pg_database d CROSS JOIN LATERAL aclexplode(d.datacl) a \
         JOIN pg_catalog.pg_roles r ON r.oid = a.grantee \
         WHERE d.datname = $1 AND a.privilege_type = 'CONNECT' AND a.grantee <> d.datdba \
         AND NOT has_database_privilege(r.oid, $2::text, 'CONNECT') \
         AND EXISTS (SELECT FROM pg_catalog.pg_roles n WHERE n.rolname::text = ANY ($3) AND pg_has_role(r.oid, n.oid, 'MEMBER')) ORDER BY 1",
    )
    .bind(live)
    .bind(database)
    .bind(concerned)
    .fetch_all(c)
    .await?;
    let named: Vec<String> = roles.iter().map(|role| ident(role)).collect();
    let grant = format!("GRANT CONNECT ON DATABASE {} TO {}", ident(database), named.join(", "));
    let told = format!("{} may connect to the present database and not to the new one: {grant}", named.join(", "));
    Ok(Some(told).filter(|_| !roles.is_empty()))
}

/// What everybody may do with the database that we are connected to, which its platform may have closed: with one made beside it no more.
async fn rights_of_everybody(c: &mut PgConnection) -> Result<Vec<String>, RestoreError> {
    let rights: Vec<String> = sqlx::query_scalar(
        "SELECT DISTINCT a.privilege_type FROM pg_catalog.pg_database d \
         CROSS JOIN LATERAL aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) a \
         WHERE d.datname = current_database() AND a.grantee = 0 AND a.privilege_type IN ('CONNECT', 'TEMPORARY') ORDER BY 1",
    )
    .fetch_all(c)
    .await?;
    Ok(rights)
}

impl Session {
    /// Leaves what was loaded into a new database with the role that loaded it, and ends that role's and everybody's hold on it: no login, no
    /// session, no prepared transaction, no right to the database, and no setting of the database or of the role. For a dump that nobody has a
    /// record of.
    ///
    /// # Errors
    /// The database cannot be reached, or the dump has given its role or what it made away (`restore.outside`).
    pub async fn leave_to_role(&mut self) -> Result<(), RestoreError> {
        let Target::Database { database } = &self.plan.target else {
            return Err(RestoreError::new("restore.not_prepared", "only a new database is left to its role"));
        };
        let (database, role) = (database.clone(), self.plan.role.clone());
        role::disable(&mut self.c, &role).await?;
        let mut target = shut_target(self, &database).await?;
        forget_what_was_said_of_it(&mut target, &database).await?;
        let name = ident(&role);
        execute(&mut target, format!("ALTER ROLE {name} PASSWORD NULL")).await?;
        execute(&mut target, format!("ALTER ROLE {name} RESET ALL")).await?;
        execute(&mut target, format!("ALTER ROLE {name} IN DATABASE {} RESET ALL", ident(&database))).await?;
        _ = target.close().await;
        Ok(())
    }
}

/// A connection to the new database, to which nobody else comes any more, and of which nothing is another's.
pub(super) async fn shut_target(session: &Session, database: &str) -> Result<PgConnection, RestoreError> {
    let mut target = session.target_connect().connect().await?;
    given_away::shut(&mut target, database).await?;
    if let Some(oid) = role::oid(&mut target, &session.plan.role).await? {
        given_away::refuse(&mut target, oid, Inside::Database).await?;
    }
    Ok(target)
}

/// A dump without `--create` says nothing of its database; one that has done so all the same, as its owner, has given a search path to whoever
/// connects, or rights to whom it liked.
async fn forget_what_was_said_of_it(c: &mut PgConnection, database: &str) -> Result<(), RestoreError> {
    let name = ident(database);
    execute(c, format!("ALTER DATABASE {name} RESET ALL")).await?;
    execute(c, format!("ALTER DATABASE {name} WITH {AS_MADE}")).await?;
    revoke_all(c, database).await
}

/// Takes every right to a database from everybody but its owner.
pub(super) async fn revoke_all(c: &mut PgConnection, database: &str) -> Result<(), RestoreError> {
    let name = ident(database);
    let grantees: Vec<Option<String>> = sqlx::query_scalar(
        "SELECT DISTINCT r.rolname::text FROM pg_catalog.pg_database d CROSS JOIN LATERAL aclexplode(d.datacl) a \
         LEFT JOIN pg_catalog.pg_roles r ON r.oid = a.grantee WHERE d.datname = $1 AND a.grantee <> d.datdba",
    )
    .bind(database)
    .fetch_all(&mut *c)
    .await?;
    for grantee in grantees {
        let whom = grantee.map_or_else(|| "PUBLIC".to_owned(), |role| ident(&role));
        execute(c, format!("REVOKE ALL ON DATABASE {name} FROM {whom} CASCADE")).await?;
    }
    Ok(())
}

/// Takes out of the way what a dump can have left to keep its database: transactions that it prepared, and what a database's owner may say
/// of it.
async fn make_droppable(session: &mut Session, database: &str) -> Result<(), RestoreError> {
    let (is_kept, is_prepared): (bool, bool) = sqlx::query_as(
        // A limit of -2 marks a database of which a DROP was interrupted: nothing but another DROP may touch it.
        "SELECT d.datconnlimit <> -2 AND (d.datistemplate OR NOT d.datallowconn OR d.datconnlimit >= 0), \
                EXISTS (SELECT FROM pg_catalog.pg_prepared_xacts x WHERE x.database = d.datname) \
         FROM pg_catalog.pg_database d WHERE d.datname = $1",
    )
    .bind(database)
    .fetch_one(&mut session.c)
    .await?;
    if is_kept {
        execute(&mut session.c, format!("ALTER DATABASE {} WITH {AS_MADE}", ident(database))).await?;
    }
    if is_prepared {
        // A time limit of one millisecond, for one.
        execute(&mut session.c, format!("ALTER DATABASE {} RESET ALL", ident(database))).await?;
        let mut target = session.target_connect().connect().await?;
        role::roll_back_prepared_by(&mut target, None).await?;
        _ = target.close().await;
    }
    Ok(())
}

/// Drops what belongs to a restore. Only what stays in it is forced out: `FORCE` also takes autovacuum's workers for sessions, which a role that is no
/// superuser may not end. Without it PostgreSQL ends them itself and waits five seconds (`CountOtherDBBackends` in procarray.c).
async fn drop_database(c: &mut PgConnection, database: &str) -> Result<(), RestoreError> {
    const OBJECT_IN_USE: &str = "55006";
    let drop = format!("DROP DATABASE {}", ident(database));
    match sqlx::raw_sql(AssertSqlSafe(drop.clone())).execute(&mut *c).await {
        Err(sqlx::Error::Database(refusal)) if refusal.code().as_deref() == Some(OBJECT_IN_USE) => {
            execute(c, format!("{drop} WITH (FORCE)")).await
        }
        done => Ok(done.map(|_| ())?),
    }
}

pub(super) async fn roll_back(
    session: &mut Session,
    database: &str,
    role_oid: Option<u32>,
) -> Result<Recovery, RestoreError> {
    let found = find(&mut session.c, database).await?;
    if role_oid.is_none() {
        let is_made = session.plan.made.is_some() && found.map(|found| found.oid) == session.plan.made;
        return Ok(if is_made { Recovery::Finished } else { Recovery::Nothing });
    }
    if found.map(|found| found.owner) == role_oid {
        make_droppable(session, database).await?;
        drop_database(&mut session.c, database).await?;
    }
    role::drop(&mut session.c, &session.plan.role).await?;
    Ok(Recovery::RolledBack)
}
