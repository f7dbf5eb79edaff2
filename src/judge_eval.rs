//! How good a panel is: its judges over pairs of replies whose better one is known.
//!
//! Every judge compares every pair in both orders. What it prefers over both is its word; the word is right if it is the
//! pair's label. Beside that stand how often the two orders agree, how often the reply shown first is preferred, what
//! length has to do with it, what had no score, and what it took.
//!
//! Nothing is kept: a duel journals its answers, an evaluation asks again.

use std::cmp::Ordering;
use std::path::Path;
use std::sync::Arc;

use futures::{StreamExt, stream};
use serde::{Deserialize, Serialize};

use crate::clock::Clock;
use crate::panel::{Cell, Reducer};
use crate::record::{RecordLine, RecordedReply};
use crate::stats::{
    Kappa, Proportion, Scale, cohen_kappa, correlation, exact_proportion, krippendorff_alpha,
};
use crate::{
    Assessment, CallContext, Candidate, Comparison, Digest, DuelSecret, Error, ErrorKind, Fault,
    FinishReason, Judge, JudgementKey, Message, MessageRole, Metric, Order, Preparation, Question, Reach,
    Record, Result, Seed, SystemClock,
};

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
    /// The other.
    pub b: String,
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
/// perhaps `reference` and `id`.
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
        pairs.push(LabelledPair { messages, reference, a, b, label });
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

