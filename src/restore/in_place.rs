//! The administrator's side of a restore: making room, giving back, taking back.

use secrecy::SecretString;
use sqlx::{Connection as _, PgConnection};
use tokio_util::sync::CancellationToken;

use super::{
    Plan, RestoreError, Session, Target, Way, altered,
    given_away::{self, Inside},
    grants, new_database,
    parts::drop_in_parts,
    references::{Reference, from_outside, said},
    role::{self, execute},
    script::LeaveOut,
    stage::{self, Stage},
    steps, tables, way,
};
use crate::{
    manifest::{DatabaseContent, DumpScope},
    postgres::{
        ownership,
        quote::{ident, literal},
        tools::ClientTool,
    },
    proof::{self, Surroundings},
    proof_record::ProofLevel,
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
    /// Who outside the schema has come to refer to the replaced one since [`Session::prepare`], and will go on doing so; who may connect to the
    /// database of the URL and not to a new one.
    pub warnings: Vec<String>,
}

/// What [`Session::roll_back`] found and did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recovery {
    /// Nothing of the restore was there (any more).
    Nothing,
    /// Everything is as it was before.
    RolledBack,
    /// The restore had been finished; nothing was changed. Record it as completed.
    Finished,
}

impl Session {
    /// Makes the role, and the room for the dump or the steps that will make it. What can be refused is refused before anything is
    /// touched; then all is done in one transaction. Returns warnings: who outside the schema will go on pointing at the replaced one.
    ///
    /// # Errors
    /// `restore.tool` when there is no client that may restore, `restore.changed` when the schema is not the planned one any more, `restore.unfinished` when a former attempt was not rolled
    /// back, `restore.referenced_from_outside`, `restore.extension_inside`, `restore.requirement_missing`, `restore.too_many_objects`,
    /// or the server's refusal.
    pub async fn prepare(
        &mut self,
        content: &DatabaseContent,
        lifetime_seconds: u64,
    ) -> Result<Vec<String>, RestoreError> {
        let password = role::random_password();
        // Before anything is touched: without it nothing is loaded.
        self.tools.restore_client(ClientTool::Psql, self.server_version, self.allow_vulnerable_clients)?;
        if role::oid(&mut self.c, &self.plan.role).await?.is_some() {
            return Err(RestoreError::new(
                "restore.unfinished",
                "a former attempt of this restore was not rolled back",
            ));
        }
        let plan = self.plan.clone();
        let warnings = match &plan.target {
            Target::Schema { schema: name, live_oid, side, beside } => {
                let live = schema(&mut self.c, name).await?;
                if live.map(|s| s.oid) != *live_oid {
                    return Err(changed(name));
                }
                for taken in [side, &plan.new_name(), &plan.role] {
                    if schema(&mut self.c, taken).await?.is_some() {
                        let message = format!("there already is a schema {taken:?}");
                        return Err(RestoreError::new("restore.unfinished", message));
                    }
                }
                grants::check_extensions(&mut self.c, name, content).await?;
                let outside = match (live_oid, beside) {
                    (Some(oid), None) => from_outside(&mut self.c, *oid, true).await?,
                    // A copy beside it replaces nothing.
                    (Some(_), Some(_)) | (None, _) => Vec::new(),
                };
                if !outside.is_empty() && !self.allow_detached_references {
                    return Err(detached(name, &outside));
                }
                self.detached.clone_from(&outside);
                self.choose_way(content, *live_oid).await?;
                if let (Way::Aside { because }, Some(_), Some(_)) = (&self.way, beside, live_oid) {
                    let message =
                        format!("a copy beside the schema {name:?} is loaded in one transaction, but: {because}");
                    return Err(RestoreError::new("restore.too_many_objects", message));
                }
                let mut tx = self.c.begin().await?;
                role::create(&mut tx, &plan.role, &password, lifetime_seconds).await?;
                role::let_in(&mut tx, &plan.role).await?;
                match &self.way {
                    Way::OneTransaction => {
                        let word = role::random_word();
                        steps::make(&mut tx, &plan, &word).await?;
                        self.word = Some(SecretString::from(word));
                    }
                    Way::Aside { .. } => make_room(&mut tx, name, *live_oid, side, &plan.role).await?,
                }
                grants::give(&mut tx, &plan.role, content).await?;
                tx.commit().await?;
                self.leave_out = LeaveOut {
                    schemas: [name.clone()].into(),
                    extension_comments: false,
                    transaction_timeout: self.server_version < 170_000,
                    only_tables: beside.as_ref().and_then(|beside| Some((name.clone(), beside.tables.clone()?))),
                };
                outside.iter().map(Reference::warning).collect()
            }
            Target::Database { database } => {
                self.choose_way(content, None).await?;
                self.leave_out = new_database::prepare(self, database, content, &password, lifetime_seconds).await?;
                Vec::new()
            }
        };
        self.password = Some(password);
        self.dumped_by = content.tool_version;
        if let DumpScope::Schema { schema } = &content.scope {
            self.schema_was.clone_from(schema);
        }
        stage::reached(Stage::Prepared).await;
        Ok(warnings)
    }

