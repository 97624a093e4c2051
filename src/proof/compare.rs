//! What differs between a backup's record and what is there: pure, and every difference has a name.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde::{Deserialize, Serialize};

use super::{Surroundings, row_sum::RowSum};
use crate::{
    artifact::Sha256Digest,
    manifest::{DatabaseContent, SequenceValue, TableRows},
    postgres::quote::ident,
    proof_record::{Defined, ProofLevel, RowsDigest},
};

/// Most differences that are told one by one: a wrong schema differs everywhere.
const MOST: usize = 500;

/// In what an object differs that is missing or was not in the backup.
const EXISTENCE: &str = "existence";

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// Where: `table t.orders`, `column t.orders.note`.
    pub object: String,
    /// In what: `rows`, `content`, `default`; `existence` for an object that is missing or was not in the backup.
    pub what: String,
    /// `None`: not set.
    pub expected: Option<String>,
    pub found: Option<String>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { object, what, expected, found } = self;
        let said = |text: &Option<String>| text.clone().unwrap_or_else(|| "nothing".to_owned());
        let line = match (what.as_str(), expected, found) {
            (EXISTENCE, _, None) => format!("{object} is not there"),
            (EXISTENCE, ..) => format!("{object} was not in the backup"),
            ("rows", ..) => format!("{object} has {} rows instead of {}", said(found), said(expected)),
            ("content", ..) => format!("{object} has other rows: digest {} instead of {}", said(found), said(expected)),
            ("position", ..) => format!("{object} stands at {} instead of {}", said(found), said(expected)),
            _ => format!("{object}: {what} is {} instead of {}", said(found), said(expected)),
        };
        f.write_str(&line.replace(['\n', '\r'], " "))
    }
}

/// The differences as lines for people.
pub fn told(differences: &[Difference]) -> Vec<String> {
    differences.iter().map(ToString::to_string).collect()
}

/// What is there.
pub(super) struct Found {
    pub server_version: u32,
    pub table_count: u64,
    pub tables: Vec<TableRows>,
    pub rows: Vec<RowsDigest>,
    /// Partitions between which rows may move in a restore, by schema and name, and the table that they are parts of.
    pub roots: BTreeMap<(String, String), String>,
    pub sequences: Vec<SequenceValue>,
    /// Sequences that count down, by schema and name.
    pub descending: Vec<(String, String)>,
    /// `None`: more than memory should be given to.
    pub definition: Option<Vec<Defined>>,
}

/// What a difference is that stands for those that are not told one by one.
pub const FURTHER: &str = "further differences";
/// What a difference is when there are more definitions than are compared.
pub const TOO_MANY: &str = "number of definitions";

pub(super) fn compare(content: &DatabaseContent, found: &Found, surroundings: Surroundings) -> Vec<Difference> {
    let mut differences = Vec::new();
    let definition = content.proof.as_ref().filter(|proof| proof.is_known()).map(|proof| proof.definition.as_slice());
    let definition = definition.filter(|definition| !definition.is_empty());
    let level = content.proof.as_ref().map_or(ProofLevel::Counts, |proof| proof.level);
    if found.table_count != content.table_count {
        let object = "the schema".to_owned();
        differences.push(changed(object, "number of tables", content.table_count, found.table_count));
    }
    if level != ProofLevel::Off {
        rows(content, found, &mut differences);
    }
    sequences(content, found, &mut differences);
    if let Some(definition) = definition {
        // It names what is missing or new itself.
        differences.retain(|difference| difference.what != EXISTENCE);
        let versions = (content.server_version, found.server_version);
        match &found.definition {
            Some(now) => definitions(definition, now, versions, surroundings, &mut differences),
            None => {
                let object = "the schema".to_owned();
                differences.push(changed(object, TOO_MANY, definition.len(), "more than are compared"));
            }
        }
    }
    if differences.len() > MOST {
        let more = differences.split_off(MOST).len();
        differences.push(Difference {
            object: "everything else".to_owned(),
            what: FURTHER.to_owned(),
            expected: None,
            found: Some(more.to_string()),
        });
    }
    differences
}

