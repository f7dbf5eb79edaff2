//! `albedo duel`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;

use super::exit::Exit;
use super::judge::{panel_place, unknown_judge};
use super::output::{next, note, print, print_json, program, warn, word};
use super::source::{SourceArguments, absolute, utf8};
use crate::config::{BOTH_SIDES, DuelConfig, ModelConfig, PluginConfig, journal_key};
use crate::plan::DuelPlan;
use crate::record::{self, JournalEvent, JournalKey, RecordStore, VerifyOptions};
use crate::report::{self, Bytes, Look, Progress};
use crate::verdict::JudgeScore;
use crate::{
    Admission, AdmissionOutcome, BuildContext, CallContext, Digest, Duel, DuelReport, Error, ErrorKind,
    Fault, FileStore, Judge, ModelRef, Outcome, Record, Registry, Result, Rule, Seed, Verdict,
};

mod size;

/// What a new duel is refused with.
const BEGIN: &str = "begin the duel";

/// Where duels are kept without `--out`.
const DUELS: &str = "duels";

/// What `albedo duel --help` ends with.
const EXAMPLES: &str = "\
Two models of a server are named in a configuration, here duel.toml. `albedo init --remote`
writes such a file, with the demo's tasks; `albedo tasks make` makes tasks of your own.

  [king]
  name = \"qwen3:4b\"
  [challenger]
  name = \"qwen3:8b\"
  [backend]
  name = \"openai\"
  base_url = \"http://localhost:11434/v1\"
  [tasks]
  name = \"parquet\"
  path = \"tasks\"
  [[judges]]
  name = \"protocol\"

  albedo config check duel.toml
  albedo duel --config duel.toml

A key is named by `key_env`, the variable that holds it. A model in a folder has `path` in the
place of `name`, and each side may have a `backend` of its own. More judges: `albedo judge --help`.
Every key: `albedo config reference`.

Why it was decided so: `--explain`, or later `albedo record show DIR --explain`.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    source: SourceArguments,
    /// Go on with the duel that this folder holds: nothing that its journal
    /// holds is asked for again. A folder that this user did not write is gone on
    /// with only if `--config` or `--demo` gives the same plan.
    #[arg(long, value_name = "DIR", group = "source")]
    resume: Option<PathBuf>,
    /// Model folder of the king, or `name:` and the name under which the backend's
    /// server offers it, instead of the configuration's.
    #[arg(long, value_name = "DIR|name:MODEL", conflicts_with = "resume")]
    king: Option<PathBuf>,
    /// The same for the challenger.
    #[arg(long, value_name = "DIR|name:MODEL", conflicts_with = "resume")]
    challenger: Option<PathBuf>,
    /// Folder of parquet tasks with their `manifest.json`.
    #[arg(long, value_name = "DIR", conflicts_with = "resume")]
    tasks: Option<PathBuf>,
    /// A judge of the panel, by its label in the configuration or its plugin's name;
    /// once for each. Settings are the configuration's.
    #[arg(long = "judge", value_name = "LABEL|NAME", conflicts_with = "resume")]
    judges: Vec<String>,
    /// The decision rule, with the configuration's constants if it names the
    /// same, else with its defaults.
    #[arg(long, value_name = "NAME", conflicts_with = "resume")]
    rule: Option<String>,
    /// Samples to draw.
    #[arg(long, value_name = "N", conflicts_with = "resume")]
    samples: Option<u32>,
    /// A whole number or 64 hexadecimal digits.
    #[arg(long, value_name = "SEED", conflicts_with = "resume")]
    seed: Option<Seed>,
    /// Folders of the reign's earlier records, oldest first: the new record names the
    /// last of them and is the next attempt. The estimate of the effect beside its
    /// verdict rests on how theirs spread, once there are ten.
    #[arg(long, value_name = "DIR", num_args = 1.., conflicts_with = "resume")]
    after: Vec<PathBuf>,
    /// Confirm the duel whose record this folder holds, on fresh tasks: the new record
    /// names it, and the rule is `fixed`, with its margins. It needs another seed.
    /// `albedo record confirm` then decides on both.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["resume", "after", "rule"])]
    confirm: Option<PathBuf>,
    /// New folder for journal and record [default: one under `duels/`].
    #[arg(long, value_name = "DIR", conflicts_with = "resume")]
    out: Option<PathBuf>,
    /// US dollars that the judges' answers may cost in all runs of the duel; with
    /// --resume instead of what it was begun with.
    #[arg(long, value_name = "USD")]
    budget_usd: Option<f64>,
    /// Run nothing: print how many samples show a lead of so many points, and what the duel would take. What earlier
    /// duels took is read from the folders of `--after`.
    #[arg(long, value_name = "POINTS", conflicts_with_all = ["resume", "confirm", "out", "explain"])]
    size_for: Option<f64>,
    /// SD of a sample's difference in points, for `--size-for` [default: that of the records of `--after`, else 48].
    #[arg(long, value_name = "POINTS", requires = "size_for")]
    sd: Option<f64>,
    /// Explain the words and numbers of the verdict.
    #[arg(long, conflicts_with = "json")]
    explain: bool,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

