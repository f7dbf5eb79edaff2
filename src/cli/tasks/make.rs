//! `albedo tasks make`.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use serde_json::json;

use crate::backends::tasks::write_tasks;
use crate::cli::exit::Exit;
use crate::cli::output::{next, print, print_json, warn, word};
use crate::cli::source::utf8;
use crate::conversations::{conversations, turns};
use crate::{Error, ErrorKind, Fault, Result, TaskRow};

/// Samples of a duel whose configuration names no number.
const USUAL_SAMPLES: usize = 64;

/// The fewest samples from which the usual rule, `sequential`, can crown.
const FEWEST: usize = 5;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// A file of JSON Lines, or a folder of such files with names that end in `.jsonl` or
    /// `.jsonl.gz`: one conversation per line, an array of messages with `role` and `content`,
    /// or an object with `messages` and perhaps `instance_id` and `repo`.
    #[arg(value_name = "FILE|DIR")]
    from: PathBuf,
    /// New folder for the task set.
    #[arg(long, value_name = "DIR", default_value = "tasks")]
    out: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<Exit> {
    // Every line is read before anything is written.
    let rows = conversations(&arguments.from)?;
    let out = &arguments.out;
    let path = utf8(out)?;
    let taken = out.exists() && fs::read_dir(out).map_or(true, |mut entries| entries.next().is_some());
    if taken {
        return Err(Error::new(ErrorKind::Conflict, "make a task set", "the folder exists and is not empty")
            .with_fault(Fault::Operator)
            .with("path", out.display())
            .with_hint("name a new one with `--out`"));
    }
    let mut counts = Counts::default();
    for row in &rows {
        counts.add(row);
    }
    let info = write_tasks(out, rows.into_iter().map(Ok))?;
    let Counts { instances, turns } = counts;
    if instances.len() < USUAL_SAMPLES {
        warn(&format!(
            "a duel draws one sample per instance: with these tasks `samples` can be at most {} \
             ({USUAL_SAMPLES} by default)",
            instances.len()
        ));
    }
    if instances.len() < FEWEST {
        warn(&format!(
            "the usual rule, `sequential`, needs {FEWEST} samples: with fewer choose `margin`, which compares the \
             mean scores alone"
        ));
    }
    if arguments.json {
        print_json(&json!({
            "folder": path,
            "rows": info.rows,
            "instances": instances.len(),
            "turns": turns,
            "manifest": info.manifest,
        }))?;
        return Ok(Exit::Done);
    }
    print(&format!(
        "{}: conversations {}, instances {}, assistant's turns {turns}\n\n\
         [tasks]\nname = \"parquet\"\npath = {}\nmanifest = \"{}\"\n",
        out.display(),
        info.rows,
        instances.len(),
        // A JSON text is a TOML text.
        json!(path),
        info.manifest,
    ))?;
    let fewer = match instances.len() {
        count if count < FEWEST => format!(" --rule margin --samples {count}"),
        count if count < USUAL_SAMPLES => format!(" --samples {count}"),
        _ => String::new(),
    };
    next(&[
        (format!("duel --demo --tasks {}{fewer}", word(out)), "the demo's models on these tasks"),
        ("duel --config FILE".to_owned(), "with the lines above in place of the file's [tasks]"),
    ]);
    Ok(Exit::Done)
}

/// What a task set has.
#[derive(Default)]
struct Counts {
    instances: BTreeSet<String>,
    turns: usize,
}

impl Counts {
    fn add(&mut self, row: &TaskRow) {
        self.instances.insert(row.instance_id.clone());
        self.turns += turns(&row.messages);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DuelSettings, Rule};

    #[test]
    fn the_usual_rule_needs_the_fewest_samples_that_are_said_and_margin_one() {
        let check = |rule: Rule, samples: usize| {
            DuelSettings { rule, samples: samples as u32, ..DuelSettings::default() }.check().is_ok()
        };
        let usual = DuelSettings::default().rule;
        assert_eq!(usual.name(), "sequential");
        assert_eq!([FEWEST - 1, FEWEST].map(|samples| check(usual.clone(), samples)), [false, true]);
        assert!(check(Rule::by_name("margin").expect("known"), 1));
    }
}
