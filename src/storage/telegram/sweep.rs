//! Messages that nobody will ask for again: of uploads and deletions that died, and documents that were sent twice because an answer was
//! lost. Only what is recognisably ours is deleted: what the ledger names, and what bears an upload's mark.

use std::time::SystemTime;

use super::{
    TelegramStorage,
    chat::describe,
    index::Index,
    memory::{Leftover, Litter, Twin, Unclear, UploadNote},
    names,
    pinned::Loaded,
    shapes::Message,
};
use crate::storage::Error;

/// How many messages are looked at for one lost answer: each look is a forwarded copy, which takes its turn among the messages.
const MOST_LOOKED_AT: i64 = 30;

impl TelegramStorage {
    /// Deletes what was left before `modified_before`; gives the number of messages.
    pub(super) async fn sweep(&self, modified_before: SystemTime) -> Result<u64, Error> {
        let memory = &self.chat.memory;
        let (uploads, deletions, unclear, litter) = (
            memory.list::<UploadNote>("upload/").await?,
            memory.list::<Leftover>("delete/").await?,
            memory.list::<Unclear>("unclear/").await?,
            memory.list::<Litter>("litter/").await?,
        );
        let is_due = |written_at: SystemTime| written_at < modified_before;
        let written = uploads.iter().map(|fact| fact.written_at).chain(deletions.iter().map(|fact| fact.written_at));
        let written = written.chain(unclear.iter().map(|fact| fact.written_at));
        if !written.chain(litter.iter().map(|fact| fact.written_at)).any(is_due) {
            return Ok(0);
        }
        let Loaded { index, at } = self.pinned.load().await?;
        let mut removed = 0;
        for fact in litter.into_iter().filter(|fact| is_due(fact.written_at)) {
            let Litter { chat_id, mut messages } = fact.value;
            if let Some(at) = at.as_ref().filter(|at| at.chat_id == chat_id) {
                let in_force = at.messages();
                messages.retain(|message| !in_force.contains(message));
            }
            removed += self.clear(chat_id, &messages).await?;
            memory.remove(&fact.key).await?;
        }
        for fact in deletions.into_iter().filter(|fact| is_due(fact.written_at)) {
            let Leftover { key, chat_id, messages } = &fact.value;
            if !is_live(&index, key, *chat_id, messages) {
                removed += self.clear(*chat_id, messages).await?;
            }
            memory.remove(&fact.key).await?;
        }
        for fact in uploads.into_iter().filter(|fact| is_due(fact.written_at)) {
            let note = &fact.value;
            if !is_live(&index, &note.key, note.chat_id, &note.messages) {
                let found = self.rest_of(note).await?;
                removed += self.clear(note.chat_id, &found).await?;
            }
            memory.remove(&fact.key).await?;
        }
        for fact in unclear.into_iter().filter(|fact| is_due(fact.written_at)) {
            let found = self.twins_of(&fact.value).await?;
            removed += self.clear(fact.value.chat_id, &found).await?;
            memory.remove(&fact.key).await?;
        }
        Ok(removed)
    }

    /// Deletes messages; those that are too old are said, once.
    async fn clear(&self, chat_id: i64, messages: &[i64]) -> Result<u64, Error> {
        let left = self.chat.delete(chat_id, messages).await?;
        if !left.is_empty() {
            tracing::warn!("too old to be deleted by a bot, and of no use: {}", describe(chat_id, &left));
        }
        Ok((messages.len() - left.len()) as u64)
    }

    /// The messages of a dead upload: those it knew, and those after them that it did not live to know.
    async fn rest_of(&self, note: &UploadNote) -> Result<Vec<i64>, Error> {
        let last = note.messages.iter().copied().max().unwrap_or(note.after);
        // A copy of any message of the chat tells how far its messages go.
        let known = note.messages.last().copied().or((note.after > 0).then_some(note.after));
        let end = match known {
            Some(known) => self.look(note.chat_id, known).await?.map(|copy| copy.message_id),
            None => None,
        };
        let end = end.unwrap_or(i64::MAX).min(last.saturating_add(1 + MOST_LOOKED_AT));
        let mut found = note.messages.clone();
        for id in last + 1..end {
            if self.look(note.chat_id, id).await?.is_some_and(|m| names::is_of(m.caption.as_deref(), note.upload)) {
                found.push(id);
            }
        }
        Ok(found)
    }

    /// Documents that were sent again, between the messages known before and after.
    async fn twins_of(&self, unclear: &Unclear) -> Result<Vec<i64>, Error> {
        let end = unclear.before.unwrap_or(unclear.after.saturating_add(1 + MOST_LOOKED_AT));
        let mut found = Vec::new();
        for id in (unclear.after + 1).max(end.saturating_sub(MOST_LOOKED_AT)).max(1)..end {
            if self.look(unclear.chat_id, id).await?.is_some_and(|message| is_twin(id, &message, &unclear.twin)) {
                found.push(id);
            }
        }
        Ok(found)
    }

    async fn look(&self, chat_id: i64, message_id: i64) -> Result<Option<Message>, Error> {
        let looked = self.chat.look_at(chat_id, message_id).await;
        looked.map_err(|error| {
            error.explain(format_args!("cannot look at message {message_id} of Telegram chat {chat_id}"))
        })
    }
}

fn is_live(index: &Index, key: &crate::artifact::ArtifactName, chat_id: i64, messages: &[i64]) -> bool {
    index.get(key).is_some_and(|entry| entry.begins_at(chat_id, messages))
}

/// Whether message `id` is one that arrived unseen; `copy` is a copy of it.
fn is_twin(id: i64, copy: &Message, twin: &Twin) -> bool {
    match twin {
        Twin::Document { mark, file_name, bytes } => {
            names::has_mark(copy.caption.as_deref(), mark)
                && copy.document.as_ref().is_some_and(|document| {
                    document.file_size == Some(*bytes) && document.file_name.as_deref() == Some(file_name)
                })
        }
        Twin::Copy { of } => {
            id != *of && copy.forward_origin.as_ref().is_some_and(|origin| origin.message_id == Some(*of))
        }
    }
}
