//! The heading and the final table of a duel.

use std::fmt::Write;

use super::{Look, Tokens, line};
use crate::decision::{Evidence, SequentialEvidence};
use crate::missing::Cause;
use crate::plan::{ContestantPlan, DuelPlan};
use crate::twin::TwinReport;
use crate::verdict::{Forfeit, Holds, MAX_OVERFLOWED, Overflows, VoidReason, share};
use crate::{Outcome, Verdict};

/// Columns of the numbers in the table of scores.
const NUMBERS: usize = 46;

/// Columns of the names in it, where there is room.
const NAMES: usize = 26;

/// An e-value from which the second betting process of `sequential` takes a win for
/// one of some size.
const SIZE_EVIDENCE: f64 = 100.0;

/// One entry per contestant: where its model is, if `names` says so, architecture,
/// size, element type, digest and backend.
pub fn contestants(plan: &DuelPlan, names: [Option<&str>; 2], look: Look) -> String {
    let entry = |side: &str, contestant: &ContestantPlan, name: Option<&str>| {
        let model = &contestant.model;
        let name = name.map(|name| format!("{}: ", look.strong(name))).unwrap_or_default();
        let described = format!(
            "{name}{} of {} parameters in {}, sha256 {}, on {}",
            line(&model.architecture),
            count(model.parameter_count),
            line(&model.dtype),
            model.parameters.short(),
            line(&contestant.backend.name),
        );
        look.entry(side, &described)
    };
    let [king, challenger] = names;
    entry("king", &plan.king, king) + &entry("challenger", &plan.challenger, challenger)
}

/// The verdict in a sentence, the scores by judge and metric, and how far to trust
/// them.
pub fn verdict(plan: &DuelPlan, verdict: &Verdict, tokens: [Tokens; 2], look: Look) -> String {
    let mut text = look.paragraph(&sentence(verdict, plan, look));
    text.push('\n');
    text += &scores(verdict, look);
    text.push('\n');
    text += &trust(plan, verdict, look);
    let [king, challenger] = tokens.map(|tokens| format!("{} read, {} written", tokens.prompt, tokens.reply));
    text + &look.entry("tokens", &format!("king {king}; challenger {challenger}"))
}

/// What the duel came to, for a reader who knows nothing of it.
pub(super) fn sentence(verdict: &Verdict, plan: &DuelPlan, look: Look) -> String {
    let outcome = match verdict.outcome {
        Outcome::Dethroned => look.good("The challenger is crowned"),
        Outcome::KingHolds(_) => look.strong("The king holds"),
        Outcome::Forfeit(_) => look.bad("The challenger forfeits"),
        _ => look.warning("The duel is void"),
    };
    let because = match verdict.outcome {
        Outcome::KingHolds(Holds::NotShown) if verdict.margin > 0.0 => {
            not_shown(&verdict.decision.evidence).into()
        }
        Outcome::KingHolds(Holds::Futile) => ", and a clear win of the challenger is out of reach".into(),
        Outcome::Forfeit(Forfeit::Overflow) => format!(
            ", and the challenger's own arithmetic overflowed on more than {:.0} % of the samples",
            100.0 * MAX_OVERFLOWED
        ),
        Outcome::Void(VoidReason::TooManyMissing) => {
            format!(", but more than {:.0} % of the answers are missing", 100.0 * plan.panel.max_missing)
        }
        Outcome::Void(VoidReason::Disputed) => {
            ", but who wins hangs on answers that an outage keeps missing".into()
        }
        _ => String::new(),
    };
    format!("{outcome}: {}{because}.", lead(verdict))
}

/// What the judges of a study prefer: the rule that its folder has decides nothing.
pub(super) fn studied(verdict: &Verdict) -> String {
    format!("Judged for a study, no verdict: {}.", lead(verdict))
}

