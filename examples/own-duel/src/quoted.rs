//! The judge `quoted`: prefers the reply that quotes more of the conversation.

use std::collections::BTreeSet;
use std::sync::Arc;

use albedo::prelude::*;
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Prefers the reply of whose words more stand in the conversation.
#[derive(Debug)]
pub(crate) struct Quoted(Identity);

/// It has no settings.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {}

#[async_trait]
impl Judge for Quoted {
    fn identity(&self) -> &Identity {
        &self.0
    }

    fn profile(&self) -> JudgeProfile {
        JudgeProfile::new([Metric::Grounding])
    }

    async fn compare(&self, request: &Comparison, _cx: &CallContext) -> albedo::Result<Assessment> {
        let said: BTreeSet<_> =
            request.messages.iter().flat_map(|message| message.content.split_whitespace()).collect();
        let quoted = |reply: &str| {
            let words: Vec<_> = reply.split_whitespace().collect();
            let known = words.iter().filter(|word| said.contains(**word)).count();
            known as f64 / words.len().max(1) as f64
        };
        let [first, second] = [&request.first, &request.second].map(|reply| quoted(&reply.text));
        Ok(Assessment::scored([(Metric::Grounding, Score::from_difference(first, second)?)]))
    }
}

impl Plugin<dyn Judge> for Quoted {
    const NAME: &'static str = "quoted";
    const SUMMARY: &'static str = "prefers the reply that quotes more";
    type Config = Settings;
    type Checked = Self;

    fn check(settings: Settings, _cx: &CheckContext<'_>) -> albedo::Result<Self> {
        Ok(Self(Identity::new(Self::NAME, "1", &settings)?))
    }

    async fn build(judge: Self, _cx: &BuildContext<'_>) -> albedo::Result<Arc<dyn Judge>> {
        Ok(Arc::new(judge))
    }
}
