//! `chat`: a chat model compares the replies.
//!
//! A chat judge is a prompt and a parser over any [`ModelSession`]: a model
//! behind an OpenAI-compatible server, routes to several, or a local one. What
//! it is asked is its [rubric](Rubric); how the prompt is worded is its
//! [template](Template), which has a version; both are part of its identity.
//!
//! The prompt is the same up to the replies for both orders of a sample, and up
//! to its last line for every try, so that prompt caches work. Everything that
//! is judged stands between lines with the sample's fence. Of a reply that is the
//! [canonical form](crate::form), every word of it marked as data by the
//! [defence](crate::defence). The last line holds the question's
//! nonce, which the answer has to carry: an answer that was quoted from a reply
//! has none. A judge that obeys a reply and answers what it was told carries
//! it all the same: against that there are the defence, the panel and its
//! canaries.
//!
//! Some replies are also compared with their own twin (the module `twin` makes it, [`albedo_core::twin`] says when), to
//! find out whether the text of an action talks to the judge.
//!
//! Only the final content of an answer is read, never its reasoning. An answer
//! that was cut, or whose provider does not say that it was not, is unreadable.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use albedo_core::backend::ResponseFormat;
use albedo_core::registry::Checked;
use albedo_core::twin::Twin;
use albedo_core::{
    Alteration, Assessment, BuildContext, CallContext, CheckContext, Comparison, Completion, Error,
    ErrorKind, Evidence, FinishReason, GenerateRequest, Identity, Judge, JudgeProfile, Message, Metric,
    ModelBackend, ModelRef, ModelSession, ModelSessionExt, ModelSource, Plugin, PluginConfig, Preparation,
    Prepared, Result, Sampling,
};
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::defence::{Budget, Defence, View, is_suspicious};
use crate::form::{self, Canonical};
use crate::reply::{self, Reply};
use crate::twin;

mod checklist;
mod pairwise;
pub(crate) mod parse;
mod prompt;

pub use checklist::{ChecklistConfig, Item, WriterConfig};
pub use parse::read_verdict;
use prompt::{Part, Prompt};

/// Settings of [`ChatJudge`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ChatConfig {
    /// Name on the panel and in the record; `chat` by default.
    pub label: Option<String>,
    /// The backend that serves the model.
    pub backend: PluginConfig<dyn ModelBackend>,
    /// Name under which the backend serves the model.
    pub model: Option<String>,
    /// Folder of a local model, instead of `model`.
    pub path: Option<PathBuf>,
    /// What the judge is asked.
    #[serde(default)]
    pub rubric: Rubric,
    /// Wording of the prompt.
    #[serde(default)]
    pub template: Template,
    /// What the backend is asked to enforce.
    #[serde(default)]
    pub answer: AnswerFormat,
    /// How the judge's tokens are chosen; greedy by default.
    #[serde(default)]
    pub sampling: Sampling,
    /// The answer is cut after this many tokens, reasoning included, and then
    /// unreadable.
    #[serde(default = "answer_tokens")]
    pub max_answer_tokens: u32,
    /// Languages whose fenced blocks are actions, in any case. Of a reply only the
    /// action is shown, if the recorded reply has exactly one; else all of it.
    #[serde(default = "languages")]
    pub languages: Vec<String>,
    /// The largest texts shown; the same for every judge of a panel.
    #[serde(default)]
    pub budget: Budget,
    /// Settings of the rubric `checklist`.
    pub checklist: Option<ChecklistConfig>,
}

/// Room for a reasoning model; the reference system's limit for those.
fn answer_tokens() -> u32 {
    4096
}

fn languages() -> Vec<String> {
    vec!["bash".into()]
}