/// Whose replies the judges prefer, and by how much.
fn lead(verdict: &Verdict) -> String {
    let samples = counted(verdict.samples, "sample", "samples");
    match verdict.margin {
        0.0 => format!("over {samples} the judges prefer neither side's replies"),
        margin => format!(
            "over {samples} the judges prefer the {}'s replies by {:.2} of 100 points",
            if margin > 0.0 { "challenger" } else { "king" },
            margin.abs()
        ),
    }
}

/// Why a lead of the challenger is no win.
fn not_shown(evidence: &Evidence) -> &'static str {
    let chance = ", which is too little evidence to rule out chance";
    match evidence {
        Evidence::Sequential(evidence) if evidence.rejected_at.is_none() => chance,
        Evidence::Fixed(evidence) if evidence.log_e_value < -evidence.alpha.ln() => chance,
        Evidence::MarginLcb(evidence) if evidence.margin_met => chance,
        _ => ", which is a smaller lead than the rule asks for",
    }
}

/// The table of scores by judge and metric.
fn scores(verdict: &Verdict, look: Look) -> String {
    let names = look.width().saturating_sub(NUMBERS).min(NAMES);
    let row = |name: &str, numbers: String| {
        // A name that does not fit has a line of its own.
        let own_line = if name.chars().count() > names { format!("{name}\n") } else { String::new() };
        let name = if own_line.is_empty() { name } else { "" };
        format!("{own_line}{name:<names$}{numbers}\n")
    };
    let score = |margin: f64| format!("{:>8.2}{:>12.2}{margin:>+9.2}", share(-margin), share(margin));
    let head = |rest: &str| format!("{:>8}{:>12}{:>9}{rest}", "king", "challenger", "margin");

    let mut text = row("score of 100", head(&format!("{:>8}{:>9}", "flips", "missing")));
    for judge in &verdict.judges {
        text += &row(
            &line(&judge.judge),
            format!("{}{:>8}{:>9}", score(judge.margin), judge.flips, judge.missing),
        );
        if judge.metrics.len() > 1 {
            for (metric, margin) in &judge.metrics {
                text += &row(&format!("  {metric}"), score(*margin));
            }
        }
    }
    text += &row("panel", score(verdict.margin));
    text += "\n";
    text += &row("by metric", head(""));
    for (metric, margin) in &verdict.metrics {
        text += &row(&format!("  {metric}"), score(*margin));
    }
    text
}

/// How far to trust the verdict, one entry per reason.
fn trust(plan: &DuelPlan, verdict: &Verdict, look: Look) -> String {
    let mut text = String::new();
    let mut entry = |name: &str, value: &str| text += &look.entry(name, value);

    let interval = verdict.interval().map_or_else(String::new, |interval| {
        let kind = match verdict.decision.evidence {
            Evidence::Sequential(_) | Evidence::Fixed(_) => "95 % confidence sequence",
            _ => "approximate 95 % interval",
        };
        format!(", {kind} {:+.2} to {:+.2}", interval.low, interval.high)
    });
    entry("margin", &format!("{:+.2} points{interval}", verdict.margin));
    entry("rule", &format!("{}: {}", plan.rule.name(), evidence(&verdict.decision.evidence)));

    let missing = format!(
        "{} missing of {} ({:.1} %, void above {:.0} %)",
        verdict.missing,
        counted(verdict.cells, "cell", "cells"),
        100.0 * f64::from(verdict.missing) / f64::from(verdict.cells.max(1)),
        100.0 * plan.panel.max_missing,
    );
    let missing = if verdict.missing > 0 { look.warning(&missing) } else { missing };
    entry("samples", &format!("{} of {} planned, {missing}", verdict.samples, plan.samples));
    if verdict.missing > 0 {
        let held = if verdict.dethroned_if_missing_for_king { "crowned" } else { "not crowned" };
        entry("", &format!("with missing cells as wins of the king, the challenger is {held}"));
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
            entry("", &causes);
        }
    }
    let Overflows { king, challenger } = verdict.overflows;
    if king + challenger > 0 {
        let lost = format!(
            "king {king} and challenger {challenger} samples, lost because the model's own arithmetic gave a \
             number that is not finite"
        );
        entry("overflows", &look.warning(&lost));
    }
    let flips = format!(
        "{:.1} % of the scored cells prefer another side when the order is exchanged",
        100.0 * verdict.flip_rate()
    );
    entry("order flips", &flips);
    if let Some(drift) = &verdict.drift {
        entry(
            "drift",
            &format!(
                "{:+.2} points in the first half, {:+.2} in the second: {:+.1} standard errors",
                drift.early,
                drift.late,
                drift.score()
            ),
        );
    }
    if let Some(twins) = &verdict.twins {
        for (name, value) in twin_entries(twins, look) {
            entry(name, &value);
        }
    }
    if let Some(strata) = &verdict.strata {
        let rho = strata.rho;
        entry(
            "strata",
            &format!("a sample's repository predicts its difference with a correlation of {rho:+.2}"),
        );
    }
    text
}

