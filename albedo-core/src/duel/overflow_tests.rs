//! Models whose own arithmetic overflows, and machines whose does.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, Ordering};

use super::scripted::*;
use super::*;
use crate::backend::{ModelBackend, ModelSource};
use crate::error::Fault;
use crate::error::{Artefact, Reach};
use crate::events::{Collected, Event};
use crate::model_ref::ModelRef;
use crate::panel::Cell;
use crate::record::{MemoryStore, Record, RecordedReply, VerifyOptions, verify_record};
use crate::testing::ScriptedBackend;
use crate::verdict::{Forfeit, Overflows};

async fn duel_of(king: &Loads, challenger: &Loads, judge: &Arc<Asked>) -> Duel {
    let (king, challenger) =
        (king.contestant(Side::King).await, challenger.contestant(Side::Challenger).await);
    planned(&settings(), king, challenger, vec![Arc::<Asked>::clone(judge)]).expect("plans")
}

async fn verified(store: &MemoryStore) -> Record {
    let record = store.record().expect("published");
    let record = Record::from_bytes(&record.lines, &record.blobs, record.digest).expect("reads");
    verify_record(&record, &VerifyOptions::default(), &CallContext::new()).await.expect("verifies");
    record
}

const EVERY_THIRD: [u32; 3] = [0, 3, 6];

#[tokio::test]
async fn a_challenger_that_overflows_on_every_third_prompt_forfeits() {
    let (king, challenger) = (Loads::new("plain", vec![]), Loads::new("better", vec![seeds(EVERY_THIRD)]));
    let judge = Asked::new("fair", fair);
    let seen = Arc::new(Collected::default());
    let duel = duel_of(&king, &challenger, &judge).await;
    let store = MemoryStore::default();
    let report = duel.run(&store, &CallContext::new().with_events(seen.clone())).await.expect("ends");
    assert_eq!(report.verdict.outcome, Outcome::Forfeit(Forfeit::Overflow));
    assert_eq!(report.verdict.overflows, Overflows { king: 0, challenger: 3 });
    assert_eq!(report.verdict.missing, 0, "a lost sample is not a missing one");
    // A quarter for each of five samples, minus one for each of three.
    assert_eq!(report.verdict.margin, 100.0 * (5.0 * 0.25 - 3.0) / 8.0);
    assert_eq!(judge.calls.load(Ordering::Relaxed), 10, "nobody judges a lost sample");
    assert_eq!(challenger.times(), 4, "each is confirmed by a fresh load");
    assert_eq!(king.times(), 1);
    let alert = |event: Event| match event.kind {
        EventKind::Journal(JournalEvent::Overflowed { sample, side, repeated, .. }) => {
            Some((sample, side, repeated))
        }
        _ => None,
    };
    let mut alerts: Vec<_> = seen.events().into_iter().filter_map(alert).collect();
    alerts.sort_unstable();
    assert_eq!(alerts, EVERY_THIRD.map(|sample| (sample, Side::Challenger, true)));

    let record = verified(&store).await;
    for sample in record.samples() {
        let lost = EVERY_THIRD.contains(&sample.sample);
        assert!(!sample.replies[0].overflowed());
        let seed = duel.plan.request_seed(sample.sample, Side::Challenger);
        assert_eq!(sample.replies[1] == &RecordedReply::Overflowed(overflow(seed)), lost);
    }
}

#[tokio::test]
async fn a_king_that_overflows_only_loses_those_samples() {
    let (king, challenger) = (Loads::new("plain", vec![seeds(EVERY_THIRD)]), Loads::new("plain", vec![]));
    let duel = duel_of(&king, &challenger, &Asked::new("fair", fair)).await;
    let (report, store) = run(&duel).await;
    assert_eq!(report.verdict.margin, 100.0 * 3.0 / 8.0);
    assert_eq!(report.verdict.overflows, Overflows { king: 3, challenger: 0 });
    assert_eq!(report.verdict.outcome, Outcome::Dethroned, "it is not protected by it");
    verified(&store).await;
    let alerts = store
        .journal()
        .into_iter()
        .filter(|event| matches!(event, JournalEvent::Overflowed { side: Side::King, repeated: true, .. }));
    assert_eq!(alerts.count(), 3);
}

