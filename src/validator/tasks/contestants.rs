//! Kings and challengers, loaded and put into a duel.

use std::sync::Arc;

use tokio::sync::Mutex;

use crate::reign::EffectPrior;
use crate::validator::ledger::{Attempt, KingRow, SubmissionRow};
use crate::validator::models::{Local, is_absence};
use crate::validator::parts::Shared;
use crate::{
    Admission, CallContext, Contestant, Duel, DuelBuilder, DuelSettings, Error, ModelRef, ModelSource,
    Result, Side,
};

/// The fact of an error that names whose model it is about.
const SIDE: &str = "side";

/// Loaded models: the king stays from duel to duel.
#[derive(Debug, Default)]
pub(super) struct Contestants {
    king: Mutex<Option<(i64, Loaded)>>,
    challenger: Mutex<Option<(i64, Loaded)>>,
}

/// A loaded model, and what keeps its files here.
#[derive(Debug, Clone)]
pub(super) struct Loaded {
    pub(super) contestant: Contestant,
    _held: Option<Local>,
}

impl Contestants {
    /// Both sides of the duel of `row`, loaded unless they are.
    ///
    /// # Errors
    /// The king's or the challenger's, for their own files; else the validator's.
    pub(super) async fn load(
        &self,
        shared: &Shared,
        king: &KingRow,
        row: &SubmissionRow,
        cx: &CallContext,
    ) -> Result<[Contestant; 2]> {
        let held = shared.models.for_backend(&*shared.backend, &king.model, cx).await;
        let (king_model, held) = held.map_err(|error| error.charged_to(|_| Side::King))?;
        let mut loaded = self.king.lock().await;
        let kings = match &*loaded {
            Some((id, kings)) if *id == king.id => kings.clone(),
            _ => {
                // The former king leaves the device first.
                *loaded = None;
                let source =
                    ModelSource { parameters: king.parameters, ..ModelSource::new(king_model.clone()) };
                let contestant = Contestant::load(Side::King, &shared.backend, &source, cx).await?;
                shared.ledger.note_parameters(king.id, contestant.model().parameters).await?;
                shared.models.keep_king(&king.model).await?;
                let kings = Loaded { contestant, _held: held };
                *loaded = Some((king.id, kings.clone()));
                kings
            }
        };
        drop(loaded);
        let mut loaded = self.challenger.lock().await;
        let challenger = match &*loaded {
            Some((id, challenger)) if *id == row.id => challenger.clone(),
            _ => {
                *loaded = None;
                let model = ModelRef::from(shared.models.reference(&row.repository, &row.pin)?);
                let held = shared.models.for_backend(&*shared.backend, &model, cx).await;
                let (model, held) = held.map_err(|error| error.with(SIDE, Side::Challenger))?;
                let source = ModelSource::new(model).with_text_from(king_model);
                let contestant = Contestant::load(Side::Challenger, &shared.backend, &source, cx).await?;
                let challenger = Loaded { contestant, _held: held };
                *loaded = Some((row.id, challenger.clone()));
                challenger
            }
        };
        Ok([kings.contestant, challenger.contestant])
    }

    /// The challenger's duel is over.
    pub(super) async fn drop_challenger(&self) {
        *self.challenger.lock().await = None;
    }

    /// One of them is lost to who computes it: both are loaded again.
    pub(super) async fn drop_both(&self) {
        *self.king.lock().await = None;
        *self.challenger.lock().await = None;
    }
}

/// Whether loading failed with `error` because the challenger's files were not to be had. A file
/// that its own model lacks is charged to it, and is another matter.
pub(super) fn lacks_challenger(error: &Error) -> bool {
    let challenger = Side::Challenger.to_string();
    is_absence(error) && error.context().iter().any(|(key, value)| *key == SIDE && *value == challenger)
}

/// The settings of `attempt`, whose seed is not known yet.
pub(super) fn settings(shared: &Shared, attempt: &Attempt) -> DuelSettings {
    DuelSettings {
        terms: shared.budget.terms(attempt.number),
        previous: attempt.previous,
        effect_prior: EffectPrior::estimate(&attempt.effects),
        ..shared.duel.clone()
    }
}

/// The duel of `sides` under `settings`.
pub(super) fn builder(
    shared: &Shared,
    sides: [Contestant; 2],
    settings: DuelSettings,
    admission: Option<Admission>,
) -> DuelBuilder {
    let [king, challenger] = sides;
    let builder = Duel::builder(king, challenger)
        .tasks(Arc::clone(&shared.tasks))
        .judges(shared.judges.iter().cloned())
        .settings(settings)
        .build(crate::build());
    match admission {
        Some(admission) => builder.admission(admission),
        None => builder,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ErrorKind, Fault};

    #[test]
    fn a_challenger_that_is_not_to_be_had_is_told_from_one_that_lacks_a_file() {
        let lacks =
            |side: Side| Error::new(ErrorKind::NotFound, "load the model", "no file").with(SIDE, side);
        assert!(lacks_challenger(&lacks(Side::Challenger)));
        for other in [
            lacks(Side::King),
            lacks(Side::Challenger).with_fault(Fault::Contestant(Side::Challenger)),
            lacks(Side::Challenger).with_fault(Fault::Infrastructure),
        ] {
            assert!(!lacks_challenger(&other), "{other:#?}");
        }
    }
}
