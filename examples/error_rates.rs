//! How often each decision rule crowns a challenger that is not better, and how
//! often one that is, by simulation. Prints Markdown; the results of `--full`
//! are in `docs/error-rates.md`.
//!
//! ```text
//! cargo run --release --example error_rates [-- [--full | --trials N] [SECTION…]]
//! ```
//!
//! Without a section it prints all of them. `--full` is 10,000 trials a cell, the
//! default 100.
#![expect(clippy::print_stdout, reason = "an example prints")]

use albedo::decision::{Evidence, Rule, RuleContext, RuleVersion, Ruling, SequentialTest, cap, decide};
use albedo::error::Result;
use albedo::judge::Metric;
use albedo::panel::{Cell, Cluster, Reducer};
use albedo::reign::ErrorBudget;
use albedo::rng::{Stream, Use, derive_seed};
use albedo::stats::bootstrap_interval;

use crate::noise::{Profile, Source};
use crate::rates::{Rate, simulate};

#[path = "error_rates/missing.rs"]
mod missing;
#[path = "error_rates/noise.rs"]
mod noise;
#[path = "error_rates/rates.rs"]
mod rates;
#[path = "error_rates/versions.rs"]
mod versions;

/// Every stream of the simulation derives from it.
const SEED: u64 = 2026;

/// Chance of a false crown that a whole reign may spend.
const REIGN_ALPHA: f64 = 0.05;

/// True effects in points.
const EFFECTS: [f64; 6] = [0.0, 1.0, 2.0, 3.0, 5.0, 10.0];

/// Challengers after which a reign's false crowns are counted.
const ATTEMPTS: [u64; 4] = [1, 10, 50, 200];

/// Prints one part of the tables: of this many trials a cell.
type Section = fn(ErrorBudget, usize);

/// The parts by name, in the order in which they are printed.
const SECTIONS: [(&str, Section); 9] = [
    ("false-crowns", false_crowns),
    ("near-king", near_king),
    ("crown-rates", crown_rates),
    ("versions", versions::print),
    ("missing", missing::vanishing),
    ("outages", missing::outages),
    ("schedule", schedule),
    ("power", |_, trials| power(2 * trials)),
    ("coverage", |_, trials| coverage(trials)),
];

fn main() -> Result<()> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let (mut trials, mut wanted) = (100, Vec::new());
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--full" => trials = 10_000,
            "--trials" => trials = arguments.next().and_then(|count| count.parse().ok()).unwrap_or(trials),
            section => wanted.push(section),
        }
    }
    let budget = ErrorBudget::new(REIGN_ALPHA)?;
    println!("Seed {SEED}; {trials} reigns, duels or sequences a cell; intervals are exact, 95 %.");
    for (name, section) in SECTIONS {
        if wanted.is_empty() || wanted.contains(&name) {
            section(budget, trials);
        }
    }
    Ok(())
}

/// The rules compared, with the sample counts that their users gave them.
#[derive(Debug, Clone, Copy)]
enum Contender {
    /// A win by 2.5 points over 100 samples.
    Margin,
    /// Two such wins in a row.
    TwoWins,
    /// A win by 2.0 points over 128 samples and a bootstrap bound above 0.
    MarginLcb,
    /// albedo's own, within a reign.
    Sequential(RuleVersion),
}

impl Contender {
    const ALL: [Self; 5] = [
        Self::Margin,
        Self::TwoWins,
        Self::MarginLcb,
        Self::Sequential(RuleVersion::First),
        Self::Sequential(RuleVersion::Second),
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Margin => "margin 2.5",
            Self::TwoWins => "two wins",
            Self::MarginLcb => "margin-lcb",
            Self::Sequential(RuleVersion::First) => "sequential, version 1",
            Self::Sequential(_) => "sequential",
        }
    }

    /// Names the streams of random numbers: both versions of a rule see the same.
    fn stream(self) -> &'static str {
        match self {
            Self::Sequential(_) => "sequential",
            other => other.name(),
        }
    }

    /// One duel at `share` of the budget: whether it crowns, and its samples.
    fn duel(self, share: f64, source: &mut Source, stream: &mut Stream) -> (bool, u32) {
        let mut mean = |samples: u32| {
            source.start_duel(stream);
            let differences: Vec<_> = (0..samples).map(|_| source.draw(stream)).collect();
            (100.0 * differences.iter().sum::<f64>() / f64::from(samples), differences)
        };
        match self {
            Self::Margin => (mean(100).0 >= 2.5, 100),
            Self::TwoWins if mean(100).0 < 2.5 => (false, 100),
            Self::TwoWins => (mean(100).0 >= 2.5, 200),
            Self::MarginLcb => {
                let (mean, differences) = mean(128);
                (mean >= 1.9 && lcb_crowns(&differences, stream.next_u64()), 128)
            }
            Self::Sequential(version) => {
                let mut test = sequential(version, share, cap(share));
                source.start_duel(stream);
                loop {
                    if let Some(ruling) = test.consume(source.draw(stream)) {
                        return (ruling == Ruling::Dethroned, test.samples());
                    }
                }
            }
        }
    }
}

