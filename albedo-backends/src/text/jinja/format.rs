//! `'…' % values` and `'…'.format(…)`.

use std::iter::Peekable;
use std::str::Chars;

use super::value::{Val, float};
use super::{Failed, Limits, Res};

/// How one value is written.
#[derive(Debug, Default)]
struct Spec {
    fill: Option<char>,
    /// `<`, `>`, `^` or `=`.
    align: Option<char>,
    /// `+` or a space: what positive numbers begin with.
    sign: Option<char>,
    alternate: bool,
    zero: bool,
    grouped: bool,
    width: usize,
    precision: Option<usize>,
}

/// More than this is no width of a prompt's.
const MAX_WIDTH: usize = 10_000;

/// `format % values`.
pub(super) fn printf<'t>(format: &str, values: &Val<'t>, limits: &Limits) -> Res<Val<'t>> {
    let mut positional = match values {
        Val::Tuple(items) => items.to_vec(),
        other => vec![other.clone()],
    }
    .into_iter();
    let mut out = String::new();
    let mut rest = format.chars().peekable();
    let mut by_name = false;
    while let Some(c) = rest.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut named = None;
        if rest.next_if_eq(&'(').is_some() {
            let name: String = rest.by_ref().take_while(|&c| c != ')').collect();
            let Val::Dict(items) = values else { return Err(Failed::new("`%(name)s` wants a dict")) };
            let value = Val::entry(items, &Val::str(name.as_str()), limits)?;
            named = Some(value.ok_or_else(|| Failed::new(format!("`%({name})s` has no value")))?);
            by_name = true;
        }
        let mut spec = Spec::default();
        while let Some(flag) = rest.next_if(|c| matches!(c, '-' | '0' | '+' | ' ' | '#')) {
            match flag {
                '-' => spec.align = Some('<'),
                '0' => spec.zero = true,
                '+' => spec.sign = Some('+'),
                ' ' => spec.sign = spec.sign.or(Some(' ')),
                _ => spec.alternate = true,
            }
        }
        spec.width = number(&mut rest)?.unwrap_or(0);
        if rest.next_if_eq(&'.').is_some() {
            spec.precision = Some(number(&mut rest)?.unwrap_or(0));
        }
        let Some(kind) = rest.next() else { return Err(Failed::new("a format ends within a conversion")) };
        if kind == '%' {
            out.push('%');
            continue;
        }
        let value = match named {
            Some(value) => value,
            None => {
                positional.next().ok_or_else(|| Failed::new("a format has more conversions than values"))?
            }
        };
        // Printf's are to the right.
        spec.align =
            spec.align.or(Some(if spec.zero && !matches!(kind, 's' | 'r' | 'c') { '=' } else { '>' }));
        let text = match kind {
            's' => cut(&value.print(limits)?, spec.precision),
            'r' => {
                let mut text = String::new();
                value.repr(&mut text, limits, 0)?;
                cut(&text, spec.precision)
            }
            'd' | 'i' | 'u' => {
                let whole = value
                    .float()
                    .filter(|_| matches!(value, Val::Float(_)))
                    .map(|number| number.trunc() as i128);
                let whole = value.int().or(whole);
                whole.ok_or_else(|| unfit(kind, &value))?.to_string()
            }
            'x' | 'X' | 'o' => radix(value.int().ok_or_else(|| unfit(kind, &value))?, kind, spec.alternate),
            'f' | 'F' | 'e' | 'E' => {
                real(value.float().ok_or_else(|| unfit(kind, &value))?, kind, spec.precision)
            }
            'c' => match value.text() {
                Some(text) if text.chars().count() == 1 => text.to_owned(),
                _ => return Err(unfit(kind, &value)),
            },
            other => return Err(Failed::new(format!("the conversion `%{other}` is not supported"))),
        };
        let numeric = !matches!(kind, 's' | 'r' | 'c');
        padded(&text, &spec, numeric, &mut out, limits)?;
    }
    if !by_name && positional.next().is_some() && !matches!(values, Val::Dict(_)) {
        return Err(Failed::new("a format has fewer conversions than values"));
    }
    limits.spend(out.len())?;
    Ok(Val::str(out))
}

