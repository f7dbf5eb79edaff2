//! `albedo miner check`.

use std::path::PathBuf;

use serde_json::json;

use super::draft::{Checked, Draft, DraftArguments, before_a_check, content, named};
use super::trial::{Planned, Trying};
use crate::cli::exit::Exit;
use crate::cli::output::{next, note, print, print_json, word};
use crate::cli::source::{absolute, model};
use crate::config::{AdmissionConfig, PluginConfig, SCREEN_PROFILE, screen_profile};
use crate::report::{self, Bytes, Look};
use crate::{AdmissionOutcome, BuildContext, CallContext, Registry, Result};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The model's folder.
    folder: PathBuf,
    /// The king: a folder, or a hub's reference such as `oci:owner/model@sha256:…`.
    #[arg(long, value_name = "MODEL")]
    king: String,
    /// The competition's first king, if another one reigns: the validator aligns every model
    /// to it.
    #[arg(long, value_name = "MODEL")]
    genesis: Option<String>,
    /// The validator's profile of screens.
    #[arg(long, value_name = "NAME", default_value = SCREEN_PROFILE)]
    profile: String,
    /// Where the models run, for example `cpu` or `cuda:1`.
    #[arg(long, value_name = "DEVICE")]
    device: Option<String>,
    /// What the probes follow from. Nobody knows the validator's before it has the files.
    #[arg(long, value_name = "SEED", default_value_t = 1)]
    seed: u64,
    /// Also duel the king, with the tasks, judges and settings of this configuration of a duel,
    /// and say how likely the validator's rule is to crown the model.
    #[arg(long, value_name = "FILE")]
    duel: Option<PathBuf>,
    /// The attempt that the model would be: `albedo miner status` says how many there were.
    #[arg(long, value_name = "N", default_value_t = 1, requires = "duel", value_parser = clap::value_parser!(u64).range(1..))]
    attempt: u64,
    /// Samples of that duel [default: the configuration's].
    #[arg(long, value_name = "N", requires = "duel")]
    samples: Option<u32>,
    #[command(flatten)]
    draft: DraftArguments,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(arguments: &Arguments, cx: &CallContext) -> Result<Exit> {
    let Arguments { folder, king, genesis, profile, device, seed, duel, attempt, samples, draft, json } =
        arguments;
    let folder = absolute(folder)?;
    let king = model(king)?;
    let mut config = AdmissionConfig::new(king.clone(), folder.clone());
    config.anchor = genesis.as_deref().map(model).transpose()?;
    config.screens = screen_profile(profile)?;
    config.profile = Some(profile.clone());
    config.probe = Some(*seed);
    // What is handed in is what is in the folder.
    config.complete = true;
    if let Some(device) = device {
        config.backend = PluginConfig::named(config.backend.name()).with("device", device.as_str());
    }
    let registry = Registry::linked()?;
    // Before the screens, which take their time: what could end the command after them.
    let path = draft.path(&folder)?;
    let before = before_a_check(&path)?;
    let planned = match duel {
        Some(config) => {
            let trying =
                Trying { config, king: &king, folder: &folder, attempt: *attempt, samples: *samples };
            Some(Planned::read(&trying, &registry)?)
        }
        None => None,
    };
    let admit = config.admit(&BuildContext::new(&registry, cx)).await?;
    let bar = Bytes::default();
    let watched = bar.watch(cx);
    let admission = admit.run(&watched).await;
    bar.finish();
    let admission = admission.map_err(|error| {
        let fault = error.fault();
        error.with("fault", fault)
    })?;
    let look = Look::of_stdout();
    if !json {
        print(&report::screened(&admission, look))?;
        print(&report::advice(&admission, &config.screens, look))?;
    }
    let content = content(&folder, cx).await?;
    let check = Checked { king: named(&king), profile: Some(profile.clone()), outcome: admission.outcome };
    Draft::checked(content, check, before).write(&path)?;
    let tried = match planned {
        Some(planned) if admission.is_admitted() => planned.run(&registry, cx).await.map(Some),
        _ => Ok(None),
    };
    if *json {
        // A duel that failed does not take the findings with it.
        let trial = tried.as_ref().ok().and_then(Option::as_ref);
        print_json(
            &json!({ "content": content, "draft": path.display().to_string(), "admission": admission, "duel": trial }),
        )?;
        return tried.map(|_| Exit::of_admission(admission.outcome));
    }
    if let Some(trial) = tried? {
        print(&trial.shown(look))?;
    }
    if admission.outcome == AdmissionOutcome::Admitted {
        note(
            "a validator asks other probes, and compares with earlier submissions, which nobody else has: this \
             is no promise",
        );
        next(&[(
            format!("miner pack {} OWNER/MODEL{}", word(&arguments.folder), draft.again()),
            "says what it will be in the registry, and what to commit to",
        )]);
    }
    Ok(Exit::of_admission(admission.outcome))
}
