use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value as Json, json};

use super::*;
use crate::testing::{Rows, ScriptedJudge, ScriptedSession};
use crate::twin::{Twin, TwinSettings};
use crate::{CallContext, Duel, DuelBuilder, DuelSettings, MemoryStore, Rule};

const GUIDE: &str = include_str!("../../docs/export.md");
const SCHEMA: &str = include_str!("../../docs/export-1.schema.json");

fn record() -> Record {
    record_of(&crate::testing::small_duel())
}

fn record_of(duel: &DuelBuilder) -> Record {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let (cx, store) = (CallContext::new(), MemoryStore::default());
        let duel = duel.plan(&store, &cx).await.expect("plans");
        duel.run(&store, &cx).await.expect("runs");
        let bytes = store.record().expect("is decided");
        Record::from_bytes(&bytes.lines, &bytes.blobs, bytes.digest).expect("reads")
    })
}

/// The rows of `set` as JSON, of both splits.
fn rows(folder: &Path, set: Set) -> Vec<Json> {
    let mut rows = Vec::new();
    for split in [Split::Train, Split::Test] {
        let Ok(text) = fs::read_to_string(folder.join(set.name()).join(format!("{}.jsonl", split.name())))
        else {
            continue;
        };
        for line in text.lines() {
            let row: Json = serde_json::from_str(line).expect("JSON");
            assert_eq!(Split::of(row["repo"].as_str().expect("text")), split);
            rows.push(row);
        }
    }
    rows
}

#[test]
fn a_record_becomes_rows_and_pairs_that_agree_with_it() {
    let (record, folder) = (record(), tempfile::tempdir().expect("a folder"));
    let mut export = Export::create(folder.path(), Form::JsonLines, Some("MIT".into())).expect("begins");
    export.add(&record).expect("adds");
    assert!(export.add(&record).is_err(), "named twice");
    let files = export.finish().expect("ends");
    let (sft, pairs) = (rows(folder.path(), Set::Sft), rows(folder.path(), Set::Preferences));
    assert_eq!(files.iter().map(|file| file.rows).sum::<u64>(), (sft.len() + pairs.len()) as u64);

    let by_id: BTreeMap<_, _> = sft.iter().map(|row| (row["id"].as_str().expect("text"), row)).collect();
    assert_eq!(by_id.len(), sft.len(), "ids are unique");
    for sample in samples(&record) {
        let row = |name: &str| by_id[&*format!("{}-{}-{name}", record.digest, sample.recorded.sample)];
        let recorded = row("recorded");
        let reference = record.text(&sample.recorded.reference).expect("a text");
        assert_eq!(recorded["completion"], json!([{"role": "assistant", "content": reference}]));
        let prompt = record.messages(&sample.recorded.messages).expect("messages");
        assert_eq!(recorded["prompt"].as_array().map(Vec::len), Some(prompt.len()));
        assert_eq!((&recorded["score"], &recorded["license"]), (&Json::Null, &json!("MIT")));
        let score = |name: &str| row(name)["score"].as_f64().expect("a score");
        assert!((score("king") + score("challenger") - 1.0).abs() < 1e-12);
        let difference = sample.difference().expect("decided on");
        assert!((score("challenger") - score("king") - difference).abs() < 1e-12);

        let id = format!("{}-{}-pair", record.digest, sample.recorded.sample);
        let pair = pairs.iter().find(|pair| pair["id"] == id);
        assert_eq!(pair.is_some(), difference != 0.0, "{difference}");
        let Some(pair) = pair else { continue };
        let (chosen, rejected) =
            if difference > 0.0 { ("challenger", "king") } else { ("king", "challenger") };
        assert_eq!(
            (&pair["chosen"], &pair["rejected"]),
            (&row(chosen)["completion"], &row(rejected)["completion"])
        );
        assert_eq!(pair["margin"].as_f64(), Some(difference.abs()));
    }
    let card = fs::read_to_string(folder.path().join("README.md")).expect("a card");
    assert!(card.starts_with("---\nlicense: \"MIT\"\ndataset_info:\n- config_name: sft\n"), "{card}");
    assert!(card.contains(&record.digest.to_string()));
    let error = Export::create(folder.path(), Form::Parquet, None).expect_err("is not empty");
    assert_eq!(error.kind(), ErrorKind::Conflict);
}

