//! The command line as a user meets it: arguments and environment in; exit code, standard output and standard error out.

mod cases;
mod keeping;
mod proved;

use crate::support;

use std::{
    collections::BTreeMap,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Stdio},
};

use cases::CASES;
use clap::CommandFactory as _;
use holdfast::{
    auth::jwt::Verifier,
    cli::Cli,
    clock::Clock,
    config::{AuthConfig, Secret},
    postgres::{connect::ConnectInfo, quote, rights},
    tenant::Role,
};
use secrecy::ExposeSecret;
use serde_json::Value;
use sqlx::{AssertSqlSafe, Executor};

/// What a command left behind.
#[derive(Debug)]
struct Ended {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Ended {
    #[track_caller]
    fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }

    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {:?} {}", self.stdout, self.stderr))
    }
}

/// The program with an environment of its own.
struct Holdfast {
    dir: tempfile::TempDir,
    environment: BTreeMap<String, String>,
}

impl Holdfast {
    fn new() -> Self {
        let dir = support::reachable_directory();
        let data = dir.path().join("data").to_str().unwrap().to_owned();
        Self { dir, environment: BTreeMap::from([("HOLDFAST_DATA_DIR".to_owned(), data)]) }
    }

    /// On a database of its own, not migrated yet.
    async fn on_fresh_database() -> (Self, ConnectInfo) {
        let info = support::fresh_database("cli").await;
        let holdfast = Self::new().with("DATABASE_URL", info.to_url().expose_secret());
        (holdfast, info)
    }

    fn with(mut self, name: &str, value: &str) -> Self {
        self.environment.insert(name.to_owned(), value.to_owned());
        self
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_holdfast"));
        command
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("USER", "tester")
            .envs(&self.environment)
            .current_dir(self.dir.path())
            .stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Ended {
        let output = self.command(arguments).output().expect("holdfast runs");
        Ended {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).expect("UTF-8 on standard output"),
            stderr: String::from_utf8(output.stderr).expect("UTF-8 on standard error"),
        }
    }
}

#[test]
fn every_case_ends_as_documented_and_repeats_no_secret() {
    for case in CASES {
        let mut holdfast = Holdfast::new();
        for (name, value) in case.environment {
            holdfast = holdfast.with(name, value);
        }
        let ended = holdfast.run(case.arguments);
        let what = format!("{:?} {:?}: {ended:?}", case.arguments, case.environment);
        assert_eq!(ended.code, Some(case.code), "{what}");
        assert!(ended.stdout.contains(case.stdout) && (!case.stdout.is_empty() || ended.stdout.is_empty()), "{what}");
        assert!(ended.stderr.contains(case.stderr) && (!case.stderr.is_empty() || ended.stderr.is_empty()), "{what}");
        assert!(!ended.stderr.contains("canary") && !ended.stdout.contains("canary"), "{what}");
    }
}

#[test]
fn every_command_helps_with_an_example() {
    fn leaves(command: &clap::Command, path: &[&str]) -> Vec<Vec<String>> {
        let subs: Vec<_> = command.get_subcommands().filter(|sub| sub.get_name() != "help").collect();
        let below = |sub: &clap::Command| leaves(sub, &[path, &[sub.get_name()]].concat());
        match subs.is_empty() {
            true => vec![path.iter().map(|&word| word.to_owned()).collect()],
            false => subs.into_iter().flat_map(below).collect(),
        }
    }
    let holdfast = Holdfast::new();
    let all = leaves(&Cli::command(), &[]);
    assert!(all.len() > 50 && all.contains(&vec!["notify".to_owned(), "test".to_owned()]), "{all:?}");
    for command in all {
        let mut arguments: Vec<&str> = command.iter().map(String::as_str).collect();
        arguments.push("--help");
        let help = holdfast.run(&arguments).expect(0).stdout;
        let examples = help.split_once("Example").map(|(_, examples)| examples).unwrap_or_default();
        assert!(examples.contains(&format!("holdfast {}", command.join(" "))), "{help}");
    }
}

