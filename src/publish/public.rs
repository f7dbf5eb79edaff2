//! What is published beside the records: the index of all records, the state of the
//! competition, and what a page shows of a duel. JSON with one schema ([`schema`]),
//! written to be read by strangers: no secret and no path of this machine is in it.
//!
//! | object | type | changes |
//! |---|---|---|
//! | `index.json` | [`Index`] | with every record |
//! | `index/DIGEST.json` | [`IndexPage`] | never: `DIGEST` is its SHA-256 |
//! | `records/DIGEST/manifest.json` | [`RecordManifest`](super::RecordManifest) | never, but for who wrote it first |
//! | `data/status.json` | [`Status`] | with the reign and the queue |
//! | `data/running.json` | [`Running`] | during a duel |
//! | `data/submissions.json` | [`Submissions`] | with every submission |
//! | `data/duels/DIGEST.json` | [`DuelData`] | with the version of albedo that wrote it |
//! | `data/duels/DIGEST/samples/NNN.json` | [`SamplePage`] | the same |
//!
//! Times are whole seconds since the Unix epoch. Margins, intervals and differences are
//! in points of 100, challenger minus king. A reader ignores what it does not know of a
//! file whose `format` it knows.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::log::Submission;
use crate::reign::ErrorBudget;
use crate::{Digest, Outcome};

mod duel;

pub use duel::{DuelFiles, duel_files};

pub use crate::shown::{
    CardAnswer, CardJudge, CardMessage, CardReply, CardText, CardTwin, CellNumbers, EvidencePoint,
    EvidenceTrace, PublicJudge, Range, SampleCard, SampleNumbers,
};

/// The version of everything here. A field may be added under the same number; one that
/// goes, or means something else, raises it.
pub const FORMAT: u32 = 1;

/// Every record that is published: the newest here, older ones in pages.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Index {
    /// [`FORMAT`].
    pub format: u32,
    /// When it was written.
    pub updated_at: u64,
    /// How many records there are.
    pub records: u64,
    /// Full pages, the oldest first.
    pub pages: Vec<PageRef>,
    /// The records after those, the oldest first.
    pub entries: Vec<IndexEntry>,
}

/// A page of the index: `index/DIGEST.json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PageRef {
    /// SHA-256 of the page's bytes.
    pub page: Digest,
    /// How many records it has.
    pub records: u32,
}

/// What a page of the index holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IndexPage {
    /// [`FORMAT`].
    pub format: u32,
    /// Records, the oldest first.
    pub entries: Vec<IndexEntry>,
}

/// One record in a line: enough for a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IndexEntry {
    /// The record's digest. Its files are in `records/DIGEST/`.
    pub record: Digest,
    /// When the record was made, by the publisher's clock: no digest covers it.
    pub decided_at: u64,
    /// What the duel came to.
    pub outcome: PublicOutcome,
    /// Why, if there is more to say: `futile`, `not_shown`, `screened`, `overflow`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The king's model.
    pub king: ModelName,
    /// The challenger's model.
    pub challenger: ModelName,
    /// Whose submission the challenger is, where a chain has them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub submission: Option<PublicSubmission>,
    /// The numbers of a duel; none of a submission that was not admitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub numbers: Option<DuelNumbers>,
    /// The record's place in the log of duels, if it is in one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_entry: Option<u64>,
}

/// The numbers of a duel in a line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DuelNumbers {
    /// Samples that the decision consumed.
    pub samples: u32,
    /// Samples after which the duel would have ended at the latest.
    pub planned: u32,
    /// Challenger minus king, mean over the samples.
    pub margin: f64,
    /// The 95 % interval of the margin that holds however the duel ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<Range>,
    /// The decision rule.
    pub rule: String,
    /// The chance of a wrong crown that the duel may spend.
    pub alpha: f64,
    /// Which attempt of the reign it was, from 1; none if it was a duel by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u64>,
}

/// What a record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PublicOutcome {
    /// The challenger took the crown.
    Dethroned,
    /// The king kept it.
    KingHolds,
    /// The challenger lost by what its submission is.
    Forfeit,
    /// No decision; neither side lost.
    Void,
}

impl PublicOutcome {
    /// `outcome` in two words: what, and why.
    pub fn of(outcome: Outcome) -> (Self, Option<String>) {
        let what = match outcome {
            Outcome::Dethroned => Self::Dethroned,
            Outcome::KingHolds(_) => Self::KingHolds,
            Outcome::Forfeit(_) => Self::Forfeit,
            _ => Self::Void,
        };
        // Serde's words are those of the record.
        let value = serde_json::to_value(outcome).unwrap_or_default();
        (what, value.get("reason").and_then(Value::as_str).map(str::to_owned))
    }
}

/// A model by what names it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelName {
    /// Digest of its parameters; none if its weights were never read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameters: Option<Digest>,
    /// Where it can be fetched: `namespace/name@sha256:…` or another hub's reference.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
}

