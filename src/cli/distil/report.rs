//! `albedo distil report`.

use std::path::PathBuf;

use serde_json::json;

use super::verify::recorded;
use crate::cli::exit::Exit;
use crate::cli::output::{print, print_json};
use crate::cli::page::{spare, write};
use crate::report::{Look, write_distillation};
use crate::{CallContext, Error, Result};

/// What a page of this command names as its maker.
const GENERATOR: &str = "albedo distil report";

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The folder of the distillation.
    folder: PathBuf,
    /// The file to write.
    #[arg(long, value_name = "FILE", default_value = "distil.html")]
    out: PathBuf,
    /// Print JSON: the file, and which distillation it shows.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(arguments: &Arguments, cx: &CallContext) -> Result<Exit> {
    let Arguments { folder, out, json } = arguments;
    spare(out, GENERATOR)?;
    let record = recorded(folder, cx).await?;
    let (plan, name) = (record.plan.digest()?, folder.file_name().unwrap_or(folder.as_os_str()));
    let bytes = write(out, |page| write_distillation(&record, plan, &name.to_string_lossy(), page))
        .map_err(|error| Error::io("write the report", out, error))?;
    if *json {
        let file = out.display().to_string();
        print_json(&json!({ "file": file, "bytes": bytes, "plan": plan, "state": record.state }))?;
    } else {
        let said = format!("{}: {} steps, {:.1} MB", out.display(), record.losses.len(), bytes as f64 / 1e6);
        print(&Look::of_stdout().entry("report", &said))?;
    }
    Ok(Exit::Done)
}
