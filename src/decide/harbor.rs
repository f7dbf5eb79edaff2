//! Jobs of Harbor: a folder per trial with its `result.json`.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::{Choice, READ, Scores, chosen, malformed};
use crate::files::open_file;
use crate::{Error, ErrorKind, Fault, Result};

/// What a trial came to. One that broke has no rewards.
#[derive(Deserialize)]
struct Trial {
    task_name: String,
    /// Digest of the task's files.
    #[serde(default)]
    task_checksum: Option<String>,
    #[serde(default)]
    verifier_result: Option<Verified>,
}

#[derive(Deserialize)]
struct Verified {
    #[serde(default)]
    rewards: Option<Map<String, Value>>,
}

impl Trial {
    fn rewards(&self) -> Option<&Map<String, Value>> {
        self.verifier_result.as_ref()?.rewards.as_ref()
    }
}

pub(super) fn read(job: &Path, choice: &Choice) -> Result<Scores> {
    let failed = |error| Error::io(READ, job, error);
    let mut folders = Vec::new();
    for entry in fs::read_dir(job).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_type().map_err(failed)?.is_dir() && entry.path().join("result.json").is_file() {
            folders.push(entry.path());
        }
    }
    folders.sort();
    let mut trials = Vec::new();
    for folder in folders {
        let path = folder.join("result.json");
        let trial: Trial = serde_json::from_reader(std::io::BufReader::new(open_file(READ, &path)?))
            .map_err(|error| malformed(error.to_string()).with("path", path.display()))?;
        trials.push(trial);
    }
    if trials.is_empty() {
        return Err(Error::new(ErrorKind::NotFound, READ, "the folder has no trials")
            .with_fault(Fault::Operator)
            .with("path", job.display())
            .with_hint("give the folder of one job, which has a folder with a `result.json` per trial"));
    }
    scores(&trials, choice).map_err(|error| error.with("path", job.display()))
}

fn scores(trials: &[Trial], choice: &Choice) -> Result<Scores> {
    let names: BTreeSet<&str> =
        trials.iter().filter_map(Trial::rewards).flat_map(Map::keys).map(String::as_str).collect();
    let reward = chosen("reward", choice.metric.as_deref(), names)?;
    let mut scores = Scores::default();
    for trial in trials {
        let score = trial.rewards().and_then(|rewards| rewards.get(reward)?.as_f64());
        scores.add(trial.task_name.clone(), None, trial.task_checksum.clone(), score);
    }
    Ok(scores)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn trials_of_a_task_are_a_mean_and_broken_ones_have_no_score() {
        let folder = tempfile::tempdir().expect("a folder");
        let trial = |name: &str, result: Value| {
            let folder = folder.path().join(name);
            fs::create_dir(&folder).expect("a folder");
            fs::write(folder.join("result.json"), result.to_string()).expect("a file");
        };
        let rewards = |reward: f64| json!({"rewards": {"reward": reward}});
        trial("a__1", json!({"task_name": "a", "trial_name": "a__1", "verifier_result": rewards(1.0)}));
        trial("a__2", json!({"task_name": "a", "trial_name": "a__2", "verifier_result": rewards(0.0)}));
        trial(
            "b__1",
            json!({"task_name": "b", "verifier_result": null, "exception_info": {"exception_type": "X"}}),
        );
        fs::write(folder.path().join("result.json"), "{}").expect("the job's own");
        let scores = read(folder.path(), &Choice::default()).expect("a job");
        assert_eq!((scores.items["a"].score(None), scores.items["b"].score(None)), (Some(0.5), None));
        trial("c__1", json!({"task": "c"}));
        let error = read(folder.path(), &Choice::default()).unwrap_err().to_string();
        assert!(error.contains("task_name") && error.contains("c__1"), "{error}");
        let empty = tempfile::tempdir().expect("a folder");
        assert_eq!(read(empty.path(), &Choice::default()).unwrap_err().kind(), ErrorKind::NotFound);
    }
}
