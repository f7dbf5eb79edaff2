//! What a configuration names, built once, and what all tasks share.

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::json;
use tokio::sync::watch;

use super::beats::Beats;
use super::config::{Anchoring, EntrySettings, ReignSettings, ValidatorConfig};
use super::genesis::first_king;
use super::ledger::{Competition, KingRow, Ledger};
use super::log_folder::LogFolder;
use super::models::{Local, Models, blocking};
use super::operate::Disk;
use super::running::Running;
use super::webhook::Webhook;
use crate::backends::files::FolderFiles;
use crate::backends::http;
use crate::chain::{BlockHash, BlockNumber, BlockRef, Hotkey, Metagraph, NetUid, Subnet};
use crate::chains::journal::ChainJournal;
use crate::chains::ledger::Ledger as Reveals;
use crate::config::{AdmissionConfig, journal_key};
use crate::judges::screens::store::Store;
use crate::judges::screens::{AlignTo, Measurement};
use crate::publish::{Bucket, Exports, Place};
use crate::record::JournalKey;
use crate::registry::{CheckContext, SystemSecrets};
use crate::reign::ErrorBudget;
use crate::signer::KeyFile;
use crate::weights::{JournalStore, WeightJournal};
use crate::{
    BuildContext, CallContext, ChainClient, Clock, DuelSettings, Error, ErrorKind, Fault, Judge,
    ModelBackend, ModelFiles, ModelRef, Result, Screen, ScreenProfile, TaskSource,
};

#[cfg(test)]
pub(super) mod testing;

const OPERATION: &str = "start the validator";

/// What every validator works with, whether it runs duels or follows one that does.
#[derive(Debug)]
pub(super) struct Base {
    pub(super) ledger: Ledger,
    pub(super) reveals: Reveals,
    pub(super) chain: Arc<dyn ChainClient>,
    pub(super) netuid: NetUid,
    pub(super) hotkey: Hotkey,
    genesis_hash: std::sync::OnceLock<BlockHash>,
    pub(super) journal: WeightJournal<Arc<dyn JournalStore>>,
    pub(super) reign: ReignSettings,
    pub(super) budget: ErrorBudget,
    pub(super) poll: Duration,
    pub(super) state: PathBuf,
    pub(super) disk: Disk,
    pub(super) time: Time,
    pub(super) seen: watch::Sender<Option<Arc<Seen>>>,
    /// Held while something is written to the chain: one extrinsic of the hotkey at a time.
    pub(super) writing: tokio::sync::Mutex<()>,
    pub(super) beats: Arc<Beats>,
    pub(super) webhook: Option<Webhook>,
}

/// Everything that the tasks of a validator that runs duels work with.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) base: Arc<Base>,
    pub(super) models: Models,
    pub(super) backend: Arc<dyn ModelBackend>,
    pub(super) tasks: Arc<dyn TaskSource>,
    pub(super) judges: Vec<Arc<dyn Judge>>,
    pub(super) screens: Vec<Arc<dyn Screen>>,
    /// The profile that the screens are of, if they are of one.
    pub(super) profile: Option<ScreenProfile>,
    pub(super) store: Arc<Store>,
    pub(super) genesis: ModelRef,
    /// What every model is aligned to.
    pub(super) align: AlignTo,
    pub(super) bucket: Arc<dyn Bucket>,
    /// The data sets that are put beside each record.
    pub(super) exports: Option<Exports>,
    pub(super) log: LogFolder,
    pub(super) anchoring: Anchoring,
    pub(super) entry: EntrySettings,
    pub(super) duel: DuelSettings,
    pub(super) journal_key: JournalKey,
    pub(super) running: Mutex<Running>,
}

impl Deref for Shared {
    type Target = Base;

    fn deref(&self) -> &Base {
        &self.base
    }
}

/// The newest finalised block whose commitments are in the ledger.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) head: BlockRef,
    pub(super) subnet: Subnet,
    pub(super) metagraph: Metagraph,
}

/// Time as the tasks use it: a clock, and the Unix time at which it stood at 0.
#[derive(Debug, Clone)]
pub(super) struct Time {
    pub(super) clock: Arc<dyn Clock>,
    origin: Duration,
}

impl Time {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { origin: now.saturating_sub(clock.now()), clock }
    }

    /// Milliseconds since the Unix epoch.
    pub(super) fn now_ms(&self) -> u64 {
        (self.origin + self.clock.now()).as_millis() as u64
    }

    pub(super) async fn sleep(&self, pause: Duration) {
        self.clock.sleep_until(self.clock.now() + pause).await;
    }
}

