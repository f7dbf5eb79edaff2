//! What unit tests of the tasks work with.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures::future::BoxFuture;
use serde_json::json;

use super::{Base, Seen, Shared};
use crate::admission::{AdmissionOutcome, ScreenedModel};
use crate::chain::{BlockNumber, BlockRef, DatedBy, Hotkey, Place};
use crate::chains::local::LocalChain;
use crate::http::HttpTransport;
use crate::record::JournalKey;
use crate::validator::ledger::{Commit, Ledger, Reason, SubmissionRow};
use crate::validator::table::Move;
use crate::validator::{DemoCompetition, ValidatorConfig};
use crate::{
    Admission, BuildContext, CallContext, Clock, Digest, Finding, HubRef, Identity, Registry, Resources,
    ScreenStage, Screened,
};

/// A validator's parts in `folder`, and its chain, whose miners are `ann` and `bob`.
pub(in crate::validator) async fn base(folder: &Path, clock: &Quick) -> (Base, LocalChain) {
    let text = format!(
        r#"
        state = "{0}/state"
        hotkey = "validator"
        operate.reserve_gb = 0
        chain.name = "local"
        chain.path = "{0}/chain.sqlite"
        chain.tempo = 20
        chain.neurons = [
            {{ uid = 0, hotkey = "owner" }},
            {{ uid = 1, hotkey = "validator", validator_permit = true, stake = 1 }},
            {{ uid = 2, hotkey = "ann" }},
            {{ uid = 3, hotkey = "bob" }},
        ]
        "#,
        folder.display()
    );
    let config: ValidatorConfig = crate::config::parse(&text).expect("reads");
    let (registry, call) = (Registry::linked().expect("links"), CallContext::new());
    let resources = Resources::default().with_clock(clock.clone());
    let cx = BuildContext::new(&registry, &call).with_resources(resources);
    let base = Base::build(&config, &cx).await.expect("builds");
    (base, LocalChain::open(&folder.join("chain.sqlite")).expect("opens"))
}

/// The parts of the demo's validator in `folder`, which is empty; its hub is the folder `mirror`.
pub(in crate::validator) async fn shared(folder: &Path, clock: &Quick) -> Shared {
    build_shared(folder, Resources::default().with_clock(clock.clone()), |_| {}).await
}

/// The same, whose submissions are in the container registry that `http` leads to. A `Quick` clock
/// leaves no time for the network: `http` answers at once.
pub(in crate::validator) async fn shared_with_registry(
    folder: &Path,
    clock: &Quick,
    http: Arc<dyn HttpTransport>,
) -> Shared {
    let resources = Resources::default().with_clock(clock.clone()).with_http(http);
    build_shared(folder, resources, |config| config.entry.manifests = HubRef::OCI.into()).await
}

async fn build_shared(
    folder: &Path,
    resources: Resources,
    change: impl FnOnce(&mut ValidatorConfig),
) -> Shared {
    let mut config = DemoCompetition::open(folder).expect("prepares").config().expect("reads");
    config.operate.reserve_gb = 0;
    change(&mut config);
    let (registry, call) = (Registry::linked().expect("links"), CallContext::new());
    let resources = resources.with_cache_dir(folder.join("cache"));
    let cx = BuildContext::new(&registry, &call).with_resources(resources);
    let built = Shared::build_with(&config, || Ok(JournalKey::new([7; 32])), &cx);
    Box::pin(built).await.expect("builds")
}

/// The chain as it is, at block `number`.
pub(in crate::validator) async fn at(shared: &Shared, number: BlockNumber) -> Seen {
    let cx = CallContext::new();
    let head = shared.chain.head(&cx).await.expect("a head");
    let subnet = shared.chain.subnet(shared.netuid, &head, &cx).await.expect("read");
    let metagraph = shared.chain.metagraph(shared.netuid, &head, &cx).await.expect("read");
    Seen { head: BlockRef { number, ..head }, subnet, metagraph }
}

