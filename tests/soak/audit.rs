//! The check afterwards, as a process of its own. It knows nothing but what is on the disk: the
//! script, the chain's file, the ledger, the log, and the bucket.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use albedo::chain::{Content, Hotkey, NetUid};
use albedo::chains::local::LocalChain;
use albedo::log::{AnchoredHead, End, Entry as LogEntry, FolderLog, Log};
use albedo::plan::Terms;
use albedo::publish::{FolderBucket, Reader};
use albedo::record::{AnyRecord, VerifyOptions, verify_record};
use albedo::signer::KeyFile;
use albedo::validator::ledger::{DuelRow, KingRow, Ledger, SubmissionRow};
use albedo::validator::table::{State, is_final, name};
use albedo::{CallContext, ChainClient, Digest, Signer};

use crate::script::{Entry, Kind, Script};
use crate::{CHAIN_OUTAGES, SCRIPT, TEMPO};

/// Kings that share the weights: the default of `reign.kings`.
const KINGS: usize = 5;

/// How much better a challenger is that has to be crowned: a lesser model differs from the next
/// king by 0.4 or more.
const CLEAR: f64 = 0.4;

/// Everything that is on the disk.
struct Books {
    dir: PathBuf,
    script: Script,
    ledger: Ledger,
    rows: Vec<SubmissionRow>,
    duels: Vec<DuelRow>,
    kings: Vec<KingRow>,
    cx: CallContext,
}

/// Checks what a validator left in `dir`, and says what it checked.
pub(crate) async fn audit(dir: &Path) {
    let ledger = Ledger::read(&dir.join("state/ledger.sqlite")).expect("opens");
    let script = fs::read(dir.join(SCRIPT)).expect("reads");
    let books = Books {
        dir: dir.to_owned(),
        script: serde_json::from_slice(&script).expect("a script"),
        rows: ledger.submissions().await.expect("reads"),
        duels: ledger.duels().await.expect("reads"),
        kings: ledger.kings().await.expect("reads"),
        cx: CallContext::new(),
        ledger,
    };
    let outcomes = books.check_outcomes().await;
    println!("one outcome per submission, each the one that is due: {outcomes:?}");
    let voids = books.check_charges().await;
    println!("{voids} times something failed that was nobody's doing; nobody was charged");
    let (records, alpha) = books.check_records().await;
    println!("{records} records of the bucket verify; the duels' spent {alpha:.6} of the reigns' budgets");
    let entries = books.check_log().await;
    println!("{entries} entries of the published log, each duel with one beginning and one end");
    let (epochs, missed) = books.check_weights().await;
    println!("{epochs} epochs with the reign's weights, {missed} without, in outages of the chain");
}

impl Books {
    /// The submission of an entry of the script; none of a commitment that was repeated.
    fn row(&self, entry: &Entry) -> Option<&SubmissionRow> {
        self.rows.iter().find(|row| row.hotkey.0 == entry.hotkey && row.text == entry.text)
    }

    /// What a king's strength is: that of its submission.
    fn skill_of(&self, king: i64) -> f64 {
        let king = self.kings.iter().find(|row| row.id == king).expect("a king");
        let Some(submission) = king.submission else { return 0.0 };
        let row = self.rows.iter().find(|row| row.id == submission).expect("a submission");
        let of = |entry: &&Entry| entry.hotkey == row.hotkey.0 && entry.text == row.text;
        self.script.entries.iter().find(of).expect("in the script").skill
    }

