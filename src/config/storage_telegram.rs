//! `[storages.NAME]` with `type = "telegram"`.

use std::{fmt, net::IpAddr, path::PathBuf, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use url::{Host, Url};

use super::Secret;
use crate::byte_size::ByteSize;

/// The Bot API that Telegram runs.
const CLOUD: &str = "https://api.telegram.org";

/// The largest part that the cloud Bot API takes *and* gives back, with room to spare: it accepts 50 MB by `sendDocument`, but `getFile`
/// gives back 20 MiB at most. Source: core.telegram.org/bots/api#getfile.
pub const CLOUD_PART: ByteSize = ByteSize::mib(19);

/// What a server of one's own takes: `--local` uploads up to 2000 MB, downloads without a limit.
/// Source: core.telegram.org/bots/api#using-a-local-bot-api-server.
pub const LARGEST_LOCAL_PART: ByteSize = ByteSize(2_000_000_000);

/// Below this, an object would have too many messages.
const SMALLEST_PART: ByteSize = ByteSize::kib(64);

/// A chat that keeps artifacts as documents, written by a bot.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TelegramStorageConfig {
    /// The bot's token from @BotFather.
    #[serde(default)]
    pub bot_token: Option<Secret>,
    /// A file that holds the token.
    #[serde(default)]
    pub bot_token_file: Option<PathBuf>,
    /// The chat: a number such as `-1001234567890`, or `@name` of a public channel. Best a private channel of its own.
    pub chat_id: ChatId,
    /// Where the Bot API answers. Default `https://api.telegram.org`; `http` is taken for this machine and private networks only.
    #[serde(default = "cloud")]
    pub base_url: String,
    /// Takes an `http` address anywhere: the token and every answer then travel in the clear.
    #[serde(default)]
    pub allow_insecure_http: bool,
    /// `cloud`: Telegram's own server. `local`: a Bot API server of one's own, started with `--local`. Never mixed in one chat.
    #[serde(default)]
    pub profile: TelegramProfile,
    /// Size of one document; held in memory while it is sent or read. Default and largest: 19 MiB for `cloud`; 64 MiB, at most 2000 MB,
    /// for `local`.
    #[serde(default)]
    pub part_size: Option<ByteSize>,
    /// Refuses larger artifacts. Default: no limit.
    #[serde(default)]
    pub max_artifact: Option<ByteSize>,
    /// Messages a minute into the chat. Default 20, which is what Telegram allows in a group; 0: as fast as the server takes them.
    #[serde(default = "messages_per_minute")]
    pub messages_per_minute: u32,
    /// Seconds within which the Bot API must answer; a document has more by its size. Default 60.
    #[serde(default = "timeout_seconds")]
    pub timeout_seconds: u64,
    /// Takes artifacts that are not encrypted: whoever reads the chat then reads them, and so does Telegram. Default false.
    #[serde(default)]
    pub allow_plaintext: bool,
}

fn cloud() -> String {
    CLOUD.to_owned()
}

fn messages_per_minute() -> u32 {
    20
}

fn timeout_seconds() -> u64 {
    60
}

impl TelegramStorageConfig {
    /// A chat at the cloud's Bot API, with every default.
    pub fn new(bot_token: Secret, chat_id: ChatId) -> Self {
        Self {
            bot_token: Some(bot_token),
            bot_token_file: None,
            chat_id,
            base_url: cloud(),
            allow_insecure_http: false,
            profile: TelegramProfile::default(),
            part_size: None,
            max_artifact: None,
            messages_per_minute: messages_per_minute(),
            timeout_seconds: timeout_seconds(),
            allow_plaintext: false,
        }
    }

    /// The size of one document.
    pub fn part(&self) -> ByteSize {
        self.part_size.unwrap_or(match self.profile {
            TelegramProfile::Cloud => CLOUD_PART,
            TelegramProfile::Local => ByteSize::mib(64),
        })
    }

