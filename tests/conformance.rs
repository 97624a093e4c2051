//! The API as others see it: stock programs that know nothing of Holdfast but its OpenAPI document speak to the real server.

mod platform;

use crate::support;

use std::process::{Command, Stdio};

use platform::{Platform, Serving};
use serde_json::{Value, json};
use sqlx::Executor;

/// Runs a script of this checkout to its end, with an environment of its own.
fn script(name: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Result<String, String> {
    let mut command = Command::new("bash");
    command.arg(support::checkout().join("scripts").join(name)).args(arguments).env_clear().stdin(Stdio::null());
    // The first run installs from PyPI, by whatever proxy and certificates there are.
    let network = ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy"];
    let others = ["PATH", "HOME", "LANG", "PIP_INDEX_URL", "PIP_CERT", "HOLDFAST_TEST_EXAMPLES"];
    for name in network.into_iter().chain(others) {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    let output = command.envs(variables.iter().copied()).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() {
        return Ok(text(&output.stdout));
    }
    Err(format!("{name} {arguments:?}: {}\n{}\n{}", output.status, text(&output.stdout), text(&output.stderr)))
}

async fn run_script(
    name: &'static str,
    arguments: Vec<String>,
    variables: Vec<(&'static str, String)>,
) -> Result<String, String> {
    let run = move || {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let variables: Vec<(&str, &str)> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
        script(name, &arguments, &variables)
    };
    tokio::task::spawn_blocking(run).await.unwrap()
}

/// What a tenant has, for schemathesis to ask about: its own, and what no answer to another may have.
struct Belongings {
    project: &'static str,
    backups: Vec<String>,
    jobs: Vec<String>,
    keys: Vec<String>,
}

impl Belongings {
    /// Real ones: a backup that was taken, its job, a verification, a key.
    async fn make(serving: &Serving<'_>, project: &'static str, token: &str) -> Self {
        let export = serving.post(token, "/api/backup/export", json!({ "project_id": project })).await;
        let (job, backup) = (export["job_id"].clone(), export["backup_id"].clone());
        serving.ended(token, &job).await;
        let path = format!("/api/backup/{}/verify", backup.as_str().unwrap());
        let verify = serving.post(token, &path, json!({ "depth": "head" })).await["job_id"].clone();
        serving.ended(token, &verify).await;
        let key = json!({ "name": format!("of {project}"), "permissions": ["backup:read"], "project_ids": [project] });
        let key = serving.post(token, "/api/keys", key).await["id"].clone();
        let texts = |values: &[&Value]| values.iter().map(|value| value.as_str().unwrap().to_owned()).collect();
        Self { project, backups: texts(&[&backup]), jobs: texts(&[&job, &verify]), keys: texts(&[&key]) }
    }

    /// For `HOLDFAST_OWN_IDS`.
    fn own(&self) -> String {
        let line = |name: &str, ids: &[String]| format!("{name}={}", ids.join(","));
        [
            line("project_id", &[self.project.to_owned()]),
            line("/api/projects", &[self.project.to_owned()]),
            line("/api/backup", &self.backups),
            line("/api/jobs", &self.jobs),
            line("/api/keys", &self.keys),
        ]
        .join("\n")
    }

    /// For another's `HOLDFAST_FOREIGN_IDS`.
    fn foreign(&self) -> String {
        let project = [self.project.to_owned()];
        [&project[..], &self.backups, &self.jobs, &self.keys].concat().join(",")
    }
}

/// Schemathesis with this token. `options` are its own.
async fn schemathesis(
    serving: &Serving<'_>,
    token: &str,
    own: String,
    foreign: String,
    options: &[&str],
) -> Result<String, String> {
    let amount = if cfg!(feature = "slow-tests") { "long" } else { "short" };
    let mut arguments = vec![serving.url.clone(), amount.to_owned()];
    arguments.extend(options.iter().map(|option| (*option).to_owned()));
    let variables =
        vec![("HOLDFAST_TOKEN", token.to_owned()), ("HOLDFAST_OWN_IDS", own), ("HOLDFAST_FOREIGN_IDS", foreign)];
    run_script("schemathesis", arguments, variables).await
}

#[tokio::test]
async fn the_served_api_is_as_its_document_says_and_tells_a_tenant_nothing_of_another() {
    let platform = Platform::new(&["tenant-one", "tenant-two"]).await;
    let tokens = [platform.token("tenant-one"), platform.token("tenant-two")];
    let serving = platform.serve("[worker]\npoll_seconds = 1\n").await;
    let one = Belongings::make(&serving, "tenant-one", &tokens[0]).await;
    let two = Belongings::make(&serving, "tenant-two", &tokens[1]).await;
    let log = serving.stop();
    assert!(!log.contains("panicked"), "{log}");

    // From here on jobs are written down and not worked on: what is asked for now is made up.
    let serving = platform.serve("[worker]\nin_serve = false\n").await;
    // The check itself: what a tenant is told of its own would be another's.
    let only = ["--include-operation-id=list_backups", "--include-operation-id=show_backup"];
    let told = schemathesis(&serving, &tokens[0], one.own(), one.foreign(), &only).await.unwrap_err();
    assert!(told.contains("which is another tenant's"), "{told}");
    let mut askers = vec![(tokens[0].clone(), one.own(), two.foreign()), (tokens[1].clone(), two.own(), one.foreign())];
    // What only operators may takes as long as the two others together.
    if cfg!(feature = "slow-tests") {
        askers.push((platform.operator(), one.own(), String::new()));
    }
    for (token, own, foreign) in &askers {
        let said = schemathesis(&serving, token, own.clone(), foreign.clone(), &[])
            .await
            .unwrap_or_else(|failure| panic!("{failure}"));
        assert!(said.contains(" passed"), "{said}");
    }
    let log = serving.stop();
    assert!(!log.contains("panicked"), "{log}");
}

#[tokio::test]
async fn a_generated_client_takes_a_backup_and_restores_it() {
    let platform = Platform::new(&["tenant-one"]).await;
    let serving = platform.serve("[worker]\npoll_seconds = 1\n").await;
    let token = platform.token("tenant-one");
    let client = async |action: &str, argument: &str| -> Value {
        let arguments = vec![serving.url.clone(), action.to_owned(), argument.to_owned()];
        let said = run_script("generated-client", arguments, vec![("HOLDFAST_TOKEN", token.clone())]).await;
        let said = said.unwrap_or_else(|failure| panic!("{failure}"));
        serde_json::from_str(&said).unwrap_or_else(|error| panic!("{error}: {said}"))
    };
    let mut tenants = support::connect(&platform.info).await;
    let before = support::row_digests(&mut tenants, "tenant_tenant_one").await;
    assert_eq!(before["notes"].0, 500);

    let backup = client("backup", "tenant-one").await;
    assert_eq!((&backup["status"], &backup["row_count"]), (&json!("completed"), &json!(500)));
    assert!(backup["size"].as_i64().unwrap() > 0);

    tenants
        .execute("DELETE FROM tenant_tenant_one.notes WHERE id % 2 = 0; DROP TABLE tenant_tenant_one.empty")
        .await
        .unwrap();
    assert_ne!(support::row_digests(&mut tenants, "tenant_tenant_one").await, before);
    let restored = client("restore", backup["backup_id"].as_str().unwrap()).await;
    assert_eq!(restored["backup_id"], backup["backup_id"]);
    assert_eq!(support::row_digests(&mut tenants, "tenant_tenant_one").await, before);
    serving.stop();
}
