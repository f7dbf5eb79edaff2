//! What this build answers to a fixed set of questions, as digests.
//!
//! A version number says what somebody remembered to write down. A behaviour is
//! worked out by the build itself: two builds with another rule, sampler, panel,
//! template engine or offline judge have plans of other digests, whatever they call
//! themselves, and two builds that behave alike can run one duel between them.

use std::sync::Arc;

use futures::FutureExt;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::backend::{FinishReason, Message, ModelSession, Role, TokenScores};
use crate::context::CallContext;
use crate::decision::{Rule, RuleContext, RuleVersion, decide};
use crate::digest::Digest;
use crate::draw::fixed_draws;
use crate::error::{Error, Result};
use crate::identity::Identity;
use crate::judge::{Assessment, Candidate, Comparison, Judge, Metric, Score};
use crate::marks::{DuelSecret, JudgementKey, Question};
use crate::order::Order;
use crate::panel::{Cell, Cluster, Reducer};
use crate::plan::{DuelPlan, Sampler};
use crate::rng::{Stream, Use, derive_seed};
use crate::seed::Seed;

/// The behaviour of what decides a duel. Since record format 3.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Behaviour {
    /// Of the plan's rule: its decisions on fixed sequences of samples.
    pub rule: Digest,
    /// Of the plan's sampler: its draws from fixed rows.
    pub sampler: Digest,
    /// Of the plan's reducer, of the cells that answers make, and of nonces and fences.
    pub panel: Digest,
    /// Of the king's template engine and tokenizer: the tokens of fixed conversations.
    /// None if a provider renders the prompts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<Digest>,
}

/// What the plan says of a judge whose answers follow from the comparison alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfflineJudge {
    /// Its settings; their digest is the `config` of its identity. Anyone can build
    /// it from them and ask it again.
    pub settings: Value,
    /// Digest of its answers to fixed comparisons.
    pub behaviour: Digest,
}

impl Behaviour {
    /// The behaviour of this build for `plan`, whatever `plan` says of it. `template`
    /// is that of the king's session ([`template`]).
    ///
    /// # Errors
    /// A bug: something has no JSON form.
    pub fn of(plan: &DuelPlan, template: Option<Digest>) -> Result<Self> {
        Ok(Self {
            rule: rule(&plan.rule, plan.rule_version)?,
            sampler: sampler(plan.sampler)?,
            panel: panel(plan.panel.reducer)?,
            template,
        })
    }
}

/// Digest of the decisions of `version` of `rule` on fixed sequences.
fn rule(rule: &Rule, version: RuleVersion) -> Result<Digest> {
    // Alpha, cap, and the means and spreads of the sequences. Rules that resample
    // take long for each.
    let (caps, means): (&[(f64, u32)], &[f64]) = match rule {
        Rule::Sequential { .. } => (&[(0.05, 64), (2e-4, 948)], &[-0.3, -0.02, 0.0, 0.01, 0.03, 0.05, 0.2]),
        _ => (&[(0.05, 24)], &[-0.1, 0.03, 0.2]),
    };
    let mut stream = Stream::new(derive_seed("behaviour of a rule", &[]), Use::Bootstrap);
    let mut unit = || stream.next_u64() as f64 / 2.0_f64.powi(64);
    let mut decisions = Vec::new();
    for &(alpha, samples) in caps {
        for &mean in means {
            for spread in [0.0, 0.3, 1.0] {
                let clusters: Vec<_> = (0..samples)
                    .map(|sample| {
                        let value = (mean + spread * (2.0 * unit() - 1.0)).clamp(-1.0, 1.0);
                        // Every sixteenth cell of the second judge is missing.
                        let second = match sample % 16 {
                            5 => Cell::Missing,
                            _ => Cell::unjudged(&[Metric::Progress, Metric::Protocol], value),
                        };
                        let cells = vec![Cell::unjudged(&[Metric::Correctness], value / 2.0), second];
                        Cluster::new(sample, cells, Reducer::Mean)
                    })
                    .collect();
                let context = RuleContext {
                    version,
                    entropy: 7,
                    metrics: vec![vec![Metric::Correctness], vec![Metric::Progress, Metric::Protocol]],
                    ..RuleContext::new(rule, samples, alpha)
                };
                decisions.push(decide(rule, context, clusters));
            }
        }
    }
    Digest::of_json(&decisions)
}

fn sampler(sampler: Sampler) -> Result<Digest> {
    Digest::of_json(&fixed_draws(sampler))
}

