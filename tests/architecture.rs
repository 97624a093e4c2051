//! The map of the modules: which room may use which. An arrow that is not in this table fails the test, so that it is either a
//! mistake or a change of `ARCHITECTURE.md`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// Small words that every room may use, and that use no room themselves but each other.
const WORDS: &[&str] =
    &["artifact", "byte_size", "clock", "cron", "ids", "job_type", "manifest", "notice", "proof_record"];

/// The rooms and what each may use beside [`WORDS`].
const ROOMS: &[(&str, &[&str])] = &[
    ("child", &[]),
    ("config", &["postgres"]),
    ("keys", &["transform"]),
    ("keyring", &["config", "keys", "postgres", "transform"]),
    ("metrics", &[]),
    ("report", &[]),
    ("tenant", &[]),
    ("postgres", &["child", "config"]),
    ("proof", &["postgres"]),
    ("source", &["child", "postgres", "proof", "storage"]),
    ("transform", &[]),
    ("storage", &["config", "metrics"]),
    ("pipeline", &["source", "storage", "transform"]),
    ("restore", &["child", "postgres", "proof", "source", "storage"]),
    ("retention", &[]),
    ("db", &["config", "postgres"]),
    ("catalog", &["config", "keys", "tenant"]),
    ("outgoing", &["config"]),
    ("notify", &["config", "outgoing"]),
    ("history", &["db", "storage", "tenant"]),
    ("tell", &["app", "catalog", "history", "metrics", "notify", "tenant"]),
    ("app", &["catalog", "config", "db", "history", "keyring", "postgres", "storage"]),
    (
        "manage",
        &[
            "app", "catalog", "config", "db", "history", "jobs", "notify", "outgoing", "postgres", "storage", "tell",
            "tenant",
        ],
    ),
    (
        "jobs",
        &[
            "app",
            "catalog",
            "config",
            "db",
            "history",
            "metrics",
            "notify",
            "pipeline",
            "postgres",
            "proof",
            "restore",
            "retention",
            "source",
            "storage",
            "tell",
            "tenant",
            "transform",
        ],
    ),
    ("schedule", &["app", "catalog", "db", "history", "jobs", "notify", "retention", "tell", "tenant"]),
    (
        "integration",
        &[
            "app",
            "config",
            "db",
            "history",
            "jobs",
            "keyring",
            "pipeline",
            "postgres",
            "source",
            "storage",
            "tenant",
            "transform",
        ],
    ),
    ("auth", &["config", "tenant"]),
    ("people", &["db", "tenant"]),
    (
        "http",
        &[
            "app",
            "auth",
            "catalog",
            "config",
            "db",
            "history",
            "jobs",
            "manage",
            "metrics",
            "people",
            "retention",
            "schedule",
            "storage",
            "tenant",
        ],
    ),
    ("telemetry", &["config"]),
    ("logging", &["config", "telemetry"]),
    (
        "cli",
        &[
            "app",
            "auth",
            "catalog",
            "config",
            "db",
            "demo",
            "history",
            "http",
            "jobs",
            "keyring",
            "keys",
            "manage",
            "report",
            "logging",
            "notify",
            "people",
            "postgres",
            "retention",
            "schedule",
            "storage",
            "telemetry",
            "tell",
            "tenant",
            "transform",
        ],
    ),
    ("demo", &["app", "auth", "catalog", "config", "db", "http", "jobs", "postgres", "report", "tenant"]),
];

fn rust_files(below: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(below).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// The room of a file: the first component below `src/`.
fn room(file: &Path, source: &Path) -> String {
    let first = file.strip_prefix(source).unwrap().components().next().unwrap();
    first.as_os_str().to_string_lossy().trim_end_matches(".rs").to_owned()
}

/// Every room named after `crate::` in code, including those inside `use crate::{…}`. Comments do not count, nor what comes after
/// `#[cfg(test)]`.
fn used(text: &str) -> BTreeSet<String> {
    let code: String = text
        .split("#[cfg(test)]")
        .next()
        .unwrap_or_default()
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n");
    let mut rooms = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        if let Some(group) = rest.strip_prefix('{') {
            let (mut depth, mut item) = (0, String::new());
            for c in group.chars() {
                match c {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => {
                        rooms.insert(std::mem::take(&mut item));
                        continue;
                    }
                    _ => {}
                }
                item.push(c);
            }
            rooms.insert(item);
        } else {
            rooms.insert(rest.to_owned());
        }
    }
    rooms
        .into_iter()
        .map(|item| item.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>())
        .filter(|name| !name.is_empty())
        .collect()
}

