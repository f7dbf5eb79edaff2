//! Plans, announces and runs the next duel, and enters its verdict. Each stage is in the
//! ledger before the next one begins, so that a process that is killed anywhere goes on
//! from there.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::admission::Admissions;
use super::anchors::on_chain;
use super::checks::{gone, ordered};
use super::contestants::{Contestants, builder, lacks_challenger, settings};
use super::turn::{Turn, is_clear_beside, next_to_duel, pause, waits};
use super::{IDLE, Next, Task, on_thread, report};
use crate::chain::BlockNumber;
use crate::log::{Announced, Ended, Submission};
use crate::record::{self, FileStore, RecordStore, VerifyOptions};
use crate::reign::Effect;
use crate::twin::TwinReport;
use crate::validator::config::Anchoring;
use crate::validator::ledger::{Crowned, Decision, Drafted, KingRow, OpenDuel, Reason, SubmissionRow, VOIDS};
use crate::validator::models::{blocking, is_absence};
use crate::validator::parts::{Base, Seen, Shared};
use crate::validator::running::{Beginning, RunningSink};
use crate::validator::table::{Move, State};
use crate::{
    Admission, CallContext, Digest, DuelBuilder, DuelReport, DuelSettings, Error, ErrorKind, Fault, ModelRef,
    Outcome, Record, Result, Seed, Side,
};

/// How long a duel may go without an event: a judge's slowest answer, with its tries.
/// Source: albedo.
const LIMIT: Duration = Duration::from_mins(30);

/// Alerts: the king cannot be loaded, an operator has to act, the duel is void, judges prefer one side for its words.
const KING: &str = "the king";
const SETTINGS: &str = "the duel's settings";
const DUEL: &str = "the duel";
const DELTA: &str = "a duel's delta";

#[derive(Debug)]
pub(super) struct Duels {
    shared: Arc<Shared>,
    contestants: Contestants,
}

