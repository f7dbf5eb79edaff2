//! Duels that the Python system published, decided again.
//!
//! | written until June 2026 | read for |
//! |---|---|
//! | `judge_raw.jsonl` | what each judge made of each turn, from the challenger's side |
//! | `scores.json` | the verdict, and turns without a score |
//!
//! | written later | read for |
//! |---|---|
//! | `scoring-results.jsonl` | both sides' scores of each sample |
//! | `verdict.json` | the verdict, and samples without a score |
//! | `request.json` | the models, and the samples that were drawn |
//!
//! Of each the first is needed. The king is the first system, the challenger the second.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{READ, Scores, malformed};
use crate::files::open_file;
use crate::{Error, ErrorKind, Fault, Result};

/// The files that have the scores.
const TURNS: &str = "judge_raw.jsonl";
const SAMPLES: &str = "scoring-results.jsonl";

/// Most bytes of a file. Source: albedo; a duel of 128 samples has some 50 MB.
const MOST: u64 = 4 << 30;

/// How far the published scores may be from the mean of the samples', in points of 100: the
/// Python system rounds to four digits, and a judge's answers to six.
const ROUNDED: f64 = 0.001;

/// Duels of one pair of models, as the Python system published them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PythonDuels {
    /// The duels, in the order in which they were named.
    pub duels: Vec<PythonDuel>,
    /// What the king scored.
    pub king: Scores,
    /// What the challenger scored.
    pub challenger: Scores,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct PythonDuel {
    /// Its name: what the system called it, or the file's.
    pub name: String,
    /// Samples, or turns, with a score.
    pub scored: u64,
    /// Those that were drawn and have none.
    pub unscored: u64,
    /// Challenger minus king, mean over the samples, in points of 100.
    pub margin: f64,
    /// Whether the Python system accepted the challenger, if its verdict is there.
    pub accepted: Option<bool>,
}

/// Which duel it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Pair {
    way: &'static str,
    king: Option<String>,
    challenger: Option<String>,
}

/// One sample or turn, with the scores of both sides, from 0 to 1.
struct Row {
    item: String,
    cluster: String,
    scores: Option<(f64, f64)>,
}

/// What one duel's files say.
struct Found {
    duel: PythonDuel,
    pair: Pair,
    rows: Vec<Row>,
}

impl PythonDuels {
    /// Reads the duels at `paths`: folders with the files above, or files whose names end
    /// with those of the scores. Tries of the same sample in several duels are a mean.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]: no duel is there. [`ErrorKind::DataInvalid`], naming the file
    /// and the line: a file is malformed or cut off, the verdict is another duel's, or the
    /// duels are of different models. [`ErrorKind::Conflict`]: a duel is named twice.
    pub fn read(paths: &[PathBuf]) -> Result<Self> {
        let mut all = Self::default();
        let mut first: Option<Pair> = None;
        let operator = |kind, message: &str, path: &Path| {
            Error::new(kind, READ, message).with_fault(Fault::Operator).with("path", path.display())
        };
        for path in paths {
            let Found { duel, pair, rows } = read(path)?;
            if all.duels.iter().any(|known| known.name == duel.name) {
                return Err(operator(ErrorKind::Conflict, "the duel is named twice", path)
                    .with("duel", duel.name)
                    .with_hint("name each duel once"));
            }
            match &mut first {
                None => first = Some(pair),
                Some(first) => {
                    let differs = |one: &Option<String>, other: &Option<String>| {
                        one.is_some() && other.is_some() && one != other
                    };
                    if first.way != pair.way {
                        return Err(operator(
                            ErrorKind::DataInvalid,
                            "the duels were scored in different ways",
                            path,
                        )
                        .with_hint(format!(
                            "name either those with a `{TURNS}` or those with a `{SAMPLES}`"
                        )));
                    }
                    if differs(&first.king, &pair.king) || differs(&first.challenger, &pair.challenger) {
                        return Err(operator(
                            ErrorKind::DataInvalid,
                            "the duels are of different models",
                            path,
                        )
                        .with_hint("name duels of one king and one challenger"));
                    }
                    // What an earlier duel does not say, a later one can.
                    first.king = first.king.take().or(pair.king);
                    first.challenger = first.challenger.take().or(pair.challenger);
                }
            }
            for Row { item, cluster, scores } in rows {
                let (king, challenger) = (scores.map(|(king, _)| king), scores.map(|(_, score)| score));
                all.king.add(item.clone(), Some(cluster.clone()), None, king)?;
                all.challenger.add(item, Some(cluster), None, challenger)?;
            }
            all.duels.push(duel);
        }
        Ok(all)
    }
}

