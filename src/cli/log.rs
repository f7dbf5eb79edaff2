//! `albedo log`.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;

use super::exit::Exit;
use super::output::{print, print_foreign_json, print_json, shown};
use crate::log::{
    Anchor, Announced, Attested, End, Ended, Entry, Finding, FolderLog, Forfeited, Head, History,
    InclusionProof, Log, LogFiles, LogWriter, Revealed, Submission, verifier_key,
};
use crate::record::{self, AnyRecord, VerifyOptions};
use crate::signer::KeyFile;
use crate::{CallContext, Digest, Error, ErrorKind, Fault, PublicKey, Result, Signer};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Append what the log lacks of a duel: the announcement of its plan, or its
    /// outcome.
    Append(Append),
    /// Prove that a record or an entry is in the log, or that the log begins with
    /// what it was once.
    Prove(Prove),
    /// Check a log: that its files fit together, that every announced duel has an
    /// end, and what else is asked for. Or check a proof.
    Verify(Verify),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Append {
    /// The log's folder; made if there is none.
    #[arg(value_name = "LOG")]
    place: PathBuf,
    /// The duel's folder: a record, or the journal of a duel that has none yet.
    duel: PathBuf,
    /// File of the log's ed25519 key in PKCS #8, PEM, of mode 0600.
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// Name of a log that is begun: the address that it will be served at, without
    /// its scheme.
    #[arg(long, value_name = "NAME")]
    origin: Option<String>,
    /// Who committed to the challenger on the chain: an SS58 address.
    #[arg(long, value_name = "SS58", requires = "submission")]
    hotkey: Option<String>,
    /// What was committed to: `v7|REPOSITORY|PIN`.
    #[arg(long, value_name = "TEXT", requires = "hotkey")]
    submission: Option<String>,
    /// Log that the announced duel will never end, and why.
    #[arg(long, value_name = "REASON")]
    abandon: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Prove {
    /// The log's folder or address.
    #[arg(value_name = "LOG")]
    place: String,
    /// Prove this entry, counted from 0.
    #[arg(long, value_name = "N", group = "what")]
    entry: Option<u64>,
    /// Prove the entry that names the record of this digest.
    #[arg(long, value_name = "DIGEST", group = "what")]
    record: Option<Digest>,
    /// Prove that the log begins with the entries of the head in this file.
    #[arg(long, value_name = "FILE", group = "what")]
    since: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Verify {
    /// The log's folder or address.
    #[arg(value_name = "LOG", required_unless_present = "proof")]
    place: Option<String>,
    /// Check the proof in this file instead of a log.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["place", "heads", "reveals", "records", "anchored_by"])]
    proof: Option<PathBuf>,
    /// The log's key: `ed25519:…` or `sr25519:…`. Without it, who signed
    /// the log is unknown.
    #[arg(long, value_name = "KEY")]
    key: Option<PublicKey>,
    /// A head of the log that somebody holds: its `checkpoint` of another day or from
    /// another place.
    #[arg(long = "head", value_name = "FILE")]
    heads: Vec<PathBuf>,
    /// Submissions that a chain revealed: what `albedo chain reveals --json` prints.
    #[arg(long, value_name = "FILE")]
    reveals: Option<PathBuf>,
    /// Ask for those alone that could be read at this block.
    #[arg(long, value_name = "BLOCK", requires = "reveals")]
    until: Option<u64>,
    /// The hotkey that puts heads of the log on chain: those in the list of `--reveals`
    /// are compared with the log, and show which plans were announced by which block.
    #[arg(long, value_name = "SS58", requires = "reveals")]
    anchored_by: Option<String>,
    /// A record's folder: whether it is in the log, as it was announced.
    #[arg(long = "record", value_name = "DIR")]
    records: Vec<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(command: &Command, cx: &CallContext) -> Result<Exit> {
    match command {
        Command::Append(arguments) => append(arguments, cx).await,
        Command::Prove(arguments) => prove(arguments, cx).await,
        Command::Verify(Verify { proof: Some(proof), key, json, .. }) => {
            check_proof(proof, key.as_ref(), *json)
        }
        Command::Verify(arguments) => verify(arguments, cx).await,
    }
}

async fn append(arguments: &Append, cx: &CallContext) -> Result<Exit> {
    let Append { place, duel, key, origin, hotkey, submission, abandon, json } = arguments;
    let key = Arc::new(KeyFile::open(key)?);
    let submission = match (hotkey, submission) {
        (Some(hotkey), Some(text)) => Some(Submission::new(hotkey, text)?),
        _ => None,
    };
    let logged = Logged { duel, submission, abandon: abandon.as_deref() };
    // Nothing is written before the duel was read and found to be true.
    let known = logged.known(cx).await?;
    let mut writer = LogWriter::open(place, origin.as_deref(), Arc::<KeyFile>::clone(&key))?;
    let read = Log::open(Arc::new(FolderLog::new(place)), Some(&key.key()), cx).await?;
    let history = History::new(read.head(), &read.entries(cx).await?)?;
    let entries = logged.entries(&known, &history)?;
    let head = writer.append(&entries)?;
    if *json {
        print_json(&json!({
            "origin": head.origin,
            "size": head.size,
            "root": head.root,
            "key": key.key(),
            "verifier_key": verifier_key(&head.origin, &key.key()),
            "appended": entries,
        }))?;
        return Ok(Exit::Done);
    }
    let appended: Vec<_> = entries.iter().map(|entry| format!("appended {}\n", describe(entry))).collect();
    let appended =
        if appended.is_empty() { "the log has it already\n".to_owned() } else { appended.concat() };
    print(&format!(
        "{appended}{}: {} entries, {}\n    signed by {}\n",
        head.origin,
        head.size,
        head.root,
        key.key()
    ))?;
    Ok(Exit::Done)
}

/// A duel that is to be logged.
struct Logged<'a> {
    duel: &'a Path,
    submission: Option<Submission>,
    abandon: Option<&'a str>,
}

/// What its folder tells.
enum Known {
    Record(AnyRecord),
    Plan(Box<crate::DuelPlan>),
}

impl Logged<'_> {
    async fn known(&self, cx: &CallContext) -> Result<Known> {
        if !self.duel.join("record.digest").exists() {
            let plan = record::planned(self.duel)?;
            return plan.map(|plan| Known::Plan(Box::new(plan))).ok_or_else(|| {
                Error::new(
                    ErrorKind::NotFound,
                    "log the duel",
                    "the folder holds neither a record nor a plan",
                )
                .with_fault(Fault::Operator)
                .with("path", self.duel.display())
            });
        }
        if self.abandon.is_some() {
            return Err(Error::new(
                ErrorKind::ConfigInvalid,
                "log the duel",
                "a duel with a record is not abandoned",
            )
            .with_fault(Fault::Operator)
            .with_hint("leave `--abandon` out"));
        }
        let record = AnyRecord::open(self.duel)?;
        verify_record(&record, cx).await.map_err(|error| error.with("record", self.duel.display()))?;
        Ok(Known::Record(record))
    }

    /// What the log lacks.
    fn entries(&self, known: &Known, history: &History) -> Result<Vec<Entry>> {
        let submission = self.submission.clone();
        Ok(match known {
            Known::Record(record) => history.lacks(record, submission)?,
            Known::Plan(plan) => match (history.announcement(plan)?, self.abandon) {
                (None, None) => vec![Entry::Announced(Announced::new(plan, submission)?)],
                (Some(_), None) => Vec::new(),
                (Some(announced), Some(reason)) => {
                    vec![Entry::Ended(Ended { announced, end: End::Abandoned { reason: reason.to_owned() } })]
                }
                (None, Some(_)) => {
                    return Err(Error::new(
                        ErrorKind::NotFound,
                        "log the duel",
                        "the log did not announce it",
                    )
                    .with_fault(Fault::Operator)
                    .with_hint("append it without `--abandon` first"));
                }
            },
        })
    }
}

async fn verify_record(record: &AnyRecord, cx: &CallContext) -> Result<()> {
    match record {
        AnyRecord::Forfeit(record) => record.verify(None),
        AnyRecord::Duel(record) => {
            record::verify_record(record, &VerifyOptions::default(), cx).await.map(|_verified| ())
        }
    }
}

async fn prove(arguments: &Prove, cx: &CallContext) -> Result<Exit> {
    let Prove { place, entry, record, since } = arguments;
    let log = Log::open(files(place, cx)?, None, cx).await?;
    if let Some(path) = since {
        let held = read_head(path)?;
        print_foreign_json(&log.prove_consistency(held.size, cx).await?)?;
        return Ok(Exit::Done);
    }
    let index = match (entry, record) {
        (Some(entry), _) => *entry,
        (None, Some(record)) => {
            let history = History::new(log.head(), &log.entries(cx).await?)?;
            history.place(*record).ok_or_else(|| {
                Error::new(ErrorKind::NotFound, "prove a record", "the log does not have it")
                    .with_fault(Fault::Operator)
                    .with("record", record)
            })?
        }
        (None, None) => {
            return Err(Error::new(ErrorKind::ConfigInvalid, "prove", "nothing is asked for")
                .with_hint("give `--entry`, `--record` or `--since`"));
        }
    };
    print(&log.prove_inclusion(index, cx).await?.to_string())?;
    Ok(Exit::Done)
}

fn check_proof(path: &Path, key: Option<&PublicKey>, json: bool) -> Result<Exit> {
    let proof = InclusionProof::parse(&read_text(path)?)?;
    proof.check(key)?;
    let entry = Entry::parse(&proof.entry)?;
    if json {
        print_json(&json!({
            "origin": proof.head.origin, "size": proof.head.size, "root": proof.head.root, "signed_by": key,
            "index": proof.index, "entry": entry,
        }))?;
    } else {
        let InclusionProof { index, head, .. } = &proof;
        print(&format!(
            "proved: entry {index} of {} entries of {}{}\n    {}\n",
            head.size,
            head.origin,
            signed_by(key),
            describe(&entry)
        ))?;
    }
    Ok(Exit::Done)
}

async fn verify(arguments: &Verify, cx: &CallContext) -> Result<Exit> {
    let Verify { place, key, heads, reveals, until, anchored_by, records, json, .. } = arguments;
    let log = Log::open(files(place.as_deref().unwrap_or("."), cx)?, key.as_ref(), cx).await?;
    let history = History::new(log.head(), &log.entries(cx).await?)?;
    let mut findings = history.check_ends();
    for path in heads {
        let held = read_head(path)?;
        if let Some(key) = key {
            held.verify(key).map_err(|error| error.with("path", path.display()))?;
        }
        findings.extend(history.check_head(&held)?);
    }
    let mut attested = None;
    if let Some(path) = reveals {
        let bytes = fs::read(path).map_err(|error| Error::io("read the chain's reveals", path, error))?;
        let mut revealed = Revealed::read(&bytes).map_err(|error| error.with("path", path.display()))?;
        if let Some(until) = until {
            revealed.retain(|revealed| revealed.block.is_none_or(|block| block <= *until));
        }
        findings.extend(history.check_reveals(&revealed));
        if let Some(hotkey) = anchored_by {
            let anchors = Anchor::read(&bytes, hotkey).map_err(|error| error.with("path", path.display()))?;
            findings.extend(anchors.iter().filter_map(|anchor| history.check_anchor(anchor)));
            attested = Some(history.attested(&anchors));
        }
    }
    for folder in records {
        let record = AnyRecord::open(folder)?;
        verify_record(&record, cx).await.map_err(|error| error.with("record", folder.display()))?;
        findings.extend(history.check_record(&record)?);
    }
    let head = log.head();
    if *json {
        print_json(&json!({
            "origin": head.origin, "size": head.size, "root": head.root, "signed_by": key, "findings": findings,
            "attested": attested,
        }))?;
    } else {
        let found: Vec<_> = findings.iter().map(found).collect();
        print(&format!(
            "{}: {} entries fit together, {}{}\n{}{}",
            head.origin,
            head.size,
            head.root,
            signed_by(key.as_ref()),
            attested.map(|attested| on_chain(&history, &attested)).unwrap_or_default(),
            found.concat()
        ))?;
    }
    Ok(if findings.is_empty() { Exit::Done } else { Exit::Found })
}

fn signed_by(key: Option<&PublicKey>) -> String {
    key.map_or("\n    nobody's signature was checked: give `--key`".to_owned(), |key| {
        format!("\n    signed by {key}")
    })
}

/// Which plans were announced by which block.
fn on_chain(history: &History, attested: &[Attested]) -> String {
    let announced = history.entries().iter().filter(|entry| matches!(entry, Entry::Announced(_))).count();
    let plans = attested.iter().map(|at| format!("    entry {} by block {}\n", at.entry, at.block));
    format!("on chain: {} of {announced} announced plans\n{}", attested.len(), plans.collect::<String>())
}

fn found(finding: &Finding) -> String {
    match finding {
        Finding::NoEnd { entry, announced } => format!(
            "no end: entry {entry} announced a duel of {} that has none\n",
            announced.challenger.short()
        ),
        Finding::WrongEnd { entry, announced } => {
            format!(
                "wrong end: entry {entry} ends entry {announced}, which is no open announcement before it\n"
            )
        }
        Finding::NeverEntered { submission, block } => format!(
            "never entered: {} of {}{}\n",
            shown(&submission.repository),
            shown(&submission.hotkey),
            block.map(|block| format!(", readable from block {block}")).unwrap_or_default()
        ),
        Finding::Contradiction { held, head, root } => format!(
            "two histories: the log has {root} where a head that is held has another hash. Both heads:\n{}\n\n{}\n",
            shown(held),
            shown(head)
        ),
        Finding::Truncated { held, size } => {
            format!(
                "shortened: the log shows {size} entries, and a head that is held covers more:\n{}\n",
                shown(held)
            )
        }
        Finding::NotLogged { record } => format!("not logged: record {record}\n"),
        Finding::NotAsAnnounced { record, entry } => {
            format!("not as announced: record {record}, which entry {entry} names\n")
        }
        _ => "a finding that this build does not know\n".into(),
    }
}

fn describe(entry: &Entry) -> String {
    match entry {
        Entry::Announced(Announced { plan, challenger, .. }) => {
            format!("the plan {} without its seed, challenger {}", plan.short(), challenger.short())
        }
        Entry::Ended(Ended { announced, end: End::Recorded { record, outcome, .. } }) => {
            format!("the end of entry {announced}: {outcome}, record {record}")
        }
        Entry::Ended(Ended { announced, end: End::Abandoned { reason } }) => {
            format!("the end of entry {announced}: abandoned, {}", shown(reason))
        }
        Entry::Forfeited(Forfeited { record, .. }) => {
            format!("a submission that was not admitted, record {record}")
        }
        _ => "an entry that this build does not know".into(),
    }
}

fn read_head(path: &Path) -> Result<Head> {
    Head::parse(&read_text(path)?).map_err(|error| error.with("path", path.display()))
}

fn read_text(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(|error| Error::io("read the file", path, error))
}

/// The files of the log in a folder or at an address.
fn files(place: &str, cx: &CallContext) -> Result<Arc<dyn LogFiles>> {
    if !place.starts_with("https://") && !place.starts_with("http://") {
        return Ok(Arc::new(FolderLog::new(place)));
    }
    served(place, cx)
}

#[cfg(feature = "openai")]
fn served(address: &str, cx: &CallContext) -> Result<Arc<dyn LogFiles>> {
    let registry = crate::Registry::linked()?;
    let transport = crate::backends::http::transport(&crate::BuildContext::new(&registry, cx));
    Ok(Arc::new(crate::log::HttpLog::new(transport, address)))
}

#[cfg(not(feature = "openai"))]
fn served(address: &str, _: &CallContext) -> Result<Arc<dyn LogFiles>> {
    Err(Error::new(ErrorKind::Unsupported, "read the log", "this build has no HTTP client")
        .with_fault(Fault::Operator)
        .with("address", address)
        .with_hint("build with `--features openai`, or fetch the log into a folder"))
}
