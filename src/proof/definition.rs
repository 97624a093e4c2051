//! What a schema consists of, read from the catalogs: one [`Defined`] for every object, with what is worth knowing of it.

use std::collections::BTreeMap;

use futures::TryStreamExt as _;
use sqlx::{
    AssertSqlSafe, PgConnection, Postgres,
    postgres::{PgArguments, types::Oid},
    query::QueryAs,
    types::Json,
};

use crate::{
    artifact::Sha256Digest,
    manifest::{DumpScope, Requirements},
    postgres::{
        expression::{kept, settled},
        inspect::{self, Selection},
    },
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

/// Characters of a text that the server still sends; of a longer one it sends what [`kept`] would keep of it.
const LONGEST_SENT: usize = 1 << 20;

/// Bytes of the whole that are held, about: a schema of a million columns has less.
const MOST: usize = 128 << 20;

/// Every object of the selection, sorted; `None` when there is more than memory should be given to. Members of extensions come with them,
/// and are left out.
pub(super) async fn read(
    connection: &mut PgConnection,
    selection: Selection<'_>,
    requirements: &Requirements,
) -> Result<Option<Vec<Defined>>, sqlx::Error> {
    let namespaces: Vec<Oid> = inspect::namespaces(connection, selection).await?;
    let mut definition = Some(Bounded { left: MOST, objects: Vec::new() });
    for query in QUERIES {
        let statement = shortened(query);
        let query = sqlx::query_as(AssertSqlSafe(statement)).bind(&namespaces);
        definition = Bounded::and(definition, query, connection).await?;
    }
    let extensions: Vec<&str> = requirements.extensions.iter().map(|extension| extension.name.as_str()).collect();
    let around = sqlx::query_as(AssertSqlSafe(shortened(include_str!("definition/around.sql"))))
        .bind(&namespaces)
        .bind(&requirements.roles)
        .bind(extensions)
        .bind(matches!(selection.scope, DumpScope::Database { .. }));
    definition = Bounded::and(definition, around, connection).await?;
    Ok(definition.map(|mut definition| {
        definition.objects.sort();
        definition.objects
    }))
}

/// The query with long texts cut by the server, for [`cut`]: no function's body fills the memory. In ASCII, because a database's encoding may
/// have nothing else.
fn shortened(query: &str) -> String {
    format!(
        "SELECT o.kind, o.name, CASE WHEN pg_column_size(o.facts) <= {LONGEST_SENT} THEN o.facts ELSE \
             (SELECT jsonb_object_agg(f.key, CASE WHEN length(f.value) <= {LONGEST_SENT} THEN f.value ELSE \
                  concat_ws(chr(1), '', left(f.value, 60), length(f.value)::text, \
                            encode(sha256(convert_to(f.value, 'UTF8')), 'hex')) END) \
              FROM jsonb_each_text(o.facts) AS f) END \
         FROM ({query}\n) AS o (kind, name, facts)"
    )
}

/// Objects as they come, as long as there is room.
struct Bounded {
    left: usize,
    objects: Vec<Defined>,
}

impl Bounded {
    /// Adds what the query finds; `None` from the first object on for which there is no room.
    async fn and(
        so_far: Option<Self>,
        query: QueryAs<'_, Postgres, Row, PgArguments>,
        connection: &mut PgConnection,
    ) -> Result<Option<Self>, sqlx::Error> {
        let mut so_far = so_far;
        let mut rows = query.fetch(connection);
        while let Some(row) = rows.try_next().await? {
            so_far = so_far.and_then(|so_far| so_far.with(defined(row)));
        }
        Ok(so_far)
    }

    fn with(mut self, object: Defined) -> Option<Self> {
        // With what an entry of a list or a map takes beside its texts.
        let facts: usize = object.facts.iter().map(|(what, text)| what.len() + text.len() + 64).sum();
        self.left = self.left.checked_sub(object.kind.len() + object.name.len() + facts + 96)?;
        self.objects.push(object);
        Some(self)
    }
}

/// What the server has cut, in the words of [`kept`].
fn cut(text: &str) -> Option<String> {
    let (beginning, rest) = text.strip_prefix('\u{1}')?.split_once('\u{1}')?;
    let (characters, digest) = rest.split_once('\u{1}')?;
    Some(format!("{beginning}… ({characters} characters, SHA-256 {digest})"))
}

fn defined((kind, name, Json(facts)): Row) -> Defined {
    let facts = facts.into_iter().map(|(what, text)| {
        let text = cut(&text).unwrap_or(text);
        let text = if what == "comment" { kept(&text) } else { kept(&settled(&text)) };
        (what, text)
    });
    Defined { kind, name, facts: facts.collect() }
}

/// SHA-256 of the definition's JSON.
pub(super) fn digest(definition: &[Defined]) -> Sha256Digest {
    Sha256Digest::of(&serde_json::to_vec(definition).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_held_than_there_is_room_for() {
        let object = |i: usize| {
            let facts = BTreeMap::from([("type".to_owned(), "x".repeat(kept(&"x".repeat(1_000_000)).len()))]);
            Defined { kind: "column".to_owned(), name: format!("t.c{i}"), facts }
        };
        let held = |left| (0..10).try_fold(Bounded { left, objects: Vec::new() }, |so_far, i| so_far.with(object(i)));
        assert_eq!(held(10_000).unwrap().objects.len(), 10);
        assert!(held(2_000).is_none());
    }
}
