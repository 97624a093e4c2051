//! The table: one line for each operation, what it needs of its caller, and what those find who have no reach.

use axum::http::Method;
use bytes::Bytes;
use futures::future::BoxFuture;
use holdfast::ids::BackupId;
use serde_json::{Value, json};

use super::api::TestApi;

/// What an operation needs of its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Nothing at all, on purpose.
    Nothing,
    /// Any valid token.
    Signed,
    Read,
    Write,
}

/// What a caller without reach finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Elsewhere {
    /// The object does not exist for it.
    NotFound,
    /// A list or sum of nothing.
    Empty,
    /// Its own rows, and none of another's.
    Own,
    /// The operation knows no tenants.
    Same,
    /// 403 for members, whatever they ask for; an organisation admin finds nothing of another's.
    Admins(Beyond),
    /// 403 for everyone but operators, whatever they ask for.
    Operators,
}

/// What an organisation admin finds of another organisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beyond {
    NotFound,
    Empty,
    /// Its own rows alone.
    Own,
    /// It gives away nothing of its own that the other could see.
    Refused,
}

/// What the `{id}` or `{name}` in the path stands for.
#[derive(Clone, Copy, Debug)]
pub enum Object {
    Nothing,
    Backup,
    EndedJob,
    WaitingJob,
    UndoableJob,
    /// A local user of `acme` and its organisation.
    User,
    /// A fresh API key of whoever calls. Strangers ask for one of an operator's.
    OwnKey,
    /// The project `acme`.
    Project,
    /// The organisation of `acme`.
    Organization,
    /// An organisation that nothing belongs to.
    EmptyOrganization,
    /// A notice channel of `acme`.
    Channel,
    /// A database beside the control plane's.
    Database,
    /// A storage that the control plane holds.
    Storage,
    /// A schedule of `acme`.
    Schedule,
    /// Whatever this makes for `acme`: its id or name.
    Made(for<'a> fn(&'a TestApi) -> BoxFuture<'a, String>),
}

/// The body that is sent; what it says of a backup, it says of this one.
pub type MakeBody = Option<fn(BackupId) -> Value>;

pub struct Row {
    pub operation: &'static str,
    /// What follows the path.
    pub query: &'static str,
    pub needs: Needs,
    pub elsewhere: Elsewhere,
    pub object: Object,
    pub body: MakeBody,
    pub success: u16,
    /// The event that a refusal leaves.
    pub refusal: Option<&'static str>,
    /// The event that a success leaves.
    pub event: Option<&'static str>,
}

impl Row {
    /// The status of a success, where the constructor says another.
    const fn answers(self, success: u16) -> Self {
        Self { success, ..self }
    }

    const fn asks(self, query: &'static str) -> Self {
        Self { query, ..self }
    }

    const fn sends(self, body: fn(BackupId) -> Value) -> Self {
        Self { body: Some(body), ..self }
    }

    /// Success and refusal both leave this event.
    const fn leaves(self, event: &'static str) -> Self {
        Self { refusal: Some(event), event: Some(event), ..self }
    }

    /// A success changes nothing.
    const fn leaves_only_refusals(self) -> Self {
        Self { event: None, ..self }
    }

    pub fn method(&self) -> Method {
        self.operation.split_once(' ').unwrap().0.parse().unwrap()
    }

    /// The path and query, with this in the place of the one placeholder.
    pub fn target(&self, object: &str) -> String {
        let (_, template) = self.operation.split_once(' ').unwrap();
        let path = match (template.find('{'), template.find('}')) {
            (Some(begin), Some(end)) => format!("{}{object}{}", &template[..begin], &template[end + 1..]),
            _ => template.to_owned(),
        };
        path + self.query
    }

    /// Whether a request says which object it means. One that does not means the default project.
    pub fn names_an_object(&self) -> bool {
        let body = self.body.map(|body| body(BackupId::generate()));
        let is_in_body = |name: &&str| body.as_ref().is_some_and(|body| body.get(*name).is_some());
        self.operation.contains('{') || ["project_id", "project_ids", "backup_id"].iter().any(is_in_body)
    }
}

