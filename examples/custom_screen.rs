//! A screen of one's own: written, registered by name, configured, run on the
//! demo models, and checked by the conformance suite's rules.
//!
//! Needs the demo pack (`examples/demo`); run it in the repository's root:
//! `cargo run --release --example custom_screen`
#![expect(clippy::print_stdout, reason = "an example prints")]

use std::sync::Arc;

use albedo::backends::files::FolderFiles;
use albedo::prelude::*;
use albedo::{Finding, ModelFiles, ScreenStage, Subject};
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

#[async_trait]
impl Screen for Diet {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn stage(&self) -> ScreenStage {
        ScreenStage::Files
    }

    async fn inspect(&self, subject: Subject<'_>, cx: &CallContext) -> albedo::Result<Finding> {
        let Subject::Files { submission, .. } = subject else {
            return Err(Error::bug("weigh the files", "the subject is of another stage"));
        };
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
    let [king, challenger] = [demo.king(), demo.challenger()].map(FolderFiles::new);
    let subject = Subject::Files { submission: &challenger as &dyn ModelFiles, king: &king };
    for (name, settings) in [
        ("diet", json!({})),
        ("diet", json!({ "max_bytes": 1000 })),
        ("files", json!({})),
        ("architecture", json!({})),
    ] {
        let screen = registry.build::<dyn Screen>(name, settings, &cx).await?;
        match screen.inspect(subject, &cx).await? {
            Finding::Clear(_) => println!("{name}: clear"),
            found => println!("{name}: {}", serde_json::to_string(&found).unwrap_or_default()),
        }
    }
    Ok(())
}
