//! What a validator that follows another one works with: where the other one publishes, and
//! what audits its replies.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use serde::de::IgnoredAny;

use super::config::{FollowSettings, ValidatorConfig};
use super::genesis::first_king;
use super::models::{Models, Presence, is_absence, is_damage, is_refusal};
use super::parts::Base;
use crate::audit::{self, AuditReport, Calibration};
use crate::backends::http;
use crate::http::HttpTransport;
use crate::log::{FolderLog, HttpLog, LogFiles};
use crate::publish::public::Status;
use crate::publish::{FetchSettings, RecordManifest, document, fetch};
use crate::record::RecordedReply;
use crate::registry::CheckContext;
use crate::{
    BuildContext, CallContext, Contestant, Digest, Error, ErrorKind, Fault, ModelBackend, ModelRef,
    ModelSource, Record, Result, Side, TaskSource,
};

/// The files of a record that its digest covers.
const FILES: [&str; 3] = ["record.jsonl", "record.blobs", "record.digest"];

/// Everything that the tasks of a follower work with.
#[derive(Debug)]
pub(super) struct Following {
    pub(super) base: Arc<Base>,
    pub(super) terms: FollowTerms,
    pub(super) settings: FollowSettings,
    pub(super) source: Source,
    /// The first king of the competition.
    pub(super) genesis: ModelRef,
    pub(super) models: Models,
    /// What the drawn rows are compared with.
    pub(super) tasks: Option<Arc<dyn TaskSource>>,
    pub(super) auditor: Option<Auditor>,
}

/// Whom a validator follows, and how much of it it audits.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FollowTerms {
    /// The web address or the folder of its public data.
    pub at: String,
    /// Replies that are audited per duel.
    pub audit_replies: u32,
    /// The pair of devices that the audits are calibrated for: where replies are written, and
    /// where they are audited. None if nothing is audited.
    pub calibrated: Option<[String; 2]>,
}

impl FollowTerms {
    /// What audits of `replies` replies per duel would miss, in a sentence.
    pub fn coverage(&self, replies: u32) -> String {
        coverage(replies, self.audit_replies.min(replies))
    }
}

/// The chance that none of `altered` of `replies` replies is among `audited` that are drawn
/// without putting back.
///
/// ```
/// use albedo::validator::missed;
///
/// assert_eq!(missed(10, 0, 8), 1.0);
/// assert!((missed(10, 1, 8) - 0.2).abs() < 1e-12);
/// assert_eq!(missed(10, 3, 8), 0.0);
/// ```
pub fn missed(replies: u32, altered: u32, audited: u32) -> f64 {
    let one = |drawn: u32| {
        let left = replies.saturating_sub(altered).saturating_sub(drawn);
        f64::from(left) / f64::from(replies.saturating_sub(drawn).max(1))
    };
    (0..audited.min(replies)).map(one).product()
}

/// What an audit of `audited` of a duel's `replies` replies would miss, in a sentence.
///
/// ```
/// let said = albedo::validator::coverage(160, 8);
/// assert!(said.contains("8 of 160 replies") && said.contains("95.0 %"), "{said}");
/// ```
pub fn coverage(replies: u32, audited: u32) -> String {
    if audited == 0 {
        return "no reply is audited: that the models wrote them is taken on trust".into();
    }
    let chance = |altered: u32| format!("{:.1} %", 100.0 * missed(replies, altered, audited));
    format!(
        "{audited} of {replies} replies are audited: that draws no altered reply in {} of the duels with one of them, \
         in {} with a tenth, in {} with half altered",
        chance(1),
        chance(replies.div_ceil(10)),
        chance(replies.div_ceil(2)),
    )
}

/// Where the public data of a validator are.
#[derive(Debug)]
pub(super) struct Source {
    place: String,
    is_web: bool,
    transport: Arc<dyn HttpTransport>,
    /// Where records are fetched to.
    kept: PathBuf,
}

impl Source {
    fn new(at: &str, state: &Path, cx: &BuildContext<'_>) -> Self {
        let is_web = at.starts_with("http://") || at.starts_with("https://");
        let place =
            if is_web { at.trim_end_matches('/').to_owned() } else { cx.path(at).display().to_string() };
        Self { place, is_web, transport: http::transport(cx), kept: state.join("followed") }
    }

    /// What `config` follows.
    pub(super) fn of(
        config: &ValidatorConfig,
        follow: &FollowSettings,
        cx: &BuildContext<'_>,
    ) -> Result<Self> {
        Ok(Self::new(follow.place()?, &config.state(), cx))
    }

    /// Its name.
    pub(super) fn place(&self) -> &str {
        &self.place
    }

    /// The state of the competition, as it says.
    pub(super) async fn status(&self, cx: &CallContext) -> Result<Status> {
        document(&self.place, "data/status.json", &*self.transport, cx).await
    }

