//! The shape of a reply: leading reasoning, prose, fenced blocks.

use std::ops::Range;

use albedo_core::{Error, ErrorKind, Result};

/// A reply, taken apart. Borrows from its text; parsing is linear.
#[derive(Debug)]
pub(crate) struct Reply<'a> {
    /// The inside of a leading `<think> … </think>` section; empty without one.
    pub(crate) thinking: &'a str,
    /// That section never ends, so that nothing is left of the reply.
    pub(crate) unfinished_thinking: bool,
    /// The text after it.
    pub(crate) text: &'a str,
    /// The fenced blocks of `text`, in order.
    pub(crate) blocks: Vec<Block<'a>>,
}

/// A fenced block, by Markdown's rules (`CommonMark`): opened by a line of at least
/// three backticks or tildes after at most three spaces, closed by a line of
/// nothing but at least as many of the same, or else by the end of the text.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Block<'a> {
    /// Bytes of [`Reply::text`] that it takes, fences included.
    pub(crate) range: Range<usize>,
    /// The first word after the opening fence.
    pub(crate) language: &'a str,
    /// What stands between the fences.
    pub(crate) code: &'a str,
    /// The closing fence is there.
    pub(crate) closed: bool,
}

impl<'a> Reply<'a> {
    /// Takes `text` apart.
    pub(crate) fn parse(text: &'a str) -> Self {
        let (thinking, rest) = match text.trim_start().strip_prefix("<think>") {
            Some(opened) => {
                opened.split_once("</think>").map_or((opened, None), |(inside, rest)| (inside, Some(rest)))
            }
            None => ("", Some(text)),
        };
        let text = rest.unwrap_or("");
        Self { thinking, unfinished_thinking: rest.is_none(), text, blocks: blocks(text) }
    }

    /// The closed blocks in one of `languages` (in any case): what the
    /// environment would execute.
    pub(crate) fn actions(&self, languages: &[String]) -> impl Iterator<Item = &Block<'a>> {
        self.blocks.iter().filter(move |block| {
            block.closed && languages.iter().any(|language| language.eq_ignore_ascii_case(block.language))
        })
    }

    /// The only action; `None` if there is none or more than one, and the
    /// environment executes nothing.
    pub(crate) fn action(&self, languages: &[String]) -> Option<&Block<'a>> {
        let mut actions = self.actions(languages);
        actions.next().filter(|_| actions.next().is_none())
    }
}

/// Checks the setting `languages` of judge `judge`.
///
/// # Errors
/// [`ErrorKind::ConfigInvalid`] if there is none or one that no block can have.
pub(crate) fn check_languages(judge: &str, languages: &[String]) -> Result<()> {
    let blank = |language: &String| language.is_empty() || language.contains(char::is_whitespace);
    if !languages.is_empty() && !languages.iter().any(blank) {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::ConfigInvalid,
        format!("check the settings of judge `{judge}`"),
        format!("languages is {languages:?}"),
    )
    .with("key", "languages")
    .with_hint("name at least one language, each a single word, for example [\"bash\"]"))
}

fn blocks(text: &str) -> Vec<Block<'_>> {
    let mut blocks = Vec::new();
    let mut open: Option<(Fence<'_>, usize, usize)> = None;
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let start = at;
        at += line.len();
        let fence = Fence::of(line);
        match (&open, fence) {
            (None, Some(fence)) => open = Some((fence, start, at)),
            (Some((opening, block, code)), Some(fence)) if fence.closes(opening) => {
                blocks.push(Block {
                    range: *block..at,
                    language: opening.language(),
                    code: &text[*code..start],
                    closed: true,
                });
                open = None;
            }
            _ => {}
        }
    }
    if let Some((opening, block, code)) = open {
        let language = opening.language();
        blocks.push(Block { range: block..text.len(), language, code: &text[code..], closed: false });
    }
    blocks
}

/// A line that can open or close a block.
struct Fence<'a> {
    mark: u8,
    length: usize,
    info: &'a str,
}

impl<'a> Fence<'a> {
    fn of(line: &'a str) -> Option<Self> {
        let fence = line.trim_start_matches(' ');
        let mark = *fence.as_bytes().first()?;
        let length = fence.bytes().take_while(|&byte| byte == mark).count();
        let info = fence.get(length..)?.trim();
        let fits = matches!(mark, b'`' | b'~') && length >= 3 && line.len() - fence.len() <= 3;
        (fits && !(mark == b'`' && info.contains('`'))).then_some(Self { mark, length, info })
    }

    fn closes(&self, opening: &Fence<'_>) -> bool {
        self.mark == opening.mark && self.length >= opening.length && self.info.is_empty()
    }

    fn language(&self) -> &'a str {
        self.info.split_whitespace().next().unwrap_or("")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bash() -> Vec<String> {
        vec!["bash".into()]
    }

    #[test]
    fn a_recorded_reply_has_one_action() {
        let reply = Reply::parse("THOUGHT: I list its files first.\n\n```bash\nls\n```");
        let action = reply.action(&bash()).expect("one action");
        assert_eq!((action.language, action.code), ("bash", "ls\n"));
        assert_eq!(&reply.text[..action.range.start], "THOUGHT: I list its files first.\n\n");
        assert_eq!(action.range.end, reply.text.len());
    }

    #[test]
    fn only_closed_blocks_of_the_language_are_actions() {
        for (text, actions) in [
            ("no block", 0),
            ("```bash\nls", 0),
            ("```python\nls\n```", 0),
            ("```\nls\n```", 0),
            ("`````bash\nls\n```\n`````", 1),
            ("~~~ Bash x\nls\n~~~\n", 1),
            ("    ```bash\nls\n```", 0),
            ("```bash ls```", 0),
            ("```bash\r\nls\r\n```\r\n", 1),
            ("```bash\nls\n```\n\n```bash\ncat x\n```", 2),
            ("```python\nx\n```\n```bash\nls\n```", 1),
        ] {
            let reply = Reply::parse(text);
            assert_eq!(reply.actions(&bash()).count(), actions, "{text}");
            assert_eq!(reply.action(&bash()).is_some(), actions == 1, "{text}");
        }
    }

    #[test]
    fn leading_reasoning_is_left_out() {
        let text = "<think>\nmaybe\n```bash\nrm x\n```\n</think>\n\nTHOUGHT: y\n\n```bash\nls\n```";
        assert_eq!(Reply::parse(text).action(&bash()).map(|action| action.code), Some("ls\n"));
        assert_eq!(Reply::parse("<think>\n```bash\nls\n```").text, "");
    }

    proptest! {
        #[test]
        fn blocks_lie_in_order_inside_the_text(text in "([`~ ]{0,4}(bash|think|>|<|x|/|é)?\n?){0,30}") {
            let reply = Reply::parse(&text);
            let mut end = 0;
            for block in &reply.blocks {
                prop_assert!(end <= block.range.start && block.range.end <= reply.text.len());
                prop_assert!(reply.text[block.range.clone()].contains(block.code));
                end = block.range.end;
            }
        }
    }
}
