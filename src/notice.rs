//! What a notice tells: the facts as they were when they were written into the outbox. Whoever sends it makes sentences of them.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{clock::Timestamp, proof_record::is_not_compared};

crate::artifact::words! {
    /// What a notice can be about.
    NoticeEvent, "event" {
        Started = "started",
        Completed = "completed",
        Failed = "failed",
        Cancelled = "cancelled",
        Restored = "restored",
        Verified = "verified",
        Expiring = "expiring",
        Stale = "stale",
    }
}

/// The facts. What is not known, or has nothing to do with the event, is left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Notice {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub project: Option<AboutProject>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job: Option<AboutJob>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backup: Option<AboutBackup>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restore: Option<AboutRestore>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verification: Option<AboutVerification>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stale: Option<AboutStale>,
    /// Why it failed, or what else there is to say, in the words of what found it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// A sentence with the remedy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// A project.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AboutProject {
    pub id: String,
    /// Chosen by whoever enrolled it: any text.
    pub name: String,
}

/// A job.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AboutJob {
    pub id: Uuid,
    /// `export_backup`, …
    pub r#type: String,
}

/// A backup.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AboutBackup {
    pub id: Uuid,
    /// `database`, `storage` or `logs`.
    pub r#type: String,
    /// Bytes as stored.
    pub size: Option<u64>,
    /// From the first attempt's begin to the end.
    pub duration_seconds: Option<u64>,
    pub created_at: Option<Timestamp>,
    pub expires_at: Option<Timestamp>,
    /// Good copies that it lacks of those that are required.
    pub copies_missing: u32,
    /// Where a copy is missing or not good.
    pub storages_missing: Vec<String>,
}

/// A restore that is done.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AboutRestore {
    /// `verified` or `differences`.
    pub outcome: String,
    /// The first few.
    pub differences: Vec<String>,
    pub difference_count: u32,
    pub undo_until: Option<Timestamp>,
}

/// A verification that is done.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AboutVerification {
    /// `head`, `read` or `restore`.
    pub depth: String,
    /// `verified`, `differences` or `damaged`.
    pub outcome: String,
    /// The first few.
    pub differences: Vec<String>,
}

/// A project without a good backup within its allowed age.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AboutStale {
    /// `None`: it has none.
    pub last_good_at: Option<Timestamp>,
    pub allowed_seconds: i64,
}

impl Notice {
    /// Whether something did not end as it should, although it ended: a completion without all of its copies, a restore or a verification
    /// with differences. Whoever hears of failures hears of it. That no rows could be compared is no difference.
    pub fn is_worrying(&self, event: NoticeEvent) -> bool {
        match event {
            NoticeEvent::Completed => self.backup.as_ref().is_some_and(|backup| backup.copies_missing > 0),
            NoticeEvent::Restored => self
                .restore
                .as_ref()
                .is_some_and(|about| about.outcome != "verified" && !is_not_compared(&about.differences)),
            NoticeEvent::Verified => self
                .verification
                .as_ref()
                .is_some_and(|about| about.outcome != "verified" && !is_not_compared(&about.differences)),
            NoticeEvent::Started
            | NoticeEvent::Failed
            | NoticeEvent::Cancelled
            | NoticeEvent::Expiring
            | NoticeEvent::Stale => false,
        }
    }
}

/// Enough to keep line breaks and lists of recipients out; whether mail arrives only sending tells.
pub fn is_email_address(address: &str) -> bool {
    address.len() <= 254
        && address.split_once('@').is_some_and(|(local, domain)| {
            !local.is_empty()
                && domain.contains('.')
                && !domain.starts_with('.')
                && !domain.ends_with('.')
                && !domain.contains('@')
        })
        && !address.chars().any(|c| c.is_control() || c.is_whitespace() || matches!(c, ',' | ';' | '<' | '>' | '"'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proof_record::ROWS_NOT_COUNTED;

    #[test]
    fn facts_that_an_older_version_wrote_are_read() {
        let old: Notice = serde_json::from_value(serde_json::json!({ "message": "x", "type": "logs" })).unwrap();
        assert_eq!(old, Notice { message: Some("x".to_owned()), ..Notice::default() });
    }

    #[test]
    fn what_worries_is_what_the_event_is_about() {
        let backup = AboutBackup { copies_missing: 1, ..AboutBackup::default() };
        let restore = AboutRestore { outcome: "verified".to_owned(), ..AboutRestore::default() };
        let notice = Notice { backup: Some(backup), restore: Some(restore), ..Notice::default() };
        for event in NoticeEvent::ALL {
            assert_eq!(notice.is_worrying(*event), *event == NoticeEvent::Completed, "{event}");
        }
    }

    #[test]
    fn a_difference_worries_and_rows_that_were_not_counted_do_not() {
        for (differences, is_worrying) in
            [(&[ROWS_NOT_COUNTED][..], false), (&[ROWS_NOT_COUNTED, "x"], true), (&["x"], true)]
        {
            let differences: Vec<String> = differences.iter().map(|line| (*line).to_owned()).collect();
            let outcome = "differences".to_owned();
            let restore =
                AboutRestore { outcome: outcome.clone(), differences: differences.clone(), ..AboutRestore::default() };
            let verification = AboutVerification { depth: "restore".to_owned(), outcome, differences };
            let notice = Notice { restore: Some(restore), verification: Some(verification), ..Notice::default() };
            for event in [NoticeEvent::Restored, NoticeEvent::Verified] {
                assert_eq!(notice.is_worrying(event), is_worrying, "{notice:?}");
            }
        }
    }

    #[test]
    fn an_address_is_one_address() {
        for address in ["a@b.example", "a.b+c@d.e.example", "ä@b.example"] {
            assert!(is_email_address(address), "{address}");
        }
        for address in [
            "",
            "a",
            "a@b",
            "@b.c",
            "a@.c",
            "a@b.",
            "a@b.c\r\nBcc: x@y.z",
            "a@b.c,d@e.f",
            "a@b.c d",
            "<a@b.c>",
            "\"a\"@b.c",
            "a@b@c.d",
        ] {
            assert!(!is_email_address(address), "{address}");
        }
        assert!(!is_email_address(&format!("{}@b.c", "a".repeat(254))));
    }
}
