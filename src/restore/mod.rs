//! Restores a dump into a tenant's database: by a role made for it, beside the live data, all or nothing, and so that it can be
//! undone. Knows databases, client tools and content; knows neither the control plane nor HTTP.
//!
//! The order of an in-place restore of a schema, where the server's lock table has room for it ([`Way::OneTransaction`]):
//!
//! ```text
//! plan      names and the live schema's oid; the caller stores it
//! open      an administrator's connection that holds the target's lock; a zombie's is terminated
//! prepare   one transaction: role made, and the steps that it may not take itself (`steps`)
//! load      psql as the role: our BEGIN, the live schema aside and an empty one in its place, the dump, both names back (what was
//!           loaded is hf_new_… now), our COMMIT once every byte was good
//! finish    one transaction: live → hf_before_…, hf_new_… → live, rows counted, owners and grants given, role dropped
//!           …or roll_back, from any point before: everything is as it was
//! undo      within the window: the names are swapped back
//! drop_side after the window
//! ```
//!
//! So whoever reads sees the old state until `finish` commits, and nothing is live that was not compared. Where there is no room
//! ([`Way::Aside`]), `prepare` renames the live schema away and the dump is loaded statement by statement under its name; the tenant is
//! unavailable until `finish`, and everything that takes locks is done in parts.
//!
//! What always holds: while the role exists the restore is unfinished, and [`Session::roll_back`] decides from the catalog what is to
//! be done. The transaction that gives the tenant its data drops the role.

mod altered;
mod archive;
mod error;
pub mod files;
mod given_away;
mod grants;
mod in_place;
mod load;
mod new_database;
mod parts;
mod plan;
mod recount;
mod references;
mod renamed;
mod role;
mod room;
mod script;
pub mod stage;
mod steps;
mod tables;
mod undo;
mod way;

use std::sync::Arc;

use secrecy::SecretString;
use sha2::{Digest as _, Sha256};
use sqlx::{Connection as _, PgConnection};

pub use self::{
    error::RestoreError,
    in_place::{Finished, Recovery},
    load::{Load, OpenContent},
    plan::{Beside, MAX_NAME, Place, Plan, Target, is_side_name},
    recount::Trial,
    undo::Undone,
    way::Way,
};
use self::{references::Reference, script::LeaveOut, stage::Stage};
use crate::{
    ids::RestoreId,
    postgres::{connect::ConnectInfo, inspect, tools::Tools},
};

/// The advisory locks' class: `HF`.
const LOCK_CLASS: i32 = 0x4846;

/// Restores into the database that `admin` connects to (or, for whole databases, beside it).
#[derive(Clone, Debug)]
pub struct Engine {
    pub tools: Arc<Tools>,
    /// A superuser, or a restore administrator: CREATEROLE, CREATE on the database, and member of the owners.
    pub admin: ConnectInfo,
    /// Restore even with client tools that can be made to run code from a crafted archive.
    pub allow_vulnerable_clients: bool,
    /// Restore in place even when objects outside the schema go on referring to what is replaced.
    pub allow_detached_references: bool,
    /// Load in one transaction where the server's lock table has room for it.
    pub one_transaction: bool,
    /// Bytes that a restore must leave free on the target's disk, where that is known.
    pub keep_free: u64,
}

impl Engine {
    /// The plan of an in-place restore of `schema`: store it, then [`open`](Self::open). Changes nothing.
    ///
    /// # Errors
    /// The database cannot be reached.
    pub async fn plan_schema(&self, id: RestoreId, schema: &str) -> Result<Plan, RestoreError> {
        let mut c = self.admin.connect().await?;
        let live_oid = in_place::schema(&mut c, schema).await?.map(|s| s.oid);
        _ = c.close().await;
        Ok(Plan::schema(id, schema, live_oid))
    }

    /// The plan of a copy of `schema` beside what is live there, under the name `becomes`. Changes nothing.
    ///
    /// # Errors
    /// `restore.name_taken` when there is such a schema, `restore.name_too_long`, or the database cannot be reached.
    pub async fn plan_beside(&self, id: RestoreId, schema: &str, becomes: Beside) -> Result<Plan, RestoreError> {
        fits(&becomes.schema, "schema")?;
        let mut c = self.admin.connect().await?;
        if in_place::schema(&mut c, &becomes.schema).await?.is_some() {
            let message =
                format!("there already is a schema {:?} in database {:?}", becomes.schema, self.admin.database);
            return Err(RestoreError::new("restore.name_taken", message));
        }
        let live_oid = in_place::schema(&mut c, schema).await?.map(|s| s.oid);
        _ = c.close().await;
        let mut plan = Plan::schema(id, schema, live_oid);
        if let Target::Schema { beside, .. } = &mut plan.target {
            *beside = Some(becomes);
        }
        Ok(plan)
    }

    /// The plan of a restore into the new database `name` (default: `hf_restored_{short id}`); a schema's backup comes there under the
    /// name `schema_becomes`. Changes nothing.
    ///
    /// # Errors
    /// `restore.name_taken` when there is such a database, `restore.name_too_long`.
    pub async fn plan_database(&self, id: RestoreId, name: Option<String>) -> Result<Plan, RestoreError> {
        let plan = Plan::database(id, name);
        let Target::Database { database } = &plan.target else { return Ok(plan) };
        fits(database, "database")?;
        let mut c = self.admin.connect().await?;
        new_database::refuse_existing(&mut c, database).await?;
        _ = c.close().await;
        Ok(plan)
    }

