//! The running duel as the public data shows it, from the stream of events.

use std::sync::Arc;

use crate::events::{Event, EventKind, EventSink};
use crate::publish::public::{self, EvidenceTrace, ModelName, PublicSubmission, RunningDuel};
use crate::record::JournalEvent;
use crate::{DuelPlan, ModelRef};

use super::parts::Shared;

/// What is known of the running duel.
#[derive(Debug, Default)]
pub(super) struct Running {
    duel: Option<Progress>,
    /// Whether it has changed since it was published.
    changed: bool,
}

#[derive(Debug)]
struct Progress {
    plan: DuelPlan,
    started_ms: u64,
    king: ModelName,
    challenger: ModelName,
    submission: PublicSubmission,
    attempt: u64,
    differences: Vec<f64>,
    usd: f64,
}

/// What is known of a duel before it runs.
#[derive(Debug, Clone)]
pub(super) struct Beginning {
    pub(super) started_ms: u64,
    pub(super) king: ModelRef,
    pub(super) challenger: ModelRef,
    pub(super) submission: PublicSubmission,
    pub(super) attempt: u64,
}

impl Running {
    pub(super) fn begin(&mut self, plan: &DuelPlan, beginning: Beginning) {
        let Beginning { started_ms, king, challenger, submission, attempt } = beginning;
        let named = |model: &ModelRef, parameters| ModelName { parameters: Some(parameters), ..name(model) };
        self.duel = Some(Progress {
            king: named(&king, plan.king.model.parameters),
            challenger: named(&challenger, plan.challenger.model.parameters),
            plan: plan.clone(),
            started_ms,
            submission,
            attempt,
            differences: Vec::new(),
            usd: 0.0,
        });
        self.changed = true;
    }

    /// The duel is over; gives what its judges' answers cost.
    pub(super) fn end(&mut self) -> f64 {
        self.changed = true;
        self.duel.take().map_or(0.0, |duel| duel.usd)
    }

    fn on(&mut self, kind: &EventKind) {
        let Some(duel) = &mut self.duel else { return };
        match kind {
            EventKind::Decided { difference, .. } => duel.differences.push(*difference),
            EventKind::Spent { usd } => duel.usd = *usd,
            EventKind::Journal(JournalEvent::AskedAgain { .. }) => duel.differences.clear(),
            _ => return,
        }
        self.changed = true;
    }

    /// The document, if it has changed since it was taken last.
    pub(super) fn document(&mut self, now_ms: u64) -> Option<public::Running> {
        if !std::mem::take(&mut self.changed) {
            return None;
        }
        let duel = self.duel.as_ref().and_then(|duel| {
            Some(RunningDuel {
                plan: duel.plan.digest().ok()?,
                started_at: duel.started_ms / 1000,
                king: duel.king.clone(),
                challenger: duel.challenger.clone(),
                submission: Some(duel.submission.clone()),
                attempt: Some(duel.attempt),
                evidence: EvidenceTrace::new(&duel.plan, &duel.differences),
                missing: 0,
            })
        });
        Some(public::Running { format: public::FORMAT, updated_at: now_ms / 1000, duel })
    }
}

/// What the public data calls a model: no path of this machine.
pub(super) fn name(model: &ModelRef) -> ModelName {
    let reference = match model {
        ModelRef::Hub(reference) => Some(reference.to_string()),
        _ => None,
    };
    ModelName { parameters: None, reference }
}

/// Keeps the running duel up to date.
#[derive(Debug)]
pub(super) struct RunningSink(pub(super) Arc<Shared>);

impl EventSink for RunningSink {
    fn on(&self, event: &Event) {
        self.0.running().on(&event.kind);
    }
}
