//! Records as trajectories in the Agent Trajectory Interchange Format (ATIF) of Harbor.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{EXPORT, Finished, Sample, Split, is_flipped, named_twice, new_folder, samples, score};
use crate::plan::ContestantPlan;
use crate::{Digest, Error, ErrorKind, Fault, Message, MessageRole, Record, Result, Side};

/// The version that is written: the first with ids of trajectories and counts of calls.
pub const ATIF_VERSION: &str = "ATIF-v1.7";

/// The trajectories of one split.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExportedTrajectories {
    /// The split.
    pub split: Split,
    /// Their folder, below that of the export.
    pub path: PathBuf,
    /// How many there are: one file each.
    pub trajectories: u64,
}

/// Writes records into a folder as trajectories: the rows of [`SFT`](super::SFT), one file
/// each, for tools that read [`ATIF_VERSION`].
///
/// ```no_run
/// use albedo::Record;
/// use albedo::export::AtifExport;
///
/// # fn main() -> albedo::Result<()> {
/// let mut export = AtifExport::create("data".as_ref(), Some("CC-BY-4.0".into()))?;
/// export.add(&Record::open("duels/first".as_ref())?)?;
/// for written in export.finish()? {
///     println!("{}: {} trajectories", written.path.display(), written.trajectories);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct AtifExport {
    folder: PathBuf,
    license: Option<String>,
    records: Vec<Digest>,
    written: BTreeMap<Split, u64>,
    /// The folder was made for this export, and holds nothing that counts yet.
    is_new: bool,
}

/// An export that ends before its first file leaves no folder behind that was not there.
impl Drop for AtifExport {
    fn drop(&mut self) {
        if self.is_new && self.written.is_empty() {
            // A folder that holds something stays.
            let _ = fs::remove_dir(&self.folder);
        }
    }
}

impl AtifExport {
    /// Begins an export into `folder`, which is made, and is empty if it is there. `license`
    /// is stated in every trajectory: records do not know that of their tasks.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] if the folder holds something; what the disk meets.
    pub fn create(folder: &Path, license: Option<String>) -> Result<Self> {
        let is_new = new_folder(folder)?;
        let (folder, records, written) = (folder.to_owned(), Vec::new(), BTreeMap::new());
        Ok(Self { folder, license, records, written, is_new })
    }

    /// Adds the trajectories of `record`, which was verified.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] if it was added before; [`ErrorKind::DataInvalid`] if it lacks
    /// a text; what the disk meets.
    pub fn add(&mut self, record: &Record) -> Result<()> {
        if self.records.contains(&record.digest) {
            return Err(named_twice(record.digest));
        }
        for sample in samples(record) {
            let split = Split::of(sample.repo);
            let folder = self.folder.join(split.name());
            fs::create_dir_all(&folder).map_err(|error| Error::io(EXPORT, &folder, error))?;
            for (id, trajectory) in sample.trajectories(self.license.as_deref())? {
                let path = folder.join(format!("{id}.json"));
                fs::write(&path, format!("{trajectory}\n"))
                    .map_err(|error| Error::io(EXPORT, &path, error))?;
                *self.written.entry(split).or_default() += 1;
            }
        }
        self.records.push(record.digest);
        Ok(())
    }

    /// Says what was written.
    ///
    /// # Errors
    /// [`ErrorKind::DataInvalid`] if there is no trajectory.
    pub fn finish(self) -> Result<Vec<ExportedTrajectories>> {
        if self.written.is_empty() {
            return Err(Error::new(ErrorKind::DataInvalid, EXPORT, "the records have no sample")
                .with_fault(Fault::Operator));
        }
        let written = self.written.iter().map(|(split, trajectories)| ExportedTrajectories {
            split: *split,
            path: split.name().into(),
            trajectories: *trajectories,
        });
        Ok(written.collect())
    }
}

