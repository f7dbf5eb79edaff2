//! Filters: `value | name`.

use std::rc::Rc;

use super::eval::{Args, Render};
use super::json::{Options, dumps};
use super::methods::{capitalized, lines, replaced, stripped};
use super::ops;
use super::value::Val;
use super::{Failed, Res};

mod lists;

/// Every filter of Jinja2 that is here.
const FILTERS: [&str; 46] = [
    "abs",
    "attr",
    "batch",
    "capitalize",
    "center",
    "count",
    "d",
    "default",
    "dictsort",
    "e",
    "escape",
    "first",
    "float",
    "format",
    "groupby",
    "indent",
    "int",
    "items",
    "join",
    "last",
    "length",
    "list",
    "lower",
    "map",
    "max",
    "min",
    "reject",
    "rejectattr",
    "replace",
    "reverse",
    "round",
    "safe",
    "select",
    "selectattr",
    "slice",
    "sort",
    "string",
    "sum",
    "title",
    "tojson",
    "trim",
    "truncate",
    "unique",
    "upper",
    "wordcount",
    "forceescape",
];

impl<'t> Render<'t> {
    /// `value | name(…)`.
    pub(super) fn filter(&self, name: &str, value: Val<'t>, mut args: Args<'t>) -> Res<Val<'t>> {
        if !FILTERS.contains(&name) {
            return Err(Failed::new(format!("the filter `{name}` is not supported")));
        }
        let limits = &self.limits;
        limits.step()?;
        limits.look(&value)?;
        let text = |value: &Val<'t>| value.print(limits);
        // Those that take any number, or whose arguments are those of others.
        match name {
            "map" => return self.map(&value, args),
            "select" | "reject" | "selectattr" | "rejectattr" => return self.select(name, &value, args),
            "format" => {
                let values = Val::Tuple(Rc::new(std::mem::take(&mut args.positional)));
                args.require_all_taken(name, 0)?;
                return super::format::printf(&text(&value)?, &values, limits);
            }
            _ => {}
        }
        let result = match name {
            "safe" => Val::Markup(text(&value)?),
            "escape" | "e" | "forceescape" => match &value {
                Val::Markup(_) if name != "forceescape" => value,
                other => {
                    let mut escaped = String::new();
                    for c in text(other)?.chars() {
                        match c {
                            '&' => escaped.push_str("&amp;"),
                            '<' => escaped.push_str("&lt;"),
                            '>' => escaped.push_str("&gt;"),
                            '\'' => escaped.push_str("&#39;"),
                            '"' => escaped.push_str("&#34;"),
                            c => escaped.push(c),
                        }
                    }
                    limits.spend(escaped.len())?;
                    Val::Markup(escaped.into())
                }
            },
            "string" => match value {
                Val::Markup(_) => value,
                other => Val::Str(text(&other)?),
            },
            "upper" => Val::str(text(&value)?.to_uppercase()),
            "lower" => Val::str(text(&value)?.to_lowercase()),
            "capitalize" => Val::str(capitalized(&text(&value)?)),
            "title" => Val::str(titled(&text(&value)?)),
            "trim" => {
                let what = match args.take(0, "chars") {
                    None | Some(Val::None) => None,
                    Some(chars) => Some(text(&chars)?),
                };
                Val::str(stripped(&text(&value)?, what.as_deref(), true, true))
            }
            "length" | "count" => Val::Int(value.length()? as i128),
            "default" | "d" => {
                let default = args.take(0, "default_value").unwrap_or_else(|| Val::str(""));
                let falsy = args.take(1, "boolean").is_some_and(|falsy| falsy.truth());
                if matches!(value, Val::Undefined(_)) || (falsy && !value.truth()) { default } else { value }
            }
            "list" => Val::list(value.items(limits)?),
            "first" => match &value {
                Val::Once(items) => items.borrow_mut().pop_front(),
                other => other.items(limits)?.into_iter().next(),
            }
            .unwrap_or_else(|| Val::undefined("the first of nothing")),
            "last" => match &value {
                Val::Once(_) | Val::View("range", _) => {
                    return Err(Failed::new(format!("the last of a {} is not supported", value.kind())));
                }
                other => other.items(limits)?.pop().unwrap_or_else(|| Val::undefined("the last of nothing")),
            },
            "join" => {
                let separator = match args.take(0, "d") {
                    None => Rc::from(""),
                    Some(separator) => text(&separator)?,
                };
                let mut items = value.items(limits)?;
                if let Some(attribute) = args.take(1, "attribute") {
                    items =
                        items.iter().map(|item| self.attribute_of(item, &attribute)).collect::<Res<_>>()?;
                }
                let parts: Vec<_> = items.iter().map(text).collect::<Res<_>>()?;
                limits.spend(parts.iter().map(|part| part.len() + separator.len()).sum())?;
                Val::str(parts.join(&separator))
            }
            "replace" => {
                let (Some(old), Some(new)) = (args.take(0, "old"), args.take(1, "new")) else {
                    return Err(Failed::new("`replace` takes two texts"));
                };
                let most = match args.take(2, "count") {
                    None | Some(Val::None) => None,
                    Some(most) => {
                        usize::try_from(most.int().ok_or_else(|| Failed::new("`replace` takes a number"))?)
                            .ok()
                    }
                };
                replaced(&text(&value)?, &text(&old)?, &text(&new)?, most, limits)?
            }
            "reverse" => match &value {
                Val::Str(reversed) => Val::str(reversed.chars().rev().collect::<String>()),
                Val::Dict(_) | Val::List(_) | Val::Tuple(_) | Val::View(..) | Val::Once(_) => {
                    let mut items = value.items(limits)?;
                    items.reverse();
                    Val::once(items)
                }
                other => return Err(Failed::new(format!("a {} cannot be reversed", other.kind()))),
            },
            "items" => match &value {
                Val::Undefined(_) => Val::once(Vec::new()),
                Val::Dict(items) => {
                    let pair = |(key, value): &(Val<'t>, Val<'t>)| {
                        Val::Tuple(Rc::new(vec![key.clone(), value.clone()]))
                    };
                    Val::once(items.iter().map(pair).collect())
                }
                other => return Err(Failed::new(format!("a {} has no items", other.kind()))),
            },
            "attr" => {
                let Some(Val::Str(name)) = args.take(0, "name") else {
                    return Err(Failed::new("`attr` takes a name"));
                };
                match self.attribute(&value, &name)? {
                    // Only attributes, no items.
                    _ if matches!(value, Val::Dict(_)) && super::methods::named(&value, &name).is_none() => {
                        Val::undefined(&name)
                    }
                    found => found,
                }
            }
            "int" => {
                let default = args.take(0, "default").unwrap_or(Val::Int(0));
                match (value.int(), &value) {
                    (Some(number), _) => Val::Int(number),
                    (None, Val::Float(number)) if number.is_finite() => Val::Int(number.trunc() as i128),
                    (None, Val::Str(text)) => {
                        let text = stripped(text, None, true, true).replace('_', "x");
                        let whole = text.parse::<i128>().ok();
                        let real = || {
                            text.parse::<f64>()
                                .ok()
                                .filter(|number| number.is_finite())
                                .map(|number| number.trunc() as i128)
                        };
                        whole.or_else(real).map_or(default, Val::Int)
                    }
                    (None, Val::Undefined(name)) => {
                        return Err(Failed::new(format!("`{name}` is undefined")));
                    }
                    _ => default,
                }
            }
            "float" => {
                let default = args.take(0, "default").unwrap_or(Val::Float(0.0));
                match (value.float(), &value) {
                    (Some(number), _) => Val::Float(number),
                    (None, Val::Str(text)) => {
                        let number = stripped(text, None, true, true).parse::<f64>().ok();
                        number.map_or(default, Val::Float)
                    }
                    (None, Val::Undefined(name)) => {
                        return Err(Failed::new(format!("`{name}` is undefined")));
                    }
                    _ => default,
                }
            }
            "abs" => match &value {
                Val::Float(number) => Val::Float(number.abs()),
                other => match other.int().map(i128::checked_abs) {
                    Some(Some(number)) => Val::Int(number),
                    Some(None) => return Err(Failed::new("a number is too large")),
                    None => return Err(Failed::new("`abs` takes a number")),
                },
            },
            "round" => self.round(&value, &mut args)?,
            "sum" => {
                let attribute = args.take(0, "attribute");
                let mut sum = args.take(1, "start").unwrap_or(Val::Int(0));
                for item in value.items(limits)? {
                    let item = match &attribute {
                        Some(attribute) => self.attribute_of(&item, attribute)?,
                        None => item,
                    };
                    sum = ops::binary(minijinja::machinery::ast::BinOpKind::Add, &sum, &item, limits)?;
                }
                sum
            }
            "min" | "max" => self.extreme(name, &value, &mut args)?,
            "sort" => self.sort(&value, &mut args)?,
            "dictsort" => self.dictsort(&value, &mut args)?,
            "unique" => self.unique(&value, &mut args)?,
            "groupby" => self.groupby(&value, &mut args)?,
            "batch" | "slice" => self.batch(name, &value, &mut args)?,
            "tojson" => {
                let truth = |value: Option<Val<'t>>| value.is_some_and(|value| value.truth());
                let options = Options {
                    ascii: truth(args.take(0, "ensure_ascii")),
                    indent: match args.take(1, "indent") {
                        None | Some(Val::None) => None,
                        Some(Val::Str(indent)) => Some(indent.to_string()),
                        Some(indent) => match indent.int() {
                            Some(indent) if indent <= 100 => Some(" ".repeat(indent.max(0) as usize)),
                            _ => return Err(Failed::new("`tojson` takes an indentation of at most 100")),
                        },
                    },
                    separators: match args.take(2, "separators") {
                        None | Some(Val::None) => None,
                        Some(pair) => match &pair.items(limits)?[..] {
                            [Val::Str(item), Val::Str(key)] => Some((item.to_string(), key.to_string())),
                            _ => return Err(Failed::new("`tojson` takes two separators")),
                        },
                    },
                    sorted: truth(args.take(3, "sort_keys")),
                };
                Val::str(dumps(&value, &options, limits)?)
            }
            "indent" => self.indent(&text(&value)?, &mut args)?,
            "center" => {
                let width = args.take(0, "width").map_or(Some(80), |width| width.int());
                let width = width.ok_or_else(|| Failed::new("`center` takes a width"))?;
                let args = Args { positional: vec![Val::Int(width)], named: Vec::new() };
                super::methods::call(&Val::Str(text(&value)?), "center", args, limits)?
            }
            "truncate" => self.truncate(&text(&value)?, &mut args)?,
            "wordcount" => {
                let text = text(&value)?;
                let words = text.split(|c: char| !(c.is_alphanumeric() || c == '_'));
                Val::Int(words.filter(|word| !word.is_empty()).count() as i128)
            }
            other => return Err(Failed::new(format!("the filter `{other}` is not supported"))),
        };
        args.require_all_taken(name, 5)?;
        match &result {
            Val::Str(text) => limits.spend(text.len())?,
            Val::List(items) => limits.spend_items(items.len())?,
            _ => {}
        }
        Ok(result)
    }

    /// `item` by a path such as `function.name`; whole numbers are indices.
    fn attribute_of(&self, item: &Val<'t>, path: &Val<'t>) -> Res<Val<'t>> {
        let Val::Str(path) = path else { return self.item(item, path) };
        path.split('.').try_fold(item.clone(), |item, part| match part.parse::<i128>() {
            Ok(index) => self.item(&item, &Val::Int(index)),
            Err(_) => self.item(&item, &Val::str(part)),
        })
    }

    fn map(&self, value: &Val<'t>, mut args: Args<'t>) -> Res<Val<'t>> {
        let items = value.items(&self.limits)?;
        self.limits.spend_items(items.len())?;
        if args.positional.is_empty() {
            let attribute = args
                .take(0, "attribute")
                .ok_or_else(|| Failed::new("`map` takes a filter or an attribute"))?;
            let default = args.take(1, "default");
            args.require_all_taken("map", 0)?;
            let found = items.iter().map(|item| {
                let found = self.attribute_of(item, &attribute)?;
                Ok(match (&found, &default) {
                    (Val::Undefined(_), Some(default)) => default.clone(),
                    _ => found,
                })
            });
            return Ok(Val::once(found.collect::<Res<_>>()?));
        }
        let filter = args.positional.remove(0);
        let Val::Str(filter) = filter else { return Err(Failed::new("`map` takes the name of a filter")) };
        let mapped = items.into_iter().map(|item| {
            let args = Args { positional: args.positional.clone(), named: args.named.clone() };
            self.filter(&filter, item, args)
        });
        Ok(Val::once(mapped.collect::<Res<_>>()?))
    }

    fn select(&self, name: &str, value: &Val<'t>, mut args: Args<'t>) -> Res<Val<'t>> {
        let items = value.items(&self.limits)?;
        self.limits.spend_items(items.len())?;
        let by_attribute = name.ends_with("attr");
        let attribute = if by_attribute {
            if args.positional.is_empty() {
                return Err(Failed::new(format!("`{name}` takes an attribute")));
            }
            Some(args.positional.remove(0))
        } else {
            None
        };
        let test = match args.positional.first() {
            None => None,
            Some(Val::Str(test)) => Some(Rc::clone(test)),
            Some(_) => return Err(Failed::new(format!("`{name}` takes the name of a test"))),
        };
        args.require_all_taken(name, usize::MAX)?;
        let rest = args.positional.get(1..).unwrap_or_default();
        let mut kept = Vec::new();
        for item in items {
            let looked_at = match &attribute {
                Some(attribute) => self.attribute_of(&item, attribute)?,
                None => item.clone(),
            };
            let holds = match &test {
                Some(test) => self.test(test, &looked_at, rest)?,
                None => looked_at.truth(),
            };
            if holds == name.starts_with("select") {
                kept.push(item);
            }
        }
        Ok(Val::once(kept))
    }

    fn round(&self, value: &Val<'t>, args: &mut Args<'t>) -> Res<Val<'t>> {
        self.limits.step()?;
        let number = value.float().ok_or_else(|| Failed::new("`round` takes a number"))?;
        let precision = args.take(0, "precision").map_or(Some(0), |precision| precision.int());
        let precision = precision.filter(|precision| (0..=15).contains(precision));
        let precision = precision.ok_or_else(|| Failed::new("`round` takes a precision of 0 to 15"))?;
        let factor = 10_f64.powi(precision as i32);
        Ok(match args.take(1, "method").as_ref().map(Val::text) {
            // To the nearest, as its decimal digits are; half to even.
            None | Some(Some("common")) if matches!(value, Val::Float(_)) => {
                let text = format!("{number:.*}", precision as usize);
                Val::Float(text.parse().unwrap_or(number))
            }
            None | Some(Some("common")) => value.clone(),
            Some(Some("ceil")) => Val::Float((number * factor).ceil() / factor),
            Some(Some("floor")) => Val::Float((number * factor).floor() / factor),
            _ => return Err(Failed::new("`round` knows common, ceil and floor")),
        })
    }

    fn indent(&self, text: &str, args: &mut Args<'t>) -> Res<Val<'t>> {
        let by = match args.take(0, "width") {
            None => "    ".to_owned(),
            Some(Val::Str(by)) => by.to_string(),
            Some(width) => match width.int() {
                Some(width) if width <= 1000 => " ".repeat(width.max(0) as usize),
                _ => return Err(Failed::new("`indent` takes a width of at most 1000")),
            },
        };
        let first = args.take(1, "first").is_some_and(|first| first.truth());
        let blank = args.take(2, "blank").is_some_and(|blank| blank.truth());
        let text = format!("{text}\n");
        let lines = lines(&text, false);
        self.limits.spend(text.len().saturating_add(lines.len().saturating_mul(by.len())))?;
        let mut indented = String::new();
        for (index, line) in lines.iter().enumerate() {
            if index > 0 {
                indented.push('\n');
            }
            if (index > 0 && (blank || !line.is_empty())) || (index == 0 && first) {
                indented.push_str(&by);
            }
            indented.push_str(line);
        }
        Ok(Val::str(indented))
    }

    fn truncate(&self, text: &str, args: &mut Args<'t>) -> Res<Val<'t>> {
        self.limits.step()?;
        let number = |value: Option<Val<'t>>, default: usize| match value {
            None | Some(Val::None) => Ok(default),
            Some(value) => value
                .int()
                .and_then(|number| usize::try_from(number).ok())
                .ok_or_else(|| Failed::new("`truncate` takes a whole number")),
        };
        let length = number(args.take(0, "length"), 255)?;
        let kill_words = args.take(1, "killwords").is_some_and(|kill| kill.truth());
        let end = match args.take(2, "end") {
            None => Rc::from("..."),
            Some(end) => end.print(&self.limits)?,
        };
        let leeway = number(args.take(3, "leeway"), 5)?;
        let chars: Vec<char> = text.chars().collect();
        let of_end = end.chars().count();
        if length < of_end {
            return Err(Failed::new("`truncate` takes a length that holds its end"));
        }
        if chars.len() <= length.saturating_add(leeway) {
            return Ok(Val::str(text));
        }
        let kept: String = chars[..length - of_end].iter().collect();
        let kept = if kill_words { &*kept } else { kept.rsplit_once(' ').map_or(&*kept, |(kept, _)| kept) };
        Ok(Val::str(format!("{kept}{end}")))
    }
}

/// Jinja2's `title`: capitals after white space and some signs only.
fn titled(text: &str) -> String {
    let mut titled = String::with_capacity(text.len());
    let mut begins = true;
    for c in text.chars() {
        if begins {
            titled.extend(c.to_uppercase());
        } else {
            titled.extend(c.to_lowercase());
        }
        begins = c.is_whitespace() || matches!(c, '-' | '(' | '{' | '[' | '<');
    }
    titled
}
