//! Whether a dump's code has changed, while it was loaded, what belongs to others.
//!
//! Everything belongs to the restore's role then, also a platform's views and tables beside a tenant's functions: a row's check constraint can
//! replace them, and what is given back to its owner works with that owner's rights. Functions with another body are refused by `ownership`
//! alone. Of the rest, as of what a function has by default and of SQL bodies, which the server writes anew, a difference from the record is
//! refused where somebody else's function can have made it, and told where all is one owner's.

use std::collections::{HashMap, HashSet};

use sqlx::PgConnection;

use super::RestoreError;
use crate::{
    manifest::{DatabaseContent, ObjectOwnership},
    postgres::ownership::Applied,
    proof::{Difference, FURTHER, TOO_MANY},
};

/// What runs code when it is called.
const ROUTINES: [&str; 3] = ["function", "procedure", "aggregate"];

/// Refuses functions with other code than was recorded. SQL bodies, which the server writes anew, are left to [`refuse_definitions`] where that
/// compares them.
pub(super) fn refuse_code(
    content: &DatabaseContent,
    server_version: u32,
    applied: &Applied,
) -> Result<(), RestoreError> {
    refuse(&applied.altered)?;
    if bodies_pass(content, server_version) { Ok(()) } else { refuse(&applied.bodies) }
}

/// Whether SQL bodies that do not read as recorded are left to [`refuse_definitions`].
pub(super) fn bodies_pass(content: &DatabaseContent, server_version: u32) -> bool {
    // Whose the code outside of the schema is was not recorded.
    let may_be_strangers = content.requirements.objects.iter().any(|o| ROUTINES.contains(&&*o.kind));
    is_compared(content, server_version) && !may_be_strangers
}

/// Whether there is a record of definitions, in the words of this server.
pub(super) fn is_compared(content: &DatabaseContent, server_version: u32) -> bool {
    let known = content.proof.as_ref().filter(|proof| proof.is_known());
    known.is_some_and(|proof| !proof.definition.is_empty())
        && content.server_version / 10_000 == server_version / 10_000
}

/// What of the differences is code, or guards rows.
pub(super) fn of_code(mut differences: Vec<Difference>) -> Vec<Difference> {
    differences.retain(|difference| code_of(difference).is_some());
    differences
}

/// Refuses what is named, if anything is.
pub(super) fn refuse(altered: &[String]) -> Result<(), RestoreError> {
    if altered.is_empty() {
        return Ok(());
    }
    Err(RestoreError::new(
        "restore.altered",
        format!("the dump changed code that is not its own while it was loaded: {}", altered.join(", ")),
    ))
}

/// What owners and grants came to, in words; and code, unless the definitions tell of it better.
pub(super) fn told(content: &DatabaseContent, server_version: u32, applied: Applied) -> Vec<String> {
    let mut differences = applied.differences;
    // Between major versions definitions are not compared word by word.
    let is_other_version = content.server_version / 10_000 != server_version / 10_000;
    if is_other_version || content.proof.as_ref().is_none_or(|proof| proof.definition.is_empty()) {
        differences.extend(applied.reads_otherwise);
    }
    differences
}

/// Refuses definitions that differ where another owner's code has run. `found`: what was compared; an error is no answer, and refused as well.
pub(super) async fn refuse_definitions(
    c: &mut PgConnection,
    content: &DatabaseContent,
    server_version: u32,
    found: &Result<Vec<Difference>, sqlx::Error>,
) -> Result<(), RestoreError> {
    let is_recorded = content.proof.as_ref().is_some_and(|proof| !proof.definition.is_empty());
    // Between major versions the same is written otherwise.
    if !is_recorded || content.server_version / 10_000 != server_version / 10_000 {
        return Ok(());
    }
    let routines = content.ownership.iter().filter(|o| ROUTINES.contains(&&*o.kind));
    let mut owners: Vec<&str> = routines.map(|o| o.owner.as_str()).collect();
    owners.sort_unstable();
    owners.dedup();
    // A superuser's code need not take such ways.
    let superusers: Vec<String> =
        sqlx::query_scalar("SELECT rolname::text FROM pg_catalog.pg_roles WHERE rolname::text = ANY ($1) AND rolsuper")
            .bind(&owners)
            .fetch_all(c)
            .await?;
    owners.retain(|owner| !superusers.iter().any(|superuser| superuser == owner));
    // Whose the code outside of the schema is was not recorded: nobody's name, which is another than any owner's.
    let is_shared = owners_of_relations(&content.ownership).values().collect::<HashSet<_>>().len() > 1;
    if is_shared && content.requirements.objects.iter().any(|o| ROUTINES.contains(&&*o.kind)) {
        owners.push("");
    }
    match found {
        Ok(differences) => refuse(&changed(&content.ownership, &owners, differences)),
        Err(error) if is_endangered(&content.ownership, &owners, CodeOf::Anything) => Err(RestoreError::passing(
            "restore.not_compared",
            format!("what others own beside the tenant's functions could not be compared: {error}"),
        )),
        Err(_) => Ok(()),
    }
}

