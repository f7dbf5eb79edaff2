//! Template tokens where they do not belong.

use std::collections::BTreeSet;

use albedo_core::Comparison;

use crate::reply::Reply;

const TAGS: [&str; 6] =
    ["<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"];

/// Bytes between the bars of a `<|word|>` at most.
const MAX_WORD: usize = 64;

/// Whether `reply` has a template token that nothing in `request` quotes, or
/// opens a reasoning section that never ends.
pub(super) fn leaks(reply: &Reply<'_>, request: &Comparison) -> bool {
    let mut tokens: BTreeSet<&str> = tokens(reply.thinking).chain(tokens(reply.text)).collect();
    if !tokens.is_empty() {
        for message in &*request.messages {
            remove_quoted(&message.content, &mut tokens);
        }
        remove_quoted(&request.reference, &mut tokens);
    }
    reply.unfinished_thinking || !tokens.is_empty()
}

/// Takes those tokens out of `tokens` that occur in `text`.
fn remove_quoted(text: &str, tokens: &mut BTreeSet<&str>) {
    for token in self::tokens(text) {
        tokens.remove(token);
    }
}

/// The template tokens in `text`.
pub(crate) fn tokens(text: &str) -> impl Iterator<Item = &str> {
    text.match_indices('<').filter_map(|(at, _)| {
        let rest = &text[at..];
        TAGS.into_iter().find(|tag| rest.starts_with(tag)).or_else(|| {
            let word = rest.strip_prefix("<|")?;
            let end =
                word.bytes().take(MAX_WORD + 1).position(|b| !(b.is_ascii_alphanumeric() || b == b'_'))?;
            (end > 0 && word[end..].starts_with("|>")).then(|| &rest[..end + 4])
        })
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::testing::{EDIT, comparison};

    #[test]
    fn template_tokens_are_found() {
        let text = "a <|im_start|>user <think> </tool_call> <|a b|> <||> < | <|x <|ünder|> <|end_of_text|>";
        let found: Vec<_> = tokens(text).collect();
        assert_eq!(found, ["<|im_start|>", "<think>", "</tool_call>", "<|end_of_text|>"]);
    }

    #[test]
    fn what_the_conversation_quotes_is_content() {
        let reply = Reply::parse("sed -i 's/<|im_end|>/<|eot|>/' template.py");
        let mut request = comparison(EDIT, "", "");
        assert!(leaks(&reply, &request));
        Arc::make_mut(&mut request.messages)[1].content.push_str("the template ends turns with <|im_end|>");
        assert!(leaks(&reply, &request));
        request.reference = format!("{}<|eot|>", request.reference).into();
        assert!(!leaks(&reply, &request));
    }

    #[test]
    fn reasoning_may_only_open_a_reply_and_has_to_end() {
        let request = comparison(EDIT, "", "");
        for (text, expected) in [
            ("<think>\nhm\n</think>\n\nTHOUGHT: x", false),
            ("THOUGHT: x", false),
            ("<think>\nhm", true),
            ("hm\n</think>\n\nTHOUGHT: x", true),
            ("THOUGHT: <think>x</think>", true),
            ("<think><|im_start|></think>x", true),
        ] {
            assert_eq!(leaks(&Reply::parse(text), &request), expected, "{text}");
        }
    }
}