/// `margin-lcb` with 1,000 resamples instead of 10,000: a tenth of the time, and
/// a quantile whose own error is small beside the duel's.
fn lcb_crowns(differences: &[f64], entropy: u64) -> bool {
    let rule = Rule::MarginLcb { win_margin: 2.0, alpha: 0.05, resamples: 1_000 };
    let samples = differences.len() as u32;
    let context = RuleContext { entropy, ..RuleContext::new(&rule, samples, 0.05) };
    decide(&rule, context, clusters(differences)).is_some_and(|decision| decision.ruling == Ruling::Dethroned)
}

/// `sequential` with its default margins.
fn sequential(version: RuleVersion, alpha: f64, cap: u32) -> SequentialTest {
    sequential_of(2.0, version, alpha, cap)
}

/// `sequential` with this win margin in points.
fn sequential_of(win_margin: f64, version: RuleVersion, alpha: f64, cap: u32) -> SequentialTest {
    let context = RuleContext { version, ..RuleContext::new(&Rule::default(), cap, alpha) };
    SequentialTest::new(win_margin, 0.0, &context)
}

fn stream(section: &str, cell: &str, trial: usize) -> Stream {
    let parts = [&SEED.to_le_bytes(), cell.as_bytes(), &trial.to_le_bytes()];
    Stream::new(derive_seed(section, &parts), Use::Bootstrap)
}

fn profiles() -> impl Iterator<Item = Profile> {
    Profile::NULL_HOLDS.into_iter().chain(Profile::NULL_BROKEN)
}

fn false_crowns(budget: ErrorBudget, trials: usize) {
    println!("\n## False crowns of a reign, in percent\n");
    println!("| noise | rule | after 1 equal challenger | after 10 | after 50 | after 200 |");
    println!("|---|---|---|---|---|---|");
    for profile in profiles() {
        let source = Source::new(profile, 0.0);
        for rule in Contender::ALL {
            let cell = format!("{} {}", profile.name(), rule.stream());
            let crowned_at = simulate(trials, |trial| {
                let (mut source, mut stream) = (source.clone(), stream("false crowns", &cell, trial));
                (1..=ATTEMPTS[3])
                    .find(|&attempt| rule.duel(budget.share(attempt), &mut source, &mut stream).0)
            });
            print!("| {} | `{}` |", profile.name(), rule.name());
            for attempts in ATTEMPTS {
                let crowned = crowned_at.iter().map(|at| at.is_some_and(|at| at <= attempts));
                print!(" {} |", Rate::of(crowned));
            }
            println!();
        }
    }
}

/// Challengers that are better than the king, by less than the win margin.
fn near_king(budget: ErrorBudget, trials: usize) {
    const EFFECTS: [f64; 3] = [0.5, 0.75, 1.0];
    // A tenth of the trials: nearly all duels of a reign are fought.
    let trials = trials.div_ceil(10);
    println!(
        "\n## A reign's crowns after 200 challengers just above the king, in percent ({trials} reigns a cell)\n"
    );
    println!("| noise | +0.5 points | +0.75 | +1 |");
    println!("|---|---|---|---|");
    for profile in &Profile::NULL_HOLDS[..3] {
        print!("| {} |", profile.name());
        for effect in EFFECTS {
            let source = Source::new(*profile, effect / 100.0);
            let cell = format!("{} {effect}", profile.name());
            let crowned = simulate(trials, |trial| {
                let (mut source, mut stream) = (source.clone(), stream("near king", &cell, trial));
                let rule = Contender::Sequential(RuleVersion::NEWEST);
                (1..=ATTEMPTS[3]).any(|attempt| rule.duel(budget.share(attempt), &mut source, &mut stream).0)
            });
            print!(" {} |", Rate::of(crowned.into_iter()));
        }
        println!();
    }
}

