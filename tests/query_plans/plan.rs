//! A plan as `auto_explain` tells it.

use serde_json::Value;

/// One statement's plan, with what it read.
#[derive(Clone, Debug)]
pub struct Plan {
    pub query: String,
    root: Value,
}

impl Plan {
    /// From `duration: … ms  plan:` and a JSON document; other notices are none.
    pub fn parse(notice: &str) -> Option<Self> {
        let (_, json) = notice.split_once("plan:")?;
        let document: Value = serde_json::from_str(json.trim()).unwrap_or_else(|error| panic!("{error}: {notice}"));
        let query = document["Query Text"].as_str()?.split_whitespace().collect::<Vec<_>>().join(" ");
        Some(Self { query, root: document["Plan"].clone() })
    }

    /// Blocks found in memory or read, of the whole statement.
    pub fn blocks(&self) -> u64 {
        ["Shared Hit Blocks", "Shared Read Blocks"].iter().filter_map(|name| self.root[name].as_u64()).sum()
    }

    /// The tables that are read from beginning to end.
    pub fn sequential_scans(&self) -> Vec<String> {
        let mut found = Vec::new();
        walk(&self.root, &mut found);
        found
    }
}

fn walk(node: &Value, found: &mut Vec<String>) {
    if node["Node Type"].as_str().is_some_and(|name| name.ends_with("Seq Scan")) {
        found.extend(node["Relation Name"].as_str().map(str::to_owned));
    }
    node["Plans"].as_array().into_iter().flatten().for_each(|node| walk(node, found));
}

#[test]
fn a_plan_tells_what_is_read_from_beginning_to_end() {
    let notice = r#"duration: 0.010 ms  plan:
{"Query Text": "SELECT  1\n FROM a", "Plan": {"Node Type": "Limit", "Shared Hit Blocks": 3, "Shared Read Blocks": 4, "Plans": [
  {"Node Type": "Index Scan", "Relation Name": "b"}, {"Node Type": "Parallel Seq Scan", "Relation Name": "a"}]}}"#;
    let plan = Plan::parse(notice).unwrap();
    assert_eq!(
        (plan.query.as_str(), plan.blocks(), plan.sequential_scans()),
        ("SELECT 1 FROM a", 7, vec!["a".to_owned()])
    );
    assert!(Plan::parse("relation \"x\" exists already, skipping").is_none());
}
