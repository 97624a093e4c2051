//! Trying out a chat: what the bot may do there, and whether what it sends comes back. Each line that is seen good is one of the list in
//! `docs/telegram.md`.

use bytes::Bytes;

use super::{
    TelegramStorage,
    chat::describe,
    client::Outgoing,
    documents::{Spot, blocking},
    names,
    pinned::Change,
    shapes::{ChatInfo, Member},
};
use crate::{
    byte_size::ByteSize,
    ids::LeaseToken,
    storage::{Error, ErrorKind, Probe, ProbeDepth, TelegramPart},
};

/// A chat whose messages vanish by themselves keeps no backup.
pub(super) fn refuse_auto_delete(info: &ChatInfo) -> Result<(), Error> {
    let Some(seconds) = info.message_auto_delete_time.filter(|seconds| *seconds > 0) else { return Ok(()) };
    let context =
        format!("cannot keep backups in Telegram chat {}: it deletes its messages after {seconds} s", info.id);
    Err(Error::new(ErrorKind::Denied, context).with_hint("Switch the chat's auto-delete timer off."))
}

/// The rights that the bot lacks: what it cannot work without, and what it should have.
fn lacking(kind: &str, member: &Member) -> (Vec<&'static str>, Vec<&'static str>) {
    if member.status == "creator" || kind == "private" {
        return (Vec::new(), Vec::new());
    }
    if member.status != "administrator" {
        return (vec!["to be an administrator"], Vec::new());
    }
    let mut needed = Vec::new();
    if kind == "channel" {
        if !member.can_post_messages {
            needed.push("can_post_messages");
        }
        // Pinning is a matter of editing in a channel: core.telegram.org/bots/api#pinchatmessage.
        if !member.can_edit_messages {
            needed.push("can_edit_messages");
        }
    } else if !member.can_pin_messages {
        needed.push("can_pin_messages");
    }
    // A bot deletes its own messages without this one, but not those of a bot that was there before it.
    let wished = if member.can_delete_messages { Vec::new() } else { vec!["can_delete_messages"] };
    (needed, wished)
}

impl TelegramStorage {
    pub(super) async fn try_out(&self, depth: ProbeDepth) -> Result<Probe, Error> {
        let mut probe = Probe::default();
        let me = self.chat.me().await.map_err(|error| error.explain("cannot ask the Bot API who the bot is"))?;
        let name = me.username.unwrap_or_else(|| me.id.to_string());
        probe.seen.push(format!("the token belongs to bot @{name}"));
        let info = self.chat.info().await?;
        refuse_auto_delete(&info)?;
        let title = info.title.as_deref().unwrap_or("without a title");
        probe.seen.push(format!("the bot reaches {} {} ({title:?}), which keeps its messages", info.kind, info.id));
        if info.kind == "group" {
            let advice = "the chat is a basic group, which gets another number when it becomes a supergroup: use a private channel";
            probe.warnings.push(advice.to_owned());
        }
        if info.has_protected_content {
            let advice = "the chat's content is protected, so that no other bot can take over: allow forwarding";
            probe.warnings.push(advice.to_owned());
        }
        self.check_rights(&info, me.id, &mut probe).await?;
        probe.seen.push(match self.pinned.load().await? {
            loaded if loaded.at.is_some() => format!("the index is readable: {} objects", loaded.index.len()),
            _ => "the chat has no index yet and nothing else is pinned".to_owned(),
        });
        let small = Bytes::from(LeaseToken::generate().to_string());
        self.round_trip(small, depth, &mut probe).await?;
        if depth == ProbeDepth::Thorough {
            let full = random(self.part).await?;
            self.round_trip(full, ProbeDepth::Quick, &mut probe).await?;
            self.try_pinning(&mut probe).await?;
        }
        Ok(probe)
    }

    async fn check_rights(&self, info: &ChatInfo, bot: i64, probe: &mut Probe) -> Result<(), Error> {
        let member = self.chat.member(info.id, bot).await;
        let member = member.map_err(|error| {
            error.explain(format_args!("cannot ask for the bot's rights in Telegram chat {}", info.id))
        })?;
        let (needed, wished) = lacking(&info.kind, &member);
        if !needed.is_empty() {
            let context = format!("the bot lacks rights in Telegram chat {}: {}", info.id, needed.join(", "));
            return Err(Error::new(ErrorKind::Denied, context)
                .with_hint("Give them to the bot among the chat's administrators."));
        }
        if !wished.is_empty() {
            let advice = "the bot lacks can_delete_messages: it cannot delete what another bot sent";
            probe.warnings.push(advice.to_owned());
        }
        probe.seen.push("the bot has the rights that it needs".to_owned());
        Ok(())
    }

