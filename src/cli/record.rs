//! `albedo record`.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::exit::Exit;
use super::output::{next, print, print_json, program, shown, word};
use super::source::absolute;
use crate::admission::{Admission, ScreenedModel};
use crate::config::{DuelConfig, ModelConfig};
use crate::confirmation::Confirmation;
use crate::demo::Demo;
use crate::missing::{Probes, SideProbes};
use crate::order::Order;
use crate::plan::{ContestantPlan, Terms};
use crate::record::{
    self, AnyRecord, Claim, Difference, ForfeitRecord, PromptCounter, RecordLine, RecordedAnswer,
    RecordedReply, Regenerated, Verification, VerifyOptions,
};
use crate::report;
use crate::{
    Alteration, Assessment, Build, BuildContext, CallContext, Digest, Error, ErrorKind, Evidence, Fault,
    Finding, Identity, PublicKey, Record, Registry, Result, TaskSource,
};

mod audit;
mod sign;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Check a record's digest and print its verdict, or one of its samples.
    Show(Show),
    /// Work a record's verdict out again from its facts, and compare. Several
    /// records, oldest first, must be the chain of one reign.
    Verify(Verify),
    /// Audit a record's replies on any device: whether they are the models', by one
    /// pass over the tokens of each.
    Audit(audit::Arguments),
    /// Sign a record's digest, in a file beside the record.
    Sign(sign::Arguments),
    /// Verify a duel and its confirmation on fresh tasks, and decide on both.
    Confirm(Confirm),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Show {
    /// The record's folder.
    folder: PathBuf,
    /// Print this sample: conversation, replies and answers.
    #[arg(long, value_name = "N")]
    sample: Option<u32>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
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
        Command::Show(arguments) => show(arguments),
        Command::Verify(arguments) => verify(arguments, cx).await,
        Command::Audit(arguments) => audit::run(arguments, cx).await,
        Command::Sign(arguments) => sign::run(arguments),
        Command::Confirm(arguments) => confirm(arguments, cx).await,
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
            "verified {}\n    {} samples, mean {:+.2} points of at least {:.2}, evidence e^{:.2}\n",
            stage.record, stage.samples, stage.mean, stage.least_mean, stage.log_e_value
        )
    });
    let outcome = if *crowned { "The challenger is crowned" } else { "The king holds" };
    format!("{}{outcome}: evidence e^{log_e_value:.2} of e^{:.2}\n", stages.concat(), -alpha.ln())
}

async fn verify(arguments: &Verify, cx: &CallContext) -> Result<Exit> {
    let registry = Registry::linked()?;
    let tasks = match &arguments.tasks {
        Some(path) => Some(registry.build::<dyn TaskSource>("parquet", json!({ "path": path }), cx).await?),
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
    format!("{} {} (settings {})", backend.name, backend.version, backend.config.short())
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
    let mut text = format!(
        "verified {digest}\n    {draws} row draws replayed{compared}; {samples} samples and {answers} answers \
         decided again: {outcome:?}\n"
    );
    let constants = serde_json::to_string(&plan.rule).unwrap_or_default();
    let terms = match plan.terms {
        Terms::Standalone { alpha } => format!("alpha {alpha}, a duel by itself"),
        Terms::Reign { attempt, share } => format!("alpha {share}, attempt {attempt} of a reign"),
    };
    let model = |side: &ContestantPlan| {
        format!("{} ({}, by {})", side.model.parameters, side.model.architecture, described(&side.backend))
    };
    let build = match &verification.origin.builds[..] {
        [] => format!("albedo {}", plan.version.as_deref().unwrap_or("unknown")),
        builds => builds.iter().map(describe_build).collect::<Vec<_>>().join(", then "),
    };
    let behaves = match verification.behaves {
        Some(true) => ", whose rule, sampler and panel behave as this build's",
        Some(false) => ", whose rule, sampler or panel behave otherwise than this build's",
        None => "",
    };
    for (name, value) in [
        ("rule", constants),
        ("terms", terms),
        ("king", model(&plan.king)),
        ("challenger", model(&plan.challenger)),
        ("build", format!("{build}{behaves}")),
    ] {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "    {name:<12}{value}");
    }
    for Claim { part, known, by } in &verification.claims {
        let _ = writeln!(text, "    {:<13}{part}: {by}", known.as_str());
    }
    text
}

