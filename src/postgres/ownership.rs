//! Owners, grants and default privileges: recorded from the catalogs when a backup is made ([`collect`]), given back when it is
//! restored ([`apply`]).
//!
//! What always holds: a manifest's texts are only *looked up*. The names in a statement come from the restored catalog, quoted by
//! the server; privileges come from a closed list; roles must exist. So a forged manifest can at worst give the tenant's own new
//! objects to roles that exist: the caller decides whether to believe the manifest. (It may name a superuser as the owner, because
//! many platforms own everything as one; an authenticated manifest is what makes that safe.)

mod older;
mod parts;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use serde::Deserialize;
use sqlx::{AssertSqlSafe, Connection, FromRow, PgConnection, types::Json};

pub use self::parts::{apply_in_parts, give_up_name, keep_name};
use super::{expression::settled, inspect::server_version, quote::ident};
use crate::{
    artifact::Sha256Digest,
    manifest::{DumpScope, Grant, ObjectOwnership},
};

/// What [`apply`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Statements that were executed.
    pub statements: usize,
    /// Where the result differs from what was recorded, for people: roles that are missing, objects that were not found,
    /// privileges that could not be given. Empty: owners and grants are exactly the recorded ones.
    pub differences: Vec<String>,
    /// Functions that are not what was recorded, or were not recorded at all. They must not come to their recorded owner: the caller
    /// rolls back.
    pub altered: Vec<String>,
    /// Tables and views whose triggers, rules or definition do not read as recorded, in words. The server writes some anew after a restore that
    /// mean the same: of use where no definitions were recorded.
    pub reads_otherwise: Vec<String>,
    /// Functions of which the SQL body alone does not read as recorded, or of which the record does not tell more: the server writes that anew,
    /// too. They must not come to their recorded owner unless their definitions are compared.
    pub bodies: Vec<String>,
}

/// Every privilege that PostgreSQL 14 to 18 knows on the objects handled here. Source: src/include/utils/acl.h, `ACL_ALL_RIGHTS_STR`.
const PRIVILEGES: [&str; 11] = [
    "SELECT",
    "INSERT",
    "UPDATE",
    "DELETE",
    "TRUNCATE",
    "REFERENCES",
    "TRIGGER",
    "MAINTAIN",
    "USAGE",
    "CREATE",
    "EXECUTE",
];

/// Records the owner and the grants of every object of the scope, sorted.
pub async fn collect(c: &mut PgConnection, scope: &DumpScope) -> Result<Vec<ObjectOwnership>, sqlx::Error> {
    let mut recorded: Vec<ObjectOwnership> = objects(c, scope).await?.into_iter().map(Found::into_recorded).collect();
    recorded.extend(default_acls(c, scope, &[]).await?.into_iter().map(Found::into_recorded));
    recorded.sort();
    Ok(recorded)
}

