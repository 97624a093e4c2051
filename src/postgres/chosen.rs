//! Which tables a partial backup takes: names as people gave them, looked up in the catalog.
//!
//! A name is a name, never a pattern. A partitioned table brings its partitions along, whichever way it is named: without them `pg_dump`
//! would take the definition and leave the rows.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::{PgConnection, postgres::types::Oid};

use super::inspect::{Selection, namespaces};
use crate::manifest::{DumpScope, Partial, TableName};

/// What to take of a scope, as it was asked for. Tables are named as they are called in a project's schema, and as `schema.table` in a whole
/// database. Views, materialised views and foreign tables count as tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableChoice {
    /// Only these; empty is everything.
    pub tables: Vec<String>,
    pub exclude_tables: Vec<String>,
    /// The definition is taken, the rows are not.
    pub exclude_table_data: Vec<String>,
}

impl TableChoice {
    pub fn is_everything(&self) -> bool {
        self.tables.is_empty() && self.exclude_tables.is_empty() && self.exclude_table_data.is_empty()
    }
}

/// What was chosen, as the catalog has it.
#[derive(Clone, Debug)]
pub struct Chosen {
    /// For the manifest, and for `pg_dump`'s arguments.
    pub partial: Partial,
    /// Relations whose definition is in the dump.
    pub defined: Vec<Oid>,
    /// Those of them whose rows are in the dump as well.
    pub filled: Vec<Oid>,
    /// Sequences that are in the dump.
    pub sequences: Vec<Oid>,
}