impl Arguments {
    /// The reign's earlier records, verified.
    async fn earlier(&self, cx: &CallContext) -> Result<Vec<Record>> {
        let (mut records, mut verified) = (Vec::new(), Vec::new());
        for folder in &self.after {
            let record = Record::open(folder)?;
            let found = record::verify_record(&record, &VerifyOptions::default(), cx).await;
            verified.push(found.map_err(|error| error.with("record", folder.display()))?);
            records.push(record);
        }
        record::verify_chain(&verified)?;
        Ok(records)
    }

    fn config(&self) -> Result<DuelConfig> {
        let mut config = self.source.read()?;
        for (model, path) in [(&mut config.king, &self.king), (&mut config.challenger, &self.challenger)] {
            if let Some(path) = path {
                if model.parameters.is_some() {
                    note("another model than the configuration's: its pin `parameters` is dropped");
                }
                let named = match super::backend::model(path) {
                    ModelRef::Served(name) => ModelConfig { name: Some(name), ..ModelConfig::default() },
                    _ => ModelConfig::folder(utf8(&absolute(path)?)?),
                };
                *model = ModelConfig { backend: model.backend.take(), ..named };
            }
        }
        if let Some(path) = &self.tasks {
            if config.tasks.settings().contains_key("manifest") {
                note("`--tasks` replaces the configuration's tasks: their pin `manifest` is dropped");
            }
            config.tasks = PluginConfig::named("parquet").with("path", json!(utf8(&absolute(path)?)?));
        }
        if !self.judges.is_empty() {
            let known = std::mem::take(&mut config.judges);
            let named = self.judges.iter().map(|name| named_judge(&known, name));
            config.judges = named.collect::<Result<_>>()?;
        }
        if let Some(name) = &self.rule
            && *name != config.duel.rule.name()
        {
            config.duel.rule = Rule::by_name(name)?;
        }
        config.duel.samples = self.samples.unwrap_or(config.duel.samples);
        config.duel.seed = self.seed.unwrap_or(config.duel.seed);
        Ok(self.within_budget(config))
    }

    /// The new folder of the duel that `digest` names, with its configuration in it.
    fn folder(&self, config: &DuelConfig, digest: Digest, key: &JournalKey) -> Result<FileStore> {
        match &self.out {
            Some(folder) => new_store(folder, config, key),
            None => new_folder(digest, config, key),
        }
    }

    fn within_budget(&self, mut config: DuelConfig) -> DuelConfig {
        config.duel.limits.budget_usd = self.budget_usd.or(config.duel.limits.budget_usd);
        config
    }
}

/// The judge of `panel` with the label `name`, else the one of that plugin, else that
/// plugin with its default settings.
pub(super) fn named_judge(panel: &[PluginConfig<dyn Judge>], name: &str) -> Result<PluginConfig<dyn Judge>> {
    if let Some(place) = panel_place(panel, name)? {
        return Ok(panel[place].clone());
    }
    let linked = Registry::linked()?.list();
    let plugins: Vec<&str> =
        linked.iter().filter(|plugin| plugin.role == "judge").map(|plugin| plugin.name).collect();
    if plugins.contains(&name) {
        return Ok(PluginConfig::named(name));
    }
    Err(unknown_judge(panel, plugins, name))
}