/// A name as `quote_ident` writes it, but for keywords.
fn shown(schema: &str, name: &str) -> String {
    let part = |name: &str| {
        let is_plain = !name.starts_with(|c: char| c.is_ascii_digit())
            && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        if is_plain && !name.is_empty() { name.to_owned() } else { ident(name) }
    };
    format!("{}.{}", part(schema), part(name))
}

fn changed(object: String, what: &str, expected: impl ToString, found: impl ToString) -> Difference {
    Difference { object, what: what.to_owned(), expected: Some(expected.to_string()), found: Some(found.to_string()) }
}

fn missing(object: String) -> Difference {
    Difference { object, what: EXISTENCE.to_owned(), expected: Some("there".to_owned()), found: None }
}

fn unexpected(object: String) -> Difference {
    Difference { object, what: EXISTENCE.to_owned(), expected: None, found: Some("there".to_owned()) }
}

fn rows(content: &DatabaseContent, found: &Found, differences: &mut Vec<Difference>) {
    let name = |schema: &str, table: &str| format!("table {}", shown(schema, table));
    let counts: BTreeMap<_, _> = found.tables.iter().map(|t| ((&t.schema, &t.table), t.rows)).collect();
    let digests = |list: &[RowsDigest]| -> BTreeMap<(String, String), Sha256Digest> {
        list.iter().map(|t| ((t.schema.clone(), t.table.clone()), t.sha256_sum)).collect()
    };
    let recorded = digests(content.proof.as_ref().map_or(&[], |proof| proof.rows.as_slice()));
    let now = digests(&found.rows);
    let mut trees: BTreeMap<&String, [RowSum; 2]> = BTreeMap::new();
    for table in &content.tables {
        let object = name(&table.schema, &table.table);
        let key = (table.schema.clone(), table.table.clone());
        let Some(rows) = counts.get(&(&table.schema, &table.table)) else {
            differences.push(missing(object));
            continue;
        };
        let both = recorded.get(&key).zip(now.get(&key));
        if let Some(root) = found.roots.get(&key) {
            let [then, today] = trees.entry(root).or_default();
            // Where only counts are known, they are compared.
            let (expected, digest) = both.map_or((Sha256Digest([0; 32]), Sha256Digest([0; 32])), |(a, b)| (*a, *b));
            then.add_table(table.rows, expected);
            today.add_table(*rows, digest);
        } else {
            of_rows(object, (table.rows, *rows), both, differences);
        }
    }
    for (root, [then, today]) in trees {
        let object = format!("table {root} with its partitions by hash");
        of_rows(object, (then.rows, today.rows), Some((&then.digest(), &today.digest())), differences);
    }
    let expected: BTreeSet<_> = content.tables.iter().map(|t| (&t.schema, &t.table)).collect();
    let extra = found.tables.iter().filter(|t| !expected.contains(&(&t.schema, &t.table)));
    differences.extend(extra.map(|t| unexpected(name(&t.schema, &t.table))));
}

fn of_rows(
    object: String,
    (expected, found): (u64, u64),
    digests: Option<(&Sha256Digest, &Sha256Digest)>,
    differences: &mut Vec<Difference>,
) {
    if expected != found {
        differences.push(changed(object, "rows", expected, found));
    } else if let Some((expected, found)) = digests
        && expected != found
    {
        differences.push(changed(object, "content", expected, found));
    }
}

