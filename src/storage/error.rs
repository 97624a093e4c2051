//! What can go wrong with a storage: a kind to branch on, the context in words, the source.

use std::{error::Error as StdError, fmt, time::Duration};

/// What a caller can do about it: the kind decides whether a retry can help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The object is not there.
    NotFound,
    /// The final name is already taken.
    Exists,
    /// The key, token or file mode does not allow it.
    Denied,
    /// No space, or a quota is used up.
    Full,
    /// The part or the artifact is larger than the storage takes.
    TooLarge,
    /// The storage asked to slow down.
    Throttled { retry_after: Option<Duration> },
    /// Not reached, or it answered with a fault of its own.
    Unavailable,
    /// What came back is not what was stored.
    Corrupt,
    /// The request itself is wrong (a locator of another storage, a path outside the root).
    Invalid,
}

impl ErrorKind {
    /// How long the storage asked to be left alone.
    pub const fn retry_after(self) -> Option<Duration> {
        match self {
            Self::Throttled { retry_after } => retry_after,
            _ => None,
        }
    }

    /// A stable word for logs, answers and metrics: `storage.denied`.
    pub const fn code(self) -> &'static str {
        match self {
            Self::NotFound => "storage.not_found",
            Self::Exists => "storage.exists",
            Self::Denied => "storage.denied",
            Self::Full => "storage.full",
            Self::TooLarge => "storage.too_large",
            Self::Throttled { .. } => "storage.throttled",
            Self::Unavailable => "storage.unavailable",
            Self::Corrupt => "storage.corrupt",
            Self::Invalid => "storage.invalid",
        }
    }

    /// Whether the same request may succeed later without anyone's help.
    pub const fn may_pass(self) -> bool {
        match self {
            Self::Throttled { .. } | Self::Unavailable => true,
            Self::NotFound
            | Self::Exists
            | Self::Denied
            | Self::Full
            | Self::TooLarge
            | Self::Corrupt
            | Self::Invalid => false,
        }
    }
}

/// An error of a storage. `Display` gives the context and what the source said, in one line; `{:#}` adds the hint, for places that show
/// one text only.
#[derive(Debug)]
pub struct Error {
    pub kind: ErrorKind,
    context: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
    hint: Option<String>,
}

impl Error {
    pub fn new(kind: ErrorKind, context: impl Into<String>) -> Self {
        Self { kind, context: context.into(), source: None, hint: None }
    }

    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Adds what its reader can do about it: a sentence.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// What its reader can do about it, where that is known.
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// Classifies an error of the file system.
    pub fn from_io(context: impl Into<String>, source: std::io::Error) -> Self {
        use std::io::ErrorKind as Io;
        let kind = match source.kind() {
            Io::NotFound => ErrorKind::NotFound,
            Io::AlreadyExists => ErrorKind::Exists,
            Io::PermissionDenied | Io::ReadOnlyFilesystem => ErrorKind::Denied,
            Io::StorageFull | Io::QuotaExceeded => ErrorKind::Full,
            Io::FileTooLarge => ErrorKind::TooLarge,
            _ => ErrorKind::Unavailable,
        };
        Self::new(kind, context).with_source(source)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.context)?;
        let reason = match self.kind {
            ErrorKind::NotFound => "not found",
            ErrorKind::Exists => "already exists",
            ErrorKind::Denied => "access denied",
            ErrorKind::Full => "no space",
            ErrorKind::TooLarge => "too large",
            ErrorKind::Throttled { .. } => "asked to slow down",
            ErrorKind::Unavailable => "unavailable",
            ErrorKind::Corrupt => "corrupt",
            ErrorKind::Invalid => "invalid",
        };
        write!(f, ": {reason}")?;
        if let Some(source) = &self.source {
            write!(f, " ({source})")?;
        }
        match &self.hint {
            Some(hint) if f.alternate() => write!(f, ". {hint}"),
            _ => Ok(()),
        }
    }
}

impl StdError for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hint_is_shown_where_it_is_asked_for() {
        let error = Error::new(ErrorKind::Denied, "cannot write a").with_source("403").with_hint("Check the key.");
        assert_eq!(error.to_string(), "cannot write a: access denied (403)");
        assert_eq!(format!("{error:#}"), "cannot write a: access denied (403). Check the key.");
        assert_eq!(error.hint(), Some("Check the key."));
    }
}
