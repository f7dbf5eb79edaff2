//! Statements and expressions.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use minijinja::machinery::ast::{self, BinOpKind, CompareOpKind, Expr, Stmt, UnaryOpKind};
use minijinja::value::ValueKind;

use super::value::{Members, Val};
use super::{Date, Failed, Limits, MAX_DEPTH, MAX_OUTPUT, Res, methods, ops};

mod calls;
mod scope;

pub(super) use calls::Args;
use scope::Scope;
pub(super) use scope::{Loop, Macro};

/// Evaluations that lie in each other: what a thread's stack holds.
const MAX_NESTED: u32 = 250;

/// One rendering.
pub(super) struct Render<'t> {
    pub(super) limits: Limits,
    source: &'t str,
    date: Option<Date>,
    nested: Cell<u32>,
    /// Scopes that hold macros, which hold them: to be taken apart in the end.
    holding: RefCell<Vec<Rc<Scope<'t>>>>,
    /// Namespaces, which can hold themselves: likewise.
    namespaces: RefCell<Vec<Rc<RefCell<Members<'t>>>>>,
}

impl Drop for Render<'_> {
    fn drop(&mut self) {
        for scope in self.holding.take() {
            scope.variables.take();
        }
        for namespace in self.namespaces.take() {
            namespace.take();
        }
    }
}

/// How a block ended.
enum Flow {
    On,
    Break,
    Continue,
}

impl<'t> Render<'t> {
    pub(super) fn new(source: &'t str, date: Option<Date>) -> Self {
        Self {
            limits: Limits::new(),
            source,
            date,
            nested: Cell::new(0),
            holding: RefCell::default(),
            namespaces: RefCell::default(),
        }
    }

