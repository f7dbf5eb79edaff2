//! An error budget over many comparisons, such as the releases of a year.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{PairedComparison, PairedItem, PairedOutcome, PairedSettings};
use crate::reign::ErrorBudget;
use crate::{Digest, Error, ErrorKind, Fault, Result, durable};

const KEEP: &str = "keep the error budget";

/// Comparisons that share one probability of error, in the order in which they were
/// first made: over all of them together, one is ever called better although it is not
/// with probability at most [`Budget::alpha`]. The shares are those of a reign's duels
/// ([`ErrorBudget`]). A comparison of the same scores is the same comparison, and spends
/// nothing again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    alpha: f64,
    runs: Vec<BudgetRun>,
}

/// A comparison that was paid for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BudgetRun {
    /// Digest of the scores and the settings.
    pub inputs: Digest,
    /// Its alpha.
    pub share: f64,
    /// What came of it.
    pub outcome: PairedOutcome,
}

impl Budget {
    /// A budget of which nothing is spent.
    ///
    /// # Errors
    /// [`ErrorKind::ConfigInvalid`] if `alpha` is not between 0 and 0.5.
    pub fn new(alpha: f64) -> Result<Self> {
        ErrorBudget::new(alpha).map(|_| Self { alpha, runs: Vec::new() })
    }

    /// Reads the budget at `path`; none if there is no file.
    ///
    /// # Errors
    /// [`ErrorKind::DataInvalid`], the operator's: the file is no budget.
    pub fn read(path: &Path) -> Result<Option<Self>> {
        let text = match fs::read_to_string(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(|error| Error::io(KEEP, path, error))?,
        };
        let invalid = |message: String| {
            Error::new(ErrorKind::DataInvalid, KEEP, message)
                .with_fault(Fault::Operator)
                .with("path", path.display())
                .with_hint("restore the file, or begin a new budget in another one")
        };
        let budget: Self = serde_json::from_str(&text).map_err(|error| invalid(error.to_string()))?;
        let shares = ErrorBudget::new(budget.alpha).map_err(|error| invalid(error.to_string()))?;
        for (attempt, run) in (1..).zip(&budget.runs) {
            if (run.share / shares.share(attempt) - 1.0).abs() > 1e-9 {
                return Err(invalid(format!(
                    "comparison {attempt} has another share than the budget gives it"
                )));
            }
        }
        Ok(Some(budget))
    }

    /// Writes the budget to `path`, whole or not at all. The file `PATH.new` is in use
    /// meanwhile. A link is followed.
    ///
    /// # Errors
    /// The operating system's; [`ErrorKind::NotFound`]: a link to nothing.
    pub fn write(&self, path: &Path) -> Result<()> {
        let path = &target(path)?;
        let mut bytes =
            serde_json::to_vec_pretty(self).map_err(|error| Error::bug(KEEP, error.to_string()))?;
        bytes.push(b'\n');
        let written = durable::replace(path, &beside(path, ".new"), &bytes);
        written.map_err(|error| Error::io(KEEP, path, error))
    }

    /// Compares within the budget at `path`, and writes it back. It is made, with `alpha` or
    /// else 5 %, if there is none. Of comparisons at the same time each has a share of its own:
    /// the file `PATH.lock` is locked meanwhile, beside the file itself where `path` is a link. The
    /// number is the comparison's, from 1.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] while another process compares within this budget;
    /// [`ErrorKind::ConfigInvalid`], the operator's: `alpha` is not the budget's; as
    /// [`Budget::read`], [`Budget::compare`] and [`Budget::write`]. Nothing is spent then.
    pub fn compare_at(
        path: &Path,
        alpha: Option<f64>,
        items: &[PairedItem],
        settings: &PairedSettings,
    ) -> Result<(Self, u64, PairedComparison)> {
        let path = &target(path)?;
        let lock = beside(path, ".lock");
        let file = File::create(&lock).map_err(|error| Error::io(KEEP, &lock, error))?;
        durable::lock(KEEP, &file, path)?;
        let mut budget = match Self::read(path)? {
            None => Self::new(alpha.unwrap_or(PairedSettings::default().alpha))?,
            Some(budget) => match alpha {
                Some(alpha) if alpha != budget.alpha => {
                    let message = format!("alpha is {alpha}, and that of the budget is {}", budget.alpha);
                    return Err(Error::new(ErrorKind::ConfigInvalid, KEEP, message)
                        .with("path", path.display())
                        .with_hint("leave `--alpha` out, or begin a new budget in another file"));
                }
                _ => budget,
            },
        };
        let (number, comparison) = budget.spend(items, settings)?;
        budget.write(path)?;
        Ok((budget, number, comparison))
    }

