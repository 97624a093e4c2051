use holdfast::{
    catalog::{self, ChannelConfig, NoticeEvent},
    tenant::{Permission, Role},
};
use serde_json::{Value, json};
use sqlx::Executor;

use super::{CANARY, admin, all_pages, api::TestApi, everything_stored, operator, token};

const SECRET: &str = "canary-of-a-webhook";

fn hook(url: &str) -> Value {
    json!({ "type": "webhook", "url": url, "secret": SECRET })
}

fn channel(settings: Value) -> Value {
    json!({ "name": "on-call", "settings": settings })
}

#[tokio::test]
async fn secrets_go_in_and_only_a_notifier_sees_them() {
    let api = TestApi::new().await;
    let olga = operator(&api);
    let mut body = channel(hook("http://10.0.0.1/hook"));
    body["project_id"] = json!("acme");
    body["events"] = json!(["failed", "stale", "failed"]);
    let mut said = vec![api.post(&olga, "/api/channels", body).await];
    let shown = said[0].data(201);
    assert_eq!(
        (&shown["events"], &shown["settings"]["secret"]),
        (&json!(["failed", "stale"]), &json!({ "set": true }))
    );
    let bot = json!({ "type": "telegram", "bot_token": "1:canary-canary", "chat_id": -5 });
    said.push(api.post(&olga, "/api/channels", channel(bot)).await);
    let path = format!("/api/channels/{}", shown["id"].as_str().unwrap());
    let again = json!({ "settings": { "url": "https://h.example/x", "secret": format!("{SECRET}-2") } });
    said.push(api.patch(&olga, &path, again).await);
    said.push(api.get(&olga, "/api/channels").await);
    said.push(api.get(&olga, &path).await);
    said.push(
        api.post(
            &olga,
            "/api/channels",
            channel(json!({ "type": "webhook", "url": "https://h/x", "secret": "canary" })),
        )
        .await,
    );
    for answer in said {
        let text = String::from_utf8_lossy(&answer.body);
        assert!(!text.contains(CANARY), "{text}");
    }
    assert!(!everything_stored(&api).await.contains(CANARY));
    let rows = catalog::channels_of(api.pool(), "acme", NoticeEvent::Failed).await.unwrap();
    assert_eq!(rows.len(), 2);
    assert!(!rows[0].is_tenants_own);
    let opened = ChannelConfig::parse(&rows[0].open(&api.app.keys.secrets).unwrap()).unwrap();
    let ChannelConfig::Webhook(opened) = opened else { panic!("{opened:?}") };
    assert_eq!((opened.secret.expose(), opened.url.as_str()), ("canary-of-a-webhook-2", "https://h.example/x"));
    // What is sealed opens in its own row alone.
    let moved = "UPDATE control_plane.channels a SET settings_sealed = b.settings_sealed FROM control_plane.channels b WHERE a.kind = 'telegram' AND b.kind = 'webhook'";
    api.pool().execute(moved).await.unwrap();
    let telegram = catalog::channels_of(api.pool(), "globex", NoticeEvent::Failed).await.unwrap();
    assert!(telegram[0].open(&api.app.keys.secrets).is_err());
}

