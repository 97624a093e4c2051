//! Random expressions in zones with all kinds of changes, against a reading of their own: minute by minute, without a library.

use std::collections::BTreeSet;

use chrono::{DateTime, Duration, Utc};
use holdfast::cron::{Cron, Zone};
use proptest::prelude::*;

use super::at;

const ZONES: &[&str] =
    &["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "Africa/Casablanca"];

/// One field as a text and as the values it means.
#[derive(Clone, Debug)]
struct Field {
    text: String,
    values: BTreeSet<i8>,
    is_star: bool,
}

fn field(low: i8, high: i8) -> impl Strategy<Value = Field> {
    let all = move || (low..=high).collect::<BTreeSet<i8>>();
    let star = Just(()).prop_map(move |()| Field { text: "*".to_owned(), values: all(), is_star: true });
    let steps = (2i8..20).prop_map(move |step| Field {
        text: format!("*/{step}"),
        values: (low..=high).step_by(step as usize).collect(),
        is_star: false,
    });
    let list = prop::collection::btree_set(low..=high, 1..4).prop_map(|values| Field {
        text: values.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
        values,
        is_star: false,
    });
    let range = (low..=high, low..=high).prop_map(|(a, b)| Field {
        text: format!("{}-{}", a.min(b), a.max(b)),
        values: (a.min(b)..=a.max(b)).collect(),
        is_star: false,
    });
    prop_oneof![2 => star, 1 => steps, 3 => list, 1 => range]
}

#[derive(Clone, Debug)]
struct Expression {
    minute: Field,
    hour: Field,
    day: Field,
    month: Field,
    weekday: Field,
}

impl Expression {
    fn text(&self) -> String {
        format!("{} {} {} {} {}", self.minute.text, self.hour.text, self.day.text, self.month.text, self.weekday.text)
    }

    /// Whether this minute on the wall clock is meant. Of day and weekday one is enough when both are restricted.
    fn means(&self, local: jiff::civil::DateTime) -> bool {
        let weekday = local.weekday().to_sunday_zero_offset();
        let (day, weekday) = (self.day.values.contains(&local.day()), self.weekday.values.contains(&weekday));
        let date = if self.day.is_star || self.weekday.is_star { day && weekday } else { day || weekday };
        date && self.month.values.contains(&local.month())
            && self.hour.values.contains(&local.hour())
            && self.minute.values.contains(&local.minute())
    }

    /// Its runs in a stretch of time, by looking at every minute.
    fn runs(&self, zone: &str, from: DateTime<Utc>, until: DateTime<Utc>) -> Vec<DateTime<Utc>> {
        let zone = jiff::tz::TimeZone::get(zone).unwrap();
        let local = |at: DateTime<Utc>| zone.to_datetime(jiff::Timestamp::from_second(at.timestamp()).unwrap());
        let is_fixed = !self.hour.text.starts_with('*');
        let (mut runs, mut at) = (BTreeSet::new(), from - Duration::hours(3));
        // The furthest that the wall clock has come.
        let mut furthest = local(at);
        while at < until {
            at += Duration::minutes(1);
            let now = local(at);
            if !is_fixed {
                if self.means(now) {
                    runs.insert(at);
                }
                continue;
            }
            // Every minute that the wall clock reaches for the first time counts, one that it jumps over too.
            let mut minute = furthest.checked_add(jiff::SignedDuration::from_mins(1)).unwrap();
            while minute <= now {
                if self.means(minute) {
                    runs.insert(at);
                }
                minute = minute.checked_add(jiff::SignedDuration::from_mins(1)).unwrap();
            }
            furthest = furthest.max(now);
        }
        runs.into_iter().filter(|run| *run > from && *run <= until).collect()
    }
}

fn any_expression() -> impl Strategy<Value = Expression> {
    (field(0, 59), field(0, 23), field(1, 31), field(1, 12), field(0, 6))
        .prop_map(|(minute, hour, day, month, weekday)| Expression { minute, hour, day, month, weekday })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 120, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn next_runs_are_strictly_increasing_and_the_ones_that_the_expression_means(
        expression in any_expression(), zone in prop::sample::select(ZONES), change in 0usize..6, minutes in 0i64..60 * 24 * 2,
    ) {
        // Two days before a change of the clocks somewhere.
        let around = ["2026-03-27T00:00:00Z", "2026-10-23T00:00:00Z", "2026-03-06T00:00:00Z", "2026-10-30T00:00:00Z", "2026-04-03T00:00:00Z", "2026-10-02T00:00:00Z"][change];
        let from = at(around) + Duration::minutes(minutes);
        let until = from + Duration::days(3);
        let cron = expression.text().parse::<Cron>();
        // The 31st of a short month: none of its dates is there.
        if let Err(error) = &cron {
            prop_assert!(error.to_string().contains("never runs") && expression.runs(zone, from, until).is_empty(), "{}", error);
            return Ok(());
        }
        let (cron, read): (Cron, Zone) = (cron.unwrap(), zone.parse().unwrap());
        let runs: Vec<DateTime<Utc>> =
            std::iter::successors(cron.next(&read, from), |last| cron.next(&read, *last)).take_while(|run| *run <= until).collect();
        prop_assert!(runs.windows(2).all(|pair| pair[0] < pair[1]), "{runs:?}");
        let meant = expression.runs(zone, from, until);
        let differs = runs.iter().zip(&meant).find(|(run, meant)| run != meant);
        prop_assert!(runs.len() == meant.len() && differs.is_none(), "{} in {} from {}: {} and {}, {:?}", expression.text(), zone, from, runs.len(), meant.len(), differs);
        // From anywhere between two runs the next one is the same.
        if let [first, second, ..] = runs[..] {
            prop_assert_eq!(cron.next(&read, first + (second - first) / 2), Some(second));
        }
        prop_assert_eq!(cron.newest(&read, from + Duration::seconds(1), until), runs.last().copied());
    }
}
