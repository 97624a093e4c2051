use std::path::PathBuf;

super::section! {
    /// Encryption of artifacts with age, to one or more X25519 recipients. Taking a backup needs public keys only.
    EncryptionConfig, "encryption" {
        /// Whether artifacts are encrypted. Default: `true`.
        enabled: bool = true;
        /// Recipients (`age1…`). Default: the one of the key made at the first start.
        recipients: Vec<String> = Vec::new();
        /// The file with the identity (`AGE-SECRET-KEY-1…`), which reading and restoring need. Default: `age.key` below the
        /// data directory, made at the first start unless recipients are given.
        identity_file: Option<PathBuf> = None;
        /// Whether the API also gives out what a backup holds, decrypted here, to whoever may download it and asks for that. Default: `false`.
        decrypted_downloads: bool = false;
    }
}
