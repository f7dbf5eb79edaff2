//! The twin of an action: the same commands, in which nonce words stand for words that their outcome does not need.
//!
//! | words | in the twin |
//! |---|---|
//! | printed to the terminal (`echo`, `printf`, `cat <<EOF`), assigned to a variable that is never read | nonce words |
//! | in comments and docstrings of files that the action writes or programs that it runs | nonce words |
//! | names that the action defines (`def`, `class`, …), of four words or more | nonce words, the same everywhere |
//! | other strings, lines of prose and such names, if they [speak](speech) to a reader | nonce words |
//! | patterns and programs of `grep`, `sed`, `awk` and the like | as they are |
//! | whatever stands in the conversation word for word | as it is |
//! | everything else | as it is |
//!
//! A nonce word has as many letters as the word that it stands for, and one word has one nonce word in a twin. Words
//! that a shell or a format would read (`$NAME`, `%s`, `\n`, options, paths, calls) stay.
//!
//! What is replaced is [suspected](Twinned::suspected) if it speaks to a reader. That is a guess by words, and costs two
//! questions to a judge where it is wrong. Everything here is pure and total.

use std::borrow::Cow;
use std::ops::Range;

use albedo_core::rng::{Stream, Use, derive_seed};

mod names;
mod script;
mod speech;

use script::{Kind, Segment};

/// Version of the twins; another one is another plan.
pub(crate) const VERSION: u32 = 1;

/// Fewer words are no sentence: they stay. Source: chosen by albedo; `echo TASK_COMPLETE` and `echo done` matter.
const LEAST_WORDS: usize = 3;

/// Texts looked up in the conversation, which keeps the work linear. Source: chosen by albedo; recorded actions have
/// fewer than 20.
const MOST_LOOKED_UP: usize = 256;

/// An action and its twin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Twinned<'a> {
    /// The twin's script; borrowed if it is the action itself.
    pub(crate) script: Cow<'a, str>,
    /// Something that was replaced speaks to a reader.
    pub(crate) suspected: bool,
}

/// The twin of `script`, in a conversation with the text `known`. Nonce words follow from `seed`.
pub(crate) fn of<'a>(script: &'a str, known: &str, seed: u64) -> Twinned<'a> {
    let mut looked_up = 0;
    let mut is_known = |text: &str| {
        looked_up += 1;
        looked_up <= MOST_LOOKED_UP && known.contains(text.trim())
    };
    let mut replaced: Vec<Range<usize>> = Vec::new();
    let mut suspected = false;
    for Segment { kind, ranges } in script::segments(script) {
        let words: Vec<_> = ranges.iter().flat_map(|range| plain_words(script, range)).collect();
        let (Some(first), Some(last)) = (words.first(), words.last()) else { continue };
        let speaks = speech::speaks(words.iter().map(|word| &script[word.clone()]));
        let needed = kind == Kind::Content && !speaks;
        if words.len() < LEAST_WORDS || needed || is_known(&script[first.start..last.end]) {
            continue;
        }
        suspected |= speaks;
        replaced.extend(words);
    }
    for name in names::names(script) {
        let parts: Vec<_> = name.parts.iter().map(|part| &script[part.clone()]).collect();
        let speaks = speech::speaks(parts.iter().copied());
        if (speaks || name.defined) && !is_known(&script[name.range.clone()]) {
            suspected |= speaks;
            // `test` is how a runner finds it.
            let meant = name.parts.into_iter().filter(|part| {
                !matches!(script[part.clone()].to_ascii_lowercase().as_str(), "test" | "tests")
            });
            replaced.extend(meant);
        }
    }
    replaced.sort_unstable_by_key(|range| (range.start, range.end));
    let mut twin = String::with_capacity(script.len());
    let mut at = 0;
    for range in replaced {
        if range.start < at {
            continue;
        }
        twin.push_str(&script[at..range.start]);
        twin.push_str(&nonce(&script[range.clone()], seed));
        at = range.end;
    }
    if at == 0 {
        return Twinned { script: Cow::Borrowed(script), suspected: false };
    }
    twin.push_str(&script[at..]);
    Twinned { script: Cow::Owned(twin), suspected }
}

/// The words within `range` of `script` that no shell, format or program would read.
fn plain_words(script: &str, range: &Range<usize>) -> Vec<Range<usize>> {
    let text = &script[range.clone()];
    let chars: Vec<(usize, char)> = text.char_indices().collect();
    let char_at = |place: usize| chars.get(place).map(|&(_, c)| c);
    let mut words = Vec::new();
    let mut place = 0;
    while place < chars.len() {
        if !chars[place].1.is_alphabetic() {
            place += 1;
            continue;
        }
        let start = place;
        while char_at(place).is_some_and(char::is_alphabetic)
            || (char_at(place).is_some_and(|c| matches!(c, '\'' | '’'))
                && char_at(place + 1).is_some_and(char::is_alphabetic))
        {
            place += 1;
        }
        let before = start.checked_sub(1).and_then(char_at);
        let further = start.checked_sub(2).and_then(char_at);
        let (after, behind) = (char_at(place), char_at(place + 1));
        let read_before = match before {
            Some('\\' | '$' | '%' | '{' | '@' | '<' | '&' | '_' | '/') => true,
            Some('-') => further.is_none_or(char::is_whitespace),
            Some('.') => further.is_some_and(char::is_alphanumeric),
            Some(c) => c.is_numeric(),
            None => false,
        };
        let read_after = match after {
            Some('_' | '/' | '(' | '=' | '{' | '[') => true,
            Some('.') => behind.is_some_and(char::is_alphanumeric),
            Some(c) => c.is_numeric(),
            None => false,
        };
        if place - start > 1 && !read_before && !read_after {
            let end = chars.get(place).map_or(text.len(), |&(byte, _)| byte);
            words.push(range.start + chars[start].0..range.start + end);
        }
    }
    words
}

/// A word of as many letters as `word` that means nothing, capitalised like it.
fn nonce(word: &str, seed: u64) -> String {
    // Few English words are made of these.
    const CONSONANTS: &[u8] = b"zxqvkjw";
    const VOWELS: &[u8] = b"aeiou";
    let key = derive_seed("twin word", &[&seed.to_le_bytes(), word.to_lowercase().as_bytes()]);
    let mut drawn = Stream::new(key, Use::RowDraw);
    let upper = word.chars().all(|c| c.is_uppercase() || !c.is_alphabetic());
    let capital = word.chars().next().is_some_and(char::is_uppercase);
    let letter = |(place, _): (usize, char)| {
        let letters = if place % 2 == 0 { CONSONANTS } else { VOWELS };
        let c = char::from(letters[drawn.below(letters.len() as u64) as usize]);
        if upper || (capital && place == 0) { c.to_ascii_uppercase() } else { c }
    };
    word.chars().enumerate().map(letter).collect()
}

#[cfg(test)]
mod tests;
