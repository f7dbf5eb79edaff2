//! Long texts become tokens in pieces, on all cores, where that changes no token.

use serde_json::Value;

/// The least bytes of a piece.
pub(super) const PIECE: usize = 2048;

/// What Qwen's tokenizers take for a word (`pre_tokenizer` of their `tokenizer.json`).
const WORD: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Whether a text may be cut in front of a space between two ASCII letters without a
/// change of its tokens, for the tokenizer of this `tokenizer.json`.
///
/// It may where words are those of Qwen: none has a space after a letter, so that one
/// ends and another begins there, whatever stands before and after; NFC joins neither
/// letter with a space; and no added token has a space or takes one along.
pub(super) fn may_be_cut(tokenizer: &Value) -> bool {
    let normalizer = &tokenizer["normalizer"];
    let split = &tokenizer["pre_tokenizer"]["pretokenizers"][0];
    let bytes = &tokenizer["pre_tokenizer"]["pretokenizers"][1];
    let added = tokenizer["added_tokens"].as_array().map_or(&[][..], Vec::as_slice);
    (normalizer.is_null() || normalizer["type"] == "NFC")
        && tokenizer["pre_tokenizer"]["type"] == "Sequence"
        && tokenizer["pre_tokenizer"]["pretokenizers"].as_array().is_some_and(|all| all.len() == 2)
        && split["type"] == "Split"
        && split["pattern"]["Regex"] == WORD
        && split["behavior"] == "Isolated"
        && split["invert"] == false
        && bytes["type"] == "ByteLevel"
        && bytes["add_prefix_space"] == false
        && bytes["use_regex"] == false
        && tokenizer["model"]["type"] == "BPE"
        && tokenizer["model"]["dropout"].is_null()
        && tokenizer["truncation"].is_null()
        && tokenizer["padding"].is_null()
        && added.iter().all(|token| {
            token["lstrip"] != true
                && token["rstrip"] != true
                && token["content"].as_str().is_some_and(|content| !content.contains(' '))
        })
}

/// `text` in pieces of at least `least` bytes, cut in front of spaces between letters.
pub(super) fn pieces(text: &str, least: usize) -> Vec<&str> {
    let bytes = text.as_bytes();
    let mut pieces = Vec::new();
    let mut start = 0;
    let mut at = least.max(1);
    while at + 1 < bytes.len() {
        if bytes[at] == b' ' && bytes[at - 1].is_ascii_alphabetic() && bytes[at + 1].is_ascii_alphabetic() {
            pieces.push(&text[start..at]);
            start = at;
            at += least.max(1);
        } else {
            at += 1;
        }
    }
    pieces.push(&text[start..]);
    pieces
}