/// Without an object or a body, and nobody writes anything down.
const fn plain(operation: &'static str, needs: Needs, elsewhere: Elsewhere, success: u16) -> Row {
    let (object, body, refusal, event) = (Object::Nothing, None, None, None);
    Row { operation, query: "", needs, elsewhere, object, body, success, refusal, event }
}

const fn read(operation: &'static str, object: Object, elsewhere: Elsewhere) -> Row {
    Row { object, ..plain(operation, Needs::Read, elsewhere, 200) }
}

/// A job, or another change of what a tenant has.
const fn write(operation: &'static str, object: Object, body: MakeBody, event: &'static str) -> Row {
    Row { object, body, ..plain(operation, Needs::Write, Elsewhere::NotFound, 202) }.leaves(event)
}

const fn open(operation: &'static str) -> Row {
    plain(operation, Needs::Nothing, Elsewhere::Same, 200)
}

const fn signed(operation: &'static str, success: u16) -> Row {
    plain(operation, Needs::Signed, Elsewhere::Same, success)
}

/// A change of users, keys and the like, which belong to no project: refusals leave nothing in a tenant's history.
const fn manage(
    operation: &'static str,
    object: Object,
    body: MakeBody,
    success: u16,
    event: &'static str,
    elsewhere: Elsewhere,
) -> Row {
    Row { object, body, event: Some(event), ..plain(operation, Needs::Write, elsewhere, success) }
}

fn new_user(id: BackupId) -> Value {
    json!({ "name": format!("new {id}"), "password": "a password that is long", "organization_id": "o-acme", "project_ids": ["acme"] })
}

pub fn new_key(_: BackupId) -> Value {
    json!({ "name": "ci", "permissions": ["backup:write"], "project_ids": ["acme"] })
}

fn first_operator(_: BackupId) -> Value {
    json!({ "token": "x", "name": "nobody", "password": "a password that is long" })
}

pub fn new_channel(_: BackupId) -> Value {
    json!({ "name": "ops", "project_id": "acme", "settings": { "type": "email", "to": ["ops@example.com"] } })
}

pub fn new_storage(id: BackupId) -> Value {
    let root = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("holdfast-{id}"));
    json!({ "name": format!("s{}", id.short()), "settings": { "type": "local", "root": root } })
}

fn new_settings(id: BackupId) -> Value {
    json!({ "settings": new_storage(id)["settings"] })
}

fn new_project(id: BackupId) -> Value {
    json!({ "id": format!("p-{id}"), "name": "New", "organization_id": "o-acme" })
}

fn new_organization(id: BackupId) -> Value {
    json!({ "id": format!("o-{id}"), "name": "New" })
}

fn new_database(id: BackupId) -> Value {
    json!({ "name": format!("d{}", id.short()), "url": "postgres://u:canary@h/d" })
}

fn url(_: BackupId) -> Value {
    json!({ "url": "postgres://u:canary@h/d" })
}

fn acme(_: BackupId) -> Value {
    json!({ "name": "Acme" })
}

fn of_acme(_: BackupId) -> Value {
    json!({ "project_id": "acme" })
}

pub fn new_schedule(_: BackupId) -> Value {
    json!({ "project_id": "acme", "cron": "0 2 * * *" })
}

fn without_manifest(id: BackupId) -> Value {
    json!({ "storage": "first", "key": format!("backups/acme/{id}") })
}

fn new_password(_: BackupId) -> Value {
    json!({ "current_password": "x", "new_password": "a password that is long" })
}