/// Gives the scope's objects their recorded owners and grants, in one transaction (a savepoint of the caller's, if there is one),
/// and compares the result with the record.
///
/// The connection's role must be a superuser, or a member of the present and of the recorded owners. An object that cannot be
/// given back is a difference, not an error; an error is a lost connection or an unreadable catalog, and then nothing changed.
///
/// `recorded_on`: the version of the server that the record was made on.
pub async fn apply(
    c: &mut PgConnection,
    scope: &DumpScope,
    ownership: &[ObjectOwnership],
    recorded_on: u32,
) -> Result<Applied, sqlx::Error> {
    let mut tx = c.begin().await?;
    let ownership = &*older::in_words_of(server_version(&mut tx).await?, ownership, recorded_on);
    let mut run = Run { roles: existing_roles(&mut tx).await?, ..Run::default() };
    let recorded: HashMap<(&str, &str), &ObjectOwnership> =
        ownership.iter().map(|o| ((o.kind.as_str(), o.identity.as_str()), o)).collect();

    // 1. Owners. Whoever is no superuser can give an object only to a role that may create in its schema, so for the length of this
    //    transaction the new owners may; the schemas' own privileges come afterwards and take that back.
    let before = objects(&mut tx, scope).await?;
    let altered = altered(&before, &recorded, &mut run);
    let superuser: bool = sqlx::query_scalar("SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user")
        .fetch_one(&mut *tx)
        .await?;
    if !superuser {
        let owners: BTreeSet<&str> =
            ownership.iter().map(|o| o.owner.as_str()).filter(|o| run.roles.contains(*o)).collect();
        for schema in before.iter().filter(|f| f.alter_word == "SCHEMA") {
            let grants =
                owners.iter().map(|o| format!("GRANT USAGE, CREATE ON SCHEMA {} TO {}", schema.reference, ident(o)));
            let statements: Vec<String> = grants.collect();
            // If this is refused, the owner statements will say why.
            let _ = run.execute(&mut tx, &statements).await?;
        }
    }
    for schemas in [false, true] {
        for found in before.iter().filter(|f| (f.alter_word == "SCHEMA") == schemas) {
            if let Some(wanted) = recorded.get(&found.key()) {
                run.give_owner(&mut tx, found, &wanted.owner).await?;
            }
        }
    }

    // 2. Grants, the schemas' first: whoever grants in the name of another role must be able to reach the object.
    let mut owned = objects(&mut tx, scope).await?;
    owned.sort_by_key(|f| f.alter_word != "SCHEMA");
    for found in &owned {
        if let Some(wanted) = recorded.get(&found.key()) {
            run.give_grants(&mut tx, found, wanted).await?;
        }
    }

    // 3. Default privileges, also those of which nothing is there yet.
    let roles = default_acl_roles(ownership, &run);
    for found in &default_acls(&mut tx, scope, &roles).await? {
        if let Some(wanted) = recorded.get(&found.key()) {
            run.give_grants(&mut tx, found, wanted).await?;
        }
    }

    // 4. What is true now, against the record.
    let mut after = objects(&mut tx, scope).await?;
    after.extend(default_acls(&mut tx, scope, &roles).await?);
    compare(&after, ownership, &mut run);
    tx.commit().await?;
    let Run { statements, differences, reads_otherwise, bodies, .. } = run;
    Ok(Applied { statements, differences, altered, reads_otherwise, bodies })
}

/// The roles of whose default privileges something was recorded, if they exist.
fn default_acl_roles(ownership: &[ObjectOwnership], run: &Run) -> Vec<String> {
    let recorded = ownership.iter().filter(|o| o.kind == "default acl" && run.roles.contains(&o.owner));
    recorded.map(|o| o.owner.clone()).collect()
}

/// Where owners, grants and default privileges differ from the record, in the words of [`Applied::differences`]. Changes nothing.
pub async fn differences(
    c: &mut PgConnection,
    scope: &DumpScope,
    ownership: &[ObjectOwnership],
    recorded_on: u32,
) -> Result<Vec<String>, sqlx::Error> {
    let ownership = &*older::in_words_of(server_version(c).await?, ownership, recorded_on);
    let mut run = Run { roles: existing_roles(c).await?, ..Run::default() };
    let roles = default_acl_roles(ownership, &run);
    let mut now = objects(c, scope).await?;
    now.extend(default_acls(c, scope, &roles).await?);
    for recorded in ownership.iter().filter(|o| o.kind != "default acl" && !run.roles.contains(&o.owner)) {
        *run.missing_roles.entry(recorded.owner.clone()).or_default() += 1;
    }
    compare(&now, ownership, &mut run);
    Ok(run.differences)
}

