//! A notice in sentences: the same for mail, webhooks and chats. What it says is what a person needs: which project, which backup, what happened,
//! why, what to do, and where to look.

use std::fmt::Write as _;

use chrono::SecondsFormat;
use url::Url;

use super::{
    Letter,
    text::{escaped, one_line},
};
use crate::{
    byte_size::ByteSize,
    clock::Timestamp,
    notice::{Notice, NoticeEvent},
    proof_record::is_not_compared,
};

/// Longest name that is shown, in characters.
const MAX_NAME: usize = 120;

/// Longest line of somebody's words.
const MAX_WORDS: usize = 1_000;

/// A message, ready to be laid out. No part of it has a line break.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub subject: String,
    /// Names and values.
    pub facts: Vec<(&'static str, String)>,
    pub link: Option<String>,
    /// What tells it from others, and who sends it.
    pub foot: String,
}

impl Message {
    /// Makes sentences of facts.
    pub fn of(letter: &Letter<'_>, public_url: Option<&Url>) -> Self {
        let notice = letter.notice;
        let link = public_url.and_then(|base| link(base, notice));
        Self {
            subject: one_line(&subject(letter), 2 * MAX_NAME + 80),
            facts: facts(letter),
            link,
            foot: format!(
                "Notice {} from Holdfast, a backup service. The same number twice is the same notice.",
                letter.id
            ),
        }
    }

    /// As plain text.
    pub fn text(&self) -> String {
        let mut text = format!("{}\n\n", self.subject);
        for (name, value) in &self.facts {
            let _ = writeln!(text, "{name}: {value}");
        }
        if let Some(link) = &self.link {
            let _ = writeln!(text, "\n{link}");
        }
        let _ = write!(text, "\n{}\n", self.foot);
        text
    }

    /// As an HTML page without anything that is fetched or run.
    pub fn html(&self) -> String {
        let mut html = format!(
            "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{0}</title></head>\n\
             <body style=\"font-family: sans-serif\">\n<h1 style=\"font-size: 1.2em\">{0}</h1>\n<table>\n",
            escaped(&self.subject)
        );
        for (name, value) in &self.facts {
            let _ = writeln!(
                html,
                "<tr><th style=\"text-align: left; vertical-align: top; padding-right: 1em\">{}</th><td>{}</td></tr>",
                escaped(name),
                escaped(value)
            );
        }
        html.push_str("</table>\n");
        if let Some(link) = &self.link {
            let _ = writeln!(html, "<p><a href=\"{0}\">{0}</a></p>", escaped(link));
        }
        let _ =
            write!(html, "<p style=\"color: #666; font-size: 0.9em\">{}</p>\n</body></html>\n", escaped(&self.foot));
        html
    }
}

/// `"Acme Ltd" (acme)`.
fn project(notice: &Notice) -> Option<String> {
    let project = notice.project.as_ref()?;
    let (name, id) = (one_line(&project.name, MAX_NAME), one_line(&project.id, MAX_NAME));
    Some(if name == id || name.is_empty() { id } else { format!("\"{name}\" ({id})") })
}

/// What a job was about, as the end of a sentence begins: `Backup`, `Restore`, ….
fn what(notice: &Notice) -> &'static str {
    match notice.job.as_ref().map(|job| job.r#type.as_str()) {
        Some("restore_backup") => "Restore",
        Some("undo_restore") => "Undoing a restore",
        Some("verify_backup") => "Verification",
        Some("delete_backup") => "Deletion",
        Some("import_backup") => "Import",
        Some("repair_copies") => "Making missing copies",
        Some("drop_replaced") => "Tidying up after a restore",
        Some(_) | None => "Backup",
    }
}

fn subject(letter: &Letter<'_>) -> String {
    let notice = letter.notice;
    let of = project(notice).map(|project| format!(" of {project}")).unwrap_or_default();
    let what = what(notice);
    match letter.event {
        None => "Test: notices from Holdfast reach you".to_owned(),
        Some(NoticeEvent::Started) => format!("{what} started{of}"),
        Some(event @ NoticeEvent::Completed) if notice.is_worrying(event) => {
            format!("Backup completed with copies missing{of}")
        }
        Some(NoticeEvent::Completed) => format!("{what} completed{of}"),
        Some(NoticeEvent::Failed) => format!("{what} FAILED{of}"),
        Some(NoticeEvent::Cancelled) => format!("{what} cancelled{of}"),
        Some(event @ NoticeEvent::Restored) if notice.is_worrying(event) => {
            format!("Restored with DIFFERENCES: a backup{of}")
        }
        Some(NoticeEvent::Restored) => format!("Restored: a backup{of}"),
        Some(event @ NoticeEvent::Verified) if notice.is_worrying(event) => {
            format!("Verification found TROUBLE with a backup{of}")
        }
        Some(NoticeEvent::Verified)
            if notice.verification.as_ref().is_some_and(|v| is_not_compared(&v.differences)) =>
        {
            format!("Read, and brought back by a trial restore: a backup{of}")
        }
        Some(NoticeEvent::Verified) => format!("Verified: a backup{of}"),
        Some(NoticeEvent::Expiring) => format!("A backup{of} will expire"),
        Some(NoticeEvent::Stale) => format!("NO CURRENT BACKUP{of}"),
    }
}

