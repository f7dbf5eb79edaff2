//! Replies of the student as it is, for stages in which it learns from its own mistakes.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use futures::StreamExt;
use serde_json::json;
use tokio::runtime::Handle;

use super::config::StageSettings;
use crate::backends::burn::train::Trainer;
use crate::rng::derive_seed;
use crate::{
    BuildContext, CallContext, Error, ErrorKind, GenerateRequest, Message, ModelBackend, ModelSource, Result,
    Sampling,
};

const SAMPLE: &str = "sample replies of the student";

/// Tokens of a sampled reply, where the stage does not say.
const MAX_NEW_TOKENS: u32 = 256;

/// Samples replies with the engine that duels use.
#[derive(Debug)]
pub(super) struct Sampler {
    backend: Arc<dyn ModelBackend>,
}

impl StageSettings {
    /// The longest reply in tokens.
    pub(super) fn reply_cap(&self) -> u32 {
        self.max_new_tokens.unwrap_or(MAX_NEW_TOKENS)
    }

    /// How tokens are chosen: by the student's own distribution, where the stage does not
    /// say.
    pub(super) fn chosen_by(&self) -> Sampling {
        self.sampling.unwrap_or(Sampling { temperature: 1.0, ..Sampling::default() })
    }
}

impl Sampler {
    pub(super) async fn build(cx: &BuildContext<'_>) -> Result<Self> {
        let backend = cx.registry().build::<dyn ModelBackend>("burn", json!({}), cx.call()).await?;
        Ok(Self { backend })
    }

    /// The ids of the student's replies to `prompts`, each with the token that ended it. The
    /// student is written to `scratch` in between, since the engine loads folders. `seed` is
    /// that of the step. Called from a thread that may block.
    ///
    /// # Errors
    /// What the disk and the engine meet; a reply that has no ids.
    pub(super) fn replies(
        &self,
        trainer: &Trainer,
        stage: &StageSettings,
        prompts: Vec<Vec<Message>>,
        seed: u64,
        scratch: &Path,
        cx: &CallContext,
    ) -> Result<Vec<Vec<u32>>> {
        if scratch.exists() {
            fs::remove_dir_all(scratch).map_err(|error| Error::io(SAMPLE, scratch, error))?;
        }
        trainer.export(scratch)?;
        let (cap, sampling) = (stage.reply_cap(), stage.chosen_by());
        let request = |(number, prompt): (usize, Vec<Message>)| {
            let parts = [seed, number as u64].map(u64::to_le_bytes);
            GenerateRequest::new(prompt, cap)
                .with_sampling(sampling)
                .with_seed(derive_seed("albedo distil sample 1", &[&parts[0], &parts[1]]))
        };
        let requests: Vec<_> = prompts.into_iter().enumerate().map(request).collect();
        let mut replies = vec![Vec::new(); requests.len()];
        Handle::current().block_on(async {
            let session = self.backend.load(&ModelSource::new(scratch), cx).await?;
            let mut answers = session.generate(requests, cx);
            while let Some(generated) = cx.run(SAMPLE, answers.next()).await? {
                let completion = generated.result?;
                if let Some(reply) = replies.get_mut(generated.index) {
                    *reply = completion.tokens;
                }
            }
            Ok::<_, Error>(())
        })?;
        fs::remove_dir_all(scratch).map_err(|error| Error::io(SAMPLE, scratch, error))?;
        if replies.iter().any(Vec::is_empty) {
            return Err(Error::new(ErrorKind::Protocol, SAMPLE, "a request has no answer"));
        }
        Ok(replies)
    }
}
