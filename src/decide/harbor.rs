//! Jobs of Harbor: a folder per trial with its `config.json`, and its `result.json` once it has
//! ended.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::{Choice, READ, Scores, chosen, malformed};
use crate::files::open_file;
use crate::{Error, ErrorKind, Fault, Result};

/// Names of a trial's files.
const RESULT: &str = "result.json";
const CONFIG: &str = "config.json";

/// What a trial came to. One that broke has no rewards.
#[derive(Deserialize)]
struct Trial {
    task_name: String,
    /// Digest of the task's files.
    #[serde(default)]
    task_checksum: Option<String>,
    #[serde(default)]
    verifier_result: Option<Verified>,
    /// Whether Harbor counts the rewards: it grades trials that a provider or a budget has ended,
    /// and says so here. Older versions do not.
    #[serde(default = "is_valid")]
    reward_valid: bool,
    /// What it was to be, as in its `config.json`.
    #[serde(default)]
    config: Value,
}

fn is_valid() -> bool {
    true
}

#[derive(Deserialize)]
struct Verified {
    #[serde(default)]
    rewards: Option<Map<String, Value>>,
}

/// What a trial was to be.
#[derive(Deserialize)]
struct Config {
    task: Task,
}

/// Where its task is from.
#[derive(PartialEq, Eq, PartialOrd, Ord, Deserialize)]
struct Task {
    #[serde(default)]
    path: Option<String>,
    #[serde(default)]
    git_url: Option<String>,
    /// `ORGANISATION/NAME`, of a task in a registry.
    #[serde(default)]
    name: Option<String>,
}

impl Trial {
    fn rewards(&self) -> Option<&Map<String, Value>> {
        self.verifier_result.as_ref()?.rewards.as_ref()
    }

    /// Where its task is from, if it says so.
    fn task(&self) -> Option<Task> {
        Task::deserialize(self.config.get("task")?).ok()
    }
}

impl Task {
    /// What Harbor calls the task where its own file does not say otherwise: its name, or its
    /// folder's.
    fn called(&self) -> Option<&str> {
        let folder = || self.path.as_deref()?.trim_end_matches('/').rsplit('/').next();
        self.name.as_deref().or_else(folder).filter(|name| !name.is_empty())
    }
}

pub(super) fn read(job: &Path, choice: &Choice) -> Result<Scores> {
    let failed = |error| Error::io(READ, job, error);
    let mut folders = Vec::new();
    for entry in fs::read_dir(job).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_type().map_err(failed)?.is_dir() {
            folders.push(entry.path());
        }
    }
    folders.sort();
    let (mut trials, mut unfinished) = (Vec::new(), Vec::new());
    for folder in folders {
        let (result, config) = (folder.join(RESULT), folder.join(CONFIG));
        if result.is_file() {
            trials.push(document::<Trial>(&result)?);
        } else if config.is_file() {
            unfinished.push((document::<Config>(&config)?.task, config));
        }
    }
    if trials.is_empty() {
        return Err(Error::new(ErrorKind::NotFound, READ, "the folder has no trials that ended")
            .with_fault(Fault::Operator)
            .with("path", job.display())
            .with_hint("give the folder of one job, which has a folder with a `result.json` per trial"));
    }
    let mut scores = scores(&trials, choice).map_err(|error| error.with("path", job.display()))?;
    let known: BTreeMap<Task, &str> =
        trials.iter().filter_map(|trial| Some((trial.task()?, trial.task_name.as_str()))).collect();
    for (task, config) in unfinished {
        // A finished trial of the same task says what it is called.
        let name = known.get(&task).copied().or_else(|| task.called());
        let name = name.ok_or_else(|| {
            malformed("the trial names no task").with("path", config.display()).with_hint("remove its folder")
        })?;
        scores.add(name.to_owned(), None, None, None)?;
    }
    Ok(scores)
}

