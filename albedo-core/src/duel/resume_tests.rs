use std::fs;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::scripted::*;
use super::*;
use crate::error::Retry;
use crate::judge::{Assessment, Comparison};
use crate::plan::DuelSettings;
use crate::record::{FileStore, MemoryStore, RecordStore};
use crate::seed::Seed;
use crate::verdict::VoidReason;

/// A duel whose calls are counted.
struct Counted {
    duel: Duel,
    sessions: [Arc<AtomicU32>; 2],
    judge: Arc<Asked>,
}

impl Counted {
    fn new(answer: Answer) -> Self {
        let (king, challenger) = (Scripted::new("plain"), Scripted::new("better"));
        let sessions = [Arc::clone(&king.calls), Arc::clone(&challenger.calls)];
        let judge = Asked::new("fair", answer);
        let duel = duel(king, challenger, vec![Arc::<Asked>::clone(&judge)]);
        Self { duel, sessions, judge }
    }

    fn calls(&self) -> u32 {
        let replies: u32 = self.sessions.iter().map(|calls| calls.load(Ordering::Relaxed)).sum();
        replies + self.judge.calls.load(Ordering::Relaxed)
    }
}

/// Replies and assessments among the whole lines of a journal.
fn answers(journal: &[u8]) -> u32 {
    let whole = journal.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
    let lines = std::str::from_utf8(&journal[..whole]).expect("text").lines();
    lines
        .filter(|line| line.contains(r#""event":"replied""#) || line.contains(r#""event":"assessed""#))
        .count() as u32
}

/// The journal, its texts and the record's digest of an uninterrupted run.
async fn uninterrupted() -> (Vec<u8>, Vec<u8>, Vec<u8>) {
    let folder = tempfile::tempdir().expect("a folder");
    let store = FileStore::create(folder.path()).expect("creates");
    Counted::new(fair).duel.run(&store, &CallContext::new()).await.expect("runs");
    drop(store);
    let read = |name: &str| fs::read(folder.path().join(name)).expect("reads");
    (read("journal.jsonl"), read("journal.blobs"), read("record.digest"))
}

/// Resumes a journal and gives the calls that it took and the record's digest.
async fn resumed(journal: &[u8], blobs: &[u8]) -> (u32, Vec<u8>) {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("journal.jsonl"), journal).expect("writes");
    fs::write(folder.path().join("journal.blobs"), blobs).expect("writes");
    let counted = Counted::new(fair);
    let store = FileStore::resume(folder.path()).expect("resumes");
    counted.duel.run(&store, &CallContext::new()).await.expect("runs");
    drop(store);
    // A decided duel is not run again, so it does not write its record again.
    (counted.calls(), fs::read(folder.path().join("record.digest")).unwrap_or_default())
}

#[tokio::test]
async fn a_journal_cut_anywhere_goes_on_and_asks_nothing_twice() {
    let (journal, blobs, digest) = uninterrupted().await;
    let total = Counted::new(fair);
    total.duel.run(&MemoryStore::default(), &CallContext::new()).await.expect("runs");
    let ends = journal.iter().enumerate().filter(|&(_, &byte)| byte == b'\n').map(|(end, _)| end + 1);
    let cuts: Vec<_> = ends.chain((0..journal.len()).step_by(601)).collect();
    for cut in cuts.into_iter().filter(|&cut| cut < journal.len()) {
        let (calls, resumed) = resumed(&journal[..cut], &blobs).await;
        assert_eq!(resumed, digest, "cut at {cut}");
        assert_eq!(calls, total.calls() - answers(&journal[..cut]), "cut at {cut}");
    }
    assert_eq!(resumed(&journal, &blobs).await, (0, vec![]), "a decided duel is not run again");
}

#[tokio::test]
async fn texts_cut_anywhere_are_asked_for_again() {
    let (journal, blobs, digest) = uninterrupted().await;
    let ended = journal[..journal.len() - 1].iter().rposition(|&byte| byte == b'\n').expect("lines") + 1;
    for cut in (0..blobs.len()).step_by(97) {
        assert_eq!(resumed(&journal[..ended], &blobs[..cut]).await.1, digest, "cut at {cut}");
    }
}

#[tokio::test]
async fn a_void_duel_asks_only_for_what_is_missing() {
    /// Down, and once it is up, abstaining, and then answering.
    static STATE: AtomicU32 = AtomicU32::new(0);
    fn moody(comparison: &Comparison) -> Result<Assessment> {
        let down = || Error::new(ErrorKind::Unavailable, "ask the judge", "down");
        match STATE.load(Ordering::Relaxed) {
            0 => Err(down().with_retry(Retry::After(Duration::ZERO))),
            1 => Ok(Assessment::Abstained { reason: "busy".into() }),
            _ => fair(comparison),
        }
    }
    let store = MemoryStore::default();
    let counted = Counted::new(moody);
    // An abstention has the judge asked about neutral text.
    for (state, calls) in [(0, 8 + 8 + 2 * 16), (1, 16 + 8)] {
        STATE.store(state, Ordering::Relaxed);
        let before = counted.calls();
        let report = counted.duel.run(&store, &CallContext::new()).await.expect("runs");
        assert_eq!(report.verdict.outcome, Outcome::Void(VoidReason::TooManyMissing));
        assert_eq!(counted.calls() - before, calls);
    }
    STATE.store(2, Ordering::Relaxed);
    let before = counted.calls();
    let report = counted.duel.run(&store, &CallContext::new()).await.expect("runs");
    assert_eq!(counted.calls() - before, 16, "replies are kept");
    let (whole, _) = run(&Counted::new(fair).duel).await;
    assert_eq!(report.verdict, whole.verdict);
    let record = store.record().expect("published");
    let lines = String::from_utf8(record.lines).expect("text");
    assert_eq!(lines.matches(r#""asked":2"#).count(), 16, "the abstentions were answers too");
}

#[tokio::test]
async fn an_abstention_of_an_interrupted_duel_is_an_answer() {
    fn abstains(comparison: &Comparison) -> Result<Assessment> {
        if comparison.messages.len() > 2 {
            fair(comparison)
        } else {
            Ok(Assessment::Abstained { reason: "no".into() })
        }
    }
    let (whole, interrupted) = (MemoryStore::default(), MemoryStore::default());
    let report = Counted::new(abstains).duel.run(&whole, &CallContext::new()).await.expect("runs");
    assert!(report.verdict.missing > 0);
    for event in whole.journal() {
        let texts = match &event {
            JournalEvent::Ended { .. } => continue,
            JournalEvent::Replied { text, .. } => vec![whole.text(text).await.expect("kept")],
            _ => vec![],
        };
        interrupted.append(event, texts).await.expect("appends");
    }
    let counted = Counted::new(abstains);
    let resumed = counted.duel.run(&interrupted, &CallContext::new()).await.expect("runs");
    assert_eq!((counted.calls(), resumed), (0, report));
}

#[tokio::test]
async fn another_duels_journal_is_refused_and_kept() {
    let store = MemoryStore::default();
    Counted::new(fair).duel.run(&store, &CallContext::new()).await.expect("runs");
    let before = store.journal();
    let [king, challenger] = ["plain", "better"].map(|name| Scripted::new(name).contestant());
    let settings = DuelSettings { seed: Seed::from(6), samples: 7, ..settings() };
    let other = planned(&settings, king, challenger, vec![Asked::new("fair", fair)]).expect("plans");
    let error = other.run(&store, &CallContext::new()).await.expect_err("another duel");
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.to_string().contains("they differ in: looks, samples, seed"), "{error}");
    assert_eq!(store.journal(), before);
}

#[tokio::test]
async fn other_draws_than_the_journals_are_refused() {
    let (journal, store) = (MemoryStore::default(), MemoryStore::default());
    Counted::new(fair).duel.run(&journal, &CallContext::new()).await.expect("runs");
    for mut event in journal.journal().into_iter().take(2) {
        if let JournalEvent::Drawn { draws, .. } = &mut event {
            draws[0].instance_id = "another".into();
        }
        store.append(event, vec![]).await.expect("appends");
    }
    let error = Counted::new(fair).duel.run(&store, &CallContext::new()).await.expect_err("other draws");
    assert!(error.to_string().contains("another draw than the journal holds"), "{error}");
}
