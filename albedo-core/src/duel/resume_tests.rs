use std::fs;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::scripted::*;
use super::*;
use crate::error::Retry;
use crate::judge::{Assessment, Comparison};
use crate::origin::Build;
use crate::plan::DuelSettings;
use crate::record::{FileStore, JournalKey, MemoryStore, Record, RecordLine, RecordStore};
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

fn key() -> JournalKey {
    JournalKey::new([7; 32])
}

/// What the journals are chained to.
const ANCHOR: Digest = Digest::ZERO;

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
    let store = FileStore::create_keyed(folder.path(), key(), ANCHOR).expect("creates");
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
    let store = FileStore::resume_keyed(folder.path(), key(), ANCHOR).expect("resumes");
    assert_eq!(store.foreign(), None);
    counted.duel.run(&store, &CallContext::new()).await.expect("runs");
    drop(store);
    // A decided duel is not run again; the record that is not there is made again.
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
    assert_eq!(resumed(&journal, &blobs).await, (0, digest), "a decided duel is not run again");
}

/// How the record in `store` says that it came about.
fn origin(store: &MemoryStore) -> crate::Origin {
    let record = store.record().expect("published");
    let record = Record::from_bytes(&record.lines, &record.blobs, record.digest).expect("reads");
    match &record.lines[2] {
        RecordLine::Origin(origin) => origin.clone(),
        other => panic!("{other:?}"),
    }
}

/// The journal of an uninterrupted run up to its first answers.
async fn begun(change: impl Fn(&mut JournalEvent)) -> MemoryStore {
    let (whole, part) = (MemoryStore::default(), MemoryStore::default());
    Counted::new(fair).duel.run(&whole, &CallContext::new()).await.expect("runs");
    for mut event in whole.journal().into_iter().take(9) {
        change(&mut event);
        let texts = match &event {
            JournalEvent::Replied { text, .. } => vec![whole.text(text).await.expect("kept")],
            _ => vec![],
        };
        part.append(event, texts).await.expect("appends");
    }
    part
}

#[tokio::test]
async fn another_build_that_behaves_alike_goes_on_and_stands_in_the_record() {
    let older = Build { version: "0.0.1".into(), source: Some(Digest::of("sources")) };
    let store = begun(|event| {
        if let JournalEvent::Opened { build, .. } = event {
            *build = Some(older.clone());
        }
    })
    .await;
    Counted::new(fair).duel.run(&store, &CallContext::new()).await.expect("goes on");
    let origin = origin(&store);
    assert_eq!((origin.builds, origin.unchained), (vec![older, Build::default()], false));
}

#[tokio::test]
async fn a_build_that_behaves_otherwise_does_not_go_on() {
    let store = begun(|event| {
        if let JournalEvent::Opened { digest, plan, .. } = event {
            plan.behaviour.as_mut().expect("a behaviour").rule = Digest::of("another rule");
            *digest = plan.digest().expect("digests");
        }
    })
    .await;
    let counted = Counted::new(fair);
    let error = counted.duel.run(&store, &CallContext::new()).await.expect_err("another behaviour");
    assert!(error.to_string().contains("they differ in: behaviour"), "{error}");
    assert_eq!(counted.calls(), 0);
}

#[tokio::test]
async fn a_journal_of_an_older_format_goes_on_under_its_own_plan() {
    let older = |event: &mut JournalEvent| {
        if let JournalEvent::Opened { format, digest, plan, build } = event {
            **plan = plan.as_frozen_by("0.1.0");
            (*format, *digest, *build) = (2, plan.digest().expect("digests"), None);
        }
    };
    let store = begun(older).await;
    let sides = ["plain", "better"].map(|name| Scripted::new(name).contestant());
    let [king, challenger] = sides;
    let duel = Duel::builder(king, challenger).tasks(rows()).judge(Asked::new("fair", fair));
    let duel = duel.settings(settings()).plan(&store, &CallContext::new()).await.expect("is this duel");
    assert_eq!(duel.plan().version.as_deref(), Some("0.1.0"));
    duel.run(&Unchained(store), &CallContext::new()).await.expect("goes on");
}

/// A store that somebody else can write to.
#[derive(Debug)]
struct Unchained(MemoryStore);

#[async_trait::async_trait]
impl RecordStore for Unchained {
    async fn stored(&self) -> Result<Vec<JournalEvent>> {
        self.0.stored().await
    }

    async fn chained(&self) -> Result<bool> {
        Ok(false)
    }

    async fn text(&self, text: &crate::record::TextRef) -> Result<String> {
        self.0.text(text).await
    }

    async fn append(&self, event: JournalEvent, texts: Vec<String>) -> Result<()> {
        self.0.append(event, texts).await
    }

    async fn begin(&self) -> Result<()> {
        self.0.begin().await
    }

    async fn extend(&self, part: crate::record::RecordPart) -> Result<()> {
        self.0.extend(part).await
    }

    async fn publish(&self, digests: &crate::record::Digests) -> Result<()> {
        self.0.publish(digests).await?;
        assert!(origin(&self.0).unchained, "the record says that nothing vouches for its journal");
        let record = self.0.record().expect("published");
        let record = Record::from_bytes(&record.lines, &record.blobs, record.digest)?;
        crate::record::verify_record(&record, &crate::record::VerifyOptions::default(), &CallContext::new())
            .await
            .map(drop)
    }
}

#[tokio::test]
async fn the_end_that_a_journal_claims_is_read_from_the_record() {
    let store = MemoryStore::default();
    let report = Counted::new(fair).duel.run(&store, &CallContext::new()).await.expect("runs");
    let altered = MemoryStore::default();
    for mut event in store.journal() {
        let texts = match &mut event {
            JournalEvent::Replied { text, .. } => vec![store.text(text).await.expect("kept")],
            JournalEvent::Ended { verdict, .. } => {
                verdict.outcome = Outcome::KingHolds(crate::verdict::Holds::Futile);
                vec![]
            }
            _ => vec![],
        };
        altered.append(event, texts).await.expect("appends");
    }
    // Its record is gone: it is made again, from the answers.
    let counted = Counted::new(fair);
    let again = counted.duel.run(&altered, &CallContext::new()).await.expect("is made again");
    assert_eq!((&again, counted.calls()), (&report, 0));
    assert_eq!(altered.record(), store.record());
    // Now it is there, and is believed in place of the journal.
    assert_eq!(counted.duel.run(&altered, &CallContext::new()).await.expect("reads"), report);
    // Answers that give another record than the journal ended with.
    let forged = MemoryStore::default();
    for mut event in store.journal() {
        let texts = match &mut event {
            JournalEvent::Replied { text, .. } => vec![store.text(text).await.expect("kept")],
            JournalEvent::Assessed { assessment, .. } => {
                *assessment = scored(0.5).expect("a score");
                vec![]
            }
            _ => vec![],
        };
        forged.append(event, texts).await.expect("appends");
    }
    let error = Counted::new(fair).duel.run(&forged, &CallContext::new()).await.expect_err("forged");
    assert!(error.to_string().contains("does not give the record that it ended with"), "{error}");
    assert_eq!(forged.record(), None);
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
