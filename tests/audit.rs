//! The audit trail: every refusal is in it, nobody can fill it or learn from it, and a change to it is noticed.

mod api;
#[path = "audit/chain.rs"]
mod chain;
#[path = "audit/reading.rs"]
mod reading;
#[path = "audit/refusals.rs"]
mod refusals;
mod support;
