//! What a miner writes to the chain: `register`, `commit`, `commits`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::chain::{Hotkey, NetUid};
use crate::chains::journal::ChainJournal;
use crate::chains::reveal;
use crate::chains::subtensor::{Submitted, Subtensor, SubtensorConfig};
use crate::chains::timelock::Beacon;
use crate::{CallContext, ChainClient, Error, ErrorKind, Fault, Result};
use serde_json::{Value, json};

use crate::cli::chain::{ChainArguments, in_words};
use crate::cli::exit::Exit;
use crate::cli::output::{print, print_json};
use crate::cli::source::version;
use crate::cli::wallet::{PasswordArguments, WalletArguments, agreed};

/// What every command here needs.
#[derive(Debug, clap::Args)]
pub(crate) struct Common {
    #[command(flatten)]
    chain: ChainArguments,
    #[command(flatten)]
    wallet: WalletArguments,
    /// Name of the hotkey.
    #[arg(long, value_name = "NAME", default_value = "default")]
    hotkey: String,
    /// The subnet.
    #[arg(long, value_name = "N", default_value_t = 97)]
    netuid: u16,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Writing {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    password: PasswordArguments,
    /// SQLite file of everything that this key signs.
    #[arg(long, value_name = "FILE")]
    journal: PathBuf,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Register {
    #[command(flatten)]
    writing: Writing,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Commit {
    #[command(flatten)]
    writing: Writing,
    /// The submission, as `albedo miner pack` prints it: `v7|REPOSITORY|PIN`, or the version
    /// of the present competition instead of `v7`.
    #[arg(value_name = "TEXT")]
    text: String,
    /// The competition's version: `v8` for a text that begins with `v8|`.
    #[arg(long, value_name = "VERSION", default_value = "v7", value_parser = version)]
    competition: u8,
    /// Hide it for so many blocks.
    #[arg(long, value_name = "BLOCKS", default_value_t = 3)]
    hidden_for: u64,
    /// Commit in plain text.
    #[arg(long, conflicts_with = "hidden_for")]
    plain: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Commits {
    #[command(flatten)]
    common: Common,
}

pub(super) async fn register(Register { writing }: &Register, cx: &CallContext) -> Result<Exit> {
    let common = &writing.common;
    let wallet = common.wallet.open()?;
    let hotkey = Hotkey(wallet.read_hotkey_public(&common.hotkey)?.address());
    let client = writing.client()?;
    let netuid = NetUid(common.netuid);
    let head = client.head(cx).await?;
    if let Some(neuron) = client.metagraph(netuid, &head, cx).await?.of(&hotkey) {
        let block = neuron.registered_at;
        return common.done(
            &json!({"hotkey": hotkey, "block": block, "cost": 0}),
            &format!("registered in block {block} already, by coldkey {}: nothing to do\n", neuron.coldkey.0),
        );
    }
    let cost = client.registration_cost(netuid, cx).await?;
    let most = if client.limits_registration(cx).await? {
        "no more than that"
    } else {
        "the price may rise until it is in a block"
    };
    let preview = format!(
        "register {hotkey} on subnet {} for {cost} rao ({} TAO), paid by the coldkey; {most}",
        common.netuid,
        tao(cost)
    );
    if !agreed(&preview, writing.yes)? {
        return Ok(Exit::Done);
    }
    let coldkey = writing.password.open(&wallet.coldkey())?;
    let Submitted { block, is_new } = client.register(netuid, &hotkey, cost, &coldkey, cx).await?;
    let (cost, said) = if is_new {
        (Some(cost), format!("registered in block {block}\n"))
    } else {
        // Its price was another block's.
        (
            None,
            format!("registered in block {block}, as an earlier registration was sent: nothing was signed\n"),
        )
    };
    common.done(&json!({"hotkey": hotkey, "block": block, "cost": cost}), &said)
}

pub(super) async fn commit(arguments: &Commit, cx: &CallContext) -> Result<Exit> {
    let Commit { writing, text, competition, hidden_for, plain } = arguments;
    let common = &writing.common;
    let wallet = common.wallet.open()?;
    let key = writing.password.open(&wallet.hotkey(&common.hotkey)?)?;
    let submission = reveal::parse_of(text, &key.hotkey(), *competition).map_err(|refusal| {
        Error::new(ErrorKind::DataInvalid, "commit", refusal.to_string()).with_fault(Fault::Operator)
    })?;
    let hidden = (!plain).then_some(*hidden_for);
    let how = hidden.map_or("in plain text".to_owned(), |blocks| format!("hidden for {blocks} blocks"));
    let preview = format!("commit {submission} as {} on subnet {}, {how}", key.hotkey(), common.netuid);
    if !agreed(&preview, writing.yes)? {
        return Ok(Exit::Done);
    }
    let (client, netuid) = (writing.client()?.with_signer(Arc::new(key)), NetUid(common.netuid));
    let (block, said) = if let Some(block) = client.committed(netuid, text, hidden, cx).await? {
        (block, format!("committed in block {block} already: nothing to do\n"))
    } else {
        let block = client.commit(netuid, text, hidden, cx).await?;
        (block, format!("committed in block {block}\n"))
    };
    common.done(&json!({"submission": submission, "block": block}), &said)
}

pub(super) async fn commits(Commits { common }: &Commits, cx: &CallContext) -> Result<Exit> {
    let address = common.wallet.open()?.read_hotkey_public(&common.hotkey)?.address();
    let chain = common.chain.build(cx).await?;
    let head = chain.head(cx).await?;
    let mut reveals = chain.reveals(NetUid(common.netuid), &head, cx).await?;
    reveals.retain(|reveal| reveal.hotkey.0 == address);
    let lines =
        reveals.iter().map(|reveal| format!("{}  {}\n", reveal.place.block, in_words(&reveal.content)));
    let text = lines.collect::<Vec<_>>().concat();
    common.done(&json!({"block": head, "reveals": reveals}), &text)
}

impl Common {
    fn done(&self, value: &Value, text: &str) -> Result<Exit> {
        if self.json {
            print_json(value)?;
        } else {
            print(text)?;
        }
        Ok(Exit::Done)
    }
}

impl Writing {
    /// A client that can write. Miners write to Bittensor's chain alone.
    fn client(&self) -> Result<Subtensor> {
        const OPERATION: &str = "read the chain's settings";
        let invalid = |message: String| Error::new(ErrorKind::ConfigInvalid, OPERATION, message);
        if self.common.chain.name() != "subtensor" {
            return Err(invalid("only chain `subtensor` can be written to from here".into()));
        }
        let settings = Value::Object(self.common.chain.settings()?);
        let config: SubtensorConfig =
            serde_json::from_value(settings).map_err(|error| invalid(error.to_string()))?;
        let poll = Duration::from_millis(config.poll_ms);
        let journal = ChainJournal::open(&self.journal)?;
        Ok(Subtensor::new(&config)?.with_journal(journal, Beacon::quicknet(), poll))
    }
}

/// An amount in TAO, exactly.
fn tao(rao: u64) -> String {
    format!("{}.{:09}", rao / 1_000_000_000, rao % 1_000_000_000)
}
