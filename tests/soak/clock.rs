//! A clock that stands still while anything is under way, and jumps to the next sleeper once
//! nothing is.
//!
//! How it knows: the validator runs on a runtime of one thread, whose hook is called when no
//! task is ready. The runtime's pool for blocking work keeps an idle thread for no more than
//! [`KEPT`]. It names a thread when it makes one, so that a thread counts from before it runs
//! until all of its work is done.
//! When no such thread is left and none of them has woken a task since, every task waits for
//! the clock, or for another task that does.
//!
//! A duel holds such a thread from its first reply to its last: it takes no time by this clock.

use std::collections::BTreeMap;
use std::fmt;
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

use albedo::Clock;
use futures::future::BoxFuture;
use tokio::runtime::{Builder, Handle, Runtime};

/// How long a thread waits for more work before it ends, by this machine's clock. It decides how
/// fast a run is, and nothing else: a thread costs more than most of the work that it does.
const KEPT: Duration = Duration::from_micros(50);

/// The clock; clones share it.
#[derive(Clone, Default)]
pub(crate) struct Jumping(Arc<Inner>);

#[derive(Default)]
struct Inner {
    sleepers: Mutex<Sleepers>,
    /// Threads for blocking work that exist.
    threads: AtomicUsize,
    /// Whether time passes.
    runs: AtomicBool,
    jumps: AtomicUsize,
    runtime: OnceLock<Handle>,
    /// Wakes a task that does nothing: the runtime then looks again whether it is idle.
    look: Mutex<Option<Waker>>,
}

#[derive(Default)]
struct Sleepers {
    now: Duration,
    next: u64,
    wakers: BTreeMap<(Duration, u64), Waker>,
}

impl fmt::Debug for Jumping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Jumping").field(&self.now()).finish()
    }
}

impl Clock for Jumping {
    fn now(&self) -> Duration {
        self.sleepers().now
    }

    fn sleep_until(&self, at: Duration) -> BoxFuture<'static, ()> {
        let key = {
            let mut sleepers = self.sleepers();
            sleepers.next += 1;
            (at, sleepers.next)
        };
        let sleeper = Sleeper { clock: self.clone(), key };
        Box::pin(poll_fn(move |cx| {
            let mut sleepers = sleeper.clock.sleepers();
            if sleepers.now >= sleeper.key.0 {
                return Poll::Ready(());
            }
            sleepers.wakers.insert(sleeper.key, cx.waker().clone());
            Poll::Pending
        }))
    }
}

/// Forgets its waker when it is dropped.
struct Sleeper {
    clock: Jumping,
    key: (Duration, u64),
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        self.clock.sleepers().wakers.remove(&self.key);
    }
}

impl Jumping {
    /// A runtime that moves the clock whenever it is idle, once [`Jumping::start`] was called.
    pub(crate) fn runtime(&self) -> Runtime {
        let [named, stopped, parked] = [(); 3].map(|()| self.clone());
        let runtime = Builder::new_current_thread()
            .enable_all()
            .thread_keep_alive(KEPT)
            .thread_name_fn(move || {
                named.0.threads.fetch_add(1, Ordering::SeqCst);
                "blocking".into()
            })
            .on_thread_stop(move || {
                if stopped.0.threads.fetch_sub(1, Ordering::SeqCst) == 1 {
                    stopped.look();
                }
            })
            .on_thread_park(move || parked.parked())
            .build()
            .expect("a runtime");
        assert!(self.0.runtime.set(runtime.handle().clone()).is_ok(), "one runtime per clock");
        runtime
    }

    /// Time passes from now on. To be spawned on the runtime.
    pub(crate) async fn start(self) {
        self.0.runs.store(true, Ordering::SeqCst);
        poll_fn(|cx| {
            *self.0.look.lock().unwrap_or_else(PoisonError::into_inner) = Some(cx.waker().clone());
            Poll::<()>::Pending
        })
        .await;
    }

    /// How often the clock has jumped.
    pub(crate) fn jumps(&self) -> usize {
        self.0.jumps.load(Ordering::SeqCst)
    }

    pub(crate) async fn sleep(&self, time: Duration) {
        self.sleep_until(self.now() + time).await;
    }

    fn look(&self) {
        if let Some(look) = &*self.0.look.lock().unwrap_or_else(PoisonError::into_inner) {
            look.wake_by_ref();
        }
    }

    /// No task is ready on the runtime's thread, which calls this.
    fn parked(&self) {
        let inner = &*self.0;
        // First the threads: one that is gone has woken what waited for it before.
        if !inner.runs.load(Ordering::SeqCst) || inner.threads.load(Ordering::SeqCst) > 0 {
            return;
        }
        let woken = inner.runtime.get().expect("a runtime").metrics().global_queue_depth();
        if woken > 0 {
            return;
        }
        let due = {
            let mut sleepers = self.sleepers();
            let Some((&(first, _), _)) = sleepers.wakers.first_key_value() else { return };
            sleepers.now = sleepers.now.max(first);
            let later = (sleepers.now, u64::MAX);
            let later = sleepers.wakers.split_off(&later);
            std::mem::replace(&mut sleepers.wakers, later)
        };
        inner.jumps.fetch_add(1, Ordering::SeqCst);
        due.into_values().for_each(Waker::wake);
    }

    fn sleepers(&self) -> MutexGuard<'_, Sleepers> {
        self.0.sleepers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[test]
fn time_passes_only_while_nothing_is_under_way() {
    let clock = Jumping::default();
    let runtime = clock.runtime();
    runtime.block_on(async {
        let mut set = tokio::task::JoinSet::new();
        set.spawn(clock.clone().start());
        for number in 0..20_u64 {
            let clock = clock.clone();
            set.spawn(async move {
                for _ in 0..50 {
                    clock.sleep(Duration::from_secs(number + 1)).await;
                    let before = clock.now();
                    // Work on other threads, one after the other, some of it at the same time as others'.
                    for _ in 0..3 {
                        let worked = tokio::task::spawn_blocking(move || {
                            (0..20_000 * number).fold(0_u64, |sum, next| std::hint::black_box(sum ^ next))
                        });
                        worked.await.expect("it ends");
                    }
                    assert_eq!(clock.now(), before, "no time passes meanwhile");
                }
            });
        }
        for _ in 0..20 {
            set.join_next().await.expect("there are more").expect("no panic");
        }
        assert_eq!(clock.now(), Duration::from_secs(20 * 50));
    });
}