#[test]
fn a_token_is_all_that_is_printed_and_the_api_accepts_it() {
    let holdfast = Holdfast::new().with("HOLDFAST_JWT_SECRET", &"s".repeat(32));
    let arguments = ["token", "issue", "--subject", "ci", "--scope", "backup:read backup:write", "--project", "acme"];
    let ended = holdfast.run(&arguments).expect(0);
    assert_eq!(ended.stderr, "");
    let verifier = Verifier::new(&Secret::new("s".repeat(32)), &AuthConfig::default(), Clock::System).unwrap();
    let caller = verifier.verify(ended.stdout.strip_suffix('\n').unwrap()).unwrap();
    assert_eq!((caller.subject.as_str(), caller.role, caller.permissions.len()), ("ci", Role::Member, 2));
    assert_eq!(caller.project_ids, ["acme".parse().unwrap()]);
}

#[test]
fn without_a_secret_tokens_are_signed_with_one_that_is_made_and_kept() {
    let holdfast = Holdfast::new();
    let issue = || {
        holdfast.run(&["token", "issue", "--subject", "a", "--scope", "backup:read", "--role", "operator"]).expect(0)
    };
    let (first, second) = (issue(), issue());
    let file = holdfast.dir.path().join("data/jwt.secret");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let secret = Secret::new(std::fs::read_to_string(&file).unwrap().trim());
    let verifier = Verifier::new(&secret, &AuthConfig::default(), Clock::System).unwrap();
    for token in [first, second] {
        assert_eq!(verifier.verify(token.stdout.trim()).unwrap().role, Role::Operator);
    }
}

#[test]
fn a_key_is_made_once_and_the_recovery_sheet_holds_it() {
    let holdfast = Holdfast::new();
    let recipient = holdfast.run(&["key", "generate"]).expect(0).stdout.trim().to_owned();
    assert!(recipient.starts_with("age1"), "{recipient}");
    let again = holdfast.run(&["key", "generate"]).expect(2);
    assert!(again.stderr.contains("never overwritten"), "{}", again.stderr);
    let identity = std::fs::read_to_string(holdfast.dir.path().join("data/age.key")).unwrap();
    let secret = identity.lines().find(|line| line.starts_with("AGE-SECRET-KEY-")).unwrap();
    let sheet = holdfast.run(&["key", "recovery-sheet"]).expect(0);
    for part in [secret, &recipient, "directory ", "age -d -i", "psql", "pg_restore"] {
        assert!(sheet.stdout.contains(part), "{part}");
    }
    let file = holdfast.path("sheet.txt");
    let written = holdfast.run(&["key", "recovery-sheet", "--output", &file]).expect(0);
    assert_eq!(written.stdout, "");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    holdfast.run(&["key", "recovery-sheet", "--output", &file]).expect(2);
}

#[test]
fn a_closed_standard_output_is_no_panic() {
    let holdfast = Holdfast::new();
    for arguments in [&["config", "docs"][..], &["--help"], &["api", "docs"]] {
        let mut child = holdfast.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{arguments:?}");
    }
}