/// What runs other code than was recorded. Functions are named, to be refused: their text comes back from a dump to the letter. SQL
/// bodies, triggers and views are written anew by the server, so that a difference there is told but not refused.
fn altered(found: &[Found], recorded: &HashMap<(&str, &str), &ObjectOwnership>, run: &mut Run) -> Vec<String> {
    // A manifest from before these digests says nothing.
    if recorded.values().all(|o| o.code.is_none()) {
        return Vec::new();
    }
    let mut altered = Vec::new();
    for object in found {
        let is_function = object.alter_word == "ROUTINE";
        match recorded.get(&object.key()) {
            Some(known) if known.code == object.digest() || known.code == object.code => {}
            Some(known) if known.code.as_deref().is_some_and(|code| object.is_but_for_its_body(code)) => {
                run.bodies.push(object.name());
            }
            Some(_) if !is_function => {
                run.reads_otherwise.push(format!("{}: its triggers, rules or definition are others", object.name()));
            }
            // A view that the dump's code has made would be given to the schema's owner, and read with that owner's rights.
            None if !is_function && !object.alter_word.ends_with("VIEW") => {}
            Some(_) | None => altered.push(object.name()),
        }
    }
    altered
}

/// One object of the catalog, or one possible default privilege.
#[derive(FromRow)]
struct Found {
    kind: String,
    identity: String,
    owner: String,
    /// What stands after `ALTER`; empty for default privileges.
    alter_word: String,
    /// What stands after `ON` in a `GRANT`; `None`: such objects have no privileges.
    grant_word: Option<String>,
    /// The object in a statement, quoted by the server; for default privileges everything before `GRANT`.
    reference: String,
    /// Its owner follows another object's.
    follows: bool,
    acl: Option<Json<Vec<Privilege>>>,
    /// What holds while `acl` is `None`.
    default_acl: Option<Json<Vec<Privilege>>>,
    column_acl: Option<Json<Vec<Privilege>>>,
    /// A digest of the code it runs: a function's body, a relation's triggers and rules.
    code: Option<String>,
    /// A function's body that the server has parsed (`BEGIN ATOMIC`), and a digest of the rest of its code.
    body: Option<String>,
    around_body: Option<String>,
    /// About how many locks it takes to give it to another owner.
    locks: i64,
}

#[derive(FromRow)]
struct FoundDefault {
    kind: String,
    identity: String,
    owner: String,
    schema: Option<String>,
    grant_word: String,
    acl: Option<Json<Vec<Privilege>>>,
    default_acl: Json<Vec<Privilege>>,
}

/// [`Grant`] as the queries write it.
#[derive(Deserialize)]
struct Privilege {
    #[serde(default)]
    column: Option<String>,
    grantee: Option<String>,
    grantor: String,
    privilege: String,
    grantable: bool,
}

impl From<&Privilege> for Grant {
    fn from(p: &Privilege) -> Self {
        Self {
            column: p.column.clone(),
            grantee: p.grantee.clone(),
            grantor: p.grantor.clone(),
            privilege: p.privilege.clone(),
            grantable: p.grantable,
        }
    }
}

impl Found {
    fn key(&self) -> (&str, &str) {
        (&self.kind, &self.identity)
    }

    /// For people: `table t.orders`.
    fn name(&self) -> String {
        format!("{} {}", self.kind, self.identity)
    }

    /// What is recorded of the code. An SQL body has a digest of its own, of what it reads like after a restore.
    fn digest(&self) -> Option<String> {
        match (&self.around_body, &self.body) {
            (Some(around), Some(body)) => Some(format!("{around} {}", Sha256Digest::of(settled(body).as_bytes()))),
            _ => self.code.clone(),
        }
    }

    /// Whether this is the recorded code, as far as the record tells, but for an SQL body.
    fn is_but_for_its_body(&self, recorded: &str) -> bool {
        let Some(around) = &self.around_body else { return false };
        // Manifests until November 2026 have one digest of both.
        recorded.split_once(' ').is_none_or(|(recorded, _)| recorded == around)
    }

    fn is_default_acl(&self) -> bool {
        self.alter_word.is_empty()
    }