/// The files of the duel at `path`: that of the scores, and what the names of the others
/// begin with.
fn files(path: &Path) -> Result<(PathBuf, &'static str, PathBuf)> {
    let wanted = |kind, message: &str| {
        Error::new(kind, READ, message)
            .with_fault(Fault::Operator)
            .with("path", path.display())
            .with_hint(format!("give a folder with a `{SAMPLES}` or a `{TURNS}`, or such a file"))
    };
    if !path.exists() {
        return Err(wanted(ErrorKind::NotFound, "there is no such file or folder"));
    }
    if path.is_dir() {
        let found = [SAMPLES, TURNS].into_iter().find(|name| path.join(name).is_file());
        let name =
            found.ok_or_else(|| wanted(ErrorKind::NotFound, "no duel of the Python system is there"))?;
        return Ok((path.join(name), name, path.join("")));
    }
    let text = path.to_string_lossy();
    for name in [SAMPLES, TURNS] {
        if let Some(before) = text.strip_suffix(name) {
            return Ok((path.to_owned(), name, PathBuf::from(before)));
        }
    }
    Err(wanted(ErrorKind::DataInvalid, "the file is none of the Python system's with scores"))
}

fn read(path: &Path) -> Result<Found> {
    let (scores, name, before) = files(path)?;
    let beside = |name: &str| {
        let mut path = before.clone().into_os_string();
        path.push(name);
        PathBuf::from(path)
    };
    if name == SAMPLES { read_samples(&scores, &beside) } else { read_turns(&scores, &beside) }
}

/// The lines of a file, each with its number from 1.
fn lines<T: DeserializeOwned>(path: &Path) -> Result<Vec<(u64, T)>> {
    let file = BufReader::new(open_file(READ, path)?.take(MOST));
    let mut read = Vec::new();
    for (number, line) in (1..).zip(file.split(b'\n')) {
        let line = line.map_err(|error| Error::io(READ, path, error))?;
        if line.trim_ascii().is_empty() {
            continue;
        }
        let value = serde_json::from_slice(&line).map_err(|error| {
            let hint = if error.is_eof() { "the file is cut off: fetch it again" } else { "fetch it again" };
            at(path, number, malformed(error.to_string())).with_hint(hint)
        })?;
        read.push((number, value));
    }
    if read.is_empty() {
        return Err(malformed("the file has no line")
            .with("path", path.display())
            .with_hint("fetch it again"));
    }
    Ok(read)
}

/// The document at `path`; none if there is no such file.
fn document<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    if !path.is_file() {
        return Ok(None);
    }
    let file = BufReader::new(open_file(READ, path)?.take(MOST));
    let read = serde_json::from_reader(file);
    read.map(Some).map_err(|error| {
        malformed(error.to_string()).with("path", path.display()).with_hint("fetch it again, or remove it")
    })
}

fn at(path: &Path, line: u64, error: Error) -> Error {
    error.with("path", path.display()).with("line", line)
}

fn is_score(score: f64) -> bool {
    (0.0..=1.0).contains(&score)
}

/// Refuses scores that are not those of the verdict beside them. Scores are of 100.
fn check_verdict(path: &Path, published: f64, found: f64) -> Result<()> {
    if (published - found).abs() <= ROUNDED {
        return Ok(());
    }
    Err(malformed(format!(
        "the challenger has {published:.4} points in the verdict and {found:.4} in the scores"
    ))
    .with("path", path.display())
    .with_hint("give the verdict and the scores of the same duel"))
}

/// Mean margin of `rows` in points of 100.
fn margin(rows: &[Row]) -> f64 {
    let differences: Vec<f64> =
        rows.iter().filter_map(|row| row.scores.map(|(king, challenger)| challenger - king)).collect();
    if differences.is_empty() {
        0.0
    } else {
        100.0 * differences.iter().sum::<f64>() / differences.len() as f64
    }
}

/// Names for samples without a score that no file names.
fn unnamed(duel: &str, count: u64) -> impl Iterator<Item = Row> {
    (1..=count).map(move |number| {
        let item = format!("{duel}: sample without a score {number}");
        Row { cluster: item.clone(), item, scores: None }
    })
}

