//! The administrator's side of a restore: making room, giving back, taking back.

use sqlx::{Connection as _, PgConnection};
use tokio_util::sync::CancellationToken;

use super::{
    Plan, RestoreError, Session, Target, grants, is_side_name, new_database,
    references::from_outside,
    role::{self, execute},
    script::LeaveOut,
};
use crate::{
    manifest::{DatabaseContent, DumpScope, SequenceValue, TableRows},
    postgres::{inspect, ownership, quote::ident},
};

/// A schema in the catalog.
pub(super) struct Schema {
    pub oid: u32,
    pub owner: u32,
}

pub(super) async fn schema(c: &mut PgConnection, name: &str) -> Result<Option<Schema>, sqlx::Error> {
    let row: Option<(i64, i64)> =
        sqlx::query_as("SELECT oid::int8, nspowner::int8 FROM pg_catalog.pg_namespace WHERE nspname = $1")
            .bind(name)
            .fetch_optional(c)
            .await?;
    let oid = |number: i64| u32::try_from(number).unwrap_or_default();
    Ok(row.map(|(number, owner)| Schema { oid: oid(number), owner: oid(owner) }))
}

/// What a finished restore came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished {
    /// The restored schema's oid; `None` for a database.
    pub schema_oid: Option<u32>,
    /// Where what is there differs from what was recorded when the backup was made. Empty: verified.
    pub differences: Vec<String>,
}

/// What [`Session::roll_back`] found and did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recovery {
    /// Nothing of the restore was there (any more). Also the answer when a restore had finished that replaced no schema: then there
    /// is nothing to tell it by, and restoring again harms nothing.
    Nothing,
    /// Everything is as it was before.
    RolledBack,
    /// The restore had been finished; nothing was changed. Record it as completed.
    Finished,
}

/// What an undo came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Undone {
    /// The name and oid of the schema that was taken out of use; drop it by [`Session::drop_side`] when its time is over.
    pub kept: Option<(String, u32)>,
}

impl Session {
    /// Makes the role and the room for the dump. What can be refused is refused before anything is touched; then all is done in one
    /// transaction. Returns warnings: who outside the schema will go on pointing at the replaced one.
    ///
    /// # Errors
    /// `restore.changed` when the schema is not the planned one any more, `restore.unfinished` when a former attempt was not rolled
    /// back, `restore.extension_inside`, `restore.requirement_missing`, or the server's refusal.
    pub async fn prepare(
        &mut self,
        content: &DatabaseContent,
        lifetime_seconds: u64,
    ) -> Result<Vec<String>, RestoreError> {
        let password = role::random_password();
        if role::oid(&mut self.c, &self.plan.role).await?.is_some() {
            return Err(RestoreError::new(
                "restore.unfinished",
                "a former attempt of this restore was not rolled back",
            ));
        }
        let plan = self.plan.clone();
        let warnings = match &plan.target {
            Target::Schema { schema: name, live_oid, side } => {
                let live = schema(&mut self.c, name).await?;
                if live.map(|s| s.oid) != *live_oid {
                    return Err(changed(name));
                }
                if schema(&mut self.c, side).await?.is_some() {
                    return Err(RestoreError::new("restore.unfinished", format!("there already is a schema {side:?}")));
                }
                grants::check_extensions(&mut self.c, name, content).await?;
                let warnings = match live_oid {
                    Some(oid) => from_outside(&mut self.c, *oid, true)
                        .await?
                        .into_iter()
                        .map(|what| format!("{what} refers to the replaced schema and will go on doing so"))
                        .collect(),
                    None => Vec::new(),
                };
                let mut tx = self.c.begin().await?;
                role::create(&mut tx, &plan.role, &password, lifetime_seconds).await?;
                if live_oid.is_some() {
                    execute(&mut tx, format!("ALTER SCHEMA {} RENAME TO {}", ident(name), ident(side))).await?;
                    if schema(&mut tx, side).await?.map(|s| s.oid) != *live_oid {
                        return Err(changed(name));
                    }
                }
                execute(&mut tx, format!("CREATE SCHEMA {} AUTHORIZATION {}", ident(name), ident(&plan.role))).await?;
                grants::give(&mut tx, &plan.role, content).await?;
                tx.commit().await?;
                self.leave_out = LeaveOut {
                    schemas: [name.clone()].into(),
                    extension_comments: false,
                    transaction_timeout: self.server_version < 170_000,
                };
                warnings
            }
            Target::Database { database } => {
                self.leave_out = new_database::prepare(self, database, content, &password, lifetime_seconds).await?;
                Vec::new()
            }
        };
        self.password = Some(password);
        self.dumped_by = content.tool_version;
        Ok(warnings)
    }

