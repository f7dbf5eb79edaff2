//! Reads every final block and enters its commitments; where another validator is followed,
//! they are only remembered.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;

use super::{Next, Task};
use crate::chain::Content;
use crate::chains::ledger::{Seen as SeenFirst, Sighting};
use crate::log::AnchoredHead;
use crate::validator::ledger::Commit;
use crate::validator::parts::{Base, Seen};
use crate::{CallContext, Result};

/// How long a chain may show no new block before that is reported. Source: albedo; a
/// block of Bittensor's takes 12 seconds.
const LIMIT: Duration = Duration::from_mins(5);

#[derive(Debug)]
pub(super) struct Follower {
    base: Arc<Base>,
    /// Whether commitments become submissions.
    enters: bool,
    /// Everything that was sighted before is in the validator's ledger.
    caught_up: AtomicBool,
}

impl Follower {
    pub(super) fn new(base: Arc<Base>, enters: bool) -> Self {
        Self { base, enters, caught_up: AtomicBool::new(false) }
    }
}

#[async_trait]
impl Task for Follower {
    fn name(&self) -> &'static str {
        "follower"
    }

    fn limit(&self) -> Duration {
        LIMIT
    }

    async fn step(&self, cx: &CallContext) -> Result<Next> {
        let Base { ledger, reveals, chain, netuid, seen, time, poll, .. } = &*self.base;
        let head = chain.head(cx).await?;
        if seen.borrow().as_ref().is_some_and(|seen| seen.head == head) {
            return Ok(Next::After(*poll));
        }
        let caught_up = self.caught_up.swap(false, Ordering::Relaxed);
        let new = reveals.follow_to(&**chain, *netuid, &head, cx).await?;
        // A process that was killed between the two has left some in between.
        if self.enters {
            let sighted = if caught_up {
                new
            } else {
                reveals.sightings(self.base.chain_id(cx).await?, *netuid).await?
            };
            ledger.observe(sighted.into_iter().filter_map(readable).collect(), time.now_ms()).await?;
        }
        let subnet = chain.subnet(*netuid, &head, cx).await?;
        let metagraph = chain.metagraph(*netuid, &head, cx).await?;
        seen.send_replace(Some(Arc::new(Seen { head, subnet, metagraph })));
        self.caught_up.store(true, Ordering::Relaxed);
        Ok(Next::After(*poll))
    }
}

/// What everybody can read of a sighting. The heads of logs that validators put on chain
/// are nobody's submissions.
fn readable(sighting: Sighting) -> Option<Commit> {
    let Sighting { hotkey, place, readable_at, content, seen } = sighting;
    match content {
        Content::Text(text) if AnchoredHead::parse(&text).is_none() => Some(Commit {
            hotkey,
            text,
            place,
            readable_at: readable_at.unwrap_or(place.block),
            witnessed: seen == SeenFirst::Witnessed,
        }),
        _ => None,
    }
}
