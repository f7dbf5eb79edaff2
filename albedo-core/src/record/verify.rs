//! Whether a record is true: everything that follows from its facts is worked
//! out again and compared.

use std::path::Path;

use serde::Serialize;

use super::reader::LINES;
use super::{Record, RecordLine, RecordedAnswer, RecordedReply, Regenerated};
use crate::behaviour::Behaviour;
use crate::canary::{Series, VoidJudges};
use crate::context::CallContext;
use crate::decision::{Decider, Decision, RuleVersion};
use crate::digest::Digest;
use crate::draw::{DrawOutcome, Replay};
use crate::error::{Error, ErrorKind, Result, Side};
use crate::judge::Assessment;
use crate::marks::{DuelSecret, JudgementKey, Question};
use crate::missing::{self, Lack, Probes};
use crate::order::Order;
use crate::origin::Origin;
use crate::panel::{Cell, Cluster};
use crate::plan::{DuelPlan, DuelSettings, JudgePlan, Limits};
use crate::registry::Registry;
use crate::tasks::TaskSource;
use crate::twin::TwinSettings;
use crate::verdict::{Outcome, Overflows, Verdict};

mod again;
mod claims;
mod lines;
mod reign;
mod tasks;
mod twins;

pub use again::AskedAgain;
use again::{ask_again, settings_fit};
use lines::compare_lines;
pub use reign::{ChainedAlpha, verify_chain};
pub use tasks::{PromptCounter, Prompts};
use tasks::{check_tasks, count_prompts};

/// What a record is checked against besides itself.
#[derive(Debug, Clone, Copy, Default)]
pub struct VerifyOptions<'a> {
    /// The digest that the duel is known by: an invented record that agrees
    /// with itself has another.
    pub expect: Option<Digest>,
    /// The tasks that the facts of every row draw are compared with.
    pub tasks: Option<&'a dyn TaskSource>,
    /// The plugins among which offline judges are found, to be asked again.
    pub judges: Option<&'a Registry>,
    /// What counts the tokens of prompts again: the king's tokenizer and template.
    pub prompts: Option<&'a dyn PromptCounter>,
}

/// What was found to be true.
#[derive(Debug, Clone, PartialEq)]
pub struct Verification {
    /// The digest of the duel.
    pub digest: Digest,
    /// The frozen plan.
    pub plan: DuelPlan,
    /// What the duel came to.
    pub outcome: Outcome,
    /// Row draws replayed.
    pub draws: usize,
    /// Samples decided again.
    pub samples: usize,
    /// Judges' answers read again.
    pub answers: usize,
    /// Whether the draws were compared with the tasks.
    pub tasks: bool,
    /// How the record came about, as it says; nothing before format 3.
    pub origin: Origin,
    /// Whether rule, sampler and panel of this build behave as those of the plan; none
    /// before format 3.
    pub behaves: Option<bool>,
    /// What asking each judge again came to, in panel order; empty unless there was a
    /// registry to find them in.
    pub asked_again: Vec<AskedAgain>,
    /// Prompts measured and counted again; none without a counter.
    pub prompts: Option<Prompts>,
    /// What is known of each part of the record, and how.
    pub claims: Vec<Claim>,
}

impl Verification {
    /// Adds to [`Verification::claims`] what generating some of the replies of `record`
    /// again showed ([`super::regenerate`]).
    pub fn add_regenerated(&mut self, record: &Record, again: &[Regenerated]) {
        let replies = record.samples().into_iter().flat_map(|sample| sample.replies);
        let replies = replies.filter(|reply| !matches!(reply, RecordedReply::Missing { .. })).count();
        claims::add_regenerated(&mut self.claims, replies, again);
    }
}

/// What is known of one part of a record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Claim {
    /// The part.
    pub part: String,
    /// How it is known.
    pub known: Known,
    /// By what.
    pub by: String,
}

/// How something is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Known {
    /// Somebody other than the author of the record vouches for it.
    Attested,
    /// The verifier worked it out again.
    Recomputed,
    /// The author of the record says so.
    Asserted,
    /// No record can say it.
    NotCovered,
}

impl Known {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Attested => "attested",
            Self::Recomputed => "recomputed",
            Self::Asserted => "asserted",
            Self::NotCovered => "not covered",
        }
    }
}