/// What of the differences is code, or guards rows, of another owner than one of `strangers`.
fn changed(ownership: &[ObjectOwnership], strangers: &[&str], differences: &[Difference]) -> Vec<String> {
    let code = differences.iter().filter_map(|difference| Some((difference, code_of(difference)?)));
    code.filter(|(_, code)| is_endangered(ownership, strangers, *code))
        .map(|(difference, _)| difference.object.clone())
        .collect()
}

/// Whether the relation or routine belongs to another than one of `strangers`. Of a relation that is not named or not recorded: whether any does.
fn is_endangered(ownership: &[ObjectOwnership], strangers: &[&str], code: CodeOf<'_>) -> bool {
    let is_anothers = |owner: &str| strangers.iter().any(|stranger| *stranger != owner);
    let relation = match code {
        CodeOf::Routine(name) => {
            let routines = ownership.iter().filter(|o| ROUTINES.contains(&&*o.kind));
            return routines.filter(|o| without_arguments(&o.identity) == name).any(|o| is_anothers(&o.owner));
        }
        CodeOf::Relation(name) => Some(name),
        CodeOf::Anything => {
            let mut routines = ownership.iter().filter(|o| ROUTINES.contains(&&*o.kind));
            if routines.any(|o| is_anothers(&o.owner)) {
                return true;
            }
            None
        }
        CodeOf::Unnamed => None,
    };
    let owners = owners_of_relations(ownership);
    match relation.and_then(|relation| owners.get(relation)) {
        Some(owner) => is_anothers(owner),
        None => owners.values().any(|owner| is_anothers(owner)),
    }
}

/// A routine's name: the records write arguments in two ways.
fn without_arguments(routine: &str) -> &str {
    routine.split_once('(').map_or(routine, |(name, _)| name)
}

fn owners_of_relations(ownership: &[ObjectOwnership]) -> HashMap<&str, &str> {
    const RELATIONS: [&str; 4] = ["table", "view", "materialized view", "foreign table"];
    let relations = ownership.iter().filter(|o| RELATIONS.contains(&&*o.kind));
    relations.map(|o| (o.identity.as_str(), o.owner.as_str())).collect()
}

