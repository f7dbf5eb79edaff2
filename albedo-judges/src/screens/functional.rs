//! `functional`: whose answers a model gives.
//!
//! A copy has to answer like its source, whatever its weights look like. So the
//! king replies to prompts that nobody knew before, and the submission and the
//! king are asked how likely they find each token of these replies (one pass
//! each, [`ModelSession::score`]). The *difference* of the two log-probabilities,
//! token by token, is what the submission's training did to the king:
//!
//! - next to nothing: it answers like the king → `Rejected`;
//! - an earlier submission's, times a factor: that one's work → `Rejected`;
//! - it resembles an earlier submission's more than honest colleagues' do: `Flagged`;
//! - it is beyond all measure, whichever few tokens are left out: the model is broken, and so are
//!   others that it would resemble; it is compared with nobody. Where a few tokens alone are beyond
//!   all measure, somebody may have spoiled them to look broken: so a token counts 20 nats at most,
//!   and in the place of means, medians over the replies count.
//!
//! The tokens are drawn from the king's own distribution, so that a mean over
//! them is a mean by his probabilities: of `r − 1 − ln r`, with the ratio `r` of
//! the two probabilities, it is the divergence KL(king ‖ submission) without bias
//! (Schulman, *Approximating KL divergence*, 2020), and of the product of two
//! models' differences it is their inner product over the whole vocabulary,
//! weighted by the king's probabilities.
//!
//! Earlier submissions' weights are gone. So the store keeps sets of questions
//! (conversations and a king's replies, for example one set per week) and each
//! submission's log-probabilities on them ([`FunctionalScreen::remember`]). A
//! newcomer is compared with the king on a fresh set and with the stored
//! submissions on the stored ones.
//!
//! Two colleagues who both trained an earlier king differ from the present one by
//! the same crown, and resemble each other for that reason alone. So a stored
//! submission is compared on the set that most kings have answered, once from each
//! of these kings, and the least resemblance counts: a copy resembles its source
//! from wherever it is looked at.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use albedo_core::registry::Checked;
use albedo_core::{
    BesideScreen, BuildContext, CallContext, CheckContext, Digest, Error, ErrorKind, Finding, FinishReason,
    Identity, ModelSession, Plugin, PluginConfig, Result, Sampling, ScoreRequest, Screen, ScreenPart,
    Sessions, TaskSource,
};
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::evidence::{KING, Reasons, to_value};
use super::probes::{Prompts, check_numbers, check_tasks, replies, requests};
use super::store::{Question, QuestionSet, Store, StoredAnswers, StoredSet};

mod choice;
mod compare;

use choice::Choice;
pub use compare::{Difference, Resemblance};

/// Nearest submissions that the evidence lists.
const NEAREST: usize = 5;

/// Settings of [`FunctionalScreen`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FunctionalConfig {
    /// The store of earlier submissions; without one only the king is compared.
    pub store: Option<PathBuf>,
    /// Conversations of a set.
    pub probes: u32,
    /// The king's replies are cut after this many tokens.
    pub max_new_tokens: u32,
    /// Stored sets that a submission is asked, the latest first. As many earlier ones are added
    /// as it takes until every earlier submission has answered one of them, up to 16 in all.
    pub sets: u32,
    /// At most this divergence from the king, in nats per token, is none.
    pub same: f64,
    /// At most this divergence from the king is flagged.
    pub near: f64,
    /// Above this divergence from the king, with at most 20 nats of each token, a model is broken:
    /// it is compared with no earlier submission, for what says nothing resembles whatever says
    /// nothing.
    pub broken: f64,
    /// From this cosine of the differences on, the work is the other's.
    pub copied: f64,
    /// From this cosine on the submission is flagged.
    pub alike: f64,
    /// Task source that the conversations come from; built-in ones if absent.
    pub tasks: Option<PluginConfig<dyn TaskSource>>,
}

impl Default for FunctionalConfig {
    fn default() -> Self {
        Self {
            store: None,
            probes: 24,
            max_new_tokens: 96,
            sets: 4,
            same: 5e-5,
            near: 3e-4,
            broken: 2.0,
            copied: 0.9,
            alike: 0.7,
            tasks: None,
        }
    }
}