impl Sample<'_> {
    /// The recorded reply and both sides', as far as they were finished: each at the end of
    /// the conversation that it answers, with its id.
    fn trajectories(&self, license: Option<&str>) -> Result<Vec<(String, Value)>> {
        let prompt = self.record.messages(&self.recorded.messages)?;
        let plan = self.record.plan();
        let mut trajectories = vec![self.trajectory(
            "recorded",
            &prompt,
            self.record.text(&self.recorded.reference)?,
            None,
            license,
        )];
        for finished in self.finished()? {
            let contestant = match finished.side {
                Side::King => &plan.king,
                Side::Challenger => &plan.challenger,
            };
            let name = finished.side.to_string();
            let of = Some((&finished, contestant));
            trajectories.push(self.trajectory(&name, &prompt, finished.text, of, license));
        }
        Ok(trajectories)
    }

    fn trajectory(
        &self,
        source: &str,
        prompt: &[Message],
        reply: &str,
        of: Option<(&Finished<'_>, &ContestantPlan)>,
        license: Option<&str>,
    ) -> (String, Value) {
        let mut steps = steps(prompt);
        let mut last = json!({ "step_id": steps.len() + 1, "source": "agent", "message": reply });
        if let Some((finished, _)) = of {
            last["llm_call_count"] = json!(1);
            if !finished.ids.is_empty() {
                last["metrics"] = json!({
                    "completion_tokens": finished.ids.len(),
                    "completion_token_ids": finished.ids,
                });
            }
        }
        steps.push(last);
        // Who made the recorded replies is not known.
        let agent = match of {
            None => json!({ "name": "recorded", "version": "unknown" }),
            Some((_, contestant)) => json!({
                "name": "albedo",
                "version": contestant.backend.version,
                "model_name": contestant.model.parameters,
                "extra": { "backend": contestant.backend.name },
            }),
        };
        let (record, sample) = (self.record.digest, self.recorded.sample);
        let id = format!("{record}-{sample}-{source}");
        let mut extra = Map::from_iter([
            ("record".to_owned(), json!(record)),
            ("sample".to_owned(), json!(sample)),
            ("repo".to_owned(), json!(self.repo)),
            ("instance_id".to_owned(), json!(self.draw.map(|draw| &draw.instance_id))),
            ("source".to_owned(), json!(source)),
            ("license".to_owned(), json!(license)),
        ]);
        if let Some((finished, _)) = of {
            let score = self.difference().map(|difference| score(difference, finished.side));
            extra.extend([
                ("cut".to_owned(), json!(finished.is_cut)),
                ("score".to_owned(), json!(score)),
                ("judges".to_owned(), json!(self.judges(|_, cell| !cell.is_missing()))),
                ("judge_scores".to_owned(), json!(self.scores(finished.side))),
                ("flipped".to_owned(), json!(self.judges(|_, cell| is_flipped(cell)))),
                ("failed_canaries".to_owned(), json!(self.judges(|place, _| self.failed.contains(&place)))),
                ("judged_by_twin".to_owned(), json!(self.is_judged_by_twin(finished.side))),
            ]);
        }
        let trajectory = json!({
            "schema_version": ATIF_VERSION,
            "session_id": id,
            "trajectory_id": id,
            "agent": agent,
            "final_metrics": { "total_steps": steps.len() },
            "steps": steps,
            "extra": extra,
        });
        (id, trajectory)
    }
}

/// A conversation as steps. What an agent wrote in it was there before the duel, which
/// ATIF calls copied context. A tool's result is what the agent's step observed.
fn steps(messages: &[Message]) -> Vec<Value> {
    let mut steps: Vec<Value> = Vec::new();
    for message in messages {
        let number = steps.len() + 1;
        let step = |source: &str| json!({ "step_id": number, "source": source, "message": message.content });
        match (message.role, steps.last_mut()) {
            (MessageRole::Tool, Some(last)) if last["source"] == "agent" => {
                let result = json!({ "content": message.content });
                match last["observation"]["results"].as_array_mut() {
                    Some(results) => results.push(result),
                    None => last["observation"] = json!({ "results": [result] }),
                }
            }
            (MessageRole::System, _) => steps.push(step("system")),
            (MessageRole::User | MessageRole::Tool, _) => steps.push(step("user")),
            (MessageRole::Assistant, _) => {
                let mut step = step("agent");
                step["is_copied_context"] = json!(true);
                steps.push(step);
            }
        }
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tools_results_are_what_the_agent_observed() {
        let message = |role, text: &str| Message::new(role, text);
        let steps = steps(&[
            message(MessageRole::Tool, "before anybody acted"),
            message(MessageRole::System, "be brief"),
            message(MessageRole::User, "run it"),
            message(MessageRole::Assistant, "I run it"),
            message(MessageRole::Tool, "one"),
            message(MessageRole::Tool, "two"),
            message(MessageRole::User, "go on"),
        ]);
        let sources: Vec<_> = steps.iter().map(|step| step["source"].as_str().unwrap_or_default()).collect();
        assert_eq!(sources, ["user", "system", "user", "agent", "user"]);
        assert_eq!(
            steps[3]["observation"],
            json!({ "results": [{ "content": "one" }, { "content": "two" }] })
        );
        for (number, step) in (1..).zip(&steps) {
            assert_eq!(step["step_id"], number);
        }
    }
}
