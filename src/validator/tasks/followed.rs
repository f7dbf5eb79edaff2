//! Follows another validator: reads its log and public data, verifies every record that the
//! log names, audits some of its replies, and enters what follows from them. It refuses what
//! is not as it should be, and goes no further until that is put right.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Mutex;

use self::wrong::{Stop, Wrong, against, evidence};
use super::{Next, Task, on_thread, report};
use crate::chain::{BlockNumber, BlockRef, Content, EpochIndex, Hotkey};
use crate::chains::ledger::Sighting;
use crate::log::{Anchor, AnchoredHead, Announced, End, Ended, Entry, Head, History, Log, Submission};
use crate::record::{AnyRecord, RecordedReply, VerifyOptions, verify_record};
use crate::validator::following::{Following, Unaudited, coverage, unknown_genesis};
use crate::validator::ledger::{
    Cause, Effect, FollowedCrown, FollowedDuel, FollowedRow, KingRow, Refusal, Verified,
};
use crate::validator::parts::{Base, Seen};
use crate::validator::seeds;
use crate::{
    CallContext, Digest, Error, ErrorKind, Fault, ModelRef, Outcome, PublicKey, Record, Registry, Result,
    Side, Terms,
};

mod unaudited;
mod wrong;

/// How long the task may go without a step: an audit reads whole replies on a CPU. Source:
/// albedo.
const LIMIT: Duration = Duration::from_hours(2);

/// Epochs without news, or without a record that the log names, after which the validator is
/// followed no further; and for which an audit waits for a model. Source: albedo.
const EPOCHS: EpochIndex = 2;

/// Largest relative difference between a share and what the error budget gives: both are
/// sums of the same terms. Source: albedo.
const SHARE_TOLERANCE: f64 = 1e-9;

const OPERATION: &str = "follow the validator";

const UNFREEZE: &str = "find out why; `albedo validator unfreeze` follows it without an audit";

#[derive(Debug)]
pub(super) struct Followed {
    following: Arc<Following>,
    looked: Mutex<Looked>,
    /// The place from which the next look for later models goes on.
    later: AtomicU64,
}

/// What was found when the public data were read last.
#[derive(Debug, Default)]
struct Looked {
    /// The finalised head then.
    at: Option<BlockNumber>,
    log: Option<(Head, Arc<History>)>,
    /// What was wrong with the log or the head on chain.
    wrong: Option<Wrong>,
    /// What was found once: something that is just being published may look wrong.
    doubt: Option<Refusal>,
    /// What was said last of what is wrong.
    said: Option<Refusal>,
    /// Alerts of an earlier process may stand.
    is_begun: bool,
}

/// Whether there may be more to follow.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    More,
    All,
}

impl Followed {
    pub(super) fn new(following: Arc<Following>) -> Self {
        Self { following, looked: Mutex::default(), later: AtomicU64::new(0) }
    }

    fn base(&self) -> &Base {
        &self.following.base
    }

    /// Reads the public data, the log and its heads on chain, once per block, and compares
    /// them.
    async fn read(&self, looked: &mut Looked, seen: &Seen, cx: &CallContext) -> Result<(), Stop> {
        let Base { ledger, reveals, netuid, time, .. } = self.base();
        let Following { source, settings, .. } = &*self.following;
        let row = ledger.followed().await?;
        // The chain first: a head that is there was published before.
        let sightings = reveals.sightings(self.base().chain_id(cx).await?, *netuid).await?;
        let status = source.status(cx).await?;
        let followed = row.as_ref().map(|row| row.hotkey.0.clone());
        let hotkey = settings.hotkey.clone().or(followed).or(status.validator).ok_or_else(|| {
            unnamed(
                "the public data name no hotkey",
                "follow.hotkey",
                "name the hotkey that puts the log's heads on chain",
            )
        })?;
        let key = match (&settings.key, &row, &status.log) {
            (Some(key), ..) => key.clone(),
            (None, Some(row), _) => row.key.clone(),
            (None, None, Some(log)) => log.key.clone(),
            (None, None, None) => {
                return Err(unnamed(
                    "the public data name no log",
                    "follow.at",
                    "follow a validator that publishes its log",
                )
                .into());
            }
        };
        let key: PublicKey = key.parse().map_err(evidence(Cause::Log))?;
        let log = Log::open(source.log(), Some(&key), cx).await.map_err(evidence(Cause::Log))?;
        let head = log.head().clone();
        let epoch = seen.subnet.epoch;
        let kept = ledger.follow(&Hotkey(hotkey.clone()), &head, &key.to_string(), epoch).await;
        kept.map_err(evidence(Cause::Log))?;
        let (is_new, history) = match &looked.log {
            Some((known, history)) if *known == head => (false, Arc::clone(history)),
            _ => {
                let entries = log.entries(cx).await.map_err(evidence(Cause::Log))?;
                (true, Arc::new(History::new(&head, &entries).map_err(evidence(Cause::Log))?))
            }
        };
        if let Some(held) = ledger.newest_head().await?
            && let Some(finding) = history.check_head(&held).map_err(evidence(Cause::Log))?
        {
            self.keep_evidence(&held, &head)?;
            return Err(against(Cause::Log, &finding, held.size, "a head that was read before").into());
        }
        for anchor in anchors(&sightings, &hotkey) {
            if let Some(finding) = history.check_anchor(&anchor) {
                let wrong = against(Cause::Chain, &finding, anchor.head.size, "the head on chain");
                return Err(wrong.with("block", anchor.block).into());
            }
        }
        let entries = if is_new { history.entries().to_vec() } else { Vec::new() };
        let news = format!("{} {}", status.updated_at, head.size);
        ledger.keep_followed(entries, &head, news, epoch, time.now_ms()).await?;
        looked.log = Some((head, history));
        Ok(())
    }