/// Sequences keep to no snapshot: the dump holds a value between those of its beginning and its end.
fn sequences(content: &DatabaseContent, found: &Found, differences: &mut Vec<Difference>) {
    let is =
        |value: &SequenceValue, other: &SequenceValue| value.schema == other.schema && value.sequence == other.sequence;
    for begin in &content.sequences {
        let object = format!("sequence {}", shown(&begin.schema, &begin.sequence));
        let Some(now) = found.sequences.iter().find(|now| is(now, begin)) else {
            differences.push(missing(object));
            continue;
        };
        let is_descending = found.descending.iter().any(|(s, n)| *s == begin.schema && *n == begin.sequence);
        let place = |value: &SequenceValue| {
            let last = i128::from(value.last_value);
            (if is_descending { -last } else { last }, value.is_called)
        };
        // Without a proof nothing is known of the end.
        let end =
            content.proof.as_ref().map(|proof| proof.moved_sequences.iter().find(|m| is(m, begin)).unwrap_or(begin));
        let is_right = match end {
            None => place(now) >= place(begin),
            // It began anew while the dump was taken.
            Some(end) if place(end) < place(begin) => true,
            Some(end) => (place(begin)..=place(end)).contains(&place(now)),
        };
        if !is_right {
            let told = |v: &SequenceValue| format!("{}{}", v.last_value, if v.is_called { "" } else { ", not called" });
            differences.push(changed(object, "position", told(begin), told(now)));
        }
    }
}

/// Whether a fact or an object can be compared between servers of these versions at all.
fn is_comparable(kind: &str, what: &str, versions: (u32, u32)) -> bool {
    let (then, now) = (versions.0 / 10_000, versions.1 / 10_000);
    if then == now {
        return true;
    }
    // Queries and expressions are written otherwise by another major version (16, for one, leaves out a single table's name).
    !matches!(what, "definition" | "using" | "with check" | "default" | "generated")
        || matches!(kind, "index" | "trigger")
}

fn definitions(
    expected: &[Defined],
    found: &[Defined],
    versions: (u32, u32),
    surroundings: Surroundings,
    differences: &mut Vec<Difference>,
) {
    type Objects = BTreeMap<(String, String), BTreeMap<String, String>>;
    let is_compared = |object: &&Defined| match object.kind.as_str() {
        "setting" | "publication" => surroundings == Surroundings::Compared,
        // NOT NULL has constraints of its own from PostgreSQL 18 on.
        "constraint" if (versions.0 >= 180_000) != (versions.1 >= 180_000) => {
            object.facts.get("definition").is_none_or(|definition| !definition.starts_with("NOT NULL"))
        }
        _ => true,
    };
    let by_key = |list: &[Defined]| -> Objects {
        list.iter().filter(is_compared).map(|o| ((o.kind.clone(), o.name.clone()), o.facts.clone())).collect()
    };
    let (expected, found) = (by_key(expected), by_key(found));
    let name = |(kind, name): &(String, String)| format!("{kind} {name}");
    // With a table goes all that hangs on it, which is not told one by one.
    let is_gone = |(kind, name): &(String, String), had: &Objects, has: &Objects| {
        let owner = match kind.as_str() {
            "column" | "attribute" => name.rsplit_once('.').map(|(owner, _)| owner),
            "constraint" | "trigger" | "rule" | "policy" => name.rsplit_once(" on ").map(|(_, owner)| owner),
            _ => None,
        };
        const OWNERS: [&str; 6] = ["table", "view", "materialized view", "foreign table", "domain", "composite type"];
        let is_in = |objects: &Objects, owner: &str| {
            OWNERS.iter().any(|kind| objects.contains_key(&((*kind).to_owned(), owner.to_owned())))
        };
        owner.is_some_and(|owner| is_in(had, owner) && !is_in(has, owner))
    };
    for (key, facts) in &expected {
        let Some(now) = found.get(key) else {
            if !is_gone(key, &expected, &found) {
                differences.push(missing(name(key)));
            }
            continue;
        };
        let whats: BTreeSet<&String> = facts.keys().chain(now.keys()).collect();
        for what in whats.into_iter().filter(|what| is_comparable(&key.0, what, versions)) {
            let (then, now) = (facts.get(what), now.get(what));
            if then != now {
                let (expected, found) = (then.cloned(), now.cloned());
                differences.push(Difference { object: name(key), what: what.clone(), expected, found });
            }
        }
    }
    let extra = found.keys().filter(|key| !expected.contains_key(*key) && !is_gone(key, &found, &expected));
    differences.extend(extra.map(|key| unexpected(name(key))));
}

