//! A backup of a project's log lines, as it is asked for, and the range of time that it covers.

use std::{fmt, str::FromStr};

use chrono::{DateTime, Datelike, NaiveDate, NaiveTime, Utc};
use serde::{Deserialize, Serialize};

use super::{
    Asked, Common, RequestError,
    export::{asked_compression, encryption},
};
use crate::{
    app::App,
    artifact::{Compression, Encoding, Format},
};

/// A backup of a project's rows of `project_logs`, as it is asked for. What is left out comes from the configuration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ExportLogs {
    #[serde(default)]
    pub project_id: String,
    /// `json`, unless `text` is asked for.
    pub format: Option<Format>,
    /// Left out: all lines that there are.
    pub date_range: Option<DateRange>,
    pub compression: Option<Compression>,
    /// The older way to say it: `true` is gzip, `false` none. Not together with `compression`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compress: Option<bool>,
    /// Names of storages; empty is every storage of the configuration's choice.
    #[serde(default)]
    pub storages: Vec<String>,
    pub expires_at: Option<DateTime<Utc>>,
    pub notify_email: Option<String>,
    pub caption: Option<String>,
}

/// From `start` on, up to `end`. Either may be left open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DateRange {
    pub start: Option<Moment>,
    pub end: Option<Moment>,
}

impl DateRange {
    /// Lines of this instant and later.
    pub fn from(&self) -> Option<DateTime<Utc>> {
        Some(match self.start? {
            Moment::Day(day) => midnight(day),
            Moment::At(at) => at,
        })
    }

    /// Lines before this instant: after a day its whole length, so that it is included; an instant is not.
    pub fn until(&self) -> Option<DateTime<Utc>> {
        match self.end? {
            // The last day that can be named has no day after it that can: nothing is cut off.
            Moment::Day(day) => day.succ_opt().filter(|next| is_plausible(*next)).map(midnight),
            Moment::At(at) => Some(at),
        }
    }

    fn check(&self) -> Result<(), RequestError> {
        match (self.start, self.end, self.from(), self.until()) {
            (Some(start), Some(end), Some(from), Some(until)) if from >= until => Err(RequestError::Invalid {
                code: "request.date_range",
                message: format!("date_range.end ({end}) is not after date_range.start ({start})"),
                hint: Some("A date as the end includes that day; an instant does not.".to_owned()),
            }),
            _ => Ok(()),
        }
    }
}

fn midnight(day: NaiveDate) -> DateTime<Utc> {
    day.and_time(NaiveTime::MIN).and_utc()
}

/// Years that RFC 3339 can write.
fn is_plausible(day: NaiveDate) -> bool {
    (1..=9999).contains(&day.year())
}

/// A day in UTC or an instant, by ISO 8601: `2026-11-21`, `2026-11-21T12:00:00Z`, `2026-11-21T13:00:00+01:00`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    Day(NaiveDate),
    At(DateTime<Utc>),
}

/// A text that is neither a day nor an instant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a date such as 2026-11-21 or an instant such as 2026-11-21T12:00:00Z")]
pub struct InvalidMoment(String);

impl FromStr for Moment {
    type Err = InvalidMoment;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // `chrono` also takes dates without leading zeros, and years beyond four digits.
        let is_strict = text.len() >= 10 && text.as_bytes()[..10].iter().all(|b| b.is_ascii_digit() || *b == b'-');
        let moment = if text.len() == 10 {
            text.parse().map(Self::Day).ok()
        } else {
            DateTime::parse_from_rfc3339(text).map(|at| Self::At(at.to_utc())).ok()
        };
        let day = |moment: &Self| match moment {
            Self::Day(day) => *day,
            Self::At(at) => at.date_naive(),
        };
        moment
            .filter(|moment| is_strict && is_plausible(day(moment)))
            .ok_or_else(|| InvalidMoment(text.chars().filter(|c| !c.is_control()).take(60).collect()))
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Day(day) => write!(f, "{}", day.format("%Y-%m-%d")),
            Self::At(at) => f.write_str(&at.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true)),
        }
    }
}

impl Serialize for Moment {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Moment {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl From<&ExportLogs> for Asked {
    fn from(request: &ExportLogs) -> Self {
        Self::Logs(request.clone())
    }
}

impl ExportLogs {
    pub(super) fn common(&self) -> Common<'_> {
        Common {
            project_id: &self.project_id,
            storages: &self.storages,
            expires_at: self.expires_at,
            notify_email: self.notify_email.as_deref(),
            caption: self.caption.as_deref(),
        }
    }

    /// Format and compression after the defaults, or what is wrong with them or with the range.
    pub(super) fn encoding(&self, app: &App) -> Result<Encoding, RequestError> {
        self.date_range.as_ref().map_or(Ok(()), DateRange::check)?;
        let format = match self.format.unwrap_or(Format::Json) {
            format @ (Format::Json | Format::Text) => format,
            other @ (Format::Sql | Format::Tar | Format::Custom) => {
                return Err(RequestError::Invalid {
                    code: "request.format",
                    message: format!("format {other} is one of a database, and not of log lines"),
                    hint: Some("Use json or text.".to_owned()),
                });
            }
        };
        let asked = asked_compression(self.compress, self.compression)?;
        let compression = asked.unwrap_or(app.config.backup.compression);
        Ok(Encoding { format: Some(format), compression, encryption: encryption(app) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: &str, end: &str) -> DateRange {
        DateRange { start: Some(start.parse().unwrap()), end: Some(end.parse().unwrap()) }
    }

    #[test]
    fn a_day_as_the_end_is_included_and_an_instant_is_not() {
        let at = |text: &str| Some(text.parse::<DateTime<Utc>>().unwrap());
        let days = range("2026-11-20", "2026-11-21");
        assert_eq!((days.from(), days.until()), (at("2026-11-20T00:00:00Z"), at("2026-11-22T00:00:00Z")));
        let instants = range("2026-11-20T13:00:00+01:00", "2026-11-21T00:00:00.5Z");
        assert_eq!((instants.from(), instants.until()), (at("2026-11-20T12:00:00Z"), at("2026-11-21T00:00:00.5Z")));
        assert_eq!(DateRange::default().until(), None);
        assert_eq!(range("2026-11-20", "9999-12-31").until(), None);
    }

    #[test]
    fn a_range_the_wrong_way_round_names_its_field() {
        assert!(range("2026-11-21", "2026-11-21").check().is_ok());
        for (start, end) in [
            ("2026-11-22", "2026-11-21"),
            ("2026-11-21T12:00:00Z", "2026-11-21T12:00:00Z"),
            ("2026-11-21", "2026-11-21T00:00:00Z"),
        ] {
            let error = range(start, end).check().unwrap_err();
            assert_eq!(error.code(), "request.date_range");
            assert!(error.to_string().contains("date_range.end"), "{error}");
        }
    }

    #[test]
    fn moments_round_trip_and_others_are_refused() {
        for text in ["2026-11-21", "2026-11-21T12:00:00Z", "2026-11-21T12:00:00.123456Z"] {
            assert_eq!(text.parse::<Moment>().unwrap().to_string(), text);
        }
        for bad in [
            "",
            "today",
            "2026-13-01",
            "2026-02-30",
            "21.11.2026",
            "2026-11-21T12:00:00",
            "2026-11-21 12:00",
            "0000-01-01",
            "+10000-01-01",
            "2026-1-1   ",
            "2026-11-21\0",
        ] {
            assert!(bad.parse::<Moment>().is_err(), "{bad:?}");
        }
    }
}
