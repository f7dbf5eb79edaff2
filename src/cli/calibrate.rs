//! `albedo calibrate`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;

use super::duel::vacant;
use super::exit::Exit;
use super::output::{print, print_json, warn};
use super::source::SourceArguments;
use crate::calibrate::{Calibration, self_duels};
use crate::config::{DuelConfig, journal_key};
use crate::events::Collected;
use crate::record::{JournalEvent, JournalKey};
use crate::verdict::Strata;
use crate::{
    BuildContext, CallContext, DuelBuilder, DuelReport, DuelSettings, Error, ErrorKind, EventKind, FileStore,
    MemoryStore, Outcome, RecordStore, Registry, Result, Rule, Seed,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    source: SourceArguments,
    /// Self-duels.
    #[arg(long, value_name = "K", default_value_t = 20)]
    duels: u32,
    /// Samples of each [default: the configuration's].
    #[arg(long, value_name = "N")]
    samples: Option<u32>,
    /// Each duel's seed is derived from this one: a whole number or 64
    /// hexadecimal digits [default: the configuration's].
    #[arg(long, value_name = "SEED")]
    seed: Option<Seed>,
    /// Sampling temperature, above 0 [default: the configuration's].
    #[arg(long, value_name = "T")]
    temperature: Option<f64>,
    /// Keep the duels' journals and records in folders of their own under this
    /// one, which holds none yet.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

impl Arguments {
    fn config(&self) -> Result<DuelConfig> {
        let mut config = self.source.read()?;
        config.challenger = config.king.clone();
        config.duel.samples = self.samples.unwrap_or(config.duel.samples);
        config.duel.seed = self.seed.unwrap_or(config.duel.seed);
        let sampling = &mut config.duel.generation.sampling;
        sampling.temperature = self.temperature.unwrap_or(sampling.temperature);
        Ok(config)
    }

    /// Where the self-duels are kept, if they are, and the key of their journals: what would refuse one of them
    /// refuses all before the model is loaded.
    fn kept(&self) -> Result<Option<(&Path, JournalKey)>> {
        let Some(out) = self.out.as_deref() else { return Ok(None) };
        let check = |folder: &Path| {
            let hint =
                "name a new folder with `--out`: a calibration begins anew, and goes on with no earlier one";
            vacant("keep the self-duels", folder, hint)
        };
        check(out)?;
        let folders = (1..=self.duels).map(|number| self_duel_folder(out, number));
        for folder in folders.filter(|folder| folder.exists()) {
            check(&folder)?;
        }
        Ok(Some((out, journal_key()?)))
    }
}

fn self_duel_folder(out: &Path, number: u32) -> PathBuf {
    out.join(format!("duel-{number}"))
}

pub(crate) async fn run(arguments: &Arguments, cx: &CallContext) -> Result<Exit> {
    let mut config = arguments.config()?;
    let base = config.duel.clone();
    let duels = self_duels(&config.duel, arguments.duels)?;
    if let Some(settings) = duels.first() {
        config.duel = settings.clone();
    }
    let registry = Registry::linked()?;
    config.check(&registry)?;
    let kept = arguments.kept()?;
    let builder = config.builder(&BuildContext::new(&registry, cx)).await?;
    let (mut reports, mut differences) = (Vec::new(), Vec::new());
    for (number, settings) in (1..).zip(duels) {
        config.duel = settings;
        let folder = kept.as_ref().map(|(out, key)| (self_duel_folder(out, number), key));
        let (report, measured) = self_duel(&config, &builder, folder, cx)
            .await
            .map_err(|error| error.with("self-duel", format!("{number} of {}", arguments.duels)))?;
        if !arguments.json {
            print(&format!(
                "{number:>4}/{}  {:+.2} points  seed {}\n",
                arguments.duels, report.verdict.margin, config.duel.seed
            ))?;
        }
        reports.push((config.duel.seed, report));
        differences.push(measured);
    }
    let calibration = Calibration::estimate(&differences)?;
    let suggested = suggested_rule(&base, calibration.null_margin);
    if calibration.duels < ENOUGH {
        warn(&format!(
            "{} self-duels say little: the upper bound is wide because they are few; run {ENOUGH} or more",
            calibration.duels
        ));
    }
    if arguments.json {
        print_json(&json!({
            "calibration": calibration,
            "suggested_rule": suggested,
            "temperature": config.duel.generation.sampling.temperature,
            "duels": reports.iter().map(|(seed, report)| json!({
                "seed": seed,
                "plan": report.plan,
                "margin": report.verdict.margin,
                "strata": report.verdict.strata,
                "record": report.record,
            })).collect::<Vec<_>>(),
        }))?;
    } else {
        print(&table(&calibration, suggested.is_some()))?;
        print(&strata(reports.iter().filter_map(|(_, report)| report.verdict.strata)))?;
        if let Some(Rule::Sequential { win_margin, null_margin }) = suggested {
            print(&format!(
                "\n[duel]\nrule = {{ name = \"sequential\", win_margin = {win_margin}, null_margin = {null_margin} }}\n"
            ))?;
        }
    }
    Ok(Exit::Done)
}

/// Self-duels from which on the upper bound says something: it is then 1.4 times the
/// estimate (5 % quantile of the chi-square distribution with 19 degrees of freedom:
/// √(19 / 10.1)), with two 16 times.
const ENOUGH: usize = 20;

/// The rule `sequential` with this `null_margin` of points, rounded up since it is a
/// bound; none if a duel with the settings `base` would be refused with it.
fn suggested_rule(base: &DuelSettings, null_margin: f64) -> Option<Rule> {
    let null_margin = rounded(null_margin);
    let win_margin = match base.rule {
        Rule::Sequential { win_margin, .. } => win_margin,
        _ => 2.0,
    };
    let rule = Rule::Sequential { win_margin, null_margin };
    DuelSettings { rule: rule.clone(), ..base.clone() }.check().is_ok().then_some(rule)
}

fn rounded(points: f64) -> f64 {
    (points * 100.0).ceil() / 100.0
}

/// Runs one self-duel, kept in `folder` under the key beside it; the differences of its clusters.
async fn self_duel(
    config: &DuelConfig,
    builder: &DuelBuilder,
    folder: Option<(PathBuf, &JournalKey)>,
    cx: &CallContext,
) -> Result<(DuelReport, Vec<f64>)> {
    let seen = Arc::new(Collected::default());
    let cx = &cx.with_events(seen.clone());
    let store: Box<dyn RecordStore> = match folder {
        Some((folder, key)) => {
            let anchor = config.save_new(&folder, key)?;
            Box::new(FileStore::create_keyed(folder, key.clone(), anchor)?)
        }
        None => Box::new(MemoryStore::default()),
    };
    let duel = builder.clone().settings(config.duel.clone()).plan(&*store, cx).await?;
    let report = duel.run(&*store, cx).await?;
    if let Outcome::Forfeit(_) = report.verdict.outcome {
        return Err(Error::new(ErrorKind::Overflow, "calibrate", "the model's own arithmetic overflows")
            .with("samples", report.verdict.overflows.challenger)
            .with("of", report.verdict.samples)
            .with_hint("calibrate with a model whose weights do not overflow"));
    }
    if let Outcome::Void(_) = report.verdict.outcome {
        return Err(Error::new(
            ErrorKind::Unavailable,
            "calibrate",
            format!(
                "{} of {} judges' answers are missing, too many",
                report.verdict.missing, report.verdict.cells
            ),
        )
        .with_hint("try again, or look into the journal that `--out` keeps"));
    }
    let mut differences = Vec::new();
    for event in seen.events() {
        match event.kind {
            EventKind::Decided { difference, .. } => differences.push(difference),
            // The rule starts again from the first sample.
            EventKind::Journal(JournalEvent::AskedAgain { .. }) => differences.clear(),
            _ => {}
        }
    }
    Ok((report, differences))
}

/// The mean correlation of the self-duels that have one.
fn strata(found: impl Iterator<Item = Strata>) -> String {
    let rhos: Vec<_> = found.map(|strata| strata.rho).collect();
    if rhos.is_empty() {
        return String::new();
    }
    let mean = rhos.iter().sum::<f64>() / rhos.len() as f64;
    format!(
        "{:<26}{mean:>+8.2}   of a sample's difference with earlier ones of its repository\n",
        "correlation"
    )
}

fn table(calibration: &Calibration, usable: bool) -> String {
    let Calibration { duels, samples, mean, mean_interval, within_sd, duel_sd, duel_sd_upper, null_margin } =
        calibration;
    let noise = within_sd / (*samples as f64).sqrt();
    let null_margin = rounded(*null_margin);
    let advice = if usable { "" } else { ": too much for a rule, no duel could be won; run more self-duels" };
    format!(
        "\n{duels} self-duels of {samples} samples, in points\n\
         {:<26}{mean:>+8.2}   95 % interval {:+.2} to {:+.2}, should hold 0\n\
         {:<26}{within_sd:>8.2}   gives a duel's margin an SD of {noise:.2}\n\
         {:<26}{duel_sd:>8.2}   at most {duel_sd_upper:.2} with 95 % confidence\n\
         {:<26}{null_margin:>8.2}   1.645 times that bound{advice}\n",
        "mean margin",
        mean_interval.low,
        mean_interval.high,
        "SD within a duel",
        "duel-level SD",
        "null_margin",
    )
}
