//! Backups of a project's files: archived, stored, read back by GNU tar and by us, restored in place, undone; hostile trees and archives.

mod bucket;
mod command_line;
mod hostile;
mod losses;
mod moving;
mod places;
mod round_trips;
pub mod scene;

use crate::support::{self, s3_server};
