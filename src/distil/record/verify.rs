//! Whether a record agrees with itself and with what is beside it.

use std::path::Path;

use super::{DistilRecord, GatePlan, GateReport, State, digests, parameters};
use crate::distil::gate::{decided, misbehaved};
use crate::files::open_file;
use crate::record::{Record, VerifyOptions, verify_record};
use crate::{CallContext, Digest, Error, ErrorKind, Finding, Outcome, Result, ScreenStage, Screened};

const VERIFY: &str = "verify a distillation";

impl DistilRecord {
    /// Checks that the record in `folder` agrees with itself, with every file of the model, and with
    /// the record of its gate's duel. Checkpoints are left to [`DistilRecord::verify_checkpoints`].
    ///
    /// # Errors
    /// What does not, naming it.
    pub async fn verify(&self, folder: &Path, cx: &CallContext) -> Result<()> {
        let (steps, all) = (self.losses.len() as u64, self.plan.steps());
        if steps > all || (self.state != State::Running && steps != all) {
            return Err(invalid("it has not one loss for each step")
                .with("losses", steps)
                .with("steps", all));
        }
        if let Some(late) = self.checkpoints.iter().find(|checkpoint| checkpoint.step > steps) {
            return Err(invalid("a checkpoint is later than the last step").with("checkpoint", late.step));
        }
        let passed = match (&self.plan.gate, &self.gate) {
            (GatePlan::Open(_), None) => true,
            (GatePlan::Closed(_), Some(gate)) => gate.passed,
            (GatePlan::Closed(_), None) if self.state == State::Running => return Ok(()),
            (GatePlan::Closed(_), None) => {
                return Err(invalid("its plan has a gate, of which it says nothing"));
            }
            (GatePlan::Open(_), Some(_)) => {
                return Err(invalid("its plan has no gate, of which it says something"));
            }
        };
        let place = match (self.state, passed) {
            (State::Running, _) => return Ok(()),
            (State::Exported, true) => folder.join("model"),
            (State::Refused, false) => folder.join("candidate"),
            _ => return Err(invalid("its end is not what its gate says")),
        };
        // Before schema 2 a record knows the weights alone.
        let (own, files) = match self.files {
            Some(_) => digests(&place).map(|own| (own.parameters, Some(own.files)))?,
            None => (parameters(&place)?, None),
        };
        let other = |message: &str| {
            Error::new(ErrorKind::DigestMismatch, VERIFY, message).with("path", place.display())
        };
        if Some(own) != self.model {
            return Err(other("the model is not the recorded one")
                .with("parameters", own)
                .with("recorded", self.model.map_or_else(|| "none".into(), |model| model.to_string())));
        }
        if let (Some(found), Some(recorded)) = (files, self.files)
            && found != recorded
        {
            let message = "the model's files are not the recorded ones: one beside the weights was altered, \
                           added or removed";
            return Err(other(message)
                .with("files", found)
                .with("recorded", recorded)
                .with_hint("put the exported files back, and keep others in another folder"));
        }
        match &self.gate {
            Some(gate) => self.verify_gate(gate, own, &folder.join("gate"), cx).await,
            None => Ok(()),
        }
    }

    /// Compares the checkpoints that are still in `folder` with their digests. A training that goes
    /// on needs them; nothing does once it is through its gate.
    ///
    /// # Errors
    /// [`ErrorKind::DigestMismatch`] if one is damaged; what the disk meets.
    pub fn verify_checkpoints(&self, folder: &Path) -> Result<()> {
        for checkpoint in self.kept(folder) {
            let path = checkpoint.file(folder);
            let found = Digest::of_reader(open_file(VERIFY, &path)?);
            let found = found.map_err(|error| Error::io(VERIFY, &path, error))?;
            if found != checkpoint.digest {
                let message = "a checkpoint is not the recorded one: it is damaged, or was altered";
                return Err(Error::new(ErrorKind::DigestMismatch, VERIFY, message)
                    .with("path", path.display())
                    .with("found", found)
                    .with("recorded", checkpoint.digest)
                    .with_hint("delete its folder: a training that goes on takes an older one"));
            }
        }
        Ok(())
    }

    /// Checks that `gate` says what its findings and the record of its duel in `folder` say, of the
    /// student and `child`.
    async fn verify_gate(
        &self,
        gate: &GateReport,
        child: Digest,
        folder: &Path,
        cx: &CallContext,
    ) -> Result<()> {
        let Some(found) = &gate.duel else {
            if gate.passed {
                return Err(invalid("its result has passed without a duel"));
            }
            let mut reasons = gate.findings.iter().filter_map(misbehaved);
            if reasons.any(|reason| reason == gate.evidence) {
                return Ok(());
            }
            return Err(invalid("no finding says what the gate says of the result's behaviour"));
        };
        // A rejected behaviour can be that of the start, too, whose findings are not recorded.
        let is_foul = |found: &&Screened| match found.finding {
            Finding::Rejected(_) => found.stage != ScreenStage::Behaviour,
            Finding::Unverified(_) => true,
            Finding::Clear(_) | Finding::Flagged(_) => false,
        };
        if let Some(foul) = gate.findings.iter().find(is_foul) {
            return Err(invalid("its result has duelled, though a screen did not let it")
                .with("screen", &foul.screen.name));
        }
        let record = Record::open(folder)?;
        let options = VerifyOptions { expect: found.record, ..VerifyOptions::default() };
        let verified =
            verify_record(&record, &options, cx).await.map_err(|error| error.with("record", "gate"))?;
        let (king, challenger) = (&verified.plan.king.model, &verified.plan.challenger.model);
        if king.parameters != self.plan.student.parameters {
            return Err(invalid("the gate's king is not the student").with("found", king.parameters));
        }
        if challenger.parameters != child {
            return Err(
                invalid("the gate's challenger is not the result").with("found", challenger.parameters)
            );
        }
        if let GatePlan::Closed(planned) = &self.plan.gate
            && !planned.asks_for(&verified.plan)?
        {
            let judges = verified.plan.judges.iter().map(|judge| &judge.identity.name[..]);
            return Err(invalid("the gate's duel had other settings than the plan says, or other judges")
                .with("samples", verified.plan.samples)
                .with("rule", verified.plan.rule.name())
                .with("seed", verified.plan.seed)
                .with("judges", judges.collect::<Vec<_>>().join(", ")));
        }
        let verdict = record.verdict();
        let said = (found.outcome, found.margin.to_bits(), found.samples, found.record, gate.passed);
        let is_crowned = verified.outcome == Outcome::Dethroned;
        let came_to =
            (verified.outcome, verdict.margin.to_bits(), verdict.samples, Some(record.digest), is_crowned);
        if said != came_to {
            return Err(invalid("the gate's duel has ended otherwise than the distillation says")
                .with("outcome", verified.outcome)
                .with("margin", verdict.margin)
                .with("samples", verdict.samples));
        }
        if gate.evidence != decided(found) {
            return Err(invalid("the gate's sentence is not what its duel came to"));
        }
        Ok(())
    }
}

fn invalid(message: &str) -> Error {
    Error::new(ErrorKind::DataInvalid, VERIFY, message)
}
