//! Confirmation: a duel and a second stage on fresh tasks, decided together.

use serde::{Deserialize, Serialize};

use crate::behaviour::Behaviour;
use crate::decision::{Evidence, FixedEvidence, Rule, SequentialEvidence};
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::plan::{DuelPlan, DuelSettings};
use crate::record::Record;
use crate::reign::confirmed_log_e_value;
use crate::verdict::Outcome;

const OPERATION: &str = "confirm the duel";

/// What a confirmation's plan may have other than the duel's.
const MAY_DIFFER: [&str; 8] =
    ["effect_prior", "looks", "previous", "rule_version", "samples", "seed", "terms", "version"];

/// What a duel and its confirmation say together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Confirmation {
    /// The duel, then its confirmation.
    pub stages: [Stage; 2],
    /// Chance of a wrong crown that both may spend together.
    pub alpha: f64,
    /// Natural logarithm of the product of their e-values.
    pub log_e_value: f64,
    /// The product is at least 1 / alpha, and each stage shows the size of the win.
    pub crowned: bool,
}

/// One of the two duels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stage {
    /// Digest of its record.
    pub record: Digest,
    /// Samples that it consumed.
    pub samples: u32,
    /// Their mean in points; where answers are missing, with these as the king's wins.
    pub mean: f64,
    /// The least mean in points that its rule crowns after this many.
    pub least_mean: f64,
    /// The mean is at least that, or the second betting process has shown the size
    /// and a win was not out of reach.
    pub size_shown: bool,
    /// Natural logarithm of its e-value, at its end.
    pub log_e_value: f64,
}

impl Confirmation {
    /// Decides on both records, each of them verified, at `alpha`; by default
    /// at the first one's.
    ///
    /// That the second names the first shows that it was planned after the first
    /// had ended. Where its seed comes from no record shows: the product is an
    /// e-value only if nobody could know or choose that seed when the first
    /// ended, and if this is *the* confirmation, not the best of several
    /// ([`confirmed_log_e_value`]).
    ///
    /// # Errors
    /// [`ErrorKind::DataInvalid`]: a rule other than `sequential` and `fixed`, a duel that was void
    /// or ended with a forfeit, a second record that does not name the first or has its seed, or one that asks
    /// another question: other contestants, tasks, judges, rule or generation.
    /// [`ErrorKind::ConfigInvalid`]: an alpha that is not between 0 and 0.5.
    pub fn new(first: &Record, second: &Record, alpha: Option<f64>) -> Result<Self> {
        check_plans(first.digest, first.plan(), second.plan())?;
        let alpha = alpha.unwrap_or(first.plan().terms.alpha());
        if !(alpha > 0.0 && alpha < 0.5) {
            return Err(Error::new(
                ErrorKind::ConfigInvalid,
                OPERATION,
                format!("alpha is {alpha}, it must be between 0 and 0.5"),
            ));
        }
        let stages = [stage(first)?, stage(second)?];
        let log_e_value = confirmed_log_e_value(stages[0].log_e_value, stages[1].log_e_value);
        let crowned = log_e_value >= -alpha.ln() && stages.iter().all(|stage| stage.size_shown);
        Ok(Self { stages, alpha, log_e_value, crowned })
    }
}

