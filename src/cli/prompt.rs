//! Questions to a person, and what an interrupt does while one waits for its answer.

use std::sync::atomic::{AtomicBool, Ordering};

/// Whether a question waits for a line.
static WAITS: AtomicBool = AtomicBool::new(false);

/// Runs `ask`, which asks and waits for a line: meanwhile the first interrupt ends the program.
/// Not for a hidden line, whose terminal has to be set back.
pub(super) fn asked<T>(ask: impl FnOnce() -> T) -> T {
    WAITS.store(true, Ordering::SeqCst);
    let answer = ask();
    WAITS.store(false, Ordering::SeqCst);
    answer
}

/// Whether a question waits for a line.
pub(super) fn waits() -> bool {
    WAITS.load(Ordering::SeqCst)
}