impl Duels {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, contestants: Contestants::default() }
    }

    /// Plans the duel of the submission whose turn it is.
    async fn plan_next(&self, seen: &Seen, cx: &CallContext) -> Result<Next> {
        let Base { ledger, time, .. } = &**self.shared;
        let (king, now_ms) = (self.shared.king().await?, time.now_ms());
        let live = ledger.live().await?;
        let mut clear = live.iter().filter(|row| is_clear_beside(row, king.id));
        if let Some((row, why)) = clear.find_map(|row| Some((row, ordered(row)?))) {
            ledger.step(row.id, Move::SetAside, Reason::new(why), now_ms).await?;
            return Ok(Next::Now);
        }
        let row = match next_to_duel(&live, king.id, self.shared.entry.ahead, now_ms) {
            Turn::Take(row) => row,
            Turn::Wait(due) => {
                let pause = due.map_or(IDLE, |due| Duration::from_millis(due.saturating_sub(now_ms).max(1)));
                return Ok(Next::Change(pause.min(IDLE)));
            }
        };
        // The chain before the commitment says nothing of its hotkey.
        if seen.head.number < row.readable_at {
            return Ok(Next::Change(IDLE));
        }
        // King and registration are looked at again before anything is spent.
        let swaps = self.shared.reveals.swaps(self.shared.chain_id(cx).await?, self.shared.netuid).await?;
        if let Some(why) = gone(&row.hotkey, &seen.metagraph, &swaps) {
            ledger.step(row.id, Move::SetAside, Reason::new(why), now_ms).await?;
            return Ok(Next::Now);
        }
        let admissions = Admissions::new(Arc::clone(&self.shared));
        let planned = self.plan(row, &king, cx).await;
        // Loading takes a while: admission may screen it again by now, or may have ended it.
        if planned.is_err() && !self.is_still_clear(row.id).await? {
            return Ok(Next::Now);
        }
        let planned = match planned {
            Err(error) if lacks_challenger(&error) => {
                admissions.lost(row, error, seen.head.number, cx).await.map(drop)
            }
            // Its bytes are here as they were handed in, and no model can be loaded from them.
            Err(error) if error.fault() == Fault::Contestant(Side::Challenger) => {
                admissions.convict(row, &king, "load", error, seen, cx).await.map(drop)
            }
            planned => planned,
        };
        match planned {
            Err(error) if error.kind() == ErrorKind::Cancelled => Err(error),
            Err(error) => {
                if !self.is_still_clear(row.id).await? {
                    return Ok(Next::Now);
                }
                self.tell(&error).await;
                let due = now_ms + pause(error.fault(), row.voids).as_millis() as u64;
                ledger.step(row.id, Move::Void, Reason::failed(&error, due), time.now_ms()).await?;
                Ok(Next::Now)
            }
            Ok(()) => Ok(Next::Now),
        }
    }

    /// Whether the submission still waits for its duel, and the operator does not want it set aside.
    async fn is_still_clear(&self, id: i64) -> Result<bool> {
        let row = self.shared.ledger.submission(id).await?;
        Ok(row.set_aside.is_none() && row.state == State::Clear)
    }

    async fn plan(&self, row: &SubmissionRow, king: &KingRow, cx: &CallContext) -> Result<()> {
        let Base { ledger, time, budget, .. } = &**self.shared;
        let sides = self.contestants.load(&self.shared, king, row, cx).await?;
        let attempt = ledger.next_attempt(king.id, *budget).await?;
        let settings = settings(&self.shared, &attempt);
        let admission = ledger.admission(row.id).await?;
        let draft = builder(&self.shared, sides, settings.clone(), admission).draft()?;
        let announced = Announced::new(&draft, Some(submission(row)))?;
        let drafted = Drafted { submission: row.id, attempt, settings, announced };
        ledger.plan(drafted, *budget, time.now_ms()).await?;
        // Both sides were loaded.
        self.well().await.map(drop)
    }

    /// Goes on with the duel that is planned or runs.
    async fn go_on(&self, duel: &OpenDuel, cx: &CallContext) -> Result<Next> {
        let Base { ledger, chain, time, poll, .. } = &**self.shared;
        let row = ledger.submission(duel.submission).await?;
        if row.state == State::Duelling {
            // The process that ran it has ended.
            let message = "the validator ended while the duel ran";
            let error = Error::new(ErrorKind::Unavailable, "run the duel", message);
            ledger.void_duel(duel.id, error, 0.0, 0, time.now_ms()).await?;
            return Ok(Next::Now);
        }
        if let Some(reason) = &duel.give_up {
            return self.abandon(duel, format!("the operator gave it up: {reason}")).await;
        }
        let now_ms = time.now_ms();
        if waits(row.due_ms, now_ms) {
            return Ok(Next::Change(Duration::from_millis(row.due_ms - now_ms).min(IDLE)));
        }
        self.shared.log.write(ledger, now_ms, cx).await?;
        let Some(head_block) = duel.head_block else {
            let Some(block) = self.announced_at(duel, cx).await? else {
                return Ok(Next::Change(IDLE));
            };
            ledger.announced_at(duel.id, block).await?;
            return Ok(Next::Now);
        };
        let seed = match duel.seed {
            Some(seed) => seed,
            None => match chain.block(head_block + 1, cx).await {
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Next::After(*poll)),
                block => {
                    let Announced { king, challenger, .. } = duel.announcement;
                    Seed::on_chain(block?.hash, [king, challenger])
                }
            },
        };
        ledger.begin(duel.id, seed, time.now_ms()).await?;
        match self.run(duel, &row, seed, cx).await {
            Err(error) if error.kind() == ErrorKind::Cancelled => Err(error),
            Err(error) => {
                let usd = self.shared.running().end();
                self.tell(&error).await;
                if is_absence(&error) {
                    // It does not say whose: the next try loads both, which tells.
                    self.contestants.drop_both().await;
                }
                let is_gone = duel.voids + 1 >= VOIDS
                    && lacks_challenger(&error)
                    && self.shared.models.is_absent(&self.model(&row)?, cx).await?;
                self.void(duel, error, usd).await?;
                if is_gone {
                    let reason = "the hub no longer has the challenger's files";
                    return self.abandon(duel, reason.to_owned()).await;
                }
                Ok(Next::Now)
            }
            Ok(next) => Ok(next),
        }
    }

    /// Gives up the duel, which waits: its share stays spent, and its submission duels again as
    /// another attempt.
    async fn abandon(&self, duel: &OpenDuel, reason: String) -> Result<Next> {
        let Base { ledger, time, .. } = &**self.shared;
        ledger.abandon(duel.id, reason, time.now_ms()).await?;
        self.contestants.drop_challenger().await;
        self.well().await
    }

    /// The block by which the duel was announced: the newest final one, or, before each seed,
    /// that of a head on chain, once there is one.
    async fn announced_at(&self, duel: &OpenDuel, cx: &CallContext) -> Result<Option<BlockNumber>> {
        let shared = &*self.shared;
        if shared.anchoring != Anchoring::BeforeSeed {
            return Ok(Some(shared.head_number(cx).await?));
        }
        let Some(seen) = shared.newest() else { return Ok(None) };
        let on_chain = on_chain(shared, &seen, cx).await?;
        Ok(on_chain.filter(|on_chain| on_chain.head.size > duel.announced).map(|on_chain| on_chain.block))
    }

    async fn run(&self, duel: &OpenDuel, row: &SubmissionRow, seed: Seed, cx: &CallContext) -> Result<Next> {
        let Base { ledger, time, state, .. } = &**self.shared;
        let kings = ledger.kings().await?;
        let king = kings.into_iter().find(|king| king.id == duel.king);
        let king = king.ok_or_else(|| Error::bug("run the duel", "its king is gone"))?;
        let sides = self.contestants.load(&self.shared, &king, row, cx).await?;
        let admission = ledger.admission(row.id).await?;
        let folder = state.join("duels").join(duel.id.to_string());
        let store = self.store(duel.id, folder.clone(), admission.as_ref(), cx).await?;
        let settings = DuelSettings { seed, ..duel.settings.clone() };
        let builder = builder(&self.shared, sides, settings, admission);
        let beginning = Beginning {
            started_ms: time.now_ms(),
            king: king.model,
            challenger: self.model(row)?,
            submission: submission(row).into(),
            attempt: duel.attempt,
        };
        let (shared, announced) = (Arc::clone(&self.shared), duel.announcement.clone());
        let cx_of_duel = cx.with_events(Arc::new(RunningSink(Arc::clone(&shared))));
        let ran = on_thread("run the duel", move || async move {
            let ran = run_in(&store, &builder, &announced, beginning, &shared, &cx_of_duel).await;
            store.close().await?;
            ran
        });
        let report = ran.await?;
        let usd = self.shared.running().end();
        if let Some(record) = report.record {
            return self.decide(duel, row, &report, record, folder, usd, cx).await;
        }
        let outcome = report.verdict.outcome.to_string();
        let error = Error::new(ErrorKind::Unavailable, "run the duel", outcome);
        self.tell(&error).await;
        self.void(duel, error, usd).await
    }

    #[expect(clippy::too_many_arguments, reason = "a verdict is made of these")]
    async fn decide(
        &self,
        duel: &OpenDuel,
        row: &SubmissionRow,
        report: &DuelReport,
        digest: Digest,
        folder: PathBuf,
        usd: f64,
        cx: &CallContext,
    ) -> Result<Next> {
        let Base { ledger, chain, time, .. } = &**self.shared;
        let (path, inner) = (folder.clone(), cx.clone());
        // A crown rests on what a stranger would find.
        let record = on_thread("verify the record", move || async move {
            let record = Record::open(&path)?;
            let options = VerifyOptions { expect: Some(digest), ..VerifyOptions::default() };
            let verified = record::verify_record(&record, &options, &inner).await;
            verified.map_err(|error| error.with_fault(Fault::Bug))?;
            Ok(record)
        });
        let record = record.await?;
        let verdict = &report.verdict;
        let crowned = if verdict.outcome == Outcome::Dethroned {
            Some(Crowned {
                hotkey: row.hotkey.clone(),
                model: self.model(row)?,
                parameters: duel.announcement.challenger,
                block: chain.head(cx).await?.number,
            })
        } else {
            None
        };
        let decision = Decision {
            duel: duel.id,
            outcome: verdict.outcome,
            reason: format!(
                "{}: {:+.2} points over {} samples",
                verdict.outcome, verdict.margin, verdict.samples
            ),
            record: digest,
            ended: Ended::recorded(duel.announced, &record)?,
            folder,
            samples: verdict.samples,
            margin: verdict.margin,
            effect: Effect::of(&record),
            usd,
            crowned,
        };
        ledger.decide(decision, time.now_ms()).await?;
        match verdict.twins.as_ref().and_then(TwinReport::finding) {
            Some(finding) => {
                let error = Error::new(ErrorKind::Unexpected, "trust the duel's judges", finding)
                    .with_fault(Fault::Operator)
                    .with("record", digest);
                super::report(&self.shared, DELTA, &error).await;
            }
            None => {
                ledger.well(DELTA, time.now_ms()).await?;
            }
        }
        self.contestants.drop_challenger().await;
        self.well().await
    }

    /// Ends the alerts of the duel: both sides were loaded, the duel has its verdict, or it is given up.
    async fn well(&self) -> Result<Next> {
        for key in [KING, SETTINGS, DUEL] {
            self.shared.ledger.well(key, self.shared.time.now_ms()).await?;
        }
        Ok(Next::Now)
    }

    async fn void(&self, duel: &OpenDuel, error: Error, usd: f64) -> Result<Next> {
        let Base { ledger, time, .. } = &**self.shared;
        let now_ms = time.now_ms();
        let due = now_ms + pause(error.fault(), duel.voids).as_millis() as u64;
        ledger.void_duel(duel.id, error, usd, due, now_ms).await?;
        Ok(Next::Now)
    }

    /// The journal of the duel, with the challenger's admission in it.
    async fn store(
        &self,
        duel: i64,
        folder: PathBuf,
        admission: Option<&Admission>,
        cx: &CallContext,
    ) -> Result<FileStore> {
        let (key, anchor) = (self.shared.journal_key.clone(), Digest::of(format!("validator duel {duel}")));
        let store = blocking("open the duel's journal", move || {
            match FileStore::resume_keyed(&folder, key.clone(), anchor) {
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    FileStore::create_keyed(folder, key, anchor)
                }
                resumed => resumed,
            }
        });
        let store = store.await?;
        if let Some(admission) = admission
            && store.stored().await?.is_empty()
        {
            admission.keep(&store, cx).await?;
        }
        Ok(store)
    }

    fn model(&self, row: &SubmissionRow) -> Result<ModelRef> {
        Ok(ModelRef::from(self.shared.models.reference(&row.repository, &row.pin)?))
    }

    /// Says why the duel is void.
    async fn tell(&self, error: &Error) {
        match error.fault() {
            Fault::Bug => report(&self.shared, "duels", error).await,
            Fault::Contestant(Side::King) => report(&self.shared, KING, error).await,
            Fault::Operator => report(&self.shared, SETTINGS, error).await,
            _ => report(&self.shared, DUEL, error).await,
        }
    }
}

