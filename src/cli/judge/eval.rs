//! `albedo judge eval`.

use std::fmt::Write;
use std::path::PathBuf;

use crate::cli::duel::named_judge;
use crate::cli::exit::Exit;
use crate::cli::output::{note, print, print_json};
use crate::config::{DuelConfig, PluginConfig};
use crate::judge_eval::{
    Evaluated, Evaluation, JudgeEvaluated, PanelEvaluated, Stopped, read_pairs_file, recorded_pairs,
};
use crate::record::{AnyRecord, VerifyOptions, verify_record};
use crate::report::Look;
use crate::stats::{Kappa, Proportion};
use crate::{BuildContext, CallContext, CheckContext, Error, ErrorKind, Fault, Judge, Registry, Result};

#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("pairs_of").required(true).args(["pairs", "records"]))]
pub(crate) struct Arguments {
    /// Pairs whose better reply is known, one per line of JSON: `prompt` or `messages`, `a`, `b` and `label` (`a`, `b` or
    /// `tie`), perhaps `reference`.
    #[arg(long, value_name = "FILE")]
    pairs: Option<PathBuf>,
    /// Folders of records: the king's reply is `a`, the challenger's `b`, and the label is what the recorded panel
    /// preferred.
    #[arg(long = "record", value_name = "DIR", num_args = 1..)]
    records: Vec<PathBuf>,
    /// The TOML file whose judges are asked, within its `limits.budget_usd` and `limits.call_tries`.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Ask this judge, by its label in the configuration or its plugin's name; once for each [default: all judges of
    /// the configuration].
    #[arg(long = "judge", value_name = "LABEL|NAME")]
    judges: Vec<String>,
    /// Pairs under way at once, of each judge.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..))]
    jobs: u16,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

const OPERATION: &str = "evaluate judges";

pub(super) async fn run(arguments: &Arguments, cx: &CallContext) -> Result<Exit> {
    let config = arguments.config.as_deref().map(DuelConfig::read).transpose()?;
    let judges = judges(arguments, config.as_ref(), cx).await?;
    let mut pairs = match &arguments.pairs {
        Some(path) => read_pairs_file(path)?,
        None => Vec::new(),
    };
    for folder in &arguments.records {
        let AnyRecord::Duel(record) = crate::cli::record::open(folder)? else {
            let message = "the submission was not admitted: there are no replies";
            return Err(Error::new(ErrorKind::Unsupported, OPERATION, message)
                .with_fault(Fault::Operator)
                .with("record", folder.display())
                .with_hint("leave this record out"));
        };
        let named = |error: Error| error.with("record", folder.display());
        verify_record(&record, &VerifyOptions::default(), cx).await.map_err(named)?;
        pairs.extend(recorded_pairs(&record).map_err(named)?);
    }
    let mut evaluation = Evaluation { in_flight: usize::from(arguments.jobs), ..Evaluation::default() };
    if let Some(DuelConfig { duel, .. }) = &config {
        evaluation.seed = duel.seed;
        evaluation.reducer = duel.panel.reducer;
        evaluation.call_tries = duel.limits.call_tries;
        evaluation.budget_usd = duel.limits.budget_usd;
    }
    if !arguments.json {
        note(&format!("{} questions to each of {} judges", 2 * pairs.len(), judges.len()));
    }
    let show = |evaluated: &Evaluated| {
        if arguments.json { print_json(evaluated) } else { print(&text(evaluated, Look::of_stdout())) }
    };
    match evaluation.run(&judges, &pairs, cx).await {
        Ok(evaluated) => show(&evaluated)?,
        Err(Stopped { error, so_far }) => {
            if let Some(evaluated) = so_far {
                show(&evaluated)?;
            }
            return Err(error);
        }
    }
    Ok(Exit::Done)
}

async fn judges(
    arguments: &Arguments,
    config: Option<&DuelConfig>,
    cx: &CallContext,
) -> Result<Vec<std::sync::Arc<dyn Judge>>> {
    let registry = Registry::linked()?;
    let known = config.map(|config| config.judges.clone()).unwrap_or_default();
    let panel: Vec<PluginConfig<dyn Judge>> = match &arguments.judges[..] {
        [] => known,
        names => names.iter().map(|name| named_judge(&known, name)).collect::<Result<_>>()?,
    };
    if panel.is_empty() {
        return Err(Error::new(ErrorKind::ConfigInvalid, OPERATION, "there is no judge")
            .with_fault(Fault::Operator)
            .with_hint("give `--config FILE` or `--judge NAME`"));
    }
    let (check, build) = (CheckContext::new(&registry), BuildContext::new(&registry, cx));
    let mut judges = Vec::new();
    for (place, named) in panel.iter().enumerate() {
        let checked = check.plugin(format_args!("judges[{place}]"), named)?;
        judges.push(match config {
            Some(config) => checked.build(&build.relative_to(&config.folder)).await?,
            None => checked.build(&build).await?,
        });
    }
    Ok(judges)
}

fn text(evaluated: &Evaluated, look: Look) -> String {
    let mut text = String::new();
    if evaluated.stopped.is_some() {
        let asked = evaluated.judges.iter().map(|judge| judge.took.questions).sum::<u64>();
        let all = 2 * evaluated.pairs * evaluated.judges.len() as u64;
        let warning = format!("Stopped after {asked} of {all} questions: this is what was answered.");
        text += &look.paragraph(&look.warning(&warning));
        text.push('\n');
    }
    for judge in &evaluated.judges {
        text += &of_judge(judge, look);
        text.push('\n');
    }
    if evaluated.judges.len() > 1 {
        text += &of_panel(&evaluated.panel, look);
    }
    text
}

fn of_judge(judge: &JudgeEvaluated, look: Look) -> String {
    let mut text = format!("{}\n", look.strong(&judge.judge));
    let mut entry = |name: &str, value: &str| text += &look.entry(name, value);
    entry("accuracy", &share(judge.accuracy));
    if let Some(kappa) = judge.kappa {
        entry("", &format!("beyond chance: kappa {}", of_kappa(&kappa)));
    }
    entry("ties", &share(judge.ties));
    entry("both orders", &format!("{} agree", share(judge.consistent)));
    entry("first place", &format!("{} prefer the reply shown first", share(judge.first)));
    let correlation = judge.length_correlation.map_or("unknown".into(), |value| format!("{value:+.2}"));
    entry("length", &format!("{} prefer the longer reply; correlation {correlation}", share(judge.longer)));
    let JudgeEvaluated { abstained, unreadable, failed, took, .. } = judge;
    entry("no score", &format!("{abstained} abstained, {unreadable} unreadable, {failed} failed"));
    let mut cost = format!(
        "{} questions, {} tokens read, {} written",
        took.questions, took.prompt_tokens, took.completion_tokens
    );
    // Writing to a string cannot fail.
    let _ = write!(cost, ", ${:.4}", took.usd);
    if took.unpriced > 0 {
        let _ = write!(cost, " and {} answers of unknown price", took.unpriced);
    }
    entry("cost", &cost);
    entry(
        "latency",
        &format!("{:.3} s on average, 95 % within {:.3} s", took.mean_seconds, took.p95_seconds),
    );
    text
}

fn of_panel(panel: &PanelEvaluated, look: Look) -> String {
    let mut text = format!("{}\n", look.strong("all together"));
    let mut entry = |name: &str, value: &str| text += &look.entry(name, value);
    entry("accuracy", &share(panel.accuracy));
    let agreement = panel.agreement.map_or("unknown".into(), |alpha| format!("{alpha:.2}"));
    entry("agreement", &format!("Krippendorff's alpha {agreement}: 1 is always, 0 by chance"));
    for pair in &panel.kappas {
        let kappa = pair.kappa.as_ref().map_or("unknown".into(), of_kappa);
        entry("", &format!("{} and {}: kappa {kappa}", pair.one, pair.other));
    }
    text
}

/// `80.0 % (70.8 to 87.3) of 100`.
fn share(of: Option<Proportion>) -> String {
    of.map_or_else(
        || "unknown".into(),
        |Proportion { share, interval, of }| {
            format!(
                "{:.1} % ({:.1} to {:.1}) of {of}",
                100.0 * share,
                100.0 * interval.low,
                100.0 * interval.high
            )
        },
    )
}

fn of_kappa(Kappa { kappa, interval, .. }: &Kappa) -> String {
    format!("{kappa:.2} ({:.2} to {:.2})", interval.low, interval.high)
}
