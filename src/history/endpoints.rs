//! Words that say where something is: in what tools and storages say, and in what a project's own people must not read.

/// In the place of what is not told.
const HIDDEN: &str = "[hidden]";

/// Words after which a quoted name is a part of a connection: `server at "h"`, `on socket "/s"`, `no pg_hba.conf entry for host "h"`,
/// `host name "h"`, `for user "u"` (PostgreSQL's fe-connect.c, auth.c and hba.c).
const BEFORE_NAMES: [&str; 5] = ["at", "socket", "host", "name", "user"];

/// The text without URLs, addresses, `host:port`, paths from the root, Telegram's chats and the numbers of messages in them, and the names
/// that PostgreSQL quotes in what it says of connections. Rather a word too many is hidden than one too few; everything else stays as it was, byte for byte.
pub fn without_endpoints(text: &str) -> String {
    let mut told = String::with_capacity(text.len());
    let mut before = "";
    let mut in_messages = false;
    for piece in text.split_inclusive(char::is_whitespace) {
        let word = piece.trim_end();
        let core = word.trim_start_matches(['"', '\'', '`', '(', '[', '{', '<']).trim_end_matches(|c: char| {
            matches!(c, '"' | '\'' | '`' | ')' | ']' | '}' | '>' | ',' | '.' | ';' | ':' | '!' | '?')
        });
        let is_quoted = word.trim_start_matches('(').starts_with(['"', '\'']);
        let is_port = before == "port" && !core.is_empty() && core.bytes().all(|b| b.is_ascii_digit());
        // `message 3`, `messages 12–15, 17`, `6 messages between 1 and 11`.
        let is_message = in_messages && is_number_or_run(core);
        in_messages = is_message
            || core.eq_ignore_ascii_case("message")
            || core.eq_ignore_ascii_case("messages")
            || (in_messages && matches!(core, "between" | "and"));
        let is_hidden = is_port
            || is_message
            || is_chat(before, core)
            || (is_quoted && BEFORE_NAMES.contains(&before))
            || is_endpoint(core);
        if is_hidden && !core.is_empty() {
            // What encloses the word stays, so that the sentence does.
            let (opening, closing) = piece.split_once(core).unwrap_or_default();
            told.push_str(opening);
            told.push_str(HIDDEN);
            told.push_str(closing);
        } else {
            told.push_str(piece);
        }
        before = core;
    }
    told
}

/// `12`, `12-15` or `12–15`.
fn is_number_or_run(word: &str) -> bool {
    word.split(['-', '–']).all(|number| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()))
}

/// Whether a word is a chat's id or name: after `chat`, or what a chat `has become`; or the id of a channel or supergroup wherever it stands,
/// which is -100 and at least ten digits. Source: core.telegram.org/api/bots/ids.
fn is_chat(before: &str, word: &str) -> bool {
    let digits = word.strip_prefix('-').unwrap_or(word);
    let is_number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    let is_named = before.eq_ignore_ascii_case("chat") || before == "become";
    let is_channel = |word: &str| {
        let id = word.strip_prefix("-100").unwrap_or_default();
        id.len() >= 10 && id.bytes().all(|b| b.is_ascii_digit())
    };
    (is_named && (is_number || word.starts_with('@'))) || word.split(['=', ':', ',']).any(is_channel)
}

/// Whether a word, without what encloses it, says where something is.
fn is_endpoint(word: &str) -> bool {
    let from_root = |word: &str| word.strip_prefix('/').is_some_and(|rest| rest.contains('/'));
    word.contains("://")
        // Also inside of `key=value`, `(…` and `"…":`.
        || word.split(['=', ',', ';', '(', ')', '[', ']', '"', '\'', '@', '<', '>']).any(|part| {
            let bare = part.trim_matches([':', '.']);
            // Registered databases are named `host:port/database`.
            let first = bare.split('/').next().unwrap_or(bare);
            is_address(part) || is_address(bare) || from_root(bare) || is_host_and_port(first)
        })
}

