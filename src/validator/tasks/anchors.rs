//! Puts the newest head of the log of duels on chain, once per epoch, or also before each
//! seed.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;

use super::{IDLE, Next, Task};
use crate::chain::{BlockNumber, Content};
use crate::log::AnchoredHead;
use crate::validator::config::Anchoring;
use crate::validator::parts::{Seen, Shared};
use crate::{CallContext, Error, ErrorKind, Fault, Result};

/// How long the task may go without a step: an extrinsic lives some minutes, and one before
/// it may have to end first. Source: albedo.
const LIMIT: Duration = Duration::from_mins(20);

/// A head of this validator's log that is on chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OnChain {
    pub(super) head: AnchoredHead,
    pub(super) block: BlockNumber,
}

#[derive(Debug)]
pub(super) struct Anchors {
    shared: Arc<Shared>,
    /// What this process knows to be on chain.
    known: Mutex<Option<OnChain>>,
}

impl Anchors {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, known: Mutex::default() }
    }

    fn known(&self) -> Option<OnChain> {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn know(&self, on_chain: Option<OnChain>) {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = on_chain;
    }

    /// Whether a newer head than `on_chain` goes there now.
    async fn is_due(&self, seen: &Seen, on_chain: Option<OnChain>) -> Result<bool> {
        let Shared { anchoring, .. } = &*self.shared;
        let ledger = &self.shared.ledger;
        if *anchoring == Anchoring::BeforeSeed {
            let waiting = ledger.open_duel().await?.filter(|duel| duel.head_block.is_none());
            let covers = |place| on_chain.is_some_and(|on_chain| on_chain.head.size > place);
            if waiting.is_some_and(|duel| !covers(duel.announced)) {
                return Ok(true);
            }
        }
        // The epoch's weights go first: one extrinsic per key is on its way at a time.
        let is_settled = ledger.epoch(seen.subnet.epoch).await?.is_some_and(|epoch| epoch.is_settled());
        let is_old = |on_chain: OnChain| on_chain.block + u64::from(seen.subnet.tempo) <= seen.head.number;
        Ok(is_settled && on_chain.is_none_or(is_old))
    }
}

/// The head that is on chain at `seen`; none if the hotkey's commitment is another text.
///
/// # Errors
/// The chain's. The operator's: the chain has a head that is not one of the ledger's.
pub(super) async fn on_chain(shared: &Shared, seen: &Seen, cx: &CallContext) -> Result<Option<OnChain>> {
    let reveals = shared.chain.reveals(shared.netuid, &seen.head, cx).await?;
    let ours = reveals.into_iter().filter(|reveal| reveal.hotkey == shared.hotkey);
    let heads = ours.filter_map(|reveal| match reveal.content {
        Content::Text(text) => Some(OnChain { head: AnchoredHead::parse(&text)?, block: reveal.place.block }),
        _ => None,
    });
    let Some(found) = heads.max_by_key(|found| (found.block, found.head.size)) else { return Ok(None) };
    let signed = shared.ledger.head_of(found.head.size).await?;
    if signed.is_some_and(|head| AnchoredHead::from(&head) == found.head) {
        return Ok(Some(found));
    }
    let message = "the chain has a head of the log that this ledger does not have";
    Err(Error::new(ErrorKind::Conflict, "read the log's head on chain", message)
        .with_fault(Fault::Operator)
        .with("block", found.block)
        .with("entries", found.head.size)
        .with_hint(
            "an old copy of the ledger was restored, or another validator uses this hotkey: restore the \
             newest ledger; a log that is begun anew needs another hotkey, or `log.anchor = \"never\"`",
        ))
}

#[async_trait]
impl Task for Anchors {
    fn name(&self) -> &'static str {
        "anchors"
    }

    fn limit(&self) -> Duration {
        LIMIT
    }

    async fn step(&self, cx: &CallContext) -> Result<Next> {
        let shared = &*self.shared;
        let wait = Next::Change(IDLE);
        if shared.anchoring == Anchoring::Never {
            return Ok(wait);
        }
        let Some(seen) = shared.newest() else { return Ok(wait) };
        let newest = shared.ledger.newest_head().await?.map(|head| AnchoredHead::from(&head));
        let Some(newest) = newest.filter(|newest| newest.size > 0) else { return Ok(wait) };
        let is_there = |on_chain: Option<OnChain>| on_chain.is_some_and(|on_chain| on_chain.head == newest);
        if is_there(self.known()) || !self.is_due(&seen, self.known()).await? {
            return Ok(wait);
        }
        // Another process may have put it there.
        let on_chain = on_chain(shared, &seen, cx).await?;
        self.know(on_chain);
        if is_there(on_chain) || !self.is_due(&seen, on_chain).await? {
            return Ok(wait);
        }
        let _writing = shared.writing.lock().await;
        match shared.chain.set_commitment(shared.netuid, &shared.hotkey, &newest.to_string(), cx).await {
            // It passes with the blocks.
            Err(error) if error.kind() == ErrorKind::RateLimited => Ok(wait),
            Err(error) => Err(error),
            Ok(block) => {
                self.know(Some(OnChain { head: newest, block }));
                tracing::info!(entries = newest.size, block, "the head of the log is on chain");
                Ok(wait)
            }
        }
    }
}
