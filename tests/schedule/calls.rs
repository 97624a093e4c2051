//! `/api/schedules` and `/api/retention/plan`: what callers may, and what is refused with the field and the reason.

use bytes::Bytes;
use holdfast::{
    auth::jwt::Claims,
    tenant::{Permission, Role},
};
use serde_json::{Value, json};

use super::api::TestApi;

fn token(api: &TestApi, role: Role, organization: Option<&str>) -> String {
    api.token(&Claims {
        subject: format!("{role}"),
        permissions: Permission::ALL.to_vec(),
        project_ids: Vec::new(),
        organization_id: organization.map(str::to_owned),
        role,
    })
}

#[tokio::test]
async fn a_schedule_is_added_shown_changed_and_removed() {
    let api = TestApi::new().await;
    let acme = api.acme();
    let body = json!({
        "project_id": "acme", "name": "nightly", "cron": " 30  2 * * * ", "zone": "Europe/Berlin", "format": "tar", "storages": ["second"],
        "retention": { "days": 14, "keep_monthly": 12 }, "jitter_minutes": 30,
    });
    let added = api.post(&acme, "/api/schedules", body).await.data(201);
    let id = added["id"].as_str().unwrap();
    assert_eq!(
        (&added["cron"], &added["type"], &added["enabled"]),
        (&json!("30 2 * * *"), &json!("database"), &json!(true))
    );
    assert_eq!(added["next_slot"], "2026-11-22T01:30:00Z");
    let shown = api.get(&acme, &format!("/api/schedules/{id}")).await.data(200);
    let next: Vec<&str> =
        shown["next_runs"].as_array().unwrap().iter().map(|run| run["local"].as_str().unwrap()).collect();
    assert_eq!((next.len(), next[0]), (5, "2026-11-22 02:30:00 +01:00"));
    assert!(shown["description"].as_str().unwrap().contains("30") && shown["runs"] == json!([]), "{shown}");

    let path = format!("/api/schedules/{id}");
    let changed =
        api.patch(&acme, &path, json!({ "cron": "0 4 * * *", "retention": null, "format": null })).await.data(200);
    assert_eq!(
        (&changed["retention"], &changed["format"], &changed["jitter_minutes"]),
        (&Value::Null, &Value::Null, &json!(30))
    );
    assert_eq!((&changed["next_slot"], &changed["name"]), (&json!("2026-11-22T03:00:00Z"), &json!("nightly")));
    let listed = api.get(&acme, "/api/schedules?limit=1").await.json();
    assert_eq!((listed["data"].as_array().unwrap().len(), &listed["next_cursor"]), (1, &Value::Null));
    assert_eq!(api.delete(&acme, &path).await.status, 204);
    assert_eq!(api.get(&acme, &path).await.problem(404), "schedule.not_found");
    assert_eq!(api.get(&acme, "/api/schedules").await.data(200), json!([]));
    let told: Vec<String> = api.audit().await.into_iter().map(|(event, ..)| event).collect();
    assert_eq!(told, ["schedule_added", "schedule_changed", "schedule_removed"]);
}

