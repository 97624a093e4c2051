//! Projects, organisations, databases, storages and channels through the API: who may change what, that secrets go in and never come out, and
//! that every process sees what was changed.

mod channels;
mod command_line;
mod databases;
mod projects;
mod storages;

use crate::{api, support};

use api::TestApi;
use holdfast::{
    auth::jwt::Claims,
    tenant::{Permission, Role},
};
use serde_json::Value;

/// What no answer, row or log may hold.
const CANARY: &str = "canary";

fn operator(api: &TestApi) -> String {
    token(api, "Olga", Role::Operator, None)
}

/// The admin of `o-acme`.
fn admin(api: &TestApi) -> String {
    token(api, "Ada", Role::OrgAdmin, Some("o-acme"))
}

fn token(api: &TestApi, subject: &str, role: Role, organization: Option<&str>) -> String {
    api.token(&Claims {
        subject: subject.to_owned(),
        permissions: Permission::ALL.to_vec(),
        project_ids: Vec::new(),
        organization_id: organization.map(str::to_owned),
        role,
    })
}

/// Every row of every table of the control plane, as text.
async fn everything_stored(api: &TestApi) -> String {
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE schemaname = 'control_plane' ORDER BY 1",
    )
    .fetch_all(api.pool())
    .await
    .unwrap();
    assert!(tables.len() > 10, "{tables:?}");
    let mut all = String::new();
    for table in tables {
        let sql = format!("SELECT coalesce(string_agg(t::text, E'\\n'), '') FROM {table} t");
        let text: String = sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_one(api.pool()).await.unwrap();
        all.push_str(&text);
    }
    all
}

/// All pages of a list, two rows each, and the number of pages.
async fn all_pages(api: &TestApi, token: &str, path: &str) -> (Vec<Value>, usize) {
    let (mut rows, mut cursor, mut pages) = (Vec::new(), String::new(), 0);
    loop {
        let separator = if path.contains('?') { '&' } else { '?' };
        let answer = api.get(token, &format!("{path}{separator}limit=2{cursor}")).await;
        rows.extend(answer.data(200).as_array().unwrap().clone());
        pages += 1;
        match answer.json()["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return (rows, pages),
        }
    }
}
