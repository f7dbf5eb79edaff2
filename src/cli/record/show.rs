//! `albedo record show`.

use std::fmt::Write;
use std::path::PathBuf;

use serde_json::json;

use crate::admission::{Admission, ScreenedModel};
use crate::cli::exit::Exit;
use crate::cli::output::{next, print, print_json, shown, word, words};
use crate::missing::{Probes, SideProbes};
use crate::order::Order;
use crate::record::{AnyRecord, ForfeitRecord, RecordLine, RecordedAnswer, RecordedReply};
use crate::report::{self, Analysis, Look, line};
use crate::{Alteration, Assessment, Error, ErrorKind, Evidence, Fault, FinishReason, Record, Result};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The record's folder: where the duel's last line says the record is.
    folder: PathBuf,
    /// Print this sample: the conversation, both replies, and what every judge answered
    /// in both orders.
    #[arg(long, value_name = "N")]
    sample: Option<u32>,
    /// Explain the words and numbers of the verdict.
    #[arg(long, conflicts_with_all = ["sample", "json"])]
    explain: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<Exit> {
    let record = match super::open(&arguments.folder)? {
        AnyRecord::Duel(record) => record,
        AnyRecord::Forfeit(record) => return show_forfeit(&record, arguments),
    };
    match (arguments.sample, arguments.json) {
        (None, false) => {
            print(&summary(&record, arguments.explain))?;
            let folder = word(&arguments.folder);
            next(&[
                (format!("record show {folder} --sample 0"), "a sample whole: replies and judges' answers"),
                (format!("record report {folder}"), "a page to open in a browser, with every sample"),
                (format!("record verify {folder}"), "works the verdict out again from what is recorded"),
            ]);
        }
        (None, true) => {
            print_json(&json!({
                "digest": record.digest,
                "plan": record.plan(),
                "verdict": record.verdict(),
                "analysis": Analysis::of(&record)?,
            }))?;
        }
        (Some(sample), false) => print(&one_sample(&record, sample)?)?,
        (Some(sample), true) => print_json(&lines_of(&record, sample)?)?,
    }
    Ok(Exit::Done)
}

fn summary(record: &Record, explained: bool) -> String {
    let (plan, verdict, look) = (record.plan(), record.verdict(), Look::of_stdout());
    let explained = if explained { report::explain(verdict, look) } else { String::new() };
    format!(
        "{}{}\n{}{explained}",
        report::contestants(plan, [None, None], look),
        look.entry("record", &record.digest.to_string()),
        report::verdict(plan, verdict, report::tokens(record), look)
    )
}

/// The record of a submission that was not admitted.
fn show_forfeit(record: &ForfeitRecord, arguments: &Arguments) -> Result<Exit> {
    if arguments.sample.is_some() {
        return Err(Error::new(ErrorKind::NotFound, "show a sample", "the submission was not admitted")
            .with_fault(Fault::Operator)
            .with_hint("leave `--sample` out: the record has findings, and no samples"));
    }
    if arguments.json {
        print_json(&json!({ "digest": record.digest, "admission": record.admission }))?;
        return Ok(Exit::Done);
    }
    let model = |model: &ScreenedModel| match (model.parameters, &model.reference) {
        (Some(parameters), Some(reference)) => format!("{parameters} ({reference})"),
        (Some(parameters), None) => parameters.to_string(),
        (None, Some(reference)) => reference.to_string(),
        (None, None) => format!("files with the listing {}", model.listing),
    };
    let Admission { king, submission, .. } = &record.admission;
    let look = Look::of_stdout();
    let heading =
        [("king", model(king)), ("submission", model(submission)), ("record", record.digest.to_string())];
    let heading: String = heading.iter().map(|(name, value)| look.entry(name, value)).collect();
    print(&format!("{heading}\n{}", report::screened(&record.admission, look)))?;
    Ok(Exit::Done)
}

fn lines_of(record: &Record, wanted: u32) -> Result<Vec<&RecordLine>> {
    let lines: Vec<_> = record
        .lines
        .iter()
        .filter(|line| match line {
            RecordLine::Sample { sample, .. }
            | RecordLine::Reply { sample, .. }
            | RecordLine::Preparation { sample, .. }
            | RecordLine::Twin { sample, .. }
            | RecordLine::TwinAssessment { sample, .. }
            | RecordLine::Assessment { sample, .. }
            | RecordLine::Probes { sample, .. } => *sample == wanted,
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
    let look = Look::of_stdout();
    let mut text = String::new();
    // Writing to a string cannot fail.
    let mut section = |title: String, body: &str| {
        let _ = writeln!(text, "{}\n{}\n", look.strong(&format!("── {}", line(&title))), shown(body));
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
                    let tokens = completion_tokens.map_or("unknown".into(), |tokens| tokens.to_string());
                    let end = match finish {
                        FinishReason::Stop => "ended by the model",
                        FinishReason::Length => "cut at the longest that is allowed",
                        _ => "perhaps cut: the provider did not say",
                    };
                    section(format!("{side}: {tokens} tokens, {end}"), record.text(text)?);
                }
                RecordedReply::Overflowed(overflow) => {
                    section(
                        format!("{side}: its own arithmetic overflowed ({overflow}): the sample is lost"),
                        "",
                    );
                }
                RecordedReply::Missing { kind } => section(format!("{side}: missing ({})", words(kind)), ""),
                _ => section(format!("{side}: in a form that this build does not know"), ""),
            },
            RecordLine::Twin { judge, side, drawn, text, .. } => {
                let name = judges.get(*judge as usize).map_or("?", |judge| judge.identity.name.as_str());
                let why = if *drawn { "the sample is drawn" } else { "the reply may talk to a judge" };
                let body = match text {
                    Some(text) => record.text(text)?,
                    None => "not asked: the judge would be shown the same, a tie",
                };
                section(format!("{name}: twin of the {side}'s reply, as {why}"), body);
            }
            RecordLine::TwinAssessment { judge, side, order, answer, .. } => {
                let name = judges.get(*judge as usize).map_or("?", |judge| judge.identity.name.as_str());
                let order = match order {
                    Order::KingFirst => "reply first",
                    Order::ChallengerFirst => "twin first",
                };
                section(format!("{name}, the {side}'s reply and its twin, {order}"), &describe(answer));
            }
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
        RecordedAnswer::Answered(_) => "an answer that this build does not know".into(),
        RecordedAnswer::Void => "void: it had failed a canary before".into(),
        RecordedAnswer::Identical => "not asked: both replies are the same, a tie".into(),
        RecordedAnswer::Missing { kind: Some(kind) } => format!("missing ({})", words(kind)),
        RecordedAnswer::Missing { kind: None } => "missing: there was no pair to judge".into(),
    }
}

fn describe_probes(probes: Probes) -> String {
    let mut text = format!("alone: {}\n", words(&probes.neutral));
    if let Some(SideProbes { king, challenger }) = probes.sides {
        let _ = writeln!(text, "beside the king's reply: {}", words(&king));
        let _ = writeln!(text, "beside the challenger's reply: {}", words(&challenger));
    }
    text
}

/// What of the replies the judge was not shown, or what was found in them.
fn alterations(evidence: &Evidence) -> String {
    let mut text = String::new();
    for (place, altered) in [("first", &evidence.first), ("second", &evidence.second)] {
        for Alteration { what, count } in altered {
            let _ = writeln!(text, "noted in the {place}: {what}, {count} times");
        }
    }
    text
}
