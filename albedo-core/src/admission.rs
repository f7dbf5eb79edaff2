//! Admission: whether a submission may duel, found out by screens in three
//! stages, the cheapest first.
//!
//! | stage | reads | ends admission |
//! |---|---|---|
//! | files | listings and ranged reads of submission and king | rejected, unverified |
//! | parameters | the weights of anchor, king and submission, each once however many screens look | rejected, unverified |
//! | behaviour | replies of the loaded submission | rejected, unverified |
//!
//! All screens of a stage run. Then its findings decide: one that is `rejected`
//! makes the submission forfeit; otherwise one that is `unverified` leaves
//! admission void, to be tried again; `flagged` goes on, with its evidence. An
//! error of a screen is `unverified`.
//!
//! Reading, store look-ups and comparisons run on threads that may block: a disk
//! that stalls delays no other task.

use std::fmt::{self, Debug};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::backend::{ModelBackend, ModelSource};
use crate::context::CallContext;
use crate::digest::Digest;
use crate::error::{Error, ErrorKind, Result};
use crate::files::ModelFiles;
use crate::identity::Identity;
use crate::model_ref::HubRef;
use crate::screen::{Finding, Screen, ScreenStage};

mod stages;

pub use stages::inspect_weights;

/// What admission came to, and the findings that it rests on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Admission {
    /// The king that the submission was compared with.
    pub king: ScreenedModel,
    /// The submission.
    pub submission: ScreenedModel,
    /// Digest of the parameters of the anchor, if a screen looked at one that
    /// is not the king.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anchor: Option<Digest>,
    /// The profile that the screens and their settings are of; none where they were chosen
    /// one by one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<ScreenProfile>,
    /// What the probes of the behaviour stage follow from, if it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// The findings, stage by stage, in the order of the screens.
    pub findings: Vec<Screened>,
    /// What they amount to: always [`AdmissionOutcome::of`] the findings.
    pub outcome: AdmissionOutcome,
}

/// Screens with their settings and thresholds under a name that has a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScreenProfile {
    /// The name, for example `sn97-2026-12`.
    pub name: String,
    /// Digest of the canonical JSON of the identities of all its screens, in order: names,
    /// versions, digests of settings.
    pub screens: Digest,
}

impl ScreenProfile {
    /// The profile `name` of `screens`.
    ///
    /// # Errors
    /// None that a caller could cause.
    pub fn new(name: impl Into<String>, screens: &[Arc<dyn Screen>]) -> Result<Self> {
        let identities: Vec<&Identity> = screens.iter().map(|screen| screen.identity()).collect();
        Ok(Self { name: name.into(), screens: Digest::of_json(&identities)? })
    }
}

/// A model that was screened, as a record names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScreenedModel {
    /// The reference under which it can be fetched, if it is in a hub.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<HubRef>,
    /// Number of its files.
    pub files: u64,
    /// Bytes of its files.
    pub bytes: u64,
    /// Digest of the canonical JSON of its listing: names and sizes in byte
    /// order of the names.
    pub listing: Digest,
    /// Digest of its parameters, once its weights were read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameters: Option<Digest>,
}

impl ScreenedModel {
    /// The model whose files are `files`, by its listing alone: no weight is read, and
    /// [`ScreenedModel::parameters`] is absent. `reference` is where it can be fetched.
    ///
    /// # Errors
    /// As [`ModelFiles::list`].
    pub async fn listed(files: &dyn ModelFiles, reference: Option<HubRef>, cx: &CallContext) -> Result<Self> {
        let mut listing = files.list(cx).await?;
        listing.sort_by(|a, b| a.name.cmp(&b.name));
        let names: Vec<_> =
            listing.iter().map(|file| json!({ "name": file.name, "size": file.size })).collect();
        Ok(Self {
            reference,
            files: listing.len() as u64,
            bytes: listing.iter().fold(0, |sum, file| sum.saturating_add(file.size)),
            listing: Digest::of_json(&names)?,
            parameters: None,
        })
    }
}

/// One screen's finding.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Screened {
    /// The screen.
    pub screen: Identity,
    /// The stage at which it ran.
    pub stage: ScreenStage,
    /// What it found.
    #[serde(flatten)]
    pub finding: Finding,
}

/// What findings amount to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AdmissionOutcome {
    /// Nothing forfeits: the submission may duel.
    Admitted,
    /// A screen rejected the submission: it forfeits on that evidence.
    Forfeit,
    /// Something could not be found out: to be tried again, and nobody's loss.
    Void,
}

