//! `albedo record report`.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::sign;
use crate::cli::exit::Exit;
use crate::cli::output::{print, print_json};
use crate::cli::page::{spare, write};
use crate::record::{self, AnyRecord, Costs, VerifyOptions};
use crate::rejudge::is_study;
use crate::report::{Look, RecordsReport, Reported};
use crate::{CallContext, Error, ErrorKind, Fault, Registry, Result};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The records' folders. Several get ratings of their models, too.
    #[arg(required = true)]
    folders: Vec<PathBuf>,
    /// The file to write [default: `report.html`; Markdown goes to standard output].
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// A page for a browser, or Markdown for a terminal and CI.
    #[arg(long, value_enum, default_value_t = Format::Html)]
    format: Format,
    /// Print JSON: the file, the records, the ratings.
    #[arg(long)]
    json: bool,
}

/// What a report is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Html,
    Markdown,
}

const OPERATION: &str = "write the report";

/// What a page of this command names as its maker.
const GENERATOR: &str = "albedo record report";

/// What a file of Markdown begins with, so that the next report can tell it from another file: [`GENERATOR`] as
/// [`spare`] looks for it, in a comment, which is not shown.
const COMMENT: &str = r#"<!-- <meta name="generator" content="albedo record report"> -->"#;

pub(super) async fn run(arguments: &Arguments, cx: &CallContext) -> Result<Exit> {
    let Arguments { folders, out, format, json } = arguments;
    let file = match (out, format) {
        (Some(path), _) => Some(path.clone()),
        (None, Format::Html) => Some(PathBuf::from("report.html")),
        (None, Format::Markdown) if *json => {
            return Err(Error::new(
                ErrorKind::ConfigInvalid,
                OPERATION,
                "JSON and Markdown both go to standard output",
            )
            .with_fault(Fault::Operator)
            .with_hint("name a file for the Markdown with `--out FILE`"));
        }
        (None, Format::Markdown) => None,
    };
    if let Some(path) = &file {
        spare(path, GENERATOR)?;
    }
    let registry = Registry::linked()?;
    let mut records = Vec::new();
    for folder in folders {
        records.push(verified(folder, &registry, cx).await?);
    }
    let summary: Vec<_> = records
        .iter()
        .map(|reported| json!({ "folder": reported.name, "digest": reported.record.digest() }))
        .collect();
    let report = RecordsReport::new(records)?;
    let Some(path) = file else {
        print(&report.markdown())?;
        return Ok(Exit::Done);
    };
    let bytes = write(&path, |out| match format {
        Format::Html => report.write_html(out),
        Format::Markdown => write!(out, "{COMMENT}\n\n{}", report.markdown()),
    })
    .map_err(|error| Error::io(OPERATION, &path, error))?;
    if *json {
        print_json(&json!({
            "file": path.display().to_string(),
            "bytes": bytes,
            "records": summary,
            "ratings": report.ratings(),
        }))?;
    } else {
        let many =
            if summary.len() == 1 { "1 record".to_owned() } else { format!("{} records", summary.len()) };
        let size = bytes as f64 / 1e6;
        print(&Look::of_stdout().entry("report", &format!("{}: {many}, {size:.1} MB", path.display())))?;
    }
    Ok(Exit::Done)
}

/// The record in `folder` with what is known beside it; a record that is not true is refused.
async fn verified(folder: &Path, registry: &Registry, cx: &CallContext) -> Result<Reported> {
    let record = super::open(folder)?;
    let named = |error: Error| {
        error
            .with("record", folder.display())
            .with_hint("a report shows only what verifies: fetch the record again, or leave it out")
    };
    let (verification, costs, study) = match &record {
        AnyRecord::Forfeit(record) => {
            record.verify(None).map_err(named)?;
            (None, None, false)
        }
        AnyRecord::Duel(duel) => {
            let options = VerifyOptions { judges: Some(registry), ..VerifyOptions::default() };
            let verification = record::verify_record(duel, &options, cx).await.map_err(named)?;
            (Some(verification), Costs::read(folder, duel.plan())?, is_study(folder, duel.plan())?)
        }
    };
    let signers = sign::signers(folder, &record, &[])?.iter().map(ToString::to_string).collect();
    let name =
        folder.file_name().map_or_else(|| folder.display().to_string(), |name| name.to_string_lossy().into());
    Ok(Reported { name, record, verification, signers, costs, study })
}
