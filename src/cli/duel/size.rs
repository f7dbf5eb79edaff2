//! `albedo duel --size-for`: what a duel would take, before anything is spent.

use std::path::PathBuf;

use serde::Serialize;

use crate::cli::exit::Exit;
use crate::cli::output::{print, print_json};
use crate::config::{DuelConfig, PluginConfig};
use crate::decision::Design;
use crate::record::{Costs, RecordLine, Spent};
use crate::report::Look;
use crate::{Error, Fault, Judge, Record, Result, Rule};

/// SD of a sample's difference in points where no earlier record says more. Source: right or wrong on real
/// software-engineering tasks, measured on 500 of them; graded judges have less.
const SD: f64 = 48.0;

/// The plugin whose judges read replies: canaries and twins are put before them.
const READS: &str = "chat";

/// The plugins whose judges ask no model, so that nobody is paid.
const FREE: [&str; 4] = ["protocol", "reference-action", "reference-likelihood", "replay"];

/// What a duel would take.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Size {
    /// The lead to be shown, in points.
    margin: f64,
    /// The least mean that is crowned, in points.
    win_margin: f64,
    /// The lead up to which a challenger counts as not better, in points.
    null_margin: f64,
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
    /// The least lead that so many samples show in at least nine of ten duels, in points.
    detectable: Option<f64>,
    /// Questions to the judges.
    calls: Calls,
    /// What they are expected to cost, in US dollars; none if a judge's price is not known.
    usd: Option<f64>,
    /// Seconds that the duel is expected to take; none if no earlier record tells.
    seconds: Option<f64>,
}

/// Questions to judges.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
struct Calls {
    /// About the samples.
    samples: u64,
    /// For the checklists of samples and canaries.
    checklists: u64,
    /// About canaries, before the duel and in it.
    canaries: u64,
    /// About twins of drawn samples, at most.
    twins: u64,
    /// All together.
    total: u64,
}

impl Calls {
    /// What `judge` is asked in a duel of `config` that consumes `samples`.
    fn of(judge: &PluginConfig<dyn Judge>, config: &DuelConfig, samples: u32) -> Self {
        let reads = judge.name() == READS;
        let writes = judge.settings().get("checklist").and_then(|settings| settings.get("writer"));
        let writes = reads && writes.is_some_and(|writer| !writer.is_null());
        let canaries = config.duel.canaries.filter(|_| reads).map_or(0, |canaries| {
            u64::from(canaries.preflight + samples.saturating_sub(1) / canaries.every.max(1))
        });
        let share = if reads { config.duel.twins.share } else { 0 };
        let drawn = if share == 0 { 0 } else { u64::from(samples.div_ceil(share)) };
        let mut calls = Self {
            samples: 2 * u64::from(samples),
            checklists: if writes { u64::from(samples) + canaries } else { 0 },
            canaries: 2 * canaries,
            twins: 4 * drawn,
            total: 0,
        };
        calls.total = calls.samples + calls.checklists + calls.canaries + calls.twins;
        calls
    }

    fn add(&mut self, other: Self) {
        self.samples += other.samples;
        self.checklists += other.checklists;
        self.canaries += other.canaries;
        self.twins += other.twins;
        self.total += other.total;
    }
}

/// What earlier duels took.
#[derive(Debug, Default)]
struct Before {
    differences: Vec<f64>,
    /// The judges whose settings are known, and what their answers took.
    judges: Vec<(PluginConfig<dyn Judge>, Spent)>,
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
            before.seconds += costs.seconds - costs.paused;
            // Without the configuration beside the record nobody knows which model a judge was.
            let judges = DuelConfig::saved(folder).map(|saved| saved.unverified().judges).unwrap_or_default();
            if judges.len() == costs.judges.len() {
                before.judges.extend(judges.into_iter().zip(costs.judges));
            }
        }
        Ok(before)
    }

    /// SD of the samples' differences in points; none below two.
    fn sd(&self) -> Option<f64> {
        let count = self.differences.len() as f64;
        let mean = self.differences.iter().sum::<f64>() / count;
        let squares: f64 = self.differences.iter().map(|difference| (difference - mean).powi(2)).sum();
        (self.differences.len() > 1).then(|| (squares / (count - 1.0)).sqrt().min(100.0))
    }

    /// What an answer of `judge` costs in US dollars: what those of a judge with the same settings did; none if
    /// there was none, or its price is not known.
    fn price(&self, judge: &PluginConfig<dyn Judge>) -> Option<f64> {
        if FREE.contains(&judge.name()) {
            return Some(0.0);
        }
        let (mut calls, mut usd, mut unpriced) = (0, 0.0, 0);
        for (_, spent) in self.judges.iter().filter(|(known, _)| known == judge) {
            calls += spent.calls;
            usd += spent.usd;
            unpriced += spent.unpriced;
        }
        (calls > 0 && unpriced == 0).then(|| usd / calls as f64)
    }
}

