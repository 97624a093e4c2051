use std::path::PathBuf;

use super::Secret;

super::section! {
    /// Who may call the API: JSON Web Tokens, signed with HS256.
    AuthConfig, "auth" {
        /// The signing secret, 32 bytes or more. Default: made at the first start, in `jwt.secret` below the data directory.
        ["HOLDFAST_JWT_SECRET"]
        jwt_secret: Option<Secret> = None;
        /// A file that holds the signing secret.
        ["HOLDFAST_JWT_SECRET_FILE"]
        jwt_secret_file: Option<PathBuf> = None;
        /// The `iss` that tokens must carry. Default: `holdfast`.
        issuer: String = "holdfast".to_owned();
        /// The `aud` that tokens must carry. Default: `holdfast`.
        audience: String = "holdfast".to_owned();
        /// Clock difference allowed when `exp` is checked, in seconds. Default: 30.
        leeway_seconds: u64 = 30;
    }
}