    async fn choose_way(&mut self, content: &DatabaseContent, live_oid: Option<u32>) -> Result<(), RestoreError> {
        self.way = match &self.not_at_once {
            Some(because) => Way::Aside { because: because.clone() },
            None => way::choose(&mut self.c, content, live_oid).await?,
        };
        Ok(())
    }

    /// Gives names, owners and grants, counts what was loaded, and drops the role, in one transaction: after it the restore is done.
    ///
    /// # Errors
    /// Then nothing was changed: call [`roll_back`](Self::roll_back), after a cancellation or a lost connection in a new session (the old
    /// one may still be counting). `restore.outside` when the dump made objects outside its
    /// target, or has given others a hold on it; `restore.cancelled`.
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
        stage::reached(Stage::Shut).await;
        let Some(role_oid) = role::oid(&mut self.c, &plan.role).await? else {
            return Err(RestoreError::new("restore.not_prepared", "the role of this restore is not there"));
        };
        let finished = match &plan.target {
            Target::Database { database } => new_database::finish(self, database, content).await?,
            Target::Schema { .. } => self.finish_schema(&plan, role_oid, content).await?,
        };
        stage::reached(Stage::Finished).await;
        Ok(finished)
    }

    /// What was loaded waits under a name of its own, or (when the live schema is aside) has the name already and gives it up until it is
    /// compared.
    async fn finish_schema(
        &mut self,
        plan: &Plan,
        role_oid: u32,
        content: &DatabaseContent,
    ) -> Result<Finished, RestoreError> {
        let Target::Schema { schema: name, live_oid, side, beside } = &plan.target else { return Err(changed("")) };
        let (is_swap, new_name) = (self.way == Way::OneTransaction, plan.new_name());
        let loaded_as = if is_swap { &new_name } else { name };
        let new_oid = match schema(&mut self.c, loaded_as).await? {
            Some(new) if new.owner == role_oid && Some(new.oid) != *live_oid => new.oid,
            _ => return Err(changed(name)),
        };
        if is_swap && schema(&mut self.c, name).await?.map(|s| s.oid) != *live_oid {
            return Err(changed(name));
        }
        given_away::refuse(&mut self.c, role_oid, Inside::Schema(new_oid)).await?;
        let narrowed =
            beside.as_ref().and_then(|beside| beside.tables.as_deref()).map(|only| tables::narrow(content, only));
        let whole = content;
        let content = narrowed.as_ref().unwrap_or(content);
        let scope = DumpScope::Schema { schema: name.clone() };
        if !is_swap {
            // Before anybody has a right to any of it. The rows are compared below.
            let mut defined = content.clone();
            if let Some(proof) = &mut defined.proof {
                proof.level = ProofLevel::Off;
            }
            let mut looking = self.c.begin().await?;
            let found = proof::differences(&mut looking, &scope, &defined, Surroundings::Compared).await;
            looking.rollback().await?;
            altered::refuse_definitions(&mut self.c, content, self.server_version, &found).await?;
            // Owners come back in several transactions, where one would need too many locks: whoever gets his own before the last of them
            // finds nothing under the live name, which an empty schema keeps meanwhile.
            let mut tx = self.c.begin().await?;
            rename(&mut tx, name, &new_name).await?;
            execute(&mut tx, ownership::keep_name(name, &plan.role)).await?;
            tx.commit().await?;
            let (owners, recorded_on) = (&content.ownership, content.server_version);
            let waits = Some((new_name.as_str(), plan.role.as_str()));
            let bodies_pass = altered::bodies_pass(content, self.server_version);
            ownership::apply_in_parts(&mut self.c, &scope, owners, recorded_on, bodies_pass, waits).await?;
        }
        stage::reached(Stage::Waiting).await;

        let mut tx = self.c.begin().await?;
        execute(&mut tx, LOCK_TIMEOUT.to_owned()).await?;
        if is_swap && live_oid.is_some() {
            rename(&mut tx, name, side).await?;
            // Names move between a look and a rename.
            if schema(&mut tx, side).await?.map(|s| s.oid) != *live_oid {
                return Err(changed(name));
            }
        }
        let mut warnings = Vec::new();
        if let (Some(oid), None) = (live_oid, beside) {
            // Made during the load, which may have taken hours.
            let outside = from_outside(&mut tx, *oid, true).await?;
            if !outside.is_empty() && !self.allow_detached_references {
                return Err(detached(name, &outside));
            }
            let new = outside.iter().filter(|now| !self.detached.iter().any(|before| before.is(now)));
            warnings.extend(new.map(Reference::warning));
        }
        if !is_swap {
            execute(&mut tx, ownership::give_up_name(name)).await?;
        }
        rename(&mut tx, &new_name, name).await?;
        if is_swap {
            steps::drop(&mut tx, plan).await?;
        }
        if let Some(only) = beside.as_ref().and_then(|beside| beside.tables.as_deref()) {
            tables::keep_only(&mut tx, name, new_oid, only).await?;
        }
        // In a savepoint: what cannot be counted is a difference, and spoils nothing.
        let mut counting = tx.begin().await?;
        let found = proof::differences(&mut counting, &scope, content, Surroundings::Compared).await;
        // Of single tables the record tells much that shall not be there.
        let added = match &narrowed {
            Some(_) => Some(proof::additions(&mut counting, &scope, whole).await),
            None => None,
        };
        counting.rollback().await?;
        altered::refuse_definitions(&mut tx, content, self.server_version, &found).await?;
        let mut differences = proof::in_words(found);
        let (recorded_on, version) = (content.server_version, self.server_version);
        match added {
            Some(added) => {
                differences.extend(tables::refuse_additions(&mut tx, whole, version, new_oid, added).await?);
                let owners = tables::owners_of_what_is_there(&mut tx, &scope, &content.ownership).await?;
                let applied = ownership::apply(&mut tx, &scope, &owners, recorded_on).await?;
                altered::refuse_code(content, version, &applied)?;
                differences.extend(applied.differences);
            }
            None => {
                let applied = ownership::apply(&mut tx, &scope, &content.ownership, recorded_on).await?;
                altered::refuse_code(content, version, &applied)?;
                differences.extend(altered::told(content, version, applied));
            }
        }
        give_away_the_rest(&mut tx, plan, new_oid).await?;
        if let Some(beside) = beside {
            rename(&mut tx, name, &beside.schema).await?;
            if live_oid.is_some() && is_swap {
                rename(&mut tx, side, name).await?;
            }
        }
        stage::reached(Stage::Swapping).await;
        tx.commit().await?;
        Ok(Finished { schema_oid: Some(new_oid), differences, warnings })
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
        let (name, live_oid, side, beside) = match &plan.target {
            Target::Database { database } => return new_database::roll_back(self, database, role_oid).await,
            Target::Schema { schema, live_oid, side, beside } => (schema, *live_oid, side, beside),
        };
        let now = schema(&mut self.c, name).await?;
        let kept = schema(&mut self.c, side).await?.filter(|s| Some(s.oid) == live_oid);
        let is_ours = now.as_ref().is_some_and(|s| Some(s.owner) == role_oid && Some(s.oid) != live_oid);
        if role_oid.is_none() {
            let last_name = beside.as_ref().map_or(name, |beside| &beside.schema);
            let last = schema(&mut self.c, last_name).await?.map(|s| s.oid);
            let is_made = plan.made.is_some() && last == plan.made;
            // Only the last transaction leaves what was replaced and no role, whatever others have made of the name since.
            if is_made || beside.is_none() && kept.is_some() && now.is_some() {
                return Ok(Recovery::Finished);
            }
        }
        if kept.is_some() && now.is_some() && !is_ours {
            return Err(RestoreError::new(
                "restore.name_taken",
                format!("{name:?} is a schema that this restore did not make; the tenant's own waits as {side:?}"),
            ));
        }
        let new_name = plan.new_name();
        let loaded = schema(&mut self.c, &new_name).await?.filter(|s| Some(s.owner) == role_oid);
        if is_ours || kept.is_some() || loaded.is_some() || role_oid.is_some() {
            let drops = [(is_ours, name, &now), (loaded.is_some(), &new_name, &loaded)];
            for oid in
                drops.iter().filter(|(is_there, ..)| *is_there).filter_map(|(_, _, found)| Some(found.as_ref()?.oid))
            {
                drop_in_parts(&mut self.c, oid).await?;
            }
            let mut tx = self.c.begin().await?;
            execute(&mut tx, LOCK_TIMEOUT.to_owned()).await?;
            for (_, name, _) in drops.iter().filter(|(is_there, ..)| *is_there) {
                execute(&mut tx, format!("DROP SCHEMA {} CASCADE", ident(name))).await?;
            }
            if kept.is_some() {
                rename(&mut tx, side, name).await?;
            }
            steps::clear(&mut tx, &plan).await?;
            tx.commit().await?;
        }
        // On its own: the tenant has its data back even if the role cannot be dropped.
        role::drop(&mut self.c, &plan.role).await?;
        let was_begun = is_ours || kept.is_some() || role_oid.is_some();
        Ok(if was_begun { Recovery::RolledBack } else { Recovery::Nothing })
    }
}

