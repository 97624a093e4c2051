//! When something is due: five-field cron expressions in a time zone. Pure, the time is always a parameter.
//!
//! What always holds: each next run is later than the one before. An expression with a fixed hour (`30 2 * * *`) runs once for each time on
//! the wall clock: a time that a change of the clocks leaves out runs at the first instant after it, and one that comes twice runs the first
//! time. An expression whose hours begin with `*` means intervals: it follows every instant, so an hour that comes twice runs twice, and one
//! that is left out not at all.

use std::{fmt, str::FromStr};

use chrono::DateTime;
use croner::parser::{CronParser, Seconds, Year};
use jiff::{
    civil,
    tz::{AmbiguousOffset, TimeZone},
};

use crate::clock::Timestamp;

/// Longest expression that is looked at, in bytes. Twelve months and 31 days in full fit.
const LONGEST: usize = 200;

/// Years in which every combination of date and weekday comes up: the calendar repeats after 28 years.
const EVERY_CALENDAR: &str = "2000-2027";

/// Steps from one change of the clocks to the next, and over times that come twice: more than a hundred years have.
const MAX_STEPS: usize = 2_000;

/// Why a text is no expression or no zone. Says what was expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CronError {
    #[error("cron expression {0:?} has {1} fields, not 5: minute, hour, day of month, month, day of week")]
    Fields(String, usize),
    #[error("cron expression {0:?} is not valid: {1}")]
    Invalid(String, String),
    #[error("cron expression {0:?} never runs: there is no such date")]
    Never(String),
    #[error("there is no time zone {0:?}: use a name of the IANA database, such as Europe/Berlin or UTC")]
    Zone(String),
}

/// A time zone of the IANA database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone(TimeZone);

impl Zone {
    pub const UTC: Self = Self(TimeZone::UTC);

    /// The names that people write, sorted.
    pub fn names() -> Vec<String> {
        let names = jiff::tz::db().available().map(|name| name.as_str().to_owned());
        let is_copy = |name: &str| name.starts_with("posix/") || name.starts_with("right/");
        let is_written = |name: &String| name == "UTC" || (name.contains('/') && !is_copy(name));
        let mut names: Vec<String> = names.filter(is_written).collect();
        names.sort();
        names
    }

    pub fn name(&self) -> &str {
        self.0.iana_name().unwrap_or("UTC")
    }

    /// The date on the wall clock.
    pub fn date(&self, at: Timestamp) -> civil::Date {
        self.0.to_datetime(instant(at)).date()
    }

    /// `2026-11-21 02:00:00 +01:00`, for people.
    pub fn show(&self, at: Timestamp) -> String {
        let at = instant(at);
        let offset = self.0.to_offset(at).seconds();
        let sign = if offset < 0 { '-' } else { '+' };
        let (hours, minutes) = (offset.abs() / 3_600, offset.abs() / 60 % 60);
        format!("{} {sign}{hours:02}:{minutes:02}", self.0.to_datetime(at).strftime("%Y-%m-%d %H:%M:%S"))
    }
}

impl FromStr for Zone {
    type Err = CronError;

    fn from_str(text: &str) -> Result<Self, CronError> {
        let unknown = || CronError::Zone(shown(text));
        let looks_like_a_name = !text.is_empty()
            && text.len() <= 64
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'_' | b'-' | b'+'));
        if !looks_like_a_name {
            return Err(unknown());
        }
        let zone = TimeZone::get(text).map_err(|_| unknown())?;
        if zone.is_unknown() || zone.iana_name().is_none() {
            return Err(unknown());
        }
        Ok(Self(zone))
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A five-field expression that has runs.
#[derive(Clone, Debug)]
pub struct Cron {
    text: String,
    pattern: croner::Cron,
    /// Its hours are named, so it means times on the wall clock.
    is_fixed: bool,
}

impl FromStr for Cron {
    type Err = CronError;

