//! What a schema consists of, read from the catalogs: one [`Defined`] for every object, with what is worth knowing of it.

use std::collections::BTreeMap;

use sqlx::{PgConnection, postgres::types::Oid, types::Json};

use super::expression::{kept, settled};
use crate::{
    artifact::Sha256Digest,
    manifest::{DumpScope, Requirements},
    postgres::inspect::{self, Selection},
    proof_record::Defined,
};

/// An object as the queries give it.
type Row = (String, String, Json<BTreeMap<String, String>>);

/// What takes the schemas' oids and nothing else.
const QUERIES: [&str; 5] = [
    include_str!("definition/relations.sql"),
    include_str!("definition/columns.sql"),
    include_str!("definition/attached.sql"),
    include_str!("definition/code.sql"),
    include_str!("definition/types.sql"),
];

/// Every object of the selection, sorted. Members of extensions come with them, and are left out.
pub(super) async fn read(
    connection: &mut PgConnection,
    selection: Selection<'_>,
    requirements: &Requirements,
) -> Result<Vec<Defined>, sqlx::Error> {
    let namespaces: Vec<Oid> = inspect::namespaces(connection, selection).await?;
    let mut rows: Vec<Row> = Vec::new();
    for query in QUERIES {
        rows.extend(sqlx::query_as::<_, Row>(query).bind(&namespaces).fetch_all(&mut *connection).await?);
    }
    let extensions: Vec<&str> = requirements.extensions.iter().map(|extension| extension.name.as_str()).collect();
    let around: Vec<Row> = sqlx::query_as(include_str!("definition/around.sql"))
        .bind(&namespaces)
        .bind(&requirements.roles)
        .bind(extensions)
        .bind(matches!(selection.scope, DumpScope::Database { .. }))
        .fetch_all(&mut *connection)
        .await?;
    rows.extend(around);
    let mut definition: Vec<Defined> = rows.into_iter().map(defined).collect();
    definition.sort();
    Ok(definition)
}

fn defined((kind, name, Json(facts)): Row) -> Defined {
    let facts = facts.into_iter().map(|(what, text)| {
        let text = if what == "comment" { kept(&text) } else { kept(&settled(&text)) };
        (what, text)
    });
    Defined { kind, name, facts: facts.collect() }
}

/// SHA-256 of the definition's JSON.
pub(super) fn digest(definition: &[Defined]) -> Sha256Digest {
    Sha256Digest::of(&serde_json::to_vec(definition).unwrap_or_default())
}
