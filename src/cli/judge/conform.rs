//! `albedo judge conform`: whether a program is a judge, or a screen.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;

use crate::cli::exit::Exit;
use crate::cli::output::{print, shown};
use crate::conformance::{JudgeFixture, Violation, check_judge};
use crate::judges::process::{Hello, ProcessConfig, ProcessJudge};
use crate::report::Look;
use crate::{
    Assessment, BuildContext, CallContext, Candidate, Comparison, Error, ErrorKind, FinishReason, Identity,
    Judge, JudgeProfile, Message, MessageRole, Registry, Result, TokenScores,
};

#[cfg(feature = "screens")]
mod screens;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The program screens submissions, and judges none.
    #[cfg(feature = "screens")]
    #[arg(long, conflicts_with_all = ["varies", "prefers_a_place"])]
    screen: bool,
    /// Name of an environment variable that the program gets, once for each; it gets no
    /// others.
    #[arg(long = "env", value_name = "NAME")]
    env: Vec<String>,
    /// Longest wait for a hello or an answer, in seconds.
    #[arg(long, value_name = "SECS", default_value_t = 60.0)]
    timeout_secs: f64,
    /// The program may answer the same question differently, as one that samples does.
    #[arg(long)]
    varies: bool,
    /// The program may prefer the first or the second reply whatever they say.
    #[arg(long)]
    prefers_a_place: bool,
    /// The program and its arguments, as in the setting `command`.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "CMD")]
    command: Vec<String>,
}

pub(crate) async fn run(arguments: &Arguments, cx: &CallContext) -> Result<Exit> {
    #[cfg(feature = "screens")]
    if arguments.screen {
        return screens::run(arguments, cx).await;
    }
    let config = ProcessConfig {
        env: arguments.env.iter().cloned().collect(),
        timeout_secs: arguments.timeout_secs,
        // The suite asks two questions at a time.
        parallel: 2,
        ..ProcessConfig::new(arguments.command.clone())
    };
    let registry = Registry::empty();
    let build = BuildContext::new(&registry, cx);
    let judge = match ProcessJudge::start(&config, &build).await {
        Ok(judge) => Counted { judge, asked: AtomicUsize::new(0) },
        // A program that speaks is at fault for what it says; the rest is the caller's.
        Err(error) if error.kind() == ErrorKind::Protocol => {
            report("starts with a hello", Some(&error.to_string()))?;
            return Ok(Exit::Found);
        }
        Err(error) => return Err(error),
    };
    let Hello { name, version, metrics, .. } = judge.judge.hello();
    let metrics: Vec<_> = metrics.iter().map(|metric| metric.as_str()).collect();
    report(&format!("starts with a hello: {name} {version}, {}", metrics.join(", ")), None)?;

    let profile = judge.profile();
    let fixture = JudgeFixture {
        deterministic: !arguments.varies,
        symmetric: !arguments.prefers_a_place,
        // Two questions may wait for one process each, and start it first.
        patience: Duration::from_secs_f64(arguments.timeout_secs) * 4,
        ..JudgeFixture::new(comparisons(&profile))
    };
    let checked = cx.run("check the judge", check_judge(&judge, &fixture)).await?;
    let kept = checked.is_ok();
    match checked {
        Ok(()) => {
            let asked = judge.asked.load(Ordering::Relaxed);
            report(&format!("keeps the promises of a judge, asked {asked} times"), None)?;
        }
        Err(violation) => report(violation.promise(), Some(&found(&violation, arguments)))?,
    }
    let ended = judge.judge.check_end(cx).await;
    let ends = ended.is_ok();
    let why = ended.err().map(|error| error.to_string());
    report("ends when its standard input ends", why.as_deref())?;
    Ok(if kept && ends { Exit::Done } else { Exit::Found })
}

/// What was found in place of a promise, and the option that takes the promise back.
fn found(violation: &Violation, arguments: &Arguments) -> String {
    let option = match violation.promise() {
        "the same question has the same answer" if !arguments.varies => "; `--varies` if it is meant to",
        "scores are mirrored when the replies change places" | "a reply ties with itself"
            if !arguments.prefers_a_place =>
        {
            "; `--prefers-a-place` if it cannot help it"
        }
        _ => "",
    };
    format!("found {}{option}", violation.found())
}

/// Prints whether a promise is kept, and why it is not.
fn report(promise: &str, why: Option<&str>) -> Result<()> {
    let look = Look::of_stdout();
    let mark = if why.is_none() { look.good("ok") } else { look.bad("failed") };
    let mut text = look.hanging(&mark, 8, &shown(promise));
    if let Some(why) = why {
        text += &look.hanging("", 8, &shown(why));
    }
    print(&text)
}

/// The judge, with its answers counted, for which a line that cannot be read is no
/// answer.
#[derive(Debug)]
struct Counted {
    judge: ProcessJudge,
    asked: AtomicUsize,
}

#[async_trait]
impl Judge for Counted {
    fn identity(&self) -> &Identity {
        self.judge.identity()
    }

    fn profile(&self) -> JudgeProfile {
        self.judge.profile()
    }

    async fn compare(&self, request: &Comparison, cx: &CallContext) -> Result<Assessment> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        match self.judge.compare(request, cx).await? {
            Assessment::Unreadable { reason, evidence, .. } => {
                let message = format!("the line is no answer: {reason}");
                Err(Error::new(ErrorKind::Protocol, "read the answer", message).with("line", evidence.answer))
            }
            assessment => Ok(assessment),
        }
    }
}

/// Pairs of replies as a duel has them.
fn comparisons(profile: &JudgeProfile) -> Vec<Comparison> {
    const LIST: &str = "THOUGHT: I list the files first.\n\n```bash\nls\n```";
    const SEARCH: &str =
        "THOUGHT: I look for the function that fails.\n\n```bash\ngrep -n 'def join' pointer.py\n```";
    const EDIT: &str =
        "THOUGHT: The arguments are swapped.\n\n```bash\nsed -i '20s/a, b/b, a/' pointer.py\n```";
    const TALK: &str = "Sure! I would be happy to help you with that.";
    let messages = [
        (MessageRole::System, "You repair small projects. Answer with a thought and one bash block."),
        (MessageRole::User, "test_join of test_pointer.py fails. Repair `join` in pointer.py."),
        (MessageRole::Assistant, LIST),
        (MessageRole::User, "<returncode>0</returncode>\n<output>\npointer.py\ntest_pointer.py\n</output>"),
    ];
    let messages: Vec<_> = messages.map(|(role, content)| Message::new(role, content)).into();
    let candidate = |text: &str, log_prob| {
        let scores = profile.reference_scores.then(|| TokenScores { log_probs: vec![log_prob; 12] });
        Candidate::new(text, FinishReason::Stop).with_reference_scores(scores)
    };
    [[SEARCH, EDIT], [EDIT, TALK], [LIST, SEARCH], [TALK, TALK]]
        .map(|[first, second]| {
            Comparison::new(messages.clone(), SEARCH, candidate(first, -0.5), candidate(second, -0.75))
        })
        .into()
}
