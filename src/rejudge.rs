//! New verdicts from stored replies: other judges or another rule over records that exist.
//!
//! A record has every conversation, both replies, and every draw that led to them. So a
//! duel can be judged again without models and without its tasks ([`Rejudge::run`]). Answers
//! are journalled in a *study*, a folder with one folder per record and panel: a run that was
//! killed goes on, and another rule asks nobody anything.
//!
//! The new verdict is that of a duel planned with the samples that the record has. A duel
//! that ended early has no replies beyond its end, so a rule that may stop later decides on
//! what there is.
//!
//! The folders of a study have no verdict of their own: the rule in their plans only lets every sample be judged. A file
//! in each, `study.json`, tells reports so ([`is_study`]). They have no canaries either, which are made from tasks that no record holds.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::backends::replay::ReplayBackend;
use crate::decision::Decider;
use crate::plan::{Limits, Sampler};
use crate::record::{JournalKey, RecordLine};
use crate::twin::TwinSettings;
use crate::verdict::Overflows;
use crate::{
    CallContext, Digest, Duel, DuelBuilder, DuelPlan, DuelReport, DuelSettings, Error, ErrorKind, Fault,
    FileStore, Judge, Record, Result, Rule, Verdict,
};

mod mark;
mod spending;
mod tasks;

pub use mark::is_study;
pub use spending::Spending;
use tasks::RecordedTasks;

const OPERATION: &str = "judge a record again";

/// The journal of a folder.
const JOURNAL: &str = "journal.jsonl";

/// The rule of a study's folders: every sample is judged, whichever rule decides on the answers later.
const LETS_ALL: Rule = Rule::Margin { win_margin: 0.0 };

/// How records are judged again.
#[derive(Debug, Clone, Default)]
pub struct Rejudge {
    /// The new panel; empty if the recorded answers stand.
    pub judges: Vec<Arc<dyn Judge>>,
    /// The new rule; none if each record's own decides.
    pub rule: Option<Rule>,
    /// When judges compare a reply with its twin; none if as each record's plan says, or by default where it has no twins.
    pub twins: Option<TwinSettings>,
    /// Limits of each record's calls. The budget is one for all records of the study, in all its runs: with it, records are
    /// judged one after the other.
    pub limits: Limits,
    /// What studies have cost, for the budget.
    pub spending: Spending,
}

/// A record with its new verdict.
#[derive(Debug, Clone, PartialEq)]
pub struct Rejudged {
    /// The record's digest.
    pub record: Digest,
    /// The verdict that it has.
    pub before: Verdict,
    /// The new one.
    pub after: Verdict,
    /// Where the new answers are, if judges were asked: journal and record of a duel.
    pub folder: Option<PathBuf>,
}

impl Rejudge {
    /// Judges `record` again. New answers are kept in a folder of `study` that the record
    /// and the panel name; answers that it holds are not asked for again. If too many are
    /// missing, the new verdict is void, and another run asks for what is missing. `key`
    /// vouches for the journals ([`crate::config::journal_key`]).
    ///
    /// # Errors
    /// The operator's: the record is of the sampler `albedo-py` and ended early, or the
    /// folder's journal was written by somebody else. What judges and the folder meet.
    pub async fn run(
        &self,
        record: &Arc<Record>,
        study: &Path,
        key: &JournalKey,
        cx: &CallContext,
    ) -> Result<Rejudged> {
        let before = record.verdict().clone();
        let rule = self.rule.clone().unwrap_or_else(|| record.plan().rule.clone());
        if self.judges.is_empty() {
            let after = redecided(record, &rule)?;
            return Ok(Rejudged { record: record.digest, before, after, folder: None });
        }
        let samples = record.verdict().samples;
        if record.plan().sampler == Sampler::AlbedoPy && samples < record.plan().samples {
            let message = "its sampler `albedo-py` draws otherwise for another number of samples";
            return Err(Error::new(ErrorKind::Unsupported, OPERATION, message)
                .with_fault(Fault::Operator)
                .with("samples", samples)
                .with("planned", record.plan().samples)
                .with_hint("leave this record out"));
        }
        let plan = record.plan();
        let [king, challenger] = ReplayBackend::contestants(record, cx).await?;
        let mut settings = DuelSettings {
            samples,
            rule: LETS_ALL,
            seed: plan.seed,
            sampler: plan.sampler,
            context_tokens: Some(plan.context_tokens),
            generation: plan.generation,
            lanes: plan.lanes,
            panel: plan.panel,
            twins: self.twins.or(plan.twins).unwrap_or_default(),
            limits: self.limits,
            ..DuelSettings::default()
        };
        let mut builder = Duel::builder(king, challenger)
            .tasks(Arc::new(RecordedTasks::new(record)?))
            .judges(self.judges.clone())
            .settings(settings.clone())
            .build(crate::build());
        let planned = builder.draft()?.digest()?;
        let folder = study.join(format!("{}-{}", record.digest.short(), planned.short()));
        let mut paying = None;
        if let Some(budget) = self.limits.budget_usd {
            let turn = self.spending.turn(study).await?;
            let others = turn.of_others(&folder);
            // What the other records have left over is no part of the plan.
            settings.limits.budget_usd = Some((budget - others).max(0.0));
            builder = builder.settings(settings);
            paying = Some((turn, budget, others));
        }
        let store = store(&folder, planned, key)?;
        mark::write(&folder, record.digest)?;
        let report = judged(&builder, &store, cx).await.map_err(|error| {
            let error = error.with("folder", folder.display());
            match &paying {
                Some((_, budget, others)) if error.kind() == ErrorKind::ResourceExhausted => error
                    .with("budget of the study", budget)
                    .with("spent on its other records", format!("{others:.4}")),
                _ => error,
            }
        });
        let closed = store.close().await;
        let counted = paying.map_or(Ok(()), |(mut turn, ..)| turn.count(&folder));
        let report = report?;
        closed.and(counted)?;
        let after = if report.record.is_some() {
            redecided_under(&Record::open(&folder)?, &rule, record.plan())?
        } else {
            report.verdict
        };
        Ok(Rejudged { record: record.digest, before, after, folder: Some(folder) })
    }
}