/// `format.format(*positional, **named)`.
pub(super) fn format<'t>(
    format: &str,
    positional: &[Val<'t>],
    named: &[(&str, Val<'t>)],
    limits: &Limits,
) -> Res<Val<'t>> {
    let mut out = String::new();
    let mut rest = format.chars().peekable();
    let mut next = 0;
    while let Some(c) = rest.next() {
        match c {
            '{' if rest.next_if_eq(&'{').is_some() => out.push('{'),
            '}' if rest.next_if_eq(&'}').is_some() => out.push('}'),
            '}' => return Err(Failed::new("a `}` of a format stands alone")),
            '{' => {
                let mut field = String::new();
                loop {
                    match rest.next() {
                        Some('}') => break,
                        Some('{') => return Err(Failed::new("a format inside a format is not supported")),
                        Some(c) => field.push(c),
                        None => return Err(Failed::new("a `{` of a format stands alone")),
                    }
                }
                let (field, spec) = field.split_once(':').unwrap_or((&field, ""));
                let (name, conversion) =
                    field.split_once('!').map_or((field, None), |(name, c)| (name, Some(c)));
                let value = if name.is_empty() {
                    next += 1;
                    positional.get(next - 1)
                } else if let Ok(index) = name.parse::<usize>() {
                    positional.get(index)
                } else if name.contains(['.', '[']) {
                    return Err(Failed::new("attributes inside a format are not supported"));
                } else {
                    named.iter().find(|(known, _)| *known == name).map(|(_, value)| value)
                };
                let value =
                    value.ok_or_else(|| Failed::new(format!("the format's `{name}` has no value")))?;
                let value = match conversion {
                    None => value.clone(),
                    Some("s") => Val::Str(value.print(limits)?),
                    Some("r") => {
                        let mut text = String::new();
                        value.repr(&mut text, limits, 0)?;
                        Val::str(text)
                    }
                    Some(other) => {
                        return Err(Failed::new(format!("the conversion `!{other}` is not supported")));
                    }
                };
                written(&value, spec, &mut out, limits)?;
            }
            c => out.push(c),
        }
    }
    limits.spend(out.len())?;
    Ok(Val::str(out))
}

/// Writes `value` as the format specification `text` says.
fn written(value: &Val<'_>, text: &str, out: &mut String, limits: &Limits) -> Res<()> {
    if text.is_empty() {
        let text = value.print(limits)?;
        limits.spend(text.len())?;
        out.push_str(&text);
        return Ok(());
    }
    let mut rest = text.chars().peekable();
    let mut spec = Spec::default();
    let mut ahead = rest.clone();
    let (first, second) = (ahead.next(), ahead.next());
    let is_align = |c: Option<char>| c.is_some_and(|c| matches!(c, '<' | '>' | '^' | '='));
    if is_align(second) {
        (spec.fill, spec.align) = (first, second);
        rest = ahead;
    } else if is_align(first) {
        spec.align = first;
        rest.next();
    }
    spec.sign = rest.next_if(|c| matches!(c, '+' | ' ' | '-')).filter(|&c| c != '-');
    spec.alternate = rest.next_if_eq(&'#').is_some();
    spec.zero = rest.next_if_eq(&'0').is_some();
    spec.width = number(&mut rest)?.unwrap_or(0);
    spec.grouped = rest.next_if_eq(&',').is_some();
    if rest.next_if_eq(&'.').is_some() {
        spec.precision = number(&mut rest)?;
    }
    let kind = rest.next();
    if rest.next().is_some() {
        return Err(Failed::new(format!("the format `{text}` is not supported")));
    }
    let unsupported = || Failed::new(format!("the format `{text}` of a {} is not supported", value.kind()));
    let (written, numeric) = match (value, kind) {
        (Val::Str(text), None | Some('s')) => (cut(text, spec.precision), false),
        (Val::Int(number), None | Some('d')) if spec.precision.is_none() => (number.to_string(), true),
        (Val::Int(number), Some(kind @ ('x' | 'X' | 'o'))) => (radix(*number, kind, spec.alternate), true),
        (Val::Int(_) | Val::Float(_), Some(kind @ ('f' | 'F' | 'e' | 'E'))) => {
            (real(value.float().unwrap_or(0.0), kind, spec.precision), true)
        }
        (Val::Float(number), None) if spec.precision.is_none() => (float(*number), true),
        _ => return Err(unsupported()),
    };
    if spec.zero && spec.align.is_none() {
        spec.align = Some(if numeric { '=' } else { '<' });
        spec.fill = Some('0');
    }
    spec.align = spec.align.or(Some(if numeric { '>' } else { '<' }));
    padded(&written, &spec, numeric, out, limits)
}

fn padded(text: &str, spec: &Spec, numeric: bool, out: &mut String, limits: &Limits) -> Res<()> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) if numeric => ("-".to_owned(), digits),
        _ if numeric => (spec.sign.map(String::from).unwrap_or_default(), text),
        _ => (String::new(), text),
    };
    let digits = if spec.grouped { grouped(digits) } else { digits.to_owned() };
    let length = sign.chars().count() + digits.chars().count();
    let missing = spec.width.saturating_sub(length);
    limits.spend(missing.saturating_add(text.len()))?;
    let zero = spec.zero && spec.align == Some('=');
    let fill = spec.fill.unwrap_or(if zero { '0' } else { ' ' });
    let fill = |count: usize| std::iter::repeat_n(fill, count).collect::<String>();
    match spec.align {
        Some('<') => out.extend([sign, digits, fill(missing)]),
        Some('^') => out.extend([fill(missing / 2), sign, digits, fill(missing - missing / 2)]),
        Some('=') => out.extend([sign, fill(missing), digits]),
        _ => out.extend([fill(missing), sign, digits]),
    }
    Ok(())
}

