//! Reads every final block and enters its commitments; where another validator is followed,
//! they are only remembered.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;

use super::{Next, Task};
use crate::chain::{BlockNumber, Content};
use crate::chains::ledger::{Seen as SeenFirst, Sighting};
use crate::log::AnchoredHead;
use crate::validator::ledger::Commit;
use crate::validator::parts::{Base, Seen};
use crate::{CallContext, Error, ErrorKind, Result};

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
    /// When the head rose last, by the clock.
    rose: Mutex<Duration>,
}

impl Follower {
    pub(super) fn new(base: Arc<Base>, enters: bool) -> Self {
        Self { base, enters, caught_up: AtomicBool::new(false), rose: Mutex::default() }
    }

    /// # Errors
    /// Infrastructure's: the head has been block `head` for too long. A node that is cut off from
    /// the others answers on and on.
    fn check_that_it_rises(&self, head: BlockNumber) -> Result<()> {
        let rose = *self.rose.lock().unwrap_or_else(PoisonError::into_inner);
        let stood = self.base.time.clock.now().saturating_sub(rose);
        if stood <= LIMIT {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Unavailable, "follow the chain", "it shows no new final block")
            .with("newest", head)
            .with("seconds", stood.as_secs())
            .with_hint("nothing, if the chain itself stands still; else name other nodes under `chain`"))
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
        // A node that is behind tells of an older one, whose metagraph lacks who came since.
        if let Some(newest) = self.base.newest().filter(|newest| head.number <= newest.head.number) {
            self.check_that_it_rises(newest.head.number)?;
            return Ok(Next::After(*poll));
        }
        *self.rose.lock().unwrap_or_else(PoisonError::into_inner) = time.clock.now();
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