    /// The privileges that hold now, whether written down or by default, in the server's order.
    fn effective(&self) -> Vec<Grant> {
        let object = self.acl.as_ref().or(self.default_acl.as_ref());
        object.into_iter().chain(&self.column_acl).flat_map(|list| &list.0).map(Grant::from).collect()
    }

    fn defaults(&self) -> Vec<Grant> {
        self.default_acl.iter().flat_map(|list| &list.0).map(Grant::from).collect()
    }

    fn into_recorded(self) -> ObjectOwnership {
        let touched = self.acl.is_some() || self.column_acl.is_some();
        let grants = touched.then(|| self.effective());
        let code = self.digest();
        ObjectOwnership { kind: self.kind, identity: self.identity, owner: self.owner, grants, code }
    }

    /// What the record wants here. The recorded owner's part is played by the present owner, should that be another (the
    /// difference in owners is named by itself); roles that are missing are left out and given back as the second value.
    fn wanted(&self, recorded: &ObjectOwnership, roles: &HashSet<String>) -> (Vec<Grant>, BTreeSet<String>) {
        let Some(grants) = &recorded.grants else { return (self.defaults(), BTreeSet::new()) };
        let mut missing = BTreeSet::new();
        let mut wanted = Vec::new();
        let play = |role: &String| if *role == recorded.owner { self.owner.clone() } else { role.clone() };
        for grant in grants {
            let grant =
                Grant { grantee: grant.grantee.as_ref().map(play), grantor: play(&grant.grantor), ..grant.clone() };
            let absent = grant.grantee.iter().chain([&grant.grantor]).find(|r| !roles.contains(*r)).cloned();
            match absent {
                Some(role) => _ = missing.insert(role),
                None => wanted.push(grant),
            }
        }
        (wanted, missing)
    }
}

async fn objects(c: &mut PgConnection, scope: &DumpScope) -> Result<Vec<Found>, sqlx::Error> {
    sqlx::query_as(include_str!("ownership/objects.sql")).bind(schema_of(scope)).fetch_all(c).await
}

/// The default privileges that exist and those that `roles` could have.
async fn default_acls(c: &mut PgConnection, scope: &DumpScope, roles: &[String]) -> Result<Vec<Found>, sqlx::Error> {
    let rows: Vec<FoundDefault> = sqlx::query_as(include_str!("ownership/default_acls.sql"))
        .bind(schema_of(scope))
        .bind(roles)
        .fetch_all(c)
        .await?;
    let found = rows.into_iter().map(|row| {
        let in_schema = row.schema.map(|s| format!(" IN SCHEMA {}", ident(&s))).unwrap_or_default();
        Found {
            reference: format!("ALTER DEFAULT PRIVILEGES FOR ROLE {}{in_schema} ", ident(&row.owner)),
            kind: row.kind,
            identity: row.identity,
            owner: row.owner,
            alter_word: String::new(),
            grant_word: Some(row.grant_word),
            follows: true,
            acl: row.acl,
            default_acl: Some(row.default_acl),
            column_acl: None,
            code: None,
            body: None,
            around_body: None,
            locks: 1,
        }
    });
    Ok(found.collect())
}

fn schema_of(scope: &DumpScope) -> Option<&str> {
    match scope {
        DumpScope::Schema { schema } => Some(schema),
        DumpScope::Database { .. } => None,
    }
}

async fn existing_roles(c: &mut PgConnection) -> Result<HashSet<String>, sqlx::Error> {
    let roles: Vec<String> = sqlx::query_scalar("SELECT rolname::text FROM pg_catalog.pg_roles").fetch_all(c).await?;
    Ok(roles.into_iter().collect())
}

#[derive(Default)]
struct Run {
    roles: HashSet<String>,
    statements: usize,
    differences: Vec<String>,
    reads_otherwise: Vec<String>,
    bodies: Vec<String>,
    /// Differences already named with their cause, so that the final comparison does not repeat them.
    named: HashSet<(String, String)>,
    missing_roles: BTreeMap<String, usize>,
}