#[derive(Deserialize)]
struct Sample {
    #[serde(rename = "sample_id")]
    id: String,
    #[serde(default)]
    king_score: Option<f64>,
    #[serde(default)]
    challenger_score: Option<f64>,
    #[serde(default)]
    scored: Option<bool>,
}

#[derive(Deserialize)]
struct Verdict {
    #[serde(default)]
    eval_run_id: Option<String>,
    #[serde(default)]
    challenger_won: Option<bool>,
    #[serde(default)]
    score_challenger: Option<f64>,
    #[serde(default)]
    total_turns: Option<u64>,
}

#[derive(Deserialize)]
struct Request {
    challenger: Model,
    previous_king: Model,
    dataset: Dataset,
}

#[derive(Deserialize)]
struct Model {
    model_hash: String,
}

#[derive(Deserialize)]
struct Dataset {
    #[serde(default)]
    sample_ids: BTreeSet<String>,
}

/// Ids of samples are `SOURCE/SHARD:ROW:TURN`, perhaps with `#` and the number of a try. The
/// turns of a row are of one trajectory.
fn sample_names(id: &str) -> (String, String) {
    let item = id.split('#').next().unwrap_or(id);
    (item.to_owned(), item.rsplit_once(':').map_or(item, |(row, _)| row).to_owned())
}

fn read_samples(path: &Path, beside: &dyn Fn(&str) -> PathBuf) -> Result<Found> {
    let (mut rows, mut ids) = (Vec::new(), BTreeSet::new());
    for (number, sample) in lines::<Sample>(path)? {
        let refused = |message: &str| {
            Err(at(path, number, malformed(message)).with("sample", &sample.id).with_hint("fetch it again"))
        };
        if !ids.insert(sample.id.clone()) {
            return refused("the sample is there twice");
        }
        let scores = match (sample.scored, sample.king_score, sample.challenger_score) {
            (Some(false), ..) | (None, None, _) | (None, _, None) => None,
            (_, Some(king), Some(challenger)) if is_score(king) && is_score(challenger) => {
                Some((king, challenger))
            }
            (_, Some(_), Some(_)) => return refused("a score is not between 0 and 1"),
            _ => return refused("a sample that was scored lacks a score"),
        };
        let (item, cluster) = sample_names(&sample.id);
        rows.push(Row { item, cluster, scores });
    }
    let verdict: Option<Verdict> = document(&beside("verdict.json"))?;
    let request: Option<Request> = document(&beside("request.json"))?;
    let scored = rows.iter().filter(|row| row.scores.is_some()).count() as u64;
    let name = verdict.as_ref().and_then(|verdict| verdict.eval_run_id.clone());
    let name = name.unwrap_or_else(|| path.display().to_string());
    if let Some(published) = verdict.as_ref().and_then(|verdict| verdict.score_challenger)
        && scored > 0
    {
        let sum: f64 = rows.iter().filter_map(|row| row.scores.map(|(_, challenger)| challenger)).sum();
        check_verdict(path, 100.0 * published, 100.0 * sum / scored as f64)?;
    }
    if let Some(request) = &request {
        for id in request.dataset.sample_ids.difference(&ids) {
            let (item, cluster) = sample_names(id);
            rows.push(Row { item, cluster, scores: None });
        }
    }
    let total = verdict.as_ref().and_then(|verdict| verdict.total_turns).unwrap_or_default();
    let duel = summary(name, &mut rows, total, verdict.and_then(|verdict| verdict.challenger_won));
    let pair = Pair {
        way: SAMPLES,
        king: request.as_ref().map(|request| request.previous_king.model_hash.clone()),
        challenger: request.map(|request| request.challenger.model_hash),
    };
    Ok(Found { duel, pair, rows })
}

/// What one judge made of one turn.
#[derive(Deserialize)]
struct Judged {
    #[serde(default)]
    eval_id: Option<String>,
    #[serde(default)]
    challenger_hotkey: Option<String>,
    #[serde(default)]
    king_hotkey: Option<String>,
    judge_model: String,
    global_idx: u64,
    instance_id: String,
    turn_idx: u64,
    /// The mean of its metrics: 1 where it prefers the challenger, 0.5 for a tie.
    #[serde(default)]
    judge_mean: Option<f64>,
    parse_ok: bool,
}

#[derive(Deserialize)]
struct TurnsVerdict {
    #[serde(default)]
    accepted: Option<bool>,
    #[serde(default)]
    challenger_score: Option<f64>,
    #[serde(default)]
    n_done: u64,
    #[serde(default)]
    vllm_errors: u64,
    #[serde(default)]
    judge_models: BTreeSet<String>,
}

