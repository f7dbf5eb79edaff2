//! The judge `one-command`: prefers the reply whose code block has fewer lines.

use std::sync::Arc;

use albedo::prelude::*;
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Prefers the reply whose code block has fewer lines.
#[derive(Debug)]
struct OneCommand {
    identity: Identity,
    config: Config,
}

/// Settings of [`OneCommand`].
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Config {
    /// A block of this many lines, or more, scores nothing.
    most_lines: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self { most_lines: 10 }
    }
}

impl OneCommand {
    /// The quality of one reply, in [0, 1]: 1 for a block of one line, 0 for no
    /// block at all.
    fn quality(&self, reply: &str) -> f64 {
        let Some((_, block)) = reply.split_once("```") else { return 0.0 };
        let lines = block.lines().skip(1).take_while(|line| !line.starts_with("```")).count();
        let most = f64::from(self.config.most_lines);
        1.0 - (lines.saturating_sub(1) as f64 / most).min(1.0)
    }
}

#[async_trait]
impl Judge for OneCommand {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn profile(&self) -> JudgeProfile {
        JudgeProfile::new([Metric::Efficiency])
    }

    async fn compare(&self, request: &Comparison, _cx: &CallContext) -> albedo::Result<Assessment> {
        let [first, second] = [&request.first, &request.second].map(|reply| self.quality(&reply.text));
        Ok(Assessment::scored([(Metric::Efficiency, Score::from_difference(first, second)?)]))
    }
}

impl Plugin<dyn Judge> for OneCommand {
    const NAME: &'static str = "one-command";
    const SUMMARY: &'static str = "prefers the shorter code block";
    type Config = Config;
    type Checked = Self;

    fn check(config: Config, _cx: &CheckContext<'_>) -> albedo::Result<Self> {
        if config.most_lines == 0 {
            let operation = "check the settings of judge `one-command`";
            let error = Error::new(ErrorKind::ConfigInvalid, operation, "`most_lines` is 0");
            return Err(error.with("key", "most_lines").with_hint("set it to 1 or more"));
        }
        Ok(Self { identity: Identity::new(Self::NAME, "1", &config)?, config })
    }

    async fn build(judge: Self, _cx: &BuildContext<'_>) -> albedo::Result<Arc<dyn Judge>> {
        Ok(Arc::new(judge))
    }
}

register!(dyn Judge => OneCommand);

#[cfg(test)]
mod tests {
    use albedo::conformance::{JudgeFixture, check_judge};
    use albedo::testing::comparison;

    use super::*;

    #[tokio::test]
    async fn it_keeps_the_promises_of_a_judge() {
        let config = Config::default();
        let judge =
            OneCommand { identity: Identity::new("one-command", "1", &config).expect("named"), config };
        let replies = ["```bash\nls\n```", "```bash\nls\npwd\n```"];
        let comparisons = vec![comparison("Which files are there?", "ls", replies)];
        check_judge(&judge, &JudgeFixture::new(comparisons)).await.expect("conforms");
        assert!(judge.quality(replies[0]) > judge.quality(replies[1]));
    }
}
