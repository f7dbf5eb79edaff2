//! Tokens as text, one by one: what a reply that is not finished says so far.

use albedo_core::TokenText;

use super::ChatText;

/// The text of a reply as it grows. All that was added, and the rest at the end, are
/// together the text that [`ChatText::decode`] gives for all tokens.
#[derive(Debug, Default)]
pub(crate) struct Growing {
    /// Bytes that are the beginning of a character, or nothing.
    held: Vec<u8>,
    /// Bytes of the text that was given so far.
    given: usize,
}

impl Growing {
    /// What is left of the finished `text`.
    pub(crate) fn rest<'t>(&self, text: &'t str) -> &'t str {
        text.get(self.given..).unwrap_or_default()
    }

    /// The characters that `bytes` complete. What can be no character becomes U+FFFD, as
    /// [`String::from_utf8_lossy`] has it.
    fn add(&mut self, bytes: &[u8]) -> String {
        self.held.extend_from_slice(bytes);
        let mut text = String::new();
        let mut rest = &self.held[..];
        while !rest.is_empty() {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    rest = &[];
                }
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    text.push_str(&String::from_utf8_lossy(valid));
                    rest = after;
                    // A character that may be completed yet has no length.
                    let Some(invalid) = error.error_len() else { break };
                    text.push(char::REPLACEMENT_CHARACTER);
                    rest = &rest[invalid..];
                }
            }
        }
        self.held = rest.to_vec();
        self.given += text.len();
        text
    }
}

impl ChatText {
    /// The text that the token `id` adds: whole characters. Empty for a tokenizer whose
    /// tokens are no bytes; then all of the text is the rest.
    pub(crate) fn add(&self, growing: &mut Growing, id: u32) -> String {
        if self.in_bytes { growing.add(&self.bytes(id)) } else { String::new() }
    }

    /// The token `id` as text; empty if there is none.
    pub(crate) fn token(&self, id: u32) -> TokenText {
        let bytes = if self.in_bytes {
            self.bytes(id)
        } else {
            // What a tokenizer breaks down on has no text.
            self.decode(&[id]).unwrap_or_default().into_bytes()
        };
        TokenText::new(Some(id), bytes)
    }

    /// The bytes of the token `id`, for a tokenizer whose tokens are bytes.
    fn bytes(&self, id: u32) -> Vec<u8> {
        let token = self.tokenizer.id_to_token(id).unwrap_or_default();
        let bytes: Option<Vec<u8>> = token.chars().map(byte).collect();
        bytes.unwrap_or_else(|| token.into_bytes())
    }
}

