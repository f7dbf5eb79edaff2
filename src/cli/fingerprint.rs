//! `albedo fingerprint`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;

use super::exit::Exit;
use super::output::{print, print_foreign_json};
use super::source::utf8;
use crate::backends::files::FolderFiles;
use crate::config::DEFAULT_BACKEND;
use crate::judges::screens::fingerprint::Fingerprint;
use crate::judges::screens::functional::{FunctionalConfig, FunctionalScreen};
use crate::judges::screens::store::Store;
use crate::judges::screens::{AlignTo, Measurement};
use crate::report::Bytes;
use crate::{
    CallContext, Error, ModelBackend, ModelFiles, ModelSource, Registry, Result, Sessions, TaskSource,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Model folder.
    #[arg(required_unless_present = "import")]
    path: Option<PathBuf>,
    /// Remember the model in this store, which is made if there is none.
    #[arg(long, value_name = "STORE")]
    add: Option<PathBuf>,
    /// Model folder of the anchor that the store's sketches are aligned to
    /// [default: the model itself, which so becomes the anchor of a new store].
    #[arg(long, value_name = "DIR", requires = "add")]
    anchor: Option<PathBuf>,
    /// What findings call the model [default: its folder].
    #[arg(long, value_name = "LABEL", requires = "add")]
    label: Option<String>,
    /// Who handed it in.
    #[arg(long, value_name = "HOTKEY", requires = "add")]
    hotkey: Option<String>,
    /// The chain's block that it was committed in.
    #[arg(long, value_name = "N", requires = "add")]
    block: Option<u64>,
    /// Model folder of the king: also remember what the model answers otherwise than he, on
    /// the questions that follow from `--questions`, for the screen `functional`.
    #[arg(long, value_name = "DIR", requires_all = ["add", "questions"])]
    king: Option<PathBuf>,
    /// What the questions follow from, for example one number per week from a block's hash;
    /// submissions that have answered the same questions can be compared.
    #[arg(long, value_name = "SEED", requires = "king")]
    questions: Option<u64>,
    /// Folder of parquet tasks that the questions are taken from [default: built-in
    /// conversations].
    #[arg(long, value_name = "DIR", requires = "questions")]
    tasks: Option<PathBuf>,
    /// Where the models run, for example `cpu` or `cuda:1`.
    #[arg(long, value_name = "DEVICE", requires = "questions")]
    device: Option<String>,
    /// Instead, add the fingerprints of the Python system's corpus file.
    #[arg(long, value_name = "FILE", requires = "add", conflicts_with_all = ["path", "anchor", "label", "hotkey", "block", "king", "json"])]
    import: Option<PathBuf>,
    /// Print the fingerprint of the model in the Python system's JSON form.
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(arguments: &Arguments, cx: &CallContext) -> Result<Exit> {
    let store = arguments.add.as_deref().map(Store::open_or_create).transpose()?.map(Arc::new);
    if let (Some(corpus), Some(store)) = (&arguments.import, &store) {
        let count = store.import_python(corpus)?;
        print(&format!("{count} fingerprints added, {} in the store\n", store.len()?))?;
        return Ok(Exit::Done);
    }
    let Some(path) = &arguments.path else {
        return Err(Error::bug("fingerprint a model", "there is no path"));
    };
    let bar = Bytes::default();
    let cx = &bar.watch(cx);
    let align = match (&store, &arguments.anchor) {
        (None, _) => AlignTo::Nothing,
        (Some(_), None) => AlignTo::Itself,
        (Some(_), Some(anchor)) => {
            let anchor = Measurement::take(files(anchor), AlignTo::Itself, cx).await?.anchor;
            anchor.map_or(AlignTo::Itself, AlignTo::Anchor)
        }
    };
    let measured = Measurement::take(files(path), align, cx).await?;
    bar.finish();
    let hotkey = arguments.hotkey.clone().unwrap_or_default();
    let mut line =
        format!("{}  {} tensors", measured.digests.parameters, measured.fingerprint.layer_keys.len());
    if let Some(store) = &store {
        let label = arguments.label.clone().unwrap_or_else(|| path.display().to_string());
        let entry = measured.remember(store, label, hotkey.clone(), arguments.block)?;
        line = format!("{line}  entry {} ({})", entry.id, entry.label);
        if let (Some(king), Some(seed)) = (&arguments.king, arguments.questions) {
            let set = arguments.answer(path, king, seed, store, cx).await?;
            line = format!("{line}  answers set {set}");
        }
    }
    if arguments.json {
        print_foreign_json(&Fingerprint { hotkey, ..measured.fingerprint })?;
    } else {
        print(&format!("{line}\n"))?;
    }
    Ok(Exit::Done)
}

impl Arguments {
    /// Remembers what the model at `path` answers; gives the set's number.
    async fn answer(
        &self,
        path: &Path,
        king: &Path,
        seed: u64,
        store: &Arc<Store>,
        cx: &CallContext,
    ) -> Result<i64> {
        let registry = Registry::linked()?;
        let settings = self.device.as_ref().map_or_else(|| json!({}), |device| json!({ "device": device }));
        let backend = registry.build::<dyn ModelBackend>(DEFAULT_BACKEND, settings, cx).await?;
        let config = FunctionalConfig::default();
        let screen = match &self.tasks {
            Some(tasks) => {
                let tasks =
                    registry.build::<dyn TaskSource>("parquet", json!({ "path": utf8(tasks)? }), cx).await?;
                FunctionalScreen::with_tasks(config, tasks, Some(Arc::clone(store)))?
            }
            None => FunctionalScreen::new(config, Some(Arc::clone(store)))?,
        };
        let submission = backend.load(&ModelSource::new(path).with_text_from(king), cx).await?;
        let king = backend.load(&ModelSource::new(king), cx).await?;
        screen.remember(Sessions { submission: &*submission, king: &*king }, seed, cx).await
    }
}

fn files(folder: &Path) -> Arc<dyn ModelFiles> {
    Arc::new(FolderFiles::new(folder))
}
