//! `albedo validator`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::exit::Exit;
use super::output::{next, note, print, print_anew, print_json, word};
use super::source::absolute;
use crate::report::Look;
use crate::validator::ledger::{Ledger, SubmissionRow};
use crate::validator::table::{action, is_final, name};
use crate::validator::{DemoCompetition, FollowTerms, Validator, ValidatorConfig, story};
use crate::{
    BuildContext, CallContext, Clock, Error, ErrorKind, Fault, Registry, Resources, Result, SystemClock,
};

mod competition;
mod import;
mod orders;
mod show;
mod tail;

use competition::now_ms;
use tail::Tail;

/// What `albedo validator --help` ends with.
const EXAMPLES: &str = "\
A whole competition on this machine, with six scripted miners, in a minute or two:

  albedo validator run --demo
  albedo validator status --demo
  albedo validator history --demo

Of your own, with the settings of docs/validator.md in validator.toml:

  albedo validator run --config validator.toml";

#[derive(Debug, clap::Subcommand)]
#[command(after_help = EXAMPLES)]
pub(crate) enum Command {
    /// Run the validator until it is interrupted. What is half done then is gone on with by the
    /// next run, as after a crash.
    Run(Run),
    /// Show who reigns, what runs, what waits, and what is wrong.
    Status(Status),
    /// Show the submissions that wait, the next first, each with its reason.
    Queue(Looking),
    /// Show every submission with its outcome, and every duel.
    History(Looking),
    /// Show one submission: every move that it made, and why.
    Submission(Submission),
    /// Have a submission that waits after a failure looked at again now.
    Retry(Retry),
    /// Give up a duel that is void again and again: its share of the error budget stays spent,
    /// and the submission duels again as another attempt.
    Abandon(Abandon),
    /// Set a submission aside that has no duel yet, for example one whose files can never be fetched.
    /// Nothing is spent, and its miner may commit again from a repository of another name.
    SetAside(SetAside),
    /// Let crowns fall again after a bug that somebody has looked at.
    Unfreeze(Unfreeze),
    /// Copy the ledger, whole and at once, while the validator may go on.
    Backup(Backup),
    /// Enter the first king, who earns nothing. Says what it would do; `--yes` does it.
    Genesis(competition::First),
    /// End the competition and begin another one, whose commitments have a version of their own:
    /// older ones are ignored, and the history is kept. Says what it would do; `--yes` does it.
    Reset(competition::Again),
    /// Start where the Python system stands: its kings, the hotkeys that have taken part, its
    /// fingerprints. Says what it would do; `--yes` does it.
    Import(import::Arguments),
    /// Try everything that the validator needs, and say what to do about what does not work.
    Doctor(Looking),
}

