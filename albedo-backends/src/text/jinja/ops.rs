//! Arithmetic, slices and subscripts, as Python has them.

use std::rc::Rc;

use minijinja::machinery::ast::BinOpKind;

use super::format::printf;
use super::value::Val;
use super::{Failed, Limits, Res};

/// `left op right` for operators that look at both sides.
pub(super) fn binary<'t>(op: BinOpKind, left: &Val<'t>, right: &Val<'t>, limits: &Limits) -> Res<Val<'t>> {
    use std::cmp::Ordering::{Greater, Less};
    for side in [left, right] {
        if let Val::Undefined(name) = side
            && !matches!(op, BinOpKind::Eq | BinOpKind::Ne | BinOpKind::In | BinOpKind::Concat)
        {
            return Err(Failed::new(format!("`{name}` is undefined")));
        }
    }
    Ok(match op {
        BinOpKind::Eq => Val::Bool(left.equals(right, limits)?),
        BinOpKind::Ne => Val::Bool(!left.equals(right, limits)?),
        BinOpKind::Lt => Val::Bool(left.order(right, limits)? == Less),
        BinOpKind::Lte => Val::Bool(left.order(right, limits)? != Greater),
        BinOpKind::Gt => Val::Bool(left.order(right, limits)? == Greater),
        BinOpKind::Gte => Val::Bool(left.order(right, limits)? != Less),
        BinOpKind::In => Val::Bool(right.holds(left, limits)?),
        BinOpKind::Concat => {
            let (left, right) = (left.print(limits)?, right.print(limits)?);
            joined(&left, &right, limits)?
        }
        BinOpKind::Add => match (left, right) {
            (Val::Str(left), Val::Str(right)) => joined(left, right, limits)?,
            (Val::List(left), Val::List(right)) => Val::list(chained(left, right, limits)?),
            (Val::Tuple(left), Val::Tuple(right)) => Val::Tuple(Rc::new(chained(left, right, limits)?)),
            _ => number("+", left, right, i128::checked_add, |left, right| left + right)?,
        },
        BinOpKind::Sub => number("-", left, right, i128::checked_sub, |left, right| left - right)?,
        BinOpKind::Mul => match (left, right) {
            (Val::Str(_) | Val::List(_) | Val::Tuple(_), _) if right.int().is_some() => {
                repeated(left, right.int().unwrap_or(0), limits)?
            }
            (_, Val::Str(_) | Val::List(_) | Val::Tuple(_)) if left.int().is_some() => {
                repeated(right, left.int().unwrap_or(0), limits)?
            }
            _ => number("*", left, right, i128::checked_mul, |left, right| left * right)?,
        },
        BinOpKind::Div => {
            let (Some(one), Some(other)) = (left.float(), right.float()) else {
                return Err(unfit("/", left, right));
            };
            if other == 0.0 {
                return Err(Failed::new("division by zero"));
            }
            Val::Float(one / other)
        }
        BinOpKind::FloorDiv => {
            divided(left, right, "//", i128::div_euclid, |one, other| (one / other).floor())?
        }
        BinOpKind::Rem => match left {
            Val::Str(format) => printf(format, right, limits)?,
            _ => {
                divided(left, right, "%", i128::rem_euclid, |one, other| one - other * (one / other).floor())?
            }
        },
        BinOpKind::Pow => power(left, right)?,
        BinOpKind::ScAnd | BinOpKind::ScOr => {
            return Err(Failed::new("`and` and `or` look at one side first"));
        }
    })
}

/// `-value`.
pub(super) fn negated<'t>(value: &Val<'t>) -> Res<Val<'t>> {
    match value {
        Val::Float(number) => Ok(Val::Float(-number)),
        other => match other.int().and_then(i128::checked_neg) {
            Some(number) => Ok(Val::Int(number)),
            None => Err(Failed::new(format!("`-` does not go with a {}", other.kind()))),
        },
    }
}

fn joined<'t>(left: &str, right: &str, limits: &Limits) -> Res<Val<'t>> {
    limits.spend(left.len() + right.len())?;
    Ok(Val::str([left, right].concat()))
}

fn chained<'t>(left: &[Val<'t>], right: &[Val<'t>], limits: &Limits) -> Res<Vec<Val<'t>>> {
    limits.spend_items(left.len() + right.len())?;
    Ok([left, right].concat())
}

fn repeated<'t>(value: &Val<'t>, times: i128, limits: &Limits) -> Res<Val<'t>> {
    let times = usize::try_from(times.max(0)).unwrap_or(usize::MAX);
    match value {
        Val::Str(text) => {
            limits.spend(text.len().saturating_mul(times))?;
            Ok(Val::str(text.repeat(times)))
        }
        Val::List(items) | Val::Tuple(items) if items.is_empty() => Ok(value.clone()),
        Val::List(items) | Val::Tuple(items) => {
            limits.spend_items(items.len().saturating_mul(times))?;
            let all = std::iter::repeat_n(&**items, times).flatten().cloned();
            let items = Rc::new(all.collect());
            Ok(if matches!(value, Val::List(_)) { Val::List(items) } else { Val::Tuple(items) })
        }
        other => Err(Failed::new(format!("a {} cannot be repeated", other.kind()))),
    }
}

