//! What a failure of PostgreSQL means: whether it may pass by itself, and what to say.
//!
//! Our own connection reports an SQLSTATE. `pg_dump` reports words only; libpq's are English (`LC_ALL=C`), the server's are in
//! the server's language.

use sqlx::postgres::PgDatabaseError;

use super::SourceError;
use crate::postgres::connect::ConnectInfo;

/// Longest piece of a tool's words that goes into a message, in bytes.
const LONGEST_WORDS: usize = 1_000;

/// A failure on our own connection.
pub(super) fn from_sql(info: &ConnectInfo, error: sqlx::Error) -> SourceError {
    let (may_pass, code) = match &error {
        sqlx::Error::Database(error) => classify_state(error.code().as_deref().unwrap_or_default()),
        // Refused, reset, no such socket, unknown host: the server may be restarting, the name service too.
        sqlx::Error::Io(_) => (true, "source.unreachable"),
        // An object that was dropped meanwhile has no name any more: catalog functions do not keep to the snapshot.
        sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => (true, "source.interrupted"),
        _ => (false, "source.failed"),
    };
    let what = match &error {
        sqlx::Error::Database(error) => {
            let hint = error.try_downcast_ref::<PgDatabaseError>().and_then(PgDatabaseError::hint);
            one_line(&hint.map_or_else(|| error.message().to_owned(), |hint| format!("{} ({hint})", error.message())))
        }
        other => one_line(&other.to_string()),
    };
    SourceError { message: format!("cannot read {info}: {what}"), may_pass, code }
}

/// By SQLSTATE (PostgreSQL, Appendix A).
fn classify_state(state: &str) -> (bool, &'static str) {
    match state {
        "28000" | "28P01" | "42501" => (false, "source.denied"),
        "3D000" => (false, "source.no_database"),
        "55P03" | "40P01" => (true, "source.locked"),
        // Terminated by an administrator, crashed, starting up or shutting down; too many connections; no such connection.
        "57P01" | "57P02" | "57P03" | "57P05" | "53300" => (true, "source.unreachable"),
        // Cancelled by a person; a conflict with recovery on a standby; a table, or a schema of a whole database, dropped between two looks.
        "57014" | "40001" | "42P01" | "3F000" => (true, "source.interrupted"),
        // Damaged data or index.
        "XX001" | "XX002" => (false, "source.damaged"),
        _ if state.starts_with("08") => (true, "source.unreachable"),
        // Out of memory, of locks, of disk.
        _ if state.starts_with("53") => (true, "source.exhausted"),
        _ => (false, "source.failed"),
    }
}

/// By what `pg_dump` printed; `None` when nothing in it is known. The first known words count.
pub(super) fn classify_words(stderr: &str) -> Option<(bool, &'static str)> {
    const KNOWN: &[(&str, (bool, &str))] = &[
        // Not to be retried: nothing changes by itself.
        ("password authentication failed", (false, "source.denied")),
        ("no password supplied", (false, "source.denied")),
        ("no pg_hba.conf entry", (false, "source.denied")),
        ("authentication failed", (false, "source.denied")),
        ("permission denied", (false, "source.denied")),
        ("would be affected by row-level security policy", (false, "source.denied")),
        ("is not permitted to log in", (false, "source.denied")),
        ("no matching schemas were found", (false, "source.no_schema")),
        ("server version mismatch", (false, "source.tool")),
        ("unrecognized option", (false, "source.tool")),
        ("invalid page in block", (false, "source.damaged")),
        // What passes.
        ("canceling statement due to lock timeout", (true, "source.locked")),
        ("could not obtain lock", (true, "source.locked")),
        ("deadlock detected", (true, "source.locked")),
        ("too many clients already", (true, "source.unreachable")),
        ("too many connections", (true, "source.unreachable")),
        ("remaining connection slots are reserved", (true, "source.unreachable")),
        ("the database system is", (true, "source.unreachable")),
        ("terminating connection", (true, "source.unreachable")),
        ("server closed the connection unexpectedly", (true, "source.unreachable")),
        ("connection to server was lost", (true, "source.unreachable")),
        ("Connection refused", (true, "source.unreachable")),
        ("Connection reset", (true, "source.unreachable")),
        ("timeout expired", (true, "source.unreachable")),
        ("could not translate host name", (true, "source.unreachable")),
        ("Is the server running", (true, "source.unreachable")),
        ("SSL SYSCALL error", (true, "source.unreachable")),
        ("canceling statement due to", (true, "source.interrupted")),
        ("invalid snapshot identifier", (true, "source.interrupted")),
        ("cache lookup failed", (true, "source.interrupted")),
        ("could not open relation", (true, "source.interrupted")),
        ("out of shared memory", (true, "source.exhausted")),
        ("out of memory", (true, "source.exhausted")),
        ("No space left on device", (true, "source.exhausted")),
    ];
    // A name of the tenant's may be repeated in a detail or a statement: only the error lines decide.
    let errors =
        stderr.lines().filter(|line| line.contains("error:") || line.contains("FATAL:") || line.contains("ERROR:"));
    let mut known = errors.flat_map(|line| KNOWN.iter().filter(move |(words, _)| line.contains(words)));
    let missing_database =
        stderr.lines().any(|line| line.contains("FATAL:  database") && line.ends_with("does not exist"));
    match known.next() {
        Some((_, meaning)) => Some(*meaning),
        None if missing_database => Some((false, "source.no_database")),
        // libpq puts what it has to add on lines of their own.
        None => {
            KNOWN.iter().find(|(words, (may_pass, _))| *may_pass && stderr.contains(words)).map(|(_, meaning)| *meaning)
        }
    }
}

