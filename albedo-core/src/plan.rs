//! The frozen plan: everything that can change a verdict, in one value,
//! digested before work begins.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::admission::Admission;
use crate::backend::{ModelInfo, Sampling};
use crate::behaviour::Behaviour;
use crate::canary::{CanaryPlan, CanarySettings};
use crate::decision::{Rule, RuleContext, RuleVersion, cap};
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Result, Side};
use crate::identity::Identity;
use crate::judge::{Candidate, Metric};
use crate::panel::PanelSettings;
use crate::reign::EffectPrior;
use crate::rng::derive_seed;
use crate::seed::Seed;
use crate::tasks::TaskSetInfo;
use crate::twin::TwinSettings;

/// Most values that the rule `margin-lcb` draws in all its resamples: about ten
/// seconds' work.
const MAX_RESAMPLED: u64 = 1_000_000_000;

mod judge;

pub use judge::JudgePlan;

/// What the user chooses of a duel: the table `[duel]` of a configuration file, in which
/// every key may be left out (`docs/configuration-reference.md` has the defaults).
///
/// ```
/// use albedo_core::{DuelSettings, Rule, Seed};
///
/// let mut settings = DuelSettings { samples: 128, seed: Seed::from(7), ..DuelSettings::default() };
/// settings.rule = Rule::by_name("margin")?;
/// settings.generation.sampling.temperature = 0.7;
/// settings.limits.budget_usd = Some(5.0);
/// settings.check()?;
/// # Ok::<(), albedo_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DuelSettings {
    /// Samples to draw; the cap where the rule may stop early. The rule
    /// `sequential` sets its own cap within a reign.
    pub samples: u32,
    /// How rows and turns are drawn.
    pub sampler: Sampler,
    /// Seed of the draw, of generation and of the rule's resampling.
    pub seed: Seed,
    /// Longest prompt and reply together in tokens; by default the king's context
    /// length. A challenger whose own is shorter is at fault.
    pub context_tokens: Option<u32>,
    /// How replies are generated, the same for both sides.
    pub generation: GenerationSettings,
    /// The lane of each side's request seeds: calibration gives the sides two.
    pub lanes: Lanes,
    /// How the judges' answers become one difference.
    pub panel: PanelSettings,
    /// How the duel is decided.
    pub rule: Rule,
    /// The error that the duel may spend; the rules `sequential` and `fixed` go by it.
    pub terms: Terms,
    /// What bounds the work.
    pub limits: Limits,
    /// Digest of the reign's previous record: records of a reign are a chain.
    pub previous: Option<Digest>,
    /// Questions with known answers for judges that read replies; none unless
    /// this is set. A duel for a crown should have them.
    pub canaries: Option<CanarySettings>,
    /// When judges that read replies compare a reply with its own twin, to find out whether its text talks to them. Unless
    /// it is set, twins are on, and one sample in 16 is drawn.
    #[serde(skip_serializing_if = "TwinSettings::is_default")]
    pub twins: TwinSettings,
    /// How true effects spread, by the reign's earlier duels: for the shrunken
    /// estimate beside the verdict, which is left out without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub effect_prior: Option<EffectPrior>,
}

impl Default for DuelSettings {
    fn default() -> Self {
        Self {
            samples: 64,
            sampler: Sampler::default(),
            seed: Seed::from(0),
            context_tokens: None,
            generation: GenerationSettings::default(),
            lanes: Lanes::default(),
            panel: PanelSettings::default(),
            rule: Rule::default(),
            terms: Terms::default(),
            limits: Limits::default(),
            previous: None,
            canaries: None,
            twins: TwinSettings::default(),
            effect_prior: None,
        }
    }
}

