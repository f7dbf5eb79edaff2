//! The schedule of somebody who knows the script.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use super::{ChaosScript, End, secs};
use crate::wrappers::DeadlineSettings;

/// When the last of the requests `keys` is answered by a scheduler that knows
/// the script from the start: it uses all of `in_flight` places (or the
/// provider's capacity, if that is less) at all times, pauses never, sends
/// nothing into a storm, and begins with the requests that take longest. Like
/// anybody it pays for each scripted failure before the try that succeeds, at
/// most `attempts` of them.
pub fn clairvoyant(
    script: &ChaosScript,
    keys: &[u64],
    deadlines: &DeadlineSettings,
    attempts: u32,
    in_flight: u32,
) -> Duration {
    let tries = |&key: &u64| {
        let fates = (0..attempts).map(|number| script.fate(key, number));
        let mut ended = false;
        let until_answered = fates
            .take_while(|fate| !std::mem::replace(&mut ended, matches!(fate.end, End::Answered | End::Cut)));
        until_answered.map(|fate| fate.takes(deadlines)).collect::<Vec<_>>()
    };
    let mut requests: Vec<_> = keys.iter().map(tries).collect();
    requests.sort_by_key(|tries| Reverse(tries.iter().sum::<Duration>()));
    let places = script.capacity.unwrap_or(in_flight).min(in_flight);
    let mut free: BinaryHeap<_> = (0..places).map(|_| Reverse(Duration::ZERO)).collect();
    let mut last = Duration::ZERO;
    for tries in requests {
        let Some(Reverse(mut now)) = free.pop() else { break };
        for takes in tries {
            while let Some(storm) = script.storm(now) {
                now = secs(storm.until_secs);
            }
            now += takes;
        }
        last = last.max(now);
        free.push(Reverse(now));
    }
    last
}
