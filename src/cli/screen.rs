//! `albedo screen`.

use std::path::PathBuf;

use serde_json::json;

use super::exit::Exit;
use super::output::{print, print_json};
use super::source::absolute;
use crate::config::{AdmissionConfig, DuelConfig};
use crate::report::{self, Bytes};
use crate::{Admission, BuildContext, CallContext, FileStore, ModelRef, Registry, Result};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Model folder of the submission [default: the configuration's challenger].
    #[arg(required_unless_present = "config")]
    path: Option<PathBuf>,
    /// Take screens, king, anchor and backend from this configuration file of a
    /// duel, where the command line does not name them.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Model folder of the king.
    #[arg(long, value_name = "DIR", required_unless_present = "config")]
    king: Option<PathBuf>,
    /// The store of earlier submissions, for every screen that compares with one.
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
    /// The folder is the complete submission, verified by digest. Missing or
    /// truncated files then count against the submitter, not the download.
    #[arg(long)]
    complete: bool,
    /// New folder for the admission's journal and, if the submission forfeits, its
    /// record.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Print the admission as JSON, with the whole evidence.
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(arguments: &Arguments, cx: &CallContext) -> Result<Exit> {
    let store = arguments.out.as_ref().map(FileStore::create).transpose()?;
    let admission = screen(arguments, cx).await.map_err(|error| {
        // The reader has to know whether the submitter is to blame.
        let fault = error.fault();
        error.with("fault", fault)
    })?;
    let record = match &store {
        Some(store) => admission.keep(store, cx).await?,
        None => None,
    };
    if arguments.json {
        print_json(&admission)?;
    } else {
        print(&report::screened(&admission))?;
        if let (Some(record), Some(store)) = (record, &store) {
            print(&format!("{:<12}{record} in {}\n", "record", store.folder().display()))?;
        }
    }
    Ok(Exit::of_admission(admission.outcome))
}

async fn screen(arguments: &Arguments, cx: &CallContext) -> Result<Admission> {
    let registry = Registry::linked()?;
    let admit = arguments.config(&registry)?.admit(&BuildContext::new(&registry, cx)).await?;
    let bar = Bytes::default();
    let admission = admit.run(&bar.watch(cx)).await;
    bar.finish();
    admission
}

impl Arguments {
    fn config(&self, registry: &Registry) -> Result<AdmissionConfig> {
        let mut config = match &self.config {
            Some(path) => DuelConfig::read(path)?.admission()?,
            None => AdmissionConfig::new(PathBuf::new(), PathBuf::new()),
        };
        // What the command line names is taken from the working directory.
        let named = |path: &Option<PathBuf>| path.as_deref().map(absolute).transpose();
        config.king = named(&self.king)?.map_or(config.king, ModelRef::from);
        config.submission = named(&self.path)?.map_or(config.submission, ModelRef::from);
        config.anchor = named(&self.anchor)?.map(ModelRef::from).or(config.anchor);
        if let Some(store) = named(&self.against)? {
            config.set("store", &json!(store), registry);
        }
        if let Some(tasks) = named(&self.tasks)? {
            config.set("tasks", &json!({ "name": "parquet", "path": tasks }), registry);
        }
        config.own.clone_from(&self.own);
        (config.probe, config.complete) = (self.probe, self.complete);
        Ok(config)
    }
}
