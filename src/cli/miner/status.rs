//! `albedo miner status`.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::json;

use super::draft;
use crate::chain::Hotkey;
use crate::chains::reveal::{FIRST_VERSION, parse_of};
use crate::cli::exit::Exit;
use crate::cli::output::{print, print_json, warn, words};
use crate::publish::document;
use crate::publish::public::{Status, SubmissionStatus, Submissions};
use crate::report::Look;
use crate::{BuildContext, CallContext, Error, ErrorKind, Fault, Registry, Result};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Where the validator publishes: a web address, or a folder.
    #[arg(value_name = "URL|DIR")]
    place: String,
    /// Whose submissions: a hotkey, a repository, or what was committed to.
    #[arg(value_name = "HOTKEY|REPOSITORY|TEXT", required_unless_present = "draft")]
    of: Option<String>,
    /// The submission that this file of `albedo miner pack` is about.
    #[arg(long, value_name = "FILE", conflicts_with = "of")]
    draft: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(arguments: &Arguments, cx: &CallContext) -> Result<Exit> {
    const OPERATION: &str = "look for a submission";
    let Arguments { place, of, draft, json } = arguments;
    let of = match (of, draft) {
        (Some(of), _) => of.clone(),
        (None, Some(path)) => {
            let pack = draft::read(path, Path::new("FOLDER"))?.pack;
            pack.map(|pack| pack.text).ok_or_else(|| {
                Error::new(ErrorKind::Conflict, OPERATION, "the model was not packed yet")
                    .with_fault(Fault::Operator)
                    .with("path", path.display())
                    .with_hint("pack it first: `albedo miner pack FOLDER OWNER/MODEL`")
            })?
        }
        (None, None) => return Err(Error::bug(OPERATION, "nothing is looked for")),
    };
    let registry = Registry::linked()?;
    let transport = crate::backends::http::transport(&BuildContext::new(&registry, cx));
    let status: Status = document(place, "data/status.json", &*transport, cx).await?;
    let submissions: Submissions = document(place, "data/submissions.json", &*transport, cx).await?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let age = now.saturating_sub(status.updated_at);
    let is_stale = age > status.stale_after_secs;
    let found: Vec<_> = submissions.submissions.iter().filter(|one| is_meant(one, &of)).collect();
    if found.is_empty() {
        return Err(Error::new(ErrorKind::NotFound, OPERATION, "the validator knows no such submission")
            .with_fault(Fault::Operator)
            .with("of", of)
            .with("place", place)
            .with("age_secs", age)
            .with_hint(
                "it appears once the chain has revealed the commitment and the validator has read the block; \
                 check the name, and `albedo miner commits`",
            ));
    }
    let before =
        |one: &SubmissionStatus| status.queue.iter().position(|queued| queued.submission == one.submission);
    let reign = status.reign.as_ref();
    if *json {
        let shown: Vec<_> = found
            .iter()
            .map(|&one| {
                json!({ "submission": one.submission, "state": one.state, "since": one.since, "reason": one.reason,
                    "action": one.action, "record": one.record, "before": before(one) })
            })
            .collect();
        print_json(
            &json!({ "updated_at": status.updated_at, "is_stale": is_stale, "king": reign.map(|reign| reign.king.number),
            "attempts": reign.map(|reign| reign.attempts), "next_share": reign.map(|reign| reign.next_share), "submissions": shown }),
        )?;
        return Ok(Exit::Done);
    }
    if is_stale {
        warn(&format!("the data is {age} seconds old: the validator may have stopped"));
    }
    let look = Look::of_stdout();
    let mut text = String::new();
    for one in found {
        let name = &one.submission;
        text += &look.entry("submission", &format!("{} {}", name.repository, name.pin));
        text += &look.entry("hotkey", &name.hotkey);
        let state = match before(one) {
            Some(before) => format!("{}, {before} before it", words(&one.state)),
            None => words(&one.state),
        };
        text += &look.entry("state", &look.strong(&state));
        text += &look.entry("reason", &one.reason);
        text += &look.entry("to do", &one.action);
        if let Some(record) = one.record {
            let place = place.trim_end_matches('/');
            text += &look.entry("record", &format!("{place}/records/{record}"));
        }
        text.push('\n');
    }
    if let Some(reign) = reign {
        text += &look.entry(
            "reign",
            &format!(
                "king {}, {} attempts; the next one may err with a chance of {:.4} %",
                reign.king.number,
                reign.attempts,
                100.0 * reign.next_share
            ),
        );
    }
    print(&text)?;
    Ok(Exit::Done)
}

/// Whether `of` is the submission's hotkey, its repository or its text.
fn is_meant(one: &SubmissionStatus, of: &str) -> bool {
    let name = &one.submission;
    if name.hotkey == of || name.repository == of {
        return true;
    }
    let signer = Hotkey(name.hotkey.clone());
    let version =
        of.strip_prefix('v').and_then(|rest| rest.split('|').next()).and_then(|text| text.parse().ok());
    let parsed = parse_of(of, &signer, version.unwrap_or(FIRST_VERSION));
    parsed.is_ok_and(|meant| meant.repository == name.repository && meant.pin.to_string() == name.pin)
}
