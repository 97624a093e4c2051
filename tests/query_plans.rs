//! Every question that the API asks its database to answer a GET, or to take a backup, a restore or a deletion, is answered by an index,
//! however many rows there are. The server tells its plans (`auto_explain`), with what was read, to the connection that asked.

mod plan;
mod seed;

use crate::{
    api,
    support::{self, document},
};

use std::collections::BTreeSet;

use api::{Answer, TestApi, request};
use axum::{
    body::Body,
    http::{Method, Request},
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use document::{Document, Operation};
use holdfast::{
    auth::jwt::Claims,
    tenant::{Permission, Role},
};
use plan::Plan;
use seed::Seeded;
use serde_json::json;
use support::heard::{Listener, tell_plans};

/// Blocks of 8 KiB that the statement of one request may touch. A page of 50 rows, each with a few copies, takes some hundreds.
const MOST_BLOCKS: u64 = 2_500;

/// The tables that grow.
const LARGE: [&str; 4] = ["backups", "jobs", "backup_history", "project_logs"];

/// All that many projects have: every row counts, and reading all of them in the order of the table is the quickest way. Sums; and the
/// plan of retention, whose page is of projects, with a reason for each backup that they have.
fn is_about_everything(operation: &str, who: &str, path: &str) -> bool {
    ["GET /api/backup/stats", "GET /api/retention/plan"].contains(&operation)
        && who != "a member"
        && !path.contains("project_id=")
}

/// How many blocks a statement of this operation may touch. The metrics tell of every project what its newest 100 backups say.
fn most_blocks(operation: &str) -> u64 {
    if operation == "GET /metrics" { 10 * u64::from(seed::PROJECTS.unsigned_abs()) } else { MOST_BLOCKS }
}

struct Scene {
    api: TestApi,
    seeded: Seeded,
    callers: Vec<(&'static str, String)>,
}

impl Scene {
    async fn new() -> Self {
        // One connection: a statement's plan may change after it was run five times on the same one.
        let api = TestApi::with(|config| {
            config.database.max_connections = 1;
            config.limits.jobs_per_project = 100;
        })
        .await;
        let seeded = seed::seed(api.pool()).await;
        let token = |role, projects: &[String], organization: Option<&str>| {
            api.token(&Claims {
                subject: "reader".to_owned(),
                permissions: Permission::ALL.to_vec(),
                project_ids: projects.iter().map(|id| id.parse().unwrap()).collect(),
                organization_id: organization.map(str::to_owned),
                role,
            })
        };
        let callers = vec![
            ("a member", token(Role::Member, &["p7".to_owned()], None)),
            ("a member of many", token(Role::Member, &seeded.some_projects, None)),
            ("an organisation's admin", token(Role::OrgAdmin, &[], Some("o3"))),
            ("an operator", token(Role::Operator, &[], None)),
        ];
        tell_plans(api.pool()).await;
        Self { api, seeded, callers }
    }

    async fn plans(&self, token: &str, path: &str) -> Vec<Plan> {
        let (answer, plans) = self.asked(request(Method::GET, path, Some(token), None)).await;
        assert!(answer.status.as_u16() < 500, "{path}: {answer:?}");
        plans
    }

    async fn asked(&self, request: Request<Body>) -> (Answer, Vec<Plan>) {
        let listener = Listener::start();
        let answer = self.api.send(request).await;
        (answer, listener.notices().iter().filter_map(|notice| Plan::parse(notice)).collect())
    }

    /// Every way to ask: no parameter, each one alone, and the page after the first.
    fn paths(&self, operation: &Operation) -> Vec<String> {
        let object = match operation.path.split_once("/{").map(|(collection, _)| collection) {
            Some("/api/backup" | "/backup") => self.seeded.backup.to_string(),
            Some("/api/jobs") => self.seeded.job.to_string(),
            _ => uuid::Uuid::nil().to_string(),
        };
        let path = operation.path_of(&object);
        let mut paths = vec![path.clone()];
        for parameter in operation.parameters("query") {
            let name = parameter["name"].as_str().unwrap();
            let values = match name {
                "project_id" => vec!["p7".to_owned()],
                "limit" => vec!["200".to_owned()],
                "cursor" if operation.path == "/api/backup" => vec![self.seeded.last_backups.clone()],
                "cursor" if operation.path == "/api/jobs" => vec![self.seeded.last_jobs.clone()],
                "created_after" | "created_before" | "since" | "until" => vec!["2026-01-05T00:00:00Z".to_owned()],
                "backup_id" => vec![self.seeded.backup.to_string()],
                "outcome" => vec!["ok".to_owned(), "refused".to_owned()],
                "expiring_within" => vec!["7d".to_owned()],
                _ => words(parameter),
            };
            let values: Vec<String> = values.iter().map(|value| value.replace(' ', "%20")).collect();
            paths.extend(values.iter().map(|value| format!("{path}?{name}={value}")));
            paths.extend(values.iter().map(|value| format!("{path}?{name}={value}&project_id=p7")).filter(|_| {
                name != "project_id" && operation.parameters("query").iter().any(|p| p["name"] == "project_id")
            }));
        }
        paths
    }
}

/// The values that a parameter's schema lists, or its example.
fn words(parameter: &serde_json::Value) -> Vec<String> {
    let schema = Document::served().resolved(&parameter["schema"]);
    let listed = schema["enum"].as_array().cloned().unwrap_or_default();
    let words: Vec<String> = listed.iter().filter_map(|word| word.as_str().map(str::to_owned)).collect();
    if !words.is_empty() {
        return words;
    }
    parameter["example"].as_str().or(schema["example"].as_str()).map(str::to_owned).into_iter().collect()
}

#[tokio::test]
async fn every_get_is_answered_by_an_index_and_pages_cost_the_same_wherever_they_are() {
    let scene = Scene::new().await;
    let (mut wrong, mut seen, mut tried) = (BTreeSet::new(), 0, 0);
    for operation in Document::served().operations() {
        let (name, is_stream) =
            (operation.name(), operation.value["responses"]["200"]["content"].get("text/event-stream").is_some());
        if operation.method != "GET" || is_stream {
            continue;
        }
        // Run five times on a connection, a statement may get a plan that does not look at its parameters, for all that follow.
        for _ in 0..6 {
            scene.plans(&scene.callers[0].1, &scene.paths(&operation)[0]).await;
        }
        for path in scene.paths(&operation) {
            for (who, token) in &scene.callers {
                tried += 1;
                for plan in scene.plans(token, &path).await {
                    seen += 1;
                    if is_about_everything(&name, who, &path) {
                        continue;
                    }
                    look_at(&plan, &format!("{path} by {who}"), most_blocks(&name), &mut wrong);
                }
            }
        }
    }
    assert!(tried > 50 && seen > 200, "{tried} requests, {seen} plans");
    first_and_last(&scene, &mut wrong).await;
    what_is_asked_for(&scene, &mut wrong).await;
    assert!(wrong.is_empty(), "{}", wrong.into_iter().collect::<Vec<_>>().join("\n"));
}

fn look_at(plan: &Plan, asked: &str, most_blocks: u64, wrong: &mut BTreeSet<String>) {
    for table in plan.sequential_scans().iter().filter(|table| LARGE.contains(&table.as_str())) {
        wrong.insert(format!("{asked} reads all of {table}: {}", plan.query));
    }
    let blocks = plan.blocks();
    if blocks > most_blocks {
        wrong.insert(format!("{asked} reads {blocks} blocks: {}", plan.query));
    }
}

/// A deletion, a restore and a backup of seven projects of each caller: after five, a plan may be one that looks at no parameter.
async fn what_is_asked_for(scene: &Scene, wrong: &mut BTreeSet<String>) {
    let projects: [fn(usize) -> String; 3] =
        [|n| format!("p{}", 11 + n), |n| format!("p{}", 103 + 10 * n), |n| format!("p{}", 501 + n)];
    let mut seen = 0;
    for ((who, token), project_of) in scene.callers[1..].iter().zip(projects) {
        for project in (0..7).map(project_of) {
            let good: Vec<uuid::Uuid> = sqlx::query_scalar(
                "SELECT id FROM control_plane.backups WHERE project_id = $1 AND type = 'database' AND status = 'completed'
                 ORDER BY created_at DESC LIMIT 2",
            )
            .bind(&project)
            .fetch_all(scene.api.pool())
            .await
            .unwrap();
            let [deleted, restored] = good[..] else { panic!("{project} has no two good backups: {good:?}") };
            for (method, path, body) in [
                (Method::DELETE, format!("/api/backup/{deleted}"), None),
                (
                    Method::POST,
                    "/api/backup/restore".to_owned(),
                    Some(json!({ "backup_id": restored, "confirm": true })),
                ),
                (Method::POST, "/api/backup/export".to_owned(), Some(json!({ "project_id": project }))),
            ] {
                let asked = format!("{method} {path} of {project} by {who}");
                let (answer, plans) = scene.asked(request(method, &path, Some(token.as_str()), body)).await;
                assert_eq!(answer.status, 202, "{asked}: {answer:?}");
                seen += plans.len();
                plans.iter().for_each(|plan| look_at(plan, &asked, MOST_BLOCKS, wrong));
            }
        }
    }
    assert!(seen > 200, "{seen} plans");
}

/// The first and the last page of the lists read about as much.
async fn first_and_last(scene: &Scene, wrong: &mut BTreeSet<String>) {
    for (list, last) in [("/api/backup", &scene.seeded.last_backups), ("/api/jobs", &scene.seeded.last_jobs)] {
        // The organisation's admin and the members have their own last pages; the operator's is the farthest.
        let (who, token) = &scene.callers[3];
        let mut blocks = [0; 2];
        for (place, path) in [list.to_owned(), format!("{list}?cursor={last}")].iter().enumerate() {
            let answer = scene.api.get(token, path).await;
            let rows = answer.json()["data"].as_array().unwrap().len();
            assert_eq!(rows, 50, "{path}");
            blocks[place] = scene.plans(token, path).await.iter().map(Plan::blocks).sum();
        }
        let [first, last] = blocks;
        if last > first * 2 + 50 {
            wrong.insert(format!("{list} by {who}: the first page reads {first} blocks, the last one {last}"));
        }
    }
}

/// A cursor as the lists give it: the time in microseconds and the id, in base64.
fn cursor(micros: i64, id: uuid::Uuid) -> String {
    BASE64_URL_SAFE_NO_PAD.encode([&micros.to_be_bytes()[..], id.as_bytes()].concat())
}
