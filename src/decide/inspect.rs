//! Logs of Inspect AI: a ZIP archive with the list of its samples in `summaries.json`, and what
//! was planned in `header.json`.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use rawzip::{CompressionMethod, FileReader, RECOMMENDED_BUFFER_SIZE, ZipArchive, ZipArchiveEntryWayfinder};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::json::finite;
use super::{Choice, READ, Scores, chosen, cluster_name, malformed};
use crate::files::open_file;
use crate::{Error, ErrorKind, Fault, Result};

/// The list of samples, which a log has once it is finished.
const SUMMARIES: &str = "summaries.json";

/// How the run ended, and what it was to be.
const HEADER: &str = "header.json";

/// The status of a run that reached its end.
const SUCCESS: &str = "success";

/// Most bytes of either: 100,000 samples of 10 KB, far above real ones.
const MOST_BYTES: u64 = 1 << 30;

/// Characters of a text that are compared. Inspect cuts long ones in the list.
const SHOWN: usize = 100;

/// One epoch of a sample. Its scores are empty where it failed.
#[derive(Deserialize)]
struct Summary {
    id: Value,
    #[serde(default)]
    epoch: Option<u32>,
    /// A text or a conversation, whose messages have random ids.
    #[serde(default)]
    input: Value,
    #[serde(default)]
    metadata: Option<Value>,
    #[serde(default)]
    scores: Option<serde_json::Map<String, Value>>,
}

#[derive(Default, Deserialize)]
struct Header {
    #[serde(default)]
    status: Option<String>,
    #[serde(default)]
    eval: Evaluation,
}

#[derive(Default, Deserialize)]
struct Evaluation {
    #[serde(default)]
    dataset: Dataset,
    #[serde(default)]
    config: Settings,
}

#[derive(Default, Deserialize)]
struct Dataset {
    /// Of the samples that were to be run, within the limit.
    #[serde(default)]
    sample_ids: Option<Vec<Value>>,
}

#[derive(Default, Deserialize)]
struct Settings {
    #[serde(default)]
    epochs: Option<u32>,
}

/// Where an entry of the archive is, and how it is compressed.
type Place = (ZipArchiveEntryWayfinder, CompressionMethod);

pub(super) fn read(path: &Path, choice: &Choice) -> Result<Scores> {
    let mut buffer = vec![0; RECOMMENDED_BUFFER_SIZE];
    let archive =
        ZipArchive::from_file(open_file(READ, path)?, &mut buffer).map_err(|error| not_inspects(&error))?;
    let mut entries = archive.entries(&mut buffer);
    let (mut summaries, mut header) = (None, None);
    // Of entries of one name the last one counts, as for Inspect.
    while let Some(entry) = entries.next_entry().map_err(|error| not_inspects(&error))? {
        let name = entry.file_path();
        let name: &[u8] = name.as_ref();
        let place: Place = (entry.wayfinder(), entry.compression_method());
        if name == SUMMARIES.as_bytes() {
            summaries = Some(place);
        } else if name == HEADER.as_bytes() {
            header = Some(place);
        }
    }
    let Some(summaries) = summaries else {
        return Err(malformed(format!("the archive has no `{SUMMARIES}`"))
            .with_hint("give an `.eval` file of Inspect that is finished"));
    };
    let summaries = document(&archive, summaries, SUMMARIES)?;
    let header = header.map(|place| document(&archive, place, HEADER)).transpose()?;
    scores(summaries, header.unwrap_or_default(), choice)
}

/// The JSON document at `place`, whose numbers can be those that JSON does not have.
fn document<T: DeserializeOwned>(
    archive: &ZipArchive<FileReader>,
    (place, method): Place,
    name: &'static str,
) -> Result<T> {
    let entry = archive.get_entry(place).map_err(|error| not_inspects(&error))?;
    let compressed = entry.reader();
    let broken = |error: std::io::Error| malformed(error.to_string()).with("entry", name);
    let plain: Box<dyn Read> = match method {
        CompressionMethod::STORE => Box::new(compressed),
        CompressionMethod::DEFLATE => Box::new(flate2::read::DeflateDecoder::new(compressed)),
        CompressionMethod::ZSTD => Box::new(zstd::Decoder::new(compressed).map_err(broken)?),
        other => {
            return Err(malformed(format!("`{name}` is compressed in a way that is not known: {other:?}")));
        }
    };
    let mut bytes = Vec::new();
    entry.verifying_reader(plain).take(MOST_BYTES + 1).read_to_end(&mut bytes).map_err(broken)?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err(malformed(format!("`{name}` is longer than {MOST_BYTES} bytes")));
    }
    serde_json::from_slice(&finite(&bytes)).map_err(|error| malformed(error.to_string()).with("entry", name))
}

fn not_inspects(error: &rawzip::Error) -> Error {
    malformed(error.to_string()).with_hint("give an `.eval` file of Inspect that is finished")
}

