//! The transform `rename`: other names for what a trajectory's code defines.
//!
//! A model that is trained on a few repositories learns their names by heart. With names
//! that differ from copy to copy it has to read them in the conversation. Every name of
//! one trajectory is replaced everywhere in it, in code, output and prose, so that the
//! copy is as coherent as the original. What a model must write as it is stays: the system
//! message and its words, Python's keywords, built-in and library names, shell commands,
//! common words of English, tags and fences.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::LazyLock;

use crate::rng::{Stream, Use, derive_seed};
use crate::{Message, MessageRole};

mod code;

/// Names that are never replaced: those of Python 3.13's keywords, built-ins, methods of
/// built-in types and much of its library, and common shell commands.
static KEPT: LazyLock<BTreeSet<&'static str>> = LazyLock::new(|| include_str!("kept.txt").lines().collect());

/// Words that prose on a repair needs, such as `first`, `it`, `line` and `value`. They are never
/// replaced either, though code has such names, too: a module `line` is not one of Python's library.
static ENGLISH: LazyLock<BTreeSet<&'static str>> =
    LazyLock::new(|| include_str!("english.txt").lines().collect());

/// The words that new names are made of. Source: those that the demo's models were trained
/// with (`examples/demo/make/augment.py`).
static WORDS: LazyLock<Vec<&'static str>> = LazyLock::new(|| include_str!("words.txt").lines().collect());

/// Parts of the words of a trajectory's names that a copy replaces, one of them per copy.
/// Source: as the demo's models were trained.
const SHARES: [f64; 3] = [0.5, 0.8, 1.0];

/// `messages` of a trajectory of `repo` with other names, which follow from `seed`, the
/// row's `id` and the number of the copy.
pub(super) fn renamed(messages: &[Message], repo: &str, seed: u64, id: &str, copy: u64) -> Vec<Message> {
    let names = names(messages, repo);
    let table = table(&names, messages, seed, id, copy);
    let replace = |message: &Message| match message.role {
        MessageRole::System => message.clone(),
        role => Message::new(role, replaced(&message.content, &names, &table)),
    };
    messages.iter().map(replace).collect()
}

/// The places of the identifiers in `text`: a letter or `_`, then letters, digits and `_`.
fn identifiers(text: &str) -> impl Iterator<Item = Range<usize>> {
    let bytes = text.as_bytes();
    let mut at = 0;
    std::iter::from_fn(move || {
        let begins = |byte: &u8| byte.is_ascii_alphabetic() || *byte == b'_';
        let start = at + bytes.get(at..)?.iter().position(begins)?;
        let goes_on = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
        let length = bytes[start..].iter().take_while(|byte| goes_on(byte)).count();
        at = start + length;
        Some(start..at)
    })
}

/// The places of the words in an identifier: capitals, a capitalised word, small letters or
/// digits.
fn words(name: &str) -> Vec<Range<usize>> {
    let bytes = name.as_bytes();
    let run = |from: usize, takes: fn(&u8) -> bool| {
        from + bytes[from..].iter().take_while(|byte| takes(byte)).count()
    };
    let (mut words, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let end = match bytes[at] {
            b'_' => {
                at += 1;
                continue;
            }
            byte if byte.is_ascii_digit() => run(at, u8::is_ascii_digit),
            byte if byte.is_ascii_lowercase() => run(at, u8::is_ascii_lowercase),
            _ => {
                let capitals = run(at, u8::is_ascii_uppercase);
                let small = bytes.get(capitals).is_some_and(u8::is_ascii_lowercase);
                match capitals - at {
                    1 => run(capitals, u8::is_ascii_lowercase),
                    // The last capital begins the next word.
                    _ if small => capitals - 1,
                    _ => capitals,
                }
            }
        };
        words.push(at..end);
        at = end;
    }
    words
}

