//! Where in its schedule's window a project comes: the same place every time, and all projects evenly over it.

use chrono::Duration;
use sha2::{Digest, Sha256};

use crate::clock::Timestamp;

/// A project's place in a window, in whole seconds from its beginning. By its id alone, so it is the same in every process.
pub fn place(project_id: &str, window: Duration) -> Duration {
    let digest = Sha256::digest(project_id.as_bytes());
    let chance = digest.iter().take(8).fold(0u64, |number, byte| number << 8 | u64::from(*byte));
    let seconds = u128::from(window.num_seconds().max(0).unsigned_abs());
    let offset = (u128::from(chance) * seconds) >> 64;
    Duration::seconds(i64::try_from(offset).unwrap_or(0))
}

/// When a project's backup of this slot begins. A slot that is opened later than its window is long is spread again from now on, so that
/// everything that was missed does not begin at once.
pub fn due_at(slot: Timestamp, now: Timestamp, window: Duration, project_id: &str) -> Timestamp {
    let from = if now - slot > window { now } else { slot };
    from + place(project_id, window)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn projects_keep_their_place_and_are_spread_evenly() {
        let window = Duration::minutes(120);
        let mut minutes = [0u32; 120];
        for n in 0..12_000 {
            let id = format!("project-{n}");
            let place = place(&id, window);
            assert!(place >= Duration::zero() && place < window);
            assert_eq!(place, super::place(&id, window));
            minutes[place.num_minutes() as usize] += 1;
        }
        // 100 each on average; a spread by chance stays far inside these.
        assert!(minutes.iter().all(|count| (50..=150).contains(count)), "{minutes:?}");
        assert_eq!(place("acme", Duration::zero()), Duration::zero());
    }

    #[test]
    fn what_was_missed_is_spread_again_from_now_on() {
        let slot: Timestamp = "2026-11-21T02:00:00Z".parse().unwrap();
        let (window, offset) = (Duration::hours(1), place("acme", Duration::hours(1)));
        assert_eq!(due_at(slot, slot + Duration::seconds(10), window, "acme"), slot + offset);
        assert_eq!(due_at(slot, slot + Duration::hours(1), window, "acme"), slot + offset);
        let late = slot + Duration::hours(5);
        assert_eq!(due_at(slot, late, window, "acme"), late + offset);
        assert_eq!(due_at(slot, late, Duration::zero(), "acme"), late);
    }
}
