//! Who outside a schema depends on it: foreign keys, views, partitions and functions of other schemas, publications. After a
//! restore they still point at the replaced schema, and dropping that with CASCADE would reach them.

use sqlx::{FromRow, PgConnection};

/// An object outside the schema that depends on it.
#[derive(Clone, Debug, FromRow)]
pub(super) struct Reference {
    class: i64,
    object: i64,
    /// `kind identity`, in which the schema has the name that it had at the time.
    pub said: String,
}

impl Reference {
    /// Whether it is the same object, however it is said.
    pub fn is(&self, other: &Self) -> bool {
        (self.class, self.object) == (other.class, other.object)
    }

    /// What becomes of it when the schema is replaced all the same.
    pub fn warning(&self) -> String {
        format!("{} refers to the replaced schema and will go on doing so", self.said)
    }
}

/// Everything that dropping the schema would drop and that does not belong to it, sorted by what is said.
/// `publications`: list the tables' places in publications too (dropping a table ends them harmlessly).
pub(super) async fn from_outside(
    c: &mut PgConnection,
    schema_oid: u32,
    publications: bool,
) -> Result<Vec<Reference>, sqlx::Error> {
    sqlx::query_as(include_str!("references.sql")).bind(i64::from(schema_oid)).bind(publications).fetch_all(c).await
}

/// In words.
pub(super) fn said(references: &[Reference]) -> Vec<&str> {
    references.iter().map(|reference| reference.said.as_str()).collect()
}