    /// Sends a document, reads it back and deletes it; when thorough also through a forwarded copy.
    async fn round_trip(&self, bytes: Bytes, depth: ProbeDepth, probe: &mut Probe) -> Result<(), Error> {
        let size = ByteSize(bytes.len() as u64);
        let mark = names::mark(LeaseToken::generate(), "probe");
        let document = Outgoing {
            file_name: names::PROBE.to_owned(),
            caption: names::caption(Some("A probe; it is deleted at once."), names::PROBE, &mark),
            bytes,
        };
        let (chat_id, part) = {
            let mut held = self.chat.memory.hold(self.chat.id().await?).await?;
            self.chat.put(&mut held, &document, &mark).await?
        };
        let mut outcome = self.chat.fetch(Spot::of_part(chat_id, &part)).await.map(drop);
        if outcome.is_ok() && depth == ProbeDepth::Thorough {
            outcome = self.try_forwarding(chat_id, &part, probe).await;
        }
        // Deleted whatever came of it.
        let left = self.chat.delete(chat_id, &[part.message_id]).await;
        outcome?;
        probe.seen.push(format!("a document of {size} was sent and read back"));
        match left? {
            left if left.is_empty() => probe.seen.push("it was deleted".to_owned()),
            left => probe.warnings.push(format!("the bot could not delete its probe: {}", describe(chat_id, &left))),
        }
        Ok(())
    }

    async fn try_forwarding(&self, chat_id: i64, part: &TelegramPart, probe: &mut Probe) -> Result<(), Error> {
        let context = "cannot forward a document within the chat, as another bot must to read it";
        let copy = self.chat.look_at(chat_id, part.message_id).await.map_err(|error| error.explain(context))?;
        let document = copy.and_then(|copy| copy.document);
        let document = document.ok_or_else(|| Error::new(ErrorKind::Denied, context).with_hint("Allow forwarding."))?;
        if document.file_unique_id != part.file_unique_id {
            return Err(Error::new(ErrorKind::Corrupt, "a forwarded document has another file_unique_id"));
        }
        let is_fresh = if document.file_id == part.file_id { "the same" } else { "a fresh" };
        probe.seen.push(format!("forwarding it gave {is_fresh} file_id and the same file_unique_id"));
        Ok(())
    }

    /// Publishes the index as it is, the way every backup does, and finds it again through the chat alone.
    async fn try_pinning(&self, probe: &mut Probe) -> Result<(), Error> {
        let was_there = self.pinned.load().await?.at.is_some();
        self.pinned.publish(None, |_| Ok(Change::Made)).await?;
        let info = self.chat.info().await?;
        let found = info.pinned_message.and_then(|message| message.document).and_then(|document| document.file_name);
        if !was_there {
            self.pinned.withdraw().await?;
        }
        if found.as_deref() != Some(names::INDEX) {
            return Err(Error::new(
                ErrorKind::Corrupt,
                "an index was pinned, and the chat tells of another pinned message",
            ));
        }
        probe.seen.push("an index was pinned, found again by getChat, and replaced the one before".to_owned());
        Ok(())
    }
}

/// A part that no one can compress or guess.
async fn random(size: ByteSize) -> Result<Bytes, Error> {
    blocking(move || {
        let mut bytes = vec![0; usize::try_from(size.0).unwrap_or(usize::MAX)];
        rand::fill(&mut bytes[..]);
        Ok(bytes.into())
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(status: &str) -> Member {
        serde_json::from_value(serde_json::json!({ "status": status })).unwrap()
    }

    #[test]
    fn what_a_bot_lacks_depends_on_the_kind_of_chat() {
        let nothing = (Vec::new(), Vec::new());
        assert_eq!(lacking("private", &member("member")), nothing);
        assert_eq!(lacking("channel", &member("creator")), nothing);
        assert_eq!(lacking("channel", &member("left")).0, ["to be an administrator"]);
        let bare = member("administrator");
        assert_eq!(
            lacking("channel", &bare),
            (vec!["can_post_messages", "can_edit_messages"], vec!["can_delete_messages"])
        );
        assert_eq!(lacking("supergroup", &bare), (vec!["can_pin_messages"], vec!["can_delete_messages"]));
        let able = Member { can_post_messages: true, can_edit_messages: true, can_delete_messages: true, ..bare };
        assert_eq!(lacking("channel", &able), nothing);
    }

    #[test]
    fn a_chat_that_deletes_by_itself_is_refused() {
        let chat = |seconds: Option<u64>| -> ChatInfo {
            serde_json::from_value(
                serde_json::json!({ "id": -100, "type": "channel", "message_auto_delete_time": seconds }),
            )
            .unwrap()
        };
        assert!(refuse_auto_delete(&chat(None)).is_ok());
        let error = refuse_auto_delete(&chat(Some(86_400))).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Denied);
        assert!(error.to_string().contains("after 86400 s"), "{error}");
    }
}
