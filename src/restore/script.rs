//! The dump's text on its way to `psql`: a few lines of its head that only an administrator may run are left out, because the
//! administrator has done what they say, and the dump's own `\restrict` and `\unrestrict` give way to ours.
//!
//! `\restrict KEY` forbids psql's own commands (`\!`, `\copy`, `\connect`, …) until `\unrestrict KEY`. A hostile dump knows its own key,
//! so its own protection protects from nothing; it runs under a key that it cannot know.

use std::{
    collections::BTreeSet,
    io::{self, Read},
    ops::Range,
};

use crate::postgres::quote::ident;

/// Longest head that is looked at, in bytes; what comes later passes unread.
const HEAD_LIMIT: usize = 1024 * 1024;
/// Bytes read at once.
const CHUNK: usize = 256 * 1024;
/// Bytes held back until the end, where `\unrestrict` is looked for.
const TAIL: usize = 2 * 1024;
/// Longest key of `\restrict`; `pg_dump` makes them of 63 characters.
const MAX_KEY: usize = 1024;

/// With what a statement of the head may begin: what `pg_dump` writes before the first object that matters here.
const HEAD_STATEMENTS: [&[u8]; 12] = [
    b"SET ",
    b"SELECT pg_catalog.set_config(",
    b"CREATE SCHEMA ",
    b"COMMENT ON SCHEMA ",
    b"CREATE EXTENSION ",
    b"COMMENT ON EXTENSION ",
    b"CREATE COLLATION ",
    b"COMMENT ON COLLATION ",
    b"CREATE LANGUAGE ",
    b"CREATE OR REPLACE PROCEDURAL LANGUAGE ",
    b"CREATE OR REPLACE LANGUAGE ",
    b"COMMENT ON LANGUAGE ",
];

/// What is left out of a dump's head.
#[derive(Clone, Debug, Default)]
pub(super) struct LeaveOut {
    /// Schemas that exist already: exactly their `CREATE SCHEMA` statements.
    pub schemas: BTreeSet<String>,
    /// `COMMENT ON EXTENSION`: only an extension's owner may say that.
    pub extension_comments: bool,
    /// `SET transaction_timeout`, which clients of version 17 and newer write and older servers do not know.
    pub transaction_timeout: bool,
    /// Of an archive: everything of this schema but these tables' rows, and what needs more than them.
    pub only_tables: Option<(String, Vec<String>)>,
}

impl LeaveOut {
    fn is(&self, statement: &[u8]) -> bool {
        if self.extension_comments && statement.starts_with(b"COMMENT ON EXTENSION ") {
            return true;
        }
        if self.transaction_timeout && statement == b"SET transaction_timeout = 0;" {
            return true;
        }
        let Some(name) = statement.strip_prefix(b"CREATE SCHEMA ").and_then(|rest| rest.strip_suffix(b";")) else {
            return false;
        };
        // pg_dump quotes only when it must (fmtId, src/fe_utils/string_utils.c).
        let plain = |name: &str| {
            !name.starts_with(|c: char| c.is_ascii_digit())
                && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        };
        self.schemas.iter().any(|s| name == ident(s).as_bytes() || (plain(s) && name == s.as_bytes()))
    }
}

/// Reads a dump without what is left out. Errors of the inner reader pass through.
pub(super) struct ScriptReader<R> {
    inner: R,
    leave_out: LeaveOut,
    buffer: Vec<u8>,
    /// Of `buffer`, what may be given out now.
    ready: Range<usize>,
    state: State,
    /// The dump's own key, once its `\restrict` was seen.
    key: Option<Vec<u8>>,
}

#[derive(PartialEq, Eq)]
enum State {
    Head,
    Body,
    Ended,
}

impl<R: Read> ScriptReader<R> {
    pub fn new(inner: R, leave_out: LeaveOut) -> Self {
        Self { inner, leave_out, buffer: Vec::new(), ready: 0..0, state: State::Head, key: None }
    }

