//! Decides who takes part, fetches submissions and screens them, in the order of their
//! places.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::json;

use self::findings::{is_unfetched, rejected, void};
use self::text::{check_text, lacking_text, without_text};
use super::checks::{Miners, barred, gone, is_own, is_own_try, ordered, same_content};
use super::likeness::is_like_the_king_alone;
use super::turn::{Turn, next_to_screen};
use super::{IDLE, Next, Task, report, report_anew};
use crate::admission::{Probes, ScreenedModel};
use crate::chain::BlockNumber;
use crate::chains::ledger::Swap;
use crate::judges::screens::Measurement;
use crate::record::FileStore;
use crate::validator::ledger::{KingRow, Reason, SubmissionRow};
use crate::validator::models::{blocking, content, is_absence};
use crate::validator::parts::{Base, Seen, Shared};
use crate::validator::seeds;
use crate::validator::table::{Move, State};
use crate::{
    Admission, AdmissionOutcome, Admit, CallContext, Digest, Error, ErrorKind, Fault, Finding, HubRef,
    Identity, ModelFiles, ModelRef, ModelSource, Models, Result, Revision, Screen, ScreenStage, Screened,
    Seed, Side,
};

mod findings;
mod text;

/// How long the task may go without progress: reading the weights of a model says so with
/// every block. Source: albedo.
const LIMIT: Duration = Duration::from_mins(10);

/// How often an artefact that is not there yet is asked for. Source: albedo.
const ASK_AGAIN: Duration = Duration::from_secs(30);

/// Blocks for which a hub has to say that it does not have the files of a submission before that
/// expires: a registry whose storage is not there says that of everything. Source: albedo; ten
/// minutes.
const ABSENT_BLOCKS: BlockNumber = 50;

/// Alert: a submission cannot be fetched or screened.
const HELD_UP: &str = "a submission is held up";

/// Failures in a row of one submission after which that is reported: some five minutes.
/// Source: albedo.
const REPORTED: u32 = 5;

/// Submissions that the alert names beside the one that failed last. Source: albedo; a line.
const NAMED: usize = 8;

#[derive(Debug)]
pub(super) struct Admissions(Arc<Shared>);

/// What became of a look at a submission.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Looked {
    Moved,
    /// Nothing is to be done before that time, in milliseconds since the Unix epoch.
    Waits(u64),
}

