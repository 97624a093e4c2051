//! What callers who do not run the platform are told of its rows. The tools' and storages' own words stay, but not where databases and
//! storages are (hosts, paths, chats and their messages), who connects to them, and which process worked on a job: those are for operators.

use serde_json::Value;

use crate::{
    history::{AuditEntry, Backup, Copy, LogLine, PastEvent, without_endpoints},
    jobs::queue::Job,
    tenant::{Caller, Role},
};

/// Members that say where bytes are, as those of a copy's row do.
const LOCATORS: [&str; 2] = ["locator", "manifest_locator"];

fn is_told_all(caller: &Caller) -> bool {
    match caller.role {
        Role::Operator => true,
        Role::Member | Role::OrgAdmin => false,
    }
}

pub fn job(mut job: Job, caller: &Caller) -> Job {
    if !is_told_all(caller) {
        job.lease_owner = None;
        job.error_message = job.error_message.map(|text| without_endpoints(&text));
        job.result.iter_mut().chain(&mut job.progress).for_each(in_json);
        in_json(&mut job.payload);
        forget_elsewhere(job.payload.get_mut("request"), "target_server", "target_database");
        job.result.iter_mut().for_each(forget_places);
    }
    job
}

/// Where a job has put something, as its result and its event say it.
fn forget_places(told: &mut Value) {
    forget_elsewhere(Some(&mut *told), "server", "database");
    forget_files(told);
}

/// Where a project's files are, or were (`kept`, then). A number under this name says how many there are, and stays.
fn forget_files(told: &mut Value) {
    if let Value::Object(members) = told
        && members.get("files").is_some_and(|files| !files.is_number() && !files.is_null())
    {
        members.retain(|name, _| name != "files" && name != "kept");
    }
}

/// Which database of which other server a restore went to. A database on the project's own server is its people's own word, and stays.
fn forget_elsewhere(told: Option<&mut Value>, server: &str, database: &str) {
    if let Some(Value::Object(members)) = told
        && members.get(server).is_some_and(Value::is_string)
    {
        members.retain(|name, _| name != server && name != database);
    }
}

pub fn backup(mut backup: Backup, caller: &Caller) -> Backup {
    if !is_told_all(caller) {
        backup.message = backup.message.map(|text| without_endpoints(&text));
    }
    backup
}

pub fn copy(mut copy: Copy, caller: &Caller) -> Copy {
    if !is_told_all(caller) {
        copy.locator = None;
        copy.message = copy.message.map(|text| without_endpoints(&text));
    }
    copy
}

pub fn event(mut event: PastEvent, caller: &Caller) -> PastEvent {
    if !is_told_all(caller) {
        detail(&mut event.detail, &event.event);
    }
    event
}

pub fn entry(mut entry: AuditEntry, caller: &Caller) -> AuditEntry {
    if !is_told_all(caller) {
        detail(&mut entry.detail, &entry.event);
    }
    entry
}

/// What an event says more. The paths of a refused call are those of this API, as its caller sent them. What a project's own row tells to
/// operators only, the events of its changes do as well.
fn detail(detail: &mut Value, event: &str) {
    forget_places(detail);
    if let Value::Object(members) = &mut *detail
        && event.starts_with("project_")
    {
        members.retain(|name, _| name != "database" && name != "files");
    }
    let asked = if event == "refused" { ["call", "path"].map(|name| detail.get(name).cloned()) } else { [None, None] };
    in_json(detail);
    for (name, value) in ["call", "path"].into_iter().zip(asked) {
        if let Some(value) = value {
            detail[name] = value;
        }
    }
}

pub fn line(mut line: LogLine, caller: &Caller) -> LogLine {
    if !is_told_all(caller) {
        line.message = without_endpoints(&line.message);
    }
    line
}

fn in_json(value: &mut Value) {
    match value {
        Value::String(text) => *text = without_endpoints(text),
        Value::Array(items) => items.iter_mut().for_each(in_json),
        Value::Object(members) => {
            // Of the rows that a deletion has moved into its event.
            members.retain(|name, _| !LOCATORS.contains(&name.as_str()));
            members.values_mut().for_each(in_json);
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}
