//! `albedo screen`.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::backend::setting;
use super::duel::vacant;
use super::exit::Exit;
use super::output::{next, print, print_json, word};
use super::source::{absolute, utf8};
use crate::config::{AdmissionConfig, DuelConfig, PluginConfig, screen_profile};
use crate::judges::screens::store::Store;
use crate::registry::nearest;
use crate::report::{self, Bytes, Look};
use crate::{
    Admission, AdmissionOutcome, BuildContext, CallContext, Error, ErrorKind, FileStore, ModelRef, Registry,
    Result, Screen,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Model folder of the submission [default: the configuration's challenger].
    #[arg(required_unless_present = "config")]
    path: Option<PathBuf>,
    /// Take screens, king, anchor and backend from this configuration file of a
    /// duel, where the command line does not name them.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Model folder of the king.
    #[arg(long, value_name = "DIR", required_unless_present = "config")]
    king: Option<PathBuf>,
    /// Run this screen, once for each, in this order, instead of the configuration's or
    /// the usual ones. Settings are the configuration's.
    #[arg(long = "screen", value_name = "NAME")]
    screens: Vec<String>,
    /// Take the screens and thresholds of this profile; an admission records its name
    /// [default: the current one, unless the configuration or `--screen` names screens].
    #[arg(long, value_name = "NAME", conflicts_with = "screens")]
    profile: Option<String>,
    /// A setting of the screens, once for each: of the one that is named, or of every
    /// screen that has it. The value is read as JSON, and as a text if it is none.
    #[arg(long = "set", value_name = "[SCREEN.]KEY=VALUE", value_parser = setting)]
    settings: Vec<(String, Value)>,
    /// The store of earlier submissions, for every screen that compares with one.
    #[arg(long, value_name = "STORE")]
    against: Option<PathBuf>,
    /// Model folder of the anchor that the store's sketches are aligned to
    /// [default: the king].
    #[arg(long, value_name = "DIR")]
    anchor: Option<PathBuf>,
    /// Label in the store that is the submission's own. An entry that several submissions share is the
    /// work of the one that was committed first.
    #[arg(long, value_name = "LABEL")]
    own: Vec<String>,
    /// Also load the model and look at its replies, probed from this seed: take
    /// one that nobody could know before the model was handed in.
    #[arg(long, value_name = "SEED")]
    probe: Option<u64>,
    /// Folder of parquet tasks that probes are taken from [default: built-in
    /// conversations].
    #[arg(long, value_name = "DIR", requires = "probe")]
    tasks: Option<PathBuf>,
    /// The folder is the complete submission, verified by digest. Missing or
    /// truncated files then count against the submitter, not the download.
    #[arg(long)]
    complete: bool,
    /// New folder for the admission's journal and, if the submission forfeits, its
    /// record.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Also say what a submitter can change about each finding, and which thresholds hold.
    #[arg(long, conflicts_with = "json")]
    explain: bool,
    /// Print the admission as JSON, with the whole evidence.
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(arguments: &Arguments, cx: &CallContext) -> Result<Exit> {
    let registry = Registry::linked()?;
    let file = arguments.config.as_deref().map(DuelConfig::read).transpose()?;
    let mut config = arguments.config(file.as_ref(), &registry)?;
    if let Some(out) = &arguments.out {
        vacant("keep the admission", out, "choose another folder")?;
    }
    config.own = own(&config)?;
    let admission = screen(&config, &registry, cx).await.map_err(|error| {
        // The reader has to know whether the submitter is to blame.
        let fault = error.fault();
        error.with("fault", fault)
    })?;
    // Not before: an empty journal would be in the way of the next try.
    let store = arguments.out.as_ref().map(FileStore::create).transpose()?;
    let record = match &store {
        Some(store) => admission.keep(store, cx).await?,
        None => None,
    };
    if arguments.json {
        print_json(&admission)?;
    } else {
        print(&report::screened(&admission, Look::of_stdout()))?;
        if arguments.explain {
            print(&report::advice(&admission, &config.screens, Look::of_stdout()))?;
        }
        if let (Some(record), Some(store)) = (record, &store) {
            print(&format!("{:<12}{record} in {}\n", "record", store.folder().display()))?;
        }
    }
    if let (AdmissionOutcome::Admitted, Some(path), Some(file), false) =
        (admission.outcome, &arguments.config, &file, arguments.json)
    {
        let does = if file.is_screened() {
            "runs the duel; it screens the challenger again"
        } else {
            "runs the duel, without screens: the configuration names none"
        };
        next(&[(arguments.duel(path), does)]);
    }
    Ok(Exit::of_admission(admission.outcome))
}

/// The labels of what is the submission's own, as the screens' stores have it: several submissions may
/// share an entry.
///
/// # Errors
/// As [`Store::open`]; the stores'.
fn own(config: &AdmissionConfig) -> Result<Vec<String>> {
    let mut own = config.own.clone();
    if own.is_empty() {
        return Ok(own);
    }
    let stores = config.screens.iter().filter_map(|screen| screen.settings().get("store")?.as_str());
    let stores: BTreeSet<_> = stores.map(|store| config.folder.join(store)).collect();
    for store in stores {
        own = Store::open(&store)?.own(&own)?;
    }
    Ok(own)
}

async fn screen(config: &AdmissionConfig, registry: &Registry, cx: &CallContext) -> Result<Admission> {
    let admit = config.admit(&BuildContext::new(registry, cx)).await?;
    let bar = Bytes::default();
    let admission = admit.run(&bar.watch(cx)).await;
    bar.finish();
    admission
}

impl Arguments {
    /// The duel of what was screened, by the configuration at `config`.
    fn duel(&self, config: &Path) -> String {
        let mut command = format!("duel --config {}", word(config));
        for (option, path) in [("king", &self.king), ("challenger", &self.path)] {
            if let Some(path) = path {
                // Writing to a string cannot fail.
                let _ = write!(command, " --{option} {}", word(path));
            }
        }
        command
    }

    /// What is screened: as the configuration `file` says, where the command line does not.
    fn config(&self, file: Option<&DuelConfig>, registry: &Registry) -> Result<AdmissionConfig> {
        let mut config = match file {
            Some(file) => file.admission()?,
            None => AdmissionConfig::new(PathBuf::new(), PathBuf::new()),
        };
        // What the command line names is taken from the working directory.
        let named = |path: &Option<PathBuf>| path.as_deref().map(absolute).transpose();
        config.king = named(&self.king)?.map_or(config.king, ModelRef::from);
        config.submission = named(&self.path)?.map_or(config.submission, ModelRef::from);
        config.anchor = named(&self.anchor)?.map(ModelRef::from).or(config.anchor);
        if let Some(name) = &self.profile {
            config.screens = screen_profile(name)?;
            config.profile = Some(name.clone());
        }
        if !self.screens.is_empty() {
            // Screens that were chosen and settings that were changed are no profile's.
            config.profile = None;
            let known = std::mem::take(&mut config.screens);
            let chosen = self.screens.iter().map(|name| {
                let known = known.iter().find(|screen| screen.name() == name);
                known.cloned().unwrap_or_else(|| PluginConfig::named(name))
            });
            config.screens = chosen.collect();
        }
        for (key, value) in &self.settings {
            config.profile = None;
            set(&mut config, key, value, registry)?;
        }
        if let Some(store) = named(&self.against)? {
            config.set("store", &json!(utf8(&store)?), registry);
        }
        if let Some(tasks) = named(&self.tasks)? {
            config.set("tasks", &json!({ "name": "parquet", "path": utf8(&tasks)? }), registry);
        }
        config.own.clone_from(&self.own);
        (config.probe, config.complete) = (self.probe, self.complete);
        Ok(config)
    }
}

/// Gives `value` to the setting `key`: `SCREEN.KEY` of one screen, `KEY` of every one that
/// has it.
///
/// # Errors
/// The operator's: no such screen is run, or none has the setting.
fn set(config: &mut AdmissionConfig, key: &str, value: &Value, registry: &Registry) -> Result<()> {
    let invalid = |message: String| Error::new(ErrorKind::ConfigInvalid, "set up the screens", message);
    let names = config.screens.iter().map(PluginConfig::name).collect::<Vec<_>>().join(", ");
    let Some((name, key)) = key.split_once('.') else {
        let before = config.screens.clone();
        config.set(key, value, registry);
        // Set to what it was is set, too.
        let has = |screen: &PluginConfig<dyn Screen>| screen.settings().contains_key(key);
        if before == config.screens && !config.screens.iter().any(has) {
            return Err(invalid(format!("no screen that is run has a setting `{key}`"))
                .with("screens", names)
                .with_hint("`albedo plugins` lists the settings of each"));
        }
        return Ok(());
    };
    let Some(screen) = config.screens.iter_mut().find(|screen| screen.name() == name) else {
        let meant = nearest(name, names.split(", ")).map(|known| format!("did you mean `{known}`? "));
        return Err(invalid(format!("no screen `{name}` is run"))
            .with_hint(format!("{}screens: {names}", meant.unwrap_or_default())));
    };
    *screen = screen.clone().with(key, value.clone());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_is_of_one_screen_or_of_all_that_have_it() {
        let registry = Registry::linked().expect("links");
        let mut config = AdmissionConfig::new(PathBuf::from("king"), PathBuf::from("submission"));
        let mut set = |key: &str, value: Value| set(&mut config, key, &value, &registry);
        set("lineage.noise", json!(1.1)).expect("one");
        set("store", json!("a store")).expect("all that have it");
        set("store", json!("a store")).expect("again");
        for (key, words) in [
            ("lineag.noise", "did you mean `lineage`?"),
            ("stoer", "no screen that is run has a setting `stoer`"),
        ] {
            let error = set(key, json!(1)).expect_err(words).to_string();
            assert!(error.contains(words), "{error}");
        }
        let with =
            |key: &str| config.screens.iter().filter(|screen| screen.settings().contains_key(key)).count();
        assert_eq!((with("noise"), with("store")), (1, 4));
    }
}
