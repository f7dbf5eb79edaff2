//! `albedo record`.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::exit::Exit;
use super::output::{print, print_json, program, word};
use super::source::{absolute, utf8};
use crate::config::{DuelConfig, ModelConfig};
use crate::confirmation::Confirmation;
use crate::demo::Demo;
use crate::plan::{ContestantPlan, Terms};
use crate::record::{
    self, AnyRecord, Claim, Difference, ForfeitRecord, PromptCounter, Regenerated, Verification,
    VerifyOptions,
};
use crate::report::{Look, line, times};
use crate::{
    Build, BuildContext, CallContext, Digest, Error, ErrorKind, Finding, Identity, PublicKey, Record,
    Registry, Result, Rule, TaskSource,
};

mod audit;
mod export;
#[cfg(feature = "publish")]
mod fetch;
mod rejudge;
mod report;
mod show;
mod sign;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Show why a duel was decided as it was: the verdict, what its words mean
    /// (`--explain`), or one sample with its replies and the judges' answers
    /// (`--sample N`).
    Show(show::Arguments),
    /// Write a report to open in a browser, in one file: who won and why, how far to
    /// trust it, every sample with both replies and the judges' answers. Several
    /// records: ratings of their models.
    Report(report::Arguments),
    /// Judge stored replies again: other judges, another rule, new verdicts beside the
    /// old ones. No model is run.
    Rejudge(rejudge::Arguments),
    /// Work a record's verdict out again from its facts, and compare. Several
    /// records, oldest first, must be the chain of one reign.
    Verify(Verify),
    /// Audit a record's replies on any device: whether they are the models', by one
    /// pass over the tokens of each.
    Audit(audit::Arguments),
    /// Write verified records as data sets that training tools load: conversations, and
    /// pairs of a better and a worse reply.
    Export(export::Arguments),
    /// Sign a record's digest, in a file beside the record.
    Sign(sign::Arguments),
    /// Verify a duel and its confirmation on fresh tasks, and decide on both.
    Confirm(Confirm),
    /// Fetch a published record, every byte compared with its digest.
    #[cfg(feature = "publish")]
    Fetch(fetch::Arguments),
}

