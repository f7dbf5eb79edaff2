//! What jobs come to.

use std::collections::BTreeMap;

use albedo_core::{Completion, Digest, ModelInfo, Screened, TokenScores};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What a job came to, and who says so.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobResult {
    /// The job.
    pub job: Digest,
    /// The engine that did it.
    pub engine: Digest,
    /// The model that answered, where one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<AnsweringModel>,
    /// What it came to.
    pub outcome: JobOutcome,
}

/// The model that answered, as its session described itself at the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnsweringModel {
    /// [`ModelInfo::parameters`].
    pub parameters: Digest,
    /// [`ModelInfo::tokenizer`].
    pub tokenizer: Digest,
    /// [`ModelInfo::chat_template`].
    pub chat_template: Digest,
    /// [`ModelInfo::config`].
    pub config: Digest,
}

impl From<&ModelInfo> for AnsweringModel {
    fn from(model: &ModelInfo) -> Self {
        Self {
            parameters: model.parameters,
            tokenizer: model.tokenizer,
            chat_template: model.chat_template,
            config: model.config,
        }
    }
}

/// What a job came to, by its kind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum JobOutcome {
    /// The model is there.
    Held(HeldModel),
    /// The model is loaded.
    Loaded(LoadedModel),
    /// What was found.
    Screened(ScreenedModel),
    /// The reply.
    Generated(Completion),
    /// The scores, one per reply.
    Scored(Vec<TokenScores>),
    /// The label keeps nothing any more.
    Released,
}

/// A model that is held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldModel {
    /// Digest of its parameters.
    pub parameters: Digest,
}

/// A model that is loaded, and what a client needs to count its prompts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LoadedModel {
    /// What is loaded.
    pub model: ModelInfo,
    /// Its text files by name: `tokenizer.json`, `tokenizer_config.json` and the others
    /// that are there. `GET /v1/files/{sha256}` has them.
    pub text: BTreeMap<String, TextFile>,
    /// The date that its chat template gets, if the engine's settings say one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub date: Option<String>,
}

/// A text file of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TextFile {
    /// Bytes.
    pub size: u64,
    /// Digest of its bytes.
    pub sha256: Digest,
}

/// The files of a model that say how it reads and writes text. Those that a model does
/// not have are left out.
pub const TEXT_FILES: [&str; 5] = [
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
];

/// The longest text file that is sent, in bytes; Qwen3's `tokenizer.json` has 11 MB.
pub const MAX_TEXT_FILE: u64 = 64 << 20;

/// What screens found in a model that is held.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScreenedModel {
    /// What each screen found, in the order of the request.
    pub findings: Vec<Screened>,
    /// What a store remembers of it, if that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured: Option<MeasuredModel>,
}

/// What a store of submissions remembers of a model: enough to find exact copies, and
/// those that resemble an earlier submission.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MeasuredModel {
    /// Digest of its parameters.
    pub parameters: Digest,
    /// Its fingerprint: the JSON of `albedo_judges::screens::fingerprint::Fingerprint`.
    pub fingerprint: Value,
    /// Its sketch, where there is an anchor: the JSON of
    /// `albedo_judges::screens::lineage::Sketch`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sketch: Option<Value>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_keeps_every_bit() {
        let completion =
            Completion::new("text", albedo_core::FinishReason::Stop, albedo_core::Usage::default())
                .with_tokens(vec![1, 2])
                .with_reply_scores(Some(TokenScores { log_probs: vec![-0.1, f32::MIN_POSITIVE, -1e-30] }));
        let result = JobResult {
            job: Digest::of("job"),
            engine: Digest::of("engine"),
            model: None,
            outcome: JobOutcome::Generated(completion),
        };
        let bytes = albedo_core::canonical_json(&result).expect("writes");
        assert_eq!(serde_json::from_slice::<JobResult>(&bytes).expect("reads"), result);
    }
}
