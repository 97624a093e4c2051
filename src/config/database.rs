use std::path::PathBuf;

use super::Secret;

super::section! {
    /// The control plane: the database that holds Holdfast's own tables and, unless a project says otherwise, the tenants.
    /// Without a URL, `serve` and the other commands use an embedded PostgreSQL below the data directory.
    DatabaseConfig, "database" {
        /// `postgres://USER:PASSWORD@HOST:PORT/DATABASE`. Can also be given in pieces, as `DATABASE_HOST`, `DATABASE_PORT`,
        /// `DATABASE_NAME`, `DATABASE_USER` and `DATABASE_PASSWORD`. Default: the embedded PostgreSQL.
        ["DATABASE_URL"]
        url: Option<Secret> = None;
        /// A file that holds the URL.
        url_file: Option<PathBuf> = None;
        /// Largest number of connections to the control plane. Default: 10.
        max_connections: u32 = 10;
    }
}
