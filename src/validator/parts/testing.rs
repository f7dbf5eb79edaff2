//! What unit tests of the tasks work with.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures::future::BoxFuture;

use super::{Base, Shared};
use crate::chains::local::LocalChain;
use crate::record::JournalKey;
use crate::validator::{DemoCompetition, ValidatorConfig};
use crate::{BuildContext, CallContext, Clock, Registry, Resources};

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
    let mut config = DemoCompetition::open(folder).expect("prepares").config().expect("reads");
    config.operate.reserve_gb = 0;
    let (registry, call) = (Registry::linked().expect("links"), CallContext::new());
    let resources = Resources::default().with_clock(clock.clone()).with_cache_dir(folder.join("cache"));
    let cx = BuildContext::new(&registry, &call).with_resources(resources);
    let built = Shared::build_with(&config, || Ok(JournalKey::new([7; 32])), &cx);
    Box::pin(built).await.expect("builds")
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