#[test]
fn every_arrow_between_rooms_is_on_the_map() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let map: BTreeMap<&str, &[&str]> = ROOMS.iter().copied().collect();
    let mut files = Vec::new();
    rust_files(&source, &mut files);
    let mut strangers = Vec::new();
    for file in files {
        let from = room(&file, &source);
        if matches!(from.as_str(), "lib" | "main") {
            continue;
        }
        let is_word = WORDS.contains(&from.as_str());
        let Some(allowed) = map.get(from.as_str()).copied().or(is_word.then_some(&[][..])) else {
            strangers.push(format!("{from}: a room that is not on the map"));
            continue;
        };
        for to in used(&fs::read_to_string(&file).unwrap()) {
            if to != from && !WORDS.contains(&to.as_str()) && !allowed.contains(&to.as_str()) {
                strangers.push(format!("{from} → {to} in {}", file.strip_prefix(&source).unwrap().display()));
            }
        }
    }
    assert!(strangers.is_empty(), "arrows that are not on the map:\n{}", strangers.join("\n"));
}

#[test]
fn the_map_has_no_room_or_arrow_that_the_code_does_not_use() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    rust_files(&source, &mut files);
    let mut arrows: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for file in files {
        arrows.entry(room(&file, &source)).or_default().extend(used(&fs::read_to_string(&file).unwrap()));
    }
    let stale: Vec<String> = ROOMS
        .iter()
        .flat_map(|(from, allowed)| {
            let used = arrows.get(*from).cloned().unwrap_or_default();
            allowed.iter().filter(move |to| !used.contains(**to)).map(move |to| format!("{from} → {to}"))
        })
        .collect();
    assert!(stale.is_empty(), "on the map, but not used:\n{}", stale.join("\n"));
}

#[test]
fn the_map_itself_has_no_cycles() {
    let map: BTreeMap<&str, &[&str]> = ROOMS.iter().copied().collect();
    // Rooms without arrows first, then those that point only at rooms already placed.
    let mut placed: BTreeSet<&str> = WORDS.iter().copied().collect();
    let mut waiting: BTreeSet<&str> = map.keys().copied().collect();
    // `config` and `postgres` share the connection URL's type: one knot, on purpose, placed together.
    for knot in ["config", "postgres"] {
        waiting.remove(knot);
        placed.insert(knot);
    }
    while !waiting.is_empty() {
        let ready: Vec<&str> =
            waiting.iter().copied().filter(|room| map[room].iter().all(|to| placed.contains(to))).collect();
        assert!(!ready.is_empty(), "a cycle among {waiting:?}");
        for room in ready {
            waiting.remove(room);
            placed.insert(room);
        }
    }
}

#[test]
fn the_api_has_no_scope_but_its_callers() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    rust_files(&source.join("http"), &mut files);
    assert!(!files.is_empty());
    for file in files {
        assert!(!fs::read_to_string(&file).unwrap().contains("Scope::everything"), "{}", file.display());
    }
}

#[test]
fn what_handles_bytes_knows_neither_the_control_plane_nor_http() {
    for (room, allowed) in ROOMS {
        if matches!(*room, "source" | "transform" | "storage" | "pipeline" | "restore" | "retention" | "notify") {
            for forbidden in ["db", "http", "history", "catalog", "app", "jobs"] {
                assert!(!allowed.contains(&forbidden), "{room} → {forbidden}");
            }
        }
    }
}

#[test]
fn the_api_reaches_rows_through_its_callers_rights_only() {
    let http = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/http");
    let mut files = Vec::new();
    rust_files(&http, &mut files);
    assert!(files.len() > 10, "the API was looked at");
    for file in files {
        for forbidden in ["Scope::everything", "Caller::system", "Caller::command_line"] {
            assert!(!fs::read_to_string(&file).unwrap().contains(forbidden), "{forbidden} in {}", file.display());
        }
    }
}
