//! Methods of strings, dictionaries and lists.

use std::rc::Rc;

use super::eval::Args;
use super::format;
use super::value::Val;
use super::{Failed, Limits, Res};

const OF_TEXTS: [&str; 45] = [
    "capitalize",
    "casefold",
    "center",
    "count",
    "endswith",
    "find",
    "format",
    "index",
    "isalnum",
    "isalpha",
    "isascii",
    "isdecimal",
    "isdigit",
    "islower",
    "isnumeric",
    "isspace",
    "isupper",
    "join",
    "ljust",
    "lower",
    "lstrip",
    "partition",
    "removeprefix",
    "removesuffix",
    "replace",
    "rfind",
    "rindex",
    "rjust",
    "rpartition",
    "rsplit",
    "rstrip",
    "split",
    "splitlines",
    "startswith",
    "strip",
    "swapcase",
    "title",
    "upper",
    "zfill",
    // Known, so that they are refused and not taken to be undefined.
    "encode",
    "expandtabs",
    "format_map",
    "isidentifier",
    "isprintable",
    "translate",
];

const OF_DICTIONARIES: [&str; 11] = [
    "copy",
    "get",
    "items",
    "keys",
    "values",
    // Nothing may be changed.
    "clear",
    "fromkeys",
    "pop",
    "popitem",
    "setdefault",
    "update",
];

const OF_LISTS: [&str; 11] =
    ["copy", "count", "index", "append", "clear", "extend", "insert", "pop", "remove", "reverse", "sort"];

/// The method `name` of `value`, if Python has it.
pub(super) fn named(value: &Val<'_>, name: &str) -> Option<&'static str> {
    let methods: &'static [&'static str] = match value {
        Val::Str(_) | Val::Markup(_) => &OF_TEXTS,
        Val::Dict(_) => &OF_DICTIONARIES,
        Val::List(_) => &OF_LISTS,
        Val::Tuple(_) => &OF_LISTS[1..3],
        _ => &[],
    };
    methods.iter().copied().find(|known| *known == name)
}

/// `value.method(…)`.
pub(super) fn call<'t>(
    value: &Val<'t>,
    method: &'static str,
    mut args: Args<'t>,
    limits: &Limits,
) -> Res<Val<'t>> {
    limits.look(value)?;
    let result = match value {
        Val::Str(text) | Val::Markup(text) if method == "format" => {
            return format::format(text, &args.positional, &args.named, limits);
        }
        Val::Str(text) => of_text(text, method, &mut args, limits)?,
        Val::Dict(items) => of_dictionary(items, method, &mut args, limits)?,
        Val::List(items) | Val::Tuple(items) => of_list(items, method, &mut args, limits)?,
        other => return Err(Failed::new(format!("`{method}` of a {} is not supported", other.kind()))),
    };
    args.require_all_taken(method, 3)?;
    if let Val::Str(text) = &result {
        limits.spend(text.len())?;
    }
    Ok(result)
}

