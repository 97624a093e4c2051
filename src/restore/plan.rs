//! What a restore is going to do, written down before anything is touched: with the plan alone a later worker puts things right.

use serde::{Deserialize, Serialize};

use crate::ids::RestoreId;

/// Longest name of a database, schema or role, in bytes. Longer ones are cut short by the server, silently.
/// Source: `NAMEDATALEN - 1`, src/include/pg_config_manual.h.
pub const MAX_NAME: usize = 63;

/// Where one restore goes and the names that it uses there. Pure data: the caller stores it before [`prepare`](super::Session::prepare).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    pub id: RestoreId,
    pub target: Target,
    /// The login role made for this restore, `hf_restore_{short id}`.
    pub role: String,
}

/// What is replaced or made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Target {
    /// A schema, in place.
    Schema {
        schema: String,
        /// The schema that is replaced, by oid: names move, oids do not. `None`: there is none now.
        live_oid: Option<u32>,
        /// Where the replaced schema waits for an undo, `hf_before_{short id}`.
        side: String,
    },
    /// A new database.
    Database { database: String },
}

impl Plan {
    /// A restore of `schema` in place of the schema with the oid `live_oid`.
    pub fn schema(id: RestoreId, schema: impl Into<String>, live_oid: Option<u32>) -> Self {
        let target = Target::Schema { schema: schema.into(), live_oid, side: format!("hf_before_{}", id.short()) };
        Self { id, target, role: format!("hf_restore_{}", id.short()) }
    }

    /// A restore into a new database: `name`, or `hf_restored_{short id}`.
    pub fn database(id: RestoreId, name: Option<String>) -> Self {
        let database = name.unwrap_or_else(|| format!("hf_restored_{}", id.short()));
        Self { id, target: Target::Database { database }, role: format!("hf_restore_{}", id.short()) }
    }

    /// The name of what an undo takes out of use.
    pub fn undone_name(&self) -> String {
        format!("hf_undone_{}", self.id.short())
    }
}

/// Whether a schema's name is one that a restore gives to a schema out of use: `hf_before_` or `hf_undone_` and twelve
/// hexadecimal digits.
pub fn is_side_name(name: &str) -> bool {
    ["hf_before_", "hf_undone_"]
        .iter()
        .filter_map(|prefix| name.strip_prefix(prefix))
        .any(|short| short.len() == 12 && short.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_whatever_the_schema_is_called() {
        let id = RestoreId::generate();
        let plan = Plan::schema(id, "x".repeat(MAX_NAME), Some(7));
        let Target::Schema { side, .. } = &plan.target else { unreachable!() };
        assert!(side.len() <= MAX_NAME && is_side_name(side) && is_side_name(&plan.undone_name()));
        let text = serde_json::to_string(&plan).unwrap();
        assert_eq!(serde_json::from_str::<Plan>(&text).unwrap(), plan);
    }

    #[test]
    fn other_names_are_no_side_names() {
        for name in
            ["tenant_a", "hf_before_", "hf_before_0123456789aX", "hf_before_0123456789abc", "hf_restored_0123456789ab"]
        {
            assert!(!is_side_name(name), "{name}");
        }
    }
}
