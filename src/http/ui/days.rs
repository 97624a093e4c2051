//! The last ninety days: a calendar, two charts, and the same numbers as a table for those who see neither.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use chrono::{DateTime, Datelike, NaiveDate, Utc};
use serde_json::json;

use super::show::{self, Html};
use crate::history::Day;

/// Days of the calendar and the charts.
const DAYS: i64 = 90;

/// What `days.html` shows.
pub struct Days {
    pub calendar: Html,
    /// What the script draws.
    pub chart: String,
    /// Newest first; without the days on which nothing happened.
    pub rows: Vec<Row>,
}

/// One day in numbers.
pub struct Row {
    pub day: NaiveDate,
    pub completed: i64,
    pub failed: i64,
    pub size: Html,
    pub took: Html,
}

impl Days {
    pub fn of(days: &[Day], now: DateTime<Utc>) -> Self {
        let row = |day: &Day| Row {
            day: day.day,
            completed: day.completed,
            failed: day.failed,
            size: show::size(day.bytes),
            took: day.seconds.map_or_else(show::nothing, show::took),
        };
        Self { calendar: calendar(days, now), chart: chart(days, now), rows: days.iter().rev().map(row).collect() }
    }
}

/// From when on days are asked for.
pub fn since(now: DateTime<Utc>) -> NaiveDate {
    first_day(now)
}

fn first_day(now: DateTime<Utc>) -> NaiveDate {
    now.date_naive() - chrono::Days::new(DAYS.unsigned_abs() - 1)
}

/// Every day from the first one on, with what is known of it.
fn every_day(days: &[Day], now: DateTime<Utc>) -> impl Iterator<Item = (NaiveDate, Option<&Day>)> {
    let known: BTreeMap<NaiveDate, &Day> = days.iter().map(|day| (day.day, day)).collect();
    first_day(now).iter_days().take(DAYS as usize).map(move |day| (day, known.get(&day).copied()))
}

/// A calendar of weeks, one square for each day: how many backups, and whether one failed.
fn calendar(days: &[Day], now: DateTime<Utc>) -> Html {
    const STEP: i64 = 16;
    let most = days.iter().map(|day| day.completed).max().unwrap_or(0).max(1);
    let first = first_day(now);
    let first_week = first - chrono::Days::new(u64::from(first.weekday().num_days_from_monday()));
    let (mut squares, mut months, mut taken, mut failed) = (String::new(), String::new(), 0, 0);
    let mut weeks = 0;
    for (date, day) in every_day(days, now) {
        let week = (date - first_week).num_days() / 7;
        weeks = weeks.max(week + 1);
        let (good, bad) = day.map_or((0, 0), |day| (day.completed, day.failed));
        taken += good;
        failed += bad;
        let class = match (good, bad) {
            (0, 0) => "q0",
            (_, 1..) => "qx",
            (good, _) if good * 4 > most * 3 => "q4",
            (good, _) if good * 2 > most => "q3",
            (good, _) if good * 4 > most => "q2",
            _ => "q1",
        };
        let (x, y) = (week * STEP + 30, i64::from(date.weekday().num_days_from_monday()) * STEP + 18);
        let told = match (good, bad) {
            (0, 0) => "nothing".to_owned(),
            (good, 0) => show::counted(good, "backup", "backups"),
            (good, bad) => format!("{}, {bad} failed", show::counted(good, "backup", "backups")),
        };
        let _ = write!(
            squares,
            "<rect x=\"{x}\" y=\"{y}\" width=\"13\" height=\"13\" rx=\"3\" class=\"{class}\"><title>{date}: {told}</title></rect>"
        );
        if date.day() == 1 {
            let _ = write!(months, "<text x=\"{x}\" y=\"11\">{}</text>", date.format("%b"));
        }
    }
    for (row, text) in [(0, "Mon"), (2, "Wed"), (4, "Fri")] {
        let _ = write!(months, "<text x=\"0\" y=\"{}\">{text}</text>", row * STEP + 29);
    }
    let (width, height) = (weeks * STEP + 30, 7 * STEP + 18);
    Html::ours(format!(
        "<svg class=\"calendar\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" role=\"img\" aria-label=\"The last {DAYS} days: {} taken, {failed} failed\">{months}{squares}</svg>",
        show::counted(taken, "backup", "backups"),
    ))
}

/// What the script draws: days, stored bytes and seconds.
fn chart(days: &[Day], now: DateTime<Utc>) -> String {
    let (mut at, mut bytes, mut seconds) = (Vec::new(), Vec::new(), Vec::new());
    for (date, day) in every_day(days, now) {
        at.push(date.and_time(chrono::NaiveTime::MIN).and_utc().timestamp());
        bytes.push(day.map(|day| day.bytes));
        seconds.push(day.and_then(|day| day.seconds));
    }
    json!({ "at": at, "bytes": bytes, "seconds": seconds }).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_calendar_has_a_square_for_each_of_ninety_days() {
        let now: DateTime<Utc> = "2026-11-21T12:00:00Z".parse().unwrap();
        let day = |date: &str, completed, failed| Day {
            day: date.parse().unwrap(),
            completed,
            failed,
            bytes: 10,
            seconds: Some(1.5),
        };
        let days = [day("2026-11-20", 4, 0), day("2026-11-21", 1, 1), day("2026-01-01", 9, 0)];
        let shown = calendar(&days, now).to_string();
        assert_eq!(shown.matches("<rect").count(), 90);
        assert!(
            shown.contains("2026-11-21: 1 backup, 1 failed") && shown.contains("5 backups taken, 1 failed"),
            "{shown}"
        );
        let chart: serde_json::Value = serde_json::from_str(&chart(&days, now)).unwrap();
        assert_eq!(
            (chart["at"].as_array().unwrap().len(), &chart["bytes"][89], &chart["seconds"][87]),
            (90, &json!(10), &json!(null))
        );
    }
}
