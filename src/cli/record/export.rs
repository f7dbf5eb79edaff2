//! `albedo record export`.

use std::path::PathBuf;

use serde_json::json;

use crate::backends::tables::Form;
use crate::cli::exit::Exit;
use crate::cli::output::{print, print_json, word};
use crate::export::Export;
use crate::record::{AnyRecord, VerifyOptions, verify_record};
use crate::{CallContext, Result};

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
}

pub(super) async fn run(arguments: &Arguments, cx: &CallContext) -> Result<Exit> {
    let Arguments { folders, out, form, license, json } = arguments;
    let form = match form {
        FormArgument::Parquet => Form::Parquet,
        FormArgument::Jsonl => Form::JsonLines,
    };
    let mut export = Export::create(out, form, license.clone())?;
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
        print_json(&json!({ "out": out, "records": records, "forfeits": forfeits, "files": files }))?;
        return Ok(Exit::Done);
    }
    let rows = files.iter().map(|file| format!("{:>10} rows  {}\n", file.rows, word(&out.join(&file.path))));
    let skipped = match forfeits {
        0 => String::new(),
        forfeits => format!("{forfeits} records of submissions that were not admitted have no replies\n"),
    };
    print(&format!(
        "{}{skipped}\nload with: datasets.load_dataset(\"{}\", \"sft\"), or \"preferences\"\n",
        rows.collect::<String>(),
        out.display()
    ))?;
    Ok(Exit::Done)
}
