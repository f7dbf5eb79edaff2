//! What stands in a log: a plan before it has its seed, and what became of it.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::tiles::MAX_ENTRY_BYTES;
use crate::digest::{Digest, canonical_json};
use crate::error::{Error, ErrorKind, Fault, Result};
use crate::plan::DuelPlan;
use crate::record::Record;
use crate::verdict::Outcome;

/// One entry; canonical JSON in the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "entry", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Entry {
    /// A duel is planned: everything that can change its verdict is frozen except
    /// its seed.
    Announced(Announced),
    /// An announced duel came to an end.
    Ended(Ended),
    /// A submission was not admitted: it has a record and no plan.
    Forfeited(Forfeited),
}

/// A plan without its seed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Announced {
    /// Digest of the canonical JSON of the plan without `seed`, `judges` and the
    /// `preflight` of its canaries: the preflight draws by the seed, and can take
    /// a judge off the panel.
    pub plan: Digest,
    /// Digests of the canonical JSON of the identities of the judges that were
    /// asked onto the panel, in its order.
    pub judges: Vec<Digest>,
    /// Parameters digest of the king.
    pub king: Digest,
    /// Parameters digest of the challenger.
    pub challenger: Digest,
    /// Whose submission the challenger is, where a chain has them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub submission: Option<Submission>,
}

/// The end of an announced duel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ended {
    /// The entry that announced it, from 0.
    pub announced: u64,
    /// How it ended.
    pub end: End,
}

/// How a duel ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// With a record.
    Recorded {
        /// Digest of the plan with its seed.
        plan: Digest,
        /// The record's digest.
        record: Digest,
        /// What it came to.
        outcome: Outcome,
    },
    /// Without one: the duel was given up.
    Abandoned {
        /// Why.
        reason: String,
    },
}

/// A submission that was not admitted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Forfeited {
    /// The record's digest.
    pub record: Digest,
    /// Whose submission it is, where a chain has them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub submission: Option<Submission>,
}

/// A submission as a miner committed to it on a chain.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Submission {
    /// Who committed: an SS58 address.
    pub hotkey: String,
    /// The repository, as `namespace/name`.
    pub repository: String,
    /// What pins its content: `sha256:` and a digest, or a git revision.
    pub pin: String,
}

impl Entry {
    /// The entry as it stands in the log.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] for one that is longer than an entry may be.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let bytes = canonical_json(self)?;
        if bytes.len() > MAX_ENTRY_BYTES {
            let message = format!("it has {} bytes, and may have {MAX_ENTRY_BYTES}", bytes.len());
            return Err(Error::new(ErrorKind::Unsupported, "write an entry of the log", message));
        }
        Ok(bytes)
    }

    /// Reads an entry.
    ///
    /// # Errors
    /// [`ErrorKind::DataInvalid`] if it is malformed or not canonical.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let invalid =
            |message: String| Error::new(ErrorKind::DataInvalid, "read an entry of the log", message);
        let entry: Self = serde_json::from_slice(bytes).map_err(|error| invalid(error.to_string()))?;
        if canonical_json(&entry)? != bytes {
            return Err(invalid("it is not in canonical form".into()));
        }
        Ok(entry)
    }

    /// The submission that the entry is about, if it names one.
    pub fn submission(&self) -> Option<&Submission> {
        match self {
            Self::Announced(Announced { submission, .. }) | Self::Forfeited(Forfeited { submission, .. }) => {
                submission.as_ref()
            }
            Self::Ended(_) => None,
        }
    }

    /// The digest of the record that the entry says there is.
    pub fn record(&self) -> Option<Digest> {
        match self {
            Self::Ended(Ended { end: End::Recorded { record, .. }, .. })
            | Self::Forfeited(Forfeited { record, .. }) => Some(*record),
            _ => None,
        }
    }
}

impl Announced {
    /// The announcement of `plan`. Whatever its seed is does not matter.
    pub fn new(plan: &DuelPlan, submission: Option<Submission>) -> Result<Self> {
        Ok(Self {
            plan: without_seed(plan)?,
            judges: judges(plan)?,
            king: plan.king.model.parameters,
            challenger: plan.challenger.model.parameters,
            submission,
        })
    }

    /// Whether it announced `plan`: it is the same except for its seed, and judges are
    /// missing only if they failed the preflight.
    pub fn announces(&self, plan: &DuelPlan) -> Result<bool> {
        let judges = judges(plan)?;
        let failed = plan.canaries.iter().flat_map(|canaries| &canaries.preflight.judges);
        let failed = failed.filter(|judge| !judge.passed()).map(|judge| Digest::of_json(&judge.judge));
        let failed = failed.collect::<Result<Vec<_>>>()?;
        let left: Vec<_> = self.judges.iter().filter(|judge| !failed.contains(judge)).copied().collect();
        Ok(self.plan == without_seed(plan)? && left == judges)
    }
}

impl Ended {
    /// The end of the duel that entry `announced` announced, by its record.
    pub fn recorded(announced: u64, record: &Record) -> Result<Self> {
        let (plan, outcome) = (record.plan().digest()?, record.verdict().outcome);
        Ok(Self { announced, end: End::Recorded { plan, record: record.digest, outcome } })
    }
}

impl Submission {
    /// Reads `HOTKEY` and the text that it committed to: `v7|REPOSITORY|PIN`, or
    /// `v4|REPOSITORY|PIN` with or without an author after it.
    ///
    /// # Errors
    /// The operator's: the text has other parts.
    pub fn new(hotkey: impl Into<String>, text: &str) -> Result<Self> {
        match text.split('|').collect::<Vec<_>>()[..] {
            ["v4" | "v7", repository, pin] | ["v4", repository, pin, _]
                if !repository.is_empty() && !pin.is_empty() =>
            {
                Ok(Self { hotkey: hotkey.into(), repository: repository.into(), pin: pin.into() })
            }
            _ => Err(Error::new(ErrorKind::ConfigInvalid, "read a submission", "it is no commitment's text")
                .with_fault(Fault::Operator)
                .with("text", text.chars().take(300).collect::<String>())
                .with_hint("give it as the chain has it: `v7|REPOSITORY|PIN`")),
        }
    }
}

fn without_seed(plan: &DuelPlan) -> Result<Digest> {
    let mut plan = serde_json::to_value(plan)
        .map_err(|error| Error::bug("announce a plan", error.to_string()).with_source(error))?;
    if let Value::Object(plan) = &mut plan {
        plan.remove("seed");
        plan.remove("judges");
        if let Some(Value::Object(canaries)) = plan.get_mut("canaries") {
            canaries.remove("preflight");
        }
    }
    Digest::of_json(&plan)
}

fn judges(plan: &DuelPlan) -> Result<Vec<Digest>> {
    plan.judges.iter().map(|judge| Digest::of_json(&judge.identity)).collect()
}