#[test]
fn a_check_of_the_migrations_makes_nothing() {
    let holdfast = Holdfast::new();
    let refused = holdfast.run(&["migrate", "--check"]).expect(5);
    assert!(refused.stderr.contains("no embedded PostgreSQL"), "{}", refused.stderr);
    assert_eq!(std::fs::read_dir(holdfast.dir.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_configured_control_plane_is_migrated_only_when_asked() {
    let (holdfast, _) = Holdfast::on_fresh_database().await;
    for arguments in [&["list"][..], &["worker"], &["migrate", "--check"]] {
        let refused = holdfast.run(arguments).expect(5);
        assert!(
            refused.stderr.contains("is not migrated") && refused.stderr.contains("holdfast migrate"),
            "{}",
            refused.stderr
        );
    }
    let all = std::fs::read_dir(support::checkout().join("migrations")).unwrap().count();
    assert_eq!(holdfast.run(&["migrate", "--json"]).expect(0).json()["applied"], all);
    assert_eq!(holdfast.run(&["migrate", "--json"]).expect(0).json()["applied"], 0);
    holdfast.run(&["migrate", "--check"]).expect(0);
    assert_eq!(holdfast.run(&["list", "--json"]).expect(0).json(), serde_json::json!([]));
}

#[tokio::test]
async fn projects_are_added_discovered_and_listed() {
    let (holdfast, info) = Holdfast::on_fresh_database().await;
    let mut connection = support::connect(&info).await;
    let schemas = "CREATE SCHEMA tenant_acme; CREATE SCHEMA tenant_beta; CREATE SCHEMA \"tenant_ü\"; CREATE SCHEMA hf_before_0123";
    connection.execute(schemas).await.unwrap();
    holdfast.run(&["migrate"]).expect(0);
    let added = holdfast.run(&["project", "add", "acme", "--name", "Acme Ltd", "--json"]).expect(0);
    assert_eq!((added.json()["schema"].as_str(), added.stderr.as_str()), (Some("tenant_acme"), ""));
    let again = holdfast.run(&["project", "add", "acme", "--name", "x", "--json"]).expect(2);
    assert!(again.stderr.contains("project.exists"), "{}", again.stderr);
    let taken = holdfast.run(&["project", "add", "other", "--name", "x", "--schema", "tenant_acme"]).expect(2);
    assert!(taken.stderr.contains("backed up by project \"acme\" already"), "{}", taken.stderr);
    let missing = holdfast.run(&["project", "add", "later", "--name", "x", "--schema", "q\"q"]).expect(0);
    assert!(missing.stderr.contains("warning: schema \"q\\\"q\" does not exist"), "{}", missing.stderr);
    let found = holdfast.run(&["project", "discover", "--json"]).expect(0).json();
    assert_eq!(found.as_array().unwrap().len(), 2, "{found}");
    assert_eq!((&found[0]["project_id"], &found[0]["added"]), (&"beta".into(), &false.into()));
    assert!(found[1]["problem"].as_str().unwrap().contains("no project id"), "{found}");
    holdfast.run(&["project", "discover", "--add"]).expect(0);
    let all = holdfast.run(&["project", "list", "--json"]).expect(0).json();
    let ids: Vec<&str> = all.as_array().unwrap().iter().filter_map(|project| project["id"].as_str()).collect();
    assert_eq!(ids, ["acme", "beta", "later"]);
    let events: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM control_plane.backup_history WHERE event = 'project_added' AND actor = 'cli:tester'",
    )
    .fetch_one(&mut connection)
    .await
    .unwrap();
    assert_eq!(events, 3);
}

#[tokio::test]
async fn a_url_with_a_password_comes_from_a_file_and_is_stored_sealed() {
    let (holdfast, info) = Holdfast::on_fresh_database().await;
    holdfast.run(&["migrate"]).expect(0);
    let file = holdfast.path("url");
    std::fs::write(&file, "postgres://app:canary@127.0.0.1:1/shop\n").unwrap();
    let arguments = ["project", "add", "shop", "--name", "Shop", "--whole-database", "--database-url-file", &file];
    holdfast.run(&arguments).expect(0);
    let mut connection = support::connect(&info).await;
    let (sealed, shown): (String, String) =
        sqlx::query_as("SELECT url_sealed::text, shown_as FROM control_plane.databases")
            .fetch_one(&mut connection)
            .await
            .unwrap();
    assert_eq!(shown, "postgres://app@127.0.0.1:1/shop");
    assert!(!sealed.contains("canary"));
    let doctor = holdfast.run(&["doctor", "--json"]).expect(1);
    assert!(!format!("{doctor:?}").contains("canary"));
    let failed: Vec<Value> =
        doctor.json().as_array().unwrap().iter().filter(|finding| finding["status"] == "fail").cloned().collect();
    assert_eq!(failed.len(), 1, "{failed:?}");
    assert_eq!(failed[0]["check"], "database 127.0.0.1:1/shop");
}

#[tokio::test]
async fn jobs_and_backups_are_named_by_the_beginning_of_their_ids() {
    let (holdfast, info) = Holdfast::on_fresh_database().await;
    support::connect(&info).await.execute("CREATE SCHEMA tenant_acme").await.unwrap();
    holdfast.run(&["migrate"]).expect(0);
    holdfast.run(&["project", "add", "acme", "--name", "Acme"]).expect(0);
    holdfast.run(&["backup", "nobody"]).expect(3);
    holdfast.run(&["backup", "acme", "--storage", "tape"]).expect(2);
    holdfast.run(&["backup", "acme", "--format", "custom", "--compression", "gzip"]).expect(2);
    let asked = holdfast.run(&["backup", "acme", "--json", "--idempotency-key", "k"]).expect(0);
    assert!(asked.stderr.contains("no worker is alive"), "{}", asked.stderr);
    let again = holdfast.run(&["backup", "acme", "--json", "--idempotency-key", "k", "--quiet"]).expect(0);
    assert_eq!((asked.json()["job_id"].clone(), again.stderr.as_str()), (again.json()["job_id"].clone(), ""));
    holdfast.run(&["backup", "acme", "--format", "tar", "--idempotency-key", "k"]).expect(2);
    let (job, backup) = (asked.json()["job_id"].clone(), asked.json()["backup_id"].clone());
    let (job, backup) = (job.as_str().unwrap(), backup.as_str().unwrap());
    let shown = holdfast.run(&["show", &backup[..30], "--json"]).expect(0).json();
    assert_eq!(
        (&shown["id"], &shown["copies"], &shown["status"]),
        (&backup.into(), &serde_json::json!([]), &"pending".into())
    );
    assert_eq!(shown["events"][0]["event"], "requested");
    holdfast.run(&["show", "latest:acme"]).expect(3);
    holdfast.run(&["show", "ffffffff"]).expect(3);
    let dry = holdfast.run(&["restore", backup, "--json"]).expect(2);
    assert!(dry.json()["would_replace"].as_str().unwrap().contains("tenant_acme"), "{dry:?}");
    holdfast.run(&["restore", backup, "--confirm"]).expect(2);
    holdfast.run(&["download", backup]).expect(3);
    holdfast.run(&["undo", job]).expect(2);
    assert_eq!(holdfast.run(&["job", "cancel", &job[..30], "--json"]).expect(0).json()["status"], "cancelled");
    holdfast.run(&["job", "cancel", job]).expect(2);
    assert_eq!(holdfast.run(&["job", "show", job, "--json"]).expect(0).json()["id"], job);
    assert_eq!(holdfast.run(&["list", "acme", "--status", "cancelled", "--json"]).expect(0).json()[0]["id"], backup);
    assert!(holdfast.run(&["job", "logs", job, "--follow"]).expect(0).stdout.contains("cancel"));
}

#[tokio::test]
async fn with_wait_a_command_does_its_own_work_when_no_worker_is_alive() {
    let (holdfast, info) = Holdfast::on_fresh_database().await;
    let mut connection = support::connect(&info).await;
    connection.execute("CREATE SCHEMA tenant_acme; CREATE TABLE tenant_acme.t AS SELECT 1 AS x").await.unwrap();
    holdfast.run(&["migrate"]).expect(0);
    holdfast.run(&["project", "add", "acme", "--name", "Acme"]).expect(0);
    holdfast.run(&["project", "add", "gone", "--name", "Gone"]).expect(0);
    let failed = holdfast.run(&["backup", "gone", "--wait", "--json"]).expect(4);
    assert_eq!(failed.json()["status"], "failed");
    assert!(failed.stderr.contains("tenant_gone"), "{}", failed.stderr);
    let backup = holdfast.run(&["backup", "acme", "--wait", "--json"]).expect(0).json();
    for name in
        ["id", "status", "type", "file_name", "size", "sha256", "table_count", "created_at", "expires_at", "copies"]
    {
        assert!(!backup[name].is_null(), "{name}: {backup}");
    }
    assert_eq!((&backup["status"], &backup["table_count"]), (&"completed".into(), &1.into()));
    assert_eq!(holdfast.run(&["verify", "latest:acme", "--depth", "read", "--json"]).expect(0).json()["good"], true);
    connection.execute("UPDATE tenant_acme.t SET x = 2").await.unwrap();
    let restored = holdfast.run(&["restore", "latest:acme", "--confirm", "--wait", "--json"]).expect(0).json();
    let value = async |connection: &mut sqlx::PgConnection| -> i32 {
        sqlx::query_scalar("SELECT x FROM tenant_acme.t").fetch_one(connection).await.unwrap()
    };
    assert_eq!((value(&mut connection).await, &restored["outcome"]), (1, &"verified".into()));
    holdfast.run(&["undo", restored["job_id"].as_str().unwrap()]).expect(0);
    assert_eq!(value(&mut connection).await, 2);
    holdfast.run(&["download", "latest:acme", "--decrypt", "--output", "dump.sql"]).expect(0);
    assert!(std::fs::read_to_string(holdfast.path("dump.sql")).unwrap().contains("CREATE TABLE tenant_acme.t"));
    let name = backup["file_name"].as_str().unwrap();
    holdfast.run(&["download", "latest:acme"]).expect(0);
    assert_eq!(std::fs::metadata(holdfast.path(name)).unwrap().len(), backup["size"].as_u64().unwrap());
    holdfast.run(&["download", "latest:acme"]).expect(2);
    // One flipped bit in the stored file.
    let stored = holdfast.dir.path().join("data/storage/backups/acme").join(name);
    let mut bytes = std::fs::read(&stored).unwrap();
    bytes[300] ^= 1;
    std::fs::set_permissions(&stored, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::write(&stored, bytes).unwrap();
    let before = std::fs::read(holdfast.path("dump.sql")).unwrap();
    holdfast.run(&["download", "latest:acme", "--decrypt", "--force", "--output", "dump.sql"]).expect(6);
    assert_eq!(std::fs::read(holdfast.path("dump.sql")).unwrap(), before);
    let damaged = holdfast.run(&["verify", "latest:acme", "--depth", "read", "--json"]).expect(6);
    assert_eq!(damaged.json()["good"], false);
    assert!(damaged.stderr.contains("backup.damaged"), "{}", damaged.stderr);
}

#[tokio::test]
async fn storages_are_listed_tested_and_swept_and_a_backup_leaves_them_for_good() {
    let (holdfast, info) = Holdfast::on_fresh_database().await;
    let root = holdfast.path("copies");
    let toml = format!(
        "[storages.near]\ntype = \"local\"\nroot = \"{root}/near\"\n[storages.far]\ntype = \"local\"\nroot = \"{root}/far\"\n"
    );
    std::fs::write(holdfast.path("holdfast.toml"), toml).unwrap();
    let mut connection = support::connect(&info).await;
    connection.execute("CREATE SCHEMA tenant_acme; CREATE TABLE tenant_acme.t AS SELECT 1 AS x").await.unwrap();
    holdfast.run(&["migrate"]).expect(0);
    holdfast.run(&["project", "add", "acme", "--name", "Acme"]).expect(0);
    let backup =
        holdfast.run(&["backup", "acme", "--storage", "near", "--storage", "far", "--wait", "--json"]).expect(0);
    let backup = backup.json();
    let id = backup["id"].as_str().unwrap();

    let listed = holdfast.run(&["storage", "list", "--json"]).expect(0).json();
    let names: Vec<&str> = listed.as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["far", "near"]);
    assert_eq!(
        (&listed[1]["type"], &listed[1]["place"], &listed[1]["good_copies"], &listed[1]["good_bytes"]),
        (&"local".into(), &format!("{root}/near").into(), &1.into(), &backup["size"])
    );
    let table = holdfast.run(&["storage", "list"]).expect(0).stdout;
    assert!(table.contains("GOOD COPIES") && table.contains(&format!("{root}/far")), "{table}");
    let tested = holdfast.run(&["storage", "test", "near", "--json"]).expect(0).json();
    assert_eq!((&tested["good"], tested["seen"].as_array().map(Vec::is_empty)), (&true.into(), Some(false)));
    assert!(holdfast.run(&["storage", "test", "near", "--thorough"]).expect(0).stdout.contains("storage near is good"));
    let unknown = holdfast.run(&["storage", "test", "nowhere"]).expect(2);
    assert!(unknown.stderr.contains("Configured storages: far, near."), "{}", unknown.stderr);

    // A copy by its storage's name, and no other in its place; without a name the next one is taken.
    let name = backup["file_name"].as_str().unwrap();
    let near = std::path::PathBuf::from(format!("{root}/near/backups/acme/{name}"));
    std::fs::remove_file(&near).unwrap();
    holdfast.run(&["download", id, "--from", "near", "--output", "a"]).expect(3);
    holdfast.run(&["download", id, "--from", "far", "--output", "a"]).expect(0);
    let fetched = holdfast.run(&["download", id, "--output", "b", "--json"]).expect(0);
    assert_eq!(fetched.json()["storage"], "far");
    assert_eq!(std::fs::read(holdfast.path("a")).unwrap(), std::fs::read(holdfast.path("b")).unwrap());
    std::fs::copy(holdfast.path("a"), &near).unwrap();

    // The control plane forgets it: the storage tells.
    connection.execute("DELETE FROM control_plane.backups").await.unwrap();
    let dry = holdfast.run(&["catalog", "rebuild", "--dry-run", "--json"]).expect(0).json();
    assert_eq!((&dry["dry_run"], &dry["storages"][0]["backups"]), (&true.into(), &1.into()));
    holdfast.run(&["show", id]).expect(3);
    let swept = holdfast.run(&["storage", "sweep", "near", "--json"]).expect(0).json();
    assert_eq!((&swept["removed"], &swept["backups"], &swept["copies"]), (&0.into(), &1.into(), &1.into()));
    let rebuilt = holdfast.run(&["catalog", "rebuild"]).expect(0).stdout;
    assert!(rebuilt.contains("MANIFESTS") && !rebuilt.contains("nothing was written"), "{rebuilt}");
    let shown = holdfast.run(&["show", id, "--json"]).expect(0).json();
    assert_eq!((&shown["status"], shown["copies"].as_array().map(Vec::len)), (&"completed".into(), Some(2)));
    let foreign = format!("{root}/far/backups/acme/foreign.manifest.json");
    std::fs::write(&foreign, "{}").unwrap();
    let told = holdfast.run(&["catalog", "rebuild", "--storage", "far"]).expect(6);
    assert!(told.stderr.contains("foreign.manifest.json"), "{}", told.stderr);
    std::fs::remove_file(&foreign).unwrap();

    let plan = holdfast.run(&["delete", id, "--dry-run", "--json"]).expect(0).json();
    assert_eq!((&plan["dry_run"], plan["copies"].as_array().map(Vec::len)), (&true.into(), Some(2)));
    let refused = holdfast.run(&["delete", id]).expect(2);
    assert!(refused.stderr.contains("nothing was done") && refused.stderr.contains("--confirm"), "{}", refused.stderr);
    let deleted = holdfast.run(&["delete", id, "--confirm", "--wait", "--json"]).expect(0).json();
    assert_eq!((&deleted["status"], &deleted["remains"]), (&"completed".into(), &serde_json::json!([])));
    assert_eq!(deleted["deleted"].as_array().map(Vec::len), Some(2));
    // Each directory keeps what marks it as a storage.
    assert_eq!(walk(Path::new(&root)), [".holdfast-storage", ".holdfast-storage"]);
    holdfast.run(&["delete", id, "--confirm"]).expect(3);
    let past = holdfast.run(&["show", id, "--json"]).expect(0).json();
    assert_eq!(
        (&past["status"], &past["project_id"], &past["remains"]),
        (&"deleted".into(), &"acme".into(), &serde_json::json!([]))
    );
    assert!(holdfast.run(&["show", id]).expect(0).stdout.contains("delete_requested"));

    // One copy is out of reach: its storage is no longer configured.
    let backup = holdfast.run(&["backup", "acme", "--wait", "--json"]).expect(0).json();
    let id = backup["id"].as_str().unwrap();
    std::fs::write(
        holdfast.path("holdfast.toml"),
        format!("[storages.near]\ntype = \"local\"\nroot = \"{root}/near\"\n"),
    )
    .unwrap();
    let stuck = holdfast.run(&["delete", id, "--confirm", "--wait"]).expect(4);
    assert!(stuck.stdout.contains("not deleted, failed"), "{}", stuck.stdout);
    assert!(stuck.stderr.contains("storage far: it is no longer configured"), "{}", stuck.stderr);
    let listed = holdfast.run(&["storage", "list"]).expect(0).stdout;
    assert!(listed.lines().any(|line| line.starts_with("far ") && line.contains("not configured")), "{listed}");
    holdfast.run(&["download", id, "--output", "c"]).expect(2);

    // A place that cannot be one.
    std::fs::write(
        holdfast.path("holdfast.toml"),
        format!("[storages.bad]\ntype = \"local\"\nroot = \"{root}/near/a/b\"\n"),
    )
    .unwrap();
    std::fs::remove_dir_all(format!("{root}/near")).unwrap();
    std::fs::write(format!("{root}/near"), "a file").unwrap();
    let broken = holdfast.run(&["storage", "test", "bad"]).expect(1);
    assert!(broken.stderr.contains("storage \"bad\""), "{}", broken.stderr);
}

#[tokio::test]
async fn without_a_url_an_embedded_control_plane_is_made_and_stopped_again() {
    let holdfast = Holdfast::new();
    holdfast.run(&["project", "add", "acme", "--name", "Acme"]).expect(0);
    let listed = holdfast.run(&["project", "list", "--json"]).expect(0).json();
    assert_eq!(listed[0]["id"], "acme");
    let pid_files: Vec<_> = walk(holdfast.dir.path()).into_iter().filter(|name| name == "postmaster.pid").collect();
    assert!(pid_files.is_empty(), "the embedded PostgreSQL still runs");
}

/// The names of all files below a directory.
fn walk(directory: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap().flatten() {
        if entry.file_type().unwrap().is_dir() {
            names.extend(walk(&entry.path()));
        } else {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names
}

#[tokio::test]
async fn the_grants_run_twice_and_give_what_backup_and_restore_need() {
    let (holdfast, info) = Holdfast::on_fresh_database().await;
    let mut connection = support::connect(&info).await;
    let suffix = &info.database[info.database.len() - 12..];
    let (dump, restore, owner) = (format!("d\"{suffix}"), format!("r'{suffix}"), format!("o {suffix}"));
    let owner_name = quote::ident(&owner);
    let tenant = format!(
        "CREATE ROLE {owner_name}; CREATE SCHEMA tenant_a AUTHORIZATION {owner_name}; CREATE TABLE tenant_a.t (x int); \
         ALTER TABLE tenant_a.t OWNER TO {owner_name}, ENABLE ROW LEVEL SECURITY; INSERT INTO tenant_a.t VALUES (1)"
    );
    connection.execute(AssertSqlSafe(tenant)).await.unwrap();
    let sql = holdfast.run(&["grants", "--dump-role", &dump, "--restore-role", &restore]).expect(0).stdout;
    for _ in 0..2 {
        connection.execute(AssertSqlSafe(sql.clone())).await.unwrap();
    }
    connection.execute(AssertSqlSafe(format!("SET ROLE {}", quote::ident(&dump)))).await.unwrap();
    let rights_of_dump = rights::role_rights(&mut connection).await.unwrap();
    assert!(rights_of_dump.sees_everything() && !rights_of_dump.is_superuser, "{rights_of_dump:?}");
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM tenant_a.t").fetch_one(&mut connection).await.unwrap();
    assert_eq!(rows, 1);
    assert!(connection.execute("DELETE FROM tenant_a.t").await.is_err());
    assert_eq!(rights_of_dump.missing_for_restores(), ["CREATEROLE", "CREATEDB", "CREATE on the database"]);
    assert_eq!(rights::strange_owners(&mut connection, "tenant_a").await.unwrap(), [owner.as_str()]);
    connection.execute(AssertSqlSafe(format!("RESET ROLE; SET ROLE {}", quote::ident(&restore)))).await.unwrap();
    let rights_of_restore = rights::role_rights(&mut connection).await.unwrap();
    assert!(rights_of_restore.can_restore() && !rights_of_restore.is_superuser, "{rights_of_restore:?}");
    assert_eq!(rights::strange_owners(&mut connection, "tenant_a").await.unwrap(), Vec::<String>::new());
    // Of a role that it makes it is the administrator, from PostgreSQL 16 on: that is not enough, nor is it in the way.
    let made = format!("m {suffix}");
    let make = format!(
        "CREATE ROLE {0}; RESET ROLE; CREATE SCHEMA tenant_b AUTHORIZATION {0}; SET ROLE {1}",
        quote::ident(&made),
        quote::ident(&restore)
    );
    connection.execute(AssertSqlSafe(make)).await.unwrap();
    assert_eq!(rights::strange_owners(&mut connection, "tenant_b").await.unwrap(), [made.as_str()]);
    connection.execute(AssertSqlSafe(format!("RESET ROLE; {sql}; SET ROLE {}", quote::ident(&restore)))).await.unwrap();
    assert_eq!(rights::strange_owners(&mut connection, "tenant_b").await.unwrap(), Vec::<String>::new());
    let swap = format!(
        "ALTER SCHEMA tenant_b RENAME TO hf_before_y; CREATE SCHEMA tenant_b; ALTER SCHEMA tenant_b OWNER TO {}",
        quote::ident(&made)
    );
    connection.execute(AssertSqlSafe(swap)).await.unwrap();
    // One role for both.
    let both = format!("b {suffix}");
    let sql = holdfast.run(&["grants", "--dump-role", &both, "--restore-role", &both]).expect(0).stdout;
    connection.execute("RESET ROLE").await.unwrap();
    connection.execute(AssertSqlSafe(format!("{sql}; SET ROLE {}", quote::ident(&both)))).await.unwrap();
    let rights_of_both = rights::role_rights(&mut connection).await.unwrap();
    assert!(rights_of_both.can_restore() && rights_of_both.sees_everything(), "{rights_of_both:?}");
    assert_eq!(rights::strange_owners(&mut connection, "tenant_a").await.unwrap(), Vec::<String>::new());
    connection.execute(AssertSqlSafe(format!("RESET ROLE; SET ROLE {}", quote::ident(&restore)))).await.unwrap();
    let swap = format!(
        "ALTER SCHEMA tenant_a RENAME TO hf_before_x; CREATE SCHEMA tenant_a; CREATE TABLE tenant_a.t (x int); \
         GRANT CREATE ON SCHEMA tenant_a TO {owner_name}; ALTER TABLE tenant_a.t OWNER TO {owner_name}; \
         ALTER SCHEMA tenant_a OWNER TO {owner_name}"
    );
    connection.execute(AssertSqlSafe(swap)).await.unwrap();
    let clean = [&both, &dump, &made, &restore, &owner]
        .map(|role| format!("DROP OWNED BY {0} CASCADE; DROP ROLE {0};", quote::ident(role)));
    connection.execute(AssertSqlSafe(format!("RESET ROLE; {}", clean.concat()))).await.unwrap();
    for role in ["{role}", "a$holdfast$b", ""] {
        holdfast.run(&["grants", "--dump-role", role]).expect(2);
    }
}