    /// Keeps two heads that contradict each other: together they are the proof.
    fn keep_evidence(&self, held: &Head, found: &Head) -> Result<()> {
        let path = self.base().state.join("two-heads.txt");
        let text = format!("{held}\n{found}\n");
        std::fs::write(&path, text).map_err(|error| Error::io("keep two heads of the log", &path, error))
    }

    /// Follows the next entry of the log.
    async fn follow_next(&self, history: &History, seen: &Seen, cx: &CallContext) -> Result<Found, Stop> {
        let Base { ledger, time, .. } = self.base();
        let row = ledger.followed().await?;
        let row = row.ok_or_else(|| Error::bug(OPERATION, "nobody is followed"))?;
        let place = row.next;
        let Some(entry) = usize::try_from(place).ok().and_then(|place| history.entries().get(place)) else {
            return Ok(Found::All);
        };
        let effect = match entry {
            Entry::Announced(announced) => self.announced(place, announced).await?,
            Entry::Ended(ended) => self.ended(&row, ended, history, seen, cx).await?,
            Entry::Forfeited(forfeited) => {
                self.record(&row, forfeited.record, None, history, seen, cx).await?;
                Effect::Nothing
            }
            _ => {
                let wrong = Wrong::new(Cause::Log, "the log has an entry that this build does not know");
                return Err(wrong.with("entry", place).with_hint("update albedo").into());
            }
        };
        ledger.follow_entry(place, effect, seen.subnet.epoch, time.now_ms()).await?;
        if let Some(record) = entry.record() {
            self.following.source.forget(record);
        }
        Ok(Found::More)
    }

    async fn king(&self) -> Result<KingRow> {
        self.base().ledger.king().await?.ok_or_else(|| Error::bug(OPERATION, "nobody reigns"))
    }

    /// A duel is announced: none is open, and the king is the one who reigns.
    async fn announced(&self, place: u64, announced: &Announced) -> Result<Effect, Stop> {
        if let Some(open) = self.base().ledger.followed_duel().await? {
            let message = "a duel was dropped: the log announces another one before it has an end";
            return Err(Wrong::new(Cause::Log, message)
                .with("announced by entry", open.announced)
                .with("next announced by entry", place)
                .with_hint("ask its operator for the outcome")
                .into());
        }
        let king = self.king().await?;
        if let Some(known) = king.parameters.filter(|known| *known != announced.king) {
            return Err(Wrong::new(Cause::Log, "a duel is announced against a model that does not reign")
                .with("entry", place)
                .with("reigns", known)
                .with("announced", announced.king)
                .with_hint(
                    "if its operator began another competition, do the same here: stop this validator and run `albedo validator \
                     reset VERSION --genesis MODEL --reason TEXT`",
                )
                .into());
        }
        Ok(Effect::Announced { king: announced.king })
    }

