//! The web interface: pages made here, by the same functions that the API calls. A page asks for rights as the API's operation does, and
//! reaches tenants' rows through its visitor's rights alone.
//!
//! What always holds: reading works without scripts; pages run our own scripts only, and show nothing of other hosts; whatever comes from
//! outside is text, escaped by the templates; what changes something is a form that a page of ours has sent.

mod assets;
mod audit;
mod backup;
mod backups;
mod channels;
mod databases;
mod days;
mod form;
mod frame;
mod jobs;
mod keys;
mod list;
mod login;
mod once;
mod overview;
mod people;
mod problem;
mod projects;
mod restore;
mod retention;
mod schedule_edit;
mod schedules;
mod settings;
mod show;
mod standing;
mod storages;
mod target;
mod things;
mod visit;

use axum::{
    Router,
    middleware::from_fn_with_state,
    routing::{get, post},
};

pub use self::problem::{Told, is_wanted as wants_page, page as problem_page};
use super::Api;

/// Every page. `tests/ui/rights.rs` has a table of who may see which, and fails for a page that is not in it.
pub fn routes(api: &Api) -> Router<Api> {
    Router::new()
        .route("/", get(overview::show))
        .route("/login", get(login::show_login).post(login::log_in))
        .route("/logout", post(login::log_out))
        .route("/setup", get(login::show_setup).post(login::set_up))
        .route("/account", get(login::show_account).post(login::change_password))
        .route("/projects", get(projects::list))
        .route("/projects/new", get(projects::ask_add).post(projects::add))
        .route("/projects/discover", get(projects::discover).post(projects::enrol))
        .route("/projects/{id}", get(projects::show))
        .route("/projects/{id}/backup", post(projects::back_up))
        .route("/projects/{id}/change", get(projects::ask_change).post(projects::change))
        .route("/projects/{id}/restore", get(restore::choose))
        .route("/backups", get(backups::list))
        .route("/backups/{id}", get(backup::show))
        .route("/backups/{id}/download", get(backups::download))
        .route("/backups/{id}/verify", post(backups::verify))
        .route("/backups/{id}/pin", post(backups::pin))
        .route("/backups/{id}/unpin", post(backups::unpin))
        .route("/backups/{id}/delete", get(backups::ask_delete).post(backups::delete))
        .route("/backups/{id}/restore", get(restore::ask).post(restore::restore))
        .route("/jobs", get(jobs::list))
        .route("/jobs/{id}", get(jobs::show))
        .route("/jobs/{id}/live", get(jobs::live))
        .route("/jobs/{id}/cancel", post(jobs::cancel))
        .route("/jobs/{id}/undo", post(jobs::undo))
        .route("/schedules", get(schedules::list))
        .route("/schedules/new", get(schedule_edit::ask_add).post(schedule_edit::add))
        .route("/schedules/preview", get(schedule_edit::preview))
        .route("/schedules/{id}", get(schedules::show))
        .route("/schedules/{id}/change", get(schedule_edit::ask_change).post(schedule_edit::change))
        .route("/schedules/{id}/switch", post(schedules::switch))
        .route("/schedules/{id}/remove", post(schedules::remove))
        .route("/retention", get(retention::show))
        .route("/storages", get(storages::list))
        .route("/storages/new/{kind}", get(storages::ask_add).post(storages::add))
        .route("/storages/{name}/change", get(storages::ask_change).post(storages::change))
        .route("/storages/{name}/test", post(storages::test))
        .route("/storages/{name}/remove", post(storages::remove))
        .route("/databases", get(databases::list))
        .route("/databases/new", get(databases::ask_add).post(databases::add))
        .route("/databases/{name}/change", get(databases::ask_change).post(databases::change))
        .route("/databases/{name}/test", post(databases::test))
        .route("/databases/{name}/remove", post(databases::remove))
        .route("/channels", get(channels::list))
        .route("/channels/new/{kind}", get(channels::ask_add).post(channels::add))
        .route("/channels/{id}/change", get(channels::ask_change).post(channels::change))
        .route("/channels/{id}/test", post(channels::test))
        .route("/channels/{id}/switch", post(channels::switch))
        .route("/channels/{id}/remove", post(channels::remove))
        .route("/people", get(people::list))
        .route("/people/new", get(people::ask_add).post(people::add))
        .route("/people/{id}/change", get(people::ask_change).post(people::change))
        .route("/people/{id}/remove", post(people::remove))
        .route("/keys", get(keys::list))
        .route("/keys/new", get(keys::ask_make).post(keys::make))
        .route("/keys/{id}/revoke", post(keys::revoke))
        .route("/audit", get(audit::list))
        .route_layer(from_fn_with_state(api.clone(), once::once))
        .route_layer(from_fn_with_state(api.clone(), visit::watch))
}

/// What every browser may have: styles, scripts, pictures.
pub fn files() -> Router {
    assets::router()
}
