//! What must be remembered beyond the life of a process, in the ledger, under the storage's name.
//!
//! | Key | Fact |
//! |---|---|
//! | `chat/{id}` | the group with this id has become another chat |
//! | `index/{chat}` | the newest index that was pinned |
//! | `upload/{upload}` | messages of an upload under way |
//! | `unclear/{chat}/{after}-{before}` | a document may lie twice between these messages, or a copy of one |
//! | `delete/{chat}/{first message}` | messages of an object that is about to be deleted |
//! | `other/{chat}` | objects were sent to this chat as well; what is remembered of it is under the storage's name and the chat's number |
//! | `litter/{chat}/{first message}` | messages of no use that were not deleted, or an index of which nobody knows whether it is in force |

use std::{sync::Arc, time::SystemTime};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    artifact::ArtifactName,
    ids::LeaseToken,
    storage::{Error, ErrorKind, Ledger, ledger::Held},
};

/// The facts of one storage.
#[derive(Clone, Debug)]
pub(super) struct Memory {
    ledger: Arc<dyn Ledger>,
    storage: String,
}

/// A group that became a supergroup.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Moved {
    pub now: i64,
}

/// Where an index lies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct IndexAt {
    pub chat_id: i64,
    pub message_id: i64,
    pub file_id: String,
    pub file_unique_id: String,
    pub bytes: u64,
    /// Messages beside the pinned one, when the index is larger than a part.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<i64>,
}

impl IndexAt {
    pub fn messages(&self) -> Vec<i64> {
        self.parts.iter().copied().chain([self.message_id]).collect()
    }
}

/// An upload under way, or one that died.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct UploadNote {
    pub upload: LeaseToken,
    pub attempt: LeaseToken,
    pub key: ArtifactName,
    pub chat_id: i64,
    /// The newest message known before the first one; what comes after the last known one may be ours as well.
    pub after: i64,
    pub messages: Vec<i64>,
}

impl UploadNote {
    pub fn ledger_key(&self) -> String {
        format!("upload/{}", self.upload)
    }
}

/// A message that was asked for again because its first answer was lost.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Unclear {
    pub chat_id: i64,
    pub after: i64,
    /// The message that arrived in the end, if one did.
    pub before: Option<i64>,
    pub twin: Twin,
}

/// What tells a message that arrived unseen.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Twin {
    Document {
        mark: String,
        file_name: String,
        bytes: u64,
    },
    /// A forwarded copy of a message.
    Copy {
        of: i64,
    },
}

impl Unclear {
    pub fn ledger_key(&self) -> String {
        let before = self.before.map(|id| id.to_string()).unwrap_or_default();
        let copy = match self.twin {
            Twin::Document { .. } => String::new(),
            Twin::Copy { of } => format!("-copy-of-{of}"),
        };
        format!("unclear/{}/{}-{before}{copy}", self.chat_id, self.after)
    }
}

/// An object's messages, to be deleted once no index names it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Leftover {
    pub key: ArtifactName,
    pub chat_id: i64,
    pub messages: Vec<i64>,
}

/// Messages that belong to no object.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Litter {
    pub chat_id: i64,
    pub messages: Vec<i64>,
}

/// Another chat of the bot's, with an index of its own.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct OtherChat {
    pub chat_id: i64,
}

impl OtherChat {
    pub fn ledger_key(chat_id: i64) -> String {
        format!("other/{chat_id}")
    }
}

impl Litter {
    pub fn ledger_key(&self) -> String {
        format!("litter/{}/{}", self.chat_id, self.messages.first().copied().unwrap_or_default())
    }
}

impl Memory {
    pub fn new(ledger: Arc<dyn Ledger>, storage: &str) -> Self {
        Self { ledger, storage: storage.to_owned() }
    }

    /// Waits until this is the only writer to the chat, of all processes.
    pub async fn hold(&self, chat_id: i64) -> Result<Held, Error> {
        self.ledger.hold(&format!("telegram/{chat_id}")).await
    }

    pub async fn put(&self, key: &str, fact: &impl Serialize) -> Result<(), Error> {
        let value = serde_json::to_value(fact)
            .map_err(|error| Error::new(ErrorKind::Invalid, "cannot write down a fact").with_source(error))?;
        self.ledger.put(&self.storage, key, value).await
    }

    pub async fn remove(&self, key: &str) -> Result<(), Error> {
        self.ledger.remove(&self.storage, key).await
    }

    pub async fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, Error> {
        let found = self.list(key).await?;
        Ok(found.into_iter().find(|fact| fact.key == key).map(|fact| fact.value))
    }

    /// Fails when the note of an upload is gone: a sweep has taken the upload for a dead one, and its parts are deleted.
    pub async fn require_upload(&self, key: &str) -> Result<(), Error> {
        match self.get::<UploadNote>(key).await {
            Ok(Some(_)) => Ok(()),
            Ok(None) => {
                let context = "the upload is no longer written down: a sweep has taken its parts";
                Err(Error::new(ErrorKind::NotFound, context)
                    .with_hint("Sweep only what is older than the longest upload."))
            }
            // While the control plane is away, no sweep can ask it either.
            Err(error) if error.kind.may_pass() => {
                tracing::warn!(%error, "whether a sweep has taken an upload's parts is not known");
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// The facts whose keys begin with `prefix`. What cannot be read was written by a newer program, and is left to it.
    pub async fn list<T: DeserializeOwned>(&self, prefix: &str) -> Result<Vec<Fact<T>>, Error> {
        let entries = self.ledger.list(&self.storage, prefix).await?;
        let read = |entry: crate::storage::ledger::Entry| match serde_json::from_value(entry.value) {
            Ok(value) => Some(Fact { key: entry.key, value, written_at: entry.written_at }),
            Err(error) => {
                tracing::warn!(storage = self.storage, key = entry.key, %error, "a remembered fact cannot be read");
                None
            }
        };
        Ok(entries.into_iter().filter_map(read).collect())
    }
}

/// One remembered fact.
#[derive(Clone, Debug)]
pub(super) struct Fact<T> {
    pub key: String,
    pub value: T,
    pub written_at: SystemTime,
}