    /// An announced duel has its end.
    async fn ended(
        &self,
        row: &FollowedRow,
        ended: &Ended,
        history: &History,
        seen: &Seen,
        cx: &CallContext,
    ) -> Result<Effect, Stop> {
        let place = row.next;
        let open = self.base().ledger.followed_duel().await?;
        let Some(duel) = open.filter(|duel| duel.announced == ended.announced) else {
            return Err(Wrong::new(Cause::Log, "the log ends a duel that is not open")
                .with("entry", place)
                .into());
        };
        let announced = announcement(history, duel.announced)?;
        let crowned = match &ended.end {
            End::Abandoned { .. } => None,
            End::Recorded { record, outcome, .. } => {
                self.record(row, *record, Some((duel, announced)), history, seen, cx).await?;
                if *outcome == Outcome::Dethroned {
                    Some(self.crowned(place, announced, *record)?)
                } else {
                    None
                }
            }
        };
        Ok(Effect::Ended { announced: duel.announced, crowned })
    }

    /// The challenger that won.
    fn crowned(&self, place: u64, announced: &Announced, record: Digest) -> Result<FollowedCrown, Wrong> {
        let Some(submission) = &announced.submission else {
            return Err(
                Wrong::new(Cause::Log, "the log does not say whose submission has won").with("entry", place)
            );
        };
        Ok(FollowedCrown {
            hotkey: Hotkey(submission.hotkey.clone()),
            model: self.model(submission),
            parameters: announced.challenger,
            record,
        })
    }

    /// Where the files of a submission are.
    fn model(&self, Submission { repository, pin, .. }: &Submission) -> ModelRef {
        let reference = self.following.models.reference(repository, pin);
        reference.map_or_else(|_| ModelRef::served(format!("{repository}@{pin}")), ModelRef::from)
    }

    /// Verifies the record that the next entry names, and audits it if it is a duel's.
    async fn record(
        &self,
        row: &FollowedRow,
        digest: Digest,
        duel: Option<(FollowedDuel, &Announced)>,
        history: &History,
        seen: &Seen,
        cx: &CallContext,
    ) -> Result<(), Stop> {
        let Base { ledger, time, .. } = self.base();
        let Following { source, auditor, .. } = &*self.following;
        let place = row.next;
        let known = ledger.followed_records(place).await?.into_iter().find(|known| known.place == place);
        let auditor = auditor.as_ref().zip(duel);
        let is_done = known.as_ref().is_some_and(|known| auditor.is_none() || known.passed == Some(true));
        if is_done {
            return Ok(());
        }
        let block = match &known {
            Some(known) => Some(self.block_after(known.seen_block, cx).await?),
            None => None,
        };
        let Some(folder) = source.record(digest, cx).await.map_err(evidence(Cause::Record))? else {
            if seen.subnet.epoch.saturating_sub(row.next_epoch) < EPOCHS {
                return Err(Stop::Waits);
            }
            return Err(Wrong::new(Cause::Record, "a record that the log names is not published")
                .with("record", digest)
                .with("entry", place)
                .with("due since epoch", row.next_epoch)
                .with_hint("ask its operator; it is followed again once the record is there")
                .into());
        };
        let record = self.verified(folder, digest, cx).await?;
        if known.is_none() {
            self.check(&record, duel, history).await.map_err(|stop| match stop {
                Stop::Wrong(wrong) => Stop::Wrong(wrong.with("record", digest).with("entry", place)),
                stop => stop,
            })?;
            let submission = match history.entries().get(place as usize) {
                Some(Entry::Forfeited(forfeited)) => forfeited.submission.as_ref(),
                _ => duel.and_then(|(_, announced)| announced.submission.as_ref()),
            };
            let verified = Verified {
                place,
                record: digest,
                announced: duel.map(|(duel, _)| duel.announced),
                seen_block: seen.head.number,
                on_chain: match submission {
                    Some(submission) => self.is_on_chain(submission, cx).await?,
                    None => false,
                },
                replies: replies(&record),
            };
            ledger.note_verified(verified, time.now_ms()).await?;
        }
        match (auditor, block, record) {
            (Some(_), None, _) => Err(Stop::Waits),
            (Some((_, (_, announced))), Some(block), AnyRecord::Duel(record)) => {
                match self.audit(place, *record, announced, &block, cx).await? {
                    None => Ok(()),
                    Some(error) => self.unaudited(row, history, error, seen, cx).await,
                }
            }
            _ => Ok(()),
        }
    }

    /// The block after `number`, once it is final.
    async fn block_after(&self, number: BlockNumber, cx: &CallContext) -> Result<BlockRef, Stop> {
        match self.base().chain.block(number + 1, cx).await {
            Err(error) if error.kind() == ErrorKind::NotFound => Err(Stop::Waits),
            block => Ok(block?),
        }
    }

