//! The duel of `albedo miner check --duel`: on this machine, and what it says of the real one.

use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use crate::config::{DuelConfig, ModelConfig};
use crate::decision::{Power, RuleContext};
use crate::events::Collected;
use crate::record::JournalEvent;
use crate::reign::ErrorBudget;
use crate::report::Look;
use crate::{
    BuildContext, CallContext, Error, ErrorKind, EventKind, Fault, MemoryStore, ModelRef, Outcome, Registry,
    Result, Rule, Terms,
};

/// Duels that are drawn from the samples.
const DRAWN: u32 = 400;

/// A duel on this machine.
#[derive(Debug, Serialize)]
pub(super) struct Trial {
    /// Its samples.
    samples: u32,
    /// Challenger minus king in points, and the standard error.
    margin: f64,
    standard_error: f64,
    /// The attempt of the real duel.
    attempt: u64,
    /// What the attempt may spend of the reign's error budget.
    share: f64,
    /// Samples of the real duel, at most.
    most_samples: u32,
    /// How often the real rule crowns, if the challenger is as much better as it was here.
    power: Power,
}

/// What a trial is run with.
#[derive(Debug)]
pub(super) struct Trying<'a> {
    pub(super) config: &'a Path,
    pub(super) king: &'a ModelRef,
    pub(super) folder: &'a Path,
    pub(super) attempt: u64,
    pub(super) samples: Option<u32>,
}

/// A duel whose configuration was read and checked.
#[derive(Debug)]
pub(super) struct Planned {
    config: DuelConfig,
    /// The rule of the real duel, and its samples, at most.
    rule: Rule,
    most_samples: u32,
    attempt: u64,
    share: f64,
}

impl Planned {
    /// Reads the duel's configuration. Nothing is loaded yet.
    ///
    /// # Errors
    /// The operator's: there is no such file, or something is wrong in it.
    pub(super) fn read(trying: &Trying<'_>, registry: &Registry) -> Result<Self> {
        let Trying { config: file, king, folder, attempt, samples } = trying;
        let mut config = DuelConfig::read(file)?;
        let backend = |model: &ModelConfig| model.backend.clone();
        let named = |model: &ModelRef| match model {
            ModelRef::Hub(reference) => {
                ModelConfig { reference: Some(reference.clone()), ..ModelConfig::default() }
            }
            ModelRef::Folder(folder) => ModelConfig::folder(folder),
            other => ModelConfig { name: Some(other.to_string()), ..ModelConfig::default() },
        };
        config.king = ModelConfig { backend: backend(&config.king), ..named(king) };
        config.challenger =
            ModelConfig { backend: backend(&config.challenger), ..ModelConfig::folder(folder) };
        // It was screened already.
        (config.screens, config.screen_profile, config.anchor) = (None, None, None);
        let budget = ErrorBudget::new(0.05)?;
        let (rule, share) = (config.duel.rule.clone(), budget.share(*attempt));
        let most_samples = match rule {
            Rule::Sequential { .. } => config.duel.samples.max(crate::decision::cap(share)),
            _ => config.duel.samples,
        };
        // Every sample is judged, whatever it shows.
        config.duel.rule = Rule::by_name("margin")?;
        config.duel.samples = samples.unwrap_or(config.duel.samples);
        config.duel.terms = Terms::default();
        config.duel.previous = None;
        config.check(registry).map_err(|error| error.with("path", file.display()))?;
        Ok(Self { config, rule, most_samples, attempt: *attempt, share })
    }

    /// Duels the model with the king.
    pub(super) async fn run(self, registry: &Registry, cx: &CallContext) -> Result<Trial> {
        const OPERATION: &str = "duel on this machine";
        let Self { config, rule, most_samples, attempt, share } = self;
        let seen = Arc::new(Collected::default());
        let cx = &cx.with_events(seen.clone());
        let store = MemoryStore::default();
        let builder = config.builder(&BuildContext::new(registry, cx)).await?;
        let report = builder.plan(&store, cx).await?.run(&store, cx).await?;
        if let Outcome::Void(_) = report.verdict.outcome {
            return Err(Error::new(ErrorKind::Unavailable, OPERATION, report.verdict.outcome.to_string())
                .with_fault(Fault::Infrastructure)
                .with_hint("try again once the judges answer"));
        }
        let mut differences = Vec::new();
        for event in seen.events() {
            match event.kind {
                EventKind::Decided { difference, .. } => differences.push(difference),
                EventKind::Journal(JournalEvent::AskedAgain { .. }) => differences.clear(),
                _ => {}
            }
        }
        let context = RuleContext::new(&rule, most_samples, share);
        let power = Power::estimate(&rule, &context, &differences, DRAWN, config.duel.seed.entropy())?;
        let count = differences.len() as f64;
        let mean = differences.iter().sum::<f64>() / count;
        let squares: f64 = differences.iter().map(|difference| (difference - mean).powi(2)).sum();
        let standard_error = (squares / (count - 1.0).max(1.0) / count).sqrt();
        Ok(Trial {
            samples: differences.len() as u32,
            margin: 100.0 * mean,
            standard_error: 100.0 * standard_error,
            attempt,
            share,
            most_samples,
            power,
        })
    }
}

impl Trial {
    /// As text.
    pub(super) fn shown(&self, look: Look) -> String {
        let Self { samples, margin, standard_error, attempt, share, most_samples, power } = self;
        let mut text = String::from("\n");
        text += &look.entry(
            "duel",
            &format!("{margin:+.2} points over {samples} samples, standard error {standard_error:.2}"),
        );
        text += &look.entry(
            "attempt",
            &format!(
                "{attempt}, which may err with a chance of {:.4} %, of at most {most_samples} samples",
                100.0 * share
            ),
        );
        text += &look.entry(
            "power",
            &format!(
                "{} of {} duels drawn from these samples end with a crown, after {:.0} samples on average",
                power.crowned, power.duels, power.samples
            ),
        );
        text += &look
            .entry("", "if the model is as much better as it was here: more samples say that more exactly");
        text
    }
}
