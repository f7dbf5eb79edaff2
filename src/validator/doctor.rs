//! `albedo validator doctor`: everything that a validator needs, tried one by one.

use std::path::Path;

use serde::Serialize;

use super::config::{FollowSettings, ValidatorConfig};
use super::following::{Auditor, Source};
use super::genesis::{Genesis, first_king, genesis_files};
use super::ledger::Ledger;
use super::parts::{bucket, missing_key};
use crate::chain::{Hotkey, NetUid};
use crate::log::Log;
use crate::registry::CheckContext;
use crate::signer::KeyFile;
use crate::weights::check_setter;
use crate::{BuildContext, ChainClient, Error, ErrorKind, Fault, Result, Signer};

/// What was found of one thing.
#[derive(Debug, Clone)]
pub struct Check {
    /// What was tried.
    pub name: &'static str,
    /// What was found.
    pub found: Found,
}

/// What a check found.
#[derive(Debug, Clone)]
pub enum Found {
    /// It works.
    Well(String),
    /// It is not needed, or cannot be tried yet.
    Skipped(String),
    /// It does not work.
    Bad(Error),
}

impl Check {
    fn of(name: &'static str, found: Result<String>) -> Self {
        Self { name, found: found.map_or_else(Found::Bad, Found::Well) }
    }
}

/// Tries everything that `config` names, and changes nothing but the caches of models.
/// What depends on something that does not work is not tried.
pub async fn doctor(config: &ValidatorConfig, cx: &BuildContext<'_>) -> Vec<Check> {
    let mut checks = Vec::new();
    let checked = config.check(cx.registry()).map(|()| "every key is known and fits".to_owned());
    let goes_on = checked.is_ok();
    checks.push(Check::of("configuration", checked));
    if !goes_on {
        return checks;
    }
    let cx = &cx.relative_to(&config.folder).only_looking();
    checks.push(disk(config));
    checks.push(ledger(config).await);
    if let Some(follow) = &config.follow {
        checks.extend(chain(config, cx).await);
        checks.push(Check::of("followed", followed(config, follow, cx).await));
        checks.push(audits(config, follow, cx).await);
    } else {
        checks.push(Check::of("log key", log_key(config, cx)));
        checks.extend(chain(config, cx).await);
        checks.push(Check::of("first king", genesis(config, cx).await));
        checks.push(Check::of("tasks", tasks(config, cx).await));
        checks.push(Check::of("backend", backend(config, cx).await));
        checks.push(Check::of("judges", judges(config, cx).await));
        checks.push(Check::of("publishing", published(config, cx).await));
    }
    checks.push(match &config.operate.webhook {
        None => Check {
            name: "webhook",
            found: Found::Skipped("alerts are sent nowhere: `operate.webhook` is not set".into()),
        },
        Some(webhook) => {
            let secret = cx.secret(&webhook.url_env);
            Check::of("webhook", secret.map(|_| format!("{} is set; nothing was sent", webhook.url_env)))
        }
    });
    checks
}

fn disk(config: &ValidatorConfig) -> Check {
    let state = config.state();
    // The folder is made by the first run.
    let there = state.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("/"));
    let free = config.operate.disk(there).check();
    Check::of(
        "disk",
        free.map(|free| {
            format!("{:.1} GB are free, {} are reserved", free as f64 / 1e9, config.operate.reserve_gb)
        }),
    )
}

async fn ledger(config: &ValidatorConfig) -> Check {
    let read = async {
        let ledger = Ledger::read(&config.ledger())?;
        let (frozen, alerts) = (ledger.frozen().await?, ledger.alerts().await?);
        if let Some(bug) = frozen {
            return Err(Error::new(ErrorKind::Conflict, "check the ledger", "no crown falls after a bug")
                .with_fault(Fault::Operator)
                .with("bug", bug)
                .with_hint("report it; `albedo validator unfreeze` once it is understood"));
        }
        Ok(format!("{} submissions, {} alerts", ledger.submissions().await?.len(), alerts.len()))
    };
    match read.await {
        Err(error) if error.kind() == ErrorKind::NotFound => Check {
            name: "ledger",
            found: Found::Skipped("there is none yet: the first run makes it".into()),
        },
        read => Check::of("ledger", read),
    }
}

fn log_key(config: &ValidatorConfig, cx: &BuildContext<'_>) -> Result<String> {
    let key = KeyFile::open(&cx.path(&config.log()?.key)).map_err(missing_key)?;
    Ok(key.key().to_string())
}

/// The validator that is followed: its public data, and the head of its log.
async fn followed(
    config: &ValidatorConfig,
    follow: &FollowSettings,
    cx: &BuildContext<'_>,
) -> Result<String> {
    let source = Source::of(config, follow, cx)?;
    let status = source.status(cx.call()).await?;
    let named = follow.key.as_deref().or(status.log.as_ref().map(|log| log.key.as_str()));
    let key = named.map(str::parse).transpose()?;
    let log = Log::open(source.log(), key.as_ref(), cx.call()).await?;
    let hotkey =
        follow.hotkey.as_ref().or(status.validator.as_ref()).map_or("an unnamed hotkey", String::as_str);
    Ok(format!("{hotkey} at {}: a log of {} entries", source.place(), log.head().size))
}