    /// Works the record in `folder` out again.
    async fn verified(&self, folder: PathBuf, digest: Digest, cx: &CallContext) -> Result<AnyRecord, Stop> {
        let (tasks, inner) = (self.following.tasks.clone(), cx.clone());
        let verified = on_thread("verify a followed record", move || async move {
            let record = AnyRecord::open(&folder)?;
            if record.digest() != digest {
                let message = "the files are another record's";
                return Err(Error::new(ErrorKind::DigestMismatch, "verify a followed record", message)
                    .with("named by the log", digest)
                    .with("found", record.digest()));
            }
            match &record {
                AnyRecord::Forfeit(forfeit) => forfeit.verify(Some(digest))?,
                AnyRecord::Duel(duel) => {
                    let registry = Registry::linked()?;
                    let options = VerifyOptions {
                        expect: Some(digest),
                        tasks: tasks.as_deref(),
                        judges: Some(&registry),
                        prompts: None,
                    };
                    verify_record(duel, &options, &inner).await?;
                }
            }
            Ok(record)
        });
        verified.await.map_err(|error| evidence(Cause::Record)(error.with("record", digest)))
    }

    /// Whether the record is the one that the log announced, on the terms of the reign.
    async fn check(
        &self,
        record: &AnyRecord,
        duel: Option<(FollowedDuel, &Announced)>,
        history: &History,
    ) -> Result<(), Stop> {
        let wrong = |message: &str| Stop::Wrong(Wrong::new(Cause::Record, message));
        if history.check_record(record)?.is_some() {
            return Err(wrong("the record is not as the log announced it"));
        }
        let (record, (duel, announced)) = match (record, duel) {
            (AnyRecord::Duel(record), Some(duel)) => (record, duel),
            (AnyRecord::Forfeit(_), None) => return Ok(()),
            _ => return Err(wrong("the record is of another kind than its entry in the log")),
        };
        let (base, plan) = (self.base(), record.plan());
        if plan.king.model.parameters != announced.king
            || plan.challenger.model.parameters != announced.challenger
        {
            return Err(wrong("the record is of other models than those that were announced"));
        }
        let share = base.budget.share(duel.attempt);
        let fits = matches!(plan.terms, Terms::Reign { attempt, share: spent }
            if attempt == duel.attempt && (spent - share).abs() <= SHARE_TOLERANCE * share);
        if !fits {
            return Err(Wrong::new(
                Cause::Record,
                "the attempt or its share is not what the log and the error budget give",
            )
            .with("attempt by the log", duel.attempt)
            .with("share by `reign.alpha`", share)
            .with("the record's", format_args!("{:?}", plan.terms))
            .with_hint("set `reign.alpha` to the followed validator's, if that is what differs")
            .into());
        }
        if plan.previous != base.ledger.last_followed(duel.king).await? {
            return Err(wrong("the record does not name the reign's record before it"));
        }
        let reference = plan.admission.as_ref().and_then(|admission| admission.submission.reference.clone());
        if let (Some(reference), Some(submission)) = (reference, &announced.submission)
            && self.model(submission) != ModelRef::from(reference)
        {
            return Err(Wrong::new(Cause::Record, "the screened model is not the submission that was announced")
                .with("submission", &submission.repository)
                .with_hint("set `entry.manifests` and `entry.revisions` to the followed validator's, if that is what differs")
                .into());
        }
        Ok(())
    }

    /// Whether the chain shows that its miner committed to it.
    async fn is_on_chain(&self, submission: &Submission, cx: &CallContext) -> Result<bool> {
        let base = self.base();
        let sightings = base.reveals.sightings(base.chain_id(cx).await?, base.netuid).await?;
        Ok(sightings.iter().any(|sighting| {
            let Content::Text(text) = &sighting.content else { return false };
            let mut parts = text.split('|').skip(1);
            sighting.hotkey.0 == submission.hotkey
                && parts.next() == Some(&submission.repository)
                && parts.next() == Some(&submission.pin)
        }))
    }

