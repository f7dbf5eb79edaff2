//! A program as a screen: of a submission's files, or of what the loaded model says.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use albedo_core::rng::derive_seed;
use albedo_core::{
    BehaviourScreen, BuildContext, CallContext, CheckContext, Digest, Error, ErrorKind, FileEntry,
    FilesScreen, Finding, FinishReason, GenerateRequest, Identity, Message, ModelFiles, ModelSession, Plugin,
    Result, Retry, Sampling, Screen, ScreenPart,
};
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::pool::{Asked, NoAnswer, Pool};
use super::program::Program;
use super::protocol::{Failure, Greeting, NoHello, VERSION, check_hello};
use super::{check_program, kept, line, timeout_secs};
use crate::screens::probes::replies as answers_of;

const OPERATION: &str = "screen with a program";

/// Endings of the files whose texts a program is shown.
const TEXTS: [&str; 4] = [".json", ".jinja", ".txt", ".md"];

/// Most bytes of a file that is shown, and of all of them. Source: chosen by albedo; a
/// tokenizer is not shown, a configuration and a chat template are.
const MOST_TEXT: u64 = 256 << 10;
const MOST_TEXTS: u64 = 1 << 20;

/// Most conversations, and most tokens of a reply, that a program may ask for. Source:
/// chosen by albedo; they are generated during admission.
const MOST_CONVERSATIONS: usize = 64;
const MOST_TOKENS: u32 = 4096;

/// Most bytes of evidence: it goes into every record of the submission. Source: chosen by
/// albedo.
const MOST_EVIDENCE: usize = 64 << 10;

/// Settings of [`ProcessScreen`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProcessScreenConfig {
    /// Name in the admission and in the record; `process` by default.
    pub label: Option<String>,
    /// The program, by its name or path, and its arguments. It runs in the folder of the
    /// configuration.
    pub command: Vec<String>,
    /// Files whose bytes are part of the screen, besides the program and the files among
    /// its arguments.
    #[serde(default)]
    pub files: Vec<PathBuf>,
    /// Environment variables that the program gets, by name. It gets no others.
    #[serde(default)]
    pub env: BTreeSet<String>,
    /// Longest wait for a hello or an answer, in seconds.
    #[serde(default = "timeout_secs")]
    pub timeout_secs: f64,
}

impl ProcessScreenConfig {
    /// The program `command` with its arguments, and the default settings.
    pub fn new(command: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            label: None,
            command: command.into_iter().map(Into::into).collect(),
            files: Vec::new(),
            env: BTreeSet::new(),
            timeout_secs: timeout_secs(),
        }
    }

    fn check(&self) -> Result<Duration> {
        check_program(self.label.as_deref(), &self.command, &self.env, self.timeout_secs)
    }
}

/// What a program looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScreenedStage {
    /// The files of the submission and of the king: their list, and the small texts.
    Files,
    /// What the loaded submission answers to conversations of the program's choice.
    Behaviour,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ScreenRole {
    Screen,
}

/// The first line of a program that screens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScreenHello {
    protocol: u32,
    role: ScreenRole,
    /// What the program calls itself.
    pub name: String,
    /// The version of what it finds.
    pub version: String,
    /// What it looks at.
    pub stage: ScreenedStage,
}

impl Greeting for ScreenHello {
    fn read(line: &[u8]) -> Result<Self, NoHello> {
        check_hello(line)?;
        /// The tag is taken off before the fields are read.
        #[derive(Deserialize)]
        #[serde(tag = "type", rename_all = "snake_case")]
        enum Tagged {
            Hello(ScreenHello),
        }
        let read = serde_json::from_slice(line);
        let Tagged::Hello(hello) = read.map_err(|error| NoHello::Unreadable(error.to_string()))?;
        if hello.name.trim().is_empty() {
            return Err(NoHello::Unreadable("its `name` is empty".into()));
        }
        Ok(hello)
    }
}

/// What albedo writes.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Question<'a> {
    /// Files to look at.
    Inspect { id: u64, submission: &'a Seen, king: &'a Seen },
    /// Which conversations is the model to answer?
    Probe { id: u64, seed: String },
    /// What it answered.
    Replies { id: u64, seed: String, conversations: &'a [Conversation], replies: &'a [Reply] },
}

/// The files of a model as a program sees them.
#[derive(Debug, Serialize)]
struct Seen {
    files: Vec<FileEntry>,
    texts: BTreeMap<String, String>,
}

/// A conversation that a program wants answered.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Conversation {
    messages: Vec<Message>,
    max_new_tokens: u32,
    #[serde(default)]
    temperature: f64,
}

#[derive(Debug, Serialize)]
struct Reply {
    text: String,
    finish: FinishReason,
}

