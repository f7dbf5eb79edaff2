//! albedo's decision for logs that other tools wrote: which of two systems is better, by
//! what they scored on the same items.
//!
//! | logs of | read by | item | cluster by default |
//! | --- | --- | --- | --- |
//! | Inspect AI (`.eval`) | [`Scores::inspect`] | a sample, the mean of its epochs | the sample |
//! | lm-evaluation-harness (`samples_*.jsonl`) | [`Scores::lm_eval`] | a document of a task | the document |
//! | Harbor (a job's folder) | [`Scores::harbor`] | a task, the mean of its trials | the task |
//! | the Python system (a duel's files) | [`PythonDuels::read`] | a sample, or a turn | the trajectory |
//! | anything, as a table | [`read_csv`] | a row | the row, or its column `cluster` |
//!
//! [`pair`] puts two systems' scores together, [`compare`] decides. An item that one
//! system did not finish is not left out by itself: a system that fails on hard items
//! would gain by it ([`Missing`]). [`Budget`] bounds the errors of many comparisons.
//!
//! ```
//! use albedo::decide::{PairedOutcome, PairedSettings, compare, read_csv};
//!
//! # fn main() -> albedo::Result<()> {
//! # let folder = tempfile::tempdir().unwrap();
//! # let path = folder.path().join("scores.csv");
//! let mut table = String::from("item,cluster,first,second\n");
//! for item in 0..60 {
//!     table += &format!("{item},{},{},1\n", item / 2, item % 2);
//! }
//! std::fs::write(&path, table).unwrap();
//! let comparison = compare(&read_csv(&path)?, &PairedSettings::default())?;
//! assert_eq!(comparison.outcome, PairedOutcome::Better);
//! # Ok(())
//! # }
//! ```
//!
//! The module is behind the feature `decide`. `docs/decide.md` is its guide.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::{Deserialize, Serialize};

pub use crate::paired::{
    Discordant, PairedComparison, PairedEvidence, PairedItem, PairedOutcome, PairedSettings, compare,
};
use crate::{Error, ErrorKind, Fault, Result};

mod budget;
mod harbor;
mod inspect;
mod json;
mod lm_eval;
mod python;
mod table;

pub use budget::{Budget, BudgetRun};
pub use python::{PythonDuel, PythonDuels};
pub use table::read_csv;

const READ: &str = "read the scores";

/// Which scores of a log are compared, where it has several.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Choice {
    /// Inspect's scorer (`match`, or `scorer/key` of one that gives several numbers),
    /// lm-evaluation-harness' metric, Harbor's reward. The only one if absent.
    pub metric: Option<String>,
    /// lm-evaluation-harness' filter. The only one if absent.
    pub filter: Option<String>,
    /// The field that names an item's cluster: of an Inspect sample's metadata, or of an
    /// lm-evaluation-harness document.
    pub cluster: Option<String>,
}

/// What one system scored.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Scores {
    items: BTreeMap<String, Item>,
}

#[derive(Debug, Clone, Default, PartialEq)]
struct Item {
    /// `None`: the item is a cluster by itself, or its cluster is not known because it never began.
    cluster: Option<String>,
    /// What the item is, where the log has it: it must be the same in both.
    content: Option<String>,
    sum: f64,
    count: u32,
    /// Tries without a score.
    failed: u32,
}

/// What becomes of an item that only one system has a score of, or more tries at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Missing {
    /// Nothing is compared.
    #[default]
    Refuse,
    /// It counts as the worst score there can be: the lowest, or the highest where lower is
    /// better.
    Lowest,
    /// It is left out: right only where what is missing has nothing to do with the
    /// system, such as an outage of the machine.
    Drop,
}

/// Two systems' scores, put together.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Paired {
    /// Items that both have.
    pub items: Vec<PairedItem>,
    /// Items without a score of the first system.
    pub missing_first: Vec<String>,
    /// Items without a score of the second system.
    pub missing_second: Vec<String>,
}

impl Paired {
    /// Items that lack nothing.
    pub fn complete(items: Vec<PairedItem>) -> Self {
        Self { items, missing_first: Vec::new(), missing_second: Vec::new() }
    }
}

impl Scores {
    /// Reads a log of Inspect AI: an `.eval` file.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], [`ErrorKind::DataInvalid`]: no such file, or none of
    /// Inspect's. The operator's: the choice does not fit it.
    pub fn inspect(path: &Path, choice: &Choice) -> Result<Self> {
        inspect::read(path, choice).map_err(|error| error.with("path", path.display()))
    }