async fn audits(config: &ValidatorConfig, follow: &FollowSettings, cx: &BuildContext<'_>) -> Check {
    const NAME: &str = "audits";
    match Auditor::build(config, follow, cx).await {
        Ok(None) => Check {
            name: NAME,
            found: Found::Skipped(
                "`follow.audit_replies` is 0: that the models wrote the replies is taken on trust".into(),
            ),
        },
        Ok(Some(auditor)) => {
            let [written, audited] = auditor.calibrated();
            let said = format!(
                "{} replies per duel, written on {written}, audited on {audited}",
                follow.audit_replies
            );
            Check::of(NAME, Ok(said))
        }
        Err(error) => Check::of(NAME, Err(error)),
    }
}

/// The chain, and whether the hotkey may set weights there.
async fn chain(config: &ValidatorConfig, cx: &BuildContext<'_>) -> Vec<Check> {
    let built = match CheckContext::new(cx.registry()).plugin("chain", &config.chain) {
        Ok(checked) => checked.build(cx).await,
        Err(error) => Err(error),
    };
    let chain = match built {
        Ok(chain) => chain,
        Err(error) => return vec![Check::of("chain", Err(error))],
    };
    let head = match chain.head(cx.call()).await {
        Ok(head) => head,
        Err(error) => return vec![Check::of("chain", Err(error))],
    };
    let mut checks = vec![Check::of("chain", Ok(format!("block {} is final", head.number)))];
    checks.push(Check::of("permit", permit(config, &*chain, &head, cx).await));
    checks
}

async fn permit(
    config: &ValidatorConfig,
    chain: &dyn ChainClient,
    head: &crate::chain::BlockRef,
    cx: &BuildContext<'_>,
) -> Result<String> {
    let (netuid, hotkey) = (NetUid(config.netuid), Hotkey(config.hotkey.clone()));
    let subnet = chain.subnet(netuid, head, cx.call()).await?;
    let metagraph = chain.metagraph(netuid, head, cx.call()).await?;
    check_setter(&hotkey, &subnet, &metagraph)
        .map_err(|error| super::run::not_permitted(&error, &hotkey, netuid))?;
    let uid = metagraph.of(&hotkey).map_or(0, |neuron| neuron.uid.0);
    Ok(format!("the hotkey is slot {uid} of subnet {} and may set weights", netuid.0))
}

async fn genesis(config: &ValidatorConfig, cx: &BuildContext<'_>) -> Result<String> {
    // What is wrong with the ledger, its own check says.
    let ledger = Ledger::read(&config.ledger()).ok();
    let model = first_king(config, ledger.as_ref(), cx).await?;
    let Genesis { model, files, bytes } = genesis_files(config, &model, cx).await?;
    Ok(format!("{model}: {files} files, {:.1} MB", bytes as f64 / 1e6))
}

async fn tasks(config: &ValidatorConfig, cx: &BuildContext<'_>) -> Result<String> {
    let tasks = CheckContext::new(cx.registry()).plugin("tasks", config.tasks()?)?.build(cx).await?;
    Ok(format!("{} rows", tasks.info().rows))
}

async fn backend(config: &ValidatorConfig, cx: &BuildContext<'_>) -> Result<String> {
    let built = CheckContext::new(cx.registry()).plugin("backend", &config.backend())?.build(cx).await?;
    Ok(format!("`{}`; no model was loaded", built.identity().name))
}

async fn judges(config: &ValidatorConfig, cx: &BuildContext<'_>) -> Result<String> {
    let mut names = Vec::new();
    for judge in CheckContext::new(cx.registry()).plugins("judges", &config.judges)? {
        names.push(judge.build(cx).await?.identity().name.clone());
    }
    Ok(format!("{}; none was asked", names.join(", ")))
}

async fn published(config: &ValidatorConfig, cx: &BuildContext<'_>) -> Result<String> {
    let bucket = bucket(config, cx)?;
    let size = bucket.size("index.json", cx.call()).await?;
    let found = if size.is_some() { "records are there" } else { "nothing is there yet" };
    Ok(format!("{}: {found}; nothing was written", bucket.place()))
}

/// A check as `--json` prints it.
impl Serialize for Check {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;
        let (state, said) = match &self.found {
            Found::Well(said) => ("well", said.clone()),
            Found::Skipped(said) => ("skipped", said.clone()),
            Found::Bad(error) => ("bad", error.to_string()),
        };
        let mut check = serializer.serialize_struct("Check", 3)?;
        check.serialize_field("name", self.name)?;
        check.serialize_field("state", state)?;
        check.serialize_field("said", &said)?;
        check.end()
    }
}