/// Which validator is meant.
#[derive(Debug, clap::Args)]
pub(crate) struct Which {
    /// The validator's configuration.
    #[arg(long, value_name = "FILE", default_value = "validator.toml", conflicts_with = "demo")]
    config: PathBuf,
    /// The demo competition.
    #[arg(long)]
    demo: bool,
    /// The folder of the demo competition, which is made if it does not exist.
    #[arg(long, value_name = "DIR", default_value = "validator-demo", requires = "demo")]
    dir: PathBuf,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Run {
    #[command(flatten)]
    which: Which,
    /// Follow this validator instead of running duels: verify what it publishes, and set the
    /// weights that follow. Its hotkey, or the web address or folder of its public data;
    /// the configuration names the other one under `follow`.
    #[arg(long, value_name = "HOTKEY|URL", conflicts_with = "demo")]
    follow: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Looking {
    #[command(flatten)]
    which: Which,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Status {
    #[command(flatten)]
    looking: Looking,
    /// Show it anew every two seconds, until it is interrupted.
    #[arg(long, conflicts_with = "json")]
    watch: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Submission {
    /// Its number, or its hotkey or repository.
    #[arg(value_name = "ID")]
    id: String,
    #[command(flatten)]
    which: Which,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Retry {
    /// Its number, or its hotkey or repository.
    #[arg(value_name = "ID")]
    id: String,
    #[command(flatten)]
    which: Which,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Abandon {
    /// Its number, or its hotkey or repository.
    #[arg(value_name = "ID")]
    id: String,
    /// Why, for the log of duels, which everybody can read.
    #[arg(long, value_name = "TEXT")]
    reason: String,
    #[command(flatten)]
    which: Which,
}

#[derive(Debug, clap::Args)]
pub(crate) struct SetAside {
    /// Its number, or its hotkey or repository.
    #[arg(value_name = "ID")]
    id: String,
    /// Why, for the public data, which everybody can read.
    #[arg(long, value_name = "TEXT")]
    reason: String,
    #[command(flatten)]
    which: Which,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Unfreeze {
    #[command(flatten)]
    which: Which,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Backup {
    /// The new file.
    file: PathBuf,
    #[command(flatten)]
    which: Which,
}

impl Which {
    /// The configuration's file.
    fn file(&self) -> PathBuf {
        if self.demo { self.dir.join("validator.toml") } else { self.config.clone() }
    }

    /// The ledger, to look at.
    fn ledger(&self) -> Result<Ledger> {
        self.open(Ledger::read)
    }

    /// The ledger, to ask for something.
    fn beside(&self) -> Result<Ledger> {
        self.open(Ledger::beside)
    }

    /// The configuration.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], saying how to get one; as [`ValidatorConfig::read`].
    fn config(&self) -> Result<ValidatorConfig> {
        let path = self.file();
        ValidatorConfig::read(&path).map_err(|error| match error.kind() {
            ErrorKind::NotFound => {
                let message = "the configuration file does not exist";
                let hint = if self.demo {
                    format!("`albedo validator run{}` makes the demo with its configuration", self.again())
                } else {
                    "name another file with `--config FILE`, or write this one: `albedo validator run --demo` writes \
                     one to begin with, `validator-demo/validator.toml`, and `albedo config reference` lists the keys"
                        .into()
                };
                Error::new(ErrorKind::NotFound, "read the configuration", message)
                    .with_fault(Fault::Operator)
                    .with("path", path.display())
                    .with_hint(hint)
                    .with_source(error)
            }
            _ => error,
        })
    }

    fn open(&self, open: fn(&Path) -> Result<Ledger>) -> Result<Ledger> {
        open(&self.config()?.ledger()).map_err(|error| match error.kind() {
            ErrorKind::NotFound => {
                error.with_hint(format!("start the validator once: `albedo validator run{}`", self.again()))
            }
            _ => error,
        })
    }

    /// The options that mean the same validator again.
    fn again(&self) -> String {
        let default = |path: &Path, default: &str| path == Path::new(default);
        match (self.demo, default(&self.dir, "validator-demo"), default(&self.config, "validator.toml")) {
            (true, true, _) => " --demo".into(),
            (true, false, _) => format!(" --demo --dir {}", word(&self.dir)),
            (false, _, true) => String::new(),
            (false, _, false) => format!(" --config {}", word(&self.config)),
        }
    }

    /// The options of `run` that mean the same validator, who follows the same one, again.
    fn run_again(&self, follow: Option<&str>) -> String {
        let follow = follow.map(|named| format!(" --follow {}", word(Path::new(named))));
        self.again() + &follow.unwrap_or_default()
    }
}

pub(crate) async fn run(command: &Command, cx: &CallContext) -> Result<Exit> {
    match command {
        Command::Run(Run { which, follow }) => work(which, follow.as_deref(), cx).await,
        Command::Status(Status { looking: Looking { which, json: true }, .. }) => {
            print_json(&show::status_json(&which.ledger()?).await?)?;
            Ok(Exit::Done)
        }
        Command::Status(Status { looking: Looking { which, .. }, watch }) => watched(which, *watch, cx).await,
        Command::Queue(Looking { which, json }) => show::queue(&which.ledger()?, *json).await,
        Command::History(Looking { which, json }) => show::history(&which.ledger()?, *json).await,
        Command::Submission(arguments) => submission(arguments).await,
        Command::Backup(Backup { file, which }) => {
            which.ledger()?.backup(file).await?;
            print(&format!("copied the ledger to {}\n", file.display()))?;
            Ok(Exit::Done)
        }
        Command::Retry(Retry { id, which }) => orders::retry(which, id).await,
        Command::Abandon(Abandon { id, reason, which }) => orders::abandon(which, id, reason).await,
        Command::SetAside(SetAside { id, reason, which }) => orders::set_aside(which, id, reason).await,
        Command::Unfreeze(Unfreeze { which }) => orders::unfreeze(which).await,
        Command::Genesis(arguments) => competition::genesis(arguments, cx).await,
        Command::Reset(arguments) => competition::reset(arguments, cx).await,
        Command::Import(arguments) => import::run(arguments).await,
        Command::Doctor(Looking { which, json }) => orders::check(which, *json, cx).await,
    }
}

/// How often `status --watch` shows the status.
const WATCH: Duration = Duration::from_secs(2);

/// Prints the status, again and again if `watch`.
async fn watched(which: &Which, watch: bool, cx: &CallContext) -> Result<Exit> {
    let (ledger, again) = (which.ledger()?, which.again());
    loop {
        let text = show::status(&ledger, &again, now_ms()).await?;
        if !watch {
            print(&text)?;
            return Ok(Exit::Done);
        }
        if !print_anew(&format!("{text}\n"))? || cx.run("wait", tokio::time::sleep(WATCH)).await.is_err() {
            return Ok(Exit::Done);
        }
    }
}

async fn work(which: &Which, follow: Option<&str>, cx: &CallContext) -> Result<Exit> {
    let demo = which.demo.then(|| DemoCompetition::open(&which.dir)).transpose()?;
    let mut config = match &demo {
        Some(demo) => demo.config()?,
        None => which.config()?,
    };
    if let Some(named) = follow {
        config.follow.get_or_insert_default().name(&followed(named)?)?;
    }
    let registry = Registry::linked()?;
    config.check(&registry)?;
    let build = BuildContext::new(&registry, cx).with_resources(resources(&config));
    let validator = Validator::open(&config, &build).await?;
    let waiting = |error: &Error| note(&format!("waiting for the chain: {error}"));
    let king = match validator.begin(&waiting, cx).await {
        Err(error) if error.kind() == ErrorKind::Cancelled => return Ok(Exit::Done),
        king => king?,
    };
    let look = Look::of_stdout();
    let what = match validator.follows() {
        Some(terms) => format!("following {}, setting weights of", terms.at),
        None => "validating".to_owned(),
    };
    print(&format!(
        "{}{}",
        look.paragraph(&format!(
            "{what} subnet {} as {}, by {}",
            config.netuid,
            config.hotkey,
            which.file().display()
        )),
        look.paragraph(&format!("king {}: {}", king.id, king.model)),
    ))?;
    if let Some(terms) = validator.follows() {
        note(&audits(terms, &which.again()));
    }
    if let Some(address) = validator.address() {
        note(&format!("http://{address} answers /metrics, /healthz and /readyz"));
    }
    let tail = Arc::new(Tail::new(validator.ledger().clone(), demo.is_some()).await?);
    let inner = cx.child();
    let events = inner.with_events(tail.clone());
    let played = async {
        let played = match &demo {
            Some(demo) => {
                let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
                demo.play(validator.ledger(), &*clock, &inner).await
            }
            None => std::future::pending().await,
        };
        inner.cancel();
        played
    };
    let shown = async {
        let shown = tail.follow(&inner).await;
        inner.cancel();
        shown
    };
    let (ran, played, shown) = futures::join!(
        async {
            let ran = validator.run(&events).await;
            inner.cancel();
            ran
        },
        until(&inner, played),
        shown
    );
    ran?;
    shown?;
    match played {
        Some(Err(error)) if error.kind() != ErrorKind::Cancelled => return Err(error),
        Some(Ok(())) => finished(which, demo.as_ref())?,
        _ => note(&format!("stopped; `albedo validator run{}` goes on", which.run_again(follow))),
    }
    Ok(Exit::Done)
}

/// Whom `--follow` names: a folder is taken from the working directory, not from that of the
/// configuration.
fn followed(named: &str) -> Result<String> {
    if named.contains("://") || !named.contains(['/', '\\', '.']) {
        return Ok(named.to_owned());
    }
    Ok(absolute(Path::new(named))?.display().to_string())
}

/// What a follower takes on trust, in a sentence. `again` are the options that mean it again.
fn audits(terms: &FollowTerms, again: &str) -> String {
    match &terms.calibrated {
        Some([written, audited]) => format!(
            "{} replies per duel are audited (written on {written}, audited on {audited}); `albedo validator status{again}` says what \
             that would miss; answers of remote judges are taken on trust",
            terms.audit_replies
        ),
        None => "no reply is audited: that the models wrote them is taken on trust, and so are answers of remote judges".into(),
    }
}

/// What the plugins of `config` share.
fn resources(config: &ValidatorConfig) -> Resources {
    match &config.cache {
        Some(cache) => Resources::default().with_cache_dir(config.folder.join(cache)),
        None => Resources::default(),
    }
}

/// What `future` comes to, unless `cx` is cancelled before.
async fn until<T>(cx: &CallContext, future: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        value = future => Some(value),
        () = cx.cancelled() => None,
    }
}

/// The demo is over.
fn finished(which: &Which, demo: Option<&DemoCompetition>) -> Result<()> {
    let (again, dir) = (which.again(), word(&which.dir));
    print("every submission has its outcome, the new king earns, and all of it is published\n")?;
    next(&[
        (format!("validator history{again}"), "what each miner got, and every duel"),
        (format!("validator submission ben{again}"), "one submission's way, move by move"),
        (format!("record verify {dir}/state/duels/1 {dir}/state/duels/2"), "works the verdicts out again"),
    ]);
    if let Some(demo) = demo {
        note(&format!(
            "the page: python3 -m http.server --directory {} 8000, after `albedo publish page --to {0}`",
            word(&demo.site())
        ));
    }
    Ok(())
}

/// The submissions of that number, hotkey or repository; one at least.
async fn choose(which: &Which, ledger: &Ledger, id: &str) -> Result<Vec<SubmissionRow>> {
    let mut rows = ledger.submissions().await?;
    rows.retain(|row| row.id.to_string() == id || row.hotkey.0 == id || row.repository == id);
    if rows.is_empty() {
        return Err(Error::new(ErrorKind::NotFound, "find a submission", "there is no such submission")
            .with_fault(Fault::Operator)
            .with("id", id)
            .with_hint(format!("`albedo validator history{}` lists them", which.again())));
    }
    Ok(rows)
}

/// One submission, by number, hotkey or repository.
async fn submission(arguments: &Submission) -> Result<Exit> {
    let ledger = arguments.which.ledger()?;
    let found = choose(&arguments.which, &ledger, &arguments.id).await?;
    let now_ms = now_ms();
    let mut shown = Vec::new();
    let look = Look::of_stdout();
    let mut text = String::new();
    for row in &found {
        let moves = ledger.moves(Some(row.id), 0).await?;
        if arguments.json {
            shown.push(json!({ "submission": row, "action": action(row.state), "moves": moves }));
            continue;
        }
        text += &look.entry("submission", &format!("{}  {}", row.id, row.text));
        text += &look.entry("hotkey", &row.hotkey.0);
        text += &look.entry(
            "committed",
            &format!("in block {}, readable from block {}", row.place.block, row.readable_at),
        );
        text += &look.entry("state", &format!("{}: {}", name(row.state), row.reason));
        if row.voids > 0 {
            text += &look.entry("failures", &format!("{} in a row; it is tried again", row.voids));
        }
        if let Some(why) = row.set_aside.as_ref().filter(|_| !is_final(row.state)) {
            text += &look.entry("order", &format!("it is set aside before it is looked at again: {why}"));
        }
        text += &look.entry("to do", action(row.state));
        if let Some(record) = row.record {
            text += &look.entry("record", &record.to_string());
        }
        for (place, step) in moves.iter().enumerate() {
            let label = if place == 0 { "moves" } else { "" };
            let fault = step.fault.as_ref().map(|fault| format!(" ({fault})")).unwrap_or_default();
            let at = show::when(step.at_ms, now_ms);
            let line = format!("{at}  {} → {}  {}{fault}", step.from, step.to, step.reason);
            text += &look.entry(label, &line);
        }
        text.push('\n');
    }
    if arguments.json {
        print_json(&shown)?;
    } else {
        print(&text)?;
    }
    Ok(Exit::Done)
}

/// What a line calls the submission's miner, with the story of one of the demo's.
fn miner(row: &SubmissionRow, demo: bool) -> String {
    match story(&row.hotkey.0).filter(|_| demo) {
        Some(story) => format!("{} ({story})", row.hotkey),
        None => row.hotkey.0.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_goes_on_means_the_same_validator() {
        let which =
            |config: &str, demo: bool, dir: &str| Which { config: config.into(), demo, dir: dir.into() };
        let (usual, named) = ("validator.toml", which("my f.toml", false, "validator-demo"));
        assert_eq!(which(usual, false, "validator-demo").run_again(None), "");
        assert_eq!(which(usual, true, "d").run_again(None), " --demo --dir d");
        assert_eq!(named.run_again(None), " --config 'my f.toml'");
        assert_eq!(
            named.run_again(Some("https://duels.example.com/?a=1&b")),
            " --config 'my f.toml' --follow 'https://duels.example.com/?a=1&b'"
        );
    }
}
