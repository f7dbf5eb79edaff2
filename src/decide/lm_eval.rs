//! Logs of lm-evaluation-harness: one JSON object per line and document.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};

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
        let task = task(&file);
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
        let mut line: Line = serde_json::from_slice(&bytes)
            .map_err(|error| malformed(error.to_string()).with("line", number))?;
        // Of what the model was asked and said nothing is kept.
        line.rest.retain(|_, value| value.is_number() || value.is_boolean() || value.is_null());
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
            _ => None,
        };
        scores.add(item, cluster, line.doc_hash.clone(), score);
    }
    Ok(())
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
        assert_eq!((item.score(None), item.cluster.as_str()), (Some(1.0), "mmlu/law"));
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
