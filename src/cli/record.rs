//! `albedo record`.

use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use albedo::panel::Order;
use albedo::record::{RecordLine, RecordedAnswer, RecordedReply};
use albedo::{Assessment, Error, ErrorKind, Message, Record, Result, Side};
use serde_json::json;

use super::{print, print_json};
use crate::report::{self, Tokens};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Check a record's digest and print its verdict, or one of its samples.
    Show(Show),
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

pub(crate) fn run(command: &Command) -> Result<ExitCode> {
    let Command::Show(show) = command;
    let record = Record::open(&show.folder)?;
    match (show.sample, show.json) {
        (None, false) => print(&summary(&record))?,
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
    Ok(ExitCode::SUCCESS)
}

fn summary(record: &Record) -> String {
    let (plan, verdict) = (record.plan(), record.verdict());
    let mut tokens = [Tokens::default(); 2];
    for line in &record.lines {
        if let RecordLine::Reply {
            side,
            reply: RecordedReply::Completed { prompt_tokens, completion_tokens, .. },
            ..
        } = line
        {
            tokens[usize::from(*side == Side::Challenger)].add(*prompt_tokens, *completion_tokens);
        }
    }
    format!(
        "{}{:<12}{}\n\n{}",
        report::contestants(plan),
        "record",
        record.digest,
        report::verdict(plan, verdict, tokens)
    )
}

fn lines_of(record: &Record, wanted: u32) -> Result<Vec<&RecordLine>> {
    let lines: Vec<_> = record
        .lines
        .iter()
        .filter(|line| match line {
            RecordLine::Sample { sample, .. }
            | RecordLine::Reply { sample, .. }
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
                let messages: Vec<Message> =
                    serde_json::from_str(record.text(messages)?).map_err(|error| {
                        Error::new(ErrorKind::DataInvalid, "show a sample", error.to_string())
                    })?;
                for message in messages {
                    section(message.role.as_str().to_owned(), &message.content);
                }
                section("recorded reply".into(), record.text(reference)?);
            }
            RecordLine::Reply { side, reply, .. } => match reply {
                RecordedReply::Completed { text, finish, completion_tokens, .. } => {
                    let title = format!("{side}: {completion_tokens} tokens, ended by {finish:?}");
                    section(title, record.text(text)?);
                }
                RecordedReply::Missing { kind } => section(format!("{side}: missing, {kind:?}"), ""),
            },
            RecordLine::Assessment { judge, order, answer, .. } => {
                let name = judges.get(*judge as usize).map_or("?", |judge| judge.identity.name.as_str());
                let order = match order {
                    Order::KingFirst => "king first",
                    Order::ChallengerFirst => "challenger first",
                };
                section(format!("{name}, {order}"), &describe(answer));
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
        RecordedAnswer::Answered(Assessment::Scored { scores, rationale, .. }) => {
            let mut text = String::new();
            for (metric, score) in scores {
                let _ = writeln!(text, "{metric:<12}{:.3} for the first", score.value());
            }
            text + rationale.as_deref().unwrap_or_default()
        }
        RecordedAnswer::Answered(Assessment::Abstained { reason }) => format!("abstained: {reason}"),
        RecordedAnswer::Missing { kind: Some(kind) } => format!("missing: {kind:?}"),
        RecordedAnswer::Missing { kind: None } => "missing: there was no pair to judge".into(),
    }
}

/// Text of a model as a terminal may show it: its control characters, but for
/// line breaks and tabs, made visible.
fn shown(text: &str) -> String {
    text.trim_end().chars().map(|c| if matches!(c, '\n' | '\t') { c } else { super::printable(c) }).collect()
}
