//! Prompts that nobody can compute in advance, and the replies to them.

use std::sync::Arc;

use albedo_core::registry::Checked;
use albedo_core::rng::{Stream, Use, derive_seed};
use albedo_core::{
    BuildContext, CallContext, CheckContext, Completion, Error, ErrorKind, Fault, GenerateRequest, Message,
    MessageRole, ModelSession, PluginConfig, Result, Sampling, TaskSource,
};
use futures::StreamExt;
use serde::Serialize;
use serde_json::{Value, json};

use super::evidence::{Reasons, to_value};

/// Where prompts come from.
#[derive(Debug, Clone)]
pub(crate) enum Prompts {
    /// Repair tasks that are put together from small lists.
    BuiltIn,
    /// The conversations of a task source.
    Tasks(Arc<dyn TaskSource>),
}

/// Checks the setting `tasks` of a behaviour screen.
pub(crate) fn check_tasks(
    tasks: Option<&PluginConfig<dyn TaskSource>>,
    cx: &CheckContext<'_>,
) -> Result<Option<Checked<dyn TaskSource>>> {
    tasks.map(|tasks| cx.plugin("tasks", tasks)).transpose()
}

/// A conversation to probe with: the model answers where the assistant's turns
/// are, and reads the user's and the tools'.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Conversation {
    /// The messages up to the first reply.
    pub(crate) opening: Vec<Message>,
    /// What the user and tools say after each reply.
    pub(crate) answers: Vec<Vec<Message>>,
}

impl Prompts {
    pub(crate) async fn build(tasks: Option<Checked<dyn TaskSource>>, cx: &BuildContext<'_>) -> Result<Self> {
        match tasks {
            None => Ok(Self::BuiltIn),
            Some(tasks) => tasks.build(cx).await.map(Self::Tasks),
        }
    }

    /// `config` of a screen with the tasks in the place of their settings, which
    /// name a path.
    ///
    /// # Errors
    /// None that a caller could cause.
    pub(crate) fn identified(&self, config: &impl Serialize) -> Result<Value> {
        let mut settings = to_value(config)?;
        settings["tasks"] = match self {
            Self::BuiltIn => Value::Null,
            Self::Tasks(tasks) => json!({ "manifest": tasks.info().manifest, "rows": tasks.info().rows }),
        };
        Ok(settings)
    }

    /// `count` conversations that follow from `seed` and `domain`.
    ///
    /// # Errors
    /// The task source's.
    pub(crate) async fn draw(
        &self,
        domain: &str,
        seed: u64,
        count: u32,
        cx: &CallContext,
    ) -> Result<Vec<Conversation>> {
        let mut stream = Stream::new(derive_seed(domain, &[&seed.to_le_bytes()]), Use::RowDraw);
        let mut drawn = Vec::new();
        // A row without an assistant's turn is drawn again, but not for ever.
        for _ in 0..100 * u64::from(count) {
            if drawn.len() == count as usize {
                break;
            }
            match self {
                Self::BuiltIn => drawn.push(built_in(&mut stream)),
                Self::Tasks(tasks) => {
                    let row = tasks.row(stream.below(tasks.info().rows), cx).await?;
                    drawn.extend(Conversation::of(&row.messages));
                }
            }
        }
        if drawn.len() < count as usize {
            let message = "the task source has hardly a row with an assistant's turn";
            return Err(
                Error::new(ErrorKind::DataInvalid, "draw probes", message).with_fault(Fault::Operator)
            );
        }
        Ok(drawn)
    }
}

impl Conversation {
    fn of(messages: &[Message]) -> Option<Self> {
        let is_reply = |message: &Message| message.role == MessageRole::Assistant;
        let is_answer = |message: &&Message| matches!(message.role, MessageRole::User | MessageRole::Tool);
        let first = messages.iter().position(is_reply)?;
        let turns = messages[first..].split(is_reply);
        let answers = turns.map(|turn| turn.iter().filter(is_answer).cloned().collect::<Vec<_>>());
        let answers = answers.filter(|answer| !answer.is_empty());
        (first > 0).then(|| Self { opening: messages[..first].to_vec(), answers: answers.collect() })
    }
}