#[tokio::test]
async fn members_schedule_their_projects_admins_their_organisation_and_operators_all() {
    let api = TestApi::new().await;
    let (member, admin, operator) =
        (api.acme(), token(&api, Role::OrgAdmin, Some("o-acme")), token(&api, Role::Operator, None));
    let add = async |who: &str, target: Value| {
        let mut body = json!({ "cron": "0 2 * * *" });
        body.as_object_mut().unwrap().extend(target.as_object().unwrap().clone());
        api.post(who, "/api/schedules", body).await
    };
    add(&member, json!({ "project_id": "acme" })).await.data(201);
    for target in [json!({}), json!({ "name_pattern": "*" }), json!({ "organization_id": "o-acme" })] {
        assert_eq!(add(&member, target).await.problem(422), "schedule.target");
    }
    assert_eq!(add(&member, json!({ "project_id": "globex" })).await.problem(404), "project.not_found");
    // Without more they mean their organisation.
    assert_eq!(add(&admin, json!({})).await.data(201)["organization_id"], "o-acme");
    let pattern = add(&admin, json!({ "name_pattern": "*" })).await.data(201);
    assert_eq!((&pattern["organization_id"], &pattern["name_pattern"]), (&json!("o-acme"), &json!("*")));
    assert_eq!(add(&admin, json!({ "organization_id": "o-globex" })).await.problem(404), "organization.not_found");
    assert_eq!(add(&admin, json!({ "project_id": "globex" })).await.problem(404), "project.not_found");
    add(&operator, json!({ "name_pattern": "*" })).await.data(201);
    assert_eq!(add(&operator, json!({})).await.problem(422), "schedule.target");
    assert_eq!(
        add(&operator, json!({ "project_id": "acme", "name_pattern": "*" })).await.problem(422),
        "schedule.target"
    );
    for (who, count) in [(&member, 1), (&admin, 3), (&operator, 4), (&api.member("globex", Permission::ALL), 0)] {
        assert_eq!(api.get(who, "/api/schedules").await.data(200).as_array().unwrap().len(), count);
    }
    // A stranger cannot tell it from what is not there.
    let path = format!("/api/schedules/{}", pattern["id"].as_str().unwrap());
    for who in [&member, &token(&api, Role::OrgAdmin, Some("o-globex"))] {
        assert_eq!(api.get(who, &path).await.problem(404), "schedule.not_found");
        assert_eq!(api.patch(who, &path, json!({ "enabled": false })).await.problem(404), "schedule.not_found");
        assert_eq!(api.delete(who, &path).await.problem(404), "schedule.not_found");
    }
}

#[tokio::test]
async fn what_is_wrong_is_refused_with_the_field_and_the_reason() {
    let api = TestApi::new().await;
    let operator = token(&api, Role::Operator, None);
    for (wrong, code, field) in [
        (json!({ "cron": "31 2 *" }), "schedule.cron", "cron: cron expression \"31 2 *\" has 3 fields"),
        (json!({ "cron": "61 * * * *" }), "schedule.cron", "cron: "),
        (json!({ "cron": "0 2 30 2 *" }), "schedule.cron", "never runs"),
        (json!({ "cron": "0 2 * * *\n* * * * *" }), "schedule.cron", "has 10 fields"),
        (json!({ "zone": "Mars/Olympus" }), "schedule.zone", "zone: there is no time zone"),
        (json!({ "zone": "" }), "schedule.zone", "zone: "),
        (json!({ "retention": { "days": -1 } }), "request.body", "retention.days"),
        (json!({ "retention": { "days": 0 } }), "schedule.retention", "retention.days is 0"),
        (
            json!({ "retention": { "keep_last": 4_000_000_000u32 } }),
            "schedule.retention",
            "retention.keep_last is 4000000000",
        ),
        (json!({ "retention": { "days": 1e30 } }), "request.body", "retention.days"),
        (json!({ "retention": { "hours": 1 } }), "request.body", "hours"),
        (json!({ "retention": {} }), "schedule.retention", "retention has no rule"),
        (json!({ "storages": ["nowhere"] }), "request.storage", "nowhere"),
        (json!({ "storages": vec!["first"; 21] }), "schedule.storages", "at most 20"),
        (json!({ "type": "everything" }), "request.body", "type"),
        (json!({ "format": "custom", "compression": "zstd" }), "schedule.compression", "compression"),
        (json!({ "jitter_minutes": 1_441 }), "schedule.jitter_minutes", "jitter_minutes is 1441"),
        (json!({ "jitter_minutes": -5 }), "request.body", "jitter_minutes"),
        (json!({ "name": "a\nb" }), "schedule.name", "name"),
        (json!({ "cronn": "0 2 * * *" }), "request.body", "cronn"),
        (json!({ "project_id": null, "name_pattern": "a\nb" }), "schedule.target", "name_pattern"),
    ] {
        let mut body = json!({ "project_id": "acme", "cron": "0 2 * * *" });
        body.as_object_mut().unwrap().extend(wrong.as_object().unwrap().clone());
        let answer = api.post(&operator, "/api/schedules", body).await;
        assert_eq!(answer.problem(422), code, "{wrong}");
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains(field), "{wrong}: {detail}");
    }
    assert_eq!(api.count("SELECT count(*) FROM control_plane.schedules").await, 0);
    for query in
        ["cron=0%202%20*%20*%20*&zone=Nowhere", "cron=0%202%2030%202%20*", "zone=UTC", "cron=0%202%20*%20*%20*&x=1"]
    {
        api.get(&operator, &format!("/api/schedules/preview?{query}")).await.problem(422);
    }
}

