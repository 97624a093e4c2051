//! Why a backup is kept or goes, in words that people are shown.

use std::fmt;

use crate::{clock::Timestamp, ids::JobId};

/// One reason. A backup that several rules keep has one for each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    Pinned,
    /// A restore, a verification or a copy.
    ReadBy(JobId),
    Unfinished,
    /// A status that Holdfast does not know.
    NotOurs(String),
    /// The request for it said so.
    Asked(Timestamp),
    Days {
        days: u32,
        until: Timestamp,
    },
    Last(u32),
    Daily(u32),
    Weekly(u32),
    Monthly(u32),
    Yearly(u32),
    /// A file of another program that has set no date for it.
    ForeignWithoutDate,
    /// Its row was written again from its manifest, which tells neither a pin nor what a request said.
    Adopted(Timestamp),
    /// Nobody has set a rule.
    NoRules,
    /// What was set cannot be read, so nothing is decided by it.
    UnreadableRules,
    NewestGood,
    MinimumGood(u32),
    /// Nothing goes until there is one.
    NoneGood,
    /// Nothing goes until one is good again.
    LastFailed,
    /// It was decided before; its deletion has not ended.
    ExpiredBefore,
    AskedIsOver(Timestamp),
    DaysAreOver {
        days: u32,
        since: Timestamp,
    },
    NoRuleKeeps,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let day = |at: &Timestamp| at.format("%Y-%m-%d %H:%M UTC");
        match self {
            Self::Pinned => f.write_str("pinned"),
            Self::ReadBy(job) => write!(f, "job {job} reads it"),
            Self::Unfinished => f.write_str("still being made"),
            Self::NotOurs(status) => write!(f, "its status {status:?} is not one of Holdfast's"),
            Self::Asked(until) => write!(f, "asked for until {}", day(until)),
            Self::Days { days, until } => write!(f, "kept for {days} days, until {}", day(until)),
            Self::Last(count) => write!(f, "one of the last {count}"),
            Self::Daily(count) => write!(f, "the newest of its day, one of {count} days"),
            Self::Weekly(count) => write!(f, "the newest of its week, one of {count} weeks"),
            Self::Monthly(count) => write!(f, "the newest of its month, one of {count} months"),
            Self::Yearly(count) => write!(f, "the newest of its year, one of {count} years"),
            Self::ForeignWithoutDate => f.write_str("recorded by another program, without a date"),
            Self::Adopted(until) => {
                write!(f, "found again, when pins are not known: kept until {}, or for ever when pinned", day(until))
            }
            Self::NoRules => f.write_str("no rule says when it may go"),
            Self::UnreadableRules => f.write_str("the retention that was set cannot be read"),
            Self::NewestGood => f.write_str("the newest good backup"),
            Self::MinimumGood(count) => write!(f, "one of the {count} good backups that always stay"),
            Self::NoneGood => f.write_str("none of its kind is good: nothing goes until one is"),
            Self::LastFailed => f.write_str("the last backups failed: nothing goes until one is good"),
            Self::ExpiredBefore => f.write_str("expired before, and not deleted yet"),
            Self::AskedIsOver(since) => write!(f, "asked for until {}", day(since)),
            Self::DaysAreOver { days, since } => write!(f, "older than {days} days since {}", day(since)),
            Self::NoRuleKeeps => f.write_str("no rule keeps it"),
        }
    }
}
