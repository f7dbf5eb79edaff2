//! The error budget of a reign: a king is ever dethroned by a challenger that
//! is not better with probability at most alpha, however many try.
//!
//! Reign attempts are numbered in the order in which their plans freeze. An
//! attempt's share is reserved then and never refunded; with fresh tasks and
//! fresh king replies for every duel each test is valid given all that is
//! public before it, so the shares add up.

use serde::{Deserialize, Serialize};

use schemars::JsonSchema;

use crate::error::{Error, ErrorKind, Result};
use crate::plan::{DuelSettings, Terms};
use crate::record::{Record, RecordLine};
use crate::verdict::Outcome;

/// Attempts that share [`FLAT_PART`] equally. Source: albedo.
const FLAT_ATTEMPTS: u64 = 200;

/// Part of alpha that they share. Source: albedo.
const FLAT_PART: f64 = 0.8;

/// How a reign's alpha is split over its attempts: four fifths equally over the
/// first 200, the rest on a tail for all others.
///
/// The tail is the 1 / (i · ln² i) schedule in the form that telescopes: attempt
/// `i` has 1 / ln(i − 1) − 1 / ln i = −ln(1 − 1 / i) / (ln(i − 1) · ln i), and
/// the sum from attempt 201 on is 1 / ln 200 − lim 1 / ln i = 1 / ln 200 exactly,
/// so ln 200 normalises it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ErrorBudget {
    alpha: f64,
}

impl ErrorBudget {
    /// The budget of a reign that is ended wrongly with probability at most
    /// `alpha`.
    ///
    /// # Errors
    /// [`ErrorKind::ConfigInvalid`] if `alpha` is not between 0 and 0.5.
    pub fn new(alpha: f64) -> Result<Self> {
        if alpha > 0.0 && alpha < 0.5 {
            return Ok(Self { alpha });
        }
        Err(Error::new(
            ErrorKind::ConfigInvalid,
            "set the error budget",
            format!("the alpha of a reign is {alpha}, it must be between 0 and 0.5"),
        ))
    }

    /// The budget that gives `attempt` that `share`.
    ///
    /// # Errors
    /// As [`ErrorBudget::new`]: there is none.
    pub fn sharing(attempt: u64, share: f64) -> Result<Self> {
        Self::new(share / weight(attempt))
    }

    /// The whole budget.
    pub fn alpha(&self) -> f64 {
        self.alpha
    }

    /// The share of `attempt`, counted from 1; 0 for attempt 0.
    pub fn share(&self, attempt: u64) -> f64 {
        self.alpha * weight(attempt)
    }

    /// The shares of attempts 1 to `attempts` together, in closed form.
    pub fn spent(&self, attempts: u64) -> f64 {
        let flat = FLAT_PART * attempts.min(FLAT_ATTEMPTS) as f64 / FLAT_ATTEMPTS as f64;
        let left = (FLAT_ATTEMPTS as f64).ln() / (attempts.max(FLAT_ATTEMPTS) as f64).ln();
        self.alpha * (flat + (1.0 - FLAT_PART) * (1.0 - left))
    }

    /// The terms on which `attempt` duels.
    pub fn terms(&self, attempt: u64) -> Terms {
        Terms::Reign { attempt, share: self.share(attempt) }
    }
}

/// Part of the budget that `attempt` has; all of them sum to 1.
fn weight(attempt: u64) -> f64 {
    match attempt {
        0 => 0.0,
        1..=FLAT_ATTEMPTS => FLAT_PART / FLAT_ATTEMPTS as f64,
        _ => {
            let i = attempt as f64;
            let step = -(-1.0 / i).ln_1p() / ((i - 1.0).ln() * i.ln());
            (1.0 - FLAT_PART) * (FLAT_ATTEMPTS as f64).ln() * step
        }
    }
}

/// The online procedure e-LOND (Xu and Ramdas, *Online multiple testing with
/// e-values*, 2024) over the duels of all reigns, in the order in which their
/// plans froze: the expected share of false crowns among its discoveries is at
/// most alpha, whatever the dependence between duels. Reported beside the
/// verdicts; it gates nothing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ELond {
    alpha: f64,
    tests: u64,
    discoveries: u64,
}

/// What e-LOND says of one duel.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ELondTest {
    /// The duel's level.
    pub level: f64,
    /// Its e-value is at least 1 / level.
    pub discovery: bool,
}