impl DuelSettings {
    /// Checks every range.
    ///
    /// # Errors
    /// [`ErrorKind::ConfigInvalid`], naming the value and its `key`.
    pub fn check(&self) -> Result<()> {
        let invalid = |key: &'static str, message: String| {
            let error = Error::new(ErrorKind::ConfigInvalid, "check the duel's settings", message);
            Err(error.with("key", key))
        };
        if !(1..=1_000_000).contains(&self.samples) {
            let message = format!("`samples` is {}, it must be between 1 and 1,000,000", self.samples);
            return invalid("samples", message);
        }
        if self.generation.max_new_tokens == 0 {
            let message = "`generation.max_new_tokens` is 0, it must be at least 1";
            return invalid("generation.max_new_tokens", message.into());
        }
        if self.context_tokens.is_some_and(|context| context <= self.generation.max_new_tokens) {
            let message = "`context_tokens` leaves no room for a prompt beside `generation.max_new_tokens`";
            return invalid("context_tokens", message.into());
        }
        let max_missing = self.panel.max_missing;
        if !(0.0..=1.0).contains(&max_missing) {
            let message = format!("`panel.max_missing` is {max_missing}, it must be between 0 and 1");
            return invalid("panel.max_missing", message);
        }
        for (key, value) in [
            ("limits.samples_in_flight", self.limits.samples_in_flight),
            ("limits.call_tries", self.limits.call_tries),
        ] {
            if value == 0 {
                return invalid(key, format!("`{key}` is 0, it must be at least 1"));
            }
        }
        if self.limits.budget_usd.is_some_and(|budget| !(budget >= 0.0 && budget.is_finite())) {
            return invalid("limits.budget_usd", "`limits.budget_usd` must be 0 or more".into());
        }
        if let Rule::MarginLcb { resamples, .. } = self.rule
            && u64::from(resamples) * u64::from(self.samples) > MAX_RESAMPLED
        {
            let message = format!(
                "`rule.resamples` times `samples` is above {MAX_RESAMPLED}: deciding would take minutes"
            );
            return invalid("rule", message);
        }
        let alpha = self.terms.alpha();
        if !(alpha > 1e-100 && alpha < 0.5) {
            let message = format!("the alpha of `terms` is {alpha:?}, it must be between 0 and 0.5");
            return invalid("terms", message);
        }
        if matches!(self.terms, Terms::Reign { attempt: 0, .. }) {
            return invalid("terms", "the attempt of `terms` is 0, attempts count from 1".into());
        }
        if let Some(canaries) = &self.canaries {
            canaries.check().map_err(|error| error.under("canaries"))?;
        }
        if let Some(prior) = &self.effect_prior {
            prior.check().map_err(|error| error.under("effect_prior"))?;
        }
        self.generation.sampling.check().map_err(|error| error.under("generation.sampling"))?;
        self.rule.check().map_err(|error| error.under("rule"))?;
        self.rule.check_reach(alpha, self.planned_samples()).map_err(|error| error.under("samples"))
    }

    /// The samples that a plan allows for: `samples`, or within a reign the cap
    /// of the rule `sequential`.
    pub fn planned_samples(&self) -> u32 {
        match (&self.rule, self.terms) {
            (Rule::Sequential { .. }, Terms::Reign { share, .. }) => cap(share),
            _ => self.samples,
        }
    }
}

/// The error that a duel may spend: the chance of crowning a challenger that is
/// not better.
///
/// ```
/// use albedo_core::plan::Terms;
///
/// // In a configuration: `terms = { reign = { attempt = 3, share = 0.0002 } }`.
/// let terms: Terms = serde_json::from_str(r#"{ "reign": { "attempt": 3, "share": 0.0002 } }"#)?;
/// assert_eq!(terms.alpha(), 0.0002);
/// assert_eq!(Terms::default().alpha(), 0.05, "a duel by itself");
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
pub enum Terms {
    /// A duel by itself.
    Standalone {
        /// Its chance of a false crown.
        #[schemars(example = 0.05, extend("x-unit" = "probability"))]
        alpha: f64,
    },
    /// One of the duels of a king, which share one error budget
    /// ([`crate::reign`]).
    Reign {
        /// The duel's number within the reign, from 1.
        attempt: u64,
        /// Its share of the budget.
        #[schemars(example = 0.0002, extend("x-unit" = "probability"))]
        share: f64,
    },
}

impl Terms {
    /// The duel's chance of a false crown.
    pub fn alpha(&self) -> f64 {
        match *self {
            Self::Standalone { alpha } | Self::Reign { share: alpha, .. } => alpha,
        }
    }
}

impl Default for Terms {
    fn default() -> Self {
        Self::Standalone { alpha: 0.05 }
    }
}

/// How replies are generated.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct GenerationSettings {
    /// A reply is cut after this many tokens and judged as it is.
    pub max_new_tokens: u32,
    /// How tokens are chosen.
    pub sampling: Sampling,
}

impl Default for GenerationSettings {
    fn default() -> Self {
        Self { max_new_tokens: 256, sampling: Sampling::default() }
    }
}

/// Which of a sample's seeds each side generates with. Sides in one lane have
/// one seed; a model that duels itself in two lanes shows how far its own chance
/// moves a duel ([`crate::calibrate`]).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Lanes {
    /// The king's.
    pub king: u32,
    /// The challenger's.
    pub challenger: u32,
}

impl Lanes {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields by reference")]
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// What bounds the work. A spent budget ends a run, which resumes later: it never
/// makes an answer missing, so only `call_tries` is part of the plan.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Samples between drawing and decision at any time.
    pub samples_in_flight: u32,
    /// Tries of a call that fails for a passing reason, and answers to a question
    /// that cannot be parsed. It decides which answers are missing, so the plan
    /// has it too.
    pub call_tries: u32,
    /// Ask the judges no further question once their answers have cost this much
    /// together, in US dollars, in all runs of the duel; no limit if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget_usd: Option<f64>,
}