/// What the trajectory's code names, as far as the trajectory shows it.
fn names<'a>(messages: &'a [Message], repo: &'a str) -> BTreeSet<&'a str> {
    let is_system = |message: &&Message| message.role == MessageRole::System;
    let said = || messages.iter().filter(|message| !is_system(message)).map(|message| &message.content[..]);
    let (mut names, mut kept) = (BTreeSet::new(), BTreeSet::new());
    names.insert(repo.rsplit('/').next().unwrap_or(repo));
    for text in said() {
        collect(text, &mut names, &mut kept);
    }
    // The words of the protocol are in the system message.
    for message in messages.iter().filter(is_system) {
        kept.extend(identifiers(&message.content).map(|place| &message.content[place]));
    }
    names.retain(|name| {
        name.len() > 1
            && !name.starts_with("__")
            && !KEPT.contains(name)
            && !ENGLISH.contains(name)
            && !kept.contains(name)
            && name.bytes().any(|byte| byte.is_ascii_alphabetic())
    });
    names
}

/// Adds to `names` what `text` defines or names as code does, and to `kept` what it may not
/// lose.
fn collect<'a>(text: &'a str, names: &mut BTreeSet<&'a str>, kept: &mut BTreeSet<&'a str>) {
    let mut parameters = 0..0;
    for place in identifiers(text) {
        let (name, start, end) = (&text[place.clone()], place.start, place.end);
        let ahead = &text[end..];
        let behind = &text[..start];
        code::collect(text, &place, names, kept);
        if name == "def"
            && let Some(defined) = ahead.strip_prefix(' ').and_then(code::name)
        {
            names.insert(defined);
            let list = &ahead[1 + defined.len()..];
            if list.starts_with('(') {
                let begin = text.len() - list.len();
                parameters = begin..begin + list.find(')').unwrap_or(0);
            }
        }
        if behind.ends_with('<') || behind.ends_with("</") {
            kept.insert(name);
        } else if ahead.starts_with(".py")
            || behind.ends_with("self.")
            || behind.ends_with("cls.")
            || is_assigned(behind, ahead)
            || is_compound(name)
        {
            names.insert(name);
        } else if parameters.contains(&start) {
            // A parameter, not its default value.
            let between = behind.trim_end_matches([' ', '*']);
            if between.ends_with('(') || between.ends_with(',') {
                names.insert(name);
            }
        }
    }
}

/// Whether a line of code gives a value to the name between `behind` and `ahead`: it stands
/// at the line's beginning, behind at most its number.
fn is_assigned(behind: &str, ahead: &str) -> bool {
    let ahead = ahead.trim_start_matches(' ');
    let assigns = ahead.starts_with('=') && !ahead.starts_with("==");
    let line = behind.rsplit('\n').next().unwrap_or_default();
    let listed =
        line.trim_start_matches(|c: char| c.is_whitespace() || c.is_ascii_digit() || ":-+".contains(c));
    let earlier = |text: &str| {
        text.split(',')
            .all(|part| part.trim().bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'))
    };
    assigns && earlier(listed)
}

/// Whether only code writes such a word: `two_words` or `TwoWords`.
fn is_compound(name: &str) -> bool {
    let parts = words(name);
    let letters =
        parts.iter().filter(|part| name[(*part).clone()].bytes().all(|byte| byte.is_ascii_alphabetic()));
    let small = name.bytes().any(|byte| byte.is_ascii_lowercase());
    letters.count() > 1 && small && !name.starts_with('_')
}

/// The new words of a copy, by the old ones in small letters.
fn table(
    names: &BTreeSet<&str>,
    messages: &[Message],
    seed: u64,
    id: &str,
    copy: u64,
) -> BTreeMap<String, &'static str> {
    let parts = [&seed.to_le_bytes()[..], id.as_bytes(), &copy.to_le_bytes()];
    let mut stream = Stream::new(derive_seed("albedo distil rename 1", &parts), Use::RowDraw);
    let small =
        |name: &str| words(name).into_iter().map(|word| name[word].to_ascii_lowercase()).collect::<Vec<_>>();
    let mut used = BTreeSet::new();
    for message in messages {
        used.extend(identifiers(&message.content).flat_map(|place| small(&message.content[place])));
    }
    // Two names never become one: a new word is none that is there.
    let mut fresh: Vec<&str> = WORDS.iter().copied().filter(|word| !used.contains(*word)).collect();
    let share = SHARES[stream.below(SHARES.len() as u64) as usize];
    let mut table = BTreeMap::new();
    for word in names.iter().flat_map(|name| small(name)).collect::<BTreeSet<_>>() {
        if word.len() < 2 || word == "test" || word.as_bytes()[0].is_ascii_digit() {
            continue;
        }
        let replaces = (stream.next_u64() >> 11) as f64 / (1_u64 << 53) as f64 <= share;
        if fresh.is_empty() {
            break;
        }
        if replaces {
            let place = stream.below(fresh.len() as u64) as usize;
            table.insert(word, fresh.swap_remove(place));
        }
    }
    table
}