/// Runs the duel with its progress on standard error.
pub(crate) async fn run(arguments: &Arguments, cx: &CallContext) -> Result<Exit> {
    if let Some(margin) = arguments.size_for {
        let (config, json) = (arguments.config()?, arguments.json);
        return size::run(&config, margin, arguments.sd, &arguments.after, json);
    }
    let progress = Arc::new(Progress::default());
    let cx = &cx.with_events(progress.clone());
    let begun = begin(arguments, cx).await.inspect_err(|_| progress.finish())?;
    let Planned { duel, store, names } = match begun {
        Begun::Planned(planned) => planned,
        Begun::Refused(refused, store) => {
            progress.finish();
            return refuse(&refused, &store, arguments.json);
        }
    };
    progress.loaded();
    let (plan, look) = (duel.plan(), Look::of_stdout());
    if plan.king.model.parameters == plan.challenger.model.parameters {
        warn(BOTH_SIDES);
    }
    let finished = is_finished(&store).await?;
    if finished {
        note("this duel was decided before: nothing was asked, and this is what its record says");
    }
    if !arguments.json {
        print(&heading(plan, &duel.digest().short(), names.each_ref(), look))?;
    }
    let ended = duel.run(&store, cx).await;
    progress.finish();
    let report = ended.map_err(|error| unfinished(error, store.folder()))?;
    if arguments.json {
        print_result(&report, store.folder())?;
    } else {
        let tokens = match report.record {
            Some(_) => report::tokens(&Record::open(store.folder())?),
            None => progress.tokens(),
        };
        let mut text = report::verdict(plan, &report.verdict, tokens, look);
        if !finished {
            text += &look.entry("time", &format!("{:.1} s", progress.elapsed_secs()));
        }
        if let Some(usd) = progress.spent_usd() {
            text += &look.entry("cost", &format!("${usd:.4} for the judges"));
        }
        text += &look.entry("record", &kept(report.record, store.folder()));
        if arguments.explain {
            text += &report::explain(&report.verdict, look);
        }
        print(&text)?;
    }
    for doubt in doubts(&report.verdict) {
        warn(&doubt);
    }
    let folder = word(store.folder());
    let void = matches!(report.verdict.outcome, Outcome::Void(_));
    if !arguments.json {
        if void {
            next(&[(format!("duel --resume {folder}"), "asks again for what is missing")]);
        } else {
            next(&[
                (format!("record show {folder} --sample 0"), "a sample whole: replies and judges' answers"),
                (format!("record verify {folder}"), "works the verdict out again from what is recorded"),
            ]);
        }
    }
    Ok(if void { Exit::TryAgain } else { Exit::Done })
}

/// Whether the journal of `store` ends with a verdict that has a record.
async fn is_finished(store: &FileStore) -> Result<bool> {
    let events = store.stored().await?;
    let ended = events.iter().rev().find(|event| matches!(event, JournalEvent::Ended { .. }));
    Ok(matches!(ended, Some(JournalEvent::Ended { record: Some(_), .. })))
}

/// The fewest samples from which something is said of a judge. Source: chosen by albedo.
/// A judge whose answers flip on half of the pairs flips on all of 8 once in 256.
const FEWEST: u32 = 8;

/// What is probably not meant in how the judges answered.
fn doubts(verdict: &Verdict) -> Vec<String> {
    let flips = |judge: &&JudgeScore| {
        let scored = verdict.samples.saturating_sub(judge.missing);
        scored >= FEWEST && judge.flips == scored
    };
    let said = |judge: &JudgeScore| {
        format!(
            "judge `{}` preferred another side in every pair when the order was exchanged: it follows the order, \
             not the replies, and moves nothing; look at its answers, or ask another",
            judge.judge
        )
    };
    verdict.judges.iter().filter(flips).map(said).collect()
}