/// What comparing replies with their twins showed.
fn twin_entries(twins: &TwinReport, look: Look) -> Vec<(&'static str, String)> {
    let TwinReport { compared, unanswered, king, challenger, .. } = *twins;
    let mut text = format!("{} of a reply with its twin", counted(compared, "comparison", "comparisons"));
    if unanswered > 0 {
        // Writing to a string cannot fail.
        let _ = write!(text, ", {unanswered} without an answer");
    }
    if king + challenger > 0 {
        let replaced = format!(
            "; judged by their twins: {king} of the king's replies, {challenger} of the challenger's"
        );
        text += &look.warning(&replaced);
    }
    let mut entries = vec![("twins", text)];
    if twins.samples > 0 {
        let delta = format!(
            "{:+.1} points, {:+.1} to {:+.1}, over {}; 0 is expected",
            twins.delta,
            twins.interval.low,
            twins.interval.high,
            counted(twins.samples, "drawn sample", "drawn samples"),
        );
        entries.push(("delta", delta));
    }
    if let Some(finding) = twins.finding() {
        entries.push(("finding", look.warning(&finding)));
    }
    entries
}

fn evidence(evidence: &Evidence) -> String {
    let met = |met: bool| if met { "met" } else { "not met" };
    match evidence {
        Evidence::Sequential(sequential) => sequential_evidence(sequential),
        Evidence::Fixed(fixed) => format!(
            "evidence {} of {} after {}, win margin {}",
            times(fixed.log_e_value),
            times(-fixed.alpha.ln()),
            counted(fixed.samples, "sample", "samples"),
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
        _ => "numbers that this build does not know".into(),
    }
}

fn sequential_evidence(sequential: &SequentialEvidence) -> String {
    let mut text = format!(
        "evidence of a lead {} of {}, after {} of at most {} samples",
        times(sequential.log_e_value),
        times(-sequential.alpha.ln()),
        sequential.samples,
        sequential.cap,
    );
    if let Some(size) = &sequential.size {
        // Writing to a string cannot fail, here and below.
        let _ = write!(
            text,
            "; evidence of a lead above {:.2} points {} of {}",
            size.null,
            times(size.log_e_value),
            times(SIZE_EVIDENCE.ln())
        );
        if sequential.crowned_at.is_some() && size.rejected_at.is_none() {
            text += ", not needed: the mean itself is a clear win";
        }
    }
    if let Some(points) = sequential.shrunken {
        let _ = write!(text, "; shrunken estimate {points:+.2} points");
    }
    text
}

/// An e-value whose natural logarithm is `log`, as a factor.
pub(crate) fn times(log: f64) -> String {
    // Where six digits no longer tell, powers of ten do.
    let ten = log / std::f64::consts::LN_10;
    if ten.abs() < 6.0 { format!("×{:.1}", log.exp()) } else { format!("×10^{ten:.1}") }
}

/// `number` with the word for one or for many.
pub(super) fn counted(number: u32, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
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