impl Admissions {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self(shared)
    }

    async fn step_from(&self, row: &SubmissionRow, step: Move, reason: Reason) -> Result<Looked> {
        let Base { ledger, time, .. } = &**self.0;
        ledger.step(row.id, step, reason, time.now_ms()).await?;
        Ok(Looked::Moved)
    }

    async fn look_at(
        &self,
        row: &SubmissionRow,
        king: &KingRow,
        seen: &Seen,
        cx: &CallContext,
    ) -> Result<Looked> {
        if let Some(why) = ordered(row) {
            return self.step_from(row, Move::SetAside, Reason::new(why)).await;
        }
        // The chain before the commitment says nothing of its hotkey.
        if seen.head.number < row.readable_at {
            return Ok(Looked::Waits(self.0.time.now_ms() + self.0.poll.as_millis() as u64));
        }
        if matches!(row.state, State::Admitted | State::FilesClear | State::Held)
            && let Some(why) = self.gone(row, seen, cx).await?
        {
            return self.step_from(row, Move::SetAside, Reason::new(why)).await;
        }
        match row.state {
            State::Seen => self.enter(row, seen, cx).await,
            State::Admitted => self.list(row, king, seen, cx).await,
            State::FilesClear => self.hold(row, king, seen, cx).await,
            State::Held => self.screen(row, king, seen, cx).await,
            State::Clear => {
                let text = "another king reigns: it is compared with that one";
                self.step_from(row, Move::Rescreen, Reason::new(text)).await
            }
            _ => Err(Error::bug("look at a submission", "it is not in admission's hands")),
        }
    }

    async fn swaps(&self, cx: &CallContext) -> Result<Vec<Swap>> {
        let shared = &*self.0;
        shared.reveals.swaps(shared.chain_id(cx).await?, shared.netuid).await
    }

    /// Why its hotkey is not on the subnet any more, if it is not.
    async fn gone(&self, row: &SubmissionRow, seen: &Seen, cx: &CallContext) -> Result<Option<String>> {
        if seen.metagraph.of(&row.hotkey).is_some() {
            return Ok(None);
        }
        Ok(gone(&row.hotkey, &seen.metagraph, &self.swaps(cx).await?))
    }

    /// Whether its hotkey and repository may take part.
    async fn enter(&self, row: &SubmissionRow, seen: &Seen, cx: &CallContext) -> Result<Looked> {
        let shared = &*self.0;
        let swaps = self.swaps(cx).await?;
        let miners = Miners::new(&swaps);
        let all = shared.ledger.related(row, miners.hotkeys(&row.hotkey)).await?;
        let why = barred(row, &all, shared.entry.per_hotkey, &miners, &seen.metagraph, &swaps);
        let why = match why {
            None => shared.models.refusal(&row.repository, &row.pin)?,
            why => why,
        };
        let why = match why {
            None => {
                let (ledger, first) = (&shared.ledger, miners.first(&row.hotkey));
                match ledger.used_before(&row.hotkey, &row.repository, &row.pin).await? {
                    None => ledger.used_before(first, &row.repository, &row.pin).await?,
                    used => used,
                }
            }
            why => why,
        };
        match why {
            Some(why) => self.step_from(row, Move::SetAside, Reason::new(why)).await,
            None => {
                self.step_from(row, Move::Admit, Reason::new("its hotkey and repository take part")).await
            }
        }
    }

    /// Lists its files and screens what can be screened without fetching them.
    async fn list(
        &self,
        row: &SubmissionRow,
        king: &KingRow,
        seen: &Seen,
        cx: &CallContext,
    ) -> Result<Looked> {
        let shared = &*self.0;
        // A build that did not ask its hub's rules may have admitted it.
        if let Some(why) = shared.models.refusal(&row.repository, &row.pin)? {
            return self.step_from(row, Move::SetAside, Reason::new(why)).await;
        }
        let reference = self.reference(row)?;
        let listed = async {
            let files = shared.models.resolve(&reference, cx).await?;
            let found = content(&files, cx).await?;
            Ok::<_, Error>((files, found))
        };
        let (files, found) = match listed.await.map_err(|error| error.charged_to(|_| Side::Challenger)) {
            Err(error) if is_absence(&error) => return self.absent(row, seen.head.number).await,
            Err(error) if error.fault() == Fault::Contestant(Side::Challenger) => {
                // The hub alone vouches for its listing: a mistake in it counts only if a second listing
                // has it, too.
                if shared.models.resolve(&reference, cx).await.is_ok() {
                    return Err(error.with_fault(Fault::Infrastructure));
                }
                return self.convict(row, king, "listing", error, seen, cx).await;
            }
            listed => listed?,
        };
        let files: Arc<dyn ModelFiles> = Arc::new(files);
        let row = SubmissionRow { content: Some(found), ..row.clone() };
        let miners = Miners::new(&self.swaps(cx).await?);
        if let Some(first) = same_content(&row, &shared.ledger.related(&row, Vec::new()).await?, &miners) {
            let why =
                format!("{} entered the same files before, in block {}", first.hotkey, first.place.block);
            if is_own(first, &row, &miners) {
                return self.step_from(&row, Move::SetAside, Reason::new(why)).await;
            }
            let evidence = json!({ "content": found, "entered_by": first.hotkey, "in_block": first.place.block,
                "as": first.text, "entered_now_in_block": row.place.block });
            let finding = Finding::Rejected(evidence);
            let convicted = self.convicted(&row, king, "content", ScreenStage::Files, finding, cx).await?;
            return match convicted {
                Some(admission) => self.forfeit(&row, admission, why, cx).await,
                None => self.absent(&row, seen.head.number).await,
            };
        }
        let screens = shared.screens.iter().filter(|screen| screen.stage() == ScreenStage::Files);
        let screens: Vec<Arc<dyn Screen>> = screens.cloned().collect();
        let admission = self.admit(&row, king, files, screens, cx).await?.run(cx).await?;
        // Its hub lists a file that it does not have.
        if is_unfetched(&admission, &reference) {
            return self.lost(&row, void(&admission), seen.head.number, cx).await;
        }
        let reason = Reason::new("its files pass the screens that need no download").content(found);
        self.settle(&row, king, admission, Move::ClearFiles, reason, cx).await
    }

    /// Waits for files that may still be uploaded, or come back, or ends it.
    async fn absent(&self, row: &SubmissionRow, head: BlockNumber) -> Result<Looked> {
        let Base { ledger, time, .. } = &**self.0;
        let blocks = self.0.entry.upload_blocks;
        let were_there = row.content.is_some();
        let first = ledger.note_absent(row.id, head).await?;
        let until = row.readable_at.saturating_add(blocks).max(first.saturating_add(ABSENT_BLOCKS));
        if head > until {
            let why = if were_there {
                format!(
                    "the hub no longer had its files in block {head}; they have to stay until its duel is over"
                )
            } else {
                format!(
                    "its files were not there by block {until}: {blocks} blocks after the reveal, or later if the hub \
                     was not asked before"
                )
            };
            return self.step_from(row, Move::Expire, Reason::new(why)).await;
        }
        let due = time.now_ms() + ASK_AGAIN.min(self.0.poll.saturating_mul(2)).as_millis() as u64;
        let why = if were_there {
            format!("the hub no longer has its files; they may come back until block {until}")
        } else {
            format!("its files are not there yet; they may come until block {until}")
        };
        ledger.wait(row.id, why, due).await?;
        Ok(Looked::Waits(due))
    }

    /// Its files could not be had, as `error` says. Treats them as absent if its hub says the
    /// same now; what else keeps them away is not its doing.
    ///
    /// # Errors
    /// `error`.
    pub(super) async fn lost(
        &self,
        row: &SubmissionRow,
        error: Error,
        head: BlockNumber,
        cx: &CallContext,
    ) -> Result<Looked> {
        let model = ModelRef::from(self.reference(row)?);
        if self.0.models.is_absent(&model, cx).await? { self.absent(row, head).await } else { Err(error) }
    }

    /// Fetches it and compares every byte with its digest.
    async fn hold(
        &self,
        row: &SubmissionRow,
        king: &KingRow,
        seen: &Seen,
        cx: &CallContext,
    ) -> Result<Looked> {
        let shared = &*self.0;
        let reference = self.reference(row)?;
        let is_commit = matches!(reference.revision(), Revision::Commit(_));
        if let Err(error) = shared.models.local(&ModelRef::from(reference.clone()), cx).await {
            let error = error.charged_to(|_| Side::Challenger);
            if is_absence(&error) {
                return self.lost(row, error, seen.head.number, cx).await;
            }
            if error.fault() != Fault::Contestant(Side::Challenger) {
                return Err(error);
            }
            // A manifest proves what it lists. For a commit's listing the hub alone vouches.
            if is_commit && shared.models.resolve(&reference, cx).await.is_ok() {
                return Err(error.with_fault(Fault::Infrastructure));
            }
            return self.convict(row, king, "hold", error, seen, cx).await;
        }
        // Read after the bytes are here: the miner who uploaded them cannot have known the
        // block after it.
        let head = shared.head_number(cx).await?;
        let reason = Reason::new("its files are here and have their digests").held_at(head);
        self.step_from(row, Move::Hold, reason).await
    }

    /// Runs every screen.
    async fn screen(
        &self,
        row: &SubmissionRow,
        king: &KingRow,
        seen: &Seen,
        cx: &CallContext,
    ) -> Result<Looked> {
        let shared = &*self.0;
        let (Some(held), Some(content)) = (row.held_block, row.content) else {
            return Err(Error::bug("screen a submission", "it is held and has no block or no content"));
        };
        let block = match shared.chain.block(held + 1, cx).await {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let due = shared.time.now_ms() + shared.poll.as_millis() as u64;
                return Ok(Looked::Waits(due));
            }
            block => block?,
        };
        let reference = self.reference(row)?;
        let local = match shared.models.local(&ModelRef::from(reference.clone()), cx).await {
            // It had to make room here.
            Err(error) if is_absence(&error) => return self.lost(row, error, seen.head.number, cx).await,
            local => local?,
        };
        let backend = &*shared.backend;
        let submission = ModelRef::from(reference.clone());
        let (model, _held) = shared.models.for_backend(backend, &submission, cx).await?;
        let (text, _text_held) = shared.models.for_backend(backend, &king.model, cx).await?;
        let admit =
            self.admit(row, king, local.files(), shared.screens.clone(), cx).await?.with_probes(Probes {
                backend: Arc::clone(&shared.backend),
                model: ModelSource::new(model).with_text_from(text.clone()),
                seed: seeds::screens(block.hash, content),
            });
        let week = shared.chain.block(seeds::week(held), cx).await?;
        let admit = admit.with_king(ModelSource::new(text)).with_questions(Seed::of_questions(week.hash));
        let kings = shared.models.local(&king.model, cx).await;
        let kings = kings.map_err(|error| error.charged_to(|_| Side::King))?;
        let screened = async {
            // Until it reigns it is loaded with the king's text.
            let checked = check_text(local.folder.clone(), kings.folder.clone()).await;
            checked.map_err(|error| match lacking_text(&local, &kings.folder) {
                Some(file) if error.kind() == ErrorKind::NotFound => without_text(file),
                _ => error,
            })?;
            let admission = admit.run(cx).await?;
            if admission.is_admitted() {
                // Its bytes are those that were handed in: what is wrong with them is its own.
                let remembered = self.remember(row, local.files(), cx).await;
                remembered.map_err(|error| error.charged_to(|_| Side::Challenger))?;
            }
            Ok::<_, Error>(admission)
        };
        let admission = match screened.await {
            Err(error) if error.fault() == Fault::Contestant(Side::Challenger) => {
                return self.convict(row, king, "load", error, seen, cx).await;
            }
            admission => admission?,
        };
        // A server fetches it by itself.
        if backend.takes_references() && is_unfetched(&admission, &reference) {
            return self.lost(row, void(&admission), seen.head.number, cx).await;
        }
        let reason = Reason::new("every screen passed it").screened(admission.clone(), king.id);
        self.settle(row, king, admission, Move::Clear, reason, cx).await
    }

    /// Has the screens compare later submissions with it, also those that were screened before it.
    async fn remember(
        &self,
        row: &SubmissionRow,
        files: Arc<dyn ModelFiles>,
        cx: &CallContext,
    ) -> Result<()> {
        let Shared { store, align, .. } = &*self.0;
        let measured = Measurement::take(files, align.clone(), cx).await?;
        let (store, label, hotkey) = (Arc::clone(store), label(row), row.hotkey.0.clone());
        let block = Some(row.place.block);
        let remembered = blocking("remember a submission", move || {
            measured.remember(&store, label, hotkey, block).map(drop)
        });
        remembered.await?;
        self.screen_later_again(row).await
    }

    /// Screens again the later submissions that are clear: any of them may be a copy of `row`. Only an
    /// earlier one sends back a later one, so that this has an end.
    async fn screen_later_again(&self, row: &SubmissionRow) -> Result<()> {
        let Base { ledger, time, .. } = &**self.0;
        let is_later = |other: &SubmissionRow| {
            other.state == State::Clear && other.competition == row.competition && other.order() > row.order()
        };
        let live = ledger.live().await?;
        let later: Vec<_> = live.iter().filter(|other| is_later(other)).map(|other| other.id).collect();
        if later.is_empty() {
            return Ok(());
        }
        let why = format!(
            "{}, who committed before, in block {}, has passed the screens: it is compared with that model",
            row.hotkey, row.place.block
        );
        ledger.screen_again(later, why, time.now_ms()).await
    }

    /// What follows from an admission beside `king`: `step` if it is admitted.
    async fn settle(
        &self,
        row: &SubmissionRow,
        king: &KingRow,
        admission: Admission,
        step: Move,
        reason: Reason,
        cx: &CallContext,
    ) -> Result<Looked> {
        match admission.outcome {
            AdmissionOutcome::Admitted => self.step_from(row, step, reason).await,
            AdmissionOutcome::Forfeit => {
                if is_like_the_king_alone(&admission)
                    && let Some(crowned) = self.later_king(row, king).await?
                {
                    let why = format!(
                        "the king has the same model, from {}, who committed later, in block {}: it is no copy, and \
                         a duel of a model with itself decides nothing; another model is needed, since this one, \
                         committed again, would come after the king's",
                        crowned.hotkey, crowned.place.block
                    );
                    return self.step_from(row, Move::SetAside, Reason::new(why)).await;
                }
                let store = Arc::clone(&self.0.store);
                let (admission, why) = blocking("say why a submission was rejected", move || {
                    let why = rejected(&admission, |label| store.first_label(label))?;
                    Ok((admission, why))
                })
                .await?;
                self.forfeit(row, admission, why, cx).await
            }
            AdmissionOutcome::Void => Err(void(&admission)),
        }
    }

    /// The submission of `king`, if its place is after that of `row`: it was screened first.
    async fn later_king(&self, row: &SubmissionRow, king: &KingRow) -> Result<Option<SubmissionRow>> {
        let Some(crowned) = king.submission else { return Ok(None) };
        let crowned = self.0.ledger.submission(crowned).await?;
        let is_later = crowned.competition == row.competition && crowned.order() > row.order();
        Ok(is_later.then_some(crowned))
    }

    /// Records the evidence and ends it.
    async fn forfeit(
        &self,
        row: &SubmissionRow,
        admission: Admission,
        why: String,
        cx: &CallContext,
    ) -> Result<Looked> {
        let shared = &*self.0;
        // Another task may have ended it meanwhile: its record stays.
        if shared.ledger.submission(row.id).await?.state != row.state {
            return Ok(Looked::Moved);
        }
        let folder = shared.state.join("forfeits").join(row.id.to_string());
        // A process that was killed may have left half of it: the admission is made again.
        let path = folder.clone();
        let store = blocking("record a forfeit", move || {
            if path.exists() {
                std::fs::remove_dir_all(&path)
                    .map_err(|error| Error::io("record a forfeit", &path, error))?;
            }
            FileStore::create(path)
        });
        let store = store.await?;
        let kept = admission.keep(&store, cx).await;
        store.close().await?;
        let record = kept?.ok_or_else(|| Error::bug("record a forfeit", "there is no record"))?;
        let reason = Reason::new(why);
        let reason = row.content.map_or(reason.clone(), |content| reason.content(content));
        shared.ledger.forfeit(row.id, reason, record, folder, shared.time.now_ms()).await?;
        Ok(Looked::Moved)
    }

    /// Ends it by what its own proven bytes are, as `error` says. Treats it as absent if nothing
    /// shows any more what they were.
    pub(super) async fn convict(
        &self,
        row: &SubmissionRow,
        king: &KingRow,
        name: &str,
        error: Error,
        seen: &Seen,
        cx: &CallContext,
    ) -> Result<Looked> {
        let finding = Finding::Rejected(json!({ "error": error.to_string() }));
        match self.convicted(row, king, name, ScreenStage::Files, finding, cx).await? {
            Some(admission) => self.forfeit(row, admission, error.to_string(), cx).await,
            None => self.absent(row, seen.head.number).await,
        }
    }

    /// The admission that a finding of the validator's own ends; none if the submission is not on
    /// this machine and its hub says that it does not have it.
    async fn convicted(
        &self,
        row: &SubmissionRow,
        king: &KingRow,
        name: &str,
        stage: ScreenStage,
        finding: Finding,
        cx: &CallContext,
    ) -> Result<Option<Admission>> {
        let shared = &*self.0;
        let reference = self.reference(row)?;
        let named = Some(reference.clone());
        // What is held stays what was handed in, whatever becomes of its repository.
        let submission = match shared.models.held(&reference, cx).await? {
            Some(held) => ScreenedModel::listed(&*held.files(), named, cx).await,
            None => match shared.models.resolve(&reference, cx).await {
                Ok(files) => ScreenedModel::listed(&files, named, cx).await,
                Err(error) => Err(error),
            },
        };
        let submission = match submission {
            Err(error) if is_absence(&error) => return Ok(None),
            // What is wrong may be the listing itself.
            Err(error) if is_the_challengers(&error) => ScreenedModel {
                reference: Some(reference),
                files: 0,
                bytes: 0,
                listing: Digest::of_json(&json!([]))?,
                parameters: None,
            },
            submission => submission?,
        };
        let king_files = shared.models.local(&king.model, cx).await?.files();
        let screen = Identity::new(name, "1", &json!({}))?;
        Ok(Some(Admission {
            king: ScreenedModel::listed(&*king_files, hub(&king.model), cx).await?,
            submission,
            anchor: None,
            profile: None,
            seed: None,
            findings: vec![Screened { screen, stage, finding }],
            outcome: AdmissionOutcome::Forfeit,
        }))
    }

    async fn admit(
        &self,
        row: &SubmissionRow,
        king: &KingRow,
        submission: Arc<dyn ModelFiles>,
        screens: Vec<Arc<dyn Screen>>,
        cx: &CallContext,
    ) -> Result<Admit> {
        let shared = &*self.0;
        let king_files = shared.models.local(&king.model, cx).await;
        let king_files = king_files.map_err(|error| error.charged_to(|_| Side::King))?.files();
        let models = Models { anchor: shared.anchor(king, cx).await?, ..Models::new(king_files, submission) };
        let references = (hub(&king.model), self.reference(row).ok());
        let admit = Admit::new(screens, models).with_own(self.own(row, cx).await?);
        let admit = admit.with_references(references.0, references.1);
        Ok(match &shared.profile {
            Some(profile) => admit.with_profile(profile.clone()),
            None => admit,
        })
    }

    /// Labels in the store of submissions of what it is no copy of: itself, what its miner handed in
    /// and never entered, and what came after it, which may have been screened first.
    async fn labels(&self, row: &SubmissionRow, cx: &CallContext) -> Result<Vec<String>> {
        let ledger = &self.0.ledger;
        let miners = Miners::new(&self.swaps(cx).await?);
        let related = ledger.related(row, miners.hotkeys(&row.hotkey)).await?;
        let later = ledger.later_than(row).await?;
        let tries = related.iter().filter(|other| is_own_try(other, row, &miners));
        Ok(tries.chain(&later).chain([row]).map(label).collect())
    }

    /// As [`Admissions::labels`], for the screens: they know each model of the store by one label, and
    /// several submissions may have had it.
    async fn own(&self, row: &SubmissionRow, cx: &CallContext) -> Result<Vec<String>> {
        let (labels, store) = (self.labels(row, cx).await?, Arc::clone(&self.0.store));
        blocking("find a submission's own models", move || store.own(&labels)).await
    }

    fn reference(&self, row: &SubmissionRow) -> Result<HubRef> {
        self.0.models.reference(&row.repository, &row.pin)
    }

    /// Something failed that is not its doing, or a bug: it is tried again.
    async fn failed(&self, row: &SubmissionRow, error: Error) -> Result<()> {
        let shared = &*self.0;
        if error.fault() == Fault::Bug {
            report(shared, self.name(), &error).await;
        } else if error.fault() == Fault::Operator || row.voids >= REPORTED {
            let mut others = shared.ledger.held_up(REPORTED).await?;
            // Those that are only seen are not among them.
            let joins = row.state != State::Seen && !others.contains(&row.id);
            others.retain(|id| *id != row.id);
            let error = held_up(row.id, &others, error.clone());
            // One alert, however many an outage holds up. Who was told hears of each that joins.
            if joins {
                report_anew(shared, HELD_UP, &error).await;
            } else {
                report(shared, HELD_UP, &error).await;
            }
        }
        let due = shared.time.now_ms() + super::turn::pause(error.fault(), row.voids).as_millis() as u64;
        let step = if row.state == State::Seen { None } else { Some(Move::Void) };
        match step {
            Some(step) => {
                let reason = Reason::failed(&error, due);
                shared.ledger.step(row.id, step, reason, shared.time.now_ms()).await.map(drop)
            }
            None => shared.ledger.wait(row.id, error.to_string(), due).await,
        }
    }

    /// The alert ends once nothing is held up.
    async fn well(&self) -> Result<()> {
        let Base { ledger, time, .. } = &**self.0;
        if ledger.held_up(REPORTED).await?.is_empty() {
            ledger.well(HELD_UP, time.now_ms()).await?;
        }
        Ok(())
    }
}