#[tokio::test]
async fn a_preview_shows_the_next_five_times_and_the_meaning() {
    let api = TestApi::new().await;
    let path = "/api/schedules/preview?cron=30%202%20*%20*%20*&zone=Australia/Lord_Howe";
    let preview = api.get(&api.acme(), path).await.data(200);
    let next = preview["next_runs"].as_array().unwrap();
    assert_eq!((next.len(), &next[0]["local"]), (5, &json!("2026-11-22 02:30:00 +11:00")));
    assert_eq!(next[0]["at"], "2026-11-21T15:30:00Z");
    assert!(preview["description"].as_str().unwrap().contains("30"), "{preview}");
    let usual = api.get(&api.acme(), "/api/schedules/preview?cron=0%200%201%201%20*").await.data(200);
    assert_eq!((&usual["zone"], &usual["next_runs"][0]["at"]), (&json!("UTC"), &json!("2027-01-01T00:00:00Z")));
}

#[tokio::test]
async fn a_plan_is_shown_to_those_who_reach_the_projects_page_by_page() {
    let api = TestApi::new().await;
    for project in ["acme", "globex"] {
        api.stored_backup(project, &Bytes::from_static(b"x"), &["first"]).await;
    }
    let acme = api.get(&api.acme(), "/api/retention/plan").await.data(200);
    let backups = acme["backups"].as_array().unwrap();
    assert_eq!((backups.len(), &backups[0]["project_id"], &backups[0]["action"]), (1, &json!("acme"), &json!("keep")));
    assert!(backups[0]["because"][0].as_str().unwrap().starts_with("asked for until"), "{acme}");
    let other = api.get(&api.acme(), "/api/retention/plan?project_id=globex").await.data(200);
    assert_eq!(other["backups"], json!([]));
    let operator = token(&api, Role::Operator, None);
    let first = api.get(&operator, "/api/retention/plan?limit=1").await.json();
    assert_eq!((&first["data"]["backups"][0]["project_id"], &first["next_cursor"]), (&json!("acme"), &json!("acme")));
    let second = api.get(&operator, "/api/retention/plan?limit=1&cursor=acme").await.json();
    assert_eq!((&second["data"]["backups"][0]["project_id"], &second["next_cursor"]), (&json!("globex"), &Value::Null));
    // Nothing is done by looking; and in ten years one still stays.
    api.clock.advance(chrono::Duration::days(3_650));
    let later = api.get(&token(&api, Role::Operator, None), "/api/retention/plan").await;

    assert_eq!(later.data(200)["deletes"], 0);
}

#[tokio::test]
async fn a_project_and_an_organisation_have_only_so_many_schedules() {
    let api = TestApi::new().await;
    let (acme, admin) = (api.acme(), token(&api, Role::OrgAdmin, Some("o-acme")));
    sqlx::raw_sql(
        "INSERT INTO control_plane.schedules (project_id, cron, holdfast) SELECT 'acme', '0 2 * * *', true FROM generate_series(1, 18);
         INSERT INTO control_plane.schedules (project_id, cron) VALUES ('acme', '0 2 * * *');
         INSERT INTO control_plane.schedules (organization_id, cron, holdfast) SELECT 'o-acme', '0 2 * * *', true FROM generate_series(1, 50);",
    )
    .execute(api.pool())
    .await
    .unwrap();
    let body = json!({ "project_id": "acme", "cron": "0 2 * * *" });
    // However many come at once.
    let asked = (0..5).map(|_| api.post(&acme, "/api/schedules", body.clone()));
    let answers = futures::future::join_all(asked).await;
    assert_eq!(answers.iter().filter(|answer| answer.status == 201).count(), 2);
    for refused in answers.iter().filter(|answer| answer.status != 201) {
        assert_eq!(refused.problem(409), "schedule.too_many");
    }
    let of_organization = json!({ "name_pattern": "*", "cron": "0 2 * * *" });
    assert_eq!(api.post(&admin, "/api/schedules", of_organization).await.problem(409), "schedule.too_many");
    // One that is removed makes room.
    let listed = api.get(&acme, "/api/schedules?limit=1").await.data(200);
    api.delete(&acme, &format!("/api/schedules/{}", listed[0]["id"].as_str().unwrap())).await;
    api.post(&acme, "/api/schedules", body).await.data(201);
}
