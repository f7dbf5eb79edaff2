//! How good a panel is: its judges over pairs of replies whose better one is known.
//!
//! Every judge compares every pair in both orders. What it prefers over both is its word; the word is right if it is the
//! pair's label. Beside that stand how often the two orders agree, how often the reply shown first is preferred, what
//! length has to do with it, what had no score, and what it took.
//!
//! Nothing is kept: a duel journals its answers, an evaluation asks again. One that is stopped still says what was
//! answered ([`Stopped`]).

use std::cmp::Ordering;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::clock::Clock;
use crate::panel::{Cell, Reducer};
use crate::plan::Limits;
use crate::record::{RecordLine, RecordedReply};
use crate::stats::{
    Kappa, Proportion, Scale, cohen_kappa, correlation, exact_proportion, krippendorff_alpha,
};
use crate::{
    Assessment, CallContext, Error, ErrorKind, Fault, FinishReason, Judge, Message, MessageRole, Metric,
    Record, Result, Seed, SystemClock, Usage,
};

mod ask;

use ask::{Answers, Asking};

const OPERATION: &str = "evaluate judges";

/// Level of every interval.
const LEVEL: f64 = 0.95;

/// Which reply of a pair is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Label {
    /// Reply `a`.
    A,
    /// Reply `b`.
    B,
    /// Neither.
    Tie,
}

impl Label {
    /// What a difference, `b` minus `a`, says.
    fn of(difference: f64) -> Self {
        match difference.partial_cmp(&0.0) {
            Some(Ordering::Less) => Self::A,
            Some(Ordering::Greater) => Self::B,
            _ => Self::Tie,
        }
    }
}

/// Two replies to one conversation, and which is better.
#[derive(Debug, Clone, PartialEq)]
pub struct LabelledPair {
    /// The conversation.
    pub messages: Vec<Message>,
    /// The recorded reply, for judges that compare with it; may be empty.
    pub reference: String,
    /// One reply.
    pub a: String,
    /// How it ended, which some judges read.
    pub a_finish: FinishReason,
    /// The other.
    pub b: String,
    /// How it ended.
    pub b_finish: FinishReason,
    /// Which is better.
    pub label: Label,
}

/// A line of a file of pairs.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    prompt: Option<String>,
    messages: Option<Vec<Message>>,
    #[serde(default)]
    reference: String,
    a: String,
    b: String,
    label: Label,
    /// For people.
    #[serde(default, rename = "id")]
    _id: Option<serde_json::Value>,
}

/// The pairs of `text`: JSON Lines with `prompt` (a text) or `messages`, `a`, `b`, `label` (`a`, `b` or `tie`), and
/// perhaps `reference` and `id`. The replies count as ended by themselves.
///
/// # Errors
/// [`ErrorKind::DataInvalid`], naming the line.
pub fn read_pairs(text: &str) -> Result<Vec<LabelledPair>> {
    let mut pairs = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        if line.trim().is_empty() {
            continue;
        }
        let invalid = |message: String| {
            Error::new(ErrorKind::DataInvalid, "read the pairs", message)
                .with_fault(Fault::Operator)
                .with("line", number)
                .with_hint(
                    "a line has `prompt` or `messages`, `a`, `b`, and `label`: \"a\", \"b\" or \"tie\"",
                )
        };
        let Line { prompt, messages, reference, a, b, label, .. } =
            serde_json::from_str(line).map_err(|error| invalid(error.to_string()))?;
        let messages = match (prompt, messages) {
            (Some(prompt), None) => vec![Message::new(MessageRole::User, prompt)],
            (None, Some(messages)) if !messages.is_empty() => messages,
            _ => return Err(invalid("there is not exactly one of `prompt` and `messages`".into())),
        };
        let (a_finish, b_finish) = (FinishReason::Stop, FinishReason::Stop);
        pairs.push(LabelledPair { messages, reference, a, a_finish, b, b_finish, label });
    }
    if pairs.is_empty() {
        return Err(Error::new(ErrorKind::DataInvalid, "read the pairs", "there are none")
            .with_fault(Fault::Operator));
    }
    Ok(pairs)
}

/// The pairs in the file `path`.
///
/// # Errors
/// As [`read_pairs`]; the file cannot be read.
pub fn read_pairs_file(path: &Path) -> Result<Vec<LabelledPair>> {
    let text = std::fs::read_to_string(path).map_err(|error| Error::io("read the pairs", path, error))?;
    read_pairs(&text).map_err(|error| error.with("path", path.display()))
}

