//! `albedo distil verify`.

use std::path::{Path, PathBuf};

use serde_json::json;

use crate::cli::exit::Exit;
use crate::cli::output::{print, print_json};
use crate::demo::Demo;
use crate::distil::{self, Again, DistilConfig, DistilRecord, Distillation, regenerate};
use crate::{BuildContext, CallContext, Error, ErrorKind, Fault, Registry, Result};

use super::super::source::absolute;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The folder of the distillation.
    folder: PathBuf,
    /// Take this many steps again, from the oldest checkpoint that is there, and compare the
    /// bits of losses, checkpoints and model. It needs `--config` or `--demo`.
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u64).range(1..))]
    regenerate: Option<u64>,
    /// The TOML file of the distillation, by which steps are taken again.
    #[arg(long, value_name = "FILE", conflicts_with = "demo", requires = "regenerate")]
    config: Option<PathBuf>,
    /// It is the demo's.
    #[arg(long, requires = "regenerate")]
    demo: bool,
    /// The `--tokens` that it was made with.
    #[arg(long, value_name = "N", requires = "regenerate")]
    tokens: Option<u64>,
    /// The `--seed` that it was made with.
    #[arg(long, value_name = "N", requires = "regenerate")]
    seed: Option<u64>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(arguments: &Arguments, cx: &CallContext) -> Result<Exit> {
    let folder = &arguments.folder;
    let record = recorded(folder, cx).await?;
    record.verify_checkpoints(folder)?;
    let again = match arguments.regenerate {
        Some(steps) => Some(take_again(arguments, steps, cx).await?),
        None => None,
    };
    let is_same = again.as_ref().is_none_or(Again::is_same);
    if arguments.json {
        print_json(&json!({
            "folder": folder.display().to_string(),
            "plan": record.plan.digest()?,
            "state": record.state,
            "steps": record.losses.len(),
            "parameters": record.model,
            "regenerated": again,
        }))?;
    } else {
        print(&told(&record, again.as_ref(), arguments.regenerate))?;
    }
    Ok(if is_same { Exit::Done } else { Exit::Found })
}

/// The record in `folder`, which agrees with itself, its model and its gate's duel.
pub(super) async fn recorded(folder: &Path, cx: &CallContext) -> Result<DistilRecord> {
    let record = DistilRecord::read(folder)?.ok_or_else(|| {
        Error::new(ErrorKind::NotFound, "verify a distillation", "the folder holds no record of one")
            .with_fault(Fault::Operator)
            .with("folder", folder.display())
            .with_hint("name the folder that `albedo distil` has written")
    })?;
    record.verify(folder, cx).await?;
    Ok(record)
}

async fn take_again(arguments: &Arguments, steps: u64, cx: &CallContext) -> Result<Again> {
    let out = absolute(&arguments.folder)?;
    let mut config = match (&arguments.config, arguments.demo) {
        (Some(path), _) => DistilConfig::read(path)?,
        (None, true) => distil::demo(&Demo::locate()?, &out)?,
        (None, false) => {
            let message = "steps are taken again only by a configuration of your own";
            return Err(Error::new(ErrorKind::ConfigInvalid, "verify a distillation", message)
                .with_fault(Fault::Operator)
                .with_hint("give `--config FILE`, or `--demo`"));
        }
    };
    config.student.out = out;
    if let Some(tokens) = arguments.tokens {
        super::share(&mut config, tokens)?;
    }
    if let Some(seed) = arguments.seed {
        super::reseed(&mut config, seed);
    }
    let registry = Registry::linked()?;
    let distillation = Distillation::prepare(config, &BuildContext::new(&registry, cx)).await?;
    let (scratch, call) = (scratch(&arguments.folder)?, cx.clone());
    let taken = tokio::task::spawn_blocking(move || regenerate(&distillation, steps, scratch.path(), &call));
    taken.await.map_err(|error| Error::bug("train again", error.to_string()).with_source(error))?
}

/// A folder beside the checkpoints, which is deleted at the end.
fn scratch(folder: &Path) -> Result<tempfile::TempDir> {
    tempfile::tempdir_in(folder).map_err(|error| Error::io("train again", folder, error))
}

/// What was found, of steps of which so many were to be taken again.
fn told(record: &DistilRecord, again: Option<&Again>, asked: Option<u64>) -> String {
    let whole = format!("the record is whole: {} of {} steps\n", record.losses.len(), record.plan.steps());
    let Some(again) = again else { return whole };
    let Again { from, steps, other_loss, checkpoints, model } = again;
    let losses = match other_loss {
        None => "all losses have the recorded bits".to_owned(),
        Some(step) => format!("the loss of step {step} has OTHER bits"),
    };
    let word = |same: bool| if same { "the recorded digest" } else { "ANOTHER digest" };
    let mut lines = vec![whole, format!("took {steps} steps again after step {from}: {losses}\n")];
    if let Some(asked) = asked.filter(|asked| asked > steps) {
        lines.push(format!(
            "only {steps} of {asked} steps were compared: no more were taken after the oldest checkpoint that is \
             there\n"
        ));
    }
    lines.extend(
        checkpoints
            .iter()
            .map(|(step, same)| format!("the checkpoint after step {step} has {}\n", word(*same))),
    );
    lines.extend(model.map(|same| format!("the model has {}\n", word(same))));
    lines.concat()
}
