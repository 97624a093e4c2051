//! Owners and grants of more objects than one transaction should hold locks for.

use std::collections::{BTreeSet, HashMap};

use sqlx::{AssertSqlSafe, Connection, PgConnection, Transaction};

use super::{Found, Run, altered, existing_roles, objects, older};
use crate::{
    manifest::{DumpScope, ObjectOwnership},
    postgres::{inspect::server_version, locks::LockTable, quote::ident},
};

/// Does the larger part of [`apply`](super::apply)'s work in several transactions, so that it needs few locks at once; `apply` afterwards
/// finds little to do and tells what differs. The schemas themselves are left to it, so that owners have no way in before. Does nothing where
/// one transaction will do, and when code was altered, which has to be refused.
///
/// `bodies_pass`: the caller does not refuse functions of which the SQL body alone reads otherwise ([`Applied::bodies`](super::Applied::bodies)).
/// `waits`: the name that the scope's schema has until everything is done, and the role whose empty schema [keeps](keep_name) the recorded one
/// meanwhile. The schema has the recorded name, by which its objects are known, inside each of the transactions alone.
pub async fn apply_in_parts(
    c: &mut PgConnection,
    scope: &DumpScope,
    ownership: &[ObjectOwnership],
    recorded_on: u32,
    bodies_pass: bool,
    waits: Option<(&str, &str)>,
) -> Result<(), sqlx::Error> {
    let ownership = &*older::in_words_of(server_version(c).await?, ownership, recorded_on);
    let recorded: HashMap<(&str, &str), &ObjectOwnership> =
        ownership.iter().map(|o| ((o.kind.as_str(), o.identity.as_str()), o)).collect();
    let mut run = Run { roles: existing_roles(c).await?, ..Run::default() };
    let most = LockTable::look(c).await?.part();
    let waiting = Waiting::of(scope, waits);
    let mut tx = waiting.begin(c).await?;
    let before = objects(&mut tx, scope).await?;
    let superuser: bool = sqlx::query_scalar("SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user")
        .fetch_one(&mut *tx)
        .await?;
    tx.rollback().await?;
    let fits = before.iter().map(|f| f.locks).sum::<i64>() <= most;
    if fits || !altered(&before, &recorded, &mut run).is_empty() || !(bodies_pass || run.bodies.is_empty()) {
        return Ok(());
    }
    if !superuser {
        let owners: BTreeSet<&str> =
            ownership.iter().map(|o| o.owner.as_str()).filter(|o| run.roles.contains(*o)).collect();
        let mut tx = waiting.begin(c).await?;
        for schema in before.iter().filter(|f| f.alter_word == "SCHEMA") {
            let may_create =
                owners.iter().map(|o| format!("GRANT USAGE, CREATE ON SCHEMA {} TO {}", schema.reference, ident(o)));
            let statements: Vec<String> = may_create.collect();
            let _ = run.execute(&mut tx, &statements).await?;
        }
        waiting.commit(tx).await?;
    }
    for part in parts(&before, most) {
        let mut tx = waiting.begin(c).await?;
        for found in part {
            if let Some(wanted) = recorded.get(&found.key()) {
                run.give_owner(&mut tx, found, &wanted.owner).await?;
            }
        }
        waiting.commit(tx).await?;
    }
    let mut tx = waiting.begin(c).await?;
    let owned = objects(&mut tx, scope).await?;
    tx.rollback().await?;
    for part in parts(&owned, most) {
        let mut tx = waiting.begin(c).await?;
        for found in part {
            if let Some(wanted) = recorded.get(&found.key()) {
                run.give_grants(&mut tx, found, wanted).await?;
            }
        }
        waiting.commit(tx).await?;
    }
    Ok(())
}

/// Everything but the schemas, by what one transaction should take: about `most` locks.
fn parts(found: &[Found], most: i64) -> Vec<Vec<&Found>> {
    let (mut parts, mut taken) = (vec![Vec::new()], 0);
    for object in found.iter().filter(|f| f.alter_word != "SCHEMA") {
        if taken > 0 && taken + object.locks > most {
            parts.push(Vec::new());
            taken = 0;
        }
        taken += object.locks;
        parts.last_mut().into_iter().for_each(|part| part.push(object));
    }
    parts
}

/// Makes an empty schema of this name, so that nobody else takes it.
pub fn keep_name(schema: &str, role: &str) -> String {
    format!("CREATE SCHEMA {} AUTHORIZATION {}", ident(schema), ident(role))
}

/// Ends what [`keep_name`] began.
pub fn give_up_name(schema: &str) -> String {
    format!("DROP SCHEMA {} RESTRICT", ident(schema))
}

/// Statements that give the recorded name, and take it away again.
#[derive(Default)]
struct Waiting(Option<(String, String)>);

impl Waiting {
    fn of(scope: &DumpScope, waits: Option<(&str, &str)>) -> Self {
        let (DumpScope::Schema { schema }, Some((waits_as, role))) = (scope, waits) else { return Self::default() };
        let rename = |from: &str, to: &str| format!("ALTER SCHEMA {} RENAME TO {}", ident(from), ident(to));
        Self(Some((
            format!("{}; {}", give_up_name(schema), rename(waits_as, schema)),
            format!("{}; {}", rename(schema, waits_as), keep_name(schema, role)),
        )))
    }

    async fn begin<'c>(&self, c: &'c mut PgConnection) -> Result<Transaction<'c, sqlx::Postgres>, sqlx::Error> {
        let mut tx = c.begin().await?;
        if let Some((rename, _)) = &self.0 {
            sqlx::raw_sql(AssertSqlSafe(rename.clone())).execute(&mut *tx).await?;
        }
        Ok(tx)
    }

    async fn commit(&self, mut tx: Transaction<'_, sqlx::Postgres>) -> Result<(), sqlx::Error> {
        if let Some((_, back)) = &self.0 {
            sqlx::raw_sql(AssertSqlSafe(back.clone())).execute(&mut *tx).await?;
        }
        tx.commit().await
    }
}
