//! Backups of a project's files: archived, stored, read back by GNU tar and by us, restored in place, undone; hostile trees and archives.

#[path = "files/bucket.rs"]
mod bucket;
#[path = "files/command_line.rs"]
mod command_line;
#[path = "files/hostile.rs"]
mod hostile;
#[path = "files/losses.rs"]
mod losses;
#[path = "files/moving.rs"]
mod moving;
#[path = "files/places.rs"]
mod places;
#[path = "files/round_trips.rs"]
mod round_trips;
#[path = "support/s3_server.rs"]
mod s3_server;
#[path = "files/scene.rs"]
mod scene;
mod support;