    /// Reads logs of lm-evaluation-harness: a `samples_*.jsonl`, or a folder with one per
    /// task (`lm_eval … --log_samples --output_path FOLDER`).
    ///
    /// # Errors
    /// As [`Scores::inspect`].
    pub fn lm_eval(path: &Path, choice: &Choice) -> Result<Self> {
        lm_eval::read(path, choice)
    }

    /// Reads two such logs that are to be compared. Two files are of one task, whatever they are
    /// called.
    ///
    /// # Errors
    /// As [`Scores::inspect`].
    pub fn lm_eval_pair(first: &Path, second: &Path, choice: &Choice) -> Result<[Self; 2]> {
        lm_eval::read_pair(first, second, choice)
    }

    /// Reads a job's folder of Harbor, which has one folder per trial.
    ///
    /// # Errors
    /// As [`Scores::inspect`].
    pub fn harbor(path: &Path, choice: &Choice) -> Result<Self> {
        harbor::read(path, choice)
    }

    /// Reads two such jobs that are to be compared. A task that no trial of one job has finished is called as
    /// in the other.
    ///
    /// # Errors
    /// As [`Scores::inspect`].
    pub fn harbor_pair(first: &Path, second: &Path, choice: &Choice) -> Result<[Self; 2]> {
        harbor::read_pair(first, second, choice)
    }

    /// Items, those without a score among them.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Takes note of a try at `item`; no score if it failed.
    ///
    /// # Errors
    /// An earlier try at an item of this name had another content or cluster.
    fn add(
        &mut self,
        item: String,
        cluster: Option<String>,
        content: Option<String>,
        score: Option<f64>,
    ) -> Result<()> {
        let tried = Item {
            cluster,
            content,
            sum: score.unwrap_or_default(),
            count: score.is_some().into(),
            failed: score.is_none().into(),
        };
        let Some(known) = self.items.get_mut(&item) else {
            self.items.insert(item, tried);
            return Ok(());
        };
        if let Some(what) = known.differs(&tried) {
            let message = format!("two items of one log have the same name and another {what}");
            return Err(malformed(message)
                .with_fault(Fault::Operator)
                .with("item", item)
                .with_hint("give a log of one data set, as the tool wrote it"));
        }
        known.cluster = known.cluster.take().or(tried.cluster);
        known.content = known.content.take().or(tried.content);
        known.sum += tried.sum;
        known.count += tried.count;
        known.failed += tried.failed;
        Ok(())
    }

    /// Takes note that `tries` were to be made at `item`: those that are not there have failed.
    fn planned(&mut self, item: String, tries: u32) {
        let known = self.items.entry(item).or_default();
        *known = known.of(known.tries().max(tries));
    }
}

impl Item {
    fn tries(&self) -> u32 {
        self.count + self.failed
    }

    /// The item with so many tries, at least as many as it has: the others failed.
    fn of(&self, tries: u32) -> Self {
        Self { failed: tries - self.count, ..self.clone() }
    }

    /// What is known of both and not the same.
    fn differs(&self, other: &Self) -> Option<&'static str> {
        let differs =
            |one: &Option<String>, other: &Option<String>| one.is_some() && other.is_some() && one != other;
        if differs(&self.content, &other.content) {
            Some("content")
        } else {
            differs(&self.cluster, &other.cluster).then_some("cluster")
        }
    }

    /// The mean of its tries, those that failed as `failed`; none if one failed and that
    /// says nothing.
    fn score(&self, failed: Option<f64>) -> Option<f64> {
        let tries = f64::from(self.tries());
        match (self.failed, failed) {
            (0, _) => Some(self.sum / tries),
            (_, Some(failed)) => Some((self.sum + failed * f64::from(self.failed)) / tries),
            (_, None) => None,
        }
    }
}

