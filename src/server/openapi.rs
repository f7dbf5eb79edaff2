//! The description of the routes in the form of `OpenAPI`, at `/openapi.json`.

use axum::Json;
use utoipa::OpenApi;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};

use super::jobs::routes as jobs;
use super::{ErrorResponse, health, openai};

/// Every route with its requests and answers.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "albedo serve",
        description = "Models on this server, by OpenAI's routes and by jobs (docs/serve-jobs.md). Where the server has a token, every route except /healthz and /readyz wants it.",
        license(name = "MIT OR Apache-2.0"),
    ),
    paths(
        openai::models::list,
        openai::models::one,
        openai::chat::create,
        openai::completions::create,
        jobs::engine,
        jobs::file,
        jobs::ask,
        jobs::status,
        jobs::result,
        jobs::let_go,
        jobs::events,
        health::metrics,
        health::healthz,
        health::readyz,
    ),
    components(schemas(ErrorResponse)),
    modifiers(&Token),
    security((), ("token" = [])),
)]
pub(super) struct Description;

/// The bearer token.
struct Token;

impl utoipa::Modify for Token {
    fn modify(&self, description: &mut utoipa::openapi::OpenApi) {
        let components = description.components.get_or_insert_default();
        components.add_security_scheme("token", SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)));
    }
}

/// Answers `/openapi.json`.
pub(super) async fn describe() -> Json<utoipa::openapi::OpenApi> {
    Json(Description::openapi())
}