fn crown_rates(budget: ErrorBudget, trials: usize) {
    println!("\n## Crown rate in percent; median and mean samples, by true effect\n");
    print!("| noise | rule |");
    for effect in EFFECTS {
        print!(" {effect:+} |");
    }
    println!("\n|---|---|{}", "---|".repeat(EFFECTS.len()));
    for profile in profiles() {
        for rule in Contender::ALL {
            print!("| {} | `{}` |", profile.name(), rule.name());
            for effect in EFFECTS {
                let source = Source::new(profile, effect / 100.0);
                let cell = format!("{} {} {effect}", profile.name(), rule.stream());
                let duels = simulate(trials, |trial| {
                    let (mut source, mut stream) = (source.clone(), stream("crown rates", &cell, trial));
                    rule.duel(budget.share(1), &mut source, &mut stream)
                });
                let mut samples: Vec<_> = duels.iter().map(|duel| duel.1).collect();
                samples.sort_unstable();
                let mean = samples.iter().copied().map(f64::from).sum::<f64>() / trials as f64;
                let rate = Rate::of(duels.iter().map(|duel| duel.0));
                print!(" {rate}; {}, {mean:.0} |", samples[trials / 2]);
            }
            println!();
        }
    }
}

fn schedule(budget: ErrorBudget, trials: usize) {
    println!("\n## The error budget: power of `sequential` by attempt, in percent (graded, SD 0.15)\n");
    println!("| attempt | share | cap | +2 points | +3 | +5 |");
    println!("|---|---|---|---|---|---|");
    for attempt in [1, 200, 201, 1000] {
        let share = budget.share(attempt);
        print!("| {attempt} | {share:.3e} | {} |", cap(share));
        for effect in [2.0, 3.0, 5.0] {
            let source = Source::new(Profile::Graded(0.15), effect / 100.0);
            let crowned = simulate(trials, |trial| {
                let mut stream = stream("schedule", &format!("{attempt} {effect}"), trial);
                let rule = Contender::Sequential(RuleVersion::NEWEST);
                rule.duel(share, &mut source.clone(), &mut stream).0
            });
            print!(" {} |", Rate::of(crowned.into_iter()));
        }
        println!();
    }
}

/// Noise, true effect, samples: where the bets are compared.
const POWER_CASES: [(Profile, f64, usize); 3] = [
    (Profile::Graded(0.15), 0.05, 256),
    (Profile::Graded(0.15), 0.03, 512),
    (Profile::Coarse(0.48), 0.1, 512),
];

fn power(trials: usize) {
    const ALPHA: f64 = 0.01;
    /// The one-sided 1 % point of the normal distribution.
    const Z: f64 = 2.326_348;
    const NAMES: [&str; 5] = [
        "`sequential`",
        "`fixed`",
        "20 constant bets, evenly weighted",
        "two constant bets, 0.35 and 0.97",
        "one z-test at the end",
    ];

    println!("\n## Power to reject the null hypothesis at 1 %, in percent ({trials} duels a cell)\n");
    println!("| bets | SD 0.15, +5 points, 256 samples | SD 0.15, +3, 512 | coarse SD 0.48, +10, 512 |");
    println!("|---|---|---|---|");
    let even: Vec<_> = (0..20).map(|index| (0.05, 0.025 + 0.05 * f64::from(index))).collect();
    let two = [(0.45, 0.35), (0.55, 0.97)];
    let results = POWER_CASES.map(|(profile, effect, samples)| {
        let source = Source::new(profile, effect);
        simulate(trials, |trial| {
            let mut stream = stream("power", &format!("{} {effect}", profile.name()), trial);
            let mut source = source.clone();
            let differences: Vec<_> = (0..samples).map(|_| source.draw(&mut stream)).collect();
            let mut test = sequential(RuleVersion::NEWEST, ALPHA, cap(ALPHA));
            for &difference in &differences {
                test.consume(difference);
            }
            let mean = differences.iter().sum::<f64>() / samples as f64;
            let square = differences.iter().map(|value| (value - mean).powi(2)).sum::<f64>();
            let error = (square / (samples - 1) as f64 / samples as f64).sqrt();
            let mixture = |bets: &[(f64, f64)]| mixture_rejects(bets, &differences, ALPHA);
            let mut rejected = vec![
                test.rejected_at().is_some(),
                fixed_rejects(&differences, ALPHA),
                mixture(&even),
                mixture(&two),
                mean > Z * error,
            ];
            rejected.extend((1..=33).map(|bet| mixture(&[(1.0, 0.03 * f64::from(bet))])));
            rejected
        })
    });
    let rate =
        |results: &[Vec<bool>], column: usize| Rate::of(results.iter().map(|rejected| rejected[column]));
    for (column, name) in NAMES.into_iter().enumerate() {
        print!("| {name} |");
        for results in &results {
            print!(" {} |", rate(results, column));
        }
        println!();
    }
    print!("| the constant bet best for the case |");
    for results in &results {
        let constant = NAMES.len()..results[0].len();
        if let Some(best) = constant.map(|column| rate(results, column)).max_by_key(|rate| rate.hits) {
            print!(" {best} |");
        }
    }
    println!();
}