#[async_trait]
impl Task for Duels {
    fn name(&self) -> &'static str {
        "duels"
    }

    fn limit(&self) -> Duration {
        LIMIT
    }

    async fn step(&self, cx: &CallContext) -> Result<Next> {
        let Some(seen) = self.shared.newest() else { return Ok(Next::Change(IDLE)) };
        if self.shared.ledger.frozen().await?.is_some() {
            return Ok(Next::Change(IDLE));
        }
        match self.shared.ledger.open_duel().await? {
            Some(duel) => self.go_on(&duel, cx).await,
            None => self.plan_next(&seen, cx).await,
        }
    }
}

/// Runs the duel in `store`, whose plan has to be the one that was announced.
async fn run_in(
    store: &FileStore,
    builder: &DuelBuilder,
    announced: &Announced,
    beginning: Beginning,
    shared: &Shared,
    cx: &CallContext,
) -> Result<DuelReport> {
    let planned = builder.plan(store, cx).await?;
    if !announced.announces(planned.plan())? {
        let message = "the configuration has changed since the duel was announced";
        return Err(Error::new(ErrorKind::ConfigInvalid, "go on with the duel", message)
            .with("plan", planned.digest().short())
            .with_hint("go on with the tasks, judges and backend that it was announced with"));
    }
    shared.running().begin(planned.plan(), beginning);
    planned.run(store, cx).await
}

/// The submission as the log and records name it.
fn submission(row: &SubmissionRow) -> Submission {
    Submission { hotkey: row.hotkey.0.clone(), repository: row.repository.clone(), pin: row.pin.clone() }
}

#[cfg(test)]
mod tests;
