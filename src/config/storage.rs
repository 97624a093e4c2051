//! Storages: `[storages.NAME]` with a `type`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// One configured storage.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum StorageConfig {
    Local(LocalStorageConfig),
}

/// A directory on this machine, or one that is mounted here.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LocalStorageConfig {
    /// The directory below which artifacts are kept. Made when missing.
    pub root: PathBuf,
}
