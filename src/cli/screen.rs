//! `albedo screen`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};

use super::exit::Exit;
use super::output::{print, print_json};
use super::source::absolute;
use crate::backends::files::FolderFiles;
use crate::judges::screens::digest::{DigestConfig, DigestScreen};
use crate::judges::screens::fingerprint::{FingerprintConfig, FingerprintScreen};
use crate::judges::screens::lineage::{LineageConfig, LineageScreen};
use crate::judges::screens::{Checkpoint, Measurement, Wanted};
use crate::report::{self, Bytes, Screened, rejected, unverified};
use crate::{
    CallContext, Error, ErrorKind, Finding, ModelBackend, ModelFiles, ModelSource, Registry, Result, Screen,
    Subject,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Model folder of the submission.
    path: PathBuf,
    /// Model folder of the king.
    #[arg(long, value_name = "DIR")]
    king: PathBuf,
    /// The store of earlier submissions.
    #[arg(long, value_name = "STORE")]
    against: Option<PathBuf>,
    /// Model folder of the anchor that the store's sketches are aligned to
    /// [default: the king].
    #[arg(long, value_name = "DIR")]
    anchor: Option<PathBuf>,
    /// Label of an entry of the store that is the submission's own.
    #[arg(long, value_name = "LABEL")]
    own: Vec<String>,
    /// Also load the model and look at its replies, probed from this seed: take
    /// one that nobody could know before the model was handed in.
    #[arg(long, value_name = "SEED")]
    probe: Option<u64>,
    /// Folder of parquet tasks that probes are taken from [default: built-in
    /// conversations].
    #[arg(long, value_name = "DIR", requires = "probe")]
    tasks: Option<PathBuf>,
    /// The folder holds what was handed in, whole: its digests were compared. A
    /// file that is missing or cut short is then the submission's fault, not a
    /// download's.
    #[arg(long)]
    complete: bool,
    /// Print the findings as JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(arguments: &Arguments, cx: &CallContext) -> Result<Exit> {
    // Whoever reads the line has to know whether a miner is to blame.
    screen(arguments, cx).await.map_err(|error| {
        let fault = error.fault();
        error.with("fault", fault)
    })
}

async fn screen(arguments: &Arguments, cx: &CallContext) -> Result<Exit> {
    let [mut submission, king] = [&arguments.path, &arguments.king].map(FolderFiles::new);
    if arguments.complete {
        submission = submission.published();
    }
    // Wrong paths are the command line's, not a finding.
    for files in [&submission, &king] {
        if files.list(cx).await?.is_empty() {
            return Err(Error::new(ErrorKind::NotFound, "screen a model", "a folder is empty")
                .with_hint("give the folders of two models"));
        }
    }
    let registry = Registry::linked()?;
    let mut screened = Vec::new();
    for name in ["files", "architecture"] {
        let screen = registry.build::<dyn Screen>(name, json!({}), cx).await?;
        let subject = Subject::Files { submission: &submission, king: &king };
        screened.push(Screened::new(name, closed(screen.inspect(subject, cx).await)?));
    }
    // What is not a whole model of the king's shape says nothing about a model.
    if !rejected(&screened) && !unverified(&screened) {
        parameters(arguments, &mut screened, cx)?;
        if let Some(seed) = arguments.probe
            && !rejected(&screened)
        {
            behaviour(arguments, seed, &registry, &mut screened, cx).await?;
        }
    }
    if arguments.json {
        print_json(&screened)?;
    } else {
        print(&report::screened(&screened))?;
    }
    Ok(match (rejected(&screened), unverified(&screened)) {
        (true, _) => Exit::Rejected,
        (false, true) => Exit::TryAgain,
        (false, false) => Exit::Done,
    })
}

/// A screen that could not find out has found nothing out: `Unverified`.
///
/// # Errors
/// Cancellation.
fn closed(finding: Result<Finding>) -> Result<Finding> {
    finding.or_else(|error| match error.kind() {
        ErrorKind::Cancelled => Err(error),
        _ => Ok(Finding::Unverified(json!({
            "error": error.to_string(),
            "fault": error.fault(),
            "retryable": error.is_retryable(),
        }))),
    })
}

