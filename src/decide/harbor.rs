//! Jobs of Harbor: a folder per trial with its `config.json`, and its `result.json` once it has
//! ended.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

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
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
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
        self.name.as_deref().or_else(|| self.folder()).filter(|name| !name.is_empty())
    }

    /// The last part of its path.
    fn folder(&self) -> Option<&str> {
        self.path.as_deref()?.trim_end_matches('/').rsplit('/').next()
    }
}

/// The tasks of a job by the last part of their paths, with their names if a trial of them has ended.
type Folders<'a> = BTreeMap<String, BTreeMap<Task, Option<&'a str>>>;

/// The trials of one job.
struct Job {
    trials: Vec<Trial>,
    /// The tasks of trials that have not ended, with the files that name them.
    unfinished: Vec<(Task, PathBuf)>,
}

pub(super) fn read(job: &Path, choice: &Choice) -> Result<Scores> {
    let read = Job::read(job)?;
    read.scores(&read.names().collect(), choice).map_err(|error| error.with("path", job.display()))
}

/// Two jobs that are compared: what one of them calls a task, the other calls it, too, if no trial of that
/// task has ended in it. Two tasks are one if their paths are alike, or end alike and no other path of
/// either job does.
pub(super) fn read_pair(first: &Path, second: &Path, choice: &Choice) -> Result<[Scores; 2]> {
    let [one, other] = [Job::read(first)?, Job::read(second)?];
    let scores = |job: &Job, beside: &Job, path: &Path| {
        // A job's own names come last, and stand.
        let mut names: BTreeMap<_, _> = beside.names().chain(job.names()).collect();
        let (own, others) = (job.folders(), beside.folders());
        for (task, _) in &job.unfinished {
            let Some(folder) = task.folder() else { continue };
            let only = own.get(folder).is_some_and(|tasks| tasks.len() == 1);
            let other = others.get(folder).filter(|tasks| only && tasks.len() == 1);
            if let Some(name) = other.and_then(|tasks| tasks.values().next().copied().flatten()) {
                names.entry(task.clone()).or_insert(name);
            }
        }
        job.scores(&names, choice).map_err(|error| error.with("path", path.display()))
    };
    Ok([scores(&one, &other, first)?, scores(&other, &one, second)?])
}

impl Job {
    /// Reads the job in the folder `path`.
    fn read(path: &Path) -> Result<Self> {
        let failed = |error| Error::io(READ, path, error);
        let mut folders = Vec::new();
        for entry in fs::read_dir(path).map_err(failed)? {
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
                .with("path", path.display())
                .with_hint("give the folder of one job, which has a folder with a `result.json` per trial"));
        }
        Ok(Self { trials, unfinished })
    }

    /// What the trials that ended call their tasks.
    fn names(&self) -> impl Iterator<Item = (Task, &str)> {
        self.trials.iter().filter_map(|trial| Some((trial.task()?, trial.task_name.as_str())))
    }

    /// The tasks of all trials.
    fn folders(&self) -> Folders<'_> {
        let unfinished = self.unfinished.iter().map(|(task, _)| (task.clone(), None));
        let ended = self.names().map(|(task, name)| (task, Some(name)));
        let mut folders = Folders::new();
        // Those that ended come last: their names stand.
        for (task, name) in unfinished.chain(ended) {
            if let Some(folder) = task.folder().map(str::to_owned) {
                folders.entry(folder).or_default().insert(task, name);
            }
        }
        folders
    }

    /// The scores of all trials. `names` are those of tasks of which a trial ended.
    fn scores(&self, names: &BTreeMap<Task, &str>, choice: &Choice) -> Result<Scores> {
        let mut scores = scores(&self.trials, choice)?;
        for (task, config) in &self.unfinished {
            let name = names.get(task).copied().or_else(|| task.called());
            let name = name.ok_or_else(|| {
                malformed("the trial names no task")
                    .with("config", config.display())
                    .with_hint("remove its folder")
            })?;
            scores.add(name.to_owned(), None, None, None)?;
        }
        Ok(scores)
    }
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
    use crate::decide::{Missing, pair};

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

    #[test]
    fn a_task_that_no_trial_of_one_job_finished_is_called_as_in_the_other() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = |trial: &str, name: &str, content: &Value| {
            let folder = folder.path().join(trial);
            fs::create_dir_all(&folder).expect("a folder");
            fs::write(folder.join(name), content.to_string()).expect("a file");
        };
        let config = |task: &str| json!({"task": {"path": format!("tasks/{task}")}});
        let result = |task: &str| {
            json!({
                "task_name": format!("org/{task}"), "config": config(task),
                "verifier_result": {"rewards": {"reward": 1.0}},
            })
        };
        file("first/a__1", RESULT, &result("a"));
        file("first/c__1", RESULT, &result("c"));
        file("first/d__1", CONFIG, &config("d"));
        file("second/a__1", RESULT, &result("a"));
        file("second/c__1", CONFIG, &config("c"));
        file("second/d__1", RESULT, &result("d"));
        let [first, second] = ["first", "second"].map(|job| folder.path().join(job));
        let [first, second] = read_pair(&first, &second, &Choice::default()).expect("two jobs");
        for (scores, lost) in [(&first, "org/d"), (&second, "org/c")] {
            assert_eq!(scores.items.keys().collect::<Vec<_>>(), ["org/a", "org/c", "org/d"]);
            assert_eq!((scores.items[lost].count, scores.items[lost].failed), (0, 1));
        }
        let paired = pair(&first, &second, Missing::Lowest, 0.0).expect("pairs");
        let found: Vec<_> = paired.items.iter().map(|item| (item.first, item.second)).collect();
        assert_eq!(
            found,
            [(1.0, 1.0), (1.0, 0.0), (0.0, 1.0)],
            "a loss of each, and no tie that nobody played"
        );
    }

    #[test]
    fn a_task_is_the_same_at_another_path_if_only_one_path_of_each_job_ends_so() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = |trial: &str, name: &str, content: &Value| {
            let folder = folder.path().join(trial);
            fs::create_dir_all(&folder).expect("a folder");
            fs::write(folder.join(name), content.to_string()).expect("a file");
        };
        let config = |path: &str| json!({"task": {"path": path}});
        let result = |name: &str, path: &str| {
            json!({
                "task_name": name, "config": config(path),
                "verifier_result": {"rewards": {"reward": 1.0}},
            })
        };
        let jobs = ["first", "second"].map(|job| folder.path().join(job));
        let names = || {
            let [_, second] = read_pair(&jobs[0], &jobs[1], &Choice::default()).expect("two jobs");
            second.items.into_keys().collect::<Vec<_>>()
        };
        file("first/a__1", RESULT, &result("org/a", "/home/u/tasks/a"));
        file("first/c__1", RESULT, &result("org/c", "/home/u/tasks/c"));
        file("second/a__1", RESULT, &result("org/a", "tasks/a"));
        file("second/c__1", CONFIG, &config("tasks/c"));
        assert_eq!(names(), ["org/a", "org/c"]);
        // Two of the other job are called so, or two of its own: nobody knows which one it is.
        file("first/c__2", CONFIG, &config("/home/u/more/c"));
        assert_eq!(names(), ["c", "org/a"]);
        fs::remove_dir_all(folder.path().join("first/c__2")).expect("removes");
        file("second/c__2", CONFIG, &config("more/c"));
        assert_eq!(names(), ["c", "org/a"]);
    }
}
