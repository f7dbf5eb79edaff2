//! `process`: a program in any language compares the replies, or screens a submission.
//!
//! The program reads questions from its standard input and writes answers to its
//! standard output, one JSON object per line; what it writes to standard error is kept
//! for error messages. `docs/process-judges.md` has the protocol.
//!
//! Its identity is made of the program's bytes, its arguments, and the bytes of the files
//! that the settings or the arguments name. They are read again whenever it is started
//! again. It inherits no environment but the variables that the settings list.
//!
//! A process answers one question at a time. One that ends, is silent for longer than
//! `timeout_secs`, or writes what nobody asked for is killed, with every process of its
//! group, and started again for the next question. The question is a failed call, which
//! the duel repeats. A program that fails sixteen questions in a row, or three starts,
//! ends the duel with its last words.
//!
//! This plugin is never built from the settings in a record: it is not
//! [`Plugin::OFFLINE`].

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use albedo_core::backend::Usage;
use albedo_core::{
    Assessment, BuildContext, CallContext, CheckContext, Comparison, Digest, Error, ErrorKind, Evidence,
    Identity, Judge, JudgeProfile, Metric, Plugin, Result, Retry,
};
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

mod child;
mod pool;
mod program;
mod protocol;
#[cfg(feature = "screens")]
mod screen;

use pool::{Asked, NoAnswer, Pool};
use program::Program;
use protocol::{Abstention, Answer, Failure, Question, Scored, read_answer};
pub use protocol::{Hello, VERSION};
#[cfg(feature = "screens")]
pub use screen::{ProcessScreen, ProcessScreenConfig, ScreenHello, ScreenedStage};

/// Longest rationale and reason that are kept, in characters. Source: chosen by albedo;
/// a record holds one per answer.
const KEPT: usize = 4000;

/// Settings of [`ProcessJudge`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProcessConfig {
    /// Name on the panel and in the record; `process` by default.
    pub label: Option<String>,
    /// The program, by its name or path, and its arguments. It runs in the folder of the
    /// configuration.
    pub command: Vec<String>,
    /// Files whose bytes are part of the judge, besides the program and the files among
    /// its arguments: modules, prompts, weights.
    #[serde(default)]
    pub files: Vec<PathBuf>,
    /// Environment variables that the program gets, by name. It gets no others.
    #[serde(default)]
    pub env: BTreeSet<String>,
    /// Longest wait for a hello or an answer, in seconds.
    #[serde(default = "timeout_secs")]
    pub timeout_secs: f64,
    /// Most processes at a time. Each answers one question at a time.
    #[serde(default = "parallel")]
    pub parallel: u32,
    /// The metrics that are asked for, of those in the program's hello; all of them by
    /// default.
    pub metrics: Option<BTreeSet<Metric>>,
}

fn timeout_secs() -> f64 {
    60.0
}

fn parallel() -> u32 {
    1
}

/// Most processes of one judge. Source: chosen by albedo; more than any machine has
/// cores for.
const MOST_PARALLEL: u32 = 256;

/// Longest `timeout_secs`: a day.
const LONGEST_SECS: f64 = 86_400.0;

fn invalid(key: &'static str, message: impl Into<String>) -> Error {
    Error::new(ErrorKind::ConfigInvalid, "check the settings of `process`", message).with("key", key)
}

impl ProcessConfig {
    /// The program `command` with its arguments, and the default settings.
    pub fn new(command: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            label: None,
            command: command.into_iter().map(Into::into).collect(),
            files: Vec::new(),
            env: BTreeSet::new(),
            timeout_secs: timeout_secs(),
            parallel: parallel(),
            metrics: None,
        }
    }

    fn check(&self) -> Result<Duration> {
        let limit = check_program(self.label.as_deref(), &self.command, &self.env, self.timeout_secs)?;
        if !(1..=MOST_PARALLEL).contains(&self.parallel) {
            let message = format!("`parallel` is {}, not between 1 and {MOST_PARALLEL}", self.parallel);
            return Err(invalid("parallel", message));
        }
        if self.metrics.as_ref().is_some_and(BTreeSet::is_empty) {
            return Err(invalid("metrics", "`metrics` is empty"));
        }
        Ok(limit)
    }
}

