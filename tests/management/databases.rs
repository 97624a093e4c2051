use holdfast::{
    catalog::{self, CatalogError, NewProject, ProjectScope},
    postgres::connect::ConnectInfo,
};
use serde_json::{Value, json};
use sqlx::Executor;

use super::{CANARY, all_pages, api::TestApi, everything_stored, operator};

async fn add(api: &TestApi, name: &str, url: &str) -> super::api::Answer {
    api.post(&operator(api), "/api/databases", json!({ "name": name, "url": url })).await
}

#[tokio::test]
async fn a_url_goes_in_and_only_where_it_leads_comes_out() {
    let api = TestApi::new().await;
    let olga = operator(&api);
    let added = add(&api, "warehouse", "postgres://backup:canary@db2:5433/app?sslmode=verify-full").await;
    let shown = added.data(201);
    assert_eq!((&shown["host"], &shown["port"]), (&json!("db2"), &json!(5433)));
    assert_eq!((&shown["database"], &shown["user"]), (&json!("app"), &json!("backup")));
    assert_eq!(shown["projects"], 0);
    let changed = api.patch(&olga, "/api/databases/warehouse", json!({ "url": "postgres://b:canary2@db3/app" })).await;
    assert_eq!((&changed.data(200)["host"], &changed.data(200)["port"]), (&json!("db3"), &json!(5432)));
    let mut said = vec![added, changed];
    for path in ["/api/databases", "/api/databases/warehouse"] {
        said.push(api.get(&olga, path).await);
    }
    for wrong in [
        "canary",
        "mysql://u:canary@h/d",
        "postgres://u:canary@h",
        "postgres://u:canary@h/d?canary=1x",
        "postgres://u:canary%0a@h/d",
    ] {
        let answer = add(&api, "other", wrong).await;
        assert_eq!(answer.problem(422), "request.url", "{wrong}");
        said.push(answer);
    }
    for body in [json!({ "name": "x", "url": 5 }), json!({ "name": "x", "url": ["canary"] })] {
        let answer = api.post(&olga, "/api/databases", body).await;
        assert_eq!(answer.problem(422), "request.body");
        said.push(answer);
    }
    said.push(add(&api, "warehouse", "postgres://u:canary@h/d").await);
    assert_eq!(said.last().unwrap().problem(409), "database.exists");
    for answer in said {
        let text = String::from_utf8_lossy(&answer.body).replace("canary\\\"=", "");
        assert!(!text.contains("canary@") && !text.contains("canary2"), "{text}");
    }
    let stored = everything_stored(&api).await;
    assert!(stored.contains("database_changed") && !stored.contains(CANARY), "{stored}");
}

#[tokio::test]
async fn what_is_wrong_is_told_with_the_fields_name() {
    let api = TestApi::new().await;
    let olga = operator(&api);
    for name in ["", "..", "../x", "a/b", "-x", ".x", "a b", &"x".repeat(64), "holdfast-control-plane"] {
        assert_eq!(add(&api, name, "postgres://u@h/d").await.problem(422), "request.name", "{name:?}");
    }
    assert_eq!(add(&api, "a\0", "postgres://u@h/d").await.problem(422), "request.value");
    for body in [json!({ "name": "x" }), json!({ "name": "x", "url": "postgres://u@h/d", "more": 1 })] {
        assert_eq!(api.post(&olga, "/api/databases", body).await.problem(422), "request.body");
    }
    for path in ["/api/databases/nothing", "/api/databases/%2e%2e", "/api/databases/a%00"] {
        assert_eq!(api.get(&olga, path).await.problem(404), "database.not_found");
        assert_eq!(api.delete(&olga, path).await.problem(404), "database.not_found");
        assert_eq!(api.post(&olga, &format!("{path}/test"), json!({})).await.problem(404), "database.not_found");
        assert_eq!(
            api.patch(&olga, path, json!({ "url": "postgres://u@h/d" })).await.problem(404),
            "database.not_found"
        );
    }
}

#[tokio::test]
async fn a_database_that_was_registered_under_our_own_ones_name_is_taken_for_neither() {
    const NAME: &str = "holdfast-control-plane";
    let api = TestApi::new().await;
    let (app, olga) = (&api.app, operator(&api));
    let at = |info: Result<ConnectInfo, CatalogError>| info.map(|info| info.to_string()).map_err(|e| e.to_string());
    assert_eq!(at(app.database(Some(NAME)).await), Ok(app.control.to_string()));
    // As older versions let it be.
    let theirs: ConnectInfo = "postgres://u@elsewhere/d".parse().unwrap();
    let sealed = app.keys.seal_database(NAME, &theirs).unwrap();
    catalog::add_database(&app.pool, NAME, &sealed, &theirs.to_string()).await.unwrap();
    let new = NewProject {
        id: "lodger".parse().unwrap(),
        name: "lodger".to_owned(),
        slug: None,
        organization_id: None,
        scope: ProjectScope::Schema("tenant_lodger".to_owned()),
        database_name: Some(NAME.to_owned()),
    };
    let project = catalog::add_project(&app.pool, &new).await.unwrap();
    assert_eq!(at(app.project_database(&project).await), Ok(theirs.to_string()), "a project is where it was");
    let refused = at(app.database(Some(NAME)).await).unwrap_err();
    assert!(refused.contains("under another name"), "{refused}");
    // What the refusal tells to do.
    add(&api, "theirs", "postgres://u@elsewhere/d").await.data(201);
    api.patch(&olga, "/api/projects/lodger", json!({ "database": "theirs" })).await.data(200);
    assert_eq!(api.delete(&olga, &format!("/api/databases/{NAME}")).await.status, 204);
    assert_eq!(at(app.database(Some(NAME)).await), Ok(app.control.to_string()));
}