/// What became of the plan.
enum Begun {
    Planned(Planned),
    /// The challenger is not admitted.
    Refused(Box<Refused>, FileStore),
}

struct Planned {
    duel: Box<Duel>,
    store: FileStore,
    /// What the configuration names the two models by.
    names: [String; 2],
}

struct Refused {
    admission: Admission,
    /// The digest of the record, if the challenger forfeits.
    record: Option<Digest>,
}

/// Screens the challenger, if the configuration has screens, and plans the duel. A
/// folder that is gone on with keeps the admission that it holds, unless that
/// could not be decided.
async fn begin(arguments: &Arguments, cx: &CallContext) -> Result<Begun> {
    let registry = Registry::linked()?;
    let (config, resumed, taken_over) = match &arguments.resume {
        Some(folder) => {
            let Resumed { config, store, taken_over } = resume(folder, arguments)?;
            (arguments.within_budget(config), Some(store), taken_over)
        }
        None => (arguments.config()?, None, None),
    };
    let earlier = arguments.earlier(cx).await?;
    let mut config = config;
    if !earlier.is_empty() {
        config.duel = config.duel.following(&earlier)?;
    }
    if let Some(folder) = &arguments.confirm {
        let record = Record::open(folder)?;
        record::verify_record(&record, &VerifyOptions::default(), cx).await?;
        config.duel = config.duel.confirming(&record)?;
    }
    config.check(&registry)?;
    // What would refuse the duel once both models are loaded refuses it now.
    match &arguments.out {
        Some(folder) => vacant(BEGIN, folder, "resume it, or choose another folder")?,
        None if arguments.resume.is_none() => writable(BEGIN, Path::new(DUELS))?,
        None => {}
    }
    let key = journal_key()?;
    for doubt in config.doubts().iter().filter(|doubt| *doubt != BOTH_SIDES) {
        warn(doubt);
    }
    let build = BuildContext::new(&registry, cx);
    let go_on = |error: Error| match &arguments.resume {
        Some(folder) => unfinished(error, folder),
        None => error,
    };
    let kept = match &resumed {
        // A stranger's admission is not one.
        Some(store) if taken_over.is_none() => {
            Admission::kept(store).await?.filter(|kept| kept.outcome != AdmissionOutcome::Void)
        }
        _ => None,
    };
    let (admission, is_new) = match kept {
        Some(kept) => (Some(kept), false),
        None => (admit(&config, &build).await.map_err(go_on)?, true),
    };
    if let Some(admission) = admission.clone().filter(|admission| !admission.is_admitted()) {
        let store = match resumed {
            Some(store) => store,
            None => arguments.folder(&config, Digest::of_json(&admission)?, &key)?,
        };
        let record = if is_new { admission.keep(&store, cx).await? } else { forfeited(&store).await? };
        return Ok(Begun::Refused(Box::new(Refused { admission, record }), store));
    }
    let mut builder = config.builder(&build).await.map_err(go_on)?;
    if let Some(admission) = admission.clone() {
        builder = builder.admission(admission);
    }
    if let Some(last) = earlier.last() {
        let (before, now) = (last.plan().king.model.parameters, builder.draft()?.king.model.parameters);
        if before != now {
            let message = "the earlier records are of another king's reign";
            return Err(Error::new(ErrorKind::Conflict, "plan the reign's next duel", message)
                .with_fault(Fault::Operator)
                .with("their king", before)
                .with("this king", now)
                .with_hint("leave `--after` out for a new king's first duel"));
        }
    }
    let store = match resumed {
        Some(store) => store,
        None => arguments.folder(&config, builder.draft()?.digest()?, &key)?,
    };
    if is_new
        && taken_over.is_none()
        && let Some(admission) = &admission
    {
        admission.keep(&store, cx).await?;
    }
    let duel = builder.plan(&store, cx).await.map_err(|error| unfinished(error, store.folder()))?;
    if let Some(config) = &taken_over {
        config.save(store.folder(), &key)?;
    }
    let names = [config.king.model()?.to_string(), config.challenger.model()?.to_string()];
    Ok(Begun::Planned(Planned { duel: Box::new(duel), store, names }))
}