fn of_text<'t>(text: &Rc<str>, method: &'static str, args: &mut Args<'t>, limits: &Limits) -> Res<Val<'t>> {
    let wrong = |what: &str| Failed::new(format!("`{method}` takes {what}"));
    let chars = |found: Option<usize>| found.map(|at| text[..at].chars().count() as i128);
    // Of those that look within a part of the text.
    if matches!(method, "count" | "find" | "index" | "rfind" | "rindex") && args.positional.len() > 1 {
        return Err(Failed::new(format!("`{method}` within a part is not supported")));
    }
    let part = |args: &mut Args<'t>| match args.take(0, "sub") {
        Some(Val::Str(part)) => Ok(part),
        _ => Err(wrong("a text")),
    };
    Ok(match method {
        "upper" => Val::str(text.to_uppercase()),
        "lower" => Val::str(text.to_lowercase()),
        "casefold" if text.is_ascii() => Val::str(text.to_lowercase()),
        "capitalize" => Val::str(capitalized(text)),
        "title" => Val::str(titled(text)),
        "swapcase" => {
            let swap = |c: char| {
                if c.is_lowercase() {
                    c.to_uppercase().collect()
                } else {
                    c.to_lowercase().collect::<String>()
                }
            };
            Val::str(text.chars().map(swap).collect::<String>())
        }
        "strip" | "lstrip" | "rstrip" => {
            let what = match args.take(0, "chars") {
                None | Some(Val::None) => None,
                Some(Val::Str(chars)) => Some(chars),
                Some(_) => return Err(wrong("a text")),
            };
            Val::str(stripped(text, what.as_deref(), method != "rstrip", method != "lstrip"))
        }
        "split" | "rsplit" => {
            let separator = match args.take(0, "sep") {
                None | Some(Val::None) => None,
                Some(Val::Str(separator)) if !separator.is_empty() => Some(separator),
                Some(_) => return Err(wrong("a text that is not empty")),
            };
            let most = match args.take(1, "maxsplit") {
                None => None,
                Some(most) => usize::try_from(most.int().ok_or_else(|| wrong("a whole number"))?).ok(),
            };
            let parts = split(text, separator.as_deref(), most, method == "rsplit");
            limits.spend_items(parts.len())?;
            Val::list(parts.into_iter().map(Val::str).collect())
        }
        "splitlines" => {
            let keep = args.take(0, "keepends").is_some_and(|keep| keep.truth());
            let lines = lines(text, keep);
            limits.spend_items(lines.len())?;
            Val::list(lines.into_iter().map(Val::str).collect())
        }
        "replace" => {
            let (old, new) = (args.take(0, "old"), args.take(1, "new"));
            let (Some(Val::Str(old)), Some(Val::Str(new))) = (old, new) else {
                return Err(wrong("two texts"));
            };
            let most = match args.take(2, "count") {
                None => None,
                Some(most) => usize::try_from(most.int().ok_or_else(|| wrong("a whole number"))?).ok(),
            };
            replaced(text, &old, &new, most, limits)?
        }
        "startswith" | "endswith" => {
            let fits = |part: &str| {
                if method == "startswith" { text.starts_with(part) } else { text.ends_with(part) }
            };
            if args.positional.len() > 1 {
                return Err(Failed::new(format!("`{method}` within a part is not supported")));
            }
            match args.take(0, "prefix") {
                Some(Val::Str(part)) => Val::Bool(fits(&part)),
                Some(Val::Tuple(parts)) => {
                    let parts: Option<Vec<_>> = parts.iter().map(Val::text).collect();
                    Val::Bool(parts.ok_or_else(|| wrong("texts"))?.into_iter().any(fits))
                }
                _ => return Err(wrong("a text or a tuple of texts")),
            }
        }
        "find" => Val::Int(chars(text.find(&*part(args)?)).unwrap_or(-1)),
        "rfind" => Val::Int(chars(text.rfind(&*part(args)?)).unwrap_or(-1)),
        "index" | "rindex" => {
            let part = part(args)?;
            let found = if method == "index" { text.find(&*part) } else { text.rfind(&*part) };
            Val::Int(chars(found).ok_or_else(|| Failed::new("the text has no such part"))?)
        }
        "count" => {
            let part = part(args)?;
            let found = if part.is_empty() { text.chars().count() + 1 } else { text.matches(&*part).count() };
            Val::Int(found as i128)
        }
        "join" => {
            let items = args.take(0, "iterable").ok_or_else(|| wrong("texts"))?;
            let items = items.items(limits)?;
            let parts: Option<Vec<&str>> = items.iter().map(Val::text).collect();
            let parts = parts.ok_or_else(|| wrong("texts"))?;
            limits.spend(parts.iter().map(|part| part.len() + text.len()).sum())?;
            Val::str(parts.join(text))
        }
        "removeprefix" => Val::str(text.strip_prefix(&*part(args)?).unwrap_or(text)),
        "removesuffix" => Val::str(text.strip_suffix(&*part(args)?).unwrap_or(text)),
        "partition" | "rpartition" => {
            let part = part(args)?;
            let found =
                if method == "partition" { text.split_once(&*part) } else { text.rsplit_once(&*part) };
            let parts = match found {
                Some((before, after)) => [before, &part, after],
                None if method == "partition" => [text, "", ""],
                None => ["", "", text],
            };
            Val::Tuple(Rc::new(parts.map(Val::str).into()))
        }
        "ljust" | "rjust" | "center" | "zfill" => {
            let width =
                args.take(0, "width").and_then(|width| width.int()).ok_or_else(|| wrong("a width"))?;
            let fill = match args.take(1, "fillchar") {
                None if method == "zfill" => '0',
                None => ' ',
                Some(fill) => match fill.text().map(|fill| fill.chars().collect::<Vec<_>>()).as_deref() {
                    Some([fill]) => *fill,
                    _ => return Err(wrong("one character to fill with")),
                },
            };
            filled(text, usize::try_from(width).unwrap_or(0), fill, method, limits)?
        }
        "isdigit" | "isdecimal" | "isnumeric" if text.is_ascii() => all(text, |c| c.is_ascii_digit()),
        "isalpha" => all(text, char::is_alphabetic),
        "isalnum" => all(text, char::is_alphanumeric),
        "isspace" => all(text, is_space),
        "isascii" => Val::Bool(text.is_ascii()),
        "islower" => Val::Bool(text.chars().any(char::is_lowercase) && !text.chars().any(char::is_uppercase)),
        "isupper" => Val::Bool(text.chars().any(char::is_uppercase) && !text.chars().any(char::is_lowercase)),
        other => return Err(Failed::new(format!("`{other}` of such a text is not supported"))),
    })
}