/// Checks what the settings of every role say of a program; its longest wait.
fn check_program(
    label: Option<&str>,
    command: &[String],
    env: &BTreeSet<String>,
    timeout_secs: f64,
) -> Result<Duration> {
    if label.is_some_and(|label| label.trim().is_empty()) {
        return Err(invalid("label", "`label` is empty"));
    }
    if command.first().is_none_or(|program| program.trim().is_empty()) {
        return Err(invalid("command", "`command` names no program"));
    }
    if command.iter().any(|word| word.contains('\0')) {
        return Err(invalid("command", "`command` holds a NUL character"));
    }
    if env.iter().any(|name| !is_variable(name)) {
        let error = invalid("env", "`env` has something that is no name of a variable");
        return Err(error.with_hint("list names; the values come from albedo's own environment"));
    }
    if timeout_secs > 0.0 && timeout_secs <= LONGEST_SECS {
        return Ok(Duration::from_secs_f64(timeout_secs));
    }
    let message = format!("`timeout_secs` is {timeout_secs}, not above 0 and at most {LONGEST_SECS}");
    Err(invalid("timeout_secs", message))
}

fn is_variable(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// What of a program can change an answer.
#[derive(Serialize)]
struct Makings<'a> {
    protocol: u32,
    program: Digest,
    arguments: &'a [String],
    files: &'a BTreeMap<String, Digest>,
    env: &'a BTreeSet<String>,
    metrics: &'a BTreeSet<Metric>,
    hello: &'a Hello,
}

/// A program as a judge; see the [module](self). Dropping it kills its processes.
#[derive(Debug)]
pub struct ProcessJudge {
    identity: Identity,
    metrics: BTreeSet<Metric>,
    pool: Pool<Hello>,
}

impl ProcessJudge {
    /// Starts the program of `config` and waits for its hello. Needs a Tokio runtime with
    /// time and I/O.
    ///
    /// # Errors
    /// The operator's: wrong settings ([`ErrorKind::ConfigInvalid`], naming the key), a
    /// file or variable that is not there, a program that does not start or says no hello
    /// that this build understands.
    pub async fn start(config: &ProcessConfig, cx: &BuildContext<'_>) -> Result<Self> {
        let limit = config.check()?;
        Self::checked(config, limit, cx).await
    }

    async fn checked(config: &ProcessConfig, limit: Duration, cx: &BuildContext<'_>) -> Result<Self> {
        let program = Program::find(&config.command, &config.files, &config.env, cx).await?;
        let pool: Pool<Hello> = Pool::start(program, limit, config.parallel, cx.call()).await?;
        let able = &pool.hello().metrics;
        let metrics = config.metrics.as_ref().unwrap_or(able).clone();
        if let Some(metric) = metrics.difference(able).next() {
            let able: Vec<_> = able.iter().map(|metric| metric.as_str()).collect();
            let error = invalid("metrics", format!("the program does not score `{metric}`"));
            return Err(error.with_hint(format!("its hello names {}", able.join(", "))));
        }
        let program = pool.program();
        let makings = Makings {
            protocol: VERSION,
            program: program.bytes.program,
            arguments: program.arguments(),
            files: &program.bytes.files,
            env: &config.env,
            metrics: &metrics,
            hello: pool.hello(),
        };
        let name = config.label.as_deref().unwrap_or(<Self as Plugin<dyn Judge>>::NAME);
        let identity = Identity::new(name, env!("CARGO_PKG_VERSION"), &makings)?;
        Ok(Self { identity, metrics, pool })
    }

    /// What the program says of itself.
    pub fn hello(&self) -> &Hello {
        self.pool.hello()
    }

