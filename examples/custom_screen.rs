//! A screen of one's own: written, registered by name, configured, run on the
//! demo models, and checked by the conformance suite's rules.
//!
//! Needs the demo pack (`examples/demo`); run it in the repository's root:
//! `cargo run --release --example custom_screen`
#![expect(clippy::print_stdout, reason = "an example prints")]

use std::sync::Arc;

use albedo::backends::files::FolderFiles;
use albedo::prelude::*;
use albedo::{Admit, FilesScreen, Finding, ModelFiles, Models, ScreenPart};
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

/// Rejects models whose files are larger than they may be.
#[derive(Debug)]
struct Diet {
    identity: Identity,
    config: DietConfig,
}

/// Settings of [`Diet`]: strict, with a default for everything.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct DietConfig {
    /// Bytes that all files together may have.
    max_bytes: u64,
}

impl Default for DietConfig {
    fn default() -> Self {
        Self { max_bytes: 10_000_000 }
    }
}

impl Screen for Diet {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn part(&self) -> ScreenPart<'_> {
        ScreenPart::Files(self)
    }
}

#[async_trait]
impl FilesScreen for Diet {
    async fn inspect(
        &self,
        submission: &dyn ModelFiles,
        _king: &dyn ModelFiles,
        cx: &CallContext,
    ) -> albedo::Result<Finding> {
        // What cannot be listed is an error: not found out, and nobody's foul.
        let bytes: u64 = submission.list(cx).await?.iter().map(|file| file.size).sum();
        let evidence = json!({ "bytes": bytes, "max_bytes": self.config.max_bytes });
        Ok(if bytes > self.config.max_bytes { Finding::Rejected(evidence) } else { Finding::Clear(evidence) })
    }
}

impl Plugin<dyn Screen> for Diet {
    const NAME: &'static str = "diet";
    const SUMMARY: &'static str = "rejects models that are too large";
    type Config = DietConfig;
    type Checked = Self;

    fn check(config: DietConfig, _: &CheckContext<'_>) -> albedo::Result<Self> {
        Ok(Self { identity: Identity::new(Self::NAME, "1", &config)?, config })
    }

    async fn build(screen: Self, _: &BuildContext<'_>) -> albedo::Result<Arc<dyn Screen>> {
        Ok(Arc::new(screen))
    }
}

register!(dyn Screen => Diet);

#[tokio::main]
async fn main() -> albedo::Result<()> {
    let (cx, registry) = (CallContext::new(), Registry::linked()?);
    let demo = albedo::demo::Demo::locate()?;
    let [king, challenger] =
        [demo.king(), demo.challenger()].map(|folder| Arc::new(FolderFiles::new(folder)));
    for diet in [json!({}), json!({ "max_bytes": 1000 })] {
        let mut screens = Vec::new();
        for (name, settings) in [("diet", diet), ("files", json!({})), ("architecture", json!({}))] {
            screens.push(registry.build::<dyn Screen>(name, settings, &cx).await?);
        }
        let models = Models::new(king.clone(), challenger.clone());
        let admission = Admit::new(screens, models).run(&cx).await?;
        for screened in &admission.findings {
            println!("{}: {} {}", screened.screen.name, screened.finding.word(), screened.finding.evidence());
        }
        println!("{}", admission.outcome);
    }
    Ok(())
}
