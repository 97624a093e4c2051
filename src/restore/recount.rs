//! Looking again at what a restore has brought: for a restore whose end was lost, and for trials.

use sqlx::Connection as _;

use super::{
    RestoreError, Session, Target,
    in_place::{count, schema},
};
use crate::manifest::{DatabaseContent, DumpScope};

impl Session {
    /// What differs between the target's tables, rows and sequences and the record. Changes nothing.
    pub async fn recount(&mut self, content: &DatabaseContent) -> Vec<String> {
        match &self.plan.target {
            Target::Schema { schema, .. } => {
                let scope = DumpScope::Schema { schema: schema.clone() };
                count(&mut self.c, &scope, content).await
            }
            Target::Database { database } => {
                let scope = DumpScope::Database { database: database.clone() };
                match self.target_connect().connect().await {
                    Ok(mut target) => {
                        let differences = count(&mut target, &scope, content).await;
                        _ = target.close().await;
                        differences
                    }
                    Err(error) => vec![format!("the restored tables could not be counted: {error}")],
                }
            }
        }
    }

    /// The oid of the schema that is live under the target's name now; `None` for a database.
    ///
    /// # Errors
    /// The database cannot be reached.
    pub async fn restored_oid(&mut self) -> Result<Option<u32>, RestoreError> {
        match &self.plan.target {
            Target::Schema { schema: name, .. } => Ok(schema(&mut self.c, name).await?.map(|found| found.oid)),
            Target::Database { .. } => Ok(None),
        }
    }
}
