//! `albedo chain`.

use std::fmt::Write;
use std::path::PathBuf;
use std::sync::Arc;

use crate::chain::{BlockRef, Content, DatedBy, NetUid, Reveal};
use crate::chains::address::public_key;
use crate::chains::journal::{Account, ChainJournal, Epoch};
use crate::chains::ledger::{Ledger, Seen, Sighting};
use crate::{CallContext, ChainClient, Error, ErrorKind, Registry, Result};
use serde_json::{Map, Value, json};

use super::exit::Exit;
use super::output::{print, print_json};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// The newest finalised block.
    Head(Read),
    /// The table of neurons.
    Metagraph(Read),
    /// What miners have committed to, the first one first.
    Reveals(Reveals),
    /// Weights in force.
    Weights(Read),
    /// The subnet's hyperparameters, and its epoch.
    Hyperparameters(Read),
    /// What a journal says: epochs that were served or missed.
    Epochs(Journal),
    /// Let a key sign again after an alert.
    Acknowledge(Acknowledge),
}

/// The chain that a command is about.
#[derive(Debug, clap::Args)]
pub(crate) struct ChainArguments {
    /// The chain client; `albedo plugins` lists them.
    #[arg(long, value_name = "NAME", default_value = "subtensor")]
    chain: String,
    /// A setting of the client, once for each. The value is read as JSON, and
    /// as a text if it is none.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = setting)]
    settings: Vec<(String, Value)>,
    /// Address of a node; the client's setting `endpoints`. May be repeated.
    #[arg(long, value_name = "URL")]
    endpoint: Vec<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Read {
    #[command(flatten)]
    chain: ChainArguments,
    /// The subnet.
    #[arg(long, value_name = "N", default_value_t = 97)]
    netuid: u16,
    /// The block; the newest finalised one by default.
    #[arg(long, value_name = "NUMBER")]
    block: Option<u64>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Reveals {
    #[command(flatten)]
    read: Read,
    /// SQLite file that keeps who was first; made if it does not exist. Without
    /// it the list is what the chain still knows.
    #[arg(long, value_name = "FILE")]
    ledger: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Journal {
    /// The journal's SQLite file.
    #[arg(long, value_name = "FILE")]
    journal: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Acknowledge {
    /// The journal's SQLite file.
    #[arg(long, value_name = "FILE")]
    journal: PathBuf,
    /// The chain's genesis hash; the main network's by default.
    #[arg(long, value_name = "HASH", default_value = crate::chains::subtensor::FINNEY)]
    genesis: String,
    /// The key's address.
    #[arg(value_name = "SS58")]
    key: String,
}

pub(crate) fn setting(text: &str) -> Result<(String, Value), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => {
            let value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.into()));
            Ok((key.into(), value))
        }
        _ => Err("a setting is KEY=VALUE".into()),
    }
}

pub(crate) async fn run(command: &Command, cx: &CallContext) -> Result<Exit> {
    match command {
        Command::Head(read) => {
            let (_, at) = read.at(cx).await?;
            if read.json { print_json(&at)? } else { print(&format!("{} {}\n", at.number, at.hash))? }
        }
        Command::Metagraph(read) => metagraph(read, cx).await?,
        Command::Reveals(reveals) => self::reveals(reveals, cx).await?,
        Command::Weights(read) => weights(read, cx).await?,
        Command::Hyperparameters(read) => {
            let (chain, at) = read.at(cx).await?;
            let subnet = chain.subnet(NetUid(read.netuid), &at, cx).await?;
            if read.json {
                print_json(&json!({"block": at, "subnet": subnet}))?;
            } else {
                print(&table(&json!(subnet)))?;
            }
        }
        Command::Epochs(arguments) => epochs(arguments).await?,
        Command::Acknowledge(arguments) => {
            let journal = existing(&arguments.journal)?;
            let signer = public_key(&arguments.key)?;
            let account = Account { genesis: arguments.genesis.parse()?, signer };
            match journal.alerted(account).await? {
                Some(alert) => {
                    journal.acknowledge(account).await?;
                    print(&format!("acknowledged: {alert}\n"))?;
                }
                None => print("there is no alert for this key\n")?,
            }
        }
    }
    Ok(Exit::Done)
}

impl ChainArguments {
    /// The client's settings.
    pub(crate) fn settings(&self) -> Result<Map<String, Value>> {
        let endpoints = (!self.endpoint.is_empty()).then(|| ("endpoints".to_owned(), json!(self.endpoint)));
        let mut settings = Map::new();
        for (key, value) in self.settings.iter().cloned().chain(endpoints) {
            if settings.insert(key.clone(), value).is_some() {
                let message = format!("`{key}` is set twice");
                return Err(Error::new(ErrorKind::ConfigInvalid, "read the chain's settings", message));
            }
        }
        Ok(settings)
    }

    /// The client's name.
    pub(crate) fn name(&self) -> &str {
        &self.chain
    }

    pub(crate) async fn build(&self, cx: &CallContext) -> Result<Arc<dyn ChainClient>> {
        let settings = Value::Object(self.settings()?);
        Registry::linked()?.build::<dyn ChainClient>(&self.chain, settings, cx).await
    }
}