/// A turn, with the answers of its judges.
struct Turn {
    instance: String,
    number: u64,
    answers: BTreeMap<String, f64>,
}

fn read_turns(path: &Path, beside: &dyn Fn(&str) -> PathBuf) -> Result<Found> {
    let mut turns: BTreeMap<u64, Turn> = BTreeMap::new();
    let (mut panel, mut name, mut pair) = (BTreeSet::new(), None, Pair { way: TURNS, ..Pair::default() });
    let named = |text: Option<String>| text.filter(|text| !text.is_empty());
    let mut is_first = true;
    for (number, line) in lines::<Judged>(path)? {
        let refused = |message: &str| Err(at(path, number, malformed(message)).with_hint("fetch it again"));
        if std::mem::take(&mut is_first) {
            name = named(line.eval_id.clone());
            pair.king = named(line.king_hotkey.clone());
            pair.challenger = named(line.challenger_hotkey.clone());
        } else if named(line.eval_id.clone()) != name {
            return refused("the line is another duel's");
        }
        let (instance, turn) = (line.instance_id, line.turn_idx);
        let found = turns.entry(line.global_idx).or_insert_with(|| Turn {
            instance: instance.clone(),
            number: turn,
            answers: BTreeMap::new(),
        });
        if (&found.instance, found.number) != (&instance, turn) {
            return refused("the number of a turn is another turn's");
        }
        panel.insert(line.judge_model.clone());
        match (line.parse_ok, line.judge_mean) {
            // A judge that could not be read is asked again, in a later line.
            (false, _) => {}
            (true, Some(mean)) if is_score(mean) => {
                found.answers.insert(line.judge_model, mean);
            }
            (true, Some(_)) => return refused("a judge's score is not between 0 and 1"),
            (true, None) => return refused("an answer lacks its score"),
        }
    }
    let verdict: Option<TurnsVerdict> = document(&beside("scores.json"))?;
    if let Some(verdict) = &verdict {
        panel.extend(verdict.judge_models.iter().cloned());
        if let Some(published) = verdict.challenger_score.filter(|_| verdict.n_done > 0) {
            check_verdict(path, published, by_judge(&turns))?;
        }
    }
    let rows = turns.values().map(|Turn { instance, number, answers }| {
        // A judge without an answer moves nothing: it counts as a tie.
        let answered = !answers.is_empty();
        let silent = (panel.len() - answers.len()) as f64;
        let score = (answers.values().sum::<f64>() + 0.5 * silent) / panel.len() as f64;
        let scores = answered.then_some((1.0 - score, score));
        Row { item: format!("{instance}/{number}"), cluster: instance.clone(), scores }
    });
    let mut rows: Vec<Row> = rows.collect();
    let name = name.unwrap_or_else(|| path.display().to_string());
    let drawn = verdict.as_ref().map_or(0, |verdict| verdict.n_done + verdict.vllm_errors);
    let duel = summary(name, &mut rows, drawn, verdict.and_then(|verdict| verdict.accepted));
    Ok(Found { duel, pair, rows })
}

/// What a duel came to, of which `drawn` turns were to be judged: those that its files do not
/// name are added to `rows`, without scores.
fn summary(name: String, rows: &mut Vec<Row>, drawn: u64, accepted: Option<bool>) -> PythonDuel {
    let scored = rows.iter().filter(|row| row.scores.is_some()).count() as u64;
    rows.extend(unnamed(&name, drawn.saturating_sub(rows.len() as u64)));
    PythonDuel { name, scored, unscored: rows.len() as u64 - scored, margin: margin(rows), accepted }
}

/// The challenger's score of 100 as the Python system has it: the mean over judges of the
/// mean over the turns that each has answered.
fn by_judge(turns: &BTreeMap<u64, Turn>) -> f64 {
    let mut judges: BTreeMap<&str, (f64, f64)> = BTreeMap::new();
    for (judge, mean) in turns.values().flat_map(|turn| &turn.answers) {
        let (sum, count) = judges.entry(judge).or_default();
        (*sum, *count) = (*sum + mean, *count + 1.0);
    }
    100.0 * judges.values().map(|(sum, count)| sum / count).sum::<f64>() / (judges.len().max(1)) as f64
}

#[cfg(test)]
mod tests;