    /// The probability of an error over all comparisons.
    pub fn alpha(&self) -> f64 {
        self.alpha
    }

    /// The comparisons so far.
    pub fn runs(&self) -> &[BudgetRun] {
        &self.runs
    }

    /// Compares within the budget: `settings` with the share of this comparison, which is
    /// spent and noted whatever comes of it.
    ///
    /// # Errors
    /// As [`compare`](super::compare); nothing is spent then.
    pub fn compare(&mut self, items: &[PairedItem], settings: &PairedSettings) -> Result<PairedComparison> {
        self.spend(items, settings).map(|(_, comparison)| comparison)
    }

    /// The same, and which comparison of the budget it is.
    fn spend(&mut self, items: &[PairedItem], settings: &PairedSettings) -> Result<(u64, PairedComparison)> {
        let mut sorted: Vec<&PairedItem> = items.iter().collect();
        sorted.sort_unstable_by_key(|item| &item.item);
        let inputs = Digest::of_json(&(&sorted, PairedSettings { alpha: self.alpha, ..*settings }))?;
        let earlier = self.runs.iter().position(|run| run.inputs == inputs);
        let attempt = earlier.unwrap_or(self.runs.len()) as u64 + 1;
        let share = ErrorBudget::new(self.alpha)?.share(attempt);
        let comparison = super::compare(items, &PairedSettings { alpha: share, ..*settings })?;
        if earlier.is_none() {
            self.runs.push(BudgetRun { inputs, share, outcome: comparison.outcome });
        }
        Ok((attempt, comparison))
    }
}

/// The file that `path` leads to, also where it is a link: the lock has to be one for all links, and a
/// link must not be replaced.
fn target(path: &Path) -> Result<PathBuf> {
    match fs::canonicalize(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => match fs::read_link(path) {
            Ok(target) => Err(Error::new(ErrorKind::NotFound, KEEP, "the file is a link to nothing")
                .with_fault(Fault::Operator)
                .with("path", path.display())
                .with("target", target.display())
                .with_hint("name the target: it is made there, and the link leads to it then")),
            Err(_) => Ok(path.to_owned()),
        },
        found => found.map_err(|error| Error::io(KEEP, path, error)),
    }
}

