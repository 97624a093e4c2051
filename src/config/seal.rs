use std::path::PathBuf;

crate::artifact::words! {
    /// Which backups may be restored although their manifest has no seal.
    Unsealed, "rule for unsealed backups" {
        /// Those that were made before this installation got its key.
        Older = "older",
        Always = "always",
        Never = "never",
    }
}

super::section! {
    /// The key that seals manifests: a signature over a backup's identity, sizes, digests and content, without which nothing is restored.
    SealConfig, "seal" {
        /// The file with the Ed25519 private key in PEM; the public keys behind it are accepted as well. Every process on one control plane
        /// needs the same. Default: `seal.key` below the data directory, made at the first start out of the secrets key.
        key_file: Option<PathBuf> = None;
        /// Public keys of other installations whose backups are trusted, each as one line (`MCowBQYDK2VwAyEA…`), as `holdfast key seal`
        /// prints it. Default: none.
        accepted_keys: Vec<String> = Vec::new();
        /// Which backups are read although nothing proves who wrote their manifest: `older` (than this installation's key, when the history
        /// has them), `always` or `never`. A seal that is there and broken is never accepted. Default: `older`.
        unsealed: Unsealed = Unsealed::Older;
    }
}
