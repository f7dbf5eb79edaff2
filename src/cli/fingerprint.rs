//! `albedo fingerprint`.

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::json;

use super::exit::Exit;
use super::output::{print, print_json};
use crate::judges::screens::lineage::Anchor;
use crate::judges::screens::store::{Store, Submission};
use crate::judges::screens::{Checkpoint, Measurement, Wanted};
use crate::report::Bytes;
use crate::{CallContext, Error, ErrorKind, Result};

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
    /// Instead, add the fingerprints of the Python system's corpus file.
    #[arg(long, value_name = "FILE", requires = "add", conflicts_with_all = ["path", "anchor", "label", "hotkey", "block"])]
    import: Option<PathBuf>,
    /// Print the fingerprint in the Python system's JSON form.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments, cx: &CallContext) -> Result<Exit> {
    let store = arguments.add.as_deref().map(Store::open_or_create).transpose()?;
    if let (Some(corpus), Some(store)) = (&arguments.import, &store) {
        let count = store.import_python(corpus)?;
        print(&format!("{count} fingerprints added, {} in the store\n", store.len()?))?;
        return Ok(Exit::Done);
    }
    let Some(path) = &arguments.path else {
        return Err(Error::bug("fingerprint a model", "there is no path"));
    };
    let anchor_folder = arguments.anchor.as_ref().unwrap_or(path);
    let bytes = Checkpoint::open(path)?.bytes() * if store.is_some() { 2 } else { 1 };
    let bar = Bytes::new(bytes);
    let progress = |bytes| bar.add(bytes);
    let anchor =
        store.as_ref().map(|_| Anchor::take(anchor_folder, &progress, cx).map(Arc::new)).transpose()?;
    let wanted = Wanted { digest: true, tensors: false, fingerprint: true, anchor };
    let measured = Measurement::take(path, &wanted, &progress, cx)?;
    bar.finish();
    let Measurement { parameters: Some(parameters), fingerprint: Some(mut fingerprint), aligned, .. } =
        measured
    else {
        return Err(Error::bug("fingerprint a model", "something was not taken"));
    };
    fingerprint.hotkey = arguments.hotkey.clone().unwrap_or_default();
    let mut line = format!("{parameters}  {} tensors", fingerprint.layer_keys.len());
    if let Some(store) = &store {
        if let Some(tensor) = aligned.as_ref().and_then(|aligned| aligned.sketch.not_finite()) {
            return Err(Error::new(ErrorKind::DataInvalid, "remember a model", "a weight is not finite")
                .with("tensor", tensor));
        }
        let entry = store.add(&Submission {
            label: arguments.label.clone().unwrap_or_else(|| path.display().to_string()),
            hotkey: fingerprint.hotkey.clone(),
            block: arguments.block,
            parameters: Some(parameters),
            fingerprint: Some(fingerprint.clone()),
            sketch: aligned.map(|aligned| aligned.sketch),
        })?;
        line = format!("{line}  entry {} ({})", entry.id, entry.label);
    }
    if arguments.json {
        print_json(&json!(fingerprint))?;
    } else {
        print(&format!("{line}\n"))?;
    }
    Ok(Exit::Done)
}
