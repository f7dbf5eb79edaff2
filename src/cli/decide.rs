//! `albedo decide`.

use std::path::PathBuf;

use serde_json::json;

use super::exit::Exit;
use super::output::{print, print_json, warn};
use crate::decide::{
    Budget, Choice, Missing, Paired, PairedComparison, PairedEvidence, PairedOutcome, PairedSettings,
    PythonDuel, PythonDuels, Scores, pair, read_csv,
};
use crate::report::{self, Look};
use crate::{Error, Result};

#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("logs").required(true).args(["inspect", "lm_eval", "harbor", "python_duel", "csv"]))]
pub(crate) struct Arguments {
    /// Two logs of Inspect AI, `.eval` files: the system to improve on, then the other.
    #[arg(long, num_args = 2, value_names = ["FIRST", "SECOND"])]
    inspect: Vec<PathBuf>,
    /// Two runs of lm-evaluation-harness: folders, or `samples_*.jsonl` files.
    #[arg(long, num_args = 2, value_names = ["FIRST", "SECOND"])]
    lm_eval: Vec<PathBuf>,
    /// Two jobs of Harbor: their folders.
    #[arg(long, num_args = 2, value_names = ["FIRST", "SECOND"])]
    harbor: Vec<PathBuf>,
    /// Duels that the Python system published, of one king and one challenger: folders, or
    /// `scoring-results.jsonl` or `judge_raw.jsonl` files. The second system is the
    /// challenger.
    #[arg(long, num_args = 1.., value_name = "DUEL")]
    python_duel: Vec<PathBuf>,
    /// A table with the columns `item`, `cluster` (optional), `first` and `second`.
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Which score of the log: a scorer, a metric or a reward [default: the only one]. The higher
    /// score is the better one: see `--lower-is-better`.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["csv", "python_duel"])]
    metric: Option<String>,
    /// Which filter of lm-evaluation-harness [default: the only one].
    #[arg(long, value_name = "NAME", requires = "lm_eval")]
    filter: Option<String>,
    /// The field that names an item's cluster: of a sample's metadata, or of a document
    /// [default: every item is one].
    #[arg(long, value_name = "FIELD", conflicts_with_all = ["csv", "harbor", "python_duel"])]
    cluster: Option<String>,
    /// What becomes of an item that one system has no score of, or fewer tries at than the other.
    #[arg(long, value_name = "WHAT", default_value = "refuse", conflicts_with = "csv")]
    missing: MissingArgument,
    /// The lower score is the better one, as of a loss, an error rate or a toxicity.
    #[arg(long, conflicts_with = "python_duel")]
    lower_is_better: bool,
    /// By more than how much the second has to be better, in the unit of the scores.
    #[arg(long, value_name = "X", default_value_t = 0.0, allow_negative_numbers = true)]
    margin: f64,
    /// The probability of calling it better although it is not [default: 0.05, or the
    /// budget's].
    #[arg(long, value_name = "P")]
    alpha: Option<f64>,
    /// The lowest and the highest score that there can be.
    #[arg(long, num_args = 2, value_names = ["LOWEST", "HIGHEST"], default_values_t = [0.0, 1.0], allow_negative_numbers = true)]
    range: Vec<f64>,
    /// The clusters are a random sample of so many, and the question is about those.
    #[arg(long, value_name = "N")]
    pool: Option<u64>,
    /// Fixes the order in which clusters are looked at.
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    seed: u64,
    /// Share alpha with every comparison in this file, which is made if there is none:
    /// for a gate that compares release after release.
    #[arg(long, value_name = "FILE")]
    budget: Option<PathBuf>,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum MissingArgument {
    /// Nothing is compared.
    Refuse,
    /// It counts as the lowest score, or as the highest with `--lower-is-better`.
    Lowest,
    /// It is left out.
    Drop,
}

impl Arguments {
    /// What is compared, and the duels that it is of.
    fn paired(&self) -> Result<(Paired, Vec<PythonDuel>)> {
        let choice = Choice {
            metric: self.metric.clone(),
            filter: self.filter.clone(),
            cluster: self.cluster.clone(),
        };
        if let Some(table) = &self.csv {
            return Ok((Paired::complete(read_csv(table)?), Vec::new()));
        }
        let missing = match self.missing {
            MissingArgument::Refuse => Missing::Refuse,
            MissingArgument::Lowest => Missing::Lowest,
            MissingArgument::Drop => Missing::Drop,
        };
        if !self.python_duel.is_empty() {
            let PythonDuels { duels, king, challenger } = PythonDuels::read(&self.python_duel)?;
            return Ok((pair(&king, &challenger, missing, self.range[0])?, duels));
        }
        let [first, second] = match (&self.inspect[..], &self.lm_eval[..], &self.harbor[..]) {
            ([first, second], _, _) => [Scores::inspect(first, &choice)?, Scores::inspect(second, &choice)?],
            (_, [first, second], _) => Scores::lm_eval_pair(first, second, &choice)?,
            (_, _, [first, second]) => Scores::harbor_pair(first, second, &choice)?,
            _ => return Err(Error::bug("read the scores", "no logs were asked for")),
        };
        let worst = self.range[usize::from(self.lower_is_better)];
        Ok((pair(&first, &second, missing, worst)?, Vec::new()))
    }

