//! How quickly messages go into one chat. Telegram allows a bot about 20 a minute in a group, and answers more with 429.
//! Source: core.telegram.org/bots/faq#my-bot-is-hitting-limits-how-do-i-avoid-this.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, sleep_until};

const MINUTE: Duration = Duration::from_secs(60);
/// A wait when a 429 says nothing of how long.
pub(super) const UNSAID: Duration = Duration::from_secs(5);
/// What a 429 is believed at most: an absurd answer must not keep a chat shut for good.
pub(super) const MOST_BELIEVED: Duration = Duration::from_secs(24 * 60 * 60);
/// How far away a turn may be that is waited for; beyond it the job tries again later.
pub(super) const LONGEST_WAIT: Duration = Duration::from_secs(15 * 60);
/// At its slowest, a chat is written to this much slower than configured.
const SLOWEST: u32 = 8;

/// Gives turns to send. A few may follow each other at once; no minute holds more than configured.
#[derive(Debug)]
pub(super) struct Pacer {
    per_minute: u32,
    /// How many may follow each other at once.
    burst: u32,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// When the turns given so far would be used up at an even pace.
    used_until: Instant,
    /// Nothing is sent before.
    not_before: Instant,
    /// How many times slower than configured.
    slowness: u32,
    /// Messages that went well since that was last changed.
    calm: u32,
}

impl Pacer {
    /// `per_minute` of 0 holds nobody up, but for what a 429 asks.
    pub fn new(per_minute: u32) -> Self {
        let now = Instant::now();
        let state = State { used_until: now, not_before: now, slowness: 1, calm: 0 };
        Self { per_minute, burst: (per_minute / 4).max(1), state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The distance of two messages at an even pace: with the burst, a minute holds `per_minute`.
    fn distance(&self, slowness: u32) -> Duration {
        match self.per_minute {
            0 => Duration::ZERO,
            n => MINUTE / (n - self.burst).max(1) * slowness,
        }
    }

    /// Waits for a turn. Who is dropped while waiting has used it. Fails with the time until the turn when that is beyond
    /// [`LONGEST_WAIT`].
    pub async fn turn(&self) -> Result<(), Duration> {
        let at = self.take_turn(Instant::now())?;
        sleep_until(at).await;
        Ok(())
    }

    /// Gives the next turn, as seen at `now`. One that is too far away is not used up.
    fn take_turn(&self, now: Instant) -> Result<Instant, Duration> {
        let mut state = self.state();
        let distance = self.distance(state.slowness);
        let ahead = if state.slowness == 1 { distance * (self.burst - 1) } else { Duration::ZERO };
        let earliest = state.used_until.checked_sub(ahead).unwrap_or(now);
        let at = earliest.max(state.not_before).max(now);
        let away = at.duration_since(now);
        if away > LONGEST_WAIT {
            return Err(away);
        }
        state.used_until = state.used_until.max(at) + distance;
        Ok(at)
    }

    /// Everyone waits as long as a 429 asked, and goes on at half the pace.
    pub fn slow_down(&self, retry_after: Option<Duration>) {
        self.slow_down_at(Instant::now(), retry_after);
    }

    fn slow_down_at(&self, now: Instant, retry_after: Option<Duration>) {
        let mut state = self.state();
        let until = now + retry_after.unwrap_or(UNSAID).min(MOST_BELIEVED);
        state.not_before = state.not_before.max(until);
        state.used_until = state.used_until.max(until);
        state.slowness = (state.slowness * 2).min(SLOWEST);
        state.calm = 0;
    }

    /// A message went well: after a minute's worth of them the pace doubles, up to the configured one.
    pub fn went_well(&self) {
        let mut state = self.state();
        state.calm += 1;
        if state.slowness > 1 && state.calm >= self.per_minute.max(1) {
            state.slowness /= 2;
            state.calm = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// When turns come that are asked for one after the other from `begin` on, each when the one before came; as the time since `begin`.
    fn turns(pacer: &Pacer, begin: Instant, count: usize) -> Vec<Duration> {
        let mut now = begin;
        (0..count)
            .map(|_| {
                now = pacer.take_turn(now).unwrap();
                now - begin
            })
            .collect()
    }

    fn new(per_minute: u32) -> (Pacer, Instant) {
        let pacer = Pacer::new(per_minute);
        (pacer, Instant::now())
    }

    #[test]
    fn no_minute_holds_more_messages_than_configured() {
        for per_minute in [1, 2, 3, 7, 20, 60] {
            let (pacer, begin) = new(per_minute);
            let at = turns(&pacer, begin, per_minute as usize * 4);
            for first in &at {
                let in_a_minute = at.iter().filter(|t| *t >= first && **t < *first + MINUTE).count();
                assert!(in_a_minute <= per_minute as usize, "{in_a_minute} of {per_minute}");
            }
        }
    }

    #[test]
    fn a_few_may_follow_each_other_at_once_and_again_after_a_rest() {
        let (pacer, begin) = new(20);
        for minute in 0..3 {
            let at = turns(&pacer, begin + MINUTE * minute, 6);
            assert_eq!(at[..5], [Duration::ZERO; 5]);
            assert_eq!(at[5].as_secs_f32().round(), 4.0);
        }
    }

    #[test]
    fn a_429_holds_everyone_up_and_halves_the_pace_until_it_was_calm() {
        let (pacer, begin) = new(20);
        pacer.slow_down_at(begin, Some(Duration::from_secs(30)));
        assert_eq!(turns(&pacer, begin, 3), [30, 38, 46].map(Duration::from_secs));
        for _ in 0..20 {
            pacer.went_well();
        }
        assert_eq!(turns(&pacer, begin + MINUTE * 2, 5), [Duration::ZERO; 5]);
    }

    #[test]
    fn without_a_pace_only_a_429_holds_up() {
        let (pacer, begin) = new(0);
        assert_eq!(turns(&pacer, begin, 100), [Duration::ZERO; 100]);
        pacer.slow_down_at(begin, None);
        assert_eq!(turns(&pacer, begin, 2), [UNSAID, UNSAID]);
    }

    #[test]
    fn a_turn_that_is_too_far_away_is_not_waited_for() {
        let (pacer, begin) = new(20);
        let day = Duration::from_secs(86_400);
        pacer.slow_down_at(begin, Some(day));
        assert_eq!(pacer.take_turn(begin), Err(day));
        pacer.slow_down_at(begin, Some(Duration::from_secs(u64::MAX)));
        assert_eq!(pacer.take_turn(begin), Err(day), "an absurd answer is believed for a day");
        assert_eq!(pacer.take_turn(begin + day), Ok(begin + day));
    }
}