/// A submission as a miner committed to it on a chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PublicSubmission {
    /// Who committed: an SS58 address.
    pub hotkey: String,
    /// The repository, as `namespace/name`.
    pub repository: String,
    /// What pins its content: `sha256:` and a digest, or a git revision.
    pub pin: String,
}

impl From<Submission> for PublicSubmission {
    fn from(Submission { hotkey, repository, pin }: Submission) -> Self {
        Self { hotkey, repository, pin }
    }
}

/// The state of the competition.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Status {
    /// [`FORMAT`].
    pub format: u32,
    /// When it was written. Data is stale once this is older than `stale_after_secs`.
    pub updated_at: u64,
    /// How old the newest data may be before a reader should doubt that anybody still
    /// writes it.
    pub stale_after_secs: u64,
    /// Who wrote it.
    pub source: StatusSource,
    /// The hotkey of the validator that wrote it: heads of its log are on chain under it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validator: Option<String>,
    /// The competitions of the validator, the present one first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub competitions: Vec<PublicCompetition>,
    /// The reign; none before the first king.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reign: Option<Reign>,
    /// Every king, the newest first.
    #[serde(default)]
    pub kings: Vec<King>,
    /// Submissions that wait, the next first.
    #[serde(default)]
    pub queue: Vec<Queued>,
    /// What it costs to register a new hotkey, if a chain tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registration: Option<Registration>,
    /// The log of duels, if one is published beside the records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<PublicLog>,
}

/// Who wrote a [`Status`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StatusSource {
    /// A validator, which knows the chain and the queue.
    Validator,
    /// The publisher, from the records alone: there is no queue, and a king is the
    /// challenger of the last record with a crown.
    Records,
}

/// A competition: it begins with a first king, and ends when another one begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PublicCompetition {
    /// Its number, from 1.
    pub number: u64,
    /// What its commitments begin with, as `v8`; the first competition takes `v4` beside `v7`.
    pub version: String,
    /// When it began; none of the first, which began with the validator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub began_at: Option<u64>,
    /// Why it began, in a sentence.
    pub reason: String,
    /// Its first king, who earns nothing: the king's number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_king: Option<u64>,
}

/// The reign of the king.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Reign {
    /// The king.
    pub king: King,
    /// Challengers that tried so far.
    pub attempts: u64,
    /// The chance that this king is ever dethroned by a challenger that is not better.
    pub alpha: f64,
    /// How much of it the attempts have spent.
    pub spent: f64,
    /// How much is left.
    pub left: f64,
    /// What the next attempt may spend.
    pub next_share: f64,
}

impl Reign {
    /// The reign of `king` under `budget` after `attempts`.
    pub fn new(king: King, budget: &ErrorBudget, attempts: u64) -> Self {
        let (alpha, spent) = (budget.alpha(), budget.spent(attempts));
        Self { king, attempts, alpha, spent, left: alpha - spent, next_share: budget.share(attempts + 1) }
    }
}

/// A king.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct King {
    /// Its place among the kings, from 1: the first reigned before any duel.
    pub number: u64,
    /// Its model.
    pub model: ModelName,
    /// Whose submission it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub submission: Option<PublicSubmission>,
    /// The record of the duel that crowned it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<Digest>,
    /// When it was crowned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crowned_at: Option<u64>,
    /// Its share of the weights now, from 0 to 1; none if it earns nothing any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<f64>,
    /// The number of its competition, where a validator says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub competition: Option<u64>,
}

/// A submission that waits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Queued {
    /// The submission.
    pub submission: PublicSubmission,
    /// Where it stands.
    pub state: SubmissionState,
    /// When it came.
    pub since: u64,
}

/// What a registration costs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Registration {
    /// The price in rao, a billionth of a TAO.
    pub rao: u64,
    /// The block at which it was read.
    pub block: u64,
}

/// A log of duels that is published in `log/`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PublicLog {
    /// Its name.
    pub origin: String,
    /// Its key, `ed25519:…` or `sr25519:…`.
    pub key: String,
    /// How many entries it has.
    pub size: u64,
}

/// The duel that runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Running {
    /// [`FORMAT`].
    pub format: u32,
    /// When it was written.
    pub updated_at: u64,
    /// The duel; none if nothing runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duel: Option<RunningDuel>,
}

/// A duel so far.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RunningDuel {
    /// Digest of the frozen plan.
    pub plan: Digest,
    /// When it began.
    pub started_at: u64,
    /// The king's model.
    pub king: ModelName,
    /// The challenger's model.
    pub challenger: ModelName,
    /// Whose submission the challenger is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub submission: Option<PublicSubmission>,
    /// Which attempt of the reign it is, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u64>,
    /// Samples so far, and the evidence on them.
    pub evidence: EvidenceTrace,
    /// Answers that are missing so far.
    pub missing: u32,
}

/// Every submission and where it stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Submissions {
    /// [`FORMAT`].
    pub format: u32,
    /// When it was written.
    pub updated_at: u64,
    /// The submissions, the newest first.
    pub submissions: Vec<SubmissionStatus>,
}

