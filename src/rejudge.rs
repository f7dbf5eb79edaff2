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

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::backends::replay::ReplayBackend;
use crate::decision::Decider;
use crate::plan::{Limits, Sampler};
use crate::record::{JournalKey, RecordLine};
use crate::verdict::Overflows;
use crate::{
    CallContext, Digest, Duel, DuelPlan, DuelSettings, Error, ErrorKind, Fault, FileStore, Judge, Record,
    Result, Rule, Verdict,
};

mod tasks;

use tasks::RecordedTasks;

const OPERATION: &str = "judge a record again";

/// How records are judged again.
#[derive(Debug, Clone, Default)]
pub struct Rejudge {
    /// The new panel; empty if the recorded answers stand.
    pub judges: Vec<Arc<dyn Judge>>,
    /// The new rule; none if each record's own decides.
    pub rule: Option<Rule>,
    /// Limits of each record's calls.
    pub limits: Limits,
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
        let settings = DuelSettings {
            samples,
            // Every sample is judged, whichever rule decides on the answers later.
            rule: Rule::Margin { win_margin: 0.0 },
            seed: plan.seed,
            sampler: plan.sampler,
            context_tokens: Some(plan.context_tokens),
            generation: plan.generation,
            lanes: plan.lanes,
            panel: plan.panel,
            limits: self.limits,
            ..DuelSettings::default()
        };
        let builder = Duel::builder(king, challenger)
            .tasks(Arc::new(RecordedTasks::new(record)?))
            .judges(self.judges.clone())
            .settings(settings)
            .build(crate::build());
        let planned = builder.draft()?.digest()?;
        let folder = study.join(format!("{}-{}", record.digest.short(), planned.short()));
        let store = store(&folder, planned, key)?;
        let report = builder.plan(&store, cx).await?.run(&store, cx).await;
        let report = report.map_err(|error| error.with("folder", folder.display()))?;
        store.close().await?;
        let after = if report.record.is_some() {
            redecided_under(&Record::open(&folder)?, &rule, record.plan())?
        } else {
            report.verdict
        };
        Ok(Rejudged { record: record.digest, before, after, folder: Some(folder) })
    }
}

/// The store in `folder`, which is gone on with if this user began it.
fn store(folder: &Path, planned: Digest, key: &JournalKey) -> Result<FileStore> {
    let key = key.clone();
    if !folder.join("journal.jsonl").exists() {
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
    use crate::{MemoryStore, Outcome};

    fn key() -> JournalKey {
        JournalKey::new([7; 32])
    }

    fn fixture(name: &str) -> Arc<Record> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("albedo-core/tests/fixtures").join(name);
        Arc::new(Record::open(&folder).expect("a record"))
    }

    async fn recorded() -> Arc<Record> {
        let (store, cx) = (MemoryStore::default(), CallContext::new());
        small_duel().plan(&store, &cx).await.expect("plans").run(&store, &cx).await.expect("runs");
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