/// Puts the scores of two systems together. `worst` is the worst score there can be.
///
/// # Errors
/// [`ErrorKind::DataInvalid`], the operator's: an item has another content or cluster in
/// each log, no item is in both, whatever `missing` is, or one has no score of one system, or
/// fewer tries, and `missing` is [`Missing::Refuse`].
pub fn pair(first: &Scores, second: &Scores, missing: Missing, worst: f64) -> Result<Paired> {
    let refused = |message: String| {
        Error::new(ErrorKind::DataInvalid, "pair the scores", message).with_fault(Fault::Operator)
    };
    let failed = (missing == Missing::Lowest).then_some(worst);
    let mut paired = Paired::complete(Vec::new());
    let (mut common, mut absent, mut uneven) = (0_usize, 0_usize, 0_usize);
    let names: BTreeSet<&String> = first.items.keys().chain(second.items.keys()).collect();
    for name in names {
        let (one, other) = (first.items.get(name), second.items.get(name));
        if let (Some(one), Some(other)) = (one, other) {
            common += 1;
            if let Some(what) = one.differs(other) {
                return Err(refused(format!("an item has the same name and another {what} in each log"))
                    .with("item", name)
                    .with_hint("compare runs over the same version of the data"));
            }
            uneven += usize::from(one.failed == 0 && other.failed == 0 && one.tries() != other.tries());
        }
        let tries = [one, other].into_iter().flatten().map(Item::tries).max().unwrap_or_default();
        let [one, other] = [one, other].map(|item| item.map(|item| item.of(tries)));
        let lacks = |item: &Option<Item>| item.as_ref().is_none_or(|item| item.failed > 0);
        for (item, missing) in [(&one, &mut paired.missing_first), (&other, &mut paired.missing_second)] {
            if lacks(item) {
                missing.push(name.clone());
            }
        }
        absent += usize::from(lacks(&one) || lacks(&other));
        let score = |item: &Option<Item>| item.as_ref().map_or(failed, |item| item.score(failed));
        if let (Some(first), Some(second)) = (score(&one), score(&other)) {
            let cluster = [one, other].into_iter().flatten().find_map(|item| item.cluster);
            let cluster = cluster.unwrap_or_else(|| name.clone());
            paired.items.push(PairedItem { item: name.clone(), cluster, first, second });
        }
    }
    if common == 0 {
        let example = |scores: &Scores| scores.items.keys().next().map_or("none", String::as_str).to_owned();
        return Err(refused("no item is in both logs".into())
            .with("an item of the first", example(first))
            .with("an item of the second", example(second))
            .with_hint("compare two runs of the same tasks"));
    }
    if missing == Missing::Refuse && absent > 0 {
        let example = paired.missing_first.first().or(paired.missing_second.first());
        let (message, remedy) = if absent == uneven {
            (
                format!("{absent} items have more tries in one log than in the other"),
                "run both with as many epochs or attempts; `--missing lowest` counts tries that are not \
                 there as the worst score there can be, `--missing drop` leaves such items out",
            )
        } else {
            (
                format!("{absent} items lack a score of one of the systems"),
                "run them again; `--missing lowest` counts them as the worst score there can be, `--missing \
                 drop` leaves them out",
            )
        };
        return Err(refused(message)
            .with("first of them", example.map_or("", String::as_str))
            .with_hint(remedy));
    }
    if paired.items.is_empty() {
        return Err(refused("no item has a score of both systems".into()).with_hint(
            "run them again; `--missing lowest` counts a missing score as the worst there can be",
        ));
    }
    Ok(paired)
}

/// The one of `all` that is chosen, or the only one.
fn chosen<'a>(what: &str, chosen: Option<&str>, all: impl IntoIterator<Item = &'a str>) -> Result<&'a str> {
    let all: Vec<&str> = all.into_iter().collect();
    let refused = |message: String| {
        Error::new(ErrorKind::ConfigInvalid, READ, message).with_hint(format!(
            "choose {what}: {}",
            all.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
        ))
    };
    match (chosen, all.as_slice()) {
        (_, []) => Err(malformed(format!("the log has no {what}"))
            .with_hint("nothing in it was scored: run it again, or give another log")),
        (Some(name), all) => all
            .iter()
            .find(|known| **known == name)
            .copied()
            .ok_or_else(|| refused(format!("there is no {what} `{name}`"))),
        (None, [only]) => Ok(only),
        (None, _) => Err(refused(format!("the log has more than one {what}"))),
    }
}

/// A value of a log as the name of a cluster.
fn cluster_name(fields: Option<&serde_json::Value>, key: Option<&str>, item: &str) -> Result<Option<String>> {
    let Some(key) = key else { return Ok(None) };
    match fields.and_then(|fields| fields.get(key)) {
        Some(serde_json::Value::String(name)) => Ok(Some(name.clone())),
        Some(value @ (serde_json::Value::Number(_) | serde_json::Value::Bool(_))) => {
            Ok(Some(value.to_string()))
        }
        _ => Err(Error::new(
            ErrorKind::ConfigInvalid,
            READ,
            format!("an item has no `{key}` to name its cluster"),
        )
        .with("item", item)
        .with_hint("give a field that every item has, with a text or a number")),
    }
}

fn malformed(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::DataInvalid, READ, message)
}

#[cfg(test)]
mod tests;
