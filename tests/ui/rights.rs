//! Every page and form against every kind of caller. One that has no row here fails the test.

use std::collections::BTreeSet;

use bytes::Bytes;
use holdfast::tenant::{Permission, Role};

use super::{form, visit};
use crate::api::TestApi;

/// What a page names.
#[derive(Clone, Copy)]
enum Of {
    Nothing,
    Project,
    Backup,
    WaitingJob,
    EndedJob,
    Schedule,
    User,
    Key,
    Storage,
    /// One of the control plane.
    OwnStorage,
    Database,
    Channel,
    /// A kind of storage or channel.
    Kind(&'static str),
}

/// Who may: everyone, whoever reads, writes, administers an organisation, or runs the platform.
#[derive(Clone, Copy, PartialEq, Eq)]
enum For {
    Anyone,
    Known,
    Readers,
    Writers,
    /// Admins who may write, of their organisation.
    Admins,
    /// Admins, to read.
    Overseers,
    Operators,
}

use For::{Admins, Anyone, Known, Operators, Overseers, Readers, Writers};
use Of::{
    Backup, Channel, Database, EndedJob, Key, Kind, Nothing, OwnStorage, Project, Schedule, Storage, User, WaitingJob,
};

/// Method, path, what it names, who may, and the fields that a form sends.
type Row = (&'static str, &'static str, Of, For, &'static [(&'static str, &'static str)]);

const PAGES: &[Row] = &[
    ("get", "/", Nothing, Readers, &[]),
    ("get", "/login", Nothing, Anyone, &[]),
    ("post", "/login", Nothing, Anyone, &[("name", "nobody"), ("password", "wrong")]),
    ("post", "/logout", Nothing, Known, &[]),
    ("get", "/setup", Nothing, Anyone, &[]),
    ("post", "/setup", Nothing, Anyone, &[("token", "x")]),
    ("get", "/account", Nothing, Known, &[]),
    ("post", "/account", Nothing, Known, &[("current_password", "x"), ("new_password", "x")]),
    ("get", "/projects", Nothing, Readers, &[]),
    ("get", "/projects/new", Nothing, Admins, &[]),
    ("post", "/projects/new", Nothing, Admins, &[("id", "fresh"), ("name", "Fresh")]),
    ("get", "/projects/discover", Nothing, Operators, &[]),
    ("post", "/projects/discover", Nothing, Operators, &[]),
    ("get", "/projects/{id}", Project, Readers, &[]),
    ("post", "/projects/{id}/backup", Project, Writers, &[]),
    ("get", "/projects/{id}/change", Project, Admins, &[]),
    ("post", "/projects/{id}/change", Project, Admins, &[("name", "acme"), ("status", "ACTIVE")]),
    ("get", "/projects/{id}/restore", Project, Writers, &[]),
    ("get", "/backups", Nothing, Readers, &[]),
    ("get", "/backups/{id}", Backup, Readers, &[]),
    ("get", "/backups/{id}/download", Backup, Readers, &[]),
    ("post", "/backups/{id}/verify", Backup, Writers, &[("depth", "head")]),
    ("post", "/backups/{id}/pin", Backup, Writers, &[]),
    ("post", "/backups/{id}/unpin", Backup, Writers, &[]),
    ("get", "/backups/{id}/delete", Backup, Writers, &[]),
    ("post", "/backups/{id}/delete", Backup, Writers, &[("confirm", "acme")]),
    ("get", "/backups/{id}/restore", Backup, Writers, &[]),
    ("post", "/backups/{id}/restore", Backup, Writers, &[("confirm", "acme")]),
    ("get", "/jobs", Nothing, Readers, &[]),
    ("get", "/jobs/{id}", EndedJob, Readers, &[]),
    ("get", "/jobs/{id}/live", EndedJob, Readers, &[]),
    ("post", "/jobs/{id}/cancel", WaitingJob, Writers, &[]),
    ("post", "/jobs/{id}/undo", EndedJob, Writers, &[]),
    ("get", "/schedules", Nothing, Readers, &[]),
    ("get", "/schedules/new", Nothing, Writers, &[]),
    (
        "post",
        "/schedules/new",
        Nothing,
        Writers,
        &[("project_id", "acme"), ("cron", "0 4 * * *"), ("zone", "UTC"), ("type", "database")],
    ),
    ("get", "/schedules/preview", Nothing, Readers, &[]),
    ("get", "/schedules/{id}", Schedule, Readers, &[]),
    ("get", "/schedules/{id}/change", Schedule, Writers, &[]),
    ("post", "/schedules/{id}/change", Schedule, Writers, &[("cron", "0 5 * * *"), ("zone", "UTC")]),
    ("post", "/schedules/{id}/switch", Schedule, Writers, &[]),
    ("post", "/schedules/{id}/remove", Schedule, Writers, &[]),
    ("get", "/retention", Nothing, Readers, &[]),
    ("get", "/storages", Nothing, Operators, &[]),
    ("get", "/storages/new/{kind}", Kind("s3"), Operators, &[]),
    ("post", "/storages/new/{kind}", Kind("local"), Operators, &[("name", "bad name"), ("root", "relative")]),
    ("get", "/storages/{name}/change", OwnStorage, Operators, &[]),
    ("post", "/storages/{name}/change", OwnStorage, Operators, &[("root", "relative")]),
    ("post", "/storages/{name}/test", Storage, Operators, &[]),
    ("post", "/storages/{name}/remove", Storage, Operators, &[]),
    ("get", "/databases", Nothing, Operators, &[]),
    ("get", "/databases/new", Nothing, Operators, &[]),
    ("post", "/databases/new", Nothing, Operators, &[("name", "x"), ("url", "nonsense")]),
    ("get", "/databases/{name}/change", Database, Operators, &[]),
    ("post", "/databases/{name}/change", Database, Operators, &[("url", "nonsense")]),
    ("post", "/databases/{name}/test", Database, Operators, &[]),
    ("post", "/databases/{name}/remove", Database, Operators, &[]),
    ("get", "/channels", Nothing, Overseers, &[]),
    ("get", "/channels/new/{kind}", Kind("webhook"), Admins, &[]),
    ("post", "/channels/new/{kind}", Kind("email"), Admins, &[("name", "x"), ("to", "ops@example.com")]),
    ("get", "/channels/{id}/change", Channel, Admins, &[]),
    ("post", "/channels/{id}/change", Channel, Admins, &[("name", "another")]),
    ("post", "/channels/{id}/test", Channel, Admins, &[]),
    ("post", "/channels/{id}/switch", Channel, Admins, &[]),
    ("post", "/channels/{id}/remove", Channel, Admins, &[]),
    ("get", "/people", Nothing, Overseers, &[]),
    ("get", "/people/new", Nothing, Admins, &[]),
    ("post", "/people/new", Nothing, Admins, &[("name", "x"), ("password", "short")]),
    ("get", "/people/{id}/change", User, Admins, &[]),
    ("post", "/people/{id}/change", User, Admins, &[("role", "member"), ("permissions", "backup:read")]),
    ("post", "/people/{id}/remove", User, Admins, &[]),
    ("get", "/keys", Nothing, Readers, &[]),
    ("get", "/keys/new", Nothing, Writers, &[]),
    ("post", "/keys/new", Nothing, Writers, &[("name", "k"), ("permissions", "backup:read"), ("project_ids", "acme")]),
    ("post", "/keys/{id}/revoke", Key, Writers, &[]),
    ("get", "/audit", Nothing, Overseers, &[]),
];

/// `method path` of every route in the room's list.
fn routed() -> BTreeSet<String> {
    let source = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/src/http/ui/mod.rs")).unwrap();
    let mut found = BTreeSet::new();
    for line in source.lines().filter_map(|line| line.trim().strip_prefix(".route(\"")) {
        let (path, methods) = line.split_once("\", ").unwrap();
        for method in ["get", "post", "put", "patch", "delete"] {
            if methods.starts_with(&format!("{method}(")) || methods.contains(&format!(".{method}(")) {
                found.insert(format!("{method} {path}"));
            }
        }
    }
    found
}

#[test]
fn every_page_has_a_row_that_says_who_may_see_it() {
    let listed: BTreeSet<String> = PAGES.iter().map(|(method, path, ..)| format!("{method} {path}")).collect();
    assert_eq!(listed, routed());
    assert_eq!(listed.len(), PAGES.len(), "a page is listed twice");
}

struct Person {
    name: &'static str,
    cookie: Option<String>,
    reads: bool,
    writes: bool,
    role: Option<Role>,
    /// Whether `acme` is within reach.
    reaches: bool,
}

impl Person {
    fn may(&self, whom: For) -> bool {
        let is_admin = matches!(self.role, Some(Role::OrgAdmin | Role::Operator));
        match whom {
            Anyone => true,
            Known => self.cookie.is_some(),
            Readers => self.reads,
            Writers => self.writes,
            Admins => is_admin && self.writes,
            Overseers => is_admin && self.reads,
            Operators => self.role == Some(Role::Operator),
        }
    }
}

/// A fresh object of `acme`, as it stands in a path.
async fn fresh(api: &TestApi, of: Of, person: &Person) -> String {
    let operator = api.token(&holdfast::auth::jwt::Claims {
        subject: "another operator".to_owned(),
        permissions: Permission::ALL.to_vec(),
        project_ids: Vec::new(),
        organization_id: None,
        role: Role::Operator,
    });
    let unique = uuid::Uuid::now_v7();
    let made = |path: &'static str, body: serde_json::Value| {
        let operator = operator.clone();
        async move { api.post(&operator, path, body).await.data(201) }
    };
    match of {
        Nothing => String::new(),
        Project => "acme".to_owned(),
        Backup => api.stored_backup("acme", &Bytes::from_static(b"stored bytes"), &["first"]).await.to_string(),
        WaitingJob => api.job("acme", "export_backup", "pending").await.to_string(),
        EndedJob => api.undoable("acme").await.to_string(),
        Schedule => {
            sqlx::query("DELETE FROM control_plane.schedules WHERE project_id IS NOT NULL")
                .execute(api.pool())
                .await
                .unwrap();
            let body = serde_json::json!({ "name": "s", "project_id": "acme", "cron": "0 3 * * *" });
            made("/api/schedules", body).await["id"].as_str().unwrap().to_owned()
        }
        User => api.user(&format!("user {unique}"), Role::Member, Some("o-acme"), &["acme"]).await.to_string(),
        Key => match &person.cookie {
            // One's own, where one can make one.
            Some(cookie) if person.writes => {
                let fields = [
                    ("name", "k"),
                    ("permissions", "backup:read"),
                    ("project_ids", if person.reaches { "acme" } else { "globex" }),
                ];
                assert_eq!(api.send(form("/keys/new", &fields, Some(cookie))).await.status, 200, "{}", person.name);
                let id: uuid::Uuid = sqlx::query_scalar("SELECT id FROM control_plane.api_keys WHERE created_by = 'user:' || $1 AND revoked_at IS NULL LIMIT 1").bind(person.name).fetch_one(api.pool()).await.unwrap();
                id.to_string()
            }
            _ => unique.to_string(),
        },
        Storage => "first".to_owned(),
        OwnStorage => {
            let name = unique.simple().to_string();
            let root = api.app.config.data_dir.join(&name);
            made("/api/storages", serde_json::json!({ "name": name, "settings": { "type": "local", "root": root } }))
                .await;
            name
        }
        Database => {
            let name = unique.simple().to_string();
            made("/api/databases", serde_json::json!({ "name": name, "url": "postgres://u:canary@127.0.0.1:1/d" }))
                .await;
            name
        }
        Channel => {
            let body = serde_json::json!({ "name": "c", "organization_id": "o-acme", "settings": { "type": "email", "to": ["a@example.com"] } });
            made("/api/channels", body).await["id"].as_str().unwrap().to_owned()
        }
        Kind(kind) => kind.to_owned(),
    }
}

#[tokio::test]
async fn every_page_is_for_those_who_may_and_another_tenants_is_not_there() {
    let api = TestApi::new().await;
    let cookie = async |name: &str, role, organization, projects: &[&str], permissions: &[Permission]| {
        let id = api.user(name, role, organization, projects).await;
        let words: Vec<String> = permissions.iter().map(ToString::to_string).collect();
        sqlx::query("UPDATE control_plane.users SET permissions = $2 WHERE id = $1")
            .bind(id)
            .bind(words)
            .execute(api.pool())
            .await
            .unwrap();
        Some(name.to_owned())
    };
    let read = &[Permission::Read][..];
    let all = Permission::ALL;
    let mut people = vec![
        Person { name: "nobody", cookie: None, reads: false, writes: false, role: None, reaches: false },
        Person {
            name: "stranger",
            cookie: cookie("stranger", Role::Member, None, &["globex"], all).await,
            reads: true,
            writes: true,
            role: Some(Role::Member),
            reaches: false,
        },
        Person {
            name: "powerless",
            cookie: cookie("powerless", Role::Member, None, &["acme"], &[]).await,
            reads: false,
            writes: false,
            role: Some(Role::Member),
            reaches: true,
        },
        Person {
            name: "reader",
            cookie: cookie("reader", Role::Member, None, &["acme"], read).await,
            reads: true,
            writes: false,
            role: Some(Role::Member),
            reaches: true,
        },
        Person {
            name: "writer",
            cookie: cookie("writer", Role::Member, None, &["acme"], all).await,
            reads: true,
            writes: true,
            role: Some(Role::Member),
            reaches: true,
        },
        Person {
            name: "admin",
            cookie: cookie("admin", Role::OrgAdmin, Some("o-acme"), &[], all).await,
            reads: true,
            writes: true,
            role: Some(Role::OrgAdmin),
            reaches: true,
        },
        Person {
            name: "rival",
            cookie: cookie("rival", Role::OrgAdmin, Some("o-globex"), &[], all).await,
            reads: true,
            writes: true,
            role: Some(Role::OrgAdmin),
            reaches: false,
        },
        Person {
            name: "operator",
            cookie: cookie("operator", Role::Operator, None, &[], all).await,
            reads: true,
            writes: true,
            role: Some(Role::Operator),
            reaches: true,
        },
    ];
    // Sessions of a user without any rights cannot be told from others' at the login.
    for person in people.iter_mut().filter(|person| person.cookie.is_some()) {
        person.cookie = Some(super::session(&api, person.name).await);
    }
    for (method, path, of, whom, fields) in PAGES {
        for person in &people {
            let object = fresh(&api, *of, person).await;
            let at = path.replace("{id}", &object).replace("{name}", &object).replace("{kind}", &object);
            let cookie = match *path {
                // Ends a session: one of its own.
                "/logout" if person.cookie.is_some() => Some(super::session(&api, person.name).await),
                _ => person.cookie.clone(),
            };
            let request = match *method {
                "get" => visit(&at, cookie.as_deref()),
                _ => form(&at, fields, cookie.as_deref()),
            };
            let answer = api.send(request).await;
            let status = answer.status.as_u16();
            let told = format!(
                "{method} {at} by {}: {status} {}",
                person.name,
                String::from_utf8_lossy(&answer.body).chars().take(2_000).collect::<String>()
            );
            let is_tenants = matches!(of, Project | Backup | WaitingJob | EndedJob | Schedule | User | Channel);
            match (person.cookie.is_some(), person.may(*whom)) {
                (false, false) if *method == "get" => {
                    assert_eq!(status, 303, "{told}");
                    assert!(answer.headers["location"].to_str().unwrap().starts_with("/login?next="), "{told}");
                }
                (false, false) => assert_eq!(status, 401, "{told}"),
                (true, false) => assert!(status == 403 || (is_tenants && !person.reaches && status == 404), "{told}"),
                (_, true) if is_tenants && !person.reaches => assert_eq!(status, 404, "{told}"),
                // A form that names another tenant's project.
                (_, true) if matches!(*path, "/schedules/new" | "/keys/new") && !person.reaches => {
                    assert!(matches!(status, 200 | 403 | 404 | 422), "{told}");
                }
                // Wrong fields, and what does not fit the object's state, come back with a page.
                (_, true) => assert!(matches!(status, 200 | 303 | 401 | 403 | 409 | 422) && status != 404, "{told}"),
            }
            // 403 and 401 are answers to a login and a wrong password alone.
            if person.may(*whom)
                && (person.reaches || !is_tenants)
                && !matches!(*path, "/login" | "/setup" | "/account")
            {
                let is_other = matches!((*path, person.reaches), ("/schedules/new" | "/keys/new", false));
                assert!(matches!(status, 200 | 303 | 409 | 422) || is_other, "{told}");
            }
            assert!(!String::from_utf8_lossy(&answer.body).contains("canary"), "{told}");
            if status != 303 && *path != "/backups/{id}/download" {
                assert!(answer.headers["content-type"].to_str().unwrap().starts_with("text/html"), "{told}");
                let policy = answer.headers["content-security-policy"].to_str().unwrap();
                assert!(policy.contains("script-src 'self'") && !policy.contains("unsafe"), "{policy}");
            }
        }
    }
}
