//! The tests' stand-in of Telegram's Bot API as a program, for `make demo-telegram` and for whoever wants to try a `telegram` storage
//! without an account:
//!
//! ```text
//! cargo run --example telegram_stand_in
//! ```
//!
//! It prints the settings of such a storage, then what happens in its channel, until it is stopped. It is not Telegram: nothing
//! leaves this machine, and everything is forgotten when it ends.

#[path = "../tests/support/telegram_stand_in/mod.rs"]
mod telegram_stand_in;

use std::{collections::BTreeMap, io::Write as _, time::Duration};

use telegram_stand_in::{Content, Control, SeenMessage, StandIn};

/// How often the channel is looked at.
const LOOK: Duration = Duration::from_millis(100);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let stand_in = StandIn::start().await;
    let mut out = std::io::stdout();
    writeln!(
        out,
        "# This is a stand-in of Telegram's Bot API, not Telegram: nothing leaves this machine,\n\
         # and everything is forgotten when it ends. Ctrl-C ends it.\n\
         [storages.telegram]\ntype = \"telegram\"\nbase_url = \"{}\"\nbot_token = \"{}\"\nchat_id = {}\n\n\
         # What happens in the channel:",
        stand_in.base_url().as_str().trim_end_matches('/'),
        stand_in.token(),
        stand_in.chat_id(),
    )?;
    let (control, chat) = (stand_in.control(), stand_in.chat_id());
    let mut before = BTreeMap::new();
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            pressed = tokio::signal::ctrl_c() => return Ok(pressed?),
        }
        let now = look(&control, chat);
        for line in changes(&before, &now) {
            writeln!(out, "{line}")?;
        }
        before = now;
    }
}

fn look(control: &Control, chat: i64) -> BTreeMap<i64, SeenMessage> {
    control.messages(chat).into_iter().map(|message| (message.id, message)).collect()
}

/// What happened between two looks, a line each.
fn changes(before: &BTreeMap<i64, SeenMessage>, now: &BTreeMap<i64, SeenMessage>) -> Vec<String> {
    let mut lines = Vec::new();
    for (id, message) in now {
        match before.get(id) {
            None => lines.push(format!("message {id:<3} {}", shown(message))),
            Some(old) if old.content != message.content => {
                lines.push(format!("message {id:<3} is now {}", shown(message)));
            }
            Some(_) => {}
        }
        match (before.get(id).is_some_and(|old| old.is_pinned), message.is_pinned) {
            (false, true) => lines.push(format!("message {id:<3} is pinned")),
            (true, false) => lines.push(format!("message {id:<3} is not pinned any more")),
            (true, true) | (false, false) => {}
        }
    }
    lines.extend(before.keys().filter(|id| !now.contains_key(id)).map(|id| format!("message {id:<3} was deleted")));
    lines
}

fn shown(message: &SeenMessage) -> String {
    match &message.content {
        Content::Document { document, caption } => {
            let caption = caption.replace('\n', " · ");
            let space = if caption.is_empty() { "" } else { "  " };
            format!("{} ({} bytes){space}{caption}", document.file_name, document.bytes)
        }
        Content::Text(text) => text.replace('\n', " · "),
        Content::Pinned(id) => format!("(pinned message {id})"),
        Content::Migrated(_) => "(became a supergroup)".to_owned(),
    }
}
