//! Calls of macros, functions and methods.

use std::cell::RefCell;
use std::rc::Rc;

use minijinja::machinery::ast::{self, CallArg, Expr};

use super::super::value::Val;
use super::super::{Failed, Limits, Res, methods};
use super::scope::{Loop, Macro, Scope};
use super::{Render, set_member};

/// Arguments of a call.
#[derive(Default)]
pub(in super::super) struct Args<'t> {
    pub(in super::super) positional: Vec<Val<'t>>,
    pub(in super::super) named: Vec<(&'t str, Val<'t>)>,
}

impl<'t> Args<'t> {
    /// Takes the argument `name`, which is also the positional one at `place`.
    pub(in super::super) fn take(&mut self, place: usize, name: &str) -> Option<Val<'t>> {
        if let Some(value) = self.positional.get(place) {
            return Some(value.clone());
        }
        let named = self.named.iter().position(|(known, _)| *known == name)?;
        Some(self.named.swap_remove(named).1)
    }

    /// Checks that there are at most `most` positional arguments, and no named one
    /// that was not taken.
    pub(in super::super) fn require_all_taken(&self, what: &str, most: usize) -> Res<()> {
        if self.positional.len() > most {
            return Err(Failed::new(format!("`{what}` takes no more than {most} arguments")));
        }
        match self.named.first() {
            Some((name, _)) => {
                Err(Failed::new(format!("`{what}` with the argument `{name}` is not supported")))
            }
            None => Ok(()),
        }
    }
}

impl<'t> Render<'t> {
    pub(super) fn args(&self, given: &'t [CallArg<'t>], scope: &Rc<Scope<'t>>) -> Res<Args<'t>> {
        let mut args = Args::default();
        for arg in given {
            match arg {
                CallArg::Pos(value) => args.positional.push(self.expr(value, scope)?),
                CallArg::Kwarg(name, value) => args.named.push((name, self.expr(value, scope)?)),
                CallArg::PosSplat(values) => {
                    let values = self.expr(values, scope)?;
                    args.positional.extend(values.items(&self.limits)?);
                }
                CallArg::KwargSplat(_) => return Err(Failed::new("`**` in a call is not supported")),
            }
        }
        Ok(args)
    }

