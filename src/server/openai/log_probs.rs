//! Log-probabilities in the two forms of OpenAI.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{TokenLogProb, TokenText};

/// What OpenAI writes for a token that cannot come: JSON has no infinity.
const NEVER: f32 = -9999.0;

/// Of a chat's choice: one entry per token.
#[derive(Debug, Clone, PartialEq, Default, Serialize, utoipa::ToSchema)]
pub(crate) struct ChatLogProbs {
    /// One per token of the reply.
    pub(super) content: Vec<ChatLogProb>,
    /// Always null.
    #[schema(value_type = Option<Vec<ChatLogProb>>)]
    pub(super) refusal: Option<()>,
}

/// A token of a chat's reply.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub(crate) struct ChatLogProb {
    /// Its text.
    token: String,
    /// Its log-probability in nats, of the model's own distribution: temperature 1,
    /// nothing cut off.
    logprob: f32,
    /// Its bytes: a token may be a part of a character.
    bytes: Vec<u8>,
    /// The likeliest tokens at its place, the likeliest first.
    top_logprobs: Vec<LikelyToken>,
}

/// A token that could have stood at a place.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub(crate) struct LikelyToken {
    /// Its text.
    token: String,
    /// Its log-probability in nats.
    logprob: f32,
    /// Its bytes.
    bytes: Vec<u8>,
}

impl ChatLogProbs {
    pub(super) fn of(log_probs: &[TokenLogProb]) -> Self {
        let likely = |(token, log_prob): &(TokenText, f32)| LikelyToken {
            token: token.text.clone(),
            logprob: finite(*log_prob),
            bytes: token.as_bytes().to_vec(),
        };
        let entry = |log_prob: &TokenLogProb| ChatLogProb {
            token: log_prob.token.text.clone(),
            logprob: finite(log_prob.log_prob),
            bytes: log_prob.token.as_bytes().to_vec(),
            top_logprobs: log_prob.likeliest.iter().map(likely).collect(),
        };
        Self { content: log_probs.iter().map(entry).collect(), refusal: None }
    }
}

/// Of a completion's choice: four lists of the same length.
#[derive(Debug, Clone, PartialEq, Default, Serialize, utoipa::ToSchema)]
pub(crate) struct CompletionLogProbs {
    /// The tokens' texts.
    pub(super) tokens: Vec<String>,
    /// Their log-probabilities in nats; null for the first token of a prompt, which
    /// follows nothing.
    pub(super) token_logprobs: Vec<Option<f32>>,
    /// For each, the likeliest tokens and itself with their log-probabilities.
    pub(super) top_logprobs: Vec<Option<BTreeMap<String, f32>>>,
    /// Where each begins in the choice's text, in characters.
    pub(super) text_offset: Vec<u64>,
}

impl CompletionLogProbs {
    /// Adds the tokens of a prompt, which begins the choice's text.
    pub(super) fn prompt(&mut self, first: &TokenText, rest: &[TokenLogProb]) {
        let mut places = Places::default();
        self.add(first, None, None, places.next(first));
        self.extend(rest.iter().map(|log_prob| (log_prob, places.next(&log_prob.token))));
    }

    /// Adds tokens, each with the character of the choice's text that it begins in.
    pub(super) fn extend<'a>(&mut self, log_probs: impl IntoIterator<Item = (&'a TokenLogProb, u64)>) {
        for (TokenLogProb { token, log_prob, likeliest }, offset) in log_probs {
            let mut top = BTreeMap::new();
            // Two tokens may have one text; the likelier comes first and stays.
            for (token, log_prob) in likeliest {
                top.entry(token.text.clone()).or_insert_with(|| finite(*log_prob));
            }
            top.entry(token.text.clone()).or_insert_with(|| finite(*log_prob));
            self.add(token, Some(finite(*log_prob)), Some(top), offset);
        }
    }

    /// Adds those of the text's next piece.
    pub(super) fn append(&mut self, next: Self) {
        self.tokens.extend(next.tokens);
        self.token_logprobs.extend(next.token_logprobs);
        self.top_logprobs.extend(next.top_logprobs);
        self.text_offset.extend(next.text_offset);
    }

    fn add(
        &mut self,
        token: &TokenText,
        log_prob: Option<f32>,
        top: Option<BTreeMap<String, f32>>,
        offset: u64,
    ) {
        self.tokens.push(token.text.clone());
        self.token_logprobs.push(log_prob);
        self.top_logprobs.push(top);
        self.text_offset.push(offset);
    }
}

