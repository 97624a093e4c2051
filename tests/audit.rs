//! The audit trail: every refusal is in it, nobody can fill it or learn from it, and a change to it is noticed.

mod chain;
mod reading;
mod refusals;

use crate::{api, support};
