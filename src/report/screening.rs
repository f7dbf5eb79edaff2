//! What screens found, and the progress of reading large models.

use std::fmt::Write as _;
use std::io::{self, IsTerminal};
use std::sync::{Arc, OnceLock};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

use super::{Look, line};
use crate::{Admission, AdmissionOutcome, CallContext, Event, EventKind, Finding, Screened};

/// Models below this many bytes are read before a bar could be seen.
const LARGE: u64 = 256 << 20;

/// The findings, each with what a reader looks for first.
pub fn screened(admission: &Admission, look: Look) -> String {
    let mut text = String::new();
    if let Some(profile) = &admission.profile {
        let value = format!("{} ({})", line(&profile.name), profile.screens.short());
        text += &look.hanging("profile", 16, &value);
    }
    for Screened { screen, finding, .. } in &admission.findings {
        let (word, width) = match finding {
            Finding::Clear(_) => (look.good("clear"), 5),
            Finding::Flagged(_) => (look.warning("FLAGGED"), 7),
            Finding::Rejected(_) => (look.bad("REJECTED"), 8),
            Finding::Unverified(_) => (look.warning("unverified"), 10),
        };
        let mut lines = reasons(finding.evidence());
        if lines.is_empty() {
            lines.push(facts(finding.evidence()));
        }
        let name = format!("{:<16}{word}{:gap$}", line(&screen.name), "", gap = 11 - width);
        let lines: Vec<_> = lines.iter().map(|reason| line(reason)).collect();
        text += &look.hanging(&name, 28, &lines.join("\n"));
    }
    let outcome = match admission.outcome {
        AdmissionOutcome::Forfeit => look.bad("Rejected: the submission forfeits on the evidence above."),
        AdmissionOutcome::Void => {
            look.warning("Not decided: some screens could not find out, which is not the submission's fault.")
        }
        AdmissionOutcome::Admitted if admission.findings.iter().any(is_flagged) => {
            look.good("Nothing that forfeits.")
                + " What is flagged is for you to look at: two models that were trained apart are flagged, \
                   too. docs/screens.md says what each screen compares."
        }
        AdmissionOutcome::Admitted => look.good("Nothing that forfeits."),
    };
    text + "\n" + &look.paragraph(&outcome)
}

fn is_flagged(screened: &Screened) -> bool {
    matches!(screened.finding, Finding::Flagged(_))
}

/// The lines that say why, if the evidence has any.
fn reasons(evidence: &Value) -> Vec<String> {
    let mut lines = Vec::new();
    for reason in evidence["reasons"].as_array().into_iter().flatten() {
        lines.extend(reason.as_str().map(str::to_owned));
    }
    for problem in evidence["problems"].as_array().into_iter().flatten() {
        let word = |key: &str| problem[key].as_str().unwrap_or_default();
        lines.push(format!("{}, {}: {}", word("check"), word("of"), word("message")));
    }
    for found in evidence["found"].as_array().into_iter().flatten() {
        let word = |key: &str| found[key].as_str().unwrap_or_default();
        lines.push(format!("{} {}: {}", word("by"), word("rule"), word("text")));
    }
    lines.extend(["error", "hint"].iter().filter_map(|key| evidence[key].as_str().map(str::to_owned)));
    if let Some(last) = lines.last_mut() {
        // Writing to a string cannot fail.
        let _ = match &evidence["fault"] {
            Value::Null => Ok(()),
            Value::String(fault) => write!(last, " [fault: {fault}]"),
            other => write!(last, " [fault: {other}]"),
        };
    }
    if let Some(of) = evidence["copy_of"].as_str() {
        lines.push(format!("an exact copy of {of}"));
    }
    lines
}

/// The numbers and words of the evidence's first level, and who is nearest.
fn facts(evidence: &Value) -> String {
    let mut facts = Vec::new();
    for (key, value) in evidence.as_object().into_iter().flatten() {
        match value {
            Value::Number(number) => {
                let shown = match number.as_f64() {
                    Some(fraction) if number.is_f64() => format!("{fraction:.3}"),
                    _ => number.to_string(),
                };
                facts.push(format!("{} {shown}", key.replace('_', " ")));
            }
            Value::Array(items) if key == "nearest" => {
                if let Some(nearest) = items.first() {
                    let of = nearest["of"].as_str().unwrap_or_default();
                    let score = ["similarity", "cosine"].into_iter().find_map(|key| nearest[key].as_f64());
                    facts.push(format!("nearest {of} ({:.3})", score.unwrap_or(0.0)));
                }
            }
            Value::Object(shape) if key == "to_king" => {
                let number = |key: &str| shape.get(key).and_then(Value::as_f64).unwrap_or(0.0);
                facts.push(format!(
                    "{:.2} % from the king, structure {:.2}",
                    100.0 * number("distance"),
                    number("structure")
                ));
            }
            _ => {}
        }
    }
    facts.join(", ")
}

/// A bar of bytes read, for large models on a terminal.
#[derive(Debug, Clone, Default)]
pub struct Bytes(Arc<OnceLock<Option<ProgressBar>>>);

impl Bytes {
    /// The same context, whose events move the bar.
    pub fn watch(&self, cx: &CallContext) -> CallContext {
        let Self(bar) = self.clone();
        cx.with_events(Arc::new(move |event: &Event| {
            if let EventKind::Progress { done, total: Some(total), .. } = &event.kind
                && let Some(bar) = bar.get_or_init(|| shown(*total))
            {
                bar.set_length(*total);
                bar.set_position(*done);
            }
        }))
    }

    /// Takes the bar off the screen.
    pub fn finish(&self) {
        if let Some(Some(bar)) = self.0.get() {
            bar.finish_and_clear();
        }
    }
}

fn shown(bytes: u64) -> Option<ProgressBar> {
    (bytes >= LARGE && io::stderr().is_terminal()).then(|| {
        let style = ProgressStyle::with_template("{bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        ProgressBar::new(bytes).with_style(style)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fractions_are_short_and_counts_are_whole() {
        let evidence = json!({ "broken_early": 7.0 / 27.0, "replies": 57, "threshold": 0.95 });
        assert_eq!(facts(&evidence), "broken early 0.259, replies 57, threshold 0.950");
    }
}