#[tokio::test]
async fn exchanging_the_sides_mirrors_lost_samples_too() {
    let judge = Asked::new("fair", fair);
    let models = || {
        let (one, two) = (seeds([0, 1, 2]), seeds([2, 5]));
        (Loads::new("plain", vec![one]), Loads::new("better", vec![two]))
    };
    let (one, two) = models();
    let here = run(&duel_of(&one, &two, &judge).await).await;
    let (one, two) = models();
    let there = run(&duel_of(&two, &one, &judge).await).await;
    let differences = async |store: &MemoryStore| -> Vec<f64> {
        let record = verified(store).await;
        let clusters = record.lines.iter().filter_map(|line| match line {
            RecordLine::Cluster(cluster) => Some(cluster.difference),
            _ => None,
        });
        clusters.collect()
    };
    let (here, there) = (differences(&here.1).await, differences(&there.1).await);
    assert_eq!(here[..3], [1.0, 1.0, 0.0]);
    assert_eq!(here[5], -1.0);
    assert_eq!(here, there.iter().map(|difference| -difference).collect::<Vec<_>>());
}

#[tokio::test]
async fn every_judges_cell_of_a_lost_sample_is_lost() {
    let (king, challenger) = (Loads::new("plain", vec![]), Loads::new("better", vec![seeds([4])]));
    let (king, challenger) =
        (king.contestant(Side::King).await, challenger.contestant(Side::Challenger).await);
    let judges: Vec<Arc<dyn Judge>> = vec![Asked::new("fair", fair), Asked::new("first", always_first)];
    let mut duel = planned(&settings(), king, challenger, judges).expect("plans");
    duel.plan.panel.max_missing = 0.0;
    let (_, store) = run(&duel).await;
    let record = store.record().expect("published");
    let record = Record::from_bytes(&record.lines, &record.blobs, record.digest).expect("reads");
    let cluster = record.lines.iter().find_map(|line| match line {
        RecordLine::Cluster(cluster) if cluster.sample == 4 => Some(cluster),
        _ => None,
    });
    let cluster = cluster.expect("decided");
    assert_eq!(cluster.difference, -1.0);
    assert_eq!(cluster.cells.iter().map(Cell::difference).collect::<Vec<_>>(), [-1.0, -1.0]);
}

#[tokio::test]
async fn what_does_not_happen_again_is_our_failure() {
    let plain = || Loads::new("plain", vec![]);
    let judge = Asked::new("fair", fair);
    let undisturbed = run(&duel_of(&plain(), &Loads::new("better", vec![]), &judge).await).await.0;
    let flaky = Loads::new("better", vec![seeds(EVERY_THIRD), BTreeSet::new()]);
    let duel = duel_of(&plain(), &flaky, &judge).await;
    let (report, store) = run(&duel).await;
    assert_eq!(report, undisturbed, "the reply of the model that was loaded afresh counts");
    let alerts: Vec<_> = store
        .journal()
        .into_iter()
        .filter(|event| matches!(event, JournalEvent::Overflowed { .. }))
        .collect();
    assert!(!alerts.is_empty());
    for alert in alerts {
        assert!(matches!(alert, JournalEvent::Overflowed { repeated: false, .. }), "{alert:?}");
    }
}

#[tokio::test]
async fn a_model_that_cannot_be_loaded_afresh_is_charged_with_nothing() {
    let challenger = Scripted::new("better");
    *challenger.failures.lock().expect("unpoisoned") = seeds(EVERY_THIRD)
        .into_iter()
        .map(|seed| (seed, vec![Error::overflowed("generate a reply", overflow(seed)); 9]))
        .collect();
    let duel = duel(Scripted::new("plain"), challenger, vec![Asked::new("fair", fair)]);
    let (report, store) = run(&duel).await;
    assert!(matches!(report.verdict.outcome, Outcome::Void(_)), "{:?}", report.verdict.outcome);
    assert_eq!((report.verdict.missing, report.verdict.overflows), (3, Overflows::default()));
    let failed = store.journal().into_iter().find_map(|event| match event {
        JournalEvent::Failed { kind, fault, .. } => Some((kind, fault)),
        _ => None,
    });
    assert_eq!(failed, Some((ErrorKind::Overflow, Fault::Infrastructure)));
}

#[tokio::test]
async fn an_overflow_is_in_the_journal_and_is_not_asked_for_again() {
    let judge = Asked::new("fair", fair);
    let (king, challenger) = (Loads::new("plain", vec![]), Loads::new("better", vec![seeds(EVERY_THIRD)]));
    let (report, store) = run(&duel_of(&king, &challenger, &judge).await).await;
    let resumed = MemoryStore::default();
    for event in store.journal() {
        let texts = match &event {
            JournalEvent::Ended { .. } => continue,
            JournalEvent::Replied { text, .. } => vec![store.text(text).await.expect("is there")],
            _ => vec![],
        };
        resumed.append(event, texts).await.expect("appends");
    }
    let silent = Loads::new("better", vec![seeds(0..8)]);
    let again = duel_of(&Loads::new("plain", vec![seeds(0..8)]), &silent, &judge).await;
    let again = again.run(&resumed, &CallContext::new()).await.expect("goes on");
    assert_eq!(again, report);
    assert_eq!(silent.times(), 1, "nothing was confirmed again");
}