    /// The text of a whole template.
    pub(super) fn template(&self, body: &'t [Stmt<'t>], context: Vec<(&'t str, Val<'t>)>) -> Res<String> {
        let scope = Rc::new(Scope { variables: RefCell::new(context), outer: None });
        let mut out = String::new();
        self.block(body, &scope, &mut out)?;
        Ok(out)
    }

    fn block(&self, body: &'t [Stmt<'t>], scope: &Rc<Scope<'t>>, out: &mut String) -> Res<Flow> {
        for statement in body {
            match self.statement(statement, scope, out)? {
                Flow::On => {}
                ended => return Ok(ended),
            }
        }
        Ok(Flow::On)
    }

    fn write(&self, text: &str, out: &mut String) -> Res<()> {
        self.limits.spend(text.len())?;
        if out.len() + text.len() > MAX_OUTPUT {
            return Err(Failed::new(format!("what it writes has more than {MAX_OUTPUT} bytes")));
        }
        out.push_str(text);
        Ok(())
    }

    /// Runs `work` one level deeper.
    fn deeper<T>(&self, work: impl FnOnce() -> Res<T>) -> Res<T> {
        self.limits.step()?;
        let nested = self.nested.get() + 1;
        if nested > MAX_NESTED {
            return Err(Failed::new("it is nested too deeply"));
        }
        self.nested.set(nested);
        let result = work();
        self.nested.set(nested - 1);
        result
    }

    fn statement(&self, statement: &'t Stmt<'t>, scope: &Rc<Scope<'t>>, out: &mut String) -> Res<Flow> {
        self.deeper(|| match statement {
            Stmt::EmitRaw(raw) => self.write(raw.raw, out).map(|()| Flow::On),
            Stmt::EmitExpr(emit) => {
                let line = emit.span().start_line;
                let value = self.expr(&emit.expr, scope).map_err(|error| error.at(line))?;
                let text = value.print(&self.limits).map_err(|error| error.at(line))?;
                self.write(&text, out).map_err(|error| error.at(line))?;
                Ok(Flow::On)
            }
            Stmt::IfCond(cond) => {
                let line = cond.span().start_line;
                let truth = self.expr(&cond.expr, scope).map_err(|error| error.at(line))?.truth();
                self.block(if truth { &cond.true_body } else { &cond.false_body }, scope, out)
            }
            Stmt::ForLoop(looping) => {
                let line = looping.span().start_line;
                self.for_loop(looping, scope, out).map_err(|error| error.at(line))
            }
            Stmt::WithBlock(with) => {
                let inner = Scope::within(scope);
                for (target, value) in &with.assignments {
                    // Values are those of the scope outside.
                    self.assign(target, self.expr(value, scope)?, &inner)?;
                }
                self.block(&with.body, &inner, out)
            }
            Stmt::Set(set) => {
                let line = set.span().start_line;
                let value = self.expr(&set.expr, scope).map_err(|error| error.at(line))?;
                self.assign(&set.target, value, scope).map_err(|error| error.at(line))?;
                Ok(Flow::On)
            }
            Stmt::SetBlock(set) => {
                let mut text = String::new();
                let flow = self.block(&set.body, &Scope::within(scope), &mut text)?;
                let mut value = Val::str(text);
                if let Some(filter) = &set.filter {
                    value = self.filtered(filter, value, scope)?;
                }
                self.assign(&set.target, value, scope)?;
                Ok(flow)
            }
            Stmt::FilterBlock(block) => {
                let mut text = String::new();
                let flow = self.block(&block.body, &Scope::within(scope), &mut text)?;
                let value = self.filtered(&block.filter, Val::str(text), scope)?;
                self.write(&value.print(&self.limits)?, out)?;
                Ok(flow)
            }
            Stmt::Macro(declared) => {
                let value = Val::Macro(Rc::new(Macro { declared, scope: Rc::clone(scope) }));
                scope.set(declared.name, value);
                self.holding.borrow_mut().push(Rc::clone(scope));
                Ok(Flow::On)
            }
            Stmt::CallBlock(block) => {
                let line = block.span().start_line;
                let caller =
                    Val::Macro(Rc::new(Macro { declared: &block.macro_decl, scope: Rc::clone(scope) }));
                let value = self.call(&block.call, scope, Some(caller)).map_err(|error| error.at(line))?;
                self.write(&value.print(&self.limits)?, out)?;
                Ok(Flow::On)
            }
            Stmt::Continue(_) => Ok(Flow::Continue),
            Stmt::Break(_) => Ok(Flow::Break),
            Stmt::Template(_)
            | Stmt::AutoEscape(_)
            | Stmt::Block(_)
            | Stmt::Import(_)
            | Stmt::FromImport(_)
            | Stmt::Extends(_)
            | Stmt::Include(_)
            | Stmt::Do(_) => {
                Err(Failed::new("it holds a statement that is not supported: blocks, imports or `do`"))
            }
        })
    }

    fn for_loop(
        &self,
        looping: &'t ast::Spanned<ast::ForLoop<'t>>,
        scope: &Rc<Scope<'t>>,
        out: &mut String,
    ) -> Res<Flow> {
        if looping.recursive {
            return Err(Failed::new("a recursive loop is not supported"));
        }
        let mut items = self.expr(&looping.iter, scope)?.items(&self.limits)?;
        self.limits.spend_items(items.len())?;
        if let Some(condition) = &looping.filter_expr {
            let mut kept = Vec::new();
            for item in items {
                let inner = Scope::within(scope);
                self.assign(&looping.target, item.clone(), &inner)?;
                if self.expr(condition, &inner)?.truth() {
                    kept.push(item);
                }
            }
            items = kept;
        }
        if items.is_empty() {
            return self.block(&looping.else_body, &Scope::within(scope), out);
        }
        let state = Rc::new(Loop { items, at: Cell::new(0), changed: RefCell::default() });
        for at in 0..state.items.len() {
            state.at.set(at);
            let inner = Scope::within(scope);
            inner.set("loop", Val::Loop(Rc::clone(&state)));
            self.assign(&looping.target, state.items[at].clone(), &inner)?;
            if matches!(self.block(&looping.body, &inner, out)?, Flow::Break) {
                break;
            }
        }
        Ok(Flow::On)
    }

    fn assign(&self, target: &'t Expr<'t>, value: Val<'t>, scope: &Rc<Scope<'t>>) -> Res<()> {
        // What is kept can be put into something else in the next round of a loop.
        value.check_depth(MAX_DEPTH, &self.limits)?;
        match target {
            Expr::Var(name) => scope.set(name.id, value),
            Expr::List(targets) => {
                let values = value.items(&self.limits)?;
                if values.len() != targets.items.len() {
                    let (found, wanted) = (values.len(), targets.items.len());
                    return Err(Failed::new(format!("{found} values do not go into {wanted} names")));
                }
                for (target, value) in targets.items.iter().zip(values) {
                    self.assign(target, value, scope)?;
                }
            }
            Expr::GetAttr(attr) => match self.expr(&attr.expr, scope)? {
                Val::Namespace(members) => {
                    if attr.name.starts_with('_') {
                        return Err(Failed::new("a namespace has no names that begin with `_`"));
                    }
                    set_member(&mut members.borrow_mut(), attr.name, value);
                }
                other => return Err(Failed::new(format!("a {} has no attributes to set", other.kind()))),
            },
            _ => return Err(Failed::new("this cannot be assigned to")),
        }
        Ok(())
    }

    /// What an expression comes to.
    pub(super) fn expr(&self, expr: &'t Expr<'t>, scope: &Rc<Scope<'t>>) -> Res<Val<'t>> {
        self.deeper(|| match expr {
            Expr::Var(name) => Self::variable(name.id, scope),
            Expr::Const(constant) => literal(&constant.value),
            Expr::List(list) => {
                let items: Vec<_> =
                    list.items.iter().map(|item| self.expr(item, scope)).collect::<Res<_>>()?;
                // The parser has no tuples; what the source has there tells.
                let is_list = self.source.as_bytes().get(list.span().start_offset as usize) == Some(&b'[');
                Ok(if is_list { Val::list(items) } else { Val::Tuple(Rc::new(items)) })
            }
            Expr::Map(map) => {
                let mut items: Vec<(Val<'t>, Val<'t>)> = Vec::new();
                for (key, value) in map.keys.iter().zip(&map.values) {
                    let (key, value) = (hashable(self.expr(key, scope)?)?, self.expr(value, scope)?);
                    let keys: Vec<_> = items.iter().map(|(known, _)| known.clone()).collect();
                    match Val::place(&keys, &key, &self.limits)? {
                        Some(place) => items[place].1 = value,
                        None => items.push((key, value)),
                    }
                }
                Ok(Val::Dict(Rc::new(items)))
            }
            Expr::UnaryOp(op) => {
                let value = self.expr(&op.expr, scope)?;
                match op.op {
                    UnaryOpKind::Not => Ok(Val::Bool(!value.truth())),
                    UnaryOpKind::Neg => ops::negated(&value),
                }
            }
            Expr::BinOp(op) => {
                let left = self.expr(&op.left, scope)?;
                match op.op {
                    BinOpKind::ScAnd if !left.truth() => Ok(left),
                    BinOpKind::ScOr if left.truth() => Ok(left),
                    BinOpKind::ScAnd | BinOpKind::ScOr => self.expr(&op.right, scope),
                    kind => ops::binary(kind, &left, &self.expr(&op.right, scope)?, &self.limits),
                }
            }
            Expr::Compare(compare) => {
                let mut left = self.expr(&compare.expr, scope)?;
                for next in &compare.ops {
                    let right = self.expr(&next.expr, scope)?;
                    let holds = ops::binary(comparison(next.op), &left, &right, &self.limits)?.truth();
                    if holds == matches!(next.op, CompareOpKind::NotIn) {
                        return Ok(Val::Bool(false));
                    }
                    left = right;
                }
                Ok(Val::Bool(true))
            }
            Expr::IfExpr(choice) => {
                if self.expr(&choice.test_expr, scope)?.truth() {
                    return self.expr(&choice.true_expr, scope);
                }
                match &choice.false_expr {
                    Some(other) => self.expr(other, scope),
                    None => Ok(Val::undefined("the inline if without an else")),
                }
            }
            Expr::Slice(slice) => {
                let value = self.expr(&slice.expr, scope)?;
                let bound = |bound: &'t Option<Expr<'t>>| match bound {
                    None => Ok(None),
                    Some(bound) => match self.expr(bound, scope)? {
                        Val::None => Ok(None),
                        bound => match bound.int() {
                            Some(bound) => Ok(Some(bound)),
                            None => Err(Failed::new("the bounds of a slice are whole numbers")),
                        },
                    },
                };
                let bounds = [bound(&slice.start)?, bound(&slice.stop)?, bound(&slice.step)?];
                ops::slice(&value, bounds, &self.limits)
            }
            Expr::GetAttr(attr) => self.attribute(&self.expr(&attr.expr, scope)?, attr.name),
            Expr::GetItem(item) => {
                let value = self.expr(&item.expr, scope)?;
                let key = self.expr(&item.subscript_expr, scope)?;
                self.item(&value, &key)
            }
            Expr::Call(call) => self.call(call, scope, None),
            Expr::Filter(filter) => {
                let value = match &filter.expr {
                    Some(inner) => self.expr(inner, scope)?,
                    None => return Err(Failed::new("a filter has nothing to filter")),
                };
                let args = self.args(&filter.args, scope)?;
                self.filter(filter.name, value, args)
            }
            Expr::Test(test) => {
                let value = self.expr(&test.expr, scope)?;
                let args = self.args(&test.args, scope)?;
                self.test(test.name, &value, &args.positional).map(Val::Bool)
            }
        })
    }

    /// `value` through the filters of `{% filter … %}` or `{% set x | … %}`.
    fn filtered(&self, filter: &'t Expr<'t>, value: Val<'t>, scope: &Rc<Scope<'t>>) -> Res<Val<'t>> {
        let Expr::Filter(filter) = filter else {
            return Err(Failed::new("a block has a filter that is none"));
        };
        let value = match &filter.expr {
            Some(inner) => self.filtered(inner, value, scope)?,
            None => value,
        };
        let args = self.args(&filter.args, scope)?;
        self.filter(filter.name, value, args)
    }

    fn variable(name: &'t str, scope: &Rc<Scope<'t>>) -> Res<Val<'t>> {
        if let Some(value) = scope.get(name) {
            return Ok(value);
        }
        const FUNCTIONS: [&str; 5] = ["range", "dict", "namespace", "raise_exception", "strftime_now"];
        if let Some(function) = FUNCTIONS.into_iter().find(|function| *function == name) {
            return Ok(Val::Function(function));
        }
        match name {
            "lipsum" | "cycler" | "joiner" | "self" => Err(Failed::new(format!("`{name}` is not supported"))),
            _ => Ok(Val::undefined(name)),
        }
    }

    /// `value.name`: an attribute, else an item.
    pub(super) fn attribute(&self, value: &Val<'t>, name: &str) -> Res<Val<'t>> {
        if let Some(own) = Self::own_attribute(value, name)? {
            return Ok(own);
        }
        match value {
            Val::Dict(items) => {
                Ok(Val::entry(items, &Val::str(name), &self.limits)?.unwrap_or_else(|| Val::undefined(name)))
            }
            Val::Undefined(of) => Err(Failed::new(format!("`{of}` is undefined, and so has no `{name}`"))),
            Val::Macro(_) | Val::Function(_) | Val::Method(_) | Val::Once(_) => {
                Err(Failed::new(format!("the attribute `{name}` of a {} is not supported", value.kind())))
            }
            _ if name.starts_with("__") => {
                Err(Failed::new(format!("the attribute `{name}` is not supported")))
            }
            _ => Ok(Val::undefined(name)),
        }
    }

    /// What Python's objects have themselves.
    fn own_attribute(value: &Val<'t>, name: &str) -> Res<Option<Val<'t>>> {
        if let Some(method) = methods::named(value, name) {
            return Ok(Some(Val::Method(Rc::new((value.clone(), method)))));
        }
        match value {
            Val::Namespace(members) => {
                let members = members.borrow();
                Ok(members.iter().find(|(known, _)| **known == *name).map(|(_, value)| value.clone()))
            }
            Val::Loop(state) => Self::loop_attribute(state, name),
            _ => Ok(None),
        }
    }

    fn loop_attribute(state: &Rc<Loop<'t>>, name: &str) -> Res<Option<Val<'t>>> {
        let (at, length) = (state.at.get() as i128, state.items.len() as i128);
        let neighbour = |at: i128| {
            let item = usize::try_from(at).ok().and_then(|at| state.items.get(at));
            item.cloned().unwrap_or_else(|| Val::undefined("there is no such item"))
        };
        Ok(Some(match name {
            "index" => Val::Int(at + 1),
            "index0" => Val::Int(at),
            "revindex" => Val::Int(length - at),
            "revindex0" => Val::Int(length - at - 1),
            "first" => Val::Bool(at == 0),
            "last" => Val::Bool(at == length - 1),
            "length" => Val::Int(length),
            // Of recursive loops alone, which are refused.
            "depth" => Val::Int(1),
            "depth0" => Val::Int(0),
            "previtem" => neighbour(at - 1),
            "nextitem" => neighbour(at + 1),
            "cycle" => Val::Method(Rc::new((Val::Loop(Rc::clone(state)), "cycle"))),
            "changed" => Val::Method(Rc::new((Val::Loop(Rc::clone(state)), "changed"))),
            _ => return Ok(None),
        }))
    }

    /// `value[key]`: an item, else an attribute.
    pub(super) fn item(&self, value: &Val<'t>, key: &Val<'t>) -> Res<Val<'t>> {
        if let Val::Undefined(of) = value {
            return Err(Failed::new(format!("`{of}` is undefined, and so has no items")));
        }
        let found = match (value, key.int()) {
            (Val::Dict(items), _) => Val::entry(items, key, &self.limits)?,
            (_, Some(index)) => ops::at(value, index, &self.limits)?,
            _ => None,
        };
        if let Some(found) = found {
            return Ok(found);
        }
        if let Val::Str(name) = key
            && let Some(own) = Self::own_attribute(value, name)?
        {
            return Ok(own);
        }
        Ok(Val::undefined("an item that is not there"))
    }
}

fn set_member<'t>(members: &mut Vec<(Rc<str>, Val<'t>)>, name: &str, value: Val<'t>) {
    match members.iter_mut().find(|(known, _)| **known == *name) {
        Some((_, known)) => *known = value,
        None => members.push((name.into(), value)),
    }
}