/// What is there and was not recorded, or not so. What is missing is not told: for parts of a backup, which lack much.
pub(super) fn additions(expected: &[Defined], found: &[Defined]) -> Vec<Difference> {
    let recorded: BTreeMap<(&str, &str), &Defined> =
        expected.iter().map(|object| ((object.kind.as_str(), object.name.as_str()), object)).collect();
    let mut additions = Vec::new();
    // What belongs to the database is no part of a backup's part.
    for now in found.iter().filter(|object| !matches!(object.kind.as_str(), "setting" | "publication")) {
        let object = format!("{} {}", now.kind, now.name);
        let Some(then) = recorded.get(&(now.kind.as_str(), now.name.as_str())) else {
            additions.push(unexpected(object));
            continue;
        };
        for (what, text) in now.facts.iter().filter(|(what, text)| then.facts.get(*what) != Some(*text)) {
            // FORCE comes with the table itself, and ENABLE does not.
            if text == "forced, not enabled" && then.facts.get(what).is_some_and(|text| text == "forced") {
                continue;
            }
            let (expected, found) = (then.facts.get(what).cloned(), Some(text.clone()));
            additions.push(Difference { object: object.clone(), what: what.clone(), expected, found });
        }
    }
    additions
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        manifest::{DumpScope, Requirements},
        proof_record::{Proof, VERSION},
    };

    fn object(kind: &str, name: &str, facts: &[(&str, &str)]) -> Defined {
        let facts = facts.iter().map(|(what, text)| ((*what).to_owned(), (*text).to_owned())).collect();
        Defined { kind: kind.to_owned(), name: name.to_owned(), facts }
    }

    fn differ(expected: &[Defined], found: &[Defined], versions: (u32, u32), around: Surroundings) -> Vec<String> {
        let mut differences = Vec::new();
        definitions(expected, found, versions, around, &mut differences);
        told(&differences)
    }

    const SAME: (u32, u32) = (150_000, 150_020);

    #[test]
    fn rows_that_moved_between_partitions_are_no_difference_and_those_that_are_lost_are() {
        let digest = |text: &str| {
            let mut sum = RowSum::default();
            text.chars().for_each(|row| sum.add_line(row.to_string().as_bytes()));
            (sum.rows, sum.digest())
        };
        let tables = |texts: [&str; 3]| {
            let each = ["a", "b", "other"].into_iter().zip(texts).map(|(table, text)| {
                let ((rows, sha256_sum), schema, table) = (digest(text), "t".to_owned(), table.to_owned());
                let columns = Vec::new();
                (
                    TableRows { schema: schema.clone(), table: table.clone(), rows },
                    RowsDigest { schema, table, columns, sha256_sum },
                )
            });
            each.unzip::<_, _, Vec<_>, Vec<_>>()
        };
        let (counted, digests) = tables(["xy", "z", "k"]);
        let proof = Proof {
            version: VERSION,
            level: ProofLevel::Full,
            encoding: "UTF8".to_owned(),
            rows: digests,
            definition_sha256: None,
            definition: Vec::new(),
            moved_sequences: Vec::new(),
            disk_bytes: 0,
        };
        let content = DatabaseContent {
            scope: DumpScope::Schema { schema: "t".to_owned() },
            partial: None,
            server_version: 0,
            tool_version: 0,
            table_count: 0,
            row_count: 4,
            tables: counted,
            sequences: Vec::new(),
            ownership: Vec::new(),
            requirements: Requirements::default(),
            proof: Some(proof),
        };
        let roots: BTreeMap<_, _> =
            ["a", "b"].map(|table| (("t".to_owned(), table.to_owned()), "t.root".to_owned())).into();
        for (texts, expected) in [
            (["xy", "z", "k"], &[][..]),
            (["", "zyx", "k"], &[]),
            (["x", "z", "k"], &["table t.root with its partitions by hash has 2 rows instead of 3"]),
            (["xx", "z", "k"], &["table t.root with its partitions by hash has other rows"]),
            (
                ["x", "z", "ky"],
                &["table t.other has 2 rows instead of 1", "table t.root with its partitions by hash has 2"],
            ),
        ] {
            let (tables, rows) = tables(texts);
            let found = Found {
                server_version: 0,
                table_count: 0,
                tables,
                rows,
                roots: roots.clone(),
                sequences: Vec::new(),
                descending: Vec::new(),
                definition: None,
            };
            let mut differences = Vec::new();
            super::rows(&content, &found, &mut differences);
            let told = told(&differences);
            assert_eq!(told.len(), expected.len(), "{told:?}");
            assert!(told.iter().zip(expected).all(|(line, begin)| line.starts_with(begin)), "{told:?}");
        }
    }

    #[test]
    fn a_table_that_is_gone_is_told_once_and_a_column_with_a_dot_in_its_name_is_told() {
        let all = [
            object("table", "t.a", &[]),
            object("column", "t.a.id", &[("type", "integer")]),
            object("column", "t.a.\"x.y\"", &[("type", "integer")]),
            object("constraint", "a_pkey on t.a", &[]),
        ];
        assert_eq!(
            differ(&all, &[], SAME, Surroundings::Compared),
            ["column t.a.\"x.y\" is not there", "table t.a is not there"]
        );
        assert_eq!(differ(&all, &all[..2], SAME, Surroundings::Compared).len(), 2);
        assert_eq!(differ(&all[..2], &all[..1], SAME, Surroundings::Compared), ["column t.a.id is not there"]);
        assert_eq!(differ(&[], &all[..2], SAME, Surroundings::Compared), ["table t.a was not in the backup"]);
    }

    #[test]
    fn of_a_part_is_told_what_is_new_or_other_and_not_what_is_missing() {
        let then = [
            object("table", "t.a", &[("row level security", "enabled")]),
            object("column", "t.a.id", &[("default", "1"), ("type", "integer")]),
            object("policy", "own on t.a", &[("using", "false")]),
            object("table", "t.b", &[]),
            object("table", "t.c", &[("row level security", "forced")]),
        ];
        let now = [
            object("table", "t.a", &[]),
            object("column", "t.a.id", &[("default", "2"), ("type", "integer")]),
            object("policy", "own on t.a", &[("using", "true")]),
            object("trigger", "x on t.a", &[]),
            object("publication", "everything", &[]),
            object("table", "t.c", &[("row level security", "forced, not enabled")]),
        ];
        assert_eq!(
            told(&additions(&then, &now)),
            [
                "column t.a.id: default is 2 instead of 1",
                "policy own on t.a: using is true instead of false",
                "trigger x on t.a was not in the backup",
            ]
        );
        assert_eq!(additions(&now, &now), []);
    }

    #[test]
    fn a_fact_is_told_with_what_was_expected_and_what_was_found() {
        let then = [object("column", "t.a.id", &[("type", "integer"), ("default", "1")])];
        let now = [object("column", "t.a.id", &[("type", "bigint")])];
        assert_eq!(
            differ(&then, &now, SAME, Surroundings::Compared),
            ["column t.a.id: default is nothing instead of 1", "column t.a.id: type is bigint instead of integer"]
        );
    }

    #[test]
    fn what_another_major_version_writes_otherwise_is_not_called_a_difference() {
        let then =
            [object("view", "t.v", &[("definition", "SELECT a.id FROM t.a")]), object("setting", "x of role r", &[])];
        let now = [
            object("view", "t.v", &[("definition", "SELECT id FROM t.a")]),
            object("constraint", "a_id_not_null on t.a", &[("definition", "NOT NULL id")]),
        ];
        assert_eq!(differ(&then, &now, (150_000, 180_000), Surroundings::Ignored), Vec::<String>::new());
        assert_eq!(differ(&then, &now, SAME, Surroundings::Compared).len(), 3);
    }
}
