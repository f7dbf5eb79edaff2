//! `GET /v1/models`.

use std::time::{SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::extract::{Path, State as From};
use serde::Serialize;

use crate::server::error::{ApiError, ErrorResponse};
use crate::server::models::{ModelState, ServedModel};
use crate::server::state::State;

/// The models that a server offers.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub(crate) struct ModelList {
    /// `list`.
    pub object: &'static str,
    /// One per model.
    pub data: Vec<Model>,
}

/// A model that a server offers.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub(crate) struct Model {
    /// The name that requests give.
    pub id: String,
    /// `model`.
    pub object: &'static str,
    /// When the server was asked, in seconds since the Unix epoch: models have no time.
    pub created: u64,
    /// `albedo`.
    pub owned_by: &'static str,
    /// Digest of the parameters; none until the model is here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameters: Option<String>,
    /// Longest prompt and reply together, in tokens; none unless it is loaded. vLLM
    /// names it so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_model_len: Option<u32>,
}

impl Model {
    fn of(model: &ServedModel) -> Self {
        Self {
            id: model.name.clone(),
            object: "model",
            created: now(),
            owned_by: "albedo",
            parameters: model.key.map(|key| key.parameters.to_string()),
            max_model_len: model.info.as_ref().map(|info| info.context_length),
        }
    }
}

/// Seconds since the Unix epoch.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Lists the models that are here.
#[utoipa::path(
    get,
    path = "/v1/models",
    tag = "models",
    responses((status = 200, description = "The models that are here", body = ModelList))
)]
pub(super) async fn list(From(state): From<State>) -> Json<ModelList> {
    let models = state.models().list();
    let here = models.iter().filter(|model| model.state != ModelState::Waiting);
    Json(ModelList { object: "list", data: here.map(Model::of).collect() })
}

/// Describes one model.
#[utoipa::path(
    get,
    path = "/v1/models/{model}",
    tag = "models",
    params(("model" = String, Path, description = "Its name; a `/` in it may be written as it is")),
    responses(
        (status = 200, description = "The model", body = Model),
        (status = 404, description = "No model here has that name", body = ErrorResponse),
    )
)]
pub(super) async fn one(From(state): From<State>, Path(name): Path<String>) -> Result<Json<Model>, ApiError> {
    let models = state.models().list();
    let found = models.iter().find(|model| model.name == name && model.state != ModelState::Waiting);
    found.map(|model| Json(Model::of(model))).ok_or_else(|| ApiError::no_model(&name))
}