#[tokio::test]
async fn a_project_is_heard_of_by_its_own_its_organisations_and_the_platforms_channels() {
    let api = TestApi::new().await;
    let olga = operator(&api);
    let mail = || json!({ "type": "email", "to": ["a@example.com"] });
    for (name, of, events, enabled) in [
        ("project", json!({ "project_id": "acme" }), json!([]), true),
        ("organisation", json!({ "organization_id": "o-acme" }), json!(["failed"]), true),
        ("platform", json!({}), json!([]), true),
        ("other project", json!({ "project_id": "globex" }), json!([]), true),
        ("other organisation", json!({ "organization_id": "o-globex" }), json!([]), true),
        ("off", json!({}), json!([]), false),
        ("other event", json!({}), json!(["expiring"]), true),
    ] {
        let mut body = json!({ "name": name, "events": events, "enabled": enabled, "settings": mail() });
        body.as_object_mut().unwrap().extend(of.as_object().unwrap().clone());
        api.post(&olga, "/api/channels", body).await.data(201);
    }
    let heard = async |event| {
        let rows = catalog::channels_of(api.pool(), "acme", event).await.unwrap();
        let mut names: Vec<String> = rows.into_iter().map(|row| row.name).collect();
        names.sort();
        names
    };
    assert_eq!(heard(NoticeEvent::Failed).await, ["organisation", "platform", "project"]);
    assert_eq!(heard(NoticeEvent::Completed).await, ["platform", "project"]);
    let (all, pages) = all_pages(&api, &olga, "/api/channels").await;
    assert_eq!((all.len(), pages, &all[0]["name"]), (7, 4, &json!("other event")));
    assert_eq!(api.get(&olga, "/api/channels?project_id=acme").await.data(200).as_array().unwrap().len(), 1);
    let (own, _) = all_pages(&api, &admin(&api), "/api/channels").await;
    assert_eq!(own.iter().map(|row| row["name"].as_str().unwrap()).collect::<Vec<_>>(), ["organisation", "project"]);
}

#[tokio::test]
async fn an_organisations_admin_stays_within_it_and_outside_of_private_networks() {
    let api = TestApi::new().await;
    let ada = admin(&api);
    let mail = json!({ "type": "email", "to": ["a@example.com"] });
    let own = api.post(&ada, "/api/channels", channel(mail.clone())).await.data(201);
    assert_eq!((&own["organization_id"], &own["project_id"]), (&json!("o-acme"), &Value::Null));
    let with = |member: &str, id: &str| json!({ "name": "x", member: id, "settings": mail });
    assert_eq!(api.post(&ada, "/api/channels", with("organization_id", "o-globex")).await.problem(403), "auth.grant");
    assert_eq!(api.post(&ada, "/api/channels", with("project_id", "globex")).await.problem(404), "project.not_found");
    api.post(&ada, "/api/channels", with("project_id", "acme")).await.data(201);
    for url in [
        "http://hooks.example.com/x",
        "https://127.0.0.1/x",
        "https://2130706433/x",
        "https://0x7f.1/x",
        "https://0177.0.0.1/x",
        "https://localhost./x",
        "https://169.254.169.254/latest/meta-data",
        "https://[::ffff:169.254.169.254]/x",
        "https://10.1.2.3/x",
        "https://[fd00::1]/x",
        "https://100.64.0.1/x",
        "https://0.0.0.0/x",
    ] {
        let answer = api.post(&ada, "/api/channels", channel(hook(url))).await;
        assert_eq!(answer.problem(422), "request.settings", "{url}");
        assert!(answer.json()["detail"].as_str().unwrap().contains("settings.url"), "{}", answer.json());
    }
    let bot =
        json!({ "type": "telegram", "bot_token": "1:canary-canary", "chat_id": -5, "base_url": "https://10.0.0.1/" });
    assert_eq!(api.post(&ada, "/api/channels", channel(bot)).await.problem(422), "request.settings");
    api.post(&ada, "/api/channels", channel(hook("https://8.8.8.8/x"))).await.data(201);

    // What an operator made for the organisation, its admin may switch off, but neither see where it leads nor lead it elsewhere.
    let mut body = channel(hook("https://10.0.0.1/x"));
    body["organization_id"] = json!("o-acme");
    let id = api.post(&operator(&api), "/api/channels", body).await.data(201)["id"].as_str().unwrap().to_owned();
    let path = format!("/api/channels/{id}");
    assert_eq!(api.patch(&ada, &path, json!({ "enabled": false })).await.data(200)["enabled"], false);
    for settings in [
        json!({ "secret": SECRET }),
        json!({ "url": "https://8.8.8.8/x" }),
        json!({ "url": "https://8.8.8.8/x", "secret": SECRET }),
    ] {
        let answer = api.patch(&ada, &path, json!({ "settings": settings })).await;
        assert_eq!(answer.problem(403), "auth.grant", "{settings}");
    }
    let shown = [api.get(&ada, &path).await, api.get(&ada, "/api/channels").await];
    assert_eq!(shown[0].data(200)["settings"], Value::Null);
    for answer in shown {
        assert!(!String::from_utf8_lossy(&answer.body).contains("10.0.0.1"), "{}", answer.json());
    }
    assert_eq!(api.delete(&ada, &path).await.status, 204);
}

