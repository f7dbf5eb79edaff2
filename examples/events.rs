//! Everything that a duel shows, printed again from its events alone.
//!
//! `cargo run --release --example events [FILE]`. FILE is what `albedo duel
//! --events FILE` wrote; without it the demo duel runs first and writes one.
#![expect(clippy::print_stdout, reason = "an example prints")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use albedo::config::DuelConfig;
use albedo::prelude::*;
use albedo::record::JournalEvent;
use albedo::report::{self, EventFile, Look, ProgressLines};
use albedo::wrappers::Tally;

#[tokio::main]
async fn main() -> albedo::Result<()> {
    let folder = tempfile::tempdir().map_err(|error| Error::io("make a folder", Path::new("."), error))?;
    let path = match std::env::args_os().nth(1) {
        Some(path) => PathBuf::from(path),
        None => demo(folder.path().join("events.jsonl")).await?,
    };

    let (mut lines, tally) = (ProgressLines::default(), Tally::default());
    let (mut counts, mut plan) = (BTreeMap::new(), None);
    for event in EventFile::read(&path)? {
        for line in lines.on(&event) {
            println!("{line}");
        }
        tally.on(&event);
        let what = match event.kind {
            EventKind::Journal(JournalEvent::Opened { plan: frozen, .. }) => {
                println!("{}", report::contestants(&frozen, [None, None], Look::of_stdout()));
                plan = Some(frozen);
                continue;
            }
            EventKind::Journal(JournalEvent::Ended { verdict, .. }) => {
                if let Some(plan) = &plan {
                    let look = Look::of_stdout();
                    println!("\n{}", report::verdict(plan, &verdict, lines.tokens(), look));
                }
                continue;
            }
            EventKind::Journal(JournalEvent::Replied { side, .. }) => format!("replies of the {side}"),
            EventKind::Journal(JournalEvent::Assessed { judge, .. }) => format!("answers of judge {judge}"),
            EventKind::Journal(JournalEvent::Failed { .. }) => "failed calls".into(),
            _ => continue,
        };
        *counts.entry(what).or_insert(0) += 1;
    }
    for (what, count) in counts {
        println!("{count:>5} {what}");
    }
    for (route, calls) in tally.routes() {
        println!("{:>5} calls of {route}, {} answered", calls.tries, calls.answered);
    }
    Ok(())
}

/// Runs the demo duel and writes its events to `path`.
async fn demo(path: PathBuf) -> albedo::Result<PathBuf> {
    let events = Arc::new(EventFile::create(&path)?);
    let cx = CallContext::new().with_events(events.clone());
    let registry = Registry::linked()?;
    let config = DuelConfig::read(&albedo::demo::Demo::locate()?.config())?;
    let store = MemoryStore::default();
    config
        .builder(&BuildContext::new(&registry, &cx))
        .await?
        .plan(&store, &cx)
        .await?
        .run(&store, &cx)
        .await?;
    events.finish()?;
    Ok(path)
}
