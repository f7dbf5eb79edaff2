//! The screen `my-plugin`: rejects models whose files are too large, until
//! [`FilesScreen::inspect`] looks at what you want screened.

use std::sync::Arc;

use albedo::prelude::*;
use albedo::{FilesScreen, Finding, ModelFiles, ScreenPart};
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

/// Rejects models whose files are too large.
#[derive(Debug)]
pub struct MyPlugin {
    identity: Identity,
    config: Config,
}

/// Settings of the screen.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Bytes that all files together may have.
    pub max_bytes: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self { max_bytes: 1 << 40 }
    }
}

impl Screen for MyPlugin {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn part(&self) -> ScreenPart<'_> {
        ScreenPart::Files(self)
    }
}

#[async_trait]
impl FilesScreen for MyPlugin {
    async fn inspect(
        &self,
        submission: &dyn ModelFiles,
        _king: &dyn ModelFiles,
        cx: &CallContext,
    ) -> albedo::Result<Finding> {
        // A listing that fails is an error, and nobody's foul.
        let bytes: u64 = submission.list(cx).await?.iter().map(|file| file.size).sum();
        let evidence = json!({ "bytes": bytes, "max_bytes": self.config.max_bytes });
        Ok(if bytes > self.config.max_bytes { Finding::Rejected(evidence) } else { Finding::Clear(evidence) })
    }
}

impl Plugin<dyn Screen> for MyPlugin {
    const NAME: &'static str = "my-plugin";
    const SUMMARY: &'static str = "rejects models whose files are too large";
    type Config = Config;
    type Checked = Self;

    // Raise the version whenever a finding could change: records name it.
    fn check(config: Config, _cx: &CheckContext<'_>) -> albedo::Result<Self> {
        Ok(Self { identity: Identity::new(Self::NAME, "1", &config)?, config })
    }

    async fn build(screen: Self, _cx: &BuildContext<'_>) -> albedo::Result<Arc<dyn Screen>> {
        Ok(Arc::new(screen))
    }
}

register!(dyn Screen => MyPlugin);

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use albedo::backends::files::FolderFiles;
    use albedo::conformance::check_files_screen;

    use super::*;

    #[tokio::test]
    async fn it_keeps_the_promises_of_a_screen() {
        let (cx, registry) = (CallContext::new(), Registry::linked().expect("no name is taken twice"));
        let files = FolderFiles::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src"));
        for (settings, rejected) in [(json!({}), false), (json!({ "max_bytes": 1 }), true)] {
            let screen = BuildContext::new(&registry, &cx)
                .build::<dyn Screen>("my-plugin", settings)
                .await
                .expect("builds");
            let subject: [&dyn ModelFiles; 2] = [&files, &files];
            check_files_screen(&*screen, &[subject], Duration::from_mins(1)).await.expect("conforms");
            let ScreenPart::Files(part) = screen.part() else { panic!("it looks at files") };
            let finding = part.inspect(&files, &files, &cx).await.expect("looks");
            assert_eq!(matches!(finding, Finding::Rejected(_)), rejected);
        }
    }
}
