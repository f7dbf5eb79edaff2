//! The report in Markdown: numbers and words, without the samples' texts.

use std::fmt::Write;

use serde_json::Value;

use super::Ratings;
use super::records::{DuelPart, Part, RecordsReport};
use super::table::times;
use crate::record::Known;
use crate::stats::Proportion;
use crate::verdict::share;

/// The whole report.
pub(super) fn report(report: &RecordsReport) -> String {
    let mut text = String::new();
    if let Some(ratings) = &report.ratings {
        // Writing to a string cannot fail, here and below.
        let _ = writeln!(text, "# {} records\n", report.records.len());
        text += &rated(ratings);
    }
    for part in &report.records {
        text += &one(part, if report.records.len() > 1 { "##" } else { "#" });
    }
    text
}

fn rated(ratings: &Ratings) -> String {
    let mut text = String::from("## Ratings\n\n");
    // Writing to a string cannot fail, here and below.
    if let Some(left_out) = ratings.left_out() {
        let _ = writeln!(text, "{}\n", cell(&left_out));
    }
    if ratings.models.is_empty() {
        return text + "All records have the same model on both sides: there is nothing to rate.\n\n";
    }
    let Some(fit) = &ratings.fit else {
        let group = |group: &Vec<usize>| {
            let names: Vec<_> =
                group.iter().map(|at| format!("`{}`", ratings.models[*at].parameters.short())).collect();
            format!("- {}\n", names.join(", "))
        };
        text += "There is no common scale: some models never met, not over others either, or one has lost every \
                 point. Within each of these groups models can be compared.\n\n";
        text.extend(ratings.groups.iter().map(group));
        return text + "\n";
    };
    let mut models: Vec<_> = ratings.models.iter().collect();
    models.sort_by(|one, other| other.rating.unwrap_or_default().total_cmp(&one.rating.unwrap_or_default()));
    let rows = models.iter().enumerate().map(|(rank, model)| {
        let interval = model
            .interval
            .map_or_else(dash, |interval| format!("{:.0} to {:.0}", interval.low, interval.high));
        vec![
            (rank + 1).to_string(),
            format!("`{}` {}", model.parameters.short(), cell(&model.architecture)),
            format!("{:.0}", model.rating.unwrap_or_default()),
            interval,
            model.samples.to_string(),
        ]
    });
    text += &table(&["", "Model", "Rating", "95 % interval", "Samples"], rows);
    let circle = fit.p_value.map_or_else(
        || "No circle is closed, so transitivity cannot be tested.".to_owned(),
        |p| {
            format!(
                "Transitivity: deviance {:.2}, {} degrees of freedom, p = {p:.3}.",
                fit.deviance, fit.degrees
            )
        },
    );
    let _ = writeln!(text, "\n400 points are odds of ten to one; the mean is 0. {circle}\n");
    text
}

fn one(part: &Part, heading: &str) -> String {
    let mut text = format!("{heading} {}\n\n{}\n\n", cell(&part.name), cell(&part.sentence));
    let mut facts = vec![vec!["Record".to_owned(), format!("`{}`", part.digest)]];
    let Some(duel) = &part.duel else {
        text += &table(&["", ""], facts);
        text += "\n";
        return text;
    };
    facts.extend(of_duel(duel));
    let signed = if part.signers.is_empty() { "nobody".to_owned() } else { part.signers.join(", ") };
    facts.push(vec!["Signed by".into(), cell(&signed)]);
    text += &table(&["", ""], facts);
    let _ = write!(text, "\n{heading}# Scores\n\n");
    text += &scores(duel);
    let _ = write!(text, "\n{heading}# What is known\n\n");
    let claims = duel.claims.iter().map(|claim| {
        let known = match claim.known {
            Known::Asserted | Known::NotCovered => claim.known.as_str().to_owned(),
            _ => format!("**{}**", claim.known.as_str()),
        };
        vec![known, cell(&claim.part), cell(&claim.by)]
    });
    text += &table(&["Known", "Part", "By"], claims);
    text + "\n"
}