/// How far conversations went. A screen judges those with as many replies as it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Played {
    /// Conversations in all.
    pub(crate) conversations: usize,
    /// Those of which the model was asked anything.
    pub(crate) asked: usize,
    /// Those with as many replies as the screen needs.
    pub(crate) judged: usize,
    /// Replies of all conversations.
    pub(crate) replies: usize,
    /// Replies that the screen needs of a conversation.
    #[serde(skip)]
    needed: usize,
}

impl Played {
    /// How far `spoken` went, the replies of each conversation, where a screen needs `needed`.
    pub(crate) fn of(spoken: &[Vec<Completion>], needed: usize) -> Self {
        let with = |least: usize| spoken.iter().filter(|replies| replies.len() >= least).count();
        Self {
            conversations: spoken.len(),
            asked: with(1),
            judged: with(needed),
            replies: spoken.iter().map(Vec::len).sum(),
            needed,
        }
    }

    /// Says so if fewer than half of the conversations can be judged. That is the operator's to
    /// mend, and the same at every try: `Unverified` would hold up an honest submission for ever.
    pub(crate) fn tell(self, reasons: &mut Reasons) {
        let Self { conversations, asked, judged, needed, .. } = self;
        if 2 * judged < conversations {
            let reason = format!(
                "{judged} of {conversations} conversations came to {needed} replies, and {asked} to one: take \
                 tasks of more turns, or a smaller `max_new_tokens`, where the context is too short for both"
            );
            reasons.flag("not-compared", reason);
        }
    }
}

/// The replies to `requests`, all of them, in order.
///
/// # Errors
/// The first that failed: what has no answer is unverified.
pub(crate) async fn replies(
    session: &dyn ModelSession,
    requests: Vec<GenerateRequest>,
    cx: &CallContext,
) -> Result<Vec<Completion>> {
    const OPERATION: &str = "ask the model";
    let count = requests.len();
    let mut answers: Vec<Option<Completion>> = vec![None; count];
    let mut stream = session.generate(requests, cx);
    while let Some(generated) = cx.run(OPERATION, stream.next()).await? {
        if let Some(answer) = answers.get_mut(generated.index) {
            *answer = Some(generated.result?);
        }
    }
    let answers: Option<Vec<_>> = answers.into_iter().collect();
    answers.ok_or_else(|| {
        Error::new(ErrorKind::Protocol, OPERATION, "the backend left a request without an answer")
    })
}

/// One request for each of `conversations`.
pub(crate) fn requests<'a>(
    conversations: impl Iterator<Item = &'a [Message]>,
    sampling: Sampling,
    max_new_tokens: u32,
    seed: u64,
) -> Vec<GenerateRequest> {
    conversations
        .enumerate()
        .map(|(index, messages)| {
            GenerateRequest::new(messages.to_vec(), max_new_tokens)
                .with_sampling(sampling)
                .with_seed(derive_seed("probe", &[&seed.to_le_bytes(), &(index as u64).to_le_bytes()]))
        })
        .collect()
}

/// Plays `conversations` for `turns` replies each, the model's own replies
/// going into its context; a conversation whose recorded answers end early
/// ends there. Gives each conversation's replies.
pub(crate) async fn dialogues(
    session: &dyn ModelSession,
    conversations: &[Conversation],
    turns: u32,
    max_new_tokens: u32,
    seed: u64,
    cx: &CallContext,
) -> Result<Vec<Vec<Completion>>> {
    let mut contexts: Vec<_> =
        conversations.iter().map(|conversation| conversation.opening.clone()).collect();
    let mut spoken: Vec<Vec<Completion>> = vec![Vec::new(); conversations.len()];
    let room = session.model().context_length.saturating_sub(max_new_tokens);
    for turn in 0..turns as usize {
        let mut asked = Vec::new();
        for (index, conversation) in conversations.iter().enumerate() {
            if turn > 0 {
                let Some(answer) = conversation.answers.get(turn - 1) else { continue };
                let Some(reply) = spoken[index].get(turn - 1) else { continue };
                contexts[index].push(Message::new(MessageRole::Assistant, reply.text.clone()));
                contexts[index].extend_from_slice(answer);
            }
            if session.count_prompt_tokens(&contexts[index])?.is_none_or(|tokens| tokens <= room) {
                asked.push(index);
            }
        }
        let requests = requests(
            asked.iter().map(|&index| contexts[index].as_slice()),
            Sampling::default(),
            max_new_tokens,
            derive_seed("turn", &[&seed.to_le_bytes(), &turn.to_le_bytes()]),
        );
        let answers = replies(session, requests, cx).await?;
        for (index, answer) in asked.into_iter().zip(answers) {
            spoken[index].push(answer);
        }
    }
    Ok(spoken)
}

