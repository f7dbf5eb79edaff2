//! `albedo record rejudge`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::runtime::Handle;
use tokio::task::JoinSet;

use crate::cli::duel::named_judge;
use crate::cli::exit::Exit;
use crate::cli::output::{note, print, print_json};
use crate::config::{DuelConfig, PluginConfig, journal_key};
use crate::record::{self, AnyRecord, JournalKey, VerifyOptions};
use crate::rejudge::{Rejudge, Rejudged};
use crate::report::{Look, line};
use crate::{
    BuildContext, CallContext, CheckContext, Error, ErrorKind, Fault, Judge, Outcome, Record, Registry,
    Result, Rule, Verdict,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The records' folders.
    #[arg(required = true)]
    folders: Vec<PathBuf>,
    /// A judge of the new panel, by its label in the configuration or its plugin's
    /// name; once for each. Without `--judge` and `--config` the recorded answers stand.
    #[arg(long = "judge", value_name = "LABEL|NAME")]
    judges: Vec<String>,
    /// The TOML file of a duel: its judges are the new panel, with its `twins`; its rule has the
    /// constants of `--rule`; its `limits.budget_usd` is one budget for the study.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The decision rule [default: each record's own].
    #[arg(long, value_name = "NAME")]
    rule: Option<String>,
    /// The study's folder, which holds the new answers: what it has is not asked for
    /// again, by no rule.
    #[arg(long, value_name = "DIR", default_value = "study")]
    out: PathBuf,
    /// Records under way at once, at most 256 [default: the number of cores]. With a budget it is one.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=i64::from(MOST_JOBS)))]
    jobs: Option<u16>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

const OPERATION: &str = "judge records again";

/// Most records under way at once: half of tokio's 512 blocking threads. Each holds one, and waits for others of them.
const MOST_JOBS: u16 = 256;

pub(super) async fn run(arguments: &Arguments, cx: &CallContext) -> Result<Exit> {
    let (rejudge, mut canaries) = settings(arguments, cx).await?;
    let (rejudge, key) = (Arc::new(rejudge), journal_key()?);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let jobs = arguments.jobs.map_or(cores.min(usize::from(MOST_JOBS)), usize::from);
    let mut waiting = arguments.folders.iter().cloned().enumerate();
    let (mut running, mut ended) = (JoinSet::new(), Vec::new());
    loop {
        while running.len() < jobs
            && let Some((place, folder)) = waiting.next()
        {
            let (rejudge, study) = (Arc::clone(&rejudge), arguments.out.clone());
            let (key, cx, runtime) = (key.clone(), cx.clone(), Handle::current());
            // A record's work is mostly reading and arithmetic: a thread for each.
            running
                .spawn_blocking(move || (place, runtime.block_on(one(&rejudge, &folder, &study, &key, &cx))));
        }
        let Some(joined) = running.join_next().await else { break };
        ended.push(joined.map_err(|error| Error::bug(OPERATION, error.to_string()).with_source(error))?);
    }
    ended.sort_by_key(|(place, _)| *place);
    canaries |= ended.iter().any(|(_, result)| result.as_ref().is_ok_and(|(_, canaries)| *canaries));
    if canaries && !rejudge.judges.is_empty() {
        note("canaries are off: they are made from the tasks, which records do not hold");
    }
    let ended: Vec<_> = ended
        .into_iter()
        .map(|(place, result)| (&arguments.folders[place], result.map(|(rejudged, _)| rejudged)))
        .collect();
    if arguments.json {
        let records: Vec<_> = ended.iter().map(|(folder, result)| machine(folder, result)).collect();
        print_json(&json!({ "study": arguments.out.display().to_string(), "records": records }))?;
    } else {
        print(&table(&ended, Look::of_stdout()))?;
    }
    let is_void = |result: &Result<Rejudged>| {
        result.as_ref().is_ok_and(|rejudged| matches!(rejudged.after.outcome, Outcome::Void(_)))
    };
    let voids = ended.iter().filter(|(_, result)| is_void(result)).count();
    let exit = ended_with(voids, !rejudge.judges.is_empty());
    if voids > 0 && exit == Exit::Done {
        note(&format!(
            "new verdicts that are void: {voids}. Too many answers are missing, or a win hangs on them, and a rule asks \
             nobody: judge these records again with `--judge NAME` or `--config FILE`"
        ));
    }
    // What has failed is listed; the first of them says why the command did.
    match ended.into_iter().find_map(|(_, result)| result.err()) {
        Some(error) => Err(error),
        None => Ok(exit),
    }
}

/// How the command ends with so many void verdicts. Where judges were asked, another run asks for what is
/// missing; a rule by itself says the same of the same answers.
fn ended_with(voids: usize, asked: bool) -> Exit {
    if voids > 0 && asked { Exit::TryAgain } else { Exit::Done }
}

/// The new panel and rule, and whether the configuration asks for canaries.
async fn settings(arguments: &Arguments, cx: &CallContext) -> Result<(Rejudge, bool)> {
    let registry = Registry::linked()?;
    let config = arguments.config.as_deref().map(DuelConfig::read).transpose()?;
    let known = config.as_ref().map(|config| config.judges.clone()).unwrap_or_default();
    let panel: Vec<PluginConfig<dyn Judge>> = match &arguments.judges[..] {
        [] => known,
        names => names.iter().map(|name| named_judge(&known, name)).collect::<Result<_>>()?,
    };
    let mut rule = None;
    if let Some(name) = &arguments.rule {
        let configured = config.as_ref().map(|config| config.duel.rule.clone());
        rule = Some(match configured {
            Some(rule) if rule.name() == *name => rule,
            _ => Rule::by_name(name)?,
        });
    }
    if panel.is_empty() && rule.is_none() {
        let message = "nothing would change: there is no other judge and no other rule";
        return Err(Error::new(ErrorKind::ConfigInvalid, OPERATION, message)
            .with_fault(Fault::Operator)
            .with_hint("give `--judge NAME`, `--config FILE` or `--rule NAME`"));
    }
    let check = CheckContext::new(&registry);
    let build = BuildContext::new(&registry, cx);
    let mut judges = Vec::new();
    for (place, named) in panel.iter().enumerate() {
        let checked = check.plugin(format_args!("judges[{place}]"), named)?;
        let built = match &config {
            Some(config) => checked.build(&build.relative_to(&config.folder)).await?,
            None => checked.build(&build).await?,
        };
        judges.push(built);
    }
    let mut rejudge = Rejudge { judges, rule, ..Rejudge::default() };
    let mut canaries = false;
    if let Some(DuelConfig { duel, .. }) = config {
        (rejudge.limits, rejudge.twins) = (duel.limits, Some(duel.twins));
        canaries = duel.canaries.is_some();
    }
    Ok((rejudge, canaries))
}

/// The record in `folder`, verified and judged again, and whether its duel had canaries.
async fn one(
    rejudge: &Rejudge,
    folder: &Path,
    study: &Path,
    key: &JournalKey,
    cx: &CallContext,
) -> Result<(Rejudged, bool)> {
    let record: Record = match super::open(folder)? {
        AnyRecord::Duel(record) => *record,
        AnyRecord::Forfeit(_) => {
            return Err(Error::new(ErrorKind::Unsupported, OPERATION, "the submission was not admitted")
                .with_fault(Fault::Operator)
                .with("record", folder.display())
                .with_hint("leave this record out: it has no replies"));
        }
    };
    let named = |error: Error| error.with("record", folder.display());
    record::verify_record(&record, &VerifyOptions::default(), cx).await.map_err(named)?;
    let canaries = record.plan().canaries.is_some();
    let rejudged = rejudge.run(&Arc::new(record), study, key, cx).await.map_err(named)?;
    Ok((rejudged, canaries))
}

fn machine(folder: &Path, result: &Result<Rejudged>) -> Value {
    match result {
        Ok(Rejudged { record, before, after, folder: judged }) => json!({
            "folder": folder.display().to_string(),
            "digest": record,
            "before": before,
            "after": after,
            "judged": judged.as_ref().map(|folder| folder.display().to_string()),
            "error": null,
        }),
        Err(error) => json!({
            "folder": folder.display().to_string(),
            "digest": null,
            "before": null,
            "after": null,
            "judged": null,
            "error": error.to_string(),
        }),
    }
}

/// The old and the new verdict of every record.
fn table(ended: &[(&PathBuf, Result<Rejudged>)], look: Look) -> String {
    let mut text = format!("{:>9}{:>9}{:>9}  record\n", "before", "after", "samples");
    let said = |verdict: &Verdict| verdict.outcome.to_string();
    let (mut judged, mut turned) = (0, 0);
    for (folder, result) in ended {
        let numbers = match result {
            Ok(Rejudged { before, after, .. }) => {
                judged += 1;
                let same = before.outcome == after.outcome;
                turned += usize::from(!same);
                let words = if same {
                    said(after)
                } else {
                    look.strong(&format!("{}, was: {}", said(after), said(before)))
                };
                (format!("{:>+9.2}{:>+9.2}{:>9}", before.margin, after.margin, after.samples), words)
            }
            Err(error) => (format!("{:>9}{:>9}{:>9}", "–", "–", "–"), look.bad(&line(&error.to_string()))),
        };
        let (numbers, words) = numbers;
        text += &look.hanging(&numbers, 29, &format!("{}: {words}", folder.display()));
    }
    // Where none was judged, the errors say all.
    match judged {
        0 => text,
        1 => text + &format!("\n{turned} of 1 record has another outcome\n"),
        _ => text + &format!("\n{turned} of {judged} records have another outcome\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_judges_can_find_out_what_is_missing() {
        assert_eq!(ended_with(1, true), Exit::TryAgain);
        assert_eq!(ended_with(1, false), Exit::Done, "a rule asks nobody, however often it is tried");
        assert_eq!([ended_with(0, true), ended_with(0, false)], [Exit::Done; 2]);
    }
}
