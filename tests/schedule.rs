//! Schedules: what an expression means, who is covered, and that every slot runs once whatever the processes' number and timing.

mod by_the_clock;
mod calls;
mod clockwork;
mod expressions;
mod program;
mod stale;

use crate::{api, support};

use chrono::{DateTime, Utc};

fn at(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}
