//! OpenAI's routes.

use axum::Router;
use axum::routing::get;

use super::state::State;

mod models;

/// The routes.
pub(super) fn router() -> Router<State> {
    Router::new().route("/v1/models", get(models::list)).route("/v1/models/{*name}", get(models::one))
}