/// The challenger's admission, if the configuration has screens.
async fn admit(config: &DuelConfig, cx: &BuildContext<'_>) -> Result<Option<Admission>> {
    if !config.is_screened() {
        return Ok(None);
    }
    let mut admission = config.admission()?;
    admission.probe = Some(config.duel.seed.probes());
    let admit = admission.admit(cx).await?;
    let bar = Bytes::default();
    let admission = admit.run(&bar.watch(cx.call())).await;
    bar.finish();
    admission.map(Some)
}

/// The record that the journal of `store` names as that of a forfeit.
async fn forfeited(store: &FileStore) -> Result<Option<Digest>> {
    let events = store.stored().await?;
    Ok(events.iter().rev().find_map(|event| match event {
        JournalEvent::Forfeited { record } => Some(*record),
        _ => None,
    }))
}

/// Says why there is no duel.
fn refuse(refused: &Refused, store: &FileStore, json: bool) -> Result<Exit> {
    let Refused { admission, record } = refused;
    if json {
        let folder = store.folder().display().to_string();
        print_json(&json!({ "admission": admission, "record": record, "folder": folder }))?;
    } else {
        let look = Look::of_stdout();
        let record = look.entry("record", &kept(*record, store.folder()));
        print(&format!("{}{record}", report::screened(admission, look)))?;
    }
    Ok(Exit::of_admission(admission.outcome))
}

/// Where the duel is kept.
fn kept(record: Option<Digest>, folder: &Path) -> String {
    let record = record.map_or_else(|| "none, only a journal".into(), |digest| digest.to_string());
    format!("{record} in {}", folder.display())
}

/// A folder to go on with.
struct Resumed {
    config: DuelConfig,
    store: FileStore,
    /// What is to be saved in the folder once its journal turns out to be this duel's:
    /// somebody else wrote in it so far.
    taken_over: Option<DuelConfig>,
}

/// Opens `folder`, whose own configuration counts only if this user wrote it.
fn resume(folder: &Path, arguments: &Arguments) -> Result<Resumed> {
    let key = journal_key()?;
    let given = if arguments.source.given() { Some(arguments.source.read()?) } else { None };
    let own = match DuelConfig::saved(folder).and_then(|saved| saved.of(&key)) {
        Err(error) if given.is_none() => return Err(error),
        saved => saved.ok().flatten(),
    };
    let mut refused = foreign(folder);
    if let Some((saved, anchor)) = own {
        let store = match FileStore::resume_keyed(folder, key.clone(), anchor) {
            // It ended between its configuration and its first line.
            Err(error) if error.kind() == ErrorKind::NotFound => {
                FileStore::create_keyed(folder, key.clone(), anchor)?
            }
            store => store?,
        };
        match store.foreign() {
            None => return Ok(Resumed { config: given.unwrap_or(saved), store, taken_over: None }),
            Some(line) => refused = refused.with("first such line of its journal", line),
        }
    }
    let config = given.ok_or(refused)?;
    let store = FileStore::resume_keyed(folder, key.clone(), config.tag(&key)?)?;
    Ok(Resumed { taken_over: Some(config.clone()), config, store })
}

/// The folder is not this user's: what it says of servers and keys is not followed.
fn foreign(folder: &Path) -> Error {
    let message = "this user did not write the folder's configuration or journal, or they were altered";
    Error::new(ErrorKind::Conflict, "resume the duel", message)
        .with_fault(Fault::Operator)
        .with("folder", folder.display())
        .with_hint(
            "give `--config FILE` with a configuration of your own that makes the same plan; `albedo record` \
             shows and verifies any folder",
        )
}

/// Refuses `folder` as that of something new before anything is loaded for it: it holds a duel, or cannot be
/// written.
///
/// # Errors
/// [`ErrorKind::Conflict`], the operator's, if it holds a duel; the operating system's.
pub(super) fn vacant(operation: &'static str, folder: &Path, hint: &str) -> Result<()> {
    if folder.join("journal.jsonl").exists() {
        return Err(Error::new(ErrorKind::Conflict, operation, "the folder already holds a duel")
            .with_fault(Fault::Operator)
            .with("path", folder.display())
            .with_hint(hint));
    }
    writable(operation, folder)
}