#[tokio::test]
async fn a_model_whose_files_were_exchanged_ends_the_duel_and_charges_nobody() {
    // Once it is loaded again, another file's model answers.
    let loads = AtomicU32::new(0);
    let backend = ScriptedBackend::new("scripted", move |_| {
        let first = loads.fetch_add(1, Ordering::Relaxed) == 0;
        let model = Scripted::new(if first { "better" } else { "other" });
        if first {
            let error = |seed| (seed, vec![Error::overflowed("generate a reply", overflow(seed))]);
            *model.failures.lock().expect("unpoisoned") = seeds([0]).into_iter().map(error).collect();
        }
        Ok(model.session())
    });
    let backend: Arc<dyn ModelBackend> = Arc::new(backend);
    let (source, cx) = (ModelSource::served("better"), CallContext::new());
    let challenger = Contestant::load(Side::Challenger, &backend, &source, &cx).await.expect("loads");
    let king = Scripted::new("plain").contestant();
    let judges: Vec<Arc<dyn Judge>> = vec![Asked::new("fair", fair)];
    let duel = planned(&settings(), king, challenger, judges).expect("plans");
    let error = duel.run(&MemoryStore::default(), &cx).await.expect_err("exchanged");
    assert_eq!((error.kind(), error.fault()), (ErrorKind::DigestMismatch, Fault::Infrastructure));
    assert_eq!(error.reach(), Reach::Duel);
}

#[tokio::test]
async fn a_lost_gpu_ends_the_process_and_charges_nobody() {
    let lost = || {
        Error::new(ErrorKind::DeviceLost, "run the model on the GPU", "poisoned")
            .with_reach(Reach::Process)
            .with_retry(crate::error::Retry::Never)
    };
    let challenger = Scripted::new("better");
    let seed = seeds([2]).into_iter().collect::<Vec<_>>()[0];
    *challenger.failures.lock().expect("unpoisoned") = [(seed, vec![lost()])].into();
    let judge = Asked::new("fair", fair);
    let duel = duel(Scripted::new("plain"), challenger, vec![Arc::<Asked>::clone(&judge)]);
    let store = MemoryStore::default();
    let error = duel.run(&store, &CallContext::new()).await.expect_err("lost");
    let verdict = (error.kind(), error.fault(), error.reach());
    assert_eq!(verdict, (ErrorKind::DeviceLost, Fault::Infrastructure, Reach::Process));
    // A process that is started again goes on, and ends as if nothing had happened.
    let report = duel.run(&store, &CallContext::new()).await.expect("goes on");
    let undisturbed = super::scripted::duel(Scripted::new("plain"), Scripted::new("better"), vec![judge]);
    assert_eq!(report.record, run(&undisturbed).await.0.record);
}

#[tokio::test]
async fn a_load_charges_the_owner_of_the_file_and_nobody_else() {
    fn refused() -> Error {
        // A provider's 403.
        Error::new(ErrorKind::Unavailable, "load the model", "the server refuses the request")
            .with_fault(Fault::Infrastructure)
            .with_retry(crate::error::Retry::Never)
    }
    fn malformed() -> Error {
        Error::new(ErrorKind::DataInvalid, "load the model", "malformed")
    }
    fn model() -> Error {
        malformed().about(Artefact::Model)
    }
    fn text() -> Error {
        malformed().about(Artefact::Text)
    }
    let own = || ModelSource::served("model");
    let kings = || own().with_text_from(ModelRef::served("king"));
    for (error, source, side, fault) in [
        (refused as fn() -> Error, kings(), Side::Challenger, Fault::Infrastructure),
        (malformed, kings(), Side::Challenger, Fault::Infrastructure),
        (model, kings(), Side::Challenger, Fault::Contestant(Side::Challenger)),
        (model, kings(), Side::King, Fault::Contestant(Side::King)),
        (text, kings(), Side::Challenger, Fault::Contestant(Side::King)),
        (text, own(), Side::Challenger, Fault::Contestant(Side::Challenger)),
    ] {
        let backend: Arc<dyn ModelBackend> = Arc::new(ScriptedBackend::new("fails", move |_| Err(error())));
        let error = Contestant::load(side, &backend, &source, &CallContext::new()).await.expect_err("fails");
        assert_eq!(error.fault(), fault, "{error}");
        if let Fault::Contestant(charged) = fault {
            assert!(error.to_string().contains(&format!("side: {charged}")), "{error}");
        }
    }
}
