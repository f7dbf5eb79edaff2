//! The transform `rename`: other names for what a trajectory's code defines.
//!
//! A model that is trained on a few repositories learns their names by heart. With names
//! that differ from copy to copy it has to read them in the conversation. Every name of
//! one trajectory is replaced by the same other name in all of its code and output, so that the
//! copy is as coherent as the original. What a model must write as it is stays: the system
//! message and its terms, Python's keywords, built-in and library names, shell commands, tags and
//! fences, what the assistant calls things before it was shown the name, plain words in sentences.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::LazyLock;

use crate::rng::{Stream, Use, derive_seed};
use crate::{Message, MessageRole};

mod code;

/// Names that are never replaced: those of Python 3.13's keywords, built-ins, methods of
/// built-in types and much of its library, common shell commands, and `old`, `new`, `path` and
/// `text`, which agents call the things in their own scripts.
static KEPT: LazyLock<BTreeSet<&'static str>> = LazyLock::new(|| include_str!("kept.txt").lines().collect());

/// Small words that Python's library uses and code defines as well, such as `date`, `start` and
/// `token`. They are replaced where the trajectory's code defines them.
static LIBRARY: LazyLock<BTreeSet<&'static str>> =
    LazyLock::new(|| include_str!("library.txt").lines().collect());

/// Words of code that stand beside a name with nothing but a space between: Python's keywords and
/// `case`, `match`, `print`, `type`.
const KEYWORDS: [&str; 39] = [
    "False", "None", "True", "and", "as", "assert", "async", "await", "break", "case", "class", "continue",
    "def", "del", "elif", "else", "except", "finally", "for", "from", "global", "if", "import", "in", "is",
    "lambda", "match", "nonlocal", "not", "or", "pass", "print", "raise", "return", "try", "type", "while",
    "with", "yield",
];

/// The words that new names are made of: the more there are, the less a student can learn them by
/// heart. Source: the words of 3 to 14 letters that occur in names which at least two modules of
/// Python 3.11's library define (tests, `idlelib` and `lib2to3` left out), and those that the
/// demo's models were trained with (`examples/demo/make/augment.py`). Words that are an entry of
/// `kept.txt`, in the same or another letter case, are left out.
static WORDS: LazyLock<Vec<&'static str>> = LazyLock::new(|| include_str!("words.txt").lines().collect());

/// Parts of the words of a trajectory's names that a copy replaces, one of them per copy.
/// Source: as the demo's models were trained.
const SHARES: [f64; 3] = [0.5, 0.8, 1.0];

/// What the code of a trajectory names.
#[derive(Debug, Default)]
struct Names<'a> {
    /// What the project is called.
    project: &'a str,
    /// The names that are replaced.
    replaced: BTreeSet<&'a str>,
    /// Names that the code is seen to define.
    defined: BTreeSet<&'a str>,
    /// Names of functions, classes and attributes that it defines: they stand behind a dot, too.
    attributes: BTreeSet<&'a str>,
    /// Names that stay: what is imported from Python's library, tags, terms of the protocol.
    kept: BTreeSet<&'a str>,
    /// The project's modules, as far as a path to their file is seen.
    modules: BTreeSet<&'a str>,
    /// What modules of Python's library are called.
    library: BTreeSet<&'a str>,
}

impl<'a> Names<'a> {
    /// Adds `name`, which the code defines.
    fn define(&mut self, name: &'a str) {
        self.replaced.insert(name);
        self.defined.insert(name);
    }

    /// Adds `name`, which the code defines and which can stand behind a dot.
    fn define_attribute(&mut self, name: &'a str) {
        self.define(name);
        self.attributes.insert(name);
    }

    /// Whether `module` is one of Python's library.
    fn is_library(&self, module: &str) -> bool {
        let is_known = KEPT.contains(module) || LIBRARY.contains(module);
        module.starts_with("__") || is_known && !self.modules.contains(module)
    }
}