/// What a program writes after its hello: one line per question.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Answer {
    Ask(Ask),
    Finding(Found),
    Error(Failure),
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ask {
    id: u64,
    conversations: Vec<Conversation>,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Found {
    id: u64,
    finding: Word,
    #[serde(default)]
    evidence: Value,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Word {
    Clear,
    Flagged,
    Rejected,
}

impl Answer {
    fn id(&self) -> u64 {
        match self {
            Self::Ask(Ask { id, .. }) | Self::Finding(Found { id, .. }) | Self::Error(Failure { id, .. }) => {
                *id
            }
        }
    }
}

/// What of a program can change a finding.
#[derive(Serialize)]
struct Makings<'a> {
    protocol: u32,
    program: Digest,
    arguments: &'a [String],
    files: &'a BTreeMap<String, Digest>,
    env: &'a BTreeSet<String>,
    hello: &'a ScreenHello,
}

/// A program as a screen; see the [module](super). Dropping it kills its process.
#[derive(Debug)]
pub struct ProcessScreen {
    identity: Identity,
    pool: Pool<ScreenHello>,
}

impl ProcessScreen {
    /// Starts the program of `config` and waits for its hello. Needs a Tokio runtime with
    /// time and I/O.
    ///
    /// # Errors
    /// The operator's: wrong settings ([`ErrorKind::ConfigInvalid`], naming the key), a
    /// file or variable that is not there, a program that does not start or says no hello
    /// that this build understands.
    pub async fn start(config: &ProcessScreenConfig, cx: &BuildContext<'_>) -> Result<Self> {
        let limit = config.check()?;
        Self::checked(config, limit, cx).await
    }

    async fn checked(config: &ProcessScreenConfig, limit: Duration, cx: &BuildContext<'_>) -> Result<Self> {
        let program = Program::find(&config.command, &config.files, &config.env, cx).await?;
        let pool: Pool<ScreenHello> = Pool::start(program, limit, 1, cx.call()).await?;
        let program = pool.program();
        let makings = Makings {
            protocol: VERSION,
            program: program.bytes.program,
            arguments: program.arguments(),
            files: &program.bytes.files,
            env: &config.env,
            hello: pool.hello(),
        };
        let name = config.label.as_deref().unwrap_or(<Self as Plugin<dyn Screen>>::NAME);
        let identity = Identity::new(name, env!("CARGO_PKG_VERSION"), &makings)?;
        Ok(Self { identity, pool })
    }

    /// What the program says of itself.
    pub fn hello(&self) -> &ScreenHello {
        self.pool.hello()
    }

    /// Closes the standard input of the process, which then has to end by itself within
    /// `timeout_secs`.
    ///
    /// # Errors
    /// It goes on, or ends with another status than 0.
    pub async fn check_end(&self, cx: &CallContext) -> Result<()> {
        self.pool.close_one(cx).await
    }

    /// The answer to a question. What the program could not find out is an error.
    async fn ask<'a>(&self, question: impl Fn(u64) -> Question<'a>, cx: &CallContext) -> Result<Answer> {
        let write = |number: u64| line(&question(number));
        let read = |number: u64, line: &[u8]| -> Result<Answer, NoAnswer> {
            let answer: Answer =
                serde_json::from_slice(line).map_err(|error| NoAnswer::Unreadable(error.to_string()))?;
            if answer.id() == number { Ok(answer) } else { Err(NoAnswer::OtherQuestion(answer.id())) }
        };
        match self.pool.ask(write, read, cx).await? {
            Asked::Answered(Answer::Error(Failure { message, retry, .. })) => {
                let retry = if retry { Retry::Backoff } else { Retry::Never };
                let message = format!("the program could not find out: {}", kept(message));
                Err(Error::new(ErrorKind::Unavailable, OPERATION, message).with_retry(retry))
            }
            Asked::Answered(answer) => Ok(answer),
            Asked::Unreadable { line, reason } => {
                Err(protocol(format!("its line is no answer: {reason}")).with("line", line))
            }
        }
    }
}

fn protocol(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Protocol, OPERATION, message).with_hint(
        "`albedo judge conform --screen CMD…` checks a program; docs/process-screens.md has the protocol",
    )
}

/// The finding that `answer` is.
fn finding(answer: Answer) -> Result<Finding> {
    let Answer::Finding(Found { finding, evidence, .. }) = answer else {
        return Err(protocol("it asks for replies where a finding is due"));
    };
    let bytes = serde_json::to_vec(&evidence).map_or(usize::MAX, |bytes| bytes.len());
    if bytes > MOST_EVIDENCE {
        return Err(protocol("its evidence is too long").with("bytes", bytes).with("most", MOST_EVIDENCE));
    }
    Ok(match finding {
        Word::Clear => Finding::Clear(evidence),
        Word::Flagged => Finding::Flagged(evidence),
        Word::Rejected => Finding::Rejected(evidence),
    })
}