/// The samples of `record` in which both sides replied and the panel has a word about these replies: `a` is the king's
/// reply, the label what the recorded panel preferred. A sample in which a judge was given a reply's twin is left out.
///
/// # Errors
/// A text that a line names is missing.
pub fn recorded_pairs(record: &Record) -> Result<Vec<LabelledPair>> {
    let clusters = record.lines.iter().filter_map(|line| match line {
        RecordLine::Cluster(cluster) => Some(cluster),
        _ => None,
    });
    let mut pairs = Vec::new();
    for (sample, cluster) in record.samples().into_iter().zip(clusters) {
        let [
            RecordedReply::Completed { text: king, finish: a_finish, .. },
            RecordedReply::Completed { text: challenger, finish: b_finish, .. },
        ] = sample.replies[..]
        else {
            continue;
        };
        let is_of_a_twin = cluster.twins.iter().any(|twin| twin.replaced);
        if is_of_a_twin || cluster.cells.iter().all(Cell::is_missing) {
            continue;
        }
        pairs.push(LabelledPair {
            messages: record.messages(&sample.messages)?,
            reference: record.text(&sample.reference)?.to_owned(),
            a: record.text(king)?.to_owned(),
            a_finish: *a_finish,
            b: record.text(challenger)?.to_owned(),
            b_finish: *b_finish,
            label: Label::of(cluster.difference),
        });
    }
    Ok(pairs)
}

/// How judges are asked.
#[derive(Debug, Clone, Copy)]
pub struct Evaluation {
    /// Seed of the nonces and fences.
    pub seed: Seed,
    /// Pairs under way at once, of each judge.
    pub in_flight: usize,
    /// How the judges' differences on a pair become the panel's.
    pub reducer: Reducer,
    /// Tries of a call that fails for a passing reason, and answers to a question that cannot be read, as in a duel
    /// ([`Limits::call_tries`]); at least one.
    pub call_tries: u32,
    /// No further question is asked once the answers have cost this much together, in US dollars. Those under way are
    /// waited for, and paid.
    pub budget_usd: Option<f64>,
}

impl Default for Evaluation {
    fn default() -> Self {
        let Limits { call_tries, budget_usd, .. } = Limits::default();
        Self { seed: Seed::from(0), in_flight: 8, reducer: Reducer::Mean, call_tries, budget_usd }
    }
}

/// An evaluation that ended before every question was asked.
#[derive(Debug, Clone)]
pub struct Stopped {
    /// Why.
    pub error: Error,
    /// What was answered before, if anything was.
    pub so_far: Option<Box<Evaluated>>,
}

impl From<Error> for Stopped {
    fn from(error: Error) -> Self {
        Self { error, so_far: None }
    }
}

/// What an evaluation showed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Evaluated {
    /// Pairs.
    pub pairs: u64,
    /// Each judge, in the order given.
    pub judges: Vec<JudgeEvaluated>,
    /// All of them together.
    pub panel: PanelEvaluated,
    /// Why not every question was asked; none if all were.
    pub stopped: Option<String>,
}

/// How good one judge is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct JudgeEvaluated {
    /// Its name.
    pub judge: String,
    /// How often its word is the label, of the pairs that it scored in both orders. Intervals are exact (Clopper and
    /// Pearson).
    pub accuracy: Option<Proportion>,
    /// The same beyond chance: Cohen's kappa of words and labels.
    pub kappa: Option<Kappa>,
    /// How often it called neither better.
    pub ties: Option<Proportion>,
    /// How often both orders had the same word.
    pub consistent: Option<Proportion>,
    /// How often an answer that prefers one of the two prefers the reply shown first: a half if the place does not matter.
    pub first: Option<Proportion>,
    /// How often the longer reply is preferred, of words for one of two that differ in length.
    pub longer: Option<Proportion>,
    /// Correlation of its difference with the characters of `b` minus those of `a`; none if one of them never varies.
    pub length_correlation: Option<f64>,
    /// Questions that it abstained from.
    pub abstained: u64,
    /// Questions whose answer could not be read.
    pub unreadable: u64,
    /// Questions without an answer.
    pub failed: u64,
    /// What it took.
    pub took: Took,
}

/// What a judge's answers took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Took {
    /// Questions. One that was tried again counts once; tokens and dollars are of all its tries that were answered, and of
    /// what the judge wrote before it saw the replies.
    pub questions: u64,
    /// Tokens read, as far as they were counted.
    pub prompt_tokens: u64,
    /// Tokens written, as far as they were counted.
    pub completion_tokens: u64,
    /// US dollars, as far as prices are known.
    pub usd: f64,
    /// Answers of a model whose price is unknown.
    pub unpriced: u64,
    /// Mean seconds from the last try of a question to its answer.
    pub mean_seconds: f64,
    /// Seconds within which 95 % of the answers came.
    pub p95_seconds: f64,
}

