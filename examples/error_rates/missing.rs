//! Missing cells: those that a contestant makes, and those of an outage.

use albedo::decision::{RuleVersion, Ruling, TwoSeries, cap};
use albedo::reign::ErrorBudget;
use albedo::rng::Stream;

use crate::noise::{Profile, Source, normal};
use crate::rates::{Rate, simulate};
use crate::{sequential, stream};

/// The normal quantile of 9.5 %, the share of the samples that the contestant makes
/// missing: just below the tenth that makes a duel of the first version void.
const VANISHING_BELOW: f64 = -1.310_579;

/// How well the contestant knows beforehand how a sample will be judged.
const CORRELATIONS: [f64; 4] = [0.0, 0.3, 0.5, 0.8];

const PROFILES: [Profile; 3] = [Profile::Graded(0.15), Profile::Graded(0.25), Profile::Coarse(0.48)];

/// Equal challengers that make their worst samples missing by what their replies say.
pub(crate) fn vanishing(budget: ErrorBudget, trials: usize) {
    println!("\n## An equal challenger makes 9.5 % of its samples missing: crowned in percent\n");
    println!(
        "`r` is the correlation of what it goes by with the sample's own result. There are {} reigns a cell.\n",
        trials.div_ceil(10)
    );
    println!("| noise | r | version | cap 64, alpha 5 % | cap 256, 5 % | cap 948, 0.02 % | reign of 200 |");
    println!("|---|---|---|---|---|---|---|");
    for profile in PROFILES {
        for r in CORRELATIONS {
            for (version, name) in [(RuleVersion::First, "1"), (RuleVersion::Second, "2")] {
                print!("| {} | {r} | {name} |", profile.name());
                let source = Source::new(profile, 0.0);
                let share = budget.share(1);
                for (alpha, cap) in [(0.05, 64), (0.05, 256), (share, cap(share))] {
                    let cell = format!("{} {r} {cap}", profile.name());
                    let crowned = simulate(trials, |trial| {
                        let mut stream = stream("vanishing", &cell, trial);
                        vanishing_duel(version, alpha, cap, r, &mut source.clone(), &mut stream)
                    });
                    print!(" {} |", Rate::of(crowned.into_iter()));
                }
                let cell = format!("{} {r}", profile.name());
                let crowned = simulate(trials.div_ceil(10), |trial| {
                    let mut stream = stream("vanishing reign", &cell, trial);
                    (1..=200).any(|attempt| {
                        let share = budget.share(attempt);
                        vanishing_duel(version, share, cap(share), r, &mut source.clone(), &mut stream)
                    })
                });
                println!(" {} |", Rate::of(crowned.into_iter()));
            }
        }
    }
}

fn vanishing_duel(
    version: RuleVersion,
    alpha: f64,
    cap: u32,
    r: f64,
    source: &mut Source,
    stream: &mut Stream,
) -> bool {
    let mut series = TwoSeries::new(sequential(version, alpha, cap));
    let independent = (1.0 - r * r).sqrt();
    loop {
        let difference = source.draw(stream);
        let known = r * difference / source.sd() + independent * normal(stream);
        let (tie, king) = if known < VANISHING_BELOW { (0.0, -1.0) } else { (difference, difference) };
        let king = if version == RuleVersion::First { tie } else { king };
        if let Some(ruling) = series.consume(tie, king) {
            return ruling == Ruling::Dethroned;
        }
    }
}

/// Better challengers, and one judge of three that is away for outside reasons.
pub(crate) fn outages(budget: ErrorBudget, trials: usize) {
    println!("\n## One judge of three is missing for outside reasons: crowned in percent / mean samples\n");
    println!("A disputed win has the missing answers asked for again; by then the judge is back.\n");
    println!(
        "| noise | effect | nothing missing | 3 % | 10 % | 3 %, not asked again | 10 %, not asked again |"
    );
    println!("|---|---|---|---|---|---|---|");
    let share = budget.share(1);
    for profile in &PROFILES[..2] {
        for effect in [3.0, 5.0] {
            print!("| {} | {effect:+} |", profile.name());
            let source = Source::new(*profile, effect / 100.0);
            let cell = format!("{} {effect}", profile.name());
            for (missing, again) in [(0.0, true), (0.03, true), (0.1, true), (0.03, false), (0.1, false)] {
                let duels = simulate(trials, |trial| {
                    let mut stream = stream("outages", &cell, trial);
                    outage_duel(share, missing, again, &mut source.clone(), &mut stream)
                });
                let samples: f64 = duels.iter().map(|duel| f64::from(duel.1)).sum();
                let rate = Rate::of(duels.iter().map(|duel| duel.0));
                print!(" {rate} / {:.0} |", samples / trials as f64);
            }
            println!();
        }
    }
}

/// Whether the challenger is crowned, and after how many samples.
fn outage_duel(
    alpha: f64,
    missing: f64,
    again: bool,
    source: &mut Source,
    stream: &mut Stream,
) -> (bool, u32) {
    let cap = cap(alpha);
    let mut samples: Vec<(f64, bool)> = Vec::new();
    'from_the_first: loop {
        let mut series = TwoSeries::new(sequential(RuleVersion::NEWEST, alpha, cap));
        for sample in 0.. {
            if sample == samples.len() {
                let difference = source.draw(stream);
                let unit = (stream.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
                samples.push((difference, unit < missing));
            }
            let (difference, away) = samples[sample];
            // The other two judges see the same, a third of the mean is a tie or the king's.
            let others = 2.0 * difference;
            let (tie, king) =
                if away { (others / 3.0, (others - 1.0) / 3.0) } else { (difference, difference) };
            let ruling = series.consume(tie, king);
            if again && series.disputed() && samples.iter().any(|sample| sample.1) {
                for sample in &mut samples {
                    sample.1 = false;
                }
                continue 'from_the_first;
            }
            if let Some(ruling) = ruling {
                return (ruling == Ruling::Dethroned, series.samples());
            }
        }
    }
}
