//! Storages from the variables that platforms set already: each function fills in what the file left out, and makes the storage when the
//! file has none of its kind. An empty variable counts as not set.

use std::collections::BTreeMap;

use super::{ConfigError, S3StorageConfig, Secret, StorageConfig};

fn get(environment: &BTreeMap<String, String>, name: &str) -> Option<String> {
    environment.get(name).filter(|value| !value.is_empty()).cloned()
}

/// Adds a storage that no file names, under the name that its variables stand for.
fn add(
    storages: &mut BTreeMap<String, StorageConfig>,
    name: &str,
    variable: &str,
    storage: StorageConfig,
) -> Result<(), ConfigError> {
    match storages.get(name) {
        None => {
            storages.insert(name.to_owned(), storage);
            Ok(())
        }
        Some(_) => Err(ConfigError::Invalid(format!(
            "{variable} makes a storage named {name:?}, but [storages.{name}] is of another type: rename it, or unset {variable}"
        ))),
    }
}

/// `AWS_S3_BUCKET_NAME`, `AWS_REGION`, `AWS_S3_ACCESS_KEY`, `AWS_S3_SECRET_KEY`, `AWS_S3_ENDPOINT`: the storage `s3`.
pub(super) fn s3(
    storages: &mut BTreeMap<String, StorageConfig>,
    environment: &BTreeMap<String, String>,
) -> Result<(), ConfigError> {
    if let Some(bucket) = get(environment, "AWS_S3_BUCKET_NAME")
        && !storages.values().any(|storage| matches!(storage, StorageConfig::S3(_)))
    {
        let made =
            S3StorageConfig { bucket, endpoint: get(environment, "AWS_S3_ENDPOINT"), ..S3StorageConfig::default() };
        add(storages, "s3", "AWS_S3_BUCKET_NAME", StorageConfig::S3(Box::new(made)))?;
    }
    for storage in storages.values_mut() {
        let StorageConfig::S3(s3) = storage else { continue };
        if s3.region.is_none() {
            s3.region = get(environment, "AWS_REGION");
        }
        // Both or none: half of one key and half of another make no key.
        if s3.access_key.is_none() && s3.secret_key.is_none() {
            s3.access_key = get(environment, "AWS_S3_ACCESS_KEY").map(Secret::new);
            s3.secret_key = get(environment, "AWS_S3_SECRET_KEY").map(Secret::new);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, load};

    const AWS: [(&str, &str); 4] = [
        ("AWS_REGION", "eu-west-1"),
        ("AWS_S3_ACCESS_KEY", "AKIA-variable"),
        ("AWS_S3_SECRET_KEY", "canary"),
        ("AWS_S3_BUCKET_NAME", "from-variable"),
    ];

    fn config(text: &str, variables: &[(&str, &str)]) -> Result<Config, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let environment = variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        load(Some(file.path()), &environment).map_err(|error| error.to_string())
    }

    fn s3_of<'a>(config: &'a Config, name: &str) -> &'a S3StorageConfig {
        match &config.storages[name] {
            StorageConfig::S3(s3) => s3,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_variables_make_a_storage_beside_the_default_one() {
        let config = config("", &AWS).unwrap();
        assert_eq!(config.storages.keys().collect::<Vec<_>>(), ["local", "s3"]);
        let s3 = s3_of(&config, "s3");
        assert_eq!((s3.bucket.as_str(), s3.signing_region()), ("from-variable", "eu-west-1"));
        assert_eq!(s3.secret_key.as_ref().unwrap().expose(), "canary");
    }

    #[test]
    fn the_variables_make_a_storage_beside_the_files() {
        let text = "[storages.disk]\ntype = 'local'\nroot = '/srv/x'\n";
        let with_endpoint = [&AWS[..], &[("AWS_S3_ENDPOINT", "http://127.0.0.1:9000")]].concat();
        let config = config(text, &with_endpoint).unwrap();
        assert_eq!(config.storages.keys().collect::<Vec<_>>(), ["disk", "s3"]);
        assert_eq!(s3_of(&config, "s3").bucket_url().unwrap().0, "http://127.0.0.1:9000/from-variable");
    }

    #[test]
    fn a_files_storage_is_completed_and_never_overridden() {
        let config =
            config("[storages.x]\ntype = 's3'\nbucket = 'b'\n[storages.y]\ntype = 's3'\nbucket = 'c'\nregion = 'eu-north-1'\naccess_key = 'K'\nsecret_key = 'S'\npart_size = '8 MiB'\n", &AWS)
                .unwrap();
        assert_eq!(config.storages.len(), 2);
        let (x, y) = (s3_of(&config, "x"), s3_of(&config, "y"));
        assert_eq!((x.bucket.as_str(), x.signing_region()), ("b", "eu-west-1"));
        assert_eq!(x.access_key.as_ref().unwrap().expose(), "AKIA-variable");
        assert_eq!((y.signing_region(), y.access_key.as_ref().unwrap().expose()), ("eu-north-1", "K"));
        assert_eq!((y.secret_key.as_ref().unwrap().expose(), y.part_size.0), ("S", 8 << 20));
    }

    #[test]
    fn what_is_missing_or_taken_is_named() {
        let taken = config("[storages.s3]\ntype = 'local'\nroot = '/srv/x'\n", &AWS).unwrap_err();
        assert!(taken.contains("AWS_S3_BUCKET_NAME") && taken.contains("another type"), "{taken}");
        let missing = config("", &AWS[1..]).unwrap_err();
        assert!(missing.contains("storages.s3: region is missing"), "{missing}");
        let half =
            config("[storages.x]\ntype = 's3'\nbucket = 'b'\nregion = 'r'\naccess_key = 'K'\n", &AWS).unwrap_err();
        assert!(half.contains("storages.x: secret_key is missing"), "{half}");
        // The library's usual variables and files are not read.
        let others = [("AWS_ACCESS_KEY_ID", "AKIA"), ("AWS_SECRET_ACCESS_KEY", "canary")];
        let text = "[storages.x]\ntype = 's3'\nbucket = 'b'\nregion = 'r'\n";
        assert!(config(text, &others).unwrap_err().contains("access_key is missing"));
    }

    #[test]
    fn keys_can_come_from_files_but_not_twice() {
        let key = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(key.path(), "canary\n").unwrap();
        let text = |more: &str| {
            format!(
                "[storages.x]\ntype = 's3'\nbucket = 'b'\nregion = 'r'\naccess_key = 'K'\nsecret_key_file = '{}'\n{more}",
                key.path().display()
            )
        };
        let config_of = config(&text(""), &[]).unwrap();
        assert_eq!(s3_of(&config_of, "x").secret_key.as_ref().unwrap().expose(), "canary");
        let twice = config(&text("secret_key = 'canary'\n"), &[]).unwrap_err();
        assert!(twice.contains("both storages.x.secret_key and") && !twice.contains("canary"), "{twice}");
    }
}
