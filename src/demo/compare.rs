//! A picture of a schema, and what differs between two of them. It shares no code with backing up and restoring, so that it can show
//! that they work.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::postgres::quote;

const FACTS: &str = include_str!("sql/facts.sql");

/// What a schema holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Picture {
    /// Tables, leaf partitions and filled materialised views, by name.
    pub tables: BTreeMap<String, Rows>,
    /// How many objects of each kind there are.
    pub objects: BTreeMap<String, usize>,
    /// `last_value` and `is_called` of each sequence.
    pub sequences: BTreeMap<String, (i64, bool)>,
    /// Texts of everything that has one, by kind and name: views, routines, columns, constraints, policies, comments, …
    pub definitions: BTreeMap<(String, String), String>,
    /// By kind and name.
    pub owners: BTreeMap<(String, String), String>,
    /// Object, and the right with who has it and from whom.
    pub grants: BTreeSet<(String, String)>,
}

/// A table's rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rows {
    pub count: i64,
    /// The same whatever the order of the rows.
    pub digest: String,
}

impl Picture {
    /// All rows of all tables, those of materialised views not counted.
    pub fn rows(&self) -> i64 {
        let is_view = |name: &str| self.owners.contains_key(&("materialised view".to_owned(), name.to_owned()));
        self.tables.iter().filter(|(name, _)| !is_view(name)).map(|(_, rows)| rows.count).sum()
    }

    /// How many tables there are, partitioned ones included.
    pub fn table_count(&self) -> usize {
        ["table", "partitioned table"].iter().filter_map(|kind| self.objects.get(*kind)).sum()
    }

    /// All objects, columns and comments not counted.
    pub fn object_count(&self) -> usize {
        let counts = self.objects.iter().filter(|(kind, _)| !matches!(kind.as_str(), "column" | "comment"));
        counts.map(|(_, count)| count).sum()
    }
}

/// Takes a picture of a schema, in one snapshot; an empty one of a schema that is missing. Needs a role that sees every row.
///
/// # Errors
/// The server refuses, or cannot be reached.
pub async fn snapshot(c: &mut PgConnection, schema: &str) -> Result<Picture, sqlx::Error> {
    let mut transaction = c.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
    let picture = snapshot_within(&mut transaction, schema).await;
    transaction.rollback().await?;
    picture
}

/// The same inside a transaction of the caller's, whose settings it changes.
///
/// # Errors
/// As [`snapshot`].
pub async fn snapshot_within(c: &mut PgConnection, schema: &str) -> Result<Picture, sqlx::Error> {
    // Equal values must give equal texts, whatever the session was set to.
    sqlx::raw_sql(
        "SET LOCAL search_path = ''; SET LOCAL row_security = off; SET LOCAL timezone = 'UTC'; SET LOCAL datestyle = 'ISO, YMD'; \
         SET LOCAL intervalstyle = 'postgres'; SET LOCAL extra_float_digits = 1; SET LOCAL bytea_output = 'hex';",
    )
    .execute(&mut *c)
    .await?;
    let mut picture = Picture::default();
    let relations: Vec<(String, bool)> = sqlx::query_as(
        "SELECT c.relname::text, c.relkind = 'S' FROM pg_catalog.pg_class c \
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         WHERE n.nspname = $1 AND c.relkind IN ('r', 'm', 'S') AND c.relispopulated",
    )
    .bind(schema)
    .fetch_all(&mut *c)
    .await?;
    for (name, is_sequence) in relations {
        let relation = quote::qualified(schema, &name);
        if is_sequence {
            let sql = format!("SELECT last_value, is_called FROM {relation}");
            let value = sqlx::query_as(AssertSqlSafe(sql)).fetch_one(&mut *c).await?;
            picture.sequences.insert(name, value);
            continue;
        }
        // A sum of hashes does not lose pairs of equal rows, as their XOR does. Rows become text by output functions alone.
        let sql = format!(
            "SELECT pg_catalog.count(*), pg_catalog.concat_ws('-', \
                 pg_catalog.sum(('x' || pg_catalog.substr(h, 1, 15))::pg_catalog.bit(60)::pg_catalog.int8), \
                 pg_catalog.sum(('x' || pg_catalog.substr(h, 16, 15))::pg_catalog.bit(60)::pg_catalog.int8)) \
             FROM (SELECT pg_catalog.md5(ROW(t.*)::pg_catalog.text) AS h FROM ONLY {relation} AS t) AS hashes"
        );
        let (count, digest) = sqlx::query_as(AssertSqlSafe(sql)).fetch_one(&mut *c).await?;
        picture.tables.insert(name, Rows { count, digest });
    }
    let facts: Vec<(String, String, String, String)> = sqlx::query_as(FACTS).bind(schema).fetch_all(&mut *c).await?;
    for (section, kind, object, fact) in facts {
        match section.as_str() {
            "owner" => _ = picture.owners.insert((kind, object), fact),
            "grant" => _ = picture.grants.insert((object, fact)),
            _ => {
                *picture.objects.entry(kind.clone()).or_default() += 1;
                picture.definitions.insert((kind, object), fact);
            }
        }
    }
    Ok(picture)
}

