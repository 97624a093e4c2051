//! Archives (tar and custom): `pg_restore` turns them into text, which goes the same way as a plain dump. It never connects anywhere.

use std::{
    collections::{BTreeSet, HashSet},
    fs::File,
    io::{Read as _, Write as _},
    sync::{Arc, atomic::AtomicBool},
};

use super::{
    RestoreError,
    load::{Load, cannot_start, feed_archive, last_words},
    script::LeaveOut,
};
use crate::{
    artifact::Format,
    child::{Child, Command, inherited_path},
    postgres::tools::Tool,
};

/// Longest table of contents that is read, in bytes: about a million entries.
const MAX_LIST: u64 = 128 * 1024 * 1024;

/// Reads the archive's table of contents and leaves out what the administrator has done or nobody but a superuser may do.
pub(super) async fn edited_list(tool: &Tool, load: &Load, leave_out: &LeaveOut) -> Result<Arc<File>, RestoreError> {
    let failed = |message: String| RestoreError::new("restore.load_failed", message);
    let mut child = Command::new(&tool.path)
        .args(["--list", format_option(load.format)])
        .stdin_pipe()
        .stdout_pipe()
        .spawn()
        .await
        .map_err(|e| cannot_start("pg_restore", &e))?;
    let (Some(to_archive), Some(from_archive)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(failed("a pipe of the restore is missing".to_owned()));
    };
    let open = load.content.clone();
    // Abandoned from the start: here the end of the content is of no interest, the load itself will read it.
    let abandoned = Arc::new(AtomicBool::new(true));
    let leave_out = leave_out.clone();
    let work = async {
        let content = tokio::task::spawn_blocking(move || open())
            .await
            .map_err(|e| failed(e.to_string()))?
            .map_err(|e| RestoreError::new("restore.content", format!("the backup's content cannot be read: {e}")))?;
        let feeder = feed_archive(content, to_archive, abandoned);
        let list = tokio::task::spawn_blocking(move || {
            let mut list = String::new();
            let mut bytes = Vec::new();
            from_archive.take(MAX_LIST).read_to_end(&mut bytes)?;
            let entries = String::from_utf8_lossy(&bytes);
            let made = entries_of(&entries, &leave_out.schemas);
            for line in entries.lines().filter(|line| !made.contains(line) && keeps(line, &leave_out)) {
                list.push_str(line);
                list.push('\n');
            }
            let mut file = tempfile::tempfile()?;
            file.write_all(list.as_bytes())?;
            std::io::Result::Ok(Arc::new(file))
        })
        .await
        .map_err(|e| failed(e.to_string()))?
        .map_err(|e| RestoreError::passing("restore.tool", format!("cannot write the archive's list: {e}")))?;
        let exit = child.wait().await.map_err(|e| failed(format!("cannot wait for pg_restore: {e}")))?;
        let fed = feeder.await;
        if exit.status.success() {
            return Ok(list);
        }
        match fed {
            Ok(Err(e)) => {
                Err(RestoreError::new("restore.content", format!("the backup's content cannot be read: {e}")))
            }
            _ => Err(failed(format!("pg_restore cannot read the archive's list: {}", last_words(&exit)))),
        }
    };
    tokio::select! {
        list = work => list,
        () = load.cancel.cancelled() => Err(RestoreError::cancelled()),
    }
}

/// Starts `pg_restore` with the list, from its standard input to its standard output. It has no way to any database.
pub(super) async fn start(tool: &Tool, format: Format, list: &Arc<File>) -> Result<Child, RestoreError> {
    let mut use_list = std::ffi::OsString::from("--use-list=");
    use_list.push(inherited_path(list));
    Command::new(&tool.path)
        .args(["--file=-", "--no-owner", "--no-acl", format_option(format)])
        .arg(use_list)
        .inherit(Arc::clone(list))
        .stdin_pipe()
        .stdout_pipe()
        .spawn()
        .await
        .map_err(|e| cannot_start("pg_restore", &e))
}

fn format_option(format: Format) -> &'static str {
    match format {
        Format::Tar => "--format=t",
        // What is no archive is refused by `pg_restore` itself.
        Format::Sql | Format::Json | Format::Text | Format::Custom => "--format=c",
    }
}

/// The entry of a line: `dumpId; tableoid oid DESCRIPTION schema name owner`. Source: PrintTOCSummary, pg_backup_archiver.c.
fn entry(line: &str) -> Option<&str> {
    let (id, entry) = line.split_once("; ")?;
    if id.is_empty() || !id.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    entry.splitn(3, ' ').nth(2)
}

