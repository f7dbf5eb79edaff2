//! `albedo judge`.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use super::exit::Exit;
use super::output::{print, shown};
use crate::config::DuelConfig;
use crate::order::Order;
use crate::{
    Assessment, BuildContext, CallContext, Candidate, CheckContext, Comparison, Digest, DuelSecret, Error,
    ErrorKind, FinishReason, Judge, JudgementKey, Message, MessageRole, Preparation, Question, Registry,
    Result,
};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Put one pair of replies to a judge, and show what it was asked and what
    /// it answered.
    Try(Try),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Try {
    /// The TOML file whose judge is asked.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Its place in the file, from 0.
    #[arg(long, value_name = "N", default_value_t = 0)]
    judge: usize,
    /// The conversation: JSON, an array of messages with `role` and `content`.
    /// Any other text is one message of the user.
    #[arg(long, value_name = "FILE")]
    conversation: PathBuf,
    /// The reply shown first.
    #[arg(long, value_name = "FILE")]
    first: PathBuf,
    /// The reply shown second.
    #[arg(long, value_name = "FILE")]
    second: PathBuf,
    /// The recorded reply, for judges that compare with it.
    #[arg(long, value_name = "FILE")]
    reference: Option<PathBuf>,
    /// Show what would be asked, and ask nothing.
    #[arg(long)]
    dry_run: bool,
}

pub(crate) async fn run(command: &Command, cx: &CallContext) -> Result<Exit> {
    let Command::Try(arguments) = command;
    let config = DuelConfig::read(&arguments.config)?;
    let registry = Registry::linked()?;
    let named = config.judges.get(arguments.judge).ok_or_else(|| {
        Error::new(ErrorKind::ConfigInvalid, "choose the judge", "the configuration has no such judge")
            .with("judge", arguments.judge)
            .with("judges", config.judges.len())
    })?;
    let key = format!("judges[{}]", arguments.judge);
    let judge = CheckContext::new(&registry).plugin(key, named)?;
    let judge = judge.build(&BuildContext::new(&registry, cx).relative_to(&config.folder)).await?;
    let mut request = comparison(arguments, &config, &*judge)?;
    if judge.profile().preparation && !arguments.dry_run {
        let preparation = Preparation {
            messages: request.messages.clone(),
            reference: request.reference.clone(),
            fence: request.marks.fence,
        };
        let prepared = judge.prepare(&preparation, cx).await?.text;
        print(&section("prepared", &prepared))?;
        request.preparation = Some(prepared.into());
    }
    if request.preparation.is_some() || !judge.profile().preparation {
        for Message { role, content } in judge.prompt(&request)?.unwrap_or_default() {
            print(&section(role.as_str(), &content))?;
        }
    }
    if !arguments.dry_run {
        print(&describe(&judge.compare(&request, cx).await?))?;
    }
    Ok(Exit::Done)
}

fn comparison(arguments: &Try, config: &DuelConfig, judge: &dyn Judge) -> Result<Comparison> {
    let text = |path: &Path| {
        std::fs::read_to_string(path).map_err(|error| Error::io("read the pair of replies", path, error))
    };
    let candidate =
        |path: &Path| -> Result<Candidate> { Ok(Candidate::new(text(path)?, FinishReason::Stop)) };
    let conversation = text(&arguments.conversation)?;
    let messages = serde_json::from_str(&conversation)
        .unwrap_or_else(|_| vec![Message::new(MessageRole::User, conversation)]);
    // The marks of no plan: those of a duel are its own.
    let key = JudgementKey {
        plan: Digest::of("albedo judge try"),
        question: Question::Sample(0),
        judge: judge.identity(),
        order: Order::KingFirst,
    };
    Ok(Comparison::new(
        messages,
        arguments.reference.as_deref().map(text).transpose()?.unwrap_or_default(),
        candidate(&arguments.first)?,
        candidate(&arguments.second)?,
    )
    .with_marks(DuelSecret::new(&config.duel.seed).marks(&key, 1)?))
}

fn section(title: &str, text: &str) -> String {
    format!("── {title}\n{}\n\n", shown(text))
}

fn describe(assessment: &Assessment) -> String {
    let mut text = String::new();
    if let Some(evidence) = assessment.evidence() {
        if let Some(reasoning) = &evidence.reasoning {
            text += &section("reasoning, which is not read", reasoning);
        }
        text += &section("answer", &evidence.answer);
        for (place, altered) in [("first", &evidence.first), ("second", &evidence.second)] {
            for alteration in altered {
                // Writing to a string cannot fail.
                let _ =
                    writeln!(text, "altered in the {place}: {}, {} times", alteration.what, alteration.count);
            }
        }
    }
    match assessment {
        Assessment::Scored { scores, rationale, usage, .. } => {
            for (metric, score) in scores {
                let _ = writeln!(text, "{metric:<12}{:.3} for the first", score.value());
            }
            if let Some(rationale) = rationale {
                let _ = writeln!(text, "{}", shown(rationale));
            }
            if let Some(usage) = usage {
                let count = |tokens: Option<u32>| {
                    tokens.map_or("an unknown number of".into(), |tokens| tokens.to_string())
                };
                let (read, written) = (count(usage.prompt_tokens), count(usage.completion_tokens));
                let _ = write!(text, "{read} tokens read, {written} written");
                let _ = match usage.price_usd {
                    Some(price) => writeln!(text, ", ${price:.6}"),
                    None => writeln!(text),
                };
            }
        }
        Assessment::Abstained { reason } => {
            let _ = writeln!(text, "abstained: {}", shown(reason));
        }
        Assessment::Unreadable { reason, .. } => {
            let _ = writeln!(text, "unreadable: {}", shown(reason));
        }
        other => {
            let _ = writeln!(text, "{}", shown(&format!("{other:?}")));
        }
    }
    text
}