/// The samples of `record` in which both sides replied and the panel has a word: `a` is the king's reply, the label what
/// the recorded panel preferred.
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
        let [RecordedReply::Completed { text: king, .. }, RecordedReply::Completed { text: challenger, .. }] =
            sample.replies[..]
        else {
            continue;
        };
        if cluster.cells.iter().all(Cell::is_missing) {
            continue;
        }
        pairs.push(LabelledPair {
            messages: record.messages(&sample.messages)?,
            reference: record.text(&sample.reference)?.to_owned(),
            a: record.text(king)?.to_owned(),
            b: record.text(challenger)?.to_owned(),
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
}

impl Default for Evaluation {
    fn default() -> Self {
        Self { seed: Seed::from(0), in_flight: 8, reducer: Reducer::Mean }
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
    /// Questions.
    pub questions: u64,
    /// Tokens read, as far as they were counted.
    pub prompt_tokens: u64,
    /// Tokens written, as far as they were counted.
    pub completion_tokens: u64,
    /// US dollars, as far as prices are known.
    pub usd: f64,
    /// Answers of a model whose price is unknown.
    pub unpriced: u64,
    /// Mean seconds from a question to its answer.
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

/// A judge's two answers to a pair, the order with `a` first coming first, and seconds that each took.
struct Answers([(Option<Assessment>, f64); 2]);

impl Evaluation {
    /// Asks every judge of `judges` about every pair of `pairs`, in both orders.
    ///
    /// # Errors
    /// [`ErrorKind::ConfigInvalid`] without judges, or for one that needs the contestants' log-probabilities; an error of
    /// a judge that reaches further than one call; cancellation. A question that fails otherwise counts as failed.
    pub async fn run(
        &self,
        judges: &[Arc<dyn Judge>],
        pairs: &[LabelledPair],
        cx: &CallContext,
    ) -> Result<Evaluated> {
        let invalid = |message: &str| Error::new(ErrorKind::ConfigInvalid, OPERATION, message);
        if judges.is_empty() {
            return Err(invalid("there is no judge").with_hint("name at least one"));
        }
        let mut asked = Vec::new();
        for judge in judges {
            if judge.profile().reference_scores {
                return Err(invalid(
                    "the judge needs the contestants' log-probabilities, which pairs do not have",
                )
                .with("judge", &judge.identity().name)
                .with_hint("leave this judge out"));
            }
            let answers = stream::iter(pairs.iter().enumerate().map(|(place, pair)| {
                let judge = &**judge;
                async move { self.ask(judge, place as u32, pair, cx).await }
            }));
            let answers: Vec<Result<Answers>> = answers.buffered(self.in_flight.max(1)).collect().await;
            asked.push(answers.into_iter().collect::<Result<Vec<_>>>()?);
        }
        let words: Vec<Vec<Option<f64>>> = judges
            .iter()
            .zip(&asked)
            .map(|(judge, answers)| answers.iter().map(|answers| difference(&**judge, answers)).collect())
            .collect();
        let evaluated = judges.iter().zip(&asked).zip(&words);
        Ok(Evaluated {
            pairs: pairs.len() as u64,
            judges: evaluated
                .map(|((judge, answers), words)| of_judge(&judge.identity().name, answers, words, pairs))
                .collect(),
            panel: self.panel(judges, &words, pairs),
        })
    }

    /// The answers of `judge` to pair number `place`.
    async fn ask(
        &self,
        judge: &dyn Judge,
        place: u32,
        pair: &LabelledPair,
        cx: &CallContext,
    ) -> Result<Answers> {
        let secret = DuelSecret::new(&self.seed);
        // The marks of no plan: those of a duel are its own.
        let plan = Digest::of("albedo judge eval");
        let question = Question::Sample(place);
        let messages: Arc<[Message]> = pair.messages.clone().into();
        let reference: Arc<str> = pair.reference.as_str().into();
        let clock = SystemClock::default();
        let mut preparation = None;
        if judge.profile().preparation {
            let fence = secret.preparation_fence(plan, question, judge.identity())?;
            let request =
                Preparation { messages: Arc::clone(&messages), reference: Arc::clone(&reference), fence };
            match judge.prepare(&request, cx).await {
                Ok(prepared) => preparation = Some(prepared.text.into()),
                Err(error) => {
                    fatal(&error)?;
                    return Ok(Answers([(None, 0.0), (None, 0.0)]));
                }
            }
        }
        let [a, b] = [&pair.a, &pair.b].map(|text| Candidate::new(text.as_str(), FinishReason::Stop));
        let mut answers = [(None, 0.0), (None, 0.0)];
        for (order, answer) in Order::BOTH.into_iter().zip(&mut answers) {
            let key = JudgementKey { plan, question, judge: judge.identity(), order };
            let (first, second) = if order == Order::KingFirst { (&a, &b) } else { (&b, &a) };
            let comparison =
                Comparison::new(Arc::clone(&messages), Arc::clone(&reference), first.clone(), second.clone())
                    .with_preparation(preparation.clone())
                    .with_marks(secret.marks(&key, 1)?);
            let begun = clock.now();
            let assessment = match judge.compare(&comparison, cx).await {
                Ok(assessment) => Some(assessment),
                Err(error) => {
                    fatal(&error)?;
                    None
                }
            };
            *answer = (assessment, clock.now().saturating_sub(begun).as_secs_f64());
        }
        Ok(Answers(answers))
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

/// Passes on an error that reaches further than one call.
fn fatal(error: &Error) -> Result<()> {
    if error.kind() == ErrorKind::Cancelled || error.reach() >= Reach::Duel {
        return Err(error.clone());
    }
    Ok(())
}

/// What `judge` prefers over both orders, `b` minus `a` in [−1, 1]; none unless both are scored.
fn difference(judge: &dyn Judge, Answers([a_first, b_first]): &Answers) -> Option<f64> {
    let metrics: Vec<Metric> = judge.profile().metrics.into_iter().collect();
    let cell = Cell::new(&metrics, a_first.0.as_ref(), b_first.0.as_ref());
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
    for ((Answers(answers), word), pair) in answers.iter().zip(words).zip(pairs) {
        for (answer, elapsed) in answers {
            took.questions += 1;
            match answer {
                None => failed += 1,
                Some(Assessment::Scored { .. }) => {}
                Some(Assessment::Abstained { .. }) => abstained += 1,
                Some(_) => unreadable += 1,
            }
            if let Some(answer) = answer {
                seconds.push(*elapsed);
                took.add(answer);
            }
            if let Some(lean) = lean(answer.as_ref()).filter(|lean| *lean != 0.0) {
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
        let [a_first, b_first] = answers.each_ref().map(|(answer, _)| lean(answer.as_ref()).unwrap_or(0.0));
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
    fn add(&mut self, answer: &Assessment) {
        // A judge that asks no model has no usage, and costs nothing.
        let Some(usage) = answer.usage() else { return };
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

#[cfg(feature = "conformance")]
#[cfg(test)]
mod tests {
    use super::*;
    use crate::Score;
    use crate::testing::ScriptedJudge;

    /// 100 pairs: `good` and `bad` replies in turn, half of the good ones longer.
    fn pairs() -> Vec<LabelledPair> {
        let pair = |place: usize| {
            let good = format!("good {place}{}", if place.is_multiple_of(2) { " and long" } else { "" });
            let bad = format!("bad {place}{}", if place % 2 == 1 { " and long" } else { "" });
            let messages = vec![Message::new(MessageRole::User, format!("task {place}"))];
            let (a, b, label) = if place % 4 < 2 { (good, bad, Label::A) } else { (bad, good, Label::B) };
            LabelledPair { messages, reference: String::new(), a, b, label }
        };
        (0..100).map(pair).collect()
    }

    async fn evaluated(judges: Vec<ScriptedJudge>) -> Evaluated {
        let judges: Vec<_> = judges.into_iter().map(|judge| Arc::new(judge) as Arc<dyn Judge>).collect();
        Evaluation::default().run(&judges, &pairs(), &CallContext::new()).await.expect("evaluates")
    }

    fn place(request: &Comparison) -> usize {
        request.messages[0].content[5..].parse().expect("a number")
    }

    /// Right about 80 of the 100 pairs, whatever the order.
    fn right_80() -> ScriptedJudge {
        ScriptedJudge::new("right", |request| {
            let good = request.first.text.starts_with("good");
            let right = !place(request).is_multiple_of(5);
            Ok(Assessment::scored([(
                Metric::Correctness,
                if good == right { Score::WIN } else { Score::LOSS },
            )]))
        })
    }

    fn share(of: Option<Proportion>) -> f64 {
        of.expect("is there").share
    }

    #[tokio::test]
    async fn a_judge_with_a_known_bias_has_the_figures_of_that_bias() {
        let first =
            ScriptedJudge::new("first", |_| Ok(Assessment::scored([(Metric::Correctness, Score::WIN)])));
        let longer = ScriptedJudge::preferring("longer", |reply| reply.len() as f64 / 100.0);
        let found = evaluated(vec![first, longer, right_80()]).await;
        let [first, longer, right] = &found.judges[..] else { panic!("three judges") };
        assert_eq!(found.pairs, 100);

        // Always the first: a tie over both orders, never right, never consistent.
        assert_eq!((share(first.accuracy), share(first.ties), share(first.consistent)), (0.0, 1.0, 0.0));
        assert_eq!((share(first.first), first.first.expect("is there").of), (1.0, 200));
        assert_eq!((first.longer, first.length_correlation), (None, None));
        let interval = first.accuracy.expect("is there").interval;
        assert!(interval.low == 0.0 && (interval.high - 0.036_217).abs() < 1e-5, "{interval:?}");

        // Always the longer: right where the good one is.
        assert_eq!((share(longer.accuracy), share(longer.longer)), (0.5, 1.0));
        assert_eq!((share(longer.consistent), share(longer.first)), (1.0, 0.5));
        assert!(longer.length_correlation.expect("varies") > 0.99, "{longer:?}");
        assert!(longer.kappa.expect("varies").kappa.abs() < 0.05, "{longer:?}");

        // Right in 80 of 100: interval of Clopper and Pearson.
        let accuracy = right.accuracy.expect("is there");
        assert_eq!((accuracy.share, accuracy.of), (0.8, 100));
        assert!((accuracy.interval.low - 0.708_2).abs() < 1e-3, "{accuracy:?}");
        assert!((accuracy.interval.high - 0.873_3).abs() < 1e-3, "{accuracy:?}");
        assert!((right.kappa.expect("varies").kappa - 0.6).abs() < 0.01, "{right:?}");
        assert_eq!((share(right.consistent), right.took.questions), (1.0, 200));

        // Of the three, the panel goes by the mean: the first judge says nothing.
        assert_eq!(found.panel.kappas.len(), 3);
        assert!(found.panel.agreement.is_some());
    }

    #[tokio::test]
    async fn answers_that_are_no_scores_are_counted_and_leave_the_pair_out() {
        let judge = ScriptedJudge::new("odd", |request| match place(request) % 10 {
            0 => Ok(Assessment::Abstained { reason: "no".into() }),
            1 => Ok(Assessment::Unreadable { reason: "no".into(), usage: None, evidence: Box::default() }),
            2 => Err(Error::new(ErrorKind::Timeout, "ask", "slow")),
            _ => Ok(Assessment::scored([(Metric::Correctness, Score::TIE)])),
        });
        let found = evaluated(vec![judge]).await;
        let odd = &found.judges[0];
        assert_eq!((odd.abstained, odd.unreadable, odd.failed), (20, 20, 20));
        assert_eq!((odd.accuracy.expect("is there").of, share(odd.ties)), (70, 1.0));
        assert_eq!(found.panel.agreement, None);
        let spent = ScriptedJudge::new("spent", |_| {
            Err(Error::new(ErrorKind::ResourceExhausted, "ask", "spent").with_reach(Reach::Duel))
        });
        let judges: Vec<Arc<dyn Judge>> = vec![Arc::new(spent)];
        let error =
            Evaluation::default().run(&judges, &pairs(), &CallContext::new()).await.expect_err("spent");
        assert_eq!(error.kind(), ErrorKind::ResourceExhausted);
    }

    #[test]
    fn a_line_that_is_no_pair_is_named() {
        let good = r#"{"prompt": "p", "a": "x", "b": "y", "label": "tie", "id": 7}"#;
        let chat = r#"{"messages": [{"role": "user", "content": "p"}], "a": "x", "b": "y", "label": "a"}"#;
        let pairs = read_pairs(&format!("{good}\n\n{chat}\n")).expect("reads");
        assert_eq!((pairs[0].label, pairs[1].label), (Label::Tie, Label::A));
        for (broken, words) in [
            ("{}", "missing field"),
            (r#"{"a": "x", "b": "y", "label": "a"}"#, "not exactly one of"),
            (r#"{"prompt": "p", "a": "x", "b": "y", "label": "c"}"#, "unknown variant"),
            (r#"{"prompt": "p", "a": "x", "b": "y", "label": "a", "better": 1}"#, "unknown field"),
        ] {
            let error = read_pairs(&format!("{good}\n{broken}")).expect_err(broken).to_string();
            assert!(error.contains(words) && error.contains("line: 2"), "{error}");
        }
        assert!(read_pairs("\n").expect_err("empty").to_string().contains("there are none"));
    }
}