// A comment, since clap would take a docstring for the command's own help.
// The group has what replies are generated again with.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("models").multiple(true))]
pub(crate) struct Verify {
    /// The records' folders.
    #[arg(required = true)]
    folders: Vec<PathBuf>,
    /// The digest that the (last) record must have.
    #[arg(long, value_name = "DIGEST")]
    expect: Option<Digest>,
    /// A key that has to have signed every record: `ed25519:…` or `sr25519:…`.
    #[arg(long, value_name = "KEY")]
    signer: Vec<PublicKey>,
    /// Compare the row draws with the tasks in this folder too.
    #[arg(long, value_name = "DIR")]
    tasks: Option<PathBuf>,
    /// Count the prompts' tokens again with the tokenizer and the chat template in this
    /// folder: those of the king's model.
    #[arg(long, value_name = "DIR")]
    tokenizer: Option<PathBuf>,
    /// Generate this many of the (last) record's replies again, with models and a
    /// backend of your own: those of `--config`, or of `--king` and `--challenger` on
    /// this machine. A configuration beside the record is never used.
    #[arg(long, value_name = "N", requires = "models")]
    regenerate: Option<usize>,
    /// The TOML file whose models and backends generate replies again.
    #[arg(long, value_name = "FILE", requires = "regenerate", group = "models")]
    config: Option<PathBuf>,
    /// Generate with the demo duel's models.
    #[arg(long, requires = "regenerate", conflicts_with = "config", group = "models")]
    demo: bool,
    /// Chooses which replies are generated again.
    #[arg(long, value_name = "N", default_value_t = 0, requires = "regenerate")]
    seed: u64,
    /// Model folder of the king.
    #[arg(long, value_name = "DIR", requires_all = ["regenerate", "challenger"], group = "models")]
    king: Option<PathBuf>,
    /// Model folder of the challenger.
    #[arg(long, value_name = "DIR", requires_all = ["regenerate", "king"])]
    challenger: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Confirm {
    /// Folder of the duel's record.
    first: PathBuf,
    /// Folder of the record of its confirmation, whose plan names the duel's
    /// record as the previous one.
    second: PathBuf,
    /// The chance of a wrong crown that both may spend together [default: the
    /// duel's].
    #[arg(long, value_name = "A")]
    alpha: Option<f64>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(command: &Command, cx: &CallContext) -> Result<Exit> {
    match command {
        Command::Show(arguments) => show::run(arguments),
        Command::Report(arguments) => report::run(arguments, cx).await,
        Command::Rejudge(arguments) => rejudge::run(arguments, cx).await,
        Command::Verify(arguments) => verify(arguments, cx).await,
        Command::Audit(arguments) => audit::run(arguments, cx).await,
        Command::Export(arguments) => export::run(arguments, cx).await,
        Command::Sign(arguments) => sign::run(arguments),
        Command::Confirm(arguments) => confirm(arguments, cx).await,
        #[cfg(feature = "publish")]
        Command::Fetch(arguments) => fetch::run(arguments, cx).await,
    }
}

async fn confirm(arguments: &Confirm, cx: &CallContext) -> Result<Exit> {
    let Confirm { first, second, alpha, json } = arguments;
    for folder in [first, second] {
        record::verify(folder, &VerifyOptions::default(), cx).await?;
    }
    let confirmation = Confirmation::new(&Record::open(first)?, &Record::open(second)?, *alpha)?;
    if *json {
        print_json(&confirmation)?;
    } else {
        print(&describe_confirmation(&confirmation))?;
    }
    Ok(Exit::Done)
}

fn describe_confirmation(confirmation: &Confirmation) -> String {
    let Confirmation { stages, alpha, log_e_value, crowned } = confirmation;
    let stages = stages.each_ref().map(|stage| {
        format!(
            "verified {}\n    {} samples, mean {:+.2} points of at least {:.2}, evidence {}\n",
            stage.record,
            stage.samples,
            stage.mean,
            stage.least_mean,
            times(stage.log_e_value)
        )
    });
    let look = Look::of_stdout();
    let outcome =
        if *crowned { look.good("The challenger is crowned") } else { look.strong("The king holds") };
    let (found, needed) = (times(*log_e_value), times(-alpha.ln()));
    format!("{}{outcome}: evidence of both together {found} of {needed}\n", stages.concat())
}

async fn verify(arguments: &Verify, cx: &CallContext) -> Result<Exit> {
    let registry = Registry::linked()?;
    let tasks = match &arguments.tasks {
        Some(path) => {
            let settings = json!({ "path": utf8(path)? });
            Some(registry.build::<dyn TaskSource>("parquet", settings, cx).await?)
        }
        None => None,
    };
    let prompts = arguments.tokenizer.as_deref().map(prompt_counter).transpose()?;
    // Submissions that were not admitted take no part in the chain of a reign.
    let (mut verified, mut forfeits, mut signed) = (Vec::new(), Vec::new(), Vec::new());
    for (index, folder) in arguments.folders.iter().enumerate() {
        let expect = arguments.expect.filter(|_| index + 1 == arguments.folders.len());
        let record = open(folder)?;
        signed.push((record.digest(), sign::signers(folder, &record, &arguments.signer)?));
        match record {
            AnyRecord::Forfeit(record) => {
                record.verify(expect).map_err(|error| error.with("record", folder.display()))?;
                forfeits.push(*record);
            }
            AnyRecord::Duel(record) => {
                let options = VerifyOptions {
                    expect,
                    tasks: tasks.as_deref(),
                    judges: Some(&registry),
                    prompts: prompts.as_deref(),
                };
                let verification = record::verify_record(&record, &options, cx).await;
                verified.push(verification.map_err(|error| error.with("record", folder.display()))?);
            }
        }
    }
    let chain = record::verify_chain(&verified)?;
    let regenerated = match (arguments.regenerate, arguments.folders.last()) {
        (Some(count), Some(folder)) => {
            let options = VerifyOptions {
                expect: arguments.expect,
                tasks: tasks.as_deref(),
                judges: Some(&registry),
                prompts: prompts.as_deref(),
            };
            let again = regenerate(arguments, folder, count, options, &registry, cx).await?;
            if let Some(last) = verified.last_mut() {
                last.clone_from(&again.verification);
            }
            Some(again)
        }
        _ => None,
    };
    let reproduced =
        regenerated.iter().flat_map(|again| &again.replies).all(|reply| reply.difference.is_none());
    if arguments.json {
        print_json(&json!({
            "records": verified.iter().map(|verification| json!({
                "digest": verification.digest,
                "outcome": verification.outcome,
                "draws": verification.draws,
                "samples": verification.samples,
                "answers": verification.answers,
                "tasks_compared": verification.tasks,
                "rule": verification.plan.rule,
                "terms": verification.plan.terms,
                "alpha": verification.plan.terms.alpha(),
                "king": verification.plan.king,
                "challenger": verification.plan.challenger,
                "origin": verification.origin,
                "same_behaviour": verification.behaves,
                "claims": verification.claims,
            })).collect::<Vec<_>>(),
            "chain": (verified.len() > 1).then(|| json!({
                "alpha_spent": chain.spent,
                "alpha_of_the_reign": chain.budget,
            })),
            "forfeits": forfeits.iter().map(|forfeit| json!({
                "digest": forfeit.digest,
                "outcome": forfeit.outcome(),
                "findings": forfeit.admission.findings.len(),
            })).collect::<Vec<_>>(),
            "signed": signed.iter().map(|(digest, keys)| json!({ "digest": digest, "keys": keys }))
                .collect::<Vec<_>>(),
            "regenerated": regenerated.as_ref().map(|again| &again.replies),
            "regenerated_with": regenerated.as_ref().map(|again| &again.backends),
        }))?;
    } else {
        let mut lines: Vec<_> = verified.iter().map(describe_verification).collect();
        lines.extend(forfeits.iter().map(describe_forfeit));
        lines.extend(signed.iter().filter_map(|(digest, keys)| sign::describe(digest, keys)));
        if verified.len() > 1 {
            let of = chain.budget.map(|budget| format!(" of the reign's {budget}")).unwrap_or_default();
            lines.push(format!(
                "the {} records are a chain; alpha spent {}{of}\n",
                verified.len(),
                chain.spent
            ));
        }
        if let Some(again) = &regenerated {
            let [king, challenger] = &again.backends;
            lines.push(format!("generated again by {}; {}\n", described(king), described(challenger)));
            lines.extend(again.replies.iter().map(describe_regenerated));
        }
        print(&lines.concat())?;
    }
    Ok(if reproduced { Exit::Done } else { Exit::Found })
}

/// What counts prompts with the text files of `folder`.
#[cfg(feature = "cpu")]
fn prompt_counter(folder: &Path) -> Result<Box<dyn PromptCounter>> {
    Ok(Box::new(crate::backends::prompts::PromptText::load(folder)?))
}

#[cfg(not(feature = "cpu"))]
fn prompt_counter(_: &Path) -> Result<Box<dyn PromptCounter>> {
    use crate::{Error, ErrorKind, Fault};
    Err(Error::new(ErrorKind::Unsupported, "read a tokenizer", "this build has no tokenizer")
        .with_fault(Fault::Operator)
        .with_hint("build it with the feature `cpu`"))
}

/// Replies that were generated again, and what did it, the king's first.
struct GeneratedAgain {
    replies: Vec<Regenerated>,
    backends: [Identity; 2],
    /// The record's verification with that and the king's tokenizer at hand.
    verification: Verification,
}

fn described(backend: &Identity) -> String {
    format!("{} {} (settings {})", line(&backend.name), line(&backend.version), backend.config.short())
}

async fn regenerate(
    arguments: &Verify,
    folder: &Path,
    count: usize,
    mut options: VerifyOptions<'_>,
    registry: &Registry,
    cx: &CallContext,
) -> Result<GeneratedAgain> {
    let mut config = match &arguments.config {
        Some(path) => DuelConfig::read(path)?,
        None if arguments.demo => DuelConfig::read(&Demo::locate()?.config())?,
        None => DuelConfig::parse("judges = []\nking = {}\nchallenger = {}\ntasks.name = \"none\"")?,
    };
    for (model, path) in
        [(&mut config.king, &arguments.king), (&mut config.challenger, &arguments.challenger)]
    {
        if let Some(path) = path {
            *model = ModelConfig { backend: model.backend.take(), ..ModelConfig::folder(absolute(path)?) };
        }
    }
    let [king, challenger] = config.contestants(&BuildContext::new(registry, cx)).await?;
    let backends = [king.backend().clone(), challenger.backend().clone()];
    let sessions = [king.session(cx).await?, challenger.session(cx).await?];
    let record = Record::open(folder)?;
    if options.prompts.is_none() {
        // The king's tokenizer is at hand.
        options.prompts = Some(&sessions[0]);
    }
    let mut verification = record::verify_record(&record, &options, cx).await?;
    let replies = record::regenerate(&record, &sessions, count, arguments.seed, cx).await?;
    verification.add_regenerated(&record, &replies);
    Ok(GeneratedAgain { replies, backends, verification })
}

fn describe_verification(verification: &Verification) -> String {
    let Verification { digest, outcome, draws, samples, answers, tasks, plan, .. } = verification;
    let compared = if *tasks { ", compared with the tasks" } else { "" };
    let look = Look::of_stdout();
    let mut text = format!("{} {digest}\n", look.good("verified"));
    let again = format!(
        "{draws} row draws replayed{compared}; {samples} samples and {answers} answers decided again: {outcome}"
    );
    text += &look.hanging("   ", 4, &again);
    let terms = match plan.terms {
        Terms::Standalone { alpha } => format!("alpha {alpha}, a duel by itself"),
        Terms::Reign { attempt, share } => format!("alpha {share}, attempt {attempt} of a reign"),
    };
    let model = |side: &ContestantPlan| {
        let architecture = line(&side.model.architecture);
        format!("{} ({architecture}, by {})", side.model.parameters, described(&side.backend))
    };
    let build = match &verification.origin.builds[..] {
        [] => format!("albedo {}", line(plan.version.as_deref().unwrap_or("unknown"))),
        builds => builds.iter().map(describe_build).collect::<Vec<_>>().join(", then "),
    };
    let behaves = match verification.behaves {
        Some(true) => ", whose rule, sampler and panel behave as this build's",
        Some(false) => ", whose rule, sampler or panel behave otherwise than this build's",
        None => "",
    };
    for (name, value) in [
        ("rule", describe_rule(&plan.rule)),
        ("terms", terms),
        ("king", model(&plan.king)),
        ("challenger", model(&plan.challenger)),
        ("build", format!("{build}{behaves}")),
    ] {
        text += &look.hanging(&format!("    {name}"), 16, &value);
    }
    for Claim { part, known, by } in &verification.claims {
        text += &look.hanging(&format!("    {}", known.as_str()), 17, &line(&format!("{part}: {by}")));
    }
    text
}

/// The rule with its constants: `margin (win_margin 2.0)`.
fn describe_rule(rule: &Rule) -> String {
    let fields = serde_json::to_value(rule).unwrap_or_default();
    let constants = fields.as_object().into_iter().flatten().filter(|(key, _)| *key != "name");
    let constants: Vec<_> = constants.map(|(key, value)| format!("{key} {value}")).collect();
    format!("{} ({})", rule.name(), constants.join(", "))
}

fn describe_build(build: &Build) -> String {
    let source = build.source.map(|source| format!(", sources {}", source.short()));
    format!("albedo {}{}", line(&build.version), source.unwrap_or_default())
}

fn describe_regenerated(reply: &Regenerated) -> String {
    let Regenerated { sample, side, difference, log_prob_difference } = reply;
    let found = match difference {
        None => match log_prob_difference {
            Some(nats) => format!("reproduced, log-probabilities within {nats:.4} nats"),
            None => "reproduced".to_owned(),
        },
        Some(Difference { facts: true, .. }) => {
            "not reproduced: the text is the same, its finish reason or numbers of tokens are not".to_owned()
        }
        Some(Difference { overflow: Some(overflow), .. }) => {
            format!("the model's arithmetic overflows in one of both alone: {overflow}")
        }
        Some(Difference { character, token, log_prob_gap, .. }) => {
            let token = token.map(|token| format!(", token {token}")).unwrap_or_default();
            let gap = log_prob_gap.map(|gap| format!(", {gap:+.4} nats")).unwrap_or_default();
            format!("not reproduced: differs from character {character}{token}{gap}")
        }
    };
    format!("sample {sample}, {side}: {found}\n")
}

fn describe_forfeit(record: &ForfeitRecord) -> String {
    let findings = &record.admission.findings;
    let rejected = findings.iter().filter(|screened| matches!(screened.finding, Finding::Rejected(_)));
    let rejected: Vec<_> = rejected.map(|screened| line(&screened.screen.name)).collect();
    format!(
        "verified {}\n    {} findings; the submission forfeits, rejected by {}\n",
        record.digest,
        findings.len(),
        rejected.join(", ")
    )
}

/// Reads the record in `folder`; says so where a duel has none yet, and where the folder
/// holds several.
pub(super) fn open(folder: &Path) -> Result<AnyRecord> {
    AnyRecord::open(folder).map_err(|error| {
        if error.kind() != ErrorKind::NotFound || folder.join("record.digest").exists() {
            return error;
        }
        let missing = |message: &str| {
            Error::new(ErrorKind::NotFound, "read the record", message).with("folder", folder.display())
        };
        if folder.join("journal.jsonl").is_file() {
            return missing("the duel in this folder is not decided, it has no record").with_hint(format!(
                "`{} duel --resume {}` goes on with it",
                program(),
                word(folder)
            ));
        }
        let below = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
        match below.filter(|path| path.join("record.digest").is_file()).min() {
            Some(one) => missing("the folder is no duel's, and those below it are")
                .with_hint(format!("name one of them, such as {}", word(&one))),
            None => error,
        }
    })
}
