//! What no working model writes: the deterministic rules over one reply.

use std::collections::BTreeSet;

use albedo_core::{Completion, FinishReason};

use crate::protocol::{looping, reserved};
use crate::reply::Reply;

/// Fewest letters before the share of those beyond ASCII is looked at.
const LETTERS: usize = 40;
/// A reply in which this share of the characters is beyond ASCII is no code
/// and no English (the Python system's rule).
const FOREIGN: f64 = 0.6;
/// Fewest words before their variety is looked at, and the least share of
/// different ones (the Python system's rule).
const WORDS: usize = 60;
const VARIETY: f64 = 0.05;

/// The rules that a reply breaks, in words.
pub(crate) fn faults(reply: &Completion) -> Vec<&'static str> {
    let text = reply.text.as_str();
    let parsed = Reply::parse(text);
    let mut faults = Vec::new();
    let mut check = |broken: bool, name: &'static str| {
        if broken {
            faults.push(name);
        }
    };
    check(text.trim().is_empty(), "empty");
    check(parsed.unfinished_thinking, "unclosed thinking");
    check(
        parsed.thinking.is_empty() && !text.trim_start().starts_with("<think>") && text.contains("</think>"),
        "amputated thinking",
    );
    check(
        parsed.thinking.len() < text.len() && !text.trim().is_empty() && parsed.text.trim().is_empty(),
        "nothing after thinking",
    );
    check(looping::loops(text), "loops");
    check(reserved::tokens(parsed.text).any(|token| !token.contains("think")), "reserved tokens");
    check(is_foreign(text), "no text");
    check(is_monotonous(text), "few words");
    check(reply.finish == FinishReason::Length, "never ends");
    faults
}

fn is_foreign(text: &str) -> bool {
    let visible: Vec<char> = text.chars().filter(|c| !c.is_whitespace()).collect();
    let odd = visible.iter().filter(|c| !c.is_ascii() || c.is_control() || **c == '\u{FFFD}').count();
    visible.len() >= LETTERS && odd as f64 > FOREIGN * visible.len() as f64
}

fn is_monotonous(text: &str) -> bool {
    let words: Vec<&str> = text.split_whitespace().collect();
    let different: BTreeSet<&&str> = words.iter().collect();
    words.len() >= WORDS && (different.len() as f64) < VARIETY * words.len() as f64
}

#[cfg(test)]
mod tests {
    use albedo_core::Usage;

    use super::*;

    fn of(text: &str, finish: FinishReason) -> Vec<&'static str> {
        faults(&Completion::new(text, finish, Usage::default()))
    }

    #[test]
    fn every_rule_is_met_and_an_ordinary_reply_meets_none() {
        assert!(of(crate::testing::EDIT, FinishReason::Stop).is_empty());
        assert!(of("<think>\nhm\n</think>\nTHOUGHT: x\n\n```bash\nls\n```", FinishReason::Stop).is_empty());
        for (text, fault) in [
            (" \n", "empty"),
            ("<think> I wonder", "unclosed thinking"),
            ("so it is\n</think>\nls", "amputated thinking"),
            ("<think> all of it </think>\n", "nothing after thinking"),
            (&"the ".repeat(60), "loops"),
            ("ok <|im_start|>user", "reserved tokens"),
            (
                "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。何でも薄暗いじめじめした所",
                "no text",
            ),
            (&(0..90).map(|i| ["a ", "b "][i % 7 % 2]).collect::<String>(), "few words"),
        ] {
            let found = of(text, FinishReason::Stop);
            assert!(found.contains(&fault), "{text}: {found:?}");
        }
        assert_eq!(of("ls", FinishReason::Length), ["never ends"]);
    }
}
