use std::path::PathBuf;

super::section! {
    /// PostgreSQL's programs.
    ToolsConfig, "tools" {
        /// Directories searched for `pg_dump`, `psql`, `initdb` and the others before `PATH`, `/usr/lib/postgresql/*/bin`,
        /// `/usr/bin` and `/usr/local/bin`. Default: none.
        directories: Vec<PathBuf> = Vec::new();
    }
}
