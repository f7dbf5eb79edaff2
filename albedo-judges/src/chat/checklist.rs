//! Rubric `checklist`: which replies fulfil each of some yes-or-no questions.
//!
//! The questions are given in the settings, or a model writes them once for
//! each sample, before any reply is seen; both orders share them, and the record
//! has them. Of written questions those are dropped that nearly repeat another
//! or that quote the recorded reply. A question's tag has a weight; a reply's
//! quality is the weight of what it fulfils over the weight of all.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use albedo_core::{
    CallContext, Comparison, Error, ErrorKind, GenerateRequest, Message, MessageRole, Metric, ModelBackend,
    ModelSession, PluginConfig, Preparation, Prepared, Result, Score,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::parse::{self, Value};
use super::prompt::{Form, Prompt};
use super::{invalid, one_answer, unfinished};
use crate::defence::{Budget, Defence, View};
use crate::quality::graded;

/// Its part of the system message.
pub(super) const INSTRUCTIONS: &str = "\
There is a list of questions, each of which a reply answers with yes or no by what it says and does. A question that \
cannot be answered from the reply and the conversation counts as no. For each question write \"both\" if the answer is \
yes for both replies, \"first\" or \"second\" if it is yes for that one only, and \"neither\" if it is no for both.";

/// The instructions to the writer of the questions.
pub(super) const WRITING: &str = "\
You write questions by which replies of programs that repair software in a terminal session will be judged. You see \
the conversation up to now and one good next reply, which the programs do not see. Write questions that can be \
answered with yes or no by looking at another next reply: what a careful engineer would want it to do, to have \
understood, and to avoid, at exactly this point. A reply that goes another good way must be able to fulfil them, so \
never ask for the wording, the file names or the commands of the good reply. No two questions may ask the same. \
Answer with one JSON object on one line: {\"questions\": [{\"text\": \"…?\", \"tag\": \"…\"}, …]}.";

/// Two questions are nearly the same if their words overlap this much (shared
/// over all), or one's are this much in the other's. The reference system's
/// bounds.
const ALIKE: f64 = 0.75;
const CONTAINED: f64 = 0.90;

/// A question with this many words in a row from the recorded reply that are
/// not in the conversation gives the reply away. Source: chosen by albedo.
const LEAK: usize = 5;

/// Settings of the rubric `checklist`: either `questions` or a `writer`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ChecklistConfig {
    /// The metric that the judge speaks to; `correctness` by default.
    #[serde(default = "correctness")]
    pub metric: Metric,
    /// The same questions for every sample.
    #[serde(default)]
    pub questions: Vec<Item>,
    /// The model that writes the questions, once per sample.
    pub writer: Option<WriterConfig>,
    /// Weight of a tag's questions; 1 for tags that are not named.
    #[serde(default)]
    pub weights: BTreeMap<String, f64>,
}

fn correctness() -> Metric {
    Metric::Correctness
}

/// A yes-or-no question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Item {
    /// The question; yes is the better answer.
    pub text: String,
    /// What it is about; weights go by it.
    #[serde(default)]
    pub tag: String,
}

/// The model that writes checklists.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WriterConfig {
    /// The backend that serves it.
    pub backend: PluginConfig<dyn ModelBackend>,
    /// Name under which the backend serves it.
    pub model: Option<String>,
    /// Folder of a local model, instead of `model`.
    pub path: Option<PathBuf>,
    /// Fewer questions than this are no checklist: the sample has none.
    #[serde(default = "fewest")]
    pub fewest: usize,
    /// Further questions are dropped.
    #[serde(default = "most")]
    pub most: usize,
    /// Its answer is cut after this many tokens.
    #[serde(default = "super::answer_tokens")]
    pub max_answer_tokens: u32,
}

/// The reference system's floor and cap.
fn fewest() -> usize {
    6
}

fn most() -> usize {
    40
}

impl ChecklistConfig {
    pub(super) fn check(&self) -> Result<()> {
        match (&self.questions[..], &self.writer) {
            ([], None) => return Err(invalid("questions", "there are neither `questions` nor a `writer`")),
            ([_, ..], Some(_)) => return Err(invalid("writer", "there are both `questions` and a `writer`")),
            _ => {}
        }
        if let Some(place) = self.questions.iter().position(|item| item.text.trim().is_empty()) {
            return Err(invalid(&format!("questions[{place}].text"), "the question is empty"));
        }
        if let Some((tag, weight)) =
            self.weights.iter().find(|(_, weight)| !(**weight >= 0.0 && weight.is_finite()))
        {
            return Err(invalid(
                &format!("weights.{tag}"),
                format!("the weight is {weight}, it must be 0 or more"),
            ));
        }
        if let Some(writer) = &self.writer {
            super::named(writer.model.as_deref(), writer.path.as_deref())
                .map_err(|error| error.under("writer"))?;
            if writer.fewest == 0 || writer.fewest > writer.most {
                let message =
                    format!("`fewest` is {}, it must be 1 to `most`, {}", writer.fewest, writer.most);
                return Err(invalid("writer.fewest", message));
            }
        } else if self.total(&self.questions) <= 0.0 {
            return Err(invalid("weights", "all questions have weight 0"));
        }
        Ok(())
    }