    /// Counts what was loaded, then gives owners and grants back and drops the role, in one transaction: after it the restore is done.
    ///
    /// # Errors
    /// Then nothing was changed: call [`roll_back`](Self::roll_back), after a cancellation or a lost connection in a new session (the old
    /// one may still be counting). `restore.outside` when the dump made objects outside its
    /// target; `restore.cancelled`.
    pub async fn finish(
        &mut self,
        content: &DatabaseContent,
        cancel: &CancellationToken,
    ) -> Result<Finished, RestoreError> {
        tokio::select! {
            finished = self.finish_uncancelled(content) => finished,
            () = cancel.cancelled() => Err(RestoreError::cancelled()),
        }
    }

    async fn finish_uncancelled(&mut self, content: &DatabaseContent) -> Result<Finished, RestoreError> {
        let plan = self.plan.clone();
        role::disable(&mut self.c, &plan.role).await?;
        let Some(role_oid) = role::oid(&mut self.c, &plan.role).await? else {
            return Err(RestoreError::new("restore.not_prepared", "the role of this restore is not there"));
        };
        let (name, live_oid) = match &plan.target {
            Target::Database { database } => return new_database::finish(self, database, content).await,
            Target::Schema { schema, live_oid, .. } => (schema, *live_oid),
        };
        let new_oid = match schema(&mut self.c, name).await? {
            Some(new) if new.owner == role_oid && Some(new.oid) != live_oid => new.oid,
            _ => return Err(changed(name)),
        };
        refuse_outside(&mut self.c, role_oid, Some(new_oid)).await?;
        let scope = DumpScope::Schema { schema: name.clone() };
        let mut differences = count(&mut self.c, &scope, content).await;

        let mut tx = self.c.begin().await?;
        execute(&mut tx, LOCK_TIMEOUT.to_owned()).await?;
        let applied = ownership::apply(&mut tx, &scope, &content.ownership, content.server_version).await?;
        refuse_altered(&applied.altered)?;
        differences.extend(applied.differences);
        give_away_the_rest(&mut tx, &plan, new_oid).await?;
        tx.commit().await?;
        Ok(Finished { schema_oid: Some(new_oid), differences })
    }

    /// Puts everything back as it was before the restore, from whatever point it had reached. Decides from the catalog, so a worker
    /// that has only the plan can do it, and a second call does nothing.
    ///
    /// # Errors
    /// The database cannot be reached, or refuses: call it again. `restore.name_taken` when somebody else has made a schema under the
    /// tenant's name meanwhile.
    pub async fn roll_back(&mut self) -> Result<Recovery, RestoreError> {
        self.password = None;
        let plan = self.plan.clone();
        let role_oid = role::oid(&mut self.c, &plan.role).await?;
        if role_oid.is_some() {
            role::disable(&mut self.c, &plan.role).await?;
        }
        let (name, live_oid, side) = match &plan.target {
            Target::Database { database } => return new_database::roll_back(self, database, role_oid).await,
            Target::Schema { schema, live_oid, side } => (schema, *live_oid, side),
        };
        let now = schema(&mut self.c, name).await?;
        let kept = schema(&mut self.c, side).await?.filter(|s| Some(s.oid) == live_oid);
        let is_ours = now.as_ref().is_some_and(|s| Some(s.owner) == role_oid && Some(s.oid) != live_oid);
        if kept.is_some() && role_oid.is_none() && now.is_some() {
            return Ok(Recovery::Finished);
        }
        if kept.is_some() && now.is_some() && !is_ours {
            return Err(RestoreError::new(
                "restore.name_taken",
                format!("{name:?} is a schema that this restore did not make; the tenant's own waits as {side:?}"),
            ));
        }
        if is_ours || kept.is_some() {
            let mut tx = self.c.begin().await?;
            execute(&mut tx, LOCK_TIMEOUT.to_owned()).await?;
            if is_ours {
                execute(&mut tx, format!("DROP SCHEMA {} CASCADE", ident(name))).await?;
            }
            if kept.is_some() {
                execute(&mut tx, format!("ALTER SCHEMA {} RENAME TO {}", ident(side), ident(name))).await?;
            }
            tx.commit().await?;
        }
        // On its own: the tenant has its data back even if the role cannot be dropped.
        role::drop(&mut self.c, &plan.role).await?;
        Ok(if is_ours || kept.is_some() || role_oid.is_some() { Recovery::RolledBack } else { Recovery::Nothing })
    }

