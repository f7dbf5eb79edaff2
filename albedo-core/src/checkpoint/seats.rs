//! Work that may block, kept off the async threads.

use super::OPERATION;
use crate::context::CallContext;
use crate::error::{Error, Result};

/// A visitor's place: the visitor, or the error that it ended with. A visitor
/// that failed sees nothing more, and disturbs no other.
pub type Seat<V> = Result<Box<V>>;

/// Runs `work` on every visitor at the same time, on threads that may block.
///
/// # Errors
/// `cx`. A visitor's own error, or panic, stays in its seat.
pub(super) async fn each<V, T>(
    seats: Vec<Seat<V>>,
    cx: &CallContext,
    work: impl Fn(&mut V) -> Result<T> + Clone + Send + 'static,
) -> Result<Vec<Result<(Box<V>, T)>>>
where
    V: Send + ?Sized + 'static,
    T: Send + 'static,
{
    let running: Vec<_> = (seats.into_iter())
        .map(|seat| {
            let work = work.clone();
            seat.map(|mut visitor| {
                tokio::task::spawn_blocking(move || work(&mut *visitor).map(|value| (visitor, value)))
            })
        })
        .collect();
    let mut done = Vec::with_capacity(running.len());
    for seat in running {
        done.push(match seat {
            Ok(running) => match cx.run(OPERATION, running).await? {
                Ok(worked) => worked,
                Err(panic) => Err(Error::bug(OPERATION, format!("a visitor panicked: {panic}"))),
            },
            Err(error) => Err(error),
        });
    }
    Ok(done)
}

/// Runs `work` on a thread that may block.
///
/// # Errors
/// `cx`; a panic.
pub(super) async fn blocking<T: Send + 'static>(
    cx: &CallContext,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T> {
    cx.run(OPERATION, tokio::task::spawn_blocking(work))
        .await?
        .map_err(|panic| Error::bug(OPERATION, panic.to_string()))
}
