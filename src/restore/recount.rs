//! Looking again at what a restore has brought: for a restore whose end was lost, and for trials.

use sqlx::Connection as _;

use super::{RestoreError, Session, Target, Way, altered, in_place::schema, new_database, role};
use crate::{
    manifest::{DatabaseContent, DumpScope},
    postgres::ownership,
    proof::{self, Difference, Surroundings},
};

/// What a trial has shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trial {
    /// Between the proof and what was restored.
    pub differences: Vec<Difference>,
    /// Between recorded and given owners and grants, in words.
    pub of_owners: Vec<String>,
}

impl Session {
    /// What differs between the target and the record: content, definitions, owners and grants. Changes nothing.
    pub async fn recount(&mut self, content: &DatabaseContent) -> Vec<String> {
        match &self.plan.target {
            Target::Schema { schema, .. } => {
                let scope = DumpScope::Schema { schema: schema.clone() };
                compare(&mut self.c, &scope, content).await
            }
            Target::Database { database } => {
                let scope = scope_within(database, content);
                match self.target_connect().connect().await {
                    Ok(mut target) => {
                        let differences = compare(&mut target, &scope, content).await;
                        _ = target.close().await;
                        differences
                    }
                    Err(error) => vec![format!("the restored tables could not be counted: {error}")],
                }
            }
        }
    }

    /// For a trial in a database of its own: shuts the restore's role out, gives owners and grants back as a restore would, and compares. The
    /// caller rolls back, which drops the database.
    ///
    /// # Errors
    /// The database cannot be read, or the dump has replaced code (`restore.altered`) or given its role away (`restore.outside`).
    pub async fn prove(&mut self, content: &DatabaseContent) -> Result<Trial, RestoreError> {
        let Target::Database { database } = &self.plan.target else {
            return Err(RestoreError::new("restore.not_prepared", "a trial goes into a database of its own"));
        };
        let (database, role) = (database.clone(), self.plan.role.clone());
        role::disable(&mut self.c, &role).await?;
        let scope = scope_within(&database, content);
        let mut target = new_database::shut_target(self, &database).await?;
        let found = proof::differences(&mut target, &scope, content, Surroundings::Ignored).await;
        altered::refuse_definitions(&mut target, content, self.server_version, &found).await?;
        let differences = found?;
        if self.way != Way::OneTransaction {
            let (owners, recorded_on) = (&content.ownership, content.server_version);
            let bodies_pass = altered::bodies_pass(content, self.server_version);
            ownership::apply_in_parts(&mut target, &scope, owners, recorded_on, bodies_pass, None).await?;
        }
        let mut tx = target.begin().await?;
        let applied = ownership::apply(&mut tx, &scope, &content.ownership, content.server_version).await?;
        altered::refuse_code(content, self.server_version, &applied)?;
        tx.commit().await?;
        _ = target.close().await;
        Ok(Trial { differences, of_owners: altered::told(content, self.server_version, applied) })
    }

    /// The oid of the restored schema, or, where the plan does not tell it, of the one that has its name now; `None` for a database.
    ///
    /// # Errors
    /// The database cannot be reached.
    pub async fn restored_oid(&mut self) -> Result<Option<u32>, RestoreError> {
        match &self.plan.target {
            Target::Schema { .. } if self.plan.made.is_some() => Ok(self.plan.made),
            Target::Schema { schema: name, .. } => Ok(schema(&mut self.c, name).await?.map(|found| found.oid)),
            Target::Database { .. } => Ok(None),
        }
    }
}

/// The restored scope in a database of its own: a schema keeps its name.
fn scope_within(database: &str, content: &DatabaseContent) -> DumpScope {
    match &content.scope {
        DumpScope::Schema { schema } => DumpScope::Schema { schema: schema.clone() },
        DumpScope::Database { .. } => DumpScope::Database { database: database.to_owned() },
    }
}

async fn compare(c: &mut sqlx::PgConnection, scope: &DumpScope, content: &DatabaseContent) -> Vec<String> {
    let mut differences = proof::in_words(proof::differences(c, scope, content, Surroundings::Compared).await);
    match ownership::differences(c, scope, &content.ownership, content.server_version).await {
        Ok(of_owners) => differences.extend(of_owners),
        Err(error) => differences.push(format!("owners and grants could not be compared: {error}")),
    }
    differences
}