    /// Swaps the replaced schema back, in one transaction. A second call changes nothing and answers the same.
    ///
    /// `restored_oid`: what [`finish`](Self::finish) said; when the live schema is another one by now (a later restore), the undo is
    /// refused.
    ///
    /// # Errors
    /// `restore.changed`, `restore.unfinished`, `restore.undo_over` when the replaced schema is gone.
    pub async fn undo(&mut self, restored_oid: Option<u32>) -> Result<Undone, RestoreError> {
        let plan = self.plan.clone();
        let Target::Schema { schema: name, live_oid, side } = &plan.target else {
            return Err(RestoreError::new(
                "restore.undo_over",
                "a restore into a new database replaced nothing: drop that database",
            ));
        };
        if role::oid(&mut self.c, &plan.role).await?.is_some() {
            return Err(RestoreError::new(
                "restore.unfinished",
                "the restore is not finished: it is rolled back, not undone",
            ));
        }
        let undone = plan.undone_name();
        let mut tx = self.c.begin().await?;
        let now = schema(&mut tx, name).await?;
        let kept = schema(&mut tx, side).await?.filter(|s| Some(s.oid) == *live_oid);
        let done = schema(&mut tx, &undone).await?;
        let now_oid = now.as_ref().map(|s| s.oid);
        if now_oid == *live_oid && kept.is_none() {
            // Undone before, or never done.
            return Ok(Undone { kept: done.map(|s| (undone, s.oid)) });
        }
        if live_oid.is_some() && kept.is_none() {
            return Err(RestoreError::new("restore.undo_over", format!("the schema {side:?} is not there any more")));
        }
        if now.is_some() && restored_oid.is_some() && now_oid != restored_oid {
            return Err(changed(name));
        }
        if now.is_some() {
            execute(&mut tx, format!("ALTER SCHEMA {} RENAME TO {}", ident(name), ident(&undone))).await?;
        }
        if kept.is_some() {
            execute(&mut tx, format!("ALTER SCHEMA {} RENAME TO {}", ident(side), ident(name))).await?;
        }
        tx.commit().await?;
        Ok(Undone { kept: now_oid.map(|oid| (undone, oid)) })
    }

    /// Drops a schema that a restore or an undo took out of use, when its time is over. `Ok(false)`: it is gone already.
    ///
    /// # Errors
    /// `restore.not_a_side_schema` when the name is not one of ours or the oid is another; `restore.referenced` with the list when
    /// objects of other schemas would be dropped with it.
    pub async fn drop_side(&mut self, name: &str, oid: u32) -> Result<bool, RestoreError> {
        if !is_side_name(name) {
            return Err(RestoreError::new(
                "restore.not_a_side_schema",
                format!("{name:?} is not the name of a replaced schema"),
            ));
        }
        let mut tx = self.c.begin().await?;
        // A transaction that still reads the old tables is not worth waiting for with everyone else behind us: try again later.
        execute(&mut tx, "SET LOCAL lock_timeout = '30s'".to_owned()).await?;
        match schema(&mut tx, name).await? {
            None => return Ok(false),
            Some(found) if found.oid != oid => {
                let message = format!("the schema {name:?} is not the one that was replaced");
                return Err(RestoreError::new("restore.not_a_side_schema", message));
            }
            Some(_) => {}
        }
        let outside = from_outside(&mut tx, oid, false).await?;
        if !outside.is_empty() {
            return Err(RestoreError::new(
                "restore.referenced",
                format!("the replaced schema {name:?} cannot be dropped, others refer to it: {}", outside.join(", ")),
            ));
        }
        execute(&mut tx, format!("DROP SCHEMA {} CASCADE", ident(name))).await?;
        tx.commit().await?;
        Ok(true)
    }
}

/// Dropping or giving away may need locks on other schemas' tables (foreign keys): whoever waits for one makes everybody else wait behind
/// it. After this long the step fails, and is tried again.
const LOCK_TIMEOUT: &str = "SET LOCAL lock_timeout = '30s'";

/// While a dump was loaded, everything belonged to the restore's role: also functions that are the platform's. A hostile row's check
/// constraint could have replaced one, to have it run with its owner's rights. Then nothing is given back.
pub(super) fn refuse_altered(altered: &[String]) -> Result<(), RestoreError> {
    if altered.is_empty() {
        return Ok(());
    }
    Err(RestoreError::new(
        "restore.altered",
        format!("the dump changed code that is not its own while it was loaded: {}", altered.join(", ")),
    ))
}

fn changed(name: &str) -> RestoreError {
    RestoreError::new(
        "restore.changed",
        format!("the schema {name:?} is not the one that this restore was planned for"),
    )
}

/// Refuses what a dump made outside its target: objects of the role in other schemas (where everybody may create), large objects.
pub(super) async fn refuse_outside(c: &mut PgConnection, role: u32, inside: Option<u32>) -> Result<(), RestoreError> {
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
    .bind(inside.map_or(0, i64::from))
    .fetch_all(c)
    .await?;
    if inside.is_none() || outside.is_empty() {
        return Ok(());
    }
    Err(RestoreError::new(
        "restore.outside",
        format!("the dump made objects outside its schema: {}", outside.join(", ")),
    ))
}