#[tokio::test]
async fn an_operator_vouches_for_an_address_only_by_giving_it() {
    let api = TestApi::new().await;
    let (ada, olga) = (admin(&api), operator(&api));
    let own = api.post(&ada, "/api/channels", channel(hook("https://8.8.8.8/x"))).await.data(201);
    let path = format!("/api/channels/{}", own["id"].as_str().unwrap());
    let is_tenants = "SELECT count(*) FROM control_plane.channels WHERE is_tenants_own";
    api.patch(&olga, &path, json!({ "settings": { "secret": format!("{SECRET}-2") } })).await.data(200);
    assert_eq!(api.count(is_tenants).await, 1);
    assert_eq!(api.get(&ada, &path).await.data(200)["settings"]["url"], "https://8.8.8.8/x");
    let inside = json!({ "settings": { "url": "https://10.0.0.1/x", "secret": SECRET } });
    api.patch(&olga, &path, inside).await.data(200);
    assert_eq!(api.count(is_tenants).await, 0);
    assert_eq!(api.get(&ada, &path).await.data(200)["settings"], Value::Null);
}

#[tokio::test]
async fn an_organisations_admins_add_so_many_channels_and_no_more() {
    let api = TestApi::new().await;
    let (ada, olga) = (admin(&api), operator(&api));
    let mut body = channel(json!({ "type": "email", "to": ["a@example.com"] }));
    body["project_id"] = json!("acme");
    api.post(&olga, "/api/channels", body.clone()).await.data(201);
    let own = api.post(&ada, "/api/channels", body.clone()).await.data(201)["id"].as_str().unwrap().to_owned();
    let further = "INSERT INTO control_plane.channels
            (id, name, kind, project_id, organization_id, events, enabled, settings_sealed, is_tenants_own, created_by)
        SELECT gen_random_uuid(), name, kind, project_id, organization_id, events, enabled, settings_sealed, is_tenants_own, created_by
        FROM control_plane.channels, generate_series(1, 49) WHERE is_tenants_own";
    api.pool().execute(further).await.unwrap();
    assert_eq!(api.post(&ada, "/api/channels", body.clone()).await.problem(409), "channel.too_many");
    body["project_id"] = Value::Null;
    assert_eq!(api.post(&ada, "/api/channels", body.clone()).await.problem(409), "channel.too_many");
    body["organization_id"] = json!("o-acme");
    api.post(&olga, "/api/channels", body.clone()).await.data(201);
    assert_eq!(api.delete(&ada, &format!("/api/channels/{own}")).await.status, 204);
    api.post(&ada, "/api/channels", body).await.data(201);
}

#[tokio::test]
async fn ranges_that_the_operator_allows_are_reached() {
    let api = TestApi::with(|config| config.outgoing.allow = vec!["10.0.0.0/8".parse().unwrap()]).await;
    api.post(&admin(&api), "/api/channels", channel(hook("https://10.1.2.3/x"))).await.data(201);
    assert_eq!(api.post(&admin(&api), "/api/channels", channel(hook("https://127.0.0.1/x"))).await.status, 422);
}

#[tokio::test]
async fn members_and_others_find_no_channel() {
    let api = TestApi::new().await;
    let olga = operator(&api);
    let mut body = channel(json!({ "type": "email", "to": ["a@example.com"] }));
    body["project_id"] = json!("acme");
    let id = api.post(&olga, "/api/channels", body.clone()).await.data(201)["id"].as_str().unwrap().to_owned();
    let path = format!("/api/channels/{id}");
    let member = api.member("acme", Permission::ALL);
    assert_eq!(api.get(&member, &path).await.problem(403), "auth.role");
    assert_eq!(api.post(&member, "/api/channels", body).await.problem(403), "auth.role");
    let other = token(&api, "Max", Role::OrgAdmin, Some("o-globex"));
    for answer in
        [api.get(&other, &path).await, api.delete(&other, &path).await, api.patch(&other, &path, json!({})).await]
    {
        assert_eq!(answer.problem(404), "channel.not_found");
    }
    assert_eq!(api.get(&other, "/api/channels?project_id=acme").await.data(200), json!([]));
}