/// The byte that a byte-level tokenizer writes as `c`. Printable characters of Latin-1
/// stand for themselves, the other 68 bytes are U+0100 and what follows, in order.
///
/// Source: `bytes_to_unicode` of GPT-2's tokenizer, which all byte-level ones took over.
fn byte(c: char) -> Option<u8> {
    match u32::from(c) {
        printable @ (0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF) => Some(printable as u8),
        low @ 0x100..=0x120 => Some((low - 0x100) as u8),
        middle @ 0x121..=0x142 => Some((middle - 0x121 + 0x7F) as u8),
        0x143 => Some(0xAD),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::LazyLock;

    use proptest::prelude::*;

    use super::*;

    fn folder(side: &str) -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../examples/demo/models").join(side)
    }

    static TEXT: LazyLock<ChatText> = LazyLock::new(|| ChatText::load(&folder("king"), None).unwrap());

    #[test]
    fn every_byte_has_a_character_of_its_own() {
        let mut bytes: Vec<u8> = (0..0x144).filter_map(|c| byte(char::from_u32(c)?)).collect();
        bytes.sort_unstable();
        assert_eq!(bytes, (0..=255).collect::<Vec<u8>>());
        // GPT-2's own: a space, a line's end, the soft hyphen.
        assert_eq!(
            ['Ġ', 'Ċ', 'Ń', '\u{144}', '日'].map(byte),
            [Some(b' '), Some(b'\n'), Some(0xAD), None, None]
        );
    }

    #[test]
    fn a_character_comes_once_it_is_whole() {
        let mut growing = Growing::default();
        let pieces = [&b"a\xE6"[..], b"\x97", b"\xA5", b"\xF0\x9F", b"b", b"\xE6\x97"];
        let given: Vec<_> = pieces.iter().map(|bytes| growing.add(bytes)).collect();
        assert_eq!(given, ["a", "", "日", "", "\u{FFFD}b", ""]);
        assert_eq!(growing.rest("a日\u{FFFD}b\u{FFFD}"), "\u{FFFD}");
    }

    proptest! {
        #[test]
        fn pieces_of_bytes_make_the_text_of_all(pieces: Vec<Vec<u8>>, text in "\\PC{0,12}", cut: usize) {
            // Half a text among them, so that there are characters at all.
            let bytes = [pieces.concat(), text.as_bytes()[..cut % (text.len() + 1)].to_vec()].concat();
            let whole = String::from_utf8_lossy(&bytes);
            let mut growing = Growing::default();
            let mut given: String = bytes.chunks(1 + cut % 5).map(|bytes| growing.add(bytes)).collect();
            prop_assert!(whole.starts_with(&given));
            given.push_str(growing.rest(&whole));
            prop_assert_eq!(given, whole);
        }

        #[test]
        fn pieces_of_a_reply_make_its_text(ids in proptest::collection::vec(0_u32..4100, 0..40)) {
            let whole = TEXT.decode(&ids).unwrap();
            let mut growing = Growing::default();
            let mut given: String = ids.iter().map(|&id| TEXT.add(&mut growing, id)).collect();
            prop_assert!(whole.starts_with(&given));
            given.push_str(growing.rest(&whole));
            prop_assert_eq!(&given, &whole);
            let bytes: Vec<u8> = ids.iter().flat_map(|&id| TEXT.token(id).as_bytes().to_vec()).collect();
            prop_assert_eq!(String::from_utf8_lossy(&bytes), whole);
        }

        #[test]
        fn a_text_comes_back_in_whole_characters(text in "\\PC{0,60}") {
            let ids = TEXT.encode_reply(&text).unwrap();
            let mut growing = Growing::default();
            let pieces: Vec<String> = ids.iter().map(|&id| TEXT.add(&mut growing, id)).collect();
            prop_assert_eq!(pieces.concat(), TEXT.decode(&ids).unwrap());
            prop_assert!(growing.held.is_empty());
        }
    }

    /// A tokenizer of another kind: its decoder turns `▁` into a space.
    #[test]
    fn where_tokens_are_no_bytes_the_text_comes_at_the_end() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["generation_config.json", "tokenizer_config.json"] {
            std::fs::copy(self::folder("king").join(name), folder.path().join(name)).unwrap();
        }
        let tokenizer = serde_json::json!({
            "version": "1.0",
            "added_tokens": [
                { "id": 3, "content": "<|im_start|>", "special": true, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false },
                { "id": 4, "content": "<|im_end|>", "special": true, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false }
            ],
            "decoder": { "type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true },
            "model": { "type": "WordLevel", "vocab": { "?": 0, "▁is": 1, "▁it": 2, "<|im_start|>": 3, "<|im_end|>": 4 }, "unk_token": "?" }
        });
        std::fs::write(folder.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
        let text = ChatText::load(folder.path(), None).unwrap();
        let mut growing = Growing::default();
        assert_eq!([2, 1].map(|id| text.add(&mut growing, id)), ["", ""]);
        let whole = text.decode(&[2, 1]).unwrap();
        assert_eq!((&*whole, growing.rest(&whole)), ("it is", "it is"));
        assert_eq!(text.token(1).text, "is");
    }
}