    fn weight(&self, item: &Item) -> f64 {
        self.weights.get(&item.tag).copied().unwrap_or(1.0)
    }

    fn total(&self, items: &[Item]) -> f64 {
        items.iter().map(|item| self.weight(item)).sum()
    }
}

/// The rubric at work.
#[derive(Debug)]
pub(super) struct Checklist {
    config: ChecklistConfig,
    writer: Option<Arc<dyn ModelSession>>,
}

impl Checklist {
    pub(super) fn new(config: ChecklistConfig, writer: Option<Arc<dyn ModelSession>>) -> Result<Self> {
        if config.writer.is_some() != writer.is_some() {
            return Err(Error::bug("build judge `chat`", "its checklist's writer was not loaded"));
        }
        Ok(Self { config, writer })
    }

    pub(super) fn metric(&self) -> Metric {
        self.config.metric
    }

    pub(super) fn is_written(&self) -> bool {
        self.writer.is_some()
    }

    /// What the judge is asked of `request`.
    pub(super) fn form(&self, request: &Comparison) -> Result<Form> {
        let items = self.items(request)?;
        let lines = items.iter().enumerate().map(|(place, item)| format!("q{}: {}", place + 1, item.text));
        Ok(Form {
            instructions: INSTRUCTIONS,
            questions: Some(lines.collect::<Vec<_>>().join("\n")),
            keys: (1..=items.len()).map(|number| format!("q{number}")).collect(),
            words: &["both", "first", "second", "neither"],
        })
    }

    /// The score of the first reply under `answer`.
    pub(super) fn read(
        &self,
        answer: &str,
        prompt: &Prompt,
        request: &Comparison,
    ) -> Result<BTreeMap<Metric, Score>, String> {
        let items = self.items(request).map_err(|error| error.to_string())?;
        let fields = parse::last_with_nonce(answer, &prompt.nonce)?;
        let (mut first, mut second) = (0.0, 0.0);
        for (key, item) in prompt.form.keys.iter().zip(&items) {
            let value = fields.iter().find(|(name, _)| name.trim().eq_ignore_ascii_case(key));
            let Some((_, Value::Text(word))) = value else { return Err(format!("`{key}` is missing")) };
            let weight = self.config.weight(item);
            let (yes_first, yes_second) = match word.trim().to_ascii_lowercase().as_str() {
                "both" => (weight, weight),
                "first" => (weight, 0.0),
                "second" => (0.0, weight),
                "neither" => (0.0, 0.0),
                _ => return Err(format!("`{key}` has no value that can be read")),
            };
            first += yes_first;
            second += yes_second;
        }
        let total = self.config.total(&items);
        let score = graded(first / total, second / total).map_err(|error| error.to_string())?;
        Ok([(self.metric(), score)].into())
    }

    /// The sample's questions, written by the model and filtered, as JSON.
    pub(super) async fn write(
        &self,
        request: &Preparation,
        budget: Budget,
        cx: &CallContext,
    ) -> Result<Prepared> {
        let operation = "write a checklist";
        let (Some(writer), Some(config)) = (&self.writer, &self.config.writer) else {
            return Err(Error::bug(operation, "no model is configured to write it"));
        };
        let fence = request.fence.short();
        let defence = Defence { budget, fence: fence.clone(), sign: String::new() };
        let user = format!(
            "[[{fence} conversation]]\n{}\n[[{fence} end of conversation]]\n\n[[{fence} good reply]]\n{}\n[[{fence} end of good \
             reply]]\n\nWrite {} to {} questions.",
            defence.conversation(&request.messages),
            defence.reply(&request.reference, View::Whole).text,
            config.fewest,
            config.most,
        );
        let completion = one_answer(
            &**writer,
            GenerateRequest::new(
                vec![Message::new(MessageRole::System, WRITING), Message::new(MessageRole::User, user)],
                config.max_answer_tokens,
            )
            .with_seed(u64::from_le_bytes(std::array::from_fn(|byte| request.fence.as_bytes()[byte]))),
            cx,
        )
        .await?;
        let usage = Some(completion.usage);
        let unusable = |reason: String| Ok(Prepared::Unusable { reason, usage });
        if let Some(why) = unfinished(completion.finish) {
            return unusable(why.to_owned());
        }
        let mut items = written(&completion.text);
        items = without_leaks(items, request);
        items = without_repetitions(items);
        items.truncate(config.most);
        let (usable, fewest) = (items.len(), config.fewest);
        if usable < fewest {
            return unusable(format!(
                "{usable} questions of the checklist can be used, at least {fewest} are needed"
            ));
        }
        if self.config.total(&items) <= 0.0 {
            return unusable("all questions of the checklist have weight 0".into());
        }
        Ok(Prepared::Written { text: json!(items).to_string(), usage })
    }