    /// Reads one chunk behind what is buffered; `false` at the end.
    fn fill(&mut self) -> io::Result<bool> {
        let start = self.buffer.len();
        self.buffer.resize(start + CHUNK, 0);
        let result = loop {
            match self.inner.read(&mut self.buffer[start..]) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        self.buffer.truncate(start + *result.as_ref().unwrap_or(&0));
        Ok(result? > 0)
    }

    fn advance(&mut self) -> io::Result<()> {
        match self.state {
            State::Head => {
                let mut ended = false;
                let head = loop {
                    let complete = ended || self.buffer.len() >= HEAD_LIMIT;
                    if let Some(head) = parse_head(&self.buffer, complete, &self.leave_out) {
                        break head;
                    }
                    ended = !self.fill()?;
                };
                for range in head.left_out.into_iter().rev() {
                    self.buffer.drain(range);
                }
                self.key = head.key;
                self.state = State::Body;
                if ended {
                    self.end();
                } else {
                    self.ready = 0..self.buffer.len().saturating_sub(TAIL);
                }
            }
            State::Body => {
                self.buffer.drain(..self.ready.end);
                if self.fill()? {
                    self.ready = 0..self.buffer.len().saturating_sub(TAIL);
                } else {
                    self.end();
                }
            }
            State::Ended => {
                self.buffer.clear();
                self.ready = 0..0;
            }
        }
        Ok(())
    }

    /// Leaves the dump's own `\unrestrict` out of the tail and gives out the rest.
    fn end(&mut self) {
        self.state = State::Ended;
        if let Some(key) = &self.key {
            let line = [b"\\unrestrict ".as_slice(), key].concat();
            let text = self.buffer.trim_ascii_end();
            if let Some(before) = text.strip_suffix(line.as_slice())
                && (before.is_empty() || before.ends_with(b"\n"))
            {
                let keep = before.len();
                self.buffer.truncate(keep);
            }
        }
        self.ready = 0..self.buffer.len();
    }
}

impl<R: Read> Read for ScriptReader<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.ready.is_empty() {
            self.advance()?;
            if self.state == State::Ended && self.ready.is_empty() {
                return Ok(0);
            }
        }
        let take = out.len().min(self.ready.len());
        out[..take].copy_from_slice(&self.buffer[self.ready.start..self.ready.start + take]);
        self.ready.start += take;
        Ok(take)
    }
}

struct Head {
    left_out: Vec<Range<usize>>,
    key: Option<Vec<u8>>,
}

/// Finds what is left out of the head. `None`: the head goes on behind `text`, read more (never when `complete`).
fn parse_head(text: &[u8], complete: bool, leave_out: &LeaveOut) -> Option<Head> {
    let mut head = Head { left_out: Vec::new(), key: None };
    let mut at = 0;
    loop {
        let rest = &text[at..];
        let line_end = rest.iter().position(|&b| b == b'\n');
        if line_end.is_none() && !complete {
            return None;
        }
        let line = &rest[..line_end.unwrap_or(rest.len())];
        let next_line = at + line_end.map_or(rest.len(), |end| end + 1);
        if at >= text.len() {
            return Some(head);
        }
        if line.trim_ascii().is_empty() || line.starts_with(b"--") {
            at = next_line;
        } else if let Some(key) = line.strip_prefix(b"\\restrict ") {
            let key = key.trim_ascii();
            if head.key.is_some() || key.is_empty() || key.len() > MAX_KEY || !key.iter().all(u8::is_ascii_alphanumeric)
            {
                return Some(head);
            }
            head.key = Some(key.to_vec());
            head.left_out.push(at..next_line);
            at = next_line;
        } else if HEAD_STATEMENTS.iter().any(|begin| rest.starts_with(begin)) {
            match statement_end(rest) {
                Some(end) => {
                    if leave_out.is(&rest[..end]) {
                        head.left_out.push(at..at + end);
                    }
                    at += end;
                }
                None if complete => return Some(head),
                None => return None,
            }
        } else {
            return Some(head);
        }
    }
}

