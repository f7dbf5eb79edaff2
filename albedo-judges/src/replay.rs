//! `replay`: answers what a judge answered in a record.
//!
//! It has the recorded judge's identity and metrics, so that the plan of a duel
//! replayed with it stays the same. It knows the conversations and pairs of
//! replies of its record and no others.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use albedo_core::decision::RuleVersion;
use albedo_core::missing::{NEUTRAL, Probed};
use albedo_core::order::Order;
use albedo_core::plan::JudgePlan;
use albedo_core::record::{RecordedAnswer, RecordedReply};
use albedo_core::twin::Twin;
use albedo_core::{
    Assessment, BuildContext, CallContext, CheckContext, Comparison, Digest, Error, ErrorKind, Fault,
    Identity, Judge, JudgeProfile, Plugin, Record, Result, Retry, Score, Side,
};
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Settings of [`ReplayJudge`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReplayConfig {
    /// Folder of the record.
    pub record: PathBuf,
    /// Which of its judges to be: a name, or a place in the panel from 0.
    pub judge: JudgeKey,
}

/// One judge of a panel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum JudgeKey {
    /// By its place, from 0.
    Place(usize),
    /// By its name, if no other has it.
    Name(String),
}

/// Answers from a record; see the [module](self).
#[derive(Debug)]
pub struct ReplayJudge {
    plan: JudgePlan,
    reference_scores: bool,
    answers: BTreeMap<Question, Replayed>,
    /// By the digests of the conversation and of a reply.
    twins: BTreeMap<[Digest; 2], Twin>,
}

/// Digests of the conversation, the first reply and the second.
type Question = [Digest; 3];

#[derive(Debug, Clone, PartialEq)]
enum Replayed {
    Answer(Assessment),
    Missing(ErrorKind),
    /// The record has two answers to the same question.
    Several,
}

impl ReplayJudge {
    /// Judge `judge` of `record`.
    ///
    /// # Errors
    /// [`ErrorKind::ConfigInvalid`] if there is no such judge, or several.
    pub fn new(record: &Record, judge: &JudgeKey) -> Result<Self> {
        let plans = &record.plan().judges;
        let place = find(plans, judge)?;
        let (mut answers, mut twins, mut scored) = (BTreeMap::new(), BTreeMap::new(), false);
        for sample in record.samples() {
            let [
                RecordedReply::Completed { text: king, reference_scores, .. },
                RecordedReply::Completed { text: challenger, .. },
            ] = sample.replies[..]
            else {
                continue;
            };
            scored |= reference_scores.is_some();
            let mut questions = Vec::new();
            let mut judged = [king, challenger];
            for twin in sample.twins.iter().filter(|twin| twin.judge as usize == place) {
                let Some(text) = &twin.text else { continue };
                let reply = &mut judged[usize::from(twin.side == Side::Challenger)];
                let made = Twin { text: record.text(text)?.to_owned(), suspected: !twin.drawn };
                twins.insert([sample.messages.sha256, reply.sha256], made);
                let pairs = [[*reply, text], [text, *reply]];
                questions.extend(pairs.into_iter().zip(twin.answers.iter().copied()));
                if twin.is_replaced(&plans[place].metrics) {
                    *reply = text;
                }
            }
            let [king, challenger] = judged;
            let recorded = sample.answers.iter().skip(place * Order::BOTH.len()).copied();
            questions.extend([[king, challenger], [challenger, king]].into_iter().zip(recorded));
            for ([first, second], answer) in questions {
                let answer = match answer {
                    RecordedAnswer::Answered(assessment) => Replayed::Answer(assessment.clone()),
                    RecordedAnswer::Missing { kind: Some(kind) } => Replayed::Missing(*kind),
                    RecordedAnswer::Void => Replayed::Missing(ErrorKind::Unavailable),
                    RecordedAnswer::Identical => Replayed::Answer(tie(&plans[place])),
                    RecordedAnswer::Missing { kind: None } => continue,
                };
                let question = [sample.messages.sha256, first.sha256, second.sha256];
                let known = answers.entry(question).or_insert_with(|| answer.clone());
                if *known != answer {
                    *known = Replayed::Several;
                }
            }
            let Some(probes) = sample.probes.get(&(place as u32)) else { continue };
            let neutral = Digest::of(NEUTRAL);
            let mut keep = |first, second, probed| {
                answers.insert([sample.messages.sha256, first, second], replayed(probed, &plans[place]));
            };
            keep(neutral, neutral, probes.neutral);
            if let Some(sides) = probes.sides {
                for (text, [first, second]) in [(king, sides.king), (challenger, sides.challenger)] {
                    keep(text.sha256, neutral, first);
                    keep(neutral, text.sha256, second);
                }
            }
        }
        let plan = plans[place].clone();
        // Plans by the rules' first version do not say it of a judge.
        let first = record.plan().rule_version == RuleVersion::First;
        let reference_scores = if first { scored } else { plan.reference_scores };
        Ok(Self { plan, reference_scores, answers, twins })
    }
}

