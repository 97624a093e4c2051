//! The jobs: a queue on `control_plane.jobs`, and one file for each thing that a worker can do.

pub mod apply_retention;
pub mod audit_chain;
pub mod authentic;
pub mod catalog;
pub mod census;
pub mod content;
pub mod context;
mod copies;
pub mod delete_backup;
pub mod drop_replaced;
mod ending;
pub mod export_backup;
pub mod import_backup;
pub mod import_files;
mod names;
pub mod queue;
pub mod repair_copies;
pub mod request;
pub mod restore_backup;
mod restore_files;
mod sources;
pub mod trial_restore;
mod try_import;
pub mod undo_restore;
pub mod verify_backup;
mod verify_files;
pub mod worker;

pub use crate::job_type::{JobType, KNOWN_TYPES};
