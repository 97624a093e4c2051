use std::path::PathBuf;

use crate::artifact::Sha256Digest;

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
        /// Which backups are read although nothing proves who wrote their manifest: `older` (than this installation's key, by the time that the
        /// history and the manifest say; none, where the key is as old as the installation), `always` or `never`. A seal that is there and
        /// broken is never accepted. Default: `older`.
        unsealed: Unsealed = Unsealed::Older;
        /// SHA-256 of manifests without a seal that are read whatever `unsealed` says, as `sha256sum` prints it: with `unsealed = "never"` these
        /// backups and no others. Default: none.
        unsealed_manifests: Vec<Sha256Digest> = Vec::new();
    }
}
