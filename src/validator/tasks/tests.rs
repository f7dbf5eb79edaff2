use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::validator::operate::OperateSettings;

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
    });
}

#[test]
fn a_task_that_stands_still_is_reported_once_and_cleared() {
    run(async {
        let clock = Quick::default();
        let care = care(&clock);
        care.beats.begin("shaky", Duration::from_mins(1), clock.state().now);
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

/// A clock whose sleepers wake at once, at their time.
#[derive(Debug, Clone, Default)]
struct Quick(Arc<std::sync::Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    now: Duration,
    slept: Vec<u64>,
    stop: Option<(usize, CallContext)>,
}

impl Quick {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().expect("no panic")
    }

    fn slept(&self) -> Vec<u64> {
        self.state().slept.clone()
    }

    /// Cancels `cx` with the sleep after so many more.
    fn stop_after(&self, sleeps: usize, cx: CallContext) {
        let mut state = self.state();
        let at = state.slept.len() + sleeps;
        state.stop = Some((at, cx));
    }
}

impl crate::Clock for Quick {
    fn now(&self) -> Duration {
        self.state().now
    }

    fn sleep_until(&self, at: Duration) -> futures::future::BoxFuture<'static, ()> {
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
