//! What is written down is true: generated pages are current, and every command that a document shows exists.

use std::{path::Path, process::Command};

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

#[test]
fn docs_config_md_is_current() {
    assert!(read("docs/config.md") == holdfast::config::markdown(), "run `make regenerate`");
}

#[test]
fn docs_api_json_is_current() {
    let written: serde_json::Value = serde_json::from_str(&read("docs/api.json")).unwrap();
    let current = serde_json::to_value(holdfast::http::openapi()).unwrap();
    assert!(written == current, "run `make regenerate`");
}

/// The lines of a document's console blocks that call the program, without `$ `.
fn commands(document: &str) -> Vec<String> {
    read(document)
        .lines()
        .filter_map(|line| line.trim().strip_prefix("$ holdfast "))
        .map(|line| line.split('#').next().unwrap_or_default().trim().to_owned())
        .collect()
}

#[test]
fn every_command_in_the_documents_exists_with_its_options() {
    let mut seen = 0;
    for document in ["README.md", "docs/recovery.md", "docs/authentication.md"] {
        for command in commands(document) {
            let words: Vec<&str> = command.split_whitespace().collect();
            let mut path: Vec<&str> = words.iter().copied().take(1).collect();
            if matches!(path[0], "project" | "job" | "key" | "token" | "storage" | "catalog" | "user") {
                path.push(words[1]);
            }
            let output = Command::new(env!("CARGO_BIN_EXE_holdfast")).args(&path).arg("--help").output().unwrap();
            assert!(output.status.success(), "{document}: {command}");
            let help = String::from_utf8(output.stdout).unwrap();
            for option in words.iter().filter(|word| word.starts_with("--")) {
                assert!(help.contains(option), "{document}: {command}: no {option}");
            }
            seen += 1;
        }
    }
    assert!(seen > 10, "only {seen} commands were found");
}
