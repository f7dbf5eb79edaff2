//! Logs of Inspect AI: a ZIP archive with the list of its samples in `summaries.json`.

use std::io::Read;
use std::path::Path;

use rawzip::{CompressionMethod, RECOMMENDED_BUFFER_SIZE, ZipArchive};
use serde::Deserialize;
use serde_json::Value;

use super::{Choice, READ, Scores, chosen, cluster_name, malformed};
use crate::files::open_file;
use crate::{Error, ErrorKind, Result};

/// The list of samples, which a log has once it is finished.
const SUMMARIES: &str = "summaries.json";

/// Most bytes of that list: 100,000 samples of 10 KB, far above real ones.
const MOST_BYTES: u64 = 1 << 30;

/// Characters of a sample's text that are compared. Inspect cuts long ones in the list.
const SHOWN: usize = 100;

/// One epoch of a sample. Its scores are empty where it failed.
#[derive(Deserialize)]
struct Summary {
    id: Value,
    /// A text or a conversation, whose messages have random ids.
    #[serde(default)]
    input: Value,
    #[serde(default)]
    metadata: Option<Value>,
    #[serde(default)]
    scores: Option<serde_json::Map<String, Value>>,
}

pub(super) fn read(path: &Path, choice: &Choice) -> Result<Scores> {
    let mut buffer = vec![0; RECOMMENDED_BUFFER_SIZE];
    let archive =
        ZipArchive::from_file(open_file(READ, path)?, &mut buffer).map_err(|error| not_inspects(&error))?;
    let mut entries = archive.entries(&mut buffer);
    let (place, method) = loop {
        let Some(entry) = entries.next_entry().map_err(|error| not_inspects(&error))? else {
            return Err(malformed(format!("the archive has no `{SUMMARIES}`"))
                .with_hint("give an `.eval` file of Inspect that is finished"));
        };
        if entry.file_path().as_ref() == SUMMARIES.as_bytes() {
            break (entry.wayfinder(), entry.compression_method());
        }
    };
    let entry = archive.get_entry(place).map_err(|error| not_inspects(&error))?;
    let compressed = entry.reader();
    let broken = |error: std::io::Error| malformed(error.to_string()).with("entry", SUMMARIES);
    let summaries: Box<dyn Read> = match method {
        CompressionMethod::STORE => Box::new(compressed),
        CompressionMethod::DEFLATE => Box::new(flate2::read::DeflateDecoder::new(compressed)),
        CompressionMethod::ZSTD => Box::new(zstd::Decoder::new(compressed).map_err(broken)?),
        other => {
            return Err(malformed(format!(
                "`{SUMMARIES}` is compressed in a way that is not known: {other:?}"
            )));
        }
    };
    let mut bytes = Vec::new();
    entry.verifying_reader(summaries).take(MOST_BYTES + 1).read_to_end(&mut bytes).map_err(broken)?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err(malformed(format!("the list of samples is longer than {MOST_BYTES} bytes")));
    }
    scores(&bytes, choice)
}

fn not_inspects(error: &rawzip::Error) -> Error {
    malformed(error.to_string()).with_hint("give an `.eval` file of Inspect that is finished")
}

fn scores(summaries: &[u8], choice: &Choice) -> Result<Scores> {
    let summaries: Vec<Summary> = serde_json::from_slice(summaries)
        .map_err(|error| malformed(error.to_string()).with("entry", SUMMARIES))?;
    let scored = || summaries.iter().filter_map(|summary| summary.scores.as_ref());
    let (wanted, key) = match choice.metric.as_deref().and_then(|metric| metric.split_once('/')) {
        // A scorer's name may itself have a stroke.
        Some((scorer, key)) if !scored().any(|scores| scores.contains_key(&format!("{scorer}/{key}"))) => {
            (Some(scorer), Some(key))
        }
        _ => (choice.metric.as_deref(), None),
    };
    let mut scorers: Vec<&str> = scored().flat_map(serde_json::Map::keys).map(String::as_str).collect();
    scorers.sort_unstable();
    scorers.dedup();
    let scorer = chosen("scorer", wanted, scorers)?;
    let mut found = Scores::default();
    for Summary { id, input, metadata, scores } in &summaries {
        let item = match id {
            Value::String(id) => id.clone(),
            id => id.to_string(),
        };
        let cluster = cluster_name(metadata.as_ref(), choice.cluster.as_deref(), &item)?;
        let score = match scores.as_ref().and_then(|scores| scores.get(scorer)) {
            None => None,
            Some(score) => number(score.get("value").unwrap_or(&Value::Null), key)
                .map_err(|error| error.with("sample", &item).with("scorer", scorer))?,
        };
        found.add(item, cluster, input.as_str().map(beginning), score);
    }
    Ok(found)
}

/// The beginning of a sample's text. Ids are numbers where the data has none, and then the
/// samples of any two tasks have the same ones.
fn beginning(input: &str) -> String {
    input.chars().take(SHOWN).collect()
}