/// Why nothing can be chosen.
#[derive(Debug, thiserror::Error)]
pub enum ChoiceError {
    #[error("{list} names {name:?}, and there is no such table in {scope}")]
    Unknown { list: &'static str, name: String, scope: String },
    #[error("{list} names {name:?}, which is more than one table in {scope}")]
    Ambiguous { list: &'static str, name: String, scope: String },
    #[error("nothing is left to back up: every table that is named in tables is in exclude_tables too")]
    Nothing,
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// One relation of the scope.
#[derive(Debug)]
struct Relation {
    oid: Oid,
    name: TableName,
    /// The partitioned table that it is a partition of.
    parent: Option<Oid>,
}

/// Looks the names up.
///
/// # Errors
/// See [`ChoiceError`].
pub async fn choose(
    connection: &mut PgConnection,
    selection: Selection<'_>,
    choice: &TableChoice,
) -> Result<Chosen, ChoiceError> {
    let namespaces = namespaces(connection, selection).await?;
    let catalog = Catalog::read(connection, selection.scope, &namespaces).await?;
    let named = |list, names: &[String]| catalog.find(list, names);
    let tables = if choice.tables.is_empty() { None } else { Some(named("tables", &choice.tables)?) };
    let excluded = named("exclude_tables", &choice.exclude_tables)?;
    let emptied = named("exclude_table_data", &choice.exclude_table_data)?;
    let is_defined = |at: &usize| tables.as_ref().is_none_or(|tables| tables.contains(at)) && !excluded.contains(at);
    let defined: BTreeSet<usize> = (0..catalog.relations.len()).filter(is_defined).collect();
    if tables.is_some() && defined.is_empty() {
        return Err(ChoiceError::Nothing);
    }
    let oid = |at: &usize| catalog.relations[*at].oid;
    let names = |chosen: &BTreeSet<usize>| chosen.iter().map(|at| catalog.relations[*at].name.clone()).collect();
    let oids: BTreeSet<u32> = defined.iter().map(|at| oid(at).0).collect();
    Ok(Chosen {
        partial: Partial {
            tables: tables.as_ref().map(names),
            exclude_tables: names(&excluded),
            exclude_table_data: names(&emptied),
        },
        defined: defined.iter().map(oid).collect(),
        filled: defined.difference(&emptied).map(oid).collect(),
        sequences: sequences(connection, &namespaces, tables.is_some(), &oids).await?,
    })
}

/// The relations of a scope, in order of their names.
struct Catalog {
    relations: Vec<Relation>,
    /// By what people call them; several only where `schema.table` reads in two ways.
    by_name: BTreeMap<String, Vec<usize>>,
    partitions: BTreeMap<u32, Vec<usize>>,
    /// In words.
    scope: String,
}

impl Catalog {
    async fn read(connection: &mut PgConnection, scope: &DumpScope, namespaces: &[Oid]) -> Result<Self, sqlx::Error> {
        // Members of extensions are in no dump.
        let rows: Vec<(Oid, String, String, Option<Oid>)> = sqlx::query_as(
            "SELECT c.oid, n.nspname::text, c.relname::text, i.inhparent \
             FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
             LEFT JOIN pg_catalog.pg_inherits i ON i.inhrelid = c.oid AND c.relispartition \
             WHERE c.relnamespace = ANY ($1) AND c.relkind::text = ANY ('{r,p,v,m,f}') \
               AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass \
                               AND d.objid = c.oid AND d.objsubid = 0 AND d.deptype = 'e') \
             ORDER BY 2, 3",
        )
        .bind(namespaces)
        .fetch_all(connection)
        .await?;
        let relations: Vec<Relation> = rows
            .into_iter()
            .map(|(oid, schema, table, parent)| Relation { oid, name: TableName { schema, table }, parent })
            .collect();
        let (mut by_name, mut partitions) = (BTreeMap::<_, Vec<_>>::new(), BTreeMap::<_, Vec<_>>::new());
        for (at, Relation { name, parent, .. }) in relations.iter().enumerate() {
            let called = match scope {
                DumpScope::Schema { .. } => name.table.clone(),
                DumpScope::Database { .. } => format!("{}.{}", name.schema, name.table),
            };
            by_name.entry(called).or_default().push(at);
            if let Some(parent) = parent {
                partitions.entry(parent.0).or_default().push(at);
            }
        }
        let scope = match scope {
            DumpScope::Schema { schema } => format!("schema {schema:?}"),
            DumpScope::Database { database } => format!("database {database:?}: name it as schema.table"),
        };
        Ok(Self { relations, by_name, partitions, scope })
    }

    /// The named relations with all their partitions.
    fn find(&self, list: &'static str, names: &[String]) -> Result<BTreeSet<usize>, ChoiceError> {
        let mut waiting = Vec::new();
        for name in names {
            let scope = || self.scope.clone();
            match self.by_name.get(name).map(Vec::as_slice) {
                Some([at]) => waiting.push(*at),
                Some(_) => return Err(ChoiceError::Ambiguous { list, name: name.clone(), scope: scope() }),
                None => return Err(ChoiceError::Unknown { list, name: name.clone(), scope: scope() }),
            }
        }
        let mut found = BTreeSet::new();
        while let Some(at) = waiting.pop() {
            if found.insert(at) {
                waiting.extend(self.partitions.get(&self.relations[at].oid.0).into_iter().flatten());
            }
        }
        Ok(found)
    }
}

/// The sequences that `pg_dump` takes: with tables that are named their own ones; else all, but those of identity columns of tables that are
/// left out. Source: `getOwnedSeqs` in PostgreSQL's `pg_dump.c`.
async fn sequences(
    connection: &mut PgConnection,
    namespaces: &[Oid],
    is_named: bool,
    defined: &BTreeSet<u32>,
) -> Result<Vec<Oid>, sqlx::Error> {
    let all: Vec<(Oid, Option<Oid>, Option<bool>)> = sqlx::query_as(
        "SELECT s.oid, d.refobjid, d.deptype::text = 'i' FROM pg_catalog.pg_class s \
         LEFT JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = s.oid \
              AND d.objsubid = 0 AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.deptype::text IN ('a', 'i') \
         WHERE s.relnamespace = ANY ($1) AND s.relkind::text = 'S' ORDER BY 1",
    )
    .bind(namespaces)
    .fetch_all(connection)
    .await?;
    let is_taken = |owner: Option<Oid>, is_identity: Option<bool>| {
        let of_defined = owner.is_some_and(|owner| defined.contains(&owner.0));
        of_defined || (!is_named && is_identity != Some(true))
    };
    Ok(all.into_iter().filter(|(_, owner, identity)| is_taken(*owner, *identity)).map(|(oid, ..)| oid).collect())
}
