//! Schedules: what an expression means, who is covered, and that every slot runs once whatever the processes' number and timing.

mod api;
#[path = "schedule/calls.rs"]
mod calls;
#[path = "schedule/clockwork.rs"]
mod clockwork;
#[path = "schedule/expressions.rs"]
mod expressions;
#[path = "schedule/program.rs"]
mod program;
#[path = "schedule/stale.rs"]
mod stale;
mod support;

use chrono::{DateTime, Utc};

fn at(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}