impl Base {
    /// Opens the ledger and builds what `config` names of the chain.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] if another validator works with the ledger; whatever is wrong
    /// with the settings.
    pub(super) async fn build(config: &ValidatorConfig, cx: &BuildContext<'_>) -> Result<Self> {
        let state = config.state();
        std::fs::create_dir_all(&state).map_err(|error| Error::io(OPERATION, &state, error))?;
        let disk = config.operate.disk(&state);
        disk.check()?;
        // First: a second validator ends here, before it touches anything.
        let ledger = Ledger::open(&config.ledger())?;
        let chain = CheckContext::new(cx.registry()).plugin("chain", &config.chain)?.build(cx).await?;
        let journal = match chain.journal() {
            Some(journal) => journal,
            None => Arc::new(ChainJournal::open(&state.join("weights.sqlite"))?),
        };
        let (hotkey, netuid) = (Hotkey(config.hotkey.clone()), NetUid(config.netuid));
        let webhook = config.operate.webhook.as_ref();
        let webhook = webhook.map(|webhook| Webhook::new(webhook, hotkey.clone(), netuid, cx)).transpose()?;
        Ok(Self {
            reveals: Reveals::open(&state.join("reveals.sqlite"))?,
            netuid,
            hotkey,
            genesis_hash: std::sync::OnceLock::new(),
            journal: WeightJournal::new(journal),
            reign: config.reign.clone(),
            budget: ErrorBudget::new(config.reign.alpha)?,
            poll: Duration::from_millis(config.poll_ms),
            time: Time::new(Arc::clone(cx.clock())),
            seen: watch::Sender::new(None),
            writing: tokio::sync::Mutex::default(),
            beats: Arc::default(),
            webhook,
            chain,
            ledger,
            state,
            disk,
        })
    }

    /// The newest block that was followed to; none before the first.
    pub(super) fn newest(&self) -> Option<Arc<Seen>> {
        self.seen.borrow().clone()
    }

    /// The number of the newest final block that this validator knows of, also from before it was
    /// started again. A node that is behind tells of an older one, whose next block anybody may know.
    ///
    /// # Errors
    /// The chain's.
    pub(super) async fn head_number(&self, cx: &CallContext) -> Result<BlockNumber> {
        let head = self.chain.head(cx).await?.number;
        let read = self.reveals.last_block(self.chain_id(cx).await?, self.netuid).await?;
        Ok(read.map_or(head, |read| head.max(read)))
    }

    /// The hash of the chain's first block.
    pub(super) async fn chain_id(&self, cx: &CallContext) -> Result<BlockHash> {
        if let Some(hash) = self.genesis_hash.get() {
            return Ok(*hash);
        }
        let hash = self.chain.genesis(cx).await?;
        Ok(*self.genesis_hash.get_or_init(|| hash))
    }
}

impl Shared {
    /// Builds what `config` names and opens what is kept in its state's folder.
    ///
    /// # Errors
    /// Whatever is wrong with the settings or the files that they name.
    pub(super) async fn build(config: &ValidatorConfig, cx: &BuildContext<'_>) -> Result<Self> {
        Self::build_with(config, journal_key, cx).await
    }

    /// The same with the key of its journals that `key` gives.
    async fn build_with(
        config: &ValidatorConfig,
        key: fn() -> Result<JournalKey>,
        cx: &BuildContext<'_>,
    ) -> Result<Self> {
        config.check(cx.registry())?;
        let cx = &cx.relative_to(&config.folder);
        let base = Base::build(config, cx).await?;
        let (log, state) = (config.log()?, config.state());
        let signer = KeyFile::open(&cx.path(&log.key)).map_err(missing_key)?;
        let check = CheckContext::new(cx.registry());

        let genesis = first_king(config, Some(&base.ledger), cx).await?;
        let competition = base.ledger.competition().await?;
        let models = Models::build(&config.hubs, &config.entry, cx).await?;
        let local = models.local(&genesis, cx.call()).await.map_err(|error| error.with("key", "genesis"))?;
        let (store, align) = remember_genesis(&store_of(&state, &competition), &local, cx.call()).await?;
        for king in base.ledger.kings().await?.iter().rev().filter(|king| king.competition == competition.id)
        {
            note_king(&store, king).await?;
        }

        let mut judges = Vec::new();
        for judge in check.plugins("judges", &config.judges)? {
            judges.push(judge.build(cx).await?);
        }
        let bucket = bucket(config, cx)?;
        let (screens, profile) = screens(config, &store_of(&state, &competition), cx).await?;
        Ok(Self {
            backend: check.plugin("backend", &config.backend())?.build(cx).await?,
            tasks: check.plugin("tasks", config.tasks()?)?.build(cx).await?,
            screens,
            profile,
            log: LogFolder::new(state.join("log"), log.origin.clone(), Arc::new(signer)),
            anchoring: log.anchor,
            entry: config.entry.clone(),
            duel: config.duel.clone(),
            journal_key: key()?,
            running: Mutex::default(),
            models,
            judges,
            store,
            genesis,
            align,
            bucket,
            exports: config.publish()?.exports(),
            base: Arc::new(base),
        })
    }

