//! OpenAI's routes: `/v1/models`, `/v1/chat/completions`, `/v1/completions`.
//!
//! | module | has |
//! | --- | --- |
//! | `models`, `chat`, `completions` | one route each: its request, its answer, its handler |
//! | `request` | what requests have in common: defaults, limits, what is refused |
//! | `reply` | the replies of one request, each written by a task of its own |
//! | `stop` | stop strings across tokens |
//! | `sse` | streamed replies |
//! | `log_probs`, `usage` | parts of answers |
//!
//! What the engine does not do is refused by the name of the field, never left out
//! silently.

use axum::Router;
use axum::routing::{get, post};

use super::state::State;

pub(super) mod chat;
pub(super) mod completions;
mod log_probs;
pub(super) mod models;
mod reply;
mod request;
mod sse;
mod stop;
mod usage;

/// The routes.
pub(super) fn router() -> Router<State> {
    Router::new()
        .route("/v1/models", get(models::list))
        .route("/v1/models/{*name}", get(models::one))
        .route("/v1/chat/completions", post(chat::create))
        .route("/v1/completions", post(completions::create))
}
