//! What every answer has beside its replies: usage, an id, a fingerprint.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use super::reply::End;
use crate::server::{EngineIdentity, SessionKey};
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

/// A new id: unique within the process, and among processes by their start.
pub(super) fn id(kind: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{kind}-{:x}-{:x}-{number:x}", super::models::now(), std::process::id())
}

/// Names all that a reply's bits depend on beside its request: the engine and the
/// session.
pub(super) fn fingerprint(engine: &EngineIdentity, key: SessionKey) -> Result<String> {
    Ok(format!("albedo-{}", Digest::of_json(&(engine, key))?.short()))
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