    /// Connects as the administrator and takes the target's lock. Whoever calls this has just made sure of its lease on the job, so
    /// another session that holds the lock belongs to a worker that lost it: it is terminated.
    ///
    /// # Errors
    /// The database cannot be reached, or the holder cannot be terminated (`restore.locked`).
    pub async fn open(&self, plan: &Plan) -> Result<Session, RestoreError> {
        let mut c = self.admin.connect().await?;
        let server_version = inspect::server_version(&mut c).await?;
        lock(&mut c, plan).await?;
        stage::reached(Stage::Opened).await;
        Ok(Session {
            tools: self.tools.clone(),
            admin: self.admin.clone(),
            allow_vulnerable_clients: self.allow_vulnerable_clients,
            allow_detached_references: self.allow_detached_references,
            not_at_once: (!self.one_transaction).then(|| "restore.one_transaction is off".to_owned()),
            keep_free: self.keep_free,
            way: Way::OneTransaction,
            plan: plan.clone(),
            c,
            server_version,
            password: None,
            word: None,
            schema_was: String::new(),
            detached: Vec::new(),
            leave_out: LeaveOut::default(),
            dumped_by: 0,
            loader_pid: None,
        })
    }
}

/// The administrator's connection while it holds the lock of one plan's target.
pub struct Session {
    tools: Arc<Tools>,
    admin: ConnectInfo,
    allow_vulnerable_clients: bool,
    allow_detached_references: bool,
    /// Why not in one transaction, when that is known without counting.
    not_at_once: Option<String>,
    keep_free: u64,
    /// Chosen by [`prepare`](Self::prepare).
    way: Way,
    plan: Plan,
    c: PgConnection,
    server_version: u32,
    /// What the steps of the one transaction want to hear; nobody else knows it.
    word: Option<SecretString>,
    /// The backup's schema, from [`prepare`](Self::prepare) on; empty for a whole database's.
    schema_was: String,
    /// Who refers to the schema that is replaced, as [`prepare`](Self::prepare) has told.
    detached: Vec<Reference>,
    /// The role's, from [`prepare`](Self::prepare) on; nobody else knows it.
    password: Option<SecretString>,
    leave_out: LeaveOut,
    /// The version of the `pg_dump` that wrote the content, from [`prepare`](Self::prepare) on.
    dumped_by: u32,
    loader_pid: Option<u32>,
}

impl Session {
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Has the next [`prepare`](Self::prepare) rename the live schema aside.
    pub fn without_one_transaction(&mut self, because: &str) {
        self.not_at_once = Some(because.to_owned());
    }

    /// How the dump comes to its place, once [`prepare`](Self::prepare) has chosen.
    pub fn way(&self) -> &Way {
        &self.way
    }

    /// The process id of the last load's `psql`.
    pub fn loader_pid(&self) -> Option<u32> {
        self.loader_pid
    }

    /// Gives the lock back.
    pub async fn close(self) {
        _ = self.c.close().await;
    }

    /// The administrator's way to the database that is restored into.
    fn target_connect(&self) -> ConnectInfo {
        match &self.plan.target {
            Target::Schema { .. } => self.admin.clone(),
            Target::Database { database } => self.admin.with_database(database),
        }
    }
}

/// Refuses a name that the server would cut short.
fn fits(name: &str, what: &str) -> Result<(), RestoreError> {
    if (1..=MAX_NAME).contains(&name.len()) && !name.contains('\0') {
        return Ok(());
    }
    let message = format!("a {what}'s name has 1 to {MAX_NAME} bytes, {name:?} does not");
    Err(RestoreError::new("restore.name_too_long", message))
}

/// Takes the lock of the plan's target, which is the same for every restore of that target.
async fn lock(c: &mut PgConnection, plan: &Plan) -> Result<(), RestoreError> {
    let (kind, name) = match &plan.target {
        Target::Schema { schema, .. } => ("schema", schema),
        Target::Database { database } => ("database", database),
    };
    let digest = Sha256::digest(format!("{kind}\0{name}"));
    let key = i32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]);
    for _ in 0..20 {
        let taken: bool = sqlx::query_scalar("SELECT pg_try_advisory_lock($1, $2)")
            .bind(LOCK_CLASS)
            .bind(key)
            .fetch_one(&mut *c)
            .await?;
        if taken {
            return Ok(());
        }
        // Waits up to two seconds for the end of each: of the holder, and of whoever queues for it, who would be the next (no session of ours
        // waits in the server). pg_locks shows both keys as oids, which are unsigned.
        sqlx::query(
            "SELECT pg_terminate_backend(l.pid, 2000) FROM pg_catalog.pg_locks l \
             WHERE l.locktype = 'advisory' AND l.pid <> pg_backend_pid() AND l.objsubid = 2 AND l.classid::int8 = $1 AND l.objid::int8 = $2 \
             AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = current_database())",
        )
        .bind(i64::from(LOCK_CLASS))
        .bind(i64::from(key.cast_unsigned()))
        .execute(&mut *c)
        .await?;
    }
    Err(RestoreError::passing("restore.locked", format!("another session restores {kind} {name:?} and does not end")))
}