#[tokio::test]
async fn a_database_with_projects_is_kept_and_says_how_many() {
    let api = TestApi::new().await;
    let olga = operator(&api);
    add(&api, "warehouse", "postgres://u:p@127.0.0.1:1/d").await.data(201);
    for (id, schema) in [("one", "s1"), ("two", "s2")] {
        let body = json!({ "id": id, "name": id, "schema": schema, "database": "warehouse" });
        let added = api.post(&olga, "/api/projects", body).await.data(201);
        assert_eq!(added["database"], "warehouse");
        assert!(added["warning"].as_str().unwrap().contains("cannot look"), "{added}");
    }
    let refused = api.delete(&olga, "/api/databases/warehouse").await;
    assert_eq!(refused.problem(409), "database.in_use");
    assert!(refused.json()["detail"].as_str().unwrap().contains("2 projects"), "{}", refused.json());
    assert_eq!(api.get(&olga, "/api/databases/warehouse").await.data(200)["projects"], 2);
    assert_eq!(api.get(&olga, "/api/projects?database=warehouse").await.data(200).as_array().unwrap().len(), 2);
    for id in ["one", "two"] {
        let path = format!("/api/projects/{id}");
        assert_eq!(api.patch(&olga, &path, json!({ "database": null })).await.data(200)["database"], Value::Null);
    }
    assert_eq!(api.delete(&olga, "/api/databases/warehouse").await.status, 204);
    let unknown = json!({ "id": "three", "name": "three", "database": "warehouse" });
    assert_eq!(api.post(&olga, "/api/projects", unknown).await.problem(422), "request.database");
}

#[tokio::test]
async fn a_test_connects_and_names_what_the_role_lacks() {
    let api = TestApi::new().await;
    let olga = operator(&api);
    let role = format!("weak_{}", uuid::Uuid::now_v7().simple());
    let sql = format!("CREATE ROLE {role} LOGIN PASSWORD 'canary'");
    api.pool().execute(sqlx::AssertSqlSafe(sql)).await.unwrap();
    let weak = api.app.control.with_user(&role, "canary".to_owned().into());
    for (name, info) in [("strong", &api.app.control), ("weak", &weak)] {
        use secrecy::ExposeSecret;
        add(&api, name, info.to_url().expose_secret()).await.data(201);
    }
    let strong = api.post(&olga, "/api/databases/strong/test", json!({})).await.data(200);
    assert_eq!(strong["sees_everything"], true);
    assert!(strong["version"].is_string() && strong["missing_for_restores"] == json!([]), "{strong}");
    let weak = api.post(&olga, "/api/databases/weak/test", json!({})).await.data(200);
    assert_eq!((&weak["good"], &weak["role"]), (&json!(false), &json!(role)));
    let problems = weak["problems"].to_string();
    assert!(problems.contains("BYPASSRLS") && problems.contains("CREATEROLE") && !problems.contains(CANARY), "{weak}");
    add(&api, "away", "postgres://u:canary@127.0.0.1:1/d").await.data(201);
    let away = api.post(&olga, "/api/databases/away/test", json!({})).await.data(200);
    assert_eq!((&away["good"], &away["version"]), (&json!(false), &Value::Null));
    assert!(!away["problems"].as_array().unwrap().is_empty() && !away.to_string().contains(CANARY), "{away}");
    // A URL from another row is not opened.
    let moved = "UPDATE control_plane.databases SET url_sealed = (SELECT url_sealed FROM control_plane.databases WHERE name = 'strong')
        WHERE name = 'away'";
    api.pool().execute(moved).await.unwrap();
    let away = api.post(&olga, "/api/databases/away/test", json!({})).await.data(200);
    assert!(away["problems"].to_string().contains("another secrets key"), "{away}");
}

#[tokio::test]
async fn databases_come_in_pages_by_name() {
    let api = TestApi::new().await;
    for name in ["e", "a", "d", "b", "c"] {
        add(&api, name, "postgres://u@h/d").await.data(201);
    }
    let (rows, pages) = all_pages(&api, &operator(&api), "/api/databases").await;
    assert_eq!(rows.iter().map(|row| row["name"].as_str().unwrap()).collect::<Vec<_>>(), ["a", "b", "c", "d", "e"]);
    assert_eq!(pages, 3);
}