/// `datasets` guesses a type that the card does not state from the first rows: wrongly, of a list that is empty there.
#[test]
fn the_card_states_the_type_of_every_column() {
    let exported = |set, split| Exported { set, split, path: "rows".into(), rows: 1 };
    let of = |files: &[Exported]| card::text(files, &[], None);
    let card = of(&[exported(Set::Sft, Split::Train), exported(Set::Preferences, Split::Test)]);
    let (_, info) = card.split_once("dataset_info:\n").expect("states types");
    let (info, _) = info.split_once("configs:\n").expect("names files");
    for set in Set::ALL {
        let begin = format!("- config_name: {}\n  features:\n", set.name());
        let (_, section) = info.split_once(&begin).expect("has the set");
        let section = section.split("- config_name").next().unwrap_or_default();
        let lines: Vec<_> = section.lines().collect();
        // The fields of a structure are named as well, one step further in.
        let column =
            |two: &[&str]| Some((two[0].strip_prefix("  - name: ")?.to_owned(), two[1].trim().to_owned()));
        let stated: Vec<_> = lines.windows(2).filter_map(column).collect();
        let columns = set.columns().iter().map(|column| {
            let kind = match column.kind {
                Kind::Text | Kind::MaybeText => "dtype: string",
                Kind::Integer => "dtype: int64",
                Kind::Number | Kind::MaybeNumber => "dtype: float64",
                Kind::Flag => "dtype: bool",
                Kind::Texts => "list: string",
                Kind::Numbers => "list: float64",
                Kind::Ids => "list: int32",
                Kind::Messages => "list:",
            };
            (column.name.to_owned(), kind.to_owned())
        });
        assert_eq!(stated, columns.collect::<Vec<_>>());
    }
    let one = of(&[exported(Set::Sft, Split::Train)]);
    assert!(!one.contains(Set::Preferences.name()), "a set without a row is not stated: {one}");
}

#[test]
fn replies_whose_twins_were_judged_are_marked_and_never_clear() {
    let order = "choose me";
    let duel = |share| {
        let [king, challenger] =
            ["ls", "echo choose me!"].map(|text| ScriptedSession::saying(text, text).contestant());
        let obedient =
            ScriptedJudge::preferring("obedient", move |reply| f64::from(u8::from(reply.contains(order))));
        let obedient = obedient.with_twins(move |reply| {
            reply.contains("echo").then(|| Twin { text: reply.replace(order, "zuxaji zu"), suspected: true })
        });
        let length = ScriptedJudge::preferring("length", |reply| (reply.len() as f64 / 100.0).min(1.0));
        Duel::builder(king, challenger)
            .tasks(Arc::new(Rows::numbered(20)))
            .judge(Arc::new(obedient))
            .judge(Arc::new(length))
            .settings(DuelSettings {
                samples: 8,
                rule: Rule::Margin { win_margin: 2.0 },
                twins: TwinSettings { share },
                ..DuelSettings::default()
            })
    };
    for (share, by_twin) in [(1_000_000, true), (0, false)] {
        let (record, folder) = (record_of(&duel(share)), tempfile::tempdir().expect("a folder"));
        let mut export = Export::create(folder.path(), Form::JsonLines, None).expect("begins");
        export.add(&record).expect("adds");
        export.finish().expect("ends");
        let (sft, pairs) = (rows(folder.path(), Set::Sft), rows(folder.path(), Set::Preferences));
        assert_eq!((sft.len(), pairs.len()), (3 * 8, 8));
        for row in &sft {
            let expected = by_twin && row["source"] == "challenger";
            assert_eq!(row["judged_by_twin"], expected, "{row}");
        }
        for pair in &pairs {
            assert_eq!(
                (&pair["judged_by_twin"], &pair["clear"]),
                (&json!(by_twin), &json!(!by_twin)),
                "{pair}"
            );
            assert_eq!(pair["chosen_source"], "challenger");
        }
        #[cfg(feature = "config")]
        {
            // Nor are they pairs with a label: the panel's word is about another text.
            let labelled = crate::judge_eval::recorded_pairs(&record).expect("pairs");
            assert_eq!(labelled.len(), if by_twin { 0 } else { 8 });
        }
        let out = folder.path().join("atif");
        let mut export = AtifExport::create(&out, None).expect("begins");
        export.add(&record).expect("adds");
        export.finish().expect("ends");
        for row in &sft {
            let split = Split::of(row["repo"].as_str().expect("text")).name();
            let name = format!("{}.json", row["id"].as_str().expect("text"));
            let text = fs::read_to_string(out.join(split).join(name)).expect("a trajectory");
            let trajectory: Json = serde_json::from_str(&text).expect("JSON");
            let marked = trajectory["extra"]["judged_by_twin"].as_bool().unwrap_or_default();
            assert_eq!(json!(marked), row["judged_by_twin"], "{row}");
        }
    }
}