/// What a chat judge is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum Rubric {
    /// Which reply is better in each of the five metrics, by what it would do.
    #[default]
    #[serde(rename = "pairwise-5")]
    PairwiseFive,
    /// Which reply is better in grounding, by what it says and would do. No other
    /// rubric is shown what a reply says.
    #[serde(rename = "grounding")]
    Grounding,
    /// Which replies fulfil each of a list of yes-or-no questions.
    #[serde(rename = "checklist")]
    Checklist,
}

/// Wording of the prompts. A version is never changed: there will be another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum Template {
    /// Replies in their canonical form, their words marked as data.
    #[default]
    #[serde(rename = "albedo-2")]
    Albedo2,
}

/// What the backend is asked to enforce of an answer. All are read alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AnswerFormat {
    /// Nothing.
    #[default]
    Text,
    /// A JSON object.
    Json,
    /// The answer's schema, in which the nonce is a constant.
    Schema,
}

fn invalid(key: &str, message: impl Into<String>) -> Error {
    Error::new(ErrorKind::ConfigInvalid, "check the settings of judge `chat`", message).with("key", key)
}

impl ChatConfig {
    fn check(&self) -> Result<()> {
        named(self.model.as_deref(), self.path.as_deref())?;
        if self.label.as_ref().is_some_and(|label| label.trim().is_empty()) {
            return Err(invalid("label", "`label` is empty"));
        }
        if self.max_answer_tokens == 0 {
            return Err(invalid("max_answer_tokens", "`max_answer_tokens` is 0"));
        }
        match (self.rubric, &self.checklist) {
            (Rubric::Checklist, None) => {
                return Err(invalid("rubric", "the rubric `checklist` needs the table `checklist`"));
            }
            (Rubric::PairwiseFive | Rubric::Grounding, Some(_)) => {
                return Err(invalid("checklist", "only the rubric `checklist` has a use for this table"));
            }
            (_, Some(checklist)) => checklist.check().map_err(|error| error.under("checklist"))?,
            _ => {}
        }
        reply::check_languages("chat", &self.languages)?;
        self.sampling.check().map_err(|error| error.under("sampling"))?;
        self.budget.check().map_err(|error| error.under("budget"))
    }
}

/// A chat model as a judge; see the [module](self).
#[derive(Debug)]
pub struct ChatJudge {
    identity: Identity,
    session: Arc<dyn ModelSession>,
    asker: Asker,
    answer: AnswerFormat,
    sampling: Sampling,
    max_answer_tokens: u32,
    languages: Vec<String>,
    budget: Budget,
}

/// The rubric with what it needs.
#[derive(Debug)]
enum Asker {
    /// Which is better in these metrics.
    Pairwise(&'static [Metric]),
    Checklist(checklist::Checklist),
}

/// What of a chat judge's making can change an answer.
#[derive(Serialize)]
struct Makings<'a> {
    backend: &'a Identity,
    model: &'a albedo_core::ModelInfo,
    rubric: Rubric,
    /// Digest of the template's texts.
    template: albedo_core::Digest,
    answer: AnswerFormat,
    sampling: Sampling,
    max_answer_tokens: u32,
    /// Version of the canonical form.
    form: u32,
    languages: &'a [String],
    budget: Budget,
    checklist: Option<&'a ChecklistConfig>,
    writer: Option<&'a Identity>,
}

impl ChatJudge {
    /// The judge of `config`, its model already loaded by `backend`.
    ///
    /// # Errors
    /// [`ErrorKind::ConfigInvalid`], naming the key; `writer` is the model that
    /// writes the checklists, if the settings name one.
    pub fn new(
        config: &ChatConfig,
        backend: &Identity,
        session: Arc<dyn ModelSession>,
        writer: Option<Arc<dyn ModelSession>>,
    ) -> Result<Self> {
        config.check()?;
        Self::checked(config, backend, session, writer)
    }