    fn items(&self, request: &Comparison) -> Result<Vec<Item>> {
        if self.writer.is_none() {
            return Ok(self.config.questions.clone());
        }
        let text = request.preparation.as_deref().unwrap_or_default();
        serde_json::from_str(text)
            .map_err(|error| Error::new(ErrorKind::DataInvalid, "read a checklist", error.to_string()))
    }
}

/// The questions in a writer's answer; what has no text is left out.
fn written(answer: &str) -> Vec<Item> {
    let mut items = Vec::new();
    for value in parse::Objects::new(answer) {
        value.each_object(&mut |fields| {
            let text = |name: &str| {
                fields.iter().find_map(|(key, value)| match value {
                    Value::Text(text) if key == name => Some(text.trim().to_owned()),
                    _ => None,
                })
            };
            if let Some(question) = text("text").filter(|text| !text.is_empty()) {
                items.push(Item { text: question.replace('\n', " "), tag: text("tag").unwrap_or_default() });
            }
        });
    }
    items
}

fn words(text: &str) -> Vec<String> {
    let words = text.split(|c: char| !(c.is_alphanumeric() || c == '_')).filter(|word| !word.is_empty());
    words.map(str::to_lowercase).collect()
}

/// Without those that nearly repeat an earlier one.
fn without_repetitions(items: Vec<Item>) -> Vec<Item> {
    let mut kept: Vec<(Item, BTreeSet<String>)> = Vec::new();
    for item in items {
        let own: BTreeSet<_> = words(&item.text).into_iter().collect();
        let repeats = kept.iter().any(|(_, other)| {
            let shared = own.intersection(other).count() as f64;
            let smaller = own.len().min(other.len()).max(1) as f64;
            shared / own.union(other).count().max(1) as f64 >= ALIKE || shared / smaller >= CONTAINED
        });
        if !repeats && !own.is_empty() {
            kept.push((item, own));
        }
    }
    kept.into_iter().map(|(item, _)| item).collect()
}

/// Without those that quote the recorded reply.
fn without_leaks(mut items: Vec<Item>, request: &Preparation) -> Vec<Item> {
    let runs =
        |text: &str| -> BTreeSet<Vec<String>> { words(text).windows(LEAK).map(<[String]>::to_vec).collect() };
    let mut secret = runs(&request.reference);
    for message in &*request.messages {
        secret.retain({
            let known = runs(&message.content);
            move |run| !known.contains(run)
        });
    }
    items.retain(|item| runs(&item.text).is_disjoint(&secret));
    items
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(text: &str) -> Item {
        Item { text: text.into(), tag: String::new() }
    }

    #[test]
    fn questions_that_repeat_or_leak_are_dropped() {
        let request = Preparation {
            messages: [Message::new(MessageRole::User, "run the tests of the parser module first")].into(),
            reference:
                "I run the tests of the parser module first, then sed -i s/a/b/ pointer.py line twenty".into(),
            fence: albedo_core::Digest::of("x"),
        };
        let items = vec![
            item("Does it run the tests of the parser module first?"),
            item("Does it run the tests of the parser module?"),
            item("Does it use sed i s a b pointer.py?"),
            item("Does it look at the failing line?"),
        ];
        let kept = without_repetitions(without_leaks(items.clone(), &request));
        assert_eq!(kept, [items[0].clone(), items[3].clone()]);
    }

    #[test]
    fn a_writers_answer_is_read_leniently() {
        let answer = "Here: ```json\n{\"questions\": [{\"text\": \"A?\", \"tag\": \"x\"}, {\"tag\": \"y\"}, {\"text\": \" B\\nC? \"}]}\n```";
        let expected = [Item { text: "A?".into(), tag: "x".into() }, item("B C?")];
        assert_eq!(written(answer), expected);
    }
}
