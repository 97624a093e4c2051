//! Holdfast backs up PostgreSQL platforms that keep each tenant in its own schema: one tenant at a time, taken, kept, proved
//! and restored.
//!
//! Bytes travel one way:
//!
//! ```text
//!            source                transform: a stack of writers                 storage: an upload of parts         record
//! backup   pg_dump ─► size, sha256 ─► compress ─► age ─► size, sha256 ─►│pipe│─► Upload::put … ─► commit ─► Locator ─► history
//! restore  target  ◄─ compare ◄──── decompress ◄─ age ◄─ compare ◄──────│pipe│◄─ open(Locator) ◄──────────────────── history
//! ```
//!
//! `ARCHITECTURE.md` has the map of the modules; `tests/architecture.rs` holds the arrows between them.

#![deny(unsafe_code)]

pub mod app;
pub mod artifact;
pub mod auth;
pub mod byte_size;
pub mod catalog;
pub mod child;
pub mod cli;
pub mod clock;
pub mod config;
pub mod cron;
pub mod db;
pub mod demo;
pub mod history;
pub mod http;
pub mod ids;
pub mod integration;
pub mod job_type;
pub mod jobs;
pub mod keyring;
pub mod keys;
pub mod logging;
pub mod manage;
pub mod manifest;
pub mod metrics;
pub mod notice;
pub mod notify;
pub mod outgoing;
pub mod people;
pub mod pipeline;
pub mod postgres;
pub mod proof;
pub mod proof_record;
pub mod report;
pub mod restore;
pub mod retention;
pub mod schedule;
pub mod source;
pub mod storage;
pub mod telemetry;
pub mod tell;
pub mod tenant;
pub mod transform;
