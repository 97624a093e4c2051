//! A copy under another name: what in it still means the old one.

use sqlx::Connection as _;

use super::{RestoreError, Session, Target};

impl Session {
    /// The functions of a renamed copy that name the backup's schema in their body or settings, told for people. They are text: no renaming
    /// changes them, and they go on working on the schema of the old name, if there is one. That they could not be looked at is told like
    /// one: the restore stands by then.
    pub async fn bodies_that_name_another(&mut self) -> Vec<String> {
        match self.named_in_bodies().await {
            Ok(told) => told,
            Err(error) => vec![format!("whether functions name the schema's old name is not known: {error}")],
        }
    }

    async fn named_in_bodies(&mut self) -> Result<Vec<String>, RestoreError> {
        let (now, then) = match (&self.plan.target, &self.plan.schema_becomes) {
            (Target::Schema { schema, beside: Some(copy), .. }, _) => (&copy.schema, schema),
            (Target::Database { .. }, Some(becomes)) => (becomes, &self.schema_was),
            (Target::Schema { .. } | Target::Database { .. }, _) => return Ok(Vec::new()),
        };
        let mut c = self.target_connect().connect().await?;
        let named: Vec<String> = sqlx::query_scalar(
            "SELECT i.identity FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace \
             CROSS JOIN LATERAL pg_identify_object('pg_catalog.pg_proc'::regclass, p.oid, 0) i \
             WHERE n.nspname = $1 AND concat_ws(' ', p.prosrc, array_to_string(p.proconfig, ' ')) \
                   ~ ('(^|[^[:alnum:]_])' || regexp_replace($2, '([^[:alnum:]_])', '\\\\\\1', 'g') || '([^[:alnum:]_]|$)') \
             ORDER BY 1 LIMIT 100",
        )
        .bind(now)
        .bind(then)
        .fetch_all(&mut c)
        .await?;
        _ = c.close().await;
        Ok(named
            .into_iter()
            .map(|function| format!("function {function} names the schema {then:?} and goes on meaning that one"))
            .collect())
    }
}