/// The lines of these schemas' own entries, one for each. Name and owner may both have spaces in them: of the lines that can be read as a
/// schema's, its own is the one that has the shortest owner then, because the others go on with the rest of a longer name.
fn entries_of<'a>(lines: &'a str, schemas: &BTreeSet<String>) -> HashSet<&'a str> {
    let named: Vec<(&str, &str)> =
        lines.lines().filter_map(|line| Some((line, entry(line)?.strip_prefix("SCHEMA - ")?))).collect();
    let own = schemas.iter().filter_map(|schema| {
        // A name's line breaks are written as spaces.
        let beginning = format!("{} ", schema.replace(['\n', '\r'], " "));
        let owners = named.iter().filter_map(|(line, named)| Some((*line, named.strip_prefix(&beginning)?)));
        owners.min_by_key(|(_, owner)| (owner.matches(' ').count(), owner.len())).map(|(line, _)| line)
    });
    own.collect()
}

/// Whether an entry stays that is not of a schema which is there already.
fn keeps(line: &str, leave_out: &LeaveOut) -> bool {
    let Some(entry) = entry(line) else { return true };
    if leave_out.extension_comments && entry.starts_with("COMMENT - EXTENSION ") {
        return false;
    }
    leave_out.only_tables.as_ref().is_none_or(|(schema, tables)| keeps_of_tables(entry, schema, tables))
}

/// Entries that refer to more than one table, or need rows of others. Source: `ArchiveEntry` in src/bin/pg_dump/pg_dump.c.
const BEYOND_ONE_TABLE: [&str; 15] = [
    "FK CONSTRAINT ",
    "TRIGGER ",
    "RULE ",
    "POLICY ",
    "ROW SECURITY ",
    "MATERIALIZED VIEW DATA ",
    "TABLE ATTACH ",
    "INDEX ATTACH ",
    "STATISTICS DATA ",
    "PUBLICATION",
    "SUBSCRIPTION",
    "EVENT TRIGGER ",
    "DEFAULT ACL ",
    "BLOB",
    "LARGE OBJECT",
];

/// Whether an entry stays when only these tables' rows are wanted: all definitions, because a table may need any type or function of its
/// schema, and of the rest what one table has by itself.
fn keeps_of_tables(entry: &str, schema: &str, tables: &[String]) -> bool {
    let plain = |name: &str| name.replace(['\n', '\r'], " ");
    if let Some(rest) = entry.strip_prefix("TABLE DATA ") {
        // Two names in a row with spaces in them can be read in more ways than one: then more rows come than were asked for, of
        // tables that are dropped again.
        return tables.iter().any(|table| rest.starts_with(&format!("{} {} ", plain(schema), plain(table))));
    }
    !BEYOND_ONE_TABLE.iter().any(|kind| entry.starts_with(kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_schemas_own_entry_is_left_out() {
        let leave_out =
            LeaveOut { schemas: ["a b".to_owned()].into(), extension_comments: true, ..LeaveOut::default() };
        let lines = [
            "6; 2615 16384 SCHEMA - a b c postgres",
            "7; 2615 16385 SCHEMA - a b postgres",
            "8; 2615 16386 SCHEMA - a postgres",
            "9; 0 0 COMMENT - SCHEMA a b postgres",
        ];
        let of = |schema: &str| entries_of(&lines.join("\n"), &[schema.to_owned()].into()).len();
        assert_eq!((of("a b d"), of("b"), of("")), (0, 0, 0));
        for (schema, own) in [("a", lines[2]), ("a b", lines[1]), ("a\nb", lines[1]), ("a b c", lines[0])] {
            assert_eq!(entries_of(&lines.join("\n"), &[schema.to_owned()].into()), HashSet::from([own]), "{schema}");
        }
        assert!(!keeps("3; 0 0 COMMENT - EXTENSION citext ", &leave_out));
        for kept in [
            "; Archive created at 2026-01-01",
            "9; 0 0 COMMENT - SCHEMA a b postgres",
            "10; 1259 1 TABLE a b t postgres",
        ] {
            assert!(keeps(kept, &leave_out), "{kept}");
        }
    }

    #[test]
    fn of_single_tables_come_the_definitions_and_their_own_rows() {
        let only_tables = Some(("a b".to_owned(), vec!["t".to_owned(), "x\ny".to_owned()]));
        let leave_out = LeaveOut { schemas: ["a b".to_owned()].into(), only_tables, ..LeaveOut::default() };
        for kept in [
            "1; 1247 2 TYPE a b mood postgres",
            "2; 1259 2 TABLE a b other postgres",
            "3; 0 2 TABLE DATA a b t postgres",
            "4; 0 2 TABLE DATA a b x y postgres",
            "5; 2606 2 CONSTRAINT a b t t_pkey postgres",
            "6; 1259 2 INDEX a b t_lower postgres",
            "7; 0 0 SEQUENCE SET a b t_id_seq postgres",
        ] {
            assert!(keeps(kept, &leave_out), "{kept}");
        }
        for left in [
            "3; 0 2 TABLE DATA a b other postgres",
            "5; 2606 2 FK CONSTRAINT a b t t_other_fkey postgres",
            "8; 2620 2 TRIGGER a b t touch postgres",
            "9; 0 2 MATERIALIZED VIEW DATA a b summary postgres",
            "9; 0 2 TABLE ATTACH a b parts_1 postgres",
        ] {
            assert!(!keeps(left, &leave_out), "{left}");
        }
    }
}