/// What is different in `after`, one line each, for people: rows first. Empty when nothing is.
pub fn diff(before: &Picture, after: &Picture) -> Vec<String> {
    let mut lines = Vec::new();
    for (name, was) in &before.tables {
        match after.tables.get(name) {
            None => lines.push(format!("table {name}: gone, with {} rows", was.count)),
            Some(is) if is.count != was.count => {
                lines.push(format!("table {name}: {} rows instead of {}", is.count, was.count));
            }
            Some(is) if is != was => lines.push(format!("table {name}: {} rows, with other content", is.count)),
            Some(_) => {}
        }
    }
    let new = after.tables.iter().filter(|(name, _)| !before.tables.contains_key(*name));
    lines.extend(new.map(|(name, is)| format!("table {name}: new, with {} rows", is.count)));
    for (name, was) in &before.sequences {
        if let Some(is) = after.sequences.get(name).filter(|is| *is != was) {
            let text = |(last, called): &(i64, bool)| format!("{last}{}", if *called { "" } else { " (unused)" });
            lines.push(format!("sequence {name}: at {} instead of {}", text(is), text(was)));
        }
    }
    // What a table is made of comes last: when the table is gone, all of it is.
    let is_part = |kind: &str| matches!(kind, "column" | "table" | "index" | "constraint" | "comment");
    let mut parts = Vec::new();
    let keys = before.definitions.keys().chain(after.definitions.keys()).collect::<BTreeSet<_>>();
    for key @ (kind, name) in keys {
        let what = match (before.definitions.get(key), after.definitions.get(key)) {
            (Some(was), Some(is)) if was == is => continue,
            (Some(_), Some(_)) => "defined otherwise",
            (_, None) => "gone",
            (None, _) => "new",
        };
        if is_part(kind) { &mut parts } else { &mut lines }.push(format!("{kind} {name}: {what}"));
    }
    for (key @ (kind, name), was) in &before.owners {
        if let Some(is) = after.owners.get(key).filter(|is| *is != was) {
            lines.push(format!("{kind} {name}: owned by {is} instead of {was}"));
        }
    }
    // The grants of what is gone, or new, are no news.
    let owned = |p: &Picture| p.owners.keys().map(|(kind, name)| format!("{kind} {name}")).collect::<BTreeSet<_>>();
    let (owned_before, owned_after) = (owned(before), owned(after));
    let is_news = |object: &str| owned_before.contains(object) == owned_after.contains(object);
    let missing = before.grants.difference(&after.grants).filter(|(object, _)| is_news(object));
    lines.extend(missing.map(|(object, right)| format!("{object}: no longer granted: {right}")));
    let added = after.grants.difference(&before.grants).filter(|(object, _)| is_news(object));
    lines.extend(added.map(|(object, right)| format!("{object}: newly granted: {right}")));
    for kind in before.objects.keys().chain(after.objects.keys()).collect::<BTreeSet<_>>() {
        let count = |picture: &Picture| picture.objects.get(kind).copied().unwrap_or(0);
        if count(before) != count(after) {
            lines.push(format!("objects of kind {kind}: {} instead of {}", count(after), count(before)));
        }
    }
    lines.append(&mut parts);
    if lines.is_empty() && before != after {
        lines.push("something differs that has no words".to_owned());
    }
    lines
}