fn facts(letter: &Letter<'_>) -> Vec<(&'static str, String)> {
    let notice = letter.notice;
    let mut facts: Vec<(&'static str, String)> = Vec::new();
    let mut add = |name: &'static str, value: Option<String>| facts.extend(value.map(|value| (name, value)));
    let words = |text: &String| one_line(text, MAX_WORDS);
    add("Project", project(notice));
    let failed = matches!(letter.event, Some(NoticeEvent::Failed));
    add(if failed { "Why" } else { "Said" }, notice.message.as_ref().map(words));
    if let Some(stale) = &notice.stale {
        add("Newest good backup", Some(stale.last_good_at.map_or("none".to_owned(), instant)));
        add("Allowed age", Some(duration(stale.allowed_seconds.unsigned_abs())));
    }
    if let Some(restore) = &notice.restore {
        if is_not_compared(&restore.differences) {
            add("Not compared", list(&restore.differences));
        } else {
            add("Outcome", Some(outcome(&restore.outcome, restore.difference_count)));
            add("Differences", list(&restore.differences));
        }
        add("Can be undone until", restore.undo_until.map(instant));
    }
    if let Some(verification) = &notice.verification {
        add("Depth", Some(one_line(&verification.depth, MAX_NAME)));
        if is_not_compared(&verification.differences) {
            add("Not compared", list(&verification.differences));
        } else {
            add("Outcome", Some(one_line(&verification.outcome, MAX_NAME)));
            add("Differences", list(&verification.differences));
        }
    }
    add("What to do", notice.hint.as_ref().map(words));
    if let Some(backup) = &notice.backup {
        add("Backup", Some(format!("{} ({})", backup.id, one_line(&backup.r#type, MAX_NAME))));
        add("Taken at", backup.created_at.map(instant));
        add("Size", backup.size.filter(|size| *size > 0).map(|size| ByteSize(size).to_string()));
        add("Duration", backup.duration_seconds.map(duration));
        add("Expires at", backup.expires_at.map(instant));
        if backup.copies_missing > 0 {
            add("Copies missing", Some(backup.copies_missing.to_string()));
            add("Missing in", list(&backup.storages_missing));
        }
    }
    add("Job", notice.job.as_ref().map(|job| format!("{} ({})", job.id, one_line(&job.r#type, MAX_NAME))));
    add("At", Some(instant(letter.at)));
    facts
}

fn outcome(word: &str, differences: u32) -> String {
    match differences {
        0 => one_line(word, MAX_NAME),
        1 => "1 difference from what was backed up".to_owned(),
        n => format!("{n} differences from what was backed up"),
    }
}

/// Several words of others on one line.
fn list(items: &[String]) -> Option<String> {
    let items: Vec<String> = items.iter().map(|item| one_line(item, MAX_NAME)).collect();
    if items.is_empty() { None } else { Some(one_line(&items.join("; "), MAX_WORDS)) }
}

/// `2026-11-21T04:00:00Z`.
fn instant(at: Timestamp) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// `26 h`, `3 min 12 s`.
fn duration(seconds: u64) -> String {
    match (seconds / 3_600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{s} s"),
        (0, m, s) => format!("{m} min {s} s"),
        (h, 0, _) => format!("{h} h"),
        (h, m, _) => format!("{h} h {m} min"),
    }
}

/// Where to look: the page of the backup, else of the job, else of the project.
fn link(base: &Url, notice: &Notice) -> Option<String> {
    let (kind, id) = match (&notice.backup, &notice.job, &notice.project) {
        (Some(backup), ..) => ("backups", backup.id.to_string()),
        (None, Some(job), _) => ("jobs", job.id.to_string()),
        (None, None, Some(project)) => ("projects", project.id.clone()),
        (None, None, None) => return Some(base.to_string()),
    };
    let mut url = base.clone();
    url.path_segments_mut().ok()?.pop_if_empty().extend([kind, &id]);
    Some(url.to_string())
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::{
        notice::{AboutBackup, AboutJob, AboutProject, AboutRestore, AboutStale, AboutVerification},
        proof_record::ROWS_NOT_COUNTED,
    };

    fn at() -> Timestamp {
        "2026-11-21T04:00:00Z".parse().unwrap()
    }

    fn message(event: Option<NoticeEvent>, notice: &Notice) -> Message {
        let base = Url::parse("https://backups.example.com/holdfast/").unwrap();
        Message::of(&Letter { id: Uuid::nil(), event, at: at(), notice }, Some(&base))
    }

    fn acme() -> Option<AboutProject> {
        Some(AboutProject { id: "acme".to_owned(), name: "Acme Ltd".to_owned() })
    }

    #[test]
    fn a_failure_says_what_a_person_needs() {
        let notice = Notice {
            project: acme(),
            job: Some(AboutJob { id: Uuid::nil(), r#type: "export_backup".to_owned() }),
            backup: Some(AboutBackup { r#type: "database".to_owned(), ..AboutBackup::default() }),
            message: Some("cannot write part 3 to storage \"s3-main\": access denied\nmore".to_owned()),
            hint: Some("Check that the key may write.".to_owned()),
            ..Notice::default()
        };
        let message = message(Some(NoticeEvent::Failed), &notice);
        assert_eq!(message.subject, "Backup FAILED of \"Acme Ltd\" (acme)");
        let text = message.text();
        for line in [
            "Project: \"Acme Ltd\" (acme)",
            "Why: cannot write part 3 to storage \"s3-main\": access denied more",
            "What to do: Check that the key may write.",
            "Backup: 00000000-0000-0000-0000-000000000000 (database)",
            "At: 2026-11-21T04:00:00Z",
            "https://backups.example.com/holdfast/backups/00000000-0000-0000-0000-000000000000",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
    }

    #[test]
    fn success_says_size_duration_and_expiry_and_what_is_missing() {
        let backup = AboutBackup {
            size: Some(3 << 20),
            duration_seconds: Some(192),
            expires_at: Some(at()),
            copies_missing: 1,
            storages_missing: vec!["off\nsite".to_owned()],
            ..AboutBackup::default()
        };
        let notice = Notice { project: acme(), backup: Some(backup), ..Notice::default() };
        let message = message(Some(NoticeEvent::Completed), &notice);
        assert_eq!(message.subject, "Backup completed with copies missing of \"Acme Ltd\" (acme)");
        let text = message.text();
        for line in ["Size: 3 MiB", "Duration: 3 min 12 s", "Expires at: 2026-11-21T04:00:00Z", "Missing in: off site"]
        {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
    }

    #[test]
    fn every_event_has_a_subject_of_its_own() {
        let restore =
            AboutRestore { outcome: "differences".to_owned(), difference_count: 2, ..AboutRestore::default() };
        let notice = Notice {
            project: acme(),
            restore: Some(restore),
            stale: Some(AboutStale { last_good_at: None, allowed_seconds: 93_600 }),
            ..Notice::default()
        };
        let mut subjects: Vec<String> =
            NoticeEvent::ALL.iter().map(|event| message(Some(*event), &notice).subject).collect();
        subjects.push(message(None, &notice).subject);
        subjects.sort();
        subjects.dedup();
        assert_eq!(subjects.len(), NoticeEvent::ALL.len() + 1);
        let text = message(Some(NoticeEvent::Restored), &notice).text();
        assert!(text.contains("Outcome: 2 differences") && text.contains("Allowed age: 26 h"), "{text}");
    }

    #[test]
    fn rows_that_were_not_counted_are_said_and_called_neither_trouble_nor_a_difference() {
        let (outcome, differences) = ("differences".to_owned(), vec![ROWS_NOT_COUNTED.to_owned()]);
        let restore = AboutRestore {
            outcome: outcome.clone(),
            differences: differences.clone(),
            difference_count: 1,
            ..AboutRestore::default()
        };
        let verification = AboutVerification { depth: "restore".to_owned(), outcome, differences };
        let restored = Notice { project: acme(), restore: Some(restore), ..Notice::default() };
        let verified = Notice { project: acme(), verification: Some(verification), ..Notice::default() };
        for (event, notice, subject) in [
            (NoticeEvent::Restored, restored, "Restored: a backup of \"Acme Ltd\" (acme)"),
            (
                NoticeEvent::Verified,
                verified,
                "Read, and brought back by a trial restore: a backup of \"Acme Ltd\" (acme)",
            ),
        ] {
            let message = message(Some(event), &notice);
            assert_eq!(message.subject, subject);
            let text = message.text();
            assert!(text.contains("Not compared: no rows were counted") && !text.contains("ifference"), "{text}");
        }
    }

    #[test]
    fn a_hostile_name_makes_neither_lines_nor_markup() {
        let name = "</h1><script>alert(1)</script>\r\nBcc: x@y.z\u{202e}*_`[x](http://e.example)";
        let notice = Notice {
            project: Some(AboutProject { id: "acme".to_owned(), name: name.to_owned() }),
            message: Some(format!("{name}\n\n{name}")),
            ..Notice::default()
        };
        let message = message(Some(NoticeEvent::Failed), &notice);
        assert!(!message.subject.contains(['\r', '\n', '\u{202e}']), "{:?}", message.subject);
        let (text, html) = (message.text(), message.html());
        assert!(!text.lines().any(|line| line.starts_with("Bcc")), "{text}");
        assert!(!html.contains("<script") && !html.contains("alert(1)</"), "{html}");
        assert_eq!(html.matches("<h1").count(), 1);
    }
}
