//! The final table of a duel.

use std::fmt::Write;

use super::Tokens;
use crate::decision::Evidence;
use crate::missing::Cause;
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
    let interval = verdict.interval().map(|interval| {
        let kind = match verdict.decision.evidence {
            Evidence::Sequential(_) | Evidence::Fixed(_) => "95 % confidence sequence",
            _ => "approximate 95 % interval",
        };
        format!(", {kind} {:+.2} to {:+.2}", interval.low, interval.high)
    });
    line(format!(
        "{}: {:+.2} points{}",
        outcome(verdict.outcome, plan),
        verdict.margin,
        interval.unwrap_or_default()
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
        line(format!("{:<12}with missing cells as wins of the king, the challenger is {held}", ""));
        let causes = verdict.causes.iter().map(|(cause, count)| {
            let cause = match cause {
                Cause::Outage => "by an outage",
                Cause::Replies => "because of the replies",
                Cause::Question => "whatever the replies",
                Cause::Void => "of a judge that failed a canary",
            };
            format!("{count} {cause}")
        });
        let causes = causes.collect::<Vec<_>>().join(", ");
        if !causes.is_empty() {
            line(format!("{:<12}{causes}", ""));
        }
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
    if let Some(drift) = &verdict.drift {
        line(format!(
            "{:<12}{:+.2} points in the first half, {:+.2} in the second: {:+.1} standard errors",
            "drift",
            drift.early,
            drift.late,
            drift.score()
        ));
    }
    if let Some(strata) = &verdict.strata {
        line(format!(
            "{:<12}a sample's repository predicts its difference with a correlation of {:+.2}",
            "strata", strata.rho
        ));
    }
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
        Outcome::Void(VoidReason::Disputed) => {
            "The duel is void, the challenger has won unless what an outage keeps missing counts for the king"
                .into()
        }
        Outcome::Void(_) => "The duel is void".into(),
        other => format!("{other:?}"),
    }
}

fn evidence(evidence: &Evidence) -> String {
    let met = |met: bool| if met { "met" } else { "not met" };
    match evidence {
        Evidence::Sequential(sequential) => format!(
            "evidence e^{:.2} of e^{:.2} at {} of at most {} samples{}{}",
            sequential.log_e_value,
            -sequential.alpha.ln(),
            sequential.samples,
            sequential.cap,
            sequential.size.as_ref().map_or_else(String::new, |size| format!(
                "; that the win is above {:.2} points e^{:.2} of e^4.61",
                size.null, size.log_e_value
            )),
            sequential
                .shrunken
                .map_or_else(String::new, |points| format!("; shrunken estimate {points:+.2}")),
        ),
        Evidence::Fixed(fixed) => format!(
            "evidence e^{:.2} of e^{:.2} after {} samples, win margin {}",
            fixed.log_e_value,
            -fixed.alpha.ln(),
            fixed.samples,
            met(fixed.margin_met)
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
