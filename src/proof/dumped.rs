//! The rows' digests out of a plain dump, while it passes: the lines that `pg_dump` writes are those that `COPY … TO STDOUT` gives, so that nothing
//! has to be read from the database a second time.
//!
//! A dump is the tenant's text. Its function bodies and its rows may hold lines that look like those looked for here, so what was found counts
//! only if there is one way to read it: each table has exactly one `COPY … FROM stdin;`, and no row looks like one. Every statement
//! that `pg_dump` wrote is then among those found: it was met outside of rows, where it is found, or inside what was taken for rows, where it
//! casts doubt on everything. So a table that is found once was found at its own statement.

use std::collections::BTreeMap;

use super::{
    lines::{Line, Lines},
    row_sum::RowSum,
};
use crate::{postgres::inspect::TableColumns, proof_record::ProofLevel};

/// What a dump says of the rows of the tables that are looked for.
pub struct DumpedRows {
    tables: Tables,
    encoding: Vec<u8>,
    lines: Lines,
    reader: Reader,
}

/// By schema and name.
type Tables = BTreeMap<(String, String), (TableColumns, Found)>;

enum Found {
    Nothing,
    /// And nothing will be: its rows are written under another's name, or a name in its statement has a line break or is not UTF-8 in the dump.
    Hidden,
    Rows(RowSum),
    /// More than one statement, or one with other columns.
    Several,
}

/// What the dump tells of a table.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Told {
    Rows(RowSum),
    /// That it has no rows of this table, not even none.
    Missing,
    /// Nothing beyond doubt.
    Unclear,
}

#[derive(Default)]
struct Reader {
    within: Within,
    /// The rows of the statement under way.
    sum: RowSum,
    /// The dump's encoding, in the words of its own first lines.
    encoding: Option<Vec<u8>>,
    is_doubtful: bool,
    /// Rows are counted, and not digested.
    is_count: bool,
    /// Tables whose rows have ended.
    ended: u64,
}

#[derive(Default)]
enum Within {
    #[default]
    Statements,
    /// Rows of a table that is looked for.
    Rows((String, String)),
    /// Rows of another.
    OtherRows,
}

impl DumpedRows {
    /// Looks for the rows of these tables in a dump with this encoding (the server's name of it).
    pub fn of(tables: impl IntoIterator<Item = TableColumns>, encoding: &str, level: ProofLevel) -> Self {
        let is_plain = |name: &String| !name.contains('\n') && (encoding == "UTF8" || name.is_ascii());
        let tables = tables.into_iter().map(|table| {
            let is_found =
                table.root.is_none() && table.columns.iter().chain([&table.schema, &table.table]).all(is_plain);
            let found = if is_found { Found::Nothing } else { Found::Hidden };
            ((table.schema.clone(), table.table.clone()), (table, found))
        });
        let (lines, reader) = (Lines::default(), Reader { is_count: level != ProofLevel::Full, ..Reader::default() });
        Self { tables: tables.collect(), encoding: encoding.into(), lines, reader }
    }

    /// The next bytes of the dump.
    pub fn feed(&mut self, bytes: &[u8]) {
        let Self { tables, lines, reader, .. } = self;
        lines.feed(bytes, |line| reader.line(line, tables));
    }

    /// How many tables' rows are looked for.
    pub fn wanted(&self) -> u64 {
        self.tables.values().filter(|(_, found)| !matches!(found, Found::Hidden)).count() as u64
    }

    /// How many of them have passed. More than are wanted, where one was met twice.
    pub fn passed(&self) -> u64 {
        self.reader.ended
    }

    /// What was found of each table, in order of their names.
    pub(super) fn told(self) -> impl Iterator<Item = (TableColumns, Told)> {
        let is_unclear = self.reader.is_doubtful || self.reader.encoding.as_ref() != Some(&self.encoding);
        self.tables.into_values().map(move |(table, found)| {
            let told = match found {
                _ if is_unclear => Told::Unclear,
                Found::Rows(sum) => Told::Rows(sum),
                Found::Nothing => Told::Missing,
                Found::Hidden | Found::Several => Told::Unclear,
            };
            (table, told)
        })
    }
}