/// The rule's `win_margin` and `null_margin`.
fn margins(rule: &Rule) -> (f64, f64) {
    match *rule {
        Rule::Sequential { win_margin, null_margin } | Rule::Fixed { win_margin, null_margin } => {
            (win_margin, null_margin)
        }
        Rule::Margin { win_margin } | Rule::MarginLcb { win_margin, .. } => (win_margin, 0.0),
        _ => (0.0, 0.0),
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
        let (win_margin, null_margin) = margins(&config.duel.rule);
        let design = Design { sd, alpha, win_margin, null_margin };
        let named = |error: Error| error.with_fault(Fault::Operator).with("key", "--size-for");
        let samples = design.samples(margin).map_err(named)?;
        let planned = config.duel.planned_samples();
        let (mut calls, mut usd) = (Calls::default(), Some(0.0));
        for judge in &config.judges {
            let asked = Calls::of(judge, config, samples);
            calls.add(asked);
            usd = usd.zip(before.price(judge)).map(|(usd, each)| usd + each * asked.total as f64);
        }
        Ok(Self {
            margin,
            win_margin,
            null_margin,
            sd,
            sd_from,
            alpha,
            samples,
            planned,
            detectable: design.effect(planned).map_err(named)?,
            calls,
            usd,
            seconds: (before.samples > 0)
                .then(|| before.seconds / before.samples as f64 * f64::from(samples)),
        })
    }

    fn text(&self, config: &DuelConfig, look: Look) -> String {
        let Self { margin, win_margin, null_margin, sd, alpha, samples, planned, calls, .. } = self;
        let from = match self.sd_from {
            "given" => "as given",
            "earlier records" => "as in the records of `--after`",
            _ => "assumed; name records of such duels with `--after DIR`, or give `--sd POINTS`",
        };
        let mut text = String::new();
        let mut entry = |name: &str, value: &str| text += &look.entry(name, value);
        let null = if *null_margin > 0.0 { format!(" beyond {null_margin} points") } else { String::new() };
        entry(
            "lead",
            &format!("{margin} points{null}, at alpha {alpha}; a mean of at least {win_margin} is crowned"),
        );
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
        let Calls { samples: asked, checklists, canaries, twins, total } = calls;
        let written = if *checklists > 0 { format!(", {checklists} for checklists") } else { String::new() };
        entry(
            "questions",
            &format!(
                "{total} to {} judges: {asked} about samples{written}, {canaries} about canaries, at most {twins} \
                 about twins",
                config.judges.len()
            ),
        );
        let unpriced = "unknown: name records with judges of the same settings and prices with `--after DIR`";
        entry("cost", &self.usd.map_or(unpriced.into(), |usd| format!("${usd:.2}")));
        let unknown = "unknown: name records of such duels with `--after DIR`";
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
    fn questions_are_counted_with_checklists_canaries_and_twins() {
        let judges = "[[judges]]\nname = \"chat\"\nmodel = \"m\"\nbackend = { name = \"openai\" }\n\
            [[judges]]\nname = \"chat\"\nlabel = \"list\"\nmodel = \"m\"\nrubric = \"checklist\"\n\
            backend = { name = \"openai\" }\n\
            checklist = { writer = { model = \"w\", backend = { name = \"openai\" } } }\n\
            [[judges]]\nname = \"protocol\"\n";
        let config = config(judges, "samples = 64\ncanaries = { every = 32, preflight = 4, quorum = 1 }\n");
        let size = Size::new(&config, 20.0, Some(30.0), &Before::default()).expect("sizes");
        let n = u64::from(size.samples);
        assert!((20..=60).contains(&n), "{n}");
        let (calls, canaries) = (size.calls, 4 + (n - 1) / 32);
        assert_eq!((calls.samples, calls.checklists), (6 * n, n + canaries));
        assert_eq!((calls.canaries, calls.twins), (4 * canaries, 8 * n.div_ceil(16)));
        assert_eq!(calls.total, calls.samples + calls.checklists + calls.canaries + calls.twins);
        assert_eq!((size.usd, size.seconds, size.sd_from), (None, None, "given"));

        // A pilot of the same judges; the second one's answers cost twice as much.
        let spent = |usd| Spent { calls: 10, usd, ..Spent::default() };
        let spent = [spent(0.5), spent(1.0), spent(0.0)];
        let before = Before {
            differences: vec![-10.0, 10.0],
            judges: config.judges.iter().cloned().zip(spent).collect(),
            seconds: 20.0,
            samples: 10,
        };
        let known = Size::new(&config, 20.0, None, &before).expect("sizes");
        let each = |place: usize| Calls::of(&config.judges[place], &config, known.samples).total as f64;
        assert!((known.usd.expect("known") - 0.05 * each(0) - 0.1 * each(1)).abs() < 1e-9);
        assert!((known.seconds.expect("known") - 2.0 * f64::from(known.samples)).abs() < 1e-9);
        assert!((known.sd - 200.0_f64.sqrt()).abs() < 1e-9);
        assert!(Size::new(&config, 0.0, None, &before).is_err());

        // A judge of other settings, or of a model without a price, says nothing of this one.
        let mut other = Before { judges: before.judges.clone(), ..Before::default() };
        other.judges[1].0 = other.judges[1].0.clone().with("model", "another");
        assert_eq!(Size::new(&config, 20.0, Some(30.0), &other).expect("sizes").usd, None);
        let mut unpriced = Before { judges: before.judges.clone(), ..Before::default() };
        unpriced.judges[0].1.unpriced = 1;
        assert_eq!(Size::new(&config, 20.0, Some(30.0), &unpriced).expect("sizes").usd, None);
    }

    #[test]
    fn the_rules_margins_are_part_of_the_plan() {
        let sized = |rule: &str, margin| {
            let config = config("judges = [{ name = \"protocol\" }]\n", &format!("samples = 64\n{rule}\n"));
            Size::new(&config, margin, None, &Before::default())
        };
        let samples = |rule, margin| sized(rule, margin).expect("sizes").samples;
        let plain = "rule = { name = \"fixed\", win_margin = 0 }";
        assert!(samples("", 3.0) > samples(plain, 3.0), "the default asks for a mean of 2 points");
        assert!(samples("rule = { name = \"fixed\", null_margin = 2 }", 5.0) > samples("", 5.0));
        let error = sized("", 2.0).expect_err("half of the means are below it").to_string();
        assert!(error.contains("`win_margin` is 2") && error.contains("look for an effect above"), "{error}");
    }

    #[test]
    fn offline_judges_cost_nothing() {
        let config =
            config("judges = [{ name = \"protocol\" }]\n", "samples = 8\nrule = { name = \"margin\" }\n");
        let size = Size::new(&config, 10.0, None, &Before::default()).expect("sizes");
        let Calls { checklists, twins, canaries, .. } = size.calls;
        assert_eq!((size.usd, checklists, twins, canaries, size.sd), (Some(0.0), 0, 0, 0, SD));
        // And say nothing of what a paid one costs.
        let judges = config.judges.iter().cloned().zip([Spent { calls: 99, ..Spent::default() }]).collect();
        let pilot = Before { judges, ..Before::default() };
        let paid = "[[judges]]\nname = \"chat\"\nmodel = \"m\"\nbackend = { name = \"openai\" }\n";
        let paid = super::tests::config(paid, "samples = 8\n");
        assert_eq!(Size::new(&paid, 10.0, None, &pilot).expect("sizes").usd, None);
    }
}