fn of_dictionary<'t>(
    items: &Rc<Vec<(Val<'t>, Val<'t>)>>,
    method: &str,
    args: &mut Args<'t>,
    limits: &Limits,
) -> Res<Val<'t>> {
    Ok(match method {
        "get" => {
            let key = args.take(0, "key").ok_or_else(|| Failed::new("`get` takes a key"))?;
            let default = args.take(1, "default").unwrap_or(Val::None);
            Val::entry(items, &key, limits)?.unwrap_or(default)
        }
        "keys" => Val::View("dict_keys", Rc::new(items.iter().map(|(key, _)| key.clone()).collect())),
        "values" => Val::View("dict_values", Rc::new(items.iter().map(|(_, value)| value.clone()).collect())),
        "items" => {
            let pair =
                |(key, value): &(Val<'t>, Val<'t>)| Val::Tuple(Rc::new(vec![key.clone(), value.clone()]));
            Val::View("dict_items", Rc::new(items.iter().map(pair).collect()))
        }
        "copy" => Val::Dict(Rc::clone(items)),
        other => return Err(Failed::new(format!("`{other}` would change a dict, which nothing may"))),
    })
}

fn of_list<'t>(items: &Rc<Vec<Val<'t>>>, method: &str, args: &mut Args<'t>, limits: &Limits) -> Res<Val<'t>> {
    let item = |args: &mut Args<'t>| args.take(0, "value").ok_or_else(|| Failed::new("it takes an item"));
    Ok(match method {
        "count" => {
            let item = item(args)?;
            let mut count = 0;
            for known in items.iter() {
                count += i128::from(known.equals(&item, limits)?);
            }
            Val::Int(count)
        }
        "index" => {
            let item = item(args)?;
            let place = Val::place(items, &item, limits)?;
            Val::Int(place.ok_or_else(|| Failed::new("the list has no such item"))? as i128)
        }
        "copy" => Val::List(Rc::clone(items)),
        other => return Err(Failed::new(format!("`{other}` would change a list, which nothing may"))),
    })
}

/// What Python's `strip` takes away.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\u{1c}'..='\u{1f}')
}

pub(super) fn stripped<'a>(text: &'a str, what: Option<&str>, left: bool, right: bool) -> &'a str {
    let away = |c: char| what.map_or_else(|| is_space(c), |what| what.contains(c));
    let text = if left { text.trim_start_matches(away) } else { text };
    if right { text.trim_end_matches(away) } else { text }
}

fn split<'a>(text: &'a str, separator: Option<&str>, most: Option<usize>, from_right: bool) -> Vec<&'a str> {
    let most = most.unwrap_or(usize::MAX).saturating_add(1);
    let Some(separator) = separator else { return words(text, most, from_right) };
    if from_right {
        let mut parts: Vec<_> = text.rsplitn(most, separator).collect();
        parts.reverse();
        return parts;
    }
    text.splitn(most, separator).collect()
}

