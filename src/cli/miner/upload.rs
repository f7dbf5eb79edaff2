//! `albedo miner upload`.

use std::path::PathBuf;

use serde_json::json;

use super::draft::DraftArguments;
use crate::backends::files::FolderFiles;
use crate::cli::exit::Exit;
use crate::cli::hub::Options;
use crate::cli::output::{note, print, print_json, word};
use crate::cli::source::absolute;
use crate::report::{Bytes, Look};
use crate::{CallContext, Error, ErrorKind, Fault, ModelHub, Result};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The folder of a model that `albedo miner pack` has packed.
    folder: PathBuf,
    /// Do it. Without this, the command says what it would upload and where to.
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    draft: DraftArguments,
    #[command(flatten)]
    options: Options,
}

pub(crate) async fn run(arguments: &Arguments, cx: &CallContext) -> Result<Exit> {
    const UPLOAD: &str = "upload a model";
    let Arguments { folder, yes, draft, options } = arguments;
    let folder = absolute(folder)?;
    let (path, mut known) = (draft.path(&folder)?, draft.read(&folder)?);
    let again = format!("pack it first: `albedo miner pack {} OWNER/MODEL`", word(&arguments.folder));
    let Some(packed) = known.pack.clone() else {
        return Err(Error::new(ErrorKind::Conflict, UPLOAD, "the model was not packed yet")
            .with_fault(Fault::Operator)
            .with("folder", folder.display())
            .with_hint(again));
    };
    known.require_admitted(UPLOAD, &arguments.folder)?;
    let (hub, files) = (options.oci(cx)?, FolderFiles::new(&folder));
    let mut pushed = hub.prepare(packed.reference.repository(), &files, &packed.layout(), cx).await?;
    if pushed.reference != packed.reference {
        return Err(Error::new(
            ErrorKind::DigestMismatch,
            UPLOAD,
            "the folder has changed since it was packed",
        )
        .with_fault(Fault::Operator)
        .with("packed", &packed.reference)
        .with("now", &pushed.reference)
        .with_hint(format!(
            "check and pack it again: `albedo miner check {} --king MODEL`",
            word(&arguments.folder)
        )));
    }
    if *yes {
        let bar = Bytes::default();
        let sent = hub.push(pushed, &files, &bar.watch(cx)).await;
        bar.finish();
        pushed = sent?;
        // The validator asks the registry, not this machine.
        hub.resolve(&packed.reference, cx).await?.list(cx).await?;
        known.is_uploaded = true;
        known.write(&path)?;
    }
    if options.json {
        print_json(&json!({ "reference": packed.reference, "bytes": packed.bytes,
            "uploaded": yes.then_some(pushed.uploaded), "is_there": known.is_uploaded, "draft": path.display().to_string() }))?;
        return Ok(Exit::Done);
    }
    let look = Look::of_stdout();
    let mut said = look.entry("reference", &packed.reference.to_string());
    said += &look.entry(
        "upload",
        &if *yes {
            format!("{} of {} bytes were new; the registry lists the model", pushed.uploaded, packed.bytes)
        } else {
            format!("{} bytes, except what the registry has already", packed.bytes)
        },
    );
    said += &look.entry("commit to", &packed.text);
    print(&said)?;
    if !yes {
        note("nothing was uploaded; the same command with `--yes` does it. What is uploaded is public");
    }
    Ok(Exit::Done)
}
