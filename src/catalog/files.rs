//! Where a project's files are. Set by operators only; no secrets are in the row.

use std::path::{Component, Path};

use serde::{Deserialize, Serialize};
use sqlx::PgExecutor;

use super::CatalogError;

/// Where a project's files are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(untagged, expecting = "name a `directory`, or a `storage` and a `prefix`, and nothing else")]
pub enum FileSource {
    Directory(DirectorySource),
    Prefix(PrefixSource),
}

/// A directory of the machine on which the workers run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DirectorySource {
    /// Absolute, without `.`, `..` and a slash at its end.
    #[schema(example = "/srv/acme")]
    pub directory: String,
}

/// What lies below a prefix in a bucket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PrefixSource {
    /// A storage of type `s3`, whose bucket and keys are used.
    #[schema(example = "s3-main")]
    pub storage: String,
    /// From the beginning of the bucket, without a slash at either end.
    #[schema(example = "uploads/acme")]
    pub prefix: String,
}

impl FileSource {
    /// What is wrong with it by itself; whether the directory or bucket is there is for others to say.
    pub fn fault(&self) -> Option<String> {
        match self {
            Self::Directory(source) => directory_fault(&source.directory),
            Self::Prefix(source) => prefix_fault(source),
        }
    }

    /// Whether one holds the other, so that a restore of one would replace files of the other.
    pub fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Directory(a), Self::Directory(b)) => {
                let (a, b) = (Path::new(&a.directory), Path::new(&b.directory));
                a.starts_with(b) || b.starts_with(a)
            }
            (Self::Prefix(a), Self::Prefix(b)) => {
                let (one, two) = (format!("{}/", a.prefix), format!("{}/", b.prefix));
                // Two storages may be two names of one bucket: to be sure, any two are taken for that.
                one.starts_with(&two) || two.starts_with(&one)
            }
            (Self::Directory(_), Self::Prefix(_)) | (Self::Prefix(_), Self::Directory(_)) => false,
        }
    }
}

impl std::fmt::Display for FileSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Directory(source) => write!(f, "directory {:?}", source.directory),
            Self::Prefix(source) => {
                write!(f, "prefix {:?} in the bucket of storage {:?}", source.prefix, source.storage)
            }
        }
    }
}

fn directory_fault(directory: &str) -> Option<String> {
    let path = Path::new(directory);
    if directory.chars().any(char::is_control) {
        return Some("a directory's name has no control characters".to_owned());
    }
    if !path.is_absolute() {
        return Some("a directory is named from the root: it begins with a slash".to_owned());
    }
    let mut components = path.components().skip(1).peekable();
    if components.peek().is_none() {
        return Some("the root of all files is no project's".to_owned());
    }
    // Components leave out `.`, doubled slashes and one at the end: what they make again is the name itself, or it was not plain.
    let plain: std::path::PathBuf = path.components().collect();
    if path.components().any(|c| c == Component::ParentDir) || plain.as_os_str() != path.as_os_str() {
        return Some("write the directory plainly, without '.', '..', doubled slashes or one at its end".to_owned());
    }
    (directory.len() > 4096).then(|| "a directory's name has at most 4096 bytes".to_owned())
}

fn prefix_fault(source: &PrefixSource) -> Option<String> {
    if source.prefix.is_empty() || source.prefix.parse::<crate::artifact::ArtifactName>().is_err() {
        return Some("write the prefix like team/uploads, without a slash at either end".to_owned());
    }
    (source.prefix.len() > 800).then(|| "a prefix has at most 800 bytes".to_owned())
}

/// Where a project's files are; `None` when it has none. The right to the project is the caller's business: take the id from a project that
/// was found through a scope.
pub async fn files(executor: impl PgExecutor<'_>, project_id: &str) -> Result<Option<FileSource>, CatalogError> {
    let value = sqlx::query_scalar!("SELECT files FROM control_plane.projects WHERE id = $1", project_id)
        .fetch_optional(executor)
        .await?
        .ok_or_else(|| CatalogError::NoSuchProject(project_id.to_owned()))?;
    value.map(read).transpose()
}

