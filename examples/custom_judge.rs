//! A judge of one's own: written, registered by name, configured and put on a
//! panel beside one that comes with albedo.
//!
//! Needs the demo pack (`examples/demo`); run it in the repository's root:
//! `cargo run --release --example custom_judge`
#![expect(clippy::print_stdout, reason = "an example prints")]

use std::sync::Arc;

use albedo::prelude::*;
use async_trait::async_trait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

/// Prefers the shorter of two replies.
#[derive(Debug)]
struct Brevity {
    identity: Identity,
    config: BrevityConfig,
}

/// Settings of [`Brevity`]: strict, with a default for everything.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct BrevityConfig {
    /// A reply of this many characters, or more, scores nothing.
    longest: u32,
}

impl Default for BrevityConfig {
    fn default() -> Self {
        Self { longest: 800 }
    }
}

impl Brevity {
    /// How brief a reply is: 1 for an empty one, 0 from `longest` on.
    fn quality(&self, reply: &str) -> f64 {
        let longest = f64::from(self.config.longest);
        1.0 - (reply.chars().count() as f64).min(longest) / longest
    }
}

#[async_trait]
impl Judge for Brevity {
    fn identity(&self) -> &Identity {
        &self.identity
    }

    fn profile(&self) -> JudgeProfile {
        JudgeProfile::new([Metric::Efficiency])
    }

    async fn compare(&self, request: &Comparison, _cx: &CallContext) -> albedo::Result<Assessment> {
        let [first, second] = [&request.first, &request.second].map(|reply| self.quality(&reply.text));
        let score = Score::from_difference(first, second)?;
        Ok(Assessment::scored([(Metric::Efficiency, score)]))
    }
}

impl Plugin<dyn Judge> for Brevity {
    const NAME: &'static str = "brevity";
    const SUMMARY: &'static str = "prefers the shorter reply";
    type Config = BrevityConfig;
    type Checked = Self;

    fn check(config: BrevityConfig, _: &CheckContext<'_>) -> albedo::Result<Self> {
        if config.longest == 0 {
            let operation = "check the settings of judge `brevity`";
            return Err(
                Error::new(ErrorKind::ConfigInvalid, operation, "`longest` is 0").with("key", "longest")
            );
        }
        Ok(Self { identity: Identity::new(Self::NAME, "1", &config)?, config })
    }

    async fn build(judge: Self, _: &BuildContext<'_>) -> albedo::Result<Arc<dyn Judge>> {
        Ok(Arc::new(judge))
    }
}

register!(dyn Judge => Brevity);

#[tokio::main]
async fn main() -> albedo::Result<()> {
    let (cx, registry) = (CallContext::new(), Registry::linked()?);
    let demo = albedo::demo::Demo::locate()?;

    let judges = vec![
        registry.build::<dyn Judge>("brevity", json!({ "longest": 400 }), &cx).await?,
        registry.build::<dyn Judge>("reference-action", json!({}), &cx).await?,
    ];
    let backend = registry.build::<dyn ModelBackend>("burn", json!({}), &cx).await?;
    let king = Contestant::load(Side::King, &backend, &ModelSource::new(demo.king()), &cx).await?;
    let source = ModelSource::new(demo.challenger()).with_text_from(demo.king());
    let challenger = Contestant::load(Side::Challenger, &backend, &source, &cx).await?;
    let tasks = registry.build::<dyn TaskSource>("parquet", json!({ "path": demo.tasks() }), &cx).await?;

    let settings = DuelSettings { samples: 8, ..DuelSettings::default() };
    let store = MemoryStore::default();
    let duel = Duel::builder(king, challenger).tasks(tasks).judges(judges).settings(settings);
    let report = duel.plan(&store, &cx).await?.run(&store, &cx).await?;
    for judge in &report.verdict.judges {
        println!("{:<17}{:+.1} points", judge.judge, judge.margin);
    }
    println!("{}: margin {:+.1} points", report.verdict.outcome, report.verdict.margin);
    Ok(())
}