impl FunctionalConfig {
    fn check(&self) -> Result<()> {
        let Self { probes, max_new_tokens, .. } = *self;
        check_numbers(FunctionalScreen::NAME, &[("probes", probes), ("max_new_tokens", max_new_tokens)])?;
        let invalid = |key: &'static str, message: String| {
            let operation = format!("check the settings of screen `{}`", FunctionalScreen::NAME);
            Err(Error::new(ErrorKind::ConfigInvalid, operation, message).with("key", key))
        };
        for (key, value) in [("copied", self.copied), ("alike", self.alike)] {
            if !(value > 0.0 && value <= 1.0) {
                return invalid(key, format!("it is {value}, a cosine above 0 and at most 1 is needed"));
            }
        }
        for (key, value) in [("same", self.same), ("near", self.near), ("broken", self.broken)] {
            if !(value >= 0.0 && value.is_finite()) {
                return invalid(key, format!("it is {value}, a divergence of 0 or more is needed"));
            }
        }
        Ok(())
    }

    /// What the screen finds of a model whose difference to the only king is `own`, beside the
    /// `others`, each with its name and its difference to him.
    pub fn judge(&self, own: &Difference, others: &[(&str, &Difference)]) -> Finding {
        let others = if self.is_broken(own) { &[][..] } else { others };
        let mut found: Vec<(&str, Resemblance)> =
            others.iter().map(|(of, other)| (*of, self.resemblance(own, other))).collect();
        found.sort_by(|a, b| b.1.cosine.total_cmp(&a.1.cosine));
        let mut facts = self.facts(own);
        facts["nearest"] = found
            .iter()
            .take(NEAREST)
            .map(|(of, found)| {
                let Resemblance { cosine, overall, typical, factor } = *found;
                json!({ "of": of, "cosine": cosine, "overall": overall, "typical": typical, "factor": factor })
            })
            .collect();
        self.reasons(own, found).finding(facts)
    }

    /// The evidence of a difference to the king.
    fn facts(&self, own: &Difference) -> Value {
        json!({
            "divergence": own.divergence(),
            "typical_divergence": own.typical_divergence(),
            "capped_divergence": own.capped_divergence(),
            "tokens": own.tokens(),
            "broken": self.is_broken(own),
        })
    }

    /// What the difference to the king amounts to, and the resemblance to others.
    fn reasons<'a>(
        &self,
        own: &Difference,
        others: impl IntoIterator<Item = (&'a str, Resemblance)>,
    ) -> Reasons {
        let mut reasons = Reasons::default();
        let (divergence, typical) = (own.divergence(), own.typical_divergence());
        let apart = self.apart(own);
        let median = if self.is_spoiled(own) { " in the median of its replies" } else { "" };
        if apart <= self.same {
            let reason = format!("it answers like {KING}: {apart:.1e} nats per token{median}");
            reasons.reject("same", Some(KING), reason);
        } else if apart <= self.near {
            reasons
                .flag("near", format!("it answers nearly like the king: {apart:.1e} nats per token{median}"));
        } else if typical <= self.same {
            let reason = format!(
                "most of its replies are like the king's: {typical:.1e} nats per token in the median of its \
                 replies, and {divergence:.1e} over all of them"
            );
            reasons.flag("near", reason);
        }
        for (of, Resemblance { cosine, factor, .. }) in others {
            if cosine >= self.copied {
                let reason = format!("its answers differ from the king's as those of {of} do");
                let reason = format!("{reason}: {factor:.2} times, cosine {cosine:.3}");
                reasons.reject("copied", Some(of), reason);
            } else if cosine >= self.alike {
                reasons.flag("alike", format!("its answers resemble those of {of}, cosine {cosine:.3}"));
            }
        }
        reasons
    }

    /// Whether a model is compared with no earlier submission.
    fn is_broken(&self, own: &Difference) -> bool {
        own.capped_divergence() > self.broken
    }

    /// Whether means say nothing, because a few tokens may be spoiled: then medians count.
    fn is_spoiled(&self, own: &Difference) -> bool {
        own.divergence() > self.broken
    }

    /// How far a model is from a king: the divergence, or the median over the replies where a few
    /// spoiled tokens hide all others.
    fn apart(&self, own: &Difference) -> f64 {
        if self.is_spoiled(own) { own.typical_divergence() } else { own.divergence() }
    }

    /// How much of `own` is `other`.
    fn resemblance(&self, own: &Difference, other: &Difference) -> Resemblance {
        let mut found = own.beside(other);
        // The same few tokens may be spoiled in models that share nothing else.
        if self.is_spoiled(own) {
            found.cosine = found.typical;
        }
        found
    }
}

/// Compares what models answer; see the [module](self).
#[derive(Debug)]
pub struct FunctionalScreen {
    identity: Identity,
    config: FunctionalConfig,
    prompts: Prompts,
    store: Option<Arc<Store>>,
}