impl ELond {
    /// Before the first duel, for a false discovery rate of at most `alpha`.
    pub fn new(alpha: f64) -> Self {
        Self { alpha, tests: 0, discoveries: 0 }
    }

    /// Tests the next duel by the logarithm of its e-value at its end
    /// ([`crate::decision::SequentialEvidence::log_e_value`]): the level of duel
    /// `i` is alpha · `w_i` · (discoveries before it + 1), with the weights `w_i` of
    /// [`ErrorBudget`].
    pub fn test(&mut self, log_e_value: f64) -> ELondTest {
        self.tests += 1;
        let level = self.alpha * weight(self.tests) * (self.discoveries + 1) as f64;
        let discovery = log_e_value >= -level.ln();
        self.discoveries += u64::from(discovery);
        ELondTest { level, discovery }
    }

    /// Duels tested.
    pub fn tests(&self) -> u64 {
        self.tests
    }

    /// Discoveries among them.
    pub fn discoveries(&self) -> u64 {
        self.discoveries
    }
}

/// Earlier duels without which nothing is said about how true effects spread. Source:
/// albedo.
const MIN_EARLIER: usize = 10;

/// How the true effects of a reign's challengers spread around 0.
///
/// ```
/// use albedo_core::reign::{Effect, EffectPrior};
///
/// let earlier = [3.0, -2.5, 0.5, -4.0, 1.0, 2.0, -1.5, -3.0, 0.0, 2.5];
/// let earlier = earlier.map(|mean| Effect { mean, standard_error: 1.0 });
/// let prior = EffectPrior::estimate(&earlier).expect("ten duels");
/// assert!((prior.sd - 2.10).abs() < 0.01);
/// assert_eq!(EffectPrior::estimate(&earlier[1..]), None);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EffectPrior {
    /// Earlier duels that it is estimated from.
    pub duels: u32,
    /// Standard deviation of true effects in points.
    pub sd: f64,
}

/// What a duel found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Effect {
    /// Challenger minus king in points.
    pub mean: f64,
    /// Its standard error in points.
    pub standard_error: f64,
}

impl Effect {
    /// The effect that `record` found; none if it has fewer than two samples.
    pub fn of(record: &Record) -> Option<Self> {
        let differences = record.lines.iter().filter_map(|line| match line {
            RecordLine::Cluster(cluster) => Some(100.0 * cluster.difference),
            _ => None,
        });
        let differences: Vec<_> = differences.collect();
        let count = differences.len() as f64;
        let mean = differences.iter().sum::<f64>() / count;
        let squares: f64 = differences.iter().map(|difference| (difference - mean).powi(2)).sum();
        let standard_error = (squares / (count - 1.0) / count).sqrt();
        (differences.len() > 1).then_some(Self { mean, standard_error })
    }
}

impl EffectPrior {
    /// As [`EffectPrior::estimate`], from the effects that a reign's earlier records
    /// found.
    pub fn of<'a>(earlier: impl IntoIterator<Item = &'a Record>) -> Option<Self> {
        Self::estimate(&earlier.into_iter().filter_map(Effect::of).collect::<Vec<_>>())
    }

    /// The moment estimate from a reign's earlier duels: their mean square less that
    /// of their standard errors, at least 0. None for fewer than ten.
    pub fn estimate(earlier: &[Effect]) -> Option<Self> {
        let excess = |effect: &Effect| effect.mean.powi(2) - effect.standard_error.powi(2);
        let mean = earlier.iter().map(excess).sum::<f64>() / earlier.len() as f64;
        let prior = Self { duels: earlier.len() as u32, sd: mean.max(0.0).sqrt() };
        (earlier.len() >= MIN_EARLIER).then_some(prior)
    }

    /// Checks its ranges.
    ///
    /// # Errors
    /// [`ErrorKind::ConfigInvalid`], naming the value.
    pub fn check(&self) -> Result<()> {
        let invalid =
            |message| Err(Error::new(ErrorKind::ConfigInvalid, "check the duel's settings", message));
        if (self.duels as usize) < MIN_EARLIER {
            return invalid(format!(
                "`effect_prior.duels` is {}, fewer than {MIN_EARLIER} duels say nothing",
                self.duels
            ));
        }
        if !(0.0..=100.0).contains(&self.sd) {
            return invalid(format!("`effect_prior.sd` is {}, it must be from 0 to 100 points", self.sd));
        }
        Ok(())
    }
}

