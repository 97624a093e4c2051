//! Token buckets by key, as the generic cell rate algorithm keeps them: one instant for each key, at which its bucket will be full again.
//!
//! What always holds: no more than [`MAX_KEYS`] keys are kept, whoever calls. A key that is not kept has a full bucket.

use std::{
    collections::HashMap,
    hash::{BuildHasher, Hash, RandomState},
    sync::{Mutex, PoisonError},
};

use chrono::{DateTime, Duration, Utc};

/// Keys that are kept at once. When there are more whose buckets are not full, the newcomers share one bucket.
const MAX_KEYS: usize = 50_000;

/// How much may come at once: as many as are allowed in this time.
const AT_ONCE: Duration = Duration::seconds(10);

/// Rest between two looks for keys that need not be kept.
const SWEEP_EVERY: Duration = Duration::seconds(1);

/// So many a minute for each key. 0 is no limit.
#[derive(Debug)]
pub struct Buckets {
    per_minute: u32,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    hasher: RandomState,
    /// By the key's hash, which nobody can choose: when the bucket is full again.
    full_at: HashMap<u64, DateTime<Utc>>,
    swept_at: Option<DateTime<Utc>>,
}

/// How long one must wait, in whole seconds, 1 or more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait(pub i64);

impl Buckets {
    pub fn new(per_minute: u32) -> Self {
        Self { per_minute, state: Mutex::default() }
    }

    /// Takes one out of the key's bucket.
    ///
    /// # Errors
    /// It is empty.
    pub fn take(&self, key: &impl Hash, now: DateTime<Utc>) -> Result<(), Wait> {
        if self.per_minute == 0 {
            return Ok(());
        }
        let each = Duration::microseconds(60_000_000 / i64::from(self.per_minute));
        let depth = AT_ONCE.max(each);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let key = state.place(key, now);
        // A clock that was set back must not shut anyone out for longer.
        let full_at = state.full_at.get(&key).map_or(now, |at| (*at).clamp(now, now + depth));
        let after = full_at + each;
        if after - now > depth {
            let wait = after - now - depth;
            state.full_at.insert(key, full_at);
            return Err(Wait(wait.num_seconds() + i64::from(wait.subsec_nanos() > 0)));
        }
        state.full_at.insert(key, after);
        Ok(())
    }

    /// Whether the next would be refused. Takes nothing.
    pub fn is_empty(&self, key: &impl Hash, now: DateTime<Utc>) -> bool {
        if self.per_minute == 0 {
            return false;
        }
        let each = Duration::microseconds(60_000_000 / i64::from(self.per_minute));
        let depth = AT_ONCE.max(each);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let key = state.place(key, now);
        state.full_at.get(&key).is_some_and(|at| (*at).clamp(now, now + depth) + each - now > depth)
    }
}

impl State {
    /// Under what a key is kept.
    fn place(&mut self, key: &impl Hash, now: DateTime<Utc>) -> u64 {
        let key = self.hasher.hash_one(key);
        if self.full_at.len() < MAX_KEYS || self.full_at.contains_key(&key) {
            return key;
        }
        if self.swept_at.is_none_or(|at| now - at >= SWEEP_EVERY || at > now) {
            self.swept_at = Some(now);
            self.full_at.retain(|_, full_at| *full_at > now);
        }
        if self.full_at.len() < MAX_KEYS { key } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start() -> DateTime<Utc> {
        "2026-11-21T12:00:00Z".parse().unwrap()
    }

    #[test]
    fn a_sixth_of_a_minute_may_come_at_once_and_the_rest_in_its_time() {
        let buckets = Buckets::new(60);
        let mut now = start();
        for number in 0..10 {
            assert!(!buckets.is_empty(&"alice", now), "{number}");
            assert_eq!(buckets.take(&"alice", now), Ok(()), "{number}");
        }
        assert!(buckets.is_empty(&"alice", now) && !buckets.is_empty(&"bob", now));
        assert_eq!(buckets.take(&"alice", now), Err(Wait(1)));
        assert_eq!(buckets.take(&"bob", now), Ok(()));
        now += Duration::seconds(3);
        for _ in 0..3 {
            assert_eq!(buckets.take(&"alice", now), Ok(()));
        }
        assert_eq!(buckets.take(&"alice", now), Err(Wait(1)));
    }

    #[test]
    fn less_than_six_a_minute_let_one_come_at_once() {
        let buckets = Buckets::new(1);
        assert_eq!(buckets.take(&"alice", start()), Ok(()));
        assert_eq!(buckets.take(&"alice", start()), Err(Wait(60)));
        assert_eq!(buckets.take(&"alice", start() + Duration::seconds(60)), Ok(()));
    }

    #[test]
    fn no_limit_is_none_and_a_clock_that_is_set_back_shuts_nobody_out() {
        let unlimited = Buckets::new(0);
        assert!((0..10_000).all(|_| unlimited.take(&"alice", start()).is_ok()));
        let buckets = Buckets::new(60);
        while buckets.take(&"alice", start()).is_ok() {}
        let before = start() - Duration::days(30);
        assert_eq!(buckets.take(&"alice", before), Err(Wait(1)));
        assert_eq!(buckets.take(&"alice", before + Duration::seconds(2)), Ok(()));
    }

    #[test]
    fn however_many_call_no_more_keys_are_kept_and_the_newcomers_share_one_bucket() {
        let buckets = Buckets::new(6);
        let refused = (0..3 * MAX_KEYS).filter(|key| buckets.take(key, start()).is_err()).count();
        assert!(refused > MAX_KEYS, "{refused}");
        assert!(buckets.state.lock().unwrap().full_at.len() <= MAX_KEYS + 1);
        // A minute later all are full again.
        let later = start() + Duration::seconds(61);
        assert_eq!(buckets.take(&"somebody new", later), Ok(()));
        assert_eq!(buckets.state.lock().unwrap().full_at.len(), 1);
    }
}
