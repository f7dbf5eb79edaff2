//! `albedo duel --size-for`: what a duel would take, before anything is spent.

use std::path::PathBuf;

use serde::Serialize;

use crate::cli::exit::Exit;
use crate::cli::output::{print, print_json};
use crate::config::DuelConfig;
use crate::decision::samples_to_show;
use crate::record::{Costs, RecordLine, Spent};
use crate::report::Look;
use crate::stats::detectable_effect;
use crate::{Error, Fault, Record, Result, Rule};

/// SD of a sample's difference in points where no earlier record says more. Source: right or wrong on real
/// software-engineering tasks, measured on 500 of them; graded judges have less.
const SD: f64 = 48.0;

/// The plugin whose judges read replies: canaries and twins are put before them.
const READS: &str = "chat";

/// What a duel would take.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Size {
    /// The lead to be shown, in points.
    margin: f64,
    /// The assumed SD of a sample's difference, in points.
    sd: f64,
    /// Where the SD is from.
    sd_from: &'static str,
    /// The chance of a false crown.
    alpha: f64,
    /// Samples that show the lead in at least nine of ten duels.
    samples: u32,
    /// Samples that the settings allow for.
    planned: u32,
    /// The lead that so many samples show in nine of ten duels, by the normal approximation, in points.
    detectable: Option<f64>,
    /// Questions to the judges.
    calls: Calls,
    /// What they are expected to cost, in US dollars; none if no earlier record tells.
    usd: Option<f64>,
    /// Seconds that the duel is expected to take; none if no earlier record tells.
    seconds: Option<f64>,
}

/// Questions to judges.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
struct Calls {
    /// About the samples.
    samples: u64,
    /// About canaries, before the duel and in it.
    canaries: u64,
    /// About twins of drawn samples, at most.
    twins: u64,
    /// All together.
    total: u64,
}

/// What earlier duels took.
#[derive(Debug, Default)]
struct Before {
    differences: Vec<f64>,
    judges: Spent,
    seconds: f64,
    samples: u64,
}

/// Prints what the duel of `config` would take to show a lead of `margin` points.
///
/// # Errors
/// The operator's: numbers out of range, a record that cannot be read.
pub(super) fn run(
    config: &DuelConfig,
    margin: f64,
    sd: Option<f64>,
    earlier: &[PathBuf],
    json: bool,
) -> Result<Exit> {
    let before = Before::read(earlier)?;
    let size = Size::new(config, margin, sd, &before)?;
    if json {
        print_json(&size)?;
    } else {
        print(&size.text(config, Look::of_stdout()))?;
    }
    Ok(Exit::Done)
}

impl Before {
    fn read(folders: &[PathBuf]) -> Result<Self> {
        let mut before = Self::default();
        for folder in folders {
            let record = Record::open(folder)?;
            before.differences.extend(record.lines.iter().filter_map(|line| match line {
                RecordLine::Cluster(cluster) => Some(100.0 * cluster.difference),
                _ => None,
            }));
            let Some(costs) = Costs::read(folder, record.plan())? else { continue };
            before.samples += u64::from(record.verdict().samples);
            before.seconds += costs.seconds;
            for spent in costs.judges {
                before.judges.calls += spent.calls;
                before.judges.usd += spent.usd;
                before.judges.unpriced += spent.unpriced;
            }
        }
        Ok(before)
    }

    /// SD of the samples' differences in points; none below two.
    fn sd(&self) -> Option<f64> {
        let count = self.differences.len() as f64;
        let mean = self.differences.iter().sum::<f64>() / count;
        let squares: f64 = self.differences.iter().map(|difference| (difference - mean).powi(2)).sum();
        (self.differences.len() > 1).then(|| (squares / (count - 1.0)).sqrt())
    }
}

impl Size {
    fn new(config: &DuelConfig, margin: f64, sd: Option<f64>, before: &Before) -> Result<Self> {
        let (sd, sd_from) = match (sd, before.sd()) {
            (Some(sd), _) => (sd, "given"),
            (None, Some(sd)) => (sd, "earlier records"),
            (None, None) => (SD, "assumed"),
        };
        let alpha = match config.duel.rule {
            Rule::MarginLcb { alpha, .. } => alpha,
            _ => config.duel.terms.alpha(),
        };
        let named = |error: Error| error.with_fault(Fault::Operator).with("key", "--size-for");
        let samples = samples_to_show(margin, sd, alpha).map_err(named)?;
        let planned = config.duel.planned_samples();
        let judges = config.judges.len() as u64;
        let readers = config.judges.iter().filter(|judge| judge.name() == READS).count() as u64;
        let count = u64::from(samples);
        let canaries = config.duel.canaries.map_or(0, |canaries| {
            let within = samples.saturating_sub(1) / canaries.every.max(1);
            2 * readers * u64::from(canaries.preflight + within)
        });
        let share = config.duel.twins.share;
        let drawn = if share == 0 { 0 } else { u64::from(samples.div_ceil(share)) };
        let (of_samples, twins) = (2 * judges * count, 4 * readers * drawn);
        let total = of_samples + canaries + twins;
        let priced = before.judges.calls > 0 && before.judges.unpriced == 0;
        let offline = readers == 0 && config.judges.iter().all(|judge| judge.name() != "process");
        let each = before.judges.usd / before.judges.calls.max(1) as f64;
        Ok(Self {
            margin,
            sd,
            sd_from,
            alpha,
            samples,
            planned,
            detectable: detectable_effect(u64::from(planned), sd, alpha, 0.9),
            calls: Calls { samples: of_samples, canaries, twins, total },
            usd: if offline { Some(0.0) } else { priced.then_some(each * total as f64) },
            seconds: (before.samples > 0).then(|| before.seconds / before.samples as f64 * count as f64),
        })
    }