    fn from_str(text: &str) -> Result<Self, CronError> {
        let fields: Vec<&str> = text.split_ascii_whitespace().collect();
        if fields.len() != 5 {
            return Err(CronError::Fields(shown(text), fields.len()));
        }
        let text = fields.join(" ");
        let invalid = |why: String| CronError::Invalid(shown(&text), why);
        if text.len() > LONGEST {
            return Err(invalid(format!("it has more than {LONGEST} characters")));
        }
        let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
        let pattern = parser.parse(&text).map_err(|error| invalid(one_line(&error.to_string())))?;
        // Searching for a date that never comes takes long, so it is looked for in the years that have them all.
        let limited = CronParser::new()
            .parse(&format!("0 {text} {EVERY_CALENDAR}"))
            .map_err(|error| invalid(one_line(&error.to_string())))?;
        let first = civil::date(2000, 1, 1).at(0, 0, 0, 0);
        if limited.find_next_occurrence(&first, true).is_err() {
            return Err(CronError::Never(shown(&text)));
        }
        let is_fixed = !fields[1].starts_with('*');
        Ok(Self { text, pattern, is_fixed })
    }
}

impl fmt::Display for Cron {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Cron {
    /// In words, such as `At 02:00.`
    pub fn describe(&self) -> String {
        one_line(&self.pattern.describe())
    }

    /// The first run after this instant. `None` only beyond the calendar's end.
    pub fn next(&self, zone: &Zone, after: Timestamp) -> Option<Timestamp> {
        let zone = &zone.0;
        let (mut at, mut inclusive) = (jiff::Timestamp::from_second(after.timestamp()).ok()?, false);
        for _ in 0..MAX_STEPS {
            // Between two changes of the clocks the wall clock runs with the time.
            let offset = zone.to_offset(at);
            let found = self.pattern.find_next_occurrence(&offset.to_datetime(at), inclusive).ok()?;
            let run = offset.to_timestamp(found).ok()?;
            match zone.following(at).next() {
                Some(change) if run >= change.timestamp() => {
                    let begins_with = change.offset().to_datetime(change.timestamp());
                    if self.is_fixed && found < begins_with {
                        return Some(timestamp(change.timestamp()));
                    }
                    (at, inclusive) = (change.timestamp(), true);
                }
                _ if self.is_fixed && is_second_time(zone, found, offset) => (at, inclusive) = (run, false),
                _ => return Some(timestamp(run)),
            }
        }
        None
    }

    /// The next runs, at most `count`.
    pub fn upcoming(&self, zone: &Zone, after: Timestamp, count: usize) -> Vec<Timestamp> {
        std::iter::successors(self.next(zone, after), |last| self.next(zone, *last)).take(count).collect()
    }

    /// The newest run that is not before `since` and not after `now`.
    pub fn newest(&self, zone: &Zone, since: Timestamp, now: Timestamp) -> Option<Timestamp> {
        let just_before = since - chrono::Duration::seconds(1);
        std::iter::successors(self.next(zone, just_before), |last| self.next(zone, *last))
            .skip_while(|run| *run < since)
            .take_while(|run| *run <= now)
            .last()
    }
}

/// Whether this time on the wall clock has come before with another offset.
fn is_second_time(zone: &TimeZone, at: civil::DateTime, offset: jiff::tz::Offset) -> bool {
    match zone.to_ambiguous_timestamp(at).offset() {
        AmbiguousOffset::Fold { after, .. } => offset == after,
        AmbiguousOffset::Unambiguous { .. } | AmbiguousOffset::Gap { .. } => false,
    }
}

fn instant(at: Timestamp) -> jiff::Timestamp {
    jiff::Timestamp::from_second(at.timestamp()).unwrap_or(jiff::Timestamp::UNIX_EPOCH)
}

fn timestamp(at: jiff::Timestamp) -> Timestamp {
    DateTime::from_timestamp(at.as_second(), 0).unwrap_or(DateTime::UNIX_EPOCH)
}

fn shown(text: &str) -> String {
    text.chars().take(60).collect()
}

fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn runs(cron: &str, zone: &str, after: &str, count: usize) -> Vec<String> {
        let (cron, zone): (Cron, Zone) = (cron.parse().unwrap(), zone.parse().unwrap());
        cron.upcoming(&zone, at(after), count).into_iter().map(|run| zone.show(run)).collect()
    }