impl DuelSettings {
    /// The settings of the confirmation of the duel in `record`, which was verified: it
    /// names that record, and bets by the rule `fixed` on a number of samples, with the
    /// margins of the duel.
    ///
    /// ```
    /// # use albedo_core::testing::small_duel;
    /// # use albedo_core::{CallContext, DuelSettings, MemoryStore, Record, Rule, Seed};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> albedo_core::Result<()> {
    /// let settings = DuelSettings { samples: 8, ..DuelSettings::default() };
    /// # let (store, cx) = (MemoryStore::default(), CallContext::new());
    /// # small_duel().settings(settings.clone()).plan(&store, &cx).await?.run(&store, &cx).await?;
    /// # let record = store.record().expect("published");
    /// # let first = Record::from_bytes(&record.lines, &record.blobs, record.digest)?;
    /// // With `first`, the record of a duel with these settings:
    /// let second = DuelSettings { seed: Seed::from(1), ..settings }.confirming(&first)?;
    /// assert_eq!((second.previous, second.rule.name()), (Some(first.digest), "fixed"));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`ErrorKind::ConfigInvalid`] if the duel's rule gives no evidence, if it has this
    /// seed, or if the settings name another previous record.
    pub fn confirming(self, record: &Record) -> Result<Self> {
        let invalid = |message: &str| {
            Error::new(ErrorKind::ConfigInvalid, "plan the confirmation", message)
                .with("record", record.digest)
        };
        let first = record.plan();
        let Some((win_margin, null_margin)) = margins(&first.rule) else {
            return Err(invalid("the duel's rule gives no evidence to multiply")
                .with("rule", first.rule.name())
                .with_hint("duel by the rule `sequential`"));
        };
        if first.seed == self.seed {
            return Err(invalid("the duel has this seed, and so these tasks")
                .with_hint("choose one that nobody knew when the duel ended: `seed`"));
        }
        if self.previous.is_some_and(|previous| previous != record.digest) {
            return Err(invalid("`previous` names another record").with_hint("leave `previous` out"));
        }
        let rule = Rule::Fixed { win_margin, null_margin };
        Ok(Self { previous: Some(record.digest), rule, ..self })
    }
}

/// Whether the second plan is that of a confirmation of `record`, the first's.
fn check_plans(record: Digest, first: &DuelPlan, second: &DuelPlan) -> Result<()> {
    let refused = |message: &str| Error::new(ErrorKind::DataInvalid, OPERATION, message);
    if second.previous != Some(record) {
        return Err(refused("the second record does not name the first: it may be older")
            .with("first", record)
            .with_hint("plan the confirmation with `previous` set to the first record's digest"));
    }
    if first.seed == second.seed {
        return Err(refused("both have one seed, so the same tasks").with("seed", first.seed));
    }
    let mut differing = first.differences(second);
    let one_question = margins(&first.rule).is_some() && margins(&first.rule) == margins(&second.rule);
    // Another rule or version of it decides otherwise; nothing else may behave otherwise.
    let one_behaviour = match (&first.behaviour, &second.behaviour) {
        (Some(first), Some(second)) => Behaviour { rule: second.rule, ..first.clone() } == *second,
        _ => false,
    };
    differing.retain(|field| match field.as_str() {
        "rule" => !one_question,
        "behaviour" => !one_behaviour,
        field => !MAY_DIFFER.contains(&field),
    });
    if !differing.is_empty() {
        return Err(refused("the second asks another question than the first")
            .with("they differ in", differing.join(", ")));
    }
    Ok(())
}

/// Win margin and null margin of a rule that gives an e-value.
fn margins(rule: &Rule) -> Option<(f64, f64)> {
    match *rule {
        Rule::Sequential { win_margin, null_margin } | Rule::Fixed { win_margin, null_margin } => {
            Some((win_margin, null_margin))
        }
        Rule::Margin { .. } | Rule::MarginLcb { .. } => None,
    }
}

/// What the duel of `record` says. Where answers are missing a win has to be shown with them
/// counted as ties, and also with them as the king's wins, as the duel's own rule has it: of both
/// series counts the one that shows less.
fn stage(record: &Record) -> Result<Stage> {
    let verdict = record.verdict();
    if !matches!(verdict.outcome, Outcome::Dethroned | Outcome::KingHolds(_)) {
        let message = format!("a duel has no evidence to multiply that ended so: {}", verdict.outcome);
        return Err(Error::new(ErrorKind::DataInvalid, OPERATION, message).with("record", record.digest));
    }
    let as_ties = series(record, &verdict.decision.evidence)?;
    let Some(evidence) = &verdict.decision.evidence_for_king else { return Ok(as_ties) };
    let for_king = series(record, evidence)?;
    Ok(Stage {
        size_shown: as_ties.size_shown && for_king.size_shown,
        log_e_value: as_ties.log_e_value.min(for_king.log_e_value),
        ..for_king
    })
}

