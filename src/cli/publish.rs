//! `albedo publish`.

use std::fmt::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::json;

use super::exit::Exit;
use super::output::{print, print_foreign_json, print_json, program, shown, warn, word};
use crate::backends::tables::Form;
use crate::publish::{
    Bucket, Conditions, Exports, FolderOutbox, LogSource, Outbox, Place, Publisher, Settings, public,
    write_page,
};
use crate::registry::SystemSecrets;
use crate::signer::KeyFile;
use crate::{BuildContext, CallContext, Registry, Result};

/// Rows that `albedo publish status` prints.
const ROWS: u32 = 20;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Publish the records under a folder that are not published yet. What fails waits in
    /// a queue beside the records and is tried again.
    Push(Push),
    /// Show what waits to be published, since when, and why.
    Status(Status),
    /// Try everything that waits again, also what had to wait for somebody to act.
    Retry(Push),
    /// Write the page that shows what is published.
    Page(Page),
    /// Print the JSON schema of the public data.
    Schema,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Push {
    /// The folder of the records, each in a folder of its own.
    folder: PathBuf,
    #[command(flatten)]
    to: To,
    /// Append each record to the log of duels in this folder, and publish the log.
    #[arg(long, value_name = "DIR", requires = "log_key")]
    log: Option<PathBuf>,
    /// File of the log's ed25519 key in PKCS #8, PEM, of mode 0600.
    #[arg(long, value_name = "FILE", requires = "log")]
    log_key: Option<PathBuf>,
    /// Name of a log that is begun: the address that it will be served at, without its
    /// scheme.
    #[arg(long, value_name = "NAME", requires = "log")]
    log_origin: Option<String>,
    /// The data sets that are put beside each record that is published now.
    #[arg(long, value_enum, value_name = "FORM", default_value_t = ExportsArgument::Parquet)]
    exports: ExportsArgument,
    /// The license of the tasks, as its SPDX name: every row of the data sets states it.
    #[arg(long, value_name = "NAME")]
    license: Option<String>,
    /// Go on for this many seconds, from when something was published last, while something waits
    /// to be tried again.
    #[arg(long, value_name = "SECS", default_value_t = 300)]
    patience: u64,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum ExportsArgument {
    /// Conversations and pairs, as parquet files.
    Parquet,
    /// The same as JSON Lines.
    Jsonl,
    /// None.
    None,
}

/// Where to publish.
#[derive(Debug, clap::Args)]
pub(crate) struct To {
    /// A folder, or `s3://BUCKET/PREFIX`. A bucket's key is taken from
    /// `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`, or from the files that
    /// `AWS_ACCESS_KEY_ID_FILE` and `AWS_SECRET_ACCESS_KEY_FILE` name.
    #[arg(long = "to", value_name = "PLACE", env = "ALBEDO_PUBLISH_TO")]
    place: String,
    /// Address of the bucket's server, if it is not Amazon's.
    #[arg(long, value_name = "URL", env = "AWS_ENDPOINT_URL")]
    endpoint: Option<String>,
    /// Region of the bucket.
    #[arg(long, value_name = "NAME", env = "AWS_REGION", default_value = "us-east-1")]
    region: String,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Status {
    /// The folder of the records.
    folder: PathBuf,
    /// Exit with 3 if a record has waited for longer than this many seconds, or needs an
    /// operator: for a monitor.
    #[arg(long, value_name = "SECS")]
    alert_after: Option<u64>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Page {
    #[command(flatten)]
    to: To,
}

pub(crate) async fn run(command: &Command, cx: &CallContext) -> Result<Exit> {
    match command {
        Command::Push(arguments) => push(arguments, false, cx).await,
        Command::Retry(arguments) => push(arguments, true, cx).await,
        Command::Status(arguments) => status(arguments).await,
        Command::Page(Page { to }) => {
            let bucket = to.open(cx)?;
            write_page(&bucket, cx).await?;
            print(&format!("wrote the page into {}\n", bucket.place()))?;
            Ok(Exit::Done)
        }
        Command::Schema => {
            print_foreign_json(&public::schema())?;
            Ok(Exit::Done)
        }
    }
}

impl To {
    fn open(&self, cx: &CallContext) -> Result<Arc<dyn Bucket>> {
        let place: Place = self.place.parse()?;
        let registry = Registry::linked()?;
        let transport = crate::backends::http::transport(&BuildContext::new(&registry, cx));
        place.open(self.endpoint.as_deref(), &self.region, &SystemSecrets::from_env(), transport)
    }
}

async fn push(arguments: &Push, all: bool, cx: &CallContext) -> Result<Exit> {
    let Push { folder, to, log, log_key, log_origin, exports, license, patience, json } = arguments;
    let outbox = FolderOutbox::open(folder)?;
    let found = outbox.scan()?;
    if all {
        outbox.retry()?;
    }
    let log = match (log, log_key) {
        (Some(log), Some(key)) => {
            Some(LogSource::new(log, Arc::new(KeyFile::open(key)?), log_origin.clone()))
        }
        _ => None,
    };
    let form = match exports {
        ExportsArgument::Parquet => Some(Form::Parquet),
        ExportsArgument::Jsonl => Some(Form::JsonLines),
        ExportsArgument::None => None,
    };
    let exports = form.map(|form| Exports { form, license: license.clone() });
    let patience = Duration::from_secs(*patience);
    let settings = Settings { log, exports, patience, ..Settings::default() };
    let bucket = to.open(cx)?;
    let publisher = Publisher::open(Arc::clone(&bucket), settings, cx).await?;
    if publisher.conditions() == Conditions::Ignored {
        warn(&format!(
            "{} ignores the conditions of writes (If-None-Match, If-Match): what is written is read back, \
             and the index can lack a record for a moment while several publishers write",
            bucket.place()
        ));
    }
    let drained = publisher.drain_folder(&outbox, cx).await?;
    let lag = publisher.lag(&outbox).await?.at(publisher.now_ms());
    if *json {
        print_json(&json!({
            "to": bucket.place(), "found": found, "published": drained.published, "already": drained.already,
            "failures": drained.failures, "waiting": drained.waiting, "stopped": drained.stopped,
            "lag_seconds": lag.as_secs(), "error": drained.error.as_ref().map(ToString::to_string),
        }))?;
    } else {
        let mut text = format!("published {} to {}", counted(drained.published), bucket.place());
        // Writing to a string cannot fail.
        if drained.already > 0 {
            let _ = write!(text, ", {} were there already", drained.already);
        }
        if drained.waiting > 0 {
            let _ = write!(text, "; {} wait since {}", drained.waiting, duration(lag));
        }
        print(&format!("{text}\n"))?;
    }
    match &drained.error {
        Some(error) if drained.waiting > 0 => {
            super::output::print_error(error);
            Ok(Exit::of(error))
        }
        _ if drained.waiting > 0 => Ok(Exit::TryAgain),
        _ => Ok(Exit::Done),
    }
}

fn counted(records: u64) -> String {
    format!("{records} {}", if records == 1 { "record" } else { "records" })
}

async fn status(arguments: &Status) -> Result<Exit> {
    let outbox = FolderOutbox::open(&arguments.folder)?;
    outbox.scan()?;
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
    let lag = outbox.lag(now_ms).await?;
    let (published, records) = outbox.counts()?;
    let rows = outbox.list(ROWS)?;
    let alert = arguments.alert_after.map(|after| lag.alerts(now_ms, Duration::from_secs(after)));
    let exit = if alert == Some(true) { Exit::Found } else { Exit::Done };
    if arguments.json {
        print_json(&json!({
            "records": records, "published": published, "waiting": lag.waiting, "stopped": lag.stopped,
            "lag_seconds": lag.at(now_ms).as_secs(), "alert": alert, "queue": rows,
        }))?;
        return Ok(exit);
    }
    let mut text = format!("published: {published} of {}", counted(records));
    // Writing to a string cannot fail.
    if lag.waiting > 0 {
        let _ = write!(text, "; {} wait since {}", lag.waiting, duration(lag.at(now_ms)));
    }
    if lag.stopped > 0 {
        let (stopped, program, folder) = (lag.stopped, program(), word(&arguments.folder));
        let retry = format!("{program} publish retry {folder} --to PLACE");
        let _ = write!(text, ", {stopped} of them for somebody to act: then `{retry}`");
    }
    text.push('\n');
    for row in rows.iter().filter(|row| row.done_ms.is_none()) {
        let when = match row.due_ms {
            Some(due) if due > now_ms => {
                format!("again in {}", duration(Duration::from_millis(due - now_ms)))
            }
            Some(_) => "due".into(),
            None => "stopped".into(),
        };
        let _ =
            writeln!(text, "{}  {}  {when}, {} failures", row.record.short(), shown(&row.folder), row.tries);
        if let Some(error) = &row.error {
            let _ = writeln!(text, "    {}", shown(error));
        }
    }
    print(&text)?;
    Ok(exit)
}

/// A time in the largest unit that leaves a digit before the point.
fn duration(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7_200 => format!("{} min", seconds / 60),
        seconds @ 7_200..172_800 => format!("{} h", seconds / 3_600),
        seconds => format!("{} days", seconds / 86_400),
    }
}
