//! What was measured, as Markdown.

use std::fmt::Write;

use serde_json::{Map, Value};

use super::table::count;
use crate::bench::{Case, Figures, Load};
use crate::{ModelInfo, Result};

/// A table with a row for each case, and what it was measured on before it.
pub fn bench(
    backend: &str,
    settings: &Map<String, Value>,
    model: &ModelInfo,
    load: &Load,
    measured: &[(Case, Result<Figures>)],
) -> String {
    let mut text = format!(
        "{} of {} parameters in {}, sha256 {}, on {backend}",
        model.architecture,
        count(model.parameter_count),
        model.dtype,
        model.parameters.short(),
    );
    // Writing to a string cannot fail.
    for (key, value) in settings {
        let _ = write!(text, ", {key} = {value}");
    }
    let _ = write!(
        text,
        ".\nLoaded in {:.2} s, first token after {:.2} s.\n\n\
         | case | median | least – most | tokens per second |\n\
         |---|---:|---:|---:|\n",
        load.seconds, load.first_token_seconds,
    );
    for (case, figures) in measured {
        let _ = match figures {
            Ok(Figures { seconds, tokens_per_second, .. }) => {
                let [median, low, high] = [seconds.median, seconds.low, seconds.high].map(|s| s * 1e3);
                let unit = if matches!(case, Case::Decode { .. }) { "ms a step" } else { "ms" };
                let speed = tokens_per_second.median;
                writeln!(text, "| {case} | {median:.2} {unit} | {low:.2} – {high:.2} | {speed:.0} |")
            }
            Err(error) => writeln!(text, "| {case} | failed: {} | | |", error.message()),
        };
    }
    text
}
