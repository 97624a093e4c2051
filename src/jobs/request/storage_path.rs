//! Where in a storage a backup goes, when the request says so: a template below the storage's own prefix.
//!
//! What always holds: the name cannot leave the prefix, is no temporary or reserved name of a storage, and is the backup's own: it ends with
//! the backup's short id and the extension of its encoding, whatever the template says, so that nothing is ever overwritten.

use crate::{
    artifact::{ArtifactName, Encoding, Format},
    clock::Timestamp,
    ids::{BackupId, ProjectId},
};

/// Longest name that comes of a template, in bytes: an object's key has at most 1024 with the storage's prefix and the manifest's suffix.
const MAX_NAME: usize = 512;

/// Longest component of it: a file's name has at most 255 with the manifest's suffix.
const MAX_COMPONENT: usize = 200;

/// First component of the names that are made without a template. Below it a project has its own directory.
const DEFAULT_ROOT: &str = "backups";

/// The name that a template comes to, or what is wrong with it. `{project_id}`, `{timestamp}` (UTC, `2026-11-21-020000`) and `{format}` (`sql`,
/// `tar` or `custom`) stand for their values; a `.{format}` at the end for the extension, which is added otherwise.
pub(super) fn name(
    template: &str,
    project: &ProjectId,
    backup: BackupId,
    created: Timestamp,
    encoding: &Encoding,
) -> Result<ArtifactName, String> {
    let stem = template.strip_suffix(".{format}").unwrap_or(template);
    let format = encoding.format.map_or("file", Format::as_str);
    let stem = stem
        .replace("{project_id}", project.as_str())
        .replace("{timestamp}", &created.format("%Y-%m-%d-%H%M%S").to_string())
        .replace("{format}", format);
    let is_usual = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '=' | '+' | '@');
    if let Some(wrong) = stem.chars().find(|c| *c != '/' && !is_usual(*c)) {
        return Err(match wrong {
            '{' | '}' => "has a placeholder other than {project_id}, {timestamp} and {format}".to_owned(),
            wrong => format!("has {wrong:?}: use letters, digits, '/', '.', '_', '-', '=', '+' and '@'"),
        });
    }
    let components: Vec<&str> = stem.split('/').collect();
    for component in &components {
        if component.is_empty() {
            return Err("begins or ends with '/', or has an empty component".to_owned());
        }
        if component.starts_with('.') {
            return Err("has a component that begins with '.'".to_owned());
        }
    }
    let name = format!("{stem}-{}.{}", backup.short(), encoding.extension());
    if name.len() > MAX_NAME || name.split('/').any(|component| component.len() > MAX_COMPONENT) {
        return Err(format!("is too long: at most {MAX_COMPONENT} bytes a component, {MAX_NAME} in all"));
    }
    if components[0].eq_ignore_ascii_case(DEFAULT_ROOT)
        && (components[0] != DEFAULT_ROOT || components.len() < 3 || components[1] != project.as_str())
    {
        return Err(format!(
            "begins with {DEFAULT_ROOT}/, where each project has a directory of its own: go on with {{project_id}}/"
        ));
    }
    name.parse().map_err(|error: crate::artifact::InvalidArtifactName| format!("comes to no name: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artifact::{Compression, Encryption};

    const SQL: Encoding =
        Encoding { format: Some(Format::Sql), compression: Compression::Gzip, encryption: Encryption::Age };

    fn named(template: &str) -> Result<String, String> {
        let (project, backup) = ("acme".parse().unwrap(), "0199c5f0-7c1e-7d2a-9d5c-0123456789ab".parse().unwrap());
        let created = "2026-11-21T02:00:00Z".parse().unwrap();
        name(template, &project, backup, created, &SQL).map(|name| name.to_string())
    }

    #[test]
    fn a_template_names_project_time_and_format_and_the_name_is_the_backups_own() {
        for (template, expected) in [
            ("nightly/{project_id}/{timestamp}.{format}", "nightly/acme/2026-11-21-020000-0123456789ab.sql.gz.age"),
            ("{format}/db", "sql/db-0123456789ab.sql.gz.age"),
            ("db", "db-0123456789ab.sql.gz.age"),
            ("a=b/c+d@e.f_g/x.sql.gz", "a=b/c+d@e.f_g/x.sql.gz-0123456789ab.sql.gz.age"),
            ("backups/{project_id}/x", "backups/acme/x-0123456789ab.sql.gz.age"),
            ("{project_id}{project_id}", "acmeacme-0123456789ab.sql.gz.age"),
        ] {
            assert_eq!(named(template).as_deref(), Ok(expected), "{template}");
        }
    }

    #[test]
    fn what_would_leave_the_prefix_or_meet_another_is_refused() {
        let (long, endless) = ("x".repeat(255), "x/".repeat(600) + "x");
        for template in [
            "",
            "/",
            "/etc/passwd",
            "a//b",
            "a/",
            "..",
            "../x",
            "a/../../x",
            "a/./x",
            "a/.x",
            ".{format}",
            ".holdfast-storage",
            "..\\x",
            "a\\..\\x",
            "C:x",
            "a\0b",
            "a\nb",
            "a b",
            "%2e%2e/x",
            "..%2fx",
            "a%00b",
            "ü",
            "．．/x",
            "{tenant}",
            "{project_id",
            "{{project_id}}",
            "backups",
            "backups/x",
            "backups/globex/x",
            "backups/acme",
            "Backups/acme/x",
            "~",
            "$HOME/x",
            &long,
            &endless,
        ] {
            assert!(named(template).is_err(), "{template:?} became {:?}", named(template));
        }
    }
}