impl Run {
    /// Runs the statements as one, all or nothing. `Some` is the server's refusal.
    async fn execute(&mut self, c: &mut PgConnection, statements: &[String]) -> Result<Option<String>, sqlx::Error> {
        if statements.is_empty() {
            return Ok(None);
        }
        let text = format!("SAVEPOINT holdfast; {}; RELEASE SAVEPOINT holdfast", statements.join("; "));
        match sqlx::raw_sql(AssertSqlSafe(text)).execute(&mut *c).await {
            Ok(_) => {
                self.statements += statements.len();
                Ok(None)
            }
            // Class 53 is no answer to the statement: the server is out of memory, or its lock table is full.
            Err(sqlx::Error::Database(refusal)) if !refusal.code().is_some_and(|code| code.starts_with("53")) => {
                sqlx::raw_sql("ROLLBACK TO SAVEPOINT holdfast; RELEASE SAVEPOINT holdfast").execute(c).await?;
                Ok(Some(refusal.message().to_owned()))
            }
            Err(other) => Err(other),
        }
    }

    fn differ(&mut self, found: &Found, text: String) {
        self.named.insert((found.kind.clone(), found.identity.clone()));
        self.differences.push(text);
    }

    async fn give_owner(&mut self, c: &mut PgConnection, found: &Found, owner: &str) -> Result<(), sqlx::Error> {
        if found.owner == owner || found.follows {
            return Ok(());
        }
        if !self.roles.contains(owner) {
            *self.missing_roles.entry(owner.to_owned()).or_default() += 1;
            return Ok(());
        }
        let statement = format!("ALTER {} {} OWNER TO {}", found.alter_word, found.reference, ident(owner));
        if let Some(refusal) = self.execute(c, &[statement]).await? {
            self.differ(found, format!("{}: cannot give it to its owner {owner:?}: {refusal}", found.name()));
        }
        Ok(())
    }

    async fn give_grants(
        &mut self,
        c: &mut PgConnection,
        found: &Found,
        recorded: &ObjectOwnership,
    ) -> Result<(), sqlx::Error> {
        let (mut wanted, missing) = found.wanted(recorded, &self.roles);
        for role in missing {
            *self.missing_roles.entry(role).or_default() += 1;
        }
        let unknown: Vec<Grant> =
            wanted.iter().filter(|g| !PRIVILEGES.contains(&g.privilege.as_str())).cloned().collect();
        for grant in unknown {
            wanted.retain(|g| *g != grant);
            self.differ(found, format!("{}: the privilege {:?} is not known", found.name(), grant.privilege));
        }
        if let Some(refusal) = self.execute(c, &statements(found, &wanted, recorded.grants.is_some())).await? {
            self.differ(found, format!("{}: cannot give its grants back: {refusal}", found.name()));
        }
        Ok(())
    }
}

