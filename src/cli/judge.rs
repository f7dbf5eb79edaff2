//! `albedo judge`.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use super::backend::setting;
use super::exit::Exit;
use super::output::{note, print, print_json, shown};
use crate::config::{DuelConfig, PluginConfig, label};
use crate::order::Order;
use crate::registry::nearest;
use crate::{
    Assessment, BuildContext, CallContext, Candidate, CheckContext, Comparison, Digest, DuelSecret, Error,
    ErrorKind, Fault, FinishReason, Judge, JudgementKey, Message, MessageRole, Preparation, Question,
    Registry, Result,
};

#[cfg(all(feature = "judges", unix))]
mod conform;
mod eval;

/// What `albedo judge --help` ends with.
pub(crate) const ADDING: &str = "\
A judge is added by a [[judges]] table of the configuration, in the panel's order:

  [[judges]]
  name = \"reference-action\"          # one that this program has

  [[judges]]
  name = \"chat\"                      # a model that judges
  label = \"strict\"
  model = \"deepseek-ai/DeepSeek-V3.2\"
  backend = { name = \"openai\", preset = \"chutes\" }

  albedo plugins --role judge            the judges there are, with their settings
  albedo judge try --config FILE …       asks one about a pair of replies
  albedo judge eval --pairs FILE …       how often it is right about pairs that are labelled
  albedo judge conform CMD…              checks a program that judges, in any language
  albedo new judge NAME                  writes a crate with a judge of your own, and a
                                         program that has it in every command";

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Put one pair of replies to a judge, and show what it was asked and what
    /// it answered.
    Try(Try),
    /// Ask judges about pairs whose better reply is known: how often they are right, agree, and follow order or length.
    Eval(eval::Arguments),
    /// Check a program that judges, or screens (`--screen`): starts it, asks it what a duel or
    /// an admission asks and worse, and prints which promise it breaks.
    #[cfg(all(feature = "judges", unix))]
    Conform(conform::Arguments),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Try {
    /// The TOML file whose judge is asked.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The judge: its label, its plugin's name, or its place in the file from 0.
    #[arg(long, value_name = "LABEL|NAME|N", default_value = "0")]
    judge: String,
    /// A setting of the judge in place of the file's, once for each, for example
    /// `max_answer_tokens=200`. The value is read as JSON, and as a text if it is none.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = setting)]
    settings: Vec<(String, Value)>,
    /// The conversation: JSON, an array of messages with `role` and `content`.
    /// A text that does not begin as JSON does is one message of the user.
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
    /// Print JSON, once the judge has answered.
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(command: &Command, cx: &CallContext) -> Result<Exit> {
    match command {
        Command::Try(arguments) => try_one(arguments, cx).await,
        Command::Eval(arguments) => eval::run(arguments, cx).await,
        #[cfg(all(feature = "judges", unix))]
        Command::Conform(arguments) => conform::run(arguments, cx).await,
    }
}

async fn try_one(arguments: &Try, cx: &CallContext) -> Result<Exit> {
    let config = DuelConfig::read(&arguments.config)?;
    let registry = Registry::linked()?;
    let place = place(&config.judges, &arguments.judge)?;
    let set = |judge: PluginConfig<dyn Judge>, (key, value): &(String, Value)| judge.with(key, value.clone());
    let named = arguments.settings.iter().fold(config.judges[place].clone(), set);
    let judge = CheckContext::new(&registry).plugin(format!("judges[{place}]"), &named)?;
    let judge = judge.build(&BuildContext::new(&registry, cx).relative_to(&config.folder)).await?;
    let mut request = comparison(arguments, &config, &*judge)?;
    // For people each part is shown as it comes.
    let show = |text: &str| if arguments.json { Ok(()) } else { print(text) };
    if judge.profile().preparation && !arguments.dry_run {
        let preparation = Preparation {
            messages: request.messages.clone(),
            reference: request.reference.clone(),
            fence: request.marks.fence,
        };
        let prepared = waited(judge.prepare(&preparation, cx)).await?.written()?;
        show(&section("prepared", &prepared))?;
        request.preparation = Some(prepared.into());
    }
    let is_prepared = request.preparation.is_some() || !judge.profile().preparation;
    let prompt = if is_prepared { judge.prompt(&request)? } else { None };
    for Message { role, content } in prompt.iter().flatten() {
        show(&section(role.as_str(), content))?;
    }
    let answer = if arguments.dry_run { None } else { Some(waited(judge.compare(&request, cx)).await?) };
    if let Some(answer) = &answer {
        show(&describe(answer))?;
    }
    if arguments.json {
        print_json(&json!({
            "judge": judge.identity(),
            "prepared": request.preparation,
            "prompt": prompt,
            "assessment": answer,
        }))?;
    }
    Ok(Exit::Done)
}

/// How often a command that waits for an answer says so. Source: chosen by albedo.
const SIGN_OF_LIFE: Duration = Duration::from_secs(10);

/// `answer`, with a sign of life on standard error while it takes long.
async fn waited<T>(answer: impl Future<Output = T>) -> T {
    let mut answer = std::pin::pin!(answer);
    let mut seconds = 0;
    loop {
        if let Ok(answer) = tokio::time::timeout(SIGN_OF_LIFE, &mut answer).await {
            return answer;
        }
        seconds += SIGN_OF_LIFE.as_secs();
        note(&format!(
            "no answer for {seconds} s; `--set max_answer_tokens=N` bounds how long a chat judge writes"
        ));
    }
}

/// The place in `panel` that `name` means: a label, a plugin's name, or the place
/// itself.
fn place(panel: &[PluginConfig<dyn Judge>], name: &str) -> Result<usize> {
    if let Some(place) = panel_place(panel, name)? {
        return Ok(place);
    }
    match name.parse().ok().filter(|place: &usize| *place < panel.len()) {
        Some(place) => Ok(place),
        None => Err(unknown_judge(panel, [], name)),
    }
}

/// The place in `panel` of the judge that is called `name`, by its label or, where
/// none has that label, by its plugin.
///
/// # Errors
/// The operator's: several are called so.
pub(super) fn panel_place(panel: &[PluginConfig<dyn Judge>], name: &str) -> Result<Option<usize>> {
    let places = |called: fn(&PluginConfig<dyn Judge>) -> &str| -> Vec<usize> {
        (0..panel.len()).filter(|place| called(&panel[*place]) == name).collect()
    };
    let labelled = places(label);
    let found = if labelled.is_empty() { places(PluginConfig::name) } else { labelled };
    match found[..] {
        [] => Ok(None),
        [place] => Ok(Some(place)),
        _ => {
            let labels = found.iter().map(|place| format!("`{}`", label(&panel[*place])));
            let message = format!("{} judges of the configuration are called `{name}`", found.len());
            let hint = format!(
                "give each a `label` of its own and name that; their labels are {}",
                labels.collect::<Vec<_>>().join(", ")
            );
            Err(Error::new(ErrorKind::ConfigInvalid, CHOOSE, message).with_hint(hint))
        }
    }
}

/// Neither a judge of `panel` nor one of `plugins` is called `name`.
pub(super) fn unknown_judge<'a>(
    panel: &'a [PluginConfig<dyn Judge>],
    plugins: impl IntoIterator<Item = &'a str>,
    name: &str,
) -> Error {
    let mut known: Vec<_> = panel.iter().map(label).collect();
    known.extend(plugins);
    known.dedup();
    let meant = nearest(name, known.iter().copied()).map(|known| format!("did you mean `{known}`? "));
    Error::new(ErrorKind::UnknownPlugin, CHOOSE, format!("there is no judge named `{name}`"))
        .with_hint(format!("{}known: {}", meant.unwrap_or_default(), known.join(", ")))
}

const CHOOSE: &str = "choose the judge";

fn comparison(arguments: &Try, config: &DuelConfig, judge: &dyn Judge) -> Result<Comparison> {
    let text = |path: &Path| {
        std::fs::read_to_string(path).map_err(|error| Error::io("read the pair of replies", path, error))
    };
    let candidate =
        |path: &Path| -> Result<Candidate> { Ok(Candidate::new(text(path)?, FinishReason::Stop)) };
    let messages = messages(&text(&arguments.conversation)?)
        .map_err(|error| error.with("path", arguments.conversation.display()))?;
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

/// A conversation: JSON where the text begins as an array or an object does, else one
/// message of the user.
///
/// # Errors
/// The operator's: what begins as JSON is none, or no conversation.
fn messages(text: &str) -> Result<Vec<Message>> {
    if !text.trim_start().starts_with(['[', '{']) {
        return Ok(vec![Message::new(MessageRole::User, text)]);
    }
    let invalid = |message: String| {
        Error::new(ErrorKind::DataInvalid, "read the conversation", message)
            .with_fault(Fault::Operator)
            .with_hint("give an array of messages with `role` (system, user, assistant, tool) and `content`")
    };
    let messages: Vec<Message> = serde_json::from_str(text).map_err(|error| invalid(error.to_string()))?;
    if messages.is_empty() {
        return Err(invalid("it has no message".into()));
    }
    Ok(messages)
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
                    writeln!(text, "noted in the {place}: {}, {} times", alteration.what, alteration.count);
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
        _ => text += "an answer that this build does not know\n",
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_judge_is_found_by_label_by_plugin_and_by_place() {
        let panel = [
            PluginConfig::named("chat").with("label", "good"),
            PluginConfig::named("chat").with("label", "other"),
            PluginConfig::named("protocol"),
        ];
        for (name, expected) in [("good", 0), ("other", 1), ("protocol", 2), ("1", 1)] {
            assert_eq!(place(&panel, name).expect(name), expected);
        }
        for (name, words) in [
            ("chat", "2 judges of the configuration are called `chat`"),
            ("goood", "did you mean `good`? known: good, other, protocol"),
            ("3", "there is no judge named `3`"),
        ] {
            let error = place(&panel, name).expect_err(name).to_string();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn a_conversation_that_begins_as_json_has_to_be_one() {
        assert_eq!(messages("Which files?\n").expect("a text")[0].content, "Which files?\n");
        let read = messages("[{\"role\": \"user\", \"content\": \"x\"}]").expect("JSON");
        assert_eq!((read.len(), read[0].role), (1, MessageRole::User));
        for broken in ["[{\"role\":\"usr\",\"content\":\"x\"}]", "[{\"role\":\"user\"}]", "[", "[]", " {}"] {
            let error = messages(broken).expect_err(broken);
            assert_eq!((error.kind(), error.fault()), (ErrorKind::DataInvalid, Fault::Operator), "{error}");
        }
    }
}
