//! Both versions of `sequential` on the same random numbers.

use albedo::decision::{RuleVersion, Ruling};
use albedo::reign::ErrorBudget;

use crate::noise::{Profile, Source};
use crate::rates::simulate;
use crate::{EFFECTS, sequential_of, stream};

/// Level and cap of the duels compared: the first of a reign, and two by themselves.
const DUELS: [(f64, u32); 3] = [(2e-4, 948), (0.05, 64), (0.05, 256)];

/// Win margins in points.
const WIN_MARGINS: [f64; 4] = [2.0, 1.0, 3.0, 5.0];

/// Noise of the duels compared.
const PROFILES: [Profile; 6] = [
    Profile::Graded(0.15),
    Profile::Graded(0.25),
    Profile::Coarse(0.48),
    Profile::HeavyTails,
    Profile::MostlyZero,
    Profile::RareWins,
];

/// Crown rates and mean samples of both versions.
pub(crate) fn print(_: ErrorBudget, trials: usize) {
    println!("\n## Both versions of `sequential`: crowned in percent / mean samples, by true effect\n");
    println!("The versions see the same random numbers. 1 percent is {} duels.\n", trials / 100);
    print!("| alpha, cap, win margin | noise | version |");
    for effect in EFFECTS {
        print!(" {effect:+} |");
    }
    println!("\n|---|---|---|{}", "---|".repeat(EFFECTS.len()));
    for (alpha, cap) in DUELS {
        for win_margin in WIN_MARGINS {
            // Other margins than the default under the mildest noise and the coarsest.
            let profiles = if win_margin == 2.0 { &PROFILES[..] } else { &PROFILES[..3] };
            for profile in profiles {
                let rows = EFFECTS.map(|effect| both(alpha, cap, win_margin, *profile, effect, trials));
                for (version, name) in ["1", "2"].into_iter().enumerate() {
                    print!("| {alpha:e}, {cap}, {win_margin} | {} | {name} |", profile.name());
                    for row in &rows {
                        let (crowned, samples) = row[version];
                        print!(" {crowned:.1} / {samples:.0} |");
                    }
                    println!();
                }
            }
        }
    }
}

/// Crowned in percent and mean samples, by version.
fn both(
    alpha: f64,
    cap: u32,
    win_margin: f64,
    profile: Profile,
    effect: f64,
    trials: usize,
) -> [(f64, f64); 2] {
    let source = Source::new(profile, effect / 100.0);
    let cell = format!("{alpha} {cap} {} {effect}", profile.name());
    let duels = simulate(trials, |trial| {
        let mut stream = stream("versions", &cell, trial);
        let mut source = source.clone();
        source.start_duel(&mut stream);
        let versions = [RuleVersion::First, RuleVersion::Second];
        let mut tests = versions.map(|version| sequential_of(win_margin, version, alpha, cap));
        let mut ends = [None; 2];
        while ends.iter().any(Option::is_none) {
            let difference = source.draw(&mut stream);
            for (test, end) in tests.iter_mut().zip(&mut ends) {
                if end.is_none() {
                    let ruling = test.consume(difference);
                    *end = ruling.map(|ruling| (ruling == Ruling::Dethroned, test.samples()));
                }
            }
        }
        ends.map(Option::unwrap_or_default)
    });
    [0, 1].map(|version| {
        let crowned = duels.iter().filter(|duel| duel[version].0).count();
        let samples: f64 = duels.iter().map(|duel| f64::from(duel[version].1)).sum();
        (100.0 * crowned as f64 / trials as f64, samples / trials as f64)
    })
}
