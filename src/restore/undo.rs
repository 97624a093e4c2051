//! Taking a restore back within its window, and dropping what is kept when the window is over.

use sqlx::Connection as _;

use super::{
    RestoreError, Session, Target,
    in_place::{LOCK_TIMEOUT, changed, rename, schema},
    is_side_name,
    parts::drop_in_parts,
    references::{from_outside, said},
    role::{self, execute},
};
use crate::postgres::quote::ident;

/// What an undo came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Undone {
    /// The name and oid of the schema that was taken out of use; drop it by [`Session::drop_side`] when its time is over.
    pub kept: Option<(String, u32)>,
    /// What outside refers to the schema that was taken out of use, and goes on doing so.
    pub detached: Vec<String>,
}

impl Session {
    /// Swaps the replaced schema back, in one transaction. A second call changes nothing and answers the same.
    ///
    /// `restored_oid`: what [`finish`](Self::finish) said; when the live schema is another one by now (a later restore), the undo is
    /// refused.
    ///
    /// # Errors
    /// `restore.changed`, `restore.unfinished`, `restore.undo_over` when the replaced schema is gone.
    pub async fn undo(&mut self, restored_oid: Option<u32>) -> Result<Undone, RestoreError> {
        let plan = self.plan.clone();
        let Target::Schema { schema: name, live_oid, side, beside: None } = &plan.target else {
            return Err(RestoreError::new(
                "restore.undo_over",
                "the restore replaced nothing: drop the database or the schema that it made",
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
            return Ok(Undone { kept: done.map(|s| (undone, s.oid)), detached: Vec::new() });
        }
        if live_oid.is_some() && kept.is_none() {
            return Err(RestoreError::new("restore.undo_over", format!("the schema {side:?} is not there any more")));
        }
        if now.is_some() && restored_oid.is_some() && now_oid != restored_oid {
            return Err(changed(name));
        }
        // Told and not refused: an undo is for the hour of need.
        let detached = match now_oid {
            Some(oid) => from_outside(&mut tx, oid, true).await?.into_iter().map(|reference| reference.said).collect(),
            None => Vec::new(),
        };
        if now.is_some() {
            rename(&mut tx, name, &undone).await?;
        }
        if kept.is_some() {
            rename(&mut tx, side, name).await?;
        }
        tx.commit().await?;
        Ok(Undone { kept: now_oid.map(|oid| (undone, oid)), detached })
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
        let mut dropped_parts = false;
        loop {
            let mut tx = self.c.begin().await?;
            // A transaction that still reads the old tables is not worth waiting for with everyone else behind us: try again later.
            execute(&mut tx, LOCK_TIMEOUT.to_owned()).await?;
            match schema(&mut tx, name).await? {
                None => return Ok(dropped_parts),
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
                    format!(
                        "the replaced schema {name:?} cannot be dropped, others refer to it: {}",
                        said(&outside).join(", ")
                    ),
                ));
            }
            if dropped_parts {
                execute(&mut tx, format!("DROP SCHEMA {} CASCADE", ident(name))).await?;
                tx.commit().await?;
                return Ok(true);
            }
            tx.rollback().await?;
            drop_in_parts(&mut self.c, oid).await?;
            dropped_parts = true;
        }
    }
}