    fn checked(
        config: &ChatConfig,
        backend: &Identity,
        session: Arc<dyn ModelSession>,
        writer: Option<Arc<dyn ModelSession>>,
    ) -> Result<Self> {
        let writes = match &writer {
            Some(writer) => Some(Identity::new("writer", "1", writer.model())?),
            None => None,
        };
        let asker = match (&config.checklist, config.rubric) {
            (Some(settings), Rubric::Checklist) => {
                Asker::Checklist(checklist::Checklist::new(settings.clone(), writer)?)
            }
            (_, Rubric::Grounding) => Asker::Pairwise(&[Metric::Grounding]),
            _ => Asker::Pairwise(&Metric::ALL),
        };
        let makings = Makings {
            backend,
            model: session.model(),
            rubric: config.rubric,
            template: prompt::digest(config.template),
            answer: config.answer,
            sampling: config.sampling,
            max_answer_tokens: config.max_answer_tokens,
            form: form::VERSION,
            languages: &config.languages,
            budget: config.budget,
            checklist: config.checklist.as_ref(),
            writer: writes.as_ref(),
        };
        let name = config.label.as_deref().unwrap_or("chat");
        Ok(Self {
            identity: Identity::new(name, env!("CARGO_PKG_VERSION"), &makings)?,
            session,
            asker,
            answer: config.answer,
            sampling: config.sampling,
            max_answer_tokens: config.max_answer_tokens,
            languages: config.languages.clone(),
            budget: config.budget,
        })
    }

    fn question(&self, request: &Comparison) -> Result<Question> {
        let fence = request.marks.fence_text();
        let sign = sign(&request.marks.fence);
        let defence = Defence { budget: self.budget, fence: fence.clone(), sign: sign.clone() };
        let (view, seen) = self.view(&request.reference);
        let [first, second] = [&request.first, &request.second].map(|candidate| {
            let mut shown = defence.reply(&candidate.text, view);
            if candidate.finish == FinishReason::Length {
                shown.notes.push("it was ended at its limit of tokens".into());
            }
            (Part { text: shown.text, notes: shown.notes }, shown.alterations)
        });
        let form = match &self.asker {
            Asker::Pairwise(metrics) => pairwise::form(metrics),
            Asker::Checklist(checklist) => checklist.form(request)?,
        };
        let prompt = Prompt {
            fence,
            nonce: request.marks.nonce_text(),
            sign,
            seen,
            conversation: defence.conversation(&request.messages),
            first: first.0,
            second: second.0,
            form,
        };
        Ok(Question { prompt, first: first.1, second: second.1 })
    }

    /// How much of a reply is shown where `reference` was recorded, and how the prompt says so. Where there is no
    /// recorded reply, it would have been one with an action.
    fn view(&self, reference: &str) -> (View<'_>, &'static str) {
        let has_action = Reply::parse(reference).action(&self.languages).is_some();
        if !has_action && !reference.trim().is_empty() {
            return (View::Whole, prompt::WHOLE);
        }
        let grounding = match &self.asker {
            Asker::Pairwise(metrics) => **metrics == [Metric::Grounding],
            Asker::Checklist(checklist) => checklist.metric() == Metric::Grounding,
        };
        if grounding {
            (View::ThoughtAndAction(&self.languages), prompt::BOTH)
        } else {
            (View::Action(&self.languages), prompt::ACTION)
        }
    }

    async fn ask(&self, prompt: &Prompt, seed: u64, cx: &CallContext) -> Result<Completion> {
        let response = match self.answer {
            AnswerFormat::Text => ResponseFormat::Text,
            AnswerFormat::Json => ResponseFormat::Json,
            AnswerFormat::Schema => {
                ResponseFormat::Schema { name: "verdict".into(), schema: prompt.form.schema(&prompt.nonce) }
            }
        };
        let request = GenerateRequest::new(prompt.messages(), self.max_answer_tokens)
            .with_sampling(self.sampling)
            .with_seed(seed)
            .with_response(response);
        one_answer(&*self.session, request, cx).await
    }
}