/// Verifies the record in `folder`: digests, form and order of its bytes; the
/// draw, replayed from the seed and the recorded facts; the panel's arithmetic,
/// the decision and every field of the verdict. With the parts of `options` at hand
/// also the facts of the draw, the lengths of prompts, and the answers of offline
/// judges.
///
/// It cannot tell whether a reply is the model's ([`super::regenerate`]) or an
/// answer that of a judge who asks a model: [`Verification::claims`] says what is
/// known how.
///
/// # Errors
/// [`ErrorKind::DigestMismatch`] or [`ErrorKind::DataInvalid`] with the file
/// and the line of the first difference; what the task source meets.
pub async fn verify(folder: &Path, options: &VerifyOptions<'_>, cx: &CallContext) -> Result<Verification> {
    let record = Record::open(folder)?;
    verify_record(&record, options, cx).await.map_err(|error| error.with("record", folder.display()))
}

/// Verifies a record that was read before, as [`verify`] does.
///
/// # Errors
/// As [`verify`].
pub async fn verify_record(
    record: &Record,
    options: &VerifyOptions<'_>,
    cx: &CallContext,
) -> Result<Verification> {
    if let Some(expected) = options.expect
        && expected != record.digest
    {
        return Err(Error::new(
            ErrorKind::DigestMismatch,
            OPERATION,
            "it is another record than the expected",
        )
        .with("expected", expected)
        .with("actual", record.digest));
    }
    let mut verification = Walk::new(record)?.verify(options.tasks.is_some())?;
    let plan = &verification.plan;
    if let Some(tasks) = options.tasks {
        check_tasks(record, plan, tasks, cx).await?;
    }
    if let Some(counter) = options.prompts {
        verification.prompts = Some(count_prompts(record, plan, counter, options.tasks, cx).await?);
    }
    if let Some(registry) = options.judges {
        verification.asked_again = ask_again(record, plan, registry, cx).await?;
    }
    if let Some(planned) = &plan.behaviour {
        verification.behaves = Some(Behaviour::of(plan, planned.template)? == *planned);
    }
    verification.claims = claims::of(&verification, options.expect.is_some());
    Ok(verification)
}

const OPERATION: &str = "verify the record";

/// What there was for a judge to compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Replies {
    /// A pair.
    Pair,
    /// Two replies that are the same, and a judge that looks at nothing else.
    Same,
    /// No pair.
    Missing,
}

/// Goes through a record's lines once.
struct Walk<'a> {
    record: &'a Record,
    plan: &'a DuelPlan,
    digest: Digest,
    format: u32,
    /// The next line, counted from 0.
    next: usize,
    origin: Origin,
    draws: Replay,
    void: VoidJudges,
    overflows: Overflows,
    counted: usize,
    answers: usize,
}

impl<'a> Walk<'a> {
    fn new(record: &'a Record) -> Result<Self> {
        let [RecordLine::Header { format }, RecordLine::Plan { plan }, ..] = &record.lines[..] else {
            return Err(wrong(1, "the header and the plan do not come first"));
        };
        check_plan(plan).map_err(|why| wrong(2, why))?;
        for planned in &plan.judges {
            if !settings_fit(planned)? {
                return Err(wrong(2, "a judge's settings do not have the digest of its identity"));
            }
        }
        let origin = origin(*format, plan, record.lines.get(2))?;
        if *format < 2 && (plan.canaries.is_some() || plan.judges.iter().any(|judge| judge.watched)) {
            return Err(wrong(2, "the plan has canaries, which its format does not know"));
        }
        if *format < 3 && plan.admission.is_some() {
            return Err(wrong(2, "the plan has an admission, which its format does not know"));
        }
        if plan.rule_version.is_first()
            && (plan.judges.iter().any(|judge| judge.reference_scores) || plan.effect_prior.is_some())
        {
            return Err(wrong(2, "the plan has what its version of the rules does not know"));
        }
        if (*format < 3 || plan.rule_version.is_first()) && plan.twins.is_some() {
            return Err(wrong(
                2,
                "the plan has twins, which its format or its version of the rules does not know",
            ));
        }
        if *format < 3 && plan.rule_version != RuleVersion::First {
            return Err(wrong(2, "the plan names a version of the rules, which its format does not know"));
        }
        let (digest, format) = (plan.digest()?, *format);
        Ok(Self {
            record,
            plan,
            digest,
            format,
            next: if format < 3 { 2 } else { 3 },
            origin,
            draws: Replay::new(plan),
            void: VoidJudges::none(plan.judges.len()),
            overflows: Overflows::default(),
            counted: 0,
            answers: 0,
        })
    }

