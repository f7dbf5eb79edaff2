//! `albedo record export`.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::backends::tables::Form;
use crate::cli::exit::Exit;
use crate::cli::output::{print, print_json, word};
use crate::export::{AtifExport, Export, ExportedTrajectories};
use crate::record::{AnyRecord, VerifyOptions, verify_record};
use crate::{CallContext, Record, Result};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The records' folders.
    #[arg(required = true)]
    folders: Vec<PathBuf>,
    /// New folder for the data sets.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The form of the files.
    #[arg(long, value_enum, default_value_t = FormArgument::Parquet)]
    form: FormArgument,
    /// The license of the tasks, as its SPDX name: records do not know it. It goes into
    /// every row and onto the card.
    #[arg(long, value_name = "NAME")]
    license: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum FormArgument {
    /// Apache Parquet.
    Parquet,
    /// One JSON object per line.
    Jsonl,
    /// One file per reply, in Harbor's Agent Trajectory Interchange Format.
    Atif,
}

/// What is written.
enum Output {
    Tables(Export),
    Trajectories(AtifExport),
}

impl Output {
    fn add(&mut self, record: &Record) -> Result<()> {
        match self {
            Self::Tables(export) => export.add(record),
            Self::Trajectories(export) => export.add(record),
        }
    }

    /// The files: set, split, path below the folder, rows.
    fn finish(self) -> Result<Vec<Value>> {
        Ok(match self {
            Self::Tables(export) => export.finish()?.iter().map(|file| json!(file)).collect(),
            Self::Trajectories(export) => {
                let written = export.finish()?.into_iter().map(|split| {
                    let ExportedTrajectories { split, path, trajectories } = split;
                    json!({ "set": "trajectories", "split": split, "path": path, "rows": trajectories })
                });
                written.collect()
            }
        })
    }
}

pub(super) async fn run(arguments: &Arguments, cx: &CallContext) -> Result<Exit> {
    let Arguments { folders, out, form, license, json } = arguments;
    let table = |form| Export::create(out, form, license.clone()).map(Output::Tables);
    let mut export = match form {
        FormArgument::Parquet => table(Form::Parquet)?,
        FormArgument::Jsonl => table(Form::JsonLines)?,
        FormArgument::Atif => Output::Trajectories(AtifExport::create(out, license.clone())?),
    };
    let (mut records, mut forfeits) = (0_u64, 0_u64);
    for folder in folders {
        let named = |error: crate::Error| error.with("record", folder.display());
        match super::open(folder)? {
            // Nothing that does not follow from its facts is taught to anybody.
            AnyRecord::Duel(record) => {
                verify_record(&record, &VerifyOptions::default(), cx).await.map_err(named)?;
                export.add(&record).map_err(named)?;
                records += 1;
            }
            AnyRecord::Forfeit(record) => {
                record.verify(None).map_err(named)?;
                forfeits += 1;
            }
        }
    }
    let files = export.finish()?;
    if *json {
        let out = out.display().to_string();
        print_json(&json!({ "out": out, "records": records, "forfeits": forfeits, "files": files }))?;
        return Ok(Exit::Done);
    }
    let rows = files.iter().map(|file| {
        let path = out.join(file["path"].as_str().unwrap_or_default());
        format!("{:>10} rows  {}\n", file["rows"].as_u64().unwrap_or_default(), word(&path))
    });
    let skipped = match forfeits {
        0 => String::new(),
        forfeits => format!("{forfeits} records of submissions that were not admitted have no replies\n"),
    };
    let load = match form {
        FormArgument::Atif => String::new(),
        _ => format!(
            "\nload with: datasets.load_dataset(\"{}\", \"sft\"), or \"preferences\"\n",
            out.display()
        ),
    };
    print(&format!("{}{skipped}{load}", rows.collect::<String>()))?;
    Ok(Exit::Done)
}