/// An earlier submission beside the screened one, on a stored set.
#[derive(Debug, Clone, Serialize)]
struct Nearest {
    of: String,
    /// Its place in the order of first sight.
    seen: i64,
    /// The chain's block that it was committed in.
    block: Option<u64>,
    /// What the set follows from.
    set: u64,
    /// Kings from whom the two were compared: the resemblance is the least of them.
    kings: usize,
    #[serde(flatten)]
    resemblance: Resemblance,
}

impl FunctionalScreen {
    /// A screen with `config` whose conversations are built-in ones; it compares with the
    /// submissions in `store`, whatever `config` says of one.
    ///
    /// # Errors
    /// [`ErrorKind::ConfigInvalid`], naming the key.
    pub fn new(config: FunctionalConfig, store: Option<Arc<Store>>) -> Result<Self> {
        config.check()?;
        Self::with_prompts(config, Prompts::BuiltIn, store)
    }

    /// The same with conversations of `tasks`, whatever `config` says of any.
    ///
    /// # Errors
    /// As [`FunctionalScreen::new`].
    pub fn with_tasks(
        config: FunctionalConfig,
        tasks: Arc<dyn TaskSource>,
        store: Option<Arc<Store>>,
    ) -> Result<Self> {
        config.check()?;
        Self::with_prompts(config, Prompts::Tasks(tasks), store)
    }

    /// The screen of checked settings.
    fn with_prompts(config: FunctionalConfig, prompts: Prompts, store: Option<Arc<Store>>) -> Result<Self> {
        let mut settings = prompts.identified(&config)?;
        settings["store"] = json!(store.is_some());
        let identity = Identity::new(Self::NAME, "4", &settings)?;
        Ok(Self { identity, config, prompts, store })
    }

    /// Remembers what the submission and the king among `sessions` say of the set of
    /// questions that follows from `seed` and the king, which is made if the store has none,
    /// and of the stored sets that a submission is asked: later submissions are compared with
    /// it. Answers that are stored are not asked again. Gives the number of the seed's set in
    /// the store.
    ///
    /// # Errors
    /// [`ErrorKind::ConfigInvalid`] for a screen without a store; models that do not answer;
    /// the store's.
    pub async fn remember(&self, sessions: Sessions<'_>, seed: u64, cx: &CallContext) -> Result<i64> {
        const OPERATION: &str = "remember a model's answers";
        let Some(store) = &self.store else {
            return Err(Error::new(ErrorKind::ConfigInvalid, OPERATION, "the screen has no store"));
        };
        let king = sessions.king.model().parameters;
        let latest = self.config.sets;
        let mut sets = blocking(store, cx, move |store| {
            let choice = choose(store, king, latest, &[])?;
            choice.sets.into_iter().map(|set| store.set(set)).collect::<Result<Vec<_>>>()
        })
        .await?;
        // Replies on a GPU may come out otherwise a second time: a set is made once.
        let known = sets.iter().find(|stored| stored.set.seed == seed && stored.set.king == king);
        let id = if let Some(stored) = known {
            stored.id
        } else {
            let set = self.questions(sessions.king, seed, cx).await?;
            let added = set.clone();
            let id = blocking(store, cx, move |store| store.add_set(&added)).await?;
            sets.push(StoredSet { id, set });
            id
        };
        for stored in sets {
            for session in [sessions.king, sessions.submission] {
                let (set, parameters) = (stored.id, session.model().parameters);
                if blocking(store, cx, move |store| store.answers(set, parameters)).await?.is_none() {
                    let said = answers(session, &stored.set, cx).await?;
                    blocking(store, cx, move |store| store.add_answers(set, parameters, &said)).await?;
                }
            }
        }
        Ok(id)
    }

    /// The set of questions of `seed`: conversations and what `king` replies to them at
    /// temperature 1.
    async fn questions(&self, king: &dyn ModelSession, seed: u64, cx: &CallContext) -> Result<QuestionSet> {
        let conversations = self.prompts.draw(Self::NAME, seed, self.config.probes, cx).await?;
        let openings = conversations.iter().map(|conversation| conversation.opening.as_slice());
        let sampling = Sampling { temperature: 1.0, ..Sampling::default() };
        let asked = requests(openings, sampling, self.config.max_new_tokens, seed);
        let replies = replies(king, asked, cx).await?;
        let questions = conversations.into_iter().zip(replies).map(|(conversation, reply)| Question {
            messages: conversation.opening,
            ended: reply.finish == FinishReason::Stop,
            reply: reply.text,
        });
        // An empty reply has no token to compare.
        let questions = questions.filter(|question| question.ended || !question.reply.is_empty());
        Ok(QuestionSet { seed, king: king.model().parameters, questions: questions.collect() })
    }