    fn verify(mut self, tasks: bool) -> Result<Verification> {
        let (clusters, decision) = self.decide()?;
        let verdict = Verdict::new(self.plan, &clusters, self.overflows, decision);
        let recorded = self.line()?;
        let number = self.next;
        if !matches!(recorded, RecordLine::Verdict(_)) {
            return Err(wrong(number, "the rule has decided, but the verdict does not follow"));
        }
        let outcome = verdict.outcome;
        compare_lines(number, recorded, &RecordLine::Verdict(Box::new(verdict)))?;
        if matches!(outcome, Outcome::Void(_)) {
            return Err(wrong(number, "the duel is void: it has no record"));
        }
        if self.next != self.record.lines.len() {
            return Err(wrong(self.next + 1, "there is a line after the verdict"));
        }
        Ok(Verification {
            digest: self.record.digest,
            plan: self.plan.clone(),
            outcome,
            draws: self.counted,
            samples: clusters.len(),
            answers: self.answers,
            tasks,
            origin: self.origin,
            behaves: None,
            asked_again: Vec::new(),
            prompts: None,
            claims: Vec::new(),
        })
    }

    /// The clusters up to the decision.
    fn decide(&mut self) -> Result<(Vec<Cluster>, Decision)> {
        let mut decider = Decider::new(self.plan.rule.clone(), self.plan.rule_context());
        for sample in 0.. {
            if matches!(self.record.lines.get(self.next), Some(RecordLine::Verdict(_))) {
                return Err(wrong(self.next + 1, "the verdict comes before the rule has decided"));
            }
            let decision = decider.consume(self.sample(sample)?);
            if decider.hangs_on_outage(decision.as_ref()) {
                return Err(wrong(self.next, "a win is disputed for an outage here: the duel is void"));
            }
            if let Some(decision) = decision {
                return Ok((decider.clusters().to_vec(), decision));
            }
        }
        Err(wrong(self.next, "the rule has not decided"))
    }

    /// The lines of sample `index`, its row draws first.
    fn sample(&mut self, index: u32) -> Result<Cluster> {
        if let Some(canary) = self.plan.canaries.as_ref().and_then(|plan| plan.settings.before(index)) {
            self.canary(canary)?;
        }
        loop {
            let RecordLine::Draw(draw) = self.line()? else { return Err(self.unexpected("a row draw")) };
            self.counted += 1;
            self.draws.check(draw).map_err(|why| wrong(self.next, why.message()))?;
            if draw.outcome == DrawOutcome::Sample {
                break;
            }
        }
        let stratum = match self.line()? {
            RecordLine::Sample { sample, messages, repo, .. } if *sample == index => {
                let messages = self.record.messages(messages);
                messages.map_err(|error| error.with("line", self.next))?;
                if self.plan.rule_version.is_first() { "" } else { repo }
            }
            _ => return Err(self.unexpected(format!("sample {index}"))),
        };
        let king = self.reply(index, Side::King)?;
        let challenger = self.reply(index, Side::Challenger)?;
        let replies = [king, challenger];
        let pair = replies.iter().all(|reply| matches!(reply, RecordedReply::Completed { .. }));
        let unjudged = RecordedReply::unjudged(replies);
        let same = RecordedReply::are_the_same(replies) && !self.plan.rule_version.is_first();
        self.overflows.count(replies.map(RecordedReply::overflowed));
        let (mut cells, mut twins) = (Vec::new(), Vec::new());
        for (judge, plan) in (0..).zip(&self.plan.judges) {
            let replies = match pair {
                false => Replies::Missing,
                true if same && !plan.reference_scores => Replies::Same,
                true => Replies::Pair,
            };
            self.preparation(index, judge, replies)?;
            let compared = self.twins(index, judge, plan, replies)?;
            let question = Question::Sample(index);
            let king_first = self.answer(question, judge, Order::KingFirst, plan, replies)?;
            let challenger_first = self.answer(question, judge, Order::ChallengerFirst, plan, replies)?;
            let answers = [king_first, challenger_first];
            self.check_drawn(index, plan, replies, &compared, answers)?;
            twins.extend(compared);
            let probes = self.probes(index, judge, answers)?;
            cells.push(match unjudged {
                Some(difference) => Cell::unjudged(&plan.metrics, difference),
                None => missing::cell(self.plan.rule_version, &plan.metrics, answers, probes),
            });
        }
        let cluster =
            Cluster::new(index, cells, self.plan.panel.reducer).in_stratum(stratum).with_twins(twins);
        let recorded = self.line()?;
        if !matches!(recorded, RecordLine::Cluster(_)) {
            return Err(self.unexpected(format!("the cluster of sample {index}")));
        }
        compare_lines(self.next, recorded, &RecordLine::Cluster(cluster.clone()))?;
        Ok(cluster)
    }

