//! What it costs when the providers of three remote judges have a bad day, in
//! virtual time: wall time beside that of a scheduler that knows the script.
#![expect(clippy::print_stdout, reason = "what it prints is the measurement")]

#[path = "../albedo-core/tests/providers/simulation.rs"]
mod simulation;

use simulation::{Outcome, days, live};

/// Scripts of each day; the other columns are of the first.
const YEARS: u64 = 20;

fn main() {
    println!("3 models × 2 orders × 128 samples = 768 calls; the ratio may be 1.10\n");
    println!(
        "| day | answered | failed | tries: first, second route | most of one call | 429s | most in flight, allowed | wall | clairvoyant | ratio | worst of {YEARS} scripts |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|");
    for day in days() {
        let outcome = live(&day, 0);
        let ratio = outcome.ratio();
        let worst = (1..YEARS).map(|year| live(&day, year).ratio()).fold(ratio, f64::max);
        let Outcome { name, calls, answered, errors, tries, rate_limited, most_tries, .. } = outcome;
        let Outcome { most_in_flight, allowed, wall, clairvoyant, .. } = outcome;
        let sum = |route: usize| tries.iter().map(|tries| tries[route]).sum::<u32>();
        let (failed, first, second) = (errors.len(), sum(0), sum(1));
        let (wall, clairvoyant) = (wall.as_secs_f64(), clairvoyant.as_secs_f64());
        println!(
            "| {name} | {answered} of {calls} | {failed} | {first}, {second} | {most_tries} | {rate_limited} | {most_in_flight}, {allowed} | {wall:.0} s | {clairvoyant:.0} s | {ratio:.3} | {worst:.3} |"
        );
    }
}