    #[test]
    fn in_spring_a_time_that_is_left_out_runs_once_at_the_first_instant_after_it() {
        for (zone, after, expected) in [
            // 02:00 → 03:00 on 2026-03-29.
            (
                "Europe/Berlin",
                "2026-03-28T00:30:00Z",
                ["2026-03-28 02:30:00 +01:00", "2026-03-29 03:00:00 +02:00", "2026-03-30 02:30:00 +02:00"],
            ),
            // 02:00 → 03:00 on 2026-03-08.
            (
                "America/New_York",
                "2026-03-07T07:00:00Z",
                ["2026-03-07 02:30:00 -05:00", "2026-03-08 03:00:00 -04:00", "2026-03-09 02:30:00 -04:00"],
            ),
            (
                "UTC",
                "2026-03-28T00:30:00Z",
                ["2026-03-28 02:30:00 +00:00", "2026-03-29 02:30:00 +00:00", "2026-03-30 02:30:00 +00:00"],
            ),
        ] {
            assert_eq!(runs("30 2 * * *", zone, after, 3), expected, "{zone}");
        }
        // Half an hour, 02:00 → 02:30 on 2026-10-04.
        let expected = ["2026-10-03 02:15:00 +10:30", "2026-10-04 02:30:00 +11:00", "2026-10-05 02:15:00 +11:00"];
        assert_eq!(runs("15 2 * * *", "Australia/Lord_Howe", "2026-10-02T15:30:00Z", 3), expected);
    }

    #[test]
    fn in_autumn_a_time_that_comes_twice_runs_the_first_time() {
        for (zone, after, expected) in [
            // 03:00 → 02:00 on 2026-10-25.
            (
                "Europe/Berlin",
                "2026-10-24T00:00:00Z",
                ["2026-10-24 02:30:00 +02:00", "2026-10-25 02:30:00 +02:00", "2026-10-26 02:30:00 +01:00"],
            ),
            (
                "UTC",
                "2026-10-24T00:00:00Z",
                ["2026-10-24 02:30:00 +00:00", "2026-10-25 02:30:00 +00:00", "2026-10-26 02:30:00 +00:00"],
            ),
        ] {
            assert_eq!(runs("30 2 * * *", zone, after, 3), expected, "{zone}");
        }
        // 02:00 → 01:00 on 2026-11-01.
        let expected = ["2026-10-31 01:30:00 -04:00", "2026-11-01 01:30:00 -04:00", "2026-11-02 01:30:00 -05:00"];
        assert_eq!(runs("30 1 * * *", "America/New_York", "2026-10-31T05:00:00Z", 3), expected);
        // Half an hour, 02:00 → 01:30 on 2026-04-05.
        let expected = ["2026-04-04 01:45:00 +11:00", "2026-04-05 01:45:00 +11:00", "2026-04-06 01:45:00 +10:30"];
        assert_eq!(runs("45 1 * * *", "Australia/Lord_Howe", "2026-04-03T14:00:00Z", 3), expected);
    }

    #[test]
    fn intervals_follow_the_time_through_both_changes() {
        let expected = ["2026-10-25 02:30:00 +02:00", "2026-10-25 02:30:00 +01:00", "2026-10-25 03:30:00 +01:00"];
        assert_eq!(runs("30 * * * *", "Europe/Berlin", "2026-10-25T00:00:00Z", 3), expected);
        let expected = ["2026-03-29 01:30:00 +01:00", "2026-03-29 03:30:00 +02:00"];
        assert_eq!(runs("30 * * * *", "Europe/Berlin", "2026-03-29T00:00:00Z", 2), expected);
        let berlin: Zone = "Europe/Berlin".parse().unwrap();
        let minutely: Cron = "*/10 * * * *".parse().unwrap();
        let runs = minutely.upcoming(&berlin, at("2026-10-24T22:00:00Z"), 30);
        assert!(runs.windows(2).all(|pair| pair[1] - pair[0] == chrono::Duration::minutes(10)), "{runs:?}");
    }