/// What a program is shown of `model`.
async fn seen(model: &dyn ModelFiles, cx: &CallContext) -> Result<Seen> {
    let files = model.list(cx).await?;
    let (mut texts, mut left) = (BTreeMap::new(), MOST_TEXTS);
    for FileEntry { name, size, special, .. } in &files {
        let is_text = TEXTS.iter().any(|ending| name.ends_with(ending));
        if !is_text || special.is_some() || *size > MOST_TEXT.min(left) {
            continue;
        }
        let bytes = model.read(name, 0..*size, cx).await?;
        if let Ok(text) = String::from_utf8(bytes) {
            left -= size;
            texts.insert(name.clone(), text);
        }
    }
    Ok(Seen { files, texts })
}

/// Refuses conversations that no session is asked to answer.
fn check(conversations: &[Conversation]) -> Result<()> {
    if !(1..=MOST_CONVERSATIONS).contains(&conversations.len()) {
        let message = format!("it asks for {} conversations", conversations.len());
        return Err(protocol(message).with("most", MOST_CONVERSATIONS));
    }
    for Conversation { messages, max_new_tokens, temperature } in conversations {
        if messages.is_empty() {
            return Err(protocol("it asks about a conversation without a message"));
        }
        if !(1..=MOST_TOKENS).contains(max_new_tokens) {
            return Err(protocol(format!("it asks for {max_new_tokens} tokens")).with("most", MOST_TOKENS));
        }
        if !(0.0..=2.0).contains(temperature) {
            return Err(protocol(format!("it asks for temperature {temperature}, not between 0 and 2")));
        }
    }
    Ok(())
}

impl Screen for ProcessScreen {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn part(&self) -> ScreenPart<'_> {
        match self.pool.hello().stage {
            ScreenedStage::Files => ScreenPart::Files(self),
            ScreenedStage::Behaviour => ScreenPart::Behaviour(self),
        }
    }
}

#[async_trait]
impl FilesScreen for ProcessScreen {
    async fn inspect(
        &self,
        submission: &dyn ModelFiles,
        king: &dyn ModelFiles,
        cx: &CallContext,
    ) -> Result<Finding> {
        let (submission, king) = (seen(submission, cx).await?, seen(king, cx).await?);
        let question = |id| Question::Inspect { id, submission: &submission, king: &king };
        finding(self.ask(question, cx).await?)
    }
}

#[async_trait]
impl BehaviourScreen for ProcessScreen {
    async fn inspect(&self, session: &dyn ModelSession, seed: u64, cx: &CallContext) -> Result<Finding> {
        // A text: some languages cannot hold every whole number of 64 bits.
        let text = || seed.to_string();
        let answer = self.ask(|id| Question::Probe { id, seed: text() }, cx).await?;
        let Answer::Ask(Ask { conversations, .. }) = answer else {
            return Err(protocol("it comes to a finding before the model was asked"));
        };
        check(&conversations)?;
        let requests = (0_u64..).zip(&conversations).map(|(index, conversation)| {
            let Conversation { messages, max_new_tokens, temperature } = conversation;
            GenerateRequest::new(messages.clone(), *max_new_tokens)
                .with_sampling(Sampling { temperature: *temperature, ..Sampling::default() })
                .with_seed(derive_seed("process-screen", &[&seed.to_le_bytes(), &index.to_le_bytes()]))
        });
        let answers = answers_of(session, requests.collect(), cx).await?;
        let reply = |answer: albedo_core::Completion| Reply { text: answer.text, finish: answer.finish };
        let replies: Vec<_> = answers.into_iter().map(reply).collect();
        let question =
            |id| Question::Replies { id, seed: text(), conversations: &conversations, replies: &replies };
        finding(self.ask(question, cx).await?)
    }
}

impl Plugin<dyn Screen> for ProcessScreen {
    const NAME: &'static str = "process";
    const SUMMARY: &'static str =
        "a program of your own looks at files or replies, over standard input and output";
    type Config = ProcessScreenConfig;
    type Checked = (ProcessScreenConfig, Duration);

    fn check(config: ProcessScreenConfig, _: &CheckContext<'_>) -> Result<(ProcessScreenConfig, Duration)> {
        let limit = config.check()?;
        Ok((config, limit))
    }

    async fn build(
        (config, limit): (ProcessScreenConfig, Duration),
        cx: &BuildContext<'_>,
    ) -> Result<Arc<dyn Screen>> {
        Ok(Arc::new(Self::checked(&config, limit, cx).await?))
    }
}

albedo_core::register!(dyn Screen => ProcessScreen);

#[cfg(test)]
mod tests;