impl Default for Limits {
    fn default() -> Self {
        Self { samples_in_flight: 128, call_tries: 3, budget_usd: None }
    }
}

/// Everything that can change the verdict of one duel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DuelPlan {
    /// Version of albedo that froze it. Since record format 3 the behaviour stands
    /// in its place, and the build beside the plan ([`crate::Origin`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// The king.
    pub king: ContestantPlan,
    /// The challenger.
    pub challenger: ContestantPlan,
    /// The tasks.
    pub tasks: TaskSetInfo,
    /// How rows and turns are drawn.
    pub sampler: Sampler,
    /// Samples to draw; the cap where the rule may stop early.
    pub samples: u32,
    /// The sample counts at which the rule may crown, rising.
    pub looks: Vec<u32>,
    /// The seed.
    pub seed: Seed,
    /// Longest prompt and reply together, in tokens.
    pub context_tokens: u32,
    /// How replies are generated.
    pub generation: GenerationSettings,
    /// The lane of each side's request seeds.
    #[serde(default, skip_serializing_if = "Lanes::is_default")]
    pub lanes: Lanes,
    /// The judges, in panel order.
    pub judges: Vec<JudgePlan>,
    /// How their answers become one difference.
    pub panel: PanelSettings,
    /// How the duel is decided.
    pub rule: Rule,
    /// Which version of the rules; left out if it is the first. Since record format 3.
    #[serde(default, skip_serializing_if = "RuleVersion::is_first")]
    pub rule_version: RuleVersion,
    /// The error that the duel may spend.
    pub terms: Terms,
    /// Digest of the reign's previous record, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<Digest>,
    /// The canaries, if there are any. Since record format 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canaries: Option<CanaryPlan>,
    /// The twins, if a judge makes any. Since record format 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub twins: Option<TwinSettings>,
    /// The challenger's admission beside the king, as it may be
    /// [published](Admission::published); none if it was not screened. Since record
    /// format 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admission: Option<Box<Admission>>,
    /// How true effects spread, if it is known. Since record format 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effect_prior: Option<EffectPrior>,
    /// [`Limits::call_tries`]. Since record format 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call_tries: Option<u32>,
    /// What the build that froze the plan answers to fixed questions. Since record
    /// format 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub behaviour: Option<Behaviour>,
}

impl DuelPlan {
    /// The plan's digest: SHA-256 of its canonical JSON.
    pub fn digest(&self) -> Result<Digest> {
        Digest::of_json(self)
    }

    /// The seed of `side`'s reply to sample `sample`: the same for sides in one
    /// lane. Lane 0 is not hashed.
    pub fn request_seed(&self, sample: u32, side: Side) -> u64 {
        let lane = match side {
            Side::King => self.lanes.king,
            Side::Challenger => self.lanes.challenger,
        };
        let (sample, lane) = (sample.to_le_bytes(), lane.to_le_bytes());
        let parts: [&[u8]; 3] = [self.seed.as_bytes(), &sample, &lane];
        derive_seed("reply", if lane == [0; 4] { &parts[..2] } else { &parts })
    }

    /// Names of the fields in which `other` is another plan, ascending.
    pub(crate) fn differences(&self, other: &Self) -> Vec<String> {
        let keys = |plan: &Self| match serde_json::to_value(plan) {
            Ok(serde_json::Value::Object(keys)) => keys,
            _ => serde_json::Map::new(),
        };
        let (ours, theirs) = (keys(self), keys(other));
        let all: BTreeSet<_> = ours.keys().chain(theirs.keys()).collect();
        all.into_iter().filter(|&key| ours.get(key) != theirs.get(key)).cloned().collect()
    }

    /// Whether two replies are a tie without asking `judge`: they are the same, and
    /// it looks at nothing else. Never in the rules' first version.
    pub(crate) fn are_a_tie(&self, judge: &JudgePlan, king: &Candidate, challenger: &Candidate) -> bool {
        !self.rule_version.is_first()
            && !judge.reference_scores
            && (&king.text, king.finish) == (&challenger.text, challenger.finish)
    }

    /// The plan as a build before record format 3 would have frozen it, as `version`.
    #[must_use]
    pub(crate) fn as_frozen_by(&self, version: &str) -> Self {
        let mut plan = self.clone();
        plan.version = Some(version.to_owned());
        (plan.call_tries, plan.behaviour, plan.admission) = (None, None, None);
        for judge in &mut plan.judges {
            judge.offline = None;
        }
        plan.without_twins()
    }

    /// The plan as a build without twins would have frozen it.
    #[must_use]
    pub(crate) fn without_twins(mut self) -> Self {
        self.twins = None;
        for judge in &mut self.judges {
            judge.twins = None;
        }
        self
    }

