//! A job as it goes on: events and log.

use axum::http::{Method, header};
use futures::StreamExt;
use holdfast::{
    auth::jwt::Claims,
    history,
    tenant::{Permission, Role},
};
use serde_json::{Value, json};

use super::api::{TestApi, request};

/// The events of a stream: name and data.
fn events(text: &str) -> Vec<(String, Value)> {
    text.split("\n\n")
        .filter(|block| block.contains("event:"))
        .map(|block| {
            let field = |name: &str| {
                block
                    .lines()
                    .find_map(|line| line.strip_prefix(name))
                    .unwrap_or_else(|| panic!("{block}"))
                    .trim()
                    .to_owned()
            };
            (field("event:"), serde_json::from_str(&field("data:")).unwrap())
        })
        .collect()
}

#[tokio::test]
async fn a_stream_of_events_shows_every_change_and_ends_with_the_job() {
    let api = TestApi::new().await;
    let job = api.job("acme", "export_backup", "in_progress").await;
    history::job_log(api.pool(), Some("acme"), job, "info", "first line").await.unwrap();
    let path = format!("/api/jobs/{job}/events");
    let asked = request(Method::GET, &path, Some(&api.acme()), None);
    let response = tower::ServiceExt::oneshot(api.router.clone(), asked).await.unwrap();
    assert_eq!(response.headers()[header::CONTENT_TYPE], "text/event-stream");
    let mut body = response.into_body().into_data_stream();
    let mut text = String::new();
    let mut until = async |mark: &str| {
        while !text.contains(mark) {
            let chunk = body.next().await.unwrap_or_else(|| panic!("ended before {mark}: {text}")).unwrap();
            text.push_str(std::str::from_utf8(&chunk).unwrap());
        }
        text.clone()
    };
    until("event: progress").await;
    sqlx::query("UPDATE control_plane.jobs SET progress = '{\"stage\":\"dumping\"}' WHERE id = $1")
        .bind(job.0)
        .execute(api.pool())
        .await
        .unwrap();
    until("dumping").await;
    history::job_log(api.pool(), Some("acme"), job, "info", "last line").await.unwrap();
    sqlx::query("UPDATE control_plane.jobs SET status = 'completed', result = '{\"ok\":true}' WHERE id = $1")
        .bind(job.0)
        .execute(api.pool())
        .await
        .unwrap();
    let text = until("event: end").await;
    while let Some(rest) = body.next().await {
        assert!(rest.unwrap().is_empty(), "nothing comes after the end");
    }
    let events = events(&text);
    let names: Vec<&str> = events.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["log", "progress", "progress", "log", "progress", "end"], "{text}");
    assert_eq!((&events[0].1["message"], &events[3].1["message"]), (&json!("first line"), &json!("last line")));
    assert_eq!(events[2].1["progress"]["stage"], "dumping");
    let end = &events[5].1;
    assert_eq!((&end["id"], &end["status"], &end["result"]["ok"]), (&json!(job), &json!("completed"), &json!(true)));

    let last = text.lines().filter_map(|line| line.strip_prefix("id: ")).next_back().unwrap();
    let mut again = request(Method::GET, &path, Some(&api.acme()), None);
    again.headers_mut().insert("last-event-id", last.parse().unwrap());
    let again = String::from_utf8(api.send(again).await.body.to_vec()).unwrap();
    assert!(!again.contains("event: log") && again.contains("event: end"), "{again}");
}

#[tokio::test]
async fn a_stream_ends_soon_after_its_callers_session_key_or_rights_have() {
    let api = TestApi::new().await;
    let job = api.job("acme", "export_backup", "in_progress").await;
    let path = format!("/api/jobs/{job}/events");
    let follow = async |token: &str| {
        let asked = request(Method::GET, &path, Some(token), None);
        let mut body =
            tower::ServiceExt::oneshot(api.router.clone(), asked).await.unwrap().into_body().into_data_stream();
        let first = body.next().await.unwrap().unwrap();
        assert!(first.starts_with(b"event: progress"), "{first:?}");
        body
    };
    let key =
        api.key(&api.acme(), json!({ "name": "ci", "permissions": ["backup:read"], "project_ids": ["acme"] })).await;
    let mut open = vec![follow(&key).await];
    for name in ["disabled", "with less", "logged out"] {
        api.user(name, Role::Member, None, &["acme"]).await;
        open.push(follow(&api.log_in(name).await).await);
    }
    let mut stays = follow(&api.acme()).await;
    sqlx::raw_sql(
        "UPDATE control_plane.api_keys SET revoked_at = now();
         UPDATE control_plane.users SET disabled = true WHERE name = 'disabled';
         UPDATE control_plane.users SET permissions = '{backup:read}' WHERE name = 'with less';
         DELETE FROM control_plane.sessions WHERE user_id = (SELECT id FROM control_plane.users WHERE name = 'logged out')",
    )
    .execute(api.pool())
    .await
    .unwrap();
    api.clock.advance(chrono::Duration::seconds(30));
    let rest = async |body: &mut axum::body::BodyDataStream| {
        let mut text = String::new();
        while let Some(chunk) = body.next().await {
            text.push_str(std::str::from_utf8(&chunk.unwrap()).unwrap());
        }
        text
    };
    for body in &mut open {
        let rest = tokio::time::timeout(std::time::Duration::from_secs(30), rest(body)).await.unwrap();
        assert!(!rest.contains("event:"), "{rest}");
    }
    sqlx::query("UPDATE control_plane.jobs SET status = 'completed'").execute(api.pool()).await.unwrap();
    assert!(rest(&mut stays).await.contains("event: end"));
}

#[tokio::test]
async fn streams_of_events_are_limited_and_a_closed_one_makes_room() {
    let api = TestApi::new().await;
    let job = api.job("acme", "export_backup", "in_progress").await;
    let path = format!("/api/jobs/{job}/events");
    let ask = async |subject: usize| {
        let token = api.token(&Claims {
            subject: format!("caller {subject}"),
            permissions: vec![Permission::Read],
            project_ids: vec!["acme".parse().unwrap()],
            organization_id: None,
            role: Role::Member,
        });
        let asked = request(Method::GET, &path, Some(&token), None);
        tower::ServiceExt::oneshot(api.router.clone(), asked).await.unwrap()
    };
    let mut open = Vec::new();
    for subject in 0..16 {
        let refused = loop {
            let response = ask(subject).await;
            if response.status() != 200 {
                break response;
            }
            open.push(response);
        };
        assert_eq!((refused.status().as_u16(), open.len()), (429, 16 * (subject + 1)));
    }
    assert_eq!(ask(16).await.status(), 503);
    open.pop();
    assert_eq!(ask(16).await.status(), 200);
}

#[tokio::test]
async fn a_jobs_log_is_listed() {
    let api = TestApi::new().await;
    let job = api.job("acme", "export_backup", "in_progress").await;
    for line in ["one", "two"] {
        history::job_log(api.pool(), Some("acme"), job, "info", line).await.unwrap();
    }
    let lines = api.get(&api.acme(), &format!("/api/jobs/{job}/logs")).await.data(200);
    assert_eq!((&lines[0]["message"], &lines[1]["message"]), (&json!("one"), &json!("two")));
    assert_eq!(lines.as_array().unwrap().len(), 2);
    api.get(&api.acme(), &format!("/api/jobs/{job}/logs?cursor=x")).await.problem(422);
}
