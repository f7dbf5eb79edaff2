use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::chain::{BlockRef, Metagraph};
use crate::chains::local::{LocalChain, LocalChainConfig};
use crate::validator::operate::OperateSettings;
use crate::validator::parts::testing::{Quick, base};

/// Fails in its first steps, then waits; cancels its context after the last one.
#[derive(Debug)]
struct Shaky {
    steps: AtomicU32,
    fail: fn(u32) -> Result<Next>,
    last: u32,
    cx: CallContext,
}

#[async_trait]
impl Task for Shaky {
    fn name(&self) -> &'static str {
        "shaky"
    }

    fn limit(&self) -> Duration {
        Duration::from_mins(1)
    }

    async fn step(&self, _: &CallContext) -> Result<Next> {
        let step = self.steps.fetch_add(1, Ordering::Relaxed);
        if step >= self.last {
            self.cx.cancel();
        }
        (self.fail)(step)
    }
}

fn care(clock: &Quick) -> Care {
    let (_, seen) = watch::channel(None);
    Care {
        ledger: Ledger::in_memory().expect("a ledger"),
        time: Time::new(Arc::new(clock.clone())),
        disk: disk(0),
        seen,
        beats: Arc::default(),
        look: LOOK,
    }
}

/// A disk of which so many gigabytes are kept free.
fn disk(reserve_gb: u64) -> Disk {
    OperateSettings { reserve_gb, ..OperateSettings::default() }.disk(&std::env::temp_dir())
}

fn shaky(last: u32, fail: fn(u32) -> Result<Next>) -> Shaky {
    Shaky { steps: AtomicU32::new(0), fail, last, cx: CallContext::new() }
}

fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(future)
}

#[test]
fn a_task_that_fails_or_panics_is_started_again_and_reported() {
    let outage = |step| match step {
        0..3 => Err(Error::new(ErrorKind::Unavailable, "ask the chain", "down")),
        _ => Ok(Next::Now),
    };
    run(async {
        let clock = Quick::default();
        let care = care(&clock);
        let task = shaky(4, outage);
        care.keep_going(&task, &task.cx).await;
        assert_eq!(clock.slept(), [1, 2, 4], "the pauses double");
        assert!(care.ledger.alerts().await.expect("read").is_empty(), "it is well again");
        assert_eq!(care.ledger.frozen().await.expect("read"), None, "an outage freezes nothing");

        let task = shaky(1, |step| if step == 0 { panic!("one and one is three") } else { Ok(Next::Now) });
        care.keep_going(&task, &task.cx).await;
        let frozen = care.ledger.frozen().await.expect("read").expect("a bug");
        assert!(frozen.contains("one and one is three") && frozen.contains("shaky"), "{frozen}");
        // The task is well again, the validator is not before somebody has looked.
        let alerts = care.ledger.alerts().await.expect("read");
        let keys: Vec<_> = alerts.iter().map(|alert| &*alert.key).collect();
        assert_eq!(keys, ["frozen", "shaky"], "{alerts:?}");
        care.ledger.unfreeze().await.expect("looked");
        assert!(care.ledger.alerts().await.expect("read").is_empty());
    });
}

#[test]
fn an_older_head_changes_nothing_and_one_that_stands_still_is_reported() {
    run(async {
        let (folder, clock) = (tempfile::tempdir().expect("a folder"), Quick::default());
        let (base, chain) = base(folder.path(), &clock).await;
        let (base, cx) = (Arc::new(base), CallContext::new());
        let follower = follower::Follower::new(Arc::clone(&base), true);
        follower.step(&cx).await.expect("follows");
        let first = base.newest().expect("a block");

        // A node that is behind has an old metagraph: nobody is judged by it.
        let later = Seen {
            head: BlockRef { number: first.head.number + 50, ..first.head.clone() },
            subnet: first.subnet.clone(),
            metagraph: Metagraph { neurons: Vec::new() },
        };
        base.seen.send_replace(Some(Arc::new(later)));
        chain.advance(1).expect("a block");
        follower.step(&cx).await.expect("waits");
        assert_eq!(base.newest().expect("a block").head.number, first.head.number + 50);

        // Nothing but a new block ends it.
        clock.pass(Duration::from_mins(6));
        for _ in 0..2 {
            let error = follower.step(&cx).await.expect_err("it stands still");
            assert_eq!((error.kind(), error.fault()), (ErrorKind::Unavailable, Fault::Infrastructure));
            assert!(error.to_string().contains("seconds: 360"), "{error}");
        }
        let head = chain.advance(60).expect("blocks");
        follower.step(&cx).await.expect("follows");
        assert_eq!(base.newest().expect("a block").head, head);
        follower.step(&cx).await.expect("waits");
    });
}

#[test]
fn a_node_that_is_behind_at_the_start_makes_no_head_older_than_what_was_read() {
    run(async {
        let (folder, clock) = (tempfile::tempdir().expect("a folder"), Quick::default());
        let (mut base, chain) = base(folder.path(), &clock).await;
        let cx = CallContext::new();
        let read = chain.advance(50).expect("blocks");
        base.reveals.follow_to(&*base.chain, base.netuid, &read, &cx).await.expect("read");
        let head = chain.advance(3).expect("blocks");
        assert_eq!(base.head_number(&cx).await.expect("a head"), head.number);
        // As after a restart: no block was followed to yet. Chains of one seed have the same blocks.
        let behind = LocalChain::new(LocalChainConfig { start_block: 9, ..LocalChainConfig::default() });
        base.chain = Arc::new(behind.expect("a chain"));
        assert!(base.newest().is_none());
        assert_eq!(base.head_number(&cx).await.expect("a head"), read.number);
    });
}

#[test]
fn a_task_that_stands_still_is_reported_once_and_cleared() {
    run(async {
        let clock = Quick::default();
        let care = care(&clock);
        care.beats.begin("shaky", Duration::from_mins(1), care.time.clock.now());
        let cx = CallContext::new();
        // 15 looks, each after 5 seconds of a task that does nothing.
        clock.stop_after(15, cx.clone());
        care.watch(&cx).await;
        let alerts = care.ledger.alerts().await.expect("read");
        assert_eq!(alerts.len(), 1);
        assert!(alerts[0].message.contains("does not get on") && alerts[0].count > 1, "{alerts:?}");
        care.beat("shaky");
        let cx = CallContext::new();
        clock.stop_after(2, cx.clone());
        care.watch(&cx).await;
        assert!(care.ledger.alerts().await.expect("read").is_empty());
    });
}

#[test]
fn a_disk_below_its_reserve_is_reported_once_and_cleared() {
    run(async {
        let clock = Quick::default();
        // No disk has so much room.
        let short = Care { disk: disk(u64::MAX), ..care(&clock) };
        let wide = Care { disk: disk(0), ..short.clone() };
        let looks = async |care: &Care, looks| {
            let cx = CallContext::new();
            clock.stop_after(looks, cx.clone());
            care.watch(&cx).await;
            care.ledger.alerts().await.expect("read")
        };
        let alerts = looks(&short, 5).await;
        assert_eq!(alerts.len(), 1, "{alerts:?}");
        assert_eq!((&*alerts[0].key, &*alerts[0].fault, alerts[0].count), (DISK, "infrastructure", 1));
        assert!(alerts[0].message.contains("reserve"), "{alerts:?}");
        assert!(looks(&wide, 1).await.is_empty(), "an earlier process's alert ends too");
    });
}
