//! What every answer has beside its replies: usage, an id, a fingerprint.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use super::models::now;
use super::reply::End;
use crate::server::SessionKey;
use crate::server::state::State;
use crate::{Digest, Result};

/// Tokens of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[expect(clippy::struct_field_names, reason = "OpenAI's names")]
pub(crate) struct Usage {
    /// Of its prompts, each counted once.
    prompt_tokens: u64,
    /// Of its replies, the tokens that ended them included.
    completion_tokens: u64,
    /// Both.
    total_tokens: u64,
}

impl Usage {
    /// The sum over `ends`, of which each prompt has `replies` in a row.
    pub(super) fn of(ends: &[End], replies: usize) -> Self {
        let prompts = ends.iter().step_by(replies.max(1));
        let prompt_tokens = prompts.map(|end| u64::from(end.prompt_tokens)).sum();
        let completion_tokens = ends.iter().map(|end| u64::from(end.completion_tokens)).sum();
        Self { prompt_tokens, completion_tokens, total_tokens: prompt_tokens + completion_tokens }
    }
}

/// What every answer to one request names.
#[derive(Debug, Clone)]
pub(super) struct Head {
    pub(super) id: String,
    /// Seconds since the Unix epoch.
    pub(super) created: u64,
    /// The name that the request gave.
    pub(super) model: String,
    /// Names all that a reply's bits depend on beside its request: the engine and the
    /// session.
    pub(super) fingerprint: String,
}

impl Head {
    /// Of the answers to a request for `model`, which is the session `key`; `kind` begins
    /// their id.
    pub(super) fn new(kind: &str, model: &str, key: SessionKey, state: &State) -> Result<Self> {
        let engine = state.models().engine();
        let fingerprint = format!("albedo-{}", Digest::of_json(&(engine, key))?.short());
        Ok(Self { id: id(kind), created: now(), model: model.to_owned(), fingerprint })
    }
}

/// A new id: unique within the process, and among processes by their start.
fn id(kind: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{kind}-{:x}-{:x}-{number:x}", now(), std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_is_counted_once_whatever_its_replies() {
        let end = |prompt_tokens, completion_tokens| End { finish: "stop", prompt_tokens, completion_tokens };
        let usage = Usage::of(&[end(5, 1), end(5, 2), end(7, 3), end(7, 4)], 2);
        assert_eq!((usage.prompt_tokens, usage.completion_tokens, usage.total_tokens), (12, 10, 22));
        assert_ne!(id("cmpl"), id("cmpl"));
    }
}
