//! Offline judges are built from the plan and asked again over the recorded texts.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{compare_lines, wrong};
use crate::behaviour::offline_judge;
use crate::context::CallContext;
use crate::error::{Result, Side};
use crate::judge::{Candidate, Comparison, Judge, Metric};
use crate::order::Order;
use crate::plan::{DuelPlan, JudgePlan};
use crate::record::{Record, RecordLine, RecordedAnswer, RecordedReply, RecordedTwin};
use crate::registry::Registry;

/// What asking one judge again came to.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum AskedAgain {
    /// It gave every answer that the record has of it.
    Same {
        /// How many.
        answers: usize,
    },
    /// It behaves otherwise in this build than in the one that froze the plan, or the
    /// plan does not say how it behaved, and gave other answers.
    Otherwise {
        /// Answers that differ.
        differing: usize,
        /// Answers asked for.
        answers: usize,
    },
    /// It cannot be asked by a verifier, for that reason.
    NotAsked(&'static str),
}

/// Asks every offline judge of `plan` again that `registry` knows, in panel order.
///
/// # Errors
/// [`ErrorKind::DataInvalid`](crate::ErrorKind::DataInvalid) with the first answer that
/// a judge which behaves as the plan says does not give.
pub(super) async fn ask_again(
    record: &Record,
    plan: &DuelPlan,
    registry: &Registry,
    cx: &CallContext,
) -> Result<Vec<AskedAgain>> {
    let (mut judges, mut outcomes) = (Vec::new(), Vec::new());
    for planned in &plan.judges {
        let (judge, outcome) = match build(planned, registry, cx).await {
            Ok((judge, strict)) => (Some((judge, strict)), AskedAgain::Same { answers: 0 }),
            Err(why) => (None, AskedAgain::NotAsked(why)),
        };
        judges.push(judge);
        outcomes.push(outcome);
    }
    let samples = record.samples();
    let mut twins = samples.iter().map(|sample| &sample.twins[..]);
    let mut pair: Option<Pair<'_>> = None;
    for (index, line) in record.lines.iter().enumerate() {
        match line {
            RecordLine::Sample { messages, reference, .. } => {
                let (messages, reference) = (record.messages(messages)?, record.text(reference)?);
                pair = Some(Pair {
                    messages: messages.into(),
                    reference: reference.into(),
                    replies: Vec::new(),
                    twins: twins.next().unwrap_or_default(),
                });
            }
            RecordLine::Reply { reply, .. } => {
                if let Some(pair) = &mut pair {
                    pair.replies.push(candidate(record, reply)?);
                }
            }
            // Nobody was asked: the replies are the same.
            RecordLine::Assessment { answer: RecordedAnswer::Identical, .. } => {}
            RecordLine::Assessment { judge: judge_place, order, answer, .. } => {
                let place = *judge_place as usize;
                let (Some(Some((judge, strict))), Some(pair)) = (judges.get(place), &pair) else { continue };
                let metrics = &plan.judges[place].metrics;
                let Some(comparison) = pair.comparison(record, (*judge_place, metrics), *order)? else {
                    continue;
                };
                let again = match judge.compare(&comparison, cx).await {
                    Ok(again) => again,
                    // It could not find out then either.
                    Err(_) if matches!(answer, RecordedAnswer::Missing { .. }) => continue,
                    Err(error) => {
                        return Err(wrong(index + 1, format!("a judge cannot be asked again: {error}")));
                    }
                };
                let again = RecordedAnswer::Answered(again.canonical());
                if let (false, AskedAgain::Otherwise { differing, answers }) = (*strict, &mut outcomes[place])
                {
                    *differing += usize::from(*answer != again);
                    *answers += 1;
                    continue;
                }
                if *answer != again {
                    if *strict {
                        let mut expected = line.clone();
                        if let RecordLine::Assessment { answer, .. } = &mut expected {
                            *answer = again;
                        }
                        return Err(compare_lines(index + 1, line, &expected)
                            .err()
                            .unwrap_or_else(|| wrong(index + 1, "a judge answers otherwise"))
                            .with("judge", &plan.judges[place].identity.name)
                            .with("checked", "the judge, asked again"));
                    }
                    if let AskedAgain::Same { answers } = outcomes[place] {
                        outcomes[place] = AskedAgain::Otherwise { differing: 1, answers: answers + 1 };
                    }
                } else if let AskedAgain::Same { answers } = &mut outcomes[place] {
                    *answers += 1;
                }
            }
            _ => {}
        }
    }
    Ok(outcomes)
}