/// What `summaries` say of what `header` planned.
fn scores(summaries: Vec<Summary>, header: Header, choice: &Choice) -> Result<Scores> {
    // A sample that was run again is there twice: the later one counts.
    let summaries: BTreeMap<(String, Option<u32>), Summary> =
        summaries.into_iter().map(|summary| ((name(&summary.id), summary.epoch), summary)).collect();
    let scored = || summaries.values().filter_map(|summary| summary.scores.as_ref());
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
    for ((item, _), Summary { input, metadata, scores, .. }) in &summaries {
        let cluster = cluster_name(metadata.as_ref(), choice.cluster.as_deref(), item)?;
        let score = match scores.as_ref().and_then(|scores| scores.get(scorer)) {
            None => None,
            Some(score) => number(score.get("value").unwrap_or(&Value::Null), key)
                .map_err(|error| error.with("sample", item).with("scorer", scorer))?,
        };
        found.add(item.clone(), cluster, text(input), score)?;
    }
    let Header { status, eval: Evaluation { dataset, config } } = header;
    match (dataset.sample_ids, status) {
        // An epoch that never began is in no list.
        (Some(planned), _) => {
            for id in planned {
                found.planned(name(&id), config.epochs.unwrap_or(1));
            }
        }
        (None, Some(status)) if status != SUCCESS => {
            return Err(malformed(
                "the run did not reach its end, and its log does not say what was planned",
            )
            .with_fault(Fault::Operator)
            .with("status", status)
            .with_hint("run it again, or end it with `inspect eval-retry`"));
        }
        (None, _) => {}
    }
    Ok(found)
}

/// A sample's name.
fn name(id: &Value) -> String {
    match id {
        Value::String(id) => id.clone(),
        id => id.to_string(),
    }
}

/// The beginning of a sample's text, or of each text of its conversation. Ids are numbers where
/// the data has none, and then the samples of any two tasks have the same ones.
fn text(input: &Value) -> Option<String> {
    let beginning = |text: &str| text.chars().take(SHOWN).collect::<String>();
    let parts = |content: &Value| match content {
        Value::String(text) => beginning(text),
        Value::Array(parts) => {
            let texts = parts.iter().filter_map(|part| part.get("text")?.as_str());
            texts.map(beginning).collect::<Vec<_>>().join("\n")
        }
        _ => String::new(),
    };
    match input {
        Value::String(text) => Some(beginning(text)),
        Value::Array(messages) => {
            let texts = messages.iter().filter_map(|message| message.get("content")).map(parts);
            Some(texts.collect::<Vec<_>>().join("\n")).filter(|text| !text.trim().is_empty())
        }
        _ => None,
    }
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
        planned(summaries, json!({}), choice)
    }

    fn planned(summaries: &Value, header: Value, choice: &Choice) -> Result<Scores> {
        let summaries = Vec::<Summary>::deserialize(summaries).expect("summaries");
        scores(summaries, serde_json::from_value(header).expect("a header"), choice)
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
        assert_eq!((item("1").score(None), item("1").cluster.as_deref()), (Some(0.5), Some("a")));
        assert_eq!((item("q").score(None), item("q").score(Some(0.0))), (None, Some(0.0)));
        assert_eq!(item("q").cluster.as_deref(), Some("7"));
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
        let chat = |id: &str, text: &str| json!([{"id": id, "role": "system", "content": long}, {"id": id, "role": "user", "content": text}]);
        assert!(
            paired(chat("a", "2 + 2?"), chat("b", "2 + 2?")).is_ok(),
            "ids of messages differ in every run"
        );
        let error = paired(chat("a", "2 + 2?"), chat("a", "Who wrote it?")).unwrap_err().to_string();
        assert!(error.contains("another content"), "{error}");
        let parts = |text: &str| json!([{"role": "user", "content": [{"type": "text", "text": text}, {"type": "image"}]}]);
        assert!(paired(parts("2 + 2?"), parts("2 + 2?")).is_ok());
        let error = paired(parts("2 + 2?"), parts("Who wrote it?")).unwrap_err().to_string();
        assert!(error.contains("another content"), "{error}");
        let unlike = json!([{"id": 1, "input": "a", "scores": {"match": {"value": "C"}}, "epoch": 1},
            {"id": 1, "input": "b", "scores": {"match": {"value": "C"}}, "epoch": 2}]);
        let error = found(&unlike, &Choice::default()).unwrap_err().to_string();
        assert!(error.contains("two items of one log"), "{error}");
    }

    #[test]
    fn epochs_that_never_began_are_failures_and_samples_that_were_run_again_count_once() {
        let row = |id: u32, epoch: u32, value: &str| json!({"id": id, "epoch": epoch, "scores": {"match": {"value": value}}});
        let log = json!([row(1, 1, "C"), row(2, 1, "I"), row(1, 2, "I"), row(1, 2, "C")]);
        let header = |ids: Value, status: &str| json!({"status": status, "eval": {"dataset": {"sample_ids": ids}, "config": {"epochs": 2}}});
        let scores = planned(&log, header(json!([1, 2, 3]), "error"), &Choice::default()).expect("a log");
        let counts: Vec<_> = scores
            .items
            .iter()
            .map(|(name, item)| (name.as_str(), item.sum, item.count, item.failed))
            .collect();
        assert_eq!(counts, [("1", 2.0, 2, 0), ("2", 0.0, 1, 1), ("3", 0.0, 0, 2)]);
        let error = planned(&log, header(Value::Null, "error"), &Choice::default()).unwrap_err().to_string();
        assert!(error.contains("status: error") && error.contains("eval-retry"), "{error}");
        let ended = planned(&log, header(Value::Null, "success"), &Choice::default()).expect("a log");
        assert_eq!(ended.len(), 2);
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