/// How good the panel is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PanelEvaluated {
    /// How often what the panel prefers is the label, of the pairs that a judge scored.
    pub accuracy: Option<Proportion>,
    /// Krippendorff's alpha of the judges' differences; none of a single judge, or if they never differ.
    pub agreement: Option<f64>,
    /// Cohen's kappa of the words of every two judges.
    pub kappas: Vec<PairKappa>,
}

/// How far two judges agree.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PairKappa {
    /// One.
    pub one: String,
    /// The other.
    pub other: String,
    /// Their words beyond chance; none if there is nothing to compare.
    pub kappa: Option<Kappa>,
}

impl Evaluation {
    /// Asks every judge of `judges` about every pair of `pairs`, in both orders.
    ///
    /// # Errors
    /// [`ErrorKind::ConfigInvalid`] without judges, for one that needs the contestants' log-probabilities, or for a budget
    /// below 0; the first error of a judge that reaches further than one call; [`ErrorKind::ResourceExhausted`] once the
    /// budget is used up; cancellation. Questions under way are waited for, and what was answered comes with the error. A
    /// question that fails otherwise, in all its tries, counts as failed.
    pub async fn run(
        &self,
        judges: &[Arc<dyn Judge>],
        pairs: &[LabelledPair],
        cx: &CallContext,
    ) -> Result<Evaluated, Stopped> {
        self.run_by(&SystemClock::default(), judges, pairs, cx).await
    }

    async fn run_by(
        &self,
        clock: &dyn Clock,
        judges: &[Arc<dyn Judge>],
        pairs: &[LabelledPair],
        cx: &CallContext,
    ) -> Result<Evaluated, Stopped> {
        self.check(judges)?;
        let asking = Asking::new(self, clock, cx);
        let mut asked = Vec::new();
        for judge in judges {
            asked.push(asking.about(&**judge, pairs).await);
        }
        let words: Vec<Vec<Option<f64>>> = judges
            .iter()
            .zip(&asked)
            .map(|(judge, answers)| answers.iter().map(|answers| difference(&**judge, answers)).collect())
            .collect();
        let evaluated = judges.iter().zip(&asked).zip(&words);
        let mut evaluated = Evaluated {
            pairs: pairs.len() as u64,
            judges: evaluated
                .map(|((judge, answers), words)| of_judge(&judge.identity().name, answers, words, pairs))
                .collect(),
            panel: self.panel(judges, &words, pairs),
            stopped: None,
        };
        let Some(error) = asking.stopped() else { return Ok(evaluated) };
        evaluated.stopped = Some(error.to_string());
        let mut answers = asked.iter().flatten().flat_map(Answers::assessments);
        let so_far = answers.any(|answer| answer.is_some()).then(|| Box::new(evaluated));
        Err(Stopped { error, so_far })
    }

    fn check(&self, judges: &[Arc<dyn Judge>]) -> Result<()> {
        let invalid = |message: &str| Error::new(ErrorKind::ConfigInvalid, OPERATION, message);
        if judges.is_empty() {
            return Err(invalid("there is no judge").with_hint("name at least one"));
        }
        if self.budget_usd.is_some_and(|budget| !(budget >= 0.0 && budget.is_finite())) {
            return Err(invalid("`limits.budget_usd` must be 0 or more").with("key", "limits.budget_usd"));
        }
        for judge in judges {
            if judge.profile().reference_scores {
                return Err(invalid(
                    "the judge needs the contestants' log-probabilities, which pairs do not have",
                )
                .with("judge", &judge.identity().name)
                .with_hint("leave this judge out"));
            }
        }
        Ok(())
    }

    fn panel(
        &self,
        judges: &[Arc<dyn Judge>],
        words: &[Vec<Option<f64>>],
        pairs: &[LabelledPair],
    ) -> PanelEvaluated {
        let of_pair = |place: usize| -> Vec<f64> { words.iter().filter_map(|words| words[place]).collect() };
        let items: Vec<_> = (0..pairs.len()).map(of_pair).collect();
        let scored = items.iter().zip(pairs).filter(|(items, _)| !items.is_empty());
        let (mut right, mut all) = (0, 0);
        for (items, pair) in scored {
            all += 1;
            right += u64::from(Label::of(self.reducer.reduce(items)) == pair.label);
        }
        let mut kappas = Vec::new();
        for (place, one) in judges.iter().enumerate() {
            for (offset, other) in judges[place + 1..].iter().enumerate() {
                let both = words[place].iter().zip(&words[place + 1 + offset]);
                let both: Vec<_> = both
                    .filter_map(|(one, other)| Some((Label::of((*one)?), Label::of((*other)?))))
                    .collect();
                kappas.push(PairKappa {
                    one: one.identity().name.clone(),
                    other: other.identity().name.clone(),
                    kappa: cohen_kappa(&both, LEVEL),
                });
            }
        }
        PanelEvaluated {
            accuracy: exact_proportion(right, all, LEVEL),
            agreement: if judges.len() > 1 { krippendorff_alpha(&items, Scale::Interval) } else { None },
            kappas,
        }
    }
}