/// The length of the statement at the beginning of `text` up to and with its `;` at the end of a line. Quoted parts are skipped.
fn statement_end(text: &[u8]) -> Option<usize> {
    let mut quote = None;
    for (i, &byte) in text.iter().enumerate() {
        match (quote, byte) {
            (None, b'\'' | b'"') => quote = Some(byte),
            (Some(open), _) if open == byte => quote = None,
            (None, b';') if text.get(i + 1).is_none_or(|&b| b == b'\n') => return Some(i + 1),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filtered(text: &str, schemas: &[&str], extension_comments: bool) -> String {
        let leave_out = LeaveOut {
            schemas: schemas.iter().map(|s| (*s).to_owned()).collect(),
            extension_comments,
            transaction_timeout: true,
            only_tables: None,
        };
        let mut whole = String::new();
        ScriptReader::new(text.as_bytes(), leave_out.clone()).read_to_string(&mut whole).unwrap();
        // The same, a byte at a time: the result does not depend on how the input is cut.
        let mut dripped = String::new();
        ScriptReader::new(Drip(text.as_bytes()), leave_out).read_to_string(&mut dripped).unwrap();
        assert_eq!(whole, dripped);
        whole
    }

    struct Drip<'a>(&'a [u8]);

    impl Read for Drip<'_> {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            let Some((first, rest)) = self.0.split_first() else { return Ok(0) };
            out[0] = *first;
            self.0 = rest;
            Ok(1)
        }
    }

    const DUMP: &str = "--\n-- PostgreSQL database dump\n--\n\n\\restrict AbC\n\n-- Dumped\n\nSET statement_timeout = 0;\n\
        SELECT pg_catalog.set_config('search_path', '', false);\n\n--\n-- Name: t\n--\n\nCREATE SCHEMA t;\n\n\
        COMMENT ON SCHEMA t IS 'a; b\nCREATE SCHEMA t;\n''';\n\nCREATE TABLE t.a (\n);\n\n--\n-- complete\n--\n\n\\unrestrict AbC\n\n";

    #[test]
    fn only_the_one_statement_and_the_dumps_own_restriction_are_left_out() {
        let expected = DUMP
            .replacen("CREATE SCHEMA t;", "", 1)
            .replace("\\restrict AbC\n", "")
            .replace("\\unrestrict AbC\n\n", "");
        assert_eq!(filtered(DUMP, &["t"], false), expected);
        let without = DUMP.replace("\\restrict AbC\n", "").replace("\\unrestrict AbC\n\n", "");
        assert_eq!(filtered(&without, &["other", "T", "t2"], false), without);
    }

    #[test]
    fn names_are_recognised_as_pg_dump_quotes_them() {
        for (name, spelling) in
            [("t_1", "t_1"), ("MySchema", "\"MySchema\""), ("q\"q", "\"q\"\"q\""), ("select", "\"select\"")]
        {
            assert_eq!(filtered(&format!("CREATE SCHEMA {spelling};\n\nX\n"), &[name], false), "\n\nX\n", "{name}");
        }
        for (name, other) in
            [("MySchema", "MySchema"), ("t", "t AUTHORIZATION x"), ("a.b", "a.b"), ("t", "t; DROP SCHEMA u")]
        {
            let text = format!("CREATE SCHEMA {other};\nX\n");
            assert_eq!(filtered(&text, &[name], false), text);
        }
    }

    #[test]
    fn what_stands_behind_the_head_is_never_touched() {
        let text =
            "CREATE TABLE t.a ();\nCREATE SCHEMA t;\n\\restrict X\nCOMMENT ON EXTENSION x IS '';\n\\unrestrict X\n";
        assert_eq!(filtered(text, &["t"], true), text);
        let text = "CREATE EXTENSION IF NOT EXISTS x WITH SCHEMA public;\n\nCOMMENT ON EXTENSION x IS 'a\n;\nb';\nCREATE TABLE a ();\n";
        assert_eq!(
            filtered(text, &[], true),
            "CREATE EXTENSION IF NOT EXISTS x WITH SCHEMA public;\n\n\nCREATE TABLE a ();\n"
        );
    }

    #[test]
    fn an_error_of_the_reader_is_passed_on() {
        struct Fails;
        impl Read for Fails {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("digest differs"))
            }
        }
        let mut out = String::new();
        let reader = Read::chain("SET a = 1;\nCREATE TABLE x ();\n".as_bytes(), Fails);
        let error = ScriptReader::new(reader, LeaveOut::default()).read_to_string(&mut out).unwrap_err();
        assert_eq!(error.to_string(), "digest differs");
    }
}
