use std::path::PathBuf;

super::section! {
    /// The key that encrypts what the control plane keeps secret, such as the URLs of projects' databases.
    SecretsConfig, "secrets" {
        /// A file with 64 hexadecimal digits. Every process on one control plane needs the same. Default: `secrets.key` below the
        /// data directory, made at the first start.
        key_file: Option<PathBuf> = None;
    }
}