/// Moves the live schema aside and makes an empty one in its place, which the role owns.
async fn make_room(
    tx: &mut PgConnection,
    name: &str,
    live_oid: Option<u32>,
    side: &str,
    role: &str,
) -> Result<(), RestoreError> {
    if live_oid.is_some() {
        rename(tx, name, side).await?;
        if schema(tx, side).await?.map(|s| s.oid) != live_oid {
            return Err(changed(name));
        }
    }
    execute(tx, format!("CREATE SCHEMA {} AUTHORIZATION {}", ident(name), ident(role))).await?;
    execute(tx, format!("DO {}", literal(&steps::for_its_owner_alone(name)))).await
}

pub(super) async fn rename(c: &mut PgConnection, from: &str, to: &str) -> Result<(), RestoreError> {
    execute(c, format!("ALTER SCHEMA {} RENAME TO {}", ident(from), ident(to))).await
}

/// Who outside would go on using what is replaced.
fn detached(name: &str, outside: &[Reference]) -> RestoreError {
    let mut named = said(outside);
    let more = if named.len() > 20 { format!(" and {} more", named.len() - 20) } else { String::new() };
    named.truncate(20);
    RestoreError::new(
        "restore.referenced_from_outside",
        format!(
            "objects outside the schema {name:?} refer to it and would go on using the replaced one: {}{more}. \
             Drop them and make them again afterwards, or restore with allow_detached_references",
            named.join(", ")
        ),
    )
}

/// Dropping or giving away may need locks on other schemas' tables (foreign keys): whoever waits for one makes everybody else wait behind
/// it. After this long the step fails, and is tried again.
pub(super) const LOCK_TIMEOUT: &str = "SET LOCAL lock_timeout = '30s'";

pub(super) fn changed(name: &str) -> RestoreError {
    RestoreError::new(
        "restore.changed",
        format!("the schema {name:?} is not the one that this restore was planned for"),
    )
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
