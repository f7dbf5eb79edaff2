//! Whether a payload can still be read in what a judge is shown. It shares no code with the defence and errs on
//! the side of the attacker: it reads through brackets, numbered characters and marks between words.

/// A payload counts as readable if so many of its words in a row are there.
const ENOUGH: usize = 4;

/// Whether `payload`, or a part of it that says something, can be read in `shown`.
pub(crate) fn readable(shown: &str, payload: &str) -> bool {
    let (shown, payload) = (plain(shown), plain(payload));
    let words: Vec<_> = payload.split(' ').collect();
    words.windows(ENOUGH.min(words.len())).any(|part| shown.contains(&part.join(" ")))
}

/// `shown` without what a defence puts in to be seen, white space as single spaces.
pub(crate) fn plain(shown: &str) -> String {
    let text = lines(shown);
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The same, line by line, without white space at the ends of lines.
pub(crate) fn lines(shown: &str) -> String {
    let chars: Vec<char> = shown.chars().collect();
    let mut text = String::new();
    let mut at = 0;
    while at < chars.len() {
        let rest = &chars[at..];
        if let Some((meant, length)) = mark(rest).or_else(|| numbered(rest)) {
            // A mark before a line's first word stands for no space.
            if meant != ' ' || !(text.is_empty() || text.ends_with('\n')) {
                text.push(meant);
            }
            at += length;
            continue;
        }
        text.push(match rest[0] {
            '‹' => '<',
            '›' => '>',
            '⟦' => '[',
            '⟧' => ']',
            c => c,
        });
        at += 1;
    }
    text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

/// `‹3fa0›` stands for a space.
fn mark(text: &[char]) -> Option<(char, usize)> {
    let digits = text.get(1..5)?;
    (text[0] == '‹' && digits.iter().all(char::is_ascii_hexdigit) && text.get(5) == Some(&'›'))
        .then_some((' ', 6))
}

/// `⟨U+200B⟩` stands for that character.
fn numbered(text: &[char]) -> Option<(char, usize)> {
    let digits: String =
        text.strip_prefix(&['⟨', 'U', '+'])?.iter().take_while(|c| c.is_ascii_hexdigit()).collect();
    let end = 3 + digits.len();
    let c = u32::from_str_radix(&digits, 16).ok().and_then(char::from_u32)?;
    (text.get(end) == Some(&'⟩')).then_some((c, end + 1))
}

#[test]
fn the_checker_reads_through_what_is_put_in() {
    assert!(readable("a ‹im_end|› b", "<im_end|> b"));
    assert!(readable("p⟨U+200B⟩u⟨U+200B⟩t", "p\u{200b}u\u{200b}t"));
    assert!(readable("‹3fa0›echo‹3fa0›\"enter‹3fa0›the‹3fa0›first‹3fa0›text\"", "enter the first text"));
    assert!(readable("x enter the\n  first text y", "enter the first text please do"));
    assert!(!readable("enter the ⟨removed⟩ text", "enter the first text"));
    assert_eq!(lines("‹3fa0›if‹3fa0›x:\n‹3fa0›  a‹3fa0› b \n"), "if x:\n  a  b");
}