/// The sign between the words of both replies: four hexadecimal digits of the question's fence that no prompt shows
/// otherwise. It follows from the plan's seed, the sample and the judge, and no contestant can know it.
fn sign(fence: &albedo_core::Digest) -> String {
    let [a, b] = [fence.as_bytes()[6], fence.as_bytes()[7]];
    format!("‹{a:02x}{b:02x}›")
}

/// A comparison as it is asked.
struct Question {
    prompt: Prompt,
    first: Vec<Alteration>,
    second: Vec<Alteration>,
}

/// The one answer of `session` to `request`. An error of the model that judges
/// is never a contestant's: prompts are made from replies.
async fn one_answer(
    session: &dyn ModelSession,
    request: GenerateRequest,
    cx: &CallContext,
) -> Result<Completion> {
    cx.run("ask the judge", session.generate_one(request, cx)).await?
}

/// Why an answer that ended for `finish` cannot be read.
fn unfinished(finish: FinishReason) -> Option<&'static str> {
    match finish {
        FinishReason::Stop => None,
        FinishReason::Length => Some("the answer was cut at its limit of tokens"),
        _ => Some("the provider did not say that the answer is whole"),
    }
}

#[async_trait]
impl Judge for ChatJudge {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn profile(&self) -> JudgeProfile {
        let profile = match &self.asker {
            Asker::Pairwise(metrics) => JudgeProfile::new(metrics.iter().copied()),
            Asker::Checklist(checklist) if checklist.is_written() => {
                JudgeProfile::new([checklist.metric()]).with_preparation()
            }
            Asker::Checklist(checklist) => JudgeProfile::new([checklist.metric()]),
        };
        profile.with_canaries().with_twins(twin::VERSION)
    }

    fn prompt(&self, request: &Comparison) -> Result<Option<Vec<Message>>> {
        Ok(Some(self.question(request)?.prompt.messages()))
    }

    /// The first reply's action without prose, with nonce words where its outcome needs no others. Where the recorded
    /// reply has no action, replies are shown whole, and there is no twin.
    fn twin(&self, request: &Comparison, words: u64) -> Result<Option<Twin>> {
        let (languages, thought) = match self.view(&request.reference).0 {
            View::Whole => return Ok(None),
            View::Action(languages) => (languages, false),
            View::ThoughtAndAction(languages) => (languages, true),
        };
        let form = Canonical::of(&request.first.text, languages);
        let Some(action) = &form.action else { return Ok(None) };
        let conversation = request.messages.iter().map(|message| message.content.as_str());
        let known: Vec<_> = conversation.chain([&*request.reference]).collect();
        let twinned = twin::of(action, &known.join("\n"), words);
        let shows_thought = thought && !form.thought.is_empty();
        if !shows_thought && twinned.script == *action {
            return Ok(None);
        }
        let suspected = twinned.suspected || is_suspicious(&request.first.text);
        let action = Some(twinned.script.into_owned());
        let text = Canonical { thought: String::new(), action, ..form }.block();
        Ok(Some(Twin { text, suspected }))
    }

    async fn compare(&self, request: &Comparison, cx: &CallContext) -> Result<Assessment> {
        let Question { prompt, first, second } = self.question(request)?;
        let seed = u64::from_le_bytes(std::array::from_fn(|byte| request.marks.nonce.as_bytes()[byte]));
        let Completion { text: answer, reasoning, finish, usage, .. } = self.ask(&prompt, seed, cx).await?;
        let read = match unfinished(finish) {
            Some(reason) => Err(reason.to_owned()),
            None => match &self.asker {
                Asker::Pairwise(metrics) => parse::read_metrics(&answer, &prompt.nonce, metrics),
                Asker::Checklist(checklist) => checklist.read(&answer, &prompt, request),
            },
        };
        let nonce = read.is_ok().then(|| prompt.nonce.clone());
        let evidence = Box::new(Evidence { answer, reasoning, nonce, first, second });
        let usage = Some(usage);
        Ok(match read {
            Ok(scores) => Assessment::Scored { scores, rationale: None, usage, evidence: Some(evidence) },
            Err(reason) => Assessment::Unreadable { reason, usage, evidence },
        })
    }