fn built_in(stream: &mut Stream) -> Conversation {
    const SUBJECTS: [&str; 12] = [
        "an interval set",
        "a CSV reader",
        "a retry loop",
        "a date parser",
        "a priority queue",
        "a text wrapper",
        "a rational number type",
        "a config loader",
        "a rate limiter",
        "a graph search",
        "a cache",
        "a tokenizer",
    ];
    const SYMPTOMS: [&str; 8] = [
        "returns one element too many",
        "raises KeyError for an empty input",
        "drops the last line",
        "compares with the wrong bound",
        "never returns None",
        "loses the sign",
        "ignores its second argument",
        "mutates its input",
    ];
    let mut pick = |words: &[&'static str]| words[stream.below(words.len() as u64) as usize];
    let (subject, symptom) = (pick(&SUBJECTS), pick(&SYMPTOMS));
    let number = stream.below(10_000);
    let opening = vec![
        Message::new(
            MessageRole::System,
            "You repair small Python projects. Answer every turn with a line that starts with THOUGHT: and then \
             exactly one bash block; the block is executed and you are shown its return code and output.",
        ),
        Message::new(
            MessageRole::User,
            format!(
                "Ticket {number}: {subject} {symptom}. The code is in `lib_{number}.py`, its tests in \
                     `test_lib_{number}.py`. Find the fault and repair it."
            ),
        ),
    ];
    let answer = |output: String| {
        let text = format!("<returncode>0</returncode>\n<output>\n{output}</output>");
        vec![Message::new(MessageRole::User, text)]
    };
    let answers = (0..16).map(|turn| match stream.below(3) {
        0 => answer(format!("lib_{number}.py\ntest_lib_{number}.py\n")),
        1 => answer(format!("lib_{number}.py:{}:    return items[{turn}:]\n", 10 + stream.below(80))),
        _ => answer(String::new()),
    });
    Conversation { opening, answers: answers.collect() }
}

/// Checks the numbers that the behaviour screens share.
pub(crate) fn check_numbers(screen: &str, numbers: &[(&'static str, u32)]) -> Result<()> {
    match numbers.iter().find(|(_, number)| *number == 0) {
        None => Ok(()),
        Some((key, _)) => Err(Error::new(
            ErrorKind::ConfigInvalid,
            format!("check the settings of screen `{screen}`"),
            format!("{key} is 0"),
        )
        .with("key", key)),
    }
}

/// Checks the setting `turns`: with fewer than `least`, no conversation could be judged.
pub(crate) fn check_turns(screen: &str, turns: u32, least: usize) -> Result<()> {
    if turns as usize >= least {
        return Ok(());
    }
    let operation = format!("check the settings of screen `{screen}`");
    let message = format!("it is {turns}, and conversations of fewer than {least} replies tell nothing");
    let hint = format!("set `turns` to {least} or more");
    Err(Error::new(ErrorKind::ConfigInvalid, operation, message).with("key", "turns").with_hint(hint))
}

/// Checks a share of replies.
pub(crate) fn check_share(screen: &str, key: &'static str, share: f64) -> Result<()> {
    if share > 0.0 && share <= 1.0 {
        return Ok(());
    }
    let operation = format!("check the settings of screen `{screen}`");
    let message = format!("{key} is {share}, not above 0 and at most 1");
    Err(Error::new(ErrorKind::ConfigInvalid, operation, message).with("key", key))
}

#[cfg(test)]
mod tests;