    pub(super) fn call(
        &self,
        call: &'t ast::Call<'t>,
        scope: &Rc<Scope<'t>>,
        caller: Option<Val<'t>>,
    ) -> Res<Val<'t>> {
        let function = self.expr(&call.expr, scope)?;
        let args = self.args(&call.args, scope)?;
        match function {
            Val::Macro(called) => self.call_macro(&called, args, caller),
            _ if caller.is_some() => Err(Failed::new("only a macro is called with a block")),
            Val::Function(name) => self.call_function(name, args),
            Val::Method(method) => match &method.0 {
                Val::Loop(state) => call_loop(state, method.1, args, &self.limits),
                of => methods::call(of, method.1, args, &self.limits),
            },
            Val::Undefined(name) => {
                Err(Failed::new(format!("`{name}` is undefined, and so cannot be called")))
            }
            other => Err(Failed::new(format!("a {} cannot be called", other.kind()))),
        }
    }

    fn call_macro(
        &self,
        called: &Rc<Macro<'t>>,
        mut args: Args<'t>,
        caller: Option<Val<'t>>,
    ) -> Res<Val<'t>> {
        let declared = called.declared;
        let inner = Scope::within(&called.scope);
        let required = declared.args.len() - declared.defaults.len();
        for (place, target) in declared.args.iter().enumerate() {
            let Expr::Var(name) = target else {
                return Err(Failed::new("an argument of a macro has no name"));
            };
            let value = match (args.take(place, name.id), place.checked_sub(required)) {
                (Some(value), _) => value,
                (None, Some(default)) => self.expr(&declared.defaults[default], &inner)?,
                (None, None) => Val::undefined(name.id),
            };
            inner.set(name.id, value);
        }
        if let Some(caller) = caller.or_else(|| args.take(usize::MAX, "caller")) {
            inner.set("caller", caller);
        }
        args.require_all_taken(declared.name, declared.args.len())?;
        let mut text = String::new();
        self.block(&declared.body, &inner, &mut text)?;
        Ok(Val::str(text))
    }

    fn call_function(&self, name: &'static str, mut args: Args<'t>) -> Res<Val<'t>> {
        match name {
            "range" => {
                let bounds: Option<Vec<_>> = args.positional.iter().map(Val::int).collect();
                let (start, stop, step) = match bounds.as_deref() {
                    Some([stop]) => (0, *stop, 1),
                    Some([start, stop]) => (*start, *stop, 1),
                    Some([start, stop, step]) if *step != 0 && *step != i128::MIN => (*start, *stop, *step),
                    _ => return Err(Failed::new("`range` takes one to three whole numbers")),
                };
                // Jinja2's sandbox allows as many.
                const MOST: i128 = 100_000;
                let distance = if step > 0 { stop.saturating_sub(start) } else { start.saturating_sub(stop) };
                let length =
                    distance.max(0).div_euclid(step.abs()) + i128::from(distance.max(0) % step.abs() != 0);
                if length > MOST {
                    return Err(Failed::new(format!("a range has more than {MOST} items")));
                }
                self.limits.spend_items(length as usize)?;
                args.positional.clear();
                args.require_all_taken(name, 3)?;
                let items = (0..length).map(|index| Val::Int(start + index * step)).collect();
                Ok(Val::View("range", Rc::new(items)))
            }
            "namespace" | "dict" => {
                let mut members: Vec<(Rc<str>, Val<'t>)> = Vec::new();
                match &args.positional[..] {
                    [] => {}
                    [Val::Dict(items)] => {
                        for (key, value) in items.iter() {
                            let Val::Str(key) = key else {
                                return Err(Failed::new(format!(
                                    "`{name}` of keys that are no text is not supported"
                                )));
                            };
                            set_member(&mut members, key, value.clone());
                        }
                    }
                    _ => {
                        return Err(Failed::new(format!(
                            "`{name}` of a {} is not supported",
                            args.positional[0].kind()
                        )));
                    }
                }
                for (key, value) in args.named {
                    if name == "namespace" && key.starts_with('_') {
                        return Err(Failed::new("a namespace has no names that begin with `_`"));
                    }
                    set_member(&mut members, key, value);
                }
                Ok(if name == "namespace" {
                    let members = Rc::new(RefCell::new(members));
                    self.namespaces.borrow_mut().push(Rc::clone(&members));
                    Val::Namespace(members)
                } else {
                    Val::Dict(Rc::new(
                        members.into_iter().map(|(key, value)| (Val::Str(key), value)).collect(),
                    ))
                })
            }
            "raise_exception" => {
                let message = args.take(0, "message").unwrap_or_else(|| Val::str(""));
                Err(Failed::new(message.print(&self.limits)?.to_string()))
            }
            _ => {
                let format = args.take(0, "format");
                let Some(Val::Str(format)) = format else {
                    return Err(Failed::new("`strftime_now` takes a format"));
                };
                let Some(date) = self.date else {
                    let message = "the template asks for today's date (`strftime_now`), and none was given";
                    return Err(Failed { wants_date: true, ..Failed::new(message) });
                };
                date.strftime(&format).map(Val::str)
            }
        }
    }
}

fn call_loop<'t>(state: &Rc<Loop<'t>>, method: &str, args: Args<'t>, limits: &Limits) -> Res<Val<'t>> {
    args.require_all_taken(method, usize::MAX)?;
    if method == "cycle" {
        let items = &args.positional;
        let item = state.at.get().checked_rem(items.len()).and_then(|at| items.get(at).cloned());
        return item.ok_or_else(|| Failed::new("there is nothing to cycle through"));
    }
    let mut before = state.changed.borrow_mut();
    let same = match &*before {
        Some(before) => Val::all_equal(before, &args.positional, limits)?,
        None => false,
    };
    *before = Some(args.positional);
    Ok(Val::Bool(!same))
}