fn series(record: &Record, evidence: &Evidence) -> Result<Stage> {
    match (&record.plan().rule, evidence) {
        (Rule::Sequential { win_margin, .. }, Evidence::Sequential(evidence)) => {
            let SequentialEvidence { samples, mean, log_e_value, futile_at, .. } = *evidence;
            let least_mean = evidence.least_mean(*win_margin);
            let by_betting = evidence.size.as_ref().is_some_and(|size| size.rejected_at.is_some());
            let size_shown = mean >= least_mean || (by_betting && futile_at.is_none());
            Ok(Stage { record: record.digest, samples, mean, least_mean, size_shown, log_e_value })
        }
        (Rule::Fixed { win_margin, .. }, Evidence::Fixed(evidence)) => {
            let FixedEvidence { samples, mean, log_e_value, margin_met, .. } = *evidence;
            let (least_mean, size_shown) = (*win_margin, margin_met);
            Ok(Stage { record: record.digest, samples, mean, least_mean, size_shown, log_e_value })
        }
        (rule, _) => Err(Error::new(
            ErrorKind::DataInvalid,
            OPERATION,
            format!("the rule `{}` gives no e-value", rule.name()),
        )
        .with("record", record.digest)
        .with_hint("duel by the rule `sequential`, confirm by `sequential` or `fixed`")),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    use crate::duel::scripted::*;
    use crate::plan::Terms;
    use crate::seed::Seed;
    use crate::{Assessment, Comparison, Judge};

    /// Prefers "better" outright.
    fn decisive(request: &Comparison) -> Result<Assessment> {
        scored(f64::from(u8::from(request.first.text.starts_with("better"))))
    }

    fn stage_settings(seed: u64, previous: Option<Digest>) -> DuelSettings {
        let terms = Terms::Standalone { alpha: 0.1 };
        let rule = Rule::default();
        DuelSettings { seed: Seed::from(seed), previous, terms, rule, ..settings() }
    }

    async fn recorded(settings: &DuelSettings, challenger: &'static str) -> Record {
        judged(settings, challenger, decisive).await
    }

    async fn judged(settings: &DuelSettings, challenger: &'static str, answer: Answer) -> Record {
        let [king, challenger] = ["plain", challenger].map(|name| Scripted::new(name).contestant());
        let judges: Vec<Arc<dyn Judge>> = vec![Asked::new("judge", answer)];
        let duel = planned(settings, king, challenger, judges).expect("plans");
        let record = run(&duel).await.1.record().expect("published");
        Record::from_bytes(&record.lines, &record.blobs, record.digest).expect("reads")
    }

    #[tokio::test]
    async fn two_wins_multiply_and_crown_at_an_alpha_that_neither_reaches() {
        let first = recorded(&stage_settings(1, None), "better").await;
        let second = recorded(&stage_settings(2, Some(first.digest)), "better").await;
        let confirmation = Confirmation::new(&first, &second, None).expect("a confirmation");
        assert!(confirmation.crowned && confirmation.alpha == 0.1);
        let [one, two] = &confirmation.stages;
        assert_eq!((one.record, two.record), (first.digest, second.digest));
        assert_eq!(one.mean, 100.0);
        assert_eq!(confirmation.log_e_value, one.log_e_value + two.log_e_value);
        let alpha = (-one.log_e_value - 0.1).exp();
        assert!(Confirmation::new(&first, &second, Some(alpha)).expect("a confirmation").crowned);
        let alpha = (-confirmation.log_e_value - 0.1).exp();
        assert!(!Confirmation::new(&first, &second, Some(alpha)).expect("a confirmation").crowned);
        assert!(Confirmation::new(&first, &second, Some(0.5)).is_err());
    }

    #[tokio::test]
    async fn a_stage_without_a_win_crowns_nobody_whatever_the_evidence() {
        let rule = Rule::Sequential { win_margin: 40.0, null_margin: 0.0 };
        let asking = |settings| DuelSettings { rule: rule.clone(), ..settings };
        let first = judged(&asking(stage_settings(1, None)), "better", fair).await;
        let second = judged(&asking(stage_settings(2, Some(first.digest))), "better", fair).await;
        let confirmation = Confirmation::new(&first, &second, Some(0.4)).expect("a confirmation");
        assert!(confirmation.log_e_value > -confirmation.alpha.ln(), "{confirmation:?}");
        assert!(confirmation.stages.iter().all(|stage| stage.mean == 25.0));
        assert!(!confirmation.crowned);
    }

    /// Prefers "better" outright, and reads no other text but neutral one where the seed is even.
    fn half(request: &Comparison) -> Result<Assessment> {
        let is_even = |text: &str| text.ends_with(['0', '2', '4', '6', '8']);
        if [&request.first, &request.second].iter().any(|reply| is_even(&reply.text)) {
            return Err(Error::new(ErrorKind::Refused, "ask the judge", "filtered"));
        }
        decisive(request)
    }

    #[tokio::test]
    async fn answers_that_are_missing_help_nobody_to_a_crown() {
        let first = judged(&stage_settings(1, None), "better", half).await;
        let decision = &first.verdict().decision;
        let Evidence::Sequential(as_ties) = &decision.evidence else { panic!("another rule") };
        let Some(Evidence::Sequential(for_king)) = &decision.evidence_for_king else {
            panic!("none is missing")
        };
        assert!(for_king.log_e_value < as_ties.log_e_value && for_king.mean < as_ties.mean);
        let second = recorded(&stage_settings(2, Some(first.digest)), "better").await;
        let stages = Confirmation::new(&first, &second, None).expect("a confirmation").stages;
        assert_eq!((stages[0].log_e_value, stages[0].mean), (for_king.log_e_value, for_king.mean));
    }

    #[tokio::test]
    async fn a_second_stage_may_have_a_fixed_end() {
        let first = recorded(&stage_settings(1, None), "better").await;
        let by = |win_margin| DuelSettings {
            rule: Rule::Fixed { win_margin, null_margin: 0.0 },
            ..stage_settings(2, Some(first.digest))
        };
        let second = recorded(&by(2.0), "better").await;
        let confirmation = Confirmation::new(&first, &second, None).expect("a confirmation");
        assert!(confirmation.crowned && confirmation.stages[1].samples == 8, "{confirmation:?}");
        let other = recorded(&by(3.0), "better").await;
        let error = Confirmation::new(&first, &other, None).expect_err("another margin").to_string();
        assert!(error.contains("they differ in: rule"), "{error}");
    }

    #[tokio::test]
    async fn a_confirmation_is_planned_from_the_duels_record() {
        let rule = Rule::Sequential { win_margin: 3.0, null_margin: 1.0 };
        let first = recorded(&DuelSettings { rule, ..stage_settings(1, None) }, "better").await;
        let settings = stage_settings(2, None).confirming(&first).expect("a confirmation");
        assert_eq!(settings.rule, Rule::Fixed { win_margin: 3.0, null_margin: 1.0 });
        let second = recorded(&settings, "better").await;
        Confirmation::new(&first, &second, None).expect("a confirmation");
        let refused = |settings: DuelSettings, first: &Record| {
            settings.confirming(first).expect_err("refused").to_string()
        };
        assert!(refused(stage_settings(1, None), &first).contains("has this seed"));
        assert!(refused(stage_settings(3, Some(second.digest)), &first).contains("names another record"));
        let rule = Rule::Margin { win_margin: 2.0 };
        let by_margin = recorded(&DuelSettings { rule, ..stage_settings(1, None) }, "better").await;
        assert!(refused(stage_settings(2, None), &by_margin).contains("gives no evidence"));
    }

    #[tokio::test]
    async fn what_is_no_confirmation_is_refused() {
        let refused =
            |first: &Record, second: &Record| Confirmation::new(first, second, None).expect_err("refused");
        let first = recorded(&stage_settings(1, None), "better").await;
        let follows = Some(first.digest);
        let unnamed = recorded(&stage_settings(2, None), "better").await;
        assert!(refused(&first, &unnamed).to_string().contains("does not name the first"));
        let same = recorded(&stage_settings(1, follows), "better").await;
        assert!(refused(&first, &same).to_string().contains("one seed"));
        let other = recorded(&stage_settings(2, follows), "better still").await;
        assert!(refused(&first, &other).to_string().contains("they differ in: challenger"));
        let rule = Rule::Margin { win_margin: 2.0 };
        let by_margin =
            |seed, previous| DuelSettings { rule: rule.clone(), ..stage_settings(seed, previous) };
        let first = recorded(&by_margin(1, None), "better").await;
        let second = recorded(&by_margin(2, Some(first.digest)), "better").await;
        assert!(refused(&first, &second).to_string().contains("gives no e-value"));
    }
}
