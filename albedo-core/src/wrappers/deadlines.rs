//! How long one try may take: to its first token, between tokens, in all.

use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::{Either, select};

use super::{DeadlineSettings, secs};
use crate::clock::Clock;
use crate::context::{CallContext, CallSignal};
use crate::error::{Error, ErrorKind, Result};

/// When a try was first and last heard of.
#[derive(Debug, Clone, Copy, Default)]
struct Heard {
    first: Option<Duration>,
    last: Option<Duration>,
}

/// A try's answer, and when its first token came if it told.
pub(super) struct Timed<T> {
    pub(super) result: Result<T>,
    pub(super) first_token: Option<Duration>,
}

/// Runs `call` until it ends or a deadline passes; then it is dropped.
pub(super) async fn within<T, F: Future<Output = Result<T>>>(
    settings: &DeadlineSettings,
    clock: &Arc<dyn Clock>,
    cx: &CallContext,
    call: impl FnOnce(CallContext) -> F,
) -> Timed<T> {
    let begun = clock.now();
    let heard = Arc::new(Mutex::new(Heard::default()));
    let read = || *heard.lock().unwrap_or_else(PoisonError::into_inner);
    let cx = {
        let (heard, clock) = (Arc::clone(&heard), Arc::clone(clock));
        cx.with_listener(move |signal| {
            if signal == CallSignal::Token {
                let now = clock.now();
                let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
                heard.first.get_or_insert(now);
                heard.last = Some(now);
            }
        })
    };
    let mut call = pin!(call(cx));
    let result = loop {
        let Some((due, _)) = settings.due(begun, read().last) else { break call.await };
        match select(call.as_mut(), clock.sleep_until(due)).await {
            Either::Left((result, _)) => break result,
            Either::Right(_) => {
                // Tokens may have moved the deadline on meanwhile.
                let missed = settings.due(begun, read().last).filter(|(due, _)| *due <= clock.now());
                if let Some((_, what)) = missed {
                    break Err(Error::new(ErrorKind::Timeout, "wait for the provider", what));
                }
            }
        }
    };
    Timed { result, first_token: read().first }
}

impl DeadlineSettings {
    /// The next deadline of a try begun at `begun` that was last heard of at
    /// `last`, and what it means to miss it.
    fn due(&self, begun: Duration, last: Option<Duration>) -> Option<(Duration, String)> {
        let due = |from: Duration, limit: Option<f64>, what: &str| {
            limit.map(|limit| (from + secs(limit), format!("{what} within {limit} s")))
        };
        let silence = match last {
            None => due(begun, self.first_token_secs, "it did not begin"),
            Some(last) => due(last, self.stall_secs, "it did not go on"),
        };
        let total = due(begun, self.total_secs, "it did not end");
        [silence, total].into_iter().flatten().min_by_key(|(due, _)| *due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::VirtualClock;

    const SETTINGS: DeadlineSettings =
        DeadlineSettings { first_token_secs: Some(2.0), stall_secs: Some(3.0), total_secs: Some(10.0) };

    /// A call with tokens at these seconds that ends at the last.
    fn run(settings: &DeadlineSettings, seconds: &[u64]) -> (Result<()>, Option<u64>, u64) {
        let virtual_clock = VirtualClock::new();
        let clock: Arc<dyn Clock> = Arc::new(virtual_clock.clone());
        let (cx, call_clock) = (CallContext::new(), Arc::clone(&clock));
        let call = |cx: CallContext| async move {
            for second in seconds {
                call_clock.sleep_until(Duration::from_secs(*second)).await;
                cx.signal(CallSignal::Token);
            }
            Ok(())
        };
        let Timed { result, first_token } =
            virtual_clock.run(within(settings, &clock, &cx, call)).expect("ends");
        (result, first_token.map(|time| time.as_secs()), clock.now().as_secs())
    }

    #[test]
    fn a_try_that_keeps_writing_ends() {
        let (result, first, ended) = run(&SETTINGS, &[1, 3, 5, 7, 9]);
        assert!(result.is_ok());
        assert_eq!((first, ended), (Some(1), 9));
        let (result, first, ended) = run(&DeadlineSettings::none(), &[1000]);
        assert!(result.is_ok());
        assert_eq!((first, ended), (Some(1000), 1000));
    }

    #[test]
    fn each_deadline_ends_a_try_that_misses_it() {
        for (seconds, words, at) in [
            (&[3][..], "it did not begin within 2 s", 2),
            (&[1, 2, 6], "it did not go on within 3 s", 5),
            (&[1, 3, 5, 7, 9, 11], "it did not end within 10 s", 10),
        ] {
            let (result, _, ended) = run(&SETTINGS, seconds);
            let error = result.expect_err(words);
            assert_eq!((error.kind(), error.message(), ended), (ErrorKind::Timeout, words, at));
            assert!(error.is_retryable());
        }
    }

    #[test]
    fn who_listened_before_hears_as_well() {
        let (sender, heard) = std::sync::mpsc::channel();
        let cx = CallContext::new().with_listener(move |signal| sender.send(signal).expect("heard"));
        let virtual_clock = VirtualClock::new();
        let clock: Arc<dyn Clock> = Arc::new(virtual_clock.clone());
        let call = |cx: CallContext| async move {
            cx.signal(CallSignal::Token);
            Ok(())
        };
        assert!(virtual_clock.run(within(&SETTINGS, &clock, &cx, call)).expect("ends").result.is_ok());
        assert_eq!(heard.try_iter().count(), 1);
    }
}