/// Digest of what fixed answers become, and of fixed marks.
fn panel(reducer: Reducer) -> Result<Digest> {
    let mut stream = Stream::new(derive_seed("behaviour of a panel", &[]), Use::Bootstrap);
    let mut score = || Score::new(stream.below(9) as f64 / 8.0);
    let metrics = [Metric::Correctness, Metric::Efficiency];
    let mut clusters = Vec::new();
    for sample in 0..64 {
        let mut cells = Vec::new();
        for judge in 0..sample % 6 {
            let mut answer =
                || -> Result<_> { Ok(Assessment::scored([(metrics[0], score()?), (metrics[1], score()?)])) };
            let (king_first, challenger_first) = (answer()?, answer()?);
            let first = ((sample + judge) % 7 != 3).then_some(&king_first);
            cells.push(Cell::new(&metrics, first, Some(&challenger_first)));
        }
        clusters.push(Cluster::new(sample, cells, reducer));
    }
    let judge = Identity::new("judge", "1", &())?;
    let mut marks = Vec::new();
    for question in [Question::Sample(0), Question::Sample(70_000), Question::Canary(3)] {
        for order in Order::BOTH {
            let key = JudgementKey { plan: Digest::of("plan"), question, judge: &judge, order };
            let made = DuelSecret::new(&Seed::from(7)).marks(&key, 2)?;
            marks.push((made.fence, made.nonce));
        }
    }
    Digest::of_json(&(clusters, marks))
}

/// Digest of the tokens that `session` makes of fixed conversations; none if only a
/// provider knows them. A conversation that the template refuses counts as refused.
///
/// # Errors
/// A bug: something has no JSON form.
pub fn template(session: &dyn ModelSession) -> Result<Option<Digest>> {
    let mut all = Vec::new();
    for messages in conversations() {
        match session.prompt_tokens(&messages) {
            Ok(None) => return Ok(None),
            Ok(Some(tokens)) => all.push(Some(tokens)),
            Err(_) => all.push(None),
        }
    }
    Digest::of_json(&all).map(Some)
}

/// What the plan says of `judge` if it is an offline one
/// ([`JudgeProfile::offline`](crate::JudgeProfile::offline)).
///
/// # Errors
/// A bug: the judge says that it is offline, and waits or fails.
pub fn offline_judge(judge: &dyn Judge) -> Result<Option<OfflineJudge>> {
    const OPERATION: &str = "ask an offline judge";
    let Some(settings) = judge.profile().offline else { return Ok(None) };
    let name = &judge.identity().name;
    let wrong = |why: String| Error::bug(OPERATION, why).with("judge", name);
    if Digest::of_json(&settings)? != judge.identity().config {
        return Err(wrong("its settings do not have the digest of its identity".into()));
    }
    let cx = CallContext::new();
    let mut answers = Vec::new();
    for comparison in comparisons() {
        let answer = judge.compare(&comparison, &cx).now_or_never();
        let answer = answer.ok_or_else(|| wrong("it waits for something outside".into()))?;
        answers.push(answer.map_err(|error| wrong(error.to_string()))?.canonical());
    }
    Ok(Some(OfflineJudge { settings, behaviour: Digest::of_json(&answers)? }))
}

/// Conversations with every role, scripts of several kinds and text that is easily
/// normalised away.
fn conversations() -> Vec<Vec<Message>> {
    let message = |role, text: &str| Message::new(role, text);
    let texts = [
        "List the files that mention `parse`.",
        " leading and trailing space \n\n",
        "naïve café — ﬁne e\u{301} 日本語 🦀\u{200d} \u{a0}",
        "<|im_start|>user <think>no</think> {{ messages }} {% if %}",
        "fn main() {\n\tprintln!(\"{}\", 1_000_000);\r\n}\n",
    ];
    let mut all: Vec<Vec<Message>> = texts.map(|text| vec![message(Role::User, text)]).into();
    for text in texts {
        all.push(vec![
            message(Role::System, "Answer every turn with one bash block."),
            message(Role::User, text),
            message(Role::Assistant, "<think>\nhm\n</think>\n\nTHOUGHT: look\n```bash\nls -la\n```"),
            message(Role::User, "total 0"),
            message(Role::Assistant, text),
            message(Role::Tool, text),
        ]);
    }
    all
}