/// What `judge` prefers over both orders, `b` minus `a` in [−1, 1]; none unless both are scored.
fn difference(judge: &dyn Judge, answers: &Answers) -> Option<f64> {
    let metrics: Vec<Metric> = judge.profile().metrics.into_iter().collect();
    let [a_first, b_first] = answers.assessments();
    let cell = Cell::new(&metrics, a_first, b_first);
    (!cell.is_missing()).then(|| cell.difference())
}

/// How far an answer prefers the reply shown first, from −0.5 to 0.5; none if it is no score.
fn lean(answer: Option<&Assessment>) -> Option<f64> {
    match answer {
        Some(Assessment::Scored { scores, .. }) if !scores.is_empty() => {
            Some(scores.values().map(|score| score.value() - 0.5).sum::<f64>() / scores.len() as f64)
        }
        _ => None,
    }
}

fn of_judge(
    name: &str,
    answers: &[Answers],
    words: &[Option<f64>],
    pairs: &[LabelledPair],
) -> JudgeEvaluated {
    let (mut right, mut scored, mut ties, mut consistent) = (0, 0, 0, 0);
    let (mut first, mut decided, mut longer, mut unequal) = (0, 0, 0, 0);
    let (mut labels, mut lengths) = (Vec::new(), Vec::new());
    let (mut abstained, mut unreadable, mut failed) = (0, 0, 0);
    let (mut took, mut seconds) = (Took::default(), Vec::new());
    for ((answers, word), pair) in answers.iter().zip(words).zip(pairs) {
        for usage in &answers.spent {
            took.add(*usage);
        }
        for answer in answers.orders.iter().flatten() {
            took.questions += 1;
            match &answer.assessment {
                None => failed += 1,
                Some(Assessment::Scored { .. }) => {}
                Some(Assessment::Abstained { .. }) => abstained += 1,
                Some(_) => unreadable += 1,
            }
            if answer.assessment.is_some() {
                seconds.push(answer.seconds);
            }
            if let Some(lean) = lean(answer.assessment.as_ref()).filter(|lean| *lean != 0.0) {
                decided += 1;
                first += u64::from(lean > 0.0);
            }
        }
        let Some(difference) = *word else { continue };
        scored += 1;
        let label = Label::of(difference);
        right += u64::from(label == pair.label);
        ties += u64::from(label == Label::Tie);
        labels.push((label, pair.label));
        // The sign of what each order says of `b`.
        let [a_first, b_first] = answers.assessments().map(|answer| lean(answer).unwrap_or(0.0));
        consistent += u64::from(Label::of(-a_first) == Label::of(b_first));
        let length = pair.b.chars().count() as f64 - pair.a.chars().count() as f64;
        lengths.push((difference, length));
        if label != Label::Tie && length != 0.0 {
            unequal += 1;
            longer += u64::from(label == Label::of(length));
        }
    }
    took.time(seconds);
    let share = |count, of| exact_proportion(count, of, LEVEL);
    JudgeEvaluated {
        judge: name.to_owned(),
        accuracy: share(right, scored),
        kappa: cohen_kappa(&labels, LEVEL),
        ties: share(ties, scored),
        consistent: share(consistent, scored),
        first: share(first, decided),
        longer: share(longer, unequal),
        length_correlation: correlation(&lengths),
        abstained,
        unreadable,
        failed,
        took,
    }
}

impl Took {
    /// Counts what a try took. A judge that asks no model has no usage, and costs nothing.
    fn add(&mut self, usage: Usage) {
        self.prompt_tokens += u64::from(usage.prompt_tokens.unwrap_or(0));
        self.completion_tokens += u64::from(usage.completion_tokens.unwrap_or(0));
        match usage.price_usd {
            Some(price) => self.usd += price,
            None => self.unpriced += 1,
        }
    }

    fn time(&mut self, mut seconds: Vec<f64>) {
        if seconds.is_empty() {
            return;
        }
        seconds.sort_unstable_by(f64::total_cmp);
        self.mean_seconds = seconds.iter().sum::<f64>() / seconds.len() as f64;
        self.p95_seconds = seconds[(seconds.len() * 19).div_ceil(20).max(1) - 1];
    }
}

#[cfg(test)]
mod tests;