    #[test]
    fn leap_days_and_the_ends_of_months_are_found() {
        let expected = ["2028-02-29 12:00:00 +01:00", "2032-02-29 12:00:00 +01:00"];
        assert_eq!(runs("0 12 29 2 *", "Europe/Berlin", "2026-11-21T00:00:00Z", 2), expected);
        let expected = ["2027-01-31 00:00:00 -05:00", "2027-02-28 00:00:00 -05:00", "2027-03-31 00:00:00 -04:00"];
        assert_eq!(runs("0 0 L * *", "America/New_York", "2027-01-01T12:00:00Z", 3), expected);
        let expected = ["2026-12-31 23:59:00 +11:00", "2027-01-31 23:59:00 +11:00", "2027-03-31 23:59:00 +11:00"];
        assert_eq!(runs("59 23 31 * *", "Australia/Lord_Howe", "2026-12-01T00:00:00Z", 3), expected);
        // The centuries are no leap years but for 2000 and 2400.
        assert_eq!(runs("0 0 29 2 *", "UTC", "2096-03-01T00:00:00Z", 1), ["2104-02-29 00:00:00 +00:00"]);
    }

    #[test]
    fn what_can_never_run_is_refused_soon_and_says_why() {
        for (text, expected) in [
            ("31 2 *", "has 3 fields, not 5"),
            ("", "has 0 fields"),
            ("0 0 2 * * *", "has 6 fields"),
            ("@daily", "has 1 fields"),
            ("61 * * * *", "is not valid"),
            ("* 24 * * *", "is not valid"),
            ("0 2 * 13 *", "is not valid"),
            ("0 2 * * 8", "is not valid"),
            ("a b c d e", "is not valid"),
            ("0 2 30 2 *", "never runs"),
            ("0 2 31 4,6,9,11 *", "never runs"),
            ("0 2 30,31 2 *", "never runs"),
        ] {
            let begun = Instant::now();
            let error = text.parse::<Cron>().unwrap_err().to_string();
            assert!(error.contains(expected) && error.lines().count() == 1, "{error}");
            assert!(begun.elapsed() < Duration::from_secs(2), "{text:?} took {:?}", begun.elapsed());
        }
        assert!(format!("0 2 {} * *", "1,".repeat(200)).parse::<Cron>().is_err());
    }

    #[test]
    fn zones_are_names_of_the_database_and_nothing_else() {
        for good in ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Etc/GMT+5"] {
            assert_eq!(good.parse::<Zone>().unwrap().name(), good);
        }
        for bad in [
            "",
            "Mars/Olympus",
            "CET-1CEST,M3.5.0,M10.5.0/3",
            "../../etc/passwd",
            "Europe/Berlin\n",
            "+02:00",
            &"x".repeat(200),
        ] {
            let error = bad.parse::<Zone>().unwrap_err().to_string();
            assert!(error.contains("there is no time zone") && error.lines().count() == 1, "{error}");
        }
    }

    #[test]
    fn the_newest_run_up_to_now_is_found_and_nothing_before_the_first() {
        let (cron, zone): (Cron, Zone) = ("0 2 * * *".parse().unwrap(), Zone::UTC);
        let newest = |since, now| cron.newest(&zone, at(since), at(now));
        assert_eq!(newest("2026-11-01T02:00:00Z", "2026-11-21T01:59:59Z"), Some(at("2026-11-20T02:00:00Z")));
        assert_eq!(newest("2026-11-21T02:00:00Z", "2026-11-21T02:00:00Z"), Some(at("2026-11-21T02:00:00Z")));
        assert_eq!(newest("2026-11-21T02:00:01Z", "2026-11-21T23:00:00Z"), None);
    }

    #[test]
    fn an_expression_is_told_in_words() {
        assert!("0 2 * * *".parse::<Cron>().unwrap().describe().contains("02:00"));
    }
}