impl AdmissionOutcome {
    /// What `findings` amount to, whatever their order.
    pub fn of<'a>(findings: impl IntoIterator<Item = &'a Screened>) -> Self {
        findings.into_iter().fold(Self::Admitted, |outcome, screened| match (outcome, &screened.finding) {
            (Self::Forfeit, _) | (_, Finding::Rejected(_)) => Self::Forfeit,
            (_, Finding::Unverified(_)) => Self::Void,
            (outcome, Finding::Clear(_) | Finding::Flagged(_)) => outcome,
        })
    }
}

impl fmt::Display for AdmissionOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Admitted => "admitted",
            Self::Forfeit => "forfeit",
            Self::Void => "void",
        })
    }
}

impl Admission {
    /// Whether the submission may duel.
    pub fn is_admitted(&self) -> bool {
        self.outcome == AdmissionOutcome::Admitted
    }

    /// Checks that the outcome follows from the findings, that these are in the
    /// order of the stages, and that no stage follows one that ended admission.
    ///
    /// # Errors
    /// [`ErrorKind::DataInvalid`], saying what does not follow.
    pub fn check(&self) -> Result<()> {
        let invalid = |why: &str| Err(Error::new(ErrorKind::DataInvalid, "check the admission", why));
        if !self.findings.is_sorted_by_key(|screened| screened.stage) {
            return invalid("the findings are not in the order of the stages");
        }
        if self.findings.iter().any(|screened| !ScreenStage::ADMISSION.contains(&screened.stage)) {
            return invalid("a finding is of a stage that admission does not have");
        }
        let mut stages = self.findings.chunk_by(|one, next| one.stage == next.stage).peekable();
        while let Some(stage) = stages.next() {
            if stages.peek().is_some() && AdmissionOutcome::of(stage) != AdmissionOutcome::Admitted {
                return invalid("a stage follows one that ended admission");
            }
        }
        if self.outcome != AdmissionOutcome::of(&self.findings) {
            return invalid("the outcome does not follow from the findings");
        }
        Ok(())
    }

    /// Checks that a duel may follow: the submission is admitted, and where the
    /// weights were read, they are those of `king` and `challenger`, digests of
    /// parameters as [`ModelInfo`](crate::ModelInfo) has them.
    ///
    /// # Errors
    /// As [`Admission::check`]; [`ErrorKind::Conflict`] if the submission is not
    /// admitted, or if another model was screened.
    pub fn check_admits(&self, king: Digest, challenger: Digest) -> Result<()> {
        const OPERATION: &str = "check the admission before a duel";
        self.check()?;
        if !self.is_admitted() {
            let message = format!("the submission is not admitted: {}", self.outcome);
            return Err(Error::new(ErrorKind::Conflict, OPERATION, message));
        }
        for (of, screened, duels) in
            [("king", &self.king, king), ("challenger", &self.submission, challenger)]
        {
            if let Some(parameters) = screened.parameters
                && parameters != duels
            {
                let message = format!("the model that was screened is not the {of} of the duel");
                return Err(Error::new(ErrorKind::Conflict, OPERATION, message)
                    .with("screened", parameters)
                    .with("in the duel", duels)
                    .with_hint("screen the model that duels"));
            }
        }
        Ok(())
    }

    /// The same without what only our own machine can tell: the evidence of
    /// findings that are unverified, which names files and outages of ours.
    #[must_use]
    pub fn published(mut self) -> Self {
        for screened in &mut self.findings {
            if let Finding::Unverified(evidence) = &mut screened.finding {
                *evidence = serde_json::Value::Null;
            }
        }
        self
    }
}

/// What runs the submission at the behaviour stage.
#[derive(Debug, Clone)]
pub struct Probes {
    /// The backend that the duel uses, on its device.
    pub backend: Arc<dyn ModelBackend>,
    /// The submission, with the king's tokenizer.
    pub model: ModelSource,
    /// What probes follow from: something that nobody could know before the
    /// submission was handed in.
    pub seed: u64,
}

/// The models whose files admission reads.
#[derive(Debug, Clone)]
pub struct Models {
    /// The model that screens align all others to, where it is not the king.
    pub anchor: Option<Arc<dyn ModelFiles>>,
    /// The king.
    pub king: Arc<dyn ModelFiles>,
    /// The submission.
    pub submission: Arc<dyn ModelFiles>,
}

