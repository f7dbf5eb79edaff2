//! The final table of a duel.

use std::fmt::Write;

use super::Tokens;
use crate::decision::Evidence;
use crate::plan::{ContestantPlan, DuelPlan};
use crate::verdict::{Forfeit, Holds, MAX_OVERFLOWED, Overflows, VoidReason, share};
use crate::{Outcome, Verdict};

/// One line per contestant: architecture, size, element type, digest, backend.
pub fn contestants(plan: &DuelPlan) -> String {
    let line = |side: &str, contestant: &ContestantPlan| {
        let model = &contestant.model;
        format!(
            "{side:<12}{} of {} parameters in {}, sha256 {}, on {}\n",
            model.architecture,
            count(model.parameter_count),
            model.dtype,
            model.parameters.short(),
            contestant.backend.name,
        )
    };
    line("king", &plan.king) + &line("challenger", &plan.challenger)
}

/// The verdict, the scores by judge and metric, and how far to trust them.
pub fn verdict(plan: &DuelPlan, verdict: &Verdict, tokens: [Tokens; 2]) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let mut line = |line: String| {
        let _ = writeln!(text, "{}", line.trim_end());
    };
    let interval = verdict.margin_interval;
    line(format!(
        "{}: {:+.2} points, approximate 95 % interval {:+.2} to {:+.2}",
        outcome(verdict.outcome, plan),
        verdict.margin,
        interval.low,
        interval.high
    ));
    line(format!("rule {}: {}", plan.rule.name(), evidence(&verdict.decision.evidence)));
    line(String::new());

    line(format!(
        "{:<26}{:>8}{:>12}{:>9}{:>8}{:>9}",
        "score of 100", "king", "challenger", "margin", "flips", "missing"
    ));
    let scores = |name: &str, margin: f64| {
        format!("{name:<26}{:>8.2}{:>12.2}{margin:>+9.2}", share(-margin), share(margin))
    };
    for judge in &verdict.judges {
        line(format!("{}{:>8}{:>9}", scores(&judge.judge, judge.margin), judge.flips, judge.missing));
        if judge.metrics.len() > 1 {
            for (metric, margin) in &judge.metrics {
                line(scores(&format!("  {metric}"), *margin));
            }
        }
    }
    line(scores("panel", verdict.margin));
    line(String::new());
    line(format!("{:<26}{:>8}{:>12}{:>9}", "by metric", "king", "challenger", "margin"));
    for (metric, margin) in &verdict.metrics {
        line(scores(&format!("  {metric}"), *margin));
    }
    line(String::new());

    line(format!(
        "{:<12}{} of {} planned, {} missing of {} cells ({:.1} %, void above {:.0} %)",
        "samples",
        verdict.samples,
        plan.samples,
        verdict.missing,
        verdict.cells,
        100.0 * f64::from(verdict.missing) / f64::from(verdict.cells.max(1)),
        100.0 * plan.panel.max_missing,
    ));
    if verdict.missing > 0 {
        let held = if verdict.dethroned_if_missing_for_king { "crowned" } else { "not crowned" };
        line(format!("{:<12}with every missing cell for the king, the challenger is {held}", ""));
    }
    let Overflows { king, challenger } = verdict.overflows;
    if king + challenger > 0 {
        line(format!(
            "{:<12}king {king} and challenger {challenger} samples, lost because the model's own arithmetic \
             gave a number that is not finite",
            "overflows"
        ));
    }
    line(format!(
        "{:<12}{:.1} % of the scored cells prefer another side when the order is exchanged",
        "order flips",
        100.0 * verdict.flip_rate()
    ));
    let [king, challenger] = tokens.map(|tokens| format!("{} read, {} written", tokens.prompt, tokens.reply));
    line(format!("{:<12}king {king}; challenger {challenger}", "tokens"));
    text
}

fn outcome(outcome: Outcome, plan: &DuelPlan) -> String {
    match outcome {
        Outcome::Dethroned => "The challenger is crowned".into(),
        Outcome::KingHolds(Holds::Futile) => "The king holds, a clear win is out of reach".into(),
        Outcome::KingHolds(Holds::NotShown) => "The king holds, a clear win was not shown".into(),
        Outcome::KingHolds(_) => "The king holds".into(),
        Outcome::Forfeit(Forfeit::Overflow) => format!(
            "The challenger forfeits, its own arithmetic overflowed on more than {:.0} % of the samples",
            100.0 * MAX_OVERFLOWED
        ),
        Outcome::Forfeit(_) => "The challenger forfeits".into(),
        Outcome::Void(VoidReason::TooManyMissing) => format!(
            "The duel is void, more than {:.0} % of the answers are missing",
            100.0 * plan.panel.max_missing
        ),
        Outcome::Void(_) => "The duel is void".into(),
        other => format!("{other:?}"),
    }
}

fn evidence(evidence: &Evidence) -> String {
    let met = |met: bool| if met { "met" } else { "not met" };
    match evidence {
        Evidence::Sequential(sequential) => format!(
            "evidence e^{:.2} of e^{:.2} at {} of at most {} samples; 95 % confidence sequence {:+.2} to {:+.2} \
             points; shrunken estimate {:+.2}",
            sequential.log_e_value,
            -sequential.alpha.ln(),
            sequential.samples,
            sequential.cap,
            sequential.confidence.low,
            sequential.confidence.high,
            sequential.shrunken
        ),
        Evidence::Margin(margin) => {
            format!("{} to {}, win margin {}", margin.challenger, margin.king, met(margin.margin_met))
        }
        Evidence::MarginLcb(lcb) => format!(
            "{} to {}, win margin {}; lower bound of the mean {:+.3} points, {}",
            lcb.challenger,
            lcb.king,
            met(lcb.margin_met),
            200.0 * lcb.lcb,
            if lcb.lcb > 0.0 { "above zero" } else { "not above zero" }
        ),
        other => format!("{other:?}"),
    }
}

/// A count in the largest unit that leaves a digit before the point.
pub(super) fn count(number: u64) -> String {
    match number {
        0..1_000 => number.to_string(),
        1_000..1_000_000 => format!("{:.1} thousand", number as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} million", number as f64 / 1e6),
        _ => format!("{:.1} billion", number as f64 / 1e9),
    }
}
