//! Settings as they are given through the API: a JSON object with a `type`, secrets in it. It is sealed as it is; what is shown of it has
//! `{"set": true}` in the place of every secret.

use std::{fmt, path::Component};

use secrecy::SecretString;
use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use serde_json::{Map, Value, json};

use crate::config::StorageConfig;

/// Fields that are secret, of whatever type of storage or channel.
const SECRETS: [&str; 5] = ["access_key", "secret_key", "session_token", "bot_token", "secret"];

/// Where a secret is sent, and which: who gives another place gives the secret again, or could have it sent to himself.
const SENT_TO: [(&str, &str); 2] = [("base_url", "bot_token"), ("url", "secret")];

/// Longest JSON text of settings, in bytes.
const MAX_BYTES: usize = 16 * 1024;

/// What is wrong with settings, and where. Never repeats a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingsFault {
    /// The field's name; empty for the whole.
    pub field: String,
    pub message: String,
}

impl SettingsFault {
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: field.into(), message: message.into() }
    }
}

impl fmt::Display for SettingsFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.field.as_str() {
            "" => write!(f, "settings: {}", self.message),
            field => write!(f, "settings.{field}: {}", self.message),
        }
    }
}

/// A JSON object with secrets in it. No `Serialize`, and `Debug` shows none of them.
#[derive(Clone, PartialEq)]
pub struct Settings(Map<String, Value>);

/// The settings of a storage, as `[storages.NAME]` has them.
pub type StorageSettings = Settings;

impl<'de> Deserialize<'de> for Settings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::Object(object) => Ok(Self(object)),
            // Not repeated: it may be a secret in the wrong place.
            _ => Err(serde::de::Error::custom("settings must be an object with a type")),
        }
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Settings({})", self.shown())
    }
}

impl utoipa::PartialSchema for Settings {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        use utoipa::openapi::schema::{ObjectBuilder, Type};
        ObjectBuilder::new()
            .schema_type(Type::Object)
            .property("type", ObjectBuilder::new().schema_type(Type::String))
            .required("type")
            .description(Some("The fields that docs/management.md and docs/config.md list for this `type`; unknown ones are refused. Secrets are written only: an answer has `{\"set\": true}` in their place."))
            .into()
    }
}

impl utoipa::ToSchema for Settings {}

impl Settings {
    /// The word for what it is, `s3` for instance; empty when it is missing.
    pub fn kind(&self) -> &str {
        self.0.get("type").and_then(Value::as_str).unwrap_or_default()
    }

    /// The text that is sealed.
    pub fn to_text(&self) -> SecretString {
        SecretString::from(Value::Object(self.0.clone()).to_string())
    }

    /// The names of the fields.
    pub fn field_names(&self) -> Vec<&str> {
        self.0.keys().map(String::as_str).collect()
    }

    /// What may be shown: everything but secrets.
    pub fn shown(&self) -> Value {
        let show = |(name, value): (&String, &Value)| {
            let shown = if SECRETS.contains(&name.as_str()) { json!({ "set": true }) } else { value.clone() };
            (name.clone(), shown)
        };
        Value::Object(self.0.iter().filter(|(_, value)| !value.is_null()).map(show).collect())
    }

    /// A configured storage as it may be shown. Its own serialization has no secret in it.
    pub fn shown_of(config: &StorageConfig) -> Value {
        match serde_json::to_value(config) {
            Ok(Value::Object(object)) => Self(object).shown(),
            Ok(_) | Err(_) => Value::Null,
        }
    }

    /// These settings with some that are given anew; `null` takes one out, which brings its default back.
    ///
    /// # Errors
    /// The type is another, or a secret would be sent to another place than the one that it was given for.
    pub fn changed_by(&self, changes: &Self) -> Result<Self, SettingsFault> {
        let mut changed = self.0.clone();
        for (name, value) in &changes.0 {
            if name == "type" && value.as_str() != Some(self.kind()) {
                return Err(SettingsFault::new("type", format!("it is {} and stays so", self.kind())));
            }
            if value.is_null() {
                changed.remove(name)
            } else {
                changed.insert(name.clone(), value.clone())
            };
        }
        for (place, secret) in SENT_TO {
            let moves = changed.get(place) != self.0.get(place);
            if moves && self.0.contains_key(secret) && !changes.0.contains_key(secret) {
                return Err(SettingsFault::new(secret, format!("give it again together with another {place}")));
            }
        }
        Ok(Self(changed))
    }

