//! Identifiers as types of their own: a [`BackupId`] does not fit where a [`JobId`] goes.
//! `FromStr` and `Display` round-trip.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A UUID-backed identifier. Version 7, so that ids sort by the time they were made.
macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, sqlx::Type, utoipa::ToSchema)]
        #[serde(transparent)]
        #[sqlx(transparent)]
        #[schema(value_type = Uuid)]
        pub struct $name(pub Uuid);

        impl $name {
            /// A fresh id, later than every id made before.
            pub fn generate() -> Self {
                Self(Uuid::now_v7())
            }

            /// Twelve hexadecimal digits from the random end of the id: short enough for a name,
            /// long enough not to collide within one project.
            pub fn short(&self) -> String {
                let text = self.0.simple().to_string();
                text[text.len() - 12..].to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Uuid::parse_str(text).map(Self)
            }
        }

        impl From<Uuid> for $name {
            fn from(id: Uuid) -> Self {
                Self(id)
            }
        }
    };
}

uuid_id!(
    /// One row of `control_plane.backups`.
    BackupId
);
uuid_id!(
    /// One row of `control_plane.jobs`.
    JobId
);
uuid_id!(
    /// One row of `control_plane.restores`.
    RestoreId
);
uuid_id!(
    /// The fencing token of one lease on one job: made when a worker claims it, never used again.
    LeaseToken
);

/// A project's id as the platform gave it: one row of `control_plane.projects`.
///
/// 1 to 128 characters of `A–Z a–z 0–9 . _ -`, beginning with a letter or digit, so that it is safe as one
/// component of a storage key.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, sqlx::Type, utoipa::ToSchema)]
#[serde(transparent)]
#[sqlx(transparent)]
#[schema(value_type = String, example = "acme")]
pub struct ProjectId(String);

/// Why a text is not a [`ProjectId`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "project id {0:?} is not valid: use 1 to 128 letters, digits, '.', '_' or '-', beginning with a letter or digit"
)]
pub struct InvalidProjectId(String);

/// The project that is the control plane itself: built in, for operators only.
pub const CONTROL_PLANE_PROJECT: &str = "holdfast-control-plane";

impl ProjectId {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ProjectId {
    type Err = InvalidProjectId;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let begins_well = text.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric);
        let only_safe = text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
        if begins_well && only_safe && text.len() <= 128 {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidProjectId(text.chars().take(140).collect()))
        }
    }
}

impl<'de> Deserialize<'de> for ProjectId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for ProjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ProjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ProjectId({})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_round_trip_through_text() {
        let id = BackupId::generate();
        assert_eq!(id.to_string().parse::<BackupId>().unwrap(), id);
        assert_eq!(id.short().len(), 12);
    }

    #[test]
    fn project_ids_that_could_leave_their_directory_are_refused() {
        for bad in ["", "..", ".hidden", "a/b", "a\\b", "-x", "a b", "a\0b", "ü", &"x".repeat(129)] {
            assert!(bad.parse::<ProjectId>().is_err(), "{bad:?}");
        }
        for good in ["acme", "0b7d8a52-6a7e-4c1f-9a55-3f8c9f3f4e11", "a.b_c-d", "7"] {
            assert_eq!(good.parse::<ProjectId>().unwrap().as_str(), good);
        }
    }
}