fn document<T: DeserializeOwned>(path: &Path) -> Result<T> {
    serde_json::from_reader(std::io::BufReader::new(open_file(READ, path)?))
        .map_err(|error| malformed(error.to_string()).with("path", path.display()))
}

fn scores(trials: &[Trial], choice: &Choice) -> Result<Scores> {
    let names: BTreeSet<&str> =
        trials.iter().filter_map(Trial::rewards).flat_map(Map::keys).map(String::as_str).collect();
    let reward = chosen("reward", choice.metric.as_deref(), names)?;
    let mut scores = Scores::default();
    for trial in trials {
        let rewards = trial.rewards().filter(|_| trial.reward_valid);
        let score = rewards.and_then(|rewards| rewards.get(reward)?.as_f64());
        scores.add(trial.task_name.clone(), None, trial.task_checksum.clone(), score)?;
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
        trial("a__3", json!({"task_name": "a", "task_checksum": "00", "verifier_result": rewards(1.0)}));
        assert!(read(folder.path(), &Choice::default()).is_ok(), "a trial without a checksum is of any");
        trial("a__4", json!({"task_name": "a", "task_checksum": "11", "verifier_result": rewards(1.0)}));
        let error = read(folder.path(), &Choice::default()).unwrap_err().to_string();
        assert!(error.contains("the same name and another content") && error.contains("item: a"), "{error}");
        fs::remove_dir_all(folder.path().join("a__4")).expect("removes");
        trial("c__1", json!({"task": "c"}));
        let error = read(folder.path(), &Choice::default()).unwrap_err().to_string();
        assert!(error.contains("task_name") && error.contains("c__1"), "{error}");
        let empty = tempfile::tempdir().expect("a folder");
        assert_eq!(read(empty.path(), &Choice::default()).unwrap_err().kind(), ErrorKind::NotFound);
    }

    /// As `harbor.models.trial.result.TrialResult` of Harbor 0.26 writes them, without what is not read.
    #[test]
    fn rewards_that_harbor_does_not_count_and_trials_that_did_not_end_are_failures() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = |trial: &str, name: &str, content: &Value| {
            let folder = folder.path().join(trial);
            fs::create_dir_all(&folder).expect("a folder");
            fs::write(folder.join(name), content.to_string()).expect("a file");
        };
        let config = |path: &str| json!({"task": {"path": path, "git_url": null, "name": null, "overwrite": false}, "trial_name": ""});
        let result = |task: &str, reward: f64, valid: bool| {
            json!({
                "task_name": format!("org/{task}"), "task_checksum": task, "config": config(&format!("tasks/{task}")),
                "verifier_result": {"rewards": {"reward": reward}}, "reward_valid": valid,
            })
        };
        file("a__1", RESULT, &result("a", 1.0, true));
        file("a__1", CONFIG, &config("tasks/a"));
        // A rate limit ended it; Harbor graded what was there.
        file("a__2", RESULT, &result("a", 0.0, false));
        file("b__1", RESULT, &result("b", 1.0, true));
        // The process was killed.
        file("b__2", CONFIG, &config("tasks/b"));
        file("c__1", CONFIG, &config("tasks/c/"));
        file("d__1", CONFIG, &json!({"task": {"name": "org/d"}}));
        fs::create_dir(folder.path().join("logs")).expect("a folder of something else");
        let scores = read(folder.path(), &Choice::default()).expect("a job");
        let found: Vec<_> =
            scores.items.iter().map(|(name, item)| (name.as_str(), item.count, item.failed)).collect();
        assert_eq!(found, [("c", 0, 1), ("org/a", 1, 1), ("org/b", 1, 1), ("org/d", 0, 1)]);
        assert_eq!(scores.items["org/a"].score(Some(0.0)), Some(0.5));
        file("e__1", CONFIG, &json!({"task": {}}));
        let error = read(folder.path(), &Choice::default()).unwrap_err().to_string();
        assert!(error.contains("names no task") && error.contains("e__1"), "{error}");
    }
}