    /// Audits the replies that the block after the record's publication chooses. Gives why that is
    /// not possible, if a model's hub does not have its files, refuses them, or gives other bytes.
    async fn audit(
        &self,
        place: u64,
        record: Record,
        announced: &Announced,
        block: &BlockRef,
        cx: &CallContext,
    ) -> Result<Option<Error>, Stop> {
        let ledger = &self.base().ledger;
        let known = ledger.followed_records(place).await?.into_iter().find(|known| known.place == place);
        let known = known.ok_or_else(|| Error::bug(OPERATION, "the record was not noted"))?;
        if known.replies == 0 {
            // A model that could not be loaded has written none.
            return Ok(None);
        }
        if known.passed.is_none() {
            let king = self.king().await?;
            let is_first = king.hotkey.is_none();
            let king = if is_first { self.following.genesis.clone() } else { king.model };
            if matches!(king, ModelRef::Served(_)) && is_first {
                return Err(unknown_genesis().into());
            }
            let Some(submission) = &announced.submission else {
                let message =
                    "the log does not say whose submission the challenger is: its replies cannot be audited";
                return Err(Wrong::new(Cause::Audit, message).with("record", known.record).into());
            };
            let (following, inner) = (Arc::clone(&self.following), cx.clone());
            let (challenger, seed) = (self.model(submission), seeds::audit(block.hash, known.record));
            let audited = on_thread("audit a followed record", move || async move {
                let Following { auditor, models, .. } = &*following;
                let auditor = auditor.as_ref().ok_or_else(|| Error::bug(OPERATION, "nothing audits"))?;
                Ok(auditor.audit(&record, models, [&king, &challenger], seed, &inner).await)
            });
            let audited = audited.await?;
            if matches!(audited, Ok(_) | Err(Unaudited::Fetched(_))) {
                ledger.note_found(place).await?;
            }
            let report = match audited {
                Ok(report) => report,
                Err(Unaudited::WithoutTokens) => {
                    let message = "a duel's replies cannot be audited: the record does not tell their tokens";
                    let wrong = Wrong::new(Cause::Audit, message).with("record", known.record);
                    return Err(wrong.with_hint(UNFREEZE).into());
                }
                // The first king is named by this validator's own configuration.
                Err(Unaudited::Unfetched(side, error)) if side == Side::Challenger || !is_first => {
                    let message = "a duel's replies cannot be audited: the hub does not give the whole model";
                    let lacking = Error::new(ErrorKind::NotFound, OPERATION, message)
                        .with("record", known.record)
                        .with("side", side)
                        .with("because", error.message());
                    return Ok(Some(lacking));
                }
                Err(
                    Unaudited::Unfetched(_, error) | Unaudited::Fetched(error) | Unaudited::Failed(error),
                ) => {
                    let error = error.with("record", known.record);
                    let is_damage = error.said_fault() == Some(Fault::Infrastructure);
                    if error.kind() == ErrorKind::DigestMismatch && is_first && !is_damage {
                        return Err(Stop::Failed(error.with_fault(Fault::Operator)));
                    }
                    return Err(evidence(Cause::Audit)(error));
                }
            };
            ledger.note_audit(place, &report).await?;
            if !report.alarm {
                return Ok(None);
            }
        } else if known.passed == Some(true) {
            return Ok(None);
        }
        Err(Wrong::new(Cause::Audit, "replies of a duel are not the models'")
            .with("record", known.record)
            .with("entry", place)
            .with(
                "coverage",
                coverage(
                    known.replies,
                    known.audited.max(self.following.terms.audit_replies.min(known.replies)),
                ),
            )
            .with_hint(
                "look at it with `albedo record audit`; `albedo validator unfreeze` follows it all the same",
            )
            .into())
    }

    /// The refusal of a validator that nothing new comes from.
    async fn silence(&self, seen: &Seen) -> Result<Option<Wrong>> {
        let Some(row) = self.base().ledger.followed().await? else { return Ok(None) };
        let silent = seen.subnet.epoch.saturating_sub(row.news_epoch);
        Ok((silent >= EPOCHS).then(|| {
            Wrong::new(Cause::Silence, "nothing new was published")
                .with("epochs", silent)
                .with("at", &self.following.terms.at)
                .with_hint("nothing, if its operator knows; it is followed again with the next news")
        }))
    }

    /// Notes the refusal, and says it if it is news.
    async fn refuse(&self, looked: &mut Looked, wrong: &Wrong) -> Result<()> {
        let Base { ledger, time, .. } = self.base();
        let refusal = wrong.refusal();
        if ledger.refuse(Some(refusal.clone())).await? || looked.said.as_ref() != Some(&refusal) {
            looked.said = Some(refusal);
            for cause in Cause::ALL.into_iter().filter(|cause| *cause != wrong.cause) {
                ledger.well(cause.alert(), time.now_ms()).await?;
            }
            report(self.base(), wrong.cause.alert(), &wrong.error).await;
        }
        Ok(())
    }