/// The score of a judge that prefers neither reply.
fn tie(judge: &JudgePlan) -> Assessment {
    Assessment::scored(judge.metrics.iter().map(|&metric| (metric, Score::TIE)))
}

/// An answer to a question about neutral text, of which a record keeps no more than
/// what became of it.
fn replayed(probed: Probed, judge: &JudgePlan) -> Replayed {
    match probed {
        Probed::Scored => Replayed::Answer(tie(judge)),
        Probed::Abstained => Replayed::Answer(Assessment::Abstained { reason: "it had abstained".into() }),
        Probed::Unreadable => {
            let (reason, evidence) = ("it could not be read".into(), Box::default());
            Replayed::Answer(Assessment::Unreadable { reason, usage: None, evidence })
        }
        Probed::Refused => Replayed::Missing(ErrorKind::Refused),
        Probed::Failed => Replayed::Missing(ErrorKind::Unavailable),
    }
}

#[async_trait]
impl Judge for ReplayJudge {
    fn identity(&self) -> &Identity {
        &self.plan.identity
    }

    fn profile(&self) -> JudgeProfile {
        let mut profile = JudgeProfile::new(self.plan.metrics.iter().copied());
        profile.twins = self.plan.twins;
        if self.reference_scores { profile.with_reference_scores() } else { profile }
    }

    fn twin(&self, request: &Comparison, _: u64) -> Result<Option<Twin>> {
        let reply = [Digest::of_json(&request.messages)?, Digest::of(&*request.first.text)];
        Ok(self.twins.get(&reply).cloned())
    }

    async fn compare(&self, request: &Comparison, _: &CallContext) -> Result<Assessment> {
        let operation = "answer from the record";
        let messages = Digest::of_json(&request.messages)?;
        let question = [messages, Digest::of(&*request.first.text), Digest::of(&*request.second.text)];
        let refused = |message: &str| {
            Error::new(ErrorKind::NotFound, operation, message).with("judge", &self.plan.identity.name)
        };
        match self.answers.get(&question) {
            Some(Replayed::Answer(assessment)) => Ok(assessment.clone()),
            Some(Replayed::Missing(kind)) => Err(Error::new(*kind, operation, "the judge had no answer")
                .with_fault(Fault::Infrastructure)
                .with_retry(Retry::Never)),
            Some(Replayed::Several) => {
                Err(refused("the judge answered this question in two ways, and nothing tells them apart"))
            }
            None if [&request.first, &request.second].iter().any(|reply| *reply.text == *NEUTRAL) => {
                let message = "the record does not say what the judge made of neutral text";
                let error = Error::new(ErrorKind::Unavailable, operation, message);
                Err(error.with_retry(Retry::Never).with("judge", &self.plan.identity.name))
            }
            None => Err(refused("the record has no such conversation and pair of replies")
                .with_hint("replay the replies too")),
        }
    }
}

