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
    /// The login role made for this restore, `hf_restore_{short id}`. A schema of the same name holds the steps of the one transaction.
    pub role: String,
    /// Where the target is, when it is not in the project's own database: for the caller, who connects.
    #[serde(default, skip_serializing_if = "Place::is_own")]
    pub place: Place,
    /// In a new database: the name that the backup's schema gets. `None`: its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema_becomes: Option<String>,
    /// The oid of the schema or database that the load has filled. By it the restore is known when others have made something of its name
    /// meanwhile. `None`: nothing was loaded yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made: Option<u32>,
}

/// Which server and database a restore goes to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The name under which the server's URL is known. `None`: the project's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// Another database of that server. `None`: the one of the URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<String>,
}

impl Place {
    pub fn is_own(&self) -> bool {
        *self == Self::default()
    }
}

/// What is replaced or made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Target {
    /// A schema, in place or beside it.
    Schema {
        schema: String,
        /// The schema of that name now, by oid: names move, oids do not. `None`: there is none.
        live_oid: Option<u32>,
        /// Where the replaced schema waits for an undo, `hf_before_{short id}`.
        side: String,
        /// A copy under another name, which replaces nothing. `None`: in place.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        beside: Option<Beside>,
    },
    /// A new database.
    Database { database: String },
}

/// A copy of a schema, or of some of its tables, beside the live one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beside {
    /// The copy's name.
    pub schema: String,
    /// Only these tables with their rows. `None`: everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tables: Option<Vec<String>>,
}

impl Plan {
    /// A restore of `schema` in place of the schema with the oid `live_oid`.
    pub fn schema(id: RestoreId, schema: impl Into<String>, live_oid: Option<u32>) -> Self {
        let side = format!("hf_before_{}", id.short());
        Self::of(id, Target::Schema { schema: schema.into(), live_oid, side, beside: None })
    }

    /// The name of the schema into which single tables are restored, `hf_tables_{short id}`.
    pub fn tables_name(id: RestoreId) -> String {
        format!("hf_tables_{}", id.short())
    }

    /// A restore into a new database: `name`, or `hf_restored_{short id}`.
    pub fn database(id: RestoreId, name: Option<String>) -> Self {
        let database = name.unwrap_or_else(|| format!("hf_restored_{}", id.short()));
        Self::of(id, Target::Database { database })
    }

    fn of(id: RestoreId, target: Target) -> Self {
        let role = format!("hf_restore_{}", id.short());
        Self { id, target, role, place: Place::default(), schema_becomes: None, made: None }
    }

    /// The name that the restored schema has from its load's commit until everything about it is right.
    pub fn new_name(&self) -> String {
        format!("hf_new_{}", self.id.short())
    }

    /// What is made beside the live data, and replaces nothing.
    pub fn beside(&self) -> Option<&Beside> {
        match &self.target {
            Target::Schema { beside, .. } => beside.as_ref(),
            Target::Database { .. } => None,
        }
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
        assert!(plan.new_name().len() <= MAX_NAME && !is_side_name(&plan.new_name()));
        let text = serde_json::to_string(&plan).unwrap();
        assert_eq!(serde_json::from_str::<Plan>(&text).unwrap(), plan);
    }

    #[test]
    fn a_plan_from_before_there_were_other_places_is_read() {
        let id = RestoreId::generate();
        let old = serde_json::json!({
            "id": id, "role": format!("hf_restore_{}", id.short()),
            "target": { "kind": "schema", "schema": "t", "live_oid": 7, "side": format!("hf_before_{}", id.short()) },
        });
        assert_eq!(serde_json::from_value::<Plan>(old.clone()).unwrap(), Plan::schema(id, "t", Some(7)));
        assert_eq!(
            serde_json::to_value(Plan::schema(id, "t", Some(7))).unwrap(),
            old,
            "and an older worker reads ours"
        );
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