impl DuelSettings {
    /// The settings of the duel that comes after `earlier`, the reign's records so far,
    /// oldest first, each of them verified and all a chain
    /// ([`verify_chain`](crate::record::verify_chain)): it names the last of them, is the
    /// next attempt of their reign, with the share that the reign's budget gives it, and
    /// has the prior of effects that they give. A later attempt than the next keeps its
    /// number: the reign's others may have no record.
    ///
    /// ```
    /// # use albedo_core::testing::{ScriptedJudge, ScriptedSession, Rows};
    /// # use albedo_core::{CallContext, Duel, DuelSettings, MemoryStore, Record, Rule, Seed};
    /// # use std::sync::Arc;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> albedo_core::Result<()> {
    /// # let rule = Rule::by_name("margin")?;
    /// # let settings = DuelSettings { samples: 4, rule, ..DuelSettings::default() };
    /// # let sides = ["king", "challenger"].map(|name| ScriptedSession::saying(name, "ls").contestant());
    /// # let [king, challenger] = sides;
    /// # let duel = Duel::builder(king, challenger).tasks(Arc::new(Rows::numbered(9)));
    /// # let duel = duel.judge(Arc::new(ScriptedJudge::preferring("length", |_| 0.5)));
    /// # let (store, cx) = (MemoryStore::default(), CallContext::new());
    /// # duel.settings(settings.clone()).plan(&store, &cx).await?.run(&store, &cx).await?;
    /// # let record = store.record().expect("published");
    /// # let first = Record::from_bytes(&record.lines, &record.blobs, record.digest)?;
    /// let settings = DuelSettings { seed: Seed::from(1), ..settings };
    /// let settings = settings.following(std::slice::from_ref(&first))?;
    /// assert_eq!(settings.previous, Some(first.digest));
    /// assert_eq!(settings.effect_prior, None, "ten duels say how effects spread, not one");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::ConfigInvalid`] if there is no record, if the last one ended the
    /// reign, if the settings name another previous record, if an earlier duel has their
    /// seed, or if they are of a reign and the earlier duels are not.
    pub fn following(mut self, earlier: &[Record]) -> Result<Self> {
        let invalid =
            |message: &str| Error::new(ErrorKind::ConfigInvalid, "plan the reign's next duel", message);
        let last = earlier.last().ok_or_else(|| invalid("there is no earlier record"))?;
        if last.verdict().outcome == Outcome::Dethroned {
            return Err(invalid("the last of the earlier records ended the reign")
                .with("record", last.digest)
                .with_hint("the crowned challenger's reign begins without an earlier record"));
        }
        if let Some(previous) = self.previous.filter(|&previous| previous != last.digest) {
            return Err(invalid("`previous` names another record than the last of the earlier ones")
                .with("previous", previous)
                .with("the last", last.digest)
                .with_hint("leave `previous` out"));
        }
        if let Some(same) = earlier.iter().find(|record| record.plan().seed == self.seed) {
            return Err(invalid("an earlier duel of the reign has this seed, and so these tasks")
                .with("record", same.digest)
                .with_hint("choose a seed that nobody knew when the submission was handed in: `seed`"));
        }
        self.terms = match (last.plan().terms, self.terms) {
            (Terms::Reign { attempt: before, .. }, terms @ Terms::Reign { attempt, .. })
                if attempt > before =>
            {
                terms
            }
            (Terms::Reign { attempt, share }, _) => {
                ErrorBudget::sharing(attempt, share)?.terms(attempt.saturating_add(1))
            }
            (Terms::Standalone { .. }, terms @ Terms::Standalone { .. }) => terms,
            (Terms::Standalone { .. }, Terms::Reign { .. }) => {
                return Err(invalid("this duel is an attempt of a reign, and the earlier ones stand alone")
                    .with("the last", last.digest)
                    .with_hint("leave `terms` out, or begin the reign without an earlier record"));
            }
        };
        self.previous = Some(last.digest);
        self.effect_prior = EffectPrior::of(earlier);
        Ok(self)
    }
}

