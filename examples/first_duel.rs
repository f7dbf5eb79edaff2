//! The smallest duel: two trained models, pinned tasks, one judge, no network.
//!
//! Needs the demo pack (`examples/demo`); run it in the repository's root:
//! `cargo run --release --example first_duel`
#![expect(clippy::print_stdout, reason = "an example prints")]

use albedo::prelude::*;
use serde_json::json;

#[tokio::main]
async fn main() -> albedo::Result<()> {
    let (cx, registry) = (CallContext::new(), Registry::linked()?);
    let demo = albedo::demo::Demo::locate()?;

    let backend = registry.build::<dyn ModelBackend>("burn", json!({}), &cx).await?;
    let king = Contestant::load(Side::King, &backend, &ModelSource::new(demo.king()), &cx).await?;
    let source = ModelSource::new(demo.challenger()).with_text_from(demo.king());
    let challenger = Contestant::load(Side::Challenger, &backend, &source, &cx).await?;
    let tasks = registry.build::<dyn TaskSource>("parquet", json!({ "path": demo.tasks() }), &cx).await?;
    let judge = registry.build::<dyn Judge>("reference-action", json!({}), &cx).await?;

    let settings = DuelSettings { samples: 8, ..DuelSettings::default() };
    let store = MemoryStore::default();
    let duel = Duel::builder(king, challenger).tasks(tasks).judge(judge).settings(settings);
    let report = duel.plan(&store, &cx).await?.run(&store, &cx).await?;
    println!("{}: margin {:+.1} points", report.verdict.outcome, report.verdict.margin);
    Ok(())
}
