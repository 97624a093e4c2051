//! Dumps of a real server by a real `pg_dump`, their proof, and their failures.

mod catalog;
mod content;
mod database;
mod failures;
mod names;
mod partial;
mod tools;

use crate::support;