    /// Closes the standard input of one process, which then has to end by itself within
    /// `timeout_secs`: a program must not outlive an albedo that was killed.
    ///
    /// # Errors
    /// It goes on, or ends with another status than 0.
    pub async fn check_end(&self, cx: &CallContext) -> Result<()> {
        self.pool.close_one(cx).await
    }
}

#[async_trait]
impl Judge for ProcessJudge {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn profile(&self) -> JudgeProfile {
        let Hello { canaries, reference_scores, .. } = self.pool.hello();
        let profile = JudgeProfile::new(self.metrics.iter().copied());
        let profile = if *canaries { profile.with_canaries() } else { profile };
        if *reference_scores { profile.with_reference_scores() } else { profile }
    }

    async fn compare(&self, request: &Comparison, cx: &CallContext) -> Result<Assessment> {
        let write = |number: u64| line(&Question::compare(number, &self.metrics, request));
        let read = |number: u64, line: &[u8]| -> Result<Answer, NoAnswer> {
            let answer = read_answer(line).map_err(NoAnswer::Unreadable)?;
            if answer.id() != number {
                return Err(NoAnswer::OtherQuestion(answer.id()));
            }
            match &answer {
                Answer::Scores(Scored { scores, .. }) if !scores.keys().eq(&self.metrics) => {
                    let asked: Vec<_> = self.metrics.iter().map(|metric| metric.as_str()).collect();
                    let why = format!("it scores other metrics than it was asked for: {}", asked.join(", "));
                    Err(NoAnswer::Unreadable(why))
                }
                Answer::Scores(Scored { usage: Some(Usage { price_usd: Some(usd), .. }), .. })
                    if *usd < 0.0 =>
                {
                    Err(NoAnswer::Unreadable(format!("its price is {usd} US dollars")))
                }
                _ => Ok(answer),
            }
        };
        match self.pool.ask(write, read, cx).await? {
            Asked::Answered(Answer::Scores(Scored { scores, rationale, usage, .. })) => {
                let rationale = rationale.map(kept);
                Ok(Assessment::Scored { scores, rationale, usage, evidence: None })
            }
            Asked::Answered(Answer::Abstain(Abstention { reason, .. })) => {
                Ok(Assessment::Abstained { reason: kept(reason) })
            }
            Asked::Answered(Answer::Error(Failure { message, retry, .. })) => {
                let retry = if retry { Retry::Backoff } else { Retry::Never };
                let message = format!("the program could not judge: {}", kept(message));
                Err(Error::new(ErrorKind::Unavailable, "compare the replies", message).with_retry(retry))
            }
            Asked::Unreadable { line, reason } => {
                let evidence = Box::new(Evidence { answer: line, ..Evidence::default() });
                Ok(Assessment::Unreadable { reason, usage: None, evidence })
            }
        }
    }
}

impl Plugin<dyn Judge> for ProcessJudge {
    const NAME: &'static str = "process";
    const SUMMARY: &'static str =
        "a program of your own compares the replies, over standard input and output";
    type Config = ProcessConfig;
    type Checked = (ProcessConfig, Duration);

    fn check(config: ProcessConfig, _: &CheckContext<'_>) -> Result<(ProcessConfig, Duration)> {
        let limit = config.check()?;
        Ok((config, limit))
    }

    async fn build(
        (config, limit): (ProcessConfig, Duration),
        cx: &BuildContext<'_>,
    ) -> Result<Arc<dyn Judge>> {
        Ok(Arc::new(Self::checked(&config, limit, cx).await?))
    }
}

albedo_core::register!(dyn Judge => ProcessJudge);

/// `message` as a line.
fn line(message: &impl Serialize) -> Result<Vec<u8>> {
    let mut line = serde_json::to_vec(message)
        .map_err(|error| Error::bug("write a question", error.to_string()).with_source(error))?;
    line.push(b'\n');
    Ok(line)
}

/// `text`, cut to [`KEPT`] characters.
fn kept(mut text: String) -> String {
    if let Some((end, _)) = text.char_indices().nth(KEPT) {
        text.truncate(end);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests;