    fn text(&self, config: &DuelConfig, look: Look) -> String {
        let Self { margin, sd, alpha, samples, planned, calls, .. } = self;
        let from = match self.sd_from {
            "given" => "as given",
            "earlier records" => "as in the records of `--after`",
            _ => "assumed; name records of such duels with `--after DIR`, or give `--sd POINTS`",
        };
        let mut text = String::new();
        let mut entry = |name: &str, value: &str| text += &look.entry(name, value);
        entry("lead", &format!("{margin} points, at alpha {alpha}"));
        entry("sd", &format!("{sd:.1} points per sample, {from}"));
        entry(
            "samples",
            &format!(
                "{samples} show it in at least nine of ten duels (rule `fixed`; `sequential` mostly ends earlier)"
            ),
        );
        let detectable =
            self.detectable.map_or("nothing".into(), |points| format!("about {points:.1} points"));
        let enough = if samples > planned { look.warning(", too few for this lead") } else { String::new() };
        entry("planned", &format!("{planned} samples, which show {detectable}{enough}"));
        let Calls { samples: asked, canaries, twins, total } = calls;
        entry(
            "questions",
            &format!(
                "{total} to {} judges: {asked} about samples, {canaries} about canaries, at most {twins} about twins",
                config.judges.len()
            ),
        );
        let unknown = "unknown: name records of such duels with `--after DIR`";
        entry("cost", &self.usd.map_or(unknown.into(), |usd| format!("${usd:.2}")));
        let time = self.seconds.map_or(unknown.into(), |seconds| {
            if seconds < 600.0 { format!("{seconds:.0} s") } else { format!("{:.1} h", seconds / 3600.0) }
        });
        entry("time", &time);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(judges: &str, duel: &str) -> DuelConfig {
        let text = format!(
            "king.path = \"k\"\nchallenger.path = \"c\"\ntasks = {{ name = \"parquet\", path = \"t\" }}\n{judges}[duel]\n{duel}"
        );
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("duel.toml");
        std::fs::write(&path, text).expect("writes");
        DuelConfig::read(&path).expect("reads")
    }

    #[test]
    fn questions_are_counted_with_canaries_and_twins() {
        let judges = "[[judges]]\nname = \"chat\"\nmodel = \"m\"\nbackend = { name = \"openai\" }\n[[judges]]\nname = \"protocol\"\n";
        let config = config(judges, "samples = 64\ncanaries = { every = 32, preflight = 4, quorum = 1 }\n");
        let size = Size::new(&config, 20.0, Some(30.0), &Before::default()).expect("sizes");
        let n = u64::from(samples_to_show(20.0, 30.0, 0.05).expect("a number"));
        assert_eq!(u64::from(size.samples), n);
        let calls = size.calls;
        assert_eq!(calls.samples, 4 * n);
        assert_eq!(calls.canaries, 2 * (4 + (n - 1) / 32));
        assert_eq!(calls.twins, 4 * n.div_ceil(16));
        assert_eq!(calls.total, calls.samples + calls.canaries + calls.twins);
        assert_eq!((size.usd, size.seconds, size.sd_from), (None, None, "given"));
        let before = Before {
            differences: vec![-10.0, 10.0],
            judges: Spent { calls: 10, usd: 0.5, ..Spent::default() },
            seconds: 20.0,
            samples: 10,
        };
        let known = Size::new(&config, 20.0, None, &before).expect("sizes");
        assert!((known.usd.expect("known") - 0.05 * known.calls.total as f64).abs() < 1e-9);
        assert!((known.seconds.expect("known") - 2.0 * f64::from(known.samples)).abs() < 1e-9);
        assert!((known.sd - 200.0_f64.sqrt()).abs() < 1e-9);
        assert!(Size::new(&config, 0.0, None, &before).is_err());
    }

    #[test]
    fn offline_judges_cost_nothing() {
        let config =
            config("judges = [{ name = \"protocol\" }]\n", "samples = 8\nrule = { name = \"margin\" }\n");
        let size = Size::new(&config, 10.0, None, &Before::default()).expect("sizes");
        assert_eq!((size.usd, size.calls.twins, size.calls.canaries, size.sd), (Some(0.0), 0, 0, SD));
    }
}