impl Read {
    async fn at(&self, cx: &CallContext) -> Result<(Arc<dyn ChainClient>, BlockRef)> {
        let chain = self.chain.build(cx).await?;
        let at = match self.block {
            Some(number) => chain.block(number, cx).await?,
            None => chain.head(cx).await?,
        };
        Ok((chain, at))
    }
}

async fn metagraph(read: &Read, cx: &CallContext) -> Result<()> {
    let (chain, at) = read.at(cx).await?;
    let metagraph = chain.metagraph(NetUid(read.netuid), &at, cx).await?;
    if read.json {
        return print_json(&json!({"block": at, "neurons": metagraph.neurons}));
    }
    let mut text = format!("{:>5}  {:<48}  {:>10}  permit  stake (rao)\n", "uid", "hotkey", "registered");
    for neuron in metagraph.neurons {
        let permit = if neuron.validator_permit { "yes" } else { "" };
        let _ = writeln!(
            text,
            "{:>5}  {:<48}  {:>10}  {permit:<6}  {}",
            neuron.uid.0, neuron.hotkey.0, neuron.registered_at, neuron.stake
        );
    }
    print(&text)
}

async fn reveals(arguments: &Reveals, cx: &CallContext) -> Result<()> {
    let Reveals { read, ledger } = arguments;
    let (chain, at) = read.at(cx).await?;
    let netuid = NetUid(read.netuid);
    let sightings = if let Some(path) = ledger {
        let ledger = Ledger::open(path)?;
        ledger.follow(&*chain, netuid, &at, cx).await?;
        ledger.sightings(chain.genesis(cx).await?, netuid).await?
    } else {
        let seen = |reveal: Reveal| Sighting {
            hotkey: reveal.hotkey,
            place: reveal.place,
            readable_at: reveal.readable_at,
            content: reveal.content,
            seen: Seen::Unknown,
        };
        chain.reveals(netuid, &at, cx).await?.into_iter().map(seen).collect()
    };
    if read.json {
        let rows: Vec<_> = sightings.iter().map(row).collect();
        return print_json(&json!({"block": at, "reveals": rows}));
    }
    let mut text = String::new();
    // Writing to a string cannot fail, here and below.
    for sighting in sightings {
        let dated = if sighting.place.dated_by == DatedBy::Reveal { " (its reveal's)" } else { "" };
        let content = in_words(&sighting.content);
        let refusal = match sighting.submission() {
            Some(Err(refusal)) => format!("  [{refusal}]"),
            _ => String::new(),
        };
        let _ = writeln!(text, "{}{dated}  {}  {content}{refusal}", sighting.place.block, sighting.hotkey);
    }
    print(&text)
}

/// What a commitment holds, for a terminal.
pub(crate) fn in_words(content: &Content) -> String {
    match content {
        Content::Text(text) => super::output::shown(text),
        Content::Hidden { reveal_round, .. } => format!("hidden until round {reveal_round}"),
        Content::RevealFailed { reveal_round } => format!("could not be revealed at round {reveal_round}"),
        Content::Unreadable { reason } => reason.clone(),
    }
}

/// A sighting, with the submission that it is or why it is none.
fn row(sighting: &Sighting) -> Value {
    let mut row = json!(sighting);
    match sighting.submission() {
        Some(Ok(submission)) => row["submission"] = json!(submission),
        Some(Err(refusal)) => row["refusal"] = json!(refusal.to_string()),
        None => {}
    }
    row
}

async fn weights(read: &Read, cx: &CallContext) -> Result<()> {
    let (chain, at) = read.at(cx).await?;
    let view = chain.weights(NetUid(read.netuid), &at, cx).await?;
    if read.json {
        return print_json(&json!({"block": at, "rows": view.rows}));
    }
    let mut text = String::new();
    for row in view.rows {
        let weights: Vec<_> = row.weights.iter().map(|(uid, weight)| format!("{}:{weight}", uid.0)).collect();
        let _ = writeln!(text, "{:>5}  {}", row.validator.0, weights.join(" "));
    }
    print(&text)
}

async fn epochs(arguments: &Journal) -> Result<()> {
    let epochs = existing(&arguments.journal)?.epochs().await?;
    let mut rows = Vec::new();
    let mut text = String::new();
    for (key, epoch) in epochs {
        match epoch {
            Epoch::Served { digest, receipt } => {
                let _ = writeln!(text, "{}  served  block {}  {}", key.epoch, receipt.block, digest.short());
                rows.push(json!({"key": key, "served": receipt, "digest": digest}));
            }
            Epoch::Missed(reason) => {
                let _ = writeln!(text, "{}  missed  {reason}", key.epoch);
                rows.push(json!({"key": key, "missed": reason}));
            }
        }
    }
    if arguments.json { print_json(&rows) } else { print(&text) }
}

/// A journal that is not made by looking at it.
fn existing(path: &std::path::Path) -> Result<ChainJournal> {
    std::fs::metadata(path).map_err(|error| Error::io("open the chain journal", path, error))?;
    ChainJournal::open(path)
}

/// An object, a line per key.
fn table(value: &Value) -> String {
    let rows = value.as_object().into_iter().flatten();
    rows.map(|(key, value)| match value {
        Value::String(text) => format!("{key:<20}  {text}\n"),
        value => format!("{key:<20}  {value}\n"),
    })
    .collect::<Vec<_>>()
    .concat()
}