    /// What no type can say, in one line that names the setting and repeats no secret.
    pub fn check(&self) -> Result<(), String> {
        match &self.bot_token {
            None => return Err("bot_token is not set: give it, or bot_token_file".to_owned()),
            // Its form alone is looked at.
            Some(token) if !is_token(token.expose()) => {
                return Err("bot_token does not look like a token from @BotFather: expected 123456789:AA…".to_owned());
            }
            Some(_) => {}
        }
        let most = match self.profile {
            TelegramProfile::Cloud => CLOUD_PART,
            TelegramProfile::Local => LARGEST_LOCAL_PART,
        };
        let part = self.part();
        if part < SMALLEST_PART || part > most {
            return Err(format!("part_size is {part}: use {SMALLEST_PART} to {most}"));
        }
        if !(1..=3_600).contains(&self.timeout_seconds) {
            return Err(format!("timeout_seconds is {}: use 1 to 3600", self.timeout_seconds));
        }
        if self.messages_per_minute > 1_800 {
            return Err(format!("messages_per_minute is {}: use 0 to 1800", self.messages_per_minute));
        }
        self.url().map(drop)
    }

    /// The parsed `base_url`, if the token may travel there.
    pub fn url(&self) -> Result<Url, String> {
        let url = Url::parse(&self.base_url).map_err(|error| format!("base_url is not a URL: {error}"))?;
        if url.query().is_some() || url.fragment().is_some() || !url.username().is_empty() || url.password().is_some() {
            return Err("base_url has more than scheme, host, port and path: give the address alone".to_owned());
        }
        match (url.scheme(), url.host()) {
            ("https", Some(_)) => Ok(url),
            ("http", Some(host)) if self.allow_insecure_http || is_near(&host) => Ok(url),
            ("http", Some(host)) => Err(format!(
                "base_url goes to {host} without TLS, and the address holds the bot's token: use https, or set allow_insecure_http"
            )),
            (scheme, _) => Err(format!("base_url has scheme {scheme:?}: use https")),
        }
    }
}

/// `{bot id}:{secret}`: what is safe in a URL's path.
fn is_token(text: &str) -> bool {
    text.split_once(':').is_some_and(|(id, secret)| {
        !id.is_empty()
            && id.bytes().all(|b| b.is_ascii_digit())
            && secret.len() >= 8
            && secret.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    })
}

/// This machine, an address of a private network, or a name without a dot, as container networks have.
fn is_near(host: &Host<&str>) -> bool {
    match host {
        Host::Domain(name) => !name.contains('.') || name.ends_with(".localhost"),
        Host::Ipv4(address) => address.is_loopback() || address.is_private(),
        Host::Ipv6(address) => match IpAddr::V6(*address).to_canonical() {
            IpAddr::V4(address) => address.is_loopback() || address.is_private(),
            IpAddr::V6(address) => address.is_loopback() || address.is_unique_local(),
        },
    }
}

/// Whose Bot API server it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TelegramProfile {
    /// Telegram's own: 20 MiB at most come back.
    #[default]
    Cloud,
    /// One's own, started with `--local`: large files, handed over as paths on the server's machine.
    Local,
}

/// A chat as people write it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChatId {
    Number(i64),
    /// A public channel's `@name`.
    Name(String),
}

impl FromStr for ChatId {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(name) = text.strip_prefix('@') {
            let is_name =
                (4..=32).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
            return if is_name { Ok(Self::Name(text.to_owned())) } else { Err(invalid(text)) };
        }
        match text.parse() {
            Ok(number) if number != 0 => Ok(Self::Number(number)),
            _ => Err(invalid(text)),
        }
    }
}

fn invalid(text: &str) -> String {
    let shown: String = text.chars().take(40).collect();
    format!("chat_id {shown:?} is not a chat: expected a number such as -1001234567890, or @name of a public channel")
}

impl fmt::Display for ChatId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

impl Serialize for ChatId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Number(number) => serializer.serialize_i64(*number),
            Self::Name(name) => serializer.serialize_str(name),
        }
    }
}

