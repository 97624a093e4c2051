//! Backups and jobs as people name them: a whole id, the unique beginning of one, or `latest:PROJECT`.

use uuid::Uuid;

use super::{Context, Failure};
use crate::{
    app::App,
    artifact::BackupType,
    catalog,
    history::{self, Backup, BackupFilter, BackupStatus, HistoryError},
    ids::{BackupId, JobId},
    jobs::queue::{self, QueueError},
};

/// Fewest hexadecimal digits of a prefix: fewer would name half the history.
const MIN_PREFIX: usize = 4;

/// The backup that `text` names; a good one for `latest:PROJECT`.
///
/// # Errors
/// There is none, or there are several.
pub async fn backup(app: &App, context: &Context, text: &str) -> anyhow::Result<Backup> {
    let scope = context.caller.scope();
    if let Some(project) = text.strip_prefix("latest:") {
        return latest(app, context, project).await;
    }
    let id = match range(text)? {
        Range::One(id) => id,
        Range::Between(low, high) => {
            let found = history::ids_between(&app.pool, &scope, low, high).await?;
            one(text, "backup", found)?.ok_or_else(|| HistoryError::NoSuchBackup(text.to_owned()))?
        }
    };
    Ok(history::get(&app.pool, &scope, BackupId(id)).await?)
}

async fn latest(app: &App, context: &Context, project: &str) -> anyhow::Result<Backup> {
    let scope = context.caller.scope();
    let project = catalog::project(&app.pool, &scope, project).await?;
    let filter = BackupFilter {
        project_id: Some(project.id.clone()),
        backup_type: Some(BackupType::Database),
        status: Some(BackupStatus::Completed),
        limit: 1,
        ..BackupFilter::default()
    };
    let Some(newest) = history::list(&app.pool, &scope, &filter).await?.pop() else {
        return Err(Failure::new(
            super::Exit::NotFound,
            "backup.not_found",
            format!("project {:?} has no completed backup", project.id),
        )
        .hint(format!("Take one with `holdfast backup {} --wait`.", project.id))
        .into());
    };
    Ok(history::get(&app.pool, &scope, newest.backup_id()).await?)
}

/// The id of the job that `text` names.
///
/// # Errors
/// There is none, or there are several.
pub async fn job(app: &App, context: &Context, text: &str) -> anyhow::Result<JobId> {
    let scope = context.caller.scope();
    let id = match range(text)? {
        Range::One(id) => id,
        Range::Between(low, high) => {
            let found = queue::ids_between(&app.pool, &scope, low, high).await?;
            one(text, "job", found)?.ok_or_else(|| QueueError::NoSuchJob(text.to_owned()))?
        }
    };
    Ok(JobId(id))
}

enum Range {
    One(Uuid),
    /// Both ends belong to it.
    Between(Uuid, Uuid),
}

/// A prefix of an id, with or without hyphens, as the ids that begin so.
fn range(text: &str) -> Result<Range, Failure> {
    if let Ok(id) = text.parse::<Uuid>() {
        return Ok(Range::One(id));
    }
    let digits: String = text.chars().filter(|c| *c != '-').collect();
    let is_prefix = (MIN_PREFIX..32).contains(&digits.len()) && digits.chars().all(|c| c.is_ascii_hexdigit());
    let filled = |digit: char| format!("{digits}{}", String::from(digit).repeat(32 - digits.len()));
    let ends = is_prefix.then(|| Some((filled('0').parse().ok()?, filled('f').parse().ok()?))).flatten();
    ends.map(|(low, high)| Range::Between(low, high)).ok_or_else(|| {
        let shown: String = text.chars().take(60).collect();
        Failure::refused("usage", format!("{shown:?} is not an id"))
            .hint("Give an id, its first four or more digits, or, for a backup, latest:PROJECT.")
    })
}

fn one(text: &str, what: &str, found: Vec<Uuid>) -> Result<Option<Uuid>, Failure> {
    match found[..] {
        [] => Ok(None),
        [id] => Ok(Some(id)),
        _ => Err(Failure::refused("id.ambiguous", format!("several {what}s have ids that begin with {text}"))
            .hint("Give more digits.")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_every_id_that_begins_so() {
        let Ok(Range::Between(low, high)) = range("0199a-bc") else { panic!("no range") };
        assert_eq!(low.to_string(), "0199abc0-0000-0000-0000-000000000000");
        assert_eq!(high.to_string(), "0199abcf-ffff-ffff-ffff-ffffffffffff");
        assert!(matches!(range("0199abc0-0000-0000-0000-000000000000"), Ok(Range::One(_))));
    }

    #[test]
    fn what_is_no_id_is_refused() {
        for bad in ["", "abc", "acme", "0199abc0-0000-0000-0000-0000000000001", "zzzzzz", "----"] {
            assert!(range(bad).is_err(), "{bad:?}");
        }
    }
}
