//! `[notify]`: who hears of what beside the channels of the control plane, and for how long it is tried.

use url::Url;

use crate::notice::{NoticeEvent, is_email_address};

super::section! {
    /// Notices: what is told of backups, to whom, and for how long it is tried. Channels of projects, organisations and the platform are kept
    /// in the control plane (`holdfast channel`); e-mail needs `[smtp]`.
    NotifyConfig, "notify" {
        /// E-mail addresses of those who run the platform. They hear of every project. Default: none.
        operators: Vec<String> = Vec::new();
        /// What they hear of: `started`, `completed`, `failed`, `cancelled`, `restored`, `verified`, `expiring`, `stale`. Default: `failed` and
        /// `stale`; with `failed` also of backups without all of their copies and of restores and verifications with differences.
        events: Vec<NoticeEvent> = vec![NoticeEvent::Failed, NoticeEvent::Stale];
        /// Where people reach this installation from outside, such as `https://backups.example.com`: notices link there. Default: no links.
        public_url: Option<Url> = None;
        /// Seconds between looks at what is to be sent. Default: 5.
        poll_seconds: u64 = 5;
        /// Seconds within which a mail server or a receiver must have taken a notice. Default: 20.
        timeout_seconds: u64 = 20;
        /// Hours after which a notice that nobody took is given up. Default: 72.
        give_up_hours: u32 = 72;
        /// Days for which notices that were sent or given up can be looked at. Default: 30.
        keep_days: u32 = 30;
    }
}

impl NotifyConfig {
    /// What no type can say, in one line.
    pub(super) fn check(&self) -> Result<(), String> {
        if let Some(address) = self.operators.iter().find(|address| !is_email_address(address)) {
            return Err(format!("notify.operators: {address:?} is not an e-mail address"));
        }
        if let Some(url) = &self.public_url {
            let is_plain = url.username().is_empty() && url.password().is_none();
            if !matches!(url.scheme(), "http" | "https")
                || !is_plain
                || url.query().is_some()
                || url.fragment().is_some()
            {
                return Err("notify.public_url is not an address such as https://backups.example.com".to_owned());
            }
        }
        for (name, value, low, high) in [
            ("poll_seconds", self.poll_seconds, 1, 3_600),
            // An attempt must be over well within its lease: see `tell::sending`.
            ("timeout_seconds", self.timeout_seconds, 1, 60),
            ("give_up_hours", u64::from(self.give_up_hours), 1, 8_760),
            ("keep_days", u64::from(self.keep_days), 1, 3_650),
        ] {
            if !(low..=high).contains(&value) {
                return Err(format!("notify.{name} is {value}: use {low} to {high}"));
            }
        }
        Ok(())
    }
}
