//! A validator from its configuration to its end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;

use super::config::ValidatorConfig;
use super::following::{FollowTerms, Following};
use super::ledger::{KingRow, Ledger};
use super::operate::Routes;
use super::parts::{Base, Shared};
use super::tasks;
use crate::chain::{Hotkey, NetUid};
use crate::server::health::notify;
use crate::weights::check_setter;
use crate::{BuildContext, CallContext, Error, ErrorKind, Fault, Result};

/// How often a chain that does not answer is asked again at the start.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// A validator at work; see the [module](super).
#[derive(Debug)]
pub struct Validator {
    work: Work,
    routes: Option<Routes>,
}

/// What it does.
#[derive(Debug)]
enum Work {
    /// It runs duels.
    Duels(Arc<Shared>),
    /// It follows a validator that does.
    Follows(Arc<Following>),
}

impl Validator {
    /// Builds everything that `config` names and opens the ledger.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] if another validator works with the ledger; whatever is
    /// wrong with the settings or the files that they name.
    pub async fn open(config: &ValidatorConfig, cx: &BuildContext<'_>) -> Result<Self> {
        let work = match &config.follow {
            None => Work::Duels(Arc::new(Shared::build(config, cx).await?)),
            Some(follow) => Work::Follows(Arc::new(Following::build(config, follow, cx).await?)),
        };
        Ok(Self { work, routes: config.operate.listen.map(Routes::bind).transpose()? })
    }

    fn base(&self) -> &Arc<Base> {
        match &self.work {
            Work::Duels(shared) => &shared.base,
            Work::Follows(following) => &following.base,
        }
    }

    /// Whom it follows, and how much of that it audits; none if it runs duels of its own.
    pub fn follows(&self) -> Option<&FollowTerms> {
        match &self.work {
            Work::Duels(_) => None,
            Work::Follows(following) => Some(&following.terms),
        }
    }

    /// Where `/metrics`, `/healthz` and `/readyz` are answered, if anywhere.
    pub fn address(&self) -> Option<SocketAddr> {
        self.routes.as_ref().and_then(Routes::address)
    }

    /// Its ledger.
    pub fn ledger(&self) -> &Ledger {
        &self.base().ledger
    }

    /// Waits until the chain answers, and checks that the validator may work there;
    /// gives who reigns. It calls `waiting` with the reason while it waits.
    ///
    /// # Errors
    /// The operator's: the ledger is another competition's, or the hotkey is not
    /// registered or has no permit. [`ErrorKind::Cancelled`].
    pub async fn begin(&self, waiting: &(dyn Fn(&Error) + Sync), cx: &CallContext) -> Result<KingRow> {
        let base = &**self.base();
        let Base { ledger, time, netuid, hotkey, .. } = base;
        let chain = loop {
            match base.chain_id(cx).await {
                Err(error) if error.fault() == Fault::Infrastructure => {
                    waiting(&error);
                    cx.run("wait for the chain", time.sleep(ASK_AGAIN)).await?;
                }
                chain => break chain?,
            }
        };
        // A ledger of duels and one that follows somebody are never the same.
        let follows = if self.follows().is_some() { ", following another validator" } else { "" };
        ledger.bind(format!("chain {chain}, subnet {}, hotkey {hotkey}{follows}", netuid.0)).await?;
        let head = base.chain.head(cx).await?;
        let subnet = base.chain.subnet(*netuid, &head, cx).await?;
        let metagraph = base.chain.metagraph(*netuid, &head, cx).await?;
        check_setter(hotkey, &subnet, &metagraph).map_err(|error| not_permitted(&error, hotkey, *netuid))?;
        let genesis = match &self.work {
            Work::Duels(shared) => {
                shared.log.write(ledger, time.now_ms(), cx).await?;
                &shared.genesis
            }
            Work::Follows(following) => &following.genesis,
        };
        ledger.begin_reign(genesis.clone(), time.now_ms()).await
    }

    /// Works until `cx` is cancelled. Whatever is half done then is gone on with by the next
    /// process, as after a crash.
    ///
    /// # Errors
    /// A bug: a task ended by itself.
    pub async fn run(&self, cx: &CallContext) -> Result<()> {
        let inner = cx.child();
        let watched = async {
            match &self.routes {
                Some(routes) => routes.serve(self.base(), &inner).await,
                None => Ok(()),
            }
        };
        let working = async {
            let ran = match &self.work {
                Work::Duels(shared) => tasks::run(shared, &inner).await,
                Work::Follows(following) => tasks::run_following(following, &inner).await,
            };
            inner.cancel();
            ran
        };
        notify(&NotifyState::Ready);
        let (ran, watched) = futures::join!(working, watched);
        notify(&NotifyState::Stopping);
        ran.and(watched)
    }
}

/// The error of a hotkey that may not set weights, as `error` says.
pub(super) fn not_permitted(error: &Error, hotkey: &Hotkey, netuid: NetUid) -> Error {
    Error::new(ErrorKind::Unavailable, "start the validator", error.message())
        .with_fault(Fault::Operator)
        .with("hotkey", hotkey)
        .with("subnet", netuid.0)
        .with_hint("register the hotkey on the subnet, and give it the stake for a validator permit")
}
