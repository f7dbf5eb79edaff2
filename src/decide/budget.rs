//! An error budget over many comparisons, such as the releases of a year.

use std::fs;
use std::io::Write;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{PairedComparison, PairedItem, PairedOutcome, PairedSettings};
use crate::reign::ErrorBudget;
use crate::{Digest, Error, ErrorKind, Fault, Result};

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

    /// Writes the budget to `path`, whole or not at all.
    ///
    /// # Errors
    /// The operating system's.
    pub fn write(&self, path: &Path) -> Result<()> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let written = || {
            let mut file = tempfile::NamedTempFile::new_in(folder)?;
            serde_json::to_writer_pretty(&mut file, self)?;
            file.write_all(b"\n")?;
            file.as_file().sync_all()?;
            file.persist(path)?;
            Ok::<_, std::io::Error>(())
        };
        written().map_err(|error| Error::io(KEEP, path, error))
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
        Ok(comparison)
    }
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