/// What nobody could be named for goes to the restored schema's owner; if that is the role itself, to us. Then drops the role.
async fn give_away_the_rest(c: &mut PgConnection, plan: &Plan, schema_oid: u32) -> Result<(), RestoreError> {
    let heir: String = sqlx::query_scalar(
        "SELECT CASE WHEN pg_get_userbyid(nspowner) = $2 THEN current_user::text ELSE pg_get_userbyid(nspowner)::text END \
         FROM pg_catalog.pg_namespace WHERE oid = $1::int8::oid",
    )
    .bind(i64::from(schema_oid))
    .bind(&plan.role)
    .fetch_one(&mut *c)
    .await?;
    execute(c, format!("REASSIGN OWNED BY {} TO {}", ident(&plan.role), ident(&heir))).await?;
    execute(c, format!("DROP OWNED BY {} RESTRICT", ident(&plan.role))).await?;
    execute(c, format!("DROP ROLE {}", ident(&plan.role))).await
}

/// Compares the tables' rows and the sequences with what was counted when the backup was made.
pub(super) async fn count(c: &mut PgConnection, scope: &DumpScope, content: &DatabaseContent) -> Vec<String> {
    let counted = async {
        let tables = inspect::table_rows(c, scope).await?;
        let table_count = inspect::table_count(c, scope).await?;
        let sequences = inspect::sequences(c, scope).await?;
        let descending: Vec<(String, String)> = sqlx::query_as(
            "SELECT n.nspname::text, c.relname::text FROM pg_catalog.pg_sequence s \
             JOIN pg_catalog.pg_class c ON c.oid = s.seqrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
             WHERE s.seqincrement < 0",
        )
        .fetch_all(c)
        .await?;
        Ok::<_, sqlx::Error>((tables, table_count, sequences, descending))
    };
    match counted.await {
        Ok((tables, table_count, sequences, descending)) => {
            compare(content, &tables, table_count, &sequences, &descending)
        }
        Err(e) => vec![format!("the restored tables could not be counted: {e}")],
    }
}

/// Whether a sequence stands where it was recorded, or further on in its own direction.
fn is_at_or_further(now: &SequenceValue, then: &SequenceValue, descending: &[(String, String)]) -> bool {
    let is_descending = descending.iter().any(|(schema, name)| *schema == now.schema && *name == now.sequence);
    match now.last_value.cmp(&then.last_value) {
        std::cmp::Ordering::Equal => now.is_called >= then.is_called,
        std::cmp::Ordering::Greater => !is_descending,
        std::cmp::Ordering::Less => is_descending,
    }
}

/// Pure: what differs between the record and what was found.
fn compare(
    content: &DatabaseContent,
    tables: &[TableRows],
    table_count: u64,
    sequences: &[SequenceValue],
    descending: &[(String, String)],
) -> Vec<String> {
    let mut differences = Vec::new();
    if table_count != content.table_count {
        differences.push(format!("{table_count} tables instead of {}", content.table_count));
    }
    let name = |schema: &str, table: &str| format!("{}.{}", ident(schema), ident(table));
    let found: std::collections::BTreeMap<_, _> = tables.iter().map(|t| ((&t.schema, &t.table), t.rows)).collect();
    for expected in &content.tables {
        let table = name(&expected.schema, &expected.table);
        match found.get(&(&expected.schema, &expected.table)) {
            None => differences.push(format!("table {table} is not there")),
            Some(rows) if *rows != expected.rows => {
                differences.push(format!("table {table} has {rows} rows instead of {}", expected.rows));
            }
            Some(_) => {}
        }
    }
    let expected: std::collections::BTreeSet<_> = content.tables.iter().map(|t| (&t.schema, &t.table)).collect();
    for extra in tables.iter().filter(|t| !expected.contains(&(&t.schema, &t.table))) {
        differences.push(format!("table {} was not in the backup", name(&extra.schema, &extra.table)));
    }
    for expected in &content.sequences {
        let sequence = name(&expected.schema, &expected.sequence);
        match sequences.iter().find(|s| s.schema == expected.schema && s.sequence == expected.sequence) {
            None => differences.push(format!("sequence {sequence} is not there")),
            // Sequences keep to no snapshot: on a busy tenant the dump reads them a little later than we do.
            Some(s) if !is_at_or_further(s, expected, descending) => {
                differences
                    .push(format!("sequence {sequence} stands at {} instead of {}", s.last_value, expected.last_value));
            }
            Some(_) => {}
        }
    }
    differences
}