/// Whether the rule `fixed` rejects the null hypothesis on `differences`.
fn fixed_rejects(differences: &[f64], alpha: f64) -> bool {
    let rule = Rule::Fixed { win_margin: 2.0, null_margin: 0.0 };
    let context = RuleContext::new(&rule, differences.len() as u32, alpha);
    let decision = decide(&rule, context, clusters(differences));
    let rejected_at = decision.and_then(|decision| match decision.evidence {
        Evidence::Fixed(evidence) => evidence.rejected_at,
        _ => None,
    });
    rejected_at.is_some()
}

/// One cluster of one judge for each of `differences`.
fn clusters(differences: &[f64]) -> impl Iterator<Item = Cluster> {
    differences.iter().enumerate().map(|(sample, &difference)| {
        let cell = Cell::Scored { difference: [(Metric::Correctness, difference)].into(), flipped: false };
        Cluster::new(sample as u32, vec![cell], Reducer::Mean)
    })
}

/// Whether the mixture of constant `bets`, each with its weight, ever reaches
/// 1 / `alpha` on `differences`.
fn mixture_rejects(bets: &[(f64, f64)], differences: &[f64], alpha: f64) -> bool {
    let mut wealth: Vec<_> = bets.iter().map(|&(weight, _)| weight).collect();
    differences.iter().any(|difference| {
        for (wealth, (_, bet)) in wealth.iter_mut().zip(bets) {
            *wealth *= 1.0 + bet * difference;
        }
        wealth.iter().sum::<f64>() >= 1.0 / alpha
    })
}

fn coverage(trials: usize) {
    println!("\n## Coverage of the 95 % intervals at a true effect of +2 points, in percent\n");
    println!("The confidence sequence counts only if it holds the mean after every one of 512 samples.\n");
    println!("| noise | confidence sequence | bootstrap (approximate), 25 clusters | 50 | 128 |");
    println!("|---|---|---|---|---|");
    let effect = 0.02;
    for profile in Profile::NULL_HOLDS {
        let source = Source::new(profile, effect);
        let held = simulate(trials, |trial| {
            let mut stream = stream("coverage", &profile.name(), trial);
            let mut source = source.clone();
            let differences: Vec<_> = (0..512).map(|_| source.draw(&mut stream)).collect();
            let mut test = sequential(RuleVersion::NEWEST, 0.01, 512);
            for &difference in &differences {
                test.consume(difference);
            }
            let mut intervals = vec![test.evidence(&differences).confidence.scaled(0.01)];
            let bootstrap = |clusters: usize| {
                bootstrap_interval(&differences[..clusters], 0.95, derive_seed("", &[&trial.to_le_bytes()]))
            };
            intervals.extend([25, 50, 128].map(bootstrap));
            intervals
                .iter()
                .map(|interval| interval.low <= effect && effect <= interval.high)
                .collect::<Vec<_>>()
        });
        print!("| {} |", profile.name());
        for column in 0..4 {
            print!(" {} |", Rate::of(held.iter().map(|row| row[column])));
        }
        println!();
    }
}
