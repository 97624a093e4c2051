//! The request that a schedule makes for a project: one arm for each type of backup.

use crate::{
    artifact::{BackupType, Compression, Format},
    jobs::request::{Asked, Export, ExportLogs, ExportStorage},
};

/// What a schedule says of the backups that it takes.
#[derive(Clone, Debug)]
pub struct Wanted<'a> {
    pub backup_type: BackupType,
    pub format: Option<Format>,
    pub compression: Option<Compression>,
    pub storages: &'a [String],
}

impl Wanted<'_> {
    /// The request for a project.
    ///
    /// # Errors
    /// The format is none of this type's.
    pub fn request(&self, project_id: &str) -> Result<Asked, String> {
        match self.backup_type {
            BackupType::Database => Ok(Asked::Database(Export {
                project_id: project_id.to_owned(),
                format: self.format,
                compression: self.compression,
                storages: self.storages.to_vec(),
                ..Export::default()
            })),
            BackupType::Logs => Ok(Asked::Logs(ExportLogs {
                project_id: project_id.to_owned(),
                format: self.format,
                compression: self.compression,
                storages: self.storages.to_vec(),
                ..ExportLogs::default()
            })),
            BackupType::Storage => match self.format {
                None | Some(Format::Tar) => Ok(Asked::Storage(ExportStorage {
                    project_id: project_id.to_owned(),
                    compression: self.compression,
                    storages: self.storages.to_vec(),
                    ..ExportStorage::default()
                })),
                Some(other) => Err(format!("a project's files are archived as tar, not as {other}")),
            },
        }
    }
}
