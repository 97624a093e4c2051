//! What a file is called in the storage. Its name comes from outside and is hostile: it must not leave its project's directory, pass for a
//! manifest, or be longer than storages take.

use crate::{
    artifact::{ArtifactName, Encryption, MANIFEST_SUFFIX},
    ids::{BackupId, ProjectId},
};

/// The longest name that is kept, in bytes: with an id, `.age` and the manifest's suffix it stays below the 255 of a file system, and its
/// stem below the 64 characters that Telegram shows.
const MAX_STEM: usize = 60;
const MAX_EXTENSION: usize = 20;

/// Whether the name says which backup it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unique {
    /// As given, as long as nothing has it.
    AsGiven,
    /// With the backup's short id: nothing else has it.
    ById,
}

/// `backups/{project_id}/{cleaned filename}`, with `-{short id}` before the extensions where asked, and `.age` when encrypted.
pub(super) fn artifact_name(
    project: &ProjectId,
    filename: &str,
    backup: BackupId,
    unique: Unique,
    encryption: Encryption,
) -> Option<ArtifactName> {
    let (stem, extension) = clean(filename);
    let id = match unique {
        Unique::AsGiven => String::new(),
        Unique::ById => format!("-{}", backup.short()),
    };
    let end = match encryption {
        Encryption::None => "",
        Encryption::Age => ".age",
    };
    let mut name = format!("backups/{project}/{stem}{id}{extension}{end}");
    if name.ends_with(MANIFEST_SUFFIX) {
        // Only Holdfast writes manifests: a catalogue is rebuilt from what looks like one.
        name.push_str(".file");
    }
    name.parse().ok()
}

/// Stem and extension (with its dot) of the last component, with letters, digits and `.`, `_`, `-` alone.
fn clean(filename: &str) -> (String, String) {
    let last = filename.rsplit(['/', '\\']).next().unwrap_or_default();
    let safe: String =
        last.chars().map(|c| if c.is_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '_' }).collect();
    let safe = safe.trim_matches(['.', '-']);
    // `acme.sql.gz` is `acme` and `.sql.gz`.
    let dot = safe.find('.').unwrap_or(safe.len());
    let (mut stem, mut extension) = safe.split_at(dot);
    if extension.len() > MAX_EXTENSION {
        let last_dot = safe.rfind('.').unwrap_or(safe.len());
        (stem, extension) = safe.split_at(last_dot);
        if extension.len() > MAX_EXTENSION {
            extension = "";
        }
    }
    let end = (0..=MAX_STEM.min(stem.len())).rev().find(|end| stem.is_char_boundary(*end)).unwrap_or(0);
    let stem = &stem[..end];
    (if stem.is_empty() { "file".to_owned() } else { stem.to_owned() }, extension.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(filename: &str, unique: Unique, encryption: Encryption) -> String {
        let backup = BackupId("018f2b3c-0000-7000-8000-0123456789ab".parse().unwrap());
        let name = artifact_name(&"acme".parse().unwrap(), filename, backup, unique, encryption);
        name.unwrap_or_else(|| panic!("{filename:?} has no name")).to_string()
    }

    #[test]
    fn a_name_keeps_what_is_safe_of_the_filename() {
        let given = |filename: &str| name(filename, Unique::AsGiven, Encryption::None);
        assert_eq!(given("acme.sql.gz"), "backups/acme/acme.sql.gz");
        assert_eq!(given("nightly dump (2).sql"), "backups/acme/nightly_dump__2_.sql");
        assert_eq!(given("Übersicht.tar"), "backups/acme/Übersicht.tar");
        assert_eq!(given("plain"), "backups/acme/plain");
    }

    #[test]
    fn a_hostile_filename_stays_in_its_projects_directory() {
        for hostile in [
            "",
            "..",
            "../../etc/passwd",
            "a/../../b",
            "..\\..\\b",
            "/etc/passwd",
            ".",
            "...",
            "a\0b",
            "a\nb",
            "\u{202e}gpj.sql",
            "C:\\x",
            ".hidden",
            "-rf",
            &"x".repeat(5000),
            &"ü".repeat(5000),
            &format!("a.{}", "y".repeat(5000)),
        ] {
            for unique in [Unique::AsGiven, Unique::ById] {
                let name = name(hostile, unique, Encryption::Age);
                let file = name.strip_prefix("backups/acme/").unwrap_or_else(|| panic!("{hostile:?} became {name:?}"));
                assert!(
                    !file.contains('/') && !file.starts_with(['.', '-']) && file.len() < 200,
                    "{hostile:?} became {name:?}"
                );
                assert!(name.parse::<ArtifactName>().is_ok());
                assert!(format!("{file}{MANIFEST_SUFFIX}").len() <= 255);
            }
        }
    }

    #[test]
    fn no_file_passes_for_a_manifest() {
        for filename in ["dump.sql.manifest.json", ".manifest.json", "x.manifest.json"] {
            for unique in [Unique::AsGiven, Unique::ById] {
                for encryption in [Encryption::None, Encryption::Age] {
                    assert!(!name(filename, unique, encryption).ends_with(MANIFEST_SUFFIX), "{filename}");
                }
            }
        }
    }

    #[test]
    fn an_id_makes_a_name_unique_and_keeps_its_extensions() {
        assert_eq!(name("acme.sql.gz", Unique::ById, Encryption::None), "backups/acme/acme-0123456789ab.sql.gz");
        assert_eq!(name("acme.sql", Unique::ById, Encryption::Age), "backups/acme/acme-0123456789ab.sql.age");
    }
}