/// Commas between thousands.
fn grouped(digits: &str) -> String {
    let (whole, rest) = digits.split_at(digits.find('.').unwrap_or(digits.len()));
    let mut text = String::new();
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text + rest
}

fn number(rest: &mut Peekable<Chars<'_>>) -> Res<Option<usize>> {
    let mut number = None;
    while let Some(digit) = rest.next_if(char::is_ascii_digit) {
        number = Some(number.unwrap_or(0) * 10 + digit.to_digit(10).unwrap_or(0) as usize);
        if number > Some(MAX_WIDTH) {
            return Err(Failed::new("a format is too wide"));
        }
    }
    Ok(number)
}

fn cut(text: &str, precision: Option<usize>) -> String {
    match precision {
        Some(most) => text.chars().take(most).collect(),
        None => text.to_owned(),
    }
}

fn radix(number: i128, kind: char, alternate: bool) -> String {
    let sign = if number < 0 { "-" } else { "" };
    let number = number.unsigned_abs();
    let prefix = if alternate { format!("0{kind}") } else { String::new() };
    match kind {
        'x' => format!("{sign}{prefix}{number:x}"),
        'X' => format!("{sign}{prefix}{number:X}"),
        _ => format!("{sign}{prefix}{number:o}"),
    }
}

fn real(number: f64, kind: char, precision: Option<usize>) -> String {
    let precision = precision.unwrap_or(6);
    if !number.is_finite() {
        return float(number);
    }
    if matches!(kind, 'f' | 'F') {
        return format!("{number:.precision$}");
    }
    let text = format!("{number:.precision$e}");
    let (digits, power) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, power) = match power.strip_prefix('-') {
        Some(power) => ('-', power),
        None => ('+', power),
    };
    let text = format!("{digits}e{sign}{power:0>2}");
    if kind == 'E' { text.to_uppercase() } else { text }
}

fn unfit(kind: char, value: &Val<'_>) -> Failed {
    Failed::new(format!("`%{kind}` does not go with a {}", value.kind()))
}