/// The statements that turn what `found` has into `wanted`. `written`: an access list was recorded, so there shall be one, even if
/// it says no more than the defaults.
///
/// The list is emptied and written anew in the recorded order, so that it comes out as it was, to the order of its entries.
fn statements(found: &Found, wanted: &[Grant], written: bool) -> Vec<String> {
    let Some(word) = &found.grant_word else { return Vec::new() };
    let have = found.effective();
    if have == wanted && (found.acl.is_some() || !written || found.is_default_acl()) {
        return Vec::new();
    }
    let on = if found.is_default_acl() { format!("ON {word}") } else { format!("ON {word} {}", found.reference) };
    let prefix = if found.is_default_acl() { found.reference.as_str() } else { "" };
    let who = |grantee: &Option<String>| grantee.as_ref().map_or_else(|| "PUBLIC".to_owned(), |g| ident(g));

    // What other roles had granted on goes by CASCADE; a table's REVOKE takes the columns' privileges too.
    let cascade = if found.is_default_acl() { "" } else { " CASCADE" };
    let grantees: BTreeSet<String> = have.iter().map(|g| who(&g.grantee)).collect();
    let mut out: Vec<String> = grantees.iter().map(|g| format!("{prefix}REVOKE ALL {on} FROM {g}{cascade}")).collect();
    // A grant option must be there before its holder grants on: first the owner's grants, then those of whoever got an option.
    let mut grantors: HashSet<&str> = HashSet::from([found.owner.as_str()]);
    let mut left: Vec<&Grant> = wanted.iter().collect();
    while !left.is_empty() {
        let (mut now, mut later): (Vec<&Grant>, Vec<&Grant>) =
            left.into_iter().partition(|g| grantors.contains(g.grantor.as_str()));
        if now.is_empty() {
            // Nobody holds the option; the server's refusal will be the difference.
            now = std::mem::take(&mut later);
        }
        left = later;
        for grant in now {
            let privilege = match &grant.column {
                Some(column) => format!("{} ({})", grant.privilege, ident(column)),
                None => grant.privilege.clone(),
            };
            let option = if grant.grantable { " WITH GRANT OPTION" } else { "" };
            let statement = format!("{prefix}GRANT {privilege} {on} TO {}{option}", who(&grant.grantee));
            if grant.grantor == found.owner || found.is_default_acl() {
                out.push(statement);
            } else {
                // GRANTED BY takes only the current role (PostgreSQL 14 to 18), so become it for this one statement.
                out.extend([format!("SET LOCAL ROLE {}", ident(&grant.grantor)), statement, "RESET ROLE".to_owned()]);
            }
            if grant.grantable
                && let Some(grantee) = &grant.grantee
            {
                grantors.insert(grantee);
            }
        }
    }
    out
}

/// Names every difference between the catalog and the record that has not been named yet.
fn compare(after: &[Found], ownership: &[ObjectOwnership], run: &mut Run) {
    for (role, times) in std::mem::take(&mut run.missing_roles) {
        run.differences
            .push(format!("role {role:?} does not exist: {times} owners or grants that name it were not given back"));
    }
    let found: HashMap<(&str, &str), &Found> = after.iter().map(|f| (f.key(), f)).collect();
    for recorded in ownership {
        let key = (recorded.kind.clone(), recorded.identity.clone());
        let Some(now) = found.get(&(recorded.kind.as_str(), recorded.identity.as_str())) else {
            // A missing role's default privileges have been named with the role.
            if recorded.kind == "default acl" && !run.roles.contains(&recorded.owner) {
                run.differences.push(format!(
                    "role {:?} does not exist: its default privileges were not given back ({})",
                    recorded.owner, recorded.identity
                ));
            } else {
                run.differences.push(format!("{} {} is not there", recorded.kind, recorded.identity));
            }
            continue;
        };
        if run.named.contains(&key) {
            continue;
        }
        if now.owner != recorded.owner && run.roles.contains(&recorded.owner) {
            run.differences.push(format!("{} belongs to {:?}, not to {:?}", now.name(), now.owner, recorded.owner));
        }
        let wanted: BTreeSet<Grant> = now.wanted(recorded, &run.roles).0.into_iter().collect();
        let have: BTreeSet<Grant> = now.effective().into_iter().collect();
        for (list, word) in [(wanted.difference(&have), "lacks"), (have.difference(&wanted), "has too much")] {
            for grant in list {
                let column = grant.column.as_ref().map(|c| format!(" of column {c:?}")).unwrap_or_default();
                run.differences.push(format!(
                    "{} {word}: {}{column} for {:?}, granted by {:?}",
                    now.name(),
                    grant.privilege,
                    grant.grantee.as_deref().unwrap_or("PUBLIC"),
                    grant.grantor
                ));
            }
        }
    }
    let known: HashSet<(&str, &str)> = ownership.iter().map(|o| (o.kind.as_str(), o.identity.as_str())).collect();
    for extra in after.iter().filter(|f| !f.is_default_acl() && !known.contains(&f.key())) {
        run.differences.push(format!("{} has no recorded owner", extra.name()));
    }
}