    fn reply(&mut self, index: u32, side: Side) -> Result<&'a RecordedReply> {
        match self.line()? {
            RecordLine::Reply { sample, side: whose, reply } if (*sample, *whose) == (index, side) => {
                if reply.overflowed() && self.format < 3 {
                    return Err(wrong(self.next, "a model overflowed, which its format does not know"));
                }
                if let RecordedReply::Completed { tokens: Some(tokens), completion_tokens, .. } = reply {
                    if self.format < 3 {
                        return Err(wrong(
                            self.next,
                            "a reply has its tokens, which its format does not know",
                        ));
                    }
                    let gaps = tokens.logit_gaps.as_ref().map_or(tokens.ids.len(), Vec::len);
                    if Some(tokens.ids.len() as u32) != *completion_tokens || gaps != tokens.ids.len() {
                        return Err(wrong(self.next, "a reply has another number of tokens than it says"));
                    }
                }
                Ok(reply)
            }
            _ => Err(self.unexpected(format!("the {side}'s reply to sample {index}"))),
        }
    }

    /// The lines of canary `canary`: who fails it is void from here on.
    fn canary(&mut self, canary: u32) -> Result<()> {
        let draw = match self.line()? {
            RecordLine::Canary(draw) if draw.canary == canary => draw,
            _ => return Err(self.unexpected(format!("canary {canary}"))),
        };
        if !Series::Planned.replays(&self.plan.seed, self.plan.tasks.rows, draw) {
            return Err(wrong(self.next, "the canary does not follow from the seed"));
        }
        for (judge, plan) in self.plan.judges.iter().enumerate().filter(|(_, plan)| plan.watched) {
            let question = Question::Canary(canary);
            let place = judge as u32;
            let better_first = self.answer(question, place, Order::KingFirst, plan, Replies::Pair)?;
            let worse_first = self.answer(question, place, Order::ChallengerFirst, plan, Replies::Pair)?;
            let [better_first, worse_first] = [better_first, worse_first].map(RecordedAnswer::assessment);
            self.void.count(judge, draw.kind.outcome(&plan.metrics, better_first, worse_first));
        }
        Ok(())
    }

    /// The line in which `judge` prepared itself, if it did.
    fn preparation(&mut self, index: u32, judge: u32, replies: Replies) -> Result<()> {
        let Some(RecordLine::Preparation { sample, judge: whose, .. }) = self.record.lines.get(self.next)
        else {
            return Ok(());
        };
        self.next += 1;
        if (*sample, *whose) != (index, judge) || replies != Replies::Pair || self.format < 2 {
            return Err(wrong(self.next, "a judge prepared itself where there is nothing to judge"));
        }
        Ok(())
    }

    /// The line in which `judge`, who gave `answers`, was asked about neutral text, if
    /// they call for it.
    fn probes(
        &mut self,
        index: u32,
        judge: u32,
        answers: [&RecordedAnswer; 2],
    ) -> Result<Option<&'a Probes>> {
        let found = match self.record.lines.get(self.next) {
            Some(RecordLine::Probes { sample, judge: whose, probes }) => {
                self.next += 1;
                if (*sample, *whose) != (index, judge) || self.plan.rule_version.is_first() {
                    return Err(self.unexpected("the next judge's answer"));
                }
                Some(probes)
            }
            _ => None,
        };
        if self.plan.rule_version.is_first() || Lack::fits(Lack::of(answers), found) {
            return Ok(found);
        }
        Err(wrong(self.next, "what a judge made of neutral text is missing, or is not called for"))
    }

    fn answer(
        &mut self,
        question: Question,
        judge: u32,
        order: Order,
        plan: &JudgePlan,
        replies: Replies,
    ) -> Result<&'a RecordedAnswer> {
        let (asked, found) = match self.line()? {
            RecordLine::Assessment { sample, judge: whose, order: seen, asked, answer }
                if (Question::Sample(*sample), *whose, *seen) == (question, judge, order) =>
            {
                (*asked, answer)
            }
            RecordLine::CanaryAssessment { canary, judge: whose, order: seen, asked, answer }
                if (Question::Canary(*canary), *whose, *seen) == (question, judge, order) =>
            {
                (*asked, answer)
            }
            RecordLine::TwinAssessment { sample, judge: whose, side, order: seen, asked, answer }
                if (Question::Twin(*sample, *side), *whose, *seen) == (question, judge, order) =>
            {
                (*asked, answer)
            }
            _ => {
                let name = &plan.identity.name;
                let asked = match question {
                    Question::Sample(sample) => format!("sample {sample}"),
                    Question::Canary(canary) => format!("canary {canary}"),
                    Question::Probe(sample, _) => format!("a probe of sample {sample}"),
                    Question::Twin(sample, side) => format!("the {side}'s twin in sample {sample}"),
                };
                return Err(self.unexpected(format!("the answer of judge `{name}` to {asked}")));
            }
        };
        self.answers += 1;
        if let RecordedAnswer::Answered(assessment) = found {
            self.evidence(
                assessment,
                asked,
                &JudgementKey { plan: self.digest, question, judge: &plan.identity, order },
            )?;
        }
        let pair = replies == Replies::Pair;
        let why = match found {
            RecordedAnswer::Void if self.void.contains(judge as usize) && asked == 1 => return Ok(found),
            _ if self.void.contains(judge as usize) => "a judge is listened to that has failed a canary",
            RecordedAnswer::Void => "a judge is void that has failed no canary",
            _ if asked == 0 || (asked != 1 && self.format < 2) => "an answer has no such number",
            RecordedAnswer::Identical if replies == Replies::Same && asked == 1 => return Ok(found),
            RecordedAnswer::Identical => "two replies count as the same that are not, or are judged by more",
            _ if replies == Replies::Same => "a judge was asked about two replies that are the same",
            RecordedAnswer::Answered(Assessment::Unreadable { .. })
                if self.plan.call_tries.is_some_and(|tries| asked < tries) =>
            {
                "a judge was not asked again after an answer that cannot be read"
            }
            RecordedAnswer::Missing { kind } if kind.is_some() == pair => return Ok(found),
            RecordedAnswer::Missing { .. } => {
                "an answer is missing for no reason, or without a pair to judge"
            }
            RecordedAnswer::Answered(_) if !pair => "a judge has answered, but there is no pair of replies",
            RecordedAnswer::Answered(Assessment::Scored { scores, .. })
                if !scores.keys().eq(&plan.metrics) =>
            {
                "a judge has scored other metrics than its own"
            }
            RecordedAnswer::Answered(
                Assessment::Scored { usage: Some(_), .. } | Assessment::Unreadable { usage: Some(_), .. },
            ) => "a judgement has a cost",
            RecordedAnswer::Answered(_) => return Ok(found),
        };
        Err(wrong(self.next, why))
    }

    /// Whether the scores were read from an answer to this very question.
    fn evidence(&self, assessment: &Assessment, asked: u32, key: &JudgementKey<'_>) -> Result<()> {
        let Some(evidence) = assessment.evidence() else { return Ok(()) };
        if self.format < 2 {
            return Err(wrong(self.next, "an answer has evidence, which its format does not know"));
        }
        if evidence.reasoning.is_some() {
            return Err(wrong(self.next, "a judge's reasoning belongs into the journal"));
        }
        let (Some(nonce), Assessment::Scored { .. }) = (&evidence.nonce, assessment) else { return Ok(()) };
        let expected = DuelSecret::new(&self.plan.seed).marks(key, asked)?.nonce_text();
        if *nonce == expected {
            return Ok(());
        }
        Err(wrong(self.next, "a judge's answer carries another nonce than its question")
            .with("recorded", nonce)
            .with("recomputed", expected))
    }

    fn line(&mut self) -> Result<&'a RecordLine> {
        let line = self.record.lines.get(self.next);
        self.next += 1;
        line.ok_or_else(|| wrong(self.next, "the record ends before its verdict"))
    }

    /// The line just read is not `expected`.
    fn unexpected(&self, expected: impl std::fmt::Display) -> Error {
        wrong(self.next, format!("this is not {expected}, which comes next"))
    }
}

