//! What a chat judge's model is asked, and how it answers.

use albedo::backends::openai::scripted::Seen;
use serde_json::json;

/// A question as a judge's model sees it.
pub(crate) struct Question<'a> {
    pub(crate) model: &'a str,
    pub(crate) first: String,
    pub(crate) second: String,
    pub(crate) nonce: &'a str,
}

impl<'a> Question<'a> {
    pub(crate) fn read(seen: &'a Seen) -> Self {
        let prompt = seen.body["messages"][1]["content"].as_str().expect("a prompt");
        let fence = between(prompt, "The mark of this comparison is ", ".");
        let part = |name: &str| {
            let (start, end) = (format!("[[{fence} {name}]]\n"), format!("\n[[{fence} end of {name}]]"));
            unsigned(prompt, between(prompt, &start, &end))
        };
        Self {
            model: seen.body["model"].as_str().expect("a model"),
            first: part("first reply"),
            second: part("second reply"),
            nonce: prompt.rsplit('"').nth(1).expect("the nonce is last"),
        }
    }

    pub(crate) fn answer(&self, word: &str) -> String {
        json!({
            "correctness": word, "grounding": word, "progress": word, "protocol": "tie", "efficiency": word,
            "nonce": self.nonce,
        })
        .to_string()
    }
}

pub(crate) fn between<'a>(text: &'a str, start: &str, end: &str) -> &'a str {
    text.split_once(start).and_then(|(_, rest)| rest.split_once(end)).expect("the part is there").0
}

/// `part` of a prompt without the signs before lines and between words.
pub(crate) fn unsigned(prompt: &str, part: &str) -> String {
    let sign = between(prompt, "The sign in the replies is ", ".");
    let lines = part.lines().map(|line| line.strip_prefix(sign).unwrap_or(line).replace(sign, " "));
    lines.collect::<Vec<_>>().join("\n")
}