/// Where one submission stands, why, and what its miner can do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SubmissionStatus {
    /// The submission.
    pub submission: PublicSubmission,
    /// Where it stands.
    pub state: SubmissionState,
    /// Since when.
    pub since: u64,
    /// Why it stands there, in a sentence.
    pub reason: String,
    /// What its miner can do now, in a sentence that begins with `Nothing:` if that is the answer.
    pub action: String,
    /// The record that says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<Digest>,
    /// The number of its competition, where a validator says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub competition: Option<u64>,
}

/// The states of a submission. The first seven are on the way, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum SubmissionState {
    /// The chain revealed it.
    Seen,
    /// Its hotkey and repository may take part.
    Admitted,
    /// Its files passed the screens that need no download.
    FilesClear,
    /// Its bytes are here and have their digests.
    Held,
    /// It passed every screen.
    Clear,
    /// Its duel is planned.
    Planned,
    /// Its duel runs.
    Duelling,
    /// It took the crown.
    Crowned,
    /// The king held.
    Lost,
    /// It lost by what it is.
    Forfeit,
    /// It was never uploaded, or never to be had, in its time.
    Expired,
    /// It takes no part: its hotkey left, or its content had entered before.
    SetAside,
}

/// What a page shows of one duel, beside its samples.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct DuelData {
    /// [`FORMAT`].
    pub format: u32,
    /// The record's digest.
    pub digest: Digest,
    /// As in the index.
    pub entry: IndexEntry,
    /// The frozen plan, as `albedo record show --json` has it; none of a submission that
    /// was not admitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<Value>,
    /// The verdict, as `albedo record show --json` has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Value>,
    /// The admission of a submission that was not admitted, as `albedo record show
    /// --json` has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admission: Option<Value>,
    /// The evidence, sample by sample.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<EvidenceTrace>,
    /// The judges, in panel order.
    #[serde(default)]
    pub judges: Vec<PublicJudge>,
    /// The numbers of every sample, in plan order.
    #[serde(default)]
    pub samples: Vec<SampleNumbers>,
    /// Samples per file of [`SamplePage`]; sample `n` is in file `n / page_size`.
    pub page_size: u32,
    /// The data sets beside the record, as its manifest names them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exports: Vec<super::ManifestFile>,
}

/// The texts of some samples of a duel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SamplePage {
    /// [`FORMAT`].
    pub format: u32,
    /// The record's digest.
    pub digest: Digest,
    /// The samples, in plan order.
    pub samples: Vec<SampleCard>,
}

/// The JSON schema of everything that is published, one definition per type: what
/// `albedo publish schema` prints.
pub fn schema() -> Value {
    let mut generator = schemars::SchemaGenerator::default();
    let kinds = [
        generator.subschema_for::<Index>(),
        generator.subschema_for::<IndexPage>(),
        generator.subschema_for::<super::RecordManifest>(),
        generator.subschema_for::<Status>(),
        generator.subschema_for::<Running>(),
        generator.subschema_for::<Submissions>(),
        generator.subschema_for::<DuelData>(),
        generator.subschema_for::<SamplePage>(),
    ];
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": format!("urn:albedo:public-data:{FORMAT}"),
        "title": "albedo, public data",
        "anyOf": kinds.map(schemars::Schema::to_value),
        "$defs": generator.take_definitions(true),
    })
}

impl Status {
    /// What the records alone tell, the oldest first: the kings, and the reign of the
    /// last. None without a duel.
    pub fn from_records<'a>(
        entries: impl IntoIterator<Item = &'a IndexEntry>,
        updated_at: u64,
    ) -> Option<Self> {
        let mut kings: Vec<King> = Vec::new();
        let mut attempts = (0, None);
        for entry in entries {
            let Some(numbers) = &entry.numbers else { continue };
            if kings.is_empty() {
                let (model, number) = (entry.king.clone(), 1);
                let unknown = King {
                    number,
                    model,
                    submission: None,
                    record: None,
                    crowned_at: None,
                    weight: None,
                    competition: None,
                };
                kings.push(unknown);
            }
            if let Some(attempt) = numbers.attempt {
                attempts = (attempts.0.max(attempt), ErrorBudget::sharing(attempt, numbers.alpha).ok());
            }
            if entry.outcome == PublicOutcome::Dethroned {
                attempts = (0, attempts.1);
                kings.push(King {
                    number: kings.len() as u64 + 1,
                    model: entry.challenger.clone(),
                    submission: entry.submission.clone(),
                    record: Some(entry.record),
                    crowned_at: Some(entry.decided_at),
                    weight: None,
                    competition: None,
                });
            }
        }
        kings.reverse();
        let king = kings.first()?.clone();
        let reign = attempts.1.map(|budget| Reign::new(king, &budget, attempts.0));
        Some(Self {
            format: FORMAT,
            updated_at,
            stale_after_secs: 7 * 24 * 3600,
            source: StatusSource::Records,
            validator: None,
            competitions: Vec::new(),
            reign,
            kings,
            queue: Vec::new(),
            registration: None,
            log: None,
        })
    }
}

#[cfg(test)]
mod tests;
