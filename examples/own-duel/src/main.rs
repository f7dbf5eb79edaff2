//! A program that runs a duel by a configuration file: with a progress of its own, a
//! judge of its own beside albedo's, and errors that people can read.
//!
//! ```sh
//! cd examples/own-duel
//! cargo run --release -- duel.toml duels/first
//! ```
mod quoted;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use albedo::config::DuelConfig;
use albedo::prelude::*;

use quoted::Quoted;

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [config, folder] = &arguments[..] else {
        eprintln!("usage: own-duel CONFIG FOLDER");
        return ExitCode::from(2);
    };
    match duel(Path::new(config), Path::new(folder)).await {
        Ok(DuelReport { verdict, record, .. }) => {
            let record = record.map_or_else(|| "no record".into(), |digest| digest.to_string());
            println!("{}: {:+.2} points, {record}", verdict.outcome, verdict.margin);
            ExitCode::SUCCESS
        }
        // One line with the cause and the remedy, and the code that scripts go by. A
        // `main` that returned the error would print its fields instead.
        Err(error) => {
            eprintln!("error: {error}");
            albedo::cli::Exit::of(&error).into()
        }
    }
}

/// Runs the duel of the configuration in a new folder.
async fn duel(config: &Path, folder: &Path) -> albedo::Result<DuelReport> {
    let cx = CallContext::new().with_events(Arc::new(progress));
    let interrupts = tokio::spawn({
        let cx = cx.clone();
        async move {
            if tokio::signal::ctrl_c().await.is_ok() {
                cx.cancel();
            }
        }
    });
    // Every plugin that is linked, and one that only this program has.
    let registry = Registry::linked()?.with(Factory::<dyn Judge>::of::<Quoted>(module_path!()))?;
    let config = DuelConfig::read(config)?;
    config.check(&registry)?;
    // Before any work: a folder that holds a duel is refused.
    let store = FileStore::create(folder)?;
    let builder = config.builder(&BuildContext::new(&registry, &cx)).await?;
    let report = builder.plan(&store, &cx).await?.run(&store, &cx).await;
    interrupts.abort();
    report
}

/// Shows one line per sample.
fn progress(event: &Event) {
    match &event.kind {
        EventKind::Loading { side } => eprintln!("loading the {side}"),
        EventKind::Decided { sample, difference } => {
            eprintln!("sample {sample}: {:+.1} points", 100.0 * difference);
        }
        _ => {}
    }
}
