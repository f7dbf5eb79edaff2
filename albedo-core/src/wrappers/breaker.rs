//! A circuit breaker: stops asking who does not answer.

use std::time::Duration;

use super::BreakerSettings;

/// What becomes of a call that wants to go ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    /// It may.
    Go,
    /// It has to wait for another call's outcome.
    Wait,
    /// The circuit is open: not before this time.
    Open(Duration),
}

/// Counts failures in a row, and nothing else: successes of others, refusals of
/// single requests, rate limits and calls that lost a race are none.
///
/// Closed, it lets calls through; so many failures in a row open it; after a
/// cool-down it is half open and lets one probe through. Until a route has
/// answered once, no more calls are under way than may still fail: one that was
/// dead from the start costs exactly `failures` calls, and later one for each
/// cool-down, which doubles.
#[derive(Debug)]
pub(super) struct Breaker {
    settings: BreakerSettings,
    failures: u32,
    /// Whether it has answered since it was last open.
    proven: bool,
    in_flight: u32,
    /// Open until then, and for how long that was.
    cooling: Option<(Duration, Duration)>,
}

impl Breaker {
    pub(super) fn new(settings: BreakerSettings) -> Self {
        Self { settings, failures: 0, proven: false, in_flight: 0, cooling: None }
    }

    /// Whether a call may go ahead now; the caller then calls `enter`.
    pub(super) fn admission(&self, now: Duration) -> Admission {
        if let Some((until, _)) = self.cooling {
            return match (now >= until, self.in_flight) {
                (false, _) => Admission::Open(until),
                (true, 0) => Admission::Go,
                (true, _) => Admission::Wait,
            };
        }
        if self.proven || self.in_flight + self.failures < self.settings.failures {
            Admission::Go
        } else {
            Admission::Wait
        }
    }

    pub(super) fn enter(&mut self) {
        self.in_flight += 1;
    }

    /// An admitted call answered, or was refused for its own sake.
    pub(super) fn answered(&mut self) {
        self.leave();
        *self = Self { in_flight: self.in_flight, proven: true, ..Self::new(self.settings) };
    }

    /// An admitted call failed.
    pub(super) fn failed(&mut self, now: Duration) {
        self.leave();
        self.failures += 1;
        match self.cooling {
            // The probe failed: wait twice as long.
            Some((until, cooled)) if now >= until => self.cool(now, cooled * 2),
            None if self.failures >= self.settings.failures => self.cool(now, self.settings.cooldown()),
            // Too few yet, or sent before it opened.
            _ => {}
        }
    }

    /// An admitted call ended without telling anything about the route.
    pub(super) fn leave(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    fn cool(&mut self, now: Duration, time: Duration) {
        let time = time.min(self.settings.max_cooldown());
        self.cooling = Some((now + time, time));
        self.proven = false;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn breaker() -> Breaker {
        Breaker::new(BreakerSettings { failures: 3, cooldown_secs: 10.0, max_cooldown_secs: 30.0 })
    }

    #[test]
    fn failures_in_a_row_open_it_and_a_probe_closes_it() {
        let mut breaker = breaker();
        for second in 0..3 {
            assert_eq!(breaker.admission(SECOND * second), Admission::Go);
            breaker.enter();
            breaker.failed(SECOND * second);
        }
        assert_eq!(breaker.admission(SECOND * 11), Admission::Open(SECOND * 12));
        assert_eq!(breaker.admission(SECOND * 12), Admission::Go);
        breaker.enter();
        assert_eq!(breaker.admission(SECOND * 12), Admission::Wait, "one probe at a time");
        breaker.failed(SECOND * 13);
        assert_eq!(breaker.admission(SECOND * 14), Admission::Open(SECOND * 33));
        breaker.enter();
        breaker.failed(SECOND * 33);
        assert_eq!(breaker.admission(SECOND * 34), Admission::Open(SECOND * 63), "no more than 30 s");
        breaker.enter();
        breaker.answered();
        assert_eq!(breaker.admission(SECOND * 63), Admission::Go);
        breaker.enter();
        breaker.failed(SECOND * 64);
        assert_eq!(breaker.admission(SECOND * 64), Admission::Go, "counted from 0 again");
    }

    #[test]
    fn an_answer_breaks_the_row() {
        let mut breaker = breaker();
        for _ in 0..10 {
            for outcome in [Breaker::answered, |breaker: &mut Breaker| breaker.failed(SECOND)] {
                breaker.enter();
                outcome(&mut breaker);
            }
            breaker.enter();
            breaker.leave();
        }
        assert_eq!(breaker.admission(SECOND), Admission::Go);
    }

    proptest! {
        /// However calls come and end, a route that never answers is asked no
        /// more often than the threshold before the circuit opens.
        #[test]
        fn a_dead_route_costs_its_threshold(ends in proptest::collection::vec(any::<bool>(), 0..60)) {
            let (mut breaker, mut entered) = (breaker(), 0);
            for end in ends {
                if end && breaker.in_flight > 0 {
                    breaker.failed(SECOND);
                } else if breaker.admission(SECOND) == Admission::Go {
                    breaker.enter();
                    entered += 1;
                }
            }
            prop_assert!(entered <= 3, "{entered}");
        }
    }
}
