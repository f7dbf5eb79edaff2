//! How many calls may be under way: additive increase, multiplicative decrease.

use std::time::Duration;

use super::{ConcurrencySettings, secs};

/// Pause after a refusal that does not say how long to wait, in seconds, and
/// what it is multiplied by until a call succeeds, up to the longest. Source: albedo.
/// Everybody waits, so that a storm costs a few refusals rather than one of
/// every request that is waiting.
const PAUSE: f64 = 0.5;
const PAUSE_GROWS: f64 = 1.5;
const LONGEST_PAUSE: f64 = 5.0;

/// A limit that grows while calls succeed and shrinks when the provider asks
/// for it. It doubles in the time of a call until the first such wish, and grows
/// by one in that time from there (Chiu and Jain, *Analysis of the increase and
/// decrease algorithms for congestion avoidance*, 1989).
///
/// It shrinks with every round of refusals: in the first (too many calls were under
/// way) by one decrease, but not below what was being served all the same, for a
/// provider that takes six at a time is found out by a seventh again and again, and
/// must not be left at four for that. Once a call is answered again, it stays there,
/// or is back where it was if there were several rounds (no call was served: a
/// storm, which says nothing about how many are too many).
#[derive(Debug)]
pub(super) struct Limit {
    settings: ConcurrencySettings,
    size: f64,
    in_flight: u32,
    /// It doubles up to here.
    threshold: f64,
    /// Where it was before the refusals now.
    before: f64,
    /// Calls under way that were not refused then, as far as is known.
    served: u32,
    /// Wishes about calls begun before the last decrease are old news.
    decreased: Option<Duration>,
    /// Decreases since a call was last answered.
    rounds: u32,
    /// Nothing goes out before this.
    paused_until: Duration,
    /// Calls that the provider will still take until its limit is whole again.
    allowance: Option<(u32, Duration)>,
}

impl Limit {
    pub(super) fn new(settings: ConcurrencySettings) -> Self {
        Self {
            size: f64::from(settings.initial),
            threshold: f64::from(settings.max),
            before: f64::from(settings.initial),
            served: 0,
            settings,
            in_flight: 0,
            decreased: None,
            rounds: 0,
            paused_until: Duration::ZERO,
            allowance: None,
        }
    }

    /// When calls may go out again, if the provider asked for a pause.
    pub(super) fn paused(&self, now: Duration) -> Option<Duration> {
        let spent = self.allowance.filter(|&(remaining, _)| remaining == 0).map(|(_, until)| until);
        Some(self.paused_until.max(spent.unwrap_or_default())).filter(|&until| until > now)
    }

    /// Whether one call more may be under way.
    pub(super) fn has_room(&self) -> bool {
        self.in_flight < self.current()
    }

    /// The limit now, a whole number.
    pub(super) fn current(&self) -> u32 {
        self.size as u32
    }

    pub(super) fn enter(&mut self, now: Duration) {
        self.in_flight += 1;
        self.allowance = match self.allowance {
            Some((remaining, until)) if until > now => Some((remaining.saturating_sub(1), until)),
            _ => None,
        };
    }