/// The facts of a duel, a row each.
fn of_duel(duel: &DuelPart) -> Vec<Vec<String>> {
    let (verdict, analysis) = (&duel.verdict, &duel.analysis);
    let number = |path: &str| verdict.pointer(path).and_then(Value::as_f64);
    let row = |name: &str, value: String| vec![name.to_owned(), value];
    let interval = duel.interval.map_or_else(String::new, |interval| {
        format!(", {} {:+.2} to {:+.2}", duel.interval_kind, interval.low, interval.high)
    });
    let whole = |path: &str| number(path).unwrap_or_default();
    let mut facts = vec![
        row("Margin", format!("{:+.2} points{interval}", whole("/margin"))),
        row("Samples", format!("{} of {} planned", whole("/samples"), duel.evidence.cap)),
    ];
    if let (Some(log), Some(alpha)) =
        (number("/decision/evidence/log_e_value"), number("/decision/evidence/alpha"))
    {
        facts.push(row("Evidence", format!("{} of {}", times(log), times(-alpha.ln()))));
    }
    facts.push(row("Missing", format!("{} of {} cells", whole("/missing"), whole("/cells"))));
    facts.push(row("Order flips", analysis.flips.as_ref().map_or_else(dash, shares)));
    if let (Some(sd), Some(error)) = (analysis.sd, analysis.standard_error) {
        facts.push(row("SD of samples", format!("{sd:.2} points, standard error {error:.2}")));
    }
    if let (Some(compared), Some(king), Some(challenger)) =
        (number("/twins/compared"), number("/twins/king"), number("/twins/challenger"))
    {
        let said =
            format!("{compared} comparisons; judged by their twins: king {king}, challenger {challenger}");
        facts.push(row("Twins", said));
    }
    if let (Some(delta), Some(low), Some(high)) =
        (number("/twins/delta"), number("/twins/interval/low"), number("/twins/interval/high"))
        && whole("/twins/samples") > 0.0
    {
        facts.push(row("Delta", format!("{delta:+.1} points, {low:+.1} to {high:+.1}; 0 is expected")));
    }
    if let Some(alpha) = analysis.agreement {
        facts.push(row("Agreement", format!("Krippendorff's alpha {alpha:.2}")));
    }
    let length = &analysis.length;
    if let (Some(king), Some(challenger)) = (length.king, length.challenger) {
        let correlation = length.correlation.map_or_else(dash, |value| format!("{value:+.2}"));
        facts.push(row(
            "Length",
            format!("king {king:.0} characters, challenger {challenger:.0}; correlation with the margin {correlation}"),
        ));
    }
    if let Some(controlled) = &length.controlled {
        facts.push(row("At equal length", format!("{} for the challenger", shares(&controlled.preferred))));
    }
    if let Some(costs) = &duel.costs {
        let judges: Vec<_> = costs.judges.iter().chain([&costs.canaries]).collect();
        let (calls, usd) = (
            judges.iter().map(|judge| judge.calls).sum::<u64>(),
            judges.iter().map(|judge| judge.usd).sum::<f64>(),
        );
        let unpriced: u64 = judges.iter().map(|judge| judge.unpriced).sum();
        let unknown =
            if unpriced > 0 { format!(", and {unpriced} calls of unknown price") } else { String::new() };
        facts.push(row(
            "Judges",
            format!("{calls} answers, ${usd:.4}{unknown}; {} calls failed", costs.failed),
        ));
    }
    facts
}

fn scores(duel: &DuelPart) -> String {
    let empty = Vec::new();
    let judges = duel.verdict["judges"].as_array().unwrap_or(&empty);
    let metrics: Vec<&String> =
        duel.verdict["metrics"].as_object().into_iter().flat_map(|metrics| metrics.keys()).collect();
    let mut columns = vec!["Judge", "King", "Challenger", "Margin", "SD", "Flips", "Missing"];
    columns.extend(metrics.iter().map(|metric| metric.as_str()));
    let score = |margin: f64| {
        [format!("{:.2}", share(-margin)), format!("{:.2}", share(margin)), format!("{margin:+.2}")]
    };
    let by_metric = |of: &Value| {
        let margin = |metric: &&String| {
            of[metric.as_str()].as_f64().map_or_else(dash, |margin| format!("{margin:+.2}"))
        };
        metrics.iter().map(margin).collect::<Vec<_>>()
    };
    let optional = |value: Option<f64>| value.map_or_else(dash, |value| format!("{value:.2}"));
    let mut rows: Vec<Vec<String>> = judges
        .iter()
        .zip(&duel.analysis.judges)
        .map(|(judge, analysis)| {
            let mut row = vec![cell(&analysis.judge)];
            row.extend(score(judge["margin"].as_f64().unwrap_or_default()));
            row.extend([optional(analysis.sd), judge["flips"].to_string(), judge["missing"].to_string()]);
            row.extend(by_metric(&judge["metrics"]));
            row
        })
        .collect();
    let flips: u64 = judges.iter().filter_map(|judge| judge["flips"].as_u64()).sum();
    let mut panel = vec!["**Panel**".to_owned()];
    panel.extend(score(duel.verdict["margin"].as_f64().unwrap_or_default()));
    panel.extend([optional(duel.analysis.sd), flips.to_string(), duel.verdict["missing"].to_string()]);
    panel.extend(by_metric(&duel.verdict["metrics"]));
    rows.push(panel);
    table(&columns, rows)
}

fn shares(proportion: &Proportion) -> String {
    let Proportion { share, interval, of } = proportion;
    format!(
        "{:.1} % of {of} (95 % interval {:.1} to {:.1})",
        100.0 * share,
        100.0 * interval.low,
        100.0 * interval.high
    )
}

fn dash() -> String {
    "–".into()
}

fn table(columns: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut text = format!("| {} |\n|{}\n", columns.join(" | "), "---|".repeat(columns.len()));
    for row in rows {
        let _ = writeln!(text, "| {} |", row.join(" | "));
    }
    text
}

/// `text`, which somebody else may have written, in one cell of a table: no control or
/// invisible character, and nothing that Markdown or HTML would read.
fn cell(text: &str) -> String {
    let mut cell = String::new();
    for c in text.chars() {
        match c {
            '\\' | '`' | '*' | '_' | '[' | ']' | '|' | '#' | '!' | '~' => cell.extend(['\\', c]),
            '<' => cell.push_str("&lt;"),
            '>' => cell.push_str("&gt;"),
            '&' => cell.push_str("&amp;"),
            '\u{ad}'
            | '\u{61c}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}' => {
                cell.push('\u{fffd}');
            }
            c if c.is_control() => cell.push(' '),
            c => cell.push(c),
        }
    }
    cell
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_name_stays_in_its_cell() {
        let hostile = "a|b\n# c <img src=x onerror=y> [d](e) `f` \u{202e}g";
        let cell = cell(hostile);
        assert!(!cell.contains(['\n', '<', '>', '\u{202e}']), "{cell}");
        assert!(cell.contains("a\\|b \\# c &lt;img") && cell.contains("\\[d\\](e)"), "{cell}");
        let table = table(&["Name"], [vec![cell]]);
        assert_eq!(table.lines().count(), 3);
    }
}
