use std::path::Path;

use super::*;
use crate::record::AnyRecord;

/// Version 1 of the schema, and examples of what a validator will write.
const SCHEMA: &str = include_str!("../../../docs/public-data-1.schema.json");
const STATUS: &str = include_str!("fixtures/status-1.json");
const RUNNING: &str = include_str!("fixtures/running-1.json");
const SUBMISSIONS: &str = include_str!("fixtures/submissions-1.json");

fn fixture(name: &str) -> AnyRecord {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("albedo-core/tests/fixtures").join(name);
    AnyRecord::open(&folder).expect("a record")
}

fn entry(record: &AnyRecord) -> IndexEntry {
    IndexEntry {
        record: record.digest(),
        decided_at: 1,
        outcome: PublicOutcome::KingHolds,
        reason: None,
        king: ModelName::default(),
        challenger: ModelName { parameters: Some(record.digest()), reference: None },
        submission: None,
        numbers: None,
        log_entry: None,
    }
}

#[test]
fn the_published_schema_is_this_one() {
    let schema = serde_json::to_string_pretty(&schema()).expect("JSON") + "\n";
    if std::env::var_os("ALBEDO_BLESS").is_some() {
        std::fs::write(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/public-data-1.schema.json"), &schema)
            .expect("writes");
    }
    assert!(
        schema == SCHEMA,
        "the schema has changed: a field that goes or means something else raises FORMAT; \
        otherwise write it anew with ALBEDO_BLESS=1"
    );
}

#[test]
fn examples_of_a_validators_data_are_read_and_written_back() {
    fn same<T: Serialize + serde::de::DeserializeOwned>(text: &str) -> T {
        let value: T = serde_json::from_str(text).expect("reads");
        let written = serde_json::to_value(&value).expect("writes");
        assert_eq!(written, serde_json::from_str::<Value>(text).expect("JSON"));
        value
    }
    let status: Status = same(STATUS);
    let reign = status.reign.expect("a reign");
    let budget = ErrorBudget::new(reign.alpha).expect("a budget");
    assert_eq!(
        Reign::new(reign.king.clone(), &budget, reign.attempts),
        reign,
        "its numbers are the budget's"
    );
    same::<Running>(RUNNING);
    let submissions: Submissions = same(SUBMISSIONS);
    for submission in submissions.submissions {
        assert!(!submission.reason.is_empty() && !submission.action.is_empty(), "{submission:?}");
    }
}

#[test]
fn a_page_shows_the_numbers_of_the_record_and_nothing_of_this_machine() {
    for name in ["record-1", "record-2", "record-3"] {
        let record = fixture(name);
        let AnyRecord::Duel(duel) = &record else { panic!("a duel") };
        let files = duel_files(&record, &entry(&record)).expect("files");
        let data = &files.data;
        assert_eq!(data.verdict, Some(serde_json::to_value(duel.verdict()).expect("JSON")));
        assert_eq!(data.plan, Some(serde_json::to_value(duel.plan()).expect("JSON")));
        assert_eq!(data.samples.len(), duel.verdict().samples as usize);
        let mean =
            data.samples.iter().map(|sample| sample.difference).sum::<f64>() / data.samples.len() as f64;
        assert!((mean - duel.verdict().margin).abs() < 1e-9, "{mean}");
        let flips: u32 = duel.verdict().judges.iter().map(|judge| judge.flips).sum();
        let cells = || data.samples.iter().flat_map(|sample| &sample.cells);
        assert_eq!(cells().filter(|cell| cell.flipped).count() as u32, flips);
        assert_eq!(cells().filter(|cell| cell.missing.is_some()).count() as u32, duel.verdict().missing);
        let cards: Vec<_> = files.pages.iter().flat_map(|page| &page.samples).collect();
        assert_eq!(cards.len(), data.samples.len());
        for card in cards {
            assert_eq!((card.replies.len(), card.judges.len()), (2, data.judges.len()));
            for judge in &card.judges {
                assert_eq!(judge.answers.len(), 2, "both orders");
            }
        }
        let trace = data.evidence.as_ref().expect("evidence");
        let last = trace.points.last().expect("a point");
        assert_eq!(last.samples, duel.verdict().samples);
        if let crate::decision::Evidence::Sequential(evidence) = &duel.verdict().decision.evidence {
            assert_eq!(last.log_e_value, Some(evidence.log_e_value));
            assert_eq!(last.futility_log_e_value, Some(evidence.futility_log_e_value));
            assert!(trace.futility_boundary.is_some());
        }
        let text = serde_json::to_string(&(data, &files.pages)).expect("JSON");
        assert!(!text.contains(env!("CARGO_MANIFEST_DIR")), "a path of this machine is published");
    }
    let forfeit = fixture("forfeit-3");
    let files = duel_files(&forfeit, &entry(&forfeit)).expect("files");
    assert!(files.data.admission.is_some() && files.pages.is_empty());
}

#[test]
fn records_alone_tell_the_reign() {
    let duel = |record: &str, outcome, attempt| IndexEntry {
        outcome,
        numbers: Some(DuelNumbers {
            samples: 8,
            planned: 8,
            margin: 1.0,
            interval: None,
            rule: "sequential".into(),
            alpha: ErrorBudget::new(0.05).expect("a budget").share(attempt),
            attempt: Some(attempt),
        }),
        record: Digest::of(record),
        ..entry(&fixture("record-3"))
    };
    assert_eq!(Status::from_records(&[], 1), None);
    let entries = [
        duel("a", PublicOutcome::KingHolds, 1),
        duel("b", PublicOutcome::Dethroned, 2),
        duel("c", PublicOutcome::KingHolds, 1),
    ];
    let status = Status::from_records(&entries, 7).expect("a status");
    assert_eq!((status.kings.len(), status.kings[0].record), (2, Some(Digest::of("b"))));
    let reign = status.reign.expect("a reign");
    assert_eq!((reign.attempts, reign.king.number), (1, 2));
    assert!((reign.alpha - 0.05).abs() < 1e-12 && (reign.spent - 2e-4).abs() < 1e-12, "{reign:?}");
    let status = Status::from_records(&entries[..2], 7).expect("a status");
    assert_eq!(status.reign.expect("a reign").attempts, 0, "nobody has tried the new king yet");
}