/// The end of what a tool printed, as one line.
pub(super) fn last_words(stderr: &str) -> String {
    let lines: Vec<&str> = stderr.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let line = one_line(&lines.join("; "));
    let start = line.len().saturating_sub(LONGEST_WORDS);
    match line.char_indices().map(|(at, _)| at).find(|at| *at >= start) {
        Some(at) if at > 0 => format!("… {}", &line[at..]),
        _ => line,
    }
}

/// Without control characters: names of the tenant's choice are repeated in messages, and a terminal would obey them.
fn one_line(text: &str) -> String {
    text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_decide_whether_a_retry_can_help() {
        for (stderr, expected) in [
            (
                "pg_dump: error: query failed: ERROR:  canceling statement due to lock timeout\npg_dump: detail: Query was: LOCK",
                Some((true, "source.locked")),
            ),
            (
                "pg_dump: error: connection to server at \"h\" (::1), port 1 failed: Connection refused\n\tIs the server running",
                Some((true, "source.unreachable")),
            ),
            (
                "pg_dump: error: connection to server failed: FATAL:  password authentication failed for user \"u\"",
                Some((false, "source.denied")),
            ),
            (
                "pg_dump: error: query would be affected by row-level security policy for table \"t\"",
                Some((false, "source.denied")),
            ),
            ("pg_dump: error: aborting because of server version mismatch", Some((false, "source.tool"))),
            (
                "pg_dump: error: connection failed: FATAL:  database \"x\" does not exist",
                Some((false, "source.no_database")),
            ),
            (
                "pg_dump: error: Dumping the contents of table \"t\" failed: PQgetCopyData() failed.\npg_dump: detail: Error \
                 message from server: server closed the connection unexpectedly",
                Some((true, "source.unreachable")),
            ),
            ("pg_dump: Fehler: irgendetwas", None),
            ("", None),
        ] {
            assert_eq!(classify_words(stderr), expected, "{stderr}");
        }
    }

    #[test]
    fn a_tenants_name_cannot_pass_for_a_verdict() {
        let stderr = "pg_dump: error: permission denied for table x\npg_dump: detail: Query was: LOCK TABLE \"Connection refused\"";
        assert_eq!(classify_words(stderr), Some((false, "source.denied")));
    }

    #[test]
    fn words_are_one_line_without_control_characters_and_the_end_is_kept() {
        assert_eq!(last_words("a\u{1b}[31m\n\n  b\t\n"), "a [31m; b");
        let long = last_words(&format!("{} the end", "ä".repeat(2_000)));
        assert!(long.starts_with("… ä") && long.ends_with(" the end") && long.len() < LONGEST_WORDS + 10);
    }
}