/// `messages` of a trajectory of `repo` with other names, which follow from `seed`, the
/// row's `id` and the number of the copy.
pub(super) fn renamed(messages: &[Message], repo: &str, seed: u64, id: &str, copy: u64) -> Vec<Message> {
    let names = names(messages, repo);
    let table = table(&names.replaced, messages, seed, id, copy);
    let replace = |message: &Message| match message.role {
        MessageRole::System => message.clone(),
        role => {
            let output =
                if role == MessageRole::Tool { 0..message.content.len() } else { output(&message.content) };
            Message::new(role, replaced(&message.content, output, &names, &table))
        }
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
fn names<'a>(messages: &'a [Message], repo: &'a str) -> Names<'a> {
    let is_system = |message: &&Message| message.role == MessageRole::System;
    let said = || messages.iter().filter(|message| !is_system(message));
    let project = repo.rsplit('/').next().unwrap_or(repo);
    let mut found = Names { project, ..Names::default() };
    found.define(project);
    let (mut seen, mut invented) = (BTreeSet::new(), BTreeSet::new());
    for message in said() {
        let text = &message.content[..];
        for place in identifiers(text) {
            let name = &text[place.clone()];
            if is_module(text, &place) {
                found.modules.insert(name);
            }
            if seen.insert(name) && message.role == MessageRole::Assistant {
                invented.insert(name);
            }
        }
    }
    for message in said() {
        collect(&message.content, &mut found);
    }
    // The terms of the protocol are in the system message.
    for message in messages.iter().filter(is_system) {
        let text = &message.content[..];
        found.kept.extend(identifiers(text).filter(|place| !is_small(text, place)).map(|place| &text[place]));
    }
    let Names { replaced, defined, kept, .. } = &mut found;
    replaced.retain(|name| {
        let is_invented = invented.contains(name) && !is_compound(name) && *name != project;
        name.len() > 1
            && !name.starts_with("__")
            && !KEPT.contains(name)
            && !kept.contains(name)
            && !is_invented
            && (!LIBRARY.contains(name) || defined.contains(name))
            && name.bytes().any(|byte| byte.is_ascii_alphabetic())
    });
    found
}

/// Adds to `found` what `text` defines or names as code does, and what it may not lose.
fn collect<'a>(text: &'a str, found: &mut Names<'a>) {
    let (mut parameters, mut closing) = (0..0, 0);
    for place in identifiers(text) {
        let (name, start, end) = (&text[place.clone()], place.start, place.end);
        let ahead = &text[end..];
        let behind = &text[..start];
        code::collect(text, &place, found);
        if name == "def"
            && let Some(defined) = ahead.strip_prefix(' ').and_then(code::name)
        {
            found.define_attribute(defined);
            let list = &ahead[1 + defined.len()..];
            if list.starts_with('(') {
                let begin = text.len() - list.len();
                // No part of the text is searched twice.
                if closing < begin {
                    closing = list.find(')').map_or(text.len(), |at| begin + at);
                }
                let end = if closing < text.len() { closing } else { begin };
                parameters = begin..end;
            }
        }
        if behind.ends_with('<') || behind.ends_with("</") {
            found.kept.insert(name);
        } else if ahead.starts_with(".py") && found.modules.contains(name) {
            found.define(name);
        } else if is_own(behind) {
            let value = ahead.trim_start_matches([' ', '+', '-', '*', '/', '|', '&']);
            if value.starts_with('=') && !value.starts_with("==") {
                found.define_attribute(name);
            }
            found.replaced.insert(name);
        } else if is_assigned(text, &place) {
            found.define(name);
        } else if is_compound(name) {
            found.replaced.insert(name);
        } else if parameters.contains(&start) {
            // A parameter, not its default value.
            let between = behind.trim_end_matches([' ', '*']);
            if between.ends_with('(') || between.ends_with(',') {
                found.define(name);
            }
        } else if ahead.starts_with('(') && !behind.ends_with('.') && name.len() > 2 {
            // A function that is called.
            found.replaced.insert(name);
        }
    }
}

/// Whether the name behind `behind` is an attribute of an object or a class that names itself.
fn is_own(behind: &str) -> bool {
    behind.ends_with("self.") || behind.ends_with("cls.")
}

/// Whether a path to a module of the project ends with the name at `place`: `NAME.py`.
fn is_module(text: &str, place: &Range<usize>) -> bool {
    let ends = |rest: &str| !rest.starts_with(is_part);
    let is_library = || {
        let path = code::tail(&text[..place.start]).rsplit([' ', '\n', '"', '\'']).next();
        path.is_some_and(|path| path.contains("lib/python"))
    };
    text[place.end..].strip_prefix(".py").is_some_and(ends) && !is_library()
}

/// Whether an identifier has such a character.
fn is_part(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// Whether the name at `place` is a word in small letters that stands in a sentence.
fn is_small(text: &str, place: &Range<usize>) -> bool {
    text[place.clone()].bytes().all(|byte| byte.is_ascii_lowercase()) && is_prose(text, place)
}

/// Whether the word at `place` stands in a sentence: next to another word or before a number, with
/// nothing but a space between, as names of code do only beside keywords.
fn is_prose(text: &str, place: &Range<usize>) -> bool {
    let (behind, ahead) = (&text[..place.start], &text[place.end..]);
    let opens = behind.is_empty() || behind.ends_with([' ', '\n', '(']);
    let closes = ahead.is_empty()
        || ahead.starts_with([' ', '\n', ',', ':', ';', ')', '?', '!'])
        || ahead.strip_prefix('.').is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\n']));
    if !opens || !closes {
        return false;
    }
    let is_word = |word: &str| !word.is_empty() && !KEYWORDS.contains(&word);
    let (before, after) = (behind.trim_end_matches(' '), ahead.trim_start_matches(' '));
    let last = &before[before.trim_end_matches(is_part).len()..];
    let follows =
        before.len() < behind.len() && is_word(last.trim_start_matches(|c: char| c.is_ascii_digit()));
    let is_followed =
        after.starts_with(|c: char| c.is_ascii_digit()) || code::name(after).is_some_and(is_word);
    follows || after.len() < ahead.len() && is_followed
}

/// Whether a line of code gives a value to the name at `place`: it stands at the line's beginning, behind at
/// most its number and other such names.
fn is_assigned(text: &str, place: &Range<usize>) -> bool {
    let ahead = text[place.end..].trim_start_matches(' ');
    if !ahead.starts_with('=') || ahead.starts_with("==") {
        return false;
    }
    let Some(line) = code::before(text, place.start) else { return false };
    let listed =
        line.trim_start_matches(|c: char| c.is_whitespace() || c.is_ascii_digit() || ":-+".contains(c));
    listed.split(',').all(|part| part.trim().bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'))
}

/// Whether only code writes such a word: `two_words` or `TwoWords`.
fn is_compound(name: &str) -> bool {
    let parts = words(name);
    let letters =
        parts.iter().filter(|part| name[(*part).clone()].bytes().all(|byte| byte.is_ascii_alphabetic()));
    let small = name.bytes().any(|byte| byte.is_ascii_lowercase());
    letters.count() > 1 && small && !name.starts_with('_')
}

/// Whether people write such a word, too: small letters, the first one may be a capital.
fn is_plain(name: &str) -> bool {
    let rest = name.strip_prefix(|c: char| c.is_ascii_uppercase()).unwrap_or(name);
    !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_lowercase())
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

/// Where `text` shows what a command printed.
fn output(text: &str) -> Range<usize> {
    match (text.find("<output>"), text.rfind("</output>")) {
        (Some(start), Some(end)) if start < end => start..end,
        _ => 0..0,
    }
}

/// `text` with the `names` in it made of the words of `table`. An edit quotes what a command
/// printed at `output`: both are code.
fn replaced(
    text: &str,
    output: Range<usize>,
    names: &Names<'_>,
    table: &BTreeMap<String, &'static str>,
) -> String {
    let (mut new, mut at) = (String::with_capacity(text.len()), 0);
    let (mut ticks, mut counted) = (0, 0);
    for place in identifiers(text) {
        let name = &text[place.clone()];
        if !names.replaced.contains(name) {
            continue;
        }
        ticks += text[counted..place.start].matches('`').count();
        counted = place.start;
        // Between backticks everything is code.
        let is_code =
            ticks % 2 == 1 || output.contains(&place.start) || !is_plain(name) || name == names.project;
        if !is_pythons(text, &place, names) && (is_code || !is_prose(text, &place)) {
            new.push_str(&text[at..place.start]);
            rename(name, table, &mut new);
            at = place.end;
        }
    }
    new.push_str(&text[at..]);
    new
}

/// Whether the name at `place` belongs to Python here, though the code defines such a name: an
/// attribute that it does not define, one of a module of the library, a keyword argument.
fn is_pythons(text: &str, place: &Range<usize>, names: &Names<'_>) -> bool {
    let (name, behind, ahead) = (&text[place.clone()], &text[..place.start], &text[place.end..]);
    if behind.ends_with('.') {
        let chain = code::tail(behind).rsplit(|c: char| !is_part(c) && c != '.').next().unwrap_or_default();
        let module = chain.split('.').next().unwrap_or_default();
        let is_unknown = LIBRARY.contains(name) && !names.attributes.contains(name) && !is_own(behind);
        return is_unknown || names.library.contains(module);
    }
    ahead.starts_with('=')
        && !ahead.starts_with("==")
        && code::line(text, place).is_some_and(|(behind, _)| code::calls_python(behind))
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
            "ordinal",
            "origin",
            "target",
            "test_days_between",
        ];
        assert_eq!(found.replaced.into_iter().collect::<Vec<_>>(), expected);
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
            for name in names(&row.messages, &row.repo).replaced {
                *found.entry(name).or_default() += 1;
            }
        }
        // "To see the failure for myself"; `from pathlib import Path`, which a student shall write.
        for kept in ["Path", "an", "customer", "it", "lists", "long", "myself", "text", "the"] {
            assert!(!found.contains_key(kept), "{kept}");
        }
        for (name, least) in LEAST {
            assert!(found.get(name) >= Some(&least), "{name}: {:?} of {least}", found.get(name));
        }
        // 18,108, of which the projects' sources define 17,557. Source: counted with Python's `ast`.
        assert!(found.values().sum::<usize>() > 17_800, "{}", found.values().sum::<usize>());
    }

    /// Names, and in how many of the demo's trajectories they are replaced. Source: counted by a
    /// port to Python.
    const LEAST: [(&str, usize); 9] = [
        ("days_between", 18),
        ("item", 80),
        ("score", 33),
        ("Board", 20),
        ("line", 94),
        ("number", 123),
        ("other", 104),
        ("right", 78),
        ("value", 252),
    ];

    #[test]
    fn a_word_is_a_name_in_code_and_stays_in_sentences() {
        let messages = [
            said(
                MessageRole::User,
                "almanac: the value and the date are wrong, line by line.\n```python\nimport re\n\n\
                 def first(line, value, match):\n    re.match(line, value).start()\n    \
                 return sorted(value, key=match)\n\ndef key(date): return date\n```\n  \
                 File \"/usr/lib/python3.13/queue.py\", line 3, in first",
            ),
            said(MessageRole::Assistant, "THOUGHT: I read `line` line by line. result = value"),
        ];
        let found = names(&messages, "demo/almanac");
        let expected = ["almanac", "date", "first", "key", "line", "match", "value"];
        assert_eq!(found.replaced.iter().copied().collect::<Vec<_>>(), expected);
        let table: BTreeMap<_, _> = expected.map(|word| (word.to_owned(), "amber")).into_iter().collect();
        assert_eq!(
            replaced(&messages[0].content, 0..0, &found, &table),
            "amber: the value and the date are wrong, line by line.\n```python\nimport re\n\n\
             def amber(amber, amber, amber):\n    re.match(amber, amber).start()\n    \
             return sorted(amber, key=amber)\n\ndef amber(amber): return amber\n```\n  \
             File \"/usr/lib/python3.13/queue.py\", line 3, in amber",
        );
        assert_eq!(
            replaced(&messages[1].content, 0..0, &found, &table),
            "THOUGHT: I read `amber` line by line. result = amber",
        );
    }

    #[test]
    fn an_edit_quotes_what_was_shown() {
        let line = "\"\"\"Return the value of the board.\"\"\"";
        let messages = [
            said(MessageRole::User, &format!("<output>\ndef value(board):\n    {line}\n</output>")),
            said(MessageRole::Assistant, &format!("THOUGHT: the value.\n```bash\nsed 's/{line}//'\n```")),
        ];
        let copy = renamed(&messages, "demo/almanac", 1, "almanac-1", 1);
        let quoted = copy[1].content.split('/').nth(1).expect("a pattern");
        assert!(copy[0].content.contains(quoted), "{copy:?}");
        assert!(copy[1].content.contains("THOUGHT: the value."), "{copy:?}");
    }

    #[test]
    fn a_module_that_is_called_like_one_of_the_library_is_the_projects_if_its_file_is_there() {
        for (text, is_pythons) in [
            ("```python\nfrom queue import Segment\n```", true),
            ("queue.py\n```python\nfrom queue import Segment\n```", false),
            ("```python\nfrom line import Segment\n```", false),
            ("```python\nfrom pathlib import Segment\n```", true),
        ] {
            let messages = [said(MessageRole::User, text)];
            let found = names(&messages, "demo/almanac").replaced;
            assert_eq!(found.contains("Segment"), !is_pythons, "{text}");
            assert_eq!(found.contains("queue") || found.contains("line"), !is_pythons, "{text}");
        }
        assert!(LIBRARY.is_disjoint(&KEPT), "each word is in one list");
    }

    #[test]
    fn new_names_are_made_of_words_that_python_has_no_name_for() {
        let kept: BTreeSet<String> = KEPT.iter().map(|name| name.to_ascii_lowercase()).collect();
        let both: Vec<_> = WORDS.iter().filter(|word| kept.contains(**word)).collect();
        assert!(both.is_empty(), "a copy would call something `None` or `Exception`: {both:?}");
        assert!(WORDS.is_sorted_by(|one, next| one < next), "sorted, each word once");
        for word in WORDS.iter() {
            let is_small = word.bytes().all(|byte| byte.is_ascii_lowercase());
            assert!(is_small && (3..=14).contains(&word.len()), "{word:?}");
        }
    }

    #[test]
    fn any_text_is_survived() {
        for text in ["", "é=1", "_", "a", "def ", "def f(", "\n=\n", "ß_x = 3\nx", "<"] {
            let messages = [said(MessageRole::User, text)];
            assert_eq!(renamed(&messages, "", 1, "", 1).len(), 1);
        }
    }
}