impl<'de> Deserialize<'de> for ChatId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Number(i64),
            Text(String),
        }
        let text = match Written::deserialize(deserializer)? {
            Written::Number(number) => number.to_string(),
            Written::Text(text) => text,
        };
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(base_url: &str) -> TelegramStorageConfig {
        let mut config = TelegramStorageConfig::new(Secret::new("1:canary-canary"), ChatId::Number(-100));
        config.base_url = base_url.to_owned();
        config
    }

    #[test]
    fn a_chat_is_a_number_or_the_name_of_a_channel() {
        assert_eq!("-1001234567890".parse::<ChatId>().unwrap(), ChatId::Number(-1_001_234_567_890));
        assert_eq!("@backups_acme".parse::<ChatId>().unwrap(), ChatId::Name("@backups_acme".to_owned()));
        assert_eq!(serde_json::from_str::<ChatId>("-5").unwrap(), ChatId::Number(-5));
        assert_eq!(serde_json::from_str::<ChatId>("\"-5\"").unwrap(), ChatId::Number(-5));
        for bad in ["", "0", "backups", "@", "@a/b", "@../getMe", "1.5", "-1001234567890x"] {
            assert!(bad.parse::<ChatId>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_token_travels_in_the_clear_to_near_hosts_only() {
        for near in [
            "http://127.0.0.1:8081",
            "http://[::1]:8081/",
            "http://10.2.3.4",
            "http://localhost:1",
            "http://bot-api:8081",
        ] {
            assert_eq!(config(near).check(), Ok(()), "{near}");
        }
        for far in [
            "http://api.telegram.org",
            "http://93.184.215.14",
            "http://[2606:4700::1111]",
            "ftp://127.0.0.1",
            "http://[::ffff:8.8.8.8]/",
        ] {
            assert!(config(far).check().is_err(), "{far}");
        }
        assert_eq!(config("https://api.telegram.org").check(), Ok(()));
        let allowed = TelegramStorageConfig { allow_insecure_http: true, ..config("http://bots.example.com") };
        assert_eq!(allowed.check(), Ok(()));
        assert!(config("https://u:p@api.telegram.org").check().is_err());
    }

    #[test]
    fn parts_fit_what_comes_back() {
        let mut config = config(CLOUD);
        assert_eq!(config.part().0, 19_922_944);
        config.part_size = Some(ByteSize::mib(20));
        assert!(config.check().unwrap_err().contains("use 64 KiB to 19 MiB"));
        config.profile = TelegramProfile::Local;
        assert_eq!(config.check(), Ok(()));
        config.part_size = Some(ByteSize(2_000_000_001));
        assert!(config.check().is_err());
    }

    #[test]
    fn a_text_that_is_no_token_is_refused_and_not_repeated() {
        for bad in ["canary", "1:canary/../x", "1:", "canary:abcdefgh1", "1:canary canary"] {
            let config = TelegramStorageConfig::new(Secret::new(bad), ChatId::Number(-100));
            let problem = config.check().unwrap_err();
            assert!(!problem.contains("canary"), "{problem}");
        }
        let shown = format!("{:?} {}", config(CLOUD), serde_json::to_string(&config(CLOUD)).unwrap());
        assert!(!shown.contains("canary"), "{shown}");
    }

    #[test]
    fn a_storage_in_the_file_is_read_and_its_mistakes_are_named() {
        let token = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(token.path(), "1:canary-canary\n").unwrap();
        let load = |text: &str| {
            let file = tempfile::NamedTempFile::new().unwrap();
            let text = format!("[storages.channel]\ntype = 'telegram'\n{text}");
            std::fs::write(file.path(), text.replace("TOKEN", token.path().to_str().unwrap())).unwrap();
            crate::config::load(Some(file.path()), &std::collections::BTreeMap::new())
        };
        let config = load("bot_token_file = 'TOKEN'\nchat_id = -1001234567890\npart_size = '1 MiB'\n").unwrap();
        let crate::config::StorageConfig::Telegram(channel) = &config.storages["channel"] else { panic!("{config:?}") };
        assert_eq!(channel.chat_id, ChatId::Number(-1_001_234_567_890));
        assert_eq!((channel.part(), channel.messages_per_minute), (ByteSize::mib(1), 20));
        assert_eq!(channel.bot_token.as_ref().unwrap().expose(), "1:canary-canary");
        for (text, expected) in [
            ("chat_id = -5\n", "storages.channel: bot_token is not set"),
            ("bot_token_file = 'TOKEN'\nbot_token = '1:canary-canary'\nchat_id = -5\n", "keep one"),
            ("bot_token = 'canary'\nchat_id = -5\n", "does not look like a token"),
            ("bot_token = '1:canary-canary'\nchat_id = 'backups'\n", "is not a chat"),
            ("bot_token = '1:canary-canary'\n", "chat_id"),
            ("bot_token = '1:canary-canary'\nchat_id = -5\nspeed = 3\n", "speed"),
            ("bot_token = '1:canary-canary'\nchat_id = -5\nbase_url = 'http://example.com'\n", "without TLS"),
        ] {
            let error = load(text).unwrap_err().to_string();
            assert!(error.contains(expected) && !error.contains("canary"), "{error}");
        }
    }
}