/// Words between white space; what is left over keeps its own.
fn words(text: &str, most: usize, from_right: bool) -> Vec<&str> {
    let mut words = Vec::new();
    let mut rest = text;
    loop {
        rest = if from_right { rest.trim_end_matches(is_space) } else { rest.trim_start_matches(is_space) };
        if rest.is_empty() {
            break;
        }
        if words.len() + 1 == most {
            words.push(if from_right {
                rest.trim_start_matches(is_space)
            } else {
                rest.trim_end_matches(is_space)
            });
            // Python keeps the white space at the far end.
            if let Some(last) = words.last_mut() {
                *last = rest;
            }
            break;
        }
        let end = if from_right {
            rest.char_indices().rev().find(|(_, c)| is_space(*c)).map(|(at, c)| at + c.len_utf8())
        } else {
            rest.find(is_space)
        };
        let Some(end) = end else {
            words.push(rest);
            break;
        };
        let (head, tail) = rest.split_at(end);
        let (word, left) = if from_right { (tail, head) } else { (head, tail) };
        words.push(word);
        rest = left;
    }
    if from_right {
        words.reverse();
    }
    words
}

/// Lines, as Python ends them.
pub(super) fn lines(text: &str, keep: bool) -> Vec<&str> {
    let mut lines = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let ends = |c: char| {
            matches!(
                c,
                '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}'
            )
        };
        let Some(at) = rest.find(ends) else {
            lines.push(rest);
            break;
        };
        let end = if rest[at..].starts_with("\r\n") {
            at + 2
        } else {
            at + rest[at..].chars().next().map_or(1, char::len_utf8)
        };
        lines.push(if keep { &rest[..end] } else { &rest[..at] });
        rest = &rest[end..];
    }
    lines
}

pub(super) fn replaced<'t>(
    text: &str,
    old: &str,
    new: &str,
    most: Option<usize>,
    limits: &Limits,
) -> Res<Val<'t>> {
    let found = if old.is_empty() { text.chars().count() + 1 } else { text.matches(old).count() };
    let times = most.map_or(found, |most| most.min(found));
    limits.spend(text.len() + times.saturating_mul(new.len()))?;
    Ok(Val::str(text.replacen(old, new, times)))
}

fn filled<'t>(text: &str, width: usize, fill: char, method: &str, limits: &Limits) -> Res<Val<'t>> {
    let missing = width.saturating_sub(text.chars().count());
    limits.spend(missing.saturating_mul(fill.len_utf8()))?;
    let pad = |count: usize| std::iter::repeat_n(fill, count).collect::<String>();
    Ok(Val::str(match method {
        "ljust" => format!("{text}{}", pad(missing)),
        "rjust" => format!("{}{text}", pad(missing)),
        "zfill" => match text.strip_prefix(['+', '-']) {
            Some(digits) => format!("{}{}{digits}", &text[..1], pad(missing)),
            None => format!("{}{text}", pad(missing)),
        },
        // The odd one goes to the left of a text of odd width.
        _ => {
            let left = missing / 2 + (missing & width & 1);
            format!("{}{text}{}", pad(left), pad(missing - left))
        }
    }))
}

pub(super) fn capitalized(text: &str) -> String {
    let mut chars = text.chars();
    let first: String = chars.next().map(|c| c.to_uppercase().collect()).unwrap_or_default();
    first + &chars.as_str().to_lowercase()
}

/// Python's `title`: every letter after one that is none is a capital.
fn titled(text: &str) -> String {
    let mut titled = String::with_capacity(text.len());
    let mut within = false;
    for c in text.chars() {
        if within {
            titled.extend(c.to_lowercase());
        } else {
            titled.extend(c.to_uppercase());
        }
        within = c.is_lowercase() || c.is_uppercase();
    }
    titled
}

fn all<'t>(text: &str, is: impl Fn(char) -> bool) -> Val<'t> {
    Val::Bool(!text.is_empty() && text.chars().all(is))
}