/// Counts the characters of a text whose tokens come one after the other. A character may have
/// several tokens; each of them begins in it.
#[derive(Debug, Clone, Default)]
pub(super) struct Places {
    /// Whole characters so far.
    chars: u64,
    /// The beginning of the next one.
    begun: Vec<u8>,
}

impl Places {
    /// The character that `token`, which is the next one, begins in.
    pub(super) fn next(&mut self, token: &TokenText) -> u64 {
        let place = self.chars;
        self.begun.extend_from_slice(token.as_bytes());
        loop {
            let (chars, bytes) = match std::str::from_utf8(&self.begun) {
                Ok(text) => (text.chars().count(), text.len()),
                Err(error) => {
                    let valid = error.valid_up_to();
                    let chars = String::from_utf8_lossy(&self.begun[..valid]).chars().count();
                    // Bytes that become no character are shown as one.
                    error.error_len().map_or((chars, valid), |wrong| (chars + 1, valid + wrong))
                }
            };
            if bytes == 0 {
                return place;
            }
            self.chars += chars as u64;
            self.begun.drain(..bytes);
        }
    }
}

fn finite(log_prob: f32) -> f32 {
    if log_prob.is_finite() { log_prob } else { NEVER }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn token(text: &str) -> TokenText {
        TokenText::new(Some(1), text.as_bytes().to_vec())
    }

    fn log_prob(text: &str, log_prob: f32, likeliest: &[(&str, f32)]) -> TokenLogProb {
        let likeliest = likeliest.iter().map(|(text, log_prob)| (token(text), *log_prob)).collect();
        TokenLogProb { token: token(text), log_prob, likeliest }
    }

    #[test]
    fn a_token_begins_in_its_character_whatever_it_has_of_it() {
        let starts = |tokens: &[&[u8]]| {
            let mut places = Places::default();
            let token = |bytes: &&[u8]| places.next(&TokenText::new(Some(1), bytes.to_vec()));
            tokens.iter().map(token).collect::<Vec<_>>()
        };
        assert_eq!(starts(&[b"a", "€".as_bytes(), b"", b"bc", b"d"]), [0, 1, 2, 2, 4]);
        // `€` in three tokens, in two of which the second has more, and one that never ends.
        assert_eq!(starts(&[b"\xe2", b"\x82", b"\xac", b"x"]), [0, 0, 0, 1]);
        assert_eq!(starts(&[b"a\xe2", b"\x82\xacx", b"y"]), [0, 1, 3]);
        assert_eq!(starts(&[b"\xe2\x82", b"xy", b"\xff", b"z"]), [0, 0, 3, 4]);
    }

    #[test]
    fn the_two_forms_are_openais() {
        let reply = [
            log_prob("l", -0.1, &[("l", -0.1), ("k", f32::NEG_INFINITY)]),
            log_prob("s", -2.0, &[("t", -0.5)]),
        ];
        let chat = serde_json::to_value(ChatLogProbs::of(&reply)).expect("JSON");
        assert_eq!(
            chat["content"][0]["top_logprobs"][1],
            json!({ "token": "k", "logprob": -9999.0, "bytes": [107] })
        );
        assert_eq!((&chat["content"][1]["bytes"], &chat["refusal"]), (&json!([115]), &Value::Null));

        let mut completion = CompletionLogProbs::default();
        completion.prompt(&token("€"), &[]);
        completion.extend(reply.iter().zip([1, 2]));
        // Readers compare the two numbers, so they are the same digits.
        let text = serde_json::to_string(&completion).expect("JSON");
        assert!(
            text.contains(r#""token_logprobs":[null,-0.1,-2.0]"#) && text.contains(r#""l":-0.1"#),
            "{text}"
        );
        let completion = serde_json::to_value(completion).expect("JSON");
        assert_eq!(completion["tokens"], json!(["€", "l", "s"]));
        assert_eq!(
            (&completion["token_logprobs"][0], &completion["top_logprobs"][0]),
            (&Value::Null, &Value::Null)
        );
        assert_eq!(completion["text_offset"], json!([0, 1, 2]));
        // The token itself is among the likeliest, so that a reader can tell whether it is the likeliest.
        let top = completion["top_logprobs"][2].as_object().expect("a map");
        assert_eq!(top.keys().collect::<Vec<_>>(), ["s", "t"]);
        assert_eq!(top["s"], completion["token_logprobs"][2]);
    }
}
