//! Emptying the outbox. Any number of processes may: a row is claimed with a lease when its attempt begins, and one whose process died is taken
//! when that lapses. Who comes when is [`history::claim_notices`]'s to say.

use std::{sync::Arc, time::Duration};

use rand::RngExt as _;
use tokio::task::JoinSet;
use uuid::Uuid;

use super::{
    App, TellError,
    address::{self, Nowhere, Words},
    hide_endpoints,
};
use crate::{
    clock::Timestamp,
    history::{self, Claim, DueNotice, NoticeEnd},
    metrics::{self, NoticeOutcome},
    notice::Notice,
    notify::{Letter, SendError, Senders, Trouble, Verdict},
};

/// Notices on their way at once, from one process.
const AT_ONCE: usize = 32;

/// Of these, and of all processes', one owner's at most.
const OF_ONE_OWNER: i64 = 4;

/// How long others leave a notice alone. An attempt is over long before: the longest `notify.timeout_seconds`, and for a Telegram chat that has
/// moved twice that.
const LEASE: Duration = Duration::from_secs(300);

/// Between the first attempt and the second; then twice that, and so on.
const FIRST_WAIT: Duration = Duration::from_secs(10);

/// Between two attempts at most. So much later than a mail server comes back is a notice delivered.
const LONGEST_WAIT: Duration = Duration::from_secs(900);

/// What was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Round {
    pub sent: usize,
    /// Tried in vain, and tried again later.
    pub later: usize,
    pub given_up: usize,
}

impl std::ops::AddAssign for Round {
    fn add_assign(&mut self, other: Self) {
        self.sent += other.sent;
        self.later += other.later;
        self.given_up += other.given_up;
    }
}

/// Carries notices out, several at once. One that is dropped leaves those on their way to whoever finds their leases lapsed.
#[derive(Debug)]
pub struct Postman {
    app: App,
    senders: Arc<Senders>,
    /// In lower case.
    operators: Vec<String>,
    under_way: JoinSet<Result<Round, TellError>>,
}

impl Postman {
    pub fn new(app: &App, senders: Senders) -> Self {
        let operators = app.config.notify.operators.iter().map(|address| address.to_lowercase()).collect();
        Self { app: app.clone(), senders: Arc::new(senders), operators, under_way: JoinSet::new() }
    }

    /// Gives up what nobody could send in its time, and begins with what is due, as far as there is room.
    pub async fn begin(&mut self, gives_up: bool) -> Result<Round, TellError> {
        let now = self.app.clock.now();
        let given_up = if gives_up { history::give_up_notices(&self.app.pool, now).await? } else { 0 };
        let room = AT_ONCE.saturating_sub(self.under_way.len());
        if room > 0 {
            let claim = Claim {
                now,
                has_mail: self.senders.has_mail(),
                operators: &self.operators,
                limit: room.cast_signed() as i64,
                of_one_owner: OF_ONE_OWNER,
                token: Uuid::new_v4(),
                lease_seconds: LEASE.as_secs_f64(),
            };
            for due in history::claim_notices(&self.app.pool, &claim).await? {
                self.under_way.spawn(attempt(self.app.clone(), Arc::clone(&self.senders), due, claim.token));
            }
        }
        Ok(Round { given_up: usize::try_from(given_up).unwrap_or_default(), ..Round::default() })
    }

    /// The end of one that is on its way. `None`: none is. Nothing is lost when this is not waited for to its end.
    pub async fn ended(&mut self) -> Option<Round> {
        match self.under_way.join_next().await? {
            Ok(Ok(round)) => Some(round),
            Ok(Err(error)) => {
                tracing::warn!("Notices: cannot write down what became of one, which may be sent again: {error}");
                Some(Round::default())
            }
            Err(error) => {
                tracing::error!("Notices: an attempt broke off: {error}");
                Some(Round::default())
            }
        }
    }
}

/// One attempt at one notice, and the note of what became of it.
async fn attempt(app: App, senders: Arc<Senders>, due: DueNotice, token: Uuid) -> Result<Round, TellError> {
    let Err(error) = send(&app, &senders, &due).await else {
        metrics::notice_attempt(kind(&due.channel), NoticeOutcome::Sent);
        end(&app, &due, token, NoticeEnd::Sent).await?;
        return Ok(Round { sent: 1, ..Round::default() });
    };
    let Some(at) = next_attempt(&error, &due, app.clock.now()) else {
        metrics::notice_attempt(kind(&due.channel), NoticeOutcome::GivenUp);
        tracing::error!(notice = due.id, event = %due.event, "Notices: given up: {error}");
        end(&app, &due, token, NoticeEnd::GivenUp { error: &error.message }).await?;
        return Ok(Round { given_up: 1, ..Round::default() });
    };
    metrics::notice_attempt(kind(&due.channel), NoticeOutcome::Later);
    tracing::warn!(notice = due.id, "Notices: not sent by {}, trying again at {at}: {error}", due.channel);
    if matches!(error.verdict, Verdict::Later { what: Trouble::Way, .. }) {
        // Before this one ends: until then no other of its channel is begun.
        history::postpone_notices(&app.pool, &due.channel, due.channel_id, at).await?;
    }
    end(&app, &due, token, NoticeEnd::Later { at, error: &error.message }).await?;
    Ok(Round { later: 1, ..Round::default() })
}