    /// What the rule needs besides the clusters.
    pub fn rule_context(&self) -> RuleContext {
        RuleContext {
            version: self.rule_version,
            samples: self.samples,
            looks: self.looks.clone(),
            alpha: self.terms.alpha(),
            entropy: self.seed.entropy(),
            metrics: self.metrics(),
            reducer: self.panel.reducer,
            effect_sd: self.effect_prior.map(|prior| prior.sd),
        }
    }

    /// The judges' own metrics, in panel order.
    pub fn metrics(&self) -> Vec<Vec<Metric>> {
        self.judges.iter().map(|judge| judge.metrics.clone()).collect()
    }
}

/// One side of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContestantPlan {
    /// The loaded model.
    pub model: ModelInfo,
    /// The backend that runs it.
    pub backend: Identity,
}

/// How rows and turns are drawn; [`crate::draw`] says how exactly.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Sampler {
    /// A row uniformly, then a turn among its assistant turns; every sample is
    /// an instance of its own.
    #[default]
    RowDraw,
    /// What the Python system draws, for compatibility only: several samples
    /// may share an instance, so they are not independent clusters.
    AlbedoPy,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_sampler_is_chosen_by_name() {
        let sampler = |text| serde_json::from_str::<DuelSettings>(text).map(|settings| settings.sampler).ok();
        assert_eq!(sampler("{}"), Some(Sampler::RowDraw));
        assert_eq!(sampler(r#"{"sampler": "albedo-py"}"#), Some(Sampler::AlbedoPy));
        assert_eq!(sampler(r#"{"sampler": "python"}"#), None);
    }

    #[test]
    fn sides_in_one_lane_share_their_seeds_and_lane_0_is_not_written() {
        let lanes = |text| serde_json::from_str::<DuelSettings>(text).expect("reads").lanes;
        assert_eq!(lanes("{}"), Lanes::default());
        assert_eq!(lanes(r#"{"lanes": {"challenger": 1}}"#), Lanes { king: 0, challenger: 1 });
        assert!(Lanes::default().is_default() && !Lanes { king: 1, challenger: 1 }.is_default());
    }

    #[test]
    fn within_a_reign_the_sequential_rule_sets_the_cap() {
        let terms = Terms::Reign { attempt: 1, share: 2e-4 };
        let reign = DuelSettings { terms, ..DuelSettings::default() };
        assert_eq!(reign.planned_samples(), 948);
        assert!(reign.check().is_ok());
        let rule = Rule::Margin { win_margin: 2.0 };
        assert_eq!(DuelSettings { rule, ..reign }.planned_samples(), 64);
    }

    #[test]
    fn absurd_settings_are_named() {
        let check = |settings: DuelSettings| settings.check().expect_err("absurd").to_string();
        let default = DuelSettings::default;
        assert!(default().check().is_ok());
        assert!(check(DuelSettings { samples: 0, ..default() }).contains("`samples` is 0"));
        let sampling = Sampling { temperature: f64::NAN, ..Sampling::default() };
        let generation = GenerationSettings { sampling, ..GenerationSettings::default() };
        assert!(check(DuelSettings { generation, ..default() }).contains("temperature"));
        let terms = Terms::Standalone { alpha: 1.0 };
        assert!(check(DuelSettings { terms, ..default() }).contains("the alpha of `terms` is 1.0,"));
        let terms = Terms::Reign { attempt: 0, share: 2e-4 };
        assert!(check(DuelSettings { terms, ..default() }).contains("attempts count from 1"));
        assert!(check(DuelSettings { samples: 4, ..default() }).contains("the cap is too low"));
        let rule = Rule::Margin { win_margin: -1.0 };
        assert!(check(DuelSettings { rule, ..default() }).contains("`win_margin` is -1"));
        // Verifying such a record would take minutes.
        let rule = Rule::MarginLcb { win_margin: 2.0, alpha: 0.05, resamples: 1_000_000 };
        assert!(check(DuelSettings { rule, samples: 10_000, ..default() }).contains("resamples"));
    }

    #[test]
    fn a_mistake_has_the_path_of_its_key() {
        for (settings, key) in [
            (json!({ "samples": 0 }), "samples"),
            (json!({ "limits": { "call_tries": 0 } }), "limits.call_tries"),
            (json!({ "panel": { "max_missing": 2 } }), "panel.max_missing"),
            (json!({ "generation": { "sampling": { "top_p": 0.0 } } }), "generation.sampling.top_p"),
            (json!({ "canaries": { "every": 0 } }), "canaries.every"),
        ] {
            let settings: DuelSettings = serde_json::from_value(settings).expect("reads");
            let error = settings.check().expect_err("absurd").under("duel");
            assert!(error.to_string().contains(&format!("key: duel.{key})")), "{error}");
        }
    }
}