impl Reader {
    fn line(&mut self, line: Line<'_>, tables: &mut Tables) {
        match (&mut self.within, line) {
            (Within::Statements, Line::Whole(line)) => self.statement(line, tables),
            (Within::Statements | Within::OtherRows, Line::Long(_)) => {}
            (Within::Rows(_), Line::Long(_)) if self.is_count => self.sum.rows += 1,
            (Within::Rows(_), Line::Long(line)) => self.sum.add_digested(line),
            (Within::Rows(_) | Within::OtherRows, Line::Whole(b"\\.")) => {
                let sum = std::mem::take(&mut self.sum);
                if let Within::Rows(table) = std::mem::take(&mut self.within)
                    && let Some((_, found)) = tables.get_mut(&table)
                {
                    self.ended += 1;
                    *found = match found {
                        Found::Nothing => Found::Rows(sum),
                        Found::Hidden | Found::Rows(_) | Found::Several => Found::Several,
                    };
                }
            }
            (within, Line::Whole(line)) => {
                self.is_doubtful |= is_copy(line);
                match within {
                    Within::Rows(_) if self.is_count => self.sum.rows += 1,
                    Within::Rows(_) => self.sum.add_line(line),
                    Within::Statements | Within::OtherRows => {}
                }
            }
        }
    }

    fn statement(&mut self, line: &[u8], tables: &mut Tables) {
        if is_copy(line) {
            self.within = Within::OtherRows;
            if let Some((table, columns)) = parse(line)
                && let Some((known, found)) = tables.get_mut(&table)
            {
                if are(columns, &known.columns) {
                    self.within = Within::Rows(table);
                } else {
                    *found = Found::Several;
                }
            }
        } else if self.encoding.is_none() {
            let name = line.strip_prefix(b"SET client_encoding = '").and_then(|rest| rest.strip_suffix(b"';"));
            self.encoding = name.map(Into::into);
        }
    }
}

/// Whether `pg_dump` could have written this to begin rows. Source: `dumpTableData` in PostgreSQL's `pg_dump.c`.
fn is_copy(line: &[u8]) -> bool {
    line.starts_with(b"COPY ") && line.ends_with(b" FROM stdin;")
}

/// Schema, table and the list of columns of `COPY schema.table (one, "Two") FROM stdin;`, or without any column
/// `COPY schema.table  FROM stdin;`.
fn parse(line: &[u8]) -> Option<((String, String), &str)> {
    let text = std::str::from_utf8(line).ok()?;
    let text = text.strip_prefix("COPY ")?.strip_suffix(" FROM stdin;")?;
    let (schema, text) = name(text)?;
    let (table, text) = name(text.strip_prefix('.')?)?;
    Some(((schema, table), text.strip_prefix(' ')?))
}

/// Whether a list is of these columns. What it says is compared and not kept: a function's body may hold many long ones.
fn are(list: &str, columns: &[String]) -> bool {
    let Some(mut rest) = list.strip_prefix('(').and_then(|list| list.strip_suffix(')')) else {
        return list.is_empty() && columns.is_empty();
    };
    for (place, expected) in columns.iter().enumerate() {
        let column = if place == 0 { Some(rest) } else { rest.strip_prefix(", ") };
        match column.and_then(name) {
            Some((column, after)) if column == *expected => rest = after,
            _ => return false,
        }
    }
    rest.is_empty() && !columns.is_empty()
}