fn unfit(op: &str, left: &Val<'_>, right: &Val<'_>) -> Failed {
    Failed::new(format!("`{op}` does not go with a {} and a {}", left.kind(), right.kind()))
}

fn number<'t>(
    op: &str,
    left: &Val<'t>,
    right: &Val<'t>,
    whole: impl Fn(i128, i128) -> Option<i128>,
    real: impl Fn(f64, f64) -> f64,
) -> Res<Val<'t>> {
    if let (Some(left), Some(right)) = (left.int(), right.int()) {
        return whole(left, right).map(Val::Int).ok_or_else(|| Failed::new("a number is too large"));
    }
    let both = left.float().zip(right.float());
    both.map(|(left, right)| Val::Float(real(left, right))).ok_or_else(|| unfit(op, left, right))
}

/// Division that rounds down, and what it leaves: both have the divisor's sign.
fn divided<'t>(
    left: &Val<'t>,
    right: &Val<'t>,
    op: &str,
    whole: impl Fn(i128, i128) -> i128,
    real: impl Fn(f64, f64) -> f64,
) -> Res<Val<'t>> {
    if right.float() == Some(0.0) {
        return Err(Failed::new("division by zero"));
    }
    match (left.int(), right.int()) {
        (Some(_), Some(right)) if right == i128::MIN => Err(Failed::new("a number is too large")),
        // Rounding to the divisor's side is rounding down once it is positive.
        (Some(left), Some(right)) if right < 0 => {
            let left = left.checked_neg().ok_or_else(|| Failed::new("a number is too large"))?;
            let result = whole(left, -right);
            Ok(Val::Int(if op == "%" { -result } else { result }))
        }
        (Some(left), Some(right)) => Ok(Val::Int(whole(left, right))),
        _ => {
            let both = left.float().zip(right.float());
            both.map(|(left, right)| Val::Float(real(left, right))).ok_or_else(|| unfit(op, left, right))
        }
    }
}

fn power<'t>(left: &Val<'t>, right: &Val<'t>) -> Res<Val<'t>> {
    match (left.int(), right.int()) {
        (Some(base), Some(exponent)) if exponent >= 0 => {
            let exponent = u32::try_from(exponent).ok();
            let result = exponent.and_then(|exponent| base.checked_pow(exponent));
            result.map(Val::Int).ok_or_else(|| Failed::new("a number is too large"))
        }
        _ => {
            let both = left.float().zip(right.float());
            both.map(|(left, right)| Val::Float(left.powf(right))).ok_or_else(|| unfit("**", left, right))
        }
    }
}

/// `items[start:stop:step]`.
pub(super) fn slice<'t>(
    value: &Val<'t>,
    [start, stop, step]: [Option<i128>; 3],
    limits: &Limits,
) -> Res<Val<'t>> {
    let length = match value {
        Val::Str(_) | Val::Markup(_) | Val::List(_) | Val::Tuple(_) => value.length()? as i128,
        other => return Err(Failed::new(format!("a {} has no slices", other.kind()))),
    };
    limits.look(value)?;
    let step = step.unwrap_or(1);
    if step == 0 {
        return Err(Failed::new("the step of a slice is 0"));
    }
    let bound = |bound: Option<i128>, default: i128| {
        let (lowest, highest) = if step > 0 { (0, length) } else { (-1, length - 1) };
        match bound {
            None => default,
            Some(bound) if bound < 0 => bound.saturating_add(length).clamp(lowest, highest),
            Some(bound) => bound.clamp(lowest, highest),
        }
    };
    let (mut at, end) = if step > 0 {
        (bound(start, 0), bound(stop, length))
    } else {
        (bound(start, length - 1), bound(stop, -1))
    };
    let mut places = Vec::new();
    while (step > 0 && at < end) || (step < 0 && at > end) {
        places.push(at as usize);
        at = at.saturating_add(step);
    }
    limits.spend_items(places.len())?;
    Ok(match value {
        Val::List(items) => Val::list(places.into_iter().map(|place| items[place].clone()).collect()),
        Val::Tuple(items) => {
            Val::Tuple(Rc::new(places.into_iter().map(|place| items[place].clone()).collect()))
        }
        other => {
            let chars: Vec<char> = other.text().unwrap_or_default().chars().collect();
            Val::str(places.into_iter().map(|place| chars[place]).collect::<String>())
        }
    })
}

/// The item at `index`, from the end if it is negative.
pub(super) fn at<'t>(value: &Val<'t>, index: i128, limits: &Limits) -> Res<Option<Val<'t>>> {
    limits.look(value)?;
    let Ok(length) = value.length() else { return Ok(None) };
    let Ok(index) = usize::try_from(if index < 0 { index + length as i128 } else { index }) else {
        return Ok(None);
    };
    Ok(match value {
        Val::List(items) | Val::Tuple(items) | Val::View("range", items) => items.get(index).cloned(),
        Val::Str(text) | Val::Markup(text) => text.chars().nth(index).map(|c| Val::str(c.to_string())),
        _ => None,
    })
}