/// Writes and removes a file in `folder` or, if it does not exist, in the nearest of its parents that does. Makes
/// no folder: nothing is left of a command that fails later.
///
/// # Errors
/// The operating system's.
fn writable(operation: &'static str, folder: &Path) -> Result<()> {
    let nearest = folder.ancestors().find(|place| place.symlink_metadata().is_ok());
    // The last parent of a relative path is empty.
    let part = nearest.unwrap_or(Path::new(".")).join(format!(".albedo-{}.part", std::process::id()));
    let written = std::fs::File::create_new(&part).and_then(|_| std::fs::remove_file(&part));
    written.map_err(|error| Error::io(operation, folder, error))
}

/// A store in the new folder `folder`: its configuration first, so that a folder with a
/// journal can always be resumed.
fn new_store(folder: &Path, config: &DuelConfig, key: &JournalKey) -> Result<FileStore> {
    let anchor = config.save_new(folder, key)?;
    FileStore::create_keyed(folder, key.clone(), anchor)
}

/// `error`, which ended the duel in `folder` before it was decided, with the way
/// to go on.
fn unfinished(error: Error, folder: &Path) -> Error {
    let resume = format!("`{} duel --resume {}`", program(), word(folder));
    let hint = match (error.kind(), error.fault(), error.hint()) {
        // The same settings would bring the same again.
        (ErrorKind::ConfigInvalid | ErrorKind::UnknownPlugin | ErrorKind::Unsupported, ..) => {
            return error.with("folder", folder.display());
        }
        (ErrorKind::Cancelled, ..) => format!("what was journalled is kept: go on with {resume}"),
        (_, Fault::Operator, Some(hint)) => {
            format!("{hint}; {resume} goes on, with the settings in its `duel.json`")
        }
        (_, Fault::Infrastructure, Some(hint)) => format!("{hint}; {resume} goes on"),
        (_, Fault::Infrastructure, None) => format!("{resume} goes on"),
        _ => return error.with("folder", folder.display()),
    };
    error.with_hint(hint)
}

fn heading(plan: &DuelPlan, digest: &str, names: [&String; 2], look: Look) -> String {
    let judges: Vec<_> = plan.judges.iter().map(|judge| judge.identity.name.as_str()).collect();
    let preflight = plan.canaries.iter().flat_map(|canaries| &canaries.preflight.judges);
    let without: Vec<_> =
        preflight.filter(|judge| !judge.passed()).map(|judge| judge.judge.name.as_str()).collect();
    let without = match &without[..] {
        [] => String::new(),
        without => format!("; not on the panel after their canaries: {}", without.join(", ")),
    };
    let samples = format!("{} of {} tasks, seed {}", plan.samples, plan.tasks.rows, plan.seed);
    let mut text = report::contestants(plan, names.map(|name| Some(name.as_str())), look);
    text += &look.entry("samples", &samples);
    text += &look.entry("judges", &format!("{}{without}", judges.join(", ")));
    text += &look.entry("plan", digest);
    text + "\n"
}

fn print_result(report: &DuelReport, folder: &Path) -> Result<()> {
    print_json(&json!({
        "plan": report.plan,
        "verdict": report.verdict,
        "record": report.record,
        "folder": folder.display().to_string(),
    }))
}

/// A new folder under `duels/`, named after the plan without canaries, or after the
/// admission if there is no plan; a number distinguishes equal ones.
fn new_folder(digest: Digest, config: &DuelConfig, key: &JournalKey) -> Result<FileStore> {
    let name = digest.short();
    let folders = std::iter::once(name.clone()).chain((2..=1000).map(|number| format!("{name}-{number}")));
    let mut taken = None;
    for folder in folders {
        match new_store(&Path::new(DUELS).join(folder), config, key) {
            Err(error) if error.kind() == ErrorKind::Conflict => taken = Some(error),
            created => return created,
        }
    }
    Err(taken.unwrap_or_else(|| Error::bug("choose a folder", "there was none to choose from")))
}