fn describe_build(build: &Build) -> String {
    let source = build.source.map(|source| format!(", sources {}", source.short()));
    format!("albedo {}{}", build.version, source.unwrap_or_default())
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
    let rejected: Vec<_> = rejected.map(|screened| screened.screen.name.as_str()).collect();
    format!(
        "verified {}\n    {} findings; the submission forfeits, rejected by {}\n",
        record.digest,
        findings.len(),
        rejected.join(", ")
    )
}

/// The record of a submission that was not admitted.
fn show_forfeit(record: &ForfeitRecord, show: &Show) -> Result<Exit> {
    if show.sample.is_some() {
        return Err(Error::new(ErrorKind::NotFound, "show a sample", "the submission was not admitted")
            .with_fault(Fault::Operator)
            .with_hint("leave `--sample` out: the record has findings, and no samples"));
    }
    if show.json {
        print_json(&json!({ "digest": record.digest, "admission": record.admission }))?;
    } else {
        let model = |model: &ScreenedModel| match (model.parameters, &model.reference) {
            (Some(parameters), Some(reference)) => format!("{parameters} ({reference})"),
            (Some(parameters), None) => parameters.to_string(),
            (None, Some(reference)) => reference.to_string(),
            (None, None) => format!("files with the listing {}", model.listing),
        };
        let Admission { king, submission, .. } = &record.admission;
        print(&format!(
            "{:<12}{}\n{:<12}{}\n{:<12}{}\n\n{}",
            "king",
            model(king),
            "submission",
            model(submission),
            "record",
            record.digest,
            report::screened(&record.admission)
        ))?;
    }
    Ok(Exit::Done)
}

/// Reads the record in `folder`; says so where a duel has none yet.
fn open(folder: &Path) -> Result<AnyRecord> {
    AnyRecord::open(folder).map_err(|error| {
        if error.kind() != ErrorKind::NotFound || !folder.join("journal.jsonl").is_file() {
            return error;
        }
        Error::new(
            ErrorKind::NotFound,
            "read the record",
            "the duel in this folder is not decided, it has no record",
        )
        .with("folder", folder.display())
        .with_hint(format!("`{} duel --resume {}` goes on with it", program(), word(folder)))
    })
}

fn show(show: &Show) -> Result<Exit> {
    let record = match open(&show.folder)? {
        AnyRecord::Duel(record) => record,
        AnyRecord::Forfeit(record) => return show_forfeit(&record, show),
    };
    match (show.sample, show.json) {
        (None, false) => {
            print(&summary(&record))?;
            let folder = word(&show.folder);
            next(&[
                (format!("record show {folder} --sample 0"), "a sample whole: replies and judges' answers"),
                (format!("record verify {folder}"), "works the verdict out again from what is recorded"),
            ]);
        }
        (None, true) => {
            print_json(&json!({
                "digest": record.digest,
                "plan": record.plan(),
                "verdict": record.verdict(),
            }))?;
        }
        (Some(sample), false) => print(&one_sample(&record, sample)?)?,
        (Some(sample), true) => print_json(&lines_of(&record, sample)?)?,
    }
    Ok(Exit::Done)
}

fn summary(record: &Record) -> String {
    let (plan, verdict) = (record.plan(), record.verdict());
    format!(
        "{}{:<12}{}\n\n{}",
        report::contestants(plan),
        "record",
        record.digest,
        report::verdict(plan, verdict, report::tokens(record))
    )
}

fn lines_of(record: &Record, wanted: u32) -> Result<Vec<&RecordLine>> {
    let lines: Vec<_> = record
        .lines
        .iter()
        .filter(|line| match line {
            RecordLine::Sample { sample, .. }
            | RecordLine::Reply { sample, .. }
            | RecordLine::Preparation { sample, .. }
            | RecordLine::Assessment { sample, .. } => *sample == wanted,
            RecordLine::Cluster(cluster) => cluster.sample == wanted,
            _ => false,
        })
        .collect();
    if lines.is_empty() {
        return Err(Error::new(
            ErrorKind::NotFound,
            "show a sample",
            format!("the record has no sample {wanted}"),
        )
        .with_hint(format!("give a number below {}", record.verdict().samples)));
    }
    Ok(lines)
}