    async fn prepare(&self, request: &Preparation, cx: &CallContext) -> Result<Prepared> {
        match &self.asker {
            Asker::Checklist(checklist) => checklist.write(request, self.budget, cx).await,
            Asker::Pairwise(_) => Err(Error::bug("prepare a judgement", "this rubric needs no preparation")),
        }
    }
}

impl Plugin<dyn Judge> for ChatJudge {
    const NAME: &'static str = "chat";
    const SUMMARY: &'static str = "a chat model compares the replies";
    type Config = ChatConfig;
    type Checked = CheckedChat;

    fn check(config: ChatConfig, cx: &CheckContext<'_>) -> Result<CheckedChat> {
        config.check()?;
        let backend = cx.plugin("backend", &config.backend)?;
        check_model(&backend, config.model.as_deref(), config.path.as_deref())?;
        let writer = config.checklist.as_ref().and_then(|checklist| checklist.writer.as_ref());
        let writer = match writer {
            Some(WriterConfig { backend, model, path, .. }) => {
                let backend = cx.plugin("checklist.writer.backend", backend)?;
                check_model(&backend, model.as_deref(), path.as_deref())
                    .map_err(|error| error.under("checklist.writer"))?;
                Some(backend)
            }
            None => None,
        };
        Ok(CheckedChat { config, backend, writer })
    }

    async fn build(checked: CheckedChat, cx: &BuildContext<'_>) -> Result<Arc<dyn Judge>> {
        let CheckedChat { config, backend, writer } = checked;
        let (backend, session) = load(backend, config.model.as_deref(), config.path.as_deref(), cx).await?;
        let named = config.checklist.as_ref().and_then(|checklist| checklist.writer.as_ref());
        let writer = match writer.zip(named) {
            Some((backend, WriterConfig { model, path, .. })) => {
                Some(load(backend, model.as_deref(), path.as_deref(), cx).await?.1)
            }
            None => None,
        };
        Ok(Arc::new(Self::checked(&config, &backend, session, writer)?))
    }
}

albedo_core::register!(dyn Judge => ChatJudge);

/// The model that settings name.
fn named(model: Option<&str>, path: Option<&Path>) -> Result<ModelRef> {
    ModelRef::one_of([("model", model.map(ModelRef::served)), ("path", path.map(ModelRef::from))])
}

/// Refuses a model that `backend` cannot load because of the key that names it.
fn check_model(backend: &Checked<dyn ModelBackend>, model: Option<&str>, path: Option<&Path>) -> Result<()> {
    let (key, other) = if path.is_some() { ("path", "model") } else { ("model", "path") };
    backend.check_model(&named(model, path)?).map_err(|error| {
        error.with("key", key).with_hint(format!(
            "name the model with `{other}` in place of `{key}`, or choose another backend"
        ))
    })
}

/// Settings of [`ChatJudge`] with the backends that they name, checked.
#[derive(Debug)]
pub struct CheckedChat {
    config: ChatConfig,
    backend: Checked<dyn ModelBackend>,
    writer: Option<Checked<dyn ModelBackend>>,
}

/// Loads the model that a judge's settings name.
async fn load(
    backend: Checked<dyn ModelBackend>,
    model: Option<&str>,
    path: Option<&Path>,
    cx: &BuildContext<'_>,
) -> Result<(Identity, Arc<dyn ModelSession>)> {
    let source = ModelSource::new(cx.model(&named(model, path)?));
    let backend = backend.build(cx).await?;
    let session = backend.load(&source, cx.call()).await?;
    Ok((backend.identity().clone(), session))
}

#[cfg(test)]
mod tests;
