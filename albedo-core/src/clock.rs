//! Time as an argument: the system's, or a virtual one for tests and
//! simulations.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::future::BoxFuture;

/// Four months: as good as never, and far from what a clock can hold.
pub(crate) const MAX_SECS: f64 = 1e7;

/// A setting in seconds; [`MAX_SECS`] at most, 0 if it is below.
pub(crate) fn secs(secs: f64) -> Duration {
    Duration::try_from_secs_f64(secs.min(MAX_SECS)).unwrap_or_default()
}

/// Measures time and waits.
pub trait Clock: Debug + Send + Sync + 'static {
    /// Time since a moment of the clock's own choice; never decreases.
    fn now(&self) -> Duration;

    /// Ends once [`Clock::now`] is at least `at`.
    fn sleep_until(&self, at: Duration) -> BoxFuture<'static, ()>;
}

/// Milliseconds since the Unix epoch by the system's clock. For people: nothing is
/// computed from it.
#[expect(clippy::disallowed_methods, reason = "this is the clock")]
pub(crate) fn unix_ms() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since_epoch.as_millis() as u64
}

/// Tokio's clock; waiting needs a Tokio runtime with time.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock {
    origin: tokio::time::Instant,
}

impl Default for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    fn default() -> Self {
        Self { origin: tokio::time::Instant::now() }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    fn sleep_until(&self, at: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep_until(self.origin + at))
    }
}

/// Time that passes only while nothing else can happen: [`VirtualClock::run`]
/// polls a future, and whenever it waits moves the clock on to the next sleeper.
/// Hours pass in milliseconds, and the same run is the same every time.
#[derive(Debug, Clone, Default)]
pub struct VirtualClock {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    now: Duration,
    sleepers: BTreeMap<(Duration, u64), Waker>,
    next: u64,
}

impl VirtualClock {
    /// A clock at 0.
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs `future` to its end; `None` if everything in it waits for what
    /// never comes. All that wakes it has to run within it, on this thread.
    pub fn run<T>(&self, future: impl Future<Output = T>) -> Option<T> {
        let flag = Arc::new(Flag(AtomicBool::new(true)));
        let waker = Waker::from(Arc::clone(&flag));
        let mut future = pin!(future);
        loop {
            while flag.0.swap(false, Ordering::SeqCst) {
                if let Poll::Ready(value) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
                    return Some(value);
                }
            }
            let sleeper = {
                let mut state = self.state();
                let ((at, _), sleeper) = state.sleepers.pop_first()?;
                state.now = state.now.max(at);
                sleeper
            };
            sleeper.wake();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clock for VirtualClock {
    fn now(&self) -> Duration {
        self.state().now
    }

    fn sleep_until(&self, at: Duration) -> BoxFuture<'static, ()> {
        let mut state = self.state();
        state.next += 1;
        let id = state.next;
        Box::pin(Sleep { clock: self.clone(), key: (at, id) })
    }
}

struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

struct Sleep {
    clock: VirtualClock,
    key: (Duration, u64),
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.clock.state();
        if state.now >= self.key.0 {
            return Poll::Ready(());
        }
        state.sleepers.insert(self.key, cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.clock.state().sleepers.remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use futures::future::{join_all, select};

    use super::*;

    #[test]
    fn virtual_time_passes_in_order_and_at_once() {
        let clock = VirtualClock::new();
        let sleep = |seconds: u64| {
            let clock = clock.clone();
            async move {
                clock.sleep_until(clock.now() + Duration::from_secs(seconds)).await;
                clock.now().as_secs()
            }
        };
        assert_eq!(clock.run(join_all([3, 3600, 1, 0].map(sleep))), Some(vec![3, 3600, 1, 0]));
        assert_eq!(clock.now(), Duration::from_hours(1));
        let first = clock.run(async { select(pin!(sleep(7)), pin!(sleep(5))).await.factor_first().0 });
        assert_eq!(first, Some(3605));
        assert!(clock.state().sleepers.is_empty(), "a dropped sleeper is forgotten");
    }

    #[test]
    fn waiting_for_nothing_ends() {
        assert_eq!(VirtualClock::new().run(std::future::pending::<()>()), None);
    }

    #[tokio::test]
    async fn the_systems_clock_waits() {
        let clock = SystemClock::default();
        let at = clock.now() + Duration::from_millis(2);
        clock.sleep_until(at).await;
        assert!(clock.now() >= at);
    }
}