/// Says where a project's files are, unchecked: `jobs::request::set_files` is what checks.
pub async fn set_files(
    executor: impl PgExecutor<'_>,
    project_id: &str,
    files: Option<&FileSource>,
) -> Result<(), CatalogError> {
    let value =
        files.map(|files| serde_json::to_value(files).map_err(|e| sqlx::Error::Encode(e.into()))).transpose()?;
    let done = sqlx::query!(
        "UPDATE control_plane.projects SET files = $2, updated_at = now() WHERE id = $1",
        project_id,
        value
    )
    .execute(executor)
    .await?;
    if done.rows_affected() == 0 { Err(CatalogError::NoSuchProject(project_id.to_owned())) } else { Ok(()) }
}

/// Every project that has files, and where they are.
pub async fn all_files(executor: impl PgExecutor<'_>) -> Result<Vec<(String, FileSource)>, CatalogError> {
    let rows =
        sqlx::query!(r#"SELECT id, files AS "files!" FROM control_plane.projects WHERE files IS NOT NULL ORDER BY id"#)
            .fetch_all(executor)
            .await?;
    rows.into_iter().map(|row| Ok((row.id, read(row.files)?))).collect()
}

fn read(value: serde_json::Value) -> Result<FileSource, CatalogError> {
    serde_json::from_value(value).map_err(|error| CatalogError::Database(sqlx::Error::Decode(error.into())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(directory: &str) -> FileSource {
        FileSource::Directory(DirectorySource { directory: directory.to_owned() })
    }

    fn prefix(prefix: &str) -> FileSource {
        FileSource::Prefix(PrefixSource { storage: "s3".to_owned(), prefix: prefix.to_owned() })
    }

    #[test]
    fn only_plain_absolute_directories_are_taken() {
        for good in ["/srv/acme", "/srv/Straße & Co", "/a"] {
            assert_eq!(directory(good).fault(), None, "{good}");
        }
        for bad in ["", "srv", "/", "//", "/srv/../etc", "/srv/./a", "/srv//a", "/srv/a/", "/srv/a\n", "/srv/a\0", ".."]
        {
            assert!(directory(bad).fault().is_some(), "{bad:?}");
        }
    }

    #[test]
    fn only_plain_prefixes_are_taken() {
        assert_eq!(prefix("uploads/acme").fault(), None);
        for bad in ["", "/a", "a/", "a/../b", "a//b", "..", &"x/".repeat(500)] {
            assert!(prefix(bad).fault().is_some(), "{bad:?}");
        }
    }

    #[test]
    fn what_holds_the_other_overlaps_and_a_longer_name_does_not() {
        assert!(directory("/srv/a").overlaps(&directory("/srv/a/b")));
        assert!(directory("/srv/a/b").overlaps(&directory("/srv/a")));
        assert!(!directory("/srv/a").overlaps(&directory("/srv/ab")));
        assert!(prefix("a").overlaps(&prefix("a/b")));
        assert!(!prefix("a").overlaps(&prefix("ab")));
    }

    #[test]
    fn its_json_tells_the_kind_by_its_members() {
        for (json, expected) in [
            (serde_json::json!({ "directory": "/srv/a" }), directory("/srv/a")),
            (serde_json::json!({ "storage": "s3", "prefix": "a" }), prefix("a")),
        ] {
            assert_eq!(serde_json::from_value::<FileSource>(json.clone()).unwrap(), expected);
            assert_eq!(serde_json::to_value(expected).unwrap(), json);
        }
        let both = serde_json::json!({ "directory": "/srv/a", "prefix": "a" });
        assert!(serde_json::from_value::<FileSource>(both).is_err());
    }
}
