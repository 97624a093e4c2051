use std::path::PathBuf;

super::section! {
    /// Backups of projects' files.
    FilesConfig, "files" {
        /// Directories below which a project's directory must lie, reached through no symbolic link. Default: none, so that an operator may
        /// name any directory but Holdfast's own.
        roots: Vec<PathBuf> = Vec::new();
    }
}