/// How the duel of `builder` ends.
async fn judged(builder: &DuelBuilder, store: &FileStore, cx: &CallContext) -> Result<DuelReport> {
    builder.plan(store, cx).await?.run(store, cx).await
}

/// The store in `folder`, which is gone on with if this user began it.
fn store(folder: &Path, planned: Digest, key: &JournalKey) -> Result<FileStore> {
    let key = key.clone();
    if !folder.join(JOURNAL).exists() {
        return FileStore::create_keyed(folder, key, planned);
    }
    let store = FileStore::resume_keyed(folder, key, planned)?;
    match store.foreign() {
        None => Ok(store),
        Some(line) => Err(Error::new(
            ErrorKind::Conflict,
            OPERATION,
            "this user did not write the journal of the study's folder, or it was altered",
        )
        .with_fault(Fault::Operator)
        .with("folder", folder.display())
        .with("line", line)
        .with_hint("choose another study with `--out DIR`")),
    }
}

/// What `rule` says of the answers in `record`, on all its samples.
///
/// # Errors
/// The record has no samples.
pub fn redecided(record: &Record, rule: &Rule) -> Result<Verdict> {
    redecided_under(record, rule, record.plan())
}

/// The same with the terms, the panel's settings and the prior of `terms`' plan.
fn redecided_under(record: &Record, rule: &Rule, terms: &DuelPlan) -> Result<Verdict> {
    let samples = record.verdict().samples;
    let plan = DuelPlan {
        rule: rule.clone(),
        samples,
        looks: rule.looks(samples),
        terms: terms.terms,
        effect_prior: terms.effect_prior,
        ..record.plan().clone()
    };
    let mut decider = Decider::new(plan.rule.clone(), plan.rule_context());
    let mut overflows = Overflows::default();
    let clusters = record.lines.iter().filter_map(|line| match line {
        RecordLine::Cluster(cluster) => Some(cluster),
        _ => None,
    });
    for (sample, cluster) in record.samples().iter().zip(clusters) {
        if let [king, challenger] = sample.replies[..] {
            overflows.king += u32::from(king.overflowed());
            overflows.challenger += u32::from(challenger.overflowed());
        }
        let decision = decider.consume(cluster.clone());
        if let Some(verdict) = Verdict::after(&plan, &decider, overflows, decision) {
            return Ok(verdict);
        }
    }
    Err(Error::new(ErrorKind::DataInvalid, OPERATION, "the rule does not decide on the record's samples")
        .with("rule", rule.name())
        .with("samples", samples))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{ScriptedJudge, small_duel};
    use crate::{Assessment, MemoryStore, Metric, Outcome, Score, Seed, Usage};

    fn key() -> JournalKey {
        JournalKey::new([7; 32])
    }

    fn fixture(name: &str) -> Arc<Record> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("albedo-core/tests/fixtures").join(name);
        Arc::new(Record::open(&folder).expect("a record"))
    }

    async fn recorded() -> Arc<Record> {
        recorded_of(&small_duel()).await
    }

    async fn recorded_of(duel: &DuelBuilder) -> Arc<Record> {
        let (store, cx) = (MemoryStore::default(), CallContext::new());
        duel.plan(&store, &cx).await.expect("plans").run(&store, &cx).await.expect("runs");
        let bytes = store.record().expect("decided");
        Arc::new(Record::from_bytes(&bytes.lines, &bytes.blobs, bytes.digest).expect("a record"))
    }

    #[tokio::test]
    async fn the_recorded_rule_on_recorded_answers_is_the_recorded_verdict() {
        let record = recorded().await;
        assert_eq!(redecided(&record, &record.plan().rule).expect("decides"), *record.verdict());
    }

    #[tokio::test]
    async fn a_judge_of_the_other_mind_turns_the_verdict_and_is_asked_once() {
        let (folder, cx, record) =
            (tempfile::tempdir().expect("a folder"), CallContext::new(), recorded().await);
        let shorter = Arc::new(ScriptedJudge::preferring("shorter", |reply| {
            1.0 - (reply.len() as f64 / 10.0).min(1.0)
        }));
        let judges: Vec<Arc<dyn Judge>> = vec![shorter.clone()];
        let rejudge = Rejudge { judges, ..Rejudge::default() };
        let first = rejudge.run(&record, folder.path(), &key(), &cx).await.expect("judges");
        assert_eq!(first.before.outcome, Outcome::Dethroned);
        assert!((first.after.margin + first.before.margin).abs() < 1e-9, "{:?}", first.after);
        assert_eq!(first.after.samples, first.before.samples);
        let asked = shorter.asked().len();
        assert_eq!(asked, 16, "eight samples in both orders");
        // Again, and by another rule: nobody is asked.
        assert_eq!(rejudge.run(&record, folder.path(), &key(), &cx).await.expect("judges"), first);
        let rule = Some(Rule::by_name("sequential").expect("a rule"));
        let other =
            Rejudge { rule, ..rejudge }.run(&record, folder.path(), &key(), &cx).await.expect("judges");
        assert_eq!((other.after.margin, other.folder), (first.after.margin, first.folder));
        assert_eq!(shorter.asked().len(), asked);
    }

    #[tokio::test]
    async fn a_folder_of_a_study_is_known_under_any_name() {
        let (folder, cx, record) =
            (tempfile::tempdir().expect("a folder"), CallContext::new(), recorded().await);
        let judges: Vec<Arc<dyn Judge>> = vec![Arc::new(ScriptedJudge::preferring("equal", |_| 0.5))];
        let rejudge = Rejudge { judges, ..Rejudge::default() };
        let judged = rejudge.run(&record, folder.path(), &key(), &cx).await.expect("judges");
        let (first, other) = (judged.folder.expect("a folder"), folder.path().join("other"));
        let plan = Record::open(&first).expect("a record").plan().clone();
        let is_one = |folder: &Path| is_study(folder, &plan);
        std::fs::rename(&first, &other).expect("renames");
        assert!(is_one(&other).expect("is looked at"));
        assert!(!is_study(&other, record.plan()).expect("is looked at"), "a rule that decides something");
        // Before there was a file, the name said it.
        let mark = other.join("study.json");
        let marked = std::fs::read_to_string(&mark).expect("reads");
        assert!(marked.contains(&record.digest.to_string()), "{marked}");
        std::fs::remove_file(&mark).expect("removes");
        assert!(!is_one(&other).expect("is looked at"));
        std::fs::rename(&other, &first).expect("renames");
        assert!(is_one(&first).expect("is looked at"));
        // Another run marks it again; what is no mark is said.
        rejudge.run(&record, folder.path(), &key(), &cx).await.expect("judges");
        assert_eq!(std::fs::read_to_string(first.join("study.json")).expect("reads"), marked);
        std::fs::write(first.join("study.json"), "{").expect("writes");
        let said = is_one(&first).expect_err("malformed").to_string();
        assert!(said.contains("study.json") && said.contains("record rejudge"), "{said}");
    }

    #[tokio::test]
    async fn one_budget_holds_for_all_records_of_a_study_and_all_its_runs() {
        let (folder, cx) = (tempfile::tempdir().expect("a folder"), CallContext::new());
        let usage = Some(Usage::counted(9, 2).with_price(0.25));
        let judge = Arc::new(ScriptedJudge::new("priced", move |_| {
            let scores = [(Metric::Correctness, Score::WIN)].into();
            Ok(Assessment::Scored { scores, rationale: None, usage, evidence: None })
        }));
        let rejudge = |budget| Rejudge {
            judges: vec![judge.clone()],
            limits: Limits { budget_usd: Some(budget), ..Limits::default() },
            ..Rejudge::default()
        };
        let mut records = Vec::new();
        for seed in [1, 2] {
            let rule = Rule::Margin { win_margin: 2.0 };
            let settings =
                DuelSettings { samples: 8, rule, seed: Seed::from(seed), ..DuelSettings::default() };
            records.push(recorded_of(&small_duel().settings(settings)).await);
        }
        // Sixteen answers, four dollars.
        let six = rejudge(6.0);
        six.run(&records[0], folder.path(), &key(), &cx).await.expect("judges");
        assert_eq!(judge.asked().len(), 16);
        // The other record has what is left, also in another run, which knows nothing of this one.
        for rejudge in [six.clone(), rejudge(6.0)] {
            let error =
                rejudge.run(&records[1], folder.path(), &key(), &cx).await.expect_err("two dollars are left");
            assert_eq!(error.kind(), ErrorKind::ResourceExhausted, "{error}");
            let said = error.to_string();
            assert!(
                said.contains("budget of the study: 6") && said.contains("other records: 4.0000"),
                "{said}"
            );
            assert_eq!(judge.asked().len(), 24);
        }
        let eight = rejudge(8.0);
        for record in &records {
            eight.run(record, folder.path(), &key(), &cx).await.expect("judges");
        }
        assert_eq!(judge.asked().len(), 32, "what was answered is not paid again");
    }

    #[tokio::test]
    async fn twins_are_as_they_are_asked_for_or_as_in_the_record() {
        let (folder, cx) = (tempfile::tempdir().expect("a folder"), CallContext::new());
        let with_twins = |name| {
            let judge = ScriptedJudge::preferring(name, |reply| (reply.len() as f64 / 10.0).min(1.0));
            Arc::new(judge.with_twins(|_| None))
        };
        let four = TwinSettings { share: 4 };
        let rule = Rule::Margin { win_margin: 2.0 };
        let settings = DuelSettings { samples: 8, rule, twins: four, ..DuelSettings::default() };
        let record = recorded_of(&small_duel().judge(with_twins("old")).settings(settings)).await;
        assert_eq!(record.plan().twins, Some(four));
        let other = TwinSettings { share: 2 };
        for (twins, planned) in
            [(None, Some(four)), (Some(other), Some(other)), (Some(TwinSettings::OFF), None)]
        {
            let rejudge = Rejudge { judges: vec![with_twins("new")], twins, ..Rejudge::default() };
            let judged = rejudge.run(&record, folder.path(), &key(), &cx).await.expect("judges");
            let again = Record::open(&judged.folder.expect("a folder")).expect("a record");
            assert_eq!(again.plan().twins, planned);
        }
        // A record without twins says nothing: they are on, as in a duel.
        let rejudge = Rejudge { judges: vec![with_twins("new")], ..Rejudge::default() };
        let judged = rejudge.run(&recorded().await, folder.path(), &key(), &cx).await.expect("judges");
        let again = Record::open(&judged.folder.expect("a folder")).expect("a record");
        assert_eq!(again.plan().twins, Some(TwinSettings::default()));
    }

    #[tokio::test]
    async fn records_of_every_format_are_judged_again_without_tasks() {
        for name in ["record-1", "record-2", "record-3"] {
            let (folder, cx, record) =
                (tempfile::tempdir().expect("a folder"), CallContext::new(), fixture(name));
            let length = |reply: &str| (reply.len() as f64 / 1000.0).min(1.0);
            let judges: Vec<Arc<dyn Judge>> = vec![Arc::new(ScriptedJudge::preferring("length", length))];
            let rejudge = Rejudge { judges, ..Rejudge::default() };
            let judged = rejudge.run(&record, folder.path(), &key(), &cx).await.expect(name);
            let again = Record::open(&judged.folder.expect("a folder")).expect("a record");
            let (old, new) = (record.samples(), again.samples());
            assert_eq!(old.len(), new.len(), "{name}");
            for (old, new) in old.iter().zip(&new) {
                assert_eq!((old.messages, old.reference), (new.messages, new.reference), "{name}");
            }
        }
    }
}
