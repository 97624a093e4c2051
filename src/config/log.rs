use std::path::PathBuf;

crate::artifact::words! {
    /// How log lines are written.
    LogFormat, "log format" {
        Text = "text",
        Json = "json",
    }
}

super::section! {
    /// The log, on standard error and, where asked for, in a file.
    LogConfig, "log" {
        /// A level (`error`, `warn`, `info`, `debug`, `trace`) or a filter such as `info,holdfast::jobs=debug`. Default: `info`.
        level: String = "info".to_owned();
        /// `text` or `json`. Default: `text`.
        format: LogFormat = LogFormat::Text;
        /// A file that takes the same lines, without colours. It is opened again at SIGHUP, so that it can be rotated. Default: none.
        file: Option<PathBuf> = None;
    }
}
