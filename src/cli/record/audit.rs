//! `albedo record audit`.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::audit::{self, AuditReport, Calibration, Power, Statistics, Thresholds};
use crate::cli::backend::BackendArguments;
use crate::cli::exit::Exit;
use crate::cli::output::{print, print_json};
use crate::cli::source::absolute;
use crate::{CallContext, Contestant, Error, ModelSession, ModelSource, Record, Registry, Result, Side};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The record's folder. Nothing that lies in it but the record is read.
    folder: PathBuf,
    /// Model folder of the king.
    #[arg(long, value_name = "DIR")]
    king: PathBuf,
    /// Model folder of the challenger.
    #[arg(long, value_name = "DIR")]
    challenger: PathBuf,
    #[command(flatten)]
    backend: BackendArguments,
    /// Audit this many replies; all, unless it is given.
    #[arg(long, value_name = "N")]
    replies: Option<usize>,
    /// Chooses which replies are audited.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Calibration of this pair of devices, as the example `audit_calibrate` makes
    /// one.
    #[arg(long, value_name = "FILE")]
    calibration: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(arguments: &Arguments, cx: &CallContext) -> Result<Exit> {
    let record = Record::open(&arguments.folder)?;
    let calibration = calibration(&arguments.calibration)?;
    let backend = arguments.backend.build(&Registry::linked()?, arguments.backend.settings()?, cx).await?;
    let king_folder = absolute(&arguments.king)?;
    let load = async |side, folder: &PathBuf| -> Result<Arc<dyn ModelSession>> {
        let source = ModelSource::new(absolute(folder)?).with_text_from(king_folder.clone());
        Contestant::load(side, &backend, &source, cx).await?.session(cx).await
    };
    let king = load(Side::King, &arguments.king).await?;
    let challenger = load(Side::Challenger, &arguments.challenger).await?;
    let (count, seed) = (arguments.replies.unwrap_or(usize::MAX), arguments.seed);
    let report = audit::audit(&record, &[king, challenger], count, seed, &calibration, cx).await?;
    if arguments.json {
        print_json(&report)?;
    } else {
        print(&describe(&report))?;
    }
    Ok(if report.alarm { Exit::Found } else { Exit::Done })
}

fn calibration(path: &Path) -> Result<Calibration> {
    let json = fs::read(path).map_err(|error| Error::io("read the audit's calibration", path, error))?;
    Calibration::read(&json).map_err(|error| error.with("path", path.display()))
}

fn describe(report: &AuditReport) -> String {
    let AuditReport {
        replies,
        tokens,
        without_tokens,
        level,
        delta,
        clip,
        calibrated: [generator, auditor],
        ..
    } = report;
    let Statistics { mean, worst } = report.statistics;
    let Thresholds { mean: mean_threshold, worst: worst_threshold } = report.thresholds;
    let of = |(sample, side): &(u32, Side)| format!("sample {sample}, {side}");
    let verdict = if report.alarm {
        "ALARM: the replies are not these models'"
    } else {
        "no alarm: the replies are as these models' are"
    };
    let mut text = format!(
        "{verdict}\n{replies} replies, {tokens} tokens; honest audits alarm in {level} of the cases\n\
         mean score per token  {mean:.6}, honest up to {mean_threshold:.6}\n\
         worst reply           {worst:.6}, honest up to {worst_threshold:.6}{}\n\
         logits may differ by {delta}, a token scores at most {clip}; calibrated for {generator} audited in {auditor}\n",
        report.worst_reply.as_ref().map(|reply| format!(" ({})", of(reply))).unwrap_or_default()
    );
    // Writing to a string cannot fail, here and below.
    if *without_tokens > 0 {
        let _ = writeln!(
            text,
            "{without_tokens} replies have no tokens in the record: nothing is known about them"
        );
    }
    for reply in &report.other_text {
        let _ = writeln!(text, "the text is not that of the tokens: {}", of(reply));
    }
    if !report.power.is_empty() {
        let _ = writeln!(text, "as many replies find, in so many of 100 audits:");
    }
    for Power { name, found } in &report.power {
        let _ = writeln!(text, "  {:>5.1}  {name}", 100.0 * found);
    }
    text
}