/// `text` with the `names` in it made of the words of `table`.
fn replaced(text: &str, names: &BTreeSet<&str>, table: &BTreeMap<String, &'static str>) -> String {
    let (mut new, mut at) = (String::with_capacity(text.len()), 0);
    for place in identifiers(text) {
        let name = &text[place.clone()];
        if names.contains(name) {
            new.push_str(&text[at..place.start]);
            rename(name, table, &mut new);
            at = place.end;
        }
    }
    new.push_str(&text[at..]);
    new
}

/// Adds to `new` the name that `name` becomes, in the same letter case.
fn rename(name: &str, table: &BTreeMap<String, &'static str>, new: &mut String) {
    let mut at = 0;
    for place in words(name) {
        new.push_str(&name[at..place.start]);
        at = place.end;
        let word = &name[place];
        match table.get(&word.to_ascii_lowercase()) {
            None => new.push_str(word),
            Some(fresh) if word.len() > 1 && word.bytes().all(|byte| byte.is_ascii_uppercase()) => {
                new.push_str(&fresh.to_ascii_uppercase());
            }
            Some(fresh) if word.as_bytes()[0].is_ascii_uppercase() => {
                new.push_str(&fresh[..1].to_ascii_uppercase());
                new.push_str(&fresh[1..]);
            }
            Some(fresh) => new.push_str(fresh),
        }
    }
    new.push_str(&name[at..]);
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::conversations::conversations;

    fn said(role: MessageRole, text: &str) -> Message {
        Message::new(role, text)
    }

    fn trajectory() -> Vec<Message> {
        vec![
            said(
                MessageRole::System,
                "Answer with THOUGHT: and one bash block; end with `echo TASK_COMPLETE`.",
            ),
            said(MessageRole::User, "almanac: test_days_between fails\n\nThe code is in `calendar_math.py`."),
            said(
                MessageRole::Assistant,
                "THOUGHT: I read `days_between`.\n\n```bash\ngrep -n \"def days_between\" calendar_math.py\n```",
            ),
            said(
                MessageRole::User,
                "<returncode>0</returncode>\n<output>\n29:def days_between(origin, target=None):\n30-    distance = \
                 ordinal(target) - ordinal(origin)\n31-    return distance\nclass CalendarTest(unittest.TestCase):\n\
                 self.assertEqual(days_between(1, 2), 2)\n  File \"/workspace/almanac/calendar_math.py\"\n</output>",
            ),
            said(MessageRole::Assistant, "THOUGHT: Done.\n\n```bash\necho TASK_COMPLETE\n```"),
        ]
    }

    #[test]
    fn words_of_a_name() {
        let split = |name: &'static str| words(name).into_iter().map(|word| &name[word]).collect::<Vec<_>>();
        assert_eq!(split("test_days_between"), ["test", "days", "between"]);
        assert_eq!(split("HTTPServerTest2"), ["HTTP", "Server", "Test", "2"]);
        assert_eq!(split("_A1b"), ["A", "1", "b"]);
        assert_eq!(split("MAX_SIZE"), ["MAX", "SIZE"]);
    }

    #[test]
    fn names_are_what_code_defines_and_nothing_that_a_protocol_needs() {
        let messages = trajectory();
        let found = names(&messages, "demo/almanac");
        let expected = [
            "CalendarTest",
            "almanac",
            "calendar_math",
            "days_between",
            "distance",
            "origin",
            "target",
            "test_days_between",
        ];
        assert_eq!(found.into_iter().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_copy_is_coherent_deterministic_and_keeps_the_form() {
        let messages = trajectory();
        let copy = |number| renamed(&messages, "demo/almanac", 7, "row", number);
        assert_eq!(copy(1), copy(1));
        let copies: BTreeSet<_> = (0..20).map(|number| format!("{:?}", copy(number))).collect();
        assert!(copies.len() > 15, "{} of 20 copies differ", copies.len());
        for number in 0..20 {
            let new = copy(number);
            assert_eq!(new[0], messages[0], "the system message stays");
            for (old, new) in messages.iter().zip(&new) {
                let words = |text: &str| identifiers(text).count();
                assert_eq!(words(&old.content), words(&new.content));
                for kept in
                    ["THOUGHT", "```bash\n", "grep -n \"def ", "<returncode>0</returncode>", "<output>"]
                {
                    assert_eq!(old.content.contains(kept), new.content.contains(kept), "{kept}");
                }
                for kept in
                    ["self.assertEqual(", "unittest.TestCase", "/workspace/", "return ", "TASK_COMPLETE"]
                {
                    assert_eq!(old.content.contains(kept), new.content.contains(kept), "{kept}");
                }
            }
            // One old name has one new name, and no two share it.
            let mut pairs: BTreeMap<&str, &str> = BTreeMap::new();
            for (old, new) in messages.iter().zip(&new) {
                for (old_place, new_place) in identifiers(&old.content).zip(identifiers(&new.content)) {
                    let (old, new) = (&old.content[old_place], &new.content[new_place]);
                    assert_eq!(*pairs.entry(old).or_insert(new), new, "{old}");
                }
            }
            let distinct: BTreeSet<_> = pairs.values().collect();
            assert_eq!(distinct.len(), pairs.len());
        }
    }

    #[test]
    fn of_the_demo_code_gets_other_names_and_prose_stays() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/demo/distil.jsonl.gz");
        let rows = conversations(&path).expect("reads");
        let mut found: BTreeMap<&str, usize> = BTreeMap::new();
        for row in &rows {
            for name in names(&row.messages, &row.repo) {
                *found.entry(name).or_default() += 1;
            }
            // Without the protocol's words, which stay in any case.
            for name in names(&row.messages[1..], &row.repo) {
                found.entry(name).or_default();
            }
        }
        // "To see the failure for myself"; `from pathlib import Path`, which a student shall write.
        for kept in [
            "Path", "an", "customer", "it", "line", "lists", "long", "myself", "other", "right", "the",
            "value",
        ] {
            assert!(!found.contains_key(kept), "{kept}");
        }
        for (name, least) in [("days_between", 18), ("item", 80), ("score", 31), ("Board", 9)] {
            assert!(found.get(name) >= Some(&least), "{name}: {:?} of {least}", found.get(name));
        }
        // 15,005, of which the projects' sources define 14,641. Source: counted with Python's `ast`.
        assert!(found.values().sum::<usize>() > 14_600, "{}", found.values().sum::<usize>());
    }

    #[test]
    fn a_module_that_is_called_like_a_word_of_english_is_not_pythons() {
        for (module, is_pythons) in [("line", false), ("number", false), ("pathlib", true)] {
            let text = format!("```python\nfrom {module} import Segment\n```");
            let messages = [said(MessageRole::User, &text)];
            let found = names(&messages, "demo/almanac");
            assert_eq!(found.contains("Segment"), !is_pythons, "{module}");
            assert!(!found.contains(module), "{module} stays");
        }
        assert!(ENGLISH.is_disjoint(&KEPT), "each word is in one list");
    }

    #[test]
    fn any_text_is_survived() {
        for text in ["", "é=1", "_", "a", "def ", "def f(", "\n=\n", "ß_x = 3\nx", "<"] {
            let messages = [said(MessageRole::User, text)];
            assert_eq!(renamed(&messages, "", 1, "", 1).len(), 1);
        }
    }
}