/// The evidence of a duel and of its confirmation: the logarithm of the product
/// of their e-values, itself the logarithm of an e-value against the same null
/// hypothesis.
///
/// This holds only if the second stage's e-value is one *given* the first: its
/// tasks must come from a seed that nobody knew when the first stage ended, and
/// whether it takes place must rest on the first stage alone.
pub fn confirmed_log_e_value(first: f64, second: f64) -> f64 {
    first + second
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::decision::cap;

    #[test]
    fn two_hundred_attempts_share_four_fifths() {
        let budget = ErrorBudget::new(0.05).expect("a budget");
        assert!((budget.share(1) - 2e-4).abs() < 1e-18);
        assert_eq!(budget.share(1), budget.share(200));
        assert!((budget.spent(200) - 0.04).abs() < 1e-15);
        assert_eq!(cap(budget.share(200)), 948);
        assert_eq!(budget.share(0), 0.0);
        assert!(
            (budget.share(201) - 0.01 * 200.0_f64.ln() * (1.0 / 200.0_f64.ln() - 1.0 / 201.0_f64.ln())).abs()
                < 1e-15
        );
        assert!(ErrorBudget::new(0.0).is_err() && ErrorBudget::new(f64::NAN).is_err());
    }

    #[test]
    fn a_million_shares_stay_within_the_budget_and_add_up() {
        let budget = ErrorBudget::new(0.05).expect("a budget");
        let (mut total, mut last) = (0.0, f64::INFINITY);
        for attempt in 1..=1_000_000 {
            let share = budget.share(attempt);
            assert!(share > 0.0 && share <= last, "share {attempt}");
            assert_eq!(cap(share) % 4, 0);
            total += share;
            last = share;
        }
        assert!(total < 0.05);
        assert!((total - budget.spent(1_000_000)).abs() < 1e-12);
        assert!(
            (budget.spent(u64::MAX) - (0.04 + 0.01 * (1.0 - 200.0_f64.ln() / 64.0 / 2.0_f64.ln()))).abs()
                < 1e-12
        );
    }

    #[test]
    fn e_lond_levels_grow_with_discoveries() {
        let mut procedure = ELond::new(0.05);
        let sure = procedure.test(20.0);
        assert!(sure.discovery && (sure.level - 2e-4).abs() < 1e-18);
        let unsure = procedure.test(5.0);
        assert!(!unsure.discovery && (unsure.level - 4e-4).abs() < 1e-18);
        assert!(procedure.test(-4e-4_f64.ln() + 1e-9).discovery, "one discovery, so twice the level");
        assert_eq!((procedure.tests(), procedure.discoveries()), (3, 2));
        assert!(!procedure.test(f64::NEG_INFINITY).discovery);
    }

    #[test]
    fn the_spread_of_effects_is_theirs_without_their_noise() {
        let effects = |means: &[f64], standard_error| -> Vec<_> {
            means.iter().map(|&mean| Effect { mean, standard_error }).collect()
        };
        let means = [4.0, -4.0, 4.0, -4.0, 4.0, -4.0, 4.0, -4.0, 4.0, -4.0];
        let prior = EffectPrior::estimate(&effects(&means, 0.0)).expect("ten duels");
        assert_eq!((prior.duels, prior.sd), (10, 4.0));
        assert_eq!(EffectPrior::estimate(&effects(&means, 5.0)).expect("ten duels").sd, 0.0);
        assert_eq!(EffectPrior::estimate(&effects(&means[..9], 0.0)), None);
        assert!(prior.check().is_ok() && EffectPrior { duels: 9, ..prior }.check().is_err());
        assert!(EffectPrior { sd: f64::NAN, ..prior }.check().is_err());
    }

    /// The record of an even duel, or of one that the challenger wins.
    async fn record(seed: u64, previous: Option<crate::Digest>, terms: Terms, wins: bool) -> Record {
        use crate::testing::{Rows, ScriptedJudge, ScriptedSession};
        let quality = move |reply: &str| if wins { reply.len() as f64 / 10.0 } else { 0.5 };
        let [king, challenger] = [("king", "ls"), ("challenger", "ls -l")]
            .map(|(name, text)| ScriptedSession::saying(name, text).contestant());
        let duel = crate::Duel::builder(king, challenger)
            .tasks(std::sync::Arc::new(Rows::numbered(50)))
            .judge(std::sync::Arc::new(ScriptedJudge::preferring("length", quality)));
        let rule = crate::Rule::Margin { win_margin: 2.0 };
        let settings =
            DuelSettings { samples: 4, rule, previous, terms, seed: seed.into(), ..DuelSettings::default() };
        let (store, cx) = (crate::MemoryStore::default(), crate::CallContext::new());
        let duel = duel.settings(settings).plan(&store, &cx).await.expect("plans");
        duel.run(&store, &cx).await.expect("runs");
        let record = store.record().expect("published");
        Record::from_bytes(&record.lines, &record.blobs, record.digest).expect("reads")
    }

    #[tokio::test]
    async fn a_duel_follows_the_reigns_earlier_ones() {
        let mut earlier: Vec<Record> = Vec::new();
        for seed in 1..=10 {
            let settings = DuelSettings::default();
            if let Some(last) = earlier.last() {
                let settings = settings.clone().following(&earlier).expect("follows");
                assert_eq!((settings.previous, settings.effect_prior), (Some(last.digest), None));
            }
            let previous = earlier.last().map(|last| last.digest);
            earlier.push(record(seed, previous, Terms::default(), false).await);
        }
        let settings = DuelSettings::default().following(&earlier).expect("follows");
        assert_eq!(settings.effect_prior, Some(EffectPrior { duels: 10, sd: 0.0 }));
        assert_eq!(EffectPrior::of(&earlier), settings.effect_prior);

        let other = DuelSettings { previous: Some(earlier[0].digest), ..DuelSettings::default() };
        assert!(other.following(&earlier).is_err(), "it names another record");
        assert!(DuelSettings::default().following(&[]).is_err());
        let ended = record(11, None, Terms::default(), true).await;
        let error = DuelSettings::default().following(&[ended]).expect_err("the reign is over");
        assert!(error.to_string().contains("ended the reign"), "{error}");
    }

    #[tokio::test]
    async fn the_next_attempt_has_the_next_share_and_another_seed() {
        let budget = ErrorBudget::new(0.05).expect("a budget");
        let at = |attempt, seed: u64| DuelSettings {
            terms: budget.terms(attempt),
            seed: seed.into(),
            ..DuelSettings::default()
        };
        let earlier = [record(1, None, budget.terms(200), false).await];
        // The file of the attempt before goes on; so does one that does not say.
        for settings in [at(200, 2), DuelSettings { seed: 2.into(), ..DuelSettings::default() }] {
            let next = settings.following(&earlier).expect("follows").terms;
            let (Terms::Reign { attempt, share }, expected) = (next, budget.share(201)) else {
                panic!("it stands alone: {next:?}");
            };
            assert_eq!(attempt, 201);
            assert!((share - expected).abs() < 1e-12 * expected, "{share} of {expected}");
        }
        assert_eq!(at(204, 2).following(&earlier).expect("follows").terms, budget.terms(204));
        let error = at(200, 1).following(&earlier).expect_err("one seed").to_string();
        assert!(error.contains("has this seed") && error.contains("`seed`"), "{error}");
        let alone = [record(1, None, Terms::default(), false).await];
        let error = at(2, 2).following(&alone).expect_err("no reign").to_string();
        assert!(error.contains("the earlier ones stand alone"), "{error}");
    }

    #[test]
    fn stages_multiply() {
        assert_eq!(confirmed_log_e_value(4.0, -1.5), 2.5);
    }

    proptest! {
        #[test]
        fn no_number_of_attempts_overspends(alpha in 1e-6..0.4999_f64, attempts in 0_u64..u64::MAX) {
            let budget = ErrorBudget::new(alpha).expect("a budget");
            prop_assert!(budget.spent(attempts) <= alpha);
            prop_assert!(budget.spent(attempts) <= budget.spent(attempts + 1));
        }

        #[test]
        fn shares_never_rise_and_make_the_sum(alpha in 1e-6..0.4999_f64, attempt in 1_u64..1 << 40) {
            let budget = ErrorBudget::new(alpha).expect("a budget");
            prop_assert!(budget.share(attempt + 1) <= budget.share(attempt));
            let step = budget.spent(attempt) - budget.spent(attempt - 1);
            prop_assert!((budget.share(attempt) - step).abs() <= 1e-15);
        }
    }
}