/// The line that says how the record came about, which format 3 has after the plan.
fn origin(format: u32, plan: &DuelPlan, third: Option<&RecordLine>) -> Result<Origin> {
    let older = plan.behaviour.is_none()
        && plan.call_tries.is_none()
        && plan.admission.is_none()
        && plan.judges.iter().all(|judge| judge.offline.is_none());
    if format < 3 {
        return if older && plan.version.is_some() {
            Ok(Origin::default())
        } else {
            Err(wrong(2, "the plan has a behaviour, which its format does not know, or no version"))
        };
    }
    let Some(RecordLine::Origin(origin)) = third else {
        return Err(wrong(3, "this is not how the record came about, which comes next"));
    };
    let builds = &origin.builds;
    if builds.is_empty() || builds.iter().enumerate().any(|(place, build)| builds[..place].contains(build)) {
        return Err(wrong(3, "no build ran the duel, or one is named twice"));
    }
    match &plan.version {
        None if plan.behaviour.is_some() && plan.call_tries.is_some() => Ok(origin.clone()),
        // A duel that a build before format 3 began.
        Some(_) if older && origin.unchained => Ok(origin.clone()),
        _ => Err(wrong(2, "the plan is neither one of format 3 nor one of an older build that was resumed")),
    }
}

/// Whether a duel can have been planned like this; why not.
fn check_plan(plan: &DuelPlan) -> Result<(), String> {
    let settings = DuelSettings {
        samples: plan.samples,
        seed: plan.seed,
        context_tokens: Some(plan.context_tokens),
        generation: plan.generation,
        lanes: plan.lanes,
        panel: plan.panel,
        rule: plan.rule.clone(),
        sampler: plan.sampler,
        terms: plan.terms,
        limits: Limits { call_tries: plan.call_tries.unwrap_or(1), ..Limits::default() },
        previous: plan.previous,
        canaries: plan.canaries.as_ref().map(|canaries| canaries.settings),
        twins: plan.twins.unwrap_or(TwinSettings::OFF),
        effect_prior: plan.effect_prior,
    };
    settings.check().map_err(|error| error.message().to_owned())?;
    if plan.samples != settings.planned_samples() {
        return Err("the plan has another number of samples than its rule and terms give".into());
    }
    if plan.looks != plan.rule.looks(plan.samples) {
        return Err("the plan has other looks than its rule".into());
    }
    let contexts = [&plan.king, &plan.challenger].map(|side| side.model.context_length);
    if contexts.iter().any(|&context| plan.context_tokens > context) {
        return Err("the plan's context is longer than a model's".into());
    }
    if plan.judges.is_empty() {
        return Err("the plan has no judge".into());
    }
    if let Some(admission) = &plan.admission {
        let [king, challenger] = [&plan.king, &plan.challenger].map(|side| side.model.parameters);
        admission.check_admits(king, challenger).map_err(|error| error.to_string())?;
    }
    match &plan.canaries {
        Some(canaries) => canaries.check(&plan.judges)?,
        None if plan.judges.iter().any(|judge| judge.watched) => {
            return Err("a judge is watched, and there are no canaries".into());
        }
        None => {}
    }
    let makes_twins = plan.judges.iter().any(|judge| judge.twins.is_some());
    if plan.twins.is_some() != makes_twins || plan.twins.is_some_and(TwinSettings::is_off) {
        return Err("the plan has twins that no judge makes, or none for a judge that makes them".into());
    }
    let mut judges = plan.judges.iter().enumerate();
    if judges.any(|(place, judge)| plan.judges[..place].iter().any(|other| other.identity == judge.identity))
    {
        return Err("a judge is on the panel twice".into());
    }
    if plan.judges.iter().any(|judge| judge.metrics.is_empty() || !judge.metrics.is_sorted_by(|a, b| a < b)) {
        return Err("a judge's metrics are empty or out of order".into());
    }
    Ok(())
}

/// Line `number`, counted from 1, is wrong.
fn wrong(number: usize, why: impl Into<String>) -> Error {
    Error::new(ErrorKind::DataInvalid, OPERATION, why).with("file", LINES).with("line", number)
}

#[cfg(test)]
mod cherry_tests;
#[cfg(test)]
mod tests;