/// The number of a fresh backup of `acme`: one that no answer has by chance.
fn number(api: &TestApi) -> BoxFuture<'_, String> {
    Box::pin(async move {
        let backup = api.stored_backup("acme", &Bytes::from_static(b"stored bytes"), &["first"]).await;
        let renumbered = "UPDATE control_plane.backups SET number = number + 70000000 WHERE id = $1 RETURNING number";
        let number = sqlx::query_scalar::<_, i32>(renumbered).bind(backup.0);
        number.fetch_one(api.pool()).await.unwrap().to_string()
    })
}

/// One line for each operation, in the order of the paths. `OPERATION, OBJECT, …`: see the constructors above.
#[rustfmt::skip]
pub fn rows() -> Vec<Row> {
    use Beyond::Refused;
    use Elsewhere::{Admins, Empty, NotFound, Operators, Own, Same};
    use Object::{
        Backup, Channel, Database, EmptyOrganization, EndedJob, Made, Nothing, Organization, OwnKey, Project, Schedule, Storage, UndoableJob,
        User, WaitingJob,
    };
    vec![
        read("GET /api/audit", Nothing, Admins(Beyond::Own)),
        read("GET /api/backup", Nothing, Empty),
        write("POST /api/backup/export", Nothing, Some(of_acme), "requested"),
        write("POST /api/backup/export-logs", Nothing, Some(of_acme), "requested"),
        write("POST /api/backup/export-storage", Nothing, Some(of_acme), "requested"),
        // Refused for want of a manifest, not of a right: see tests/catalog.rs.
        manage("POST /api/backup/import", Nothing, Some(without_manifest), 422, "import_requested", Operators),
        write("POST /api/backup/restore", Nothing, Some(|id| json!({ "backup_id": id, "confirm": true })), "restore_requested"),
        read("GET /api/backup/stats", Nothing, Empty),
        write("DELETE /api/backup/{id}", Backup, None, "delete_requested"),
        read("GET /api/backup/{id}", Backup, NotFound),
        read("GET /api/backup/{id}/download", Backup, NotFound).leaves("downloaded"),
        read("GET /api/backup/{id}/history", Backup, NotFound),
        write("POST /api/backup/{id}/pin", Backup, None, "pinned").answers(200),
        // These backups have no pin that could be taken out.
        write("POST /api/backup/{id}/unpin", Backup, None, "unpinned").answers(200).leaves_only_refusals(),
        write("POST /api/backup/{id}/verify", Backup, Some(|_| json!({ "depth": "head" })), "verify_requested"),
        read("GET /api/channels", Nothing, Admins(Beyond::Empty)),
        manage("POST /api/channels", Nothing, Some(new_channel), 201, "channel_added", Admins(Beyond::NotFound)),
        manage("DELETE /api/channels/{id}", Channel, None, 204, "channel_deleted", Admins(Beyond::NotFound)),
        read("GET /api/channels/{id}", Channel, Admins(Beyond::NotFound)),
        manage("PATCH /api/channels/{id}", Channel, Some(|_| json!({ "enabled": false })), 200, "channel_changed", Admins(Beyond::NotFound)),
        manage("POST /api/channels/{id}/test", Channel, None, 200, "channel_tested", Admins(Beyond::NotFound)),
        read("GET /api/databases", Nothing, Operators),
        manage("POST /api/databases", Nothing, Some(new_database), 201, "database_added", Operators),
        manage("DELETE /api/databases/{name}", Database, None, 204, "database_deleted", Operators),
        read("GET /api/databases/{name}", Database, Operators),
        manage("PATCH /api/databases/{name}", Database, Some(url), 200, "database_changed", Operators),
        manage("POST /api/databases/{name}/test", Database, None, 200, "database_tested", Operators),
        read("GET /api/jobs", Nothing, Empty),
        read("GET /api/jobs/{id}", EndedJob, NotFound),
        write("POST /api/jobs/{id}/cancel", WaitingJob, None, "cancel_requested"),
        read("GET /api/jobs/{id}/events", EndedJob, NotFound),
        read("GET /api/jobs/{id}/logs", EndedJob, NotFound),
        write("POST /api/jobs/{id}/undo", UndoableJob, None, "undo_requested"),
        read("GET /api/keys", Nothing, Empty),
        manage("POST /api/keys", Nothing, Some(new_key), 201, "key_made", NotFound),
        manage("DELETE /api/keys/{id}", OwnKey, None, 204, "key_revoked", NotFound),
        read("GET /api/organizations", Nothing, Admins(Beyond::Own)),
        manage("POST /api/organizations", Nothing, Some(new_organization), 201, "organization_added", Operators),
        manage("DELETE /api/organizations/{id}", EmptyOrganization, None, 204, "organization_deleted", Operators),
        read("GET /api/organizations/{id}", Organization, Admins(Beyond::NotFound)),
        manage("PATCH /api/organizations/{id}", Organization, Some(acme), 200, "organization_changed", Operators),
        read("GET /api/projects", Nothing, Own),
        manage("POST /api/projects", Nothing, Some(new_project), 201, "project_added", Admins(Refused)),
        manage("POST /api/projects/discover", Nothing, Some(|_| json!({})), 200, "", Operators).leaves_only_refusals(),
        read("GET /api/projects/{id}", Project, NotFound),
        manage("PATCH /api/projects/{id}", Project, Some(acme), 200, "project_changed", Admins(Beyond::NotFound)),
        read("GET /api/retention/plan", Nothing, Empty),
        read("GET /api/schedules", Nothing, Empty),
        write("POST /api/schedules", Nothing, Some(new_schedule), "schedule_added").answers(201),
        read("GET /api/schedules/preview", Nothing, Same).asks("?cron=0+2+*+*+*"),
        manage("DELETE /api/schedules/{id}", Schedule, None, 204, "schedule_removed", NotFound),
        read("GET /api/schedules/{id}", Schedule, NotFound),
        manage("PATCH /api/schedules/{id}", Schedule, Some(|_| json!({ "enabled": false })), 200, "schedule_changed", NotFound),
        read("GET /api/storages", Nothing, Operators),
        manage("POST /api/storages", Nothing, Some(new_storage), 201, "storage_added", Operators),
        manage("DELETE /api/storages/{name}", Storage, None, 204, "storage_deleted", Operators),
        read("GET /api/storages/{name}", Storage, Operators),
        manage("PATCH /api/storages/{name}", Storage, Some(new_settings), 200, "storage_changed", Operators),
        manage("POST /api/storages/{name}/test", Storage, None, 200, "storage_tested", Operators),
        read("GET /api/users", Nothing, Admins(Beyond::Empty)),
        manage("POST /api/users", Nothing, Some(new_user), 201, "user_added", Admins(Refused)),
        manage("DELETE /api/users/{id}", User, None, 204, "user_deleted", Admins(Beyond::NotFound)),
        read("GET /api/users/{id}", User, Admins(Beyond::NotFound)),
        manage("PATCH /api/users/{id}", User, Some(|_| json!({ "disabled": true })), 200, "user_changed", Admins(Beyond::NotFound)),
        // Refused for want of a right password or link, not of a token: see tests/people.rs.
        open("POST /auth/login").sends(|_| json!({ "name": "nobody", "password": "x" })).answers(401),
        // These tokens belong to no session.
        signed("POST /auth/logout", 409),
        signed("GET /auth/me", 200),
        signed("POST /auth/password", 409).sends(new_password),
        open("POST /auth/setup").sends(first_operator).answers(401),
        // The single-database family: `acme` is the default project.
        read("GET /backup", Nothing, Empty),
        write("POST /backup", Nothing, Some(|_| json!({})), "requested"),
        read("GET /backup/latest", Nothing, NotFound),
        write("DELETE /backup/{id}", Made(number), None, "deleted").answers(200),
        read("GET /backup/{id}", Made(number), NotFound),
        open("GET /healthz"),
        read("GET /metrics", Nothing, Operators),
        open("GET /readyz"),
    ]
}