/// The judge that `planned` describes, and whether this build's behaves as the plan
/// says; why there is none.
async fn build(
    planned: &JudgePlan,
    registry: &Registry,
    cx: &CallContext,
) -> Result<(Arc<dyn Judge>, bool), &'static str> {
    let name = &planned.identity.name;
    // What builds a judge of a record must not reach outside, whatever its settings.
    if !registry.is_offline::<dyn Judge>(name) {
        return Err("this build knows no offline judge of that name");
    }
    // Records of older formats do not have the settings: the default ones may be it.
    let settings = planned.offline.as_ref().map_or_else(|| json!({}), |offline| offline.settings.clone());
    let judge = registry.build::<dyn Judge>(name, settings, cx).await;
    let judge = judge.map_err(|_| "this build does not take its settings")?;
    if *judge.identity() != planned.identity {
        return Err(match planned.offline {
            Some(_) => "this build has another version of it",
            None => "the plan does not have its settings",
        });
    }
    let behaves = offline_judge(&*judge).ok().flatten().map(|offline| offline.behaviour);
    let strict = planned.offline.as_ref().is_some_and(|planned| Some(planned.behaviour) == behaves);
    Ok((judge, strict))
}

/// A sample's conversation and replies, the king's first, and what was compared with their twins.
struct Pair<'a> {
    messages: Arc<[crate::backend::Message]>,
    reference: Arc<str>,
    replies: Vec<Option<Candidate>>,
    twins: &'a [RecordedTwin<'a>],
}

impl Pair<'_> {
    /// What `judge`, the place of a judge with these metrics, was asked: about the twin of a reply
    /// that has beaten it. None unless both replies are there.
    fn comparison(
        &self,
        record: &Record,
        judge: (u32, &[Metric]),
        order: Order,
    ) -> Result<Option<Comparison>> {
        let [Some(king), Some(challenger)] = &self.replies[..] else { return Ok(None) };
        let (mut king, mut challenger) = (king.clone(), challenger.clone());
        for twin in self.twins.iter().filter(|twin| twin.judge == judge.0 && twin.is_replaced(judge.1)) {
            let reply = if twin.side == Side::King { &mut king } else { &mut challenger };
            if let Some(text) = &twin.text {
                reply.text = record.text(text)?.into();
            }
        }
        let (first, second) = match order {
            Order::KingFirst => (king, challenger),
            Order::ChallengerFirst => (challenger, king),
        };
        let (messages, reference) = (Arc::clone(&self.messages), Arc::clone(&self.reference));
        Ok(Some(Comparison::new(messages, reference, first, second)))
    }
}

fn candidate(record: &Record, reply: &RecordedReply) -> Result<Option<Candidate>> {
    let RecordedReply::Completed { text, finish, reference_scores, .. } = reply else { return Ok(None) };
    let text = record.text(text)?;
    Ok(Some(Candidate::new(text, *finish).with_reference_scores(reference_scores.clone())))
}

/// Whether a judge's settings are what its identity says.
pub(super) fn settings_fit(planned: &JudgePlan) -> Result<bool> {
    let Some(offline) = &planned.offline else { return Ok(true) };
    let settings: &Value = &offline.settings;
    Ok(crate::digest::Digest::of_json(settings)? == planned.identity.config)
}
