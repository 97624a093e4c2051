//! Dumps of a real server by a real `pg_dump`, their proof, and their failures.

mod catalog;
mod content;
mod database;
mod failures;
mod names;
mod partial;
#[path = "../support/mod.rs"]
mod support;
mod tools;