fn is_address(word: &str) -> bool {
    // `::` alone is how SQL casts.
    let is_ip = |word: &str| word.len() > 2 && word.parse::<std::net::IpAddr>().is_ok();
    is_ip(word)
        || word.split_once('%').is_some_and(|(address, _)| is_ip(address))
        || word.split_once('/').is_some_and(|(address, _)| is_ip(address))
}

/// A name or address, a colon, and a port of two to five digits. A number before the colon is a time or a line.
fn is_host_and_port(word: &str) -> bool {
    word.rsplit_once(':').is_some_and(|(host, port)| {
        let is_name = host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
            && host.bytes().any(|b| b.is_ascii_alphabetic());
        let is_port = (2..=5).contains(&port.len()) && port.bytes().all(|b| b.is_ascii_digit());
        is_port && (is_name || is_address(host))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_endpoints_are_hidden_and_the_tools_words_stay() {
        for (text, told) in [
            (
                "cannot read postgres://hfop@127.0.0.1:5432/app: permission denied for table orders",
                "cannot read [hidden]: permission denied for table orders",
            ),
            (
                "pg_dump: error: connection to server at \"db.internal\" (10.1.2.3), port 5433 failed: FATAL:  password \
                 authentication failed for user \"hfop\"\nDETAIL: none",
                "pg_dump: error: connection to server at \"[hidden]\" ([hidden]), port [hidden] failed: FATAL:  password \
                 authentication failed for user \"[hidden]\"\nDETAIL: none",
            ),
            (
                "connection to server on socket \"/run/postgresql/.s.PGSQL.5432\" failed: No such file or directory",
                "connection to server on socket \"[hidden]\" failed: No such file or directory",
            ),
            (
                "could not translate host name \"db\" to address",
                "could not translate host name \"[hidden]\" to address",
            ),
            (
                "no pg_hba.conf entry for host \"fd00::1\", user \"hfop\", database \"app\"",
                "no pg_hba.conf entry for host \"[hidden]\", user \"[hidden]\", database \"app\"",
            ),
            ("there is no database \"db-1:5432/app\"", "there is no database \"[hidden]\""),
            ("tcp connect error: db-1:5432 refused", "tcp connect error: [hidden] refused"),
            ("tcp connect to [::1]:5432, 10.0.0.7:5432.", "tcp connect to [[hidden], [hidden]."),
            ("host=db.internal:5432 host=10.0.0.1", "[hidden] [hidden]"),
            ("cannot write /srv/backups/acme/x.part: no space", "cannot write [hidden]: no space"),
            ("message 3 of chat -5 remains", "message [hidden] of chat [hidden] remains"),
            ("messages 12–15, 17 of chat -1001234567890", "messages [hidden], [hidden] of chat [hidden]"),
            ("6 messages between 1 and 11 of chat 42", "6 messages between [hidden] and [hidden] of chat [hidden]"),
            (
                "cannot find Telegram chat @acme_backups: not found (chat_id=-1001234567890)",
                "cannot find Telegram chat [hidden]: not found ([hidden])",
            ),
            ("Telegram chat -5 has become -1001234567890.", "Telegram chat [hidden] has become [hidden]."),
        ] {
            assert_eq!(without_endpoints(text), told);
        }
    }

    #[test]
    fn what_is_no_endpoint_stays_byte_for_byte() {
        for text in [
            "",
            "relation \"public.orders\" does not exist",
            "LINE 12: SELECT 'a'::text;\n\t  ^",
            "ended at 2026-11-21T12:00:30.5Z after 12:30 minutes",
            "2026-11-21T12:00:00Z",
            "PostgreSQL 15.20, pg_dump 15.20; 3/4 tables; and/or",
            "backups/acme/backup-0199c5f0.sql.gz",
            "0199c5f0-7c1e-7d2a-9d5c-2a52b6f0e7aa",
            "role \"acme_owner\" does not exist",
            "error message of table chat: row 7 of -12",
            "grün: 7 von 9 «Zeilen» \u{1f980}",
        ] {
            assert_eq!(without_endpoints(text), text);
        }
    }
}