impl Models {
    /// `submission` beside `king`, which is the anchor.
    pub fn new(king: Arc<dyn ModelFiles>, submission: Arc<dyn ModelFiles>) -> Self {
        Self { anchor: None, king, submission }
    }
}

/// An admission to run: what is screened, and by what.
///
/// ```
/// # use std::sync::Arc;
/// # use albedo_core::admission::{Admit, AdmissionOutcome, Models};
/// # use albedo_core::{CallContext, ModelFiles, Result, Screen};
/// # async fn admit(
/// #     screens: Vec<Arc<dyn Screen>>,
/// #     king: Arc<dyn ModelFiles>,
/// #     submission: Arc<dyn ModelFiles>,
/// # ) -> Result<()> {
/// let admission = Admit::new(screens, Models::new(king, submission)).run(&CallContext::new()).await?;
/// match admission.outcome {
///     AdmissionOutcome::Admitted => println!("it may duel"),
///     AdmissionOutcome::Forfeit => println!("it forfeits"),
///     AdmissionOutcome::Void => println!("to be tried again"),
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Admit {
    screens: Vec<Arc<dyn Screen>>,
    models: Models,
    own: Vec<String>,
    references: [Option<HubRef>; 2],
    probes: Option<Probes>,
    king: Option<ModelSource>,
    profile: Option<ScreenProfile>,
    questions: Option<u64>,
}

impl Admit {
    /// The admission of the submission among `models` by `screens`, without a
    /// behaviour stage. Screens of stage [`ScreenStage::Reply`] take no part.
    pub fn new(screens: Vec<Arc<dyn Screen>>, models: Models) -> Self {
        Self {
            screens,
            models,
            own: Vec::new(),
            references: [None, None],
            probes: None,
            king: None,
            profile: None,
            questions: None,
        }
    }

    /// Labels under which earlier versions of the submission itself are stored.
    #[must_use]
    pub fn with_own(mut self, labels: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.own = labels.into_iter().map(Into::into).collect();
        self
    }

    /// The references under which king and submission can be fetched, as far as
    /// they are in a hub.
    #[must_use]
    pub fn with_references(mut self, king: Option<HubRef>, submission: Option<HubRef>) -> Self {
        self.references = [king, submission];
        self
    }

    /// Also runs the behaviour stage.
    #[must_use]
    pub fn with_probes(mut self, probes: Probes) -> Self {
        self.probes = Some(probes);
        self
    }

    /// Runs the king at the behaviour stage, too, on the same backend, for screens that
    /// compare the submission with him ([`ScreenPart::Beside`](crate::ScreenPart::Beside)).
    /// Without it they find nothing out, and say so.
    #[must_use]
    pub fn with_king(mut self, king: ModelSource) -> Self {
        self.king = Some(king);
        self
    }

    /// The screens are those of this profile.
    #[must_use]
    pub fn with_profile(mut self, profile: ScreenProfile) -> Self {
        self.profile = Some(profile);
        self
    }

    /// Once every screen has passed the submission, has those that compare answers keep what
    /// it answers to the questions that follow from `seed` ([`BesideScreen::remember`]):
    /// later submissions are compared with it. Takes effect at a behaviour stage with a king.
    ///
    /// [`BesideScreen::remember`]: crate::BesideScreen::remember
    #[must_use]
    pub fn with_questions(mut self, seed: u64) -> Self {
        self.questions = Some(seed);
        self
    }

    /// Runs the stages. Emits how far the weights are read
    /// ([`crate::EventKind::Progress`]).
    ///
    /// # Errors
    /// A listing that cannot be read; the challenger's, for files that are not what its
    /// own listing declares ([`ModelFiles::hold`]); cancellation, and a deadline that
    /// passes; what keeps a screen from remembering the answers.
    /// What goes wrong in a screen is a finding.
    pub async fn run(&self, cx: &CallContext) -> Result<Admission> {
        self.run_observed(&mut |_| (), cx).await
    }

    /// As [`Admit::run`]; `observer` is shown each finding when its stage is
    /// over.
    ///
    /// # Errors
    /// As [`Admit::run`].
    pub async fn run_observed(
        &self,
        observer: &mut (dyn FnMut(&Screened) + Send),
        cx: &CallContext,
    ) -> Result<Admission> {
        stages::run(self, observer, cx).await
    }
}

#[cfg(test)]
mod tests;
