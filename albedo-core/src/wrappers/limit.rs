//! How many calls may be under way: additive increase, multiplicative decrease.

use std::time::Duration;

use super::ConcurrencySettings;

/// A limit that grows while calls succeed and shrinks when the provider asks
/// for it. It doubles in the time of a call until the first such wish, then
/// grows by one in that time (Chiu and Jain, *Analysis of the increase and
/// decrease algorithms for congestion avoidance*, 1989).
#[derive(Debug)]
pub(super) struct Limit {
    settings: ConcurrencySettings,
    limit: f64,
    in_flight: u32,
    /// Doubling still.
    starting: bool,
    /// Wishes about calls begun before the last decrease are old news.
    decreased: Option<Duration>,
    /// Nothing goes out before this.
    paused_until: Duration,
    /// Calls that the provider will still take until its limit is whole again.
    allowance: Option<(u32, Duration)>,
}

impl Limit {
    pub(super) fn new(settings: ConcurrencySettings) -> Self {
        Self {
            limit: f64::from(settings.initial),
            settings,
            in_flight: 0,
            starting: true,
            decreased: None,
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
        self.limit as u32
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

    /// A call succeeded; only a limit that is in use grows.
    pub(super) fn succeeded(&mut self) {
        if self.in_flight >= self.current() {
            let step = if self.starting { 1.0 } else { 1.0 / self.limit };
            self.limit = (self.limit + step).min(f64::from(self.settings.max));
        }
    }

    /// The provider refused a call that was sent at `sent`, and may have said
    /// how long to wait.
    pub(super) fn refused(&mut self, sent: Duration, now: Duration, pause: Option<Duration>) {
        if let Some(pause) = pause {
            self.paused_until = self.paused_until.max(now + pause);
        }
        if self.decreased.is_none_or(|decreased| sent >= decreased) {
            self.decreased = Some(now);
            self.starting = false;
            self.limit = (self.limit * self.settings.decrease).max(1.0);
        }
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
            limit.succeeded();
        }
    }

    #[test]
    fn it_doubles_then_halves_then_grows_by_one() {
        let mut limit = limit();
        window(&mut limit);
        assert_eq!(limit.current(), 8);
        window(&mut limit);
        window(&mut limit);
        assert_eq!(limit.current(), 16, "no more than the most");
        for _ in 0..5 {
            limit.refused(SECOND, SECOND * 2, None);
        }
        assert_eq!(limit.current(), 8, "one decrease for all that were sent before it");
        limit.refused(SECOND * 3, SECOND * 4, None);
        assert_eq!(limit.current(), 4);
        window(&mut limit);
        window(&mut limit);
        assert_eq!(limit.current(), 5, "4.94 + a little");
        limit.in_flight = 1;
        for _ in 0..100 {
            limit.succeeded();
        }
        assert_eq!(limit.current(), 5, "a limit that is not in use does not grow");
    }

    #[test]
    fn a_pause_and_a_spent_allowance_hold_calls_back() {
        let mut limit = limit();
        assert_eq!(limit.paused(SECOND), None);
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
                        limit.succeeded();
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