    async fn find(
        &self,
        sessions: Sessions<'_>,
        own: &[String],
        seed: u64,
        cx: &CallContext,
    ) -> Result<Finding> {
        let set = self.questions(sessions.king, seed, cx).await?;
        let kings = answers(sessions.king, &set, cx).await?;
        let said = answers(sessions.submission, &set, cx).await?;
        let fresh = Difference::between(&said, &kings).ok_or_else(other_tokens)?;
        let (mut nearest, not_compared) = if self.config.is_broken(&fresh) {
            (Vec::new(), 0)
        } else {
            self.beside_others(sessions, own, cx).await?
        };
        let others = nearest.iter().map(|near| (near.of.as_str(), near.resemblance));
        let reasons = self.config.reasons(&fresh, others);
        let compared = nearest.len();
        nearest
            .sort_by(|a, b| b.resemblance.cosine.total_cmp(&a.resemblance.cosine).then(a.seen.cmp(&b.seen)));
        nearest.truncate(NEAREST);
        let mut facts = self.config.facts(&fresh);
        facts["compared"] = json!(compared);
        facts["nearest"] = to_value(&nearest)?;
        if not_compared > 0 {
            facts["not_compared"] = json!(not_compared);
        }
        Ok(reasons.finding(facts))
    }

    /// Each stored submission on the set that most kings have answered, the latest of
    /// several, and that the sessions read as the same tokens; and how many have answered some set
    /// and could not be compared.
    async fn beside_others(
        &self,
        sessions: Sessions<'_>,
        own: &[String],
        cx: &CallContext,
    ) -> Result<(Vec<Nearest>, usize)> {
        let Some(store) = &self.store else { return Ok((Vec::new(), 0)) };
        let now = sessions.king.model().parameters;
        let (latest, labels) = (self.config.sets, own.to_vec());
        let choice = blocking(store, cx, move |store| choose(store, now, latest, &labels)).await?;
        let mut nearest: BTreeMap<i64, Nearest> = BTreeMap::new();
        for &id in &choice.sets {
            let asked = blocking(store, cx, move |store| {
                Ok((store.set(id)?, store.all_answers(id)?, store.kings_answers(id)?))
            });
            let (stored, mut others, kings) = asked.await?;
            others.retain(|other| choice.fits(other.entry.id, id));
            if others.is_empty() {
                continue;
            }
            let said = answers(sessions.submission, &stored.set, cx).await?;
            let mut bases = vec![(now, self.kings_answers(store, id, &stored.set, sessions.king, cx).await?)];
            bases.extend(kings.into_iter().filter(|(king, _)| *king != now));
            for other in others {
                let Some((kings, resemblance)) = self.least(&said, &other, &bases) else { continue };
                let id = other.entry.id;
                if nearest.get(&id).is_some_and(|near| near.kings >= kings) {
                    continue;
                }
                let near = Nearest {
                    of: other.entry.label,
                    seen: id,
                    block: other.entry.block,
                    set: stored.set.seed,
                    kings,
                    resemblance,
                };
                nearest.insert(id, near);
            }
        }
        let not_compared = choice.entries() - nearest.len();
        Ok((nearest.into_values().collect(), not_compared))
    }

    /// The least resemblance of `said` and the answers of `other`, from each of the kings in
    /// `bases`, and how many these are; `None` where the tokens are others.
    fn least(
        &self,
        said: &[Vec<f32>],
        other: &StoredAnswers,
        bases: &[(Digest, Vec<Vec<f32>>)],
    ) -> Option<(usize, Resemblance)> {
        let from = |(king, kings): &(Digest, Vec<Vec<f32>>)| {
            let own = Difference::between(said, kings)?;
            let others = Difference::between(&other.log_probs, kings)?;
            let mut found = self.config.resemblance(&own, &others);
            // From a king himself nothing resembles him, except what answers like him.
            if *king == other.parameters && self.config.apart(&own) <= self.config.same {
                found = Resemblance { cosine: 1.0, factor: 1.0, ..found };
            }
            Some(found)
        };
        let found: Vec<_> = bases.iter().filter_map(from).collect();
        let least = found.iter().copied().min_by(|a, b| a.cosine.total_cmp(&b.cosine))?;
        Some((found.len(), least))
    }