    /// Who reigns.
    pub(super) async fn king(&self) -> Result<KingRow> {
        let king = self.ledger.king().await?;
        king.ok_or_else(|| Error::bug("find the king", "nobody reigns: the first king was not entered"))
    }

    /// The anchor of the screens, where it is not `king`. Once another reigns, they compare those
    /// who have trained from `king` from him, too.
    pub(super) async fn anchor(
        &self,
        king: &KingRow,
        cx: &CallContext,
    ) -> Result<Option<Arc<dyn ModelFiles>>> {
        note_king(&self.store, king).await?;
        if king.model == self.genesis {
            return Ok(None);
        }
        Ok(Some(self.models.local(&self.genesis, cx).await?.files()))
    }

    pub(super) fn running(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where the configuration publishes to.
pub(super) fn bucket(config: &ValidatorConfig, cx: &BuildContext<'_>) -> Result<Arc<dyn Bucket>> {
    let publish = config.publish()?;
    let place = match publish.to.parse::<Place>()? {
        Place::Folder(folder) => Place::Folder(cx.path(folder)),
        bucket @ Place::S3 { .. } => bucket,
    };
    let (endpoint, region) = (publish.endpoint.as_deref(), &publish.region);
    place.open(endpoint, region, &SystemSecrets::from_env(), http::transport(cx))
}

/// A key that is missing is nobody's but the operator's to make.
pub(super) fn missing_key(error: Error) -> Error {
    if error.kind() != ErrorKind::NotFound {
        return error;
    }
    Error::new(ErrorKind::Unavailable, OPERATION, "there is no key for the log of duels")
        .with_fault(Fault::Operator)
        .with("key", "log.key")
        .with_hint("make one: `openssl genpkey -algorithm ed25519 -out FILE && chmod 600 FILE`")
        .with_source(error)
}

/// The file of the store of a competition's submissions: what was entered in an earlier
/// competition may be entered again.
fn store_of(state: &Path, competition: &Competition) -> PathBuf {
    match competition.id {
        1 => state.join("screens.sqlite"),
        id => state.join(format!("screens-{id}.sqlite")),
    }
}

/// The store of submissions, which knows the first king, and what models are aligned to.
async fn remember_genesis(store: &Path, genesis: &Local, cx: &CallContext) -> Result<(Arc<Store>, AlignTo)> {
    let path = store.to_owned();
    let store = blocking(OPERATION, move || Store::open_or_create(&path)).await?;
    let files: Arc<dyn ModelFiles> = Arc::new(FolderFiles::new(&genesis.folder));
    let measured = Measurement::take(files, AlignTo::Itself, cx).await?;
    let align = measured.anchor.clone().map_or(AlignTo::Nothing, AlignTo::Anchor);
    let store = Arc::new(store);
    let kept = Arc::clone(&store);
    blocking(OPERATION, move || {
        let parameters = measured.digests.parameters;
        measured.remember(&kept, "the first king".into(), String::new(), None)?;
        kept.add_king(parameters)
    })
    .await?;
    Ok((store, align))
}

/// Notes in the store that `king` is one, once his parameters were read.
async fn note_king(store: &Arc<Store>, king: &KingRow) -> Result<()> {
    let Some(parameters) = king.parameters else { return Ok(()) };
    let store = Arc::clone(store);
    blocking("note a king", move || store.add_king(parameters)).await
}

/// The screens with the validator's store, and the profile that they are of.
async fn screens(
    config: &ValidatorConfig,
    store: &Path,
    cx: &BuildContext<'_>,
) -> Result<(Vec<Arc<dyn Screen>>, Option<ScreenProfile>)> {
    let mut named = AdmissionConfig::new(ModelRef::served("king"), ModelRef::served("submission"));
    let (chosen, profile) = config.chosen_screens()?;
    named.screens = chosen;
    named.set("store", &json!(store), cx.registry());
    let mut built = Vec::new();
    for screen in CheckContext::new(cx.registry()).plugins("screens", &named.screens)? {
        built.push(screen.build(cx).await?);
    }
    let profile = profile.map(|name| ScreenProfile::new(name, &built)).transpose()?;
    Ok((built, profile))
}