    /// Reads the storage that is meant, and checks it as the configuration's are checked.
    ///
    /// # Errors
    /// Says what is wrong, and with which field.
    pub fn parse(&self) -> Result<StorageConfig, SettingsFault> {
        let config = match self.kind() {
            "local" => StorageConfig::Local(self.read()?),
            "s3" => StorageConfig::S3(Box::new(self.read()?)),
            "telegram" => StorageConfig::Telegram(Box::new(self.read()?)),
            _ => return Err(SettingsFault::new("type", "use local, s3 or telegram")),
        };
        let named = |why: String| SettingsFault::new(why.split(' ').next().unwrap_or_default().to_owned(), why);
        match &config {
            StorageConfig::Local(local) => {
                let is_plain = local.root.components().all(|c| matches!(c, Component::RootDir | Component::Normal(_)));
                if !local.root.is_absolute() || !is_plain || local.root.to_string_lossy().contains('\0') {
                    return Err(SettingsFault::new("root", "give an absolute path without . and .."));
                }
                local.check().map_err(named)?;
            }
            StorageConfig::S3(s3) => s3.check().map_err(named)?,
            StorageConfig::Telegram(telegram) => telegram.check().map_err(named)?,
        }
        Ok(config)
    }

    /// Reads the fields of one type.
    pub(super) fn read<T: DeserializeOwned>(&self) -> Result<T, SettingsFault> {
        let mut fields = self.0.clone();
        fields.remove("type");
        if let Some(file) = fields.keys().find(|name| name.ends_with("_file")) {
            let what = file.trim_end_matches("_file");
            return Err(SettingsFault::new(
                file.clone(),
                format!("files are for the configuration alone: give {what}"),
            ));
        }
        if Value::Object(fields.clone()).to_string().len() > MAX_BYTES {
            return Err(SettingsFault::new("", format!("they are longer than {MAX_BYTES} bytes")));
        }
        serde_path_to_error::deserialize(Value::Object(fields)).map_err(|error| {
            let field = error.path().iter().next().map(ToString::to_string).filter(|field| field != "?");
            SettingsFault::new(field.unwrap_or_default(), error.inner().to_string())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(value: Value) -> Settings {
        serde_json::from_value(value).unwrap()
    }

    fn s3() -> Value {
        json!({ "type": "s3", "bucket": "b", "region": "eu-1", "access_key": "canary-id", "secret_key": "canary-key" })
    }

    #[test]
    fn secrets_are_shown_as_set_and_nowhere_repeated() {
        let settings = settings(s3());
        assert_eq!(settings.shown()["secret_key"], json!({ "set": true }));
        assert_eq!(settings.shown()["bucket"], "b");
        assert!(!format!("{settings:?} {}", settings.shown()).contains("canary"));
        let shown = Settings::shown_of(&settings.parse().unwrap());
        assert_eq!((&shown["access_key"], &shown["type"]), (&json!({ "set": true }), &json!("s3")));
        assert!(!shown.to_string().contains("canary"), "{shown}");
    }

    #[test]
    fn a_fault_names_its_field() {
        for (change, field) in [
            (json!({ "bucket": "a/b" }), "bucket"),
            (json!({ "part_size": "canary much" }), "part_size"),
            (json!({ "parts_in_flight": -1 }), "parts_in_flight"),
            (json!({ "secret_key": null }), "secret_key"),
            (json!({ "secret_key": 7 }), "secret_key"),
            (json!({ "secret_key_file": "/etc/shadow" }), "secret_key_file"),
            (json!({ "speed": 1 }), "speed"),
            (json!({ "prefix": "../canary" }), "prefix"),
            (json!({ "type": "tape" }), "type"),
        ] {
            let mut value = s3();
            value.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
            let fault = settings(value).parse().unwrap_err();
            assert!(fault.field == field || fault.message.contains(field), "{fault}: {field}");
            assert!(!fault.to_string().contains("canary-"), "{fault}");
        }
        for root in ["backups", "/srv/../etc", "", "/a\0b", "./x"] {
            let fault = settings(json!({ "type": "local", "root": root })).parse().unwrap_err();
            assert_eq!(fault.field, "root");
        }
    }

    #[test]
    fn a_change_keeps_what_it_does_not_name_and_never_moves_a_secret() {
        let before = settings(s3());
        let after = before.changed_by(&settings(json!({ "bucket": "c", "region": null }))).unwrap();
        assert_eq!((&after.shown()["bucket"], &after.shown()["region"]), (&json!("c"), &Value::Null));
        assert_eq!(after.shown()["secret_key"], json!({ "set": true }));
        assert_eq!(before.changed_by(&settings(json!({ "type": "local" }))).unwrap_err().field, "type");
        let bot = settings(json!({ "type": "telegram", "chat_id": -5, "bot_token": "1:canary-canary" }));
        let away = json!({ "base_url": "https://evil.example" });
        assert_eq!(bot.changed_by(&settings(away.clone())).unwrap_err().field, "bot_token");
        let mut again = away;
        again["bot_token"] = json!("1:another-one");
        assert!(bot.changed_by(&settings(again)).is_ok());
        assert!(bot.changed_by(&settings(json!({ "chat_id": -6 }))).is_ok());
    }

    #[test]
    fn what_is_no_object_is_refused_and_not_repeated() {
        for value in [json!("canary"), json!(["canary"]), json!(1), json!(null)] {
            let error = serde_json::from_value::<Settings>(value).unwrap_err().to_string();
            assert!(!error.contains("canary"), "{error}");
        }
    }
}