    /// What the king says of a stored set; he may be another than the one who replied.
    async fn kings_answers(
        &self,
        store: &Arc<Store>,
        id: i64,
        set: &QuestionSet,
        king: &dyn ModelSession,
        cx: &CallContext,
    ) -> Result<Vec<Vec<f32>>> {
        let parameters = king.model().parameters;
        match blocking(store, cx, move |store| store.answers(id, parameters)).await? {
            Some(answers) => Ok(answers),
            None => answers(king, set, cx).await,
        }
    }
}

/// The stored sets that a submission is asked where `now` reigns.
fn choose(store: &Store, now: Digest, latest: u32, own: &[String]) -> Result<Choice> {
    Ok(Choice::of(&store.latest_sets(latest)?, &store.answered(now)?, own))
}

/// The log-probability of each token of the set's replies.
async fn answers(session: &dyn ModelSession, set: &QuestionSet, cx: &CallContext) -> Result<Vec<Vec<f32>>> {
    let asked = set
        .questions
        .iter()
        .map(|question| ScoreRequest::new(question.messages.clone(), question.reply.as_str()));
    let scores = cx.run("ask the model", session.score(asked.collect(), cx)).await??;
    let scores = scores.into_iter().zip(&set.questions).map(|(mut scores, question)| {
        if !question.ended {
            // The reply was cut: nobody chose the stop token behind it.
            scores.log_probs.pop();
        }
        scores.log_probs
    });
    Ok(scores.collect())
}

/// What `work` comes to with the store, on a thread that may block.
async fn blocking<T: Send + 'static>(
    store: &Arc<Store>,
    cx: &CallContext,
    work: impl FnOnce(&Store) -> Result<T> + Send + 'static,
) -> Result<T> {
    const OPERATION: &str = "ask the store";
    let store = Arc::clone(store);
    let done = cx.run(OPERATION, tokio::task::spawn_blocking(move || work(&store))).await?;
    done.map_err(|error| Error::bug(OPERATION, error.to_string()))?
}

fn other_tokens() -> Error {
    let message = "the submission and the king read the same replies as other tokens";
    Error::new(ErrorKind::Protocol, "compare answers", message)
        .with_hint("load the submission with the king's tokenizer")
}

impl Screen for FunctionalScreen {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn part(&self) -> ScreenPart<'_> {
        ScreenPart::Beside(self)
    }
}

#[async_trait]
impl BesideScreen for FunctionalScreen {
    async fn inspect(
        &self,
        sessions: Sessions<'_>,
        own: &[String],
        seed: u64,
        cx: &CallContext,
    ) -> Result<Finding> {
        match self.find(sessions, own, seed, cx).await {
            // A server may have replies and no log-probabilities of given ones.
            Err(error) if error.kind() == ErrorKind::Unsupported => Ok(Finding::Flagged(json!({
                "reasons": [format!("not compared with the king: {}", error.message())],
                "rules": ["not-compared"],
            }))),
            found => found,
        }
    }

    async fn remember(&self, sessions: Sessions<'_>, seed: u64, cx: &CallContext) -> Result<()> {
        if self.store.is_none() {
            return Ok(());
        }
        match FunctionalScreen::remember(self, sessions, seed, cx).await {
            // As above: there is nothing to compare later submissions with.
            Err(error) if error.kind() == ErrorKind::Unsupported => Ok(()),
            remembered => remembered.map(drop),
        }
    }
}

impl Plugin<dyn Screen> for FunctionalScreen {
    const NAME: &'static str = "functional";
    const SUMMARY: &'static str = "whose answers a model gives: the king's or an earlier submission's";
    type Config = FunctionalConfig;
    type Checked = (FunctionalConfig, Option<Checked<dyn TaskSource>>);

    fn check(config: FunctionalConfig, cx: &CheckContext<'_>) -> Result<Self::Checked> {
        config.check()?;
        let tasks = check_tasks(config.tasks.as_ref(), cx)?;
        Ok((config, tasks))
    }

    async fn build((config, tasks): Self::Checked, cx: &BuildContext<'_>) -> Result<Arc<dyn Screen>> {
        let store = Store::at(config.store.clone(), cx).await?;
        Ok(Arc::new(Self::with_prompts(config, Prompts::build(tasks, cx).await?, store)?))
    }
}

albedo_core::register!(dyn Screen => FunctionalScreen);

#[cfg(test)]
mod tests;
