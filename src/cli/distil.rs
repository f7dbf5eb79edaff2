//! `albedo distil`.

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::json;

use super::exit::Exit;
use super::output::{next, note, print, print_json, warn, word};
use super::source::absolute;
use crate::demo::Demo;
use crate::distil::{
    self, DataReport, DistilConfig, DistilPlan, DistilRecord, Distillation, Gate, GatePlan, Happening, State,
    Turns,
};
use crate::report::{Look, Progress};
use crate::{BuildContext, CallContext, Error, ErrorKind, Fault, Registry, Result, Seed};

mod progress;
mod report;
mod verify;

use progress::TrainingProgress;

/// Where the demo's distillation is kept, where nobody says otherwise.
const DEMO_OUT: &str = "distil-demo";

/// What `albedo distil --help` ends with.
const EXAMPLES: &str = "\
The same command goes on with a distillation that was interrupted or killed, with the same bits.

  albedo distil --demo --tokens 200000     a short run: it cannot make a better model
  albedo distil data --config FILE         what would be trained, and what is left out
  albedo distil --config FILE
  albedo distil verify DIR --config FILE --regenerate 5
  albedo distil report DIR                 a page with the curve of the loss

docs/distil.md leads from a duel to the next challenger; `albedo config reference` has every key.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    source: SourceArguments,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Say what would be trained: conversations, tokens, licenses, and what is left out.
    Data(DataArguments),
    /// Check what a distillation has left behind; take steps again and compare their bits.
    Verify(verify::Arguments),
    /// Write a page to open in a browser, in one file: the loss by step, and what came of it.
    Report(report::Arguments),
}