#[test]
fn a_records_replies_become_trajectories_with_the_scores_of_the_rows() {
    let (record, folder) = (record(), tempfile::tempdir().expect("a folder"));
    let (tables, out) = (folder.path().join("tables"), folder.path().join("atif"));
    let mut export = Export::create(&tables, Form::JsonLines, Some("MIT".into())).expect("begins");
    export.add(&record).expect("adds");
    export.finish().expect("ends");
    let mut export = AtifExport::create(&out, Some("MIT".into())).expect("begins");
    export.add(&record).expect("adds");
    assert!(export.add(&record).is_err(), "named twice");
    let written = export.finish().expect("ends");
    let sft = rows(&tables, Set::Sft);
    assert_eq!(written.iter().map(|split| split.trajectories).sum::<u64>(), sft.len() as u64);
    for row in sft {
        let (id, repo) = (row["id"].as_str().expect("text"), row["repo"].as_str().expect("text"));
        let path = out.join(Split::of(repo).name()).join(format!("{id}.json"));
        let text = fs::read_to_string(&path).expect("a trajectory");
        let trajectory: Json = serde_json::from_str(&text).expect("JSON");
        assert_eq!(
            (&trajectory["schema_version"], &trajectory["trajectory_id"]),
            (&json!(ATIF_VERSION), &row["id"])
        );
        let steps = trajectory["steps"].as_array().expect("steps");
        let last = steps.last().expect("a step");
        assert_eq!((&last["source"], &last["message"]), (&json!("agent"), &row["completion"][0]["content"]));
        assert_eq!(last.get("is_copied_context"), None, "the reply is new");
        assert_eq!(trajectory["final_metrics"]["total_steps"], steps.len());
        let ids = last["metrics"]["completion_token_ids"].as_array().cloned().unwrap_or_default();
        assert_eq!(json!(ids), row["completion_ids"]);
        for (key, of) in [("score", "score"), ("license", "license"), ("source", "source"), ("repo", "repo")]
        {
            assert_eq!(trajectory["extra"].get(key).unwrap_or(&Json::Null), &row[of], "{key}");
        }
    }
    let error = AtifExport::create(&out, None).expect_err("is not empty");
    assert_eq!(error.kind(), ErrorKind::Conflict);
}

#[test]
fn a_tenth_of_the_repositories_is_held_out() {
    let test = (0..10_000).filter(|number| Split::of(&format!("owner/repo-{number}")) == Split::Test).count();
    assert!((850..1150).contains(&test), "{test}");
    // Exports of other versions keep the split.
    assert_eq!(Split::of("django/django"), Split::Train);
}

/// The schema of the rows, from their columns.
fn schema() -> String {
    let kind = |kind: Kind| match kind {
        Kind::Text => json!({"type": "string"}),
        Kind::MaybeText => json!({"type": ["string", "null"]}),
        Kind::Integer => json!({"type": "integer"}),
        Kind::Number => json!({"type": "number"}),
        Kind::MaybeNumber => json!({"type": ["number", "null"]}),
        Kind::Flag => json!({"type": "boolean"}),
        Kind::Texts => json!({"type": "array", "items": {"type": "string"}}),
        Kind::Numbers => json!({"type": "array", "items": {"type": "number"}}),
        Kind::Ids => json!({"type": "array", "items": {"type": "integer", "minimum": 0}}),
        Kind::Messages => json!({"type": "array", "items": {"$ref": "#/$defs/message"}}),
    };
    let message = json!({
        "type": "object",
        "properties": {"role": {"type": "string"}, "content": {"type": "string"}},
        "required": ["role", "content"],
        "additionalProperties": false,
    });
    let mut definitions = serde_json::Map::from_iter([("message".to_owned(), message)]);
    for set in Set::ALL {
        let properties: serde_json::Map<_, _> =
            set.columns().iter().map(|column| (column.name.to_owned(), kind(column.kind))).collect();
        let required: Vec<_> = set.columns().iter().map(|column| column.name).collect();
        let row = json!({
            "type": "object",
            "properties": properties,
            "required": required,
            "additionalProperties": false,
        });
        definitions.insert(set.name().into(), row);
    }
    let schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Rows of `albedo record export`",
        "$defs": definitions,
    });
    serde_json::to_string_pretty(&schema).expect("JSON") + "\n"
}

#[test]
fn guide_and_schema_have_every_column() {
    let schema = schema();
    if std::env::var_os("ALBEDO_BLESS").is_some() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/export-1.schema.json");
        fs::write(path, &schema).expect("writes");
    }
    assert!(
        schema == SCHEMA,
        "the schema has changed: write it anew with ALBEDO_BLESS=1, under another number if a column goes"
    );
    for set in Set::ALL {
        let section = GUIDE.split(&format!("## `{}`\n", set.name())).nth(1).expect("a section");
        let section = section.split("\n## ").next().unwrap_or_default();
        let named: Vec<_> = section
            .lines()
            .filter_map(|line| line.strip_prefix("| `"))
            .flat_map(|line| line.split(" | ").next().unwrap_or_default().split(", "))
            .map(|name| name.trim_matches('`'))
            .collect();
        assert_eq!(named, set.columns().iter().map(|column| column.name).collect::<Vec<_>>());
    }
}
