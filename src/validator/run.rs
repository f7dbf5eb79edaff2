//! A validator from its configuration to its end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;

use super::config::ValidatorConfig;
use super::following::{FollowTerms, Following};
use super::ledger::{KingRow, Ledger};
use super::operate::Routes;
use super::parts::{Base, Shared, Time};
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
        let chain = when_it_answers(time, waiting, cx, || base.chain_id(cx)).await?;
        // A ledger of duels and one that follows somebody are never the same.
        let follows = if self.follows().is_some() { ", following another validator" } else { "" };
        ledger.bind(format!("chain {chain}, subnet {}, hotkey {hotkey}{follows}", netuid.0)).await?;
        // A client may know which chain it is of before a node has answered.
        let looked = || async {
            let head = base.chain.head(cx).await?;
            let subnet = base.chain.subnet(*netuid, &head, cx).await?;
            let metagraph = base.chain.metagraph(*netuid, &head, cx).await?;
            Ok::<_, Error>((subnet, metagraph))
        };
        let (subnet, metagraph) = when_it_answers(time, waiting, cx, looked).await?;
        check_setter(hotkey, &subnet, &metagraph).map_err(|error| not_permitted(&error, hotkey, *netuid))?;
        let genesis = match &self.work {
            Work::Duels(shared) => {
                shared.log.write(ledger, time.now_ms(), cx).await?;
                &shared.genesis
            }
            Work::Follows(following) => &following.genesis,
        };
        ledger.tell_of_freeze(time.now_ms()).await?;
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

/// What the chain answers to `ask`, once it is there.
///
/// # Errors
/// The chain's, unless they may pass; [`ErrorKind::Cancelled`].
async fn when_it_answers<T, F: Future<Output = Result<T>>>(
    time: &Time,
    waiting: &(dyn Fn(&Error) + Sync),
    cx: &CallContext,
    ask: impl Fn() -> F,
) -> Result<T> {
    loop {
        match ask().await {
            Err(error) if error.fault() == Fault::Infrastructure => {
                waiting(&error);
                cx.run("wait for the chain", time.sleep(ASK_AGAIN)).await?;
            }
            answer => return answer,
        }
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use async_trait::async_trait;

    use super::*;
    use crate::ChainClient;
    use crate::chain::{
        BlockHash, BlockNumber, BlockRef, Metagraph, Reveal, Subnet, WeightReceipt, WeightsView,
    };
    use crate::validator::parts::testing::{Quick, shared};
    use crate::weights::{Cleared, WeightVector};

    /// A chain whose nodes do not answer so many questions; the client itself knows which chain it
    /// is of.
    #[derive(Debug)]
    struct Away {
        chain: Arc<dyn ChainClient>,
        left: AtomicU32,
    }

    impl Away {
        fn answers(&self) -> Result<()> {
            let away =
                self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
            match away {
                Ok(_) => Err(Error::new(ErrorKind::Unavailable, "ask the chain", "no node answers")),
                Err(_) => Ok(()),
            }
        }
    }

    #[async_trait]
    impl ChainClient for Away {
        async fn genesis(&self, cx: &CallContext) -> Result<BlockHash> {
            self.chain.genesis(cx).await
        }

        async fn head(&self, cx: &CallContext) -> Result<BlockRef> {
            self.answers()?;
            self.chain.head(cx).await
        }

        async fn block(&self, number: BlockNumber, cx: &CallContext) -> Result<BlockRef> {
            self.chain.block(number, cx).await
        }

        async fn subnet(&self, netuid: NetUid, at: &BlockRef, cx: &CallContext) -> Result<Subnet> {
            self.answers()?;
            self.chain.subnet(netuid, at, cx).await
        }

        async fn metagraph(&self, netuid: NetUid, at: &BlockRef, cx: &CallContext) -> Result<Metagraph> {
            self.answers()?;
            self.chain.metagraph(netuid, at, cx).await
        }

        async fn reveals(&self, netuid: NetUid, at: &BlockRef, cx: &CallContext) -> Result<Vec<Reveal>> {
            self.chain.reveals(netuid, at, cx).await
        }

        async fn weights(&self, netuid: NetUid, at: &BlockRef, cx: &CallContext) -> Result<WeightsView> {
            self.chain.weights(netuid, at, cx).await
        }

        async fn set_weights(
            &self,
            weights: Cleared<WeightVector>,
            cx: &CallContext,
        ) -> Result<WeightReceipt> {
            self.chain.set_weights(weights, cx).await
        }

        async fn set_commitment(
            &self,
            netuid: NetUid,
            hotkey: &Hotkey,
            text: &str,
            cx: &CallContext,
        ) -> Result<BlockNumber> {
            self.chain.set_commitment(netuid, hotkey, text, cx).await
        }
    }

    #[tokio::test]
    async fn a_chain_that_is_away_at_the_start_is_waited_for() {
        let (folder, clock) = (tempfile::tempdir().expect("a folder"), Quick::default());
        let mut shared = shared(folder.path(), &clock).await;
        let base = Arc::get_mut(&mut shared.base).expect("nobody else has it");
        base.chain = Arc::new(Away { chain: Arc::clone(&base.chain), left: AtomicU32::new(3) });
        let validator = Validator { work: Work::Duels(Arc::new(shared)), routes: None };
        let (before, said) = (clock.slept().len(), AtomicU32::new(0));
        let waiting = |error: &Error| {
            assert!(error.to_string().contains("no node answers"), "{error}");
            said.fetch_add(1, Ordering::Relaxed);
        };
        let king = validator.begin(&waiting, &CallContext::new()).await.expect("begins");
        assert_eq!((king.id, said.into_inner()), (1, 3));
        assert_eq!(clock.slept()[before..], [5, 5, 5]);
    }

    #[tokio::test]
    async fn a_freeze_that_an_older_build_left_is_told_at_the_start() {
        let (folder, clock) = (tempfile::tempdir().expect("a folder"), Quick::default());
        let shared = shared(folder.path(), &clock).await;
        let books = rusqlite::Connection::open(shared.state.join("ledger.sqlite")).expect("opens");
        let sql = "INSERT INTO meta (key, value) VALUES ('frozen', 'one and one is three')";
        books.execute(sql, []).expect("written");
        drop(books);
        let validator = Validator { work: Work::Duels(Arc::new(shared)), routes: None };
        validator.begin(&|_: &Error| {}, &CallContext::new()).await.expect("begins");
        let alerts = validator.ledger().alerts().await.expect("read");
        assert_eq!(alerts.iter().map(|alert| &*alert.key).collect::<Vec<_>>(), ["frozen"], "{alerts:?}");
        assert!(alerts[0].message.contains("one and one is three"), "{alerts:?}");
    }
}