#[tokio::test]
async fn what_is_wrong_is_told_with_the_fields_name() {
    let api = TestApi::new().await;
    let olga = operator(&api);
    let mail = json!({ "type": "email", "to": ["a@example.com"] });
    for (body, code) in [
        (json!({ "name": "", "settings": mail }), "request.name"),
        (json!({ "name": "a\0", "settings": mail }), "request.value"),
        (json!({ "name": "x", "settings": mail, "events": ["exploded"] }), "request.body"),
        (json!({ "name": "x", "settings": mail, "more": 1 }), "request.body"),
        (json!({ "name": "x" }), "request.body"),
        (json!({ "name": "x", "settings": { "type": "pigeon" } }), "request.settings"),
        (json!({ "name": "x", "settings": { "type": "email", "to": ["a@b.c\r\nBcc: d@e.f"] } }), "request.settings"),
        (
            json!({ "name": "x", "settings": mail, "project_id": "acme", "organization_id": "o-acme" }),
            "request.organization_id",
        ),
        (json!({ "name": "x", "settings": mail, "organization_id": "o-none" }), "request.organization_id"),
    ] {
        assert_eq!(api.post(&olga, "/api/channels", body.clone()).await.problem(422), code, "{body}");
    }
    assert_eq!(api.get(&olga, "/api/channels/x").await.problem(404), "channel.not_found");
}

#[tokio::test]
async fn a_test_says_who_has_taken_it_and_admins_are_told_nothing_of_what_operators_chose() {
    let api = TestApi::new().await;
    let (olga, ada) = (operator(&api), admin(&api));
    let mut body = channel(hook("http://127.0.0.1:1/x"));
    body["organization_id"] = json!("o-acme");
    let id = api.post(&olga, "/api/channels", body).await.data(201)["id"].as_str().unwrap().to_owned();
    let path = format!("/api/channels/{id}/test");
    let seen = api.post(&olga, &path, json!({})).await.data(200);
    assert_eq!((&seen["good"], &seen["trials"][0]["recipient"]), (&json!(false), &json!("on-call")));
    assert!(seen["trials"][0]["problem"].as_str().unwrap().starts_with("no connection"), "{seen}");
    let hidden = api.post(&ada, &path, json!({})).await.data(200);
    assert_eq!(hidden["trials"][0]["problem"], "it was not taken; an operator can see why");
    let soon = api.post(&ada, &path, json!({})).await;
    assert_eq!(soon.problem(429), "channel.tested_lately");
    assert_eq!(soon.headers["retry-after"], "10");
    assert_eq!(api.post(&olga, &path, json!({})).await.status, 200, "operators are not held back");
    // The control plane says when, to every process.
    api.pool()
        .execute("UPDATE control_plane.channels SET tested_at = tested_at - interval '10 seconds'")
        .await
        .unwrap();
    assert_eq!(api.post(&ada, &path, json!({})).await.status, 200);
    let told: Vec<String> = api.audit().await.into_iter().map(|(event, ..)| event).collect();
    assert_eq!(told.iter().filter(|event| *event == "channel_tested").count(), 4);
    // The platform's mail server is none of their business either, wherever the mail goes.
    let mail = json!({ "type": "email", "to": ["a@example.com"] });
    let own = api.post(&ada, "/api/channels", channel(mail)).await.data(201)["id"].as_str().unwrap().to_owned();
    let hidden = api.post(&ada, &format!("/api/channels/{own}/test"), json!({})).await.data(200);
    assert_eq!(
        (&hidden["trials"][0]["recipient"], &hidden["trials"][0]["problem"]),
        (&json!("a@example.com"), &json!("it was not taken; an operator can see why"))
    );
    let missing = format!("/api/channels/{}/test", uuid::Uuid::now_v7());
    assert_eq!(api.post(&olga, &missing, json!({})).await.problem(404), "channel.not_found");
}
