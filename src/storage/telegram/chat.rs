//! One chat, written to and asked with patience: calls are paced, 429 is waited out, passing faults are tried again within the time limit,
//! and a group that becomes a supergroup is followed.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{
    client::{BotApi, Outgoing},
    fault::{CallError, Reason},
    memory::{IndexAt, Litter, Memory, Moved, Twin, Unclear},
    pacing::{LONGEST_WAIT, Pacer, UNSAID},
    shapes::{ChatInfo, Document, Member, Message, RemoteFile, User},
};
use crate::{
    config::ChatId,
    storage::{Error, ErrorKind, ledger::Held},
};

/// The pause before something is tried again, doubled each time.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const MOST_TRIES: u32 = 5;
/// How often a document is sent whose fate is unclear.
const MOST_SENDS: u32 = 3;
/// How often a 429 is waited out in one call, altogether for [`LONGEST_WAIT`] at most.
const MOST_WAITS: u32 = 5;
/// `deleteMessages` takes 1 to 100 identifiers: core.telegram.org/bots/api#deletemessages.
const MOST_DELETED_AT_ONCE: usize = 100;

#[derive(Debug)]
pub(super) struct Chat {
    api: BotApi,
    pacer: Pacer,
    pub memory: Memory,
    configured: ChatId,
    /// The chat's number, once known.
    current: Mutex<Option<i64>>,
    /// The newest message seen in the chat.
    newest: AtomicI64,
}

/// What one call has waited because of 429s.
#[derive(Debug, Default)]
struct Waits {
    times: u32,
    sum: Duration,
}

impl Chat {
    pub fn new(api: BotApi, pacer: Pacer, memory: Memory, configured: ChatId) -> Self {
        Self { api, pacer, memory, configured, current: Mutex::default(), newest: AtomicI64::new(0) }
    }

    /// The chat's number: as configured or as its name says, followed to where it moved.
    pub async fn id(&self) -> Result<i64, Error> {
        if let Some(id) = *self.current.lock().unwrap_or_else(PoisonError::into_inner) {
            return Ok(id);
        }
        let configured = match &self.configured {
            ChatId::Number(id) => *id,
            ChatId::Name(name) => {
                let chat: Result<ChatInfo, _> = self.ask("getChat", json!({ "chat_id": name })).await;
                chat.map_err(|error| error.explain(format_args!("cannot find chat {name}")))?.id
            }
        };
        let moved: Option<Moved> = match self.memory.get(&format!("chat/{configured}")).await {
            Ok(moved) => moved,
            // Should it have moved, the Bot API says so.
            Err(error) if error.kind.may_pass() => {
                tracing::warn!(%error, "whether the Telegram chat has moved is not known");
                None
            }
            Err(error) => return Err(error),
        };
        let id = moved.map_or(configured, |moved| moved.now);
        self.become_chat(id);
        Ok(id)
    }

    fn become_chat(&self, id: i64) {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Some(id);
    }