    fn settings(&self) -> PairedSettings {
        let (margin, pool, seed, lower_is_better) = (self.margin, self.pool, self.seed, self.lower_is_better);
        let alpha = self.alpha.unwrap_or(PairedSettings::default().alpha);
        let (lowest, highest) = (self.range[0], self.range[1]);
        PairedSettings { alpha, margin, lowest, highest, pool, seed, lower_is_better }
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<Exit> {
    let settings = arguments.settings();
    settings.check()?;
    let (paired, duels) = arguments.paired()?;
    let (budget, comparison) = match &arguments.budget {
        Some(path) => {
            let (budget, number, comparison) =
                Budget::compare_at(path, arguments.alpha, &paired.items, &settings)?;
            (Some((budget, number)), comparison)
        }
        None => (None, crate::decide::compare(&paired.items, &settings)?),
    };
    let detectable = comparison.detectable();
    if arguments.json {
        let mut compared = json!(comparison);
        compared["detectable"] = json!(detectable);
        print_json(&json!({
            "comparison": compared,
            "missing_first": paired.missing_first,
            "missing_second": paired.missing_second,
            "duels": duels,
            "budget": budget.as_ref().map(|(budget, number)| {
                json!({ "alpha": budget.alpha(), "runs": budget.runs().len(), "comparison": number })
            }),
        }))?;
    } else {
        print(&table(&comparison, detectable, &duels, budget.as_ref(), Look::of_stdout()))?;
    }
    let absent = paired.missing_first.len() + paired.missing_second.len();
    if absent > 0 {
        warn(&format!(
            "items without a score, or with a try that is not there: {} of the first system, {} of the second",
            paired.missing_first.len(),
            paired.missing_second.len()
        ));
    }
    Ok(match comparison.outcome {
        PairedOutcome::Better => Exit::Done,
        PairedOutcome::NotShown => Exit::NotShown,
        PairedOutcome::Worse => Exit::Worse,
    })
}

fn table(
    comparison: &PairedComparison,
    detectable: Option<f64>,
    duels: &[PythonDuel],
    budget: Option<&(Budget, u64)>,
    look: Look,
) -> String {
    let PairedComparison { settings, effect, confidence, clusters, items, .. } = comparison;
    let margin =
        if settings.margin > 0.0 { format!(" by more than {}", settings.margin) } else { String::new() };
    let sentence = match comparison.outcome {
        PairedOutcome::Better => look.good(&format!("the second system is better{margin}")),
        PairedOutcome::Worse => look.bad(&format!("the second system is worse{margin}")),
        PairedOutcome::NotShown => look.strong(&format!("neither system was shown to be better{margin}")),
    };
    let evidence = |found: &PairedEvidence| {
        let (factor, needed) = (times(found.log_e_value), times(comparison.needed));
        match found.shown_at {
            // A pool can leave no doubt before the bets have won.
            Some(at) if found.log_e_value < comparison.needed => {
                format!("certain after {at} clusters of the pool; {factor} of {needed}")
            }
            Some(at) => format!("{factor} of {needed}, reached after {at} clusters"),
            None => format!("{factor} of {needed}"),
        }
    };
    let mut rows = Vec::new();
    if !duels.is_empty() {
        rows.push(("published", published(duels)));
    }
    rows.extend([
        (
            "scores",
            format!(
                "{:.4} and {:.4}, the means over {items} items{}",
                comparison.first,
                comparison.second,
                if settings.lower_is_better { "; lower is better" } else { "" }
            ),
        ),
        (
            "difference",
            format!(
                "{effect:+.4} per cluster, {:+.4} to {:+.4} with 95 % confidence ({clusters} clusters, SD {:.4})",
                confidence.low, confidence.high, comparison.sd
            ),
        ),
    ]);
    if let Some(by_item) = &comparison.by_item {
        rows.push((
            "by item",
            format!("{:+.4}, standard error {:.4} by cluster", by_item.mean, by_item.standard_error),
        ));
    }
    rows.push(("better", evidence(&comparison.better)));
    rows.push(("worse", evidence(&comparison.worse)));
    if let Some(found) = comparison.discordant {
        rows.push((
            "right alone",
            format!(
                "the first on {} items, the second on {}: p {} by McNemar's test, clusters not counted",
                found.first,
                found.second,
                if found.p_value < 0.001 { "< 0.001".to_owned() } else { format!("= {:.3}", found.p_value) }
            ),
        ));
    }
    rows.push((
        "detectable",
        detectable.map_or_else(
            || {
                if comparison.sd < 1e-9 * (settings.highest - settings.lowest) {
                    "unknown: every cluster differs by the same".to_owned()
                } else {
                    format!("nothing: at alpha {} it takes more clusters", settings.alpha)
                }
            },
            |effect| format!("a difference of {effect:.4}, nine times of ten"),
        ),
    ));
    if let Some((budget, number)) = budget {
        let of = budget.alpha();
        rows.push((
            "budget",
            format!("alpha {} is this one's share of {of}, comparison {number}", settings.alpha),
        ));
    }
    let rows: String = rows.iter().map(|(name, value)| look.entry(name, value)).collect();
    format!("{}\n{rows}", look.paragraph(&sentence))
}

/// What the Python system made of each of `duels`.
fn published(duels: &[PythonDuel]) -> String {
    let duel = |duel: &PythonDuel| {
        let verdict = match duel.accepted {
            Some(true) => " (accepted)",
            Some(false) => "",
            None => " (no verdict)",
        };
        format!("{:+.2}{verdict}", duel.margin)
    };
    let margins: Vec<_> = duels.iter().map(duel).collect();
    format!("{} points, the challenger minus the king", margins.join(", "))
}

/// An e-value whose natural logarithm is `log`, as a factor.
fn times(log: f64) -> String {
    if log < -1000.0_f64.ln() {
        "below ×0.001".to_owned()
    } else if log < 0.0 {
        format!("×{:.3}", log.exp())
    } else {
        report::times(log)
    }
}