/// `key`, if a dictionary can have it.
fn hashable(key: Val<'_>) -> Res<Val<'_>> {
    match key {
        Val::Str(_) | Val::Int(_) | Val::Float(_) | Val::Bool(_) | Val::None | Val::Tuple(_) => Ok(key),
        other => Err(Failed::new(format!("a {} cannot be a key", other.kind()))),
    }
}

fn comparison(op: CompareOpKind) -> BinOpKind {
    match op {
        CompareOpKind::Eq => BinOpKind::Eq,
        CompareOpKind::Ne => BinOpKind::Ne,
        CompareOpKind::Lt => BinOpKind::Lt,
        CompareOpKind::Lte => BinOpKind::Lte,
        CompareOpKind::Gt => BinOpKind::Gt,
        CompareOpKind::Gte => BinOpKind::Gte,
        CompareOpKind::In | CompareOpKind::NotIn => BinOpKind::In,
    }
}

/// What a literal stands for.
fn literal<'t>(value: &minijinja::Value) -> Res<Val<'t>> {
    Ok(match value.kind() {
        ValueKind::None => Val::None,
        ValueKind::Bool => Val::Bool(value.is_true()),
        ValueKind::String => Val::str(value.as_str().unwrap_or_default()),
        ValueKind::Number if value.is_integer() => {
            Val::Int(i128::try_from(value.clone()).map_err(|_| Failed::new("a number is too large"))?)
        }
        ValueKind::Number => {
            Val::Float(f64::try_from(value.clone()).map_err(|_| Failed::new("a number is unreadable"))?)
        }
        other => return Err(Failed::new(format!("a literal {other} is not supported"))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_that_holds_itself_goes_with_the_rendering() {
        let source =
            "{% set n = namespace() %}{% set n.own = n %}{% for x in [n] %}{% set n.l = loop %}{% endfor %}";
        let ast = minijinja::machinery::parse(
            source,
            "test",
            minijinja::syntax::SyntaxConfig,
            minijinja::machinery::WhitespaceConfig::default(),
        )
        .expect("a template");
        let Stmt::Template(template) = &ast else { panic!("no template") };
        let render = Render::new(source, None);
        render.template(&template.children, Vec::new()).expect("renders");
        let namespace = Rc::downgrade(&render.namespaces.borrow()[0]);
        drop(render);
        assert!(namespace.upgrade().is_none());
    }
}