    fn is_current(&self, id: i64) -> bool {
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) == Some(id)
    }

    /// The chat goes on under another number. What was remembered of it stays readable under the old one.
    async fn follow(&self, from: i64, to: i64) {
        if !self.is_current(from) {
            return;
        }
        tracing::warn!(from, to, "the Telegram group has become a supergroup; set chat_id to its new number");
        self.become_chat(to);
        self.newest.store(0, Ordering::Relaxed);
        if let Err(error) = self.remember_move(from, to).await {
            tracing::warn!(%error, "the chat's new number is not remembered; the next process learns it again");
        }
    }

    async fn remember_move(&self, from: i64, to: i64) -> Result<(), Error> {
        let root = match &self.configured {
            ChatId::Number(id) => *id,
            ChatId::Name(_) => from,
        };
        self.memory.put(&format!("chat/{root}"), &Moved { now: to }).await?;
        // The supergroup has no pinned index yet: its first one continues the group's last.
        let (last, first) = (format!("index/{from}"), format!("index/{to}"));
        if self.memory.get::<IndexAt>(&first).await?.is_none()
            && let Some(index) = self.memory.get::<IndexAt>(&last).await?
        {
            self.memory.put(&first, &index).await?;
        }
        Ok(())
    }

    /// Whether it is remembered that one chat has become another.
    pub async fn has_moved(&self, from: i64, to: i64) -> Result<bool, Error> {
        let moved: Option<Moved> = self.memory.get(&format!("chat/{from}")).await?;
        Ok(moved.is_some_and(|moved| moved.now == to))
    }

    /// The newest message that this process has seen in the chat; 0 before the first.
    pub fn newest(&self) -> i64 {
        self.newest.load(Ordering::Relaxed)
    }

    pub fn saw(&self, message_id: i64) {
        self.newest.fetch_max(message_id, Ordering::Relaxed);
    }

    /// Asks until there is an answer, within the configured time. For calls that may be repeated.
    async fn ask<T: DeserializeOwned>(&self, method: &'static str, parameters: Value) -> Result<T, CallError> {
        self.ask_noting(method, parameters, &mut false).await
    }

    /// The same, and notes whether a call may have had an effect that is not told.
    async fn ask_noting<T: DeserializeOwned>(
        &self,
        method: &'static str,
        mut parameters: Value,
        is_unclear: &mut bool,
    ) -> Result<T, CallError> {
        let limit = self.api.timeout();
        let (mut spent, mut pause) = (Duration::ZERO, FIRST_PAUSE);
        let (mut tries, mut waits) = (0, Waits::default());
        loop {
            let begun = Instant::now();
            let error = match self.api.call(method, &parameters, limit.saturating_sub(spent)).await {
                Ok(result) => return Ok(result),
                Err(error) => error,
            };
            spent += begun.elapsed();
            tries += 1;
            *is_unclear |= matches!(error.reason, Reason::Unclear(_));
            match error.reason {
                Reason::SlowDown(retry_after) => match self.may_wait(retry_after, &mut waits) {
                    Some(wait) => sleep(wait).await,
                    None => return Err(error),
                },
                Reason::Moved(to) => {
                    self.follow(parameters["chat_id"].as_i64().unwrap_or_default(), to).await;
                    if tries >= MOST_TRIES || names_messages(&parameters) {
                        return Err(error);
                    }
                    parameters["chat_id"] = json!(to);
                }
                Reason::Unreached(_) | Reason::Unclear(_) if tries < MOST_TRIES && spent + pause < limit => {
                    sleep(pause).await;
                    spent += pause;
                    pause *= 2;
                }
                _ => return Err(error),
            }
        }
    }

    /// How long a 429 is waited out here; `None`: the job tries again later. Others are held up either way.
    fn may_wait(&self, retry_after: Option<Duration>, waits: &mut Waits) -> Option<Duration> {
        let wait = retry_after.unwrap_or(UNSAID);
        waits.times += 1;
        waits.sum = waits.sum.saturating_add(wait);
        self.pacer.slow_down(retry_after);
        (waits.times <= MOST_WAITS && waits.sum <= LONGEST_WAIT).then_some(wait)
    }

    pub async fn me(&self) -> Result<User, CallError> {
        self.ask("getMe", json!({})).await
    }

    pub async fn info(&self) -> Result<ChatInfo, Error> {
        let id = self.id().await?;
        let info: Result<ChatInfo, _> = self.ask("getChat", json!({ "chat_id": id })).await;
        let info = info.map_err(|error| error.explain(format_args!("cannot reach Telegram chat {id}")))?;
        if let Some(pinned) = &info.pinned_message {
            self.saw(pinned.message_id);
        }
        Ok(info)
    }

    pub async fn member(&self, chat_id: i64, user_id: i64) -> Result<Member, CallError> {
        self.ask("getChatMember", json!({ "chat_id": chat_id, "user_id": user_id })).await
    }

    pub async fn file(&self, file_id: &str) -> Result<RemoteFile, CallError> {
        self.ask("getFile", json!({ "file_id": file_id })).await
    }

    /// How long a document of this size may take.
    pub fn time_for(&self, bytes: u64) -> Duration {
        self.api.time_for(bytes)
    }

    /// Downloads what `getFile` told of; what else goes wrong than a 429 is for who knows what the bytes must be.
    pub async fn download(&self, file: &RemoteFile, expected: u64) -> Result<bytes::Bytes, CallError> {
        let mut waits = Waits::default();
        loop {
            let outcome = self.api.download(file, expected).await;
            let Err(CallError { reason: Reason::SlowDown(retry_after), .. }) = &outcome else { return outcome };
            match self.may_wait(*retry_after, &mut waits) {
                Some(wait) => sleep(wait).await,
                None => return outcome,
            }
        }
    }

    /// Pins a message above all older ones. In a channel this needs the right to edit messages, in a supergroup that to pin them:
    /// core.telegram.org/bots/api#pinchatmessage.
    pub async fn pin(&self, chat_id: i64, message_id: i64) -> Result<(), CallError> {
        let parameters = json!({ "chat_id": chat_id, "message_id": message_id, "disable_notification": true });
        self.ask::<bool>("pinChatMessage", parameters).await.map(drop)
    }

    pub async fn unpin(&self, chat_id: i64, message_id: i64) -> Result<(), CallError> {
        self.ask::<bool>("unpinChatMessage", json!({ "chat_id": chat_id, "message_id": message_id })).await.map(drop)
    }

    /// Waits for a turn to send.
    async fn turn(&self, method: &'static str) -> Result<(), CallError> {
        let outcome = self.pacer.turn().await;
        outcome.map_err(|remaining| CallError { method, reason: Reason::SlowDown(Some(remaining)) })
    }

    /// Forwards a message into the chat itself: the copy has a `file_id` of this bot's own, and tells what the original holds. Delete it.
    pub async fn forward(&self, from: i64, message_id: i64) -> Result<Message, CallError> {
        self.turn("forwardMessage").await?;
        let to = self.current.lock().unwrap_or_else(PoisonError::into_inner).unwrap_or(from);
        let parameters =
            json!({ "chat_id": to, "from_chat_id": from, "message_id": message_id, "disable_notification": true });
        let (after, mut is_unclear) = (self.newest(), false);
        let copy: Result<Message, _> = self.ask_noting("forwardMessage", parameters, &mut is_unclear).await;
        if is_unclear {
            let before = copy.as_ref().ok().map(|copy| copy.message_id);
            let fact = Unclear { chat_id: to, after, before, twin: Twin::Copy { of: message_id } };
            if let Err(error) = self.memory.put(&fact.ledger_key(), &fact).await {
                tracing::warn!(%error, "a forwarded copy may stay in the chat");
            }
        }
        if let Ok(copy) = &copy {
            self.saw(copy.message_id);
        }
        copy
    }

    /// Looks at a message through a copy of it, which is deleted again. `None`: it is gone.
    pub async fn look_at(&self, from: i64, message_id: i64) -> Result<Option<Message>, CallError> {
        match self.forward(from, message_id).await {
            Ok(copy) => {
                self.drop_copy(&copy).await;
                Ok(Some(copy))
            }
            Err(error) if error.is_message_gone() || error.says(&["can't be forwarded"]) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Deletes a copy that a forward made.
    pub async fn drop_copy(&self, copy: &Message) {
        let Ok(chat_id) = self.id().await else { return };
        self.discard(chat_id, &[copy.message_id]).await;
    }

    /// Deletes messages that came to nothing; what is not deleted is left to the sweep, and said.
    pub async fn discard(&self, chat_id: i64, messages: &[i64]) {
        match self.delete(chat_id, messages).await {
            Ok(left) if left.is_empty() => {}
            Ok(left) => tracing::warn!(chat_id, ?left, "messages that came to nothing cannot be deleted"),
            Err(error) => {
                tracing::warn!(chat_id, ?messages, %error, "messages that came to nothing are left to the sweep");
                self.leave_to_sweep(chat_id, messages).await;
            }
        }
    }

    /// Writes down messages that nobody will ask for, for the sweep, which keeps those that are the index in force by then.
    pub async fn leave_to_sweep(&self, chat_id: i64, messages: &[i64]) {
        let litter = Litter { chat_id, messages: messages.to_vec() };
        if let Err(error) = self.memory.put(&litter.ledger_key(), &litter).await {
            tracing::warn!(chat_id, ?messages, %error, "messages that came to nothing are not written down, and stay");
        }
    }

    /// Deletes messages and gives those that cannot be deleted. Those that are gone already count as deleted.
    ///
    /// A call deletes all of its messages or none, and a bot's right ends 48 hours after a message was sent; as identifiers grow with time,
    /// those that stay are the oldest ones, and are found by halving. Sources: core.telegram.org/bots/api#deletemessage and
    /// #deletemessages, `can_delete_channel_message` in tdlib/td.
    pub async fn delete(&self, chat_id: i64, messages: &[i64]) -> Result<Vec<i64>, Error> {
        let mut messages = messages.to_vec();
        messages.sort_unstable();
        messages.dedup();
        // The newest on top.
        let mut pending: Vec<&[i64]> = messages.chunks(MOST_DELETED_AT_ONCE).collect();
        while let Some(batch) = pending.pop() {
            let deleted: Result<bool, _> =
                self.ask("deleteMessages", json!({ "chat_id": chat_id, "message_ids": batch })).await;
            match deleted {
                Ok(_) => {}
                Err(error) if error.is_message_gone() || error.is_undeletable() => match batch {
                    [] => {}
                    [_] if error.is_message_gone() => {}
                    // Everything older stays as well.
                    [newest] => return Ok(messages.iter().copied().filter(|id| id <= newest).collect()),
                    _ => pending.extend(<[&[i64]; 2]>::from(batch.split_at(batch.len() / 2))),
                },
                // The messages of a group that became a supergroup are out of reach.
                Err(CallError { reason: Reason::Moved(_), .. }) => {
                    return Ok(messages
                        .iter()
                        .copied()
                        .filter(|id| batch.last().is_some_and(|last| id <= last))
                        .collect());
                }
                Err(error) => return Err(error.explain(format_args!("cannot delete messages of chat {chat_id}"))),
            }
        }
        Ok(Vec::new())
    }

    /// Sends a document, as the only writer to the chat. When the answer is lost it is sent again, and what may lie twice is written down
    /// for the sweep. Gives the chat in which it arrived.
    pub async fn send(&self, held: &mut Held, document: &Outgoing, mark: &str) -> Result<(i64, Message), Error> {
        let mut chat_id = self.id().await?;
        let context = |chat_id: i64| format!("cannot send {} to Telegram chat {chat_id}", document.file_name);
        let bytes = document.bytes.len() as u64;
        let mut unclear: Option<Unclear> = None;
        let (mut sends, mut waits, mut pause) = (0, Waits::default(), FIRST_PAUSE);
        loop {
            self.turn("sendDocument").await.map_err(|error| error.explain(context(chat_id)))?;
            // Another may have become the writer meanwhile.
            held.check().await?;
            let error = match self.api.send_document(chat_id, document).await {
                Ok(message) => {
                    self.saw(message.message_id);
                    if let Some(unclear) = &unclear
                        && let Err(error) = self.settle(unclear, message.message_id).await
                    {
                        // What is written down would let the sweep take it for its own twin.
                        self.discard(chat_id, &[message.message_id]).await;
                        return Err(error);
                    }
                    self.pacer.went_well();
                    return Ok((chat_id, message));
                }
                Err(error) => error,
            };
            sends += 1;
            match error.reason {
                // Its next turn comes after the wait.
                Reason::SlowDown(retry_after) if self.may_wait(retry_after, &mut waits).is_some() => sends -= 1,
                Reason::Moved(to) if sends < MOST_SENDS => {
                    self.follow(chat_id, to).await;
                    chat_id = to;
                }
                Reason::Unclear(_) => {
                    if unclear.is_none() {
                        let (file_name, mark) = (document.file_name.clone(), mark.to_owned());
                        let twin = Twin::Document { mark, file_name, bytes };
                        let fact = Unclear { chat_id, after: self.newest(), before: None, twin };
                        // Written down first: this process may not live to settle it.
                        self.memory.put(&fact.ledger_key(), &fact).await?;
                        unclear = Some(fact);
                    }
                    if sends >= MOST_SENDS {
                        return Err(error.explain(context(chat_id)));
                    }
                    tracing::warn!(document = document.file_name, reason = ?error.reason, "the fate of a document is unclear; it is sent again");
                    sleep(pause).await;
                    pause *= 2;
                }
                Reason::Unreached(_) if sends < MOST_SENDS => {
                    sleep(pause).await;
                    pause *= 2;
                }
                _ => return Err(error.explain(context(chat_id))),
            }
        }
    }

    /// A document arrived in the end: what lies between the message before it and this one may be its twin.
    async fn settle(&self, unclear: &Unclear, arrived: i64) -> Result<(), Error> {
        let settled = Unclear { before: Some(arrived), ..unclear.clone() };
        if arrived > unclear.after + 1 {
            self.memory.put(&settled.ledger_key(), &settled).await?;
        }
        self.memory.remove(&unclear.ledger_key()).await
    }

    /// What is pinned, when the answer to a pin was lost.
    pub async fn is_pinned(&self, message_id: i64) -> Result<bool, Error> {
        let info = self.info().await?;
        Ok(info.pinned_message.is_some_and(|pinned| pinned.message_id == message_id))
    }
}

/// Whether a call acts on messages of the chat that it names: in the chat that this one became, other messages have those numbers.
fn names_messages(parameters: &Value) -> bool {
    parameters.get("from_chat_id").is_none()
        && ["message_id", "message_ids"].iter().any(|name| parameters.get(name).is_some())
}

/// `messages 12–15, 17 of chat -100…`: what is left, for people.
pub(super) fn describe(chat_id: i64, messages: &[i64]) -> String {
    let mut sorted = messages.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    let mut runs: Vec<(i64, i64)> = Vec::new();
    for id in &sorted {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == *id => *last = *id,
            _ => runs.push((*id, *id)),
        }
    }
    let text = |(first, last): &(i64, i64)| if first == last { first.to_string() } else { format!("{first}–{last}") };
    match (runs.as_slice(), sorted.as_slice()) {
        ([], _) => format!("nothing of chat {chat_id}"),
        ([(first, last)], _) if first == last => format!("message {first} of chat {chat_id}"),
        (runs, _) if runs.len() <= 5 => {
            format!("messages {} of chat {chat_id}", runs.iter().map(text).collect::<Vec<_>>().join(", "))
        }
        (_, [first, .., last]) => format!("{} messages between {first} and {last} of chat {chat_id}", sorted.len()),
        _ => format!("messages of chat {chat_id}"),
    }
}

/// A document's answer must tell of the document that was sent.
pub(super) fn require_document(message: &Message, bytes: u64) -> Result<Document, Error> {
    let corrupt = |what: String| Error::new(ErrorKind::Corrupt, what);
    let Some(document) = &message.document else {
        return Err(corrupt(format!("message {} was sent as a document and holds none", message.message_id)));
    };
    match document.file_size {
        Some(size) if size != bytes => {
            Err(corrupt(format!("message {} holds {size} bytes where {bytes} were sent", message.message_id)))
        }
        _ => Ok(document.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::describe;

    #[test]
    fn what_remains_is_said_in_runs() {
        assert_eq!(describe(-5, &[3]), "message 3 of chat -5");
        assert_eq!(describe(-5, &[15, 12, 13, 14, 17]), "messages 12–15, 17 of chat -5");
        assert_eq!(describe(-5, &[1, 3, 5, 7, 9, 11]), "6 messages between 1 and 11 of chat -5");
    }
}