    /// All is well again.
    async fn accept(&self, looked: &mut Looked) -> Result<()> {
        let Base { ledger, time, .. } = self.base();
        (looked.doubt, looked.said) = (None, None);
        if ledger.refuse(None).await? || !looked.is_begun {
            for cause in Cause::ALL {
                ledger.well(cause.alert(), time.now_ms()).await?;
            }
            looked.is_begun = true;
        }
        Ok(())
    }

    /// What is to be done at `seen`.
    async fn look(&self, looked: &mut Looked, seen: &Seen, cx: &CallContext) -> Result<Found, Stop> {
        if looked.at != Some(seen.head.number) {
            looked.wrong = None;
            match self.read(looked, seen, cx).await {
                Err(Stop::Wrong(wrong)) => looked.wrong = Some(wrong),
                read => read?,
            }
            looked.at = Some(seen.head.number);
        }
        if let Some(wrong) = &looked.wrong {
            return Err(Stop::Wrong(wrong.clone()));
        }
        let history = looked.log.as_ref().map(|(_, history)| Arc::clone(history));
        let history = history.ok_or_else(|| Error::bug(OPERATION, "the log was not read"))?;
        self.follow_next(&history, seen, cx).await
    }
}

#[async_trait]
impl Task for Followed {
    fn name(&self) -> &'static str {
        "followed"
    }

    fn limit(&self) -> Duration {
        LIMIT
    }

    async fn step(&self, cx: &CallContext) -> Result<Next> {
        let base = self.base();
        let pause = Next::After(base.poll);
        let Some(seen) = base.newest() else { return Ok(pause) };
        let refusal = base.ledger.followed().await?.and_then(|row| row.refusal);
        if refusal.is_some_and(|refusal| refusal.cause.stays()) {
            return Ok(pause);
        }
        let mut looked = self.looked.lock().await;
        let found = self.look(&mut looked, &seen, cx).await;
        if let Err(Stop::Failed(error)) = &found
            && error.kind() == ErrorKind::Cancelled
        {
            return Err(error.clone());
        }
        let wrong = match (found, self.silence(&seen).await?) {
            (Err(Stop::Wrong(wrong)), _) => wrong,
            (Err(Stop::Failed(error)), Some(silence)) => silence.with("because", error.message()),
            (_, Some(silence)) => silence,
            (Err(Stop::Failed(error)), None) => return Err(error),
            (Err(Stop::Waits), None) => {
                self.accept(&mut looked).await?;
                return Ok(pause);
            }
            (Ok(found), None) => {
                self.accept(&mut looked).await?;
                if found == Found::More {
                    return Ok(Next::Now);
                }
                base.ledger.caught_up().await?;
                return Ok(pause);
            }
        };
        let refusal = wrong.refusal();
        if looked.doubt.as_ref().is_some_and(|doubt| doubt.cause == refusal.cause) || wrong.cause.stays() {
            self.refuse(&mut looked, &wrong).await?;
        } else {
            // It is looked at again at once.
            looked.at = None;
        }
        looked.doubt = Some(refusal);
        Ok(pause)
    }
}

/// The announcement at `place`.
fn announcement(history: &History, place: u64) -> Result<&Announced> {
    match usize::try_from(place).ok().and_then(|place| history.entries().get(place)) {
        Some(Entry::Announced(announced)) => Ok(announced),
        _ => Err(Error::bug(OPERATION, "an open duel was not announced").with("entry", place)),
    }
}

/// The heads of a log that `hotkey` put on chain, as far as they were seen.
fn anchors(sightings: &[Sighting], hotkey: &str) -> Vec<Anchor> {
    let anchor = |sighting: &Sighting| {
        let Content::Text(text) = &sighting.content else { return None };
        let head = AnchoredHead::parse(text)?;
        (sighting.hotkey.0 == hotkey).then_some(Anchor { head, block: sighting.place.block })
    };
    sightings.iter().filter_map(anchor).collect()
}

/// How many replies a record has.
fn replies(record: &AnyRecord) -> u32 {
    let AnyRecord::Duel(record) = record else { return 0 };
    let replies = record.samples().into_iter().flat_map(|sample| sample.replies);
    replies.filter(|reply| !matches!(reply, RecordedReply::Missing { .. })).count() as u32
}

fn unnamed(message: &str, key: &'static str, hint: &str) -> Error {
    Error::new(ErrorKind::ConfigInvalid, OPERATION, message)
        .with_fault(Fault::Operator)
        .with("key", key)
        .with_hint(hint)
}