/// The file that is named as that at `path`, and `end`.
fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items(count: usize) -> Vec<PairedItem> {
        let item = |item: usize| PairedItem {
            item: item.to_string(),
            cluster: item.to_string(),
            first: 0.0,
            second: 1.0,
        };
        (0..count).map(item).collect()
    }

    #[test]
    fn each_comparison_spends_its_share_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("budget.json");
        assert_eq!(Budget::read(&path).expect("no file"), None);
        let mut budget = Budget::new(0.05).expect("a budget");
        let settings = PairedSettings::default();
        let first = budget.compare(&items(60), &settings).expect("compares");
        assert_eq!(
            (first.outcome, first.settings.alpha),
            (PairedOutcome::Better, ErrorBudget::new(0.05).expect("a budget").share(1))
        );
        let mut reversed = items(60);
        reversed.reverse();
        assert_eq!(budget.compare(&reversed, &settings).expect("compares"), first);
        assert_eq!(budget.runs().len(), 1);
        budget.compare(&items(61), &settings).expect("compares");
        assert_eq!(budget.runs().len(), 2);
        budget.write(&path).expect("writes");
        assert_eq!(Budget::read(&path).expect("a budget"), Some(budget.clone()));
        assert!(budget.compare(&[], &settings).is_err());
        assert_eq!(budget.runs().len(), 2, "what cannot be compared costs nothing");
    }

    #[test]
    fn comparisons_at_the_same_time_share_no_share() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("budget.json");
        let settings = PairedSettings::default();
        let compare = |alpha, count| Budget::compare_at(&path, alpha, &items(count), &settings);
        let (budget, number, _) = compare(Some(0.1), 60).expect("compares");
        assert_eq!((budget.alpha(), budget.runs().len(), number), (0.1, 1, 1));
        let plain = folder.path().join("plain");
        fs::write(&plain, "").expect("a file");
        let rights = |path: &Path| fs::metadata(path).expect("is there").permissions();
        assert_eq!(rights(&path), rights(&plain), "those of any new file");

        let other = File::create(beside(&path, ".lock")).expect("the lock");
        other.lock().expect("locked");
        let error = compare(None, 61).expect_err("another process compares");
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
        drop(other);
        let (budget, number, _) = compare(None, 61).expect("compares");
        assert_eq!((budget.runs().len(), number), (2, 2));
        assert_eq!(Budget::read(&path).expect("reads").as_ref(), Some(&budget));
        let (budget, number, _) = compare(None, 60).expect("compares");
        assert_eq!((budget.runs().len(), number), (2, 1), "the first comparison again");
        let error = compare(Some(0.05), 62).expect_err("another alpha").to_string();
        assert!(error.contains("that of the budget is 0.1"), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn comparisons_through_links_share_one_budget() {
        let folder = tempfile::tempdir().expect("a folder");
        let place = |name: &str| folder.path().join(name);
        let link = |target: &Path, name: &str| {
            fs::create_dir_all(place(name).parent().expect("a folder")).expect("a folder");
            std::os::unix::fs::symlink(target, place(name)).expect("a link");
        };
        let settings = PairedSettings::default();
        let compare = |name: &str, count| Budget::compare_at(&place(name), None, &items(count), &settings);
        link(Path::new("../gate.json"), "one/gate.json");
        let error = compare("one/gate.json", 60).expect_err("there is no budget yet").to_string();
        assert!(error.contains("a link to nothing") && error.contains("../gate.json"), "{error}");
        compare("gate.json", 60).expect("compares");
        link(&place("gate.json"), "other/gate.json");
        assert_eq!(compare("one/gate.json", 61).expect("compares").1, 2);
        assert_eq!(compare("other/gate.json", 62).expect("compares").1, 3);
        assert!(fs::symlink_metadata(place("one/gate.json")).expect("is there").is_symlink());
        assert_eq!(
            Budget::read(&place("gate.json")).expect("reads").map(|budget| budget.runs().len()),
            Some(3)
        );
        let lock = File::create(beside(&place("gate.json"), ".lock")).expect("the lock");
        lock.lock().expect("locked");
        let error = compare("other/gate.json", 63).expect_err("another process compares");
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    }

    #[test]
    fn an_altered_budget_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("budget.json");
        let run = BudgetRun { inputs: Digest::of(""), share: 0.05, outcome: PairedOutcome::Better };
        let altered = serde_json::to_string(&Budget { alpha: 0.05, runs: vec![run] }).expect("JSON");
        for text in ["", "{}", "{\"alpha\": 2.0, \"runs\": []}", &altered] {
            fs::write(&path, text).expect("a file");
            let error = Budget::read(&path).expect_err(text);
            assert_eq!(error.kind(), ErrorKind::DataInvalid, "{error}");
        }
        assert!(Budget::new(0.6).is_err());
    }
}
