//! The screen `licence`: a submission says under which terms it may be used.

use std::sync::Arc;

use albedo::prelude::*;
use albedo::{FilesScreen, Finding, ModelFiles, Screen, ScreenPart};
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

/// Looks for a file with the model's licence.
#[derive(Debug)]
struct Licence {
    identity: Identity,
    config: Config,
}

/// Settings of [`Licence`].
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Config {
    /// A submission without a licence forfeits; otherwise it is only flagged.
    required: bool,
}

impl Screen for Licence {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn part(&self) -> ScreenPart<'_> {
        ScreenPart::Files(self)
    }
}

#[async_trait]
impl FilesScreen for Licence {
    async fn inspect(
        &self,
        submission: &dyn ModelFiles,
        _king: &dyn ModelFiles,
        cx: &CallContext,
    ) -> albedo::Result<Finding> {
        let licence = |name: &str| ["LICENSE", "LICENCE"].iter().any(|word| name.starts_with(word));
        let found = submission.list(cx).await?.into_iter().find(|file| licence(&file.name));
        let reasons = json!({ "reasons": ["there is no file whose name begins with LICENSE"] });
        Ok(match found {
            Some(file) => Finding::Clear(json!({ "file": file.name })),
            None if self.config.required => Finding::Rejected(reasons),
            None => Finding::Flagged(reasons),
        })
    }
}

impl Plugin<dyn Screen> for Licence {
    const NAME: &'static str = "licence";
    const SUMMARY: &'static str = "the submission's terms of use";
    type Config = Config;
    type Checked = Self;

    fn check(config: Config, _cx: &CheckContext<'_>) -> albedo::Result<Self> {
        Ok(Self { identity: Identity::new(Self::NAME, "1", &config)?, config })
    }

    async fn build(screen: Self, _cx: &BuildContext<'_>) -> albedo::Result<Arc<dyn Screen>> {
        Ok(Arc::new(screen))
    }
}

register!(dyn Screen => Licence);