fn one_sample(record: &Record, wanted: u32) -> Result<String> {
    let judges = &record.plan().judges;
    let mut text = String::new();
    // Writing to a string cannot fail.
    let mut section = |title: String, body: &str| {
        let _ = writeln!(text, "── {title}\n{}\n", shown(body));
    };
    for line in lines_of(record, wanted)? {
        match line {
            RecordLine::Sample { sample, repo, messages, reference } => {
                section(format!("sample {sample} of {repo}"), "");
                for message in record.messages(messages)? {
                    section(message.role.as_str().to_owned(), &message.content);
                }
                section("recorded reply".into(), record.text(reference)?);
            }
            RecordLine::Reply { side, reply, .. } => match reply {
                RecordedReply::Completed { text, finish, completion_tokens, .. } => {
                    let tokens = completion_tokens.map_or("?".into(), |tokens| tokens.to_string());
                    let title = format!("{side}: {tokens} tokens, ended by {finish:?}");
                    section(title, record.text(text)?);
                }
                RecordedReply::Overflowed(overflow) => {
                    section(
                        format!("{side}: its own arithmetic overflowed ({overflow}): the sample is lost"),
                        "",
                    );
                }
                RecordedReply::Missing { kind } => section(format!("{side}: missing, {kind:?}"), ""),
                other => section(format!("{side}: {other:?}"), ""),
            },
            RecordLine::Preparation { judge, text, .. } => {
                let name = judges.get(*judge as usize).map_or("?", |judge| judge.identity.name.as_str());
                section(format!("{name}, before it saw the replies"), text);
            }
            RecordLine::Assessment { judge, order, answer, .. } => {
                let name = judges.get(*judge as usize).map_or("?", |judge| judge.identity.name.as_str());
                let order = match order {
                    Order::KingFirst => "king first",
                    Order::ChallengerFirst => "challenger first",
                };
                section(format!("{name}, {order}"), &describe(answer));
            }
            RecordLine::Probes { judge, probes, .. } => {
                let name = judges.get(*judge as usize).map_or("?", |judge| judge.identity.name.as_str());
                section(format!("{name}, asked about neutral text"), &describe_probes(*probes));
            }
            RecordLine::Cluster(cluster) => {
                section(format!("challenger minus king: {:+.2} points", 100.0 * cluster.difference), "");
            }
            _ => {}
        }
    }
    Ok(text)
}

fn describe(answer: &RecordedAnswer) -> String {
    match answer {
        RecordedAnswer::Answered(assessment @ Assessment::Scored { scores, rationale, .. }) => {
            let mut text = assessment.evidence().map(alterations).unwrap_or_default();
            for (metric, score) in scores {
                let _ = writeln!(text, "{metric:<12}{:.3} for the first", score.value());
            }
            text + rationale.as_deref().unwrap_or_default()
        }
        RecordedAnswer::Answered(Assessment::Abstained { reason }) => format!("abstained: {reason}"),
        RecordedAnswer::Answered(Assessment::Unreadable { reason, evidence, .. }) => {
            format!("unreadable: {reason}\n{}{}", alterations(evidence), evidence.answer)
        }
        RecordedAnswer::Answered(other) => format!("{other:?}"),
        RecordedAnswer::Void => "void: it had failed a canary before".into(),
        RecordedAnswer::Identical => "not asked: both replies are the same, a tie".into(),
        RecordedAnswer::Missing { kind: Some(kind) } => format!("missing: {kind:?}"),
        RecordedAnswer::Missing { kind: None } => "missing: there was no pair to judge".into(),
    }
}

fn describe_probes(probes: Probes) -> String {
    let mut text = format!("alone: {:?}\n", probes.neutral);
    if let Some(SideProbes { king, challenger }) = probes.sides {
        let _ = writeln!(text, "beside the king's reply: {king:?}");
        let _ = writeln!(text, "beside the challenger's reply: {challenger:?}");
    }
    text
}

/// What was changed in the replies before the judge saw them.
fn alterations(evidence: &Evidence) -> String {
    let mut text = String::new();
    for (place, altered) in [("first", &evidence.first), ("second", &evidence.second)] {
        for Alteration { what, count } in altered {
            let _ = writeln!(text, "altered in the {place}: {what}, {count} times");
        }
    }
    text
}
