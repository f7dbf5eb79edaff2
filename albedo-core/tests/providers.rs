//! Remote models on their providers' bad days.

#[path = "providers/simulation.rs"]
mod simulation;

use albedo_core::{Fault, Retry};
use simulation::{days, live};

/// Scripts of each day.
const YEARS: u64 = 5;

#[test]
fn judging_ends_complete_and_in_time_whatever_the_day() {
    for (day, year) in days().into_iter().flat_map(|day| (0..YEARS).map(move |year| (day.clone(), year))) {
        let outcome = live(&day, year);
        let (name, ratio) = (outcome.name, outcome.ratio());
        assert!(outcome.most_in_flight <= outcome.allowed, "{name}: {}", outcome.most_in_flight);
        assert!(outcome.most_tries <= day.guards.retry.attempts + outcome.rate_limited, "{name}");
        assert!(ratio <= 1.10, "{name}: {ratio:.3} of {:?}", outcome.clairvoyant);
        if day.first.poisoned > 0.0 {
            assert!(outcome.errors.len() < 40 && !outcome.errors.is_empty(), "{name}");
            assert_eq!(
                outcome.most_tries, day.guards.retry.attempts,
                "{name}: a 500 for good is not retried on"
            );
        } else {
            assert_eq!(outcome.answered, outcome.calls, "{name}: {:?}", outcome.errors.first());
        }
        for error in &outcome.errors {
            assert_eq!(error.fault(), Fault::Infrastructure, "{name}: {error}");
            assert!(matches!(error.retry(), Retry::Exhausted { attempts: 5 }), "{name}: {error:?}");
        }
        if day.second.is_some() {
            for [first, _] in outcome.tries {
                let probes = outcome.wall.as_secs_f64() / day.guards.breaker.cooldown_secs;
                assert!(first <= day.guards.breaker.failures + probes as u32, "{name}: {first} tries");
            }
        }
    }
}