    async fn check_outcomes(&self) -> BTreeMap<&'static str, usize> {
        let entered = self.script.entries.iter().filter(|entry| entry.kind != Kind::Again);
        assert_eq!(self.rows.len(), entered.clone().count(), "a submission per commitment, none twice");
        let mut finals: BTreeMap<i64, Vec<String>> = BTreeMap::new();
        let is_outcome = |state: &str| albedo::validator::table::by_name(state).is_some_and(is_final);
        for step in self.ledger.moves(None, 0).await.expect("reads") {
            if is_outcome(&step.to) {
                finals.entry(step.submission).or_default().push(step.to);
            }
        }
        let (mut counts, mut near) = (BTreeMap::new(), 0);
        for entry in entered {
            let row = self.row(entry).unwrap_or_else(|| panic!("no submission of {entry:?}"));
            assert_eq!(finals.get(&row.id).map(Vec::len), Some(1), "one final outcome: {row:?}");
            assert_eq!(finals[&row.id], [name(row.state)], "{row:?}");
            let attempts: Vec<_> = self.duels.iter().filter(|duel| duel.submission == row.id).collect();
            let due = match entry.kind {
                Kind::Honest | Kind::Late => {
                    let [duel] = attempts[..] else { panic!("{} attempts of {row:?}", attempts.len()) };
                    let better_by = entry.skill - self.skill_of(duel.king);
                    let is_near = better_by > 0.0 && better_by < CLEAR;
                    near += usize::from(is_near);
                    match row.state {
                        // Nobody can tell in so few samples.
                        State::Crowned | State::Lost if is_near => row.state,
                        _ if better_by > 0.0 => State::Crowned,
                        _ => State::Lost,
                    }
                }
                Kind::Never => State::Expired,
                Kind::Code | Kind::Cut | Kind::Disguised => State::Forfeit,
                Kind::Copy | Kind::Recommitted | Kind::Gone | Kind::Exchanged => State::SetAside,
                Kind::Again => continue,
            };
            assert_eq!(row.state, due, "{entry:?}: {row:?}");
            let says_exchanged = row.reason.contains("was exchanged for");
            assert_eq!(says_exchanged, entry.kind == Kind::Exchanged, "{row:?}");
            assert_eq!(attempts.is_empty(), !matches!(due, State::Crowned | State::Lost), "{row:?}");
            *counts.entry(name(row.state)).or_default() += 1;
        }
        assert!(
            20 * near <= self.duels.len(),
            "{near} of {} duels were between near equals",
            self.duels.len()
        );
        let mut expected = (0, 0);
        for duel in &self.duels {
            expected = if duel.king == expected.0 { (duel.king, expected.1 + 1) } else { (duel.king, 1) };
            assert_eq!((duel.king, duel.attempt), expected, "attempts have no gap");
        }
        counts
    }

    /// Whatever failed was an outage, and led to no outcome: those are checked before.
    async fn check_charges(&self) -> usize {
        assert_eq!(self.ledger.frozen().await.expect("reads"), None, "no bug");
        let moves = self.ledger.moves(None, 0).await.expect("reads");
        let faults: Vec<_> = moves.iter().filter_map(|step| Some((step, step.fault.as_deref()?))).collect();
        for (step, fault) in &faults {
            assert_eq!(*fault, "infrastructure", "{step:?}");
            assert_eq!(step.step, "void", "{step:?}");
        }
        faults.len()
    }

    /// Every record of the bucket verifies; the ledger spent what they say.
    async fn check_records(&self) -> (usize, f64) {
        let bucket = Arc::new(FolderBucket::open(self.dir.join("site")).expect("a bucket"));
        let reader = Reader::new(bucket);
        let entries = reader.entries(&self.cx).await.expect("an index");
        let published: BTreeSet<Digest> = entries.iter().map(|entry| entry.record).collect();
        let with_record: BTreeSet<Digest> = self.rows.iter().filter_map(|row| row.record).collect();
        assert_eq!(published, with_record, "what has a record is published, and nothing else");
        assert_eq!(entries.len(), published.len(), "nothing is listed twice");
        let mut alpha: BTreeMap<i64, (f64, u64)> = BTreeMap::new();
        for entry in &entries {
            reader.verify(entry, &self.cx).await.expect("is what the index says");
            let folder = self.dir.join(format!("site/records/{}", entry.record));
            let row = self.rows.iter().find(|row| row.record == Some(entry.record)).expect("a submission");
            match AnyRecord::open(&folder).expect("a record") {
                AnyRecord::Duel(record) => {
                    let of = |duel: &&DuelRow| duel.record == Some(entry.record);
                    let duel = self.duels.iter().find(of).expect("its duel");
                    let options = VerifyOptions { expect: Some(entry.record), ..VerifyOptions::default() };
                    verify_record(&record, &options, &self.cx).await.expect("verifies");
                    let Terms::Reign { attempt, share } = record.plan().terms else { panic!("of no reign") };
                    assert_eq!(attempt, duel.attempt);
                    let spent = alpha.entry(duel.king).or_default();
                    *spent = (spent.0 + share, spent.1 + 1);
                }
                AnyRecord::Forfeit(record) => {
                    assert_eq!((row.state, record.digest), (State::Forfeit, entry.record), "{row:?}");
                    assert!(!record.admission.is_admitted(), "{row:?}");
                }
            }
        }
        let mut whole = 0.0;
        for (king, (share, attempts)) in alpha {
            let spent = self.ledger.spent(king).await.expect("reads");
            assert_eq!(spent.attempts, attempts, "of king {king}");
            assert!((spent.alpha - share).abs() < 1e-12, "king {king}: {} is not {share}", spent.alpha);
            whole += share;
        }
        let duels: u64 = self.duels.len() as u64;
        assert_eq!(self.duels.iter().filter(|duel| duel.record.is_some()).count() as u64, duels);
        (entries.len(), whole)
    }

    /// The published log is the ledger's, and names each record once.
    async fn check_log(&self) -> usize {
        let key = KeyFile::open(&self.dir.join("log.pem")).expect("a key").key();
        let files = Arc::new(FolderLog::new(self.dir.join("site/log")));
        let log = Log::open(files, Some(&key), &self.cx).await.expect("a log");
        let entries = log.entries(&self.cx).await.expect("every tile fits");
        let entries: Vec<_> = entries.iter().map(|bytes| LogEntry::parse(bytes).expect("an entry")).collect();
        assert_eq!(entries, self.ledger.log_entries(0).await.expect("reads"));
        let (mut open, mut recorded) = (BTreeSet::new(), BTreeSet::new());
        for (place, entry) in (0..).zip(&entries) {
            match entry {
                LogEntry::Announced(_) => assert!(open.is_empty() && open.insert(place), "one at a time"),
                LogEntry::Ended(ended) => {
                    assert!(open.remove(&ended.announced), "it was announced");
                    let End::Recorded { record, .. } = &ended.end else { panic!("nothing was abandoned") };
                    assert!(recorded.insert(*record));
                }
                LogEntry::Forfeited(forfeited) => assert!(recorded.insert(forfeited.record)),
                _ => panic!("{entry:?}"),
            }
        }
        assert!(open.is_empty(), "every duel has its end");
        let with_record: BTreeSet<Digest> = self.rows.iter().filter_map(|row| row.record).collect();
        assert_eq!(recorded, with_record);

        // The head on chain is one of this log.
        let chain = LocalChain::open(&self.dir.join("chain.sqlite")).expect("a chain");
        let head = chain.head(&self.cx).await.expect("a head");
        let reveals = chain.reveals(NetUid(97), &head, &self.cx).await.expect("reads");
        let anchored = reveals.into_iter().find(|reveal| reveal.hotkey.0 == "validator");
        let Some(Content::Text(text)) = anchored.map(|reveal| reveal.content) else { panic!("no head") };
        let anchored = AnchoredHead::parse(&text).expect("a head of a log");
        let proof = log.prove_consistency(anchored.size, &self.cx).await.expect("is shorter");
        assert_eq!(proof.root, anchored.root, "the log goes on from its head on chain");
        entries.len()
    }

    /// In every epoch the chain shows the weights of those who reigned then. Gives in how many it
    /// does, and how many an outage of the chain left without.
    async fn check_weights(&self) -> (usize, usize) {
        let chain = LocalChain::open(&self.dir.join("chain.sqlite")).expect("a chain");
        let outages = fs::read(self.dir.join(CHAIN_OUTAGES)).expect("reads");
        let outages: Vec<(u64, u64)> = serde_json::from_slice(&outages).expect("blocks");
        let head = chain.head(&self.cx).await.expect("a head").number;
        let rows = self.ledger.epochs(u32::MAX).await.expect("reads");
        let landed: BTreeMap<u64, _> =
            rows.iter().filter_map(|row| Some((row.epoch, row.receipt?))).collect();
        let (mut shown, mut missed) = (0, 0);
        // The last epoch is not over.
        for epoch in 0..head / TEMPO {
            let [first, last] = [epoch * TEMPO, (epoch + 1) * TEMPO - 1];
            let Some(receipt) = landed.get(&epoch) else {
                let is_out = outages.iter().any(|(from, to)| *from <= last && *to + 3 >= first);
                assert!(is_out, "epoch {epoch} has no weights, and the chain was there");
                missed += 1;
                continue;
            };
            assert!((first..=last).contains(&receipt.block), "epoch {epoch}: {receipt:?}");
            let at = chain.block(receipt.block, &self.cx).await.expect("a block");
            let view = chain.weights(NetUid(97), &at, &self.cx).await.expect("reads");
            let metagraph = chain.metagraph(NetUid(97), &at, &self.cx).await.expect("reads");
            let validator = metagraph.of(&Hotkey("validator".into())).expect("it is registered").uid;
            let row = view.rows.iter().find(|row| row.validator == validator).expect("it has weights");
            let given: BTreeSet<String> = (row.weights.iter())
                .filter_map(|(uid, _)| metagraph.at(*uid).map(|neuron| neuron.hotkey.0.clone()))
                .collect();
            assert_eq!(given.len(), row.weights.len(), "each target is registered");
            let even = row.weights.iter().all(|(_, weight)| *weight >= u16::MAX - 1);
            // What does not divide goes to the newest kings: one of 65,535 per target.
            assert!(even || row.weights.iter().all(|(_, weight)| *weight > 65_000), "{row:?}");
            // The vector was chosen in the epoch, before it landed; a crown may have come between.
            let reigns: Vec<_> = (first.saturating_sub(1)..=receipt.block).map(|at| self.reign(at)).collect();
            assert!(reigns.contains(&given), "epoch {epoch}: {given:?} did not reign: {reigns:?}");
            shown += 1;
        }
        (shown, missed)
    }

    /// Whose weights it was at block `at`: the last kings, each once, or the slot that gets
    /// everything while there is none.
    fn reign(&self, at: u64) -> BTreeSet<String> {
        let mut reign = BTreeSet::new();
        for king in &self.kings {
            let is_crowned = king.crowned_block.is_some_and(|block| block <= at);
            if let Some(hotkey) = king.hotkey.as_ref().filter(|_| is_crowned && reign.len() < KINGS) {
                reign.insert(hotkey.0.clone());
            }
        }
        if reign.is_empty() {
            reign.insert("owner".into());
        }
        reign
    }
}