#[async_trait]
impl Task for Admissions {
    fn name(&self) -> &'static str {
        "admission"
    }

    fn limit(&self) -> Duration {
        LIMIT
    }

    async fn step(&self, cx: &CallContext) -> Result<Next> {
        let shared = &*self.0;
        let Some(seen) = shared.newest() else { return Ok(Next::Change(IDLE)) };
        let (king, now_ms) = (shared.king().await?, shared.time.now_ms());
        let live = shared.ledger.live().await?;
        let mut skip = Vec::new();
        let mut next_due = None;
        loop {
            let row = match next_to_screen(&live, king.id, shared.entry.ahead, now_ms, &skip) {
                Turn::Take(row) => row,
                Turn::Wait(due) => {
                    let due = [due, next_due].into_iter().flatten().min();
                    let pause =
                        due.map_or(IDLE, |due| Duration::from_millis(due.saturating_sub(now_ms).max(1)));
                    return Ok(Next::Change(pause.min(IDLE)));
                }
            };
            match self.look_at(row, &king, &seen, cx).await {
                Ok(looked) => {
                    if looked == Looked::Moved || row.voids > 0 {
                        self.well().await?;
                    }
                    let Looked::Waits(due) = looked else { return Ok(Next::Now) };
                    next_due = Some(next_due.map_or(due, |next: u64| next.min(due)));
                    skip.push(row.id);
                }
                Err(error) if error.kind() == ErrorKind::Cancelled => return Err(error),
                Err(error) => {
                    self.failed(row, error).await?;
                    return Ok(Next::Now);
                }
            }
        }
    }
}

/// The error of the alert that the submission `id` is held up by `error`, beside `others`.
fn held_up(id: i64, others: &[i64], error: Error) -> Error {
    let error = error.with("submission", id);
    let named: Vec<_> = others.iter().take(NAMED).map(i64::to_string).collect();
    match others.len().saturating_sub(NAMED) {
        _ if others.is_empty() => error,
        0 => error.with("held up, too", named.join(" ")),
        more => error.with("held up, too", format_args!("{} and {more} more", named.join(" "))),
    }
}

/// Whether `error` is about what the challenger handed in.
fn is_the_challengers(error: &Error) -> bool {
    error.clone().charged_to(|_| Side::Challenger).fault() == Fault::Contestant(Side::Challenger)
}

/// What the store of submissions and findings call it.
fn label(row: &SubmissionRow) -> String {
    format!("{} {}", row.hotkey, row.text)
}

fn hub(model: &ModelRef) -> Option<HubRef> {
    match model {
        ModelRef::Hub(reference) => Some(reference.clone()),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
