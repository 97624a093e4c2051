//! Wrong requests that no schema tells: one list, by hand.

use serde_json::{Value, json};

use super::{Scene, names, refused};

/// `METHOD /path`, what is different from the document's example, the status, and the field that is named.
type Case = (&'static str, Value, u16, &'static str);

fn storage_paths() -> Vec<Value> {
    let mut paths: Vec<Value> = [
        "..",
        "../x",
        "a/../../b",
        "a/..",
        "/etc/passwd",
        "//x",
        "\\..\\x",
        "a\\b",
        "C:\\x",
        "%2e%2e/x",
        "a/%2e%2e/b",
        "..%2fx",
        "a\0b",
        "a\nb",
        "\u{1b}[2J",
        "{project_id}/../../x",
        "{nothing}",
        "a/{",
        "}",
        "./a",
        "a//b",
        "~/x",
        "-x/../..",
    ]
    .into_iter()
    .map(|path| json!(path))
    .collect();
    paths.push(json!("x".repeat(256)));
    paths.push(json!(format!("{}x", "a/".repeat(2_000))));
    paths
}

/// Each is about an operation and fields that the document has.
fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = vec![
        ("POST /api/backup/restore", json!({ "confirm": null }), 400, "confirm"),
        ("POST /api/backup/restore", json!({ "confirm": false }), 400, "confirm"),
        ("POST /api/backup/restore", json!({ "confirm": "true" }), 422, "confirm"),
        ("POST /api/backup/restore", json!({ "confirm": 1 }), 422, "confirm"),
        ("POST /api/backup/restore", json!({ "confirm": [true] }), 422, "confirm"),
        ("POST /api/backup/restore", json!({ "backup_id": "../x" }), 422, "backup_id"),
        ("POST /api/backup/restore", json!({ "target": { "database": "a\u{0}" } }), 422, "database"),
        ("POST /api/backup/restore", json!({ "target": { "database": "x".repeat(256) } }), 422, "database"),
        ("POST /api/backup/restore", json!({ "target": { "tables": [""] } }), 422, "tables"),
        ("POST /api/backup/export", json!({ "project_id": "-x" }), 404, "project"),
        ("POST /api/backup/export", json!({ "project_id": "--help" }), 404, "project"),
        ("POST /api/backup/export", json!({ "project_id": ".." }), 404, "project"),
        ("POST /api/backup/export", json!({ "project_id": "x".repeat(255) }), 404, "project"),
        ("POST /api/backup/export", json!({ "expires_at": "2020-01-01T00:00:00Z" }), 422, "expires_at"),
        ("POST /api/backup/export", json!({ "storages": ["../first"] }), 422, "storage"),
        ("POST /api/backup/export", json!({ "storages": ["-first"] }), 422, "storage"),
        ("POST /api/backup/export", json!({ "compress": true, "compression": "gzip" }), 422, "compress"),
        ("POST /api/backup/export-logs", json!({ "project_id": "-x" }), 404, "project"),
        (
            "POST /api/backup/export-logs",
            json!({ "date_range": { "start": "2026-02-01", "end": "2026-01-01" } }),
            422,
            "date_range",
        ),
        (
            "POST /api/backup/export-logs",
            json!({ "date_range": { "start": "2026-01-01T00:00:01Z", "end": "2026-01-01T00:00:00Z" } }),
            422,
            "date_range",
        ),
        (
            "POST /api/backup/export-logs",
            json!({ "date_range": { "start": "01/02/2026", "end": "2026-03-01" } }),
            422,
            "start",
        ),
        (
            "POST /api/backup/export-logs",
            json!({ "date_range": { "start": "2026-02-30", "end": "2026-03-01" } }),
            422,
            "start",
        ),
        ("POST /api/backup/export-storage", json!({ "project_id": "-x" }), 404, "project"),
        ("POST /api/backup/export-storage", json!({ "project_id": "../x" }), 404, "project"),
        ("POST /api/projects", json!({ "id": "-x" }), 422, "id"),
        ("POST /api/projects", json!({ "id": "../x" }), 422, "id"),
        ("POST /api/projects", json!({ "id": "" }), 422, "id"),
        ("POST /api/projects", json!({ "id": "x".repeat(256) }), 422, "id"),
        ("POST /api/storages", json!({ "name": "-x" }), 422, "name"),
        ("POST /api/storages", json!({ "name": "../x" }), 422, "name"),
        ("POST /api/storages", json!({ "name": "a/b" }), 422, "name"),
    ];
    for path in storage_paths() {
        cases.push(("POST /api/backup/export", json!({ "storage_path": path }), 422, "storage_path"));
    }
    for tables in [json!(["a\u{0}"]), json!([""]), json!(["x".repeat(256)]), json!(vec!["-t"; 10_000])] {
        cases.push(("POST /api/backup/export", json!({ "tables": tables.clone() }), 422, "tables"));
        cases.push(("POST /api/backup/export", json!({ "exclude_tables": tables.clone() }), 422, "tables"));
        cases.push(("POST /api/backup/export", json!({ "exclude_table_data": tables }), 422, "table"));
    }
    cases
}

#[tokio::test]
async fn wrong_dates_confirmations_paths_and_names_are_refused_by_their_field_and_make_no_job() {
    let scene = Scene::new().await;
    let (cases, mut wrong) = (cases(), Vec::new());
    let tried = cases.len();
    for (name, different, status, field) in cases {
        let operation = scene.document.operation(name).expect(name);
        let schema = scene.document.resolved(&operation.json_body().unwrap()["schema"]);
        let known: Vec<String> = scene.document.properties(&schema).into_iter().map(|(name, ..)| name).collect();
        let different = different.as_object().unwrap();
        assert!(different.keys().all(|name| known.contains(name)), "{name} has no {different:?}");
        let mut body = scene.example(&operation).await.unwrap();
        for (name, value) in different {
            body[name] = value.clone();
        }
        let before = scene.jobs().await;
        let path = operation.path_of(&scene.object(&operation).await);
        let answer = scene.send(&operation.method, &path, Some(&body)).await;
        let shown: String = format!("{name} {}", json!(different)).chars().take(200).collect();
        let found = answer.status.as_u16();
        if !(400..500).contains(&found) {
            wrong.push(format!("{shown}: {found}"));
            continue;
        }
        let (found, code, detail) = refused(&answer, &shown);
        if found != status || !names(&detail, field) {
            wrong.push(format!("{shown}: {found} {code}: {detail}"));
        }
        if scene.jobs().await != before {
            wrong.push(format!("{shown}: wrote a job down"));
        }
    }
    assert!(wrong.is_empty(), "{} of {tried}:\n{}", wrong.len(), wrong.join("\n"));
}

#[tokio::test]
async fn times_the_wrong_way_round_in_a_query_are_refused() {
    let scene = Scene::new().await;
    let path = "/api/backup?created_after=2026-02-01T00:00:00Z&created_before=2026-01-01T00:00:00Z";
    let (status, _, detail) = refused(&scene.send("GET", path, None).await, path);
    assert!(status == 422 && detail.contains("created_after"), "{status} {detail}");
}