/// The parameter screens on one pass over each model.
fn parameters(arguments: &Arguments, screened: &mut Vec<Screened>, cx: &CallContext) -> Result<()> {
    let (store, own) = (arguments.against.clone(), arguments.own.clone());
    let digest = DigestScreen::new(&DigestConfig { store: store.clone(), own: own.clone() })?;
    let fingerprint = FingerprintScreen::new(FingerprintConfig {
        store: store.clone(),
        own: own.clone(),
        ..FingerprintConfig::default()
    })?;
    let lineage = LineageScreen::new(LineageConfig {
        store,
        own,
        anchor: arguments.anchor.clone(),
        ..LineageConfig::default()
    })?;

    let size = |folder: &Path| Checkpoint::open(folder).map_or(0, |checkpoint| checkpoint.bytes());
    let folders = [Some(&arguments.path), Some(&arguments.king), arguments.anchor.as_ref()];
    let passes: u64 = folders.into_iter().flatten().map(|folder| size(folder)).sum();
    let bar = Bytes::new(passes + size(&arguments.king));
    let progress = |bytes| bar.add(bytes);
    let take = |folder: &Path, wanted: &Wanted| Measurement::take(folder, wanted, &progress, cx);
    let mut wanted = Wanted { digest: true, tensors: true, fingerprint: true, anchor: None };

    let anchor = lineage.anchor(&arguments.king, &progress, cx);
    let aligned = anchor.and_then(|anchor| {
        let king = lineage.king(&arguments.king, &anchor, &progress, cx)?;
        Ok((anchor, king))
    });
    let (aligned, failed) = match aligned {
        Ok((anchor, king)) => {
            wanted.anchor = Some(Arc::clone(&anchor));
            (Some(king), None)
        }
        // Another architecture, say: the other screens can still look.
        Err(error) => (None, Some(error)),
    };
    let measured = take(&arguments.path, &wanted).and_then(|submission| {
        Ok((submission, take(&arguments.king, &Wanted { anchor: None, ..wanted.clone() })?))
    });
    bar.finish();
    match measured {
        Ok((submission, king)) => {
            screened.push(Screened::new("digest", closed(digest.judge(&submission, &king))?));
            screened.push(Screened::new("fingerprint-v2", closed(fingerprint.judge(&submission, &king))?));
            let finding = match (aligned, failed) {
                (Some(king), _) => lineage.judge(&submission, &king),
                (None, Some(error)) => Err(error),
                (None, None) => Err(Error::bug("screen with `lineage`", "there is no king")),
            };
            screened.push(Screened::new("lineage", closed(finding)?));
        }
        Err(error) => {
            let finding = closed(Err(error))?;
            let names = ["digest", "fingerprint-v2", "lineage"];
            screened.extend(names.map(|name| Screened::new(name, finding.clone())));
        }
    }
    Ok(())
}

async fn behaviour(
    arguments: &Arguments,
    seed: u64,
    registry: &Registry,
    screened: &mut Vec<Screened>,
    cx: &CallContext,
) -> Result<()> {
    let backend = registry.build::<dyn ModelBackend>("burn", json!({}), cx).await?;
    let source = ModelSource::new(&arguments.path).with_text_from(&arguments.king);
    let session = backend.load(&source, cx).await;
    let settings = match &arguments.tasks {
        Some(tasks) => json!({ "tasks": { "name": "parquet", "path": absolute(tasks)? } }),
        None => Value::Object(serde_json::Map::new()),
    };
    for name in ["sanity", "loops", "tail", "injection"] {
        let screen = registry.build::<dyn Screen>(name, settings.clone(), cx).await?;
        let finding = match &session {
            Ok(session) => {
                closed(screen.inspect(Subject::Behaviour { session: &**session, seed }, cx).await)?
            }
            Err(error) => Finding::Unverified(json!({ "error": error.to_string(), "fault": error.fault() })),
        };
        screened.push(Screened::new(name, finding));
    }
    Ok(())
}
