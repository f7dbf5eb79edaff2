//! `albedo decide` as a gate, beside the usual tests on the same simulated logs: how often
//! a release that is no better is called better, and how often a better one is.
//!
//! `ALBEDO_GATES=N` simulates N gates of 1,000 equal releases each; 10 by default. The
//! figures follow from the seeds, and depend on no machine.
#![expect(clippy::expect_used, clippy::print_stdout, reason = "a bench that cannot run can only say so")]

use albedo::decide::{Budget, PairedItem, PairedOutcome, PairedSettings, compare};
use albedo::rng::{Stream, Use};
use albedo::stats::clustered_mean;

/// A log: texts with four questions each, as in a set of reading tasks.
const CLUSTERS: usize = 100;
const ITEMS: usize = 4;

const RELEASES: usize = 1_000;
const ALPHA: f64 = 0.05;

/// The 95th percentile of the normal distribution. Source: Abramowitz and Stegun, table 26.5.
const NORMAL_95: f64 = 1.644_854;

const METHODS: [&str; 5] = [
    "`albedo decide`",
    "`albedo decide --budget`",
    "paired t-test by cluster",
    "paired t-test by item",
    "unpaired z-test",
];

fn main() {
    let gates = std::env::var("ALBEDO_GATES").map_or(10, |count| count.parse().expect("a number of gates"));
    false_alarms(gates);
    power();
}

/// Releases that are no better, one gate after the other.
fn false_alarms(gates: u64) {
    let mut alarms = [0_usize; METHODS.len()];
    let mut worst = [0_usize; METHODS.len()];
    let mut gates_with = [0_usize; METHODS.len()];
    for gate in 0..gates {
        let (mut log, mut stream) = (log(), Stream::new(gate, Use::Bootstrap));
        let mut budget = Budget::new(ALPHA).expect("a budget");
        let mut of_gate = [0_usize; METHODS.len()];
        for _ in 0..RELEASES {
            simulate(&mut log, 0.0, &mut stream);
            for (count, better) in of_gate.iter_mut().zip(called_better(&log, &mut budget)) {
                *count += usize::from(better);
            }
        }
        for (method, &count) in of_gate.iter().enumerate() {
            alarms[method] += count;
            worst[method] = worst[method].max(count);
            gates_with[method] += usize::from(count > 0);
        }
    }
    println!("{gates} gates of {RELEASES} releases that are no better, alpha {ALPHA}:\n");
    println!("| method | called better, of 1,000 releases | most in a gate | gates that ever erred |");
    println!("|---|---:|---:|---:|");
    for (method, name) in METHODS.iter().enumerate() {
        let mean = alarms[method] as f64 / gates as f64;
        println!("| {name} | {mean:.1} | {} | {} of {gates} |", worst[method], gates_with[method]);
    }
}

/// Releases that are better by so much, each the first of its gate.
fn power() {
    let gains = [0.02, 0.04, 0.06, 0.08, 0.1, 0.15];
    let found = gains.map(|gain| {
        let (mut log, mut stream) = (log(), Stream::new((gain * 1e3) as u64, Use::Bootstrap));
        let mut found = [0_usize; METHODS.len()];
        for _ in 0..RELEASES {
            simulate(&mut log, gain, &mut stream);
            let mut budget = Budget::new(ALPHA).expect("a budget");
            for (count, better) in found.iter_mut().zip(called_better(&log, &mut budget)) {
                *count += usize::from(better);
            }
        }
        found
    });
    println!("\n{RELEASES} releases that are better by so many points, called better:\n");
    println!("| method |{}", gains.map(|gain| format!(" {:.0} |", 100.0 * gain)).concat());
    println!("|---|{}", "---:|".repeat(gains.len()));
    for (method, name) in METHODS.iter().enumerate() {
        let shares = found.map(|found| format!(" {:.1} % |", found[method] as f64 * 100.0 / RELEASES as f64));
        println!("| {name} |{}", shares.concat());
    }
}

/// The questions, without scores.
fn log() -> Vec<PairedItem> {
    let item = |item: usize| PairedItem {
        item: format!("question {item}"),
        cluster: format!("text {}", item / ITEMS),
        first: 0.0,
        second: 0.0,
    };
    (0..CLUSTERS * ITEMS).map(item).collect()
}

/// Right or wrong, the second system more often by `gain`. A text is easy or hard for both
/// systems and, on top, for each of its own; half of the luck with a question is shared.
fn simulate(log: &mut [PairedItem], gain: f64, stream: &mut Stream) {
    let mut unit = || stream.below(1 << 30) as f64 / f64::from(1 << 30);
    for text in log.chunks_mut(ITEMS) {
        let easy = 0.4 + 0.3 * unit();
        let [first, second] = [easy + 0.3 * (unit() - 0.5), easy + 0.3 * (unit() - 0.5) + gain];
        for question in text {
            let luck = unit();
            let own = if unit() < 0.5 { luck } else { unit() };
            question.first = f64::from(u8::from(luck < first));
            question.second = f64::from(u8::from(own < second));
        }
    }
}

/// Whether each method calls the second system better.
fn called_better(log: &[PairedItem], budget: &mut Budget) -> [bool; METHODS.len()] {
    let settings = PairedSettings { alpha: ALPHA, ..PairedSettings::default() };
    let alone = compare(log, &settings).expect("compares");
    let shared = budget.compare(log, &settings).expect("compares");
    // One-sided at 5 % is the lower end of the two-sided interval of 90 %.
    let level = 1.0 - 2.0 * ALPHA;
    let differences = || log.iter().map(|item| item.second - item.first);
    let by_cluster: Vec<_> = differences().enumerate().map(|(item, x)| (item / ITEMS, x)).collect();
    let by_item: Vec<_> = differences().enumerate().collect();
    let is_above = |differences: &[(usize, f64)]| {
        clustered_mean(differences, level).is_some_and(|mean| mean.interval.low > 0.0)
    };
    [
        alone.outcome == PairedOutcome::Better,
        shared.outcome == PairedOutcome::Better,
        is_above(&by_cluster),
        is_above(&by_item),
        z_of(alone.first, alone.second, log.len() as f64) > NORMAL_95,
    ]
}

/// The statistic of the unpaired test of two proportions of `n` each.
fn z_of(first: f64, second: f64, n: f64) -> f64 {
    let variance = |share: f64| share * (1.0 - share) / n;
    (second - first) / (variance(first) + variance(second)).sqrt()
}
