//! The storage that `TELEGRAM_BOT_TOKEN`, `TELEGRAM_CHAT_ID` and `TELEGRAM_BASE_URL` stand for. An empty variable counts as not set.

use std::collections::BTreeMap;

use super::{ConfigError, Secret, StorageConfig, TelegramStorageConfig};

/// What the storage is called.
const NAME: &str = "telegram";

/// Makes the storage `telegram` when token and chat are both given and no storage of the file is of this type; else gives the file's own
/// storages the token that they left out.
pub(super) fn telegram(
    storages: &mut BTreeMap<String, StorageConfig>,
    environment: &BTreeMap<String, String>,
) -> Result<(), ConfigError> {
    let get = |name: &str| environment.get(name).filter(|value| !value.is_empty());
    let Some(token) = get("TELEGRAM_BOT_TOKEN") else { return Ok(()) };
    let mut is_configured = false;
    for storage in storages.values_mut() {
        let StorageConfig::Telegram(telegram) = storage else { continue };
        is_configured = true;
        if telegram.bot_token.is_none() {
            telegram.bot_token = Some(Secret::new(token.as_str()));
        }
    }
    let Some(chat) = get("TELEGRAM_CHAT_ID").filter(|_| !is_configured) else { return Ok(()) };
    let chat = chat.parse().map_err(|why| ConfigError::Invalid(format!("TELEGRAM_CHAT_ID: {why}")))?;
    let mut made = TelegramStorageConfig::new(Secret::new(token.as_str()), chat);
    if let Some(url) = get("TELEGRAM_BASE_URL") {
        made.base_url.clone_from(url);
    }
    match storages.insert(NAME.to_owned(), StorageConfig::Telegram(Box::new(made))) {
        None => Ok(()),
        Some(_) => Err(ConfigError::Invalid(format!(
            "TELEGRAM_BOT_TOKEN makes a storage named {NAME:?}, but [storages.{NAME}] is of another type: rename it, or unset TELEGRAM_BOT_TOKEN"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{ChatId, Config, StorageConfig, TelegramStorageConfig, load};

    const TOKEN: (&str, &str) = ("TELEGRAM_BOT_TOKEN", "1:canary-canary");
    const CHAT: (&str, &str) = ("TELEGRAM_CHAT_ID", "-1001234567890");

    fn config(text: &str, variables: &[(&str, &str)]) -> Result<Config, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let environment = variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        load(Some(file.path()), &environment).map_err(|error| error.to_string())
    }

    fn telegram<'a>(config: &'a Config, name: &str) -> &'a TelegramStorageConfig {
        match &config.storages[name] {
            StorageConfig::Telegram(telegram) => telegram,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn token_and_chat_make_a_storage_beside_the_others() {
        let config = config("", &[TOKEN, CHAT, ("TELEGRAM_BASE_URL", "http://127.0.0.1:8081")]).unwrap();
        assert_eq!(config.storages.keys().collect::<Vec<_>>(), ["local", "telegram"]);
        let made = telegram(&config, "telegram");
        assert_eq!(
            (&made.chat_id, made.base_url.as_str()),
            (&ChatId::Number(-1_001_234_567_890), "http://127.0.0.1:8081")
        );
        assert_eq!(made.bot_token.as_ref().unwrap().expose(), "1:canary-canary");
    }

    #[test]
    fn half_of_them_makes_none() {
        for half in [&[TOKEN][..], &[CHAT], &[TOKEN, ("TELEGRAM_CHAT_ID", "")]] {
            assert_eq!(config("", half).unwrap().storages.keys().collect::<Vec<_>>(), ["local"]);
        }
    }

    #[test]
    fn a_files_storage_gets_the_token_that_it_left_out_and_keeps_its_own() {
        let text = "[storages.a]\ntype = 'telegram'\nchat_id = -5\n[storages.b]\ntype = 'telegram'\nchat_id = -6\nbot_token = '2:another-token'\n";
        let config = config(text, &[TOKEN, CHAT]).unwrap();
        assert_eq!(config.storages.len(), 2);
        let (a, b) = (telegram(&config, "a"), telegram(&config, "b"));
        assert_eq!((a.bot_token.as_ref().unwrap().expose(), &a.chat_id), ("1:canary-canary", &ChatId::Number(-5)));
        assert_eq!(b.bot_token.as_ref().unwrap().expose(), "2:another-token");
    }

    #[test]
    fn what_cannot_be_used_is_named_without_the_token() {
        let text = "[storages.telegram]\ntype = 'local'\nroot = '/srv/x'\n";
        let taken = config(text, &[TOKEN, CHAT]).unwrap_err();
        assert!(taken.contains("another type") && !taken.contains("canary"), "{taken}");
        let no_chat = config("", &[TOKEN, ("TELEGRAM_CHAT_ID", "backups")]).unwrap_err();
        assert!(no_chat.contains("TELEGRAM_CHAT_ID") && !no_chat.contains("canary"), "{no_chat}");
        let no_token = config("", &[("TELEGRAM_BOT_TOKEN", "canary"), CHAT]).unwrap_err();
        assert!(no_token.contains("bot_token") && !no_token.contains("canary"), "{no_token}");
    }
}
