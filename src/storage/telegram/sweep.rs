//! Messages that nobody will ask for again: of uploads and deletions that died, and documents that were sent twice because an answer was
//! lost. Only what is recognisably ours is deleted: what the ledger names, and what bears an upload's mark.

use std::time::SystemTime;

use super::{
    TelegramStorage,
    chat::describe,
    index::Place,
    memory::{Fact, Leftover, Litter, Twin, Unclear, UploadNote},
    names,
    pinned::Loaded,
    shapes::Message,
};
use crate::storage::{Error, Locator};

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
        let (mut removed, mut passing) = (0, None);
        // What is wrong with one of them is no reason to leave the others. A chat that is out of reach for good is no reason to fail, either.
        let mut count = |key: &str, outcome: Result<u64, Error>| match outcome {
            Ok(messages) => removed += messages,
            Err(error) => {
                tracing::warn!(key, %error, "what an upload or a lost answer left is not swept");
                if error.kind.may_pass() {
                    passing.get_or_insert(error);
                }
            }
        };
        for fact in litter.into_iter().filter(|fact| is_due(fact.written_at)) {
            count(&fact.key, self.clear(fact.value.chat_id, &fact.value.messages, &fact.key).await);
        }
        for fact in deletions.into_iter().filter(|fact| is_due(fact.written_at)) {
            count(&fact.key, self.clear(fact.value.chat_id, &fact.value.messages, &fact.key).await);
        }
        for fact in uploads.into_iter().filter(|fact| is_due(fact.written_at)) {
            count(&fact.key, self.clear_upload(&fact).await);
        }
        for fact in unclear.into_iter().filter(|fact| is_due(fact.written_at)) {
            count(&fact.key, self.clear_twins(&fact).await);
        }
        match passing {
            None => Ok(removed),
            Some(error) => Err(error),
        }
    }

    /// Deletes messages, except those that are live by the index of their own chat, and forgets the fact `key` that told of them. As the only
    /// writer to that chat, so that nothing becomes live meanwhile. Messages that are too old are said, once.
    async fn clear(&self, chat_id: i64, messages: &[i64], key: &str) -> Result<u64, Error> {
        let there = self.of_chat(chat_id).await?;
        let mut held = there.chat.memory.hold(there.chat.id().await?).await?;
        let dead = there.without_live(&there.pinned.load().await?, chat_id, messages).await?;
        held.check().await?;
        let left = there.chat.delete(chat_id, &dead).await?;
        if !left.is_empty() {
            tracing::warn!("too old to be deleted by a bot, and of no use: {}", describe(chat_id, &left));
        }
        self.chat.memory.remove(key).await?;
        Ok((dead.len() - left.len()) as u64)
    }

    /// The messages that neither are the index in force nor belong to an object that it lists.
    async fn without_live(&self, loaded: &Loaded, chat_id: i64, messages: &[i64]) -> Result<Vec<i64>, Error> {
        let mut dead = messages.to_vec();
        if let Some(at) = loaded.at.as_ref().filter(|at| at.chat_id == chat_id) {
            let in_force = at.messages();
            dead.retain(|message| !in_force.contains(message));
        }
        for entry in loaded.index.entries() {
            if !dead.iter().any(|message| entry.may_hold(chat_id, *message)) {
                continue;
            }
            let mut live = Vec::new();
            if let Place::List { document, .. } = &entry.place {
                live.push(document.message_id);
            }
            if let Locator::Telegram { messages, .. } = self.locator(entry).await? {
                live.extend(messages.iter().map(|part| part.message_id));
            }
            dead.retain(|message| !live.contains(message));
        }
        Ok(dead)
    }

    /// Clears a dead upload away. Its note goes first: an upload that is not dead after all does not become visible without it.
    async fn clear_upload(&self, fact: &Fact<UploadNote>) -> Result<u64, Error> {
        let note = &fact.value;
        let there = self.of_chat(note.chat_id).await?;
        let found = there.rest_of(note).await?;
        let litter = Litter { chat_id: note.chat_id, messages: found };
        {
            // Not between an upload's look for its note and its writing it anew.
            let _held = there.chat.memory.hold(there.chat.id().await?).await?;
            self.chat.memory.put(&litter.ledger_key(), &litter).await?;
            self.chat.memory.remove(&fact.key).await?;
        }
        self.clear(litter.chat_id, &litter.messages, &litter.ledger_key()).await
    }

    async fn clear_twins(&self, fact: &Fact<Unclear>) -> Result<u64, Error> {
        let found = self.of_chat(fact.value.chat_id).await?.twins_of(&fact.value).await?;
        self.clear(fact.value.chat_id, &found, &fact.key).await
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