#[derive(Debug, clap::Args)]
struct DataArguments {
    #[command(flatten)]
    source: SourceArguments,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

// Comments, since clap would take docstrings for the command's own help.
// Which distillation is meant, and what is changed of it.
#[derive(Debug, clap::Args)]
struct SourceArguments {
    #[command(flatten)]
    which: Which,
    /// The folder of the distillation, instead of the configuration's `student.out`
    /// [default with --demo: distil-demo].
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Tokens to read in all, instead of the configuration's: stages that are measured in
    /// tokens keep their shares.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    tokens: Option<u64>,
    /// What the training and the gate's duel follow from, instead of the configuration's seeds.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

// The demo's, or a file's.
#[derive(Debug, clap::Args)]
#[group(id = "distillation", required = true, multiple = false)]
struct Which {
    /// Distil the demo's king from its challenger.
    #[arg(long)]
    demo: bool,
    /// The TOML file of the distillation.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl SourceArguments {
    fn read(&self) -> Result<DistilConfig> {
        let out = self.out.as_deref().map(absolute).transpose()?;
        let mut config = match &self.which.config {
            Some(path) => DistilConfig::read(path)?,
            None => distil::demo(&Demo::locate()?, out.as_deref().unwrap_or(DEMO_OUT.as_ref()))?,
        };
        if let Some(out) = out {
            config.student.out = out;
        }
        if let Some(tokens) = self.tokens {
            share(&mut config, tokens)?;
        }
        if let Some(seed) = self.seed {
            reseed(&mut config, seed);
        }
        Ok(config)
    }
}

/// Has the training and the gate's duel follow from `seed`.
pub(super) fn reseed(config: &mut DistilConfig, seed: u64) {
    config.train.seed = seed;
    if let Gate::Closed(gate) = &mut config.gate {
        gate.seed = Some(Seed::from(seed));
    }
}

/// Gives the stages that are measured in tokens `all` together, by their shares.
pub(super) fn share(config: &mut DistilConfig, all: u64) -> Result<()> {
    let sum = config.stage.iter().filter_map(|stage| stage.tokens).fold(0, u64::saturating_add);
    if sum == 0 {
        return Err(Error::new(
            ErrorKind::ConfigInvalid,
            "set up the distillation",
            "no stage is measured in tokens",
        )
        .with_fault(Fault::Operator)
        .with_hint("leave out `--tokens`, or give a stage `tokens` instead of `steps`"));
    }
    for tokens in config.stage.iter_mut().filter_map(|stage| stage.tokens.as_mut()) {
        *tokens = ((*tokens as f64 / sum as f64 * all as f64) as u64).max(1);
    }
    Ok(())
}

pub(crate) async fn run(arguments: &Arguments, cx: &CallContext) -> Result<Exit> {
    match &arguments.command {
        Some(Command::Data(data)) => show_data(data, cx).await,
        Some(Command::Verify(verify)) => verify::run(verify, cx).await,
        Some(Command::Report(report)) => report::run(report, cx).await,
        None => Box::pin(distil(arguments, cx)).await,
    }
}

async fn show_data(arguments: &DataArguments, cx: &CallContext) -> Result<Exit> {
    let config = arguments.source.read()?;
    let registry = Registry::linked()?;
    let distillation = Distillation::prepare(config, &BuildContext::new(&registry, cx)).await?;
    let plan = distillation.plan();
    if arguments.json {
        print_json(&json!({
            "folder": distillation.folder().display().to_string(),
            "plan": plan.digest()?,
            "student": plan.student,
            "data": plan.data,
            "stages": stages(plan),
        }))?;
    } else {
        print(&described(plan, Look::of_stdout()))?;
    }
    doubts(plan);
    Ok(Exit::Done)
}

async fn distil(arguments: &Arguments, cx: &CallContext) -> Result<Exit> {
    let config = arguments.source.read()?;
    let registry = Registry::linked()?;
    let duel = Arc::new(Progress::default());
    let cx = cx.with_events(duel.clone());
    let build = BuildContext::new(&registry, &cx);
    let distillation = Distillation::prepare(config, &build).await?;
    let (plan, folder) = (distillation.plan().clone(), distillation.folder().to_owned());
    if !arguments.json {
        print(&described(&plan, Look::of_stdout()))?;
    }
    doubts(&plan);
    if plan.gate == GatePlan::Open(distil::Open::None) {
        note("there is no gate: the result is the final model, whatever it is worth");
    }
    let before = DistilRecord::read(&folder)?;
    if before.is_some_and(|record| record.state != State::Running) {
        note("this distillation ended before: nothing was trained, and this is what its record says");
    }
    let record = Box::pin(watched(distillation, &duel, &build)).await?;
    let exit = if record.state == State::Refused { Exit::Rejected } else { Exit::Done };
    let model = match record.state {
        State::Exported => Some(folder.join("model")),
        _ => None,
    };
    if arguments.json {
        print_json(&json!({
            "folder": folder.display().to_string(),
            "state": record.state,
            "plan": plan.digest()?,
            "steps": record.losses.len(),
            "loss": record.losses.last(),
            "held_out": record.held_out,
            "student": plan.student.parameters,
            "model": model.as_ref().map(|model| model.display().to_string()),
            "parameters": record.model,
            "gate": record.gate,
        }))?;
        return Ok(exit);
    }
    print(&ended_with(&record, &folder, Look::of_stdout()))?;
    if arguments.source.which.demo && record.state == State::Refused {
        note(
            "a short training does not make a better model every time: docs/distil.md says what was reached with \
             how many tokens (`--tokens N`)",
        );
    }
    if let Some(model) = model {
        let student = arguments.source.read()?;
        let student = student.folder.join(&student.student.path);
        next(&[
            (format!("distil report {}", word(&folder)), "a page with the curve of the loss"),
            (format!("screen {} --king {}", word(&model), word(&student)), "whether it may duel"),
            (format!("chat {}", word(&model)), "talks to it"),
        ]);
    }
    Ok(exit)
}

/// Runs `distillation` with its progress on standard error; `duel` is that of its gate.
pub(super) async fn watched(
    distillation: Distillation,
    duel: &Progress,
    cx: &BuildContext<'_>,
) -> Result<DistilRecord> {
    let progress = Arc::new(TrainingProgress::new(distillation.plan().steps()));
    let shown = Arc::clone(&progress);
    let training = distillation.run(Arc::new(move |happening: &Happening<'_>| shown.on(happening)), cx);
    let ended = Box::pin(training).await;
    progress.finish();
    duel.finish();
    ended
}

/// What a reader should know of the data before the training.
pub(super) fn doubts(plan: &DistilPlan) {
    let DataReport { left_out, held_out, sets, .. } = &plan.data;
    for (count, why) in [
        (left_out.same_task, "have the id of a held-out task"),
        (left_out.same_text, "begin with the text of a held-out task"),
    ] {
        if count > 0 {
            warn(&format!("{count} conversations {why}: they are left out"));
        }
    }
    if held_out.measured == 0 {
        warn("nothing is held out: no loss is measured on tasks that the student has not seen");
    }
    let is_control =
        |stage: &distil::StagePlan| stage.settings.control.is_some() || stage.settings.turns == Turns::Loser;
    if plan.stages.iter().any(is_control) {
        warn("a stage is a control: its result should not be crowned");
    }
    for set in sets.iter().filter(|set| set.dropped > 0) {
        warn(&format!(
            "{} conversations have no reply within {} tokens: they are left out",
            set.dropped, plan.max_tokens
        ));
    }
    for (longest, rows) in sets.iter().flat_map(|set| &set.without_room) {
        warn(&format!(
            "{rows} conversations leave no room for a reply of {longest} tokens within {}: stages that sample leave \
             them out",
            plan.max_tokens
        ));
    }
    if let Some(token) = &plan.data.endless {
        warn(&format!(
            "the student's chat template puts `{token}` behind a reply, where the engine does not stop: replies are \
             closed with the `eos_token`, and each turn is a row of its own with its whole prompt. If `{token}` is to \
             end replies, add its id to `eos_token_id` in the student's generation_config.json; not if the result is to \
             challenge this student's king in a competition: it needs the king's generation settings"
        ));
    }
}

/// The stages, for programs.
fn stages(plan: &DistilPlan) -> Vec<serde_json::Value> {
    let stage = |stage: &distil::StagePlan| {
        json!({
            "objective": stage.settings.objective,
            "turns": stage.settings.turns,
            "weight": stage.settings.weight,
            "prompts": stage.settings.prompts,
            "control": stage.settings.control,
            "steps": stage.engine.steps,
            "conversations": stage.conversations,
            "teacher": stage.teacher.as_ref().map(|teacher| teacher.parameters),
            "order": stage.order,
        })
    };
    plan.stages.iter().map(stage).collect()
}

/// What is trained on what.
pub(super) fn described(plan: &DistilPlan, look: Look) -> String {
    let data = &plan.data;
    let mut text = look.entry("student", &format!("parameters {}", plan.student.parameters.short()));
    for source in &data.sources {
        let license = source.license.as_deref().unwrap_or("license unknown");
        let said = format!("{}: {} conversations, {license}", source.name, source.rows);
        text += &look.entry("source", &said);
    }
    for set in &data.sets {
        let said = format!(
            "{}: {} conversations of {} repositories; a pass reads {} tokens, {} of them tokens of replies",
            set.turns.name(),
            set.rows,
            set.repos,
            set.tokens,
            set.supervised
        );
        text += &look.entry("rows", &said);
        if set.cut + set.dropped > 0 {
            let said = format!(
                "{} conversations are longer than {} tokens and cut, {} have no reply within it; {} tokens of \
                 replies are lost so",
                set.cut, plan.max_tokens, set.dropped, set.cut_supervised
            );
            text += &look.entry("cut", &said);
        }
        let licenses = set.licenses.iter().map(|(license, rows)| format!("{license} {rows}"));
        text += &look.entry("licenses", &licenses.collect::<Vec<_>>().join(", "));
    }
    let left = &data.left_out;
    let counted = [
        (left.same_task, "the id of a held-out task"),
        (left.same_text, "the text of a held-out task"),
        (left.held_out_repos, "a held-out repository"),
        (left.repeated, "repeated"),
        (left.unfinished, "unfinished replies"),
        (left.undecided, "without a winner"),
        (left.forfeits, "records without replies"),
    ];
    let counted: Vec<_> = counted
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, why)| format!("{count} {why}"))
        .collect();
    if !counted.is_empty() {
        text += &look.entry("left out", &counted.join(", "));
    }
    let held = &data.held_out;
    text += &look.entry(
        "held out",
        &format!(
            "{} conversations of {} repositories; the loss is measured on {}",
            held.rows, held.repos, held.measured
        ),
    );
    for (number, stage) in plan.stages.iter().enumerate() {
        let objective = super::output::words(&stage.settings.objective);
        let teacher = stage.teacher.as_ref().map(|teacher| format!(" from {}", teacher.parameters.short()));
        let control = stage.settings.control.map(|control| format!(", a control: {}", control.name()));
        let prompts = Some(stage.settings.prompts).filter(|prompts| *prompts > 0.0);
        let prompts = prompts.map(|prompts| format!(", tokens of prompts count {prompts}"));
        let said = format!(
            "{objective}{} on {}, {} steps of {} conversations{}{}{}",
            teacher.unwrap_or_default(),
            stage.settings.turns.name(),
            stage.engine.steps,
            plan.accumulate,
            if plan.rename { ", names replaced" } else { "" },
            prompts.unwrap_or_default(),
            control.unwrap_or_default()
        );
        text += &look.entry(&format!("stage {}", number + 1), &said);
    }
    text + "\n"
}

/// What came of it.
pub(super) fn ended_with(record: &DistilRecord, folder: &std::path::Path, look: Look) -> String {
    let mut text = String::new();
    if let (Some(first), Some(last)) = (record.losses.first(), record.losses.last()) {
        let said = format!("{first:.3} at the first step, {last:.3} at step {}", record.losses.len());
        text += &look.entry("loss", &said);
    }
    if !record.held_out.is_empty() {
        let nats = record.held_out.iter().map(|loss| format!("{} {:.4}", loss.of, loss.nats));
        text += &look.entry("held out", &format!("nats per token: {}", nats.collect::<Vec<_>>().join(", ")));
    }
    if let Some(gate) = &record.gate {
        let word = if gate.passed { look.good("passed") } else { look.bad("NOT PASSED") };
        text += &look.entry("gate", &format!("{word}: {}", gate.evidence));
    }
    let place = match record.state {
        State::Exported => format!("{}", folder.join("model").display()),
        _ => format!("none; the result is kept in {}", folder.join("candidate").display()),
    };
    text += &look.entry("model", &place);
    let parameters = record.model.map(|model| model.to_string()).unwrap_or_default();
    text += &look.entry("parameters", &parameters);
    text + &look.entry("record", &folder.join("distil.json").display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_shared_by_the_stages_that_are_measured_in_them() {
        let text = r#"
            gate = "none"
            student.path = "king"
            data.tasks = ["t"]
            stage = [{ objective = "sft", tokens = 300 }, { objective = "sft", steps = 5 },
                     { objective = "sft", tokens = 100 }]
        "#;
        let mut config = DistilConfig::parse(text).expect("reads");
        share(&mut config, 4000).expect("shares");
        let tokens: Vec<_> = config.stage.iter().map(|stage| stage.tokens).collect();
        assert_eq!(tokens, [Some(3000), None, Some(1000)]);
        // More than any stage may have: its check says so.
        config.stage[0].tokens = Some(u64::MAX);
        share(&mut config, 4000).expect("shares");
        assert_eq!(config.stage[2].tokens, Some(1));
        config.stage.retain(|stage| stage.tokens.is_none());
        assert!(share(&mut config, 1).is_err());
    }
}