/// The submission of `hotkey` with the manifest `pin`, committed in block 4 and readable from block
/// 5, after `steps`. Of one block, hotkeys are in their order.
pub(in crate::validator) async fn pinned(
    ledger: &Ledger,
    hotkey: &str,
    repository: &str,
    pin: Digest,
    steps: &[Move],
) -> SubmissionRow {
    let text = format!("v7|{repository}|sha256:{pin}");
    let place = Place { block: 4, extrinsic: Some(0), dated_by: DatedBy::Commitment };
    let (hotkey, named) = (Hotkey(hotkey.into()), text.clone());
    let commit = Commit { hotkey, text, place, readable_at: 5, witnessed: true };
    ledger.observe(vec![commit], 1).await.expect("observed");
    let live = ledger.live().await.expect("read");
    let id = live.iter().find(|row| row.text == named).expect("it is new").id;
    for step in steps {
        let reason = Reason::new(step.name());
        let reason = match step {
            Move::ClearFiles => reason.content(Digest::of("files")),
            Move::Hold => reason.held_at(0),
            _ => reason,
        };
        ledger.step(id, *step, reason, 2).await.expect("moved");
    }
    ledger.submission(id).await.expect("read")
}

/// Puts the files of the demo's `miner` into the mirror of the validator in `folder`, as
/// `repository`; gives what pins them.
pub(in crate::validator) fn uploaded(folder: &Path, miner: &str, repository: &str) -> Digest {
    let from = folder.join("miners").join(miner);
    let files = fs::read_dir(from).expect("lists").map(|entry| entry.expect("an entry").path());
    let name = |path: &Path| path.file_name().expect("a name").to_string_lossy().into_owned();
    let mut files: Vec<_> = files.map(|path| (name(&path), fs::read(&path).expect("reads"))).collect();
    files.sort();
    let mut sums = String::new();
    for (name, bytes) in &files {
        writeln!(sums, "{}  {name}", Digest::of(bytes)).expect("writes");
    }
    let pin = Digest::of(&sums);
    let to = folder.join("mirror").join(repository).join(pin.to_string());
    fs::create_dir_all(&to).expect("makes");
    files.push(("SHA256SUMS".into(), sums.into_bytes()));
    for (name, bytes) in files {
        fs::write(to.join(name), bytes).expect("writes");
    }
    pin
}

/// An admission in which screens have found that.
pub(in crate::validator) fn admission(findings: impl IntoIterator<Item = Finding>) -> Admission {
    let model = ScreenedModel {
        reference: None,
        files: 0,
        bytes: 0,
        listing: Digest::of("listing"),
        parameters: None,
    };
    let screen = Identity::new("screen", "1", &json!({})).expect("an identity");
    let stage = ScreenStage::Behaviour;
    let screened = |finding| Screened { screen: screen.clone(), stage, finding };
    let findings: Vec<_> = findings.into_iter().map(screened).collect();
    Admission {
        king: model.clone(),
        submission: model,
        anchor: None,
        profile: None,
        seed: None,
        outcome: AdmissionOutcome::of(&findings),
        findings,
    }
}

/// A clock whose sleepers wake at once, at their time.
#[derive(Debug, Clone, Default)]
pub(in crate::validator) struct Quick(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    now: Duration,
    slept: Vec<u64>,
    stop: Option<(usize, CallContext)>,
}

impl Quick {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no panic")
    }

    /// That much time goes by.
    pub(in crate::validator) fn pass(&self, time: Duration) {
        self.state().now += time;
    }

    /// The seconds of every sleep.
    pub(in crate::validator) fn slept(&self) -> Vec<u64> {
        self.state().slept.clone()
    }

    /// Cancels `cx` with the sleep after so many more.
    pub(in crate::validator) fn stop_after(&self, sleeps: usize, cx: CallContext) {
        let mut state = self.state();
        let at = state.slept.len() + sleeps;
        state.stop = Some((at, cx));
    }
}

impl Clock for Quick {
    fn now(&self) -> Duration {
        self.state().now
    }

    fn sleep_until(&self, at: Duration) -> BoxFuture<'static, ()> {
        let mut state = self.state();
        let slept = at.saturating_sub(state.now).as_secs();
        state.slept.push(slept);
        state.now = state.now.max(at);
        if let Some((_, cx)) = state.stop.as_ref().filter(|(stop, _)| state.slept.len() > *stop) {
            cx.cancel();
        }
        Box::pin(std::future::ready(()))
    }
}