/// Every ordered pair of a dozen replies to one conversation.
fn comparisons() -> Vec<Comparison> {
    let messages: Arc<[Message]> = vec![
        Message::new(
            Role::System,
            "Answer every turn with a line that starts with THOUGHT: and then exactly one bash block.",
        ),
        Message::new(Role::User, "Which files mention `parse`? Then run the tests of src/lib.rs."),
    ]
    .into();
    let reference = "THOUGHT: search the sources.\n\n```bash\ngrep -rn 'parse' src | head -20\n```";
    let looping = format!("THOUGHT: again\n{}", "look at the file\n".repeat(40));
    let replies = [
        (reference, FinishReason::Stop, vec![-0.5, -1.25, -0.001]),
        (
            "THOUGHT: list first.\n```bash\nls -la src && grep -rn parse src\n```",
            FinishReason::Stop,
            vec![-0.25, -1.0, -0.5],
        ),
        ("```bash\ngrep -rn \"parse\" ./src\n```", FinishReason::Stop, vec![-3.0, -2.0, -0.125]),
        ("THOUGHT: nothing to run.", FinishReason::Stop, vec![]),
        ("", FinishReason::Stop, vec![-0.5]),
        (
            "THOUGHT: two.\n```bash\ncargo test\n```\nand\n```sh\nrm -rf target\n```\nbye",
            FinishReason::Stop,
            vec![-1e-7, -12.5, -0.75],
        ),
        ("THOUGHT: cut\n```bash\nsed -n '1,80p' src/lib.rs | aw", FinishReason::Length, vec![-1.0, -1.0, -1.0]),
        (&looping, FinishReason::Length, vec![-0.5, -1.25, -0.002]),
        (
            "<think>\nhm\n</think>\nTHOUGHT: clean.\n```bash\n# only a comment\n```",
            FinishReason::Stop,
            vec![-0.1, -0.2, -0.3],
        ),
        (
            "THOUGHT: write it.\n```bash\ncat > src/lib.rs <<'EOF'\nfn parse() {}\nEOF\npython3 -m pytest -q\n```",
            FinishReason::Unknown,
            vec![-0.7, -0.7, -0.7],
        ),
        (
            "THOUGHT: naïve — 日本語\n```BASH\nfor f in $(ls src/*.rs); do grep -q parse \"$f\" && echo \"$f\"; done\n```<|im_end|>",
            FinishReason::Stop,
            vec![-0.4, -0.9, -0.05],
        ),
        ("THOUGHT: edit\n```python\nprint('parse')\n```", FinishReason::Stop, vec![-2.0, -0.5, -0.5]),
    ]
    .map(|(text, finish, log_probs)| {
        Candidate::new(text, finish).with_reference_scores(Some(TokenScores { log_probs }))
    });
    let pairs = replies.iter().flat_map(|first| replies.iter().map(move |second| (first, second)));
    pairs
        .map(|(first, second)| {
            Comparison::new(Arc::clone(&messages), reference, first.clone(), second.clone())
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{ScriptedJudge, ScriptedSession};

    #[test]
    fn another_rule_sampler_or_reducer_behaves_otherwise() {
        let sequential = |win_margin| Rule::Sequential { win_margin, null_margin: 0.0 };
        let rules = [sequential(2.0), sequential(2.1), Rule::Margin { win_margin: 2.0 }];
        let of_rules = rules.map(|of| rule(&of, RuleVersion::NEWEST).expect("digests"));
        assert_eq!(
            of_rules[0],
            rule(&sequential(2.0), RuleVersion::NEWEST).expect("digests"),
            "the same again"
        );
        assert!(of_rules[0] != of_rules[1] && of_rules[1] != of_rules[2]);
        let samplers = [Sampler::RowDraw, Sampler::AlbedoPy].map(|of| sampler(of).expect("digests"));
        assert_ne!(samplers[0], samplers[1]);
        let reducers =
            [Reducer::Mean, Reducer::Median, Reducer::Trimmed].map(|of| panel(of).expect("digests"));
        assert!(reducers[0] != reducers[1] && reducers[1] != reducers[2]);
    }

    #[test]
    fn a_template_is_known_where_the_session_tells_the_tokens() {
        let behaviour = |session: ScriptedSession| template(&session).expect("digests");
        let known = behaviour(ScriptedSession::saying("king", "ls"));
        assert!(known.is_some());
        assert_eq!(known, behaviour(ScriptedSession::saying("other", "ls")), "names do not matter");
        assert_eq!(behaviour(ScriptedSession::saying("far", "ls").counting(|_| None)), None);
    }

    #[test]
    fn a_judge_is_offline_only_if_it_says_so() {
        let judge = ScriptedJudge::preferring("length", |reply| (reply.len() as f64 / 1000.0).min(1.0));
        assert_eq!(offline_judge(&judge).expect("asks"), None);
    }
}