/// What a difference in code is of.
#[derive(Clone, Copy, Debug)]
enum CodeOf<'a> {
    Relation(&'a str),
    /// Any of the routines with this name.
    Routine(&'a str),
    /// Of a relation that the difference does not name.
    Unnamed,
    /// Of any relation or routine.
    Anything,
}

/// `None`: no code.
fn code_of(difference: &Difference) -> Option<CodeOf<'_>> {
    // The longer word first.
    const KINDS: [&str; 20] = [
        "materialized view ",
        "view ",
        "foreign table ",
        "table ",
        "column ",
        "constraint ",
        "index ",
        "trigger ",
        "rule ",
        "policy ",
        "aggregate ",
        "operator class ",
        "operator ",
        "cast ",
        "domain ",
        "range ",
        "attribute ",
        "statistics ",
        "function ",
        "procedure ",
    ];
    /// What makes a table part of another.
    const PARENTS: [&str; 2] = ["inherits from", "partition bound"];
    // What is not told one by one may be code.
    if [FURTHER, TOO_MANY].contains(&difference.what.as_str()) {
        return Some(CodeOf::Anything);
    }
    let (kind, name) = KINDS.iter().find_map(|kind| Some((kind.trim_end(), difference.object.strip_prefix(kind)?)))?;
    let what = difference.what.as_str();
    let is_new = what == "existence" && difference.found.is_some();
    let is_code = match kind {
        "view" | "materialized view" => is_new || ["definition", "options"].contains(&what),
        // Whoever writes to a table writes to what inherits from it as well, and fires that one's triggers.
        "table" | "foreign table" => {
            is_new
                || PARENTS.contains(&what)
                || ["row level security", "partition key", "foreign options"].contains(&what)
        }
        "column" => is_new || ["default", "generated", "type"].contains(&what),
        "constraint" | "index" => is_new || what == "definition",
        // That there is one is for `ownership` to say.
        "function" | "procedure" => what == "definition",
        "aggregate" | "operator class" | "operator" | "cast" | "domain" | "range" | "attribute" | "statistics" => {
            is_new || !["comment", "existence", "statistics target"].contains(&what)
        }
        _ => what != "comment",
    };
    is_code.then(|| match kind {
        // It hangs on another, or may: whose that is the difference does not tell.
        "view" | "materialized view" | "table" | "foreign table" if is_new || PARENTS.contains(&what) => {
            CodeOf::Unnamed
        }
        "view" | "materialized view" | "table" | "foreign table" => CodeOf::Relation(name),
        "function" | "procedure" => CodeOf::Routine(without_arguments(name)),
        "column" => name.rsplit_once('.').map_or(CodeOf::Unnamed, |(relation, _)| CodeOf::Relation(relation)),
        "index" | "aggregate" | "operator class" | "operator" | "cast" | "domain" | "range" | "attribute"
        | "statistics" => CodeOf::Unnamed,
        _ => name.rsplit_once(" on ").map_or(CodeOf::Unnamed, |(_, relation)| CodeOf::Relation(relation)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned(kind: &str, identity: &str, owner: &str) -> ObjectOwnership {
        let (kind, identity, owner) = (kind.to_owned(), identity.to_owned(), owner.to_owned());
        ObjectOwnership { kind, identity, owner, grants: None, code: None }
    }

    fn differs(object: &str, what: &str, found: Option<&str>) -> Difference {
        let found = found.map(str::to_owned);
        Difference { object: object.to_owned(), what: what.to_owned(), expected: None, found }
    }

    #[test]
    fn what_is_code_of_another_owner_is_refused_and_nothing_else() {
        let record = [
            owned("table", "t.a", "platform"),
            owned("view", "t.v", "platform"),
            owned("table", "t.own", "tenant"),
            owned("function", "t.price(integer)", "platform"),
            owned("procedure", "t.mine(integer,text)", "tenant"),
        ];
        for (object, what, found, is_refused) in [
            ("view t.v", "definition", Some("x"), true),
            ("view t.v", "comment", Some("x"), false),
            ("column t.a.note", "default", Some("x"), true),
            ("column t.a.note", "type", Some("x"), true),
            ("column t.a.more", "existence", Some("there"), true),
            ("column t.own.more", "existence", Some("there"), false),
            ("table t.a", "inherits from", Some("t.own"), true),
            ("table t.own", "inherits from", Some("t.a"), true),
            ("table t.own", "partition bound", Some("DEFAULT"), true),
            ("table t.a", "partition key", Some("LIST (t.mine(id))"), true),
            ("table t.own", "partition key", Some("LIST (t.mine(id))"), false),
            ("table t.kid", "existence", Some("there"), true),
            ("foreign table t.kid", "existence", Some("there"), true),
            ("view t.kid", "existence", Some("there"), true),
            ("table t.own", "existence", None, false),
            ("table t.own", "comment", Some("x"), false),
            ("range t.r", "canonical", Some("t.mine"), true),
            ("range t.r", "comment", Some("x"), false),
            ("attribute t.pair.a", "type", Some("t.checked"), true),
            ("attribute t.pair.a", "comment", Some("x"), false),
            ("view t.v", "options", None, true),
            ("aggregate t.sum(integer)", "transition function", Some("t.f"), true),
            ("domain t.d", "comment", Some("x"), false),
            ("function t.price(n integer)", "definition", Some("x"), true),
            ("function t.price(n integer)", "comment", Some("x"), false),
            ("procedure t.mine(IN a integer, OUT b text)", "definition", Some("x"), false),
            ("everything else", FURTHER, Some("9"), true),
            ("the schema", TOO_MANY, Some("more than are compared"), true),
            ("column t.own.note", "default", Some("x"), false),
            ("trigger x on t.a", "existence", Some("there"), true),
            ("trigger x on t.a", "existence", None, true),
            ("trigger x on t.own", "existence", Some("there"), false),
            ("policy p on t.a", "using", Some("true"), true),
            ("table t.a", "row level security", None, true),
            ("table t.a", "rows", Some("2"), false),
            ("constraint c on t.a", "existence", Some("there"), true),
            ("constraint c on t.a", "existence", None, false),
            ("index t.i", "existence", Some("there"), true),
            ("publication p of t.a", "existence", None, false),
            ("cast (t.x as text)", "existence", None, false),
        ] {
            let refused = changed(&record, &["tenant"], &[differs(object, what, found)]);
            assert_eq!(!refused.is_empty(), is_refused, "{object}: {what}");
        }
        let anything = [differs("view t.v", "definition", Some("x")), differs("index t.i", "existence", Some("there"))];
        assert!(changed(&record[..2], &["platform"], &anything).is_empty(), "all is one owner's");
        assert!(changed(&record, &[], &anything).is_empty(), "there is no code that could have run");
    }
}