/// The identifier at the beginning, and what is behind it.
fn name(text: &str) -> Option<(String, &str)> {
    let Some(mut rest) = text.strip_prefix('"') else {
        let end = text.find(['.', ' ', ',', ')']).unwrap_or(text.len());
        return (end > 0).then(|| (text[..end].to_owned(), &text[end..]));
    };
    let mut name = String::new();
    loop {
        let (part, after) = rest.split_once('"')?;
        name.push_str(part);
        match after.strip_prefix('"') {
            Some(after) => (name.push('"'), rest = after),
            None => return Some((name, after)),
        };
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    const HEAD: &str = "--\n-- PostgreSQL database dump\n--\n\nSET client_encoding = 'UTF8';\n";
    const A: &str = "COPY t.a (x, \"Y\") FROM stdin;\n1\t2\n3\t\\N\n\\.\n\n";
    const B: &str = "COPY t.\"B b\"  FROM stdin;\n\n\n\\.\n\n";

    fn table(name: &str, columns: &[&str]) -> TableColumns {
        let (schema, columns) = ("t".to_owned(), columns.iter().map(|&column| column.to_owned()).collect());
        TableColumns { schema, table: name.to_owned(), columns, order_may_change: false, root: None }
    }

    fn dumped(text: &str, piece: usize, level: ProofLevel) -> HashMap<String, Told> {
        let tables = [
            table("a", &["x", "Y"]),
            table("B b", &[]),
            table("two\nlines", &["x"]),
            TableColumns { root: Some("t.root".to_owned()), ..table("leaf", &["x"]) },
        ];
        let mut dumped = DumpedRows::of(tables, "UTF8", level);
        text.as_bytes().chunks(piece).for_each(|piece| dumped.feed(piece));
        dumped.told().map(|(table, told)| (table.table, told)).collect()
    }

    fn rows(lines: &[&str]) -> RowSum {
        let mut sum = RowSum::default();
        lines.iter().for_each(|line| sum.add_line(line.as_bytes()));
        sum
    }

    /// How many rows are known of both tables; -1: none are there.
    fn known(text: &str) -> [Option<i64>; 2] {
        let dumped = dumped(text, 5, ProofLevel::Full);
        ["a", "B b"].map(|table| match &dumped[table] {
            Told::Rows(sum) => i64::try_from(sum.rows).ok(),
            Told::Missing => Some(-1),
            Told::Unclear => None,
        })
    }

    #[test]
    fn each_tables_lines_are_summed_however_the_dump_is_cut() {
        let text = format!("{HEAD}CREATE TABLE t.a ();\n\n{A}COPY t.other (z) FROM stdin;\n9\n\\.\n{B}-- end\n");
        for piece in [1, 3, 50, text.len()] {
            let told = dumped(&text, piece, ProofLevel::Full);
            assert_eq!(told["a"], Told::Rows(rows(&["1\t2", "3\t\\N"])), "{piece}");
            assert_eq!(told["B b"], Told::Rows(rows(&["", ""])), "{piece}");
            assert_eq!(told.get("other"), None, "it was not looked for");
            assert_eq!((&told["two\nlines"], &told["leaf"]), (&Told::Unclear, &Told::Unclear));
            let counted = dumped(&text, piece, ProofLevel::Counts);
            let Told::Rows(two) = &counted["a"] else { panic!("{piece}") };
            assert_eq!((two.rows, two.digest()), (2, RowSum::default().digest()), "{piece}");
        }
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_not_told() {
        let body = |lines: &str| format!("{HEAD}CREATE FUNCTION t.f() AS $$\n{lines}$$;\n{A}{B}");
        assert_eq!(known(&body("")), [Some(2), Some(2)]);
        // A whole table in a function's body, with its own columns and with others.
        assert_eq!(known(&body("COPY t.a (x, \"Y\") FROM stdin;\n7\n\\.\n")), [None, Some(2)]);
        assert_eq!(known(&body("COPY t.a (x) FROM stdin;\n7\n\\.\n")), [None, Some(2)]);
        // Statements that would swallow what follows: of the same table, of another, and of one that nobody looks for.
        for table in ["t.a (x)", "t.\"B b\" (x)", "t.c (x)", "t.\"a\"\"\" ", "not a name", ""] {
            assert_eq!(known(&body(&format!("COPY {table} FROM stdin;\n"))), [None, None], "{table}");
        }
        // A row that says so.
        assert_eq!(known(&format!("{HEAD}{}{B}", A.replace("3\t", "COPY t.a (x) FROM stdin;"))), [Some(2), Some(2)]);
        assert_eq!(known(&format!("{HEAD}{}{B}", A.replace("3\t\\N", "COPY x FROM stdin;"))), [None, None]);
        // Neither the end of the last table nor its encoding came.
        assert_eq!(known(&format!("{HEAD}{A}COPY t.\"B b\"  FROM stdin;\n\n")), [Some(2), Some(-1)]);
        assert_eq!(known(&format!("{A}{B}")), [None, None]);
        assert_eq!(known(&format!("{}{A}{B}", HEAD.replace("UTF8", "LATIN1"))), [None, None]);
    }

    #[test]
    fn names_are_read_as_pg_dump_writes_them() {
        for (line, schema, table, columns) in [
            ("COPY a.b (c) FROM stdin;", "a", "b", &["c"][..]),
            ("COPY \"a.b\".\"c\"\"d\" (\"e, f\", g, \"h)\") FROM stdin;", "a.b", "c\"d", &["e, f", "g", "h)"]),
            ("COPY ä._b1$ (\" FROM stdin;\") FROM stdin;", "ä", "_b1$", &[" FROM stdin;"]),
            ("COPY a.b  FROM stdin;", "a", "b", &[]),
        ] {
            let (found, list) = parse(line.as_bytes()).unwrap();
            assert_eq!((found.0.as_str(), found.1.as_str()), (schema, table), "{line}");
            let mut expected: Vec<String> = columns.iter().map(|&column| column.to_owned()).collect();
            assert!(are(list, &expected), "{line}");
            expected.push("more".to_owned());
            assert!(!are(list, &expected), "{line}");
        }
        for line in ["COPY a (b) FROM stdin;", "COPY a.b(c) FROM stdin;", "COPY a.\"b (c) FROM stdin;"] {
            assert_eq!(parse(line.as_bytes()), None, "{line}");
        }
        for list in ["()", "(b", "(b, )", "(, b)", "b", "(b c)", "(b), (b)"] {
            assert!(!are(list, &["b".to_owned()]), "{list}");
            assert!(!are(list, &[]), "{list}");
        }
    }
}
