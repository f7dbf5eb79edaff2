//! What `value is name` asks: Jinja2's tests.

use super::eval::Render;
use super::ops;
use super::value::Val;
use super::{Failed, Res};

impl<'t> Render<'t> {
    /// Whether `value is name(…)`.
    pub(super) fn test(&self, name: &str, value: &Val<'t>, args: &[Val<'t>]) -> Res<bool> {
        use minijinja::machinery::ast::BinOpKind::{Eq, Gt, Gte, In, Lt, Lte, Ne};
        self.limits.step()?;
        let cased = |is: fn(char) -> bool, not: fn(char) -> bool| -> Res<bool> {
            let text = value.print(&self.limits)?;
            self.limits.look(value)?;
            Ok(text.chars().any(is) && !text.chars().any(not))
        };
        let compared = |op| match args {
            [other] => Ok(ops::binary(op, value, other, &self.limits)?.truth()),
            _ => Err(Failed::new(format!("the test `{name}` takes one value"))),
        };
        let whole =
            || value.int().ok_or_else(|| Failed::new(format!("the test `{name}` takes a whole number")));
        let takes_none = !matches!(
            name,
            "divisibleby"
                | "sameas"
                | "eq"
                | "equalto"
                | "=="
                | "ne"
                | "!="
                | "lt"
                | "lessthan"
                | "<"
                | "le"
                | "<="
                | "gt"
                | "greaterthan"
                | ">"
                | "ge"
                | ">="
                | "in"
                | "filter"
                | "test"
        );
        if takes_none && !args.is_empty() {
            return Err(Failed::new(format!("the test `{name}` takes no value")));
        }
        Ok(match name {
            "defined" => !matches!(value, Val::Undefined(_)),
            "undefined" => matches!(value, Val::Undefined(_)),
            "none" => matches!(value, Val::None),
            "boolean" => matches!(value, Val::Bool(_)),
            "true" => matches!(value, Val::Bool(true)),
            "false" => matches!(value, Val::Bool(false)),
            "integer" => matches!(value, Val::Int(_)),
            "float" => matches!(value, Val::Float(_)),
            // True is a number to Python.
            "number" => matches!(value, Val::Int(_) | Val::Float(_) | Val::Bool(_)),
            "string" => value.text().is_some(),
            "mapping" => matches!(value, Val::Dict(_)),
            "sequence" => {
                matches!(
                    value,
                    Val::Str(_)
                        | Val::Markup(_)
                        | Val::List(_)
                        | Val::Tuple(_)
                        | Val::Dict(_)
                        | Val::View("range", _)
                ) || matches!(value, Val::Undefined(_))
            }
            "iterable" => matches!(
                value,
                Val::Undefined(_)
                    | Val::Str(_)
                    | Val::Markup(_)
                    | Val::List(_)
                    | Val::Tuple(_)
                    | Val::Dict(_)
                    | Val::View(..)
                    | Val::Once(_)
                    | Val::Loop(_)
            ),
            "callable" => {
                matches!(value, Val::Macro(_) | Val::Function(_) | Val::Method(_) | Val::Undefined(_))
            }
            "escaped" => matches!(value, Val::Markup(_)),
            "lower" => cased(char::is_lowercase, char::is_uppercase)?,
            "upper" => cased(char::is_uppercase, char::is_lowercase)?,
            "odd" => whole()?.rem_euclid(2) == 1,
            "even" => whole()?.rem_euclid(2) == 0,
            "divisibleby" => match args.first().and_then(Val::int) {
                // The remainder by -1 would overflow for the lowest number.
                Some(by) if by != 0 => by == -1 || whole()? % by == 0,
                _ => return Err(Failed::new("the test `divisibleby` takes a number other than 0")),
            },
            "sameas" => match (value, args) {
                (Val::None, [Val::None]) => true,
                (Val::Bool(one), [Val::Bool(other)]) => one == other,
                (Val::None | Val::Bool(_), [_]) | (_, [Val::None | Val::Bool(_)]) => false,
                _ => return Err(Failed::new("the test `sameas` of such values is not supported")),
            },
            "eq" | "equalto" | "==" => compared(Eq)?,
            "ne" | "!=" => compared(Ne)?,
            "lt" | "lessthan" | "<" => compared(Lt)?,
            "le" | "<=" => compared(Lte)?,
            "gt" | "greaterthan" | ">" => compared(Gt)?,
            "ge" | ">=" => compared(Gte)?,
            "in" => compared(In)?,
            other => return Err(Failed::new(format!("the test `{other}` is not supported"))),
        })
    }
}