async fn end(app: &App, due: &DueNotice, token: Uuid, end: NoticeEnd<'_>) -> Result<(), TellError> {
    if !history::end_notice(&app.pool, due.id, token, app.clock.now(), &end).await? {
        tracing::warn!(notice = due.id, "Notices: another process has taken this notice meanwhile");
    }
    Ok(())
}

async fn send(app: &App, senders: &Senders, due: &DueNotice) -> Result<(), SendError> {
    // What cannot be read as facts is told without them.
    let mut notice: Notice = serde_json::from_value(due.payload.clone()).unwrap_or_default();
    let (to, words) = address::of(app, due, &notice).await.map_err(|nowhere| match nowhere {
        Nowhere::Ever(why) => SendError { verdict: Verdict::Never, message: why.to_owned(), hint: None },
        Nowhere::Now(message) => {
            SendError { verdict: Verdict::Later { after: None, what: Trouble::One }, message, hint: None }
        }
    })?;
    if words == Words::WithoutPlaces {
        hide_endpoints(&mut notice);
    }
    let letter = Letter { id: due.delivery_id, event: due.event.parse().ok(), at: due.created_at, notice: &notice };
    senders.send(&to, &letter, app.clock.now()).await
}

/// When it is tried again. `None`: never, as it was refused for good or is no news any more.
fn next_attempt(error: &SendError, due: &DueNotice, now: Timestamp) -> Option<Timestamp> {
    let Verdict::Later { after, .. } = error.verdict else { return None };
    let wait = backoff(due.attempts, rand::rng().random_range(0.75..1.25)).max(after.unwrap_or_default());
    let at = now + chrono::Duration::from_std(wait).ok()?;
    (at < due.give_up_at).then_some(at)
}

/// Doubles with each attempt up to the longest, times `chance`, so that many do not return together.
fn backoff(attempts: i32, chance: f64) -> Duration {
    let doubled = 2_u32.pow(attempts.clamp(1, 12).cast_unsigned() - 1);
    (FIRST_WAIT * doubled).min(LONGEST_WAIT).mul_f64(chance)
}

/// The channel's word as one of the program's own.
fn kind(channel: &str) -> &'static str {
    ["email", "webhook", "telegram"].into_iter().find(|known| *known == channel).unwrap_or("other")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(attempts: i32, give_up_at: Timestamp) -> DueNotice {
        DueNotice {
            id: 1,
            delivery_id: Uuid::nil(),
            project_id: None,
            event: "failed".to_owned(),
            channel: "email".to_owned(),
            channel_id: None,
            recipient: "a@b.example".to_owned(),
            payload: serde_json::Value::Null,
            attempts,
            created_at: give_up_at,
            give_up_at,
        }
    }

    #[test]
    fn waits_grow_to_a_quarter_of_an_hour() {
        for (attempts, seconds) in [(0, 10), (1, 10), (2, 20), (3, 40), (7, 640), (8, 900), (1_000, 900)] {
            assert_eq!(backoff(attempts, 1.0), Duration::from_secs(seconds), "{attempts}");
        }
    }

    #[test]
    fn what_the_receiver_asks_for_is_waited_for_and_nothing_is_tried_for_ever() {
        let now: Timestamp = "2026-11-21T04:00:00Z".parse().unwrap();
        let later = |after| SendError {
            verdict: Verdict::Later { after, what: Trouble::One },
            message: String::new(),
            hint: None,
        };
        let hour = chrono::Duration::hours(1);
        let asked = next_attempt(&later(Some(Duration::from_secs(1_800))), &due(1, now + hour), now);
        assert_eq!(asked, Some(now + chrono::Duration::minutes(30)));
        assert_eq!(next_attempt(&later(Some(Duration::from_secs(3_600))), &due(1, now + hour), now), None);
        let never = SendError { verdict: Verdict::Never, message: String::new(), hint: None };
        assert_eq!(next_attempt(&never, &due(1, now + hour), now), None);
    }

    #[test]
    fn an_attempt_is_over_within_its_lease() {
        // The longest that the configuration takes, twice for a chat that has moved.
        assert!(Duration::from_secs(60 * 2) < LEASE);
    }
}
