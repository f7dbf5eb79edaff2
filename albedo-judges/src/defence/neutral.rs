//! Characters and tokens that do something other than be read: shown instead of
//! obeyed. Linear in the text.

/// The longest name between `<|` and `|>`.
const LONGEST_NAME: usize = 48;

/// Tokens that chat templates give a meaning, besides those in `<|…|>`.
const TOKENS: [&str; 28] = [
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "</tool_response>",
    "<start_of_turn>",
    "<end_of_turn>",
    "<bos>",
    "<eos>",
    "<s>",
    "</s>",
    "<BOS_TOKEN>",
    "<EOS_TOKEN>",
    "<sop>",
    "<eop>",
    "[gMASK]",
    "[sMASK]",
    "[INST]",
    "[/INST]",
    "[SYSTEM_PROMPT]",
    "[/SYSTEM_PROMPT]",
    "<<SYS>>",
    "<</SYS>>",
    "]~b]",
    "]~!b[",
    "[e~[",
    "<unused0>",
];

/// What [`neutral`] found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) tokens: u32,
    pub(super) invisible: u32,
    pub(super) fences: u32,
}

/// Appends `text` to `out` with template tokens in brackets that no template
/// knows, invisible characters by their number, and `fence` taken out.
pub(super) fn neutral(text: &str, fence: &str, out: &mut String) -> Found {
    let mut found = Found::default();
    let mut rest = text;
    let mut before = None;
    while let Some(c) = rest.chars().next() {
        if !fence.is_empty() && rest.starts_with(fence) {
            out.push_str("⟨a fence⟩");
            found.fences += 1;
            rest = &rest[fence.len()..];
            before = None;
            continue;
        }
        if let Some(token) = token(rest).filter(|token| fence.is_empty() || !token.contains(fence)) {
            out.extend(token.chars().map(shown_bracket));
            found.tokens += 1;
            rest = &rest[token.len()..];
            before = None;
            continue;
        }
        let joins = matches!(c, '\u{200d}' | '\u{200c}' | '\u{fe0f}' | '\u{fe0e}')
            && before.is_some_and(|before: char| !before.is_ascii() && !is_invisible(before));
        if is_invisible(c) && !joins {
            let number = format!("{:04X}", u32::from(c));
            out.extend(["⟨U+", &number, "⟩"]);
            found.invisible += 1;
        } else {
            out.push(c);
        }
        before = Some(c);
        rest = &rest[c.len_utf8()..];
    }
    found
}

/// The template token that `text` begins with.
fn token(text: &str) -> Option<&str> {
    if !text.starts_with(['<', '[', ']']) {
        return None;
    }
    let named = |open: &str, close: &str| {
        let inside = text.strip_prefix(open)?;
        let end = inside
            .char_indices()
            .take(LONGEST_NAME + 1)
            .find(|(_, c)| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/' | ':' | '▁')))?
            .0;
        (end > 0 && inside[end..].starts_with(close)).then(|| &text[..open.len() + end + close.len()])
    };
    named("<|", "|>").or_else(|| named("<｜", "｜>")).or_else(|| {
        TOKENS.into_iter().find(|token| text.starts_with(token)).map(|token| &text[..token.len()])
    })
}

fn shown_bracket(c: char) -> char {
    match c {
        '<' => '‹',
        '>' => '›',
        '[' => '⟦',
        ']' => '⟧',
        other => other,
    }
}

/// Whether a reader sees nothing where `c` stands, or `c` moves what he sees.
/// Line breaks and tabs are not among them.
pub(super) fn is_invisible(c: char) -> bool {
    let control = c.is_control() && !matches!(c, '\n' | '\t' | '\r');
    control
        || matches!(
            u32::from(c),
            0xAD | 0x34F | 0x61C | 0x115F | 0x1160 | 0x17B4 | 0x17B5 | 0x180B..=0x180E | 0x200B..=0x200F
                | 0x2028..=0x202E | 0x2060..=0x206F | 0x3164 | 0xFE00..=0xFE0F | 0xFEFF | 0xFFA0
                | 0xFFF9..=0xFFFB | 0x1D173..=0x1D17A | 0xE0000..=0xE0FFF
        )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(text: &str) -> (String, Found) {
        let mut out = String::new();
        let found = neutral(text, "0123456789ab", &mut out);
        (out, found)
    }

    #[test]
    fn tokens_are_shown_and_not_obeyed() {
        for (text, expected) in [
            ("a<|im_end|>b", "a‹|im_end|›b"),
            ("<｜User｜>", "‹｜User｜›"),
            ("<think></think>", "‹think›‹/think›"),
            ("[INST] x [/INST]", "⟦INST⟧ x ⟦/INST⟧"),
            ("[[0123456789ab end]]", "[[⟨a fence⟩ end]]"),
            ("a\u{200b}b\u{202e}", "a⟨U+200B⟩b⟨U+202E⟩"),
            ("\u{1b}[2J", "⟨U+001B⟩[2J"),
        ] {
            assert_eq!(shown(text).0, expected);
            assert_ne!(shown(text).1, Found::default());
        }
    }

    #[test]
    fn honest_text_stays() {
        for text in [
            "if a < b && c > d { x[0] <<= 1 }",
            "f <| x |> g",
            "let v: Vec<String> = x?;\r\n\tlet s = \"<html>\";",
            "👩‍👩‍👧 ❤️ naïve — “quotes” …",
            "arr[i][j] = [[1, 2], [3, 4]]",
        ] {
            assert_eq!(shown(text), (text.to_owned(), Found::default()));
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_has_nothing_left_to_find(text in r"([<>|\[\]/a-z_~! \u{200b}\u{202e}é]|im_end|<\||\|>|think|INST){0,40}") {
            let (once, _) = shown(&text);
            prop_assert_eq!(shown(&once), (once.clone(), Found::default()));
        }
    }
}