    /// The files of its log.
    pub(super) fn log(&self) -> Arc<dyn LogFiles> {
        if self.is_web {
            Arc::new(HttpLog::new(Arc::clone(&self.transport), format!("{}/log", self.place)))
        } else {
            Arc::new(FolderLog::new(Path::new(&self.place).join("log")))
        }
    }

    /// The folder with the files of `record`; none before it is published. What is fetched has
    /// its digest; what is in a folder is compared when it is read.
    ///
    /// # Errors
    /// [`ErrorKind::DigestMismatch`], [`ErrorKind::DataInvalid`]: something else is there. The
    /// transport's.
    pub(super) async fn record(&self, record: Digest, cx: &CallContext) -> Result<Option<PathBuf>> {
        if !self.is_web {
            let folder = Path::new(&self.place).join(format!("records/{record}"));
            let whole = Path::new(&self.place).join(RecordManifest::at(record)).exists()
                && FILES.iter().all(|name| folder.join(name).exists());
            return Ok(whole.then_some(folder));
        }
        let folder = self.kept.join(record.to_string());
        if folder.exists() {
            return Ok(Some(folder));
        }
        fs::create_dir_all(&self.kept).map_err(|error| Error::io("fetch the record", &self.kept, error))?;
        let address = format!("{}/records/{record}", self.place);
        let settings = FetchSettings { expect: Some(record), exports: false };
        match fetch(&address, &folder, settings, &*self.transport, cx).await {
            Ok(fetched) => Ok(Some(fetched.folder)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether `record` is published, as far as that is known now.
    ///
    /// # Errors
    /// [`ErrorKind::Cancelled`].
    pub(super) async fn has(&self, record: Digest, cx: &CallContext) -> Result<bool> {
        let manifest = RecordManifest::at(record);
        if !self.is_web {
            return Ok(Path::new(&self.place).join(manifest).exists());
        }
        match document::<IgnoredAny>(&self.place, &manifest, &*self.transport, cx).await {
            Err(error) if error.kind() == ErrorKind::Cancelled => Err(error),
            found => Ok(found.is_ok()),
        }
    }

    /// Lets go of what was fetched of `record`.
    pub(super) fn forget(&self, record: Digest) {
        if self.is_web {
            // What stays takes room and does no harm.
            let _ = fs::remove_dir_all(self.kept.join(record.to_string()));
        }
    }
}

/// What audits replies.
#[derive(Debug)]
pub(super) struct Auditor {
    backend: Arc<dyn ModelBackend>,
    calibration: Calibration,
    replies: u32,
}

impl Auditor {
    /// What `config` audits with; none if it takes the replies on trust.
    ///
    /// # Errors
    /// The backend cannot be built; the calibration is missing or malformed.
    pub(super) async fn build(
        config: &ValidatorConfig,
        follow: &FollowSettings,
        cx: &BuildContext<'_>,
    ) -> Result<Option<Self>> {
        let (replies, Some(calibration)) = (follow.audit_replies, &follow.calibration) else {
            return Ok(None);
        };
        if replies == 0 {
            return Ok(None);
        }
        let path = cx.path(calibration);
        let json = fs::read(&path).map_err(|error| {
            Error::io("read the audit's calibration", &path, error).with("key", "follow.calibration")
        })?;
        let calibration = Calibration::read(&json).map_err(|error| error.with("path", path.display()))?;
        let backend =
            CheckContext::new(cx.registry()).plugin("backend", &config.backend())?.build(cx).await?;
        Ok(Some(Self { backend, calibration, replies }))
    }

    /// The pair of devices that it is calibrated for.
    pub(super) fn calibrated(&self) -> [String; 2] {
        [self.calibration.generator.clone(), self.calibration.auditor.clone()]
    }

    /// Audits the replies of `record` that `seed` chooses, by the models `king` and
    /// `challenger`.
    ///
    /// # Errors
    /// As [`Unaudited`] says; as [`audit::audit`].
    pub(super) async fn audit(
        &self,
        record: &Record,
        models: &Models,
        [king, challenger]: [&ModelRef; 2],
        seed: u64,
        cx: &CallContext,
    ) -> Result<AuditReport, Unaudited> {
        if !has_tokens(record) {
            return Err(Unaudited::WithoutTokens);
        }
        let backend = &self.backend;
        let loaded = async {
            let plan = record.plan();
            let held = models.for_backend(&**backend, king, cx).await.map_err(|error| (Side::King, error));
            let (kings_model, kings_held) = held?;
            let held = models.for_backend(&**backend, challenger, cx).await;
            let (model, model_held) = held.map_err(|error| (Side::Challenger, error))?;
            let source = ModelSource {
                parameters: Some(plan.king.model.parameters),
                ..ModelSource::new(kings_model.clone())
            };
            let loaded = Contestant::load(Side::King, backend, &source, cx).await;
            let kings = loaded.map_err(|error| (Side::King, error))?;
            let source = ModelSource {
                parameters: Some(plan.challenger.model.parameters),
                ..ModelSource::new(model).with_text_from(kings_model)
            };
            let loaded = Contestant::load(Side::Challenger, backend, &source, cx).await;
            let challengers = loaded.map_err(|error| (Side::Challenger, error))?;
            Ok::<_, (Side, Error)>(([kings, challengers], [kings_held, model_held]))
        };
        let ([kings, challengers], _held) = match loaded.await {
            Err((side, error)) if is_damage(&error) => return Err(Unaudited::Unfetched(side, error)),
            Err((side, error)) if is_absence(&error) || is_refusal(&error) => {
                let model = if side == Side::King { king } else { challenger };
                return Err(match models.presence(model, cx).await? {
                    Presence::Absent | Presence::Refused => Unaudited::Unfetched(side, error),
                    // It is there again, or its hub is away: the wait goes on.
                    Presence::There | Presence::Unknown => Unaudited::Failed(error),
                });
            }
            loaded => loaded.map_err(|(_, error)| error)?,
        };
        let audited = async {
            let sessions = [kings.session(cx).await?, challengers.session(cx).await?];
            audit::audit(record, &sessions, self.replies as usize, seed, &self.calibration, cx).await
        };
        audited.await.map_err(Unaudited::Fetched)
    }
}

/// Why a record was not audited.
#[derive(Debug)]
pub(super) enum Unaudited {
    /// It has no reply whose tokens are known.
    WithoutTokens,
    /// The hub does not have the files of that side any more, refuses them, or gives other bytes.
    Unfetched(Side, Error),
    /// Something else, after both sides were loaded.
    Fetched(Error),
    /// Something else; also a model that was missing, and whose hub is away or has it when it is
    /// asked again.
    Failed(Error),
}

impl From<Error> for Unaudited {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// Whether the tokens of any reply are known.
fn has_tokens(record: &Record) -> bool {
    record.samples().into_iter().flat_map(|sample| sample.replies).any(|reply| match reply {
        RecordedReply::Completed { tokens: Some(tokens), .. } => !tokens.ids.is_empty(),
        _ => false,
    })
}

impl Following {
    /// Builds what `config` names to follow another validator with.
    ///
    /// # Errors
    /// As [`Base::build`]; whatever is wrong with the settings.
    pub(super) async fn build(
        config: &ValidatorConfig,
        follow: &FollowSettings,
        cx: &BuildContext<'_>,
    ) -> Result<Self> {
        config.check(cx.registry())?;
        let cx = &cx.relative_to(&config.folder);
        let base = Base::build(config, cx).await?;
        let source = Source::of(config, follow, cx)?;
        let auditor = Auditor::build(config, follow, cx).await?;
        let tasks = match &config.tasks {
            Some(tasks) => Some(CheckContext::new(cx.registry()).plugin("tasks", tasks)?.build(cx).await?),
            None => None,
        };
        let genesis = genesis(config, &base, cx).await?;
        let terms = FollowTerms {
            at: source.place().to_owned(),
            audit_replies: if auditor.is_some() { follow.audit_replies } else { 0 },
            calibrated: auditor.as_ref().map(Auditor::calibrated),
        };
        Ok(Self {
            terms,
            settings: follow.clone(),
            source,
            genesis,
            models: Models::build(&config.hubs, &config.entry, cx).await?,
            tasks,
            auditor,
            base: Arc::new(base),
        })
    }
}

/// The first king: the one that is named, or a name for the one that nothing names, whose
/// parameters the log tells.
async fn genesis(config: &ValidatorConfig, base: &Base, cx: &BuildContext<'_>) -> Result<ModelRef> {
    let entered = base.ledger.first_king().await?.map(|king| king.model);
    match (&config.genesis, entered) {
        (Some(named), None | Some(ModelRef::Served(_))) => Ok(cx.model(&named.model()?)),
        (Some(_), Some(_)) => first_king(config, Some(&base.ledger), cx).await,
        (None, entered) => {
            Ok(entered.unwrap_or_else(|| ModelRef::served("the first king of the followed validator")))
        }
    }
}

/// The error of a first king whose files nothing names.
pub(super) fn unknown_genesis() -> Error {
    Error::new(ErrorKind::ConfigInvalid, "audit the replies", "nothing says where the first king's files are")
        .with_fault(Fault::Operator)
        .with("key", "genesis")
        .with_hint("name the first king of the followed validator under `genesis`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_audit_misses_is_the_chance_of_the_draw() {
        for replies in [1_u32, 2, 7, 40] {
            for altered in 0..=replies {
                for audited in 0..=replies {
                    let chance = missed(replies, altered, audited);
                    assert!((0.0..=1.0).contains(&chance), "{replies} {altered} {audited}: {chance}");
                    // Whichever are drawn first, altered or audited, the chance is the same.
                    let other = missed(replies, audited, altered);
                    assert!((chance - other).abs() < 1e-9, "{replies} {altered} {audited}");
                    assert_eq!(chance == 0.0, altered + audited > replies, "{replies} {altered} {audited}");
                }
            }
        }
        assert!(coverage(160, 0).contains("on trust"));
        assert!(coverage(4, 4).contains("0.0 %"));
    }
}
