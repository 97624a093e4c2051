//! Emptying the outbox. Any number of processes may: rows are claimed with a lease, and one whose process died is taken when that lapses.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use futures::{StreamExt as _, stream};
use rand::RngExt as _;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    App, TellError,
    address::{self, Nowhere},
};
use crate::{
    clock::Timestamp,
    history::{self, Claim, DueNotice, NoticeEnd},
    metrics::{self, NoticeOutcome},
    notice::Notice,
    notify::{Letter, SendError, Senders, Trouble, Verdict},
};

/// Notices taken at once.
const BATCH: i64 = 32;

/// Notices on their way at once.
const AT_ONCE: usize = 8;

/// How long others leave a notice alone. A batch is over long before: `BATCH / AT_ONCE` times the longest `notify.timeout_seconds`, and for a
/// Telegram chat that has moved twice that.
const LEASE: Duration = Duration::from_secs(900);

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

/// Sends everything that is due. With `stop` no further notice is begun; those on their way are finished.
pub async fn send_due(app: &App, senders: &Senders, stop: &CancellationToken) -> Result<Round, TellError> {
    let mut round = Round::default();
    round.given_up += usize::try_from(history::give_up_notices(&app.pool, app.clock.now()).await?).unwrap_or_default();
    while !stop.is_cancelled() {
        let claim = Claim {
            now: app.clock.now(),
            has_mail: senders.has_mail(),
            limit: BATCH,
            token: Uuid::new_v4(),
            lease_seconds: LEASE.as_secs_f64(),
        };
        let due = history::claim_notices(&app.pool, &claim).await?;
        let count = due.len();
        let batch = Batch { app, senders, stop, token: claim.token, troubles: Mutex::default() };
        let mut attempts = stream::iter(due.into_iter().map(|due| batch.attempt(due))).buffer_unordered(AT_ONCE);
        let mut failure = None;
        while let Some(done) = attempts.next().await {
            match done {
                Ok(done) => round += done,
                // The others are on their way: what becomes of them is written down, or they would be sent twice.
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        if let Some(error) = failure {
            return Err(error);
        }
        if count < BATCH.cast_unsigned() as usize {
            break;
        }
    }
    Ok(round)
}

/// Notices that were claimed together.
struct Batch<'a> {
    app: &'a App,
    senders: &'a Senders,
    stop: &'a CancellationToken,
    token: Uuid,
    /// Ways that turned out to be in trouble, and when they are tried again.
    troubles: Mutex<HashMap<(String, Option<Uuid>), Timestamp>>,
}

impl Batch<'_> {
    /// One attempt at one notice, and the note of what became of it.
    async fn attempt(&self, due: DueNotice) -> Result<Round, TellError> {
        let way = (due.channel.clone(), due.channel_id.filter(|_| due.channel != "email"));
        let trouble = self.troubles.lock().unwrap_or_else(PoisonError::into_inner).get(&way).copied();
        if self.stop.is_cancelled() || trouble.is_some() {
            self.end(&due, &NoticeEnd::HandedBack).await?;
            if let Some(until) = trouble {
                history::postpone_notices(&self.app.pool, &due.channel, due.channel_id, until).await?;
            }
            return Ok(Round::default());
        }
        let Err(error) = send(self.app, self.senders, &due).await else {
            metrics::notice_attempt(kind(&due.channel), NoticeOutcome::Sent);
            self.end(&due, &NoticeEnd::Sent).await?;
            return Ok(Round { sent: 1, ..Round::default() });
        };
        let Some(at) = next_attempt(&error, &due, self.app.clock.now()) else {
            metrics::notice_attempt(kind(&due.channel), NoticeOutcome::GivenUp);
            tracing::error!(notice = due.id, event = %due.event, "Notices: given up: {error}");
            self.end(&due, &NoticeEnd::GivenUp { error: &error.message }).await?;
            return Ok(Round { given_up: 1, ..Round::default() });
        };
        metrics::notice_attempt(kind(&due.channel), NoticeOutcome::Later);
        tracing::warn!(notice = due.id, "Notices: not sent by {}, trying again at {at}: {error}", due.channel);
        if matches!(error.verdict, Verdict::Later { what: Trouble::Way, .. }) {
            self.troubles.lock().unwrap_or_else(PoisonError::into_inner).entry(way).or_insert(at);
            history::postpone_notices(&self.app.pool, &due.channel, due.channel_id, at).await?;
        }
        self.end(&due, &NoticeEnd::Later { at, error: &error.message }).await?;
        Ok(Round { later: 1, ..Round::default() })
    }

    async fn end(&self, due: &DueNotice, end: &NoticeEnd<'_>) -> Result<(), TellError> {
        if !history::end_notice(&self.app.pool, due.id, self.token, self.app.clock.now(), end).await? {
            tracing::warn!(notice = due.id, "Notices: another process has taken this notice meanwhile");
        }
        Ok(())
    }
}

async fn send(app: &App, senders: &Senders, due: &DueNotice) -> Result<(), SendError> {
    let to = address::of(app, due).await.map_err(|nowhere| match nowhere {
        Nowhere::Ever(why) => SendError { verdict: Verdict::Never, message: why.to_owned(), hint: None },
        Nowhere::Now(message) => {
            SendError { verdict: Verdict::Later { after: None, what: Trouble::One }, message, hint: None }
        }
    })?;
    // What cannot be read as facts is told without them.
    let notice: Notice = serde_json::from_value(due.payload.clone()).unwrap_or_default();
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
    fn a_batch_is_over_within_its_lease() {
        let rounds = u64::try_from(BATCH).unwrap().div_ceil(AT_ONCE as u64);
        // The longest that the configuration takes, twice for a chat that has moved.
        assert!(Duration::from_secs(rounds * 60 * 2) < LEASE);
    }
}