impl Plugin<dyn Judge> for ReplayJudge {
    const NAME: &'static str = "replay";
    const SUMMARY: &'static str = "answers what a judge answered in a record";
    type Config = ReplayConfig;
    type Checked = ReplayConfig;

    fn check(config: ReplayConfig, _: &CheckContext<'_>) -> Result<ReplayConfig> {
        Ok(config)
    }

    async fn build(config: ReplayConfig, cx: &BuildContext<'_>) -> Result<Arc<dyn Judge>> {
        Ok(Arc::new(Self::new(&Record::open(&cx.path(&config.record))?, &config.judge)?))
    }
}

albedo_core::register!(dyn Judge => ReplayJudge);

fn find(plans: &[JudgePlan], judge: &JudgeKey) -> Result<usize> {
    let places: Vec<_> = (plans.iter().enumerate())
        .filter(|(place, plan)| match judge {
            JudgeKey::Place(wanted) => place == wanted,
            JudgeKey::Name(name) => plan.identity.name == *name,
        })
        .map(|(place, _)| place)
        .collect();
    if let [place] = places[..] {
        return Ok(place);
    }
    let names: Vec<_> = plans.iter().map(|plan| plan.identity.name.as_str()).collect();
    Err(Error::new(
        ErrorKind::ConfigInvalid,
        "choose the judge to replay",
        "the record has no such judge, or several",
    )
    .with(
        "judge",
        match judge {
            JudgeKey::Place(place) => place.to_string(),
            JudgeKey::Name(name) => name.clone(),
        },
    )
    .with_hint(format!("its panel: {}; give a place from 0 if a name stands twice", names.join(", "))))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use albedo_core::{Candidate, FinishReason, Registry};
    use serde_json::json;

    use super::*;

    fn folder() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../albedo-core/tests/fixtures/record-1")
    }

    #[tokio::test]
    async fn every_recorded_answer_is_given_again() {
        let (record, cx) = (Record::open(&folder()).expect("opens"), CallContext::new());
        let registry = Registry::linked().expect("links");
        for (place, name) in ["fair", "biased"].into_iter().enumerate() {
            let config = json!({ "record": folder(), "judge": name });
            let judge = registry.build::<dyn Judge>("replay", config, &cx).await.expect("builds");
            assert_eq!(*judge.identity(), record.plan().judges[place].identity);
            for sample in record.samples() {
                let candidates: Vec<_> = (sample.replies.iter())
                    .map(|reply| match reply {
                        RecordedReply::Completed { text, finish, .. } => {
                            Candidate::new(record.text(text).expect("kept"), *finish)
                        }
                        _ => panic!("every reply of this record is there"),
                    })
                    .collect();
                let mut request = Comparison::new(
                    record.messages(&sample.messages).expect("reads"),
                    String::new(),
                    candidates[0].clone(),
                    candidates[1].clone(),
                );
                for order in [0, 1] {
                    let answer = judge.compare(&request, &cx).await.expect("answers");
                    assert_eq!(*sample.answers[2 * place + order], RecordedAnswer::Answered(answer));
                    std::mem::swap(&mut request.first, &mut request.second);
                }
            }
        }
    }

    #[tokio::test]
    async fn what_was_not_recorded_is_not_answered() {
        let record = Record::open(&folder()).expect("opens");
        let judge = ReplayJudge::new(&record, &JudgeKey::Place(1)).expect("builds");
        let candidate = Candidate::new("new", FinishReason::Stop);
        let request = Comparison::new(vec![], String::new(), candidate.clone(), candidate);
        let error = judge.compare(&request, &CallContext::new()).await.expect_err("unknown");
        assert_eq!(error.kind(), ErrorKind::NotFound);
        let error = ReplayJudge::new(&record, &JudgeKey::Name("fare".into())).expect_err("no judge");
        assert!(error.to_string().contains("its panel: fair, biased"), "{error}");
    }
}