/// A score as Inspect's own `value_to_float` reads it: letters, booleans and numbers. None
/// for no score: a null, or a number that is none.
fn number(value: &Value, key: Option<&str>) -> Result<Option<f64>> {
    let value = match (value, key) {
        (Value::Object(values), Some(key)) => {
            chosen("key of the scorer", Some(key), values.keys().map(String::as_str))
                .map(|key| &values[key])?
        }
        (Value::Object(values), None) => {
            let names: Vec<_> = values.keys().map(|name| format!("`{name}`")).collect();
            return Err(Error::new(ErrorKind::ConfigInvalid, READ, "the scorer gives several numbers")
                .with_hint(format!("choose one as `SCORER/KEY`: {}", names.join(", "))));
        }
        (value, _) => value,
    };
    Ok(match value {
        Value::Null => None,
        Value::Bool(right) => Some(f64::from(u8::from(*right))),
        Value::Number(number) => number.as_f64(),
        Value::String(text) => match text.trim() {
            "C" => Some(1.0),
            "P" => Some(0.5),
            "I" | "N" => Some(0.0),
            text if text.eq_ignore_ascii_case("yes") || text.eq_ignore_ascii_case("true") => Some(1.0),
            text if text.eq_ignore_ascii_case("no") || text.eq_ignore_ascii_case("false") => Some(0.0),
            text => match text.parse::<f64>() {
                Ok(number) if number.is_finite() => Some(number),
                _ => return Err(malformed(format!("the score `{text}` is no number"))),
            },
        },
        _ => return Err(malformed("the score is a list")),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn found(summaries: &Value, choice: &Choice) -> Result<Scores> {
        scores(summaries.to_string().as_bytes(), choice)
    }

    #[test]
    fn epochs_are_means_and_failures_have_no_score() {
        let log = json!([
            {"id": 1, "epoch": 1, "metadata": {"text": "a"}, "scores": {"match": {"value": "C"}}},
            {"id": 1, "epoch": 2, "metadata": {"text": "a"}, "scores": {"match": {"value": "I"}}},
            {"id": "q", "epoch": 1, "metadata": {"text": 7}, "scores": {}, "error": "it broke"},
        ]);
        let scores =
            found(&log, &Choice { cluster: Some("text".into()), ..Choice::default() }).expect("a log");
        let item = |name: &str| scores.items[name].clone();
        assert_eq!((item("1").score(None), item("1").cluster.as_str()), (Some(0.5), "a"));
        assert_eq!((item("q").score(None), item("q").score(Some(0.0))), (None, Some(0.0)));
        assert_eq!(item("q").cluster, "7");
        let error = found(&log, &Choice { cluster: Some("page".into()), ..Choice::default() }).unwrap_err();
        assert!(error.to_string().contains("no `page`"), "{error}");
    }

    #[test]
    fn samples_of_two_tasks_are_not_paired_by_their_numbers() {
        let log = |input: Value| {
            let log = json!([{"id": 1, "input": input, "scores": {"match": {"value": "C"}}}]);
            found(&log, &Choice::default()).expect("a log")
        };
        let paired = |one: Value, other: Value| {
            super::super::pair(&log(one), &log(other), super::super::Missing::Refuse, 0.0)
        };
        assert!(paired(json!("2 + 2?"), json!("2 + 2?")).is_ok());
        let long = "x".repeat(SHOWN);
        assert!(paired(json!(long), json!(format!("{long}…"))).is_ok(), "a text that was cut");
        let error = paired(json!("2 + 2?"), json!("Who wrote it?")).unwrap_err().to_string();
        assert!(error.contains("another content"), "{error}");
        let chat = |id: &str| json!([{"id": id, "role": "user", "content": "2 + 2?"}]);
        assert!(paired(chat("a"), chat("b")).is_ok(), "ids of messages differ in every run");
    }

    #[test]
    fn one_of_several_scorers_is_chosen() {
        let log = json!([{"id": 1, "scores": {"match": {"value": true}, "grade": {"value": {"style": 0.25, "truth": 1}}}}]);
        let with = |metric: &str| found(&log, &Choice { metric: Some(metric.into()), ..Choice::default() });
        assert_eq!(with("match").expect("a score").items["1"].score(None), Some(1.0));
        assert_eq!(with("grade/style").expect("a score").items["1"].score(None), Some(0.25));
        for (metric, words) in
            [("grade", "`SCORER/KEY`: `style`, `truth`"), ("grade/wit", "no key"), ("rhyme", "no scorer")]
        {
            let error = with(metric).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
        let error = found(&log, &Choice::default()).unwrap_err().to_string();
        assert!(error.contains("choose scorer: `grade`, `match`"), "{error}");
    }

    #[test]
    fn scores_are_read_as_inspect_reads_them() {
        for (value, score) in [
            (json!("C"), Some(1.0)),
            (json!("P"), Some(0.5)),
            (json!("N"), Some(0.0)),
            (json!("Yes"), Some(1.0)),
            (json!("false"), Some(0.0)),
            (json!("0.75"), Some(0.75)),
            (json!(3), Some(3.0)),
            (json!(null), None),
        ] {
            assert_eq!(number(&value, None).expect("a score"), score, "{value}");
        }
        for value in [json!("maybe"), json!([1]), json!("NaN")] {
            assert!(number(&value, None).is_err(), "{value}");
        }
    }
}
