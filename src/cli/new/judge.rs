//! The judge `my-plugin`: prefers the shorter of two replies, until
//! [`MyPlugin::quality`] is what you want judged.

use std::sync::Arc;

use albedo::prelude::*;
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Prefers the shorter of two replies.
#[derive(Debug)]
pub struct MyPlugin {
    identity: Identity,
    config: Config,
}

/// Settings of the judge: the keys of its table in `[[judges]]`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// A reply of this many characters, or more, scores nothing.
    pub longest: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self { longest: 2000 }
    }
}

impl MyPlugin {
    /// The quality of one reply, in [0, 1].
    fn quality(&self, reply: &str) -> f64 {
        let longest = f64::from(self.config.longest);
        1.0 - (reply.chars().count() as f64).min(longest) / longest
    }
}

#[async_trait]
impl Judge for MyPlugin {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn profile(&self) -> JudgeProfile {
        JudgeProfile::new([Metric::Efficiency])
    }

    // One order per call, and no side is named: the engine asks for both orders.
    async fn compare(&self, request: &Comparison, _cx: &CallContext) -> albedo::Result<Assessment> {
        let [first, second] = [&request.first, &request.second].map(|reply| self.quality(&reply.text));
        Ok(Assessment::scored([(Metric::Efficiency, Score::from_difference(first, second)?)]))
    }
}

impl Plugin<dyn Judge> for MyPlugin {
    const NAME: &'static str = "my-plugin";
    const SUMMARY: &'static str = "prefers the shorter reply";
    type Config = Config;
    type Checked = Self;

    // Raise the version whenever an answer could change: records name it.
    fn check(config: Config, _cx: &CheckContext<'_>) -> albedo::Result<Self> {
        if config.longest == 0 {
            let operation = "check the settings of judge `my-plugin`";
            let error = Error::new(ErrorKind::ConfigInvalid, operation, "`longest` is 0");
            return Err(error.with("key", "longest").with_hint("set it to 1 or more"));
        }
        Ok(Self { identity: Identity::new(Self::NAME, "1", &config)?, config })
    }

    async fn build(judge: Self, _cx: &BuildContext<'_>) -> albedo::Result<Arc<dyn Judge>> {
        Ok(Arc::new(judge))
    }
}

register!(dyn Judge => MyPlugin);

#[cfg(test)]
mod tests {
    use albedo::conformance::{JudgeFixture, check_judge};
    use albedo::testing::comparison;

    use super::*;

    #[tokio::test]
    async fn it_keeps_the_promises_of_a_judge() {
        let (cx, registry) = (CallContext::new(), Registry::linked().expect("no name is taken twice"));
        let judge = BuildContext::new(&registry, &cx)
            .build::<dyn Judge>("my-plugin", serde_json::json!({}))
            .await
            .expect("builds");
        let comparisons = vec![
            comparison("Which files are there?", "ls", ["ls", "I list the files first: ls"]),
            comparison("Which files are there?", "ls", ["", "ls -l"]),
        ];
        check_judge(&*judge, &JudgeFixture::new(comparisons)).await.expect("conforms");
    }
}