    pub(super) fn leave(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    /// A call that was sent at `sent` is being answered: if that was after the
    /// last refusal, the refusals are over. Says whether that is news.
    pub(super) fn began(&mut self, sent: Duration) -> bool {
        let over = self.rounds > 0 && self.decreased.is_some_and(|decreased| sent >= decreased);
        if over {
            self.threshold = match self.rounds {
                1 => self.after_one_round(),
                _ => self.before,
            };
            self.size = self.size.max(self.threshold);
            self.rounds = 0;
        }
        over
    }

    /// A call that was sent at `sent` succeeded; only a limit that is in use grows,
    /// and none while calls are being refused.
    pub(super) fn succeeded(&mut self, sent: Duration) {
        self.began(sent);
        if self.rounds == 0 && self.in_flight >= self.current() {
            let step = if self.size < self.threshold { 1.0 } else { 1.0 / self.size };
            self.size = (self.size + step).min(f64::from(self.settings.max));
        }
    }

    /// The provider refused a call that was sent at `sent` and is still counted as
    /// under way, and may have said how long to wait.
    pub(super) fn refused(&mut self, sent: Duration, now: Duration, pause: Option<Duration>) {
        if self.decreased.is_none_or(|decreased| sent >= decreased) {
            if self.rounds == 0 {
                self.before = self.size;
                self.served = u32::MAX;
            }
            self.decreased = Some(now);
            self.rounds += 1;
            self.size = (self.size * self.settings.decrease).max(1.0);
        }
        self.served = self.served.min(self.in_flight.saturating_sub(1));
        if self.rounds == 1 {
            self.size = self.after_one_round();
        }
        let grown = PAUSE * PAUSE_GROWS.powi(self.rounds.saturating_sub(1).min(64) as i32);
        let pause = pause.unwrap_or_else(|| secs(grown.min(LONGEST_PAUSE)));
        self.paused_until = self.paused_until.max(now + pause);
    }

    fn after_one_round(&self) -> f64 {
        (self.before * self.settings.decrease).max(f64::from(self.served)).max(1.0)
    }

    /// The provider told its limit.
    pub(super) fn told(&mut self, now: Duration, remaining: u32, resets_in: Duration) {
        self.allowance = Some((remaining, now + resets_in));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn limit() -> Limit {
        Limit::new(ConcurrencySettings { initial: 4, max: 16, decrease: 0.5 })
    }

    /// One call's time of full use.
    fn window(limit: &mut Limit) {
        let calls = limit.current();
        for _ in 0..calls {
            limit.in_flight = limit.current();
            limit.succeeded(SECOND * 5);
        }
    }

    #[test]
    fn it_doubles_then_shrinks_comes_back_and_grows_by_one() {
        let mut limit = limit();
        window(&mut limit);
        assert_eq!(limit.current(), 8);
        window(&mut limit);
        window(&mut limit);
        assert_eq!(limit.current(), 16, "no more than the most");
        for _ in 0..5 {
            limit.refused(SECOND, SECOND * 2, None);
            limit.leave();
        }
        assert_eq!(limit.current(), 11, "one decrease, but not below the eleven that were served");
        limit.in_flight = 11;
        limit.succeeded(SECOND);
        assert_eq!(limit.current(), 11, "no growth while calls are refused");
        limit.refused(SECOND * 3, SECOND * 4, None);
        assert_eq!(limit.current(), 5, "the storm goes on");
        limit.began(SECOND * 3);
        assert_eq!(limit.current(), 5, "a call from before the last refusal tells nothing");
        limit.began(SECOND * 4);
        assert_eq!(limit.current(), 16, "nothing went through: it was a storm");
        limit.in_flight = 5;
        limit.refused(SECOND * 4, SECOND * 5, None);
        limit.began(SECOND * 5);
        window(&mut limit);
        assert_eq!(limit.current(), 8, "half of what was too much, and not quite one more");
        window(&mut limit);
        assert_eq!(limit.current(), 9);
        limit.in_flight = 1;
        for _ in 0..100 {
            limit.succeeded(SECOND * 5);
        }
        assert_eq!(limit.current(), 9, "a limit that is not in use does not grow");
    }

    #[test]
    fn a_pause_and_a_spent_allowance_hold_calls_back() {
        let mut limit = limit();
        assert_eq!(limit.paused(SECOND), None);
        limit.refused(SECOND, SECOND, None);
        assert_eq!(limit.paused(SECOND), Some(SECOND * 3 / 2), "half a second if it does not say");
        limit.refused(SECOND, SECOND, Some(SECOND * 5));
        limit.refused(SECOND, SECOND, Some(SECOND));
        assert_eq!(limit.paused(SECOND), Some(SECOND * 6));
        assert_eq!(limit.paused(SECOND * 6), None);
        limit.told(SECOND * 6, 2, SECOND * 10);
        limit.enter(SECOND * 6);
        assert_eq!(limit.paused(SECOND * 6), None);
        limit.enter(SECOND * 7);
        assert_eq!(limit.paused(SECOND * 7), Some(SECOND * 16));
        limit.enter(SECOND * 16);
        assert_eq!(limit.paused(SECOND * 16), None, "whole again");
    }

    proptest! {
        #[test]
        fn it_stays_between_one_and_the_most(events in proptest::collection::vec(0_u8..3, 0..200)) {
            let mut limit = limit();
            for (second, event) in (0..).zip(events) {
                let now = SECOND * second;
                match event {
                    0 if limit.has_room() => limit.enter(now),
                    1 => {
                        limit.succeeded(now);
                        limit.leave();
                    }
                    _ => limit.refused(now, now, None),
                }
                prop_assert!((1..=16).contains(&limit.current()));
                prop_assert!(limit.in_flight <= 16);
            }
        }
    }
}
