//! The rules that somebody has set: days, and counts.

use serde::{Deserialize, Serialize};

/// What is kept. A backup stays as long as any rule keeps it; a rule that is left out keeps nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Rules {
    /// Every backup for this many days.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 36_500, example = 30)]
    pub days: Option<u32>,
    /// This many of the newest backups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 10_000)]
    pub keep_last: Option<u32>,
    /// The newest of each of this many days that have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 10_000)]
    pub keep_daily: Option<u32>,
    /// The newest of each of this many weeks, Monday to Sunday.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 10_000)]
    pub keep_weekly: Option<u32>,
    /// The newest of each of this many months.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 10_000)]
    pub keep_monthly: Option<u32>,
    /// The newest of each of this many years.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 10_000)]
    pub keep_yearly: Option<u32>,
}

/// A rule whose number makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{rule} is {value}: use {low} to {high}")]
pub struct RuleFault {
    pub rule: &'static str,
    value: u32,
    low: u32,
    high: u32,
}

impl Rules {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// # Errors
    /// Names the first rule that is out of range.
    pub fn check(&self) -> Result<(), RuleFault> {
        for (rule, value, high) in [
            ("days", self.days, 36_500),
            ("keep_last", self.keep_last, 10_000),
            ("keep_daily", self.keep_daily, 10_000),
            ("keep_weekly", self.keep_weekly, 10_000),
            ("keep_monthly", self.keep_monthly, 10_000),
            ("keep_yearly", self.keep_yearly, 10_000),
        ] {
            if let Some(value) = value
                && !(1..=high).contains(&value)
            {
                return Err(RuleFault { rule, value, low: 1, high });
            }
        }
        Ok(())
    }
}
