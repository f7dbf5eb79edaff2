//! Logs of lm-evaluation-harness: one JSON object per line and document.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};

use super::json::finite;
use super::{Choice, READ, Scores, chosen, cluster_name, malformed};
use crate::files::open_file;
use crate::{Error, ErrorKind, Fault, Result};

/// Most bytes of a line: a document with a long context and many answers.
const MOST_BYTES: u64 = 256 << 20;

/// How deep a folder is searched: `FOLDER/MODEL/samples_TASK_TIME.jsonl`.
const DEPTH: usize = 3;

#[derive(Deserialize)]
struct Line {
    doc_id: Value,
    #[serde(default)]
    doc: Option<Value>,
    #[serde(default)]
    doc_hash: Option<String>,
    #[serde(default)]
    filter: Option<String>,
    #[serde(default)]
    metrics: Vec<String>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

pub(super) fn read(path: &Path, choice: &Choice) -> Result<Scores> {
    read_as(None, path, choice)
}

/// Two logs that are compared: two files are of one task, that of the first one's name.
pub(super) fn read_pair(first: &Path, second: &Path, choice: &Choice) -> Result<[Scores; 2]> {
    let task = (first.is_file() && second.is_file()).then(|| task(first));
    Ok([read_as(task.as_deref(), first, choice)?, read_as(task.as_deref(), second, choice)?])
}

/// The log at `path`, of `only` that task if it is given.
fn read_as(only: Option<&str>, path: &Path, choice: &Choice) -> Result<Scores> {
    let mut files = Vec::new();
    if path.is_dir() {
        find(path, DEPTH, &mut files)?;
        if files.is_empty() {
            return Err(Error::new(ErrorKind::NotFound, READ, "the folder has no `samples_*.jsonl`")
                .with_fault(Fault::Operator)
                .with("path", path.display())
                .with_hint("run lm_eval with `--log_samples`"));
        }
    } else {
        files.push(path.to_owned());
    }
    files.sort();
    let (mut scores, mut tasks) = (Scores::default(), BTreeSet::new());
    for file in files {
        let task = only.map_or_else(|| task(&file), str::to_owned);
        if !tasks.insert(task.clone()) {
            return Err(Error::new(
                ErrorKind::ConfigInvalid,
                READ,
                format!("there are two runs of `{task}`"),
            )
            .with("path", path.display())
            .with_hint("give one of the files"));
        }
        let opened = BufReader::new(open_file(READ, &file)?);
        read_task(&task, opened, choice, &mut scores).map_err(|error| error.with("path", file.display()))?;
    }
    Ok(scores)
}

fn find(folder: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<()> {
    let failed = |error| Error::io(READ, folder, error);
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let (path, kind) = (entry.path(), entry.file_type().map_err(failed)?);
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if kind.is_file() && name.starts_with("samples_") && name.ends_with(".jsonl") {
            files.push(path);
        } else if kind.is_dir() && depth > 1 {
            find(&path, depth - 1, files)?;
        }
    }
    Ok(())
}

/// The task in `samples_TASK_2026-11-28T17-09-33.123456.jsonl`.
fn task(path: &Path) -> String {
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    let name = name.strip_prefix("samples_").unwrap_or(&name);
    match name.rsplit_once('_') {
        Some((task, time)) if time.starts_with(|first: char| first.is_ascii_digit()) => task.to_owned(),
        _ => name.to_owned(),
    }
}

fn read_task(task: &str, mut log: impl BufRead, choice: &Choice, scores: &mut Scores) -> Result<()> {
    let (mut number, mut bytes, mut lines) = (0_u64, Vec::new(), Vec::new());
    loop {
        number += 1;
        bytes.clear();
        let read = log.by_ref().take(MOST_BYTES).read_until(b'\n', &mut bytes);
        if read.map_err(|error| malformed(error.to_string()).with("line", number))? == 0 {
            break;
        }
        if bytes.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let mut line: Line = serde_json::from_slice(&finite(&bytes))
            .map_err(|error| malformed(error.to_string()).with("line", number))?;
        // Of what the model was asked and said nothing is kept.
        let Line { metrics, rest, .. } = &mut line;
        rest.retain(|name, _| metrics.contains(name));
        if choice.cluster.is_none() {
            line.doc = None;
        }
        lines.push(line);
    }
    if lines.is_empty() {
        return Err(malformed("the log has no documents").with_hint("run lm_eval again with `--log_samples`"));
    }
    let mut filters = BTreeSet::<&str>::new();
    let mut metrics = BTreeSet::<&str>::new();
    for line in &lines {
        filters.insert(line.filter.as_deref().unwrap_or("none"));
        metrics.extend(line.metrics.iter().map(String::as_str));
    }
    let filter = chosen("filter", choice.filter.as_deref(), filters.iter().copied())?;
    let metric = chosen("metric", choice.metric.as_deref(), metrics.iter().copied())?;
    for line in lines.iter().filter(|line| line.filter.as_deref().unwrap_or("none") == filter) {
        let document = match &line.doc_id {
            Value::String(id) => id.clone(),
            id => id.to_string(),
        };
        let item = format!("{task}/{document}");
        let cluster = cluster_name(line.doc.as_ref(), choice.cluster.as_deref(), &item)?;
        // Documents of different tasks are never one cluster by accident.
        let cluster = cluster.map(|cluster| format!("{task}/{cluster}"));
        let score = match line.rest.get(metric) {
            Some(Value::Number(number)) => number.as_f64(),
            Some(Value::Bool(right)) => Some(f64::from(u8::from(*right))),
            Some(Value::Null) | None => None,
            Some(_) => return Err(no_number(metric, line).with("item", item)),
        };
        scores.add(item, cluster, line.doc_hash.clone(), score)?;
    }
    Ok(())
}

/// That `line` has no number for `metric`, as of `mcc` and `word_perplexity`: each document has a list, of
/// which lm-evaluation-harness makes one number for all.
fn no_number(metric: &str, line: &Line) -> Error {
    let is_number = |value: &Value| value.is_number() || value.is_boolean();
    let numbers = line.rest.iter().filter(|(_, value)| is_number(value));
    let numbers: Vec<String> = numbers.map(|(name, _)| format!("`{name}`")).collect();
    Error::new(ErrorKind::ConfigInvalid, READ, format!("the metric `{metric}` is not a number per document"))
        .with_hint(if numbers.is_empty() {
            "this task has no metric that is: compare another task".to_owned()
        } else {
            format!("choose one that is: {}", numbers.join(", "))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = r#"{"doc_id": 0, "doc": {"q": "?", "subject": "law"}, "resps": [["x"]], "filter": "none", "metrics": ["acc", "acc_norm"], "doc_hash": "aa", "acc": 1.0, "acc_norm": 0.0}

{"doc_id": 1, "doc": {"q": "!", "subject": "law"}, "resps": [["y"]], "filter": "none", "metrics": ["acc", "acc_norm"], "doc_hash": "bb", "acc": 0.0, "acc_norm": 1.0}
"#;

    fn found(log: &str, choice: &Choice) -> Result<Scores> {
        let mut scores = Scores::default();
        read_task("mmlu", log.as_bytes(), choice, &mut scores).map(|()| scores)
    }

    #[test]
    fn a_metric_is_chosen_and_documents_are_named_by_task() {
        let choice = Choice { metric: Some("acc".into()), cluster: Some("subject".into()), filter: None };
        let scores = found(LOG, &choice).expect("a log");
        let item = &scores.items["mmlu/0"];
        assert_eq!((item.score(None), item.cluster.as_deref()), (Some(1.0), Some("mmlu/law")));
        assert_eq!(item.content.as_deref(), Some("aa"));
        let error = found(LOG, &Choice::default()).unwrap_err().to_string();
        assert!(error.contains("choose metric: `acc`, `acc_norm`"), "{error}");
        let error = found("{\"doc_id\": 1}\n[", &choice).unwrap_err().to_string();
        assert!(error.contains("line: 2"), "{error}");
        let error = found("", &Choice::default()).unwrap_err().to_string();
        assert!(error.contains("no documents"), "{error}");
        let unscored = found("{\"doc_id\": 1}", &choice).unwrap_err().to_string();
        assert!(unscored.contains("the log has no metric") && !unscored.contains("choose"), "{unscored}");
    }

    #[test]
    fn one_of_several_filters_is_chosen() {
        let log = LOG.replace("\"acc_norm\"], ", "\"acc\"], ").replacen("none", "strict", 1);
        let with = |filter: Option<&str>| {
            found(&log, &Choice { filter: filter.map(Into::into), metric: Some("acc".into()), cluster: None })
        };
        assert!(with(None).unwrap_err().to_string().contains("choose filter: `none`, `strict`"));
        assert_eq!(with(Some("strict")).expect("a log").len(), 1);
    }

    #[test]
    fn a_metric_without_a_number_per_document_is_named_and_so_are_the_others() {
        let with = |log: &str, metric: &str| {
            found(log, &Choice { metric: Some(metric.into()), ..Choice::default() })
        };
        let log = r#"{"doc_id": 0, "metrics": ["f1", "acc", "mcc", "exact_match"], "f1": [1, 0], "mcc": [1, 0], "acc": 1.0, "exact_match": true, "resps": "x"}"#;
        let error = with(log, "f1").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConfigInvalid);
        let error = error.to_string();
        assert!(error.contains("`f1` is not a number per document (item: mmlu/0)"), "{error}");
        assert!(error.contains("choose one that is: `acc`, `exact_match`"), "{error}");
        assert_eq!(with(log, "exact_match").expect("a score").items["mmlu/0"].score(None), Some(1.0));
        let log = r#"{"doc_id": 0, "metrics": ["word_perplexity"], "word_perplexity": [-3.5, 7]}"#;
        let error = with(log, "word_perplexity").unwrap_err().to_string();
        assert!(error.contains("compare another task"), "{error}");
        // What Python writes for a score that is no number is none.
        let log = r#"{"doc_id": 0, "metrics": ["acc"], "acc": NaN, "resps": [[["-Infinity", -Infinity]]]}"#;
        assert_eq!(with(log, "acc").expect("a log").items["mmlu/0"].score(None), None);
    }

    #[test]
    fn lines_of_two_tasks_in_one_file_are_no_tries() {
        let choice = Choice { metric: Some("acc".into()), ..Choice::default() };
        let twice = found(&[LOG, LOG].concat(), &choice).expect("the same documents again");
        assert_eq!(twice.items["mmlu/0"].count, 2);
        let other = LOG.replace("\"aa\"", "\"cc\"");
        let error = found(&[LOG, other.as_str()].concat(), &choice).unwrap_err().to_string();
        assert!(error.contains("another content") && error.contains("item: mmlu/0"), "{error}");
    }

    #[test]
    fn two_files_are_one_task_and_two_folders_are_what_they_hold() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = |name: &str| {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            fs::write(&path, LOG).expect("a file");
            path
        };
        let choice = Choice { metric: Some("acc".into()), ..Choice::default() };
        let paired = |first: &Path, second: &Path| {
            let [first, second] = read_pair(first, second, &choice).expect("logs");
            super::super::pair(&first, &second, super::super::Missing::Refuse, 0.0)
        };
        let (base, new) = (file("base.jsonl"), file("new.jsonl"));
        assert_eq!(paired(&base, &new).expect("one task").items[0].item, "base/0");
        let (one, other) = (file("one/samples_a_2026-11-28T17-09-33.1.jsonl"), file("other/samples_b.jsonl"));
        let folders = [&one, &other].map(|file| file.parent().expect("a folder"));
        let error = paired(folders[0], folders[1]).unwrap_err().to_string();
        assert!(error.contains("no item is in both"), "{error}");
    }

    #[test]
    fn the_task_is_in_the_name() {
        for (name, expected) in [
            ("samples_gsm8k_2026-11-28T17-09-33.123456.jsonl", "gsm8k"),
            ("samples_arc_easy_2026-11-28T17-09-33.1.jsonl", "arc_easy"),
            ("samples_arc_easy.jsonl", "arc_easy"),
            ("mine.jsonl", "mine"),
        ] {
            assert_eq!(task(Path::new(name)), expected);
        }
    }
}
